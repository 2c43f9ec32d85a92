"""The deadline of the operation that the current thread works on.

The FUSE adapter opens one deadline per operation (``with within(seconds)``); the store asks
``current()`` for the time that is left before each request and each wait, and calls ``progress()``
when bytes of a body moved. So an operation ends at the latest ``seconds`` after it last got
anywhere, however many requests it needs, and a long upload is not cut off while it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar

from allasfs.errors import TimedOut

Clock = Callable[[], float]


class Deadline:
    """A point in time that moves on with each ``progress()``."""

    def __init__(self, seconds: float, *, clock: Clock = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._end = clock() + seconds

    def progress(self) -> None:
        """Bytes moved: count the whole time again from now."""
        if self._end > float("-inf"):
            self._end = self._clock() + self.seconds

    def end(self) -> None:
        """Let it be over, for good: nobody waits for the operation any more."""
        self._end = float("-inf")

    def left(self) -> float:
        """Return the seconds that are left, 0 when it is over."""
        return max(0.0, self._end - self._clock())

    def check(self, subject: str = "") -> float:
        """Return the seconds that are left; raise TimedOut when there are none."""
        left = self.left()
        if left <= 0:
            raise TimedOut(subject, f"no progress within {self.seconds:g} s")
        return left


_current: ContextVar[Deadline | None] = ContextVar("allasfs_deadline", default=None)


def current(default_s: float) -> Deadline:
    """Return the deadline of this thread's operation, or a new one of ``default_s`` seconds."""
    return _current.get() or Deadline(default_s)


class sharing:
    """Work inside for the operation of another thread: what moves here is its progress.

    A class, because a generator costs each call of the kernel 3 µs more.
    """

    __slots__ = ("_deadline", "_token")

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> Deadline:
        self._token = _current.set(self._deadline)
        return self._deadline

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


def within(seconds: float) -> sharing:
    """Give the operation that runs inside a deadline of its own."""
    return sharing(Deadline(seconds))
