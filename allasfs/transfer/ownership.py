"""Who owns a spool folder: one mount, also where hosts share the folder.

``flock`` decides on one host, and between hosts where the file system passes it on. Not all do
(Lustre without ``-o flock``, NFS with ``local_lock``), and home folders are often on one of them.
So the owner also writes its name into the lock file and touches it all the time: what another host
touched a moment ago is in use. A moment is told by the file system's own clock, the time of a file
that was just written. The owner empties the file when it ends; after a crash another host waits
until the last touch is old.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from allasfs.errors import SpoolUnusable

log = logging.getLogger(__name__)

LOCK = "lock"
TAKING = "lock.taking"
# The owner touches its lock so often.
TOUCH_S = 15.0
# A lock that was not touched for so long belongs to nobody: three touches may come late.
OLD_S = 60.0
# Whoever looks or takes has the lock for a moment.
PATIENCE_S = 1.0
LOOK_S = 0.05
# What a file system says that knows no flock.
NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
FLAGS = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names."""

    host: str
    pid: int
    since: str

    def __str__(self) -> str:
        return f"a mount on {self.host} (pid {self.pid})"


def here() -> Holder:
    """Return this process."""
    return Holder(socket.gethostname(), os.getpid(), time.strftime("%Y-%m-%dT%H:%M:%S%z"))


class Ownership:
    """This process's claim to a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / LOCK
        self._fd = -1
        self._me = here()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def is_taken(self) -> bool:
        """Whether the folder is owned by this."""
        return self._fd >= 0 and self._thread is not None

    def take(self) -> None:
        """Own the folder; raise SpoolUnusable, which names the owner, and OSError."""
        self._fd = os.open(self._path, FLAGS, 0o600)
        try:
            self._claim()
        except BaseException:
            os.close(self._fd)
            self._fd = -1
            raise
        self._end.clear()
        self._thread = threading.Thread(target=self._touch, name="spool-lock", daemon=True)
        self._thread.start()

    def _claim(self) -> None:
        has_flock = _flock(self._fd, fcntl.LOCK_EX)
        if has_flock is None:
            raise self._in_use(_read(self._fd))
        with self._taking():
            holder = _read(self._fd)
            if holder is not None and _is_alive(holder, self._fd, self._folder, has_flock):
                raise self._in_use(holder)
            _write(self._fd, self._me)

    def give_up(self) -> None:
        """Let others own it."""
        if self._fd < 0:
            return
        self._end.set()
        if self._thread is not None:
            self._thread.join()
        try:
            if _read(self._fd) == self._me:
                os.ftruncate(self._fd, 0)
        except OSError as exc:
            log.debug("%s: %s", self._path, exc)
        os.close(self._fd)
        self._fd = -1

    def _in_use(self, holder: Holder | None) -> SpoolUnusable:
        who = str(holder) if holder is not None else "another mount"
        return SpoolUnusable(f"{self._folder}: the spool is in use by {who}")

    @contextlib.contextmanager
    def _taking(self) -> Iterator[None]:
        """Be the only one that looks and writes: O_EXCL excludes other hosts, too."""
        path = self._folder / TAKING
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                fd = os.open(path, FLAGS | os.O_EXCL, 0o600)
                break
            except FileExistsError:
                if self._is_left(path):
                    path.unlink(missing_ok=True)
                elif time.monotonic() > deadline_s:
                    raise SpoolUnusable(
                        f"{self._folder}: another mount is taking the spool: try again in a minute"
                    ) from None
                time.sleep(LOOK_S)
        try:
            try:
                _write(fd, self._me)
            finally:
                os.close(fd)
            yield
        finally:
            path.unlink(missing_ok=True)

    def _is_left(self, path: Path) -> bool:
        """Whether a process died while it took the lock."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            holder = _read(fd)
            if holder is not None and holder.host == self._me.host and not _is_running(holder.pid):
                return True
            return not _is_fresh(fd, self._folder)
        finally:
            os.close(fd)

    def _touch(self) -> None:
        while not self._end.wait(TOUCH_S) and self._has_touched():
            pass

    def _has_touched(self) -> bool:
        """Touch the lock; False when it is another's."""
        try:
            if _read(self._fd) != self._me:
                log.error("%s: another mount has taken the spool of this one", self._path)
                return False
            os.utime(self._fd)
        except OSError as exc:
            log.warning("%s: %s", self._path, exc)
        return True


def owner_of(folder: Path) -> Holder | None:
    """Return who owns a folder now, None when nobody does; raise OSError."""
    path = folder / LOCK
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        holder = _read(fd)
        has_flock = _flock(fd, fcntl.LOCK_SH, patience_s=0.0)
        if has_flock is None:
            return holder or Holder(socket.gethostname(), 0, "")
        return holder if holder and _is_alive(holder, fd, folder, has_flock) else None
    finally:
        os.close(fd)


def _is_alive(holder: Holder, fd: int, folder: Path, has_flock: bool) -> bool:
    """Whether the process that a lock file names may still be at work; nobody here has flock."""
    if holder.host == socket.gethostname() and (has_flock or not _is_running(holder.pid)):
        return False
    return _is_fresh(fd, folder)


def _is_fresh(fd: int, folder: Path) -> bool:
    """Whether a file was touched a moment ago, by the clock of the file system."""
    probe = folder / f"{socket.gethostname()}.{secrets.token_hex(4)}.new"
    with probe.open("xb") as file:
        file.write(b"now")
        file.flush()
        now_s = os.fstat(file.fileno()).st_mtime
    probe.unlink(missing_ok=True)
    return now_s - os.fstat(fd).st_mtime < OLD_S


def _flock(fd: int, kind: int, *, patience_s: float = PATIENCE_S) -> bool | None:
    """Take the lock: True; None when somebody has it; False where there are no such locks."""
    deadline_s = time.monotonic() + patience_s
    while True:
        try:
            # Not lockf: that lets a process share with itself, and its locks end with any close().
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:  # noqa: PERF203
            if time.monotonic() >= deadline_s:
                return None
            time.sleep(LOOK_S)
        except OSError as exc:
            if exc.errno not in NO_FLOCK:
                raise
            return False
        else:
            return True


def _read(fd: int) -> Holder | None:
    try:
        found = json.loads(os.pread(fd, 4096, 0))
        return Holder(str(found["host"]), int(found["pid"]), str(found["since"]))
    except (ValueError, KeyError, TypeError):
        return None


def _write(fd: int, holder: Holder) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, json.dumps(asdict(holder)).encode() + b"\n", 0)
    os.utime(fd)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
