"""No test of mounts may hang."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _watched(watchdog: None) -> None:
    """Kill the mounts of a test that takes too long."""
