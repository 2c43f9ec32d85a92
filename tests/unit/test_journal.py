"""The journal of the spool: what is noted when, and that nothing which is owed is thrown away."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.config import MIB
from allasfs.errors import AccessDenied, Corrupt, NoSpace, QuotaExceeded, Unavailable
from allasfs.store.api import Kind, ObjectInfo, Segment
from allasfs.transfer.draft import Draft
from allasfs.transfer.notes import CLOSING, KEPT, PENDING, Note
from allasfs.transfer.parts import Part
from allasfs.transfer.resume import Resume
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes
from tests.unit.test_draft import SEGMENTS, Bench, content
from tests.unit.test_resume import ROOM, Recorder, clone, resume

# Nothing of a test's files is given back.
LARGE_ROOM = 16 * MIB
ExpectLogs = Callable[[str], None]


@pytest.fixture(params=["openstack", "rgw"])
def store(request: pytest.FixtureRequest) -> MemStore:
    store = MemStore(capabilities=OPENSTACK if request.param == "openstack" else RGW)
    store.create_container("bucket")
    return store


@pytest.fixture
def bench(store: MemStore, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(store, tmp_path, LARGE_ROOM)
    yield bench
    bench.close()


def full(*args: object) -> None:
    raise OSError(errno.ENOSPC, "full")


def killed(bench: Bench, folder: Path) -> Bench:
    """Return what the next mount has after this one was killed now."""
    shutil.copytree(bench.spool.folder, folder / "spool")
    return Bench(clone(bench.store), folder, LARGE_ROOM)


# -- a note ---------------------------------------------------------------------------------------


def test_a_note_comes_back_as_it_was_written(tmp_path: Path) -> None:
    segment = Segment("bucket_segments", "key/1", 5, "e")
    note = Note(
        KEPT,
        "bucket",
        "k\u00e4y \n",
        "bucket_segments",
        "key/",
        size=100,
        content_type="a/b",
        metadata={"mtime": "1"},
        exclusive=True,
        base=ObjectInfo("key", 5, "e", 7, "a/b", Kind.SLO),
        present=((0, 10), (20, 30)),
        parts=(Part(10, 15, 10, segment, is_own=True),),
        stored=(segment,),
        old=(segment,),
        why="over quota",
        when=12.5,
        account="https://store/AUTH_1",
    )
    note.save(tmp_path / "a.upload", durable=True)
    assert Note.load(tmp_path / "a.upload") == note
    assert note.missing() == [(15, 20), (30, 100)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.upload"]


def test_a_note_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    Note(CLOSING, "bucket", "key", "c", "p/").save(tmp_path / "a.upload", durable=False)
    plain = json.loads((tmp_path / "a.upload").read_text())
    for later in ("why", "when", "account"):
        del plain[later]
    (tmp_path / "a.upload").write_text(json.dumps(plain))
    assert Note.load(tmp_path / "a.upload") == Note(CLOSING, "bucket", "key", "c", "p/")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"state": 1}', "\udcff"])
def test_a_torn_note_is_told_apart_from_a_note(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.upload"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(Corrupt):
        Note.load(path)


# -- taken, to be uploaded later ------------------------------------------------------------------


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("size", [0, 5, 3 * MIB], ids=["empty", "small", "large"])
def test_a_file_that_was_taken_is_uploaded_by_the_next_mount(
    bench: Bench, tmp_path: Path, size: int
) -> None:
    data = content(size)
    draft = bench.draft()
    bench.write(draft, data)
    draft.take("a/b", {"mtime": "1"})
    draft.settle()
    (entry,) = bench.spool.entries()
    assert (entry.state, entry.size, entry.subject) == (PENDING, size, "bucket/key")
    after = killed(bench, tmp_path / "after")
    assert resume(after).finished == 1
    assert get_bytes(after.store, "bucket", "key") == data
    head = after.store.head("bucket", "key")
    assert (head.info.content_type, head.metadata["mtime"]) == ("a/b", "1")
    assert after.spool.entries() == []
    assert list(after.spool.folder.glob("*.data")) == []
    assert after.spool.used == 0
    after.close()
    draft.discard()
    assert bench.spool.entries() == []


@pytest.mark.semantics("R10")
def test_a_changed_part_that_was_taken_is_uploaded_with_the_rest_by_the_next_mount(
    bench: Bench, tmp_path: Path
) -> None:
    old = content(100_000)
    info = put_bytes(bench.store, "bucket", "key", old)
    draft = bench.draft(info)
    draft.truncate(60_000)
    draft.truncate(80_000)
    draft.write(10, b"changed")
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    assert resume(after).finished == 1
    new = old[:10] + b"changed" + old[17:60_000] + bytes(20_000)
    assert get_bytes(after.store, "bucket", "key") == new
    after.close()
    draft.discard()


@pytest.mark.semantics("R10")
def test_a_large_object_that_was_cut_and_taken_is_whole_after_the_next_mount(
    bench: Bench, tmp_path: Path
) -> None:
    old = content(5 * MIB, 1)
    draft = bench.draft(bench.put(old))
    draft.truncate(3 * MIB + 7)
    draft.truncate(4 * MIB + 7)
    draft.write(100, b"changed")
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    assert resume(after).finished == 1
    new = old[:100] + b"changed" + old[107 : 3 * MIB + 7] + bytes(MIB)
    assert after.stored() == new
    after.close()
    draft.discard()


@pytest.mark.semantics("R10")
def test_a_large_object_that_was_only_cut_and_taken_ends_there_after_the_next_mount(
    bench: Bench, tmp_path: Path
) -> None:
    old = content(5 * MIB, 1)
    draft = bench.draft(bench.put(old))
    draft.truncate(3 * MIB)
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    assert resume(after).finished == 1
    assert after.stored() == old[: 3 * MIB]
    after.close()
    draft.discard()


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("size", [5, 6 * MIB], ids=["small", "large"])
def test_a_file_that_was_taken_is_stored_wherever_the_mount_is_killed(
    store: MemStore, tmp_path: Path, size: int
) -> None:
    old, new = content(size, 1), content(size, 2)
    bench = Bench(store, tmp_path / "first", 2 * ROOM)
    draft = bench.draft(put_bytes(store, "bucket", "key", old))
    draft.truncate(0)
    bench.write(draft, new)
    draft.take("a/b", {"mtime": "1"})
    draft.settle()
    recorder = Recorder(store, bench, tmp_path)
    bench.upload(draft)
    recorder.stop()
    draft.discard()
    bench.close()
    assert len(recorder.crashes) >= 2
    for crash in recorder.crashes:
        after = Bench(crash.store, crash.disk, 2 * ROOM)
        resume(after)
        assert get_bytes(crash.store, "bucket", "key") == new, crash.when
        assert after.stored() == new
        assert list(after.spool.folder.glob("*.data")) == [], crash.when
        after.close()


def test_an_upload_whose_answer_was_lost_is_found_and_not_sent_again(
    bench: Bench, tmp_path: Path
) -> None:
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    draft.settle()
    put_bytes(bench.store, "bucket", "key", b"content")
    after = killed(bench, tmp_path / "after")
    after.store.forget_calls()
    assert resume(after).finished == 1
    assert "put" not in after.store.counts()
    assert after.spool.entries() == []
    after.close()
    draft.discard()


def test_nothing_is_taken_unless_data_and_note_are_on_the_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def recorded(real: Callable[[int], None]) -> Callable[[int], None]:
        def sync(fd: int) -> None:
            order.append(Path(os.readlink(f"/proc/self/fd/{fd}")).suffix or "folder")
            real(fd)

        return sync

    monkeypatch.setattr(os, "fdatasync", recorded(os.fdatasync))
    monkeypatch.setattr(os, "fsync", recorded(os.fsync))
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    assert order == [".data", ".new", "folder"]
    for call in ("fdatasync", "fsync"):
        monkeypatch.setattr(os, call, full)
        with pytest.raises(NoSpace):
            draft.take("a/b", {})
        monkeypatch.undo()
    draft.discard()


# -- kept -----------------------------------------------------------------------------------------


def failed(bench: Bench, data: bytes, why: str = "over quota") -> Draft:
    """Return a draft whose upload failed."""
    draft = bench.draft()
    bench.write(draft, data)

    def refuse(call: Call) -> None:
        if call.method.startswith("put") and call.container == "bucket":
            raise QuotaExceeded("bucket", why)

    bench.store.before = refuse
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    bench.store.before = lambda call: None
    return draft


@pytest.mark.semantics("R2")
def test_data_of_a_failed_upload_are_kept_and_announced(
    bench: Bench, expected_logs: ExpectLogs
) -> None:
    where = Path(failed(bench, b"precious").keep("quota exceeded"))
    bench.spool.close()
    bench.spool.open()
    expected_logs("data of a failed upload is in the spool: .*bucket/key: quota exceeded")
    assert resume(bench).left == 0
    assert where.read_bytes() == b"precious"
    assert bench.spool.kept() == [f"{where} for bucket/key: quota exceeded"]
    (entry,) = bench.spool.entries()
    note = entry.note
    assert (note.size, note.content_type, note.metadata) == (8, "a/b", {"mtime": "1"})
    assert note.when > 1e9
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.spool.folder.iterdir()} == {0o600}


def test_a_kept_file_takes_its_room_until_it_is_removed(bench: Bench) -> None:
    failed(bench, b"precious").keep("quota exceeded")
    assert bench.spool.used == 8
    (entry,) = bench.spool.entries()
    bench.spool.remove(entry)
    assert bench.spool.used == 0
    assert bench.spool.entries() == []


def test_data_of_a_sparse_file_are_kept_with_its_size(bench: Bench) -> None:
    draft = bench.draft()
    draft.write(0, b"x")
    draft.truncate(500)
    assert Path(draft.keep("why")).read_bytes() == b"x" + bytes(499)


@pytest.mark.semantics("R2")
def test_data_are_kept_although_the_disk_has_no_room_for_the_note(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectLogs
) -> None:
    draft = failed(bench, b"precious")
    expected_logs("bucket/key: .*the disk of the spool is full")
    expected_logs("data of a failed upload is in the spool: .* its note could not be written")
    monkeypatch.setattr(os, "fsync", full)
    where = Path(draft.keep("quota exceeded"))
    monkeypatch.undo()
    bench.spool.close()
    bench.spool.open()
    assert resume(bench).left == 0
    assert where.read_bytes() == b"precious"
    (entry,) = bench.spool.entries()
    assert (entry.data, entry.is_kept, entry.is_certain, entry.size) == (where, True, False, 8)


@pytest.mark.semantics("R2")
def test_a_note_that_was_cut_off_does_not_stop_the_next_start_nor_lose_the_data(
    bench: Bench, expected_logs: ExpectLogs
) -> None:
    where = Path(failed(bench, b"precious").keep("quota exceeded"))
    (note,) = bench.spool.notes()
    note.write_bytes(note.read_bytes()[:10])
    bench.spool.close()
    bench.spool.open()
    expected_logs("data of a failed upload is in the spool: .* its note cannot be read")
    resume(bench)
    assert where.read_bytes() == b"precious"
    assert str(where) in bench.spool.kept()[0]


def test_an_upload_that_ends_while_its_note_is_looked_at_is_no_kept_file(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    draft = bench.draft()
    draft.write(0, b"data")
    draft.take("a/b", {})
    load = Note.load

    def ended(path: Path) -> Note:
        path.unlink()
        return load(path)

    # As the status of a mount, and a list of what is kept, meet it.
    monkeypatch.setattr(Note, "load", ended)
    assert bench.spool.entries() == []
    draft.discard()


@pytest.mark.parametrize("ends_with", [".upload", ".kept"])
def test_an_unreadable_entry_that_goes_while_it_is_looked_at_is_no_error(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, ends_with: str
) -> None:
    for suffix in (".upload", ".kept"):
        (bench.spool.folder / f"torn{suffix}").write_bytes(b"?")
    gone = bench.spool.folder / f"torn{ends_with}"
    exists = Path.exists

    def discarded(path: Path) -> bool:
        is_there = exists(path)
        if path.name == gone.name:
            gone.unlink(missing_ok=True)
        return is_there

    monkeypatch.setattr(Path, "exists", discarded)
    for entry in bench.spool.entries():
        assert entry.size in (0, 1)


@pytest.mark.semantics("R2")
def test_what_an_earlier_version_kept_is_still_there(
    tmp_path: Path, store: MemStore, expected_logs: ExpectLogs
) -> None:
    folder = tmp_path / "spool"
    folder.mkdir()
    (folder / "aa.data").write_bytes(b"precious")
    (folder / "aa.json").write_text('{"object": "bucket/a/b", "size": 8, "why": "over quota"}\n')
    (folder / "bb.data").write_bytes(b"half")
    (folder / "bb.json").write_text('{"object": "bucket/c", "size": 8, "why": "late"}\n')
    Note(KEPT, "bucket", "c", "bucket_segments", "c/", size=8, present=((0, 4),)).save(
        folder / "bb.upload", durable=False
    )
    (folder / "cc.kept").write_bytes(b"unknown")
    (folder / "dd.data").write_bytes(b"owed to nobody")
    before = {path.name for path in folder.iterdir()} - {"dd.data"}
    expected_logs("for bucket/a/b: over quota")
    expected_logs("for bucket/c: late")
    expected_logs("for an object that is not known: its note could not be written")
    bench = Bench(store, tmp_path, ROOM)
    resume(bench)
    assert {path.name for path in folder.iterdir()} - {"lock"} == before
    found = [(e.id, e.note.key, e.note.why, e.is_certain, e.size) for e in bench.spool.entries()]
    assert found[:2] == [("aa", "a/b", "over quota", False, 8), ("bb", "c", "late", True, 8)]
    assert found[2][0] == "cc"
    assert all(entry.is_kept for entry in bench.spool.entries())
    bench.close()


# -- what the next mount may not do ---------------------------------------------------------------


REFUSALS = ("quota", "permission", "bucket gone", "other client", "exclusive")


@pytest.mark.semantics("R2", "R10")
@pytest.mark.parametrize("kind", REFUSALS)
@pytest.mark.parametrize("size", [9, 3 * MIB], ids=["small", "large"])
def test_what_the_next_mount_may_not_upload_is_kept(
    bench: Bench, tmp_path: Path, expected_logs: ExpectLogs, kind: str, size: int
) -> None:
    data = content(size)
    draft = bench.draft()
    bench.write(draft, data)
    draft.take("a/b", {"mtime": "1"}, exclusive=kind == "exclusive")
    draft.settle()
    after = killed(bench, tmp_path / "after")
    draft.discard()
    if kind == "quota":

        def refuse(call: Call) -> None:
            if call.method.startswith("put"):
                raise QuotaExceeded("bucket", "over quota")

        after.store.before = refuse
    elif kind == "permission":

        def forbid(call: Call) -> None:
            if call.container == "bucket":
                raise AccessDenied("bucket", "403")

        after.store.before = forbid
    elif kind == "bucket gone":
        after.store.delete_container("bucket")
    else:
        put_bytes(after.store, "bucket", "key", b"theirs")
    expected_logs("that was interrupted is not finished .*: kept in")
    assert resume(after).left == 0
    after.store.before = lambda call: None
    (entry,) = after.spool.entries()
    assert (entry.state, entry.note.missing(), entry.note.size) == (KEPT, [], size)
    assert entry.note.why
    assert entry.data.read_bytes() == data
    assert after.store._containers.get(SEGMENTS, {}) == {}
    if kind in ("other client", "exclusive"):
        assert get_bytes(after.store, "bucket", "key") == b"theirs"
    after.close()


def test_an_upload_for_another_account_waits_for_a_mount_of_that(
    bench: Bench, tmp_path: Path, expected_logs: ExpectLogs
) -> None:
    bench.spool.account = "https://store/AUTH_1"
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    after.spool.account = "https://store/AUTH_2"
    expected_logs("waits for a mount of another account: .* bucket/key in https://store/AUTH_1")
    assert len(resume(after).foreign) == 1
    assert after.store.keys("bucket") == []
    (entry,) = after.spool.entries()
    assert entry.state == PENDING
    after.spool.account = "https://store/AUTH_1"
    assert resume(after).finished == 1
    after.close()
    draft.discard()


def test_an_upload_that_a_mount_could_not_reach_the_store_for_waits_as_it_was(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allasfs.transfer.resume.FIRST_WAIT_S", 0.01)
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    for method in ("head", "put"):
        after.store.fail_next(Unavailable("bucket", "503"), method)
    assert resume(after).finished == 1
    assert get_bytes(after.store, "bucket", "key") == b"content"
    assert after.spool.used == 0
    after.close()
    draft.discard()


@pytest.mark.semantics("R10")
def test_a_mount_does_not_wait_for_what_it_finishes(bench: Bench, tmp_path: Path) -> None:
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    draft.settle()
    after = killed(bench, tmp_path / "after")
    may_answer = threading.Event()

    def wait(call: Call) -> None:
        may_answer.wait(60)

    after.store.before = wait
    started = Resume(after.uploader, after.spool, lambda bucket, info: None)
    started.start()
    assert (started.left, started.finished) == (1, 0)
    may_answer.set()
    assert started._thread is not None
    started._thread.join(60)
    assert (started.left, started.finished) == (0, 1)
    after.close()
    draft.discard()
