"""Write-back over a store in memory: what is stored when, and what happens to files before."""

from __future__ import annotations

import errno
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.config import KIB, MIB, Config
from allasfs.errors import (
    AccessDenied,
    DirectoryNotEmpty,
    FsError,
    NoDescriptors,
    NotFound,
    QuotaExceeded,
    Unavailable,
)
from allasfs.fs import pending
from allasfs.fs.vfs import Vfs
from allasfs.store.api import Kind
from allasfs.transfer.draft import Draft
from allasfs.transfer.notes import Note
from allasfs.transfer.spoolfile import SpoolFile
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.memstore import RGW, Call, MemStore, get_bytes, put_bytes

NEVER_S = 3600.0
PATIENCE_S = 30.0
Mount = Callable[..., VfsFs]
ExpectLog = Callable[[str], None]


@pytest.fixture
def store() -> MemStore:
    store = MemStore()
    store.create_container("bucket")
    return store


@pytest.fixture
def mount(store: MemStore, tmp_path: Path) -> Iterator[Mount]:
    """Start a Vfs whose closed files wait until ``sync``; all have the same spool folder."""
    started: list[Vfs] = []

    def start(**settings: object) -> VfsFs:
        config = Config(
            spool_dir=tmp_path / "spool",
            segment_threshold=2 * MIB,
            segment_size=MIB,
            connections=4,
            timeout_s=PATIENCE_S,
            write_back=True,
            write_back_delay_s=NEVER_S,
        )
        vfs = Vfs(store, replace(config, **settings))  # type: ignore[arg-type]
        vfs.start()
        started.append(vfs)
        return VfsFs(vfs)

    yield start
    for vfs in started:
        vfs.close()


@pytest.fixture
def fs(mount: Mount, store: MemStore) -> VfsFs:
    fs = mount()
    fs.listdir("/bucket")
    store.forget_calls()
    return fs


def kill(vfs: Vfs) -> None:
    """Let go of a spool as the end of a process does: nothing is uploaded, noted or removed."""
    vfs._pending.stop()
    vfs._services.spool.close()
    vfs._files.drain()


def status(fs: VfsFs, name: str) -> object:
    return fs.vfs.status()[name]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_spool_that_fails_when_a_file_is_stored_stops_no_other_upload(
    mount: Mount, store: MemStore, expected_logs: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    fs = mount(connections=2)
    write_file(fs, "/bucket/a", b"first")

    def fail(file: SpoolFile) -> None:
        file.close()
        raise OSError(errno.EIO, "Input/output error")

    expected_logs("closing bucket/a")
    with monkeypatch.context() as broken:
        broken.setattr(SpoolFile, "discard", fail)
        assert fs.vfs.sync()
    write_file(fs, "/bucket/b", b"second")
    assert fs.vfs.sync()
    assert (get_bytes(store, "bucket", "a"), get_bytes(store, "bucket", "b")) == (
        b"first",
        b"second",
    )
    fs.mkdir("/bucket/d")
    # It waits for all that is on its way.
    fs.rename("/bucket/d", "/bucket/e")


# -- close() --------------------------------------------------------------------------------------


@pytest.mark.semantics("W1")
def test_a_closed_file_is_here_at_once_and_stored_later(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/a", b"content")
    assert store.counts() == {}
    assert read_file(fs, "/bucket/a") == b"content"
    assert fs.listdir("/bucket") == ["a"]
    assert (status(fs, "pending_files"), status(fs, "pending_bytes")) == (1, 7)
    assert fs.vfs.sync()
    assert store.counts() == {"put": 1}
    assert get_bytes(store, "bucket", "a") == b"content"
    assert read_file(fs, "/bucket/a") == b"content"
    assert (status(fs, "pending_files"), status(fs, "spool_used")) == (0, 0)


@pytest.mark.semantics("W1")
def test_a_closed_file_goes_up_by_itself(mount: Mount, store: MemStore) -> None:
    done = threading.Event()
    store.after = lambda call: done.set() if call.method == "put" else None
    fs = mount(write_back_delay_s=0.01)
    write_file(fs, "/bucket/a", b"content")
    assert done.wait(PATIENCE_S)


@pytest.mark.semantics("W1")
def test_data_and_note_are_synced_before_close_returns(
    fs: VfsFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []

    def of(call: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).suffix)
            call(fd)

        return sync

    monkeypatch.setattr(os, "fsync", of(os.fsync))
    monkeypatch.setattr(os, "fdatasync", of(os.fdatasync))
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    assert synced == []
    fs.close(fd)
    # The bytes, the note under its first name, the folder that has its name.
    assert synced == [".data", ".new", ""]


def test_who_waits_for_files_does_not_have_all_notes_read_each_time(
    fs: VfsFs, monkeypatch: pytest.MonkeyPatch
) -> None:
    # ``allasfs sync`` asks five times a second; notes of 10,000 files take half a second.
    for number in range(3):
        write_file(fs, f"/bucket/{number}", b"content")
    read: list[Path] = []
    load = Note.load

    def counted(path: Path) -> Note:
        read.append(path)
        return load(path)

    monkeypatch.setattr(Note, "load", counted)
    assert fs.vfs.waiting()["pending_files"] == 3
    assert read == []


@pytest.mark.semantics("W2")
def test_a_note_that_a_loss_of_power_left_empty_costs_neither_name_nor_upload(
    mount: Mount, store: MemStore
) -> None:
    before = mount()
    write_file(before, "/bucket/a", b"content")
    # What is noted now is not synced: XFS may keep the new name and none of its bytes.
    before.chmod("/bucket/a", 0o640)
    (note,) = before.vfs._services.spool.notes()
    kill(before.vfs)
    os.truncate(note, 0)
    after = mount()
    assert read_file(after, "/bucket/a") == b"content"
    assert after.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"
    assert [path.name for path in note.parent.iterdir()] == ["lock"]


@pytest.mark.semantics("W2")
def test_only_notes_that_are_not_synced_have_an_older_one_beside_them(fs: VfsFs) -> None:
    folder = fs.vfs._services.spool.folder
    write_file(fs, "/bucket/a", b"content")
    assert list(folder.glob("*.synced")) == []
    for mode in (0o640, 0o600):
        fs.chmod("/bucket/a", mode)
        (older,) = folder.glob("*.synced")
        assert "mode" not in Note._read(older).metadata
    fd = fs.open("/bucket/a", os.O_WRONLY)
    fs.pwrite(fd, b"C", 0)
    fs.fsync(fd)
    assert list(folder.glob("*.synced")) == []
    fs.chmod("/bucket/a", 0o640)
    fs.close(fd)
    fs.unlink("/bucket/a")
    assert [path.name for path in folder.iterdir()] == ["lock"]


@pytest.mark.semantics("W1")
def test_fsync_makes_safe_what_is_written_so_far(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"first", 0)
    fs.fsync(fd)
    fs.pwrite(fd, b" second", 5)
    kill(fs.vfs)
    after = mount()
    assert read_file(after, "/bucket/a") == b"first"
    assert after.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"first"


# -- a kill ---------------------------------------------------------------------------------------


@pytest.mark.semantics("W2")
def test_the_next_mount_has_the_files_and_stores_them(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "old", b"older", metadata={"color": "blue"})
    before = mount()
    before.mkdir("/bucket/d")
    write_file(before, "/bucket/d/new", b"content")
    before.utime("/bucket/d/new", 1_500_000_000_123_456_789)
    before.chmod("/bucket/d/new", 0o600)
    fd = before.open("/bucket/old", os.O_WRONLY | os.O_TRUNC)
    before.pwrite(fd, b"newer", 0)
    before.close(fd)
    kill(before.vfs)
    store.forget_calls()
    after = mount()
    assert store.counts() == {}
    assert read_file(after, "/bucket/d/new") == b"content"
    assert after.lstat("/bucket/d/new").mtime_ns == 1_500_000_000_123_456_789
    assert after.lstat("/bucket/d/new").mode & 0o777 == 0o600
    assert read_file(after, "/bucket/old") == b"newer"
    assert after.vfs.sync()
    assert get_bytes(store, "bucket", "d/new") == b"content"
    assert get_bytes(store, "bucket", "old") == b"newer"
    assert store.head("bucket", "d/new").metadata["mtime"].startswith("1500000000.123456")
    assert store.head("bucket", "old").metadata["color"] == "blue"
    assert status(after, "pending_files") == 0
    assert list((after.vfs._services.spool.folder).glob("*.data")) == []


@pytest.mark.semantics("W2")
def test_a_mount_without_write_back_stores_them_too(mount: Mount, store: MemStore) -> None:
    before = mount()
    write_file(before, "/bucket/a", b"content")
    kill(before.vfs)
    after = mount(write_back=False)
    assert read_file(after, "/bucket/a") == b"content"
    assert after.vfs.close() == []
    assert get_bytes(store, "bucket", "a") == b"content"


@pytest.mark.semantics("W2")
def test_an_upload_that_was_done_before_the_kill_is_no_conflict(
    mount: Mount, store: MemStore
) -> None:
    before = mount()
    write_file(before, "/bucket/a", b"content")
    kill(before.vfs)
    put_bytes(store, "bucket", "a", b"content")
    after = mount()
    assert after.vfs.sync()
    assert (status(after, "not_stored"), status(after, "kept")) == ([], [])


@pytest.mark.semantics("W2")
@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_kill_in_a_truncate_leaves_no_zeros(
    mount: Mount, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    class Killed(BaseException):
        """The process ends here."""

    truncate = SpoolFile.truncate

    def killed(file: SpoolFile, size: int) -> None:
        if moment == "after":
            truncate(file, size)
        raise Killed

    fs = mount()
    write_file(fs, "/bucket/a", b"0123456789")
    fd = fs.open("/bucket/a", os.O_WRONLY)
    monkeypatch.setattr(SpoolFile, "truncate", killed)
    with pytest.raises(Killed):
        fs.ftruncate(fd, 4)
    monkeypatch.undo()
    kill(fs.vfs)
    assert read_file(mount(), "/bucket/a") == b"0123"


@pytest.mark.semantics("W2")
def test_data_that_are_shorter_than_noted_do_not_go_up_as_zeros(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("4 bytes are here, and its note tells of 10")
    before = mount()
    write_file(before, "/bucket/a", b"0123456789")
    kill(before.vfs)
    (data,) = before.vfs._services.spool.folder.glob("*.data")
    os.truncate(data, 4)
    after = mount()
    assert after.vfs.sync()
    assert store.keys("bucket") == []
    assert data.read_bytes() == b"0123"


@pytest.mark.semantics("W2")
def test_a_truncated_file_is_short_after_a_kill(mount: Mount) -> None:
    before = mount()
    write_file(before, "/bucket/a", b"0123456789")
    fd = before.open("/bucket/a", os.O_WRONLY)
    before.ftruncate(fd, 4)
    kill(before.vfs)
    assert read_file(mount(), "/bucket/a") == b"0123"


@pytest.mark.semantics("W2", "W3")
def test_a_kill_in_a_rename_leaves_one_file_at_the_name(
    mount: Mount, store: MemStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """The process ends here."""

    def killed(draft: Draft) -> None:
        raise Killed

    before = mount()
    write_file(before, "/bucket/a", b"older")
    write_file(before, "/bucket/b", b"newer")
    # The note of the new name is written, that of the replaced file is still there.
    monkeypatch.setattr(Draft, "forget", killed)
    with pytest.raises(Killed):
        before.rename("/bucket/b", "/bucket/a")
    monkeypatch.undo()
    kill(before.vfs)
    after = mount()
    assert after.listdir("/bucket") == ["a"]
    assert read_file(after, "/bucket/a") == b"newer"
    assert after.vfs.sync()
    assert store.keys("bucket") == ["a"]
    assert get_bytes(store, "bucket", "a") == b"newer"
    assert list(after.vfs._services.spool.folder.glob("*.data")) == []


# -- before it is stored --------------------------------------------------------------------------


@pytest.mark.semantics("W3")
def test_a_file_that_is_renamed_at_once_is_one_put(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/.a.tmp", b"content")
    fs.utime("/bucket/.a.tmp", 1_500_000_000_000_000_000)
    fs.chmod("/bucket/.a.tmp", 0o600)
    fs.rename("/bucket/.a.tmp", "/bucket/a")
    assert fs.listdir("/bucket") == ["a"]
    assert fs.vfs.sync()
    assert store.counts() == {"put": 1}
    assert store.keys("bucket") == ["a"]
    assert store.head("bucket", "a").metadata["mode"] == "600"
    assert fs.lstat("/bucket/a").mtime_ns == 1_500_000_000_000_000_000


@pytest.mark.semantics("W3")
def test_a_renamed_file_replaces_a_stored_one(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a.csv", b"older", metadata={"color": "blue"})
    fs = mount()
    assert read_file(fs, "/bucket/a.csv") == b"older"
    write_file(fs, "/bucket/tmp", b"content")
    store.forget_calls()
    fs.rename("/bucket/tmp", "/bucket/a.csv")
    assert read_file(fs, "/bucket/a.csv") == b"content"
    assert fs.vfs.sync()
    assert store.counts() == {"head": 1, "put": 1}
    # Nothing of the replaced file is left on it.
    head = store.head("bucket", "a.csv")
    assert "color" not in head.metadata
    assert head.info.content_type == "text/csv"


@pytest.mark.semantics("W3")
def test_a_renamed_file_replaces_one_that_waits(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/a", b"older")
    write_file(fs, "/bucket/b", b"newer")
    fs.rename("/bucket/b", "/bucket/a")
    assert fs.vfs.sync()
    assert store.counts() == {"put": 1}
    assert get_bytes(store, "bucket", "a") == b"newer"
    assert status(fs, "spool_used") == 0


@pytest.mark.semantics("W3")
def test_a_renamed_file_that_replaces_a_large_one_leaves_no_segment(
    fs: VfsFs, store: MemStore
) -> None:
    write_file(fs, "/bucket/a", bytes(3 * MIB))
    assert store.keys("bucket_segments")
    write_file(fs, "/bucket/b", b"small")
    fs.rename("/bucket/b", "/bucket/a")
    assert fs.vfs.sync()
    assert store.keys("bucket_segments") == []


@pytest.mark.semantics("W3")
def test_a_file_that_is_removed_is_never_sent(mount: Mount, store: MemStore) -> None:
    fs = mount()
    fs.listdir("/bucket")
    store.forget_calls()
    write_file(fs, "/bucket/a", b"content")
    fs.unlink("/bucket/a")
    assert fs.listdir("/bucket") == []
    kill(fs.vfs)
    after = mount()
    assert after.vfs.sync()
    assert store.calls("put") == []
    assert status(after, "spool_used") == 0


@pytest.mark.semantics("W3")
def test_a_changed_file_that_is_removed_is_gone_here_and_there(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"older")
    fs = mount()
    write_file(fs, "/bucket/a", b"newer", flags=os.O_TRUNC)
    fs.unlink("/bucket/a")
    assert fs.vfs.sync()
    assert store.keys("bucket") == []


@pytest.mark.semantics("W3")
def test_writing_twice_makes_one_version(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/a", b"first")
    write_file(fs, "/bucket/a", b"second", flags=os.O_TRUNC)
    fs.truncate("/bucket/a", 3)
    fs.setxattr("/bucket/a", "user.color", b"blue")
    assert fs.vfs.sync()
    assert store.counts() == {"put": 1}
    assert get_bytes(store, "bucket", "a") == b"sec"
    assert store.head("bucket", "a").metadata["color"] == "blue"


@pytest.mark.semantics("W3")
def test_a_directory_moves_with_what_waits_in_it(fs: VfsFs, store: MemStore) -> None:
    fs.mkdir("/bucket/d")
    write_file(fs, "/bucket/d/a", b"content")
    fs.rename("/bucket/d", "/bucket/e")
    assert read_file(fs, "/bucket/e/a") == b"content"
    assert fs.vfs.sync()
    assert store.keys("bucket") == ["e/", "e/a"]


def test_a_directory_or_bucket_in_which_a_file_waits_is_not_empty(fs: VfsFs) -> None:
    fs.mkdir("/other")
    write_file(fs, "/other/a", b"content")
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir("/other")
    fs.mkdir("/other/d")
    fs.rename("/other/a", "/other/d/a")
    with pytest.raises(DirectoryNotEmpty):
        fs.rmdir("/other/d")


# -- while it goes up -----------------------------------------------------------------------------


class Gate:
    """Holds the first PUT of a store until it is opened."""

    def __init__(self, store: MemStore) -> None:
        self.reached = threading.Event()
        self.open = threading.Event()
        store.before = self._before

    def _before(self, call: Call) -> None:
        if call.method == "put" and not self.reached.is_set():
            self.reached.set()
            assert self.open.wait(PATIENCE_S)


@pytest.fixture
def gate(fs: VfsFs, store: MemStore) -> Iterator[Gate]:
    """A file ``/bucket/a`` is on its way up."""
    gate = Gate(store)
    write_file(fs, "/bucket/a", b"content")
    fs.vfs.hurry()
    assert gate.reached.wait(PATIENCE_S)
    yield gate
    gate.open.set()


def test_a_file_on_its_way_can_be_read_and_looked_at(fs: VfsFs, gate: Gate) -> None:
    assert read_file(fs, "/bucket/a") == b"content"
    assert fs.lstat("/bucket/a").size == 7
    assert not gate.open.is_set()


def test_attributes_given_on_its_way_are_stored_after_it(
    fs: VfsFs, gate: Gate, store: MemStore
) -> None:
    fs.chmod("/bucket/a", 0o600)
    gate.open.set()
    assert fs.vfs.sync()
    assert store.head("bucket", "a").metadata["mode"] == "600"
    assert fs.lstat("/bucket/a").mode & 0o777 == 0o600


@pytest.mark.parametrize("change", ["write", "truncate", "rename", "unlink"])
def test_a_change_on_its_way_waits_for_the_end_of_the_upload(
    fs: VfsFs, gate: Gate, store: MemStore, change: str
) -> None:
    def write() -> None:
        fd = fs.open("/bucket/a", os.O_WRONLY)
        fs.pwrite(fd, b"CON", 0)
        fs.close(fd)

    calls: dict[str, Callable[[], None]] = {
        "write": write,
        "truncate": lambda: fs.truncate("/bucket/a", 3),
        "rename": lambda: fs.rename("/bucket/a", "/bucket/b"),
        "unlink": lambda: fs.unlink("/bucket/a"),
    }
    thread = threading.Thread(target=calls[change])
    thread.start()
    gate.open.set()
    thread.join(PATIENCE_S)
    assert fs.vfs.sync()
    found = {key: get_bytes(store, "bucket", key) for key in store.keys("bucket")}
    expected = {
        "write": {"a": b"CONtent"},
        "truncate": {"a": b"con"},
        "rename": {"b": b"content"},
        "unlink": {},
    }
    assert found == expected[change]
    assert status(fs, "not_stored") == []


# -- the store is away ----------------------------------------------------------------------------


@pytest.mark.semantics("W4")
def test_files_wait_for_a_store_that_cannot_be_reached(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("closed files wait for the store: store: no route")
    for _ in range(3):
        store.fail_next(Unavailable("store", "no route"), "put")
    write_file(fs, "/bucket/a", b"content")
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"
    assert len(store.calls("put")) == 4


@pytest.mark.semantics("W4")
def test_the_next_pause_is_never_longer_than_eight_seconds() -> None:
    assert pending.LONGEST_PAUSE_S == 8.0


@pytest.mark.semantics("W4")
def test_a_mount_that_ends_leaves_what_it_cannot_store_to_the_next(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    def away(call: Call) -> None:
        raise Unavailable("store", "no route")

    expected_logs("closed files wait for the store")
    expected_logs("bucket/a waits for the next mount")
    fs = mount(timeout_s=0.2)
    write_file(fs, "/bucket/a", b"content")
    store.before = away
    assert not fs.vfs.sync()
    assert "no route" in str(status(fs, "pending_error"))
    assert fs.vfs.close() == ["1 files wait in the spool for the next mount"]
    store.before = lambda call: None
    after = mount()
    assert after.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"


# -- what is refused ------------------------------------------------------------------------------

REFUSALS = [
    QuotaExceeded("bucket/a", "413"),
    AccessDenied("bucket/a", "403"),
    NotFound("bucket"),
]


@pytest.mark.semantics("W5")
@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda each: type(each).__name__)
def test_what_is_refused_for_good_is_kept_and_told(
    fs: VfsFs, store: MemStore, refusal: FsError, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a was not stored")
    write_file(fs, "/bucket/a", b"content")
    store.fail_next(refusal, "put")
    assert fs.vfs.sync()
    assert fs.listdir("/bucket") == []
    (kept,) = fs.vfs._services.spool.entries()
    assert kept.is_kept
    assert kept.data.read_bytes() == b"content"
    (line,) = fs.vfs._lost
    assert "bucket/a was not stored" in line
    assert fs.vfs.close() == [line]


@pytest.mark.semantics("W5")
def test_an_open_handle_is_told_once_and_can_try_again(fs: VfsFs, store: MemStore) -> None:
    fd = fs.open("/bucket/a", os.O_RDWR | os.O_CREAT)
    fs.pwrite(fd, b"content", 0)
    fs.fsync(fd)
    store.fail_next(QuotaExceeded("bucket/a", "413"), "put")
    assert fs.vfs.sync()
    with pytest.raises(QuotaExceeded) as caught:
        fs.fsync(fd)
    assert caught.value.errno == errno.EDQUOT
    fs.fsync(fd)
    fs.close(fd)
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"


# -- other clients --------------------------------------------------------------------------------


@pytest.mark.semantics("W6")
@pytest.mark.parametrize("server", ["openstack", "rgw"])
@pytest.mark.parametrize("was_there", [False, True])
def test_what_another_client_stored_stays_and_the_file_is_kept(
    tmp_path: Path, expected_logs: ExpectLog, was_there: bool, server: str
) -> None:
    store = MemStore(capabilities=RGW) if server == "rgw" else MemStore()
    store.create_container("bucket")
    if was_there:
        put_bytes(store, "bucket", "a", b"older")
    config = Config(spool_dir=tmp_path, write_back=True, write_back_delay_s=NEVER_S, connections=4)
    fs = VfsFs(Vfs(store, config))
    fs.vfs.start()
    expected_logs("bucket/a was not stored .*another client changed it")
    write_file(fs, "/bucket/a", b"from here", flags=os.O_TRUNC)
    put_bytes(store, "bucket", "a", b"from there")
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"from there"
    assert read_file(fs, "/bucket/a") == b"from there"
    (kept,) = fs.vfs._services.spool.entries()
    assert kept.data.read_bytes() == b"from here"
    assert len(fs.vfs.close()) == 1


@pytest.mark.semantics("W6")
def test_an_upload_whose_answer_was_lost_is_no_conflict(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("closed files wait for the store")
    store.fail_next(Unavailable("store", "reset"), "put", is_done=True)
    write_file(fs, "/bucket/a", b"content")
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"
    assert status(fs, "not_stored") == []


def lose_an_answer(fs: VfsFs, store: MemStore, expected_logs: ExpectLog, path: str) -> None:
    """Write a file whose upload is done and gets no answer; it waits for another attempt."""
    expected_logs("closed files wait for the store")
    tried = threading.Event()
    store.after = lambda call: tried.set() if call.method == "put" else None
    store.fail_next(Unavailable("store", "reset"), "put", is_done=True)
    write_file(fs, path, b"content")
    fs.vfs._pending.hurry()
    assert tried.wait(PATIENCE_S)
    while fs.vfs._pending._sending:
        time.sleep(0.001)
    with fs.vfs._pending._lock:
        fs.vfs._pending._pause_until = time.monotonic() + NEVER_S
    assert path.removeprefix("/bucket/") in store.keys("bucket")
    assert status(fs, "pending_files") == 1


@pytest.fixture
def lost(fs: VfsFs, store: MemStore, expected_logs: ExpectLog) -> VfsFs:
    """A mount with such a file."""
    lose_an_answer(fs, store, expected_logs, "/bucket/a")
    return fs


@pytest.mark.semantics("W6")
def test_a_file_that_changes_after_an_answer_was_lost_is_no_conflict(
    lost: VfsFs, store: MemStore
) -> None:
    write_file(lost, "/bucket/a", b"newer")
    assert lost.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"newer"
    assert status(lost, "not_stored") == []


@pytest.mark.semantics("W3")
def test_a_file_that_is_removed_after_an_answer_was_lost_is_not_left_in_the_store(
    lost: VfsFs, store: MemStore
) -> None:
    lost.unlink("/bucket/a")
    assert store.keys("bucket") == []
    assert lost.vfs.sync()
    assert lost.listdir("/bucket") == []


@pytest.mark.semantics("W3")
def test_a_file_that_is_renamed_after_an_answer_was_lost_has_one_name(
    lost: VfsFs, store: MemStore
) -> None:
    lost.rename("/bucket/a", "/bucket/b")
    assert lost.vfs.sync()
    assert store.keys("bucket") == ["b"]
    assert get_bytes(store, "bucket", "b") == b"content"
    assert lost.listdir("/bucket") == ["b"]


@pytest.mark.semantics("W3")
def test_a_directory_that_is_renamed_after_an_answer_was_lost_leaves_nothing_behind(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    fs.mkdir("/bucket/d")
    lose_an_answer(fs, store, expected_logs, "/bucket/d/a")
    fs.rename("/bucket/d", "/bucket/e")
    assert fs.vfs.sync()
    assert store.keys("bucket") == ["e/", "e/a"]
    assert get_bytes(store, "bucket", "e/a") == b"content"


@pytest.mark.semantics("W3")
def test_a_file_that_is_replaced_by_a_rename_after_an_answer_was_lost_is_no_conflict(
    lost: VfsFs, store: MemStore
) -> None:
    write_file(lost, "/bucket/b", b"newer")
    lost.rename("/bucket/b", "/bucket/a")
    assert lost.vfs.sync()
    assert store.keys("bucket") == ["a"]
    assert get_bytes(store, "bucket", "a") == b"newer"


@pytest.mark.semantics("W2", "W6")
def test_what_was_sent_without_an_answer_is_no_conflict_for_the_next_mount(
    lost: VfsFs, mount: Mount, store: MemStore
) -> None:
    write_file(lost, "/bucket/a", b"newer")
    kill(lost.vfs)
    after = mount()
    assert after.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"newer"
    assert status(after, "kept") == []


@pytest.mark.semantics("W6")
def test_a_file_that_another_client_removed_is_stored(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"older")
    fs = mount()
    write_file(fs, "/bucket/a", b"newer", flags=os.O_TRUNC)
    store.delete("bucket", "a")
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"newer"


# -- what is written through ----------------------------------------------------------------------


@pytest.mark.semantics("W7")
def test_large_files_are_stored_when_close_returns(fs: VfsFs, store: MemStore) -> None:
    write_file(fs, "/bucket/a", bytes(3 * MIB))
    assert store.head("bucket", "a").info.size == 3 * MIB
    assert status(fs, "pending_files") == 0


@pytest.mark.semantics("W7")
def test_a_change_of_a_file_that_is_in_the_store_alone_is_written_through(
    mount: Mount, store: MemStore
) -> None:
    put_bytes(store, "bucket", "a", b"0123456789")
    fs = mount()
    fd = fs.open("/bucket/a", os.O_WRONLY)
    fs.pwrite(fd, b"X", 3)
    fs.close(fd)
    assert get_bytes(store, "bucket", "a") == b"012X456789"


@pytest.mark.semantics("W7")
def test_a_file_that_waits_and_grows_large_is_stored_when_close_returns(
    fs: VfsFs, store: MemStore
) -> None:
    write_file(fs, "/bucket/a", b"small")
    write_file(fs, "/bucket/a", bytes(3 * MIB), flags=os.O_TRUNC)
    assert store.head("bucket", "a").info.size == 3 * MIB
    assert fs.vfs.sync()
    assert (status(fs, "pending_files"), status(fs, "spool_used")) == (0, 0)


# -- limits ---------------------------------------------------------------------------------------


@pytest.mark.semantics("W8")
def test_a_write_waits_for_the_room_of_files_that_go_up(mount: Mount, store: MemStore) -> None:
    fs = mount(spool_size=MIB)
    for number in range(8):
        write_file(fs, f"/bucket/{number}", bytes(400 * KIB))
    assert fs.vfs.sync()
    assert [store.head("bucket", key).info.size for key in store.keys("bucket")] == [400 * KIB] * 8


@pytest.mark.semantics("W8")
def test_a_write_gets_enospc_when_nothing_goes_up(
    mount: Mount, store: MemStore, expected_logs: ExpectLog
) -> None:
    def away(call: Call) -> None:
        raise Unavailable("store", "no route")

    expected_logs("closed files wait for the store")
    fs = mount(spool_size=MIB, timeout_s=2.0)
    for number in range(2):
        write_file(fs, f"/bucket/{number}", bytes(400 * KIB))
    store.before = away
    fd = fs.open("/bucket/2", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(FsError) as caught:
        fs.pwrite(fd, bytes(400 * KIB), 0)
    assert caught.value.errno == errno.ENOSPC
    # What was closed is as it was.
    assert read_file(fs, "/bucket/1") == bytes(400 * KIB)
    store.before = lambda call: None
    fs.vfs.hurry()
    assert fs.vfs.sync()
    fs.pwrite(fd, b"content", 0)
    fs.close(fd)
    assert fs.vfs.sync()
    assert len(store.keys("bucket")) == 3


@pytest.mark.semantics("W8")
def test_files_that_wait_take_no_descriptors(fs: VfsFs) -> None:
    before = descriptors()
    for number in range(50):
        write_file(fs, f"/bucket/{number}", b"content")
    assert descriptors() == before
    assert read_file(fs, "/bucket/7") == b"content"
    assert descriptors() == before


def test_exclusive_files_of_two_machines_are_both_kept(
    fs: VfsFs, store: MemStore, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/a was not stored")
    write_file(fs, "/bucket/a", b"mine", flags=os.O_CREAT | os.O_EXCL)
    with pytest.raises(FileExistsError):
        fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    put_bytes(store, "bucket", "a", b"theirs")
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"theirs"


def test_readers_of_a_replaced_file_keep_its_bytes(mount: Mount, store: MemStore) -> None:
    put_bytes(store, "bucket", "a", b"older")
    fs = mount()
    fd = fs.open("/bucket/a", os.O_RDONLY)
    write_file(fs, "/bucket/b", b"newer")
    fs.rename("/bucket/b", "/bucket/a")
    assert fs.vfs.sync()
    assert fs.pread(fd, 10, 0) == b"older"
    fs.close(fd)
    assert read_file(fs, "/bucket/a") == b"newer"


def test_a_file_that_is_stored_while_its_directory_moves_moves_with_it(
    mount: Mount, store: MemStore
) -> None:
    fs = mount(write_back_delay_s=0.0)
    fs.mkdir("/bucket/d")
    write_file(fs, "/bucket/d/stored", b"stored")
    assert fs.vfs.sync()
    reached, copying, go_on = threading.Event(), threading.Event(), threading.Event()

    def before(call: Call) -> None:
        if call.method == "put" and call.key == "d/waits":
            reached.set()
            assert go_on.wait(PATIENCE_S)
        if call.method == "copy":
            # All is listed that will be moved: now the file is stored and forgotten.
            copying.set()
            while status(fs, "pending_files"):
                time.sleep(0.01)

    store.before = before
    write_file(fs, "/bucket/d/waits", b"content")
    assert reached.wait(PATIENCE_S)
    rename = threading.Thread(target=fs.rename, args=("/bucket/d", "/bucket/e"))
    rename.start()
    # A rename that waits for the file comes to no copy before.
    copying.wait(0.3)
    go_on.set()
    rename.join(PATIENCE_S)
    assert fs.vfs.sync()
    assert store.keys("bucket") == ["e/", "e/stored", "e/waits"]
    assert read_file(fs, "/bucket/e/waits") == b"content"


# -- what goes wrong here -------------------------------------------------------------------------


@pytest.mark.semantics("M3")
@pytest.mark.parametrize("error", [NoDescriptors, Unavailable])
def test_a_file_that_cannot_be_opened_for_its_upload_is_tried_again(
    fs: VfsFs,
    store: MemStore,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: ExpectLog,
    error: type[FsError],
) -> None:
    """A waiting file has no descriptor, and there may be none when its time comes."""
    expected_logs("closed files wait for the store.*too many open files")
    write_file(fs, "/bucket/a", b"content")
    wake = SpoolFile.wake

    def fail(self: SpoolFile) -> None:
        monkeypatch.setattr(SpoolFile, "wake", wake)
        raise error(str(self.path), "too many open files")

    monkeypatch.setattr(SpoolFile, "wake", fail)
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"


def test_a_file_whose_data_somebody_removes_while_it_goes_up_hinders_nobody(
    fs: VfsFs, gate: Gate, store: MemStore, tmp_path: Path
) -> None:
    for data in (tmp_path / "spool").glob("*.data"):
        data.unlink()
    gate.open.set()
    assert fs.vfs.sync()
    assert get_bytes(store, "bucket", "a") == b"content"
    assert (status(fs, "pending_files"), status(fs, "spool_used")) == (0, 0)


def test_a_fault_after_an_upload_does_not_let_others_wait_for_its_end(
    fs: VfsFs, store: MemStore, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectLog
) -> None:
    expected_logs("write-back")
    fs.mkdir("/bucket/d")
    write_file(fs, "/bucket/d/a", b"content")

    def fail(file: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fs.vfs._pending, "_ended", fail)
    assert fs.vfs.sync()
    fs.rename("/bucket/d", "/bucket/e")
    assert get_bytes(store, "bucket", "e/a") == b"content"


@pytest.mark.semantics("W1")
def test_what_is_closed_after_a_sync_waits_for_its_time_as_before(
    fs: VfsFs, store: MemStore
) -> None:
    write_file(fs, "/bucket/a", b"content")
    assert fs.vfs.sync()
    write_file(fs, "/bucket/b", b"content")
    pending = fs.vfs._pending
    with pending._lock:
        assert (len(pending._due), pending._next()) == (1, None)
    fs.rename("/bucket/b", "/bucket/c")
    assert store.counts() == {"put": 1}


@pytest.mark.semantics("W8")
@pytest.mark.parametrize("is_open", [False, True])
def test_a_file_that_waits_is_sent_in_one_piece_for_its_room(
    mount: Mount, store: MemStore, is_open: bool
) -> None:
    fs = mount(spool_size=4 * MIB)
    fd = fs.open("/bucket/a", os.O_WRONLY | os.O_CREAT)
    fs.pwrite(fd, b"a" * (3 * MIB // 2), 0)
    fs.fsync(fd)
    if not is_open:
        fs.close(fd)
    for number in range(3):
        write_file(fs, f"/bucket/{number}", b"b" * MIB)
    if is_open:
        fs.close(fd)
    assert fs.vfs.sync()
    assert store.keys("bucket") == ["0", "1", "2", "a"]
    assert [call.container for call in store.calls("create_container")] == ["bucket"]
    assert store.head("bucket", "a").info.kind is Kind.PLAIN


@pytest.mark.semantics("W4")
def test_files_that_are_large_for_the_next_mount_are_stored_by_it(
    mount: Mount, store: MemStore
) -> None:
    """Each waits for its segments, which need threads beside those of the files."""
    fs = mount()
    for name in "abc":
        write_file(fs, f"/bucket/{name}", name.encode() * (3 * MIB // 2))
    kill(fs.vfs)
    again = mount(segment_threshold=MIB, connections=2, timeout_s=5.0)
    assert again.vfs.sync()
    for name in "abc":
        assert get_bytes(store, "bucket", name) == name.encode() * (3 * MIB // 2)


@pytest.mark.semantics("W8", "W3")
def test_what_happens_to_files_that_wait_takes_no_descriptors(fs: VfsFs) -> None:
    before = descriptors()
    for number in range(20):
        name = f"/bucket/{number}"
        write_file(fs, f"{name}.part", b"content")
        fs.chmod(f"{name}.part", 0o600)
        fs.rename(f"{name}.part", name)
        fs.utime(name, 1_500_000_000)
        fs.setxattr(name, "user.comment", b"kept")
        fs.lstat(name)
    assert descriptors() == before


@pytest.mark.semantics("W8", "W2")
def test_files_that_the_mount_before_left_take_no_descriptors(
    mount: Mount, store: MemStore
) -> None:
    fs = mount()
    for number in range(200):
        write_file(fs, f"/bucket/{number}", b"content")
    kill(fs.vfs)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors() + 40, hard))
    try:
        again = mount()
        assert len(again.listdir("/bucket")) == 200
        assert again.vfs.sync()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(store.keys("bucket")) == 200
