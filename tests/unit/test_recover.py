"""``allasfs recover`` beside a mount that owns the spool; the mount is a control socket alone."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import pytest

from allasfs.app import control, folders, recover
from allasfs.app.control import ControlServer
from allasfs.app.options import Words
from allasfs.app.recover import Recover
from allasfs.app.recover_words import Asked
from allasfs.config import Config
from allasfs.errors import NotAnswering, SpoolUnusable
from allasfs.transfer.notes import KEPT, Note
from allasfs.transfer.ownership import Ownership

PATIENCE_S = 60.0


class FakeMount:
    """Owns a spool with two files, and answers."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        self.requests: list[Mapping[str, object]] = []
        self.status_asked = threading.Semaphore(0)
        self.during_recover: Callable[[], None] = lambda: None
        self.during_status: Callable[[], None] = lambda: None
        for name in ("abcd", "xyz1"):
            (spool / f"{name}.data").write_bytes(b"content")
            note = Note(KEPT, "bucket", name, size=7, present=((0, 7),), why="why", when=1.0)
            note.save(spool / f"{name}.upload", durable=False)

    def status(self, _: Mapping[str, object]) -> Mapping[str, object]:
        self.status_asked.release()
        self.during_status()
        return {"spool": str(self.spool)}

    def recover(self, request: Mapping[str, object]) -> Mapping[str, object]:
        self.requests.append(request)
        self.during_recover()
        return {}

    def asked(self, command: str, *ids: str) -> int:
        """Run a command; return its exit code."""
        asked = Asked(command, ids, (), Words(), yes=True)
        return Recover([self.spool], Config(), no_account).run(asked)


def no_account() -> NoReturn:
    pytest.fail("the mount has credentials")


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeMount]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    spool = tmp_path / "spool"
    spool.mkdir()
    mount = FakeMount(spool)
    owner = Ownership(spool)
    owner.take()
    commands = {"status": mount.status, "recover": mount.recover}
    socket = folders.runtime_folder() / folders.control_name("/mnt")
    with ControlServer(socket, commands, "/log"):
        yield mount
    owner.give_up()


@pytest.mark.parametrize("action", ["retry", "discard"])
def test_a_disk_that_fails_is_an_answer_in_words(action: str) -> None:
    class Full:
        def retry(self, name: str, *, over: bool, place: tuple[str, str] | None) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        def discard(self, name: str) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

    told = recover.answer(Full(), {"action": action, "id": "a"})
    assert str(told["error"]).startswith("the disk of the spool failed: ")


@pytest.mark.semantics("R13")
@pytest.mark.parametrize("command", ["retry", "discard"])
def test_a_spool_that_another_host_uses_does_not_stop_the_files_of_the_others(
    mounted: FakeMount, tmp_path: Path, command: str
) -> None:
    # Computers that share a home folder have a spool each.
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    FakeMount(elsewhere)
    holder = {"host": "elsewhere", "pid": 1, "since": ""}
    (elsewhere / "lock").write_text(json.dumps(holder))
    asked = Asked(command, (), (), Words(), yes=True, every=True)
    with pytest.raises(SpoolUnusable, match="in use by a mount on elsewhere"):
        Recover([elsewhere, mounted.spool], Config(), no_account).run(asked)
    assert [each["id"] for each in mounted.requests] == ["abcd", "xyz1"]


@pytest.mark.parametrize("command", ["retry", "discard"])
def test_beginnings_of_one_id_are_one_file(
    mounted: FakeMount, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mounted.asked(command, "ab", "abc", "x", "abcd") == 0
    assert [each["id"] for each in mounted.requests] == ["abcd", "xyz1"]
    assert len(capsys.readouterr().out.splitlines()) == 2


@pytest.mark.semantics("R13")
def test_an_upload_that_takes_long_is_waited_for_while_the_mount_answers(
    mounted: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    monkeypatch.setattr(recover, "ANSWER_TIMEOUT_S", 0.5)

    def work() -> None:
        # More looks than what finds the mount.
        for _ in range(100):
            assert mounted.status_asked.acquire(timeout=PATIENCE_S)

    mounted.during_recover = work
    assert mounted.asked("retry", "ab") == 0


@pytest.mark.semantics("H2", "R13")
@pytest.mark.parametrize("command", ["retry", "discard"])
def test_a_mount_that_gets_stuck_meanwhile_is_not_waited_for(
    mounted: FakeMount, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(control, "LOOK_S", 0.01)
    monkeypatch.setattr(recover, "ANSWER_TIMEOUT_S", 0.5)
    free = threading.Event()

    def get_stuck() -> None:
        mounted.during_status = lambda: assert_set(free)
        assert_set(free)

    mounted.during_recover = get_stuck
    with pytest.raises(NotAnswering, match=r"abcd: no answer .*; its log is /log; .* 'kill -KILL"):
        mounted.asked(command, "ab")
    free.set()


def test_a_mount_that_is_stuck_already_is_named(
    mounted: FakeMount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "ANSWER_TIMEOUT_S", 0.5)
    free = threading.Event()
    mounted.during_status = lambda: assert_set(free)
    with pytest.raises(NotAnswering, match=f"does not answer; .*'kill -KILL {os.getpid()}'"):
        mounted.asked("retry", "ab")
    free.set()


def assert_set(event: threading.Event) -> None:
    assert event.wait(PATIENCE_S)
