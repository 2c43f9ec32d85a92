"""What the tests of the demo cloud share."""

import os
import time
from collections.abc import Callable
from pathlib import Path

from keystoneauth1.identity import v3
from keystoneauth1.identity.base import BaseIdentityPlugin as BaseAuth
from keystoneauth1.session import Session
from swiftclient.client import Connection

# Long enough for a machine that does ten other things; only a failing test waits so long.
PATIENCE_S = 60.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return when the condition holds; fail if it does not in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"still not: {what}"
        time.sleep(0.02)


def connect(environ: dict[str, str]) -> Connection:
    """Return a Swift connection made from OS_... variables, as the standard clients make it."""
    if environ.get("OS_AUTH_TYPE") == "v3applicationcredential":
        auth: BaseAuth = v3.ApplicationCredential(
            environ["OS_AUTH_URL"],
            environ["OS_APPLICATION_CREDENTIAL_SECRET"],
            application_credential_id=environ["OS_APPLICATION_CREDENTIAL_ID"],
        )
    else:
        auth = v3.Password(
            environ["OS_AUTH_URL"],
            environ["OS_PASSWORD"],
            username=environ["OS_USERNAME"],
            user_domain_name=environ["OS_USER_DOMAIN_NAME"],
            project_name=environ["OS_PROJECT_NAME"],
            project_domain_id=environ["OS_PROJECT_DOMAIN_ID"],
        )
    return Connection(
        session=Session(auth=auth),
        os_options={
            "region_name": environ["OS_REGION_NAME"],
            "endpoint_type": environ["OS_INTERFACE"] + "URL",
        },
        retries=0,
        timeout=PATIENCE_S,
    )


def processes_of(folder: Path) -> list[int]:
    """Return the ids of the processes that work in this folder or name it on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            cwd = os.readlink(entry / "cwd")
        except OSError:  # it ended, or is a zombie or another user's
            continue
        if os.fsencode(folder) in words or cwd == str(folder):
            found.append(int(entry.name))
    return found
