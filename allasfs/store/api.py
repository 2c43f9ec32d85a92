"""The Store protocol and its frozen records: all that the layers above know of an object store.

Names are ``str``; object names are called ``key``. Sizes are bytes, times are integer nanoseconds
since the epoch, spans are half-open. Every method raises only ``allasfs.errors.FsError``:
NotFound, AccessDenied, TokenRefused, Unavailable (TimedOut), and what its own text names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

MD5_OF_NOTHING = hashlib.md5(b"", usedforsecurity=False).hexdigest()
# Bodies are read in pieces of this size: that of the kernel's reads, which are mostly answered by a
# whole piece then, without a copy.
PIECE_BYTES = 128 * 1024
DIRECTORY_TYPE = "application/directory"
# Directory markers that other clients write, beside our own (Cyberduck, Nextcloud).
DIRECTORY_TYPES = frozenset({DIRECTORY_TYPE, "application/x-directory"})


class Kind(Enum):
    """How an object's bytes are kept."""

    PLAIN = "plain"
    SLO = "static large object"
    DLO = "dynamic large object"
    # A listing that gives the hash of nothing cannot tell an empty object from a large one.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One version of an object, as a listing, HEAD, GET or PUT described it.

    ``etag`` is unquoted. ``mtime_ns`` is the time of the version by the server's clock; its
    precision depends on the request that it came from (see ``same_version``).
    """

    key: str
    size: int
    etag: str
    mtime_ns: int
    content_type: str = ""
    kind: Kind = Kind.PLAIN

    @property
    def is_marker(self) -> bool:
        """Whether this object only says that a directory exists."""
        return self.key.endswith("/") or (
            self.size == 0 and self.content_type.partition(";")[0] in DIRECTORY_TYPES
        )

    def same_bytes(self, other: ObjectInfo) -> bool:
        """Whether both have one size and one ETag, whatever their names and times."""
        return (self.size, self.etag) == (other.size, other.etag)

    def same_version(self, other: ObjectInfo) -> bool:
        """Whether both describe one version, although other requests gave them.

        PUT and HEAD give whole seconds (Swift rounds up, RGW down), listings milli- or
        microseconds. The hash of a large object in a listing is not its ETag: then size and time
        decide.
        """
        if self.size != other.size or abs(self.mtime_ns - other.mtime_ns) > 1_000_000_000:
            return False
        return self.etag == other.etag or Kind.PLAIN not in (self.kind, other.kind)


@dataclass(frozen=True, slots=True)
class ObjectHead:
    """What HEAD adds to ``info``: metadata without ``x-object-meta-``, names in lower case."""

    info: ObjectInfo
    metadata: Mapping[str, str]
    # Other headers that a POST must repeat or it loses them (Content-Disposition, X-Delete-At...).
    headers: Mapping[str, str] = field(default_factory=dict)
    # Unquoted "container/prefix" of a dynamic large object.
    manifest: str = ""


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """A bucket: its name, objects and bytes (None where the answer did not say)."""

    name: str
    count: int | None = None
    bytes_used: int | None = None
    mtime_ns: int = 0
    # Without ``x-container-meta-``, names in lower case. None: listings do not tell.
    metadata: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class AccountInfo:
    """The account: what it uses and what it may use (None: no quota is known)."""

    bytes_used: int
    object_count: int
    container_count: int
    quota_bytes: int | None = None
    quota_count: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a listing request: objects, and prefixes cut at the delimiter."""

    objects: tuple[ObjectInfo, ...]
    subdirs: tuple[str, ...]

    @property
    def marker(self) -> str:
        """The last name of the page, from which the next page goes on."""
        last_object = self.objects[-1].key if self.objects else ""
        last_subdir = self.subdirs[-1] if self.subdirs else ""
        # Listings are in the order of the UTF-8 bytes.
        return max(last_object, last_subdir, key=lambda name: name.encode())

    def __len__(self) -> int:
        return len(self.objects) + len(self.subdirs)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this server can do, asked once (``GET /info``)."""

    max_put_bytes: int = 5 * 1024**3
    listing_limit: int = 10_000
    # A page shorter than the limit is the last one. False on RGW, whose pages are short anywhere.
    exact_pages: bool = False
    static_large_objects: bool = False
    # Listings give the true size of static large objects. False on RGW.
    slo_sizes_listed: bool = False
    max_segments: int = 1000
    max_key_bytes: int = 1024
    max_container_bytes: int = 256
    min_container_bytes: int = 1
    # The owner of a bucket may read what others stored in it, in segments too. False on RGW, where
    # objects are their writer's.
    owner_reads_all: bool = False
    # A PUT can be refused where the name is taken. False on RGW, which ignores the header.
    conditional_put: bool = False
    # Metadata of one object or container. Where the server does not tell (RGW), the stricter of
    # Swift's constraints and what RGW was measured to take.
    max_meta_name_bytes: int = 80
    max_meta_value_bytes: int = 256
    max_meta_items: int = 90
    max_meta_bytes: int = 4096


class Source(Protocol):
    """Bytes to be sent: may be iterated again for a retry."""

    @property
    def size(self) -> int:
        """Number of bytes that the iteration gives."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes from the start."""
        ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One part of a large object."""

    container: str
    key: str
    size: int
    etag: str


class Body(Protocol):
    """An answered GET: ``info`` is of the version that the bytes belong to."""

    @property
    def info(self) -> ObjectInfo:
        """The whole object's size, ETag and time (not the range's)."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """The object's metadata, as HEAD tells it."""
        ...

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes of the range in pieces of PIECE_BYTES, the last one shorter.

        Raises Unavailable when they end early.
        """
        ...


class Store(Protocol):
    """An account of an object store."""

    def capabilities(self) -> Capabilities:
        """Return what the server can do; asked once."""
        ...

    def url(self, container: str, key: str = "") -> str:
        """Return the address of an object, a container, or (both empty) the account."""
        ...

    def account(self) -> AccountInfo:
        """Return usage and quota of the account."""
        ...

    def containers(self) -> list[ContainerInfo]:
        """Return all containers of the account, in order of their names."""
        ...

    def head_container(self, container: str) -> ContainerInfo:
        """Return one container with its metadata, also another project's that may be read."""
        ...

    def may_write(self, container: str) -> bool:
        """Whether objects may be stored in an existing container, which may be another project's.

        Nothing changes: servers are asked to delete an object that nobody has.
        """
        ...

    def post_container(self, container: str, metadata: Mapping[str, str]) -> None:
        """Change the named metadata of a container; an empty value removes."""
        ...

    def create_container(self, container: str) -> None:
        """Create it; raise Exists when the name is taken by another project."""
        ...

    def delete_container(self, container: str) -> None:
        """Delete it; raise DirectoryNotEmpty."""
        ...

    def listing(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = ""
    ) -> Iterator[Page]:
        """Yield the pages of a listing until its end, each by one request, none twice."""
        ...

    def head(self, container: str, key: str) -> ObjectHead:
        """Return size, version and metadata of an object."""
        ...

    def get(
        self, container: str, key: str, *, span: tuple[int, int] | None = None, etag: str = ""
    ) -> AbstractContextManager[Body]:
        """Open the bytes of ``span`` (the whole object without); raise Stale if not ``etag``."""
        ...

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
        """Store the bytes under the name, verified by their MD5 (hex), and return the version.

        Raises QuotaExceeded, FileTooBig, Corrupt; with ``exclusive`` Exists where the name is
        taken and the server can tell (``Capabilities.conditional_put``).
        """
        ...

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
        ...

    def put_dlo(
        self,
        container: str,
        key: str,
        manifest: str,
        *,
        content_type: str,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Publish a dynamic large object over the segments at ``manifest`` (container/prefix/)."""
        ...

    def slo_segments(self, container: str, key: str) -> list[Segment]:
        """Return the segments of a static large object; raise NotFound when it is none.

        Raises NotSupported where the server does not tell them.
        """
        ...

    def post(self, container: str, head: ObjectHead, metadata: Mapping[str, str]) -> ObjectInfo:
        """Replace the metadata of the object that ``head`` described, keeping all else of it.

        Returns the object with the time of the change, which is its time in listings from now on.
        """
        ...

    def copy(
        self,
        container: str,
        info: ObjectInfo,
        target: tuple[str, str],
        *,
        manifest: bool = False,
        content_type: str = "",
    ) -> ObjectInfo:
        """Copy the object to (container, key) on the server, with its metadata.

        The copy has its content type, or the one given. Its ETag is empty if what was copied is of
        another time than ``info``: then another version, or changed by another client.
        With ``manifest`` a large object's manifest is copied instead of its bytes, whatever it is:
        both names then share the segments.
        """
        ...

    def delete(self, container: str, key: str) -> None:
        """Delete the object (of a large one: the manifest alone); raise NotFound."""
        ...

    def delete_slo(self, container: str, key: str) -> None:
        """Delete a static large object and the segments that it names; raise NotFound."""
        ...

    def delete_many(self, container: str, keys: Iterable[str]) -> None:
        """Delete objects, in as few requests as the server allows; missing ones are no error."""
        ...
