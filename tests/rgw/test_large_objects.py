"""Large objects on a Ceph RADOS Gateway: manifests that other clients wrote, whole and broken."""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import os
import random
import re
from base64 import b64encode
from email.utils import formatdate
from pathlib import Path

import pytest
import requests

from allasfs.errors import Stale
from allasfs.store.api import Kind
from allasfs.store.swift import SwiftStore
from allasfs.transfer.notes import KEPT, Note
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.ceph.gateway import Gateway
from tests.conftest import ExpectedLogs
from tests.fakes.memstore import get_bytes
from tests.mount.support import refused
from tests.rgw.support import PART, TIMEOUT_S, Raw, mounted

pytestmark = pytest.mark.rgw

PARTS = [bytes([65 + number]) * PART for number in range(3)]
WHOLE = b"".join(PARTS)
# Seconds without progress after which an operation fails.
SHORT_TIMEOUT_S = 2.0


@pytest.fixture(params=["put_slo", "put_dlo"])
def theirs(request: pytest.FixtureRequest, raw: Raw, bucket: str) -> str:
    """A large object of another client, in both kinds; returns its path in the mount."""
    getattr(raw, request.param)(bucket, "theirs", PARTS)
    return f"/{bucket}/theirs"


def test_the_server_refuses_every_condition_on_a_manifest(
    raw: Raw, store: SwiftStore, theirs: str
) -> None:
    etag = store.head(theirs.split("/")[1], "theirs").info.etag
    assert raw.send("GET", theirs[1:], If_Match=f'"{etag}"', Range="bytes=0-9").status_code == 412


def test_it_is_read_whole_and_in_parts(store: SwiftStore, theirs: str, tmp_path: Path) -> None:
    with mounted(store, tmp_path) as fs:
        assert fs.lstat(theirs).size == len(WHOLE)
        assert read_file(fs, theirs) == WHOLE
        fd = fs.open(theirs, os.O_RDONLY)
        assert fs.pread(fd, 4, PART - 2) == b"AABB"
        assert fs.pread(fd, 10, len(WHOLE) - 1) == b"C"
        assert fs.pread(fd, 10, len(WHOLE)) == b""
        fs.close(fd)


def test_a_reader_of_a_replaced_one_gets_no_mix(
    store: SwiftStore, raw: Raw, theirs: str, tmp_path: Path
) -> None:
    with mounted(store, tmp_path) as fs:
        fd = fs.open(theirs, os.O_RDONLY)
        assert fs.pread(fd, 4, 0) == b"AAAA"
        raw.do("PUT", theirs[1:], b"x" * len(WHOLE))
        with pytest.raises(Stale):
            fs.pread(fd, 4, len(WHOLE) - 4)
        fs.close(fd)


def test_it_is_changed_and_removed_with_its_segments(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.put_dlo(bucket, "theirs", PARTS)
    path = f"/{bucket}/theirs"
    with mounted(store, tmp_path) as fs:
        fd = fs.open(path, os.O_WRONLY | os.O_APPEND)
        fs.pwrite(fd, b"more", 0)
        fs.close(fd)
        assert read_file(fs, path) == WHOLE + b"more"
        assert not [name for name in raw.names(f"{bucket}_segments") if "/dlo/" in name]
        fs.unlink(path)
        assert raw.names(f"{bucket}_segments") == []


def test_removing_a_static_one_removes_the_segments_that_nobody_tells(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.put_slo(bucket, "theirs", PARTS)
    told = raw.do("GET", f"{bucket}/theirs", query="multipart-manifest=get")
    assert told.content == b"", "this server tells the segments"
    with mounted(store, tmp_path) as fs:
        fs.unlink(f"/{bucket}/theirs")
        assert fs.listdir(f"/{bucket}") == []
    assert raw.names(f"{bucket}_segments") == []


def test_renaming_copies_no_bytes_and_keeps_the_segments(
    store: SwiftStore, raw: Raw, gateway: Gateway, theirs: str, tmp_path: Path
) -> None:
    bucket = theirs.split("/")[1]
    before = raw.names(f"{bucket}_segments")
    with mounted(store, tmp_path) as fs:
        fs.mkdir(f"/{bucket}/d")
        fs.rename(theirs, f"/{bucket}/d/renamed")
        fs.rename(f"/{bucket}/d", f"/{bucket}/e")
        assert raw.names(f"{bucket}_segments") == before
        assert fs.lstat(f"/{bucket}/e/renamed").size == len(WHOLE)
        assert read_file(fs, f"/{bucket}/e/renamed") == WHOLE
        gateway.forget_requests()
        fs.unlink(f"/{bucket}/e/renamed")
        assert raw.names(f"{bucket}_segments") == []
        fs.rmdir(f"/{bucket}/e")
    assert raw.names(bucket) == []


def test_a_plain_file_in_its_place_does_not_pass_for_a_large_one(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.put_slo(bucket, "theirs", PARTS, X_Object_Meta_Color="blue")
    with mounted(store, tmp_path) as fs:
        write_file(fs, f"/{bucket}/theirs", b"small")
    head = raw.do("HEAD", f"{bucket}/theirs")
    assert head.headers["X-Object-Meta-Color"] == "blue"
    assert not [name for name in head.headers if "static-large-object" in name.lower()]


# -- static ones, whose segments nobody tells, replaced -------------------------------------------


@pytest.fixture(params=["static", "after a chmod", "copy"])
def untold(request: pytest.FixtureRequest, raw: Raw, bucket: str) -> str:
    """A static large object of another client, in what states there are; returns its path."""
    raw.put_slo(bucket, "theirs", PARTS, X_Object_Meta_Color="blue")
    if request.param == "after a chmod":
        # What tells a client of Swift that it is static is gone then.
        raw.do("POST", f"{bucket}/theirs", X_Object_Meta_Mode="600")
    if request.param == "copy":
        raw.do("COPY", f"{bucket}/theirs", Destination=f"{bucket}/copy")
        raw.do("DELETE", f"{bucket}/theirs")
        return f"/{bucket}/copy"
    return f"/{bucket}/theirs"


def change(fs: VfsFs, path: str, how: str) -> bytes:
    """Replace a file in one of the ways there are; return what it then is."""
    flags = {"cut": os.O_WRONLY, "append": os.O_WRONLY | os.O_APPEND}.get(how, os.O_RDWR)
    if how in ("small", "large"):
        data = b"small" if how == "small" else bytes(3 * PART)
        write_file(fs, path, data)
        return data
    if how == "truncate":
        fs.truncate(path, 0)
        return b""
    fd = fs.open(path, flags)
    if how == "cut":
        fs.ftruncate(fd, PART + 5)
        data = WHOLE[: PART + 5]
    elif how == "append":
        fs.pwrite(fd, b"more", 0)
        data = WHOLE + b"more"
    else:
        fs.pwrite(fd, b"middle", PART + 1)
        data = WHOLE[: PART + 1] + b"middle" + WHOLE[PART + 7 :]
    fs.close(fd)
    return data


HOW = ["small", "large", "truncate", "cut", "append", "middle"]


@pytest.mark.parametrize("how", HOW)
def test_a_static_one_that_is_replaced_leaves_no_segments(
    store: SwiftStore, raw: Raw, untold: str, tmp_path: Path, how: str
) -> None:
    bucket = untold.split("/")[1]
    with mounted(store, tmp_path) as fs:
        data = change(fs, untold, how)
        assert read_file(fs, untold) == data
        left = raw.names(f"{bucket}_segments")
        assert [name for name in left if "/slo/" in name or name.startswith(".")] == []
        fs.unlink(untold)
    assert raw.names(f"{bucket}_segments") == raw.names(bucket) == []
    assert notes(tmp_path) == []


def notes(folder: Path) -> list[str]:
    """Return the names of the notes that mounts left, but of files that are kept."""
    found = [path for path in folder.glob("spool-*/*.upload") if Note.load(path).state != KEPT]
    return [path.name for path in found]


@pytest.mark.parametrize("how", ["small", "large"])
def test_a_static_one_that_could_not_be_replaced_is_whole(
    store: SwiftStore,
    raw: Raw,
    untold: str,
    tmp_path: Path,
    how: str,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("was not stored .* 413 .*kept in")
    _, bucket, name = untold.split("/")
    # A manifest counts for an object, too.
    raw.do("POST", bucket, X_Container_Meta_Quota_Bytes="1", X_Container_Meta_Quota_Count="1")
    raw.do("PUT", f"{bucket}_segments/{name}/keep", b"")
    before = raw.names(f"{bucket}_segments")
    with mounted(store, tmp_path, loses=1) as fs:
        with refused(errno.EDQUOT):
            change(fs, untold, how)
        assert raw.do("GET", f"{bucket}/{name}").content == WHOLE
        assert raw.names(f"{bucket}_segments") == before
    assert notes(tmp_path) == []


@pytest.mark.parametrize("how", ["small", "large", "static"])
def test_a_file_that_takes_the_name_of_a_static_one_leaves_no_segments(
    store: SwiftStore, raw: Raw, untold: str, tmp_path: Path, how: str
) -> None:
    bucket = untold.split("/")[1]
    with mounted(store, tmp_path) as fs:
        data = b"small" if how == "small" else bytes(3 * PART)
        if how == "static":
            raw.put_slo(bucket, "new", [data, b"tail"])
            data += b"tail"
        else:
            write_file(fs, f"/{bucket}/new", data)
        fs.rename(f"/{bucket}/new", untold)
        assert fs.listdir(f"/{bucket}") == [untold.split("/")[2]]
        assert read_file(fs, untold) == data
        left = raw.names(f"{bucket}_segments")
        assert [name for name in left if name.startswith((".", "theirs/slo/"))] == []
        fs.unlink(untold)
    assert raw.names(f"{bucket}_segments") == []


@pytest.mark.semantics("L5")
def test_a_copy_of_a_static_one_takes_the_name_of_the_other_and_keeps_the_segments(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("may be over the same")
    raw.put_slo(bucket, "theirs", PARTS)
    raw.do("COPY", f"{bucket}/theirs", Destination=f"{bucket}/copy")
    with mounted(store, tmp_path) as fs:
        fs.rename(f"/{bucket}/copy", f"/{bucket}/theirs")
        assert read_file(fs, f"/{bucket}/theirs") == WHOLE
        fs.unlink(f"/{bucket}/theirs")
    assert raw.names(f"{bucket}_segments") == raw.names(bucket) == []


def test_segments_of_a_static_one_in_another_bucket_go_too(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do("PUT", f"{bucket}-parts")
    path = f"{bucket}-parts/theirs/0"
    raw.do("PUT", path, PARTS[0])
    manifest = json.dumps([{"path": f"/{path}", "size_bytes": PART}]).encode()
    raw.do("PUT", f"{bucket}/theirs", manifest, "multipart-manifest=put")
    with mounted(store, tmp_path) as fs:
        write_file(fs, f"/{bucket}/theirs", b"small")
    assert raw.do("GET", f"{bucket}/theirs").content == b"small"
    assert raw.names(f"{bucket}-parts") == raw.names(f"{bucket}_segments") == []


@pytest.mark.semantics("L5")
def test_a_static_one_is_replaced_though_nothing_may_be_put_beside_its_segments(
    store: SwiftStore,
    raw: Raw,
    other: Raw,
    bucket: str,
    tmp_path: Path,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("the segments of .*/theirs will be left over")
    other.do("PUT", f"{bucket}_segments")
    raw.do("PUT", f"{bucket}-parts")
    raw.do("PUT", f"{bucket}-parts/0", PARTS[0])
    manifest = json.dumps([{"path": f"/{bucket}-parts/0", "size_bytes": PART}]).encode()
    raw.do("PUT", f"{bucket}/theirs", manifest, "multipart-manifest=put")
    with mounted(store, tmp_path) as fs:
        write_file(fs, f"/{bucket}/theirs", b"small")
    assert raw.do("GET", f"{bucket}/theirs").content == b"small"
    assert raw.names(f"{bucket}-parts") == ["0"]
    assert other.names(f"{bucket}_segments") == []


def test_times_and_modes_are_changed_and_all_else_is_kept(
    store: SwiftStore, theirs: str, tmp_path: Path
) -> None:
    with mounted(store, tmp_path) as fs:
        fs.chmod(theirs, 0o600)
        fs.utime(theirs, 1_500_000_000_123_456_789)
        found = fs.lstat(theirs)
        assert (found.mode & 0o777, found.mtime_ns) == (0o600, 1_500_000_000_123_456_789)
        assert read_file(fs, theirs) == WHOLE


# -- broken ones ----------------------------------------------------------------------------------


def read_until_error(fs: VfsFs, path: str) -> bytes:
    """Return what comes before the error, which must be one of a failed store."""
    fd = fs.open(path, os.O_RDONLY)
    pieces: list[bytes] = []
    try:
        with refused(errno.EIO, errno.ETIMEDOUT):
            while True:
                piece = fs.pread(fd, 64 * 1024, sum(map(len, pieces)))
                assert piece, "the file ends as if it were complete"
                pieces.append(piece)
    finally:
        fs.close(fd)
    return b"".join(pieces)


def test_a_missing_segment_is_an_error_though_the_server_falls_silent(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.put_slo(bucket, "broken", PARTS)
    raw.do("DELETE", f"{bucket}_segments/broken/slo/00000001")
    with mounted(store, tmp_path, timeout_s=SHORT_TIMEOUT_S) as fs:
        assert fs.lstat(f"/{bucket}/broken").size == len(WHOLE)
        found = read_until_error(fs, f"/{bucket}/broken")
        assert found == WHOLE[: len(found)]
        assert len(found) <= PART
        fs.unlink(f"/{bucket}/broken")
        assert fs.listdir(f"/{bucket}") == []
    assert raw.names(f"{bucket}_segments") == []


@pytest.mark.parametrize("kind", ["static", "dynamic"])
def test_one_that_the_server_denies_to_have_is_no_empty_file_and_can_be_removed(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path, kind: str
) -> None:
    if kind == "static":
        raw.put_slo(bucket, "broken", PARTS)
        raw.do("DELETE", f"{bucket}_segments/broken/slo/00000000")
    else:
        raw.put_dlo(bucket, "broken", [])
        raw.do("DELETE", f"{bucket}_segments")
    assert raw.send("HEAD", f"{bucket}/broken").status_code == 404
    with mounted(store, tmp_path, timeout_s=SHORT_TIMEOUT_S) as fs:
        assert fs.listdir(f"/{bucket}") == ["broken"]
        assert fs.lstat(f"/{bucket}/broken").size > 0
        assert read_until_error(fs, f"/{bucket}/broken") == b""
        fs.unlink(f"/{bucket}/broken")
        assert fs.listdir(f"/{bucket}") == []
    assert raw.names(bucket) == []


def test_a_dynamic_one_without_segments_is_empty(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.put_dlo(bucket, "hollow", [])
    with mounted(store, tmp_path) as fs:
        assert fs.lstat(f"/{bucket}/hollow").size == 0
        assert read_file(fs, f"/{bucket}/hollow") == b""
        fs.unlink(f"/{bucket}/hollow")
        assert fs.listdir(f"/{bucket}") == []


# -- objects that S3 made of parts ----------------------------------------------------------------


class S3:
    """As much of an S3 client as an upload in parts takes (signature version 2)."""

    def __init__(self, gateway: Gateway) -> None:
        self._url = gateway.s3_url
        self._keys = gateway.key_pair()

    def send(self, method: str, path: str, data: bytes = b"") -> requests.Response:
        date = formatdate(usegmt=True)
        text = f"{method}\n\n\n{date}\n/{path}".encode()
        digest = hmac.new(self._keys.secret_key.encode(), text, hashlib.sha1).digest()
        signature = f"AWS {self._keys.access_key}:{b64encode(digest).decode()}"
        reply = requests.request(
            method,
            f"{self._url}/{path}",
            data=data,
            headers={"Date": date, "Authorization": signature},
            timeout=TIMEOUT_S,
        )
        reply.raise_for_status()
        return reply

    def upload(self, bucket: str, key: str, parts: list[bytes]) -> None:
        """Make an object of parts; all but the last have 5 MiB at least."""
        begun = self.send("POST", f"{bucket}/{key}?uploads").text
        (upload,) = re.findall("<UploadId>(.*)</UploadId>", begun)
        listed = ""
        for number, part in enumerate(parts, 1):
            path = f"{bucket}/{key}?partNumber={number}&uploadId={upload}"
            etag = self.send("PUT", path, part).headers["etag"]
            listed += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        self.send("POST", f"{bucket}/{key}?uploadId={upload}", body.encode())


def test_an_object_that_s3_made_of_parts_is_a_file_like_any_other(
    store: SwiftStore, gateway: Gateway, bucket: str, tmp_path: Path
) -> None:
    data = random.Random(1).randbytes(6 * PART)
    S3(gateway).upload(bucket, "parts", [data[: 5 * PART], data[5 * PART :]])
    info = store.head(bucket, "parts").info
    assert (info.kind, info.size) == (Kind.PLAIN, len(data))
    assert info.etag.endswith("-2"), "this is no object of parts"
    assert get_bytes(store, bucket, "parts", span=(5, 9), etag=info.etag) == data[5:9]
    path = f"/{bucket}/parts"
    with mounted(store, tmp_path) as fs:
        assert fs.lstat(path).size == len(data)
        # Its ETag is no MD5, and is not taken for one.
        assert read_file(fs, path) == data
        fs.rename(path, f"{path}-renamed")
        fd = fs.open(f"{path}-renamed", os.O_WRONLY | os.O_APPEND)
        fs.pwrite(fd, b"more", 0)
        fs.close(fd)
        assert read_file(fs, f"{path}-renamed") == data + b"more"
        fs.unlink(f"{path}-renamed")
        assert fs.listdir(f"/{bucket}") == []


@pytest.mark.parametrize("threshold", [2 * PART, 64 * PART], ids=["segments", "one PUT"])
@pytest.mark.parametrize("how", ["append", "middle", "cut", "grow", "truncate", "small", "rename"])
def test_an_object_that_s3_made_of_parts_is_changed_and_leaves_nothing(
    store: SwiftStore,
    raw: Raw,
    gateway: Gateway,
    bucket: str,
    tmp_path: Path,
    threshold: int,
    how: str,
) -> None:
    data = random.Random(2).randbytes(11 * PART + 5)
    S3(gateway).upload(
        bucket, "parts", [data[: 5 * PART], data[5 * PART : 10 * PART], data[-PART - 5 :]]
    )
    path, name = f"/{bucket}/parts", "parts"
    with mounted(store, tmp_path, segment_threshold=threshold) as fs:
        if how == "rename":
            name = "renamed"
            fs.rename(path, f"/{bucket}/{name}")
            path = f"/{bucket}/{name}"
        elif how in ("truncate", "small"):
            data = change(fs, path, how)
        else:
            fd = fs.open(path, os.O_RDWR | (os.O_APPEND if how == "append" else 0))
            if how == "append":
                fs.pwrite(fd, b"more", 0)
                data += b"more"
            elif how == "middle":
                # Over the border of two parts.
                fs.pwrite(fd, b"x" * 1000, 5 * PART - 500)
                data = data[: 5 * PART - 500] + b"x" * 1000 + data[5 * PART + 500 :]
            else:
                size = 5 * PART + 5 if how == "cut" else len(data) + PART
                fs.ftruncate(fd, size)
                data = data[:size].ljust(size, b"\0")
            fs.close(fd)
        assert fs.lstat(path).size == len(data)
        assert read_file(fs, path) == data
        assert fs.listdir(f"/{bucket}") == [name]
        assert raw.do("GET", f"{bucket}/{name}").content == data
        fs.unlink(path)
        assert fs.listdir(f"/{bucket}") == []
    assert raw.names(bucket) == []
    if raw.send("HEAD", f"{bucket}_segments").status_code != 404:
        assert raw.names(f"{bucket}_segments") == []
    assert "<Upload>" not in S3(gateway).send("GET", f"{bucket}?uploads").text
