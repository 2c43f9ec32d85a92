"""Open files: one ``OpenFile`` for all handles of a version, and the table of handles.

Locks, in the order in which they are taken: the file's own lock, which may be held across I/O and
delays only that file; then the table's or a lower layer's, which are leaves.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from allasfs.config import MIB, Config
from allasfs.errors import (
    BadHandle,
    Exists,
    FileTooBig,
    FsError,
    NotFound,
    QuotaExceeded,
    Stale,
)
from allasfs.fs.attrs import Attr, Attributes, Given
from allasfs.fs.names import Place
from allasfs.fs.types import content_type
from allasfs.store import large
from allasfs.store.api import ObjectInfo, Store
from allasfs.transfer.blocks import Memory
from allasfs.transfer.draft import Draft
from allasfs.transfer.listings import Listings
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader

log = logging.getLogger(__name__)

# Before the place, in the line about a file that was not stored.
KEPT_IN = "kept in "
# Zeros are written by this much.
FILL_BYTES = MIB
# Up to this much of an open file is fetched before its name is removed, so that its handles can
# read on. More would take longer than rm may.
HELD_BYTES = 64 * MIB
# 1000 segments of 5 GiB: no store takes more.
LARGEST_FILE = 1000 * 5 * 1024 * MIB


@dataclass(frozen=True)
class Services:
    """What open files work with; made once for a mount."""

    store: Store
    config: Config
    memory: Memory
    spool: Spool
    pool: Executor
    uploader: Uploader
    listings: Listings
    attributes: Attributes
    clock_ns: Callable[[], int]


class OpenFile:
    """A file that is open: an object's version, and what was changed of it since."""

    def __init__(
        self,
        services: Services,
        place: Place,
        info: ObjectInfo | None,
        given: Given = Given(),  # noqa: B008 - frozen
        *,
        exclusive: bool = False,
    ) -> None:
        """``info`` is the version in the store, None for a new file that is ``given`` a mode.

        A new file that is ``exclusive`` (O_EXCL) replaces nothing that another client made.
        """
        self._services = services
        self.place = place
        # The file's lock: see the module's text.
        self.lock = threading.RLock()
        self.info = info
        self._reader: Reader | None = None
        self._spool: Draft | None = None
        self.is_dirty = info is None
        self._exclusive = exclusive
        # Unlinked: the bytes live as long as the handles and go nowhere.
        self.is_orphan = False
        self.handles = 0
        self._given = services.attributes.given(place.bucket, info) if info is not None else given
        # What a program made of the object's metadata, for the next upload.
        self._metadata: dict[str, str] | None = None
        self._failure = ""
        self._attr: Attr
        self._refresh()

    # -- what it is -------------------------------------------------------------------------------

    @property
    def attr(self) -> Attr:
        """What stat tells; never waits for the file's lock."""
        return self._attr

    @property
    def is_new(self) -> bool:
        """Whether the store has no version of it."""
        return self.info is None

    @property
    def key(self) -> str:
        """The object's name: not the place's for a file beside a directory of its name."""
        return self.place.key if self.info is None else self.info.key

    @property
    def awaits_upload(self) -> bool:
        """Whether it was changed since the store was last asked to take it."""
        return self.is_dirty and not self.is_orphan and not self._failure

    def is_at(self, info: ObjectInfo) -> bool:
        """Whether this is the version that was opened or stored last."""
        return self.info is not None and self.info.same_version(info)

    def stands_for(self, other: OpenFile) -> bool:
        """Whether a newly found ``other`` is this file: changed here, or the same version."""
        if self.is_dirty or self.info is None or other.info is None:
            return True
        return self.info.same_version(other.info)

    def _refresh(self) -> None:
        services = self._services
        size = self.info.size if self.info is not None else 0
        if self._spool is not None:
            size = self._spool.size
        if self.is_dirty and self._given.mtime_ns is None:
            self._given = replace(self._given, mtime_ns=services.clock_ns())
        stored_ns = self.info.mtime_ns if self.info is not None else 0
        self._attr = services.attributes.local_file(size, self._given, stored_ns)

    # -- reading ----------------------------------------------------------------------------------

    def read(self, window: Window, offset: int, length: int) -> bytes:
        """Return bytes of the file as it is now, fewer only at its end."""
        with self.lock:
            if self._spool is not None:
                return self._read_spool(self._spool, window, offset, length)
            reader = self._open_reader()
        return reader.read(window, offset, length) if reader else b""

    def _open_reader(self) -> Reader | None:
        """Return the reader of the stored version (locked); None for a new file."""
        if self._reader is None and self.info is not None:
            services = self._services
            self._reader = Reader(
                services.store,
                services.memory,
                services.pool,
                self.place.bucket,
                self.info,
                timeout_s=services.config.timeout_s,
                learn=services.attributes.learn,
            )
        return self._reader

    def _read_spool(self, spool: Draft, window: Window, offset: int, length: int) -> bytes:
        stop = min(offset + length, spool.size)
        if offset >= stop:
            return b""
        return spool.read(offset, stop, lambda start, end: self._stored(window, start, end))

    def _stored(self, window: Window, start: int, stop: int) -> bytes:
        """Return bytes of the stored version; they are there, or it is Stale."""
        reader = self._open_reader()
        data = reader.read(window, start, stop - start) if reader else b""
        if len(data) != stop - start:
            raise Stale(str(self.place), "the stored object is shorter than it was")
        return data

    # -- changing ---------------------------------------------------------------------------------

    def write(self, offset: int, data: bytes, *, append: bool = False) -> int:
        """Write all of ``data``; raise NoSpace, FileTooBig. Return its length.

        Nothing written changes nothing, not even the time (POSIX, write).
        """
        if not data:
            return 0
        with self.lock:
            spool = self._open_spool()
            if append:
                offset = spool.size
            if offset + len(data) > LARGEST_FILE:
                raise FileTooBig(str(self.place))
            spool.write(offset, data)
            self._touch()
            return len(data)

    def truncate(self, size: int) -> None:
        """Set the size; what is added reads as zeros."""
        with self.lock:
            if size > LARGEST_FILE:
                raise FileTooBig(str(self.place))
            spool = self._open_spool()
            if size != spool.size or not self.is_dirty:
                spool.truncate(size)
                self._touch()

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span; the file is at least so long then. Raise NoSpace, FileTooBig."""
        with self.lock:
            if stop > LARGEST_FILE:
                raise FileTooBig(str(self.place))
            self._open_spool().allocate(start, stop)
            self._touch()

    def erase(self, start: int, stop: int, *, keep_size: bool) -> None:
        """Make a span zeros, to the file's end at most with ``keep_size``; raise as ``write``."""
        with self.lock:
            if keep_size:
                stop = min(stop, self._attr.size)
            for first in range(start, stop, FILL_BYTES):
                self.write(first, bytes(min(FILL_BYTES, stop - first)))

    def give(self, given: Given) -> None:
        """Give the file attributes, stored with its next upload."""
        with self.lock:
            self._given = self._given.changed(given)
            self._refresh()

    def metadata(self) -> dict[str, str]:
        """Return what the next upload will store beside times, mode and owner."""
        with self.lock:
            if self._metadata is not None:
                return self._metadata
            if self.info is None:
                return {}
            services, bucket = self._services, self.place.bucket
            known = services.attributes.metadata(bucket, self.info)
            if known is None:
                try:
                    head = services.store.head(bucket, self.info.key)
                except NotFound:
                    return {}
                services.attributes.learn(bucket, head.info, head.metadata)
                known = head.metadata
            return dict(known)

    def change_metadata(self, change: Callable[[Mapping[str, str]], dict[str, str]]) -> None:
        """Let the next upload store other metadata than the object has."""
        with self.lock:
            self._metadata = change(self.metadata())

    def _touch(self) -> None:
        self.is_dirty = True
        self._failure = ""
        self._given = replace(self._given, mtime_ns=self._services.clock_ns())
        self._refresh()

    def _open_spool(self) -> Draft:
        if self._spool is None:
            services = self._services
            file = services.spool.create()
            self._spool = services.uploader.draft(
                file, self.place.bucket, self.key, self.info, self.lock
            )
        return self._spool

    # -- the store --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Upload what is dirty; return when the store has it, or raise what prevented it."""
        with self.lock:
            if not self.is_dirty or self.is_orphan:
                return
            try:
                self._upload()
            except QuotaExceeded as exc:
                exc = QuotaExceeded(exc.subject, f"{exc.why}{self._limits()}")
                self._failure = str(exc)
                raise exc from None
            except FsError as exc:
                self._failure = str(exc)
                if isinstance(exc, (Exists, Stale)):
                    # Another client was faster: the next look shall find its version.
                    self._services.listings.outdated(self.place.bucket, self.key)
                raise
            self._failure = ""

    def _upload(self) -> None:
        services, place = self._services, self.place
        exclusive = self._exclusive and self.info is None
        # Should asking the store fail, this much is known for a later attempt.
        self._open_spool().describe(
            "", {**(self._metadata or {}), **self._given.metadata()}, exclusive=exclusive
        )
        inherited, its_type = self._inherited()
        if self._metadata is not None:
            inherited = self._metadata
        metadata = {**inherited, **self._given.metadata()}
        window = Window()
        info = services.uploader.upload(
            self._open_spool(),
            content_type=its_type,
            metadata=metadata,
            fetch=lambda start, stop: self._stored(window, start, stop),
            exclusive=exclusive,
        )
        self.info = info
        self.is_dirty = False
        self._drop_reader()
        self._metadata = None
        services.attributes.remember(place.bucket, info, self._given, metadata)
        services.listings.stored(place.bucket, info)

    def _limits(self) -> str:
        """Return what the account and the bucket hold and may hold, for the log."""
        store, told = self._services.store, ""
        with suppress(FsError):
            account = store.account()
            if account.quota_bytes is not None:
                told += f"; the account has {account.bytes_used} of {account.quota_bytes} bytes"
            if account.quota_count is not None:
                told += f"; the account has {account.object_count} of {account.quota_count} objects"
        with suppress(FsError):
            bucket = store.head_container(self.place.bucket)
            limits = bucket.metadata or {}
            if "quota-bytes" in limits:
                told += f"; the bucket has {bucket.bytes_used} of {limits['quota-bytes']} bytes"
            if "quota-count" in limits:
                told += f"; the bucket has {bucket.count} of {limits['quota-count']} objects"
            if not told:
                told = f"; the bucket has {bucket.count} objects of {bucket.bytes_used} bytes, "
                told += "and the server does not tell how many it may have"
        return told

    def _inherited(self) -> tuple[dict[str, str], str]:
        """Return metadata and content type: a changed object keeps its own.

        Those of another client's newer version are not this file's: that may be a link or a marker.
        """
        guessed = content_type(self.place.name)
        if self.info is None:
            return {}, guessed
        try:
            head = self._services.store.head(self.place.bucket, self.info.key)
        except NotFound:
            return {}, guessed
        if not head.info.same_version(self.info):
            return {}, guessed
        return large.without_mark(head.metadata), head.info.content_type or guessed

    def moved(self, place: Place, info: ObjectInfo | None) -> None:
        """The file has another name now; ``info`` is its version under that name."""
        with self.lock:
            self.place = place
            if info is not None:
                self.info = info
                if not self.is_dirty:
                    self._given = self._services.attributes.given(place.bucket, info)
                if self._reader is not None:
                    self._reader.moved(place.bucket, info)
            if self._spool is not None:
                self._spool.moved(place.bucket, self.key, self.info)
            self._refresh()

    def hold(self) -> None:
        """The name is about to be removed: fetch what handles may still read, if it is not much."""
        with self.lock:
            if self.info is None:
                return
            absent = self.info.size if self._spool is None else self._spool.absent()
            if absent > HELD_BYTES:
                log.info("%s is open and large: what is not local ends in ESTALE", self.place)
                return
            window, spool = Window(), self._open_spool()
            try:
                spool.fill(0, spool.size, lambda start, stop: self._stored(window, start, stop))
            except FsError as exc:
                log.info("%s is open and cannot be read on: %s", self.place, exc)

    def orphan(self) -> None:
        """The file was unlinked: local bytes stay readable, the store's are gone."""
        with self.lock:
            self.is_orphan = True
            if self._reader is not None:
                self._reader.end(Stale(str(self.place), "the file was removed while open"))

    def replaced(self) -> None:
        """Another client stored a new version: these handles do not see it."""
        with self.lock:
            if self._reader is not None:
                self._reader.end(Stale(str(self.place), "replaced by another client while open"))

    def close(self) -> str:
        """Let go of everything after the last handle. Return a line when data was not stored."""
        with self.lock:
            self._drop_reader()
            spool, self._spool = self._spool, None
            if spool is None:
                return ""
            if not self.is_dirty or self.is_orphan:
                spool.discard()
                return ""
            why = self._failure or "closed without an upload"
            kept = spool.keep(why)
            line = f"{self.place.bucket}/{self.place.key} was not stored ({why}): {KEPT_IN}{kept}"
            log.error("%s", line)
            return line

    def _drop_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None


@dataclass
class Handle:
    """One open(): a file, how it may be used, and where its reader is."""

    file: OpenFile
    flags: int
    window: Window = field(default_factory=Window)
    # The kernel may keep the pages that it has of this file: they are of this version.
    keep_cache: bool = False

    @property
    def may_read(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def may_write(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def may_change(self) -> bool:
        """Whether it may have changed the file: O_TRUNC empties it, also where it is only read."""
        return self.may_write or bool(self.flags & os.O_TRUNC)


class Files:
    """The open files by place, and the handles by number."""

    def __init__(self) -> None:
        # Leaf lock.
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        self._by_place: dict[Place, OpenFile] = {}

    def at(self, place: Place) -> OpenFile | None:
        """Return the open file of a place."""
        with self._lock:
            return self._by_place.get(place)

    def new_in(self, directory: Place) -> list[str]:
        """Return the names in a directory that only this mount has: not stored yet."""
        with self._lock:
            files = list(self._by_place.items())
        return [place.name for place, file in files if file.is_new and place.parent == directory]

    def handle(self, fh: int) -> Handle:
        """Return an open handle; raise BadHandle."""
        with self._lock:
            try:
                return self._handles[fh]
            except KeyError:
                raise BadHandle(f"handle {fh}") from None

    def add(self, file: OpenFile, flags: int) -> tuple[int, Handle]:
        """Open a handle: on the file that is open there already, unless ``file`` is newer."""
        with self._lock:
            older = self._by_place.get(file.place)
            if older is not None and older.stands_for(file):
                file = older
            self._by_place[file.place] = file
            file.handles += 1
            fh, handle = next(self._numbers), Handle(file, flags)
            self._handles[fh] = handle
        if older is not None and older is not file:
            older.replaced()
        return fh, handle

    def another(self, file: OpenFile, flags: int) -> tuple[int, Handle]:
        """Open one more handle on a file that has no name any more."""
        with self._lock:
            file.handles += 1
            fh, handle = next(self._numbers), Handle(file, flags)
            self._handles[fh] = handle
            return fh, handle

    def is_last(self, fh: int) -> bool:
        """Whether a handle is the only one of its file; raise BadHandle."""
        with self._lock:
            if fh not in self._handles:
                raise BadHandle(f"handle {fh}")
            return self._handles[fh].file.handles == 1

    def remove(self, fh: int) -> OpenFile | None:
        """Close a handle; return its file when it was the last one."""
        with self._lock:
            if fh not in self._handles:
                raise BadHandle(f"handle {fh}")
            file = self._handles.pop(fh).file
            file.handles -= 1
            if file.handles:
                return None
            if self._by_place.get(file.place) is file:
                del self._by_place[file.place]
            return file

    def move(self, old: Place, new: Place) -> OpenFile | None:
        """Note that a file has another place; what was open there has none any more."""
        with self._lock:
            file = self._by_place.pop(old, None)
            self._by_place.pop(new, None)
            if file is not None:
                self._by_place[new] = file
            return file

    def below(self, directory: Place) -> list[OpenFile]:
        """Return the files that are open anywhere in a directory."""
        with self._lock:
            return [file for place, file in self._by_place.items() if directory.holds(place)]

    def forget(self, place: Place) -> OpenFile | None:
        """Note that the name of a file is gone; its handles stay."""
        with self._lock:
            return self._by_place.pop(place, None)

    def all(self) -> list[OpenFile]:
        """Return every file with an open handle."""
        with self._lock:
            return list({id(h.file): h.file for h in self._handles.values()}.values())

    def drain(self) -> list[OpenFile]:
        """Close every handle and return the files."""
        files = self.all()
        with self._lock:
            self._handles.clear()
            self._by_place.clear()
        return files
