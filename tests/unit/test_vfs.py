"""Vfs over a store in memory: how many requests, what other clients do, what fails and how."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.config import MIB
from allasfs.errors import (
    AccessDenied,
    BadHandle,
    BadName,
    CrossDevice,
    DirectoryNotEmpty,
    Exists,
    FsError,
    IsADirectory,
    NameTooLong,
    NoSpace,
    NotADirectory,
    NotFound,
    NotPermitted,
    QuotaExceeded,
    ReadOnly,
    Stale,
    TimedOut,
    Unavailable,
)
from allasfs.fs import openfile
from allasfs.fs.attrs import SYMLINK_TYPE, Given
from allasfs.fs.names import Place
from allasfs.fs.openfile import OpenFile
from allasfs.store import marks
from allasfs.store.api import DIRECTORY_TYPE, ContainerInfo, Segment
from allasfs.transfer import listings as listings_module
from allasfs.transfer.journal import entries
from allasfs.transfer.spool import Spool
from allasfs.transfer.spoolfile import SpoolFile
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.clock import START_NS, FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes

TTL_S = 60.0
Mount = Callable[..., VfsFs]
ExpectLog = Callable[[str], None]


@pytest.fixture
def fs(mount: Mount) -> VfsFs:
    """The whole account, mounted."""
    return mount()


@contextmanager
def opened(fs: VfsFs, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = fs.open(path, flags)
    try:
        yield fd
    finally:
        fs.close(fd)


# -- requests -------------------------------------------------------------------------------------


def test_making_and_writing_a_small_file_is_one_put(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket")
    store.forget_calls()
    write_file(fs, "/bucket/new", b"content")
    assert fs.lstat("/bucket/new").size == 7
    assert store.counts() == {"put": 1}


def test_a_copy_with_mode_and_time_is_one_put(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket")
    store.forget_calls()
    fd = fs.open("/bucket/new", os.O_WRONLY | os.O_CREAT, 0o600)
    fs.pwrite(fd, b"content", 0)
    fs.chmod("/bucket/new", 0o640)
    fs.utime("/bucket/new", 1_500_000_000)
    fs.close(fd)
    assert store.counts() == {"put": 1}
    head = store.head("bucket", "new")
    assert head.metadata == {"mtime": "1.5", "mode": "640"}


def test_replacing_a_file_is_one_put_after_one_look_at_its_metadata(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"old", metadata={"other": "kept"})
    fs.listdir("/bucket")
    store.forget_calls()
    write_file(fs, "/bucket/a", b"new")
    assert store.counts() == {"head": 1, "put": 1}
    assert store.head("bucket", "a").metadata["other"] == "kept"


@pytest.mark.semantics("C6")
def test_opening_and_reading_a_small_listed_file_is_one_get(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"content")
    fs.listdir("/bucket")
    store.forget_calls()
    assert read_file(fs, "/bucket/a") == b"content"
    assert store.counts() == {"get": 1}


@pytest.mark.semantics("C1")
def test_stat_of_an_unknown_name_in_a_fresh_listing_asks_nobody(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket")
    store.forget_calls()
    for path in ("/bucket/x", "/bucket/d/x", "/bucket/d/e/f"):
        with pytest.raises(NotFound):
            fs.lstat(path)
    assert store.counts() == {}


def walk(fs: VfsFs, path: str) -> int:
    """Look at everything, as find does; return how many files there are."""
    count = 0
    for name in fs.listdir(path):
        below = f"{path.rstrip('/')}/{name}"
        if fs.lstat(below).is_dir:
            count += walk(fs, below)
        else:
            count += 1
    return count


@pytest.mark.semantics("C5")
def test_find_over_5000_objects_in_200_directories_takes_three_requests(
    fs: VfsFs, store: MemStore
) -> None:
    for number in range(5000):
        put_bytes(store, "bucket", f"d{number % 20}/e{number % 200}/{number}", b"1")
    store.forget_calls()
    assert walk(fs, "/") == 5000
    assert sum(store.counts().values()) <= 3


@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW], ids=["openstack", "rgw"])
def test_listing_5000_files_takes_its_pages_only(
    mount: Mount, clock: FakeClock, capabilities: object
) -> None:
    base = OPENSTACK if capabilities is OPENSTACK else RGW
    store = MemStore(clock_ns=clock.ns, capabilities=replace(base, listing_limit=1000))
    store.create_container("bucket")
    for number in range(5000):
        put_bytes(store, "bucket", f"{number:05d}", b"1")
    fs = mount(on=store)
    store.forget_calls()
    assert len(fs.listdir("/bucket")) == 5000
    assert walk(fs, "/bucket") == 5000
    counts = store.counts()
    # Full pages, and an empty one at the end; RGW's are somewhat short.
    assert counts.pop("listing") <= 7
    assert counts == {"containers": 1}


@pytest.mark.semantics("C1")
def test_sizes_that_no_listing_tells_are_asked_for_once_per_version(
    mount: Mount, clock: FakeClock
) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    store.create_container("bucket")
    put_bytes(store, "bucket", "parts/0", bytes(1000))
    for number in range(20):
        store.put_dlo("bucket", f"large{number}", "bucket/parts/", content_type="a/b")
    fs = mount(on=store)
    store.forget_calls()
    for _ in range(3):
        for name in fs.listdir("/bucket"):
            if name != "parts":
                assert fs.lstat(f"/bucket/{name}").size == 1000
        clock.advance(TTL_S + 1)
    assert store.counts()["head"] == 20


def test_nothing_is_asked_before_the_first_look(mount: Mount, store: MemStore) -> None:
    store.forget_calls()
    fs = mount()
    assert fs.lstat("/").is_dir
    assert store.counts() == {}


@pytest.mark.semantics("C32")
def test_usage_is_asked_for_once_per_ttl(fs: VfsFs, store: MemStore, clock: FakeClock) -> None:
    put_bytes(store, "bucket", "a", bytes(1000))
    for _ in range(3):
        assert fs.vfs.statfs().used_bytes == 1000
    assert store.counts()["account"] == 1
    clock.advance(TTL_S)
    store.quota_bytes = 5000
    usage = fs.vfs.statfs()
    assert (usage.used_bytes, usage.free_bytes, usage.objects) == (1000, 4000, 1)


@pytest.mark.semantics("C12")
def test_a_large_file_that_is_read_here_and_there_is_not_fetched_whole(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", bytes(20 * MIB))
    with opened(fs, "/bucket/a") as fd:
        for offset in (15 * MIB, 3 * MIB, 10 * MIB):
            assert len(fs.pread(fd, 4096, offset)) == 4096
    assert store.sent_bytes() == 3 * 4096


@pytest.mark.semantics("C16")
def test_changing_a_part_of_a_file_fetches_only_what_is_kept(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"x" * MIB)
    with opened(fs, "/bucket/a", os.O_WRONLY) as fd:
        fs.pwrite(fd, b"y" * (MIB - 100), 0)
    assert store.sent_bytes() == 100
    assert get_bytes(store, "bucket", "a") == b"y" * (MIB - 100) + b"x" * 100


@pytest.mark.semantics("C16")
def test_overwriting_a_whole_file_fetches_nothing(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"x" * MIB)
    with opened(fs, "/bucket/a", os.O_WRONLY) as fd:
        fs.pwrite(fd, b"y" * MIB, 0)
    assert store.sent_bytes() == 0


@pytest.mark.semantics("C20")
def test_a_flush_of_what_is_stored_asks_nobody(fs: VfsFs, store: MemStore) -> None:
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"1", 0)
    fs.fsync(fd)
    store.forget_calls()
    fs.fsync(fd)
    fs.close(fd)
    assert store.counts() == {}


def test_many_small_directories_are_made_by_one_request_each(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket")
    store.forget_calls()
    for number in range(10):
        fs.mkdir(f"/bucket/d{number}")
        write_file(fs, f"/bucket/d{number}/a", b"1")
    assert store.counts() == {"put": 20}


# -- the root and its buckets ---------------------------------------------------------------------


@pytest.mark.semantics("N1", "N2")
def test_the_root_shows_buckets_and_hides_those_of_segments(fs: VfsFs, store: MemStore) -> None:
    store.create_container("bucket_segments")
    assert fs.listdir("/") == ["bucket"]
    assert fs.lstat("/bucket").is_dir
    assert fs.lstat("/bucket_segments").is_dir


@pytest.mark.semantics("N2")
def test_the_buckets_of_segments_can_be_shown(mount: Mount, store: MemStore) -> None:
    store.create_container("bucket_segments")
    assert mount(show_segments=True).listdir("/") == ["bucket", "bucket_segments"]


@pytest.mark.semantics("C24")
def test_a_bucket_is_made_and_removed_as_a_directory(fs: VfsFs, store: MemStore) -> None:
    fs.mkdir("/new")
    assert fs.listdir("/") == ["bucket", "new"]
    write_file(fs, "/new/a", b"1")
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir("/new")
    fs.unlink("/new/a")
    assert store.keys("new") == []
    fs.rmdir("/new")
    assert [info.name for info in store.containers()] == ["bucket"]
    with pytest.raises(NotFound):
        fs.lstat("/new")


@pytest.mark.semantics("C24")
def test_a_bucket_of_another_project_is_taken(fs: VfsFs, store: MemStore) -> None:
    store.fail_next(Exists("taken", "409"), "create_container")
    with pytest.raises(Exists):
        fs.mkdir("/taken")
    with pytest.raises(OSError, match="File exists"):
        fs.mkdir("/bucket")


@pytest.mark.semantics("N8")
def test_a_bucket_name_must_be_one(mount: Mount, clock: FakeClock) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    fs = mount(on=store)
    with pytest.raises(BadName):
        fs.mkdir("/ab")
    with pytest.raises(NameTooLong):
        fs.mkdir("/" + "x" * 256)
    assert "create_container" not in store.counts()


@pytest.mark.semantics("C7")
def test_files_and_links_beside_the_buckets_are_not_permitted(fs: VfsFs) -> None:
    with pytest.raises(NotPermitted, match="files live in buckets"):
        fs.open("/a", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(NotPermitted):
        fs.symlink("target", "/a")
    write_file(fs, "/bucket/a", b"1")
    with pytest.raises(NotPermitted):
        fs.rename("/bucket/a", "/a")
    assert fs.listdir("/") == ["bucket"]


@pytest.mark.semantics("C27")
def test_buckets_are_not_renamed_but_copied(fs: VfsFs) -> None:
    fs.mkdir("/bucket/d")
    with pytest.raises(CrossDevice):
        fs.rename("/bucket", "/other")
    with pytest.raises(CrossDevice):
        fs.rename("/bucket/d", "/other")


@pytest.mark.semantics("C27")
def test_a_file_can_be_renamed_into_another_bucket(fs: VfsFs, store: MemStore) -> None:
    store.create_container("other")
    write_file(fs, "/bucket/a", b"content")
    store.forget_calls()
    fs.rename("/bucket/a", "/other/b")
    assert get_bytes(store, "other", "b") == b"content"
    assert store.keys("bucket") == []
    assert store.counts()["copy"] == 1
    assert "put" not in store.counts()


@pytest.mark.semantics("N3")
def test_a_shared_bucket_opens_by_its_name_or_is_named_to_be_listed(
    mount: Mount, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bytes(store, "bucket", "a", b"content")
    monkeypatch.setattr(store, "containers", list)
    assert mount().listdir("/") == []
    fs = mount(extra_buckets=("bucket",))
    assert fs.listdir("/") == ["bucket"]
    assert read_file(fs, "/bucket/a") == b"content"


@pytest.mark.semantics("N9")
def test_a_bucket_that_is_shared_for_reading_refuses_changes_at_open(
    fs: VfsFs, store: MemStore, monkeypatch: pytest.MonkeyPatch, clock: FakeClock
) -> None:
    store.create_container("shared")
    put_bytes(store, "shared", "d/a", b"theirs")
    monkeypatch.setattr(store, "containers", list)
    store.read_only.add("shared")
    assert read_file(fs, "/shared/d/a") == b"theirs"
    calls: list[Callable[[], object]] = [
        lambda: fs.open("/shared/d/a", os.O_RDWR),
        lambda: fs.open("/shared/d/new", os.O_WRONLY | os.O_CREAT),
        lambda: fs.truncate("/shared/d/a", 0),
        lambda: fs.unlink("/shared/d/a"),
        lambda: fs.rename("/shared/d/a", "/shared/b"),
        lambda: fs.mkdir("/shared/e"),
        lambda: fs.rmdir("/shared/d"),
        lambda: fs.symlink("a", "/shared/d/link"),
        lambda: fs.chmod("/shared/d/a", 0o600),
    ]
    for call in calls:
        with pytest.raises(AccessDenied):
            call()
    assert store.counts()["may_write"] == 1
    assert store.keys("shared") == ["d/a"]
    store.read_only.clear()
    clock.advance(TTL_S)
    write_file(fs, "/shared/d/a", b"ours")
    assert get_bytes(store, "shared", "d/a") == b"ours"


def refused_account() -> list[ContainerInfo]:
    raise AccessDenied("the account", "403")


@pytest.mark.semantics("N9")
def test_a_bucket_of_another_project_s_account_is_mounted_though_the_account_is_closed(
    mount: Mount, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bytes(store, "bucket", "a", b"content")
    monkeypatch.setattr(store, "containers", refused_account)
    monkeypatch.setattr(store, "account", refused_account)
    fs = mount(bucket="bucket")
    assert fs.listdir("") == ["a"]
    assert read_file(fs, "a") == b"content"
    write_file(fs, "b", b"1")
    assert fs.vfs.statfs().used_bytes == 8
    whole = mount()
    with pytest.raises(AccessDenied):
        whole.listdir("")
    with pytest.raises(AccessDenied):
        whole.vfs.statfs()
    assert whole.listdir("/bucket") == ["a", "b"]


@pytest.mark.semantics("N10")
def test_objects_that_describe_others_can_be_left_out_of_listings(
    mount: Mount, store: MemStore
) -> None:
    for key in ("a", "a_ameta", "d/b_ameta"):
        put_bytes(store, "bucket", key, b"1")
    assert sorted(mount().listdir("/bucket")) == ["a", "a_ameta", "d"]
    fs = mount(show_ameta=False)
    assert sorted(fs.listdir("/bucket")) == ["a", "d"]
    assert fs.listdir("/bucket/d") == []
    assert read_file(fs, "/bucket/a_ameta") == b"1"
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir("/bucket/d")


@pytest.mark.semantics("C19")
def test_an_exceeded_quota_is_told_with_its_limits(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a was not stored.*the account has 0 of 5 bytes")
    expected_logs("the bucket has 0 of 3 bytes; the bucket has 0 of 1 objects")
    store.quota_bytes = 5
    store.post_container("bucket", {"quota-bytes": "3", "quota-count": "1"})
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"123456", 0)
    with pytest.raises(QuotaExceeded, match="the account has 0 of 5 bytes"):
        fs.close(fd)


def test_a_bucket_that_may_not_be_looked_at_is_not_there(fs: VfsFs, store: MemStore) -> None:
    store.fail_next(AccessDenied("secret", "403"), "head_container")
    with pytest.raises(NotFound):
        fs.lstat("/secret")


@pytest.mark.semantics("N1")
def test_a_prefix_can_be_mounted(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "outside", b"1")
    put_bytes(store, "bucket", "pre/fix/d/a", b"content")
    fs = mount(bucket="bucket", prefix="pre/fix/")
    assert fs.listdir("/") == ["d"]
    assert read_file(fs, "/d/a") == b"content"
    write_file(fs, "/new", b"1")
    fs.mkdir("/e")
    fs.unlink("/new")
    fs.rmdir("/e")
    assert store.keys("bucket") == ["outside", "pre/fix/d/a"]
    with pytest.raises(NotFound):
        fs.lstat("/outside")


def test_a_mounted_prefix_may_have_a_name_that_no_file_can_have(
    mount: Mount, store: MemStore
) -> None:
    prefix = f"{'n' * 300}/"
    put_bytes(store, "bucket", f"{prefix}there", b"1")
    fs = mount(bucket="bucket", prefix=prefix)
    assert fs.listdir("") == ["there"]
    write_file(fs, "/new", b"2")
    fs.rename("/there", "/moved")
    assert sorted(fs.listdir("")) == ["moved", "new"]


def test_a_mounted_prefix_that_is_emptied_is_still_a_directory(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "pre/a", b"content")
    fs = mount(bucket="bucket", prefix="pre/")
    fs.unlink("/a")
    assert fs.lstat("/").is_dir
    assert fs.listdir("/") == []


# -- markers --------------------------------------------------------------------------------------


@pytest.mark.semantics("N4", "C24")
def test_mkdir_stores_a_marker_and_rmdir_removes_every_kind(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "theirs", content_type="application/x-directory")
    fs.mkdir("/bucket/ours")
    assert store.keys("bucket") == ["ours/", "theirs"]
    assert store.head("bucket", "ours/").info.content_type == DIRECTORY_TYPE
    assert sorted(fs.listdir("/bucket")) == ["ours", "theirs"]
    fs.rmdir("/bucket/theirs")
    fs.rmdir("/bucket/ours")
    assert store.keys("bucket") == []


@pytest.mark.semantics("N5")
def test_the_last_file_leaves_a_marker_and_others_do_not(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "d/a", b"1")
    put_bytes(store, "bucket", "d/b", b"1")
    fs.unlink("/bucket/d/a")
    assert store.keys("bucket") == ["d/b"]
    fs.unlink("/bucket/d/b")
    assert store.keys("bucket") == ["d/"]


@pytest.mark.semantics("N5", "R9")
@pytest.mark.parametrize("how", ["unlink", "rename", "rmdir"])
def test_a_marker_that_cannot_be_stored_leaves_the_last_entry_where_it_is(
    fs: VfsFs, store: MemStore, how: str
) -> None:
    put_bytes(store, "bucket", "d/e/" if how == "rmdir" else "d/e", b"")
    fs.listdir("/bucket/d")
    store.fail_next(Unavailable("bucket", "a fault"), "put")
    with pytest.raises(Unavailable):
        {
            "unlink": lambda: fs.unlink("/bucket/d/e"),
            "rename": lambda: fs.rename("/bucket/d/e", "/bucket/e"),
            "rmdir": lambda: fs.rmdir("/bucket/d/e"),
        }[how]()
    assert fs.listdir("/bucket/d") == ["e"]
    assert store.keys("bucket") == ["d/e/" if how == "rmdir" else "d/e"]


@pytest.mark.semantics("C29")
def test_a_link_that_another_client_removed_or_replaced_is_looked_up_anew(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "link", b"old", content_type=SYMLINK_TYPE)
    fs.listdir("/bucket")
    put_bytes(store, "bucket", "link", b"new!", content_type=SYMLINK_TYPE)
    with pytest.raises(Stale):
        fs.readlink("/bucket/link")
    assert fs.readlink("/bucket/link") == "new!"


@pytest.mark.semantics("N7", "C24")
def test_a_directory_with_names_that_cannot_be_shown_is_not_empty(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    put_bytes(store, "bucket", "d//hidden", b"1")
    expected_logs("not shown")
    assert fs.listdir("/bucket/d") == []
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir("/bucket/d")
    assert store.keys("bucket") == ["d//hidden"]


# -- other clients --------------------------------------------------------------------------------


@pytest.mark.semantics("R5")
def test_another_client_s_change_is_seen_after_the_ttl(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    assert read_file(fs, "/bucket/a") == b"old"
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"newer")
    put_bytes(store, "bucket", "b", b"1")
    clock.advance(TTL_S)
    assert fs.lstat("/bucket/a").size == 5
    assert read_file(fs, "/bucket/a") == b"newer"
    assert sorted(fs.listdir("/bucket")) == ["a", "b"]


@pytest.mark.semantics("R6", "C14")
def test_an_open_file_never_mixes_two_versions(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"1" * (8 * MIB))
    with opened(fs, "/bucket/a") as fd:
        assert set(fs.pread(fd, 4096, 5 * MIB)) == {ord("1")}
        clock.advance(5)
        put_bytes(store, "bucket", "a", b"2" * (8 * MIB))
        with pytest.raises(Stale):
            fs.pread(fd, 4096, 2 * MIB)
    # Whoever opens it again gets the new one, before the TTL is over.
    with opened(fs, "/bucket/a") as fd:
        assert set(fs.pread(fd, 4096, 2 * MIB)) == {ord("2")}


@pytest.mark.semantics("R6", "C14")
def test_opening_a_newer_version_makes_older_handles_stale(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"1" * 1000)
    with opened(fs, "/bucket/a") as old:
        assert fs.pread(old, 10, 0) == b"1" * 10
        clock.advance(TTL_S)
        put_bytes(store, "bucket", "a", b"2" * 1000)
        clock.advance(TTL_S)
        with opened(fs, "/bucket/a") as new:
            assert fs.pread(new, 10, 0) == b"2" * 10
            with pytest.raises(Stale):
                fs.pread(old, 10, 500)


@pytest.mark.semantics("R6", "C14")
def test_a_file_that_another_client_removed_is_stale_while_open_and_gone_afterwards(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", bytes(MIB))
    fd = fs.open("/bucket/a", os.O_RDONLY)
    store.delete("bucket", "a")
    with pytest.raises(Stale):
        fs.pread(fd, 10, 0)
    fs.close(fd)
    with pytest.raises(NotFound):
        fs.lstat("/bucket/a")


def test_unlink_of_what_another_client_removed_is_enoent_and_the_name_is_gone(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    fs.listdir("/bucket")
    store.delete("bucket", "a")
    with pytest.raises(NotFound):
        fs.unlink("/bucket/a")
    assert fs.listdir("/bucket") == []


@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW], ids=["openstack", "rgw"])
def test_a_large_object_of_another_client_is_read_renamed_and_removed_with_its_segments(
    mount: Mount, clock: FakeClock, capabilities: object
) -> None:
    store = MemStore(
        clock_ns=clock.ns, capabilities=OPENSTACK if capabilities is OPENSTACK else RGW
    )
    store.create_container("bucket")
    store.create_container("bucket_segments")
    content = b"".join(bytes([n]) * MIB for n in range(3))
    for number in range(3):
        put_bytes(store, "bucket_segments", f"a/1/{number}", bytes([number]) * MIB)
    store.put_dlo("bucket", "a", "bucket_segments/a/1/", content_type="a/b")
    fs = mount(on=store)
    assert fs.lstat("/bucket/a").size == 3 * MIB
    assert read_file(fs, "/bucket/a") == content
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == ["b"]
    assert read_file(fs, "/bucket/b") == content
    fs.unlink("/bucket/b")
    assert fs.listdir("/bucket") == []
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("C22")
def test_a_large_file_that_is_replaced_or_renamed_over_leaves_no_segments(
    fs: VfsFs, store: MemStore
) -> None:
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    write_file(fs, "/bucket/b", b"b" * (3 * MIB))
    assert len(store.keys("bucket_segments")) == 6
    fs.rename("/bucket/a", "/bucket/b")
    assert len(store.keys("bucket_segments")) == 3
    assert read_file(fs, "/bucket/b") == b"a" * (3 * MIB)
    write_file(fs, "/bucket/b", b"small")
    assert store.keys("bucket_segments") == []


def test_renaming_a_second_name_of_shared_segments_over_the_first_keeps_them(
    mount: Mount, store: MemStore
) -> None:
    # A copied manifest shares its segments: removing one name must not empty the other.
    fs = mount(timeout_s=2.0)
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    info = store.head("bucket", "a").info
    store.copy("bucket", info, ("bucket", "b"), manifest=True)
    fs.vfs._listings.subtree_outdated("bucket", "")
    fs.rename("/bucket/b", "/bucket/a")
    assert read_file(fs, "/bucket/a") == b"a" * (3 * MIB)


def test_a_rename_of_a_large_file_that_failed_halfway_can_be_repeated_without_loss(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("is a second name now")
    fs = mount(timeout_s=2.0)
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    store.fail_next(Unavailable("bucket/a", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == ["b"]
    assert read_file(fs, "/bucket/b") == b"a" * (3 * MIB)
    assert marks.of(store.head("bucket", "b").metadata) == {}
    fs.unlink("/bucket/b")
    assert store.keys("bucket_segments") == []


@pytest.mark.parametrize(("removed", "left"), [("a", "b"), ("b", "a")])
def test_after_a_rename_of_a_large_file_failed_halfway_either_name_can_be_removed_without_loss(
    mount: Mount, store: MemStore, expected_logs: ExpectLog, removed: str, left: str
) -> None:
    expected_logs("is a second name now")
    fs = mount(timeout_s=2.0)
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    store.fail_next(Unavailable("bucket/a", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    fs.unlink(f"/bucket/{removed}")
    assert read_file(fs, f"/bucket/{left}") == b"a" * (3 * MIB)
    fs.unlink(f"/bucket/{left}")
    assert store.keys("bucket_segments") == []


def test_a_rename_over_a_file_that_failed_halfway_loses_nothing_when_a_name_is_removed(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("is a second name now")
    fs = mount(timeout_s=2.0)
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    write_file(fs, "/bucket/b", b"old")
    store.fail_next(Unavailable("bucket/a", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    fs.unlink("/bucket/a")
    assert read_file(fs, "/bucket/b") == b"a" * (3 * MIB)
    fs.unlink("/bucket/b")
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("then", ["overwrite", "rename away", "remount"])
def test_names_that_share_segments_after_a_failed_rename_never_cost_each_other_their_bytes(
    mount: Mount, store: MemStore, then: str, expected_logs: ExpectLog
) -> None:
    expected_logs("is a second name now")
    fs = mount(timeout_s=2.0)
    write_file(fs, "/bucket/a", b"a" * (3 * MIB))
    write_file(fs, "/bucket/b", b"old")
    store.fail_next(Unavailable("bucket/a", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    left = "/bucket/b"
    if then == "overwrite":
        write_file(fs, "/bucket/a", b"new")
    elif then == "rename away":
        fs.rename("/bucket/b", "/bucket/c")
        fs.unlink("/bucket/a")
        left = "/bucket/c"
    else:
        fs = mount(timeout_s=2.0)
        fs.unlink("/bucket/a")
    assert read_file(fs, left) == b"a" * (3 * MIB)
    fs.unlink(left)
    assert store.keys("bucket_segments") == []


@pytest.mark.parametrize("ttl_s", [0.0, 1.0, 10.0, 60.0])
def test_another_client_s_change_right_after_an_own_one_is_seen_after_the_ttl(
    mount: Mount, store: MemStore, clock: FakeClock, ttl_s: float
) -> None:
    fs = mount(ttl_s=ttl_s)
    write_file(fs, "/bucket/a", b"own")
    clock.advance(0.2)
    put_bytes(store, "bucket", "a", b"theirs")
    clock.advance(ttl_s)
    assert fs.lstat("/bucket/a").size == len(b"theirs")


def test_modification_times_of_rclone_are_shown_once_known(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "empty", metadata={"mtime": "1234567890.123456789"})
    assert fs.lstat("/bucket/empty").mtime_ns == 1_234_567_890_123_456_789


def test_the_time_of_another_client_s_file_is_when_it_was_stored(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    assert fs.lstat("/bucket/a").mtime_ns == START_NS


@pytest.mark.semantics("C21")
def test_metadata_and_content_type_of_another_client_survive_a_change(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"1", content_type="text/x", metadata={"other": "kept"})
    with opened(fs, "/bucket/a", os.O_WRONLY | os.O_APPEND) as fd:
        fs.pwrite(fd, b"2", 0)
    fs.utime("/bucket/a", 1_500_000_000)
    fs.chmod("/bucket/a", 0o600)
    head = store.head("bucket", "a")
    assert head.metadata == {"other": "kept", "mtime": "1.5", "mode": "600"}
    assert head.info.content_type == "text/x"
    assert get_bytes(store, "bucket", "a") == b"12"


@pytest.mark.semantics("C21")
def test_a_new_file_s_content_type_is_guessed_from_its_name(fs: VfsFs, store: MemStore) -> None:
    for name in ("a.txt", "b.unknown-ending", "c"):
        write_file(fs, f"/bucket/{name}", b"1")
    types = [store.head("bucket", key).info.content_type for key in store.keys("bucket")]
    assert types == ["text/plain", "application/octet-stream", "application/octet-stream"]


@pytest.mark.semantics("A2")
@pytest.mark.parametrize("ttl_s", [0.0, TTL_S])
def test_a_directory_whose_listing_is_not_at_hand_has_what_it_was_given(
    mount: Mount, store: MemStore, monkeypatch: pytest.MonkeyPatch, ttl_s: float
) -> None:
    # Below a large prefix each directory is listed on its own.
    monkeypatch.setattr(listings_module, "FLAT_OBJECTS", 0)
    fs = mount(ttl_s=ttl_s)
    fs.mkdir("/bucket/d", 0o700)
    fs.utime("/bucket/d", 10**18)
    fs.vfs._listings.subtree_outdated("bucket", "")
    fs.listdir("/bucket")
    store.forget_calls()
    found = fs.lstat("/bucket/d")
    assert (found.mode & 0o7777, found.mtime_ns) == (0o700, 10**18)
    assert "head" not in store.counts()


@pytest.mark.semantics("A4")
def test_a_link_is_an_object_of_its_own_type(fs: VfsFs, store: MemStore) -> None:
    fs.symlink("some/target", "/bucket/link")
    assert store.head("bucket", "link").info.content_type == SYMLINK_TYPE
    assert get_bytes(store, "bucket", "link") == b"some/target"
    put_bytes(store, "bucket", "theirs", b"x", content_type=SYMLINK_TYPE)
    fs.vfs._listings.subtree_outdated("bucket", "")
    assert fs.readlink("/bucket/theirs") == "x"


# -- failures -------------------------------------------------------------------------------------


@pytest.mark.semantics("R1", "R2", "L1")
def test_a_failed_upload_fails_the_close_and_the_data_are_kept(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_TRUNC)
    fs.pwrite(fd, b"precious", 0)
    store.fail_next(QuotaExceeded("bucket/a", "over quota"), "put")
    expected_logs("bucket/a was not stored .*over quota.*: kept in")
    with pytest.raises(QuotaExceeded):
        fs.close(fd)
    assert get_bytes(store, "bucket", "a") == b"old"
    lines = fs.vfs.status()["not_stored"]
    assert isinstance(lines, list)
    (line,) = lines
    assert Path(line.rpartition("kept in ")[2]).read_bytes() == b"precious"


@pytest.mark.semantics("H5", "R2")
@pytest.mark.parametrize("content", [b"", b"precious"], ids=["empty", "not empty"])
def test_a_file_that_is_not_tried_when_the_mount_ends_is_kept_with_all_that_it_has(
    mount: Mount, store: MemStore, clock: FakeClock, expected_logs: ExpectLog, content: bytes
) -> None:
    fs = mount(connections=2, timeout_s=60.0)
    fs.pwrite(fs.open("/bucket/first", os.O_WRONLY | os.O_CREAT), b"first", 0)
    fs.pwrite(fs.open("/bucket/a.txt", os.O_WRONLY | os.O_CREAT), content, 0)
    fs.utime("/bucket/a.txt", 1_500_000_000)
    fs.chmod("/bucket/a.txt", 0o640)
    fs.setxattr("/bucket/a.txt", "user.color", b"red")

    def fall_silent(call: Call) -> None:
        clock.advance(60.0)
        raise TimedOut(call.key, "no progress within 60 s")

    store.before = fall_silent
    expected_logs("no progress")
    expected_logs("bucket/a.txt was not stored .the store did not answer when the mount ended.")
    assert len(fs.vfs.close()) == 2
    notes = {entry.note.key: entry for entry in entries(fs.vfs._services.spool.folder)}
    entry = notes["a.txt"]
    assert entry.data.read_bytes() == content
    expected = {"mtime": "1.5", "mode": "640", "color": "red"}
    assert (entry.note.metadata, entry.note.content_type) == (expected, "text/plain")


@pytest.mark.semantics("H5", "R2")
def test_what_is_given_up_at_the_end_is_kept_whatever_is_under_way(
    mount: Mount, store: MemStore, tmp_path: Path
) -> None:
    fs = mount(connections=2, write_back=True, write_back_delay_s=3600.0)
    for number in range(3):
        fd = fs.open(f"/bucket/{number}", os.O_WRONLY | os.O_CREAT)
        fs.pwrite(fd, b"precious", 0)
        fs.chmod(f"/bucket/{number}", 0o640)
    under_way, go_on = threading.Event(), threading.Event()

    def stop(call: Call) -> None:
        if call.method == "put":
            under_way.set()
            assert go_on.wait(30)

    store.before = stop
    closing = threading.Thread(target=fs.vfs.close)
    closing.start()
    assert under_way.wait(30)
    spool = fs.vfs._services.spool.folder
    lines = fs.vfs.give_up()
    shutil.copytree(spool, tmp_path / "dead")
    go_on.set()
    closing.join()
    # What ends well after all leaves nothing.
    assert entries(spool) == []
    assert [line.partition(" ")[0] for line in lines] == [f"bucket/{n}" for n in range(3)]
    dead = Spool(tmp_path / "dead", MIB)
    dead.open()
    assert [entry.data.read_bytes() for entry in dead.entries()] == [b"precious"] * 3
    for entry in dead.entries():
        assert (entry.is_kept, entry.is_certain, entry.note.metadata["mode"]) == (True, True, "640")
    dead.close()


@pytest.mark.semantics("H5")
def test_a_file_whose_end_fails_in_the_spool_costs_no_other_its_upload(
    mount: Mount, store: MemStore, expected_logs: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = mount(connections=2)
    lost = fs.open("/bucket/lost", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(lost, b"stored", 0)
    fs.fsync(lost)
    for number in range(3):
        fs.pwrite(fs.open(f"/bucket/{number}", os.O_WRONLY | os.O_CREAT), b"precious", 0)
    discard = SpoolFile.discard

    def fail(file: SpoolFile) -> None:
        if file.path.read_bytes() == b"stored":
            raise OSError(errno.EIO, "Input/output error")
        discard(file)

    expected_logs("closing bucket/lost")
    with monkeypatch.context() as broken:
        broken.setattr(SpoolFile, "discard", fail)
        assert fs.vfs.close() == []
    assert [get_bytes(store, "bucket", str(number)) for number in range(3)] == [b"precious"] * 3


@pytest.mark.semantics("H5", "R2")
def test_data_that_can_neither_be_stored_nor_kept_are_told_of_at_the_end(
    fs: VfsFs,
    store: MemStore,
    expected_logs: ExpectLog,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fs.pwrite(fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT), b"precious", 0)

    def read_only(*args: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    store.fail_next(QuotaExceeded("bucket/a", "over quota"), "put")
    expected_logs("over quota")
    expected_logs("bucket/a: .*the spool's disk failed")
    expected_logs("closing bucket/a")
    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", read_only)
        broken.setattr(Path, "rename", read_only)
        assert fs.vfs.close() == ["bucket/a was not stored, and could not be kept"]


@pytest.mark.semantics("C9", "C19")
def test_a_file_that_another_client_made_after_o_excl_is_not_replaced(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog, clock: FakeClock
) -> None:
    expected_logs("bucket/lock was not stored")
    fs.listdir("/bucket")
    fd = fs.open("/bucket/lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    fs.pwrite(fd, b"ours", 0)
    put_bytes(store, "bucket", "lock", b"theirs")
    with pytest.raises(Exists):
        fs.close(fd)
    assert read_file(fs, "/bucket/lock") == b"theirs"
    clock.advance(100)
    fs.unlink("/bucket/lock")
    write_file(fs, "/bucket/lock", b"again", flags=os.O_EXCL)
    with opened(fs, "/bucket/lock", os.O_RDWR) as fd:
        fs.pwrite(fd, b"A", 0)
    assert get_bytes(store, "bucket", "lock") == b"Again"


@pytest.mark.semantics("C9", "C20")
def test_an_fsync_of_a_file_of_its_own_can_be_repeated_after_an_answer_was_lost(
    fs: VfsFs, store: MemStore
) -> None:
    fd = fs.open("/bucket/lock", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    fs.pwrite(fd, b"mine", 0)
    store.fail_next(Unavailable("store", "reset"), "put", is_done=True)
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    fs.pwrite(fd, b" only", 4)
    fs.fsync(fd)
    fs.close(fd)
    assert get_bytes(store, "bucket", "lock") == b"mine only"


@pytest.mark.semantics("C19")
def test_a_version_that_is_gone_when_the_rest_of_it_is_fetched_is_stale_and_looked_up_anew(
    fs: VfsFs, store: MemStore, clock: FakeClock, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a was not stored")
    put_bytes(store, "bucket", "a", b"0123456789")
    fd = fs.open("/bucket/a", os.O_RDWR)
    fs.pwrite(fd, b"x", 3)
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"theirs")
    with pytest.raises(Stale):
        fs.close(fd)
    assert read_file(fs, "/bucket/a") == b"theirs"


@pytest.mark.semantics("C20")
def test_a_failed_fsync_can_be_tried_again(fs: VfsFs, store: MemStore) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"precious", 0)
    store.fail_next(Unavailable("bucket/a", "503"), "put")
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    fs.fsync(fd)
    assert get_bytes(store, "bucket", "a") == b"precious"
    fs.close(fd)


def test_closing_the_mount_uploads_what_is_open(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    assert fs.vfs.close() == []
    assert get_bytes(store, "bucket", "a") == b"content"


def test_closing_the_mount_tells_what_could_not_be_uploaded_and_uploads_the_rest(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    fs = mount()
    for name in ("a", "b", "c"):
        fd = fs.open(f"/bucket/{name}", os.O_WRONLY | os.O_CREAT)
        fs.pwrite(fd, name.encode(), 0)

    def fail(call: Call) -> None:
        if call.key == "b":
            raise Unavailable("bucket/b", "503")

    store.before = fail
    expected_logs("bucket/b")
    (line,) = fs.vfs.close()
    assert line.startswith("bucket/b was not stored")
    assert store.keys("bucket") == ["a", "c"]


@pytest.mark.semantics("H5")
def test_closing_the_mount_uploads_several_files_at_a_time(mount: Mount, store: MemStore) -> None:
    fs = mount(connections=4)
    dirty(fs, 6)
    two = threading.Barrier(2)

    def meet(call: Call) -> None:
        if call.method == "put":
            two.wait(30)

    store.before = meet
    assert fs.vfs.close() == []
    assert len(store.keys("bucket")) == 6


@pytest.mark.semantics("H5")
def test_closing_the_mount_does_not_wait_for_each_file_of_a_silent_store(
    mount: Mount, store: MemStore, clock: FakeClock, expected_logs: ExpectLog
) -> None:
    fs = mount(connections=4, timeout_s=60.0)
    dirty(fs, 20)
    asked: list[str] = []

    def fall_silent(call: Call) -> None:
        asked.append(call.key)
        clock.advance(60.0)
        raise TimedOut(call.key, "no progress within 60 s")

    store.before = fall_silent
    expected_logs("no progress")
    expected_logs("was not stored .the store did not answer when the mount ended.")
    lines = fs.vfs.close()
    assert len(lines) == 20
    assert len(asked) <= 2
    assert len(fs.vfs._services.spool.kept()) == 20


def dirty(fs: VfsFs, count: int) -> None:
    """Leave files open that are not stored."""
    for number in range(count):
        fd = fs.open(f"/bucket/{number}", os.O_WRONLY | os.O_CREAT)
        fs.pwrite(fd, b"content", 0)


def test_a_fault_in_one_file_does_not_keep_the_others_from_being_uploaded_at_the_end(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    fs = mount()
    for name in ("a", "b", "c"):
        fd = fs.open(f"/bucket/{name}", os.O_WRONLY | os.O_CREAT)
        fs.pwrite(fd, name.encode(), 0)

    def fail(call: Call) -> None:
        if call.key == "a":
            raise ZeroDivisionError

    store.before = fail
    expected_logs("bucket/a")
    (line,) = fs.vfs.close()
    assert line.startswith("bucket/a was not stored")
    assert store.keys("bucket") == ["b", "c"]


@pytest.mark.semantics("C17", "R9")
def test_a_full_spool_fails_the_write_and_not_the_file(mount: Mount, store: MemStore) -> None:
    fs = mount(spool_size=1000)
    with opened(fs, "/bucket/a", os.O_WRONLY | os.O_CREAT) as fd:
        fs.pwrite(fd, bytes(900), 0)
        with pytest.raises(NoSpace):
            fs.pwrite(fd, bytes(200), 900)
        fs.pwrite(fd, bytes(100), 900)
    assert store.head("bucket", "a").info.size == 1000
    assert fs.vfs.status()["spool_used"] == 0


def test_an_open_that_fails_leaves_no_handle(
    fs: VfsFs, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_bytes(store, "bucket", "a", b"1")

    def full() -> None:
        raise NoSpace("spool", "full")

    monkeypatch.setattr(fs.vfs._services.spool, "create", full)
    with pytest.raises(NoSpace):
        fs.open("/bucket/a", os.O_WRONLY | os.O_TRUNC)
    assert fs.vfs.status()["open_files"] == 0


@pytest.mark.semantics("C18", "R9")
def test_a_truncate_by_path_that_fails_changes_nothing(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    put_bytes(store, "bucket", "a", b"0123456789")
    store.fail_next(QuotaExceeded("bucket/a", "413"), "put")
    expected_logs("was not stored")
    with pytest.raises(QuotaExceeded):
        fs.truncate("/bucket/a", 5)
    assert get_bytes(store, "bucket", "a") == b"0123456789"
    assert fs.lstat("/bucket/a").size == 10


@pytest.mark.semantics("C25", "R9")
def test_a_rename_that_cannot_copy_changes_nothing(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"new")
    put_bytes(store, "bucket", "b", b"older")
    store.fail_next(Unavailable("bucket/a", "503"), "copy")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    assert read_file(fs, "/bucket/a") + read_file(fs, "/bucket/b") == b"newolder"


@pytest.mark.semantics("C25", "R9")
def test_a_rename_whose_source_may_not_be_deleted_fails_and_changes_nothing(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"content")
    store.fail_next(AccessDenied("bucket/a", "403"), "delete")
    with pytest.raises(AccessDenied):
        fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == store.keys("bucket") == ["a"]
    assert read_file(fs, "/bucket/a") == b"content"


@pytest.mark.semantics("C25")
@pytest.mark.parametrize("size", [7, 3 * MIB])
@pytest.mark.parametrize("error", [Unavailable, TimedOut, NoSpace])
def test_a_rename_whose_source_the_store_deletes_later_loses_nothing(
    fs: VfsFs, store: MemStore, error: type[FsError], size: int, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a stands, and bucket/b is a second name now")
    write_file(fs, "/bucket/a", bytes(size))
    store.fail_next(error("bucket/a", "not now"), "delete")
    with pytest.raises(error):
        fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == store.keys("bucket") == ["a", "b"]
    assert read_file(fs, "/bucket/a") == bytes(size)
    store.delete("bucket", "a")
    assert read_file(fs, "/bucket/b") == bytes(size)


@pytest.mark.semantics("C25")
@pytest.mark.parametrize("size", [7, 3 * MIB])
def test_a_rename_whose_source_may_be_deleted_by_an_earlier_attempt_loses_nothing(
    fs: VfsFs, store: MemStore, size: int, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a stands, and bucket/b is a second name now")
    write_file(fs, "/bucket/a", bytes(size))
    # The first attempt was not answered, and the second one refused.
    error = AccessDenied("bucket/a", "403")
    error.may_be_done = True
    store.fail_next(error, "delete")
    with pytest.raises(AccessDenied):
        fs.rename("/bucket/a", "/bucket/b")
    store.delete("bucket", "a")
    assert read_file(fs, "/bucket/b") == bytes(size)


@pytest.mark.semantics("C25")
def test_a_rename_of_whose_source_nothing_is_known_leaves_both_names(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/b is a second name now")
    put_bytes(store, "bucket", "a", b"content")
    store.fail_next(AccessDenied("bucket/a", "403"), "delete")
    store.fail_next(Unavailable("bucket/a", "503"), "head")
    with pytest.raises(AccessDenied):
        fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == store.keys("bucket") == ["a", "b"]


def test_a_rename_whose_copy_cannot_be_taken_back_leaves_both_names(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/b is a second name now")
    write_file(fs, "/bucket/a", bytes(3 * MIB))
    store.fail_next(AccessDenied("bucket/a", "403"), "delete")
    store.fail_next(AccessDenied("bucket/b", "403"), "delete")
    with pytest.raises(AccessDenied):
        fs.rename("/bucket/a", "/bucket/b")
    assert fs.listdir("/bucket") == store.keys("bucket") == ["a", "b"]
    fs.unlink("/bucket/a")
    assert read_file(fs, "/bucket/b") == bytes(3 * MIB)


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_APPEND])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_write_of_no_data_changes_nothing(
    fs: VfsFs, store: MemStore, clock: FakeClock, flags: int, is_replaced: bool
) -> None:
    put_bytes(store, "bucket", "a", b"content")
    before = fs.lstat("/bucket/a")
    clock.advance(5)
    with opened(fs, "/bucket/a", flags) as fd:
        assert fs.pwrite(fd, b"", 0) == fs.pwrite(fd, b"", 100) == 0
        assert fs.lstat("/bucket/a") == before
        if is_replaced:
            put_bytes(store, "bucket", "a", b"theirs")
        store.forget_calls()
    assert store.counts() == {}
    assert get_bytes(store, "bucket", "a") == (b"theirs" if is_replaced else b"content")


def test_a_rename_flushes_what_is_dirty_first(fs: VfsFs, store: MemStore) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    store.fail_next(QuotaExceeded("bucket/a", "413"), "put")
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/a", "/bucket/b")
    fs.rename("/bucket/a", "/bucket/b")
    fs.close(fd)
    assert store.keys("bucket") == ["b"]


@pytest.mark.semantics("R9")
def test_a_failed_unlink_keeps_the_file(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"content")
    store.fail_next(Unavailable("bucket/a", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.unlink("/bucket/a")
    assert read_file(fs, "/bucket/a") == b"content"


@pytest.mark.semantics("C5")
def test_a_failed_listing_is_an_error_and_never_an_empty_directory(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"1")
    for method in ("containers", "listing"):
        store.fail_next(Unavailable("bucket", "503"), method)
        with pytest.raises(Unavailable):
            fs.listdir("/bucket")
    assert fs.listdir("/bucket") == ["a"]


def test_a_size_that_cannot_be_asked_for_is_an_error_and_asked_again(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "empty")
    store.fail_next(Unavailable("bucket/empty", "503"), "head")
    with pytest.raises(Unavailable):
        fs.lstat("/bucket/empty")
    assert fs.lstat("/bucket/empty").size == 0


def test_a_static_large_object_whose_segments_nobody_tells_can_be_removed(
    mount: Mount, clock: FakeClock
) -> None:
    # What `swift upload -S` makes on Ceph RGW.
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    store.create_container("bucket")
    part = put_bytes(store, "bucket", "part", b"1")
    segments = [Segment("bucket", "part", 1, part.etag)]
    store.put_slo("bucket", "a", segments, content_type="a/b")
    fs = mount(on=store)
    assert read_file(fs, "/bucket/a") == b"1"
    fs.unlink("/bucket/a")
    fs.vfs._listings.subtree_outdated("bucket", "")
    assert fs.listdir("/bucket") == []


# -- handles --------------------------------------------------------------------------------------


def test_a_handle_that_is_not_open_is_ebadf(fs: VfsFs) -> None:
    calls: list[Callable[[], object]] = [
        lambda: fs.vfs.read(99, 0, 1),
        lambda: fs.vfs.write(99, 0, b"x"),
        lambda: fs.vfs.flush(99),
        lambda: fs.vfs.truncate("", 0, 99),
        lambda: fs.vfs.release(99),
    ]
    for call in calls:
        with pytest.raises(BadHandle):
            call()


def test_a_handle_is_good_for_what_it_was_opened_for(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"1")
    with opened(fs, "/bucket/a", os.O_RDONLY) as reading, pytest.raises(BadHandle):
        fs.pwrite(reading, b"x", 0)
    with opened(fs, "/bucket/a", os.O_WRONLY) as writing, pytest.raises(BadHandle):
        fs.pread(writing, 1, 0)


@pytest.mark.semantics("C23")
def test_an_unlinked_file_goes_nowhere(fs: VfsFs, store: MemStore) -> None:
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"1", 0)
    fs.unlink("/bucket/a")
    fs.pwrite(fd, b"2", 1)
    fs.close(fd)
    assert store.keys("bucket") == []
    assert fs.vfs.status()["spool_used"] == 0


@pytest.mark.semantics("C23")
def test_the_stored_part_of_a_large_unlinked_file_is_stale(
    fs: VfsFs, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openfile, "HELD_BYTES", 8 * MIB - 1)
    put_bytes(store, "bucket", "a", bytes(8 * MIB))
    with opened(fs, "/bucket/a") as fd:
        fs.pread(fd, 10, 5 * MIB)
        fs.unlink("/bucket/a")
        with pytest.raises(Stale):
            fs.pread(fd, 10, 2 * MIB)


def test_a_file_that_cannot_be_fetched_is_unlinked_all_the_same(
    mount: Mount, store: MemStore
) -> None:
    fs = mount(spool_size=MIB)
    put_bytes(store, "bucket", "a", bytes(8 * MIB))
    with opened(fs, "/bucket/a") as fd:
        fs.unlink("/bucket/a")
        assert store.keys("bucket") == []
        with pytest.raises(Stale):
            fs.pread(fd, 10, 2 * MIB)


def test_an_unlinked_file_is_opened_again_by_its_descriptor(fs: VfsFs) -> None:
    # As /proc/self/fd/N does: the kernel asks for the hidden name.
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    fs.unlink("/bucket/a")
    again, _ = fs.vfs.open("/bucket/.fuse_hidden", os.O_RDWR)
    assert fs.pread(again, 10, 0) == b"content"
    fs.pwrite(again, b"C", 0)
    assert fs.pread(fd, 10, 0) == b"Content"
    fs.close(again)
    fs.close(fd)
    assert fs.vfs.status()["spool_used"] == 0


def test_the_kernel_keeps_pages_while_the_version_is_the_same(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"1")

    def keeps() -> bool:
        fh, handle = fs.vfs.open("/bucket/a", os.O_RDONLY)
        fs.vfs.release(fh)
        return handle.keep_cache

    assert [keeps(), keeps()] == [False, True]
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"2")
    clock.advance(TTL_S)
    assert [keeps(), keeps()] == [False, True]
    write_file(fs, "/bucket/a", b"3")
    keeps()
    assert keeps()
    fs.truncate("/bucket/a", 0)
    keeps()
    assert keeps()


def test_status_counts_what_is_open_and_dirty(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"1")
    fd, other = fs.open("/bucket/a", os.O_RDONLY), fs.open("/bucket/b", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(other, bytes(100), 0)
    status = fs.vfs.status()
    assert (status["open_files"], status["dirty_files"], status["spool_used"]) == (2, 1, 100)
    fs.close(fd)
    fs.close(other)
    status = fs.vfs.status()
    assert (status["open_files"], status["dirty_files"], status["spool_used"]) == (0, 0, 0)


# -- read-only ------------------------------------------------------------------------------------


@pytest.mark.semantics("C0")
def test_a_read_only_mount_refuses_every_change(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    fs = mount(read_only=True)
    calls: list[Callable[[], object]] = [
        lambda: fs.open("/bucket/a", os.O_WRONLY),
        lambda: fs.open("/bucket/a", os.O_RDWR),
        lambda: fs.open("/bucket/new", os.O_RDONLY | os.O_CREAT),
        lambda: fs.truncate("/bucket/a", 0),
        lambda: fs.unlink("/bucket/a"),
        lambda: fs.rename("/bucket/a", "/bucket/b"),
        lambda: fs.mkdir("/bucket/e"),
        lambda: fs.mkdir("/new"),
        lambda: fs.rmdir("/bucket/d"),
        lambda: fs.rmdir("/bucket"),
        lambda: fs.utime("/bucket/a", 1),
        lambda: fs.chmod("/bucket/a", 0o600),
        lambda: fs.symlink("a", "/bucket/link"),
    ]
    before = store.keys("bucket")
    for call in calls:
        with pytest.raises(ReadOnly):
            call()
    assert read_file(fs, "/bucket/a") == b"1"
    assert store.keys("bucket") == before


def test_owner_and_modes_are_the_mount_s_unless_given(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"1")
    fs = mount(uid=1234, gid=5678, umask=0o027)
    file, directory = fs.vfs.getattr("/bucket/a"), fs.vfs.getattr("/bucket")
    assert (file.uid, file.gid, stat.S_IMODE(file.mode)) == (1234, 5678, 0o640)
    assert (directory.uid, directory.gid, stat.S_IMODE(directory.mode)) == (1234, 5678, 0o750)
    fs.vfs.set_attributes("/bucket/a", Given(uid=1, gid=2))
    file = fs.vfs.getattr("/bucket/a")
    assert (file.uid, file.gid, stat.S_IMODE(file.mode)) == (1, 2, 0o640)


@pytest.mark.semantics("C0")
def test_every_refusal_has_an_errno_of_its_own(fs: VfsFs, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "d/b", b"1")
    rows: list[tuple[Callable[[], object], type[FsError]]] = [
        (lambda: fs.vfs.open("/bucket/d", os.O_RDONLY), IsADirectory),
        (lambda: fs.vfs.open("/bucket", os.O_RDONLY), IsADirectory),
        (lambda: fs.vfs.open("/bucket/x", os.O_RDONLY), NotFound),
        (lambda: fs.vfs.listdir("/bucket/a"), NotADirectory),
        (lambda: fs.vfs.listdir("/bucket/x"), NotFound),
        (lambda: fs.vfs.listdir("/missing"), NotFound),
        (lambda: fs.vfs.unlink("/bucket/d"), IsADirectory),
        (lambda: fs.vfs.unlink("/bucket"), IsADirectory),
        (lambda: fs.vfs.rmdir("/bucket/a"), NotADirectory),
        (lambda: fs.vfs.rmdir("/missing"), NotFound),
        (lambda: fs.vfs.mkdir("/bucket/a"), Exists),
        (lambda: fs.vfs.mkdir("/bucket"), Exists),
        (lambda: fs.vfs.symlink("/bucket/a", "t"), Exists),
        (lambda: fs.vfs.rename("/bucket/a", "/bucket/d"), IsADirectory),
        (lambda: fs.vfs.rename("/bucket/x", "/bucket/y"), NotFound),
        (lambda: fs.vfs.create("/bucket/a", os.O_CREAT | os.O_EXCL), Exists),
        (lambda: fs.vfs.create("/bucket/" + "x/" * 600, os.O_CREAT), NameTooLong),
        (lambda: fs.vfs.mkdir("/bucket/" + "x/" * 600), NameTooLong),
        (lambda: fs.vfs.rename("/bucket/a", "/bucket/" + "x/" * 600), NameTooLong),
    ]
    for call, expected in rows:
        with pytest.raises(FsError) as caught:
            call()
        assert type(caught.value) is expected


@pytest.mark.parametrize("error", [AccessDenied, Unavailable])
def test_a_rename_over_a_file_whose_source_cannot_be_deleted_leaves_both_names_complete(
    fs: VfsFs, store: MemStore, error: type[FsError], expected_logs: ExpectLog
) -> None:
    expected_logs("is a second name now")
    put_bytes(store, "bucket", "a", b"content")
    put_bytes(store, "bucket", "b", b"older")
    store.fail_next(error("bucket/a", "503"), "delete")
    with pytest.raises(error):
        fs.rename("/bucket/a", "/bucket/b")
    assert sorted(fs.listdir("/bucket")) == ["a", "b"]
    assert read_file(fs, "/bucket/a") + read_file(fs, "/bucket/b") == b"contentcontent"


# -- pages of a mapping, and room ----------------------------------------------------------------


def test_what_is_written_after_the_last_flush_is_uploaded_by_release(
    fs: VfsFs, store: MemStore
) -> None:
    # As the kernel writes the pages of a mapping that outlives its descriptor.
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"flushed", 0)
    fs.vfs.flush(fd)
    fs.pwrite(fd, b"later", 7)
    fs.vfs.release(fd)
    assert get_bytes(store, "bucket", "a") == b"flushedlater"
    assert fs.vfs.status()["spool_used"] == 0


def test_release_does_not_upload_while_other_handles_are_open(fs: VfsFs, store: MemStore) -> None:
    with opened(fs, "/bucket/a", os.O_RDWR | os.O_CREAT) as fd:
        other = fs.open("/bucket/a", os.O_RDWR)
        fs.pwrite(fd, b"content", 0)
        store.forget_calls()
        fs.vfs.release(other)
        assert store.counts() == {}
    assert get_bytes(store, "bucket", "a") == b"content"


def test_what_release_cannot_store_is_kept_and_logged(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.vfs.flush(fd)
    fs.pwrite(fd, b"content", 0)
    store.fail_next(QuotaExceeded("bucket/a", "over quota"), "put")
    expected_logs("bucket/a was not stored .*over quota.*: kept in")
    fs.vfs.release(fd)
    lines = fs.vfs.status()["not_stored"]
    assert isinstance(lines, list)
    assert Path(lines[0].rpartition("kept in ")[2]).read_bytes() == b"content"


def test_release_does_not_repeat_what_close_has_told_the_program(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    store.fail_next(QuotaExceeded("bucket/a", "over quota"), "put")
    expected_logs("was not stored")
    store.forget_calls()
    with pytest.raises(QuotaExceeded):
        fs.close(fd)
    assert store.counts()["put"] == 1


def test_a_page_has_its_place_in_a_file_that_was_opened_to_append(fs: VfsFs) -> None:
    write_file(fs, "/bucket/a", b"0123456789")
    with opened(fs, "/bucket/a", os.O_RDWR | os.O_APPEND) as fd:
        fs.vfs.write(fd, 2, b"page", in_place=True)
        fs.vfs.write(fd, 2, b"end")
    assert read_file(fs, "/bucket/a") == b"01page6789end"


def test_room_that_was_taken_is_there_for_later_writes(mount: Mount) -> None:
    fs = mount(spool_size=MIB)
    with opened(fs, "/bucket/a", os.O_RDWR | os.O_CREAT) as fd:
        fs.pwrite(fd, b"begin", 0)
        fs.vfs.allocate(fd, 0, MIB)
        assert fs.lstat("/bucket/a").size == MIB
        assert fs.vfs.status()["spool_used"] == MIB
        with opened(fs, "/bucket/b", os.O_RDWR | os.O_CREAT) as other, pytest.raises(NoSpace):
            fs.pwrite(other, b"1", 0)
        with pytest.raises(NoSpace):
            fs.vfs.allocate(fd, MIB, 1)
        fs.pwrite(fd, b"end", MIB - 3)
    assert read_file(fs, "/bucket/a") == b"begin" + bytes(MIB - 8) + b"end"


@pytest.mark.parametrize(
    ("keep_size", "expected"), [(True, b"01" + bytes(8)), (False, b"01" + bytes(28))]
)
def test_an_erased_span_is_zeros(fs: VfsFs, keep_size: bool, expected: bytes) -> None:
    write_file(fs, "/bucket/a", b"0123456789")
    with opened(fs, "/bucket/a", os.O_RDWR) as fd:
        fs.vfs.erase(fd, 2, 28, keep_size=keep_size)
    assert read_file(fs, "/bucket/a") == expected


def test_a_link_that_is_followed_again_asks_nothing(fs: VfsFs, store: MemStore) -> None:
    fs.symlink("target", "/bucket/link")
    assert fs.readlink("/bucket/link") == "target"
    store.forget_calls()
    for _ in range(3):
        assert fs.readlink("/bucket/link") == "target"
    assert store.counts() == {}
    fs.unlink("/bucket/link")
    fs.symlink("another", "/bucket/link")
    assert fs.readlink("/bucket/link") == "another"


@pytest.mark.semantics("C12")
@pytest.mark.parametrize("offset", [0, 7 * MIB])
def test_a_read_that_is_under_way_while_the_file_is_stored_anew_ends_with_the_new_bytes(
    fs: VfsFs, store: MemStore, offset: int
) -> None:
    """``cat big`` beside ``echo > big`` on a slow line."""
    put_bytes(store, "bucket", "a", bytes(8 * MIB))
    reached, go_on = threading.Event(), threading.Event()

    def wait(call: Call) -> None:
        if call.method == "get":
            reached.set()
            assert go_on.wait(30)

    store.before = wait
    found: list[bytes] = []
    with opened(fs, "/bucket/a") as fd:
        reading = threading.Thread(target=lambda: found.append(fs.pread(fd, 2 * MIB, offset)))
        reading.start()
        assert reached.wait(30)
        write_file(fs, "/bucket/a", b"new", flags=os.O_TRUNC)
        # The store has given no byte of the old ones yet.
        reading.join(10)
        is_ended = not reading.is_alive()
        go_on.set()
        reading.join()
    assert (is_ended, found) == (True, [b"new"[offset:]])
    assert get_bytes(store, "bucket", "a") == b"new"


def test_a_small_read_that_is_under_way_while_the_file_is_stored_anew_is_of_one_version(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"old" * 1000)
    reached, go_on = threading.Event(), threading.Event()

    def wait(call: Call) -> None:
        if call.method == "get":
            reached.set()
            assert go_on.wait(30)

    store.before = wait
    found: list[bytes] = []
    with opened(fs, "/bucket/a") as fd:
        reading = threading.Thread(target=lambda: found.append(fs.pread(fd, 4000, 0)))
        reading.start()
        assert reached.wait(30)
        write_file(fs, "/bucket/a", b"new" * 1000, flags=os.O_TRUNC)
        go_on.set()
        reading.join()
        assert fs.pread(fd, 4000, 0) == b"new" * 1000
    assert len(found) == 1
    assert found[0] in (b"old" * 1000, b"new" * 1000)


def test_a_read_that_comes_late_is_not_stale_because_of_an_own_version(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"old" * 1000)
    reached, go_on = threading.Event(), threading.Event()

    def wait(call: Call) -> None:
        if call.method == "get":
            reached.set()
            assert go_on.wait(30)

    def stored(call: Call) -> None:
        if call.method == "put":
            # The store has the new version, and the mount does not know it yet.
            go_on.set()
            reading.join(0.2)

    store.before, store.after = wait, stored
    found: list[bytes] = []
    with opened(fs, "/bucket/a") as fd:
        reading = threading.Thread(target=lambda: found.append(fs.pread(fd, 4000, 0)))
        reading.start()
        assert reached.wait(30)
        write_file(fs, "/bucket/a", b"new" * 1000)
        reading.join()
    assert found == [b"new" * 1000]


def test_a_file_is_not_opened_that_is_closed_at_the_same_time(
    fs: VfsFs, store: MemStore, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectLog
) -> None:
    """One whose upload failed has its changes no longer; they are kept for its owner."""
    expected_logs("bucket/a was not stored")
    put_bytes(store, "bucket", "a", b"old")
    vfs = fs.vfs
    fh, handle = vfs.open("/bucket/a", os.O_WRONLY | os.O_TRUNC)
    vfs.write(fh, 0, b"changed")
    store.fail_next(QuotaExceeded("bucket", "413"), "put")
    with pytest.raises(QuotaExceeded):
        vfs.flush(fh)
    at, is_closed = vfs._files.at, threading.Event()

    def closed_then(place: Place) -> OpenFile | None:
        file = at(place)
        if not is_closed.is_set():
            is_closed.set()
            vfs.release(fh)
        return file

    monkeypatch.setattr(vfs._files, "at", closed_then)
    other, found = vfs.open("/bucket/a", os.O_RDONLY)
    if not is_closed.is_set():
        vfs.release(fh)
    is_same = found.file is handle.file
    expected = (7, b"changed") if is_same else (3, b"old")
    assert (found.file.attr.size, vfs.read(other, 0, 100)) == expected
    vfs.release(other)
