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
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from allasfs.config import MIB
from allasfs.deadline import current
from allasfs.errors import FileTooBig, FsError, Internal, NoSpace, Unavailable
from allasfs.store import large
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer.notes import (
    CLOSING,
    KEPT,
    PUBLISHED,
    SUFFIX,
    UNSURE,
    WRITING,
    Note,
)
from allasfs.transfer.parts import Part, Parts, Task
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from allasfs.transfer.sending import Sending
from allasfs.transfer.spans import Spans
from allasfs.transfer.spool import SpoolFile, disk_error

log = logging.getLogger(__name__)

# What the store alone has is fetched by this much.
FILL_BYTES = MIB
# A spool in which nothing else can move takes shorter segments than planned, down to this.
SHORTEST_BYTES = 256 * 1024
# How often a wait for uploads looks whether bytes move.
LOOK_S = 0.5
# How many of its own segments a file reads from at a time.
MOST_READERS = 2

# Returns bytes of the stored version, or raises Stale.
Fetch = Callable[[int, int], bytes]


class Guard(Protocol):
    """A lock that its thread may take again."""

    def acquire(self, blocking: bool = True) -> bool:
        """Take it, or return False."""

    def release(self) -> None:
        """Let it go."""


class Draft:
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
        self._sending = sending
        self._guard = guard
        self.file = file
        self._lock = threading.Lock()
        self._parts = Parts()  # guarded by _lock
        self._stored: list[Segment] = []  # own segments in the store; guarded by _lock
        self._layout: large.Layout | None = None
        self._attempts: Counter[int] = Counter()
        self._jobs: set[Future[Segment]] = set()
        # Why a part could not be sent while the file was written.
        self._refusal: FsError | None = None
        # Whether room was asked for since a segment was last stored.
        self._is_pressed = False
        # Whether a segment may be in the store although its answer was lost.
        self._has_failed = False
        # The manifest may stand although the upload failed.
        self.is_unsure = False
        # A mount before was killed while a program waited for this upload.
        self.is_owed = False
        self._note = Note(WRITING, bucket, key, "", "", base=base)  # guarded by _lock
        # What of the base is still a part of the file.
        self._base_stop = base.size if base is not None else 0
        self._is_base_known = base is None
        self._is_closed = False
        # How far a file can grow with the segments that are left.
        self._reach = 0
        self._readers: dict[str, tuple[Reader, Window]] = {}
        if base is not None:
            file.adopt(base.size)
        file.spool.join(self)

    @classmethod
    def restored(cls, sending: Sending, file: SpoolFile, note: Note) -> Draft:
        """Return the draft that a note describes."""
        draft = cls(sending, file, note.bucket, note.key, note.base, threading.RLock())
        file.size = note.size
        for part in note.parts:
            draft._parts.add(part)
            draft._attempts[part.start] += 1
        draft._stored = list(note.stored)
        draft._layout = large.Layout(note.container, note.prefix)
        draft._note = note
        draft._is_base_known = True
        # What was stored in the moment of the crash is not in the note.
        draft._has_failed = True
        draft.is_owed = True
        return draft

    # -- what it is -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the file as it is now."""
        return self.file.size

    @property
    def bucket(self) -> str:
        """Where the object is, or will be."""
        return self._note.bucket

    @property
    def key(self) -> str:
        """The object's name."""
        return self._note.key

    @property
    def base(self) -> ObjectInfo | None:
        """The stored version that is changed."""
        return self._note.base

    @property
    def is_large(self) -> bool:
        """Whether the next version is to be a large object."""
        if self.size > self._sending.threshold(self.file.spool):
            return True
        with self._lock:
            return any(part.is_own and not part.is_touched for part in self._parts.all)

    @property
    def is_local(self) -> bool:
        """Whether nothing of it is in its own segments only."""
        with self._lock:
            return not any(
                part.is_own and not self.file.present.covers(part.start, part.stop)
                for part in self._parts.all
            )

    def absent(self) -> int:
        """Return how many bytes are not local."""
        return sum(stop - start for start, stop in self.file.present.missing(0, self.size))

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
        """Make all of a span local."""
        for first, last in self.file.present.missing(start, stop):
            for begin in range(first, last, FILL_BYTES):
                end = min(begin + FILL_BYTES, last)
                self.file.fill(begin, b"".join(self._stored_bytes(begin, end, fetch)))

    # -- changing ---------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data``, or nothing and raise NoSpace, FileTooBig."""
        stop = offset + len(data)
        if not data:
            return
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
        with self._lock:
            self._parts.cut(size)
        self._base_stop = min(self._base_stop, size)
        self.file.truncate(size)

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span, and be at least so long; raise NoSpace."""
        self.file.allocate(start, stop)

    # -- sending while it is written --------------------------------------------------------------

    def _send_finished(self, start: int, stop: int) -> None:
        """Send parts that a write has finished, if the file is large."""
        if self._layout is None and stop <= self._sending.threshold(self.file.spool):
            return
        if self._is_refused:
            return
        try:
            self._know_base_early()
            for span in self._finished(start, stop):
                self.send(*span)
        except FsError as exc:
            # The flush tries again and tells the program.
            log.info("%s: not sent while it is written: %s", self._note.subject, exc)
            self._refusal = exc

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
        if self._is_closed or self.size < large.SMALLEST_SEGMENT:
            return False
        self._know_base_early()
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

    def _know_base_early(self) -> None:
        if not self._is_base_known:
            note = self._note
            self.know_base(large.look(self._sending.store, note.bucket, note.base))

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

    # -- segments ---------------------------------------------------------------------------------

    def begin(self) -> large.Layout:
        """Return where the segments go; the first time, note it on the disk."""
        if self._layout is None:
            note = self._note
            layout = large.new_layout(self._sending.store, note.bucket, note.key)
            self._sending.make_container(layout.container)
            with self._lock:
                self._note = replace(note, container=layout.container, prefix=layout.prefix)
                self._save(WRITING, durable=True)
            self._layout = layout
        return self._layout

    def send(self, start: int, stop: int) -> Future[Segment]:
        """Begin to send a span, all of which is local, as a segment."""
        layout = self.begin()
        with self._lock:
            part = self._new_part(start, stop, layout)
            self._parts.add(part)
            sizes, most = self._sending.sizes(self.file.spool), self._sending.most_segments
            self._reach = self._parts.end + sizes.total(len(self._parts), most)
        self.file.spool.began()
        source = self.file.part(start, stop, self.file.spool.moved)

        def job() -> Segment:
            segment: Segment | None = None
            try:
                segment = self._sending.put(
                    layout.container, part.key, source, lambda: part.is_touched
                )
                return segment
            except FsError as exc:
                self._has_failed = True
                if not part.is_touched and not self._is_closed:
                    log.info("%s: a part was not sent: %s", self._note.subject, exc)
                    self._refusal = exc
                raise
            except Exception as exc:
                log.exception("sending a part of %s", self._note.subject)
                self._refusal = Internal(self._note.subject, f"{type(exc).__name__} while sending")
                raise self._refusal from exc
            finally:
                self._sent(part, segment)

        return self._submit(job)

    def _new_part(self, start: int, stop: int, layout: large.Layout) -> Part:
        """Return a part to be sent; the same as one that failed has its name again (locked)."""
        for old in self._parts.overlapping(start, stop):
            if (old.start, old.stop) == (start, stop) and old.key and not old.is_touched:
                key = old.key
                break
        else:
            key = layout.key(start, self._attempts[start])
            self._attempts[start] += 1
        return Part(start, stop, start, key=key, is_own=True, is_sending=True)

    def _sent(self, part: Part, segment: Segment | None) -> None:
        with self._lock:
            part.is_sending = False
            part.segment = segment
            if segment is not None:
                self._stored.append(segment)
                self._is_pressed = False
                self._note_progress()
        self.file.spool.ended(self)

    def copy(self, part: Part) -> Future[Segment]:
        """Begin to copy a stored segment to this upload's, on the server."""
        layout, segment = self.begin(), part.segment
        if segment is None:
            raise Internal(self._note.subject, "nothing to copy")
        key = layout.key(part.start, self._attempts[part.start])
        self._attempts[part.start] += 1

        def job() -> Segment:
            copied = self._sending.copy(segment, layout.container, key)
            with self._lock:
                part.copied = copied
                self._stored.append(copied)
                self._note_progress()
            return copied

        return self._submit(job)

    def _submit(self, job: Callable[[], Segment]) -> Future[Segment]:
        future = self._sending.pool.submit(job)
        self._jobs = {each for each in self._jobs if not each.done()} | {future}
        return future

    def settle(self) -> None:
        """Return when nothing is on its way; its moves are the operation's progress."""
        deadline = current(self._sending.timeout_s)
        moves = self.file.spool.moves
        while self._jobs:
            done, self._jobs = wait(self._jobs, LOOK_S, FIRST_COMPLETED)
            now = self.file.spool.moves
            if done or now != moves:
                deadline.progress()
            moves = now

    def give_back(self) -> None:
        """Give back the spool's room of what the store has."""
        with self._lock:
            if self._is_closed:
                return
            ready = [
                part
                for part in self._parts.all
                if part.is_good and self.file.present.missing(part.start, part.stop) == []
            ]
            if not ready:
                return
            present = self.file.local()
            for part in ready:
                present.remove(part.start, part.stop)
            if self._note.state == CLOSING:
                try:
                    self._save(CLOSING, durable=True, present=present)
                except FsError as exc:
                    log.info("%s", exc)
                    return
            for part in ready:
                if not self.file.punch(part.start, part.stop):
                    return

    # -- the upload -------------------------------------------------------------------------------

    def plan(self) -> list[Task]:
        """Return the segments of the next version. Nothing may be on its way."""
        sizes = self._sending.sizes(self.file.spool)
        with self._lock:
            return self._parts.plan(self.size, sizes.of, self._sending.most_segments)

    def closing(
        self,
        content_type: str,
        metadata: Mapping[str, str],
        old: list[Segment],
        *,
        exclusive: bool,
    ) -> None:
        """Note that the program waits for the upload: from now on it is finished after a crash.

        ``old`` are the segments of the version that is replaced.
        """
        self._refusal = None
        self.begin()
        self.file.sync()
        with self._lock:
            self._note = replace(
                self._note,
                content_type=content_type,
                metadata=dict(metadata),
                exclusive=exclusive,
                old=tuple(old),
            )
            self._save(CLOSING, durable=True)

    def sweep(self, used: list[Segment]) -> None:
        """Remove own segments that the new version does not use, before it is published.

        A dynamic manifest would take them in. Raises as the store does.
        """
        names = {segment.key for segment in used}
        with self._lock:
            unused = [segment.key for segment in self._stored if segment.key not in names]
        layout = self.begin()
        store = self._sending.store
        if self._has_failed:
            # The answer of a PUT may have been lost, not what it stored.
            for page in store.listing(layout.container, prefix=layout.prefix):
                unused += [part.key for part in page.objects if part.key not in names]
        if unused:
            store.delete_many(layout.container, sorted(set(unused)))

    def failed(self) -> None:
        """The upload failed: remove what was sent, unless it is all that is left of the file."""
        if self._layout is None:
            return
        self.settle()
        if self.is_owed:
            return
        if self.is_local and not self.is_unsure:
            self._remove_own()
            return
        with suppress(FsError), self._lock:
            self._save(UNSURE if self.is_unsure else WRITING, durable=False)

    def _remove_own(self) -> None:
        """Remove all own segments and the note; what is left then, the next mount removes."""
        with self._lock:
            layout, self._layout = self._layout, None
            if layout is None:
                return
            for part in self._parts.all:
                part.copied = None
                if part.is_own:
                    self._parts.remove(part)
            stored, self._stored = self._stored, []
            if not self.is_unsure:
                with suppress(FsError):
                    self._save(WRITING, durable=False)
        self._attempts.clear()
        self._reach = 0
        if not self.is_unsure and self._sending.remove(layout, stored):
            self._path.unlink(missing_ok=True)
        else:
            self._path.rename(self._path.with_name(f"{secrets.token_hex(8)}{SUFFIX}"))

    def published(self, used: list[Segment]) -> None:
        """Note that the new version stands, over these segments."""
        with suppress(FsError), self._lock:
            old = tuple(segment for segment in self._note.old if segment not in used)
            self._stored = []
            self._note = replace(self._note, old=old)
            self._save(PUBLISHED, durable=False)

    def forget_sent(self) -> None:
        """What was sent is not needed: the file became small again."""
        self._remove_own()

    def stored(self, info: ObjectInfo, segments: list[Segment]) -> None:
        """The store has this version; of a large object the segments are given."""
        self._path.unlink(missing_ok=True)
        with self._lock:
            self._parts.clear()
            position = 0
            for segment in segments:
                stop = position + segment.size
                self._parts.add(Part(position, stop, position, segment))
                position = stop
            self._stored = []
            self._layout = None
            self._has_failed = self.is_unsure = False
            self._note = Note(WRITING, self._note.bucket, info.key, "", "", base=info)
            self._base_stop = info.size
            self._is_base_known = bool(segments)
        self._attempts.clear()
        self._reach = 0
        self._close_readers()
        self.file.settled()

    # -- names and ends ---------------------------------------------------------------------------

    def moved(self, bucket: str, key: str, base: ObjectInfo | None) -> None:
        """The object has another name now."""
        with self._lock:
            old = self._note
            for part in self._parts.all:
                segment = part.segment
                if segment and (segment.container, segment.key) == (old.bucket, old.key):
                    part.segment = Segment(bucket, key, segment.size, segment.etag)
            self._note = replace(old, bucket=bucket, key=key, base=base)
            if self._layout:
                with suppress(FsError):
                    self._save(old.state, durable=False)

    def discard(self) -> None:
        """Nobody wants the local bytes any more: remove them, and what was sent for nothing."""
        self._end()
        self.file.discard()
        self._remove_own()

    def keep(self, why: str) -> str:
        """Keep what could not be stored, for its owner; return where it is."""
        self._end()
        segments = ""
        if self._layout is not None and not self.is_local:
            segments = f"{self._layout.container}/{self._layout.prefix}"
            with suppress(FsError), self._lock:
                self._save(KEPT, durable=True)
        kept = self.file.keep(self._note.subject, why, segments)
        if not segments:
            self._remove_own()
        return str(kept)

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

    # -- the note ---------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self.file.path.with_suffix(SUFFIX)

    def _note_progress(self) -> None:
        """Note that a segment is stored, once it is of use after a crash (locked)."""
        if self._note.state == CLOSING:
            with suppress(FsError):
                self._save(CLOSING, durable=False)

    def _save(self, state: str, *, durable: bool, present: Spans | None = None) -> None:
        """Write the note (locked); raise NoSpace, Unavailable."""
        note = replace(
            self._note,
            state=state,
            size=self.file.size,
            present=tuple(present or self.file.local()),
            parts=tuple(part for part in self._parts.all if part.segment is not None),
            stored=tuple(self._stored),
        )
        try:
            note.save(self._path, durable=durable)
        except OSError as exc:
            raise disk_error(str(self._path), exc) from exc
        self._note = note
