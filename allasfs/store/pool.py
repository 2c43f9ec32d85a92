"""A bounded pool of HTTP connections; a connection serves one request at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from allasfs.deadline import Clock, Deadline
from allasfs.errors import TimedOut

# RGW closes a connection after 65 s without a request (facts: beast request_timeout_ms); one that
# is nearly as old is not worth the failed request.
MAX_IDLE_S = 50.0


class Closable(Protocol):
    """Anything with ``close()``."""

    def close(self) -> None:
        """Give the socket back."""
        ...


C = TypeVar("C", bound=Closable)


class ConnectionPool(Generic[C]):
    """Lends at most ``limit`` connections; waiting for one counts against the deadline."""

    def __init__(
        self, connect: Callable[[], C], limit: int, *, clock: Clock = time.monotonic
    ) -> None:
        self._connect = connect
        self._clock = clock
        self._free = threading.Semaphore(limit)
        # Leaf lock: nothing else is taken, and no I/O done, while it is held.
        self._lock = threading.Lock()
        self._idle: list[tuple[float, C]] = []  # guarded by _lock; the youngest last

    def acquire(self, deadline: Deadline) -> C:
        """Return a connection that nobody else uses; raise TimedOut."""
        if not self._free.acquire(timeout=deadline.left()):
            raise TimedOut("connections", f"all are busy since {deadline.seconds:g} s")
        with self._lock:
            too_old = self._clock() - MAX_IDLE_S
            stale = [conn for since, conn in self._idle if since < too_old]
            self._idle = [(since, conn) for since, conn in self._idle if since >= too_old]
            connection = self._idle.pop()[1] if self._idle else None
        try:
            for old in stale:
                old.close()
            return connection or self._connect()
        except BaseException:
            self._free.release()
            raise

    def release(self, connection: C, *, reusable: bool) -> None:
        """Take a connection back; close it when its answer was not read to the end."""
        if reusable:
            with self._lock:
                self._idle.append((self._clock(), connection))
        else:
            connection.close()
        self._free.release()

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()
