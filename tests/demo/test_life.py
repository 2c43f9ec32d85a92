"""The life of a cloud: starts, ends, what it leaves, and what it says when it cannot start."""

import contextlib
import errno
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from allasfs.demo import Cloud, DemoError, PackagesMissing, ServiceDied, Token
from allasfs.demo import cloud as cloud_module

from .support import connect, processes_of, wait_until

# Starts a cloud, pauses a part of it, says so, and waits to be killed.
PARENT = """
import signal, sys
from pathlib import Path
from allasfs.demo import Cloud
cloud = Cloud(Path(sys.argv[1]), workers=2)
cloud.start()
cloud.pause_swift()
print("ready.", flush=True)
signal.pause()
"""


def start_parent(*arguments: str) -> "subprocess.Popen[str]":
    """Run Python with these arguments; return when it says that its cloud is ready."""
    parent = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    for line in parent.stdout:
        if line.startswith("ready."):
            return parent
    raise AssertionError(f"the parent ended with {parent.wait()}")


def status_of_account(token: Token) -> int:
    """Return the status with which Swift answers to this token."""
    address = urlsplit(token.storage_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=60)
    connection.request("HEAD", address.path, headers={"X-Auth-Token": token.id})
    status = connection.getresponse().status
    connection.close()
    return status


def test_data_ports_and_credentials_outlive_a_restart(stopped_folder: Path) -> None:
    cloud = Cloud(stopped_folder, token_lifetime_s=5, workers=1)
    before = cloud.rc_file.read_text(encoding="ascii")
    cloud.start()
    try:
        assert cloud.rc_file.read_text(encoding="ascii") == before
        assert cloud.requests() == ()
        connection = connect(cloud.environ)
        assert connection.get_object("kept", "data")[1] == b"from the first run"
        assert [request.method for request in cloud.requests()] == ["GET"]
        connection.close()

        # The lifetime of tokens is this run's.
        token = cloud.token()
        assert status_of_account(token) == 204
        wait_until(lambda: status_of_account(token) == 401, "the token has expired")
        assert status_of_account(cloud.token()) == 204
    finally:
        cloud.stop()
    assert processes_of(stopped_folder) == []


def test_ports_that_others_took_meanwhile_are_replaced(stopped_folder: Path) -> None:
    state = json.loads((stopped_folder / "state.json").read_text(encoding="ascii"))
    taken = {name: state["ports"][name] for name in ("keystone", "proxy", "object")}
    with contextlib.ExitStack() as stack:
        for port in taken.values():
            stack.enter_context(socket.create_server(("127.0.0.1", port)))
        cloud = stack.enter_context(Cloud(stopped_folder, workers=1))
        assert urlsplit(cloud.storage_url).port != taken["proxy"]
        assert cloud.token().storage_url == cloud.storage_url  # from the catalogue
        connection = connect(cloud.environ)
        assert connection.get_object("kept", "data")[1] == b"from the first run"
        connection.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_program_ends_its_cloud_on_a_signal(
    stopped_folder: Path, number: signal.Signals
) -> None:
    with start_parent("-m", "allasfs.demo", "--workers=1", str(stopped_folder)) as parent:
        assert len(processes_of(stopped_folder)) == 1 + 6  # itself and its services
        parent.send_signal(number)
        assert parent.wait() == 0
    assert processes_of(stopped_folder) == []


def test_nothing_is_left_of_a_parent_that_was_killed(stopped_folder: Path) -> None:
    with start_parent("-c", PARENT, str(stopped_folder)) as parent:
        assert len(processes_of(stopped_folder)) == 1 + 8
        parent.kill()
        assert parent.wait() == -signal.SIGKILL
    wait_until(lambda: processes_of(stopped_folder) == [], "all services are gone")


def test_a_folder_has_one_cloud_at_a_time(cloud: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module, "LOCK_TIMEOUT_S", 0)
    with pytest.raises(DemoError, match="another demo cloud runs in"):
        Cloud(cloud.folder).start()
    with pytest.raises(DemoError, match="runs already"):
        cloud.start()
    assert cloud.token().id


def test_a_service_that_dies_at_start_is_named_with_its_log(stopped_folder: Path) -> None:
    ring = stopped_folder / "etc" / "object.ring.gz"
    good = ring.read_bytes()
    ring.write_bytes(b"not a ring")
    try:
        with pytest.raises(
            ServiceDied, match=r"(?s)proxy ended at start.*proxy\.log.*\nzlib\.error"
        ):
            Cloud(stopped_folder, workers=1).start()
    finally:
        ring.write_bytes(good)
    assert processes_of(stopped_folder) == []


def test_services_outlive_the_thread_that_started_them(stopped_folder: Path) -> None:
    cloud = Cloud(stopped_folder, workers=1)
    starter = threading.Thread(target=cloud.start)
    starter.start()
    starter.join()
    try:
        assert cloud.dead_services() == []
        assert status_of_account(cloud.token()) == 204

        # One that is killed nevertheless is missed.
        (pid,) = [
            pid
            for pid in processes_of(stopped_folder)
            if b"demo.cache" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: cloud.dead_services() == ["cache"], "the cache is missed")
    finally:
        cloud.stop()


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(DemoError, match="is not empty and holds no demo cloud"):
        Cloud(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cloud_module, "NEEDED_PACKAGES", ("swift", "no_such_package"))
    with pytest.raises(PackagesMissing, match=r"needs no_such_package: pip install"):
        Cloud(tmp_path / "new").start()
    assert not (tmp_path / "new").exists()


def test_a_file_system_without_extended_attributes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", refuse)
    with pytest.raises(DemoError, match="without user extended attributes"):
        Cloud(tmp_path / "new").start()
