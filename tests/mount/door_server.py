"""Serve a mount whose file system does nothing but fail on request: the process behind test_door.

``python door_server.py CONTROL MOUNTPOINT``: while the file CONTROL holds ``METHOD EXCEPTION``,
this method of the file system raises this exception.
"""

from __future__ import annotations

import faulthandler
import logging
import signal
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import requests

from allasfs import errors
from allasfs.app.fuse_ops import FuseOps, serve
from allasfs.config import Config
from allasfs.fs.attrs import Attr
from allasfs.fs.vfs import Usage

SIZE = 4096


def exception(name: str) -> BaseException:
    """Return the exception of this name: a condition of ours, one of requests, or a builtin."""
    if name.startswith("requests."):
        return getattr(requests, name.removeprefix("requests."))("from afar")  # type: ignore[no-any-return]
    home = errors if hasattr(errors, name) else __builtins__
    made = getattr(home, name)()
    assert isinstance(made, BaseException)
    return made


class FailingVfs:
    """Names tell what is there: ``dir...``, ``link...``, else a file.

    ``new...``, and the names that libfuse gives to unlinked open files, are there once made.
    """

    def __init__(self, control: Path) -> None:
        self._control = control
        self._made: dict[str, int] = {}

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            wanted, _, name = self._control.read_text().partition(" ")
            if wanted == method:
                raise exception(name)
            if f"_{method}" in vars(FailingVfs):
                return getattr(self, f"_{method}")(*args, **options)
            return None

        return call

    def _getattr(self, path: str) -> Attr:
        name = path.rpartition("/")[2]
        kind = self._made.get(path, stat.S_IFREG) | 0o666
        if path not in self._made and name.startswith(("new", ".fuse_hidden")):
            raise errors.NotFound(path)
        if not name or name.startswith("dir"):
            kind = stat.S_IFDIR | 0o777
        if name.startswith("link"):
            kind = stat.S_IFLNK | 0o777
        return Attr(kind, SIZE, 1, 0, 0)

    def _listdir(self, path: str) -> list[str]:
        return ["file"]

    def _statfs(self) -> Usage:
        return Usage(0, None, 0)

    def _getxattr(self, path: str, name: str) -> bytes:
        return b"value"

    def _listxattr(self, path: str) -> list[str]:
        return ["user.a"]

    def _readlink(self, path: str) -> str:
        return "file"

    def _mkdir(self, path: str, mode: int) -> None:
        self._made[path] = stat.S_IFDIR

    def _symlink(self, path: str, target: str) -> None:
        self._made[path] = stat.S_IFLNK

    def _rename(self, old: str, new: str) -> None:
        self._made[new] = stat.S_IFREG

    _hide = _rename

    def _create(self, path: str, flags: int, mode: int) -> tuple[int, Any]:
        self._made[path] = stat.S_IFREG
        return self._open(path, flags)

    def _open(self, path: str, flags: int) -> tuple[int, Any]:
        return 1, SimpleNamespace(keep_cache=False, file=SimpleNamespace(is_dirty=True))

    def _read(self, fh: int, offset: int, length: int) -> bytes:
        return bytes(max(0, min(length, SIZE - offset)))

    def _write(self, fh: int, offset: int, data: bytes, *, in_place: bool) -> int:
        return len(data)


def main() -> None:
    """Serve until unmounted."""
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    # As the program does it: other packages' messages follow the root.
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("allasfs").setLevel(logging.DEBUG)
    control, mount_point = sys.argv[1:]
    # The kernel remembers nothing, so that every system call arrives here.
    config = Config(ttl_s=0)
    vfs: Any = FailingVfs(Path(control))
    serve(FuseOps(vfs, config, on_ready=lambda: None), mount_point, config, "door")


if __name__ == "__main__":
    main()
