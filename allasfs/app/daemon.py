"""Going to the background: the parent returns when the child is ready, or with its error."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from allasfs.errors import MountFailed, SetupError

log = logging.getLogger(__name__)

Announce = Callable[[], None]

PR_SET_DUMPABLE = 4  # <linux/prctl.h>
# What a shell reports for a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
# "Internal software error" of sysexits.h.
EXIT_INTERNAL = 70
# A pipe takes this much at once, never a part of it; JSON makes up to six bytes of a character.
PIPE_BYTES = 4096
LINE_CHARS = 600


def harden() -> None:
    """Keep secrets and data of this process from other users: no core dump, private files."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The limit does not count for a handler such as systemd-coredump: core(5).
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        log.warning("core dumps cannot be forbidden: %s", os.strerror(ctypes.get_errno()))


def allow_open_files(count: int) -> int:
    """Let this process have so many descriptors, as far as it may; return how many it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if allowed != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    return allowed


class Outcome(NamedTuple):
    """How the start went: 0 and no line, or the exit code and the line for the user."""

    exit_code: int
    line: str = ""


@dataclass(frozen=True, kw_only=True)
class Background:
    """What ``in_background`` needs: the work, and how long it may take until it is ready."""

    # Called first, while standard error is still the caller's.
    start_logging: Callable[[], None]
    # Does the work, and calls its argument when it is ready.
    work: Callable[[Announce], int]
    timeout_s: float
    log_target: str


def in_background(task: Background) -> Outcome:
    """Do the work in a new session; return when it is ready or has failed.

    Must be called before any thread exists: threads do not survive a fork.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(task, writer)
    os.close(writer)
    try:
        return _outcome(pid, reader, task)
    except KeyboardInterrupt:
        os.kill(pid, signal.SIGTERM)
        return Outcome(EXIT_INTERRUPTED, "interrupted; nothing is mounted")
    finally:
        os.close(reader)


def _outcome(pid: int, reader: int, task: Background) -> Outcome:
    """Wait for the child's word, or for its end without one."""
    poll = select.poll()
    poll.register(reader, select.POLLIN)
    if not poll.poll(task.timeout_s * 1000):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        line = f"not ready after {task.timeout_s:g} s; {_see(task)}"
        return Outcome(MountFailed.exit_code, line)
    message = os.read(reader, PIPE_BYTES)
    if not message:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        line = f"the process ended with status {code}; {_see(task)}"
        return Outcome(MountFailed.exit_code, line)
    outcome = Outcome(*json.loads(message))
    if outcome.exit_code != 0:
        os.waitpid(pid, 0)
    return outcome


def _see(task: Background) -> str:
    return f"the log is {task.log_target}"


def _child(task: Background, writer: int) -> None:
    """Become a daemon, work and end the process; never return into the parent's code."""
    told = False

    def tell(exit_code: int, line: str = "") -> None:
        nonlocal told
        if not told:
            told = True
            os.write(writer, json.dumps(Outcome(exit_code, line[:LINE_CHARS])).encode())
            os.close(writer)

    code = EXIT_INTERNAL
    try:
        _leave_caller(writer)
        task.start_logging()
        _leave_terminal()
        code = task.work(lambda: tell(0))
        tell(code or MountFailed.exit_code, f"it ended before it was ready; {_see(task)}")
    except SetupError as exc:
        code = exc.exit_code
        log.error("%s", exc)  # noqa: TRY400  a line for the user, not a fault with a traceback
        tell(code, str(exc))
    except BaseException as exc:
        log.critical("internal error", exc_info=True)
        tell(code, f"internal error: {exc!r}; {_see(task)}")
    finally:
        logging.shutdown()
        # Not sys.exit: what the parent registered for its own end must not run twice.
        os._exit(code)


def _leave_caller(writer: int) -> None:
    """Leave the caller's session, directory and descriptors, except standard ones and ``writer``.

    A lock or a pipe that the caller holds open must not stay with the daemon.
    """
    os.setsid()
    os.chdir("/")
    # The log file is watched for rotation, so no signal is needed for that; one that is sent all
    # the same must not end the mount.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    os.closerange(3, writer)
    os.closerange(writer + 1, highest + 1)


def _leave_terminal() -> None:
    """Let the standard streams lead nowhere."""
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
