"""Authentication: from credentials to a storage URL and a token that are valid now.

The only module that imports keystoneauth1. ``load()`` decides what is used, without asking any
server: credentials.py has the forms and their order. The first ``endpoint()`` authenticates;
renewal.py says when that is done again.

Two conditions are told apart: BadCredentials (somebody said no, or will) and HostUnreachable (no
usable answer; another attempt may help). Secrets are in no message, ``repr()`` or log record, and
records that hold one cannot be pickled. Foreign exceptions are not kept as causes here, unlike
elsewhere in the program: they refer to the request, which holds the password, and some quote the
values of headers. TLS certificates are always verified; credentials.py says why.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import timezone
from typing import Any, Protocol
from urllib.parse import urlsplit

from keystoneauth1 import access, exceptions, session
from keystoneauth1.identity import base, v3

from allasfs.errors import BadCredentials, HostUnreachable, SetupError
from allasfs.store import clouds, credentials
from allasfs.store.clouds import Cloud
from allasfs.store.forms import (
    ApplicationCredential,
    Credentials,
    GivenToken,
    NamedCloud,
    Password,
    Project,
    Sources,
    SwiftV1,
    TokenFrom,
    check_url,
    same_address,
)
from allasfs.store.renewal import Asker, Clock, Endpoint, FixedToken, Grant, Renewing
from allasfs.store.tokens import AskForToken

__all__ = ["Auth", "Endpoint", "Sources", "load"]

log = logging.getLogger(__name__)

DEFAULT_INTERFACE = "public"

# Of the time that people wait for an authentication: so they hear of a timeout what it was.
HTTP_SHARE = 0.8
# Nobody waits longer than that for one answer: of an identity service that is away for long, a
# bounded number of attempts wait.
LONGEST_ANSWER_S = 30.0

ADVICE = "run allas-conf --store-token for this project, and all goes on"

# OpenSSL's codes for a certificate chain that ends at no known authority.
_UNKNOWN_AUTHORITY = frozenset({2, 18, 19, 20, 21})


class Auth(Protocol):
    """Gives every request its endpoint; for any number of threads.

    The methods raise only BadCredentials and HostUnreachable.
    """

    @property
    def ca_file(self) -> str | None:
        """The certificates to verify the store with; None for those that requests takes."""

    def endpoint(self) -> Endpoint:
        """Return storage URL and a token that is valid now; authenticate if there is none."""

    def refused(self, token: str) -> bool:
        """Take note that the store answered 401; tell whether to try again."""

    def expires_at(self) -> float | None:
        """Return when the present token expires, in Unix time, where that is known."""

    def describe(self) -> dict[str, str]:
        """Return kind, source, user, project, addresses: what is known, and no secret."""


def load(sources: Sources, *, clock: Clock = time.monotonic, wall_clock: Clock = time.time) -> Auth:
    """Return the authentication that the sources ask for; asks no server yet.

    Raises BadCredentials with one line for what is missing, contradictory or malformed, and
    MissingPackage when ``clouds.yaml`` needs a package that is not there.
    """
    _silence_libraries()
    chosen = credentials.choose(sources)
    if isinstance(chosen, GivenToken) and chosen.place.storage_url:
        return _fixed(chosen, chosen.place.storage_url, sources.timeout_s, wall_clock)
    asker = _asker(chosen, sources.timeout_s, wall_clock)
    return Renewing(asker, timeout_s=sources.timeout_s, clock=clock, wall_clock=wall_clock)


def _silence_libraries() -> None:
    """Let nothing below ERROR out of the libraries, whatever level the program logs at.

    At DEBUG keystoneauth1 writes requests and answers; its warnings repeat what our own errors
    say. The levels of all its loggers are set, because a logger's own counts before its parent's.
    """
    for root in ("keystoneauth", "openstack.config"):
        below = [name for name in logging.root.manager.loggerDict if name.startswith(f"{root}.")]
        for name in (root, *below):
            logging.getLogger(name).setLevel(logging.ERROR)


def _fixed(given: GivenToken, storage_url: str, timeout_s: float, wall_clock: Clock) -> FixedToken:
    def read_again() -> str | None:
        newer = credentials.read_token(given.token_file)
        # Another address is another project: a mount does not move to that.
        is_same = newer and given.token_url and same_address(newer[1], given.token_url)
        return newer[0] if newer and is_same else None

    def ask_expiry(token: str) -> float | None:
        asker = _AskAboutToken(replace(given, token=token), timeout_s, wall_clock)
        return asker.ask().expires_at

    return FixedToken(
        Endpoint(storage_url, given.token),
        read_again,
        facts={**_facts("token", given), "storage url": storage_url},
        ca_file=given.place.ca_file,
        advice=f"if it has expired, {ADVICE}",
        ask_expiry=ask_expiry if given.auth_url else None,
        wall_clock=wall_clock,
    )


def _asker(chosen: Credentials, timeout_s: float, wall_clock: Clock) -> Asker:
    if isinstance(chosen, TokenFrom):
        return AskForToken(chosen)
    if isinstance(chosen, SwiftV1):
        return _AskSwiftV1(chosen, timeout_s, wall_clock)
    if isinstance(chosen, GivenToken):
        return _AskAboutToken(chosen, timeout_s, wall_clock)
    if isinstance(chosen, NamedCloud):
        return _AskCloud(clouds.read(chosen), timeout_s, wall_clock)
    return _AskKeystone(chosen, timeout_s, wall_clock)


# -- the askers -----------------------------------------------------------------------------------


class _HttpAsker:
    """What asking over HTTP has in common: the session, and errors in the user's words."""

    kind = ""
    advice = ""
    is_impatient = True
    # Where the address came from.
    variable = "OS_AUTH_URL"

    def __init__(
        self,
        chosen: Credentials,
        auth_url: str,
        who: str,
        timeout_s: float,
        wall_clock: Clock,
    ) -> None:
        self.address = auth_url
        self.ca_file = chosen.place.ca_file
        self.facts: Mapping[str, str] = {**_facts(self.kind, chosen), "auth url": auth_url}
        self._chosen = chosen
        self._who = who
        self._timeout_s = min(timeout_s * HTTP_SHARE, LONGEST_ANSWER_S)
        self._wall_clock = wall_clock
        self._certificate: Any = None  # of the client, where clouds.yaml names one

    def ask(self) -> Grant:
        """Return a new token; raise BadCredentials or HostUnreachable."""
        http = session.Session(
            verify=self.ca_file or True,
            cert=self._certificate,
            timeout=self._timeout_s,
            app_name="allasfs",
            # A password is not for the next address, which may be without TLS.
            redirect=False,
        )
        try:
            with closing(http.session):
                return self._ask(http)
        except Exception as exc:  # an identity service may answer anything
            error = self._error(exc)
        # Outside of the except block, and always a new one: through context and traceback it would
        # hold the request, with the password, and the connection, for as long as it is kept.
        raise error

    def _ask(self, http: session.Session) -> Grant:
        raise NotImplementedError

    def _granted(self, found: access.AccessInfo, *, is_new: bool = True) -> Grant:
        """Return what Keystone's answer grants; raise BadCredentials if it has no object store."""
        chosen, token = self._chosen, found.auth_token
        if not token or not found.user_id:
            raise HostUnreachable(_no_identity_service(self.address))
        endpoint = None if chosen.place.storage_url else self._object_store(found)
        storage_url = chosen.place.storage_url or check_url(
            f"{self.address}: the address of the object store", (endpoint and endpoint.url) or ""
        )
        expires_at = _unix(found.expires)
        since = _unix(found.issued) if is_new else None
        facts = {
            "user": found.username,
            "project": found.project_name,
            "project id": found.project_id,
            "region": endpoint.region_name if endpoint else chosen.place.region,
            "storage url": storage_url,
        }
        return Grant(
            Endpoint(storage_url, token),
            expires_at,
            None if expires_at is None else expires_at - (since or self._wall_clock()),
            {name: value for name, value in facts.items() if value},
        )

    def _object_store(self, found: access.AccessInfo) -> Any:
        """Return the endpoint in the catalogue; raise BadCredentials when there is none."""
        chosen = self._chosen
        interface = chosen.place.interface or DEFAULT_INTERFACE
        try:
            endpoints = found.service_catalog.get_endpoint_data_list("object-store", interface=None)
        except exceptions.CatalogException:
            endpoints = []
        if not endpoints:
            raise BadCredentials(
                f"{self.address}: project {found.project_name} has no object store in the"
                " catalogue: check the project, or set OS_STORAGE_URL"
            )
        fitting = [one for one in endpoints if one.interface == interface]
        if not fitting:
            raise BadCredentials(
                f"{self.address}: no {interface} object store in the catalogue: set OS_INTERFACE"
                f" to one of {_listed(one.interface for one in endpoints)}"
            )
        if not chosen.place.region:
            return fitting[0]
        for one in fitting:
            if one.region_name == chosen.place.region:
                return one
        raise BadCredentials(
            f"{self.address}: no object store in region {chosen.place.region}: set"
            f" OS_REGION_NAME to one of {_listed(one.region_name for one in fitting)}"
        )

    def _error(self, exc: BaseException) -> SetupError:
        """Return what happened in the user's words: the address and the reason, no secret."""
        if isinstance(exc, SetupError):
            return type(exc)(str(exc))
        host = urlsplit(self.address).netloc
        for cause in _causes(exc):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return _untrusted(host, cause)
        match exc:
            case exceptions.MissingAuthMethods():
                return BadCredentials(
                    f"{self.address} asks for a second factor beside {self._who}: create an"
                    " application credential, and use that"
                )
            case exceptions.Unauthorized() | exceptions.Forbidden():
                return BadCredentials(f"{self.address} refused {self._who}")
            case exceptions.NotFound() | exceptions.MethodNotAllowed():
                return self._no_service(f"HTTP {exc.http_status}")
            case exceptions.BadRequest():
                return BadCredentials(f"{self.address} does not accept {self._who} (HTTP 400)")
            case exceptions.HttpError():
                return HostUnreachable(f"{host} answered with an error (HTTP {exc.http_status})")
            case exceptions.ConnectTimeout():
                return HostUnreachable(f"{host} did not answer within {self._timeout_s:g} s")
            case exceptions.SSLError():
                return HostUnreachable(f"{host}: no TLS connection: {_reason(exc)}")
            case exceptions.ConnectionError() | OSError():
                return HostUnreachable(f"{host} cannot be reached: {_reason(exc)}")
            case exceptions.InvalidResponse():
                status = exc.response.status_code
                if 300 <= status < 400:
                    return self._no_service("it redirects to another address")
        for cause in _causes(exc):
            if cause is not exc and isinstance(cause, exceptions.ConnectionError):
                return self._error(cause)
        if isinstance(exc, exceptions.DiscoveryFailure):
            return self._no_service("it names no version 3")
        log.debug("an answer of %s was not understood: %s", host, type(exc).__name__)
        return HostUnreachable(_no_identity_service(self.address))

    def _no_service(self, why: str) -> BadCredentials:
        return BadCredentials(
            f"{self.address} is not the address of an identity service ({why}):"
            f" check {self.variable}"
        )


class _AskKeystone(_HttpAsker):
    """Password or application credential, for a token and the catalogue."""

    def __init__(
        self, chosen: Password | ApplicationCredential, timeout_s: float, wall_clock: Clock
    ) -> None:
        if isinstance(chosen, Password):
            self.kind = "password"
            name = chosen.user.name or chosen.user.id
            who = f"user {name}, password or project {_title(chosen.project)}"
            self._plugin: base.BaseIdentityPlugin = _password_plugin(chosen)
        else:
            self.kind = "application credential"
            who = f"application credential {chosen.id or chosen.name} or its secret"
            self._plugin = _application_plugin(chosen)
        super().__init__(chosen, chosen.auth_url, who, timeout_s, wall_clock)

    def _ask(self, http: session.Session) -> Grant:
        return self._granted(self._plugin.get_auth_ref(http))


class _AskAboutToken(_HttpAsker):
    """A token without storage URL: Keystone says what it opens."""

    kind = "token"
    advice = f"if nothing else renews it, {ADVICE}"

    def __init__(self, chosen: GivenToken, timeout_s: float, wall_clock: Clock) -> None:
        # A token with neither address was refused when the credentials were chosen.
        url, who = chosen.auth_url or "", "the token (OS_AUTH_TOKEN)"
        super().__init__(chosen, url, who, timeout_s, wall_clock)
        self._given = chosen
        # What the token opens, once Keystone has said it.
        self._storage_url = ""

    def ask(self) -> Grant:
        """Return the token, or the newer one that is where allas-conf leaves them."""
        known, given = self._storage_url, self._given
        newer = credentials.read_token(given.token_file) if known else None
        # Another address is another project: a mount does not move to that.
        if newer and newer[0] != given.token and same_address(newer[1], known):
            self._given = replace(given, token=newer[0])
            log.info("a new token was found")
        grant = super().ask()
        self._storage_url = grant.endpoint.storage_url
        return grant

    def _ask(self, http: session.Session) -> Grant:
        given, url = self._given, self.address
        base_url = url if url.endswith("/v3") else f"{url}/v3"
        headers = {"X-Auth-Token": given.token, "X-Subject-Token": given.token}
        answer = http.get(
            f"{base_url}/auth/tokens", headers=headers, authenticated=False, log=False
        )
        if answer.status_code >= 300:
            raise exceptions.InvalidResponse(response=answer)
        found = access.create(resp=answer, auth_token=given.token)
        project = given.project
        if found.project_id and (
            project is None or project.id == found.project_id or project.name == found.project_name
        ):
            return self._granted(found, is_new=False)
        if project is None:
            raise BadCredentials(f"{url}: the token is for no project: set OS_PROJECT_NAME")
        scoped = v3.Token(url, token=given.token, **_scope(project))
        return self._granted(scoped.get_auth_ref(http), is_new=False)


class _AskCloud(_HttpAsker):
    """A cloud of clouds.yaml, with whatever way of authentication it has."""

    kind = "cloud"
    variable = "auth_url in clouds.yaml"

    def __init__(self, cloud: Cloud, timeout_s: float, wall_clock: Clock) -> None:
        who = f"the credentials of cloud {cloud.named.name}"
        super().__init__(cloud.named, cloud.auth_url, who, timeout_s, wall_clock)
        self._certificate = cloud.certificate
        self._plugin: base.BaseIdentityPlugin = cloud.plugin
        known = {"user": cloud.user, "project": cloud.project}
        self.facts = {**self.facts, **{name: value for name, value in known.items() if value}}

    def _ask(self, http: session.Session) -> Grant:
        return self._granted(self._plugin.get_auth_ref(http))


class _AskSwiftV1(_HttpAsker):
    """User and key for Swift's own authentication (tempauth and its like)."""

    kind = "swift v1"
    variable = "ST_AUTH"

    def __init__(self, chosen: SwiftV1, timeout_s: float, wall_clock: Clock) -> None:
        who = f"user {chosen.user} or ST_KEY"
        super().__init__(chosen, chosen.auth_url, who, timeout_s, wall_clock)
        self.facts = {**self.facts, "user": chosen.user}
        self._given = chosen

    def _ask(self, http: session.Session) -> Grant:
        given = self._given
        headers = {"X-Auth-User": given.user, "X-Auth-Key": given.key}
        answer = http.get(given.auth_url, headers=headers, authenticated=False, log=False)
        token = answer.headers.get("X-Auth-Token") or answer.headers.get("X-Storage-Token")
        url = given.place.storage_url or answer.headers.get("X-Storage-Url")
        if answer.status_code >= 300 or not token or not url:
            raise exceptions.InvalidResponse(response=answer)
        life = answer.headers.get("X-Auth-Token-Expires", "")
        life_s = float(life) if life.isdecimal() else None
        storage_url = check_url(f"{self.address}: the address of the account", url)
        return Grant(
            Endpoint(storage_url, token),
            None if life_s is None else self._wall_clock() + life_s,
            life_s,
            {"storage url": storage_url},
        )


# -- keystoneauth1's plugins ----------------------------------------------------------------------


def _password_plugin(chosen: Password) -> v3.Password:
    user = chosen.user
    return v3.Password(
        chosen.auth_url,
        password=chosen.password,
        user_id=user.id,
        username=user.name,
        user_domain_id=user.domain.id if user.name else None,
        user_domain_name=user.domain.name if user.name else None,
        **_scope(chosen.project),
    )


def _application_plugin(chosen: ApplicationCredential) -> v3.ApplicationCredential:
    secret, user = chosen.secret, chosen.user
    if chosen.id:
        return v3.ApplicationCredential(
            chosen.auth_url,
            application_credential_secret=secret,
            application_credential_id=chosen.id,
        )
    return v3.ApplicationCredential(
        chosen.auth_url,
        application_credential_secret=secret,
        application_credential_name=chosen.name,
        user_id=user.id,
        username=user.name,
        user_domain_id=user.domain.id if user.name else None,
        user_domain_name=user.domain.name if user.name else None,
    )


def _scope(project: Project) -> dict[str, Any]:
    if project.id:
        return {"project_id": project.id}
    domain = project.domain
    return {
        "project_name": project.name,
        "project_domain_id": domain.id,
        "project_domain_name": domain.name,
    }


# -- words ----------------------------------------------------------------------------------------


def _no_identity_service(address: str) -> str:
    return f"{urlsplit(address).netloc} does not answer like an identity service"


def _untrusted(host: str, cause: ssl.SSLCertVerificationError) -> HostUnreachable:
    hint = ""
    if cause.verify_code in _UNKNOWN_AUTHORITY:
        hint = ": give the certificate of its authority in OS_CACERT or as an option"
    return HostUnreachable(
        f"{host}: its TLS certificate is not valid ({cause.verify_message}){hint}"
    )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exception and all that it was made from, as far as its makers kept them."""
    waiting, seen = [exc], set()
    while waiting:
        one = waiting.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        linked = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args)
        waiting += [other for other in linked if isinstance(other, BaseException)]


def _reason(exc: BaseException) -> str:
    """Return what the system said of a failed connection, never a text with parts of a request."""
    texts = [one.strerror for one in _causes(exc) if isinstance(one, OSError) and one.strerror]
    return texts[-1] if texts else "the connection broke"


def _facts(kind: str, chosen: Credentials) -> dict[str, str]:
    facts: dict[str, str | None] = {
        "kind": kind,
        "source": chosen.place.source,
        "region": chosen.place.region,
    }
    if isinstance(chosen, Password | ApplicationCredential):
        facts["user"] = chosen.user.name or chosen.user.id
    if isinstance(chosen, GivenToken):
        facts["user"] = chosen.username
        facts["auth url"] = chosen.auth_url
    if isinstance(chosen, Password | GivenToken) and chosen.project:
        facts["project"] = _title(chosen.project)
    if isinstance(chosen, Password) and chosen.note:
        facts["note"] = chosen.note
    return {name: value for name, value in facts.items() if value}


def _title(project: Project) -> str:
    return project.name or project.id or ""


def _listed(names: Iterator[str | None]) -> str:
    return ", ".join(sorted({name for name in names if name}))


def _unix(when: Any) -> float | None:
    if when is None:
        return None
    aware = when if when.tzinfo else when.replace(tzinfo=timezone.utc)
    return float(aware.timestamp())
