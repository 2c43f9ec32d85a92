"""The window planner: how far ahead of a reader bytes should be on their way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from allasfs.config import KIB, MIB
from allasfs.transfer.readahead import (
    FIRST_WINDOW,
    KERNEL_READ,
    LARGEST_RANGE,
    LARGEST_WINDOW,
    SMALLEST_RANGE,
    TOLERANCE,
    Window,
    ranges,
)

PLENTY = 1024 * MIB
READ = 128 * KIB


def test_the_first_read_at_the_start_looks_one_window_ahead() -> None:
    assert Window().read(0, READ, most=PLENTY) == READ + FIRST_WINDOW


def test_the_first_read_inside_a_file_asks_for_itself_only() -> None:
    assert Window().read(5 * MIB, READ, most=PLENTY) == 5 * MIB + READ
    # Not even near the start: the header of a file may be anywhere in it.
    assert Window().read(4 * KIB, READ, most=PLENTY) == 4 * KIB + READ


def test_the_second_read_in_a_row_after_a_jump_starts_small() -> None:
    window = Window()
    window.read(100 * MIB, READ, most=PLENTY)
    ahead = window.read(100 * MIB + READ, READ, most=PLENTY)
    assert ahead == 100 * MIB + 2 * READ + KERNEL_READ


def test_the_window_doubles_with_each_refill_up_to_its_limit() -> None:
    window = Window()
    sizes = []
    for _ in range(10):
        window.refilled()
        sizes.append(window.size)
    assert sizes[:3] == [2 * FIRST_WINDOW, 4 * FIRST_WINDOW, 8 * FIRST_WINDOW]
    assert sizes[-1] == LARGEST_WINDOW


def test_a_jump_resets_the_window() -> None:
    window = Window()
    window.read(0, READ, most=PLENTY)
    window.refilled()
    assert window.read(500 * MIB, READ, most=PLENTY) == 500 * MIB + READ
    assert window.size == 0


def test_a_jump_backward_resets_the_window() -> None:
    window = Window()
    for offset in range(0, 8 * MIB, READ):
        window.read(offset, READ, most=PLENTY)
    assert window.read(0, READ, most=PLENTY) == READ


def test_reads_that_overtake_each_other_go_forward_all_the_same() -> None:
    window = Window()
    for number in (0, 2, 1, 4, 3, 6, 5, 8):
        ahead = window.read(number * READ, READ, most=PLENTY)
        assert ahead >= window.position + FIRST_WINDOW


def test_small_gaps_are_no_jumps_and_larger_ones_are() -> None:
    window = Window()
    window.read(0, READ, most=PLENTY)
    assert window.read(READ + TOLERANCE, READ, most=PLENTY) > 2 * READ + TOLERANCE
    position = window.position
    assert window.read(position + TOLERANCE + 1, READ, most=PLENTY) == window.position


def test_the_memory_budget_limits_the_window() -> None:
    window = Window(size=LARGEST_WINDOW)
    assert window.read(0, READ, most=MIB) == READ + MIB


def test_a_window_is_cut_into_ranges_that_run_in_parallel() -> None:
    assert ranges(0, 32 * MIB, 32 * MIB) == [
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
        window.refilled()
