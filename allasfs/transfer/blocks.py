"""Bytes of objects in memory: extents being fetched, and a bounded cache of fetched ones.

An extent is one span of one version, filled from its start by a fetcher thread while readers wait
for just the bytes they need. At most half of the memory budget is for extents in flight (waiting
for room counts against the reader's deadline), the rest for finished ones: the least recently used
go first.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable

from cachetools import LRUCache

from allasfs import heap
from allasfs.config import MIB
from allasfs.deadline import Deadline
from allasfs.errors import BadHandle, FsError, TimedOut
from allasfs.store.api import PIECE_BYTES

# So much must have been fetched before it is worth a look for free room.
WORTH_TRIMMING = 16 * MIB


class Extent:
    """A span of an object: immutable position, content that grows until it is done."""

    def __init__(self, start: int, stop: int) -> None:
        self.start = start
        self.stop = stop
        self._pieces: list[bytes] = []
        self._filled = start
        self._error: FsError | None = None
        self._abandoned = False
        self._fetching: Deadline | None = None
        # Guards all of the above; a leaf.
        self._changed = threading.Condition(threading.Lock())

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def filled(self) -> int:
        """The offset in the object up to which bytes are here."""
        return self._filled

    @property
    def is_done(self) -> bool:
        """Whether every byte is here."""
        return self._filled == self.stop

    @property
    def is_failed(self) -> bool:
        """Whether the rest will not come."""
        return self._error is not None or (self._abandoned and not self.is_done)

    def abandon(self) -> None:
        """Nobody wants the rest any more: its fetcher stops at the next piece or attempt."""
        with self._changed:
            self._abandoned = True
            if self._fetching is not None:
                self._fetching.end()
            self._changed.notify_all()

    def fetched_by(self, deadline: Deadline) -> None:
        """Note the deadline of the fetcher: it is over when the extent is abandoned."""
        with self._changed:
            self._fetching = deadline

    @property
    def is_abandoned(self) -> bool:
        """Whether the fetcher should stop."""
        return self._abandoned

    def append(self, piece: bytes) -> None:
        """Add the next piece and wake the readers."""
        with self._changed:
            self._pieces.append(piece)
            self._filled += len(piece)
            self._changed.notify_all()

    def fail(self, error: FsError) -> None:
        """Tell the readers that the rest will not come."""
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def wait(self, stop: int, deadline: Deadline, subject: str) -> None:
        """Return when the bytes before ``stop`` are here; raise the fetcher's error or TimedOut,
        BadHandle when the extent is abandoned.

        Bytes that come are progress of the reader's operation, although another thread moves them.
        """
        with self._changed:
            filled = self._filled
            while self._filled < stop:
                if self._abandoned:
                    # Before the error: its fetcher fails for that reason.
                    raise BadHandle(subject, "its bytes are not wanted any more")
                if self._error is not None:
                    raise self._error
                if self._filled != filled:
                    filled = self._filled
                    deadline.progress()
                if not self._changed.wait(deadline.left()) and deadline.left() <= 0:
                    raise TimedOut(
                        subject, f"no bytes from the store within {deadline.seconds:g} s"
                    )
            deadline.progress()

    def slices(self, start: int, stop: int) -> list[bytes]:
        """Return the bytes of a span that is filled, as pieces to be joined."""
        pieces = []
        while start < stop:
            index, skip = divmod(start - self.start, PIECE_BYTES)
            piece = self._pieces[index]
            taken = min(len(piece) - skip, stop - start)
            pieces.append(piece if taken == len(piece) else piece[skip : skip + taken])
            start += taken
        return pieces


class Memory:
    """The budget of all readers of a mount: what is being fetched has at most half of it, and what
    was fetched is kept in the rest.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        # Guards all that follows; a leaf.
        self._room = threading.Condition(threading.Lock())
        self._in_flight = 0
        self._readers = 0
        self._fetched = 0  # since the heap was trimmed
        # Finished extents by (reader, start).
        self._done: LRUCache[Hashable, Extent] = LRUCache(limit, getsizeof=len)

    @property
    def in_flight(self) -> int:
        """Bytes of the extents that are being fetched."""
        return self._in_flight

    @property
    def cached(self) -> int:
        """Bytes of the finished extents."""
        with self._room:
            return int(self._done.currsize)

    @property
    def held(self) -> int:
        """Bytes of all extents at one moment, in flight and finished."""
        with self._room:
            return self._in_flight + int(self._done.currsize)

    def join(self) -> None:
        """One more reader shares the memory."""
        with self._room:
            self._readers += 1

    def leave(self) -> None:
        """A reader is gone; after the last one, free memory goes back to the system."""
        with self._room:
            self._readers -= 1
            is_idle = not self._readers and self._fetched >= WORTH_TRIMMING
            if is_idle:
                self._fetched = 0
        if is_idle:
            heap.trim()

    def share(self) -> int:
        """Return how many bytes one reader may have here, fetched and under way."""
        with self._room:
            return self.limit // max(1, self._readers)

    def try_begin(self, count: int) -> bool:
        """Take room for an extent if there is some: for fetching ahead."""
        with self._room:
            return self._begin(count)

    def begin(self, count: int, deadline: Deadline, subject: str) -> None:
        """Take room for an extent that a reader needs now; wait for it; raise TimedOut."""
        with self._room:
            while not self._begin(count):
                if not self._room.wait(deadline.left()) and deadline.left() <= 0:
                    raise TimedOut(subject, f"no memory free within {deadline.seconds:g} s")

    def _begin(self, count: int) -> bool:
        if self._in_flight and self._in_flight + count > self.limit // 2:
            return False
        self._in_flight += count
        self._make_room(0)
        return True

    def _make_room(self, count: int) -> None:
        """Forget what was used longest ago, until so many bytes have room."""
        while self._done and self._done.currsize + self._in_flight + count > self.limit:
            self._done.popitem()

    def end(self, count: int) -> None:
        """Give the room of an extent back: it is done, or it failed."""
        with self._room:
            self._in_flight -= count
            self._fetched += count
            self._room.notify_all()

    def keep(self, key: Hashable, extent: Extent) -> None:
        """Keep a finished extent while there is room."""
        with self._room:
            if self._in_flight + len(extent) <= self.limit:
                self._make_room(len(extent))
                self._done[key] = extent

    def find(self, key: Hashable) -> Extent | None:
        """Return a finished extent and count it as used."""
        with self._room:
            return self._done.get(key)

    def drop(self, key: Hashable) -> None:
        """Forget a finished extent."""
        with self._room:
            self._done.pop(key, None)
