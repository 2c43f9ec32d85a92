"""What an in-memory store holds, seen without a request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from allasfs.errors import FsError
from allasfs.fs.attrs import SYMLINK_TYPE
from allasfs.store.api import DIRECTORY_TYPES
from tests.fakes.memstore import MemStore
from tests.model.reference import Kind

SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Stored:
    """An object: ``content`` is None when its segments are gone, ``record`` is of this version."""

    kind: Kind
    content: bytes | None
    record: Any
    mtime_ns: int
    metadata: dict[str, str]
    segments: frozenset[str]
    # Whether it is a manifest, be it over nothing.
    is_large: bool = False


def objects(store: MemStore, bucket: str, prefix: str) -> dict[str, Stored]:
    """Return the objects below a prefix by the rest of their names."""
    found = {}
    for key, record in store._containers[bucket].items():
        if not key.startswith(prefix) or key == prefix:
            continue
        content_type = record.content_type.partition(";")[0]
        kind = Kind.LINK if content_type == SYMLINK_TYPE else Kind.FILE
        try:
            content: bytes | None = store._content(record)
        except FsError:
            content = None
        if key.endswith("/") or (not content and content_type in DIRECTORY_TYPES):
            kind = Kind.MARKER
        segments = {part.key for part in record.segments or ()}
        if record.manifest:
            start = record.manifest.partition("/")[2]
            parts = store._containers.get(f"{bucket}_segments", {})
            segments |= {part for part in parts if part.startswith(start)}
        found[key[len(prefix) :]] = Stored(
            kind,
            content,
            record,
            record.mtime_ns,
            dict(record.metadata),
            frozenset(segments),
            is_large=record.segments is not None or bool(record.manifest),
        )
    return found


def orphans(store: MemStore, bucket: str) -> set[str]:
    """Return the segments that no object needs."""
    needed: set[str] = set()
    for stored in objects(store, bucket, "").values():
        needed |= stored.segments
    return set(store._containers.get(f"{bucket}_segments", {})) - needed


def times(stored_ns: int) -> frozenset[int]:
    """Return the times by which servers tell when an object was stored."""
    whole = stored_ns // SECOND_NS * SECOND_NS
    return frozenset(
        {stored_ns, stored_ns // 10_000 * 10_000, stored_ns // 1_000_000 * 1_000_000, whole}
        | {whole + SECOND_NS}
    )


def attributes_of(stored: Stored) -> tuple[int | None, int | None]:
    """Return the time and the mode that the metadata of an object give."""
    mtime_ns = mode = None
    if "mtime" in stored.metadata:
        seconds, _, fraction = stored.metadata["mtime"].partition(".")
        mtime_ns = int(seconds) * SECOND_NS + int(fraction.ljust(9, "0"))
    if "mode" in stored.metadata:
        mode = int(stored.metadata["mode"], 8)
    return mtime_ns, mode
