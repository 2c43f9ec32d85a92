"""Small files that are fetched before they are opened: which, how many, and that none is wrong."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from allasfs.config import MIB
from allasfs.deadline import Deadline
from allasfs.errors import Stale
from allasfs.store.api import ObjectInfo
from allasfs.transfer.ahead import KEPT_S, LOOKED_UP, Ahead
from allasfs.transfer.blocks import Memory
from allasfs.transfer.listings import Listings
from allasfs.transfer.readahead import Window
from allasfs.transfer.reader import Reader
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import MemStore, put_bytes

COUNT = 3 * LOOKED_UP
MOST = 8


class Folder:
    """A directory of small files, and a program that opens and reads them."""

    def __init__(self, pool: ThreadPoolExecutor, clock: FakeClock) -> None:
        self.store = MemStore()
        self.store.create_container("b")
        self.infos = [
            put_bytes(self.store, "b", f"d/{n:04d}", self.content(n)) for n in range(COUNT)
        ]
        self.memory = Memory(128 * MIB)
        self._pool = pool
        listings = Listings(self.store, ttl_s=60.0, clock=clock)
        listings.directory("b", "d/")
        self.ahead = Ahead(listings, self._make, MOST, clock=clock)
        self.store.forget_calls()

    @staticmethod
    def content(number: int) -> bytes:
        return f"{number}".encode() * (number + 1)

    def _make(self, bucket: str, info: ObjectInfo) -> Reader:
        return Reader(self.store, self.memory, self._pool, bucket, info, timeout_s=30.0)

    def read(self, number: int, info: ObjectInfo | None = None) -> bytes:
        reader = self.ahead.reader("b", info or self.infos[number])
        try:
            return reader.read(Window(), 0, MIB)
        finally:
            reader.close()

    def fetched(self) -> list[str]:
        """The objects that were asked for, when nothing is under way any more."""
        pause = threading.Event()
        while self.memory.in_flight:
            pause.wait(0.001)
        return sorted(call.key for call in self.store.calls() if call.method == "get")


@pytest.fixture
def folder(clock: FakeClock) -> Iterator[Folder]:
    with ThreadPoolExecutor(4) as pool:
        folder = Folder(pool, clock)
        yield folder
        folder.ahead.close()


def test_files_in_order_are_fetched_ahead_and_each_only_once(folder: Folder) -> None:
    for number in range(COUNT):
        assert folder.read(number) == folder.content(number)
    assert folder.fetched() == [info.key for info in folder.infos]


def test_one_file_alone_fetches_no_other(folder: Folder) -> None:
    folder.read(5)
    assert folder.fetched() == ["d/0005"]


def test_the_second_file_in_order_fetches_the_next_ones_and_no_more_than_allowed(
    folder: Folder,
) -> None:
    folder.read(5)
    folder.read(6)
    assert folder.fetched() == [f"d/{n:04d}" for n in range(5, 11)]
    for number in range(7, 12):
        folder.read(number)
    assert folder.fetched()[-1] == f"d/{11 + MOST:04d}"


def test_files_in_no_order_fetch_no_other(folder: Folder) -> None:
    numbers = [90, 3, 60, 20, 120, 40]
    for number in numbers:
        folder.read(number)
    assert folder.fetched() == [f"d/{n:04d}" for n in sorted(numbers)]


def test_a_few_that_are_left_out_are_no_other_order(folder: Folder) -> None:
    for number in range(0, 40, 2):
        assert folder.read(number) == folder.content(number)
    assert len(folder.fetched()) > 30


def test_sixteen_at_once_are_an_order_too(folder: Folder) -> None:
    with ThreadPoolExecutor(16) as readers:
        found = list(readers.map(folder.read, range(COUNT)))
    assert found == [folder.content(number) for number in range(COUNT)]
    # A few that others have passed before their turn are read twice.
    assert len(folder.fetched()) <= 1.25 * COUNT


def test_another_version_than_the_one_in_the_listing_is_not_given(folder: Folder) -> None:
    folder.read(0)
    folder.read(1)
    folder.fetched()
    newer = put_bytes(folder.store, "b", "d/0002", b"newer")
    assert folder.read(2, newer) == b"newer"
    # Who still has the older one in mind gets no mix.
    folder.read(3)
    with pytest.raises(Stale):
        folder.read(2)


def test_what_waited_too_long_is_read_anew(folder: Folder, clock: FakeClock) -> None:
    folder.read(0)
    folder.read(1)
    folder.fetched()
    put_bytes(folder.store, "b", "d/0002", b"newer")
    clock.advance(KEPT_S + 1)
    with pytest.raises(Stale):
        folder.read(2)


def test_a_failure_ahead_hurts_nobody(folder: Folder) -> None:
    info = folder.infos[2]
    folder.store.delete("b", info.key)
    folder.read(0)
    folder.read(1)
    folder.fetched()
    stored = put_bytes(folder.store, "b", info.key, folder.content(2))
    assert stored.etag == info.etag
    assert folder.read(2) == folder.content(2)


def test_large_files_are_not_fetched_ahead(folder: Folder, clock: FakeClock) -> None:
    put_bytes(folder.store, "b", "e/0", b"0")
    put_bytes(folder.store, "b", "e/1", b"1")
    put_bytes(folder.store, "b", "e/2", bytes(MIB + 1))
    listings = Listings(folder.store, ttl_s=60.0, clock=clock)
    directory = listings.directory("b", "e/")
    ahead = Ahead(listings, folder._make, MOST, clock=clock)
    folder.store.forget_calls()
    for name in ("0", "1"):
        ahead.reader("b", directory.files[name]).close()
    assert folder.fetched() == []


def test_no_memory_no_fetching_ahead(folder: Folder) -> None:
    folder.memory.begin(folder.memory.limit // 2, Deadline(30.0), "all")
    folder.ahead.reader("b", folder.infos[0]).close()
    folder.ahead.reader("b", folder.infos[1]).close()
    folder.memory.end(folder.memory.limit // 2)
    assert folder.fetched() == []


def test_closing_drops_what_nobody_read(folder: Folder) -> None:
    folder.read(0)
    folder.read(1)
    folder.fetched()
    assert folder.memory.cached > 0
    folder.ahead.close()
    assert folder.memory.cached == 0
