"""Owed: the upload of a journal's entry, finished by a mount or at a person's word."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from allasfs.errors import Exists, NotFound, NotSupported, Stale
from allasfs.store import large, marks
from allasfs.store.api import Kind, ObjectHead, ObjectInfo, Segment
from allasfs.transfer.draft import Draft, Fetch
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import OWED, WRITING, Note
from allasfs.transfer.readahead import Window
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader, nothing

log = logging.getLogger(__name__)


class Standing(Enum):
    """What is at an object's name, as the entry sees it."""

    # The version that was changed or replaced, or nothing where there was nothing.
    BASE = "as before"
    # The entry's own bytes: its upload was done, and the answer was lost.
    OURS = "stored"
    # What the entry had when it was sent before, without an answer.
    EARLIER = "sent before"
    OTHER = "changed"


@dataclass(frozen=True)
class Look:
    """What was found at an object's name."""

    standing: Standing
    head: ObjectHead | None

    @property
    def error(self) -> Stale | Exists:
        """Why it is not simply replaced."""
        if self.head is None:
            return Stale("", "removed by another client meanwhile")
        return Exists("", "changed by another client meanwhile")


class Owed:
    """Finishes uploads of entries of one spool."""

    def __init__(self, uploader: Uploader, spool: Spool) -> None:
        self._uploader = uploader
        self._store = uploader.sending.store
        self._spool = spool

    def draft(self, entry: Entry, note: Note | None = None) -> Draft:
        """Return the draft of an entry, or of what its note became; raise Unavailable."""
        note = note or entry.note
        file = self._spool.adopt(entry.path, note.size, note.local())
        return Draft.restored(self._uploader.sending, file, note)

    def look(self, entry: Entry) -> Look:
        """Ask what is at the entry's name; raises as the store does."""
        note = entry.note
        try:
            head = self._store.head(note.bucket, note.key)
        except NotFound:
            return Look(Standing.BASE if note.base is None else Standing.OTHER, None)
        if self._is_published(note, head) or self._has_bytes(entry, head):
            return Look(Standing.OURS, head)
        if note.base is not None and head.info.same_bytes(note.base):
            return Look(Standing.BASE, head)
        if note.state in OWED and note.has_tried(head.info) and not note.missing():
            return Look(Standing.EARLIER, head)
        return Look(Standing.OTHER, head)

    def _is_published(self, note: Note, head: ObjectHead) -> bool:
        """Whether the object is a manifest over the entry's segments."""
        if not note.has_segments:
            return False
        if head.info.kind is Kind.DLO:
            return head.manifest == f"{note.container}/{note.prefix}"
        if head.info.kind is not Kind.SLO or note.state == WRITING:
            return False
        try:
            segments = large.segments_of(self._store, note.bucket, head.info)
        except NotSupported:
            # RGW does not tell them; the checksum of a manifest is that of its segments'.
            return head.info.etag == large.etag_of(_segments(note))
        return any(
            segment.container == note.container and segment.key.startswith(note.prefix)
            for segment in segments
        )

    def _has_bytes(self, entry: Entry, head: ObjectHead) -> bool:
        """Whether the object in one piece has the entry's bytes, all of which are here."""
        note, info = entry.note, head.info
        if note.state not in OWED or info.kind is not Kind.PLAIN or info.size != note.size:
            return False
        if note.local().missing(0, note.size) or not entry.data.exists():
            return False
        # Perhaps nothing but the metadata was to be changed.
        is_base = note.base is not None and info.same_bytes(note.base)
        if is_base and not note.metadata.items() <= head.metadata.items():
            return False
        return entry.md5() == info.etag

    def clear_stored(self, note: Note) -> None:
        """Remove what a version that stands does not use."""
        info = self._store.head(note.bucket, note.key).info
        try:
            used = large.segments_of(self._store, note.bucket, info)
        except NotSupported:
            used = _segments(note)
        unused = [each for each in (*note.old, *note.stored) if each not in used]
        large.remove_segments(self._store, unused)

    def upload(self, draft: Draft, note: Note) -> ObjectInfo:
        """Upload a draft over what ``look`` found to be its base."""
        fetch, close = self.base(note)

        def check() -> None:
            try:
                now = self._store.head(note.bucket, note.key).info
            except NotFound:
                is_there = note.base is None
            else:
                is_there = note.base is not None and now.same_bytes(note.base)
            if not is_there:
                raise Stale(note.subject, "changed by another client meanwhile")

        try:
            return self._uploader.upload(
                draft,
                content_type=note.content_type,
                metadata=note.metadata,
                fetch=fetch,
                exclusive=note.exclusive,
                check=check,
            )
        finally:
            close()

    def base(self, note: Note) -> tuple[Fetch, Callable[[], None]]:
        """Return how to read the version that is changed, and what ends that."""
        if note.base is None:
            return nothing, lambda: None
        reader = self._uploader.sending.reader_of(note.bucket, note.base)
        window = Window()

        def fetch(start: int, stop: int) -> bytes:
            data = reader.read(window, start, stop - start)
            if len(data) != stop - start:
                raise Stale(note.subject, "the stored object is shorter than it was")
            return data

        return fetch, reader.close

    def complete(self, note: Note, guess: Callable[[str], str]) -> Note:
        """Return the note with what the failed upload did not come to know of its metadata.

        Raises Stale, and as the store does.
        """
        if note.content_type:
            return note
        known: dict[str, str] = {}
        content_type = ""
        if note.base is not None:
            head = self._store.head(note.bucket, note.base.key)
            if head.info.same_bytes(note.base):
                known, content_type = marks.without(head.metadata), head.info.content_type
        return replace(
            note,
            content_type=content_type or guess(note.key.rpartition("/")[2]),
            metadata={**known, **note.metadata},
        )


def over_version(note: Note, base: ObjectInfo | None) -> Note:
    """Return a note of the same bytes, all of which are its own, over another version."""
    parts = tuple(part for part in note.parts if part.is_own)
    return replace(note, base=base, parts=parts, old=(), exclusive=False)


def _segments(note: Note) -> list[Segment]:
    """Return the segments that a version is to have of which all is sent."""
    parts = [part.copied or part.segment for part in note.parts]
    return [segment for segment in parts if segment is not None]
