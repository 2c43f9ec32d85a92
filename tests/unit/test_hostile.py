"""A server that means harm, or is broken: what it lists reaches neither kernel nor disk nor log."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from allasfs.config import Config
from allasfs.errors import Failed, FsError, TimedOut, TooManyNames, Unavailable
from allasfs.fs.vfs import Vfs
from allasfs.store import answers as answers_module
from allasfs.store import session as session_module
from allasfs.store.api import MD5_OF_NOTHING
from allasfs.store.renewal import Endpoint
from allasfs.store.swift import SwiftStore
from tests.conftest import ExpectedLogs
from tests.fakes.httpserver import Received, Reply, ScriptedServer, answer

TIMEOUT_S = 0.4
# One tenth of the product's, so that a test need not send so much.
MOST_BYTES = 4 * 1024 * 1024
MOST_NAMES = 50


class Auth:
    ca_file: str | None = None

    def __init__(self, url: str) -> None:
        self._url = url

    def endpoint(self) -> Endpoint:
        return Endpoint(self._url, "token")

    def refused(self, token: str) -> bool:
        return False

    def expires_at(self) -> float | None:
        return None

    def describe(self) -> dict[str, str]:
        return {}


class Hostile:
    """Answers every listing of the bucket ``b`` with one body, all else like a Swift server."""

    def __init__(self) -> None:
        self.buckets: bytes = json.dumps([{"name": "b", "count": 1, "bytes": 1}]).encode()
        self.page: Reply = answer(200, b"[]")

    def __call__(self, request: Received) -> Reply:
        path, _, query = request.target.partition("?")
        account, _, place = path.partition("/v1/AUTH_test")
        if request.method == "HEAD" and place:
            counts = {"X-Container-Object-Count": "1", "X-Container-Bytes-Used": "1"}
            return answer(204, b"", counts) if place == "/b" else answer(404)
        if request.method == "GET" and "marker=" in query:
            return answer(200, b"[]")
        if request.method == "GET" and place in ("", "/") and not account:
            return answer(200, self.buckets)
        return self.page if request.method == "GET" and place == "/b" else answer(404)


@pytest.fixture
def hostile() -> Hostile:
    return Hostile()


@pytest.fixture
def server(hostile: Hostile) -> Iterator[ScriptedServer]:
    with ScriptedServer(hostile) as server:
        yield server


@pytest.fixture
def vfs(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vfs]:
    def sleep(seconds: float) -> None:
        time.sleep(min(seconds, 0.02))

    fake = SimpleNamespace(monotonic=time.monotonic, time_ns=time.time_ns, sleep=sleep)
    monkeypatch.setattr(session_module, "time", fake)
    monkeypatch.setattr(answers_module, "MOST_ANSWER_BYTES", MOST_BYTES)
    config = Config(
        timeout_s=TIMEOUT_S,
        spool_dir=tmp_path / "spool",
        attr_db=tmp_path / "attributes",
        names=MOST_NAMES,
    )
    store = SwiftStore(Auth(server.url), config)
    vfs = Vfs(store, config)
    vfs.start()
    yield vfs
    assert vfs.close() == []
    store.close()
    # Nothing that a name says was written anywhere.
    assert {path.name for path in tmp_path.iterdir()} <= {"spool", "attributes"} | {
        f"attributes{end}" for end in ("-wal", "-shm")
    }


def entry(name: object = "file", **changes: object) -> dict[str, object]:
    return {
        "name": name,
        "hash": "0" * 32,
        "bytes": 5,
        "content_type": "text/plain",
        "last_modified": "2026-01-02T03:04:05.678900",
        **changes,
    }


def raw(**changes: str) -> bytes:
    """An entry with values that are no JSON of Python's."""
    text = json.dumps([entry(**dict.fromkeys(changes, "VALUE"))])
    for value in changes.values():
        text = text.replace('"VALUE"', value, 1)
    return text.encode()


REFUSED: dict[str, Any] = {
    "a negative size": [entry(bytes=-1)],
    "a size that no file has": [entry(bytes=2**63)],
    "a size without end": raw(bytes="1e999"),
    "a size of 5000 digits": raw(bytes="9" * 5000),
    "a size in words": [entry(bytes="many")],
    "a size that is a list": [entry(bytes=[1])],
    "a size that is a truth": [entry(bytes=True)],
    "half a byte": [entry(bytes=0.5)],
    "no size": [{"name": "file"}],
    "a date that is none": [entry(last_modified="2026-99-99T00:00:00")],
    "a date that is a number": [entry(last_modified=10**30)],
    "a name that is a number": [entry(5)],
    "a name that is a list": [entry(["x"])],
    "no name": [entry("")],
    "a name without UTF-8": [entry("\ud800")],
    "a prefix that was not asked for": [{"subdir": "d/"}],
    "a number": 5,
    "a list of lists": [[], [[]]],
    "an object": {"name": "file"},
    "brackets without end": b"[" * 200_000,
    "half a page": b'[{"name": "file", ',
    "a page of a proxy": b"<html>busy</html>",
}
SHOWN: dict[str, tuple[Any, set[str]]] = {
    "the way up": ([entry(".."), entry("../x"), entry("a/../../x"), entry("/etc/passwd")], {"a"}),
    "dots": ([entry("."), entry("./x"), entry("file")], {"file"}),
    "a null byte": ([entry("a\0b"), entry("file")], {"file"}),
    "control characters": ([entry("\x1b[2J\n\rx")], {"\x1b[2J\n\rx"}),
    "one name twice": ([entry(), entry(bytes=6)], {"file"}),
    "a name of 2000 bytes": ([entry("x" * 2000), entry("file")], {"file"}),
    "a directory and a file of one name": ([entry("a"), entry("a/b")], {"a", "a~object"}),
    "a type that is a list": ([entry(content_type=[1])], {"file"}),
    "a hash that is a number": ([entry(hash=7)], {"file"}),
    "a link that is too long": ([entry(content_type="inode/symlink", bytes=2**62)], {"file"}),
    "a time after the end of time": ([entry(last_modified="9999-12-31T23:59:59")], {"file"}),
    "the hash of nothing": ([entry(hash=MD5_OF_NOTHING, bytes=0), entry("x")], {"file", "x"}),
}


def body(page: object) -> bytes:
    return page if isinstance(page, bytes) else json.dumps(page).encode()


def look_at_everything(vfs: Vfs) -> set[str]:
    names = vfs.listdir("/b")
    assert len(names) == len(set(names))
    for name in names:
        assert name not in ("", ".", "..")
        assert not {"/", "\0"} & set(name)
        try:
            attr = vfs.getattr(f"/b/{name}")
        except FsError:
            continue
        assert 0 <= attr.size < 2**63
    return set(names)


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("what", REFUSED)
def test_a_listing_that_is_none_is_an_error_and_not_an_empty_directory(
    vfs: Vfs, hostile: Hostile, what: str
) -> None:
    hostile.page = answer(200, body(REFUSED[what]))
    with pytest.raises(Unavailable, match="cannot be understood") as caught:
        vfs.listdir("/b")
    assert len(str(caught.value)) < 400
    hostile.page = answer(200, body([entry()]))
    assert vfs.listdir("/b") == ["file"]
    assert vfs.listdir("/") == ["b"]


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("what", SHOWN)
def test_names_that_lead_elsewhere_are_not_shown(
    vfs: Vfs, hostile: Hostile, what: str, expected_logs: ExpectedLogs
) -> None:
    page, names = SHOWN[what]
    if any(word in what for word in ("way", "dots", "null", "2000")):
        expected_logs("objects are not shown")
    hostile.page = answer(200, body(page))
    assert look_at_everything(vfs) == names
    assert vfs.listdir("/") == ["b"]


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("name", ["../b", "a/b", "..", ".", "", 5, None, "\ud800"])
def test_buckets_that_lead_elsewhere_are_an_error(vfs: Vfs, hostile: Hostile, name: object) -> None:
    hostile.buckets = json.dumps([{"name": name}, {"name": "b"}]).encode()
    with pytest.raises(Unavailable, match="cannot be understood"):
        vfs.listdir("/")


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("subdir", ["d/", "e/f/", "d/f", "d/f/g/", "d", "/", ""])
def test_prefixes_that_were_not_asked_for_are_an_error(
    vfs: Vfs, server: ScriptedServer, subdir: str
) -> None:
    store = SwiftStore(Auth(server.url), Config(timeout_s=TIMEOUT_S))
    server.script(*[answer(200, body([{"subdir": subdir}]))] * 100)
    with pytest.raises(Unavailable, match="cannot be understood"):
        list(store.listing("b", prefix="d/", delimiter="/"))
    store.close()


@pytest.mark.semantics("S4")
def test_objects_that_were_not_asked_for_are_an_error(vfs: Vfs, server: ScriptedServer) -> None:
    store = SwiftStore(Auth(server.url), Config(timeout_s=TIMEOUT_S))
    server.script(*[answer(200, body([entry("e/secret")]))] * 100)
    with pytest.raises(Unavailable, match="cannot be understood"):
        list(store.listing("b", prefix="d/"))
    store.close()


def lists(server: ScriptedServer) -> int:
    return sum("/b?" in request.target for request in server.received)


@pytest.mark.semantics("S4")
def test_a_listing_that_never_ends_ends_at_the_limit_for_names(
    vfs: Vfs, hostile: Hostile, server: ScriptedServer
) -> None:
    def next_page(request: Received) -> Reply:
        if "/b?" not in request.target:
            return hostile(request)
        return answer(200, body([entry(f"{lists(server):09d}")]))

    server.otherwise = next_page
    with pytest.raises(TooManyNames, match="larger 'names'"):
        vfs.listdir("/b")
    assert lists(server) == MOST_NAMES + 1


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("page", ["the same", "an older one"])
def test_a_listing_that_turns_back_is_an_error(
    vfs: Vfs, hostile: Hostile, server: ScriptedServer, page: str
) -> None:
    pages = [body([entry("m")]), body([entry("m" if page == "the same" else "a")])]

    def turn(request: Received) -> Reply:
        if "/b?" not in request.target:
            return hostile(request)
        return answer(200, pages[min(1, lists(server) - 1)])

    server.otherwise = turn
    with pytest.raises(Unavailable, match="does not go on"):
        vfs.listdir("/b")
    assert lists(server) == 2


@pytest.mark.semantics("S4")
@pytest.mark.parametrize("is_packed", [False, True], ids=["long", "packed"])
def test_a_page_of_gigabytes_is_given_up_early_and_not_asked_for_again(
    vfs: Vfs, hostile: Hostile, server: ScriptedServer, *, is_packed: bool
) -> None:
    sent: list[int] = []
    # What one of these bytes unpacks to is a thousand times as long.
    block = gzip.compress(b" " * 64 * MOST_BYTES) if is_packed else b" " * 64 * 1024
    encoding = "Content-Encoding: gzip\r\n" if is_packed else ""

    def pieces() -> Iterator[bytes]:
        yield f"HTTP/1.1 200 OK\r\n{encoding}Content-Length: {2**40}\r\n\r\n".encode()
        while True:
            yield block
            sent.append(len(block))

    hostile.page = pieces()
    with pytest.raises(Unavailable, match=f"more than {MOST_BYTES} bytes"):
        vfs.listdir("/b")
    assert lists(server) == 1
    # What was sent and not read lies in the buffers of the two sockets.
    assert sum(sent) < 64 * MOST_BYTES


@pytest.mark.semantics("S4")
def test_a_page_that_trickles_in_is_no_progress(
    vfs: Vfs, hostile: Hostile, server: ScriptedServer
) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n["
        while True:
            time.sleep(TIMEOUT_S / 20)
            yield b" "

    hostile.page = pieces()
    with pytest.raises(TimedOut):
        vfs.listdir("/b")


@pytest.mark.semantics("S4")
def test_a_refusal_of_gigabytes_is_read_no_further_than_its_first_words(
    vfs: Vfs, hostile: Hostile
) -> None:
    def pieces() -> Iterator[bytes]:
        yield f"HTTP/1.1 403 No\r\nContent-Length: {2**40}\r\n\r\n".encode()
        while True:
            yield b"no " * 20_000

    hostile.page = pieces()
    with pytest.raises(FsError, match="answered 403"):
        vfs.listdir("/b")


@pytest.mark.semantics("S4")
@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Length": "-5", "Etag": "e"},
        {"Etag": "e", "X-Timestamp": "never"},
        {"Etag": "e", "X-Timestamp": "9" * 5000},
        {"Etag": "e", "Last-Modified": "Someday, 99 Foo 99999"},
        {"Etag": "e", "X-Object-Meta-Mtime": "9" * 400, "X-Object-Meta-Mode": "-1"},
        {"Etag": "e", "X-Object-Meta-Uid": "99999999999999999999"},
    ],
    ids=lambda headers: str(headers)[:40],
)
def test_headers_without_sense_are_an_error_or_ignored(
    vfs: Vfs, hostile: Hostile, server: ScriptedServer, headers: dict[str, str]
) -> None:
    hostile.page = answer(200, body([entry(hash=MD5_OF_NOTHING, bytes=0)]))

    def act(request: Received) -> Reply:
        if request.method == "HEAD" and request.target.endswith("/b/file"):
            return answer(200, b"", headers)
        return hostile(request)

    server.otherwise = act
    try:
        attr = vfs.getattr("/b/file")
    except Failed:
        pass
    else:
        assert (attr.size, attr.uid < 2**32, attr.mode) == (0, True, 0o100644)
    assert vfs.listdir("/b") == ["file"]
