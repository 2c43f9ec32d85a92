"""The threads of libfuse: Python knows each of them once, and forgets it when it ends."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .support import Served, clean_environ, wait_until

SERVER = Path(__file__).with_name("thread_server.py")
# libfuse ends threads when more than this have nothing to do.
MOST_IDLE = 10
AT_ONCE = 40


@pytest.fixture
def served(tmp_path: Path, prerequisites: None) -> Iterator[Served]:
    """A mount that counts the states of its threads."""
    one = Served(tmp_path, [sys.executable, str(SERVER)], clean_environ(tmp_path))
    one.start()
    yield one
    if one in Served.running:
        one.stop()


def made(served: Served) -> int:
    return (served.path / "made").stat().st_size


def alive(served: Served) -> int:
    return (served.path / "alive").stat().st_size


def read_many(served: Served) -> None:
    """Let so many calls wait at once."""
    fds = [os.open(served.path / f"file-{number}", os.O_RDONLY) for number in range(AT_ONCE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        assert set(pool.map(lambda fd: os.read(fd, 1), fds)) == {b"x"}
    for fd in fds:
        os.close(fd)


def test_calls_one_after_the_other_come_from_known_threads(served: Served) -> None:
    before = made(served)
    for number in range(200):
        (served.path / f"file-{number}").stat()
    # Each call makes one where the state does not stay.
    assert made(served) - before <= MOST_IDLE


def test_a_thread_that_ends_is_forgotten(served: Served) -> None:
    for _ in range(3):
        read_many(served)
    assert made(served) > 2 * MOST_IDLE, "there were not many at a time"

    def is_little() -> bool:
        (served.path / "file").stat()
        return alive(served) <= MOST_IDLE + 2

    wait_until(is_little, "what ended threads had is gone")


def test_a_mount_with_many_threads_ends_as_it_should(served: Served) -> None:
    read_many(served)
    assert served.stop() == 0
    assert "ended as it should" in served.log()
