"""What is measured, with what, on what: versions, commit, computer."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

from bench import usage
from bench.clients import Client

ROOT = Path(__file__).parents[1]
# What is measured, and what measures.
MEASURED = ("allasfs", "bench", "setup.cfg")
# Of which the server is made, and the raw client.
PACKAGES = ("fusepy", "python-swiftclient", "requests", "urllib3", "swift", "keystone")


def versions(clients: Iterable[Client]) -> dict[str, str]:
    """Return the versions of everything that takes part."""
    found: dict[str, str] = {}
    for client in clients:
        # Variants of a program have its version.
        if not client.missing() and (version := client.version()) not in found.values():
            found[client.name] = version
    return {
        **found,
        "curl": " ".join(_output("curl", "--version").split()[1:3]),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
    }


def commit() -> str:
    """Return the commit, and a checksum of what was changed since; empty without a repository."""
    name = _output("git", "rev-parse", "--short=10", "HEAD").strip()
    changes = _output("git", "diff", "HEAD", "--", *MEASURED, ":!bench/results")
    if not changes:
        return name
    return f"{name}-changed-{hashlib.sha256(changes.encode()).hexdigest()[:8]}"


def computer() -> dict[str, object]:
    """Return what the computer is."""
    models = [
        line.partition(": ")[2]
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    pages = os.sysconf("SC_PHYS_PAGES")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * pages / 2**30),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", ""),
        "empties_page_cache": usage.drop_page_cache(),
    }


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    return done.stdout if done.returncode == 0 else ""
