"""The MD5 of a file that is made beside its writes."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

import pytest

from allasfs.config import KIB, MIB
from allasfs.errors import BadHandle
from allasfs.transfer.checksum import CHUNK_BYTES, STEP_BYTES, Checksum

BLOCK = 128 * KIB
PATIENCE_S = 30.0


def md5_of(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Later(Executor):
    """Runs nothing until it is told to."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], None]] = []

    def submit(self, job: Callable[..., Any], *args: Any, **named: Any) -> Future[Any]:  # type: ignore[override]
        """Keep a job."""
        self.jobs.append(job)
        return Future()

    def run(self) -> None:
        """Run what waits."""
        jobs, self.jobs = self.jobs, []
        for job in jobs:
            job()


class File:
    """Bytes, and which of them were read."""

    def __init__(self, pool: Executor) -> None:
        self.data = bytearray()
        self.read_spans: list[tuple[int, int]] = []
        # Called with each span that is read, after it was.
        self.meanwhile: Callable[[int, int], None] = lambda start, stop: None
        self.checksum = Checksum(self.read, pool)

    def read(self, start: int, stop: int) -> bytes:
        """Return bytes."""
        found = bytes(self.data[start:stop])
        self.read_spans.append((start, stop))
        self.meanwhile(start, stop)
        return found

    def write(self, offset: int, data: bytes) -> None:
        """Write, as a spool file does."""
        self.data[offset : offset + len(data)] = data
        self.checksum.wrote(offset, data)

    def write_all(self, count: int) -> None:
        """Write so many bytes in order, in blocks as the kernel's."""
        for start in range(0, count, BLOCK):
            self.write(start, random.Random(start).randbytes(BLOCK))

    def md5(self) -> str:
        """Return the checksum of the whole."""
        return self.checksum.hexdigest(len(self.data))


@pytest.fixture
def later() -> Later:
    return Later()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as pool:
        yield pool


def test_a_small_file_needs_no_thread_and_is_not_read(later: Later) -> None:
    file = File(later)
    file.write_all(STEP_BYTES)
    assert file.md5() == md5_of(file.data)
    assert (later.jobs, file.read_spans) == ([], [])


def test_no_write_of_a_large_file_hashes(later: Later, monkeypatch: pytest.MonkeyPatch) -> None:
    file = File(later)
    file.write_all(STEP_BYTES)

    class Forbidden:
        def update(self, data: bytes) -> None:
            raise AssertionError("hashed by a write")

    digest = file.checksum._md5
    monkeypatch.setattr(file.checksum, "_md5", Forbidden())
    for start in range(STEP_BYTES, 8 * MIB, BLOCK):
        file.write(start, bytes(BLOCK))
    monkeypatch.setattr(file.checksum, "_md5", digest)
    assert len(later.jobs) == 1
    later.run()
    assert file.md5() == md5_of(file.data)


def test_what_the_thread_has_hashed_is_not_read_again(later: Later) -> None:
    file = File(later)
    file.write_all(5 * MIB)
    later.run()
    file.write(5 * MIB, b"the end")
    file.read_spans.clear()
    assert file.md5() == md5_of(file.data)
    assert file.read_spans == [(5 * MIB, 5 * MIB + 7)]
    file.read_spans.clear()
    assert file.md5() == md5_of(file.data)
    assert file.read_spans == []


def test_the_thread_comes_again_for_what_is_written_later(later: Later) -> None:
    file = File(later)
    for start in range(0, 16 * MIB, BLOCK):
        file.write(start, bytes(BLOCK))
        later.run()
    file.read_spans.clear()
    assert file.md5() == md5_of(file.data)
    assert sum(stop - start for start, stop in file.read_spans) < STEP_BYTES


@pytest.mark.parametrize("where", [0, CHUNK_BYTES, 3 * MIB], ids=["hashed", "in-hand", "ahead"])
def test_bytes_that_change_while_the_thread_reads_them_are_hashed_as_they_are_now(
    later: Later, where: int
) -> None:
    file = File(later)
    file.write_all(4 * MIB)

    def change(start: int, stop: int) -> None:
        if start == CHUNK_BYTES + STEP_BYTES:
            file.meanwhile = lambda start, stop: None
            file.write(where + STEP_BYTES // 2, b"changed")

    file.meanwhile = change
    later.run()
    assert file.md5() == md5_of(file.data)
    assert b"changed" in file.data


def test_a_file_that_is_cut_while_the_thread_reads_it(later: Later) -> None:
    file = File(later)
    file.write_all(4 * MIB)

    def cut(start: int, stop: int) -> None:
        file.meanwhile = lambda start, stop: None
        del file.data[2 * MIB :]
        file.checksum.cut(2 * MIB)

    file.meanwhile = cut
    later.run()
    assert file.md5() == md5_of(file.data)


def test_a_file_that_ends_while_the_thread_reads_it(later: Later) -> None:
    file = File(later)
    file.write_all(4 * MIB)

    def end(start: int, stop: int) -> None:
        raise BadHandle("", "nobody wants this file any more")

    file.meanwhile = end
    later.run()
    with pytest.raises(BadHandle):
        file.md5()
    file.meanwhile = lambda start, stop: None
    assert file.md5() == md5_of(file.data)


def test_what_goes_up_in_segments_is_hashed_no_more(later: Later) -> None:
    file = File(later)
    file.write_all(2 * MIB)
    file.checksum.want(False)
    later.run()
    assert file.read_spans == []
    file.write(2 * MIB, bytes(8 * MIB))
    assert later.jobs == []
    # It became small again.
    del file.data[MIB:]
    file.checksum.cut(MIB)
    assert file.md5() == md5_of(file.data)


def test_the_checksum_waits_for_the_thread(threads: ThreadPoolExecutor) -> None:
    file = File(threads)
    reads, go_on = threading.Event(), threading.Event()

    def hold(start: int, stop: int) -> None:
        reads.set()
        assert go_on.wait(PATIENCE_S)

    file.meanwhile = hold
    file.write_all(4 * MIB)
    assert reads.wait(PATIENCE_S)
    asked = threads.submit(file.md5)
    assert not asked.done()
    go_on.set()
    assert asked.result(PATIENCE_S) == md5_of(file.data)
    spans = sorted(file.read_spans)
    assert len(set(spans)) == len(spans)


def test_the_checksum_waits_for_no_thread_that_is_busy_with_other_files(later: Later) -> None:
    file = File(later)
    file.write_all(4 * MIB)
    (job,) = later.jobs
    assert file.md5() == md5_of(file.data)
    file.read_spans.clear()
    # It comes too late, and again for what was written meanwhile.
    job()
    assert file.read_spans == []
    for start in range(4 * MIB, 8 * MIB, BLOCK):
        file.write(start, bytes(BLOCK))
    later.run()
    assert file.md5() == md5_of(file.data)
    assert len(set(file.read_spans)) == len(file.read_spans)


def test_many_writers_and_their_threads(threads: ThreadPoolExecutor) -> None:
    draw = random.Random(7)
    for _ in range(20):
        file = File(threads)
        position = 0
        for _ in range(60):
            data = draw.randbytes(draw.randint(1, 2 * BLOCK))
            if draw.random() < 0.02:
                position = draw.randint(0, len(file.data))
            file.write(position, data)
            position += len(data)
        assert file.md5() == md5_of(file.data)
