"""Resume: what a mount before left of its uploads, finished, removed or kept by the next one.

It runs in a thread of its own after the mount answers. An upload that a program relies on is
finished, unless the object has changed since or the store refuses it: then it is kept for its user.
Segments of a file that was still being written belong to nothing and are removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from allasfs.deadline import within
from allasfs.errors import FsError, Unavailable
from allasfs.store import large
from allasfs.store.api import ObjectInfo
from allasfs.transfer import leftovers, notes
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import Note
from allasfs.transfer.owed import Owed, Standing, over_version
from allasfs.transfer.spool import Spool
from allasfs.transfer.spoolfile import SpoolFile
from allasfs.transfer.uploader import Uploader

log = logging.getLogger(__name__)

# Pauses after the store could not be reached: doubled each time.
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 8.0

# Told of a version that was stored: its bucket, and what it is.
Stored = Callable[[str, ObjectInfo], None]


class Resume:
    """Ends the uploads of which notes are in the spool when ``start`` is called."""

    def __init__(self, uploader: Uploader, spool: Spool, stored: Stored) -> None:
        self._store = uploader.sending.store
        self._timeout_s = uploader.sending.timeout_s
        self._owed = Owed(uploader, spool)
        self._spool = spool
        self._stored = stored
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._left: list[Entry] = []
        self._finished = 0
        self._foreign: list[str] = []
        self._promised: set[str] = set()
        # Whether the store could not be reached by the last attempt.
        self._is_away = False

    @property
    def left(self) -> int:
        """How many uploads are still to be ended."""
        return len(self._left)

    @property
    def finished(self) -> int:
        """How many uploads of mounts before are stored now."""
        return self._finished

    @property
    def foreign(self) -> list[str]:
        """A line for each upload that waits for a mount of another account."""
        return list(self._foreign)

    def start(self) -> None:
        """Begin, if there is anything to do."""
        entries = [each for each in self._spool.entries() if each.id not in self._promised]
        for entry in entries:
            if entry.is_kept:
                log.warning("data of a failed upload is in the spool: %s", entry.line)
        self._left = [entry for entry in entries if not entry.is_kept]
        if self._left:
            self._thread = threading.Thread(target=self._run, name="resume", daemon=True)
            self._thread.start()

    def promised(self) -> list[tuple[SpoolFile, Note]]:
        """Return the whole files that a mount before took, which this one may go on with."""
        found = []
        entries = self._spool.entries()
        replaced = {(entry.note.over, entry.note.bucket, entry.note.key) for entry in entries}
        for entry in entries:
            note = entry.note
            if (entry.id, note.bucket, note.key) in replaced:
                self._spool.remove(entry)
                self._promised.add(entry.id)
                continue
            is_whole = not note.local().missing(0, note.size) and entry.data.exists()
            is_ours = note.account in ("", self._spool.account)
            if note.state != notes.PENDING or not (is_whole and is_ours):
                continue
            try:
                file = self._spool.adopt(entry.path, note.size, note.local())
            except FsError as exc:
                log.error("%s: %s", entry.subject, exc)  # noqa: TRY400 - its text says all
                continue
            # There may be more of them than descriptors.
            file.rest()
            self._promised.add(entry.id)
            found.append((file, note))
        return found

    def stop(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while self._left and not self._stop.is_set():
            entry, *others = self._left
            if self._is_ended(entry):
                self._left = others
                self._is_away = False
                wait_s = FIRST_WAIT_S
            else:
                # One at a time finds out whether the store is back.
                self._left = [*others, entry]
                self._stop.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _is_ended(self, entry: Entry) -> bool:
        """End one upload; return False when it is to be tried again."""
        if entry.note.account not in ("", self._spool.account):
            if entry.note.state in leftovers.STATES and not entry.data.exists():
                log.info("left of %s for a mount of %s", entry.subject, entry.note.account)
                return True
            self._foreign.append(f"{entry.data} for {entry.subject} in {entry.note.account}")
            log.warning("waits for a mount of another account: %s", self._foreign[-1])
            return True
        try:
            # What was done of it before is noted.
            now = [each for each in self._spool.entries() if each.id == entry.id]
            with within(self._timeout_s):
                for each in now:
                    self._end(each)
        except Unavailable as exc:
            if not self._is_away:
                log.info("uploads of the mount before cannot be ended yet: %s", exc)
            self._is_away = True
            return False
        except FsError as exc:
            log.error("an upload of the mount before cannot be ended: %s", exc)  # noqa: TRY400
        except Exception:
            log.exception("ending the upload of %s", entry.subject)
        return True

    def _end(self, entry: Entry) -> None:
        note = entry.note
        if note.state in leftovers.STATES:
            leftovers.end(self._store, note)
            self._spool.remove(entry)
            log.info("what a version of %s left before is removed", note.subject)
            return
        is_owed = note.state in notes.TO_FINISH and entry.data.exists()
        try:
            look = self._owed.look(entry)
        except Unavailable:
            raise
        except FsError as exc:
            if not is_owed:
                raise
            self._keep(entry, str(exc))
            return
        if look.standing is Standing.OURS:
            self._owed.clear_stored(note)
            self._spool.remove(entry)
            self._finished += 1
            log.info("%s was stored before the program died", note.subject)
        elif not is_owed:
            if note.state in notes.TO_FINISH:
                log.error("the data of %s are not in the spool any more", entry.subject)
            if note.state == notes.UNSURE and look.standing is Standing.OTHER:
                log.warning("segments of %s may be left over: %s", note.subject, look.error.why)
            elif note.has_segments:
                large.remove_all(self._store, large.Layout(note.container, note.prefix))
                log.info("segments of %s are removed: its upload had not begun", note.subject)
            self._spool.remove(entry)
        elif look.standing is Standing.OTHER:
            self._keep(entry, look.error.why, is_gone=look.head is None)
        elif look.standing is Standing.EARLIER and look.head is not None:
            self._finish(entry, over_version(note, look.head.info))
        else:
            self._finish(entry, note)

    def _finish(self, entry: Entry, note: Note) -> None:
        draft = self._owed.draft(entry, note)
        try:
            info = self._owed.upload(draft, note)
        except Unavailable:
            draft.leave()
            raise
        except FsError as exc:
            self._log_kept(entry, str(exc), draft.keep(str(exc)))
        else:
            draft.discard()
            self._finished += 1
            self._stored(note.bucket, info)
            log.info("the upload of %s that was interrupted is finished", note.subject)

    def _keep(self, entry: Entry, why: str, *, is_gone: bool = False) -> None:
        draft = self._owed.draft(entry)
        # Its manifest may have been stored, and renamed by another client since.
        draft.is_unsure = is_gone and entry.note.is_all_sent
        self._log_kept(entry, why, draft.keep(why))

    @staticmethod
    def _log_kept(entry: Entry, why: str, where: str) -> None:
        log.error(
            "the upload of %s that was interrupted is not finished (%s): kept in %s",
            entry.subject,
            why,
            where,
        )
