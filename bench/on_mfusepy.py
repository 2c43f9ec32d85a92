"""allasfs on mfusepy and libfuse 3 in place of fusepy and libfuse 2: for the comparison alone.

FUSE_LIBRARY_NAME=fuse3 python -m bench.on_mfusepy WORDS... takes the words that ``allasfs`` takes.
The adapter is the same; who calls it is different.
"""

from __future__ import annotations

import functools
import sys
from typing import Any

import mfusepy

# What libfuse 3 does always, or sets in another way: it does not know the names.
UNKNOWN = ("big_writes", "atomic_o_trunc", "max_background")


class Through:
    """The operations as mfusepy wants them: methods, each of which leads through the one door."""

    use_ns = True

    def __init__(self, operations: Any) -> None:
        self._operations = operations

    def __getattr__(self, name: str) -> Any:
        if name.startswith("flag_") or not hasattr(self._operations, name):
            raise AttributeError(name)
        return functools.partial(self._operations, name)


class Mounted(mfusepy.FUSE):  # type: ignore[misc]  # mfusepy's types are not checked here
    """Takes the place of ``allasfs.app.binding.Mounted``."""

    def __init__(self, operations: Any, mount_point: str, **options: Any) -> None:
        known = {name: value for name, value in options.items() if name not in UNKNOWN}
        super().__init__(Through(operations), mount_point, **known)


def main() -> int:
    """Run allasfs."""
    ours = mfusepy.fuse_operations
    sys.modules["fuse"] = mfusepy
    from allasfs.app import binding, cli

    # What was completed for libfuse 2 has all of its calls here.
    mfusepy.fuse_operations = ours
    binding.Mounted = Mounted  # type: ignore[misc]
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
