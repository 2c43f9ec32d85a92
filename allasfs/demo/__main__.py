"""python -m allasfs.demo FOLDER: run a demo cloud in the foreground until Ctrl-C."""

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from allasfs.demo.cloud import TOKEN_LIFETIME_S, WORKERS, Cloud
from allasfs.demo.errors import DemoError

# How often to look whether all services are still there.
CHECK_INTERVAL_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the cloud; return the exit status: 0 after Ctrl-C or SIGTERM, 1 if it cannot run."""
    parser = argparse.ArgumentParser(prog="allasfs.demo", description=__doc__)
    parser.add_argument("folder", type=Path, help="where it keeps everything; made if missing")
    parser.add_argument("--token-lifetime", type=int, default=TOKEN_LIFETIME_S, metavar="SECONDS")
    parser.add_argument("--workers", type=int, default=WORKERS, metavar="N")
    options = parser.parse_args(arguments)
    cloud = Cloud(options.folder, token_lifetime_s=options.token_lifetime, workers=options.workers)
    try:
        run(cloud)
    except KeyboardInterrupt:  # during the start
        return 130
    except DemoError as exc:
        print(f"allasfs demo: {exc}", file=sys.stderr)
        return 1
    return 0


def run(cloud: Cloud) -> None:
    """Start the cloud, say how to use it, and stop it on SIGINT or SIGTERM.

    Must run in the main thread; raises DemoError if the cloud cannot start or a service dies.
    """
    print(f"starting OpenStack Swift and Keystone in {cloud.folder} ...", flush=True)
    with cloud:
        stopped = threading.Event()
        previous = {
            number: signal.signal(number, lambda *_: stopped.set())
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            print(instructions(cloud), flush=True)
            while not stopped.wait(CHECK_INTERVAL_S):
                dead = cloud.dead_services()
                if dead:
                    raise DemoError(f"{', '.join(dead)} ended; see {cloud.folder / 'log'}")
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
    print("stopped; the data stay in the folder")


def instructions(cloud: Cloud) -> str:
    """Return what a user has to know."""
    return f"""\
ready. In another terminal:

    . {shlex.quote(str(cloud.rc_file))}

Keystone  {cloud.auth_url}
Swift     {cloud.storage_url}
logs      {cloud.folder / "log"}

Ctrl-C stops it; the data stay, and the next start finds them."""


if __name__ == "__main__":
    sys.exit(main())
