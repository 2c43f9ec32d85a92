"""Does system calls in one directory, on request, and tells what each of them gave.

``python -m tests.oracle.player DIRECTORY UID``: a process of its own, so that a fault in a mapping
(SIGBUS) or a hang is one side's end and not that of the tests. Requests and answers are pickled.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import pickle
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.syscalls import fallocate, renameat2

# What a system call gave: a value, or the name of an errno.
Outcome = tuple[str, Any]

ROOT = Path(__file__).parents[2]
# Times before this were given by a program, later ones are those of the clock.
BEGIN_NS = 1_700_000_000 * 10**9


@dataclass(frozen=True)
class Call:
    """One system call: the name of a method of Side, and its arguments."""

    name: str
    args: tuple[Any, ...] = ()

    def __str__(self) -> str:
        return f"{self.name}{self.args!r}"


def content(seed: int, length: int) -> bytes:
    """Return bytes that no other seed gives, and that differ at every offset."""
    return hashlib.shake_256(b"%d" % seed).digest(length)


class Side:
    """A directory, and the files that are open in it, by their slots."""

    def __init__(self, top: str, uid: int = 0) -> None:
        os.umask(0o022)
        # One level below, so that a link to ".." stays in the directory.
        os.chdir(top)
        os.mkdir("w")
        os.chown("w", uid, uid)
        os.chdir("w")
        if uid:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
        self._fds: dict[int, int] = {}

    def do(self, call: Call) -> Outcome:
        """Do one call."""
        try:
            return "ok", getattr(self, call.name)(*call.args)
        except OSError as exc:
            return "error", errno.errorcode.get(exc.errno or 0, str(exc))

    def _fd(self, slot: int) -> int:
        try:
            return self._fds[slot]
        except KeyError:
            raise OSError(errno.EBADF, "") from None

    # -- descriptors ------------------------------------------------------------------------------

    def open(self, slot: int, path: str, flags: int, mode: int) -> None:
        self._keep(slot, os.open(path, flags, mode))

    def _keep(self, slot: int, fd: int) -> None:
        """Close what was in the slot: a failed close is another call's business."""
        old, self._fds[slot] = self._fds.get(slot), fd
        if old is not None:
            os.close(old)

    def use(self, path: str, flags: int) -> list[Outcome]:
        """Open, read a page, write a page, look and close; all results."""
        given: list[Outcome] = []

        def note(call: Callable[[], object]) -> None:
            try:
                given.append(("ok", call()))
            except OSError as exc:
                given.append(("error", errno.errorcode[exc.errno or 0]))

        note(lambda: self.open(0, path, flags, 0o640))
        if 0 not in self._fds:
            return given
        # Pages, because O_DIRECT takes nothing else on most file systems.
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            note(lambda: (os.readv(self._fds[0], [page]), page[:]))
            page[:] = content(flags, mmap.PAGESIZE)
            note(lambda: os.writev(self._fds[0], [page]))
        note(lambda: os.lseek(self._fds[0], 0, os.SEEK_CUR))
        note(lambda: self.fstat(0))
        note(lambda: self.close(0))
        return given

    def can_open(self, path: str, flags: int, mode: int) -> None:
        os.close(os.open(path, flags, mode))

    def close(self, slot: int) -> None:
        os.close(self._fds.pop(slot, -1))

    def dup(self, slot: int, new: int) -> None:
        self._keep(new, os.dup(self._fd(slot)))

    def dup2(self, slot: int, other: int) -> None:
        os.dup2(self._fd(slot), self._fd(other))

    def read(self, slot: int, length: int) -> bytes:
        return os.read(self._fd(slot), length)

    def pread(self, slot: int, length: int, offset: int) -> bytes:
        return os.pread(self._fd(slot), length, offset)

    def readv(self, slot: int, lengths: list[int]) -> tuple[int, list[bytes]]:
        buffers = [bytearray(length) for length in lengths]
        return os.readv(self._fd(slot), buffers), [bytes(each) for each in buffers]

    def write(self, slot: int, seed: int, length: int) -> int:
        return os.write(self._fd(slot), content(seed, length))

    def writev(self, slot: int, seed: int, lengths: list[int]) -> int:
        return os.writev(self._fd(slot), [content(seed, length) for length in lengths])

    def pwrite(self, slot: int, seed: int, length: int, offset: int) -> int:
        return os.pwrite(self._fd(slot), content(seed, length), offset)

    def lseek(self, slot: int, offset: int, whence: int) -> int:
        if stat.S_ISDIR(os.fstat(self._fd(slot)).st_mode):
            # What a position in a directory means is the file system's own affair.
            raise OSError(errno.EISDIR, "")
        return os.lseek(self._fd(slot), offset, whence)

    def ftruncate(self, slot: int, size: int) -> None:
        os.ftruncate(self._fd(slot), size)

    def fsync(self, slot: int) -> None:
        os.fsync(self._fd(slot))

    def fdatasync(self, slot: int) -> None:
        os.fdatasync(self._fd(slot))

    def fstat(self, slot: int) -> dict[str, object]:
        return _shown(os.fstat(self._fd(slot)))

    def fchmod(self, slot: int, mode: int) -> None:
        os.fchmod(self._fd(slot), mode)

    def fchown(self, slot: int, uid: int, gid: int) -> None:
        os.fchown(self._fd(slot), uid, gid)

    def futimens(self, slot: int, mtime_ns: int) -> None:
        os.utime(self._fd(slot), ns=(mtime_ns, mtime_ns))

    def posix_fallocate(self, slot: int, start: int, length: int) -> None:
        os.posix_fallocate(self._fd(slot), start, length)

    def fallocate(self, slot: int, mode: int, start: int, length: int) -> None:
        fallocate(self._fd(slot), mode, start, length)

    def copy_file_range(
        self, slot: int, other: int, length: int, at: int | None, to: int | None
    ) -> int:
        return os.copy_file_range(self._fd(slot), self._fd(other), length, at, to)

    def sendfile(self, slot: int, other: int, length: int, at: int | None) -> int:
        return os.sendfile(self._fd(slot), self._fd(other), at, length)

    def mmap_read(self, slot: int, start: int, length: int) -> bytes:
        """Return bytes of a shared mapping of the whole file, as far as the file goes."""
        with self._mapped(slot, mmap.PROT_READ) as mapped:
            return mapped[start : start + length]

    def mmap_write(self, slot: int, seed: int, start: int, length: int, sync: bool) -> int:
        """Write into a shared mapping of the whole file, as far as the file goes."""
        with self._mapped(slot, mmap.PROT_READ | mmap.PROT_WRITE) as mapped:
            data = content(seed, length)[: max(0, len(mapped) - start)]
            mapped[start : start + len(data)] = data
            if sync:
                mapped.flush()
            return len(data)

    def _mapped(self, slot: int, protection: int) -> mmap.mmap:
        fd = self._fd(slot)
        size = os.fstat(fd).st_size
        if not size or not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "")
        return mmap.mmap(fd, size, mmap.MAP_SHARED, protection)

    # -- names ------------------------------------------------------------------------------------

    def stat(self, path: str) -> dict[str, object]:
        return _shown(os.stat(path))

    def lstat(self, path: str) -> dict[str, object]:
        return _shown(os.lstat(path))

    def access(self, path: str, mode: int) -> bool:
        return os.access(path, mode)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def rename(self, old: str, new: str) -> None:
        os.rename(old, new)

    def renameat2(self, old: str, new: str, flags: int) -> None:
        renameat2(old, new, flags)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def listdir(self, path: str) -> list[tuple[str, str]]:
        """Return names with their kinds, as readdir tells them."""
        with os.scandir(path) as found:
            return sorted((each.name, _kind(each)) for each in found)

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def readlink(self, path: str) -> str:
        return os.readlink(path)

    def link(self, old: str, new: str) -> None:
        os.link(old, new, follow_symlinks=False)

    def mknod(self, path: str, mode: int) -> None:
        os.mknod(path, mode)

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid)

    def lchown(self, path: str, uid: int, gid: int) -> None:
        os.lchown(path, uid, gid)

    def utime(self, path: str, mtime_ns: int | None) -> None:
        if mtime_ns is None:
            os.utime(path)
        else:
            os.utime(path, ns=(mtime_ns, mtime_ns))

    def lutime(self, path: str, mtime_ns: int) -> None:
        os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)

    def longest_name(self, path: str) -> int:
        return os.statvfs(path).f_namemax

    def whole(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def removed_in(self, path: str) -> list[int]:
        """Return the slots of files that were removed from a directory and are open still."""
        inside = os.path.realpath(path) + "/"
        links = {slot: os.readlink(f"/proc/self/fd/{fd}") for slot, fd in self._fds.items()}
        return [
            slot
            for slot, link in links.items()
            if link.startswith(inside) and link.endswith(" (deleted)")
        ]

    def put(self, path: str, length: int, mode: int) -> None:
        """Make a file with content."""
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(content(length, length))

    def clear(self, path: str) -> None:
        """Let nothing have this name."""
        if os.path.isdir(path) and not os.path.islink(path):
            os.rmdir(path)
        elif os.path.lexists(path):
            os.unlink(path)

    # -- the whole --------------------------------------------------------------------------------

    def tree(self) -> dict[str, tuple[object, bytes | str | None]]:
        """Return what everything below is: attributes, and content or target."""
        found: dict[str, tuple[object, bytes | str | None]] = {}
        for path in sorted(Path("..").rglob("*")):
            name = str(path.relative_to(".."))
            shown = _shown(path.lstat())
            if path.is_symlink():
                found[name] = shown, os.readlink(path)
            elif path.is_file():
                found[name] = shown, path.read_bytes() if os.access(path, os.R_OK) else None
            else:
                found[name] = shown, None
        return found


def _kind(entry: os.DirEntry[str]) -> str:
    if entry.is_symlink():
        return "link"
    return "directory" if entry.is_dir(follow_symlinks=False) else "file"


def _shown(found: os.stat_result) -> dict[str, object]:
    """Return what two file systems can agree on; a time that nobody gave is "now"."""
    return {
        "mode": stat.filemode(found.st_mode) + oct(stat.S_IMODE(found.st_mode)),
        "size": found.st_size,
        "links": found.st_nlink,
        "owner": (found.st_uid, found.st_gid),
        "mtime": found.st_mtime_ns if found.st_mtime_ns < BEGIN_NS else "now",
    }


class Player:
    """A Side in a process of its own."""

    def __init__(self, top: Path, uid: int = 0) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.oracle.player", str(top), str(uid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )

    def do(self, call: Call) -> Outcome:
        """Do one call there, and wait for what it gives."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        # Without the class: another user cannot import it.
        pickle.dump((call.name, call.args), process.stdin)
        process.stdin.flush()
        try:
            outcome: Outcome = pickle.load(process.stdout)  # noqa: S301  our own process
        except EOFError:
            return "ended", process.wait()
        return outcome

    def end(self) -> None:
        """End the process: what is open there is closed by the kernel."""
        self._process.communicate()


def main() -> None:
    """Answer requests until there are no more."""
    assert time.time_ns() > BEGIN_NS
    side = Side(sys.argv[1], int(sys.argv[2]))
    do: Callable[[Call], Outcome] = side.do
    while True:
        try:
            call = Call(*pickle.load(sys.stdin.buffer))  # noqa: S301  from the tests
        except EOFError:
            return
        pickle.dump(do(call), sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
