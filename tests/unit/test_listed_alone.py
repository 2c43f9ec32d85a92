"""Where a name is wanted its directory is listed alone, and what is below it when it is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest

from allasfs.errors import TooManyNames
from allasfs.store.api import DIRECTORY_TYPE, Page
from allasfs.transfer import listings as listings_module
from allasfs.transfer.directories import Found
from allasfs.transfer.listings import Listings
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, put_bytes

TTL_S = 45.0
FEW = 10


class Store(MemStore):
    """Keeps what was listed: ``PREFIX*`` with all below, ``PREFIX`` alone."""

    listed: list[str]

    def listing(
        self, container: str, *, prefix: str = "", delimiter: str = "", marker: str = ""
    ) -> Iterator[Page]:
        """Note each listing, not each of its pages."""
        self.listed.append(prefix if delimiter else f"{prefix}*")
        return super().listing(container, prefix=prefix, delimiter=delimiter, marker=marker)


class Bucket:
    """A bucket of four directories with two in each, its listings, and what they ask for."""

    def __init__(self, clock: FakeClock, *, tells_counts: bool = True) -> None:
        self.clock = clock
        kind = replace(OPENSTACK if tells_counts else RGW, listing_limit=10_000)
        self.store = Store(clock_ns=clock.ns, capabilities=kind)
        self.store.listed = []
        self.store.create_container("b")
        for number in range(20):
            self.put(f"d{number % 4}/e{number % 2}/{number:02}")
        put_bytes(self.store, "b", "d1/", content_type=DIRECTORY_TYPE)
        self.put("top")
        self.listings = Listings(self.store, ttl_s=TTL_S, clock=clock)
        self.listings.buckets()

    def put(self, key: str) -> None:
        put_bytes(self.store, "b", key, b"1")

    def stat(self, path: str) -> Found:
        """Look at each component on the way, as the kernel does, and want its attributes."""
        found = Found()
        parts = path.split("/")
        for depth in range(len(parts)):
            key = "/".join(parts[: depth + 1])
            found = self.listings.find("b", key)
            if not found.is_dir:
                break
            self.listings.looked_at("b", f"{key}/")
        return found

    def names(self, prefix: str = "") -> list[str]:
        """Read a directory."""
        files, dirs = self.listings.entries("b", prefix)
        return sorted([*files, *(f"{name}/" for name in dirs)])

    def listed(self) -> list[str]:
        """Return what was listed since the last call."""
        listed, self.store.listed = self.store.listed, []
        return listed


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listings_module, "SMALL_OBJECTS", FEW)


@pytest.fixture(params=["counts", "no-counts"])
def bucket(request: pytest.FixtureRequest, clock: FakeClock) -> Bucket:
    return Bucket(clock, tells_counts=request.param == "counts")


def test_a_name_is_looked_up_in_its_directory_alone(bucket: Bucket) -> None:
    assert bucket.stat("top").file is not None
    assert bucket.stat("no") == bucket.stat("no/such/name") == Found()
    assert bucket.listings.find("b", "d1") == Found(is_dir=True)
    assert bucket.listed() == [""]


def test_the_directory_that_is_looked_at_is_listed_with_all_below(bucket: Bucket) -> None:
    assert bucket.stat("d1").is_dir
    looked_at = bucket.listings.looked_at("b", "d1/")
    # Its attributes are its marker's.
    assert looked_at is not None
    assert looked_at.marker is not None
    assert bucket.names("d1/") == ["e1/"]
    assert bucket.names("d1/e1/") == ["01", "05", "09", "13", "17"]
    assert bucket.stat("d1/e1/05").file is not None
    assert bucket.listed() == ["", "d1/*"]


def test_a_tree_that_is_read_from_its_top_costs_one_listing(bucket: Bucket) -> None:
    for directory in bucket.names():
        if directory != "top":
            for below in bucket.names(directory):
                assert len(bucket.names(directory + below)) == 5
    assert bucket.listed() == ["*"]


def test_names_in_a_second_directory_let_all_be_listed(bucket: Bucket) -> None:
    for number in range(20):
        assert bucket.stat(f"d{number % 4}/e{number % 2}/{number:02}").file is not None
    assert bucket.listed() == ["", "d0/*", "*"]


def test_a_bucket_in_which_somebody_walked_is_listed_at_once_from_then_on(bucket: Bucket) -> None:
    bucket.stat("d0")
    bucket.stat("d1")
    assert bucket.listed() == ["", "d0/*", "*"]
    bucket.clock.advance(TTL_S)
    bucket.stat("d2/e0/02")
    assert bucket.listed() == ["*"]


def test_one_directory_that_is_wanted_again_and_again_is_listed_with_none_beside_it(
    bucket: Bucket,
) -> None:
    for _ in range(3):
        bucket.stat("d2/e0/02")
        bucket.clock.advance(TTL_S)
    assert bucket.listed() == ["", "d2/*"] * 3


def test_the_last_of_all_directories_is_listed_by_itself(clock: FakeClock) -> None:
    bucket = Bucket(clock)
    for key in [key for key in bucket.store.keys("b") if key[:2] in ("d2", "d3")]:
        bucket.store.delete("b", key)
    assert bucket.stat("d0").is_dir
    assert bucket.stat("d1").is_dir
    assert bucket.listed() == ["", "d0/*", "d1/*"]


def test_an_own_new_directory_is_no_sign_of_a_walk(bucket: Bucket) -> None:
    bucket.stat("top")
    bucket.listings.stored("b", put_bytes(bucket.store, "b", "new/file", b"1"))
    assert bucket.names("new/") == ["file"]
    bucket.stat("d2")
    assert bucket.listed() == ["", "d2/*"]


def test_who_reads_a_directory_that_is_known_alone_gets_all_below(bucket: Bucket) -> None:
    bucket.stat("top")
    assert bucket.names() == ["d0/", "d1/", "d2/", "d3/", "top"]
    assert bucket.names("d1/") == ["e1/"]
    assert bucket.listed() == ["", "*"]


def test_a_directory_without_others_is_known_whole(clock: FakeClock) -> None:
    bucket = Bucket(clock)
    bucket.listings.find("b", "d0/e0/00")
    assert len(bucket.names("d0/e0/")) == 5
    assert bucket.listed() == ["d0/e0/"]


def test_the_files_of_a_directory_are_told_without_what_is_below(bucket: Bucket) -> None:
    bucket.stat("top")
    assert list(bucket.listings.files("b", "")) == ["top"]
    assert bucket.listed() == [""]


def test_all_of_a_small_bucket_is_listed_at_once(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "SMALL_OBJECTS", 22)
    bucket = Bucket(clock)
    assert bucket.stat("d2/e0/02").file is not None
    assert bucket.listed() == ["*"]


def test_a_look_at_a_large_directory_does_not_list_it(
    clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 4)
    bucket = Bucket(clock, tells_counts=False)
    assert bucket.stat("d1").is_dir
    # One page shows it, and then nothing is asked for the attributes of directories.
    assert bucket.stat("d2").is_dir
    assert bucket.stat("d1").is_dir
    assert bucket.listed() == ["", "d1/*"]
    assert bucket.names("d1/") == ["e1/"]


@pytest.mark.semantics("M4")
def test_a_directory_of_more_names_than_are_kept_has_attributes(bucket: Bucket) -> None:
    def refuse(call: Call) -> None:
        if call.method == "listing" and call.key == "d0/":
            raise TooManyNames("b/d0/", "it has more than 3 names")

    assert bucket.stat("top").file is not None
    bucket.store.before = refuse
    assert bucket.stat("d0").is_dir
    assert bucket.listings.looked_at("b", "d0/") is None
    with pytest.raises(TooManyNames):
        bucket.names("d0/")


def test_sixteen_threads_that_look_into_a_directory_cause_two_listings(
    bucket: Bucket,
) -> None:
    barrier = Barrier(16)

    def look(number: int) -> bool:
        barrier.wait()
        return bucket.stat(f"d2/e0/{'02' if number % 2 else '06'}").file is not None

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(look, range(16)))
    assert bucket.listed() == ["", "d2/*"]


def test_own_changes_are_in_what_is_listed_later(bucket: Bucket) -> None:
    bucket.stat("top")
    bucket.listings.stored("b", put_bytes(bucket.store, "b", "d1/own", b"1"))
    removed = bucket.store.head("b", "d2/e0/02").info
    bucket.store.delete("b", "d2/e0/02")
    bucket.listings.removed("b", removed)
    assert bucket.names("d1/") == ["e1/", "own"]
    assert bucket.names("d2/e0/") == ["06", "10", "14", "18"]


def test_a_directory_that_another_client_removed_meanwhile_is_empty(bucket: Bucket) -> None:
    bucket.stat("d0")
    for key in ("d1/", *(f"d1/e1/{number:02}" for number in range(1, 20, 4))):
        bucket.store.delete("b", key)
    assert bucket.names("d1/") == []
    assert not bucket.listings.find("b", "d1").is_dir
