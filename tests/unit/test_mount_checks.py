"""Checks before a mount: the kernel's list, paths around mount points, FUSE on this computer."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from allasfs.app import checks, unmounting
from allasfs.errors import (
    AlreadyMounted,
    MountFailed,
    MountPointMissing,
    MountPointNotEmpty,
    NoFuseDevice,
    NoFusermount,
    UnmountFailed,
)

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
36 22 0:30 / /mnt/with\040blank\134and\012line rw,nosuid shared:9 master:2 - fuse.allasfs allasfs:b\040c rw,user_id=1000,group_id=100,allow_other
37 22 0:31 / /home/a rw - nfs4 server:/a rw
38 37 0:32 / /home/a rw,relatime - fuse.sshfs s:/ rw,user_id=7,group_id=7
garbage
"""  # noqa: E501  the kernel's lines are long
OURS = checks.MountEntry("/x", "fuse.allasfs", "allasfs:", "rw,user_id=0")


def test_octal_escapes_of_a_mount_point_are_undone() -> None:
    entry = checks.parse_mountinfo(MOUNTINFO)["/mnt/with blank\\and\nline"]
    assert (entry.fstype, entry.source) == ("fuse.allasfs", "allasfs:b c")
    assert (entry.is_ours, entry.user_id) == (True, 1000)


def test_of_two_mounts_at_one_point_the_later_one_is_visible() -> None:
    entry = checks.parse_mountinfo(MOUNTINFO)["/home/a"]
    assert (entry.fstype, entry.is_ours, entry.user_id) == ("fuse.sshfs", False, 7)


def test_a_file_system_without_a_process_has_no_user() -> None:
    assert checks.parse_mountinfo(MOUNTINFO)["/"].user_id is None


def test_the_kernels_own_list_is_understood() -> None:
    assert checks.mounts()["/proc"].fstype == "proc"


# -- paths ----------------------------------------------------------------------------------------


def test_links_in_a_path_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert checks.resolve(f"{tmp_path}/link/", ()) == f"{tmp_path}/real"


def test_a_link_to_a_mount_point_is_followed_to_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(f"{tmp_path}/folder/mount")
    mounted = {f"{tmp_path}/folder/mount"}
    assert checks.resolve(f"{tmp_path}/link", mounted) == f"{tmp_path}/folder/mount"


def test_nothing_is_asked_of_a_mount_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounted = str(tmp_path / "hung")
    for name in ("lstat", "stat", "readlink"):
        real = getattr(os, name)

        def guarded(path: str, *args: object, real: Callable[..., object] = real) -> object:
            assert str(path) != mounted
            return real(path, *args)

        monkeypatch.setattr(os, name, guarded)
    assert checks.resolve(f"{mounted}/", {mounted}) == mounted


@pytest.mark.parametrize("tail", [".", "sub/..", "../{name}", ""])
def test_dots_at_the_end_of_a_path_are_understood(tmp_path: Path, tail: str) -> None:
    (tmp_path / "sub").mkdir()
    assert checks.resolve(f"{tmp_path}/{tail.format(name=tmp_path.name)}", ()) == str(tmp_path)


def test_links_in_a_circle_end_in_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(MountPointMissing, match="links"):
        checks.resolve(f"{tmp_path}/a", ())


# -- mount points ---------------------------------------------------------------------------------


def test_an_empty_directory_is_good(tmp_path: Path) -> None:
    checks.check_mount_point(str(tmp_path), {})


def test_a_missing_directory_is_refused_and_mkdir_named(tmp_path: Path) -> None:
    with pytest.raises(MountPointMissing, match="mkdir"):
        checks.check_mount_point(f"{tmp_path}/missing", {})


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountPointMissing, match="not a directory"):
        checks.check_mount_point(f"{tmp_path}/file", {})


def test_a_directory_with_entries_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(MountPointNotEmpty):
        checks.check_mount_point(str(tmp_path), {})


def test_a_mount_of_ours_is_refused_without_being_touched() -> None:
    with pytest.raises(AlreadyMounted, match="allasfs umount /does/not/exist"):
        checks.check_mount_point("/does/not/exist", {"/does/not/exist": OURS})


def test_a_directory_that_an_ordinary_user_may_not_write_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    with pytest.raises(MountFailed, match="may not write"):
        checks.check_mount_point(str(tmp_path), {})


# -- FUSE -----------------------------------------------------------------------------------------


def test_a_missing_fuse_device_names_the_module(tmp_path: Path) -> None:
    with pytest.raises(NoFuseDevice, match="modprobe"):
        checks.check_fuse_device(tmp_path / "fuse")


def test_a_fuse_device_that_may_not_be_opened_names_the_administrator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(path: Path, flags: int) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(NoFuseDevice, match="administrator"):
        checks.check_fuse_device()


def test_root_needs_no_fusermount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmounting, "find_fusermount", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    unmounting.check_fusermount()


def test_an_ordinary_user_needs_fusermount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unmounting, "find_fusermount", lambda: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NoFusermount, match="apt install"):
        unmounting.check_fusermount()


# -- unmounting -----------------------------------------------------------------------------------


def fake_fusermount(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    program = folder / "fusermount"
    program.write_text(f"#!/bin/sh\n{body}\n")
    program.chmod(stat.S_IRWXU)
    monkeypatch.setattr(unmounting, "find_fusermount", lambda: str(program))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


def test_a_busy_mount_is_named_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "echo fusermount: failed to unmount /x: Device or resource busy >&2; exit 1"
    fake_fusermount(tmp_path, body, monkeypatch)
    with pytest.raises(UnmountFailed, match=r"/x is busy: .*fuser"):
        unmounting.unmount("/x")


def test_another_message_of_fusermount_is_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_fusermount(tmp_path, "echo entry for /x not found >&2; exit 1", monkeypatch)
    with pytest.raises(UnmountFailed, match="entry for /x not found"):
        unmounting.unmount("/x")


def test_fusermount_gets_the_path_and_no_option_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_fusermount(tmp_path, f'echo "$@" > {tmp_path}/args', monkeypatch)
    unmounting.unmount("-x", lazy=True)
    assert (tmp_path / "args").read_text() == "-u -z -- -x\n"


def test_the_kernels_refusal_is_passed_on_to_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(unmounting, "_by_system_call", lambda path, lazy: errno.EINVAL)
    with pytest.raises(UnmountFailed, match=os.strerror(errno.EINVAL)):
        unmounting.unmount(str(tmp_path))


# -- does it answer -------------------------------------------------------------------------------


def test_a_directory_answers(tmp_path: Path) -> None:
    assert checks.probe(str(tmp_path), 60) == 0


def test_a_missing_directory_answers_with_its_errno(tmp_path: Path) -> None:
    assert checks.probe(f"{tmp_path}/missing", 60) == errno.ENOENT


def test_what_does_not_answer_is_told_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleeper = tmp_path / "python"
    sleeper.write_text("#!/bin/sh\nexec sleep 1000\n")
    sleeper.chmod(stat.S_IRWXU)
    monkeypatch.setattr(sys, "executable", str(sleeper))
    assert checks.probe(str(tmp_path), 0.1) is None
