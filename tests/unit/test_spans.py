"""Spans against a set of integers."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from allasfs.transfer.spans import Spans

# Small, so that spans often touch.
END = 12
bounds = st.integers(0, END)
# ("add", start, stop) or ("cut", size, 0)
steps = st.lists(st.tuples(st.sampled_from(["add", "add", "add", "cut"]), bounds, bounds))


def build(actions: list[tuple[str, int, int]]) -> tuple[Spans, set[int]]:
    spans, model = Spans(), set[int]()
    for action, first, second in actions:
        if action == "add":
            spans.add(first, second)
            model |= set(range(first, second))
        else:
            spans.cut(first)
            model = {number for number in model if number < first}
    return spans, model


@settings(max_examples=200)
@given(steps)
def test_spans_hold_what_was_added_and_not_cut(actions: list[tuple[str, int, int]]) -> None:
    spans, model = build(actions)
    assert {number for start, stop in spans for number in range(start, stop)} == model
    assert spans.total == len(model)


@settings(max_examples=200)
@given(steps)
def test_spans_are_disjoint_in_order_and_joined(actions: list[tuple[str, int, int]]) -> None:
    spans, _ = build(actions)
    edges = [edge for span in spans for edge in span]
    assert all(first < second for first, second in itertools.pairwise(edges))


@settings(max_examples=200)
@given(steps, bounds, bounds)
def test_missing_is_what_the_set_lacks(
    actions: list[tuple[str, int, int]], start: int, stop: int
) -> None:
    spans, model = build(actions)
    gaps = spans.missing(start, stop)
    assert {number for gap in gaps for number in range(*gap)} == set(range(start, stop)) - model
    edges = [edge for gap in gaps for edge in gap]
    assert all(first < second for first, second in itertools.pairwise(edges))
