"""Every operation of the file system, what it finds, and what it must leave behind.

A state is what another client sees below a prefix: the content of each name, with the metadata
that the operations change. Names of directory markers end in ``/``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from allasfs.config import KIB, MIB
from allasfs.fs.attrs import Given
from tests.behaviour.filesystem import VfsFs, read_file, write_file
from tests.mount.support import pattern

THRESHOLD = 2 * MIB
SEGMENT = MIB

SMALL = pattern(5 * KIB, 1)
OTHER = pattern(7 * KIB, 2)
# More than one range, less than a segmented file.
MEDIUM = pattern(2 * MIB - 1, 3)
LARGE = pattern(3 * MIB + 17, 4)
LARGER = pattern(4 * MIB + 5, 5)
MARKER = b""

State = Mapping[str, bytes]


@dataclass(frozen=True)
class Operation:
    """``act`` gets a file system whose root is the case's own directory in a bucket."""

    name: str
    act: Callable[[VfsFs], object]
    before: State = field(default_factory=dict)
    # None: as before.
    after: State | None = None
    # What ``act`` returns.
    result: object = None
    # What is done before, while nothing fails, so that just the operation asks the store.
    warm: Callable[[VfsFs], object] = lambda fs: fs.listdir("")
    # Metadata that an object has afterwards.
    metadata: tuple[str, str, str] | None = None
    # At every moment the old or the new name has this.
    kept: bytes | None = None
    # It is about a bucket beside the case's own: whether it is there before, and after.
    bucket: tuple[bool, bool] | None = None

    @property
    def done(self) -> State:
        """The state after success."""
        return self.before if self.after is None else self.after


def _random_reads(fs: VfsFs) -> bytes:
    fd = fs.open("file", os.O_RDONLY)
    try:
        offsets = (1_500_000, 3_000, 900_000)
        return b"".join(fs.pread(fd, 4 * KIB, offset) for offset in offsets)
    finally:
        fs.close(fd)


def _append(fs: VfsFs) -> None:
    fd = fs.open("file", os.O_WRONLY | os.O_APPEND)
    try:
        fs.pwrite(fd, b"more", 0)
    finally:
        fs.close(fd)


def _nothing(fs: VfsFs) -> None:
    pass


def _attributes(fs: VfsFs) -> None:
    fs.vfs.set_attributes(f"{fs._top}/file", Given(mode=0o640, mtime_ns=5 * 10**9))


FILE = {"file": SMALL}
DIRECTORY = {"d/a": SMALL, "d/b/c": OTHER, "d/e": MEDIUM}
MOVED = {"n" + key[1:]: data for key, data in DIRECTORY.items()}

OPERATIONS = (
    Operation("stat", lambda fs: fs.lstat("file").size, FILE, result=len(SMALL), warm=_nothing),
    Operation(
        "listing",
        lambda fs: sorted(fs.listdir("")),
        {**FILE, "g": OTHER, "d/x": SMALL},
        result=["d", "file", "g"],
        warm=_nothing,
    ),
    Operation("read", lambda fs: read_file(fs, "file"), FILE, result=SMALL),
    Operation("read in order", lambda fs: read_file(fs, "file"), {"file": MEDIUM}, result=MEDIUM),
    Operation(
        "read at random",
        _random_reads,
        {"file": MEDIUM},
        result=b"".join(MEDIUM[at : at + 4 * KIB] for at in (1_500_000, 3_000, 900_000)),
    ),
    Operation("read large", lambda fs: read_file(fs, "file"), {"file": LARGE}, result=LARGE),
    Operation(
        "create", lambda fs: write_file(fs, "file", SMALL), {"o": OTHER}, {**FILE, "o": OTHER}
    ),
    Operation(
        "create exclusively",
        lambda fs: write_file(fs, "file", SMALL, flags=os.O_EXCL),
        {"o": OTHER},
        {**FILE, "o": OTHER},
    ),
    Operation("overwrite", lambda fs: write_file(fs, "file", OTHER), FILE, {"file": OTHER}),
    Operation("append", _append, FILE, {"file": SMALL + b"more"}),
    Operation("truncate", lambda fs: fs.truncate("file", 1000), FILE, {"file": SMALL[:1000]}),
    Operation(
        "upload large",
        lambda fs: write_file(fs, "file", LARGE),
        {"o": OTHER},
        {"file": LARGE, "o": OTHER},
    ),
    Operation(
        "replace large",
        lambda fs: write_file(fs, "file", LARGER),
        {"file": LARGE},
        {"file": LARGER},
    ),
    Operation("unlink", lambda fs: fs.unlink("file"), {**FILE, "g": OTHER}, {"g": OTHER}),
    Operation("unlink the last", lambda fs: fs.unlink("d/f"), {"d/f": SMALL}, {"d/": MARKER}),
    Operation(
        "unlink large", lambda fs: fs.unlink("file"), {"file": LARGE, "g": OTHER}, {"g": OTHER}
    ),
    Operation("rename", lambda fs: fs.rename("file", "new"), FILE, {"new": SMALL}, kept=SMALL),
    Operation(
        "rename over",
        lambda fs: fs.rename("file", "new"),
        {**FILE, "new": OTHER},
        {"new": SMALL},
        kept=SMALL,
    ),
    Operation(
        "rename large",
        lambda fs: fs.rename("file", "new"),
        {"file": LARGE},
        {"new": LARGE},
        kept=LARGE,
    ),
    Operation("rename directory", lambda fs: fs.rename("d", "n"), DIRECTORY, MOVED, kept=MEDIUM),
    Operation(
        "rename directory of large",
        lambda fs: fs.rename("d", "n"),
        {"d/a": SMALL, "d/f": LARGE},
        {"n/a": SMALL, "n/f": LARGE},
        kept=LARGE,
    ),
    Operation("mkdir", lambda fs: fs.mkdir("d"), FILE, {**FILE, "d/": MARKER}),
    Operation("rmdir", lambda fs: fs.rmdir("d"), {**FILE, "d/": MARKER}, FILE),
    Operation("make bucket", lambda fs: fs.vfs.mkdir(beside(fs)), FILE, bucket=(False, True)),
    Operation("remove bucket", lambda fs: fs.vfs.rmdir(beside(fs)), FILE, bucket=(True, False)),
    Operation("set attributes", _attributes, FILE, metadata=("file", "mode", "640")),
    Operation(
        "setxattr",
        lambda fs: fs.setxattr("file", "user.tag", b"blue"),
        FILE,
        metadata=("file", "tag", "blue"),
    ),
    Operation(
        "getxattr", lambda fs: fs.getxattr("tagged", "user.tag"), {"tagged": SMALL}, result=b"red"
    ),
    Operation("symlink", lambda fs: fs.symlink("target", "l"), FILE, {**FILE, "l": b"target"}),
    Operation("readlink", lambda fs: fs.readlink("link"), {"link": b"target"}, result="target"),
    Operation("statfs", lambda fs: fs.vfs.statfs().used_bytes >= 0, FILE, result=True),
)


def beside(fs: VfsFs) -> str:
    """Return the path of the bucket that is made or removed."""
    return "/" + fs._top.strip("/").replace("/", "-")
