"""Random system calls: few names, few descriptors, sizes around those where something changes."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from random import Random

from tests.oracle.player import BEGIN_NS, Call
from tests.syscalls import (
    KEEP_SIZE,
    PUNCH_HOLE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ZERO_RANGE,
)

SLOTS = range(6)
# A name may be a file, a directory or a link, one after the other.
PATHS = ("a", "b", "c", "d", "e", "d/a", "d/b", "d/e", "e/a", "d/e/a", "a/b")
TARGETS = ("a", "b", "d", "../a", "e/a", "missing", ".", "d/../c")
KIB = 1024
# A page, a read of the kernel, a part of a large object (1 MiB), the threshold (2 MiB).
SIZES = (0, 1, 10, 100, 4095, 4096, 4097, 10_000, 128 * KIB, 128 * KIB + 1, 300_000)
LARGE = (1024 * KIB, 1024 * KIB + 1, 2048 * KIB - 1, 2048 * KIB + 1, 3_000_000)
MODES = (0o644, 0o600, 0o640, 0o755, 0o700, 0o444, 0o666, 0o777, 0o0)
FLAGS = (
    (os.O_CREAT, 0.5),
    (os.O_EXCL, 0.1),
    (os.O_TRUNC, 0.2),
    (os.O_APPEND, 0.2),
    (os.O_SYNC, 0.03),
    (os.O_DSYNC, 0.03),
    (os.O_NOFOLLOW, 0.1),
    (os.O_DIRECTORY, 0.05),
)
FALLOCATE = (0, KEEP_SIZE, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE, ZERO_RANGE | KEEP_SIZE)
Draw = Callable[["Generator"], tuple[object, ...]]


class Generator:
    """Draws calls; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._opened: list[int] = []
        self._names = list(DRAWS)
        self._weights = [DRAWS[name][0] for name in self._names]

    def next(self) -> Call:
        """Return the next call."""
        (name,) = self._random.choices(self._names, self._weights)
        call = Call(name, DRAWS[name][1](self))
        if name in ("open", "dup"):
            self._opened.append(call.args[0 if name == "open" else 1])
        if name == "close" and call.args[0] in self._opened:
            self._opened.remove(call.args[0])
        return call

    def slot(self) -> int:
        """A slot in which most probably something is open."""
        likely = self._opened if self._opened and self._random.random() < 0.95 else list(SLOTS)
        return self._random.choice(likely)

    def any_slot(self) -> int:
        return self._random.choice(SLOTS)

    def path(self) -> str:
        return self._random.choice(PATHS)

    def directory(self) -> str:
        return self._random.choice((".", *PATHS))

    def target(self) -> str:
        return self._random.choice(TARGETS)

    def size(self) -> int:
        return self._random.choice(SIZES)

    def offset(self) -> int:
        return self._random.choice(SIZES)

    def rarely_large(self) -> int:
        return self._random.choice(LARGE if self._random.random() < 0.08 else SIZES)

    def seed(self) -> int:
        return self._random.randrange(256)

    def mode(self) -> int:
        return self._random.choice(MODES)

    def time(self) -> int:
        return self._random.randrange(BEGIN_NS)

    def owner(self) -> int:
        return self._random.choice((-1, 0, 1, 1000))

    def choice(self, *values: int) -> int:
        return self._random.choice(values)

    def flags(self) -> int:
        if self._random.random() < 0.01:
            return os.O_TMPFILE | os.O_RDWR
        flags = self._random.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR, os.O_RDWR))
        for flag, probability in FLAGS:
            if self._random.random() < probability:
                flags |= flag
        return flags

    def maybe(self, value: int) -> int | None:
        return value if self._random.random() < 0.5 else None

    def is_true(self) -> bool:
        return self._random.random() < 0.5


# How often, and with which arguments.
DRAWS: dict[str, tuple[int, Draw]] = {
    "open": (16, lambda g: (g.any_slot(), g.path(), g.flags(), g.mode())),
    "close": (7, lambda g: (g.slot(),)),
    "dup": (1, lambda g: (g.slot(), g.any_slot())),
    "dup2": (1, lambda g: (g.slot(), g.slot())),
    "read": (6, lambda g: (g.slot(), g.size())),
    "pread": (6, lambda g: (g.slot(), g.size(), g.rarely_large())),
    "readv": (2, lambda g: (g.slot(), [g.size(), g.size()])),
    "write": (8, lambda g: (g.slot(), g.seed(), g.size())),
    "writev": (2, lambda g: (g.slot(), g.seed(), [g.size(), g.size()])),
    "pwrite": (8, lambda g: (g.slot(), g.seed(), g.size(), g.rarely_large())),
    "lseek": (5, lambda g: (g.slot(), g.offset(), g.choice(0, 1, 2, 3, 4))),
    "ftruncate": (4, lambda g: (g.slot(), g.rarely_large())),
    "truncate": (2, lambda g: (g.path(), g.rarely_large())),
    "fsync": (1, lambda g: (g.slot(),)),
    "fdatasync": (1, lambda g: (g.slot(),)),
    "fstat": (4, lambda g: (g.slot(),)),
    "stat": (5, lambda g: (g.path(),)),
    "lstat": (5, lambda g: (g.path(),)),
    "access": (2, lambda g: (g.path(), g.choice(os.F_OK, os.R_OK, os.W_OK, os.X_OK))),
    "fchmod": (1, lambda g: (g.slot(), g.mode())),
    "fchown": (1, lambda g: (g.slot(), g.owner(), g.owner())),
    "futimens": (1, lambda g: (g.slot(), g.time())),
    "posix_fallocate": (1, lambda g: (g.slot(), g.offset(), g.size())),
    "fallocate": (2, lambda g: (g.slot(), g.choice(*FALLOCATE), g.offset(), g.size())),
    "copy_file_range": (
        2,
        lambda g: (g.slot(), g.slot(), g.size(), g.maybe(g.offset()), g.maybe(g.offset())),
    ),
    "sendfile": (1, lambda g: (g.slot(), g.slot(), g.size(), g.maybe(g.offset()))),
    "mmap_read": (2, lambda g: (g.slot(), g.offset(), g.size())),
    "mmap_write": (3, lambda g: (g.slot(), g.seed(), g.offset(), g.size(), g.is_true())),
    "whole": (5, lambda g: (g.path(),)),
    "unlink": (4, lambda g: (g.path(),)),
    "rename": (6, lambda g: (g.path(), g.path())),
    "renameat2": (
        1,
        lambda g: (g.path(), g.path(), g.choice(0, RENAME_NOREPLACE, RENAME_EXCHANGE)),
    ),
    "mkdir": (5, lambda g: (g.path(), g.mode())),
    "rmdir": (3, lambda g: (g.path(),)),
    "listdir": (4, lambda g: (g.directory(),)),
    "symlink": (3, lambda g: (g.target(), g.path())),
    "readlink": (2, lambda g: (g.path(),)),
    "link": (1, lambda g: (g.path(), g.path())),
    "mknod": (
        1,
        lambda g: (g.path(), g.choice(stat.S_IFREG, stat.S_IFREG, stat.S_IFIFO) | g.mode()),
    ),
    "chmod": (2, lambda g: (g.path(), g.mode())),
    "chown": (1, lambda g: (g.path(), g.owner(), g.owner())),
    "lchown": (1, lambda g: (g.path(), g.owner(), g.owner())),
    "utime": (2, lambda g: (g.path(), g.maybe(g.time()))),
    "lutime": (1, lambda g: (g.path(), g.time())),
    "longest_name": (1, lambda g: (g.path(),)),
}
