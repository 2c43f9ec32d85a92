"""A dozen calls of ``os``, on a directory or on a Vfs without a mount."""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from pathlib import Path
from typing import NamedTuple, Protocol

from allasfs.errors import IsADirectory, NotADirectory, NotFound
from allasfs.fs.attrs import Attr, Given
from allasfs.fs.vfs import Vfs


class Stat(NamedTuple):
    """What the tests look at."""

    mode: int
    size: int
    mtime_ns: int

    @property
    def is_dir(self) -> bool:
        return stat.S_ISDIR(self.mode)


class FileSystem(Protocol):
    """Paths are relative to a directory that is empty at the start. Errors are OSError."""

    def open(self, path: str, flags: int, mode: int = 0o644) -> int: ...
    def close(self, fd: int) -> None: ...
    def pread(self, fd: int, length: int, offset: int) -> bytes: ...
    def pwrite(self, fd: int, data: bytes, offset: int) -> int: ...
    def ftruncate(self, fd: int, size: int) -> None: ...
    def truncate(self, path: str, size: int) -> None: ...
    def fsync(self, fd: int) -> None: ...
    def lstat(self, path: str) -> Stat: ...
    def listdir(self, path: str) -> list[str]: ...
    def mkdir(self, path: str, mode: int = 0o755) -> None: ...
    def rmdir(self, path: str) -> None: ...
    def unlink(self, path: str) -> None: ...
    def rename(self, old: str, new: str) -> None: ...
    def utime(self, path: str, mtime_ns: int) -> None: ...
    def chmod(self, path: str, mode: int) -> None: ...
    def symlink(self, target: str, path: str) -> None: ...
    def readlink(self, path: str) -> str: ...
    def getxattr(self, path: str, name: str) -> bytes: ...
    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None: ...
    def listxattr(self, path: str) -> list[str]: ...
    def removexattr(self, path: str, name: str) -> None: ...


class OsFs:
    """A directory of the kernel: a plain one, or one in a mount."""

    def __init__(self, top: Path) -> None:
        self._top = top

    def _at(self, path: str) -> str:
        return os.path.join(self._top, path) if path else os.fspath(self._top)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        return os.open(self._at(path), flags, mode)

    def close(self, fd: int) -> None:
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return os.pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def ftruncate(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(self._at(path), size)

    def fsync(self, fd: int) -> None:
        os.fsync(fd)

    def lstat(self, path: str) -> Stat:
        found = os.lstat(self._at(path))
        return Stat(found.st_mode, found.st_size, found.st_mtime_ns)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(self._at(path))

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def rename(self, old: str, new: str) -> None:
        os.rename(self._at(old), self._at(new))

    def utime(self, path: str, mtime_ns: int) -> None:
        os.utime(self._at(path), ns=(mtime_ns, mtime_ns))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, self._at(path))

    def readlink(self, path: str) -> str:
        return os.readlink(self._at(path))

    def getxattr(self, path: str, name: str) -> bytes:
        return os.getxattr(self._at(path), name)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        os.setxattr(self._at(path), name, value, flags)

    def listxattr(self, path: str) -> list[str]:
        return os.listxattr(self._at(path))

    def removexattr(self, path: str, name: str) -> None:
        os.removexattr(self._at(path), name)


class VfsFs:
    """A Vfs, called as the kernel calls it: every component is looked up before it is used."""

    def __init__(self, vfs: Vfs, top: str = "") -> None:
        self.vfs = vfs
        self._top = top

    def _walk(self, path: str) -> str:
        """Return the absolute path after looking at the directories on the way."""
        whole = posixpath.join(self._top, path) if path else self._top
        parts = whole.split("/")[1:]
        for number in range(1, len(parts)):
            above = self.vfs.getattr("/" + "/".join(parts[:number]))
            if not above.is_dir:
                raise NotADirectory(whole)
        return whole or "/"

    def _look(self, path: str) -> Attr | None:
        try:
            return self.vfs.getattr(path)
        except NotFound:
            return None

    def _follow(self, path: str) -> str:
        whole = self._walk(path)
        for _ in range(40):
            found = self._look(whole)
            if found is None or not stat.S_ISLNK(found.mode):
                return whole
            target = self.vfs.readlink(whole)
            whole = posixpath.normpath(posixpath.join(posixpath.dirname(whole), target))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)

    def open(self, path: str, flags: int, mode: int = 0o644) -> int:
        whole = self._follow(path)
        found = self._look(whole)
        if found is None:
            if not flags & os.O_CREAT:
                raise NotFound(whole)
            return self.vfs.create(whole, flags, mode)[0]
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), whole)
        if found.is_dir:
            raise IsADirectory(whole)
        return self.vfs.open(whole, flags & ~(os.O_CREAT | os.O_EXCL))[0]

    def close(self, fd: int) -> None:
        try:
            self.vfs.flush(fd)
        finally:
            self.vfs.release(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        return self.vfs.read(fd, offset, length)

    def pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return self.vfs.write(fd, offset, data)

    def ftruncate(self, fd: int, size: int) -> None:
        self.vfs.truncate("", size, fd)

    def truncate(self, path: str, size: int) -> None:
        whole = self._follow(path)
        if self.vfs.getattr(whole).is_dir:
            raise IsADirectory(whole)
        self.vfs.truncate(whole, size)

    def fsync(self, fd: int) -> None:
        self.vfs.fsync(fd)

    def lstat(self, path: str) -> Stat:
        found = self.vfs.getattr(self._walk(path))
        return Stat(found.mode, found.size, found.mtime_ns)

    def listdir(self, path: str) -> list[str]:
        whole = self._walk(path)
        if not self.vfs.getattr(whole).is_dir:
            raise NotADirectory(whole)
        return self.vfs.listdir(whole)

    def mkdir(self, path: str, mode: int = 0o755) -> None:
        whole = self._walk(path)
        if self._look(whole) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), whole)
        self.vfs.mkdir(whole, mode)

    def rmdir(self, path: str) -> None:
        whole = self._walk(path)
        if not self.vfs.getattr(whole).is_dir:
            raise NotADirectory(whole)
        self.vfs.rmdir(whole)

    def unlink(self, path: str) -> None:
        whole = self._walk(path)
        if self.vfs.getattr(whole).is_dir:
            raise IsADirectory(whole)
        file = self.vfs._files.at(self.vfs._tree.place(whole))
        if file is not None and file.handles:
            # libfuse's way with open files.
            self.vfs.hide(whole, posixpath.join(posixpath.dirname(whole), ".fuse_hidden"))
        else:
            self.vfs.unlink(whole)

    def rename(self, old: str, new: str) -> None:
        source, target = self._walk(old), self._walk(new)
        found, there = self.vfs.getattr(source), self._look(target)
        if there is not None and there.is_dir and not found.is_dir:
            raise IsADirectory(target)
        if there is not None and found.is_dir and not there.is_dir:
            raise NotADirectory(target)
        self.vfs.rename(source, target)

    def utime(self, path: str, mtime_ns: int) -> None:
        self.vfs.set_attributes(self._follow(path), Given(mtime_ns=mtime_ns))

    def chmod(self, path: str, mode: int) -> None:
        self.vfs.set_attributes(self._follow(path), Given(mode=mode))

    def symlink(self, target: str, path: str) -> None:
        whole = self._walk(path)
        if self._look(whole) is not None:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), whole)
        self.vfs.symlink(whole, target)

    def readlink(self, path: str) -> str:
        whole = self._walk(path)
        if not stat.S_ISLNK(self.vfs.getattr(whole).mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), whole)
        return self.vfs.readlink(whole)

    def getxattr(self, path: str, name: str) -> bytes:
        return self.vfs.getxattr(self._known(path), name)

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        self.vfs.setxattr(self._known(path), name, value, flags)

    def listxattr(self, path: str) -> list[str]:
        return self.vfs.listxattr(self._known(path))

    def removexattr(self, path: str, name: str) -> None:
        self.vfs.removexattr(self._known(path), name)

    def _known(self, path: str) -> str:
        whole = self._follow(path)
        self.vfs.getattr(whole)
        return whole


def read_file(fs: FileSystem, path: str) -> bytes:
    """Return a file's bytes, as cat reads them."""
    fd = fs.open(path, os.O_RDONLY)
    try:
        pieces: list[bytes] = []
        while piece := fs.pread(fd, 128 * 1024, sum(map(len, pieces))):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        fs.close(fd)


def write_file(fs: FileSystem, path: str, data: bytes, *, flags: int = 0) -> None:
    """Make or replace a file, as cp does."""
    fd = fs.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | flags)
    try:
        for start in range(0, len(data), 128 * 1024):
            fs.pwrite(fd, data[start : start + 128 * 1024], start)
    finally:
        fs.close(fd)
