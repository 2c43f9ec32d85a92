"""Marks of renames that ended halfway: no name loses its bytes, and no segments are left over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from allasfs.config import MIB
from allasfs.errors import AccessDenied, QuotaExceeded, Unavailable
from allasfs.store import large, marks
from allasfs.store.api import Capabilities, Segment
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes

ExpectLog = Callable[[str], None]
Mount = Callable[..., VfsFs]
DATA = b"a" * (3 * MIB)
OTHER = b"o" * (3 * MIB)
CHANGES = ("put", "put_slo", "put_dlo", "post", "copy", "delete", "delete_slo", "delete_many")


class Crashed(BaseException):
    """The program ends here."""


@pytest.fixture(params=[OPENSTACK, RGW], ids=["openstack", "rgw"])
def store(request: pytest.FixtureRequest, clock: FakeClock) -> MemStore:
    store = MemStore(clock_ns=clock.ns, capabilities=request.param)
    store.create_container("bucket")
    return store


@pytest.fixture
def fs(mount: Mount) -> Iterator[VfsFs]:
    fs = mount()
    yield fs
    assert fs.vfs.close() == []


def segments(store: MemStore) -> list[str]:
    return store.keys("bucket_segments")


def killed(store: MemStore, call: Callable[[], None], nth: int) -> bool:
    """End a call before its nth change of the store is done; return whether there were so many."""
    changes = iter(range(100))

    def crash(request: Call) -> None:
        if request.method in CHANGES and next(changes) == nth:
            raise Crashed

    store.before = crash
    try:
        call()
    except Crashed:
        return True
    finally:
        store.before = lambda request: None
    return False


NTH = range(4)


@pytest.mark.semantics("L5", "C25")
@pytest.mark.parametrize("then", ["remove", "remove other", "overwrite", "once more", "on", "back"])
@pytest.mark.parametrize("is_over", [False, True])
@pytest.mark.parametrize("nth", NTH)
def test_a_rename_of_a_large_file_that_is_killed_anywhere_costs_no_bytes_and_no_segments(
    store: MemStore, mount: Mount, nth: int, is_over: bool, then: str
) -> None:
    fs = mount()
    write_file(fs, "/bucket/old", DATA)
    if is_over:
        write_file(fs, "/bucket/new", OTHER)
    # Two marks, the copy, the deletion.
    assert killed(store, lambda: fs.rename("/bucket/old", "/bucket/new"), nth)
    after = mount()
    while after.vfs.status()["uploads_to_finish"]:
        pass
    names = after.listdir("/bucket")
    contents = {name: read_file(after, f"/bucket/{name}") for name in names}
    assert DATA in contents.values()
    assert set(contents.values()) <= {DATA, OTHER}
    first, last = (names[0], names[-1]) if then == "remove" else (names[-1], names[0])
    if then in ("remove", "remove other"):
        after.unlink(f"/bucket/{first}")
        del contents[first]
    elif then == "overwrite":
        write_file(after, f"/bucket/{first}", b"small")
        contents[first] = b"small"
    elif then == "on":
        after.rename(f"/bucket/{first}", "/bucket/on")
        contents["on"] = contents.pop(first)
    else:
        there, target = ("old", "new") if then == "once more" else ("new", "old")
        if there in contents:
            after.rename(f"/bucket/{there}", f"/bucket/{target}")
            contents[target] = contents.pop(there)
    for name, content in contents.items():
        assert read_file(after, f"/bucket/{name}") == content, last
    # In the order of names, or another: no name is the one that must go last.
    for name in sorted(contents, reverse=then == "on"):
        left = [each for each in after.listdir("/bucket") if each != name]
        after.unlink(f"/bucket/{name}")
        assert all(read_file(after, f"/bucket/{each}") == contents[each] for each in left)
    assert segments(store) == []


@pytest.mark.semantics("L5")
def test_the_requests_of_a_rename_of_a_large_file(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/old", DATA)
    fs.listdir("/bucket")
    store.forget_calls()
    fs.rename("/bucket/old", "/bucket/new")
    counts = store.counts()
    assert counts.pop("head") <= 2
    assert counts == {"post": 2, "copy": 1, "delete": 1}
    assert marks.of(store.head("bucket", "new").metadata) == {}


@pytest.mark.semantics("L5", "C25")
@pytest.mark.parametrize(("removed", "left"), [("old", "new"), ("new", "old")])
def test_a_copy_that_the_store_makes_after_the_rename_failed_costs_no_bytes(
    fs: VfsFs, store: MemStore, clock: FakeClock, removed: str, left: str
) -> None:
    write_file(fs, "/bucket/old", DATA)
    store.fail_next(Unavailable("bucket/old", "503"), "copy")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    info = store.head("bucket", "old").info
    store.copy("bucket", info, ("bucket", "new"), manifest=True)
    clock.advance(100)
    fs.unlink(f"/bucket/{removed}")
    assert read_file(fs, f"/bucket/{left}") == DATA
    fs.unlink(f"/bucket/{left}")
    assert segments(store) == []


@pytest.mark.semantics("L5", "C26")
@pytest.mark.parametrize(("removed", "left"), [("old", "new"), ("new", "old")])
def test_a_copy_that_the_store_makes_after_a_rename_of_its_directory_failed_costs_no_bytes(
    fs: VfsFs, store: MemStore, clock: FakeClock, removed: str, left: str
) -> None:
    fs.mkdir("/bucket/old")
    write_file(fs, "/bucket/old/a", DATA)
    store.fail_next(Unavailable("bucket/old", "503"), "copy")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/old", "/bucket/new")
    info = store.head("bucket", "old/a").info
    store.copy("bucket", info, ("bucket", "new/a"), manifest=True)
    clock.advance(100)
    fs.unlink(f"/bucket/{removed}/a")
    assert read_file(fs, f"/bucket/{left}/a") == DATA
    fs.unlink(f"/bucket/{left}/a")
    assert segments(store) == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("is_done", [False, True])
@pytest.mark.parametrize("nth", [0, 1])
def test_a_mark_whose_answer_is_lost_costs_no_segments(
    fs: VfsFs, store: MemStore, is_done: bool, nth: int
) -> None:
    write_file(fs, "/bucket/old", DATA)
    if nth == 0:
        store.fail_next(Unavailable("bucket/old", "503"), "post", is_done=is_done)
        with pytest.raises(Unavailable):
            fs.rename("/bucket/old", "/bucket/new")
    else:
        # The one that takes it off again.
        posts = iter(range(2))

        def lose(call: Call) -> None:
            if call.method == "post" and next(posts) == nth:
                raise Unavailable("bucket/new", "503")

        if is_done:
            store.after = lose
        else:
            store.before = lose
        fs.rename("/bucket/old", "/bucket/new")
        store.before = store.after = lambda call: None
    (name,) = fs.listdir("/bucket")
    assert read_file(fs, f"/bucket/{name}") == DATA
    fs.unlink(f"/bucket/{name}")
    assert segments(store) == []


@pytest.mark.semantics("L5")
def test_a_third_name_of_the_same_segments_is_known_to_the_first(
    store: MemStore, mount: Mount
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    assert killed(store, lambda: fs.rename("/bucket/a", "/bucket/b"), 2)
    fs = mount()
    assert killed(store, lambda: fs.rename("/bucket/b", "/bucket/c"), 3)
    fs = mount()
    assert fs.listdir("/bucket") == ["a", "b", "c"]
    for number, name in enumerate("bca", 1):
        fs.unlink(f"/bucket/{name}")
        for left in "bca"[number:]:
            assert read_file(fs, f"/bucket/{left}") == DATA
    assert segments(store) == []


@pytest.mark.semantics("L5")
def test_the_other_name_counts_only_while_it_is_over_the_same_segments(
    store: MemStore, mount: Mount
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    assert killed(store, lambda: fs.rename("/bucket/a", "/bucket/b"), 2)
    fs = mount()
    write_file(fs, "/bucket/b", OTHER)
    fs.unlink("/bucket/a")
    assert read_file(fs, "/bucket/b") == OTHER
    assert len(segments(store)) == 3
    fs.unlink("/bucket/b")
    assert segments(store) == []


@pytest.mark.semantics("L5")
def test_a_copy_that_comes_while_the_first_name_is_removed_keeps_its_segments(
    store: MemStore, mount: Mount
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    info = store.head("bucket", "a").info
    large.share(store, "bucket", info, ("bucket", "b"))

    def rename(call: Call) -> None:
        # By another computer, just in time.
        if call.method == "delete" and call.key == "a":
            store.before = lambda call: None
            store.copy("bucket", info, ("bucket", "b"), manifest=True)

    store.before = rename
    fs.unlink("/bucket/a")
    assert get_bytes(store, "bucket", "b") == DATA


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("kind", ["nameless", "copied by another client", "another's bucket"])
def test_segments_stay_where_nobody_can_tell_who_else_has_them(
    store: MemStore, mount: Mount, kind: str, expected_logs: ExpectLog
) -> None:
    expected_logs("the segments of bucket/.* are left over: a rename ended halfway")
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    head = store.head("bucket", "a")
    left, removed = "a", "b"
    if kind == "nameless":
        store.post("bucket", head, {**head.metadata, marks.SHARED: marks.NAMELESS})
    else:
        large.share(store, "bucket", head.info, ("bucket", "c"))
    store.copy("bucket", head.info, ("bucket", "b"), manifest=True)
    if kind == "another's bucket":
        left, removed = "b", "a"

        def deny(call: Call) -> None:
            if call.key == "c":
                raise AccessDenied("bucket", "403")

        store.before = deny
    fs.vfs._listings.subtree_outdated("bucket", "")
    fs.unlink(f"/bucket/{removed}")
    assert get_bytes(store, "bucket", left) == DATA


@pytest.mark.semantics("L5")
def test_a_name_with_a_nameless_mark_is_renamed_and_keeps_it(
    store: MemStore, mount: Mount, expected_logs: ExpectLog
) -> None:
    expected_logs("the segments of bucket/c are left over: a rename ended halfway")
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    head = store.head("bucket", "a")
    store.post("bucket", head, {**head.metadata, marks.SHARED: marks.NAMELESS})
    store.copy("bucket", head.info, ("bucket", "b"), manifest=True)
    fs.rename("/bucket/a", "/bucket/c")
    fs.unlink("/bucket/c")
    assert get_bytes(store, "bucket", "b") == DATA


@pytest.mark.semantics("L5", "C25")
@pytest.mark.parametrize("first", [0, 1, 2])
@pytest.mark.parametrize("how", ["unlink", "overwrite"])
@pytest.mark.parametrize("is_parallel", [True, False])
def test_names_over_the_same_segments_keep_them_when_their_directory_is_renamed(
    store: MemStore, mount: Mount, first: int, how: str, is_parallel: bool
) -> None:
    fs = mount(connections=8 if is_parallel else 1)
    fs.mkdir("/bucket/d")
    write_file(fs, "/bucket/d/0", DATA)
    info = store.head("bucket", "d/0").info
    for name in ("d/1", "d/2"):
        # As renames leave it that ended halfway.
        large.share(store, "bucket", info, ("bucket", name))
        store.copy("bucket", info, ("bucket", name), manifest=True)
    fs.vfs._listings.subtree_outdated("bucket", "")
    # What runs at the same time meets.
    store.before = lambda call: time.sleep(0.01 if call.method in ("copy", "post") else 0)
    fs.rename("/bucket/d", "/bucket/e")
    store.before = lambda call: None
    for number in range(3):
        name = f"/bucket/e/{(first + number) % 3}"
        if how == "unlink":
            fs.unlink(name)
        else:
            write_file(fs, name, b"small")
        for later in range(number + 1, 3):
            assert read_file(fs, f"/bucket/e/{(first + later) % 3}") == DATA
    assert segments(store) == []


@pytest.mark.semantics("L5")
@pytest.mark.parametrize("then", ["unlink", "overwrite", "once more"])
@pytest.mark.parametrize("nth", NTH)
def test_segments_that_nobody_tells_are_kept_and_removed_after_a_kill_as_others(
    mount: Mount, clock: FakeClock, nth: int, then: str
) -> None:
    store = MemStore(clock_ns=clock.ns, capabilities=RGW)
    for name in ("bucket", "bucket_segments"):
        store.create_container(name)
    part = put_bytes(store, "bucket_segments", "old/0", b"static")
    one = Segment("bucket_segments", part.key, part.size, part.etag)
    store.put_slo("bucket", "old", [one], content_type="a/b")
    fs = mount(on=store)
    assert killed(store, lambda: fs.rename("/bucket/old", "/bucket/new"), nth)
    fs = mount(on=store)
    names = fs.listdir("/bucket")
    if then == "once more" and "old" in names:
        fs.rename("/bucket/old", "/bucket/new")
        names = ["new"]
    elif then == "overwrite":
        write_file(fs, f"/bucket/{names.pop(0)}", b"small")
    for number, name in enumerate(names, 1):
        assert read_file(fs, f"/bucket/{name}") == b"static"
        fs.unlink(f"/bucket/{name}")
        assert all(read_file(fs, f"/bucket/{left}") == b"static" for left in names[number:])
    assert segments(store) == []


@pytest.mark.semantics("R9", "L5")
def test_a_refused_copy_leaves_the_metadata_as_they_were(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/old", DATA)
    before = store.head("bucket", "old").metadata
    store.fail_next(QuotaExceeded("bucket", "413"), "copy")
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/old", "/bucket/new")
    assert store.head("bucket", "old").metadata == before


@pytest.mark.semantics("R10")
def test_segments_of_a_removed_file_that_the_store_did_not_remove_go_with_the_next_mount(
    store: MemStore, mount: Mount, expected_logs: ExpectLog
) -> None:
    expected_logs("segments of a removed object are left over in bucket_segments")
    fs = mount()
    write_file(fs, "/bucket/a", DATA)
    store.fail_next(Unavailable("bucket_segments", "503"), "delete_many")
    fs.unlink("/bucket/a")
    assert len(segments(store)) == 3
    # The same folder.
    fs.vfs.close()
    after = mount(spool_dir=fs.vfs._services.spool.folder)
    while after.vfs.status()["uploads_to_finish"]:
        pass
    assert segments(store) == []
    assert after.vfs._services.spool.notes() == []


# -- the text -------------------------------------------------------------------------------------

NAMES = {
    "plain": [("bucket", "a"), ("bucket", "b")],
    "hostile": [("bucket", "a,b/c;d%2Cä \n\x7f\u202e"), ("buc/ket", ""), ("", "=?UTF-8?Q?x?=")],
    "long": [("b" * 256, "x" * 600), ("b" * 256, "ä" * 150)],
    "three": [("bucket", "dir/sub dir/a"), ("bucket", "dir/b"), ("other", "c")],
}


@pytest.mark.parametrize("among", NAMES.values(), ids=NAMES)
def test_a_mark_tells_the_names_that_it_was_given(among: list[marks.Name]) -> None:
    given = {"mtime": "1", marks.SHARED: "another", f"{marks.SHARED}-2": "mark"}
    marked = marks.put(given, among, OPENSTACK)
    assert marks.names(marked) == set(among)
    assert all(len(value) <= 256 and value.isascii() for value in marked.values())
    assert all(value == value.strip() and value.isprintable() for value in marked.values())
    assert marks.without(marked) == {"mtime": "1"}
    assert marks.of(marked).keys() == marked.keys() - {"mtime"}


LIMITS: list[Capabilities] = [
    replace(OPENSTACK, max_meta_bytes=60),
    replace(OPENSTACK, max_meta_items=2),
]


@pytest.mark.parametrize("limits", LIMITS)
def test_a_mark_for_which_there_is_no_room_tells_no_names(limits: Capabilities) -> None:
    marked = marks.put({"mtime": "1"}, NAMES["long"], limits)
    assert marked == {"mtime": "1", marks.SHARED: marks.NAMELESS}
    assert marks.names(marked) == set()


def test_a_mark_of_which_a_part_is_lost_tells_no_names() -> None:
    marked = marks.put({}, NAMES["long"], OPENSTACK)
    assert len(marked) > 2
    last = f"{marks.SHARED}-{len(marked)}"
    del marked[last]
    assert marks.names(marked) == set()
