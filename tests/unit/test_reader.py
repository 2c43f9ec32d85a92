"""Reader over a store in memory: the right bytes, few requests, one version, bounded memory."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allasfs import deadline
from allasfs.config import KIB, MIB
from allasfs.deadline import Deadline, current, within
from allasfs.errors import BadHandle, Corrupt, FsError, NotFound, Stale, TimedOut, Unavailable
from allasfs.store.api import PIECE_BYTES, Kind, ObjectInfo, Segment
from allasfs.transfer import reader as reader_module
from allasfs.transfer.blocks import Memory
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import RGW, Call, MemStore, put_bytes

READ = 128 * KIB
CONTENT = random.Random(1).randbytes(12 * MIB + 12345)

OpenReader = Callable[..., Reader]


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8, thread_name_prefix="lasting-transfer") as pool:
        # All its threads at once, so that none is taken for one that a test left behind.
        barrier = threading.Barrier(9)
        for _ in range(8):
            pool.submit(barrier.wait)
        barrier.wait()
        yield pool


@pytest.fixture
def store() -> MemStore:
    store = MemStore()
    store.create_container("b")
    return store


@pytest.fixture
def open_reader(store: MemStore, pool: ThreadPoolExecutor) -> Iterator[OpenReader]:
    """Store bytes and open them: ``open_reader(data)``."""
    readers = []

    def start(
        data: bytes,
        *,
        key: str = "key",
        memory: Memory | None = None,
        info: ObjectInfo | None = None,
    ) -> Reader:
        put = put_bytes(store, "b", key, data)
        store.forget_calls()
        reader = Reader(store, memory or Memory(128 * MIB), pool, "b", info or put, timeout_s=30.0)
        readers.append(reader)
        return reader

    yield start
    for reader in readers:
        reader.close()


@pytest.fixture(autouse=True)
def _no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "RESUME_WAIT_S", 0.0)


def read_all(reader: Reader, step: int = READ) -> bytes:
    window, found, offset = Window(), [], 0
    while piece := reader.read(window, offset, step):
        found.append(piece)
        offset += len(piece)
    return b"".join(found)


# -- the right bytes ------------------------------------------------------------------------------


@settings(max_examples=25)
@given(
    size=st.sampled_from([0, 1, PIECE_BYTES, 2 * MIB + 1, 5 * MIB]),
    limit=st.sampled_from([2 * MIB, 64 * MIB]),
    reads=st.lists(st.tuples(st.integers(0, 5 * MIB + 10), st.integers(0, 700 * KIB)), max_size=12),
)
def test_random_reads_give_the_bytes_of_the_object(
    size: int, limit: int, reads: list[tuple[int, int]]
) -> None:
    store = MemStore()
    store.create_container("b")
    info = put_bytes(store, "b", "key", CONTENT[:size])
    with ThreadPoolExecutor(4) as pool:
        reader = Reader(store, Memory(limit), pool, "b", info, timeout_s=30.0)
        window = Window()
        for offset, length in reads:
            expected = CONTENT[:size][offset : offset + length]
            assert reader.read(window, offset, length) == expected
        reader.close()


@pytest.mark.parametrize("step", [4 * KIB + 1, READ, MIB, 20 * MIB])
def test_a_sequential_read_gives_every_byte_and_fetches_each_once(
    open_reader: OpenReader, store: MemStore, step: int
) -> None:
    reader = open_reader(CONTENT)
    assert read_all(reader, step) == CONTENT
    assert store.sent_bytes() == len(CONTENT)


def test_reads_behind_the_end_are_empty_and_ask_nobody(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader = open_reader(b"0123456789")
    assert reader.read(Window(), 10, 5) == b""
    assert reader.read(Window(), 1000, 5) == b""
    assert open_reader(b"", key="empty").read(Window(), 0, 5) == b""
    assert store.counts() == {}


# -- few requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 4 * KIB, MIB])
def test_a_small_file_takes_one_request(
    open_reader: OpenReader, store: MemStore, size: int
) -> None:
    reader = open_reader(CONTENT[:size])
    assert read_all(reader, 4 * KIB) == CONTENT[:size]
    # For the whole object, so that the server need not even look at a range.
    assert store.calls() == [Call("get", "b", "key", None)]


def test_a_long_sequential_read_takes_few_requests(
    open_reader: OpenReader, store: MemStore
) -> None:
    read_all(open_reader(CONTENT))
    assert store.counts()["get"] <= len(CONTENT) / MIB


def test_a_reader_among_many_asks_for_ranges_and_not_for_each_read(
    store: MemStore, pool: ThreadPoolExecutor
) -> None:
    memory = Memory(40 * MIB)
    info = put_bytes(store, "b", "key", CONTENT)
    readers = [Reader(store, memory, pool, "b", info, timeout_s=30.0) for _ in range(4)]
    assert read_all(readers[0]) == CONTENT
    # Its share is 4 MiB, in ranges of 1 MiB.
    assert store.counts()["get"] <= len(CONTENT) / MIB + 4
    assert store.sent_bytes() == len(CONTENT)
    for reader in readers:
        reader.close()


def test_ranges_of_a_long_read_are_in_flight_together(
    open_reader: OpenReader, store: MemStore
) -> None:
    together = threading.Barrier(4, timeout=30)

    def meet(call: Call) -> None:
        if call.method == "get":
            # Nobody gets further before all four are under way.
            together.wait()

    store.before = meet
    # In the middle of a long read from the start.
    start = 7 * MIB // 4
    reader = open_reader(CONTENT[: 8 * MIB])
    window = Window(began=0, position=start, count=start)
    assert reader.read(window, start, READ) == CONTENT[start : start + READ]
    assert not together.broken


def test_random_reads_of_a_large_object_fetch_little_more_than_they_ask_for(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader, window = open_reader(CONTENT), Window()
    generator = random.Random(2)
    count = 50
    for _ in range(count):
        # Far from each other, as in an index.
        offset = generator.randrange(MIB, len(CONTENT) - 4 * KIB)
        reader.read(window, offset, 4 * KIB)
    assert store.counts()["get"] <= count
    assert store.sent_bytes() <= 1.5 * count * 4 * KIB


def test_reads_far_apart_fetch_exactly_what_they_ask_for(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader, window = open_reader(CONTENT), Window()
    for number in (9, 3, 11, 1, 7):
        offset = number * MIB + 100
        assert reader.read(window, offset, 4 * KIB) == CONTENT[offset : offset + 4 * KIB]
    assert store.sent_bytes() == 5 * 4 * KIB


def test_a_small_gap_is_read_through(open_reader: OpenReader, store: MemStore) -> None:
    reader, window = open_reader(CONTENT[:MIB]), Window()
    for offset in range(0, MIB, 64 * KIB):
        reader.read(window, offset, 4 * KIB)
    assert store.counts() == {"get": 1}


def test_what_was_read_a_moment_ago_is_not_fetched_again(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader, window = open_reader(CONTENT[:MIB]), Window()
    for _ in range(3):
        assert reader.read(window, 1000, 5000) == CONTENT[1000:6000]
    assert store.sent_bytes() <= MIB


@pytest.mark.parametrize("size", [MIB, PIECE_BYTES])
def test_two_threads_that_want_the_same_bytes_cause_one_request(
    open_reader: OpenReader, store: MemStore, size: int
) -> None:
    reader = open_reader(CONTENT[:size])
    barrier = threading.Barrier(8)

    def read() -> bytes:
        barrier.wait()
        return reader.read(Window(), 0, size)

    with ThreadPoolExecutor(8) as threads:
        found = [job.result() for job in [threads.submit(read) for _ in range(8)]]
    assert set(found) == {CONTENT[:size]}
    assert store.counts() == {"get": 1}


def test_a_block_is_fetched_by_the_thread_that_reads_it_within_its_deadline(
    open_reader: OpenReader, store: MemStore
) -> None:
    """Two hand-overs less; what is fetched ahead, or comes in pieces, waits for nobody."""
    reader = open_reader(CONTENT)
    found: list[tuple[bool, bool, int]] = []
    here = threading.get_ident()

    def note(call: Call) -> None:
        start, stop = call.span or (0, 0)
        is_ours = current(30.0) is operation
        found.append((threading.get_ident() == here, is_ours, stop - start))

    store.before = note
    with within(30.0) as operation:
        for offset in (9 * MIB, 3 * MIB):
            assert (
                reader.read(Window(), offset, PIECE_BYTES)
                == (CONTENT[offset : offset + PIECE_BYTES])
            )
        assert found == [(True, True, PIECE_BYTES)] * 2
        del found[:]
        reader.read(Window(), 6 * MIB, PIECE_BYTES + 1)
        reader.read(Window(), 0, READ)
    assert [(own, shared) for own, shared, _ in found] == [(False, False)] * 2


def test_a_block_does_not_keep_the_room_that_the_rest_of_its_read_waits_for(
    open_reader: OpenReader,
) -> None:
    reader, start = open_reader(CONTENT, memory=Memory(MIB)), 4 * MIB
    # Between the block and what is too much beside it.
    reader.read(Window(), start + PIECE_BYTES, PIECE_BYTES)
    with within(2.0):
        found = reader.read(Window(), start, 2 * PIECE_BYTES + 450 * KIB)
    assert found == CONTENT[start : start + 2 * PIECE_BYTES + 450 * KIB]


# -- one version ----------------------------------------------------------------------------------


def test_a_replaced_object_is_stale(open_reader: OpenReader, store: MemStore) -> None:
    reader, window = open_reader(CONTENT), Window()
    reader.read(window, 8 * MIB, READ)
    put_bytes(store, "b", "key", CONTENT[::-1])
    with pytest.raises(Stale):
        reader.read(window, 2 * MIB, READ)


def test_a_large_object_that_stands_without_a_segment_is_an_error_and_not_stale(
    open_reader: OpenReader, store: MemStore
) -> None:
    parts = put_bytes(store, "b", "parts/0", CONTENT)
    segment = Segment("b", parts.key, parts.size, parts.etag)
    info = store.put_slo("b", "large", [segment], content_type="a/b")
    reader = open_reader(b"", info=info)
    store.fail_next(NotFound("large", "404"), "get")
    with pytest.raises(Unavailable, match="a segment of it is missing"):
        reader.read(Window(), 0, READ)


def test_a_removed_object_is_stale(open_reader: OpenReader, store: MemStore) -> None:
    reader = open_reader(CONTENT)
    store.delete("b", "key")
    with pytest.raises(Stale, match="removed by another client"):
        reader.read(Window(), 0, READ)


def test_a_replaced_large_object_is_stale(store: MemStore, open_reader: OpenReader) -> None:
    store.create_container("segments")
    put_bytes(store, "segments", "1/0", CONTENT[: 4 * MIB])
    put_bytes(store, "segments", "2/0", CONTENT[::-1][: 4 * MIB])
    info = store.put_dlo("b", "large", "segments/1/", content_type="a/b")
    assert info.kind is Kind.DLO
    reader = open_reader(b"", info=info)
    assert reader.read(Window(), 3 * MIB, READ) == CONTENT[3 * MIB : 3 * MIB + READ]
    store.put_dlo("b", "large", "segments/2/", content_type="a/b")
    with pytest.raises(Stale):
        reader.read(Window(), MIB, READ)


def test_a_large_object_reads_on_where_its_etag_cannot_be_a_condition(
    pool: ThreadPoolExecutor,
) -> None:
    store = MemStore(capabilities=RGW)
    store.create_container("bucket")
    put_bytes(store, "bucket", "parts/0", CONTENT[: 2 * MIB])
    info = store.put_dlo("bucket", "large", "bucket/parts/", content_type="a/b")
    reader = Reader(store, Memory(64 * MIB), pool, "bucket", info, timeout_s=30.0)
    assert read_all(reader) == CONTENT[: 2 * MIB]
    reader.close()


def test_a_reader_that_was_ended_says_why(open_reader: OpenReader) -> None:
    reader = open_reader(CONTENT[:MIB])
    reader.read(Window(), 0, READ)
    reader.end(Stale("b/key", "removed while open"))
    with pytest.raises(Stale, match="removed while open"):
        reader.read(Window(), 0, READ)


def test_a_renamed_object_reads_on_under_its_new_name(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader, window = open_reader(CONTENT), Window()
    reader.read(window, 8 * MIB, READ)
    moved = store.copy("b", reader.info, ("b", "new"))
    store.delete("b", "key")
    reader.moved("b", moved)
    assert reader.read(window, MIB, READ) == CONTENT[MIB : MIB + READ]


# -- the checksum ---------------------------------------------------------------------------------


def damaged(info: ObjectInfo, store: MemStore) -> ObjectInfo:
    """Let the store say a checksum that its bytes do not have."""
    found = replace(store._containers["b"][info.key], etag="0" * 32)
    store._containers["b"][info.key] = found
    return replace(info, etag="0" * 32)


@pytest.mark.semantics("R7")
@pytest.mark.parametrize("size", [1, READ, MIB, 3 * MIB + 5])
def test_a_whole_read_of_damaged_bytes_ends_in_corrupt_before_the_last_bytes(
    open_reader: OpenReader, store: MemStore, size: int
) -> None:
    reader = open_reader(CONTENT[:size])
    reader.info = damaged(reader.info, store)
    window, offset = Window(), 0
    while offset + READ < size:
        assert len(reader.read(window, offset, READ)) == READ
        offset += READ
    with pytest.raises(Corrupt):
        reader.read(window, offset, READ)
    with pytest.raises(Corrupt):
        reader.read(window, 0, READ)


def test_a_whole_read_in_disorder_by_threads_is_checked_as_well(
    open_reader: OpenReader, store: MemStore
) -> None:
    size = 4 * MIB
    reader = open_reader(CONTENT[:size])
    reader.info = damaged(reader.info, store)
    window = Window()
    offsets = list(range(0, size, READ))
    # As the kernel sends them: each read up to three places too early or too late.
    generator = random.Random(3)
    offsets.sort(key=lambda offset: offset + generator.uniform(-3, 3) * READ)
    outcomes: list[str] = []

    def read(offset: int) -> None:
        try:
            assert reader.read(window, offset, READ) == CONTENT[offset : offset + READ]
        except Corrupt:
            outcomes.append("corrupt")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(read, offsets))
    assert outcomes


def test_a_whole_read_of_sound_bytes_in_disorder_is_no_error(open_reader: OpenReader) -> None:
    reader, window = open_reader(CONTENT[: 4 * MIB]), Window()
    for first in range(0, 4 * MIB, 4 * READ):
        for number in (2, 0, 3, 1):
            offset = first + number * READ
            assert reader.read(window, offset, READ) == CONTENT[offset : offset + READ]


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES])
def test_a_body_that_breaks_off_is_resumed_without_a_gap(
    open_reader: OpenReader, store: MemStore, after: int
) -> None:
    reader = open_reader(CONTENT[:MIB])
    store.fail_next(Unavailable("b/key", "the body broke off"), "get", after_bytes=after)
    assert read_all(reader) == CONTENT[:MIB]
    whole = after // PIECE_BYTES * PIECE_BYTES
    resumed = (whole, MIB) if whole else None
    assert [call.span for call in store.calls()] == [None, resumed]


def test_what_the_store_gave_up_is_not_asked_for_again(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader = open_reader(CONTENT[:READ])
    store.fail_next(Unavailable("b/key", "GET answered 501"), "get")
    with pytest.raises(Unavailable, match="501"):
        reader.read(Window(), 0, READ)
    assert store.counts() == {"get": 1}


def test_a_body_that_breaks_off_again_and_again_is_asked_for_ever_more_seldom(
    open_reader: OpenReader, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(reader_module, "RESUME_WAIT_S", 0.1)
    monkeypatch.setattr(reader_module, "time", SimpleNamespace(sleep=waits.append))
    reader = open_reader(CONTENT[:MIB])
    for after in [0] * 8 + [PIECE_BYTES, 0]:
        store.fail_next(Unavailable("b/key", "the body broke off"), "get", after_bytes=after)
    assert reader.read(Window(), 0, MIB) == CONTENT[:MIB]
    bounds = [min(0.1 * 2**n, 8.0) for n in range(8)] + [0.1, 0.2]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_a_failure_reaches_the_reader_that_needs_the_bytes_and_the_next_read_tries_again(
    open_reader: OpenReader, store: MemStore
) -> None:
    reader = open_reader(CONTENT[:MIB])
    store.fail_next(TimedOut("b/key", "no progress"), "get")
    with pytest.raises(TimedOut):
        reader.read(Window(), 0, READ)
    assert reader.read(Window(), 0, READ) == CONTENT[:READ]


def test_a_failure_ahead_does_not_hurt_the_bytes_that_are_there(
    open_reader: OpenReader, store: MemStore
) -> None:
    def fail(call: Call) -> None:
        if call.span and call.span[0] >= 2 * MIB:
            raise TimedOut("b/key", "no progress")

    store.before = fail
    # In the middle of a long read from the start.
    start = 7 * MIB // 4
    reader = open_reader(CONTENT[: 8 * MIB])
    window = Window(began=0, position=start, count=start)
    assert reader.read(window, start, READ) == CONTENT[start : start + READ]
    with pytest.raises(TimedOut):
        reader.read(window, 4 * MIB, READ)


@pytest.mark.semantics("H2")
def test_a_closed_reader_lets_nobody_go_on_asking_the_store(
    open_reader: OpenReader, store: MemStore
) -> None:
    """A mount that ends would wait for what was fetched ahead, until its deadline."""
    ended = threading.Event()

    def wait(call: Call) -> None:
        if call.span and call.span[0] >= 2 * MIB:
            operation = current(30.0)
            while operation.left():
                time.sleep(0.001)
                # Bytes that come give no more time.
                operation.progress()
            ended.set()
            raise TimedOut("b/key", "no progress")

    store.before = wait
    start = 7 * MIB // 4
    reader = open_reader(CONTENT[: 8 * MIB])
    window = Window(began=0, position=start, count=start)
    assert reader.read(window, start, READ) == CONTENT[start : start + READ]
    assert not ended.is_set()
    reader.close()
    assert ended.wait(30)


@pytest.mark.semantics("R9")
def test_a_reader_does_not_wait_longer_than_its_deadline(
    open_reader: OpenReader, store: MemStore
) -> None:
    gate = threading.Event()

    def wait(call: Call) -> None:
        gate.wait(30)

    reader = open_reader(CONTENT[:MIB])
    store.before = wait
    try:
        with within(0.01), pytest.raises(TimedOut):
            reader.read(Window(), 0, READ)
    finally:
        gate.set()
    assert reader.read(Window(), 0, READ) == CONTENT[:READ]


@pytest.mark.parametrize("size", [MIB, PIECE_BYTES])
def test_a_failure_that_took_long_is_repeated_at_once_for_a_moment(
    store: MemStore, pool: ThreadPoolExecutor, clock: FakeClock, size: int
) -> None:
    info = put_bytes(store, "b", "key", CONTENT[:size])
    reader = Reader(store, Memory(MIB), pool, "b", info, timeout_s=30, clock=clock)

    def silence(call: Call) -> None:
        clock.advance(60)
        raise TimedOut("b/key", "silence")

    store.before = silence
    with pytest.raises(TimedOut, match="silence"):
        reader.read(Window(), 0, READ)
    asked = len(store.calls())
    store.before = lambda call: None
    with pytest.raises(Unavailable, match="a moment ago"):
        reader.read(Window(), 0, READ)
    assert len(store.calls()) == asked
    clock.advance(reader_module.REPEAT_S)
    assert reader.read(Window(), 0, READ) == CONTENT[:READ]
    reader.close()


def test_one_operation_may_read_for_long_while_bytes_come(
    open_reader: OpenReader, store: MemStore, clock: FakeClock
) -> None:
    # Each range takes 40 s of the 60 that an operation may go without progress.
    reader, window = open_reader(CONTENT), Window()
    store.before = lambda call: clock.advance(40)
    token = deadline._current.set(Deadline(60.0, clock=clock))
    try:
        for number in (9, 3, 11, 1, 7):
            assert len(reader.read(window, number * MIB, READ)) == READ
    finally:
        deadline._current.reset(token)


@pytest.mark.parametrize("size", [MIB, PIECE_BYTES])
def test_a_fault_of_the_fetcher_is_an_error_and_not_a_hang(
    open_reader: OpenReader,
    store: MemStore,
    expected_logs: Callable[[str], None],
    size: int,
) -> None:
    def fault(call: Call) -> None:
        raise ZeroDivisionError

    reader = open_reader(CONTENT[:size])
    store.before = fault
    expected_logs("fetching b/key")
    with pytest.raises(FsError, match="ZeroDivisionError while fetching"):
        reader.read(Window(), 0, READ)


def test_a_closed_reader_refuses_and_holds_nothing(open_reader: OpenReader) -> None:
    memory = Memory(64 * MIB)
    before = memory.share()
    reader = open_reader(CONTENT, memory=memory)
    window = Window()
    for offset in range(0, 4 * MIB, READ):
        reader.read(window, offset, READ)
    reader.close()
    with pytest.raises(BadHandle):
        reader.read(window, 0, READ)
    pause = threading.Event()
    while memory.in_flight:
        pause.wait(0.001)
    assert memory.cached == 0
    assert memory.share() == before


# -- bounded memory -------------------------------------------------------------------------------


def test_many_threads_on_many_files_stay_within_the_memory_and_finish(
    store: MemStore, pool: ThreadPoolExecutor
) -> None:
    limit, size = 4 * MIB, 3 * MIB
    memory = Memory(limit)
    seen: list[int] = []
    infos = [put_bytes(store, "b", f"{n}", CONTENT[n : n + size]) for n in range(8)]
    store.before = lambda call: seen.append(memory.held)
    readers = [Reader(store, memory, pool, "b", info, timeout_s=60.0) for info in infos]

    def work(number: int) -> None:
        reader, window = readers[number % 8], Window()
        generator = random.Random(number)
        # Half of them read forward, half jump.
        offsets = list(range(0, size, READ))
        if number >= 16:
            offsets = [generator.randrange(size) for _ in offsets]
        for offset in offsets:
            expected = CONTENT[number % 8 :][:size][offset : offset + READ]
            assert reader.read(window, offset, READ) == expected

    with ThreadPoolExecutor(32) as threads:
        for job in [threads.submit(work, number) for number in range(32)]:
            job.result(timeout=90)
    assert max(seen) <= limit
    for reader in readers:
        reader.close()
