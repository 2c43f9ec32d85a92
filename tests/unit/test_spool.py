"""The spool: exact limit, nothing half-written, private, owned by one mount, true checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from allasfs.errors import NoSpace, SpoolUnusable, Unavailable
from allasfs.transfer.spans import Spans
from allasfs.transfer.spool import Spool


def md5(data: bytes | bytearray) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", 1000)
    spool.open()
    yield spool
    spool.close()


# -- a file ---------------------------------------------------------------------------------------


class SpoolFileMachine(RuleBasedStateMachine):
    """A spool file against a bytearray; what is not present stands for bytes in the store."""

    LIMIT = 200

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="spool-")
        self.spool = Spool(Path(self._folder.name) / "spool", self.LIMIT)
        self.spool.open()
        self.file = self.spool.create()
        self.model = bytearray()
        self.stored = bytearray()

    def teardown(self) -> None:
        self.file.discard()
        assert self.spool.used == 0
        self.spool.close()
        self._folder.cleanup()

    @rule(size=st.integers(0, 60))
    def adopt(self, size: int) -> None:
        if self.file.size == 0 and not self.model and not list(self.file.present):
            self.stored = bytearray(range(100, 100 + size))
            self.model = bytearray(self.stored)
            self.file.adopt(size)

    @rule(offset=st.integers(0, 250), data=st.binary(min_size=1, max_size=60))
    def write(self, offset: int, data: bytes) -> None:
        try:
            self.file.write(offset, data)
        except NoSpace:
            return
        self.model.extend(bytes(max(0, offset - len(self.model))))
        self.model[offset : offset + len(data)] = data

    @rule(data=st.binary(min_size=1, max_size=60))
    def append(self, data: bytes) -> None:
        self.write(len(self.model), data)

    @rule(size=st.integers(0, 300))
    def truncate(self, size: int) -> None:
        self.file.truncate(size)
        del self.model[size:]
        self.model.extend(bytes(size - len(self.model)))

    @rule()
    def fill(self) -> None:
        with suppress(NoSpace):
            for start, stop in self.file.present.missing(0, self.file.size):
                self.file.fill(start, bytes(self.stored[start:stop]))

    @rule()
    def checksum(self) -> None:
        if not self.file.present.missing(0, self.file.size):
            assert self.file.md5() == md5(self.model)

    @rule(start=st.integers(0, 300), length=st.integers(0, 100))
    def part(self, start: int, length: int) -> None:
        start = min(start, self.file.size)
        stop = min(start + length, self.file.size)
        if not self.file.present.missing(start, stop):
            part = self.file.part(start, stop)
            assert b"".join(part.chunks()) == self.model[start:stop]
            assert part.md5() == md5(self.model[start:stop])
            assert part.size == stop - start

    @invariant()
    def same(self) -> None:
        assert self.file.size == len(self.model)
        for start, stop in self.file.present:
            assert self.file.read(start, stop) == self.model[start:stop]
        # What is not here is still as it is in the store.
        for start, stop in self.file.present.missing(0, self.file.size):
            assert self.model[start:stop] == self.stored[start:stop]
        assert 0 <= self.spool.used <= self.LIMIT


TestSpoolFile = SpoolFileMachine.TestCase


def test_a_file_written_in_order_is_hashed_without_reading_it_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.create()
    for start in range(0, 500, 50):
        file.write(start, bytes([start % 256]) * 50)
    expected = md5(file.read(0, 500))

    def read(*args: object) -> bytes:
        raise AssertionError("read again")

    monkeypatch.setattr(file, "read", read)
    assert file.md5() == expected
    file.discard()


def test_a_write_of_nothing_behind_the_end_changes_nothing(spool: Spool) -> None:
    file = spool.create()
    file.write(0, b"abc")
    file.write(100, b"")
    assert file.size == 3
    file.discard()


def test_a_hole_takes_no_room(spool: Spool) -> None:
    file = spool.create()
    file.write(10**12, b"end")
    assert (file.size, spool.used) == (10**12 + 3, 3)
    assert file.read(10**12 - 2, 10**12 + 1) == b"\0\0e"
    assert file.path.stat().st_blocks * 512 < 100_000
    file.discard()


def test_the_same_bytes_written_twice_take_room_once(spool: Spool) -> None:
    file = spool.create()
    for _ in range(5):
        file.write(0, bytes(600))
    assert spool.used == 600
    file.discard()


# -- the limit ------------------------------------------------------------------------------------


def test_the_limit_is_exact(spool: Spool) -> None:
    first, second = spool.create(), spool.create()
    first.write(0, bytes(600))
    second.write(0, bytes(400))
    assert spool.used == 1000
    with pytest.raises(NoSpace, match="limit of 1000 bytes"):
        second.write(400, b"x")
    first.discard()
    second.write(400, b"x")
    assert spool.used == 401
    second.discard()


def test_a_write_beyond_the_limit_takes_nothing(spool: Spool) -> None:
    file = spool.create()
    file.write(0, b"a" * 990)
    with pytest.raises(NoSpace):
        file.write(985, b"b" * 16)
    assert (file.size, spool.used) == (990, 990)
    assert file.read(0, 990) == b"a" * 990
    assert file.md5() == md5(b"a" * 990)
    assert file.path.stat().st_size == 990
    file.discard()


def test_truncating_gives_room_back_and_growing_takes_none(spool: Spool) -> None:
    file = spool.create()
    file.write(0, bytes(1000))
    file.truncate(300)
    assert spool.used == 300
    file.truncate(10**9)
    assert spool.used == 300
    file.write(300, bytes(700))
    assert spool.used == 1000
    file.discard()
    assert spool.used == 0


@pytest.mark.semantics("C17")
def test_a_full_disk_is_no_space_and_gives_the_room_back(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.create()
    file.write(0, b"before")

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(NoSpace, match="disk of the spool is full"):
        file.write(6, b"more")
    monkeypatch.undo()
    assert spool.used == 6
    assert (file.size, file.read(0, 6)) == (6, b"before")
    file.discard()


def test_a_disk_that_fills_up_midway_leaves_the_checksum_true(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.create()
    file.write(0, b"aaaaaa")
    real, calls = os.pwrite, []

    def short(fd: int, data: memoryview, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, data[:2], offset)

    monkeypatch.setattr(os, "pwrite", short)
    with pytest.raises(NoSpace):
        file.write(4, b"bbbb")
    monkeypatch.undo()
    assert file.size == 6
    assert file.md5() == md5(file.read(0, 6))
    # What was taken of the refused write does not show up in a gap that is made later.
    file.write(20, b"end")
    assert file.read(6, 20) == bytes(14)
    assert file.md5() == md5(file.read(0, 23))
    file.discard()


def test_a_broken_disk_is_unavailable(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    file = spool.create()

    def broken(*args: object) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "pwrite", broken)
    with pytest.raises(Unavailable, match="spool's disk failed"):
        file.write(0, b"x")
    monkeypatch.undo()
    file.discard()


# -- the folder -----------------------------------------------------------------------------------


def test_folder_and_files_are_for_the_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "spool"
    umask = os.umask(0)
    try:
        spool = Spool(folder, 1000)
        spool.open()
        file = spool.create()
    finally:
        os.umask(umask)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    file.discard()
    spool.close()


def test_a_folder_that_others_could_enter_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    spool = Spool(folder, 1000)
    spool.open()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    spool.close()


def test_two_mounts_never_share_a_folder(tmp_path: Path, spool: Spool) -> None:
    file = spool.create()
    other = Spool(spool.folder, 1000)
    with pytest.raises(SpoolUnusable, match=r"in use by a mount on .* \(pid \d+\)"):
        other.open()
    other.close()
    # Nor does the attempt take anything from the first.
    assert file.path.exists()
    with pytest.raises(SpoolUnusable):
        Spool(spool.folder, 1000).open()
    file.discard()


def test_another_process_does_not_get_the_folder_either(spool: Spool) -> None:
    program = """
import sys
from pathlib import Path
from allasfs.errors import SpoolUnusable
from allasfs.transfer.spans import Spans
from allasfs.transfer.spool import Spool
try:
    Spool(Path(sys.argv[1]), 1000).open()
except SpoolUnusable as exc:
    print(exc)
"""
    command = [sys.executable, "-c", program, str(spool.folder)]
    found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert f"in use by a mount on {socket.gethostname()} (pid {os.getpid()})" in found.stdout


def test_a_closed_spool_s_folder_may_be_used_again(spool: Spool) -> None:
    spool.close()
    again = Spool(spool.folder, 1000)
    again.open()
    again.close()


@pytest.mark.semantics("S1")
def test_a_folder_that_is_a_link_or_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").touch()
    for name in ("link", "file"):
        with pytest.raises(SpoolUnusable, match=name):
            Spool(tmp_path / name, 1000).open()


def test_a_lock_that_is_a_link_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SpoolUnusable):
        Spool(folder, 1000).open()
    assert not (tmp_path / "elsewhere").exists()


def test_what_nobody_was_promised_is_removed_at_the_next_start(spool: Spool) -> None:
    file = spool.create()
    file.write(0, b"never flushed")
    spool.close()
    again = Spool(spool.folder, 1000)
    again.open()
    assert not file.path.exists()
    assert again.kept() == []
    again.close()


@pytest.mark.semantics("C17")
def test_a_file_of_another_host_that_looks_for_the_owner_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path / "spool", 1000)
    glob = Path.glob

    def looked(folder: Path, pattern: str) -> Iterator[Path]:
        # It is there when the folder is listed, and removed by the other one then.
        if pattern == "*.new":
            yield folder / "other.0123.new"
        yield from glob(folder, pattern)

    monkeypatch.setattr(Path, "glob", looked)
    spool.open()
    spool.close()


def test_what_cannot_be_removed_from_a_spool_is_told_as_a_spool_that_cannot_be_used(
    tmp_path: Path,
) -> None:
    left = tmp_path / "spool" / "a.new"
    left.mkdir(parents=True)
    spool = Spool(tmp_path / "spool", 1000)
    with pytest.raises(SpoolUnusable, match="the spool cannot be used"):
        spool.open()
    left.rmdir()
    # It was given up again.
    other = Spool(tmp_path / "spool", 1000)
    other.open()
    for each in (other, spool):
        each.close()


def test_a_writer_whose_neighbour_was_quicker_to_press_waits_for_what_that_sends(
    spool: Spool,
) -> None:
    """Of two writers without room the first one to ask lets a file send; the other finds that there
    is no more to send, which is not the end.
    """
    threads: list[threading.Thread] = []

    class Pressed:
        def give_back(self) -> None:
            pass

        def press(self) -> bool:
            if not threads:
                # What the neighbour has begun meanwhile, and what comes of it.
                spool.began()
                threads.append(threading.Thread(target=self.send))
                threads[0].start()
            return False

        def send(self) -> None:
            spool.release(spool.limit)
            spool.ended(self)

    spool.reserve(spool.limit)
    spool.join(Pressed())
    spool.reserve(1)
    threads[0].join()
    assert spool.used == 1


def test_bytes_that_go_up_once_more_are_no_progress(spool: Spool) -> None:
    file = spool.create()
    file.write(0, bytes(600))
    part = file.part(0, 600, spool.moved)
    before = spool.moves
    assert b"".join(part.chunks()) == bytes(600)
    first = spool.moves - before
    assert first > 0
    assert b"".join(part.chunks()) == bytes(600)
    assert spool.moves == before + first
    file.discard()


def test_a_write_that_fails_midway_leaves_zeros_in_the_gap_that_it_was_for(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = spool.create()
    file.write(300, b"end")
    pwrite = os.pwrite

    def half(fd: int, data: memoryview, offset: int) -> int:
        if len(data) < 100:
            raise OSError(errno.ENOSPC, "full")
        return pwrite(fd, data[:60], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.raises(NoSpace):
        file.write(100, b"x" * 100)
    monkeypatch.undo()
    assert file.read(0, 303) == bytes(300) + b"end"
    file.discard()


def test_who_asks_what_is_here_never_sees_room_given_back_by_half(spool: Spool) -> None:
    """What is here counted as missing would be fetched, and older bytes be put over it."""
    half, go_on = threading.Event(), threading.Event()

    class Slow(Spans):
        """Lets others look between the two halves of a change."""

        def remove(self, start: int, stop: int) -> None:
            before = self._stops
            super().remove(start, stop)
            after, self._stops = self._stops, before
            half.set()
            assert go_on.wait(30)
            self._stops = after

    file = spool.create()
    file.write(0, bytes(30))
    file.present = Slow.of([(0, 10), (20, 30)])
    with ThreadPoolExecutor(2) as threads:
        giving = threads.submit(file.punch, 0, 10)
        assert half.wait(30)
        looking = threads.submit(file.missing, 20, 30)
        # Nothing is asked of it while the other is at it; without a lock this is time enough.
        wait([looking], 0.2)
        go_on.set()
        assert (giving.result(), looking.result()) == (True, [])
    assert file.missing(0, 30) == [(0, 20)]
    file.discard()
