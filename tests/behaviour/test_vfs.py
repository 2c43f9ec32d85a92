"""What POSIX promises and allasfs keeps: the same tests on a plain directory and on allasfs."""

from __future__ import annotations

import errno
import itertools
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.behaviour.filesystem import FileSystem, OsFs, read_file, write_file

MIB = 1024 * 1024
RW_NEW = os.O_RDWR | os.O_CREAT


@contextmanager
def fails(*codes: int) -> Iterator[None]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is looked at
        yield
    assert caught.value.errno in codes, errno.errorcode[caught.value.errno or 0]


@contextmanager
def opened(fs: FileSystem, path: str, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = fs.open(path, flags)
    try:
        yield fd
    finally:
        fs.close(fd)


# -- files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 4096, 131072, 131073, 1_000_003, 3 * MIB + 1])
def test_a_file_reads_as_it_was_written(fs: FileSystem, size: int) -> None:
    data = random.Random(size).randbytes(size)
    write_file(fs, "a", data)
    assert fs.lstat("a").size == size
    assert read_file(fs, "a") == data
    fs.unlink("a")


@pytest.mark.semantics("N8")
@pytest.mark.parametrize(
    "name", ["a b", "ä", "😀", "%41", "?#&+", "new\nline", "-rf", "~", "a.", "..a", "x" * 255]
)
def test_a_file_may_have_any_name_that_a_file_can_have(fs: FileSystem, name: str) -> None:
    write_file(fs, name, b"1")
    fs.mkdir("d")
    write_file(fs, f"d/{name}", b"2")
    assert sorted(fs.listdir("")) == sorted(["d", name])
    assert fs.listdir("d") == [name]
    assert read_file(fs, name) + read_file(fs, f"d/{name}") == b"12"


@pytest.mark.semantics("N8")
def test_too_long_a_name_is_refused(fs: FileSystem) -> None:
    for name in ("x" * 256, "ä" * 128):
        with fails(errno.ENAMETOOLONG):
            fs.open(name, RW_NEW)
        with fails(errno.ENAMETOOLONG):
            fs.lstat(name)
        with fails(errno.ENAMETOOLONG):
            fs.mkdir(name)


@pytest.mark.semantics("C6")
def test_a_missing_file_is_enoent(fs: FileSystem) -> None:
    calls: list[Callable[[], object]] = [
        lambda: fs.lstat("x"),
        lambda: fs.open("x", os.O_RDONLY),
        lambda: fs.open("x", os.O_WRONLY | os.O_TRUNC),
        lambda: fs.open("x/y", RW_NEW),
        lambda: fs.unlink("x"),
        lambda: fs.rmdir("x"),
        lambda: fs.listdir("x"),
        lambda: fs.truncate("x", 1),
        lambda: fs.rename("x", "y"),
        lambda: fs.utime("x", 1),
        lambda: fs.chmod("x", 0o600),
        lambda: fs.readlink("x"),
        lambda: fs.mkdir("x/y"),
        lambda: fs.symlink("t", "x/y"),
    ]
    for call in calls:
        with fails(errno.ENOENT):
            call()
    assert fs.listdir("") == []


def test_a_path_through_a_file_is_enotdir(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    calls: list[Callable[[], object]] = [
        lambda: fs.lstat("a/b"),
        lambda: fs.open("a/b", RW_NEW),
        lambda: fs.mkdir("a/b"),
        lambda: fs.unlink("a/b"),
        lambda: fs.rmdir("a"),
        lambda: fs.listdir("a"),
        lambda: fs.rename("a", "a/b"),
    ]
    for call in calls:
        with fails(errno.ENOTDIR):
            call()


@pytest.mark.semantics("C6")
def test_a_file_call_on_a_directory_is_eisdir(fs: FileSystem) -> None:
    fs.mkdir("d")
    write_file(fs, "a", b"1")
    calls: list[Callable[[], object]] = [
        lambda: fs.open("d", os.O_WRONLY),
        lambda: fs.open("d", os.O_RDWR | os.O_CREAT),
        lambda: fs.unlink("d"),
        lambda: fs.truncate("d", 0),
        lambda: fs.rename("a", "d"),
    ]
    for call in calls:
        with fails(errno.EISDIR):
            call()
    assert sorted(fs.listdir("")) == ["a", "d"]


FLAGS = [os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND]
MATRIX = [
    mode | sum(chosen)
    for mode in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
    for count in range(len(FLAGS) + 1)
    for chosen in itertools.combinations(FLAGS, count)
    # Linux leaves O_EXCL without O_CREAT undefined.
    if not (os.O_EXCL in chosen and os.O_CREAT not in chosen)
]


def outcome(fs: FileSystem, path: str, flags: int) -> list[object]:
    """Open, write, read, close, look; return all results and errors."""
    results: list[object] = []

    def note(call: Callable[[], object]) -> object:
        try:
            result = call()
        except OSError as exc:
            results.append(errno.errorcode[exc.errno or 0])
            return None
        results.append(result)
        return result

    try:
        fd = fs.open(path, flags)
    except OSError as exc:
        results.append(errno.errorcode[exc.errno or 0])
    else:
        note(lambda: fs.pwrite(fd, b"new", 1))
        note(lambda: fs.pread(fd, 100, 0))
        note(lambda: fs.ftruncate(fd, 5))
        note(lambda: fs.close(fd))
    note(lambda: fs.lstat(path).size)
    note(lambda: read_file(fs, path))
    return results


@pytest.mark.semantics("C6")
@pytest.mark.parametrize("before", ["missing", "there"])
def test_open_with_every_combination_of_flags_is_as_on_a_plain_directory(
    fs: FileSystem, before: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    plain = OsFs(tmp_path_factory.mktemp("oracle"))
    for flags in MATRIX:
        name = f"file-{flags:o}"
        for each in (fs, plain):
            if before == "there":
                write_file(each, name, b"old content")
        assert outcome(fs, name, flags) == outcome(plain, name, flags), f"{flags:#o}"


@pytest.mark.semantics("C9")
def test_o_excl_makes_a_file_only_once(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW | os.O_EXCL), fails(errno.EEXIST):
        fs.open("a", RW_NEW | os.O_EXCL)
    with fails(errno.EEXIST):
        fs.open("a", RW_NEW | os.O_EXCL)


@pytest.mark.semantics("C7", "C2", "R4")
def test_a_new_file_is_seen_before_it_is_closed(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as fd:
        assert fs.listdir("") == ["a"]
        fs.pwrite(fd, b"123", 0)
        assert fs.lstat("a").size == 3
        assert read_file(fs, "a") == b"123"


@pytest.mark.semantics("C15")
def test_a_write_in_the_middle_changes_that_part_only(fs: FileSystem) -> None:
    data = bytearray(random.Random(5).randbytes(1_500_000))
    write_file(fs, "a", bytes(data))
    with opened(fs, "a", os.O_RDWR) as fd:
        fs.pwrite(fd, b"CHANGED", 700_000)
        data[700_000:700_007] = b"CHANGED"
        assert fs.pread(fd, 100, 699_950) == data[699_950:700_050]
        assert fs.pread(fd, 1000, 0) == data[:1000]
    assert read_file(fs, "a") == data


@pytest.mark.semantics("C15")
def test_a_gap_reads_as_zeros(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as fd:
        fs.pwrite(fd, b"begin", 0)
        fs.pwrite(fd, b"end", 300_000)
        assert fs.pread(fd, 10, 5) == bytes(10)
    assert read_file(fs, "a") == b"begin" + bytes(300_000 - 5) + b"end"


@pytest.mark.semantics("C15")
def test_appends_go_to_the_end_wherever_they_are_meant_for(fs: FileSystem) -> None:
    write_file(fs, "a", b"one")
    flags = os.O_WRONLY | os.O_APPEND
    with opened(fs, "a", flags) as first, opened(fs, "a", flags) as second:
        fs.pwrite(first, b" two", 0)
        fs.pwrite(second, b" three", 0)
        fs.pwrite(first, b" four", 2)
    assert read_file(fs, "a") == b"one two three four"


@pytest.mark.semantics("C18")
@pytest.mark.parametrize(("before", "after"), [(10, 3), (10, 0), (3, 10), (0, 5), (10, 10)])
def test_truncate_cuts_or_adds_zeros(fs: FileSystem, before: int, after: int) -> None:
    data = b"x" * before
    expected = data[:after] + bytes(max(0, after - before))
    write_file(fs, "path", data)
    write_file(fs, "handle", data)
    fs.truncate("path", after)
    with opened(fs, "handle", os.O_RDWR) as fd:
        fs.ftruncate(fd, after)
        assert fs.pread(fd, 100, 0) == expected
    for name in ("path", "handle"):
        assert fs.lstat(name).size == after
        assert read_file(fs, name) == expected


def test_what_was_cut_off_does_not_come_back(fs: FileSystem) -> None:
    write_file(fs, "a", b"0123456789")
    with opened(fs, "a", os.O_RDWR) as fd:
        fs.ftruncate(fd, 4)
        fs.ftruncate(fd, 8)
        fs.pwrite(fd, b"x", 9)
    assert read_file(fs, "a") == b"0123\0\0\0\0\0x"


def test_a_negative_size_is_einval(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    with fails(errno.EINVAL):
        fs.truncate("a", -1)


@pytest.mark.semantics("C12", "R4")
def test_two_handles_see_each_other_s_writes(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as first, opened(fs, "a", os.O_RDWR) as second:
        fs.pwrite(first, b"from the first", 0)
        assert fs.pread(second, 100, 0) == b"from the first"
        fs.pwrite(second, b"FROM", 0)
        assert fs.pread(first, 100, 0) == b"FROM the first"
    assert read_file(fs, "a") == b"FROM the first"


@pytest.mark.semantics("C19")
def test_a_handle_may_go_on_after_fsync(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as fd:
        fs.pwrite(fd, b"one", 0)
        fs.fsync(fd)
        assert read_file(fs, "a") == b"one"
        fs.pwrite(fd, b"two", 3)
        fs.fsync(fd)
        fs.pwrite(fd, b"three", 6)
    assert read_file(fs, "a") == b"onetwothree"


def test_a_file_can_be_replaced_many_times(fs: FileSystem) -> None:
    for number in range(5):
        write_file(fs, "a", b"%d" % number * (number + 1))
        assert read_file(fs, "a") == b"%d" % number * (number + 1)


def test_a_large_file_can_be_changed_cut_replaced_and_removed(fs: FileSystem) -> None:
    data = bytearray(random.Random(6).randbytes(4 * MIB + 5))
    write_file(fs, "big", bytes(data))
    assert read_file(fs, "big") == data
    with opened(fs, "big", os.O_RDWR) as fd:
        fs.pwrite(fd, b"CHANGED", 2 * MIB - 3)
    data[2 * MIB - 3 : 2 * MIB + 4] = b"CHANGED"
    assert read_file(fs, "big") == data
    fs.rename("big", "bigger")
    assert read_file(fs, "bigger") == data
    fs.truncate("bigger", 3 * MIB)
    assert read_file(fs, "bigger") == data[: 3 * MIB]
    write_file(fs, "bigger", b"small")
    assert read_file(fs, "bigger") == b"small"
    write_file(fs, "bigger", bytes(data))
    fs.unlink("bigger")
    assert fs.listdir("") == []


# -- unlinked and renamed while open --------------------------------------------------------------


@pytest.mark.semantics("C23")
def test_an_unlinked_file_lives_as_long_as_its_handles(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as fd:
        fs.pwrite(fd, b"kept", 0)
        fs.unlink("a")
        with fails(errno.ENOENT):
            fs.lstat("a")
        assert fs.pread(fd, 100, 0) == b"kept"
        fs.pwrite(fd, b" and more", 4)
        assert fs.pread(fd, 100, 0) == b"kept and more"
    with fails(errno.ENOENT):
        fs.lstat("a")


def test_an_unlinked_name_can_be_used_for_another_file(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as old:
        fs.pwrite(old, b"old", 0)
        fs.unlink("a")
        write_file(fs, "a", b"new one")
        assert fs.pread(old, 100, 0) == b"old"
    assert read_file(fs, "a") == b"new one"


@pytest.mark.semantics("C25")
def test_a_file_that_is_written_and_renamed_before_its_close_is_whole(fs: FileSystem) -> None:
    # As editors, rsync and many others replace a file.
    write_file(fs, "a", b"old")
    with opened(fs, ".a.tmp", RW_NEW | os.O_EXCL) as fd:
        fs.pwrite(fd, b"new", 0)
        fs.rename(".a.tmp", "a")
        fs.pwrite(fd, b" more", 3)
    assert read_file(fs, "a") == b"new more"
    assert fs.listdir("") == ["a"]


@pytest.mark.semantics("C23", "C25")
@pytest.mark.parametrize("size", [0, 10, 3 * MIB])
def test_a_stored_file_that_is_unlinked_or_replaced_while_open_can_be_read_on(
    fs: FileSystem, size: int
) -> None:
    data = random.Random(size).randbytes(size)
    write_file(fs, "unlinked", data)
    write_file(fs, "replaced", data)
    with opened(fs, "unlinked") as one, opened(fs, "replaced") as other:
        assert fs.pread(one, 5, 0) == data[:5]
        fs.unlink("unlinked")
        write_file(fs, "new", b"new")
        fs.rename("new", "replaced")
        assert fs.pread(one, 100, size // 2) == data[size // 2 : size // 2 + 100]
        assert fs.pread(other, 100, size // 2) == data[size // 2 : size // 2 + 100]
    assert fs.listdir("") == ["replaced"]
    assert read_file(fs, "replaced") == b"new"


# -- names ----------------------------------------------------------------------------------------


def test_rename_moves_a_file_with_its_content_and_time(fs: FileSystem) -> None:
    fs.mkdir("d")
    write_file(fs, "a", b"content")
    fs.utime("a", 1_234_567_890_123_456_789)
    fs.rename("a", "d/b")
    assert sorted(fs.listdir("")) == ["d"]
    assert fs.listdir("d") == ["b"]
    assert read_file(fs, "d/b") == b"content"
    assert fs.lstat("d/b").mtime_ns == 1_234_567_890_123_456_789
    with fails(errno.ENOENT):
        fs.lstat("a")


@pytest.mark.semantics("C25")
def test_rename_replaces_a_file(fs: FileSystem) -> None:
    write_file(fs, "a", b"new")
    write_file(fs, "b", b"older")
    fs.rename("a", "b")
    assert fs.listdir("") == ["b"]
    assert read_file(fs, "b") == b"new"


def test_rename_to_itself_changes_nothing(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.rename("a", "a")
    assert read_file(fs, "a") == b"1"


def test_an_empty_file_can_be_renamed(fs: FileSystem) -> None:
    write_file(fs, "a", b"")
    fs.rename("a", "b")
    assert read_file(fs, "b") == b""
    assert fs.listdir("") == ["b"]


@pytest.mark.semantics("C24")
def test_directories_are_made_listed_and_removed(fs: FileSystem) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    assert fs.listdir("") == ["d"]
    assert fs.listdir("d") == ["e"]
    assert fs.lstat("d/e").is_dir
    with fails(errno.EEXIST):
        fs.mkdir("d/e")
    with fails(errno.ENOTEMPTY):
        fs.rmdir("d")
    fs.rmdir("d/e")
    assert fs.listdir("d") == []
    fs.rmdir("d")
    assert fs.listdir("") == []
    with fails(errno.ENOENT):
        fs.rmdir("d")


def test_mkdir_over_a_file_is_eexist(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    with fails(errno.EEXIST):
        fs.mkdir("a")


@pytest.mark.semantics("C24")
def test_a_directory_with_a_file_is_not_removed(fs: FileSystem) -> None:
    fs.mkdir("d")
    write_file(fs, "d/a", b"1")
    with fails(errno.ENOTEMPTY):
        fs.rmdir("d")
    fs.unlink("d/a")
    fs.rmdir("d")


def test_a_directory_with_a_file_that_is_not_closed_yet_is_not_removed(fs: FileSystem) -> None:
    fs.mkdir("d")
    with opened(fs, "d/a", RW_NEW), fails(errno.ENOTEMPTY):
        fs.rmdir("d")
    assert fs.listdir("d") == ["a"]


@pytest.mark.semantics("N5", "C22")
def test_an_emptied_directory_stays_until_it_is_removed(fs: FileSystem) -> None:
    fs.mkdir("d")
    fs.mkdir("d/e")
    write_file(fs, "d/e/a", b"1")
    write_file(fs, "d/e/b", b"1")
    fs.unlink("d/e/a")
    fs.rename("d/e/b", "b")
    assert fs.listdir("d/e") == []
    assert fs.listdir("d") == ["e"]
    fs.rmdir("d/e")
    assert fs.listdir("d") == []


def test_a_removed_name_can_change_its_kind(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.unlink("a")
    fs.mkdir("a")
    write_file(fs, "a/b", b"2")
    fs.unlink("a/b")
    fs.rmdir("a")
    write_file(fs, "a", b"3")
    assert read_file(fs, "a") == b"3"


def test_a_deep_tree_can_be_made_walked_and_removed(fs: FileSystem) -> None:
    path = "d"
    for depth in range(8):
        fs.mkdir(path)
        write_file(fs, f"{path}/f", b"%d" % depth)
        path += "/d"
    seen = []
    path = "d"
    for _ in range(8):
        seen.append(read_file(fs, f"{path}/f"))
        path += "/d"
    assert seen == [b"%d" % depth for depth in range(8)]
    for depth in range(8, 0, -1):
        path = "/".join(["d"] * depth)
        fs.unlink(f"{path}/f")
        fs.rmdir(path)
    assert fs.listdir("") == []


# -- attributes -----------------------------------------------------------------------------------


def test_a_file_has_the_time_of_its_last_write(fs: FileSystem) -> None:
    before = time.time_ns()
    write_file(fs, "a", b"1")
    after = time.time_ns()
    # The kernel's clock for files ticks every 4 ms or so.
    assert before - 20_000_000 <= fs.lstat("a").mtime_ns <= after


def test_the_time_of_a_file_does_not_change_when_it_is_closed_or_read(fs: FileSystem) -> None:
    with opened(fs, "a", RW_NEW) as fd:
        fs.pwrite(fd, b"1", 0)
        written = fs.lstat("a").mtime_ns
    assert fs.lstat("a").mtime_ns == written
    read_file(fs, "a")
    assert fs.lstat("a").mtime_ns == written


@pytest.mark.parametrize(
    "mtime_ns", [0, 1, 1_000_000_000, 1_234_567_890_123_456_789, 4_000_000_000_000_000_001]
)
def test_a_given_time_is_kept_to_the_nanosecond(fs: FileSystem, mtime_ns: int) -> None:
    write_file(fs, "a", b"1")
    fs.utime("a", mtime_ns)
    assert fs.lstat("a").mtime_ns == mtime_ns
    assert read_file(fs, "a") == b"1"


def test_a_time_given_before_the_close_is_kept(fs: FileSystem) -> None:
    # As cp -p and rsync give it.
    with opened(fs, "a", RW_NEW) as fd:
        fs.pwrite(fd, b"1", 0)
        fs.utime("a", 1_234_567_890_123_456_789)
    assert fs.lstat("a").mtime_ns == 1_234_567_890_123_456_789


def test_a_write_after_a_given_time_is_newer(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.utime("a", 1_000_000_000)
    write_file(fs, "a", b"2")
    assert fs.lstat("a").mtime_ns > 1_600_000_000 * 10**9


def test_a_directory_keeps_a_given_time(fs: FileSystem) -> None:
    fs.mkdir("d")
    fs.utime("d", 1_234_567_890_123_456_789)
    assert fs.lstat("d").mtime_ns == 1_234_567_890_123_456_789
    assert fs.listdir("d") == []


def test_modes_are_kept(fs: FileSystem) -> None:
    fs.close(fs.open("a", RW_NEW, 0o600))
    fs.mkdir("d", 0o700)
    assert stat.S_IMODE(fs.lstat("a").mode) == 0o600
    assert stat.S_IMODE(fs.lstat("d").mode) == 0o700
    fs.chmod("a", 0o755)
    fs.chmod("d", 0o750)
    assert stat.S_IMODE(fs.lstat("a").mode) == 0o755
    assert stat.S_IMODE(fs.lstat("d").mode) == 0o750
    assert stat.S_ISREG(fs.lstat("a").mode)
    assert fs.lstat("d").is_dir


def test_a_change_of_mode_keeps_the_time_and_a_change_of_time_the_mode(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.utime("a", 1_234_567_890_123_456_789)
    fs.chmod("a", 0o640)
    assert fs.lstat("a").mtime_ns == 1_234_567_890_123_456_789
    fs.utime("a", 987_654_321)
    assert stat.S_IMODE(fs.lstat("a").mode) == 0o640


def test_a_rewritten_and_a_renamed_file_keep_their_mode(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.chmod("a", 0o750)
    write_file(fs, "a", b"22")
    assert stat.S_IMODE(fs.lstat("a").mode) == 0o750
    fs.rename("a", "b")
    assert stat.S_IMODE(fs.lstat("b").mode) == 0o750


# -- symbolic links -------------------------------------------------------------------------------


@pytest.mark.semantics("C29")
@pytest.mark.parametrize("target", ["a", "missing", "../x", "/etc/passwd", "ä b", "x" * 1000])
def test_a_symbolic_link_keeps_its_target(fs: FileSystem, target: str) -> None:
    fs.symlink(target, "link")
    assert fs.readlink("link") == target
    found = fs.lstat("link")
    assert stat.S_ISLNK(found.mode)
    assert found.size == len(target.encode())
    assert fs.listdir("") == ["link"]
    with fails(errno.EEXIST):
        fs.symlink(target, "link")
    fs.unlink("link")
    assert fs.listdir("") == []


def test_a_link_is_followed_by_open_and_not_by_unlink(fs: FileSystem) -> None:
    write_file(fs, "a", b"content")
    fs.symlink("a", "link")
    assert read_file(fs, "link") == b"content"
    write_file(fs, "link", b"changed")
    assert read_file(fs, "a") == b"changed"
    fs.unlink("link")
    assert fs.listdir("") == ["a"]


def test_readlink_of_anything_else_is_einval(fs: FileSystem) -> None:
    write_file(fs, "a", b"1")
    fs.mkdir("d")
    for name in ("a", "d"):
        with fails(errno.EINVAL):
            fs.readlink(name)


def test_a_link_can_be_renamed(fs: FileSystem) -> None:
    fs.symlink("target", "a")
    fs.rename("a", "b")
    assert fs.readlink("b") == "target"
    assert stat.S_ISLNK(fs.lstat("b").mode)
