"""The Keystone process: makes the database at first start, then serves until killed.

Settings: the address to put into the catalogue, and the file with the secrets.
"""

import importlib
import os
import sqlite3
import sys
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from allasfs.demo.child import die_with, inherit
from allasfs.demo.keystone import DATABASE, REGION
from allasfs.demo.state import load_state

# A log-in is 50 ms of computing; on two cores more threads than this would only wait.
THREADS = 4

CONF_FILE = "etc/keystone.conf"


def main() -> None:
    """Serve Keystone on the inherited socket."""
    inherited = inherit()
    url, state_file = inherited.settings
    sys.argv[1:] = []  # Keystone would read them as its own
    core = importlib.import_module("keystone.server.flask.core")
    done = Path("run/keystone-is-complete")
    if not done.exists():
        run_in_child(lambda: create(url, load_state(Path(state_file)).password("admin")))
        done.touch()
    application = core.initialize_application("public", config_files=[CONF_FILE])
    inherited.ready()
    waitress = importlib.import_module("waitress")
    waitress.serve(application, sockets=[inherited.socket], threads=THREADS)


def create(url: str, password: str) -> None:
    """Create the database, with the administrator, the standard roles and our own endpoints."""
    Path(DATABASE).unlink(missing_ok=True)  # the rest of a first start that was interrupted
    importlib.import_module("keystone.server").configure(config_files=[CONF_FILE])
    importlib.import_module("keystone.common.sql.upgrades").offline_sync_database_to_version()
    bootstrapper = importlib.import_module("keystone.cmd.bootstrap").Bootstrapper()
    bootstrapper.admin_username = "admin"
    bootstrapper.admin_password = password
    bootstrapper.admin_role_name = "admin"
    bootstrapper.project_name = "admin"
    bootstrapper.region_id = REGION
    bootstrapper.service_name = "keystone"
    bootstrapper.public_url = url
    bootstrapper.internal_url = url
    bootstrapper.admin_url = url
    bootstrapper.immutable_roles = True
    bootstrapper.bootstrap()
    with closing(sqlite3.connect(DATABASE)) as database:
        # Readers must not block writers: on Python 3.10 a read of Keystone's stays open, and the
        # next commit would end with "database is locked".
        database.execute("PRAGMA journal_mode=WAL")


def run_in_child(action: Callable[[], None]) -> None:
    """Run an action in a forked process: Keystone can be configured once only in each.

    A fork is what makes the first start fast: importing Keystone takes most of it.
    """
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            die_with(parent)
            action()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(pid, 0)[1] != 0:
        raise SystemExit("Keystone's database could not be created")


if __name__ == "__main__":
    main()
