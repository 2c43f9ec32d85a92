"""What goes wrong, as actions of the fault proxy, and what allasfs makes of each (FAULTS)."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.faults.proxy import Action, Answer, Exchange

PAGE = b"<!DOCTYPE html><html><body><h1>Down for maintenance</h1></body></html>\n"


# -- connections ----------------------------------------------------------------------------------


def reset_before(exchange: Exchange) -> None:
    """Nothing is done, nothing is said."""
    exchange.reset()


def reset_within_request(exchange: Exchange) -> None:
    """The connection breaks while the client sends."""
    if exchange.request.length > 1:
        exchange.take(exchange.request.length // 2)
        exchange.reset()
    exchange.miss()
    exchange.pass_on()


def reset_after(exchange: Exchange) -> None:
    """It is done, and the answer is lost."""
    exchange.forward()
    exchange.reset()


def end_after(exchange: Exchange) -> None:
    """It is done, and the connection ends in order, without an answer."""
    exchange.forward()
    exchange.end()


def garbage(exchange: Exchange) -> None:
    exchange.body()
    exchange.send(b"\x00\xff\x16 this is no HTTP\r\n\r\n")
    exchange.end()


# -- silence --------------------------------------------------------------------------------------


def silence(exchange: Exchange) -> None:
    """Nothing is done, and the connection stays."""
    exchange.stall()
    exchange.pass_on()


def silence_after(exchange: Exchange) -> None:
    """It is done, and the answer does not come."""
    answer = exchange.forward()
    exchange.stall()
    exchange.answer(answer)


def silence_within_request(exchange: Exchange) -> None:
    """The server takes half of the body, and no more."""
    if exchange.request.length > 1:
        exchange.take(exchange.request.length // 2)
        exchange.stall()
        exchange.end()
    exchange.miss()
    exchange.pass_on()


def silence_within_headers(exchange: Exchange) -> None:
    answer = exchange.forward()
    head = answer.head()
    exchange.send(head[: len(head) // 2])
    exchange.stall()
    exchange.send(head[len(head) // 2 :] + answer.body)


def silence_within_body(exchange: Exchange) -> None:
    answer = exchange.forward()
    half = len(answer.body) // 2
    if not answer.body:
        exchange.miss()
    exchange.send(answer.head() + answer.body[:half])
    if answer.body:
        exchange.stall()
    exchange.send(answer.body[half:])


# -- wrong answers --------------------------------------------------------------------------------


def changed(change: Callable[[Exchange, Answer], Answer | None]) -> Action:
    """Let an answer through with a change; None: there is nothing to change."""

    def act(exchange: Exchange) -> None:
        answer = exchange.forward()
        other = change(exchange, answer)
        if other is None:
            exchange.miss()
        exchange.answer(other or answer)
        # The end of a body whose length is not told is that of the connection.
        if other is not None and (
            len(other.body) < len(answer.body) or not other.header("content-length")
        ):
            exchange.end()

    act.__name__ = change.__name__
    return act


@changed
def cut_off(exchange: Exchange, answer: Answer) -> Answer | None:
    """The body ends before the announced length."""
    return replace(answer, body=answer.body[: len(answer.body) // 2]) if answer.body else None


@changed
def cut_off_unannounced(exchange: Exchange, answer: Answer) -> Answer | None:
    """The body ends early, and nothing tells."""
    if not answer.body:
        return None
    half = replace(answer, body=answer.body[: len(answer.body) // 2])
    return half.with_header("Content-Length", None)


@changed
def cut_to_nothing(exchange: Exchange, answer: Answer) -> Answer | None:
    """No body at all, and nothing tells."""
    return replace(answer, body=b"").with_header("Content-Length", None) if answer.body else None


@changed
def cut_off_consistently(exchange: Exchange, answer: Answer) -> Answer | None:
    """The announced length is that of the half body."""
    if not answer.body:
        return None
    half = answer.body[: len(answer.body) // 2]
    return replace(answer, body=half).with_header("Content-Length", str(len(half)))


@changed
def wrong_range(exchange: Exchange, answer: Answer) -> Answer | None:
    """Content-Range is that of the next byte."""
    if answer.status != 206:
        return None
    span, _, total = answer.header("content-range").removeprefix("bytes ").partition("/")
    first, last = map(int, span.split("-"))
    return answer.with_header("Content-Range", f"bytes {first + 1}-{last + 1}/{total}")


def whole_for_range(exchange: Exchange) -> None:
    """The whole object comes where a part was asked for."""
    if "range" not in exchange.request.headers:
        exchange.miss()
    exchange.answer(exchange.forward(exchange.request.without("range")))


def page_of_html(exchange: Exchange) -> None:
    """A server on the way answers, and calls it success."""
    exchange.body()
    page = PAGE if exchange.request.method != "HEAD" else b""
    length = ("Content-Length", str(len(PAGE)))
    exchange.answer(Answer(200, "OK", (("Content-Type", "text/html"), length), page))


def empty_success(exchange: Exchange) -> None:
    """Success, and nothing else."""
    exchange.body()
    exchange.answer(Answer(200, "OK", (("Content-Length", "0"),)))


@changed
def wrong_etag(exchange: Exchange, answer: Answer) -> Answer | None:
    return answer.with_header("Etag", '"' + "0" * 32 + '"') if answer.header("etag") else None


def without(*names: str) -> Action:
    """Let an answer through without some of its headers."""

    def change(exchange: Exchange, answer: Answer) -> Answer | None:
        if not any(answer.header(name) for name in names):
            return None
        for name in names:
            answer = answer.with_header(name, None)
        return answer

    return changed(change)


def status(number: int, **headers: str) -> Action:
    """Refuse the request: nothing is done."""

    def act(exchange: Exchange) -> None:
        exchange.body()
        body = PAGE if exchange.request.method != "HEAD" else b""
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        length = ("Content-Length", str(len(body)))
        exchange.answer(Answer(number, "Some Reason", (length, *named), body))

    return act


def flipped(offset: int, bit: int = 0) -> Action:
    """Change one bit of the object's bytes, at this offset in the object."""

    def change(exchange: Exchange, answer: Answer) -> Answer | None:
        first = 0
        if answer.status == 206:
            first = int(answer.header("content-range").removeprefix("bytes ").split("-")[0])
        if not first <= offset < first + len(answer.body):
            return None
        body = bytearray(answer.body)
        body[offset - first] ^= 1 << bit
        return replace(answer, body=bytes(body))

    return changed(change)


# -- what is expected of each ---------------------------------------------------------------------

DOWN = frozenset({errno.EIO, errno.ETIMEDOUT})


@dataclass(frozen=True)
class Fault:
    """An action, and how a call may end that meets it. 0 is success."""

    name: str
    action: Action
    # When it happens to one request, and when it happens from then on.
    once: frozenset[int]
    always: frozenset[int]
    # Whether it ends by the deadline alone.
    waits: bool = False
    # Whether what the server says is believed and not so: success need not be one.
    misleads: bool = False


def passing(action: Action, name: str = "") -> Fault:
    """It is tried again: once, it is not noticed; for ever, the call fails at its deadline."""
    named = name or getattr(action, "__name__", "")
    return Fault(named, action, frozenset({0}), DOWN, waits=True)


def silent(action: Action) -> Fault:
    """The deadline ends it; there is no time left for another attempt."""
    return Fault(action.__name__, action, DOWN, DOWN, waits=True)


def lying(action: Action, name: str = "") -> Fault:
    """Some calls need what is missing or wrong, others do well without it."""
    named = name or getattr(action, "__name__", "")
    return Fault(named, action, frozenset({0, errno.EIO}), DOWN | {0}, waits=True)


def final(action: Action, name: str, *numbers: int) -> Fault:
    """It is believed: the call ends at once, the same each time."""
    return Fault(name, action, frozenset(numbers), frozenset(numbers))
