"""When to fetch what, for one reader of one file. Pure: no I/O, no clock, no lock.

A reader that goes forward gets a window that doubles with each refill, so that a long read soon
has several large ranges in flight; one that jumps gets what it asked for and little more. The
kernel sends the reads of one program from several threads, so a read may overtake the one before
it: an offset somewhat before or after the expected one still counts as going forward.
"""

from __future__ import annotations

from dataclasses import dataclass

from allasfs.config import KIB, MIB

# The first read at the start of a file: enough that small files take one request, not so much that
# a look at the header of a large file costs more than the request itself.
FIRST_WINDOW = MIB
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
# The window after the first read that follows on a jump: one read of the kernel.
KERNEL_READ = 128 * KIB


@dataclass
class Window:
    """Where a reader is, and how far ahead of it may be fetched."""

    position: int = 0
    size: int = FIRST_WINDOW
    # What the memory budget allows of the size.
    ahead: int = FIRST_WINDOW
    # Whether anything was read yet: a reader that begins inside the file is not yet going forward.
    has_read: bool = False

    def read(self, offset: int, length: int, *, most: int) -> int:
        """Note a read, and return the offset up to which bytes should be on their way.

        ``most`` is the largest window that the memory budget allows now.
        """
        goes_on = self.position - TOLERANCE <= offset <= self.position + TOLERANCE
        stop = offset + length
        if not self.has_read and offset:
            goes_on = False
        self.has_read = True
        if not goes_on:
            self.position, self.size, self.ahead = stop, 0, 0
            return stop
        self.position = max(self.position, stop)
        if self.size == 0:
            # The second read in a row after a jump: start small.
            self.size = KERNEL_READ
        self.ahead = min(self.size, most)
        # Where reads of the kernel end: later ones are then whole pieces of what is fetched.
        return max(stop, (self.position + self.ahead) // KERNEL_READ * KERNEL_READ)

    def is_low(self, reach: int) -> bool:
        """Whether so little is left up to ``reach`` that the next ranges should be asked for."""
        return reach - self.position < self.ahead // 2

    def refilled(self) -> None:
        """The window was used up and asked for again: let it grow."""
        self.size = min(self.size * 2, LARGEST_WINDOW)


def ranges(start: int, stop: int, window: int) -> list[tuple[int, int]]:
    """Cut a span into ranges of about one size, each one request."""
    wanted = min(max(window // RANGES_IN_FLIGHT, SMALLEST_RANGE), LARGEST_RANGE)
    count = max((stop - start) // wanted, -(-(stop - start) // LARGEST_RANGE), 1)
    step = -(-(stop - start) // (count * KERNEL_READ)) * KERNEL_READ
    return [(first, min(first + step, stop)) for first in range(start, stop, max(step, 1))]
