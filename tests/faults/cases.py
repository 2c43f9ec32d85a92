"""One case: an operation meets a fault at one of its requests, and what came of it is looked at."""

from __future__ import annotations

import errno
import itertools
import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allasfs.config import Config
from allasfs.deadline import within
from allasfs.demo import Cloud
from allasfs.errors import NotFound
from allasfs.fs.vfs import Vfs
from allasfs.store.api import Segment
from allasfs.store.auth import load
from allasfs.store.forms import Sources
from allasfs.store.swift import SwiftStore
from tests.behaviour.filesystem import VfsFs, read_file
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import get_bytes, put_bytes
from tests.faults.actions import DOWN, Fault
from tests.faults.operations import LARGE, LARGER, SEGMENT, THRESHOLD, Operation, State, beside
from tests.faults.proxy import FaultProxy, Rule

# Of an operation that shall succeed, on a machine that does ten other things.
LONG_S = 20.0
# Of one that ends by its deadline.
SHORT_S = 0.6
TTL_S = 60.0
LOOKS = 3
# What the product may say when a fault made it leave something behind.
ALLOWED_LOGS = re.compile(
    "was not stored|are left over|may be left over|is a second name now|has two names now"
    "|keeps its mark|is a copy of a part of|a part of .* is left|could not be renewed"
    "|Failed to parse headers|refuses the token|Connection pool is full"
)
LEFT_OVER = re.compile("left over|keeps its mark|second name|two names|is a copy|is left;")

_numbers = itertools.count(1)


@dataclass(frozen=True)
class Case:
    """A fault at the request number ``victim`` of an operation, once or from then on."""

    operation: Operation
    fault: Fault
    victim: int
    is_lasting: bool

    def __str__(self) -> str:
        often = "always" if self.is_lasting else "once"
        return f"{self.operation.name}: {self.fault.name}, {often}, at request {self.victim}"


class Logs(logging.Handler):
    """What allasfs logs, by the bucket that it is about."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the line."""
        self.lines.append(f"{record.name}: {record.getMessage()}")

    def about(self, name: str) -> list[str]:
        """Return the lines that name a bucket or folder."""
        return [line for line in self.lines if name in line]


@contextmanager
def logged() -> Iterator[Logs]:
    """Keep the product's warnings from the rules of other tests: these cases provoke them."""
    logs, top = Logs(), logging.getLogger("allasfs")
    top.addHandler(logs)
    top.propagate = False
    yield logs
    top.propagate = True
    top.removeHandler(logs)


class _Timed:
    """A Vfs whose calls have a deadline each, as the FUSE adapter gives them."""

    def __init__(self, vfs: Vfs, config: Config) -> None:
        self._vfs = vfs
        self._config = config

    def patience(self, seconds: float) -> None:
        """Change the deadline; settings are frozen for everybody else."""
        object.__setattr__(self._config, "timeout_s", seconds)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._vfs, name)
        if name.startswith("_") or not callable(found):
            return found

        def call(*args: object, **kwargs: object) -> object:
            with within(self._config.timeout_s):
                return found(*args, **kwargs)

        return call


class Laboratory:
    """A proxy, a store behind it, and another client that goes around it; for one thread."""

    def __init__(self, cloud: Cloud, folder: Path, logs: Logs) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._logs = logs
        self._proxy = FaultProxy(cloud.swift_url)
        self._proxy.__enter__()
        self._store = _store(cloud, self._proxy.through(cloud.storage_url))
        self._client = _store(cloud, cloud.storage_url)
        self.bucket = f"faults-{next(_numbers)}"
        self._segments = f"{self.bucket}_segments"
        self._client.create_container(self.bucket)
        self._client.create_container(self._segments)
        self._store.capabilities()
        # Never set.
        self._pause = threading.Event()

    def close(self) -> None:
        """Leave nothing behind."""
        self._store.close()
        self._client.close()
        self._proxy.__exit__()

    # -- an operation -----------------------------------------------------------------------------

    def requests(self, operation: Operation) -> int:
        """Return how many requests an operation sends when nothing fails."""
        with self._arranged(operation, LONG_S) as (fs, _, _):
            self._proxy.forget_requests()
            operation.act(fs)
            return len(self._proxy.requests())

    def run(self, case: Case) -> None:
        """Do a case; raise AssertionError when a promise is broken."""
        operation, fault = case.operation, case.fault
        waits = fault.waits and (case.is_lasting or 0 not in fault.once)
        with self._arranged(operation, SHORT_S if waits else LONG_S) as (fs, clock, prefix):
            times = None if case.is_lasting else 1
            self._proxy.script(Rule(fault.action, after=case.victim, times=times))
            ended, result = _outcome(lambda: operation.act(fs))
            struck = self._proxy.struck
            self._proxy.heal()
            allowed = fault.always if case.is_lasting else fault.once
            if not struck:
                # A deadline so short may be over before its turn has come.
                allowed = frozenset({0}) | (DOWN if waits else set())
            # Success is always good, because it is looked at.
            assert ended in allowed or ended == 0, (
                f"ended with {_named(ended)} in place of {sorted(map(_named, allowed))}: {result}"
            )
            if ended == 0:
                assert result == operation.result, "another result"
            is_done = ended == 0 and not fault.misleads
            if is_done:
                self._look(operation, fs, prefix, is_done=True)
            else:
                self._look_later(operation, fs, clock, prefix)
            self._settled(fs)

    # -- before and after -------------------------------------------------------------------------

    @contextmanager
    def _arranged(
        self, operation: Operation, timeout_s: float
    ) -> Iterator[tuple[VfsFs, FakeClock, str]]:
        prefix = f"case{next(_numbers)}"
        for key, data in operation.before.items():
            self._put(f"{prefix}/{key}", data)
        if operation.bucket is not None and operation.bucket[0]:
            self._client.create_container(f"{self.bucket}-{prefix}")
        clock = FakeClock()
        spool = self._folder / prefix
        config = Config(
            spool_dir=spool,
            segment_threshold=THRESHOLD,
            segment_size=SEGMENT,
            connections=4,
            timeout_s=LONG_S,
            ttl_s=TTL_S,
        )
        vfs = Vfs(self._store, config, clock=clock)
        vfs.start()
        timed: Any = _Timed(vfs, config)
        fs = VfsFs(timed, f"/{self.bucket}/{prefix}")
        # The way there; what is warmed may know more.
        timed.getattr(f"/{self.bucket}")
        operation.warm(fs)
        timed.patience(timeout_s)
        try:
            yield fs, clock, prefix
            kept = vfs.status()["not_stored"]
        finally:
            self._proxy.heal()
            vfs.close()
        assert isinstance(kept, list)
        self._spooled(operation, spool, kept)

    def _put(self, key: str, data: bytes) -> None:
        if data in (LARGE, LARGER):
            parts = []
            for number, start in enumerate(range(0, len(data), SEGMENT)):
                name = f"{key}/0/{number:08d}"
                info = put_bytes(self._client, self._segments, name, data[start : start + SEGMENT])
                parts.append(Segment(self._segments, name, info.size, info.etag))
            self._client.put_slo(self.bucket, key, parts, content_type="a/b", metadata={})
            return
        content_type = "application/octet-stream"
        if key.endswith("/"):
            content_type = "application/directory"
        elif key.endswith("/link"):
            content_type = "inode/symlink"
        metadata = {"tag": "red"} if key.endswith("/tagged") else {}
        put_bytes(
            self._client, self.bucket, key, data, content_type=content_type, metadata=metadata
        )

    def _state(self, prefix: str) -> State:
        """Return what another client sees."""
        keys = [
            info.key
            for page in self._client.listing(self.bucket, prefix=f"{prefix}/")
            for info in page.objects
        ]
        return {
            key[len(prefix) + 1 :]: get_bytes(self._client, self.bucket, key)
            for key in keys
            # The directory of the case itself may have been kept by a marker.
            if key != f"{prefix}/"
        }

    def _look(self, operation: Operation, fs: VfsFs, prefix: str, *, is_done: bool) -> None:
        """Compare what is there with what may be there, and with what allasfs shows."""
        state = self._state(prefix)
        before, after = operation.before, operation.done
        if is_done:
            assert _sizes(state) == _sizes(after), "not what success means"
            assert state == after, "not the bytes that success means"
        for key, data in state.items():
            known = [version[key] for version in (before, after) if key in version]
            assert data in known or key.endswith("/"), (
                f"{key}: {len(data)} bytes, neither old nor new"
            )
        for key in before.keys() & after.keys():
            assert key in state, f"{key} is gone"
        if operation.kept is not None:
            assert operation.kept in state.values(), "neither the old nor the new name has the file"
        if operation.bucket is not None:
            self._look_at_bucket(operation, fs, prefix, is_done=is_done)
        if operation.metadata is not None and is_done:
            name, field_, value = operation.metadata
            head = self._client.head(self.bucket, f"{prefix}/{name}")
            assert head.metadata.get(field_) == value
        self._compare_view(fs, state)
        self._compare_segments(prefix, state)

    def _look_later(self, operation: Operation, fs: VfsFs, clock: FakeClock, prefix: str) -> None:
        """Look when what allasfs knows is too old: it need not know what was done."""
        for number in itertools.count(1):
            clock.advance(TTL_S + 1)
            try:
                self._look(operation, fs, prefix, is_done=False)
            except (AssertionError, NotFound):
                # The server's own listings may lag, between one look and the other, too; and it
                # may be at work still on requests whose answers were cut off.
                if number == LOOKS:
                    raise
                self._pause.wait(0.5)
            else:
                return

    def _look_at_bucket(
        self, operation: Operation, fs: VfsFs, prefix: str, *, is_done: bool
    ) -> None:
        try:
            self._client.head_container(f"{self.bucket}-{prefix}")
            is_there = True
        except NotFound:
            is_there = False
        assert operation.bucket is not None
        if is_done:
            assert is_there == operation.bucket[1]
        assert (_outcome(lambda: fs.vfs.getattr(beside(fs)))[0] == 0) == is_there or not is_done

    def _compare_view(self, fs: VfsFs, state: State) -> None:
        """What allasfs shows is what is there."""
        timed: Any = fs.vfs
        timed.patience(LONG_S)
        shown = dict(_walk(fs, ""))
        stored = {key: data for key, data in state.items() if not key.endswith("/")}
        assert _sizes(shown) == _sizes(stored), (
            f"allasfs shows {_sizes(shown)} in place of {_sizes(stored)}"
        )
        assert shown == stored, "allasfs shows other bytes"

    def _compare_segments(self, prefix: str, state: State) -> None:
        """Every segment belongs to an object, or the log tells that it is left over."""
        found = {
            info.key
            for page in self._client.listing(self._segments, prefix=f"{prefix}/")
            for info in page.objects
        }
        used: set[str] = set()
        for key, data in state.items():
            if data in (LARGE, LARGER):
                parts = self._client.slo_segments(self.bucket, f"{prefix}/{key}")
                used |= {part.key for part in parts}
        assert used <= found, "a large object lacks segments"
        if found - used:
            lines = self._logs.about(self.bucket)
            assert any(LEFT_OVER.search(line) for line in lines), f"left: {found - used}"

    def _settled(self, fs: VfsFs) -> None:
        """Every connection and all memory were given back."""
        for _ in range(1000):
            free = self._store._session._pool._free._value
            if free == 16 and fs.vfs.status()["memory_in_flight"] == 0:
                return
            self._pause.wait(0.01)
        raise AssertionError(f"connections free: {free} of 16; {fs.vfs.status()}")

    def _spooled(self, operation: Operation, spool: Path, kept: list[str]) -> None:
        """The spool is empty, or what is in it is told and is what the program wrote."""
        data = sorted(spool.glob("*.data"))
        assert len(data) == len(kept), f"{data}, told: {kept}"
        for path in data:
            assert path.with_suffix(".upload").exists()
            assert any(str(path) in line for line in kept)
            # Of a changed object only what was written is here when the rest could not be read.
            is_new = path.read_bytes() in operation.done.values()
            assert is_new or operation.name in ("append", "truncate"), path
            assert path.stat().st_mode & 0o077 == 0


def _store(cloud: Cloud, url: str) -> SwiftStore:
    sources = Sources(environ=cloud.environ, home=Path("/nonexistent"), storage_url=url)
    return SwiftStore(load(sources), Config(timeout_s=LONG_S))


def _outcome(call: Callable[[], object]) -> tuple[int, object]:
    """Return 0 and what a call returned, or its errno and the error."""
    try:
        return 0, call()
    except OSError as exc:
        return exc.errno or -1, exc


def _named(number: int) -> str:
    return errno.errorcode.get(number, "success" if number == 0 else str(number))


def _sizes(state: State) -> dict[str, int]:
    return {key: len(data) for key, data in sorted(state.items())}


def _walk(fs: VfsFs, top: str) -> Iterator[tuple[str, bytes]]:
    for name in fs.listdir(top):
        path = f"{top}/{name}" if top else name
        found = fs.lstat(path)
        if found.is_dir:
            yield from _walk(fs, path)
        elif found.mode & 0o170000 == 0o120000:
            yield path, fs.readlink(path).encode()
        else:
            yield path, read_file(fs, path)
