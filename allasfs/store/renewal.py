"""One authentication for many threads, renewed in time; knows nothing of Keystone or HTTP.

An ``Asker`` gets a token from a server; when it does is decided here. It runs in a thread of its
own: whoever needs its result waits for it, no longer than the deadline of the operation at hand.
While a token is being renewed before its time, nobody waits at all.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from allasfs import deadline
from allasfs.errors import BadCredentials, HostUnreachable, SetupError

log = logging.getLogger(__name__)

Clock = Callable[[], float]

# A token is renewed when this much of its life is left (keystoneauth1's own margin), or a quarter
# of its life where that is less: with a margin of 120 s, a token for 20 s would never be used.
RENEW_S = 120.0
# After the identity service refused, it is not asked again for this long: services lock accounts
# after a few failures, and every operation on the mount would be one.
REFUSED_REST_S = 30.0
# After a renewal failed otherwise, while the old token is still good.
UNREACHABLE_REST_S = 5.0
# A token got in place of a refused one, and refused within this time, shows that the token was not
# the reason. Another one would not help then; the same may, when RGW can ask Keystone again.
TOO_YOUNG_S = 10.0
# A token that nobody here can renew is announced this long before it expires: time enough to get
# another one, late enough that whoever reads it will.
ANNOUNCE_S = 900.0
# An authentication is a few requests with a timeout each; one that takes longer is given up.
GIVE_UP_FACTOR = 5.0
# An attempt that was not answered for so long may wait for a server that is back and knows nothing
# of it: another one begins beside it.
ANOTHER_S = 5.0
# How often those who wait look whether it is time for that.
LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the account is, and the token that opens it."""

    storage_url: str
    token: str = field(repr=False)

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: the token is a secret."""
        raise TypeError("an Endpoint holds a token and is not pickled")


@dataclass(frozen=True, slots=True)
class Grant:
    """The answer of an identity service."""

    endpoint: Endpoint
    expires_at: float | None = None
    # How long it is good, from the request on; unlike expires_at not subject to wrong clocks.
    life_s: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)


class Asker(Protocol):
    """Asks a server for a token, each time anew."""

    address: str
    ca_file: str | None
    facts: Mapping[str, str]
    # How a person gets another token; nothing where asking again brings one.
    advice: str
    # Whether it may be asked again while it has not answered.
    is_impatient: bool

    def ask(self) -> Grant:
        """Return a new token; raise BadCredentials or HostUnreachable."""


class _Announcer:
    """Says once of each token that it will expire."""

    def __init__(self, advice: str, wall_clock: Clock) -> None:
        self._advice = advice
        self._wall_clock = wall_clock
        self._said_of: float | None = None

    def look(self, expires_at: float | None) -> None:
        """Say it when it is time."""
        if not self._advice or expires_at is None or expires_at == self._said_of:
            return
        left_s = expires_at - self._wall_clock()
        if left_s <= ANNOUNCE_S:
            self._said_of = expires_at
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(expires_at))
            log.warning("the token expires at %s, in %.0f s: %s", when, left_s, self._advice)


class _Flight:
    """One authentication: under way until ``done`` is set, then with a grant or an error.

    It may take several attempts, the first of which that is granted or refused counts.
    """

    def __init__(self, begun_s: float) -> None:
        self.begun_s = begun_s
        self.tried_s = begun_s  # the last attempt
        self.attempts = 0  # under way
        self.done = threading.Event()
        self.grant: Grant | None = None
        self.error: SetupError | None = None


class Renewing:
    """Credentials that can be used again and again (an ``auth.Auth``)."""

    def __init__(
        self,
        asker: Asker,
        *,
        timeout_s: float,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
    ) -> None:
        """Ask nobody yet; ``timeout_s`` is how long to wait outside of any operation."""
        self._asker = asker
        self._announcer = _Announcer(asker.advice, wall_clock)
        self._timeout_s = timeout_s
        self._clock = clock
        # Leaf: no I/O is done while it is held. It guards all that follows.
        self._lock = threading.Lock()
        self._flight: _Flight | None = None
        self._grant: Grant | None = None
        self._begun_s = self._renew_s = self._dies_s = 0.0  # of the grant
        self._was_refused = False  # the grant, by the store
        self._is_replacement = False  # the grant came because its predecessor was refused
        self._is_other = True  # its token is not that of its predecessor
        self._failure: SetupError | None = None  # of the last flight
        self._rest_until_s = 0.0

    @property
    def ca_file(self) -> str | None:
        """The certificates to verify the store with; None for those that requests takes."""
        return self._asker.ca_file

    def endpoint(self) -> Endpoint:
        """Return storage URL and a token that is valid now; authenticate if there is none."""
        with self._lock:
            now_s = self._clock()
            if self._grant and now_s < self._dies_s:
                if self._renew_s <= now_s and self._rest_until_s <= now_s:
                    self._flight_locked(now_s)
                self._announcer.look(self._grant.expires_at)
                return self._grant.endpoint
            self._check_rest_locked(now_s)
            flight = self._flight_locked(now_s)
        return self._wait(flight).endpoint

    def refused(self, token: str) -> bool:
        """Take note that the store answered 401; tell whether to try again."""
        with self._lock:
            now_s = self._clock()
            if self._grant is None or self._grant.endpoint.token != token:
                return True
            if not self._was_refused:
                life_s = self._grant.life_s or 4 * TOO_YOUNG_S
                is_young = now_s < self._begun_s + min(TOO_YOUNG_S, life_s / 4)
                if self._is_replacement and is_young:
                    return self._is_other
                self._was_refused = True
                self._renew_s = self._dies_s = now_s
            self._check_rest_locked(now_s)
            flight = self._flight_locked(now_s)
        return self._wait(flight).endpoint.token != token

    def expires_at(self) -> float | None:
        """Return when the present token expires, in Unix time, where that is known."""
        with self._lock:
            return self._grant.expires_at if self._grant else None

    def describe(self) -> dict[str, str]:
        """Return kind, source, user, project, addresses: what is known, and no secret."""
        with self._lock:
            return {**self._asker.facts, **(self._grant.facts if self._grant else {})}

    def _check_rest_locked(self, now_s: float) -> None:
        """Raise the last refusal again while the identity service is not to be asked."""
        if now_s < self._rest_until_s and isinstance(self._failure, BadCredentials):
            raise _again(self._failure)

    def _flight_locked(self, now_s: float) -> _Flight:
        """Return the authentication under way, after beginning one if there is none."""
        flight = self._flight
        if flight is None or now_s > flight.begun_s + GIVE_UP_FACTOR * self._timeout_s:
            flight = self._flight = _Flight(now_s)
            self._try_locked(flight, now_s)
        elif self._asker.is_impatient and now_s >= flight.tried_s + ANOTHER_S:
            self._try_locked(flight, now_s)
        return flight

    def _try_locked(self, flight: _Flight, now_s: float) -> None:
        flight.tried_s = now_s
        flight.attempts += 1
        # A daemon: a name server that does not answer must not hold up the end of the program.
        threading.Thread(
            target=self._fly, args=(flight, now_s), name="allasfs-auth", daemon=True
        ).start()

    def _fly(self, flight: _Flight, begun_s: float) -> None:
        grant: Grant | None = None
        error: SetupError | None = None
        try:
            grant = self._asker.ask()
        except SetupError as exc:
            error = exc
        except Exception as exc:  # a fault must not leave the others waiting
            what = f"no token because of an internal error ({type(exc).__name__})"
            error = HostUnreachable(f"{self._asker.address}: {what}")
        with self._lock:
            flight.attempts -= 1
            is_open = flight.attempts > 0 and isinstance(error, HostUnreachable)
            if flight.done.is_set() or is_open:
                return  # another attempt was faster, or may be
            flight.grant, flight.error, flight.begun_s = grant, error, begun_s
            self._land_locked(flight)
            flight.done.set()

    def _land_locked(self, flight: _Flight) -> None:
        if self._flight is not flight:
            return  # given up meanwhile, and another one began
        self._flight = None
        now_s = self._clock()
        if flight.grant is None:
            self._failure = flight.error
            is_refusal = isinstance(flight.error, BadCredentials)
            self._rest_until_s = now_s + (REFUSED_REST_S if is_refusal else UNREACHABLE_REST_S)
            if self._grant and now_s < self._dies_s:
                log.warning("the token could not be renewed before its time: %s", flight.error)
            return
        self._is_replacement, self._was_refused = self._was_refused, False
        self._failure, self._rest_until_s = None, 0.0
        before = self._grant
        self._is_other = before is None or before.endpoint.token != flight.grant.endpoint.token
        self._grant, self._begun_s = flight.grant, flight.begun_s
        life_s = flight.grant.life_s
        if life_s is None:
            self._renew_s = self._dies_s = float("inf")
            return
        self._dies_s = self._begun_s + life_s
        self._renew_s = self._dies_s - min(RENEW_S, life_s / 4)
        log.info("a new token from %s, good for %.0f s", self._asker.address, life_s)

    def _wait(self, flight: _Flight) -> Grant:
        operation = deadline.current(self._timeout_s)
        while not flight.done.wait(min(LOOK_S, operation.left())):
            if not operation.left():
                raise HostUnreachable(f"{self._asker.address} did not answer in time")
            with self._lock:
                if self._flight is flight:
                    self._flight_locked(self._clock())
        if flight.grant is None:
            raise _again(flight.error or HostUnreachable(f"{self._asker.address}: no token"))
        return flight.grant


def _again(error: SetupError) -> SetupError:
    """Return a copy: an exception that many threads raise would collect their tracebacks."""
    return type(error)(str(error))


class FixedToken:
    """A token that nobody here can renew; another one may appear where it came from."""

    def __init__(
        self,
        endpoint: Endpoint,
        read_again: Callable[[], str | None],
        *,
        facts: Mapping[str, str],
        ca_file: str | None,
        advice: str,
        ask_expiry: Callable[[str], float | None] | None = None,
        wall_clock: Clock = time.time,
    ) -> None:
        """``read_again`` returns the token that is there now; ``advice`` says how to get one.

        ``ask_expiry`` asks a server, in a thread of its own: nobody waits for it.
        """
        self._ask_expiry = ask_expiry
        self._announcer = _Announcer(advice, wall_clock)
        self._read_again = read_again
        self._facts = dict(facts)
        self._advice = advice
        self.ca_file = ca_file
        # A small local file is read under this lock, so that refused threads read it once.
        self._lock = threading.Lock()
        self._endpoint = endpoint  # guarded by _lock
        self._asked_of = ""  # guarded by _lock
        self._expires_at: float | None = None  # guarded by _lock
        self._complained_of = ""  # guarded by _lock

    def endpoint(self) -> Endpoint:
        """Return the token, expired or not: only the store can tell."""
        with self._lock:
            if self._ask_expiry is not None and self._asked_of != self._endpoint.token:
                self._asked_of, self._expires_at = self._endpoint.token, None
                threading.Thread(
                    target=self._learn_expiry,
                    args=(self._ask_expiry, self._asked_of),
                    name="allasfs-auth",
                    daemon=True,
                ).start()
            self._announcer.look(self._expires_at)
            return self._endpoint

    def _learn_expiry(self, ask: Callable[[str], float | None], token: str) -> None:
        try:
            expires_at = ask(token)
        except SetupError as exc:
            log.info("it is not known when the token expires: %s", exc)
            return
        with self._lock:
            if token == self._asked_of:
                self._expires_at = expires_at
                self._announcer.look(expires_at)

    def refused(self, token: str) -> bool:
        """Look for another token; tell whether there is one to try again with."""
        with self._lock:
            if self._endpoint.token != token:
                return True
            newer = self._read_again()
            if newer and newer != token:
                self._endpoint = Endpoint(self._endpoint.storage_url, newer)
                log.info("a new token was found")
                return True
            if self._complained_of != token:
                self._complained_of = token
                log.warning("the object store refuses the token: %s", self._advice)
            return False

    def expires_at(self) -> float | None:
        """Return when the token expires, in Unix time, where the identity service told."""
        with self._lock:
            return self._expires_at

    def describe(self) -> dict[str, str]:
        """Return kind, source, user, project, addresses: what is known, and no secret."""
        return dict(self._facts)
