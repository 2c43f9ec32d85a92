"""Rescue: what a person wants done with a kept file: upload it after all, save it, discard it."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace

from allasfs.config import MIB
from allasfs.errors import (
    Exists,
    NotFound,
    NotPermitted,
    NotSupported,
    Stale,
    Unavailable,
)
from allasfs.store import large
from allasfs.store.api import ObjectInfo
from allasfs.transfer.draft import Draft
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import KEPT, Note
from allasfs.transfer.owed import Owed, Standing, over_version
from allasfs.transfer.readahead import Window
from allasfs.transfer.resume import Stored
from allasfs.transfer.sending import Sending
from allasfs.transfer.spans import Spans
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader

log = logging.getLogger(__name__)

STEP_BYTES = MIB


class Rescue:
    """Uploads and discards entries of a spool that this process owns, one at a time."""

    def __init__(
        self,
        uploader: Uploader,
        spool: Spool,
        stored: Stored,
        guess: Callable[[str], str],
        states: tuple[str, ...] = (KEPT,),
    ) -> None:
        """``guess`` tells a content type by a name; entries in other ``states`` are not touched."""
        self._store = uploader.sending.store
        self._sending = uploader.sending
        self._owed = Owed(uploader, spool)
        self._spool = spool
        self._stored = stored
        self._guess = guess
        self._states = states
        self._is_stopped = False
        # Held across a whole request: two for one entry shall not meet.
        self._busy = threading.Lock()

    def stop(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        self._is_stopped = True
        with self._busy:
            pass

    # -- upload -----------------------------------------------------------------------------------

    def retry(
        self, name: str, *, over: bool = False, place: tuple[str, str] | None = None
    ) -> ObjectInfo:
        """Upload an entry now, under its own name or at another ``place`` (bucket, key).

        Raises Exists or Stale where another client changed what is there, unless ``over`` says that
        it is to be replaced; and as uploads do. An entry whose upload fails stays.
        """
        with self._busy:
            entry = self._entry(name)
            if not entry.is_certain:
                raise NotSupported(entry.subject, f"{entry.note.why}: save it, and look at it")
            note = self._owed.complete(entry.note, self._guess)
            if place is not None:
                return self._upload(entry, self._moved(entry, note, place, over=over))
            self._check_account(entry)
            look = self._owed.look(entry)
            if look.standing is Standing.OURS and look.head is not None:
                self._owed.clear_stored(note)
                self._spool.remove(entry)
                return look.head.info
            if look.standing is Standing.EARLIER and look.head is not None:
                note = over_version(note, look.head.info)
            elif look.standing is Standing.OTHER:
                if not over:
                    raise type(look.error)(entry.subject, look.error.why)
                if note.missing():
                    raise Stale(
                        entry.subject,
                        f"{describe(note.missing())} were in the version that"
                        " is gone: save what is here",
                    )
                note = over_version(note, look.head.info if look.head else None)
            return self._upload(entry, note)

    def _entry(self, name: str) -> Entry:
        if self._is_stopped:
            raise Unavailable(name, "the mount ends")
        if not self._spool.is_owned:
            # A mount answers its socket before it has taken the folder, which may be another's.
            raise Unavailable(name, "the mount is not ready yet")
        for entry in self._spool.entries():
            if entry.id == name and entry.state in self._states:
                return entry
        raise NotFound(name, "no file of this id is kept here")

    def _check_account(self, entry: Entry) -> None:
        if entry.note.account not in ("", self._spool.account):
            raise NotPermitted(entry.subject, f"it is for another account, {entry.note.account}")

    def _moved(self, entry: Entry, note: Note, place: tuple[str, str], *, over: bool) -> Note:
        """Return the note of the same bytes for another name."""
        bucket, key = place
        base: ObjectInfo | None = None
        with suppress(NotFound):
            base = self._store.head(bucket, key).info
        if base is not None and not over:
            raise Exists(f"{bucket}/{key}", "there is an object of this name")
        if note.missing():
            note = self._fetched(entry, note)
        return replace(over_version(note, base), bucket=bucket, key=key, exclusive=base is None)

    def _fetched(self, entry: Entry, note: Note) -> Note:
        """Fetch what only the stored version has, which another name's upload cannot refer to."""
        file = self._spool.adopt(entry.path, note.size, note.local())
        fetch, close = self._owed.base(note)
        try:
            for start, stop in _steps(note.missing()):
                file.fill(start, fetch(start, stop))
            file.sync()
            note = replace(note, present=tuple(file.local()))
            note.save(entry.path, durable=True)
        finally:
            close()
            file.keep()
        return note

    def _upload(self, entry: Entry, note: Note) -> ObjectInfo:
        draft = self._owed.draft(entry, note)
        try:
            info = self._owed.upload(draft, note)
        except Exception as exc:
            self._keep(entry, draft, str(exc))
            raise
        draft.discard()
        self._spool.remove(entry)
        self._stored(note.bucket, info)
        log.info("a file that was kept is stored as %s", note.subject)
        return info

    @staticmethod
    def _keep(entry: Entry, draft: Draft, why: str) -> None:
        """Keep it on, for the name and over the version that it was for."""
        was = entry.note
        draft.keep(why)
        if not entry.path.exists():
            return
        now = replace(
            Note.load(entry.path),
            bucket=was.bucket,
            key=was.key,
            base=was.base,
            exclusive=was.exclusive,
            account=was.account,
        )
        now.save(entry.path, durable=True)

    # -- discard ----------------------------------------------------------------------------------

    def discard(self, name: str) -> None:
        """Remove an entry, its data, and its segments unless a version that stands uses them."""
        with self._busy:
            entry = self._entry(name)
            note = entry.note
            if note.has_segments:
                self._check_account(entry)
                layout = large.Layout(note.container, note.prefix)
                if self._owed.look(entry).standing is Standing.OURS:
                    self._owed.clear_stored(note)
                elif not self._sending.remove(layout, list(note.stored)):
                    raise Unavailable(entry.subject, "its segments could not be removed")
            self._spool.remove(entry)


# -- saving ---------------------------------------------------------------------------------------


def needs_store(entry: Entry) -> bool:
    """Whether a part of an entry's bytes is not on the disk."""
    return entry.is_certain and bool(entry.note.local().missing(0, entry.size))


def save(entry: Entry, out: int, sending: Sending | None) -> list[tuple[int, int]]:
    """Write an entry's bytes into an empty file; return the spans that are nowhere.

    Those are zeros. ``sending`` may be None when nothing but the disk is needed.
    """
    note = entry.note
    os.ftruncate(out, entry.size)
    local = note.local() if entry.is_certain else Spans.of([(0, entry.size)])
    # Spans that the disk should have: no older bytes take their place.
    lost = local.copy()
    if entry.size and local.total:
        with entry.data.open("rb") as data:
            lost.remove(0, os.fstat(data.fileno()).st_size)
            for start, stop in _steps(list(local)):
                data.seek(start)
                _write(out, start, data.read(stop - start))
    if sending is not None:
        _add_stored(note, local, entry.size, out, sending)
    for span in lost:
        local.remove(*span)
    return local.missing(0, entry.size)


def _add_stored(note: Note, local: Spans, size: int, out: int, sending: Sending) -> None:
    """Write what of a file's gaps the store has, and add it to what is there."""
    for part in note.parts:
        if part.is_own and part.segment is not None:
            info = ObjectInfo(part.segment.key, part.segment.size, part.segment.etag, 0)
            spans = [
                (max(start, part.start), min(stop, part.stop))
                for start, stop in local.missing(part.start, part.stop)
            ]
            for span in _fetch(sending, part.segment.container, info, spans, part.origin, out):
                local.add(*span)
    if note.base is not None:
        spans = local.missing(0, min(size, note.base.size))
        for span in _fetch(sending, note.bucket, note.base, spans, 0, out):
            local.add(*span)


def _fetch(
    sending: Sending,
    bucket: str,
    info: ObjectInfo,
    spans: list[tuple[int, int]],
    origin: int,
    out: int,
) -> Iterator[tuple[int, int]]:
    """Write spans of a file that a version in the store has; yield those that it still has."""
    if not spans:
        return
    reader, window = sending.reader_of(bucket, info), Window()
    try:
        for start, stop in _steps(spans):
            data = reader.read(window, start - origin, stop - start)
            _write(out, start, data)
            yield start, start + len(data)
    except (NotFound, Stale) as exc:
        log.info("%s: %s", bucket, exc)
    finally:
        reader.close()


def _steps(spans: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    for first, last in spans:
        for start in range(first, last, STEP_BYTES):
            yield start, min(start + STEP_BYTES, last)


def _write(out: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(out, view, offset)
        view, offset = view[count:], offset + count


def describe(spans: list[tuple[int, int]]) -> str:
    """Return spans for people."""
    return "bytes " + ", ".join(f"{start}-{stop - 1}" for start, stop in spans)
