"""System calls that Python's ``os`` does not have."""

from __future__ import annotations

import ctypes
import os

# <linux/falloc.h>
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
# <linux/fs.h>
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
AT_FDCWD = -100  # <fcntl.h>

_libc = ctypes.CDLL(None, use_errno=True)


def fallocate(fd: int, mode: int, start: int, length: int) -> None:
    """Call fallocate(2) itself: posix_fallocate() writes zeros where the kernel refuses."""
    _checked(_libc.fallocate(fd, mode, ctypes.c_int64(start), ctypes.c_int64(length)))


def access(path: str | os.PathLike[str], mode: int) -> None:
    """Call access(2), which tells why not."""
    _checked(_libc.access(os.fsencode(path), mode))


def renameat2(old: str | os.PathLike[str], new: str | os.PathLike[str], flags: int) -> None:
    """Rename with flags."""
    _checked(_libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags))


def _checked(result: int) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
