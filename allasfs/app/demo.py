"""``allasfs demo``: a cloud on this computer, mounted, until Ctrl-C."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from allasfs.app import commands
from allasfs.errors import DemoFailed, MissingPackage, NotMounted

# The environment of the demo must not lead to a real project.
_FOREIGN_PREFIXES = ("OS_", "ST_", "ALLASFS_CLOUD", "ALLASFS_STORAGE_URL", "ALLASFS_REGION")


def run(
    directory: str, folder: Path | None, mount_args: list[str], environ: Mapping[str, str]
) -> int:
    """Start a cloud in ``folder`` (None: a temporary one), mount it, stay; return the exit code."""
    from allasfs.demo import Cloud, DemoError, PackagesMissing

    with _interruptible() as interrupted, _folder(folder) as place:
        _say("starting Swift and Keystone on this computer ...")
        try:
            with Cloud(place) as cloud:
                return _mount_until(
                    interrupted, directory, cloud.rc_file, mount_args, _own_environment(environ)
                )
        except PackagesMissing as exc:
            raise MissingPackage(str(exc)) from exc
        except DemoError as exc:
            raise DemoFailed(str(exc)) from exc


def _mount_until(
    interrupted: socket.socket,
    directory: str,
    rc_file: Path,
    mount_args: list[str],
    environ: dict[str, str],
) -> int:
    command = [sys.executable, "-m", "allasfs", "mount", "--rc-file", str(rc_file), *mount_args]
    # A session of its own: Ctrl-C is for this process, which unmounts in order.
    code = subprocess.run(
        [*command, directory], env=environ, check=False, start_new_session=True
    ).returncode
    if code != 0:
        return code
    target = commands.Target(directory)
    _say(
        f"mounted at {target.path}. In another terminal:\n\n"
        f"  ls -l {target.path}\n"
        f"  . {rc_file}\n"
        "  swift list\n\n"
        "Ctrl-C unmounts and stops everything."
    )
    with target.connection() as connection:
        ends: list[socket.socket] = [interrupted]
        if connection is not None:
            ends.append(connection.announce_end(commands.ANSWER_TIMEOUT_S))
        select.select(ends, [], [])
    _say("unmounting ...")
    try:
        commands.umount(directory, wait_s=None)
    except NotMounted:
        _say("it was unmounted already")
    return 0


@contextmanager
def _interruptible() -> Iterator[socket.socket]:
    """Give a socket that becomes readable at SIGINT, SIGTERM or SIGHUP, instead of dying."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # The handlers do nothing: the wake-up socket is what tells of the signal.
    before = [signal.signal(number, lambda _number, _frame: None) for number in numbers]
    wakeup = signal.set_wakeup_fd(writer.fileno())
    try:
        yield reader
    finally:
        signal.set_wakeup_fd(wakeup)
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        reader.close()
        writer.close()


@contextmanager
def _folder(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="allasfs-demo-") as temporary:
        yield Path(temporary)


def _own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value for name, value in environ.items() if not name.startswith(_FOREIGN_PREFIXES)
    }


def _say(text: str) -> None:
    sys.stdout.write(f"allasfs demo: {text}\n")
    sys.stdout.flush()
