"""Attributes that programs give: times, modes and owners, and extended attributes.

They are kept as metadata of the object, the directory's marker, or the bucket. While a file is
open and changed they wait for its upload; else each change is a HEAD and a POST.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

from allasfs.errors import (
    Exists,
    NoAttribute,
    NotFound,
    NotPermitted,
    NotSupported,
    ReadOnly,
)
from allasfs.fs import xattrs
from allasfs.fs.attrs import Given, given_by, is_symlink
from allasfs.fs.files import Files
from allasfs.fs.names import Place
from allasfs.fs.openfile import OpenFile, Services
from allasfs.fs.pages import Pages
from allasfs.fs.tree import BUCKET, Tree
from allasfs.store.api import Kind, ObjectInfo

# Changes of one object's metadata wait for each other: the last POST of two would win, whole.
STRIPES = 64

# Metadata as it is -> as it is to be.
Change = Callable[[Mapping[str, str]], dict[str, str]]


class Metadata:
    """What a mount's files, directories and buckets have beside names and bytes."""

    def __init__(
        self,
        services: Services,
        tree: Tree,
        files: Files,
        pages: Pages,
        hidden: Callable[[str], OpenFile | None],
    ) -> None:
        """``hidden`` finds an unlinked open file by the path that the kernel has for it."""
        self._store = services.store
        self._config = services.config
        self._listings = services.listings
        self._attributes = services.attributes
        self._tree = tree
        self._files = files
        self._pages = pages
        self._hidden = hidden
        # Taken before a file's lock.
        self._stripes = [threading.Lock() for _ in range(STRIPES)]

    # -- times, modes, owners ---------------------------------------------------------------------

    def set_attributes(self, path: str, given: Given) -> None:
        """utimens, chmod, chown; raise NotPermitted for the root of an account."""
        self._may_change(path)
        place = self._tree.place(path)
        if not place.bucket:
            self._refuse_root(path, given)
            return
        file = self._changed_file(path, place)
        if file is not None and file.give(given):
            return
        if self._differs(place, given):
            self._change(place, given, dict)
        else:
            self._tell(place, given)

    def _refuse_root(self, path: str, given: Given) -> None:
        """Nothing keeps what is given to the root of an account; what it has already may be given.

        ``cp -a`` and rsync do that.
        """
        attr = self._tree.attr(self._tree.place(path))
        has = Given(attr.mtime_ns, attr.mode & 0o7777, attr.uid, attr.gid)
        if has.changed(given) != has:
            raise NotPermitted(path, "the store keeps no attributes of an account")

    def _tell(self, place: Place, given: Given) -> None:
        """The store has it already; stat may have told something else before that was known."""
        info = self._described(place)
        if info is None:
            return
        told = self._attributes.given(place.bucket, info).changed(given)
        metadata = self._attributes.metadata(place.bucket, info)
        self._attributes.remember(place.bucket, info, told, metadata)
        file = self._files.at(place)
        if file is not None:
            file.moved(place, file.info)

    def _differs(self, place: Place, given: Given) -> bool:
        """Whether the store would keep something else than it does."""
        info = self._described(place)
        metadata = None
        if info is not None and place.key:
            metadata = self._attributes.metadata(place.bucket, info)
        if metadata is None:
            return given != Given()
        has = given_by(metadata)
        return has.changed(given) != has

    # -- extended attributes ----------------------------------------------------------------------

    def getxattr(self, path: str, name: str) -> bytes:
        """Return the value of an attribute; raise NoAttribute, or NotSupported for other names."""
        if not name.startswith(xattrs.USER):
            raise NotSupported(path)
        if name.startswith(xattrs.OWN):
            return self._own(path, name.removeprefix(xattrs.OWN)).encode()
        place = self._tree.place(path)
        metadata = self._of(path, place)
        header = xattrs.shown(metadata, of_bucket=not place.key).get(name)
        if header is None:
            raise NoAttribute(path, name)
        return xattrs.value_of(metadata[header])

    def listxattr(self, path: str) -> list[str]:
        """Return the names of the attributes that getxattr answers for and programs may copy."""
        place = self._tree.place(path)
        return sorted(xattrs.shown(self._of(path, place), of_bucket=not place.key))

    def setxattr(self, path: str, name: str, value: bytes, flags: int = 0) -> None:
        """Set an attribute; raise Exists (XATTR_CREATE), NoAttribute (XATTR_REPLACE).

        Raises AttributeNameTooLong, AttributeTooLarge, AttributesFull by the store's limits.
        """
        place = self._changeable(path, name)

        def change(metadata: Mapping[str, str]) -> dict[str, str]:
            header = xattrs.shown(metadata, of_bucket=not place.key).get(name)
            if header is not None and flags & os.XATTR_CREATE:
                raise Exists(path, name)
            if header is None and flags & os.XATTR_REPLACE:
                raise NoAttribute(path, name)
            header = header or xattrs.header_of(name)
            changed = {**metadata, header: xattrs.text_of(value)}
            xattrs.check(name, changed, header, self._store.capabilities())
            return changed

        self._change_metadata(path, place, change)

    def removexattr(self, path: str, name: str) -> None:
        """Remove an attribute; raise NoAttribute."""
        place = self._changeable(path, name)

        def change(metadata: Mapping[str, str]) -> dict[str, str]:
            header = xattrs.shown(metadata, of_bucket=not place.key).get(name)
            if header is None:
                raise NoAttribute(path, name)
            return {each: text for each, text in metadata.items() if each != header}

        self._change_metadata(path, place, change)

    def _changeable(self, path: str, name: str) -> Place:
        """Return where an attribute may be changed; raise why it may not."""
        if not name.startswith(xattrs.USER):
            raise NotSupported(path)
        self._may_change(path)
        place = self._tree.place(path)
        if not place.bucket:
            raise NotPermitted(path, "the store keeps no attributes of an account")
        if xattrs.is_reserved(name, of_bucket=not place.key):
            raise NotPermitted(path, f"{name} has a meaning of its own")
        return place

    def _change_metadata(self, path: str, place: Place, change: Change) -> None:
        file = self._changed_file(path, place)
        if file is None or not file.change_metadata(change):
            self._change(place, Given(), change)

    def _own(self, path: str, name: str) -> str:
        """Return what allasfs tells of a place by itself; asks nobody for more than it is."""
        place = self._tree.place(path)
        file = self._changed_file(path, place)
        found = ""
        info = self._described(place) if file is None and place.bucket else None
        if name == "url":
            default = place.key if file is not None else place.prefix
            found = self._store.url(place.bucket, (info and info.key) or default)
        elif info is not None and info is not BUCKET:
            found = {"etag": info.etag, "content_type": info.content_type}.get(name, "")
        if not found:
            raise NoAttribute(path, name)
        return found

    # -- what is stored ---------------------------------------------------------------------------

    def _of(self, path: str, place: Place) -> Mapping[str, str]:
        """Return the metadata of a place: one HEAD for each version, or none."""
        if not place.bucket:
            return {}
        file = self._changed_file(path, place)
        if file is not None:
            return file.metadata()
        info = self._described(place)
        if info is None or is_symlink(info):
            # Linux lets nobody have attributes of a link's own.
            return {}
        return self._tree.metadata(place.bucket, info)

    def _described(self, place: Place) -> ObjectInfo | None:
        """Return the object whose metadata a place has; None for a directory without marker."""
        if not place.key:
            if self._listings.bucket(place.bucket) is None:
                raise NotFound(place.bucket)
            return BUCKET
        found = self._tree.find(place)
        if not found.is_dir:
            return self._tree.file(place)
        markers = self._listings.markers(place.bucket, place.prefix)
        return next((marker for marker in markers if marker.key == place.prefix), None)

    def _changed_file(self, path: str, place: Place) -> OpenFile | None:
        """Return the open file whose upload will carry its attributes, if there is one."""
        file = self._hidden(path) or self._files.at(place)
        return file if file is not None and (file.is_dirty or file.is_orphan) else None

    def _change(self, place: Place, given: Given, change: Change) -> None:
        """Let the store keep other metadata, and enter the version that this makes."""
        with self._stripes[hash(place) % STRIPES]:
            info = self._described(place)
            if info is None:
                self._tree.put_marker(place, given, change({}))
            elif not place.key:
                self._post_bucket(place.bucket, given, change)
            else:
                posted = self._post(place.bucket, info, given, change)
                file = self._files.at(place)
                if file is not None and file.is_at(info) and _has_bytes_of(posted, info):
                    file.moved(place, posted)
                self._pages.changed(place, posted)

    def _post(self, bucket: str, info: ObjectInfo, given: Given, change: Change) -> ObjectInfo:
        head = self._store.head(bucket, info.key)
        is_seen = info.same_version(head.info)
        told = self._attributes.given(bucket, info) if is_seen else given_by(head.metadata)
        # A POST is the object's new time for every listing: what its file had goes into metadata.
        told = Given(mtime_ns=info.mtime_ns if is_seen else head.info.mtime_ns).changed(told)
        default = Given(mtime_ns=told.mtime_ns).metadata()
        metadata = {**default, **change(head.metadata), **given.metadata()}
        posted = self._store.post(bucket, head, metadata)
        self._attributes.remember(bucket, posted, told.changed(given), metadata)
        self._listings.stored(bucket, posted)
        return posted

    def _post_bucket(self, bucket: str, given: Given, change: Change) -> None:
        before = self._tree.metadata(bucket, BUCKET)
        told = self._attributes.given(bucket, BUCKET).changed(given)
        after = {**change(before), **given.metadata()}
        changed = {name: text for name, text in after.items() if before.get(name) != text}
        removed = dict.fromkeys(before.keys() - after.keys(), "")
        self._store.post_container(bucket, {**changed, **removed})
        self._listings.bucket_changed(bucket, after)
        self._attributes.remember(bucket, BUCKET, told, after)

    def _may_change(self, path: str) -> None:
        if self._config.read_only:
            raise ReadOnly(path)
        self._tree.may_change(self._tree.place(path))


def _has_bytes_of(posted: ObjectInfo, info: ObjectInfo) -> bool:
    """Whether a changed object is the one that was looked at, and no newer one of another client.

    The hash of a large object in a listing is not its ETag.
    """
    is_same = posted.etag == info.etag or Kind.PLAIN not in (posted.kind, info.kind)
    return is_same and posted.size == info.size
