"""The server falls silent in the middle of something: each call ends, and the mount lives on."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import pytest
from swiftclient.client import Connection

from allasfs.store.swift import COPIED_BYTES_PER_S
from tests.faults import actions as do
from tests.faults.proxy import Action, Exchange, FaultProxy
from tests.mount.support import (
    MIB,
    PATIENCE_S,
    Served,
    clean_environ,
    is_mounted,
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


@pytest.mark.semantics("C0", "R9")
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


def test_a_mount_whose_server_is_silent_can_be_unmounted(
    behind: Callable[..., Served], proxy: FaultProxy, filled: str
) -> None:
    served = behind(timeout=TIMEOUT_S)
    path = served.path / filled / "d/large"
    assert path.stat().st_size == SIZE
    proxy.fail(do.silence, times=None)
    assert run("cat", path).returncode != 0
    words = (sys.executable, "-m", "allasfs", "umount", served.path)
    done = run(*words, env=clean_environ(served.folder))
    assert done.returncode == 0, done.stderr
    assert not is_mounted(served.path)
