"""What a mount may take of the computer: memory, threads, descriptors, connections, disk.

Small limits, 64 readers and 16 writers at once, and a look at /proc while they work. The bounds are
those of docs/RELIABILITY.md.
"""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from io import FileIO
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import MakeMount, missing
from tests.faults import actions as do
from tests.faults.proxy import FaultProxy

from .support import (
    KIB,
    MIB,
    Served,
    clean_environ,
    listed,
    md5,
    pattern,
    refused,
    run,
    succeed,
)

pytestmark = [pytest.mark.swift, pytest.mark.mount]

READERS = 64
WRITERS = 16
CONNECTIONS = 8
MEMORY = 64 * MIB
READ_BYTES = 3 * MIB
WRITTEN_BYTES = 4 * MIB

# The bounds, as the documentation has them.
# The interpreter with all modules, and what its allocator keeps of buffers.
BASE_BYTES = 120 * MIB
# Of a thread: libfuse's buffer, and a read or write of 128 KiB on its way through Python.
THREAD_BYTES = 512 * KIB
# Threads beside those of calls: libfuse keeps 10 idle ones, the rest are our own.
OTHER_THREADS = 10 + 12
KERNEL_REQUESTS = 12


class Sampler:
    """Looks at a process again and again; remembers the most of each."""

    def __init__(self, pid: int, port: int) -> None:
        self._proc = Path(f"/proc/{pid}")
        self._port = port
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.most: dict[str, int] = {}

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(0.05):
            for name, value in self.look().items():
                self.most[name] = max(value, self.most.get(name, 0))

    def look(self) -> dict[str, int]:
        status = (self._proc / "status").read_text()
        fields = dict(re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.MULTILINE))
        fds = list((self._proc / "fd").iterdir())
        leads = {_lead(fd) for fd in fds}
        lines = (self._proc / "net/tcp").read_text().splitlines()[1:]
        port = f":{self._port:04X}"
        sockets = [line.split() for line in lines]
        return {
            "memory": int(fields["VmRSS"]) * KIB,
            "threads": int(fields["Threads"]),
            "descriptors": len(fds),
            "connections": sum(
                words[2].endswith(port) and f"socket:[{words[9]}]" in leads for words in sockets
            ),
        }


def _lead(fd: Path) -> str:
    """Return where a descriptor leads, nothing when it is closed meanwhile."""
    try:
        return os.readlink(fd)
    except FileNotFoundError:
        return ""


@pytest.fixture
def filled(swift: Connection, bucket: str) -> str:
    """A bucket with a file for each reader."""
    for number in range(READERS):
        swift.put_object(bucket, f"read/{number}", pattern(READ_BYTES, seed=number))
    return bucket


def read(path: Path, number: int) -> bool:
    return path.read_bytes() == pattern(READ_BYTES, seed=number)


def write(path: Path, number: int) -> bool:
    with path.open("wb") as file:
        for start in range(0, WRITTEN_BYTES, 64 * KIB):
            file.write(pattern(WRITTEN_BYTES, seed=1000 + number)[start : start + 64 * KIB])
    return True


@pytest.mark.semantics("M1", "M2")
def test_64_readers_and_16_writers_stay_within_the_limits(
    mount: MakeMount, cloud: Cloud, filled: str, swift: Connection, tmp_path: Path
) -> None:
    served = mount(
        memory="64M", connections=CONNECTIONS, spool_dir=tmp_path / "spool", spool_size="64M"
    )
    top = served.path / filled
    (top / "written").mkdir()
    port = int(cloud.swift_url.rsplit(":", 1)[1])
    with (
        Sampler(served.process.pid, port) as sampler,
        ThreadPoolExecutor(READERS + WRITERS) as pool,
    ):
        futures = [pool.submit(read, top / "read" / f"{n}", n) for n in range(READERS)]
        futures += [pool.submit(write, top / "written" / f"{n}", n) for n in range(WRITERS)]
        assert all(future.result() for future in futures)
    most = sampler.most
    print(most)
    threads = READERS + WRITERS + KERNEL_REQUESTS + 3 * CONNECTIONS // 2 + OTHER_THREADS
    assert most["threads"] <= threads
    assert 1 <= most["connections"] <= CONNECTIONS
    assert most["memory"] <= BASE_BYTES + MEMORY + threads * THREAD_BYTES
    # One for each file that is written, and each connection; the rest are the program's own.
    assert most["descriptors"] <= WRITERS + CONNECTIONS + 40
    found = listed(swift, filled)
    for number in range(WRITERS):
        data = pattern(WRITTEN_BYTES, seed=1000 + number)
        assert found[f"written/{number}"] == (WRITTEN_BYTES, md5(data))
    # What was taken is given back.
    status = json.loads(
        succeed(
            sys.executable,
            "-m",
            "allasfs",
            "status",
            "--json",
            served.path,
            env=clean_environ(served.folder),
        )
    )
    assert (status["spool_used"], status["memory_in_flight"], status["open_files"]) == (0, 0, 0)
    assert status["memory_cached"] <= MEMORY


# -- open files -----------------------------------------------------------------------------------


@pytest.mark.semantics("M3")
def test_files_beyond_the_limit_for_descriptors_are_refused_with_words_and_the_rest_goes_on(
    mount: MakeMount, bucket: str, swift: Connection
) -> None:
    limit = 96
    served = mount(open_files=limit)
    served.allow("ENFILE", "many open files")
    top = served.path / bucket
    assert os.listdir(top) == []
    files: list[FileIO] = []
    try:
        with refused(errno.ENFILE):
            while len(files) < 2 * limit:
                files.append((top / f"{len(files)}").open("wb", buffering=0))
                files[-1].write(b"x")
        # The one that got none has nothing to store, and says so again.
        with refused(errno.ENFILE):
            files.pop().close()
    finally:
        for file in files:
            file.close()
    assert limit // 2 < len(files) < limit
    assert "raise 'open-files'" in served.log()
    assert set(listed(swift, bucket)) == {f"{number}" for number in range(len(files))}
    (top / "afterwards").write_bytes(b"content")
    assert swift.get_object(bucket, "afterwards")[1] == b"content"


@pytest.mark.semantics("M3")
def test_the_process_may_open_as_many_files_as_its_hard_limit_allows(
    mount: MakeMount, bucket: str
) -> None:
    served = mount()
    text = Path(f"/proc/{served.process.pid}/limits").read_text()
    found = re.search(r"^Max open files\s+(\d+)\s+(\d+)", text, re.MULTILINE)
    assert found is not None
    soft, hard = int(found[1]), int(found[2])
    assert soft == min(hard, 65_536)
    count = min(soft - 100, 1100)
    with ExitStack() as stack:
        for number in range(count):
            stack.enter_context((served.path / bucket / f"{number}").open("wb"))
        # Also what is opened now can be waited for: select(2) ends at 1024.
        done = run(
            sys.executable,
            "-m",
            "allasfs",
            "status",
            "--json",
            served.path,
            env=clean_environ(served.folder),
        )
        assert json.loads(done.stdout)["open_files"] == count


# -- the spool ------------------------------------------------------------------------------------


def write_or_fail(path: Path, number: int) -> int:
    """Write a file; return 0 or the errno of the write() or close() that failed."""
    try:
        write(path, number)
    except OSError as exc:
        return exc.errno or -1
    return 0


TMPFS_BYTES = 16 * MIB
BLOCK = pattern(64 * KIB)
# A block and the gap behind it.
STRIDE = 2 * len(BLOCK)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0:
        missing("only root can mount a small disk")
    succeed("mount", "-t", "tmpfs", "-o", "size=16m,mode=700", "none", folder)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.semantics("C17", "M2")
def test_writers_on_a_full_disk_get_enospc_at_write_and_never_leave_a_short_object(
    mount: MakeMount, bucket: str, swift: Connection, tmpfs: Path
) -> None:
    """Small blocks with gaps between them, which are no segments: all must wait for close()."""
    served = mount(spool_dir=tmpfs / "spool", spool_size="1G")
    served.allow("ENOSPC")
    top = served.path / bucket
    blocks = 2 * TMPFS_BYTES // len(BLOCK) // WRITERS
    counts = [0] * WRITERS
    with ExitStack() as stack:
        held = [
            stack.enter_context((top / f"{number}").open("wb", buffering=0))
            for number in range(WRITERS)
        ]
        # All at the same pace, so that each has a part when the room ends.
        with refused(errno.ENOSPC):
            for turn in range(1, blocks + 1):
                for number, file in enumerate(held):
                    os.pwrite(file.fileno(), BLOCK, (blocks - turn) * STRIDE)
                    counts[number] += 1
        # What was taken of the write that failed is nothing.
        assert TMPFS_BYTES * 3 // 4 < sum(counts) * len(BLOCK) <= TMPFS_BYTES
        for file in held:
            assert os.fstat(file.fileno()).st_size == blocks * STRIDE - len(BLOCK)
    found = listed(swift, bucket)
    for number, count in enumerate(counts):
        parts = [bytes(STRIDE)] * (blocks - count) + [BLOCK + bytes(len(BLOCK))] * count
        whole = b"".join(parts)[: -len(BLOCK)]
        assert found[f"{number}"] == (len(whole), md5(whole))
    (top / "afterwards").write_bytes(pattern(MIB))
    assert listed(swift, bucket)["afterwards"] == (MIB, md5(pattern(MIB)))


@pytest.mark.semantics("C17")
def test_writers_of_more_than_the_spool_are_throttled_and_all_is_stored(
    mount: MakeMount, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    """16 files of 4 MiB through a spool of 16 MiB: each waits until others have been sent."""
    served = mount(
        spool_dir=tmp_path / "spool",
        spool_size="16M",
        segment_threshold="1M",
        segment_size="1M",
        connections=CONNECTIONS,
    )
    most = 0

    def used() -> int:
        return sum(path.stat().st_blocks * 512 for path in (tmp_path / "spool").glob("*.data"))

    with ThreadPoolExecutor(WRITERS) as pool:
        futures = [
            pool.submit(write_or_fail, served.path / bucket / f"{n}", n) for n in range(WRITERS)
        ]
        while not all(future.done() for future in futures):
            try:
                most = max(most, used())
            except FileNotFoundError:  # it was stored meanwhile
                continue
            time.sleep(0.02)
    assert [future.result() for future in futures] == [0] * WRITERS
    assert 0 < most <= 16 * MIB
    for number in range(WRITERS):
        data = (served.path / bucket / f"{number}").read_bytes()
        assert data == pattern(WRITTEN_BYTES, seed=1000 + number)


@pytest.mark.semantics("C17")
def test_a_writer_that_waits_for_room_in_vain_gets_enospc_and_loses_nothing(
    mount: MakeMount, cloud: Cloud, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    swift.put_object(bucket, "file", b"before")
    with FaultProxy(cloud.swift_url) as proxy:
        served: Served = mount(
            storage_url=proxy.through(cloud.storage_url),
            spool_dir=tmp_path / "spool",
            spool_size="16M",
            segment_threshold="1M",
            segment_size="1M",
            timeout=5,
        )
        served.allow("")
        path = served.path / bucket / "file"
        assert path.read_bytes() == b"before"
        proxy.fail(do.silence, "PUT", "_segments/", times=None)
        with path.open("wb", buffering=0) as file:
            written = 0
            with refused(errno.ENOSPC):
                while written < 64 * MIB:
                    written += file.write(BLOCK)
            assert 8 * MIB < written <= 16 * MIB
            with refused(errno.ENOSPC, *do.DOWN):
                os.fsync(file.fileno())
            proxy.heal()
            assert proxy.struck
            assert swift.get_object(bucket, "file")[1] == b"before"
        # close() did what fsync() could not: all that was taken, and nothing else.
        whole = (BLOCK * (written // len(BLOCK)))[:written]
        assert swift.get_object(bucket, "file")[1] == whole
        served.stop()
