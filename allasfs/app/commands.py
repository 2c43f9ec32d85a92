"""``allasfs umount``, ``sync`` and ``status``: talk to the process that serves a mount."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NoReturn

from tqdm import tqdm

from allasfs.app import checks, control, folders, logs, unmounting
from allasfs.errors import MountDead, NotAnswering, NotMounted, NotStored, UnmountFailed

# The server answers from memory; one that takes longer than this is stuck.
ANSWER_TIMEOUT_S = 10.0
# What fills a spool of 16 GiB goes up within this at 30 MB/s; a person who waits longer wants to be
# told what it is about. Scripts that want to wait say so.
UMOUNT_WAIT_S = 600.0
# An answer that is there already is read also when the time is over.
LEAST_WAIT_S = 0.01
# Of the files that are not uploaded yet, in one line.
SHOWN_NAMES = 3
# How often it is asked how far its uploads are.
PROGRESS_STEP_S = 0.2


class Target:
    """A directory that a user named, and what is mounted there."""

    def __init__(self, directory: str) -> None:
        """Look it up without touching it; raise NotMounted when it is another file system."""
        entries = checks.mounts()
        self.path = checks.resolve(directory, entries)
        self.entry = entries.get(self.path)
        if self.entry is not None and not self.entry.is_ours:
            raise NotMounted(f"{self.path}: {self.entry.fstype} is mounted here, not allasfs")
        user_id = self.entry.user_id if self.entry else None
        self.owner = os.geteuid() if user_id is None else user_id

    @contextmanager
    def connection(self) -> Iterator[control.Connection | None]:
        """Give a connection to the process that serves the mount, None when there is none."""
        name = folders.control_name(self.path)
        paths = [folder / name for folder in folders.runtime_folders(self.owner)]
        with control.connect(paths, self.owner, ANSWER_TIMEOUT_S) as connection:
            yield connection

    def ask(
        self, connection: control.Connection, request: Mapping[str, object]
    ) -> dict[str, object]:
        """Return the answer of the process that serves the mount; raise NotAnswering."""
        try:
            return connection.ask(request, ANSWER_TIMEOUT_S)
        except NotAnswering as exc:
            raise NotAnswering(f"{self.path}: {exc}") from exc

    @property
    def is_dead(self) -> bool:
        """Whether the process that served the mount has ended."""
        return checks.probe(self.path, ANSWER_TIMEOUT_S) in checks.DEAD

    def not_mounted(self) -> NotMounted:
        """Return the error for a directory on which nothing is mounted."""
        return NotMounted(f"{self.path}: nothing is mounted here")


# -- sync -----------------------------------------------------------------------------------------


def sync(directory: str, *, wait_s: float | None) -> None:
    """Wait until the store has every file that was closed; shows how far it is on a terminal.

    Raises NotMounted, MountDead, NotAnswering, and NotStored when some were refused, now or since
    the mount began, or are not stored within ``wait_s`` seconds (None: as long as it takes).
    """
    target = Target(directory)
    end = None if wait_s is None else time.monotonic() + wait_s
    answer = _ask_sync(target, hurry=True)
    with _bar() as bar:
        while left := _count(answer, "pending_files"):
            if end is not None and time.monotonic() >= end:
                why = answer.get("pending_error") or "they are on their way"
                raise NotStored(f"{target.path}: {left} files are not stored yet: {why}")
            _move(bar, _count(answer, "pending_bytes"))
            time.sleep(PROGRESS_STEP_S)
            answer = _ask_sync(target, hurry=False)
    failed = answer.get("not_stored")
    if isinstance(failed, list) and failed:
        for line in failed:
            logs.report(f"not stored: {line}")
        raise NotStored(
            f"{target.path}: files that the store did not take: {len(failed)};"
            " 'allasfs recover' shows them"
        )


def _ask_sync(target: Target, *, hurry: bool) -> Mapping[str, object]:
    with target.connection() as connection:
        if connection is None:
            _explain_silence(target)
        return target.ask(connection, {"command": "sync", "hurry": hurry})


def _count(answer: Mapping[str, object], name: str) -> int:
    value = answer.get(name)
    if not isinstance(value, int):
        raise NotAnswering(f"the mount's process says: {answer.get('error', answer)}")
    return value


# -- umount ---------------------------------------------------------------------------------------


def umount(directory: str, *, wait_s: float | None) -> None:
    """Unmount and wait until everything is uploaded and the process has ended.

    Raises NotMounted, and UnmountFailed when the mount is busy, when data was not uploaded, or
    when that cannot be told within ``wait_s`` seconds (None: as long as it takes).
    """
    target = Target(directory)
    end_s = None if wait_s is None else time.monotonic() + wait_s

    def left_s() -> float | None:
        return None if end_s is None else max(LEAST_WAIT_S, end_s - time.monotonic())

    with target.connection() as connection:
        if connection is None:
            _umount_without_process(target)
            return
        pid = target.ask(connection, {"command": "wait"}).get("pid")
        if target.entry is not None:
            _take_away(target)
        try:
            with _progress(target) as show:
                while not connection.has_more(min(PROGRESS_STEP_S, left_s() or PROGRESS_STEP_S)):
                    if left_s() == LEAST_WAIT_S:
                        break
                    show()
            outcome = connection.next(left_s())
            connection.wait_for_end(left_s())
        except TimeoutError as exc:
            raise UnmountFailed(
                f"{target.path}: unmounted, but process {pid} still uploads after {wait_s:g} s"
                f"{_what_is_left(target)}; it goes on, and 'allasfs umount' waits for it again"
            ) from exc
        except NotAnswering as exc:
            raise UnmountFailed(
                f"{target.path}: unmounted, but process {pid} ended before it had uploaded"
                " everything; what is missing is in its spool folder"
            ) from exc
    _check_uploads(target, outcome)


def _take_away(target: Target, *, lazy: bool = False) -> None:
    """Unmount; raise UnmountFailed unless it was done by somebody else meanwhile."""
    try:
        unmounting.unmount(target.path, lazy=lazy)
    except UnmountFailed:
        if target.path in checks.mounts():
            raise


@contextmanager
def _progress(target: Target) -> Iterator[Callable[[], None]]:
    """Give what shows, on a terminal, how much of the closed files is uploaded."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    with _bar() as bar:

        def show() -> None:
            left = _status(target, "sync").get("pending_bytes")
            if isinstance(left, int):
                _move(bar, left)

        yield show


def _bar() -> tqdm[NoReturn]:
    return tqdm(unit="B", unit_scale=True, disable=None, leave=False, desc="uploading")


def _move(bar: tqdm[NoReturn], left: int) -> None:
    bar.total = max(bar.total or 0, left)
    bar.n = bar.total - left
    bar.refresh()


def _status(target: Target, command: str = "status") -> Mapping[str, object]:
    """Return how a mount fares, nothing when its process has ended or is stuck."""
    try:
        with target.connection() as connection:
            return target.ask(connection, {"command": command}) if connection else {}
    except NotAnswering:
        return {}


def _what_is_left(target: Target) -> str:
    """Return the names of files that are not uploaded yet, for the line about them."""
    names = _status(target).get("to_upload")
    if not isinstance(names, list) or not names:
        return ""
    more = len(names) - SHOWN_NAMES
    return f" ({', '.join(map(str, names[:SHOWN_NAMES]))}{f' and {more} more' if more > 0 else ''})"


def _umount_without_process(target: Target) -> None:
    if target.entry is None:
        raise target.not_mounted()
    if target.is_dead:
        _take_away(target, lazy=True)
        logs.report(
            f"{target.path}: removed the mount of a process that had ended; what it had not"
            " uploaded is in its spool folder"
        )
        return
    _take_away(target)
    raise UnmountFailed(
        f"{target.path}: unmounted, but its process does not answer, so whether everything was"
        " uploaded is in its log only"
    )


def _check_uploads(target: Target, outcome: Mapping[str, object]) -> None:
    failed = outcome.get("failed")
    if not isinstance(failed, list) or not failed:
        return
    for line in failed:
        logs.report(f"not uploaded: {line}")
    raise UnmountFailed(
        f"{target.path}: unmounted, but not everything was uploaded; what is left is kept, and"
        " 'allasfs recover' lists it"
    )


# -- status ---------------------------------------------------------------------------------------


def status(directory: str, *, as_json: bool) -> None:
    """Print what a mount does; raise NotMounted, MountDead, NotAnswering."""
    target = Target(directory)
    with target.connection() as connection:
        if connection is None:
            _explain_silence(target)
        answer = target.ask(connection, {"command": "status"})
    if "error" in answer:
        raise NotAnswering(f"{target.path}: {answer['error']}")
    answer["state"] = "mounted" if target.entry else "ending: it uploads what is left"
    text = json.dumps(answer, indent=2) if as_json else "\n".join(_lines(answer))
    sys.stdout.write(text + "\n")


def _explain_silence(target: Target) -> NoReturn:
    if target.entry is None:
        raise target.not_mounted()
    if target.is_dead:
        raise MountDead(
            f"{target.path}: the process that served this mount has ended;"
            f" 'allasfs umount {target.path}' removes it"
        )
    raise NotAnswering(
        f"{target.path}: mounted, but its process does not answer;"
        f" 'allasfs umount {target.path}' unmounts all the same"
    )


def _lines(answer: Mapping[str, object], indent: str = "") -> Iterator[str]:
    """Yield ``name: value`` lines; what is inside a value is indented below it."""
    for name, value in answer.items():
        label = f"{indent}{name.replace('_', ' ')}:"
        if isinstance(value, dict):
            yield label
            yield from _lines(value, indent + "  ")
        elif isinstance(value, list):
            yield f"{label} {'' if value else 'none'}".rstrip()
            yield from (f"{indent}  {logs.plain(str(item))}" for item in value)
        else:
            yield f"{label} {logs.plain(str(value))}"
