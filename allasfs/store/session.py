"""Requests and their answers: one exchange at a time, and its repetition.

The only place that sends something to the store (``exchange``), and the only loop of attempts
(``retrying``). Any thread may call any method.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from allasfs.config import Config
from allasfs.deadline import Deadline, current
from allasfs.errors import (
    BadCredentials,
    FsError,
    SetupError,
    TimedOut,
    TokenRefused,
    Unavailable,
)
from allasfs.store import wire
from allasfs.store.answers import TRANSPORT_ERRORS, Response, is_timeout, plain
from allasfs.store.api import Source
from allasfs.store.auth import Auth, Endpoint
from allasfs.store.connection import Connection
from allasfs.store.pool import ConnectionPool

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")

# A host that does not answer a SYN within this is not there.
CONNECT_TIMEOUT_S = 10.0
# Waits between attempts double from the first to the last of these, with jitter, so that many
# clients do not come back at the same moment.
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 8.0
# A call that meets so many 401 is refused: the first is repeated at once with a new token, the rest
# after pauses, 1.5 s in all. RGW gives 401 to good tokens while it cannot ask Keystone (measured).
MOST_REFUSALS = 6
# Of an answer that refuses, only its first words are of use.
MOST_REFUSAL_BYTES = 64 * 1024

# Answered by 201, 202 or 204.
_CHANGES = frozenset({"PUT", "POST", "COPY", "DELETE"})


class RetriableError(Exception):
    """An attempt failed in a way that another attempt may mend."""

    def __init__(self, error: FsError, least_s: float = 0.0) -> None:
        """``least_s`` is how long the server wants to be left alone."""
        super().__init__(str(error))
        self.error = error
        self.least_s = least_s


@dataclass(frozen=True)
class Request:
    """What is sent. ``path`` is quoted and relative to the account."""

    method: str
    path: str
    query: Mapping[str, str | int] | None = None
    headers: Mapping[str, str] | None = None
    source: Upload | None = None
    body: bytes = b""
    # What the log and the errors call it.
    subject: str = ""
    # Whether the answer to a change tells of it in its body. Else 200 is not from a Swift server:
    # something on the way answers with a page of its own.
    tells: bool = False
    # How long the server may work on it in silence, on top of the deadline.
    patience_s: float = 0.0


@dataclass(frozen=True)
class Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Upload:
    """A Source as requests wants it: sized, so that it is not chunked, and iterable.

    Bytes are progress when they are sent for the first time: attempts that end at the same place
    again and again must come to an end.
    """

    def __init__(self, source: Source, deadline: Deadline) -> None:
        self._source = source
        self._deadline = deadline
        self._furthest = 0
        # What the source failed with; libraries on the way take it for a fault of the connection.
        self.failure: FsError | None = None

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self._source.size

    def __len__(self) -> int:
        return self._source.size

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from the start."""
        sent = 0
        try:
            for chunk in self._source.chunks():
                yield chunk
                sent += len(chunk)
                if sent > self._furthest:
                    self._furthest = sent
                    self._deadline.progress()
        except FsError as exc:
            self.failure = exc
            raise

    def __iter__(self) -> Iterator[bytes]:
        return self.chunks()


class Session:
    """Sends requests to an account, with a token that is valid, over connections that are kept."""

    def __init__(self, auth: Auth, config: Config, *, ca_file: str | None = None) -> None:
        self._auth = auth
        self._timeout_s = config.timeout_s
        self._ca_file = ca_file
        self._pool: ConnectionPool[Connection] = ConnectionPool(self._connect, config.connections)
        # Leaf lock.
        self._lock = threading.Lock()
        self._requests: Counter[str] = Counter()  # guarded by _lock

    def close(self) -> None:
        """Close the idle connections; requests in flight end by themselves."""
        self._pool.close()

    def requests(self) -> dict[str, int]:
        """Return how many requests of each method were sent so far."""
        with self._lock:
            return dict(self._requests)

    def release(self, connection: Connection, *, reusable: bool) -> None:
        """Take back a connection that was kept with an answer's body."""
        self._pool.release(connection, reusable=reusable)

    def _connect(self) -> Connection:
        url = self.endpoint("a new connection").storage_url
        return Connection(url, ca_file=self._ca_file)

    def send(
        self, request: Request, deadline: Deadline | None = None, *, absolute: bool = False
    ) -> Answer:
        """Return the complete answer, after as many attempts as the deadline allows."""
        until = deadline or current(self._timeout_s)
        return self.retrying(
            request.subject, until, lambda: self.complete(request, until, absolute=absolute)
        )

    def told(self, request: Request, parse: Callable[[Answer], T]) -> T:
        """Return what an answer says; ask again when it cannot be understood."""
        deadline = current(self._timeout_s)
        return self.retrying(
            request.subject,
            deadline,
            lambda: understood(parse, self.complete(request, deadline), request.subject),
        )

    def complete(self, request: Request, deadline: Deadline, *, absolute: bool = False) -> Answer:
        """Return the complete answer of one attempt."""
        with self.exchange(request, deadline, absolute=absolute) as (_, response, headers):
            body = response.read(request.subject)
            return Answer(response.status, headers, body)

    def retrying(self, subject: str, deadline: Deadline, attempt: Callable[[], T]) -> T:
        """Repeat the attempt with growing waits until it succeeds, is refused, or time is up."""
        wait_s = FIRST_WAIT_S
        refusals = 0
        may_be_done = False
        while True:
            try:
                return attempt()
            except FsError as exc:  # noqa: PERF203 - it is a loop of retries
                exc.may_be_done = may_be_done
                raise
            except RetriableError as again:
                pause = wait_s * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
                is_refused = isinstance(again.error, TokenRefused)
                refusals += is_refused
                may_be_done = again.error.may_be_done = may_be_done or not is_refused
                if refusals == MOST_REFUSALS:
                    raise again.error from again
                if refusals == 1 and isinstance(again.error, TokenRefused):
                    pause = 0.0
                else:
                    # A server that says "at once" each time is not asked without a pause.
                    pause = max(pause, again.least_s)
                    wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                if deadline.left() <= pause:
                    raise again.error from again
                log.info("%s: %s: again in %.1f s", subject, again.error.why, pause)
                time.sleep(pause)

    @contextmanager
    def exchange(
        self, request: Request, deadline: Deadline, *, absolute: bool = False
    ) -> Iterator[tuple[Connection, Response, Mapping[str, str]]]:
        """Send the request and yield its answer when the status says success.

        Raises what the status means, as RetriableError where another attempt may help. The
        connection goes back to the pool afterwards, unless ``keep`` was set on the response.
        """
        # First, so that no connection is taken while the identity service is away.
        self.endpoint(request.subject)
        connection = self._pool.acquire(deadline)
        response: Response | None = None
        try:
            # Again: tokens may expire while all connections are busy.
            endpoint = self.endpoint(request.subject)
            left = deadline.check(request.subject)
            silence_s = left + request.patience_s
            connection.requests_args["timeout"] = (min(left, CONNECT_TIMEOUT_S), silence_s)
            path = request.path if absolute else self._full_path(endpoint.storage_url, request.path)
            if request.query:
                path += "?" + urlencode(request.query, quote_via=quote)
            with self._lock:
                self._requests[request.method] += 1
            data: Any = request.body
            if request.source is not None and request.source.size:
                data = request.source
            headers = {**(request.headers or {}), "x-auth-token": endpoint.token}
            response = Response(connection, request.method, path, data, headers, deadline=deadline)
            if response.status >= 300:
                self._refuse(request, response, endpoint.token)
            if response.status == 200 and request.method in _CHANGES and not request.tells:
                why = f"{request.method} answered 200, which no object store does"
                raise RetriableError(Unavailable(request.subject, why))
            yield connection, response, response.headers
        except TRANSPORT_ERRORS as exc:
            if isinstance(exc, FsError):
                raise
            if request.source is not None and request.source.failure is not None:
                raise request.source.failure from exc
            raise RetriableError(_transport_error(request, exc)) from exc
        finally:
            if response is None or not response.keep:
                whole = response is not None and response.is_read
                if response is not None and not whole:
                    # The session would forget its socket, not close it.
                    response.close()
                self._pool.release(connection, reusable=whole)

    def _refuse(self, request: Request, response: Response, token: str) -> None:
        status = response.status
        body = response.read_some(MOST_REFUSAL_BYTES)
        trans_id = response.headers.get("x-trans-id", "")
        error = wire.error_for(request.method, request.subject, status, body, trans_id)
        if status == 401 and self.renewed(request.subject, token):
            raise RetriableError(error)
        if status in wire.RETRIED:
            raise RetriableError(error, _retry_after(response.headers))
        raise error

    def endpoint(self, subject: str) -> Endpoint:
        """Return where the account is and a token; raise TokenRefused, RetriableError."""
        try:
            return self._auth.endpoint()
        except BadCredentials as exc:
            raise TokenRefused(subject, str(exc)) from exc
        except SetupError as exc:
            raise RetriableError(Unavailable(subject, str(exc))) from exc

    def renewed(self, subject: str, token: str) -> bool:
        """Whether there is another token than a refused one; raise TokenRefused, RetriableError."""
        try:
            return self._auth.refused(token)
        except BadCredentials as exc:
            raise TokenRefused(subject, str(exc)) from exc
        except SetupError as exc:
            raise RetriableError(Unavailable(subject, str(exc))) from exc

    @staticmethod
    def _full_path(storage_url: str, path: str) -> str:
        account = urlsplit(storage_url).path.rstrip("/")
        return f"{account}/{path}" if path else account


def understood(parse: Callable[[V], T], said: V, subject: str) -> T:
    """Return what a body or headers say; whatever a server answers, it is no other error."""
    try:
        return parse(said)
    except wire.MEANINGLESS as exc:
        error = Unavailable(subject, f"the answer cannot be understood: {exc!r:.200}")
        raise RetriableError(error) from exc


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _transport_error(request: Request, exc: BaseException) -> FsError:
    if is_timeout(exc):
        return TimedOut(request.subject, f"{request.method}: no answer: {plain(exc)}")
    return Unavailable(request.subject, f"{request.method}: {plain(exc)}")
