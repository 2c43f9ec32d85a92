"""Sending: segments to the store, from it, and between its names; the settings of large files."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Executor, Future

from allasfs.config import Config
from allasfs.deadline import Deadline, sharing, within
from allasfs.errors import (
    AccessDenied,
    Exists,
    FileTooBig,
    FsError,
    NotFound,
    Stale,
    TimedOut,
    Unavailable,
)
from allasfs.store import large
from allasfs.store.api import Capabilities, Kind, ObjectInfo, Segment, Store
from allasfs.transfer.blocks import Memory
from allasfs.transfer.reader import Reader
from allasfs.transfer.spool import Spool
from allasfs.transfer.spoolfile import SpoolPart

log = logging.getLogger(__name__)

# A dynamic manifest has no limit of its own; beyond this the server lists its segments page by page
# for each request.
MOST_DYNAMIC = 10_000
NOT_READABLE = (
    "the bucket is another project's, which could not read a large file of yours on this server:"
    " mount as that project, or keep the file in one piece (segment-threshold, at most 5G), or let"
    " that project make {container} and share it as it shares {bucket}, and mount with"
    " large-objects=slo"
)
MAY_NOT_BE_USED = "large files need this bucket for their segments, and it may not be used"


class Sending:
    """What drafts and uploads send segments with; any thread may use it."""

    def __init__(
        self,
        store: Store,
        pool: Executor,
        config: Config,
        *,
        memory: Memory | None = None,
        readers: Executor | None = None,
    ) -> None:
        """``pool`` runs what sends; ``readers`` and ``memory`` serve what is read back."""
        self.store = store
        self.pool = pool
        self.config = config
        self._memory = memory or Memory(config.memory)
        self._readers = readers or pool
        # Buckets that are known to be this project's.
        self._own: set[str] = set()

    @property
    def limits(self) -> Capabilities:
        """What the server can do."""
        return self.store.capabilities()

    @property
    def timeout_s(self) -> float:
        """How long nothing may move."""
        return self.config.timeout_s

    @property
    def is_static(self) -> bool:
        """Whether new manifests are static."""
        return large.is_static(self.limits, self.config.large_objects)

    @property
    def is_checked(self) -> bool:
        """Whether the server refuses a manifest whose segments are not there: Swift's static ones.

        A dynamic one has what is there when it is read, and RGW takes any static one.
        """
        return self.is_static and self.limits.slo_sizes_listed

    @property
    def most_segments(self) -> int:
        """How many segments a large object may have."""
        return self.limits.max_segments if self.is_static else MOST_DYNAMIC

    def threshold(self, spool: Spool) -> int:
        """Return the size above which files become large objects.

        Half of a small spool leaves room for what is written while the first segments go up.
        """
        room = max(spool.limit // 2, large.SMALLEST_SEGMENT)
        return min(self.config.segment_threshold, room)

    def sizes(self, spool: Spool) -> large.Sizes:
        """Return how large the segments of a file are."""
        return large.sizes(self.limits, self.config.segment_size, room=spool.limit)

    def look(self, bucket: str, info: ObjectInfo) -> Future[large.Found]:
        """Begin to ask what the store has at the name of a large object."""

        def job() -> large.Found:
            with within(self.timeout_s):
                return large.look(self.store, bucket, info)

        return self.pool.submit(job)

    def make_container(self, container: str) -> None:
        """See that the bucket for segments is there; raise FileTooBig when it may not be used."""
        if not self.limits.owner_reads_all:
            self._check_owner(container)
        try:
            try:
                self.store.head_container(container)
            except NotFound:
                self.store.create_container(container)
        except (AccessDenied, Exists) as exc:
            raise FileTooBig(container, MAY_NOT_BE_USED) from exc

    def _check_owner(self, container: str) -> None:
        """Raise FileTooBig when the owner of the bucket could not read a large file in it.

        Manifests and segments are their writer's; the bucket's owner reads a static one over
        segments in a bucket of that project, if that is shared as the bucket itself.
        """
        bucket = container.removesuffix(large.SEGMENTS_SUFFIX)
        if bucket in self._own:
            return
        try:
            own = {info.name for info in self.store.containers()}
        except AccessDenied:
            own = set()
        self._own |= own
        if bucket in own:
            return
        if self.is_static and container not in own:
            try:
                self.store.head_container(container)
            except (AccessDenied, NotFound):
                pass
            else:
                return
        raise FileTooBig(bucket, NOT_READABLE.format(container=container, bucket=bucket))

    def put(
        self,
        container: str,
        key: str,
        source: SpoolPart,
        is_useless: Callable[[], bool],
        deadline: Deadline | None = None,
    ) -> Segment:
        """Store a segment; once more when its connection died, unless that would be useless.

        ``deadline`` is that of the operation that waits for it; without one it has its own.
        """
        try:
            return self._put(container, key, source, deadline)
        except TimedOut:
            raise
        except Unavailable as exc:
            if is_useless():
                raise
            log.info("%s: sent again", exc)
            return self._put(container, key, source, deadline)

    def _put(
        self, container: str, key: str, source: SpoolPart, deadline: Deadline | None
    ) -> Segment:
        with sharing(deadline or Deadline(self.timeout_s)):
            try:
                info = self.store.put(
                    container,
                    key,
                    source,
                    md5=source.md5(),
                    content_type="application/octet-stream",
                )
            except AccessDenied as exc:
                # The credentials are good if the bucket can be looked at.
                self.store.head_container(container)
                raise FileTooBig(container, MAY_NOT_BE_USED) from exc
        return Segment(container, info.key, info.size, info.etag)

    def copy(self, segment: Segment, container: str, key: str) -> Segment:
        """Copy a segment, or an object that becomes one, on the server; raise Stale."""
        with within(self.timeout_s):
            info = ObjectInfo(segment.key, segment.size, segment.etag, 0)
            try:
                copied = self.store.copy(segment.container, info, (container, key))
            except NotFound as exc:
                raise Stale(f"{segment.container}/{segment.key}", "removed meanwhile") from exc
            if copied.etag != segment.etag:
                # Not every server tells the checksum of a copy at once.
                copied = self.store.head(container, key).info
        if (copied.size, copied.etag) != (segment.size, segment.etag):
            raise Stale(f"{segment.container}/{segment.key}", "replaced meanwhile")
        return Segment(container, key, copied.size, copied.etag)

    def reader(self, segment: Segment) -> Reader:
        """Return a reader of a segment."""
        info = ObjectInfo(segment.key, segment.size, segment.etag, 0, kind=Kind.PLAIN)
        return self.reader_of(segment.container, info)

    def reader_of(self, bucket: str, info: ObjectInfo) -> Reader:
        """Return a reader of a version."""
        return Reader(
            self.store, self._memory, self._readers, bucket, info, timeout_s=self.timeout_s
        )

    def remove(self, layout: large.Layout, stored: list[Segment]) -> bool:
        """Remove all segments of an upload; return whether they are gone."""
        if not large.remove_segments(self.store, stored):
            return False
        try:
            # Those whose answers were lost are in the listing only.
            large.remove_all(self.store, layout)
        except FsError as exc:
            log.warning("segments of an upload that failed are left over: %s", exc)
            return False
        return True
