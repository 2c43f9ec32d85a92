"""What a program gets when the file system fails, and that it is never success or end of file.

Real system calls on a real mount, whose file system (door_server.py) raises what a test asks for.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from allasfs import errors
from allasfs.app.fuse_ops import FuseOps
from tests.conftest import MakeMount
from tests.syscalls import KEEP_SIZE, PUNCH_HOLE, access, fallocate

from .support import Served, clean_environ, is_mounted, refused, wait_until

SERVER = Path(__file__).with_name("door_server.py")

# What must look like a failed disk: what libraries let through without an errno, faults of our
# own, and what would end a program.
UNEXPECTED = (
    "requests.ConnectionError",
    "requests.ReadTimeout",
    "TimeoutError",
    "OSError",
    "ValueError",
    "NameError",
    "MemoryError",
    "RecursionError",
    "KeyboardInterrupt",
    "SystemExit",
)
CONDITIONS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, errors.FsError)
]


class Door:
    """The mount, and what its file system raises."""

    def __init__(self, served: Served, control: Path) -> None:
        self.path = served.path
        self.log = served.log
        self._control = control

    @contextmanager
    def raising(self, method: str, exception: str) -> Iterator[None]:
        """Let this method of the file system fail."""
        self._set(f"{method} {exception}")
        try:
            yield
        finally:
            self._set("")

    def _set(self, text: str) -> None:
        new = self._control.with_suffix(".new")
        new.write_text(text)
        new.replace(self._control)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Iterator[Door]:
    """A mount whose file system fails on request."""
    folder = tmp_path_factory.mktemp("door")
    control = folder / "control"
    control.write_text("")
    command = [sys.executable, str(SERVER), str(control)]
    served = Served(folder, command, clean_environ(folder))
    served.start()
    yield Door(served, control)
    served.stop()


# -- one system call for each operation -----------------------------------------------------------


@contextmanager
def _opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


_numbers = itertools.count()


def _new(top: Path) -> Path:
    """Return a name that was never used."""
    return top / f"new-{next(_numbers)}"


def _create(top: Path) -> None:
    os.close(os.open(_new(top), os.O_CREAT | os.O_WRONLY))


def _open(top: Path) -> None:
    os.close(os.open(top / "file", os.O_RDONLY))


def _read(top: Path) -> None:
    with _opened(top / "file") as fd:
        data = os.read(fd, 100)
        assert data == b"not even an end of file"


def _write(top: Path) -> None:
    with _opened(top / "file") as fd:
        os.write(fd, b"data")


def _truncate_open(top: Path) -> None:
    with _opened(top / "file") as fd:
        os.ftruncate(fd, 1)


def _fsync(top: Path) -> None:
    with _opened(top / "file") as fd:
        os.fsync(fd)


def _fdatasync(top: Path) -> None:
    with _opened(top / "file") as fd:
        os.fdatasync(fd)


def _unlink_open(top: Path) -> None:
    with _opened(top / "file"):
        (top / "file").unlink()


def _allocate(top: Path) -> None:
    with _opened(top / "file") as fd:
        fallocate(fd, 0, 0, 1_000_000)


def _punch_hole(top: Path) -> None:
    with _opened(top / "file") as fd:
        fallocate(fd, PUNCH_HOLE | KEEP_SIZE, 0, 100)


# (operation of the adapter, method of the file system, a system call that leads there)
Call = tuple[str, str, Callable[[Path], object]]
CALLS: tuple[Call, ...] = (
    ("getattr", "getattr", lambda top: os.stat(top / "file")),
    ("access", "getattr", lambda top: access(top / "dir", os.X_OK)),
    ("readdir", "listdir", lambda top: os.listdir(top / "dir")),
    ("statfs", "statfs", os.statvfs),
    ("mkdir", "mkdir", lambda top: os.mkdir(_new(top))),
    ("rmdir", "rmdir", lambda top: os.rmdir(top / "dir")),
    ("unlink", "unlink", lambda top: os.unlink(top / "file")),
    ("rename", "rename", lambda top: os.rename(top / "file", _new(top))),
    ("rename", "hide", _unlink_open),
    ("utimens", "set_attributes", lambda top: os.utime(top / "file")),
    ("chmod", "set_attributes", lambda top: os.chmod(top / "file", 0o600)),
    ("chown", "set_attributes", lambda top: os.chown(top / "file", 0, 0)),
    ("getxattr", "getxattr", lambda top: os.getxattr(top / "file", "user.a")),
    ("listxattr", "listxattr", lambda top: os.listxattr(top / "file")),
    ("setxattr", "setxattr", lambda top: os.setxattr(top / "file", "user.a", b"1")),
    ("removexattr", "removexattr", lambda top: os.removexattr(top / "file", "user.a")),
    ("symlink", "symlink", lambda top: os.symlink("target", _new(top))),
    ("readlink", "readlink", lambda top: os.readlink(top / "link")),
    ("create", "create", _create),
    ("open", "open", _open),
    ("read", "read", _read),
    ("write", "write", _write),
    ("truncate", "truncate", lambda top: os.truncate(top / "file", 1)),
    ("truncate", "truncate", _truncate_open),
    ("fallocate", "allocate", _allocate),
    ("fallocate", "erase", _punch_hole),
    ("flush", "flush", _open),
    ("fsync", "fsync", _fsync),
    ("fsync", "fsync", _fdatasync),
)
# Those that answer no system call, or never ask the file system: each has a test of its own.
ELSEWHERE = {"init", "release", "link", "mknod"}


def _name(call: Call) -> str:
    operation, method, function = call
    how = function.__name__.strip("_") if function.__name__ != "<lambda>" else operation
    return f"{how}-{method}"


each_call = pytest.mark.parametrize("call", CALLS, ids=_name)


def test_every_operation_of_the_adapter_is_tested_here() -> None:
    operations = {
        name for name, value in vars(FuseOps).items() if callable(value) and name[0] != "_"
    }
    assert operations == {operation for operation, _, _ in CALLS} | ELSEWHERE


# -- what comes out -------------------------------------------------------------------------------


@each_call
def test_the_call_succeeds_when_nothing_fails(door: Door, call: Call) -> None:
    if call[2] is _read:
        with _opened(door.path / "file") as fd:
            assert len(os.read(fd, 100)) == 100
        return
    call[2](door.path)


@pytest.mark.semantics("C0")
@each_call
def test_a_program_gets_the_errno_of_the_condition(door: Door, call: Call) -> None:
    _, method, system_call = call
    with door.raising(method, "QuotaExceeded"), refused(errno.EDQUOT):
        system_call(door.path)


@pytest.mark.semantics("C0")
@each_call
@pytest.mark.parametrize("exception", UNEXPECTED)
def test_a_program_gets_eio_for_everything_else(door: Door, call: Call, exception: str) -> None:
    _, method, system_call = call
    with door.raising(method, exception), refused(errno.EIO):
        system_call(door.path)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("call", [call for call in CALLS if call[2] in (_open, _read)], ids=_name)
def test_each_condition_arrives_as_itself(
    door: Door, call: Call, condition: type[errors.FsError]
) -> None:
    _, method, system_call = call
    with door.raising(method, condition.__name__), refused(condition.code):
        system_call(door.path)


@pytest.mark.parametrize("condition", CONDITIONS)
def test_no_condition_is_one_that_the_kernel_takes_for_success(
    condition: type[errors.FsError],
) -> None:
    # After ENOSYS from flush, fsync, access or open the kernel asks no more and says success.
    assert condition.code not in (0, errno.ENOSYS, errno.EINTR)


def test_the_rest_of_a_file_is_not_cut_off_by_a_failed_read(door: Door) -> None:
    with _opened(door.path / "file") as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        first = os.read(fd, 100)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with door.raising("read", "TimeoutError"), refused(errno.EIO):
            os.read(fd, 100)
        assert first + os.read(fd, 10_000) == bytes(4096)


def _bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(os.fspath(path))


@pytest.mark.semantics("C30")
@pytest.mark.parametrize(
    "system_call",
    [
        pytest.param(lambda path: os.link(path.parent / "file", path), id="link"),
        pytest.param(os.mkfifo, id="pipe"),
        pytest.param(lambda path: os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3)), id="dev"),
        pytest.param(_bind, id="socket"),
    ],
)
def test_what_the_store_has_not_is_eperm(door: Door, system_call: Callable[[Path], object]) -> None:
    # As link(2) and mknod(2) say of a file system without them; others give up on EOPNOTSUPP.
    with refused(errno.EPERM):
        system_call(_new(door.path))


def test_mknod_of_a_file_is_stored_before_it_returns(door: Door) -> None:
    os.mknod(_new(door.path))
    # libfuse releases it without a flush, and hands the result of release to nobody.
    with door.raising("flush", "QuotaExceeded"), refused(errno.EDQUOT):
        os.mknod(_new(door.path))


def test_room_behind_the_end_of_a_file_is_not_kept(door: Door) -> None:
    with _opened(door.path / "file") as fd, refused(errno.EOPNOTSUPP):
        fallocate(fd, KEEP_SIZE, 0, 1_000_000)


@pytest.mark.parametrize("exception", ["QuotaExceeded", *UNEXPECTED])
def test_a_failed_release_is_in_the_log_and_ends_nothing(door: Door, exception: str) -> None:
    before = len(door.log())
    shown = "EDQUOT" if exception == "QuotaExceeded" else exception.split(".")[-1]
    with door.raising("release", exception):
        _open(door.path)  # close() is answered by flush: the kernel hands no result of release on
        wait_until(
            lambda: re.search(f"release.*{shown}", door.log()[before:], re.S),
            "the failure is in the log",
        )
    assert os.stat(door.path / "file").st_size == 4096


def test_a_fault_is_logged_with_operation_path_and_traceback(door: Door) -> None:
    before = len(door.log())
    with door.raising("unlink", "ValueError"), refused(errno.EIO):
        (door.path / "file").unlink()
    logged = door.log()[before:]
    assert "ERROR allasfs.app.fuse_ops: unlink /file" in logged
    assert "Traceback" in logged
    assert "raise exception(name)" in logged


def test_a_failure_is_logged_as_one_warning(door: Door) -> None:
    before = len(door.log())
    with door.raising("unlink", "QuotaExceeded"), refused(errno.EDQUOT):
        (door.path / "file").unlink()
    lines = [line for line in door.log()[before:].splitlines() if "unlink" in line]
    assert [line.split(" ", 2)[2] for line in lines] == [
        "WARNING allasfs.app.fuse_ops: unlink Disk quota exceeded: EDQUOT"
    ]


def test_a_normal_refusal_is_no_warning(door: Door) -> None:
    before = len(door.log())
    with refused(errno.ENOENT):
        os.stat(_new(door.path))
    assert "WARNING" not in door.log()[before:]
    assert "getattr" in door.log()[before:]


@pytest.mark.parametrize("exception", ["SpoolUnusable", "Unavailable", *UNEXPECTED])
def test_a_mount_that_cannot_start_ends_with_an_error(
    tmp_path: Path, prerequisites: None, exception: str
) -> None:
    control = tmp_path / "control"
    control.write_text(f"start {exception}")
    command = [sys.executable, str(SERVER), str(control)]
    served = Served(tmp_path, command, clean_environ(tmp_path))
    served.launch()
    wait_until(lambda: served.process.poll() is not None, "the process ends")
    served.stop()
    assert served.process.returncode != 0
    assert not is_mounted(served.path)
    assert "the mount cannot start" in served.log()


# -- names that the store cannot keep --------------------------------------------------------------


@pytest.mark.semantics("N8")
@pytest.mark.parametrize(
    "system_call",
    [
        pytest.param(os.stat, id="stat"),
        pytest.param(os.mkdir, id="mkdir"),
        pytest.param(lambda path: os.open(path, os.O_CREAT | os.O_WRONLY), id="create"),
        pytest.param(os.unlink, id="unlink"),
        pytest.param(os.listdir, id="listdir"),
        pytest.param(lambda path: os.rename(os.path.dirname(path) + b"/a", path), id="rename"),
        pytest.param(lambda path: os.symlink(b"a", path), id="symlink"),
    ],
)
def test_a_name_that_is_not_utf8_is_refused_as_such(
    project: Path, bucket: str, system_call: Callable[[bytes], object]
) -> None:
    (project / bucket / "a").write_text("a")
    with refused(errno.EILSEQ):
        system_call(os.fsencode(project / bucket) + b"/caf\xe9")


def test_a_mount_whose_process_died_answers_with_an_error(mount: MakeMount) -> None:
    dead = mount()
    dead.process.kill()
    dead.process.wait()
    with refused(errno.ENOTCONN):
        os.listdir(dead.path)
