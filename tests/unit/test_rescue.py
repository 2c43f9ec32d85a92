"""What becomes of kept files at a person's word, over a store in memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.config import MIB
from allasfs.errors import (
    Exists,
    FsError,
    NotFound,
    NotPermitted,
    NotSupported,
    QuotaExceeded,
    Stale,
    Unavailable,
)
from allasfs.fs.types import content_type
from allasfs.transfer import rescue
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import KEPT, OWED, PENDING
from allasfs.transfer.rescue import Rescue
from allasfs.transfer.spool import Spool
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes
from tests.unit.test_draft import SEGMENTS, Bench, content

ROOM = 8 * MIB
# Larger than the spool: a part of it is in segments only.
LARGE = 20 * MIB


@pytest.fixture(params=["openstack", "rgw"])
def store(request: pytest.FixtureRequest) -> MemStore:
    store = MemStore(capabilities=OPENSTACK if request.param == "openstack" else RGW)
    store.create_container("bucket")
    return store


@pytest.fixture
def bench(store: MemStore, tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(store, tmp_path, ROOM)
    yield bench
    bench.close()


@pytest.fixture
def helper(bench: Bench) -> Rescue:
    return Rescue(bench.uploader, bench.spool, lambda bucket, info: None, content_type)


def refuse(call: Call) -> None:
    if call.method.startswith("put") and call.container != SEGMENTS:
        raise QuotaExceeded("bucket", "over quota")


def keep(bench: Bench, data: bytes, base: bytes | None = None, offset: int = 0) -> Entry:
    """Return the entry of a file whose upload was refused."""
    info = put_bytes(bench.store, "bucket", "key", base) if base is not None else None
    draft = bench.draft(info)
    bench.write(draft, data, offset)
    bench.store.before = refuse
    with pytest.raises(QuotaExceeded):
        bench.upload(draft)
    draft.keep("over quota")
    bench.store.before = lambda call: None
    (entry,) = [each for each in bench.spool.entries() if each.is_kept]
    return entry


def assert_gone(bench: Bench) -> None:
    """Nothing is left of the entry."""
    assert bench.spool.entries() == []
    assert list(bench.spool.folder.glob("*.data")) == []
    assert bench.spool.used == 0


SIZES = pytest.mark.parametrize("size", [0, 9, LARGE], ids=["empty", "small", "large"])


@SIZES
@pytest.mark.semantics("R13")
def test_a_kept_file_is_uploaded_with_all_that_it_had(
    bench: Bench, helper: Rescue, size: int
) -> None:
    data = content(size)
    helper.retry(keep(bench, data).id)
    assert bench.stored() == data
    head = bench.store.head("bucket", "key")
    assert (head.info.content_type, head.metadata["mtime"]) == ("a/b", "1")
    assert_gone(bench)


def test_the_segments_that_are_stored_are_not_sent_again(bench: Bench, helper: Rescue) -> None:
    entry = keep(bench, content(LARGE))
    sent = {part.key for part in entry.note.parts if part.segment is not None}
    assert sent
    bench.store.forget_calls()
    helper.retry(entry.id)
    assert not sent & {key for key, _ in bench.sent()}
    assert bench.stored() == content(LARGE)


@SIZES
@pytest.mark.semantics("R13")
def test_a_changed_object_is_replaced_only_when_that_is_said(
    bench: Bench, helper: Rescue, size: int
) -> None:
    data = content(size)
    entry = keep(bench, data)
    put_bytes(bench.store, "bucket", "key", b"theirs")
    with pytest.raises(Exists, match="changed by another client"):
        helper.retry(entry.id)
    assert get_bytes(bench.store, "bucket", "key") == b"theirs"
    assert [each.id for each in bench.spool.entries()] == [entry.id]
    helper.retry(entry.id, over=True)
    assert bench.stored() == data
    assert_gone(bench)


def test_over_a_large_object_leaves_no_segments_of_it(bench: Bench, helper: Rescue) -> None:
    entry = keep(bench, b"mine")
    bench.put(content(5 * MIB))
    helper.retry(entry.id, over=True)
    assert get_bytes(bench.store, "bucket", "key") == b"mine"
    assert bench.store.keys(SEGMENTS) == []
    assert_gone(bench)


def test_an_object_that_was_removed_comes_back_only_when_that_is_said(
    bench: Bench, helper: Rescue
) -> None:
    entry = keep(bench, b"new content", base=b"old")
    bench.store.delete("bucket", "key")
    with pytest.raises(Stale, match="removed by another client"):
        helper.retry(entry.id)
    helper.retry(entry.id, over=True)
    assert get_bytes(bench.store, "bucket", "key") == b"new content"


@pytest.mark.semantics("R13")
def test_a_change_in_part_is_not_made_of_zeros_when_its_base_is_gone(
    bench: Bench, helper: Rescue, tmp_path: Path
) -> None:
    old = content(3 * MIB)
    draft = bench.draft(put_bytes(bench.store, "bucket", "key", old))
    draft.write(10, b"changed")
    entry_id = Path(draft.keep("closed without an upload")).stem
    put_bytes(bench.store, "bucket", "key", b"theirs")
    with pytest.raises(Stale, match=r"bytes 0-9, 17-3145727 were in the version that is gone"):
        helper.retry(entry_id, over=True)
    assert get_bytes(bench.store, "bucket", "key") == b"theirs"
    (entry,) = bench.spool.entries()
    missing, data = saved(bench, entry, tmp_path / "saved")
    assert missing == [(0, 10), (17, 3 * MIB)]
    assert data == bytes(10) + b"changed" + bytes(3 * MIB - 17)


def test_a_change_in_part_is_uploaded_with_the_rest_of_its_base(
    bench: Bench, helper: Rescue
) -> None:
    old = content(100_000)
    put_bytes(bench.store, "bucket", "key", old, metadata={"other": "stays"}, content_type="x/y")
    draft = bench.draft(bench.store.head("bucket", "key").info)
    draft.write(10, b"changed")
    draft.describe("", {"mtime": "5"})
    helper.retry(Path(draft.keep("the store was away before it told the metadata")).stem)
    assert get_bytes(bench.store, "bucket", "key") == old[:10] + b"changed" + old[17:]
    head = bench.store.head("bucket", "key")
    assert head.metadata == {"other": "stays", "mtime": "5"}
    assert head.info.content_type == "x/y"


@pytest.mark.parametrize("size", [9, LARGE], ids=["small", "large"])
@pytest.mark.semantics("R13")
def test_another_name_gets_the_whole_file_and_the_first_one_stays_as_it_is(
    bench: Bench, helper: Rescue, size: int
) -> None:
    data = content(size)
    entry = keep(bench, data)
    put_bytes(bench.store, "bucket", "key", b"theirs")
    with pytest.raises(Exists, match="there is an object of this name"):
        helper.retry(entry.id, place=("bucket", "key"))
    helper.retry(entry.id, place=("bucket", "other"))
    assert get_bytes(bench.store, "bucket", "other") == data
    assert get_bytes(bench.store, "bucket", "key") == b"theirs"
    assert_gone(bench)


def test_a_change_in_part_is_whole_under_another_name(bench: Bench, helper: Rescue) -> None:
    old = content(3 * MIB)
    draft = bench.draft(put_bytes(bench.store, "bucket", "key", old))
    draft.write(10, b"changed")
    helper.retry(Path(draft.keep("why")).stem, place=("bucket", "other"))
    assert get_bytes(bench.store, "bucket", "other") == old[:10] + b"changed" + old[17:]
    assert get_bytes(bench.store, "bucket", "key") == old
    assert_gone(bench)


@pytest.mark.parametrize("size", [9, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("how", ["own name", "over", "as"])
def test_an_upload_that_fails_again_leaves_the_entry_for_the_same_name(
    bench: Bench, helper: Rescue, how: str, size: int
) -> None:
    data = content(size)
    entry = keep(bench, data)
    if how == "over":
        put_bytes(bench.store, "bucket", "key", b"theirs")
    bench.store.before = refuse
    place = ("bucket", "other") if how == "as" else None
    for _ in range(2):
        with pytest.raises(QuotaExceeded):
            helper.retry(entry.id, over=how == "over", place=place)
    bench.store.before = lambda call: None
    (now,) = bench.spool.entries()
    assert (now.id, now.state, now.note.subject) == (entry.id, KEPT, "bucket/key")
    assert (now.note.base, now.note.when) == (entry.note.base, entry.note.when)
    assert now.note.missing() == []
    if how == "over":
        with pytest.raises(Exists):
            helper.retry(entry.id)
    helper.retry(entry.id, over=how == "over")
    assert bench.stored() == data
    assert_gone(bench)


def test_a_file_that_was_stored_after_all_is_not_sent_again(bench: Bench, helper: Rescue) -> None:
    draft = bench.draft()
    bench.write(draft, b"content")

    def lose(call: Call) -> None:
        if call.method == "put":
            raise Unavailable("bucket", "the answer is lost")

    bench.store.after = lose
    with pytest.raises(Unavailable):
        bench.upload(draft)
    bench.store.after = lambda call: None
    entry_id = Path(draft.keep("the answer is lost")).stem
    bench.store.forget_calls()
    helper.retry(entry_id)
    assert "put" not in bench.store.counts()
    assert_gone(bench)


# -- what is not done -----------------------------------------------------------------------------


def test_what_is_not_kept_is_not_touched(bench: Bench, helper: Rescue) -> None:
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    (entry,) = bench.spool.entries()
    assert entry.state == PENDING
    for call in (helper.retry, helper.discard):
        with pytest.raises(NotFound):
            call(entry.id)
        with pytest.raises(NotFound):
            call("0")
    draft.discard()


@pytest.mark.semantics("R13")
def test_a_file_for_another_account_is_not_uploaded_to_this_one(
    bench: Bench, helper: Rescue
) -> None:
    bench.spool.account = "https://store/AUTH_1"
    entry = keep(bench, b"content")
    bench.spool.account = "https://store/AUTH_2"
    with pytest.raises(NotPermitted, match="another account, https://store/AUTH_1"):
        helper.retry(entry.id)
    assert bench.store.keys("bucket") == []


def test_what_no_note_describes_is_saved_and_not_uploaded(
    bench: Bench, helper: Rescue, tmp_path: Path
) -> None:
    (bench.spool.folder / "aa.kept").write_bytes(b"precious")
    with pytest.raises(NotSupported, match="its note could not be written"):
        helper.retry("aa")
    (entry,) = bench.spool.entries()
    assert saved(bench, entry, tmp_path / "saved") == ([], b"precious")
    helper.discard("aa")
    assert_gone(bench)


@pytest.mark.parametrize("action", ["retry", "discard"])
def test_a_spool_that_another_mount_owns_is_not_touched(bench: Bench, action: str) -> None:
    # A mount that is about to find out that its spool folder is in use answers its socket already.
    entry = keep(bench, b"content")
    late = Spool(bench.spool.folder, ROOM)
    helper = Rescue(bench.uploader, late, lambda bucket, info: None, content_type)
    with pytest.raises(Unavailable, match="not ready"):
        getattr(helper, action)(entry.id)
    assert [each.id for each in bench.spool.entries()] == [entry.id]
    late.close()


def test_nothing_begins_when_the_mount_ends(bench: Bench, helper: Rescue) -> None:
    entry = keep(bench, b"content")
    helper.stop()
    with pytest.raises(Unavailable):
        helper.retry(entry.id)
    assert [each.id for each in bench.spool.entries()] == [entry.id]


# -- discard and save -----------------------------------------------------------------------------


@SIZES
@pytest.mark.semantics("R13")
def test_a_discarded_file_leaves_nothing(bench: Bench, helper: Rescue, size: int) -> None:
    helper.discard(keep(bench, content(size)).id)
    assert bench.store._containers.get(SEGMENTS, {}) == {}
    assert_gone(bench)


def test_a_discarded_file_whose_upload_was_done_after_all_keeps_the_object(
    bench: Bench, helper: Rescue, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("segments of bucket/key may be left over")
    data = content(LARGE)
    draft = bench.draft()
    bench.write(draft, data)
    found: list[FsError] = []

    def lose(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo") or found:
            found.append(Unavailable("bucket", "503"))
            raise found[-1]

    bench.store.after = lose
    with pytest.raises(Unavailable):
        bench.upload(draft)
    entry_id = Path(draft.keep("503")).stem
    bench.store.after = lambda call: None
    helper.discard(entry_id)
    assert bench.stored() == data
    assert_gone(bench)


def test_segments_that_cannot_be_removed_keep_their_entry(
    bench: Bench, helper: Rescue, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("are left over in bucket_segments")
    entry = keep(bench, content(LARGE))

    def away(call: Call) -> None:
        if call.method.startswith("delete"):
            raise Unavailable("bucket", "503")

    bench.store.before = away
    with pytest.raises(Unavailable):
        helper.discard(entry.id)
    bench.store.before = lambda call: None
    assert [each.id for each in bench.spool.entries()] == [entry.id]
    helper.discard(entry.id)
    assert_gone(bench)


def saved(bench: Bench, entry: Entry, path: Path) -> tuple[list[tuple[int, int]], bytes]:
    out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    sending = bench.uploader.sending if rescue.needs_store(entry) else None
    try:
        missing = rescue.save(entry, out, sending)
    finally:
        os.close(out)
    return missing, path.read_bytes()


@SIZES
@pytest.mark.semantics("R13")
def test_a_saved_file_is_whole(bench: Bench, tmp_path: Path, size: int) -> None:
    data = content(size)
    entry = keep(bench, data)
    assert rescue.needs_store(entry) == (size == LARGE)
    assert saved(bench, entry, tmp_path / "saved") == ([], data)
    assert [each.id for each in bench.spool.entries()] == [entry.id]


def test_a_saved_file_has_what_its_base_still_has(bench: Bench, tmp_path: Path) -> None:
    old = content(3 * MIB)
    draft = bench.draft(put_bytes(bench.store, "bucket", "key", old))
    draft.truncate(2 * MIB)
    draft.truncate(2 * MIB + 5)
    draft.write(10, b"changed")
    draft.keep("why")
    (entry,) = bench.spool.entries()
    new = old[:10] + b"changed" + old[17 : 2 * MIB] + bytes(5)
    assert saved(bench, entry, tmp_path / "saved") == ([], new)


@pytest.mark.semantics("R13")
@pytest.mark.parametrize("base", [None, b"-" * 9], ids=["new", "changed"])
def test_bytes_that_the_disk_has_lost_are_named(
    bench: Bench, tmp_path: Path, base: bytes | None
) -> None:
    entry = keep(bench, b"precious", base)
    os.truncate(entry.data, 3)
    # All of it was local, and the version that was changed is older.
    missing, data = saved(bench, entry, tmp_path / "saved")
    assert missing == [(3, entry.size)]
    assert data == b"pre" + bytes(entry.size - 3)


def test_every_state_that_is_owed_can_be_rescued_without_a_mount(bench: Bench) -> None:
    alone = Rescue(bench.uploader, bench.spool, lambda bucket, info: None, content_type, OWED)
    draft = bench.draft()
    bench.write(draft, b"content")
    draft.take("a/b", {})
    draft.leave()
    (entry,) = bench.spool.entries()
    alone.retry(entry.id)
    assert get_bytes(bench.store, "bucket", "key") == b"content"
    assert_gone(bench)
