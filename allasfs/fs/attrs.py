"""File attributes <-> object metadata, and the memory of what listings do not carry."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from cachetools import LRUCache

from allasfs.config import Config
from allasfs.store.api import ObjectInfo

# rclone and the swift client keep a file's time here, as seconds with a fraction.
MTIME = "mtime"
# Objects whose times are remembered; 100 bytes each.
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


class Attributes:
    """Makes Attr records by the mount's rules, and remembers modification times.

    A listing tells when an object was stored, not the time that a program gave the file. Times of
    versions that this mount stored are remembered, so what stat said of a file does not change
    when its upload ends.
    """

    def __init__(self, config: Config, *, now_ns: int) -> None:
        self._dir_mode = stat.S_IFDIR | (0o777 & ~config.umask)
        self._file_mode = stat.S_IFREG | (0o666 & ~config.umask)
        self._uid, self._gid = config.uid, config.gid
        self._now_ns = now_ns
        # Leaf lock.
        self._lock = threading.Lock()
        # (version, its time) by (bucket, key); guarded.
        self._times: LRUCache[tuple[str, str], tuple[ObjectInfo, int]] = LRUCache(REMEMBERED)

    def directory(self, mtime_ns: int = 0) -> Attr:
        """Return the attributes of a directory; a time of 0 becomes that of the mount."""
        return Attr(self._dir_mode, 0, mtime_ns or self._now_ns, self._uid, self._gid, nlink=2)

    def file(self, bucket: str, info: ObjectInfo) -> Attr:
        """Return the attributes of a stored file."""
        return self.local_file(info.size, self.mtime_ns(bucket, info))

    def local_file(self, size: int, mtime_ns: int) -> Attr:
        """Return the attributes of a file that is being written."""
        return Attr(self._file_mode, size, mtime_ns, self._uid, self._gid)

    def mtime_ns(self, bucket: str, info: ObjectInfo) -> int:
        """Return a version's modification time: remembered, or when it was stored."""
        with self._lock:
            known = self._times.get((bucket, info.key))
        return known[1] if known and known[0].same_version(info) else info.mtime_ns

    def given_ns(self, bucket: str, key: str) -> int:
        """Return the last time that this mount gave to a name, 0 when it gave none."""
        with self._lock:
            known = self._times.get((bucket, key))
        return known[1] if known else 0

    def remember(self, bucket: str, info: ObjectInfo, mtime_ns: int) -> None:
        """Keep the time of a version."""
        with self._lock:
            self._times[bucket, info.key] = (info, mtime_ns)


def with_mtime(metadata: Mapping[str, str], mtime_ns: int) -> dict[str, str]:
    """Return the metadata with a file's time in it, as rclone writes it (exact to the ns)."""
    seconds, fraction = divmod(mtime_ns, 1_000_000_000)
    text = f"{seconds}.{fraction:09d}".rstrip("0").rstrip(".")
    return {**metadata, MTIME: text}


def mtime_of(metadata: Mapping[str, str]) -> int | None:
    """Return the file's time from metadata (ns), None when there is none that can be read."""
    seconds, _, fraction = metadata.get(MTIME, "").partition(".")
    digits = fraction[:9].ljust(9, "0")
    if not seconds.removeprefix("-").isdecimal() or not digits.isdecimal():
        return None
    return int(seconds) * 1_000_000_000 + int(digits)
