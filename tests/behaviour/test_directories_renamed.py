"""rename(2) of directories: the same tests on a plain directory and on allasfs."""

from __future__ import annotations

import errno
import os
import random

import pytest

from tests.behaviour.filesystem import FileSystem, read_file, write_file
from tests.behaviour.test_vfs import MIB, RW_NEW, fails, opened


def everything(fs: FileSystem, top: str = "") -> dict[str, bytes | None]:
    """Return the content of every file below a directory, and None for directories."""
    found: dict[str, bytes | None] = {}
    for name in fs.listdir(top):
        path = f"{top}/{name}" if top else name
        if fs.lstat(path).is_dir:
            found[path] = None
            found |= everything(fs, path)
        else:
            found[path] = read_file(fs, path)
    return found


def make_tree(fs: FileSystem, top: str) -> dict[str, bytes | None]:
    """Make a directory with files, an empty one and a deep one; return it as ``everything``."""
    fs.mkdir(top)
    for name in ("deep", "deep/er", "empty", "name"):
        fs.mkdir(f"{top}/{name}")
    for number, name in enumerate(("a", "ä b", "deep/a", "deep/er/%41", "name/a", "name.txt")):
        write_file(fs, f"{top}/{name}", random.Random(number).randbytes(1000 * number))
    return everything(fs, top)


def moved(tree: dict[str, bytes | None], old: str, new: str) -> dict[str, bytes | None]:
    return {new + path.removeprefix(old): data for path, data in tree.items()}


@pytest.mark.semantics("C26")
def test_a_directory_is_renamed_with_all_that_is_in_it(fs: FileSystem) -> None:
    tree = make_tree(fs, "old")
    fs.utime("old/a", 1_234_567_890_000_000_000)
    fs.chmod("old/deep/a", 0o640)
    fs.rename("old", "new")
    assert fs.listdir("") == ["new"]
    assert everything(fs, "new") == moved(tree, "old", "new")
    assert fs.lstat("new/a").mtime_ns == 1_234_567_890_000_000_000
    assert fs.lstat("new/deep/a").mode & 0o7777 == 0o640
    for call in (fs.lstat, fs.listdir):
        with fails(errno.ENOENT):
            call("old")
    with fails(errno.ENOENT):
        fs.lstat("old/deep/a")


def test_a_directory_moves_into_another_one_and_back(fs: FileSystem) -> None:
    tree = make_tree(fs, "old")
    fs.mkdir("to")
    fs.rename("old", "to/new")
    assert everything(fs) == {"to": None, "to/new": None} | moved(tree, "old", "to/new")
    fs.rename("to/new", "old")
    assert everything(fs) == {"to": None, "old": None} | tree
    # What was emptied by the move is a directory still.
    assert fs.listdir("to") == []


def test_names_that_begin_alike_are_left_alone(fs: FileSystem) -> None:
    for name in ("d", "dd", "d.d"):
        fs.mkdir(name)
        write_file(fs, f"{name}/a", name.encode())
    write_file(fs, "d-", b"file")
    fs.rename("d", "e")
    assert everything(fs) == {
        "dd": None,
        "dd/a": b"dd",
        "d.d": None,
        "d.d/a": b"d.d",
        "d-": b"file",
        "e": None,
        "e/a": b"d",
    }


def test_an_empty_directory_is_renamed(fs: FileSystem) -> None:
    fs.mkdir("old", 0o700)
    fs.utime("old", 1_234_567_890_000_000_000)
    fs.rename("old", "new")
    assert fs.listdir("") == ["new"]
    assert fs.listdir("new") == []
    assert fs.lstat("new").mode & 0o7777 == 0o700
    assert fs.lstat("new").mtime_ns == 1_234_567_890_000_000_000


@pytest.mark.semantics("C26")
def test_an_empty_directory_is_replaced(fs: FileSystem) -> None:
    tree = make_tree(fs, "old")
    fs.mkdir("new")
    fs.rename("old", "new")
    assert everything(fs) == {"new": None} | moved(tree, "old", "new")
    fs.mkdir("empty")
    fs.rename("empty", "new/empty")
    assert sorted(fs.listdir("")) == ["new"]


@pytest.mark.semantics("C26", "R9")
def test_what_cannot_be_replaced_is_refused_and_changes_nothing(fs: FileSystem) -> None:
    make_tree(fs, "old")
    fs.mkdir("full")
    write_file(fs, "full/a", b"1")
    write_file(fs, "file", b"1")
    before = everything(fs)
    with fails(errno.ENOTEMPTY):
        fs.rename("old", "full")
    with fails(errno.ENOTEMPTY):
        fs.rename("old/deep/er", "old/deep")
    with fails(errno.ENOTDIR):
        fs.rename("old", "file")
    with fails(errno.EISDIR):
        fs.rename("file", "old")
    with fails(errno.EINVAL):
        fs.rename("old", "old/deep/new")
    with fails(errno.ENOENT):
        fs.rename("missing", "new")
    with fails(errno.ENOENT):
        fs.rename("old", "missing/new")
    fs.rename("old", "old")
    assert everything(fs) == before


@pytest.mark.semantics("R4")
def test_the_old_name_can_be_used_again_at_once(fs: FileSystem) -> None:
    make_tree(fs, "old")
    fs.rename("old", "new")
    fs.mkdir("old")
    assert fs.listdir("old") == []
    write_file(fs, "old/a", b"another")
    assert read_file(fs, "old/a") == b"another"
    fs.unlink("old/a")
    fs.rmdir("old")
    write_file(fs, "old", b"a file")
    assert sorted(fs.listdir("")) == ["new", "old"]


@pytest.mark.semantics("C26")
def test_files_that_are_open_go_on_under_the_new_name(fs: FileSystem) -> None:
    fs.mkdir("old")
    write_file(fs, "old/read", b"0123456789")
    write_file(fs, "old/changed", b"0123456789")
    with opened(fs, "old/read") as reading, opened(fs, "old/changed", os.O_RDWR) as changing:
        with opened(fs, "old/made", RW_NEW) as making:
            fs.pwrite(changing, b"x", 3)
            fs.pwrite(making, b"new", 0)
            fs.rename("old", "new")
            assert fs.pread(reading, 4, 2) == b"2345"
            fs.pwrite(changing, b"y", 4)
            fs.pwrite(making, b" file", 3)
        assert everything(fs) == {
            "new": None,
            "new/read": b"0123456789",
            "new/changed": b"012xy56789",
            "new/made": b"new file",
        }
    assert everything(fs) == {
        "new": None,
        "new/read": b"0123456789",
        "new/changed": b"012xy56789",
        "new/made": b"new file",
    }


def test_an_open_file_keeps_its_attributes_when_its_directory_is_renamed(fs: FileSystem) -> None:
    def shown(name: str) -> tuple[int, int]:
        found = fs.lstat(f"new/{name}")
        return found.mode & 0o7777, found.mtime_ns

    fs.mkdir("old")
    for name in ("read", "changed", "later"):
        write_file(fs, f"old/{name}", b"content")
        fs.chmod(f"old/{name}", 0o640)
        fs.utime(f"old/{name}", 10**18)
    with opened(fs, "old/later", os.O_RDWR) as later:
        fs.rename("old", "between")
        fs.pwrite(later, b"x", 0)
    assert fs.lstat("between/later").mode & 0o7777 == 0o640
    fs.rename("between", "old")
    with opened(fs, "old/read"), opened(fs, "old/changed", os.O_RDWR) as changing:
        fs.pwrite(changing, b"x", 0)
        fs.utime("old/changed", 10**18)
        fs.rename("old", "new")
        assert shown("read") == shown("changed") == (0o640, 10**18)
    # The upload of the changed one gave it these for good.
    assert shown("read") == shown("changed") == (0o640, 10**18)


def test_a_file_that_was_unlinked_while_open_survives_the_rename_of_its_directory(
    fs: FileSystem,
) -> None:
    fs.mkdir("old")
    write_file(fs, "old/other", b"1")
    with opened(fs, "old/a", RW_NEW) as fd:
        fs.pwrite(fd, b"kept", 0)
        fs.unlink("old/a")
        fs.rename("old", "new")
        assert fs.pread(fd, 10, 0) == b"kept"
        assert fs.listdir("new") == ["other"]
    assert everything(fs) == {"new": None, "new/other": b"1"}


def test_large_files_are_renamed_with_their_directory(fs: FileSystem) -> None:
    data = random.Random(1).randbytes(3 * MIB + 1)
    fs.mkdir("old")
    write_file(fs, "old/large", data)
    with opened(fs, "old/large", os.O_RDWR) as fd:
        fs.rename("old", "new")
        fs.pwrite(fd, b"x", 2 * MIB)
    expected = data[: 2 * MIB] + b"x" + data[2 * MIB + 1 :]
    assert read_file(fs, "new/large") == expected
    fs.rename("new", "again")
    assert read_file(fs, "again/large") == expected
    fs.unlink("again/large")
    fs.rmdir("again")
