"""Reading, writing and listing through a mount, beside the raw client on the same server.

python -m bench.throughput [--runs N] [--mib SIZE] [--out FILE]

Starts a real Swift on loopback, takes allasfs and curl in turn (each read from a fresh mount, so
that no cache of the kernel helps), and prints medians and the ratio to curl as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from allasfs import __version__
from allasfs.demo import Cloud

MIB = 1024 * 1024
LISTED = 5000


class Bench:
    """One server, one mount point, and the measured seconds by task."""

    def __init__(self, cloud: Cloud, folder: Path, mib: int) -> None:
        self._cloud = cloud
        self._mount_point = folder / "mnt"
        self._mount_point.mkdir()
        self._source = folder / "source.bin"
        self._mib = mib
        self._env = {**os.environ, **cloud.environ}
        self._url = f"{cloud.storage_url}/bench"
        self._auth = f"X-Auth-Token: {cloud.token().id}"
        self.seconds: dict[str, list[float]] = {}
        with self._source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(MIB))

    def prepare(self) -> None:
        """Make the bucket, the file to be read and the objects to be listed."""
        self._curl("-X", "PUT")
        self._curl("-T", str(self._source), key="/read.bin")
        with tempfile.TemporaryDirectory() as folder:
            for number in range(LISTED):
                (Path(folder) / f"{number:05d}").write_bytes(b"x")
            pack = ["tar", "-C", folder, "-cf", f"{folder}.tar", "."]
            subprocess.run(pack, check=True)
            self._curl("-X", "PUT")
            url = f"{self._cloud.storage_url}/listed?extract-archive=tar"
            self._run(["curl", "-sf", "-H", self._auth, "-T", f"{folder}.tar", url])
            os.unlink(f"{folder}.tar")

    def round(self) -> None:
        """Do every task once, allasfs and the raw client in turn."""
        target = self._mount_point / "bench"
        self._mounted("read", lambda: self._run(["cat", str(target / "read.bin")]))
        self._timed("read curl", lambda: self._curl(key="/read.bin"))
        self._mounted("write", lambda: self._run(["cp", str(self._source), str(target / "w.bin")]))
        self._timed("write curl", lambda: self._curl("-T", str(self._source), key="/w2.bin"))
        self._mounted("ls -l", lambda: self._run(["ls", "-l", str(self._mount_point / "listed")]))
        url = f"{self._cloud.storage_url}/listed?format=json"
        self._timed("ls -l curl", lambda: self._run(["curl", "-sf", "-H", self._auth, url]))

    def _mounted(self, task: str, work: Callable[[], None]) -> None:
        program = [sys.executable, "-m", "allasfs"]
        self._run([*program, "mount", str(self._mount_point)])
        try:
            self._timed(task, work)
        finally:
            self._run([*program, "umount", str(self._mount_point)])

    def _timed(self, task: str, work: Callable[[], None]) -> None:
        began = time.perf_counter()
        work()
        self.seconds.setdefault(task, []).append(time.perf_counter() - began)

    def _curl(self, *words: str, key: str = "") -> None:
        self._run(["curl", "-sf", "-H", self._auth, *words, self._url + key])

    def _run(self, command: list[str]) -> None:
        subprocess.run(command, check=True, env=self._env, stdout=subprocess.DEVNULL)

    def results(self) -> dict[str, object]:
        """Return medians, spread, MB/s and the ratio of curl's time to ours."""
        table: dict[str, object] = {}
        for task, seconds in self.seconds.items():
            median = statistics.median(seconds)
            row = {"median_s": median, "min_s": min(seconds), "max_s": max(seconds)}
            if not task.startswith("ls"):
                row["mb_per_s"] = self._mib * MIB / 1e6 / median
            if raw := self.seconds.get(f"{task} curl"):
                row["speed_of_curl"] = statistics.median(raw) / median
            table[task] = {name: round(value, 3) for name, value in row.items()}
        return table


def main() -> int:
    """Run the benchmark; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="allasfs-bench-") as name:
        folder = Path(name)
        with Cloud(folder / "store") as cloud:
            bench = Bench(cloud, folder, options.mib)
            bench.prepare()
            for _ in range(options.runs):
                bench.round()
    report = {
        "allasfs": __version__,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "runs": options.runs,
        "mib": options.mib,
        "results": bench.results(),
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.out:
        options.out.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
