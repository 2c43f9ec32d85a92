"""Vfs: what POSIX calls mean on an object store. Knows nothing of FUSE.

Paths are absolute in the mount; any thread may call any method; every failure is an ``FsError``.
What each call promises is in docs/SEMANTICS.md.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cachetools import LRUCache

from allasfs.config import Config
from allasfs.deadline import within
from allasfs.errors import (
    AccessDenied,
    BadArgument,
    BadHandle,
    Corrupt,
    DirectoryNotEmpty,
    Exists,
    FsError,
    NameTooLong,
    NotADirectory,
    NotFound,
    NotPermitted,
    ReadOnly,
    Stale,
    Unavailable,
)
from allasfs.fs.attrs import (
    LONGEST_TARGET,
    SYMLINK_TYPE,
    Attr,
    Attributes,
    Given,
    is_symlink,
)
from allasfs.fs.database import Database
from allasfs.fs.files import Files, Handle
from allasfs.fs.metadata import Metadata
from allasfs.fs.moves import Moves
from allasfs.fs.names import Layout, Place, check_bucket, check_key
from allasfs.fs.openfile import KEPT_IN, OpenFile, Services
from allasfs.fs.pages import Pages
from allasfs.fs.pending import File, Pending, Progress
from allasfs.fs.tree import BUCKET, Tree
from allasfs.fs.types import content_type
from allasfs.store import large
from allasfs.store.api import AccountInfo, ObjectInfo, Store
from allasfs.transfer.ahead import Ahead
from allasfs.transfer.blocks import Memory
from allasfs.transfer.checksum import Bytes
from allasfs.transfer.directories import Found
from allasfs.transfer.leftovers import Leftovers
from allasfs.transfer.listings import Listings
from allasfs.transfer.reader import Reader
from allasfs.transfer.rescue import Rescue
from allasfs.transfer.resume import Resume
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader

log = logging.getLogger(__name__)

# Targets of symbolic links that are remembered; some 200 bytes each.
TARGETS = 20_000

# Why a file is kept that nobody wanted to wait for.
GIVEN_UP = "its upload was given up when the mount ended"

# Files that status names; there may be thousands.
SHOWN_FILES = 100

# Objects in which CSC's a-commands describe the object of the name before it.
AMETA_SUFFIX = "_ameta"


@dataclass(frozen=True)
class Usage:
    """What statfs tells, in bytes and objects; ``free_bytes`` is None where nothing limits it."""

    used_bytes: int
    free_bytes: int | None
    objects: int


class Vfs:
    """A mounted account, bucket or prefix."""

    def __init__(
        self,
        store: Store,
        config: Config,
        *,
        clock: Callable[[], float] = time.monotonic,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """Put the parts together; no thread is started and nothing is asked before ``start``."""
        if config.spool_dir is None:
            raise ValueError("a Vfs needs a spool_dir")
        self._store = store
        self._config = config
        self._clock = clock
        self._pool = ThreadPoolExecutor(config.connections, thread_name_prefix="transfer")
        # Half of the connections: a large file that goes up does not stop readers.
        width = self._width = max(1, config.connections // 2)
        self._uploads = ThreadPoolExecutor(width, thread_name_prefix="upload")
        spool = Spool(Path(config.spool_dir), config.spool_size)
        self._pending = Pending(
            self._uploads, width, spool, config, clock=clock, ended=self._settled
        )
        self._files = Files()
        memory = Memory(config.memory)
        self._database: Database | None = None
        if config.attr_db is not None and config.attr_db_rows:
            self._database = Database(config.attr_db, config.attr_db_rows)
        listings = Listings(
            store,
            ttl_s=config.listing_ttl_s,
            most_names=config.names,
            mounted=config.prefix,
            clock=clock,
        )
        attributes = Attributes(config, self._database, now_ns=clock_ns())

        def reader(bucket: str, info: ObjectInfo) -> Reader:
            return Reader(
                store,
                memory,
                self._pool,
                bucket,
                info,
                timeout_s=config.timeout_s,
                learn=attributes.learn,
            )

        self._services = Services(
            store=store,
            config=config,
            memory=memory,
            spool=spool,
            pool=self._pool,
            uploader=Uploader(store, self._uploads, config, memory=memory, readers=self._pool),
            pending=self._pending,
            listings=listings,
            attributes=attributes,
            # A quarter of the connections is left for what is wanted now.
            ahead=Ahead(listings, reader, max(1, config.connections * 3 // 4), clock=clock),
            clock_ns=clock_ns,
        )
        self._listings = self._services.listings
        self._resume = Resume(self._services.uploader, self._services.spool, self._listings.stored)
        self._rescue = Rescue(
            self._services.uploader, self._services.spool, self._listings.stored, content_type
        )
        self._attributes = self._services.attributes
        self._tree = Tree(self._services, Layout(config.bucket, config.prefix))
        self._pages = Pages()
        self._leftovers = Leftovers(store, spool)
        self._moves = Moves(self._services, self._tree, self._files, self._pages, self._orphaned)
        metadata = Metadata(self._services, self._tree, self._files, self._pages, self._hidden_file)
        self.set_attributes = metadata.set_attributes
        self.getxattr = metadata.getxattr
        self.listxattr = metadata.listxattr
        self.setxattr = metadata.setxattr
        self.removexattr = metadata.removexattr
        # Leaf lock.
        self._lock = threading.Lock()
        # Unlinked open files by the path under which the kernel still asks for them; guarded.
        self._hidden: dict[str, OpenFile] = {}
        # Targets of links by bucket and version, asked for at each step over one; guarded.
        self._targets: LRUCache[tuple[str, ObjectInfo], str] = LRUCache(TARGETS)
        # Lines about data that could not be stored; guarded.
        self._lost: list[str] = []
        # Files that are uploaded because the mount ends; guarded.
        self._leaving: list[OpenFile] = []
        self._usage: tuple[float, AccountInfo] | None = None

    def start(self) -> None:
        """Take the spool folder, and end what a mount before left in it; raise SpoolUnusable."""
        account = self._services.spool.account = self._store.url("")
        self._services.spool.open()
        if self._database is not None:
            self._database.open(account)
        for local, note in self._resume.promised():
            self._files.keep(OpenFile.restored(self._services, local, note))
        self._resume.start()

    def close(self) -> list[str]:
        """Upload what is dirty and stop; return a line for each file that was not stored."""
        self._resume.stop()
        self._rescue.stop()
        is_moving = self._pending.drain()
        self._pending.stop()
        leaving = self._files.drain()
        with self._lock:
            self._leaving = list(leaving)
        progress = Progress(self._services.spool, self._config.timeout_s, self._clock)
        if not is_moving:
            progress.end()
        # Not of the pool that sends the segments: each of these waits for some.
        with ThreadPoolExecutor(self._width, thread_name_prefix="leaving") as pool:
            waiting = sum(pool.map(lambda file: self._leave(file, progress), leaving))
        self._uploads.shutdown()
        self._services.ahead.close()
        self._pool.shutdown(cancel_futures=True)
        if self._database is not None:
            self._database.close()
        self._services.spool.close()
        return [*self._not_stored(), *_waiting(waiting)]

    def give_up(self) -> list[str]:
        """Keep what ``close`` has not uploaded, and wait for nothing; return a line for each.

        ``close`` may be at work in another thread. The process must end soon.
        """
        with self._lock:
            leaving = list(self._leaving)
        leaving += [file for file in self._files.all() if file not in leaving]
        waiting = sum(file.is_pending for file in leaving) + len(self._files.waiting())
        lines = [*self._not_stored(), *(file.give_up(GIVEN_UP) for file in leaving)]
        return [*filter(None, lines), *_waiting(waiting)]

    def _leave(self, file: OpenFile, progress: Progress) -> bool:
        """Upload a file because the mount ends; return whether it waits for the next mount."""
        with within(self._config.timeout_s):
            try:
                if file.is_dirty and not file.is_orphan and not file.is_pending:
                    if progress.is_over():
                        file.was_not_tried("the store did not answer when the mount ended")
                    else:
                        file.store()
                        progress.made()
            except Unavailable as exc:
                log.error("%s", exc)  # noqa: TRY400 - its cause was logged where it happened
            except FsError as exc:
                progress.made()
                log.error("%s", exc)  # noqa: TRY400
            except Exception:
                # A fault in one file must not cost the others their upload.
                log.exception("uploading %s/%s", file.place.bucket, file.place.key)
            is_waiting = file.is_pending
            self._closed(file)
        with self._lock:
            self._leaving.remove(file)
        return is_waiting

    def retry(self, name: str, *, over: bool, place: tuple[str, str] | None) -> None:
        """Upload a kept file after all; raises as ``Rescue.retry``."""
        with within(self._config.timeout_s):
            self._rescue.retry(name, over=over, place=place)

    def discard(self, name: str) -> None:
        """Remove a kept file; raise NotFound, and as the store does."""
        with within(self._config.timeout_s):
            self._rescue.discard(name)

    def _not_stored(self) -> list[str]:
        """Return a line for each file of this mount that is kept still, or is nowhere."""
        with self._lock:
            lines = list(self._lost)
        kept = [(line, line.rpartition(KEPT_IN)) for line in lines]
        return [line for line, (_, is_kept, path) in kept if not is_kept or Path(path).exists()]

    def hurry(self) -> None:
        """Let no file that was closed wait for its upload any longer."""
        self._pending.hurry()

    def sync(self) -> bool:
        """Return when the store has every file that was closed; False when nothing moves."""
        return self._pending.drain()

    def waiting(self) -> dict[str, object]:
        """Return what of closed files is not stored; cheap, however many notes the spool has."""
        return {**self._pending.status(), "not_stored": self._not_stored()}

    def status(self) -> dict[str, object]:
        """Return what `allasfs status` shows; JSON-able."""
        files = self._files.all()
        with self._lock:
            files += [file for file in self._leaving if file not in files]
        dirty = [file for file in files if file.is_dirty]
        dirty += [file for file in self._files.waiting() if file not in dirty]
        return {
            "open_files": len(files),
            "dirty_files": len(dirty),
            "to_upload": [str(file.place) for file in dirty[:SHOWN_FILES]],
            "spool_used": self._services.spool.used,
            "spool_limit": self._config.spool_size,
            "uploads_to_finish": self._resume.left,
            "uploads_finished": self._resume.finished,
            "uploads_for_other_accounts": self._resume.foreign,
            "kept": self._services.spool.kept(),
            **self.waiting(),
            "memory_in_flight": self._services.memory.in_flight,
            "memory_cached": self._services.memory.cached,
            "memory_limit": self._config.memory,
            "listings": self._listings.status(),
        }

    # -- looking ----------------------------------------------------------------------------------

    def attr_of(self, fh: int) -> Attr:
        """Return the attributes of an open file, which may have no name any more."""
        file = self._files.handle(fh).file
        return _without_name(file) if file.is_orphan else file.attr

    def getattr(self, path: str) -> Attr:
        """Return the attributes of a path; raise NotFound."""
        hidden = self._hidden_file(path)
        if hidden is not None:
            return _without_name(hidden)
        place = self._tree.place(path)
        file = self._files.changed_at(place)
        if file is not None:
            return file.attr
        return self._tree.attr(place)

    def listdir(self, path: str) -> list[str]:
        """Return the names in a directory, without ``.`` and ``..``; raise NotADirectory."""
        place = self._tree.place(path)
        if not place.bucket:
            names = set(self._listings.buckets()) | set(self._config.extra_buckets)
            if self._config.show_segments:
                return sorted(names)
            return sorted(n for n in names if not n.endswith(large.SEGMENTS_SUFFIX))
        if place.key:
            found = self._tree.find(place)
            if not found.is_dir:
                raise NotADirectory(path) if found.file else NotFound(path)
        elif self._listings.bucket(place.bucket) is None:
            raise NotFound(path)
        files, dirs = self._listings.entries(place.bucket, place.prefix)
        self._tree.listed(place.bucket, files.values())
        listed = list(files)
        new = self._files.new_in(place)
        entries = [*dirs, *listed, *set(new).difference(listed, dirs)]
        if self._config.show_ameta:
            return entries
        return [name for name in entries if not name.endswith(AMETA_SUFFIX)]

    def statfs(self) -> Usage:
        """Return usage and quota of the account, at most one TTL old, else raise Unavailable."""
        now = self._clock()
        if self._usage is None or now - self._usage[0] >= self._config.ttl_s:
            self._usage = (now, self._used())
        account = self._usage[1]
        quota = account.quota_bytes
        free = None if quota is None else max(0, quota - account.bytes_used)
        return Usage(account.bytes_used, free, account.object_count)

    def _used(self) -> AccountInfo:
        try:
            return self._store.account()
        except AccessDenied:
            # Of another project's account only the bucket that it shares may be looked at.
            if not self._config.bucket:
                raise
            found = self._store.head_container(self._config.bucket)
            return AccountInfo(found.bytes_used or 0, found.count or 0, 1)

    # -- files ------------------------------------------------------------------------------------

    def create(self, path: str, flags: int, mode: int | None = None) -> tuple[int, Handle]:
        """Make a file and open it (O_CREAT); raise Exists with O_EXCL, NotPermitted at the root."""
        self._may_change(path)
        place = self._tree.place(path)
        if not place.key:
            raise NotPermitted(path, "files live in buckets: make one with mkdir and write there")
        check_key(place.key, self._store.capabilities())
        if self._is_there(place):
            if flags & os.O_EXCL:
                raise Exists(path)
            return self.open(path, flags)
        given = Given(mode=None if mode == self._attributes.file_mode else mode)
        exclusive = bool(flags & os.O_EXCL)
        file = OpenFile(self._services, place, None, given, exclusive=exclusive)
        return self._files.add(file, flags)

    def open(self, path: str, flags: int) -> tuple[int, Handle]:
        """Open an existing file and pin its version; raise NotFound, IsADirectory, ReadOnly."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self._may_change(path)
        place = self._tree.place(path)
        with self._lock:
            hidden = self._hidden.get(path)
        if hidden is not None:
            fh, handle = self._files.another(hidden, flags)
        else:
            joined = self._files.join(place, flags)
            if joined is None:
                file = OpenFile(self._services, place, self._tree.file(place))
                joined = self._files.add(file, flags)
            fh, handle = joined
        if handle.file.info is not None and not handle.file.is_dirty:
            handle.keep_cache = self._pages.opened(place, handle.file.info)
        if flags & os.O_TRUNC:
            self._pages.forget(place)
            try:
                handle.file.truncate(0)
            except FsError:
                self.release(fh)
                raise
        return fh, handle

    def read(self, fh: int, offset: int, length: int) -> bytes:
        """Return ``length`` bytes, fewer only at the end; raise BadHandle, Stale, Unavailable."""
        handle = self._files.handle(fh)
        if not handle.may_read:
            raise BadHandle(str(handle.file.place.key), "not open for reading")
        try:
            return handle.file.read(handle.window, offset, length)
        except Corrupt:
            # What was read before is wrong somewhere, and in the kernel's pages.
            self._pages.forget(handle.file.place)
            raise
        except Stale:
            # Whoever opens it again shall find what is there now, not wait for the TTL.
            self._listings.outdated(handle.file.place.bucket, handle.file.place.key)
            raise

    def write(self, fh: int, offset: int, data: Bytes, *, in_place: bool = False) -> int:
        """Write all of ``data`` to the spool; raise BadHandle, NoSpace, FileTooBig.

        With O_APPEND it goes to the end, but for pages of a mapping, which are ``in_place``.
        """
        file, flags = self._writable(fh)
        return file.write(offset, data, append=bool(flags & os.O_APPEND) and not in_place)

    def allocate(self, fh: int, start: int, length: int) -> None:
        """Take room for a span, and make the file at least so long; raise as ``write`` does."""
        self._writable(fh)[0].allocate(start, start + length)

    def erase(self, fh: int, start: int, length: int, *, keep_size: bool) -> None:
        """Make a span zeros; with ``keep_size`` as far as the file goes."""
        self._writable(fh)[0].erase(start, start + length, keep_size=keep_size)

    def _writable(self, fh: int) -> tuple[OpenFile, int]:
        """Return file and flags of a handle that is about to change the file."""
        handle = self._files.handle(fh)
        if not handle.may_write:
            raise BadHandle(str(handle.file.place.key), "not open for writing")
        if not handle.file.is_dirty:
            self._pages.forget(handle.file.place)
        return handle.file, handle.flags

    def truncate(self, path: str, size: int, fh: int | None = None) -> None:
        """Set a file's size: stored at once by path, with the next flush by handle."""
        self._may_change(path)
        if size < 0:
            raise BadArgument(path)
        if fh is not None:
            handle = self._files.handle(fh)
            if not handle.may_write:
                raise BadArgument(path, "not open for writing")
            self._pages.forget(handle.file.place)
            handle.file.truncate(size)
            return
        fh, handle = self.open(path, os.O_WRONLY)
        try:
            self._pages.forget(handle.file.place)
            handle.file.truncate(size)
            self.flush(fh)
        finally:
            self.release(fh)

    def flush(self, fh: int) -> None:
        """Return when the store has what was written through any handle, or raise why not."""
        handle = self._files.handle(fh)
        file = handle.file
        # A new file is stored even if it was opened for reading only.
        if file.is_dirty and (handle.may_change or file.is_new):
            self._upload(file)

    fsync = flush

    def _upload(self, file: OpenFile) -> None:
        file.flush()
        self._stored(file)

    def _stored(self, file: OpenFile) -> None:
        if file.info is not None and not file.is_dirty and not file.is_orphan:
            self._pages.stored(file.place, file.info)

    def _settled(self, file: File) -> None:
        """A file that waited for its upload waits no more."""
        if isinstance(file, OpenFile):
            self._stored(file)
            if self._files.end(file):
                self._closed(file)

    def release(self, fh: int) -> None:
        """Close a handle. What was written was stored by flush; what was refused there is kept.

        The pages of a mapping that outlives its descriptor come after the last flush: they are
        uploaded here, where no program waits for the result any more.
        """
        handle = self._files.handle(fh)
        if self._files.is_last(fh):
            self._upload_rest(handle.file)
        file = self._files.remove(fh)
        if file is not None:
            self._upload_rest(file)
            self._closed(file)
        elif handle.file.is_pending:
            handle.file.rest()

    def _upload_rest(self, file: OpenFile) -> None:
        """Upload what no program asked to; ``OpenFile.close`` tells what could not be stored."""
        if not file.awaits_upload:
            return
        try:
            self._upload(file)
        except FsError as exc:
            log.debug("%s", exc)
        except Exception:
            log.exception("uploading %s/%s", file.place.bucket, file.place.key)

    def give_back(self, fh: int) -> None:
        """Close a handle that no program gets: the kernel's pages are still of another version."""
        self._pages.forget(self._files.handle(fh).file.place)
        self.release(fh)

    def _closed(self, file: OpenFile) -> None:
        try:
            line = file.close()
        except Exception:
            # The spool's disk failed. That must not cost others their uploads, nor go unsaid.
            log.exception("closing %s", file.place)
            is_lost = file.is_dirty and not file.is_orphan
            line = f"{file.place} was not stored, and could not be kept" if is_lost else ""
        with self._lock:
            if line:
                self._lost.append(line)
            for path in [path for path, hidden in self._hidden.items() if hidden is file]:
                del self._hidden[path]

    # -- names ------------------------------------------------------------------------------------

    def unlink(self, path: str) -> None:
        """Remove a file; handles read on (``OpenFile.hold``). Raise NotFound, IsADirectory."""
        with self._lock:
            if self._hidden.pop(path, None) is not None:
                return
        self._may_change(path)
        place = self._tree.place(path)
        file = self._files.at(place)
        with nullcontext() if file is None else file.lock:
            if file is not None:
                file.see()
            self._unlink(place, file)

    def _unlink(self, place: Place, file: OpenFile | None) -> None:
        if file is not None and file.is_new:
            self._orphaned(place)
            return
        info = None
        try:
            info = self._object_of(place, file)
            if file is not None:
                file.hold()
            self._tree.keep_parent(place)
            announce = self._leftovers.removing(place.bucket)
            large.delete(self._store, place.bucket, info, announce)
        except NotFound:
            # It was gone already. After any other error the store may have it still.
            if info is not None:
                self._listings.removed(place.bucket, info)
            if file is None or not file.is_dirty:
                raise
        else:
            self._listings.removed(place.bucket, info)
        self._orphaned(place)

    def _object_of(self, place: Place, file: OpenFile | None) -> ObjectInfo:
        """Return the object that goes with a file; raise NotFound, IsADirectory."""
        info = file.info if file is not None and file.is_dirty else None
        if info is not None and self._tree.find(place).is_dir:
            # Another client made a directory beside it.
            return info
        return self._tree.file(place)

    def hide(self, path: str, hidden: str) -> None:
        """Unlink an open file that the kernel wants to call ``hidden`` until it is closed."""
        file = self._files.at(self._tree.place(path))
        self.unlink(path)
        if file is not None:
            with self._lock:
                self._hidden[hidden] = file

    def _hidden_file(self, path: str) -> OpenFile | None:
        with self._lock:
            return self._hidden.get(path)

    def _orphaned(self, place: Place) -> None:
        file = self._files.forget(place)
        if file is not None:
            file.orphan()
            if not file.handles:
                self._closed(file)
        self._pages.forget(place)

    def mkdir(self, path: str, mode: int | None = None) -> None:
        """Make a directory, at the root a bucket; raise Exists, BadName, NameTooLong."""
        self._may_change(path)
        place = self._tree.place(path)
        limits = self._store.capabilities()
        given = Given()
        if mode is not None and stat.S_IMODE(mode) != self._attributes.dir_mode:
            given = Given(mode=stat.S_IMODE(mode))
        if not place.key:
            check_bucket(place.bucket, limits)
            if self._listings.bucket(place.bucket) is not None:
                raise Exists(path)
            self._store.create_container(place.bucket)
            self._listings.bucket_created(place.bucket)
            self._attributes.remember(place.bucket, BUCKET, Given(), {})
            if given.mode is not None:
                self.set_attributes(path, given)
            return
        check_key(place.prefix, limits)
        if self._is_there(place):
            raise Exists(path)
        self._tree.put_marker(place, given)

    def symlink(self, path: str, target: str) -> None:
        """Make a symbolic link: an object of its own type whose content is the target."""
        self._may_change(path)
        place = self._tree.place(path)
        if not place.key:
            raise NotPermitted(path, "links live in buckets")
        check_key(place.key, self._store.capabilities())
        if self._is_there(place):
            raise Exists(path)
        content = os.fsencode(target)
        if not 0 < len(content) <= LONGEST_TARGET:
            raise NameTooLong(path)
        given = Given(mtime_ns=self._services.clock_ns())
        self._tree.put_small(place.bucket, place.key, content, SYMLINK_TYPE, given)

    def readlink(self, path: str) -> str:
        """Return the target of a symbolic link; raise BadArgument for anything else."""
        place = self._tree.place(path)
        info = self._tree.file(place)
        if not is_symlink(info):
            raise BadArgument(path, "not a symbolic link")
        with self._lock:
            known = self._targets.get((place.bucket, info))
        if known is not None:
            return known
        try:
            with self._store.get(place.bucket, info.key, etag=info.etag) as body:
                content = b"".join(body)
        except (NotFound, Stale):
            self._listings.outdated(place.bucket, info.key)
            raise
        if len(content) != info.size:
            raise Unavailable(path, "the answer is of another size than the link")
        target = os.fsdecode(content)
        with self._lock:
            self._targets[place.bucket, info] = target
        return target

    def rmdir(self, path: str) -> None:
        """Remove an empty directory or bucket; raise DirectoryNotEmpty, NotADirectory."""
        self._may_change(path)
        place = self._tree.place(path)
        if not place.key:
            if self._listings.bucket(place.bucket) is None:
                raise NotFound(path)
            if any(file.is_new for file in self._files.below(place)):
                raise DirectoryNotEmpty(path)
            self._store.delete_container(place.bucket)
            self._listings.bucket_removed(place.bucket)
            return
        found = self._tree.find(place)
        if not found.is_dir:
            raise NotADirectory(path) if found.file else NotFound(path)
        is_empty = self._listings.is_empty(place.bucket, place.prefix)
        if not is_empty or self._files.new_in(place):
            raise DirectoryNotEmpty(path)
        self._tree.keep_parent(place)
        for marker in self._listings.markers(place.bucket, place.prefix):
            # Another client may have removed it already: what was asked for is so.
            with suppress(NotFound):
                self._store.delete(place.bucket, marker.key)
            self._listings.removed(place.bucket, marker)
        self._listings.directory_removed(place.bucket, place.prefix)

    def rename(self, path: str, target: str) -> None:
        """Give a file or directory another name; see Moves."""
        self._may_change(path)
        self._moves.rename(path, target)
        with self._lock:
            for hidden in [name for name in self._hidden if name.startswith(f"{path}/")]:
                self._hidden[target + hidden[len(path) :]] = self._hidden.pop(hidden)

    def _is_there(self, place: Place) -> bool:
        return self._files.changed_at(place) is not None or self._tree.find(place) != Found()

    def _may_change(self, path: str) -> None:
        if self._config.read_only:
            raise ReadOnly(path)
        if path:
            self._tree.may_change(self._tree.place(path))


def _waiting(count: int) -> list[str]:
    """Return a line about files that the next mount uploads."""
    return [f"{count} files wait in the spool for the next mount"] if count else []


def _without_name(file: OpenFile) -> Attr:
    """Return the attributes of a removed file."""
    return replace(file.attr, nlink=0)
