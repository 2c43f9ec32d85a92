"""The table of open files: by place, and the handles by number."""

from __future__ import annotations

import itertools
import os
import threading
from dataclasses import dataclass, field

from allasfs.errors import BadHandle
from allasfs.fs.names import Place
from allasfs.fs.openfile import OpenFile
from allasfs.transfer.readahead import Window


@dataclass
class Handle:
    """One open(): a file, how it may be used, and where its reader is."""

    file: OpenFile
    flags: int
    window: Window = field(default_factory=Window)
    # The kernel may keep the pages that it has of this file: they are of this version.
    keep_cache: bool = False

    @property
    def may_read(self) -> bool:
        """Whether it was opened for reading."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY

    @property
    def may_write(self) -> bool:
        """Whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def may_change(self) -> bool:
        """Whether it may have changed the file: O_TRUNC empties it, also where it is only read."""
        return self.may_write or bool(self.flags & os.O_TRUNC)


class Files:
    """The open files by place, and the handles by number."""

    def __init__(self) -> None:
        # Leaf lock.
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        self._numbers = itertools.count(1)
        self._by_place: dict[Place, OpenFile] = {}

    def at(self, place: Place) -> OpenFile | None:
        """Return the open file of a place."""
        with self._lock:
            return self._by_place.get(place)

    def changed_at(self, place: Place) -> OpenFile | None:
        """Return the open file that is shown at a place, whatever is stored there.

        One without changes is at a version that others may have removed or replaced since.
        """
        file = self.at(place)
        return file if file is not None and file.is_dirty else None

    def new_in(self, directory: Place) -> list[str]:
        """Return the names in a directory that only this mount has: not stored yet."""
        with self._lock:
            files = list(self._by_place.items())
        return [place.name for place, file in files if file.is_new and place.parent == directory]

    def handle(self, fh: int) -> Handle:
        """Return an open handle; raise BadHandle."""
        with self._lock:
            try:
                return self._handles[fh]
            except KeyError:
                raise BadHandle(f"handle {fh}") from None

    def join(self, place: Place, flags: int) -> tuple[int, Handle] | None:
        """Open one more handle on the file that is open at a place and changed, if there is one.

        In one step: its last handle may be closed at the same time, and the file with it.
        """
        with self._lock:
            file = self._by_place.get(place)
            return self._opened(file, flags) if file is not None and file.is_dirty else None

    def add(self, file: OpenFile, flags: int) -> tuple[int, Handle]:
        """Open a handle: on the file that is open there already, unless ``file`` is newer."""
        with self._lock:
            older = self._by_place.get(file.place)
            if older is not None and older.stands_for(file):
                file = older
            self._by_place[file.place] = file
            fh, handle = self._opened(file, flags)
        if older is not None and older is not file:
            older.replaced()
        return fh, handle

    def another(self, file: OpenFile, flags: int) -> tuple[int, Handle]:
        """Open one more handle on a file that has no name any more."""
        with self._lock:
            return self._opened(file, flags)

    def _opened(self, file: OpenFile, flags: int) -> tuple[int, Handle]:
        """Open a handle (locked)."""
        file.handles += 1
        fh, handle = next(self._numbers), Handle(file, flags)
        self._handles[fh] = handle
        return fh, handle

    def is_last(self, fh: int) -> bool:
        """Whether a handle is the only one of its file; raise BadHandle."""
        with self._lock:
            if fh not in self._handles:
                raise BadHandle(f"handle {fh}")
            return self._handles[fh].file.handles == 1

    def remove(self, fh: int) -> OpenFile | None:
        """Close a handle; return its file when it was the last one."""
        with self._lock:
            if fh not in self._handles:
                raise BadHandle(f"handle {fh}")
            file = self._handles.pop(fh).file
            file.handles -= 1
            if file.handles or file.is_pending:
                return None
            if self._by_place.get(file.place) is file:
                del self._by_place[file.place]
            return file

    def keep(self, file: OpenFile) -> None:
        """Remember a file without a handle, which is to be stored."""
        with self._lock:
            self._by_place[file.place] = file

    def end(self, file: OpenFile) -> bool:
        """Forget a file that needs no upload any more; return False while it has handles."""
        with self._lock:
            if file.handles or file.is_pending:
                return False
            place: Place | None = file.place
            if self._by_place.get(file.place) is not file:
                # It may be in the middle of a rename.
                found = self._by_place.items()
                place = next((each for each, here in found if here is file), None)
            if place is None:
                return False
            del self._by_place[place]
            return True

    def move(self, old: Place, new: Place) -> OpenFile | None:
        """Note that a file has another place; what was open there has none any more."""
        with self._lock:
            file = self._by_place.pop(old, None)
            self._by_place.pop(new, None)
            if file is not None:
                self._by_place[new] = file
            return file

    def below(self, directory: Place) -> list[OpenFile]:
        """Return the files that are open anywhere in a directory."""
        with self._lock:
            return [file for place, file in self._by_place.items() if directory.holds(place)]

    def forget(self, place: Place) -> OpenFile | None:
        """Note that the name of a file is gone; its handles stay."""
        with self._lock:
            return self._by_place.pop(place, None)

    def all(self) -> list[OpenFile]:
        """Return every file with an open handle."""
        with self._lock:
            return self._open()

    def waiting(self) -> list[OpenFile]:
        """Return the files without a handle that are to be stored."""
        with self._lock:
            return [file for file in self._by_place.values() if file.is_pending]

    def _open(self) -> list[OpenFile]:
        return list(dict.fromkeys(handle.file for handle in self._handles.values()))

    def drain(self) -> list[OpenFile]:
        """Close every handle and return the files, those without a handle too."""
        with self._lock:
            files = list(dict.fromkeys([*self._open(), *self._by_place.values()]))
            self._handles.clear()
            self._by_place.clear()
        return files
