"""SwiftStore on a real OpenStack Swift: what only a real server does, and how often it is asked."""

from __future__ import annotations

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import pytest
import requests

from allasfs.config import MIB, Config
from allasfs.deadline import within
from allasfs.demo import Cloud
from allasfs.errors import AccessDenied, NotFound, QuotaExceeded, Stale, TimedOut, Unavailable
from allasfs.fs.vfs import Vfs
from allasfs.store import large
from allasfs.store import swift as swift_module
from allasfs.store.api import PIECE_BYTES, Kind, Segment
from allasfs.store.auth import load
from allasfs.store.forms import Sources
from allasfs.store.swift import SwiftStore
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.fakes.memstore import Bytes, get_bytes, md5_of, put_bytes
from tests.fakes.swift import swift_store

pytestmark = pytest.mark.swift

CONNECTIONS = 4
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def lasting(cloud: Cloud) -> Iterator[SwiftStore]:
    with swift_store(cloud, Config(timeout_s=30.0, connections=CONNECTIONS)) as store:
        yield store


@pytest.fixture
def store(lasting: SwiftStore, cloud: Cloud) -> SwiftStore:
    lasting.capabilities()
    cloud.forget_requests()
    return lasting


@pytest.fixture
def bucket(lasting: SwiftStore) -> str:
    name = f"swift-{next(_numbers)}"
    lasting.create_container(name)
    return name


def change(cloud: Cloud, method: str, path: str, **headers: str) -> None:
    """Send a request as another program of the same user would."""
    token = cloud.token()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    reply = requests.request(
        method,
        f"{token.storage_url}/{quote(path)}",
        headers={"X-Auth-Token": token.id, **named},
        timeout=30,
    )
    reply.raise_for_status()


# -- what is asked --------------------------------------------------------------------------------


def test_each_call_is_one_request_on_one_connection(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    cloud.forget_requests()
    info = put_bytes(store, bucket, "a", bytes(3 * PIECE_BYTES))
    get_bytes(store, bucket, "a")
    get_bytes(store, bucket, "a", span=(5, PIECE_BYTES + 9), etag=info.etag)
    put_bytes(store, bucket, "empty")
    get_bytes(store, bucket, "empty")
    head = store.head(bucket, "a")
    store.post(bucket, head, {"a": "b"})
    store.copy(bucket, info, (bucket, "b"))
    with pytest.raises(NotFound):
        store.head(bucket, "missing")
    list(store.listing(bucket))
    store.head_container(bucket)
    store.account()
    store.containers()
    store.delete(bucket, "b")
    store.delete_many(bucket, ["a", "empty", "missing"])
    found = cloud.requests()
    assert [request.method for request in found] == (
        [
            "PUT",
            "GET",
            "GET",
            "PUT",
            "GET",
            "HEAD",
            "POST",
            "COPY",
            "HEAD",
            "GET",
            "HEAD",
            "HEAD",
            "GET",
            "DELETE",
            "POST",
        ]
    )
    assert len({request.client_port for request in found}) == 1


def test_no_more_connections_than_allowed_are_used(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    data = random.Random(1).randbytes(2 * PIECE_BYTES)
    put_bytes(store, bucket, "a", data)
    cloud.forget_requests()
    barrier = threading.Barrier(16)

    def work(number: int) -> None:
        barrier.wait()
        for round_ in range(4):
            start = (number * 10_000 + round_) % len(data)
            span = (start, start + 5000)
            assert get_bytes(store, bucket, "a", span=span) == data[slice(*span)]
            put_bytes(store, bucket, f"{number}", b"%d" % round_)

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(work, range(16)))
    found = cloud.requests()
    assert Counter(request.method for request in found) == {"GET": 64, "PUT": 64}
    assert len({request.client_port for request in found}) <= CONNECTIONS
    assert {request.status for request in found} <= {200, 201, 206}


def test_a_range_brings_its_bytes_only(store: SwiftStore, cloud: Cloud, bucket: str) -> None:
    put_bytes(store, bucket, "a", bytes(4 * MIB))
    cloud.forget_requests()
    get_bytes(store, bucket, "a", span=(MIB, MIB + 4096))
    (request,) = cloud.requests()
    assert (request.range, request.sent_bytes) == (f"bytes={MIB}-{MIB + 4095}", 4096)


def test_bulk_deletes_are_cut_into_requests_that_every_server_takes(
    store: SwiftStore, cloud: Cloud, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(swift_module, "BULK_DELETE_NAMES", 3)
    keys = [f"ä {number}?" for number in range(8)]
    for key in keys:
        put_bytes(store, bucket, key, b"1")
    cloud.forget_requests()
    store.delete_many(bucket, keys)
    assert [request.method for request in cloud.requests()] == ["POST"] * 3
    assert list(store.listing(bucket)) == []


# -- what the server refuses ----------------------------------------------------------------------


def test_another_project_s_bucket_is_access_denied(cloud: Cloud, bucket: str) -> None:
    stranger = cloud.add_user("stranger", "project_2009999")
    token = cloud.token(stranger)
    sources = Sources(
        environ={"OS_AUTH_TOKEN": token.id, "OS_STORAGE_URL": cloud.storage_url},
        home=Path("/nonexistent"),
    )
    store = SwiftStore(load(sources), Config(timeout_s=30.0))
    for call in (
        lambda: store.head_container(bucket),
        lambda: list(store.listing(bucket)),
        lambda: store.head(bucket, "a"),
        lambda: put_bytes(store, bucket, "a", b"1"),
        lambda: store.create_container("theirs"),
    ):
        with pytest.raises(AccessDenied):
            call()
    store.close()


def test_a_full_bucket_is_quota_exceeded_and_keeps_what_it_has(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    put_bytes(store, bucket, "a", b"before")
    change(cloud, "POST", bucket, X_Container_Meta_Quota_Bytes="1000")
    with pytest.raises(QuotaExceeded):
        put_bytes(store, bucket, "a", bytes(2000))
    assert get_bytes(store, bucket, "a") == b"before"


def test_a_body_that_is_shorter_than_its_announced_length_stores_nothing(
    store: SwiftStore, bucket: str
) -> None:
    class Short(Bytes):
        @property
        def size(self) -> int:
            return 1000

    with within(0.5), pytest.raises(Unavailable):
        store.put(bucket, "a", Short(b"short"), md5=md5_of(b"short"), content_type="a/b")
    with pytest.raises(NotFound):
        store.head(bucket, "a")


def test_metadata_names_beyond_ascii_of_another_client_harm_nothing(
    store: SwiftStore, bucket: str, expected_logs: Callable[[str], None]
) -> None:
    expected_logs("Failed to parse headers")
    put_bytes(store, bucket, "a", b"content", metadata={"ünï": "ä", "plain": "b"})
    head = store.head(bucket, "a")
    assert (head.info.size, head.info.etag) == (7, md5_of(b"content"))
    assert head.metadata == {"ünï": "ä", "plain": "b"}
    for span in (None, (1, 4)):
        assert get_bytes(store, bucket, "a", span=span) == b"content"[slice(*span or (0, 7))]
    store.post(bucket, head, {**head.metadata, "mtime": "1.5"})
    assert store.head(bucket, "a").metadata == {"ünï": "ä", "plain": "b", "mtime": "1.5"}
    copied = store.copy(bucket, head.info, (bucket, "b"))
    assert copied.etag == md5_of(b"content")


# -- large objects --------------------------------------------------------------------------------


def slo(store: SwiftStore, bucket: str, count: int) -> list[Segment]:
    store.create_container(bucket + "_segments")
    parts = []
    for number in range(count):
        data = bytes([number]) * MIB
        info = put_bytes(store, bucket + "_segments", f"a/1/{number:08d}", data)
        parts.append(Segment(bucket + "_segments", info.key, info.size, info.etag))
    store.put_slo(bucket, "a", parts, content_type="a/b")
    return parts


@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_segment_is_an_error_and_never_a_short_or_wrong_body(
    store: SwiftStore, bucket: str, number: int
) -> None:
    parts = slo(store, bucket, 2)
    store.delete(parts[number].container, parts[number].key)
    with pytest.raises(Unavailable):
        get_bytes(store, bucket, "a")


def test_a_changed_segment_is_an_error(store: SwiftStore, bucket: str) -> None:
    parts = slo(store, bucket, 2)
    put_bytes(store, parts[1].container, parts[1].key, b"x" * MIB)
    with pytest.raises(Unavailable):
        get_bytes(store, bucket, "a")


def test_a_pinned_large_object_is_stale_once_it_is_replaced(store: SwiftStore, bucket: str) -> None:
    slo(store, bucket, 2)
    etag = store.head(bucket, "a").info.etag
    assert get_bytes(store, bucket, "a", span=(0, 1), etag=etag) == b"\0"
    put_bytes(store, bucket, "a", b"1")
    with pytest.raises(Stale):
        get_bytes(store, bucket, "a", span=(0, 1), etag=etag)


def test_a_large_object_that_is_plain_now_has_no_segments_and_is_not_fetched(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    slo(store, bucket, 2)
    old = store.head(bucket, "a").info
    assert old.kind is Kind.SLO
    put_bytes(store, bucket, "a", bytes(4 * MIB))
    cloud.forget_requests()
    assert large.segments_of(store, bucket, old) == []
    assert len(cloud.requests()) == 1


# -- outages --------------------------------------------------------------------------------------


def test_a_server_that_comes_back_is_used_again(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    put_bytes(store, bucket, "a", b"content")
    cloud.kill_swift()
    try:
        with within(0.3), pytest.raises(Unavailable):
            get_bytes(store, bucket, "a")
    finally:
        cloud.start_swift()
    assert get_bytes(store, bucket, "a") == b"content"


def test_an_operation_outlives_a_restart_of_the_server(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    data = random.Random(2).randbytes(MIB)
    cloud.kill_swift()
    with ThreadPoolExecutor(1) as threads:
        job = threads.submit(put_bytes, store, bucket, "a", data)
        cloud.start_swift()
        job.result(timeout=60)
    assert get_bytes(store, bucket, "a") == data


def test_a_server_that_says_nothing_ends_in_timed_out(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    put_bytes(store, bucket, "a", b"content")
    cloud.pause_swift()
    try:
        for call in (
            lambda: store.head(bucket, "a"),
            lambda: get_bytes(store, bucket, "a"),
            lambda: put_bytes(store, bucket, "a", b"new"),
            lambda: list(store.listing(bucket)),
        ):
            with within(0.3), pytest.raises(TimedOut):
                call()
    finally:
        cloud.resume_swift()
    assert get_bytes(store, bucket, "a") in (b"content", b"new")


def test_a_body_that_stops_midway_ends_in_an_error_within_the_deadline(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    put_bytes(store, bucket, "a", bytes(64 * MIB))

    def read() -> None:
        with within(0.5), store.get(bucket, "a") as body:
            next(iter(body))
            cloud.pause_swift()
            for _ in body:
                pass

    try:
        with pytest.raises(Unavailable):
            read()
    finally:
        cloud.resume_swift()


# -- a file system on it --------------------------------------------------------------------------


def test_files_cost_as_few_requests_as_on_the_store_in_memory(
    store: SwiftStore, cloud: Cloud, bucket: str, tmp_path: Path
) -> None:
    for number in range(50):
        put_bytes(store, bucket, f"d{number % 7}/{number}", b"%d" % number)
    config = Config(spool_dir=tmp_path / "spool", connections=CONNECTIONS)
    vfs = Vfs(store, config)
    vfs.start()
    fs = VfsFs(vfs)
    cloud.forget_requests()
    for name in fs.listdir(f"/{bucket}"):
        for below in fs.listdir(f"/{bucket}/{name}"):
            assert fs.lstat(f"/{bucket}/{name}/{below}").size == len(below)
    assert [request.method for request in cloud.requests()] == ["GET", "GET"]
    cloud.forget_requests()
    assert read_file(fs, f"/{bucket}/d3/10") == b"10"
    assert [request.method for request in cloud.requests()] == ["GET"]
    cloud.forget_requests()
    write_file(fs, f"/{bucket}/d3/new", b"content")
    assert read_file(fs, f"/{bucket}/d3/new") == b"content"
    assert [request.method for request in cloud.requests()] == ["PUT", "GET"]
    assert vfs.close() == []


# -- metadata -------------------------------------------------------------------------------------


def test_metadata_that_is_no_utf8_is_kept_as_it_is(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    token = cloud.token()
    url = f"{token.storage_url}/{bucket}/key"
    headers: dict[str, str | bytes] = {
        "x-auth-token": token.id,
        "x-object-meta-latin": b"caf\xe9",
    }
    requests.put(url, data=b"data", headers=headers, timeout=30).raise_for_status()
    head = store.head(bucket, "key")
    assert head.metadata == {"latin": "caf\udce9"}
    assert get_bytes(store, bucket, "key") == b"data"
    store.post(bucket, head, {**head.metadata, "more": "1"})
    answer = requests.head(url, headers={"x-auth-token": token.id}, timeout=30)
    assert answer.headers["x-object-meta-latin"].encode("latin-1") == b"caf\xe9"


def test_the_address_of_an_object_is_where_other_programs_find_it(
    store: SwiftStore, cloud: Cloud, bucket: str
) -> None:
    put_bytes(store, bucket, "dir/ä b?%", b"data")
    headers = {"x-auth-token": cloud.token().id}
    assert requests.get(store.url(bucket, "dir/ä b?%"), headers=headers, timeout=30).content == (
        b"data"
    )
    assert store.url("") == cloud.storage_url
    assert store.url(bucket) == f"{cloud.storage_url}/{bucket}"
