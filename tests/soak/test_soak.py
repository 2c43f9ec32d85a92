"""A mixed load for hours, while network and servers fail at random and tokens live for seconds.

Two mounts of a real Swift and Keystone behind fault proxies, one with write-back and one without.
Every operation succeeds with the right content, or fails as docs/SEMANTICS.md permits and leaves
one of the permitted contents; none hangs; nothing is left over; and no process grows.
``make soak`` (``SOAK_MINUTES``, ``SOAK_SEED``) does it for an hour, and ``SOAK_REPORT`` names a
file for its figures: one JSON object per line, the last one the sum.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import pytest
from swiftclient.exceptions import ClientException

from allasfs.demo import Cloud
from tests.crash.load import Content
from tests.crash.test_crash import objects, status, used_segments
from tests.faults.proxy import FaultProxy
from tests.mount.support import (
    MIB,
    Served,
    clean_environ,
    connect,
    mount_command,
    run,
    stored,
    wait_until,
)

from .load import Lasting
from .samples import Sample, growth, medians, sample
from .track import WrongError, shown
from .weather import FAULTS, OF_KEYSTONE, Weather

pytestmark = [pytest.mark.mount, pytest.mark.swift, pytest.mark.slow]

SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "0.67"))
SEED = os.environ.get("SOAK_SEED", "1")
REPORT = os.environ.get("SOAK_REPORT", "")
WORKERS = 2
TIMEOUT_S = 20
TTL_S = 3
LIFE_S = 20
SHARE = 0.03
# Nothing of a failed call is under way any more, and listings are younger.
SETTLE_S = TIMEOUT_S + TTL_S + 5
# An operation has a few calls, each with its deadline.
HANG_S = 9 * TIMEOUT_S
SAMPLE_S = 2 if SECONDS < 300 else 5
# What is left is uploaded in the end.
END_S = 120


@pytest.fixture
def watchdog() -> None:
    """Each operation has a limit of its own."""


@pytest.fixture(scope="module")
def hasty_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud whose tokens live for seconds."""
    with Cloud(tmp_path_factory.mktemp("soak") / "cloud", token_lifetime_s=LIFE_S) as cloud:
        yield cloud


class Side:
    """One mount with its bucket and workers."""

    def __init__(
        self,
        name: str,
        folder: Path,
        cloud: Cloud,
        environ: dict[str, str],
        proxy: FaultProxy,
    ) -> None:
        self.name = name
        self._proxy = proxy
        self.is_write_back = name == "write-back"
        self._cloud = cloud
        options: dict[str, object] = {
            "storage_url": environ["SOAK_URL"],
            "timeout": TIMEOUT_S,
            "ttl": TTL_S,
            "memory": "16M",
            "segment_threshold": MIB,
            "segment_size": MIB,
            "write_back": "yes" if self.is_write_back else "no",
        }
        # Private, else the socket of the mount is elsewhere.
        folder.mkdir(mode=0o700)
        self.served = Served(folder, mount_command("", options), clean_environ(folder, environ))
        # Faults are worth a warning, and data that are kept an error.
        self.served.allow(" WARNING ", " was not stored")
        self.workers: list[Lasting] = []
        self.samples: list[Sample] = []

    def begin(self) -> None:
        """Mount, and make bucket and workers."""
        self.served.start()
        (self.served.path / self.name).mkdir()
        for number in range(WORKERS):
            directory = self.served.path / self.name / str(number)
            directory.mkdir()
            self.workers.append(
                Lasting(
                    directory,
                    str(number),
                    zlib.crc32(f"{SEED} {self.name} {number}".encode()),
                    MIB,
                    self.is_write_back,
                    straight=lambda name, prefix=str(number): self.straight(f"{prefix}/{name}"),  # type: ignore[misc]
                    was_late=lambda name, prefix=str(number): self.was_late(f"{prefix}/{name}"),  # type: ignore[misc]
                    settle_s=SETTLE_S,
                )
            )

    def give_up(self) -> None:
        """End the process, whatever it does."""
        if self.served in Served.running:
            self.served.kill()

    def look(self, seconds: float) -> Sample:
        """Note what the process uses."""
        self.samples.append(sample(self.name, self.served.process.pid, seconds))
        return self.samples[-1]

    def straight(self, key: str) -> Content:
        """Return what the store has."""
        swift = connect(self._cloud)
        try:
            return stored(swift, self.name, key)
        except ClientException as exc:
            if exc.http_status != 404:
                raise
            return None
        finally:
            swift.close()

    def was_late(self, key: str) -> bool:
        """Whether the store changed an object, or one below, when nobody waited for it any more."""
        places = (f"/{self.name}/{key}", f"/{self.name}_segments/{key}")
        return any(place in target for target in self.late() for place in places)

    def late(self) -> list[str]:
        """Return the targets of all such changes."""
        return [target for target in self._proxy.late() if f"/{self.name}" in target]

    def end(self) -> Iterator[str]:
        """Let everything be stored, mount once more, unmount; yield what is wrong."""
        self._wait_for_uploads()
        yield from self._kept()
        code = self.served.stop()
        if code:
            yield f"{self.name}: the mount ended with {code}"
        self.served.start()
        self._wait_for_uploads()
        for worker in self.workers:
            try:
                worker.find()
            except WrongError as exc:
                if not self.was_late(f"{worker.prefix}/{exc.name}"):
                    raise
            yield from (f"{self.name}: {line}" for line in self._differences(worker))
        code = self.served.stop()
        if code:
            yield f"{self.name}: the second mount ended with {code}"
        yield from self._left_over()

    def _wait_for_uploads(self) -> None:
        def is_stored() -> bool:
            found = status(self.served)
            return not any(
                found[name] for name in ("uploads_to_finish", "pending_files", "dirty_files")
            )

        wait_until(is_stored, "everything is stored", seconds=END_S)

    def _recover(self, *words: str) -> str:
        done = run(sys.executable, "-m", "allasfs", "recover", *words, env=self.served.environ)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _kept(self) -> Iterator[str]:
        """Discard what calls that failed have kept; yield what no call told of."""
        entries: list[dict[str, str]] = json.loads(self._recover("list", "--json"))
        told = {f"{each.prefix}/{name}" for each in self.workers for name in each.failed_names}
        for entry in entries:
            if entry["bucket"] != self.name or entry["key"] not in told:
                yield f"{self.name}: kept without a call that failed: {entry}"
        if entries:
            self._recover("discard", "--all", "--yes")

    def _differences(self, worker: Lasting) -> Iterator[str]:
        swift = connect(self._cloud)
        start = f"{worker.prefix}/"
        keys = [key for key in objects(swift, self.name, start) if not key.endswith("/")]
        swift.close()
        found: dict[str, Content] = dict.fromkeys(worker.may_be)
        found |= {key.removeprefix(start): self.straight(key) for key in keys}
        for name, content in found.items():
            permitted = worker.may_be.get(name, {None})
            if content not in permitted and not self.was_late(start + name):
                wanted = " or ".join(sorted(map(shown, permitted)))
                yield f"{start}{name}: {shown(content)} in place of {wanted}"
        for old, new in worker.broken:
            if self.was_late(start + old) or self.was_late(start + new):
                continue
            both = {old, new} <= worker.unsure.keys()
            if both and found[old] is None and found[new] is None:
                yield f"{start}{old} is lost in its rename to {new}"
        swift = connect(self._cloud)
        for name in worker.notes.keys() - worker.unsure.keys():
            note = swift.head_object(self.name, start + name).get("x-object-meta-note")
            if note != worker.notes[name] and not self.was_late(start + name):
                yield f"{start}{name}: the note is {note} in place of {worker.notes[name]}"
        swift.close()

    def _left_over(self) -> Iterator[str]:
        swift = connect(self._cloud)
        bucket = f"{self.name}_segments"
        orphans = set(objects(swift, bucket)) - used_segments(swift, self.name)
        permitted = [content for each in self.workers for content in each.may_be_left]
        for segment in sorted(orphans):
            data = stored(swift, bucket, segment)
            # KEY/time-random/number
            key = segment.rsplit("/", 2)[0]
            if not any(data in content for content in permitted) and not self.was_late(key):
                yield f"{self.name}: left over: {segment}, {shown(data)}"
        swift.close()
        for pattern in ("*.data", "*.upload", "*.kept"):
            for path in self.served.folder.rglob(pattern):
                yield f"{self.name}: in the spool: {path.name}"


def hanging(sides: list[Side]) -> Iterator[str]:
    """Yield the operations that take too long."""
    for side in sides:
        for worker in side.workers:
            operation, since_s = worker.current
            if operation and time.monotonic() > since_s + HANG_S:
                side.served.dump_stacks()
                yield f"{side.name}: {operation} of worker {worker.prefix} hangs"


def summary(sides: list[Side], weathers: dict[str, Weather], seconds: float) -> dict[str, object]:
    """Return the figures of the whole run."""
    sums: dict[str, object] = {"minutes": round(seconds / 60, 2)}
    for side in sides:
        counts, failures = Counter[str](), Counter[str]()
        slowest: dict[str, float] = {}
        for worker in side.workers:
            counts += worker.counts
            failures += worker.failures
            for name, took_s in worker.slowest.items():
                slowest[name] = round(max(slowest.get(name, 0.0), took_s), 1)
        sums[side.name] = {
            "operations": counts.total(),
            "failed": failures.total(),
            "failures": dict(failures),
            "by_operation": dict(counts),
            "late": len(side.late()),
            "slowest_s": max(slowest.values(), default=0.0),
            "first": asdict(side.samples[0]),
            "last": asdict(side.samples[-1]),
            "medians": medians(side.samples),
        }
    return sums | {name: weather.figures() for name, weather in weathers.items()}


@pytest.mark.timeout(SECONDS + 4 * END_S)
@pytest.mark.semantics("R1", "R4", "R9", "R11", "W1", "W4", "C25", "C0")
def test_a_mount_endures_faults_and_expiring_tokens_and_does_not_grow(
    hasty_cloud: Cloud, prerequisites: None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("m")
    wrong: list[str] = []
    stop = threading.Event()
    with ExitStack() as stack:
        keystone = stack.enter_context(FaultProxy(hasty_cloud.auth_url))
        swift = stack.enter_context(FaultProxy(hasty_cloud.swift_url))
        environ = {
            **hasty_cloud.environ,
            "OS_AUTH_URL": keystone.through(hasty_cloud.auth_url),
            "SOAK_URL": swift.through(hasty_cloud.storage_url),
        }
        sides = [
            Side(name, folder / name, hasty_cloud, environ, swift)
            for name in ("write-through", "write-back")
        ]
        for side in sides:
            stack.callback(side.give_up)
            side.begin()
        weathers = {
            "swift": Weather(swift, FAULTS, SHARE, f"{SEED} swift"),
            "keystone": Weather(keystone, OF_KEYSTONE, 3 * SHARE, f"{SEED} keystone"),
        }
        for weather in weathers.values():
            weather.begin()
        threads = [
            threading.Thread(target=worker.run, args=(stop,), name=f"{side.name} {worker.prefix}")
            for side in sides
            for worker in side.workers
        ]
        threads.append(
            threading.Thread(target=weathers["swift"].outages, args=(stop, 1.3 * TIMEOUT_S))
        )
        begun_s = time.monotonic()
        for thread in threads:
            thread.start()
        report: TextIO = stack.enter_context(Path(REPORT or os.devnull).open("w", encoding="utf-8"))
        while not stop.wait(SAMPLE_S) and time.monotonic() < begun_s + SECONDS:
            for side in sides:
                line = asdict(side.look(time.monotonic() - begun_s))
                done = sum(each.done for each in side.workers)
                print(json.dumps({**line, "operations": done}), file=report, flush=True)
            for weather in weathers.values():
                weather.figures()
            if wrong := list(hanging(sides)):
                break
        worked_s = time.monotonic() - begun_s
        stop.set()
        if wrong:
            for side in sides:
                side.give_up()
        for thread in threads:
            thread.join()
        sums = summary(sides, weathers, worked_s)
        print(json.dumps(sums), file=report, flush=True)
        print(f"\nsoak: {json.dumps(sums, indent=1)}")
        for weather in weathers.values():
            weather.end()
        wrong += [
            f"{side.name}: {line}"
            for side in sides
            for worker in side.workers
            for line in worker.wrong
        ]
        if not wrong:
            for side in sides:
                wrong += side.end()
                wrong += growth(side.samples)
    for side in sides:
        wrong += [f"{side.name}: {line}" for line in side.served.loud_lines()]
    assert not wrong, "\n".join(wrong)
    assert sums["swift"]["faults"]  # type: ignore[index]
