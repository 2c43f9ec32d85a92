"""Large objects: how they are laid out, and what may go wrong when they are removed."""

from __future__ import annotations

from collections.abc import Callable
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


TB = 1000**4
BASES = [MIB << n for n in range(13)] + [5 * GIB, 3 * MIB, 100_000_000, 5_000_000_000]


@pytest.mark.parametrize("first", BASES)
def test_five_terabytes_fit_into_the_segments_that_a_server_allows(first: int) -> None:
    sizes = large.sizes(OPENSTACK, first, room=16 * GIB)
    assert sizes.first == first
    assert sizes.largest == OPENSTACK.max_put_bytes
    assert sizes.total(0, OPENSTACK.max_segments) >= 5 * TB


@given(st.integers(1, 5 * GIB), st.integers(1, 100 * GIB))
def test_segments_grow_from_what_was_asked_for_to_what_is_allowed(first: int, room: int) -> None:
    sizes = large.sizes(OPENSTACK, first, room=room)
    steps = [sizes.of(number) for number in range(1000)]
    assert steps == sorted(steps)
    assert steps[0] == min(max(first, large.SMALLEST_SEGMENT), sizes.largest)
    assert steps[-1] <= sizes.largest <= OPENSTACK.max_put_bytes
    # They double after 24 of the first size, then after three to twelve of each.
    if sizes.first < sizes.largest:
        assert steps.count(sizes.first) == 24
    doubled = [size for size in set(steps) if sizes.first < size < sizes.largest]
    assert all(3 <= steps.count(size) <= 12 for size in doubled)


@pytest.mark.parametrize(
    ("room", "largest"),
    [(256 * MIB, 64 * MIB), (12 * MIB, 3 * MIB), (8 * GIB, 2 * GIB), (15 * GIB, 5 * GIB)],
)
def test_no_segment_takes_more_than_a_quarter_of_the_spool_or_three_fit(
    room: int, largest: int
) -> None:
    assert large.sizes(OPENSTACK, GIB, room=room).largest == largest


def test_segments_are_never_smaller_than_is_worth_a_request() -> None:
    assert large.sizes(OPENSTACK, 1, room=GIB).first == large.SMALLEST_SEGMENT


def test_an_object_with_the_longest_name_has_segments_with_names() -> None:
    layout = large.new_layout(MemStore(), "bucket", "k" * OPENSTACK.max_key_bytes)
    assert len(layout.key(10**15, 99)) <= OPENSTACK.max_key_bytes


def test_names_of_segments_sort_in_the_order_of_the_file_and_belong_to_one_upload() -> None:
    store = MemStore()
    first = large.new_layout(store, "bucket", "d/key")
    second = large.new_layout(store, "bucket", "d/key")
    starts = [0, 1, 9, 10, 99, 100, 999, 5 * TIB]
    keys = [first.key(start, attempt) for start in starts for attempt in (0, 1, 2)]
    assert keys == sorted(keys)
    assert first.container == "bucket_segments"
    assert all(key.startswith("d/key/") for key in keys)
    assert first.prefix.endswith("/")
    assert first.prefix != second.prefix


@pytest.mark.parametrize(
    ("capabilities", "choice", "kind"),
    [
        (OPENSTACK, "auto", Kind.SLO),
        # Listings give no true size of a static one there.
        (RGW, "auto", Kind.DLO),
        (replace(OPENSTACK, static_large_objects=False), "auto", Kind.DLO),
        (OPENSTACK, "dlo", Kind.DLO),
        (RGW, "slo", Kind.SLO),
        (replace(OPENSTACK, static_large_objects=False), "slo", Kind.DLO),
    ],
)
def test_a_manifest_is_static_where_its_size_is_listed_and_dynamic_elsewhere(
    capabilities: Capabilities, choice: str, kind: Kind
) -> None:
    store = store_with(capabilities)
    layout = large.new_layout(store, "bucket", "key")
    info = put_bytes(store, layout.container, layout.key(0), b"12")
    parts = [Segment(layout.container, info.key, 2, info.etag)]
    published = large.publish(
        store,
        "bucket",
        "key",
        layout,
        parts,
        choice=choice,
        content_type="a/b",
        metadata={},
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


def test_segments_stay_when_the_manifest_could_not_be_removed_and_the_log_tells(
    expected_logs: Callable[[str], None],
) -> None:
    expected_logs("segments of bucket/key may be left over")
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
