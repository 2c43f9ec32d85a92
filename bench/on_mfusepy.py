"""allasfs on mfusepy and libfuse 3 in place of fusepy and libfuse 2: for the comparison alone.

FUSE_LIBRARY_NAME=fuse3 python -m bench.on_mfusepy WORDS... takes the words that ``allasfs`` takes.
The adapter is the same; who calls it is different. What libfuse 3 has and libfuse 2 has not is
used: writes of 1 MiB, and readdirplus, which tells the attributes along with the names.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import mfusepy

CALLS = mfusepy.fuse_operations
# The adapter is to find it in fusepy's place.
sys.modules["fuse"] = mfusepy

from allasfs.app import binding, cli  # noqa: E402
from allasfs.errors import FsError  # noqa: E402

# What libfuse 3 does always, or sets in another way: it does not know the names.
UNKNOWN = ("big_writes", "atomic_o_trunc", "max_background")
# enum fuse_readdir_flags and fuse_fill_dir_flags, <fuse3/fuse.h>
READDIR_PLUS = 1
FILL_DIR_PLUS = 2
# Else the kernel asks so only as long as a program looks at each name before the next: ls does not.
CAP_READDIRPLUS_AUTO = 1 << 14


class Through:
    """The operations as mfusepy wants them: methods, each of which leads through the one door."""

    use_ns = True

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("flag_") or not hasattr(self._operations, name):
            raise AttributeError(name)
        return functools.partial(self._operations, name)

    def __call__(self, name: str, *args: Any) -> Any:
        """Do what ``binding.Mounted`` hands on."""
        return self._operations(name, *args)


class Mounted(binding.Mounted):
    """Takes the place of the class that it completes."""

    def __init__(self, operations: Any, mount_point: str, **options: Any) -> None:
        known = {name: value for name, value in options.items() if name not in UNKNOWN}
        super().__init__(Through(operations), mount_point, **known)

    def _wrapper(self, func: Callable[..., Any], *args: Any) -> Any:  # type: ignore[override]
        binding.keep_state()
        return mfusepy.FUSE._wrapper(self, func, *args)

    def _decode_optional_path(self, path: bytes | None) -> str | None:
        return None if path is None else path.decode(self.encoding, self.errors)

    def init_fuse_3(self, connection: Any, config: Any) -> None:
        """Begin, and let the kernel always ask for attributes along with names."""
        connection.contents.want &= ~CAP_READDIRPLUS_AUTO
        super().init_fuse_3(connection, config)

    def readdir_fuse_3(
        self, path: bytes, buffer: Any, fill: Any, offset: int, info: Any, flags: int
    ) -> int:
        """Tell the names and, where the kernel asks for them, their attributes."""
        if not flags & READDIR_PLUS:
            return int(super().readdir_fuse_3(path, buffer, fill, offset, info, flags))
        directory = path.decode(self.encoding, self.errors).rstrip("/")
        told = mfusepy.c_stat()
        for name in self.operations("readdir", directory or "/", info.contents.fh):
            encoded = name.encode(self.encoding, self.errors)
            try:
                is_told = name not in (".", "..")
                if is_told:
                    attributes = self.operations("getattr", f"{directory}/{name}", None)
                    mfusepy.set_st_attrs(told, attributes, use_ns=True)
            except FsError:
                # The kernel asks for it by itself, if it is wanted.
                is_told = False
            fill(buffer, encoded, told if is_told else None, 0, FILL_DIR_PLUS if is_told else 0)
        return 0


def main() -> int:
    """Run allasfs."""
    # What was completed for libfuse 2 has all of its calls here.
    mfusepy.fuse_operations = CALLS
    binding.Mounted = Mounted  # type: ignore[misc]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
