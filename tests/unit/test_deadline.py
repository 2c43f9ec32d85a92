"""Deadlines: what is left, what progress does, and whose it is."""

from __future__ import annotations

import threading

import pytest

from allasfs.deadline import Deadline, current, within
from allasfs.errors import TimedOut
from tests.fakes.clock import FakeClock


def test_time_runs_out(clock: FakeClock) -> None:
    deadline = Deadline(10.0, clock=clock)
    assert deadline.left() == 10.0
    clock.advance(4)
    assert deadline.check("x") == 6.0
    clock.advance(7)
    assert deadline.left() == 0.0
    with pytest.raises(TimedOut, match=r"^thing: no progress within 10 s$"):
        deadline.check("thing")


def test_progress_gives_the_whole_time_again(clock: FakeClock) -> None:
    deadline = Deadline(10.0, clock=clock)
    for _ in range(5):
        clock.advance(9)
        deadline.progress()
    assert deadline.left() == 10.0


def test_what_was_ended_gets_no_time_by_progress(clock: FakeClock) -> None:
    deadline = Deadline(10.0, clock=clock)
    deadline.end()
    deadline.progress()
    assert deadline.left() == 0.0


def test_the_operation_s_deadline_is_found_by_everything_inside_it() -> None:
    with within(30.0) as outer:
        assert current(5.0) is outer
        with within(3.0) as inner:
            assert current(5.0) is inner
        assert current(5.0) is outer
    assert current(5.0) is not outer


def test_outside_of_an_operation_there_is_a_new_deadline_each_time() -> None:
    assert current(5.0).seconds == 5.0
    assert current(5.0) is not current(5.0)


def test_the_deadline_ends_with_an_operation_that_fails() -> None:
    with pytest.raises(TimedOut), within(1.0):
        raise TimedOut
    assert current(5.0).seconds == 5.0


def test_another_thread_has_its_own() -> None:
    found = []
    with within(30.0):
        thread = threading.Thread(target=lambda: found.append(current(5.0).seconds))
        thread.start()
        thread.join()
    assert found == [5.0]
