"""How many requests the system calls of programs cost, counted on the server.

Every test has a new mount, so that nothing is known. Not counted: what a mount asks once in its
life, which is the account when it starts (HEAD) and what the server can do (GET /info).
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import requests
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount

from .support import PATIENCE_S, Served, connect, succeed

FILES = 5000
BESIDE = 2000
DIRECTORIES = 200
# Far longer than a test: nothing becomes too old while it runs.
TTL_S = 3600
# Two are enough for two proxies; a request of Swift's has a limit of 10,000 files.
UPLOADS = 2


def fill(cloud: Cloud, bucket: str, names: Iterable[str]) -> None:
    """Store objects of a few bytes, by requests that carry many at once."""
    every = list(names)
    token = cloud.token()
    shares = [every[start::UPLOADS] for start in range(UPLOADS)]

    def upload(share: list[str]) -> None:
        answer = requests.put(
            f"{token.storage_url}/{bucket}?extract-archive=tar",
            data=archive(share),
            headers={"x-auth-token": token.id, "accept": "application/json"},
            timeout=PATIENCE_S,
        )
        assert answer.json()["Number Files Created"] == len(share), answer.text

    with ThreadPoolExecutor(UPLOADS) as pool:
        list(pool.map(upload, shares))


def archive(names: Iterable[str]) -> bytes:
    """Return a tar archive whose files hold their own names."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in names:
            content = name.encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def many(cloud: Cloud) -> str:
    """A bucket of 5000 files: 2000 side by side, and the rest in 200 directories."""
    beside = [f"file-{number:04}" for number in range(BESIDE)]
    below = [f"dir-{number % DIRECTORIES:03}/file-{number:04}" for number in range(BESIDE, FILES)]
    client = connect(cloud)
    client.put_container("many")
    client.close()
    fill(cloud, "many", beside + below)
    return "many"


class Counted:
    """A new mount, and what it asked since the last look."""

    def __init__(self, cloud: Cloud, mount: MakeMount, **options: object) -> None:
        self.path = mount(ttl=TTL_S, **options).path
        self._cloud = cloud
        self._account = urlsplit(cloud.storage_url).path
        cloud.forget_requests()

    def asked(self) -> list[str]:
        """Return the requests since the last call, as ``GET /bucket``, sorted."""
        answered = self._cloud.requests()
        self._cloud.forget_requests()
        return sorted(
            f"{request.method} {request.path.removeprefix(self._account)}"
            + self._extent(request.query)
            for request in answered
            if request.path != "/info"
        )

    @staticmethod
    def _extent(query: str) -> str:
        """What of a listing: all below, or one level; from where."""
        words = [f"{name}={value[0]}" for name, value in sorted(parse_qs(query).items())]
        shown = [word for word in words if word != "format=json"]
        return f" ?{'&'.join(shown)}" if shown else ""


def test_what_the_server_can_do_is_asked_once(cloud: Cloud, mount: MakeMount, bucket: str) -> None:
    cloud.forget_requests()
    path = mount(ttl=0).path / bucket
    for number in range(3):
        (path / f"f{number}").write_text("content")
        succeed("ls", "-l", path)
    assert [each.path for each in cloud.requests()].count("/info") == 1


@pytest.fixture
def counted(cloud: Cloud, mount: MakeMount) -> Counted:
    return Counted(cloud, mount)


# The list of buckets, which is the root of the mount: one page.
ACCOUNT = "GET "


# -- names ----------------------------------------------------------------------------------------


def test_the_first_ls_of_5000_files_asks_for_two_listings(counted: Counted, many: str) -> None:
    printed = succeed("ls", "-lR", counted.path / many)
    assert printed.count("file-") == FILES
    assert counted.asked() == [ACCOUNT, f"GET /{many}"]


def test_the_second_ls_of_5000_files_asks_nothing(counted: Counted, many: str) -> None:
    first = succeed("ls", "-lR", counted.path / many)
    counted.asked()
    assert succeed("ls", "-lR", counted.path / many) == first
    assert counted.asked() == []


def test_ls_of_one_directory_of_a_small_bucket_asks_for_no_other(
    counted: Counted, many: str
) -> None:
    assert len(succeed("ls", "-l", counted.path / many).splitlines()) == 1 + BESIDE + DIRECTORIES
    assert counted.asked() == [ACCOUNT, f"GET /{many}"]
    # All that is below came with the same listing.
    succeed("ls", "-l", counted.path / many / "dir-000")
    assert counted.asked() == []


@pytest.mark.semantics("C5")
def test_find_in_200_directories_asks_for_two_listings(counted: Counted, many: str) -> None:
    printed = succeed("find", counted.path / many, "-type", "f", "-size", "+0")
    assert len(printed.splitlines()) == FILES
    # find asks how full the file system is.
    assert counted.asked() == [ACCOUNT, f"GET /{many}", "HEAD "]


@pytest.mark.semantics("C5")
def test_ls_of_a_directory_lists_no_other_one(counted: Counted, many: str) -> None:
    printed = succeed("ls", "-l", counted.path / many / "dir-007")
    assert printed.count("file-") == (FILES - BESIDE) // DIRECTORIES
    # Where it is, and what is in it.
    assert counted.asked() == [
        ACCOUNT,
        f"GET /{many} ?delimiter=/",
        f"GET /{many} ?prefix=dir-007/",
    ]


def test_stat_of_a_name_lists_its_directory_alone(counted: Counted, many: str) -> None:
    assert (counted.path / many / "file-0042").stat().st_size == len("file-0042")
    assert not (counted.path / many / "lacking").exists()
    assert counted.asked() == [ACCOUNT, f"GET /{many} ?delimiter=/"]


def test_stat_in_all_of_200_directories_asks_for_four_listings(counted: Counted, many: str) -> None:
    for number in range(BESIDE, FILES):
        name = f"dir-{number % DIRECTORIES:03}/file-{number:04}"
        assert (counted.path / many / name).stat().st_size == len(name)
    # The second directory shows that it is a walk.
    assert counted.asked() == [
        ACCOUNT,
        f"GET /{many}",
        f"GET /{many} ?delimiter=/",
        f"GET /{many} ?prefix=dir-000/",
    ]


@pytest.mark.semantics("C1")
def test_a_name_that_a_listing_lacks_is_known_not_to_exist(counted: Counted, many: str) -> None:
    os.listdir(counted.path / many)
    counted.asked()
    for number in range(100):
        assert not (counted.path / many / f"lacking-{number}").exists()
    assert not (counted.path / many / "no" / "such" / "directory").exists()
    assert counted.asked() == []


def test_mkdir_costs_one_marker_and_its_rmdir_one_delete(counted: Counted, bucket: str) -> None:
    os.listdir(counted.path / bucket)
    counted.asked()
    directory = counted.path / bucket / "d"
    directory.mkdir()
    assert os.listdir(directory) == []
    assert counted.asked() == [f"PUT /{bucket}/d/"]
    directory.rmdir()
    assert os.listdir(counted.path / bucket) == []
    assert counted.asked() == [f"DELETE /{bucket}/d/"]


@pytest.mark.semantics("C1")
def test_an_empty_file_costs_one_head_for_its_version(
    counted: Counted, bucket: str, swift: Connection
) -> None:
    # Its listing cannot tell an empty object from a large one.
    swift.put_object(bucket, "empty", b"")
    counted.asked()
    for _ in range(3):
        succeed("ls", "-l", counted.path / bucket)
    assert counted.asked() == [ACCOUNT, f"GET /{bucket}", f"HEAD /{bucket}/empty"]


# -- bytes ----------------------------------------------------------------------------------------


def write_calls() -> int:
    """Return how often this process and the programs that it has waited for called write(2)."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["syscw"])


def test_programs_write_a_mebibyte_at_once(mounted: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(32 * 1024 * 1024))
    before = write_calls()
    succeed("cp", source, mounted / "file")
    # With each comes a question of the kernel. Calls of 128 KiB are 256.
    assert write_calls() - before < 100


def test_reading_a_small_listed_file_is_one_get(counted: Counted, many: str) -> None:
    os.listdir(counted.path / many)
    counted.asked()
    assert (counted.path / many / "file-0042").read_text() == "file-0042"
    assert counted.asked() == [f"GET /{many}/file-0042"]


@pytest.mark.semantics("C6")
def test_reading_an_unchanged_file_again_asks_nothing(counted: Counted, many: str) -> None:
    for _ in range(2):
        assert (counted.path / many / "file-0042").read_text() == "file-0042"
    counted.asked()
    for _ in range(3):
        assert (counted.path / many / "file-0042").read_text() == "file-0042"
    assert counted.asked() == []


def test_a_file_of_a_mebibyte_is_one_get(counted: Counted, bucket: str, swift: Connection) -> None:
    swift.put_object(bucket, "file", bytes(1024 * 1024))
    os.listdir(counted.path / bucket)
    counted.asked()
    assert len((counted.path / bucket / "file").read_bytes()) == 1024 * 1024
    assert counted.asked() == [f"GET /{bucket}/file"]


def test_writing_a_small_file_is_one_put(counted: Counted, bucket: str) -> None:
    os.listdir(counted.path / bucket)
    counted.asked()
    (counted.path / bucket / "new").write_text("content")
    assert counted.asked() == [f"PUT /{bucket}/new"]
    assert (counted.path / bucket / "new").stat().st_size == 7
    assert os.listdir(counted.path / bucket) == ["new"]
    assert counted.asked() == []


def test_replacing_a_file_is_one_put(counted: Counted, bucket: str) -> None:
    (counted.path / bucket / "file").write_text("first")
    counted.asked()
    (counted.path / bucket / "file").write_text("second")
    asked = counted.asked()
    # A replaced object keeps its metadata, which only a HEAD tells.
    assert [each for each in asked if not each.startswith("HEAD")] == [f"PUT /{bucket}/file"]
    assert len(asked) <= 2


def test_removing_a_file_is_one_delete(counted: Counted, bucket: str) -> None:
    (counted.path / bucket / "file").write_text("content")
    counted.asked()
    (counted.path / bucket / "file").unlink()
    assert os.listdir(counted.path / bucket) == []
    assert counted.asked() == [f"DELETE /{bucket}/file"]


def make_tree(top: Path, directories: int, files: int) -> None:
    """Make a tree: ``directories`` with the top, and in each so many ``files``."""
    top.mkdir()
    tops = [top, *(top / f"d{number}" for number in range(directories - 1))]
    for directory in tops:
        directory.mkdir(exist_ok=True)
        for number in range(files):
            (directory / f"f{number}").write_text(f"{directory.name}/{number}")


def test_copying_a_tree_is_one_put_for_each_file_and_directory(
    counted: Counted, bucket: str, tmp_path: Path
) -> None:
    make_tree(tmp_path / "t", directories=5, files=8)
    os.listdir(counted.path / bucket)
    counted.asked()
    succeed("cp", "-r", tmp_path / "t", counted.path / bucket / "t")
    asked = counted.asked()
    assert Counter(each.split()[0] for each in asked) == {"PUT": 5 + 5 * 8}
    assert len(set(asked)) == len(asked)
    succeed("diff", "-r", tmp_path / "t", counted.path / bucket / "t")
    assert Counter(each.split()[0] for each in counted.asked()) == {"GET": 5 * 8}


def test_unpacking_a_tree_is_one_put_for_each_and_some_changes_of_directories(
    counted: Counted, bucket: str, tmp_path: Path
) -> None:
    make_tree(tmp_path / "t", directories=5, files=8)
    succeed("tar", "-cf", tmp_path / "t.tar", "-C", tmp_path, "t")
    os.listdir(counted.path / bucket)
    counted.asked()
    succeed("tar", "-xf", tmp_path / "t.tar", "-C", counted.path / bucket)
    asked = counted.asked()
    puts = [each for each in asked if each.startswith("PUT")]
    assert len(puts) == len(set(puts)) == 5 + 5 * 8
    # A directory gets its time, owner (as root) and mode when all is in it: each by HEAD and POST.
    rest = Counter(each for each in asked if not each.startswith("PUT"))
    directories = [f"/{bucket}/t/", *(f"/{bucket}/t/d{number}/" for number in range(4))]
    assert set(rest) == {f"{how} {path}" for how in ("HEAD", "POST") for path in directories}
    assert max(rest.values()) <= 3
    succeed("tar", "-df", tmp_path / "t.tar", "-C", counted.path / bucket)


def test_removing_a_tree_is_one_delete_for_each_file_and_directory(
    counted: Counted, bucket: str, tmp_path: Path
) -> None:
    make_tree(tmp_path / "t", directories=3, files=4)
    succeed("cp", "-r", tmp_path / "t", counted.path / bucket / "t")
    counted.asked()
    succeed("rm", "-r", counted.path / bucket / "t")
    # rm asks how full the file system is.
    asked = Counter(each.split()[0] for each in counted.asked())
    assert asked == {"DELETE": 3 + 3 * 4, "HEAD": 1}


def test_tar_reads_a_tree_by_one_get_for_each_file(
    counted: Counted, bucket: str, cloud: Cloud
) -> None:
    fill(cloud, bucket, [f"d{number % 3}/f{number}" for number in range(12)])
    counted.asked()
    # To a pipe: tar does not read what it writes to /dev/null.
    data = subprocess.run(
        ["tar", "-c", "-C", str(counted.path / bucket), "."],
        check=True,
        capture_output=True,
        timeout=PATIENCE_S,
    ).stdout
    assert b"d0/f0" in data
    asked = counted.asked()
    assert Counter(asked)[ACCOUNT] == 1
    assert [each for each in asked if each.startswith(f"GET /{bucket}/")] == sorted(
        f"GET /{bucket}/d{number % 3}/f{number}" for number in range(12)
    )


# -- what the kernel answers ----------------------------------------------------------------------


@contextmanager
def stopped(served: Served) -> Iterator[None]:
    """Let the mount's process answer nothing."""
    served.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        served.process.send_signal(signal.SIGCONT)


def test_names_attributes_and_pages_that_the_kernel_has_it_does_not_ask_for(
    mount: MakeMount, bucket: str
) -> None:
    served = mount(bucket, ttl=TTL_S)
    path, lacking = served.path / "file", served.path / "lacking"
    path.write_bytes(b"content" * 1000)
    assert path.read_bytes() == b"content" * 1000
    assert path.stat().st_size == 7000
    assert not lacking.exists()
    # Opened once more: the version is the same, so the pages stay.
    fd = os.open(path, os.O_RDONLY)
    with stopped(served):
        assert os.pread(fd, 10_000, 0) == b"content" * 1000
        assert path.stat().st_size == 7000
        assert not lacking.exists()
    os.close(fd)
