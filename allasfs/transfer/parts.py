"""Which parts of a file are stored as segments, and what a new version of it sends. Pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass

from allasfs.store.api import Segment


@dataclass
class Part:
    """A span of a file for which there is a segment, or one on its way."""

    start: int
    stop: int
    # Where the segment's first byte lies in the file: before ``start`` when a part was cut off.
    origin: int
    segment: Segment | None = None
    # A copy of the segment that the next version has for itself.
    copied: Segment | None = None
    # Under which name it is sent.
    key: str = ""
    # Sent for the next version; else of the stored one.
    is_own: bool = False
    # Written over or cut since: the segment is good for what is not local only.
    is_touched: bool = False
    is_sending: bool = False

    @property
    def is_good(self) -> bool:
        """Whether the segment is this part of the file."""
        return self.segment is not None and not self.is_touched


@dataclass(frozen=True)
class Task:
    """A segment of the next version: one that is stored (``part``), or one to be sent."""

    start: int
    stop: int
    part: Part | None = None


class Parts:
    """The parts of one file, disjoint and in order. Not thread-safe."""

    def __init__(self) -> None:
        self._parts: list[Part] = []

    def __len__(self) -> int:
        return len(self._parts)

    @property
    def all(self) -> list[Part]:
        """The parts in order."""
        return list(self._parts)

    @property
    def end(self) -> int:
        """Where the last part ends."""
        return self._parts[-1].stop if self._parts else 0

    def clear(self) -> None:
        """Forget all."""
        self._parts = []

    def add(self, part: Part) -> None:
        """Put a part in; what others have of its span is cut out of them."""
        kept: list[Part] = []
        for old in self._parts:
            if old.stop <= part.start or part.stop <= old.start:
                kept.append(old)
                continue
            # Its upload may still be under way: whatever comes of it is of no use.
            old.is_touched = True
            for start, stop in ((old.start, part.start), (part.stop, old.stop)):
                if start < stop and old.segment is not None:
                    rest = Part(start, stop, old.origin, old.segment, is_own=old.is_own)
                    rest.is_touched = True
                    kept.append(rest)
        kept.append(part)
        self._parts = sorted(kept, key=lambda each: each.start)

    def remove(self, part: Part) -> None:
        """Take a part out, if it is in."""
        self._parts = [each for each in self._parts if each is not part]

    def overlapping(self, start: int, stop: int) -> list[Part]:
        """Return the parts that have bytes of a span."""
        first = max(0, bisect_right(self._parts, start, key=lambda part: part.start) - 1)
        found = []
        for part in self._parts[first:]:
            if part.start >= stop:
                break
            if part.stop > start:
                found.append(part)
        return found

    def touch(self, start: int, stop: int) -> None:
        """Note that a span is written over."""
        for part in self.overlapping(start, stop):
            part.is_touched = True

    def cut(self, size: int) -> None:
        """Note that the file ends here, for now."""
        while self._parts and self._parts[-1].start >= size:
            self._parts.pop().is_touched = True
        if self._parts and self._parts[-1].stop > size:
            last = self._parts[-1]
            last.stop, last.is_touched = size, True

    def plan(self, size: int, step: Callable[[int], int], most: int) -> list[Task]:
        """Return the segments of a file of this size: good parts stay, the rest is to be sent.

        ``step`` tells the size of a new segment by the number of those before it. Where more than
        ``most`` come out, all is sent again, in equal segments. Nothing may be on its way.
        """
        good = [part for part in self._parts if part.is_good]
        _merge_tail(good, size, step)
        tasks: list[Task] = []
        position = 0
        for part in [*good, None]:
            stop = part.start if part is not None else size
            while position < stop:
                last = min(stop, position + step(len(tasks)))
                tasks.append(Task(position, last))
                position = last
            if part is not None:
                tasks.append(Task(part.start, part.stop, part))
                position = part.stop
        if len(tasks) <= most:
            return tasks
        even = -(-size // most)
        return [Task(start, min(start + even, size)) for start in range(0, size, even)]


def _merge_tail(good: list[Part], size: int, step: Callable[[int], int]) -> None:
    """Give up the last parts of the stored version while they are small beside what follows them.

    Many small appends would make many small segments; so each byte is sent again only as often as
    the tail has doubled.
    """
    while good and not good[-1].is_own:
        held = good[-1].stop - good[-1].start
        tail = size - good[-1].stop
        if tail <= 0 or held >= min(2 * tail, step(len(good) - 1)):
            return
        good.pop()
