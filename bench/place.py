"""Where a task works: a site, local files, a mount; and how it runs and checks programs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from bench.data import MIB, Sizes
from bench.lines import Site
from bench.records import Figures

# A program that was killed ends as soon as its mount has answered.
END_TIMEOUT_S = 10.0


class WrongBytesError(Exception):
    """A client gave other bytes than those that are in the store, or stored others."""


class ProgramError(Exception):
    """A program on a mount, or the raw client, has failed."""


@dataclass
class Place:
    """Where a task works: the site, a folder of local files, and the mount if there is one."""

    site: Site
    sizes: Sizes
    local: Path
    facts: dict[str, str] = field(default_factory=dict)  # checksums of what is in the store
    mount: Path = Path()
    checks: bool = True
    # What is compared after the requests were counted.
    later: list[Callable[[], None]] = field(default_factory=list)
    # What is waited for, with what it complains of, and until when (time.monotonic()).
    running: dict[subprocess.Popen[bytes], IO[bytes]] = field(default_factory=dict)
    ends_s: float = float("inf")

    # -- programs ---------------------------------------------------------------------------------

    def run(self, *words: str | Path) -> float:
        """Run a program that must succeed; return its seconds."""
        began = time.perf_counter()
        self._finish(self._start(list(map(str, words))))
        return time.perf_counter() - began

    def output(self, *words: str | Path) -> str:
        """Run a program that must succeed; return what it prints."""
        with tempfile.TemporaryFile() as printed:
            self._finish(self._start(list(map(str, words)), printed))
            printed.seek(0)
            return printed.read().decode()

    def together(self, commands: list[list[str]]) -> float:
        """Run programs at once; return the seconds until the last of them has ended."""
        began = time.perf_counter()
        for started in [self._start(words) for words in commands]:
            self._finish(started)
        return time.perf_counter() - began

    def curl(self, key: str, *words: str) -> list[str]:
        """Return a command of curl on an object."""
        token = f"X-Auth-Token: {self.site.token}"
        url = f"{self.site.storage_url}/{self.site.bucket}/{key}"
        return ["curl", "-sSf", "-H", token, *words, url]

    def work(self, *words: object, told: object = None) -> tuple[Figures, str]:
        """Run a function of bench.worker; return its figures, and the MD5 of what it read."""
        environ = {
            **os.environ,
            "BENCH_URL": f"{self.site.storage_url}/{self.site.bucket}",
            "BENCH_TOKEN": self.site.token,
        }
        command = [sys.executable, "-m", "bench.worker", *map(str, words)]
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
            given.write(json.dumps(told).encode())
            given.seek(0)
            self._finish(self._start(command, printed, given, environ))
            printed.seek(0)
            found = json.loads(printed.read())
        md5 = str(found.pop("md5", ""))
        return {name: float(value) for name, value in found.items()}, md5

    def _start(
        self,
        words: list[str],
        output: IO[bytes] | int = subprocess.DEVNULL,
        given: IO[bytes] | int = subprocess.DEVNULL,
        environ: dict[str, str] | None = None,
    ) -> tuple[subprocess.Popen[bytes], IO[bytes]]:
        complaints = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _finish
        # Out of reach of the terminal's Ctrl-C: we end it ourselves, before its mount.
        process = subprocess.Popen(
            words,
            stdin=given,
            stdout=output,
            stderr=complaints,
            env=environ,
            start_new_session=True,
        )
        self.running[process] = complaints
        return process, complaints

    def end_programs(self) -> None:
        """End what still runs after an error, and wait until it has."""
        for process in self.running:
            process.kill()
        for process, complaints in [*self.running.items()]:
            process.wait(END_TIMEOUT_S)
            complaints.close()
            del self.running[process]

    def _finish(self, started: tuple[subprocess.Popen[bytes], IO[bytes]]) -> None:
        process, complaints = started
        with complaints:
            code = process.wait()
            del self.running[process]
            if code:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace").strip()
                said = said.replace(f"{self.mount}/", "")[-300:]
                name = Path(str(process.args[0])).name  # type: ignore[index]
                raise ProgramError(f"{name} ended with status {code}: {said}")

    def wait_for(self, condition: Callable[[], bool], what: str) -> None:
        """Return when the store has what was written."""
        while not condition():
            if time.monotonic() > self.ends_s:
                raise TimeoutError(f"still not: {what}")
            time.sleep(0.02)

    # -- what is compared -------------------------------------------------------------------------

    def expect(self, what: str, got: str, wanted: str) -> None:
        """Raise WrongBytesError unless both are the same."""
        if got != wanted:
            raise WrongBytesError(f"{what}: {got}, not {wanted}")

    def compare(self, check: Callable[[], None]) -> None:
        """Let bytes be compared after the requests were counted, once for a client and task."""
        if self.checks:
            self.later.append(check)

    def expect_file(self, path: Path, wanted: str) -> None:
        """Compare a file's MD5."""
        self.compare(lambda: self.expect(str(path), md5_of(path), wanted))


def md5_of(path: Path) -> str:
    """Return the MD5 of a file."""
    checksum = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(MIB):
            checksum.update(piece)
    return checksum.hexdigest()
