"""The spool: a private local folder that holds written files until the store has them.

One mount owns a spool folder (lock). A spool file is sparse: ``present`` says which parts hold
bytes, written here or fetched from the object that is being changed. The limit is hard: a write
beyond it is refused with NoSpace before a byte of it is taken.

A file whose upload failed for good is kept as ``<id>.data`` with ``<id>.json`` beside it, which
says which object it was for and why it is still here.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

from allasfs.errors import FsError, NoSpace, SpoolUnusable, Unavailable
from allasfs.transfer.spans import Spans

log = logging.getLogger(__name__)

# Bytes read at once for an upload or a checksum.
CHUNK_BYTES = 256 * 1024


class Spool:
    """The folder, its lock, and the account of its bytes."""

    def __init__(self, folder: Path, limit: int) -> None:
        """Remember the settings; ``open()`` touches the disk."""
        self.folder = folder
        self.limit = limit
        self._lock_fd = -1
        # Leaf lock.
        self._lock = threading.Lock()
        self._used = 0  # guarded by _lock

    def open(self) -> None:
        """Make the folder (0700) and own it; raise SpoolUnusable."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = self.folder.lstat()
            if not self.folder.is_dir() or self.folder.is_symlink():
                raise SpoolUnusable(f"{self.folder}: the spool must be a folder, not a link")
            if status.st_uid != os.geteuid():
                raise SpoolUnusable(f"{self.folder}: the spool folder belongs to another user")
            self.folder.chmod(0o700)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._lock_fd = os.open(self.folder / "lock", flags, 0o600)
            # Not lockf: that lets a process share with itself, and its locks end with any close().
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.close()
            raise SpoolUnusable(f"{self.folder}: the spool is in use by another mount") from exc
        except OSError as exc:
            raise SpoolUnusable(f"{self.folder}: the spool cannot be used: {exc.strerror}") from exc
        for left in self.folder.glob("*.data"):
            if not left.with_suffix(".json").exists():
                # Written by a process that died before anything of it was acknowledged.
                left.unlink()
        for kept in self.kept():
            log.warning("data of a failed upload is in the spool: %s", kept)

    def close(self) -> None:
        """Give the folder free."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    @property
    def used(self) -> int:
        """Bytes that spool files hold now."""
        with self._lock:
            return self._used

    def kept(self) -> list[str]:
        """Return a line for each file whose upload failed: where it is and what it was for."""
        lines = []
        for note in sorted(self.folder.glob("*.json")):
            try:
                entry = json.loads(note.read_text())
                what = f"{entry['object']}: {entry['why']}"
            except (OSError, ValueError, KeyError, TypeError):
                what = "an object that is not known: its note cannot be read"
            lines.append(f"{note.with_suffix('.data')} for {what}")
        return lines + [
            f"{data} for an object that is not known: its note could not be written"
            for data in sorted(self.folder.glob("*.kept"))
        ]

    def create(self) -> SpoolFile:
        """Return a new empty spool file; raise NoSpace, Unavailable."""
        path = self.folder / f"{secrets.token_hex(8)}.data"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            return SpoolFile(self, path, os.open(path, flags, 0o600))
        except OSError as exc:
            raise disk_error(str(path), exc) from exc

    def reserve(self, count: int) -> None:
        """Take bytes of the limit; raise NoSpace."""
        with self._lock:
            if self._used + count > self.limit:
                raise NoSpace(
                    str(self.folder),
                    f"the spool's limit of {self.limit} bytes is reached: "
                    "close files, or mount with a larger spool-size",
                )
            self._used += count

    def release(self, count: int) -> None:
        """Give bytes of the limit back."""
        with self._lock:
            self._used -= count


class SpoolFile:
    """One file's bytes on the local disk. Not thread-safe: its open file's lock guards it."""

    def __init__(self, spool: Spool, path: Path, fd: int) -> None:
        self._spool = spool
        self.path = path
        self._fd = fd
        self.size = 0
        # Parts whose content is here; of a changed object the rest is still in the store only.
        self.present = Spans()
        # Parts that take room on the disk: what is present, without the holes.
        self._held = Spans()
        # MD5 of the first _hashed bytes, as long as the file is written in order.
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0

    def write(self, offset: int, data: bytes) -> None:
        """Write all of ``data``, or nothing and raise NoSpace."""
        if not data:
            return
        self._put(offset, data)
        if offset > self.size:
            self.present.add(self.size, offset)
        self.size = max(self.size, offset + len(data))

    def adopt(self, size: int) -> None:
        """Become the local side of an object of ``size`` bytes, none of which is here yet."""
        self.size = size

    def fill(self, offset: int, data: bytes) -> None:
        """Take bytes of the object that is being changed into a gap."""
        self._put(offset, data)

    def _put(self, offset: int, data: bytes) -> None:
        stop = offset + len(data)
        growth = sum(end - start for start, end in self._held.missing(offset, stop))
        self._spool.reserve(growth)
        try:
            view = memoryview(data)
            position = offset
            while view:
                written = os.pwrite(self._fd, view, position)
                view, position = view[written:], position + written
        except OSError as exc:
            self._spool.release(growth)
            # A part of the bytes may be there: not behind the end, where a gap must be zeros.
            self._restart_md5()
            os.ftruncate(self._fd, self.size)
            raise disk_error(str(self.path), exc) from exc
        self._held.add(offset, stop)
        self.present.add(offset, stop)
        if offset == self._hashed:
            self._md5.update(data)
            self._hashed = stop
        elif offset < self._hashed:
            self._restart_md5()

    def _restart_md5(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a span; holes are zeros."""
        try:
            data = os.pread(self._fd, stop - start, start)
        except OSError as exc:
            raise disk_error(str(self.path), exc) from exc
        return data + bytes(stop - start - len(data))

    def truncate(self, size: int) -> None:
        """Set the size; what is cut off is gone, what is added reads as zeros."""
        try:
            os.ftruncate(self._fd, min(size, self.size))
            os.ftruncate(self._fd, size)
        except OSError as exc:
            raise disk_error(str(self.path), exc) from exc
        if size > self.size:
            self.present.add(self.size, size)
        self.present.cut(size)
        held = self._held.total
        self._held.cut(size)
        self._spool.release(held - self._held.total)
        self.size = size
        if self._hashed > size:
            self._restart_md5()

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span on the disk, and be at least so long; raise NoSpace."""
        growth = sum(end - begin for begin, end in self._held.missing(start, stop))
        self._spool.reserve(growth)
        try:
            os.posix_fallocate(self._fd, start, stop - start)
        except OSError as exc:
            self._spool.release(growth)
            os.ftruncate(self._fd, self.size)
            raise disk_error(str(self.path), exc) from exc
        self._held.add(start, stop)
        if stop > self.size:
            self.present.add(self.size, stop)
            self.size = stop

    def md5(self) -> str:
        """Return the MD5 of the whole file (hex); reads only what was not hashed while written."""
        for chunk in self._chunks(self._hashed, self.size):
            self._md5.update(chunk)
            self._hashed += len(chunk)
        return self._md5.hexdigest()

    def part(self, start: int, stop: int) -> SpoolPart:
        """Return a span of the file as a source of bytes for an upload."""
        return SpoolPart(self, start, stop)

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            chunk = self.read(start, min(start + CHUNK_BYTES, stop))
            start += len(chunk)
            yield chunk

    def discard(self) -> None:
        """Remove the file: the store has its bytes, or nobody wants them."""
        os.close(self._fd)
        self.path.unlink()
        self._spool.release(self._held.total)

    def keep(self, subject: str, why: str) -> Path:
        """Keep the bytes of a failed upload across the end of the program; return where."""
        note = {"object": subject, "size": self.size, "why": why}
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(self.path.with_suffix(".json"), flags, 0o600), "w") as file:
                file.write(json.dumps(note) + "\n")
            os.fsync(self._fd)
        except OSError as exc:
            # Data without a note would be removed at the next start; a name needs no space.
            log.warning("%s: %s", self.path, disk_error(subject, exc))
            self.path = self.path.rename(self.path.with_suffix(".kept"))
        os.close(self._fd)
        return self.path


class SpoolPart:
    """A span of a spool file, as a ``Source`` for the store."""

    def __init__(self, file: SpoolFile, start: int, stop: int) -> None:
        self._file = file
        self._start = start
        self._stop = stop

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._stop - self._start

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from the start."""
        return self._file._chunks(self._start, self._stop)

    def md5(self) -> str:
        """Return the MD5 of the span (hex)."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self.chunks():
            digest.update(chunk)
        return digest.hexdigest()


def disk_error(subject: str, exc: OSError) -> FsError:
    """Return the condition of a failed call on the local disk."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(subject, "the disk of the spool is full")
    return Unavailable(subject, f"the spool's disk failed: {exc.strerror}")
