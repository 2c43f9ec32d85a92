"""Renames of directories over a store in memory: requests, failures halfway, other clients."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator

import pytest

from allasfs.config import MIB
from allasfs.errors import DirectoryNotEmpty, FsError, NameTooLong, QuotaExceeded, Unavailable
from allasfs.store.api import DIRECTORY_TYPE, Capabilities, Segment
from allasfs.store.marks import SHARED
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes

ExpectLog = Callable[[str], None]
# Only a failing test waits so long.
PATIENCE_S = 10.0
KEYS = [f"old/{number:03}" for number in range(30)] + ["old/d/a", "old/d/b"]


class Crashed(BaseException):
    """The program ends here."""


Mount = Callable[..., VfsFs]


@pytest.fixture
def mount(mount: Mount) -> Iterator[Mount]:
    """Mounts that must have nothing at the end that is not stored."""
    started: list[VfsFs] = []

    def start(store: MemStore) -> VfsFs:
        started.append(mount(on=store))
        return started[-1]

    yield start
    for fs in started:
        assert fs.vfs.close() == []


@pytest.fixture
def fs(mount: Mount, store: MemStore) -> VfsFs:
    """A mount of a store with a directory that has no marker, in it files and a directory."""
    for key in KEYS:
        put_bytes(store, "bucket", key, key.encode())
    return mount(store)


def contents(store: MemStore, top: str) -> dict[str, bytes]:
    return {
        key.removeprefix(top): get_bytes(store, "bucket", key)
        for key in store.keys("bucket")
        if key.startswith(top) and not key.endswith("/")
    }


WHOLE = {key.removeprefix("old"): key.encode() for key in KEYS}


@pytest.mark.semantics("C26")
def test_each_file_costs_one_copy_and_all_together_one_deletion(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket/old")
    store.forget_calls()
    fs.rename("/bucket/old", "/bucket/new")
    assert store.counts() == {
        "copy": len(KEYS),
        "listing": 1,
        "delete_many": 1,
        # The marker that tells of a rename that is under way.
        "put": 1,
        "delete": 1,
    }
    assert sorted(store.keys("bucket")) == sorted(key.replace("old", "new") for key in KEYS)
    store.forget_calls()
    assert sorted(fs.listdir("/bucket")) == ["new"]
    assert len(fs.listdir("/bucket/new")) == 31
    assert fs.lstat("/bucket/new/d/a").size == 7
    assert store.counts() == {}


def test_an_empty_directory_costs_one_copy_and_one_deletion(fs: VfsFs, store: MemStore) -> None:
    fs.listdir("/bucket")
    fs.mkdir("/bucket/empty")
    store.forget_calls()
    fs.rename("/bucket/empty", "/bucket/new")
    assert store.counts() == {"listing": 1, "copy": 1, "delete": 1}


@pytest.mark.semantics("C26")
def test_copies_run_in_parallel_and_leave_half_of_the_connections_to_others(
    fs: VfsFs, store: MemStore
) -> None:
    running: list[Call] = []
    most = 0
    count = itertools.count()
    both = threading.Barrier(2, timeout=PATIENCE_S)

    def begin(call: Call) -> None:
        nonlocal most
        if call.method == "copy":
            running.append(call)
            most = max(most, len(running))
            if next(count) < 2:
                # The first two wait for each other.
                both.wait()

    def end(call: Call) -> None:
        if call.method == "copy":
            running.remove(call)

    store.before, store.after = begin, end
    fs.rename("/bucket/old", "/bucket/new")
    assert most == 2


@pytest.mark.semantics("C26", "C28", "R9")
@pytest.mark.parametrize("nth", [0, 5, len(KEYS) - 1])
def test_a_copy_that_fails_leaves_the_old_names_alone(fs: VfsFs, store: MemStore, nth: int) -> None:
    before = store.keys("bucket")
    copies = iter(range(len(KEYS)))

    def fail(call: Call) -> None:
        if call.method == "copy" and next(copies) == nth:
            raise QuotaExceeded("bucket", "full")

    store.before = fail
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/old", "/bucket/new")
    store.before = lambda call: None
    assert store.keys("bucket") == before
    assert fs.listdir("/bucket") == ["old"]
    fs.rename("/bucket/old", "/bucket/new")
    assert contents(store, "new") == WHOLE


def test_a_copy_that_fails_leaves_an_empty_target_empty(fs: VfsFs, store: MemStore) -> None:
    fs.mkdir("/bucket/new")
    store.fail_next(Unavailable("bucket", "a fault"), "copy")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    assert fs.listdir("/bucket/new") == []
    assert contents(store, "old") == WHOLE
    assert "renamed-from" not in store.head("bucket", "new/").metadata


@pytest.mark.semantics("C26")
@pytest.mark.parametrize("is_done", [False, True])
def test_when_the_old_names_cannot_be_removed_both_are_complete_and_once_more_completes_it(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog, is_done: bool
) -> None:
    expected_logs("completes the rename")
    store.fail_next(Unavailable("bucket", "a fault"), "delete_many", is_done=is_done)
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    assert contents(store, "new") == WHOLE
    assert read_file(fs, "/bucket/new/d/a") == b"old/d/a"
    if is_done:
        assert sorted(fs.listdir("/bucket")) == ["new"]
        return
    assert sorted(fs.listdir("/bucket")) == ["new", "old"]
    assert read_file(fs, "/bucket/old/d/a") == b"old/d/a"
    store.forget_calls()
    fs.rename("/bucket/old", "/bucket/new")
    assert "copy" not in store.counts()
    assert contents(store, "new") == WHOLE
    assert contents(store, "old") == {}
    assert fs.listdir("/bucket") == ["new"]


@pytest.mark.semantics("C26")
@pytest.mark.parametrize("method", ["copy", "delete_many"])
def test_a_rename_that_a_crash_ended_anywhere_loses_nothing_and_is_completed_by_another(
    fs: VfsFs, store: MemStore, mount: Mount, method: str
) -> None:
    put_bytes(store, "bucket", "old/", content_type=DIRECTORY_TYPE)
    write_file(fs, "/bucket/old/large", bytes(3 * MIB))
    calls = iter(range(100))

    def crash(call: Call) -> None:
        if call.method == method and next(calls) >= (7 if method == "copy" else 0):
            raise Crashed

    store.before = crash
    with pytest.raises(Crashed):
        fs.rename("/bucket/old", "/bucket/new")
    store.before = lambda call: None
    after = WHOLE | {"/large": bytes(3 * MIB)}
    assert contents(store, "old") | contents(store, "new") == after
    if method == "copy":
        assert contents(store, "old") == after
    else:
        assert contents(store, "new") == after
    again = mount(store)
    again.rename("/bucket/old", "/bucket/new")
    assert contents(store, "old") == {}
    assert contents(store, "new") == after
    assert sorted(again.listdir("/bucket")) == ["new"]
    # The segments belong to one name again.
    again.unlink("/bucket/new/large")
    assert store.keys("bucket_segments") == []


def test_a_crash_just_before_the_end_leaves_an_empty_directory(
    fs: VfsFs, store: MemStore, mount: Mount
) -> None:
    put_bytes(store, "bucket", "old/", content_type=DIRECTORY_TYPE)

    def crash(call: Call) -> None:
        if call.method == "delete":
            raise Crashed

    store.before = crash
    with pytest.raises(Crashed):
        fs.rename("/bucket/old", "/bucket/new")
    store.before = lambda call: None
    assert contents(store, "new") == WHOLE
    again = mount(store)
    again.rmdir("/bucket/old")
    assert again.listdir("/bucket") == ["new"]


@pytest.mark.semantics("L4")
def test_a_rename_over_an_open_file_that_fails_costs_the_new_name_and_never_the_old(
    fs: VfsFs, store: MemStore
) -> None:
    # libfuse hides the open file first, which is not to be told from an unlink.
    fd = fs.open("/bucket/old/000", os.O_RDONLY)
    fs.vfs.hide("/bucket/old/000", "/bucket/old/.fuse_hidden")
    store.fail_next(QuotaExceeded("bucket", "full"), "copy")
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/old/001", "/bucket/old/000")
    assert get_bytes(store, "bucket", "old/001") == b"old/001"
    assert "old/000" not in store.keys("bucket")
    assert fs.pread(fd, 10, 0) == b"old/000"
    fs.close(fd)


@pytest.mark.semantics("C26")
def test_a_directory_that_only_looks_like_a_half_copy_is_not_empty(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "new/000", b"old/000")
    with pytest.raises(DirectoryNotEmpty):
        fs.rename("/bucket/old", "/bucket/new")


def test_a_copy_that_cannot_be_taken_back_is_told_and_completed_later(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("is a copy of a part of bucket/old")
    copies = iter(range(100))

    def fail(call: Call) -> None:
        if (call.method == "copy" and next(copies) > 5) or call.method == "delete_many":
            raise Unavailable("bucket", "a fault")

    store.before = fail
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    store.before = lambda call: None
    assert contents(store, "old") == WHOLE
    fs.rename("/bucket/old", "/bucket/new")
    assert contents(store, "new") == WHOLE
    assert contents(store, "old") == {}


def test_a_name_that_would_be_too_long_stops_it_before_anything_is_copied(
    fs: VfsFs, store: MemStore
) -> None:
    parent = "/".join(["x" * 200] * 5)
    put_bytes(store, "bucket", f"{parent}/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "old/d/" + "y" * 200, b"1")
    before = store.keys("bucket")
    with pytest.raises(NameTooLong):
        fs.rename("/bucket/old", f"/bucket/{parent}/new")
    assert store.keys("bucket") == before


@pytest.mark.parametrize("marker", ["old/", "old"])
def test_the_marker_moves_with_its_directory(fs: VfsFs, store: MemStore, marker: str) -> None:
    put_bytes(
        store, "bucket", marker, content_type=DIRECTORY_TYPE, metadata={"mtime": "5", "colour": "b"}
    )
    fs.rename("/bucket/old", "/bucket/new")
    assert [key for key in store.keys("bucket") if key.startswith("old")] == []
    renamed = marker.replace("old", "new")
    assert store.head("bucket", renamed).metadata == {"mtime": "5", "colour": "b"}
    assert ("new/" in store.keys("bucket")) == (marker == "old/")


@pytest.mark.semantics("N7")
def test_objects_that_no_file_can_be_named_after_move_along(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("not shown")
    names = sorted(fs.listdir("/bucket/old"))
    hidden = ("//x", "/d/./y", f"/{'n' * 256}")
    for name in hidden:
        put_bytes(store, "bucket", f"old{name}", b"1")
    fs.rename("/bucket/old", "/bucket/new")
    for name in hidden:
        assert get_bytes(store, "bucket", f"new{name}") == b"1"
    assert [key for key in store.keys("bucket") if key.startswith("old")] == []
    # They are no more shown than before.
    assert sorted(fs.listdir("/bucket/new")) == names
    assert sorted(fs.listdir("/bucket/new/d")) == ["a", "b"]
    assert fs.listdir("/bucket") == ["new"]


@pytest.mark.semantics("N7")
def test_a_directory_of_objects_that_no_file_can_be_named_after_moves_and_stays(
    fs: VfsFs, store: MemStore, clock: FakeClock, expected_logs: ExpectLog
) -> None:
    expected_logs("not shown")
    put_bytes(store, "bucket", "hidden//x", b"1")
    assert "hidden" in fs.listdir("/bucket")
    fs.rename("/bucket/hidden", "/bucket/moved")
    for _ in range(2):
        assert sorted(fs.listdir("/bucket")) == ["moved", "old"]
        assert fs.listdir("/bucket/moved") == []
        with pytest.raises(DirectoryNotEmpty):
            fs.rmdir("/bucket/moved")
        clock.advance(100)
    assert get_bytes(store, "bucket", "moved//x") == b"1"


@pytest.mark.semantics("C27")
def test_a_directory_moves_to_another_bucket(fs: VfsFs, store: MemStore) -> None:
    fs.mkdir("/other")
    fs.rename("/bucket/old", "/other/new")
    assert sorted(store.keys("other")) == sorted(key.replace("old", "new") for key in KEYS)
    assert store.keys("bucket") == []


def test_a_directory_that_another_client_filled_meanwhile_keeps_what_is_new(
    fs: VfsFs, store: MemStore
) -> None:
    def add(call: Call) -> None:
        if call.method == "delete_many":
            store.before = lambda call: None
            put_bytes(store, "bucket", "old/late", b"1")

    store.before = add
    fs.rename("/bucket/old", "/bucket/new")
    assert contents(store, "new") == WHOLE
    assert contents(store, "old") == {"/late": b"1"}


def test_large_objects_of_a_server_that_does_not_list_sizes_are_moved(
    mount: Mount, clock: FakeClock
) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    store.create_container("bucket")
    fs = mount(store)
    fs.mkdir("/bucket/old")
    for name in "abc":
        write_file(fs, f"/bucket/old/{name}", name.encode() * 3 * MIB)
    fs.rename("/bucket/old", "/bucket/new")
    for name in "abc":
        assert read_file(fs, f"/bucket/new/{name}") == name.encode() * 3 * MIB
        fs.unlink(f"/bucket/new/{name}")
    assert store.keys("bucket_segments") == []


def test_a_large_object_whose_segments_nobody_tells_replaces_another(
    mount: Mount, clock: FakeClock, expected_logs: ExpectLog
) -> None:
    expected_logs("left over")
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    store.create_container("bucket")
    store.create_container("parts")
    part = put_bytes(store, "parts", "0", b"static")
    segment = Segment("parts", part.key, part.size, part.etag)
    store.put_slo("bucket", "static", [segment], content_type="a/b")
    fs = mount(store)
    write_file(fs, "/bucket/dynamic", bytes(3 * MIB))
    fs.rename("/bucket/static", "/bucket/dynamic")
    assert read_file(fs, "/bucket/dynamic") == b"static"
    assert fs.listdir("/bucket") == ["dynamic"]


def static(store: MemStore, key: str, *parts: bytes) -> None:
    """Store a static large object as another client does, its segments in a bucket of their own."""
    store.create_container("theirs")
    segments = []
    for number, part in enumerate(parts):
        put = put_bytes(store, "theirs", f"{key}/{number}", part)
        segments.append(Segment("theirs", put.key, put.size, put.etag))
    store.put_slo("bucket", key, segments, content_type="a/b")


@pytest.fixture
def silent(clock: FakeClock) -> MemStore:
    """A store that does not tell the segments of static large objects."""
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    store.create_container("bucket")
    return store


@pytest.mark.parametrize("kind", ["small", "dynamic", "static"])
def test_a_file_that_takes_the_name_of_one_whose_segments_nobody_tells_leaves_none(
    mount: Mount, silent: MemStore, kind: str
) -> None:
    static(silent, "old", b"abc", b"def")
    fs = mount(silent)
    data = {"small": b"1", "dynamic": bytes(3 * MIB), "static": b"other"}[kind]
    if kind == "static":
        static(silent, "new", data)
    else:
        write_file(fs, "/bucket/new", data)
    fs.rename("/bucket/new", "/bucket/old")
    assert read_file(fs, "/bucket/old") == data
    assert fs.listdir("/bucket") == ["old"]
    assert [key for key in silent.keys("theirs") if key.startswith("old/")] == []
    fs.unlink("/bucket/old")
    assert silent.keys("theirs") == silent.keys("bucket_segments") == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("direction", [("copy", "static"), ("static", "copy")])
def test_a_copy_of_a_manifest_that_takes_the_name_of_the_other_keeps_the_segments(
    mount: Mount, silent: MemStore, direction: tuple[str, str], expected_logs: ExpectLog
) -> None:
    expected_logs("may be over the same")
    static(silent, "static", b"abc", b"def")
    info = silent.head("bucket", "static").info
    silent.copy("bucket", info, ("bucket", "copy"), manifest=True)
    fs = mount(silent)
    old, new = direction
    fs.rename(f"/bucket/{old}", f"/bucket/{new}")
    assert read_file(fs, f"/bucket/{new}") == b"abcdef"
    assert fs.listdir("/bucket") == [new]


def test_a_rename_that_could_not_copy_leaves_the_other_file_whole(
    mount: Mount, silent: MemStore
) -> None:
    static(silent, "old", b"abc", b"def")
    fs = mount(silent)
    write_file(fs, "/bucket/new", b"1")

    def refuse(call: Call) -> None:
        if call.method == "copy" and call.key == "new":
            raise QuotaExceeded("bucket", "413")

    silent.before = refuse
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/new", "/bucket/old")
    assert read_file(fs, "/bucket/old") == b"abcdef"
    assert silent.keys("bucket_segments") == []
    assert silent.keys("bucket") == ["new", "old"]


@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW])
def test_a_replaced_file_leaves_no_segments_when_the_old_name_cannot_be_removed(
    mount: Mount, clock: FakeClock, capabilities: Capabilities, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/new stands, and bucket/old is a second name now")
    store = MemStore(clock_ns=clock.ns, capabilities=capabilities)
    store.create_container("bucket")
    fs = mount(store)
    write_file(fs, "/bucket/old", bytes(3 * MIB))
    write_file(fs, "/bucket/new", b"1")
    store.fail_next(Unavailable("bucket/new", "503"), "delete")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/new", "/bucket/old")
    assert read_file(fs, "/bucket/old") == b"1"
    assert store.keys("bucket_segments") == []


def test_a_large_file_that_is_open_is_replaced_without_leftovers(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    write_file(fs, "/bucket/old/large", bytes(3 * MIB))
    fd = fs.open("/bucket/old/large", os.O_RDWR)
    clock.advance(100)
    fs.rename("/bucket/old", "/bucket/new")
    clock.advance(100)
    fs.pwrite(fd, b"x", MIB)
    fs.close(fd)
    assert read_file(fs, "/bucket/new/large") == bytes(MIB) + b"x" + bytes(2 * MIB - 1)
    fs.unlink("/bucket/new/large")
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("N6")
def test_an_object_beside_a_directory_of_its_name_can_be_used_and_is_given_its_name_back(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "old", b"beside", metadata={"colour": "blue"})
    assert sorted(fs.listdir("/bucket")) == ["old", "old~object"]
    assert read_file(fs, "/bucket/old~object") == b"beside"
    write_file(fs, "/bucket/old~object", b"changed")
    fs.utime("/bucket/old~object", 10**18)
    assert get_bytes(store, "bucket", "old") == b"changed"
    assert store.head("bucket", "old").metadata == {"colour": "blue", "mtime": "1000000000"}
    write_file(fs, "/bucket/new", b"new")
    fs.rename("/bucket/new", "/bucket/old~object")
    assert get_bytes(store, "bucket", "old") == b"new"
    fs.rename("/bucket/old", "/bucket/moved")
    assert sorted(fs.listdir("/bucket")) == ["moved", "old"]
    assert read_file(fs, "/bucket/old") == b"new"
    assert contents(store, "moved") == WHOLE


@pytest.mark.semantics("N6")
def test_an_object_beside_a_directory_can_be_moved_away_and_removed(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "old", b"beside")
    fs.rename("/bucket/old~object", "/bucket/away")
    assert get_bytes(store, "bucket", "away") == b"beside"
    assert sorted(fs.listdir("/bucket")) == ["away", "old"]
    clock.advance(100)
    put_bytes(store, "bucket", "old", b"beside")
    fs.unlink("/bucket/old~object")
    assert sorted(fs.listdir("/bucket")) == ["away", "old"]
    assert "old" not in store.keys("bucket")


# -- what is left after a copy that failed --------------------------------------------------------


def is_marked(store: MemStore, key: str) -> bool:
    return SHARED in store.head("bucket", key).metadata


@pytest.mark.semantics("L5", "R9")
@pytest.mark.parametrize("error", [QuotaExceeded, Unavailable])
def test_a_large_file_whose_rename_failed_in_copy_takes_its_segments_with_it(
    fs: VfsFs, store: MemStore, error: type[FsError]
) -> None:
    write_file(fs, "/bucket/large", bytes(3 * MIB))
    store.fail_next(error("bucket", "a fault"), "copy")
    with pytest.raises(error):
        fs.rename("/bucket/large", "/bucket/new")
    # What the store may still copy must not lose its segments then.
    assert is_marked(store, "large") == (error is Unavailable)
    fs.unlink("/bucket/large")
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize(("removed", "left"), [("large", "new"), ("new", "large")])
def test_a_large_file_keeps_its_mark_when_the_copy_may_be_there_though_it_failed(
    fs: VfsFs,
    store: MemStore,
    clock: FakeClock,
    removed: str,
    left: str,
) -> None:
    write_file(fs, "/bucket/large", bytes(3 * MIB))
    store.fail_next(Unavailable("bucket", "a fault"), "copy", is_done=True)
    with pytest.raises(Unavailable):
        fs.rename("/bucket/large", "/bucket/new")
    assert is_marked(store, "large")
    assert is_marked(store, "new")
    clock.advance(100)
    fs.unlink(f"/bucket/{removed}")
    assert read_file(fs, f"/bucket/{left}") == bytes(3 * MIB)
    fs.unlink(f"/bucket/{left}")
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("C26", "R9")
@pytest.mark.parametrize("nth", [0, 5, len(KEYS)])
def test_copies_that_were_done_and_not_answered_are_taken_back(
    fs: VfsFs, store: MemStore, nth: int
) -> None:
    write_file(fs, "/bucket/old/large", bytes(3 * MIB))
    before = store.keys("bucket")
    copies = iter(range(len(KEYS) + 1))

    def lose(call: Call) -> None:
        if call.method == "copy" and next(copies) == nth:
            raise Unavailable("bucket", "a fault")

    store.after = lose
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    store.after = lambda call: None
    assert store.keys("bucket") == before
    assert fs.listdir("/bucket") == ["old"]
    assert read_file(fs, "/bucket/old/large") == bytes(3 * MIB)
    fs.unlink("/bucket/old/large")
    assert store.keys("bucket_segments") == []
