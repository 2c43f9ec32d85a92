"""A clock that stands still until it is told to go on."""

from __future__ import annotations

SECOND_NS = 1_000_000_000
# Any moment will do; this one is not a whole second, as real ones are not.
START_NS = 1_700_000_000_123_450_000


class FakeClock:
    """Seconds of a monotonic clock when called, nanoseconds since the epoch from ``ns``."""

    def __init__(self) -> None:
        self._passed_ns = 0

    def __call__(self) -> float:
        """Return monotonic seconds."""
        return 1000.0 + self._passed_ns / SECOND_NS

    def ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return START_NS + self._passed_ns

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._passed_ns += round(seconds * SECOND_NS)
