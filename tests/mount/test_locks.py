"""Locks between the processes of one machine: the kernel keeps them, the mount must not refuse."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .support import PATIENCE_S

# What takes a lock on descriptor ``fd``, and does not wait for it.
TAKE = {
    "flock": "fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    "lockf": "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)",
    # struct flock: type, whence, start, length, pid
    "ofd": "fcntl.fcntl(fd, 37, struct.pack('hhqqi4x', fcntl.F_WRLCK, 0, 0, 0, 0))",
}
BEGIN = "import fcntl, os, struct, sys\nfd = os.open(sys.argv[1], os.O_RDWR)\n"


@contextmanager
def holder(path: Path, how: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the lock."""
    code = f"{BEGIN}{TAKE[how]}\nprint('taken', flush=True)\nsys.stdin.read()\n"
    with subprocess.Popen(
        [sys.executable, "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        yield process


def may_take(path: Path, how: str) -> bool:
    """Whether a third process gets the lock."""
    code = f"{BEGIN}try:\n    {TAKE[how]}\nexcept BlockingIOError:\n    sys.exit(7)\n"
    done = subprocess.run([sys.executable, "-c", code, path], timeout=PATIENCE_S, check=False)
    assert done.returncode in (0, 7)
    return done.returncode == 0


@pytest.mark.semantics("C33")
@pytest.mark.parametrize("how", TAKE)
def test_a_lock_excludes_other_processes_until_its_holder_ends(mounted: Path, how: str) -> None:
    path = mounted / "file"
    path.write_bytes(b"content")
    assert may_take(path, how)
    with holder(path, how) as process:
        assert not may_take(path, how)
        # As with any end of it: nobody has unlocked.
        process.kill()
    assert may_take(path, how)


@pytest.mark.semantics("C33")
def test_locks_on_two_parts_of_a_file_do_not_exclude_each_other(mounted: Path) -> None:
    path = mounted / "file"
    path.write_bytes(bytes(100))
    fd = os.open(path, os.O_RDWR)
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    code = f"{BEGIN}fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, int(sys.argv[2]))\n"

    def taken(start: int) -> bool:
        words = [sys.executable, "-c", code, str(path), str(start)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0

    assert taken(10)
    assert not taken(5)
    os.close(fd)
    assert taken(5)
