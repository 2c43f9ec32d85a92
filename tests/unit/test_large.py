"""Large objects: how they are laid out, and what may go wrong when they are removed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs.config import GIB, MIB, TIB
from allasfs.errors import NotFound, Unavailable
from allasfs.store import large
from allasfs.store.api import Capabilities, Kind, ObjectInfo, Segment
from tests.fakes.memstore import OPENSTACK, RGW, MemStore, put_bytes


def store_with(capabilities: Capabilities = OPENSTACK) -> MemStore:
    store = MemStore(capabilities=capabilities)
    store.create_container("bucket")
    store.create_container("bucket_segments")
    return store


def slo(store: MemStore, key: str, count: int = 2) -> ObjectInfo:
    parts = []
    for number in range(count):
        info = put_bytes(store, "bucket_segments", f"{key}/x/{number}", b"%d" % number)
        parts.append(Segment("bucket_segments", info.key, info.size, info.etag))
    return store.put_slo("bucket", key, parts, content_type="a/b")


@given(st.integers(1, 20 * TIB), st.integers(1, 20 * GIB))
def test_segments_cover_the_object_within_the_limits_of_the_store(
    size: int, segment_size: int
) -> None:
    layout = large.plan(MemStore(), "bucket", "key", size, segment_size)
    # Computed, not listed: there may be thousands.
    count = -(-size // layout.segment_size)
    limits = OPENSTACK
    if size <= limits.max_segments * limits.max_put_bytes:
        assert count <= limits.max_segments
    assert layout.segment_size <= limits.max_put_bytes


@given(st.integers(1, 50 * MIB), st.integers(1, 10 * MIB))
def test_spans_of_segments_follow_each_other(size: int, segment_size: int) -> None:
    spans = large.plan(MemStore(), "bucket", "key", size, segment_size).spans()
    assert [start for start, _ in spans] == [0, *(stop for _, stop in spans[:-1])]
    assert spans[-1][1] == size
    assert all(stop > start for start, stop in spans)


def test_segments_are_never_smaller_than_is_worth_a_request() -> None:
    assert large.plan(MemStore(), "b", "k", 10 * MIB, 1).segment_size == large.SMALLEST_SEGMENT


def test_names_of_segments_sort_in_the_order_of_the_file_and_belong_to_one_upload() -> None:
    store = MemStore()
    first = large.plan(store, "bucket", "d/key", 5 * GIB, MIB)
    second = large.plan(store, "bucket", "d/key", 5 * GIB, MIB)
    keys = [first.key(number) for number in (0, 1, 9, 10, 99, 100, 999)]
    assert keys == sorted(keys)
    assert first.container == "bucket_segments"
    assert all(key.startswith("d/key/") for key in keys)
    assert first.prefix.endswith("/")
    assert first.prefix != second.prefix


@pytest.mark.parametrize(
    ("capabilities", "kind"),
    [
        (OPENSTACK, Kind.SLO),
        # Listings give no true size of a static one there.
        (RGW, Kind.DLO),
        (replace(OPENSTACK, static_large_objects=False), Kind.DLO),
    ],
)
def test_a_manifest_is_static_where_its_size_is_listed_and_dynamic_elsewhere(
    capabilities: Capabilities, kind: Kind
) -> None:
    store = store_with(capabilities)
    layout = large.plan(store, "bucket", "key", 2, MIB)
    info = put_bytes(store, layout.container, layout.key(0), b"12")
    parts = [Segment(layout.container, info.key, 2, info.etag)]
    published = large.publish(
        store, "bucket", "key", layout, parts, content_type="a/b", metadata={}
    )
    assert (published.kind, published.size) == (kind, 2)


def test_the_manifest_goes_before_its_segments() -> None:
    store = store_with()
    info = slo(store, "key")
    store.forget_calls()
    large.delete(store, "bucket", info)
    assert [call.method for call in store.calls()] == [
        "head",
        "slo_segments",
        "delete",
        "delete_many",
    ]
    assert store.keys("bucket_segments") == []


def test_segments_stay_when_the_manifest_could_not_be_removed() -> None:
    store = store_with()
    info = slo(store, "key")
    store.fail_next(Unavailable("bucket/key", "503"), "delete")
    with pytest.raises(Unavailable):
        large.delete(store, "bucket", info)
    assert len(store.keys("bucket_segments")) == 2
    assert store.head("bucket", "key").info.size == 2


def test_a_plain_object_is_deleted_by_one_request() -> None:
    store = store_with()
    info = put_bytes(store, "bucket", "key", b"1")
    store.forget_calls()
    large.delete(store, "bucket", info)
    assert store.counts() == {"delete": 1}


def test_a_dynamic_object_s_segments_are_those_below_its_prefix_only() -> None:
    store = store_with()
    for key in ("key/1/0", "key/1/1", "key/10/0", "key/1"):
        put_bytes(store, "bucket_segments", key, b"1")
    info = store.put_dlo("bucket", "key", "bucket_segments/key/1/", content_type="a/b")
    large.delete(store, "bucket", info)
    assert store.keys("bucket_segments") == ["key/1", "key/10/0"]


def test_a_prefix_without_its_slash_never_takes_other_objects_segments() -> None:
    # rclone and others write such manifests: "key/1" is also the beginning of "key/10/0".
    store = store_with()
    for key in ("key/1/0", "key/10/0"):
        put_bytes(store, "bucket_segments", key, b"1")
    info = store.put_dlo("bucket", "key", "bucket_segments/key/1", content_type="a/b")
    large.delete(store, "bucket", info)
    assert "key/10/0" in store.keys("bucket_segments")


def test_a_manifest_over_a_whole_container_never_empties_it() -> None:
    store = store_with()
    put_bytes(store, "bucket_segments", "other", b"1")
    info = store.put_dlo("bucket", "key", "bucket_segments/", content_type="a/b")
    large.delete(store, "bucket", info)
    assert store.keys("bucket_segments") == ["other"]


def test_a_manifest_whose_segments_container_is_gone_can_be_deleted() -> None:
    store = store_with()
    info = store.put_dlo("bucket", "key", "missing/key/", content_type="a/b")
    large.delete(store, "bucket", info)
    with pytest.raises(NotFound):
        store.head("bucket", "key")


def test_a_static_object_that_was_overwritten_meanwhile_gives_up_nothing_of_the_new_one() -> None:
    store = store_with()
    old = slo(store, "key")
    put_bytes(store, "bucket", "key", b"plain now")
    assert large.segments_of(store, "bucket", old) == []
