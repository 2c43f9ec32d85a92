"""Notes beside spool files: the journal of what is owed to the store, for whoever comes after.

A note is written before the first segment goes up, when a file is taken that goes up later, and
when an upload failed for good. It is removed when the new version stands, or its segments are gone.
Until ``close()`` or ``fsync()`` begins it says only where the segments are: they belong to nothing,
and the next mount removes them. From then on it says all that is needed to finish the upload. Notes
are replaced as a whole; what must outlive a loss of power is synced. Where a synced one is replaced
by one that is not, it stays beside it, for the case that power is lost.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from allasfs.errors import Corrupt
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer.parts import Part
from allasfs.transfer.spans import Spans

SUFFIX = ".upload"
# The last note of this name that was synced, while later ones were not.
SYNCED = ".synced"
WRITING = "writing"
CLOSING = "closing"
# The manifest stands; old segments may be left.
PUBLISHED = "published"
# The manifest may stand or not.
UNSURE = "unsure"
# The program was told that the file is taken, and it is still to be uploaded.
PENDING = "pending"
# The program was told that the upload failed; its user decides (``allasfs recover``).
KEPT = "kept"
# A copy of a manifest that is being replaced lies at container and prefix; ``base`` is its version.
ASIDE = "aside"
# That version is replaced: the copy is to be deleted with its segments.
REPLACED = "replaced"
# A version whose segments are known is being replaced by one with the ETag of the note.
REPLACING = "replacing"
# A version is being removed; when it is gone, the note is ``published``.
REMOVING = "removing"

# Sizes and MD5s of versions.
Tried = tuple[tuple[int, str], ...]

# Somebody relies on these: their data stay until the store has them, or a person discards them.
OWED = (CLOSING, PENDING, KEPT)
# Mounts end these by themselves.
TO_FINISH = (CLOSING, PENDING)


@dataclass(frozen=True)
class Note:
    """What is to be known of an upload."""

    state: str
    bucket: str
    key: str
    # Where its segments go; empty when it has none.
    container: str = ""
    prefix: str = ""
    size: int = 0
    # Empty when the upload failed before it was known: then ``metadata`` is what was changed alone.
    content_type: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    exclusive: bool = False
    # The version that is changed or replaced.
    base: ObjectInfo | None = None
    # Spans that are on the disk.
    present: tuple[tuple[int, int], ...] = ()
    parts: tuple[Part, ...] = ()
    # Own segments that are stored, also those that are not needed any more.
    stored: tuple[Segment, ...] = ()
    # Segments of the version that is replaced: removed when the new one stands.
    old: tuple[Segment, ...] = ()
    etag: str = ""
    # Sizes and MD5s of what was sent without an answer: it may be stored in place of the base.
    tried: Tried = ()
    # Why the upload failed, and when (seconds since 1970).
    why: str = ""
    when: float = 0.0
    # The entry whose name this one took: it is worth nothing as soon as that is noted.
    over: str = ""
    # The account's address: the same bucket name may be in two.
    account: str = ""

    @property
    def has_segments(self) -> bool:
        """Whether there is a place for its segments, which has some or had some."""
        return bool(self.container)

    @property
    def is_all_sent(self) -> bool:
        """Whether all of it is in segments, so that a manifest over them may be stored."""
        sent = Spans.of((part.start, part.stop) for part in self.parts if part.segment is not None)
        return self.has_segments and not sent.missing(0, self.size)

    def has_tried(self, info: ObjectInfo) -> bool:
        """Whether a version may be what was sent without an answer."""
        return (info.size, info.etag) in self.tried

    def local(self) -> Spans:
        """Return the spans that are on the disk."""
        return Spans.of(self.present)

    def missing(self) -> list[tuple[int, int]]:
        """Return the spans that are neither on the disk nor in segments of its own."""
        spans = self.local()
        for part in self.parts:
            if part.is_own and part.segment is not None:
                spans.add(part.start, part.stop)
        return spans.missing(0, self.size)

    @property
    def subject(self) -> str:
        """The object, for messages."""
        return f"{self.bucket}/{self.key}"

    def save(self, path: Path, *, durable: bool) -> None:
        """Write it to the disk as a whole, or leave the older one; raises OSError."""
        new = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(self._plain(), file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        synced = path.with_suffix(SYNCED)
        stays = self.state in OWED and not durable
        if stays:
            # A loss of power may leave the name of the new note, and none of its bytes (XFS).
            with suppress(OSError):
                os.link(path, synced)
        new.replace(path)
        if durable:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        if not stays:
            synced.unlink(missing_ok=True)

    def _plain(self) -> dict[str, Any]:
        plain = asdict(self)
        if self.base is not None:
            plain["base"]["kind"] = self.base.kind.name
        return plain

    @classmethod
    def load(cls, path: Path) -> Note:
        """Read a note, or the one that was synced before; raise Corrupt."""
        try:
            return cls._read(path)
        except Corrupt as exc:
            synced = path.with_suffix(SYNCED)
            if isinstance(exc.__cause__, FileNotFoundError) or not synced.exists():
                raise
            return cls._read(synced)

    @classmethod
    def _read(cls, path: Path) -> Note:
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            base = plain.pop("base")
            parts = plain.pop("parts")
            return cls(
                base=None if base is None else _info(base),
                parts=tuple(_part(part) for part in parts),
                present=tuple((start, stop) for start, stop in plain.pop("present")),
                tried=tuple((size, etag) for size, etag in plain.pop("tried", ())),
                stored=tuple(Segment(**segment) for segment in plain.pop("stored")),
                old=tuple(Segment(**segment) for segment in plain.pop("old")),
                **plain,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Corrupt(str(path), f"the note of an upload cannot be read: {exc}") from exc


def remove(path: Path) -> None:
    """Remove a note, if there is one."""
    path.unlink(missing_ok=True)
    # Without the note it says nothing.
    path.with_suffix(SYNCED).unlink(missing_ok=True)


def _info(plain: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(**{**plain, "kind": Kind[plain["kind"]]})


def _part(plain: dict[str, Any]) -> Part:
    named = {name: _segment(plain[name]) for name in ("segment", "copied")}
    return Part(**{**plain, **named})


def _segment(plain: dict[str, Any] | None) -> Segment | None:
    return None if plain is None else Segment(**plain)
