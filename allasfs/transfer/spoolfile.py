"""Spool files: one file's bytes on the local disk, and its parts as sources for uploads."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from allasfs.errors import BadHandle, FsError, NoDescriptors, NoSpace, Unavailable
from allasfs.transfer.checksum import CHUNK_BYTES, Bytes, Checksum
from allasfs.transfer.spans import Spans

if TYPE_CHECKING:
    from allasfs.transfer.spool import Spool

log = logging.getLogger(__name__)

# Data whose note could not be written.
ASIDE = ".kept"
PUNCH_HOLE = 0x02 | 0x01  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, <linux/falloc.h>


class SpoolFile:
    """One file's bytes on the local disk.

    Its open file's lock guards it against two changes at a time; meanwhile other threads may read
    parts of it for an upload, and give parts back that are not changed.
    """

    def __init__(
        self, spool: Spool, path: Path, fd: int, size: int = 0, present: Spans | None = None
    ) -> None:
        self.spool = spool
        self.path = path
        # Set when nobody wants its bytes any more: uploads that read them end.
        self.is_cut_off = False
        # Leaf lock for all below, held across calls on the local disk.
        self._lock = threading.Lock()
        self._fd = fd  # -1 when it is closed
        self._is_resting = False
        self.size = size
        # Parts whose content is here; of a changed object the rest is in the store only.
        self.present = present or Spans()
        # Parts that take room on the disk: what is present, without the holes.
        self._held = Spans()
        for span in self.present:
            self._held.add(*span)
        # Parts that are not as in the stored version: written, or zeros behind an older end.
        self.changed = Spans()
        # Parts that were written, with the gaps that writes behind the end left.
        self.written = Spans()
        self._checksum = Checksum(self.read, spool.hashing)

    def write(self, offset: int, data: Bytes) -> None:
        """Write all of ``data``, or nothing and raise NoSpace."""
        if not data:
            return
        stop = offset + len(data)
        self._put(offset, data)
        with self._lock:
            if offset > self.size:
                self.present.add(self.size, offset)
            self.changed.add(min(offset, self.size), stop)
            self.written.add(min(offset, self.size), stop)
            self.size = max(self.size, stop)

    def adopt(self, size: int) -> None:
        """Become the local side of an object of ``size`` bytes, none of which is here yet."""
        self.size = size

    def fill(self, offset: int, data: bytes, *, wait: bool = True) -> None:
        """Take bytes of the object that is being changed into a gap."""
        self._put(offset, data, wait=wait)

    def _put(self, offset: int, data: Bytes, *, wait: bool = True) -> None:
        stop = offset + len(data)
        with self._lock:
            gaps = list(self._held.missing(offset, stop))
        growth = sum(end - start for start, end in gaps)
        self.spool.reserve(growth, wait=wait)
        with self._lock:
            try:
                view = memoryview(data)
                position = offset
                while view:
                    written = os.pwrite(self._fd, view, position)
                    view, position = view[written:], position + written
            except OSError as exc:
                self.spool.release(growth)
                # A part of the bytes may be there: not where gaps are zeros, nor behind the end.
                self._checksum.cut(0)
                for start, end in gaps:
                    punch_hole(self._fd, start, end - start)
                os.ftruncate(self._fd, self.size)
                raise disk_error(str(self.path), exc) from exc
            self._held.add(offset, stop)
            self.present.add(offset, stop)
            self._checksum.wrote(offset, data)

    def goes_in_segments(self) -> None:
        """Hash no more while it is written: each segment has a checksum of its own."""
        self._checksum.want(False)

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes of a span; holes are zeros. Raises BadHandle after its end."""
        with self._lock:
            return self._read(start, stop)

    def _read(self, start: int, stop: int) -> bytes:
        if self._fd < 0:
            raise BadHandle(str(self.path), "nobody wants this file any more")
        try:
            data = os.pread(self._fd, stop - start, start)
        except OSError as exc:
            raise disk_error(str(self.path), exc) from exc
        return data + bytes(stop - start - len(data))

    def pieces(self, start: int, stop: int) -> list[tuple[int, int, bytes | None]]:
        """Return a span in pieces: ``(start, stop, bytes)``, None for what is not here."""
        with self._lock:
            found: list[tuple[int, int, bytes | None]] = []
            for first, last in [*self.present.missing(start, stop), (stop, stop)]:
                if start < first:
                    found.append((start, first, self._read(start, first)))
                if first < last:
                    found.append((first, last, None))
                start = last
            return found

    def local(self) -> Spans:
        """Return a copy of what is present."""
        with self._lock:
            return self.present.copy()

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of a span that are not here; other threads may give some back."""
        with self._lock:
            return self.present.missing(start, stop)

    def settled(self) -> None:
        """The stored version is as the file is now."""
        self.changed, self.written = Spans(), Spans()
        self._checksum.want(True)

    def punch(self, start: int, stop: int) -> bool:
        """Give back the room of a span, whose bytes are gone then; False where that cannot be."""
        with self._lock:
            if self._fd < 0 or not punch_hole(self._fd, start, stop - start):
                return False
            self.present.remove(start, stop)
            held = self._held.total
            self._held.remove(start, stop)
            count = held - self._held.total
        self.spool.release(count)
        return True

    def sync(self) -> None:
        """Return when the disk has the bytes; raise NoSpace, Unavailable."""
        try:
            os.fdatasync(self._fd)
        except OSError as exc:
            raise disk_error(str(self.path), exc) from exc

    def truncate(self, size: int) -> None:
        """Set the size; what is cut off is gone, what is added reads as zeros."""
        with self._lock:
            try:
                os.ftruncate(self._fd, min(size, self.size))
                os.ftruncate(self._fd, size)
            except OSError as exc:
                raise disk_error(str(self.path), exc) from exc
            if size > self.size:
                self.present.add(self.size, size)
                self.changed.add(self.size, size)
            for spans in (self.present, self.changed, self.written):
                spans.cut(size)
            held = self._held.total
            self._held.cut(size)
            count = held - self._held.total
            self.size = size
            self._checksum.cut(size)
        self.spool.release(count)

    def allocate(self, start: int, stop: int) -> None:
        """Take room for a span on the disk, and be at least so long; raise NoSpace."""
        with self._lock:
            growth = sum(end - begin for begin, end in self._held.missing(start, stop))
        self.spool.reserve(growth)
        with self._lock:
            try:
                os.posix_fallocate(self._fd, start, stop - start)
            except OSError as exc:
                self.spool.release(growth)
                os.ftruncate(self._fd, self.size)
                raise disk_error(str(self.path), exc) from exc
            self._held.add(start, stop)
            if stop > self.size:
                self.present.add(self.size, stop)
                self.changed.add(self.size, stop)
                self.size = stop

    def md5(self) -> str:
        """Return the MD5 of the whole file (hex); reads only what was not hashed while written."""
        return self._checksum.hexdigest(self.size)

    def part(self, start: int, stop: int, moved: Callable[[], None] = lambda: None) -> SpoolPart:
        """Return a span of the file as a source of bytes; ``moved`` is called as they go."""
        return SpoolPart(self, start, stop, moved)

    def _chunks(self, start: int, stop: int) -> Iterator[bytes]:
        while start < stop:
            chunk = self.read(start, min(start + CHUNK_BYTES, stop))
            start += len(chunk)
            yield chunk

    def rest(self) -> None:
        """Close the descriptor until the bytes are wanted again: many files may wait."""
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd, self._is_resting = -1, True

    def wake(self) -> None:
        """Open the file again; raise Unavailable."""
        with self._lock:
            if not self._is_resting:
                return
            try:
                self._fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except OSError as exc:
                raise disk_error(str(self.path), exc) from exc
            self._is_resting = False

    def close(self) -> None:
        """Let uploads that read from it end."""
        with self._lock:
            self._is_resting = False
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1

    def leave(self) -> None:
        """Leave the file where it is."""
        self.close()
        self.spool.release(self._held.total)

    def keep(self) -> None:
        """Leave the file where it is; it takes its room until somebody adopts it."""
        self.close()
        self.spool.keep(self.path.stem, self._held.total)

    def discard(self) -> None:
        """Remove the file: the store has its bytes, or nobody wants them."""
        self.close()
        # Somebody may have cleaned the folder by hand.
        self.path.unlink(missing_ok=True)
        self.spool.release(self._held.total)

    def set_aside(self) -> None:
        """Give the file a name under which it stays without a note.

        Data without a note would be removed at the next start; a name needs no room.
        """
        self.path = self.path.rename(self.path.with_suffix(ASIDE))


class SpoolPart:
    """A span of a spool file, as a ``Source`` for the store."""

    def __init__(self, file: SpoolFile, start: int, stop: int, moved: Callable[[], None]) -> None:
        self._file = file
        self._start = start
        self._stop = stop
        self._moved = moved
        # How far an attempt came.
        self._furthest = start

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._stop - self._start

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from the start."""
        position = self._start
        for chunk in self._file._chunks(self._start, self._stop):
            if self._file.is_cut_off:
                raise BadHandle(str(self._file.path), "nobody wants this file any more")
            yield chunk
            position += len(chunk)
            if position > self._furthest:
                # What goes up once more is no progress, or a PUT that fails would never end.
                self._furthest = position
                self._moved()

    def md5(self) -> str:
        """Return the MD5 of the span (hex)."""
        digest = hashlib.md5(usedforsecurity=False)
        for chunk in self._file._chunks(self._start, self._stop):
            digest.update(chunk)
        return digest.hexdigest()


def punch_hole(fd: int, start: int, length: int) -> bool:
    """Free the disk's room of a span; return False where the file system cannot."""
    call = ctypes.CDLL(None, use_errno=True).fallocate64
    call.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    while call(fd, PUNCH_HOLE, start, length) != 0:
        number = ctypes.get_errno()
        if number != errno.EINTR:
            log.info("the spool's disk cannot give back a part of a file: %s", os.strerror(number))
            return False
    return True


def disk_error(subject: str, exc: OSError) -> FsError:
    """Return the condition of a failed call on the local disk."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoSpace(subject, "the disk of the spool is full")
    if exc.errno in (errno.EMFILE, errno.ENFILE):
        why = f"{exc.strerror}: close some, or raise 'open-files' and the hard limit (ulimit -Hn)"
        return NoDescriptors(subject, why)
    return Unavailable(subject, f"the spool's disk failed: {exc.strerror}")
