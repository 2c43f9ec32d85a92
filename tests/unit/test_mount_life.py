"""The life of a mount around FUSE, which is fake here: readiness, the end, what was not stored."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from allasfs.app import checks, control, mount, unmounting
from allasfs.app.mount import Job
from allasfs.app.notify import Notifier
from allasfs.errors import BadCredentials, MountFailed, SpoolUnusable, UnmountFailed

PATIENCE_S = 60.0
POINT = "/some/where"


class FakeContent:
    """Serves until ``ended`` is set."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self.failed: list[str] = []
        self.during_serve: Callable[[], None] = lambda: None
        self.during_close: Callable[[], None] = lambda: None
        self.closed = 0
        self.pending: dict[str, object] = {
            "pending_files": 2,
            "pending_bytes": 7,
            "pending_error": "",
            "not_stored": [],
        }

    facts: Mapping[str, object] = {"account": {"user": "u"}}

    def serve(self, on_ready: Callable[[], None]) -> None:
        self.during_serve()
        on_ready()
        assert self.ended.wait(PATIENCE_S)

    def status(self) -> Mapping[str, object]:
        return {"open_files": 3, **self.pending}

    def waiting(self) -> Mapping[str, object]:
        return self.pending

    def hurry(self) -> None:
        self.pending["pending_files"] = 0

    def recover(self, request: Mapping[str, object]) -> Mapping[str, object]:
        return request

    def give_up(self) -> list[str]:
        return ["a: kept"]

    def close(self) -> list[str]:
        self.closed += 1
        self.during_close()
        return self.failed


@pytest.fixture
def content() -> FakeContent:
    return FakeContent()


@pytest.fixture(autouse=True)
def fuse(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let a mount answer, and do not harden the process that tests."""
    before = signal.getsignal(signal.SIGPIPE)
    monkeypatch.setattr(mount, "harden", lambda: None)
    monkeypatch.setattr(checks, "probe", lambda path, timeout_s: 0)
    entry = checks.MountEntry(POINT, checks.FSTYPE, "allasfs:", "rw,user_id=0")
    monkeypatch.setattr(checks, "mounts", lambda: {POINT: entry})
    yield
    signal.signal(signal.SIGPIPE, before)


@pytest.fixture
def job(content: FakeContent, tmp_path: Path) -> Job:
    @contextmanager
    def open_content() -> Iterator[FakeContent]:
        yield content

    return Job(
        mount_point=POINT,
        label="bucket",
        open=open_content,
        control_path=tmp_path / "a.sock",
        timeout_s=PATIENCE_S,
        facts={"read_only": True},
    )


def test_a_mount_that_answers_is_announced_and_its_end_is_good(
    job: Job, content: FakeContent
) -> None:
    announced: list[bool] = []

    def announce() -> None:
        announced.append(True)
        content.ended.set()

    assert mount.run(job, announce) == 0
    assert (announced, content.closed) == ([True], 1)


def test_files_that_were_not_uploaded_are_logged_each_and_change_the_exit_code(
    job: Job, content: FakeContent, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("not uploaded: a: no answer")
    expected_logs("not uploaded: b: quota")
    content.failed = ["a: no answer", "b: quota"]
    assert mount.run(job, content.ended.set) == UnmountFailed.exit_code


def test_a_file_system_that_cannot_be_closed_is_no_success(
    job: Job, content: FakeContent, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("closing the file system failed")
    expected_logs("not uploaded: closing failed: broken")

    def fail() -> None:
        raise RuntimeError("broken")

    content.during_close = fail
    assert mount.run(job, content.ended.set) == UnmountFailed.exit_code


def test_who_waits_for_the_end_gets_the_lines(
    job: Job, content: FakeContent, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("not uploaded: a")
    content.failed = ["a"]
    outcomes: list[dict[str, object]] = []

    def wait() -> None:
        with control.connect([job.control_path], os.geteuid(), PATIENCE_S) as connection:
            assert connection is not None
            connection.ask({"command": "wait"}, PATIENCE_S)
            content.ended.set()
            outcomes.append(connection.next(PATIENCE_S))

    waiter = threading.Thread(target=wait)
    mount.run(job, waiter.start)
    waiter.join()
    assert outcomes == [{"failed": ["a"]}]


def test_status_tells_of_mount_account_and_files(job: Job, content: FakeContent) -> None:
    answers: list[dict[str, object]] = []

    def ask() -> None:
        with control.connect([job.control_path], os.geteuid(), PATIENCE_S) as connection:
            assert connection is not None
            answers.append(connection.ask({"command": "status"}, PATIENCE_S))
        content.ended.set()

    asker = threading.Thread(target=ask)
    mount.run(job, asker.start)
    asker.join()
    assert (
        answers[0]
        | {
            "pid": os.getpid(),
            "mount_point": POINT,
            "mounted": "bucket",
            "read_only": True,
            "account": {"user": "u"},
            "open_files": 3,
        }
        == answers[0]
    )
    assert {"since", "version"} <= answers[0].keys()


def test_a_mount_that_does_not_answer_is_unmounted_and_not_announced(
    job: Job, content: FakeContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    unmounted: list[str] = []

    def unmount(path: str, *, lazy: bool) -> None:
        unmounted.append(path)
        content.ended.set()

    monkeypatch.setattr(checks, "probe", lambda path, timeout_s: None)
    monkeypatch.setattr(unmounting, "unmount", unmount)
    with pytest.raises(MountFailed, match="does not answer"):
        mount.run(job, lambda: pytest.fail("announced"))
    assert (unmounted, content.closed) == ([POINT], 1)


@pytest.mark.parametrize("answer", [0, errno.ENOTCONN, errno.ECONNABORTED])
def test_a_mount_that_is_ended_before_its_first_answer_is_no_failure_and_not_announced(
    job: Job, content: FakeContent, monkeypatch: pytest.MonkeyPatch, answer: int
) -> None:
    def probe(path: str, timeout_s: float) -> int:
        content.ended.set()
        return answer

    monkeypatch.setattr(checks, "probe", probe)
    if answer == 0:
        monkeypatch.setattr(checks, "mounts", dict)
    assert mount.run(job, lambda: pytest.fail("announced")) == 0
    assert content.closed == 1


def test_a_mount_that_cannot_be_asked_is_unmounted_and_says_why(
    job: Job, content: FakeContent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe(path: str, timeout_s: float) -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(checks, "probe", probe)
    monkeypatch.setattr(unmounting, "unmount", lambda path, *, lazy: content.ended.set())
    with pytest.raises(MountFailed, match=r"cannot be asked \(Resource temporarily"):
        mount.run(job, lambda: pytest.fail("announced"))


def test_what_libfuse_wrote_is_the_reason_of_a_failure(job: Job, content: FakeContent) -> None:
    def fail() -> None:
        os.write(2, b"fuse: bad mount point: no such thing\n")
        raise MountFailed("libfuse could not mount (status 1)")

    content.during_serve = fail
    with pytest.raises(MountFailed) as caught:
        mount.run(job, lambda: None)
    assert str(caught.value) == f"{POINT}: fuse: bad mount point: no such thing"


def test_a_failure_without_a_word_keeps_its_own(job: Job, content: FakeContent) -> None:
    def fail() -> None:
        raise MountFailed("libfuse could not mount (status 1)")

    content.during_serve = fail
    with pytest.raises(MountFailed, match="status 1"):
        mount.run(job, lambda: None)


def test_a_failure_after_the_mount_answered_is_told_too(
    job: Job, monkeypatch: pytest.MonkeyPatch, content: FakeContent
) -> None:
    def fail(on_ready: Callable[[], None]) -> None:
        on_ready()
        assert content.ended.wait(PATIENCE_S)
        raise MountFailed("the session ended (status 1)")

    monkeypatch.setattr(content, "serve", fail)
    with pytest.raises(MountFailed, match="status 1"):
        mount.run(job, content.ended.set)
    assert content.closed == 1


def test_a_spool_that_cannot_be_opened_keeps_its_own_exit_code(
    job: Job, content: FakeContent
) -> None:
    def fail() -> None:
        raise SpoolUnusable("in use")

    content.during_serve = fail
    with pytest.raises(SpoolUnusable):
        mount.run(job, lambda: None)


def test_standard_error_is_given_back_when_the_mount_answers(
    job: Job, content: FakeContent, capfd: pytest.CaptureFixture[str]
) -> None:
    def announce() -> None:
        os.write(2, b"after\n")
        content.ended.set()

    def complain() -> None:
        os.write(2, b"before\n")

    content.during_serve = complain
    mount.run(job, announce)
    assert capfd.readouterr().err == "after\n"


def test_bad_credentials_leave_nothing_behind(job: Job, content: FakeContent) -> None:
    @contextmanager
    def refuse() -> Iterator[FakeContent]:
        raise BadCredentials("no")
        yield content

    with pytest.raises(BadCredentials):
        mount.run(
            Job(
                mount_point=POINT,
                label="",
                open=refuse,
                control_path=job.control_path,
                timeout_s=1,
            ),
            lambda: pytest.fail("announced"),
        )
    assert content.closed == 0
    assert not job.control_path.exists()


def test_sync_asks_for_what_waits_and_for_no_more(job: Job, content: FakeContent) -> None:
    answers: list[dict[str, object]] = []

    def ask() -> None:
        with control.connect([job.control_path], os.geteuid(), PATIENCE_S) as connection:
            assert connection is not None
            answers.append(connection.ask({"command": "sync", "hurry": True}, PATIENCE_S))
        content.ended.set()

    # It is asked many times, and a status may take long.
    content.status = lambda: pytest.fail("status was asked for")  # type: ignore[method-assign]
    asker = threading.Thread(target=ask)
    mount.run(job, asker.start)
    asker.join()
    assert answers == [{**content.pending, "pending_files": 0}]


# -- signals and notifications --------------------------------------------------------------------


def test_the_first_signal_during_uploads_asks_for_patience(
    job: Job, content: FakeContent, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("still uploading")
    content.during_close = lambda: os.kill(os.getpid(), signal.SIGTERM)
    assert mount.run(job, content.ended.set) == 0


def test_the_second_signal_during_uploads_gives_them_up(
    job: Job, content: FakeContent, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("still uploading")
    expected_logs("not uploaded: .*given up")
    expected_logs("not uploaded: a: kept")

    def interrupt_twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)

    content.during_close = interrupt_twice
    assert mount.run(job, content.ended.set) == UnmountFailed.exit_code


def test_a_broken_connection_is_no_deadly_signal_once_fuse_has_cleaned_up(
    job: Job, content: FakeContent
) -> None:
    handlers: list[object] = []
    content.during_serve = lambda: handlers.append(signal.getsignal(signal.SIGPIPE))
    mount.run(job, content.ended.set)
    # libfuse turns SIG_IGN into SIG_DFL when it ends, and leaves every other handler alone.
    assert handlers[0] not in (signal.SIG_IGN, signal.SIG_DFL)


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """Give a service manager that listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.bind(str(tmp_path / "notify"))
        yield sock


def test_the_service_manager_learns_of_readiness_and_of_the_end(
    job: Job, content: FakeContent, manager: socket.socket, tmp_path: Path
) -> None:
    notified = Job(**{**vars(job), "notifier": Notifier(str(tmp_path / "notify"))})
    mount.run(notified, content.ended.set)
    assert manager.recv(1000).decode().splitlines()[0] == "READY=1"
    assert manager.recv(1000).decode().splitlines()[0] == "STOPPING=1"


def test_an_abstract_socket_of_the_manager_is_found() -> None:
    name = f"allasfs-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(PATIENCE_S)
        sock.bind(f"\0{name}")
        Notifier(f"@{name}").send("READY=1", "STATUS=x")
        assert sock.recv(100) == b"READY=1\nSTATUS=x"


def test_a_manager_that_does_not_listen_is_logged_only(
    tmp_path: Path, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("cannot be notified")
    Notifier(str(tmp_path / "missing")).send("READY=1")
