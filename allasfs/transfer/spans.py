"""Sets of half-open spans ``(start, stop)``: which parts of a file are here. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class Spans:
    """Disjoint spans in order; adjacent ones are joined."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    @classmethod
    def of(cls, spans: Iterable[tuple[int, int]]) -> Spans:
        """Return the set of these spans."""
        found = cls()
        for span in spans:
            found.add(*span)
        return found

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(zip(self._starts, self._stops, strict=True))

    @property
    def total(self) -> int:
        """Number of bytes in all spans."""
        return sum(self._stops) - sum(self._starts)

    def copy(self) -> Spans:
        """Return the same set, to be changed."""
        spans = Spans()
        spans._starts, spans._stops = list(self._starts), list(self._stops)
        return spans

    def add(self, start: int, stop: int) -> None:
        """Put a span in."""
        if start >= stop:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def cut(self, size: int) -> None:
        """Take out everything from ``size`` on."""
        keep = bisect_left(self._starts, size)
        del self._starts[keep:], self._stops[keep:]
        if self._stops and self._stops[-1] > size:
            self._stops[-1] = size

    def remove(self, start: int, stop: int) -> None:
        """Take a span out."""
        spans = [
            part
            for first, last in self
            for part in ((first, min(last, start)), (max(first, stop), last))
            if part[0] < part[1]
        ]
        self._starts = [first for first, _ in spans]
        self._stops = [last for _, last in spans]

    def covers(self, start: int, stop: int) -> bool:
        """Whether all of a span is in the set."""
        return not self.missing(start, stop)

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of a span that are not in the set, in order."""
        gaps = []
        for index in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[index] >= stop:
                break
            if self._starts[index] > start:
                gaps.append((start, self._starts[index]))
            start = max(start, self._stops[index])
        if start < stop:
            gaps.append((start, stop))
        return gaps
