"""Drafts over a store in memory: what goes up while a file is written, and what of it again."""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from allasfs.config import MIB, Config
from allasfs.deadline import Deadline, current, sharing, within
from allasfs.errors import (
    AccessDenied,
    Corrupt,
    FileTooBig,
    NoSpace,
    QuotaExceeded,
    Stale,
    TimedOut,
    Unavailable,
)
from allasfs.store import large, marks
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer import checksum, spoolfile
from allasfs.transfer import draft as draft_module
from allasfs.transfer.draft import Draft
from allasfs.transfer.spool import Spool
from allasfs.transfer.uploader import Uploader
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes
from tests.mount.support import wait_until

CONFIG = Config(segment_threshold=2 * MIB, segment_size=MIB, memory=16 * MIB)
SEGMENTS = "bucket_segments"
BLOCK = 128 * 1024


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class Bench:
    """A store, a spool and an uploader, and an object that is written through them."""

    def __init__(self, store: MemStore, folder: Path, room: int, config: Config = CONFIG) -> None:
        self.store = store
        self.spool = Spool(folder / "spool", room)
        self.spool.open()
        self.pool = ThreadPoolExecutor(4)
        self.readers = ThreadPoolExecutor(2)
        self.uploader = Uploader(store, self.pool, config, readers=self.readers)
        self.peak = 0
        store.before = self._look

    def _look(self, call: Call) -> None:
        self.peak = max(self.peak, self.spool.used)

    def close(self) -> None:
        self.pool.shutdown()
        self.readers.shutdown()
        self.spool.close()

    def draft(self, base: ObjectInfo | None = None) -> Draft:
        return self.uploader.draft(self.spool.create(), "bucket", "key", base)

    def write(self, draft: Draft, data: bytes, offset: int = 0) -> None:
        for start in range(0, len(data), BLOCK):
            draft.write(offset + start, data[start : start + BLOCK])
            self.peak = max(self.peak, self.spool.used)

    def fetch(self, start: int, stop: int) -> bytes:
        return get_bytes(self.store, "bucket", "key", span=(start, stop))

    def upload(self, draft: Draft) -> ObjectInfo:
        return self.uploader.upload(
            draft, content_type="a/b", metadata={"mtime": "1"}, fetch=self.fetch
        )

    def read(self, draft: Draft, start: int, stop: int) -> bytes:
        return draft.read(start, stop, self.fetch)

    def put(self, data: bytes, replaced: ObjectInfo | None = None) -> ObjectInfo:
        """Store a large object."""
        draft = self.draft(replaced)
        draft.truncate(0)
        self.write(draft, data)
        info = self.upload(draft)
        draft.discard()
        self.store.forget_calls()
        return info

    def sent(self) -> list[tuple[str, int]]:
        """Return the names and sizes of the segments that were PUT."""
        found = self.store._containers.get(SEGMENTS, {})
        names = [call.key for call in self.store.calls() if call.method == "put"]
        return [(name, len(found[name].data)) for name in names if name in found]

    def sizes(self) -> list[int]:
        """Return the sizes of the object's segments."""
        info = self.store.head("bucket", "key").info
        return [part.size for part in large.segments_of(self.store, "bucket", info)]

    def stored(self) -> bytes:
        """Return the object's content; all segments must be its own, and no note be left."""
        info = self.store.head("bucket", "key").info
        used = {part.key for part in large.segments_of(self.store, "bucket", info)}
        found = self.store._containers.get(SEGMENTS, {})
        assert set(found) == used, "segments are left over, or missing"
        assert self.spool.notes() == []
        return get_bytes(self.store, "bucket", "key")


@pytest.fixture(params=["openstack", "rgw"])
def store(request: pytest.FixtureRequest) -> MemStore:
    store = MemStore(capabilities=OPENSTACK if request.param == "openstack" else RGW)
    store.create_container("bucket")
    store.forget_calls()
    return store


MakeBench = Callable[..., Bench]


@pytest.fixture
def make(store: MemStore, tmp_path: Path) -> Iterator[MakeBench]:
    made: list[Bench] = []

    def start(room: int = 100 * MIB, config: Config = CONFIG) -> Bench:
        bench = Bench(store, tmp_path, room, config)
        made.append(bench)
        return bench

    yield start
    for bench in made:
        store.before = lambda call: None
        bench.close()


@pytest.fixture
def bench(make: MakeBench) -> Bench:
    return make()


# -- while it is written --------------------------------------------------------------------------


@pytest.mark.semantics("C15")
def test_a_file_of_many_times_the_spool_goes_through_it(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    data = content(64 * MIB + 12345)
    draft = bench.draft()
    bench.write(draft, data)
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data
    assert bench.peak <= 8 * MIB
    assert bench.spool.used == 0
    # Each byte once.
    assert sum(size for _, size in bench.sent()) == len(data)
    assert max(bench.sizes()) == 2 * MIB


def test_the_disk_has_no_more_than_the_spool_s_limit(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    draft = bench.draft()
    data = content(40 * MIB)
    blocks = 0
    for start in range(0, len(data), BLOCK):
        draft.write(start, data[start : start + BLOCK])
        blocks = max(blocks, draft.file.path.stat().st_blocks * 512)
    assert blocks <= 9 * MIB
    draft.discard()


def test_segments_go_up_before_the_file_is_closed(bench: Bench) -> None:
    draft = bench.draft()
    bench.write(draft, content(5 * MIB))
    draft.settle()
    assert len(bench.store.keys(SEGMENTS)) == 5
    with pytest.raises(OSError, match="key"):
        bench.store.head("bucket", "key")
    draft.discard()
    assert bench.store.keys(SEGMENTS) == []
    assert bench.spool.notes() == []


def test_what_goes_up_in_segments_is_hashed_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[int] = []

    class Counting:
        def __init__(self, **_: object) -> None:
            self._md5 = hashlib.md5(usedforsecurity=False)

        def update(self, data: bytes) -> None:
            hashed.append(len(data))
            self._md5.update(data)

        def hexdigest(self) -> str:
            return self._md5.hexdigest()

    for module in (spoolfile, checksum):
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(md5=Counting))
    data = content(16 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    bench.upload(draft)
    assert get_bytes(bench.store, "bucket", "key") == data
    # Up to the threshold nobody knows that there will be segments.
    assert sum(hashed) <= len(data) + CONFIG.segment_threshold + BLOCK
    draft.discard()


def test_a_small_file_sends_nothing_before_it_is_closed(bench: Bench) -> None:
    draft = bench.draft()
    bench.write(draft, content(2 * MIB))
    assert bench.store.calls() == []
    draft.discard()


def test_the_first_segment_goes_up_after_a_note_says_where(bench: Bench) -> None:
    seen: list[int] = []

    def look(call: Call) -> None:
        if call.method == "put":
            seen.append(len(bench.spool.notes()))

    bench.store.before = look
    draft = bench.draft()
    bench.write(draft, content(5 * MIB))
    draft.settle()
    assert seen == [1] * 5
    draft.discard()


@pytest.mark.semantics("H4")
@pytest.mark.parametrize("is_changed", [False, True])
def test_no_write_waits_for_the_store_while_the_spool_has_room(
    bench: Bench, is_changed: bool
) -> None:
    base = bench.put(content(8 * MIB, 2)) if is_changed else None
    answers = threading.Event()
    asked: list[tuple[str, int]] = []
    writer = threading.get_ident()

    def silent(call: Call) -> None:
        asked.append((call.method, threading.get_ident()))
        assert threading.get_ident() == writer or answers.wait(30)

    data = content(20 * MIB)
    draft = bench.draft(base)
    bench.store.before = silent
    bench.write(draft, data)
    assert writer not in {thread for _, thread in asked}
    assert "put" not in {method for method, _ in asked}
    answers.set()
    draft.settle()
    if draft._looking is not None:
        draft._looking.result(30)
    # What was written meanwhile goes up with the next write.
    bench.write(draft, b"more", offset=len(data))
    draft.settle()
    assert sum(size for _, size in bench.sent()) > 18 * MIB
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data + b"more"


@pytest.mark.semantics("H4")
def test_a_store_that_is_away_is_asked_by_one_part_at_a_time(bench: Bench) -> None:
    asked: list[str] = []
    answers = threading.Event()
    answers.set()

    def away(call: Call) -> None:
        asked.append(call.method)
        assert answers.wait(30)
        raise TimedOut(call.container, "no progress")

    bench.store.before = away
    draft, data = bench.draft(), content(64 * MIB)
    bench.write(draft, data)
    draft.settle()
    written = len(asked)
    bench.write(draft, content(8 * MIB, 2), offset=len(data))
    draft.settle()
    # 128 KiB at a time, each when the one before was answered.
    assert set(asked) <= {"head_container", "containers"}
    assert len(asked) - written <= 64
    asked.clear()
    answers.clear()
    with ThreadPoolExecutor(1) as pool:
        upload = pool.submit(bench.upload, draft)
        wait_until(
            lambda: (
                draft._parts.end == draft.size and all(part.is_sending for part in draft._parts.all)
            ),
            "all are begun",
        )
        answers.set()
        with pytest.raises(TimedOut):
            upload.result(30)
    # All that waited for the bucket had the one answer.
    assert len(asked) == 1
    bench.store.before = lambda call: None
    bench.store.forget_calls()
    end = len(data) + 8 * MIB
    bench.write(draft, b"more", offset=end)
    draft.settle()
    assert len(bench.sent()) == 1, "one part finds out whether the store is back"
    bench.write(draft, b"and more", offset=end + 4)
    draft.settle()
    assert sum(size for _, size in bench.sent()) > 60 * MIB
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data + content(8 * MIB, 2) + b"moreand more"


@pytest.mark.semantics("C0")
def test_parts_that_fail_are_no_progress_of_the_upload_that_waits_for_them(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = bench.draft()
    draft.truncate(64 * MIB)
    clock = FakeClock()
    deadline = Deadline(5.0, clock=clock)

    def fail(container: str, *args: object, **options: object) -> ObjectInfo:
        assert current(60.0) is deadline
        clock.advance(3.0)
        raise TimedOut(container, "no progress")

    monkeypatch.setattr(bench.store, "put", fail)
    with sharing(deadline), pytest.raises(TimedOut):
        bench.upload(draft)
    assert deadline.left() == 0.0


def test_a_writer_waits_for_the_network_and_gets_no_error(make: MakeBench) -> None:
    bench = make(room=4 * MIB)
    gate = threading.Semaphore(0)

    def slow(call: Call) -> None:
        if call.method == "put":
            assert gate.acquire(timeout=30)

    bench.store.before = slow
    data = content(12 * MIB)
    draft = bench.draft()
    writer = threading.Thread(target=bench.write, args=(draft, data))
    writer.start()
    writer.join(0.5)
    assert writer.is_alive()
    assert bench.spool.used <= 4 * MIB
    for _ in range(100):
        gate.release()
    writer.join(30)
    assert not writer.is_alive()
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


@pytest.mark.semantics("C17")
def test_a_writer_without_a_network_gets_enospc_and_nothing_of_its_write_is_taken(
    make: MakeBench,
) -> None:
    bench = make(room=4 * MIB)

    def fail(call: Call) -> None:
        if call.method == "put":
            raise Unavailable("bucket", "503")

    bench.store.before = fail
    draft = bench.draft()
    data = content(8 * MIB)
    with within(1.0), pytest.raises(NoSpace):
        bench.write(draft, data)
    size = draft.size
    assert size % BLOCK == 0
    assert 3 * MIB < size <= 4 * MIB
    bench.store.before = lambda call: None
    # What was taken can still be stored.
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data[:size]


def test_a_writer_over_its_quota_learns_it_when_the_spool_is_full(make: MakeBench) -> None:
    bench = make(room=4 * MIB)

    def fail(call: Call) -> None:
        if call.method == "put":
            raise QuotaExceeded("bucket", "413")

    bench.store.before = fail
    draft = bench.draft()
    with pytest.raises(QuotaExceeded):
        bench.write(draft, content(8 * MIB))
    draft.discard()


def test_many_files_at_once_share_a_spool_that_none_of_them_fills(make: MakeBench) -> None:
    bench = make(room=16 * MIB, config=Config(segment_size=16 * MIB, memory=16 * MIB))
    drafts = [bench.uploader.draft(bench.spool.create(), "bucket", f"k{n}") for n in range(6)]
    data = content(5 * MIB)
    # In turn: each has less than a segment when the spool is full.
    for start in range(0, len(data), BLOCK):
        for draft in drafts:
            draft.write(start, data[start : start + BLOCK])
    for number, draft in enumerate(drafts):
        bench.upload(draft)
        draft.discard()
        assert get_bytes(bench.store, "bucket", f"k{number}") == data
    assert bench.spool.used == 0


def test_a_part_that_was_given_back_is_read_from_its_segment(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    data = content(32 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    draft.settle()
    draft.give_back()
    used = bench.spool.used
    assert used < 4 * MIB
    assert bench.read(draft, 0, 3 * MIB) == data[: 3 * MIB]
    assert bench.read(draft, 31 * MIB + 5, 32 * MIB) == data[31 * MIB + 5 :]
    assert bench.spool.used == used
    draft.discard()


def test_what_is_written_over_a_sent_part_is_sent_again_and_no_other_part(
    make: MakeBench,
) -> None:
    bench = make(room=8 * MIB)
    data = bytearray(content(32 * MIB))
    draft = bench.draft()
    bench.write(draft, bytes(data))
    draft.settle()
    draft.give_back()
    before = len(bench.sent())
    draft.write(5 * MIB + 100, b"changed")
    data[5 * MIB + 100 : 5 * MIB + 107] = b"changed"
    assert bench.read(draft, 5 * MIB, 6 * MIB) == data[5 * MIB : 6 * MIB]
    bench.upload(draft)
    assert bench.read(draft, 0, len(data)) == data
    draft.discard()
    assert bench.stored() == data
    again = bench.sent()[before:]
    assert sum(size for _, size in again) <= 2 * MIB + MIB


def test_a_part_that_is_written_over_while_it_goes_up_is_stored_as_it_is_at_last(
    bench: Bench,
) -> None:
    gate = threading.Event()

    def slow(call: Call) -> None:
        if call.method == "put":
            assert gate.wait(30)

    bench.store.before = slow
    data = bytearray(content(4 * MIB))
    draft = bench.draft()
    bench.write(draft, bytes(data))
    draft.write(10, b"changed")
    data[10:17] = b"changed"
    gate.set()
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


@pytest.mark.parametrize("size", [0, 5, MIB + 1, 3 * MIB + 17, 9 * MIB])
def test_a_file_that_is_cut_after_parts_of_it_were_sent(make: MakeBench, size: int) -> None:
    bench = make(room=8 * MIB)
    data = content(24 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    draft.truncate(size)
    assert bench.read(draft, 0, size) == data[:size]
    info = bench.upload(draft)
    draft.discard()
    assert info.size == size
    assert bench.stored() == data[:size]


def test_a_file_that_is_cut_and_grows_again_has_zeros_between(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    data = content(24 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    draft.truncate(3 * MIB + 1)
    draft.truncate(10 * MIB)
    bench.write(draft, b"end", 10 * MIB)
    expected = data[: 3 * MIB + 1] + bytes(7 * MIB - 1) + b"end"
    assert bench.read(draft, 0, draft.size) == expected
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == expected


def test_a_file_emptied_while_parts_go_up_and_written_again(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    gate = threading.Event()

    def slow(call: Call) -> None:
        if call.method == "put":
            assert gate.wait(30)

    bench.store.before = slow
    draft = bench.draft()
    bench.write(draft, content(5 * MIB, seed=1))
    draft.truncate(0)
    gate.set()
    data = content(20 * MIB, seed=2)
    bench.write(draft, data)
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


def test_a_part_that_is_cut_off_while_it_goes_up_is_no_failure(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    began, gate = threading.Event(), threading.Event()

    def fail(call: Call) -> None:
        if call.method == "put" and not gate.is_set():
            began.set()
            assert gate.wait(30)
            # Its bytes have gone: they do not match their checksum any more.
            raise Corrupt("bucket", "422")

    draft = bench.draft()
    bench.store.before = fail
    bench.write(draft, content(5 * MIB, seed=1))
    assert began.wait(30)
    draft.truncate(0)
    gate.set()
    data = content(20 * MIB, seed=2)
    bench.write(draft, data)
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


def test_a_segment_whose_connection_died_is_sent_once_more_alone(bench: Bench) -> None:
    data = content(8 * MIB)
    draft = bench.draft()
    bench.store.fail_next(Unavailable("bucket", "reset by peer"), "put")
    bench.write(draft, data)
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data
    assert bench.store.counts()["put"] == 8 + 1


def test_a_segment_whose_answer_was_lost_is_in_the_file_once(bench: Bench) -> None:
    data = content(8 * MIB)
    draft = bench.draft()
    numbers = iter(range(100))

    def lose(call: Call) -> None:
        if call.method == "put" and next(numbers) in (2, 3, 4, 5):
            raise Unavailable("bucket", "the connection broke")

    bench.store.after = lose
    bench.write(draft, data)
    draft.settle()
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


def test_a_disk_that_gives_nothing_back_is_a_spool_with_its_limit(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spoolfile, "punch_hole", lambda fd, start, length: False)
    bench = make(room=8 * MIB)
    draft = bench.draft()
    data = content(20 * MIB)
    with pytest.raises(NoSpace):
        bench.write(draft, data)
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data[: len(get_bytes(bench.store, "bucket", "key"))]
    assert bench.spool.used == 0


@pytest.mark.semantics("C17")
def test_a_file_that_its_segments_cannot_hold_is_too_big(
    tmp_path: Path,
) -> None:
    store = MemStore(capabilities=replace(OPENSTACK, max_segments=5))
    store.create_container("bucket")
    bench = Bench(store, tmp_path, 4 * MIB)
    draft = bench.draft()
    with pytest.raises(FileTooBig):
        bench.write(draft, content(8 * MIB))
    assert draft.size == 5 * MIB
    bench.upload(draft)
    draft.discard()
    assert len(bench.stored()) == 5 * MIB
    bench.close()


# -- what of a stored object is sent again --------------------------------------------------------


def changed(bench: Bench, info: ObjectInfo, change: Callable[[Draft], None]) -> None:
    draft = bench.draft(info)
    change(draft)
    bench.upload(draft)
    draft.discard()


@pytest.mark.semantics("C19")
def test_appending_to_a_large_object_sends_what_is_new(bench: Bench) -> None:
    data = content(20 * MIB)
    info = bench.put(data)
    changed(bench, info, lambda draft: draft.write(20 * MIB, content(100_000, 2)))
    assert sum(size for _, size in bench.sent()) == 100_000
    assert "get" not in bench.store.counts()
    assert bench.stored() == data + content(100_000, 2)


def test_many_small_appends_make_few_segments_and_send_little(bench: Bench) -> None:
    data = bytearray(content(8 * MIB))
    info = bench.put(bytes(data))
    sent = 0
    for number in range(40):
        more = content(10_000, number)
        draft = bench.draft(info)
        draft.write(len(data), more)
        info = bench.upload(draft)
        draft.discard()
        data += more
        sent += sum(size for _, size in bench.sent())
        bench.store.forget_calls()
    assert bench.stored() == data
    assert len(bench.sizes()) <= 8 + 7
    assert sent < 8 * 400_000


@pytest.mark.semantics("C19")
def test_changing_a_few_bytes_sends_one_segment(bench: Bench) -> None:
    data = bytearray(content(20 * MIB))
    info = bench.put(bytes(data))
    changed(bench, info, lambda draft: draft.write(4 * MIB + 5, b"changed"))
    data[4 * MIB + 5 : 4 * MIB + 12] = b"changed"
    assert [size for _, size in bench.sent()] == [MIB]
    assert bench.stored() == data


@pytest.mark.parametrize("size", [17 * MIB, 16 * MIB + 1, 3 * MIB, 5, 0, 30 * MIB])
def test_a_large_object_is_cut_and_grown_without_sending_it(bench: Bench, size: int) -> None:
    data = content(20 * MIB)
    info = bench.put(data)
    changed(bench, info, lambda draft: draft.truncate(size))
    assert bench.stored() == data[:size] + bytes(max(0, size - len(data)))
    assert sum(n for _, n in bench.sent()) <= max(0, size - len(data)) + 2 * MIB


def test_kept_segments_stay_where_they_are_or_are_copied_on_the_server(bench: Bench) -> None:
    info = bench.put(content(8 * MIB))
    before = set(bench.store.keys(SEGMENTS))
    changed(bench, info, lambda draft: draft.write(0, b"x"))
    after = set(bench.store.keys(SEGMENTS))
    is_static = bench.store.head("bucket", "key").info.kind is Kind.SLO
    assert len(before & after) == (7 if is_static else 0)
    assert bench.store.counts().get("copy", 0) == (0 if is_static else 7)


def test_an_object_in_one_piece_that_grows_is_copied_and_not_fetched(bench: Bench) -> None:
    data = content(2 * MIB)
    info = put_bytes(bench.store, "bucket", "key", data)
    bench.store.forget_calls()
    more = content(3 * MIB, 2)
    changed(bench, info, lambda draft: bench.write(draft, more, 2 * MIB))
    assert "get" not in bench.store.counts()
    assert sum(size for _, size in bench.sent()) == 3 * MIB
    assert bench.stored() == data + more


def test_a_large_object_can_be_written_over_in_place_through_a_small_spool(
    make: MakeBench,
) -> None:
    bench = make(room=8 * MIB)
    info = bench.put(content(40 * MIB))
    data = content(40 * MIB, 2)
    changed(bench, info, lambda draft: bench.write(draft, data))
    assert bench.stored() == data
    assert bench.peak <= 8 * MIB
    assert sum(size for _, size in bench.sent()) == len(data)


def test_a_change_in_every_segment_goes_through_a_small_spool(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    data = bytearray(content(40 * MIB))
    info = bench.put(bytes(data))
    draft = bench.draft(info)
    for offset in range(0, len(data), MIB):
        draft.write(offset + 7, b"changed")
        data[offset + 7 : offset + 14] = b"changed"
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data
    assert bench.peak <= 8 * MIB


def test_segments_that_the_new_version_uses_are_never_removed_with_the_old(bench: Bench) -> None:
    data = content(6 * MIB)
    info = bench.put(data)
    removed: list[str] = []

    def watch(call: Call) -> None:
        if call.method == "delete_many":
            now = bench.store.head("bucket", "key").info
            assert now.size == 6 * MIB + 1
            removed.append(call.container)

    bench.store.before = watch
    changed(bench, info, lambda draft: draft.write(6 * MIB, b"x"))
    assert bench.stored() == data + b"x"


def test_another_client_s_version_is_not_mixed_with_this_one(bench: Bench) -> None:
    data = content(6 * MIB)
    info = bench.put(data)
    draft = bench.draft(info)
    draft.write(6 * MIB, b"x")
    bench.put(content(6 * MIB, 7), info)
    with pytest.raises(Stale):
        bench.upload(draft)
    draft.discard()
    assert bench.stored() == content(6 * MIB, 7)


def test_a_draft_that_has_all_bytes_here_can_forget_the_version_it_changes(bench: Bench) -> None:
    data = content(6 * MIB)
    info = bench.put(data)
    draft = bench.draft(info)
    draft.know_base(large.look(bench.store, "bucket", info))
    draft.fill(0, 3 * MIB, bench.fetch)
    draft.write(6 * MIB, content(MIB, 2))
    draft.settle()
    kept = [task.part for task in draft.plan() if task.part is not None]
    assert any(not part.is_own for part in kept)
    draft.fill(0, 6 * MIB, bench.fetch)
    draft.forget_base()
    left = [task.part for task in draft.plan() if task.part is not None]
    assert left == [part for part in kept if part.is_own] != []
    bench.store.delete("bucket", "key")
    bench.upload(draft)
    assert get_bytes(bench.store, "bucket", "key") == data + content(MIB, 2)
    draft.discard()


def test_a_marked_object_keeps_its_segments_and_its_next_version_has_its_own(
    bench: Bench,
) -> None:
    data = content(6 * MIB)
    info = bench.put(data)
    segments = bench.store.keys(SEGMENTS)
    large.share(bench.store, "bucket", info, ("bucket", "other"))
    other = bench.store.copy("bucket", info, ("bucket", "other"), manifest=True)
    changed(bench, info, lambda draft: draft.write(0, b"x"))
    assert get_bytes(bench.store, "bucket", "other") == data
    assert get_bytes(bench.store, "bucket", "key") == b"x" + data[1:]
    head = bench.store.head("bucket", "key")
    assert not marks.of(head.metadata)
    large.delete(bench.store, "bucket", head.info)
    assert get_bytes(bench.store, "bucket", "other") == data
    assert other.size == len(data)
    assert bench.store.keys(SEGMENTS) == segments
    large.delete(bench.store, "bucket", other)
    assert bench.store.keys(SEGMENTS) == []


def test_a_static_object_whose_segments_nobody_tells_is_sent_whole(
    tmp_path: Path,
) -> None:
    store = MemStore(capabilities=RGW)
    for name in ("bucket", "theirs"):
        store.create_container(name)
    bench = Bench(store, tmp_path, 8 * MIB)
    data = content(12 * MIB)
    parts = []
    for start in range(0, len(data), 4 * MIB):
        put = put_bytes(store, "theirs", str(start), data[start : start + 4 * MIB])
        parts.append(Segment("theirs", put.key, put.size, put.etag))
    store.put_slo("bucket", "key", parts, content_type="a/b")
    info = store.head("bucket", "key").info
    changed(bench, info, lambda draft: draft.write(12 * MIB, b"x"))
    assert bench.stored() == data + b"x"
    assert store.keys("theirs") == []
    bench.close()


def test_after_a_sync_only_what_changed_since_is_sent(make: MakeBench) -> None:
    bench = make(room=8 * MIB)
    data = content(24 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    bench.upload(draft)
    assert bench.stored() == data
    bench.store.forget_calls()
    more = content(300_000, 2)
    bench.write(draft, more, len(data))
    bench.upload(draft)
    assert bench.stored() == data + more
    assert sum(size for _, size in bench.sent()) <= 300_000
    draft.discard()


# -- failures -------------------------------------------------------------------------------------


def failing_manifest(call: Call) -> None:
    if call.method in ("put_slo", "put_dlo"):
        raise QuotaExceeded("bucket", "413")


def test_a_failed_upload_keeps_the_segments_that_are_all_there_is_of_the_data(
    make: MakeBench,
) -> None:
    bench = make(room=8 * MIB)
    data = content(24 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    bench.store.before = failing_manifest
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    assert bench.read(draft, 0, len(data)) == data
    bench.store.before = lambda call: None
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


def test_data_of_a_failed_upload_are_kept_with_their_segments(
    make: MakeBench, tmp_path: Path
) -> None:
    bench = make(room=8 * MIB)
    draft = bench.draft()
    bench.write(draft, content(24 * MIB))
    bench.store.before = failing_manifest
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    draft.keep("over quota")
    segments = bench.store.keys(SEGMENTS)
    assert segments
    bench.spool.close()
    again = Spool(tmp_path / "spool", 8 * MIB)
    again.open()
    (line,) = again.kept()
    assert "bucket/key: over quota; a part of it is in the store, in bucket_segments/key/" in line
    again.close()
    assert bench.store.keys(SEGMENTS) == segments


def test_data_that_are_all_local_are_kept_without_segments(bench: Bench) -> None:
    draft = bench.draft()
    data = content(5 * MIB)
    bench.write(draft, data)
    bench.store.before = failing_manifest
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    where = draft.keep("over quota")
    assert Path(where).read_bytes() == data
    assert bench.store.keys(SEGMENTS) == []
    (entry,) = bench.spool.entries()
    assert (entry.is_kept, entry.note.missing(), entry.note.has_segments) == (True, [], False)


def segmented(bench: Bench, sizes: Sequence[int]) -> tuple[ObjectInfo, bytes]:
    """Store a large object of segments of these sizes, as another client may."""
    store, data = bench.store, content(sum(sizes), 7)
    if SEGMENTS not in store._containers:
        store.create_container(SEGMENTS)
    segments, start = [], 0
    for number, size in enumerate(sizes):
        info = put_bytes(store, SEGMENTS, f"key/0/{number}", data[start : start + size])
        segments.append(Segment(SEGMENTS, info.key, size, info.etag))
        start += size
    if store.capabilities() is OPENSTACK:
        info = store.put_slo("bucket", "key", segments, content_type="a/b", metadata={})
    else:
        info = store.put_dlo("bucket", "key", f"{SEGMENTS}/key/0/", content_type="a/b", metadata={})
    return info, data


@pytest.mark.semantics("C16")
def test_what_is_fetched_to_be_sent_again_is_not_given_back_before(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short segments at the end go up with what is appended: they are fetched for it."""
    monkeypatch.setattr(draft_module, "FILL_BYTES", 64 * 1024)
    bench = make(room=4 * MIB)
    first, short = MIB, 500 * 1024
    base, data = segmented(bench, [first, short, 240 * 1024])
    draft = bench.draft(base)
    draft.write(0, b"changed")
    tail = content(900 * 1024)
    bench.write(draft, tail, len(data))

    is_fetched = threading.Event()

    def wait(call: Call) -> None:
        if call.method == "put":
            assert is_fetched.wait(30)

    def fetch(start: int, stop: int) -> bytes:
        if start >= first + short:
            # Now the first segment is sent, and its room may be given back.
            is_fetched.set()
            wait_until(lambda: not bench.spool._sending, "the first segment is there")
        return bench.fetch(start, stop)

    bench.store.before = wait
    bench.uploader.upload(draft, content_type="a/b", metadata={}, fetch=fetch)
    draft.discard()
    assert get_bytes(bench.store, "bucket", "key") == b"changed" + data[7:] + tail


@pytest.mark.semantics("R9")
def test_a_failed_upload_takes_no_segment_back_whose_room_was_given_back(
    make: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make(room=16 * MIB)
    data = content(3 * MIB)
    draft = bench.draft()
    bench.write(draft, data)
    remove = Draft._remove_own

    def give_back_first(self: Draft) -> None:
        # Another file's writer finds the spool half full just now.
        self.give_back()
        remove(self)

    monkeypatch.setattr(Draft, "_remove_own", give_back_first)
    bench.store.before = failing_manifest
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    assert bench.read(draft, 0, len(data)) == data
    bench.store.before = lambda call: None
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == data


@pytest.mark.semantics("C17")
def test_a_small_file_of_which_no_segment_was_taken_is_stored_in_one_piece(bench: Bench) -> None:
    """Others needed its room, and the bucket for segments may not be used."""

    def refuse(call: Call) -> None:
        if call.container == SEGMENTS:
            raise AccessDenied(SEGMENTS, "403")

    bench.store.before = refuse
    draft, data = bench.draft(), content(3 * MIB // 2)
    bench.write(draft, data)
    assert draft.press()
    draft.settle()
    assert bench.upload(draft).kind is Kind.PLAIN
    assert get_bytes(bench.store, "bucket", "key") == data
    draft.discard()
    assert bench.spool.notes() == []
