"""The forms of credentials as frozen records, and the checks of their parts."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from allasfs.errors import BadCredentials

_INTERFACES = frozenset({"public", "internal", "admin"})


class _Secret:
    """A record that holds a secret, or may."""

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled."""
        raise TypeError(f"{type(self).__name__} may hold a secret and is not pickled")


@dataclass(frozen=True, kw_only=True)
class Sources(_Secret):
    """All that credentials may come from; the program fills it, nothing below looks further.

    ``ask_password`` gets a prompt and returns what was typed; None when there is no terminal.
    ``cloud_folders`` are searched for ``clouds.yaml`` in this order; None: the present folder,
    ``openstack`` in the user's configuration folder, ``/etc/openstack``.
    """

    environ: Mapping[str, str] = field(repr=False)
    home: Path
    rc_file: Path | None = None
    cloud: str | None = None
    token_file: Path | None = None
    token_command: str | None = None
    ca_file: Path | None = None
    storage_url: str | None = None
    region: str | None = None
    interface: str | None = None
    timeout_s: float = 60.0
    ask_password: Callable[[str], str] | None = None
    cloud_folders: tuple[Path, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where credentials were found, and what they say of the store; common to all forms."""

    source: str
    storage_url: str | None = None
    region: str | None = None
    interface: str | None = None
    ca_file: str | None = None


@dataclass(frozen=True, kw_only=True)
class Domain:
    """A Keystone domain, by id or by name."""

    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, kw_only=True)
class Project:
    """A project, by id, or by name and domain."""

    id: str | None
    name: str | None
    domain: Domain


@dataclass(frozen=True, kw_only=True)
class User:
    """A user, by id, or by name and domain."""

    id: str | None
    name: str | None
    domain: Domain


@dataclass(frozen=True, kw_only=True)
class Password(_Secret):
    """A user's password for a project."""

    place: Place
    auth_url: str
    user: User
    project: Project
    password: str = field(repr=False)
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class ApplicationCredential(_Secret):
    """An application credential; it knows its project."""

    place: Place
    auth_url: str
    id: str | None
    name: str | None
    user: User
    secret: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class GivenToken(_Secret):
    """A token that someone else got; with the address of the store, or of Keystone to ask it."""

    place: Place
    token: str = field(repr=False)
    auth_url: str | None = None
    project: Project | None = None
    username: str | None = None
    # Where allas-conf leaves a newer token, and the address that must stand there beside it: a
    # mount must not pass to another project because the user now works in that.
    token_file: Path
    token_url: str | None = None


@dataclass(frozen=True, kw_only=True)
class TokenFrom(_Secret):
    """A token that someone else renews: in a file, or printed by a command."""

    place: Place
    file: Path | None = None
    command: str = ""
    # Of the command.
    environ: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SwiftV1(_Secret):
    """A user and key of Swift's own authentication."""

    place: Place
    auth_url: str
    user: str
    key: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class NamedCloud(_Secret):
    """A cloud of ``clouds.yaml``, with the files to look for it in."""

    place: Place
    name: str
    config_files: tuple[Path, ...]
    secure_files: tuple[Path, ...]
    vendor_files: tuple[Path, ...]
    password: str | None = field(default=None, repr=False)
    ask_password: Callable[[str], str] | None = None


Credentials = Password | ApplicationCredential | GivenToken | TokenFrom | SwiftV1 | NamedCloud


def same_address(one: str, other: str) -> bool:
    """Whether two addresses are the same, one of which may name the usual port."""

    def parts(url: str) -> tuple[str, str | None, int | None, str]:
        split = urlsplit(url)
        usual = {"http": 80, "https": 443}.get(split.scheme)
        return split.scheme, split.hostname, split.port or usual, split.path.rstrip("/")

    return parts(one) == parts(other)


def check_url(name: str, url: str) -> str:
    """Return the address without a final slash; raise BadCredentials when it is none."""
    try:
        split = urlsplit(url)
        is_good = split.scheme in {"http", "https"} and bool(split.hostname) and split.port != 0
    except ValueError:
        is_good = False
    if not is_good or not url.isprintable() or " " in url:
        raise BadCredentials(f"{name} is no address that begins with http:// or https://")
    if split.username is not None or split.query or split.fragment:
        raise BadCredentials(f"{name} is an address with more than host, port and path")
    return url.rstrip("/")


def optional_url(name: str, url: str | None) -> str | None:
    """Do the same where an address may be missing."""
    return check_url(name, url) if url else None


def check_interface(name: str, interface: str | None) -> str | None:
    """Return public, internal or admin, None for nothing; raise BadCredentials."""
    if not interface:
        return None
    plain = interface.lower().removesuffix("url")
    if plain not in _INTERFACES:
        raise BadCredentials(f"{name} is {interface!r}: use public, internal or admin")
    return plain


def check_ca_file(name: str, path: str | Path | None) -> str | None:
    """Return the path of a file or folder of certificates; raise BadCredentials if unusable."""
    if not path:
        return None
    path = Path(path)
    try:
        if path.is_dir():
            return str(path)
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except ssl.SSLError as exc:
        raise BadCredentials(f"{name} {path} holds no certificates in PEM form") from exc
    except OSError as exc:
        raise BadCredentials(f"{name} {path} cannot be read: {exc.strerror}") from exc
    return str(path)


def header_safe(name: str, value: str) -> str:
    """Return the value, which goes into a header; raise BadCredentials, without the value."""
    if not value.isprintable() or value != value.strip():
        raise BadCredentials(f"{name} has blanks or control characters at its ends or inside")
    return value
