"""What the tests of real mounts share: a mount in a process of its own, and waiting for things."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud

KIB = 1024
MIB = 1024 * KIB

# Long enough for a machine that does ten other things; only a failing test waits so long.
PATIENCE_S = 60.0
# A test that takes this long hangs: its mounts are killed, so that its system calls return.
TEST_LIMIT_S = 150.0

ROOT = Path(__file__).parents[2]
MNT_DETACH = 2  # <sys/mount.h>

_LOUD = re.compile(r" (WARNING|ERROR|CRITICAL) ")


def wait_until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE_S) -> None:
    """Return when the condition holds; fail if it does not in time."""
    deadline_s = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline_s, f"still not: {what}"
        time.sleep(0.02)


def run(
    *command: str | Path, env: Mapping[str, str] | None = None, seconds: float = TEST_LIMIT_S
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end; its exit status is the caller's business."""
    words = [str(word) for word in command]
    return subprocess.run(
        words, capture_output=True, text=True, timeout=seconds, check=False, env=env
    )


def succeed(*command: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program that must succeed; return what it printed."""
    done = run(*command, env=env)
    assert done.returncode == 0, f"{shlex.join(map(str, command))}: {done.stderr or done.stdout}"
    return done.stdout


@contextmanager
def refused(*numbers: int) -> Iterator[None]:
    """Expect an OSError with one of these numbers, and nothing else."""
    with pytest.raises(OSError) as caught:  # noqa: PT011  the number is compared below
        yield
    names = " or ".join(errno.errorcode[number] for number in numbers)
    assert caught.value.errno in numbers, f"{caught.value!r} in place of {names}"


def connect(cloud: Cloud) -> Connection:
    """Return a client that shares nothing with a mount."""
    token = cloud.token()
    return Connection(
        preauthurl=token.storage_url, preauthtoken=token.id, retries=0, timeout=PATIENCE_S
    )


def pattern(size: int, seed: int = 0) -> bytes:
    """Return bytes that differ at every offset that a fault could shift them by."""
    block = hashlib.shake_256(f"{seed}".encode()).digest(64 * KIB + 13)
    return (block * (size // len(block) + 1))[:size]


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def stored(swift: Connection, bucket: str, key: str) -> bytes:
    """Return an object as another client reads it."""
    data: bytes = swift.get_object(bucket, key)[1]
    return data


def listed(swift: Connection, bucket: str) -> dict[str, tuple[int, str]]:
    """Return (size, hash) of every object by its name."""
    entries = swift.get_container(bucket, full_listing=True)[1]
    return {entry["name"]: (entry["bytes"], entry["hash"]) for entry in entries}


def is_mounted(path: Path) -> bool:
    """Whether the kernel lists a mount there; asks the mount nothing."""
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace")
    return any(line.split()[4] == str(path) for line in mounts.splitlines())


def unmount_lazily(path: Path) -> None:
    """Take a mount away whatever uses it; a directory that is no mount is no error."""
    if os.geteuid() == 0:
        ctypes.CDLL(None).umount2(os.fsencode(path), MNT_DETACH)
        return
    subprocess.run(["fusermount", "-uz", str(path)], capture_output=True, check=False)


class Served:
    """A process that serves a mount, its log, and its end whatever happens."""

    # All that run, for the watchdog.
    running: list[Served] = []  # noqa: RUF012  one list for all, on purpose

    def __init__(self, folder: Path, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Prepare; ``command`` is completed by the mount point."""
        self.path = folder / "mnt"
        self.log_file = folder / "log"
        self.folder = folder
        self._command = [*command, str(self.path)]
        self.environ = environ
        self._allowed: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The running process."""
        assert self._process is not None, "not started"
        return self._process

    def start(self) -> None:
        """Mount, and return when the mount answers; fail when the process ends before."""
        self.launch()
        wait_until(
            lambda: self._is_ready() or self.process.poll() is not None,
            f"the mount answers, or its process ends\n{self.log()}",
        )
        assert self.process.poll() is None, f"ended with {self.process.returncode}\n{self.log()}"

    def launch(self) -> None:
        """Start the process and wait for nothing."""
        self.path.mkdir(exist_ok=True)
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=dict(self.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        Served.running.append(self)

    def _is_ready(self) -> bool:
        if not is_mounted(self.path):
            return False
        try:
            self.path.stat()
        except OSError:
            return False
        return True

    def log(self) -> str:
        """Return what the process logged so far."""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def allow(self, *patterns: str) -> None:
        """Let the log have lines of level WARNING and above in which one of these is found."""
        self._allowed += patterns

    def loud_lines(self) -> list[str]:
        """Return the lines of level WARNING and above that nobody allowed."""
        return [
            line
            for line in self.log().splitlines()
            if _LOUD.search(line) and not any(re.search(each, line) for each in self._allowed)
        ]

    def stop(self) -> int:
        """Unmount as a user does, whatever is open, and return the exit status."""
        unmount_lazily(self.path)
        try:
            return self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.dump_stacks()
            self.kill()
            pytest.fail(f"the process does not end after its unmount\n{self.log()}")
        finally:
            self._forget()

    def dump_stacks(self) -> None:
        """Write the stacks of all threads into the log."""
        before = self.log_file.stat().st_size
        self.process.send_signal(signal.SIGUSR1)
        deadline_s = time.monotonic() + 5
        while self.log_file.stat().st_size == before and time.monotonic() < deadline_s:
            time.sleep(0.02)

    def kill(self) -> None:
        """End the process at once: system calls that wait for it return with an error."""
        self.process.kill()
        self.process.wait()
        unmount_lazily(self.path)
        self._forget()

    def _forget(self) -> None:
        if self in Served.running:
            Served.running.remove(self)


class Watchdog:
    """Ends the mounts of a test that hangs: a system call on a mount cannot be interrupted."""

    def __init__(self, seconds: float = TEST_LIMIT_S) -> None:
        self._timer = threading.Timer(seconds, self._bite)
        self._timer.daemon = True
        self.has_bitten = False

    def __enter__(self) -> Watchdog:
        self._timer.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()
        self._timer.join()

    def _bite(self) -> None:
        self.has_bitten = True
        for served in list(Served.running):
            served.dump_stacks()
            served.kill()
            sys.stderr.write(f"killed after {TEST_LIMIT_S:g} s:\n{served.log()[-20_000:]}\n")


@contextmanager
def served_all_along(folder: Path, cloud: Cloud, **options: object) -> Iterator[Served]:
    """Serve a mount of the cloud's project that many tests share."""
    one = Served(folder, mount_command("", options), clean_environ(folder, cloud.environ))
    one.start()
    yield one
    one.stop()


@contextmanager
def quiet(served: Served) -> Iterator[Path]:
    """Yield the directory of a shared mount; what it logs meanwhile must be no warning."""
    before = len(served.loud_lines())
    yield served.path
    loud = served.loud_lines()[before:]
    assert not loud, "\n".join(["unexpected in the log:", *loud])


@contextmanager
def watched() -> Iterator[None]:
    """Let a test not hang."""
    with Watchdog() as dog:
        yield
    assert not dog.has_bitten, "the test hung, and its mounts were killed"


def mount_command(what: str, options: Mapping[str, object]) -> list[str]:
    """Return the words of ``allasfs mount``, to be followed by the mount point."""
    words = [sys.executable, "-m", "allasfs", "mount", "--foreground"]
    words += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
    return [*words, *([what] if what else [])]


def clean_environ(folder: Path, *more: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which no setting of this computer's user counts."""
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "XDG_RUNTIME_DIR": str(folder),
    }
    for each in more:
        environ |= each
    return environ
