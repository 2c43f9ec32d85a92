"""Uploader: a spool file becomes an object, by one PUT or by parallel segments and a manifest."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import Executor, wait

from allasfs.config import Config
from allasfs.deadline import current, within
from allasfs.errors import AccessDenied, Exists, FileTooBig, FsError, NotFound, Unavailable
from allasfs.store import large
from allasfs.store.api import ObjectInfo, Segment, Store
from allasfs.transfer.spool import SpoolFile, SpoolPart

log = logging.getLogger(__name__)


class Uploader:
    """Sends spool files to the store. The caller guards the file against changes meanwhile."""

    def __init__(self, store: Store, pool: Executor, config: Config) -> None:
        self._store = store
        self._pool = pool
        self._config = config

    def upload(
        self,
        bucket: str,
        key: str,
        file: SpoolFile,
        *,
        content_type: str,
        metadata: Mapping[str, str],
        replaced: ObjectInfo | None = None,
        exclusive: bool = False,
    ) -> ObjectInfo:
        """Store the whole file under the name and return the version that it makes.

        The segments of a large object that is ``replaced`` are removed after the new one stands.
        With ``exclusive`` nothing is replaced (``Store.put``): raises Exists.
        """
        old = large.own_segments(self._store, bucket, replaced)
        if file.size <= self._config.segment_threshold:
            source = file.part(0, file.size)
            info = self._store.put(
                bucket,
                key,
                source,
                md5=file.md5(),
                content_type=content_type,
                metadata=metadata,
                exclusive=exclusive,
            )
        else:
            info = self._segmented(bucket, key, file, content_type, metadata)
        large.remove_segments(self._store, old)
        return info

    def _segmented(
        self, bucket: str, key: str, file: SpoolFile, content_type: str, metadata: Mapping[str, str]
    ) -> ObjectInfo:
        layout = large.plan(self._store, bucket, key, file.size, self._config.segment_size)
        self._make_container(layout.container)
        jobs = [
            self._pool.submit(self._send, layout, index, file.part(*span))
            for index, span in enumerate(layout.spans())
        ]
        wait(jobs)
        # What their threads moved is the progress of this operation.
        current(self._config.timeout_s).progress()
        failed = [error for job in jobs if (error := job.exception()) is not None]
        stored = [job.result() for job in jobs if job.exception() is None]
        if failed:
            large.remove_segments(self._store, stored)
            raise failed[0]
        try:
            return large.publish(
                self._store,
                bucket,
                key,
                layout,
                stored,
                content_type=content_type,
                metadata=dict(metadata),
            )
        except Unavailable as exc:
            # The answer is lost, perhaps not the manifest.
            info = self._published(bucket, key, stored, exc)
            if info is not None:
                return info
            large.remove_segments(self._store, stored)
            raise
        except FsError:
            large.remove_segments(self._store, stored)
            raise

    def _published(
        self, bucket: str, key: str, stored: list[Segment], error: Unavailable
    ) -> ObjectInfo | None:
        """Return the version whose manifest is over these segments, None when there is none.

        Raises ``error`` when the store does not tell: then the segments stay.
        """
        try:
            return large.published(self._store, bucket, key, stored)
        except FsError as exc:
            log.warning("segments of %s/%s may be left over: %s", bucket, key, exc)
            raise error from exc

    def _send(self, layout: large.Plan, index: int, part: SpoolPart) -> Segment:
        with within(self._config.timeout_s):
            info = self._store.put(
                layout.container,
                layout.key(index),
                part,
                md5=part.md5(),
                content_type="application/octet-stream",
            )
        return Segment(layout.container, info.key, info.size, info.etag)

    def _make_container(self, container: str) -> None:
        try:
            try:
                self._store.head_container(container)
            except NotFound:
                self._store.create_container(container)
        except (AccessDenied, Exists) as exc:
            why = "large files need this bucket for their segments, and it may not be used"
            raise FileTooBig(container, why) from exc
