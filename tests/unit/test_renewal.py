"""One authentication for many threads, in time: on a clock that the tests move."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

from allasfs import deadline
from allasfs.errors import BadCredentials, HostUnreachable, SetupError
from allasfs.store.renewal import (
    ANOTHER_S,
    GIVE_UP_FACTOR,
    REFUSED_REST_S,
    RENEW_S,
    TOO_YOUNG_S,
    UNREACHABLE_REST_S,
    Endpoint,
    FixedToken,
    Grant,
    Renewing,
)
from tests.conftest import ExpectedLogs
from tests.fakes.clock import FakeClock

THREADS = 16
LIFE_S = 8 * 3600.0
TIMEOUT_S = 10.0


class FakeAsker:
    """Gives token-1, token-2, ...; may be held up, and may fail."""

    def __init__(self) -> None:
        self.address = "http://keystone.test/v3"
        self.ca_file: str | None = None
        self.facts: Mapping[str, str] = {"kind": "fake"}
        self.advice = ""
        self.is_impatient = True
        self.asked = 0
        self.life_s: float | None = LIFE_S
        self.error: Exception | None = None
        self.same_token = False
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answered = threading.Semaphore(0)

    def ask(self) -> Grant:
        self.asked += 1
        number = 1 if self.same_token else self.asked
        try:
            assert self.may_answer.wait(30)
            if self.error:
                raise self.error
            return Grant(Endpoint("http://swift.test/v1/a", f"token-{number}"), 5e9, self.life_s)
        finally:
            self.answered.release()


@pytest.fixture
def asker() -> FakeAsker:
    return FakeAsker()


@pytest.fixture
def auth(asker: FakeAsker, clock: FakeClock) -> Renewing:
    return Renewing(asker, timeout_s=TIMEOUT_S, clock=clock)


def in_threads(what: Callable[[], object]) -> list[object]:
    """Run it in 16 threads at once; return results and errors."""
    barrier = threading.Barrier(THREADS)

    def run() -> object:
        barrier.wait(30)
        try:
            return what()
        except SetupError as exc:
            return exc

    with ThreadPoolExecutor(THREADS) as pool:
        return [future.result(30) for future in [pool.submit(run) for _ in range(THREADS)]]


def wait_for_renewal(auth: Renewing, token: str) -> None:
    """Wait until a renewal in the background has brought this token."""
    give_up = threading.Event()
    for _ in range(3000):
        if auth.endpoint().token == token:
            return
        give_up.wait(0.001)
    pytest.fail(f"{token} did not come")


def settle() -> None:
    """Wait for the end of all authentications."""
    for thread in threading.enumerate():
        if thread.name == "allasfs-auth":
            thread.join(30)


def test_nobody_is_asked_before_the_first_endpoint(auth: Renewing, asker: FakeAsker) -> None:
    assert auth.describe() == {"kind": "fake"}
    assert auth.expires_at() is None
    assert asker.asked == 0


def test_first_endpoint_of_16_threads_is_one_authentication(
    auth: Renewing, asker: FakeAsker
) -> None:
    assert {e.token for e in in_threads(auth.endpoint) if isinstance(e, Endpoint)} == {"token-1"}
    assert asker.asked == 1
    assert auth.expires_at() == 5e9


def test_valid_token_is_used_again(auth: Renewing, asker: FakeAsker, clock: FakeClock) -> None:
    auth.endpoint()
    clock.advance(LIFE_S - RENEW_S - 1)
    assert auth.endpoint().token == "token-1"
    assert asker.asked == 1


def test_token_is_renewed_before_it_expires_and_nobody_waits(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    auth.endpoint()
    asker.may_answer.clear()
    clock.advance(LIFE_S - RENEW_S)
    old = in_threads(auth.endpoint)
    asker.may_answer.set()
    assert {e.token for e in old if isinstance(e, Endpoint)} == {"token-1"}
    wait_for_renewal(auth, "token-2")
    assert asker.asked == 2


@pytest.mark.semantics("T3")
def test_an_attempt_that_is_not_answered_does_not_hold_up_another_one(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    """The server forgot the first one: whoever waits, and whoever comes, gets its token."""
    asker.may_answer.clear()
    forgotten, asker.may_answer = asker.may_answer, threading.Event()
    first, ask = threading.Event(), asker.ask

    def silent_first() -> Grant:
        if not first.is_set():
            first.set()
            asker.asked += 1
            assert forgotten.wait(30)
            raise HostUnreachable("the first attempt")
        return ask()

    asker.ask = silent_first  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(auth.endpoint)
        assert first.wait(30)
        clock.advance(ANOTHER_S)
        asker.may_answer.set()
        assert waiting.result(30).token == "token-2"
    assert auth.endpoint().token == "token-2"
    forgotten.set()
    settle()
    # What comes of the first one is of no interest any more.
    assert auth.endpoint().token == "token-2"
    assert asker.asked == 2


def test_an_attempt_that_fails_beside_another_one_waits_for_that(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    outcomes = [threading.Event(), threading.Event()]
    begun = threading.Semaphore(0)

    def ask() -> Grant:
        number = asker.asked
        asker.asked += 1
        begun.release()
        assert outcomes[number].wait(30)
        if number == 0:
            raise HostUnreachable("no answer")
        return Grant(Endpoint("http://swift.test/v1/a", "token"), None, None)

    asker.ask = ask  # type: ignore[method-assign]
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(auth.endpoint)
        assert begun.acquire(timeout=30)
        clock.advance(ANOTHER_S)
        assert begun.acquire(timeout=30)
        outcomes[0].set()
        assert not waiting.done()
        outcomes[1].set()
        assert waiting.result(30).token == "token"


def test_who_may_not_be_asked_twice_is_not(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    asker.is_impatient = False
    asker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(auth.endpoint)
        clock.advance(2 * ANOTHER_S)
        with deadline.within(0.7), pytest.raises(HostUnreachable):
            auth.endpoint()
        asker.may_answer.set()
        assert waiting.result(30).token == "token-1"
    assert asker.asked == 1


@pytest.mark.parametrize("life_s", [4.0, 20.0])
def test_short_lived_token_is_used_for_three_quarters_of_its_life(
    auth: Renewing, asker: FakeAsker, clock: FakeClock, life_s: float
) -> None:
    asker.life_s = life_s
    auth.endpoint()
    clock.advance(life_s * 0.74)
    auth.endpoint()
    assert asker.asked == 1
    clock.advance(life_s * 0.02)
    auth.endpoint()
    wait_for_renewal(auth, "token-2")
    assert asker.asked == 2


def test_time_of_the_request_counts_against_the_life_of_the_token(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    asker.may_answer.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(auth.endpoint)
        while not asker.asked:
            pass
        clock.advance(LIFE_S + 1)
        asker.may_answer.set()
        assert first.result(30).token == "token-1"
    assert auth.endpoint().token == "token-2"


def test_expired_token_is_waited_for_by_all_and_asked_for_once(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    auth.endpoint()
    clock.advance(LIFE_S + 1)
    assert {e.token for e in in_threads(auth.endpoint) if isinstance(e, Endpoint)} == {"token-2"}
    assert asker.asked == 2


def test_token_without_known_end_is_kept(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    asker.life_s = None
    auth.endpoint()
    clock.advance(1e9)
    assert auth.endpoint().token == "token-1"


def test_16_threads_refused_with_one_token_are_one_authentication(
    auth: Renewing, asker: FakeAsker
) -> None:
    auth.endpoint()
    assert in_threads(lambda: auth.refused("token-1")) == [True] * THREADS
    assert asker.asked == 2
    assert auth.endpoint().token == "token-2"


def test_refusal_of_an_old_token_asks_nobody(auth: Renewing, asker: FakeAsker) -> None:
    auth.endpoint()
    assert auth.refused("token-0") is True
    assert asker.asked == 1


def test_server_that_gives_the_same_token_again_has_nothing_better(
    auth: Renewing, asker: FakeAsker
) -> None:
    asker.same_token = True
    auth.endpoint()
    assert auth.refused("token-1") is False


def test_store_that_refuses_every_token_does_not_cause_endless_authentication(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    """The young replacement is worth another attempt: two refusals in a row may be chance."""
    auth.endpoint()
    answers = [auth.refused(auth.endpoint().token) for _ in range(10)]
    assert answers == [True] * 10
    assert asker.asked == 2
    clock.advance(TOO_YOUNG_S)
    assert auth.refused("token-2") is True
    assert asker.asked == 3


def test_token_refused_after_an_idle_expiry_is_replaced(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    auth.endpoint()
    clock.advance(LIFE_S + 1)
    assert auth.refused(auth.endpoint().token) is True
    assert asker.asked == 3


def test_refused_token_is_never_given_again_even_if_the_service_is_down(
    auth: Renewing, asker: FakeAsker
) -> None:
    auth.endpoint()
    asker.error = HostUnreachable("down")
    with pytest.raises(HostUnreachable, match=r"^down$"):
        auth.refused("token-1")
    with pytest.raises(HostUnreachable, match=r"^down$"):
        auth.endpoint()
    asker.error = None
    assert auth.endpoint().token == "token-4"


def test_failure_reaches_every_waiting_thread_after_one_attempt(
    auth: Renewing, asker: FakeAsker
) -> None:
    asker.may_answer.clear()
    asker.error = HostUnreachable("down")
    timer = threading.Timer(0.2, asker.may_answer.set)
    timer.start()
    errors = in_threads(auth.endpoint)
    timer.join()
    assert [str(error) for error in errors] == ["down"] * THREADS
    assert len({id(error) for error in errors}) == THREADS
    assert asker.asked == 1


def test_unreachable_service_is_asked_again_by_the_next_operation(
    auth: Renewing, asker: FakeAsker
) -> None:
    asker.error = HostUnreachable("down")
    with pytest.raises(HostUnreachable):
        auth.endpoint()
    asker.error = None
    assert auth.endpoint().token == "token-2"


def test_refusing_service_is_left_alone_for_a_while(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    asker.error = BadCredentials("no")
    for _ in range(5):
        with pytest.raises(BadCredentials, match=r"^no$"):
            auth.endpoint()
    assert asker.asked == 1
    clock.advance(REFUSED_REST_S)
    asker.error = None
    assert auth.endpoint().token == "token-2"


def test_failed_renewal_keeps_the_old_token_to_its_end_and_warns(
    auth: Renewing, asker: FakeAsker, clock: FakeClock, expected_logs: ExpectedLogs
) -> None:
    expected_logs("^WARNING .*: the token could not be renewed before its time: down$")
    auth.endpoint()
    asker.error = HostUnreachable("down")
    clock.advance(LIFE_S - RENEW_S)
    assert auth.endpoint().token == "token-1"
    settle()
    assert len(expected_logs.lines) == 1
    assert auth.endpoint().token == "token-1"
    settle()
    assert asker.asked == 2
    clock.advance(UNREACHABLE_REST_S)
    assert auth.endpoint().token == "token-1"
    settle()
    assert asker.asked == 3
    clock.advance(RENEW_S)
    with pytest.raises(HostUnreachable):
        auth.endpoint()


def test_wait_ends_with_the_deadline_of_the_operation_and_the_answer_is_not_lost(
    auth: Renewing, asker: FakeAsker
) -> None:
    asker.may_answer.clear()
    too_late = threading.Timer(3, asker.may_answer.set)
    too_late.start()
    with deadline.within(0.05), pytest.raises(HostUnreachable, match="did not answer in time"):
        auth.endpoint()
    too_late.cancel()
    too_late.join()
    asker.may_answer.set()
    assert auth.endpoint().token == "token-1"
    assert asker.asked == 1


def test_authentication_that_never_ends_is_given_up(
    auth: Renewing, asker: FakeAsker, clock: FakeClock
) -> None:
    asker.may_answer.clear()
    with deadline.within(0.05), pytest.raises(HostUnreachable):
        auth.endpoint()
    clock.advance(GIVE_UP_FACTOR * TIMEOUT_S + 1)
    with deadline.within(0.05), pytest.raises(HostUnreachable):
        auth.endpoint()
    assert asker.asked == 2
    asker.may_answer.set()
    settle()


def test_fault_of_the_asker_is_an_error_without_its_text(auth: Renewing, asker: FakeAsker) -> None:
    asker.error = RuntimeError("the secret")
    with pytest.raises(HostUnreachable, match=r"internal error \(RuntimeError\)$"):
        auth.endpoint()


def test_endpoint_hides_its_token() -> None:
    endpoint = Endpoint("http://swift.test/v1/a", "the secret")
    assert "secret" not in repr(endpoint)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(endpoint)


# -- a token that nobody can renew ----------------------------------------------------------------


def fixed(read_again: Callable[[], str | None]) -> FixedToken:
    endpoint = Endpoint("http://swift.test/v1/a", "token-1")
    return FixedToken(endpoint, read_again, facts={}, ca_file=None, advice="get another")


def test_16_refused_threads_read_the_token_file_once() -> None:
    readings: list[str] = []

    def read_again() -> str:
        readings.append("once")
        return "token-2"

    auth = fixed(read_again)
    assert in_threads(lambda: auth.refused("token-1")) == [True] * THREADS
    assert auth.endpoint() == Endpoint("http://swift.test/v1/a", "token-2")
    assert len(readings) == 1


@pytest.mark.parametrize("there", [None, "token-1"])
def test_no_other_token_is_said_once(there: str | None, expected_logs: ExpectedLogs) -> None:
    expected_logs("the object store refuses the token: get another$")
    auth = fixed(lambda: there)
    assert [auth.refused("token-1") for _ in range(3)] == [False] * 3
    assert len(expected_logs.lines) == 1


def test_new_token_is_found_after_earlier_refusals(expected_logs: ExpectedLogs) -> None:
    expected_logs("the object store refuses the token")
    there: list[str | None] = [None]
    auth = fixed(lambda: there[0])
    assert auth.refused("token-1") is False
    there[0] = "token-2"
    assert auth.refused("token-1") is True
    assert auth.expires_at() is None


# -- the end of a token that nobody here renews ---------------------------------------------------


@pytest.mark.semantics("T2")
def test_the_end_of_a_token_that_is_not_renewed_is_told_once_beforehand(
    clock: FakeClock, asker: FakeAsker, expected_logs: ExpectedLogs
) -> None:
    expected_logs("the token expires at .*, in 900 s: get another$")
    asker.advice = "get another"
    # The asker's tokens all end at 5e9.
    wall = [5e9 - 3600.0]
    auth = Renewing(asker, timeout_s=TIMEOUT_S, clock=clock, wall_clock=lambda: wall[0])
    auth.endpoint()
    wall[0] += 2699
    auth.endpoint()
    assert expected_logs.lines == []
    wall[0] += 1
    for _ in range(3):
        auth.endpoint()
    assert len(expected_logs.lines) == 1
    assert auth.expires_at() == 5e9


def test_the_end_of_a_token_that_is_renewed_is_not_told(clock: FakeClock, asker: FakeAsker) -> None:
    auth = Renewing(asker, timeout_s=TIMEOUT_S, clock=clock, wall_clock=lambda: 5e9 - 1)
    for _ in range(3):
        auth.endpoint()
    settle()


@pytest.mark.semantics("T2")
def test_the_end_of_a_given_token_is_asked_for_and_told_once_for_each_token(
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("the token expires at .*, in 60 s: get another$")
    expected_logs("the token expires at .*, in 50 s: get another$")
    ends = {"token-1": 1060.0, "token-2": 1050.0}
    auth = FixedToken(
        Endpoint("http://swift.test/v1/a", "token-1"),
        lambda: "token-2",
        facts={},
        ca_file=None,
        advice="get another",
        ask_expiry=ends.get,
        wall_clock=lambda: 1000.0,
    )
    for token, end_s in ends.items():
        for _ in range(3):
            assert auth.endpoint().token == token
            settle()
            assert auth.expires_at() == end_s
        if token == "token-1":
            assert auth.refused(token)
    assert len(expected_logs.lines) == 2


def test_a_service_that_does_not_tell_the_end_of_a_token_does_no_harm() -> None:
    def ask(token: str) -> float:
        raise HostUnreachable("away")

    auth = FixedToken(
        Endpoint("http://swift.test/v1/a", "token-1"),
        lambda: None,
        facts={},
        ca_file=None,
        advice="get another",
        ask_expiry=ask,
    )
    assert auth.endpoint().token == auth.endpoint().token == "token-1"
    settle()
    assert auth.expires_at() is None
