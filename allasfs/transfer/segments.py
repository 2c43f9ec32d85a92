"""Segments that a file sends for its next version, and the note on the disk that tells of them.

Locks: see draft.py.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from allasfs.deadline import Deadline, current, sharing
from allasfs.errors import FsError, Internal, NotFound, Unavailable
from allasfs.store import large
from allasfs.store.api import ObjectInfo, Segment
from allasfs.transfer import notes
from allasfs.transfer.notes import (
    CLOSING,
    OWED,
    PENDING,
    PUBLISHED,
    SUFFIX,
    UNSURE,
    WRITING,
    Note,
    Tried,
)
from allasfs.transfer.parts import Part, Parts
from allasfs.transfer.sending import Sending
from allasfs.transfer.spans import Spans
from allasfs.transfer.spoolfile import SpoolFile, disk_error

log = logging.getLogger(__name__)

# How often a wait for uploads looks whether bytes move.
LOOK_S = 0.5


class Segments:
    """What of a file is stored in segments, and what is on its way there."""

    def __init__(self, sending: Sending, file: SpoolFile, note: Note) -> None:
        """``note`` says which object it is."""
        self._sending = sending
        self.file = file
        self._lock = threading.Lock()
        self._parts = Parts()  # guarded by _lock
        self._stored: list[Segment] = []  # own segments in the store; guarded by _lock
        self._layout: large.Layout | None = None
        self._attempts: Counter[int] = Counter()
        self._jobs: set[Future[Segment]] = set()
        # Why a part could not be sent while the file was written.
        self._refusal: FsError | None = None
        # How often the store could not be reached: what waited meanwhile is not tried in its turn.
        self._outages = 0
        # Whether the bucket for segments is known to be there; the lock is held while asking.
        self._has_container = False
        self._container_lock = threading.Lock()
        # Whether room was asked for since a segment was last stored.
        self._is_pressed = False
        # Whether a segment may be in the store although its answer was lost.
        self._has_failed = False
        # The manifest may stand although the upload failed.
        self.is_unsure = False
        # The note stands whatever comes of an upload: the file was taken, or a mount before was
        # killed while a program waited for it.
        self.is_owed = False
        # The file was taken as it is now, or a mount before left it so.
        self._is_taken = False
        self._note = note  # guarded by _lock
        self._is_closed = False
        # How far a file can grow with the segments that are left.
        self._reach = 0

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
    def is_local(self) -> bool:
        """Whether nothing of it is in its own segments only."""
        with self._lock:
            return not any(
                part.is_own and self.file.missing(part.start, part.stop) for part in self._parts.all
            )

    # -- segments ---------------------------------------------------------------------------------

    def begin(self) -> large.Layout:
        """Return where the segments go. Asks nobody: a program may wait for its write()."""
        if self._layout is None:
            note = self._note
            layout = large.new_layout(self._sending.store, note.bucket, note.key)
            with self._lock:
                self._note = replace(note, container=layout.container, prefix=layout.prefix)
            self._has_container = False
            self._layout = layout
        return self._layout

    def _see_container(self, layout: large.Layout, outages: int) -> None:
        """See that the bucket for segments is there, and note on the disk what will be in it.

        One thread asks, the others wait for it.
        """
        with self._container_lock:
            if self._outages != outages:
                # It was begun before the store was found to be away.
                raise self._refusal or Unavailable(self._note.subject, "the store is away")
            if not self._has_container:
                self._sending.make_container(layout.container)
                with self._lock:
                    self._save(self._note.state, durable=True)
                self._has_container = True

    def send(self, start: int, stop: int, deadline: Deadline | None = None) -> Future[Segment]:
        """Begin to send a span, all of which is local, as a segment.

        ``deadline`` is that of the program that waits for it; without one it has its own.
        """
        layout, outages = self.begin(), self._outages
        with self._lock:
            part = self._new_part(start, stop, layout)
            self._parts.add(part)
            sizes, most = self._sending.sizes(self.file.spool), self._sending.most_segments
            self._reach = self._parts.end + sizes.total(len(self._parts), most)
        self.file.spool.began()
        source = self.file.part(start, stop, self.file.spool.moved)

        def put() -> Segment:
            with sharing(deadline or Deadline(self._sending.timeout_s)):
                self._see_container(layout, outages)
            return self._sending.put(
                layout.container, part.key, source, lambda: part.is_touched, deadline
            )

        def job() -> Segment:
            segment: Segment | None = None
            try:
                is_first = not self._stored
                try:
                    segment = put()
                except NotFound:
                    if not is_first:
                        raise
                    # Another client removed the bucket while it was empty.
                    log.info("%s is made again", layout.container)
                    self._has_container = False
                    segment = put()
                return segment
            except FsError as exc:
                self._has_failed = True
                if isinstance(exc, Unavailable) and self._outages == outages:
                    self._outages += 1
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

    def press(self) -> bool:
        """Send what there is; a draft knows what that may be."""
        return False

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
                if isinstance(self._refusal, Unavailable):
                    self._refusal = None
                self._note_progress()
        self.file.spool.ended(self)

    def copy(self, part: Part) -> Future[Segment]:
        """Begin to copy a stored segment to this upload's, on the server."""
        layout, outages, segment = self.begin(), self._outages, part.segment
        if segment is None:
            raise Internal(self._note.subject, "nothing to copy")
        deadline = current(self._sending.timeout_s)
        key = layout.key(part.start, self._attempts[part.start])
        self._attempts[part.start] += 1

        def job() -> Segment:
            with sharing(deadline):
                self._see_container(layout, outages)
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
        """Return when nothing is on its way; its moves are the operation's progress.

        What failed moved nothing: the operation does not wait for each in its turn.
        """
        deadline = current(self._sending.timeout_s)
        moves = self.file.spool.moves
        while self._jobs:
            done, self._jobs = wait(self._jobs, LOOK_S, FIRST_COMPLETED)
            now = self.file.spool.moves
            if now != moves or any(job.exception() is None for job in done):
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
                if part.is_good and not self.file.missing(part.start, part.stop)
            ]
            if not ready:
                return
            present = self.file.local()
            for part in ready:
                present.remove(part.start, part.stop)
            if self._note.state in OWED:
                try:
                    self._save(self._note.state, durable=True, present=present)
                except FsError as exc:
                    log.info("%s", exc)
                    return
            for part in ready:
                if not self.file.punch(part.start, part.stop):
                    return

    # -- the upload -------------------------------------------------------------------------------

    def describe(
        self, content_type: str, metadata: Mapping[str, str], *, exclusive: bool = False
    ) -> None:
        """Remember what the next version is to be stored with, for the note."""
        with self._lock:
            self._note = replace(
                self._note,
                content_type=content_type,
                metadata=dict(metadata),
                exclusive=exclusive,
            )

    def take(
        self,
        content_type: str,
        metadata: Mapping[str, str],
        *,
        exclusive: bool = False,
        durable: bool = True,
    ) -> None:
        """Take the file as it is now, to be uploaded later; raise NoSpace, Unavailable.

        When this returns, data and note outlive a kill, and a loss of power if ``durable``, and the
        next mount finishes what this one does not. What is written afterwards is taken by the next
        call.
        """
        self.describe(content_type, metadata, exclusive=exclusive)
        if durable:
            self.file.sync()
        with self._lock:
            self._save(PENDING, durable=durable)
        self.is_owed = True
        self._is_taken |= durable

    def trying(self, md5: str) -> Tried:
        """Note that these bytes are sent in one piece; forgotten when the answer is there.

        Return what was noted before.
        """
        with self._lock:
            before = self._note.tried
            self._note_tried(tuple({*before, (self.size, md5)}))
            return before

    def refused(self, before: Tried) -> None:
        """The store did not take what was sent: note what was noted before it."""
        with self._lock:
            self._note_tried(before)

    def _note_tried(self, tried: Tried) -> None:
        self._note = replace(self._note, tried=tried)
        if self.is_owed:
            with suppress(FsError):
                self._save(self._note.state, durable=False)

    def has_tried(self, info: ObjectInfo) -> bool:
        """Whether a version may be what was sent without an answer."""
        return self._note.has_tried(info)

    @property
    def may_be_stored(self) -> bool:
        """Whether something was sent of which no answer came."""
        return bool(self._note.tried)

    def forget(self) -> None:
        """The file was unlinked: the next mount shall not find it."""
        if self.is_owed and self._layout is None:
            notes.remove(self._path)
            self.is_owed = False

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
        self.describe(content_type, metadata, exclusive=exclusive)
        self.begin()
        self.file.sync()
        with self._lock:
            self._note = replace(self._note, old=tuple(old))
            self._save(CLOSING, durable=True)

    def sweep(self, used: list[Segment]) -> None:
        """Remove own segments that the new version does not use, before it is published, and see
        that the others are there, where the server does not.

        A dynamic manifest would take in the ones and not miss the others. Raises as the store does,
        Unavailable when a segment is gone.
        """
        names = {segment.key for segment in used}
        with self._lock:
            unused = [segment.key for segment in self._stored if segment.key not in names]
        layout = self.begin()
        store, is_checked = self._sending.store, self._sending.is_checked
        listed: dict[str, tuple[int, str]] = {}
        if self._has_failed or not is_checked:
            # The answer of a PUT may have been lost, not what it stored.
            for page in store.listing(layout.container, prefix=layout.prefix):
                listed |= {part.key: (part.size, part.etag) for part in page.objects}
            unused += [key for key in listed if key not in names]
        if unused:
            store.delete_many(layout.container, sorted(set(unused)))
        if not is_checked:
            self._see(used, listed)

    def _see(self, used: list[Segment], listed: Mapping[str, tuple[int, str]]) -> None:
        """Ask for the segments that a listing lacks, which may lag; raise Unavailable."""
        for segment in used:
            wanted = (segment.size, segment.etag)
            if listed.get(segment.key) == wanted:
                continue
            try:
                found = self._sending.store.head(segment.container, segment.key).info
            except NotFound:
                found = None
            if found is None or (found.size, found.etag) != wanted:
                why = f"another client removed or changed its segment {segment.key}"
                raise Unavailable(f"{self.bucket}/{self.key}", why)

    def failed(self) -> None:
        """The upload failed: remove what was sent, unless it is all that is left of the file."""
        if self._layout is None:
            return
        self.settle()
        if self.is_owed:
            return
        if not self.is_unsure and self._stays_local():
            self._remove_own()
            return
        with suppress(FsError), self._lock:
            self._save(UNSURE if self.is_unsure else WRITING, durable=False)

    def _stays_local(self) -> bool:
        """Whether nothing is in own segments only; then no room of it is given back any more."""
        with self._lock:
            own = [part for part in self._parts.all if part.is_own]
            if any(self.file.missing(part.start, part.stop) for part in own):
                return False
            for part in own:
                part.is_touched = True
            return True

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
            is_used, self._has_container = self._has_container, False
            if not self.is_unsure:
                with suppress(FsError):
                    self._save(WRITING, durable=False)
            self._note = replace(self._note, container="", prefix="")
        self._attempts.clear()
        self._reach = 0
        if not is_used or (not self.is_unsure and self._sending.remove(layout, stored)):
            notes.remove(self._path)
        else:
            self._path.rename(self._another_path())
            notes.remove(self._path)

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

    def _set_apart(self) -> Callable[[], None]:
        """Give own segments, none of which is needed, a note of their own; return what ends both.

        Until then no moment is without a note of them, nor without one of the data.
        """
        layout, path = self._layout, self._another_path()
        if layout is None:
            return lambda: None
        with self._lock:
            stored, self._stored, self._layout = self._stored, [], None
            state = UNSURE if self.is_unsure else WRITING
            apart = replace(self._note, state=state, parts=(), present=(), stored=tuple(stored))
            self._note = replace(self._note, container="", prefix="", old=())
            self._parts.clear()
        try:
            apart.save(path, durable=True)
        except OSError as exc:
            log.warning("segments may be left over: %s", disk_error(str(path), exc))

        def remove() -> None:
            if not self.is_unsure and self._sending.remove(layout, stored):
                notes.remove(path)

        return remove

    # -- the note ---------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return self.file.path.with_suffix(SUFFIX)

    def _another_path(self) -> Path:
        return self._path.with_name(f"{secrets.token_hex(8)}{SUFFIX}")

    def _note_progress(self) -> None:
        """Note that a segment is stored, once it is of use after a crash (locked)."""
        if self._note.state == CLOSING:
            with suppress(FsError):
                self._save(CLOSING, durable=False)

    def _save(
        self, state: str, *, durable: bool, present: Spans | None = None, size: int | None = None
    ) -> None:
        """Write the note (locked); raise NoSpace, Unavailable."""
        note = replace(
            self._note,
            state=state,
            size=self.file.size if size is None else size,
            present=tuple(self.file.local() if present is None else present),
            parts=tuple(part for part in self._parts.all if part.segment is not None),
            stored=tuple(self._stored),
            account=self.file.spool.account,
        )
        try:
            note.save(self._path, durable=durable)
        except OSError as exc:
            raise disk_error(str(self._path), exc) from exc
        self._note = note
