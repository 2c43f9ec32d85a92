"""The spool: a private local folder that holds written files until the store has them.

One mount owns a spool folder (ownership.py). A spool file is sparse: ``present`` says which parts
hold bytes, written here or fetched from the object that is being changed. The limit is hard: a
write beyond it waits while parts of files go up, whose room is given back when it is needed, and
else is refused with NoSpace before a byte of it is taken.

A file is ``<id>.data``. What is owed of it, to the store or to a person whose upload failed for
good, stands in the note beside it, ``<id>.upload`` (notes.py, journal.py).
"""

from __future__ import annotations

import logging
import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from allasfs.deadline import current
from allasfs.errors import Corrupt, NoSpace, SpoolUnusable
from allasfs.transfer import journal, notes
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import SUFFIX, SYNCED
from allasfs.transfer.ownership import Ownership
from allasfs.transfer.spans import Spans
from allasfs.transfer.spoolfile import SpoolFile, disk_error

log = logging.getLogger(__name__)

# A writer that waits for room looks this often whether bytes move.
LOOK_S = 0.5
# Where no operation says how long it may take (tests, programs that use a spool alone).
TIMEOUT_S = 60.0
# As many files are hashed at once as small computers have processors.
HASHERS = 2


class Owner(Protocol):
    """Someone who has room that may be given back."""

    def give_back(self) -> None:
        """Give back the room of what the store has."""

    def press(self) -> bool:
        """Send what there is, be it less than planned; return whether room may come of it."""


class Spool:
    """The folder, its lock, and the account of its bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Remember the settings; ``open()`` touches the disk."""
        self.folder = folder
        self.limit = limit
        # The address of the account that its files go to, for their notes.
        self.account = ""
        self._ownership = Ownership(folder)
        # Threads for checksums of files that are being written.
        self.hashing = ThreadPoolExecutor(HASHERS, thread_name_prefix="checksum")
        # Leaf lock; notified when room or the hope for it changes.
        self._lock = threading.Condition()
        self._used = 0  # guarded by _lock
        # Segments on their way up, whose room is given back when they are there; guarded by _lock.
        self._sending = 0
        # Grows while their bytes move; guarded by _lock.
        self._moves = 0
        # Of it, what kept files have, by their ids; guarded by _lock.
        self._kept: dict[str, int] = {}
        # Who has room to give back; guarded by _lock.
        self._owners: list[Owner] = []
        # All who have room; guarded by _lock.
        self._all: list[Owner] = []

    def open(self) -> None:
        """Make the folder (0700) and own it; raise SpoolUnusable."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.lstat()
            if not self.folder.is_dir() or self.folder.is_symlink():
                raise SpoolUnusable(f"{self.folder}: the spool must be a folder, not a link")
            if status.st_uid != os.geteuid():
                raise SpoolUnusable(f"{self.folder}: the spool folder belongs to another user")
            self.folder.chmod(0o700)
            self._ownership.take()
            self._sweep()
        except OSError as exc:
            self._ownership.give_up()
            raise SpoolUnusable(f"{self.folder}: the spool cannot be used: {exc.strerror}") from exc

    def _sweep(self) -> None:
        """Remove what is of no use to anybody; raise OSError."""
        for left in self.folder.glob("*.new"):
            # Another host that looks for the owner removes its own.
            left.unlink(missing_ok=True)
        for left in self.folder.glob(f"*{SYNCED}"):
            if not left.with_suffix(SUFFIX).exists():
                left.unlink()
        for left in self.folder.glob("*.data"):
            if not journal.is_owed(left):
                # Written by a process that died before anything of it was acknowledged.
                left.unlink()

    def close(self) -> None:
        """Give the folder free."""
        self.hashing.shutdown()
        self._ownership.give_up()

    @property
    def is_owned(self) -> bool:
        """Whether the folder is this process's own now."""
        return self._ownership.is_taken

    def entries(self) -> list[Entry]:
        """Return what the journal has now, in whatever state."""
        return journal.entries(self.folder)

    def notes(self) -> list[Path]:
        """Return the notes of uploads that have not ended."""
        return sorted(self.folder.glob(f"*{SUFFIX}"))

    @property
    def used(self) -> int:
        """Bytes that spool files hold now."""
        with self._lock:
            return self._used

    def kept(self) -> list[str]:
        """Return a line for each file whose upload failed: where it is and what it was for."""
        return [entry.line for entry in self.entries() if entry.is_kept]

    def create(self) -> SpoolFile:
        """Return a new empty spool file; raise NoSpace, Unavailable."""
        path = self.folder / f"{secrets.token_hex(8)}.data"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return SpoolFile(self, path, os.open(path, flags, 0o600))
        except OSError as exc:
            raise disk_error(str(path), exc) from exc

    def adopt(self, note: Path, size: int, present: Spans) -> SpoolFile:
        """Return the spool file that a note of another mount is about.

        Raises Unavailable, and Corrupt when it is shorter than the note says: what lacks must not
        go up as zeros.
        """
        path = note.with_suffix(".data")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            there = os.fstat(fd).st_size
        except OSError as exc:
            raise disk_error(str(path), exc) from exc
        noted = max((stop for _, stop in present), default=0)
        if there < noted:
            os.close(fd)
            raise Corrupt(str(path), f"{there} bytes are here, and its note tells of {noted}")
        with self._lock:
            # It is there, whatever the limit says.
            self._used += present.total - self._kept.pop(path.stem, 0)
        return SpoolFile(self, path, fd, size, present)

    def keep(self, name: str, count: int) -> None:
        """Note how much room a kept file has."""
        with self._lock:
            self._kept[name] = count

    def remove(self, entry: Entry) -> None:
        """Remove what is left of an entry on the disk."""
        # First the note: data alone are owed to nobody.
        notes.remove(entry.path)
        for path in (entry.folder / f"{entry.id}{journal.OLD}", entry.data):
            path.unlink(missing_ok=True)
        with self._lock:
            self._used -= self._kept.pop(entry.id, 0)
            self._lock.notify_all()

    # -- room -------------------------------------------------------------------------------------

    def reserve(self, count: int, *, wait: bool = True) -> None:
        """Take bytes of the limit; raise NoSpace.

        Waits, with the operation's deadline, while segments go up whose room will be free.
        """
        deadline = current(TIMEOUT_S)
        is_last_look = False
        while True:
            with self._lock:
                is_half_full = self._used + count > self.limit // 2
                owners = self._owners if is_half_full else []
                if owners:
                    self._owners = []
            for owner in owners:
                owner.give_back()
            with self._lock:
                if self._used + count <= self.limit:
                    self._used += count
                    return
                everybody = list(self._all) if is_last_look else []
                if not wait or not deadline.left():
                    raise self._full()
            if is_last_look and not any(owner.press() for owner in everybody):
                with self._lock:
                    # Another writer may have pressed first: then there is hope, or room already.
                    is_hopeless = not self._sending and not self._owners
                    if is_hopeless and self._used + count > self.limit:
                        raise self._full()
            with self._lock:
                # What ended a moment ago may have room to give back.
                is_last_look = not self._sending and not self._owners
                if self._sending and not self._owners:
                    moves = self._moves
                    self._lock.wait(min(LOOK_S, deadline.left()))
                    if moves != self._moves:
                        deadline.progress()

    def _full(self) -> NoSpace:
        return NoSpace(
            str(self.folder),
            f"the spool's limit of {self.limit} bytes is reached: "
            "close files, or mount with a larger spool-size",
        )

    def join(self, owner: Owner) -> None:
        """Remember someone who has room."""
        with self._lock:
            self._all.append(owner)

    def quit(self, owner: Owner) -> None:
        """Forget someone who has none any more."""
        with self._lock:
            self._all = [each for each in self._all if each is not owner]
            self._owners = [each for each in self._owners if each is not owner]

    def release(self, count: int) -> None:
        """Give bytes of the limit back."""
        with self._lock:
            self._used -= count
            self._lock.notify_all()

    def began(self) -> None:
        """A segment is on its way up."""
        with self._lock:
            self._sending += 1

    def moved(self) -> None:
        """Bytes of a segment were sent."""
        with self._lock:
            self._moves += 1

    @property
    def moves(self) -> int:
        """A number that grows while bytes of segments move."""
        with self._lock:
            return self._moves

    def ended(self, owner: Owner) -> None:
        """A segment is there, or failed: its owner may have room to give back."""
        with self._lock:
            self._sending -= 1
            if owner not in self._owners:
                self._owners.append(owner)
            self._lock.notify_all()
