"""Where a task works: a site, local files, a mount; and how it runs and checks programs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench.data import Sizes
from bench.lines import Site

MIB = 1024 * 1024
Figures = dict[str, float]


class WrongBytesError(Exception):
    """A client gave other bytes than those that are in the store, or stored others."""


@dataclass
class Place:
    """Where a task works: the site, a folder of local files, and the mount if there is one."""

    site: Site
    sizes: Sizes
    local: Path
    facts: dict[str, str]  # checksums of what is in the store
    mount: Path = Path()
    checks: bool = True
    # What is compared after the requests were counted.
    later: list[Callable[[], None]] = field(default_factory=list)

    # -- programs ---------------------------------------------------------------------------------

    def run(self, *words: str | Path, quiet: bool = True) -> float:
        """Run a program that must succeed; return its seconds."""
        output = subprocess.DEVNULL if quiet else None
        began = time.perf_counter()
        subprocess.run([str(word) for word in words], check=True, stdout=output)
        return time.perf_counter() - began

    def together(self, commands: list[list[str]]) -> float:
        """Run programs at once; return the seconds until the last of them has ended."""
        began = time.perf_counter()
        processes = [subprocess.Popen(words, stdout=subprocess.DEVNULL) for words in commands]
        codes = [process.wait() for process in processes]
        if any(codes):
            raise subprocess.CalledProcessError(max(codes), commands[0])
        return time.perf_counter() - began

    def curl(self, key: str, *words: str) -> list[str]:
        """Return a command of curl on an object."""
        token = f"X-Auth-Token: {self.site.token}"
        url = f"{self.site.storage_url}/{self.site.bucket}/{key}"
        return ["curl", "-sf", "-H", token, *words, url]

    def work(self, *words: object, told: object = None) -> tuple[Figures, str]:
        """Run a function of bench.worker; return its figures, and the MD5 of what it read."""
        environ = {
            **os.environ,
            "BENCH_URL": f"{self.site.storage_url}/{self.site.bucket}",
            "BENCH_TOKEN": self.site.token,
        }
        command = [sys.executable, "-m", "bench.worker", *map(str, words)]
        done = subprocess.run(
            command,
            check=True,
            stdout=subprocess.PIPE,
            env=environ,
            input=json.dumps(told).encode(),
        )
        found = json.loads(done.stdout)
        md5 = str(found.pop("md5", ""))
        return {name: float(value) for name, value in found.items()}, md5

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
        self.compare(lambda: self.expect(str(path), self.md5_of(path), wanted))

    def md5_of(self, path: Path) -> str:
        """Return the MD5 of a file."""
        checksum = hashlib.md5(usedforsecurity=False)
        with path.open("rb") as file:
            while piece := file.read(MIB):
                checksum.update(piece)
        return checksum.hexdigest()
