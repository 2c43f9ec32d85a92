"""The tree of names over a store in memory: what it answers, how old it gets, what it asks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from allasfs.deadline import within
from allasfs.errors import NotFound, TimedOut, Unavailable
from allasfs.store.api import DIRECTORY_TYPE, Capabilities, Page
from allasfs.transfer import listings as listings_module
from allasfs.transfer.directories import Found
from allasfs.transfer.listings import Listings
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, put_bytes

TTL_S = 45.0


@pytest.fixture
def store(clock: FakeClock) -> MemStore:
    store = MemStore(clock_ns=clock.ns)
    store.create_container("bucket")
    return store


@pytest.fixture
def listings(store: MemStore, clock: FakeClock) -> Listings:
    return Listings(store, ttl_s=TTL_S, clock=clock)


def paged(clock: FakeClock, kind: Capabilities, limit: int) -> tuple[MemStore, Listings]:
    """Return a store that lists so many names at once, with its listings."""
    store = MemStore(clock_ns=clock.ns, capabilities=replace(kind, listing_limit=limit))
    store.create_container("bucket")
    return store, Listings(store, ttl_s=TTL_S, clock=clock)


def names(listings: Listings, prefix: str = "", bucket: str = "bucket") -> list[str]:
    """Return the entries of a directory, directories with a slash."""
    files, dirs = listings.entries(bucket, prefix)
    return sorted([*files] + [f"{name}/" for name in dirs])


def is_file(found: Found) -> bool:
    return found.file is not None and not found.is_dir


# -- answers --------------------------------------------------------------------------------------


def test_directories_are_what_names_have_in_common(store: MemStore, listings: Listings) -> None:
    for key in ("a", "d/b", "d/e/c", "f g/ä"):
        put_bytes(store, "bucket", key, b"1")
    assert names(listings) == ["a", "d/", "f g/"]
    assert names(listings, "d/") == ["b", "e/"]
    assert names(listings, "d/e/") == ["c"]
    assert is_file(listings.find("bucket", "d/e/c"))
    assert listings.find("bucket", "d/e").is_dir
    assert listings.find("bucket", "").is_dir
    assert listings.find("bucket", "d/x") == Found()
    assert listings.find("bucket", "a/b") == Found()


def test_a_found_file_is_the_listed_version(store: MemStore, listings: Listings) -> None:
    put = put_bytes(store, "bucket", "d/a", b"123", content_type="text/x")
    found = listings.find("bucket", "d/a").file
    assert found is not None
    assert found.same_version(put)
    assert found.content_type == "text/x"


@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW])
def test_a_directory_of_many_short_pages_is_complete(
    clock: FakeClock, capabilities: object
) -> None:
    store = MemStore(
        clock_ns=clock.ns,
        capabilities=replace(OPENSTACK if capabilities is OPENSTACK else RGW, listing_limit=7),
    )
    store.create_container("bucket")
    for number in range(100):
        put_bytes(store, "bucket", f"d{number % 5}/{number:03d}", b"1")
    listings = Listings(store, ttl_s=TTL_S, clock=clock)
    assert names(listings) == [f"d{n}/" for n in range(5)]
    for number in range(5):
        assert names(listings, f"d{number}/") == [f"{n:03d}" for n in range(number, 100, 5)]


def test_a_listing_that_fails_midway_is_no_answer(clock: FakeClock) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=replace(OPENSTACK, listing_limit=5))
    store.create_container("bucket")
    for number in range(12):
        put_bytes(store, "bucket", f"{number:02d}", b"1")
    listings = Listings(store, ttl_s=TTL_S, clock=clock)
    pages = iter([False, True])

    def fail(call: Call) -> None:
        if call.method == "listing" and next(pages, False):
            raise Unavailable("bucket", "503")

    store.before = fail
    with pytest.raises(Unavailable):
        listings.entries("bucket", "")
    assert len(names(listings)) == 12


# -- requests -------------------------------------------------------------------------------------


def test_one_request_answers_for_a_whole_subtree(store: MemStore, listings: Listings) -> None:
    for number in range(1000):
        put_bytes(store, "bucket", f"d{number % 20}/e{number % 10}/{number}", b"1")
    store.forget_calls()
    count = 0
    for directory in names(listings):
        for below in names(listings, directory):
            count += len(names(listings, directory + below))
            listings.find("bucket", f"{directory}{below}missing")
    assert count == 1000
    assert store.counts() == {"listing": 1}


def test_a_bucket_that_is_known_to_be_large_is_listed_by_directory(
    store: MemStore, listings: Listings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 10)
    for number in range(30):
        put_bytes(store, "bucket", f"d{number % 6}/{number:02d}", b"1")
    put_bytes(store, "bucket", "top", b"1")
    assert listings.bucket("bucket") is not None
    store.forget_calls()
    assert names(listings) == [*(f"d{n}/" for n in range(6)), "top"]
    assert names(listings, "d0/") == ["00", "06", "12", "18", "24"]
    assert store.counts() == {"listing": 2}


def test_a_bucket_that_proved_large_is_listed_by_directory_from_then_on(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 10)
    # Its listing of the account tells no figures.
    store, listings = paged(clock, RGW, 8)
    for number in range(20):
        put_bytes(store, "bucket", f"d{number}/x", b"1")
    asked = []
    for _ in range(2):
        store.forget_calls()
        assert len(listings.entries("bucket", "")[1]) == 20
        asked.append(len(store.calls("listing")))
        clock.advance(TTL_S + 1)
    # Two pages less: those that showed how large it is.
    assert asked[1] == asked[0] - 2


def test_a_subtree_that_turns_out_to_be_large_is_listed_by_directory(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 10)
    store, listings = paged(clock, OPENSTACK, 10)
    for number in range(60):
        put_bytes(store, "bucket", f"d{number % 6}/{number:02d}", b"1")
    assert names(listings) == [f"d{n}/" for n in range(6)]
    # Two pages to see that it is large, one of prefixes.
    assert store.counts() == {"create_container": 1, "put": 60, "listing": 3}
    assert len(names(listings, "d3/")) == 10


def test_no_page_of_a_large_directory_without_others_in_it_is_asked_for_twice(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 10)
    store, listings = paged(clock, OPENSTACK, 10)
    put_bytes(store, "bucket", "d/", b"", content_type=DIRECTORY_TYPE)
    for number in range(35):
        put_bytes(store, "bucket", f"d/{number:02d}", b"1")
    put_bytes(store, "bucket", "d/z/below", b"1")
    store.forget_calls()
    assert names(listings, "d/") == [*(f"{number:02d}" for number in range(35)), "z/"]
    assert store.counts() == {"listing": 4}


@pytest.mark.parametrize("what", ["names", "directories", "both"])
def test_sixteen_threads_cause_one_request(store: MemStore, listings: Listings, what: str) -> None:
    put_bytes(store, "bucket", "d/a", b"1")
    if what == "both":
        # It is known to be small.
        listings.buckets()
    barrier = threading.Barrier(16)
    store.forget_calls()

    def look(number: int) -> bool:
        barrier.wait()
        if what == "names" or (what == "both" and number % 2):
            return listings.find("bucket", "d").is_dir
        return names(listings) == ["d/"]

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(look, range(16)))
    assert store.counts() == {"listing": 1}


def test_sixteen_threads_cause_one_listing_of_the_account(
    store: MemStore, listings: Listings
) -> None:
    barrier = threading.Barrier(16)
    store.forget_calls()

    def look(number: int) -> bool:
        barrier.wait()
        return "bucket" in listings.buckets()

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(look, range(16)))
    assert store.counts() == {"containers": 1}


def test_who_waits_for_another_s_listing_waits_no_longer_than_the_own_deadline(
    store: MemStore, listings: Listings
) -> None:
    asked, gate = threading.Event(), threading.Event()

    def hold(call: Call) -> None:
        asked.set()
        assert gate.wait(60)

    store.before = hold
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(names, listings)
        assert asked.wait(30)

        def impatient() -> None:
            with within(0.0):
                names(listings)

        waiting = threads.submit(impatient)
        try:
            with pytest.raises(TimedOut):
                waiting.result(timeout=3)
        finally:
            gate.set()
        assert slow.result(timeout=30) == []


# -- age ------------------------------------------------------------------------------------------


def test_a_fresh_listing_answers_also_for_what_is_not_there(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "d/a", b"1")
    names(listings)
    store.forget_calls()
    clock.advance(TTL_S - 1)
    for key in ("x", "d/x", "x/y/z", "d/a/b", "a"):
        assert listings.find("bucket", key) == Found()
    assert store.counts() == {}


def test_another_client_s_changes_appear_after_the_ttl(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "d/changed", b"1")
    put_bytes(store, "bucket", "d/removed", b"1")
    assert names(listings, "d/") == ["changed", "removed"]
    clock.advance(1)
    put_bytes(store, "bucket", "d/changed", b"22")
    put_bytes(store, "bucket", "d/new", b"1")
    store.delete("bucket", "d/removed")
    clock.advance(TTL_S - 2)
    assert names(listings, "d/") == ["changed", "removed"]
    clock.advance(1)
    assert names(listings, "d/") == ["changed", "new"]
    found = listings.find("bucket", "d/changed").file
    assert found is not None
    assert found.size == 2


@pytest.mark.semantics("R5")
def test_a_large_directory_is_believed_longer(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "small/0", b"")
    for number in range(10_000):
        put_bytes(store, "bucket", f"large/{number}", b"")
    assert (len(names(listings, "large/")), len(names(listings, "small/"))) == (10_000, 1)
    store.forget_calls()
    clock.advance(TTL_S)
    assert len(names(listings, "large/")) == 10_000
    assert store.counts() == {}
    names(listings, "small/")
    assert store.counts() == {"listing": 1}
    clock.advance(TTL_S / 30 + 1)
    names(listings, "large/")
    # A full page, and the one that is empty.
    assert store.counts() == {"listing": 3}


def test_a_listing_s_age_counts_from_its_request_not_from_its_answer(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    # The answer is 30 s under way, and another client stores an object meanwhile.
    def slow(call: Call) -> None:
        if call.method == "listing":
            store.after = lambda call: None
            clock.advance(30)
            put_bytes(store, "bucket", "new", b"1")

    store.after = slow
    assert names(listings) == []
    clock.advance(TTL_S - 30)
    assert names(listings) == ["new"]


def test_the_account_s_age_counts_from_the_request_as_well(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    def slow(call: Call) -> None:
        if call.method == "containers":
            store.after = lambda call: None
            clock.advance(30)
            store.create_container("new")

    store.after = slow
    assert sorted(listings.buckets()) == ["bucket"]
    clock.advance(TTL_S - 30)
    assert sorted(listings.buckets()) == ["bucket", "new"]


def test_an_outdated_version_is_looked_up_again(store: MemStore, listings: Listings) -> None:
    put_bytes(store, "bucket", "d/a", b"1")
    names(listings, "d/")
    put_bytes(store, "bucket", "d/a", b"22")
    listings.outdated("bucket", "d/a")
    found = listings.find("bucket", "d/a").file
    assert found is not None
    assert found.size == 2


# -- own changes ----------------------------------------------------------------------------------


def test_own_changes_are_seen_at_once_and_nothing_is_listed_again(
    store: MemStore, listings: Listings
) -> None:
    removed = put_bytes(store, "bucket", "d/removed", b"1")
    assert names(listings, "d/") == ["removed"]
    listings.stored("bucket", put_bytes(store, "bucket", "d/new", b"1"))
    listings.stored("bucket", put_bytes(store, "bucket", "d/deep/er/new", b"1"))
    listings.stored("bucket", put_bytes(store, "bucket", "top", b"1"))
    store.delete("bucket", "d/removed")
    listings.removed("bucket", removed)
    store.forget_calls()
    assert names(listings, "d/") == ["deep/", "new"]
    assert names(listings, "d/deep/") == ["er/"]
    assert names(listings, "d/deep/er/") == ["new"]
    assert store.counts() == {}
    assert names(listings) == ["d/", "top"]


def test_a_listing_that_was_on_its_way_does_not_undo_an_own_change(
    store: MemStore, listings: Listings
) -> None:
    gone = put_bytes(store, "bucket", "gone", b"1")
    old = put_bytes(store, "bucket", "changed", b"1")
    assert old.size == 1

    def change(call: Call) -> None:
        if call.method == "listing":
            store.after = lambda call: None
            listings.stored("bucket", put_bytes(store, "bucket", "new", b"1"))
            listings.stored("bucket", put_bytes(store, "bucket", "changed", b"22"))
            store.delete("bucket", "gone")
            listings.removed("bucket", gone)

    store.after = change
    assert names(listings) == ["changed", "new"]
    found = listings.find("bucket", "changed").file
    assert found is not None
    assert found.size == 2


@pytest.mark.parametrize("last", ["stored", "removed"])
def test_a_listing_that_lags_shows_none_of_the_versions_before_the_last_own_change(
    store: MemStore, listings: Listings, clock: FakeClock, last: str
) -> None:
    versions = []
    for size in (1, 2, 3):
        info = put_bytes(store, "bucket", "a", b"x" * size)
        listings.stored("bucket", info)
        versions.append((info, store._containers["bucket"]["a"]))
        clock.advance(0.1)
    if last == "removed":
        store.delete("bucket", "a")
        listings.removed("bucket", versions[-1][0])
    # Swift's container server has heard of the first version only.
    for _, stored in versions[:-1]:
        store._containers["bucket"]["a"] = stored
        listings._dirs.clear()
        found = listings.find("bucket", "a").file
        assert (found.size if found else None) == (3 if last == "stored" else None)


@pytest.mark.parametrize("after_s", [0.2, 0.9, 1.5])
def test_another_client_s_version_in_the_same_second_is_not_hidden_by_an_own_one(
    store: MemStore, listings: Listings, clock: FakeClock, after_s: float
) -> None:
    listings.stored("bucket", put_bytes(store, "bucket", "a", b"own"))
    clock.advance(after_s)
    put_bytes(store, "bucket", "a", b"theirs")
    found = listings.find("bucket", "a").file
    assert found is not None
    assert found.size == len(b"theirs")


def test_another_client_s_newer_version_is_not_hidden_by_an_own_older_one(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    listings.stored("bucket", put_bytes(store, "bucket", "a", b"own"))
    clock.advance(10)
    put_bytes(store, "bucket", "a", b"theirs")
    found = listings.find("bucket", "a").file
    assert found is not None
    assert found.size == len(b"theirs")


def test_another_client_s_version_of_an_own_removed_name_is_shown(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    own = put_bytes(store, "bucket", "a", b"own")
    store.delete("bucket", "a")
    listings.removed("bucket", own)
    clock.advance(10)
    put_bytes(store, "bucket", "a", b"theirs")
    assert names(listings) == ["a"]


@pytest.mark.parametrize("capabilities", ["openstack", "rgw"])
def test_a_removed_large_object_is_gone_from_the_listing(
    clock: FakeClock, capabilities: str
) -> None:
    store = MemStore(
        clock_ns=clock.ns, capabilities=OPENSTACK if capabilities == "openstack" else RGW
    )
    store.create_container("bucket")
    put_bytes(store, "bucket", "parts/0", bytes(100))
    store.put_dlo("bucket", "large", "bucket/parts/", content_type="a/b")
    listings = Listings(store, ttl_s=TTL_S, clock=clock)
    assert names(listings) == ["large", "parts/"]
    # What is removed is known as HEAD told it, not as the listing did.
    info = store.head("bucket", "large").info
    store.delete("bucket", "large")
    listings.removed("bucket", info)
    assert names(listings) == ["parts/"]


def test_an_own_bucket_is_there_at_once_and_empty(store: MemStore, listings: Listings) -> None:
    assert listings.bucket("new") is None
    store.create_container("new")
    listings.bucket_created("new")
    store.forget_calls()
    assert listings.bucket("new") is not None
    assert names(listings, bucket="new") == []
    assert store.counts() == {}


def test_an_own_removed_bucket_is_gone_at_once(store: MemStore, listings: Listings) -> None:
    assert listings.bucket("bucket") is not None
    store.delete_container("bucket")
    listings.bucket_removed("bucket")
    store.forget_calls()
    assert listings.bucket("bucket") is None
    assert listings.buckets() == {}
    assert store.counts() == {}


def test_a_bucket_that_is_made_again_has_nothing_of_the_old_one(
    store: MemStore, listings: Listings
) -> None:
    info = put_bytes(store, "bucket", "a", b"1")
    listings.stored("bucket", info)
    names(listings)
    store.delete("bucket", "a")
    store.delete_container("bucket")
    listings.bucket_removed("bucket")
    store.create_container("bucket")
    listings.bucket_created("bucket")
    assert names(listings) == []


# -- buckets --------------------------------------------------------------------------------------


def test_a_shared_bucket_is_found_by_its_name_with_one_request(
    store: MemStore, listings: Listings, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create_container("shared")
    monkeypatch.setattr(store, "containers", list)
    store.forget_calls()
    assert "shared" not in listings.buckets()
    for _ in range(3):
        assert listings.bucket("shared") is not None
    assert store.counts() == {"head_container": 1}


def test_a_missing_bucket_is_asked_for_once_per_ttl(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    for _ in range(3):
        assert listings.bucket("missing") is None
    assert store.counts()["head_container"] == 1
    clock.advance(TTL_S)
    assert listings.bucket("missing") is None
    assert store.counts()["head_container"] == 2


def test_a_failure_to_look_is_not_taken_for_absence(store: MemStore, listings: Listings) -> None:
    store.create_container("shared")
    listings.buckets()
    store.fail_next(Unavailable("shared", "503"), "head_container")
    with pytest.raises(Unavailable):
        listings.bucket("shared-elsewhere")
    store.fail_next(Unavailable("bucket", "503"), "listing")
    with pytest.raises(Unavailable):
        listings.find("bucket", "a")
    assert listings.find("bucket", "a") == Found()


def test_a_bucket_that_vanished_is_not_found(store: MemStore, listings: Listings) -> None:
    assert listings.bucket("bucket") is not None
    store.delete_container("bucket")
    with pytest.raises(NotFound):
        listings.find("bucket", "a")


# -- markers --------------------------------------------------------------------------------------


@pytest.mark.semantics("N4")
@pytest.mark.parametrize("key", ["d/", "d"])
@pytest.mark.parametrize("content_type", [DIRECTORY_TYPE, "application/x-directory"])
def test_a_marker_of_either_convention_is_an_empty_directory(
    store: MemStore, listings: Listings, key: str, content_type: str
) -> None:
    put_bytes(store, "bucket", key, content_type=content_type)
    assert names(listings) == ["d/"]
    assert listings.find("bucket", "d").is_dir
    assert names(listings, "d/") == []
    assert listings.is_empty("bucket", "d/")
    assert [marker.key for marker in listings.markers("bucket", "d/")] == [key]


def test_a_directory_may_have_both_markers_and_entries(store: MemStore, listings: Listings) -> None:
    put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d/a", b"1")
    assert names(listings) == ["d/"]
    assert names(listings, "d/") == ["a"]
    assert not listings.is_empty("bucket", "d/")
    assert [marker.key for marker in listings.markers("bucket", "d/")] == ["d/", "d"]


def test_markers_are_known_in_large_buckets_too(
    store: MemStore, listings: Listings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 1)
    put_bytes(store, "bucket", "ours/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "theirs", content_type="application/x-directory")
    put_bytes(store, "bucket", "full/a", b"1")
    listings.buckets()
    assert names(listings) == ["full/", "ours/", "theirs/"]
    for directory in ("ours/", "theirs/"):
        assert names(listings, directory) == []
        assert len(listings.markers("bucket", directory)) == 1


def test_a_removed_directory_is_gone_at_once(store: MemStore, listings: Listings) -> None:
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE)
    assert names(listings) == ["d/"]
    for marker in listings.markers("bucket", "d/"):
        store.delete("bucket", marker.key)
        listings.removed("bucket", marker)
    listings.directory_removed("bucket", "d/")
    store.forget_calls()
    assert listings.find("bucket", "d") == Found()
    assert names(listings) == []
    assert store.counts() == {}


def test_a_stored_marker_makes_a_directory_at_once(store: MemStore, listings: Listings) -> None:
    assert names(listings) == []
    marker = put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    listings.stored("bucket", marker)
    store.forget_calls()
    assert listings.find("bucket", "d").is_dir
    assert names(listings, "d/") == []
    assert [found.key for found in listings.markers("bucket", "d/")] == ["d/"]
    assert store.counts() == {}


# -- names that cannot be shown -------------------------------------------------------------------


def test_an_object_beside_a_directory_of_its_name_is_shown_under_another(
    store: MemStore, listings: Listings
) -> None:
    object_ = put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "a/b", b"1")
    assert names(listings) == ["a/", "a~object"]
    assert names(listings, "a/") == ["b"]
    assert listings.find("bucket", "a") == Found(is_dir=True)
    found = listings.find("bucket", "a~object").file
    assert found is not None
    assert found.key == "a"
    assert found.same_version(object_)


@pytest.mark.semantics("N6")
@pytest.mark.parametrize("there", ["a~object", "a~object/c"])
def test_an_object_whose_other_name_is_taken_is_not_shown_and_the_log_says_so(
    store: MemStore, listings: Listings, expected_logs: Callable[[str], None], there: str
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "a/b", b"1")
    put_bytes(store, "bucket", there, b"2")
    expected_logs("bucket/: 1 objects are not shown")
    shown = listings.find("bucket", "a~object")
    assert shown.is_dir == (there != "a~object")
    assert shown.file is None or shown.file.key == "a~object"


def test_changes_of_an_object_beside_a_directory_are_entered(
    store: MemStore, listings: Listings
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "a/b", b"1")
    names(listings)
    changed = put_bytes(store, "bucket", "a", b"changed")
    listings.stored("bucket", changed)
    assert listings.find("bucket", "a~object").file == changed
    listings.removed("bucket", changed)
    assert names(listings) == ["a/"]
    listings.stored("bucket", changed)
    listings.directory_removed("bucket", "a/")
    assert names(listings) == ["a"]
    assert listings.find("bucket", "a").file == changed


@pytest.mark.semantics("N7")
@pytest.mark.parametrize(
    "key",
    [
        "/lead",
        "a//b",
        "trail//",
        ".",
        "..",
        "./a",
        "a/../b",
        "a/./b",
        "x" * 256,
        "d/" + "ä" * 128,
        "nul\0",
    ],
)
@pytest.mark.parametrize("is_large", [False, True])
def test_what_cannot_be_a_file_name_is_counted_in_one_line_and_all_else_is_shown(
    store: MemStore,
    listings: Listings,
    expected_logs: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    is_large: bool,
) -> None:
    if is_large:
        monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 0)
    put_bytes(store, "bucket", key, b"1")
    put_bytes(store, "bucket", "shown", b"1")
    listings.buckets()
    expected_logs("not shown, because no file can have their names")
    found = names(listings)
    parent = key.split("/")[0]
    if len(parent) <= 255 and parent not in ("", ".", "..", key):
        names(listings, parent + "/")
        assert found == sorted([f"{parent}/", "shown"])
        assert not listings.is_empty("bucket", parent + "/")
    else:
        assert found == ["shown"]


def test_a_name_of_255_bytes_is_shown(store: MemStore, listings: Listings) -> None:
    put_bytes(store, "bucket", "ä" * 127 + "x", b"1")
    assert names(listings) == ["ä" * 127 + "x"]


def test_own_objects_make_their_way_although_a_file_has_a_directory_s_name(
    store: MemStore, listings: Listings
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    assert names(listings) == ["a"]
    listings.stored("bucket", put_bytes(store, "bucket", "a/b", b"1"))
    assert names(listings) == ["a/", "a~object"]
    assert names(listings, "a/") == ["b"]


def test_status_tells_how_much_is_known(store: MemStore, listings: Listings) -> None:
    for key in ("a", "d/b", "d/c"):
        put_bytes(store, "bucket", key, b"1")
    names(listings)
    status = listings.status()
    assert status["directories"] == 2
    assert status["names"] >= 4


def test_an_own_object_that_another_client_removed_at_once_is_gone_after_the_ttl(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    listings.stored("bucket", put_bytes(store, "bucket", "a", b"own"))
    listings.stored("bucket", put_bytes(store, "bucket", "d/", b"", content_type=DIRECTORY_TYPE))
    store.delete("bucket", "a")
    store.delete("bucket", "d/")
    assert listings.find("bucket", "a") == Found()
    assert listings.find("bucket", "d") == Found()


def test_an_own_object_that_a_listing_lacks_yet_is_asked_for_once_and_shown(
    store: MemStore, listings: Listings
) -> None:
    listings.stored("bucket", put_bytes(store, "bucket", "a", b"own"))
    kept = dict(store._containers["bucket"])
    listing = store.listing

    def lagging(container: str, **kwargs: str) -> Iterator[Page]:
        store._containers["bucket"].clear()
        yield from listing(container, **kwargs)
        store._containers["bucket"].update(kept)

    store.listing = lagging  # type: ignore[method-assign]
    assert names(listings) == ["a"]
    assert len(store.calls("head")) == 1


# -- a file where there was a marker without slash ------------------------------------------------


@pytest.mark.parametrize("below", [[], ["d/x"]], ids=["alone", "with entries"])
@pytest.mark.parametrize("flat", [10_000, 0], ids=["flat", "by directories"])
def test_a_file_replaces_the_marker_of_its_name(
    store: MemStore,
    listings: Listings,
    monkeypatch: pytest.MonkeyPatch,
    flat: int,
    below: list[str],
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", flat)
    put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE)
    for key in below:
        put_bytes(store, "bucket", key, b"")
    assert names(listings) == ["d/"]
    listings.stored("bucket", put_bytes(store, "bucket", "d", b"1"))
    assert names(listings) == (["d/", "d~object"] if below else ["d"])
    assert listings.find("bucket", "d").is_dir == bool(below)
    assert listings.markers("bucket", "d/") == []


def test_a_marker_that_another_client_put_over_an_own_file_is_no_file(
    store: MemStore, listings: Listings, clock: FakeClock
) -> None:
    listings.stored("bucket", put_bytes(store, "bucket", "d", b"1"))
    clock.advance(3)
    put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE)
    assert names(listings) == ["d/"]
    assert listings.find("bucket", "d") == Found(is_dir=True)


def test_an_own_marker_replaces_the_file_of_its_name(store: MemStore, listings: Listings) -> None:
    put_bytes(store, "bucket", "d", b"1")
    assert names(listings) == ["d"]
    listings.stored("bucket", put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE))
    assert names(listings) == ["d/"]


def remove_directories(store: MemStore, listings: Listings) -> None:
    """Remove ``d`` with its marker, ``typed`` with its own, and ``old`` with all below it."""
    for key in ("d/", "typed"):
        marker = store.head("bucket", key).info
        store.delete("bucket", key)
        listings.removed("bucket", marker)
        listings.directory_removed("bucket", key.removesuffix("/") + "/")
    for key in ("old/a", "old/deep/b"):
        info = store.head("bucket", key).info
        store.delete("bucket", key)
        listings.removed("bucket", info)
    listings.subtree_removed("bucket", "old/")


@pytest.mark.semantics("R4")
@pytest.mark.parametrize("is_large", [False, True])
def test_a_listing_that_was_on_its_way_does_not_bring_removed_directories_back(
    store: MemStore, listings: Listings, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    for key in ("d/", "full/", "full/x/"):
        put_bytes(store, "bucket", key, content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "typed", content_type=DIRECTORY_TYPE)
    for key in ("old/a", "old/deep/b", "full/kept"):
        put_bytes(store, "bucket", key, b"1")
    if is_large:
        monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 1)
        assert listings.bucket("bucket") is not None

    def change(call: Call) -> None:
        if call.method == "listing":
            store.after = lambda call: None
            remove_directories(store, listings)

    store.after = change
    assert names(listings) == ["full/"]
    assert names(listings, "full/") == ["kept", "x/"]
    for key in ("d", "typed", "old", "old/deep"):
        assert listings.find("bucket", key) == Found()


@pytest.mark.parametrize("is_large", [False, True])
def test_a_removed_directory_in_which_another_client_stores_is_there_again(
    store: MemStore,
    listings: Listings,
    clock: FakeClock,
    monkeypatch: pytest.MonkeyPatch,
    is_large: bool,
) -> None:
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "typed", content_type=DIRECTORY_TYPE)
    for key in ("old/a", "old/deep/b"):
        put_bytes(store, "bucket", key, b"1")
    remove_directories(store, listings)
    clock.advance(10)
    for key in ("d/x", "old/deep/b", "typed/y"):
        put_bytes(store, "bucket", key, b"1")
    if is_large:
        monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 1)
        assert listings.bucket("bucket") is not None
    assert names(listings) == ["d/", "old/", "typed/"]
    assert names(listings, "d/") == ["x"]
    assert names(listings, "old/") == ["deep/"]
    assert names(listings, "typed/") == ["y"]


def test_a_removed_directory_that_this_mount_makes_again_is_there(
    store: MemStore, listings: Listings
) -> None:
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "typed", content_type=DIRECTORY_TYPE)
    for key in ("old/a", "old/deep/b"):
        put_bytes(store, "bucket", key, b"1")

    def change(call: Call) -> None:
        if call.method == "listing":
            store.after = lambda call: None
            remove_directories(store, listings)
            marker = put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
            listings.stored("bucket", marker)
            listings.stored("bucket", put_bytes(store, "bucket", "old/new", b"1"))

    store.after = change
    assert names(listings) == ["d/", "old/"]
    assert names(listings, "d/") == []
    assert names(listings, "old/") == ["new"]


@pytest.mark.semantics("R4")
@pytest.mark.parametrize("is_large", [False, True])
def test_an_own_file_in_place_of_a_removed_directory_is_a_file_in_a_listing_that_lags(
    store: MemStore, listings: Listings, monkeypatch: pytest.MonkeyPatch, is_large: bool
) -> None:
    typed = put_bytes(store, "bucket", "typed", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d/x", b"1")
    if is_large:
        monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 1)
        assert listings.bucket("bucket") is not None

    def change(call: Call) -> None:
        if call.method == "listing":
            store.after = lambda call: None
            store.delete("bucket", "typed")
            listings.removed("bucket", typed)
            listings.directory_removed("bucket", "typed/")
            listings.stored("bucket", put_bytes(store, "bucket", "typed", b"own"))

    store.after = change
    assert names(listings) == ["d/", "typed"]
    found = listings.find("bucket", "typed")
    assert is_file(found)
