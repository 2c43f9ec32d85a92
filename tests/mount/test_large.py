"""Large files on a mount of a real Swift: through a small spool, changed in part, and killed.

``make test-large`` runs the same with the sizes of real life (ALLASFS_LARGE=1).
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from swiftclient.client import ClientException, Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount, missing

from .support import Served, clean_environ, run, wait_until

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
PIECE = MIB
IS_REAL = bool(os.environ.get("ALLASFS_LARGE"))
TRIALS = int(os.environ.get("ALLASFS_KILL_TRIALS", "20"))

# (file, spool): in real life 2 GiB through 256 MiB.
SIZE, ROOM = (2 * GIB, 256 * MIB) if IS_REAL else (96 * MIB, 12 * MIB)
slow = pytest.mark.timeout(3000 if IS_REAL else 140)
pytestmark = [pytest.mark.mount, pytest.mark.swift]


@pytest.fixture
def watchdog() -> None:
    """Only pytest limits these tests: real sizes take longer than others may."""


def pieces(size: int, seed: int = 1) -> Iterator[bytes]:
    """Yield content that is the same for the same seed, and different everywhere."""
    numbers = random.Random(seed)
    base = numbers.randbytes(PIECE)
    for start in range(0, size, PIECE):
        piece = start.to_bytes(8, "big") + base[8:]
        yield piece[: min(PIECE, size - start)]


def md5_of(parts: Iterator[bytes]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def content(size: int, seed: int = 1) -> bytes:
    return b"".join(pieces(size, seed))


def write(path: Path, size: int, seed: int = 1) -> None:
    with path.open("wb", buffering=0) as file:
        for piece in pieces(size, seed):
            file.write(piece)


def read_md5(path: Path) -> str:
    with path.open("rb", buffering=0) as file:
        return md5_of(iter(lambda: file.read(4 * MIB), b""))


def stored_md5(swift: Connection, bucket: str, key: str) -> str:
    _, body = swift.get_object(bucket, key, resp_chunk_size=4 * MIB)
    return md5_of(iter(body))


def segments(swift: Connection, bucket: str) -> dict[str, int]:
    """Return the segments in the store with their sizes."""
    try:
        _, found = swift.get_container(f"{bucket}_segments", full_listing=True)
    except ClientException as exc:
        if exc.http_status != 404:
            raise
        return {}
    return {entry["name"]: entry["bytes"] for entry in found}


def referenced(swift: Connection, bucket: str) -> set[str]:
    """Return the names of the segments that some object of the bucket uses."""
    used: set[str] = set()
    _, found = swift.get_container(bucket, full_listing=True)
    for entry in found:
        head = swift.head_object(bucket, entry["name"])
        if head.get("x-static-large-object"):
            query = "multipart-manifest=get&format=raw"
            text = swift.get_object(bucket, entry["name"], query_string=query)[1]
            used |= {part["path"].split("/", 2)[2] for part in json.loads(text)}
        elif manifest := head.get("x-object-manifest"):
            prefix = manifest.partition("/")[2]
            used |= {name for name in segments(swift, bucket) if name.startswith(prefix)}
    return used


def put_bytes(cloud: Cloud, swift: Connection, bucket: str) -> int:
    """Return how many bytes of segments and objects the store was sent, manifests left out.

    The log of Ceph RGW tells no bytes: there the segments' sizes count.
    """
    puts = [
        each
        for each in cloud.requests()
        if each.method == "PUT" and f"/{bucket}" in each.path and not each.query
    ]
    if told := sum(each.received_bytes for each in puts):
        return told
    sizes = segments(swift, bucket)
    return sum(sizes.get(each.path.partition(f"/{bucket}_segments/")[2], 0) for each in puts)


def on_disk(folder: Path) -> int:
    """Return how many bytes of the disk the files of a folder take."""
    found = 0
    for each in folder.iterdir():
        # A note is replaced from time to time.
        with suppress(FileNotFoundError):
            found += each.stat().st_blocks * 512
    return found


def status(served: Served) -> dict[str, object]:
    words: list[str | Path] = [sys.executable, "-m", "allasfs", "status", "--json", served.path]
    done = run(*words, env=served.environ)
    assert done.returncode == 0, done.stderr
    answer: dict[str, object] = json.loads(done.stdout)
    return answer


@pytest.fixture
def small(mount: MakeMount, tmp_path: Path) -> Served:
    """A mount with a spool that is much smaller than the files."""
    options = {} if IS_REAL else {"segment_size": "1M"}
    return mount(spool_size=f"{ROOM // MIB}M", spool_dir=tmp_path / "spool", **options)


# -- through a small spool ------------------------------------------------------------------------


@slow
@pytest.mark.semantics("C15", "C17")
def test_a_file_of_eight_times_the_spool_goes_through_it(
    small: Served, bucket: str, swift: Connection, cloud: Cloud, tmp_path: Path
) -> None:
    path = small.path / bucket / "file"
    cloud.forget_requests()
    peak = 0
    began_s = time.monotonic()
    with path.open("wb", buffering=0) as file:
        for piece in pieces(SIZE):
            file.write(piece)
            # No program is started meanwhile: its start would close the file, which stores it.
            peak = max(peak, on_disk(tmp_path / "spool"))
    seconds = time.monotonic() - began_s
    expected = md5_of(pieces(SIZE))
    assert stored_md5(swift, bucket, "file") == expected
    assert read_md5(path) == expected
    assert 0 < peak <= ROOM + MIB
    # Each byte once.
    assert put_bytes(cloud, swift, bucket) == SIZE
    assert max(segments(swift, bucket).values()) <= ROOM // 4
    print(f"{SIZE / MIB:.0f} MiB in {seconds:.1f} s, {peak / MIB:.0f} MiB on the spool's disk")
    path.unlink()
    assert segments(swift, bucket) == {}


@slow
@pytest.mark.semantics("C16", "C19")
def test_changes_send_only_the_segments_that_they_touch(
    small: Served, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    path = small.path / bucket / "file"
    write(path, SIZE)
    cloud.forget_requests()
    with path.open("ab", buffering=0) as file:
        file.write(b"x" * MIB)
    appended = put_bytes(cloud, swift, bucket)
    cloud.forget_requests()
    with path.open("r+b", buffering=0) as file:
        file.seek(SIZE // 2)
        file.write(b"changed")
    touched = put_bytes(cloud, swift, bucket)
    largest = max(segments(swift, bucket).values())
    print(f"sent for an append of {MIB} bytes: {appended}; for 7 bytes inside: {touched}")
    assert appended == MIB
    assert touched <= largest
    os.truncate(path, SIZE // 2 + 7)

    def expected() -> Iterator[bytes]:
        left = SIZE // 2
        for piece in pieces(SIZE):
            if left <= 0:
                break
            yield piece[:left]
            left -= PIECE
        yield b"changed"

    assert stored_md5(swift, bucket, "file") == md5_of(expected())
    assert set(segments(swift, bucket)) == referenced(swift, bucket)
    path.unlink()
    assert segments(swift, bucket) == {}


@slow
@pytest.mark.semantics("C12")
def test_a_file_is_read_back_and_written_over_while_it_is_written(
    small: Served, bucket: str, swift: Connection
) -> None:
    path = small.path / bucket / "file"
    size = SIZE // 2
    with path.open("w+b", buffering=0) as file:
        for piece in pieces(size):
            file.write(piece)
        file.seek(0)
        assert md5_of(iter(lambda: file.read(PIECE), b"")) == md5_of(pieces(size))
        file.seek(3)
        file.write(b"header")
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 9, 0) == b"\0\0\0header"
        file.seek(0, os.SEEK_END)
        file.write(b"end")
    _, body = swift.get_object(bucket, "file", resp_chunk_size=MIB)
    found = b"".join(body) if not IS_REAL else b""
    if not IS_REAL:
        data = content(size)
        assert found == b"\0\0\0header" + data[9:] + b"end"
    assert set(segments(swift, bucket)) == referenced(swift, bucket)


@slow
@pytest.mark.semantics("C19", "C22")
def test_the_tools_of_others_read_and_remove_what_the_mount_made(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud, tmp_path: Path
) -> None:
    options = {} if IS_REAL else {"segment_threshold": "4M", "segment_size": "1M"}
    served = mount(spool_dir=tmp_path / "spool", **options)
    size = 6 * GIB if IS_REAL else 6 * MIB + 123
    expected = md5_of(pieces(size))
    for name, program in (("swift", swift_program), ("rclone", rclone_program)):
        path = served.path / bucket / name
        began_s = time.monotonic()
        write(path, size)
        print(f"{size / GIB:.2f} GiB in {time.monotonic() - began_s:.1f} s")
        assert len(segments(swift, bucket)) > 1
        assert read_md5(path) == expected
        copy = tmp_path / "copy"
        program(cloud, tmp_path, "download", f"{bucket}/{name}", copy)
        assert read_md5(copy) == expected
        copy.unlink()
        program(cloud, tmp_path, "delete", f"{bucket}/{name}", copy)
        assert segments(swift, bucket) == {}
    path = served.path / bucket / "own"
    write(path, size)
    path.unlink()
    assert segments(swift, bucket) == {}


def swift_program(cloud: Cloud, folder: Path, verb: str, name: str, copy: Path) -> None:
    """Download or delete an object with the swift command."""
    words: list[str | Path] = ["-o", copy] if verb == "download" else []
    bucket, _, key = name.partition("/")
    real_run(cloud, folder, "swift", verb, bucket, key, *words)


def rclone_program(cloud: Cloud, folder: Path, verb: str, name: str, copy: Path) -> None:
    """Download or delete an object with rclone."""
    remote = f":swift,env_auth=true:{name}"
    verbs = {"download": ["copyto", remote, str(copy)], "delete": ["deletefile", remote]}
    real_run(cloud, folder, "rclone", *verbs[verb])


def real_run(cloud: Cloud, folder: Path, name: str, *words: str | Path) -> None:
    """Run a program that was installed with the tests."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        missing(f"needs {name}, of allasfs[test]")
    environ = clean_environ(folder, cloud.environ)
    done = run(program, *words, env=environ, seconds=1000)
    assert done.returncode == 0, done.stderr


# -- killed ---------------------------------------------------------------------------------------


class Moment:
    """When to kill: after so many segments, counted from the first or from close() on."""

    def __init__(self, cloud: Cloud, bucket: str, count: int, *, in_close: bool) -> None:
        self._cloud, self._bucket, self._count = cloud, bucket, count
        self._in_close = in_close
        self._before: int | None = None if in_close else 0
        self.is_closing = threading.Event()
        self.is_over = threading.Event()

    def has_come(self) -> bool:
        """Whether it is here, or the work is done."""
        puts = sum(
            each.method == "PUT" and f"/{self._bucket}" in each.path
            for each in self._cloud.requests()
        )
        if self._before is None and self.is_closing.is_set():
            self._before = puts
        is_reached = self._before is not None and puts >= self._before + self._count
        return is_reached or self.is_over.is_set()


class Trial:
    """One file, changed in some way by one program while others and a kill come between."""

    def __init__(self, served: Served, bucket: str, number: int) -> None:
        self.numbers = random.Random(number)
        self.path = served.path / bucket / f"t{number}"
        self.other = served.path / bucket / f"u{number}"
        # What may be under each name: None stands for no file.
        self.allowed: dict[Path, set[bytes | None]] = {self.path: {None}, self.other: {None}}

    def prepare(self) -> None:
        """Store an old version that the store has acknowledged, or none."""
        if self.numbers.random() < 0.6:
            old = content(self.numbers.choice([3, 6]) * MIB + 11, seed=self.numbers.randrange(99))
            self.path.write_bytes(old)
            self.allowed[self.path] = {old}

    def change(self, closing: threading.Event) -> None:
        """Write a new version, all or a part of it; note what is there if that succeeds."""
        (old,) = self.allowed[self.path]
        data = content(self.numbers.randrange(4, 17) * MIB + 5, seed=self.numbers.randrange(99))
        how = self.numbers.choice(["new", "append", "inside"]) if old is not None else "new"
        new = data
        if old is not None and how == "append":
            new = old + data
        elif old is not None and how == "inside":
            new = old[:MIB] + data[: 2 * MIB] + old[3 * MIB :]
        self.allowed[self.path] = {old, new}
        flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if how == "new" else 0)
        fd = os.open(self.path, flags)
        try:
            offset = {"new": 0, "append": len(old or b""), "inside": MIB}[how]
            changed = data[: 2 * MIB] if how == "inside" else data
            for start in range(0, len(changed), 256 * KIB):
                os.pwrite(fd, changed[start : start + 256 * KIB], offset + start)
        finally:
            closing.set()
            os.close(fd)
        self.allowed[self.path] = {new}

    def disturb(self) -> None:
        """Rename, remove or replace the file while it goes up."""
        what = self.numbers.choice(["rename", "remove", "replace"])
        if what == "rename":
            os.rename(self.path, self.other)
        elif what == "remove":
            os.unlink(self.path)
        else:
            self.path.write_bytes(b"short")


def is_gone(exc: OSError) -> bool:
    """Whether a call failed because the mount was killed, or the name was taken away."""
    return exc.errno in (
        errno.ENOTCONN,
        errno.ECONNABORTED,
        errno.EIO,
        errno.ENOENT,
        errno.ESTALE,
        errno.ENOTDIR,
        errno.EBADF,
    )


@pytest.mark.slow
@pytest.mark.timeout(max(300, 15 * TRIALS))
@pytest.mark.semantics("R1", "R10")
def test_a_mount_killed_during_uploads_loses_and_leaves_nothing(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud, tmp_path: Path
) -> None:
    options = {
        "spool_dir": tmp_path / "spool",
        "spool_size": "8M",
        "segment_size": "1M",
        "segment_threshold": "2M",
    }
    finished = 0
    served = mount(**options)
    for number in range(TRIALS):
        trial = Trial(served, bucket, number)
        numbers = trial.numbers
        trial.prepare()
        cloud.forget_requests()
        in_close = numbers.random() < 0.5
        count = numbers.randrange(4) if in_close else numbers.randrange(1, 9)
        moment = Moment(cloud, bucket, count, in_close=in_close)
        disturbs = numbers.random() < 0.4
        killer = threading.Thread(target=kill, args=(served, trial, moment, disturbs))
        killer.start()
        try:
            trial.change(moment.is_closing)
        except OSError as exc:
            if not is_gone(exc):
                raise
        moment.is_over.set()
        killer.join()
        served.kill()
        served = mount(**options)
        served.allow("is not finished .*another client", "a rename ended halfway")
        wait_until(partial(has_resumed, served), "the uploads of the mount before have ended")
        finished += "that was interrupted is finished" in served.log()
        for path, allowed in trial.allowed.items():
            found = path_content(served.path / bucket / path.name)
            # A file that two programs changed at a time is whole, whatever it has.
            assert disturbs or found in allowed, f"trial {number}: {describe(found)}"
            assert stored(swift, bucket, path.name) == found
        if kept := status(served)["kept"]:
            # What somebody else replaced meanwhile stays until a person discards it.
            assert disturbs, kept
            words = ("discard", "--all", "--yes", "--spool", tmp_path / "spool")
            done = run(sys.executable, "-m", "allasfs", "recover", *words, env=served.environ)
            assert done.returncode == 0, done.stderr
        assert set(segments(swift, bucket)) == referenced(swift, bucket), f"trial {number}"
        for name in list(referenced(swift, bucket)):
            swift.delete_object(f"{bucket}_segments", name)
        for entry in swift.get_container(bucket)[1]:
            swift.delete_object(bucket, entry["name"])
    print(f"{finished} of {TRIALS} uploads were finished by the next mount")


def kill(served: Served, trial: Trial, moment: Moment, disturbs: bool) -> None:
    wait_until(moment.has_come, "the moment of the kill")
    if disturbs:
        # It may wait for the upload, and then finds nothing, or the mount gone.
        with suppress(OSError):
            trial.disturb()
    served.process.kill()


def has_resumed(served: Served) -> bool:
    return status(served)["uploads_to_finish"] == 0


def stored(swift: Connection, bucket: str, key: str) -> bytes | None:
    try:
        data: bytes = swift.get_object(bucket, key)[1]
    except ClientException as exc:
        if exc.http_status != 404:
            raise
        return None
    return data


def path_content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def describe(data: bytes | None) -> str:
    return "nothing" if data is None else f"{len(data)} bytes: {data[:12]!r}..."
