"""The gateway that the tests run on: what it leaves behind, and what it tells of its clients."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from allasfs.demo import Cloud
from allasfs.demo.errors import ServiceDied
from tests.ceph import access
from tests.ceph.daemon import Daemon, run
from tests.ceph.gateway import Gateway
from tests.demo.support import processes_of, wait_until
from tests.fakes.memstore import get_bytes, put_bytes
from tests.fakes.swift import swift_store

LINE = (
    "2026-01-02T03:04:05.406+0000 7f92cf7ce6c0  1 beast: 0x7f93403bf6e0: 127.0.0.1 - f71ce87 "
    '[02/Jan/2026:03:04:05.400 +0000] "GET /swift/v1/AUTH_f7/b/x%20y?a=b HTTP/1.1" 206 3 - '
    '"an agent/1.0 (with blanks)" bytes=0-2 latency=0.004000001s\n'
)


def test_a_line_of_the_log_is_read() -> None:
    request = access.parse(LINE)
    assert request is not None
    assert (request.method, request.path, request.query) == ("GET", "/v1/AUTH_f7/b/x y", "a=b")
    assert (request.status, request.range, request.sent_bytes) == (206, "bytes=0-2", 3)
    assert access.parse("2026-01-02 1 ====== starting new request req=0x7f93403bf6e0 =====") is None


def test_a_daemon_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    program = (
        "import sys, time, pathlib; from tests.ceph.daemon import Daemon\n"
        f"daemon = Daemon(pathlib.Path({str(tmp_path)!r}), 'sleep', ['sleep', '1000'])\n"
        "print(daemon.pid, flush=True); time.sleep(1000)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        wait_until(lambda: Path(f"/proc/{pid}/comm").read_text() == "sleep\n", "it runs")
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_of(tmp_path), "the daemon is gone")


def test_what_a_program_said_at_its_end_is_told(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    with pytest.raises(ServiceDied, match="No such file"):
        run(tmp_path, ["cat", "no-such-file"])
    daemon = Daemon(tmp_path, "cat", ["cat", "no-such-file"])
    # "Z": a zombie. The command line is empty then, but also for a moment at the beginning.
    stat = Path(f"/proc/{daemon.pid}/stat")
    wait_until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "Z", "it has ended")
    with pytest.raises(ServiceDied, match="No such file"):
        daemon.check()


@pytest.mark.rgw
def test_a_cluster_leaves_no_process_and_no_data(tmp_path: Path, cloud: Cloud) -> None:
    folder = tmp_path / "ceph"
    before = os.listdir("/var/run")
    gateway = Gateway(folder, cloud, "regionElse")
    with gateway:
        assert len(processes_of(folder)) == 3
        with swift_store(gateway) as store:
            store.create_container("kept-not")
    assert processes_of(folder) == []
    assert sorted(path.name for path in folder.iterdir()) == [
        "ceph.conf",
        "keyring",
        "log",
        "monmap",
    ]
    assert os.listdir("/var/run") == before


@pytest.mark.rgw
def test_the_gateway_tells_what_it_was_asked(gateway: Gateway) -> None:
    with swift_store(gateway) as store:
        store.create_container("asked")
        gateway.forget_requests()
        put_bytes(store, "asked", "a ä", b"content")
        get_bytes(store, "asked", "a ä", span=(1, 3))
    account = f"/v1/AUTH_{gateway.credentials.project_id}"
    found = [(each.method, each.path, each.range, each.status) for each in gateway.requests()]
    assert found == [
        ("PUT", f"{account}/asked/a ä", "", 201),
        ("GET", f"{account}/asked/a ä", "bytes=1-2", 206),
    ]
