"""Take a mount away: by the kernel's own call as root, by fusermount for everybody else."""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import subprocess

from allasfs.app.checks import INSTALL_HINT
from allasfs.errors import NoFusermount, UnmountFailed

# libfuse 2 tries /bin first and then the PATH; distributions have the program in one of these.
FUSERMOUNT_FOLDERS = ("/bin", "/usr/bin")
# It only asks the kernel, which does not wait for the mount's process.
FUSERMOUNT_TIMEOUT_S = 30.0

MNT_DETACH = 2  # <sys/mount.h>
UMOUNT_NOFOLLOW = 8


def find_fusermount() -> str | None:
    """Return the program by which ordinary users mount and unmount; None if it is missing."""
    for folder in FUSERMOUNT_FOLDERS:
        if found := shutil.which("fusermount", path=folder):
            return found
    return shutil.which("fusermount")


def check_fusermount() -> None:
    """Raise NoFusermount when it is missing and needed.

    libfuse 2 mounts by itself when it runs as root, and by fusermount otherwise.
    """
    if os.geteuid() != 0 and find_fusermount() is None:
        raise NoFusermount(f"fusermount is missing: {INSTALL_HINT}")


def unmount(path: str, *, lazy: bool = False) -> None:
    """Unmount ``path``; raise UnmountFailed, saying so when it is busy.

    ``lazy`` takes it away although programs have files open in it: for a mount that is dead.
    """
    error = _by_system_call(path, lazy=lazy) if os.geteuid() == 0 else errno.EPERM
    if error == 0:
        return
    message = _by_fusermount(path, lazy=lazy) if error == errno.EPERM else os.strerror(error)
    if error == errno.EBUSY or "busy" in message:
        raise UnmountFailed(
            f"{path} is busy: a program has a file open or its working directory there;"
            f" 'fuser -vm {path}' shows which"
        )
    if message:
        raise UnmountFailed(f"{path}: {message}")


def _by_system_call(path: str, *, lazy: bool) -> int:
    """Return 0 or the errno of umount2(2)."""
    libc = ctypes.CDLL(None, use_errno=True)
    flags = UMOUNT_NOFOLLOW | (MNT_DETACH if lazy else 0)
    return 0 if libc.umount2(os.fsencode(path), flags) == 0 else ctypes.get_errno()


def _by_fusermount(path: str, *, lazy: bool) -> str:
    """Return nothing, or the message of fusermount."""
    program = find_fusermount()
    if program is None:
        raise NoFusermount(f"fusermount is missing: {INSTALL_HINT}")
    command = [program, "-u", *(["-z"] if lazy else []), "--", path]
    try:
        # A fixed program and an absolute path after "--".
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FUSERMOUNT_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise UnmountFailed(f"{path}: fusermount does not come back") from exc
    if done.returncode == 0:
        return ""
    return "; ".join(done.stderr.split("\n")).strip("; ") or f"fusermount: {done.returncode}"
