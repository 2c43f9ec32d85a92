"""What a process uses, in time, and whether that grows."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

# Of the median of the second quarter, and on top of it: pools get their threads, of which there are
# as many as connections, one after the other.
GROWTH = 1.1
ALLOWANCE = {"rss_mib": 8.0, "fds": 6.0, "threads": 12.0}


@dataclass(frozen=True)
class Sample:
    """One look at a process."""

    mount: str
    seconds: float
    rss_mib: float
    fds: int
    threads: int


def sample(mount: str, pid: int, seconds: float) -> Sample:
    process = Path(f"/proc/{pid}")
    lines = (process / "status").read_text(encoding="ascii", errors="replace").splitlines()
    fields = dict(line.partition(":")[::2] for line in lines)
    return Sample(
        mount,
        round(seconds, 1),
        round(int(fields["VmRSS"].split()[0]) / 1024, 1),
        len(os.listdir(process / "fd")),
        int(fields["Threads"]),
    )


def medians(samples: Sequence[Sample]) -> dict[str, tuple[float, float]]:
    """Return the median of the second and of the last quarter of each figure."""
    quarter = max(1, len(samples) // 4)
    second, last = samples[quarter : 2 * quarter] or samples, samples[-quarter:]
    rows = [[asdict(each) for each in part] for part in (second, last)]
    return {
        name: (
            statistics.median(row[name] for row in rows[0]),
            statistics.median(row[name] for row in rows[1]),
        )
        for name in ALLOWANCE
    }


def growth(samples: Sequence[Sample]) -> list[str]:
    """Return what grows."""
    return [
        f"{samples[0].mount}: {name} grows from {before:g} to {after:g}"
        for name, (before, after) in medians(samples).items()
        if after > GROWTH * before + ALLOWANCE[name]
    ]
