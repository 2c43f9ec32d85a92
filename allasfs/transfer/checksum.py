"""Checksum: the MD5 of a file that is written in order, made beside the writes by another thread.

MD5 takes as long as all the rest of a write, and hashlib lets other threads run meanwhile. The
thread reads what was written a moment ago, which the kernel has in its memory still.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from typing import TypeAlias

from allasfs.config import KIB, MIB
from allasfs.errors import FsError

# What is written; a view is good for the time of the call only.
Bytes: TypeAlias = "bytes | memoryview"
# The first bytes are hashed by the writes themselves, so that a small file needs no thread; after
# them a thread begins whenever so much waits for it.
STEP_BYTES = MIB
# Bytes read at once for an upload or a checksum.
CHUNK_BYTES = 256 * KIB


class Checksum:
    """The MD5 of the first bytes of a file.

    Its file's lock guards it against two changes at a time; the thread takes that lock to read.
    """

    def __init__(self, read: Callable[[int, int], bytes], pool: Executor) -> None:
        """``read`` returns bytes of the file, ``pool`` runs what hashes beside the writes."""
        self._read = read
        self._pool = pool
        # Leaf lock for all below; notified when somebody has ended hashing.
        self._lock = threading.Condition()
        # Another one takes its place when what it has seen has changed.
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = 0
        # How far the file was written in order.
        self._written = 0
        # Whether a thread shall come, and whether one is at it.
        self._is_due = self._is_working = False
        self._is_wanted = True

    def want(self, is_wanted: bool) -> None:
        """Whether anybody will ask for it."""
        with self._lock:
            self._is_wanted = is_wanted

    def wrote(self, offset: int, data: Bytes) -> None:
        """Bytes were written."""
        stop = offset + len(data)
        with self._lock:
            if offset < self._written:
                self._restart()
            if offset != self._written or not self._is_wanted:
                return
            self._written = stop
            if self._is_due or self._is_working:
                return
            if stop <= STEP_BYTES and self._hashed == offset:
                self._md5.update(data)
                self._hashed = stop
            elif stop - self._hashed >= STEP_BYTES:
                self._is_due = True
                self._pool.submit(self._follow)

    def cut(self, size: int) -> None:
        """The file ends here now, or bytes from here on are not certain."""
        with self._lock:
            if size < self._written:
                self._restart()

    def _restart(self) -> None:
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._hashed = self._written = 0

    def hexdigest(self, size: int) -> str:
        """Return the MD5 of a file of this size (hex); reads only what was not hashed yet.

        Nobody may change the file meanwhile.
        """
        with self._lock:
            while self._is_working:
                self._lock.wait()
            # A thread that is busy with other files need not come.
            self._is_due, self._is_working = False, True
            self._written = max(self._written, size)
        try:
            while self._hash_more(1):
                pass
            return self._md5.hexdigest()
        finally:
            self._ended()

    def _follow(self) -> None:
        with self._lock:
            if not self._is_due or self._is_working:
                return
            self._is_due, self._is_working = False, True
        try:
            # It ended, or its disk fails: who asks for the checksum is told.
            with suppress(FsError):
                while self._is_wanted and self._hash_more(STEP_BYTES):
                    pass
        finally:
            self._ended()

    def _ended(self) -> None:
        with self._lock:
            self._is_working = False
            self._lock.notify_all()

    def _hash_more(self, least: int) -> bool:
        """Hash what was written; return False where less than so much is left."""
        with self._lock:
            md5, start, stop = self._md5, self._hashed, self._written
        if stop - start < least:
            return False
        for first in range(start, stop, CHUNK_BYTES):
            last = min(first + CHUNK_BYTES, stop)
            md5.update(self._read(first, last))
            with self._lock:
                if md5 is not self._md5:
                    break
                self._hashed = last
        return True
