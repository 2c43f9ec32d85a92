"""Large objects: their segments' names, how they are published, enumerated and removed.

Layout (docs/DESIGN.md, "Large objects"): segments of ``bucket/key`` are
``bucket_segments/key/<time>-<random>/<8 digits>``, each stored by one PUT, and the manifest is
published last. Static large objects (SLO) are used where listings give their true size, dynamic
ones (DLO) elsewhere. Old segments are removed only after the new state is published.
"""

from __future__ import annotations

import logging
import secrets
import time
from dataclasses import dataclass, replace

from allasfs.errors import FsError, NotFound, NotSupported
from allasfs.store.api import Kind, ObjectHead, ObjectInfo, Segment, Store

log = logging.getLogger(__name__)

SEGMENTS_SUFFIX = "_segments"
LARGE = frozenset({Kind.SLO, Kind.DLO})
# Metadata of an object whose segments another name may use.
SHARED = "segments-shared"
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


def published(store: Store, bucket: str, key: str, segments: list[Segment]) -> ObjectInfo | None:
    """Return the object if it is a manifest over just these segments, else None."""
    try:
        info = store.head(bucket, key).info
    except NotFound:
        return None
    wanted = {(segment.container, segment.key) for segment in segments}
    found = {(segment.container, segment.key) for segment in segments_of(store, bucket, info)}
    return info if found == wanted else None


def segments_of(store: Store, bucket: str, info: ObjectInfo) -> list[Segment]:
    """Return the segments that a large object has for itself; of any other, none.

    Raises NotSupported. Some clients leave out the slash at the end of a dynamic one's prefix,
    which then begins other objects' segments, too: only what is below it as a directory counts.
    """
    if info.kind not in LARGE:
        return []
    try:
        if info.kind is Kind.SLO:
            return store.slo_segments(bucket, info.key)
        container, _, prefix = store.head(bucket, info.key).manifest.partition("/")
        prefix = prefix.rstrip("/")
        if not prefix:
            return []
        return [
            Segment(container, part.key, part.size, part.etag)
            for page in store.listing(container, prefix=prefix + "/")
            for part in page.objects
        ]
    except NotFound:
        return []


def share(store: Store, bucket: str, info: ObjectInfo) -> ObjectHead:
    """Mark a large object before its manifest is copied; return it as it was.

    The copy carries the mark, too. While both names stand, and after a program that died between,
    neither takes the segments with it when it is removed.
    """
    head = store.head(bucket, info.key)
    store.post(bucket, head, {**head.metadata, SHARED: "yes"})
    return head


def unmarked(head: ObjectHead) -> ObjectHead:
    """Return the object without the mark that an interrupted rename left."""
    return replace(head, metadata={k: v for k, v in head.metadata.items() if k != SHARED})


def unshare(store: Store, bucket: str, info: ObjectInfo, before: ObjectHead) -> ObjectInfo:
    """Take the mark off the name that is left; return its version."""
    try:
        return store.post(bucket, replace(before, info=info), before.metadata)
    except FsError as exc:
        log.warning("%s/%s keeps its mark, and its segments for ever: %s", bucket, info.key, exc)
        return info


def _is_shared(store: Store, bucket: str, info: ObjectInfo) -> bool:
    try:
        is_shared = SHARED in store.head(bucket, info.key).metadata
    except NotFound:
        return False
    if is_shared:
        log.warning(
            "the segments of %s/%s are left over: a rename ended halfway, and another name may "
            "need them",
            bucket,
            info.key,
        )
    return is_shared


def own_segments(store: Store, bucket: str, info: ObjectInfo | None) -> list[Segment]:
    """Return the segments to be removed after an object is replaced.

    Where the server does not tell them (RGW, of static large objects) they are left over, and the
    log says so.
    """
    if info is None or info.kind not in LARGE or _is_shared(store, bucket, info):
        return []
    try:
        return segments_of(store, bucket, info)
    except NotSupported as exc:
        log.warning("the segments of %s/%s will be left over: %s", bucket, info.key, exc)
        return []


def remove_segments(store: Store, segments: list[Segment]) -> None:
    """Delete segments that nothing refers to; what cannot be deleted is only waste, and logged."""
    for container in sorted({segment.container for segment in segments}):
        keys = [segment.key for segment in segments if segment.container == container]
        try:
            store.delete_many(container, keys)
        except FsError as exc:
            log.warning("segments of a removed object are left over in %s: %s", container, exc)


def delete(store: Store, bucket: str, info: ObjectInfo) -> None:
    """Delete an object and, after it, its segments."""
    segments: list[Segment] = []
    if info.kind in LARGE and not _is_shared(store, bucket, info):
        try:
            segments = segments_of(store, bucket, info)
        except NotSupported:
            store.delete_slo(bucket, info.key)
            return
    store.delete(bucket, info.key)
    remove_segments(store, segments)
