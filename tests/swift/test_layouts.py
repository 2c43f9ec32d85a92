"""Large objects as other clients lay them out on a real Swift: read, changed, removed, broken."""

from __future__ import annotations

import errno
import itertools
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.config import MIB, Config
from allasfs.deadline import within
from allasfs.demo import Cloud
from allasfs.errors import Unavailable
from allasfs.fs.vfs import Vfs
from allasfs.store import large
from allasfs.store.api import Kind, Segment, Store
from allasfs.store.swift import SwiftStore
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.memstore import get_bytes, put_bytes
from tests.fakes.swift import swift_store

pytestmark = pytest.mark.swift

SIZE, PART = 5 * MIB + 77, 2 * MIB
CONTENT = random.Random(1).randbytes(SIZE)
CONFIG = Config(timeout_s=20.0, segment_threshold=2 * MIB, segment_size=MIB, spool_size=8 * MIB)
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def store(cloud: Cloud) -> Iterator[SwiftStore]:
    with swift_store(cloud, CONFIG) as store:
        yield store


@pytest.fixture
def bucket(store: SwiftStore) -> str:
    name = f"layouts-{next(_numbers)}"
    store.create_container(name)
    store.create_container(f"{name}_segments")
    return name


@pytest.fixture
def fs(store: SwiftStore, bucket: str, tmp_path: Path) -> Iterator[VfsFs]:
    config = Config(
        timeout_s=20.0,
        segment_threshold=2 * MIB,
        segment_size=MIB,
        spool_size=8 * MIB,
        spool_dir=tmp_path / "spool",
    )
    vfs = Vfs(store, config)
    vfs.start()
    yield VfsFs(vfs, f"/{bucket}")
    assert vfs.close() == []


def parts(store: Store, bucket: str, prefix: str) -> list[Segment]:
    container = f"{bucket}_segments"
    found = []
    for number, start in enumerate(range(0, SIZE, PART)):
        key = f"{prefix}/{number:08d}"
        info = put_bytes(store, container, key, CONTENT[start : start + PART])
        found.append(Segment(container, key, info.size, info.etag))
    return found


def dynamic(prefix: str, slash: str) -> Callable[[Store, str], None]:
    def make(store: Store, bucket: str) -> None:
        parts(store, bucket, prefix)
        store.put_dlo(bucket, "file", f"{bucket}_segments/{prefix}{slash}", content_type="a/b")

    return make


def static(store: Store, bucket: str) -> None:
    found = parts(store, bucket, f"file/slo/1700000000.5/{SIZE}/{PART}")
    store.put_slo(bucket, "file", found, content_type="application/swiftclient-x")


LAYOUTS = {
    "rclone": dynamic("file/2026-11-23-040500-ab12cd34", ""),
    "rclone, older": dynamic(f"file/1700000000/{SIZE}", ""),
    "swift --use-dlo": dynamic(f"file/1700000000.500000/{SIZE}/{PART}", "/"),
    "swift --use-slo": static,
    "web interface": dynamic("file/token", "/"),
}


@pytest.fixture(params=list(LAYOUTS.values()), ids=list(LAYOUTS))
def made(request: pytest.FixtureRequest, store: SwiftStore, bucket: str) -> None:
    make: Callable[[Store, str], None] = request.param
    make(store, bucket)


def left(store: Store, bucket: str) -> list[str]:
    pages = store.listing(f"{bucket}_segments")
    return [part.key for page in pages for part in page.objects]


def used(store: Store, bucket: str) -> list[str]:
    info = store.head(bucket, "file").info
    return [part.key for part in large.segments_of(store, bucket, info)]


def test_it_is_read_and_removed_with_its_segments(
    made: None, store: SwiftStore, bucket: str, fs: VfsFs
) -> None:
    assert fs.lstat("file").size == SIZE
    assert read_file(fs, "file") == CONTENT
    fs.unlink("file")
    assert left(store, bucket) == []


@pytest.mark.semantics("C19")
def test_appending_sends_what_is_new_and_leaves_nothing_over(
    made: None, store: SwiftStore, bucket: str, fs: VfsFs, cloud: Cloud
) -> None:
    cloud.forget_requests()
    fd = fs.open("file", os.O_WRONLY)
    fs.pwrite(fd, b"end", SIZE)
    fs.close(fd)
    sent = [
        each.received_bytes
        for each in cloud.requests()
        if each.method == "PUT" and "_segments" in each.path
    ]
    assert sum(sent) == 3
    assert get_bytes(store, bucket, "file") == CONTENT + b"end"
    assert sorted(left(store, bucket)) == sorted(used(store, bucket))


def test_a_change_inside_sends_the_touched_segment(
    made: None, store: SwiftStore, bucket: str, fs: VfsFs, cloud: Cloud
) -> None:
    cloud.forget_requests()
    fd = fs.open("file", os.O_WRONLY)
    fs.pwrite(fd, b"changed", PART + 5)
    fs.close(fd)
    sent = [
        each.received_bytes
        for each in cloud.requests()
        if each.method == "PUT" and "_segments" in each.path
    ]
    assert sum(sent) == PART
    assert get_bytes(store, bucket, "file") == (
        CONTENT[: PART + 5] + b"changed" + CONTENT[PART + 12 :]
    )
    assert sorted(left(store, bucket)) == sorted(used(store, bucket))


def test_it_is_replaced_without_a_segment_left(
    made: None, store: SwiftStore, bucket: str, fs: VfsFs
) -> None:
    write_file(fs, "file", b"short")
    assert get_bytes(store, bucket, "file") == b"short"
    assert left(store, bucket) == []


def test_a_renamed_one_is_changed_and_removed_as_before(
    made: None, store: SwiftStore, bucket: str, fs: VfsFs
) -> None:
    fs.rename("file", "other")
    fs.rename("other", "file")
    fd = fs.open("file", os.O_WRONLY)
    fs.pwrite(fd, b"x", 0)
    fs.close(fd)
    assert get_bytes(store, bucket, "file") == b"x" + CONTENT[1:]
    fs.unlink("file")
    assert left(store, bucket) == []


def test_a_segment_that_is_gone_ends_in_an_error_within_the_deadline(
    store: SwiftStore, bucket: str, fs: VfsFs
) -> None:
    static(store, bucket)
    missing = [key for key in left(store, bucket) if key.endswith("1")]
    store.delete_many(f"{bucket}_segments", missing)
    fd = fs.open("file", os.O_RDONLY)
    with within(3.0):
        assert fs.pread(fd, 1000, PART - 1000) == CONTENT[PART - 1000 : PART]
    with within(3.0), pytest.raises(Unavailable) as caught:
        fs.pread(fd, 1000, PART + 1000)
    assert caught.value.errno in (errno.EIO, errno.ETIMEDOUT)
    fs.close(fd)


def test_the_choice_of_manifests_is_the_mount_s(
    store: SwiftStore, bucket: str, tmp_path: Path
) -> None:
    kinds = {"slo": Kind.SLO, "dlo": Kind.DLO, "auto": Kind.SLO}
    for choice, kind in kinds.items():
        config = Config(
            segment_threshold=2 * MIB,
            segment_size=MIB,
            large_objects=choice,
            spool_dir=tmp_path / choice,
        )
        vfs = Vfs(store, config)
        vfs.start()
        write_file(VfsFs(vfs, f"/{bucket}"), "file", CONTENT)
        fd = VfsFs(vfs, f"/{bucket}").open("file", os.O_WRONLY)
        VfsFs(vfs, f"/{bucket}").pwrite(fd, b"end", SIZE)
        VfsFs(vfs, f"/{bucket}").close(fd)
        assert vfs.close() == []
        assert store.head(bucket, "file").info.kind is kind
        assert get_bytes(store, bucket, "file") == CONTENT + b"end"
        assert sorted(left(store, bucket)) == sorted(used(store, bucket))
