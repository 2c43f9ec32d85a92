"""When to fetch what, for one reader of one file. Pure: no I/O, no clock, no lock.

What is fetched ahead follows what was read in a row: three times as much for a reader that began
at the start of the file, half as much after a jump, until that has proven to be a long read. So the
look at a header and blocks here and there cost little more than their bytes, and a long read soon
has several large ranges in flight. The kernel sends the reads of one program from several threads:
an offset somewhat before or after the expected one still counts as going forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from allasfs.config import KIB, MIB

# A file of at most this size is fetched whole with its first byte: more requests would cost more
# than the bytes (80 MB/s and 20 ms a request: 1.6 MB).
FETCHED_WHOLE = MIB
# Several ranges are in flight, but one is never smaller than this: below it the request costs more
# than the bytes (4 MiB ranges read 1 GiB at 0.55 of the speed of one stream on loopback).
SMALLEST_RANGE = MIB
# Larger ranges gain little (32 MiB: 0.8, 128 MiB: 0.85 of one stream) and cost memory.
LARGEST_RANGE = 16 * MIB
LARGEST_WINDOW = 64 * MIB
# Four ranges of a window: enough to fill a line of 20 ms and 80 MB/s a stream.
RANGES_IN_FLIGHT = 4
# Reads that overtake each other, and small gaps, are at most this far off: eight reads of the
# kernel's 128 KiB.
TOLERANCE = MIB
# Reads with gaps are in a row as long as they cover no more than so many times their bytes.
WIDEST_SPAN = 4
# One read of the kernel, and the smallest window.
KERNEL_READ = 128 * KIB
# After so many bytes in a row a read that began with a jump is a long one.
LONG_READ = 4 * MIB


@dataclass
class Window:
    """Where a reader is, and how far ahead of it may be fetched."""

    # What was read in a row: from where, to where, and how many bytes of it.
    began: int = -1
    position: int = 0
    count: int = 0
    ahead: int = 0
    # How much of that one request is to fetch.
    step: int = 0
    # Whether memory, not what was read, limits it.
    is_short: bool = False

    def read(self, offset: int, length: int, *, most: int) -> int:
        """Note a read, and return the offset up to which bytes should be on their way.

        ``most`` is what the reader may have in memory now: half of it ahead, for what is being read
        is as long as what is fetched at a time.
        """
        stop = offset + length
        if not self._goes_on(offset, stop, length):
            self.began, self.position, self.count = offset, stop, length
            # A header may be anywhere in a file, but mostly it is at its start.
            wanted = 0 if offset else KERNEL_READ
        else:
            self.began = min(self.began, offset)
            self.position = max(self.position, stop)
            # What is read again is no progress.
            self.count = min(self.count + length, self.position - self.began)
            is_long = self.began == 0 or self.count >= LONG_READ
            wanted = max(3 * self.count if is_long else self.count // 2, KERNEL_READ)
        room = most // 2
        self.is_short = min(wanted, LARGEST_WINDOW) > room
        self.ahead = max(0, min(wanted, LARGEST_WINDOW, room))
        # Where memory is short several read at once: fewer requests then instead of more streams.
        self.step = self.ahead // (2 if self.is_short else RANGES_IN_FLIGHT)
        if not self.ahead:
            return stop
        # Where reads of the kernel end: later ones are then whole pieces of what is fetched.
        return max(stop, (self.position + self.ahead) // KERNEL_READ * KERNEL_READ)

    def _goes_on(self, offset: int, stop: int, length: int) -> bool:
        if self.began < 0 or abs(offset - self.position) > TOLERANCE:
            return False
        span = max(self.position, stop) - min(self.began, offset)
        return span <= WIDEST_SPAN * (self.count + length)

    def is_low(self, reach: int) -> bool:
        """Whether so little is left up to ``reach`` that the next ranges should be asked for.

        A long read asks for one as soon as there is room for it: so many are always under way.
        """
        left = reach - self.position
        if self.step >= SMALLEST_RANGE and not self.is_short:
            return left <= self.ahead - self.step
        return left < self.ahead // 3


def ranges(start: int, stop: int, step: int) -> list[tuple[int, int]]:
    """Cut a span into ranges of about this size, each one request."""
    wanted = min(max(step, SMALLEST_RANGE), LARGEST_RANGE)
    count = max((stop - start) // wanted, -(-(stop - start) // LARGEST_RANGE), 1)
    step = -(-(stop - start) // (count * KERNEL_READ)) * KERNEL_READ
    return [(first, min(first + step, stop)) for first in range(start, stop, max(step, 1))]
