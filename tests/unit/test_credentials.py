"""Which credentials are used, in which order, and what is said when they are incomplete."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from allasfs.errors import BadCredentials
from allasfs.store.credentials import choose, read_token
from allasfs.store.forms import (
    ApplicationCredential,
    Credentials,
    GivenToken,
    NamedCloud,
    Password,
    Sources,
    SwiftV1,
)

SECRET = "s3cret"
AUTH_URL = "https://keystone.test:5001/v3"
STORAGE_URL = "https://swift.test/swift/v1/AUTH_abc"
PASSWORD = {
    "OS_AUTH_URL": AUTH_URL,
    "OS_USERNAME": "tester",
    "OS_PASSWORD": SECRET,
    "OS_PROJECT_NAME": "project_2001234",
}
APPLICATION = {
    "OS_AUTH_TYPE": "v3applicationcredential",
    "OS_AUTH_URL": AUTH_URL,
    "OS_APPLICATION_CREDENTIAL_ID": "abc",
    "OS_APPLICATION_CREDENTIAL_SECRET": SECRET,
}
TOKEN = {"OS_AUTH_TOKEN": SECRET, "OS_STORAGE_URL": STORAGE_URL}
V1 = {"ST_AUTH": "https://swift.test/auth/v1.0", "ST_USER": "test:tester", "ST_KEY": SECRET}
# As allas-conf leaves the environment; with -k the password stays, too.
ALLAS_CONF = {
    **TOKEN,
    "OS_AUTH_URL": AUTH_URL,
    "OS_PROJECT_NAME": "project_2001234",
    "OS_PROJECT_ID": "",
    "OS_USERNAME": "tester",
}

Form = TypeVar("Form", bound=Credentials)


class Maker:
    def __init__(self, home: Path) -> None:
        self.sources = Sources(environ={}, home=home)

    def choose(self, environ: dict[str, str], **sources: Any) -> Credentials:
        return choose(replace(self.sources, environ=environ, **sources))

    def make(self, form: type[Form], environ: dict[str, str], **sources: Any) -> Form:
        chosen = self.choose(environ, **sources)
        assert isinstance(chosen, form)
        return chosen

    def refuse(self, environ: dict[str, str], **sources: Any) -> str:
        with pytest.raises(BadCredentials) as caught:
            self.choose(environ, **sources)
        assert SECRET not in str(caught.value)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    def write(self, name: str, text: str) -> Path:
        path = self.sources.home / name
        path.write_text(text)
        return path


@pytest.fixture
def maker(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


# -- order ----------------------------------------------------------------------------------------


@pytest.fixture
def everything(maker: Maker) -> Maker:
    maker.write(
        ".allas_connection", "OS_AUTH_TOKEN=from-file\nOS_STORAGE_URL=http://file.test/v1/a"
    )
    return maker


def test_rc_file_of_the_command_line_comes_first(everything: Maker) -> None:
    rc_file = everything.write(
        "rc", f"export OS_AUTH_URL={AUTH_URL} OS_USERNAME=a OS_PASSWORD=b OS_PROJECT_NAME=c"
    )
    chosen = everything.make(Password, {**TOKEN, **V1, "OS_CLOUD": "x"}, rc_file=rc_file)
    assert chosen.password == "b"
    assert chosen.place.source == str(rc_file)


def test_nothing_of_the_environment_is_mixed_into_an_rc_file(everything: Maker) -> None:
    text = f"OS_AUTH_URL={AUTH_URL}\nOS_USERNAME=a\nOS_PASSWORD=b\n"
    rc_file = everything.write("rc", text)
    message = everything.refuse({**PASSWORD, **TOKEN}, rc_file=rc_file)
    assert message == f"{rc_file}: OS_PROJECT_NAME is not set: the project, as in project_2001234"


def test_cloud_of_the_command_line_comes_before_the_environment(everything: Maker) -> None:
    chosen = everything.make(NamedCloud, {**PASSWORD, "OS_CLOUD": "other"}, cloud="mine")
    assert chosen.name == "mine"


def test_rc_file_and_cloud_together_are_refused(maker: Maker) -> None:
    message = maker.refuse({}, cloud="mine", rc_file=Path("rc"))
    assert message == "an RC file and a cloud are both given: give one of them"


def test_cloud_of_the_environment_comes_before_its_variables(everything: Maker) -> None:
    assert everything.make(NamedCloud, {**PASSWORD, "OS_CLOUD": "mine"}).name == "mine"


def test_environment_comes_before_the_connection_file(everything: Maker) -> None:
    assert everything.make(GivenToken, TOKEN).token == SECRET


def test_connection_file_is_used_where_the_environment_has_no_secret(everything: Maker) -> None:
    environ = {**PASSWORD, "OS_PASSWORD": ""}
    chosen = everything.make(GivenToken, environ, ask_password=lambda prompt: "typed")
    assert (chosen.token, chosen.place.storage_url) == ("from-file", "http://file.test/v1/a")


def test_password_is_asked_for_when_only_it_is_missing(maker: Maker) -> None:
    prompts: list[str] = []

    def ask(prompt: str) -> str:
        prompts.append(prompt)
        return "typed"

    chosen = maker.make(Password, {**PASSWORD, "OS_PASSWORD": ""}, ask_password=ask)
    assert chosen.password == "typed"
    assert prompts == ["OpenStack password of tester: "]


def test_no_credentials_at_all_say_where_to_get_some(maker: Maker) -> None:
    assert maker.refuse({"PATH": "/bin"}, ask_password=lambda prompt: "x").startswith(
        "no credentials are set: source the OpenStack RC file"
    )


@pytest.mark.parametrize(
    ("environ", "form"),
    [
        (PASSWORD, Password),
        (APPLICATION, ApplicationCredential),
        ({**APPLICATION, "OS_AUTH_TYPE": ""}, ApplicationCredential),
        (TOKEN, GivenToken),
        (ALLAS_CONF, GivenToken),
        ({**ALLAS_CONF, "OS_PASSWORD": SECRET}, Password),
        ({**ALLAS_CONF, "OS_PASSWORD": SECRET, "OS_AUTH_URL": ""}, GivenToken),
        ({**PASSWORD, **TOKEN, "OS_AUTH_TYPE": "v3token"}, GivenToken),
        ({**PASSWORD, **APPLICATION, "OS_PROJECT_NAME": ""}, ApplicationCredential),
        ({**PASSWORD, **APPLICATION, "OS_AUTH_TYPE": "password"}, Password),
        ({"OS_TOKEN": SECRET, "OS_AUTH_URL": AUTH_URL}, GivenToken),
        (V1, SwiftV1),
        ({**V1, **PASSWORD}, Password),
        ({**V1, **PASSWORD, "ST_AUTH_VERSION": "1.0"}, SwiftV1),
        ({**V1, "OS_AUTH_VERSION": "1"}, SwiftV1),
    ],
)
def test_variables_decide_the_form(
    maker: Maker, environ: dict[str, str], form: type[Credentials]
) -> None:
    assert type(maker.choose(environ)) is form


def test_password_beside_a_token_is_used_and_said(maker: Maker) -> None:
    chosen = maker.make(Password, {**ALLAS_CONF, "OS_PASSWORD": SECRET})
    assert chosen.note.startswith("OS_AUTH_TOKEN is not used")
    assert chosen.place.storage_url == STORAGE_URL


# -- values ---------------------------------------------------------------------------------------


def domains(chosen: Password) -> tuple[str | None, str | None, str | None, str | None]:
    user, project = chosen.user.domain, chosen.project.domain
    return user.id, user.name, project.id, project.name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, ("default", None, "default", None)),
        ({"OS_USER_DOMAIN_NAME": "D"}, (None, "D", None, "D")),
        ({"OS_USER_DOMAIN_ID": "d"}, ("d", None, "d", None)),
        ({"OS_PROJECT_DOMAIN_NAME": "P"}, ("default", None, None, "P")),
        ({"OS_USER_DOMAIN_NAME": "D", "OS_PROJECT_DOMAIN_ID": "p"}, (None, "D", "p", None)),
        ({"OS_USER_DOMAIN_NAME": "D", "OS_USER_DOMAIN_ID": "d"}, ("d", None, "d", None)),
    ],
)
def test_missing_domains(
    maker: Maker, environ: dict[str, str], expected: tuple[str | None, ...]
) -> None:
    assert domains(maker.make(Password, {**PASSWORD, **environ})) == expected


def test_ids_come_before_names(maker: Maker) -> None:
    chosen = maker.make(Password, {**PASSWORD, "OS_USER_ID": "u", "OS_PROJECT_ID": "p"})
    assert (chosen.user.id, chosen.user.name, chosen.project.id) == ("u", None, "p")


def test_old_names_of_projects_are_understood(maker: Maker) -> None:
    environ = {**PASSWORD, "OS_PROJECT_NAME": "", "OS_TENANT_NAME": "old"}
    assert maker.make(Password, environ).project.name == "old"


@pytest.mark.parametrize(
    ("environ", "interface"),
    [
        ({}, None),
        ({"OS_INTERFACE": "internal"}, "internal"),
        ({"OS_ENDPOINT_TYPE": "publicURL"}, "public"),
        ({"OS_INTERFACE": "adminURL", "OS_ENDPOINT_TYPE": "publicURL"}, "admin"),
    ],
)
def test_interface_in_its_two_spellings(
    maker: Maker, environ: dict[str, str], interface: str | None
) -> None:
    assert maker.make(Password, {**PASSWORD, **environ}).place.interface == interface


def test_options_come_before_variables(maker: Maker) -> None:
    environ = {
        **PASSWORD,
        "OS_REGION_NAME": "a",
        "OS_INTERFACE": "admin",
        "OS_STORAGE_URL": "http://a/v1",
    }
    place = maker.make(
        Password, environ, region="b", interface="internalURL", storage_url="http://b/v1/"
    ).place
    assert (place.region, place.interface, place.storage_url) == ("b", "internal", "http://b/v1")


def test_rc_file_takes_password_and_ca_file_from_the_environment(
    maker: Maker, tmp_path: Path
) -> None:
    text = f"OS_AUTH_URL={AUTH_URL}\nOS_USERNAME=a\nOS_PROJECT_NAME=c\n"
    environ = {"OS_PASSWORD": SECRET, "OS_CACERT": str(tmp_path)}
    chosen = maker.make(Password, environ, rc_file=maker.write("rc", text))
    assert (chosen.password, chosen.place.ca_file) == (SECRET, str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [
        "export OS_AUTH_TOKEN='t'\nexport OS_STORAGE_URL=\"{}\"\n",
        "OS_AUTH_TOKEN=t\nOS_STORAGE_URL={}/\n",
    ],
)
def test_connection_file_with_and_without_export(maker: Maker, text: str) -> None:
    path = maker.write(".allas_connection", text.format(STORAGE_URL))
    chosen = maker.make(GivenToken, {})
    assert (chosen.token, chosen.place.storage_url) == ("t", STORAGE_URL)
    assert read_token(path) == ("t", STORAGE_URL)


@pytest.mark.parametrize("text", ["", "OS_AUTH_TOKEN=t", "OS_AUTH_TOKEN='", "OS_AUTH_TOKEN=$(x)"])
def test_broken_connection_file_has_no_token(maker: Maker, text: str) -> None:
    assert read_token(maker.write(".allas_connection", text)) is None


def test_missing_connection_file_has_no_token(tmp_path: Path) -> None:
    assert read_token(tmp_path / "none") is None


# -- errors ---------------------------------------------------------------------------------------


def without(environ: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in environ.items() if key != name}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        *((without(PASSWORD, name), name) for name in PASSWORD),
        (without(APPLICATION, "OS_AUTH_URL"), "OS_AUTH_URL"),
        (without(APPLICATION, "OS_APPLICATION_CREDENTIAL_ID"), "OS_APPLICATION_CREDENTIAL_ID"),
        (
            without(APPLICATION, "OS_APPLICATION_CREDENTIAL_SECRET"),
            "OS_APPLICATION_CREDENTIAL_SECRET",
        ),
        (
            {
                **without(APPLICATION, "OS_APPLICATION_CREDENTIAL_ID"),
                "OS_APPLICATION_CREDENTIAL_NAME": "n",
            },
            "OS_USERNAME",
        ),
        (without(TOKEN, "OS_STORAGE_URL"), "OS_STORAGE_URL"),
        ({"OS_AUTH_TYPE": "token", **without(ALLAS_CONF, "OS_AUTH_TOKEN")}, "OS_AUTH_TOKEN"),
        (without(V1, "ST_AUTH"), "ST_AUTH"),
        (without(V1, "ST_USER"), "ST_USER"),
        ({**without(V1, "ST_KEY"), "ST_AUTH_VERSION": "1"}, "ST_KEY"),
    ],
)
def test_missing_variable_is_named(maker: Maker, environ: dict[str, str], name: str) -> None:
    assert maker.refuse(environ).startswith(f"{name} is not set: ")


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {**APPLICATION, "OS_PROJECT_ID": "p"},
            "OS_PROJECT_ID and an application credential are both set",
        ),
        (
            {**APPLICATION, "OS_TENANT_NAME": "p"},
            "OS_TENANT_NAME and an application credential are both set",
        ),
        (
            {**PASSWORD, **APPLICATION, "OS_AUTH_TYPE": ""},
            "OS_PASSWORD and OS_APPLICATION_CREDENTIAL_SECRET are both set",
        ),
        ({**PASSWORD, "OS_TENANT_NAME": "other"}, "OS_PROJECT_NAME and OS_TENANT_NAME differ"),
        ({**PASSWORD, "OS_AUTH_TYPE": "v3kerberos"}, "OS_AUTH_TYPE=v3kerberos is not known"),
        (
            {**PASSWORD, "OS_IDENTITY_API_VERSION": "2"},
            "OS_IDENTITY_API_VERSION=2 is not supported",
        ),
        ({**PASSWORD, "OS_IDENTITY_API_VERSION": "2.0"}, "OS_IDENTITY_API_VERSION=2.0 is not"),
        ({**PASSWORD, "OS_AUTH_URL": "https://k.test/v2.0/"}, "OS_AUTH_URL=https://k.test/v2.0 is"),
        ({**PASSWORD, "OS_AUTH_URL": "keystone.test/v3"}, "OS_AUTH_URL is no address"),
        ({**PASSWORD, "OS_AUTH_URL": "ftp://keystone.test/v3"}, "OS_AUTH_URL is no address"),
        ({**PASSWORD, "OS_AUTH_URL": "http://k.test:99999/"}, "OS_AUTH_URL is no address"),
        ({**PASSWORD, "OS_AUTH_URL": f"https://u:{SECRET}@k.test/"}, "OS_AUTH_URL is an address w"),
        (
            {**TOKEN, "OS_STORAGE_URL": f"https://k.test/?t={SECRET}"},
            "OS_STORAGE_URL is an address",
        ),
        ({**TOKEN, "OS_AUTH_TOKEN": f"{SECRET}\n"}, "OS_AUTH_TOKEN has blanks or control"),
        ({**TOKEN, "OS_AUTH_TOKEN": f"{SECRET}\r\nX: y"}, "OS_AUTH_TOKEN has blanks or control"),
        ({**PASSWORD, "OS_INTERFACE": "private"}, "OS_INTERFACE is 'private': use public"),
        ({**PASSWORD, "OS_INSECURE": "true"}, "OS_INSECURE is set, and allasfs never talks"),
        ({**PASSWORD, "OS_CACERT": "/no/such/file"}, "OS_CACERT /no/such/file cannot be read: No"),
        ({**V1, "ST_AUTH_VERSION": "3"}, "ST_AUTH_VERSION=3 is not known"),
        ({**V1, "ST_KEY": f"{SECRET}\n"}, "ST_KEY has blanks or control"),
    ],
)
def test_contradiction_or_fault_is_named(
    maker: Maker, environ: dict[str, str], message: str
) -> None:
    assert maker.refuse(environ).startswith(message)


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no"])
def test_insecure_that_is_false_is_no_fault(maker: Maker, value: str) -> None:
    maker.make(Password, {**PASSWORD, "OS_INSECURE": value})


@pytest.mark.parametrize("version", ["3", "3.0", "v3"])
def test_version_3_in_its_spellings(maker: Maker, version: str) -> None:
    maker.make(Password, {**PASSWORD, "OS_IDENTITY_API_VERSION": version})


def test_file_without_certificates_is_named(maker: Maker) -> None:
    path = maker.write("ca.pem", "no certificate")
    assert maker.refuse(PASSWORD, ca_file=path) == (
        f"the CA file {path} holds no certificates in PEM form"
    )


def test_rc_file_without_any_variable_is_named(maker: Maker) -> None:
    path = maker.write("rc", "echo hello\n")
    assert maker.refuse(PASSWORD, rc_file=path) == (
        f"{path}: sets none of the OpenStack variables (OS_AUTH_URL...)"
    )


@pytest.mark.parametrize("environ", [PASSWORD, APPLICATION, TOKEN, V1, {"OS_CLOUD": "x"}])
def test_no_record_shows_its_secret(maker: Maker, environ: dict[str, str]) -> None:
    chosen = maker.choose({**environ, "OS_PASSWORD": SECRET} if "OS_CLOUD" in environ else environ)
    sources = replace(maker.sources, environ=environ)
    assert SECRET not in repr(chosen) + repr(sources)
    for record in (chosen, sources):
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(record)


def test_clouds_are_looked_for_as_other_programs_do(maker: Maker, tmp_path: Path) -> None:
    environ = {"OS_CLIENT_CONFIG_FILE": "/x/my.yaml", "OS_CLIENT_SECURE_FILE": "/x/secret.yaml"}
    chosen = maker.make(NamedCloud, environ, cloud="mine")
    assert [str(path) for path in chosen.config_files] == [
        "/x/my.yaml",
        "clouds.yaml",
        "clouds.yml",
        "clouds.json",
        *(f"{tmp_path}/.config/openstack/clouds.{suffix}" for suffix in ("yaml", "yml", "json")),
        *(f"/etc/openstack/clouds.{suffix}" for suffix in ("yaml", "yml", "json")),
    ]
    assert str(chosen.secure_files[0]) == "/x/secret.yaml"
    chosen = maker.make(NamedCloud, {"XDG_CONFIG_HOME": "/conf"}, cloud="mine")
    assert str(chosen.config_files[3]) == "/conf/openstack/clouds.yaml"
