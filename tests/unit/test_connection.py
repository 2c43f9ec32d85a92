"""Connections: what goes over the line is what requests would send, to the host that is meant."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from allasfs.store.connection import Connection
from tests.fakes.httpserver import ScriptedServer, answer

from .test_auth import certificate

TIMEOUT_S = (30.0, 30.0)


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies and certificates of this computer do not count."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(lambda request: answer(200, b"body")) as server:
        yield server


def connect(url: str, ca_file: Path | None = None) -> Connection:
    connection = Connection(url, ca_file=None if ca_file is None else str(ca_file))
    connection.requests_args["timeout"] = TIMEOUT_S
    return connection


def ask(
    connection: Connection,
    path: str = "/v1/AUTH_test/b/k",
    method: str = "GET",
    body: Any = b"",
    headers: dict[str, Any] | None = None,
) -> tuple[int, bytes]:
    reply = connection.request(method, path, body, headers or {"x-auth-token": b"secret"})
    data = b"" if method == "HEAD" else reply.raw.read()
    reply.raw.drain_conn()
    return reply.status_code, data


class Pieces:
    """A body that is made while it is sent."""

    def __len__(self) -> int:
        return 10

    def __iter__(self) -> Iterator[bytes]:
        yield from (b"hello", b"world")


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "COPY", "DELETE"])
@pytest.mark.parametrize("body", [b"", b"some bytes", Pieces()], ids=["empty", "bytes", "pieces"])
def test_a_request_is_the_one_that_requests_would_send(
    server: ScriptedServer, method: str, body: Any
) -> None:
    if body and method in ("GET", "HEAD"):
        return
    headers = {"x-auth-token": b"secret", "x-object-meta-n\xe4me": "v\xe4l".encode(), "etag": b"e"}
    headers = {name: value for name, value in headers.items() if name.isascii() or method == "PUT"}
    path = "/v1/AUTH_test/b/a%20b/%C3%A4~%25?prefix=x%2Fy&format=json"
    direct, through = connect(server.url), connect(server.url)
    through._sockets = None
    for connection in (direct, through):
        # A HEAD is answered without a body.
        server.script(answer(200, b"", {"Content-Length": "0"}))
        assert ask(connection, path, method, body, dict(headers)) == (200, b"")
        connection.close()
    first, second = (
        (each.method, each.target, each.headers, each.body) for each in server.received
    )
    assert first == second


def test_one_socket_serves_many_requests(server: ScriptedServer) -> None:
    connection = connect(server.url)
    for _ in range(3):
        assert ask(connection) == (200, b"body")
    connection.close()
    assert {request.connection for request in server.received} == {1}


def test_a_redirection_is_not_followed(server: ScriptedServer) -> None:
    with ScriptedServer(lambda request: answer(200)) as elsewhere:
        server.script(answer(302, b"", {"Location": f"{elsewhere.url}/b/k"}))
        assert ask(connect(server.url))[0] == 302
        assert elsewhere.received == []


def test_what_a_server_wants_to_be_remembered_is_not_sent(server: ScriptedServer) -> None:
    server.script(answer(200, b"", {"Set-Cookie": "a=b"}))
    connection = connect(server.url)
    ask(connection)
    ask(connection)
    assert "cookie" not in server.received[1].headers


def test_headers_of_one_name_are_joined(server: ScriptedServer) -> None:
    server.script(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX-A: 1\r\nX-A: 2\r\n\r\n")
    reply = connect(server.url).request("GET", "/v1/AUTH_test/b/k", b"", {})
    assert reply.headers["X-A"] == "1, 2"


def test_a_proxy_of_the_environment_is_used(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1/AUTH_test"))
    assert ask(connect("http://swift.test:8080/v1/AUTH_test")) == (200, b"body")
    assert server.received[0].target == "http://swift.test:8080/v1/AUTH_test/b/k"


def test_a_redirection_by_a_proxy_is_not_followed(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url.removesuffix("/v1/AUTH_test"))
    server.script(answer(302, b"", {"Location": "http://elsewhere.test/b/k"}))
    assert ask(connect("http://swift.test:8080/v1/AUTH_test"))[0] == 302
    assert len(server.received) == 1


def test_a_host_that_needs_no_proxy_is_reached_without(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert ask(connect(server.url)) == (200, b"body")
    assert server.received[0].target == "/v1/AUTH_test/b/k"


def test_the_environment_is_read_once(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connect(server.url)
    monkeypatch.setattr(
        requests.sessions, "get_environ_proxies", lambda *_, **__: pytest.fail("again")
    )
    assert ask(connection) == (200, b"body")


class Handler(BaseHTTPRequestHandler):
    """Answers every GET."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def tls_server(folder: Path, address: str) -> Iterator[tuple[str, Path]]:
    """Serve on loopback with a certificate for an address; yield the account and the file."""
    cert_file, key_file = certificate(folder, address)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    server.handle_error = lambda *args: None  # type: ignore[method-assign]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_port}/v1/AUTH_test", cert_file
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_given_certificate_is_trusted(tmp_path: Path) -> None:
    with tls_server(tmp_path, "127.0.0.1") as (url, cert_file):
        connection = connect(url, cert_file)
        assert ask(connection) == (200, b"ok")
        connection.close()


def test_a_certificate_of_the_environment_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server(tmp_path, "127.0.0.1") as (url, cert_file):
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(cert_file))
        connection = connect(url)
        assert ask(connection) == (200, b"ok")
        connection.close()


@pytest.mark.parametrize("is_given", [True, False], ids=["of another host", "of nobody"])
def test_another_certificate_gets_no_request(tmp_path: Path, is_given: bool) -> None:
    address = "127.0.0.9" if is_given else "127.0.0.1"
    with tls_server(tmp_path, address) as (url, cert_file):
        connection = connect(url, cert_file if is_given else None)
        with pytest.raises(urllib3.exceptions.SSLError):
            ask(connection)
        connection.close()
