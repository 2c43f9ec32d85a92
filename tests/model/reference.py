"""What docs/SEMANTICS.md permits, for a mount that is not alone: small enough to be seen right.

``Names`` is the bucket as every client knows it, with what the mount may still believe of it:
what this mount changed it sees at once, what others changed at the latest one TTL later. So a name
has one permitted answer, or for a while several. ``File`` is one open file: a version that was
pinned, and what was changed of it since.

Paths are relative to the mounted directory, which is ``""``. Times are seconds of the clock, or ns
where they say so.
"""

from __future__ import annotations

import posixpath
import stat
from collections import defaultdict
from dataclasses import dataclass, field, replace
from enum import Enum

from tests.behaviour.filesystem import Stat

DEFAULT_MODE = 0o644
LONGEST_NAME = 255
# Where an object and a directory have one name, the object has this behind it.
SHADOWED = "~object"


class Kind(Enum):
    """What an object is for."""

    FILE = "file"
    LINK = "symbolic link"
    # Says that a directory exists.
    MARKER = "marker"


@dataclass(frozen=True)
class Version:
    """One version of an object. ``number`` stays when it is renamed or given attributes."""

    kind: Kind
    content: bytes
    number: int
    # What stat may tell; None: anything, because it cannot be known.
    mtimes: frozenset[int] | None = None
    modes: frozenset[int] | None = frozenset({DEFAULT_MODE})

    def is_shown_by(self, found: Stat) -> bool:
        """Whether ``found`` may describe this version."""
        type_of = {Kind.FILE: stat.S_IFREG, Kind.LINK: stat.S_IFLNK}.get(self.kind)
        return (
            stat.S_IFMT(found.mode) == type_of
            and found.size == len(self.content)
            and (self.mtimes is None or found.mtime_ns in self.mtimes)
            and (
                self.kind is Kind.LINK
                or self.modes is None
                or stat.S_IMODE(found.mode) in self.modes
            )
        )

    def or_as_seen(self, seen: Version) -> Version:
        """Add the attributes of the same version as the mount saw it.

        A change of them whose answer was lost may be unknown to it.
        """
        mtimes = modes = None
        if self.mtimes is not None and seen.mtimes is not None:
            mtimes = self.mtimes | seen.mtimes
        if self.modes is not None and seen.modes is not None:
            modes = self.modes | seen.modes
        return replace(self, mtimes=mtimes, modes=modes)


class Directory:
    """What a name is when it is a directory."""


DIRECTORY = Directory()
# What a name may be: nothing, a directory, a file or link.
Look = Version | Directory | None


def parents(path: str) -> list[str]:
    """Return the directories above a path, the topmost first, without the root."""
    parts = path.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def above(path: str) -> str:
    """Return the directory that holds a path."""
    return posixpath.dirname(path)


def is_shown(path: str) -> bool:
    """Whether a path can be that of a file: each component is a name that a file can have."""
    return all(
        0 < len(name.encode()) <= LONGEST_NAME and name not in (".", "..") and "\0" not in name
        for name in path.split("/")
    )


class Names:
    """The objects by key, and the versions that the mount may take for the current ones."""

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self.now: dict[str, Version] = {}
        # What each key was before, and until when.
        self._past: defaultdict[str, list[tuple[float, Version | None]]] = defaultdict(list)

    def change(self, key: str, version: Version | None, at: float, *, is_own: bool) -> None:
        """Store or remove an object. An own change outdates all that the mount knew before."""
        if is_own:
            self._past.pop(key, None)
        else:
            self._past[key].append((at, self.now.get(key)))
        if version is None:
            self.now.pop(key, None)
        else:
            self.now[key] = version

    def forget(self) -> None:
        """A new mount knows nothing old."""
        self._past.clear()

    def permitted(self, key: str, at: float) -> list[Version | None]:
        """Return what the mount may take for the object of this key."""
        past = [version for until, version in self._past[key] if at - until < self._ttl_s]
        return [self.now.get(key), *past]

    def is_current(self, key: str | None, version: Version | None) -> bool:
        """Whether the store still has the bytes of this version under this key."""
        now = None if key is None else self.now.get(key)
        return version is None or (now is not None and now.number == version.number)

    def is_certain(self, path: str, at: float) -> bool:
        """Whether there is but one answer for a path and all below it."""
        return all(
            len(self.permitted(key, at)) == 1
            for key in (set(self.now) | set(self._past))
            if key == path or key.startswith(f"{path}/" if path else "")
        )

    def looks(self, path: str, at: float) -> list[Look]:
        """Return what a path may be; a directory hides a file of its name."""
        if not path:
            return [DIRECTORY]
        own = self.permitted(path, at)
        below = [
            self.permitted(key, at)
            for key in (set(self.now) | set(self._past))
            if key.startswith(f"{path}/")
        ]
        is_marked = [version is not None and version.kind is Kind.MARKER for version in own]
        if all(is_marked) or any(None not in versions for versions in below):
            return [DIRECTORY]
        found: list[Look] = [
            version for version, marked in zip(own, is_marked, strict=True) if not marked
        ]
        if any(is_marked) or any(any(versions) for versions in below):
            found.append(DIRECTORY)
        return found

    def entries(self, path: str, at: float) -> tuple[set[str], set[str]]:
        """Return the names that a directory has for certain, and all that it may have."""
        prefix = f"{path}/" if path else ""
        names = {name for _, name in self._below(prefix) if is_shown(name)}
        looks = {name: self.looks(prefix + name, at) for name in names}
        for name, found in list(looks.items()):
            objects = [
                version
                for version in self.permitted(prefix + name, at)
                if version is not None and version.kind is not Kind.MARKER
            ]
            if DIRECTORY in found and objects and is_shown(name + SHADOWED):
                is_certain = found == [DIRECTORY] and len(self.permitted(prefix + name, at)) == 1
                looks[name + SHADOWED] = [*objects] if is_certain else [*objects, None]
        certain = {name for name, found in looks.items() if None not in found}
        return certain, {name for name, found in looks.items() if found != [None]}

    def hides(self, path: str, at: float) -> tuple[bool, bool]:
        """Return whether a directory has objects that it cannot show: for certain, and perhaps."""
        prefix = f"{path}/" if path else ""
        hidden = [
            self.permitted(key, at) for key, name in self._below(prefix) if not is_shown(name)
        ]
        return any(None not in versions for versions in hidden), any(map(any, hidden))

    def _below(self, prefix: str) -> list[tuple[str, str]]:
        """Return the keys below a prefix, each with the entry that leads to it."""
        return [
            (key, key[len(prefix) :].partition("/")[0])
            for key in (set(self.now) | set(self._past))
            if key.startswith(prefix) and key != prefix
        ]


@dataclass
class File:
    """An open file: the version that was pinned (None: a new file), and its bytes as they are."""

    key: str | None
    version: Version | None
    mtimes: frozenset[int] | None
    modes: frozenset[int] | None
    content: bytes = b""
    # For each byte whether only this mount has it: it can be read whatever others do.
    local: bytes = b""
    is_dirty: bool = False
    # Its first upload replaces nothing, where the server can see to that.
    is_exclusive: bool = False
    # The number of the version that an upload stored without an answer that said so.
    tried: int | None = None
    # The bytes of uploads that failed.
    sent: set[bytes] = field(default_factory=set)
    handles: int = 0

    @classmethod
    def of(cls, key: str, version: Version) -> File:
        """Open a stored version."""
        local = bytes(len(version.content))
        return cls(key, version, version.mtimes, version.modes, version.content, local)

    @property
    def is_new(self) -> bool:
        """Whether the store has no version of it."""
        return self.version is None

    def is_at(self, version: Version) -> bool:
        """Whether this version was opened or stored last."""
        return self.version is not None and self.version.number == version.number

    def is_shown_by(self, found: Stat) -> bool:
        """Whether ``found`` may describe the file as it is now."""
        return self.as_version(0).is_shown_by(found)

    def as_version(self, number: int) -> Version:
        """Return what its upload makes."""
        return Version(Kind.FILE, self.content, number, self.mtimes, self.modes)

    def needs_store(self, start: int, stop: int) -> bool:
        """Whether a span has bytes that only the store has."""
        return 0 in self.local[start:stop]

    def write(self, offset: int, data: bytes, now_ns: int) -> None:
        """Write; a gap before it is zeros. Nothing written changes nothing."""
        if not data:
            return
        self._resize(max(len(self.content), offset))
        stop = offset + len(data)
        self.content = self.content[:offset] + data + self.content[stop:]
        self.local = self.local[:offset] + b"\1" * len(data) + self.local[stop:]
        self._touch(now_ns)

    def truncate(self, size: int, now_ns: int) -> None:
        """Cut, or add zeros."""
        if size != len(self.content) or not self.is_dirty:
            self._resize(size)
            self._touch(now_ns)

    def _resize(self, size: int) -> None:
        added = max(0, size - len(self.content))
        self.content = self.content[:size] + bytes(added)
        self.local = self.local[:size] + b"\1" * added

    def _touch(self, now_ns: int) -> None:
        self.is_dirty = True
        self.mtimes = frozenset({now_ns})

    def uploaded(self, version: Version) -> None:
        """The store has it; what was written stays here until the last handle is closed."""
        self.version = version
        self.is_dirty = False
        self.local = b"\1" * len(self.content)

    def given(self, mtimes: frozenset[int] | None, modes: frozenset[int] | None) -> None:
        """Take attributes."""
        self.mtimes, self.modes = mtimes, modes
        if self.version is not None:
            self.version = replace(self.version, mtimes=mtimes, modes=modes)


@dataclass
class Handle:
    """One open()."""

    file: File
    flags: int


@dataclass
class Mount:
    """The open files by their paths, and what could not be stored."""

    files: dict[str, File] = field(default_factory=dict)
    handles: dict[int, Handle] = field(default_factory=dict)
    lost: int = 0

    def open(self, path: str, version: Version) -> File:
        """Return the file for a version found at a path: the one that is open there, if it is."""
        file = self.files.get(path)
        if file is None or not (
            file.is_dirty or (file.version is not None and file.version.number == version.number)
        ):
            file = self.files[path] = File.of(path, version)
        return file

    def close(self, file: File) -> None:
        """Let go of a file after its last handle."""
        if file.handles:
            return
        if file.key is not None and self.files.get(file.key) is file:
            del self.files[file.key]
        if file.is_dirty and file.key is not None:
            self.lost += 1

    def unlink(self, path: str, *, is_held: bool = False) -> None:
        """The name is gone; the handles stay, and have all bytes if they were fetched before."""
        file = self.files.pop(path, None)
        if file is not None:
            file.key = None
            if is_held:
                file.local = b"\1" * len(file.content)

    def rename(self, old: str, new: str, *, is_held: bool = False) -> None:
        """Move the name of an open file over that of another."""
        self.unlink(new, is_held=is_held)
        file = self.files.pop(old, None)
        if file is not None:
            file.key = new
            self.files[new] = file
