"""Every form of credentials against a real Keystone, and its token against a real Swift."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from allasfs.demo import Cloud
from allasfs.errors import BadCredentials, HostUnreachable, SetupError
from allasfs.store.auth import Auth, Endpoint, Sources, load
from tests.conftest import ExpectedLogs

pytestmark = pytest.mark.swift

THREADS = 16
# Keystone's times have whole seconds: a token may end almost one second before its life is over.
LIFE_S = 6


@pytest.fixture(scope="module")
def hasty_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud whose tokens live for seconds."""
    with Cloud(tmp_path_factory.mktemp("hasty") / "cloud", token_lifetime_s=LIFE_S) as cloud:
        yield cloud


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    return Sources(environ={}, home=tmp_path, timeout_s=30, cloud_folders=(tmp_path,))


def status_of(endpoint: Endpoint) -> int:
    """Ask the store for the account; return the status of its answer."""
    url = urlsplit(endpoint.storage_url)
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    try:
        connection.request("HEAD", url.path, headers={"X-Auth-Token": endpoint.token})
        return connection.getresponse().status
    finally:
        connection.close()


def is_open(endpoint: Endpoint) -> bool:
    return status_of(endpoint) in {200, 204}


def opens(auth: Auth, cloud: Cloud) -> bool:
    """Tell whether this is the cloud's first account, and open."""
    endpoint = auth.endpoint()
    return endpoint.storage_url == cloud.storage_url and is_open(endpoint)


def refuse(auth: Auth) -> SetupError:
    with pytest.raises(SetupError) as caught:
        auth.endpoint()
    return caught.value


def revoke(token: str, cloud: Cloud) -> None:
    """Make Keystone refuse this token, as if it had expired; Swift must not have seen it yet."""
    url = urlsplit(cloud.auth_url)
    connection = http.client.HTTPConnection(url.netloc, timeout=30)
    try:
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        connection.request("DELETE", f"{url.path}/auth/tokens", headers=headers)
        assert connection.getresponse().status == 204
    finally:
        connection.close()


class Client:
    """Makes requests as the store's client does, and counts the tokens that it got to see."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._lock = threading.Lock()
        self.tokens: set[str] = set()

    def request(self) -> bool:
        """Make one request, again with another token while there is one; tell whether it worked."""
        while True:
            endpoint = self._auth.endpoint()
            with self._lock:
                self.tokens.add(endpoint.token)
            status = status_of(endpoint)
            if status != 401 or not self._auth.refused(endpoint.token):
                return status in {200, 204}


# -- forms ----------------------------------------------------------------------------------------


def test_password(cloud: Cloud, sources: Sources) -> None:
    auth = load(replace(sources, environ=cloud.environ))
    assert opens(auth, cloud)
    expires_at = auth.expires_at()
    assert expires_at is not None
    assert 7 * 3600 < expires_at - time.time() <= 8 * 3600
    assert auth.describe()["project id"] == cloud.credentials.project_id


def test_password_with_names_only(cloud: Cloud, sources: Sources) -> None:
    """The variables of CSC's Python example: no id, and no domain of the project."""
    names = ("OS_AUTH_URL", "OS_USERNAME", "OS_PASSWORD", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME")
    environ = {name: cloud.environ[name] for name in names}
    assert opens(load(replace(sources, environ=environ)), cloud)
    del environ["OS_USER_DOMAIN_NAME"]
    assert opens(load(replace(sources, environ=environ)), cloud)


def test_address_of_keystone_without_its_version(cloud: Cloud, sources: Sources) -> None:
    environ = {**cloud.environ, "OS_AUTH_URL": cloud.auth_url.removesuffix("/v3")}
    assert opens(load(replace(sources, environ=environ)), cloud)


def test_rc_file(cloud: Cloud, sources: Sources) -> None:
    assert opens(load(replace(sources, rc_file=cloud.rc_file)), cloud)


def test_rc_file_that_asks_for_the_password(cloud: Cloud, sources: Sources) -> None:
    text = cloud.rc_file.read_text()
    lines = [line for line in text.splitlines() if "OS_PASSWORD=" not in line]
    lines += ['echo "Please enter: "', "read -sr OS_PASSWORD_INPUT"]
    lines += ["export OS_PASSWORD=$OS_PASSWORD_INPUT"]
    path = sources.home / "openrc.sh"
    path.write_text("\n".join(lines))
    password = cloud.credentials.password
    asking = replace(sources, rc_file=path, ask_password=lambda prompt: password)
    assert opens(load(asking), cloud)
    outside = replace(sources, rc_file=path, environ={"OS_PASSWORD": password})
    assert opens(load(outside), cloud)


def test_application_credential_by_id_and_by_name(cloud: Cloud, sources: Sources) -> None:
    credential = cloud.application_credential("for-auth-test")
    environ = credential.environ()
    assert opens(load(replace(sources, environ=environ)), cloud)
    del environ["OS_APPLICATION_CREDENTIAL_ID"]
    environ["OS_APPLICATION_CREDENTIAL_NAME"] = "for-auth-test"
    environ["OS_USERNAME"] = cloud.credentials.username
    assert opens(load(replace(sources, environ=environ)), cloud)


def test_token_with_storage_url(cloud: Cloud, sources: Sources) -> None:
    assert opens(load(replace(sources, environ=cloud.token().environ())), cloud)


@pytest.mark.parametrize("has_project", [False, True])
def test_token_with_keystone(cloud: Cloud, sources: Sources, *, has_project: bool) -> None:
    environ = {"OS_AUTH_TOKEN": cloud.token().id, "OS_AUTH_URL": cloud.auth_url}
    if has_project:
        environ["OS_PROJECT_NAME"] = cloud.credentials.project_name
    assert opens(load(replace(sources, environ=environ)), cloud)


@pytest.mark.semantics("T2")
def test_refused_token_with_keystone_is_replaced_from_the_connection_file(
    cloud: Cloud, sources: Sources
) -> None:
    old, new = cloud.token(), cloud.token()
    environ = {"OS_AUTH_TOKEN": old.id, "OS_AUTH_URL": cloud.auth_url}
    auth = load(replace(sources, environ=environ))
    assert opens(auth, cloud)
    text = f"export OS_AUTH_TOKEN={new.id}\nexport OS_STORAGE_URL={new.storage_url}\n"
    (sources.home / ".allas_connection").write_text(text)
    assert auth.refused(old.id)
    assert auth.endpoint().token == new.id
    assert opens(auth, cloud)


def test_token_of_one_project_for_another(cloud: Cloud, sources: Sources) -> None:
    other = cloud.add_user(cloud.credentials.username, "project_2009999")
    environ = {"OS_AUTH_TOKEN": cloud.token().id, "OS_AUTH_URL": cloud.auth_url}
    environ["OS_PROJECT_NAME"] = other.project_name
    auth = load(replace(sources, environ=environ))
    assert auth.endpoint().storage_url.endswith(f"AUTH_{other.project_id}")
    assert is_open(auth.endpoint())


def test_cloud_of_clouds_yaml(cloud: Cloud, sources: Sources) -> None:
    own = cloud.credentials
    (sources.home / "clouds.yaml").write_text(
        f"clouds:\n  demo:\n    region_name: regionOne\n    auth:\n      auth_url: {own.auth_url}\n"
        f"      username: {own.username}\n      project_name: {own.project_name}\n"
        "      user_domain_name: Default\n      project_domain_name: Default\n"
    )
    (sources.home / "secure.yaml").write_text(
        f"clouds:\n  demo:\n    auth:\n      password: '{own.password}'\n"
    )
    auth = load(replace(sources, cloud="demo"))
    assert opens(auth, cloud)
    assert auth.describe()["region"] == "regionOne"


def test_application_credential_of_clouds_yaml(cloud: Cloud, sources: Sources) -> None:
    own = cloud.application_credential("for-clouds-yaml")
    (sources.home / "clouds.yaml").write_text(
        f"clouds:\n  demo:\n    auth_type: v3applicationcredential\n    auth:\n"
        f"      auth_url: {own.auth_url}\n      application_credential_id: {own.id}\n"
        f"      application_credential_secret: {own.secret}\n"
    )
    assert opens(load(replace(sources, environ={"OS_CLOUD": "demo"})), cloud)


# -- refusals -------------------------------------------------------------------------------------


def test_wrong_password(cloud: Cloud, sources: Sources) -> None:
    environ = {**cloud.environ, "OS_PASSWORD": "not-the-password"}
    error = refuse(load(replace(sources, environ=environ)))
    assert type(error) is BadCredentials
    assert str(error) == (
        f"{cloud.auth_url} refused user {cloud.credentials.username}, password or project"
        f" {cloud.credentials.project_name}"
    )


@pytest.mark.parametrize("name", ["OS_USERNAME", "OS_PROJECT_NAME", "OS_USER_DOMAIN_NAME"])
def test_unknown_name(cloud: Cloud, sources: Sources, name: str) -> None:
    environ = {**cloud.environ, "OS_PROJECT_ID": "", name: "nobody"}
    assert type(refuse(load(replace(sources, environ=environ)))) is BadCredentials


def test_wrong_secret_of_an_application_credential(cloud: Cloud, sources: Sources) -> None:
    environ = cloud.application_credential("wrong-secret").environ()
    environ["OS_APPLICATION_CREDENTIAL_SECRET"] = "not-the-secret"
    assert type(refuse(load(replace(sources, environ=environ)))) is BadCredentials


def test_token_that_keystone_does_not_know(cloud: Cloud, sources: Sources) -> None:
    environ = {"OS_AUTH_TOKEN": "no-token", "OS_AUTH_URL": cloud.auth_url}
    assert type(refuse(load(replace(sources, environ=environ)))) is BadCredentials


def test_unknown_region(cloud: Cloud, sources: Sources) -> None:
    error = refuse(load(replace(sources, environ=cloud.environ, region="regionTwo")))
    # The catalog has a second one while the tests on Ceph RGW run.
    assert "set OS_REGION_NAME to one of " in str(error)
    assert "regionOne" in str(error).rpartition("one of ")[2]


@pytest.mark.parametrize("address", ["swift", "no such path"])
def test_address_that_is_not_keystones(cloud: Cloud, sources: Sources, address: str) -> None:
    url = f"{cloud.swift_url}/v3" if address == "swift" else f"{cloud.auth_url}/no/such/path"
    error = refuse(load(replace(sources, environ={**cloud.environ, "OS_AUTH_URL": url})))
    assert type(error) is BadCredentials
    assert str(error).startswith(url)


def test_keystone_that_is_down_and_comes_back(cloud: Cloud, sources: Sources) -> None:
    auth = load(replace(sources, environ=cloud.environ))
    cloud.kill_keystone()
    try:
        error = refuse(auth)
    finally:
        cloud.start_keystone()
    assert type(error) is HostUnreachable
    assert str(error).endswith("cannot be reached: Connection refused")
    assert opens(auth, cloud)


def test_keystone_that_does_not_answer_and_does_later(cloud: Cloud, sources: Sources) -> None:
    auth = load(replace(sources, environ=cloud.environ, timeout_s=1))
    cloud.pause_keystone()
    try:
        error = refuse(auth)
    finally:
        cloud.resume_keystone()
    assert type(error) is HostUnreachable
    auth = load(replace(sources, environ=cloud.environ))
    assert opens(auth, cloud)


# -- renewal --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_16_threads_at_work_while_tokens_come_and_go(hasty_cloud: Cloud, sources: Sources) -> None:
    client = Client(load(replace(sources, environ=hasty_cloud.environ)))
    begin_s = time.monotonic()

    def work() -> bool:
        is_good = True
        while time.monotonic() < begin_s + 2.5 * LIFE_S:
            is_good &= client.request()
        return is_good

    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(work) for _ in range(THREADS)]
        assert all(future.result() for future in futures)
    # One after three quarters of a life at the earliest, however many threads need it.
    assert 3 <= len(client.tokens) <= 2 + (time.monotonic() - begin_s) / (0.75 * LIFE_S - 1)


def test_16_threads_refused_with_one_token(cloud: Cloud, sources: Sources) -> None:
    auth = load(replace(sources, environ=cloud.environ))
    client = Client(auth)
    revoke(auth.endpoint().token, cloud)
    with ThreadPoolExecutor(THREADS) as pool:
        futures = [pool.submit(client.request) for _ in range(THREADS)]
        assert all(future.result() for future in futures)
    assert len(client.tokens) == 2


def test_connection_file_written_anew_renews_a_token(
    cloud: Cloud, sources: Sources, expected_logs: ExpectedLogs
) -> None:
    expected_logs("the object store refuses the token: .* run allas-conf --store-token")

    def store_token() -> str:
        token = cloud.token()
        lines = "".join(f"{name}={value}\n" for name, value in token.environ().items())
        (sources.home / ".allas_connection").write_text(lines)
        return token.id

    old = store_token()
    client = Client(load(sources))
    revoke(old, cloud)
    assert not client.request()
    new = store_token()
    assert client.request()
    assert client.tokens == {old, new}
