"""What a mount that was killed leaves, and what the next one makes of it: at every request."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from allasfs.config import MIB
from allasfs.errors import NotFound, QuotaExceeded, Unavailable
from allasfs.store import large
from allasfs.transfer.draft import Draft
from allasfs.transfer.notes import CLOSING, Note
from allasfs.transfer.resume import Resume
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes
from tests.unit.test_draft import SEGMENTS, Bench, content

ROOM = 4 * MIB


@pytest.fixture(params=["openstack", "rgw"])
def store(request: pytest.FixtureRequest) -> MemStore:
    store = MemStore(capabilities=OPENSTACK if request.param == "openstack" else RGW)
    store.create_container("bucket")
    return store


@dataclass
class Crash:
    """The disk and the store as they were before or after a request."""

    when: str
    disk: Path
    store: MemStore

    @property
    def note(self) -> Note | None:
        found = list((self.disk / "spool").glob("*.upload"))
        return Note.load(found[0]) if found else None


class Recorder:
    """Takes a picture of everything around each request that changes the store."""

    def __init__(self, store: MemStore, bench: Bench, folder: Path) -> None:
        self.crashes: list[Crash] = []
        self._store = store
        self._bench = bench
        self._folder = folder
        self._lock = threading.Lock()
        store.before = lambda call: self._take("before", call)
        store.after = lambda call: self._take("after", call)

    def _take(self, moment: str, call: Call) -> None:
        if call.method in ("head", "get", "listing", "head_container"):
            return
        with self._lock:
            disk = self._folder / f"crash-{len(self.crashes)}"
            (disk / "spool").mkdir(parents=True)
            # First the disk: a note never knows more than the store has.
            for path in sorted(self._bench.spool.folder.iterdir(), reverse=True):
                # A note is replaced from time to time.
                with suppress(FileNotFoundError):
                    shutil.copy(path, disk / "spool")
            self.crashes.append(Crash(f"{moment} {call}", disk, clone(self._store)))

    def stop(self) -> None:
        self._store.before = self._store.after = lambda call: None


def clone(store: MemStore) -> MemStore:
    copy = MemStore(capabilities=store.capabilities())
    copy._containers = {name: dict(found) for name, found in store._containers.items()}
    copy._born_ns = dict(store._born_ns)
    copy._container_metadata = dict(store._container_metadata)
    return copy


def resume(bench: Bench) -> Resume:
    """End what is in the spool, and return when that is done."""
    resume = Resume(bench.uploader, bench.spool, lambda bucket, info: None)
    resume.start()
    if resume._thread is not None:
        resume._thread.join(60)
    resume.stop()
    return resume


def check(crash: Crash, old: bytes | None, new: bytes) -> str:
    """Mount again after a crash: the object is whole, old or new, and nothing is left over."""
    bench = Bench(crash.store, crash.disk, ROOM)
    note = crash.note
    crash.store.forget_calls()
    try:
        assert resume(bench).left == 0
        puts = crash.store.counts().get("put", 0)
        try:
            found: bytes | None = get_bytes(crash.store, "bucket", "key")
            assert bench.stored() == found
        except NotFound:
            found = None
            assert not crash.store._containers.get(SEGMENTS), crash.when
            assert bench.spool.notes() == []
        assert found in (old, new), crash.when
        assert list(bench.spool.folder.glob("*.data")) == []
        assert bench.spool.used == 0
        if note is not None and note.state == CLOSING:
            assert found == new, f"{crash.when}: an upload that had begun is finished"
            sent = {part.key for part in note.parts if part.is_own}
            assert puts <= len(new) // MIB + 1 - len(sent), crash.when
            return "finished"
        return "old" if found == old else "new"
    finally:
        bench.close()


Record = Callable[[bytes | None, Callable[[Bench, Draft], None]], list[Crash]]


@pytest.fixture
def recorded(store: MemStore, tmp_path: Path) -> Record:
    def record(old: bytes | None, change: Callable[[Bench, Draft], None]) -> list[Crash]:
        bench = Bench(store, tmp_path / "first", ROOM)
        info = bench.put(old) if old is not None else None
        draft = bench.draft(info)
        recorder = Recorder(store, bench, tmp_path)
        change(bench, draft)
        bench.upload(draft)
        recorder.stop()
        draft.discard()
        bench.close()
        return recorder.crashes

    return record


@pytest.mark.semantics("R10")
def test_a_new_file_is_stored_whole_or_not_at_all_wherever_the_mount_is_killed(
    recorded: Record,
) -> None:
    new = content(10 * MIB + 5)
    crashes = recorded(None, lambda bench, draft: bench.write(draft, new))
    outcomes = [check(crash, None, new) for crash in crashes]
    assert {"old", "finished", "new"} >= set(outcomes) >= {"old", "finished"}


@pytest.mark.semantics("R10")
def test_a_changed_file_is_the_old_or_the_new_one_wherever_the_mount_is_killed(
    recorded: Record,
) -> None:
    old = content(10 * MIB, 1)
    new = old[:5] + b"changed" + old[12 : 6 * MIB] + content(6 * MIB, 2)

    def change(bench: Bench, draft: Draft) -> None:
        draft.write(5, b"changed")
        bench.write(draft, content(6 * MIB, 2), 6 * MIB)

    crashes = recorded(old, change)
    outcomes = [check(crash, old, new) for crash in crashes]
    assert {"old", "finished"} <= set(outcomes)


@pytest.mark.semantics("R10")
def test_a_file_replaced_by_another_is_the_old_or_the_new_one_wherever_the_mount_is_killed(
    recorded: Record,
) -> None:
    old, new = content(7 * MIB, 1), content(9 * MIB, 2)

    def change(bench: Bench, draft: Draft) -> None:
        draft.truncate(0)
        bench.write(draft, new)

    outcomes = [check(crash, old, new) for crash in recorded(old, change)]
    assert {"old", "finished"} <= set(outcomes)


def interrupted(store: MemStore, folder: Path, data: bytes) -> Crash:
    """Return the moment before the manifest is published."""
    bench = Bench(store, folder / "first", ROOM)
    draft = bench.draft()
    recorder = Recorder(store, bench, folder)
    bench.write(draft, data)
    bench.upload(draft)
    recorder.stop()
    draft.discard()
    bench.close()
    (crash,) = [c for c in recorder.crashes if c.when.startswith("before") and "put_" in c.when]
    return crash


def test_an_upload_that_lacks_only_its_manifest_sends_nothing_again(
    store: MemStore, tmp_path: Path
) -> None:
    data = content(9 * MIB)
    crash = interrupted(store, tmp_path, data)
    assert check(crash, None, data) == "finished"
    assert "put" not in crash.store.counts()


@pytest.mark.semantics("R10")
def test_an_object_that_was_changed_since_is_not_replaced(
    store: MemStore, tmp_path: Path, expected_logs: Callable[[str], None]
) -> None:
    crash = interrupted(store, tmp_path, content(9 * MIB))
    put_bytes(crash.store, "bucket", "key", b"theirs")
    bench = Bench(crash.store, crash.disk, ROOM)
    expected_logs(r"not finished \(changed by another client meanwhile\): kept in")
    assert resume(bench).left == 0
    assert get_bytes(crash.store, "bucket", "key") == b"theirs"
    (entry,) = bench.spool.entries()
    assert (entry.is_kept, entry.note.why) == (True, "changed by another client meanwhile")
    # And so are all of its bytes, here or in segments.
    assert entry.note.missing() == []
    bench.close()


@pytest.mark.semantics("R2")
def test_an_upload_that_may_not_be_finished_is_kept_with_all_its_bytes(
    store: MemStore, tmp_path: Path, expected_logs: Callable[[str], None]
) -> None:
    crash = interrupted(store, tmp_path, content(9 * MIB))
    bench = Bench(crash.store, crash.disk, ROOM)

    def refuse(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo"):
            raise QuotaExceeded("bucket", "413")

    crash.store.before = refuse
    expected_logs(r"that was interrupted is not finished \(.*413\): kept in")
    before = crash.store.keys(SEGMENTS)
    resume(bench)
    (line,) = bench.spool.kept()
    assert "a part of it is in the store" in line
    assert crash.store.keys(SEGMENTS) == before
    (entry,) = bench.spool.entries()
    assert (entry.note.missing(), entry.note.content_type) == ([], "a/b")
    bench.close()
    # And no later mount throws it away.
    expected_logs("data of a failed upload is in the spool")
    again = Bench(crash.store, crash.disk, ROOM)
    assert resume(again).left == 0
    assert crash.store.keys(SEGMENTS) == before
    assert len(again.spool.kept()) == 1
    again.close()


def test_a_store_that_is_away_at_first_is_asked_again(
    store: MemStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allasfs.transfer.resume.FIRST_WAIT_S", 0.01)
    data = content(9 * MIB)
    crash = interrupted(store, tmp_path, data)
    crash.store.fail_next(Unavailable("bucket", "503"), "head")
    crash.store.fail_next(Unavailable("bucket", "503"), "put_slo")
    crash.store.fail_next(Unavailable("bucket", "503"), "put_dlo")
    check(crash, None, data)


@pytest.mark.semantics("H3", "R10")
def test_a_store_that_is_away_for_long_is_asked_by_one_upload_at_a_time_and_goes_on_at_once(
    store: MemStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    crash = interrupted(store, tmp_path, content(9 * MIB))
    bench = Bench(crash.store, crash.disk, ROOM)
    (note,) = (crash.disk / "spool").glob("*.upload")
    for name in ("second", "third"):
        for path in (note, note.with_suffix(".data")):
            shutil.copy(path, path.with_name(f"{name}{path.suffix}"))
    resume = Resume(bench.uploader, bench.spool, lambda bucket, info: None)
    pauses: list[float] = []
    asked: list[Call] = []

    def pause(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 20:
            crash.store.before = lambda call: None
        return False

    def away(call: Call) -> None:
        asked.append(call)
        raise Unavailable("bucket", "503")

    crash.store.before = away
    monkeypatch.setattr(resume._stop, "wait", pause)
    with caplog.at_level("INFO", "allasfs.transfer.resume"):
        resume.start()
        assert resume._thread is not None
        resume._thread.join(60)
    assert (resume.left, len(pauses), max(pauses)) == (0, 20, 8.0)
    assert [call.method for call in asked] == ["head"] * 20
    assert [line for line in caplog.messages if "cannot be ended yet" in line] == [
        "uploads of the mount before cannot be ended yet: bucket: 503"
    ]
    bench.close()


def test_an_upload_is_left_for_the_next_mount_when_this_one_ends_before(
    store: MemStore, tmp_path: Path
) -> None:
    data = content(9 * MIB)
    crash = interrupted(store, tmp_path, data)
    bench = Bench(crash.store, crash.disk, ROOM)

    def away(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo"):
            raise Unavailable("bucket", "503")

    crash.store.before = away
    started = Resume(bench.uploader, bench.spool, lambda bucket, info: None)
    started.start()
    started._stop.wait(0.3)
    started.stop()
    assert started.left == 1
    assert bench.spool.used == 0
    bench.close()
    crash.store.before = lambda call: None
    assert check(crash, None, data) == "finished"


def test_a_note_that_cannot_be_read_costs_neither_the_mount_nor_the_data(
    store: MemStore, tmp_path: Path, expected_logs: Callable[[str], None]
) -> None:
    crash = interrupted(store, tmp_path, content(9 * MIB))
    (path,) = (crash.disk / "spool").glob("*.upload")
    path.write_text("{")
    expected_logs("its note cannot be read")
    bench = Bench(crash.store, crash.disk, ROOM)
    resume(bench)
    assert len(list(bench.spool.folder.glob("*.data"))) == 1
    assert crash.store.keys(SEGMENTS)
    bench.close()


def test_the_segments_of_a_manifest_that_may_stand_are_decided_by_what_is_found(
    store: MemStore, tmp_path: Path, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("may be left over")
    expected_logs("bucket/key: unknown")
    for stands in (True, False):
        folder = tmp_path / str(stands)
        bench = Bench(store, folder, 100 * MIB)
        draft = bench.draft()
        bench.write(draft, content(5 * MIB))

        def lose(call: Call, stands: bool = stands) -> None:
            if call.method in ("put_slo", "put_dlo") or call.key == "key":
                raise Unavailable("bucket", "503")

        if stands:
            store.after = lose
        else:
            store.before = lose
        with pytest.raises(Unavailable):
            bench.upload(draft)
        draft.keep("unknown")
        store.before = store.after = lambda call: None
        bench.spool.close()
        bench.spool.open()
        resume(bench)
        if stands:
            assert get_bytes(store, "bucket", "key") == content(5 * MIB)
            large.delete(store, "bucket", store.head("bucket", "key").info)
        assert store.keys(SEGMENTS) == []
        bench.close()
