"""Paths of the mount <-> buckets and object names. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from allasfs.errors import BadName, NameTooLong, NotUtf8
from allasfs.store.api import Capabilities
from allasfs.transfer.directories import LONGEST_COMPONENT


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path lies: the root (no bucket), a bucket (no key), or a name in a bucket."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.bucket}/{self.key}"

    @property
    def prefix(self) -> str:
        """The key as a directory's prefix: empty for a bucket, else ending in ``/``."""
        return f"{self.key}/" if self.key else ""

    @property
    def name(self) -> str:
        """The last component."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> Place:
        """The directory that holds this key."""
        return Place(self.bucket, self.key.rpartition("/")[0])

    def holds(self, other: Place) -> bool:
        """Whether the other place lies below this directory."""
        return other.bucket == self.bucket and other.key.startswith(self.prefix) and other != self

    def child(self, name: str) -> Place:
        """The entry of this name in this directory."""
        return Place(self.bucket, self.prefix + name)


@dataclass(frozen=True)
class Layout:
    """What the mount shows: the whole account (no bucket), a bucket, or a prefix in one."""

    bucket: str = ""
    prefix: str = ""

    def place(self, path: str) -> Place:
        """Return where an absolute path of the mount lies; raise NotUtf8, NameTooLong."""
        if path.isascii():
            too_long = len(path) > LONGEST_COMPONENT and any(
                len(part) > LONGEST_COMPONENT for part in path.split("/")
            )
        else:
            try:
                parts = path.encode().split(b"/")
            except UnicodeEncodeError as exc:
                raise NotUtf8(repr(path), "Swift keeps names in UTF-8 only") from exc
            too_long = any(len(part) > LONGEST_COMPONENT for part in parts)
        if too_long:
            raise NameTooLong(path)
        rest = path.strip("/")
        if self.bucket:
            return Place(self.bucket, (self.prefix + rest).removesuffix("/"))
        bucket, _, key = rest.partition("/")
        return Place(bucket, key)

    def is_root(self, place: Place) -> bool:
        """Whether the place is the mount point itself."""
        return (place.bucket, place.prefix) == (self.bucket, self.prefix)


def check_key(key: str, limits: Capabilities) -> None:
    """Raise NameTooLong for an object name that the store would refuse."""
    if len(key.encode()) > limits.max_key_bytes:
        raise NameTooLong(key, f"object names may have {limits.max_key_bytes} bytes")


def check_bucket(name: str, limits: Capabilities) -> None:
    """Raise BadName or NameTooLong for a bucket name that the store would refuse."""
    length = len(name.encode())
    if length > limits.max_container_bytes:
        raise NameTooLong(name, f"bucket names may have {limits.max_container_bytes} bytes")
    if length < limits.min_container_bytes:
        raise BadName(name, f"bucket names have at least {limits.min_container_bytes} bytes")
    if limits.min_container_bytes > 1 and name.startswith("."):
        raise BadName(name, "bucket names do not begin with a dot")
