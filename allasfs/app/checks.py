"""What must be true before a mount can start; each check says in one line what to do.

No check looks into a directory on which something is mounted: a hung mount would hang the check.
So the kernel's list of mounts is read first, and paths are resolved around mount points.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import subprocess
import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from allasfs.errors import (
    AlreadyMounted,
    MountFailed,
    MountPointMissing,
    MountPointNotEmpty,
    NoFuseDevice,
    NoLibfuse,
)

# The subtype that this program's mounts carry in the kernel's list.
FSTYPE = "fuse.allasfs"
MOUNTINFO = Path("/proc/self/mountinfo")
FUSE_DEVICE = Path("/dev/fuse")
# What the kernel says for the process of a mount that is gone, and for one that just went.
DEAD = (errno.ENOTCONN, errno.ECONNABORTED)
# As many as the kernel follows in one path.
MAX_LINKS = 40

INSTALL_HINT = (
    "install it with 'apt install libfuse2 fuse3' (Debian; Ubuntu from 24.04: libfuse2t64)"
    " or 'dnf install fuse-libs fuse' (Fedora, RHEL)"
)

# Opening always asks the process that serves the mount; stat may be answered from the kernel's
# cache when that process is dead.
_PROBE = """
import os, sys
try:
    os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECTORY)
except OSError as exc:
    sys.exit(exc.errno)
"""


# -- the kernel's list of mounts ------------------------------------------------------------------


@dataclass(frozen=True)
class MountEntry:
    """One line of the kernel's list of mounts."""

    point: str
    fstype: str
    source: str
    options: str

    @property
    def is_ours(self) -> bool:
        """Whether allasfs serves it."""
        return self.fstype == FSTYPE

    @property
    def user_id(self) -> int | None:
        """The user whose process serves it; None for what is not FUSE."""
        match = re.search(r"(?:^|,)user_id=(\d+)", self.options)
        return int(match[1]) if match else None


def parse_mountinfo(text: str) -> dict[str, MountEntry]:
    """Return the visible mount of each mount point: of several at one point the last."""
    entries = {}
    for line in text.splitlines():
        words = line.split(" ")
        if "-" not in words[6:]:
            continue
        dash = words.index("-", 6)
        fstype, source, options = (*words[dash + 1 : dash + 4], "", "", "")[:3]
        entry = MountEntry(_unescape(words[4]), fstype, _unescape(source), options)
        entries[entry.point] = entry
    return entries


def mounts() -> dict[str, MountEntry]:
    """Return what is mounted now, by mount point."""
    return parse_mountinfo(MOUNTINFO.read_text(encoding="utf-8", errors="surrogateescape"))


def _unescape(field: str) -> str:
    """Undo the kernel's octal escapes of blanks, newlines and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


# -- the mount point ------------------------------------------------------------------------------


def resolve(directory: str, mounted: Collection[str]) -> str:
    """Return the absolute path without links; touch nothing on which something is mounted."""
    for _ in range(MAX_LINKS):
        absolute = os.path.join(os.getcwd(), directory).rstrip("/")
        head, tail = os.path.split(absolute)
        if tail in ("", ".", ".."):
            return os.path.realpath(absolute or "/")
        path = os.path.join(os.path.realpath(head), tail)
        if path in mounted:
            return path
        try:
            target = os.readlink(path)
        except OSError:  # no link; whether anything is there at all is for the checks to say
            return path
        directory = os.path.join(os.path.dirname(path), target)
    raise MountPointMissing(f"{directory}: too many symbolic links")


def check_mount_point(path: str, entries: dict[str, MountEntry]) -> None:
    """Raise unless ``path`` is an empty directory of ours on which nothing is mounted."""
    taken = entries.get(path)
    if taken is not None:
        hint = f"; 'allasfs umount {path}' ends it, and removes a dead one" if taken.is_ours else ""
        raise AlreadyMounted(f"{path}: {taken.source} ({taken.fstype}) is mounted here{hint}")
    try:
        if not stat.S_ISDIR(os.stat(path).st_mode):
            raise MountPointMissing(f"{path}: not a directory: name an empty directory")
        with os.scandir(path) as names:
            if next(names, None) is not None:
                raise MountPointNotEmpty(
                    f"{path}: the directory is not empty, and a mount would hide what is in it:"
                    " name an empty directory"
                )
    except FileNotFoundError as exc:
        raise MountPointMissing(f"{path}: no such directory: create it with mkdir") from exc
    except OSError as exc:
        raise MountPointMissing(f"{path}: {exc.strerror}: name a directory of yours") from exc
    if os.geteuid() != 0 and not os.access(path, os.W_OK):
        raise MountFailed(f"{path}: you may not write here, which FUSE asks of a mount point")


# -- FUSE on this computer ------------------------------------------------------------------------


def check_fuse_device(device: Path = FUSE_DEVICE) -> None:
    """Raise NoFuseDevice unless this user can open the kernel's FUSE device."""
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        if exc.errno in (errno.EACCES, errno.EPERM):
            hint = "ask the administrator for access (mode 0666, or the device in the container)"
        else:
            hint = "load the module with 'modprobe fuse', or give the container --device /dev/fuse"
        raise NoFuseDevice(f"{device}: {exc.strerror}: {hint}") from exc


def no_libfuse(exc: OSError) -> NoLibfuse:
    """Return the error for a libfuse that could not be loaded."""
    return NoLibfuse(f"libfuse 2 cannot be loaded ({exc}): {INSTALL_HINT}")


# -- does it answer? ------------------------------------------------------------------------------


def probe(path: str, timeout_s: float) -> int | None:
    """Return 0 when ``path`` answers, its errno when it fails, None when it does not answer.

    Another process asks: one that serves a mount and waits for that same mount could wait for ever.
    """
    # The interpreter's own path and a constant script; the path is an argument, not code.
    command = [sys.executable, "-I", "-S", "-c", _PROBE, path]
    asker = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        return asker.wait(timeout_s)
    except subprocess.TimeoutExpired:
        return None
    finally:
        asker.kill()
        asker.wait()
