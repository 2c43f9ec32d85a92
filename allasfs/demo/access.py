"""The access log of the Swift proxy: one line for each request of a client.

The filter stands first in the proxy's pipeline, so it sees what a client asked and never the
requests that Swift makes to itself for a manifest, a copy or a bulk delete. A line is written
when the answer's status is known, before the first byte of the answer leaves: a client that
has its answer finds the request in the log. So bytes received are exact (the body has been
read by then), bytes sent are those that the answer's Content-Length announces.
"""

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


@dataclass(frozen=True)
class Request:
    """One request of a client, as the server saw it; the path is percent-decoded."""

    method: str
    path: str
    query: str
    status: int
    range: str = ""  # as in "bytes=0-99"
    received_bytes: int = 0
    sent_bytes: int = 0
    client_port: int = 0  # one per connection
    transaction: str = ""


def read_requests(log: Path, offset: int) -> tuple[Request, ...]:
    """Return the requests in the log after this offset, in the order of their answers."""
    if not log.exists():
        return ()
    with log.open(encoding="ascii") as lines:
        lines.seek(offset)
        return tuple(_parse(line) for line in lines)


def _parse(line: str) -> Request:
    words = ["" if word == "-" else word for word in line.split()]
    _time, port, method, path, query, range_, status, received, sent, _seconds, transaction = words
    return Request(
        method=method,
        path=unquote(path, errors="surrogateescape"),
        query=query,
        status=int(status),
        range=range_,
        received_bytes=int(received),
        sent_bytes=int(sent),
        client_port=int(port),
        transaction=transaction,
    )


class Input(Protocol):
    """The part of a WSGI input that Swift uses."""

    def read(self, size: int = -1) -> bytes:
        """Read up to size bytes."""

    def readline(self, size: int = -1) -> bytes:
        """Read one line."""


class CountingInput:
    """A request's body that counts what was read of it."""

    def __init__(self, body: Input) -> None:
        """Wrap the server's input."""
        self._body = body
        self.received_bytes = 0

    def read(self, size: int = -1, *args: Any, **kwargs: Any) -> bytes:
        """Read and count."""
        data = self._body.read(size, *args, **kwargs)
        self.received_bytes += len(data)
        return data

    def readline(self, size: int = -1, *args: Any, **kwargs: Any) -> bytes:
        """Read and count one line."""
        data = self._body.readline(size, *args, **kwargs)
        self.received_bytes += len(data)
        return data

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


class AccessLog:
    """The WSGI filter that writes the log."""

    def __init__(self, app: Application, log: Path) -> None:
        """Stand before app; append to log."""
        self._app = app
        # One write() of a short line to a file opened so is atomic: processes can share it.
        self._fd = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        """Pass the request on, and write its line when the answer's status is known."""
        body = CountingInput(environ["wsgi.input"])
        environ["wsgi.input"] = body
        begin_s = time.monotonic()
        # Swift's filters change the environment, so what the client sent is kept here.
        asked = [environ["REMOTE_PORT"], environ["REQUEST_METHOD"]]
        asked.append(_printable(environ["RAW_PATH_INFO"]))
        asked.append(_printable(environ.get("QUERY_STRING", "")) or "-")
        asked.append(_printable(environ.get("HTTP_RANGE", "")) or "-")
        logged = False

        def start_and_log(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            nonlocal logged
            if not logged:
                logged = True
                answer = _summary(asked[1], status, headers)
                seconds = f"{time.monotonic() - begin_s:.4f}"
                words = [_now(), *asked, answer[0], str(body.received_bytes), answer[1], seconds]
                os.write(self._fd, (" ".join([*words, answer[2]]) + "\n").encode("ascii"))
            return start_response(status, headers, *exc_info)

        return self._app(environ, start_and_log)


def filter_factory(global_conf: dict[str, str], **local_conf: str) -> Callable[..., AccessLog]:
    """Build the filter, as PasteDeploy asks for it; the option "log" names the file."""
    del global_conf  # nothing of it concerns the log
    return lambda app: AccessLog(app, Path(local_conf["log"]))


def _summary(method: str, status: str, headers: list[tuple[str, str]]) -> tuple[str, str, str]:
    """Return status code, bytes of the body and transaction id of an answer."""
    named = {name.lower(): value for name, value in headers}
    sent = "0" if method == "HEAD" else named.get("content-length", "0")
    return status.split(None, 1)[0], sent, named.get("x-trans-id", "-")


def _printable(text: str) -> str:
    """Return a part of a URL in ASCII without blanks; what is already quoted stays as it is."""
    return quote(text, safe="/%?&=:;,+~!$'()*@[]{}|", encoding="latin-1")


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
