"""Draft: a file that is being written: its local bytes, and the segments that are sent already.

Finished parts of a file that is written in order go up while it is still written; the room that
they take in the spool is given back when somebody needs it, and they are read from their segments
then. What is changed of a large object leaves its other segments as they are.

Locks: the open file's lock guards against two callers at a time. ``_lock`` comes after it and
guards what the uploads' threads share with them, the note on the disk included. Then come the
leaves: the spool file's, then the spool's.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from allasfs.config import MIB
from allasfs.errors import FileTooBig, FsError, NoSpace, Unavailable
from allasfs.store import large
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer import notes
from allasfs.transfer.checksum import Bytes
from allasfs.transfer.notes import KEPT, PENDING, WRITING, Note
from allasfs.transfer.parts import Part, Task
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from allasfs.transfer.segments import Segments
from allasfs.transfer.sending import Sending
from allasfs.transfer.spoolfile import SpoolFile

log = logging.getLogger(__name__)

# What the store alone has is fetched by this much.
FILL_BYTES = MIB
# A spool in which nothing else can move takes shorter segments than planned, down to this.
SHORTEST_BYTES = 256 * 1024
# How many of its own segments a file reads from at a time.
MOST_READERS = 2

# Returns bytes of the stored version, or raises Stale.
Fetch = Callable[[int, int], bytes]


def nothing() -> None:
    """Do nothing."""


class Guard(Protocol):
    """A lock that its thread may take again."""

    def acquire(self, blocking: bool = True) -> bool:
        """Take it, or return False."""

    def release(self) -> None:
        """Let it go."""


class Draft(Segments):
    """The next version of one object."""

    def __init__(
        self,
        sending: Sending,
        file: SpoolFile,
        bucket: str,
        key: str,
        base: ObjectInfo | None,
        guard: Guard,
    ) -> None:
        """``base`` is the version that is changed, of which nothing is local yet.

        ``guard`` is the open file's lock.
        """
        super().__init__(sending, file, Note(WRITING, bucket, key, base=base))
        self._guard = guard
        # What the store has of the base, while it is asked.
        self._looking: Future[large.Found] | None = None
        # Whether parts that could not be sent while it was written wait for another attempt.
        self._is_behind = False
        # What of the base is still a part of the file.
        self._base_stop = base.size if base is not None else 0
        self._is_base_known = base is None
        self._readers: dict[str, tuple[Reader, Window]] = {}
        if base is not None:
            file.adopt(base.size)
        file.spool.join(self)

    @classmethod
    def restored(
        cls, sending: Sending, file: SpoolFile, note: Note, guard: Guard | None = None
    ) -> Draft:
        """Return the draft that a note describes."""
        draft = cls(sending, file, note.bucket, note.key, note.base, guard or threading.RLock())
        file.size = note.size
        # What of it was only fetched is not noted.
        file.changed = file.local()
        draft._base_stop = min(draft._base_stop, note.size)
        for part in note.parts:
            draft._parts.add(part)
            draft._attempts[part.start] += 1
        draft._stored = list(note.stored)
        draft._note = note
        if note.has_segments:
            draft._layout = large.Layout(note.container, note.prefix)
            draft._is_base_known = draft._has_container = True
            # What was stored in the moment of the crash is not in the note.
            draft._has_failed = True
        draft.is_owed = draft._is_taken = True
        return draft

    # -- what it is -------------------------------------------------------------------------------

    @property
    def is_large(self) -> bool:
        """Whether the next version is to be a large object."""
        if self.size > self._sending.threshold(self.file.spool):
            return True
        with self._lock:
            own = [part for part in self._parts.all if part.is_own and not part.is_touched]
            # What the store did not take needs no manifest.
            return any(part.is_sending or part.segment is not None for part in own)

    def absent(self) -> int:
        """Return how many bytes are not local."""
        return sum(stop - start for start, stop in self.file.missing(0, self.size))

    # -- reading ----------------------------------------------------------------------------------

    def read(self, start: int, stop: int, fetch: Fetch) -> bytes:
        """Return the bytes of a span that lies in the file."""
        found = []
        for first, last, data in self.file.pieces(start, stop):
            if data is None:
                data = b"".join(self._stored_bytes(first, last, fetch))
                if self._is_small():
                    # Else it would be fetched a second time for the upload.
                    with suppress(NoSpace):
                        self.file.fill(first, data, wait=False)
            found.append(data)
        return found[0] if len(found) == 1 else b"".join(found)

    def _is_small(self) -> bool:
        base = self.base
        return base is not None and base.kind is Kind.PLAIN and not self._layout

    def _stored_bytes(self, start: int, stop: int, fetch: Fetch) -> Iterator[bytes]:
        """Yield bytes that are not local: of own segments, or of the stored version."""
        with self._lock:
            own = [part for part in self._parts.overlapping(start, stop) if part.is_own]
        for part in own:
            if start < part.start:
                yield fetch(start, part.start)
                start = part.start
            last = min(stop, part.stop)
            if part.segment is not None:
                span = (start - part.origin, last - part.origin)
                yield self._read_segment(part.segment, *span)
            start = last
        if start < stop:
            yield fetch(start, stop)

    def _read_segment(self, segment: Segment, start: int, stop: int) -> bytes:
        entry = self._readers.pop(segment.key, None) or (self._sending.reader(segment), Window())
        self._readers[segment.key] = entry
        while len(self._readers) > MOST_READERS:
            self._readers.pop(next(iter(self._readers)))[0].close()
        reader, window = entry
        return reader.read(window, start, stop - start)

    def _close_readers(self) -> None:
        readers, self._readers = self._readers, {}
        for reader, _ in readers.values():
            reader.close()

    def fill(self, start: int, stop: int, fetch: Fetch) -> None:
        """Make all of a span local; from now on none of its room is given back.

        What is fetched to be sent again would be a hole before it is on its way.
        """
        with self._lock:
            self._parts.touch(start, stop)
        for first, last in self.file.missing(start, stop):
            for begin in range(first, last, FILL_BYTES):
                end = min(begin + FILL_BYTES, last)
                self.file.fill(begin, b"".join(self._stored_bytes(begin, end, fetch)))

    # -- changing ---------------------------------------------------------------------------------

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of ``data``, or nothing and raise NoSpace, FileTooBig."""
        stop = offset + len(data)
        if not data:
            return
        self._is_taken = False
        with self._lock:
            self._parts.touch(offset, stop)
        self._check_count(stop)
        try:
            self.file.write(offset, data)
        except NoSpace as exc:
            if self._is_refused:
                # The store does not take it: that is why there is no room.
                raise self._refusal or exc from exc
            raise
        self._send_finished(offset, stop)

    def truncate(self, size: int) -> None:
        """Set the size; what is added reads as zeros."""
        self._is_taken = False
        with self._lock:
            self._parts.cut(size)
            if self.is_owed and size < self.size:
                # First the note: of what is cut off it must not say that it is here.
                present = self.file.local()
                present.cut(size)
                self._save(self._note.state, durable=False, present=present, size=size)
        self._base_stop = min(self._base_stop, size)
        self.file.truncate(size)

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span, and be at least so long; raise NoSpace."""
        self._is_taken = False
        self.file.allocate(start, stop)

    # -- sending while it is written --------------------------------------------------------------

    def _send_finished(self, start: int, stop: int) -> None:
        """Begin to send parts that a write has finished, if the file is large.

        While the store cannot be reached one part at a time finds out whether it is back.
        """
        if self._layout is None and stop <= self._sending.threshold(self.file.spool):
            return
        self.file.goes_in_segments()
        is_away = self._refusal is not None
        self._is_behind |= is_away
        if self._is_refused or (is_away and self._is_sending):
            return
        try:
            if not self._is_base_known:
                # What was written since it was asked for has not been sent.
                start = 0
            if not self._is_base_looked_at():
                return
            spans = [*self._unsent(), *self._finished(start, stop)]
            for span in spans[:1] if is_away else spans:
                self.send(*span)
            self._is_behind = is_away
        except FsError as exc:
            # The flush tries again and tells the program.
            log.info("%s: not sent while it is written: %s", self._note.subject, exc)
            self._refusal = exc

    @property
    def _is_sending(self) -> bool:
        return any(not job.done() for job in self._jobs)

    def _unsent(self) -> list[tuple[int, int]]:
        """Return parts that could not be sent before."""
        if not self._is_behind:
            return []
        with self._lock:
            return [
                (part.start, part.stop)
                for part in self._parts.all
                if part.is_own
                and part.segment is None
                and not part.is_sending
                and self.file.written.covers(part.start, part.stop)
            ]

    def _is_base_looked_at(self) -> bool:
        """Whether the segments of the stored version are known; else they are being asked for.

        Raises as the store does.
        """
        note = self._note
        if self._is_base_known:
            return True
        if note.base is None or note.base.kind not in large.LARGE:
            self.know_base(large.Found())
        elif self._looking is None:
            self._looking = self._sending.look(note.bucket, note.base)
        elif self._looking.done():
            looking, self._looking = self._looking, None
            self.know_base(looking.result())
        return self._is_base_known

    def _finished(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return spans that can go up after a write."""
        sizes = self._sending.sizes(self.file.spool)
        written = self.file.written
        with self._lock:
            number, end = len(self._parts), self._parts.end
            overwritten = [
                part
                for part in self._parts.overlapping(start, stop)
                if part.stop <= stop and part.is_touched and not part.is_own
            ]
        found: list[tuple[int, int]] = []
        for part in overwritten:
            if written.covers(part.start, part.stop):
                step = sizes.largest
                found += [
                    (first, min(first + step, part.stop))
                    for first in range(part.start, part.stop, step)
                ]
        while end + (step := sizes.of(number)) <= stop and written.covers(end, end + step):
            found.append((end, end + step))
            number, end = number + 1, end + step
        return found

    @property
    def _is_refused(self) -> bool:
        return self._refusal is not None and not isinstance(self._refusal, Unavailable)

    def press(self) -> bool:
        """Send something although nothing is finished; return whether room may come of it."""
        if self._is_pressed or self._is_refused or not self._guard.acquire(blocking=False):
            return False
        try:
            return self._send_unfinished()
        except FsError as exc:
            log.info("%s: not sent to make room: %s", self._note.subject, exc)
            self._refusal = exc
            return False
        finally:
            self._guard.release()

    def _send_unfinished(self) -> bool:
        # What was taken as it is goes up by itself, perhaps just now.
        if self._is_closed or self._is_taken or self.size < large.SMALLEST_SEGMENT:
            return False
        if not self._is_base_known:
            note = self._note
            self.know_base(large.look(self._sending.store, note.bucket, note.base))
            finished = self._finished(0, self.size)
            for span in finished:
                self.send(*span)
            if finished:
                return True
        with self._lock:
            parts = self._parts.all
            number, end = len(parts), self._parts.end
            unsent = [
                (part.start, part.stop)
                for part in parts
                if part.is_own and part.segment is None and not part.is_sending
            ]
        step = self._sending.sizes(self.file.spool).of(number)
        gap = self.file.written.missing(end, self.size)
        last = gap[0][0] if gap else self.size
        if last - end >= SHORTEST_BYTES:
            unsent.append((end, min(last, end + step)))
        self._is_pressed = True
        for span in unsent:
            self.send(*span)
        return bool(unsent)

    def _check_count(self, stop: int) -> None:
        """Raise FileTooBig when the segments that are left cannot reach so far."""
        if self._layout is not None and stop > self._reach > 0:
            most = self._sending.most_segments
            raise FileTooBig(self._note.subject, f"{most} segments do not hold it")

    def know_base(self, found: large.Found) -> None:
        """Take the segments of the stored version as parts of the file, as far as it has them.

        An object in one piece is one part; it becomes a segment by a copy on the server.
        """
        base = self.base
        if self._is_base_known or base is None:
            return
        segments: tuple[Segment, ...] = ()
        if base.kind is Kind.PLAIN and 0 < base.size <= self._sending.limits.max_put_bytes:
            segments = (Segment(self._note.bucket, base.key, base.size, base.etag),)
        elif found.is_over(base):
            segments = found.segments
        with self._lock:
            position = 0
            for segment in segments:
                stop = position + segment.size
                if segment.size:
                    self._parts.add(Part(position, stop, position, segment))
                position = stop
            self._parts.cut(self._base_stop)
            for span in self.file.changed:
                self._parts.touch(*span)
        self._is_base_known = True

    # -- the upload -------------------------------------------------------------------------------

    def forget_base(self) -> None:
        """Nothing of the version that was changed is needed any more: all is local."""
        with self._lock:
            for part in self._parts.all:
                if not part.is_own:
                    self._parts.remove(part)

    def plan(self) -> list[Task]:
        """Return the segments of the next version. Nothing may be on its way."""
        sizes = self._sending.sizes(self.file.spool)
        with self._lock:
            return self._parts.plan(self.size, sizes.of, self._sending.most_segments)

    def stored(self, info: ObjectInfo, segments: list[Segment]) -> None:
        """The store has this version; of a large object the segments are given."""
        notes.remove(self._path)
        with self._lock:
            self._parts.clear()
            position = 0
            for segment in segments:
                stop = position + segment.size
                self._parts.add(Part(position, stop, position, segment))
                position = stop
            self._stored = []
            self._layout = None
            self._has_failed = self.is_unsure = self.is_owed = False
            self._note = Note(WRITING, self._note.bucket, info.key, base=info)
            self._base_stop = info.size
            self._is_base_known = bool(segments)
            self._looking = None
            self._is_behind = False
        self._attempts.clear()
        self._reach = 0
        self._close_readers()
        self.file.settled()

    # -- names and ends ---------------------------------------------------------------------------

    def moved(
        self, bucket: str, key: str, base: ObjectInfo | None, over: Draft | None = None
    ) -> None:
        """The object has another name now, which ``over`` had before."""
        with self._lock:
            old = self._note
            for part in self._parts.all:
                segment = part.segment
                if segment and (segment.container, segment.key) == (old.bucket, old.key):
                    part.segment = Segment(bucket, key, segment.size, segment.etag)
            replaced = old.over if over is None else over.file.path.stem
            tried = () if over is None else over._note.tried
            self._note = replace(old, bucket=bucket, key=key, base=base, over=replaced, tried=tried)
            self._looking = None
            if self._layout or self.is_owed:
                with suppress(FsError):
                    self._save(old.state, durable=self.is_owed)

    def discard(self) -> None:
        """Nobody wants the local bytes any more: remove them, and what was sent for nothing."""
        self._end()
        if self._layout is None:
            # First the note: without the data it would say that they are owed.
            notes.remove(self._path)
        self.file.discard()
        self._remove_own()

    def keep(self, why: str) -> str:
        """Keep what could not be stored, for its owner; return where it is."""
        self._end()
        remove = self._set_apart() if self.is_local else nothing
        with self._lock:
            when = self._note.when or round(time.time(), 3)
            self._note = replace(self._note, why=why, when=when)
        try:
            try:
                self.file.sync()
            finally:
                with self._lock:
                    self._save(KEPT, durable=True)
        except FsError as exc:
            log.warning("%s: %s", self._note.subject, exc)
            if self._note.state in (PENDING, KEPT):
                # Then the older note stands, which may need the segments.
                remove = nothing
            else:
                self.file.set_aside()
        self.file.keep()
        remove()
        return str(self.file.path)

    def note_kept(self, why: str) -> str:
        """Note that it is kept, and wait for nothing: the process ends. Return where it is.

        An upload that is under way goes on, and leaves the note unless it succeeds.
        Raises NoSpace, Unavailable.
        """
        self.file.sync()
        with self._lock:
            self.is_owed = True
            self._note = replace(self._note, why=why, when=round(time.time(), 3))
            self._save(KEPT, durable=True)
        return str(self.file.path)

    def leave(self) -> None:
        """Let go of everything, to be taken up again later."""
        self._end()
        self.file.leave()

    def _end(self) -> None:
        """Let what sends the local bytes end."""
        with self._lock:
            self._is_closed = True
        self.file.is_cut_off = True
        self.file.spool.quit(self)
        self.settle()
        self._close_readers()
