"""The life of a mount in the process that serves it: open, serve, answer, upload what is left, end.

A mount ends when FUSE returns: after SIGTERM, SIGINT (both libfuse's own handlers), ``fusermount
-u`` or umount(8). What follows is the same for all: ``close()`` of the file system uploads what is
dirty, each file that could not be uploaded gets a line in the log and stays in the spool, and the
exit status says so.
"""

from __future__ import annotations

import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from allasfs import __version__, heap
from allasfs.app import checks, unmounting
from allasfs.app.control import Answer, Command, ControlServer
from allasfs.app.daemon import Announce, allow_open_files, harden
from allasfs.app.notify import Notifier
from allasfs.config import Config
from allasfs.errors import MountFailed, SetupError, UnmountFailed

log = logging.getLogger(__name__)

# libfuse says in one line why it cannot mount; more than this is not a line.
MAX_REASON_BYTES = 4096


class Content(Protocol):
    """What is mounted: a file system that is ready to be served."""

    @property
    def facts(self) -> Mapping[str, object]:
        """What ``status`` tells of the account; no secrets."""
        ...

    def serve(self, on_ready: Callable[[], None]) -> None:
        """Serve until unmounted, and call ``on_ready`` when the first answer can be given."""
        ...

    def status(self) -> Mapping[str, object]:
        """Return what ``status`` tells of files, uploads and caches."""
        ...

    def recover(self, request: Mapping[str, object]) -> Mapping[str, object]:
        """Upload or discard a kept file, as ``allasfs recover`` asks."""
        ...

    def hurry(self) -> None:
        """Let no file that was closed wait for its upload any longer."""
        ...

    def waiting(self) -> Mapping[str, object]:
        """Return what ``sync`` asks for many times: closed files that are not stored, and why."""
        ...

    def close(self) -> list[str]:
        """Upload what is dirty; return a line for each file that could not be uploaded."""
        ...

    def give_up(self) -> list[str]:
        """Keep what ``close``, in another thread, has not uploaded yet; return a line for each."""
        ...


@dataclass(frozen=True, kw_only=True)
class Job:
    """One mount: what, where, and whom to tell."""

    mount_point: str
    label: str  # what is mounted, for people
    open: Callable[[], AbstractContextManager[Content]]  # raises SetupError
    control_path: Path
    timeout_s: float
    open_files: int = Config.open_files
    notifier: Notifier = field(default_factory=Notifier)
    facts: Mapping[str, object] = field(default_factory=dict)


def run(job: Job, announce: Announce) -> int:
    """Mount, announce when the mount answers, serve until the end; return the exit code."""
    harden()
    heap.keep()
    allowed = allow_open_files(job.open_files)
    log.debug("this process may have %d descriptors", allowed)
    commands: dict[str, Command] = {"status": _starting, "sync": _starting}
    # First, because the place may still be taken by a process that uploads.
    log_target = str(job.facts.get("log", ""))
    with ControlServer(job.control_path, commands, log_target) as control, job.open() as content:
        commands["status"] = _status_command(job, content)
        commands["recover"] = content.recover
        commands["sync"] = _sync_command(content)
        try:
            _serve(job, content, announce)
        finally:
            failed = _finish(job, content)
            control.finish({"failed": failed})
    return UnmountFailed.exit_code if failed else 0


def _starting(_: Mapping[str, object]) -> Answer:
    return {"error": "the mount is not ready yet"}


def _status_command(job: Job, content: Content) -> Command:
    since = time.strftime("%Y-%m-%dT%H:%M:%S%z")

    def status(_: Mapping[str, object]) -> Answer:
        head = {
            "pid": os.getpid(),
            "version": __version__,
            "mount_point": job.mount_point,
            "mounted": job.label,
            "since": since,
        }
        return {**head, **job.facts, **content.facts, **content.status()}

    return status


def _sync_command(content: Content) -> Command:
    def sync(request: Mapping[str, object]) -> Answer:
        if request.get("hurry"):
            content.hurry()
        return content.waiting()

    return sync


# -- serving --------------------------------------------------------------------------------------


def _serve(job: Job, content: Content, announce: Announce) -> None:
    """Serve until unmounted; raise what kept the mount from ever answering."""
    # libfuse's clean-up turns an ignored SIGPIPE into a deadly one, for the uploads that follow,
    # but leaves a handler alone. Python reports a broken connection as an exception, as always.
    signal.signal(signal.SIGPIPE, _do_nothing)
    start = _Start(job, announce)
    try:
        content.serve(start.on_ready)
    except MountFailed as exc:
        reason = start.reason()
        raise MountFailed(f"{job.mount_point}: {reason}" if reason else str(exc)) from exc
    finally:
        start.end()
    if start.error is not None:
        raise start.error


def _do_nothing(number: int, frame: FrameType | None) -> None:
    """Take a signal and go on."""


class _Start:
    """From the call of libfuse to the first answer of the mount.

    libfuse explains a failure on standard error only, so descriptor 2 leads into a file until the
    mount answers. A thread asks for that first answer, because FUSE's own thread must give it.
    """

    def __init__(self, job: Job, announce: Announce) -> None:
        self._job = job
        self._announce = announce
        self._stderr = _Stderr()
        self._asker = threading.Thread(target=self._ask, name="ready", daemon=True)
        self.error: SetupError | None = None

    def on_ready(self) -> None:
        """FUSE takes requests from now on."""
        self._asker.start()

    def reason(self) -> str:
        """Return what libfuse wrote, as one line."""
        return self._stderr.text()

    def end(self) -> None:
        """FUSE has returned: wait for the thread and give standard error back."""
        if self._asker.ident is not None:
            self._asker.join()
        self._stderr.give_back()

    def _ask(self) -> None:
        job, why = self._job, ""
        answer: int | None = None
        try:
            answer = checks.probe(job.mount_point, job.timeout_s)
        except OSError as exc:
            why = f"it cannot be asked ({exc.strerror})"
        entry = checks.mounts().get(job.mount_point)
        if entry is None or not entry.is_ours or answer in checks.DEAD:
            log.info("%s was ended before its first answer", job.mount_point)
            return
        if answer == 0:
            self._stderr.give_back()
            log.info("mounted %s at %s", job.label, job.mount_point)
            job.notifier.send("READY=1", f"STATUS=Mounted {job.label} at {job.mount_point}")
            self._announce()
            return
        why = why or (os.strerror(answer) if answer else "it does not answer")
        self.error = MountFailed(f"{job.mount_point}: mounted, but {why}; unmounted again")
        unmounting.unmount(job.mount_point, lazy=True)


class _Stderr:
    """Keeps what is written to descriptor 2, from now until ``give_back()``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # leaf: guards the two descriptors
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  lives until give_back()
        self._saved = os.dup(2)
        os.dup2(self._file.fileno(), 2)

    def text(self) -> str:
        """Return what was written, as one line; nothing once it was given back."""
        with self._lock:
            if self._saved < 0:
                return ""
            raw = os.pread(self._file.fileno(), MAX_REASON_BYTES, 0)
        return "; ".join(raw.decode(errors="replace").split("\n")).strip("; ")

    def give_back(self) -> None:
        """Let descriptor 2 lead where it led before; a second call does nothing."""
        with self._lock:
            if self._saved < 0:
                return
            os.dup2(self._saved, 2)
            os.close(self._saved)
            self._saved = -1
            self._file.close()


# -- ending ---------------------------------------------------------------------------------------


class _GivenUpError(BaseException):
    """The user does not want to wait for the uploads."""


def _finish(job: Job, content: Content) -> list[str]:
    """Upload what is left; log and return a line for each file that stays in the spool."""
    job.notifier.send("STOPPING=1", "STATUS=Uploading what is not uploaded yet")
    try:
        with _second_signal_gives_up():
            failed = _closed(content)
    except _GivenUpError:
        failed = ["uploads were given up; what is not uploaded stays in the spool"]
        failed += content.give_up()
    except Exception as exc:
        log.exception("closing the file system failed")
        failed = [f"closing failed: {exc}"]
    for line in failed:
        log.error("not uploaded: %s", line)
    log.info("ended %s at %s, %d files not uploaded", job.label, job.mount_point, len(failed))
    return failed


def _closed(content: Content) -> list[str]:
    """Close it in a thread of its own: a signal then ends the waiting alone, at any moment."""
    done: Future[list[str]] = Future()

    def work() -> None:
        try:
            done.set_result(content.close())
        except BaseException as exc:
            done.set_exception(exc)

    threading.Thread(target=work, name="closing", daemon=True).start()
    return done.result()


@contextmanager
def _second_signal_gives_up() -> Iterator[None]:
    """Let the first SIGTERM or SIGINT ask for patience, and the second end the waiting."""
    asked = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise _GivenUpError
        asked = True
        log.warning("still uploading; a second signal leaves the rest in the spool")

    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
