"""A cloud of ``clouds.yaml``, read by openstacksdk (the optional package of the extra ``clouds``).

The library knows the files' many forms: ``secure.yaml``, regions, vendor profiles, ways to
authenticate. The environment is kept from it (``load_envvars=False``), and which files it looks at
is given to it, so that the order is the one that credentials.py documents.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from allasfs.errors import BadCredentials, MissingPackage, SetupError
from allasfs.store.forms import NamedCloud, check_ca_file, check_interface, check_url, optional_url

if TYPE_CHECKING:
    from openstack.config import OpenStackConfig
    from openstack.config.cloud_region import CloudRegion, _PasswordCallback


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """A way to authenticate, and what the file says of the store beside."""

    named: NamedCloud  # completed with what the file says
    plugin: Any = field(repr=False)
    auth_url: str
    user: str | None
    project: str | None
    certificate: str | tuple[str, str] | None = None


def read(named: NamedCloud) -> Cloud:
    """Return the cloud of this name; raise MissingPackage, or BadCredentials with one line."""
    try:
        # The library warns of old spellings and old vendors, to no use for who mounts a cloud.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _read(named)
    except SetupError:
        raise
    except Exception as exc:  # the library lets most faults of a file through as they come
        error = BadCredentials(f"cloud {named.name}: {_why(exc)}")
    raise error  # outside of the except block: the cause is not kept, it may refer to a secret


def _read(named: NamedCloud) -> Cloud:
    try:
        from openstack.config import OpenStackConfig
    except ImportError:
        raise MissingPackage(
            f"cloud {named.name}: openstacksdk, which reads clouds.yaml, is not installed:"
            " pip install openstacksdk"
        ) from None
    config = OpenStackConfig(
        config_files=_texts(named.config_files),
        secure_files=_texts(named.secure_files),
        vendor_files=_texts(named.vendor_files),
        load_envvars=False,
        pw_func=_answer(named),
    )
    _check_files(config, named)
    return _cloud(config.get_one(cloud=named.name, region_name=named.place.region), named)


def _why(exc: Exception) -> str:
    """Return what is wrong with the file; texts of unknown origin might quote a value of it."""
    package = type(exc).__module__.partition(".")[0]
    if package == "yaml":
        return "clouds.yaml or secure.yaml is not in the form of YAML"
    if package in {"openstack", "keystoneauth1"}:
        return str(exc)
    return f"clouds.yaml has an unexpected form ({type(exc).__name__})"


def _cloud(found: CloudRegion, named: NamedCloud) -> Cloud:
    verify, certificate = found.get_requests_verify_args()
    if not verify:
        raise BadCredentials(
            f"cloud {named.name}: clouds.yaml switches the verification of certificates off, and"
            " allasfs never talks to a server that it cannot verify: name the certificate file of"
            " the authority in cacert"
        )
    auth = found.get_auth_args()
    plugin = found.get_auth()
    auth_url = auth.get("auth_url")
    if not hasattr(plugin, "get_auth_ref") or not auth_url:
        raise BadCredentials(f"cloud {named.name}: clouds.yaml gives no way to ask Keystone")
    storage_url = named.place.storage_url or found.get_endpoint("object-store")
    interface = named.place.interface or found.get_interface("object-store")
    ca_file = named.place.ca_file or (verify if isinstance(verify, str) else None)
    where = f"cloud {named.name}"
    place = replace(
        named.place,
        storage_url=optional_url(f"{where}: the endpoint", storage_url),
        region=named.place.region or found.get_region_name("object-store") or None,
        interface=check_interface(
            f"{where}: interface", interface[0] if isinstance(interface, list) else interface
        ),
        ca_file=check_ca_file(f"{where}: cacert", ca_file),
    )
    return Cloud(
        named=replace(named, place=place),
        plugin=plugin,
        auth_url=check_url(f"{where}: auth_url", auth_url),
        user=auth.get("username") or auth.get("user_id"),
        project=auth.get("project_name") or auth.get("project_id"),
        certificate=certificate,
    )


def _check_files(config: OpenStackConfig, named: NamedCloud) -> None:
    """Raise BadCredentials when the cloud is in no file; the library goes on to the next file."""
    first = _first(named.config_files)
    if first is None:
        folders = ", ".join(_unique(path.parent for path in named.config_files))
        raise BadCredentials(f"cloud {named.name}: there is no clouds.yaml (looked in {folders})")
    used = (config.config_filename, config.secure_config_filename)
    for path, actual in zip((first, _first(named.secure_files)), used, strict=True):
        if path is not None and actual != str(path):
            raise BadCredentials(f"{path}: cannot be read, or is not in the form of YAML")
    names = config.get_cloud_names()
    if named.name not in names:
        raise BadCredentials(f"{first}: has no cloud {named.name}, but {', '.join(sorted(names))}")


def _answer(named: NamedCloud) -> _PasswordCallback:
    def answer(prompt: str | None = None) -> str:
        """Give the password that clouds.yaml leaves out."""
        if named.password:
            return named.password
        if named.ask_password is None:
            raise BadCredentials(
                f"cloud {named.name}: clouds.yaml has no password, and OS_PASSWORD is not set"
            )
        return named.ask_password(f"{prompt or 'Password'} for cloud {named.name}: ")

    return answer


def _first(paths: Iterable[Path]) -> Path | None:
    return next((path for path in paths if path.exists()), None)


def _texts(paths: Iterable[Path]) -> list[str]:
    return [str(path) for path in paths]


def _unique(paths: Iterable[Path]) -> list[str]:
    return list(dict.fromkeys(_texts(paths)))
