"""Programs that users run, on a bucket of the shared mount."""

from __future__ import annotations

from pathlib import Path

import pytest

from .support import Shell, make_sample

# The tests that ran.
TESTS: set[str] = set()


@pytest.fixture(autouse=True)
def _counted(request: pytest.FixtureRequest) -> None:
    TESTS.add(request.node.nodeid)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many there were."""
    if TESTS:
        terminalreporter.write_line(f"programs: {len(TESTS)} tests of programs on a mount")


@pytest.fixture
def there(project: Path, bucket: str) -> Path:
    """The test's bucket in the mount."""
    return project / bucket


@pytest.fixture
def sh(tmp_path: Path, there: Path) -> Shell:
    """A shell that starts in the test's bucket."""
    home = tmp_path / "home"
    home.mkdir()
    return Shell(there, home)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A tree on the local disk."""
    return make_sample(tmp_path / "sample")
