"""How Swift writes things, row by row: listings, times, ranges, headers, capabilities, errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

from allasfs import errors
from allasfs.errors import FsError
from allasfs.store import wire
from allasfs.store.api import MD5_OF_NOTHING, Capabilities, ContainerInfo, Kind, ObjectInfo, Page

MD5 = "0123456789abcdef0123456789abcdef"
ENTRY: dict[str, Any] = {
    "name": "dir/a",
    "hash": MD5,
    "bytes": 3,
    "content_type": "text/plain",
    "last_modified": "2026-01-02T03:04:05.678900",
}
ENTRY_NS = 1_767_323_045_678_900_000


def body(*entries: object) -> bytes:
    return json.dumps(entries).encode()


# -- times ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1970-01-01T00:00:00.000000", 0),
        ("2026-01-02T03:04:05.678900", ENTRY_NS),
        ("2026-01-02T03:04:05.678Z", 1_767_323_045_678_000_000),
        ("2026-01-02T03:04:05", 1_767_323_045_000_000_000),
        ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999_000),
    ],
)
def test_both_forms_of_a_listing_s_time_are_read_exactly(text: str, expected_ns: int) -> None:
    assert wire.listed_time_ns(text) == expected_ns


@pytest.mark.parametrize(
    ("headers", "expected_ns"),
    [
        ({"x-timestamp": "1767323045.67890"}, ENTRY_NS),
        ({"x-timestamp": "1767323045"}, 1_767_323_045_000_000_000),
        ({"x-timestamp": "1767323045.123456789123"}, 1_767_323_045_123_456_789),
        # Swift gives this for a container that no update has reached yet.
        (
            {"x-timestamp": "0.00000", "last-modified": "Fri, 02 Jan 2026 03:04:05 GMT"},
            1_767_323_045_000_000_000,
        ),
        ({"last-modified": "Fri, 02 Jan 2026 03:04:05 GMT"}, 1_767_323_045_000_000_000),
        ({}, 0),
    ],
)
def test_a_header_s_time_is_the_most_exact_that_is_given(
    headers: dict[str, str], expected_ns: int
) -> None:
    assert wire.header_time_ns(headers) == expected_ns


# -- listings -------------------------------------------------------------------------------------


def test_an_entry_becomes_an_object() -> None:
    assert wire.listed_object(ENTRY) == ObjectInfo(
        "dir/a", 3, MD5, ENTRY_NS, "text/plain", Kind.PLAIN
    )


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, Kind.PLAIN),
        ({"bytes": 0, "hash": MD5_OF_NOTHING}, Kind.UNKNOWN),
        # The manifest of a static large object on RGW.
        ({"bytes": 312, "hash": MD5_OF_NOTHING}, Kind.UNKNOWN),
        ({"bytes": 0, "hash": MD5_OF_NOTHING, "name": "dir/"}, Kind.PLAIN),
        (
            {"bytes": 0, "hash": MD5_OF_NOTHING, "content_type": "application/directory"},
            Kind.PLAIN,
        ),
        (
            {"bytes": 0, "hash": MD5_OF_NOTHING, "content_type": "application/x-directory; a=b"},
            Kind.PLAIN,
        ),
        ({"slo_etag": f'"{MD5}"', "hash": "f" * 32, "bytes": 10**12}, Kind.SLO),
    ],
)
def test_the_kind_is_told_or_said_to_be_unknown(changes: dict[str, Any], kind: Kind) -> None:
    assert wire.listed_object({**ENTRY, **changes}).kind is kind


def test_the_etag_of_a_static_large_object_is_that_of_its_answers() -> None:
    found = wire.listed_object({**ENTRY, "slo_etag": f'"{MD5}"', "hash": "f" * 32})
    assert found.etag == MD5


def test_a_page_has_objects_and_prefixes_and_the_last_of_both_as_marker() -> None:
    page = wire.object_page(body(ENTRY, {"subdir": "dir/b/"}), "/", "dir/")
    assert [info.key for info in page.objects] == ["dir/a"]
    assert page.subdirs == ("dir/b/",)
    assert (page.marker, len(page)) == ("dir/b/", 2)


def test_the_marker_is_last_by_bytes_not_by_code_units() -> None:
    late, early = "\U0001f600", "\ufb01"
    page = wire.object_page(body({**ENTRY, "name": late}, {"subdir": early + "/"}), "/")
    assert page.marker == late


@pytest.mark.parametrize("empty", [b"", b"  \n", b"[]"])
def test_an_empty_body_is_an_empty_page(empty: bytes) -> None:
    assert wire.object_page(empty, "") == Page((), ())
    assert wire.container_page(empty) == []


@pytest.mark.parametrize(
    "malformed",
    [
        b"<html>busy</html>",
        b"[",
        b"null",
        b"3",
        b'"text"',
        b"{}",
        b'{"error": "busy"}',
        b'["name"]',
        b'["other"]',
        b"[1]",
        b"[null]",
        b"[[]]",
        b"[{}]",
        body({"name": "a"}),
        body({**ENTRY, "bytes": -1}),
        body({**ENTRY, "bytes": "many"}),
        body({**ENTRY, "bytes": None}),
        body({**ENTRY, "last_modified": "yesterday"}),
        body({**ENTRY, "last_modified": None}),
        body({**ENTRY, "last_modified": 5}),
        body({**ENTRY, "name": "lone \ud800 surrogate"}),
        b"\xff\xfe",
        body({"subdir": "dir/"}),
        body(ENTRY)[:-10],
    ],
)
def test_a_malformed_page_is_refused_and_never_an_empty_one(malformed: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - its text is the parser's
        wire.object_page(malformed, "")


@pytest.mark.parametrize(
    "malformed",
    [b"null", b"{}", b'{"error": "busy"}', b"[1]", b'["name"]', b"[{}]", b'[{"name": "a"', b"<a>"],
)
def test_a_malformed_page_of_containers_is_refused(malformed: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        wire.container_page(malformed)


def test_containers_have_what_the_server_tells_of_them() -> None:
    full = {"name": "a", "count": 2, "bytes": 10, "last_modified": ENTRY["last_modified"]}
    assert wire.container_page(body(full, {"name": "b"})) == [
        ContainerInfo("a", 2, 10, ENTRY_NS),
        ContainerInfo("b", None, None, 0),
    ]


# -- answers to GET -------------------------------------------------------------------------------


def range_headers(first: int, last: int, total: int, length: int | None = None) -> dict[str, str]:
    count = last + 1 - first if length is None else length
    return {"content-range": f"bytes {first}-{last}/{total}", "content-length": str(count)}


@pytest.mark.parametrize(
    ("headers", "span", "status", "expected"),
    [
        ({"content-length": "10"}, None, 200, 10),
        ({"content-length": "0"}, None, 200, 0),
        # The whole object, where the whole object was asked for.
        ({"content-length": "10"}, (0, 10), 200, 10),
        (range_headers(0, 4, 10), (0, 5), 206, 10),
        (range_headers(5, 9, 10), (5, 10), 206, 10),
        (range_headers(5, 9, 10), (5, 500), 206, 10),
    ],
)
def test_the_whole_size_is_read_from_an_answered_get(
    headers: dict[str, str], span: tuple[int, int] | None, status: int, expected: int
) -> None:
    assert wire.whole_size(headers, span, status) == expected


@pytest.mark.parametrize(
    ("headers", "span", "status"),
    [
        ({"content-length": "10"}, None, 206),
        ({"content-length": "10"}, (2, 5), 200),
        ({"content-length": "10"}, (0, 5), 200),
        ({"content-length": "5"}, (0, 10), 200),
        ({"content-length": "5"}, (0, 5), 206),
        ({"content-length": "5", "content-range": "bytes 0-4/*"}, (0, 5), 206),
        ({"content-length": "5", "content-range": "bytes */10"}, (0, 5), 206),
        ({"content-length": "5", "content-range": "items 0-4/10"}, (0, 5), 206),
        (range_headers(1, 5, 10), (0, 5), 206),
        (range_headers(0, 3, 10), (0, 5), 206),
        (range_headers(0, 5, 10), (0, 5), 206),
        (range_headers(5, 9, 12), (5, 500), 206),
        (range_headers(0, 4, 10, length=4), (0, 5), 206),
        (range_headers(0, 4, 10, length=6), (0, 5), 206),
    ],
)
def test_an_answer_with_other_bytes_than_those_asked_for_is_refused(
    headers: dict[str, str], span: tuple[int, int] | None, status: int
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        wire.whole_size(headers, span, status)


def test_an_answer_without_length_is_refused() -> None:
    with pytest.raises((KeyError, ValueError)):
        wire.whole_size({}, None, 200)
    with pytest.raises((KeyError, ValueError)):
        wire.object_head("key", {"etag": MD5})


# -- headers --------------------------------------------------------------------------------------


def test_a_head_has_version_metadata_and_what_a_post_must_repeat() -> None:
    head = wire.object_head(
        "key",
        {
            "content-length": "3",
            "content-type": "text/plain",
            "etag": f'"{MD5}"',
            "x-timestamp": "1767323045.67890",
            "x-object-meta-mtime": "1.5",
            "x-object-meta-two-words": "ä",
            "content-disposition": "attachment",
            "content-encoding": "",
            "x-delete-at": "4000000000",
            "x-trans-id": "tx1",
        },
    )
    assert head.info == ObjectInfo("key", 3, MD5, ENTRY_NS, "text/plain", Kind.PLAIN)
    assert head.metadata == {"mtime": "1.5", "two-words": "ä"}
    assert head.headers == {"content-disposition": "attachment", "x-delete-at": "4000000000"}
    assert head.manifest == ""


def test_the_mark_of_a_static_large_object_is_no_metadata_of_a_file() -> None:
    # As Ceph RGW shows it; a plain object that inherits it passes for a large one elsewhere.
    headers = {"content-length": "3", "etag": "e", "x-object-meta-static-large-object": "True"}
    assert wire.object_head("key", {**headers, "x-object-meta-a": "1"}).metadata == {"a": "1"}


@pytest.mark.parametrize("value", ["True", "true", "1"])
def test_a_static_large_object_is_known_by_its_header(value: str) -> None:
    info = wire.object_info("key", {"x-static-large-object": value, "etag": f'"{MD5}"'}, 3)
    assert (info.kind, info.etag) == (Kind.SLO, MD5)


def test_a_dynamic_large_object_is_known_by_its_manifest_which_is_unquoted_once() -> None:
    manifest = {"x-object-manifest": "b_segments/a%20%2525/"}
    head = wire.object_head("key", {"content-length": "3", "etag": "e", **manifest})
    assert (head.info.kind, head.manifest) == (Kind.DLO, "b_segments/a %25/")
    # As it came, for the POST that sends it back.
    assert head.headers == {"x-object-manifest": "b_segments/a%20%2525/"}


def test_metadata_becomes_headers() -> None:
    assert wire.meta_headers({"Mtime": "1.5"}) == {"x-object-meta-mtime": "1.5"}
    assert wire.meta_headers(None) == {}


# -- the server -----------------------------------------------------------------------------------


def test_openstack_swift_is_known_by_its_info() -> None:
    info = {
        "swift": {
            "account_listing_limit": 10000,
            "container_listing_limit": 9000,
            "max_file_size": 5368709122,
            "max_object_name_length": 1000,
            "max_container_name_length": 200,
        },
        "slo": {"max_manifest_segments": 500},
    }
    assert wire.capabilities(info) == Capabilities(
        max_put_bytes=5368709122,
        listing_limit=9000,
        exact_pages=True,
        owner_reads_all=True,
        static_large_objects=True,
        slo_sizes_listed=True,
        max_segments=500,
        max_key_bytes=1000,
        max_container_bytes=200,
        min_container_bytes=1,
        conditional_put=True,
    )


def test_ceph_rgw_is_known_by_what_it_does_not_tell() -> None:
    info = {
        "swift": {"container_listing_limit": 10000, "max_object_name_size": 1024},
        "slo": {"max_manifest_segments": 1000},
        "tempauth": {},
    }
    found = wire.capabilities(info)
    assert not found.exact_pages
    assert found.static_large_objects
    assert not found.slo_sizes_listed
    assert found.min_container_bytes == 3


def test_a_server_that_tells_nothing_gets_the_safe_defaults() -> None:
    found = wire.capabilities({})
    assert not found.exact_pages
    assert not found.static_large_objects


# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "status", "body", "expected"),
    [
        ("PUT", 400, b"bad", errors.BadName),
        ("PUT", 400, b"<Code>EntityTooLarge</Code>", errors.FileTooBig),
        ("GET", 401, b"", errors.TokenRefused),
        ("GET", 403, b"", errors.AccessDenied),
        ("GET", 404, b"", errors.NotFound),
        ("PUT", 409, b"", errors.Unavailable),
        ("GET", 409, b"", errors.Unavailable),
        ("POST", 409, b"", errors.Unavailable),
        ("DELETE", 409, b"", errors.DirectoryNotEmpty),
        ("PUT", 411, b"", errors.Unavailable),
        ("GET", 412, b"", errors.Stale),
        ("PUT", 413, b"", errors.QuotaExceeded),
        ("GET", 416, b"", errors.Stale),
        ("PUT", 422, b"", errors.Corrupt),
        ("PUT", 507, b"", errors.NoSpace),
        ("GET", 300, b"", errors.Unavailable),
        ("GET", 408, b"", errors.Unavailable),
        ("GET", 418, b"", errors.Unavailable),
        ("GET", 429, b"", errors.Unavailable),
        ("GET", 498, b"", errors.Unavailable),
        ("GET", 500, b"", errors.Unavailable),
        ("GET", 503, b"", errors.Unavailable),
    ],
)
def test_each_status_means_one_condition(
    method: str, status: int, body: bytes, expected: type[FsError]
) -> None:
    error = wire.error_for(method, "bucket/key", status, body, "tx1")
    assert type(error) is expected
    assert error.subject == "bucket/key"
    assert error.why.startswith(f"{method} answered {status}")
    assert error.why.endswith("[tx1]")


def test_a_bucket_s_name_is_taken_and_a_bucket_not_empty() -> None:
    assert type(wire.error_for("PUT", "bucket", 409, b"", "")) is errors.Exists
    assert type(wire.error_for("DELETE", "bucket", 409, b"", "")) is errors.DirectoryNotEmpty


def test_what_may_pass_is_tried_again_and_what_may_not_is_not() -> None:
    assert {408, 425, 429, 498, 500, 502, 503, 504} <= wire.RETRIED
    assert not wire.RETRIED & {400, 401, 403, 404, 409, 411, 412, 413, 416, 422, 501, 507}


def test_the_reason_is_the_text_of_the_answer_on_one_printable_line() -> None:
    text = b"<html><h1>Forbidden</h1><p>Access\n\twas \x1b[31mdenied\xff</p></html>" + b"x" * 9999
    why = wire.error_for("GET", "b/k", 403, text, "").why
    assert why.startswith("GET answered 403 (Forbidden Access was [31mdenied")
    assert why.isprintable()
    assert len(why) < 300
