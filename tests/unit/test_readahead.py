"""The window planner: how far ahead of a reader bytes should be on their way."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs.config import KIB, MIB
from allasfs.transfer.readahead import (
    KERNEL_READ,
    LARGEST_RANGE,
    LARGEST_WINDOW,
    LONG_READ,
    SMALLEST_RANGE,
    TOLERANCE,
    WIDEST_SPAN,
    Window,
    ranges,
)

PLENTY = 1024 * MIB
READ = 128 * KIB


def fetched(reads: Iterable[tuple[int, int]]) -> int:
    """Return how many bytes are fetched for these reads, as the reader does it."""
    window, reach, count = Window(), 0, 0
    for offset, length in reads:
        ahead = window.read(offset, length, most=PLENTY)
        if not offset <= reach:
            reach = offset
        if reach < offset + length or (reach < ahead and window.is_low(reach)):
            count += ahead - max(offset, reach)
            reach = ahead
    return count


def test_the_first_read_at_the_start_fetches_no_more_than_a_header() -> None:
    assert Window().read(0, 4 * KIB, most=PLENTY) == KERNEL_READ
    assert Window().read(0, READ, most=PLENTY) == 2 * KERNEL_READ


def test_the_first_read_inside_a_file_asks_for_itself_only() -> None:
    assert Window().read(5 * MIB, READ, most=PLENTY) == 5 * MIB + READ
    # Not even near the start: the header of a file may be anywhere in it.
    assert Window().read(4 * KIB, READ, most=PLENTY) == 4 * KIB + READ


def test_the_second_read_in_a_row_after_a_jump_starts_small() -> None:
    window = Window()
    window.read(100 * MIB, READ, most=PLENTY)
    ahead = window.read(100 * MIB + READ, READ, most=PLENTY)
    assert ahead == 100 * MIB + 2 * READ + KERNEL_READ


def test_from_the_start_four_times_as_much_is_under_way_as_was_read_up_to_the_limit() -> None:
    window = Window()
    for offset in range(0, 64 * MIB, READ):
        ahead = window.read(offset, READ, most=PLENTY)
        position = offset + READ
        wanted = 3 * position if offset else KERNEL_READ
        assert ahead == position + min(wanted, LARGEST_WINDOW)


def test_a_long_read_after_a_jump_is_like_one_from_the_start() -> None:
    window = Window()
    start = 100 * MIB
    for offset in range(start, start + LONG_READ, READ):
        ahead = window.read(offset, READ, most=PLENTY)
    assert ahead == start + 4 * LONG_READ


def test_a_region_costs_little_more_than_its_bytes() -> None:
    for length in (300 * KIB, 900 * KIB, 2 * MIB, 3 * MIB):
        reads = [(50 * MIB + offset, 64 * KIB) for offset in range(0, length, 64 * KIB)]
        assert fetched(reads) <= 1.5 * length + KERNEL_READ


@pytest.mark.parametrize("first", [0, 700 * KIB])
@pytest.mark.parametrize("gap", [4 * KIB, 28 * KIB, 60 * KIB, 400 * KIB, MIB, 5 * MIB])
def test_blocks_with_gaps_cost_at_most_seven_times_their_bytes(first: int, gap: int) -> None:
    count, length = 1000, 4 * KIB
    reads = [(first + number * (length + gap), length) for number in range(count)]
    # What they cover, and three times as much as was read ahead of it.
    assert fetched(reads) <= (WIDEST_SPAN + 3) * count * length + KERNEL_READ


def test_blocks_anywhere_cost_little_more_than_their_bytes() -> None:
    draw = random.Random(5)
    count, length = 2000, 4 * KIB
    reads = [(draw.randrange(1, 256) * MIB + draw.randrange(MIB), length) for _ in range(count)]
    assert fetched(reads) <= 2 * count * length


def test_a_jump_resets_the_window() -> None:
    window = Window()
    window.read(0, READ, most=PLENTY)
    window.read(READ, READ, most=PLENTY)
    assert window.read(500 * MIB, READ, most=PLENTY) == 500 * MIB + READ


def test_a_jump_back_to_the_start_begins_anew() -> None:
    window = Window()
    for offset in range(0, 8 * MIB, READ):
        window.read(offset, READ, most=PLENTY)
    assert window.read(0, READ, most=PLENTY) == 2 * KERNEL_READ


def test_reads_that_overtake_each_other_go_forward_all_the_same() -> None:
    window = Window()
    window.read(0, READ, most=PLENTY)
    for number in (2, 1, 4, 3, 6, 5, 8, 16, 9):
        ahead = window.read(number * READ, READ, most=PLENTY)
        assert ahead >= window.position + 3 * window.count - KERNEL_READ
    # The second one may be the first that comes.
    window = Window()
    assert window.read(READ, READ, most=PLENTY) == 2 * READ
    assert window.read(0, READ, most=PLENTY) == 8 * READ


def test_larger_gaps_are_jumps() -> None:
    window = Window()
    for offset in range(0, 8 * MIB, READ):
        window.read(offset, READ, most=PLENTY)
    position = window.position
    assert window.read(position + TOLERANCE, READ, most=PLENTY) > position + 8 * MIB
    position = window.position
    assert window.read(position + TOLERANCE + 1, READ, most=PLENTY) == window.position


def test_the_memory_budget_limits_the_window() -> None:
    window = Window(began=0, position=32 * MIB, count=32 * MIB)
    assert window.read(32 * MIB, READ, most=2 * MIB) == 33 * MIB + READ
    assert window.read(32 * MIB + READ, READ, most=-1) == 32 * MIB + 2 * READ


def test_what_is_read_again_is_no_progress() -> None:
    window = Window()
    for _ in range(100):
        ahead = window.read(0, READ, most=PLENTY)
    assert ahead == 4 * READ


def test_where_memory_is_short_there_are_fewer_ranges_rather_than_small_ones() -> None:
    window = Window(began=0, position=32 * MIB, count=32 * MIB)
    window.read(32 * MIB, READ, most=32 * MIB)
    assert (window.ahead, window.step) == (16 * MIB, 8 * MIB)
    window.read(32 * MIB + READ, READ, most=PLENTY)
    assert (window.ahead, window.step) == (64 * MIB, 16 * MIB)


def test_a_long_read_asks_for_the_next_range_as_soon_as_it_has_room() -> None:
    window = Window(began=0, position=128 * MIB, count=128 * MIB)
    reach = window.read(128 * MIB, READ, most=PLENTY)
    assert reach - window.position == window.ahead == 4 * window.step
    assert not window.is_low(reach)
    assert not window.is_low(reach - window.step + READ)
    assert window.is_low(reach - window.step)
    # Where memory is short there would be more requests, and no more of them at once.
    window.read(128 * MIB + READ, READ, most=32 * MIB)
    reach = window.position + window.ahead
    assert not window.is_low(reach - window.step)
    assert window.is_low(window.position + window.ahead // 3 - READ)


def test_a_short_read_asks_for_more_when_little_is_left() -> None:
    window = Window()
    reach = window.read(0, READ, most=PLENTY)
    assert not window.is_low(reach - window.ahead // 2)
    assert window.is_low(reach - window.ahead // 3 * 2 - READ // 2)


def test_a_window_is_cut_into_ranges_that_run_in_parallel() -> None:
    assert ranges(0, 32 * MIB, 8 * MIB) == [
        (start, start + 8 * MIB) for start in range(0, 32 * MIB, 8 * MIB)
    ]
    assert ranges(0, MIB // 2, 0) == [(0, MIB // 2)]


@given(st.integers(0, 10 * MIB), st.integers(0, 300 * MIB), st.integers(0, LARGEST_WINDOW))
def test_ranges_cover_the_span_once_and_none_is_too_large(
    start: int, length: int, window: int
) -> None:
    found = ranges(start, start + length, window)
    edges = [start, *(stop for _, stop in found)]
    assert [first for first, _ in found] == edges[:-1]
    assert edges[-1] == start + length
    sizes = [stop - first for first, stop in found]
    assert all(SMALLEST_RANGE <= size <= LARGEST_RANGE for size in sizes[:-1])
    assert all(size <= LARGEST_RANGE for size in sizes)


@given(
    st.lists(st.tuples(st.integers(0, 50 * MIB), st.integers(1, MIB)), max_size=30),
    st.integers(0, 64 * MIB),
)
def test_what_is_asked_ahead_holds_the_read_and_respects_the_budget(
    reads: list[tuple[int, int]], most: int
) -> None:
    window = Window()
    for offset, length in reads:
        ahead = window.read(offset, length, most=most)
        assert ahead >= offset + length
        assert ahead <= window.position + max(most, 0)
