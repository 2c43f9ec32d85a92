"""``allasfs recover``: what the spools keep for a person, listed, uploaded, saved or discarded.

A spool that a mount owns is changed by that mount, over its control socket; any other by this
process, which owns it meanwhile.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from allasfs.app import control, folders, logs
from allasfs.app.recover_words import Asked
from allasfs.config import Config
from allasfs.deadline import within
from allasfs.errors import (
    ChangedMeanwhile,
    Exists,
    FsError,
    NotAnswering,
    NotRecovered,
    SetupError,
    SpoolUnusable,
    Stale,
    UsageError,
)
from allasfs.transfer import ownership
from allasfs.transfer.journal import Entry, entries
from allasfs.transfer.notes import OWED

if TYPE_CHECKING:
    from allasfs.store.auth import Auth
    from allasfs.store.swift import SwiftStore
    from allasfs.transfer.rescue import Rescue

# A mount answers from memory; one that takes longer than this is stuck.
ANSWER_TIMEOUT_S = 10.0
WAITS = "not uploaded yet: its mount has ended"


class Keeper(Protocol):
    """A file system that has kept files."""

    def retry(self, name: str, *, over: bool, place: tuple[str, str] | None) -> None:
        """Upload one."""

    def discard(self, name: str) -> None:
        """Remove one."""


def answer(keeper: Keeper, request: Mapping[str, object]) -> Mapping[str, object]:
    """Do what a request from the control socket asks of a mount."""
    name, place = str(request.get("id")), request.get("place")
    try:
        if request.get("action") == "discard":
            keeper.discard(name)
        else:
            where = (str(place[0]), str(place[1])) if isinstance(place, list) else None
            keeper.retry(name, over=request.get("over") is True, place=where)
    except FsError as exc:
        return {"error": str(exc), "changed": isinstance(exc, (Exists, Stale))}
    except OSError as exc:
        return {"error": f"the disk of the spool failed: {exc.strerror}"}
    return {}


@dataclass(frozen=True)
class Found:
    """A file that is kept, and who owns its spool."""

    entry: Entry
    owner: ownership.Holder | None

    @property
    def why(self) -> str:
        """Why it is here."""
        return self.entry.note.why if self.entry.is_kept else WAITS

    @property
    def when(self) -> str:
        """Since when, by this computer's clock."""
        when = self.entry.note.when
        if not when:
            with suppress(FileNotFoundError):
                when = self.entry.path.stat().st_mtime
        return time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(when))

    def plain(self) -> dict[str, object]:
        """Return all that is known, for JSON."""
        entry = self.entry
        return {
            "id": entry.id,
            "bucket": entry.note.bucket,
            "key": entry.note.key,
            "size": entry.size,
            "when": self.when,
            "why": self.why,
            "folder": str(entry.folder),
            "data": str(entry.data),
            "segments": f"{entry.note.container}/{entry.note.prefix}" if entry.note.parts else "",
            "account": entry.note.account,
            "owner": str(self.owner) if self.owner else "",
        }

    def line(self) -> str:
        """Return it as a line of fields that are parted by tabs."""
        entry = self.entry
        fields = (entry.id, entry.subject, entry.size, self.when, self.why, entry.folder)
        return "\t".join(logs.plain(str(each)) for each in fields)


def checked(folder: Path) -> Path:
    """Return a folder that a user named; raise SpoolUnusable when it cannot be looked into."""
    try:
        with os.scandir(folder):
            return folder
    except OSError as exc:
        raise SpoolUnusable(f"{folder} is no spool folder: {exc.strerror}") from exc


class Recover:
    """One command over some spools."""

    def __init__(self, spools: Sequence[Path], config: Config, account: Callable[[], Auth]) -> None:
        """``account`` asks for credentials, if they are needed."""
        self._spools = list(dict.fromkeys(Path(os.path.realpath(path)) for path in spools))
        self._config = config
        self._account = cache(account)
        # Of the folders: 0 when all could be looked into.
        self._code = 0

    def run(self, asked: Asked) -> int:
        """Do what was asked for; return the exit code. Raises SetupError."""
        if asked.command == "list":
            return self._list(as_json=asked.json)
        chosen = self._chosen(asked)
        if asked.command == "save" and asked.file is not None:
            return self._save(chosen[0], asked.file)
        if asked.command == "discard":
            confirm(chosen, is_sure=asked.yes)
        code = self._code
        # Whose owner cannot be asked: the files of the others go on.
        unusable: dict[Path, SetupError] = {}
        for found in chosen:
            if found.entry.folder in unusable:
                continue
            try:
                self._change(found, asked)
            except (ChangedMeanwhile, NotRecovered) as exc:
                logs.report(str(exc))
                code = max(code, exc.exit_code)
            except (NotAnswering, SpoolUnusable) as exc:
                unusable[found.entry.folder] = exc
        errors = list(unusable.values())
        for error in errors[:-1]:
            logs.report(str(error))
        if errors:
            raise errors[-1]
        return code

    # -- looking ----------------------------------------------------------------------------------

    def _found(self) -> list[Found]:
        found = []
        for folder in self._spools:
            try:
                owner = ownership.owner_of(folder)
            except OSError as exc:
                logs.report(f"{folder}: {exc.strerror}")
                self._code = SpoolUnusable.exit_code
                continue
            found += [
                Found(entry, owner)
                for entry in entries(folder)
                # What a mount has not ended yet is its own business.
                if entry.is_kept or (owner is None and entry.state in OWED)
            ]
        return found

    def _list(self, *, as_json: bool) -> int:
        found = self._found()
        if as_json:
            sys.stdout.write(json.dumps([each.plain() for each in found], indent=2) + "\n")
        else:
            nothing = [] if self._code else ["nothing is kept"]
            lines = [each.line() for each in found] or nothing
            sys.stdout.write("".join(f"{line}\n" for line in lines))
        return self._code

    def _chosen(self, asked: Asked) -> list[Found]:
        found = self._found()
        if asked.every:
            return found
        chosen = []
        for name in asked.ids:
            same = [each for each in found if each.entry.id.startswith(name)]
            if len(same) != 1 or not name:
                many = "is the ID of no kept file" if not same else "is the beginning of several"
                raise UsageError(f"{name!r} {many}; 'allasfs recover' lists them")
            if same[0] not in chosen:
                chosen += same
        return chosen

    # -- changing ---------------------------------------------------------------------------------

    def _change(self, found: Found, asked: Asked) -> None:
        """Upload or discard; raise SetupError."""
        entry, owner = found.entry, found.owner
        if owner is not None and owner.host != ownership.here().host:
            raise SpoolUnusable(f"{entry.folder}: in use by {owner}: run this command there")
        if owner is not None:
            self._let_mount_change(entry, asked, owner)
        else:
            with self._alone(entry.folder) as rescue:
                told = answer(_Direct(rescue, self._config.timeout_s), _request(entry, asked))
            _check(entry, told)
        where = "/".join(asked.place) if asked.place else entry.subject
        done = "discarded" if asked.command == "discard" else f"stored as {logs.plain(where)}"
        sys.stdout.write(f"{entry.id}\t{done}\n")

    def _let_mount_change(self, entry: Entry, asked: Asked, owner: ownership.Holder) -> None:
        path = _control_of(entry.folder)
        with control.connect([path] if path else [], os.geteuid(), ANSWER_TIMEOUT_S) as connection:
            if connection is None:
                raise NotAnswering(
                    f"{entry.folder}: the mount that uses it does not answer;"
                    f" {control.advice(owner.pid)}"
                )
            try:
                told = connection.ask_patiently(_request(entry, asked), ANSWER_TIMEOUT_S)
            except NotAnswering as exc:
                raise NotAnswering(f"{entry.id}: {exc}") from exc
        _check(entry, told)

    @contextmanager
    def _alone(self, folder: Path) -> Iterator[Rescue]:
        """Own a spool and give what changes it; raise SetupError."""
        # These need a moment that a list need not wait for.
        from allasfs.fs.types import content_type
        from allasfs.transfer.rescue import Rescue
        from allasfs.transfer.spool import Spool
        from allasfs.transfer.uploader import Uploader

        with _opened(self._account(), self._config) as store:
            spool = Spool(folder, self._config.spool_size)
            spool.account = store.url("")
            spool.open()
            count = self._config.connections
            with ThreadPoolExecutor(count) as pool, ThreadPoolExecutor(count) as readers:
                uploader = Uploader(store, pool, self._config, readers=readers)
                try:
                    yield Rescue(uploader, spool, lambda bucket, info: None, content_type, OWED)
                finally:
                    spool.close()

    # -- saving -----------------------------------------------------------------------------------

    def _save(self, found: Found, file: Path) -> int:
        from allasfs.transfer import rescue

        entry = found.entry
        if not rescue.needs_store(entry):
            missing = _written(file, lambda out: rescue.save(entry, out, None))
        else:
            from allasfs.transfer.sending import Sending

            with (
                _opened(self._account(), self._config) as store,
                ThreadPoolExecutor(self._config.connections) as pool,
            ):
                if entry.note.account not in ("", store.url("")):
                    raise NotRecovered(
                        f"{logs.plain(entry.subject)}: a part of it is in another account,"
                        f" {entry.note.account}"
                    )
                sending = Sending(store, pool, self._config)
                with within(self._config.timeout_s):
                    missing = _written(file, lambda out: rescue.save(entry, out, sending))
        if missing:
            raise NotRecovered(
                f"{file}: {rescue.describe(missing)} of it are nowhere: they are zeros"
            )
        if not entry.is_certain:
            raise NotRecovered(f"{file}: saved, but parts may be zeros: {entry.note.why}")
        sys.stdout.write(f"{entry.id}\tsaved as {file}\n")
        return 0


@dataclass(frozen=True)
class _Direct:
    """Kept files that this process owns."""

    rescue: Rescue
    timeout_s: float

    def retry(self, name: str, *, over: bool, place: tuple[str, str] | None) -> None:
        """Upload one."""
        with within(self.timeout_s):
            self.rescue.retry(name, over=over, place=place)

    def discard(self, name: str) -> None:
        """Remove one."""
        with within(self.timeout_s):
            self.rescue.discard(name)


def _request(entry: Entry, asked: Asked) -> dict[str, object]:
    place = list(asked.place) if asked.place else None
    request = {"command": "recover", "action": asked.command, "id": entry.id}
    return {**request, "over": asked.over, "place": place}


def _check(entry: Entry, told: Mapping[str, object]) -> None:
    """Raise what an answer says."""
    if "error" not in told:
        return
    line = logs.plain(f"{entry.id}: {told['error']}")
    if told.get("changed"):
        raise ChangedMeanwhile(f"{line}; --over replaces it, --as stores this beside it")
    raise NotRecovered(line)


@contextmanager
def _opened(account: Auth, config: Config) -> Iterator[SwiftStore]:
    from allasfs.app.content import first_answer
    from allasfs.store.swift import SwiftStore

    store = SwiftStore(account, config, ca_file=account.ca_file)
    try:
        first_answer(account, store, config)
        yield store
    finally:
        store.close()


def _control_of(folder: Path) -> Path | None:
    """Return the control socket of the mount that uses a spool."""
    for place in folders.runtime_folders(os.geteuid()):
        for path in sorted(place.glob("*.sock")):
            try:
                with control.connect([path], os.geteuid(), ANSWER_TIMEOUT_S) as connection:
                    told = (
                        connection.ask({"command": "status"}, ANSWER_TIMEOUT_S)
                        if connection
                        else {}
                    )
            except SetupError:
                continue
            if os.path.realpath(str(told.get("spool", ""))) == str(folder):
                return path
    return None


def _written(file: Path, write: Callable[[int], list[tuple[int, int]]]) -> list[tuple[int, int]]:
    """Make a new file and let it be written; raise NotRecovered."""
    try:
        out = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise NotRecovered(f"{file}: {exc.strerror}") from exc
    try:
        missing = write(out)
        os.fsync(out)
    except OSError as exc:  # FsError is one
        file.unlink(missing_ok=True)
        raise NotRecovered(f"{file} was not written: {exc}") from exc
    finally:
        os.close(out)
    return missing


def confirm(chosen: Sequence[Found], *, is_sure: bool) -> None:
    """Ask whether files shall be gone for ever; raise UsageError unless the answer is yes."""
    if is_sure or not chosen:
        return
    if not sys.stdin or not sys.stdin.isatty():
        raise UsageError("discard removes files for ever: say --yes")
    for found in chosen:
        sys.stdout.write(found.line() + "\n")
    sys.stdout.write(f"Remove for ever: {len(chosen)}. Go on? [y/N] ")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was removed")
