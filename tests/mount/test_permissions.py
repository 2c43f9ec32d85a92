"""Who may do what: read-only mounts, owners and modes, other users; and how full the store is."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount
from tests.syscalls import access

from .support import PATIENCE_S, Served, refused, succeed, wait_until

ANYBODY = 1000
MIB = 1024 * 1024


# -- read-only ------------------------------------------------------------------------------------


@pytest.fixture
def read_only(mount: MakeMount, bucket: str, swift: Connection) -> Path:
    """A bucket in a read-only mount."""
    swift.put_object(bucket, "file", b"content")
    swift.put_object(bucket, "link", b"file", content_type="inode/symlink")
    swift.put_object(bucket, "dir/", b"", content_type="application/directory")
    return mount(ro="yes").path / bucket


CHANGES: dict[str, Callable[[Path], object]] = {
    "create": lambda top: os.open(top / "new", os.O_CREAT | os.O_WRONLY),
    "write": lambda top: os.open(top / "file", os.O_WRONLY),
    "read and write": lambda top: os.open(top / "file", os.O_RDWR),
    "append": lambda top: os.open(top / "file", os.O_WRONLY | os.O_APPEND),
    "O_TRUNC": lambda top: os.open(top / "file", os.O_RDONLY | os.O_TRUNC),
    "by the link": lambda top: os.open(top / "link", os.O_RDWR),
    "truncate": lambda top: os.truncate(top / "file", 0),
    "unlink": lambda top: os.unlink(top / "file"),
    "rename": lambda top: os.rename(top / "file", top / "new"),
    "mkdir": lambda top: os.mkdir(top / "new"),
    "rmdir": lambda top: os.rmdir(top / "dir"),
    "symlink": lambda top: os.symlink("file", top / "new"),
    "hard link": lambda top: os.link(top / "file", top / "new"),
    "mknod": lambda top: os.mknod(top / "new"),
    "chmod": lambda top: os.chmod(top / "file", 0o600),
    "chown": lambda top: os.chown(top / "file", 1, 1),
    "utime": lambda top: os.utime(top / "file"),
    "a bucket": lambda top: os.mkdir(top.parent / "another-bucket"),
    "access": lambda top: access(top / "file", os.W_OK),
}


@pytest.mark.semantics("C0")
def test_a_read_only_mount_refuses_every_change(
    read_only: Path, swift: Connection, bucket: str
) -> None:
    before = swift.get_container(bucket)[1]
    for change in CHANGES.values():
        with refused(errno.EROFS):
            change(read_only)
    assert (read_only / "file").read_bytes() == b"content"
    assert (read_only / "link").read_bytes() == b"content"
    assert swift.get_container(bucket)[1] == before


# -- owners, modes and other users ----------------------------------------------------------------


def as_anybody(served: Served, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program as another user, beside the mount point."""
    # The folder of the test itself is closed to others.
    served.folder.chmod(0o711)
    return subprocess.run(
        command,
        cwd=served.folder,
        user=ANYBODY,
        group=ANYBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


@pytest.mark.semantics("A2")
def test_uid_gid_and_umask_are_what_files_have(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "dir/file", b"content")
    top = mount(uid=1234, gid=2345, umask="027").path / bucket
    for path, mode in ((top, 0o750), (top / "dir", 0o750), (top / "dir/file", 0o640)):
        found = path.stat()
        assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (1234, 2345, mode)


@pytest.mark.semantics("C3")
def test_other_users_are_refused_at_the_mount_point(mount: MakeMount, bucket: str) -> None:
    served = mount(umask="000")
    (served.path / bucket / "file").write_text("content")
    for command in (["ls", "mnt"], ["cat", f"mnt/{bucket}/file"], ["stat", "mnt"]):
        done = as_anybody(served, *command)
        assert done.returncode != 0
        assert "Permission denied" in done.stderr
        assert done.stdout == ""


@pytest.mark.semantics("C3")
def test_with_allow_other_modes_are_only_information_where_that_is_asked_for(
    mount: MakeMount, bucket: str
) -> None:
    served = mount(allow_other="yes", default_permissions="no")
    path = served.path / bucket / "file"
    path.write_text("content")
    path.chmod(0o600)
    assert as_anybody(served, "cat", f"mnt/{bucket}/file").stdout == "content"


@pytest.mark.semantics("C3", "S1")
@pytest.mark.parametrize("options", [{}, {"default_permissions": "yes"}], ids=["alone", "both"])
def test_with_allow_other_modes_and_owners_count(
    mount: MakeMount, bucket: str, options: dict[str, str]
) -> None:
    served = mount(allow_other="yes", **options)
    top = served.path / bucket
    for name, mode in (("private", 0o600), ("public", 0o644), ("own", 0o600)):
        (top / name).write_text(name)
        (top / name).chmod(mode)
    os.chown(top / "own", ANYBODY, ANYBODY)
    (top / "closed").mkdir(mode=0o700)
    (top / "closed" / "file").write_text("content")

    def outcome(*command: str) -> str:
        done = as_anybody(served, *command)
        assert (done.returncode == 0) == ("denied" not in done.stderr), done.stderr
        return done.stdout if done.returncode == 0 else "denied"

    assert outcome("cat", f"mnt/{bucket}/private") == "denied"
    assert outcome("cat", f"mnt/{bucket}/public") == "public"
    assert outcome("cat", f"mnt/{bucket}/own") == "own"
    assert outcome("tee", "-a", f"mnt/{bucket}/public") == "denied"
    assert outcome("tee", "-a", f"mnt/{bucket}/own") == ""
    assert outcome("ls", f"mnt/{bucket}/closed") == "denied"
    assert outcome("cat", f"mnt/{bucket}/closed/file") == "denied"
    # In a directory that only its owner may write.
    assert outcome("touch", f"mnt/{bucket}/new") == "denied"
    assert outcome("rm", "-f", f"mnt/{bucket}/own") == "denied"
    assert sorted(os.listdir(top)) == ["closed", "own", "private", "public"]


@pytest.mark.semantics("C3")
def test_a_file_is_executable_when_its_mode_says_so(mounted: Path) -> None:
    path = mounted / "program"
    path.write_text("#!/bin/sh\necho it runs\n")
    with refused(errno.EACCES):
        access(path, os.X_OK)
    with refused(errno.EACCES):
        subprocess.run([path], check=False)
    path.chmod(0o755)
    access(path, os.X_OK)
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "it runs\n"
    assert shutil.which("program", path=str(mounted)) == str(path)


# -- how full it is -------------------------------------------------------------------------------


@pytest.mark.semantics("C32")
def test_statfs_tells_usage_and_what_the_quota_leaves(
    cloud: Cloud, mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", bytes(10 * MIB))
    path = mount(ttl=0).path
    found = os.statvfs(path)
    assert found.f_bavail * found.f_frsize == 1024**5
    assert found.f_namemax == 255
    block = found.f_frsize
    quota = 10**12
    set_quota(cloud, str(quota))

    def agrees() -> bool:
        """Whether the mount tells what the account does; Swift learns of objects by and by."""
        before, found, after = used(swift), os.statvfs(path), used(swift)
        free = (quota - after) // block
        return before == after and (found.f_bavail, found.f_bfree) == (free, free)

    try:
        wait_until(agrees, "the mount tells what the quota leaves")
        found = os.statvfs(path)
        df = succeed("df", "--output=size", "-B1", path)
    finally:
        set_quota(cloud, "")
    assert found.f_blocks * block == pytest.approx(quota, abs=2 * block)
    assert int(df.split()[-1]) == pytest.approx(quota, abs=2 * block)


def used(swift: Connection) -> int:
    """Return the bytes that the account knows of."""
    return int(swift.head_account()["x-account-bytes-used"])


def set_quota(cloud: Cloud, quota: str) -> None:
    """Set the quota of the project's account, as those do who run the store."""
    operator = cloud.add_user("operator", "operations", role="ResellerAdmin")
    answer = requests.post(
        cloud.storage_url,
        headers={"x-auth-token": cloud.token(operator).id, "x-account-meta-quota-bytes": quota},
        timeout=PATIENCE_S,
    )
    assert answer.ok, answer.text
