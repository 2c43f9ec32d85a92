"""What programs do where others stored what has no name here, or another one."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.model.calls import picks, sizes
from tests.model.machine import Pick, operation
from tests.model.name_calls import Calls
from tests.model.reference import SHADOWED, File, Kind, Version, is_shown, parents

# By then what others did is known.
LATER_S = 100.0


class BesideCalls(Calls):
    """Calls beside what others stored and this mount would not; all that they did is known.

    ``a~object`` where they made both ``a`` and ``a/``, and directories with names that no file has.
    """

    @rule(number=st.integers(0, 3), is_removed=st.booleans())
    @operation
    def empty_a_directory_that_hides_objects(self, number: int, is_removed: bool) -> None:
        found = sorted(
            path for path in self.paths()[1] if path and self.names.hides(path, self.now)[1]
        )
        if not found:
            return
        self.clock.advance(LATER_S)
        path = found[number % len(found)]
        files = sorted(set(self.names.now) & {f"{path}/{name}" for name in self.entries(path)[0]})
        for name in files:
            self.do_unlink(name)
        if is_removed:
            self.do_rmdir(path)

    def beside(self, number: int) -> str | None:
        """Return the key of an object beside a directory that nobody has open; wait for it."""
        keys = sorted(
            key
            for key, version in self.names.now.items()
            if version.kind is not Kind.MARKER
            and not self.mount.files.keys() & {key, *parents(key)}
            and is_shown(key)
            and is_shown(key + SHADOWED)
            and any(other.startswith(f"{key}/") for other in self.names.now)
        )
        if not keys:
            return None
        self.clock.advance(LATER_S)
        return keys[number % len(keys)]

    @precondition(lambda self: self.fault is None)
    @rule(
        number=st.integers(0, 3),
        size=sizes,
        call=st.sampled_from(["read", "save", "change", "truncate", "unlink", "chmod", "utime"]),
    )
    @operation
    def use_an_object_beside_a_directory(self, number: int, size: int, call: str) -> None:
        key = self.beside(number)
        if key is None:
            return
        version, path = self.names.now[key], self.at(key + SHADOWED)
        found = self.call(self.fs.lstat, path)
        assert found.is_ok, found
        assert version.is_shown_by(found.value), f"{path} is shown as {found}, not as {version}"
        if call == "unlink":
            outcome = self.call(self.fs.unlink, path)
            assert outcome.is_ok, outcome
            self.settle(outcome, {key: None})
        elif version.kind is Kind.LINK:
            assert self.call(self.fs.readlink, path).value.encode() == version.content
        elif call == "chmod":
            outcome = self.call(self.fs.chmod, path, 0o600)
            self.given_to_file(key, version, outcome, None, frozenset({0o600}))
        elif call == "utime":
            outcome = self.call(self.fs.utime, path, 1)
            self.given_to_file(key, version, outcome, frozenset({1}), None)
        else:
            self.use_bytes(key, version, call, size)

    def use_bytes(self, key: str, version: Version, call: str, size: int) -> None:
        path, file = self.at(key + SHADOWED), File.of(key, version)
        if call == "truncate":
            outcome = self.call(self.fs.truncate, path, size)
            file.truncate(size, self.clock.ns())
        else:
            flags = {"read": os.O_RDONLY, "save": os.O_WRONLY | os.O_TRUNC, "change": os.O_RDWR}
            fd = self.call(self.fs.open, path, flags[call]).value
            if call == "read":
                assert self.call(self.fs.pread, fd, 4096, 0).value == version.content
            else:
                if call == "save":
                    file.truncate(0, self.clock.ns())
                data = self.data(size)
                assert self.call(self.fs.pwrite, fd, data, 7).value == size
                file.write(7, data, self.clock.ns())
            outcome = self.call(self.fs.close, fd)
        assert outcome.is_ok, outcome
        self.settle(outcome, {key: file.as_version(self.new_number())} if file.is_dirty else {})

    @precondition(lambda self: self.fault is None)
    @rule(number=st.integers(0, 3), name=picks("file", "free"), is_target=st.booleans())
    @operation
    def rename_an_object_beside_a_directory(self, number: int, name: Pick, is_target: bool) -> None:
        key, other = self.beside(number), self.path(name)
        if key is None or other == key or other in self.mount.files:
            return
        look = self.way(other) or self.look(other)
        path = self.at(key + SHADOWED)
        if is_target and isinstance(look, Version):
            old, new, source = other, key, look
            outcome = self.call(self.fs.rename, self.at(other), path)
        elif not is_target and look == errno.ENOENT and not self.way(other):
            old, new, source = key, other, self.names.now[key]
            outcome = self.call(self.fs.rename, path, self.at(other))
        else:
            return
        assert outcome.is_ok, outcome
        moved = replace(source, mtimes=self.times_of_copy(source, source))
        expected, optional = self.kept(old, {old: None, new: moved})
        self.settle(outcome, expected, optional=optional)
