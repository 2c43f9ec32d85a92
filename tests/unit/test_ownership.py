"""One owner of a spool folder, also between hosts whose file system has no common locks."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.errors import SpoolUnusable
from allasfs.transfer import ownership
from allasfs.transfer.ownership import LOCK, TAKING, Ownership, owner_of


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Ownership]:
    owner = Ownership(tmp_path)
    yield owner
    owner.give_up()


@pytest.fixture(params=["flock", "no flock"])
def has_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system has locks; without them the lock file alone decides."""
    if request.param == "flock":
        return True

    def unknown(fd: int, kind: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", unknown)
    return False


def write(path: Path, host: str, pid: int, age_s: float = 0.0) -> None:
    """Leave a file as a mount on a host left it."""
    path.write_text(json.dumps({"host": host, "pid": pid, "since": "2026-01-01T00:00:00+0000"}))
    then = time.time() - age_s
    os.utime(path, (then, then))


def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.mark.usefixtures("has_flock")
def test_a_folder_has_one_owner_whose_name_is_told(tmp_path: Path, owner: Ownership) -> None:
    assert owner_of(tmp_path) is None
    owner.take()
    found = owner_of(tmp_path)
    assert found is not None
    assert (found.host, found.pid) == (socket.gethostname(), os.getpid())
    other = Ownership(tmp_path)
    with pytest.raises(SpoolUnusable, match=rf"in use by a mount on .* \(pid {os.getpid()}\)"):
        other.take()
    owner.give_up()
    assert owner_of(tmp_path) is None
    other.take()
    other.give_up()
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.semantics("R12")
@pytest.mark.usefixtures("has_flock")
def test_a_folder_that_another_host_touched_a_moment_ago_is_in_use(
    tmp_path: Path, owner: Ownership
) -> None:
    write(tmp_path / LOCK, "other.example", 4711, age_s=30)
    with pytest.raises(SpoolUnusable, match=r"in use by a mount on other\.example \(pid 4711\)"):
        owner.take()
    assert str(owner_of(tmp_path)) == "a mount on other.example (pid 4711)"
    # The attempt has neither taken it nor made it look younger.
    assert time.time() - (tmp_path / LOCK).stat().st_mtime > 25
    assert "other.example" in (tmp_path / LOCK).read_text()


@pytest.mark.semantics("R12")
@pytest.mark.usefixtures("has_flock")
def test_a_folder_that_another_host_left_in_a_crash_is_free_after_a_while(
    tmp_path: Path, owner: Ownership
) -> None:
    write(tmp_path / LOCK, "other.example", 4711, age_s=ownership.OLD_S + 5)
    assert owner_of(tmp_path) is None
    owner.take()


@pytest.mark.usefixtures("has_flock")
def test_a_process_that_died_on_this_host_stops_nobody(tmp_path: Path, owner: Ownership) -> None:
    write(tmp_path / LOCK, socket.gethostname(), dead_pid())
    write(tmp_path / TAKING, socket.gethostname(), dead_pid())
    owner.take()


@pytest.mark.parametrize("pid", [1, os.getpid()], ids=["init", "own"])
def test_a_number_that_another_process_has_by_now_stops_nobody(
    tmp_path: Path, owner: Ownership, pid: int
) -> None:
    write(tmp_path / LOCK, socket.gethostname(), pid)
    assert owner_of(tmp_path) is None
    owner.take()


def test_a_file_system_without_locks_is_no_reason_to_refuse(
    tmp_path: Path, owner: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):

        def unknown(fd: int, kind: int, number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(fcntl, "flock", unknown)
        owner.take()
        owner.give_up()


@pytest.mark.usefixtures("has_flock")
def test_two_hosts_that_take_it_at_once_do_not_both_get_it(
    tmp_path: Path, owner: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.1)
    write(tmp_path / TAKING, "other.example", 1)
    with pytest.raises(SpoolUnusable, match="another mount is taking the spool"):
        owner.take()
    # It died while it did so.
    write(tmp_path / TAKING, "other.example", 1, age_s=ownership.OLD_S + 5)
    owner.take()


def test_the_owner_touches_its_lock(
    tmp_path: Path, owner: Ownership, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "TOUCH_S", 0.01)
    owner.take()
    os.utime(tmp_path / LOCK, (0, 0))
    deadline_s = time.monotonic() + 30
    while (tmp_path / LOCK).stat().st_mtime == 0 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert (tmp_path / LOCK).stat().st_mtime > 0


def test_an_owner_that_slept_while_another_took_the_folder_says_so(
    tmp_path: Path,
    owner: Ownership,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: Callable[[str], None],
) -> None:
    monkeypatch.setattr(ownership, "TOUCH_S", 0.01)
    expected_logs("another mount has taken the spool of this one")
    owner.take()
    write(tmp_path / LOCK, "other.example", 1)
    assert owner._thread is not None
    owner._thread.join(30)
    owner.give_up()
    # The lock is the other's.
    assert "other.example" in (tmp_path / LOCK).read_text()
