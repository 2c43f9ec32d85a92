"""The Store protocol, held against every implementation: what the layers above may rely on."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest

from allasfs.errors import (
    BadName,
    Corrupt,
    DirectoryNotEmpty,
    Exists,
    NotFound,
    NotSupported,
    Stale,
)
from allasfs.store import large, marks
from allasfs.store.api import (
    DIRECTORY_TYPE,
    MD5_OF_NOTHING,
    PIECE_BYTES,
    Kind,
    ObjectInfo,
    Segment,
    Store,
)
from allasfs.store.swift import SwiftStore
from tests.fakes.memstore import Bytes, MemStore, get_bytes, md5_of, put_bytes

# What a name may contain; the last two begin and end as directories do.
ODD_KEYS = [
    "plain",
    "with space",
    " both ",
    "ä ö",
    "😀",
    "\ufb01 after the emoji in UTF-16, before it in UTF-8",
    "?#%&+=;:@$,'\"<>[]{}|\\^`~!*()",
    "%41 %2F %",
    "new\nline\ttab",
    "a//b",
    "...",
    "a/.b/..c/d.",
    "/lead",
    "trail/",
]
SEGMENT = 1024 * 1024


def objects(store: Store, bucket: str, prefix: str = "") -> list[ObjectInfo]:
    return [info for page in store.listing(bucket, prefix=prefix) for info in page.objects]


def listed(store: Store, bucket: str, key: str) -> ObjectInfo:
    (found,) = [info for info in objects(store, bucket, key) if info.key == key]
    return found


def segments(store: Store, count: int, container: str) -> tuple[list[Segment], bytes]:
    store.create_container(container)
    stored, content = [], b""
    for index in range(count):
        data = bytes([65 + index]) * SEGMENT
        info = put_bytes(store, container, f"obj/1/{index:08d}", data)
        stored.append(Segment(container, info.key, info.size, info.etag))
        content += data
    return stored, content


def test_mypy_sees_that_both_are_stores() -> None:
    def takes(store: Store) -> None:
        pass

    def both(memory: MemStore, swift: SwiftStore) -> None:
        takes(memory)
        takes(swift)

    assert callable(both)


# -- containers -----------------------------------------------------------------------------------


def test_a_new_container_is_listed_and_empty(store: Store, bucket: str) -> None:
    assert bucket in [info.name for info in store.containers()]
    info = store.head_container(bucket)
    assert (info.name, info.count, info.bytes_used) == (bucket, 0, 0)
    assert abs(info.mtime_ns - time.time_ns()) < 60e9
    assert list(store.listing(bucket)) == []


def test_containers_are_listed_in_the_order_of_their_bytes(store: Store) -> None:
    names = ["order-a", "order-ä", "order-😀", "order-\ufb01", "order-Z", "order b"]
    for name in names:
        store.create_container(name)
    found = [info.name for info in store.containers() if info.name.startswith("order")]
    assert found == sorted(names, key=str.encode)


def test_creating_an_own_container_again_is_no_error_and_keeps_its_objects(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "kept", b"1")
    store.create_container(bucket)
    assert get_bytes(store, bucket, "kept") == b"1"


def test_an_empty_container_can_be_deleted(store: Store, bucket: str) -> None:
    store.delete_container(bucket)
    assert bucket not in [info.name for info in store.containers()]
    with pytest.raises(NotFound):
        store.head_container(bucket)


def test_a_container_with_an_object_cannot_be_deleted(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "a")
    with pytest.raises(DirectoryNotEmpty):
        store.delete_container(bucket)
    assert [info.key for info in objects(store, bucket)] == ["a"]


def test_what_is_not_there_is_not_found(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "there")
    there = store.head(bucket, "there")
    with pytest.raises(NotFound):
        store.head_container("no-such-bucket")
    with pytest.raises(NotFound):
        store.delete_container("no-such-bucket")
    with pytest.raises(NotFound):
        list(store.listing("no-such-bucket"))
    with pytest.raises(NotFound):
        put_bytes(store, "no-such-bucket", "key")
    with pytest.raises(NotFound):
        store.head(bucket, "key")
    with pytest.raises(NotFound), store.get(bucket, "key"):
        pass
    with pytest.raises(NotFound):
        store.delete(bucket, "key")
    with pytest.raises(NotFound):
        store.copy(bucket, ObjectInfo("key", 1, md5_of(b"1"), 0), (bucket, "copy"))
    with pytest.raises(NotFound):
        store.copy(bucket, there.info, ("no-such-bucket", "copy"))
    store.delete(bucket, "there")
    with pytest.raises(NotFound):
        store.post(bucket, there, {})


def test_the_account_counts_what_is_stored(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "a", b"x" * 1000)
    account = store.account()
    assert account.container_count >= 1
    assert account.object_count >= 0
    assert account.bytes_used >= 0
    assert account.quota_bytes is None


def test_the_limits_are_sensible(store: Store) -> None:
    limits = store.capabilities()
    assert limits.max_put_bytes >= 5 * 1024**3
    assert limits.listing_limit >= 1000
    assert limits.max_segments >= 1000
    assert limits.max_key_bytes >= 1024
    assert limits.static_large_objects


# -- objects --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 1_000_003])
def test_bytes_come_back_as_they_were_put(store: Store, bucket: str, size: int) -> None:
    data = random.Random(size).randbytes(size)
    put_bytes(store, bucket, "key", data)
    assert get_bytes(store, bucket, "key") == data


@pytest.mark.parametrize("key", ODD_KEYS)
def test_every_name_can_be_put_listed_read_copied_and_deleted(
    store: Store, bucket: str, key: str
) -> None:
    put_bytes(store, bucket, key, b"content")
    assert store.head(bucket, key).info.key == key
    assert get_bytes(store, bucket, key) == b"content"
    assert [info.key for info in objects(store, bucket)] == [key]
    assert [info.key for info in objects(store, bucket, key[:2])] == [key]
    store.copy(bucket, store.head(bucket, key).info, (bucket, "copy of " + key))
    assert get_bytes(store, bucket, "copy of " + key) == b"content"
    store.post(bucket, store.head(bucket, key), {"a": "b"})
    assert store.head(bucket, key).metadata == {"a": "b"}
    store.delete(bucket, key)
    store.delete_many(bucket, ["copy of " + key])
    assert objects(store, bucket) == []


@pytest.mark.parametrize("key", [".", "..", "a/.", "a/./b", "a/../b", "../b", "./b", "a/.."])
def test_a_name_that_is_a_relative_path_never_means_another_object(
    store: Store, bucket: str, key: str
) -> None:
    put_bytes(store, bucket, "b", b"b")
    put_bytes(store, bucket, "a/b", b"a/b")
    try:
        put_bytes(store, bucket, key, b"odd")
    except BadName:
        for call in (store.head, store.delete):
            with pytest.raises(BadName):
                call(bucket, key)
        with pytest.raises(BadName), store.get(bucket, key):
            pass
    else:
        assert get_bytes(store, bucket, key) == b"odd"
        store.delete(bucket, key)
    assert get_bytes(store, bucket, "b") == b"b"
    assert get_bytes(store, bucket, "a/b") == b"a/b"
    assert [info.key for info in objects(store, bucket)] == ["a/b", "b"]


def test_a_name_may_have_as_many_bytes_as_the_store_says_and_no_more(
    store: Store, bucket: str
) -> None:
    longest = store.capabilities().max_key_bytes
    key = "ä" * (longest // 2)
    put_bytes(store, bucket, key, b"1")
    assert [info.key for info in objects(store, bucket)] == [key]
    with pytest.raises(BadName):
        put_bytes(store, bucket, "a" * (longest + 1), b"1")


def test_an_own_container_may_be_written_and_nothing_of_it_changes_by_asking(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "a")
    assert store.may_write(bucket)
    assert [info.key for page in store.listing(bucket) for info in page.objects] == ["a"]


def test_an_exclusive_put_replaces_nothing_where_the_server_can_tell(
    store: Store, bucket: str
) -> None:
    def put(data: bytes) -> None:
        store.put(
            bucket, "key", Bytes(data), md5=md5_of(data), content_type="text/plain", exclusive=True
        )

    put(b"first")
    if store.capabilities().conditional_put:
        with pytest.raises(Exists):
            put(b"second")
        assert get_bytes(store, bucket, "key") == b"first"
    else:
        put(b"second")
        assert get_bytes(store, bucket, "key") == b"second"


def test_put_head_get_and_listing_describe_the_same_version(store: Store, bucket: str) -> None:
    data = b"one version"
    put = put_bytes(store, bucket, "key", data, content_type="text/x-test")
    head = store.head(bucket, "key").info
    with store.get(bucket, "key", span=(0, 3)) as body:
        got = body.info
        assert list(body) == [b"one"]
    found = listed(store, bucket, "key")
    for info in (put, head, got, found):
        assert (info.key, info.size, info.etag) == ("key", len(data), md5_of(data))
        assert info.content_type == "text/x-test"
        assert info.kind is Kind.PLAIN
        assert abs(info.mtime_ns - time.time_ns()) < 60e9
        for other in (put, head, got, found):
            assert info.same_version(other)


def test_a_listing_cannot_tell_whether_an_object_of_no_bytes_is_empty(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "empty")
    info = listed(store, bucket, "empty")
    assert (info.size, info.etag, info.kind) == (0, MD5_OF_NOTHING, Kind.UNKNOWN)
    head = store.head(bucket, "empty").info
    assert (head.size, head.etag, head.kind) == (0, MD5_OF_NOTHING, Kind.PLAIN)
    assert head.same_version(info)


def test_directory_markers_are_known_from_the_listing(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "ours/", content_type=DIRECTORY_TYPE)
    put_bytes(store, bucket, "theirs", content_type="application/x-directory")
    put_bytes(store, bucket, "with-charset", content_type="application/directory; charset=utf-8")
    put_bytes(store, bucket, "file", b"1", content_type=DIRECTORY_TYPE)
    found = objects(store, bucket)
    assert [(info.key, info.is_marker) for info in found] == [
        ("file", False),
        ("ours/", True),
        ("theirs", True),
        ("with-charset", True),
    ]
    assert {info.kind for info in found} == {Kind.PLAIN}


def test_a_body_comes_in_whole_pieces(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "key", bytes(3 * PIECE_BYTES + 5))
    with store.get(bucket, "key", span=(7, 7 + 2 * PIECE_BYTES + 1)) as body:
        assert [len(piece) for piece in body] == [PIECE_BYTES, PIECE_BYTES, 1]


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 1), b"0"),
        ((9, 10), b"9"),
        ((0, 10), b"0123456789"),
        ((3, 7), b"3456"),
        ((5, 1000), b"56789"),
        ((0, 1000), b"0123456789"),
    ],
)
def test_a_span_is_half_open_and_ends_with_the_object(
    store: Store, bucket: str, span: tuple[int, int], expected: bytes
) -> None:
    put_bytes(store, bucket, "key", b"0123456789")
    with store.get(bucket, "key", span=span) as body:
        assert body.info.size == 10
        assert b"".join(body) == expected


def test_a_span_behind_the_end_is_stale(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "ten", b"0123456789")
    put_bytes(store, bucket, "none")
    for key, span in (("ten", (10, 11)), ("ten", (50, 60)), ("none", (0, 1))):
        with pytest.raises(Stale), store.get(bucket, key, span=span):
            pass


def test_a_pinned_version_is_stale_once_it_is_overwritten(store: Store, bucket: str) -> None:
    info = put_bytes(store, bucket, "key", b"old")
    assert get_bytes(store, bucket, "key", etag=info.etag) == b"old"
    assert get_bytes(store, bucket, "key", span=(1, 2), etag=info.etag) == b"l"
    newer = put_bytes(store, bucket, "key", b"new")
    with pytest.raises(Stale), store.get(bucket, "key", etag=info.etag):
        pass
    with pytest.raises(Stale), store.get(bucket, "key", span=(1, 2), etag=info.etag):
        pass
    assert get_bytes(store, bucket, "key", etag=newer.etag) == b"new"


def test_a_body_that_is_left_early_harms_no_other(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "big", bytes(4 * PIECE_BYTES))
    put_bytes(store, bucket, "small", b"small")
    for _ in range(3):
        with store.get(bucket, "big") as body:
            assert len(next(iter(body))) == PIECE_BYTES
        assert get_bytes(store, bucket, "small") == b"small"


def test_bytes_that_do_not_match_their_md5_are_refused_and_nothing_is_stored(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "key", b"before")
    with pytest.raises(Corrupt):
        store.put(bucket, "key", Bytes(b"after"), md5=md5_of(b"other"), content_type="text/plain")
    assert get_bytes(store, bucket, "key") == b"before"


def test_put_replaces_content_and_metadata(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "key", b"old", content_type="text/old", metadata={"a": "1", "b": "2"})
    put_bytes(store, bucket, "key", b"new!", content_type="text/new", metadata={"c": "3"})
    head = store.head(bucket, "key")
    assert (head.info.size, head.info.content_type) == (4, "text/new")
    assert head.metadata == {"c": "3"}


def test_metadata_names_are_in_lower_case_and_values_as_given(store: Store, bucket: str) -> None:
    given = {"Mtime": "1234567890.123456789", "with-dash": "a b  c", "unicode": "ä € 😀"}
    put_bytes(store, bucket, "key", b"1", metadata=given)
    assert store.head(bucket, "key").metadata == {
        "mtime": "1234567890.123456789",
        "with-dash": "a b  c",
        "unicode": "ä € 😀",
    }


def test_metadata_keeps_what_a_header_may_hold(store: Store, bucket: str) -> None:
    given = {
        "a.b!#$&'*+^`|~": "1",
        "escaped%5fname": "2",
        "percent": "100%25 %zz %",
        "inside": "a  b c",
        "grave": "à",
        "quotes": "\"'\\,;=",
        "wide": "\xa0\u2028\x85",
        "empty": "",
    }
    put_bytes(store, bucket, "key", b"1", metadata=given)
    head = store.head(bucket, "key")
    assert head.metadata == given
    store.post(bucket, head, {**given, "more": "3"})
    assert store.head(bucket, "key").metadata == {**given, "more": "3"}


def test_a_control_character_in_metadata_comes_back_or_is_spelt_out(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "key", b"1", metadata={"tab": "a  ä\tb=c"})
    is_kept = store.capabilities().exact_pages
    expected = "a  ä\tb=c" if is_kept else "=?UTF-8?Q?a  =C3=A4=09b=3Dc?="
    head = store.head(bucket, "key")
    assert head.metadata == {"tab": expected}
    store.post(bucket, head, head.metadata)
    assert store.head(bucket, "key").metadata == {"tab": expected}


def test_an_object_may_have_as_much_metadata_as_the_server_says(store: Store, bucket: str) -> None:
    limits = store.capabilities()
    # Short names: the disk of the server has a limit, too.
    many = {f"{number:x}": "1" for number in range(limits.max_meta_items)}
    long = {"n" * limits.max_meta_name_bytes: "v" * limits.max_meta_value_bytes}
    for metadata in (many, long):
        put_bytes(store, bucket, "key", b"1", metadata=metadata)
        head = store.head(bucket, "key")
        assert head.metadata == metadata
        store.post(bucket, head, metadata)
        assert store.head(bucket, "key").metadata == metadata
        assert get_bytes(store, bucket, "key") == b"1"


def test_post_changes_the_named_metadata_of_a_container(store: Store, bucket: str) -> None:
    assert store.head_container(bucket).metadata == {}
    store.post_container(bucket, {"Mtime": "1.5", "mode": "700", "color": "ä"})
    store.post_container(bucket, {"mode": "", "uid": "5", "never-there": ""})
    found = {"mtime": "1.5", "color": "ä", "uid": "5"}
    assert store.head_container(bucket).metadata == found
    put_bytes(store, bucket, "key", b"1")
    assert store.head_container(bucket).metadata == found
    (listed,) = [each for each in store.containers() if each.name == bucket]
    assert listed.metadata is None
    with pytest.raises(NotFound):
        store.post_container(bucket + "-missing", {"mode": "700"})


def test_a_removed_container_leaves_no_metadata(store: Store, bucket: str) -> None:
    store.post_container(bucket, {"mode": "700"})
    store.delete_container(bucket)
    store.create_container(bucket)
    assert store.head_container(bucket).metadata == {}


def test_post_replaces_the_metadata_and_keeps_all_else(store: Store, bucket: str) -> None:
    kept = {"content-disposition": 'attachment; filename="a.txt"', "content-encoding": "x-none"}
    put_bytes(
        store,
        bucket,
        "key",
        b"content",
        content_type="text/x-test",
        metadata={"old": "1"},
        headers={**kept, "x-delete-at": "4000000000"},
    )
    before = store.head(bucket, "key")
    assert before.headers == {**kept, "x-delete-at": "4000000000"}
    posted = store.post(bucket, before, {"new": "2"})
    after = store.head(bucket, "key")
    assert after.metadata == {"new": "2"}
    assert after.headers == before.headers
    assert after.info.content_type == "text/x-test"
    assert get_bytes(store, bucket, "key", etag=before.info.etag) == b"content"
    for info in (after.info, listed(store, bucket, "key")):
        assert info.same_version(posted)


def test_copy_may_give_another_content_type(store: Store, bucket: str) -> None:
    source = put_bytes(
        store, bucket, "from", b"content", content_type="text/x-old", metadata={"a": "1"}
    )
    copied = store.copy(bucket, source, (bucket, "to"), content_type="text/x-new")
    head = store.head(bucket, "to")
    assert (head.info.content_type, head.metadata) == ("text/x-new", {"a": "1"})
    assert copied.content_type == listed(store, bucket, "to").content_type == "text/x-new"
    assert store.head(bucket, "from").info.content_type == "text/x-old"


def test_get_tells_the_metadata_as_head_does(store: Store, bucket: str) -> None:
    put_bytes(store, bucket, "key", b"content", metadata={"Mtime": "1.5", "colour": "ä"})
    for span in (None, (2, 4)):
        with store.get(bucket, "key", span=span) as body:
            assert body.metadata == store.head(bucket, "key").metadata
            assert body.info.same_version(store.head(bucket, "key").info)
            assert b"".join(body)


def test_a_copy_of_another_version_of_the_same_bytes_has_no_etag(store: Store, bucket: str) -> None:
    old = put_bytes(store, bucket, "from", b"content")
    time.sleep(2.1)
    new = put_bytes(store, bucket, "from", b"content")
    assert store.copy(bucket, old, (bucket, "to")).etag == ""
    assert store.copy(bucket, new, (bucket, "to")).etag == new.etag
    listing = listed(store, bucket, "from")
    assert store.copy(bucket, listing, (bucket, "to")).etag == new.etag
    assert store.copy(bucket, replace(old, mtime_ns=0), (bucket, "to")).etag == new.etag


def test_copy_keeps_content_type_and_metadata(store: Store, bucket: str) -> None:
    source = put_bytes(
        store,
        bucket,
        "from",
        b"content",
        content_type="text/x-test",
        metadata={"mtime": "1.5"},
        headers={"content-disposition": "attachment"},
    )
    store.create_container(bucket + "-other")
    for target in ((bucket, "to"), (bucket + "-other", "from")):
        copied = store.copy(bucket, source, target)
        head = store.head(*target)
        assert head.metadata == {"mtime": "1.5"}
        assert head.headers == {"content-disposition": "attachment"}
        assert head.info.content_type == "text/x-test"
        assert copied.key == target[1]
        assert copied.content_type == "text/x-test"
        assert copied.same_version(head.info)
        assert copied.same_version(listed(store, *target))
        assert get_bytes(store, *target) == b"content"
    assert get_bytes(store, bucket, "from") == b"content"


def test_copy_replaces_what_was_there(store: Store, bucket: str) -> None:
    source = put_bytes(store, bucket, "from", b"new")
    put_bytes(store, bucket, "to", b"older", metadata={"old": "1"})
    store.copy(bucket, source, (bucket, "to"))
    assert get_bytes(store, bucket, "to") == b"new"
    assert store.head(bucket, "to").metadata == {}


def test_a_copy_of_nothing_is_empty(store: Store, bucket: str) -> None:
    source = put_bytes(store, bucket, "from")
    copied = store.copy(bucket, source, (bucket, "to"))
    assert (copied.size, copied.etag) == (0, MD5_OF_NOTHING)
    assert get_bytes(store, bucket, "to") == b""


# -- listings -------------------------------------------------------------------------------------


def test_a_listing_is_complete_and_in_the_order_of_the_bytes(store: Store, bucket: str) -> None:
    keys = ODD_KEYS + [f"many/{n:03d}" for n in range(40)] + ["Z", "z", "\u007f", "é", "\uffff"]
    for key in keys:
        put_bytes(store, bucket, key, b"1")
    assert [info.key for info in objects(store, bucket)] == sorted(keys, key=str.encode)


def test_a_listing_may_begin_after_any_name(store: Store, bucket: str) -> None:
    keys = sorted(["a", "a b", "a/b", "b", "ä", "😀"], key=str.encode)
    for key in keys:
        put_bytes(store, bucket, key, b"1")
    for number, key in enumerate(keys):
        pages = store.listing(bucket, marker=key)
        assert [info.key for page in pages for info in page.objects] == keys[number + 1 :]


def test_a_prefix_is_any_beginning_of_a_name(store: Store, bucket: str) -> None:
    for key in ("ab", "abc", "abc/d", "b", "a b", "a%b"):
        put_bytes(store, bucket, key, b"1")
    assert [info.key for info in objects(store, bucket, "ab")] == ["ab", "abc", "abc/d"]
    assert [info.key for info in objects(store, bucket, "a%")] == ["a%b"]
    assert objects(store, bucket, "x") == []


def test_a_delimiter_cuts_names_to_prefixes(store: Store, bucket: str) -> None:
    for key in ("a", "a/", "a/1", "a/2/3", "b/x/y", "b c/1", "d//e", "é/1"):
        put_bytes(store, bucket, key, b"1")

    def level(prefix: str) -> tuple[list[str], list[str]]:
        pages = list(store.listing(bucket, prefix=prefix, delimiter="/"))
        found = [info.key for page in pages for info in page.objects]
        return found, [subdir for page in pages for subdir in page.subdirs]

    assert level("") == (["a"], ["a/", "b c/", "b/", "d/", "é/"])
    assert level("a/") == (["a/", "a/1"], ["a/2/"])
    assert level("b/") == ([], ["b/x/"])
    assert level("d/") == ([], ["d//"])
    assert level("nothing/") == ([], [])


def test_a_listing_by_directories_may_begin_after_any_object(store: Store, bucket: str) -> None:
    for key in ("d/", "d/a", "d/b", "d/b/x", "d/c/y", "d/e", "d/é", "e/a"):
        put_bytes(store, bucket, key, b"1")

    def after(marker: str) -> list[str]:
        pages = list(store.listing(bucket, prefix="d/", delimiter="/", marker=marker))
        found = [info.key for page in pages for info in page.objects]
        return sorted(found + [subdir for page in pages for subdir in page.subdirs])

    names = sorted(["d/", "d/a", "d/b", "d/b/", "d/c/", "d/e", "d/é"])
    assert after("") == names
    for name in ("d/", "d/a", "d/b", "d/e", "d/é"):
        assert after(name) == names[names.index(name) + 1 :]


def test_no_page_of_a_listing_is_empty_and_markers_go_on(store: Store, bucket: str) -> None:
    for number in range(12):
        put_bytes(store, bucket, f"{number:02d}/x", b"1")
        put_bytes(store, bucket, f"{number:02d}", b"1")
    pages = list(store.listing(bucket, delimiter="/"))
    assert all(len(page) for page in pages)
    markers = [page.marker.encode() for page in pages]
    assert markers == sorted(set(markers))


# -- deleting -------------------------------------------------------------------------------------


def test_delete_many_deletes_what_is_there_and_passes_over_what_is_not(
    store: Store, bucket: str
) -> None:
    for key in [*ODD_KEYS, "kept"]:
        put_bytes(store, bucket, key, b"1")
    store.delete_many(bucket, [*ODD_KEYS, "missing", "also/missing"])
    assert [info.key for info in objects(store, bucket)] == ["kept"]
    store.delete_many(bucket, [])
    store.delete_many(bucket, ["missing"])
    store.delete_many("no-such-bucket", ["missing"])


# -- large objects --------------------------------------------------------------------------------


def test_a_static_large_object_reads_as_its_segments_in_order(store: Store, bucket: str) -> None:
    parts, content = segments(store, 3, bucket + "_segments")
    put = store.put_slo(bucket, "big", parts, content_type="text/x-test", metadata={"mtime": "1.5"})
    head = store.head(bucket, "big")
    assert (put.size, put.kind, put.key) == (3 * SEGMENT, Kind.SLO, "big")
    assert put.same_version(head.info)
    assert put.etag == head.info.etag
    assert (head.info.kind, head.metadata) == (Kind.SLO, {"mtime": "1.5"})
    assert head.info.content_type == "text/x-test"
    assert get_bytes(store, bucket, "big") == content
    with store.get(bucket, "big", span=(SEGMENT - 2, SEGMENT + 2)) as body:
        assert body.info.same_version(head.info)
        assert b"".join(body) == b"AABB"


def test_a_dynamic_large_object_reads_as_what_is_under_its_prefix(
    store: Store, bucket: str
) -> None:
    _, content = segments(store, 3, bucket + "_segments")
    manifest = f"{bucket}_segments/obj/1/"
    put = store.put_dlo(
        bucket, "big", manifest, content_type="text/x-test", metadata={"mtime": "1.5"}
    )
    head = store.head(bucket, "big")
    assert (put.size, put.kind, put.key) == (3 * SEGMENT, Kind.DLO, "big")
    assert put.same_version(head.info)
    assert put.etag == head.info.etag
    assert (head.manifest, head.metadata) == (manifest, {"mtime": "1.5"})
    assert get_bytes(store, bucket, "big") == content
    with store.get(bucket, "big", span=(2 * SEGMENT - 1, 2 * SEGMENT + 1)) as body:
        assert body.info.same_version(head.info)
        assert b"".join(body) == b"BC"


def test_a_manifest_may_have_any_name(store: Store, bucket: str) -> None:
    container = bucket + " ä_segments"
    store.create_container(container)
    put_bytes(store, container, "o d%20d?/ä/0", b"0")
    put_bytes(store, container, "o d%20d?/ä/1", b"1")
    store.put_dlo(bucket, "d y", f"{container}/o d%20d?/ä/", content_type="text/plain")
    head = store.head(bucket, "d y")
    assert head.manifest == f"{container}/o d%20d?/ä/"
    assert get_bytes(store, bucket, "d y") == b"01"
    found = large.segments_of(store, bucket, head.info)
    assert [part.key for part in found] == ["o d%20d?/ä/0", "o d%20d?/ä/1"]
    store.put_slo(bucket, "s y", found, content_type="text/plain")
    assert get_bytes(store, bucket, "s y") == b"01"


def test_the_listed_size_of_a_large_object_is_true_or_said_to_be_unknown(
    store: Store, bucket: str
) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    slo = store.put_slo(bucket, "static", parts, content_type="text/plain")
    manifest = f"{bucket}_segments/obj/1/"
    store.put_dlo(bucket, "dynamic", manifest, content_type="text/plain")
    found = listed(store, bucket, "static")
    if store.capabilities().slo_sizes_listed:
        assert (found.kind, found.size, found.etag) == (Kind.SLO, slo.size, slo.etag)
        assert found.same_version(slo)
    else:
        assert found.kind is Kind.UNKNOWN
    assert listed(store, bucket, "dynamic").kind is Kind.UNKNOWN


def test_the_segments_of_a_large_object_can_be_enumerated(store: Store, bucket: str) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    static = store.put_slo(bucket, "static", parts, content_type="text/plain")
    manifest = f"{bucket}_segments/obj/1/"
    dynamic = store.put_dlo(bucket, "dynamic", manifest, content_type="text/plain")
    plain = put_bytes(store, bucket, "plain", b"1")
    assert large.segments_of(store, bucket, dynamic) == parts
    assert large.segments_of(store, bucket, plain) == []
    if store.capabilities().slo_sizes_listed:
        assert large.segments_of(store, bucket, static) == parts
    else:
        with pytest.raises(NotSupported):
            large.segments_of(store, bucket, static)


def test_only_static_large_objects_have_a_list_of_segments(store: Store, bucket: str) -> None:
    segments(store, 1, bucket + "_segments")
    store.put_dlo(bucket, "dynamic", f"{bucket}_segments/obj/1/", content_type="text/plain")
    put_bytes(store, bucket, "plain", b"[]")
    for key in ("dynamic", "plain", "missing"):
        with pytest.raises((NotFound, NotSupported)):
            store.slo_segments(bucket, key)
    gone = ObjectInfo("missing", 3, md5_of(b"1"), 0, "text/plain", Kind.SLO)
    assert large.segments_of(store, bucket, gone) == []
    assert large.segments_of(store, bucket, replace(gone, kind=Kind.DLO)) == []


def test_deleting_a_manifest_leaves_its_segments(store: Store, bucket: str) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    store.put_slo(bucket, "static", parts, content_type="text/plain")
    store.put_dlo(bucket, "dynamic", f"{bucket}_segments/obj/1/", content_type="text/plain")
    store.delete(bucket, "static")
    store.delete(bucket, "dynamic")
    assert [info.key for info in objects(store, bucket + "_segments")] == [p.key for p in parts]


@pytest.mark.parametrize("kind", [Kind.SLO, Kind.DLO])
def test_a_copied_manifest_is_a_second_name_of_the_segments(
    store: Store, bucket: str, kind: Kind
) -> None:
    parts, content = segments(store, 2, bucket + "_segments")
    if kind is Kind.SLO:
        info = store.put_slo(bucket, "a", parts, content_type="text/x-test", metadata={"m": "1"})
    else:
        manifest = f"{bucket}_segments/obj/1/"
        info = store.put_dlo(bucket, "a", manifest, content_type="text/x-test", metadata={"m": "1"})
    copied = store.copy(bucket, info, (bucket, "b"), manifest=True)
    head = store.head(bucket, "b")
    assert (copied.kind, copied.size, copied.etag) == (kind, info.size, info.etag)
    assert copied.same_version(head.info)
    assert (head.info.kind, head.info.etag, head.metadata) == (kind, info.etag, {"m": "1"})
    store.delete(bucket, "a")
    assert get_bytes(store, bucket, "b") == content


@pytest.mark.parametrize("kind", [Kind.SLO, Kind.DLO])
def test_a_post_to_a_large_object_keeps_its_manifest(store: Store, bucket: str, kind: Kind) -> None:
    parts, content = segments(store, 2, bucket + "_segments")
    if kind is Kind.SLO:
        store.put_slo(bucket, "big", parts, content_type="text/x-test")
    else:
        store.put_dlo(bucket, "big", f"{bucket}_segments/obj/1/", content_type="text/x-test")
    store.post(bucket, store.head(bucket, "big"), {"mtime": "2"})
    head = store.head(bucket, "big")
    assert (head.info.kind, head.info.size) == (kind, len(content))
    assert (head.metadata, head.info.content_type) == ({"mtime": "2"}, "text/x-test")
    assert get_bytes(store, bucket, "big") == content


@pytest.mark.parametrize("kind", [Kind.SLO, Kind.DLO])
def test_deleting_a_large_object_deletes_its_segments(
    store: Store, bucket: str, kind: Kind
) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    put_bytes(store, bucket + "_segments", "obj/10/not-of-it", b"1")
    if kind is Kind.SLO:
        info = store.put_slo(bucket, "big", parts, content_type="text/plain")
    else:
        info = store.put_dlo(bucket, "big", f"{bucket}_segments/obj/1/", content_type="text/plain")
    large.delete(store, bucket, info)
    assert objects(store, bucket) == []
    assert [info.key for info in objects(store, bucket + "_segments")] == ["obj/10/not-of-it"]


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("kind", [Kind.SLO, Kind.DLO])
@pytest.mark.parametrize("first", [0, 1])
def test_segments_of_two_names_go_with_the_last_one(
    store: Store, bucket: str, kind: Kind, first: int
) -> None:
    parts, content = segments(store, 2, bucket + "_segments")
    names = ["ä, b;" + "x" * 500, "y" * 600]
    if kind is Kind.SLO:
        store.put_slo(bucket, names[0], parts, content_type="text/plain", metadata={"m": "1"})
    else:
        manifest = f"{bucket}_segments/obj/1/"
        store.put_dlo(bucket, names[0], manifest, content_type="text/plain", metadata={"m": "1"})
    info = store.head(bucket, names[0]).info
    after = large.share(store, bucket, info, (bucket, names[1]))
    store.copy(bucket, info, (bucket, names[1]), manifest=True)
    heads = [store.head(bucket, name) for name in names]
    for head in heads:
        assert marks.names(head.metadata) == {(bucket, name) for name in names}
    large.delete(store, bucket, heads[first].info)
    assert get_bytes(store, bucket, names[1 - first]) == content
    assert after.metadata == {"m": "1"}
    large.delete(store, bucket, heads[1 - first].info)
    assert objects(store, bucket) == objects(store, bucket + "_segments") == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("kind", [Kind.SLO, Kind.DLO])
def test_segments_of_a_name_whose_copy_was_never_made_go_with_it(
    store: Store, bucket: str, kind: Kind
) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    if kind is Kind.SLO:
        info = store.put_slo(bucket, "a", parts, content_type="text/plain")
    else:
        info = store.put_dlo(bucket, "a", f"{bucket}_segments/obj/1/", content_type="text/plain")
    large.share(store, bucket, info, (bucket, "b"))
    large.delete(store, bucket, info)
    assert objects(store, bucket) == objects(store, bucket + "_segments") == []


def test_a_static_large_object_can_be_deleted_with_segments_that_nobody_tells(
    store: Store, bucket: str
) -> None:
    parts, _ = segments(store, 2, bucket + "_segments")
    put_bytes(store, bucket + "_segments", "obj/10/not-of-it", b"1")
    store.put_slo(bucket, "ä big", parts, content_type="text/plain")
    store.delete_slo(bucket, "ä big")
    assert objects(store, bucket) == []
    assert [info.key for info in objects(store, bucket + "_segments")] == ["obj/10/not-of-it"]
    with pytest.raises(NotFound):
        store.delete_slo(bucket, "ä big")


def test_a_copied_manifest_takes_the_segments_along_after_the_first_is_replaced(
    store: Store, bucket: str
) -> None:
    parts, content = segments(store, 2, bucket + "_segments")
    store.put_slo(bucket, "big", parts, content_type="text/plain")
    info = store.head(bucket, "big").info
    store.copy(bucket, info, (bucket + "_segments", "aside/1"), manifest=True)
    put_bytes(store, bucket, "big", b"small")
    copied = store.head(bucket + "_segments", "aside/1").info
    assert (copied.kind, copied.size, copied.etag) == (Kind.SLO, info.size, info.etag)
    assert get_bytes(store, bucket + "_segments", "aside/1") == content
    store.delete_slo(bucket + "_segments", "aside/1")
    assert objects(store, bucket + "_segments") == []
    assert get_bytes(store, bucket, "big") == b"small"


def test_deleting_what_is_no_static_large_object_as_one_deletes_nothing(
    store: Store, bucket: str
) -> None:
    put_bytes(store, bucket, "plain", b"content")
    with pytest.raises(OSError, match="plain"):
        store.delete_slo(bucket, "plain")
    assert get_bytes(store, bucket, "plain") == b"content"


def test_a_planned_large_object_is_published_and_reads_back(store: Store, bucket: str) -> None:
    data = random.Random(1).randbytes(2 * SEGMENT + 10)
    layout = large.new_layout(store, bucket, "dir/ä big")
    store.create_container(layout.container)
    stored = []
    for start in range(0, len(data), SEGMENT):
        part = data[start : start + SEGMENT]
        info = put_bytes(store, layout.container, layout.key(start), part)
        stored.append(Segment(layout.container, info.key, info.size, info.etag))
    info = large.publish(
        store,
        bucket,
        "dir/ä big",
        layout,
        stored,
        choice="auto",
        content_type="text/plain",
        metadata={"m": "1"},
    )
    assert info.kind is not Kind.PLAIN
    assert info.size == len(data)
    assert get_bytes(store, bucket, "dir/ä big") == data
    assert large.segments_of(store, bucket, info) == stored
