"""fusepy, completed by the call of libfuse 2.9 that fusepy 3.0.1 does not know: fallocate.

fusepy makes its table of calls from the fields of a structure that ends before fallocate. The
longer one takes its place here; libfuse is told the size and takes the calls as far as it knows.
"""

from __future__ import annotations

import ctypes
from typing import Any

import fuse

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


class Mounted(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's FUSE with fallocate; serves until the mount ends."""

    def fallocate(self, path: bytes | None, mode: int, start: int, length: int, info: Any) -> Any:
        """Hand the call on, as fusepy does with all others."""
        name = self._decode_optional_path(path)
        return self.operations("fallocate", name, mode, start, length, info.contents)
