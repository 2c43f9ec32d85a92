"""kill -9 in the middle of a mixed load, a new mount, and what the store has in the end.

Each trial: workers change files through a mount; its process is killed; the next mount on the same
spool folder ends what was begun; then every object is read straight from Swift. ``make crash``
does a thousand.
"""

from __future__ import annotations

import json
import os
import random
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection
from swiftclient.exceptions import ClientException

from allasfs.app import control
from allasfs.demo import Cloud
from tests.mount.support import (
    MIB,
    PATIENCE_S,
    Served,
    clean_environ,
    mount_command,
    stored,
    wait_until,
)

from .load import Content, Worker

TRIALS = int(os.environ.get("CRASH_TRIALS", "25"))
SEED = int(os.environ.get("CRASH_SEED", "1"))
WORKERS = 3
LONGEST_S = 1.5
# A kill within the request that removes a large file (SEMANTICS.md, L5).
IN_DOUBT = re.compile(r"is gone, removed by the mount .* may be left over in (.*)$")
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
    served = Served(folder, mount_command("", options), clean_environ(folder, cloud.environ))
    served.start()
    return served


def status(served: Served) -> dict[str, object]:
    """Ask as ``allasfs status`` does, without a program for each question."""
    (path,) = served.folder.glob("allasfs/*.sock")
    with control.connect([path], os.geteuid(), PATIENCE_S) as connection:
        assert connection is not None
        return connection.ask({"command": "status"}, PATIENCE_S)


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


def remove(swift: Connection, bucket: str) -> None:
    """Make room for the next trials."""
    for name in (bucket, f"{bucket}_segments"):
        for key in objects(swift, name):
            swift.delete_object(name, key)


class Trials:
    """One spool folder, and mounts one after the other."""

    def __init__(self, folder: Path, cloud: Cloud, swift: Connection, *, write_back: bool) -> None:
        self._folder = folder
        self._cloud = cloud
        self._swift = swift
        self._write_back = write_back
        self._served = self._serve()
        self.operations = 0

    def _serve(self) -> Served:
        return serve(self._folder, self._cloud, write_back=self._write_back)

    def run(self, number: int) -> list[str]:
        """Kill once, in a bucket of its own; return what is wrong afterwards."""
        bucket = f"crash-{'back' if self._write_back else 'through'}-{number}"
        numbers = random.Random(f"{SEED} {number} {self._write_back}")
        (self._served.path / bucket).mkdir()
        workers = []
        for each in range(WORKERS):
            directory = self._served.path / bucket / str(each)
            directory.mkdir()
            seed = numbers.randrange(2**32)
            workers.append(Worker(directory, str(each), seed, MIB, self._write_back))
        self._load_and_kill(workers, numbers.uniform(0, LONGEST_S))
        self._served = self._serve()
        wait_until(self._is_ended, "the next mount has ended what was begun")
        wrong = [line for worker in workers for line in faults(self._swift, bucket, worker)]
        used = used_segments(self._swift, bucket)
        orphans = set(objects(self._swift, f"{bucket}_segments")) - used
        in_doubt = [
            found[1] for line in self._served.loud_lines() if (found := IN_DOUBT.search(line))
        ]
        places = tuple(place for each in in_doubt for place in each.split(", "))
        wrong += [
            f"left over: {name}"
            for name in sorted(orphans)
            if not f"{bucket}_segments/{name}".startswith(places)
        ]
        state = self._folder / ".local"
        assert state.is_dir()
        for suffix in ("data", "upload"):
            wrong += [f"in the spool: {path.name}" for path in state.rglob(f"*.{suffix}")]
        wrong += [line for line in self._served.loud_lines() if not IN_DOUBT.search(line)]
        if wrong:
            wrong += ["its log:", *self._served.log().splitlines()[-50:]]
        remove(self._swift, bucket)
        self.operations += sum(worker.done for worker in workers)
        return [f"trial {number}: {line}" for line in wrong]

    def _load_and_kill(self, workers: list[Worker], seconds: float) -> None:
        stop = threading.Event()
        threads = [threading.Thread(target=worker.run, args=(stop,)) for worker in workers]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        self._served.kill()
        stop.set()
        for thread in threads:
            thread.join()

    def _is_ended(self) -> bool:
        found = status(self._served)
        return not found["uploads_to_finish"] and not found["pending_files"]

    def end(self) -> int:
        """Unmount; return the exit status."""
        return self._served.stop()

    def give_up(self) -> None:
        """Leave no mount behind."""
        if self._served in Served.running:
            self._served.kill()


@pytest.mark.timeout(0)
@pytest.mark.semantics("R1", "R10", "W2")
@pytest.mark.parametrize("mode", ["write-through", "write-back"])
def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_nothing(
    mode: str, cloud: Cloud, swift: Connection, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Short, because the path of a socket in it has a limit.
    trials = Trials(tmp_path_factory.mktemp("c"), cloud, swift, write_back=mode == "write-back")
    try:
        for number in range(TRIALS):
            wrong = trials.run(number)
            assert not wrong, "\n".join(wrong)
            if number % 50 == 49:
                print(f"\n{number + 1} kills ({mode}), {trials.operations} operations")
        assert trials.end() == 0
    finally:
        trials.give_up()
    assert trials.operations > TRIALS
    print(f"\ncrash: {TRIALS} kills ({mode}), {trials.operations} operations, nothing lost or left")
