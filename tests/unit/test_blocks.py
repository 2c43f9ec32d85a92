"""Extents that grow while readers wait, and the budget that all of them share."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs import heap
from allasfs.deadline import Deadline
from allasfs.errors import TimedOut, Unavailable
from allasfs.store.api import PIECE_BYTES
from allasfs.transfer.blocks import WORTH_TRIMMING, Extent, Memory
from allasfs.transfer.readahead import TOLERANCE, Window, ranges
from tests.fakes.clock import FakeClock

KIB = 1024
MIB = 1024 * KIB
READ = 128 * KIB
NOW = Deadline(0.0)


def soon() -> Deadline:
    """A deadline that is far away, from now on."""
    return Deadline(30.0)


def filled(start: int, data: bytes) -> Extent:
    extent = Extent(start, start + len(data))
    for first in range(0, len(data), PIECE_BYTES):
        extent.append(data[first : first + PIECE_BYTES])
    return extent


PATTERN = bytes(range(251)) * 4000
spans = st.tuples(st.integers(0, len(PATTERN)), st.integers(0, len(PATTERN))).map(sorted)


@given(spans)
def test_slices_are_the_bytes_of_the_span(span: list[int]) -> None:
    start, stop = span
    extent = filled(5000, PATTERN)
    assert b"".join(extent.slices(5000 + start, 5000 + stop)) == PATTERN[start:stop]


def test_a_reader_waits_for_its_own_bytes_only() -> None:
    extent = Extent(0, 3 * PIECE_BYTES)
    extent.append(bytes(PIECE_BYTES))
    extent.wait(PIECE_BYTES, NOW, "key")
    with pytest.raises(TimedOut, match=r"^key: no bytes"):
        extent.wait(PIECE_BYTES + 1, NOW, "key")
    assert not extent.is_done


def test_a_waiting_reader_goes_on_when_its_bytes_come() -> None:
    extent = Extent(0, 10)
    thread = threading.Thread(target=lambda: extent.wait(10, soon(), "key"))
    thread.start()
    extent.append(b"01234")
    extent.append(b"56789")
    thread.join(30)
    assert not thread.is_alive()
    assert extent.is_done


def test_bytes_that_trickle_in_are_progress(clock: FakeClock) -> None:
    extent, deadline = Extent(0, 4), Deadline(60.0, clock=clock)
    thread = threading.Thread(target=lambda: extent.wait(4, deadline, "key"))
    thread.start()
    for _ in range(4):
        clock.advance(40)
        extent.append(b"x")
        # Nothing else tells that the reader has noticed.
        while deadline.left() < 60.0:
            thread.join(0.001)
    thread.join(30)
    assert not thread.is_alive()


def test_a_waiting_reader_gets_the_fetcher_s_error() -> None:
    extent = Extent(0, 10)
    errors: list[Exception] = []

    def read() -> None:
        try:
            extent.wait(10, soon(), "key")
        except Unavailable as exc:
            errors.append(exc)

    thread = threading.Thread(target=read)
    thread.start()
    error = Unavailable("key", "gone")
    extent.fail(error)
    thread.join(30)
    assert errors == [error]
    assert extent.is_failed


def test_bytes_that_are_here_are_given_although_the_rest_failed() -> None:
    extent = Extent(0, 10)
    extent.append(b"01234")
    extent.fail(Unavailable("key", "gone"))
    extent.wait(5, NOW, "key")
    with pytest.raises(Unavailable, match="gone"):
        extent.wait(6, NOW, "key")


def test_an_abandoned_extent_is_useless_unless_it_is_whole() -> None:
    half, whole = Extent(0, 10), filled(0, b"0123456789")
    half.abandon()
    whole.abandon()
    assert (half.is_failed, whole.is_failed) == (True, False)


def test_extents_in_flight_have_half_of_the_budget() -> None:
    memory = Memory(1000)
    assert memory.try_begin(300)
    assert not memory.try_begin(201)
    assert memory.try_begin(200)
    assert memory.in_flight == 500
    memory.end(300)
    assert memory.try_begin(201)


def test_one_extent_may_be_larger_than_the_budget_when_it_is_alone() -> None:
    memory = Memory(1000)
    memory.begin(5000, NOW, "key")
    assert not memory.try_begin(1)
    memory.end(5000)
    assert memory.try_begin(1)


def test_waiting_for_memory_ends_in_timed_out_and_takes_none() -> None:
    memory = Memory(1000)
    memory.begin(400, NOW, "key")
    with pytest.raises(TimedOut, match=r"^key: no memory free"):
        memory.begin(400, NOW, "key")
    assert memory.in_flight == 400


def test_a_waiting_reader_goes_on_when_memory_is_given_back() -> None:
    memory = Memory(1000)
    memory.begin(400, NOW, "first")
    thread = threading.Thread(target=lambda: memory.begin(400, soon(), "second"))
    thread.start()
    memory.end(400)
    thread.join(30)
    assert not thread.is_alive()
    assert memory.in_flight == 400


def test_finished_extents_have_the_rest_and_the_least_used_go_first() -> None:
    memory = Memory(1000)
    memory.begin(500, NOW, "key")
    first, second, third = (filled(0, bytes(200)) for _ in range(3))
    memory.keep("first", first)
    memory.keep("second", second)
    assert memory.find("first") is first
    memory.keep("third", third)
    assert memory.cached == 400
    assert memory.find("second") is None
    assert memory.find("first") is first
    assert memory.find("third") is third
    # What is fetched next needs their room.
    memory.end(500)
    memory.keep("fourth", filled(0, bytes(500)))
    assert memory.cached == 900
    memory.begin(300, NOW, "key")
    assert memory.cached == 700
    assert memory.find("first") is None


def test_an_extent_beyond_the_budget_is_not_kept_and_drives_none_out() -> None:
    memory = Memory(1000)
    memory.begin(100, NOW, "key")
    memory.keep("small", filled(0, bytes(200)))
    memory.keep("large", filled(0, bytes(901)))
    assert memory.find("large") is None
    assert memory.find("small") is not None


def test_a_dropped_extent_is_forgotten_and_dropping_nothing_is_no_error() -> None:
    memory = Memory(1000)
    memory.keep("key", filled(0, bytes(200)))
    memory.drop("key")
    memory.drop("key")
    assert (memory.cached, memory.find("key")) == (0, None)


def test_readers_share_the_budget() -> None:
    memory = Memory(10 * KIB)
    assert memory.share() == 10 * KIB
    memory.join()
    memory.join()
    assert memory.share() == 5 * KIB
    memory.leave()
    assert memory.share() == 10 * KIB


@pytest.mark.parametrize("readers", [1, 2, 3, 4, 16])
def test_nothing_is_forgotten_that_a_reader_in_order_will_need(readers: int) -> None:
    memory, size = Memory(128 * MIB), 200 * MIB
    windows = [Window() for _ in range(readers)]
    reach = [0] * readers
    starts: list[list[tuple[int, int]]] = [[] for _ in range(readers)]
    for _ in windows:
        memory.join()
    for offset, (number, window) in product(range(0, size, READ), enumerate(windows)):
        ahead = min(window.read(offset, READ, most=memory.share()), size)
        if reach[number] < offset + READ or (
            reach[number] < ahead and window.is_low(reach[number])
        ):
            for start, stop in ranges(reach[number], ahead, window.step):
                assert memory.try_begin(stop - start)
                memory.end(stop - start)
                memory.keep((number, start), Extent(start, stop))
                starts[number].append((start, stop))
            reach[number] = ahead
        for start, stop in [*starts[number]]:
            assert memory.find((number, start)) is not None
            if stop < offset - TOLERANCE:
                memory.drop((number, start))
                starts[number].remove((start, stop))


def test_free_memory_goes_back_after_the_last_reader_of_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trimmed: list[int] = []
    monkeypatch.setattr(heap, "trim", lambda: trimmed.append(1))
    memory = Memory(64 * MIB)

    def read(count: int) -> None:
        memory.begin(count, NOW, "key")
        memory.end(count)

    memory.join()
    memory.join()
    read(WORTH_TRIMMING)
    memory.leave()
    assert not trimmed
    memory.leave()
    assert trimmed == [1]
    # Not for each small file.
    memory.join()
    read(4 * KIB)
    memory.leave()
    assert trimmed == [1]


def test_the_heap_is_set_and_trimmed_where_the_c_library_can_do_it() -> None:
    code = "from allasfs import heap; heap.keep(); heap.trim()"
    subprocess.run([sys.executable, "-c", code], check=True)
