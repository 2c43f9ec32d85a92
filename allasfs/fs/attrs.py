"""File attributes <-> object metadata, and the memory of what listings do not carry."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from cachetools import LRUCache

from allasfs.config import Config
from allasfs.fs.database import Database, Row
from allasfs.store.api import ObjectInfo
from allasfs.store.compact import Packed, pack, unpack

# An object of this type whose content is the target: a listing alone shows that it is a link.
SYMLINK_TYPE = "inode/symlink"
# The longest target that Linux takes (PATH_MAX without the zero at the end); a longer object is
# shown as the file it is.
LONGEST_TARGET = 4095
# Names of the metadata. rclone and the swift client keep a file's time as ``mtime``; the others
# are those of rclone's metadata, with its formats (octal mode, decimal ids).
MTIME, MODE, UID, GID = "mtime", "mode", "uid", "gid"
# Objects whose attributes are remembered in memory; some 400 bytes each.
REMEMBERED = 200_000
# The block that st_blocks counts (POSIX, stat(2)).
STAT_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Attr:
    """What stat tells. Times are ns."""

    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    nlink: int = 1
    # Whether it is being written here.
    is_written: bool = False

    @property
    def is_dir(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True, slots=True)
class Given:
    """What a program gave a file; None: nothing, the mount's default holds. Mode without type."""

    mtime_ns: int | None = None
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None

    def changed(self, other: Given) -> Given:
        """Return these attributes with what ``other`` gives in their place."""
        named = {f.name: getattr(other, f.name) for f in fields(other)}
        return replace(self, **{name: value for name, value in named.items() if value is not None})

    def metadata(self) -> dict[str, str]:
        """Return them as object metadata."""
        texts = {}
        if self.mtime_ns is not None:
            # Sign and digits, as rclone and the swift client write: -1.5 is 1.5 s before 1970.
            seconds, fraction = divmod(abs(self.mtime_ns), 1_000_000_000)
            sign = "-" if self.mtime_ns < 0 else ""
            texts[MTIME] = f"{sign}{seconds}.{fraction:09d}".rstrip("0").rstrip(".")
        if self.mode is not None:
            texts[MODE] = f"{self.mode:o}"
        if self.uid is not None:
            texts[UID] = str(self.uid)
        if self.gid is not None:
            texts[GID] = str(self.gid)
        return texts


def given_by(metadata: Mapping[str, str]) -> Given:
    """Return what object metadata gives; what cannot be read gives nothing."""
    mode = _number(metadata.get(MODE, ""), 8)
    return Given(
        mtime_ns=_time_ns(metadata.get(MTIME, "")),
        mode=None if mode is None else stat.S_IMODE(mode),
        uid=_number(metadata.get(UID, ""), 10),
        gid=_number(metadata.get(GID, ""), 10),
    )


def _number(text: str, base: int) -> int | None:
    if not (text.isascii() and text.isdecimal()) or len(text) > 10:
        return None
    try:
        number = int(text, base)
    except ValueError:
        return None
    return number if number < 2**32 else None


def _time_ns(text: str) -> int | None:
    seconds, _, fraction = text.removeprefix("-").partition(".")
    digits = fraction[:9].ljust(9, "0")
    if not (text.isascii() and seconds.isdecimal() and digits.isdecimal()) or len(seconds) > 12:
        return None
    time_ns = int(seconds) * 1_000_000_000 + int(digits)
    return -time_ns if text.startswith("-") else time_ns


def is_symlink(info: ObjectInfo) -> bool:
    """Whether an object is shown as a symbolic link."""
    return info.content_type.partition(";")[0] == SYMLINK_TYPE and 0 < info.size <= LONGEST_TARGET


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a version: what stat shows, and all metadata (None: nobody asked)."""

    told: Given = Given()
    metadata: Mapping[str, str] | None = None


# Of a version that was only looked at.
NOTHING = Known()


class Attributes:
    """Makes Attr records by the mount's rules, and remembers what was given to files.

    A listing tells when an object was stored, not the attributes that a program gave the file.
    Those of versions that this computer stored or asked for are remembered, so what stat said of a
    file does not change when its upload ends, nor at the next mount. What stat told once of a
    version, it tells until the unmount, also if more is learnt meanwhile.
    """

    def __init__(self, config: Config, database: Database | None = None, *, now_ns: int) -> None:
        self.dir_mode = 0o777 & ~config.umask
        self.file_mode = 0o666 & ~config.umask
        self._uid, self._gid = config.uid, config.gid
        self._now_ns = now_ns
        self._database = database
        # Leaf lock.
        self._lock = threading.Lock()
        # Version and what is known of it by (bucket, key); guarded. Of most no more is known than
        # the version, which stands alone then.
        self._known: LRUCache[tuple[str, str], Packed | tuple[Packed, Known]]
        self._known = LRUCache(REMEMBERED)

    # -- what stat shows --------------------------------------------------------------------------

    def directory(self, given: Given = Given(), *, mtime_ns: int = 0) -> Attr:
        """Return the attributes of a directory; without a time it has that of the mount."""
        default_ns = mtime_ns or self._now_ns
        return self._attr(stat.S_IFDIR, self.dir_mode, 0, given, default_ns, nlink=2)

    def file(self, bucket: str, info: ObjectInfo) -> Attr:
        """Return the attributes of a stored file or symbolic link."""
        given = self.given(bucket, info)
        if is_symlink(info):
            return self._attr(stat.S_IFLNK, 0o777, info.size, given, info.mtime_ns)
        return self.local_file(info.size, given, info.mtime_ns)

    def local_file(
        self, size: int, given: Given, mtime_ns: int, *, is_written: bool = False
    ) -> Attr:
        """Return the attributes of a file that is open, or of a version."""
        mode, kind = self.file_mode, stat.S_IFREG
        return self._attr(kind, mode, size, given, mtime_ns, is_written=is_written)

    def _attr(
        self,
        kind: int,
        mode: int,
        size: int,
        given: Given,
        mtime_ns: int,
        *,
        nlink: int = 1,
        is_written: bool = False,
    ) -> Attr:
        return Attr(
            kind | (mode if given.mode is None else given.mode),
            size,
            mtime_ns if given.mtime_ns is None else given.mtime_ns,
            self._uid if given.uid is None else given.uid,
            self._gid if given.gid is None else given.gid,
            nlink,
            is_written,
        )

    # -- the memory -------------------------------------------------------------------------------

    def given(self, bucket: str, info: ObjectInfo) -> Given:
        """Return what is told of a version, from now on; asks nobody."""
        known = self._find(bucket, info) or self._enter(bucket, info, NOTHING) or NOTHING
        return known.told

    def known(self, bucket: str, info: ObjectInfo) -> Given | None:
        """Return what was told of a version; None: it is not known, and need not be this name's."""
        known = self._find(bucket, info)
        return known.told if known is not None else None

    def latest(self, bucket: str, key: str) -> Given:
        """Return what is remembered of the last known version of a name; asks nobody."""
        version, known = self._remembered(bucket, key)
        if version is not None:
            return Given(mtime_ns=version.mtime_ns).changed(known.told)
        row = self._database.find(bucket, key) if self._database is not None else None
        if row is None:
            return Given()
        return Given(mtime_ns=row.info.mtime_ns).changed(given_by(row.metadata))

    def metadata(self, bucket: str, info: ObjectInfo) -> Mapping[str, str] | None:
        """Return all metadata of a version, None when nobody asked for it yet."""
        known = self._find(bucket, info)
        return known.metadata if known is not None else None

    def remember(
        self,
        bucket: str,
        info: ObjectInfo,
        told: Given,
        metadata: Mapping[str, str] | None,
    ) -> None:
        """Keep what an own version has: what stat shows, and all its metadata if known."""
        with self._lock:
            self._keep(bucket, info, Known(told, metadata))
        self._note(bucket, info, told, metadata)

    def learn(self, bucket: str, info: ObjectInfo, metadata: Mapping[str, str]) -> None:
        """Keep what the store said of a version; what was told of it before stays told."""
        known = self._find(bucket, info)
        if known is not None and known.metadata == metadata:
            return
        entered = self._enter(bucket, info, Known(given_by(metadata), metadata))
        if entered is not None:
            self._note(bucket, info, entered.told, metadata)

    def moved(self, old: tuple[str, ObjectInfo], new: tuple[str, ObjectInfo]) -> None:
        """A version has another name, and all else of it is as it was, its time too."""
        known = self._find(*old) or NOTHING
        told = Given(mtime_ns=old[1].mtime_ns).changed(known.told)
        self.remember(*new, told, known.metadata)

    def _find(self, bucket: str, info: ObjectInfo) -> Known | None:
        version, known = self._remembered(bucket, info.key)
        if version is not None and version.same_version(info):
            return known
        row = self._database.find(bucket, info.key) if self._database is not None else None
        if row is None or not row.info.same_version(info):
            return None
        known = Known(given_by(row.metadata), row.metadata if row.is_whole else None)
        return self._enter(bucket, info, known) or known

    def _enter(self, bucket: str, info: ObjectInfo, known: Known) -> Known | None:
        """Add to what is known of a version and return it, unless a newer version is known.

        Another thread may have looked at it meanwhile, or learnt its metadata: what was told first
        stays told, and no metadata is forgotten.
        """
        with self._lock:
            version, before = self._unpacked(self._known.get((bucket, info.key)), info.key)
            if version is not None and version.same_version(info):
                metadata = before.metadata if known.metadata is None else known.metadata
                known = Known(before.told, metadata)
            elif version is not None and version.mtime_ns > info.mtime_ns:
                return None
            self._keep(bucket, info, known)
            return known

    def _keep(self, bucket: str, info: ObjectInfo, known: Known) -> None:
        """Remember a version (locked)."""
        packed = pack(info)
        self._known[bucket, info.key] = packed if known == NOTHING else (packed, known)

    def _remembered(self, bucket: str, key: str) -> tuple[ObjectInfo | None, Known]:
        with self._lock:
            return self._unpacked(self._known.get((bucket, key)), key)

    @staticmethod
    def _unpacked(
        entry: Packed | tuple[Packed, Known] | None, key: str
    ) -> tuple[ObjectInfo | None, Known]:
        if entry is None:
            return None, NOTHING
        packed, known = entry if isinstance(entry, tuple) else (entry, NOTHING)
        return unpack(packed, key), known

    def _note(
        self, bucket: str, info: ObjectInfo, told: Given, metadata: Mapping[str, str] | None
    ) -> None:
        if self._database is not None:
            kept = told.metadata() if metadata is None else metadata
            self._database.note(Row(bucket, info, kept, metadata is not None))
