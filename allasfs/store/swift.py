"""SwiftStore: the Store protocol over the Swift API, as OpenStack Swift and Ceph RGW speak it.

What is asked, and how. Requests are sent and repeated in ``session.py``, answers are read in
``answers.py``, and what they mean is in ``wire.py``. Any thread may call any method.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

from allasfs.config import Config
from allasfs.deadline import Deadline, current
from allasfs.errors import (
    AccessDenied,
    BadName,
    Exists,
    FsError,
    NotFound,
    NotSupported,
    Stale,
    TooManyNames,
    Unavailable,
)
from allasfs.store import wire
from allasfs.store.answers import SwiftBody
from allasfs.store.api import (
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
from allasfs.store.session import Answer, Request, RetriableError, Session, Upload, understood

log = logging.getLogger(__name__)

P = TypeVar("P", bound=Sized)

# The answer to a POST has the time at which it was made. After this it may be another one than the
# version's, which ObjectInfo.same_version tells by a second.
SURE_OF_TIME_S = 0.9
# OpenStack Swift moves the bytes of a COPY and says nothing meanwhile; so fast, or faster.
COPIED_BYTES_PER_S = 10 * 1024 * 1024
# RGW handles 1024 names of one bulk request and says nothing of the rest (measured, 16.2).
BULK_DELETE_NAMES = 1000


class SwiftStore:
    """An account on a Swift server."""

    def __init__(self, auth: Auth, config: Config, *, ca_file: str | None = None) -> None:
        self._auth = auth
        self._timeout_s = config.timeout_s
        self._most_names = config.names
        self._session = Session(auth, config, ca_file=ca_file)

    def close(self) -> None:
        """Close the idle connections; requests in flight end by themselves."""
        self._session.close()

    def requests(self) -> dict[str, int]:
        """Return how many requests of each method were sent so far."""
        return self._session.requests()

    # -- the account ------------------------------------------------------------------------------

    @cached_property
    def _capabilities(self) -> Capabilities:
        url = urlsplit(self._auth.endpoint().storage_url)
        path = re.sub(r"/v\d[\d.]*(/.*)?$", "", url.path) + "/info"
        try:
            answer = self._session.send(Request("GET", path, subject="/info"), absolute=True)
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
        request = Request("HEAD", "", subject="the account")
        return self._session.told(request, lambda answer: wire.account_info(answer.headers))

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
        request = Request("HEAD", quote(container), subject=container)
        return self._session.told(
            request, lambda answer: wire.container_info(container, answer.headers)
        )

    def may_write(self, container: str) -> bool:
        """Whether objects may be stored in an existing container: 404 or 403 to a DELETE."""
        nobodys = f".allasfs-{secrets.token_hex(16)}"
        try:
            self._session.send(Request("DELETE", _path(container, nobodys), subject=container))
        except NotFound:
            return True
        except AccessDenied:
            return False
        return True

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Change the named metadata; what is not named stays, an empty value removes."""
        sent = wire.meta_headers(metadata, wire.CONTAINER_META)
        self._session.send(Request("POST", quote(container), headers=sent, subject=container))

    def create_container(self, container: str) -> None:
        """Create it; raise Exists when the name is taken by another project."""
        self._session.send(Request("PUT", quote(container), subject=container))

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
            page = self._session.told(
                Request("GET", path, given, subject=subject),
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
        request = Request("HEAD", _path(container, key), subject=subject)
        try:
            return self._session.told(request, lambda answer: wire.object_head(key, answer.headers))
        except NotFound:
            limits = self.capabilities()
            if not limits.static_large_objects or limits.slo_sizes_listed:
                raise
            # So does RGW answer for a large object without its first segment, or their bucket.
            raw = replace(request, query={"multipart-manifest": "get"})
            return self._session.told(
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
        request = Request("GET", _path(container, key), headers=headers, subject=subject)
        deadline = current(self._timeout_s)

        def attempt() -> tuple[Connection, SwiftBody]:
            with self._session.exchange(request, deadline) as (connection, response, reply):
                try:
                    size = wire.whole_size(reply, span, response.status)
                    info = wire.object_info(key, reply, size)
                    wire.check_version(info)
                except (KeyError, ValueError) as exc:
                    error = Unavailable(subject, f"the answer cannot be used: {exc}")
                    raise RetriableError(error) from exc
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
                    raise RetriableError(exc) from exc
                response.keep = True
                return connection, body

        connection, body = self._session.retrying(subject, deadline, attempt)
        try:
            yield body
        finally:
            if body.is_complete:
                body.drain()
            self._session.release(connection, reusable=body.is_complete)

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
        upload = Upload(source, deadline)
        path = _path(container, key)
        request = Request("PUT", path, headers=sent, source=upload, subject=subject)
        if exclusive and self.capabilities().conditional_put:
            sent["if-none-match"] = "*"
            answer = self._send_new(request, container, key, md5, deadline)
        else:
            answer = self._session.send(request, deadline)
        if answer.headers.get("etag", "").strip('"') != md5:
            raise Unavailable(subject, "the store's checksum is not that of the bytes sent")
        return self._stored(key, answer, source.size, content_type)

    def _send_new(
        self, request: Request, container: str, key: str, md5: str, deadline: Deadline
    ) -> Answer:
        """Send a PUT that must not replace anything; raise Exists."""
        lost_answer = False

        def attempt() -> Answer:
            nonlocal lost_answer
            try:
                return self._session.complete(request, deadline)
            except Stale as exc:
                # The attempt whose answer was lost may have done it.
                if lost_answer and self.head(container, key).info.etag == md5:
                    return Answer(201, {"etag": md5}, b"")
                raise Exists(request.subject, "another client made it meanwhile") from exc
            except RetriableError:
                lost_answer = True
                raise

        return self._session.retrying(request.subject, deadline, attempt)

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
        request = Request(
            "PUT",
            _path(container, key),
            {"multipart-manifest": "put"},
            {**wire.meta_headers(metadata), "content-type": content_type},
            body=json.dumps(manifest).encode(),
            subject=f"{container}/{key}",
        )
        answer = self._session.send(request)
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
        self._session.send(Request("PUT", path, headers=sent, subject=f"{container}/{key}"))
        return self.head(container, key).info

    def slo_segments(self, container: str, key: str) -> list[Segment]:
        """Return the segments; raise NotSupported on RGW, which answers with nothing."""
        subject = f"{container}/{key}"
        query = {"multipart-manifest": "get", "format": "raw"}
        request = Request("GET", _path(container, key), query, subject=subject)
        deadline = current(self._timeout_s)

        def attempt() -> list[Segment]:
            with self._session.exchange(request, deadline) as (_, response, headers):
                is_static = headers.get("x-static-large-object", "").lower() in ("true", "1")
                if not is_static and headers.get("content-length") != "0":
                    if not headers.get("etag"):
                        why = "the answer is not that of an object store"
                        raise RetriableError(Unavailable(subject, why))
                    # Its bytes would come, however many.
                    raise NotFound(subject, "no static large object")
                body = response.read(subject)
                if not body:
                    why = "the server does not tell the segments of this object"
                    raise NotSupported(subject, why)
                return understood(_segments, body, subject)

        return self._session.retrying(subject, deadline, attempt)

    def post(self, container: str, head: ObjectHead, metadata: Mapping[str, str]) -> ObjectInfo:
        """Replace the metadata; repeats what a POST would drop."""
        key = head.info.key
        sent = {**head.headers, **wire.meta_headers(metadata)}
        request = Request("POST", _path(container, key), headers=sent, subject=f"{container}/{key}")
        began_s = time.monotonic()
        date = self._session.send(request).headers.get("date", "")
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
        request = Request(
            "COPY",
            _path(container, info.key),
            {"multipart-manifest": "get"} if manifest else None,
            {"destination": _path(*target), **given},
            subject=f"{container}/{info.key}",
            patience_s=0.0 if manifest else info.size / COPIED_BYTES_PER_S,
        )
        answer = self._session.send(request)
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
        request = Request(
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
            except RetriableError:
                lost_answer = True
                raise

        done = self._session.retrying(subject, deadline, attempt)
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
            request = Request(
                "POST",
                "",
                {"bulk-delete": "1"},
                {"content-type": "text/plain", "accept": "application/json"},
                body="\n".join(_path(container, key) for key in batch).encode(),
                subject=container,
                tells=True,
            )
            deadline = current(self._timeout_s)
            done = self._session.retrying(
                container, deadline, partial(self._deletions, request, deadline)
            )
            for name, status in done.failed:
                if status != 404:
                    raise wire.error_for("DELETE", unquote(name), status, b"", "")
            if done.status != 200 and not done.failed:
                raise Unavailable(container, f"bulk delete: {done.told}")
            current(self._timeout_s).progress()

    def _deletions(self, request: Request, deadline: Deadline) -> wire.Deletions:
        """Send a request for many deletions, once; raise RetriableError when one more may help.

        Swift authenticates each deletion by itself: a token may expire between two of them.
        """
        token = self._session.endpoint(request.subject).token
        answer = self._session.complete(request, deadline)
        done = understood(wire.deletions, answer.body, request.subject)
        for name, status in done.failed or [(quote(request.subject), done.status)]:
            error = wire.error_for("DELETE", unquote(name), status, b"", "")
            if status in wire.RETRIED or (
                status == 401 and self._session.renewed(error.subject, token)
            ):
                raise RetriableError(error)
        return done

    def _delete(self, path: str, subject: str) -> None:
        deadline = current(self._timeout_s)
        lost_answer = False

        def attempt() -> None:
            nonlocal lost_answer
            try:
                self._session.complete(Request("DELETE", path, subject=subject), deadline)
            except NotFound:
                if not lost_answer:
                    raise
                # The attempt whose answer was lost has done it.
            except RetriableError:
                lost_answer = True
                raise

        self._session.retrying(subject, deadline, attempt)

    @staticmethod
    def _stored(key: str, answer: Answer, size: int, content_type: str) -> ObjectInfo:
        info = wire.object_info(key, answer.headers, size)
        mtime_ns = info.mtime_ns or time.time_ns() // 1_000_000_000 * 1_000_000_000
        return replace(info, content_type=content_type, mtime_ns=mtime_ns)


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
