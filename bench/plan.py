"""Who is measured how often, and how long the rest will take. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bench.bars import ENDED_FIGURE, Bar
from bench.records import TOO_LONG, Key, Record

# The figure that stands for a task: the first of these that it has.
HEADLINES = ("seconds", "cold_seconds")

# A client that is so many times as slow as the fastest of all is ended, where it has worked for so
# long.
ENDED_FACTOR = 10.0
ENDED_S = 30.0
# As much longer than decides a bar: the next rounds may be slower.
DECIDED_FACTOR = 1.25
# What takes more than so many times what Pace says is measured so often.
RUNS = ((10.0, 1), (3.0, 2), (1.0, 3))
# Why what took longer than a limit is not measured again.
ENDED = "it was ended"
# What fails so often in succession is not tried again.
FAILURES = 2


def headline(figures: Mapping[str, float]) -> float | None:
    """Return the figure that stands for a task; None when there is none."""
    return next((figures[name] for name in HEADLINES if name in figures), None)


def in_turn(names: Sequence[str], run: int) -> list[str]:
    """Return who comes when in a round: each begins with another one."""
    shift = run % len(names) if names else 0
    return [*names[shift:], *names[:shift]]


@dataclass(frozen=True)
class Pace:
    """How long we have: a measurement that takes longer is repeated less often."""

    seconds: float = 2.0

    def why_not(self, run: int, took_s: float) -> str:
        """Return why a run is left out when one of them takes so long; empty when it is not."""
        for factor, runs in RUNS:
            if run >= runs and took_s > factor * self.seconds:
                return f"it takes longer than {factor * self.seconds:g} s"
        return ""


class Plan:
    """What is to be measured, judged by what was measured."""

    def __init__(
        self,
        records: Sequence[Record],
        earlier: Sequence[Record] = (),
        pace: Pace = Pace(),
    ) -> None:
        """``earlier`` are those of another run, for the estimate alone."""
        self._pace = pace
        self._records: dict[tuple[str, str], list[Record]] = {}
        for record in records:
            self._records.setdefault((record.line, record.task), []).append(record)
        # By task: of this run, then of the other.
        self._known: list[dict[str, list[Record]]] = [{}, {}]
        for known, found in zip(self._known, (records, earlier), strict=True):
            for record in found:
                known.setdefault(record.task, []).append(record)
        took = [record.took_s for record in (*records, *earlier)]
        self._mean_s = statistics.fmean(took) if took else None

    def why_not(self, line: str, task: str, client: str, run: int) -> str:
        """Return why a measurement is left out; empty when it is not."""
        mine = [record for record in self._of(line, task, client) if record.run < run]
        if any(TOO_LONG in record.error for record in mine):
            return ENDED
        if len(mine) >= FAILURES and all(record.error for record in mine[-FAILURES:]):
            return f"it failed {FAILURES} times in succession"
        return self._pace.why_not(run, min((record.took_s for record in mine), default=0.0))

    def limit_s(self, line: str, task: str, bars: Iterable[Bar] = ()) -> float:
        """Return after how long a client is ended: it is far slower than the fastest.

        No sooner than is certain that allasfs meets the ``bars`` beside it.
        """
        times = [
            value
            for record in self._on(line, task)
            # What mounts is compared with what mounts.
            if (value := headline(record.figures)) is not None and "idle_mib" in record.figures
        ]
        if not times:
            return math.inf
        decided = [
            DECIDED_FACTOR * record.figures[bar.figure] / bar.factor
            for bar in bars
            for record in self._of(line, task, bar.client)
            if bar.figure == ENDED_FIGURE and bar.figure in record.figures and line in bar.lines
        ]
        return max(ENDED_S, ENDED_FACTOR * min(times), *decided)

    def seconds(self, keys: Iterable[Key]) -> float | None:
        """Return about how long these measurements take; None when nothing is known."""
        if self._mean_s is None:
            return None
        total_s = 0.0
        for line, task, client, run in keys:
            likely_s = self._likely_s(line, task, client)
            if likely_s is None:
                likely_s = self._mean_s
            if not (self.why_not(line, task, client, run) or self._pace.why_not(run, likely_s)):
                total_s += likely_s
        return total_s

    def _likely_s(self, line: str, task: str, client: str) -> float | None:
        for known in self._known:
            same_task = known.get(task, [])
            for found in (
                [r.took_s for r in same_task if (r.client, r.line) == (client, line)],
                [r.took_s for r in same_task if r.client == client],
                [r.took_s for r in same_task],
            ):
                if found:
                    return statistics.median(found)
        return None

    def _on(self, line: str, task: str) -> list[Record]:
        return self._records.get((line, task), [])

    def _of(self, line: str, task: str, client: str) -> list[Record]:
        found = [record for record in self._on(line, task) if record.client == client]
        return sorted(found, key=lambda record: record.run)
