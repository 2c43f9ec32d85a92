"""Extended attributes, and what of a file survives what: the same on a plain directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from tests.behaviour.filesystem import FileSystem, OsFs, read_file, write_file
from tests.conftest import missing

VALUES = [b"blue", "grün".encode(), b"", b" blank ", b"line\n", bytes(range(100)), b"v" * 150]
NAMES = ["colour", "mime_type", "Upper", "a b", "ä", "xdg.origin.url", "100%", "a:b=c", "x" * 40]


@pytest.fixture(autouse=True)
def _able(fs: FileSystem) -> None:
    if isinstance(fs, OsFs):
        try:
            fs.setxattr("", "user.test", b"1")
        except OSError as exc:
            missing(f"no extended attributes on the disk: {exc}")
        fs.removexattr("", "user.test")


def fails(number: int, function: object, *args: object) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is compared below
        function(*args)  # type: ignore[operator]
    assert errno.errorcode[caught.value.errno or 0] == errno.errorcode[number]


@pytest.fixture(params=["file", "directory", "changed file", "empty file", "top"])
def path(fs: FileSystem, request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "directory":
        fs.mkdir("a")
    elif request.param == "changed file":
        fd = fs.open("a", os.O_RDWR | os.O_CREAT)
        fs.pwrite(fd, b"not stored yet", 0)
        yield "a"
        fs.close(fd)
        return
    elif request.param != "top":
        write_file(fs, "a", b"" if request.param == "empty file" else b"data")
    yield "" if request.param == "top" else "a"


@pytest.mark.parametrize("value", VALUES)
def test_an_attribute_has_the_value_that_was_set(fs: FileSystem, path: str, value: bytes) -> None:
    fs.setxattr(path, "user.colour", b"before")
    fs.setxattr(path, "user.colour", value)
    assert fs.getxattr(path, "user.colour") == value
    assert fs.listxattr(path) == ["user.colour"]


def test_names_are_told_apart(fs: FileSystem, path: str) -> None:
    for name in NAMES:
        fs.setxattr(path, f"user.{name}", name.encode())
    assert sorted(fs.listxattr(path)) == sorted(f"user.{name}" for name in NAMES)
    for name in NAMES:
        assert fs.getxattr(path, f"user.{name}") == name.encode()


def test_a_removed_attribute_is_gone(fs: FileSystem, path: str) -> None:
    fs.setxattr(path, "user.a", b"1")
    fs.setxattr(path, "user.b", b"2")
    fs.removexattr(path, "user.a")
    assert fs.listxattr(path) == ["user.b"]
    fails(errno.ENODATA, fs.getxattr, path, "user.a")
    fails(errno.ENODATA, fs.removexattr, path, "user.a")


def test_what_is_not_set_is_no_data(fs: FileSystem, path: str) -> None:
    assert fs.listxattr(path) == []
    fails(errno.ENODATA, fs.getxattr, path, "user.never")
    fails(errno.ENODATA, fs.removexattr, path, "user.never")


def test_create_and_replace(fs: FileSystem, path: str) -> None:
    fails(errno.ENODATA, fs.setxattr, path, "user.a", b"1", os.XATTR_REPLACE)
    fs.setxattr(path, "user.a", b"1", os.XATTR_CREATE)
    fails(errno.EEXIST, fs.setxattr, path, "user.a", b"2", os.XATTR_CREATE)
    assert fs.getxattr(path, "user.a") == b"1"
    fs.setxattr(path, "user.a", b"2", os.XATTR_REPLACE)
    assert fs.getxattr(path, "user.a") == b"2"


def test_what_is_not_there_has_no_attributes(fs: FileSystem) -> None:
    fails(errno.ENOENT, fs.getxattr, "none", "user.a")
    fails(errno.ENOENT, fs.setxattr, "none", "user.a", b"1")
    fails(errno.ENOENT, fs.listxattr, "none")
    fails(errno.ENOENT, fs.removexattr, "none", "user.a")


def test_attributes_and_content_do_not_disturb_each_other(fs: FileSystem, path: str) -> None:
    before = fs.lstat(path)
    fs.setxattr(path, "user.a", b"1")
    after = fs.lstat(path)
    assert (after.mode, after.size) == (before.mode, before.size)
    if path:
        assert after.mtime_ns == before.mtime_ns
    fs.chmod(path, 0o700)
    fs.utime(path, 1_234_567_890_123_456_789)
    fs.setxattr(path, "user.b", b"2")
    fs.removexattr(path, "user.a")
    found = fs.lstat(path)
    assert (found.mode & 0o7777, found.mtime_ns) == (0o700, 1_234_567_890_123_456_789)
    assert fs.listxattr(path) == ["user.b"]


@pytest.mark.parametrize("flags", [0, os.O_TRUNC, os.O_APPEND])
def test_a_rewritten_file_keeps_its_attributes(fs: FileSystem, flags: int) -> None:
    write_file(fs, "a", b"data")
    fs.setxattr("a", "user.a", b"1")
    fs.chmod("a", 0o640)
    fd = fs.open("a", os.O_WRONLY | flags)
    fs.pwrite(fd, b"more", 0)
    fs.setxattr("a", "user.b", b"2")
    assert fs.getxattr("a", "user.b") == b"2"
    fs.close(fd)
    assert {name: fs.getxattr("a", name) for name in fs.listxattr("a")} == {
        "user.a": b"1",
        "user.b": b"2",
    }
    assert fs.lstat("a").mode & 0o777 == 0o640


def test_a_renamed_file_keeps_all(fs: FileSystem) -> None:
    write_file(fs, "a", b"data")
    fs.setxattr("a", "user.a", b"1")
    before = fs.lstat("a")
    fs.rename("a", "b")
    assert fs.getxattr("b", "user.a") == b"1"
    assert fs.lstat("b") == before
    fs.setxattr("b", "user.a", b"2")
    assert fs.lstat("b") == before
    assert read_file(fs, "b") == b"data"


def test_a_renamed_directory_keeps_all(fs: FileSystem) -> None:
    fs.mkdir("d")
    write_file(fs, "d/a", b"data")
    for path in ("d", "d/a"):
        fs.setxattr(path, "user.a", path.encode())
        fs.utime(path, 5)
        fs.chmod(path, 0o700)
    fs.rename("d", "e")
    for path in ("d", "d/a"):
        new = path.replace("d", "e", 1)
        assert fs.listxattr(new) == ["user.a"]
        assert fs.getxattr(new, "user.a") == path.encode()
        assert fs.lstat(new)[0] & 0o7777 == 0o700
        assert fs.lstat(new).mtime_ns == 5


def test_an_unlinked_open_file_has_attributes(fs: FileSystem) -> None:
    write_file(fs, "a", b"data")
    fs.setxattr("a", "user.a", b"1")
    fd = fs.open("a", os.O_RDWR)
    fs.unlink("a")
    fails(errno.ENOENT, fs.getxattr, "a", "user.a")
    write_file(fs, "a", b"other")
    assert fs.listxattr("a") == []
    fs.close(fd)


def test_times_before_1970(fs: FileSystem) -> None:
    write_file(fs, "a", b"data")
    for time_ns in (-1, -1_500_000_000, -86_400_000_000_000):
        fs.utime("a", time_ns)
        assert fs.lstat("a").mtime_ns == time_ns
