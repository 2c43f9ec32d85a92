"""What programs get while the store is down: an error in time, never a short file and success.

The store is killed (connections break, new ones are refused) or paused (silence); the mount is the
same before, during and after it.
"""

from __future__ import annotations

import errno
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import (
    MIB,
    PATIENCE_S,
    Served,
    connect,
    listed,
    pattern,
    refused,
    run,
    stored,
    succeed,
    wait_until,
)

# The mount's: short, so that tests need not wait long.
TIMEOUT_S = 2.0
# Of a program, which may do several operations; a busy machine has its share.
DEADLINE_S = 3 * TIMEOUT_S
# More than a mount with the least memory holds and has in flight, so that the rest is not here.
SIZE = 48 * MIB
LEAST_MEMORY = "16M"
DOWN = (errno.EIO, errno.ETIMEDOUT)

each_outage = pytest.mark.parametrize("kind", ["killed", "paused"])


@contextmanager
def outage(cloud: Cloud, kind: str) -> Iterator[None]:
    """Let the store be down."""
    begin, end = {
        "killed": (cloud.kill_swift, cloud.start_swift),
        "paused": (cloud.pause_swift, cloud.resume_swift),
    }[kind]
    begin()
    try:
        yield
    finally:
        end()


@contextmanager
def in_time() -> Iterator[None]:
    """What is done here ends within the deadline."""
    begin_s = time.monotonic()
    yield
    assert time.monotonic() - begin_s < DEADLINE_S


@pytest.fixture(scope="module")
def large(cloud: Cloud) -> str:
    """A bucket with an object ``file`` of SIZE bytes."""
    client = connect(cloud)
    client.put_container("large")
    client.put_object("large", "file", pattern(SIZE))
    client.close()
    return "large"


@pytest.fixture
def frail(mount: MakeMount, tmp_path: Path) -> Served:
    """A mount with little patience, and a spool to look into."""
    served = mount(ttl=3600, timeout=TIMEOUT_S, memory=LEAST_MEMORY, spool_dir=tmp_path / "spool")
    served.allow("")  # an outage is worth a warning
    return served


def is_whole(path: Path) -> bool:
    """Whether a copy, or the file itself, has all bytes of the large object."""
    return path.read_bytes() == pattern(SIZE)


def assert_usable(served: Served, swift: Connection, bucket: str) -> None:
    """The mount works as if nothing had been."""
    (served.path / bucket / "afterwards").write_bytes(pattern(MIB))
    assert stored(swift, bucket, "afterwards") == pattern(MIB)
    assert (served.path / bucket / "afterwards").read_bytes() == pattern(MIB)
    assert "afterwards" in os.listdir(served.path / bucket)


# -- reading --------------------------------------------------------------------------------------


@contextmanager
def started(*command: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program whose output is taken from it piece by piece."""
    with subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def taken(process: subprocess.Popen[bytes], size: int = -1) -> bytes:
    """Return the next bytes that a program wrote, without a size all of them."""
    assert process.stdout is not None
    data: bytes = process.stdout.read(size)
    return data


COPIERS: dict[str, Callable[[Path], tuple[str | Path, ...]]] = {
    "cp": lambda path: ("cp", path, "/dev/stdout"),
    "dd": lambda path: ("dd", f"if={path}", "bs=1M"),
}


@each_outage
@pytest.mark.parametrize("copier", COPIERS)
def test_a_program_that_reads_fails_and_reads_the_file_later(
    cloud: Cloud, frail: Served, large: str, tmp_path: Path, kind: str, copier: str
) -> None:
    path = frail.path / large / "file"
    with started(*COPIERS[copier](path)) as process:
        first = taken(process, MIB)
        with outage(cloud, kind), in_time():
            rest = taken(process)
            assert process.wait(DEADLINE_S) != 0
    assert pattern(SIZE).startswith(first + rest)
    assert len(first + rest) < SIZE
    succeed("cp", path, tmp_path / "copy")
    assert is_whole(tmp_path / "copy")


def read_on(file: BinaryIO) -> tuple[bytes, int]:
    """Read to the end; return what came, and the number of the error that came instead of it."""
    data = b""
    try:
        while piece := file.read(MIB):
            data += piece
    except OSError as exc:
        return data, exc.errno or -1
    return data, 0


@each_outage
def test_an_open_file_is_read_on_when_the_store_is_back(
    cloud: Cloud, frail: Served, large: str, kind: str
) -> None:
    with (frail.path / large / "file").open("rb", buffering=0) as file:
        first = file.read(MIB)
        with outage(cloud, kind), in_time():
            some, error = read_on(file)
        assert error in DOWN
        assert len(first + some) < SIZE
        rest, error = read_on(file)
        begin_s = time.monotonic()
        # A server that was stopped has what piled up to do first.
        while error in DOWN and time.monotonic() - begin_s < PATIENCE_S:
            more, error = read_on(file)
            rest += more
    assert error == 0
    assert first + some + rest == pattern(SIZE)


def test_a_read_outlives_an_outage_that_is_shorter_than_the_deadline(
    cloud: Cloud, mount: MakeMount, large: str
) -> None:
    served = mount(timeout=PATIENCE_S, memory=LEAST_MEMORY)
    with started("cat", served.path / large / "file") as process:
        first = taken(process, MIB)
        cloud.kill_swift()
        cloud.start_swift()
        assert first + taken(process) == pattern(SIZE)
        assert process.wait(PATIENCE_S) == 0


# -- names ----------------------------------------------------------------------------------------


@each_outage
def test_what_is_known_is_still_answered(
    cloud: Cloud, frail: Served, bucket: str, kind: str
) -> None:
    (frail.path / bucket / "file").write_text("content")
    before = succeed("ls", "-l", frail.path / bucket)
    with outage(cloud, kind), in_time():
        assert succeed("ls", "-l", frail.path / bucket) == before
        assert not (frail.path / bucket / "lacking").exists()
    assert (frail.path / bucket / "file").read_text() == "content"


@pytest.mark.semantics("C0", "R9")
@each_outage
def test_every_call_that_needs_the_store_ends_with_an_error(
    cloud: Cloud, frail: Served, bucket: str, swift: Connection, kind: str
) -> None:
    top = frail.path / bucket
    swift.put_container(f"{bucket}-unknown")
    # A directory for each, because the kernel lets only one call at a time change a directory.
    directories = ("a", "b", "c", "d", "e", "f")
    for directory in directories:
        swift.put_object(bucket, f"{directory}/file", b"content")
    assert sorted(os.listdir(top)) == sorted(directories)
    calls: list[Callable[[], object]] = [
        lambda: os.stat(frail.path / f"{bucket}-unknown" / "file"),
        lambda: os.listdir(frail.path / f"{bucket}-unknown"),
        lambda: os.statvfs(frail.path),
        lambda: os.mkdir(frail.path / f"{bucket}-new"),
        lambda: (top / "a" / "file").read_bytes(),
        lambda: (top / "b" / "new").write_text("content"),
        lambda: os.mkdir(top / "c" / "directory"),
        lambda: os.utime(top / "d" / "file"),
        lambda: os.rename(top / "e" / "file", top / "e" / "renamed"),
        lambda: os.unlink(top / "f" / "file"),
    ]

    def failure(call: Callable[[], object]) -> int | None:
        try:
            call()
        except OSError as exc:
            return exc.errno
        return None

    with ThreadPoolExecutor(len(calls)) as pool, outage(cloud, kind), in_time():
        failures = list(pool.map(failure, calls))
    assert [number for number in failures if number not in DOWN] == []
    assert_usable(frail, swift, bucket)
    # A request that a silent store took may be done when it speaks again, so f/file may be gone.
    for directory in directories[:-1]:
        assert stored(swift, bucket, f"{directory}/file") == b"content"


def test_names_are_what_the_store_has_after_changes_that_failed(
    cloud: Cloud, frail: Served, bucket: str, swift: Connection
) -> None:
    top = frail.path / bucket
    swift.put_object(bucket, "removed/file", b"content")
    swift.put_object(bucket, "renamed/file", b"content")
    assert sorted(os.listdir(top)) == ["removed", "renamed"]
    with outage(cloud, "killed"):
        with refused(*DOWN):
            (top / "removed" / "file").unlink()
        with refused(*DOWN):
            (top / "renamed" / "file").rename(top / "renamed" / "other")
        with refused(*DOWN):
            (top / "directory").mkdir()
        with refused(*DOWN):
            (top / "new").write_text("content")
    assert sorted(os.listdir(top)) == ["removed", "renamed"]
    assert os.listdir(top / "removed") == os.listdir(top / "renamed") == ["file"]
    assert (top / "removed" / "file").read_text() == "content"
    assert (top / "renamed" / "file").read_text() == "content"
    assert list(listed(swift, bucket)) == ["removed/file", "renamed/file"]


# -- writing --------------------------------------------------------------------------------------


@pytest.mark.semantics("R1", "R2")
@each_outage
def test_cp_into_the_mount_fails_and_the_data_are_kept(
    cloud: Cloud, frail: Served, bucket: str, swift: Connection, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "file").write_bytes(pattern(3 * MIB))
    assert os.listdir(frail.path / bucket) == []
    with outage(cloud, kind), in_time():
        done = run("cp", tmp_path / "file", frail.path / bucket / "file")
        assert done.returncode != 0
        assert f"{bucket}/file" in done.stderr
    wait_until(lambda: f"{bucket}/file was not stored" in frail.log(), "the log names the file")
    (note,) = (tmp_path / "spool").glob("*.upload")
    told = json.loads(note.read_text())
    assert (told["state"], told["bucket"], told["key"]) == ("kept", bucket, "file")
    assert note.with_suffix(".data").read_bytes() == pattern(3 * MIB)
    assert str(note.with_suffix(".data")) in frail.log()
    assert_usable(frail, swift, bucket)
    succeed("cp", tmp_path / "file", frail.path / bucket / "file")
    assert stored(swift, bucket, "file") == pattern(3 * MIB)


@pytest.mark.semantics("R1", "R3", "C8")
@each_outage
def test_an_object_stays_as_it_was_when_its_replacement_fails(
    cloud: Cloud, frail: Served, bucket: str, swift: Connection, kind: str
) -> None:
    path = frail.path / bucket / "file"
    path.write_text("before")
    with outage(cloud, kind), in_time(), refused(*DOWN):
        path.write_text("afterwards")
    assert stored(swift, bucket, "file") == b"before"
    wait_until(lambda: "was not stored" in frail.log(), "the data are kept")
    assert path.read_text() == "before"
    path.write_text("later")
    assert stored(swift, bucket, "file") == b"later"


@contextmanager
def uploading(cloud: Cloud, served: Served, bucket: str, spool: Path) -> Iterator[list[int]]:
    """Let ``cp`` wait for the answer of its upload while the store is silent."""
    source = spool.parent / "source"
    source.write_bytes(pattern(8 * MIB))
    assert os.listdir(served.path / bucket) == []
    statuses: list[int] = []
    cloud.pause_swift()
    with subprocess.Popen(["cp", str(source), str(served.path / bucket / "file")]) as process:
        try:
            wait_until(
                lambda: any(path.stat().st_size == 8 * MIB for path in spool.glob("*.data")),
                "all is written, and only the upload is left",
            )
            yield statuses
            statuses.append(process.wait(PATIENCE_S))
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def test_a_store_that_dies_during_the_upload_fails_the_close(
    cloud: Cloud, frail: Served, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    with uploading(cloud, frail, bucket, tmp_path / "spool") as statuses, in_time():
        cloud.kill_swift()
    try:
        assert statuses != [0]
    finally:
        cloud.start_swift()
    assert listed(swift, bucket) == {}
    assert_usable(frail, swift, bucket)


def test_an_upload_outlives_an_outage_that_is_shorter_than_the_deadline(
    cloud: Cloud, mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    served = mount(timeout=PATIENCE_S, spool_dir=tmp_path / "spool")
    with uploading(cloud, served, bucket, tmp_path / "spool") as statuses:
        cloud.kill_swift()
        cloud.start_swift()
    assert statuses == [0]
    assert stored(swift, bucket, "file") == pattern(8 * MIB)
