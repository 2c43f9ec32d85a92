"""How Swift writes things: headers, times, listings, errors. Pure functions, no I/O.

Everything that a server says passes through here, so what is malformed is refused here
(``ValueError``), whatever the server.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote

from allasfs.errors import (
    AccessDenied,
    BadName,
    Corrupt,
    DirectoryNotEmpty,
    Exists,
    FileTooBig,
    FsError,
    NoSpace,
    NotFound,
    QuotaExceeded,
    Stale,
    TokenRefused,
    Unavailable,
)
from allasfs.store.api import (
    DIRECTORY_TYPES,
    MD5_OF_NOTHING,
    AccountInfo,
    Capabilities,
    ContainerInfo,
    Kind,
    ObjectHead,
    ObjectInfo,
    Page,
)

META = "x-object-meta-"
CONTAINER_META = "x-container-meta-"
# RGW shows this metadata of static large objects, and of every object that it was copied to.
SLO_MARK = META + "static-large-object"
# What a POST drops on OpenStack Swift unless it is sent again (measured on Swift 2.38).
KEPT_HEADERS = ("content-disposition", "content-encoding", "x-delete-at", "x-object-manifest")

# What reading an answer of another form ends with: a number without end, brackets without end...
MEANINGLESS = (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError)
# What stat(2) can show of a size.
_MOST = 2**63 - 1
# The last time that has a date with four digits for the year.
_LATEST_NS = 253_402_300_799_999_999_999

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND = timedelta(microseconds=1)
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")

Headers = Mapping[str, str]


# -- times ----------------------------------------------------------------------------------------


def listed_time_ns(text: str) -> int:
    """Return ns for a listing's time: microseconds without, or milliseconds with, a ``Z``."""
    moment = datetime.fromisoformat(text.removesuffix("Z")).replace(tzinfo=timezone.utc)
    return (moment - _EPOCH) // _MICROSECOND * 1000


def header_time_ns(headers: Headers) -> int:
    """Return the version's time: X-Timestamp where it is given, else Last-Modified, else 0."""
    stamp = headers.get("x-timestamp", "")
    if stamp and not stamp.startswith("0.0"):
        seconds, _, fraction = stamp.partition(".")
        return min(int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, "0") or 0), _LATEST_NS)
    if date := headers.get("last-modified"):
        return min(int(parsedate_to_datetime(date).timestamp()) * 1_000_000_000, _LATEST_NS)
    return 0


def size_of(value: object) -> int:
    """Return a number of bytes or objects; raise ValueError for what is none."""
    if not isinstance(value, (int, str)) or isinstance(value, bool):
        raise ValueError(f"{value!r:.50} is no size")  # noqa: TRY004 - of an answer, not a type
    size = int(value)
    if not 0 <= size <= _MOST:
        raise ValueError(f"a size of {size} bytes")
    return size


# -- objects --------------------------------------------------------------------------------------


def listed_object(entry: Mapping[str, Any]) -> ObjectInfo:
    """Return the object of one entry of a JSON listing.

    The hash of nothing (and no directory marker) means that the size is not known: an empty
    object, or a large one of RGW, or a dynamic one of either server.
    """
    name, etag, size = _name(entry["name"]), str(entry["hash"]), size_of(entry["bytes"])
    content_type = str(entry.get("content_type") or "")
    kind = Kind.PLAIN
    if "slo_etag" in entry:
        kind, etag = Kind.SLO, str(entry["slo_etag"]).strip('"')
    elif etag == MD5_OF_NOTHING and not (
        name.endswith("/") or content_type.partition(";")[0] in DIRECTORY_TYPES
    ):
        kind = Kind.UNKNOWN
    return ObjectInfo(name, size, etag, listed_time_ns(entry["last_modified"]), content_type, kind)


def _name(value: object) -> str:
    """Return a name; raise ValueError for one that no request could send back."""
    if not isinstance(value, str) or not value:
        raise ValueError(f"{value!r:.50} is no name")
    value.encode()
    return value


def _entries(body: bytes) -> list[dict[str, Any]]:
    """Return the entries of a listing (JSON). What is none must not pass for an empty one."""
    entries = json.loads(body) if body.strip() else []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("no list of entries")
    return entries


def object_page(body: bytes, delimiter: str, prefix: str = "") -> Page:
    """Return the page of a container listing (JSON); raise ValueError when it is none.

    Names that were not asked for would be shown under other ones.
    """
    try:
        entries = _entries(body)
        objects = tuple(listed_object(entry) for entry in entries if "subdir" not in entry)
        subdirs = tuple(_name(entry["subdir"]) for entry in entries if "subdir" in entry)
    except MEANINGLESS as exc:
        raise ValueError(f"no listing: {exc!r:.200}") from exc
    if subdirs and not delimiter:
        raise ValueError("prefixes in a listing without delimiter")
    if not all(info.key.startswith(prefix) for info in objects):
        raise ValueError(f"names that do not begin with {prefix!r}")
    for subdir in subdirs:
        name, end = subdir[len(prefix) : -len(delimiter)], subdir[len(prefix) :][-len(delimiter) :]
        if not subdir.startswith(prefix) or end != delimiter or delimiter in name:
            raise ValueError(f"{subdir!r:.200} is no prefix below {prefix!r}")
    return Page(objects, subdirs)


def container_page(body: bytes) -> list[ContainerInfo]:
    """Return the page of an account listing (JSON); RGW gives no times there."""
    try:
        return [
            ContainerInfo(
                _container(entry["name"]),
                size_of(entry["count"]) if "count" in entry else None,
                size_of(entry["bytes"]) if "bytes" in entry else None,
                listed_time_ns(entry["last_modified"]) if "last_modified" in entry else 0,
            )
            for entry in _entries(body)
        ]
    except MEANINGLESS as exc:
        raise ValueError(f"no listing: {exc!r:.200}") from exc


def _container(value: object) -> str:
    """Return a container's name; raise ValueError for what would be another path."""
    name = _name(value)
    if "/" in name or name in (".", ".."):
        raise ValueError(f"{name!r:.50} is no name of a container")
    return name


def container_info(name: str, headers: Headers) -> ContainerInfo:
    """Return what HEAD told of a container."""
    return ContainerInfo(
        name,
        size_of(headers["x-container-object-count"]),
        size_of(headers["x-container-bytes-used"]),
        header_time_ns(headers),
        metadata(headers, CONTAINER_META),
    )


def account_info(headers: Headers) -> AccountInfo:
    """Return what HEAD told of the account."""
    quota = headers.get("x-account-quota-bytes") or headers.get("x-account-meta-quota-bytes")
    objects = headers.get("x-account-quota-count") or headers.get("x-account-meta-quota-count")
    return AccountInfo(
        bytes_used=size_of(headers["x-account-bytes-used"]),
        object_count=size_of(headers["x-account-object-count"]),
        container_count=size_of(headers["x-account-container-count"]),
        quota_bytes=size_of(quota) if quota else None,
        quota_count=size_of(objects) if objects else None,
    )


@dataclass(frozen=True)
class Deletions:
    """What a request for many deletions did."""

    status: int  # of the whole; RGW and Swift have several for "in part"
    told: str
    deleted: int
    missing: int
    failed: list[tuple[str, int]]  # quoted names with their statuses


def deletions(body: bytes) -> Deletions:
    """Return what a request for many deletions answers (JSON); raise ValueError."""
    found = json.loads(body)
    if not isinstance(found, dict) or "Response Status" not in found:
        raise ValueError("no report of deletions")
    told = str(found["Response Status"])
    return Deletions(
        int(told.split()[0]),
        told,
        int(found.get("Number Deleted", 0)),
        int(found.get("Number Not Found", 0)),
        [(str(name), int(str(status).split()[0])) for name, status in found.get("Errors", [])],
    )


def whole_size(headers: Headers, span: tuple[int, int] | None, status: int) -> int:
    """Return the whole object's size as an answered GET tells it; raise ValueError.

    A range that is not the one asked for, or a whole object in its place, is refused.
    """
    length = size_of(headers["content-length"])
    if span is None:
        if status != 200:
            raise ValueError(f"status {status} for a whole object")
        return length
    start, stop = span
    if status == 200:
        if (start, stop) != (0, length):
            raise ValueError("the whole object in place of a range")
        return length
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", ""))
    if not match:
        raise ValueError("a range without Content-Range")
    first, last, total = (int(group) for group in match.groups())
    if first != start or last + 1 != min(stop, total) or length != last + 1 - first:
        raise ValueError(f"range {first}-{last} of {length} bytes in place of {start}-{stop - 1}")
    return total


def object_info(key: str, headers: Headers, size: int) -> ObjectInfo:
    """Return the version that the headers of HEAD, GET or PUT describe."""
    kind = Kind.PLAIN
    if headers.get("x-static-large-object", "").lower() in ("true", "1"):
        kind = Kind.SLO
    elif headers.get("x-object-manifest"):
        kind = Kind.DLO
    return ObjectInfo(
        key,
        size,
        headers.get("etag", "").strip('"'),
        header_time_ns(headers),
        headers.get("content-type", ""),
        kind,
    )


def check_version(info: ObjectInfo) -> None:
    """Raise ValueError for an answer that does not tell which version it is of."""
    if not info.etag:
        raise ValueError("no ETag: not the answer of an object store")


def broken(headers: Headers) -> Headers:
    """Return what HEAD tells of a manifest whose segments are missing.

    Nobody knows its size. One byte, which cannot be read, keeps it from passing for an empty file.
    """
    if SLO_MARK in headers:
        headers = {**headers, "x-static-large-object": "true"}
    if object_info("", headers, 0).kind is Kind.PLAIN:
        return headers
    return {**headers, "content-length": "1"}


def object_head(key: str, headers: Headers) -> ObjectHead:
    """Return what HEAD told."""
    info = object_info(key, headers, size_of(headers["content-length"]))
    check_version(info)
    return ObjectHead(
        info,
        metadata(headers),
        {name: headers[name] for name in KEPT_HEADERS if headers.get(name)},
        unquote(headers.get("x-object-manifest", "")),
    )


def decoded(header: str) -> str:
    """Return a header as http.client gives it (ISO 8859-1) as the UTF-8 that it is meant to be.

    Bytes that are no UTF-8 become surrogates, and themselves again in ``encoded``.
    """
    return header.encode("iso-8859-1").decode(errors="surrogateescape")


def metadata(headers: Headers, prefix: str = META) -> dict[str, str]:
    """Return the metadata among headers."""
    return {
        name[len(prefix) :]: value
        for name, value in headers.items()
        if name.startswith(prefix) and name != SLO_MARK
    }


def encoded(header: str) -> bytes:
    """Return the bytes of a header that ``decoded`` gave."""
    return header.encode(errors="surrogateescape")


def meta_headers(found: Mapping[str, str] | None, prefix: str = META) -> dict[str, str]:
    """Return metadata as the headers of PUT and POST."""
    return {prefix + name.lower(): value for name, value in (found or {}).items()}


# -- the server -----------------------------------------------------------------------------------


def capabilities(info: Mapping[str, Any]) -> Capabilities:
    """Read ``GET /info``.

    OpenStack Swift tells its ``account_listing_limit``, Ceph RGW (16.2) does not. RGW's pages may
    be short anywhere, its listings give the length of the manifest as the size of a static large
    object, and its bucket names follow S3's rules.
    """
    swift = info.get("swift", {})
    slo = info.get("slo")
    default = Capabilities()
    is_reference = "account_listing_limit" in swift
    return Capabilities(
        max_put_bytes=int(swift.get("max_file_size", default.max_put_bytes)),
        listing_limit=int(swift.get("container_listing_limit", default.listing_limit)),
        exact_pages=is_reference,
        static_large_objects=slo is not None,
        slo_sizes_listed=slo is not None and is_reference,
        max_segments=int((slo or {}).get("max_manifest_segments", default.max_segments)),
        max_key_bytes=int(swift.get("max_object_name_length", default.max_key_bytes)),
        max_container_bytes=int(
            swift.get("max_container_name_length", default.max_container_bytes)
        ),
        min_container_bytes=1 if is_reference else 3,
        owner_reads_all=is_reference,
        conditional_put=is_reference,
        max_meta_name_bytes=int(swift.get("max_meta_name_length", default.max_meta_name_bytes)),
        max_meta_value_bytes=int(swift.get("max_meta_value_length", default.max_meta_value_bytes)),
        max_meta_items=int(swift.get("max_meta_count", default.max_meta_items)),
        max_meta_bytes=int(swift.get("max_meta_overall_size", default.max_meta_bytes)),
    )


_BY_STATUS: dict[int, type[FsError]] = {
    400: BadName,
    401: TokenRefused,
    403: AccessDenied,
    404: NotFound,
    409: Exists,
    411: Unavailable,
    412: Stale,
    413: QuotaExceeded,
    416: Stale,
    422: Corrupt,
    507: NoSpace,
}
# Worth another attempt: the request was not done, or may be done twice without harm. 404 is not:
# Swift's listings lag, its objects do not.
RETRIED = frozenset({408, 425, 429, 498, 499, 500, 502, 503, 504})


def error_for(method: str, subject: str, status: int, body: bytes, trans_id: str) -> FsError:
    """Return the condition that a status means for this verb, as a log line needs it."""
    text = re.sub(r"<[^>]*>", " ", body[:500].decode(errors="replace"))
    reason = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
    why = f"{method} answered {status}" + (f" ({reason})" if reason else "")
    if trans_id:
        why += f" [{trans_id}]"
    error: type[FsError] = _BY_STATUS.get(status, Unavailable)
    if status == 409 and method == "DELETE":
        error = DirectoryNotEmpty
    elif status == 409 and (method != "PUT" or "/" in subject):
        # Only a container's name can be taken. A GET finds a segment missing, a PUT a newer one.
        error = Unavailable
    if status == 400 and "EntityTooLarge" in reason:
        error = FileTooBig
    return error(subject, why)
