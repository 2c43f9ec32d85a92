"""What the machines found, each as the few calls that show it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.config import Config
from allasfs.errors import Exists, FsError, NotFound, QuotaExceeded, Stale, TimedOut, Unavailable
from allasfs.fs.attrs import SYMLINK_TYPE
from allasfs.fs.vfs import Vfs
from allasfs.store import large, marks
from allasfs.store.api import DIRECTORY_TYPE
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes

TTL_S = 60.0


@pytest.fixture(params=[OPENSTACK, RGW], ids=["openstack", "rgw"])
def store(request: pytest.FixtureRequest, clock: FakeClock) -> MemStore:
    store = MemStore(clock_ns=clock.ns, capabilities=request.param)
    store.create_container("bucket")
    return store


@pytest.fixture
def mount(
    store: MemStore, clock: FakeClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], VfsFs]]:
    """Mount, and mount anew. Files of more than 200 bytes have segments of 100."""
    monkeypatch.setattr(large, "SMALLEST_SEGMENT", 50)
    started: list[Vfs] = []

    def start() -> VfsFs:
        for vfs in started:
            assert vfs.close() == []
        config = Config(
            spool_dir=tmp_path / "spool",
            ttl_s=TTL_S,
            segment_threshold=200,
            segment_size=100,
            connections=4,
        )
        started.append(Vfs(store, config, clock=clock, clock_ns=clock.ns))
        started[-1].start()
        return VfsFs(started[-1])

    yield start
    for vfs in started:
        vfs.close()


@pytest.fixture
def fs(mount: Callable[[], VfsFs]) -> VfsFs:
    return mount()


@pytest.mark.parametrize("content_type", [SYMLINK_TYPE, DIRECTORY_TYPE])
def test_a_file_does_not_inherit_the_type_of_what_another_client_put_in_its_place(
    fs: VfsFs, store: MemStore, clock: FakeClock, content_type: str
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.fsync(fd)
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"b", content_type=content_type)
    fs.pwrite(fd, b"content", 0)
    fs.close(fd)
    assert store.head("bucket", "a").info.content_type == "application/octet-stream"
    assert stat.S_ISREG(fs.lstat("/bucket/a").mode)


def test_a_directory_whose_marker_another_client_removed_can_be_removed(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d", content_type=DIRECTORY_TYPE)
    assert fs.listdir("/bucket") == ["d"]
    store.delete("bucket", "d/")
    fs.rmdir("/bucket/d")
    assert store.keys("bucket") == []
    assert fs.listdir("/bucket") == []


def test_a_rename_whose_last_answer_is_lost_keeps_the_file(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/a", b"content")
    store.fail_next(TimedOut("bucket/a", "silent"), "delete", is_done=True)
    fs.rename("/bucket/a", "/bucket/b")
    assert store.keys("bucket") == fs.listdir("/bucket") == ["b"]
    assert read_file(fs, "/bucket/b") == b"content"


def reads(fs: VfsFs, fd: int, offset: int, length: int) -> bytes | type[FsError]:
    try:
        return fs.pread(fd, length, offset)
    except FsError as exc:
        return type(exc)


@pytest.mark.parametrize("change", ["rename", "chmod"])
def test_an_open_file_stays_at_its_version_when_another_one_is_renamed_or_changed(
    fs: VfsFs, store: MemStore, clock: FakeClock, change: str
) -> None:
    put_bytes(store, "bucket", "a", b"1" * 100)
    fd = fs.open("/bucket/a", os.O_RDONLY)
    assert fs.pread(fd, 10, 50) == b"1" * 10
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"2" * 100)
    if change == "rename":
        fs.rename("/bucket/a", "/bucket/b")
    else:
        fs.chmod("/bucket/a", 0o600)
    assert reads(fs, fd, 80, 10) is Stale
    fs.close(fd)
    name = "/bucket/b" if change == "rename" else "/bucket/a"
    assert read_file(fs, name) == b"2" * 100


def test_a_renamed_newer_version_has_its_own_size(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    assert fs.lstat("/bucket/a").size == 3
    clock.advance(5)
    put_bytes(store, "bucket", "a", b"newer")
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.lstat("/bucket/b").size == 5
    assert get_bytes(store, "bucket", "b") == b"newer"


def test_an_empty_file_beside_a_directory_of_its_name_is_there_when_that_is_removed(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a")
    put_bytes(store, "bucket", "a/", content_type=DIRECTORY_TYPE)
    assert fs.lstat("/bucket/a").is_dir
    fs.rmdir("/bucket/a")
    assert store.keys("bucket") == fs.listdir("/bucket") == ["a"]
    assert fs.lstat("/bucket/a").size == 0


def test_a_directory_that_another_client_made_is_one_after_its_rename(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "theirs", content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "there/", content_type=DIRECTORY_TYPE)
    fs.rename("/bucket/theirs", "/bucket/new")
    assert sorted(fs.listdir("/bucket")) == ["new", "there"]
    assert fs.lstat("/bucket/new").is_dir
    fs.rename("/bucket/new", "/bucket/there")
    assert fs.listdir("/bucket") == ["there"]
    assert fs.lstat("/bucket/there").is_dir


@pytest.mark.parametrize("call", ["mkdir", "symlink", "rename", "create"])
def test_the_name_of_an_empty_file_that_another_client_removed_is_free_once_that_is_found_out(
    fs: VfsFs, store: MemStore, call: str
) -> None:
    put_bytes(store, "bucket", "a")
    put_bytes(store, "bucket", "other", b"1")
    assert fs.lstat("/bucket/other").size == 1
    store.delete("bucket", "a")
    with pytest.raises(NotFound):
        fs.lstat("/bucket/a")
    if call == "mkdir":
        fs.mkdir("/bucket/a")
    elif call == "symlink":
        fs.symlink("target", "/bucket/a")
    elif call == "rename":
        fs.rename("/bucket/other", "/bucket/a")
    else:
        fs.close(fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    assert "a" in fs.listdir("/bucket")


@pytest.mark.parametrize("is_found_out", [False, True])
def test_a_changed_open_file_whose_object_another_client_removed_can_be_unlinked(
    fs: VfsFs, store: MemStore, clock: FakeClock, is_found_out: bool
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_TRUNC)
    fs.pwrite(fd, b"mine", 0)
    store.delete("bucket", "a")
    if is_found_out:
        clock.advance(TTL_S)
    assert fs.lstat("/bucket/a").size == 4
    fs.unlink("/bucket/a")
    with pytest.raises(NotFound):
        fs.lstat("/bucket/a")
    assert fs.pread(fd, 10, 0) == b"mine"
    fs.close(fd)
    assert store.keys("bucket") == []


def test_a_directory_with_an_open_file_that_another_client_removed_can_be_renamed(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "d/a", b"content")
    put_bytes(store, "bucket", "d/b", b"1")
    fd = fs.open("/bucket/d/a", os.O_RDONLY)
    store.delete("bucket", "d/a")
    fs.rename("/bucket/d", "/bucket/e")
    assert store.keys("bucket") == ["e/b"]
    assert fs.listdir("/bucket/e") == ["b"]
    assert reads(fs, fd, 0, 10) is Stale
    fs.close(fd)


def test_a_new_file_in_whose_place_another_client_makes_a_directory_is_listed_once(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    put_bytes(store, "bucket", "a/b", b"1")
    clock.advance(TTL_S)
    assert fs.listdir("/bucket") == ["a"]
    fs.close(fd)


def empty_of_segments(store: MemStore, key: str) -> None:
    """Store a dynamic large object that has no segments."""
    store.create_container("bucket_segments")
    store.put_dlo("bucket", key, f"bucket_segments/{key}/theirs/", content_type="a/b")


def test_a_large_file_whose_rename_failed_in_copy_takes_its_segments_with_it(
    fs: VfsFs, store: MemStore
) -> None:
    write_file(fs, "/bucket/a", b"1" * 201)
    before = store.head("bucket", "a").metadata
    store.fail_next(Unavailable("bucket/a", "503"), "copy")
    with pytest.raises(Unavailable):
        fs.rename("/bucket/a", "/bucket/b")
    assert store.keys("bucket") == fs.listdir("/bucket") == ["a"]
    # The mark stays: the store may make the copy yet.
    assert marks.without(store.head("bucket", "a").metadata) == before
    fs.unlink("/bucket/a")
    assert store.keys("bucket_segments") == []


def test_an_empty_large_object_whose_rename_failed_in_copy_is_not_marked(
    fs: VfsFs, store: MemStore
) -> None:
    empty_of_segments(store, "a")
    store.fail_next(QuotaExceeded("bucket/a", "413"), "copy")
    with pytest.raises(QuotaExceeded):
        fs.rename("/bucket/a", "/bucket/b")
    assert store.keys("bucket") == fs.listdir("/bucket") == ["a"]
    assert marks.of(store.head("bucket", "a").metadata) == {}


def test_a_truncate_of_a_large_file_to_its_size_fails_when_its_manifest_does(
    fs: VfsFs, store: MemStore, clock: FakeClock, expected_logs: Callable[[str], None]
) -> None:
    write_file(fs, "/bucket/a", b"1" * 201)
    segments = store.keys("bucket_segments")
    before = store.head("bucket", "a")
    clock.advance(5)
    for method in ("put_slo", "put_dlo"):
        store.fail_next(Unavailable("bucket/a", "503"), method)
    expected_logs("was not stored")
    with pytest.raises(Unavailable):
        fs.truncate("/bucket/a", 201)
    assert store.head("bucket", "a") == before
    assert store.keys("bucket_segments") == segments
    assert read_file(fs, "/bucket/a") == b"1" * 201


def test_a_file_of_which_nothing_more_is_written_is_closed_after_another_client_replaced_it(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.truncate("/bucket/a", 201)
    clock.advance(5)
    empty_of_segments(store, "a")
    assert fs.pwrite(fd, b"", 0) == 0
    store.forget_calls()
    fs.close(fd)
    assert store.counts() == {}
    assert get_bytes(store, "bucket", "a") == b""


def test_a_mode_that_the_store_has_already_is_shown_when_it_is_given(
    mount: Callable[[], VfsFs], store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"content")
    mount().chmod("/bucket/a", 0o600)
    fs = mount()
    assert stat.S_IMODE(fs.lstat("/bucket/a").mode) == 0o644
    fs.truncate("/bucket/a", 0)
    fs.chmod("/bucket/a", 0o600)
    assert stat.S_IMODE(fs.lstat("/bucket/a").mode) == 0o600


def test_a_time_that_the_store_has_already_is_shown_when_it_is_given(
    mount: Callable[[], VfsFs], store: MemStore, expected_logs: Callable[[str], None]
) -> None:
    fs = mount()
    write_file(fs, "/bucket/a", b"1")
    fs.utime("/bucket/a", 1)
    fs = mount()
    assert fs.lstat("/bucket/a").mtime_ns != 1
    store.fail_next(QuotaExceeded("bucket/a", "413"), "put")
    expected_logs("was not stored")
    with pytest.raises(QuotaExceeded):
        fs.truncate("/bucket/a", 1)
    fs.utime("/bucket/a", 1)
    assert fs.lstat("/bucket/a").mtime_ns == 1


def test_a_renamed_file_shows_the_time_that_was_seen_when_that_of_utimens_is_not_known(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a")
    seen = fs.lstat("/bucket/a").mtime_ns
    store.fail_next(Unavailable("bucket/a", "503"), "post", is_done=True)
    with pytest.raises(Unavailable):
        fs.utime("/bucket/a", 1)
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.lstat("/bucket/b").mtime_ns == seen
    assert store.head("bucket", "b").metadata == {"mtime": "0.000000001"}


def test_segments_of_an_unlinked_file_that_could_not_be_removed_are_removed_by_the_next_mount(
    mount: Callable[[], VfsFs], store: MemStore, expected_logs: Callable[[str], None]
) -> None:
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.unlink("/bucket/a")
    for offset in range(0, 400, 100):
        fs.pwrite(fd, b"1" * 100, offset)
    expected_logs("segments of an upload that failed are left over")
    store.fail_next(TimedOut("bucket_segments", "silent"), "listing")
    put_bytes(store, "bucket_segments", "other", b"1")
    fs.close(fd)
    assert len(fs.vfs._services.spool.notes()) == 1
    fs = mount()
    while fs.vfs.status()["uploads_to_finish"]:
        pass
    assert fs.vfs._services.spool.notes() == []
    assert store.keys("bucket_segments") == ["other"]


@pytest.mark.parametrize("marker", ["d", "d/"])
def test_a_directory_whose_marker_another_client_removed_can_be_renamed(
    fs: VfsFs, store: MemStore, marker: str
) -> None:
    put_bytes(store, "bucket", marker, content_type=DIRECTORY_TYPE)
    put_bytes(store, "bucket", "d/a", b"content")
    assert fs.listdir("/bucket") == ["d"]
    store.delete("bucket", marker)
    fs.rename("/bucket/d", "/bucket/e")
    assert store.keys("bucket") == ["e/a"]
    assert fs.listdir("/bucket") == ["e"]


def test_a_directory_that_another_client_removed_cannot_be_renamed(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    assert fs.listdir("/bucket") == ["d"]
    store.delete("bucket", "d/")
    with pytest.raises(NotFound):
        fs.rename("/bucket/d", "/bucket/e")
    assert store.keys("bucket") == []


def open_and_list_a_marker_of_the_same_name(fs: VfsFs, store: MemStore, clock: FakeClock) -> int:
    """Another client marks a directory where this mount is about to store a file."""
    assert fs.listdir("/bucket") == []
    put_bytes(store, "bucket", "a.b", content_type=DIRECTORY_TYPE)
    fd = fs.open("/bucket/a.b", os.O_WRONLY | os.O_CREAT)
    clock.advance(TTL_S + 1)
    assert fs.listdir("/bucket") == ["a.b"]
    return fd


def test_a_file_that_replaced_the_marker_of_a_directory_is_a_file(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    fs.close(open_and_list_a_marker_of_the_same_name(fs, store, clock))
    assert stat.S_ISREG(fs.lstat("/bucket/a.b").mode)
    assert fs.listdir("/bucket") == ["a.b"]
    assert read_file(fs, "/bucket/a.b") == b""


def test_a_directory_that_holds_more_than_its_replaced_marker_stays(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    put_bytes(store, "bucket", "other", b"")
    fs.listdir("/bucket")
    put_bytes(store, "bucket", "a.b/c", b"")
    fd = fs.open("/bucket/a.b", os.O_WRONLY | os.O_CREAT)
    put_bytes(store, "bucket", "a.b", content_type=DIRECTORY_TYPE)
    clock.advance(TTL_S + 1)
    fs.listdir("/bucket")
    fs.close(fd)
    assert sorted(fs.listdir("/bucket")) == ["a.b", "a.b~object", "other"]
    assert fs.listdir("/bucket/a.b") == ["c"]


@pytest.mark.parametrize("then", ["close", "unlink"])
def test_an_exclusive_file_knows_its_own_upload_that_was_not_confirmed(
    fs: VfsFs, store: MemStore, then: str
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    fs.pwrite(fd, b"1", 0)
    store.fail_next(Unavailable("bucket/a", "busy"), "put", is_done=True)
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    assert store.keys("bucket") == ["a"]
    if then == "unlink":
        fs.unlink("/bucket/a")
    fs.close(fd)
    assert store.keys("bucket") == fs.listdir("/bucket") == ([] if then == "unlink" else ["a"])


def test_a_new_file_that_is_unlinked_leaves_what_another_client_put_there(
    fs: VfsFs, store: MemStore
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    fs.pwrite(fd, b"1", 0)
    store.fail_next(Unavailable("bucket/a", "busy"), "put", is_done=True)
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    put_bytes(store, "bucket", "a", b"theirs")
    fs.unlink("/bucket/a")
    fs.close(fd)
    assert get_bytes(store, "bucket", "a") == b"theirs"


def put_large(store: MemStore, key: str, data: bytes) -> None:
    """Store a dynamic large object of one segment: a listing calls it empty."""
    store.create_container("theirs")
    put_bytes(store, "theirs", f"{key}/0", data)
    store.put_dlo("bucket", key, f"theirs/{key}/", content_type="a/b")


@pytest.mark.parametrize("theirs", ["file", "marker", "large object"])
def test_an_exclusive_empty_file_is_not_that_of_another_client(
    fs: VfsFs, store: MemStore, theirs: str, expected_logs: Callable[[str], None]
) -> None:
    fs.listdir("/bucket")
    if theirs == "large object":
        store.create_container("theirs")
        store.put_dlo("bucket", "a", "theirs/none/", content_type="a/b")
    else:
        content_type = DIRECTORY_TYPE if theirs == "marker" else "text/plain"
        put_bytes(store, "bucket", "a", content_type=content_type)
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    if store.capabilities().conditional_put:
        expected_logs("bucket/a was not stored")
        with pytest.raises(Exists):
            fs.close(fd)
    else:
        fs.close(fd)


@pytest.mark.parametrize("is_large", [False, True], ids=["plain", "large"])
@pytest.mark.parametrize("seen", ["not seen", "seen later", "seen by chmod"])
def test_an_open_file_does_not_become_the_newer_version_that_is_renamed(
    fs: VfsFs, store: MemStore, clock: FakeClock, is_large: bool, seen: str
) -> None:
    write_file(fs, "/bucket/a", b"")
    clock.advance(5)
    put = put_large if is_large else lambda *args: put_bytes(args[0], "bucket", *args[1:])
    put(store, "a", b"x")
    fd = fs.open("/bucket/a", os.O_RDONLY)
    assert fs.pread(fd, 10, 0) == b""
    if seen == "seen later":
        clock.advance(TTL_S + 1)
        assert fs.lstat("/bucket/a").size == 1
    elif seen == "seen by chmod":
        fs.chmod("/bucket/a", 0o600)
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.pread(fd, 10, 0) == b""
    clock.advance(TTL_S + 1)
    assert fs.lstat("/bucket/b").size == 1
    assert read_file(fs, "/bucket/b") == b"x"
    fs.close(fd)


def test_a_file_that_grows_large_needs_no_stored_version_of_what_is_here(
    fs: VfsFs, store: MemStore
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"1" * 190, 0)
    fs.fsync(fd)
    store.delete("bucket", "a")
    fs.pwrite(fd, b"2" * 70, 190)
    fs.close(fd)
    assert get_bytes(store, "bucket", "a") == b"1" * 190 + b"2" * 70


@pytest.mark.parametrize("content", [b"", b"other"], ids=["same bytes", "other bytes"])
def test_a_newer_version_that_is_renamed_has_its_own_attributes(
    fs: VfsFs, store: MemStore, clock: FakeClock, content: bytes
) -> None:
    write_file(fs, "/bucket/a", b"")
    fs.chmod("/bucket/a", 0o600)
    fs.utime("/bucket/a", 1)
    clock.advance(5)
    put_bytes(store, "bucket", "a", content)
    fs.rename("/bucket/a", "/bucket/b")
    clock.advance(TTL_S + 1)
    found = fs.lstat("/bucket/b")
    assert stat.S_IMODE(found.mode) == 0o644
    # Listings may tell whole milliseconds.
    assert 0 <= store.head("bucket", "b").info.mtime_ns - found.mtime_ns < 1_000_000
    fs.chmod("/bucket/b", 0o600)
    assert store.head("bucket", "b").metadata["mode"] == "600"


def test_the_same_bytes_are_taken_for_an_upload_without_an_answer(
    fs: VfsFs, store: MemStore
) -> None:
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    store.fail_next(Unavailable("bucket/a", "busy"), "put")
    with pytest.raises(Unavailable):
        fs.fsync(fd)
    put_bytes(store, "bucket", "a", b"")
    fs.close(fd)
    assert get_bytes(store, "bucket", "a") == b""


def test_a_large_file_that_was_renamed_can_be_cut(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    write_file(fs, "/bucket/a", b"1" * 201)
    clock.advance(5)
    fs.rename("/bucket/a", "/bucket/b")
    fs.truncate("/bucket/b", 1)
    assert get_bytes(store, "bucket", "b") == b"1"


def test_a_file_whose_removal_was_noticed_while_it_is_open_can_be_made_anew(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    old = fs.open("/bucket/a", os.O_RDONLY)
    store.delete("bucket", "a")
    with pytest.raises(Stale):
        fs.pread(old, 1, 0)
    new = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    assert fs.pread(new, 10, 0) == b""
    fs.pwrite(new, b"new", 0)
    fs.close(new)
    with pytest.raises(Stale):
        fs.pread(old, 1, 0)
    fs.close(old)
    assert get_bytes(store, "bucket", "a") == b"new"


def test_the_newer_version_that_is_renamed_keeps_its_time_beside_an_open_older_one(
    fs: VfsFs, store: MemStore, clock: FakeClock
) -> None:
    clock.advance(2)
    empty_of_segments(store, "a")
    fd = fs.open("/bucket/a", os.O_RDONLY)
    put_bytes(store, "bucket", "a", b"1")
    fs.utime("/bucket/a", 1)
    fs.rename("/bucket/a", "/bucket/b")
    assert fs.lstat("/bucket/b").mtime_ns == 1
    fs.close(fd)


@pytest.mark.parametrize(
    "call", ["mkdir", "symlink", "rename", "rename directory", "create", "create exclusively"]
)
def test_the_name_of_a_file_that_another_client_removed_is_free_while_it_is_open(
    fs: VfsFs, store: MemStore, clock: FakeClock, call: str
) -> None:
    put_bytes(store, "bucket", "a", b"old")
    put_bytes(store, "bucket", "d/file", b"1")
    fd = fs.open("/bucket/a", os.O_RDONLY)
    store.delete("bucket", "a")
    clock.advance(TTL_S)
    with pytest.raises(NotFound):
        fs.lstat("/bucket/a")
    if call == "mkdir":
        fs.mkdir("/bucket/a")
    elif call == "symlink":
        fs.symlink("target", "/bucket/a")
    elif call == "rename":
        fs.rename("/bucket/d/file", "/bucket/a")
    elif call == "rename directory":
        fs.rename("/bucket/d", "/bucket/a")
    else:
        flags = os.O_EXCL if call == "create exclusively" else 0
        write_file(fs, "/bucket/a", b"new", flags=flags)
        assert read_file(fs, "/bucket/a") == b"new"
    assert "a" in fs.listdir("/bucket")
    assert reads(fs, fd, 0, 10) is Stale
    fs.close(fd)


@pytest.fixture
def beside(fs: VfsFs, store: MemStore, clock: FakeClock) -> int:
    """Another client makes a directory of the name of a file that is open."""
    put_bytes(store, "bucket", "a", b"1")
    put_bytes(store, "bucket", "d/file", b"2")
    fd = fs.open("/bucket/a", os.O_RDWR)
    put_bytes(store, "bucket", "a/", content_type=DIRECTORY_TYPE)
    clock.advance(TTL_S)
    assert fs.lstat("/bucket/a").is_dir
    return fd


def test_a_directory_that_another_client_made_beside_an_open_file_can_be_renamed(
    fs: VfsFs, store: MemStore, beside: int
) -> None:
    fs.rename("/bucket/a", "/bucket/b")
    assert store.keys("bucket") == ["a", "b/", "d/file"]
    assert fs.lstat("/bucket/b").is_dir
    assert fs.pread(beside, 10, 0) == b"1"
    fs.close(beside)


def test_a_directory_that_another_client_made_beside_an_open_file_can_be_replaced(
    fs: VfsFs, store: MemStore, beside: int
) -> None:
    fs.rename("/bucket/d", "/bucket/a")
    assert store.keys("bucket") == ["a", "a/", "a/file"]
    fs.close(beside)


@pytest.mark.parametrize("call", ["unlink", "rename", "replace"])
def test_a_changed_file_can_lose_its_name_though_another_client_made_a_directory_of_it(
    fs: VfsFs, store: MemStore, beside: int, call: str
) -> None:
    fs.pwrite(beside, b"mine", 0)
    assert not fs.lstat("/bucket/a").is_dir
    if call == "unlink":
        fs.unlink("/bucket/a")
        assert store.keys("bucket") == ["a/", "d/file"]
    elif call == "rename":
        fs.rename("/bucket/a", "/bucket/b")
        assert store.keys("bucket") == ["a/", "b", "d/file"]
        assert read_file(fs, "/bucket/b") == b"mine"
    else:
        fs.rename("/bucket/d/file", "/bucket/a")
        assert store.keys("bucket") == ["a", "a/", "d/"]
        assert get_bytes(store, "bucket", "a") == b"2"
    assert fs.lstat("/bucket/a").is_dir
    assert fs.pread(beside, 10, 0) == b"mine"
    fs.close(beside)


def test_the_marker_that_another_client_made_meanwhile_is_renamed_as_one(
    fs: VfsFs, store: MemStore
) -> None:
    put_bytes(store, "bucket", "d/file", b"1")
    assert fs.listdir("/bucket") == ["d"]
    store.delete("bucket", "d/file")
    put_bytes(store, "bucket", "d/", content_type=DIRECTORY_TYPE)
    fs.rename("/bucket/d", "/bucket/e")
    assert store.keys("bucket") == ["e/"]
    assert fs.listdir("/bucket") == ["e"]


def test_the_bucket_for_segments_that_another_client_removed_is_made_again(
    fs: VfsFs, store: MemStore
) -> None:
    lock = threading.Lock()
    removed: list[str] = []

    def remove_first(call: Call) -> None:
        if (call.method, call.container) == ("put", "bucket_segments"):
            with lock:
                if not removed:
                    removed.append(call.key)
                    store.delete_container("bucket_segments")

    store.before = remove_first
    write_file(fs, "/bucket/a", b"1" * 201)
    assert get_bytes(store, "bucket", "a") == b"1" * 201
