"""Small files that are read one after the other: the next ones are fetched before they are opened.

A program that goes through a directory opens its files in the order of the listing (``cp -r``,
``tar``, a shell's ``*``). After the second file in that order the next small ones are fetched, more
with each that is opened. Their bytes are of the version in the listing, and are given only to an
``open`` that found the same version; what nobody wants is dropped after some seconds.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice

from allasfs.deadline import Clock
from allasfs.store.api import ObjectInfo
from allasfs.transfer.listings import Listings
from allasfs.transfer.readahead import FETCHED_WHOLE
from allasfs.transfer.reader import Reader

# Programs read in several directories at once, but hardly in more than this.
DIRECTORIES = 16
# So many of the next names are looked up at once, and may be skipped without an end of the order.
LOOKED_UP = 64
SKIPPED = 32
# What is not opened within this is not kept: it may have been replaced meanwhile.
KEPT_S = 5.0

Key = tuple[str, str]


@dataclass
class _Walk:
    """Where a program is in a directory."""

    next: deque[ObjectInfo]
    # Names that were passed a moment ago: several threads overtake each other.
    passed: deque[str]
    # The last name in the directory that was looked up: after it the order goes on.
    last: str
    # How many files were opened in order.
    count: int = 1


@dataclass
class _Waiting:
    reader: Reader
    since: float


class Ahead:
    """The files that were fetched ahead; any thread may use it."""

    def __init__(
        self,
        listings: Listings,
        make: Callable[[str, ObjectInfo], Reader],
        most: int,
        *,
        clock: Clock = time.monotonic,
    ) -> None:
        """``make`` returns a reader of a version; at most so many are kept."""
        self._listings = listings
        self._make = make
        self._most = most
        self._clock = clock
        # Taken before the listings' and the readers' locks; no I/O while it is held.
        self._lock = threading.Lock()
        self._walks: OrderedDict[Key, _Walk] = OrderedDict()
        self._waiting: OrderedDict[Key, _Waiting] = OrderedDict()

    def reader(self, bucket: str, info: ObjectInfo) -> Reader:
        """Return the reader of a version that is read now, and fetch what may come after it."""
        with self._lock:
            found = self._waiting.pop((bucket, info.key), None)
            for following in self._opened(bucket, info):
                self._fetch(bucket, following)
            dropped = self._outdated(_place(bucket, info.key))
            reader = None
            if found is not None and found.reader.info.same_version(info) and self._is_young(found):
                reader = found.reader
            elif found is not None:
                dropped.append(found.reader)
        for each in dropped:
            each.close()
        return reader or self._make(bucket, info)

    def close(self) -> None:
        """Drop everything."""
        with self._lock:
            waiting, self._waiting = self._waiting, OrderedDict()
            self._walks.clear()
        for each in waiting.values():
            each.reader.close()

    def _opened(self, bucket: str, info: ObjectInfo) -> list[ObjectInfo]:
        """Note an open file (locked); return what is to be fetched now."""
        place, own = _place(bucket, info.key), info.key.rpartition("/")[2]
        walk = self._walks.get(place)
        if walk is not None and info.key in walk.passed:
            return []
        names = [each.key for each in islice(walk.next, SKIPPED)] if walk else []
        if walk is None or info.key not in names:
            walk = self._walks[place] = _Walk(deque(), deque(maxlen=4 * SKIPPED), own)
            self._walks.move_to_end(place)
            while len(self._walks) > DIRECTORIES:
                self._walks.popitem(last=False)
            walk.passed.append(info.key)
            self._look_up(place, walk)
            return []
        for _ in range(names.index(info.key) + 1):
            walk.passed.append(walk.next.popleft().key)
        walk.count += 1
        self._look_up(place, walk)
        # What was passed is not dropped for what comes later: somebody is about to open it.
        waiting = sum(_place(*key) == place for key in self._waiting)
        room = max(0, min(2 ** min(walk.count, 8), self._most, 2 * self._most - waiting))
        ahead = [each for each in islice(walk.next, room) if 0 < each.size <= FETCHED_WHOLE]
        return [each for each in ahead if (bucket, each.key) not in self._waiting]

    def _look_up(self, place: Key, walk: _Walk) -> None:
        """See that the next names are known, if the listing is: nothing is asked for it."""
        if len(walk.next) >= LOOKED_UP // 2 or not self._listings.is_cached(*place):
            return
        files = self._listings.files(*place)
        names = iter(files)
        for name in names:
            if name == walk.last:
                break
        found = list(islice(names, LOOKED_UP))
        if found:
            walk.next.extend(files[name] for name in found)
            walk.last = found[-1]

    def _outdated(self, here: Key) -> list[Reader]:
        """Take out what was not wanted in time, or is too much and not of here (locked)."""
        dropped = []
        for key, oldest in list(self._waiting.items()):
            is_too_much = len(self._waiting) > 2 * self._most and _place(*key) != here
            if is_too_much or not self._is_young(oldest):
                dropped.append(self._waiting.pop(key).reader)
        return dropped

    def _is_young(self, waiting: _Waiting) -> bool:
        return self._clock() - waiting.since <= KEPT_S

    def _fetch(self, bucket: str, info: ObjectInfo) -> None:
        reader = self._make(bucket, info)
        if reader.begin():
            self._waiting[bucket, info.key] = _Waiting(reader, self._clock())
        else:
            reader.close()


def _place(bucket: str, key: str) -> Key:
    """Return the bucket and the prefix of an object's directory."""
    folder, slash, _ = key.rpartition("/")
    return bucket, folder + slash
