"""The configuration of OpenStack Keystone: SQLite and Fernet tokens in one folder."""

import base64
import os
from pathlib import Path

from allasfs.demo.process import HOST

REGION = "regionOne"
DOMAIN_ID = "default"
DOMAIN_NAME = "Default"
DATABASE = "keystone.db"


def auth_url(port: int) -> str:
    """Return Keystone's address, as OS_AUTH_URL wants it."""
    return f"http://{HOST}:{port}/v3"


def write_configuration(etc: Path, *, token_lifetime_s: int) -> None:
    """Write the configuration file, and the keys unless there are some.

    All paths are relative to the cloud's folder, the working directory of its services.
    """
    for name in ("fernet", "credential"):
        _write_keys(etc / name)
    text = f"""\
[DEFAULT]
# Password hashing warns at every log-in of its own limit.
default_log_levels = keystone=WARNING, keystone.common.password_hashing=ERROR, alembic=WARNING,
  waitress=ERROR
use_stderr = true

[database]
connection = sqlite:///{DATABASE}

[token]
expiration = {token_lifetime_s}

[identity]
# The cheapest: nothing but demo passwords is hashed here, and every log-in waits for it.
password_hash_rounds = 4

[fernet_tokens]
key_repository = etc/fernet

[fernet_receipts]
key_repository = etc/fernet

[credential]
key_repository = etc/credential
"""
    (etc / "keystone.conf").write_text(text, encoding="ascii")


def _write_keys(folder: Path) -> None:
    """Make a key repository: key 0 is the next one, key 1 the present one."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in ("0", "1"):
        key = folder / number
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(base64.urlsafe_b64encode(os.urandom(32)))
