"""The folders and files of a user that allasfs keeps, by the platform's rules."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import warnings
from pathlib import Path

import platformdirs

from allasfs.errors import MountFailed

NAME = "allasfs"
SYSTEM_CONFIG = Path("/etc/allasfs/allasfs.conf")
# A file name may have 255 bytes; the rest is for ".log.1".
MAX_SLUG = 200


def config_files() -> list[Path]:
    """Return the configuration files that are read without being named, the strongest last."""
    return [SYSTEM_CONFIG, platformdirs.user_config_path(NAME) / "allasfs.conf"]


def default_log_file(mount_point: str) -> Path:
    """Return the log of a mount in the background: one file for each mount point."""
    slug = re.sub(r"[^\w.-]+", "-", mount_point.strip("/"))[-MAX_SLUG:] or "root"
    return platformdirs.user_log_path(NAME) / f"{slug}.log"


def default_spool(mount_point: str, what: str) -> Path:
    """Return the spool of this content at this mount point of this computer.

    It is a state folder, not a cache folder: what could not be uploaded yet exists nowhere else.
    Computers that share a home folder have one each.
    """
    return _spools() / f"{_host()}-{_digest(f'{mount_point}{chr(0)}{what}')}"


def spools() -> list[Path]:
    """Return the spools of all mounts of this user that chose none, also of other computers."""
    folder = _spools()
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _spools() -> Path:
    return platformdirs.user_state_path(NAME) / "spool"


def _host() -> str:
    return re.sub(r"[^\w.-]+", "-", socket.gethostname())[:MAX_SLUG] or "localhost"


def default_attr_db() -> Path:
    """Return the file that remembers attributes: one for each computer.

    A home folder may be shared by computers, and SQLite's write-ahead log may not.
    """
    return platformdirs.user_cache_path(NAME) / f"attributes-{_host()}.sqlite"


def control_name(mount_point: str) -> str:
    """Return the file name of the control socket of a mount point."""
    return _digest(mount_point) + ".sock"


def runtime_folder() -> Path:
    """Return the private folder for control sockets, made if missing; raise MountFailed."""
    try:
        with warnings.catch_warnings():
            # It warns when XDG_RUNTIME_DIR is not private; then it chooses another folder itself.
            warnings.simplefilter("ignore")
            folder = platformdirs.user_runtime_path(NAME, ensure_exists=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
    except OSError as exc:
        raise MountFailed(f"no folder for the control socket: {exc}") from exc
    if folder.is_symlink() or status.st_uid != os.geteuid():
        raise MountFailed(f"{folder}: the folder for control sockets belongs to another user")
    folder.chmod(0o700)
    return folder


def runtime_folders(owner: int) -> list[Path]:
    """Return where the control socket of a mount of user ``owner`` may be.

    A mount may have been started without the login session that its user has now, or by another
    user than the one who asks (root may).
    """
    usual = [Path(f"/run/user/{owner}") / NAME, Path(f"/tmp/runtime-{owner}") / NAME]  # noqa: S108
    if owner != os.geteuid():
        return usual
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            mine = platformdirs.user_runtime_path(NAME)
    except OSError:  # it refuses a folder that others prepared; then ours is none of it
        return usual
    return [mine, *(folder for folder in usual if folder != mine)]


def _digest(text: str) -> str:
    """Return 16 hexadecimal digits: enough against chance, and short for a socket's path."""
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
