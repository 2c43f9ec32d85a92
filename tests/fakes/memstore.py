"""MemStore: an object store in memory, for the tests of everything above the Store protocol.

It behaves as OpenStack Swift does, or as Ceph RGW does with ``capabilities=RGW``;
tests/contract holds it to that. Another client is simulated by calling its methods directly.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import unquote

from allasfs.errors import (
    AccessDenied,
    BadName,
    Corrupt,
    DirectoryNotEmpty,
    Exists,
    FileTooBig,
    FsError,
    NotFound,
    NotSupported,
    QuotaExceeded,
    Stale,
    Unavailable,
)
from allasfs.store.api import (
    DIRECTORY_TYPES,
    MD5_OF_NOTHING,
    PIECE_BYTES,
    AccountInfo,
    Capabilities,
    ContainerInfo,
    Kind,
    ObjectHead,
    ObjectInfo,
    Page,
    Segment,
    Source,
    Store,
)

SECOND_NS = 1_000_000_000
CHANGES = {"put", "put_slo", "put_dlo", "post", "delete", "delete_slo", "delete_many"}

OPENSTACK = Capabilities(
    exact_pages=True,
    static_large_objects=True,
    slo_sizes_listed=True,
    owner_reads_all=True,
    conditional_put=True,
)
RGW = Capabilities(static_large_objects=True, min_container_bytes=3)


def md5_of(data: bytes) -> str:
    """Return the MD5 in hex."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Bytes:
    """Bytes as a Source."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        """Number of bytes."""
        return len(self._data)

    def chunks(self) -> Iterator[bytes]:
        """Yield them, in pieces that are no multiple of anything."""
        for start in range(0, len(self._data), 100_000):
            yield self._data[start : start + 100_000]


def put_bytes(
    store: Store,
    container: str,
    key: str,
    data: bytes = b"",
    *,
    content_type: str = "application/octet-stream",
    metadata: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> ObjectInfo:
    """Store bytes as any client would."""
    return store.put(
        container,
        key,
        Bytes(data),
        md5=md5_of(data),
        content_type=content_type,
        metadata=metadata,
        headers=headers,
    )


def get_bytes(
    store: Store,
    container: str,
    key: str,
    *,
    span: tuple[int, int] | None = None,
    etag: str = "",
) -> bytes:
    """Read bytes as any client would."""
    with store.get(container, key, span=span, etag=etag) as body:
        return b"".join(body)


@dataclass(frozen=True)
class Call:
    """One request."""

    method: str
    container: str = ""
    key: str = ""
    span: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Object:
    data: bytes
    etag: str
    mtime_ns: int
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    segments: tuple[Segment, ...] | None = None
    manifest: str = ""


@dataclass
class _Fault:
    method: str
    error: FsError
    is_done: bool
    after_bytes: int | None


class _Body:
    def __init__(
        self,
        info: ObjectInfo,
        metadata: Mapping[str, str],
        data: bytes,
        fault: _Fault | None,
    ) -> None:
        self._info = info
        self._metadata = metadata
        self._data = data
        self._fault = fault

    @property
    def info(self) -> ObjectInfo:
        return self._info

    @property
    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._data), PIECE_BYTES):
            piece = self._data[start : start + PIECE_BYTES]
            fault = self._fault
            if fault is not None and start + len(piece) > (fault.after_bytes or 0):
                raise fault.error
            yield piece


class MemStore:
    """An account in memory; any thread may call any method."""

    def __init__(
        self,
        *,
        clock_ns: Callable[[], int] = time.time_ns,
        capabilities: Capabilities = OPENSTACK,
        quota_bytes: int | None = None,
    ) -> None:
        self._clock_ns = clock_ns
        self._capabilities = capabilities
        self.quota_bytes = quota_bytes
        # Containers of another project that may only be read.
        self.read_only: set[str] = set()
        # Called without the lock before each request is looked at, and before it is answered.
        self.before: Callable[[Call], None] = lambda call: None
        self.after: Callable[[Call], None] = lambda call: None
        self._lock = threading.Lock()
        self._containers: dict[str, dict[str, _Object]] = {}
        self._born_ns: dict[str, int] = {}
        self._container_metadata: dict[str, dict[str, str]] = {}
        self._calls: list[Call] = []
        self._faults: list[_Fault] = []
        self._sent_bytes = 0
        self._pages = 0

    # -- for tests --------------------------------------------------------------------------------

    def calls(self, method: str = "") -> list[Call]:
        """Return the requests since ``forget_calls``, of one method or of all."""
        with self._lock:
            return [call for call in self._calls if method in ("", call.method)]

    def counts(self) -> dict[str, int]:
        """Return how many requests there were by method, since ``forget_calls``."""
        return dict(Counter(call.method for call in self.calls()))

    def sent_bytes(self) -> int:
        """Return how many bytes of objects were asked for, since ``forget_calls``."""
        with self._lock:
            return self._sent_bytes

    def forget_calls(self) -> None:
        """Count from now on."""
        with self._lock:
            self._calls.clear()
            self._sent_bytes = 0

    def fail_next(
        self,
        error: FsError | None = None,
        method: str = "",
        *,
        is_done: bool = False,
        after_bytes: int | None = None,
    ) -> None:
        """Let the next request (of a method) fail: before it is done, or after, or a body midway.

        A fault that was queued earlier comes earlier.
        """
        fault = _Fault(method, error or Unavailable("store", "a fault"), is_done, after_bytes)
        with self._lock:
            self._faults.append(fault)

    def keys(self, container: str) -> list[str]:
        """Return the names of all objects of a container; no request."""
        with self._lock:
            return sorted(self._containers[container], key=str.encode)

    # -- the account ------------------------------------------------------------------------------

    def capabilities(self) -> Capabilities:
        """Return what this store pretends to be."""
        return self._capabilities

    def url(self, container: str, key: str = "") -> str:
        """Return an address that nobody can open."""
        return f"memory:/{container}/{key}".rstrip("/")

    def account(self) -> AccountInfo:
        """Return usage and quota of the account."""
        with self._request(Call("account")):
            objects = [o for found in self._containers.values() for o in found.values()]
            used = sum(len(o.data) for o in objects)
            return AccountInfo(used, len(objects), len(self._containers), self.quota_bytes)

    def containers(self) -> list[ContainerInfo]:
        """Return all containers of the account, in order of their names."""
        with self._request(Call("containers")):
            found = [
                self._container_info(name) for name in sorted(self._containers, key=str.encode)
            ]
        if not self._capabilities.exact_pages:
            return [ContainerInfo(info.name) for info in found]
        return found

    def _container_info(self, name: str) -> ContainerInfo:
        objects = self._containers[name].values()
        size = sum(len(o.data) for o in objects)
        return ContainerInfo(name, len(objects), size, self._born_ns[name])

    def head_container(self, container: str) -> ContainerInfo:
        """Return one container."""
        with self._request(Call("head_container", container)):
            self._objects(container)
            metadata = dict(self._container_metadata[container])
            return replace(self._container_info(container), metadata=metadata)

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Change the named metadata; an empty value removes."""
        with self._request(Call("post_container", container)):
            self._objects(container)
            merged = self._container_metadata[container] | _lower(metadata)
            kept = {name: value for name, value in merged.items() if value}
            self._container_metadata[container] = kept

    def create_container(self, container: str) -> None:
        """Create it, or find that it is there."""
        with self._request(Call("create_container", container)):
            if container not in self._containers:
                self._containers[container] = {}
                self._born_ns[container] = self._now_ns()
                self._container_metadata[container] = {}

    def delete_container(self, container: str) -> None:
        """Delete it; raise DirectoryNotEmpty, NotFound."""
        with self._request(Call("delete_container", container)):
            if self._objects(container):
                raise DirectoryNotEmpty(container)
            del self._containers[container]
            del self._container_metadata[container]

    def listing(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = ""
    ) -> Iterator[Page]:
        """Yield the pages of a listing until its end, each by one request."""
        while True:
            with self._request(Call("listing", container, prefix)):
                page = self._page(container, prefix, delimiter, marker)
            if not len(page):
                return
            marker = page.marker
            yield page
            limits = self._capabilities
            if limits.exact_pages and len(page) < limits.listing_limit:
                return

    def _page(self, container: str, prefix: str, delimiter: str, marker: str) -> Page:
        objects: list[ObjectInfo] = []
        subdirs: list[str] = []
        limit = self._capabilities.listing_limit
        if not self._capabilities.exact_pages:
            # RGW's pages are short anywhere.
            self._pages += 1
            limit = max(1, limit - self._pages % 3)
        found = self._objects(container)
        for key in sorted(found, key=str.encode):
            if len(objects) + len(subdirs) == limit:
                break
            if not key.startswith(prefix):
                continue
            head, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else (key, "", "")
            if cut:
                subdir = prefix + head + delimiter
                # RGW shows no prefix that is the delimiter alone.
                is_listed = self._capabilities.exact_pages or subdir != delimiter
                is_new = subdir.encode() > marker.encode() and subdirs[-1:] != [subdir]
                if is_listed and is_new:
                    subdirs.append(subdir)
            elif key.encode() > marker.encode():
                objects.append(self._listed(key, found[key]))
        return Page(tuple(objects), tuple(subdirs))

    def _listed(self, key: str, stored: _Object) -> ObjectInfo:
        size, etag, kind = len(stored.data), stored.etag, Kind.PLAIN
        if stored.segments is not None:
            if self._capabilities.slo_sizes_listed:
                size, kind = sum(segment.size for segment in stored.segments), Kind.SLO
            else:
                size, etag = len(stored.data), MD5_OF_NOTHING
        if etag == MD5_OF_NOTHING and not (
            key.endswith("/") or stored.content_type.partition(";")[0] in DIRECTORY_TYPES
        ):
            kind = Kind.UNKNOWN
        mtime_ns = stored.mtime_ns
        if not self._capabilities.exact_pages:
            mtime_ns -= mtime_ns % 1_000_000
        return ObjectInfo(key, size, etag, mtime_ns, stored.content_type, kind)

    # -- reading ----------------------------------------------------------------------------------

    def head(self, container: str, key: str) -> ObjectHead:
        """Return size, version and metadata of an object."""
        with self._request(Call("head", container, key)):
            stored = self._object(container, key)
            headers = dict(stored.headers)
            if stored.manifest:
                headers["x-object-manifest"] = stored.manifest
            info = self._info(container, key, stored)
            return ObjectHead(info, dict(stored.metadata), headers, stored.manifest)

    def _info(self, container: str, key: str, stored: _Object) -> ObjectInfo:
        size, etag, kind = len(stored.data), stored.etag, Kind.PLAIN
        if stored.segments is not None:
            size, kind = sum(segment.size for segment in stored.segments), Kind.SLO
        elif stored.manifest:
            parts = self._dynamic(stored.manifest)
            size = sum(len(part.data) for part in parts)
            etag = md5_of("".join(part.etag for part in parts).encode())
            kind = Kind.DLO
        return ObjectInfo(key, size, etag, stored.mtime_ns, stored.content_type, kind)

    def _dynamic(self, manifest: str) -> list[_Object]:
        container, _, prefix = manifest.partition("/")
        found = self._containers.get(container, {})
        return [found[key] for key in sorted(found, key=str.encode) if key.startswith(prefix)]

    def _content(self, stored: _Object) -> bytes:
        if stored.segments is not None:
            parts = [self._containers.get(s.container, {}).get(s.key) for s in stored.segments]
            for part, segment in zip(parts, stored.segments, strict=True):
                if part is None or part.etag != segment.etag:
                    raise Unavailable(segment.key, "a segment is gone")
            return b"".join(part.data for part in parts if part)
        if stored.manifest:
            return b"".join(part.data for part in self._dynamic(stored.manifest))
        return stored.data

    @contextmanager
    def get(
        self, container: str, key: str, *, span: tuple[int, int] | None = None, etag: str = ""
    ) -> Iterator[_Body]:
        """Open the bytes of ``span``; raise Stale if not ``etag``."""
        with self._request(Call("get", container, key, span)) as fault:
            stored = self._object(container, key)
            info = self._info(container, key, stored)
            is_plain = info.kind is Kind.PLAIN
            if etag and (etag != info.etag or not (is_plain or self._capabilities.exact_pages)):
                raise Stale(f"{container}/{key}", "412")
            start, stop = span or (0, info.size)
            if span and start >= info.size:
                raise Stale(f"{container}/{key}", "416")
            data = self._content(stored)[start:stop]
            self._sent_bytes += len(data)
        yield _Body(info, dict(stored.metadata), data, fault)

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
        """Store the bytes under the name, verified by their MD5."""
        data = b"".join(source.chunks())
        if len(data) != source.size:
            raise AssertionError(f"a source of {source.size} bytes gave {len(data)}")
        with self._request(Call("put", container, key)):
            if len(data) > self._capabilities.max_put_bytes:
                raise FileTooBig(key)
            used = sum(len(o.data) for found in self._containers.values() for o in found.values())
            if self.quota_bytes is not None and used + len(data) > self.quota_bytes:
                raise QuotaExceeded(key)
            if md5_of(data) != md5:
                raise Corrupt(key, "422")
            is_taken = key in self._containers.get(container, {})
            if exclusive and self._capabilities.conditional_put and is_taken:
                raise Exists(key, "412")
            stored = _Object(
                data, md5, self._now_ns(), content_type, self._kept(metadata), _lower(headers)
            )
            return self._store(container, key, stored)

    def put_slo(
        self,
        container: str,
        key: str,
        segments: Iterable[Segment],
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Publish a static large object over stored segments."""
        parts = tuple(segments)
        with self._request(Call("put_slo", container, key)):
            for part in parts:
                stored = self._containers.get(part.container, {}).get(part.key)
                if stored is None or stored.etag != part.etag or len(stored.data) != part.size:
                    raise BadName(key, "a segment is not as described")
            etag = md5_of("".join(part.etag for part in parts).encode())
            text = json.dumps([[part.container, part.key, part.size] for part in parts]).encode()
            return self._store(
                container,
                key,
                _Object(
                    text, etag, self._now_ns(), content_type, self._kept(metadata), segments=parts
                ),
            )

    def put_dlo(
        self,
        container: str,
        key: str,
        manifest: str,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Publish a dynamic large object over the segments at ``manifest``."""
        with self._request(Call("put_dlo", container, key)):
            stored = _Object(
                b"",
                MD5_OF_NOTHING,
                self._now_ns(),
                content_type,
                self._kept(metadata),
                manifest=manifest,
            )
            self._store(container, key, stored)
        return self.head(container, key).info

    def slo_segments(self, container: str, key: str) -> list[Segment]:
        """Return the segments of a static large object; raise NotFound, or NotSupported as RGW."""
        with self._request(Call("slo_segments", container, key)):
            stored = self._object(container, key)
            if stored.segments is None:
                raise NotFound(f"{container}/{key}")
            if not self._capabilities.slo_sizes_listed:
                raise NotSupported(key)
            return list(stored.segments)

    def post(self, container: str, head: ObjectHead, metadata: Mapping[str, str]) -> ObjectInfo:
        """Replace the metadata, keeping what ``head`` has."""
        key = head.info.key
        with self._request(Call("post", container, key)):
            stored = self._object(container, key)
            headers = dict(head.headers)
            manifest = unquote(headers.pop("x-object-manifest", ""))
            now_ns = self._now_ns()
            self._containers[container][key] = replace(
                stored,
                metadata=self._kept(metadata),
                headers=headers,
                manifest=manifest,
                mtime_ns=now_ns,
            )
            # The answer has a Date only.
            return replace(head.info, mtime_ns=now_ns - now_ns % SECOND_NS)

    def copy(
        self,
        container: str,
        info: ObjectInfo,
        target: tuple[str, str],
        *,
        manifest: bool = False,
        content_type: str = "",
    ) -> ObjectInfo:
        """Copy the object with its metadata, or a large one's manifest."""
        with self._request(Call("copy", container, info.key)):
            stored = self._object(container, info.key)
            is_timed = info.mtime_ns and not manifest
            is_other = is_timed and abs(info.mtime_ns - stored.mtime_ns) > 1_000_000_000
            stored = replace(stored, content_type=content_type or stored.content_type)
            if not manifest and self._capabilities.exact_pages:
                data = self._content(stored)
                stored = replace(stored, data=data, etag=md5_of(data), segments=None, manifest="")
            copied = self._store(*target, replace(stored, mtime_ns=self._now_ns()))
            return replace(copied, etag="") if is_other else copied

    def may_write(self, container: str) -> bool:
        """Whether objects may be stored in a container."""
        with self._request(Call("may_write", container)):
            return container not in self.read_only

    def delete(self, container: str, key: str) -> None:
        """Delete the object (of a large one: the manifest alone); raise NotFound."""
        with self._request(Call("delete", container, key)):
            self._object(container, key)
            del self._containers[container][key]

    def delete_slo(self, container: str, key: str) -> None:
        """Delete a static large object with its segments; raise NotFound."""
        with self._request(Call("delete_slo", container, key)):
            stored = self._object(container, key)
            if stored.segments is None:
                raise Unavailable(f"{container}/{key}", "not an SLO manifest")
            for segment in stored.segments:
                self._containers.get(segment.container, {}).pop(segment.key, None)
            del self._containers[container][key]

    def delete_many(self, container: str, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""
        names = list(keys)
        if not names:
            return
        with self._request(Call("delete_many", container)):
            for key in names:
                self._containers.get(container, {}).pop(key, None)

    # -- inside -----------------------------------------------------------------------------------

    @contextmanager
    def _request(self, call: Call) -> Iterator[_Fault | None]:
        """Count a request and do it under the lock; yield the fault for its body."""
        self.before(call)
        with self._lock:
            self._calls.append(call)
            fault = next((f for f in self._faults if f.method in ("", call.method)), None)
            if call.container in self.read_only and call.method in CHANGES:
                raise AccessDenied(call.container, "403")
            if fault is not None:
                self._faults.remove(fault)
                if not fault.is_done and fault.after_bytes is None:
                    raise fault.error
            yield fault
        self.after(call)
        if fault is not None and fault.is_done:
            raise fault.error

    def _objects(self, container: str) -> dict[str, _Object]:
        try:
            return self._containers[container]
        except KeyError:
            raise NotFound(container) from None

    def _object(self, container: str, key: str) -> _Object:
        try:
            return self._objects(container)[key]
        except KeyError:
            raise NotFound(f"{container}/{key}") from None

    def _store(self, container: str, key: str, stored: _Object) -> ObjectInfo:
        """Enter an object and return it as the answer of a PUT tells it: in whole seconds."""
        if len(key.encode()) > self._capabilities.max_key_bytes:
            raise BadName(key)
        self._objects(container)[key] = stored
        info = self._info(container, key, stored)
        up = SECOND_NS - 1 if self._capabilities.exact_pages else 0
        return replace(info, mtime_ns=(info.mtime_ns + up) // SECOND_NS * SECOND_NS)

    def _kept(self, metadata: Mapping[str, str] | None) -> dict[str, str]:
        """Return an object's metadata as the server gives it back."""
        kept = _lower(metadata)
        if self._capabilities.exact_pages:
            return kept
        return {name: _spelt(text) for name, text in kept.items()}

    def _now_ns(self) -> int:
        now_ns = self._clock_ns()
        return now_ns - now_ns % 10_000


def _lower(metadata: Mapping[str, str] | None) -> dict[str, str]:
    return {name.lower(): value for name, value in (metadata or {}).items()}


def _spelt(text: str) -> str:
    """Return a value as RGW keeps it: one with control characters in quoted-printable."""
    if not any(char < " " or char == "\x7f" for char in text):
        return text
    letters = (
        chr(byte) if 32 <= byte < 127 and byte != ord("=") else f"={byte:02X}"
        for byte in text.encode(errors="surrogateescape")
    )
    return f"=?UTF-8?Q?{''.join(letters)}?="
