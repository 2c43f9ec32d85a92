"""Faults at random: of a share of all requests, and of the whole server for a while."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults import actions as do
from tests.faults.proxy import Action, Exchange, FaultProxy, Request, Rule

# The server works on nothing for so long, then goes on: shorter than the deadline of a call.
STALL_S = (0.5, 4.0)
# A token that is refused is replaced; one that was got a moment ago is not, and the call fails.
REFUSED_TOKEN_REST_S = 20.0
# Between two times at which no connection is taken.
CALM_S = (8.0, 40.0)
SHORT_OUTAGE_S = (0.2, 2.0)
# One of so many outages lasts longer than any deadline.
LONG_OUTAGES = 6


def stall(exchange: Exchange) -> None:
    """It is done late."""
    exchange.stall(random.uniform(*STALL_S))
    exchange.pass_on()


def stall_after(exchange: Exchange) -> None:
    """It is done, and the answer is late."""
    answer = exchange.forward()
    exchange.stall(random.uniform(*STALL_S))
    exchange.answer(answer)


def anything(request: Request) -> bool:
    return True


def has_body(request: Request) -> bool:
    return request.length > 1


def is_read(request: Request) -> bool:
    return request.method == "GET"


@dataclass(frozen=True)
class Fault:
    """What may happen to a request, how often beside the others, and to which requests."""

    name: str
    action: Action
    weight: float = 1.0
    applies: Callable[[Request], bool] = anything


def refusals(*numbers: int) -> list[Fault]:
    return [Fault(str(number), do.status(number)) for number in numbers]


FAULTS = [
    Fault("reset before", do.reset_before, 3),
    Fault("reset within the request", do.reset_within_request, 3, has_body),
    Fault("answer lost by a reset", do.reset_after, 3),
    Fault("answer lost by an end", do.end_after, 2),
    Fault("body cut off", do.cut_off, 5, is_read),
    Fault("stall before", stall, 3),
    Fault("stall after", stall_after, 2),
    # Until the client gives up.
    Fault("silence before", do.silence, 0.3),
    Fault("silence after", do.silence_after, 0.3),
    *refusals(408, 425, 498, 499, 500, 502, 503, 504),
    Fault("429 with Retry-After", do.status(429, Retry_After="1")),
    Fault("503 with Retry-After", do.status(503, Retry_After="2")),
    Fault("401", do.status(401), 2),
]
OF_KEYSTONE = [
    Fault("reset before", do.reset_before),
    Fault("answer lost by a reset", do.reset_after),
    Fault("stall before", stall),
    *refusals(500, 503, 504),
]


class Weather:
    """Lets a share of the requests fail that go through a proxy, and counts all of them."""

    def __init__(self, proxy: FaultProxy, faults: list[Fault], share: float, seed: str) -> None:
        self._proxy = proxy
        self._faults = faults
        self._share = share
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._token_rest_s = 0.0  # guarded by _lock
        self._requests: Counter[str] = Counter()  # guarded by _lock
        self._tokens: set[str] = set()  # guarded by _lock
        self._struck: Counter[str] = Counter()  # guarded by _lock
        self._outages: list[float] = []

    def begin(self) -> None:
        """Let it come."""
        self._proxy.script(Rule(self._act, times=None))

    def end(self) -> None:
        """No more faults."""
        self._proxy.heal()
        self._proxy.forget_requests()

    def outages(self, stop: threading.Event, longest_s: float) -> None:
        """Let the server be away now and then, until ``stop`` is set."""
        while not stop.wait(self._random.uniform(*CALM_S)):
            is_long = self._random.randrange(LONG_OUTAGES) == 0
            seconds = longest_s if is_long else self._random.uniform(*SHORT_OUTAGE_S)
            with self._proxy.down():
                stop.wait(seconds)
            self._outages.append(seconds)

    def figures(self) -> dict[str, object]:
        """Return what was counted; lets the proxy forget the requests."""
        self._proxy.forget_requests()
        with self._lock:
            return {
                "requests": sum(self._requests.values()),
                "by_method": dict(self._requests),
                "faults": sum(self._struck.values()),
                "by_fault": dict(self._struck),
                "tokens": len(self._tokens),
                "outages": len(self._outages),
                "outage_s": round(sum(self._outages), 1),
            }

    def _act(self, exchange: Exchange) -> None:
        request = exchange.request
        with self._lock:
            self._requests[request.method] += 1
            self._tokens.add(request.headers.get("x-auth-token", ""))
            fault = self._draw_locked(request) if self._random.random() < self._share else None
            if fault is not None:
                self._struck[fault.name] += 1
        if fault is None:
            exchange.miss()
            exchange.pass_on()
        else:
            fault.action(exchange)

    def _draw_locked(self, request: Request) -> Fault:
        possible = [fault for fault in self._faults if fault.applies(request)]
        if time.monotonic() < self._token_rest_s:
            possible = [fault for fault in possible if fault.name != "401"]
        (fault,) = self._random.choices(possible, [each.weight for each in possible])
        if fault.name == "401":
            self._token_rest_s = time.monotonic() + REFUSED_TOKEN_REST_S
        return fault
