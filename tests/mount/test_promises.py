"""Promises of docs/SEMANTICS.md that only a real mount can show, beside those of other files."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import MIB, listed, mount_command, refused, stored, succeed, wait_until


@pytest.mark.semantics("L3")
def test_a_process_that_dies_before_close_loses_what_was_written_and_not_the_old_version(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"old")
    served = mount(bucket)
    fd = os.open(served.path / "file", os.O_WRONLY | os.O_TRUNC)
    os.write(fd, b"new and lost")
    served.kill()
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.close(fd)
    assert stored(swift, bucket, "file") == b"old"
    assert (mount(bucket).path / "file").read_bytes() == b"old"


@pytest.mark.semantics("C4", "A3")
def test_what_stat_says_beside_size_and_time(project: Path, bucket: str) -> None:
    directory = project / bucket / "d"
    directory.mkdir()
    file = directory / "file"
    with file.open("wb") as sparse:
        sparse.truncate(MIB + 1)
    found, above = file.stat(), directory.stat()
    assert (found.st_nlink, above.st_nlink, above.st_size) == (1, 2, 0)
    assert found.st_blocks == MIB // 512 + 1
    os.utime(file, ns=(10**18, 2 * 10**18))
    found = file.stat()
    assert found.st_atime_ns == found.st_ctime_ns == found.st_mtime_ns == 2 * 10**18
    assert len({path.stat().st_ino for path in (project, project / bucket, directory, file)}) == 4


@pytest.mark.semantics("C2")
def test_stat_and_ls_do_not_wait_for_an_upload(
    mount: MakeMount, cloud: Cloud, bucket: str, swift: Connection
) -> None:
    served = mount(bucket)
    path = served.path / "file"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"content")
    served.path.stat()
    cloud.pause_swift()
    try:
        closing = threading.Thread(target=os.close, args=[fd])
        closing.start()
        assert path.stat().st_size == 7
        assert os.listdir(served.path) == ["file"]
        assert closing.is_alive()
    finally:
        cloud.resume_swift()
    closing.join()
    assert stored(swift, bucket, "file") == b"content"


@pytest.mark.semantics("C25", "C26")
def test_mv_of_directories_with_open_files_moves_them_on_the_server(
    project: Path, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    for number in range(20):
        swift.put_object(bucket, f"old/d{number % 4}/file{number}", f"{number}".encode())
    top = project / bucket
    with (
        (top / "old/d1/file1").open("r+b", buffering=0) as changed,
        (top / "old/d2/unlinked").open("w+b", buffering=0) as unlinked,
    ):
        changed.write(b"changed")
        unlinked.write(b"kept")
        (top / "old/d2/unlinked").unlink()
        cloud.forget_requests()
        succeed("mv", top / "old", top / "new")
        methods = [request.method for request in cloud.requests()]
        assert methods.count("COPY") == 20
        assert "GET" not in [r.method for r in cloud.requests() if "/old/" in r.path]
        unlinked.seek(0)
        assert unlinked.read() == b"kept"
        changed.write(b" again")
        assert os.fstat(unlinked.fileno()).st_size == 4
    assert (top / "new/d1/file1").read_bytes() == b"changed again"
    assert sorted(os.listdir(top / "new/d2")) == [f"file{number}" for number in (10, 14, 18, 2, 6)]
    assert len(listed(swift, bucket)) == 20
    assert not any(name.startswith(("old", ".fuse")) for name in listed(swift, bucket))
    succeed("rm", "-r", top / "new")
    wait_until(lambda: listed(swift, bucket) == {}, "nothing is left")


@pytest.mark.semantics("C17")
@pytest.mark.parametrize("kind", ["dlo", "slo"])
def test_a_large_file_in_another_project_s_bucket_is_read_by_its_owner(
    served: MakeMount, bucket: str, swift: Connection, cloud: Cloud, kind: str
) -> None:
    writer = cloud.add_user(f"writer-{kind}", f"project_{kind}")
    project = f"{writer.project_id}:*"
    for name in (bucket, f"{bucket}_segments"):
        swift.put_container(name)
        swift.post_container(name, {"X-Container-Read": project, "X-Container-Write": project})
    options = {"segment_threshold": "2M", "segment_size": "1M", "large_objects": kind}
    options["storage_url"] = cloud.storage_url
    top = served(mount_command(bucket, options), writer.environ()).path
    (top / "large").write_bytes(b"content" * 1_000_000)
    assert swift.head_object(bucket, "large")["content-length"] == "7000000"
    assert len(listed(swift, f"{bucket}_segments")) > 1
    assert stored(swift, bucket, "large") == b"content" * 1_000_000


@pytest.mark.semantics("N9")
def test_a_bucket_in_another_project_s_account_is_mounted_for_reading(
    served: MakeMount, bucket: str, swift: Connection, cloud: Cloud
) -> None:
    reader = cloud.add_user("reader", "project_2007777")
    swift.post_container(bucket, {"X-Container-Read": f"{reader.project_id}:*"})
    swift.put_object(bucket, "d/file", b"content")
    options = {"storage_url": cloud.storage_url}
    top = served(mount_command(bucket, options), reader.environ()).path
    assert os.listdir(top) == ["d"]
    assert (top / "d/file").read_bytes() == b"content"
    assert os.statvfs(top).f_files == 1
    with refused(errno.EACCES):
        (top / "d/file").open("r+b")
    with refused(errno.EACCES):
        (top / "d/new").open("wb")
    with refused(errno.EACCES):
        (top / "d/file").unlink()
    assert listed(swift, bucket).keys() == {"d/file"}
