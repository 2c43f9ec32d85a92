"""What is at a place: listings, the sizes that they cannot tell, and objects that are names alone.

Shared by all operations on names. Any thread may call any method.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent import futures
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from cachetools import LRUCache

from allasfs.deadline import current, within
from allasfs.errors import AccessDenied, IsADirectory, NotFound, TimedOut
from allasfs.fs.attrs import Attr, Given, given_by
from allasfs.fs.names import Layout, Place
from allasfs.fs.openfile import Services
from allasfs.store.api import DIRECTORY_TYPE, Kind, ObjectHead, ObjectInfo
from allasfs.transfer.directories import Found

# Versions that were asked for and are remembered.
REMEMBERED = 100_000
# In place of a version: a bucket has none.
BUCKET = ObjectInfo("", 0, "", 0)


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
        self._is_exact = services.config.exact_attributes
        # Leaf lock for what follows.
        self._lock = threading.Lock()
        # Answers to HEAD by bucket and listed version.
        self._asked: LRUCache[tuple[str, ObjectInfo], Future[ObjectHead]] = LRUCache(REMEMBERED)
        # What is to be asked before a program wants it, and how many threads do that.
        self._ahead: deque[tuple[str, ObjectInfo]] = deque()
        self._askers = 0
        # The directory of the file whose metadata was asked for last.
        self._last_asked: Place | None = None

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

    def may_change(self, place: Place) -> None:
        """Raise AccessDenied in a bucket of another project that may only be read."""
        if not place.key or self.find(Place(place.bucket, "")) == Found():
            return
        if not self._listings.may_write(place.bucket):
            raise AccessDenied(str(place), "its bucket is another project's and shared for reading")

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
        if self._is_exact:
            given = given_by(self.metadata(place.bucket, BUCKET))
        else:
            given = self._attributes.given(place.bucket, BUCKET)
        return self._attributes.directory(given, mtime_ns=bucket.mtime_ns)

    def _directory_attr(self, place: Place) -> Attr:
        directory = self._listings.looked_at(place.bucket, place.prefix)
        if directory is None:
            # What its last known marker had.
            return self._attributes.directory(self._attributes.latest(place.bucket, place.prefix))
        marker = directory.marker
        if marker is None:
            return self._attributes.directory()
        marker = self.resolve(place.bucket, marker)
        given = self._attributes.given(place.bucket, marker)
        return self._attributes.directory(given, mtime_ns=marker.mtime_ns)

    # -- what listings do not tell ----------------------------------------------------------------

    def resolve(self, bucket: str, info: ObjectInfo) -> ObjectInfo:
        """Return the version with its true size and kind, and with its attributes at hand where
        they must be exact: one HEAD per version, where needed.
        """
        if info.kind is Kind.UNKNOWN:
            try:
                return self._answer(bucket, info).info
            except AccessDenied:
                # Nobody knows its size. One byte, which cannot be read, keeps it from passing for
                # an empty file, and the name can be removed.
                return replace(info, size=max(1, info.size))
        if self._must_ask(bucket, info):
            # What may be listed, not looked at, has what the listing tells.
            with suppress(AccessDenied):
                self._answer(bucket, info)
        return info

    def _must_ask(self, bucket: str, info: ObjectInfo) -> bool:
        if info.kind is Kind.UNKNOWN:
            return True
        return self._is_exact and self._attributes.metadata(bucket, info) is None

    def metadata(self, bucket: str, info: ObjectInfo) -> Mapping[str, str]:
        """Return the metadata of a version or BUCKET: one HEAD per version, remembered."""
        if info is BUCKET:
            found = self._listings.bucket_metadata(bucket)
            self._attributes.learn(bucket, BUCKET, found)
            return found
        known = self._attributes.metadata(bucket, info)
        if known is not None:
            return known
        self._ask_beside(bucket, info)
        return self._answer(bucket, info).metadata

    def _ask_beside(self, bucket: str, info: ObjectInfo) -> None:
        """Whoever asks for a second file of a directory will ask for all: begin with the others."""
        if info.is_marker:
            return
        directory = Place(bucket, info.key).parent
        with self._lock:
            is_second, self._last_asked = self._last_asked == directory, directory
        if is_second:
            files = self._listings.files(bucket, directory.prefix)
            known = self._attributes.metadata
            self.ask_ahead(bucket, [each for each in files.values() if known(bucket, each) is None])

    def listed(self, bucket: str, infos: Iterable[ObjectInfo]) -> None:
        """A program lists these versions and will look at each: ask ahead for what is not told."""
        self.ask_ahead(bucket, [info for info in infos if self._must_ask(bucket, info)])

    def ask_ahead(self, bucket: str, infos: list[ObjectInfo]) -> None:
        """Ask for versions in parallel, in order, leaving connections for other work."""
        most = max(1, self._services.config.connections // 2)
        with self._lock:
            self._ahead.extend((bucket, info) for info in infos)
            starting = max(0, min(most - self._askers, len(infos)))
            self._askers += starting
        for _ in range(starting):
            self._submit_next()

    def _submit_next(self) -> None:
        try:
            self._services.pool.submit(self._ask_next)
        except RuntimeError:  # the mount ends
            with self._lock:
                self._askers -= 1

    def _ask_next(self) -> None:
        """Ask for one version, and let others use the thread before the next one."""
        with self._lock:
            while self._ahead and self._ahead[0] in self._asked:
                self._ahead.popleft()
            if not self._ahead:
                self._askers -= 1
                return
            key = self._ahead.popleft()
            future: Future[ObjectHead] = Future()
            self._asked[key] = future
        try:
            future.set_result(self._ask(*key))
        except BaseException as exc:
            # For whoever wants it.
            future.set_exception(exc)
        self._submit_next()

    def _answer(self, bucket: str, info: ObjectInfo) -> ObjectHead:
        """Return what a HEAD says of a version; raise TimedOut and what the HEAD raised."""
        key = (bucket, info)
        with self._lock:
            future = self._asked.get(key)
            if future is None or _may_be_mended(future):
                future = self._services.pool.submit(self._ask, bucket, info)
                self._asked[key] = future
        deadline = current(self._services.config.timeout_s)
        try:
            return future.result(deadline.left())
        except futures.TimeoutError as exc:
            raise TimedOut(f"{bucket}/{info.key}", "its attributes were not told in time") from exc

    def _ask(self, bucket: str, info: ObjectInfo) -> ObjectHead:
        with within(self._services.config.timeout_s):
            try:
                head = self._services.store.head(bucket, info.key)
            except NotFound:
                # Another client removed it: what asks next finds the name free.
                self._listings.outdated(bucket, info.key)
                raise
        self._attributes.learn(bucket, head.info, head.metadata)
        return head

    # -- objects that are names alone -------------------------------------------------------------

    def keep_parent(self, place: Place) -> None:
        """Store a marker in a directory that is about to lose its last entry.

        It stays until rmdir then. First the marker: a failure must not take the directory along.
        """
        above = place.parent
        if self.layout.is_root(above) or not above.key:
            return
        if self._listings.is_only(place.bucket, place.key) and not self._listings.markers(
            above.bucket, above.prefix
        ):
            self.put_marker(above)

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
        metadata = {**(metadata or {}), **given.metadata()}
        info = self._services.store.put(
            bucket,
            key,
            _Bytes(data),
            md5=hashlib.md5(data, usedforsecurity=False).hexdigest(),
            content_type=content_type,
            metadata=metadata,
        )
        self._attributes.remember(bucket, info, given, metadata)
        self._listings.stored(bucket, info)
        return info


def _may_be_mended(future: Future[ObjectHead]) -> bool:
    """Whether another HEAD may answer where this one did not."""
    error = future.exception() if future.done() else None
    return error is not None and not isinstance(error, AccessDenied)
