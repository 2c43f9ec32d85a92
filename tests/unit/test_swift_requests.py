"""SwiftStore against a scripted server: retries, broken answers, tokens, connections."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from allasfs.config import Config
from allasfs.deadline import Deadline, within
from allasfs.errors import (
    AccessDenied,
    BadCredentials,
    BadHandle,
    Exists,
    FsError,
    HostUnreachable,
    NotFound,
    Stale,
    TimedOut,
    TokenRefused,
    Unavailable,
)
from allasfs.store import session as session_module
from allasfs.store import swift as swift_module
from allasfs.store.answers import Response
from allasfs.store.api import PIECE_BYTES, Capabilities, Kind, ObjectHead, ObjectInfo
from allasfs.store.connection import Connection
from allasfs.store.renewal import Endpoint
from allasfs.store.session import MOST_REFUSALS, Request
from allasfs.store.swift import SwiftStore
from tests.fakes.httpserver import HANG_UP, ScriptedServer, answer
from tests.fakes.memstore import Bytes, get_bytes, md5_of, put_bytes

DATE = "Fri, 02 Jan 2026 03:04:05 GMT"
INFO = answer(
    200,
    json.dumps(
        {"swift": {"account_listing_limit": 10000, "container_listing_limit": 3}, "slo": {}}
    ).encode(),
)


class FakeAuth:
    """Hands out token after token."""

    ca_file: str | None = None

    def __init__(self, url: str) -> None:
        self.url = url
        self.token = "secret-token-1"
        self.renews = True
        self.error: Exception | None = None

    def endpoint(self) -> Endpoint:
        if self.error is not None:
            raise self.error
        return Endpoint(self.url, self.token)

    def refused(self, token: str) -> bool:
        if self.renews and token == self.token:
            self.token = f"secret-token-{int(token.rpartition('-')[2]) + 1}"
        return self.renews

    def expires_at(self) -> float | None:
        return None

    def describe(self) -> dict[str, str]:
        return {}


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def auth(server: ScriptedServer) -> FakeAuth:
    return FakeAuth(server.url)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which are not made."""
    found: list[float] = []
    fake = SimpleNamespace(monotonic=time.monotonic, time_ns=time.time_ns, sleep=found.append)
    monkeypatch.setattr(session_module, "time", fake)
    return found


@pytest.fixture
def store(auth: FakeAuth, waits: list[float]) -> Iterator[SwiftStore]:
    store = SwiftStore(auth, Config(timeout_s=30.0, connections=4))
    yield store
    store.close()


def ok(body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    found = {"Etag": md5_of(body), "Last-Modified": DATE, "Content-Type": "text/plain"}
    return answer(200, body, {**found, **(headers or {})})


def part(first: int, last: int, total: int, body: bytes, etag: str = "e") -> bytes:
    headers = {"Content-Range": f"bytes {first}-{last}/{total}", "Etag": etag}
    return answer(206, body, headers)


CALLS: dict[str, tuple[Callable[[SwiftStore], object], bytes]] = {
    "HEAD": (lambda s: s.head("b", "k"), answer(200, b"", {"Content-Length": "0", "Etag": "e"})),
    "GET": (lambda s: get_bytes(s, "b", "k"), ok(b"body")),
    "PUT": (lambda s: put_bytes(s, "b", "k", b"body"), answer(201, b"", {"Etag": md5_of(b"body")})),
    "DELETE": (lambda s: s.delete("b", "k"), answer(204)),
    "POST": (
        lambda s: s.delete_many("b", ["k"]),
        answer(200, b'{"Errors": [], "Response Status": "200 OK"}'),
    ),
}
verbs = pytest.mark.parametrize("verb", CALLS)
PLAIN = ObjectInfo("k", 4, "e", 0)
ACCOUNT = answer(
    204,
    b"",
    {
        "X-Account-Bytes-Used": "1",
        "X-Account-Object-Count": "1",
        "X-Account-Container-Count": "1",
    },
)
BUCKET = answer(204, b"", {"X-Container-Object-Count": "1", "X-Container-Bytes-Used": "1"})


# -- retries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("took_s", "answers", "mtime_ns"),
    [
        (0.1, [], 1767323045 * 10**9),
        (
            2.0,
            [answer(200, b"", {"Etag": "e", "X-Timestamp": "1767323043.25"})],
            1767323043250 * 10**6,
        ),
        # Another client's version.
        (2.0, [answer(200, b"", {"Etag": "f", "X-Timestamp": "1767323044.0"})], 1767323045 * 10**9),
        (2.0, [answer(403)], 1767323045 * 10**9),
    ],
)
def test_the_time_of_a_slow_post_is_asked_for(
    server: ScriptedServer,
    store: SwiftStore,
    monkeypatch: pytest.MonkeyPatch,
    took_s: float,
    answers: list[bytes],
    mtime_ns: int,
) -> None:
    ticks = count(0.0, took_s)
    fake = SimpleNamespace(monotonic=lambda: next(ticks), time_ns=time.time_ns, sleep=time.sleep)
    monkeypatch.setattr(swift_module, "time", fake)
    server.script(answer(202, b"", {"Date": DATE}), *answers)
    posted = store.post("b", ObjectHead(PLAIN, {}), {"a": "b"})
    assert posted == replace(PLAIN, mtime_ns=mtime_ns)
    assert len(server.received) == 1 + len(answers)


@verbs
@pytest.mark.parametrize("status", [408, 429, 498, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again_until_it_does(
    server: ScriptedServer, store: SwiftStore, waits: list[float], verb: str, status: int
) -> None:
    call, success = CALLS[verb]
    server.script(answer(status), answer(status), success)
    call(store)
    assert [request.method for request in server.received] == [verb] * 3
    assert len(waits) == 2


@verbs
@pytest.mark.parametrize("status", [400, 403, 409, 412, 413, 422, 507])
def test_what_will_not_pass_is_asked_once(
    server: ScriptedServer, store: SwiftStore, verb: str, status: int
) -> None:
    server.script(answer(status, b"" if verb == "HEAD" else b"because"))
    with pytest.raises(FsError, match=f"answered {status}"):
        CALLS[verb][0](store)
    assert len(server.received) == 1


@pytest.mark.parametrize(
    ("answers", "may_be_done"),
    [
        ([answer(403)], False),
        ([answer(507)], False),
        ([answer(401)] * MOST_REFUSALS, False),
        ([answer(401), answer(403)], False),
        ([HANG_UP, answer(403)], True),
        ([HANG_UP, *[answer(401)] * MOST_REFUSALS], True),
        ([answer(503), answer(401), answer(403)], True),
        ([answer(503, b"", {"Retry-After": "3600"})], True),
    ],
)
def test_an_error_tells_whether_an_earlier_attempt_may_be_done_still(
    server: ScriptedServer, store: SwiftStore, answers: list[bytes], may_be_done: bool
) -> None:
    server.script(*answers)
    with pytest.raises(FsError) as caught:
        store.delete("b", "k")
    assert len(server.received) == len(answers)
    assert caught.value.may_be_done == may_be_done


@verbs
def test_a_connection_that_is_closed_instead_of_an_answer_is_tried_again(
    server: ScriptedServer, store: SwiftStore, verb: str
) -> None:
    call, success = CALLS[verb]
    server.script(HANG_UP, b"HTTP/1.", success)
    call(store)
    assert len(server.received) == 3


class Withdrawn(Bytes):
    """A source whose bytes nobody wants any more."""

    def chunks(self) -> Iterator[bytes]:
        yield self._data[:1]
        raise BadHandle("file", "nobody wants this file any more")


def test_a_put_whose_source_ends_is_not_sent_again(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(HANG_UP)
    with pytest.raises(BadHandle):
        store.put("b", "k", Withdrawn(b"body"), md5=md5_of(b"body"), content_type="t/t")
    assert store.requests() == {"PUT": 1}


def test_a_put_is_sent_again_from_its_first_byte(server: ScriptedServer, store: SwiftStore) -> None:
    data = bytes(range(256)) * 2000
    server.script(answer(503), HANG_UP, answer(201, b"", {"Etag": md5_of(data)}))
    put_bytes(store, "b", "k", data)
    assert [request.body == data for request in server.received] == [True] * 3
    assert all(request.headers["etag"] == md5_of(data) for request in server.received)


def test_waits_double_with_jitter_up_to_a_limit(
    server: ScriptedServer, store: SwiftStore, waits: list[float]
) -> None:
    server.script(*[answer(503)] * 9, ok(b"body"))
    get_bytes(store, "b", "k")
    bounds = [min(0.1 * 2**n, 8.0) for n in range(9)]
    assert all(bound / 2 <= wait <= bound for wait, bound in zip(waits, bounds, strict=True))


def test_a_server_that_says_when_to_come_back_is_obeyed(
    server: ScriptedServer, store: SwiftStore, waits: list[float]
) -> None:
    server.script(answer(429, b"", {"Retry-After": "7"}), ok(b"body"))
    get_bytes(store, "b", "k")
    assert waits == [7.0]


def test_a_server_that_says_to_come_back_too_late_is_not_waited_for(
    server: ScriptedServer, store: SwiftStore, waits: list[float]
) -> None:
    server.script(answer(503, b"", {"Retry-After": "3600"}))
    with pytest.raises(Unavailable, match="answered 503"):
        get_bytes(store, "b", "k")
    assert waits == []


def test_a_server_that_says_to_come_back_at_once_is_not_asked_without_a_pause(
    server: ScriptedServer, store: SwiftStore, waits: list[float]
) -> None:
    server.script(*[answer(503, b"", {"Retry-After": "0"})] * 3, ok(b"body"))
    get_bytes(store, "b", "k")
    assert [wait > 0 for wait in waits] == [True] * 3


def test_an_upload_that_fails_at_the_same_place_each_time_ends_at_its_deadline(
    server: ScriptedServer, store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_module, "FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(session_module, "LONGEST_WAIT_S", 0.001)
    # Far more than there is time for.
    server.script(*[answer(503)] * 3000)
    with within(0.2), pytest.raises(Unavailable, match="answered 503"):
        put_bytes(store, "b", "k", bytes(1000))


@pytest.mark.parametrize("value", ["soon", "-1", "²", DATE, ""])
def test_a_retry_after_that_is_no_number_is_ignored(
    server: ScriptedServer, store: SwiftStore, waits: list[float], value: str
) -> None:
    server.script(answer(503, b"", {"Retry-After": value}), ok(b"body"))
    assert get_bytes(store, "b", "k") == b"body"
    assert len(waits) == 1


def test_nothing_is_asked_after_the_deadline(server: ScriptedServer, store: SwiftStore) -> None:
    with within(0.0), pytest.raises(TimedOut):
        store.head("b", "k")
    assert server.received == []


def test_an_answer_whose_head_came_late_is_read_to_its_end(
    server: ScriptedServer, store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    deadline = Deadline(30.0, clock=lambda: clock[0])
    begin = Response.__init__

    def late(*args: Any, **options: Any) -> None:
        begin(*args, **options)
        clock[0] = 1000.0

    monkeypatch.setattr(Response, "__init__", late)
    server.script(answer(201, b"copied", {"Etag": "e", "Last-Modified": DATE}))
    request = Request("COPY", "b/k", subject="b/k")
    assert store._session.send(request, deadline).body == b"copied"


def test_the_last_error_is_told_when_time_is_up(server: ScriptedServer, store: SwiftStore) -> None:
    server.script(answer(503, b"<h1>Slow Down</h1>", {"X-Trans-Id": "tx1"}))
    with within(0.04), pytest.raises(Unavailable, match=r"GET answered 503 \(Slow Down\) \[tx1\]"):
        get_bytes(store, "b", "k")


def test_a_delete_whose_answer_was_lost_is_done(server: ScriptedServer, store: SwiftStore) -> None:
    server.script(HANG_UP, answer(404))
    store.delete("b", "k")
    server.script(answer(404))
    with pytest.raises(NotFound):
        store.delete("b", "k")


@pytest.mark.parametrize("there", [b"body", b"other"])
@pytest.mark.parametrize("lost", [False, True])
def test_an_exclusive_put_whose_answer_was_lost_is_done_if_its_bytes_are_there(
    server: ScriptedServer, store: SwiftStore, there: bytes, lost: bool
) -> None:
    head = answer(200, b"", {"Content-Length": "4", "Etag": md5_of(there)})
    server.script(INFO, *([HANG_UP] if lost else []), answer(412), *([head] if lost else []))
    source = Bytes(b"body")
    with pytest.raises(Exists) if not lost or there != b"body" else nullcontext():
        store.put("b", "k", source, md5=md5_of(b"body"), content_type="t/t", exclusive=True)
    puts = [request for request in server.received if request.method == "PUT"]
    assert [put.headers["if-none-match"] for put in puts] == ["*"] * (1 + lost)


def test_a_host_that_is_not_there_is_unavailable(auth: FakeAuth, store: SwiftStore) -> None:
    auth.url = "http://127.0.0.1:1/v1/AUTH_test"
    with within(0.05), pytest.raises(Unavailable):
        store.head("b", "k")


# -- tokens ---------------------------------------------------------------------------------------


@verbs
def test_a_refused_token_is_renewed_once_without_a_wait(
    server: ScriptedServer, store: SwiftStore, waits: list[float], verb: str
) -> None:
    call, success = CALLS[verb]
    server.script(answer(401), success)
    call(store)
    tokens = [request.headers["x-auth-token"] for request in server.received]
    assert tokens == ["secret-token-1", "secret-token-2"]
    assert sum(waits) == 0


def test_a_token_is_that_of_the_moment_when_a_connection_is_free(
    server: ScriptedServer, store: SwiftStore, auth: FakeAuth, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = store._session._pool
    acquire = pool.acquire

    def acquire_late(deadline: Deadline) -> Connection:
        auth.token = "secret-token-2"
        return acquire(deadline)

    monkeypatch.setattr(pool, "acquire", acquire_late)
    server.script(answer(204))
    store.delete("b", "k")
    assert [request.headers["x-auth-token"] for request in server.received] == ["secret-token-2"]


def test_renewed_tokens_that_are_refused_are_access_denied(
    server: ScriptedServer, store: SwiftStore, waits: list[float]
) -> None:
    server.script(*[answer(401)] * (MOST_REFUSALS + 1))
    with pytest.raises(TokenRefused):
        store.head("b", "k")
    assert len(server.received) == MOST_REFUSALS
    assert waits[0] == 0
    assert 0 < sum(waits) <= 1.5


@pytest.mark.semantics("R11", "T1")
@verbs
def test_a_store_that_cannot_tell_good_tokens_for_a_moment_is_asked_again(
    server: ScriptedServer, store: SwiftStore, waits: list[float], verb: str
) -> None:
    call, success = CALLS[verb]
    server.script(*[answer(401)] * (MOST_REFUSALS - 1), success)
    call(store)
    assert len(server.received) == MOST_REFUSALS
    assert len(waits) == MOST_REFUSALS - 1


def test_a_token_that_cannot_be_renewed_is_access_denied(
    server: ScriptedServer, store: SwiftStore, auth: FakeAuth
) -> None:
    auth.renews = False
    server.script(answer(401))
    with pytest.raises(TokenRefused):
        store.head("b", "k")
    assert len(server.received) == 1


def test_credentials_that_are_refused_are_access_denied(store: SwiftStore, auth: FakeAuth) -> None:
    auth.error = BadCredentials("the password is wrong")
    for call, _ in CALLS.values():
        with pytest.raises(TokenRefused, match="the password is wrong"):
            call(store)


def test_an_identity_service_that_is_away_is_tried_again_and_takes_no_connection(
    server: ScriptedServer, store: SwiftStore, auth: FakeAuth
) -> None:
    auth.error = HostUnreachable("keystone is away")
    for _ in range(6):
        with within(0.01), pytest.raises(Unavailable, match="keystone is away"):
            store.head("b", "k")
    auth.error = None
    server.script(ok(b"body"))
    assert get_bytes(store, "b", "k") == b"body"


def test_no_token_gets_into_the_log_or_a_message(
    server: ScriptedServer, store: SwiftStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.script(answer(401), answer(503), answer(403, b"no"))
    with pytest.raises(AccessDenied) as caught:
        get_bytes(store, "b", "k")
    assert server.received
    assert "secret-token" not in caplog.text + repr(caught.value) + str(caught.value)


# -- answers that cannot be right -----------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        ok(b"0123456789"),
        part(0, 3, 10, b"0123"),
        part(3, 6, 10, b"345"),
        answer(206, b"234"),
        b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_a_range_that_was_not_asked_for_is_asked_for_again(
    server: ScriptedServer, store: SwiftStore, wrong: bytes
) -> None:
    server.script(wrong, part(2, 4, 10, b"234"))
    assert get_bytes(store, "b", "k", span=(2, 5)) == b"234"
    assert [request.headers["range"] for request in server.received] == ["bytes=2-4"] * 2


def test_another_version_than_the_pinned_one_is_stale_whatever_the_server_thinks(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(part(0, 2, 10, b"012", etag='"other"'))
    with pytest.raises(Stale):
        get_bytes(store, "b", "k", span=(0, 3), etag="mine")
    assert server.received[0].headers["if-match"] == '"mine"'


@pytest.mark.parametrize("sent", [0, 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_a_body_that_ends_early_is_unavailable_after_its_whole_pieces(
    server: ScriptedServer, store: SwiftStore, sent: int
) -> None:
    server.script(
        answer(200, bytes(sent), {"Content-Length": str(3 * PIECE_BYTES), "Etag": "e"}),
        ok(b"next"),
    )
    pieces: list[bytes] = []
    with pytest.raises(Unavailable, match=r"early|broke off"), store.get("b", "k") as body:
        pieces.extend(body)
    assert [len(piece) for piece in pieces] == [PIECE_BYTES] * (sent // PIECE_BYTES)
    # Its connection is not used again.
    assert get_bytes(store, "b", "k") == b"next"
    assert server.received[0].connection != server.received[1].connection


@pytest.mark.parametrize(
    "headers",
    [
        {"Transfer-Encoding": "chunked"},
        {"Content-Length": "many"},
        {"Content-Length": "3", "X-Timestamp": "yesterday"},
        {"Content-Length": "3", "Last-Modified": "yesterday"},
    ],
)
def test_a_head_that_cannot_be_understood_is_unavailable(
    server: ScriptedServer, store: SwiftStore, headers: dict[str, str]
) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    server.script(*[f"HTTP/1.1 200 OK\r\n{lines}\r\n".encode()] * 50)
    with within(0.2), pytest.raises(Unavailable):
        store.head("b", "k")


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (lambda s: list(s.listing("b")), b"<html>maintenance</html>"),
        (lambda s: list(s.listing("b")), b'{"error": "maintenance"}'),
        (lambda s: s.containers(), b"[1, 2]"),
        (lambda s: s.delete_many("b", ["k"]), b"<html>maintenance</html>"),
        (lambda s: s.delete_many("b", ["k"]), b"[]"),
        (lambda s: s.delete_many("b", ["k"]), b'{"Errors": [["b/k"]]}'),
        (lambda s: s.delete_many("b", ["k"]), b'{"Errors": [["b/k", "odd"]]}'),
        (lambda s: s.delete_many("b", ["k"]), b'{"Errors": [["b/k", ""]], "Response Status": "0"}'),
        (lambda s: s.delete_many("b", ["k"]), b'{"Response Status": "", "Errors": []}'),
        (lambda s: s.delete_many("b", ["k"]), b'{"Response Status": "500 Oops", "Errors": []}'),
    ],
)
def test_an_answer_of_another_form_is_unavailable(
    server: ScriptedServer, store: SwiftStore, call: Callable[[SwiftStore], object], body: bytes
) -> None:
    server.script(answer(200, body))
    with pytest.raises(Unavailable):
        call(store)


@pytest.mark.parametrize("name", ["X-Account-Bytes-Used", "X-Account-Meta-Quota-Bytes"])
def test_an_account_that_cannot_be_understood_is_unavailable(
    server: ScriptedServer, store: SwiftStore, name: str
) -> None:
    server.script(answer(204, b"", {name: "much"}))
    with pytest.raises(Unavailable):
        store.account()


def test_a_put_that_the_server_stored_otherwise_is_an_error(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(answer(201, b"", {"Etag": "0" * 32}))
    with pytest.raises(Unavailable, match="checksum is not that of the bytes sent"):
        put_bytes(store, "b", "k", b"body")


def test_a_header_with_a_name_beyond_ascii_takes_no_other_away(
    server: ScriptedServer, store: SwiftStore, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("Failed to parse headers")
    # Swift sends metadata names as they were given, and Python's parser stops at such a line.
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Object-Meta-Ünï: ä\r\n"
        f"Content-Length: 4\r\nEtag: {md5_of(b'body')}\r\nX-Timestamp: 1767323045.67890\r\n\r\n"
    )
    server.script(head.encode(), head.encode() + b"body", head.encode() + b"body")
    found = store.head("b", "k")
    assert (found.info.size, found.info.etag) == (4, md5_of(b"body"))
    assert found.info.mtime_ns == 1_767_323_045_678_900_000
    assert found.metadata == {"ünï": "ä"}
    for _ in range(2):
        with within(5.0):
            assert get_bytes(store, "b", "k") == b"body"


HTML = b"<html>maintenance</html>"
MANIFEST = answer(200, b"[]", {"X-Static-Large-Object": "True", "Etag": "e"})
REPORT = b'{"Errors": [], "Response Status": "200 OK"}'


@pytest.mark.parametrize(
    ("call", "wrong", "right"),
    [
        (lambda s: list(s.listing("b")), answer(200, HTML), answer(200, b"[]")),
        (lambda s: list(s.listing("b")), answer(200), answer(200, b"[]")),
        (lambda s: s.containers(), answer(200, b'[{"na'), answer(200, b"[]")),
        (lambda s: s.account(), answer(200), ACCOUNT),
        (lambda s: s.head_container("b"), answer(200), BUCKET),
        (CALLS["HEAD"][0], answer(200), CALLS["HEAD"][1]),
        (CALLS["GET"][0], answer(200, HTML), ok(b"body")),
        (CALLS["GET"][0], ok(b"", {"Content-Length": "4", "Etag": "e"}), ok(b"body")),
        (CALLS["POST"][0], answer(200, HTML), answer(200, REPORT)),
        (lambda s: s.slo_segments("b", "k"), answer(200, HTML), MANIFEST),
        (CALLS["POST"][0], answer(200, b"{}"), answer(200, REPORT)),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again(
    server: ScriptedServer,
    store: SwiftStore,
    call: Callable[[SwiftStore], object],
    wrong: bytes,
    right: bytes,
) -> None:
    server.script(wrong, right)
    call(store)
    assert len(server.received) == 2


CHANGES: dict[str, tuple[Callable[[SwiftStore], object], bytes]] = {
    "PUT": CALLS["PUT"],
    "DELETE": CALLS["DELETE"],
    "COPY": (lambda s: s.copy("b", PLAIN, ("b", "new")), answer(201, b"", {"Etag": "e"})),
    "POST": (lambda s: s.post("b", ObjectHead(PLAIN, {}), {"a": "b"}), answer(202)),
    "PUT bucket": (lambda s: s.create_container("b"), answer(201)),
    "POST bucket": (lambda s: s.post_container("b", {"a": "b"}), answer(204)),
    "DELETE bucket": (lambda s: s.delete_container("b"), answer(204)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_that_something_on_the_way_calls_a_success_is_not_believed(
    server: ScriptedServer, store: SwiftStore, name: str
) -> None:
    call, success = CHANGES[name]
    server.script(answer(200, HTML), success)
    call(store)
    assert len(server.received) == 2


def test_a_large_object_whose_removal_was_done_and_not_told_is_removed(
    server: ScriptedServer, store: SwiftStore
) -> None:
    gone = answer(
        200, b'{"Number Deleted": 0, "Number Not Found": 1, "Response Status": "404 Not Found"}'
    )
    server.script(HANG_UP, gone)
    store.delete_slo("b", "k")
    server.script(gone)
    with pytest.raises(NotFound):
        store.delete_slo("b", "k")


# -- connections ----------------------------------------------------------------------------------


def test_one_connection_serves_one_request_after_the_other(
    server: ScriptedServer, store: SwiftStore
) -> None:
    for call, success in CALLS.values():
        server.script(success)
        call(store)
    # On RGW a second look tells a missing object from a manifest without segments.
    server.script(answer(404), answer(404), part(0, 2, 10, b"012"), ok(b""))
    with pytest.raises(NotFound):
        store.head("b", "k")
    assert get_bytes(store, "b", "k", span=(0, 3)) == b"012"
    assert get_bytes(store, "b", "k") == b""
    assert {request.connection for request in server.received} == {1}


@pytest.mark.parametrize(
    ("headers", "kind", "size"),
    [
        ({"X-Object-Meta-Static-Large-Object": "True"}, Kind.SLO, 1),
        ({"X-Object-Manifest": "b_segments/k/"}, Kind.DLO, 1),
        ({}, Kind.PLAIN, 0),
    ],
)
def test_a_manifest_without_segments_is_found_and_is_no_empty_file(
    server: ScriptedServer, store: SwiftStore, headers: dict[str, str], kind: Kind, size: int
) -> None:
    server.script(answer(200, b'{"swift": {}, "slo": {"max_manifest_segments": 1000}}'))
    assert store.capabilities().static_large_objects
    found = {"Content-Length": "0", "Etag": "e", "Last-Modified": DATE, **headers}
    server.script(answer(404), answer(200, b"", found))
    info = store.head("b", "k").info
    assert (info.kind, info.size) == (kind, size)
    assert server.received[-1].target.endswith("/b/k?multipart-manifest=get")


def test_a_small_body_that_trickles_in_is_no_progress(
    auth: FakeAuth, server: ScriptedServer
) -> None:
    def pieces() -> Iterator[bytes]:
        yield answer(200, b"", {"Etag": "e", "Last-Modified": DATE, "Content-Length": "1000"})
        for _ in range(1000):
            time.sleep(0.02)
            yield b"x"

    server.otherwise = lambda _: pieces()
    store = SwiftStore(auth, Config(timeout_s=0.4, connections=4))
    with pytest.raises(TimedOut, match="no progress"), store.get("b", "k"):
        pass
    store.close()


def test_a_small_body_in_parts_is_whole(store: SwiftStore, server: ScriptedServer) -> None:
    content = bytes(range(256)) * 400

    def pieces() -> Iterator[bytes]:
        yield ok(content)[: -len(content)]
        for start in range(0, len(content), 30_000):
            time.sleep(0.01)
            yield content[start : start + 30_000]

    server.otherwise = lambda _: pieces()
    with store.get("b", "k") as body:
        assert list(body) == [content]
        assert body.is_complete


def test_a_body_that_is_left_early_costs_its_connection_only(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(ok(bytes(4 * PIECE_BYTES)), ok(b"next"))
    with store.get("b", "k") as body:
        next(iter(body))
    assert get_bytes(store, "b", "k") == b"next"
    assert [request.connection for request in server.received] == [1, 2]


def test_requests_are_counted_by_method(server: ScriptedServer, store: SwiftStore) -> None:
    server.script(answer(503), ok(b"body"), answer(204))
    get_bytes(store, "b", "k")
    store.delete("b", "k")
    assert store.requests() == {"GET": 2, "DELETE": 1}


# -- listings and what the server can do ----------------------------------------------------------


def page(*names: str) -> bytes:
    entry = {"hash": md5_of(b"1"), "bytes": 1, "last_modified": "2026-01-02T03:04:05.678900"}
    return answer(200, json.dumps([{"name": name, **entry} for name in names]).encode())


def keys(store: SwiftStore) -> list[str]:
    return [info.key for found in store.listing("b") for info in found.objects]


def test_a_listing_ends_with_a_short_page_where_pages_are_exact(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(page("a", "b", "c/ä&b"), INFO, page("d"))
    assert keys(store) == ["a", "b", "c/ä&b", "d"]
    targets = [request.target for request in server.received]
    assert targets == [
        "/v1/AUTH_test/b?format=json",
        "/info",
        "/v1/AUTH_test/b?format=json&marker=c%2F%C3%A4%26b",
    ]


def test_a_listing_ends_with_an_empty_page_elsewhere(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(page("a"), answer(404), page("b", "c"), page())
    assert keys(store) == ["a", "b", "c"]


def test_a_listing_that_does_not_go_on_is_an_error_and_not_a_loop(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(page("a", "b"), answer(404), page("a", "b"))
    with pytest.raises(Unavailable, match="does not go on"):
        keys(store)


def test_a_page_is_tried_again_and_none_twice(server: ScriptedServer, store: SwiftStore) -> None:
    server.script(page("a", "b", "c"), INFO, answer(503), HANG_UP, page("d"))
    assert keys(store) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("reply", [answer(404), answer(403), answer(200, b"no json")])
def test_a_server_that_tells_nothing_of_itself_gets_the_safe_defaults(
    server: ScriptedServer, store: SwiftStore, reply: bytes
) -> None:
    server.script(reply)
    assert store.capabilities() == Capabilities()
    assert store.capabilities() == Capabilities()
    assert len(server.received) == 1


def test_what_the_server_can_do_is_asked_again_after_a_failure(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(answer(503), INFO)
    with within(0.04), pytest.raises(Unavailable):
        store.capabilities()
    assert store.capabilities().listing_limit == 3


# -- what is sent ---------------------------------------------------------------------------------


def test_names_and_metadata_are_sent_as_the_protocol_wants(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(answer(201, b"", {"Etag": md5_of(b"1"), "Last-Modified": DATE}))
    put_bytes(store, "b ä", "d/ä ?#%&+", b"1", metadata={"Mtime": "1.5"}, content_type="text/x")
    (request,) = server.received
    assert request.target == "/v1/AUTH_test/b%20%C3%A4/d/%C3%A4%20%3F%23%25%26%2B"
    assert request.headers["x-object-meta-mtime"] == "1.5"
    assert request.headers["content-type"] == "text/x"
    assert request.headers["content-length"] == "1"
    assert "transfer-encoding" not in request.headers


def test_an_empty_object_is_sent_with_its_length(server: ScriptedServer, store: SwiftStore) -> None:
    server.script(answer(201, b"", {"Etag": md5_of(b""), "Last-Modified": DATE}))
    put_bytes(store, "b", "k")
    assert server.received[0].headers["content-length"] == "0"


def test_many_names_are_deleted_by_few_requests(
    server: ScriptedServer, store: SwiftStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swift_module, "BULK_DELETE_NAMES", 2)
    success = answer(200, b'{"Errors": [["b/k2", "404 Not Found"]], "Response Status": "400"}')
    server.script(success, success, success)
    store.delete_many("b", ["k1", "k2", "k 3", "k4", "k5"])
    bodies = [request.body for request in server.received]
    assert bodies == [b"b/k1\nb/k2", b"b/k%203\nb/k4", b"b/k5"]


@pytest.mark.semantics("R11", "T1")
@pytest.mark.parametrize(
    "call",
    [lambda s: s.delete_many("b", ["k1", "k2"]), lambda s: s.delete_slo("b", "k")],
    ids=["many", "large"],
)
@pytest.mark.parametrize(
    "passing",
    [
        b'{"Errors": [["b/k2", "401 Unauthorized"]], "Response Status": "400 Bad Request"}',
        b'{"Errors": [["b/k2", "503 Service Unavailable"]], "Response Status": "502 Bad Gateway"}',
        b'{"Errors": [], "Response Status": "401 Unauthorized"}',
        b'{"Errors": [], "Response Status": "500 Internal Error"}',
    ],
)
def test_one_of_many_deletions_that_met_what_passes_is_asked_for_again(
    server: ScriptedServer, store: SwiftStore, call: Callable[[SwiftStore], object], passing: bytes
) -> None:
    """The token may expire, or a disk may be away, between two deletions of one request."""
    success = b'{"Errors": [], "Number Deleted": 1, "Response Status": "200 OK"}'
    server.script(answer(200, passing), answer(200, success))
    call(store)
    tokens = [request.headers["x-auth-token"] for request in server.received]
    assert tokens == ["secret-token-1", f"secret-token-{2 if b'401' in passing else 1}"]


def test_a_name_that_could_not_be_deleted_is_an_error(
    server: ScriptedServer, store: SwiftStore
) -> None:
    report = b'{"Errors": [["b/k%201", "403 Forbidden"]], "Response Status": "400 Bad Request"}'
    server.script(answer(200, report))
    with pytest.raises(AccessDenied, match="b/k 1"):
        store.delete_many("b", ["k 1", "k2"])


def test_a_large_object_that_is_none_any_more_is_not_read_to_find_that_out(
    server: ScriptedServer, store: SwiftStore
) -> None:
    server.script(ok(bytes(PIECE_BYTES), {"Content-Length": str(10**12)}))
    with pytest.raises(NotFound):
        store.slo_segments("b", "k")


def test_a_static_large_object_is_one_by_its_answer(
    server: ScriptedServer, store: SwiftStore
) -> None:
    headers = {"Content-Length": "5", "X-Static-Large-Object": "True", "Etag": '"e"'}
    server.script(answer(200, b"", headers))
    assert store.head("b", "k").info.kind is Kind.SLO
