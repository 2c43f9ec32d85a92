"""Files that are mapped into memory: what the kernel writes by itself, and when."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.conftest import MakeMount

from .support import refused, wait_until

QUOTA = "X-Container-Meta-Quota-Bytes"
SIZE = 3 * 1024 * 1024 + 17  # a large object on this mount
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL


def stored(swift: Connection, path: Path) -> bytes:
    """Return a file of the mount as another client of the store reads it."""
    data: bytes = swift.get_object(path.parent.name, path.name)[1]
    return data


@pytest.fixture
def data(mounted: Path) -> bytearray:
    """The content of a file "file"."""
    data = bytearray(os.urandom(SIZE))
    (mounted / "file").write_bytes(data)
    return data


@pytest.mark.semantics("C13")
def test_a_mapping_reads_what_the_file_has(mounted: Path, data: bytearray) -> None:
    with (
        (mounted / "file").open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
    ):
        assert mapped[:] == data
        assert mapped.find(data[2_000_000:2_000_100]) == 2_000_000


@pytest.mark.semantics("C13")
def test_a_mapping_sees_what_is_written_beside_it(mounted: Path, data: bytearray) -> None:
    fd = os.open(mounted / "file", os.O_RDWR)
    with mmap.mmap(fd, SIZE) as mapped:
        os.pwrite(fd, b"by write", 1000)
        assert mapped[1000:1008] == b"by write"
        mapped[2000:2006] = b"by map"
        assert os.pread(fd, 6, 2000) == b"by map"
    os.close(fd)


@pytest.mark.semantics("C13")
def test_msync_stores_what_was_written(mounted: Path, data: bytearray, swift: Connection) -> None:
    path = mounted / "file"
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, SIZE) as mapped:
        mapped[5000:5007] = data[5000:5007] = b"changed"
        mapped[-4:] = data[-4:] = b"last"
        mapped.flush()
        assert stored(swift, path) == data
    os.close(fd)
    assert stored(swift, path) == data


@pytest.mark.semantics("C13", "C20")
def test_msync_tells_what_the_store_refuses_and_can_be_repeated(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"before" * 100)
    swift.post_container(bucket, {QUOTA: "700"})
    served = mount(bucket)
    served.allow("EDQUOT", "file was not stored")
    path = served.path / "file"
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, 600) as mapped:
        mapped[:6] = b"AFTER!"
        with refused(errno.EDQUOT):
            mapped.flush()
        assert swift.get_object(bucket, "file")[1] == b"before" * 100
        swift.post_container(bucket, {QUOTA: "10000"})
        mapped.flush()
        assert swift.get_object(bucket, "file")[1] == b"AFTER!" + b"before" * 99
    os.close(fd)


@pytest.mark.semantics("C13")
def test_pages_that_are_written_after_close_are_stored_when_the_mapping_ends(
    mounted: Path, swift: Connection
) -> None:
    # In a process of its own: Python's mmap keeps a duplicate of the descriptor.
    code = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, *[ctypes.c_size_t] * 5]
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 10_000)
address = libc.mmap(None, 10_000, 3, 1, fd, 0)
ctypes.memmove(address, b"before", 6)
os.close(fd)
ctypes.memmove(address + 5_000, b"after close", 11)
if sys.argv[2] == "munmap":
    libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(10_000))
"""
    expected = b"before".ljust(5_000, b"\0") + b"after close".ljust(5_000, b"\0")
    for how in ("munmap", "exit"):
        path = mounted / how
        subprocess.run([sys.executable, "-c", code, path, how], check=True)
        # RELEASE comes after the calls of the program have returned.
        wait_until(lambda path=path: stored(swift, path) == expected, "it is stored")  # type: ignore[misc]
        assert path.read_bytes() == expected


@pytest.mark.semantics("C13")
def test_a_page_of_a_file_that_is_opened_to_append_has_its_place(
    mounted: Path, data: bytearray, swift: Connection
) -> None:
    path = mounted / "file"
    fd = os.open(path, os.O_RDWR | os.O_APPEND)
    with mmap.mmap(fd, SIZE) as mapped:
        mapped[10:17] = data[10:17] = b"changed"
    os.write(fd, b"the end")
    os.close(fd)
    assert stored(swift, path) == data + b"the end"


@pytest.mark.semantics("C13")
def test_a_private_mapping_changes_nothing(
    mounted: Path, data: bytearray, swift: Connection
) -> None:
    path = mounted / "file"
    fd = os.open(path, os.O_RDWR)
    with mmap.mmap(fd, SIZE, mmap.MAP_PRIVATE) as mapped:
        mapped[10:17] = b"changed"
    os.close(fd)
    assert stored(swift, path) == data
    assert path.read_bytes() == data
