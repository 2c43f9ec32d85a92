"""File attributes <-> object metadata, and the memory of what listings do not carry."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from cachetools import LRUCache

from allasfs.config import Config
from allasfs.store.api import ObjectInfo

# An object of this type whose content is the target: a listing alone shows that it is a link.
SYMLINK_TYPE = "inode/symlink"
# The longest target that Linux takes (PATH_MAX); a longer object is shown as the file it is.
LONGEST_TARGET = 4096
# Names of the metadata. rclone and the swift client keep a file's time as ``mtime``; the others
# are those of rclone's metadata, with its formats (octal mode, decimal ids).
MTIME, MODE, UID, GID = "mtime", "mode", "uid", "gid"
# Objects whose attributes are remembered; some 200 bytes each.
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
            seconds, fraction = divmod(self.mtime_ns, 1_000_000_000)
            texts[MTIME] = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".")
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
    seconds, _, fraction = text.partition(".")
    digits = fraction[:9].ljust(9, "0")
    whole = seconds.removeprefix("-")
    if not (text.isascii() and whole.isdecimal() and digits.isdecimal()) or len(whole) > 12:
        return None
    return int(seconds) * 1_000_000_000 + int(digits)


def is_symlink(info: ObjectInfo) -> bool:
    """Whether an object is shown as a symbolic link."""
    return info.content_type.partition(";")[0] == SYMLINK_TYPE and 0 < info.size <= LONGEST_TARGET


class Attributes:
    """Makes Attr records by the mount's rules, and remembers what was given to files.

    A listing tells when an object was stored, not the attributes that a program gave the file.
    Those of versions that this mount stored or asked for are remembered, so what stat said of a
    file does not change when its upload ends.
    """

    def __init__(self, config: Config, *, now_ns: int) -> None:
        self.dir_mode = 0o777 & ~config.umask
        self.file_mode = 0o666 & ~config.umask
        self._uid, self._gid = config.uid, config.gid
        self._now_ns = now_ns
        # Leaf lock.
        self._lock = threading.Lock()
        # (version, what was given to it) by (bucket, key); guarded.
        self._known: LRUCache[tuple[str, str], tuple[ObjectInfo, Given]] = LRUCache(REMEMBERED)

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

    def local_file(self, size: int, given: Given, mtime_ns: int) -> Attr:
        """Return the attributes of a file that is being written."""
        return self._attr(stat.S_IFREG, self.file_mode, size, given, mtime_ns)

    def _attr(
        self, kind: int, mode: int, size: int, given: Given, mtime_ns: int, nlink: int = 1
    ) -> Attr:
        return Attr(
            kind | (mode if given.mode is None else given.mode),
            size,
            mtime_ns if given.mtime_ns is None else given.mtime_ns,
            self._uid if given.uid is None else given.uid,
            self._gid if given.gid is None else given.gid,
            nlink,
        )

    def given(self, bucket: str, info: ObjectInfo) -> Given:
        """Return what is remembered of a version."""
        with self._lock:
            known = self._known.get((bucket, info.key))
        return known[1] if known and known[0].same_version(info) else Given()

    def remember(self, bucket: str, info: ObjectInfo, given: Given) -> None:
        """Keep what was given to a version."""
        with self._lock:
            self._known[bucket, info.key] = (info, given)
