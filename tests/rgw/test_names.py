"""Names on a Ceph RADOS Gateway: short pages, odd names, and buckets that are everybody's."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count, islice
from pathlib import Path
from urllib.parse import urlencode

import pytest

from allasfs.config import Config
from allasfs.store.auth import load
from allasfs.store.forms import Sources
from allasfs.store.swift import SwiftStore
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.ceph.gateway import Gateway
from tests.conftest import ExpectedLogs
from tests.fakes.memstore import put_bytes
from tests.mount.support import refused
from tests.mount.test_requests import archive
from tests.rgw.support import Raw, mounted

pytestmark = pytest.mark.rgw

# Fewer than one page may have (10,000), and more than a page has when all are in one shard.
MANY = 6500
SHARDS = 11
UPLOADS = 4


def shard_of(name: str) -> int:
    """Return which shard of a bucket's index has a name (Ceph: rgw_bucket_shard_index)."""
    number = 0
    for byte in name.encode():
        number = (number + (byte << 4) + (byte >> 4)) * 11 & 0xFFFF_FFFF
    return (number ^ (number & 0xFF) << 24) % 7877 % SHARDS


@pytest.fixture(scope="module")
def many(gateway: Gateway) -> str:
    """A bucket of many objects, most of them side by side.

    A page is what each shard gives of its share: a bucket that fills one only has short pages.
    """
    client = Raw(gateway)
    client.do("PUT", "many")
    every = (f"dir/{number:06d}" if number < 5000 else f"{number:06d}" for number in count())
    names = list(islice((name for name in every if shard_of(name) == 0), MANY))

    def upload(share: list[str]) -> int:
        answer = client.do(
            "PUT", "many", archive(share), "extract-archive=tar", Accept="application/json"
        )
        return int(answer.json()["Number Files Created"])

    with ThreadPoolExecutor(UPLOADS) as pool:
        shares = [names[start::UPLOADS] for start in range(UPLOADS)]
        assert sum(pool.map(upload, shares)) == MANY
    client.close()
    return "many"


def test_every_name_is_listed_though_pages_are_short(
    store: SwiftStore, gateway: Gateway, many: str, tmp_path: Path
) -> None:
    pages = list(store.listing(many))
    assert len(pages) > 1, "this server's pages are exact"
    names = [info.key for page in pages for info in page.objects]
    assert len(set(names)) == len(names) == MANY
    below = [name.removeprefix("dir/") for name in names if name.startswith("dir/")]
    gateway.forget_requests()
    with mounted(store, tmp_path, ttl_s=3600.0) as fs:
        assert sorted(fs.listdir(f"/{many}")) == sorted({*names[: -len(below)], "dir"})
        assert sorted(fs.listdir(f"/{many}/dir")) == below
        assert fs.lstat(f"/{many}/{names[-1]}").size == len(names[-1])
    # The whole tree by one listing, until its empty page.
    asked = [each for each in gateway.requests() if many in each.path]
    assert [each.method for each in asked] == ["GET"] * (len(pages) + 1)


def test_a_bulk_delete_that_the_server_would_cut_short_deletes_everything(
    store: SwiftStore, raw: Raw, many: str
) -> None:
    keys = [info.key for page in store.listing(many) for info in page.objects]
    names = "\n".join(f"{many}/{key}" for key in keys[:1100]).encode()
    report = raw.do(
        "POST", "", names, "bulk-delete", Accept="application/json", Content_Type="text/plain"
    )
    assert report.json()["Response Status"] == "200 OK"
    assert report.json()["Number Deleted"] < 1100, "this server deletes all that it is told"
    rest = keys[-2100:]
    store.delete_many(many, rest)
    left = {info.key for page in store.listing(many) for info in page.objects}
    assert not left & set(rest)
    assert left >= set(keys[1100:-2100])


def test_names_that_begin_with_a_slash_hide_no_other(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("2 objects are not shown")
    for key in ("/lead", "//two", "a", "d/b"):
        raw.do("PUT", f"{bucket}/{key}", b"content")
    delimited = raw.do("GET", bucket, query=urlencode({"delimiter": "/", "limit": 1}))
    assert delimited.content == b"", "this server shows the directory without a name"
    with mounted(store, tmp_path) as fs:
        assert sorted(fs.listdir(f"/{bucket}")) == ["a", "d"]
        assert read_file(fs, f"/{bucket}/d/b") == b"content"
        for name in ("a", "d/b"):
            fs.unlink(f"/{bucket}/{name}")
        fs.rmdir(f"/{bucket}/d")
        with refused(errno.ENOTEMPTY):
            fs.rmdir(f"/{bucket}")


def test_an_object_of_no_content_type_is_a_file(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do("PUT", f"{bucket}/untyped", b"content")
    raw.do("PUT", f"{bucket}/empty")
    assert "content_type" not in raw.listed(bucket)[1], "this server gives every object a type"
    with mounted(store, tmp_path) as fs:
        for name, content in (("untyped", b"content"), ("empty", b"")):
            assert not fs.lstat(f"/{bucket}/{name}").is_dir
            assert read_file(fs, f"/{bucket}/{name}") == content
        fs.chmod(f"/{bucket}/untyped", 0o600)
        fs.rename(f"/{bucket}/untyped", f"/{bucket}/renamed")
        assert read_file(fs, f"/{bucket}/renamed") == b"content"
        assert fs.lstat(f"/{bucket}/renamed").mode & 0o777 == 0o600


def test_sizes_that_no_listing_tells_are_asked_for_once_per_version(
    store: SwiftStore, raw: Raw, gateway: Gateway, bucket: str, tmp_path: Path
) -> None:
    raw.put_slo(bucket, "static", [b"A" * 1000, b"B" * 500])
    raw.put_dlo(bucket, "dynamic", [b"A" * 1000, b"B" * 700])
    put_bytes(store, bucket, "empty")
    put_bytes(store, bucket, "plain", b"1")
    entries = {str(entry["name"]): entry["bytes"] for entry in raw.listed(bucket)}
    assert entries["static"] != 1500, "this server lists true sizes"
    sizes = {"static": 1500, "dynamic": 1700, "empty": 0, "plain": 1}
    gateway.forget_requests()
    with mounted(store, tmp_path) as fs:
        for _ in range(3):
            found = {name: fs.lstat(f"/{bucket}/{name}").size for name in fs.listdir(f"/{bucket}")}
            assert found == sizes
        heads = [each for each in gateway.requests() if each.method == "HEAD"]
        assert Counter(each.path.rpartition("/")[2] for each in heads) == dict.fromkeys(
            ("static", "dynamic", "empty"), 1
        )
        raw.put_dlo(bucket, "dynamic", [b"A" * 1000, b"B" * 701])
        assert fs.lstat(f"/{bucket}/dynamic").size == 1701


# -- buckets --------------------------------------------------------------------------------------


def test_the_root_is_listed_without_a_look_into_each_bucket(
    store: SwiftStore, raw: Raw, gateway: Gateway, bucket: str, tmp_path: Path
) -> None:
    assert "count" in raw.listed("")[0], "this server tells no figures"
    gateway.forget_requests()
    with mounted(store, tmp_path) as fs:
        assert bucket in fs.listdir("/")
    asked = {each.query for each in gateway.requests() if each.method == "GET"}
    assert all("stats=false" in query for query in asked)
    assert {info.count for info in store.containers()} == {None}


@pytest.mark.semantics("N8")
@pytest.mark.parametrize("name", ["ab", ".hidden", "b" * 256])
def test_a_bucket_name_that_the_server_refuses_is_an_error(
    store: SwiftStore, tmp_path: Path, name: str
) -> None:
    with mounted(store, tmp_path) as fs:
        with refused(errno.EINVAL, errno.ENAMETOOLONG):
            fs.mkdir(f"/{name}")
        assert name not in fs.listdir("/")


@pytest.mark.parametrize("name", ["Upper Case", "ä_ö 😀", "b" * 255, "abc"])
def test_a_bucket_may_have_any_other_name(store: SwiftStore, tmp_path: Path, name: str) -> None:
    with mounted(store, tmp_path) as fs:
        fs.mkdir(f"/{name}")
        write_file(fs, f"/{name}/file", b"content")
        assert name in fs.listdir("/")
        assert read_file(fs, f"/{name}/file") == b"content"
        fs.unlink(f"/{name}/file")
        fs.rmdir(f"/{name}")
        assert name not in fs.listdir("/")


@pytest.mark.semantics("C24")
def test_a_bucket_of_another_project_is_refused_and_left_alone(
    store: SwiftStore, other: Raw, bucket: str, tmp_path: Path
) -> None:
    theirs = f"theirs-{bucket}"
    other.do("PUT", theirs)
    other.do("PUT", f"{theirs}/file", b"secret")
    with mounted(store, tmp_path) as fs:
        assert theirs not in fs.listdir("/")
        with refused(errno.EEXIST):
            fs.vfs.mkdir(f"/{theirs}")
        with refused(errno.ENOENT):
            fs.listdir(f"/{theirs}")
        with refused(errno.ENOENT):
            read_file(fs, f"/{theirs}/file")
        with refused(errno.ENOENT):
            write_file(fs, f"/{theirs}/new", b"1")
    assert other.names(theirs) == ["file"]


@pytest.mark.semantics("N3")
def test_a_bucket_that_is_shared_is_read_by_its_name_and_not_written(
    store: SwiftStore,
    other: Raw,
    gateway: Gateway,
    bucket: str,
    tmp_path: Path,
) -> None:
    shared = f"shared-{bucket}"
    reader = gateway.credentials.project_id
    other.do("PUT", shared, X_Container_Read=f"{reader}:*")
    other.do("PUT", f"{shared}/dir/file", b"content")
    with mounted(store, tmp_path) as fs:
        assert shared not in fs.listdir("/")
        assert fs.listdir(f"/{shared}") == ["dir"]
        assert read_file(fs, f"/{shared}/dir/file") == b"content"
        calls: tuple[Callable[[], object], ...] = (
            lambda: write_file(fs, f"/{shared}/dir/file", b"changed"),
            lambda: write_file(fs, f"/{shared}/new", b"1"),
            lambda: fs.unlink(f"/{shared}/dir/file"),
            lambda: fs.mkdir(f"/{shared}/d"),
            lambda: fs.rename(f"/{shared}/dir/file", f"/{shared}/moved"),
            lambda: fs.chmod(f"/{shared}/dir/file", 0o600),
        )
        for call in calls:
            with refused(errno.EACCES):
                call()
        assert read_file(fs, f"/{shared}/dir/file") == b"content"
    assert other.names(shared) == ["dir/file"]


@pytest.mark.semantics("N3", "N9")
@pytest.mark.parametrize("where", ["own account", "owner's account"])
def test_a_bucket_that_is_shared_is_listed_when_it_is_named_and_refuses_writers_at_open(
    store: SwiftStore, other: Raw, gateway: Gateway, bucket: str, tmp_path: Path, where: str
) -> None:
    shared = f"named-{bucket}"
    other.do("PUT", shared, X_Container_Read=f"{gateway.credentials.project_id}:*")
    other.do("PUT", f"{shared}/file", b"content")
    found = store
    if where == "owner's account":
        environ = {**gateway.token().environ(), "OS_STORAGE_URL": other.url}
        sources = Sources(environ=environ, home=Path("/nonexistent"))
        found = SwiftStore(load(sources), Config(timeout_s=30.0))
    settings = {"extra_buckets": (shared,)} if where == "own account" else {"bucket": shared}
    with mounted(found, tmp_path, **settings) as fs:
        top = ""
        if where == "own account":
            top = f"/{shared}"
            assert shared in fs.listdir("/")
        assert fs.listdir(top) == ["file"]
        assert read_file(fs, f"{top}/file") == b"content"
        for name, flags in (
            ("file", os.O_RDWR),
            ("file", os.O_WRONLY | os.O_TRUNC),
            ("file", os.O_WRONLY | os.O_APPEND),
            ("new", os.O_WRONLY | os.O_CREAT),
        ):
            with refused(errno.EACCES):
                fs.open(f"{top}/{name}", flags)
        assert fs.listdir(top) == ["file"]
    if found is not store:
        found.close()
    assert other.names(shared) == ["file"]


@pytest.mark.semantics("N2", "N10")
def test_buckets_of_segments_and_descriptions_are_shown_when_they_shall_be(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do("PUT", f"{bucket}_segments")
    for key in ("file", "file_ameta"):
        raw.do("PUT", f"{bucket}/{key}", b"content")
    with mounted(store, tmp_path) as fs:
        assert f"{bucket}_segments" not in fs.listdir("/")
        assert sorted(fs.listdir(f"/{bucket}")) == ["file", "file_ameta"]
    with mounted(store, tmp_path, show_segments=True, show_ameta=False) as fs:
        assert f"{bucket}_segments" in fs.listdir("/")
        assert fs.listdir(f"/{bucket}") == ["file"]
        assert read_file(fs, f"/{bucket}/file_ameta") == b"content"
        fs.unlink(f"/{bucket}/file")
        with refused(errno.ENOTEMPTY):
            fs.rmdir(f"/{bucket}")


@pytest.mark.semantics("C17")
@pytest.mark.parametrize("access", ["none", "reading"])
def test_a_bucket_of_segments_that_is_another_project_s_is_efbig_and_the_log_says_so(
    store: SwiftStore,
    raw: Raw,
    other: Raw,
    gateway: Gateway,
    bucket: str,
    tmp_path: Path,
    access: str,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("large was not stored .*large files need this bucket.*kept in")
    other.do("PUT", f"{bucket}_segments")
    if access == "reading":
        reader = f"{gateway.credentials.project_id}:*"
        other.do("POST", f"{bucket}_segments", X_Container_Read=reader)
    with mounted(store, tmp_path, loses=1) as fs:
        with refused(errno.EFBIG):
            write_file(fs, f"/{bucket}/large", bytes(3 * 1024 * 1024))
        write_file(fs, f"/{bucket}/small", b"content")
        assert read_file(fs, f"/{bucket}/small") == b"content"
    assert raw.names(bucket) == ["small"]
    assert other.names(f"{bucket}_segments") == []


@pytest.mark.semantics("C17")
@pytest.mark.parametrize("kind", ["dlo", "slo"])
@pytest.mark.parametrize("has_segments", [False, True])
def test_a_large_file_that_a_bucket_s_owner_could_not_read_is_efbig_and_the_log_says_what_to_do(
    store: SwiftStore,
    other: Raw,
    gateway: Gateway,
    bucket: str,
    tmp_path: Path,
    expected_logs: ExpectedLogs,
    kind: str,
    has_segments: bool,
) -> None:
    shared, writer = f"shared-{bucket}", f"{gateway.credentials.project_id}:*"
    both = other.url.rpartition("AUTH_")[2] + f":*,{writer}"
    names = [shared, f"{shared}_segments"] if has_segments else [shared]
    for name in names:
        other.do("PUT", name, X_Container_Read=both, X_Container_Write=both)
    large = bytes(3 * 1024 * 1024)
    is_readable = kind == "slo" and has_segments
    if not is_readable:
        expected_logs("large was not stored .*mount as that project, or keep the file in one piece")
    with mounted(store, tmp_path, loses=0 if is_readable else 1, large_objects=kind) as fs:
        if is_readable:
            write_file(fs, f"/{shared}/large", large)
            assert other.do("GET", f"{shared}/large").content == large
            fs.unlink(f"/{shared}/large")
        else:
            with refused(errno.EFBIG):
                write_file(fs, f"/{shared}/large", large)
        write_file(fs, f"/{shared}/small", b"content")
    # Nothing was made in the owner's way.
    assert f"{shared}_segments" not in {info.name for info in store.containers()}
    if has_segments:
        assert other.names(f"{shared}_segments") == []
    assert other.names(shared) == ["small"]
    assert other.do("GET", f"{shared}/small").content == b"content"
    with mounted(store, tmp_path, large_objects=kind, segment_threshold=4 * 1024 * 1024) as fs:
        write_file(fs, f"/{shared}/whole", large)
    assert other.do("GET", f"{shared}/whole").content == large


def test_a_bucket_that_is_shared_for_writing_is_written(
    store: SwiftStore, other: Raw, gateway: Gateway, bucket: str, tmp_path: Path
) -> None:
    shared, writer = f"written-{bucket}", f"{gateway.credentials.project_id}:*"
    owner = other.url.rpartition("AUTH_")[2] + ":*"
    both = f"{owner},{writer}"
    for name in (shared, f"{shared}_segments"):
        other.do("PUT", name, X_Container_Read=both, X_Container_Write=both)
    large = b"x" * (3 * 1024 * 1024)
    with mounted(store, tmp_path, large_objects="slo") as fs:
        write_file(fs, f"/{shared}/file", b"content")
        write_file(fs, f"/{shared}/large", large)
        fs.rename(f"/{shared}/file", f"/{shared}/moved")
        assert sorted(fs.listdir(f"/{shared}")) == ["large", "moved"]
        assert read_file(fs, f"/{shared}/large") == large
        assert other.do("GET", f"{shared}/large").content == large
        assert other.do("GET", f"{shared}/moved").content == b"content"
        fs.unlink(f"/{shared}/large")
    assert other.names(shared) == ["moved"]
    assert other.names(f"{shared}_segments") == []


@pytest.mark.semantics("N9")
@pytest.mark.parametrize("exact", [False, True])
def test_an_object_that_its_writer_did_not_share_is_listed_and_refused_to_the_bucket_s_owner(
    store: SwiftStore,
    raw: Raw,
    other: Raw,
    bucket: str,
    tmp_path: Path,
    exact: bool,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("was not stored .*kept in")
    writer = other.url.rpartition("AUTH_")[2]
    raw.do("POST", bucket, X_Container_Write=f"{writer}:*")
    raw.do("PUT", f"{bucket}/own", b"own")
    for key, data in (("given", b"secret"), ("empty", b""), ("text", b"secret")):
        other.do("PUT", f"{bucket}/{key}", data)
    assert raw.send("HEAD", f"{bucket}/given").status_code == 403
    names = ["empty", "given", "own", "text"]
    with mounted(store, tmp_path, loses=2, exact_attributes=exact) as fs:
        assert sorted(fs.listdir(f"/{bucket}")) == names
        assert fs.lstat(f"/{bucket}/given").size == len(b"secret")
        assert fs.lstat(f"/{bucket}/empty").size == 1
        calls: tuple[Callable[[str], object], ...] = (
            lambda path: read_file(fs, path),
            lambda path: fs.chmod(path, 0o600),
            lambda path: fs.rename(path, f"/{bucket}/renamed"),
            lambda path: append(fs, path),
        )
        for name in ("given", "empty"):
            for call in calls:
                with refused(errno.EACCES):
                    call(f"/{bucket}/{name}")
        assert other.do("GET", f"{bucket}/given").content == b"secret"
        assert sorted(fs.listdir(f"/{bucket}")) == names
        assert read_file(fs, f"/{bucket}/own") == b"own"
        for name in ("given", "empty"):
            fs.unlink(f"/{bucket}/{name}")
        assert sorted(fs.listdir(f"/{bucket}")) == ["own", "text"]
    assert raw.names(bucket) == ["own", "text"]


def append(fs: VfsFs, path: str) -> None:
    """Add to a file without reading it."""
    fd = fs.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        fs.pwrite(fd, b"more", 0)
    finally:
        fs.close(fd)
