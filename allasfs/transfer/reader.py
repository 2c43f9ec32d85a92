"""Reader: the bytes of one version of one object, fetched by ranges that run in parallel.

A read plans with its ``Window``, starts what is missing, and waits for its own bytes only. All
bytes belong to the version that was pinned at open: the store refuses others (If-Match), and what
the answer says of itself is compared; a replaced object is Stale, never a mix. A file that is read
from its start to its end is checked against its MD5 before the last bytes are handed out.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import random
import re
import threading
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Mapping
from concurrent.futures import Executor

from allasfs.deadline import Clock, Deadline, current, sharing
from allasfs.errors import (
    BadHandle,
    Corrupt,
    FsError,
    Internal,
    NotFound,
    Stale,
    TimedOut,
    Unavailable,
)
from allasfs.store.api import PIECE_BYTES, Kind, ObjectInfo, Store
from allasfs.transfer.blocks import Extent, Memory
from allasfs.transfer.readahead import FETCHED_WHOLE, TOLERANCE, Window, ranges

log = logging.getLogger(__name__)

_MD5 = re.compile(r"[0-9a-f]{32}")
# Before a body that broke off is asked for again; doubled, with jitter, while no byte comes.
RESUME_WAIT_S = 0.1
LONGEST_WAIT_S = 8.0
# The kernel asks up to three times in a row for a page before it tells a program that it failed:
# for its own reading ahead, with other pages, and alone. Only the first shall wait: a failure that
# took longer than this is repeated for this long.
REPEAT_S = 0.5

_numbers = itertools.count()


# What is told of a version in a bucket beside its bytes.
Learn = Callable[[str, ObjectInfo, Mapping[str, str]], None]


def _learn_nothing(bucket: str, info: ObjectInfo, metadata: Mapping[str, str]) -> None:
    pass


class Reader:
    """One pinned version; shared by all handles of an open file. Any thread may read."""

    def __init__(
        self,
        store: Store,
        memory: Memory,
        pool: Executor,
        bucket: str,
        info: ObjectInfo,
        *,
        timeout_s: float,
        learn: Learn = _learn_nothing,
        clock: Clock = time.monotonic,
    ) -> None:
        """``learn`` is told of the metadata that comes with the bytes, once."""
        self._store = store
        self._memory = memory
        self._pool = pool
        self._bucket = bucket
        self.info = info
        self._timeout_s = timeout_s
        self._learn = learn
        self._clock = clock
        self._number = next(_numbers)
        # Leaf lock for the extents' index and the checksum.
        self._lock = threading.Lock()
        self._starts: list[int] = []  # guarded by _lock; of all known extents, in order
        self._in_flight: dict[int, Extent] = {}  # guarded by _lock
        self._ended: FsError | None = None  # guarded by _lock
        # Until when a failure is repeated instead of waited for again; guarded by _lock.
        self._silent_until = 0.0
        self._is_checked = info.kind is Kind.PLAIN and bool(_MD5.fullmatch(info.etag))
        # Held while bytes are hashed; _lock may be taken inside it.
        self._hashing = threading.Lock()
        self._md5 = hashlib.md5(usedforsecurity=False)  # guarded by _hashing
        self._hashed = 0  # changed under both locks
        # A small one takes part in no share: it takes one range, or none.
        self._shares = info.size > FETCHED_WHOLE
        if self._shares:
            memory.join()

    @property
    def subject(self) -> str:
        """The object, for messages."""
        return f"{self._bucket}/{self.info.key}"

    def begin(self) -> bool:
        """Fetch all of a small object before anybody reads; return whether there is memory."""
        with self._lock:
            if not self._memory.try_begin(self.info.size):
                return False
            self._leave(self._known(0, self.info.size))
            return True

    def moved(self, bucket: str, info: ObjectInfo) -> None:
        """The same bytes have another name now (rename)."""
        with self._lock:
            self._bucket, self.info = bucket, info

    def end(self, why: FsError) -> None:
        """Answer every later read with ``why`` (the object was replaced or removed)."""
        with self._lock:
            self._ended = why

    def close(self) -> None:
        """Stop what is being fetched and forget what was."""
        self.end(BadHandle(self.subject))
        with self._lock:
            starts, self._starts = self._starts, []
            in_flight = list(self._in_flight.values())
        for extent in in_flight:
            extent.abandon()
        for start in starts:
            self._memory.drop((self._number, start))
        if self._shares:
            self._memory.leave()

    def read(self, window: Window, offset: int, length: int) -> bytes:
        """Return ``length`` bytes, fewer only at the end of the file.

        Raises Stale, Corrupt, Unavailable, TimedOut, and BadHandle when it was closed.
        """
        stop = min(offset + length, self.info.size)
        if offset >= stop:
            return b""
        deadline = current(self._timeout_s)
        extents, own = self._extents(window, offset, stop, deadline)
        pieces: list[bytes] = []
        began = self._clock()
        if own is not None:
            self._fetch(own, deadline)
        for extent in extents:
            last = min(stop, extent.stop)
            try:
                extent.wait(last, deadline, self.subject)
            except Unavailable:
                now = self._clock()
                if now - began > REPEAT_S:
                    with self._lock:
                        self._silent_until = now + REPEAT_S
                raise
            pieces += extent.slices(offset, last)
            offset, began = last, self._clock()
        self._check(stop)
        with self._lock:
            self._forget(window.position - TOLERANCE)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # -- extents ----------------------------------------------------------------------------------

    def _extents(
        self, window: Window, offset: int, stop: int, deadline: Deadline
    ) -> tuple[list[Extent], Extent | None]:
        """Return the extents that hold a span, after starting those that are missing, and the one
        that the caller has to fetch.
        """
        is_noted = False
        room = 0
        while True:
            with self._lock:
                refusal = self._refusal()
                if refusal is not None:
                    if room:
                        self._memory.end(room)
                    raise refusal
                if not is_noted:
                    most = self._memory.share()
                    ahead = min(window.read(offset, stop - offset, most=most), self.info.size)
                    if not offset and self.info.size <= FETCHED_WHOLE:
                        ahead = self.info.size
                    is_noted = True
                found, own, short = self._start(window, offset, stop, max(stop, ahead), room)
            if not short:
                return found, own
            # No room for a range that is needed now: wait for it outside the lock, and look again.
            self._memory.begin(short, deadline, self.subject)
            room = short

    def _refusal(self) -> FsError | None:
        """Return what is answered without asking the store (locked)."""
        if self._ended is None and self._clock() < self._silent_until:
            return Unavailable(self.subject, "the store gave no answer a moment ago")
        return self._ended

    def _start(
        self, window: Window, offset: int, stop: int, ahead: int, room: int
    ) -> tuple[list[Extent], Extent | None, int]:
        """Start what is missing (locked). Return the extents of the span, and of these the one that
        is left to the caller; or the bytes of room that are lacking. ``room`` was taken already.
        """
        own: Extent | None = None
        reach = self._reach(offset)
        wanted: list[tuple[int, int]] = []
        if reach < stop or (reach < ahead and window.is_low(reach)):
            for gap in self._gaps(offset, ahead):
                wanted += ranges(*gap, window.step)
        for start, end in wanted:
            count = end - start
            if room >= count:
                self._memory.end(room - count)
                room = 0
            elif not self._memory.try_begin(count):
                if start < stop:
                    if room:
                        self._memory.end(room)
                    self._leave(own)
                    return [], None, count
                break
            extent = self._known(start, end)
            if own is None and start < stop and len(extent) <= PIECE_BYTES:
                # It comes as one piece: a thread of the pool could hand out no part of it earlier.
                own = extent
            else:
                self._leave(extent)
        if room:
            self._memory.end(room)
        found: list[Extent] = []
        while offset < stop:
            held = self._at(offset)
            if held is None:
                # Evicted between planning and now: plan again.
                self._leave(own)
                return [], None, stop - offset
            found.append(held)
            offset = held.stop
        return found, own, 0

    def _known(self, start: int, stop: int) -> Extent:
        """Return a new extent, for which there is room (locked); whoever has it fetches it."""
        extent = Extent(start, stop)
        insort(self._starts, start)
        self._in_flight[start] = extent
        return extent

    def _leave(self, extent: Extent | None) -> None:
        """Let another thread fetch it."""
        if extent is not None:
            self._pool.submit(self._fetch, extent)

    def _at(self, offset: int) -> Extent | None:
        """Return the usable extent that holds an offset (locked); drop a useless one."""
        index = bisect_right(self._starts, offset) - 1
        if index < 0:
            return None
        start = self._starts[index]
        extent = self._in_flight.get(start) or self._memory.find((self._number, start))
        if extent is None or extent.is_failed:
            del self._starts[index]
            self._in_flight.pop(start, None)
            return None
        return extent if offset < extent.stop else None

    def _reach(self, offset: int) -> int:
        """Return the end of the bytes that are here or coming, without a gap, from an offset."""
        while (extent := self._at(offset)) is not None:
            offset = extent.stop
        return offset

    def _gaps(self, start: int, stop: int) -> list[tuple[int, int]]:
        gaps = []
        while start < stop:
            start = self._reach(start)
            index = bisect_right(self._starts, start)
            end = min(stop, self._starts[index]) if index < len(self._starts) else stop
            if start < end:
                gaps.append((start, end))
            start = end
        return gaps

    def _forget(self, before: int) -> None:
        """Drop extents that lie behind the reader (locked): the kernel has their pages."""
        while self._starts and self._starts[0] not in self._in_flight:
            start = self._starts[0]
            extent = self._memory.find((self._number, start))
            if extent is not None and (extent.stop > before or self._is_checked_later(extent)):
                return
            self._memory.drop((self._number, start))
            del self._starts[0]

    def _is_checked_later(self, extent: Extent) -> bool:
        return self._is_checked and self._hashed < extent.stop and self._hashed >= extent.start

    # -- the checksum -----------------------------------------------------------------------------

    def _check(self, stop: int) -> None:
        """Hash what follows on the hashed part, up to ``stop``; raise Corrupt at the end.

        A file that is not read in order is not checked: then nothing follows on. A read that finds
        another one hashing leaves its part to the next; only the last one waits.
        """
        is_last = stop == self.info.size
        if self._is_checked and self._hashing.acquire(blocking=is_last):
            try:
                self._hash(stop)
            finally:
                self._hashing.release()

    def _hash(self, stop: int) -> None:
        while self._is_checked and self._hashed < stop:
            with self._lock:
                extent = self._at(self._hashed)
            if extent is None or extent.filled <= self._hashed:
                return
            last = min(stop, extent.filled)
            for piece in extent.slices(self._hashed, last):
                self._md5.update(piece)
            with self._lock:
                self._hashed = last
        if self._is_checked and self._hashed == self.info.size:
            self._is_checked = False
            if self._md5.hexdigest() != self.info.etag:
                error = Corrupt(self.subject, "the bytes do not match the MD5 of the object")
                self.end(error)
                raise error

    # -- fetching, mostly in a thread of the pool -------------------------------------------------

    def _fetch(self, extent: Extent, deadline: Deadline | None = None) -> None:
        """Fetch an extent; within ``deadline`` for an operation, which others must not end."""
        try:
            if deadline is None:
                deadline = Deadline(self._timeout_s)
                extent.fetched_by(deadline)
            with sharing(deadline):
                self._fill(extent, deadline)
        except FsError as exc:
            extent.fail(exc)
        except BaseException as exc:
            log.exception("fetching %s", self.subject)
            extent.fail(Internal(self.subject, f"{type(exc).__name__} while fetching"))
        finally:
            self._memory.end(len(extent))
            with self._lock:
                is_known = self._in_flight.pop(extent.start, None) is extent
                if is_known and extent.is_done and self._ended is None:
                    self._memory.keep((self._number, extent.start), extent)

    def _fill(self, extent: Extent, deadline: Deadline) -> None:
        """Fetch an extent, by several requests when bodies break off."""
        wait_s = RESUME_WAIT_S
        while not extent.is_done and not extent.is_abandoned:
            before = extent.filled
            broken = self._stream(extent)
            if broken is None:
                continue
            if extent.filled > before:
                wait_s = RESUME_WAIT_S
            pause = wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
            wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            if deadline.left() <= pause:
                raise broken
            log.info("%s: resumed at %d in %.1f s", broken, extent.filled, pause)
            time.sleep(pause)

    def _stream(self, extent: Extent) -> Unavailable | None:
        """Fetch the rest of an extent; return why its body broke off, if it did.

        What the store raises before there is a body is final: it has asked again by itself as often
        as that may help.
        """
        bucket, info = self._bucket, self.info
        is_whole = extent.filled == 0 and extent.stop == info.size
        span = None if is_whole else (extent.filled, extent.stop)
        etag = info.etag if info.kind is Kind.PLAIN else ""
        is_answered = False
        try:
            with self._store.get(bucket, info.key, span=span, etag=etag) as body:
                is_answered = True
                if info.etag and body.info.etag != info.etag:
                    raise Stale(self.subject, "replaced by another client while open")
                if body.info.size != info.size:
                    # An ETag is of one content: this is a wrong answer, or (without) another one.
                    error = Unavailable if info.etag else Stale
                    raise error(self.subject, "the answer is of another size")
                learn, self._learn = self._learn, _learn_nothing
                learn(bucket, body.info, body.metadata)
                for piece in body:
                    extent.append(piece)
                    if extent.is_abandoned:
                        break
        except NotFound as exc:
            if self._stands():
                raise Unavailable(self.subject, "a segment of it is missing") from exc
            raise Stale(self.subject, "removed by another client while open") from exc
        except TimedOut:
            raise
        except Unavailable as exc:
            if not is_answered:
                raise
            return exc
        return None

    def _stands(self) -> bool:
        """Whether a large object is there: RGW says 404 also of a range in a missing segment."""
        if self.info.kind is Kind.PLAIN:
            return False
        try:
            return self._store.head(self._bucket, self.info.key).info.etag == self.info.etag
        except FsError:
            return False
