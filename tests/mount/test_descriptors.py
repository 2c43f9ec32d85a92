"""Descriptors that are duplicated, inherited, opened twice, written through, or whose name goes."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount
from tests.syscalls import (
    KEEP_SIZE,
    PUNCH_HOLE,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    fallocate,
    renameat2,
)

from .support import TEST_LIMIT_S, Served, refused, wait_until

KIB = 1024
MIB = 1024 * KIB
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
LINES = 150
# No device of Linux knows it.
UNKNOWN_IOCTL = 0x00FF_FF00


def stored(swift: Connection, path: Path) -> bytes:
    """Return a file of the mount as another client of the store reads it."""
    data: bytes = swift.get_object(path.parent.name, path.name)[1]
    return data


def child(code: str, *words: object, pass_fds: Sequence[int] = ()) -> str:
    """Let another process run Python code with ``sys.argv[1:]``; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys\n{code}", *map(str, words)],
        pass_fds=pass_fds,
        capture_output=True,
        text=True,
        timeout=TEST_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- duplicated and inherited ---------------------------------------------------------------------


@pytest.mark.semantics("C20")
def test_each_close_of_a_duplicate_stores_what_is_there(mounted: Path, swift: Connection) -> None:
    path = mounted / "file"
    first = os.open(path, NEW)
    second = os.dup(first)
    os.write(first, b"one ")
    os.write(second, b"two ")
    os.close(first)
    assert stored(swift, path) == b"one two "
    os.write(second, b"three")
    assert path.read_bytes() == b"one two three"
    os.close(second)
    assert stored(swift, path) == b"one two three"


@pytest.mark.semantics("C20")
def test_an_inherited_descriptor_is_closed_by_the_child_and_written_on_by_the_parent(
    mounted: Path, swift: Connection
) -> None:
    path = mounted / "file"
    fd = os.open(path, NEW)
    os.write(fd, b"parent ")
    child("fd = int(sys.argv[1]); os.write(fd, b'child '); os.close(fd)", fd, pass_fds=[fd])
    assert stored(swift, path) == b"parent child "
    # The offset is shared, too.
    os.write(fd, b"parent again")
    assert os.pread(fd, 100, 0) == b"parent child parent again"
    os.close(fd)
    assert stored(swift, path) == b"parent child parent again"


@pytest.mark.semantics("C20")
def test_what_a_shell_redirects_into_one_file_is_whole(mounted: Path, swift: Connection) -> None:
    path = mounted / "log"
    words = "; ".join(f"echo line {number}" for number in range(5))
    subprocess.run(["sh", "-c", f"({words}; sh -c 'echo nested') >log"], cwd=mounted, check=True)
    expected = "".join(f"line {number}\n" for number in range(5)) + "nested\n"
    assert stored(swift, path) == expected.encode()


# -- several handles ------------------------------------------------------------------------------


@pytest.mark.semantics("C12", "C2")
def test_processes_read_what_the_others_have_written_and_not_closed(mounted: Path) -> None:
    path = mounted / "file"
    fd = os.open(path, NEW)
    os.write(fd, b"from the parent")
    code = """
fd = os.open(sys.argv[1], os.O_RDWR)
seen = os.pread(fd, 100, 0)
os.pwrite(fd, b"FROM", 0)
os.fsync(fd)
print(seen.decode(), os.fstat(fd).st_size)
"""
    assert child(code, path) == "from the parent 15\n"
    assert os.pread(fd, 100, 0) == b"FROM the parent"
    os.pwrite(fd, b"!" * 10, 100)
    assert path.stat().st_size == 110
    os.close(fd)


@pytest.mark.semantics("C15")
def test_two_processes_append_to_a_file_and_lose_no_line(mounted: Path, swift: Connection) -> None:
    path = mounted / "log"
    path.touch()
    code = f"""
fd = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND)
for number in range({LINES}):
    os.write(fd, f"{{sys.argv[2]}} {{number}}\\n".encode())
"""
    both = [
        subprocess.Popen([sys.executable, "-c", f"import os, sys\n{code}", path, name])
        for name in ("a", "b")
    ]
    assert [each.wait(TEST_LIMIT_S) for each in both] == [0, 0]
    expected = Counter(f"{name} {number}" for name in "ab" for number in range(LINES))
    assert Counter(path.read_text().splitlines()) == expected
    wait_until(lambda: stored(swift, path) == path.read_bytes(), "the store has all lines")


@pytest.mark.semantics("C23")
def test_a_file_that_is_unlinked_lives_on_for_all_its_handles(mounted: Path) -> None:
    path = mounted / "file"
    path.write_bytes(b"content")
    first, second = os.open(path, os.O_RDWR), os.open(path, os.O_RDONLY)
    path.unlink()
    assert os.listdir(mounted) == []
    os.utime(first)
    assert os.fstat(first).st_nlink == 0
    os.pwrite(first, b"CON", 0)
    assert os.pread(second, 100, 0) == b"CONtent"
    os.close(first)
    assert os.pread(second, 100, 0) == b"CONtent"
    os.close(second)
    assert os.listdir(mounted) == []


@pytest.mark.semantics("C23")
def test_an_open_file_that_is_unlinked_or_replaced_gets_no_other_name(
    mounted: Path, cloud: Cloud
) -> None:
    for name in ("unlinked", "replaced", "new"):
        (mounted / name).write_bytes(name.encode())
    fds = [os.open(mounted / name, os.O_RDONLY) for name in ("unlinked", "replaced")]
    cloud.forget_requests()
    (mounted / "unlinked").unlink()
    (mounted / "new").rename(mounted / "replaced")
    asked = Counter(request.method for request in cloud.requests())
    # The copy is that of the rename.
    assert (asked["COPY"], asked["PUT"]) == (1, 0)
    assert os.listdir(mounted) == ["replaced"]
    assert [os.pread(fd, 100, 0) for fd in fds] == [b"unlinked", b"replaced"]
    assert (mounted / "replaced").read_bytes() == b"new"
    for fd in fds:
        os.close(fd)
    assert not [each for each in cloud.requests() if "fuse_hidden" in each.path]


@pytest.mark.semantics("C23")
def test_a_removed_file_in_a_removed_directory_can_be_read_written_and_cut(mounted: Path) -> None:
    directory = mounted / "directory"
    directory.mkdir()
    fd = os.open(directory / "file", NEW)
    os.write(fd, b"content")
    (directory / "file").unlink()
    directory.rmdir()
    os.write(fd, b" and more")
    os.ftruncate(fd, 11)
    assert os.pread(fd, 100, 0) == b"content and"
    with refused(errno.ENOENT):
        os.fstat(fd)
    os.fsync(fd)
    os.close(fd)
    assert os.listdir(mounted) == []


@pytest.mark.semantics("C24")
def test_a_removed_directory_that_is_open_is_unknown(mounted: Path) -> None:
    (mounted / "d").mkdir()
    fd = os.open(mounted / "d", os.O_RDONLY | os.O_DIRECTORY)
    os.fsync(fd)
    assert os.fstat(fd).st_nlink == 2
    (mounted / "d").rmdir()
    calls: tuple[Callable[[], object], ...] = (
        lambda: os.fstat(fd),
        lambda: os.fchmod(fd, 0o700),
        lambda: os.utime(fd),
    )
    for call in calls:
        with refused(errno.ENOENT):
            call()
    os.close(fd)


@pytest.mark.semantics("C6")
def test_a_file_without_a_name_is_refused(mounted: Path) -> None:
    with refused(errno.EOPNOTSUPP):
        os.open(mounted, os.O_TMPFILE | os.O_RDWR)
    with tempfile.TemporaryFile(dir=mounted) as file:
        file.write(b"content")
    assert os.listdir(mounted) == []


@pytest.mark.semantics("C25")
def test_a_file_that_is_renamed_goes_on_for_all_its_handles(
    mounted: Path, swift: Connection
) -> None:
    path, target = mounted / "old", mounted / "new"
    target.write_bytes(b"replaced")
    replaced = os.open(target, os.O_RDONLY)
    first, second = os.open(path, NEW), os.open(path, os.O_RDWR)
    os.write(first, b"before ")
    path.rename(target)
    os.write(first, b"after")
    assert os.pread(second, 100, 0) == b"before after"
    assert os.pread(replaced, 100, 0) == b"replaced"
    for fd in (first, second, replaced):
        os.close(fd)
    assert os.listdir(mounted) == ["new"]
    assert stored(swift, target) == b"before after"


@pytest.mark.semantics("C27")
@pytest.mark.parametrize("flags", [RENAME_NOREPLACE, RENAME_EXCHANGE])
def test_flags_of_renameat2_are_refused(mounted: Path, flags: int) -> None:
    (mounted / "a").write_bytes(b"a")
    if flags == RENAME_EXCHANGE:
        (mounted / "b").write_bytes(b"b")
    with refused(errno.EINVAL):
        renameat2(mounted / "a", mounted / "b", flags)


@pytest.mark.semantics("C27")
def test_mv_without_clobbering_works_all_the_same(mounted: Path) -> None:
    (mounted / "a").write_bytes(b"a")
    subprocess.run(["mv", "-n", mounted / "a", mounted / "b"], check=True)
    assert (mounted / "b").read_bytes() == b"a"


# -- written through ------------------------------------------------------------------------------


@pytest.mark.semantics("C11")
@pytest.mark.parametrize("flag", [os.O_SYNC, os.O_DSYNC], ids=["O_SYNC", "O_DSYNC"])
def test_a_synchronous_write_is_stored_when_it_returns(
    mounted: Path, swift: Connection, flag: int
) -> None:
    path = mounted / "file"
    fd = os.open(path, NEW | flag)
    os.write(fd, b"one")
    assert stored(swift, path) == b"one"
    os.write(fd, b" two")
    assert stored(swift, path) == b"one two"
    os.close(fd)


@pytest.mark.semantics("C11")
def test_direct_io_may_have_any_alignment(mounted: Path, swift: Connection) -> None:
    path = mounted / "file"
    fd = os.open(path, NEW | os.O_DIRECT)
    data = bytes(range(256)) * 1000
    assert os.write(fd, data[:100_001]) == 100_001
    assert os.write(fd, data[100_001:]) == len(data) - 100_001
    assert os.pread(fd, 33, 77_777) == data[77_777 : 77_777 + 33]
    os.close(fd)
    assert stored(swift, path) == data
    # Past the kernel's pages: they do not hide what a descriptor with them has written.
    with path.open("r+b") as file:
        file.write(b"changed")
        file.flush()
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
        assert os.pread(fd, 7, 0) == b"changed"
        os.close(fd)


def test_what_files_do_not_do_is_answered_by_the_kernel(mounted: Path) -> None:
    fd = os.open(mounted / "file", NEW)
    os.write(fd, b"content")
    assert not os.isatty(fd)
    # Twice: what the mount has not is asked for once.
    for _ in range(2):
        with refused(errno.ENOTTY):
            fcntl.ioctl(fd, UNKNOWN_IOCTL)
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLOUT | select.POLLPRI)
        assert poll.poll(0) == [(fd, select.POLLIN | select.POLLOUT)]
    os.close(fd)


# -- room -----------------------------------------------------------------------------------------


@pytest.mark.semantics("C18")
def test_fallocate_makes_a_file_longer_and_keeps_what_is_there(
    mounted: Path, swift: Connection
) -> None:
    path = mounted / "file"
    fd = os.open(path, NEW)
    os.write(fd, b"content")
    os.posix_fallocate(fd, 3, 100_000)
    assert os.fstat(fd).st_size == 100_003
    assert os.pread(fd, 10, 0) == b"content\0\0\0"
    os.posix_fallocate(fd, 0, 10)
    assert os.fstat(fd).st_size == 100_003
    fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 1, 3)
    os.close(fd)
    assert stored(swift, path) == b"c\0\0\0ent" + bytes(99_996)


@pytest.mark.semantics("C18")
def test_posix_fallocate_works_on_a_file_that_is_appended_to(mounted: Path) -> None:
    # glibc cannot help itself there when fallocate is refused.
    fd = os.open(mounted / "file", NEW | os.O_APPEND)
    os.posix_fallocate(fd, 0, 1000)
    os.write(fd, b"end")
    assert os.pread(fd, 10, 998) == b"\0\0end"
    os.close(fd)


@pytest.mark.semantics("C18", "C17")
def test_more_room_than_the_spool_has_is_enospc(mount: MakeMount, bucket: str) -> None:
    served = mount(spool_size="8M")
    served.allow("fallocate .*the spool's limit .*ENOSPC")
    fd = os.open(served.path / bucket / "file", NEW)
    with refused(errno.ENOSPC):
        os.posix_fallocate(fd, 0, 9 * MIB)
    assert os.fstat(fd).st_size == 0
    os.posix_fallocate(fd, 0, 7 * MIB)
    os.close(fd)


# -- little of much -------------------------------------------------------------------------------


@pytest.fixture
def large(fine_grained: Served, bucket: str, swift: Connection) -> Path:
    """A large object of 64 MiB, which nobody on the mount has looked at."""
    swift.put_container(f"{bucket}_segments")
    part = os.urandom(MIB) * 8
    for number in range(8):
        swift.put_object(f"{bucket}_segments", f"part-{number}", part)
    header = {"X-Object-Manifest": f"{bucket}_segments/part-"}
    swift.put_object(bucket, "large", b"", headers=header)
    return fine_grained.path / bucket / "large"


@pytest.mark.semantics("C16")
def test_reading_a_page_of_a_large_file_that_may_be_written_fetches_little(
    large: Path, cloud: Cloud
) -> None:
    cloud.forget_requests()
    fd = os.open(large, os.O_RDWR)
    assert sum(each.sent_bytes for each in cloud.requests() if each.method == "GET") < MIB
    assert len(os.pread(fd, 4096, 40 * MIB)) == 4096
    os.close(fd)
    about_it = [each for each in cloud.requests() if each.path.endswith("/large")]
    assert sum(each.sent_bytes for each in about_it) <= 2 * MIB
    assert [each for each in about_it if each.method == "PUT"] == []


@pytest.mark.semantics("C16")
def test_reading_beside_what_was_written_fetches_little(large: Path, cloud: Cloud) -> None:
    fd = os.open(large, os.O_RDWR)
    cloud.forget_requests()
    os.pwrite(fd, b"changed", 40 * MIB)
    assert os.pread(fd, 10, 40 * MIB)[:7] == b"changed"
    assert sum(each.sent_bytes for each in cloud.requests()) <= 2 * MIB
    large.unlink()
    os.close(fd)


# -- what a mount takes for another client's change -----------------------------------------------


@pytest.mark.semantics("C10")
def test_own_changes_do_not_make_the_next_open_look_again(mount: MakeMount, bucket: str) -> None:
    served = mount(log_level="debug")
    path = served.path / bucket / "file"
    path.write_bytes(b"content")
    changes: list[Callable[[], None]] = [
        lambda: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        lambda: os.truncate(path, 100),
        lambda: _allocate(path),
        lambda: os.utime(path, (1, 1)),
        lambda: os.chmod(path, 0o600),
    ]
    for change in changes:
        path.stat()
        change()
        os.close(os.open(path, os.O_RDONLY))
    assert "ESTALE" not in served.log()


def _allocate(path: Path) -> None:
    fd = os.open(path, os.O_RDWR)
    os.posix_fallocate(fd, 0, 200)
    os.close(fd)
