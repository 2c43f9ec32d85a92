"""Large objects: their segments' names and sizes, how they are published, enumerated and removed.

Layout (docs/DESIGN.md, "Large files"): segments of ``bucket/key`` are
``bucket_segments/key/<time>-<random>/<16 digits>``, each stored by one PUT, and the manifest is
published last. The digits are the offset in the file. Static large objects (SLO) are used where
listings give their true size, dynamic ones (DLO) elsewhere. Old segments are removed only after
the new state is published.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace

from allasfs.errors import AccessDenied, Failed, FsError, NotFound, NotSupported
from allasfs.store import marks
from allasfs.store.api import Capabilities, Kind, ObjectHead, ObjectInfo, Segment, Store
from allasfs.store.marks import SHARED, Name

log = logging.getLogger(__name__)

SEGMENTS_SUFFIX = "_segments"
LARGE = frozenset({Kind.SLO, Kind.DLO})
# In place of the name that shares segments.
UNKNOWN = "an unknown name"
# Parts below this cost more in requests than they gain.
SMALLEST_SEGMENT = 1024 * 1024
# What a segment's name has behind the file's: "/", time, "-", random, "/", offset, "-", attempt.
LONGEST_TAIL = 1 + 16 + 1 + 8 + 1 + 16 + 8


# Segments double in size after so many of one size, so that the count stays allowed although nobody
# knows how large a file will be: 12 where the first are large, fewer where they must grow far. More
# are of the first size: most files end there, and what is sent after close() is a short one. With
# these, 5 TB fit into 1000 segments of at most 5 GiB whatever the first size is (test_large.py).
MOST_OF_FIRST_SIZE = 24
MOST_OF_ONE_SIZE = 12
GROWING = 48


@dataclass(frozen=True)
class Sizes:
    """How large the segments of a file are, one after another."""

    first: int
    largest: int

    @property
    def _count_of_one_size(self) -> int:
        doublings = max(0, (self.largest - 1) // self.first).bit_length()
        return max(1, min(MOST_OF_ONE_SIZE, GROWING // max(1, doublings)))

    def of(self, number: int) -> int:
        """Return the size of a segment that has ``number`` before it."""
        more = number - MOST_OF_FIRST_SIZE
        doubled = 0 if more < 0 else min(1 + more // self._count_of_one_size, 64)
        return min(self.first << doubled, self.largest)

    def total(self, first: int, stop: int) -> int:
        """Return how much the segments from one number to another hold."""
        return sum(self.of(number) for number in range(first, stop))


@dataclass(frozen=True)
class Layout:
    """Where the segments of one upload go."""

    container: str
    prefix: str

    def key(self, start: int, attempt: int = 0) -> str:
        """Return the name of a segment: names sort in the order of the file.

        Another ``attempt`` at the same place has a name of its own.
        """
        return f"{self.prefix}{start:016d}" + (f"-{attempt}" if attempt else "")


def new_layout(store: Store, bucket: str, key: str) -> Layout:
    """Return a place for segments that no other upload has."""
    unique = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
    longest = store.capabilities().max_key_bytes - LONGEST_TAIL
    if len(key.encode()) > longest:
        key = hashlib.sha256(key.encode()).hexdigest()
    return Layout(bucket + SEGMENTS_SUFFIX, f"{key}/{unique}/")


def sizes(capabilities: Capabilities, first: int, *, room: int) -> Sizes:
    """Return the schedule for files that go through a spool of ``room`` bytes.

    A quarter of the room for one segment lets others go up meanwhile; the room for three is enough
    where segments are of the server's largest size.
    """
    most = capabilities.max_put_bytes
    largest = most if room >= 3 * most else max(1, min(most, room // 4))
    return Sizes(min(max(first, SMALLEST_SEGMENT), largest), largest)


def is_static(capabilities: Capabilities, choice: str) -> bool:
    """Whether new manifests are static: by choice ("slo", "dlo"), or where that is listed well."""
    if choice == "auto":
        return capabilities.static_large_objects and capabilities.slo_sizes_listed
    return choice == "slo" and capabilities.static_large_objects


def publish(
    store: Store,
    bucket: str,
    key: str,
    layout: Layout,
    segments: list[Segment],
    *,
    choice: str,
    content_type: str,
    metadata: dict[str, str],
) -> ObjectInfo:
    """Write the manifest over stored segments; return the version it makes."""
    if is_static(store.capabilities(), choice):
        return store.put_slo(bucket, key, segments, content_type=content_type, metadata=metadata)
    manifest = f"{layout.container}/{layout.prefix}"
    return store.put_dlo(bucket, key, manifest, content_type=content_type, metadata=metadata)


def published(store: Store, bucket: str, key: str, segments: list[Segment]) -> ObjectHead | None:
    """Return the object if it is a manifest over just these segments, else None."""
    try:
        head = store.head(bucket, key)
        found = {(segment.container, segment.key) for segment in _segments(store, bucket, head)}
    except NotFound:
        return None
    wanted = {(segment.container, segment.key) for segment in segments}
    return head if found == wanted else None


def etag_of(segments: list[Segment]) -> str:
    """Return the ETag that a manifest over these segments has."""
    text = "".join(segment.etag for segment in segments)
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def segments_of(store: Store, bucket: str, info: ObjectInfo) -> list[Segment]:
    """Return the segments that a large object has for itself; of any other, none.

    Raises NotSupported.
    """
    if info.kind not in LARGE:
        return []
    try:
        return _segments(store, bucket, store.head(bucket, info.key))
    except NotFound:
        return []


def _segments(store: Store, bucket: str, head: ObjectHead) -> list[Segment]:
    """Return the segments of a version; raise NotSupported.

    Some clients leave out the slash at the end of a dynamic one's prefix, which then begins other
    objects' segments, too: only what is below it as a directory counts.
    """
    if head.info.kind not in LARGE:
        return []
    try:
        if head.info.kind is Kind.SLO:
            return store.slo_segments(bucket, head.info.key)
        container, _, prefix = head.manifest.partition("/")
        prefix = prefix.rstrip("/")
        if not prefix:
            return []
        return [
            Segment(container, part.key, part.size, part.etag)
            for page in store.listing(container, prefix=prefix + "/")
            for part in page.objects
        ]
    except NotFound:
        return []


def share(
    store: Store,
    bucket: str,
    info: ObjectInfo,
    target: Name,
    alone: Callable[[], object] = lambda: None,
) -> ObjectHead:
    """Mark a large object before its manifest is copied to another name.

    The copy carries the mark, too. While both names stand, neither takes the segments with it when
    it is removed, also after a program that died between. Returns the object with the metadata
    that the name which is left is to have: without a mark, unless a third name has the segments.
    ``alone`` is called where it may: until the copy is there, no other share may begin.
    """
    limits = store.capabilities()
    head = store.head(bucket, info.key)
    if SHARED in head.metadata:
        alone()
        head = store.head(bucket, info.key)
    among = {(bucket, info.key), target}
    after = unmarked(head)
    if SHARED in head.metadata:
        others = _others(store, bucket, head, apart=target)
        if others is None:
            # It stays as it is: nobody can find out when it is not needed any more.
            after = replace(after, metadata={**after.metadata, SHARED: marks.NAMELESS})
            store.post(bucket, head, after.metadata)
            return after
        if others:
            among |= others.keys()
            for (container, _), other in others.items():
                store.post(container, other, marks.put(other.metadata, among, limits))
            after = replace(after, metadata=marks.put(after.metadata, among, limits))
    store.post(bucket, head, marks.put(head.metadata, among, limits))
    return after


def unmarked(head: ObjectHead) -> ObjectHead:
    """Return the object without the mark that an interrupted rename left."""
    return replace(head, metadata=marks.without(head.metadata))


def unshare(store: Store, bucket: str, info: ObjectInfo, after: ObjectHead) -> ObjectInfo:
    """Take the mark off the name that is left; return its version.

    Where a third name has the segments, the mark stays: a copy of that one may be in it by now.
    """
    if marks.names(after.metadata):
        return info
    try:
        return store.post(bucket, replace(after, info=info), after.metadata)
    except FsError as exc:
        # Who removes it finds that the other name is gone.
        log.info("%s/%s keeps the mark of a rename: %s", bucket, info.key, exc)
        return info


def shared_by(
    store: Store,
    bucket: str,
    head: ObjectHead,
    segments: list[Segment] | None = None,
) -> str:
    """Return which other name needs the segments of a large object; none does when it is empty.

    ``segments`` are what the object had, if it is gone.
    """
    if SHARED not in head.metadata:
        return ""
    others = _others(store, bucket, head, segments=segments)
    if others is None:
        return UNKNOWN
    return "/".join(min(others)) if others else ""


def _others(
    store: Store,
    bucket: str,
    head: ObjectHead,
    *,
    apart: Name | None = None,
    segments: list[Segment] | None = None,
) -> dict[Name, ObjectHead] | None:
    """Return the other objects over the segments of a marked one; None when nobody can tell.

    ``apart`` is one that does not count.
    """
    own, among = (bucket, head.info.key), marks.names(head.metadata)
    if own not in among:
        # A mark that tells no names, or an object that another client copied.
        return None
    found = {}
    try:
        for name in among - {own, apart}:
            with suppress(NotFound):
                other = store.head(*name)
                if _has_some_of(store, (name[0], other), (bucket, head), segments):
                    found[name] = other
    except AccessDenied:
        return None
    return found


def _has_some_of(
    store: Store,
    other: tuple[str, ObjectHead],
    one: tuple[str, ObjectHead],
    segments: list[Segment] | None,
) -> bool:
    """Whether another large object is over segments of this one."""
    if other[1].info.kind not in LARGE:
        return False
    if one[1].manifest and one[1].manifest == other[1].manifest:
        return True
    try:
        if segments is None:
            segments = _segments(store, *one)
        used = {(each.container, each.key) for each in _segments(store, *other)}
    except NotSupported:
        # The ETag of a manifest is made of those of its segments.
        return one[1].info.same_bytes(other[1].info)
    return any((each.container, each.key) in used for each in segments)


def tell_of_shared(bucket: str, info: ObjectInfo, sharer: str) -> None:
    """Say that segments stay, and why."""
    if sharer == UNKNOWN:
        log.warning(
            "the segments of %s/%s are left over: a rename ended halfway, and another name may "
            "need them",
            bucket,
            info.key,
        )
    else:
        log.info("the segments of %s/%s stay: %s has them, too", bucket, info.key, sharer)


@dataclass(frozen=True)
class Found:
    """What the store has at the name of a large object that is changed or replaced."""

    # The version there now; None when there is none.
    head: ObjectHead | None = None
    segments: tuple[Segment, ...] = ()
    # Another name that uses the segments, too (``shared_by``).
    sharer: str = ""
    # The server does not tell the segments (RGW, of static large objects).
    is_untold: bool = False

    def is_of(self, info: ObjectInfo) -> bool:
        """Whether this is the version of ``info``."""
        return self.head is not None and self.head.info.same_bytes(info)

    def is_over(self, info: ObjectInfo) -> bool:
        """Whether this is the version of ``info``, and the segments are all of it."""
        return self.is_of(info) and sum(segment.size for segment in self.segments) == info.size


def look(store: Store, bucket: str, info: ObjectInfo | None) -> Found:
    """Return what is at the name of a large object; nothing for any other object."""
    if info is None or info.kind not in LARGE:
        return Found()
    try:
        head = store.head(bucket, info.key)
    except NotFound:
        return Found()
    sharer = shared_by(store, bucket, head)
    try:
        return Found(head, tuple(_segments(store, bucket, head)), sharer)
    except NotSupported:
        return Found(head, sharer=sharer, is_untold=True)


def is_at(store: Store, bucket: str, info: ObjectInfo) -> bool:
    """Whether the name still has this version."""
    try:
        now = store.head(bucket, info.key).info
    except NotFound:
        return False
    return now.same_bytes(info)


def remove_segments(store: Store, segments: list[Segment]) -> bool:
    """Delete segments that nothing refers to; return whether all are gone.

    What cannot be deleted is only waste, and logged.
    """
    try:
        delete_segments(store, segments)
    except FsError as exc:
        where = ", ".join(sorted({segment.container for segment in segments}))
        log.warning("segments of a removed object are left over in %s: %s", where, exc)
        return False
    return True


def delete_segments(store: Store, segments: list[Segment]) -> None:
    """Delete segments that nothing refers to; raises as the store does."""
    for container in sorted({segment.container for segment in segments}):
        keys = [segment.key for segment in segments if segment.container == container]
        try:
            store.delete_many(container, keys)
        except NotFound:
            log.info("the bucket %s is gone, and the segments in it", container)


def remove_all(store: Store, layout: Layout) -> None:
    """Delete every segment of an upload that was given up; raises as the store does."""
    try:
        for page in store.listing(layout.container, prefix=layout.prefix):
            store.delete_many(layout.container, [part.key for part in page.objects])
    except NotFound:
        log.info("the bucket %s is gone, and the segments in it", layout.container)


class Removal:
    """Is told how the removal of a version goes. This one does nothing of it."""

    def is_gone(self) -> None:
        """The version is gone: its segments are nobody's."""

    def leave(self) -> None:
        """The segments could not be removed."""


# Told of a version and its segments before they are removed; its context ends when they are.
Announce = Callable[[ObjectInfo, list[Segment]], AbstractContextManager[Removal]]


def _tell_nobody(info: ObjectInfo, segments: list[Segment]) -> AbstractContextManager[Removal]:
    return nullcontext(Removal())


def delete(store: Store, bucket: str, info: ObjectInfo, announce: Announce = _tell_nobody) -> None:
    """Delete an object and, after it, its segments."""
    segments: list[Segment] = []
    head: ObjectHead | None = None
    sharer = ""
    if info.kind in LARGE:
        try:
            head = store.head(bucket, info.key)
            sharer = shared_by(store, bucket, head)
            segments = [] if sharer else _segments(store, bucket, head)
        except NotFound:
            log.debug("%s/%s has gone meanwhile", bucket, info.key)
        except NotSupported:
            store.delete_slo(bucket, info.key)
            return
    with (announce if segments else _tell_nobody)(info, segments) as removal:
        try:
            store.delete(bucket, info.key)
        except FsError as exc:
            if segments and (isinstance(exc, Failed) or exc.may_be_done):
                log.warning("segments of %s/%s may be left over: %s", bucket, info.key, exc)
            raise
        if head is not None and SHARED in head.metadata and segments:
            try:
                # Its copy may have been under way.
                sharer = shared_by(store, bucket, head, segments=segments)
            except FsError as exc:
                log.warning("the segments of %s/%s are left over: %s", bucket, info.key, exc)
                return
        if sharer:
            tell_of_shared(bucket, info, sharer)
            return
        removal.is_gone()
        if not remove_segments(store, segments):
            removal.leave()
