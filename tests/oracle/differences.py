"""Where a mount is not as a plain directory, each with its paragraph in docs/SEMANTICS.md.

Everything else must be equal. A difference does the call in the plain directory, undoes there what
a mount refuses to do, so that both stay alike, and says what the mount must answer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from typing import Any

from tests.oracle.player import Call, Outcome
from tests.syscalls import KEEP_SIZE, RENAME_EXCHANGE

# Does a call in the plain directory.
Do = Callable[[Call], Outcome]
# Returns None for calls that it has nothing to say of.
Difference = Callable[[Call, Do], "Outcome | None"]

# Calls that ask for attributes of what is open, or change them.
ASKING = ("fstat", "fchmod", "fchown", "futimens", "lseek", "mmap_read", "mmap_write")
# What a stat of a directory says of its entries.
OF_ENTRIES = ("size", "links", "mtime")


def hard_links(call: Call, do: Do) -> Outcome | None:
    """C30: hard links are refused."""
    if call.name != "link":
        return None
    plain = do(call)
    if plain[0] != "ok":
        return plain
    do(Call("unlink", (call.args[1],)))
    return "error", "EPERM"


def pipes(call: Call, do: Do) -> Outcome | None:
    """C30: pipes, sockets and devices are refused."""
    if call.name != "mknod" or stat.S_ISREG(call.args[1]):
        return None
    plain = do(call)
    if plain[0] != "ok":
        return plain
    do(Call("unlink", (call.args[0],)))
    return "error", "EPERM"


def rename_flags(call: Call, do: Do) -> Outcome | None:
    """C27: the flags of renameat2 are refused."""
    if call.name != "renameat2" or not call.args[2]:
        return None
    old, new, flags = call.args
    plain = do(call)
    if plain[0] != "ok" or old == new:
        return plain
    do(Call("renameat2", (new, old, flags & RENAME_EXCHANGE)))
    return "error", "EINVAL"


def unnamed_files(call: Call, do: Do) -> Outcome | None:
    """C6: O_TMPFILE is refused."""
    if call.name != "open" or call.args[2] & os.O_TMPFILE != os.O_TMPFILE:
        return None
    _, path, flags, mode = call.args
    plain = do(Call("can_open", (path, flags, mode)))
    return ("error", "ENOTSUP") if plain[0] == "ok" else plain


def room_behind_the_end(call: Call, do: Do) -> Outcome | None:
    """C18: no room is kept behind the end of a file."""
    if call.name != "fallocate" or call.args[1] != KEEP_SIZE:
        return None
    slot = call.args[0]
    before = do(Call("fstat", (slot,)))
    plain = do(call)
    if plain[0] != "ok":
        return plain
    if before[1]["mtime"] != "now":
        do(Call("futimens", (slot, before[1]["mtime"])))
    return "error", "ENOTSUP"


def removed_directories(call: Call, do: Do) -> Outcome | None:
    """C24: of a removed directory that is still open nothing is known any more."""
    if call.name not in ASKING:
        return None
    kind, found = do(Call("fstat", (call.args[0],)))
    is_removed = kind == "ok" and found["mode"].startswith("d") and found["links"] == 0
    return ("error", "ENOENT") if is_removed else None


def holes(call: Call, do: Do) -> Outcome | None:
    """C4: holes count as data."""
    if call.name != "lseek" or call.args[2] not in (os.SEEK_DATA, os.SEEK_HOLE):
        return None
    slot, offset, whence = call.args
    kind, found = do(Call("fstat", (slot,)))
    if kind != "ok" or not found["mode"].startswith("-"):
        return None
    if not 0 <= offset < found["size"]:
        return "error", "ENXIO"
    position = offset if whence == os.SEEK_DATA else found["size"]
    return do(Call("lseek", (slot, position, os.SEEK_SET)))


DIFFERENCES: tuple[Difference, ...] = (
    removed_directories,
    hard_links,
    pipes,
    rename_flags,
    unnamed_files,
    room_behind_the_end,
    holes,
)


def expected(call: Call, do: Do) -> Outcome:
    """Do a call in the plain directory; return what the mount must give."""
    for difference in DIFFERENCES:
        other = difference(call, do)
        if other is not None:
            return other
    return do(call)


def lost_by(call: Call, do: Do) -> list[int]:
    """Return the slots that a call makes useless, which are closed on both sides before it.

    C23: removed files whose directory is removed, too.
    """
    if call.name not in ("rmdir", "rename", "renameat2"):
        return []
    slots: list[int] = do(Call("removed_in", (call.args[0 if call.name == "rmdir" else 1],)))[1]
    return slots


def compared(outcome: Outcome) -> Outcome:
    """Return what is compared of an outcome: all, but for the entries' traces in a directory.

    A1 and C4: size, count of links and time of a directory do not follow its entries.
    """
    return outcome[0], _without_entries(outcome[1])


def _without_entries(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_without_entries(each) for each in value)
    if not isinstance(value, dict):
        return value
    if str(value.get("mode", "")).startswith("d"):
        return {name: each for name, each in value.items() if name not in OF_ENTRIES}
    return {name: _without_entries(each) for name, each in value.items()}
