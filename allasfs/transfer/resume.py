"""Resume: what a killed mount left of its uploads, finished or removed by the next one.

It runs in a thread of its own after the mount answers. An upload that a program was waiting for is
finished, unless the object has changed since; segments of a file that was still being written
belong to nothing and are removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from allasfs.deadline import within
from allasfs.errors import Corrupt, Exists, FsError, NotFound, NotSupported, Stale, Unavailable
from allasfs.store import large
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer import leftovers, notes
from allasfs.transfer.draft import Draft, Fetch
from allasfs.transfer.notes import Note
from allasfs.transfer.readahead import Window
from allasfs.transfer.spans import Spans
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader, nothing

log = logging.getLogger(__name__)

# A store that cannot be reached now is asked again after this, and then less often.
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0

# Told of a version that was stored: its bucket, and what it is.
Stored = Callable[[str, ObjectInfo], None]


class Resume:
    """Ends the uploads of which notes are in the spool when ``start`` is called."""

    def __init__(self, uploader: Uploader, spool: Spool, stored: Stored) -> None:
        self._uploader = uploader
        self._store = uploader.sending.store
        self._spool = spool
        self._stored = stored
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._left: list[Path] = []

    @property
    def left(self) -> int:
        """How many uploads are still to be ended."""
        return len(self._left)

    def start(self) -> None:
        """Begin, if there is anything to do."""
        self._left = self._spool.notes()
        if self._left:
            self._thread = threading.Thread(target=self._run, name="resume", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while self._left and not self._stop.is_set():
            for path in list(self._left):
                if self._stop.is_set():
                    return
                if self._is_ended(path):
                    self._left.remove(path)
            if self._left:
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _is_ended(self, path: Path) -> bool:
        """End one upload; return False when it is to be tried again."""
        try:
            note = Note.load(path)
            if note.state == notes.KEPT:
                return True
            with within(self._uploader.sending.timeout_s):
                self._end(path, note)
        except Corrupt as exc:
            log.error("%s", exc)  # noqa: TRY400 - its text says all
        except Unavailable as exc:
            log.info("an upload of the mount before cannot be ended yet: %s", exc)
            return False
        except FsError as exc:
            log.error("an upload of the mount before cannot be ended: %s", exc)  # noqa: TRY400
        except Exception:
            log.exception("ending the upload of %s", path)
        return True

    def _end(self, path: Path, note: Note) -> None:
        if note.state in (notes.PUBLISHED, notes.ASIDE, notes.REPLACED):
            leftovers.end(self._store, note)
            log.info("what a version of %s left before is removed", note.subject)
        elif self._is_published(note):
            self._clear_published(note)
            log.info("%s was stored before the program died", note.subject)
        elif note.state == notes.CLOSING and path.with_suffix(".data").exists():
            if self._is_base_there(note):
                self._finish(path, note)
                return
            large.remove_all(self._store, _layout(note))
            log.warning(
                "the upload of %s that was interrupted is dropped: the object was changed since",
                note.subject,
            )
        else:
            large.remove_all(self._store, _layout(note))
            log.info("segments of %s are removed: its upload had not begun", note.subject)
        path.with_suffix(".data").unlink(missing_ok=True)
        path.unlink()

    def _is_published(self, note: Note) -> bool:
        """Whether the object is a manifest over these segments."""
        try:
            head = self._store.head(note.bucket, note.key)
        except NotFound:
            return False
        if head.info.kind is Kind.DLO:
            return head.manifest == f"{note.container}/{note.prefix}"
        if head.info.kind is not Kind.SLO or note.state == notes.WRITING:
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

    def _clear_published(self, note: Note) -> None:
        """Remove what the published version does not use."""
        info = self._store.head(note.bucket, note.key).info
        try:
            used = large.segments_of(self._store, note.bucket, info)
        except NotSupported:
            used = _segments(note)
        unused = [each for each in (*note.old, *note.stored) if each not in used]
        large.remove_segments(self._store, unused)

    def _is_base_there(self, note: Note) -> bool:
        """Whether the object is as it was when the upload began."""
        try:
            now = self._store.head(note.bucket, note.key).info
        except NotFound:
            return note.base is None
        return note.base is not None and now.same_bytes(note.base)

    def _finish(self, path: Path, note: Note) -> None:
        present = Spans()
        for span in note.present:
            present.add(*span)
        file = self._spool.adopt(path, note.size, present)
        draft = Draft.restored(self._uploader.sending, file, note)

        def check() -> None:
            if not self._is_base_there(note):
                raise Stale(note.subject, "changed since the upload was interrupted")

        fetch, close = self._base(note)
        try:
            info = self._uploader.upload(
                draft,
                content_type=note.content_type,
                metadata=note.metadata,
                fetch=fetch,
                exclusive=note.exclusive,
                check=check,
            )
        except Unavailable:
            draft.leave()
            raise
        except (Stale, Exists) as exc:
            log.warning("the upload of %s that was interrupted is dropped: %s", note.subject, exc)
            draft.is_owed = False
            draft.discard()
        except FsError as exc:
            draft.is_owed = False
            kept = draft.keep(str(exc))
            log.error(  # noqa: TRY400 - its text says all
                "the upload of %s that was interrupted failed (%s): kept in %s",
                note.subject,
                exc,
                kept,
            )
        else:
            draft.discard()
            self._stored(note.bucket, info)
            log.info("the upload of %s that was interrupted is finished", note.subject)
        finally:
            close()

    def _base(self, note: Note) -> tuple[Fetch, Callable[[], None]]:
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


def _segments(note: Note) -> list[Segment]:
    """Return the segments that a version is to have of which all is sent."""
    parts = [part.copied or part.segment for part in note.parts]
    return [segment for segment in parts if segment is not None]


def _layout(note: Note) -> large.Layout:
    return large.Layout(note.container, note.prefix)
