"""A mixed load on a mount that knows at any moment what a kill may leave of each file.

A worker has a directory for itself and does one operation at a time. ``may_be`` says for each name
what the store may have in the end: one content after an operation that returned, several while one
is under way (``None``: no such object). ``pairs`` are names of which one at least must have a file.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

KIB = 1024
Content = bytes | None
SMALL = (0, 1, 100, 4 * KIB, 70 * KIB)


@dataclass
class Worker:
    """One thread's files and operations."""

    directory: Path
    prefix: str
    seed: int
    # Above the mount's threshold: sent as segments.
    large: int
    # Whether files that are closed may still be in the spool alone.
    is_write_back: bool = False
    may_be: dict[str, set[Content]] = field(default_factory=dict)
    pairs: list[tuple[str, str]] = field(default_factory=list)
    # A file that is rewritten. If it waits in the spool for its upload, it is changed in place, as
    # on a local disk: then a part of its new content is all that may be there.
    growing: tuple[str, bytes] = ("", b"")
    done: int = 0
    # What ended it: the kill, or a fault.
    error: OSError | None = None

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._calls = 0

    def run(self, stop: threading.Event) -> None:
        """Do operations until one fails or ``stop`` is set."""
        operations: list[Callable[[], None]] = [
            *[self.write_new] * 3,
            *[self.rewrite] * 2,
            *[self.append] * 2,
            *[self.write_and_rename] * 3,
            self.rename,
            self.unlink,
            self.write_large,
            self.sync_in_between,
        ]
        try:
            while not stop.is_set():
                self._random.choice(operations)()
                self.pairs.clear()
                self.growing = ("", b"")
                self.done += 1
        except OSError as exc:
            self.error = exc

    def permits(self, name: str, content: Content) -> bool:
        """Whether the store may have this after a kill."""
        growing, data = self.growing
        is_part = self.is_write_back and growing == name and content is not None
        permitted = self.may_be.get(name, {None})
        return content in permitted or (is_part and data.startswith(content or b""))

    # -- operations -------------------------------------------------------------------------------

    def write_new(self) -> None:
        """Make a file."""
        name, data = self._new_name(), self._data()
        self.may_be[name] = {None, data}
        self._write(name, data, os.O_CREAT | os.O_EXCL)
        self.may_be[name] = {data}

    def rewrite(self) -> None:
        """Replace the content of a file, and its name stays."""
        if (name := self._old_name()) is None:
            return
        data = self._data()
        before = self.may_be[name]
        self.may_be[name] = {*before, data}
        self.growing = (name, data)
        self._write(name, data, os.O_TRUNC)
        self.may_be[name] = {data}

    def append(self) -> None:
        """Write behind the end."""
        if (name := self._old_name()) is None:
            return
        (before,) = self.may_be[name]
        added = self._data()
        whole = (before or b"") + added
        self.may_be[name] = {before, whole}
        self._write(name, added, os.O_APPEND)
        self.may_be[name] = {whole}

    def write_and_rename(self) -> None:
        """Write to a name of its own, then take another's, as rsync and editors do."""
        name = self._old_name() if self._random.random() < 0.7 else None
        name = name or self._new_name()
        temporary, data = self._new_name(), self._data()
        self.may_be[temporary] = {None, data}
        self._write(temporary, data, os.O_CREAT)
        self.may_be[temporary] = {data}
        self._rename(temporary, name)

    def rename(self) -> None:
        """Rename what may be stored already."""
        if (name := self._old_name()) is not None:
            self._rename(name, self._new_name())

    def unlink(self) -> None:
        """Remove a file."""
        if (name := self._old_name()) is None:
            return
        self.may_be[name] = {*self.may_be[name], None}
        (self.directory / name).unlink()
        self.may_be[name] = {None}

    def write_large(self) -> None:
        """Write a file that goes up in segments, new or over another."""
        name = (self._old_name() if self._random.random() < 0.5 else None) or self._new_name()
        data = self._pattern(self.large + self._random.randrange(self.large))
        self.may_be[name] = {*self.may_be.get(name, {None}), data}
        self.growing = (name, data)
        self._write(name, data, os.O_CREAT | os.O_TRUNC)
        self.may_be[name] = {data}

    def sync_in_between(self) -> None:
        """fsync is as good as close."""
        name, data, more = self._new_name(), self._data(), self._data()
        self.may_be[name] = {None, data}
        fd = os.open(self.directory / name, os.O_CREAT | os.O_WRONLY)
        try:
            os.write(fd, data)
            os.fsync(fd)
            self.may_be[name] = {data, data + more}
            os.write(fd, more)
        finally:
            os.close(fd)
        self.may_be[name] = {data + more}

    # -- parts of them ----------------------------------------------------------------------------

    def _write(self, name: str, data: bytes, flags: int) -> None:
        fd = os.open(self.directory / name, os.O_WRONLY | flags)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view[: 128 * KIB]) :]
        finally:
            os.close(fd)

    def _rename(self, old: str, new: str) -> None:
        moved = self.may_be[old]
        self.may_be[old], self.may_be[new] = {*moved, None}, {*self.may_be.get(new, {None}), *moved}
        self.pairs.append((old, new))
        (self.directory / old).rename(self.directory / new)
        self.may_be[old], self.may_be[new] = {None}, moved

    def _new_name(self) -> str:
        self._calls += 1
        return f"{self._calls:05}"

    def _old_name(self) -> str | None:
        names = [name for name, contents in self.may_be.items() if contents != {None}]
        return self._random.choice(names) if names else None

    def _data(self) -> bytes:
        return self._pattern(self._random.choice(SMALL))

    def _pattern(self, size: int) -> bytes:
        block = self._random.randbytes(min(size, 4 * KIB))
        return (block * (size // max(1, len(block)) + 1))[:size]
