"""What is at a place: listings, the sizes that they cannot tell, and objects that are names alone.

Shared by all operations on names. Any thread may call any method.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future

from cachetools import LRUCache

from allasfs.deadline import current, within
from allasfs.errors import IsADirectory, NotFound, TimedOut
from allasfs.fs.attrs import Attr, Given, given_by
from allasfs.fs.files import Services
from allasfs.fs.names import Layout, Place
from allasfs.store.api import DIRECTORY_TYPE, Kind, ObjectInfo
from allasfs.transfer.listings import Found

# Versions of large objects whose size was asked for and is remembered.
REMEMBERED = 100_000


class _Bytes:
    """A body that is at hand."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size = len(data)

    def chunks(self) -> Iterator[bytes]:
        return iter((self._data,) if self._data else ())


class Tree:
    """The names of a mount: what is there, and the small objects that allasfs makes for them."""

    def __init__(self, services: Services, layout: Layout) -> None:
        self.layout = layout
        self._services = services
        self._listings = services.listings
        self._attributes = services.attributes
        # Leaf lock.
        self._lock = threading.Lock()
        # Sizes of objects that listings cannot tell, by bucket and listed version; guarded.
        self._resolved: LRUCache[tuple[str, ObjectInfo], Future[ObjectInfo]] = LRUCache(REMEMBERED)

    # -- what is there ----------------------------------------------------------------------------

    def place(self, path: str) -> Place:
        """Return where an absolute path of the mount lies; raise NotUtf8, NameTooLong."""
        return self.layout.place(path)

    def find(self, place: Place) -> Found:
        """Return what is at a place in a bucket, mounted prefix included."""
        if self.layout.is_root(place):
            return Found(is_dir=True)
        if self._listings.bucket(place.bucket) is None:
            return Found()
        return self._listings.find(place.bucket, place.key)

    def file(self, place: Place) -> ObjectInfo:
        """Return the stored file of a place; raise NotFound, IsADirectory."""
        if not place.key:
            raise IsADirectory(str(place.bucket))
        found = self.find(place)
        if found.is_dir:
            raise IsADirectory(place.key)
        if found.file is None:
            raise NotFound(place.key)
        return self.resolve(place.bucket, found.file)

    def attr(self, place: Place) -> Attr:
        """Return the attributes of what is stored at a place; raise NotFound."""
        if not place.key:
            return self._bucket_attr(place)
        found = self.find(place)
        if found.is_dir:
            return self._directory_attr(place)
        if found.file is None:
            raise NotFound(place.key)
        return self._attributes.file(place.bucket, self.resolve(place.bucket, found.file))

    def _bucket_attr(self, place: Place) -> Attr:
        if not place.bucket:
            return self._attributes.directory()
        bucket = self._listings.bucket(place.bucket)
        if bucket is None:
            raise NotFound(place.bucket)
        return self._attributes.directory(mtime_ns=bucket.mtime_ns)

    def _directory_attr(self, place: Place) -> Attr:
        marker = self._listings.cached_marker(place.bucket, place.prefix)
        if marker is None:
            return self._attributes.directory()
        given = self._attributes.given(place.bucket, marker)
        return self._attributes.directory(given, mtime_ns=marker.mtime_ns)

    def resolve(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        """Return the version with its true size and kind: one HEAD per version, where needed."""
        if info.kind is not Kind.UNKNOWN:
            return info
        deadline = current(self._services.config.timeout_s)
        try:
            return self.resolving(bucket, info).result(deadline.left())
        except futures.TimeoutError as exc:
            raise TimedOut(f"{bucket}/{info.key}", "its size was not told in time") from exc

    def resolving(self, bucket: str, info: ObjectInfo) -> Future[ObjectInfo]:
        """Begin to ask for the true size of a version, unless that has begun already."""
        key = (bucket, info)
        with self._lock:
            future = self._resolved.get(key)
            if future is None or (future.done() and future.exception() is not None):
                future = self._services.pool.submit(self._ask, bucket, info.key)
                self._resolved[key] = future
            return future

    def _ask(self, bucket: str, key: str) -> ObjectInfo:
        with within(self._services.config.timeout_s):
            head = self._services.store.head(bucket, key)
        self._attributes.remember(bucket, head.info, given_by(head.metadata))
        return head.info

    # -- objects that are names alone -------------------------------------------------------------

    def keep_directory(self, place: Place) -> None:
        """Store a marker in a directory that lost its last entry: it stays until rmdir."""
        if self.layout.is_root(place) or not place.key:
            return
        if self._listings.is_empty(place.bucket, place.prefix) and not self._listings.markers(
            place.bucket, place.prefix
        ):
            self.put_marker(place)

    def put_marker(
        self,
        place: Place,
        given: Given = Given(),  # noqa: B008 - frozen
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store the object that keeps a directory."""
        given = Given(mtime_ns=self._services.clock_ns()).changed(given)
        return self.put_small(place.bucket, place.prefix, b"", DIRECTORY_TYPE, given, metadata)

    def put_small(
        self,
        bucket: str,
        key: str,
        data: bytes,
        content_type: str,
        given: Given,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Store an object whose bytes are at hand, and enter it in the listings."""
        info = self._services.store.put(
            bucket,
            key,
            _Bytes(data),
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
            content_type=content_type,
            metadata={**(metadata or {}), **given.metadata()},
        )
        self._attributes.remember(bucket, info, given)
        self._listings.stored(bucket, info)
        return info
