"""Databases on the mount: SQLite in every journal mode, and the dbm modules of Python."""

from __future__ import annotations

import importlib.util
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.mount.support import PATIENCE_S, listed, stored

from .support import Shell

FILL = """
CREATE TABLE sample (id INTEGER PRIMARY KEY, name TEXT NOT NULL, value REAL);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
INSERT INTO sample SELECT i, printf('name-%05d', (i * 7919) % 20000), i / 8.0 FROM n;
CREATE INDEX by_name ON sample (name);
"""
CHANGE = """
BEGIN;
UPDATE sample SET value = -1 WHERE name BETWEEN 'name-00100' AND 'name-00199';
DELETE FROM sample WHERE id % 10 = 0;
COMMIT;
BEGIN;
DELETE FROM sample;
ROLLBACK;
"""
QUERY = "SELECT count(*), sum(value), min(name), max(id) FROM sample;"
CHECK = "PRAGMA integrity_check;"


@pytest.mark.parametrize("journal", ["delete", "truncate", "persist", "memory", "off", "wal"])
def test_a_database_is_filled_changed_and_queried(
    sh: Shell, bucket: str, swift: Connection, tmp_path: Path, journal: str
) -> None:
    mode = f"PRAGMA journal_mode = {journal};"
    change = CHANGE if journal != "off" else CHANGE.partition("BEGIN;\nDELETE")[0]
    expected = sh('sqlite3 :memory: "$1"', FILL + change + QUERY)
    # Two programs: the second finds what the first has left.
    assert sh('sqlite3 base.db "$1"', mode + FILL) == f"{journal}\n"
    sh('sqlite3 base.db "$1"', mode + change)
    assert sh('sqlite3 base.db "$1"', QUERY + CHECK) == f"{expected}ok\n"
    assert sh('sqlite3 base.db "$1"', "SELECT id FROM sample WHERE name = 'name-07919'") == "1\n"
    left = {"base.db"} | ({"base.db-journal"} if journal in ("truncate", "persist") else set())
    assert set(listed(swift, bucket)) == left
    sh('sqlite3 base.db "VACUUM; PRAGMA optimize;"')
    (tmp_path / "copy.db").write_bytes(stored(swift, bucket, "base.db"))
    assert sh('sqlite3 "$1" "$2"', tmp_path / "copy.db", QUERY + CHECK) == f"{expected}ok\n"


def test_a_journal_of_a_killed_program_is_rolled_back(
    sh: Shell, there: Path, bucket: str, swift: Connection
) -> None:
    sh('sqlite3 base.db "$1"', FILL)
    script = (
        "import os, sqlite3, sys\n"
        "base = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "base.execute('PRAGMA cache_size = 50')\n"
        "base.execute('BEGIN')\n"
        "base.execute('UPDATE sample SET value = 0')\n"
        "os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", script, str(there / "base.db")], check=False, timeout=PATIENCE_S
    )
    assert killed.returncode == -9
    assert "base.db-journal" in listed(swift, bucket)
    expected = sh('sqlite3 :memory: "$1"', FILL + QUERY)
    assert sh('sqlite3 base.db "$1"', QUERY + CHECK) == f"{expected}ok\n"
    assert list(listed(swift, bucket)) == ["base.db"]


@pytest.mark.semantics("C33")
def test_a_second_writer_of_a_database_is_locked_out(there: Path) -> None:
    with (
        closing(sqlite3.connect(there / "base.db", isolation_level=None)) as one,
        closing(sqlite3.connect(there / "base.db", isolation_level=None, timeout=0)) as two,
    ):
        one.execute("CREATE TABLE t (n)")
        one.execute("BEGIN IMMEDIATE")
        one.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            two.execute("BEGIN IMMEDIATE")
        assert two.execute("SELECT count(*) FROM t").fetchone() == (0,)
        one.execute("COMMIT")
        assert two.execute("SELECT count(*) FROM t").fetchone() == (1,)
        two.execute("INSERT INTO t VALUES (2)")
        assert one.execute("SELECT sum(n) FROM t").fetchone() == (3,)


def test_a_backup_of_a_database_to_the_mount(
    there: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    with closing(sqlite3.connect(":memory:")) as source:
        source.executescript(FILL)
        with closing(sqlite3.connect(there / "backup.db")) as target:
            source.backup(target, pages=50)
    (tmp_path / "copy.db").write_bytes(stored(swift, bucket, "backup.db"))
    with closing(sqlite3.connect(tmp_path / "copy.db")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert copy.execute("SELECT count(*) FROM sample").fetchone() == (20_000,)


# Which of them there are depends on how Python was built; dbm.dumb is always there.
DBMS = [
    name
    for name, extension in (
        ("dbm.dumb", "dbm.dumb"),
        ("dbm.gnu", "_gdbm"),
        ("dbm.ndbm", "_dbm"),
        ("dbm.sqlite3", "dbm.sqlite3"),
    )
    if importlib.util.find_spec(extension)
]
SHELVE = """
import importlib, shelve, sys
database, path, step = sys.argv[1:]
base = importlib.import_module(database).open(path, "c")
shelf = shelve.Shelf(base)
if step == "fill":
    for number in range(20):
        shelf[f"key {number}"] = {"number": number, "data": bytes(number * 100)}
elif step == "change":
    for number in range(0, 20, 3):
        del shelf[f"key {number}"]
    shelf["key 1"] = "replaced"
print(len(shelf), shelf["key 1"], [len(shelf[f"key {n}"]["data"]) for n in range(2, 20, 3)])
shelf.close()
"""


@pytest.mark.parametrize("database", DBMS)
def test_a_shelf_keeps_its_objects(
    sh: Shell, there: Path, bucket: str, swift: Connection, tmp_path: Path, database: str
) -> None:
    sizes = [number * 100 for number in range(2, 20, 3)]
    first = sh.python(SHELVE, database, there / "shelf", "fill")
    assert first == f"20 {{'number': 1, 'data': {bytes(100)!r}}} {sizes}\n"
    changed = f"13 replaced {sizes}\n"
    assert sh.python(SHELVE, database, there / "shelf", "change") == changed
    assert sh.python(SHELVE, database, there / "shelf", "look") == changed
    for key in listed(swift, bucket):
        (tmp_path / key).write_bytes(stored(swift, bucket, key))
    assert sh.python(SHELVE, database, tmp_path / "shelf", "look") == changed
