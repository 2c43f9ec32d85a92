"""Which version's pages the kernel has of a file, so that it may keep them at the next open."""

from __future__ import annotations

import threading

from cachetools import LRUCache

from allasfs.fs.names import Place
from allasfs.store.api import ObjectInfo

REMEMBERED = 100_000


class Pages:
    """The versions in the kernel's page cache, by place."""

    def __init__(self) -> None:
        # Leaf lock.
        self._lock = threading.Lock()
        self._known: LRUCache[Place, ObjectInfo] = LRUCache(REMEMBERED)

    def opened(self, place: Place, info: ObjectInfo) -> bool:
        """Whether the kernel's pages are of the version that is opened; from now on they are."""
        with self._lock:
            known = self._known.get(place)
            self._known[place] = info
        return known is not None and known.same_version(info)

    def stored(self, place: Place, info: ObjectInfo) -> None:
        """What was written through the kernel is this version now."""
        with self._lock:
            self._known[place] = info

    def changed(self, place: Place, info: ObjectInfo) -> None:
        """The bytes are the same, only the version is another."""
        with self._lock:
            if place in self._known:
                self._known[place] = info

    def forget(self, place: Place) -> None:
        """The kernel's pages are no stored version's: the next open drops them."""
        with self._lock:
            self._known.pop(place, None)

    def forget_below(self, directory: Place) -> None:
        """The same for all files in a directory."""
        with self._lock:
            for place in [place for place in self._known if directory.holds(place)]:
                del self._known[place]
