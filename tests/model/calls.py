"""What programs do with open files, as rules: what each call must do, by the reference."""

from __future__ import annotations

import errno
import os

from hypothesis import strategies as st
from hypothesis.stateful import Bundle, MultipleResults, consumes, multiple, rule

from tests.model.machine import PATHS, Machine, Outcome, Pick, operation
from tests.model.reference import (
    DEFAULT_MODE,
    DIRECTORY,
    Directory,
    File,
    Handle,
    Kind,
    Version,
    above,
)

# Around the threshold and the segment size of the machine.
SIZES = [0, 1, 7, 99, 100, 101, 199, 200, 201, 350]


def picks(*kinds: str) -> st.SearchStrategy[Pick]:
    """Return a strategy for paths: mostly of these kinds, sometimes any."""
    return st.builds(Pick, st.sampled_from([*kinds * 4, "path"]), st.integers(0, len(PATHS) - 1))


files = picks("file")
directories = picks("directory")
free = picks("free")
sizes = st.sampled_from(SIZES)
accesses = st.sampled_from([os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_RDWR])
more_flags = st.sets(st.sampled_from([os.O_CREAT, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND]))
modes = st.sampled_from([DEFAULT_MODE, DEFAULT_MODE, 0o600])
MOST_LINKS = 40

Seen = Version | Directory | File | int | None


def is_link(look: Seen) -> bool:
    """Whether a look found a symbolic link."""
    return isinstance(look, Version) and look.kind is Kind.LINK


class FileCalls(Machine):
    """What programs do with open files."""

    fds = Bundle("fds")

    def resolve(self, path: str) -> tuple[str, Seen, list[Version]]:
        """Follow links; return where they lead, what is there, and the links on the way.

        The look at the end may find out that what was known is gone, the links on the way, too.
        """
        found = self.followed(path)
        while found[1] is not None and found[2]:
            again = self.followed(path)
            if again == found:
                break
            found = again
        return found

    def followed(self, path: str) -> tuple[str, Seen, list[Version]]:
        """Follow links once."""
        links: list[Version] = []
        while True:
            if way := self.way(path):
                return path, way, links
            look = self.look(path)
            if not (isinstance(look, Version) and look.kind is Kind.LINK):
                return path, look, links
            links.append(look)
            if len(links) == MOST_LINKS:
                return path, errno.ELOOP, links
            target = look.content.decode()
            path = f"{above(path)}/{target}".removeprefix("/")

    def failed(self, outcome: Outcome, *permitted: int, path: str = "") -> bool:
        """Whether a call failed as it may; then nothing changed. Any other error is wrong.

        A directory that was about to lose its last entry, ``path``, may have a marker by now.
        """
        if outcome.is_ok or outcome.is_fault:
            return False
        assert outcome.errno in permitted, f"{outcome}; permitted {permitted}"
        self.settle(outcome, {}, optional=[f"{above(path)}/"] if above(path) else [])
        return True

    def refuses(self, outcome: Outcome, *expected: int) -> None:
        """The call must fail, and nothing change."""
        if not outcome.is_fault:
            assert outcome.errno in expected, f"{outcome}; expected {expected}"
        self.settle(outcome, {})

    def stale(self, path: str | None, version: Version | None) -> list[int]:
        """Return ESTALE if the store does not have a version any more."""
        return [] if self.names.is_current(path, version) else [errno.ESTALE]

    # -- open files -------------------------------------------------------------------------------

    @rule(target=fds, name=picks("file", "free"), access=accesses, more=more_flags, mode=modes)
    @operation
    def open(
        self, name: Pick, access: int, more: set[int], mode: int
    ) -> int | MultipleResults[int]:
        path = self.path(name)
        if access == os.O_RDONLY or os.O_CREAT not in more:
            # POSIX leaves these undefined.
            more = more - {os.O_TRUNC if access == os.O_RDONLY else 0}
            more = more - (set() if os.O_CREAT in more else {os.O_EXCL})
        fd = self.do_open(path, access | sum(more), mode)
        return multiple() if fd is None else fd

    def do_open(self, path: str, flags: int, mode: int) -> int | None:
        real, look, links = self.resolve(path)
        if look is None or (links and flags & os.O_EXCL):
            return None
        outcome = self.call(self.fs.open, self.at(path), flags, mode)
        stale = [code for link in links for code in self.stale_anywhere(link)]
        if self.failed(outcome, *stale, *self.why_not_open(real, look, flags)):
            return None
        assert outcome.is_fault or not self.why_not_open(real, look, flags), f"{look} was opened"
        self.settle(outcome, {})
        if outcome.is_fault:
            return None
        file = self.opened(real, look, mode)
        file.is_exclusive |= file.is_new and bool(flags & os.O_EXCL)
        if flags & os.O_TRUNC:
            file.truncate(0, self.clock.ns())
        file.handles += 1
        self.mount.handles[outcome.value] = Handle(file, flags)
        return int(outcome.value)

    def stale_anywhere(self, version: Version) -> list[int]:
        numbers = {now.number for now in self.names.now.values()}
        return [] if version.number in numbers else [errno.ESTALE, errno.ENOENT]

    def why_not_open(self, path: str, look: Seen, flags: int) -> list[int]:
        """Return the errno of an open that must fail."""
        if isinstance(look, int):
            is_made = look == errno.ENOENT and flags & os.O_CREAT and self.way(path) == 0
            return [] if is_made else [look]
        if flags & os.O_CREAT and flags & os.O_EXCL:
            return [errno.EEXIST]
        return [errno.EISDIR] if look is DIRECTORY else []

    def opened(self, path: str, look: Seen, mode: int = DEFAULT_MODE) -> File:
        """Return the file of a path that was seen, a new one if nothing was."""
        if isinstance(look, File):
            return look
        if isinstance(look, Version):
            return self.mount.open(path, look)
        now = frozenset({self.clock.ns()})
        file = File(path, None, now, frozenset({mode}), is_dirty=True)
        self.mount.files[path] = file
        return file

    @rule(fd=fds, offset=sizes, length=st.sampled_from([1, 60, 150, 1000]))
    @operation
    def read(self, fd: int, offset: int, length: int) -> None:
        self.do_read(fd, offset, length)

    def do_read(self, fd: int, offset: int, length: int) -> None:
        handle = self.mount.handles[fd]
        file = handle.file
        outcome = self.call(self.fs.pread, fd, length, offset)
        if handle.flags & os.O_ACCMODE == os.O_WRONLY:
            self.refuses(outcome, errno.EBADF)
            return
        is_lent = file.needs_store(offset, offset + length)
        if not self.failed(outcome, *(self.stale(file.key, file.version) if is_lent else [])):
            if outcome.is_ok:
                expected = file.content[offset : offset + length]
                assert outcome.value == expected, f"read {outcome.value!r}, not {expected!r}"
            self.settle(outcome, {})

    @rule(fd=fds, offset=sizes, size=sizes)
    @operation
    def write(self, fd: int, offset: int, size: int) -> None:
        self.do_write(fd, offset, size)

    def do_write(self, fd: int, offset: int, size: int) -> None:
        handle = self.mount.handles[fd]
        data = self.data(size)
        outcome = self.call(self.fs.pwrite, fd, data, offset)
        if handle.flags & os.O_ACCMODE == os.O_RDONLY:
            self.refuses(outcome, errno.EBADF)
            return
        assert outcome.is_ok, outcome
        assert outcome.value == size
        file = handle.file
        is_appended = handle.flags & os.O_APPEND
        file.write(len(file.content) if is_appended else offset, data, self.clock.ns())

    @rule(fd=fds, size=sizes)
    @operation
    def ftruncate(self, fd: int, size: int) -> None:
        handle = self.mount.handles[fd]
        outcome = self.call(self.fs.ftruncate, fd, size)
        if handle.flags & os.O_ACCMODE == os.O_RDONLY:
            self.refuses(outcome, errno.EINVAL)
            return
        assert outcome.is_ok, outcome
        handle.file.truncate(size, self.clock.ns())

    @rule(fd=fds)
    @operation
    def fsync(self, fd: int) -> None:
        outcome = self.call(self.fs.fsync, fd)
        self.flushed(self.mount.handles[fd], outcome)

    @rule(fd=consumes(fds))
    @operation
    def close(self, fd: int) -> None:
        self.do_close(fd)

    def do_close(self, fd: int) -> None:
        outcome = self.call(self.fs.close, fd)
        handle = self.mount.handles.pop(fd)
        self.flushed(handle, outcome)
        handle.file.handles -= 1
        self.mount.close(handle.file)

    def flushed(self, handle: Handle, outcome: Outcome) -> None:
        """A flush stores what is dirty; a file that was opened for reading only is not asked."""
        file = handle.file
        may_write = handle.flags & os.O_ACCMODE != os.O_RDONLY
        if not file.is_dirty or file.key is None or not (may_write or file.is_new):
            assert outcome.is_ok, outcome
            self.settle(outcome, {})
            return
        self.uploaded(file, outcome)

    def is_refused(self, file: File) -> bool:
        """Whether O_EXCL keeps a new file from replacing what another client made meanwhile."""
        is_asked = file.is_exclusive and file.is_new and not self.is_rgw
        return is_asked and file.key in self.names.now and not self.is_own(file)

    def is_own(self, file: File) -> bool:
        """Whether the store has what an upload of a new file left there, though it failed."""
        now = None if file.key is None else self.names.now.get(file.key)
        return now is not None and now.number == file.tried

    def may_be_own(self, file: File) -> bool:
        """Whether the store has the bytes of an upload that failed, another client's perhaps."""
        now = None if file.key is None else self.names.now.get(file.key)
        return now is not None and now.content in file.sent

    def was_stored(self, file: File) -> bool:
        """After an unlink of a new file: whether it was found in the store."""
        is_gone = self.may_be_own(file) and file.key not in self.stored()
        return is_gone or self.is_own(file)

    def uploaded(self, file: File, outcome: Outcome) -> None:
        """A dirty file was stored, or why not."""
        assert file.key is not None
        if outcome.is_fault:
            file.sent.add(file.content)
        if self.is_refused(file) and not (outcome.is_ok and self.may_be_own(file)):
            self.refuses(outcome, errno.EEXIST)
            return
        is_lent = file.needs_store(0, len(file.content))
        if self.failed(outcome, *(self.stale(file.key, file.version) if is_lent else [])):
            return
        version = file.as_version(self.new_number())
        self.settle(outcome, {file.key: version})
        now = self.names.now.get(file.key)
        if outcome.is_ok:
            file.uploaded(version)
        elif now is not None and now.number == version.number:
            file.tried = now.number

    @rule(name=picks("file", "free"), size=sizes)
    @operation
    def save(self, name: Pick, size: int) -> None:
        """Make or replace a file, as cp does."""
        fd = self.do_open(self.path(name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, DEFAULT_MODE)
        if fd is not None:
            self.do_write(fd, 0, size)
            self.do_close(fd)

    @rule(name=files)
    @operation
    def load(self, name: Pick) -> None:
        """Read a file, as cat does."""
        fd = self.do_open(self.path(name), os.O_RDONLY, DEFAULT_MODE)
        if fd is not None:
            self.do_read(fd, 0, 4096)
            self.do_close(fd)
