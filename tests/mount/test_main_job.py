"""The main job: files go in and out unchanged, and every other Swift client sees the same."""

from __future__ import annotations

import errno
import mmap
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import (
    KIB,
    MIB,
    Served,
    clean_environ,
    listed,
    md5,
    mount_command,
    pattern,
    refused,
    run,
    stored,
    succeed,
    wait_until,
)

T = TypeVar("T")

# Short, so that tests need not wait long; what it promises is tested, never how fast things are.
SHORT_TTL_S = 1.0
SWIFT = [sys.executable, "-m", "swiftclient.shell"]


# What a mount logs when it refuses to mix two versions.
STALE = "WARNING allasfs.app.fuse_ops: (open|read) .*: ESTALE"


def read_now(path: Path) -> bytes | None:
    """Return a file's bytes; None while its name stands for a version that is gone."""
    return unless_stale(path.read_bytes)


def unless_stale(read: Callable[[], T]) -> T | None:
    """Return what is read; None when that is of a version which is gone."""
    try:
        return read()
    except OSError as exc:
        if exc.errno != errno.ESTALE:
            raise
        return None


@contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture(scope="session")
def swift_tool(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for the ``swift`` command."""
    return clean_environ(tmp_path_factory.mktemp("home"), cloud.token().environ())


# -- whole trees ----------------------------------------------------------------------------------

# What shells, URLs, listings and sorting take for something else.
ODD_NAMES = (
    "with space",
    " leading and trailing ",
    "ääkköset",
    "日本語",
    "emoji 🐟",
    "a%20b",
    "a+b",
    "a&b=c",
    "a?b",
    "a#b",
    "a;b",
    "'quoted'",
    '"double"',
    "back\\slash",
    "new\nline",
    "tab\tbed",
    "-dash",
    "~tilde",
    ".hidden",
    "..two",
    "...",
    "a:b",
    "[a-z]*",
    "$HOME",
    "ü" * 120,
    "x" * 255,
)


def real_tree(top: Path) -> int:
    """Make a tree of more than 1000 real and odd files; return how many."""
    source = Path(sysconfig.get_paths()["stdlib"])
    for package in ("asyncio", "concurrent", "email", "encodings", "html", "json", "unittest"):
        shutil.copytree(source / package, top / "lib" / package)
    odd = top / "odd names"
    odd.mkdir()
    for number, name in enumerate(ODD_NAMES):
        (odd / name).write_bytes(pattern(number * 97, seed=number))
    for number in range(700):
        directory = top / f"level {number % 7}" / ODD_NAMES[number % 3] / f"ä {number % 5}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"file {number}").write_bytes(pattern(number, seed=number))
    return sum(path.is_file() for path in top.rglob("*"))


def test_a_tree_goes_in_and_out_unchanged(
    project: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    count = real_tree(tree)
    assert count > 1000
    succeed("cp", "-r", tree, project / bucket / "tree")
    succeed("cp", "-r", project / bucket / "tree", tmp_path / "back")
    succeed("diff", "-r", tree, tmp_path / "back")
    expected = {
        str(path.relative_to(tmp_path)): (path.stat().st_size, md5(path.read_bytes()))
        for path in tree.rglob("*")
        if path.is_file()
    }
    files = {key: facts for key, facts in listed(swift, bucket).items() if not key.endswith("/")}
    assert files == expected


def test_a_tree_of_another_client_comes_out_unchanged(
    project: Path, bucket: str, swift_tool: dict[str, str], tmp_path: Path
) -> None:
    odd = tmp_path / "odd"
    odd.mkdir()
    for number, name in enumerate(ODD_NAMES):
        (odd / name).write_bytes(pattern(1 + number * 97, seed=number))
    done = run(
        "bash", "-c", f"cd '{tmp_path}' && {' '.join(SWIFT)} upload '{bucket}' odd", env=swift_tool
    )
    assert done.returncode == 0, done.stderr
    succeed("diff", "-r", odd, project / bucket / "odd")


def test_the_swift_command_sees_names_sizes_and_checksums(
    project: Path, bucket: str, swift_tool: dict[str, str]
) -> None:
    data = pattern(MIB + 7)
    (project / bucket / "a directory").mkdir()
    (project / bucket / "a directory" / "file").write_bytes(data)
    (project / bucket / "small").write_bytes(b"small")
    long = succeed(*SWIFT, "list", "--long", bucket, env=swift_tool)
    words = [line.split(None, 4) for line in long.splitlines()]
    # The last line is the total; a directory is an empty object.
    assert [(each[0], each[-1]) for each in words[:-1]] == [
        ("0", "a directory/"),
        (str(len(data)), "a directory/file"),
        ("5", "small"),
    ]
    about = succeed(*SWIFT, "stat", bucket, "a directory/file", env=swift_tool)
    assert re.search(rf"Content Length: {len(data)}$", about, re.M)
    assert re.search(rf"ETag: {md5(data)}$", about, re.M)
    printed = run(*SWIFT, "download", "-o", "-", bucket, "small", env=swift_tool)
    assert printed.stdout == "small"


@pytest.mark.parametrize(
    "size", [0, 1, 128 * KIB - 1, 128 * KIB, 128 * KIB + 1, MIB, MIB + 1, 5 * MIB]
)
def test_a_file_of_any_size_is_the_same_everywhere(
    project: Path, bucket: str, swift: Connection, tmp_path: Path, size: int
) -> None:
    data = pattern(size)
    (tmp_path / "there").write_bytes(data)
    swift.put_object(bucket, "theirs", data)
    succeed("cp", tmp_path / "there", project / bucket / "ours")
    assert stored(swift, bucket, "ours") == data
    for name in ("ours", "theirs"):
        path = project / bucket / name
        assert path.stat().st_size == size
        assert path.read_bytes() == data
        succeed("cp", path, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == data


# -- what other clients do ------------------------------------------------------------------------


@pytest.mark.semantics("R5")
def test_another_clients_changes_show_when_the_ttl_is_over(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "changed", b"before")
    swift.put_object(bucket, "removed", b"content")
    served = mount(ttl=SHORT_TTL_S)
    served.allow(STALE)
    top = served.path / bucket
    assert sorted(os.listdir(top)) == ["changed", "removed"]
    assert (top / "changed").read_bytes() == b"before"
    swift.put_object(bucket, "new", b"content")
    swift.put_object(bucket, "changed", b"afterwards")
    swift.delete_object(bucket, "removed")
    wait_until((top / "new").exists, "a new object shows")
    wait_until(lambda: not (top / "removed").exists(), "a removed object has gone")
    wait_until(lambda: (top / "changed").stat().st_size == 10, "a changed object has its new size")
    assert (top / "changed").read_bytes() == b"afterwards"
    assert (top / "new").read_bytes() == b"content"
    assert sorted(os.listdir(top)) == ["changed", "new"]


@pytest.mark.semantics("C10")
@pytest.mark.parametrize("new", [b"after!", b"much longer", b"now"], ids=["same", "more", "less"])
def test_a_replaced_file_is_read_whole_whenever_it_is_read(
    mount: MakeMount, bucket: str, swift: Connection, new: bytes
) -> None:
    # The kernel still has pages and size of the old version when the new one is found.
    swift.put_object(bucket, "file", b"before")
    served = mount(ttl=SHORT_TTL_S)
    served.allow(STALE)
    path = served.path / bucket / "file"
    assert path.read_bytes() == b"before"
    swift.put_object(bucket, "file", new)
    seen: list[bytes | None] = []

    def has_new_content() -> bool:
        seen.append(read_now(path))
        path.stat()
        return seen[-1] == new

    wait_until(has_new_content, "the new content shows")
    assert set(seen) <= {b"before", None, new}


@pytest.mark.semantics("C10")
def test_a_replaced_file_is_copied_whole_by_cp(
    mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    versions = [pattern(300 * KIB * number, seed=number) for number in (1, 2, 3, 2, 1)]
    swift.put_object(bucket, "file", versions[0])
    served = mount(ttl=SHORT_TTL_S)
    served.allow(STALE)
    path, target = served.path / bucket / "file", tmp_path / "copy"

    def copied(expected: bytes) -> bool:
        if run("cp", path, target).returncode != 0:
            return False
        assert target.read_bytes() in versions
        return target.read_bytes() == expected

    for version in versions:
        swift.put_object(bucket, "file", version)
        wait_until(lambda version=version: copied(version), "the new content is copied")  # type: ignore[misc]


def test_after_estale_the_next_open_finds_the_new_version(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"before")
    served = mount(ttl=3600)
    served.allow(STALE)
    path = served.path / bucket / "file"
    assert path.stat().st_size == 6
    swift.put_object(bucket, "file", b"afterwards")
    seen = {read_now(path) for _ in range(2)}
    assert seen <= {None, b"afterwards"}
    assert path.read_bytes() == b"afterwards"


def test_before_the_ttl_is_over_answers_come_from_the_cache(
    mount: MakeMount, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    swift.put_object(bucket, "there", b"content")
    top = mount(ttl=3600).path / bucket
    assert os.listdir(top) == ["there"]
    swift.put_object(bucket, "new", b"content")
    swift.delete_object(bucket, "there")
    cloud.forget_requests()
    assert os.listdir(top) == ["there"]
    assert not (top / "new").exists()
    assert (top / "there").stat().st_size == 7
    assert cloud.requests() == ()


def test_another_clients_bucket_shows_when_the_ttl_is_over(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    top = mount(ttl=SHORT_TTL_S).path
    assert bucket in os.listdir(top)
    swift.put_container(f"{bucket}-new")
    swift.delete_container(bucket)
    wait_until(lambda: f"{bucket}-new" in os.listdir(top), "a new bucket shows")
    wait_until(lambda: bucket not in os.listdir(top), "a removed bucket has gone")


@pytest.fixture
def pair(mount: MakeMount, bucket: str) -> tuple[Path, Path]:
    """The bucket in two mounts."""
    mounts = [mount(ttl=SHORT_TTL_S) for _ in range(2)]
    for each in mounts:
        each.allow(STALE)
        assert os.listdir(each.path / bucket) == []
    return mounts[0].path / bucket, mounts[1].path / bucket


def test_a_file_of_one_mount_shows_in_another(pair: tuple[Path, Path]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"from here")
    wait_until(lambda: "file" in os.listdir(there), "the file shows there")
    assert (there / "file").read_bytes() == b"from here"


def test_a_file_that_one_mount_removed_goes_in_another(pair: tuple[Path, Path]) -> None:
    here, there = pair
    (here / "file").write_bytes(b"from here")
    wait_until(lambda: "file" in os.listdir(there), "the file shows there")
    (here / "file").unlink()
    wait_until(lambda: os.listdir(there) == [], "the file has gone there")


@pytest.mark.semantics("R8", "L2")
def test_two_mounts_take_turns_in_writing_a_file(pair: tuple[Path, Path]) -> None:
    for number in range(4):
        writer, reader = pair[number % 2], pair[1 - number % 2]
        text = f"turn {number}".encode()
        (writer / "file").write_bytes(text)
        wait_until(
            lambda reader=reader, text=text: (  # type: ignore[misc]
                "file" in os.listdir(reader) and read_now(reader / "file") == text
            ),
            "the other mount reads what was written",
        )


def test_a_file_that_a_mount_has_just_written_goes_when_another_client_removes_it(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    top = mount(ttl=SHORT_TTL_S).path / bucket
    (top / "file").write_text("content")
    swift.delete_object(bucket, "file")
    wait_until(lambda: os.listdir(top) == [], "the file has gone", seconds=10 * SHORT_TTL_S)


@pytest.mark.semantics("R4")
def test_own_changes_show_at_once(mount: MakeMount, bucket: str) -> None:
    top = mount(ttl=3600).path / bucket
    assert os.listdir(top) == []
    (top / "file").write_text("1")
    assert os.listdir(top) == ["file"]
    (top / "file").write_text("two")
    assert (top / "file").stat().st_size == 3
    assert (top / "file").read_text() == "two"
    (top / "file").rename(top / "other")
    assert os.listdir(top) == ["other"]
    (top / "other").unlink()
    assert os.listdir(top) == []
    with refused(errno.ENOENT):
        (top / "other").stat()


# -- an object that changes under its reader ------------------------------------------------------

LARGE = 16 * MIB


def read_all(fd: int, size: int) -> bytes:
    """Read on to the end of the file; return what came before an error, which must be ESTALE."""
    pieces: list[bytes] = []
    while True:
        # What the kernel read ahead already is of the old version, which proves nothing.
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        piece = unless_stale(lambda: os.read(fd, size))
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)


@pytest.mark.semantics("R3", "R6")
@pytest.mark.parametrize("new_size", [LARGE, LARGE // 2, 2 * LARGE])
def test_a_reader_never_gets_a_mix_of_two_versions(
    mount: MakeMount, bucket: str, swift: Connection, new_size: int
) -> None:
    swift.put_object(bucket, "file", b"A" * LARGE)
    served = mount(ttl=3600, memory="16M")
    served.allow(STALE)
    with opened(served.path / bucket / "file") as fd:
        assert os.read(fd, 64 * KIB) == b"A" * 64 * KIB
        swift.put_object(bucket, "file", b"B" * new_size)
        rest = read_all(fd, 64 * KIB)
    # All of the old version, or as much of it as came before ESTALE.
    assert len(rest) <= LARGE - 64 * KIB
    assert not rest.strip(b"A")


def test_a_part_that_was_not_read_before_the_change_is_stale(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"A" * LARGE)
    served = mount(ttl=3600)
    served.allow(STALE)
    with opened(served.path / bucket / "file") as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 4 * KIB, 0) == b"A" * 4 * KIB
        swift.put_object(bucket, "file", b"B" * LARGE)
        with refused(errno.ESTALE):
            os.pread(fd, 4 * KIB, LARGE - 4 * KIB)


def test_a_removed_object_is_stale_for_its_reader(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"A" * LARGE)
    served = mount(ttl=3600)
    served.allow(STALE)
    with opened(served.path / bucket / "file") as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(fd, 4 * KIB, 0) == b"A" * 4 * KIB
        swift.delete_object(bucket, "file")
        with refused(errno.ESTALE):
            os.pread(fd, 4 * KIB, LARGE - 4 * KIB)


def test_direct_reads_are_of_one_version_too(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"A" * LARGE)
    served = mount(ttl=3600, memory="16M")
    served.allow(STALE)
    seen = b""
    # Direct reads want memory at page boundaries, which an anonymous map is.
    with (
        mmap.mmap(-1, 128 * KIB) as buffer,
        opened(served.path / bucket / "file", os.O_RDONLY | os.O_DIRECT) as fd,
    ):
        for number in range(LARGE // len(buffer)):
            if number == 2:
                swift.put_object(bucket, "file", b"B" * LARGE)
            seen += buffer[: unless_stale(lambda: os.readv(fd, [buffer])) or 0]
    assert seen
    assert not seen.strip(b"A")


# -- changing files -------------------------------------------------------------------------------


def test_touch_makes_an_empty_file(project: Path, bucket: str, swift: Connection) -> None:
    succeed("touch", project / bucket / "file")
    assert (project / bucket / "file").stat().st_size == 0
    assert listed(swift, bucket) == {"file": (0, md5(b""))}


@pytest.mark.semantics("A1")
def test_a_time_that_a_program_gives_is_kept_for_every_client(
    project: Path, bucket: str, swift: Connection, mount: MakeMount
) -> None:
    path = project / bucket / "file"
    path.write_text("content")
    succeed("touch", "-d", "2001-02-03 04:05:06.789 UTC", path)
    when_ns = 981173106_789000000
    assert path.stat().st_mtime_ns == when_ns
    assert swift.head_object(bucket, "file")["x-object-meta-mtime"] == "981173106.789"
    assert stored(swift, bucket, "file") == b"content"


def test_touch_of_one_time_leaves_the_other_one(
    project: Path, bucket: str, swift: Connection
) -> None:
    path = project / bucket / "file"
    path.write_text("content")
    succeed("touch", "-m", "-d", "@1000000001", path)
    assert path.stat().st_mtime_ns == 1_000_000_001_000_000_000
    succeed("touch", "-a", "-d", "@1", path)
    assert path.stat().st_mtime_ns == 1_000_000_001_000_000_000
    before = path.stat().st_ctime_ns
    succeed("touch", "-m", path)
    assert path.stat().st_mtime_ns > before
    assert stored(swift, bucket, "file") == b"content"


def test_cp_and_tar_keep_times(project: Path, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "t"
    source.mkdir()
    (source / "file").write_text("content")
    os.utime(source / "file", ns=(0, 1_234_567_890_123_456_789))
    succeed("cp", "-a", source / "file", project / bucket / "copied")
    succeed("tar", "-cf", tmp_path / "t.tar", "-C", source, "file")
    succeed("tar", "-xf", tmp_path / "t.tar", "-C", project / bucket)
    assert (project / bucket / "copied").stat().st_mtime_ns == 1_234_567_890_123_456_789
    assert int((project / bucket / "file").stat().st_mtime) == 1_234_567_890


@pytest.mark.semantics("A1")
def test_stat_says_the_same_before_and_after_the_close(project: Path, bucket: str) -> None:
    path = project / bucket / "file"
    with path.open("wb") as file:
        file.write(b"content")
        file.flush()
        open_stat = path.stat()
    closed_stat = path.stat()
    assert closed_stat.st_mtime_ns == open_stat.st_mtime_ns
    assert closed_stat.st_size == open_stat.st_size == 7


@pytest.mark.semantics("A2", "A4")
def test_modes_and_links_are_kept(
    project: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    source = tmp_path / "t"
    (source / "d").mkdir(parents=True)
    (source / "script").write_text("#!/bin/sh\necho from a script\n")
    (source / "script").chmod(0o755)
    (source / "secret").write_text("")
    (source / "secret").chmod(0o400)
    (source / "d" / "link").symlink_to("../script")
    (source / "broken").symlink_to("nowhere/at all ä")
    succeed("cp", "-a", source, project / bucket / "t")
    there = project / bucket / "t"
    for path in source.rglob("*"):
        copy = there / path.relative_to(source)
        assert copy.lstat().st_mode == path.lstat().st_mode
        if path.is_symlink():
            assert os.readlink(copy) == os.readlink(path)
    assert succeed(there / "d" / "link") == "from a script\n"
    # As other clients and later mounts find them.
    assert swift.head_object(bucket, "t/script")["x-object-meta-mode"].endswith("755")
    assert swift.head_object(bucket, "t/d/link")["content-type"] == "inode/symlink"
    assert stored(swift, bucket, "t/d/link") == b"../script"


def test_appending_keeps_what_was_there(project: Path, bucket: str, swift: Connection) -> None:
    swift.put_object(bucket, "file", pattern(3 * MIB))
    with (project / bucket / "file").open("ab") as file:
        file.write(b"and more")
    assert stored(swift, bucket, "file") == pattern(3 * MIB) + b"and more"
    assert (project / bucket / "file").read_bytes() == pattern(3 * MIB) + b"and more"


@pytest.mark.semantics("C15", "C16")
def test_a_change_in_the_middle_keeps_the_rest(
    project: Path, bucket: str, swift: Connection
) -> None:
    data = bytearray(pattern(3 * MIB))
    swift.put_object(bucket, "file", bytes(data))
    with (project / bucket / "file").open("r+b") as file:
        file.seek(MIB + 5)
        file.write(b"changed")
    data[MIB + 5 : MIB + 12] = b"changed"
    assert stored(swift, bucket, "file") == data
    assert (project / bucket / "file").read_bytes() == data


@pytest.mark.semantics("C18")
@pytest.mark.parametrize("size", [0, 1, 128 * KIB, MIB + 5, 2 * MIB])
@pytest.mark.parametrize("by", ["path", "handle", "command"])
def test_truncate_cuts_or_adds_zeros(
    project: Path, bucket: str, swift: Connection, size: int, by: str
) -> None:
    data = pattern(MIB + 9)
    path = project / bucket / "file"
    path.write_bytes(data)
    if by == "path":
        os.truncate(path, size)
    elif by == "command":
        succeed("truncate", "-s", str(size), path)
    else:
        with opened(path, os.O_RDWR) as fd:
            os.ftruncate(fd, size)
            assert os.fstat(fd).st_size == size
    expected = data[:size] + bytes(max(0, size - len(data)))
    assert stored(swift, bucket, "file") == expected
    assert path.read_bytes() == expected


def test_a_file_with_a_hole_has_zeros_there(project: Path, bucket: str, swift: Connection) -> None:
    with (project / bucket / "file").open("wb") as file:
        file.seek(MIB)
        file.write(b"end")
    assert stored(swift, bucket, "file") == bytes(MIB) + b"end"


def test_rename_moves_a_file_also_to_another_bucket(
    project: Path, bucket: str, swift: Connection
) -> None:
    other = project / f"{bucket}-other"
    other.mkdir()
    (project / bucket / "file").write_bytes(pattern(MIB))
    (project / bucket / "file").rename(other / "there")
    assert stored(swift, other.name, "there") == pattern(MIB)
    assert listed(swift, bucket) == {}
    assert (other / "there").read_bytes() == pattern(MIB)


def test_rename_replaces_a_file(project: Path, bucket: str, swift: Connection) -> None:
    (project / bucket / "new").write_text("new content")
    (project / bucket / "old").write_text("old")
    (project / bucket / "new").rename(project / bucket / "old")
    assert (project / bucket / "old").read_text() == "new content"
    assert listed(swift, bucket) == {"old": (11, md5(b"new content"))}


def test_an_atomic_save_by_rename_is_read_whole(
    project: Path, bucket: str, swift: Connection
) -> None:
    path = project / bucket / "document"
    for number in range(5):
        temporary = path.with_suffix(f".{number}.tmp")
        with temporary.open("w") as file:
            file.write(f"version {number}")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        assert path.read_text() == f"version {number}"
    assert stored(swift, bucket, "document") == b"version 4"
    assert list(listed(swift, bucket)) == ["document"]


def test_mv_moves_a_directory(project: Path, bucket: str, swift: Connection) -> None:
    (project / bucket / "d" / "e").mkdir(parents=True)
    (project / bucket / "d" / "e" / "file").write_text("content")
    succeed("mv", project / bucket / "d", project / bucket / "moved")
    assert (project / bucket / "moved" / "e" / "file").read_text() == "content"
    assert not (project / bucket / "d").exists()
    assert [key for key in listed(swift, bucket) if not key.endswith("/")] == ["moved/e/file"]


@pytest.mark.semantics("C24")
def test_buckets_are_made_and_removed(project: Path, swift: Connection, bucket: str) -> None:
    made = project / f"{bucket}-made"
    made.mkdir()
    swift.head_container(made.name)
    (made / "file").write_text("content")
    with refused(errno.ENOTEMPTY):
        made.rmdir()
    (made / "file").unlink()
    made.rmdir()
    with pytest.raises(ClientException, match="404"):
        swift.head_container(made.name)
    assert not made.exists()
    with refused(errno.EEXIST):
        (project / bucket).mkdir()


def test_directories_are_made_and_removed(project: Path, bucket: str, swift: Connection) -> None:
    directory = project / bucket / "d"
    directory.mkdir()
    assert directory.is_dir()
    (directory / "file").write_text("content")
    with refused(errno.ENOTEMPTY):
        directory.rmdir()
    (directory / "file").unlink()
    assert directory.is_dir()
    directory.rmdir()
    assert not directory.exists()
    assert listed(swift, bucket) == {}


@pytest.mark.semantics("N5")
def test_a_directory_without_marker_stays_when_its_last_file_goes(
    project: Path, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "d/file", b"content")
    (project / bucket / "d" / "file").unlink()
    assert os.listdir(project / bucket / "d") == []
    (project / bucket / "d").rmdir()
    assert listed(swift, bucket) == {}


@pytest.mark.semantics("C7")
def test_a_file_beside_the_buckets_is_refused(project: Path) -> None:
    with refused(errno.EPERM):
        (project / "file").write_text("content")


# -- files that are open --------------------------------------------------------------------------


def test_a_reader_sees_what_a_writer_has_written_so_far(project: Path, bucket: str) -> None:
    path = project / bucket / "file"
    with path.open("wb", buffering=0) as writer, opened(path) as reader:
        written = b""
        for number in range(4):
            piece = pattern(200 * KIB, seed=number)
            writer.write(piece)
            written += piece
            assert path.stat().st_size == os.fstat(reader).st_size == len(written)
            assert os.pread(reader, MIB, 0) == written
    assert path.read_bytes() == written


@pytest.mark.semantics("R1", "C19")
def test_a_file_is_stored_when_fsync_returns(project: Path, bucket: str, swift: Connection) -> None:
    with (project / bucket / "file").open("wb", buffering=0) as file:
        file.write(b"content")
        os.fsync(file.fileno())
        assert stored(swift, bucket, "file") == b"content"
        file.write(b" and more")
    assert stored(swift, bucket, "file") == b"content and more"


@pytest.mark.semantics("R1", "C19")
def test_a_file_is_stored_when_close_returns(project: Path, bucket: str, swift: Connection) -> None:
    # RELEASE comes later: nothing may depend on it.
    for number in range(20):
        data = pattern(100 + number, seed=number)
        (project / bucket / "file").write_bytes(data)
        assert stored(swift, bucket, "file") == data


@pytest.mark.semantics("C23")
def test_an_unlinked_open_file_can_still_be_used(
    project: Path, bucket: str, swift: Connection
) -> None:
    path = project / bucket / "file"
    with path.open("w+b", buffering=0) as file:
        file.write(b"content")
        path.unlink()
        assert not path.exists()
        file.write(b" and more")
        file.seek(0)
        assert file.read() == b"content and more"
        assert os.fstat(file.fileno()).st_size == 16
        assert os.listdir(project / bucket) == []
    assert listed(swift, bucket) == {}
    assert os.listdir(project / bucket) == []


@pytest.mark.semantics("C25")
def test_a_renamed_open_file_is_written_under_its_new_name(
    project: Path, bucket: str, swift: Connection
) -> None:
    old, new = project / bucket / "old", project / bucket / "new"
    with old.open("wb", buffering=0) as file:
        file.write(b"content")
        old.rename(new)
        file.write(b" and more")
    assert new.read_bytes() == b"content and more"
    assert {key: size for key, (size, _) in listed(swift, bucket).items()} == {"new": 16}


@pytest.mark.semantics("C13")
def test_a_map_of_a_file_has_its_content(project: Path, bucket: str, swift: Connection) -> None:
    data = pattern(3 * MIB)
    swift.put_object(bucket, "file", data)
    with (project / bucket / "file").open("rb") as file:
        view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        assert view[2 * MIB : 2 * MIB + 100] == data[2 * MIB : 2 * MIB + 100]
        assert view[:] == data
        view.close()


def test_a_database_can_be_kept_on_the_mount(project: Path, bucket: str) -> None:
    script = (
        "import sqlite3, sys; base = sqlite3.connect(sys.argv[1])\n"
        "with base: base.execute('create table if not exists t (n)');"
        " base.executemany('insert into t values (?)', [(n,) for n in range(500)])\n"
        "print(base.execute('select count(*), sum(n) from t').fetchone())\n"
    )
    for times in (1, 2):
        printed = succeed(sys.executable, "-c", script, project / bucket / "base.sqlite")
        assert printed == f"({500 * times}, {124750 * times})\n"


# -- large objects --------------------------------------------------------------------------------

SEGMENTED = {"segment-threshold": "4M", "segment-size": "1M"}


@pytest.fixture(scope="module")
def large(
    cloud: Cloud, tmp_path_factory: pytest.TempPathFactory, prerequisites: None
) -> Iterator[Path]:
    """A mount that makes segments of a mebibyte."""
    folder = tmp_path_factory.mktemp("m")
    one = Served(folder, mount_command("", SEGMENTED), clean_environ(folder, cloud.environ))
    one.start()
    yield one.path
    one.stop()
    assert one.loud_lines() == []


class TestLargeObjects:
    """Files above the threshold: one name in the bucket, segments in another."""

    SIZE = 5 * MIB + 123

    def test_the_swift_command_downloads_it_whole(
        self,
        large: Path,
        bucket: str,
        swift: Connection,
        swift_tool: dict[str, str],
        tmp_path: Path,
    ) -> None:
        data = pattern(self.SIZE)
        (large / bucket / "file").write_bytes(data)
        segments = listed(swift, f"{bucket}_segments")
        assert [size for size, _ in segments.values()] == [MIB] * 5 + [123]
        target = tmp_path / "downloaded"
        succeed(*SWIFT, "download", "-o", target, bucket, "file", env=swift_tool)
        assert target.read_bytes() == data
        head = swift.head_object(bucket, "file")
        assert int(head["content-length"]) == self.SIZE

    @pytest.mark.semantics("N2")
    def test_it_reads_back_and_its_bucket_of_segments_is_hidden(
        self, large: Path, bucket: str
    ) -> None:
        data = pattern(self.SIZE)
        (large / bucket / "file").write_bytes(data)
        assert (large / bucket / "file").read_bytes() == data
        assert (large / bucket / "file").stat().st_size == self.SIZE
        assert f"{bucket}_segments" not in os.listdir(large)

    @pytest.mark.semantics("C22")
    def test_rm_leaves_no_segment(self, large: Path, bucket: str, swift: Connection) -> None:
        (large / bucket / "file").write_bytes(pattern(self.SIZE))
        (large / bucket / "file").unlink()
        assert listed(swift, bucket) == {}
        assert listed(swift, f"{bucket}_segments") == {}

    @pytest.mark.parametrize("size", [10, 6 * MIB], ids=["small", "large"])
    def test_overwriting_leaves_no_orphan(
        self, large: Path, bucket: str, swift: Connection, size: int
    ) -> None:
        (large / bucket / "file").write_bytes(pattern(self.SIZE))
        (large / bucket / "file").write_bytes(pattern(size, seed=1))
        assert stored(swift, bucket, "file") == pattern(size, seed=1)
        kept = sum(each for each, _ in listed(swift, f"{bucket}_segments").values())
        assert kept == (size if size > 4 * MIB else 0)

    def test_renaming_over_it_leaves_no_orphan(
        self, large: Path, bucket: str, swift: Connection
    ) -> None:
        (large / bucket / "file").write_bytes(pattern(self.SIZE))
        (large / bucket / "other").write_text("small")
        (large / bucket / "other").rename(large / bucket / "file")
        assert listed(swift, f"{bucket}_segments") == {}
        assert stored(swift, bucket, "file") == b"small"

    def test_renaming_it_keeps_its_content(
        self, large: Path, bucket: str, swift: Connection
    ) -> None:
        data = pattern(self.SIZE)
        (large / bucket / "file").write_bytes(data)
        (large / bucket / "file").rename(large / bucket / "other")
        assert (large / bucket / "other").read_bytes() == data
        assert stored(swift, bucket, "other") == data
        (large / bucket / "other").unlink()
        assert listed(swift, f"{bucket}_segments") == {}

    def test_appending_to_it_keeps_its_content(
        self, large: Path, bucket: str, swift: Connection
    ) -> None:
        data = pattern(self.SIZE)
        (large / bucket / "file").write_bytes(data)
        with (large / bucket / "file").open("ab") as file:
            file.write(b"more")
        assert stored(swift, bucket, "file") == data + b"more"
        kept = sum(each for each, _ in listed(swift, f"{bucket}_segments").values())
        assert kept == self.SIZE + 4

    def test_one_of_the_swift_command_reads_back(
        self, large: Path, bucket: str, swift_tool: dict[str, str], tmp_path: Path
    ) -> None:
        data = pattern(self.SIZE)
        (tmp_path / "file").write_bytes(data)
        for kind in ("--use-slo", "--leave-segments"):
            name = f"theirs{kind}"
            succeed(
                *SWIFT,
                *("upload", "-S", str(MIB), kind, "--object-name", name, bucket),
                tmp_path / "file",
                env=swift_tool,
            )
        for kind in ("--use-slo", "--leave-segments"):
            wait_until((large / bucket / f"theirs{kind}").exists, "the object shows")
            assert (large / bucket / f"theirs{kind}").stat().st_size == self.SIZE
            assert (large / bucket / f"theirs{kind}").read_bytes() == data

    def test_a_reader_of_a_replaced_one_gets_no_mix(
        self, mount: MakeMount, bucket: str, swift: Connection
    ) -> None:
        served = mount(ttl=3600, **SEGMENTED)
        served.allow(STALE)
        path = served.path / bucket / "file"
        path.write_bytes(b"A" * LARGE)
        assert listed(swift, f"{bucket}_segments")
        with opened(path) as fd:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            assert os.read(fd, 64 * KIB) == b"A" * 64 * KIB
            swift.put_object(bucket, "file", b"B" * LARGE)
            rest = read_all(fd, 64 * KIB)
        assert not rest.strip(b"A")


@pytest.mark.semantics("C30")
def test_mknod_makes_an_empty_file_that_is_stored(
    project: Path, swift: Connection, bucket: str
) -> None:
    os.mknod(project / bucket / "f", 0o600)
    assert stored(swift, bucket, "f") == b""
    assert (project / bucket / "f").stat().st_mode & 0o777 == 0o600
    with refused(errno.EEXIST):
        os.mknod(project / bucket / "f")
