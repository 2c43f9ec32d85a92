"""A small client of Keystone's API: what an administrator does to give people access."""

import http.client
import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from urllib.parse import urlencode, urlsplit

from allasfs.demo.credentials import ApplicationCredential, Credentials, KeyPair, Token
from allasfs.demo.errors import DemoError
from allasfs.demo.keystone import DOMAIN_ID, REGION

TIMEOUT_S = 60.0

Json = Mapping[str, Any]


class Session:
    """One connection to Keystone with one user's token."""

    def __init__(self, auth_url: str, username: str, password: str, project: str) -> None:
        """Prepare to log in to this project."""
        split = urlsplit(auth_url)
        self._prefix = split.path
        self._http = http.client.HTTPConnection(split.netloc, timeout=TIMEOUT_S)
        self.token = ""
        self.about: Json = {}  # what Keystone says of the token
        domain = {"id": DOMAIN_ID}
        user = {"name": username, "domain": domain, "password": password}
        self._auth = {
            "identity": {"methods": ["password"], "password": {"user": user}},
            "scope": {"project": {"name": project, "domain": domain}},
        }

    def log_in(self) -> None:
        """Get a token."""
        headers, body = self._exchange("POST", "/auth/tokens", {"auth": self._auth})
        self.token = headers["X-Subject-Token"]
        self.about = body["token"]

    def call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Make one request; return the answer's body, empty if there is none."""
        return self._exchange(method, path, body)[1]

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _exchange(
        self, method: str, path: str, body: Json | None
    ) -> tuple[http.client.HTTPMessage, Json]:
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["X-Auth-Token"] = self.token
        data = None if body is None else json.dumps(body)
        try:
            self._http.request(method, self._prefix + path, data, headers)
            response = self._http.getresponse()
            text = response.read()
        except OSError as exc:
            raise DemoError(f"Keystone does not answer {method} {path}: {exc}") from exc
        if response.status >= 400:
            raise DemoError(f"Keystone answers {method} {path} with {response.status}: {text!r}")
        return response.headers, json.loads(text) if text else {}


@contextmanager
def session(auth_url: str, username: str, password: str, project: str) -> Iterator[Session]:
    """Log in, and close the connection at the end."""
    opened = Session(auth_url, username, password, project)
    try:
        opened.log_in()
        yield opened
    finally:
        opened.close()


def publish(admin: Session, auth_url: str, storage_url: str) -> None:
    """Make the catalogue show these addresses."""
    _publish(admin, "identity", auth_url, REGION)
    publish_store(admin, storage_url, REGION)


def publish_store(admin: Session, storage_url: str, region: str) -> None:
    """Make the catalogue show this address of an object store in this region."""
    known = admin.call("GET", "/regions")["regions"]
    if region not in [each["id"] for each in known]:
        admin.call("POST", "/regions", {"region": {"id": region}})
    _publish(admin, "object-store", storage_url, region)


def _publish(admin: Session, service_type: str, url: str, region: str) -> None:
    service = _ensure(admin, "service", {"type": service_type}, {"name": "swift"})
    match = urlencode({"service_id": service, "region_id": region})
    found = admin.call("GET", f"/endpoints?{match}")["endpoints"]
    known = {endpoint["interface"]: endpoint for endpoint in found}
    for interface in ("public", "internal", "admin"):
        body = {
            "interface": interface,
            "service_id": service,
            "url": url,
            "region_id": region,
        }
        if interface not in known:
            admin.call("POST", "/endpoints", {"endpoint": body})
        elif known[interface]["url"] != url:
            path = f"/endpoints/{known[interface]['id']}"
            admin.call("PATCH", path, {"endpoint": {"url": url}})


def ensure_user(admin: Session, username: str, password: str, project: str, role: str) -> None:
    """Create project and user unless they are there, and give the user a role in the project."""
    in_domain = {"domain_id": DOMAIN_ID}
    project_id = _ensure(admin, "project", {"name": project, **in_domain}, {})
    user_id = _ensure(admin, "user", {"name": username, **in_domain}, {"password": password})
    role_id = _ensure(admin, "role", {"name": role}, {})
    admin.call("PUT", f"/projects/{project_id}/users/{user_id}/roles/{role_id}")


def look_up(auth_url: str, username: str, password: str, project: str) -> Credentials:
    """Log in once; return the complete credentials."""
    with session(auth_url, username, password, project) as opened:
        token = opened.about
    return Credentials(
        auth_url, username, password, token["user"]["id"], project, token["project"]["id"]
    )


def new_token(credentials: Credentials) -> Token:
    """Return a new token of this user and its account's address."""
    with _as_user(credentials) as user:
        token, about = user.token, user.about
    urls = [
        endpoint["url"]
        for service in about["catalog"]
        if service["type"] == "object-store"
        for endpoint in service["endpoints"]
        if (endpoint["interface"], endpoint["region_id"]) == ("public", credentials.region)
    ]
    return Token(token, urls[0])


def new_key_pair(credentials: Credentials) -> KeyPair:
    """Return a new key of this user for the S3 interface."""
    with _as_user(credentials) as user:
        answer = user.call(
            "POST",
            f"/users/{credentials.user_id}/credentials/OS-EC2",
            {"tenant_id": credentials.project_id},
        )["credential"]
    return KeyPair(answer["access"], answer["secret"])


def new_application_credential(credentials: Credentials, name: str) -> ApplicationCredential:
    """Return a new application credential with all roles that the user has in the project."""
    with _as_user(credentials) as user:
        answer = user.call(
            "POST",
            f"/users/{credentials.user_id}/application_credentials",
            {"application_credential": {"name": name}},
        )["application_credential"]
    return ApplicationCredential(credentials.auth_url, answer["id"], answer["secret"])


def _as_user(credentials: Credentials) -> AbstractContextManager[Session]:
    return session(
        credentials.auth_url,
        credentials.username,
        credentials.password,
        credentials.project_name,
    )


def _ensure(admin: Session, kind: str, match: dict[str, str], more: dict[str, str]) -> str:
    """Return the id of the thing that matches; create it if there is none."""
    found = admin.call("GET", f"/{kind}s?{urlencode(match)}")[f"{kind}s"]
    if not found:
        found = [admin.call("POST", f"/{kind}s", {kind: {**match, **more}})[kind]]
    return str(found[0]["id"])
