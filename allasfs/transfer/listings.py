"""The tree of names, from listings that are believed for a limited time.

A directory is known whole or not at all, so that a name which it lacks is known not to exist. One
listing without delimiter answers for a whole subtree when it fits in a page; larger ones are listed
directory by directory. Where the first look is at a name, its directory is listed alone, and what
is below it when it is wanted. Own changes are entered in what is cached, and into listings that
were on their way while the change happened: nothing is listed again after a write.

Ages count from the moment a request was sent, never from its answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain

from cachetools import LRUCache

from allasfs.config import Config
from allasfs.deadline import Clock, current
from allasfs.errors import AccessDenied, NotFound, TooManyNames
from allasfs.store.api import ContainerInfo, Kind, ObjectInfo, Page, Store
from allasfs.transfer.directories import (
    Directory,
    Found,
    hides,
    is_shown,
    place,
    shadow,
    shows,
    split,
)

log = logging.getLogger(__name__)

# A subtree of more objects than this is listed directory by directory: one page of the largest
# size that servers give.
FLAT_OBJECTS = 10_000
# All of a bucket of at most so many objects is listed as soon as a directory alone.
SMALL_OBJECTS = 1_000
# A program that goes through a directory shall do so by one listing of it: of large ones, a listing
# is believed longer by this share of the TTL for each 10,000 names (2 s of a minute).
LONGER = 1 / 30
# An own change outweighs listings that were requested up to this long after it: Swift's container
# servers may learn of an object later than the client that stored it.
SETTLE_S = 30.0
# Versions of a name that are remembered meanwhile.
VERSIONS = 16
# How long to wait for another thread's listing before looking again.
WAIT_S = 1.0


@dataclass(frozen=True)
class _Edit:
    """An own change: the object that was stored, or None with the one that was removed."""

    at: float
    stored: ObjectInfo | None
    removed: ObjectInfo | None = None
    # The versions before it, which a listing may still show.
    older: tuple[ObjectInfo, ...] = ()

    def outweighs(self, listed: ObjectInfo, born: float) -> bool:
        """Whether an object in a listing requested at ``born`` is older, or what was stored.

        Times within a second decide nothing (the answer to a PUT has whole seconds): then a listing
        that was under way knows less, a later one that shows a version unheard of knows more.
        """
        if self.stored is not None:
            margin_ns = 1_000_000_000 if born <= self.at else -1_000_000_000
            if listed.mtime_ns <= self.stored.mtime_ns + margin_ns:
                return True
        known = (self.stored, self.removed, *self.older)
        return any(version is not None and _is_version(listed, version) for version in known)


class _TooManyError(Exception):
    """There is more below a directory than a look at it is worth."""


class Listings:
    """All that is known about names. Any thread may ask; a listing is fetched once for all."""

    def __init__(
        self,
        store: Store,
        *,
        ttl_s: float,
        most_names: int = Config.names,
        mounted: str = "",
        clock: Clock = time.monotonic,
    ) -> None:
        """``mounted`` is the prefix of what is shown: all names below it are looked at there."""
        self._store = store
        self._mounted = mounted
        self._ttl_s = ttl_s
        self._clock = clock
        # Leaf lock for everything below.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._dirs: LRUCache[tuple[str, str], Directory] = LRUCache(
            most_names, getsizeof=lambda directory: min(len(directory), most_names)
        )
        self._fetching: set[tuple[str, str]] = set()
        # When the listings that are on their way were requested.
        self._requested: list[float] = []
        # Own changes by bucket and key, in the order in which they were made.
        self._edits: dict[str, OrderedDict[str, _Edit]] = {}
        self._buckets: dict[str, ContainerInfo] = {}
        self._buckets_born: float | None = None
        # Buckets that no listing shows: shared ones (found by name), and names that are not there.
        self._by_name: LRUCache[str, tuple[float, ContainerInfo | None]] = LRUCache(10_000)
        # Whether those may be written to.
        self._writable: LRUCache[str, tuple[float, bool]] = LRUCache(10_000)
        # When the account's listing was refused.
        self._denied_born: float | None = None
        # Buckets that proved too large for one listing, where the account's tells no figures.
        self._large: set[str] = set()
        # Buckets in which programs go from directory to directory: all is listed at once.
        self._walked: set[str] = set()
        # The metadata of buckets, which listings do not tell.
        self._metadata: LRUCache[str, tuple[float, Mapping[str, str]]] = LRUCache(10_000)

    # -- buckets ----------------------------------------------------------------------------------

    def buckets(self) -> dict[str, ContainerInfo]:
        """Return the account's buckets by name."""
        while True:
            with self._lock:
                if self._is_fresh(self._buckets_born):
                    return dict(self._buckets)
                if ("", "") in self._fetching:
                    self._wait("the account")
                    continue
                self._fetching.add(("", ""))
            born = self._clock()
            try:
                found = {bucket.name: bucket for bucket in self._store.containers()}
                with self._lock:
                    self._buckets, self._buckets_born = found, born
                # Not by another look: with a TTL of 0 it is never fresh.
                return dict(found)
            finally:
                self._fetched(("", ""))

    def bucket(self, name: str) -> ContainerInfo | None:
        """Return a bucket, also one that is shared by another project and in no listing."""
        if bucket := self._own(name):
            return bucket
        with self._lock:
            born, bucket = self._by_name.get(name, (None, None))
        if self._is_fresh(born):
            return bucket
        born = self._clock()
        try:
            bucket = self._store.head_container(name)
        except NotFound:
            bucket = None
        except AccessDenied:
            if self._is_denied():
                raise
            # A bucket that may not even be looked at is not there for this user.
            bucket = None
        with self._lock:
            self._by_name[name] = (born, bucket)
        return bucket

    def _own(self, name: str) -> ContainerInfo | None:
        """Return a bucket that the account's listing shows; of another's account none may show."""
        if self._is_denied():
            return None
        with self._lock:
            if self._is_fresh(self._buckets_born):
                # Not from a copy of all: each look at a file comes by here.
                return self._buckets.get(name)
        born = self._clock()
        try:
            return self.buckets().get(name)
        except AccessDenied:
            with self._lock:
                self._denied_born = born
            return None

    def _is_denied(self) -> bool:
        """Whether the account's listing was refused a short while ago."""
        with self._lock:
            return self._is_fresh(self._denied_born)

    def may_write(self, name: str) -> bool:
        """Whether objects may be stored in a bucket: asked once per TTL of another project's."""
        if self._own(name) is not None:
            return True
        with self._lock:
            born, may = self._writable.get(name, (None, True))
        if self._is_fresh(born):
            return may
        born = self._clock()
        may = self._store.may_write(name)
        with self._lock:
            self._writable[name] = (born, may)
        return may

    def bucket_metadata(self, name: str) -> Mapping[str, str]:
        """Return the metadata of an existing bucket, at most one TTL old."""
        with self._lock:
            born, metadata = self._metadata.get(name, (None, {}))
        if self._is_fresh(born):
            return metadata
        born = self._clock()
        metadata = self._store.head_container(name).metadata or {}
        with self._lock:
            self._metadata[name] = (born, metadata)
        return metadata

    def bucket_changed(self, name: str, metadata: Mapping[str, str]) -> None:
        """Enter the metadata that this mount gave a bucket."""
        with self._lock:
            self._metadata[name] = (self._clock(), metadata)

    def bucket_created(self, name: str) -> None:
        """Enter an own new bucket: it is empty."""
        with self._lock:
            self._metadata.pop(name, None)
            if self._buckets_born is not None:
                self._buckets[name] = ContainerInfo(name, 0, 0, time.time_ns())
            self._by_name.pop(name, None)
            self._dirs[name, ""] = Directory(self._clock(), "")

    def bucket_removed(self, name: str) -> None:
        """Take an own removed bucket out."""
        with self._lock:
            self._buckets.pop(name, None)
            self._by_name[name] = (self._clock(), None)
            self._metadata.pop(name, None)
            for key in [key for key in self._dirs if key[0] == name]:
                del self._dirs[key]
            self._edits.pop(name, None)

    # -- directories ------------------------------------------------------------------------------

    def find(self, bucket: str, key: str) -> Found:
        """Return what ``key`` is in an existing bucket; the bucket itself is a directory."""
        if not key:
            return Found(is_dir=True)
        parent, _, name = key.rpartition("/")
        prefix = f"{parent}/" if parent else ""
        with self._lock:
            known = self._fresh(bucket, prefix)
            if known is not None:
                return known.find(name)
        if parent and not self._may_exist(bucket, parent):
            return Found()
        directory = self.directory(bucket, prefix)
        with self._lock:
            return directory.find(name)

    def _may_exist(self, bucket: str, key: str) -> bool:
        """Whether cached listings allow a directory of this key: asks nobody."""
        parent, _, name = key.rpartition("/")
        directory = self._cached(bucket, f"{parent}/" if parent else "")
        if directory is None:
            return not parent or self._may_exist(bucket, parent)
        return name in directory.dirs

    def entries(self, bucket: str, prefix: str) -> tuple[Mapping[str, ObjectInfo], list[str]]:
        """Return the files and the directories of a directory, by their names in it.

        Who reads a directory goes on to those in it: they are listed too.
        """
        directory = self.directory(bucket, prefix, with_below=True)
        with self._lock:
            return directory.files.snapshot(), list(directory.dirs)

    def files(self, bucket: str, prefix: str) -> Mapping[str, ObjectInfo]:
        """Return the files of a directory, by their names in it."""
        directory = self.directory(bucket, prefix)
        with self._lock:
            return directory.files.snapshot()

    def markers(self, bucket: str, prefix: str) -> list[ObjectInfo]:
        """Return the objects that keep a directory when it is empty, ours first."""
        parent, name = split(prefix)
        own = self.directory(bucket, prefix).marker
        above = self._cached(bucket, parent)
        typed = above.typed.get(name) if above is not None else None
        return [marker for marker in (own, typed) if marker is not None]

    def is_cached(self, bucket: str, prefix: str) -> bool:
        """Whether a directory's listing is at hand."""
        return self._cached(bucket, prefix) is not None

    def looked_at(self, bucket: str, prefix: str) -> Directory | None:
        """Return a directory whose attributes are wanted, None if it is not listed for this."""
        with self._lock:
            known = self._fresh(bucket, prefix)
            above = self._alone_above(bucket, prefix)
        if known is not None or above is None:
            return known
        try:
            return self.directory(bucket, prefix, is_look=True)
        except (_TooManyError, TooManyNames):
            with self._lock:
                above.is_alone = False
            return None

    def is_empty(self, bucket: str, prefix: str) -> bool:
        """Whether a directory has no entry, not even one that cannot be shown."""
        directory = self.directory(bucket, prefix)
        with self._lock:
            return not (directory.files or directory.dirs or directory.hidden)

    def is_only(self, bucket: str, key: str) -> bool:
        """Whether a name is the last one in its directory, also of those that cannot be shown."""
        prefix, name = split(key)
        directory = self.directory(bucket, prefix)
        with self._lock:
            names = directory.files.keys() | directory.dirs
            return names == {name} and not directory.hidden

    def directory(
        self, bucket: str, prefix: str, *, with_below: bool = False, is_look: bool = False
    ) -> Directory:
        """Return a directory, fetched if it is not known or too old.

        ``with_below``: also if the directories in it are not. ``is_look``: raise _TooManyError
        where what is below is no single listing.
        """
        while True:
            with self._lock:
                known = self._fresh(bucket, prefix)
                if known is not None and not (with_below and known.is_alone):
                    return known
                top = self._top(bucket, prefix)
                if self._is_being_fetched(bucket, top):
                    self._wait(f"{bucket}/{top}")
                    continue
                is_alone = not (with_below or is_look) and self._begins_alone(bucket, prefix)
                self._fetching.add((bucket, top))
            try:
                if is_alone:
                    return self._fetch_alone(bucket, prefix)
                found = self._fetch(bucket, top, is_look=is_look)
            finally:
                self._fetched((bucket, top))
            if top == prefix:
                return found

    def _begins_alone(self, bucket: str, prefix: str) -> bool:
        """Whether a directory is listed without what is below it: a name is wanted (locked).

        Not where this was seen to be the beginning of a walk, and not if there is little below.
        """
        if bucket in self._walked or self._is_large(bucket):
            return False
        if prefix and self._fresh(bucket, split(prefix)[0]) is not None:
            return False
        count = self._count(bucket)
        return count is None or count > SMALL_OBJECTS

    def _alone_above(self, bucket: str, prefix: str) -> Directory | None:
        """Return the directory above, if it was listed alone (locked)."""
        above = self._fresh(bucket, split(prefix)[0]) if prefix else None
        return above if above is not None and above.is_alone else None

    def _top(self, bucket: str, prefix: str) -> str:
        """Return what is listed for a directory that is not known: it, or the one above (locked).

        A second one of several in a directory that was listed alone is a walk.
        """
        above = self._alone_above(bucket, prefix)
        if above is None:
            return prefix
        below = (self._fresh(bucket, f"{above.prefix}{name}/") for name in above.dirs)
        known = [directory for directory in below if directory is not None]
        are_own = all(directory.is_own for directory in known)
        if are_own or len(above.dirs) - len(known) <= 1:
            return prefix
        self._walked.add(bucket)
        return above.prefix

    def _count(self, bucket: str) -> int | None:
        """Return how many objects a bucket has, as the account's listing tells (locked)."""
        known = self._buckets.get(bucket)
        return known.count if known is not None else None

    def _is_large(self, bucket: str) -> bool:
        """Whether a bucket is too large for one listing, as far as is known (locked)."""
        count = self._count(bucket)
        return bucket in self._large if count is None else count > FLAT_OBJECTS

    def _wait(self, subject: str) -> None:
        """Wait for another thread's listing (locked); raise TimedOut."""
        left = current(WAIT_S).check(subject)
        self._changed.wait(min(left, WAIT_S))

    def _is_being_fetched(self, bucket: str, prefix: str) -> bool:
        return any(name == bucket and prefix.startswith(top) for name, top in self._fetching)

    def _fetched(self, key: tuple[str, str]) -> None:
        with self._lock:
            self._fetching.discard(key)
            self._changed.notify_all()

    def _is_fresh(self, born: float | None, names: int = 0) -> bool:
        """Whether what was requested then, if at all, is still believed."""
        return born is not None and self._clock() - born < self._ttl_s * (
            1 + names // 10_000 * LONGER
        )

    def _fresh(self, bucket: str, prefix: str) -> Directory | None:
        known = self._dirs.get((bucket, prefix))
        return known if known is not None and self._is_fresh(known.born, len(known)) else None

    def _cached(self, bucket: str, prefix: str) -> Directory | None:
        with self._lock:
            return self._fresh(bucket, prefix)

    def subtree(self, bucket: str, prefix: str) -> list[ObjectInfo]:
        """Return every object below a prefix as the store has them now, shown or not."""
        with self._requesting() as born:
            pages = self._store.listing(bucket, prefix=prefix)
            found = {info.key: info for page in pages for info in page.objects}
            with self._lock:
                recent = self._settling(bucket, born)
            for key, edit in recent.items():
                listed = found.get(key)
                if not key.startswith(prefix):
                    continue
                if listed is None:
                    if edit.stored is not None and self._is_there(bucket, key, edit):
                        found[key] = edit.stored
                elif edit.outweighs(listed, born):
                    if edit.stored is None:
                        del found[key]
                    else:
                        found[key] = edit.stored
        return list(found.values())

    # -- fetching ---------------------------------------------------------------------------------

    @contextmanager
    def _requesting(self) -> Iterator[float]:
        """Note when a listing is requested: changes from then on must be known when it is here."""
        with self._lock:
            born = self._clock()
            self._requested.append(born)
        try:
            yield born
        finally:
            with self._lock:
                self._requested.remove(born)

    def _fetch_alone(self, bucket: str, prefix: str) -> Directory:
        with self._requesting() as born:
            pages = self._store.listing(bucket, prefix=prefix, delimiter="/")
            return self._enter(bucket, prefix, pages, born, is_flat=False, is_alone=True)

    def _fetch(self, bucket: str, prefix: str, *, is_look: bool) -> Directory:
        with self._requesting() as born:
            return self._fetch_at(born, bucket, prefix, is_look=is_look)

    def _fetch_at(self, born: float, bucket: str, prefix: str, *, is_look: bool) -> Directory:
        with self._lock:
            is_large = self._is_large(bucket)
        begun: list[Page] = []
        if not (is_large and not prefix):
            count = 0
            for page in self._store.listing(bucket, prefix=prefix):
                begun.append(page)
                count += len(page)
                if count > FLAT_OBJECTS:
                    with self._lock:
                        self._large.add(bucket)
                    if is_look:
                        raise _TooManyError
                    break
            else:
                return self._enter(bucket, prefix, begun, born, is_flat=True)
        # Where nothing lies below, the listing by directories would have begun in the same way.
        if any("/" in info.key[len(prefix) :] for page in begun for info in page.objects):
            begun = []
        marker = begun[-1].marker if begun else ""
        rest = self._store.listing(bucket, prefix=prefix, delimiter="/", marker=marker)
        return self._enter(bucket, prefix, chain(begun, rest), born, is_flat=False)

    def _enter(
        self,
        bucket: str,
        prefix: str,
        pages: Iterable[Page],
        born: float,
        *,
        is_flat: bool,
        is_alone: bool = False,
    ) -> Directory:
        """Build the directories of a complete listing, put them in the cache, return the top."""
        found = {prefix: Directory(born, prefix)}
        for page in pages:
            for info in page.objects:
                place(found, prefix, info, is_flat=is_flat)
            for subdir in page.subdirs:
                name = subdir[len(prefix) : -1]
                if is_shown(name):
                    found[prefix].dirs.add(name)
                else:
                    found[prefix].hidden += 1
        self._confirm(bucket, prefix, found, born, is_flat=is_flat)
        for directory in found.values():
            shadow(directory)
        found[prefix].is_alone = is_alone and bool(found[prefix].dirs)
        with self._lock:
            for key, directory in found.items():
                self._dirs[bucket, key] = directory
            recent = self._settling(bucket, born)
            for key, edit in recent.items():
                if key.startswith(prefix):
                    self._apply(bucket, key, edit, born)
            for key, edit in recent.items() if is_flat else ():
                if edit.stored is None and key.startswith(prefix):
                    self._drop_empty(bucket, prefix, key)
        hidden = sum(directory.hidden for directory in found.values())
        if hidden:
            log.warning(
                "%s/%s: %d objects are not shown, because no file can have their names "
                "(see SEMANTICS.md, Names); other Swift tools reach them",
                bucket,
                prefix,
                hidden,
            )
        return found[prefix]

    def _confirm(
        self, bucket: str, prefix: str, found: dict[str, Directory], born: float, *, is_flat: bool
    ) -> None:
        """Ask for own new objects that a listing lacks: it lags, or another client removed them.

        And for directories that were removed here and are in it, where it does not tell what is
        below: it lags, or another client made them again.
        """
        with self._lock:
            recent = self._settling(bucket, born)
        top = found[prefix]
        for key, edit in recent.items():
            if not key.startswith(prefix):
                continue
            if edit.stored is not None:
                if not shows(found, prefix, key, is_flat=is_flat):
                    self._is_there(bucket, key, edit)
            elif not is_flat and key.endswith("/"):
                parent, name = split(key)
                if parent == prefix and name in top.dirs:
                    typed = top.typed.get(name)
                    if self._is_gone(bucket, key, typed, recent, born):
                        top.dirs.discard(name)
                        top.typed.pop(name, None)

    def _is_gone(
        self,
        bucket: str,
        prefix: str,
        typed: ObjectInfo | None,
        recent: Mapping[str, _Edit],
        born: float,
    ) -> bool:
        """Whether all that listings show of a directory was removed here; ``typed`` is its marker
        without slash, which a file may have replaced.
        """
        if typed is not None:
            edit = recent.get(typed.key)
            if edit is None or not edit.outweighs(typed, born):
                return False
            if edit.stored is not None and edit.stored.is_marker:
                return False
        for page in self._store.listing(bucket, prefix=prefix):
            for info in page.objects:
                edit = recent.get(info.key)
                if edit is None or edit.stored is not None or not edit.outweighs(info, born):
                    return False
        return True

    def _drop_empty(self, bucket: str, top: str, key: str) -> None:
        """Take out the directories that own removals left empty, in a listing of all below ``top``:
        without an object there is none (locked).
        """
        where = key.removesuffix("/") + "/"
        if (bucket, where) not in self._dirs:
            where = split(key)[0]
        while len(where) > len(top):
            parent, name = split(where)
            directory, above = self._dirs.get((bucket, where)), self._dirs.get((bucket, parent))
            if directory is None or above is None or name in above.typed:
                return
            if len(directory) > 1 or directory.marker is not None or directory.hidden:
                return
            del self._dirs[bucket, where]
            above.remove_dir(name)
            where = parent

    def _is_there(self, bucket: str, key: str, edit: _Edit) -> bool:
        """Whether the store has an own new object; forget the change if it has not."""
        try:
            self._store.head(bucket, key)
        except NotFound:
            with self._lock:
                edits = self._edits.get(bucket)
                if edits is not None and edits.get(key) is edit:
                    del edits[key]
            return False
        return True

    # -- own changes ------------------------------------------------------------------------------

    def stored(self, bucket: str, info: ObjectInfo) -> None:
        """Enter an object that this mount stored."""
        if not self._is_hidden(bucket, info.key, is_there=True):
            self._edit(bucket, info.key, _Edit(self._clock(), info))

    def removed(self, bucket: str, info: ObjectInfo) -> None:
        """Take out an object that this mount removed."""
        if not self._is_hidden(bucket, info.key, is_there=False):
            self._edit(bucket, info.key, _Edit(self._clock(), None, info))

    def _is_hidden(self, bucket: str, key: str, *, is_there: bool) -> bool:
        """Whether no file can be named so; then let the next look ask what its directory hides."""
        prefix = hides(key, self._mounted)
        if prefix is None:
            return False
        with self._lock:
            if is_there:
                self._make_way(bucket, prefix)
            self._dirs.pop((bucket, prefix), None)
        return True

    def directory_removed(self, bucket: str, prefix: str) -> None:
        """Take out an empty directory that this mount removed."""
        with self._lock:
            edits = self._edits.get(bucket)
            before = edits.get(prefix) if edits is not None else None
        removed = before.removed if before is not None else None
        # Listings that are on their way may show it still.
        self._edit(bucket, prefix, _Edit(self._clock(), None, removed))
        with self._lock:
            self._dirs.pop((bucket, prefix), None)
            parent, name = split(prefix)
            directory = self._dirs.get((bucket, parent))
            if directory is not None:
                directory.remove_dir(name)

    def subtree_removed(self, bucket: str, prefix: str) -> None:
        """Take out a directory that this mount removed, with all below it."""
        with self._lock:
            self._drop_below(bucket, prefix)
        self.directory_removed(bucket, prefix)

    def subtree_outdated(self, bucket: str, prefix: str) -> None:
        """What is below a prefix is not known any more: let the next look ask the store."""
        with self._lock:
            self._drop_below(bucket, prefix)
            self._dirs.pop((bucket, split(prefix)[0]), None)

    def _drop_below(self, bucket: str, prefix: str) -> None:
        for key in [key for key in self._dirs if key[0] == bucket and key[1].startswith(prefix)]:
            del self._dirs[key]

    def outdated(self, bucket: str, key: str) -> None:
        """The version that is listed under this name is gone: let the next look ask the store."""
        with self._lock:
            if bucket in self._edits:
                self._edits[bucket].pop(key, None)
            self._dirs.pop((bucket, split(key)[0]), None)

    def status(self) -> dict[str, int]:
        """Return how much is cached."""
        with self._lock:
            return {"directories": len(self._dirs), "names": int(self._dirs.currsize)}

    def _edit(self, bucket: str, key: str, edit: _Edit) -> None:
        with self._lock:
            edits: OrderedDict[str, _Edit] = self._edits.setdefault(bucket, OrderedDict())
            self._forget_settled(edits, edit.at)
            older = self._versions(bucket, key, edits.pop(key, None))
            edits[key] = edit = replace(edit, older=older[-VERSIONS:])
            self._apply(bucket, key, edit, edit.at)

    def _forget_settled(self, edits: OrderedDict[str, _Edit], now: float) -> None:
        """Drop the changes that every listing to come knows (locked)."""
        known_to_all = min([now, *self._requested]) - SETTLE_S
        while edits and next(iter(edits.values())).at <= known_to_all:
            edits.popitem(last=False)

    def _versions(self, bucket: str, key: str, before: _Edit | None) -> tuple[ObjectInfo, ...]:
        """Return the versions of a name that a change now makes old (locked)."""
        prefix, name = split(key)
        if key.endswith("/"):
            marked = self._dirs.get((bucket, key))
            listed = marked.marker if marked is not None else None
        else:
            directory = self._dirs.get((bucket, prefix))
            listed = directory.either(name) if directory is not None else None
        older = before.older if before is not None else ()
        latest = (before.stored if before is not None else None, listed)
        return older + tuple(version for version in latest if version is not None)

    def _settling(self, bucket: str, born: float) -> dict[str, _Edit]:
        """Return the own changes that a listing requested at ``born`` may not know (locked)."""
        edits = self._edits.get(bucket)
        if not edits:
            return {}
        return {key: edit for key, edit in edits.items() if edit.at > born - SETTLE_S}

    def _apply(self, bucket: str, key: str, edit: _Edit, born: float) -> None:
        """Enter one change in directories that were listed at ``born`` (locked)."""
        if edit.stored is not None:
            self._apply_stored(bucket, edit.stored, edit, born)
            return
        marked = self._dirs.get((bucket, key.removesuffix("/") + "/"))
        # What does not outweigh is a version that somebody else stored after the removal.
        marker = marked.marker if marked is not None else None
        if marked is not None and marker is not None and marker.key == key:
            marked.marker = None if edit.outweighs(marker, born) else marker
        prefix, name = split(key)
        directory = self._dirs.get((bucket, prefix))
        if directory is None or key.endswith("/"):
            return
        typed = directory.typed.get(name)
        if typed is not None and edit.outweighs(typed, born):
            del directory.typed[name]
        listed = directory.listed(name)
        if listed is not None and edit.outweighs(listed, born):
            del directory.files[directory.shown(name)]

    def _apply_stored(self, bucket: str, info: ObjectInfo, edit: _Edit, born: float) -> None:
        prefix, name = split(info.key)
        # The directories on the way exist now; those that were not there are known to hold
        # nothing else.
        self._make_way(bucket, prefix)
        if info.key.endswith("/"):
            self._make_way(bucket, info.key)
            directory = self._dirs.get((bucket, info.key))
            if directory is not None:
                directory.marker = info
            return
        directory = self._dirs.get((bucket, prefix))
        if directory is not None:
            listed = directory.either(name)
            if listed is not None and not edit.outweighs(listed, born):
                return
        if info.is_marker:
            if directory is not None:
                # What it replaced is not beside it.
                if directory.listed(name) is not None:
                    del directory.files[directory.shown(name)]
                directory.typed[name] = info
            self._make_way(bucket, f"{info.key}/")
            return
        if directory is None or not self._marker_replaced(bucket, directory, name):
            return
        if name in directory.dirs:
            directory.set_aside(name, info)
        else:
            directory.files[name] = info
        self._dirs[bucket, prefix] = directory

    def _marker_replaced(self, bucket: str, directory: Directory, name: str) -> bool:
        """Forget a marker without slash that a file replaced, and the directory if that was all.

        Return whether it is known what lies below; otherwise the next look asks (locked).
        """
        if directory.typed.pop(name, None) is None:
            return True
        below = self._fresh(bucket, f"{directory.prefix}{name}/")
        if below is None:
            self._dirs.pop((bucket, directory.prefix), None)
            return False
        if len(below) == 1 and below.marker is None and not below.hidden:
            del self._dirs[bucket, below.prefix]
            directory.remove_dir(name)
        return True

    def _make_way(self, bucket: str, prefix: str) -> None:
        """Enter a directory and those above it where their parent is cached (locked)."""
        if not prefix:
            return
        parent, name = split(prefix)
        self._make_way(bucket, parent)
        above = self._dirs.get((bucket, parent))
        if above is None or name in above.dirs:
            return
        above.add_dir(name)
        self._dirs[bucket, prefix] = Directory(above.born, prefix, is_own=True)


def _is_version(listed: ObjectInfo, known: ObjectInfo) -> bool:
    """Whether a listed object is a known version; a listing may not tell size and hash."""
    if listed.kind is Kind.UNKNOWN:
        listed = replace(listed, size=known.size, etag=known.etag)
    return listed.same_version(known)
