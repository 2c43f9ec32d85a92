"""SwiftStore: the Store protocol over the Swift API, as OpenStack Swift and Ceph RGW speak it.

One place each for the exchange of a request and its answer (``_exchange``), the retries
(``_retrying``) and the streamed answer (``SwiftBody``); what the answers mean is in ``wire.py``.
Any thread may call any method.
"""

from __future__ import annotations

import json
import logging
import random
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, TypeVar
from urllib.parse import quote, unquote, urlencode, urlsplit

import requests
import urllib3

from allasfs.config import Config
from allasfs.deadline import Deadline, current
from allasfs.errors import (
    AccessDenied,
    BadCredentials,
    BadName,
    Exists,
    FsError,
    NotFound,
    NotSupported,
    SetupError,
    Stale,
    TimedOut,
    TokenRefused,
    TooManyNames,
    Unavailable,
)
from allasfs.store import wire
from allasfs.store.api import (
    PIECE_BYTES,
    AccountInfo,
    Capabilities,
    ContainerInfo,
    ObjectHead,
    ObjectInfo,
    Page,
    Segment,
    Source,
)
from allasfs.store.auth import Auth
from allasfs.store.connection import Connection
from allasfs.store.pool import ConnectionPool

log = logging.getLogger(__name__)

T = TypeVar("T")
V = TypeVar("V")
P = TypeVar("P", bound=Sized)

# A host that does not answer a SYN within this is not there.
CONNECT_TIMEOUT_S = 10.0
# Waits between attempts double from the first to the last of these, with jitter, so that many
# clients do not come back at the same moment.
FIRST_WAIT_S = 0.1
LONGEST_WAIT_S = 8.0
# A call that meets so many 401 is refused: the first is repeated at once with a new token, the rest
# after pauses, 1.5 s in all. RGW gives 401 to good tokens while it cannot ask Keystone (measured).
MOST_REFUSALS = 6
# The answer to a POST has the time at which it was made. After this it may be another one than the
# version's, which ObjectInfo.same_version tells by a second.
SURE_OF_TIME_S = 0.9
# OpenStack Swift moves the bytes of a COPY and says nothing meanwhile; so fast, or faster.
COPIED_BYTES_PER_S = 10 * 1024 * 1024
# RGW handles 1024 names of one bulk request and says nothing of the rest (measured, 16.2).
BULK_DELETE_NAMES = 1000

# Bytes of an answer that is no object: ten times the page of a listing with 10,000 long names. What
# is longer is not from an object store, and must not fill the memory.
MOST_ANSWER_BYTES = 64 * 1024 * 1024
# What the body of an answer may take at least, whatever is left of the deadline.
BODY_S = 5.0
# Of an answer that refuses, only its first words are of use.
MOST_REFUSAL_BYTES = 64 * 1024

# Answered by 201, 202 or 204.
_CHANGES = frozenset({"PUT", "POST", "COPY", "DELETE"})

_TRANSPORT_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError, OSError)


class _RetriableError(Exception):
    """An attempt failed in a way that another attempt may mend."""

    def __init__(self, error: FsError, least_s: float = 0.0) -> None:
        """``least_s`` is how long the server wants to be left alone."""
        super().__init__(str(error))
        self.error = error
        self.least_s = least_s


@dataclass(frozen=True)
class _Request:
    """What is sent. ``path`` is quoted and relative to the account."""

    method: str
    path: str
    query: Mapping[str, str | int] | None = None
    headers: Mapping[str, str] | None = None
    source: _Upload | None = None
    body: bytes = b""
    # What the log and the errors call it.
    subject: str = ""
    # Whether the answer to a change tells of it in its body. Else 200 is not from a Swift server:
    # something on the way answers with a page of its own.
    tells: bool = False
    # How long the server may work on it in silence, on top of the deadline.
    patience_s: float = 0.0


@dataclass(frozen=True)
class _Answer:
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Upload:
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
        except _TRANSPORT_ERRORS as exc:
            error = TimedOut if _is_timeout(exc) else Unavailable
            raise error(self._subject, f"the body broke off: {_plain(exc)}") from exc
        self._left -= len(chunk)
        if not chunk:
            raise self._ended_early()
        return chunk

    def _ended_early(self) -> Unavailable:
        return Unavailable(self._subject, f"the body ended {self._left} bytes early")


class SwiftStore:
    """An account on a Swift server."""

    def __init__(self, auth: Auth, config: Config, *, ca_file: str | None = None) -> None:
        self._auth = auth
        self._timeout_s = config.timeout_s
        self._most_names = config.names
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

    # -- the account ------------------------------------------------------------------------------

    @cached_property
    def _capabilities(self) -> Capabilities:
        url = urlsplit(self._auth.endpoint().storage_url)
        path = re.sub(r"/v\d[\d.]*(/.*)?$", "", url.path) + "/info"
        try:
            answer = self._send(_Request("GET", path, subject="/info"), absolute=True)
            return wire.capabilities(json.loads(answer.body))
        except (AccessDenied, NotFound, *wire.MEANINGLESS) as exc:
            # A site may hide /info; what is assumed then is right, if slower, on every server.
            log.info("the server tells nothing of itself (%s): the safe defaults are used", exc)
            return Capabilities()

    def capabilities(self) -> Capabilities:
        """Return what the server can do; asked once."""
        return self._capabilities

    def url(self, container: str, key: str = "") -> str:
        """Return the address of an object, a container or the account."""
        path = f"{quote(container)}/{quote(key)}".strip("/")
        return f"{self._auth.endpoint().storage_url}/{path}".rstrip("/")

    def account(self) -> AccountInfo:
        """Return usage and quota of the account."""
        request = _Request("HEAD", "", subject="the account")
        return self._told(request, lambda answer: wire.account_info(answer.headers))

    def containers(self) -> list[ContainerInfo]:
        """Return all containers of the account.

        RGW would look into each for its figures: 0.15 s for 300 empty ones, 4 ms without.
        """
        query = {} if self.capabilities().exact_pages else {"stats": "false"}
        pages = self._pages(
            "", query, "the account", wire.container_page, last=lambda page: page[-1].name
        )
        return [container for page in pages for container in page]

    def head_container(self, container: str) -> ContainerInfo:
        """Return one container, also another project's that this one may read."""
        request = _Request("HEAD", quote(container), subject=container)
        return self._told(request, lambda answer: wire.container_info(container, answer.headers))

    def may_write(self, container: str) -> bool:
        """Whether objects may be stored in an existing container: 404 or 403 to a DELETE."""
        nobodys = f".allasfs-{secrets.token_hex(16)}"
        try:
            self._send(_Request("DELETE", _path(container, nobodys), subject=container))
        except NotFound:
            return True
        except AccessDenied:
            return False
        return True

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Change the named metadata; what is not named stays, an empty value removes."""
        sent = wire.meta_headers(metadata, wire.CONTAINER_META)
        self._send(_Request("POST", quote(container), headers=sent, subject=container))

    def create_container(self, container: str) -> None:
        """Create it; raise Exists when the name is taken by another project."""
        self._send(_Request("PUT", quote(container), subject=container))

    def delete_container(self, container: str) -> None:
        """Delete it; raise DirectoryNotEmpty, NotFound."""
        self._delete(quote(container), container)

    def listing(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = ""
    ) -> Iterator[Page]:
        """Yield the pages until the end: a short page where the server's are exact, else an empty
        one. No ``limit`` is sent, because RGW answers with far shorter pages when it is.
        """
        query = {"prefix": prefix, "delimiter": delimiter}
        return self._pages(
            quote(container),
            query,
            f"{container}/{prefix}",
            lambda body: wire.object_page(body, delimiter, prefix),
            last=lambda page: page.marker,
            marker=marker,
        )

    def _pages(
        self,
        path: str,
        query: Mapping[str, str],
        subject: str,
        parse: Callable[[bytes], P],
        *,
        last: Callable[[P], str],
        marker: str = "",
    ) -> Iterator[P]:
        """Yield parsed pages, each by one request, until the end; raise TooManyNames."""
        count = 0
        while True:
            full = {"format": "json", **query, "marker": marker}
            given = {name: value for name, value in full.items() if value}
            page = self._told(
                _Request("GET", path, given, subject=subject),
                # Nothing is an empty page only where the status says so.
                lambda answer: parse(answer.body if answer.status == 204 else answer.body or b"?"),
            )
            if not len(page):
                return
            if last(page).encode() <= marker.encode():
                raise Unavailable(subject, f"the listing does not go on after {marker!r}")
            count += len(page)
            if count > self._most_names:
                why = f"it has more than {self._most_names} names: mount with a larger 'names'"
                raise TooManyNames(subject, why)
            marker = last(page)
            current(self._timeout_s).progress()
            yield page
            limits = self.capabilities()
            if limits.exact_pages and len(page) < limits.listing_limit:
                return

    # -- reading ----------------------------------------------------------------------------------

    def head(self, container: str, key: str) -> ObjectHead:
        """Return size, version and metadata of an object."""
        subject = f"{container}/{key}"
        request = _Request("HEAD", _path(container, key), subject=subject)
        try:
            return self._told(request, lambda answer: wire.object_head(key, answer.headers))
        except NotFound:
            limits = self.capabilities()
            if not limits.static_large_objects or limits.slo_sizes_listed:
                raise
            # So does RGW answer for a large object without its first segment, or their bucket.
            raw = replace(request, query={"multipart-manifest": "get"})
            return self._told(
                raw, lambda answer: wire.object_head(key, wire.broken(answer.headers))
            )

    @contextmanager
    def get(
        self, container: str, key: str, *, span: tuple[int, int] | None = None, etag: str = ""
    ) -> Iterator[SwiftBody]:
        """Open the bytes of ``span``; raise Stale when the object is no longer ``etag``.

        ``etag`` is sent as If-Match, which RGW answers rightly for plain objects only; for large
        ones the caller leaves it out and compares ``info``.
        """
        subject = f"{container}/{key}"
        headers = {"range": f"bytes={span[0]}-{span[1] - 1}"} if span else {}
        if etag:
            headers["if-match"] = f'"{etag}"'
        request = _Request("GET", _path(container, key), headers=headers, subject=subject)
        deadline = current(self._timeout_s)

        def attempt() -> tuple[Connection, SwiftBody]:
            with self._exchange(request, deadline) as (connection, response, reply):
                try:
                    size = wire.whole_size(reply, span, response.status)
                    info = wire.object_info(key, reply, size)
                    wire.check_version(info)
                except (KeyError, ValueError) as exc:
                    error = Unavailable(subject, f"the answer cannot be used: {exc}")
                    raise _RetriableError(error) from exc
                if etag and info.etag != etag:
                    raise Stale(subject, "replaced by another client")
                body = SwiftBody(
                    info,
                    wire.metadata(reply),
                    int(reply["content-length"]),
                    response.resp_raw,
                    deadline,
                    subject,
                )
                try:
                    body.begin()
                except Unavailable as exc:
                    raise _RetriableError(exc) from exc
                response.keep = True
                return connection, body

        connection, body = self._retrying(subject, deadline, attempt)
        try:
            yield body
        finally:
            if body.is_complete:
                body.drain()
            self._pool.release(connection, reusable=body.is_complete)

    # -- writing ----------------------------------------------------------------------------------

    def put(
        self,
        container: str,
        key: str,
        source: Source,
        *,
        md5: str,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        exclusive: bool = False,
    ) -> ObjectInfo:
        """Store the bytes, verified by their MD5 on the server and again by its answer."""
        subject = f"{container}/{key}"
        sent = {
            **(headers or {}),
            **wire.meta_headers(metadata),
            "etag": md5,
            "content-type": content_type,
        }
        deadline = current(self._timeout_s)
        upload = _Upload(source, deadline)
        path = _path(container, key)
        request = _Request("PUT", path, headers=sent, source=upload, subject=subject)
        if exclusive and self.capabilities().conditional_put:
            sent["if-none-match"] = "*"
            answer = self._send_new(request, container, key, md5, deadline)
        else:
            answer = self._send(request, deadline)
        if answer.headers.get("etag", "").strip('"') != md5:
            raise Unavailable(subject, "the store's checksum is not that of the bytes sent")
        return self._stored(key, answer, source.size, content_type)

    def _send_new(
        self, request: _Request, container: str, key: str, md5: str, deadline: Deadline
    ) -> _Answer:
        """Send a PUT that must not replace anything; raise Exists."""
        lost_answer = False

        def attempt() -> _Answer:
            nonlocal lost_answer
            try:
                return self._complete(request, deadline)
            except Stale as exc:
                # The attempt whose answer was lost may have done it.
                if lost_answer and self.head(container, key).info.etag == md5:
                    return _Answer(201, {"etag": md5}, b"")
                raise Exists(request.subject, "another client made it meanwhile") from exc
            except _RetriableError:
                lost_answer = True
                raise

        return self._retrying(request.subject, deadline, attempt)

    def put_slo(
        self,
        container: str,
        key: str,
        segments: Iterable[Segment],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Publish a static large object. RGW needs the leading ``/``, and no ETag header."""
        parts = list(segments)
        manifest = [
            {"path": f"/{part.container}/{part.key}", "etag": part.etag, "size_bytes": part.size}
            for part in parts
        ]
        request = _Request(
            "PUT",
            _path(container, key),
            {"multipart-manifest": "put"},
            {**wire.meta_headers(metadata), "content-type": content_type},
            body=json.dumps(manifest).encode(),
            subject=f"{container}/{key}",
        )
        answer = self._send(request)
        answer = replace(answer, headers={**answer.headers, "x-static-large-object": "true"})
        return self._stored(key, answer, sum(part.size for part in parts), content_type)

    def put_dlo(
        self,
        container: str,
        key: str,
        manifest: str,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Publish a dynamic large object; its size and ETag come from a HEAD."""
        sent = {
            **wire.meta_headers(metadata),
            "content-type": content_type,
            "x-object-manifest": quote(manifest),
        }
        path = _path(container, key)
        self._send(_Request("PUT", path, headers=sent, subject=f"{container}/{key}"))
        return self.head(container, key).info

    def slo_segments(self, container: str, key: str) -> list[Segment]:
        """Return the segments; raise NotSupported on RGW, which answers with nothing."""
        subject = f"{container}/{key}"
        query = {"multipart-manifest": "get", "format": "raw"}
        request = _Request("GET", _path(container, key), query, subject=subject)
        deadline = current(self._timeout_s)

        def attempt() -> list[Segment]:
            with self._exchange(request, deadline) as (_, response, headers):
                is_static = headers.get("x-static-large-object", "").lower() in ("true", "1")
                if not is_static and headers.get("content-length") != "0":
                    if not headers.get("etag"):
                        why = "the answer is not that of an object store"
                        raise _RetriableError(Unavailable(subject, why))
                    # Its bytes would come, however many.
                    raise NotFound(subject, "no static large object")
                body = response.read(subject)
                if not body:
                    why = "the server does not tell the segments of this object"
                    raise NotSupported(subject, why)
                return _understood(_segments, body, subject)

        return self._retrying(subject, deadline, attempt)

    def post(self, container: str, head: ObjectHead, metadata: Mapping[str, str]) -> ObjectInfo:
        """Replace the metadata; repeats what a POST would drop."""
        key = head.info.key
        sent = {**head.headers, **wire.meta_headers(metadata)}
        request = _Request(
            "POST", _path(container, key), headers=sent, subject=f"{container}/{key}"
        )
        began_s = time.monotonic()
        date = self._send(request).headers.get("date", "")
        posted = replace(head.info, mtime_ns=wire.header_time_ns({"last-modified": date}))
        if time.monotonic() - began_s < SURE_OF_TIME_S:
            return posted
        try:
            now = self.head(container, key).info
        except FsError as exc:
            # It is done all the same. Its metadata will be asked for again.
            log.info("%s/%s: the time of its new metadata is not known: %s", container, key, exc)
            return posted
        return replace(posted, mtime_ns=now.mtime_ns) if now.etag == posted.etag else posted

    def copy(
        self,
        container: str,
        info: ObjectInfo,
        target: tuple[str, str],
        *,
        manifest: bool = False,
        content_type: str = "",
    ) -> ObjectInfo:
        """Copy on the server, metadata included; return the new version.

        With ``manifest`` a large object's manifest is copied, and both then share their segments.
        RGW always does this; OpenStack Swift without it would join the segments to one object.
        Bytes that the server moves are waited for.
        """
        given = {"content-type": content_type} if content_type else {}
        request = _Request(
            "COPY",
            _path(container, info.key),
            {"multipart-manifest": "get"} if manifest else None,
            {"destination": _path(*target), **given},
            subject=f"{container}/{info.key}",
            patience_s=0.0 if manifest else info.size / COPIED_BYTES_PER_S,
        )
        answer = self._send(request)
        current(self._timeout_s).progress()
        copied = self._stored(target[1], answer, info.size, content_type or info.content_type)
        if manifest:
            return replace(copied, kind=info.kind, etag=info.etag)
        date = answer.headers.get("x-copied-from-last-modified", "")
        from_ns = wire.header_time_ns({"last-modified": date})
        is_other = from_ns and info.mtime_ns and abs(from_ns - info.mtime_ns) > 1_000_000_000
        return replace(copied, kind=info.kind, etag="" if is_other else copied.etag)

    def delete(self, container: str, key: str) -> None:
        """Delete the object; raise NotFound."""
        self._delete(_path(container, key), f"{container}/{key}")

    def delete_slo(self, container: str, key: str) -> None:
        """Delete a static large object and the segments that it names, also where they are not
        told (RGW). The status of the whole is in the answer's body.
        """
        subject = f"{container}/{key}"
        request = _Request(
            "DELETE",
            _path(container, key),
            {"multipart-manifest": "delete"},
            {"accept": "application/json"},
            subject=subject,
            tells=True,
        )
        deadline = current(self._timeout_s)
        lost_answer = False

        def attempt() -> wire.Deletions:
            nonlocal lost_answer
            try:
                return self._deletions(request, deadline)
            except _RetriableError:
                lost_answer = True
                raise

        done = self._retrying(subject, deadline, attempt)
        if (done.missing and not done.deleted) or done.status == 404:
            if lost_answer:
                # The attempt whose answer was lost has done it.
                return
            raise NotFound(subject)
        if done.status != 200:
            # RGW says 400 of a missing object, too.
            self.head(container, key)
            raise Unavailable(subject, f"deleting it with its segments: {done.told}")

    def delete_many(self, container: str, keys: Iterable[str]) -> None:
        """Delete objects by bulk requests; raise the first error that they report."""
        names = list(keys)
        for start in range(0, len(names), BULK_DELETE_NAMES):
            batch = names[start : start + BULK_DELETE_NAMES]
            request = _Request(
                "POST",
                "",
                {"bulk-delete": "1"},
                {"content-type": "text/plain", "accept": "application/json"},
                body="\n".join(_path(container, key) for key in batch).encode(),
                subject=container,
                tells=True,
            )
            deadline = current(self._timeout_s)
            done = self._retrying(container, deadline, partial(self._deletions, request, deadline))
            for name, status in done.failed:
                if status != 404:
                    raise wire.error_for("DELETE", unquote(name), status, b"", "")
            if done.status != 200 and not done.failed:
                raise Unavailable(container, f"bulk delete: {done.told}")
            current(self._timeout_s).progress()

    def _deletions(self, request: _Request, deadline: Deadline) -> wire.Deletions:
        """Send a request for many deletions, once; raise _RetriableError when one more may help.

        Swift authenticates each deletion by itself: a token may expire between two of them.
        """
        token = self._endpoint(request.subject).token
        answer = self._complete(request, deadline)
        done = _understood(wire.deletions, answer.body, request.subject)
        for name, status in done.failed or [(quote(request.subject), done.status)]:
            error = wire.error_for("DELETE", unquote(name), status, b"", "")
            if status in wire.RETRIED or (status == 401 and self._renewed(error.subject, token)):
                raise _RetriableError(error)
        return done

    def _delete(self, path: str, subject: str) -> None:
        deadline = current(self._timeout_s)
        lost_answer = False

        def attempt() -> None:
            nonlocal lost_answer
            try:
                self._complete(_Request("DELETE", path, subject=subject), deadline)
            except NotFound:
                if not lost_answer:
                    raise
                # The attempt whose answer was lost has done it.
            except _RetriableError:
                lost_answer = True
                raise

        self._retrying(subject, deadline, attempt)

    @staticmethod
    def _stored(key: str, answer: _Answer, size: int, content_type: str) -> ObjectInfo:
        info = wire.object_info(key, answer.headers, size)
        mtime_ns = info.mtime_ns or time.time_ns() // 1_000_000_000 * 1_000_000_000
        return replace(info, content_type=content_type, mtime_ns=mtime_ns)

    # -- requests ---------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        url = self._endpoint("a new connection").storage_url
        return Connection(url, ca_file=self._ca_file)

    def _send(
        self, request: _Request, deadline: Deadline | None = None, *, absolute: bool = False
    ) -> _Answer:
        """Return the complete answer, after as many attempts as the deadline allows."""
        until = deadline or current(self._timeout_s)
        return self._retrying(
            request.subject, until, lambda: self._complete(request, until, absolute=absolute)
        )

    def _told(self, request: _Request, parse: Callable[[_Answer], T]) -> T:
        """Return what an answer says; ask again when it cannot be understood."""
        deadline = current(self._timeout_s)
        return self._retrying(
            request.subject,
            deadline,
            lambda: _understood(parse, self._complete(request, deadline), request.subject),
        )

    def _complete(
        self, request: _Request, deadline: Deadline, *, absolute: bool = False
    ) -> _Answer:
        with self._exchange(request, deadline, absolute=absolute) as (_, response, headers):
            body = response.read(request.subject)
            return _Answer(response.status, headers, body)

    def _retrying(self, subject: str, deadline: Deadline, attempt: Callable[[], T]) -> T:
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
            except _RetriableError as again:
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
    def _exchange(
        self, request: _Request, deadline: Deadline, *, absolute: bool = False
    ) -> Iterator[tuple[Connection, _Response, Mapping[str, str]]]:
        """Send the request and yield its answer when the status says success.

        Raises what the status means, as _RetriableError where another attempt may help. The
        connection goes back to the pool afterwards, unless ``keep`` was set on the response.
        """
        # First, so that no connection is taken while the identity service is away.
        self._endpoint(request.subject)
        connection = self._pool.acquire(deadline)
        response: _Response | None = None
        try:
            # Again: tokens may expire while all connections are busy.
            endpoint = self._endpoint(request.subject)
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
            response = _Response(connection, request.method, path, data, headers, deadline=deadline)
            if response.status >= 300:
                self._refuse(request, response, endpoint.token)
            if response.status == 200 and request.method in _CHANGES and not request.tells:
                why = f"{request.method} answered 200, which no object store does"
                raise _RetriableError(Unavailable(request.subject, why))
            yield connection, response, response.headers
        except _TRANSPORT_ERRORS as exc:
            if isinstance(exc, FsError):
                raise
            if request.source is not None and request.source.failure is not None:
                raise request.source.failure from exc
            raise _RetriableError(_transport_error(request, exc)) from exc
        finally:
            if response is None or not response.keep:
                whole = response is not None and response.is_read
                if response is not None and not whole:
                    # The session would forget its socket, not close it.
                    response.close()
                self._pool.release(connection, reusable=whole)

    def _refuse(self, request: _Request, response: _Response, token: str) -> None:
        status = response.status
        body = response.read_some(MOST_REFUSAL_BYTES)
        trans_id = response.headers.get("x-trans-id", "")
        error = wire.error_for(request.method, request.subject, status, body, trans_id)
        if status == 401 and self._renewed(request.subject, token):
            raise _RetriableError(error)
        if status in wire.RETRIED:
            raise _RetriableError(error, _retry_after(response.headers))
        raise error

    def _endpoint(self, subject: str) -> Any:
        try:
            return self._auth.endpoint()
        except BadCredentials as exc:
            raise TokenRefused(subject, str(exc)) from exc
        except SetupError as exc:
            raise _RetriableError(Unavailable(subject, str(exc))) from exc

    def _renewed(self, subject: str, token: str) -> bool:
        try:
            return self._auth.refused(token)
        except BadCredentials as exc:
            raise TokenRefused(subject, str(exc)) from exc
        except SetupError as exc:
            raise _RetriableError(Unavailable(subject, str(exc))) from exc

    @staticmethod
    def _full_path(storage_url: str, path: str) -> str:
        account = urlsplit(storage_url).path.rstrip("/")
        return f"{account}/{path}" if path else account


class _Response:
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


def _understood(parse: Callable[[V], T], said: V, subject: str) -> T:
    """Return what a body or headers say; whatever a server answers, it is no other error."""
    try:
        return parse(said)
    except wire.MEANINGLESS as exc:
        error = Unavailable(subject, f"the answer cannot be understood: {exc!r:.200}")
        raise _RetriableError(error) from exc


def _path(container: str, key: str) -> str:
    """Return the quoted path of an object; raise BadName for one that a URL cannot have.

    urllib3 resolves ``a/../b``, as RFC 3986 wants it: the request would reach another object.
    """
    parts = [container, *key.split("/")]
    if "." in parts or ".." in parts:
        raise BadName(f"{container}/{key}", "a name with . or .. as a component has no URL")
    return f"{quote(container)}/{quote(key)}"


def _segments(body: bytes) -> list[Segment]:
    try:
        parts = []
        for entry in json.loads(body):
            container, _, key = str(entry["path"]).lstrip("/").partition("/")
            parts.append(Segment(container, key, int(entry["size_bytes"]), str(entry["etag"])))
        return parts
    except (KeyError, TypeError, AttributeError) as exc:
        raise ValueError(f"no manifest: {exc!r}") from exc


def _retry_after(headers: Mapping[str, str]) -> float:
    text = headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _transport_error(request: _Request, exc: BaseException) -> FsError:
    if _is_timeout(exc):
        return TimedOut(request.subject, f"{request.method}: no answer: {_plain(exc)}")
    return Unavailable(request.subject, f"{request.method}: {_plain(exc)}")


def _is_timeout(exc: BaseException | None) -> bool:
    """Whether silence is at the bottom of an error; requests calls some of it a lost connection."""
    while exc is not None:
        if isinstance(exc, (requests.Timeout, urllib3.exceptions.TimeoutError, TimeoutError)):
            return True
        exc = exc.__cause__ or exc.__context__
    return False


def _plain(exc: BaseException) -> str:
    """The innermost cause in a few words: requests wraps urllib3, which wraps the socket's."""
    cause: BaseException = exc
    while cause.__cause__ or cause.__context__:
        cause = cause.__cause__ or cause.__context__ or cause
    return str(cause) or type(cause).__name__
