"""Write-back: files that programs were told are safe, on their way from the spool to the store.

A file waits a moment, so that what programs do after close() (times, modes, the rename to its true
name) happens here alone. Several go up at once. While the store cannot be reached all wait; what
it refuses for good ends here, and its owner is told of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Protocol

from allasfs.config import Config
from allasfs.deadline import within
from allasfs.errors import FsError, Internal, Unavailable
from allasfs.transfer.spool import Spool

log = logging.getLogger(__name__)

# Pauses after the store could not be reached: doubled each time.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 8.0
# When a file that was changed on its way, or is held back, is tried again.
AGAIN_S = 0.1
# How often a wait looks whether bytes move.
LOOK_S = 0.5


class File(Protocol):
    """A file that is to be stored."""

    @property
    def is_pending(self) -> bool:
        """Whether it still is."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def is_large(self) -> bool:
        """Whether it goes up in segments, which others send."""

    def send(self) -> None:
        """Store it, or raise what prevented that."""


class Progress:
    """Whether files that go up get anywhere. Any thread may call any method."""

    def __init__(self, spool: Spool, timeout_s: float, clock: Callable[[], float]) -> None:
        """``timeout_s`` is how long nothing may move, from now."""
        self._spool = spool
        self._timeout_s = timeout_s
        self._clock = clock
        self._lock = threading.Lock()
        self._since = clock()  # guarded by _lock

    def made(self) -> None:
        """The store answered."""
        with self._lock:
            self._since = self._clock()

    def end(self) -> None:
        """Nothing has moved for so long already."""
        with self._lock:
            self._since = float("-inf")

    def is_over(self) -> bool:
        """Whether nothing moved for the whole time."""
        with self._lock:
            if self._clock() - self._since < self._timeout_s:
                return False
            # A large file may be on its way still, beside those that failed.
            moves = self._spool.moves
            time.sleep(LOOK_S)
            if self._spool.moves == moves:
                return True
            self._since = self._clock()
            return False


class Pending:
    """The files that wait, and the threads that send them. Any thread may call any method."""

    def __init__(
        self,
        pool: Executor,
        width: int,
        spool: Spool,
        config: Config,
        *,
        clock: Callable[[], float],
        ended: Callable[[File], None],
    ) -> None:
        """``ended`` is told of a file that was stored, refused for good, or is wanted no more."""
        self._pool = pool
        # For those that wait for threads of the pool: in its own they would wait for each other.
        self._large = ThreadPoolExecutor(1, thread_name_prefix="write-back")
        self._width = width
        self._spool = spool
        self._delay_s = config.write_back_delay_s
        self._timeout_s = config.timeout_s
        self._clock = clock
        self._ended = ended
        # Leaf lock for all below; notified of every change.
        self._lock = threading.Condition()
        # When each file may go up, oldest first.
        self._due: dict[File, float] = {}
        self._sending: set[File] = set()
        self._pause_s = 0.0
        self._pause_until = 0.0
        # How many wait for the end of all.
        self._draining = 0
        # Renames of directories that are under way.
        self._holds = 0
        self._is_stopped = False
        # Why the store could not take the last one that failed.
        self._error = ""
        self._thread: threading.Thread | None = None

    # -- what there is ----------------------------------------------------------------------------

    def __len__(self) -> int:
        with self._lock:
            return len(self._due.keys() | self._sending)

    def status(self) -> dict[str, object]:
        """Return what `allasfs status` tells of them."""
        with self._lock:
            files = self._due.keys() | self._sending
            error = self._error if files else ""
        return {
            "pending_files": len(files),
            "pending_bytes": sum(file.size for file in files),
            "pending_error": error,
        }

    # -- what is to be done -----------------------------------------------------------------------

    def add(self, file: File) -> None:
        """Send a file, after the delay from now."""
        with self._lock:
            self._due.pop(file, None)
            self._due[file] = self._clock() + self._delay_s
            if self._thread is None and not self._is_stopped:
                self._spool.join(self)
                self._thread = threading.Thread(target=self._run, name="write-back", daemon=True)
                self._thread.start()
            self._lock.notify_all()

    def hurry(self) -> None:
        """Send what waits now, also when the store could not be reached a moment ago."""
        with self._lock:
            self._pause_until = 0.0
            self._due = dict.fromkeys(self._due, 0.0)
            self._lock.notify_all()

    def drain(self) -> bool:
        """Send all; return whether that was done, False when nothing moved for the timeout."""
        self.hurry()
        moves, since = self._spool.moves, self._clock()
        with self._lock:
            self._draining += 1
            try:
                while (self._due or self._sending) and not self._is_stopped:
                    left = len(self._due) + len(self._sending)
                    self._lock.wait(LOOK_S)
                    now = self._spool.moves
                    if now != moves or len(self._due) + len(self._sending) < left:
                        moves, since = now, self._clock()
                    elif self._clock() - since > self._timeout_s:
                        return False
            finally:
                self._draining -= 1
        return True

    @contextmanager
    def held(self) -> Iterator[None]:
        """Let nothing go up meanwhile; what was on its way has ended."""
        with self._lock:
            self._holds += 1
            while self._sending:
                self._lock.wait()
        try:
            yield
        finally:
            with self._lock:
                self._holds -= 1
                self._lock.notify_all()

    def stop(self) -> None:
        """Begin nothing more, and return when what was begun has ended."""
        with self._lock:
            self._is_stopped = True
            self._lock.notify_all()
            while self._sending:
                self._lock.wait()
        self._large.shutdown()
        if self._thread is not None:
            self._thread.join()
            self._spool.quit(self)

    # -- room in the spool ------------------------------------------------------------------------

    def give_back(self) -> None:
        """A file that is stored has given its room back already."""

    def press(self) -> bool:
        """Somebody waits for room: return whether some may come of what is sent now."""
        self.hurry()
        with self._lock:
            if not self._sending and self._due and not self._pause_s:
                self._lock.wait(LOOK_S)
            return bool(self._sending) and not self._pause_s

    # -- inside -----------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            with self._lock:
                file = self._next()
                while file is None and not self._is_stopped:
                    self._lock.wait(self._rest_s())
                    file = self._next()
                if file is None or self._is_stopped:
                    return
                del self._due[file]
                self._sending.add(file)
                self._spool.began()
                self._lock.notify_all()
            (self._large if file.is_large else self._pool).submit(self._send, file)

    def _next(self) -> File | None:
        """Return a file whose time has come (locked)."""
        now = self._clock()
        # After a failure one file finds out whether the store is back.
        width = 1 if self._pause_s else self._width
        if self._holds or len(self._sending) >= width or now < self._pause_until:
            return None
        for file, due in self._due.items():
            if due > now and not self._draining:
                return None
            if file not in self._sending:
                return file
        return None

    def _rest_s(self) -> float | None:
        """Return how long there is nothing to begin (locked); None: until something changes."""
        if self._holds or not self._due:
            return None
        until = max(self._pause_until, next(iter(self._due.values())))
        left = until - self._clock()
        return left if left > 0 else None

    def _send(self, file: File) -> None:
        failure: FsError | None = None
        try:
            with within(self._timeout_s):
                file.send()
        except Unavailable as exc:
            failure = exc
        except FsError as exc:
            log.debug("%s", exc)
            if file.is_pending:
                # Not refused: it could not be begun, for want of a descriptor.
                failure = exc
        except Exception as exc:
            log.exception("write-back")
            failure = Internal("write-back", type(exc).__name__)
        try:
            if not file.is_pending:
                self._ended(file)
        except Exception:
            # Whoever waits for the end of all must see this one's.
            log.exception("write-back")
        self._spool.ended(self)
        with self._lock:
            self._sending.discard(file)
            self._noted(failure)
            if file.is_pending and file not in self._due:
                self._due[file] = self._clock() + AGAIN_S
            self._lock.notify_all()

    def _noted(self, failure: FsError | None) -> None:
        """Go on, or pause (locked)."""
        if failure is None:
            self._pause_s = self._pause_until = 0.0
            return
        if not self._pause_s:
            log.warning("closed files wait for the store: %s", failure)
        self._error = str(failure)
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._pause_until = self._clock() + self._pause_s
