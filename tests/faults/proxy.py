"""A reverse proxy on loopback, in front of a real Swift, that fails as a script says.

A ``Rule`` says which requests an action is done to: by method, by a regular expression that is
found in the path (and query), and by how many of those go before. An ``Action`` is a function of
the ``Exchange``: it may take the request's body, pass the request on, send what it likes, stall, or
reset the connection; ``actions.py`` has those of the tests. What no rule names is passed on, as
slowly as ``latency_s`` and ``bytes_per_s`` say.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

CHUNK_BYTES = 64 * 1024
# A server that is asked for an answer and gives none has failed, not stalled.
SERVER_PATIENCE_S = 60.0
BODILESS = (204, 304)
CHANGES = ("PUT", "POST", "COPY", "DELETE")


@dataclass(frozen=True)
class Request:
    """The head of a request."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def length(self) -> int:
        """Bytes of its body."""
        return int(self.headers.get("content-length", 0))

    def without(self, name: str) -> Request:
        """Return the request without one header."""
        return replace(self, headers={k: v for k, v in self.headers.items() if k != name})

    def head(self) -> bytes:
        """Return it as it is sent."""
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


@dataclass(frozen=True)
class Answer:
    """A complete answer; of one to HEAD the body is empty, and Content-Length is not its length."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes = b""

    def with_header(self, name: str, value: str | None) -> Answer:
        """Return the answer with one header changed, or (None) without it."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return replace(self, headers=kept if value is None else (*kept, (name, value)))

    def header(self, name: str) -> str:
        """Return a header, or nothing."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")

    def head(self) -> bytes:
        """Return status line and headers as they are sent."""
        lines = [f"HTTP/1.1 {self.status} {self.reason}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode("iso-8859-1")


class EndedError(Exception):
    """The exchange is over, and its connection with it."""


class Exchange:
    """One request of a client, and all that an action may do to it."""

    def __init__(
        self, proxy: FaultProxy, client: socket.socket, stream: BinaryIO, request: Request
    ) -> None:
        self._proxy = proxy
        self._client = client
        self._stream = stream
        self.request = request
        self._body: bytes | None = None

    def body(self) -> bytes:
        """Take the body of the request."""
        if self._body is None:
            self._body = self._stream.read(self.request.length)
            if len(self._body) != self.request.length:
                raise EndedError
        return self._body

    def change_body(self, change: Callable[[bytes], bytes]) -> None:
        """Let the server get another body of the same length."""
        self._body = change(self.body())

    def take(self, size: int) -> None:
        """Take some bytes of the request's body, and leave the rest where it is."""
        self._stream.read(min(size, self.request.length))

    def forward(self, request: Request | None = None) -> Answer:
        """Let the server do the request; return its whole answer."""
        asked = request or self.request
        body = self.body()
        with self._proxy.connect() as (server, stream):
            server.sendall(asked.head() + body)
            status, reason, headers = _answer_head(stream)
            self._proxy.look_whether_late(self._client, asked)
            answer = Answer(status, reason, headers)
            if asked.method != "HEAD" and status not in BODILESS:
                answer = _with_body(stream, answer)
        return answer

    def send(self, data: bytes) -> None:
        """Send bytes to the client, as they are."""
        self._client.sendall(data)

    def answer(self, answer: Answer) -> None:
        """Send a complete answer."""
        self.send(answer.head() + answer.body)

    def miss(self) -> None:
        """Note that there is nothing to fail: no body to cut, no range to change."""
        self._proxy.missed()

    def reset(self) -> None:
        """End the connection by a RST."""
        self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise EndedError

    def end(self) -> None:
        """End the connection as a server does that is done."""
        raise EndedError

    def hang_up(self) -> None:
        """Let the client see the end of the connection, and go on."""
        self._client.shutdown(socket.SHUT_RDWR)

    def stall(self, seconds: float | None = None) -> None:
        """Do nothing until the time is over, the client is gone, or the proxy is healed."""
        self._proxy.stall(self._client, seconds)

    def pass_on(self) -> None:
        """Let the server do it, and its answer through, piece by piece."""
        self._proxy.pass_on(self._client, self._stream, self.request, self._body)


Action = Callable[[Exchange], None]


@dataclass
class Rule:
    """Which requests an action is done to."""

    action: Action
    method: str = ""
    path: str = ""
    # So many matching requests are let through before.
    after: int = 0
    # So often; None: for ever.
    times: int | None = 1
    seen: int = field(default=0, init=False)

    def takes(self, request: Request) -> bool:
        """Whether this request is one of them; counts it."""
        if self.method and self.method != request.method:
            return False
        if not re.search(self.path, unquote(request.target)):
            return False
        self.seen += 1
        number = self.seen - self.after
        return number > 0 and (self.times is None or number <= self.times)


class FaultProxy:
    """Listens on loopback; ``url`` is its address in place of the server's."""

    def __init__(self, server_url: str) -> None:
        parts = urlsplit(server_url)
        self._server = (parts.hostname or "", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._address = self._listener.getsockname()
        self._lock = threading.Lock()
        self._rules: list[Rule] = []  # guarded by _lock
        self._requests: list[Request] = []  # guarded by _lock
        self._struck = 0  # guarded by _lock
        self._late: list[str] = []  # guarded by _lock
        self._clients: set[socket.socket] = set()  # guarded by _lock
        self._threads: list[threading.Thread] = []  # guarded by _lock
        self._healed = threading.Event()
        self._is_closing = False
        self.latency_s = 0.0
        self.bytes_per_s = 0.0

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self._address[1]}"

    def through(self, url: str) -> str:
        """Return an address on the server as one on the proxy."""
        return self.url + urlsplit(url).path

    def __enter__(self) -> FaultProxy:
        self._spawn(self._accept, self._listener)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_closing = True
        self.heal()
        self._hang_up()
        for thread in self._threads:
            thread.join(SERVER_PATIENCE_S)

    # -- the script -------------------------------------------------------------------------------

    def script(self, *rules: Rule) -> None:
        """Do these to the requests to come, the first that takes one; forget those before."""
        with self._lock:
            self._rules = list(rules)
            self._struck = 0
            self._healed.clear()

    def fail(
        self, action: Action, method: str = "", path: str = "", *, times: int | None = 1
    ) -> None:
        """Do one action to the next matching requests."""
        self.script(Rule(action, method, path, times=times))

    def heal(self) -> None:
        """No more faults; what stalls goes on, and whoever waits for a connection gets it."""
        with self._lock:
            self._rules = []
        self._healed.set()

    @contextmanager
    def down(self) -> Iterator[None]:
        """Refuse connections, and reset those that are there."""
        self._hang_up()
        try:
            yield
        finally:
            self._listener = socket.create_server(self._address, backlog=256)
            self._spawn(self._accept, self._listener)

    @property
    def struck(self) -> int:
        """How many requests a rule has failed since the last script."""
        with self._lock:
            return self._struck

    def missed(self) -> None:
        """One of them was not failed."""
        with self._lock:
            self._struck -= 1

    def late(self) -> list[str]:
        """Return the targets of changes that were done when nobody waited for them any more."""
        with self._lock:
            return list(self._late)

    def look_whether_late(self, client: socket.socket, request: Request) -> None:
        """Note a change whose client has gone before the server answered."""
        poll = select.poll()
        poll.register(client, select.POLLRDHUP | select.POLLERR | select.POLLHUP)
        if request.method in CHANGES and poll.poll(0):
            places = (request.target, request.headers.get("destination", ""))
            with self._lock:
                self._late += [unquote(place) for place in places if place]

    def requests(self) -> list[Request]:
        """Return the requests since ``forget_requests``."""
        with self._lock:
            return list(self._requests)

    def forget_requests(self) -> None:
        """Let ``requests`` begin anew."""
        with self._lock:
            self._requests.clear()

    # -- its threads ------------------------------------------------------------------------------

    def _spawn(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="fault-proxy", daemon=True)
        with self._lock:
            self._threads = [each for each in self._threads if each.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _hang_up(self) -> None:
        # close() alone would leave the thread in accept().
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            clients = list(self._clients)
        for client in clients:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._clients.add(client)
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        stream = client.makefile("rb")
        try:
            while (request := _request_head(stream)) is not None:
                self._exchange(client, stream, request)
        except (OSError, EndedError, ValueError):
            # Either side may hang up at any moment.
            pass
        finally:
            with self._lock:
                self._clients.discard(client)
            with suppress(OSError):
                stream.close()
            client.close()

    def _exchange(self, client: socket.socket, stream: BinaryIO, request: Request) -> None:
        with self._lock:
            self._requests.append(request)
            rule = next((rule for rule in self._rules if rule.takes(request)), None)
            self._struck += rule is not None
        exchange = Exchange(self, client, stream, request)
        if rule is None:
            exchange.pass_on()
            return
        rule.action(exchange)

    # -- what exchanges need ----------------------------------------------------------------------

    @contextmanager
    def connect(self) -> Iterator[tuple[socket.socket, BinaryIO]]:
        """Yield a connection to the server."""
        with socket.create_connection(self._server, timeout=SERVER_PATIENCE_S) as server:
            server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with server.makefile("rb") as stream:
                yield server, stream

    def stall(self, client: socket.socket, seconds: float | None) -> None:
        """Wait until the time is over, the client is gone, or the proxy is healed."""
        end_s = time.monotonic() + (float("inf") if seconds is None else seconds)
        poll = select.poll()
        poll.register(client, select.POLLRDHUP | select.POLLERR | select.POLLHUP)
        while time.monotonic() < end_s and not self._healed.is_set():
            if poll.poll(20):
                raise EndedError

    def pass_on(
        self, client: socket.socket, stream: BinaryIO, request: Request, body: bytes | None
    ) -> None:
        """Carry a request to the server and its answer back, as slowly as is set."""
        if self.latency_s:
            time.sleep(self.latency_s)
        with self.connect() as (server, answers):
            server.sendall(request.head())
            if body is None:
                self._pump(stream, server, request.length)
            else:
                server.sendall(body)
            status, reason, headers = _answer_head(answers)
            self.look_whether_late(client, request)
            answer = Answer(status, reason, headers)
            client.sendall(answer.head())
            if request.method == "HEAD" or status in BODILESS:
                return
            if answer.header("transfer-encoding") or not answer.header("content-length"):
                # Seldom, and small: an end that is not announced ends the connection.
                self._pump(answers, client, None)
                raise EndedError
            self._pump(answers, client, int(answer.header("content-length")))

    def _pump(self, source: BinaryIO, target: socket.socket, length: int | None) -> None:
        while length is None or length:
            wanted = CHUNK_BYTES if length is None else min(CHUNK_BYTES, length)
            chunk = source.read(wanted)
            if length is not None and len(chunk) < wanted:
                raise EndedError
            if not chunk:
                return
            target.sendall(chunk)
            if length is not None:
                length -= len(chunk)
            if self.bytes_per_s:
                time.sleep(len(chunk) / self.bytes_per_s)


def _lines(stream: BinaryIO) -> Iterator[tuple[str, str]]:
    while (line := stream.readline().decode("iso-8859-1")) not in ("\r\n", ""):
        name, _, value = line.partition(":")
        yield name, value.strip()


def _request_head(stream: BinaryIO) -> Request | None:
    first = stream.readline().decode("iso-8859-1").split()
    if len(first) != 3:
        return None
    # The proxy has a connection of its own for each request to the server, and no 100-continue.
    headers = {name.lower(): value for name, value in _lines(stream)}
    headers.pop("expect", None)
    return Request(first[0], first[1], {**headers, "connection": "close"})


def _answer_head(stream: BinaryIO) -> tuple[int, str, tuple[tuple[str, str], ...]]:
    version, _, rest = stream.readline().decode("iso-8859-1").strip().partition(" ")
    if not version:
        raise EndedError
    status, _, reason = rest.partition(" ")
    hop = ("connection", "keep-alive")
    return int(status), reason, tuple(each for each in _lines(stream) if each[0].lower() not in hop)


def _with_body(stream: BinaryIO, answer: Answer) -> Answer:
    """Return the answer with its body, which is not chunked any more."""
    body = b""
    if answer.header("transfer-encoding"):
        while size := int(stream.readline().split(b";")[0], 16):
            body += stream.read(size)
            stream.readline()
        answer = answer.with_header("Transfer-Encoding", None)
    elif length := answer.header("content-length"):
        body = stream.read(int(length))
    else:
        body = stream.read()
    return replace(answer.with_header("Content-Length", str(len(body))), body=body)
