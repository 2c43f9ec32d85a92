"""Takes the clients in turn through the tasks, and notes what each has used."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench import lines, stock, usage
from bench.bars import RAW
from bench.clients import Client, Mount
from bench.data import MIB, Sizes
from bench.lines import Site
from bench.place import Place
from bench.plan import Pace, Plan, in_turn
from bench.records import TOO_LONG, Figures, Key, Log, Record
from bench.tasks import Task

GIB = 1024 * MIB


class StoreGoneError(Exception):
    """The store has ended: what follows would be blamed on the clients."""


def takes_no_part(task: Task, client: Client) -> str:
    """Return why a client does not do a task; empty when it does."""
    return client.missing() or client.skips(task.name, task.is_write_back, task.too_many)


def planned(line: str, task: Task, clients: Sequence[Client], runs: int) -> list[Key]:
    """Return the measurements of a task in their order; each round begins with another client."""
    names = [client.name for client in clients if not takes_no_part(task, client)]
    return [
        (line, task.name, name, run)
        for run in range(runs)
        for name in [*in_turn(names, run), *([RAW] if task.raw else [])]
    ]


class Runner:
    """All measurements on one line."""

    def __init__(
        self, site: Site, folder: Path, sizes: Sizes, clients: Sequence[Client], limit_s: float
    ) -> None:
        """A measurement that needs longer than ``limit_s`` is ended."""
        self._folder = folder
        self._clients: Mapping[str, Client] = {client.name: client for client in clients}
        self._limit_s = limit_s
        self._place = Place(site, sizes, folder / "local")
        self._place.local.mkdir()
        self._is_warm = False
        # The limit of this measurement, and whether all but comparing bytes is over.
        self._now_s = limit_s
        self._is_done = False

    def prepare(self, tasks: Sequence[Task]) -> None:
        """Put into the store what these tasks need."""
        stock.prepare(self._place, tasks)

    def measure(self, task: Task, keys: Sequence[Key], log: Log, pace: Pace) -> Iterator[Record]:
        """Measure what is not there yet; yield each when it is in the log."""
        self._is_warm = False
        for key in keys:
            line, _, name, run = key
            plan = Plan(log.records, pace=pace)
            if key in log or plan.why_not(line, task.name, name, run):
                continue
            self._now_s = min(self._limit_s, plan.limit_s(line, task.name, task.bars))
            record = self._one(task, name, run)
            if gone := ", ".join(self._place.site.cloud.dead_services()):
                record.figures = {}
                record.error = f"the store's {gone} ended: {record.error}"
            log.add(record)
            yield record
            if gone:
                raise StoreGoneError(gone)

    def _warm(self, task: Task) -> None:
        """Let memory hold what the task reads from the store, and nothing of tasks before it."""
        usage.drop_page_cache()
        self._place.site.bucket = task.bucket
        for prefix in task.warms:
            self._place.site.warm(self._place.site.names(prefix))

    def _one(self, task: Task, client: str, run: int) -> Record:
        place = self._place
        record = Record(place.site.line.name, task.name, client, run)
        # All bytes are compared once for each client and task: it takes as long as the work.
        place.checks = run == 0 and not (task.bucket == lines.FILES and place.site.line.bytes_per_s)
        place.site.bucket = task.bucket
        place.later.clear()
        self._is_done = False
        began = time.monotonic()
        try:
            if not self._is_warm:
                self._warm(task)
                self._is_warm = True
            if task.before is not None:
                task.before(place)
            # What the one before has written does not go to the disk now.
            os.sync()
            record.figures = self._raw(task) if client == RAW else self._mounted(task, client)
        except Exception as exc:
            record.error = _told(exc)
            if isinstance(exc, TimeoutError) and not self._is_done:
                record.ended_s = self._now_s
        try:
            for prefix in task.leaves:
                place.site.remove(prefix)
        except Exception as exc:
            record.error = record.error or _told(exc)
        record.took_s = time.monotonic() - began
        return record

    def _mounted(self, task: Task, client: str) -> Figures:
        place = self._place
        with (
            tempfile.TemporaryDirectory(prefix=client, dir=self._folder) as name,
            self._clients[client].mounted(place.site, Path(name) / "one") as mount,
        ):
            place.mount = mount.path
            usage.wait_alone(mount.pid)
            idle = usage.memory_bytes(mount.pid, "VmRSS")
            cpu_s = usage.cpu_s(mount.pid)
            place.site.forget_requests()
            with self._limited(mount):
                figures = task.run(place)
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
        with self._limited(None):
            figures = self._completed(task, task.raw(self._place))
            self._compare()
        return figures

    def _compare(self) -> None:
        for check in self._place.later:
            check()

    def _completed(self, task: Task, figures: Figures) -> Figures:
        """Add the requests, and what the figures are for each byte that the program moved."""
        self._is_done = True
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
    def _limited(self, mount: Mount | None) -> Iterator[None]:
        """End the programs and the mount after the limit: what waits for them gets an error."""
        place = self._place
        is_over = threading.Event()

        def end() -> None:
            is_over.set()
            for process in [*place.running]:
                process.kill()
            if mount is not None:
                mount.kill()

        limit_s = self._now_s
        place.ends_s = time.monotonic() + limit_s
        timer = threading.Timer(limit_s, end)
        timer.start()
        too_long = TimeoutError(f"{TOO_LONG} {limit_s:.3g} s")
        try:
            yield
        except Exception as exc:
            if is_over.is_set() or isinstance(exc, TimeoutError):
                raise too_long from exc
            raise
        else:
            if is_over.is_set():
                raise too_long
        finally:
            try:
                place.end_programs()
            except subprocess.TimeoutExpired:
                end()
                place.end_programs()
            timer.cancel()


def _told(exc: Exception) -> str:
    return f"{type(exc).__name__}: {exc}"[:500]


def line_cost(site: Site, folder: Path) -> Figures:
    """Measure the slow line without its limits: MB/s, and its CPU seconds per GiB."""
    size = 256 * MIB
    path = folder / "zeros"
    path.write_bytes(bytes(size))
    site.put_file("line/zeros", path)
    path.unlink()
    url = f"{site.cloud.storage_url}/{site.bucket}/line/zeros"
    found: Figures = {}
    port = int(site.cloud.swift_url.rpartition(":")[2])
    with lines.slow_line(port, lines.without_limits(site.line)) as (near, pid):
        for name, address in (("direct", url), ("line", url.replace(f":{port}/", f":{near}/"))):
            curl = ["curl", "-sf", "-o", "/dev/null", "-H", f"X-Auth-Token: {site.token}", address]
            subprocess.run(curl, check=True)
            before, began = usage.cpu_s(pid), time.perf_counter()
            subprocess.run(curl, check=True)
            found[f"{name}_mb_per_s"] = round(size / 1e6 / (time.perf_counter() - began), 1)
            found["cpu_s_per_gib"] = round((usage.cpu_s(pid) - before) * GIB / size, 3)
    site.remove("line/")
    return found
