"""Serve a mount that tells of the threads that its calls come from: behind test_threads.

``python thread_server.py MOUNTPOINT``: the size of ``/made`` is how many states of threads there
have been, of ``/alive`` how many there are. Reading another file takes a moment.
"""

from __future__ import annotations

import gc
import logging
import stat
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

from allasfs.app.fuse_ops import FuseOps, serve
from allasfs.config import Config
from allasfs.fs.attrs import Attr

WAIT_S = 0.3


class Token:
    """Lives as long as the state of a thread."""

    made = 0
    alive = 0

    def __init__(self) -> None:
        Token.made += 1
        Token.alive += 1

    def __del__(self) -> None:
        Token.alive -= 1


class CountingVfs:
    """Counts threads."""

    def __init__(self) -> None:
        self._local = threading.local()

    def start(self) -> None:
        """Begin."""

    def getattr(self, path: str) -> Attr:
        """Count this thread's state, and tell."""
        self._count()
        gc.collect()
        sizes = {"/made": Token.made, "/alive": Token.alive}
        kind = stat.S_IFDIR | 0o777 if path == "/" else stat.S_IFREG | 0o666
        return Attr(kind, sizes.get(path, 1), 1, 0, 0)

    def open(self, path: str, flags: int) -> tuple[int, Any]:
        """Open a file."""
        return 1, SimpleNamespace(keep_cache=False, file=SimpleNamespace(is_dirty=True))

    def read(self, fh: int, offset: int, length: int) -> bytes:
        """Read, while others do."""
        self._count()
        time.sleep(WAIT_S)
        return b"x"

    def flush(self, fh: int) -> None:
        """Nothing was written."""

    release = flush

    def _count(self) -> None:
        if not hasattr(self._local, "token"):
            self._local.token = Token()


def main() -> None:
    """Serve until unmounted."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # The kernel remembers nothing, so that every system call arrives here.
    config = Config(ttl_s=0)
    vfs: Any = CountingVfs()
    serve(FuseOps(vfs, config, on_ready=lambda: None), sys.argv[1], config, "threads")
    print("ended as it should", flush=True)


if __name__ == "__main__":
    main()
