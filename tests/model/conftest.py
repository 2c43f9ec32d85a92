"""What the model tests say at their end."""

from __future__ import annotations

import pytest

from tests.model.machine import OPERATIONS


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many operations were compared with the reference."""
    if not OPERATIONS:
        return
    failed = sum(
        "test_a_mount_does_what_the_reference_permits" in report.nodeid
        for report in terminalreporter.stats.get("failed", [])
    )
    count = sum(OPERATIONS.values())
    terminalreporter.write_line(f"model: {count:,} operations, {failed} divergences")
