"""``allasfs recover`` on real mounts of a real Swift: what could not be stored is not lost."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import MIB, Served, listed, pattern, refused, run, stored, wait_until

pytestmark = [pytest.mark.mount, pytest.mark.swift]

LARGE = {"segment_threshold": "2M", "segment_size": "1M"}
Recover = Callable[..., "subprocess.CompletedProcess[str]"]


def recover(served: Served, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as the user of a mount."""
    return run(sys.executable, "-m", "allasfs", "recover", *words, env=served.environ)


def kept(served: Served, *words: str | Path) -> list[dict[str, str]]:
    """Return what the list tells."""
    done = recover(served, "list", "--json", *words)
    assert (done.returncode, done.stderr) == (0, "")
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def status(served: Served) -> dict[str, object]:
    command = (sys.executable, "-m", "allasfs", "status", "--json", served.path)
    found: dict[str, object] = json.loads(run(*command, env=served.environ).stdout)
    return found


def set_quota(swift: Connection, bucket: str, count: str) -> None:
    swift.post_container(bucket, {"X-Container-Meta-Quota-Bytes": count})


def write_over_quota(served: Served, bucket: str, name: str, data: bytes) -> dict[str, str]:
    """Write a file that the store refuses; return its entry."""
    served.allow("EDQUOT", "over quota", "Upload exceeds quota", "was not stored", "failed upload")
    with refused(errno.EDQUOT):
        (served.path / bucket / name).write_bytes(data)
    wait_until(lambda: kept(served), "the file is kept")
    (entry,) = kept(served)
    return entry


# -- upload after all -----------------------------------------------------------------------------


@pytest.mark.semantics("R2", "R13")
@pytest.mark.parametrize("is_there", [True, False], ids=["mounted", "unmounted"])
@pytest.mark.parametrize("size", [100_000, 5 * MIB + 7], ids=["small", "large"])
def test_a_file_over_the_quota_is_kept_and_uploaded_when_there_is_room(
    mount: MakeMount, bucket: str, swift: Connection, size: int, *, is_there: bool
) -> None:
    served = mount(**LARGE)
    set_quota(swift, bucket, "10")
    data = pattern(size)
    swift.put_container(f"{bucket}_segments", {"X-Container-Meta-Quota-Bytes": "10"})
    entry = write_over_quota(served, bucket, "a.csv", data)
    assert (entry["bucket"], entry["key"], int(entry["size"])) == (bucket, "a.csv", size)
    assert "uota" in entry["why"]
    assert listed(swift, bucket) == {}
    line = recover(served).stdout.rstrip("\n").split("\t")
    assert line[:3] == [entry["id"], f"{bucket}/a.csv", str(size)]
    assert entry["data"] in str(status(served)["kept"])
    if not is_there:
        assert served.stop() == 15
        assert entry["id"] in recover(served).stdout
    # Still no room: it stays.
    done = recover(served, "retry", entry["id"])
    assert (done.returncode, done.stdout) == (21, "")
    assert "uota" in done.stderr
    assert [each["id"] for each in kept(served)] == [entry["id"]]
    set_quota(swift, bucket, "")
    set_quota(swift, f"{bucket}_segments", "")
    done = recover(served, "retry", entry["id"][:4])
    assert (done.returncode, done.stderr) == (0, "")
    assert stored(swift, bucket, "a.csv") == data
    head = swift.head_object(bucket, "a.csv")
    assert head["content-type"] == "text/csv"
    assert abs(float(head["x-object-meta-mtime"]) - time.time()) < 1000
    assert recover(served).stdout == "nothing is kept\n"
    assert not Path(entry["data"]).exists()
    if is_there:
        assert (served.path / bucket / "a.csv").read_bytes() == data
        assert status(served)["not_stored"] == []
        assert served.stop() == 0


@pytest.mark.semantics("R13")
@pytest.mark.parametrize("is_there", [True, False], ids=["mounted", "unmounted"])
def test_what_another_client_stored_meanwhile_is_not_replaced_by_mistake(
    mount: MakeMount, bucket: str, swift: Connection, *, is_there: bool
) -> None:
    served = mount()
    set_quota(swift, bucket, "10")
    entry = write_over_quota(served, bucket, "file", b"mine, and larger than the quota")
    if not is_there:
        served.stop()
    set_quota(swift, bucket, "")
    swift.put_object(bucket, "file", b"theirs")
    done = recover(served, "retry", entry["id"])
    assert done.returncode == 20
    assert "changed by another client meanwhile; --over replaces it" in done.stderr
    assert stored(swift, bucket, "file") == b"theirs"
    assert recover(served, "retry", entry["id"], "--as", f"{bucket}/file").returncode == 20
    assert recover(served, "retry", entry["id"], f"--as={bucket}/beside it").returncode == 0
    assert stored(swift, bucket, "beside it") == b"mine, and larger than the quota"
    assert stored(swift, bucket, "file") == b"theirs"
    assert kept(served) == []


@pytest.mark.semantics("R13")
def test_over_replaces_what_another_client_stored_meanwhile(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    served = mount()
    set_quota(swift, bucket, "10")
    entry = write_over_quota(served, bucket, "file", b"mine, and larger than the quota")
    set_quota(swift, bucket, "")
    swift.put_object(bucket, "file", b"theirs")
    assert recover(served, "retry", "--over", entry["id"]).returncode == 0
    assert stored(swift, bucket, "file") == b"mine, and larger than the quota"
    assert kept(served) == []


@pytest.mark.semantics("H2", "R13")
def test_a_mount_that_gets_stuck_while_it_uploads_is_not_waited_for(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    served = mount()
    set_quota(swift, bucket, "10")
    entry = write_over_quota(served, bucket, "file", b"larger than the quota")
    pid = int(str(status(served)["pid"]))
    before = status(served)["requests"]
    cloud.pause_swift()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "allasfs", "recover", "retry", entry["id"]],
            env=dict(served.environ),
            stderr=subprocess.PIPE,
            text=True,
        )
        wait_until(lambda: status(served)["requests"] != before, "the mount asks the store")
        os.kill(pid, signal.SIGSTOP)
        _, lines = process.communicate(timeout=60)
        assert process.returncode == 19
        assert f"{entry['id']}: no answer" in lines
        assert f"'kill -KILL {pid}'" in lines
    finally:
        served.kill()
        cloud.resume_swift()
    assert [each["id"] for each in kept(served)] == [entry["id"]]


# -- killed ---------------------------------------------------------------------------------------


def notes(spool: Path) -> list[dict[str, str]]:
    return [json.loads(path.read_text()) for path in spool.glob("*.upload")]


def kill_in_close(
    served: Served, cloud: Cloud, swift: Connection, bucket: str, spool: Path, data: bytes
) -> None:
    """Write a large file, and kill the mount after close() has begun and before it ends."""
    # Otherwise it is not there to be listed until the first segment goes up.
    swift.put_container(f"{bucket}_segments")
    fd = os.open(served.path / bucket / "file", os.O_WRONLY | os.O_CREAT)
    for start in range(0, len(data), MIB):
        os.write(fd, data[start : start + MIB])
    # All whole ones: the end of the file waits for those that are on their way.
    sent = len(data) // MIB
    wait_until(lambda: len(listed(swift, f"{bucket}_segments")) >= sent, "segments are sent")

    def close() -> None:
        with refused(errno.ECONNABORTED, errno.ENOTCONN, errno.EIO):
            os.close(fd)

    cloud.pause_swift()
    try:
        closing = threading.Thread(target=close)
        closing.start()
        wait_until(
            lambda: [each["state"] for each in notes(spool)] == ["closing"], "close() has begun"
        )
        served.kill()
        closing.join()
    finally:
        cloud.resume_swift()


@pytest.mark.semantics("R10", "R13")
def test_a_killed_upload_and_what_another_client_stored_since_are_both_there(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud, tmp_path: Path
) -> None:
    options = {**LARGE, "spool_dir": tmp_path / "spool", "spool_size": "8M"}
    data = pattern(12 * MIB + 5)
    served = mount(**options)
    kill_in_close(served, cloud, swift, bucket, tmp_path / "spool", data)
    swift.put_object(bucket, "file", b"theirs")
    served = mount(**options)
    served.allow("that was interrupted is not finished", "failed upload")
    wait_until(lambda: status(served)["uploads_to_finish"] == 0, "the upload has ended")
    assert (served.path / bucket / "file").read_bytes() == b"theirs"
    (entry,) = kept(served, "--spool", tmp_path / "spool")
    assert entry["why"] == "changed by another client meanwhile"
    assert entry["segments"].startswith(f"{bucket}_segments/file/")
    saved = tmp_path / "saved"
    words = ("--spool", tmp_path / "spool")
    done = recover(served, "save", entry["id"], saved, *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert saved.read_bytes() == data
    assert recover(served, "retry", entry["id"], *words).returncode == 20
    assert recover(served, "retry", entry["id"], "--over", *words).returncode == 0
    assert stored(swift, bucket, "file") == data
    assert kept(served, *words) == []
    used = int(swift.head_container(f"{bucket}_segments")["x-container-bytes-used"])
    assert used == sum(size for size, _ in listed(swift, f"{bucket}_segments").values())
    assert (served.path / bucket / "file").read_bytes() == data
    assert served.stop() == 0


@pytest.mark.semantics("L6", "R13")
def test_an_upload_of_a_mount_that_never_comes_back_is_in_the_list_of_every_host(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    served = mount(**LARGE)
    spools = served.folder / ".local/state/allasfs/spool"
    (spool,) = spools.iterdir()
    assert spool.name.startswith(f"{socket.gethostname()}-")
    data = pattern(5 * MIB + 5)
    kill_in_close(served, cloud, swift, bucket, spool, data)
    # The home folder of another host.
    other = spool.rename(spools / "other.example-0123456789abcdef")
    holder = {"host": "other.example", "pid": 1, "since": "2026-01-01T00:00:00+0000"}
    (other / "lock").write_text(json.dumps(holder))
    # A mount may be at work there.
    assert kept(served) == []
    then = time.time() - 120
    os.utime(other / "lock", (then, then))
    (entry,) = kept(served)
    assert (entry["folder"], entry["why"]) == (
        str(other),
        "not uploaded yet: its mount has ended",
    )
    assert recover(served, "retry", "--all").returncode == 0
    assert stored(swift, bucket, "file") == data
    assert kept(served) == []


# -- save and discard -----------------------------------------------------------------------------


@pytest.fixture
def lost(
    mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> tuple[Served, dict[str, str], bytes]:
    """A file of three times the spool, whose manifest the store refuses."""
    served = mount(**LARGE, spool_size="8M")
    data = pattern(24 * MIB)
    swift.put_object(bucket, "d/file", b"old")
    set_quota(swift, bucket, "10")
    # A manifest has no bytes that count; a quota on objects has.
    swift.post_container(bucket, {"X-Container-Meta-Quota-Count": "0"})
    return served, write_over_quota(served, bucket, "file", data), data


@pytest.mark.semantics("R13")
def test_a_kept_file_is_saved_with_what_of_it_is_in_the_store(
    lost: tuple[Served, dict[str, str], bytes], bucket: str, swift: Connection, tmp_path: Path
) -> None:
    served, entry, data = lost
    assert entry["segments"]
    saved = tmp_path / "saved"
    assert recover(served, "save", entry["id"], saved).returncode == 0
    assert saved.read_bytes() == data
    # It replaces nothing.
    done = recover(served, "save", entry["id"], saved)
    assert (done.returncode, "File exists" in done.stderr) == (21, True)
    assert [each["id"] for each in kept(served)] == [entry["id"]]
    # A segment that somebody removed is nowhere.
    first = min(listed(swift, f"{bucket}_segments"))
    swift.delete_object(f"{bucket}_segments", first)
    again = tmp_path / "again"
    done = recover(served, "save", entry["id"], again)
    assert done.returncode == 21
    assert "bytes 0-1048575 of it are nowhere: they are zeros" in done.stderr
    assert again.read_bytes() == bytes(MIB) + data[MIB:]


@pytest.mark.semantics("R13")
@pytest.mark.parametrize("is_there", [True, False], ids=["mounted", "unmounted"])
def test_a_kept_file_is_discarded_with_its_segments_and_only_when_that_is_meant(
    lost: tuple[Served, dict[str, str], bytes], bucket: str, swift: Connection, *, is_there: bool
) -> None:
    served, entry, _ = lost
    if not is_there:
        served.stop()
    done = recover(served, "discard", entry["id"])
    assert (done.returncode, "--yes" in done.stderr) == (2, True)
    assert listed(swift, f"{bucket}_segments") != {}
    done = recover(served, "discard", "--yes", entry["id"])
    assert (done.returncode, done.stderr) == (0, "")
    assert listed(swift, f"{bucket}_segments") == {}
    assert stored(swift, bucket, "d/file") == b"old"
    assert kept(served) == []
    assert not Path(entry["data"]).exists()


def test_discard_asks_at_a_terminal(mount: MakeMount, bucket: str, swift: Connection) -> None:
    served = mount()
    set_quota(swift, bucket, "10")
    entry = write_over_quota(served, bucket, "file\x1b[31m", b"larger than the quota")
    assert recover(served).stdout.split("\t")[1] == f"{bucket}/file\\x1b[31m"
    for word, is_gone in (("n", False), ("y", True)):
        master, slave = os.openpty()
        command = [sys.executable, "-m", "allasfs", "recover", "discard", entry["id"]]
        process = subprocess.Popen(
            command, env=dict(served.environ), stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        os.write(master, f"{word}\n".encode())
        assert process.wait(60) == (0 if is_gone else 2)
        assert (kept(served) == []) == is_gone
        os.close(master)


# -- one owner ------------------------------------------------------------------------------------


@pytest.mark.semantics("R12")
def test_a_spool_that_a_mount_on_another_host_touched_is_refused(
    served: MakeMount, mount: MakeMount, bucket: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.mkdir()
    holder = {"host": "other.example", "pid": 4711, "since": "2026-01-01T00:00:00+0000"}
    (spool / "lock").write_text(json.dumps(holder))
    first = mount()
    target = tmp_path / "mnt"
    target.mkdir()
    command = (sys.executable, "-m", "allasfs", "mount", f"--spool-dir={spool}", target)
    done = run(*command, env=first.environ)
    assert done.returncode == 13
    assert f"{spool}: the spool is in use by a mount on other.example (pid 4711)" in done.stderr
    then = time.time() - 120
    os.utime(spool / "lock", (then, then))
    second = mount(bucket, spool_dir=spool)
    assert json.loads((spool / "lock").read_text())["pid"] == second.process.pid
    done = run(*command, env=first.environ)
    assert done.returncode == 13
    assert f"in use by a mount on {socket.gethostname()} (pid {second.process.pid})" in done.stderr
    second.process.send_signal(signal.SIGTERM)
    second.process.wait()
    assert (spool / "lock").read_text() == ""
