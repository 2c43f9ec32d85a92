"""What can go wrong with the demo cloud, in words for the person who started it."""

from pathlib import Path

TAIL_LINES = 15  # a Python traceback of a service that failed to start fits in this


class DemoError(Exception):
    """The demo cloud cannot do what was asked; the text says why, and what to do."""


class PackagesMissing(DemoError):
    """What the services are made of is not installed."""


class ServiceDied(DemoError):
    """A service ended by itself; names it and shows the end of its log."""

    def __init__(self, name: str, log: Path) -> None:
        """The log is read here and now."""
        self.name = name
        super().__init__(f"{name} ended at start; the end of {log}:\n{_tail(log)}")


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-TAIL_LINES:])
