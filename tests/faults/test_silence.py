"""The server falls silent in the middle of something: each call ends, and the mount lives on."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from allasfs.store.session import LONGEST_WAIT_S
from allasfs.store.swift import COPIED_BYTES_PER_S
from tests.conftest import MakeMount
from tests.faults import actions as do
from tests.faults.proxy import Action, Exchange, FaultProxy
from tests.mount.support import (
    MIB,
    PATIENCE_S,
    Served,
    clean_environ,
    is_mounted,
    mount_command,
    pattern,
    refused,
    run,
    stored,
    succeed,
    wait_until,
)

pytestmark = [pytest.mark.swift, pytest.mark.mount]

TIMEOUT_S = 2.0
# Longer than any test may take: what ends within it was not ended by the deadline.
LONG_TIMEOUT_S = 600.0
SIZE = 24 * MIB
SLOW_S = 1.0
# Of a machine with other things to do.
SLACK_S = 20.0

CALLS: dict[str, tuple[Action, str, Callable[[Path], object]]] = {
    "listing": (do.silence_within_body, "GET", lambda top: os.listdir(top / "unknown")),
    "reading": (do.silence_within_body, "GET", lambda top: (top / "d/large").read_bytes()),
    "writing": (
        do.silence_within_request,
        "PUT",
        lambda top: (top / "d/new").write_bytes(pattern(SIZE)),
    ),
    "copying": (do.silence_after, "COPY", lambda top: (top / "d/file").rename(top / "d/moved")),
    "removing": (do.silence_after, "DELETE", lambda top: (top / "d/other").unlink()),
}


@pytest.fixture
def filled(swift: Connection, bucket: str) -> str:
    """A bucket with files, beside one that no mount has listed."""
    for key in ("d/file", "d/other", "d/cached"):
        swift.put_object(bucket, key, b"content")
    swift.put_object(bucket, "d/large", pattern(SIZE))
    swift.put_container(f"{bucket}-unknown")
    swift.put_object(f"{bucket}-unknown", "file", b"content")
    return bucket


@pytest.mark.semantics("C0", "R9", "H1")
@pytest.mark.parametrize("name", CALLS)
def test_a_call_whose_server_falls_silent_in_the_middle_ends_and_all_else_goes_on(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str, swift: Connection, name: str
) -> None:
    served = behind(ttl=3600, timeout=TIMEOUT_S, memory="16M")
    top = served.path / filled
    act, method, call = CALLS[name]
    names = sorted(os.listdir(top / "d"))
    assert (top / "d/cached").read_bytes() == b"content"
    succeed("df", served.path)
    if name == "listing":
        call = lambda top: os.listdir(f"{top}-unknown")  # noqa: E731
    proxy.fail(act, method, times=None)
    with subprocess.Popen(["sleep", str(PATIENCE_S)]) as clock:
        with refused(*do.DOWN):
            call(top)
        # While nothing of the kind is answered, what is known is.
        assert sorted(os.listdir(top / "d")) == names
        assert (top / "d/file").stat().st_size == 7
        assert (top / "d/cached").read_bytes() == b"content"
        succeed("df", served.path)
        assert filled in os.listdir(served.path)
        assert clock.poll() is None
        clock.kill()
    assert proxy.struck
    proxy.heal()
    assert os.listdir(f"{top}-unknown") == ["file"]
    assert (top / "d/large").read_bytes() == pattern(SIZE)
    (top / "d/later").write_bytes(pattern(MIB))
    assert stored(swift, filled, "d/later") == pattern(MIB)


# The time that a server has for so many bytes is the deadline and more than SLOW_S.
COPIED = round((SLOW_S + 1) * COPIED_BYTES_PER_S)


def slow(exchange: Exchange) -> None:
    """The server moves bytes for longer than the deadline, and then answers."""
    answer = exchange.forward()
    exchange.stall(TIMEOUT_S + SLOW_S)
    exchange.answer(answer)


@pytest.mark.semantics("C25")
def test_a_rename_waits_for_a_server_that_copies_many_bytes(
    behind: Callable[..., Served], proxy: FaultProxy, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", pattern(COPIED))
    top = behind(timeout=TIMEOUT_S).path / bucket
    proxy.fail(slow, "COPY")
    (top / "file").rename(top / "moved")
    assert proxy.struck == 1
    assert [each.method for each in proxy.requests()].count("COPY") == 1
    assert stored(swift, bucket, "moved") == pattern(COPIED)
    assert os.listdir(top) == ["moved"]


@pytest.mark.semantics("C16")
def test_a_change_waits_for_a_server_that_copies_large_segments(
    behind: Callable[..., Served], proxy: FaultProxy, bucket: str, swift: Connection
) -> None:
    options = {"large_objects": "dlo", "segment_threshold": "2M", "segment_size": COPIED}
    top = behind(timeout=TIMEOUT_S, **options).path / bucket
    (top / "file").write_bytes(pattern(COPIED))
    proxy.forget_requests()
    proxy.fail(slow, "COPY")
    with (top / "file").open("ab") as file:
        file.write(b"more")
    assert proxy.struck == 1
    assert [each.method for each in proxy.requests()].count("COPY") == 1
    assert stored(swift, bucket, "file") == pattern(COPIED) + b"more"


def test_a_rename_of_a_large_file_copies_its_manifest_and_waits_no_longer_for_that(
    behind: Callable[..., Served], proxy: FaultProxy, bucket: str, swift: Connection
) -> None:
    options = {"large_objects": "dlo", "segment_threshold": "2M", "segment_size": COPIED}
    top = behind(timeout=TIMEOUT_S, **options).path / bucket
    (top / "file").write_bytes(pattern(COPIED))
    (top / "file").rename(top / "moved")
    segments = [entry["name"] for entry in swift.get_container(f"{bucket}_segments")[1]]
    assert len(segments) == 1
    manifest = swift.head_object(bucket, "moved")["x-object-manifest"]
    assert quote(f"{bucket}_segments/{segments[0]}").startswith(manifest)
    proxy.fail(slow, "COPY", times=None)
    with refused(*do.DOWN):
        (top / "moved").rename(top / "again")


@pytest.mark.semantics("L7", "R9")
@pytest.mark.parametrize("is_told", [True, False])
def test_a_put_that_is_done_late_brings_a_removed_file_back_and_the_log_had_told(
    behind: Callable[..., Served],
    proxy: FaultProxy,
    bucket: str,
    swift: Connection,
    is_told: bool,
) -> None:
    swift.put_object(bucket, "file", b"old")
    served = behind(timeout=TIMEOUT_S if is_told else PATIENCE_S, ttl=1)
    file = served.path / bucket / "file"
    assert file.read_bytes() == b"old"
    go_on, is_done = threading.Event(), threading.Event()

    def late(exchange: Exchange) -> None:
        exchange.body()
        if not is_told:
            exchange.hang_up()
        go_on.wait(PATIENCE_S)
        exchange.forward()
        is_done.set()

    proxy.fail(late, "PUT", "/file")
    if is_told:
        with refused(*do.DOWN):
            file.write_bytes(b"new")
        line = r"ERROR .*/file was not stored .*: kept in "
    else:
        file.write_bytes(b"new")
        line = r"INFO .*/file: .*: again in "
    wait_until(lambda: re.search(line, served.log()), "the log tells")
    file.unlink()
    assert not file.exists()
    go_on.set()
    assert is_done.wait(PATIENCE_S)
    assert stored(swift, bucket, "file") == b"new"
    if is_told:
        # What the mount knows to have removed itself it shows later.
        wait_until(file.exists, "the mount shows what the store has")
        assert file.read_bytes() == b"new"
        file.unlink()
        assert os.listdir(served.path / bucket) == []


@pytest.mark.semantics("H1")
def test_a_reader_that_waits_for_a_silent_server_can_be_killed(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str
) -> None:
    served = behind(timeout=LONG_TIMEOUT_S)
    path = served.path / filled / "d/large"
    assert path.stat().st_size == SIZE
    proxy.fail(do.silence_within_body, "GET", "/d/large", times=None)
    with subprocess.Popen(["cat", str(path)], stdout=subprocess.DEVNULL) as process:
        wait_until(lambda: proxy.struck, "the server is silent")
        process.kill()
        assert process.wait(PATIENCE_S) < 0
    proxy.heal()
    assert path.read_bytes() == pattern(SIZE)


def umount(served: Served, *options: str) -> subprocess.CompletedProcess[str]:
    return run(
        sys.executable,
        "-m",
        "allasfs",
        "umount",
        *options,
        served.path,
        env=clean_environ(served.folder),
    )


@pytest.mark.semantics("H4")
def test_a_large_file_is_written_while_the_server_is_silent(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str, swift: Connection
) -> None:
    options = {"segment_threshold": "2M", "segment_size": "1M"}
    served = behind(timeout=LONG_TIMEOUT_S, ttl=3600, **options)
    top = served.path / filled
    with (top / "d/new").open("wb", buffering=0) as file:
        proxy.fail(do.silence, times=None)
        for start in range(0, SIZE, MIB):
            file.write(pattern(SIZE)[start : start + MIB])
        wait_until(lambda: proxy.struck, "it is being sent")
        proxy.heal()
    assert stored(swift, filled, "d/new") == pattern(SIZE)


@pytest.mark.semantics("H2")
def test_a_mount_whose_server_is_silent_can_be_unmounted(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str
) -> None:
    served = behind(timeout=TIMEOUT_S)
    path = served.path / filled / "d/large"
    assert path.stat().st_size == SIZE
    proxy.fail(do.silence, times=None)
    assert run("cat", path).returncode != 0
    done = umount(served)
    assert done.returncode == 0, done.stderr
    assert not is_mounted(served.path)


@pytest.mark.semantics("H2")
def test_umount_ends_by_its_own_limit_and_names_what_is_left(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str, swift: Connection
) -> None:
    served = behind(timeout=LONG_TIMEOUT_S)
    path = served.path / filled / "d/new"
    fds = [os.open(f"{path}-{number}", os.O_WRONLY | os.O_CREAT) for number in range(5)]
    for fd in fds:
        os.write(fd, b"written")
    proxy.fail(do.silence, times=None)
    # A lazy unmount, as of a machine that goes down: programs have files open there.
    served.process.terminate()
    wait_until(lambda: not is_mounted(served.path), "unmounted")
    wait_until(lambda: proxy.struck, "it uploads")
    done = umount(served, "--wait=1")
    assert done.returncode == 15
    assert f"process {served.process.pid} still uploads after 1 s" in done.stderr
    assert re.search(rf"\({filled}/d/new-\d, .*, .* and 2 more\)", done.stderr), done.stderr
    assert served.process.poll() is None
    proxy.heal()
    assert served.process.wait(PATIENCE_S) == 0
    for fd in fds:
        with refused(errno.ENOTCONN):
            os.close(fd)
    for number in range(5):
        assert stored(swift, filled, f"d/new-{number}") == b"written"


@pytest.mark.semantics("H3")
def test_a_process_that_was_killed_while_the_server_was_silent_leaves_no_mount(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str
) -> None:
    served = behind(timeout=LONG_TIMEOUT_S)
    path = served.path / filled / "d/large"
    assert path.stat().st_size == SIZE
    proxy.fail(do.silence, times=None)
    with subprocess.Popen(
        ["cat", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=path.parent
    ) as process:
        wait_until(lambda: proxy.struck, "a program waits, with its folder in the mount")
        served.process.kill()
        served.process.wait()
        assert process.wait(PATIENCE_S) != 0
        done = umount(served)
    assert done.returncode == 0, done.stderr
    assert "removed the mount of a process that had ended" in done.stderr
    assert not is_mounted(served.path)
    assert os.listdir(served.path) == []


@pytest.mark.semantics("H3")
@pytest.mark.parametrize("kind", ["silent", "refusing"])
def test_work_goes_on_soon_after_a_long_outage(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str, swift: Connection, kind: str
) -> None:
    """The outage is longer than the longest pause between attempts; calls of before and new ones
    do their work, without a remount, and none waits for more than that pause.
    """
    served = behind(ttl=1, timeout=LONG_TIMEOUT_S)
    top = served.path / filled
    assert (top / "d/file").read_bytes() == b"content"
    proxy.fail(do.silence if kind == "silent" else do.status(503), times=None)
    with ThreadPoolExecutor(3) as pool:
        reading = pool.submit((top / "d/large").read_bytes)
        writing = pool.submit((top / "d/new").write_bytes, b"written")
        listing = pool.submit(os.listdir, f"{top}-unknown")
        wait_until(lambda: proxy.struck >= 3, "all wait for the server")
        if kind == "refusing":
            # Of attempts with pauses that double up to their longest.
            wait_until(lambda: pauses(served)[-1:] >= [LONGEST_WAIT_S / 2], "long pauses")
        proxy.heal()
        back_s = time.monotonic()
        assert {"cached", "file", "large", "other"} <= set(os.listdir(top / "d"))
        assert (top / "d/cached").read_bytes() == b"content"
        (top / "d/later").write_bytes(b"later")
        assert reading.result() == pattern(SIZE)
        assert writing.result() == len(b"written")
        assert listing.result() == ["file"]
        worked_s = time.monotonic() - back_s
    assert max([0.0, *pauses(served)]) <= LONGEST_WAIT_S
    # The longest pause, and a busy machine's share.
    assert worked_s < LONGEST_WAIT_S + SLACK_S
    assert stored(swift, filled, "d/new") == b"written"
    assert stored(swift, filled, "d/later") == b"later"


@pytest.mark.semantics("T3")
def test_an_identity_service_that_forgot_a_request_is_asked_again(
    cloud: Cloud, bucket: str, served: MakeMount, swift: Connection
) -> None:
    with FaultProxy(cloud.auth_url) as keystone:
        keystone.fail(do.silence, "POST")
        environ = {**cloud.environ, "OS_AUTH_URL": keystone.through(cloud.auth_url)}
        one = served(mount_command("", {"timeout": LONG_TIMEOUT_S}), environ)
        assert keystone.struck == 1
        (one.path / bucket / "file").write_bytes(b"content")
        one.stop()
    assert stored(swift, bucket, "file") == b"content"


@pytest.mark.semantics("T4")
@pytest.mark.parametrize("kind", ["file", "command"])
def test_a_mount_goes_on_with_the_token_that_its_owner_renews(
    cloud: Cloud,
    proxy: FaultProxy,
    bucket: str,
    served: MakeMount,
    swift: Connection,
    tmp_path: Path,
    kind: str,
) -> None:
    old, new, path = cloud.token().id, cloud.token().id, tmp_path / "token"
    path.write_text(f"{old}\n")
    words = {"token_file": path} if kind == "file" else {"token_command": f"cat {path}"}
    options = {"storage_url": proxy.through(cloud.storage_url), **words}
    one = served(mount_command("", options))
    (one.path / bucket / "first").write_bytes(b"content")
    path.write_text(f"{new}\n")
    proxy.forget_requests()
    proxy.fail(do.status(401), "PUT")
    (one.path / bucket / "second").write_bytes(b"content")
    assert stored(swift, bucket, "second") == b"content"
    tokens = [each.headers["x-auth-token"] for each in proxy.requests() if each.method == "PUT"]
    assert tokens == [old, new]
    words_of_status = (sys.executable, "-m", "allasfs", "status", str(one.path))
    told = succeed(*words_of_status, env=clean_environ(one.folder))
    assert (str(path) if kind == "file" else "the token command") in told
    assert old not in told + one.log()
    assert new not in told + one.log()


def pauses(served: Served) -> list[float]:
    """Return the pauses between attempts that the log tells of."""
    return [float(text) for text in re.findall(r"again in ([\d.]+) s", served.log())]


@pytest.mark.semantics("H1")
def test_status_and_df_answer_while_every_connection_waits(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str
) -> None:
    served = behind(ttl=3600, timeout=LONG_TIMEOUT_S, connections=2)
    top = served.path / filled
    names = sorted(os.listdir(top / "d"))
    succeed("df", served.path)
    proxy.fail(do.silence, times=None)
    (served.folder / "new").write_bytes(b"x")
    # Programs of their own: a file that is open in this one would be flushed by each child.
    with ThreadPoolExecutor(8) as pool:
        readers = [pool.submit(succeed, "cksum", top / "d" / each) for each in ("large", "file")]
        writers = [
            pool.submit(succeed, "cp", served.folder / "new", top / f"d/new-{n}") for n in range(6)
        ]
        wait_until(lambda: proxy.struck >= 2, "both connections wait")
        assert set(names) <= set(os.listdir(top / "d"))
        assert (top / "d/file").stat().st_size == 7
        succeed("df", served.path)
        succeed("ls", served.path)
        words = (sys.executable, "-m", "allasfs", "status", str(served.path))
        environ = clean_environ(served.folder)
        wait_until(lambda: "dirty files: 6" in succeed(*words, env=environ), "all are written")
        assert not any(future.done() for future in readers + writers)
        proxy.heal()
        sizes = [int(future.result().split()[1]) for future in readers]
        assert sizes == [SIZE, len(b"content")]
        assert [future.result() for future in writers] == [""] * 6
