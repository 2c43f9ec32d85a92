"""Which credentials a command was given: from options, environment and files to one frozen record.

The first of these that is there is used, and nothing of the later ones is mixed in:

1. on the command line: an RC file, a cloud of ``clouds.yaml`` by name, a file that holds a token,
   or a command that prints one (only one of these);
2. in the environment: ``OS_CLOUD``; else the ``OS_*`` and ``ST_*`` variables (below);
3. ``~/.allas_connection``, which ``allas-conf --store-token`` writes;
4. a password that the user types, when the environment has all but the password.

Of the environment an RC file sees ``OS_PASSWORD`` (where it asks for the password, or has none) and
``OS_CACERT``; what its lines themselves refer to (``$HOME``) they get.

Variables, in the environment or in an RC file, are read in this order: ``OS_AUTH_TYPE`` decides if
it is set, and ``ST_AUTH_VERSION=1`` means Swift's own authentication; else an application
credential; else a password (with a token beside it, as ``allas-conf -k`` leaves them, the password,
because it can be used again when the token has expired); else a token; else ``ST_*``.
An empty variable counts as not set.

``OS_INSECURE`` is never honoured, and an error when it is true: the password or token would go to
whoever answers, and a CA file (``OS_CACERT``) serves the same purpose.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from allasfs.errors import BadCredentials
from allasfs.store import rcfile
from allasfs.store.forms import (
    ApplicationCredential,
    Credentials,
    Domain,
    GivenToken,
    NamedCloud,
    Password,
    Place,
    Project,
    Sources,
    SwiftV1,
    TokenFrom,
    User,
    check_ca_file,
    check_interface,
    check_url,
    header_safe,
    optional_url,
)

# The domain of every user and project of Allas; allas-conf never sets the project's.
DEFAULT_DOMAIN_ID = "default"
CONNECTION_FILE = ".allas_connection"
ENVIRONMENT = "the environment"

NAMES = frozenset({"ST_AUTH", "ST_AUTH_VERSION", "ST_KEY", "ST_USER"}).union(
    f"OS_{name}"
    for name in (
        "APPLICATION_CREDENTIAL_ID",
        "APPLICATION_CREDENTIAL_NAME",
        "APPLICATION_CREDENTIAL_SECRET",
        "AUTH_TOKEN",
        "AUTH_TYPE",
        "AUTH_URL",
        "AUTH_VERSION",
        "CACERT",
        "CLOUD",
        "ENDPOINT_TYPE",
        "IDENTITY_API_VERSION",
        "INSECURE",
        "INTERFACE",
        "PASSWORD",
        "PROJECT_DOMAIN_ID",
        "PROJECT_DOMAIN_NAME",
        "PROJECT_ID",
        "PROJECT_NAME",
        "REGION_NAME",
        "STORAGE_URL",
        "TENANT_ID",
        "TENANT_NAME",
        "TOKEN",
        "USERNAME",
        "USER_DOMAIN_ID",
        "USER_DOMAIN_NAME",
        "USER_ID",
    )
)

_PASSWORD_TYPES = frozenset({"password", "v3password"})
_TOKEN_TYPES = frozenset({"token", "v3token"})
_APPLICATION_TYPES = frozenset({"v3applicationcredential"})
_FALSE = frozenset({"", "0", "false", "no", "off", "n", "f"})


def choose(sources: Sources) -> Credentials:
    """Return the credentials to use; raise BadCredentials with one line when there are none."""
    given = {
        "an RC file": sources.rc_file,
        "a cloud": sources.cloud,
        "a token file": sources.token_file,
        "a token command": sources.token_command,
    }
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise BadCredentials(f"{' and '.join(names)} are both given: give one of them")
    if sources.token_file is not None or sources.token_command is not None:
        return _token_from(sources)
    if sources.rc_file is not None:
        return _from_rc_file(sources, sources.rc_file)
    if cloud := sources.cloud or sources.environ.get("OS_CLOUD"):
        return _named_cloud(sources, sources.environ, cloud)
    variables = _Variables(sources.environ, sources, ENVIRONMENT)
    if variables.form:
        return variables.credentials()
    connection = sources.home / CONNECTION_FILE
    if connection.exists():
        found = read_connection(connection, sources.home)
        return _Variables(found, sources, f"~/{CONNECTION_FILE}").token()
    return variables.with_password(sources.ask_password).credentials()


def read_connection(path: Path, home: Path) -> dict[str, str]:
    """Return the variables that a file like ``~/.allas_connection`` sets; raise BadCredentials."""
    return rcfile.read(path, wanted={"OS_AUTH_TOKEN", "OS_STORAGE_URL"}, environ={}, home=home)


def read_token(path: Path) -> tuple[str, str] | None:
    """Return token and storage URL of a file like ``~/.allas_connection``; None if it has none."""
    try:
        found = read_connection(path, path.parent)
        token = header_safe("OS_AUTH_TOKEN", found.get("OS_AUTH_TOKEN", ""))
        url = optional_url("OS_STORAGE_URL", found.get("OS_STORAGE_URL"))
    except BadCredentials:
        return None
    return (token, url) if token and url else None


def _from_rc_file(sources: Sources, path: Path) -> Credentials:
    found = rcfile.read(
        path,
        wanted=NAMES,
        environ=sources.environ,
        home=sources.home,
        ask_password=sources.ask_password,
    )
    if not found:
        raise BadCredentials(f"{path}: sets none of the OpenStack variables (OS_AUTH_URL...)")
    cacert = sources.environ.get("OS_CACERT")
    if cacert and "OS_CACERT" not in found:
        found["OS_CACERT"] = cacert
    if "OS_CLOUD" in found:
        return _named_cloud(sources, found, found["OS_CLOUD"])
    variables = _Variables(found, sources, str(path))
    if variables.form:
        return variables.credentials()
    if password := sources.environ.get("OS_PASSWORD"):
        return _Variables({**found, "OS_PASSWORD": password}, sources, str(path)).credentials()
    return variables.with_password(sources.ask_password).credentials()


def _token_from(sources: Sources) -> TokenFrom:
    file, command = sources.token_file, sources.token_command
    source = str(file) if file is not None else "the token command"
    if file is None and not command:
        raise BadCredentials("the token command is empty")
    if not sources.storage_url:
        raise BadCredentials(
            f"{source}: a token alone does not say where the store is: give the storage URL, too"
            " (--storage-url)"
        )
    cacert = sources.ca_file or sources.environ.get("OS_CACERT")
    return TokenFrom(
        place=Place(
            source=source,
            storage_url=check_url("the storage URL", sources.storage_url),
            ca_file=check_ca_file("the CA file" if sources.ca_file else "OS_CACERT", cacert),
        ),
        file=file,
        command=command or "",
        environ=sources.environ,
    )


def _named_cloud(sources: Sources, variables: Mapping[str, str], name: str) -> NamedCloud:
    environ = sources.environ
    folders = sources.cloud_folders
    if folders is None:
        config_home = Path(environ.get("XDG_CONFIG_HOME") or sources.home / ".config")
        folders = (Path(), config_home / "openstack", Path("/etc/openstack"))

    def files(stem: str, first: str = "") -> tuple[Path, ...]:
        named = [Path(environ[first])] if environ.get(first) else []
        suffixes = ("yaml", "yml", "json")
        found = [folder / f"{stem}.{suffix}" for folder in folders for suffix in suffixes]
        return (*named, *found)

    return NamedCloud(
        name=name,
        config_files=files("clouds", "OS_CLIENT_CONFIG_FILE"),
        secure_files=files("secure", "OS_CLIENT_SECURE_FILE"),
        vendor_files=files("clouds-public"),
        password=variables.get("OS_PASSWORD") or environ.get("OS_PASSWORD") or None,
        ask_password=sources.ask_password,
        place=Place(
            source=f"cloud {name}",
            storage_url=optional_url("the storage URL", sources.storage_url),
            region=sources.region,
            interface=check_interface("the interface", sources.interface),
            ca_file=check_ca_file("the CA file", sources.ca_file),
        ),
    )


class _Variables:
    """The variables of one source, and the credentials that they make."""

    def __init__(self, variables: Mapping[str, str], sources: Sources, source: str) -> None:
        self._variables = variables
        self._sources = sources
        self._source = source
        self.form = self._form()

    def get(self, *names: str) -> str | None:
        """Return the first of these that is set."""
        return next((self._variables[name] for name in names if self._variables.get(name)), None)

    def need(self, name: str, meaning: str, *others: str) -> str:
        """Return the first of these that is set; raise BadCredentials when none is."""
        value = self.get(name, *others)
        if value is None:
            raise self._missing(name, meaning)
        return value

    def _missing(self, name: str, meaning: str) -> BadCredentials:
        where = "" if self._source == ENVIRONMENT else f"{self._source}: "
        return BadCredentials(f"{where}{name} is not set: {meaning}")

    def with_password(self, ask: Callable[[str], str] | None) -> _Variables:
        """Return the same with a password that the user types; raise BadCredentials if nobody can.

        For variables that have no secret at all.
        """
        if not self.get("OS_AUTH_URL", "OS_USERNAME", "OS_USER_ID", "OS_PROJECT_NAME"):
            raise BadCredentials(
                "no credentials are set: source the OpenStack RC file of your project or"
                " allas-conf, or give --rc-file FILE, or --cloud NAME of clouds.yaml"
            )
        self.need("OS_AUTH_URL", "the address of the Identity service (Keystone)")
        user = self.need("OS_USERNAME", "the name of the user", "OS_USER_ID")
        if ask is None:
            raise self._missing("OS_PASSWORD", "the password of the user")
        answer = ask(f"OpenStack password of {user}: ")
        if not answer:
            raise BadCredentials("no password was given")
        variables = {**self._variables, "OS_PASSWORD": answer}
        return _Variables(variables, self._sources, self._source)

    def credentials(self) -> Credentials:
        """Return the credentials that these variables make."""
        if self.form == "v1":
            return self.swift_v1()
        self._check_version()
        if self.form == "application credential":
            return self.application_credential()
        if self.form == "token":
            return self.token()
        return self.password()

    def _form(self) -> str:
        kind = (self.get("OS_AUTH_TYPE") or "").lower()
        if (self.get("ST_AUTH_VERSION", "OS_AUTH_VERSION") or "").startswith("1"):
            return "v1"
        if kind in _PASSWORD_TYPES:
            return "password" if self.get("OS_PASSWORD") else ""
        if kind in _TOKEN_TYPES:
            return "token"
        if kind in _APPLICATION_TYPES:
            return "application credential"
        if kind:
            known = ", ".join(sorted(_PASSWORD_TYPES | _TOKEN_TYPES | _APPLICATION_TYPES))
            raise BadCredentials(f"OS_AUTH_TYPE={kind} is not known: use one of {known}")
        has_token = self.get("OS_AUTH_TOKEN", "OS_TOKEN")
        if self.get("OS_APPLICATION_CREDENTIAL_SECRET"):
            if self.get("OS_PASSWORD"):
                raise BadCredentials(
                    "OS_PASSWORD and OS_APPLICATION_CREDENTIAL_SECRET are both set: unset one, or"
                    " set OS_AUTH_TYPE to password or v3applicationcredential"
                )
            return "application credential"
        if self.get("OS_PASSWORD") and (self.get("OS_AUTH_URL") or not has_token):
            return "password"
        if has_token:
            return "token"
        return "v1" if self.get("ST_KEY") else ""

    # -- the forms --------------------------------------------------------------------------------

    def password(self) -> Password:
        """Return user, password and project; raise BadCredentials for what is missing."""
        note = ""
        if self.get("OS_AUTH_TOKEN", "OS_TOKEN"):
            note = "OS_AUTH_TOKEN is not used, because OS_PASSWORD can be used again and again"
        auth_url = self._auth_url()
        self.need("OS_USERNAME", "the name of the user", "OS_USER_ID")
        password = self.need("OS_PASSWORD", "the password of the user")
        user = self._user()
        project = self._project(user.domain)
        if project is None:
            raise self._missing("OS_PROJECT_NAME", "the project, as in project_2001234")
        return Password(
            place=self._place(),
            auth_url=auth_url,
            user=user,
            project=project,
            password=password,
            note=note,
        )

    def application_credential(self) -> ApplicationCredential:
        """Return the application credential; raise BadCredentials for what is missing."""
        for name in ("OS_PROJECT_ID", "OS_PROJECT_NAME", "OS_TENANT_ID", "OS_TENANT_NAME"):
            if self.get(name):
                raise BadCredentials(
                    f"{name} and an application credential are both set: an application credential"
                    f" belongs to one project, so unset {name}"
                )
        auth_url = self._auth_url()
        secret = self.need(
            "OS_APPLICATION_CREDENTIAL_SECRET", "the secret of the application credential"
        )
        identity = self.get("OS_APPLICATION_CREDENTIAL_ID")
        own_name = None if identity else self.get("OS_APPLICATION_CREDENTIAL_NAME")
        if not identity and not own_name:
            meaning = "the id of the application credential"
            raise self._missing("OS_APPLICATION_CREDENTIAL_ID", meaning)
        if own_name:
            meaning = "OS_APPLICATION_CREDENTIAL_NAME is a name among the user's own"
            self.need("OS_USERNAME", meaning, "OS_USER_ID")
        return ApplicationCredential(
            place=self._place(),
            auth_url=auth_url,
            id=identity,
            name=own_name,
            user=self._user(),
            secret=secret,
        )

    def token(self) -> GivenToken:
        """Return the token; raise BadCredentials if too little is known beside it."""
        meaning = "a token, as allas-conf gets one"
        token = header_safe("OS_AUTH_TOKEN", self.need("OS_AUTH_TOKEN", meaning, "OS_TOKEN"))
        place = self._place()
        if not place.storage_url and not self.get("OS_AUTH_URL"):
            meaning = "a token alone does not say where the store is"
            raise self._missing("OS_STORAGE_URL", meaning)
        return GivenToken(
            place=place,
            token=token,
            auth_url=self._auth_url() if self.get("OS_AUTH_URL") else None,
            project=self._project(self._user().domain),
            username=self.get("OS_USERNAME", "OS_USER_ID"),
            token_url=optional_url("OS_STORAGE_URL", self.get("OS_STORAGE_URL")),
            token_file=self._sources.home / CONNECTION_FILE,
        )

    def swift_v1(self) -> SwiftV1:
        """Return user and key of Swift's own authentication; raise BadCredentials."""
        version = self.get("ST_AUTH_VERSION") or "1"
        if not version.startswith("1"):
            raise BadCredentials(
                f"ST_AUTH_VERSION={version} is not known: for Keystone set the OS_* variables"
            )
        url = self.need("ST_AUTH", "the address of Swift's own authentication, /auth/v1.0")
        user = self.need("ST_USER", "account and user, as in test:tester")
        return SwiftV1(
            place=self._place(),
            auth_url=check_url("ST_AUTH", url),
            user=header_safe("ST_USER", user),
            key=header_safe("ST_KEY", self.need("ST_KEY", "the key of the user")),
        )

    # -- their parts ------------------------------------------------------------------------------

    def _place(self) -> Place:
        sources = self._sources
        if (self.get("OS_INSECURE") or "").lower() not in _FALSE:
            raise BadCredentials(
                "OS_INSECURE is set, and allasfs never talks to a server that it cannot verify:"
                " unset it, and name the certificate file of the authority in OS_CACERT"
            )
        interface = sources.interface or self.get("OS_INTERFACE", "OS_ENDPOINT_TYPE")
        ca_file = sources.ca_file or self.get("OS_CACERT")
        url = sources.storage_url or self.get("OS_STORAGE_URL")
        return Place(
            source=self._source,
            storage_url=optional_url("OS_STORAGE_URL", url),
            region=sources.region or self.get("OS_REGION_NAME"),
            interface=check_interface("OS_INTERFACE", interface),
            ca_file=check_ca_file("the CA file" if sources.ca_file else "OS_CACERT", ca_file),
        )

    def _auth_url(self) -> str:
        meaning = "the address of the Identity service (Keystone)"
        url = check_url("OS_AUTH_URL", self.need("OS_AUTH_URL", meaning))
        if re.search(r"/v2(\.\d+)?$", url):
            raise BadCredentials(
                f"OS_AUTH_URL={url} is version 2 of the Identity API: use the address that ends"
                " in /v3"
            )
        return url

    def _check_version(self) -> None:
        for name in ("OS_IDENTITY_API_VERSION", "OS_AUTH_VERSION", "ST_AUTH_VERSION"):
            version = self.get(name)
            if version and not re.fullmatch(r"v?3(\.\d+)?", version):
                raise BadCredentials(f"{name}={version} is not supported: set it to 3, or unset it")

    def _user(self) -> User:
        identity = self.get("OS_USER_ID")
        domain = self._domain("OS_USER_DOMAIN") or Domain(id=DEFAULT_DOMAIN_ID)
        return User(id=identity, name=None if identity else self.get("OS_USERNAME"), domain=domain)

    def _project(self, user_domain: Domain) -> Project | None:
        identity = self._agreed("OS_PROJECT_ID", "OS_TENANT_ID")
        name = self._agreed("OS_PROJECT_NAME", "OS_TENANT_NAME")
        if not identity and not name:
            return None
        return Project(
            id=identity, name=name, domain=self._domain("OS_PROJECT_DOMAIN") or user_domain
        )

    def _agreed(self, name: str, old_name: str) -> str | None:
        new, old = self.get(name), self.get(old_name)
        if new and old and new != old:
            raise BadCredentials(f"{name} and {old_name} differ: unset {old_name}, the old name")
        return new or old

    def _domain(self, prefix: str) -> Domain | None:
        identity, name = self.get(f"{prefix}_ID"), self.get(f"{prefix}_NAME")
        if not identity and not name:
            return None
        return Domain(id=identity, name=None if identity else name)
