"""The forms in which OpenStack programs take their credentials."""

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

from allasfs.demo.keystone import DOMAIN_ID, DOMAIN_NAME, REGION


@dataclass(frozen=True)
class Credentials:
    """A user, the password, and the project to work in."""

    auth_url: str
    username: str
    password: str
    user_id: str
    project_name: str
    project_id: str
    region: str = REGION

    def environ(self) -> dict[str, str]:
        """Return the variables that OpenStack's programs read."""
        return {
            "OS_AUTH_URL": self.auth_url,
            "OS_PROJECT_ID": self.project_id,
            "OS_PROJECT_NAME": self.project_name,
            "OS_USER_DOMAIN_NAME": DOMAIN_NAME,
            "OS_PROJECT_DOMAIN_ID": DOMAIN_ID,
            "OS_USERNAME": self.username,
            "OS_PASSWORD": self.password,
            "OS_REGION_NAME": self.region,
            "OS_INTERFACE": "public",
            "OS_IDENTITY_API_VERSION": "3",
        }


@dataclass(frozen=True)
class ApplicationCredential:
    """A secret that stands for a user in one project and can be withdrawn on its own."""

    auth_url: str
    id: str
    secret: str

    def environ(self) -> dict[str, str]:
        """Return the variables that OpenStack's programs read."""
        return {
            "OS_AUTH_TYPE": "v3applicationcredential",
            "OS_AUTH_URL": self.auth_url,
            "OS_APPLICATION_CREDENTIAL_ID": self.id,
            "OS_APPLICATION_CREDENTIAL_SECRET": self.secret,
            "OS_REGION_NAME": REGION,
            "OS_INTERFACE": "public",
            "OS_IDENTITY_API_VERSION": "3",
        }


@dataclass(frozen=True)
class KeyPair:
    """A key for Swift's S3 interface; never expires."""

    access_key: str
    secret_key: str


@dataclass(frozen=True)
class Token:
    """A Keystone token and the account that it opens; expires and cannot be renewed."""

    id: str
    storage_url: str

    def environ(self) -> dict[str, str]:
        """Return the variables that Swift's programs read."""
        return {"OS_AUTH_TOKEN": self.id, "OS_STORAGE_URL": self.storage_url}


def write_rc_file(path: Path, credentials: Credentials) -> None:
    """Write an "OpenStack RC file v3", to be sourced by a shell; it contains the password."""
    values = {name: shlex.quote(value) for name, value in credentials.environ().items()}
    text = f"""\
#!/usr/bin/env bash
# Source this file (". {path.name}") to work as user {credentials.username}
# in {credentials.project_name}. The file that a dashboard gives you asks for your password;
# this one contains it, because it opens a demo cloud on this computer only.

# Where to ask for a token: version 3 of the Identity API.
export OS_AUTH_URL={values["OS_AUTH_URL"]}

# The project that owns the data.
export OS_PROJECT_ID={values["OS_PROJECT_ID"]}
export OS_PROJECT_NAME={values["OS_PROJECT_NAME"]}
export OS_USER_DOMAIN_NAME={values["OS_USER_DOMAIN_NAME"]}
if [ -z "$OS_USER_DOMAIN_NAME" ]; then unset OS_USER_DOMAIN_NAME; fi
export OS_PROJECT_DOMAIN_ID={values["OS_PROJECT_DOMAIN_ID"]}
if [ -z "$OS_PROJECT_DOMAIN_ID" ]; then unset OS_PROJECT_DOMAIN_ID; fi

# Version 2 called projects tenants; what is left of it would contradict the above.
unset OS_TENANT_ID
unset OS_TENANT_NAME

# The user who acts.
export OS_USERNAME={values["OS_USERNAME"]}
export OS_PASSWORD={values["OS_PASSWORD"]}

# An empty region would be looked up, and not found.
export OS_REGION_NAME={values["OS_REGION_NAME"]}
if [ -z "$OS_REGION_NAME" ]; then unset OS_REGION_NAME; fi

export OS_INTERFACE={values["OS_INTERFACE"]}
export OS_IDENTITY_API_VERSION={values["OS_IDENTITY_API_VERSION"]}
"""
    write_private(path, text)


def write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner may read."""
    new = path.with_name(path.name + ".new")
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
    new.replace(path)
