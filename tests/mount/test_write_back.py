"""Write-back on real mounts of a real Swift: what programs are told, and what is stored when."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import Served, listed, md5, pattern, run, stored, succeed, wait_until

pytestmark = [pytest.mark.mount, pytest.mark.swift]

NEVER_S = 3600
FILES = 20


def allasfs(served: Served, *words: str | Path) -> subprocess.CompletedProcess[str]:
    return run(sys.executable, "-m", "allasfs", *words, env=served.environ)


def changes(cloud: Cloud, bucket: str) -> dict[str, int]:
    """Return how many requests changed objects of a bucket since ``forget_requests``."""
    counts: dict[str, int] = {}
    for request in cloud.requests():
        if f"/{bucket}/" in request.path and request.method in ("PUT", "COPY", "DELETE", "POST"):
            counts[request.method] = counts.get(request.method, 0) + 1
    return counts


@pytest.mark.semantics("W1", "W4")
def test_sync_stores_what_was_closed_each_file_by_one_put(
    mount: MakeMount, cloud: Cloud, bucket: str, swift: Connection
) -> None:
    served = mount(write_back="yes", write_back_delay=NEVER_S)
    directory = served.path / bucket
    cloud.forget_requests()
    for number in range(FILES):
        (directory / str(number)).write_bytes(pattern(1000 + number))
    assert listed(swift, bucket) == {}
    assert (directory / "7").read_bytes() == pattern(1007)
    assert len(os.listdir(directory)) == FILES
    done = allasfs(served, "sync", served.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert changes(cloud, bucket) == {"PUT": FILES}
    expected = {str(n): (1000 + n, md5(pattern(1000 + n))) for n in range(FILES)}
    assert listed(swift, bucket) == expected


@pytest.mark.semantics("W3")
def test_rsync_writes_each_file_by_one_put_and_nothing_the_second_time(
    mount: MakeMount, cloud: Cloud, bucket: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for number in range(FILES):
        (source / str(number)).write_bytes(pattern(5000 + number))
        os.utime(source / str(number), ns=(10**18, 10**18 + number * 10**9))
    served = mount(write_back="yes", write_back_delay=NEVER_S)
    cloud.forget_requests()
    succeed("rsync", "-a", f"{source}/", served.path / bucket)
    assert allasfs(served, "sync", served.path).returncode == 0
    # The bucket's own time and mode are metadata of the bucket.
    assert changes(cloud, bucket) == {"PUT": FILES}
    assert succeed("rsync", "-ai", f"{source}/", served.path / bucket) == ""


@pytest.mark.semantics("W2")
def test_what_was_closed_before_a_kill_is_there_and_stored_after_it(
    mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    options = {"write_back": "yes", "spool_dir": tmp_path / "spool"}
    served = mount(write_back_delay=NEVER_S, **options)
    data = {str(number): pattern(3000, number) for number in range(FILES)}
    for name, content in data.items():
        (served.path / bucket / name).write_bytes(content)
    served.kill()
    assert listed(swift, bucket) == {}
    after = mount(write_back_delay=NEVER_S, **options)
    assert {name: (after.path / bucket / name).read_bytes() for name in data} == data
    assert listed(swift, bucket) == {}
    assert after.stop() == 0
    assert {name: stored(swift, bucket, name) for name in data} == data


@pytest.mark.semantics("W4")
def test_a_store_that_is_away_delays_uploads_and_no_program(
    mount: MakeMount, cloud: Cloud, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    options = {"write_back": "yes", "spool_dir": tmp_path / "spool", "timeout": 2}
    served = mount(**options)
    served.allow("closed files wait for the store", "waits for the next mount", "next mount")
    directory = served.path / bucket
    os.listdir(directory)
    cloud.pause_swift()
    try:
        (directory / "a").write_bytes(b"content")
        assert (directory / "a").read_bytes() == b"content"
        done = allasfs(served, "sync", "--wait", "1", served.path)
        assert done.returncode == 22
        assert "1 files are not stored yet" in done.stderr
        umount = allasfs(served, "umount", served.path)
        assert umount.returncode == 15
        assert "1 files wait in the spool for the next mount" in umount.stderr
        served.process.wait()
    finally:
        cloud.resume_swift()
    mount(**options)
    wait_until(lambda: "a" in listed(swift, bucket), "the next mount stores it")
    assert stored(swift, bucket, "a") == b"content"


@pytest.mark.semantics("W5")
def test_sync_tells_of_what_the_store_refused(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.post_container(bucket, {"X-Container-Meta-Quota-Bytes": "10"})
    served = mount(write_back="yes")
    served.allow("was not stored", "not uploaded")
    (served.path / bucket / "a").write_bytes(pattern(100))
    for _ in range(2):
        done = allasfs(served, "sync", served.path)
        assert done.returncode == 22
        assert f"{bucket}/a was not stored" in done.stderr
    assert os.listdir(served.path / bucket) == []
    assert f"{bucket}/a" in allasfs(served, "recover").stdout
    assert served.stop() == 15


@pytest.mark.semantics("W6")
def test_a_file_that_another_client_changed_is_kept_beside_it(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "a", b"older")
    served = mount(write_back="yes", write_back_delay=NEVER_S)
    served.allow("was not stored", "not uploaded")
    (served.path / bucket / "a").write_bytes(b"from here")
    swift.put_object(bucket, "a", b"from there")
    assert allasfs(served, "sync", served.path).returncode == 22
    assert (served.path / bucket / "a").read_bytes() == b"from there"
    entry = allasfs(served, "recover").stdout.split("\t")
    assert entry[1] == f"{bucket}/a"
    done = allasfs(served, "recover", "retry", "--as", f"{bucket}/mine", entry[0])
    assert done.returncode == 0, done.stderr
    assert stored(swift, bucket, "mine") == b"from here"
    assert stored(swift, bucket, "a") == b"from there"
    assert served.stop() == 0


@pytest.mark.semantics("W1")
def test_git_works_and_what_it_made_is_stored(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    served = mount(write_back="yes")
    work = served.path / bucket / "work"
    git = ["git", "-C", str(work), "-c", "user.name=A", "-c", "user.email=a@b"]
    succeed("git", "init", "-q", work)
    for number in range(3):
        (work / f"file{number}").write_bytes(pattern(10_000, number))
        succeed(*git, "add", ".")
        succeed(*git, "commit", "-q", "-m", f"commit {number}")
    succeed(*git, "gc", "-q")
    assert "dangling" not in succeed(*git, "fsck", "--strict")
    head = succeed(*git, "rev-parse", "HEAD").strip()
    assert served.stop() == 0
    after = mount()
    git[2] = str(after.path / bucket / "work")
    assert succeed(*git, "rev-parse", "HEAD").strip() == head
    succeed(*git, "fsck", "--strict")
    assert succeed(*git, "status", "--porcelain") == ""


@pytest.mark.semantics("W4")
def test_unmounting_waits_for_the_uploads(mount: MakeMount, bucket: str, swift: Connection) -> None:
    served = mount(write_back="yes", write_back_delay=NEVER_S)
    for number in range(FILES):
        (served.path / bucket / str(number)).write_bytes(pattern(100, number))
    before = time.monotonic()
    succeed(sys.executable, "-m", "allasfs", "umount", served.path, env=served.environ)
    assert served.process.wait() == 0
    assert len(listed(swift, bucket)) == FILES, f"after {time.monotonic() - before} s"
