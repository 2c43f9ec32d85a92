"""Leftovers: what a replaced version leaves in the store, removed when the new one stands.

Where the server does not tell the segments of a static large object (RGW), only deleting its
manifest with all that it names removes them. Such a manifest is copied aside before it is replaced,
to a name in the bucket of segments; the copy is deleted afterwards, with the segments, or alone
when nothing was replaced. A note on the disk tells of it meanwhile, and of all that could not be
removed: the next mount removes it.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from allasfs.errors import FsError, NotFound
from allasfs.store import large, marks
from allasfs.store.api import Kind, ObjectHead, ObjectInfo, Segment, Store
from allasfs.transfer import notes
from allasfs.transfer.notes import ASIDE, PUBLISHED, REMOVING, REPLACED, REPLACING, SUFFIX, Note
from allasfs.transfer.spool import Spool

log = logging.getLogger(__name__)

# Of the notes that this module ends.
STATES = (PUBLISHED, ASIDE, REPLACED, REPLACING, REMOVING)
# Where manifests lie aside. No file's segments are there, and no prefix of a dynamic manifest is.
ASIDE_PREFIX = ".allasfs-replaced/"


@dataclass(frozen=True)
class Noted:
    """A note of what will be left: segments that are known, or the copy of a manifest."""

    note: Note
    path: Path


@dataclass(frozen=True)
class Old:
    """What a version leaves when it is replaced."""

    bucket: str
    key: str
    segments: tuple[Segment, ...] = field(default=())
    aside: Noted | None = None
    # What tells of the segments until they are removed.
    noted: Noted | None = None


class _Removal(large.Removal):
    """Notes how the removal of a version goes."""

    def __init__(self, note_gone: Callable[[], object]) -> None:
        self._note_gone = note_gone
        self.is_left = False

    def is_gone(self) -> None:
        self._note_gone()

    def leave(self) -> None:
        self.is_left = True


class Leftovers:
    """Removes what replaced versions leave; any thread may call any method."""

    def __init__(self, store: Store, spool: Spool) -> None:
        """Notes are in the spool's folder, and say which account it is of."""
        self._store = store
        self._spool = spool

    def before(self, bucket: str, found: large.Found, etag: str = "") -> Old | None:
        """Prepare to replace a version; call ``keep`` or ``remove`` afterwards.

        ``etag`` is what the new version will have: by it the next mount knows that a mount which
        was killed had replaced the version. Empty: another note tells of the segments.
        """
        if found.head is None:
            return None
        info = found.head.info
        if found.sharer:
            large.tell_of_shared(bucket, info, found.sharer)
            return None
        aside = self._put_aside(bucket, found.head) if found.is_untold else None
        noted = None
        if found.segments and etag:
            note = Note(
                REPLACING, bucket, info.key, etag=etag, base=info, old=tuple(found.segments)
            )
            noted = Noted(note, self._path())
            self._save(noted, REPLACING)
        return Old(bucket, info.key, found.segments, aside, noted)

    def keep(self, old: Old | None) -> None:
        """The version was not replaced, as far as is known: its segments stay."""
        if old is None:
            return
        if old.noted is not None:
            notes.remove(old.noted.path)
        if old.aside is None:
            return
        try:
            _delete(self._store, old.aside.note)
        except FsError as exc:
            # The note stays, for the next mount.
            log.info("%s: a copy of its manifest is left: %s", old.aside.note.subject, exc)
        else:
            notes.remove(old.aside.path)

    def remove(self, old: Old | None, segments: list[Segment]) -> None:
        """The version is replaced: remove ``segments`` of it, or what its manifest aside names."""
        if old is None:
            return
        if segments and not large.remove_segments(self._store, segments):
            self.remember(old, segments)
        elif old.noted is not None:
            notes.remove(old.noted.path)
        if old.aside is not None:
            note = self._save(old.aside, REPLACED)
            try:
                remove_replaced(self._store, note)
            except FsError as exc:
                log.warning("segments of %s are left over: %s", note.subject, exc)
            else:
                notes.remove(old.aside.path)

    def remember(self, old: Old, segments: list[Segment]) -> None:
        """Let the next mount remove these, and what the manifest aside names."""
        if segments:
            note = Note(PUBLISHED, old.bucket, old.key, old=tuple(segments))
            self._save(
                Noted(note, self._path() if old.noted is None else old.noted.path), PUBLISHED
            )
        if old.aside is not None:
            self._save(old.aside, REPLACED)

    def removing(self, bucket: str) -> large.Announce:
        """Return what tells the next mount of an object that is being removed from a bucket."""

        @contextmanager
        def announce(info: ObjectInfo, segments: list[Segment]) -> Iterator[large.Removal]:
            note = Note(REMOVING, bucket, info.key, base=info, old=tuple(segments))
            noted = Noted(note, self._path())
            self._save(noted, REMOVING)
            removal = _Removal(lambda: self._save(noted, PUBLISHED))
            try:
                yield removal
            finally:
                # A kill leaves it, too. After an error the file may be renamed, with its segments.
                if not removal.is_left:
                    notes.remove(noted.path)

        return announce

    def _put_aside(self, bucket: str, now: ObjectHead) -> Noted | None:
        info = now.info
        unique = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(8)}"
        container, key = bucket + large.SEGMENTS_SUFFIX, ASIDE_PREFIX + unique
        note = Note(ASIDE, bucket, info.key, container, key, base=info)
        aside = Noted(note, self._path())
        self._save(aside, ASIDE)
        old = Old(bucket, info.key, aside=aside)
        try:
            try:
                self._store.copy(bucket, info, (container, key), manifest=True)
            except NotFound:
                # Its segments are in another bucket.
                if not self._is_own(bucket):
                    raise
                self._store.create_container(container)
                self._store.copy(bucket, info, (container, key), manifest=True)
            head = self._store.head(container, key)
        except FsError as exc:
            log.warning("the segments of %s/%s will be left over: %s", bucket, info.key, exc)
            self.keep(old)
            return None
        if head.info.kind is not Kind.SLO or marks.of(head.metadata) != marks.of(now.metadata):
            log.warning(
                "the segments of %s/%s will be left over: another client changed it meanwhile",
                bucket,
                info.key,
            )
            self.keep(old)
            return None
        return aside

    def _is_own(self, bucket: str) -> bool:
        """Whether a bucket is this project's: beside another's none is made."""
        return any(info.name == bucket for info in self._store.containers())

    def _path(self) -> Path:
        return self._spool.folder / f"{secrets.token_hex(8)}{SUFFIX}"

    def _save(self, noted: Noted, state: str) -> Note:
        note = replace(noted.note, state=state, account=self._spool.account)
        with suppress(OSError):
            note.save(noted.path, durable=False)
        return note


def end(store: Store, note: Note) -> None:
    """Do what a note of this module says, in the mount after; raises as the store does."""
    if note.state == ASIDE:
        _delete(store, note)
    elif note.state == REPLACED:
        remove_replaced(store, note)
    elif note.state == REPLACING:
        _end_replacing(store, note)
    elif note.state == REMOVING:
        _end_removing(store, note)
    else:
        large.delete_segments(store, _unused(store, note))


def remove_replaced(store: Store, note: Note) -> None:
    """Delete the manifest that lies aside, with its segments unless the object still has them."""
    if _is_back(store, note):
        log.warning("the segments of %s stay: its manifest is as it was", note.subject)
        _delete(store, note)
        return
    try:
        store.delete_slo(note.container, note.prefix)
    except NotFound:
        log.info("the segments of %s were removed before", note.subject)


def _end_replacing(store: Store, note: Note) -> None:
    """A mount was killed while it replaced a version: remove its segments if that was done."""
    try:
        now = store.head(note.bucket, note.key).info
    except NotFound:
        now = None
    if now is not None and now.etag == note.etag:
        large.delete_segments(store, _unused(store, note))
    elif now is None or note.base is None or not now.same_bytes(note.base):
        # Perhaps another client renamed it, and its manifest is still over them.
        log.warning("%s was changed by another client: segments may be left over", note.subject)


def _end_removing(store: Store, note: Note) -> None:
    """A mount was killed before it knew that a version is gone: its segments may be in use.

    Another client may have renamed it since, and its manifest still be over them.
    """
    try:
        now = store.head(note.bucket, note.key).info
    except NotFound:
        now = None
    if now is None or note.base is None or not now.same_bytes(note.base):
        places = {f"{each.container}/{each.key.rpartition('/')[0]}/" for each in note.old}
        log.warning(
            "%s is gone, removed by the mount that was killed or renamed by another client:"
            " segments may be left over in %s",
            note.subject,
            ", ".join(sorted(places)),
        )


def _is_back(store: Store, note: Note) -> bool:
    """Whether the object is a manifest of the version that was replaced, for all that is known."""
    try:
        now = store.head(note.bucket, note.key).info
    except NotFound:
        return False
    return now.kind is Kind.SLO and note.base is not None and now.same_bytes(note.base)


def _delete(store: Store, note: Note) -> None:
    with suppress(NotFound):
        store.delete(note.container, note.prefix)


def _unused(store: Store, note: Note) -> list[Segment]:
    """Return the old segments that the object does not use now; raises NotSupported."""
    try:
        info = store.head(note.bucket, note.key).info
    except NotFound:
        return list(note.old)
    used = set(large.segments_of(store, note.bucket, info))
    return [segment for segment in note.old if segment not in used]
