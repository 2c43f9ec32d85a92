"""kill -9 in the middle of a mixed load, a new mount, and what the store has in the end.

Each trial: workers change files through a mount; its process is killed; the next mount on the same
spool folder ends what was begun; then every object is read straight from Swift. ``make crash``
does a thousand.
"""

from __future__ import annotations

import json
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from allasfs.demo import Cloud
from tests.mount.support import (
    MIB,
    Served,
    clean_environ,
    mount_command,
    run,
    stored,
    wait_until,
)

from .load import Content, Worker

TRIALS = int(os.environ.get("CRASH_TRIALS", "25"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
WORKERS = 3
LONGEST_S = 1.5
pytestmark = [pytest.mark.mount, pytest.mark.swift]


@pytest.fixture
def watchdog() -> None:
    """Only pytest limits these tests: a thousand trials take an hour."""


def serve(folder: Path, cloud: Cloud, *, write_back: bool) -> Served:
    options = {
        "segment-threshold": MIB,
        "segment-size": MIB,
        "ttl": 600,
        **({"write-back": "yes", "write-back-delay": 0.2} if write_back else {}),
    }
    environ = clean_environ(folder, cloud.environ)
    served = Served(folder, mount_command("", options), environ)
    served.start()
    return served


def status(served: Served) -> dict[str, object]:
    words = (sys.executable, "-m", "allasfs", "status", "--json", served.path)
    done = run(*words, env=served.environ)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def objects(swift: Connection, bucket: str, prefix: str = "") -> list[str]:
    try:
        _, found = swift.get_container(bucket, prefix=prefix, full_listing=True)
    except ClientException as exc:
        if exc.http_status != 404:
            raise
        return []
    return [entry["name"] for entry in found]


def used_segments(swift: Connection, bucket: str) -> set[str]:
    """Return the segments that manifests name."""
    _, found = swift.get_container(bucket, full_listing=True)
    used = set()
    for entry in found:
        if "slo_etag" in entry:
            _, body = swift.get_object(bucket, entry["name"], query_string="multipart-manifest=get")
            used |= {part["name"].split("/", 2)[2] for part in json.loads(body)}
    return used


def shown(content: Content) -> str:
    return "nothing" if content is None else f"{len(content)} bytes, {content[:8].hex()}"


def faults(swift: Connection, bucket: str, worker: Worker) -> Iterator[str]:
    """Yield what the store has and may not have."""
    names = {key.rpartition("/")[2] for key in objects(swift, bucket, f"{worker.prefix}/")} - {""}
    found: dict[str, Content] = dict.fromkeys(worker.may_be)
    found |= {name: stored(swift, bucket, f"{worker.prefix}/{name}") for name in names}
    for name, content in found.items():
        if not worker.permits(name, content):
            permitted = worker.may_be.get(name, {None})
            wanted = " or ".join(sorted(shown(each) for each in permitted))
            yield f"{worker.prefix}/{name}: {shown(content)} in place of {wanted}"
    for old, new in worker.pairs:
        if found[old] is None and found[new] is None:
            yield f"{worker.prefix}/{old} is lost in its rename to {new}"


def trial(
    folder: Path, cloud: Cloud, swift: Connection, number: int, *, write_back: bool
) -> tuple[int, list[str]]:
    """Kill once; return how many operations had ended, and what is wrong afterwards."""
    bucket = f"crash-{'back' if write_back else 'through'}-{number}"
    numbers = random.Random(f"{SEED} {number} {write_back}")
    served = serve(folder, cloud, write_back=write_back)
    (served.path / bucket).mkdir()
    workers = []
    for each in range(WORKERS):
        directory = served.path / bucket / str(each)
        directory.mkdir()
        seed = numbers.randrange(2**32)
        workers.append(Worker(directory, str(each), seed, MIB, is_write_back=write_back))
    stop = threading.Event()
    threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
    for thread in threads:
        thread.start()
    time.sleep(numbers.uniform(0, LONGEST_S))
    served.kill()
    stop.set()
    for thread in threads:
        thread.join()
    after = serve(folder, cloud, write_back=write_back)

    def is_ended() -> bool:
        found = status(after)
        return not found["uploads_to_finish"] and not found["pending_files"]

    wait_until(is_ended, "the next mount has ended what was begun")
    wrong = [line for worker in workers for line in faults(swift, bucket, worker)]
    wrong += [f"kept: {line}" for line in status(after)["kept"]]  # type: ignore[attr-defined]
    wrong += after.loud_lines()
    after.stop()
    orphans = set(objects(swift, f"{bucket}_segments")) - used_segments(swift, bucket)
    wrong += [f"left over: {name}" for name in sorted(orphans)]
    spool = [path.name for path in folder.rglob("*.data")] + [
        path.name for path in folder.rglob("*.upload")
    ]
    wrong += [f"in the spool: {name}" for name in spool]
    if wrong:
        wrong += ["its log:", *after.log().splitlines()]
    return sum(worker.done for worker in workers), wrong


@pytest.mark.timeout(0)
@pytest.mark.semantics("R1", "R10", "W2")
@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_nothing(
    mode: str, cloud: Cloud, swift: Connection, tmp_path: Path
) -> None:
    operations, wrong = 0, []
    for number in range(TRIALS):
        folder = tmp_path / str(number)
        folder.mkdir()
        done, lines = trial(folder, cloud, swift, number, write_back=mode == "write-back")
        operations += done
        wrong += [f"trial {number}: {line}" for line in lines]
    assert not wrong, "\n".join(wrong)
    assert operations > TRIALS
    print(f"\ncrash: {TRIALS} kills ({mode}), {operations} operations, nothing lost or left")
