"""The FUSE adapter: fusepy's calls in, Vfs calls out, errno back.

``FuseOps.__call__`` is the one door: fusepy calls every operation through it, so every exception
leaves as an ``OSError`` with a positive errno. fusepy 3.0.1 needs that: an exception whose errno
is None ends in its own handler with a NameError, and the program gets an arbitrary number, which
may be success (``read`` then is an end of file, and ``cp`` makes a short copy with status 0).

The class does not inherit fusepy's ``Operations``, whose defaults say success for what was not
done: an operation that is missing here is answered with ENOSYS by the kernel.
"""

from __future__ import annotations

import codecs
import errno
import logging
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from typing import Any

import fuse
from cachetools import LRUCache

from allasfs.app import binding
from allasfs.config import Config
from allasfs.deadline import within
from allasfs.errors import (
    AccessDenied,
    Failed,
    FsError,
    Internal,
    LookAgain,
    MountFailed,
    NotPermitted,
    NotSupported,
    Refused,
)
from allasfs.fs.attrs import STAT_BLOCK, Attr, Given
from allasfs.fs.vfs import Vfs
from allasfs.transfer.checksum import Bytes

log = logging.getLogger(__name__)

# libfuse renames an open file to this when it is unlinked, and unlinks it when it is closed.
_HIDDEN = re.compile(r"/\.fuse_hidden[0-9a-f]{16}$")
# fusepy decodes paths before __call__, strictly, and answers EINVAL to what is not UTF-8. With
# this codec such names arrive, and the Vfs refuses them with EILSEQ.
ENCODING = "allasfs-path"
# The unit of statfs: what a program reads at once.
BLOCK = 128 * 1024
# What a program writes at once, where it asks (cp, cat, Python): the kernel's question before each
# write(2) comes once for eight of its requests, which have 128 KiB at most.
WRITTEN_BLOCK = 1024 * 1024
# Paths of which it is remembered what the kernel was told.
TOLD = 100_000
# The kernel counts from when the program that asked gets its answer, on a busy computer later.
SLACK_S = 1.0
# <bits/stat.h>: in place of a time's nanoseconds. libfuse sets the seconds to 0 beside them.
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
# With these libfuse creates a file for mknod(2), and releases it without a flush. What comes from
# the kernel has O_LARGEFILE.
MKNOD_FLAGS = os.O_CREAT | os.O_EXCL | os.O_WRONLY
# <linux/falloc.h>
FALLOC_KEEP_SIZE = 0x01
FALLOC_PUNCH_HOLE = 0x02
FALLOC_ZERO_RANGE = 0x10
# What df shows as free where nothing limits the account: 1 PiB.
UNLIMITED = 1024**5


XATTR_OPERATIONS = ("getxattr", "listxattr", "setxattr", "removexattr")


def _register_codec() -> None:
    utf8 = codecs.lookup("utf-8")

    def find(name: str) -> codecs.CodecInfo | None:
        if name != ENCODING.replace("-", "_"):
            return None
        return codecs.CodecInfo(
            lambda text, _errors="": utf8.encode(text, "surrogateescape"),
            lambda data, _errors="": utf8.decode(data, "surrogateescape"),
            name=ENCODING,
        )

    codecs.register(find)


class FuseOps:
    """The operations that fusepy finds by their names; see the module's text for the door."""

    use_ns = True
    # read, write, flush, release and fsync come without a path for files that were unlinked.
    flag_nullpath_ok = 1
    # Without it libfuse drops a change of one of the two times, and says success (``tar -x``).
    flag_utime_omit_ok = 1

    def __init__(self, vfs: Vfs, config: Config, *, on_ready: Callable[[], None]) -> None:
        self._vfs = vfs
        self._config = config
        self._on_ready = on_ready
        # What the kernel was told of a path, and when: it may answer with that until it is too old.
        self._told: LRUCache[str, tuple[float, Attr]] = LRUCache(TOLD)
        # Leaf lock of _told.
        self._lock = threading.Lock()
        # What made ``init`` fail, where nothing may be raised.
        self.failure: BaseException | None = None
        if not config.xattrs:
            # As if they were not defined: the kernel asks once, and then refuses by itself.
            for name in XATTR_OPERATIONS:
                setattr(self, name, None)

    def __call__(self, op: str, *args: Any) -> Any:
        """Do one operation within its deadline; raise only OSError with a positive errno."""
        try:
            with within(self._config.timeout_s):
                return getattr(self, op)(*args)
        except Refused as exc:
            log.debug("%s %s: %s", op, exc, errno.errorcode[exc.code])
            raise
        except Failed as exc:
            log.warning("%s %s: %s", op, exc, errno.errorcode[exc.code])
            raise
        except BaseException as exc:
            subject = next((arg for arg in args if isinstance(arg, str)), "")
            log.exception("%s %s", op, subject)
            raise Internal(subject, f"{op} failed inside allasfs: {type(exc).__name__}") from exc

    # -- the mount --------------------------------------------------------------------------------

    def init(self, path: str) -> None:
        """The session begins. Nothing may be raised here: a failure ends the mount."""
        try:
            self._vfs.start()
            self._on_ready()
        except BaseException as exc:
            self.failure = exc
            log.error("the mount cannot start: %s", exc)  # noqa: TRY400 - serve() raises it
            fuse.fuse_exit()

    def statfs(self, path: str) -> dict[str, int]:
        """Usage of the account in blocks."""
        usage = self._vfs.statfs()
        free = UNLIMITED if usage.free_bytes is None else usage.free_bytes
        return {
            "f_bsize": BLOCK,
            "f_frsize": BLOCK,
            "f_blocks": -(-usage.used_bytes // BLOCK) + free // BLOCK,
            "f_bfree": free // BLOCK,
            "f_bavail": free // BLOCK,
            "f_files": usage.objects,
            "f_namemax": 255,
        }

    # -- names ------------------------------------------------------------------------------------

    def getattr(self, path: str | None, fh: Any = None) -> dict[str, int]:
        """Stat; without a path of an open file that was removed together with its directory."""
        if path is None:
            return _stat(self._vfs.attr_of(fh.fh))
        attr = self._vfs.getattr(path)
        with self._lock:
            self._told[path] = (time.monotonic(), attr)
        return _stat(attr)

    def access(self, path: str, mode: int) -> None:
        """All is allowed, but to run a file that nobody may run: as execve(2) refuses it then."""
        if mode & os.X_OK:
            found = self._vfs.getattr(path)
            if stat.S_ISREG(found.mode) and not found.mode & 0o111:
                raise AccessDenied(path, "nobody may execute it")

    def readdir(self, path: str, fh: int) -> list[str]:
        """The names of a directory."""
        return [".", "..", *self._vfs.listdir(path)]

    def mkdir(self, path: str, mode: int) -> None:
        """Make a directory or bucket."""
        self._vfs.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        """Remove an empty directory or bucket."""
        self._vfs.rmdir(path)

    def unlink(self, path: str) -> None:
        """Remove a file. A hidden name is only libfuse's: what it stood for is gone already."""
        if not _HIDDEN.search(path):
            self._vfs.unlink(path)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name, or hide an open file that is being unlinked."""
        if _HIDDEN.search(new):
            self._vfs.hide(old, new)
        else:
            self._vfs.rename(old, new)
        with self._lock:
            told = self._told.pop(old, None)
            self._told.pop(new, None)
            if told is not None:
                self._told[new] = told
                if told[1].is_dir:
                    for path in [path for path in self._told if path.startswith(f"{old}/")]:
                        self._told[new + path[len(old) :]] = self._told.pop(path)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        """Give a modification time; access times are not kept."""
        mtime_ns = _given_ns(times)
        if mtime_ns is not None:
            self._vfs.set_attributes(path, Given(mtime_ns=mtime_ns))

    def chmod(self, path: str, mode: int) -> None:
        """Give a mode."""
        self._vfs.set_attributes(path, Given(mode=stat.S_IMODE(mode)))

    def chown(self, path: str, uid: int, gid: int) -> None:
        """Give an owner; -1 leaves one as it is."""
        owner = None if uid == -1 else uid
        self._vfs.set_attributes(path, Given(uid=owner, gid=None if gid == -1 else gid))

    def getxattr(self, path: str, name: str) -> bytes:
        """The value of ``user.NAME``; fusepy sees to the size of the caller's buffer."""
        return self._vfs.getxattr(path, name)

    def listxattr(self, path: str) -> list[str]:
        """The names of the extended attributes."""
        return self._vfs.listxattr(path)

    def setxattr(self, path: str, name: str, value: bytes, flags: int) -> None:
        """Set an extended attribute."""
        self._vfs.setxattr(path, name, value, flags)

    def removexattr(self, path: str, name: str) -> None:
        """Remove an extended attribute."""
        self._vfs.removexattr(path, name)

    def symlink(self, target: str, source: str) -> None:
        """Make a symbolic link ``target`` that points to ``source``."""
        self._vfs.symlink(target, source)

    def readlink(self, path: str) -> str:
        """The target of a symbolic link."""
        return self._vfs.readlink(path)

    def link(self, target: str, source: str) -> None:
        """An object has one name."""
        # As link(2) says of file systems without hard links; programs know how to go on then.
        raise NotPermitted(target, "the store has no hard links")

    def mknod(self, path: str, mode: int, dev: int) -> None:
        """Refuse pipes, sockets and devices. A regular file comes as ``create``, by libfuse."""
        raise NotPermitted(path, "the store has no pipes, sockets and devices")

    # -- files ------------------------------------------------------------------------------------

    def create(self, path: str, mode: int, fi: Any) -> int:
        """Make a file and open it."""
        fi.fh, _ = self._vfs.create(path, fi.flags, stat.S_IMODE(mode))
        if fi.flags == MKNOD_FLAGS:
            try:
                self._vfs.flush(fi.fh)
            except FsError:
                self._vfs.release(fi.fh)
                raise
        return 0

    def open(self, path: str, fi: Any) -> int:
        """Open a file; its pages are kept while the version is the same.

        When the version is not the one whose size the kernel was told, reads would end at the old
        size, a short copy without an error. ESTALE makes the kernel look the name up anew and open
        again (Linux, do_filp_open), so that both are of one version.
        """
        if fi.flags & os.O_TRUNC:
            self._kernel_knows(path)
        fi.fh, handle = self._vfs.open(path, fi.flags)
        if not handle.file.is_dirty and self._is_outdated(path, handle.file.attr):
            self._vfs.give_back(fi.fh)
            raise LookAgain(path, "replaced by another client")
        fi.keep_cache = int(handle.keep_cache)
        return 0

    def _kernel_knows(self, path: str | None) -> None:
        """The kernel takes part in a change: it does not believe any more what it was told."""
        if path is not None:
            with self._lock:
                self._told.pop(path, None)

    def _is_outdated(self, path: str, attr: Attr) -> bool:
        """Whether the kernel may still believe other attributes than these."""
        with self._lock:
            since, told = self._told.get(path, (0.0, attr))
        is_believed = time.monotonic() - since <= self._config.kernel_timeout_s + SLACK_S
        return is_believed and (told.size, told.mtime_ns) != (attr.size, attr.mtime_ns)

    def read(self, path: str | None, size: int, offset: int, fi: Any) -> bytes:
        """Read."""
        return self._vfs.read(fi.fh, offset, size)

    def write(self, path: str | None, data: Bytes, offset: int, fi: Any) -> int:
        """Write, all of it; the kernel knows the size that this makes."""
        self._kernel_knows(path)
        # A page of a mapping has its place, also in a file that was opened to append.
        return self._vfs.write(fi.fh, offset, data, in_place=bool(fi.writepage))

    def truncate(self, path: str | None, length: int, fi: Any = None) -> None:
        """Truncate and ftruncate."""
        self._kernel_knows(path)
        self._vfs.truncate(path or "", length, None if fi is None else fi.fh)

    def fallocate(self, path: str | None, mode: int, start: int, length: int, fi: Any) -> None:
        """Take room in the spool for a span, or make it zeros; room behind the end is refused."""
        self._kernel_knows(path)
        if mode & (FALLOC_PUNCH_HOLE | FALLOC_ZERO_RANGE):
            self._vfs.erase(fi.fh, start, length, keep_size=bool(mode & FALLOC_KEEP_SIZE))
        elif mode == 0:
            self._vfs.allocate(fi.fh, start, length)
        else:
            raise NotSupported(path or "", "no room is kept behind the end of a file")

    def flush(self, path: str | None, fi: Any) -> None:
        """close(): its result is the upload's."""
        self._vfs.flush(fi.fh)

    def fsync(self, path: str | None, datasync: int, fi: Any) -> None:
        """Fsync and fdatasync."""
        self._vfs.fsync(fi.fh)

    def release(self, path: str | None, fi: Any) -> None:
        """The last descriptor of an open() is closed."""
        self._vfs.release(fi.fh)


def _given_ns(times: tuple[int, int] | None) -> int | None:
    """Return the modification time that utimensat(2) asks for; None when it is to be kept."""
    if times is None or times[1] == UTIME_NOW:
        return time.time_ns()
    return None if times[1] == UTIME_OMIT else times[1]


def _stat(attr: Attr) -> dict[str, int]:
    return {
        "st_mode": attr.mode,
        "st_nlink": attr.nlink,
        "st_size": attr.size,
        "st_blocks": -(-attr.size // STAT_BLOCK),
        "st_blksize": WRITTEN_BLOCK if attr.is_written else BLOCK,
        "st_uid": attr.uid,
        "st_gid": attr.gid,
        "st_atime": attr.mtime_ns,
        "st_mtime": attr.mtime_ns,
        "st_ctime": attr.mtime_ns,
    }


def mount_options(config: Config, fsname: str) -> dict[str, Any]:
    """Return libfuse's options for a mount; each with its reason."""
    options: dict[str, Any] = {
        "fsname": fsname,
        "subtype": "allasfs",
        # What the kernel may answer by itself; see Config.kernel_timeout_s.
        "entry_timeout": config.kernel_timeout_s,
        "attr_timeout": config.kernel_timeout_s,
        "negative_timeout": config.kernel_timeout_s,
        # Writes of 128 KiB instead of 4 KiB.
        "big_writes": True,
        # open(O_TRUNC) is one operation: no empty version is stored in between.
        "atomic_o_trunc": True,
        "ro": config.read_only,
        "allow_other": config.allow_other,
        # Without it every user who is let in has all rights of the one who mounted.
        "default_permissions": config.checks_permissions,
        # Each is a thread of libfuse.
        "max_background": config.threads,
        **dict.fromkeys(config.kernel_options, True),
    }
    return {name: value for name, value in options.items() if value is not False}


def serve(ops: FuseOps, mount_point: str, config: Config, fsname: str) -> None:
    """Mount and serve until the mount ends; raise MountFailed, or what made ``init`` fail.

    Runs libfuse in the foreground always: in the background it would fork, and threads and
    sockets made before would be lost.
    """
    _register_codec()
    options = mount_options(config, fsname)
    try:
        binding.Mounted(
            ops, mount_point, foreground=True, raw_fi=True, encoding=ENCODING, **options
        )
    except RuntimeError as exc:
        raise MountFailed(f"{mount_point}: libfuse could not mount (status {exc})") from exc
    if isinstance(ops.failure, Exception):
        raise ops.failure
    if ops.failure is not None:
        # What would end a program must not end this one with status 0.
        raise MountFailed(f"{mount_point}: {type(ops.failure).__name__}") from ops.failure
