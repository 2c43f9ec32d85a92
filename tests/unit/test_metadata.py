"""Attributes over a store in memory: who learns what, when, and by how many requests."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.errors import (
    AccessDenied,
    AttributesFull,
    AttributeTooLarge,
    NoAttribute,
    NotFound,
    NotPermitted,
    NotSupported,
    ReadOnly,
    Unavailable,
)
from allasfs.fs.attrs import SYMLINK_TYPE, Given
from allasfs.store.api import DIRECTORY_TYPE, Capabilities
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.clock import START_NS, FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, put_bytes

OLD_NS = 1_234_567_890_123_456_789
OLD = {"mtime": "1234567890.123456789", "mode": "600", "uid": "5", "gid": "6"}
Mount = Callable[..., VfsFs]


@pytest.fixture
def mount(mount: Mount, store: MemStore, tmp_path: Path) -> Mount:
    """Mount again and again, with one database: ``mount(exact_attributes=True)``."""
    started: list[VfsFs] = []

    def start(*, on: MemStore = store, **settings: object) -> VfsFs:
        for each in started:
            each.vfs.close()
        fixed = {"attr_db": tmp_path / "attributes.sqlite", "uid": 1, "gid": 2}
        started.append(mount(on=on, **{**fixed, **settings}))
        on.forget_calls()
        return started[-1]

    return start


def shown(fs: VfsFs, path: str) -> Given:
    attr = fs.vfs.getattr(path)
    return Given(attr.mtime_ns, stat.S_IMODE(attr.mode), attr.uid, attr.gid)


LISTED = Given(START_NS, 0o644, 1, 2)
EXACT = Given(OLD_NS, 0o600, 5, 6)


# -- across mounts --------------------------------------------------------------------------------


def test_what_this_computer_stored_is_told_by_the_next_mount_without_a_request(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    fs = mount()
    fs.mkdir("/bucket/d")
    for name in ("a", "d/b", "d/c"):
        write_file(fs, f"/bucket/{name}", name.encode())
    fs.utime("/bucket/a", OLD_NS)
    fs.utime("/bucket/d/b", OLD_NS)
    fs.chmod("/bucket/d/b", 0o600)
    fs.vfs.set_attributes("/bucket/d/c", Given(uid=7, gid=8))
    fs.rename("/bucket/a", "/bucket/renamed")
    fs.utime("/bucket/d", OLD_NS)
    fs.utime("/bucket", OLD_NS)
    fs.symlink("target", "/bucket/link")
    paths = ["", "/d", "/d/b", "/d/c", "/renamed", "/link"]
    before = [shown(fs, f"/bucket{path}") for path in paths]
    assert [each.mtime_ns for each in before[:3]] == [OLD_NS] * 3
    clock.advance(5)
    fs = mount()
    fs.listdir("/bucket")
    assert [shown(fs, f"/bucket{path}") for path in paths] == before
    assert store.counts() == {"containers": 1, "listing": 1}


def test_a_version_of_another_client_is_not_taken_for_one_that_is_remembered(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", b"data")
    fs.utime("/bucket/a", OLD_NS)
    clock.advance(10)
    put_bytes(store, "bucket", "a", b"data", metadata={"mtime": "5"})
    fs = mount()
    assert shown(fs, "/bucket/a").mtime_ns == START_NS + 10 * 10**9


def test_without_the_database_the_next_mount_knows_nothing(mount: Mount) -> None:
    for settings in ({"attr_db": None}, {"attr_db_rows": 0}):
        fs = mount(**settings)
        write_file(fs, "/bucket/a", b"data")
        fs.utime("/bucket/a", OLD_NS)
        assert shown(mount(**settings), "/bucket/a").mtime_ns == START_NS


# -- what is told of a version --------------------------------------------------------------------


def test_by_default_an_unknown_version_shows_what_its_listing_tells(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata=OLD)
    fs = mount()
    assert shown(fs, "/bucket/a") == LISTED
    assert "head" not in store.counts()


def test_what_was_told_stays_until_the_unmount(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata=OLD)
    fs = mount()
    assert shown(fs, "/bucket/a") == LISTED
    assert fs.listxattr("/bucket/a") == []
    read_file(fs, "/bucket/a")
    assert shown(fs, "/bucket/a") == LISTED
    fs.chmod("/bucket/a", 0o640)
    assert shown(fs, "/bucket/a") == replace(LISTED, mode=0o640)
    assert store.head("bucket", "a").metadata == {**OLD, "mode": "640"}
    assert shown(mount(), "/bucket/a") == replace(EXACT, mode=0o640)


def test_reading_a_file_teaches_the_next_mount(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={**OLD, "colour": "blue"})
    fs = mount()
    assert read_file(fs, "/bucket/a") == b"data"
    assert fs.getxattr("/bucket/a", "user.colour") == b"blue"
    assert "head" not in store.counts()
    fs = mount()
    assert shown(fs, "/bucket/a") == EXACT
    assert fs.getxattr("/bucket/a", "user.colour") == b"blue"
    assert store.counts() == {"containers": 1, "listing": 1}


def test_reading_an_old_version_to_its_end_teaches_nothing(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={"mode": "600"})
    fs = mount()
    old = fs.vfs._tree.file(fs.vfs._tree.place("/bucket/a"))
    clock.advance(10)
    write_file(fs, "/bucket/a", b"newer")
    fs.chmod("/bucket/a", 0o640)
    fs.vfs._attributes.learn("bucket", old, {"mode": "600"})
    assert shown(fs, "/bucket/a").mode == 0o640
    assert shown(mount(), "/bucket/a").mode == 0o640


@pytest.mark.semantics("A7")
def test_a_change_of_metadata_keeps_the_time_for_everybody(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={"colour": "blue"})
    fs = mount()
    assert shown(fs, "/bucket/a").mtime_ns == START_NS
    clock.advance(100)
    fs.chmod("/bucket/a", 0o600)
    assert shown(fs, "/bucket/a").mtime_ns == START_NS
    assert store.head("bucket", "a").metadata == {
        "colour": "blue",
        "mode": "600",
        "mtime": "1700000000.12345",
    }


def test_a_renamed_file_of_another_client_keeps_its_time(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"data")
    fs = mount()
    fs.listdir("/bucket")
    clock.advance(100)
    fs.rename("/bucket/a", "/bucket/b")
    assert shown(fs, "/bucket/b").mtime_ns == START_NS
    fs = mount()
    assert shown(fs, "/bucket/b").mtime_ns == START_NS
    assert fs.listxattr("/bucket/b") == []
    assert shown(fs, "/bucket/b").mtime_ns == START_NS


def test_a_time_that_cannot_be_read_is_kept_as_it_is(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={"mtime": "yesterday", "mode": "100600"})
    fs = mount()
    fs.setxattr("/bucket/a", "user.colour", b"blue")
    assert store.head("bucket", "a").metadata == {
        "mtime": "yesterday",
        "mode": "100600",
        "colour": "blue",
    }


@pytest.mark.semantics("C31")
def test_what_changes_nothing_is_not_sent(mount: Mount, store: MemStore) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", b"data")
    fs.chmod("/bucket/a", 0o600)
    fs.utime("/bucket/a", OLD_NS)
    store.forget_calls()
    fs.chmod("/bucket/a", 0o600)
    fs.utime("/bucket/a", OLD_NS)
    fs.vfs.set_attributes("/bucket/a", Given())
    assert store.counts() == {}
    # The mount's own mode is not kept in the store yet.
    fs.vfs.set_attributes("/bucket/a", Given(uid=1))
    assert store.counts() == {"head": 1, "post": 1}


# -- attrs=exact ----------------------------------------------------------------------------------


@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW])
def test_exact_attributes_cost_one_head_for_each_version_ever(
    mount: Mount, clock: FakeClock, capabilities: Capabilities
) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=capabilities)
    store.create_container("bucket")
    names = [f"f{number}" for number in range(50)]
    for name in names:
        put_bytes(store, "bucket", name, b"data", metadata=OLD)
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE, metadata={**OLD, "mode": "700"})
    fs = mount(on=store, exact_attributes=True)
    for _ in range(2):
        fs.listdir("/bucket")
        assert {shown(fs, f"/bucket/{name}") for name in names} == {EXACT}
        assert shown(fs, "/bucket/d") == replace(EXACT, mode=0o700)
        fs.listxattr("/bucket/f1")
    heads = store.calls("head")
    assert sorted(call.key for call in heads) == sorted([*names, "d/"])
    fs = mount(on=store, exact_attributes=True)
    fs.listdir("/bucket")
    assert {shown(fs, f"/bucket/{name}") for name in names} == {EXACT}
    assert shown(fs, "/bucket/d") == replace(EXACT, mode=0o700)
    assert store.calls("head") == []
    clock.advance(100)
    put_bytes(store, "bucket", "f1", b"data", metadata={"mode": "640"})
    assert shown(fs, "/bucket/f1").mode == 0o640
    assert [call.key for call in store.calls("head")] == ["f1"]


@pytest.mark.semantics("A9")
def test_exact_attributes_of_a_bucket_are_asked_for_once_in_a_while(
    mount: Mount, store: MemStore, clock: FakeClock
) -> None:
    store.post_container("bucket", OLD)
    fs = mount(exact_attributes=True)
    for _ in range(3):
        assert shown(fs, "/bucket") == EXACT
    assert store.counts()["head_container"] == 1
    store.post_container("bucket", {"mode": "711"})
    clock.advance(61)
    assert shown(fs, "/bucket") == replace(EXACT, mode=0o711)


@pytest.mark.semantics("A6")
def test_an_object_that_may_only_be_listed_shows_what_its_listing_tells(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata=OLD)
    fs = mount(exact_attributes=True)
    store.fail_next(AccessDenied("a"), "head")
    for _ in range(3):
        assert shown(fs, "/bucket/a") == LISTED
    assert store.counts()["head"] == 1
    with pytest.raises(AccessDenied):
        fs.vfs.listxattr("/bucket/a")


def test_a_head_that_failed_is_sent_again(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata=OLD)
    fs = mount(exact_attributes=True)
    store.fail_next(Unavailable("a"), "head")
    with pytest.raises(Unavailable):
        fs.vfs.getattr("/bucket/a")
    assert shown(fs, "/bucket/a") == EXACT


def test_asking_ahead_leaves_room_for_others(mount: Mount, store: MemStore) -> None:
    for number in range(100):
        put_bytes(store, "bucket", f"f{number:03}", b"data", metadata=OLD)
    fs = mount(exact_attributes=True)
    most = 0

    def before(call: Call) -> None:
        nonlocal most
        if call.method == "head":
            most = max(most, fs.vfs._tree._askers)
        if call.key == "f050":
            # A program reads meanwhile: it does not wait for the other half.
            assert fs.vfs._pool.submit(lambda: 7).result(10) == 7

    store.before = before
    fs.listdir("/bucket")
    assert shown(fs, "/bucket/f099") == EXACT
    assert {shown(fs, f"/bucket/f{number:03}") for number in range(100)} == {EXACT}
    assert most == 2
    assert len(store.calls("head")) == 100


# -- extended attributes --------------------------------------------------------------------------


def test_metadata_of_other_clients_is_shown_and_ours_is_theirs(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={**OLD, "Colour": "blue", "x": "1"})
    fs = mount()
    assert fs.listxattr("/bucket/a") == ["user.colour", "user.x"]
    assert fs.getxattr("/bucket/a", "user.colour") == b"blue"
    fs.setxattr("/bucket/a", "user.size", b"large")
    fs.removexattr("/bucket/a", "user.x")
    assert store.head("bucket", "a").metadata == {**OLD, "colour": "blue", "size": "large"}


@pytest.mark.semantics("X3")
def test_attributes_of_one_version_cost_one_head_ever(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", metadata={"colour": "blue"})
    fs = mount()
    for _ in range(3):
        assert fs.listxattr("/bucket/a") == ["user.colour"]
        assert fs.getxattr("/bucket/a", "user.colour") == b"blue"
    assert store.counts()["head"] == 1
    fs = mount()
    assert fs.listxattr("/bucket/a") == ["user.colour"]
    assert "head" not in store.counts()


@pytest.mark.semantics("X3")
def test_a_program_that_looks_at_all_files_of_a_directory_gets_them_ahead(
    mount: Mount, store: MemStore
) -> None:
    for number in range(40):
        put_bytes(store, "bucket", f"d/f{number:02}", b"data", metadata={"number": str(number)})
    put_bytes(store, "bucket", "e/f", b"data")
    fs = mount()
    for number in range(40):
        found = fs.getxattr(f"/bucket/d/f{number:02}", "user.number")
        assert found == str(number).encode()
        if number == 1:
            while fs.vfs._tree._askers:
                pass
            assert len(store.calls("head")) == 40
    assert len(store.calls("head")) == 40


def test_one_file_of_a_directory_is_one_head(mount: Mount, store: MemStore) -> None:
    for name in ("d/a", "d/b", "e/c", "e/d"):
        put_bytes(store, "bucket", name, b"data")
    fs = mount()
    for name in ("d/a", "e/c", "d/a", "e/c"):
        fs.listxattr(f"/bucket/{name}")
    assert [call.key for call in store.calls("head")] == ["d/a", "e/c"]


def test_what_is_no_user_attribute_asks_nobody(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data")
    fs = mount()
    fs.lstat("/bucket/a")
    store.forget_calls()
    for name in ("security.capability", "system.posix_acl_access", "trusted.x", "user", "x"):
        with pytest.raises(NotSupported):
            fs.vfs.getxattr("/bucket/a", name)
        with pytest.raises(NotSupported):
            fs.vfs.setxattr("/bucket/a", name, b"1")
        with pytest.raises(NotSupported):
            fs.vfs.removexattr("/bucket/a", name)
    assert store.counts() == {}


@pytest.mark.semantics("X5")
@pytest.mark.parametrize("path", ["/bucket/a", "/bucket/d", "/bucket"])
def test_names_with_a_meaning_are_not_set(mount: Mount, store: MemStore, path: str) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", b"data")
    fs.mkdir("/bucket/d")
    names = ["mtime", "mode", "uid", "gid", "segments-shared", "allasfs.etag", "allasfs.x"]
    if path == "/bucket":
        names += ["temp-url-key", "quota-bytes"]
    for name in names:
        with pytest.raises(NotPermitted):
            fs.setxattr(path, f"user.{name}", b"1")
        with pytest.raises(NotPermitted):
            fs.removexattr(path, f"user.{name}")
    for name in names[:4]:
        with pytest.raises(NoAttribute):
            fs.getxattr(path, f"user.{name}")


@pytest.mark.semantics("X6")
def test_what_allasfs_tells_by_itself_is_read_by_name_and_not_listed(
    mount: Mount, store: MemStore
) -> None:
    info = put_bytes(store, "bucket", "d/a", b"data", content_type="text/x")
    fs = mount()
    assert fs.getxattr("/bucket/d/a", "user.allasfs.etag") == info.etag.encode()
    assert fs.getxattr("/bucket/d/a", "user.allasfs.content_type") == b"text/x"
    assert fs.getxattr("/bucket/d/a", "user.allasfs.url") == store.url("bucket", "d/a").encode()
    assert fs.getxattr("/bucket/d", "user.allasfs.url") == store.url("bucket", "d").encode()
    assert fs.getxattr("/bucket", "user.allasfs.url") == store.url("bucket").encode()
    assert fs.vfs.getxattr("/", "user.allasfs.url") == store.url("").encode()
    assert fs.listxattr("/bucket/d/a") == []
    for path, name in (("/bucket", "etag"), ("/bucket/d", "content_type"), ("/bucket/d/a", "x")):
        with pytest.raises(NoAttribute):
            fs.getxattr(path, f"user.allasfs.{name}")
    with pytest.raises(NotFound):
        fs.vfs.getxattr("/bucket/none", "user.allasfs.url")
    fd = fs.open("/bucket/d/a", os.O_WRONLY)
    fs.pwrite(fd, b"more", 0)
    with pytest.raises(NoAttribute):
        fs.getxattr("/bucket/d/a", "user.allasfs.etag")
    fs.close(fd)


def test_more_than_the_store_takes_is_refused_before_it_is_sent(
    mount: Mount, clock: FakeClock
) -> None:
    few = replace(RGW, max_meta_items=3, max_meta_value_bytes=10)
    store = MemStore(clock_ns=clock.ns, capabilities=few)
    store.create_container("bucket")
    put_bytes(store, "bucket", "a", b"data", metadata={"mtime": "1", "x": "1"})
    fs = mount(on=store)
    with pytest.raises(AttributeTooLarge):
        fs.setxattr("/bucket/a", "user.y", b"v" * 11)
    fs.setxattr("/bucket/a", "user.y", b"v" * 10)
    with pytest.raises(AttributesFull):
        fs.setxattr("/bucket/a", "user.z", b"1")
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_TRUNC)
    with pytest.raises(AttributesFull):
        fs.setxattr("/bucket/a", "user.z", b"1")
    fs.close(fd)
    assert len(store.calls("post")) == 1


@pytest.mark.semantics("C31", "X1")
def test_an_attribute_of_an_open_changed_file_goes_with_its_upload(
    mount: Mount, store: MemStore
) -> None:
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"data", 0)
    fs.setxattr("/bucket/a", "user.colour", b"blue")
    fs.setxattr("/bucket/a", "user.x", b"1")
    fs.removexattr("/bucket/a", "user.x")
    assert fs.listxattr("/bucket/a") == ["user.colour"]
    assert "put" not in store.counts()
    fs.close(fd)
    assert store.counts()["put"] == 1
    assert "post" not in store.counts()
    assert store.head("bucket", "a").metadata["colour"] == "blue"


def test_a_failed_upload_keeps_the_attributes_for_the_next(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"data", 0)
    fs.setxattr("/bucket/a", "user.colour", b"blue")
    store.fail_next(Unavailable("a"), "put")
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    fs.close(fd)
    assert store.head("bucket", "a").metadata["colour"] == "blue"


def test_two_changes_at_once_are_both_kept(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data")
    fs = mount()
    fs.lstat("/bucket/a")
    others: list[object] = []

    def before(call: Call) -> None:
        if call.method == "post" and not others:
            others.append(fs.vfs._pool.submit(fs.setxattr, "/bucket/a", "user.second", b"2"))

    store.before = before
    fs.setxattr("/bucket/a", "user.first", b"1")
    others[0].result(10)  # type: ignore[attr-defined]
    found = store.head("bucket", "a").metadata
    assert (found["first"], found["second"]) == ("1", "2")


@pytest.mark.semantics("X1")
def test_a_link_has_no_attributes_and_costs_nothing(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "link", b"x", content_type=SYMLINK_TYPE, metadata={"a": "1"})
    fs = mount()
    fs.lstat("/bucket/link")
    store.forget_calls()
    assert fs.vfs.listxattr("/bucket/link") == []
    assert store.counts() == {}


@pytest.mark.semantics("X1")
def test_a_directory_without_marker_gets_one(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "d/a", b"data")
    fs = mount()
    assert fs.listxattr("/bucket/d") == []
    assert "head" not in store.counts()
    fs.setxattr("/bucket/d", "user.colour", b"blue")
    assert store.head("bucket", "d/").metadata["colour"] == "blue"
    assert fs.listxattr("/bucket/d") == ["user.colour"]


# -- buckets and roots ----------------------------------------------------------------------------


def test_attributes_of_a_bucket_are_its_metadata(mount: Mount, store: MemStore) -> None:
    store.post_container("bucket", {"theirs": "1", "quota-bytes": "5"})
    fs = mount()
    fs.utime("/bucket", OLD_NS)
    fs.chmod("/bucket", 0o600)
    fs.vfs.set_attributes("/bucket", Given(uid=5, gid=6))
    assert shown(fs, "/bucket") == EXACT
    fs.setxattr("/bucket", "user.colour", b"blue")
    fs.removexattr("/bucket", "user.theirs")
    assert fs.listxattr("/bucket") == ["user.colour"]
    assert store.head_container("bucket").metadata == {
        **OLD,
        "quota-bytes": "5",
        "colour": "blue",
    }
    assert shown(mount(), "/bucket") == EXACT


def test_the_mode_of_a_new_bucket_is_kept(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fs.mkdir("/private", 0o700)
    fs.mkdir("/usual", 0o755)
    assert shown(fs, "/private").mode == 0o700
    assert store.head_container("private").metadata == {"mode": "700"}
    assert store.head_container("usual").metadata == {}


def test_a_bucket_made_anew_has_nothing_of_the_old_one(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fs.mkdir("/other", 0o700)
    fs.setxattr("/other", "user.colour", b"blue")
    fs.rmdir("/other")
    fs.mkdir("/other", 0o755)
    assert shown(fs, "/other").mode == 0o755
    assert fs.listxattr("/other") == []


@pytest.mark.semantics("A9")
def test_a_bucket_of_another_project_may_refuse(mount: Mount, store: MemStore) -> None:
    fs = mount()
    changes: list[Callable[[], None]] = [
        lambda: fs.utime("/bucket", OLD_NS),
        lambda: fs.setxattr("/bucket", "user.colour", b"blue"),
    ]
    for change in changes:
        before = shown(fs, "/bucket")
        store.fail_next(AccessDenied("bucket"), "post_container")
        with pytest.raises(AccessDenied):
            change()
        assert shown(fs, "/bucket") == before
        assert fs.listxattr("/bucket") == []


def test_the_root_of_an_account_keeps_what_it_has(mount: Mount, store: MemStore) -> None:
    fs = mount()
    has = shown(fs, "/")
    store.forget_calls()
    fs.vfs.set_attributes("/", has)
    for given in (Given(mtime_ns=OLD_NS), Given(mode=0o700), Given(uid=77)):
        with pytest.raises(NotPermitted):
            fs.vfs.set_attributes("/", given)
    with pytest.raises(NotPermitted):
        fs.vfs.setxattr("/", "user.colour", b"blue")
    assert fs.vfs.listxattr("/") == []
    assert store.counts() == {}


def test_the_root_of_a_bucket_is_the_bucket(mount: Mount, store: MemStore) -> None:
    fs = mount(bucket="bucket")
    fs.vfs.set_attributes("/", Given(mtime_ns=OLD_NS))
    fs.vfs.setxattr("/", "user.colour", b"blue")
    assert shown(fs, "/").mtime_ns == OLD_NS
    assert store.head_container("bucket").metadata == {
        "mtime": OLD["mtime"],
        "colour": "blue",
    }


@pytest.mark.semantics("A9")
def test_the_root_of_a_prefix_is_its_marker(mount: Mount, store: MemStore) -> None:
    fs = mount(bucket="bucket", prefix="a/b/")
    fs.vfs.set_attributes("/", Given(mtime_ns=OLD_NS))
    fs.vfs.setxattr("/", "user.colour", b"blue")
    assert shown(fs, "/").mtime_ns == OLD_NS
    assert store.keys("bucket") == ["a/b/"]
    assert store.head("bucket", "a/b/").metadata == {"mtime": OLD["mtime"], "colour": "blue"}


@pytest.mark.parametrize("path", ["/", "/bucket", "/bucket/a", "/bucket/d"])
def test_a_read_only_mount_refuses(mount: Mount, store: MemStore, path: str) -> None:
    put_bytes(store, "bucket", "a", b"data")
    put_bytes(store, "bucket", "d/b", b"data")
    fs = mount(read_only=True)
    changes: list[Callable[[], None]] = [
        lambda: fs.vfs.set_attributes(path, Given(mode=0o700)),
        lambda: fs.vfs.setxattr(path, "user.a", b"1"),
        lambda: fs.vfs.removexattr(path, "user.a"),
    ]
    for change in changes:
        with pytest.raises(ReadOnly):
            change()
    assert not {"post", "put", "post_container"} & store.counts().keys()


# -- content types --------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, os.O_TRUNC])
def test_a_rewritten_object_keeps_its_content_type(
    mount: Mount, store: MemStore, flags: int
) -> None:
    put_bytes(store, "bucket", "a.txt", b"data", content_type="text/x", metadata={"k": "v"})
    fs = mount()
    fd = fs.open("/bucket/a.txt", os.O_WRONLY | flags)
    fs.pwrite(fd, b"more", 0)
    fs.close(fd)
    head = store.head("bucket", "a.txt")
    assert (head.info.content_type, head.metadata["k"]) == ("text/x", "v")


def test_a_name_gives_a_type_also_by_a_rename(mount: Mount, store: MemStore) -> None:
    fs = mount()
    write_file(fs, "/bucket/.data.csv.Xa81", b"data")
    fs.rename("/bucket/.data.csv.Xa81", "/bucket/data.csv")
    assert store.head("bucket", "data.csv").info.content_type == "text/csv"
    assert fs.getxattr("/bucket/data.csv", "user.allasfs.content_type") == b"text/csv"


def test_a_type_that_somebody_chose_stays_with_a_rename(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"data", content_type="text/x")
    fs = mount()
    fs.symlink("target", "/bucket/link")
    fs.rename("/bucket/a", "/bucket/a.csv")
    fs.rename("/bucket/link", "/bucket/link.csv")
    assert store.head("bucket", "a.csv").info.content_type == "text/x"
    assert fs.readlink("/bucket/link.csv") == "target"


@pytest.mark.semantics("A7", "C31")
@pytest.mark.parametrize("is_truncated", [False, True])
def test_what_the_store_has_already_is_told_from_when_it_is_given_on(
    mount: Mount, store: MemStore, tmp_path: Path, clock: FakeClock, is_truncated: bool
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", b"1")
    fs.utime("/bucket/a", OLD_NS)
    fs.chmod("/bucket/a", 0o600)
    # Another computer, which saw nothing of this.
    fs = mount(attr_db=tmp_path / "other.sqlite")
    if is_truncated:
        fs.truncate("/bucket/a", 1)
    else:
        fs.lstat("/bucket/a")
        # It learns what the store has; stat tells what it told.
        fs.getxattr("/bucket/a", "user.allasfs.etag")
        fs.listxattr("/bucket/a")
    assert shown(fs, "/bucket/a").mode == 0o644
    with_time = shown(fs, "/bucket/a").mtime_ns
    assert with_time != OLD_NS
    clock.advance(5)
    store.forget_calls()
    fs.chmod("/bucket/a", 0o600)
    assert shown(fs, "/bucket/a") == replace(LISTED, mtime_ns=with_time, mode=0o600)
    assert "post" not in store.counts()
    fs.utime("/bucket/a", OLD_NS)
    assert shown(fs, "/bucket/a") == replace(LISTED, mtime_ns=OLD_NS, mode=0o600)
    assert ("post" in store.counts()) == is_truncated


def test_an_open_file_tells_what_it_is_given_though_the_store_has_it_already(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"1", metadata=OLD)
    fs = mount()
    fd = fs.open("/bucket/a", os.O_RDWR)
    assert fs.pread(fd, 1, 0) == b"1"
    assert shown(fs, "/bucket/a") == LISTED
    fs.chmod("/bucket/a", 0o600)
    fs.utime("/bucket/a", OLD_NS)
    assert shown(fs, "/bucket/a") == replace(EXACT, uid=1, gid=2)
    assert "post" not in store.counts()
    fs.pwrite(fd, b"2", 0)
    assert shown(fs, "/bucket/a").mode == 0o600
    fs.close(fd)
    assert shown(fs, "/bucket/a").mode == 0o600
    assert store.head("bucket", "a").metadata["mode"] == "600"
