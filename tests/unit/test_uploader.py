"""Uploader over a store in memory: one PUT or segments, all or nothing, no orphans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs import deadline
from allasfs.config import MIB, Config
from allasfs.deadline import Deadline
from allasfs.errors import (
    AccessDenied,
    BadName,
    FileTooBig,
    Internal,
    NotFound,
    QuotaExceeded,
    Stale,
    Unavailable,
)
from allasfs.store.api import Kind, ObjectInfo
from allasfs.store.large import look
from allasfs.transfer.spool import Spool
from allasfs.transfer.spoolfile import SpoolFile
from allasfs.transfer.uploader import Uploader
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, Call, MemStore, get_bytes, put_bytes

CONFIG = Config(segment_threshold=2 * MIB, segment_size=MIB)
LARGE = 3 * MIB + 7
SEGMENTS = "bucket_segments"


@pytest.fixture(params=["openstack", "rgw"])
def store(request: pytest.FixtureRequest) -> MemStore:
    store = MemStore(capabilities=OPENSTACK if request.param == "openstack" else RGW)
    store.create_container("bucket")
    store.forget_calls()
    return store


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", 100 * MIB)
    spool.open()
    yield spool
    spool.close()


@pytest.fixture
def uploader(store: MemStore) -> Iterator[Uploader]:
    with ThreadPoolExecutor(4) as pool:
        yield Uploader(store, pool, CONFIG)


def file_of(spool: Spool, size: int) -> SpoolFile:
    """Return a file that is written, not as a draft: nothing of it was sent."""
    file = spool.create()
    for start in range(0, size, 100_000):
        file.write(start, bytes([start // 100_000 % 256]) * min(100_000, size - start))
    return file


def upload(uploader: Uploader, file: SpoolFile, replaced: ObjectInfo | None = None) -> ObjectInfo:
    size, content = file.size, file.read(0, file.size)
    draft = uploader.draft(file, "bucket", "key", replaced)
    if replaced is not None:
        draft.truncate(0)
        for start in range(0, size, 100_000):
            file.write(start, content[start : start + 100_000])
    return uploader.upload(draft, content_type="text/x", metadata={"mtime": "1.5"})


@pytest.mark.parametrize("size", [0, 1, 2 * MIB])
def test_up_to_the_threshold_a_file_is_one_put(
    store: MemStore, spool: Spool, uploader: Uploader, size: int
) -> None:
    file = file_of(spool, size)
    info = upload(uploader, file)
    assert store.counts() == {"put": 1}
    assert (info.size, info.kind, info.etag) == (size, Kind.PLAIN, file.md5())
    assert get_bytes(store, "bucket", "key") == file.read(0, size)
    head = store.head("bucket", "key")
    assert (head.info.content_type, head.metadata) == ("text/x", {"mtime": "1.5"})


def test_above_the_threshold_a_file_is_segments_and_a_manifest_last(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    file = file_of(spool, LARGE)
    info = upload(uploader, file)
    assert (info.size, info.kind) == (LARGE, store.head("bucket", "key").info.kind)
    assert info.kind is not Kind.PLAIN
    assert get_bytes(store, "bucket", "key") == file.read(0, LARGE)
    assert len(store.keys(SEGMENTS)) == 4
    head = store.head("bucket", "key")
    assert (head.info.content_type, head.metadata) == ("text/x", {"mtime": "1.5"})
    methods = [call.method for call in store.calls() if call.method.startswith("put")]
    assert methods[:4] == ["put"] * 4
    assert methods[4] in ("put_slo", "put_dlo")


def test_segments_go_up_together(store: MemStore, spool: Spool, uploader: Uploader) -> None:
    together = threading.Barrier(4, timeout=30)

    def meet(call: Call) -> None:
        if call.container == SEGMENTS and call.method == "put":
            together.wait()

    store.before = meet
    upload(uploader, file_of(spool, LARGE))
    assert not together.broken


def test_a_failed_segment_leaves_nothing_behind(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    put_bytes(store, "bucket", "key", b"old")
    numbers = iter(range(100))

    def fail(call: Call) -> None:
        if call.container == SEGMENTS and call.method == "put" and next(numbers) == 2:
            raise QuotaExceeded("bucket", "413")

    store.before = fail
    with pytest.raises(QuotaExceeded):
        upload(uploader, file_of(spool, LARGE))
    assert store.keys(SEGMENTS) == []
    assert get_bytes(store, "bucket", "key") == b"old"


def test_a_segment_that_was_stored_without_an_answer_is_not_left_behind(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    def lose(call: Call) -> None:
        if call.container == SEGMENTS and call.method == "put":
            raise Unavailable(SEGMENTS, "no answer")

    store.after = lose
    with pytest.raises(Unavailable):
        upload(uploader, file_of(spool, LARGE))
    assert store.keys(SEGMENTS) == []


@pytest.mark.parametrize("method", ["put_slo", "put_dlo"])
def test_a_failed_manifest_leaves_nothing_behind(
    store: MemStore, spool: Spool, uploader: Uploader, method: str
) -> None:
    def fail(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo"):
            raise Unavailable("bucket/key", "503")

    store.before = fail
    with pytest.raises(Unavailable):
        upload(uploader, file_of(spool, LARGE))
    assert store.keys(SEGMENTS) == []
    with pytest.raises(NotFound):
        store.head("bucket", "key")


def test_a_manifest_whose_answer_is_lost_keeps_its_segments(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    def lose(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo"):
            store.after = lambda call: None
            raise Unavailable("bucket/key", "the connection broke")

    store.after = lose
    info = upload(uploader, file_of(spool, LARGE))
    assert info.size == LARGE
    assert len(get_bytes(store, "bucket", "key")) == LARGE


def test_segments_stay_while_the_store_does_not_tell_of_their_manifest(
    store: MemStore, spool: Spool, uploader: Uploader, expected_logs: Callable[[str], None]
) -> None:
    def fail(call: Call) -> None:
        if call.method in ("put_slo", "put_dlo", "head"):
            raise Unavailable("bucket/key", "503")

    store.before = fail
    expected_logs("may be left over")
    with pytest.raises(Unavailable):
        upload(uploader, file_of(spool, LARGE))
    assert store.keys(SEGMENTS) != []


def test_a_failed_put_keeps_the_old_object_and_its_segments(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    content = get_bytes(store, "bucket", "key")
    store.fail_next(QuotaExceeded("bucket", "413"), "put")
    with pytest.raises(QuotaExceeded):
        upload(uploader, file_of(spool, 5), replaced=old)
    assert get_bytes(store, "bucket", "key") == content


@pytest.mark.parametrize("size", [5, LARGE])
def test_the_segments_of_a_replaced_large_object_go_after_the_new_one_stands(
    store: MemStore, spool: Spool, uploader: Uploader, size: int
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    before = set(store.keys(SEGMENTS))
    file = file_of(spool, size)
    seen: list[bool] = []

    def look(call: Call) -> None:
        if call.method == "delete_many":
            seen.append(get_bytes(store, "bucket", "key") == file.read(0, size))

    store.before = look
    upload(uploader, file, replaced=old)
    assert seen == [True]
    assert not before & set(store.keys(SEGMENTS))
    assert len(store.keys(SEGMENTS)) == (4 if size == LARGE else 0)


def test_segments_that_cannot_be_removed_are_waste_and_no_failure(
    store: MemStore,
    spool: Spool,
    uploader: Uploader,
    expected_logs: Callable[[str], None],
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    store.fail_next(Unavailable("bucket", "503"), "delete_many")
    expected_logs("segments of a removed object are left over")
    upload(uploader, file_of(spool, 5), replaced=old)
    assert len(get_bytes(store, "bucket", "key")) == 5


@pytest.mark.parametrize("change", ["deleted", "plain"])
def test_a_large_object_that_another_client_took_away_is_no_obstacle(
    store: MemStore, spool: Spool, uploader: Uploader, change: str
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    if change == "deleted":
        store.delete("bucket", "key")
    else:
        put_bytes(store, "bucket", "key", b"theirs")
    upload(uploader, file_of(spool, 5), replaced=old)
    assert len(get_bytes(store, "bucket", "key")) == 5


@pytest.mark.semantics("C17")
@pytest.mark.parametrize("cause", ["the bucket", "the credentials"])
def test_segments_that_are_refused_are_efbig_unless_nothing_is_allowed_any_more(
    store: MemStore,
    spool: Spool,
    uploader: Uploader,
    cause: str,
    expected_logs: Callable[[str], None],
) -> None:
    if cause == "the credentials":
        expected_logs("segments of .* are left over")

    def refuse(call: Call) -> None:
        if call.container == SEGMENTS and call.method == "put":
            store.before = refuse_all
            raise AccessDenied(SEGMENTS, "403")

    def refuse_all(call: Call) -> None:
        if cause == "the credentials" or call.method == "put":
            raise AccessDenied(SEGMENTS, "403")

    store.before = refuse
    error = FileTooBig if cause == "the bucket" else AccessDenied
    with pytest.raises(error):
        upload(uploader, file_of(spool, LARGE))


def test_the_container_for_segments_is_made_once(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    upload(uploader, file_of(spool, LARGE))
    upload(uploader, file_of(spool, LARGE))
    assert store.counts()["create_container"] == 1


def test_a_container_for_segments_that_is_another_s_makes_the_file_too_big(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    store.fail_next(AccessDenied(SEGMENTS, "403"), "head_container")
    with pytest.raises(FileTooBig, match="large files need this bucket"):
        upload(uploader, file_of(spool, LARGE))


def test_an_upload_that_takes_longer_than_the_deadline_while_bytes_move_is_published(
    store: MemStore, spool: Spool, uploader: Uploader, clock: FakeClock
) -> None:
    # Each segment takes 40 s of the 60 that an operation may go without progress.
    operation = Deadline(60.0, clock=clock)

    def slow(call: Call) -> None:
        if call.method == "put":
            clock.advance(40)
        elif call.method in ("put_slo", "put_dlo", "delete_many"):
            deadline.current(60.0).check("bucket/key")

    store.before = slow
    token = deadline._current.set(operation)
    try:
        upload(uploader, file_of(spool, LARGE))
    finally:
        deadline._current.reset(token)
    assert store.head("bucket", "key").info.size == LARGE


def test_a_fault_in_a_segment_s_thread_is_raised_and_leaves_nothing_behind(
    store: MemStore,
    spool: Spool,
    uploader: Uploader,
    monkeypatch: pytest.MonkeyPatch,
    expected_logs: Callable[[str], None],
) -> None:
    draft = uploader.draft(file_of(spool, LARGE), "bucket", "key")
    monkeypatch.setattr(draft.file, "_chunks", lambda start, stop: iter(()))
    expected_logs("sending a part of bucket/key")
    with pytest.raises(Internal):
        uploader.upload(draft, content_type="a/b", metadata={})
    assert store.keys(SEGMENTS) == []


def test_more_segments_than_threads_all_go_up(store: MemStore, spool: Spool) -> None:
    config = replace(CONFIG, segment_threshold=1, segment_size=1)
    with ThreadPoolExecutor(2) as pool:
        file = file_of(spool, 9 * MIB)
        upload(Uploader(store, pool, config), file)
    assert len(store.keys(SEGMENTS)) == 9
    assert get_bytes(store, "bucket", "key") == file.read(0, 9 * MIB)


def lose_manifest(store: MemStore, *, is_done: bool) -> None:
    for method in ("put_slo", "put_dlo"):
        store.fail_next(Unavailable("bucket/key", "503"), method, is_done=is_done)


@pytest.mark.semantics("R1")
def test_a_manifest_over_the_old_segments_that_never_arrived_is_an_error(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    draft = uploader.draft(spool.create(), "bucket", "key", old)
    lose_manifest(store, is_done=False)
    with pytest.raises(Unavailable):
        uploader.upload(draft, content_type="text/x", metadata={"mtime": "2.5"})
    assert store.head("bucket", "key").metadata == {"mtime": "1.5"}
    assert len(get_bytes(store, "bucket", "key")) == LARGE
    assert len(store.keys(SEGMENTS)) == 4


def test_a_manifest_over_the_old_segments_whose_answer_is_lost_is_found_by_one_head(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    draft = uploader.draft(spool.create(), "bucket", "key", old)
    store.forget_calls()
    lose_manifest(store, is_done=True)
    info = uploader.upload(draft, content_type="text/x", metadata={"mtime": "2.5"})
    assert info.size == LARGE
    assert store.head("bucket", "key").metadata == {"mtime": "2.5"}
    assert len(get_bytes(store, "bucket", "key")) == LARGE
    methods = [call.method for call in store.calls()]
    published = next(number for number, name in enumerate(methods) if name.startswith("put_"))
    looks = methods[published + 1 : published + 3]
    assert looks in (["head", "slo_segments"], ["head", "listing"])


@pytest.mark.semantics("R8")
@pytest.mark.parametrize("change", ["replaced", "deleted"])
def test_what_is_local_is_sent_when_the_segments_that_were_to_stay_are_gone(
    store: MemStore, spool: Spool, uploader: Uploader, change: str
) -> None:
    file = file_of(spool, LARGE)
    content = file.read(0, LARGE)
    draft = uploader.draft(file, "bucket", "key")
    uploader.upload(draft, content_type="text/x", metadata={})
    if change == "replaced":
        put_bytes(store, "bucket", "key", b"theirs")
    else:
        store.delete("bucket", "key")
    for segment in store.keys(SEGMENTS):
        store.delete(SEGMENTS, segment)
    draft.write(0, b"x")
    uploader.upload(draft, content_type="text/x", metadata={})
    assert get_bytes(store, "bucket", "key") == b"x" + content[1:]


def test_bytes_that_only_the_segments_had_are_stale_when_these_are_gone(
    store: MemStore, spool: Spool, uploader: Uploader
) -> None:
    old = upload(uploader, file_of(spool, LARGE))
    draft = uploader.draft(spool.create(), "bucket", "key", old)
    # It knows the segments from here on.
    draft.know_base(look(store, "bucket", old))
    draft.write(0, b"x")
    put_bytes(store, "bucket", "key", b"theirs")
    with pytest.raises(Stale):
        uploader.upload(
            draft,
            content_type="text/x",
            metadata={},
            fetch=lambda start, stop: b"?" * (stop - start),
        )
    assert get_bytes(store, "bucket", "key") == b"theirs"


@pytest.mark.semantics("C19", "R1")
@pytest.mark.parametrize("is_removed", [True, False])
def test_no_manifest_is_published_over_a_segment_that_another_client_removed_or_changed(
    store: MemStore, spool: Spool, uploader: Uploader, *, is_removed: bool
) -> None:
    put_bytes(store, "bucket", "key", b"old")
    file = file_of(spool, LARGE)
    draft = uploader.draft(file, "bucket", "key")

    waiting = iter([True])

    def interfere(call: Call) -> None:
        # The last request before the manifest, or it itself.
        if (call.method, call.container) not in (("listing", SEGMENTS), ("put_slo", "bucket")):
            return
        if next(waiting, False):
            key = store.keys(SEGMENTS)[1]
            if is_removed:
                store.delete(SEGMENTS, key)
            else:
                put_bytes(store, SEGMENTS, key, bytes(MIB))

    store.before = interfere
    with pytest.raises((Unavailable, BadName)):
        uploader.upload(draft, content_type="a/b", metadata={})
    assert get_bytes(store, "bucket", "key") == b"old"
    # The file is here: another attempt stores it.
    uploader.upload(draft, content_type="a/b", metadata={})
    assert get_bytes(store, "bucket", "key") == file.read(0, LARGE)
