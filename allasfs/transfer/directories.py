"""Directories as listings show them: which object is a file of which directory.

Pure: what is listed when, and how long it is believed, is in ``listings.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from allasfs.store.api import ObjectInfo
from allasfs.store.compact import Versions

LONGEST_COMPONENT = 255
# Added to the name of an object beside which there is a directory of the same name.
SHADOWED = "~object"


@dataclass(frozen=True)
class Found:
    """What a name is: a file, a directory, or nothing."""

    file: ObjectInfo | None = None
    is_dir: bool = False


@dataclass
class Directory:
    """The entries of one directory: files by name, and the names of directories."""

    born: float
    prefix: str
    files: Versions = field(init=False)
    dirs: set[str] = field(default_factory=set)
    # The zero-byte object ``prefix`` itself, which keeps the directory when it is empty.
    marker: ObjectInfo | None = None
    # Entries of the other convention: an object of a directory's name and type, without slash.
    typed: dict[str, ObjectInfo] = field(default_factory=dict)
    # How many objects have names that a file system cannot show.
    hidden: int = 0
    # Whether it was listed without what is below, of which there is some: a look asks for it.
    is_alone: bool = False
    # Whether this mount made it, and never listed it.
    is_own: bool = False

    def __post_init__(self) -> None:
        self.files = Versions(self.prefix)

    def __len__(self) -> int:
        return 1 + len(self.files) + len(self.dirs)

    def find(self, name: str) -> Found:
        """Return what a name is here."""
        return Found(self.files.get(name), name in self.dirs)

    def shown(self, name: str) -> str:
        """Return the name under which the object ``name`` of this directory is shown."""
        return name + SHADOWED if name in self.dirs else name

    def listed(self, name: str) -> ObjectInfo | None:
        """Return the object ``name``, under whatever name it is shown."""
        info = self.files.get(self.shown(name))
        return info if info is not None and split(info.key)[1] == name else None

    def either(self, name: str) -> ObjectInfo | None:
        """Return the object ``name``, also where it is a marker."""
        return self.typed.get(name) or self.listed(name)

    def add_dir(self, name: str) -> None:
        """Enter a directory; an object of its name steps aside."""
        if name in self.dirs:
            return
        self.dirs.add(name)
        info = self.files.pop(name, None)
        if info is not None:
            self.set_aside(name, info)

    def set_aside(self, name: str, info: ObjectInfo) -> None:
        """Show an object beside the directory of the same name, if no other has that name."""
        shown = self.shown(name)
        there = self.files.get(shown)
        is_taken = shown in self.dirs or (there is not None and there.key != info.key)
        if is_taken or not is_shown(shown):
            self.hidden += 1
        else:
            self.files[shown] = info

    def remove_dir(self, name: str) -> None:
        """Take a directory out; an object of its name has the name for itself again."""
        beside = self.listed(name)
        if name in self.dirs and beside is not None:
            del self.files[self.shown(name)]
            self.files[name] = beside
        self.dirs.discard(name)


def split(key: str) -> tuple[str, str]:
    """Return (prefix of the parent directory, name) of a key or a prefix."""
    parent, slash, name = key.removesuffix("/").rpartition("/")
    return parent + slash, name


def is_shown(name: str) -> bool:
    """Whether a file system can show a component: Linux allows 1 to 255 bytes and no dots alone."""
    if name in ("", ".", "..") or "\0" in name:
        return False
    return len(name) * 4 <= LONGEST_COMPONENT or len(name.encode()) <= LONGEST_COMPONENT


def hides(key: str, top: str) -> str | None:
    """Return the prefix of the directory, from ``top`` on, that cannot show an object; or None."""
    where = top if key.startswith(top) else ""
    *parents, name = key[len(where) :].split("/")
    for component in parents:
        if not is_shown(component):
            return where
        where += component + "/"
    # A marker's name ends with a slash.
    return where if name and not is_shown(name) else None


def place(found: dict[str, Directory], prefix: str, info: ObjectInfo, *, is_flat: bool) -> None:
    """Put a listed object into the directory that holds it, making those on the way."""
    rest = info.key[len(prefix) :]
    *parents, name = rest.split("/")
    where = prefix
    for component in parents:
        if not is_shown(component):
            found[where].hidden += 1
            return
        found[where].dirs.add(component)
        where += component + "/"
        if where not in found:
            if not is_flat:
                return
            found[where] = Directory(found[prefix].born, where)
    if not name:
        found[where].marker = info
    elif not is_shown(name):
        found[where].hidden += 1
    elif info.is_marker:
        found[where].dirs.add(name)
        found[where].typed[name] = info
        if is_flat:
            below = f"{where}{name}/"
            found.setdefault(below, Directory(found[prefix].born, below))
    else:
        found[where].files[name] = info


def shows(found: dict[str, Directory], prefix: str, key: str, *, is_flat: bool) -> bool:
    """Whether a listing of ``prefix`` has an object or, in a directory's own, the way to it."""
    rest = key[len(prefix) :]
    top, slash, _ = rest.partition("/")
    if slash and not is_flat:
        return top in found[prefix].dirs
    if key.endswith("/"):
        return key in found and found[key].marker is not None
    parent, name = split(key)
    directory = found.get(parent)
    return directory is not None and (name in directory.files or name in directory.dirs)


def shadow(directory: Directory) -> None:
    """Where a file and a directory have one name, the directory has it."""
    for name in directory.dirs & directory.files.keys():
        directory.set_aside(name, directory.files.pop(name))
