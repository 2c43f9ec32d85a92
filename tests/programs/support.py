"""What the tests of programs share: a shell, a tree of sample data, and what Swift has of it."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from swiftclient.client import Connection

from tests.conftest import missing
from tests.mount.support import KIB, MIB, PATIENCE_S, clean_environ, md5, pattern

NOT_FOUND = 127  # what shells say of a program that is not installed
# 2001-02-03 04:05:06 UTC: everything in a sample is from this day.
SAMPLE_TIME_NS = 981_173_106_123_456_789
SECOND_NS = 1_000_000_000


class Shell:
    """Runs bash scripts; ``$1`` and so on are the arguments, which need no quoting."""

    def __init__(self, folder: Path, home: Path) -> None:
        self._folder = folder
        # No zone and no settings of this computer's user.
        self._environ = clean_environ(home, {"TZ": "UTC", "TMPDIR": str(home)})

    def run(
        self, script: str, *arguments: object, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script to its first error; its status is the caller's business."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script, "bash", *map(str, arguments)],
            cwd=folder or self._folder,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        if done.returncode == NOT_FOUND:
            missing(done.stderr.strip() or f"a program of: {script}")
        return done

    def __call__(self, script: str, *arguments: object, folder: Path | None = None) -> str:
        """Run a script that must succeed without a complaint; return what it printed."""
        done = self.run(script, *arguments, folder=folder)
        assert done.returncode == 0, f"status {done.returncode}: {done.stderr or done.stdout}"
        return done.stdout

    def python(self, script: str, *arguments: object) -> str:
        """Run a Python program with the packages of the tests; return what it printed."""
        return self('exec "$0" -c "$@"'.replace("$0", sys.executable), script, *arguments)


# -- trees ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """What is compared of a file, directory or symbolic link."""

    kind: int
    mode: int
    mtime_ns: int
    # The MD5 of a file, the target of a link.
    content: str = ""


Tree = dict[str, Entry]


def make_sample(top: Path) -> Path:
    """Make a tree of some 30 entries: sizes, modes, times and names of every sort."""
    sizes = (0, 1, 511, 4 * KIB, 70_001, 128 * KIB, 300_000)
    for number in range(12):
        directory = top / f"dir {number % 3}" / ("deep", "ä ö")[number % 2]
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"file-{number:02}.bin"
        file.write_bytes(pattern(sizes[number % len(sizes)], seed=number))
    (top / "large.bin").write_bytes(pattern(3 * MIB + 17))
    (top / "text.txt").write_text("".join(f"line {number}\n" for number in range(1000)))
    (top / "script.sh").write_text("#!/bin/sh\necho from a script\n")
    (top / "script.sh").chmod(0o755)
    (top / "secret").write_text("secret")
    (top / "secret").chmod(0o600)
    (top / "read-only").write_text("read only")
    (top / "read-only").chmod(0o444)
    (top / "empty directory").mkdir()
    (top / "private").mkdir(mode=0o700)
    (top / "link").symlink_to("dir 0/deep/file-00.bin")
    (top / "dir 1" / "up").symlink_to("../text.txt")
    (top / "link to directory").symlink_to("dir 2")
    (top / "broken").symlink_to("nowhere/at all")
    # The deepest first: what is done in a directory changes its time.
    for number, path in enumerate(sorted([top, *top.rglob("*")], reverse=True)):
        when_ns = SAMPLE_TIME_NS + number * 61 * SECOND_NS
        os.utime(path, ns=(when_ns, when_ns), follow_symlinks=False)
    return top


def tree(top: Path) -> Tree:
    """Return everything below a directory by its relative path."""
    return {str(path.relative_to(top)): _entry(path) for path in top.rglob("*")}


def _entry(path: Path) -> Entry:
    about = path.lstat()
    content = ""
    if stat.S_ISLNK(about.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(about.st_mode):
        content = md5(path.read_bytes())
    mode = stat.S_IMODE(about.st_mode)
    return Entry(stat.S_IFMT(about.st_mode), mode, about.st_mtime_ns, content)


def stored_tree(swift: Connection, bucket: str, prefix: str = "") -> Tree:
    """Return the same of what another client finds in the store, from metadata and checksums."""
    found = {}
    for listed in swift.get_container(bucket, prefix=prefix, full_listing=True)[1]:
        name = listed["name"].removeprefix(prefix)
        if not name:
            continue
        head = swift.head_object(bucket, listed["name"])
        kind, mode, content = stat.S_IFREG, 0o644, listed["hash"]
        if name.endswith("/"):
            kind, mode, content = stat.S_IFDIR, 0o755, ""
        elif listed["content_type"] == "inode/symlink":
            target = swift.get_object(bucket, listed["name"])[1]
            kind, mode, content = stat.S_IFLNK, 0o777, target.decode()
        if "x-object-meta-mode" in head:
            mode = int(head["x-object-meta-mode"], 8) & 0o7777
        seconds, _, fraction = head["x-object-meta-mtime"].partition(".")
        mtime_ns = int(seconds) * SECOND_NS + int(fraction.ljust(9, "0"))
        found[name.rstrip("/")] = Entry(kind, mode, mtime_ns, content)
    return found


def each(found: Tree, change: Callable[[Entry], Entry]) -> Tree:
    """Return a tree with each entry changed: what a comparison is not about."""
    return {name: change(entry) for name, entry in found.items()}


def in_seconds(found: Tree) -> Tree:
    """Return a tree with whole seconds, for programs that keep no fractions."""
    return each(found, lambda entry: replace(entry, mtime_ns=entry.mtime_ns // SECOND_NS))


def contents(found: Tree) -> dict[str, str]:
    """Return the checksums of the files, and nothing else."""
    return {name: entry.content for name, entry in found.items() if stat.S_ISREG(entry.kind)}
