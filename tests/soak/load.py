"""The load of tests/crash, with more operations, that goes on when one of them fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass

from tests.crash.load import KIB

from .track import Tracked, WrongError

MOST_FILES = 24
MOST_LARGE = 4
MOST_DIRECTORIES = 4
# Between two operations, on average.
PAUSE_S = 0.1


@dataclass
class Lasting(Tracked):
    """A worker for hours."""

    def run(self, stop: threading.Event) -> None:
        """Do operations until ``stop`` is set or something is wrong."""
        operations: list[Callable[[], None]] = [
            *[self.write_new] * 3,
            *[self.rewrite] * 2,
            *[self.append] * 2,
            *[self.write_and_rename] * 2,
            *[self.rename] * 2,
            *[self.unlink] * 2,
            self.write_large,
            self.sync_in_between,
            *[self.truncate] * 2,
            *[self.patch] * 2,
            *[self.read] * 6,
            *[self.read_ranges] * 3,
            *[self.stat] * 3,
            *[self.find] * 2,
            self.look_at_unsure,
            *[self.settle] * 2,
            self.set_note,
            self.get_note,
            self.touch,
            self.make_directory,
            self.rename_directory,
            self.remove_directory,
        ]
        try:
            while not stop.is_set():
                operation = self._random.choice(operations)
                if len(self.may_be) > MOST_FILES and operation in (self.write_new, self.rename):
                    operation = self.unlink
                self._do(operation)
                stop.wait(self._random.uniform(0, 2 * PAUSE_S))
        except Exception as exc:
            name = getattr(exc, "filename", None) or ""
            self.wrong.append(f"{self.prefix}: {self.current[0]}: {exc!r} {name}")
            self.wrong.append(f"{self.prefix}: before: {', '.join(self.last)}")
            stop.set()
        finally:
            self.current = ("", 0.0)

    # -- more operations --------------------------------------------------------------------------

    def write_large(self) -> None:
        """As the crash's, but not too many of them."""
        contents = [content for each in self.may_be.values() for content in each]
        if sum(len(content or b"") > self.large for content in contents) < MOST_LARGE:
            super().write_large()

    def truncate(self) -> None:
        """Cut a file or make it longer by its name."""
        if (name := self._old_name()) is None:
            return
        before = self._only(name)
        size = self._random.randrange(len(before) + 8 * KIB)
        after = before[:size].ljust(size, b"\0")
        self.may_be[name] = {before, after}
        self.writing.add(name)
        os.truncate(self.directory / name, size)
        self.may_be[name] = {after}

    def patch(self) -> None:
        """Change some bytes in the middle."""
        if (name := self._old_name()) is None:
            return
        before = self._only(name)
        offset = self._random.randrange(len(before) + 1)
        data = self._pattern(self._random.choice((1, 500, 5 * KIB)))
        after = before[:offset] + data + before[offset + len(data) :]
        self.may_be[name] = {before, after}
        self.writing.add(name)
        fd = os.open(self.directory / name, os.O_RDWR)
        try:
            written = os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
        if written != len(data):
            raise WrongError(name, f"took {written} of {len(data)} bytes")
        self.may_be[name] = {after}

    def read(self) -> None:
        """Read a file whole."""
        if (name := self._old_name()) is not None:
            self._check(name, self._content(name))

    def read_ranges(self) -> None:
        """Read parts of a file."""
        if (name := self._old_name()) is None:
            return
        content = self._only(name)
        fd = os.open(self.directory / name, os.O_RDONLY)
        try:
            for _ in range(4):
                offset = self._random.randrange(len(content) + 1)
                size = self._random.choice((1, 4 * KIB, 100 * KIB))
                if os.pread(fd, size, offset) != content[offset : offset + size]:
                    raise WrongError(name, f"has wrong bytes at {offset}")
        finally:
            os.close(fd)

    def stat(self) -> None:
        """A file has its size, and a name that is not there is not there."""
        if (name := self._old_name()) is None:
            return
        if (size := (self.directory / name).stat().st_size) != len(self._only(name)):
            raise WrongError(name, f"has {size} bytes in place of {len(self._only(name))}")
        if (self.directory / f"{name}.absent").exists():
            raise WrongError(f"{name}.absent", "is there")

    def find(self) -> None:
        """List everything, with sizes."""
        found: dict[str, int] = {}
        self._walk("", found)
        for name, size in found.items():
            if name in self.lost_track:
                continue
            sizes = {len(each) for each in self.may_be.get(name, ()) if each is not None}
            if size not in sizes:
                raise WrongError(name, f"is listed with {size} bytes in place of {sorted(sizes)}")
        for name, contents in self.may_be.items():
            if None not in contents and name not in found and name not in self.unsure:
                raise WrongError(name, "is not listed")

    def set_note(self) -> None:
        """Set an extended attribute."""
        if (name := self._old_name()) is None:
            return
        note = f"note {self._random.randrange(10**9)}"
        self.notes.pop(name, None)
        os.setxattr(self.directory / name, "user.note", note.encode())
        self.notes[name] = note

    def get_note(self) -> None:
        """Read one."""
        known = sorted(self.notes.keys() - self.unsure.keys())
        if not known:
            return
        name = self._random.choice(known)
        path = self.directory / name
        note = os.getxattr(path, "user.note").decode()
        if note != self.notes[name] or "user.note" not in os.listxattr(path):
            raise WrongError(name, f"has the {note} in place of {self.notes[name]}")

    def touch(self) -> None:
        """Set the time of a file."""
        if (name := self._old_name()) is None:
            return
        when_ns = self._random.randrange(10**9) * 1_000_000_000 + 500_000_000
        os.utime(self.directory / name, ns=(when_ns, when_ns))
        if (found := (self.directory / name).stat().st_mtime_ns) != when_ns:
            raise WrongError(name, f"has the time {found} in place of {when_ns}")

    def make_directory(self) -> None:
        if len(self.directories) < MOST_DIRECTORIES:
            name = f"d{super()._new_name()}"
            (self.directory / name).mkdir()
            self.directories.append(name)

    def rename_directory(self) -> None:
        """Rename a directory with what is in it."""
        old = self._quiet_directory()
        if old is None:
            return
        new = f"d{super()._new_name()}"
        self.directories.remove(old)
        pairs = [(name, new + name[len(old) :]) for name in self._below(old)]
        contents = {name: self.may_be[name] for name, _ in pairs}
        notes = {pair: self.notes.pop(pair[0]) for pair in pairs if pair[0] in self.notes}
        for one, other in pairs:
            self.may_be[one] = {*contents[one], None}
            self.may_be[other] = {*contents[one], None}
        self.pairs += pairs
        (self.directory / old).rename(self.directory / new)
        for one, other in pairs:
            self.may_be[one], self.may_be[other] = {None}, contents[one]
        self.notes |= {other: note for (_, other), note in notes.items()}
        self.directories.append(new)

    def remove_directory(self) -> None:
        """Remove a directory with what is in it."""
        name = self._quiet_directory()
        if name is None:
            return
        self.directories.remove(name)
        for each in self._below(name):
            self._remove(each)
        (self.directory / name).rmdir()

    # -- parts of them ----------------------------------------------------------------------------

    def _walk(self, folder: str, found: dict[str, int]) -> None:
        with os.scandir(self.directory / folder) as entries:
            for entry in entries:
                name = f"{folder}{entry.name}"
                if entry.is_dir(follow_symlinks=False):
                    self._walk(f"{name}/", found)
                    continue
                try:
                    found[name] = entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    if name not in self.unsure:
                        raise

    def _quiet_directory(self) -> str | None:
        """Return a directory in which everything is sure."""
        quiet = [
            each
            for each in self.directories
            if not any(name in self.unsure for name in self._below(each))
        ]
        return self._random.choice(quiet) if quiet else None

    def _new_name(self) -> str:
        name = super()._new_name()
        if self.directories and self._random.random() < 0.4:
            return f"{self._random.choice(self.directories)}/{name}"
        return name
