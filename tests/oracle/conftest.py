"""Counts the system calls that were compared, and says so at the end."""

from __future__ import annotations

from collections import Counter

import pytest

COMPARED: Counter[str] = Counter()


@pytest.fixture
def compared() -> Counter[str]:
    """How often each system call was compared in this session."""
    return COMPARED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much was compared."""
    if COMPARED:
        terminalreporter.write_line(
            f"oracle: {sum(COMPARED.values())} system calls of {len(COMPARED)} kinds on a mount"
            " compared with a plain directory"
        )
