"""Answers of a server: their headers, and their bodies while they come in.

What the headers and bodies mean is in ``wire.py``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import requests
import urllib3

from allasfs.deadline import Deadline
from allasfs.errors import TimedOut, Unavailable
from allasfs.store import wire
from allasfs.store.api import PIECE_BYTES, ObjectInfo
from allasfs.store.connection import Connection

log = logging.getLogger(__name__)

# Bytes of an answer that is no object: ten times the page of a listing with 10,000 long names. What
# is longer is not from an object store, and must not fill the memory.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
# What the body of an answer may take at least, whatever is left of the deadline.
BODY_S = 5.0

TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class Response:
    """An answer whose headers are read and whose body is still on the wire."""

    def __init__(
        self,
        connection: Connection,
        method: str,
        path: str,
        data: Any,
        headers: Mapping[str, str],
        *,
        deadline: Deadline,
    ) -> None:
        self._deadline = deadline
        began = time.monotonic()
        # Names stay str for swiftclient, which looks some of them up.
        sent = {name: wire.encoded(value) for name, value in headers.items()}
        self._response: Any = connection.request(method, path, data, sent)
        self.status: int = self._response.status_code
        # Set by the one who takes over the connection.
        self.keep = False
        self.is_read = False
        self.headers = {
            wire.decoded(name).lower(): wire.decoded(value)
            for name, value in self._response.headers.items()
        }
        self.headers |= _lost_headers(self._response.raw)
        log.debug(
            "%s %s: %d in %.0f ms [%s]",
            method,
            path,
            self.status,
            (time.monotonic() - began) * 1000,
            self.headers.get("x-trans-id", ""),
        )

    @property
    def resp_raw(self) -> Any:
        """The undecoded stream of the body."""
        return self._response.raw

    def close(self) -> None:
        """End the connection, whose body was not read to its end."""
        self._response.close()

    def read(self, subject: str) -> bytes:
        """Return the body, all of it; raise TimedOut, and Unavailable when it is too long.

        It must be here within the deadline: bytes that trickle in are no progress.
        """
        body = self.read_some(MOST_ANSWER_BYTES)
        if not self.is_read:
            raise Unavailable(subject, f"the answer has more than {MOST_ANSWER_BYTES} bytes")
        return body

    def read_some(self, limit: int) -> bytes:
        """Return the body up to some length; ``is_read`` says whether that is all of it."""
        raw = self._response.raw
        # The head may have come late, after patience with a server that copies.
        least_s = min(self._deadline.seconds, BODY_S)
        until = Deadline(max(self._deadline.left(), least_s))
        body = bytearray()
        while piece := raw.read1(PIECE_BYTES, decode_content=True):
            body += piece
            if len(body) > limit:
                return bytes(body[:limit])
            until.check()
        # The socket goes back to its session.
        raw.drain_conn()
        self.is_read = True
        return bytes(body)


class SwiftBody:
    """The streamed answer of a GET; gives its connection back when it is left."""

    def __init__(
        self,
        info: ObjectInfo,
        metadata: Mapping[str, str],
        length: int,
        raw: Any,
        deadline: Deadline,
        subject: str,
    ) -> None:
        self._info = info
        self._metadata = metadata
        self._left = length
        self._raw = raw
        self._deadline = deadline
        self._subject = subject
        self._first = b""

    @property
    def info(self) -> ObjectInfo:
        """The version that the bytes belong to."""
        return self._info

    @property
    def metadata(self) -> Mapping[str, str]:
        """The object's metadata."""
        return self._metadata

    def begin(self) -> None:
        """Read the whole of a body of one piece: if it breaks off, it can be asked for again.

        It must be here within the deadline: bytes that trickle in are no progress.
        """
        if self._left > PIECE_BYTES:
            return
        until = Deadline(self._deadline.left())
        pieces: list[bytes] = []
        while self._left:
            if pieces:
                until.check(self._subject)
            pieces.append(self._receive(self._raw.read1, self._left))
        self._first = b"".join(pieces)
        self._deadline.progress()

    @property
    def is_complete(self) -> bool:
        """Whether every announced byte was read, so that the connection may serve again."""
        return self._left == 0

    def drain(self) -> None:
        """Hand the socket of a complete (or empty) body back to its session."""
        self._raw.drain_conn()

    def __iter__(self) -> Iterator[bytes]:
        """Yield pieces of PIECE_BYTES, the last one shorter; raise Unavailable at a short end."""
        if self._first:
            first, self._first = self._first, b""
            yield first
        while self._left:
            wanted = min(PIECE_BYTES, self._left)
            chunk = self._receive(self._raw.read, wanted)
            if len(chunk) != wanted:
                raise self._ended_early()
            self._deadline.progress()
            yield chunk

    def _receive(self, read: Callable[[int], bytes], most: int) -> bytes:
        """Return some of the bytes that are left; raise TimedOut, Unavailable."""
        try:
            chunk = read(most)
        except TRANSPORT_ERRORS as exc:
            error = TimedOut if is_timeout(exc) else Unavailable
            raise error(self._subject, f"the body broke off: {plain(exc)}") from exc
        self._left -= len(chunk)
        if not chunk:
            raise self._ended_early()
        return chunk

    def _ended_early(self) -> Unavailable:
        return Unavailable(self._subject, f"the body ended {self._left} bytes early")


def _lost_headers(raw: Any) -> dict[str, str]:
    """Return the headers after one whose name is not ASCII, and let the body end where they say.

    Python's parser stops there and takes the rest for a body (python/cpython#81274); Swift sends
    the names of metadata as they were given.
    """
    original: Any = getattr(raw, "_original_response", None)
    rest = original.msg.get_payload() if original is not None else ""
    if not isinstance(rest, str) or not rest:
        return {}
    # Not splitlines(): it takes more for an end of line than HTTP does.
    lines = wire.decoded(rest).replace("\r\n", "\n").split("\n")
    fields = [line.partition(":") for line in lines]
    found = {name.strip().lower(): value.strip() for name, colon, value in fields if colon}
    if original.length is None and found.get("content-length", "").isdecimal():
        original.length = raw.length_remaining = int(found["content-length"])
    return found


def is_timeout(exc: BaseException | None) -> bool:
    """Whether silence is at the bottom of an error; requests calls some of it a lost connection."""
    while exc is not None:
        if isinstance(exc, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def plain(exc: BaseException) -> str:
    """The innermost cause in a few words: requests wraps urllib3, which wraps the socket's."""
    cause: BaseException = exc
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
