"""What a replaced version leaves in the store: removed when the new one stands, and only then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.config import MIB
from allasfs.errors import AccessDenied, QuotaExceeded, Unavailable
from allasfs.store import large
from allasfs.store.api import Capabilities, ObjectInfo, Segment
from allasfs.transfer.leftovers import ASIDE_PREFIX, Leftovers
from allasfs.transfer.notes import PUBLISHED, REPLACED, Note
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes
from tests.unit.test_draft import SEGMENTS, Bench, content
from tests.unit.test_resume import Crash, Recorder, resume

ExpectLog = Callable[[str], None]
OLD = b"abcdef"
SMALL = b"new"
LARGE = content(3 * MIB + 7)


@pytest.fixture
def store() -> MemStore:
    """A store that does not tell the segments of static large objects."""
    store = MemStore(capabilities=RGW)
    store.create_container("bucket")
    return store


@pytest.fixture
def bench(store: MemStore, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(store, tmp_path, 100 * MIB)
    yield bench
    bench.close()


def static(store: MemStore, key: str = "key", container: str = SEGMENTS) -> ObjectInfo:
    """Store a static large object as another client does."""
    store.create_container(container)
    parts = []
    for number, data in enumerate((OLD[:3], OLD[3:])):
        put = put_bytes(store, container, f"{key}/slo/{number}", data)
        parts.append(Segment(container, put.key, put.size, put.etag))
    store.put_slo("bucket", key, parts, content_type="a/b")
    return store.head("bucket", key).info


def replaced(bench: Bench, info: ObjectInfo, data: bytes) -> None:
    """Write a file anew."""
    draft = bench.draft(info)
    draft.truncate(0)
    bench.write(draft, data)
    try:
        bench.upload(draft)
    finally:
        draft.discard()


def left(store: MemStore) -> list[str]:
    """Return what of the replaced version is in the store."""
    return [key for key in store.keys(SEGMENTS) if "/slo/" in key or key.startswith(ASIDE_PREFIX)]


def states(bench: Bench) -> list[str]:
    return [Note.load(path).state for path in bench.spool.notes()]


@pytest.mark.parametrize("new", [b"", SMALL, LARGE], ids=["empty", "small", "large"])
def test_segments_that_nobody_tells_go_with_the_version_they_belong_to(
    store: MemStore, bench: Bench, new: bytes
) -> None:
    info = static(store)
    seen: list[bool] = []

    def look(call: Call) -> None:
        if call.method == "delete_slo":
            seen.append(get_bytes(store, "bucket", "key") == new)

    store.before = look
    replaced(bench, info, new)
    assert seen == [True], "they go when the new version stands, and not before"
    assert bench.stored() == new
    assert left(store) == []


def test_segments_in_another_bucket_go_too(store: MemStore, bench: Bench) -> None:
    replaced(bench, static(store, container="theirs"), SMALL)
    assert store.keys("theirs") == store.keys(SEGMENTS) == []


def test_no_bucket_is_made_beside_one_of_another_project(
    store: MemStore, bench: Bench, expected_logs: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected_logs("the segments of bucket/key will be left over")
    info = static(store, container="theirs")
    # It is shared for writing, and in no listing of this account.
    monkeypatch.setattr(store, "containers", list)
    replaced(bench, info, SMALL)
    assert bench.stored() == SMALL
    assert SEGMENTS not in store._containers
    assert bench.spool.notes() == []
    assert len(store.keys("theirs")) == 2


def test_a_changed_one_is_read_before_its_segments_go(store: MemStore, bench: Bench) -> None:
    draft = bench.draft(static(store))
    draft.write(1, b"X")
    bench.upload(draft)
    draft.discard()
    assert bench.stored() == b"aXcdef"
    assert left(store) == []


@pytest.mark.parametrize("new", [SMALL, LARGE], ids=["small", "large"])
def test_what_could_not_be_replaced_keeps_its_segments(
    store: MemStore, bench: Bench, new: bytes
) -> None:
    info = static(store)

    def refuse(call: Call) -> None:
        if call.method in ("put", "put_dlo") and call.container == "bucket":
            raise QuotaExceeded("bucket", "413")

    before = store.keys(SEGMENTS)
    store.before = refuse
    with pytest.raises(QuotaExceeded):
        replaced(bench, info, new)
    assert get_bytes(store, "bucket", "key") == OLD
    assert store.keys(SEGMENTS) == before
    assert bench.spool.notes() == []


@pytest.mark.parametrize("failure", ["refused", "answer lost"])
def test_a_manifest_that_cannot_be_put_aside_is_replaced_all_the_same(
    store: MemStore, bench: Bench, expected_logs: ExpectLog, failure: str
) -> None:
    expected_logs("the segments of bucket/key will be left over")
    info = static(store)
    before = store.keys(SEGMENTS)
    is_lost = failure == "answer lost"
    error = Unavailable("bucket", "503") if is_lost else AccessDenied("bucket", "403")
    store.fail_next(error, "copy", is_done=is_lost)
    replaced(bench, info, SMALL)
    assert get_bytes(store, "bucket", "key") == SMALL
    assert store.keys(SEGMENTS) == before
    assert bench.spool.notes() == []


@pytest.mark.semantics("L5")
def test_segments_of_a_marked_object_stay_while_the_other_name_has_them(
    store: MemStore, bench: Bench
) -> None:
    info = static(store)
    large.share(store, "bucket", info, ("bucket", "other"))
    store.copy("bucket", info, ("bucket", "other"), manifest=True)
    replaced(bench, info, SMALL)
    assert get_bytes(store, "bucket", "other") == OLD
    large.delete(store, "bucket", store.head("bucket", "other").info)
    assert left(store) == []


@pytest.mark.semantics("L5")
def test_segments_of_an_object_with_a_mark_of_a_rename_that_copied_nothing_go(
    store: MemStore, bench: Bench
) -> None:
    info = static(store)
    large.share(store, "bucket", info, ("bucket", "other"))
    replaced(bench, info, SMALL)
    assert bench.stored() == SMALL
    assert left(store) == []


@pytest.mark.semantics("L5")
def test_segments_of_an_object_that_is_marked_meanwhile_stay(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("another client changed it meanwhile")
    info = static(store)

    def rename(call: Call) -> None:
        if call.method == "copy" and call.key == "key":
            store.before = lambda call: None
            large.share(store, "bucket", info, ("bucket", "other"))
            store.copy("bucket", info, ("bucket", "other"), manifest=True)

    store.before = rename
    replaced(bench, info, SMALL)
    assert get_bytes(store, "bucket", "other") == OLD
    assert [key for key in store.keys(SEGMENTS) if key.startswith(ASIDE_PREFIX)] == []


def test_segments_stay_when_another_client_was_as_fast(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("was replaced by another client at the same time")
    info = static(store)

    def theirs(call: Call) -> None:
        if call.method == "put" and call.container == "bucket":
            store.after = lambda call: None
            static(store)

    store.after = theirs
    replaced(bench, info, SMALL)
    assert get_bytes(store, "bucket", "key") == OLD
    assert bench.spool.notes() == []


# -- what could not be removed --------------------------------------------------------------------


@pytest.mark.semantics("R10")
def test_segments_that_could_not_be_removed_are_removed_by_the_next_mount(
    tmp_path: Path, expected_logs: ExpectLog
) -> None:
    for capabilities in (OPENSTACK, RGW):
        store = MemStore(capabilities=capabilities)
        store.create_container("bucket")
        bench = Bench(store, tmp_path / str(capabilities.exact_pages), 100 * MIB)
        info = bench.put(LARGE)
        expected_logs("segments of a removed object are left over in bucket_segments")
        store.fail_next(Unavailable("bucket", "503"), "delete_many")
        replaced(bench, info, SMALL)
        assert states(bench) == [PUBLISHED]
        assert len(store.keys(SEGMENTS)) == 4
        assert resume(bench).left == 0
        assert bench.stored() == SMALL
        bench.close()


@pytest.mark.semantics("R10")
def test_a_store_that_falls_silent_after_the_new_version_costs_no_segments(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("segments of a replaced object are left over")
    info = bench.put(LARGE)

    def silent(call: Call) -> None:
        if call.method == "put" and call.container == "bucket":
            store.before = fail

    def fail(call: Call) -> None:
        raise Unavailable("bucket", "503")

    store.after = silent
    replaced(bench, info, SMALL)
    store.before = store.after = lambda call: None
    resume(bench)
    assert bench.stored() == SMALL


@pytest.mark.semantics("R10")
def test_old_segments_that_the_object_uses_again_stay(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("segments of a removed object are left over")
    info = bench.put(LARGE)
    old = store.head("bucket", "key")
    store.fail_next(Unavailable("bucket", "503"), "delete_many")
    replaced(bench, info, SMALL)
    store.put_dlo("bucket", "key", old.manifest, content_type="a/b")
    resume(bench)
    assert bench.stored() == LARGE


@pytest.mark.semantics("R10")
def test_a_manifest_that_lies_aside_is_removed_by_the_next_mount(
    store: MemStore, bench: Bench, expected_logs: ExpectLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allasfs.transfer.resume.FIRST_WAIT_S", 0.01)
    expected_logs("segments of bucket/key are left over")
    info = static(store)
    store.fail_next(Unavailable("bucket", "503"), "delete_slo")
    replaced(bench, info, SMALL)
    assert states(bench) == [REPLACED]
    assert len(left(store)) == 3
    # Not at the first attempt.
    store.fail_next(Unavailable("bucket", "503"), "delete_slo")
    resume(bench)
    assert bench.stored() == SMALL
    assert left(store) == []


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("state", [REPLACED, PUBLISHED])
def test_what_is_left_in_another_account_waits_for_a_mount_of_that(
    store: MemStore, bench: Bench, expected_logs: ExpectLog, state: str
) -> None:
    expected_logs("are left over")
    bench.spool.account = "https://store/AUTH_1"
    info = static(store) if state == REPLACED else bench.put(LARGE)
    method = "delete_slo" if state == REPLACED else "delete_many"
    store.fail_next(Unavailable("bucket", "503"), method)
    replaced(bench, info, SMALL)
    assert states(bench) == [state]
    before = store.keys(SEGMENTS)
    # The same names may be there, too, and be of files that are needed.
    bench.spool.account = "https://store/AUTH_2"
    store.forget_calls()
    other = resume(bench)
    assert (other.left, other.foreign, store.counts()) == (0, [], {})
    assert (store.keys(SEGMENTS), states(bench)) == (before, [state])
    bench.spool.account = "https://store/AUTH_1"
    resume(bench)
    assert (store.keys(SEGMENTS), states(bench)) == ([], [])


def test_segments_of_a_manifest_that_is_back_at_its_name_stay(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("segments of bucket/key are left over")
    expected_logs("its manifest is as it was")
    store.fail_next(Unavailable("bucket", "503"), "delete_slo")
    replaced(bench, static(store), SMALL)
    static(store)
    resume(bench)
    assert get_bytes(store, "bucket", "key") == OLD
    assert len(left(store)) == 2
    assert bench.spool.notes() == []


def test_a_deletion_whose_answer_was_lost_is_no_error_later(
    store: MemStore, bench: Bench, expected_logs: ExpectLog
) -> None:
    expected_logs("segments of bucket/key are left over")
    store.fail_next(Unavailable("bucket", "503"), "delete_slo", is_done=True)
    replaced(bench, static(store), SMALL)
    resume(bench)
    assert bench.stored() == SMALL


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("new", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("then", ["nothing", "renamed"])
def test_wherever_the_mount_is_killed_no_manifest_lies_aside_and_no_name_loses_its_bytes(
    store: MemStore, tmp_path: Path, new: bytes, then: str, expected_logs: ExpectLog
) -> None:
    if (new, then) == (LARGE, "renamed"):
        expected_logs(r"not finished \(removed by another client meanwhile\): kept in")
    bench = Bench(store, tmp_path / "first", 100 * MIB)
    info = static(store)
    recorder = Recorder(store, bench, tmp_path)
    replaced(bench, info, new)
    recorder.stop()
    bench.close()
    outcomes = []
    for crash in recorder.crashes:
        name = "key"
        now = crash.store.head("bucket", "key").info
        if then == "renamed" and now.same_bytes(info):
            # By another client, before the next mount.
            name = "renamed"
            crash.store.copy("bucket", now, ("bucket", name), manifest=True)
            crash.store.delete("bucket", "key")
        later = Bench(crash.store, crash.disk, 100 * MIB)
        resume(later)
        keys = crash.store.keys(SEGMENTS)
        assert not [key for key in keys if key.startswith(ASIDE_PREFIX)], crash.when
        found = get_bytes(crash.store, "bucket", name)
        assert found in (OLD, new), crash.when
        outcomes.append((found == new, bool(left(crash.store))))
        later.close()
    assert {(False, True), (True, False)} <= set(outcomes)


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("then", ["nothing", "renamed"])
def test_wherever_the_mount_is_killed_segments_that_are_known_go_with_their_version(
    tmp_path: Path, then: str, expected_logs: ExpectLog
) -> None:
    if then == "renamed":
        expected_logs("bucket/key was changed by another client: segments may be left over")
    store = MemStore(capabilities=OPENSTACK)
    store.create_container("bucket")
    info = static(store)
    bench = Bench(store, tmp_path / "first", 100 * MIB)
    recorder = Recorder(store, bench, tmp_path)
    replaced(bench, info, SMALL)
    recorder.stop()
    assert bench.spool.notes() == []
    bench.close()
    outcomes = set()
    for crash in recorder.crashes:
        name = "key"
        now = crash.store.head("bucket", "key").info
        if then == "renamed" and now.same_bytes(info):
            name = "renamed"
            crash.store.copy("bucket", now, ("bucket", name), manifest=True)
            crash.store.delete("bucket", "key")
        later = Bench(crash.store, crash.disk, 100 * MIB)
        resume(later)
        found = get_bytes(crash.store, "bucket", name)
        assert later.spool.notes() == []
        assert bool(left(crash.store)) == (found == OLD), crash.when
        outcomes.add(found)
        later.close()
    assert outcomes == {OLD, SMALL}


@pytest.mark.semantics("R10")
@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW], ids=["static", "dynamic"])
def test_a_version_that_another_client_renamed_after_a_kill_keeps_its_segments(
    tmp_path: Path, capabilities: Capabilities, expected_logs: ExpectLog
) -> None:
    expected_logs(r"not finished \(removed by another client meanwhile\): kept in")
    expected_logs("may be left over")
    expected_logs("data of a failed upload is in the spool")
    store = MemStore(capabilities=capabilities)
    store.create_container("bucket")
    put_bytes(store, "bucket", "key", OLD)
    info = store.head("bucket", "key").info
    bench = Bench(store, tmp_path / "first", 100 * MIB)
    recorder = Recorder(store, bench, tmp_path)
    replaced(bench, info, LARGE)
    recorder.stop()
    bench.close()
    renamed = 0
    for crash in recorder.crashes:
        now = crash.store.head("bucket", "key").info
        if now.same_bytes(info):
            continue
        renamed += 1
        crash.store.copy("bucket", now, ("bucket", "renamed"), manifest=True)
        crash.store.delete("bucket", "key")
        # The mount after keeps the data; the next ones look at what is left of it again.
        for _ in range(3):
            later = Bench(crash.store, crash.disk, 100 * MIB)
            resume(later)
            later.close()
        assert get_bytes(crash.store, "bucket", "renamed") == LARGE, crash.when
    assert renamed


def removals(store: MemStore, tmp_path: Path) -> list[Crash]:
    """Return pictures of the removal of a large file."""
    store.create_container("bucket")
    bench = Bench(store, tmp_path / "first", 100 * MIB)
    draft = bench.draft(None)
    bench.write(draft, LARGE)
    info = bench.upload(draft)
    draft.discard()
    recorder = Recorder(store, bench, tmp_path)
    announce = Leftovers(store, bench.spool).removing("bucket")
    large.delete(store, "bucket", info, announce)
    recorder.stop()
    assert bench.spool.notes() == []
    bench.close()
    return recorder.crashes


@pytest.mark.semantics("R10", "L5")
@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW], ids=["static", "dynamic"])
def test_wherever_the_mount_is_killed_a_removed_file_leaves_no_segments_but_in_one_request(
    tmp_path: Path, capabilities: Capabilities, expected_logs: ExpectLog
) -> None:
    expected_logs("bucket/key is gone, .* segments may be left over in bucket_segments/key/.*/$")
    outcomes = set()
    for crash in removals(MemStore(capabilities=capabilities), tmp_path):
        later = Bench(crash.store, crash.disk, 100 * MIB)
        resume(later)
        is_there = "key" in crash.store.keys("bucket")
        is_in_doubt = crash.when.startswith("after Call(method='delete',")
        assert bool(crash.store.keys(SEGMENTS)) == (is_there or is_in_doubt), crash.when
        if is_there:
            assert get_bytes(crash.store, "bucket", "key") == LARGE
        assert later.spool.notes() == []
        outcomes.add((is_there, is_in_doubt))
        later.close()
    assert outcomes == {(True, False), (False, True), (False, False)}


@pytest.mark.semantics("R10", "L5")
@pytest.mark.parametrize("capabilities", [OPENSTACK, RGW], ids=["static", "dynamic"])
def test_a_file_that_another_client_renamed_after_a_kill_in_its_removal_keeps_its_segments(
    tmp_path: Path, capabilities: Capabilities, expected_logs: ExpectLog
) -> None:
    expected_logs("segments may be left over")
    renamed = 0
    for crash in removals(MemStore(capabilities=capabilities), tmp_path):
        if "key" not in crash.store.keys("bucket"):
            continue
        renamed += 1
        now = crash.store.head("bucket", "key").info
        crash.store.copy("bucket", now, ("bucket", "renamed"), manifest=True)
        crash.store.delete("bucket", "key")
        later = Bench(crash.store, crash.disk, 100 * MIB)
        resume(later)
        later.close()
        assert get_bytes(crash.store, "bucket", "renamed") == LARGE, crash.when
    assert renamed
