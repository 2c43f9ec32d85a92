"""A Ceph RADOS Gateway as a service: idle connections, limits, quotas, and who may come in."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from allasfs.config import MIB, Config
from allasfs.deadline import within
from allasfs.demo import Cloud
from allasfs.errors import FsError, Unavailable
from allasfs.store.auth import load
from allasfs.store.forms import Sources
from allasfs.store.swift import SwiftStore
from tests.behaviour.filesystem import read_file, write_file
from tests.ceph.gateway import Gateway
from tests.conftest import ExpectedLogs
from tests.fakes.memstore import get_bytes, put_bytes
from tests.fakes.swift import swift_store
from tests.mount.support import refused, wait_until
from tests.rgw.support import Raw, mounted
from tests.swift.test_auth import revoke

pytestmark = pytest.mark.rgw

# In place of RGW's 65 s.
IDLE_S = 0.5


# -- connections that the server closes -----------------------------------------------------------


@pytest.fixture(scope="module")
def hasty(gateway: Gateway) -> Iterator[str]:
    """The storage URL at another gateway of the same cluster, which waits for nobody."""
    with gateway.another(request_timeout_ms=round(1000 * IDLE_S)) as url:
        yield f"{url}/v1/AUTH_{gateway.credentials.project_id}"


@pytest.fixture
def hasty_store(hasty: str, gateway: Gateway) -> Iterator[SwiftStore]:
    """The account at that gateway."""
    environ = {**gateway.token().environ(), "OS_STORAGE_URL": hasty}
    sources = Sources(environ=environ, home=Path("/nonexistent"))
    store = SwiftStore(load(sources), Config(timeout_s=30.0, connections=4))
    yield store
    store.close()


def test_the_server_closes_a_connection_on_which_nothing_moves(hasty: str) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(hasty).port or 0), timeout=30) as idle:
        idle.sendall(b"GET /swift/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        answer = b""
        while piece := idle.recv(65536):
            answer += piece
    assert b"Keep-Alive" in answer


def test_a_connection_that_the_server_closed_is_no_error(
    hasty_store: SwiftStore, bucket: str
) -> None:
    for number in range(2):
        put_bytes(hasty_store, bucket, "file", b"%d" % number)
        time.sleep(2 * IDLE_S)
        assert get_bytes(hasty_store, bucket, "file") == b"%d" % number
        time.sleep(2 * IDLE_S)
    hasty_store.delete(bucket, "file")


@pytest.mark.parametrize("threshold", [64 * MIB, 2 * MIB], ids=["one PUT", "segments"])
def test_slow_writers_and_readers_lose_nothing(
    hasty_store: SwiftStore, bucket: str, tmp_path: Path, threshold: int
) -> None:
    path = f"/{bucket}/file"
    pieces = [bytes([65 + number]) * MIB for number in range(3)]
    with mounted(hasty_store, tmp_path, segment_threshold=threshold, memory=MIB) as fs:
        fd = fs.open(path, os.O_WRONLY | os.O_CREAT)
        for number, piece in enumerate(pieces):
            fs.pwrite(fd, piece, number * MIB)
            time.sleep(2 * IDLE_S)
        fs.close(fd)
        fd = fs.open(path, os.O_RDONLY)
        for number, piece in enumerate(pieces):
            assert fs.pread(fd, 100, number * MIB) == piece[:100]
            time.sleep(2 * IDLE_S)
        fs.close(fd)
        assert read_file(fs, path) == b"".join(pieces)


# -- metadata -------------------------------------------------------------------------------------


def test_a_post_keeps_what_the_object_is_sent_with(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do(
        "PUT",
        f"{bucket}/file",
        b"content",
        Content_Type="text/x-test",
        Content_Disposition="attachment",
        X_Object_Meta_Color="blue",
        X_Delete_At="4000000000",
    )
    with mounted(store, tmp_path) as fs:
        fs.chmod(f"/{bucket}/file", 0o640)
        assert raw.do("HEAD", f"{bucket}/file").headers["X-Delete-At"] == "4000000000"
        fs.rename(f"/{bucket}/file", f"/{bucket}/renamed")
    found = raw.do("HEAD", f"{bucket}/renamed").headers
    assert found["Content-Type"].startswith("text/x-test")
    assert found["Content-Disposition"] == "attachment"
    assert (found["X-Object-Meta-Color"], found["X-Object-Meta-Mode"]) == ("blue", "640")


def test_extended_attributes_are_refused_or_kept_whole(
    store: SwiftStore, bucket: str, tmp_path: Path
) -> None:
    limits = store.capabilities()
    longest = "user." + "n" * limits.max_meta_name_bytes
    kept = {
        longest: b"1",
        "user.under_score": b"2",
        "user.value": b"v" * limits.max_meta_value_bytes,
        "user.tab": b"a\tb",
        "user.bytes": b"\xff\x00",
        "user.\xe4": "ä".encode(),
    }
    with mounted(store, tmp_path) as fs:
        for name in ("file", "dir"):
            path = f"/{bucket}/{name}"
            if name == "file":
                write_file(fs, path, b"content")
            else:
                fs.mkdir(path)
            for attribute, value in kept.items():
                fs.vfs.setxattr(path, attribute, value)
            with refused(errno.ERANGE):
                fs.vfs.setxattr(path, longest + "n", b"1")
            with refused(errno.E2BIG):
                fs.vfs.setxattr(path, "user.large", b"v" * (limits.max_meta_value_bytes + 1))
            with mounted(store, tmp_path) as later:
                found = {each: later.vfs.getxattr(path, each) for each in later.vfs.listxattr(path)}
            assert found == kept


# -- quotas ---------------------------------------------------------------------------------------


@pytest.fixture
def bounded(gateway: Gateway, bucket: str) -> Iterator[tuple[SwiftStore, str]]:
    """The account of a project that no other test uses, and its project."""
    user = gateway.add_user(f"bounded-{bucket}", f"project-{bucket}")
    sources = Sources(environ=user.environ(), home=Path("/nonexistent"))
    store = SwiftStore(load(sources), Config(timeout_s=30.0))
    store.create_container(f"bounded-{bucket}")
    yield store, user.project_id
    store.close()


@pytest.mark.semantics("C19", "C32")
@pytest.mark.parametrize("limit", ["bytes", "objects"])
def test_a_full_account_is_edquot_and_the_log_tells_the_limit(
    gateway: Gateway,
    bounded: tuple[SwiftStore, str],
    bucket: str,
    tmp_path: Path,
    limit: str,
    expected_logs: ExpectedLogs,
) -> None:
    store, project_id = bounded
    bucket = f"bounded-{bucket}"
    expected_logs(r"new \d+ was not stored .* 413 .*the account has \d+ of 8192 bytes")
    expected_logs(r"the account has \d+ of 2 objects.*kept in")
    put_bytes(store, bucket, "file", b"before")
    gateway.set_quota(project_id, size=8192, objects=2)
    with mounted(store, tmp_path, loses=1) as fs:
        assert fs.vfs.statfs().free_bytes is not None
        with refused(errno.EDQUOT):
            # The server counts a little later.
            for number in range(100):
                size = 20_000 if limit == "bytes" else 1
                write_file(fs, f"/{bucket}/new {number}", bytes(size))
        assert read_file(fs, f"/{bucket}/file") == b"before"
        fs.unlink(f"/{bucket}/file")


@pytest.mark.semantics("C19")
@pytest.mark.parametrize("header", ["X_Container_Meta_Quota_Bytes", "X_Container_Meta_Quota_Count"])
def test_a_limit_that_the_server_does_not_tell_is_edquot_with_what_the_bucket_has(
    store: SwiftStore,
    raw: Raw,
    bucket: str,
    tmp_path: Path,
    header: str,
    expected_logs: ExpectedLogs,
) -> None:
    expected_logs("new was not stored .* 413 .*the bucket has 1 objects of 6 bytes, and the server")
    raw.do("PUT", f"{bucket}/file", b"before")
    raw.do("POST", bucket, b"", "", **{header: "1"})
    told = raw.do("HEAD", bucket).headers
    assert not [name for name in told if "quota" in name.lower()], "this server tells it"
    with mounted(store, tmp_path, loses=1) as fs, refused(errno.EDQUOT):
        write_file(fs, f"/{bucket}/new", b"content")
    assert raw.names(bucket) == ["file"]


@pytest.mark.semantics("C19")
def test_a_full_bucket_is_edquot_and_keeps_what_it_has(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("file was not stored .* 413 .*kept in")
    raw.do("PUT", f"{bucket}/file", b"before")
    raw.do("POST", bucket, X_Container_Meta_Quota_Bytes="1000")
    with mounted(store, tmp_path, loses=1) as fs:
        with refused(errno.EDQUOT):
            write_file(fs, f"/{bucket}/file", bytes(2000))
        assert raw.do("GET", f"{bucket}/file").content == b"before"


def test_a_quota_on_segments_is_edquot_and_leaves_none(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("file was not stored .* 413 .*kept in")
    raw.do("PUT", f"{bucket}_segments")
    raw.do("POST", f"{bucket}_segments", X_Container_Meta_Quota_Bytes="1000")
    with mounted(store, tmp_path, loses=1) as fs, refused(errno.EDQUOT):
        write_file(fs, f"/{bucket}/file", bytes(4 * MIB))
    assert raw.names(bucket) == []
    assert raw.names(f"{bucket}_segments") == []


# -- what is listed and not there -----------------------------------------------------------------


def test_an_expired_object_is_an_error_though_it_is_listed(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do("PUT", f"{bucket}/fleeting", b"content", X_Delete_After="1")
    raw.do("PUT", f"{bucket}/lasting", b"content")
    wait_until(lambda: raw.send("HEAD", f"{bucket}/fleeting").status_code == 404, "it has expired")
    with mounted(store, tmp_path) as fs:
        assert "lasting" in fs.listdir(f"/{bucket}")
        with refused(errno.ENOENT, errno.ESTALE):
            read_file(fs, f"/{bucket}/fleeting")
        assert read_file(fs, f"/{bucket}/lasting") == b"content"


# -- writers at the same time ---------------------------------------------------------------------


@pytest.mark.semantics("C9")
def test_o_excl_is_by_what_this_mount_knows_and_the_last_writer_wins(
    store: SwiftStore, raw: Raw, bucket: str, tmp_path: Path
) -> None:
    raw.do("PUT", f"{bucket}/first", b"theirs")
    refused_put = raw.send("PUT", f"{bucket}/first", b"ours", If_None_Match="*")
    assert refused_put.status_code == 201, "this server has conditional writes"
    with mounted(store, tmp_path, ttl_s=3600.0) as fs:
        assert fs.listdir(f"/{bucket}") == ["first"]
        with refused(errno.EEXIST):
            fs.open(f"/{bucket}/first", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        fd = fs.open(f"/{bucket}/second", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        raw.do("PUT", f"{bucket}/second", b"theirs")
        fs.pwrite(fd, b"ours", 0)
        fs.close(fd)
        assert read_file(fs, f"/{bucket}/second") == b"ours"
    assert raw.do("GET", f"{bucket}/second").content == b"ours"


# -- who may come in ------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["password", "application credential", "token"])
def test_every_form_of_credentials_opens_the_account(
    gateway: Gateway, demo_cloud: Cloud, bucket: str, form: str
) -> None:
    environ = {
        "password": gateway.environ,
        "application credential": {
            **demo_cloud.application_credential(f"for {bucket}").environ(),
            "OS_REGION_NAME": gateway.credentials.region,
        },
        "token": gateway.token().environ(),
    }[form]
    sources = Sources(environ=environ, home=Path("/nonexistent"))
    store = SwiftStore(load(sources), Config(timeout_s=30.0))
    put_bytes(store, bucket, "file", b"content")
    assert get_bytes(store, bucket, "file") == b"content"
    store.close()


def test_a_refused_token_is_renewed(gateway: Gateway, demo_cloud: Cloud) -> None:
    with swift_store(gateway) as store:
        # Before the server has seen it: it remembers what Keystone said of a token.
        revoke(store._auth.endpoint().token, demo_cloud)
        gateway.forget_requests()
        store.account()
        assert [each.status for each in gateway.requests()] == [401, 204]


@pytest.fixture
def without_keystone(gateway: Gateway, demo_cloud: Cloud) -> Iterator[Cloud]:
    """A gateway that knows no token, and cannot ask: it answers 401 to every one."""
    demo_cloud.kill_keystone()
    gateway.stop_swift()
    gateway.start_swift()
    yield demo_cloud
    if "keystone" not in demo_cloud._services:
        demo_cloud.start_keystone()


def test_a_server_that_cannot_ask_about_tokens_is_unavailable_and_not_a_refusal(
    gateway: Gateway, bucket: str, request: pytest.FixtureRequest
) -> None:
    with swift_store(gateway) as store:
        put_bytes(store, bucket, "file", b"content")
        cloud: Cloud = request.getfixturevalue("without_keystone")
        with within(1.0), pytest.raises(Unavailable):
            get_bytes(store, bucket, "file")
        cloud.start_keystone()
        assert get_bytes(store, bucket, "file") == b"content"


def test_a_token_that_was_refused_meanwhile_serves_again(
    gateway: Gateway, bucket: str, request: pytest.FixtureRequest, expected_logs: ExpectedLogs
) -> None:
    expected_logs("the object store refuses the token")
    sources = Sources(environ=gateway.token().environ(), home=Path("/nonexistent"))
    store = SwiftStore(load(sources), Config(timeout_s=30.0))
    put_bytes(store, bucket, "file", b"content")
    cloud: Cloud = request.getfixturevalue("without_keystone")
    with within(1.0), pytest.raises(FsError):
        get_bytes(store, bucket, "file")
    cloud.start_keystone()
    assert get_bytes(store, bucket, "file") == b"content"
    store.close()
