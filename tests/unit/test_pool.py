"""The pool of connections: never more than its limit, never an old one, never two users of one."""

from __future__ import annotations

import threading

import pytest

from allasfs.deadline import Deadline
from allasfs.errors import TimedOut
from allasfs.store.pool import MAX_IDLE_S, ConnectionPool
from tests.fakes.clock import FakeClock


def soon() -> Deadline:
    """A deadline that is far away, from now on."""
    return Deadline(30.0)


class Connection:
    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


class Maker:
    def __init__(self) -> None:
        self.made: list[Connection] = []
        self.error: Exception | None = None

    def __call__(self) -> Connection:
        if self.error is not None:
            raise self.error
        self.made.append(Connection())
        return self.made[-1]

    @property
    def open(self) -> list[Connection]:
        return [made for made in self.made if not made.is_closed]


@pytest.fixture
def make() -> Maker:
    return Maker()


@pytest.fixture
def pool(make: Maker, clock: FakeClock) -> ConnectionPool[Connection]:
    return ConnectionPool(make, 2, clock=clock)


def test_a_connection_is_used_again(pool: ConnectionPool[Connection]) -> None:
    first = pool.acquire(soon())
    pool.release(first, reusable=True)
    assert pool.acquire(soon()) is first


def test_two_users_have_two_connections(pool: ConnectionPool[Connection]) -> None:
    assert pool.acquire(soon()) is not pool.acquire(soon())


def test_the_youngest_idle_connection_is_used_first(
    pool: ConnectionPool[Connection], clock: FakeClock
) -> None:
    old, young = pool.acquire(soon()), pool.acquire(soon())
    pool.release(old, reusable=True)
    clock.advance(1)
    pool.release(young, reusable=True)
    assert pool.acquire(soon()) is young


def test_a_connection_that_is_not_reusable_is_closed(
    pool: ConnectionPool[Connection], make: Maker
) -> None:
    first = pool.acquire(soon())
    pool.release(first, reusable=False)
    assert first.is_closed
    assert pool.acquire(soon()) is not first
    assert len(make.open) == 1


def test_connections_that_idled_too_long_are_closed_not_used(
    pool: ConnectionPool[Connection], make: Maker, clock: FakeClock
) -> None:
    old = [pool.acquire(soon()), pool.acquire(soon())]
    pool.release(old[0], reusable=True)
    pool.release(old[1], reusable=True)
    clock.advance(MAX_IDLE_S + 1)
    assert pool.acquire(soon()) not in old
    assert all(connection.is_closed for connection in old)
    assert len(make.open) == 1


def test_a_connection_is_used_until_just_before_it_is_too_old(
    pool: ConnectionPool[Connection], clock: FakeClock
) -> None:
    first = pool.acquire(soon())
    pool.release(first, reusable=True)
    clock.advance(MAX_IDLE_S - 1)
    assert pool.acquire(soon()) is first


def test_waiting_for_a_busy_pool_ends_in_timed_out(pool: ConnectionPool[Connection]) -> None:
    pool.acquire(soon())
    pool.acquire(soon())
    with pytest.raises(TimedOut, match="all are busy"):
        pool.acquire(Deadline(0.01))


def test_one_who_gave_up_takes_no_place(pool: ConnectionPool[Connection]) -> None:
    busy = [pool.acquire(soon()), pool.acquire(soon())]
    with pytest.raises(TimedOut):
        pool.acquire(Deadline(0.0))
    for connection in busy:
        pool.release(connection, reusable=True)
    assert {pool.acquire(soon()), pool.acquire(soon())} == set(busy)


def test_a_waiting_user_gets_what_another_gives_back(pool: ConnectionPool[Connection]) -> None:
    first, _ = pool.acquire(soon()), pool.acquire(soon())
    got: list[Connection] = []
    waiting = threading.Thread(target=lambda: got.append(pool.acquire(soon())))
    waiting.start()
    pool.release(first, reusable=True)
    waiting.join(30)
    assert got == [first]


def test_a_connection_that_cannot_be_made_takes_no_place(
    pool: ConnectionPool[Connection], make: Maker
) -> None:
    for _ in range(5):
        make.error = OSError("no route")
        with pytest.raises(OSError, match="no route"):
            pool.acquire(Deadline(0.0))
    make.error = None
    pool.acquire(Deadline(0.0))
    pool.acquire(Deadline(0.0))


def test_close_closes_what_is_idle_and_leaves_what_is_used(
    pool: ConnectionPool[Connection],
) -> None:
    idle, used = pool.acquire(soon()), pool.acquire(soon())
    pool.release(idle, reusable=True)
    pool.close()
    assert (idle.is_closed, used.is_closed) == (True, False)
