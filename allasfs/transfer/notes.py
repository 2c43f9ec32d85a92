"""Notes beside spool files: what of a file was sent as segments, for the next mount to read.

A note is written before the first segment goes up and removed when the manifest stands or the
segments are gone. Until ``close()`` or ``fsync()`` begins it says only where the segments are:
they belong to nothing, and the next mount removes them. From then on it says all that is needed to
finish the upload. Notes are replaced as a whole; what must outlive a loss of power is synced.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from allasfs.errors import Corrupt
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer.parts import Part

SUFFIX = ".upload"
WRITING = "writing"
CLOSING = "closing"
# The manifest stands; old segments may be left.
PUBLISHED = "published"
# The manifest may stand or not.
UNSURE = "unsure"
KEPT = "kept"
# A copy of a manifest that is being replaced lies at container and prefix; ``base`` is its version.
ASIDE = "aside"
# That version is replaced: the copy is to be deleted with its segments.
REPLACED = "replaced"


@dataclass(frozen=True)
class Note:
    """What is to be known of an upload."""

    state: str
    bucket: str
    key: str
    # Where its segments go.
    container: str
    prefix: str
    size: int = 0
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

    @property
    def subject(self) -> str:
        """The object, for messages."""
        return f"{self.bucket}/{self.key}"

    def at(self, state: str) -> Note:
        """Return it in another state."""
        return replace(self, state=state)

    def save(self, path: Path, *, durable: bool) -> None:
        """Write it to the disk as a whole, or leave the older one; raises OSError."""
        new = path.with_suffix(".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        with open(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
            json.dump(self._plain(), file)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        new.replace(path)
        if durable:
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _plain(self) -> dict[str, Any]:
        plain = asdict(self)
        if self.base is not None:
            plain["base"]["kind"] = self.base.kind.name
        return plain

    @classmethod
    def load(cls, path: Path) -> Note:
        """Read a note; raise Corrupt."""
        try:
            plain = json.loads(path.read_text(encoding="utf-8"))
            base = plain.pop("base")
            parts = plain.pop("parts")
            return cls(
                base=None if base is None else _info(base),
                parts=tuple(_part(part) for part in parts),
                present=tuple((start, stop) for start, stop in plain.pop("present")),
                stored=tuple(Segment(**segment) for segment in plain.pop("stored")),
                old=tuple(Segment(**segment) for segment in plain.pop("old")),
                **plain,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as exc:
            raise Corrupt(str(path), f"the note of an upload cannot be read: {exc}") from exc


def _info(plain: dict[str, Any]) -> ObjectInfo:
    return ObjectInfo(**{**plain, "kind": Kind[plain["kind"]]})


def _part(plain: dict[str, Any]) -> Part:
    named = {name: _segment(plain[name]) for name in ("segment", "copied")}
    return Part(**{**plain, **named})


def _segment(plain: dict[str, Any] | None) -> Segment | None:
    return None if plain is None else Segment(**plain)
