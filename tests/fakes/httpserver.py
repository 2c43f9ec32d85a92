"""An HTTP server on loopback that answers what a test has written down, byte for byte."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


def answer(status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """Return a complete answer; Content-Length is that of the body unless given."""
    lines = {"Content-Length": str(len(body)), **(headers or {})}
    head = f"HTTP/1.1 {status} Some Reason\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return head.encode() + b"\r\n" + body


# Close the connection instead of answering.
HANG_UP = b""


# Pieces are sent one after the other, and then the connection ends.
Reply = bytes | Iterable[bytes]


def _nothing_left(request: Received) -> Reply:
    return answer(599)


@dataclass
class ScriptedServer:
    """Answers requests in order of their coming; without an answer left, as ``otherwise`` says."""

    otherwise: Callable[[Received], Reply] = _nothing_left
    answers: list[bytes] = field(default_factory=list)
    received: list[Received] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []

    @property
    def url(self) -> str:
        """The account on this server."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/AUTH_test"

    def script(self, *answers: bytes) -> None:
        """Answer the next requests with these; an answer that is cut short is followed by a
        hang-up.
        """
        with self._lock:
            self.answers.extend(answers)

    def __enter__(self) -> ScriptedServer:
        self._spawn(self._accept)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # close() alone would leave the thread in accept().
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            connections = list(self._connections)
        for connection in connections:
            with _quietly():
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
                number = len(self._connections)
            self._spawn(self._serve, connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, connection.makefile("rb") as stream, _quietly():
            while line := stream.readline():
                method, target, _ = line.decode().split()
                headers = {}
                while (text := stream.readline().decode()) not in ("\r\n", ""):
                    name, _, value = text.partition(":")
                    headers[name.lower()] = value.strip()
                body = stream.read(int(headers.get("content-length", 0)))
                request = Received(method, target, headers, body, number)
                with self._lock:
                    self.received.append(request)
                    scripted = self.answers.pop(0) if self.answers else None
                reply = self.otherwise(request) if scripted is None else scripted
                if reply == HANG_UP:
                    return
                if not isinstance(reply, bytes):
                    for piece in reply:
                        connection.sendall(piece)
                    return
                connection.sendall(reply)
                if _is_cut_short(method, reply):
                    return


def _is_cut_short(method: str, reply: bytes) -> bool:
    head, _, body = reply.partition(b"\r\n\r\n")
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return method != "HEAD" and len(body) < int(line.split(b":")[1])
    return True


@contextmanager
def _quietly() -> Iterator[None]:
    """Clients may hang up at any moment."""
    with suppress(OSError):
        yield
