"""fusepy, completed by the call of libfuse 2.9 that fusepy 3.0.1 does not know: fallocate.

fusepy makes its table of calls from the fields of a structure that ends before fallocate. The
longer one takes its place here; libfuse is told the size and takes the calls as far as it knows.

The two calls that come with each write(2) are answered here with less work than fusepy does.
"""

from __future__ import annotations

import ctypes
import errno
from typing import Any

import fuse

from allasfs.fs.xattrs import USER

_FALLOCATE = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_longlong,
    ctypes.c_longlong,
    ctypes.POINTER(fuse.fuse_file_info),
)


class Operations(ctypes.Structure):
    """``struct fuse_operations`` of libfuse 2.9.1, to its end."""

    _fields_ = (
        *fuse.fuse_operations._fields_,
        ("poll", ctypes.c_void_p),
        ("write_buf", ctypes.c_void_p),
        ("read_buf", ctypes.c_void_p),
        ("flock", ctypes.c_void_p),
        ("fallocate", _FALLOCATE),
    )


fuse.fuse_operations = Operations

_USER = USER.encode()
_READ = 0x100  # PyBUF_READ, <object.h>
_view = ctypes.pythonapi.PyMemoryView_FromMemory
_view.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_view.restype = ctypes.py_object


class Mounted(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's FUSE with fallocate; serves until the mount ends."""

    def fallocate(self, path: bytes | None, mode: int, start: int, length: int, info: Any) -> Any:
        """Hand the call on, as fusepy does with all others."""
        name = self._decode_optional_path(path)
        return self.operations("fallocate", name, mode, start, length, info.contents)

    def write(self, path: bytes | None, buffer: Any, size: int, offset: int, info: Any) -> Any:
        """Hand the bytes on where libfuse has them; they are gone when this returns."""
        name = self._decode_optional_path(path)
        with _view(buffer, size, _READ) as data:
            return self.operations("write", name, data, offset, info.contents)

    def getxattr(self, path: bytes, name: bytes, value: Any, size: int, *more: Any) -> Any:
        """Hand the call on for ``user.NAME``; there are no others.

        The kernel asks for security.capability before each write(2), ls for access lists.
        """
        if not name.startswith(_USER):
            return -errno.ENOTSUP
        return super().getxattr(path, name, value, size, *more)
