"""What programs do with names and attributes, as rules: what each call must do."""

from __future__ import annotations

import errno
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from allasfs.fs.openfile import OpenFile
from tests.model.account import SECOND_NS, attributes_of, times
from tests.model.calls import FileCalls, Seen, directories, files, free, picks, sizes
from tests.model.machine import TOO_LONG, Outcome, Pick, operation
from tests.model.reference import DIRECTORY, File, Kind, Version, above

# Links lead to names beside them, or nowhere.
targets = st.sampled_from(["a", "b", "ab", "nowhere"])


class Calls(FileCalls):
    """Everything that a program may do with files and names."""

    @rule(name=picks("file", "directory"))
    @operation
    def stat(self, name: Pick) -> None:
        path = self.path(name)
        self.look(path)

    @rule(name=directories)
    @operation
    def listdir(self, name: Pick) -> None:
        path = self.path(name)
        if self.look(path) is DIRECTORY:
            self.check_entries(path)

    @rule()
    @operation
    def find(self) -> None:
        self.look_around()

    @rule(name=files, size=sizes)
    @operation
    def truncate(self, name: Pick, size: int) -> None:
        path = self.path(name)
        real, look, links = self.resolve(path)
        if look is None:
            return
        outcome = self.call(self.fs.truncate, self.at(path), size)
        stale = [code for link in links for code in self.stale_anywhere(link)]
        if isinstance(look, int) or look is DIRECTORY:
            self.refuses(outcome, look if isinstance(look, int) else errno.EISDIR, *stale)
            return
        if outcome.errno in stale and not self.was_reached(real, size):
            self.settle(outcome, {})
            return
        before = self.mount.files.get(real)
        was_open = before is not None
        file = self.opened(real, look)
        if outcome.is_fault and file.handles and not self.is_truncated(real, size):
            self.settle(outcome, {})
            return
        file.truncate(size, self.clock.ns())
        lost = self.mount.lost
        self.uploaded(file, outcome)
        self.mount.close(file)
        if outcome.is_fault and not (was_open and file is before) and not file.handles:
            # Whether the failure came before anything was in the spool.
            self.mount.lost = self.not_stored()
            assert lost <= self.mount.lost <= lost + 1

    def was_reached(self, path: str, size: int) -> bool:
        """After a truncate that failed over links: whether these led to the file all the same."""
        is_open = path in self.mount.files and self.is_open(path)
        return self.not_stored() > self.mount.lost or (is_open and self.is_truncated(path, size))

    def not_stored(self) -> int:
        """Return of how many files the mount says that they were not stored."""
        assert self.vfs is not None
        lines = self.vfs.status()["not_stored"]
        assert isinstance(lines, list)
        return len(lines)

    def is_truncated(self, path: str, size: int) -> bool:
        """After a failure: whether it came after the open file was cut."""
        return self.fs.lstat(self.at(path)).size == size

    @rule(name=files)
    @operation
    def unlink(self, name: Pick) -> None:
        self.do_unlink(self.path(name))

    def do_unlink(self, path: str) -> None:
        look = self.way(path) or self.look(path)
        if look is None:
            return
        outcome = self.call(self.fs.unlink, self.at(path))
        if isinstance(look, int) or look is DIRECTORY:
            self.refuses(outcome, look if isinstance(look, int) else errno.EISDIR)
            return
        if isinstance(look, File) and look.is_new and not self.was_stored(look):
            assert outcome.is_ok or outcome.is_fault, outcome
            self.settle(outcome, {})
            self.mount.unlink(path)
            return
        is_there = path in self.names.now
        held = self.is_held(path)
        if (
            not isinstance(look, File)
            and not is_there
            and self.failed(outcome, errno.ENOENT, path=path)
        ):
            return
        assert outcome.is_ok or outcome.is_fault, outcome
        expected, optional = self.kept(path, {path: None})
        self.settle(outcome, expected, steps={path: [None]}, optional=optional)
        if outcome.is_ok or not self.is_open(path):
            self.mount.unlink(path, is_held=held and self.is_armed)

    def is_open(self, path: str) -> bool:
        """After a failure: whether the open file still has this name."""
        return self.vfs_file(path) is not None

    @rule(name=picks("file", "file", "directory"), new_name=picks("free", "file", "directory"))
    @operation
    def rename(self, name: Pick, new_name: Pick) -> None:
        old, new = self.path(name), self.path(new_name)
        ways = [way for way in (self.way(old), self.way(new)) if way != 0]
        look, there = (None, None) if ways else (self.look(old), self.look(new))
        if None in ways or (not ways and (look is None or there is None)):
            return
        outcome = self.call(self.fs.rename, self.at(old), self.at(new))
        errors = [way for way in ways if way is not None]
        if isinstance(look, int):
            errors.append(look)
        elif look is not DIRECTORY and there is DIRECTORY:
            errors.append(errno.EISDIR)
        elif look is DIRECTORY and isinstance(there, Version | File):
            errors.append(errno.ENOTDIR)
        if errors:
            self.refuses(outcome, *errors)
        elif old == new:
            assert outcome.is_ok or outcome.is_fault, outcome
            self.settle(outcome, {})
        elif look is DIRECTORY:
            self.directory_renamed(old, new, there, outcome)
        else:
            self.file_renamed(old, new, look, outcome)

    def file_renamed(self, old: str, new: str, look: Seen, outcome: Outcome) -> None:
        file = self.mount.files.get(old)
        held = self.is_held(new)
        before = self.names.now.get(old)
        source = before
        flushed: Version | None = None
        stale: list[int] = []
        if isinstance(look, File):
            flushed = source = look.as_version(self.new_number())
            if look.needs_store(0, len(look.content)):
                stale = self.stale(old, look.version)
        if source is None:
            if not self.failed(outcome, errno.ENOENT, path=old):
                assert outcome.is_fault, outcome
                self.settle(outcome, {}, optional=[f"{above(old)}/"])
            return
        if isinstance(look, File) and self.is_refused(look):
            stale.append(errno.EEXIST)
        if self.failed(outcome, *stale, path=old):
            return
        moved = replace(source, mtimes=self.times_of_copy(source, look))
        if isinstance(look, Version):
            is_known = look.number == source.number
            moved = replace(moved, modes=(source.or_as_seen(look) if is_known else source).modes)
        expected, optional = self.kept(old, {old: None, new: moved})
        steps = {old: [*([flushed] if flushed else []), *self.steps_of(old, source)]}
        self.settle(outcome, expected, steps=steps, optional=optional)
        if outcome.is_fault:
            if isinstance(look, File):
                look.sent.add(look.content)
            copy = self.names.now.get(new)
            is_kept = isinstance(look, File) or old in self.names.now
            assert is_kept or (copy is not None and copy.content == source.content), "lost"
            self.may_leave_segments = True
            self.after_failed_rename(old, new, flushed)
            return
        if flushed is not None and isinstance(look, File):
            look.uploaded(moved)
        elif file is not None and file.is_at(source):
            file.given(moved.mtimes, file.modes)
        self.mount.rename(old, new, is_held=held and self.is_armed)

    def steps_of(self, key: str, source: Version | None) -> list[Version | None]:
        """Return what an old name may be after a rename that failed, if it is not as it was.

        A large object was marked, and the mark may be off again: its POSTs made it anew.
        """
        stored = self.stored().get(key)
        return [None, source] if stored is not None and stored.is_large else [None]

    def is_held(self, path: str) -> bool:
        """Whether an open file's bytes are there to be fetched before its name is removed."""
        file = self.mount.files.get(path)
        return file is not None and self.names.is_current(path, file.version)

    def times_of_copy(self, source: Version, look: Seen) -> frozenset[int] | None:
        """A copy of a version that this mount did not know has the time of the copy."""
        if isinstance(look, Version):
            if look.number != source.number:
                return None
            source = source.or_as_seen(look)
        if source.mtimes is None or len(source.mtimes) == 1:
            return source.mtimes
        return source.mtimes | times(self.clock.ns())

    def after_failed_rename(self, old: str, new: str, flushed: Version | None) -> None:
        """Take over how far the mount came with its open files."""
        file = self.mount.files.get(old)
        if file is not None and flushed is not None:
            shown = self.vfs_file(old)
            if shown is not None and not shown.is_dirty:
                now = self.names.now.get(old)
                file.uploaded(now if now is not None else flushed)
        if self.mount.files.get(new) is not None and not self.is_open(new):
            self.mount.unlink(new)

    def vfs_file(self, path: str) -> OpenFile | None:
        assert self.vfs is not None
        return self.vfs._files.at(self.vfs._tree.layout.place(self.at(path)))

    def directory_renamed(self, old: str, new: str, there: Seen, outcome: Outcome) -> None:
        """All below a directory has other names."""
        if new.startswith(f"{old}/"):
            self.refuses(outcome, errno.EINVAL)
            return
        is_certain = all(self.names.is_certain(path, self.now) for path in (old, new))
        certain, possible = self.is_full(new)
        if there is DIRECTORY and certain and is_certain:
            self.refuses(outcome, errno.ENOTEMPTY)
            return
        permitted = [errno.ENOTEMPTY] if possible and not is_certain else []
        if not any(
            key.startswith(f"{old}/") or (key == old and version.kind is Kind.MARKER)
            for key, version in self.names.now.items()
        ):
            # Others removed all of it.
            permitted.append(errno.ENOENT)
        if self.failed(outcome, *permitted, path=old):
            return
        moved: dict[str, Version | None] = {}
        markers = {f"{old}/": f"{new}/", old: new}
        for key, version in self.names.now.items():
            is_marker = version.kind is Kind.MARKER and key in markers
            if (key.startswith(f"{old}/") and key not in markers) or is_marker:
                times_now = self.times_of_copy(version, version) if is_certain else None
                moved[key] = None
                moved[new + key[len(old) :]] = replace(version, mtimes=times_now)
        now, *past = self.names.permitted(old, self.now)
        was_marked = any(each is not None and each.kind is Kind.MARKER for each in past)
        if now is not None and was_marked and old not in self.stored():
            # Others replaced its marker without slash shortly before.
            moved |= {old: None, new: replace(now, mtimes=None, modes=None)}
        if f"{new}/" in self.names.now and any(
            key not in markers for key in moved if moved[key] is None
        ):
            # It told of the rename while that was under way.
            moved.setdefault(f"{new}/", self.marker())
        expected, optional = self.kept(old, moved)
        if not is_certain or outcome.is_fault:
            optional = [*optional, *markers, *markers.values()]
        steps = {
            key: self.steps_of(key, self.names.now.get(key))
            for key in moved
            if key.startswith(f"{old}/")
        }
        self.settle(outcome, expected, steps=steps, optional=optional)
        self.may_leave_segments |= outcome.is_fault
        for key in list(self.mount.files):
            if key.startswith(f"{old}/"):
                target = new + key[len(old) :]
                if outcome.is_ok or self.is_open(target):
                    self.mount.rename(key, target)

    @rule(name=free)
    @operation
    def mkdir(self, name: Pick) -> None:
        path = self.path(name)
        look = self.way(path) or self.look(path)
        if look is None:
            return
        outcome = self.call(self.fs.mkdir, self.at(path))
        if look != errno.ENOENT or self.way(path):
            self.refuses(outcome, look if isinstance(look, int) else errno.EEXIST)
            return
        assert outcome.is_ok or outcome.is_fault, outcome
        self.settle(outcome, {f"{path}/": self.marker()})

    @rule(name=directories)
    @operation
    def rmdir(self, name: Pick) -> None:
        self.do_rmdir(self.path(name))

    def do_rmdir(self, path: str) -> None:
        look = self.way(path) or self.look(path)
        if look is None:
            return
        certain, possible = self.is_full(path)
        outcome = self.call(self.fs.rmdir, self.at(path))
        if look is not DIRECTORY:
            self.refuses(outcome, look if isinstance(look, int) else errno.ENOTDIR)
            return
        if certain:
            self.refuses(outcome, errno.ENOTEMPTY)
            return
        if self.failed(outcome, *([errno.ENOTEMPTY] if possible else [])):
            return
        gone: dict[str, Version | None] = {}
        unsure: list[str] = []
        for key in (f"{path}/", path):
            permitted = self.names.permitted(key, self.now)
            if len(permitted) > 1:
                unsure.append(key)
            elif permitted[0] is not None and permitted[0].kind is Kind.MARKER:
                gone[key] = None
        expected, optional = self.kept(path, gone)
        steps: dict[str, list[Version | None]] = {key: [None] for key in gone}
        self.settle(outcome, expected, steps=steps, optional=[*optional, *unsure])

    @rule(name=free, leads_to=targets)
    @operation
    def symlink(self, name: Pick, leads_to: str) -> None:
        path = self.path(name)
        look = self.way(path) or self.look(path)
        if look is None:
            return
        outcome = self.call(self.fs.symlink, leads_to, self.at(path))
        if look != errno.ENOENT or self.way(path):
            self.refuses(outcome, look if isinstance(look, int) else errno.EEXIST)
            return
        assert outcome.is_ok or outcome.is_fault, outcome
        now = frozenset({self.clock.ns()})
        version = Version(Kind.LINK, leads_to.encode(), self.new_number(), now)
        self.settle(outcome, {path: version})

    @rule(name=files)
    @operation
    def readlink(self, name: Pick) -> None:
        path = self.path(name)
        look = self.way(path) or self.look(path)
        if look is None:
            return
        outcome = self.call(self.fs.readlink, self.at(path))
        if isinstance(look, Version) and look.kind is Kind.LINK:
            if not self.failed(outcome, *self.stale_anywhere(look)) and outcome.is_ok:
                assert outcome.value.encode() == look.content
            return
        self.refuses(outcome, look if isinstance(look, int) else errno.EINVAL)

    @rule(name=directories, call=st.sampled_from(["lstat", "unlink", "mkdir", "rmdir", "listdir"]))
    @operation
    def name_too_long(self, name: Pick, call: str) -> None:
        path = f"{self.path(name)}/{TOO_LONG}"
        way = self.way(path)
        outcome = self.call(getattr(self.fs, call), self.at(path))
        if way is not None:
            self.refuses(outcome, way or errno.ENAMETOOLONG)

    # -- attributes -------------------------------------------------------------------------------

    @rule(
        name=picks("file", "file", "directory"),
        mtime_ns=st.sampled_from([1, 1_234_567_890_123_456_789]),
    )
    @operation
    def utime(self, name: Pick, mtime_ns: int) -> None:
        path = self.path(name)
        real, look, links = self.resolve(path)
        if look is None:
            return
        outcome = self.call(self.fs.utime, self.at(path), mtime_ns)
        self.given(real, look, links, outcome, mtimes=frozenset({mtime_ns}))

    @rule(name=picks("file", "file", "directory"), mode=st.sampled_from([0o600, 0o755]))
    @operation
    def chmod(self, name: Pick, mode: int) -> None:
        path = self.path(name)
        real, look, links = self.resolve(path)
        if look is None:
            return
        outcome = self.call(self.fs.chmod, self.at(path), mode)
        self.given(real, look, links, outcome, modes=frozenset({mode}))

    def given(
        self,
        path: str,
        look: Seen,
        links: list[Version],
        outcome: Outcome,
        *,
        mtimes: frozenset[int] | None = None,
        modes: frozenset[int] | None = None,
    ) -> None:
        """Attributes were given to what was seen at a path."""
        stale = [code for link in links for code in self.stale_anywhere(link)]
        if outcome.errno in stale:
            self.settle(outcome, {})
        elif isinstance(look, int):
            self.refuses(outcome, look, *stale)
        elif look is DIRECTORY:
            self.given_to_directory(path, outcome)
        elif isinstance(look, File):
            assert outcome.is_ok or outcome.is_fault, outcome
            self.settle(outcome, {})
            if outcome.is_ok:
                look.given(mtimes or look.mtimes, modes or look.modes)
        else:
            assert isinstance(look, Version)
            self.given_to_file(path, look, outcome, mtimes, modes)

    def given_to_directory(self, path: str, outcome: Outcome) -> None:
        key = f"{path}/"
        permitted = self.names.permitted(key, self.now)
        if key not in self.names.now and any(permitted) and self.failed(outcome, errno.ENOENT):
            return
        assert outcome.is_ok or outcome.is_fault, outcome
        # What the marker has, or had when it was seen, is not given again.
        self.settle(outcome, {}, steps={key: [self.marker()]}, optional=[key])
        assert outcome.is_fault or key in self.names.now or any(permitted)

    def given_to_file(
        self,
        path: str,
        look: Version,
        outcome: Outcome,
        mtimes: frozenset[int] | None,
        modes: frozenset[int] | None,
    ) -> None:
        version = self.names.now.get(path)
        if version is None:
            has_it = (not mtimes or look.mtimes is None or mtimes <= look.mtimes) and (
                not modes or look.modes is None or modes <= look.modes
            )
            # What was seen had it already, so nobody was asked.
            self.refuses(outcome, errno.ENOENT, *([0] if has_it else []))
            return
        assert outcome.is_ok or outcome.is_fault, outcome
        is_known = version.number == look.number
        version = version.or_as_seen(look)
        version = replace(
            version,
            mtimes=mtimes or (version.mtimes if is_known else None),
            modes=modes or (version.modes if is_known else None),
        )
        stored = self.stored()[path]
        if outcome.is_ok and stored.record is self.records[path]:
            # What was seen had these already; another client may have been faster.
            is_known = is_known and len(self.names.permitted(path, self.now)) == 1
            has = attributes_of(stored)
            assert not is_known or not mtimes or has[0] in mtimes
            assert not is_known or not modes or has[1] in modes
            self.settle(outcome, {})
            if is_known:
                self.names.now[path] = version
            return
        self.settle(outcome, {path: version})
        file = self.mount.files.get(path)
        if file is None or not outcome.is_ok:
            return
        if file.is_at(look) and look.content == version.content and self.is_at_now(path):
            # Others stored the same bytes again: it goes on at that version.
            file.version = version
        if file.is_at(version):
            file.given(version.mtimes, version.modes)

    def is_at_now(self, path: str) -> bool:
        """Whether the mount takes an open file for the version that the store has."""
        file = self.vfs_file(path)
        if file is None or file.info is None:
            return False
        return abs(file.info.mtime_ns - self.stored()[path].mtime_ns) <= SECOND_NS

    # -- the mount --------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.3, 5.0, 20.0, 31.0, 46.0, 100.0]))
    @operation
    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @precondition(lambda self: not self.mount.handles)
    @rule()
    @operation
    def remount(self) -> None:
        self.stop()
        self.forget_attributes()
        self.start()
