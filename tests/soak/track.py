"""What is known of a worker's files while operations on them fail.

After a failure several contents are permitted of the names that it was about. They are left alone
until nothing of it can be under way any more, then looked at: from there on one content is right.
"""

from __future__ import annotations

import errno
import os
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


class WrongError(Exception):
    """The mount did what it must not with a file."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"{name} {what}")
        self.name = name


def shown(content: Content) -> str:
    return "nothing" if content is None else f"{len(content)} bytes, {content[:8].hex()}"


@dataclass
class Tracked(Worker):
    """A worker that goes on when an operation fails."""

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
    # What the operation writes.
    writing: set[str] = field(default_factory=set)
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

    def _do(self, operation: Callable[[], None]) -> None:
        name = operation.__name__
        begun_s = time.monotonic()
        self.current = (name, begun_s)
        self.counts[name] += 1
        before = dict(self.may_be)
        outcome = ""
        self.writing.clear()
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
            self.failed_names |= self.writing
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

    # -- parts of them ----------------------------------------------------------------------------

    def _write(self, name: str, data: bytes, flags: int) -> None:
        # What it has is the shortest of what an append permits.
        before = min((each or b"" for each in self.may_be[name]), key=len, default=b"")
        before = before if flags & os.O_APPEND else b""
        self.writing.add(name)
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

    def _below(self, directory: str) -> list[str]:
        return [name for name in self.may_be if name.startswith(f"{directory}/")]

    def _old_name(self) -> str | None:
        names = [
            name
            for name, contents in self.may_be.items()
            if contents != {None} and name not in self.unsure
        ]
        return self._random.choice(names) if names else None
