"""Open files: one ``OpenFile`` for all handles of a version, and for what waits for its upload.

Locks, in the order in which they are taken: the file's own lock, which may be held across I/O and
delays only that file; then the table's or a lower layer's, which are leaves.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from allasfs.config import MIB, Config
from allasfs.errors import (
    BadHandle,
    Exists,
    FileTooBig,
    FsError,
    NotFound,
    QuotaExceeded,
    Stale,
    Unavailable,
)
from allasfs.fs.attrs import Attr, Attributes, Given, given_by
from allasfs.fs.names import Place
from allasfs.fs.pending import Pending
from allasfs.fs.types import content_type
from allasfs.store import marks
from allasfs.store.api import ObjectHead, ObjectInfo, Store
from allasfs.transfer.ahead import Ahead
from allasfs.transfer.blocks import Memory
from allasfs.transfer.checksum import Bytes
from allasfs.transfer.draft import Draft
from allasfs.transfer.listings import Listings
from allasfs.transfer.notes import Note
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from allasfs.transfer.spool import Spool
from allasfs.transfer.spoolfile import SpoolFile
from allasfs.transfer.uploader import Uploader

log = logging.getLogger(__name__)

# Before the place, in the line about a file that was not stored.
KEPT_IN = "kept in "
# Zeros are written by this much.
FILL_BYTES = MIB
# Up to this much of an open file is fetched before its name is removed, so that its handles can
# read on. More would take longer than rm may.
HELD_BYTES = 64 * MIB
# What is told of a closed file that another client was faster with.
CONFLICT = "another client changed it after it was opened here; both versions are kept"
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
    pending: Pending
    listings: Listings
    attributes: Attributes
    ahead: Ahead
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
        # Whether the object's metadata and type are this file's, too.
        self._inherits = info is not None
        self._failure = ""
        # Write-back: how often it was changed, and up to which change the program was told that
        # it is safe (-1: nothing was told).
        self._changes = 0
        self._promised = -1
        # What the store said to a promised file, for the next flush to tell.
        self._refusal: FsError | None = None
        self._is_sending = False
        self._is_held_back = False
        # Notified when an upload in the background ends.
        self._idle = threading.Condition(self.lock)
        self._attr: Attr
        self._refresh()

    @classmethod
    def restored(cls, services: Services, local: SpoolFile, note: Note) -> OpenFile:
        """Return the file that a mount before promised to store."""
        given, place = given_by(note.metadata), Place(note.bucket, note.key)
        file = cls(services, place, None, given, exclusive=note.exclusive)
        file.info = note.base
        file._inherits = note.base is not None and not note.content_type
        file._metadata = dict(note.metadata) if note.content_type else None
        file._spool = Draft.restored(services.uploader.sending, local, note, file.lock)
        file._promised = file._changes
        file._refresh()
        services.pending.add(file)
        return file

    # -- what it is -------------------------------------------------------------------------------

    @property
    def size(self) -> int:
        """Bytes of the file as it is now."""
        return self._attr.size

    @property
    def is_pending(self) -> bool:
        """Whether a program was told that it is safe while only the spool has it."""
        return self.is_dirty and self._promised == self._changes and not self.is_orphan

    @property
    def is_large(self) -> bool:
        """Whether what was changed goes up in segments."""
        draft = self._spool
        return draft is not None and draft.is_large

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
        is_owed = self.is_dirty and not self.is_orphan and not self._failure
        return is_owed and not self.is_pending

    def is_at(self, info: ObjectInfo) -> bool:
        """Whether this is the version that was opened or stored last."""
        return self.info is not None and self.info.same_version(info)

    def stands_for(self, other: OpenFile) -> bool:
        """Whether a newly found or made ``other`` is this file: changed here, or its version."""
        if self.is_dirty or self.info is None:
            return True
        return other.info is not None and self.info.same_version(other.info)

    def _refresh(self) -> None:
        services = self._services
        size = self.info.size if self.info is not None else 0
        if self._spool is not None:
            size = self._spool.size
        if self.is_dirty and self._given.mtime_ns is None:
            self._given = replace(self._given, mtime_ns=services.clock_ns())
        stored_ns = self.info.mtime_ns if self.info is not None else 0
        self._attr = services.attributes.local_file(
            size, self._given, stored_ns, is_written=self.is_dirty
        )

    # -- reading ----------------------------------------------------------------------------------

    def read(self, window: Window, offset: int, length: int) -> bytes:
        """Return bytes of the file as it is now, fewer only at its end."""
        while True:
            with self.lock:
                if self._spool is not None:
                    return self._read_spool(self._spool, window, offset, length)
                reader = self._open_reader()
            if reader is None:
                return b""
            try:
                return reader.read(window, offset, length)
            except (BadHandle, Stale):
                with self.lock:
                    if reader is self._reader and self._spool is None:
                        raise
                # It was changed, or stored anew, here meanwhile: these bytes are what is read now.

    def _open_reader(self) -> Reader | None:
        """Return the reader of the stored version (locked); None for a new file."""
        if self._reader is None and self.info is not None:
            self._reader = self._services.ahead.reader(self.place.bucket, self.info)
        return self._reader

    def _read_spool(self, spool: Draft, window: Window, offset: int, length: int) -> bytes:
        stop = min(offset + length, spool.size)
        if offset >= stop:
            return b""
        spool.file.wake()
        return spool.read(offset, stop, lambda start, end: self._stored(window, start, end))

    def _stored(self, window: Window, start: int, stop: int) -> bytes:
        """Return bytes of the stored version; they are there, or it is Stale."""
        reader = self._open_reader()
        data = reader.read(window, start, stop - start) if reader else b""
        if len(data) != stop - start:
            raise Stale(str(self.place), "the stored object is shorter than it was")
        return data

    # -- changing ---------------------------------------------------------------------------------

    def write(self, offset: int, data: Bytes, *, append: bool = False) -> int:
        """Write all of ``data``; raise NoSpace, FileTooBig. Return its length.

        Nothing written changes nothing, not even the time (POSIX, write).
        """
        if not data:
            return 0
        with self.lock:
            self.recall()
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
            self.recall()
            spool = self._open_spool()
            if size != spool.size or not self.is_dirty:
                spool.truncate(size)
                self._touch()
                self._note_again()

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span; the file is at least so long then. Raise NoSpace, FileTooBig."""
        with self.lock:
            if stop > LARGEST_FILE:
                raise FileTooBig(str(self.place))
            self.recall()
            self._open_spool().allocate(start, stop)
            self._touch()

    def erase(self, start: int, stop: int, *, keep_size: bool) -> None:
        """Make a span zeros, to the file's end at most with ``keep_size``; raise as ``write``."""
        with self.lock:
            if keep_size:
                stop = min(stop, self._attr.size)
            for first in range(start, stop, FILL_BYTES):
                self.write(first, bytes(min(FILL_BYTES, stop - first)))

    def give(self, given: Given) -> bool:
        """Give the file attributes, stored with its next upload; False when none is to come."""
        with self.lock:
            if not self.is_dirty and not self.is_orphan:
                return False
            self._given = self._given.changed(given)
            self._refresh()
            self._attributes_changed()
            return True

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

    def change_metadata(self, change: Callable[[Mapping[str, str]], dict[str, str]]) -> bool:
        """Let the next upload store other metadata than the object has; False when none comes."""
        with self.lock:
            if not self.is_dirty and not self.is_orphan:
                return False
            self._metadata = change(self.metadata())
            self._attributes_changed()
            return True

    def _touch(self) -> None:
        self.is_dirty = True
        self._changes += 1
        self._failure = ""
        self._given = replace(self._given, mtime_ns=self._services.clock_ns())
        self._refresh()

    def _open_spool(self) -> Draft:
        if self._spool is not None:
            self._spool.file.wake()
        else:
            services = self._services
            file = services.spool.create()
            self._spool = services.uploader.draft(
                file, self.place.bucket, self.key, self.info, self.lock
            )
        return self._spool

    # -- the store --------------------------------------------------------------------------------

    def flush(self) -> None:
        """Return when what is dirty is safe: the store has it, with write-back the local disk.

        Raises what prevented it.
        """
        with self.lock:
            if not self.is_dirty or self.is_orphan:
                return
            if self._refusal is not None:
                refusal, self._refusal = self._refusal, None
                raise refusal
            if not self.is_pending and not self._promise():
                self.store()

    def store(self) -> None:
        """Upload what is dirty; return when the store has it, or raise what prevented it."""
        with self.lock:
            self.recall()
            if not self.is_dirty or self.is_orphan:
                return
            given, exclusive = self._given, self._exclusive and self.info is None
            # Should asking the store fail, this much is known for a later attempt.
            self._describe()
            try:
                head = None if self.info is None else self._head()
                info, metadata = self._upload_over_own(head, exclusive=exclusive)
            except FsError as exc:
                raise self._failed(exc) from exc.__cause__
            self._is_stored(info, given, metadata)
            self.is_dirty = False
            self._metadata = None
            self._failure = ""

    def was_not_tried(self, why: str) -> None:
        """Remember why the store does not have what was changed, and what a later attempt needs."""
        with self.lock:
            if self.awaits_upload:
                self._failure = why
                with suppress(FsError):
                    self._describe()

    def give_up(self, why: str) -> str:
        """Keep what is not stored, and wait for no upload: the process ends.

        Return a line about it, nothing when there is nothing to tell.
        """
        if not self.is_dirty or self.is_orphan or self.is_pending:
            return ""
        told = f"{self.place.bucket}/{self.place.key} was not stored ({why})"
        try:
            # Who holds the lock uploads it, and has described it.
            if self.lock.acquire(blocking=False):
                try:
                    if self.awaits_upload:
                        self._describe()
                finally:
                    self.lock.release()
            draft = self._spool
            return f"{told}: {KEPT_IN}{draft.note_kept(why)}" if draft is not None else ""
        except FsError as exc:
            return f"{told}, and could not be kept: {exc}"

    def _failed(self, exc: FsError) -> FsError:
        """Remember why the store does not have it; return what to tell."""
        if isinstance(exc, QuotaExceeded):
            exc = QuotaExceeded(exc.subject, f"{exc.why}{self._limits()}")
        if isinstance(exc, (Exists, Stale)):
            # Another client was faster: the next look shall find its version.
            self._services.listings.outdated(self.place.bucket, self.key)
        self._failure = str(exc)
        return exc

    def _upload(
        self, head: ObjectHead | None, *, exclusive: bool
    ) -> tuple[ObjectInfo, dict[str, str]]:
        inherited, its_type = self._inherited(head)
        if self._metadata is not None:
            inherited = self._metadata
        metadata = {**inherited, **self._given.metadata()}
        window = Window()
        info = self._services.uploader.upload(
            self._open_spool(),
            content_type=its_type,
            metadata=metadata,
            fetch=lambda start, stop: self._stored(window, start, stop),
            exclusive=exclusive,
        )
        return info, metadata

    def _is_stored(self, info: ObjectInfo, given: Given, metadata: Mapping[str, str]) -> None:
        """The store has a version with these attributes."""
        self.info = info
        self._inherits = True
        self._drop_reader()
        self._services.attributes.remember(self.place.bucket, info, given, metadata)
        self._services.listings.stored(self.place.bucket, info)

    # -- write-back -------------------------------------------------------------------------------

    def _promise(self) -> bool:
        """Make it safe on the local disk, to be stored soon; return False where that is no help.

        A file above the threshold is on its way already, and one of which a part is in the store
        alone would depend on a version that may go.
        """
        services, draft = self._services, self._open_spool()
        if not services.config.write_back or draft.is_large or draft.absent():
            return False
        self._take(durable=True)
        self._promised = self._changes
        self._failure = ""
        services.pending.add(self)
        return True

    def _own(self) -> tuple[str, dict[str, str]]:
        """Return the type and metadata that are not the object's own; no type: its own stays."""
        inherits = self._inherits and self._metadata is None
        its_type = "" if inherits else content_type(self.place.name)
        return its_type, {**(self._metadata or {}), **self._given.metadata()}

    def _describe(self) -> None:
        """Let the note say what is known without asking the store; raise as the disk does."""
        exclusive = self._exclusive and self.info is None
        self._open_spool().describe(*self._own(), exclusive=exclusive)

    def _take(self, *, durable: bool) -> None:
        exclusive = self._exclusive and self.info is None
        # A note of what waits needs no descriptor of its data.
        draft = self._open_spool() if durable or self._spool is None else self._spool
        draft.take(*self._own(), exclusive=exclusive, durable=durable)

    def _note_again(self) -> None:
        """What the next mount would find has changed."""
        if self._promised >= 0 and self.is_dirty:
            self._take(durable=False)

    def _attributes_changed(self) -> None:
        if not self.is_pending:
            return
        # An upload that is under way has the old ones.
        self._changes += 1
        self._promised = self._changes
        self._note_again()

    def recall(self) -> None:
        """Let an upload in the background end, however it does (lock held)."""
        while self._is_sending:
            if self._spool is not None:
                self._spool.file.is_cut_off = True
            self._idle.wait()
        if self._spool is not None:
            self._spool.file.is_cut_off = False

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Let nothing of it go up while another file takes its name."""
        with self.lock:
            self._is_held_back = True
            self.recall()
        try:
            yield
        finally:
            with self.lock:
                self._is_held_back = False
                if self.is_pending:
                    self._services.pending.add(self)

    def send(self) -> None:
        """Store a promised file; meanwhile it may be read, and other calls may recall it.

        Raises Stale, Exists when another client changed the object since it was opened: then
        both versions stay. Raises what the store raises.
        """
        with self.lock:
            if not self.is_pending or self._is_sending or self._is_held_back:
                return
            # First what may fail, for want of a descriptor: nobody would see the sending end.
            changes, given, draft = self._changes, self._given, self._open_spool()
            self._is_sending = True
        try:
            info, metadata = self._send(draft)
        except FsError as exc:
            with self.lock:
                if draft.file.is_cut_off or self._changes != changes:
                    return
                if isinstance(exc, Unavailable):
                    raise
                self._promised = -1
                self._refusal = self._failed(exc)
                raise self._refusal from exc.__cause__
        else:
            with self.lock:
                self._is_stored(info, given, metadata)
                if self._changes == changes:
                    self.is_dirty = False
                    self._metadata = None
                else:
                    self._note_again()
        finally:
            with self.lock:
                self._is_sending = False
                self._rest()
                self._idle.notify_all()

    def _send(self, draft: Draft) -> tuple[ObjectInfo, dict[str, str]]:
        head, exclusive = None, self.info is None
        if not exclusive or not self._services.store.capabilities().conditional_put:
            head = self._head()
            if head is not None and not self._is_known(head.info, draft):
                raise Stale(str(self.place), CONFLICT)
        try:
            return self._upload_over_own(head, exclusive=exclusive)
        except Exists as exc:
            raise Exists(str(self.place), CONFLICT) from exc

    def _upload_over_own(
        self, head: ObjectHead | None, *, exclusive: bool
    ) -> tuple[ObjectInfo, dict[str, str]]:
        """Upload; with ``exclusive`` replace nothing but what an upload before has stored."""
        try:
            return self._upload(head, exclusive=exclusive)
        except Exists:
            head = self._head()
            if head is None or not self._is_known(head.info, self._open_spool()):
                raise
            # It was done, and its answer lost.
            return self._upload(head, exclusive=False)

    def _is_known(self, info: ObjectInfo, draft: Draft) -> bool:
        """Whether the object is the version that was changed here, or was sent from here."""
        if self.info is not None and (self.info.same_version(info) or self.info.same_bytes(info)):
            return True
        if draft.has_tried(info):
            return True
        # A file that O_EXCL made is not another client's of the same bytes (a lock is empty).
        is_made = self._exclusive and self.info is None
        return not is_made and (info.size, info.etag) == (draft.size, draft.file.md5())

    def see(self) -> None:
        """Find out whether the store has a new file after all, whose upload got no answer.

        Before its name goes: else the object would stay there. Raises as the store does.
        """
        with self.lock:
            self.recall()
            draft = self._spool
            if self.info is not None or draft is None or not draft.may_be_stored:
                return
            head = self._head()
            if head is not None and draft.has_tried(head.info):
                self.info = head.info
                self._services.listings.stored(self.place.bucket, head.info)

    def _rest(self) -> None:
        if not self.handles and self.is_pending and self._spool is not None:
            self._spool.file.rest()

    def rest(self) -> None:
        """The last handle of a promised file is closed: it waits without a descriptor."""
        with self.lock:
            if not self._is_sending:
                self._rest()

    @property
    def is_only_here(self) -> bool:
        """Whether the store has nothing of it, and a new name is a matter of this mount alone."""
        return self._services.config.write_back and self.is_dirty and self.info is None

    def renamed(self, place: Place, replaced: ObjectInfo | None, over: OpenFile | None) -> None:
        """A file that is only here has another name now, and replaces what is there.

        That is stored, ``over`` is open or waits, or both.
        """
        with self.lock:
            self.place = place
            self.info = replaced
            self._inherits = self._exclusive = False
            if self._spool is not None:
                draft = None if over is None else over._spool
                self._spool.moved(place.bucket, self.key, replaced, draft)
            self._note_again()
            self._refresh()

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

    def _head(self) -> ObjectHead | None:
        """Return what the store has under the file's name, None when that is nothing."""
        try:
            return self._services.store.head(self.place.bucket, self.key)
        except NotFound:
            return None

    def _inherited(self, head: ObjectHead | None) -> tuple[dict[str, str], str]:
        """Return metadata and content type: a changed object keeps its own.

        Those of another client's newer version are not this file's: that may be a link or a marker.
        """
        guessed = content_type(self.place.name)
        if self.info is None or head is None or not self._inherits:
            return {}, guessed
        if not head.info.same_version(self.info):
            return {}, guessed
        return marks.without(head.metadata), head.info.content_type or guessed

    def moved(self, place: Place, info: ObjectInfo | None) -> None:
        """The file has another name now; ``info`` is its version under that name."""
        with self.lock:
            self.place = place
            if info is not None:
                self.info = info
                known = self._services.attributes.known(place.bucket, info)
                if known is not None and not self.is_dirty:
                    self._given = known
                if self._reader is not None:
                    self._reader.moved(place.bucket, info)
            if self._spool is not None:
                self._spool.moved(place.bucket, self.key, self.info)
            self._refresh()

    def hold(self) -> None:
        """The name is about to be removed: fetch what handles may still read, if it is not much."""
        with self.lock:
            if self.info is None or not self.handles:
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
            self.recall()
            self.is_orphan = True
            if self._spool is not None:
                self._spool.forget()
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
            if self.is_pending:
                log.warning("%s/%s waits for the next mount", self.place.bucket, self.key)
                spool.leave()
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
