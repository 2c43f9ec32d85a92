"""The control socket: requests, garbage, strangers, stale files, and word of the end."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.app import control, folders
from allasfs.app.control import ControlServer
from allasfs.errors import AlreadyMounted, MountFailed, NotAnswering
from tests.conftest import missing

PATIENCE_S = 60.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ControlServer]:
    def fail(_: object) -> control.Answer:
        raise RuntimeError("broken")

    with ControlServer(path, {"status": lambda request: {"got": request}, "fail": fail}) as one:
        yield one


def ask(path: Path, **request: object) -> dict[str, object]:
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        return connection.ask(request, PATIENCE_S)


def raw(path: Path, data: bytes) -> bytes:
    """Send bytes as they are and return all that comes back, also before being hung up on."""
    received = b""
    with socket.socket(socket.AF_UNIX) as sock, contextlib.suppress(ConnectionError):
        sock.settimeout(PATIENCE_S)
        sock.connect(str(path))
        sock.sendall(data)
        while chunk := sock.recv(1 << 16):
            received += chunk
    return received


def test_a_command_gets_its_request_and_its_answer_comes_back(
    server: ControlServer, path: Path
) -> None:
    assert ask(path, command="status", more=1) == {"got": {"command": "status", "more": 1}}


def test_an_unknown_command_is_answered_with_an_error(server: ControlServer, path: Path) -> None:
    assert "'dance'" in str(ask(path, command="dance")["error"])


def test_a_command_that_fails_is_answered_with_an_error_and_logged(
    server: ControlServer, path: Path, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("control command fail failed")
    assert ask(path, command="fail") == {"error": "fail failed: broken"}


@pytest.mark.parametrize(
    "garbage",
    [b"\n", b"nonsense\n", b"[1]\n", b"\xff\xfe\n", b"[" * 20_000 + b"\n", b"x" * 70_000 + b"\n"],
    ids=["nothing", "words", "list", "bytes", "depth", "length"],
)
def test_garbage_gets_no_answer_and_does_no_harm(
    server: ControlServer, path: Path, garbage: bytes
) -> None:
    assert raw(path, garbage) == b""
    assert ask(path, command="status")["got"] == {"command": "status"}


def test_a_client_that_hangs_up_does_no_harm(server: ControlServer, path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    assert ask(path, command="status")["got"] == {"command": "status"}


def test_many_silent_clients_are_turned_away_and_not_waited_for(
    server: ControlServer, path: Path
) -> None:
    crowd = [socket.socket(socket.AF_UNIX) for _ in range(control.MAX_CLIENTS + 3)]
    try:
        for sock in crowd:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(path))
        turned_away = [sock for sock in crowd[-3:] if sock.recv(1) == b""]
        assert len(turned_away) == 3
    finally:
        for sock in crowd:
            sock.close()


def test_another_user_is_not_answered(
    server: ControlServer,
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: Callable[[str], None],
) -> None:
    stranger = os.geteuid() + 1
    expected_logs(f"control request of user {stranger} refused")
    monkeypatch.setattr(control, "_peer_uid", lambda _sock: stranger)
    assert raw(path, b'{"command": "status"}\n') == b""


def test_a_socket_of_another_user_is_not_trusted(
    server: ControlServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with control.connect([path], 4321, PATIENCE_S) as connection:
        assert connection is not None
        # Only this thread, which is the client's, sees a stranger.
        me = threading.current_thread()
        monkeypatch.setattr(
            control,
            "_peer_uid",
            lambda _sock: 1234 if threading.current_thread() is me else os.geteuid(),
        )
        with pytest.raises(NotAnswering, match="another user"):
            connection.ask({"command": "status"}, PATIENCE_S)


# -- files ----------------------------------------------------------------------------------------


def test_the_socket_is_for_its_owner_alone_and_goes_with_the_server(path: Path) -> None:
    with ControlServer(path, {}):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


def test_a_stale_socket_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with ControlServer(path, {"status": lambda _: {"alive": True}}):
        assert ask(path, command="status") == {"alive": True}


def test_a_living_server_keeps_its_place_and_is_named(server: ControlServer, path: Path) -> None:
    with pytest.raises(AlreadyMounted, match=f"process {os.getpid()} "):
        ControlServer(path, {}).start()
    assert ask(path, command="status")["got"] == {"command": "status"}


def test_a_link_in_place_of_the_lock_is_not_followed(path: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    path.with_suffix(".lock").symlink_to(victim)
    with pytest.raises(MountFailed):
        ControlServer(path, {}).start()
    assert victim.read_text() == "precious"


def test_a_runtime_folder_without_room_is_told_in_words(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(MountFailed, match="no control socket: No space left on device"):
            ControlServer(path, {}).start()
    # Nothing holds the place.
    with ControlServer(path, {}):
        pass


def test_a_path_longer_than_an_address_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with ControlServer(folder / "a.sock", {"status": lambda _: {"alive": True}}):
        assert ask(folder / "a.sock", command="status") == {"alive": True}


def test_the_socket_comes_back_when_its_folder_was_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RENAME_CHECK_S", 0.01)
    path = tmp_path / "runtime" / "a.sock"
    path.parent.mkdir()
    with ControlServer(path, {"status": lambda _: {"alive": True}}):
        path.unlink()
        (path.parent / "a.lock").unlink()
        path.parent.rmdir()
        wait_until(path.exists)
        assert ask(path, command="status") == {"alive": True}


def test_without_a_server_there_is_no_connection(path: Path) -> None:
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is None


def test_the_name_of_a_socket_depends_on_the_mount_point_alone() -> None:
    assert folders.control_name("/a") == folders.control_name("/a")
    assert folders.control_name("/a") != folders.control_name("/b")
    assert len(folders.control_name("/" + "x" * 4000)) < 32


def test_the_runtime_folder_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    tmp_path.chmod(0o700)
    folder = folders.runtime_folder()
    assert folder == tmp_path / "allasfs"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_as_runtime_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runtime").mkdir(mode=0o700)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "runtime" / "allasfs").symlink_to(tmp_path / "elsewhere")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    with pytest.raises(MountFailed, match=r"another user|symlink"):
        folders.runtime_folder()


# -- the end --------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], object]) -> None:
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        if condition():
            return
        tick.wait(0.01)
    pytest.fail("still not so")


def test_a_waiting_client_gets_the_outcome(server: ControlServer, path: Path) -> None:
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        assert connection.ask({"command": "wait"}, PATIENCE_S) == {"pid": os.getpid()}
        server.finish({"failed": ["a"]})
        assert connection.next(PATIENCE_S) == {"failed": ["a"]}


def test_a_client_that_comes_after_the_end_gets_the_outcome(
    server: ControlServer, path: Path
) -> None:
    server.finish({"failed": []})
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        connection.ask({"command": "wait"}, PATIENCE_S)
        assert connection.next(PATIENCE_S) == {"failed": []}


def test_a_client_that_stops_waiting_gives_its_place_back(
    server: ControlServer, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "CLIENT_CHECK_S", 0.01)
    for _ in range(control.MAX_CLIENTS * 2):
        wait_until(lambda: can_wait(path))


def can_wait(path: Path) -> bool:
    try:
        return ask(path, command="wait") == {"pid": os.getpid()}
    except NotAnswering:  # all places are taken
        return False


def test_an_answer_that_does_not_come_is_told(server: ControlServer, path: Path) -> None:
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        connection.ask({"command": "wait"}, PATIENCE_S)
        with pytest.raises(TimeoutError):
            connection.next(0.01)


SERVER = """
import sys
from pathlib import Path
from allasfs.app.control import ControlServer
server = ControlServer(Path(sys.argv[1]), {}, "/where/the log is")
server.start()
print("listening", flush=True)
sys.stdin.readline()
server.finish({"failed": []})
server.close()
print("finished", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def process(path: Path) -> Iterator[subprocess.Popen[str]]:
    one = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert one.stdout is not None
    assert one.stdout.readline() == "listening\n"
    with one:
        yield one
        one.kill()


def test_the_connection_lasts_as_long_as_the_process(
    process: subprocess.Popen[str], path: Path
) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        connection.ask({"command": "wait"}, PATIENCE_S)
        process.stdin.write("\n")
        process.stdin.flush()
        assert connection.next(PATIENCE_S) == {"failed": []}
        assert process.stdout.readline() == "finished\n"
        with pytest.raises(TimeoutError):
            connection.wait_for_end(0.05)
        process.kill()
        connection.wait_for_end(PATIENCE_S)


def test_a_process_that_dies_first_is_told_from_one_that_finished(
    process: subprocess.Popen[str], path: Path
) -> None:
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        connection.ask({"command": "wait"}, PATIENCE_S)
        process.kill()
        with pytest.raises(NotAnswering, match="connection ended"):
            connection.next(PATIENCE_S)


def test_of_a_process_that_is_stuck_it_is_told_what_to_do(
    process: subprocess.Popen[str], path: Path
) -> None:
    process.send_signal(signal.SIGSTOP)
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        with pytest.raises(NotAnswering) as caught:
            connection.ask({"command": "status"}, 0.1)
    line = str(caught.value)
    assert "no answer from the mount's process within 0.1 s; its log is /where/the log is" in line
    assert f"'kill -KILL {process.pid}'" in line
    assert "'allasfs umount' or 'fusermount -uz'" in line


def test_a_lock_of_another_user_says_nothing_of_the_log(
    process: subprocess.Popen[str], path: Path
) -> None:
    if os.geteuid() != 0:
        missing("needs root, to give a file away")
    process.send_signal(signal.SIGSTOP)
    os.chown(path.with_suffix(".lock"), 4711, 4711)
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        with pytest.raises(NotAnswering) as caught:
            connection.ask({"command": "status"}, 0.1)
    assert "the log is" not in str(caught.value)


def test_the_place_of_a_process_that_was_killed_is_free(
    process: subprocess.Popen[str], path: Path
) -> None:
    process.kill()
    process.wait()
    with ControlServer(path, {"status": lambda _: {"alive": True}}):
        assert ask(path, command="status") == {"alive": True}


def test_values_that_json_does_not_know_are_sent_as_text(path: Path) -> None:
    with ControlServer(path, {"status": lambda _: {"folder": Path("/a")}}):
        assert json.dumps(ask(path, command="status")) == '{"folder": "/a"}'


EXHAUSTED = """
import os, resource, sys
from pathlib import Path
from allasfs.app.control import ControlServer
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
with ControlServer(Path(sys.argv[1]), {"status": lambda request: {"ok": True}}):
    # The numbers of descriptors go up to 199, and all are taken.
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        print("exhausted", flush=True)
    sys.stdin.readline()
    for fd in taken:
        os.close(fd)
    print("free", flush=True)
    sys.stdin.readline()
"""


def test_a_process_without_descriptors_answers_again_when_it_has_some(path: Path) -> None:
    command = [sys.executable, "-c", EXHAUSTED, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "exhausted\n"
            with control.connect([path], os.geteuid(), PATIENCE_S) as early:
                assert early is not None
                # It was not accepted, or hung up on: either is no answer.
                with pytest.raises(NotAnswering):
                    early.ask({"command": "status"}, 0.5)
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "free\n"
            assert ask(path, command="status") == {"ok": True}
        finally:
            process.kill()
