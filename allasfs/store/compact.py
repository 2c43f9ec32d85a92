"""Versions of objects in a third of the memory, for those who remember hundreds of thousands.

An ``ObjectInfo`` takes some 400 bytes, most of them for values that repeat (name, content type) or
that have a short form (MD5, times). ``pack`` makes 80 bytes of it. What has no short form (a
content type beyond MOST_TYPES others, an ETag that is no MD5) stays the record that it is.
"""

from __future__ import annotations

import re
import struct
import threading
from collections.abc import Iterator, MutableMapping

from allasfs.store.api import Kind, ObjectInfo

Packed = bytes | ObjectInfo

# Size, time, ETag, kind, number of the content type.
_FORM = struct.Struct("<qq16sBH")
_MD5 = re.compile(r"[0-9a-f]{32}")
_FITS = range(-(2**63), 2**63)
_KINDS = tuple(Kind)
_KIND_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}
# Real accounts have some dozens of types, of a few dozen characters. What a hostile server invents
# must not grow for ever.
MOST_TYPES = 10_000
LONGEST_TYPE = 200


class _Types:
    """Content types by numbers that they keep. Any thread may ask."""

    def __init__(self) -> None:
        # Leaf lock; lists and dicts are read without it.
        self._lock = threading.Lock()
        self._numbers: dict[str, int] = {}
        self.names: list[str] = []

    def number(self, name: str) -> int | None:
        """Return the number of a type, None when there are too many."""
        known = self._numbers.get(name)
        if known is not None or len(name) > LONGEST_TYPE:
            return known
        with self._lock:
            if name not in self._numbers and len(self.names) < MOST_TYPES:
                self.names.append(name)
                self._numbers[name] = len(self.names) - 1
            return self._numbers.get(name)


_types = _Types()


def pack(info: ObjectInfo) -> Packed:
    """Return a version without its name in its short form, or as it is where it has none."""
    number = _types.number(info.content_type)
    if number is None or info.size not in _FITS or info.mtime_ns not in _FITS:
        return info
    if not _MD5.fullmatch(info.etag):
        return info
    etag = bytes.fromhex(info.etag)
    return _FORM.pack(info.size, info.mtime_ns, etag, _KIND_NUMBERS[info.kind], number)


def unpack(packed: Packed, key: str) -> ObjectInfo:
    """Return the version of this name."""
    if isinstance(packed, ObjectInfo):
        return packed
    size, mtime_ns, etag, kind, number = _FORM.unpack(packed)
    return ObjectInfo(key, size, etag.hex(), mtime_ns, _types.names[number], _KINDS[kind])


class Versions(MutableMapping[str, ObjectInfo]):
    """The objects of one directory by name; those whose key is ``prefix + name`` are packed."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._packed: dict[str, Packed] = {}

    def __getitem__(self, name: str) -> ObjectInfo:
        """Return a version, as it was entered."""
        return unpack(self._packed[name], self._prefix + name)

    def __setitem__(self, name: str, info: ObjectInfo) -> None:
        """Enter a version."""
        self._packed[name] = pack(info) if info.key == self._prefix + name else info

    def __delitem__(self, name: str) -> None:
        """Take a version out."""
        del self._packed[name]

    def __contains__(self, name: object) -> bool:
        """Whether there is one of this name."""
        return name in self._packed

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        return iter(self._packed)

    def __len__(self) -> int:
        return len(self._packed)

    def snapshot(self) -> Versions:
        """Return a copy that later changes do not reach."""
        copy = Versions(self._prefix)
        copy._packed = self._packed.copy()
        return copy
