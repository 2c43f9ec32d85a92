"""Large objects: their segments' names, how they are published, enumerated and removed.

Layout (docs/DESIGN.md, "Large objects"): segments of ``bucket/key`` are
``bucket_segments/key/<time>-<random>/<8 digits>``, each stored by one PUT, and the manifest is
published last. Static large objects (SLO) are used where listings give their true size, dynamic
ones (DLO) elsewhere. Old segments are removed only after the new state is published.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass

from allasfs.errors import NotFound
from allasfs.store.api import Kind, ObjectInfo, Segment, Store

SEGMENTS_SUFFIX = "_segments"
# Parts below this cost more in requests than they gain.
SMALLEST_SEGMENT = 1024 * 1024


@dataclass(frozen=True)
class Plan:
    """Where the segments of one upload go and how large they are; the last may be shorter."""

    container: str
    prefix: str
    segment_size: int
    size: int

    def spans(self) -> list[tuple[int, int]]:
        """Return the half-open spans of the segments, in order."""
        step = self.segment_size
        return [(start, min(start + step, self.size)) for start in range(0, self.size, step)]

    def key(self, index: int) -> str:
        """Return the object name of a segment; names sort in the order of the file."""
        return f"{self.prefix}{index:08d}"


def plan(store: Store, bucket: str, key: str, size: int, segment_size: int) -> Plan:
    """Return the layout of a new large object; segments grow so that their count stays allowed."""
    limits = store.capabilities()
    fewest = -(-size // limits.max_segments)
    step = min(max(segment_size, fewest, SMALLEST_SEGMENT), limits.max_put_bytes)
    unique = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
    return Plan(bucket + SEGMENTS_SUFFIX, f"{key}/{unique}/", step, size)


def publish(
    store: Store,
    bucket: str,
    key: str,
    layout: Plan,
    segments: list[Segment],
    *,
    content_type: str,
    metadata: dict[str, str],
) -> ObjectInfo:
    """Write the manifest over stored segments; return the version it makes."""
    capabilities = store.capabilities()
    if capabilities.static_large_objects and capabilities.slo_sizes_listed:
        return store.put_slo(bucket, key, segments, content_type=content_type, metadata=metadata)
    manifest = f"{layout.container}/{layout.prefix}"
    return store.put_dlo(bucket, key, manifest, content_type=content_type, metadata=metadata)


def segments_of(store: Store, bucket: str, info: ObjectInfo) -> list[Segment]:
    """Return the segments of a large object; of a plain one, none. Raises NotSupported."""
    if info.kind is Kind.SLO:
        return store.slo_segments(bucket, info.key)
    if info.kind is not Kind.DLO:
        return []
    container, _, prefix = store.head(bucket, info.key).manifest.partition("/")
    if not prefix:
        return []
    try:
        return [
            Segment(container, part.key, part.size, part.etag)
            for page in store.listing(container, prefix=prefix)
            for part in page.objects
        ]
    except NotFound:
        return []


def remove_segments(store: Store, segments: list[Segment]) -> None:
    """Delete the segments of an object whose manifest is gone."""
    for container in sorted({segment.container for segment in segments}):
        store.delete_many(container, [s.key for s in segments if s.container == container])


def delete(store: Store, bucket: str, info: ObjectInfo) -> None:
    """Delete an object and, after it, its segments."""
    segments = segments_of(store, bucket, info)
    store.delete(bucket, info.key)
    remove_segments(store, segments)
