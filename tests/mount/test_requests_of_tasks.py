"""What the tasks of the benchmark (bench/tasks.py) ask of the server: requests and bytes, counted.

The same as there, in small; docs/PERFORMANCE.md says which test is whose.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import PATIENCE_S, succeed
from .test_requests import Counted, fill

KIB, MIB = 1024, 1024 * 1024
SIZE = 32 * MIB
BLOCK = 4 * KIB


class Sent:
    """A new mount that knows the names of a bucket, and what the server sends it from then on."""

    def __init__(self, cloud: Cloud, counted: Counted, bucket: str) -> None:
        self.path = counted.path / bucket
        self._cloud = cloud
        os.listdir(self.path)
        cloud.forget_requests()

    def requests(self) -> int:
        """Return how many requests there were, which must be GETs of files."""
        found = self._cloud.requests()
        assert {each.method for each in found} <= {"GET"}
        return len(found)

    def bytes(self) -> int:
        """Return how many bytes were sent."""
        return sum(each.sent_bytes for each in self._cloud.requests())


@pytest.fixture
def large(cloud: Cloud, mount: MakeMount, bucket: str, swift: Connection) -> Sent:
    """A bucket with four files of 32 MiB."""
    for number in range(4):
        swift.put_object(bucket, f"large-{number}", os.urandom(SIZE))
    return Sent(cloud, Counted(cloud, mount), bucket)


# -- large files ----------------------------------------------------------------------------------


def test_a_large_file_is_read_once_by_few_requests(large: Sent) -> None:
    succeed("md5sum", large.path / "large-0")
    assert large.bytes() == SIZE
    assert large.requests() <= 16
    before = large.requests()
    succeed("md5sum", large.path / "large-0")
    assert large.requests() == before


def test_four_readers_read_each_file_once(large: Sent) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: succeed("md5sum", large.path / f"large-{number}"), range(4)))
    assert large.bytes() == 4 * SIZE
    assert large.requests() <= 4 * 16


def test_sixteen_readers_read_each_file_once(
    cloud: Cloud, mount: MakeMount, bucket: str, swift: Connection
) -> None:
    size = 6 * MIB
    for number in range(16):
        swift.put_object(bucket, f"file-{number}", os.urandom(size))
    sent = Sent(cloud, Counted(cloud, mount), bucket)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda path: succeed("md5sum", path), sorted(sent.path.iterdir())))
    assert sent.bytes() == 16 * size
    assert sent.requests() <= 16 * 16


@pytest.mark.parametrize("order", ["anywhere", "forward"])
def test_a_block_in_a_large_file_is_one_request(large: Sent, order: str) -> None:
    offsets = [number * MIB + 512 * KIB for number in range(24)]
    if order == "anywhere":
        offsets = [offsets[(number * 7) % 24] for number in range(24)]
    fd = os.open(large.path / "large-0", os.O_RDONLY)
    for offset in offsets:
        assert len(os.pread(fd, BLOCK, offset)) == BLOCK
    os.close(fd)
    assert large.requests() == len(offsets)
    assert large.bytes() <= 8 * BLOCK * len(offsets)


def test_the_first_byte_of_a_large_file_is_at_most_two_requests(large: Sent) -> None:
    with open(large.path / "large-0", "rb", buffering=0) as file:
        assert len(file.read(1)) == 1
    assert large.requests() <= 2
    assert large.bytes() <= MIB


def test_a_region_of_a_large_file_takes_little_more_than_itself(large: Sent) -> None:
    """As of a BAM file: its header, then some of its blocks in a row."""
    header, region = 64 * KIB, MIB
    fd = os.open(large.path / "large-0", os.O_RDONLY)
    for start, length in ((0, header), (SIZE // 2, region)):
        for offset in range(start, start + length, 64 * KIB):
            os.pread(fd, 64 * KIB, offset)
    os.close(fd)
    assert large.bytes() <= 2 * (header + region)
    assert large.requests() <= 12


def test_a_large_file_is_written_by_one_put(
    cloud: Cloud, mount: MakeMount, bucket: str, tmp_path: Path
) -> None:
    counted = Counted(cloud, mount)
    (tmp_path / "file").write_bytes(os.urandom(SIZE))
    os.listdir(counted.path / bucket)
    counted.asked()
    succeed("cp", tmp_path / "file", counted.path / bucket / "file")
    assert counted.asked() == [f"PUT /{bucket}/file"]


def test_a_segmented_file_is_written_by_one_put_for_each_segment_and_the_manifest(
    cloud: Cloud, mount: MakeMount, bucket: str, tmp_path: Path
) -> None:
    counted = Counted(cloud, mount, segment_threshold="4M", segment_size="4M")
    (tmp_path / "file").write_bytes(os.urandom(SIZE))
    os.listdir(counted.path / bucket)
    counted.asked()
    succeed("cp", tmp_path / "file", counted.path / bucket / "file")
    asked = counted.asked()
    segments = [each for each in asked if each.startswith(f"PUT /{bucket}_segments/file/")]
    assert len(segments) == SIZE // (4 * MIB)
    # The bucket of the segments is looked for, and made.
    others = Counter(each.split()[0] for each in asked if each not in segments)
    assert others == {"HEAD": 2, "PUT": 2}


# -- small files ----------------------------------------------------------------------------------


def test_sixteen_readers_of_small_files_ask_once_for_each(
    cloud: Cloud, mount: MakeMount, bucket: str
) -> None:
    fill(cloud, bucket, [f"f{number:03}" for number in range(160)])
    sent = Sent(cloud, Counted(cloud, mount), bucket)
    paths = sorted(sent.path.iterdir())
    with ThreadPoolExecutor(16) as pool:
        assert [path.decode() for path in pool.map(Path.read_bytes, paths)] == [
            path.name for path in paths
        ]
    assert sent.requests() == 160


def test_files_that_are_written_back_are_one_put_each(
    cloud: Cloud, mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    counted = Counted(cloud, mount, write_back=True)
    (tmp_path / "d").mkdir()
    for number in range(40):
        (tmp_path / "d" / f"f{number}").write_text("content")
    os.listdir(counted.path / bucket)
    counted.asked()
    succeed("cp", "-r", tmp_path / "d", counted.path / bucket / "d")
    until = time.monotonic() + PATIENCE_S
    while len(swift.get_container(bucket, prefix="d/f")[1]) < 40:
        assert time.monotonic() < until
        time.sleep(0.1)
    asked = [each for each in counted.asked() if not each.startswith(f"GET /{bucket} ")]
    assert Counter(each.split()[0] for each in asked) == {"PUT": 41}
    assert len(set(asked)) == 41


def test_a_directory_is_renamed_by_one_copy_for_each_file_and_one_deletion_of_all(
    cloud: Cloud, mount: MakeMount, bucket: str
) -> None:
    fill(cloud, bucket, [f"old/f{number}" for number in range(40)])
    counted = Counted(cloud, mount)
    os.listdir(counted.path / bucket)
    counted.asked()
    (counted.path / bucket / "old").rename(counted.path / bucket / "new")
    asked = Counter(each.split()[0] for each in counted.asked())
    assert asked["COPY"] == 40
    assert asked["POST"] == 1
    # A marker tells meanwhile that a rename is under way; all below is listed once more.
    assert asked["PUT"] == asked["DELETE"] == 1
    assert asked["GET"] <= 2
    assert asked.total() <= 45
