"""Renames: copies on the server, after which the old names are removed.

At any moment either the old or the new name of every file is complete. A directory of which only a
part could be copied is taken back; what a crash leaves is finished by renaming it once more
(docs/SEMANTICS.md, rename).
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from allasfs.deadline import current, within
from allasfs.errors import (
    BadArgument,
    CrossDevice,
    DirectoryNotEmpty,
    FsError,
    IsADirectory,
    NotADirectory,
    NotFound,
    NotPermitted,
    NotSupported,
    QuotaExceeded,
    Refused,
    Stale,
)
from allasfs.fs.files import Files
from allasfs.fs.names import Place, check_key
from allasfs.fs.openfile import OpenFile, Services
from allasfs.fs.pages import Pages
from allasfs.fs.tree import Tree
from allasfs.fs.types import content_type
from allasfs.store import large, marks
from allasfs.store.api import Kind, ObjectHead, ObjectInfo, Segment
from allasfs.transfer.directories import Found
from allasfs.transfer.leftovers import Leftovers, Old

log = logging.getLogger(__name__)

# Metadata of the marker of a directory that is being filled by a rename: whence.
RENAMED_FROM = "renamed-from"
# A request that ended so is not done later.
REFUSED = (Refused, QuotaExceeded, Stale)
COMPLETE = "`mv -T` from the old name to the new one completes the rename"

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class _Copy:
    """A file that has two names for the moment."""

    old: ObjectInfo
    new: ObjectInfo
    # A large object as its last name is to be: not marked as sharing its segments.
    before: ObjectHead | None
    # Another client's version was copied: the mount knows it by its new name alone.
    is_newer: bool = False


@dataclass(frozen=True)
class _Target:
    """What a directory is renamed to."""

    place: Place
    # What was there already: of an empty directory its marker, of a rename that was interrupted
    # what that copied.
    there: dict[str, ObjectInfo]
    is_continued: bool = False


class Moves:
    """Gives files and directories other names."""

    def __init__(
        self,
        services: Services,
        tree: Tree,
        files: Files,
        pages: Pages,
        orphaned: Callable[[Place], None],
    ) -> None:
        """``orphaned`` is told of a file whose name another one took."""
        self._services = services
        self._store = services.store
        self._listings = services.listings
        self._attributes = services.attributes
        self._tree = tree
        self._files = files
        self._pages = pages
        self._orphaned = orphaned
        self._leftovers = Leftovers(services.store, services.spool)
        # Held while an object that has a mark gets another name: its mark names them all.
        self._sharing = threading.Lock()

    def rename(self, path: str, target: str) -> None:
        """Give a file or directory another name.

        Raises CrossDevice for buckets, IsADirectory, NotADirectory, DirectoryNotEmpty, BadArgument
        for a directory into itself, NameTooLong.
        """
        old, new = self._tree.place(path), self._tree.place(target)
        if not old.key:
            raise CrossDevice(path, "a bucket cannot be renamed: copy it")
        file = self._files.at(old)
        is_dir = self._files.changed_at(old) is None and self._tree.find(old).is_dir
        if not new.key:
            if is_dir:
                raise CrossDevice(target, "a directory becomes a bucket only by copying it")
            raise NotPermitted(target, "files live in buckets")
        if old == new:
            return
        if is_dir:
            # What is stored and forgotten after the objects are listed would stay behind.
            with self._services.pending.held():
                self._rename_directory(old, new)
        else:
            self._rename_file(old, new, file)

    def _keep_parent(self, old: Place, new: Place) -> None:
        if old.parent != new.parent:
            self._tree.keep_parent(old)

    # -- files ------------------------------------------------------------------------------------

    def _rename_file(self, old: Place, new: Place, file: OpenFile | None) -> None:
        check_key(new.key, self._store.capabilities())
        over = self._files.at(new)
        with nullcontext() if over is None else over.held_back():
            # From here on the store's listing says what is there.
            found = self._tree.find(new)
            if found.is_dir and over is not None and over.is_dirty:
                # The file is shown, and the object beside the directory is its own.
                found = Found(over.info)
            if found.is_dir:
                raise IsADirectory(new.key)
            was_stored = file is not None and file.is_dirty
            if file is None or not self._is_renamed_here(file, old, new, found):
                info = file.info if file is not None and was_stored else None
                self._rename_stored(old, new, info or self._tree.file(old), found, over)
        self._pages.forget(old)
        self._pages.forget(new)

    def _is_renamed_here(self, file: OpenFile, old: Place, new: Place, found: Found) -> bool:
        """Rename a file that the store does not have yet, else see that it has it."""
        with file.lock:
            file.see()
            if not file.is_only_here:
                file.store()
                return False
            replaced = None
            if found.file is not None:
                replaced = self._tree.resolve(new.bucket, found.file)
            over = self._files.at(new)
            if over is not None:
                over.hold()
            file.renamed(new, replaced, over)
            if over is not None:
                self._orphaned(new)
            self._files.move(old, new)
            return True

    def _rename_stored(
        self, old: Place, new: Place, info: ObjectInfo, found: Found, over: OpenFile | None
    ) -> None:
        replaced = None
        if found.file is not None:
            replaced = self._tree.resolve(new.bucket, found.file)
        if over is not None:
            over.hold()
        self._keep_parent(old, new)
        stored = self._move(old.bucket, info, new, replaced)
        if over is not None:
            self._orphaned(new)
        moved = self._files.move(old, new)
        if moved is not None:
            moved.moved(new, _followed(moved.info or info, stored))

    def _move(
        self, bucket: str, info: ObjectInfo, new: Place, replaced: ObjectInfo | None
    ) -> ObjectInfo:
        """Copy a file on the server and remove the old name; a large one keeps its segments."""
        old = self._replacing(bucket, info, new.bucket, replaced)
        freed = list(old.segments) if old is not None else []
        if freed and info.kind is not Kind.PLAIN:
            # Both may be manifests over the same segments.
            freed = self._not_of(bucket, info, freed)
        # The object of a file beside a directory of its name is not called as it is shown.
        key = new.key if replaced is None else replaced.key
        try:
            copy = self._copy(bucket, info, new.bucket, key)
        except FsError:
            self._leftovers.keep(old)
            raise
        try:
            try:
                self._store.delete(bucket, info.key)
            except NotFound:
                log.info("%s/%s was removed by another client meanwhile", bucket, info.key)
            except FsError as exc:
                if self._stands(bucket, copy, new.bucket, replaced, exc):
                    raise
                # Only the answer was lost: the new name has the only copy now.
            return self._settle(bucket, copy, new.bucket)
        finally:
            self._leftovers.remove(old, freed)

    def _replacing(
        self, bucket: str, info: ObjectInfo, new_bucket: str, replaced: ObjectInfo | None
    ) -> Old | None:
        """Prepare to replace a file by another one."""
        found = large.look(self._store, new_bucket, replaced)
        if found.is_untold and found.head is not None and info.kind is not Kind.PLAIN:
            now = self._store.head(bucket, info.key).info
            if now.etag == found.head.info.etag:
                # The same segments, or others of the same content: nobody can tell, but a mark.
                if (bucket, info.key) not in marks.names(found.head.metadata):
                    log.warning(
                        "the segments of %s/%s are left over: %s/%s may be over the same",
                        new_bucket,
                        found.head.info.key,
                        bucket,
                        info.key,
                    )
                return None
        return self._leftovers.before(new_bucket, found, info.etag)

    def _not_of(self, bucket: str, info: ObjectInfo, freed: list[Segment]) -> list[Segment]:
        """Return the segments that a large object does not use."""
        try:
            kept = set(large.segments_of(self._store, bucket, info))
        except NotSupported as exc:
            log.warning("segments of a replaced object are left over: %s", exc)
            return []
        return [segment for segment in freed if segment not in kept]

    def _copy(
        self,
        bucket: str,
        info: ObjectInfo,
        new_bucket: str,
        key: str,
    ) -> _Copy:
        """Copy a file; of a large one the manifest, marked as sharing its segments.

        The mark stays after a copy without a clear answer: the store may still do it.
        """
        is_large = info.kind is not Kind.PLAIN
        target = (new_bucket, key)
        before = None
        with ExitStack() as stack:
            if is_large:
                alone = partial(stack.enter_context, self._sharing)
                before = large.share(self._store, bucket, info, target, alone)
            try:
                stored = self._store.copy(
                    bucket,
                    info,
                    target,
                    manifest=is_large,
                    content_type=_type_after(info, key),
                )
            except FsError as exc:
                if before is not None and _is_refused(exc):
                    large.unshare(self._store, bucket, info, before)
                raise
        is_newer = not (before.info.same_version(info) if before else stored.etag == info.etag)
        if is_newer:
            # Another client replaced the object meanwhile, and its version was copied.
            head = self._store.head(new_bucket, key)
            stored = head.info
            self._attributes.learn(new_bucket, stored, head.metadata)
        return _Copy(info, stored, before, is_newer)

    def _attributes_moved(
        self, bucket: str, copy: _Copy, new_bucket: str, stored: ObjectInfo
    ) -> None:
        known = (new_bucket, copy.new) if copy.is_newer else (bucket, copy.old)
        if known[1] is not stored:
            self._attributes.moved(known, (new_bucket, stored))

    def _settle(self, bucket: str, copy: _Copy, new_bucket: str) -> ObjectInfo:
        """The old name is gone: enter the new one, which has its segments for itself now."""
        stored = copy.new
        if copy.before is not None:
            stored = large.unshare(self._store, new_bucket, stored, copy.before)
        self._attributes_moved(bucket, copy, new_bucket, stored)
        self._listings.stored(new_bucket, stored)
        self._listings.removed(bucket, copy.old)
        return stored

    def _stands(
        self,
        bucket: str,
        copy: _Copy,
        new_bucket: str,
        replaced: ObjectInfo | None,
        error: FsError,
    ) -> bool:
        """Whether the old name stands after its removal failed; then see to the new one.

        The copy is taken back only where the store has refused the removal: any other may be done
        late, and the copy be all that is left.
        """
        is_refused = _is_refused(error)
        try:
            self._store.head(bucket, copy.old.key)
        except NotFound:
            return False
        except FsError:
            is_refused = False
        if not (is_refused and replaced is None and self._is_taken_back(bucket, copy, new_bucket)):
            names = f"{bucket}/{copy.old.key}", f"{new_bucket}/{copy.new.key}"
            log.warning("%s stands, and %s is a second name now: %s", *names, error)
            self._listings.stored(new_bucket, copy.new)
        return True

    def _is_taken_back(self, bucket: str, copy: _Copy, new_bucket: str) -> bool:
        try:
            self._store.delete(new_bucket, copy.new.key)
        except FsError as exc:
            log.info("%s/%s cannot be taken back: %s", new_bucket, copy.new.key, exc)
            return False
        if copy.before is not None:
            large.unshare(self._store, bucket, copy.old, copy.before)
        return True

    # -- directories ------------------------------------------------------------------------------

    def _rename_directory(self, old: Place, new: Place) -> None:
        if old.holds(new):
            raise BadArgument(new.key, "a directory cannot be moved into itself")
        for file in self._files.below(old):
            file.see()
        target = self._target(old, new)
        markers = self._listings.markers(old.bucket, old.prefix)
        objects = self._objects(old, {marker.key for marker in markers})
        # One that another client has just stored is no object below the directory.
        markers = [info for info in objects if info.key == old.prefix] + markers
        objects = [info for info in objects if info.key != old.prefix]
        limits = self._store.capabilities()
        for key in (old.prefix, *(info.key for info in objects)):
            check_key(_renamed(key, old, new), limits)
        self._keep_parent(old, new)
        mark = None
        if objects:
            mark = self._tree.put_marker(new, metadata={RENAMED_FROM: _origin(old)})
        copies = self._copy_all(old, objects, target)
        self._move_open_files(old, new, copies)
        self._remove_old_names(old, new, copies)
        # The directory itself comes last: its marker tells until then that a rename is under way.
        moved: set[str] = set()
        for marker in markers:
            key = _renamed(marker.key, old, new)
            try:
                self._move(old.bucket, marker, Place(new.bucket, key), None)
            except NotFound:
                # Another client removed it; of all that there was only when nothing was moved.
                self._listings.removed(old.bucket, marker)
                if mark is None and not moved and marker is markers[-1]:
                    raise
            else:
                moved.add(marker.key)
        if mark is not None and old.prefix not in moved:
            self._remove_mark(new, mark, target)
        self._listings.subtree_removed(old.bucket, old.prefix)
        self._pages.forget_below(old)
        self._pages.forget_below(new)

    def _target(self, old: Place, new: Place) -> _Target:
        """Look at what is at the new name; raise NotADirectory, DirectoryNotEmpty."""
        found = self._tree.find(new)
        if found.file is not None or self._files.changed_at(new) is not None:
            raise NotADirectory(new.key)
        if not found.is_dir:
            return _Target(new, {})
        there = {info.key: info for info in self._listings.subtree(new.bucket, new.prefix)}
        there |= {info.key: info for info in self._listings.markers(new.bucket, new.prefix)}
        if self._files.new_in(new):
            raise DirectoryNotEmpty(new.key)
        if not there.keys() - {new.prefix, new.key}:
            return _Target(new, there)
        if not self._is_half(old, new):
            raise DirectoryNotEmpty(new.key)
        return _Target(new, there, is_continued=True)

    def _is_half(self, old: Place, new: Place) -> bool:
        """Whether a rename of just these two was interrupted."""
        try:
            head = self._store.head(new.bucket, new.prefix)
        except NotFound:
            return False
        return head.metadata.get(RENAMED_FROM) == _origin(old)

    def _objects(self, old: Place, markers: Collection[str]) -> list[ObjectInfo]:
        """Return all objects below a directory but its own markers, with their true sizes."""
        listed = self._listings.subtree(old.bucket, old.prefix)
        below = [info for info in listed if info.key not in markers]
        self._tree.ask_ahead(old.bucket, [info for info in below if info.kind is Kind.UNKNOWN])
        return [
            self._tree.resolve(old.bucket, info) if info.kind is Kind.UNKNOWN else info
            for info in below
        ]

    def _copy_all(
        self, old: Place, objects: Sequence[ObjectInfo], target: _Target
    ) -> dict[str, _Copy]:
        """Give all objects a second name; by old key. After a failure none has one."""
        new = target.place

        def copy(info: ObjectInfo) -> _Copy:
            key = _renamed(info.key, old, new)
            there = target.there.get(key)
            if there is not None and info.kind is Kind.PLAIN and there.same_bytes(info):
                return _Copy(info, there, None)
            made = self._copy(old.bucket, info, new.bucket, key)
            before = made.before
            if before is not None and target.is_continued and not marks.names(before.metadata):
                # The mark that it has, if any, is of the interrupted rename.
                made = replace(made, before=large.unmarked(before))
            return made

        copies, failure = self._each(copy, objects)
        if failure is None:
            return {made.old.key: made for made in copies}
        if not target.is_continued:
            self._take_back(old, objects, copies, target)
        self._listings.subtree_outdated(new.bucket, new.prefix)
        raise failure

    def _take_back(
        self, old: Place, objects: Sequence[ObjectInfo], copies: Sequence[_Copy], target: _Target
    ) -> None:
        """Remove all new names, also those whose copies were done and not answered."""
        new = target.place
        try:
            self._store.delete_many(new.bucket, [_renamed(info.key, old, new) for info in objects])
            if new.prefix in target.there:
                self._tree.put_marker(new)
            else:
                self._store.delete(new.bucket, new.prefix)
        except FsError as exc:
            log.warning("%s is a copy of a part of %s: %s; %s", new, old, exc, COMPLETE)
            return
        for copy in copies:
            if copy.before is not None:
                large.unshare(self._store, old.bucket, copy.old, copy.before)

    def _move_open_files(self, old: Place, new: Place, copies: dict[str, _Copy]) -> None:
        """Files that are open below the directory go on under their new names."""
        for file in self._files.below(old):
            with file.lock:
                file.recall()
                place = Place(new.bucket, _renamed(file.place.key, old, new))
                info = file.info
                if info is not None:
                    copy = copies.get(info.key)
                    key = _renamed(info.key, old, new)
                    if copy is None or not copy.old.same_version(info):
                        # It was stored after the objects were listed, or is gone.
                        with suppress(NotFound):
                            copy = copies[info.key] = self._copy(old.bucket, info, new.bucket, key)
                    if copy is None:
                        info = replace(info, key=key)
                    else:
                        info = _followed(info, copy.new)
                        self._attributes_moved(old.bucket, copy, new.bucket, copy.new)
                self._files.move(file.place, place)
                file.moved(place, info)

    def _remove_old_names(self, old: Place, new: Place, copies: dict[str, _Copy]) -> None:
        try:
            self._store.delete_many(old.bucket, list(copies))
        except FsError:
            for copy in copies.values():
                self._listings.stored(new.bucket, copy.new)
            self._listings.subtree_outdated(old.bucket, old.prefix)
            log.warning("%s is complete, and a part of %s is left; %s", new, old, COMPLETE)
            raise

        def settle(copy: _Copy) -> None:
            stored = self._settle(old.bucket, copy, new.bucket)
            file = self._files.at(Place(new.bucket, stored.key))
            if file is not None and file.info is not None and stored is not copy.new:
                file.moved(file.place, _followed(file.info, stored))

        for copy in copies.values():
            if copy.before is None:
                settle(copy)
        marked = [copy for copy in copies.values() if copy.before is not None]
        _, failure = self._each(settle, marked)
        if failure is not None:
            raise failure

    def _remove_mark(self, new: Place, mark: ObjectInfo, target: _Target) -> None:
        """The renamed directory had no marker: the new one has none, unless it had one before."""
        if new.prefix in target.there and not target.is_continued:
            self._tree.put_marker(new)
            return
        try:
            self._store.delete(new.bucket, mark.key)
        except NotFound:
            log.info("%s lost its marker to another client", new)
        self._listings.removed(new.bucket, mark)

    def _each(
        self, call: Callable[[T], R], items: Iterable[T]
    ) -> tuple[list[R], BaseException | None]:
        """Do a call for each item, in parallel; return the results and the first failure.

        Half of the pool's threads are left to others: a large directory does not stop readers.
        """
        config = self._services.config
        deadline = current(config.timeout_s)
        results: list[R] = []
        failure: BaseException | None = None

        def job(item: T) -> R:
            with within(config.timeout_s):
                return call(item)

        def collect(done: Future[R]) -> BaseException | None:
            error = done.exception()
            if error is None:
                results.append(done.result())
                # What the threads did is the progress of this operation.
                deadline.progress()
            return error

        jobs: deque[Future[R]] = deque()
        for item in items:
            if len(jobs) >= max(1, config.connections // 2):
                failure = collect(jobs.popleft())
            if failure is not None:
                break
            jobs.append(self._services.pool.submit(job, item))
        for each in jobs:
            failure = collect(each) or failure
        return results, failure


def _is_refused(error: FsError) -> bool:
    """Whether no attempt of the request that failed is done later."""
    return isinstance(error, REFUSED) and not error.may_be_done


def _renamed(key: str, old: Place, new: Place) -> str:
    """Return the new name of an object in a directory, or of the directory's own."""
    return new.key + key[len(old.key) :]


def _type_after(info: ObjectInfo, key: str) -> str:
    """Return the content type that a new name gives; empty: the one it has stays.

    It is not the name's where somebody chose it. Programs write to a name of their own first.
    """
    before, after = content_type(info.key), content_type(key)
    return after if info.content_type == before != after else ""


def _origin(old: Place) -> str:
    """Return what a marker keeps of the old name: metadata is shorter than names may be."""
    return hashlib.sha256(f"{old.bucket}/{old.prefix}".encode()).hexdigest()


def _followed(info: ObjectInfo, copy: ObjectInfo) -> ObjectInfo:
    """Return what a file that is open at ``info`` is after the rename.

    When another client's newer version was copied instead, the handles stay at theirs.
    """
    return copy if copy.same_bytes(info) else replace(info, key=copy.key)
