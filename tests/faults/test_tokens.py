"""Work that goes on over many tokens: none of it fails, and each token is asked for once.

The real Keystone, whose tokens live for 20 seconds, is behind a proxy that counts; Swift is behind
one that is so slow that an upload and a reader outlive several tokens. ``TOKEN_SECONDS`` says how
long (``make tokens``: 10 minutes).
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from allasfs.demo import Cloud
from tests.faults.proxy import FaultProxy
from tests.mount.support import (
    MIB,
    PATIENCE_S,
    Served,
    Watchdog,
    clean_environ,
    connect,
    md5,
    mount_command,
    pattern,
    stored,
)

pytestmark = [pytest.mark.swift, pytest.mark.mount, pytest.mark.slow]

LIFE_S = 20
# Three tokens, if nothing else is said.
SECONDS = float(os.environ.get("TOKEN_SECONDS", "50"))
# Of each connection.
BYTES_PER_S = 512 * 1024
# A renewal begins when a quarter of the life is left; Keystone's times have whole seconds.
SHORTEST_S = 0.75 * LIFE_S - 1
WORKERS = 6


@pytest.fixture(scope="module")
def hasty_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud whose tokens live for seconds."""
    with Cloud(tmp_path_factory.mktemp("hasty") / "cloud", token_lifetime_s=LIFE_S) as cloud:
        yield cloud


class Work:
    """What many threads do until the time is over; counts it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.end_s = time.monotonic() + SECONDS
        self._lock = threading.Lock()
        self.done = 0

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end_s

    def count(self) -> None:
        with self._lock:
            self.done += 1

    def files(self, number: int) -> None:
        """Write, read, look, rename, remove, again and again."""
        folder = self.top / f"worker-{number}"
        folder.mkdir()
        turn = 0
        while not self.is_over:
            turn += 1
            data = pattern(20_000 + turn % 7, seed=number * 1000 + turn % 100)
            path = folder / f"file-{turn % 5}"
            path.write_bytes(data)
            assert path.read_bytes() == data
            path.rename(folder / "renamed")
            assert "renamed" in os.listdir(folder)
            assert (folder / "renamed").stat().st_size == len(data)
            (folder / "renamed").unlink()
            self.count()

    def upload(self) -> None:
        """One PUT that takes as long as all of it."""
        data = pattern(int(0.8 * SECONDS * BYTES_PER_S), seed=1)
        (self.top / "uploaded").write_bytes(data)
        self.count()

    def read(self, size: int, digest: str) -> None:
        """One file, read so slowly that it takes as long as all of it."""
        seen = hashlib.md5(usedforsecurity=False)
        begin_s, taken = time.monotonic(), 0
        with (self.top / "large").open("rb", buffering=0) as file:
            while piece := file.read(128 * 1024):
                seen.update(piece)
                taken += len(piece)
                rest_s = begin_s + SECONDS * taken / size - time.monotonic()
                time.sleep(max(0.0, rest_s))
        assert seen.hexdigest() == digest
        self.count()


@pytest.mark.semantics("T1")
@pytest.mark.timeout(SECONDS + 3 * PATIENCE_S)
def test_work_goes_on_over_many_tokens_and_each_is_asked_for_once(
    hasty_cloud: Cloud, prerequisites: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    client = connect(hasty_cloud)
    client.put_container("work")
    large = pattern(max(32, int(SECONDS)) * MIB)
    client.put_object("work", "large", large)
    client.close()
    folder = tmp_path_factory.mktemp("m")
    with (
        FaultProxy(hasty_cloud.auth_url) as keystone,
        FaultProxy(hasty_cloud.swift_url) as swift,
        Watchdog(SECONDS + 2 * PATIENCE_S) as dog,
    ):
        swift.bytes_per_s = 0.0
        options = {
            "storage_url": swift.through(hasty_cloud.storage_url),
            "ttl": 2,
            "memory": "16M",
            "spool_dir": folder / "spool",
        }
        environ = {**hasty_cloud.environ, "OS_AUTH_URL": keystone.through(hasty_cloud.auth_url)}
        served = Served(folder, mount_command("", options), clean_environ(folder, environ))
        served.start()
        try:
            swift.bytes_per_s = BYTES_PER_S
            begin_s = time.monotonic()
            work = Work(served.path / "work")
            jobs: list[Callable[[], None]] = [
                work.upload,
                lambda: work.read(len(large), md5(large)),
                *(lambda n=n: work.files(n) for n in range(WORKERS)),
            ]
            with ThreadPoolExecutor(len(jobs)) as pool:
                futures = [pool.submit(job) for job in jobs]
            for future in futures:
                future.result()
            worked_s = time.monotonic() - begin_s
        finally:
            swift.bytes_per_s = 0.0
            served.stop()
        lived_s = time.monotonic() - begin_s + LIFE_S
        authentications = [
            request
            for request in keystone.requests()
            if request.method == "POST" and request.target.endswith("/auth/tokens")
        ]
        tokens = {request.headers["x-auth-token"] for request in swift.requests()}
    refused = [request for request in hasty_cloud.requests() if request.status == 401]
    print(
        f"{work.done} turns and {len(swift.requests())} requests in {worked_s:.0f} s:"
        f" {len(authentications)} authentications, {len(tokens)} tokens used,"
        f" {len(refused)} requests refused"
    )
    assert not dog.has_bitten
    assert served.loud_lines() == []
    client = connect(hasty_cloud)
    assert stored(client, "work", "uploaded") == pattern(int(0.8 * SECONDS * BYTES_PER_S), seed=1)
    client.close()
    assert worked_s > 2 * LIFE_S
    assert worked_s / LIFE_S <= len(authentications) <= math.ceil(lived_s / SHORTEST_S)
    # Each was used, but perhaps the last one.
    assert len(authentications) - 1 <= len(tokens) <= len(authentications)
