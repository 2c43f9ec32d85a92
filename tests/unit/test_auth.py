"""What is asked of an identity service, what is made of its answers, and that no secret gets out.

The service is a small one of our own, in this process and on the loopback interface, because it
must give wrong answers on request. tests/swift/test_auth.py asks a real one.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import ipaddress
import json
import logging
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from allasfs.errors import BadCredentials, HostUnreachable, MissingPackage, SetupError
from allasfs.store.auth import Auth, Sources, load
from tests.conftest import ExpectedLogs

SECRET = "s3cret-value"
STORAGE_URL = "https://swift.test/v1/AUTH_abc"
LIFE_S = 3600


def endpoint(region: str, interface: str = "public", url: str = STORAGE_URL) -> dict[str, str]:
    return {"id": "1", "interface": interface, "region": region, "region_id": region, "url": url}


class Service(ThreadingHTTPServer):
    """Keystone and Swift's own authentication, as far as they matter here."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[Any] = []
        self.status = 201
        self.headers: dict[str, str] = {}
        self.raw: bytes | None = None
        self.endpoints: list[dict[str, str]] | None = [endpoint("one"), endpoint("two")]
        self.project: str | None = "project_2001234"
        self.may_answer = threading.Event()
        self.may_answer.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def token(self) -> dict[str, Any]:
        now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
        body: dict[str, Any] = {
            "methods": ["password"],
            "user": {"name": "tester", "id": "u1", "domain": {"id": "default", "name": "Default"}},
            "issued_at": now.strftime("%Y-%m-%dT%H:%M:%S.000000Z"),
            "expires_at": (now + datetime.timedelta(seconds=LIFE_S)).strftime(
                "%Y-%m-%dT%H:%M:%S.000000Z"
            ),
        }
        if self.project:
            domain = {"id": "default", "name": "Default"}
            body["project"] = {"name": self.project, "id": "p1", "domain": domain}
        if self.endpoints is not None:
            service = {"type": "object-store", "name": "swift", "id": "s1"}
            body["catalog"] = [{**service, "endpoints": self.endpoints}]
        return {"token": body}


class Handler(BaseHTTPRequestHandler):
    server: Service
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self._answer({"path": self.path, **json.loads(body)})

    def do_GET(self) -> None:
        if self.path == "/auth/v1.0":
            headers = dict(self.headers)
            kept = {"user": headers.get("X-Auth-User"), "key": headers.get("X-Auth-Key")}
            self._answer({"path": self.path, **kept})
            return
        if self.path.rstrip("/") == "/v3":
            self._versions()
            return
        self._answer({"path": self.path, "subject": self.headers.get("X-Subject-Token")})

    def _versions(self) -> None:
        links = [{"rel": "self", "href": f"{self.server.url}/v3/"}]
        version = {"id": "v3.14", "status": "stable", "links": links}
        body = json.dumps({"version": version}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, asked: dict[str, Any]) -> None:
        service = self.server
        service.bodies.append(asked)
        service.may_answer.wait(30)
        body = service.raw
        if body is None:
            # A service that quotes what it was asked, to see that we never quote it in turn.
            fault = {"error": {"message": f"bad: {json.dumps(asked)}", "code": service.status}}
            body = json.dumps(service.token() if service.status < 300 else fault).encode()
        self.send_response(service.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if service.status < 300:
            self.send_header("X-Subject-Token", f"token-{len(service.bodies)}-{SECRET}")
        for name, value in service.headers.items():
            self.send_header(name, value)
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def running(service: Service) -> Iterator[Service]:
    thread = threading.Thread(target=service.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield service
    finally:
        service.may_answer.set()
        service.shutdown()
        thread.join()
        service.server_close()


@pytest.fixture
def service() -> Iterator[Service]:
    with running(Service()) as service:
        yield service


class Loader:
    def __init__(self, service: Service, home: Path) -> None:
        self.sources = Sources(environ={}, home=home, timeout_s=10, cloud_folders=(home,))
        self.password = {
            "OS_AUTH_URL": f"{service.url}/v3",
            "OS_USERNAME": "tester",
            "OS_PASSWORD": SECRET,
            "OS_PROJECT_NAME": "project_2001234",
        }

    def auth(self, environ: dict[str, str] | None = None, **sources: Any) -> Auth:
        chosen = self.password if environ is None else environ
        return load(replace(self.sources, environ=chosen, **sources))

    def refuse(
        self, error: type[SetupError], environ: dict[str, str] | None = None, **sources: Any
    ) -> str:
        """Return the line that the user sees; what a traceback shows must be as clean."""
        with pytest.raises(SetupError) as caught:
            self.auth(environ, **sources).endpoint()
        shown = "".join(traceback.format_exception(caught.value))
        assert SECRET not in shown
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
        assert "\n" not in str(caught.value)
        assert type(caught.value) is error, shown
        return str(caught.value)


@pytest.fixture
def loader(service: Service, tmp_path: Path) -> Loader:
    return Loader(service, tmp_path)


# -- what is asked --------------------------------------------------------------------------------


def test_password_is_asked_for_a_project_by_name(loader: Loader, service: Service) -> None:
    assert loader.auth().endpoint().storage_url == STORAGE_URL
    assert service.bodies == [
        {
            "path": "/v3/auth/tokens",
            "auth": {
                "identity": {
                    "methods": ["password"],
                    "password": {
                        "user": {
                            "name": "tester",
                            "password": SECRET,
                            "domain": {"id": "default"},
                        }
                    },
                },
                "scope": {"project": {"name": "project_2001234", "domain": {"id": "default"}}},
            },
        }
    ]


def test_ids_are_asked_for_without_domains(loader: Loader, service: Service) -> None:
    ids = {"OS_USER_ID": "u1", "OS_PROJECT_ID": "p1", "OS_USER_DOMAIN_NAME": "D"}
    loader.auth({**loader.password, **ids}).endpoint()
    asked = service.bodies[0]["auth"]
    assert asked["identity"]["password"]["user"] == {"id": "u1", "password": SECRET}
    assert asked["scope"] == {"project": {"id": "p1"}}


def test_address_without_version_gets_one(loader: Loader, service: Service) -> None:
    loader.auth({**loader.password, "OS_AUTH_URL": f"{service.url}/"}).endpoint()
    assert service.bodies[0]["path"] == "/v3/auth/tokens"


def test_application_credential_by_id_asks_for_no_project(loader: Loader, service: Service) -> None:
    environ = {
        "OS_AUTH_URL": f"{service.url}/v3",
        "OS_APPLICATION_CREDENTIAL_ID": "a1",
        "OS_APPLICATION_CREDENTIAL_SECRET": SECRET,
        "OS_USERNAME": "somebody",
    }
    loader.auth(environ).endpoint()
    assert service.bodies[0]["auth"] == {
        "identity": {
            "methods": ["application_credential"],
            "application_credential": {"id": "a1", "secret": SECRET},
        }
    }


def test_application_credential_by_name_names_its_user(loader: Loader, service: Service) -> None:
    environ = {
        "OS_AUTH_URL": f"{service.url}/v3",
        "OS_APPLICATION_CREDENTIAL_NAME": "mine",
        "OS_APPLICATION_CREDENTIAL_SECRET": SECRET,
        "OS_USERNAME": "tester",
        "OS_USER_DOMAIN_NAME": "D",
    }
    loader.auth(environ).endpoint()
    assert service.bodies[0]["auth"]["identity"]["application_credential"] == {
        "name": "mine",
        "secret": SECRET,
        "user": {"name": "tester", "domain": {"name": "D"}},
    }


def test_token_with_storage_url_asks_nobody(loader: Loader, service: Service) -> None:
    auth = loader.auth({"OS_AUTH_TOKEN": "t", "OS_STORAGE_URL": STORAGE_URL})
    assert (auth.endpoint().token, auth.endpoint().storage_url) == ("t", STORAGE_URL)
    assert service.bodies == []


def test_when_a_given_token_expires_is_asked_where_the_service_is_known(
    loader: Loader, service: Service
) -> None:
    service.status = 200
    environ = {"OS_AUTH_TOKEN": "t", "OS_STORAGE_URL": STORAGE_URL, "OS_AUTH_URL": service.url}
    auth = loader.auth(environ)
    assert auth.endpoint().token == "t"
    for thread in threading.enumerate():
        if thread.name == "allasfs-auth":
            thread.join(30)
    assert auth.expires_at() is not None
    assert service.bodies == [{"path": "/v3/auth/tokens", "subject": "t"}]


def test_token_without_storage_url_asks_what_it_opens(loader: Loader, service: Service) -> None:
    service.status = 200
    auth = loader.auth({"OS_AUTH_TOKEN": "t", "OS_AUTH_URL": service.url})
    assert (auth.endpoint().token, auth.endpoint().storage_url) == ("t", STORAGE_URL)
    assert service.bodies == [{"path": "/v3/auth/tokens", "subject": "t"}]
    assert auth.describe()["project"] == "project_2001234"


def test_token_for_another_project_is_exchanged(loader: Loader, service: Service) -> None:
    service.project = "other"
    environ = {"OS_AUTH_TOKEN": "t", "OS_AUTH_URL": service.url, "OS_PROJECT_NAME": "mine"}
    assert loader.auth(environ).endpoint().token == f"token-2-{SECRET}"
    assert service.bodies[1]["auth"] == {
        "identity": {"methods": ["token"], "token": {"id": "t"}},
        "scope": {"project": {"name": "mine", "domain": {"id": "default"}}},
    }


def test_token_for_no_project_needs_one(loader: Loader, service: Service) -> None:
    service.project = None
    environ = {"OS_AUTH_TOKEN": SECRET, "OS_AUTH_URL": service.url}
    message = loader.refuse(BadCredentials, environ)
    assert message == f"{service.url}: the token is for no project: set OS_PROJECT_NAME"


V1 = {"ST_USER": "test:tester", "ST_KEY": SECRET}


def test_swift_v1_sends_user_and_key(loader: Loader, service: Service) -> None:
    service.headers = {
        "X-Storage-Url": f"{STORAGE_URL}/",
        "X-Auth-Token": "t",
        "X-Auth-Token-Expires": "600",
    }
    auth = loader.auth({**V1, "ST_AUTH": f"{service.url}/auth/v1.0"})
    assert (auth.endpoint().token, auth.endpoint().storage_url) == ("t", STORAGE_URL)
    assert service.bodies == [{"path": "/auth/v1.0", "user": "test:tester", "key": SECRET}]
    expires_at = auth.expires_at()
    assert expires_at is not None
    assert abs(expires_at - time.time() - 600) < 60


def test_swift_v1_without_end_of_life(loader: Loader, service: Service) -> None:
    service.headers = {"X-Storage-Url": STORAGE_URL, "X-Auth-Token": "t"}
    auth = loader.auth({**V1, "ST_AUTH": f"{service.url}/auth/v1.0"})
    assert auth.endpoint().token == "t"
    assert auth.expires_at() is None


def test_swift_v1_that_refuses(loader: Loader, service: Service) -> None:
    service.status = 401
    url = f"{service.url}/auth/v1.0"
    message = loader.refuse(BadCredentials, {**V1, "ST_AUTH": url})
    assert message == f"{url} refused user test:tester or ST_KEY"


@pytest.mark.parametrize(("status", "why"), [(404, "HTTP 404"), (302, "it redirects to another")])
def test_swift_v1_at_a_wrong_address(
    loader: Loader, service: Service, status: int, why: str
) -> None:
    service.status = status
    service.headers = {"Location": service.url}
    message = loader.refuse(BadCredentials, {**V1, "ST_AUTH": f"{service.url}/auth/v1.0"})
    assert why in message
    assert message.endswith("check ST_AUTH")


def test_one_authentication_serves_many_threads(loader: Loader, service: Service) -> None:
    auth = loader.auth()
    threads = [threading.Thread(target=auth.endpoint) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(service.bodies) == 1


# -- what is made of the answer -------------------------------------------------------------------


def test_expiry_and_description(loader: Loader) -> None:
    auth = loader.auth()
    auth.endpoint()
    expires_at = auth.expires_at()
    assert expires_at is not None
    assert abs(expires_at - time.time() - LIFE_S) < 60
    assert auth.describe() == {
        "kind": "password",
        "source": "the environment",
        "user": "tester",
        "project": "project_2001234",
        "project id": "p1",
        "auth url": loader.password["OS_AUTH_URL"],
        "region": "one",
        "storage url": STORAGE_URL,
    }


def test_wrong_clock_of_this_machine_does_not_shorten_a_token(
    loader: Loader, service: Service
) -> None:
    now_s = 0.0
    sources = replace(loader.sources, environ=loader.password)
    auth = load(sources, clock=lambda: now_s, wall_clock=lambda: 0.0)
    token = auth.endpoint().token
    now_s = LIFE_S - 130.0
    assert auth.endpoint().token == token
    now_s = LIFE_S + 1.0
    assert auth.endpoint().token != token


def test_endpoint_is_that_of_region_and_interface(loader: Loader, service: Service) -> None:
    service.endpoints = [
        endpoint("one", "internal", "http://a.test/v1"),
        endpoint("one", "public", "http://b.test/v1"),
        endpoint("two", "internal", "http://c.test/v1"),
        endpoint("two", "public", "http://d.test/v1/"),
    ]
    found = [
        loader.auth(region=region, interface=interface).endpoint().storage_url
        for region in (None, "one", "two")
        for interface in (None, "internalURL")
    ]
    hosts = ["b", "a", "b", "a", "d", "c"]
    assert found == [f"http://{host}.test/v1" for host in hosts]


def test_given_storage_url_replaces_that_of_the_catalogue(loader: Loader, service: Service) -> None:
    service.endpoints = None
    auth = loader.auth(storage_url="http://other.test/v1/AUTH_x/")
    assert auth.endpoint().storage_url == "http://other.test/v1/AUTH_x"


@pytest.mark.parametrize("endpoints", [None, []])
def test_catalogue_without_object_store(
    loader: Loader, service: Service, endpoints: list[dict[str, str]] | None
) -> None:
    service.endpoints = endpoints
    assert loader.refuse(BadCredentials) == (
        f"{service.url}/v3: project project_2001234 has no object store in the catalogue: check"
        " the project, or set OS_STORAGE_URL"
    )


def test_unknown_region_lists_the_regions(loader: Loader, service: Service) -> None:
    assert loader.refuse(BadCredentials, region="three") == (
        f"{service.url}/v3: no object store in region three: set OS_REGION_NAME to one of one, two"
    )


def test_missing_interface_lists_the_interfaces(loader: Loader, service: Service) -> None:
    assert loader.refuse(BadCredentials, interface="admin") == (
        f"{service.url}/v3: no admin object store in the catalogue: set OS_INTERFACE to one of"
        " public"
    )


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (400, BadCredentials, "{url}/v3 does not accept user tester, password or project"),
        (401, BadCredentials, "{url}/v3 refused user tester, password or project project_2001234"),
        (403, BadCredentials, "{url}/v3 refused user tester, password or project project_2001234"),
        (404, BadCredentials, "{url}/v3 is not the address of an identity service (HTTP 404)"),
        (405, BadCredentials, "{url}/v3 is not the address of an identity service (HTTP 405)"),
        (408, HostUnreachable, "{host} answered with an error (HTTP 408)"),
        (429, HostUnreachable, "{host} answered with an error (HTTP 429)"),
        (500, HostUnreachable, "{host} answered with an error (HTTP 500)"),
        (503, HostUnreachable, "{host} answered with an error (HTTP 503)"),
    ],
)
def test_status_decides_who_is_to_blame(
    loader: Loader, service: Service, status: int, error: type[SetupError], message: str
) -> None:
    service.status = status
    shown = loader.refuse(error)
    host = service.url.removeprefix("http://")
    assert shown.startswith(message.format(url=service.url, host=host))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>Log in</html>",
        b"[]",
        b"{}",
        b'{"token": {}}',
        b'{"token": {"expires_at": "soon"}}',
    ],
)
def test_answer_of_something_else_is_no_token(loader: Loader, service: Service, raw: bytes) -> None:
    service.raw = raw
    message = loader.refuse(HostUnreachable)
    assert (
        message == f"{service.url.removeprefix('http://')} does not answer like an identity service"
    )


def test_password_does_not_follow_a_redirection(loader: Loader, service: Service) -> None:
    with running(Service()) as other:
        service.status = 307
        service.headers = {"Location": f"{other.url}/v3/auth/tokens"}
        message = loader.refuse(BadCredentials)
        assert other.bodies == []
    assert message == (
        f"{service.url}/v3 is not the address of an identity service (it redirects to another"
        " address): check OS_AUTH_URL"
    )


def test_second_factor_is_explained(loader: Loader, service: Service) -> None:
    service.status = 401
    service.headers = {"Openstack-Auth-Receipt": "r"}
    receipt = {"methods": ["password"], "expires_at": "2030-01-01T00:00:00.000000Z"}
    rules = {"receipt": receipt, "required_auth_methods": [["password", "totp"]]}
    service.raw = json.dumps(rules).encode()
    assert "asks for a second factor" in loader.refuse(BadCredentials)


# -- no answer ------------------------------------------------------------------------------------


def test_port_where_nobody_listens(loader: Loader) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        message = loader.refuse(
            HostUnreachable, {**loader.password, "OS_AUTH_URL": f"http://{host}/v3"}
        )
    assert message == f"{host} cannot be reached: Connection refused"


def test_name_that_does_not_exist(loader: Loader) -> None:
    environ = {**loader.password, "OS_AUTH_URL": "http://no-such-host.invalid/v3"}
    message = loader.refuse(HostUnreachable, environ)
    assert message.startswith("no-such-host.invalid cannot be reached: ")


def test_server_that_does_not_answer(loader: Loader, service: Service) -> None:
    service.may_answer.clear()
    message = loader.refuse(HostUnreachable, timeout_s=0.5)
    assert message == f"{service.url.removeprefix('http://')} did not answer within 0.4 s"


def test_server_that_closes_the_connection(loader: Loader) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def close() -> None:
            connection, _ = server.accept()
            connection.close()

        thread = threading.Thread(target=close)
        thread.start()
        host = f"127.0.0.1:{server.getsockname()[1]}"
        message = loader.refuse(
            HostUnreachable, {**loader.password, "OS_AUTH_URL": f"http://{host}/v3"}
        )
        thread.join()
    assert message.startswith(f"{host} cannot be reached: ")


# -- TLS ------------------------------------------------------------------------------------------


def certificate(folder: Path, address: str) -> tuple[Path, Path]:
    """Return the files of a self-signed certificate for this address, and of its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / f"{address}.pem", folder / f"{address}.key"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return cert_file, key_file


@contextlib.contextmanager
def tls_service(cert_file: Path, key_file: Path) -> Iterator[Service]:
    service = Service()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    # The handshake is made in the thread of the request, where a failure is no matter.
    service.socket = context.wrap_socket(
        service.socket, server_side=True, do_handshake_on_connect=False
    )
    service.handle_error = lambda *args: None  # type: ignore[method-assign]
    with running(service):
        yield service


@pytest.mark.parametrize("how", ["option", "variable"])
def test_given_ca_file_is_trusted(loader: Loader, tmp_path: Path, how: str) -> None:
    cert_file, key_file = certificate(tmp_path, "127.0.0.1")
    with tls_service(cert_file, key_file) as service:
        environ = {**loader.password, "OS_AUTH_URL": service.url.replace("http:", "https:")}
        if how == "option":
            auth = loader.auth(environ, ca_file=cert_file)
        else:
            auth = loader.auth({**environ, "OS_CACERT": str(cert_file)})
        assert auth.endpoint().storage_url == STORAGE_URL
        assert auth.ca_file == str(cert_file)


def test_unknown_authority_says_how_to_name_it_and_gets_no_password(
    loader: Loader, tmp_path: Path
) -> None:
    with tls_service(*certificate(tmp_path, "127.0.0.1")) as service:
        host = service.url.removeprefix("http://")
        environ = {**loader.password, "OS_AUTH_URL": f"https://{host}/v3"}
        message = loader.refuse(HostUnreachable, environ)
        assert service.bodies == []
    assert message.startswith(f"{host}: its TLS certificate is not valid (self")
    assert message.endswith("give the certificate of its authority in OS_CACERT or as an option")


def test_certificate_of_another_host_is_not_accepted(loader: Loader, tmp_path: Path) -> None:
    cert_file, key_file = certificate(tmp_path, "127.0.0.9")
    with tls_service(cert_file, key_file) as service:
        environ = {**loader.password, "OS_AUTH_URL": service.url.replace("http:", "https:")}
        message = loader.refuse(HostUnreachable, environ, ca_file=cert_file)
    assert "its TLS certificate is not valid (IP address mismatch" in message
    assert "OS_CACERT" not in message


# -- ~/.allas_connection --------------------------------------------------------------------------


def connect(home: Path, token: str, url: str = STORAGE_URL) -> None:
    (home / ".allas_connection").write_text(f"OS_AUTH_TOKEN={token}\nOS_STORAGE_URL={url}\n")


@pytest.mark.semantics("T2")
@pytest.mark.parametrize("environ", [{}, {"OS_AUTH_TOKEN": "old", "OS_STORAGE_URL": STORAGE_URL}])
def test_refused_token_is_replaced_from_the_connection_file(
    loader: Loader, tmp_path: Path, environ: dict[str, str], expected_logs: ExpectedLogs
) -> None:
    expected_logs("the object store refuses the token: .* run allas-conf --store-token")
    connect(tmp_path, "old")
    auth = loader.auth(environ)
    assert auth.refused("old") is False
    connect(tmp_path, "new")
    assert auth.endpoint().token == "old"
    assert auth.refused("old") is True
    assert auth.endpoint().token == "new"
    assert auth.endpoint().storage_url == STORAGE_URL


@pytest.mark.semantics("T2")
def test_a_refused_token_without_storage_url_is_replaced_from_the_connection_file(
    loader: Loader, service: Service, tmp_path: Path
) -> None:
    service.status = 200
    connect(tmp_path, "old")
    auth = loader.auth({"OS_AUTH_TOKEN": "old", "OS_AUTH_URL": service.url})
    assert auth.endpoint().token == "old"
    connect(tmp_path, "new", STORAGE_URL.replace("swift.test/", "swift.test:443/"))
    assert auth.refused("old") is True
    assert (auth.endpoint().token, auth.endpoint().storage_url) == ("new", STORAGE_URL)
    assert [body["subject"] for body in service.bodies] == ["old", "new"]


@pytest.mark.semantics("T2")
def test_a_token_without_storage_url_does_not_move_to_another_project(
    loader: Loader, service: Service, tmp_path: Path
) -> None:
    service.status = 200
    auth = loader.auth({"OS_AUTH_TOKEN": "old", "OS_AUTH_URL": service.url})
    assert auth.endpoint().token == "old"
    connect(tmp_path, "new", "https://swift.test/v1/AUTH_other")
    assert auth.refused("old") is False
    assert auth.endpoint().token == "old"


def test_mount_does_not_move_to_the_project_of_another_token(
    loader: Loader, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("the object store refuses the token")
    connect(tmp_path, "old")
    auth = loader.auth({})
    connect(tmp_path, "new", "https://swift.test/v1/AUTH_other")
    assert auth.refused("old") is False
    assert auth.endpoint().token == "old"


# -- clouds.yaml ----------------------------------------------------------------------------------


def write_cloud(home: Path, service: Service, *, more: str = "", password: str = SECRET) -> Path:
    path = home / "clouds.yaml"
    path.write_text(
        f"clouds:\n  mine:\n    auth:\n      auth_url: {service.url}/v3\n"
        "      username: tester\n      project_name: project_2001234\n"
        "      user_domain_name: Default\n      project_domain_name: Default\n"
        + (f"      password: {password}\n" if password else "")
        + more
    )
    return path


def passwords(service: Service) -> list[str]:
    posts = [body["auth"]["identity"] for body in service.bodies if "auth" in body]
    return [identity["password"]["user"]["password"] for identity in posts]


def test_cloud_with_region_and_interface(loader: Loader, service: Service, tmp_path: Path) -> None:
    write_cloud(tmp_path, service, more="    region_name: two\n    interface: internal\n")
    service.endpoints = [endpoint("two"), endpoint("two", "internal", "http://i.test/v1")]
    auth = loader.auth({}, cloud="mine")
    assert auth.endpoint().storage_url == "http://i.test/v1"
    assert passwords(service) == [SECRET]
    described = auth.describe()
    assert (described["kind"], described["source"], described["region"]) == (
        "cloud",
        "cloud mine",
        "two",
    )
    assert (described["user"], described["project"]) == ("tester", "project_2001234")


def test_options_come_before_clouds_yaml(loader: Loader, service: Service, tmp_path: Path) -> None:
    write_cloud(tmp_path, service, more="    region_name: two\n    interface: internal\n")
    service.endpoints = [endpoint("two"), endpoint("two", "internal", "http://i.test/v1")]
    assert loader.auth({}, cloud="mine", interface="public").endpoint().storage_url == STORAGE_URL
    url = "http://x.test/v1"
    assert loader.auth({}, cloud="mine", storage_url=url).endpoint().storage_url == url


def test_secure_yaml_completes_clouds_yaml(
    loader: Loader, service: Service, tmp_path: Path
) -> None:
    write_cloud(tmp_path, service, password="")
    (tmp_path / "secure.yaml").write_text("clouds:\n  mine:\n    auth:\n      password: other\n")
    loader.auth({"OS_CLOUD": "mine"}).endpoint()
    assert passwords(service) == ["other"]


def test_environment_of_the_process_does_not_reach_a_cloud(
    loader: Loader, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = write_cloud(tmp_path, service, password="wrong").rename(tmp_path / "other.yaml")
    write_cloud(tmp_path, service)
    monkeypatch.setenv("OS_PASSWORD", "wrong")
    monkeypatch.setenv("OS_CLIENT_CONFIG_FILE", str(other))
    monkeypatch.setenv("OS_REGION_NAME", "nowhere")
    loader.auth({}, cloud="mine").endpoint()
    assert passwords(service) == [SECRET]


def test_file_named_by_the_environment_comes_first(
    loader: Loader, service: Service, tmp_path: Path
) -> None:
    named = write_cloud(tmp_path, service, password="named").rename(tmp_path / "my.yaml")
    write_cloud(tmp_path, service)
    loader.auth({"OS_CLIENT_CONFIG_FILE": str(named)}, cloud="mine").endpoint()
    assert passwords(service) == ["named"]


def test_password_missing_in_clouds_yaml(loader: Loader, service: Service, tmp_path: Path) -> None:
    write_cloud(tmp_path, service, password="")
    assert loader.refuse(BadCredentials, {}, cloud="mine") == (
        "cloud mine: clouds.yaml has no password, and OS_PASSWORD is not set"
    )
    loader.auth({"OS_PASSWORD": "outside"}, cloud="mine").endpoint()
    loader.auth({}, cloud="mine", ask_password=lambda prompt: "typed").endpoint()
    assert passwords(service) == ["outside", "typed"]


@pytest.mark.parametrize("more", ["    verify: false\n", "    insecure: true\n"])
def test_cloud_without_verification_is_refused(
    loader: Loader, service: Service, tmp_path: Path, more: str
) -> None:
    write_cloud(tmp_path, service, more=more)
    message = loader.refuse(BadCredentials, {}, cloud="mine")
    assert message.startswith("cloud mine: clouds.yaml switches the verification of certificates o")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cloud mine: there is no clouds.yaml (looked in {home})"),
        (
            "clouds:\n  other: {}\n  another: {}\n",
            "{home}/clouds.yaml: has no cloud mine, but anot",
        ),
        ("clouds: [}\n", "is not in the form of YAML"),
        ("clouds:\n  mine: {}\n", "cloud mine: "),
        ("clouds:\n  mine: 5\n", "cloud mine: "),
        (f"clouds:\n  mine:\n    x: '{{{SECRET}}}'\n    auth: {{auth_url: a}}\n", "cloud mine: "),
        ("5\n", "cloud mine: "),
        ("clouds:\n  mine:\n    auth_type: none\n", "cloud mine: clouds.yaml gives no way to ask"),
        (
            "clouds:\n  mine:\n    auth: {auth_url: a, password: "
            + SECRET
            + "}\n    region_name: 5\n",
            "cloud mine: ",
        ),
    ],
)
def test_fault_of_clouds_yaml_is_one_line(
    loader: Loader, tmp_path: Path, text: str | None, message: str
) -> None:
    if text:
        (tmp_path / "clouds.yaml").write_text(text)
    assert message.format(home=tmp_path) in loader.refuse(BadCredentials, {}, cloud="mine")


def test_refusal_of_a_cloud_names_it(loader: Loader, service: Service, tmp_path: Path) -> None:
    write_cloud(tmp_path, service)
    service.status = 401
    message = loader.refuse(BadCredentials, {}, cloud="mine")
    assert message == f"{service.url}/v3 refused the credentials of cloud mine"


def test_cloud_at_a_dead_address_is_unreachable(
    loader: Loader, service: Service, tmp_path: Path
) -> None:
    path = write_cloud(tmp_path, service)
    for address in ("http://127.0.0.1:1/v3", "http://127.0.0.1:1"):
        path.write_text(path.read_text().replace(f"{service.url}/v3", address))
        message = loader.refuse(HostUnreachable, {}, cloud="mine")
        assert message == "127.0.0.1:1 cannot be reached: Connection refused"


def test_missing_package_says_how_to_install_it(
    loader: Loader, service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cloud(tmp_path, service)
    monkeypatch.setitem(sys.modules, "openstack.config", None)
    with pytest.raises(MissingPackage, match="pip install openstacksdk"):
        loader.auth({}, cloud="mine")


# -- secrets --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [201, 401, 400, 500])
@pytest.mark.parametrize("form", ["password", "application", "token", "v1", "cloud"])
def test_no_secret_is_logged_even_at_debug(
    loader: Loader, service: Service, tmp_path: Path, form: str, status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_cloud(tmp_path, service)
    url = {"OS_AUTH_URL": f"{service.url}/v3"}
    application = {"OS_APPLICATION_CREDENTIAL_ID": "a", "OS_APPLICATION_CREDENTIAL_SECRET": SECRET}
    environ = {
        "password": loader.password,
        "application": {**url, **application},
        "token": {**url, "OS_AUTH_TOKEN": SECRET, "OS_PROJECT_NAME": "other"},
        "v1": {**V1, "ST_AUTH": f"{service.url}/auth/v1.0"},
        "cloud": {"OS_CLOUD": "mine"},
    }[form]
    service.status = status
    service.headers = {"X-Storage-Url": STORAGE_URL, "X-Auth-Token": SECRET} if form == "v1" else {}
    # Every logger at DEBUG, by its own level: that counts before the level of its parents.
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    monkeypatch.setattr(logging.root, "handlers", [handler])
    for name in ["", *logging.root.manager.loggerDict]:
        logger = logging.getLogger(name)
        monkeypatch.setattr(logger, "level", logging.DEBUG)
        monkeypatch.setattr(logger, "disabled", False)
    logging.root.setLevel(logging.DEBUG)  # and forget what was decided by the old levels

    auth = loader.auth(environ)
    with contextlib.suppress(SetupError):
        auth.refused(auth.endpoint().token)

    logging.getLogger("urllib3").debug("the end")
    shown = output.getvalue() + repr(auth) + repr(auth.describe())
    assert "the end" in shown
    assert SECRET not in shown
    assert not any(line.startswith(("REQ:", "RESP", "{")) for line in shown.splitlines())
