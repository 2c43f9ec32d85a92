"""Renames: copies on the server, after which the old names are removed.

At any moment either the old or the new name of a file is complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from allasfs.errors import CrossDevice, FsError, IsADirectory, NotFound, NotPermitted
from allasfs.fs.files import Files, Services
from allasfs.fs.names import Place, check_key
from allasfs.fs.pages import Pages
from allasfs.fs.tree import Tree
from allasfs.store import large
from allasfs.store.api import Kind, ObjectInfo, Segment

log = logging.getLogger(__name__)


class Moves:
    """Gives files other names."""

    def __init__(
        self,
        services: Services,
        tree: Tree,
        files: Files,
        pages: Pages,
        orphaned: Callable[[Place], None],
    ) -> None:
        """``orphaned`` is told of a file whose name another one took."""
        self._store = services.store
        self._listings = services.listings
        self._attributes = services.attributes
        self._tree = tree
        self._files = files
        self._pages = pages
        self._orphaned = orphaned

    def rename(self, path: str, target: str) -> None:
        """Give a file another name, by a copy on the server; raise CrossDevice for directories."""
        old, new = self._tree.place(path), self._tree.place(target)
        if not old.key:
            raise CrossDevice(path, "a bucket cannot be renamed: copy it")
        if not new.key:
            raise NotPermitted(target, "files live in buckets")
        if old == new:
            return
        check_key(new.key, self._store.capabilities())
        file = self._files.at(old)
        if file is not None:
            file.flush()
        elif self._tree.find(old).is_dir:
            raise CrossDevice(path, "directories are copied, not renamed")
        info = self._tree.file(old)
        replaced = self._tree.find(new)
        if replaced.is_dir:
            raise IsADirectory(target)
        stored = self._move(old, info, new, replaced.file)
        if self._files.at(new) is not None:
            self._orphaned(new)
        moved = self._files.move(old, new)
        if moved is not None:
            moved.moved(new, stored)
        self._pages.forget(old)
        self._pages.forget(new)
        self._tree.keep_directory(old.parent)

    def _move(
        self, old: Place, info: ObjectInfo, new: Place, replaced: ObjectInfo | None
    ) -> ObjectInfo:
        """Copy a file on the server and remove the old name; a large one keeps its segments."""
        is_large = info.kind is not Kind.PLAIN
        freed: list[Segment] = []
        if replaced is not None:
            replaced = self._tree.resolve(new.bucket, replaced)
            freed = large.own_segments(self._store, new.bucket, replaced)
        if freed and is_large:
            # Both may be manifests over the same segments.
            kept = set(large.segments_of(self._store, old.bucket, info))
            freed = [segment for segment in freed if segment not in kept]
        before = large.share(self._store, old.bucket, info) if is_large else None
        stored = self._store.copy(old.bucket, info, (new.bucket, new.key), manifest=is_large)
        try:
            self._store.delete(old.bucket, old.key)
        except NotFound:
            log.info("%s/%s was removed by another client meanwhile", old.bucket, old.key)
        except FsError:
            if self._undo_copy(new, stored, replaced) and before is not None:
                large.unshare(self._store, old.bucket, info, before)
            raise
        if before is not None:
            stored = large.unshare(self._store, new.bucket, stored, before)
        self._attributes.remember(new.bucket, stored, self._attributes.given(old.bucket, info))
        self._listings.stored(new.bucket, stored)
        self._listings.removed(old.bucket, info)
        large.remove_segments(self._store, freed)
        return stored

    def _undo_copy(self, new: Place, stored: ObjectInfo, replaced: ObjectInfo | None) -> bool:
        """The old name cannot be removed: take the new one back, unless it replaced a file."""
        if replaced is None:
            try:
                self._store.delete(new.bucket, new.key)
            except FsError as exc:
                log.warning("%s/%s is a second name now: %s", new.bucket, new.key, exc)
            else:
                return True
        self._listings.stored(new.bucket, stored)
        return False
