"""The load of tests/crash, with more operations, that goes on when one of them fails.

After a failure several contents are permitted of the names that it was about. They are left alone
until nothing of it can be under way any more, then looked at: from there on one content is right.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.load import KIB, Content, Worker

# C0 of docs/SEMANTICS.md, without what cannot happen here: everything injected may pass.
PERMITTED = (errno.EIO, errno.ETIMEDOUT)
# How many operations are told of before one that is wrong.
LAST = 40
MOST_FILES = 24
MOST_LARGE = 4
MOST_DIRECTORIES = 4
# Between two operations, on average.
PAUSE_S = 0.1


class WrongError(Exception):
    """The mount did what it must not with a file."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} {what}")
        self.name = name


def shown(content: Content) -> str:
    return "nothing" if content is None else f"{len(content)} bytes, {content[:8].hex()}"


@dataclass
class Lasting(Worker):
    """A worker for hours."""

    # What the store has under a name of the worker.
    straight: Callable[[str], Content] = lambda name: None
    # Whether the store changed a name when nobody waited for that any more: it was silent for
    # longer than a deadline (R9). What is there then cannot be known here.
    was_late: Callable[[str], bool] = lambda name: False
    # Such names.
    lost_track: set[str] = field(default_factory=set)
    # Nothing of a call that failed is under way after this.
    settle_s: float = 0.0
    # When a call failed that was about the name.
    unsure: dict[str, float] = field(default_factory=dict)
    # Renames that failed.
    broken: list[tuple[str, str]] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    # The attribute user.note, where it is known.
    notes: dict[str, str] = field(default_factory=dict)
    # Names with a failed write: their data may be kept in the spool.
    failed_names: set[str] = field(default_factory=set)
    # Contents of large files whose rename failed: segments of them may be left over (C25).
    may_be_left: list[bytes] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    # What it does, since when.
    current: tuple[str, float] = ("", 0.0)
    wrong: list[str] = field(default_factory=list)
    # The operations before, with the names that they changed.
    last: deque[str] = field(default_factory=lambda: deque(maxlen=LAST))

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

    def _do(self, operation: Callable[[], None]) -> None:
        name = operation.__name__
        begun_s = time.monotonic()
        self.current = (name, begun_s)
        self.counts[name] += 1
        before = dict(self.may_be)
        outcome = ""
        try:
            operation()
        except WrongError as exc:
            self._lose_track(exc.name, exc)
            self._doubt()
        except OSError as exc:
            if exc.errno not in PERMITTED:
                path = Path(exc.filename or "")
                if not path.is_relative_to(self.directory):
                    raise
                self._lose_track(str(path.relative_to(self.directory)), exc)
            outcome = errno.errorcode[exc.errno or 0]
            self.failures[f"{name} {outcome}"] += 1
            self._doubt()
        else:
            self.done += 1
        finally:
            changed = {key for key, value in self.may_be.items() if before.get(key) != value}
            self.last.append(f"{name} {outcome} {' '.join(sorted(changed))}")
        self.pairs.clear()
        self.growing = ("", b"")
        self.slowest[name] = max(self.slowest.get(name, 0.0), time.monotonic() - begun_s)
        for gone in [each for each, contents in self.may_be.items() if contents == {None}]:
            del self.may_be[gone]
            self.notes.pop(gone, None)

    # -- what failed ------------------------------------------------------------------------------

    def _lose_track(self, wrong: str, error: Exception) -> None:
        """Forget a name and all below it where a change that came late is what is wrong."""
        time.sleep(1)
        if not self.was_late(wrong):
            raise error
        for name in [wrong, *self._below(wrong)]:
            self.lost_track.add(name)
            for known in (self.unsure, self.notes, self.may_be):
                known.pop(name, None)
        self.broken = [pair for pair in self.broken if not self.lost_track & set(pair)]
        self.pairs = [pair for pair in self.pairs if not self.lost_track & set(pair)]
        self.directories = [each for each in self.directories if each != wrong]
        self.counts["lost track of a name"] += 1

    def _doubt(self) -> None:
        now_s = time.monotonic()
        for name, contents in self.may_be.items():
            if len(contents) > 1 and name not in self.unsure:
                self.unsure[name] = now_s
                self.failed_names.add(name)
                self.notes.pop(name, None)
        for pair in self.pairs:
            self.broken.append(pair)
            self.may_be_left += [
                content
                for name in pair
                for content in self.may_be[name]
                if content is not None and len(content) > self.large
            ]

    def look_at_unsure(self) -> None:
        """Read a name of which several contents are permitted."""
        if not self.unsure:
            return
        name = self._random.choice(sorted(self.unsure))
        try:
            content = self._content(name)
        except OSError as exc:
            if exc.errno != errno.ESTALE:
                raise
            return
        self._check(name, content)

    def settle(self) -> None:
        """Find out what is right of the names of a call that failed long ago."""
        old_s = time.monotonic() - self.settle_s
        names = [name for name, since_s in self.unsure.items() if since_s < old_s]
        if not names:
            return
        name = names[0]
        pair = next((pair for pair in self.broken if name in pair), None)
        together = pair or (name,)
        contents = {each: self._content(each) for each in together}
        for each, content in contents.items():
            self._check(each, content)
            if not self.is_write_back and (there := self.straight(each)) != content:
                raise WrongError(each, f"is {shown(content)}, in the store {shown(there)}")
        is_lost = all(content is None for content in contents.values())
        if pair and is_lost and all(each in self.unsure for each in pair):
            raise WrongError(pair[0], f"is lost in its rename to {pair[1]}")
        for each, content in contents.items():
            self.may_be[each] = {content}
            self.unsure.pop(each, None)
        if pair:
            self.broken.remove(pair)
            self._end_rename(*pair)

    def _end_rename(self, old: str, new: str) -> None:
        """The same rename once more completes it; what segments it leaves is not followed."""
        if self.may_be[old] != {None} and self.may_be[new] == self.may_be[old]:
            self._rename(old, new)
        for name in (old, new):
            (content,) = self.may_be[name]
            if content is not None and len(content) > self.large:
                self._remove(name)

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
        self.failed_names.add(name)
        os.truncate(self.directory / name, size)
        self.failed_names.discard(name)
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
        self.failed_names.add(name)
        fd = os.open(self.directory / name, os.O_RDWR)
        try:
            written = os.pwrite(fd, data, offset)
        finally:
            os.close(fd)
        if written != len(data):
            raise WrongError(name, f"took {written} of {len(data)} bytes")
        self.failed_names.discard(name)
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

    def _write(self, name: str, data: bytes, flags: int) -> None:
        # What it has is the shortest of what an append permits.
        before = min((each or b"" for each in self.may_be[name]), key=len, default=b"")
        before = before if flags & os.O_APPEND else b""
        self.failed_names.add(name)
        fd = os.open(self.directory / name, os.O_WRONLY | flags)
        written = 0
        try:
            while written < len(data):
                written += os.write(fd, data[written : written + 128 * KIB])
        except OSError:
            self.may_be[name] |= {before + data[:written]}
            raise
        finally:
            os.close(fd)
        self.failed_names.discard(name)

    def _rename(self, old: str, new: str) -> None:
        note = self.notes.pop(old, None)
        self.notes.pop(new, None)
        super()._rename(old, new)
        if note is not None:
            self.notes[new] = note

    def _remove(self, name: str) -> None:
        self.may_be[name] = {*self.may_be[name], None}
        (self.directory / name).unlink()
        self.may_be[name] = {None}

    def _content(self, name: str) -> Content:
        try:
            return (self.directory / name).read_bytes()
        except FileNotFoundError:
            return None

    def _check(self, name: str, content: Content) -> None:
        permitted = self.may_be.get(name, {None})
        if content not in permitted:
            wanted = " or ".join(sorted(shown(each) for each in permitted))
            raise WrongError(name, f"is {shown(content)} in place of {wanted}")

    def _only(self, name: str) -> bytes:
        """Return the content of a file that is there for sure."""
        contents = [each for each in self.may_be[name] if each is not None]
        return contents[0] if contents else b""

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

    def _below(self, directory: str) -> list[str]:
        return [name for name in self.may_be if name.startswith(f"{directory}/")]

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

    def _old_name(self) -> str | None:
        names = [
            name
            for name, contents in self.may_be.items()
            if contents != {None} and name not in self.unsure
        ]
        return self._random.choice(names) if names else None
