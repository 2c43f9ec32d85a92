"""The frame: a Vfs over a store in memory beside the reference, and how they are compared.

After each operation the store is looked into, without a request: it must hold just what the
reference says. What the mount *shows* is compared by rules of its own, and after each step in half
of the runs only: looking fetches listings, and an operation without a look before it must be right,
too. Before a call the path is looked at, as the kernel does; what was seen there, which must be
permitted, decides what the call must do.
"""

from __future__ import annotations

import errno
import functools
import itertools
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from allasfs.config import Config
from allasfs.errors import FsError
from allasfs.fs.vfs import Vfs
from allasfs.store import large, marks
from allasfs.store.api import DIRECTORY_TYPE
from allasfs.transfer import listings, notes, reader
from tests.behaviour.filesystem import VfsFs
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import OPENSTACK, RGW, MemStore, put_bytes
from tests.model.account import Stored, attributes_of, objects, orphans, times
from tests.model.reference import (
    DEFAULT_MODE,
    DIRECTORY,
    Directory,
    File,
    Kind,
    Mount,
    Names,
    Version,
    above,
    is_shown,
    parents,
)

# Few names, so that they meet: one is a prefix of another, as text and as a path.
PATHS = ["a", "b", "ab", "a.b", "a/a", "a/b", "a/ab", "a/b/a", "a/b/b", "ab/a", "a.b/b", "b/a"]
BUCKET = "bucket"
# More than a file's name may have, not more than an object's.
TOO_LONG = "n" * 256
# Sizes below are around these.
THRESHOLD, SEGMENT = 200, 100
# Each operation takes this long, so that no two versions have one time.
TICK_S = 0.001
# Operations by the name of the machine's class: the tests tell how many there were.
OPERATIONS: Counter[str] = Counter()

Operation = TypeVar("Operation", bound=Callable[..., Any])


@dataclass(frozen=True)
class Pick:
    """A path by what there is: the nth file, link, directory, name that is free, or any path."""

    kind: str
    number: int


@dataclass(frozen=True)
class Fault:
    """A failure of the store: the error, and whether the request was done all the same."""

    method: str
    error: FsError
    is_done: bool = False

    @property
    def may_leave_segments(self) -> bool:
        """Whether segments may be left over, as docs/SEMANTICS.md and the log say."""
        return self.is_done or self.method not in ("get", "put", "put_slo", "put_dlo")


@dataclass(frozen=True)
class Outcome:
    """What a call returned, or its errno; ``is_fault``: it is that of the store's failure."""

    value: Any
    errno: int
    is_fault: bool = False

    @property
    def is_ok(self) -> bool:
        return self.errno == 0


def _step(function: Operation, *, is_own: bool) -> Operation:
    @functools.wraps(function)
    def run(machine: Machine, **arguments: Any) -> Any:
        OPERATIONS[type(machine).__name__] += 1
        machine.is_sound = False
        machine.clock.advance(TICK_S)
        if is_own:
            machine.arm()
        try:
            result = function(machine, **arguments)
        finally:
            if is_own:
                machine.disarm()
        machine.check_store()
        machine.is_sound = True
        return result

    return run  # type: ignore[return-value]


def operation(function: Operation) -> Operation:
    """Make a rule's body an operation: counted, at a time of its own, compared at its end."""
    return _step(function, is_own=True)


def event(function: Operation) -> Operation:
    """Make a rule's body what others do: the failure that the mount shall see waits."""
    return _step(function, is_own=False)


class Machine(RuleBasedStateMachine):
    """A mount, its store, and the reference of both."""

    # Where listings may be late: by up to this many seconds.
    lag_s: ClassVar[float] = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.is_sound = False
        self.fault: Fault | None = None
        self.vfs: Vfs | None = None
        self._numbers = itertools.count(1)
        self._patches = pytest.MonkeyPatch()
        self._folder = tempfile.TemporaryDirectory(prefix="model-")
        self._futures: list[Future[Any]] = []

    @initialize(
        is_rgw=st.booleans(),
        page=st.sampled_from([10_000, 2]),
        flat=st.sampled_from([10_000, 3]),
        small=st.sampled_from([1000, 0]),
        place=st.sampled_from([("", ""), (BUCKET, ""), (BUCKET, "pre/"), (BUCKET, f"{TOO_LONG}/")]),
        is_watched=st.booleans(),
        is_filled=st.booleans(),
    )
    def begin(
        self,
        is_rgw: bool,
        page: int,
        flat: int,
        small: int,
        place: tuple[str, str],
        is_watched: bool,
        is_filled: bool,
    ) -> None:
        """Start with an empty bucket or a small tree, on a server and in a way to mount it."""
        self._patches.setattr(large, "SMALLEST_SEGMENT", SEGMENT // 2)
        self._patches.setattr(listings, "FLAT_OBJECTS", flat)
        self._patches.setattr(listings, "SMALL_OBJECTS", small)
        self._patches.setattr(reader, "RESUME_WAIT_S", 0.0)
        self.clock = FakeClock()
        capabilities = replace(RGW if is_rgw else OPENSTACK, listing_limit=page)
        self.is_rgw = is_rgw
        self.store = self.make_store(capabilities)
        self.store.create_container(BUCKET)
        self.store.create_container("other-bucket")
        self.mounted, self.prefix = place
        self.top = "" if self.mounted else f"/{BUCKET}"
        self.is_watched = is_watched
        self.config = Config(
            bucket=self.mounted,
            prefix=self.prefix,
            segment_threshold=THRESHOLD,
            segment_size=SEGMENT,
            connections=4,
        )
        # The kernel's share of the TTL is not the Vfs' own.
        self.names = Names(self.config.listing_ttl_s)
        self.records: dict[str, Any] = {}
        self.may_leave_segments = False
        if is_filled:
            self.fill()
        self.start()
        self.is_sound = True

    def fill(self) -> None:
        """Store what is there before the mount."""
        for path, size in (("a/a", 7), ("a/b/a", 150), ("ab", 0), ("b/", 0)):
            kind, content_type = Kind.FILE, "text/plain"
            if path.endswith("/"):
                kind, content_type = Kind.MARKER, DIRECTORY_TYPE
            data = self.data(size)
            put_bytes(self.store, BUCKET, self.key(path), data, content_type=content_type)
            self.names.now[path] = Version(kind, data, self.new_number(), times(self.clock.ns()))
        self.records = {key: stored.record for key, stored in self.stored().items()}

    def make_store(self, capabilities: Any) -> MemStore:
        """Return the store that the mount uses."""
        return MemStore(clock_ns=self.clock.ns, capabilities=capabilities)

    def start(self) -> None:
        """Mount."""
        self.mount = Mount()
        folder = Path(self._folder.name) / str(next(self._numbers))
        config = replace(self.config, spool_dir=folder)
        self.vfs = Vfs(self.store, config, clock=self.clock, clock_ns=self.clock.ns)
        self.fs = VfsFs(self.vfs)
        submit = self.vfs._pool.submit

        def noted(*args: Any, **more: Any) -> Future[Any]:
            future = submit(*args, **more)
            self._futures.append(future)
            return future

        self.vfs._pool.submit = noted  # type: ignore[method-assign]
        self.vfs.start()

    def stop(self) -> None:
        """Unmount, and look what is left."""
        assert self.vfs is not None
        assert not self.mount.handles
        status = self.vfs.status()
        assert status["open_files"] == 0
        assert len(self.vfs.close()) == self.mount.lost
        if not self.mount.lost:
            assert status["spool_used"] == 0
            left = {file.name for file in Path(self.vfs._services.spool.folder).iterdir()}
            if self.may_leave_segments:
                # Notes of segments that could not be removed: the next mount does it.
                left = {name for name in left if not name.endswith(notes.SUFFIX)}
            assert left == {"lock"}
        self.vfs = None

    def teardown(self) -> None:
        """Close all, and compare for the last time; after a divergence only clean up."""
        try:
            if self.is_sound:
                for fd in list(self.mount.handles):
                    self.do_close(fd)
                self.check_store()
                self.look_around()
                self.stop()
                if not self.may_leave_segments:
                    assert orphans(self.store, BUCKET) == set()
        finally:
            self._patches.undo()
            if self.vfs is not None:
                self.vfs.close()
            self._folder.cleanup()

    def do_close(self, fd: int) -> None:
        """Close a handle; given by the rules."""
        raise NotImplementedError

    # -- calls ------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Let the store fail during this operation, if a rule asked for it and it did not yet."""
        if self.fault is not None:
            self.store.fail_next(self.fault.error, self.fault.method, is_done=self.fault.is_done)

    def disarm(self) -> None:
        """Between operations nothing fails."""
        if self.fault is not None and not self.store._faults:
            self.may_leave_segments |= self.fault.may_leave_segments
            self.fault = None
        self.store._faults.clear()

    def call(self, function: Callable[..., Any], *args: Any) -> Outcome:
        """Call the mount, and wait until nothing of it runs any more."""
        value, error = None, 0
        try:
            value = function(*args)
        except OSError as exc:
            error = exc.errno or -1
        while self._futures:
            wait([self._futures.pop()])
        fault = self.fault
        is_hit = fault is not None and not self.store._faults
        return Outcome(value, error, is_hit and fault is not None and error == fault.error.errno)

    def path(self, pick: Pick) -> str:
        """Return a path of the kind that was picked, any if there is none."""
        there, directories = self.paths()
        markers = {key.removesuffix("/") for key in self.names.now if key.endswith("/")}
        directories |= markers & there
        found = {
            "file": there - directories,
            "directory": directories - {""},
            "free": {path for path in PATHS if above(path) in directories} - there - directories,
        }.get(pick.kind)
        names = sorted(found or PATHS)
        return names[pick.number % len(names)]

    def paths(self) -> tuple[set[str], set[str]]:
        """Return the paths of all objects and changed files that can have one, and those above."""
        changed = {path for path, file in self.mount.files.items() if file.is_dirty}
        keys = {key.removesuffix("/") for key in self.names.now} | changed
        directories = {""}.union(*map(parents, keys))
        return set(filter(is_shown, keys)), {""}.union(filter(is_shown, directories))

    def at(self, path: str) -> str:
        """Return the path in the mount."""
        return f"{self.top}/{path}".removesuffix("/") or "/"

    def key(self, path: str) -> str:
        """Return the name of the object of a path."""
        return self.prefix + path

    @property
    def is_armed(self) -> bool:
        """Whether nothing failed in this operation yet."""
        return self.fault is None or bool(self.store._faults)

    @property
    def now(self) -> float:
        """Seconds of the clock."""
        return self.clock()

    def new_number(self) -> int:
        """Return the number of a new version."""
        return next(self._numbers)

    def data(self, size: int) -> bytes:
        """Return bytes that no other call got."""
        text = b"<%d>" % next(self._numbers)
        return (text * (size // len(text) + 1))[:size]

    # -- what is shown ----------------------------------------------------------------------------

    def looks(self, path: str) -> list[Version | Directory | File | None]:
        """Return what the mount may show at a path, if the directories above it are there."""
        file = self.mount.files.get(path)
        if file is not None and file.is_dirty:
            return [file]
        return [*self.names.looks(path, self.now)]

    def look(self, path: str) -> Version | Directory | File | int | None:
        """Return what the mount shows; it must be permitted. None: the store failed.

        The look itself may find out that what was known is gone: then what is there is shown next.
        """
        found = self.look_once(path)
        is_none, looks = found == errno.ENOENT, self.looks(path)
        if (is_none and looks != [None]) or (found is DIRECTORY and looks != [DIRECTORY]):
            return self.look_once(path)
        return found

    def look_once(self, path: str) -> Version | Directory | File | int | None:
        """Return what the mount shows now, as ``look``."""
        outcome = self.call(self.fs.lstat, self.at(path))
        if outcome.is_fault:
            return None
        errors = {errno.ENOENT} if None in self.looks(path) else set()
        is_reachable = True
        for directory in parents(path):
            looks = self.looks(directory)
            errors |= {errno.ENOENT} if None in looks else set()
            if any(isinstance(look, Version | File) for look in looks):
                errors.add(errno.ENOTDIR)
            is_reachable = is_reachable and DIRECTORY in looks
        if not outcome.is_ok:
            assert outcome.errno in errors, f"{path}: {errno.errorcode[outcome.errno]}"
            return outcome.errno
        assert is_reachable, f"{path} is shown in what is no directory"
        found = outcome.value
        if found.is_dir:
            assert DIRECTORY in self.looks(path), f"{path} is shown as a directory"
            return DIRECTORY
        for look in self.looks(path):
            if isinstance(look, Version | File) and look.is_shown_by(found):
                return look
        raise AssertionError(f"{path} is shown as {found}, not as one of {self.looks(path)}")

    def way(self, path: str) -> int | None:
        """Return the errno of the way to a path, 0 when it is all directories."""
        for directory in parents(path):
            look = self.look(directory)
            if look is None or isinstance(look, int):
                return look
            if look is not DIRECTORY:
                return errno.ENOTDIR
        return 0

    def check_entries(self, path: str) -> None:
        """List a directory that was just seen."""
        outcome = self.call(self.fs.listdir, self.at(path))
        if outcome.is_fault:
            return
        assert outcome.is_ok, f"listing {path}: {outcome}"
        names = outcome.value
        certain, possible = self.entries(path)
        assert len(set(names)) == len(names), f"{path} has a name twice: {sorted(names)}"
        assert certain <= set(names) <= possible, (
            f"{path} shows {sorted(names)}; certain {sorted(certain)}, possible {sorted(possible)}"
        )

    def entries(self, path: str) -> tuple[set[str], set[str]]:
        """Return the names that a directory shows for certain, and all that it may show."""
        certain, possible = self.names.entries(path, self.now)
        for file in self.mount.files.values():
            if file.key is not None and above(file.key) == path:
                name = file.key.rpartition("/")[2]
                possible.add(name)
                if file.is_new:
                    certain.add(name)
        return certain, possible

    def is_full(self, path: str) -> tuple[bool, bool]:
        """Return whether a directory is not empty: for certain, and perhaps."""
        certain, possible = self.entries(path)
        hides, may_hide = self.names.hides(path, self.now)
        return bool(certain) or hides, bool(possible) or may_hide

    def look_around(self) -> None:
        """Compare all names with the reference."""
        there, directories = self.paths()
        for path in sorted(there | directories | set(PATHS)):
            if self.look(path) is DIRECTORY:
                self.check_entries(path)

    @invariant()
    def watched(self) -> None:
        """What is shown is permitted, after each step."""
        if self.vfs is not None and self.is_watched:
            self.is_sound = False
            self.look_around()
            self.is_sound = True

    # -- what is stored ---------------------------------------------------------------------------

    def settle(
        self,
        outcome: Outcome,
        expected: Mapping[str, Version | None],
        *,
        steps: Mapping[str, Iterable[Version | None]] | None = None,
        optional: Iterable[str] = (),
    ) -> None:
        """Take over what an operation stored: all that is ``expected``.

        After a failure of the store each key may have its old state, or one of ``steps`` on the
        way to the new. At ``optional`` keys a marker may have come or gone.
        """
        actual = self.stored()
        for key in sorted(set(actual) | set(self.records) | set(expected)):
            before, got = self.names.now.get(key), actual.get(key)
            is_changed = (got.record if got else None) is not self.records.get(key)
            is_wanted = key in expected
            if is_changed and not is_wanted and self.is_marked_anew(key, got):
                if before is not None:
                    # A listing tells another time, and no metadata.
                    self.names.now[key] = replace(before, mtimes=None, modes=None)
                continue
            allowed: list[Version | None] = [expected[key]] if is_wanted else []
            if outcome.is_fault:
                allowed += (steps or {}).get(key, ())
            is_free = outcome.is_fault or not is_wanted or key in optional
            if not is_changed:
                if is_wanted and expected[key] is None and before is None:
                    self.names.change(key, None, self.now, is_own=outcome.is_ok)
                    continue
                assert is_free, f"{key} was not changed; expected {expected.get(key)}"
                continue
            if key in optional:
                allowed += [None, self.marker()]
            for version in allowed:
                if _is_version(got, version):
                    if outcome.is_fault and version is not None and got is not None:
                        version = _as_found(version, got)
                    self.names.change(key, version, self.now, is_own=outcome.is_ok)
                    break
            else:
                raise AssertionError(f"{key} became {got}; permitted {allowed}; was {before}")
        self.records = {key: stored.record for key, stored in actual.items()}

    def is_marked_anew(self, key: str, stored: Stored | None) -> bool:
        """Whether nothing was changed but which other names have the segments."""
        before = self.records.get(key)
        if before is None or stored is None or not stored.is_large:
            return False
        record = stored.record
        return (before.data, before.manifest, marks.without(before.metadata)) == (
            record.data,
            record.manifest,
            marks.without(record.metadata),
        )

    def stored(self) -> dict[str, Stored]:
        """Return what the store holds of the mount."""
        return objects(self.store, BUCKET, self.prefix)

    def marker(self) -> Version:
        """Return a new marker."""
        return Version(Kind.MARKER, b"", self.new_number())

    def kept(
        self, path: str, expected: dict[str, Version | None]
    ) -> tuple[dict[str, Version | None], list[str]]:
        """Add the marker that keeps the directory of a removed path; or name it as optional."""
        directory = above(path)
        if not directory:
            return expected, []
        if not self.names.is_certain(directory, self.now):
            return expected, [f"{directory}/"]
        after = {**self.names.now, **expected}
        left = [key for key, version in after.items() if version is not None]
        marked = after.get(directory)
        is_kept = marked is not None and marked.kind is Kind.MARKER
        if is_kept or any(key.startswith(f"{directory}/") for key in left):
            return expected, []
        return {**expected, f"{directory}/": self.marker()}, []

    def forget_attributes(self) -> None:
        """A new mount knows of attributes what the store tells."""
        self.names.forget()
        for key, stored in self.stored().items():
            version = self.names.now[key]
            mtime_ns, mode = attributes_of(stored)
            mtimes = times(stored.mtime_ns) | ({mtime_ns} if mtime_ns is not None else set())
            modes = {DEFAULT_MODE} | ({mode} if mode is not None else set())
            self.names.now[key] = replace(version, mtimes=frozenset(mtimes), modes=frozenset(modes))

    def check_store(self) -> None:
        """What was acknowledged is in the store, and nothing else."""
        actual = self.stored()
        assert set(actual) == set(self.names.now)
        for key, stored in actual.items():
            assert _is_version(stored, self.names.now[key]), (
                f"{key} is {stored}, not {self.names.now[key]}"
            )
            assert stored.record is self.records[key], f"{key} was stored again"


def _as_found(version: Version, stored: Stored) -> Version:
    """Return a version that the mount may meet as if another client had stored it."""
    mtimes = None if version.mtimes is None else version.mtimes | times(stored.mtime_ns)
    modes = None if version.modes is None else version.modes | {DEFAULT_MODE}
    return replace(version, mtimes=mtimes, modes=modes)


def _is_version(stored: Stored | None, version: Version | None) -> bool:
    if stored is None or version is None:
        return stored is None and version is None
    return (stored.kind, stored.content) == (version.kind, version.content)
