"""The calls that come with each write(2), as libfuse makes them."""

from __future__ import annotations

import ctypes
import errno
from typing import Any

import fuse
import pytest

from allasfs.app.binding import Mounted


class Operations:
    """Remembers what it was called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.views: list[memoryview] = []

    def __call__(self, op: str, *args: Any) -> Any:
        if op == "write":
            _, data, offset, info = args
            self.views.append(data)
            self.calls.append((op, bytes(data), offset, info.fh))
            return len(data)
        self.calls.append((op, *args))
        return b"value"


@pytest.fixture
def mounted() -> Mounted:
    """The binding without a mount."""
    binding = Mounted.__new__(Mounted)
    binding.operations, binding.encoding, binding.raw_fi = Operations(), "utf-8", True
    return binding


def write(mounted: Mounted, path: bytes | None, data: bytes, offset: int) -> Any:
    """Write as libfuse does: from its own memory."""
    buffer = ctypes.cast(
        ctypes.create_string_buffer(data, len(data)), ctypes.POINTER(ctypes.c_byte)
    )
    info = fuse.fuse_file_info(fh=7)
    return mounted.write(path, buffer, len(data), offset, ctypes.pointer(info))


@pytest.mark.parametrize("path", [b"/f", None])
def test_the_bytes_of_a_write_arrive(mounted: Mounted, path: bytes | None) -> None:
    data = bytes(range(256)) * 16
    assert write(mounted, path, data, 4096) == len(data)
    assert mounted.operations.calls == [("write", data, 4096, 7)]


def test_libfuses_memory_is_not_read_after_the_write(mounted: Mounted) -> None:
    write(mounted, b"/f", b"data", 0)
    with pytest.raises(ValueError, match="released"):
        bytes(mounted.operations.views[0])


def test_the_kernels_question_before_a_write_reaches_nobody(mounted: Mounted) -> None:
    for name in (b"security.capability", b"system.posix_acl_access", b"trusted.user.x"):
        assert mounted.getxattr(b"/f", name, None, 0) == -errno.ENOTSUP
    assert mounted.operations.calls == []


def test_an_attribute_of_a_user_is_asked_for(mounted: Mounted) -> None:
    value = ctypes.create_string_buffer(8)
    assert mounted.getxattr(b"/f", b"user.x", None, 0) == 5
    assert mounted.getxattr(b"/f", b"user.x", value, 4) == -errno.ERANGE
    assert mounted.getxattr(b"/f", b"user.x", value, 8) == 5
    assert value.value == b"value"
    assert mounted.operations.calls == [("getxattr", "/f", "user.x")] * 3
