"""fusepy, completed by what fusepy 3.0.1 does not know: fallocate, and that threads come again.

fusepy makes its table of calls from the fields of a structure that ends before fallocate. The
longer one takes its place here; libfuse is told the size and takes the calls as far as it knows.

The two calls that come with each write(2) are answered here with less work than fusepy does.

A call comes from a thread of libfuse, which is none of Python's: for each, Python makes the state
of a thread and removes it when the call returns, with a mapping of memory each time. Here the state
stays until the thread ends.
"""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
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


_python = ctypes.pythonapi
_python.PyGILState_Release.argtypes = (ctypes.c_int,)
_python.PyGILState_Release.restype = None
_LOCKED = 0  # PyGILState_LOCKED
# What C++ uses for thread_local. Values of pthread_key_create come too late: Python's own, by which
# it finds a thread's state, may be gone when they are given up. None where libc is not glibc.
_at_thread_end = getattr(ctypes.CDLL(None), "__cxa_thread_atexit_impl", None)
# What must stay loaded until then: Python.
_HOME = ctypes.cast(_python.PyGILState_Release, ctypes.c_void_p)
_known = threading.local()


@ctypes.CFUNCTYPE(None, ctypes.c_void_p)  # type: ignore[untyped-decorator]
def _thread_ends(_: int) -> None:
    """Count what ``keep_state`` counted no more, in the thread that ends."""
    _python.PyGILState_Release(_LOCKED)


def keep_state() -> None:
    """Let a thread that Python has not made keep its state until it ends.

    Python counts the calls that need the state; one more is counted here.
    """
    if hasattr(_known, "is_kept"):
        return
    _known.is_kept = True
    if _at_thread_end is None or threading.get_ident() == threading.main_thread().ident:
        return
    if _at_thread_end(_thread_ends, None, _HOME) == 0:
        _python.PyGILState_Ensure()


class Mounted(fuse.FUSE):  # type: ignore[misc]  # fusepy has no types
    """fusepy's FUSE with fallocate; serves until the mount ends."""

    @staticmethod
    def _wrapper(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Answer one call of libfuse, as fusepy does."""
        keep_state()
        return fuse.FUSE._wrapper(func, *args, **kwargs)

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
