"""The journal of a spool folder: an entry for each file that is owed to the store or to a person.

An entry is a note (notes.py) and the data beside it. What is not as this version writes it is an
entry all the same: a note that cannot be read, data whose note could not be written
(``<id>.kept``), and what earlier versions kept (``<id>.json``). Nothing here changes a file.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from allasfs.errors import Corrupt
from allasfs.transfer.checksum import CHUNK_BYTES
from allasfs.transfer.notes import KEPT, OWED, SUFFIX, Note
from allasfs.transfer.spoolfile import ASIDE

DATA = ".data"
# The notes of earlier versions: an object, why, and where its segments are.
OLD = ".json"

UNREADABLE = "its note cannot be read"
UNWRITTEN = "its note could not be written: the disk of the spool was full"


@dataclass(frozen=True)
class Entry:
    """A file in the spool, and what is known of it."""

    folder: Path
    id: str
    # What is known; of an entry that is not ``is_certain``, perhaps nothing but its state.
    note: Note
    # Whether the note says which bytes are here, and what they are of.
    is_certain: bool = True

    @property
    def path(self) -> Path:
        """The note."""
        return self.folder / f"{self.id}{SUFFIX}"

    @property
    def data(self) -> Path:
        """The local bytes; there may be none."""
        aside = self.folder / f"{self.id}{ASIDE}"
        return aside if aside.exists() else self.folder / f"{self.id}{DATA}"

    @property
    def state(self) -> str:
        """How far its upload came (notes.py)."""
        return self.note.state

    @property
    def is_kept(self) -> bool:
        """Whether a person decides what becomes of it."""
        return self.note.state == KEPT

    @property
    def size(self) -> int:
        """Bytes of the file."""
        if self.is_certain:
            return self.note.size
        with suppress(FileNotFoundError):
            return self.data.stat().st_size
        return 0

    def md5(self) -> str:
        """Return the MD5 of the local bytes (hex); what the disk lacks counts as zeros."""
        digest, left = hashlib.md5(usedforsecurity=False), self.size
        with self.data.open("rb") as file:
            while chunk := file.read(min(CHUNK_BYTES, left)):
                digest.update(chunk)
                left -= len(chunk)
        while left:
            chunk = bytes(min(CHUNK_BYTES, left))
            digest.update(chunk)
            left -= len(chunk)
        return digest.hexdigest()

    @property
    def subject(self) -> str:
        """The object, for people."""
        return self.note.subject if self.note.bucket else "an object that is not known"

    @property
    def line(self) -> str:
        """Where it is and why, for people."""
        what = f"{self.data} for {self.subject}: {self.note.why}"
        if self.note.parts:
            what += f"; a part of it is in the store, in {self.note.container}/{self.note.prefix}"
        return what


def entries(folder: Path) -> list[Entry]:
    """Return all entries of a folder, in the order of their ids."""
    names = {path.stem for suffix in (SUFFIX, ASIDE, OLD) for path in folder.glob(f"*{suffix}")}
    found = [_entry(folder, name) for name in sorted(names)]
    return [entry for entry in found if entry is not None]


def is_owed(data: Path) -> bool:
    """Whether somebody relies on a file of data, or may."""
    if data.with_suffix(OLD).exists():
        return True
    entry = _entry(data.parent, data.stem)
    return entry is not None and entry.state in OWED


def _entry(folder: Path, name: str) -> Entry | None:
    note: Note | None = None
    try:
        note = Note.load(folder / f"{name}{SUFFIX}")
    except Corrupt as exc:
        # Not there: there is none, or its upload ended since the folder was listed.
        if not isinstance(exc.__cause__, FileNotFoundError):
            return _uncertain(folder, name, None, f"{UNREADABLE}: {exc.__cause__}")
    if (folder / f"{name}{OLD}").exists():
        return _old(folder, name, note)
    if (folder / f"{name}{ASIDE}").exists():
        return _uncertain(folder, name, note, UNWRITTEN)
    return None if note is None else Entry(folder, name, note)


def _uncertain(folder: Path, name: str, note: Note | None, why: str) -> Entry:
    when = 0.0
    for path in sorted(folder.glob(f"{name}.*"), reverse=True):
        with suppress(FileNotFoundError):
            when = path.stat().st_mtime
    known = note or Note(KEPT, "", "")
    return Entry(
        folder, name, replace(known, state=KEPT, why=why, when=when, present=()), is_certain=False
    )


def _old(folder: Path, name: str, note: Note | None) -> Entry:
    path = folder / f"{name}{OLD}"
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        bucket, _, key = str(told["object"]).partition("/")
        why = str(told["why"])
    except (OSError, ValueError, KeyError, TypeError):
        return _uncertain(folder, name, note, UNREADABLE)
    if note is not None and note.state == KEPT:
        # It says all: it was written for the segments.
        return Entry(folder, name, replace(note, why=why, when=path.stat().st_mtime))
    return _uncertain(folder, name, Note(KEPT, bucket, key), why)
