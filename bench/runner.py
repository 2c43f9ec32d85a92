"""Takes the clients in turn through the tasks, and notes what each has used."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import data, lines, usage
from bench.clients import Client, Mount
from bench.lines import Site
from bench.place import MIB, Figures, Place
from bench.tasks import RAW, Task
from bench.timed import READ_KEYS, REGION

GIB = 1024 * MIB


@dataclass
class Record:
    """One measurement."""

    line: str
    task: str
    client: str
    run: int
    figures: Figures = field(default_factory=dict)
    # Why there are no figures.
    error: str = ""

    def as_json(self) -> dict[str, object]:
        """Return it for the file of results."""
        rounded = {name: round(value, 4) for name, value in self.figures.items()}
        return {**asdict(self), "figures": rounded}


class Runner:
    """All measurements on one line."""

    def __init__(
        self, site: Site, folder: Path, sizes: data.Sizes, clients: Sequence[Client], limit_s: float
    ) -> None:
        """A client that needs longer than ``limit_s`` for a task is ended."""
        self._folder = folder
        self._clients = clients
        self._limit_s = limit_s
        self._refused = {client.name: client.missing() for client in clients}
        self._place = Place(site, sizes, folder / "local", {})
        self._place.local.mkdir()

    def prepare(self, names: Sequence[str]) -> None:
        """Put into the store what these tasks need."""
        place = self._place
        site, sizes, local, facts = place.site, place.sizes, place.local, place.facts
        site.make()
        for number, key in enumerate(READ_KEYS):
            if number == 0 or "read4" in names:
                path = local / f"{number}.bin"
                facts[key] = data.write_noise(path, number, sizes.read_mib)
                site.put_file(key, path)
        if "bam" in names:
            self._prepare_bam()
        if "write" in names:
            path = local / "written.bin"
            facts["written.bin"] = data.write_noise(path, 9, sizes.written_mib)
        site.bucket = lines.NAMES
        if {"ls", "find", "stat"} & set(names):
            site.put_many((f"flat/{number:05d}", b"x") for number in range(sizes.names))
            inside = -(-sizes.names // sizes.folders)
            site.put_many(
                (f"tree/{folder:03d}/{number:03d}", b"x")
                for folder in range(sizes.folders)
                for number in range(inside)
            )
        site.bucket = lines.SMALL
        small = data.small_files(sizes.small, 5)
        site.put_many((f"small/{name}", content) for name, content in small.items())
        joined = b"".join(small[name] for name in sorted(small))
        facts["small"] = hashlib.md5(joined, usedforsecurity=False).hexdigest()
        (local / "copied").mkdir()
        for name, content in data.small_files(sizes.copied, 6).items():
            (local / "copied" / name).write_bytes(content)
        place.run("tar", "-cf", local / "copied.tar", "-C", local, "copied")

    def _prepare_bam(self) -> None:
        place = self._place
        bam, index = data.write_bam(place.local, place.sizes.alignments)
        place.site.put_file("bam/reads.bam", bam)
        place.site.put_file("bam/reads.bam.bai", index)
        command = ["samtools", "view", "-c", str(bam), REGION]
        count = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        place.facts["bam"] = count.strip()
        empty = usage.bytes_read(["samtools", "--version"])
        place.facts["bam_bytes"] = str(usage.bytes_read(command) - empty)

    def measure(self, task: Task, runs: int) -> Iterator[Record]:
        """Yield each measurement of a task; each round begins with another client."""
        if task.name == "bam" and "bam" not in self._place.facts:
            return
        names = [client.name for client in self._clients]
        for run in range(runs):
            shift = run % len(names)
            for client in [*self._clients[shift:], *self._clients[:shift]]:
                why = self._refused[client.name] or client.skips(task.name, task.is_write_back)
                if why:
                    if not client.only or task.name in client.only:
                        yield Record(self._line, task.name, client.name, run, error=why)
                    continue
                yield self._one(task, client, run)
            if task.raw is not None:
                yield self._one(task, None, run)

    @property
    def _line(self) -> str:
        return self._place.site.line.name

    def _one(self, task: Task, client: Client | None, run: int) -> Record:
        record = Record(self._line, task.name, client.name if client else RAW, run)
        place = self._place
        # All bytes are compared once for each client and task: it takes as long as the work.
        place.checks = run == 0
        place.site.bucket = task.bucket
        place.later.clear()
        try:
            if task.before is not None:
                task.before(place)
            usage.drop_page_cache()
            for prefix in task.warms:
                place.site.warm(place.site.names(prefix))
            if client is None:
                record.figures = self._raw(task)
            else:
                record.figures = self._mounted(task, client)
        except Exception as exc:
            record.error = f"{type(exc).__name__}: {exc}"[:500]
        finally:
            for prefix in task.leaves:
                place.site.remove(prefix)
        return record

    def _mounted(self, task: Task, client: Client) -> Figures:
        place = self._place
        with tempfile.TemporaryDirectory(prefix=client.name, dir=self._folder) as name:
            folder = Path(name) / "one"
            with client.mounted(place.site, folder) as mount, self._watched(mount) as watch:
                place.mount = mount.path
                idle = usage.memory_bytes(mount.pid, "VmRSS")
                cpu_s = usage.cpu_s(mount.pid)
                place.site.forget_requests()
                try:
                    figures = task.run(place)
                except Exception as exc:
                    if watch.is_set():
                        raise RuntimeError(f"took longer than {self._limit_s:g} s") from exc
                    raise
                figures["cpu_s"] = usage.cpu_s(mount.pid) - cpu_s
                figures["idle_mib"] = idle / MIB
                figures["peak_mib"] = usage.memory_bytes(mount.pid, "VmHWM") / MIB
                figures = self._completed(task, figures)
                self._compare()
                return figures

    def _raw(self, task: Task) -> Figures:
        if task.raw is None:
            raise ValueError(f"nothing raw does {task.name}")
        self._place.site.forget_requests()
        figures = self._completed(task, task.raw(self._place))
        self._compare()
        return figures

    def _compare(self) -> None:
        for check in self._place.later:
            check()

    def _completed(self, task: Task, figures: Figures) -> Figures:
        """Add the requests, and what the figures are for each byte that the program moved."""
        requests = self._place.site.requests()
        sent = sum(request.sent_bytes for request in requests)
        figures["requests"] = len(requests)
        figures["sent_mib"] = sent / MIB
        figures["received_mib"] = sum(request.received_bytes for request in requests) / MIB
        moved = task.moved(self._place)
        if moved:
            figures["sent_per_byte"] = sent / moved
            figures["cpu_s_per_gib"] = figures["cpu_s"] * GIB / moved
        return figures

    @contextmanager
    def _watched(self, mount: Mount) -> Iterator[threading.Event]:
        """End the mount after the limit, so that what waits for it gets an error."""
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            os.kill(mount.pid, 9)

        timer = threading.Timer(self._limit_s, end)
        timer.start()
        try:
            yield is_over
        finally:
            timer.cancel()


def line_cost(site: Site) -> dict[str, float]:
    """Measure the slow line without its limits: MB/s, and its CPU seconds per GiB."""
    size = 256 * MIB
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "zeros"
        path.write_bytes(bytes(size))
        site.put_file("line/zeros", path)
    url = f"{site.cloud.storage_url}/{site.bucket}/line/zeros"
    found: dict[str, float] = {}
    port = int(site.cloud.swift_url.rpartition(":")[2])
    free = lines.without_limits(site.line)
    with lines.slow_line(port, free) as (near, pid):
        for name, address in (("direct", url), ("line", url.replace(f":{port}/", f":{near}/"))):
            curl = ["curl", "-sf", "-o", "/dev/null", "-H", f"X-Auth-Token: {site.token}", address]
            subprocess.run(curl, check=True)
            before, began = usage.cpu_s(pid), time.perf_counter()
            subprocess.run(curl, check=True)
            found[f"{name}_mb_per_s"] = round(size / 1e6 / (time.perf_counter() - began), 1)
            found["cpu_s_per_gib"] = round((usage.cpu_s(pid) - before) * GIB / size, 3)
    site.remove("line/")
    return found


def progress(record: Record) -> None:
    """Say on standard error what was measured."""
    told = record.error or ", ".join(
        f"{name} {value:.3g}" for name, value in record.figures.items()
    )
    where = f"{record.line} {record.task} {record.client}"
    print(f"{where:40} {told}", file=sys.stderr, flush=True)
