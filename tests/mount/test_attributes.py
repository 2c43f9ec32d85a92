"""Times, modes, owners and extended attributes on a real mount, beside another Swift client."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount, missing

from .support import Served, refused, succeed
from .test_large import real_run
from .test_requests import fill

OLD_NS = 1_234_567_890_123_456_789
# Far longer than a test.
TTL_S = 3600


class Mounts:
    """Mounts one after the other, of one user on one computer, and what they ask."""

    def __init__(self, cloud: Cloud, mount: MakeMount, bucket: str, database: Path) -> None:
        self._cloud = cloud
        self._mount = mount
        self._bucket = bucket
        self._database = database
        self._account = urlsplit(cloud.storage_url).path
        self._served: Served | None = None

    def again(self, **options: object) -> Path:
        """Unmount, mount, and return the bucket's directory."""
        self.end()
        self._served = self._mount(ttl=TTL_S, attr_db=self._database, **options)
        self.asked()
        return self._served.path / self._bucket

    def end(self) -> None:
        """Unmount."""
        if self._served is not None:
            assert self._served.stop() == 0
            self._served = None

    def asked(self) -> dict[str, int]:
        """Return how many requests of each method there were in the bucket since the last look."""
        answered = self._cloud.requests()
        self._cloud.forget_requests()
        top = f"{self._account}/{self._bucket}"
        return dict(
            Counter(
                "LIST" if request.method == "GET" and request.path == top else request.method
                for request in answered
                if request.path.startswith(top)
            )
        )


@pytest.fixture
def mounts(cloud: Cloud, mount: MakeMount, bucket: str, tmp_path: Path) -> Mounts:
    return Mounts(cloud, mount, bucket, tmp_path / "cache" / "attributes.sqlite")


def metadata(swift: Connection, bucket: str, key: str) -> dict[str, str]:
    found = swift.head_object(bucket, key)
    start = "x-object-meta-"
    return {name[len(start) :]: text for name, text in found.items() if name.startswith(start)}


def tree(top: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, size and time of everything below a directory."""
    found = {}
    for folder, dirs, files in os.walk(top):
        for name in (".", *dirs, *files):
            path = Path(folder, name)
            status = path.lstat()
            found[str(path.relative_to(top))] = (
                status.st_mode,
                0 if path.is_dir() else status.st_size,
                status.st_mtime_ns,
            )
    return found


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tree with times, modes, a link and empty files."""
    top = tmp_path / "source"
    for number in range(3):
        folder = top / f"d{number}"
        folder.mkdir(parents=True)
        for name in range(10):
            path = folder / f"f{name}"
            path.write_text("data" * name)
            os.utime(path, ns=(0, OLD_NS - 1000 * number - name))
            path.chmod(0o600 if name % 2 else 0o755)
        os.utime(folder, ns=(0, OLD_NS + number))
    (top / "link").symlink_to("d0/f1")
    os.utime(top / "link", ns=(0, OLD_NS), follow_symlinks=False)
    os.utime(top, ns=(0, -1_500_000_000))
    return top


# -- across mounts --------------------------------------------------------------------------------


@pytest.mark.semantics("A5")
def test_after_a_remount_rsync_transfers_nothing(mounts: Mounts, source: Path) -> None:
    path = mounts.again()
    succeed("rsync", "-a", f"{source}/", f"{path}/t/")
    assert tree(path / "t") == tree(source)
    path = mounts.again()
    assert succeed("rsync", "-ai", f"{source}/", f"{path}/t/") == ""
    # The empty files could be large ones, no listing tells; the link's target is read.
    assert mounts.asked() == {"LIST": 1, "HEAD": 3, "GET": 1}
    assert tree(path / "t") == tree(source)


def test_ls_shows_the_same_after_a_remount(mounts: Mounts, source: Path) -> None:
    path = mounts.again()
    succeed("cp", "-a", source, path / "t")
    list_all = ("ls", "-lR", "--full-time", ".")
    before = succeed("env", "-C", path, *list_all)
    assert "1969-12-31 23:59:58.5" in before
    path = mounts.again()
    assert succeed("env", "-C", path, *list_all) == before


@pytest.mark.semantics("A5")
def test_ls_of_many_unknown_files_asks_for_none_of_them(
    mounts: Mounts, cloud: Cloud, bucket: str
) -> None:
    fill(cloud, bucket, [f"d/f{number}" for number in range(100)])
    path = mounts.again()
    succeed("ls", "-lR", path)
    assert mounts.asked() == {"LIST": 1}


@pytest.mark.semantics("A6")
def test_exact_attributes_cost_one_head_for_each_version_ever(
    mounts: Mounts, cloud: Cloud, swift: Connection, bucket: str
) -> None:
    fill(cloud, bucket, [f"d/f{number}" for number in range(100)])
    given = {"x-object-meta-mtime": "-1.5", "x-object-meta-mode": "100640"}
    swift.post_object(bucket, "d/f7", headers=given)
    path = mounts.again(attrs="exact")
    for _ in range(2):
        succeed("ls", "-lR", path)
    status = (path / "d/f7").stat()
    assert (status.st_mtime_ns, status.st_mode) == (-1_500_000_000, stat.S_IFREG | 0o640)
    # One for the bucket: its times are no version's.
    assert mounts.asked() == {"LIST": 1, "HEAD": 100 + 1}
    path = mounts.again(attrs="exact")
    succeed("ls", "-lR", path)
    assert (path / "d/f7").stat().st_mtime_ns == -1_500_000_000
    assert mounts.asked() == {"LIST": 1, "HEAD": 1}


@pytest.mark.semantics("A7")
def test_a_time_that_was_told_does_not_change_before_the_unmount(
    mounts: Mounts, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "f", b"data", headers={"x-object-meta-mtime": "1.5"})
    path = mounts.again()
    before = (path / "f").stat()
    (path / "f").read_bytes()
    os.listxattr(path / "f")
    (path / "f").chmod(0o640)
    assert (path / "f").stat().st_mtime_ns == before.st_mtime_ns
    assert metadata(swift, bucket, "f") == {"mtime": "1.5", "mode": "640"}
    path = mounts.again()
    assert (path / "f").stat().st_mtime_ns == 1_500_000_000


@pytest.mark.semantics("A1")
@pytest.mark.parametrize("text", ["1700000000.123456789", "1700000000.5", "-1.5", "-0.25", "7"])
def test_the_time_of_a_file_is_what_other_clients_mean(
    mounts: Mounts, swift: Connection, bucket: str, text: str
) -> None:
    swift.put_object(bucket, "theirs", b"data", headers={"x-object-meta-mtime": text})
    path = mounts.again(attrs="exact")
    time_ns = (path / "theirs").stat().st_mtime_ns
    assert time_ns == round(float(text) * 1e9, -3) or "123456789" in text
    (path / "ours").write_text("data")
    os.utime(path / "ours", ns=(0, time_ns))
    assert metadata(swift, bucket, "ours")["mtime"] == text


@pytest.mark.semantics("A1")
def test_rclone_and_the_swift_command_keep_the_same_time(
    mounts: Mounts, cloud: Cloud, bucket: str, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_text("data")
    os.utime(file, ns=(0, OLD_NS))
    remote = f":swift,env_auth=true:{bucket}"
    real_run(cloud, tmp_path, "rclone", "copyto", str(file), f"{remote}/rclone")
    real_run(cloud, tmp_path, "swift", "upload", "--object-name", "swift", bucket, file)
    path = mounts.again(attrs="exact")
    # The swift command knows microseconds.
    times = {name: (path / name).stat().st_mtime_ns for name in os.listdir(path)}
    assert times == {"rclone": OLD_NS, "swift": round(OLD_NS, -3)}
    succeed("cp", "-p", file, path / "ours")
    real_run(cloud, tmp_path, "rclone", "copyto", f"{remote}/ours", str(tmp_path / "by rclone"))
    assert (tmp_path / "by rclone").stat().st_mtime_ns == OLD_NS
    target = tmp_path / "by swift"
    real_run(cloud, tmp_path, "swift", "download", bucket, "ours", "-o", target)
    assert target.stat().st_mtime_ns // 10**9 == OLD_NS // 10**9


@pytest.mark.semantics("A2")
def test_owners_and_modes_are_kept_for_the_next_mount(
    mounts: Mounts, swift: Connection, bucket: str
) -> None:
    path = mounts.again()
    os.close(os.open(path / "f", os.O_CREAT | os.O_WRONLY, 0o640))
    (path / "d").mkdir(mode=0o710)
    (path / "link").symlink_to("f")
    os.chown(path / "f", 1234, -1)
    os.chown(path / "d", 1234, 2345)
    os.chown(path / "link", -1, 2345, follow_symlinks=False)
    kept = {name: metadata(swift, bucket, name) for name in ("f", "d/", "link")}
    for found in kept.values():
        found.pop("mtime")
    assert kept == {
        "f": {"mode": "640", "uid": "1234"},
        "d/": {"mode": "710", "uid": "1234", "gid": "2345"},
        "link": {"gid": "2345"},
    }
    for attrs in ("", "listed", "exact"):
        if attrs:
            path = mounts.again(attrs=attrs)
        shown = [(path / name).lstat() for name in ("f", "d", "link")]
        assert [(each.st_uid, each.st_gid) for each in shown] == [
            (1234, os.getgid()),
            (1234, 2345),
            (os.getuid(), 2345),
        ]
        assert [stat.S_IMODE(each.st_mode) for each in shown[:2]] == [0o640, 0o710]


@pytest.mark.semantics("A8")
def test_a_database_that_cannot_be_used_is_one_line_in_the_log(
    mount: MakeMount, bucket: str, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no database" * 1000)
    served = mount(attr_db=broken)
    served.allow("remove this file")
    path = served.path / bucket
    (path / "f").write_text("data")
    os.utime(path / "f", ns=(0, OLD_NS))
    assert (path / "f").stat().st_mtime_ns == OLD_NS
    assert served.stop() == 0
    assert len([line for line in served.log().splitlines() if "remove this file" in line]) == 1


def test_without_a_name_the_database_lies_in_the_cache_folder(
    mount: MakeMount, bucket: str
) -> None:
    served = mount()
    (served.path / bucket / "f").write_text("data")
    assert served.stop() == 0
    (found,) = (served.folder / ".cache" / "allasfs").iterdir()
    assert found.name.startswith("attributes-")
    assert stat.S_IMODE(found.stat().st_mode) == 0o600
    assert stat.S_IMODE(found.parent.stat().st_mode) == 0o700


# -- extended attributes --------------------------------------------------------------------------


@pytest.mark.semantics("X1", "X6")
def test_metadata_of_other_clients_is_user_attributes_and_back(
    project: Path, swift: Connection, bucket: str
) -> None:
    headers = {"x-object-meta-colour": "blau ä", "X-Object-Meta-Run-Id": "7"}
    swift.put_object(bucket, "f", b"data", content_type="text/x", headers=headers)
    path = project / bucket / "f"
    assert sorted(os.listxattr(path)) == ["user.colour", "user.run-id"]
    assert os.getxattr(path, "user.colour") == "blau ä".encode()
    os.setxattr(path, "user.sample_name", "Ö 7".encode())
    os.removexattr(path, "user.run-id")
    found = metadata(swift, bucket, "f")
    assert found.pop("mtime")
    # The header is Sample%5FName; this client decodes what it shows.
    assert found == {"colour": "blau ä", "sample_name": "Ö 7"}
    assert os.getxattr(path, "user.allasfs.content_type") == b"text/x"
    assert os.getxattr(path, "user.allasfs.url").decode() == f"{swift.url}/{bucket}/f"
    assert os.getxattr(path, "user.allasfs.etag").decode() == swift.head_object(bucket, "f")["etag"]


@pytest.mark.semantics("X2")
@pytest.mark.parametrize("value", [b"", b"x", b"\0binary\xff", b" blank\n", b"v" * 182])
def test_any_value_comes_back_after_a_remount(mounts: Mounts, value: bytes) -> None:
    path = mounts.again()
    (path / "f").write_text("data")
    (path / "d").mkdir()
    for each in (path / "f", path / "d", path):
        os.setxattr(each, "user.Any Näme", value)
    path = mounts.again()
    for each in (path / "f", path / "d", path):
        assert os.listxattr(each) == ["user.Any Näme"]
        assert os.getxattr(each, "user.Any Näme") == value


def raw(call: str, path: Path, *arguments: object) -> int:
    """Call a function of libc that fills a buffer of 16 bytes; return its result or -errno."""
    libc = ctypes.CDLL(None, use_errno=True)
    done: int = getattr(libc, call)(os.fsencode(path), *arguments)
    return -ctypes.get_errno() if done < 0 else done


def test_a_buffer_that_is_too_small_is_not_written_to(project: Path, bucket: str) -> None:
    path = project / bucket / "f"
    path.write_text("data")
    os.setxattr(path, "user.a", b"value")
    os.setxattr(path, "user.empty", b"")
    buffer = ctypes.create_string_buffer(b"-" * 16, 16)
    size = ctypes.c_size_t
    assert raw("getxattr", path, b"user.a", None, size(0)) == 5
    assert raw("getxattr", path, b"user.a", buffer, size(4)) == -errno.ERANGE
    assert raw("listxattr", path, buffer, size(16)) == -errno.ERANGE
    assert buffer.raw == b"-" * 16
    assert raw("getxattr", path, b"user.a", buffer, size(5)) == 5
    assert buffer.raw == b"value" + b"-" * 11
    assert raw("getxattr", path, b"user.empty", buffer, size(5)) == 0
    assert raw("getxattr", path, b"user.empty", None, size(0)) == 0
    assert raw("listxattr", path, None, size(0)) == len(b"user.a\0user.empty\0")
    assert buffer.raw == b"value" + b"-" * 11


@pytest.mark.semantics("X4", "X5")
def test_what_the_store_does_not_take_is_refused(project: Path, bucket: str) -> None:
    path = project / bucket / "f"
    path.write_text("data")
    with refused(errno.E2BIG):
        os.setxattr(path, "user.a", b"v" * 257)
    with refused(errno.ERANGE):
        os.setxattr(path, "user." + "n" * 129, b"v")
    os.setxattr(path, "user.1", b"v" * 256)
    with refused(errno.EPERM):
        os.setxattr(path, "user.mtime", b"1")
    with refused(errno.ENOTSUP):
        os.setxattr(path, "security.x", b"1")
    with refused(errno.EEXIST):
        os.setxattr(path, "user.1", b"1", os.XATTR_CREATE)
    with refused(errno.ENODATA):
        os.setxattr(path, "user.none", b"1", os.XATTR_REPLACE)
    with refused(errno.ENODATA):
        os.getxattr(path, "user.none")


@pytest.mark.semantics("X4")
def test_an_object_with_as_much_metadata_as_swift_takes_is_read(
    project: Path, swift: Connection, bucket: str
) -> None:
    # Short ones: the disk of the server has a limit, too.
    headers = {f"x-object-meta-{number:x}": "1" for number in range(90)}
    swift.put_object(bucket, "f", b"data", content_type="a/b", headers=headers)
    path = project / bucket / "f"
    assert path.read_bytes() == b"data"
    assert len(os.listxattr(path)) == 90
    with refused(errno.ENOSPC):
        os.setxattr(path, "user.more", b"1")


@pytest.mark.semantics("X3")
def test_questions_of_the_kernel_and_of_ls_cost_no_request(mounts: Mounts, cloud: Cloud) -> None:
    path = mounts.again()
    os.listdir(path)
    mounts.asked()
    (path / "f").write_text("data")
    with refused(errno.ENOTSUP):
        os.getxattr(path / "f", "security.selinux")
    with refused(errno.ENOTSUP):
        os.getxattr(path / "f", "system.posix_acl_access")
    succeed("ls", "-l", path)
    os.listxattr(path / "f")
    assert mounts.asked() == {"PUT": 1}


def test_cp_copies_attributes_from_a_mount_by_one_get_for_each_file(
    mounts: Mounts, swift: Connection, bucket: str, tmp_path: Path
) -> None:
    for number in range(10):
        headers = {"x-object-meta-number": str(number)}
        swift.put_object(bucket, f"d/f{number}", b"data", headers=headers)
    path = mounts.again()
    target = tmp_path / "copy"
    succeed("cp", "-a", path / "d", target)
    assert mounts.asked() == {"LIST": 1, "GET": 10}
    if not os.listxattr(target / "f7"):
        missing("no extended attributes on the disk")
    for number in range(10):
        assert os.getxattr(target / f"f{number}", "user.number") == str(number).encode()
        assert os.listxattr(target / f"f{number}") == ["user.number"]
    succeed("cp", "-a", target, path / "again")
    assert mounts.asked().get("GET", 0) == 0
    assert metadata(swift, bucket, "again/f7")["number"] == "7"


def test_rsync_and_tar_copy_attributes_both_ways(
    project: Path, swift: Connection, bucket: str, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        headers = {"x-object-meta-name": name, "x-object-meta-mime%5ftype": "text/x"}
        swift.put_object(bucket, f"d/{name}", b"data", headers=headers)
    path = project / bucket
    succeed("rsync", "-aX", f"{path}/d/", f"{path}/e/")
    archive = tmp_path / "tar"
    succeed("tar", "--xattrs", "-C", path, "-cf", archive, "e")
    (path / "f").mkdir()
    succeed("tar", "--xattrs", "-C", path / "f", "-xf", archive)
    for name in ("a", "b"):
        found = metadata(swift, bucket, f"f/e/{name}")
        assert (found["name"], found["mime_type"]) == (name, "text/x")


@pytest.mark.semantics("X3")
def test_without_xattrs_the_mount_has_none(mount: MakeMount, bucket: str) -> None:
    path = mount(xattrs="no").path / bucket / "f"
    path.write_text("data")
    with refused(errno.ENOTSUP):
        os.setxattr(path, "user.a", b"1")
    with refused(errno.ENOTSUP):
        os.getxattr(path, "user.a")
    assert path.read_text() == "data"


# -- what is kept ---------------------------------------------------------------------------------


@pytest.mark.semantics("C21")
@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_TRUNC, 0])
def test_a_rewritten_object_keeps_type_and_metadata(
    project: Path, swift: Connection, bucket: str, flags: int
) -> None:
    headers = {"x-object-meta-colour": "blue", "x-object-meta-mode": "640"}
    swift.put_object(bucket, "f.csv", b"data", content_type="text/x", headers=headers)
    fd = os.open(project / bucket / "f.csv", os.O_WRONLY | flags)
    os.write(fd, b"more")
    os.close(fd)
    found = metadata(swift, bucket, "f.csv")
    assert found.pop("mtime")
    assert found == {"colour": "blue", "mode": "640"}
    assert swift.head_object(bucket, "f.csv")["content-type"] == "text/x"


@pytest.mark.semantics("C21")
def test_a_file_that_is_renamed_to_its_name_gets_its_type(
    project: Path, swift: Connection, bucket: str, source: Path
) -> None:
    (source / "table.csv").write_text("a,b")
    succeed("rsync", "-a", source / "table.csv", project / bucket)
    assert swift.head_object(bucket, "table.csv")["content-type"] == "text/csv"


@pytest.mark.semantics("A9")
def test_attributes_of_a_bucket_are_its_metadata(
    mounts: Mounts, swift: Connection, bucket: str, source: Path
) -> None:
    path = mounts.again()
    succeed("rsync", "-a", f"{source}/", f"{path}/")
    os.setxattr(path, "user.colour", b"blue")
    path.chmod(0o700)
    assert path.stat().st_mtime_ns == -1_500_000_000
    found = swift.head_container(bucket)
    assert found["x-container-meta-mtime"] == "-1.5"
    assert found["x-container-meta-mode"] == "700"
    assert found["x-container-meta-colour"] == "blue"
    path = mounts.again()
    assert path.stat().st_mtime_ns == -1_500_000_000
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert os.listxattr(path) == ["user.colour"]


@pytest.mark.semantics("A9")
def test_the_root_of_an_account_keeps_what_it_has(project: Path) -> None:
    status = project.stat()
    project.chmod(stat.S_IMODE(status.st_mode))
    os.chown(project, status.st_uid, status.st_gid)
    with refused(errno.EPERM):
        project.chmod(0o700)
    with refused(errno.EPERM):
        os.utime(project, ns=(0, 1))
