"""The running cloud: it is a real Swift and Keystone, and does what tests need of it."""

import base64
import hmac
import http.client
import json
import os
import socket
import stat
import subprocess
from email.utils import formatdate
from urllib.parse import urlsplit

import pytest
from keystoneauth1.exceptions import ConnectFailure
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from allasfs.demo import Cloud, DemoError

from .support import connect, wait_until


def listing(swift: Connection, bucket: str) -> dict[str, int]:
    """Return names and sizes of all objects in a bucket."""
    return {entry["name"]: entry["bytes"] for entry in swift.get_container(bucket)[1]}


def put_slo(swift: Connection, bucket: str, name: str, parts: list[bytes]) -> None:
    """Store parts as segments, and a manifest."""
    manifest = []
    for number, part in enumerate(parts):
        swift.put_object(bucket, f"{name}.{number}", part)
        manifest.append({"path": f"/{bucket}/{name}.{number}", "size_bytes": len(part)})
    swift.put_object(bucket, name, json.dumps(manifest), query_string="multipart-manifest=put")


# --- Swift --------------------------------------------------------------------------------------


def test_what_was_put_is_listed_and_comes_back(swift: Connection, bucket: str) -> None:
    data = os.urandom(3_000_000)
    name = "dir/ä #%41?.bin"
    swift.put_object(bucket, name, data, headers={"X-Object-Meta-Mtime": "1.5"})
    headers, body = swift.get_object(bucket, name)
    assert body == data
    assert headers["x-object-meta-mtime"] == "1.5"
    assert listing(swift, bucket) == {name: len(data)}


def test_the_account_comes_to_know_what_its_containers_hold(swift: Connection, bucket: str) -> None:
    swift.put_object(bucket, "a", b"12345")

    def figures() -> tuple[int, int]:
        (entry,) = swift.get_account(prefix=bucket)[1]
        return entry["count"], entry["bytes"]

    wait_until(lambda: figures() == (1, 5), "the object is counted")
    swift.delete_object(bucket, "a")
    wait_until(lambda: figures() == (0, 0), "its deletion is counted")


def test_a_static_large_object_is_listed_with_its_size(swift: Connection, bucket: str) -> None:
    put_slo(swift, bucket, "large", [b"a" * 1000, b"b" * 500])
    assert listing(swift, bucket)["large"] == 1500
    assert swift.get_object(bucket, "large")[1] == b"a" * 1000 + b"b" * 500


def test_a_dynamic_large_object_follows_its_segments(swift: Connection, bucket: str) -> None:
    swift.put_object(bucket, "parts/1", b"one,")
    swift.put_object(bucket, "large", b"", headers={"X-Object-Manifest": f"{bucket}/parts/"})
    swift.put_object(bucket, "parts/2", b"two")
    assert swift.get_object(bucket, "large")[1] == b"one,two"
    assert listing(swift, bucket)["large"] == 0
    assert swift.head_object(bucket, "large")["content-length"] == "7"


def test_copy_keeps_data_and_metadata(swift: Connection, bucket: str) -> None:
    swift.put_object(bucket, "a", b"data", headers={"X-Object-Meta-Mtime": "1.5"})
    swift.copy_object(bucket, "a", destination=f"/{bucket}/b")
    headers, body = swift.get_object(bucket, "b")
    assert (body, headers["x-object-meta-mtime"]) == (b"data", "1.5")


def test_bulk_delete(swift: Connection, bucket: str) -> None:
    for name in ("a", "b", "c"):
        swift.put_object(bucket, name, b"x")
    headers = {"Content-Type": "text/plain", "Accept": "application/json"}
    body = f"/{bucket}/a\n/{bucket}/b\n/{bucket}/missing\n"
    _headers, answer = swift.post_account(headers, query_string="bulk-delete", data=body)
    report = json.loads(answer)
    assert (report["Number Deleted"], report["Number Not Found"]) == (2, 1)
    assert listing(swift, bucket) == {"c": 1}


def test_a_container_quota_is_enforced(swift: Connection, bucket: str) -> None:
    swift.post_container(bucket, {"X-Container-Meta-Quota-Bytes": "10"})
    with pytest.raises(ClientException) as caught:
        swift.put_object(bucket, "a", b"x" * 11)
    assert caught.value.http_status == 413


def test_the_offered_features(swift: Connection) -> None:
    info = swift.get_capabilities()
    wanted = {"bulk_delete", "slo", "symlink", "container_quotas", "account_quotas", "s3api"}
    assert wanted | {"tempurl", "object_versioning"} <= set(info)
    assert not {"tempauth", "ratelimit"} & set(info)


# --- People -------------------------------------------------------------------------------------


def test_the_rc_file_gives_a_shell_the_same_variables(cloud: Cloud) -> None:
    assert stat.S_IMODE(cloud.rc_file.stat().st_mode) == 0o600
    before = {"PATH": os.environ["PATH"], "OS_TENANT_NAME": "old", "OS_TENANT_ID": "old"}
    script = '. "$1" && exec env -0'
    done = subprocess.run(
        ["bash", "-euc", script, "bash", str(cloud.rc_file)],
        env=before,
        capture_output=True,
        check=True,
        text=True,
    )
    after = dict(line.split("=", 1) for line in done.stdout.split("\0") if line)
    assert {k: v for k, v in after.items() if k.startswith("OS_")} == cloud.environ
    assert done.stderr == ""


def test_nobody_else_can_read_the_secrets(cloud: Cloud) -> None:
    assert stat.S_IMODE(cloud.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((cloud.folder / "state.json").stat().st_mode) == 0o600


def test_another_user_has_another_account(cloud: Cloud, bucket: str) -> None:
    other = cloud.add_user("tester2", "project_2005678")
    assert cloud.add_user("tester2", "project_2005678") == other
    connection = connect(other.environ())
    assert connection.get_account()[1] == []
    strange = connect(other.environ())
    strange.os_options["object_storage_url"] = cloud.storage_url
    with pytest.raises(ClientException) as caught:
        strange.get_container(bucket)
    assert caught.value.http_status == 403
    connection.close()
    strange.close()


def test_a_user_without_the_member_role_is_refused(cloud: Cloud, bucket: str) -> None:
    reader = connect(cloud.add_user("reader", "project_2001234", role="reader").environ())
    with pytest.raises(ClientException) as caught:
        reader.get_container(bucket)
    assert caught.value.http_status == 403
    reader.close()


def test_an_application_credential_opens_the_account(cloud: Cloud, bucket: str) -> None:
    connection = connect(cloud.application_credential("laptop").environ())
    assert bucket in [entry["name"] for entry in connection.get_account()[1]]
    connection.close()


def test_a_token_opens_the_account(cloud: Cloud, bucket: str) -> None:
    token = cloud.token()
    assert token.storage_url == cloud.storage_url
    connection = Connection(preauthurl=token.storage_url, preauthtoken=token.id, retries=0)
    assert bucket in [entry["name"] for entry in connection.get_account()[1]]
    connection.close()


@pytest.mark.parametrize(("right", "status"), [(True, 200), (False, 403)])
def test_a_key_pair_opens_the_s3_interface(
    cloud: Cloud, swift: Connection, bucket: str, right: bool, status: int
) -> None:
    swift.put_object(bucket, "a", b"by S3")
    key = cloud.key_pair()
    date, path = formatdate(usegmt=True), f"/{bucket}/a"
    secret = key.secret_key if right else "wrong"
    digest = hmac.digest(secret.encode(), f"GET\n\n\n{date}\n{path}".encode(), "sha1")
    signature = base64.b64encode(digest).decode()
    headers = {"Date": date, "Authorization": f"AWS {key.access_key}:{signature}"}
    connection = http.client.HTTPConnection(urlsplit(cloud.swift_url).netloc, timeout=60)
    connection.request("GET", path, headers=headers)
    response = connection.getresponse()
    assert (response.status, response.read() == b"by S3") == (status, right)
    connection.close()


# --- What the server saw ------------------------------------------------------------------------


def test_requests_are_counted_exactly(cloud: Cloud, swift: Connection, bucket: str) -> None:
    swift.get_auth()  # the client asks Keystone now
    cloud.forget_requests()
    assert cloud.requests() == ()
    put_slo(swift, bucket, "large", [b"1" * 100, b"2" * 50])
    swift.get_object(bucket, "large")
    swift.copy_object(bucket, "large", destination=f"/{bucket}/copy ä")
    swift.get_container(bucket, prefix="copy ä")
    with pytest.raises(ClientException):
        swift.head_object(bucket, "missing")
    body = f"{bucket}/large.0\n{bucket}/large.1\n"
    swift.post_account({"Content-Type": "text/plain"}, query_string="bulk-delete", data=body)

    account = urlsplit(cloud.storage_url).path
    base = f"{account}/{bucket}"
    seen = [(r.method, r.path.removeprefix(base), r.query, r.status) for r in cloud.requests()]
    assert seen == [
        ("PUT", "/large.0", "", 201),
        ("PUT", "/large.1", "", 201),
        ("PUT", "/large", "multipart-manifest=put", 201),
        ("GET", "/large", "", 200),
        ("COPY", "/large", "", 201),
        ("GET", "", "format=json&prefix=copy%20%C3%A4", 200),
        ("HEAD", "/missing", "", 404),
        ("POST", account, "bulk-delete", 200),
    ]


def test_the_log_knows_bytes_ranges_and_connections(
    cloud: Cloud, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "a", b"x" * 1000)
    cloud.forget_requests()
    swift.put_object(bucket, "a", b"y" * 2000)
    swift.put_object(bucket, "chunked", iter([b"z" * 30, b"z" * 20]))
    swift.get_object(bucket, "a", headers={"Range": "bytes=100-299"})
    swift.head_object(bucket, "a")
    seen = [(r.method, r.range, r.received_bytes, r.sent_bytes) for r in cloud.requests()]
    assert seen == [
        ("PUT", "", 2000, 0),
        ("PUT", "", 50, 0),
        ("GET", "bytes=100-299", 0, 200),
        ("HEAD", "", 0, 0),
    ]
    assert len({request.client_port for request in cloud.requests()}) == 1
    assert len({request.transaction for request in cloud.requests()}) == 4


def test_an_answer_is_in_the_log_before_its_body_is_read(
    cloud: Cloud, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "big", bytes(20_000_000))
    cloud.forget_requests()
    swift.get_object(bucket, "big", resp_chunk_size=1000)
    assert [request.method for request in cloud.requests()] == ["GET"]


# --- Faults -------------------------------------------------------------------------------------


def test_a_killed_proxy_refuses_connections_and_comes_back(
    cloud: Cloud, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "a", b"before")
    address = ("127.0.0.1", urlsplit(cloud.swift_url).port or 0)
    cloud.kill_swift()
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=60)
        with pytest.raises(DemoError, match=r"keystone .* is not down"):
            cloud.start_keystone()
    finally:
        cloud.start_swift()
    assert swift.get_object(bucket, "a")[1] == b"before"
    assert cloud.dead_services() == []


def test_a_paused_proxy_is_silent_until_it_goes_on(
    cloud: Cloud, swift: Connection, bucket: str
) -> None:
    token = cloud.token()
    address = urlsplit(token.storage_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=0.5)
    cloud.pause_swift()
    try:
        connection.request("HEAD", f"{address.path}/{bucket}", headers={"X-Auth-Token": token.id})
        with pytest.raises(TimeoutError):
            connection.getresponse()
    finally:
        cloud.resume_swift()
        connection.close()
    assert swift.head_container(bucket)["x-container-object-count"] == "0"


def test_without_keystone_nobody_can_log_in(cloud: Cloud, swift: Connection, bucket: str) -> None:
    swift.head_container(bucket)  # from here on Swift knows the token
    cloud.kill_keystone()
    try:
        with pytest.raises(ConnectFailure):
            connect(cloud.environ).get_account()
        swift.head_container(bucket)
    finally:
        cloud.start_keystone()
    connect(cloud.environ).get_account()


def test_a_paused_keystone_is_silent_until_it_goes_on(cloud: Cloud) -> None:
    address = urlsplit(cloud.auth_url)
    connection = http.client.HTTPConnection(address.netloc, timeout=0.5)
    cloud.pause_keystone()
    try:
        connection.request("GET", address.path)
        with pytest.raises(TimeoutError):
            connection.getresponse()
    finally:
        cloud.resume_keystone()
        connection.close()
    assert cloud.token().id
