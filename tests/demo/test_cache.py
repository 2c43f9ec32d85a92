"""The cache server's commands, without a socket."""

import time

import pytest

from allasfs.demo.cache import LONGEST_DELTA_S, Cache


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    clock = [1_000_000_000.0]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    return clock


def test_get_returns_the_values_that_are_there() -> None:
    cache = Cache()
    cache.store(b"a", b"2", 0, b"one")
    cache.store(b"b", b"0", 0, b"two\r\n")
    answer = b"VALUE a 2 3\r\none\r\nVALUE b 0 5\r\ntwo\r\n\r\nEND\r\n"
    assert cache.get([b"a", b"missing", b"b"]) == answer


@pytest.mark.parametrize("absolute", [False, True])
def test_a_value_is_gone_when_its_time_is_over(now: list[float], absolute: bool) -> None:
    cache = Cache()
    cache.store(b"a", b"0", int(now[0]) + 60 if absolute else 60, b"x")
    now[0] += 59
    assert cache.get([b"a"]) != b"END\r\n"
    now[0] += 1
    assert cache.get([b"a"]) == b"END\r\n"


def test_an_expiry_of_30_days_still_counts_from_now(now: list[float]) -> None:
    cache = Cache()
    cache.store(b"a", b"0", LONGEST_DELTA_S, b"x")
    now[0] += LONGEST_DELTA_S - 1
    assert cache.get([b"a"]) != b"END\r\n"


def test_add_keeps_the_first_value() -> None:
    cache = Cache()
    assert cache.add(b"a", b"0", 0, b"1") == b"STORED\r\n"
    assert cache.add(b"a", b"0", 0, b"2") == b"NOT_STORED\r\n"
    assert cache.get([b"a"]) == b"VALUE a 0 1\r\n1\r\nEND\r\n"


def test_numbers_change_and_do_not_fall_below_0() -> None:
    cache = Cache()
    assert cache.change(b"n", 1) == b"NOT_FOUND\r\n"
    cache.store(b"n", b"0", 0, b"5")
    assert cache.change(b"n", 2) == b"7\r\n"
    assert cache.change(b"n", -9) == b"0\r\n"


def test_delete_forgets() -> None:
    cache = Cache()
    cache.store(b"a", b"0", 0, b"x")
    assert cache.delete(b"a") == b"DELETED\r\n"
    assert cache.delete(b"a") == b"NOT_FOUND\r\n"
    assert cache.get([b"a"]) == b"END\r\n"
