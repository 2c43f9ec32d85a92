"""What happens to a mount: other clients, and failures of the store."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.stateful import rule

from allasfs.errors import FsError, QuotaExceeded, TimedOut, Unavailable
from allasfs.fs.attrs import SYMLINK_TYPE
from allasfs.store.api import DIRECTORY_TYPE, Segment
from tests.fakes.memstore import put_bytes
from tests.model.account import times
from tests.model.beside_calls import BesideCalls
from tests.model.calls import directories, files, picks, sizes
from tests.model.machine import BUCKET, TOO_LONG, Fault, Machine, Pick, event
from tests.model.name_calls import Calls, targets
from tests.model.reference import Kind, Version, is_shown

PART = 60
SEGMENTS_IN = f"{BUCKET}_segments"
GIVEN = "1500000000.000000001"
GIVEN_NS = 1_500_000_000_000_000_001
theirs = picks("file", "file", "free")
# Versions of the same bytes are told apart by their seconds.
SAME_S = 2.0
moments = st.sampled_from([0.0, 0.2, 5.0])
# Names below a directory, itself perhaps the root, that no file can have.
HIDDEN = ["/x", "/", "//", ".", "./x", "..", "../a", "./", TOO_LONG, f"{TOO_LONG}/a", "\0", "/a/"]


class OtherClients(Machine):
    """Another client stores and removes objects, in each way that is known of one."""

    def noted(self, key: str, kind: Kind | None, content: bytes = b"", *more_ns: int) -> None:
        """Note what they did."""
        version = None
        if kind is not None:
            mtimes = times(self.clock.ns()) | frozenset(more_ns)
            version = Version(kind, content, self.new_number(), mtimes)
        self.names.change(key, version, self.now, is_own=False)
        self.records = {name: stored.record for name, stored in self.stored().items()}
        # A version of the mount's, or of theirs, may have had segments.
        self.may_leave_segments = True

    @rule(name=theirs, size=sizes, after=moments, has_time=st.booleans())
    @event
    def they_put(self, name: Pick, size: int, after: float, has_time: bool) -> None:
        path = self.path(name)
        self.clock.advance(after if size > 1 else SAME_S)
        data = self.data(size)
        metadata = {"mtime": GIVEN} if has_time else {}
        put_bytes(self.store, BUCKET, self.key(path), data, metadata=metadata)
        self.noted(path, Kind.FILE, data, *([GIVEN_NS] if has_time else []))

    @rule(name=directories)
    @event
    def they_put_beside_a_directory(self, name: Pick) -> None:
        path = self.path(name)
        self.clock.advance(SAME_S)
        data = self.data(60)
        put_bytes(self.store, BUCKET, self.key(path), data)
        self.noted(path, Kind.FILE, data)
        if not any(key.startswith(f"{path}/") for key in self.names.now):
            put_bytes(self.store, BUCKET, f"{self.key(path)}/", content_type=DIRECTORY_TYPE)
            self.noted(f"{path}/", Kind.MARKER)

    @rule(name=theirs, size=sizes, is_static=st.booleans())
    @event
    def they_put_segments(self, name: Pick, size: int, is_static: bool) -> None:
        self.put_segments(self.path(name), size, is_static=is_static)

    def put_segments(self, path: str, size: int, *, is_static: bool) -> None:
        self.clock.advance(SAME_S)
        data = self.data(size)
        self.store.create_container(SEGMENTS_IN)
        top = f"{self.key(path)}/theirs-{self.new_number()}/"
        parts = []
        for start in range(0, size, PART):
            piece = data[start : start + PART]
            info = put_bytes(self.store, SEGMENTS_IN, f"{top}{start:08d}", piece)
            parts.append(Segment(SEGMENTS_IN, info.key, info.size, info.etag))
        if is_static and parts:
            self.store.put_slo(BUCKET, self.key(path), parts, content_type="a/b")
        else:
            self.store.put_dlo(BUCKET, self.key(path), f"{SEGMENTS_IN}/{top}", content_type="a/b")
        self.noted(path, Kind.FILE, data)

    @rule(name=theirs, leads_to=targets)
    @event
    def they_put_a_link(self, name: Pick, leads_to: str) -> None:
        path = self.path(name)
        self.clock.advance(SAME_S)
        content = leads_to.encode()
        put_bytes(self.store, BUCKET, self.key(path), content, content_type=SYMLINK_TYPE)
        self.noted(path, Kind.LINK, content)

    @rule(
        name=theirs,
        content_type=st.sampled_from([DIRECTORY_TYPE, "application/x-directory"]),
        slash=st.sampled_from(["/", ""]),
    )
    @event
    def they_put_a_marker(self, name: Pick, content_type: str, slash: str) -> None:
        path = self.path(name)
        if not slash and any(self.names.permitted(path, self.now)):
            # An empty file and a marker differ by their type alone, which COPY does not tell.
            return
        self.clock.advance(SAME_S)
        put_bytes(self.store, BUCKET, self.key(path) + slash, content_type=content_type)
        self.noted(path + slash, Kind.MARKER)

    @rule(name=theirs, after=moments)
    @event
    def they_delete(self, name: Pick, after: float) -> None:
        path = self.path(name)
        self.clock.advance(after)
        for key in (path, f"{path}/"):
            if key in self.names.now:
                self.store.delete(BUCKET, self.key(key))
                self.noted(key, None)

    @rule(
        name=st.one_of(st.none(), directories, theirs),
        rest=st.sampled_from(HIDDEN),
        size=sizes,
        way=st.sampled_from(["plain", "plain", "marker", "static", "dynamic"]),
    )
    @event
    def they_put_what_cannot_be_shown(
        self, name: Pick | None, rest: str, size: int, way: str
    ) -> None:
        key = rest if name is None else f"{self.path(name)}/{rest}"
        if way in ("static", "dynamic") and not key.endswith("/"):
            self.put_segments(key, size, is_static=way == "static")
            return
        self.clock.advance(SAME_S)
        is_marker = way == "marker" and key.endswith("/")
        data = b"" if is_marker else self.data(size)
        content_type = DIRECTORY_TYPE if is_marker else "a/b"
        put_bytes(self.store, BUCKET, self.key(key), data, content_type=content_type)
        self.noted(key, Kind.MARKER if key.endswith("/") else Kind.FILE, data)

    @rule(number=st.integers(0, 3))
    @event
    def they_delete_what_cannot_be_shown(self, number: int) -> None:
        hidden = sorted(key for key in self.names.now if not is_shown(key.removesuffix("/")))
        if hidden:
            key = hidden[number % len(hidden)]
            self.store.delete(BUCKET, self.key(key))
            self.noted(key, None)

    @rule()
    @event
    def they_remove_the_empty_bucket_of_segments(self) -> None:
        if self.store._containers.get(SEGMENTS_IN) == {}:
            self.store.delete_container(SEGMENTS_IN)

    @rule()
    @event
    def they_make_the_bucket_anew(self) -> None:
        for key in list(self.names.now):
            self.store.delete(BUCKET, self.key(key))
            self.noted(key, None)
        self.store.delete_container(BUCKET)
        self.store.create_container(BUCKET)

    @rule(name=files, metadata=st.sampled_from([{}, {"mode": "600"}, {"mtime": GIVEN, "a": "b"}]))
    @event
    def they_post(self, name: Pick, metadata: dict[str, str]) -> None:
        path = self.path(name)
        before = self.names.now.get(path)
        if before is None or path in self.mount.files:
            # Of an open file nobody can tell whether it is at this version.
            return
        self.clock.advance(SAME_S)
        self.store.post(BUCKET, self.store.head(BUCKET, self.key(path)), metadata)
        self.noted(path, before.kind, before.content)
        self.names.now[path] = replace(self.names.now[path], mtimes=None, modes=None)


FAILURES: list[FsError] = [Unavailable("store", "503"), TimedOut("store", "silent")]
CHANGES = ["put", "put_slo", "put_dlo", "copy", "delete", "delete_many", "post", "create_container"]
LOOKS = ["get", "listing", "head", "containers", "head_container", "slo_segments"]


class Failures(Machine):
    """The store fails at the next request of a kind."""

    @rule(
        method=st.sampled_from([*CHANGES, "put", "copy", "delete", "post"]),
        error=st.sampled_from(FAILURES),
        is_done=st.booleans(),
    )
    def a_change_fails(self, method: str, error: FsError, is_done: bool) -> None:
        self.fault = Fault(method, error, is_done)

    @rule(method=st.sampled_from(LOOKS), error=st.sampled_from(FAILURES))
    def a_look_fails(self, method: str, error: FsError) -> None:
        self.fault = Fault(method, error)

    @rule()
    def the_quota_is_reached(self) -> None:
        self.fault = Fault("put", QuotaExceeded("store", "413"))


class Alone(Calls):
    """Nobody else uses the bucket, and nothing fails: there is one answer to each question."""


class Shared(OtherClients, BesideCalls):
    """Other clients use the bucket, too."""


class Failing(Failures, Calls):
    """The store fails now and then."""


class Everything(OtherClients, Failures, BesideCalls):
    """Other clients, and a store that fails now and then."""
