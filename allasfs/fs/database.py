"""What is known of versions, kept on the local disk for the next mount.

Listings do not carry times, modes, owners and other metadata. A small SQLite file remembers them
for versions that this computer stored or asked for. It is a cache: whatever happens to it, the
mount works on; only a WARNING, once, says what to do. Writes are collected and done by a thread,
so that a program pays microseconds for them; what was not written when the power fails (the last
second) is asked for again.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import stat
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from allasfs.store.api import Kind, ObjectInfo

log = logging.getLogger(__name__)

# Of the tables. A file of another layout is made anew.
LAYOUT = 1
# Changes wait this long for others to be written with them, unless they are this many.
WAIT_S = 1.0
BATCH = 5_000
# More than this wait only behind another process that holds the file; the oldest are given up.
MAX_PENDING = 100_000
# SQLite's integers end in the year 2262; a server that tells later times is not worth a warning.
LATEST_NS = 2**63 - 1
# How often, in rows written, it is looked whether there are too many.
PRUNE_EVERY = 10_000
# Another mount writes to the file: a program that reads waits less long than the writing thread.
READ_PATIENCE_S = 1.0
WRITE_PATIENCE_S = 10.0

_TABLES = (
    "CREATE TABLE IF NOT EXISTS account (id INTEGER PRIMARY KEY, url TEXT NOT NULL UNIQUE)",
    """CREATE TABLE IF NOT EXISTS version (
        id INTEGER PRIMARY KEY,
        account INTEGER NOT NULL,
        bucket TEXT NOT NULL,
        key TEXT NOT NULL,
        size INTEGER NOT NULL,
        etag TEXT NOT NULL,
        mtime_ns INTEGER NOT NULL,
        kind TEXT NOT NULL,
        metadata TEXT NOT NULL,
        is_whole INTEGER NOT NULL,
        UNIQUE (account, bucket, key)
    )""",
)


@dataclass(frozen=True, slots=True)
class Row:
    """A version and its metadata: all of it (``is_whole``), or what stat showed alone."""

    bucket: str
    info: ObjectInfo
    metadata: Mapping[str, str]
    is_whole: bool


class Database:
    """The file of one computer's user, shared by mounts. Any thread may call any method."""

    def __init__(self, path: Path, limit: int) -> None:
        """Open nothing yet. At most ``limit`` versions are kept, the last written ones."""
        self._path = path
        self._limit = limit
        self._account = 0
        # Of the reading connection.
        self._reading = threading.Lock()
        self._reader: sqlite3.Connection | None = None
        self._writer: sqlite3.Connection | None = None
        self._thread: threading.Thread | None = None
        self._unpruned = 0
        # Leaf lock for what follows.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._pending: OrderedDict[tuple[str, str], Row] = OrderedDict()
        # What the thread writes at the moment.
        self._writing: OrderedDict[tuple[str, str], Row] = OrderedDict()
        self._is_closing = False
        self._has_warned = False

    # -- life -------------------------------------------------------------------------------------

    def open(self, account: str) -> None:
        """Open the file for an account, made if missing; without it nothing is remembered."""
        try:
            _make_private(self._path)
            self._writer = _connect(self._path, WRITE_PATIENCE_S)
            self._account = _prepare(self._writer, account)
            self._reader = _connect(self._path, READ_PATIENCE_S)
        except (sqlite3.Error, OSError) as exc:
            self._warn(exc)
            self._disconnect()
            return
        self._thread = threading.Thread(target=self._run, name="attributes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and close the file."""
        with self._lock:
            self._is_closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        self._disconnect()

    def _disconnect(self) -> None:
        with self._reading:
            connections = (self._reader, self._writer)
            self._reader = self._writer = None
        for connection in connections:
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()

    def _warn(self, exc: Exception) -> None:
        with self._lock:
            has_warned, self._has_warned = self._has_warned, True
        if not has_warned:
            log.warning(
                "%s: %s: times, modes and owners of files may not be remembered after the unmount;"
                " remove this file, make room, or name another with attr-db",
                self._path,
                exc,
            )

    # -- reading ----------------------------------------------------------------------------------

    def find(self, bucket: str, key: str) -> Row | None:
        """Return what is known of the last version of a name that was noted."""
        with self._lock:
            row = self._pending.get((bucket, key)) or self._writing.get((bucket, key))
        if row is not None or self._reader is None:
            return row
        try:
            with self._reading:
                if self._reader is None:
                    return None
                found = self._reader.execute(
                    "SELECT size, etag, mtime_ns, kind, metadata, is_whole FROM version"
                    " WHERE account = ? AND bucket = ? AND key = ?",
                    (self._account, bucket, key),
                ).fetchone()
            return _row(bucket, key, *found) if found else None
        except (sqlite3.Error, ValueError, TypeError, AttributeError) as exc:
            self._warn(exc)
            return None

    # -- writing ----------------------------------------------------------------------------------

    def note(self, row: Row) -> None:
        """Remember a version, in place of the last one of its name; returns at once."""
        if self._thread is None or abs(row.info.mtime_ns) > LATEST_NS:
            return
        key = (row.bucket, row.info.key)
        with self._lock:
            self._pending.pop(key, None)
            self._pending[key] = row
            if len(self._pending) > MAX_PENDING:
                self._pending.popitem(last=False)
            if len(self._pending) in (1, BATCH):
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._lock:
                self._changed.wait_for(lambda: self._pending or self._is_closing)
                self._changed.wait_for(
                    lambda: self._is_closing or len(self._pending) >= BATCH, WAIT_S
                )
                if not self._pending:
                    return
                batch, self._pending = self._pending, OrderedDict()
                self._writing = batch
            try:
                self._write(list(batch.values()))
            except (sqlite3.Error, ValueError) as exc:
                self._warn(exc)
            with self._lock:
                self._writing = OrderedDict()

    def _write(self, rows: list[Row]) -> None:
        if self._writer is None:
            return
        with self._writer:
            self._writer.execute("BEGIN IMMEDIATE")
            # Replaced rows get a new id: the order of ids is the order of writing.
            self._writer.executemany(
                "INSERT OR REPLACE INTO version (account, bucket, key, size, etag, mtime_ns, kind,"
                " metadata, is_whole) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [(self._account, *_columns(row)) for row in rows],
            )
            self._unpruned += len(rows)
            if self._unpruned >= min(PRUNE_EVERY, self._limit // 10 + 1):
                self._prune(self._writer)
                self._unpruned = 0

    def _prune(self, writer: sqlite3.Connection) -> None:
        """Remove the oldest rows above the limit, and some more, so that it is not done often."""
        (count,) = writer.execute("SELECT count(*) FROM version").fetchone()
        if count > self._limit:
            surplus = count - self._limit + self._limit // 20
            writer.execute(
                "DELETE FROM version WHERE id IN (SELECT id FROM version ORDER BY id LIMIT ?)",
                (surplus,),
            )


def _make_private(path: Path) -> None:
    """Make the file, or make sure that it is ours alone; raise OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise PermissionError("it is no file of yours")
        if stat.S_IMODE(status.st_mode) & 0o077:
            os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _connect(path: Path, patience_s: float) -> sqlite3.Connection:
    # Transactions are begun by hand; each connection is guarded by a lock or used by one thread.
    return sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)


def _prepare(writer: sqlite3.Connection, account: str) -> int:
    """Make the tables where they are missing; return the number of the account."""
    _write_ahead(writer)
    # Synchronized when the log is moved into the file, not for each batch: after a loss of power
    # the file is sound, and lacks the last changes.
    writer.execute("PRAGMA synchronous = NORMAL")
    with writer:
        writer.execute("BEGIN IMMEDIATE")
        (layout,) = writer.execute("PRAGMA user_version").fetchone()
        if layout not in (0, LAYOUT):
            writer.execute("DROP TABLE IF EXISTS version")
            writer.execute("DROP TABLE IF EXISTS account")
        for table in _TABLES:
            writer.execute(table)
        writer.execute(f"PRAGMA user_version = {LAYOUT}")
        writer.execute("INSERT OR IGNORE INTO account (url) VALUES (?)", (account,))
        with closing(writer.execute("SELECT id FROM account WHERE url = ?", (account,))) as found:
            return int(found.fetchone()[0])


def _write_ahead(writer: sqlite3.Connection) -> None:
    """Let readers go on while a mount writes. SQLite does not wait for this lock by itself."""
    deadline_s = time.monotonic() + WRITE_PATIENCE_S
    while True:
        try:
            writer.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as exc:  # noqa: PERF203 - it is a loop of retries
            if "locked" not in str(exc) or time.monotonic() > deadline_s:
                raise
            time.sleep(0.02)


def _columns(row: Row) -> tuple[object, ...]:
    info = row.info
    text = json.dumps(dict(row.metadata))
    kind = info.kind.name
    return (
        *(row.bucket, info.key, info.size, info.etag, info.mtime_ns, kind),
        *(text, int(row.is_whole)),
    )


def _row(
    bucket: str,
    key: str,
    size: int,
    etag: str,
    mtime_ns: int,
    kind: str,
    metadata: str,
    is_whole: int,
) -> Row:
    """Return a row; raise ValueError for what no version of allasfs writes."""
    try:
        info = ObjectInfo(key, int(size), str(etag), int(mtime_ns), kind=Kind[kind])
    except KeyError as exc:
        raise ValueError(f"no kind of object: {kind}") from exc
    found = {str(name): str(value) for name, value in json.loads(metadata).items()}
    return Row(bucket, info, found, bool(is_whole))
