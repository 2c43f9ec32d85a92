"""The file that remembers versions: it is a cache, and no fault of it reaches a program."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from allasfs.fs import database
from allasfs.fs.database import Database, Row
from allasfs.store.api import Kind, ObjectInfo
from tests.conftest import ExpectedLogs

ACCOUNT = "https://store/v1/AUTH_a"
INFO = ObjectInfo("dir/ä", 3, "0" * 32, 1_700_000_000_123_456_000)
ROW = Row("bucket", INFO, {"mtime": "1.5", "x": 'a "b" \udce9'}, True)
Open = Callable[..., Database]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "attributes.sqlite"


@pytest.fixture
def opened(path: Path) -> Iterator[Open]:
    """Open the file as a mount does."""
    started: list[Database] = []

    def start(account: str = ACCOUNT, limit: int = 1000, at: Path = path) -> Database:
        one = Database(at, limit)
        started.append(one)
        one.open(account)
        return one

    yield start
    for each in started:
        each.close()


def count(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM version").fetchone()[0])


def numbered(number: int) -> Row:
    return Row("bucket", ObjectInfo(f"key-{number}", 1, "e", number), {}, True)


def test_a_version_is_found_at_once_and_by_the_next_mount(opened: Open) -> None:
    first = opened()
    first.note(ROW)
    assert first.find("bucket", "dir/ä") == ROW
    first.close()
    second = opened()
    assert second.find("bucket", "dir/ä") == ROW
    assert second.find("bucket", "dir") is None
    assert second.find("other", "dir/ä") is None


@pytest.mark.parametrize("kind", Kind)
def test_the_kind_and_what_is_known_come_back(opened: Open, kind: Kind) -> None:
    row = Row("b", ObjectInfo("k", 0, "e", -5, kind=kind), {}, False)
    first = opened()
    first.note(row)
    first.close()
    assert opened().find("b", "k") == row


def test_a_version_takes_the_place_of_the_last_one_of_its_name(opened: Open, path: Path) -> None:
    newer = Row("bucket", ObjectInfo("dir/ä", 9, "f", 1), {}, True)
    first = opened()
    first.note(ROW)
    first.note(newer)
    first.close()
    second = opened()
    assert second.find("bucket", "dir/ä") == newer
    second.note(ROW)
    second.close()
    assert opened().find("bucket", "dir/ä") == ROW
    assert count(path) == 1


def test_accounts_have_nothing_in_common(opened: Open) -> None:
    first = opened()
    first.note(ROW)
    first.close()
    assert opened("https://store/v1/AUTH_b").find("bucket", "dir/ä") is None
    assert opened().find("bucket", "dir/ä") == ROW


def test_two_mounts_share_the_file(opened: Open, path: Path) -> None:
    mounts = [opened(), opened("other"), opened()]

    def work(mount: Database, start: int) -> None:
        for number in range(start, start + 300):
            mount.note(numbered(number))
            mount.find("bucket", f"key-{number}")

    threads = [
        threading.Thread(target=work, args=(mount, 1000 * index))
        for index, mount in enumerate(mounts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for mount in mounts:
        mount.close()
    assert count(path) == 900
    assert opened().find("bucket", "key-2299") == numbered(2299)


@pytest.mark.semantics("A8")
def test_the_oldest_are_removed_above_the_limit(opened: Open, path: Path) -> None:
    for start in range(0, 400, 50):
        mount = opened(limit=100)
        for number in (0, *range(start, start + 50)):
            mount.note(numbered(number))
        mount.close()
    assert 50 <= count(path) <= 100
    last = opened()
    assert last.find("bucket", "key-399") == numbered(399)
    # What was written again is not old.
    assert last.find("bucket", "key-0") == numbered(0)
    assert last.find("bucket", "key-100") is None


@pytest.mark.semantics("A8")
def test_the_file_is_private(opened: Open, path: Path) -> None:
    mount = opened()
    mount.note(ROW)
    mount.close()
    for folder, mode in ((path.parent, 0o700), (path, 0o600)):
        assert stat.S_IMODE(folder.stat().st_mode) == mode
    path.chmod(0o644)
    opened()
    for each in path.parent.iterdir():
        assert stat.S_IMODE(each.stat().st_mode) == 0o600


def test_what_a_killed_mount_wrote_is_there(opened: Open, path: Path) -> None:
    script = f"""
import os, time
from pathlib import Path
from allasfs.fs.database import Database, Row
from allasfs.store.api import ObjectInfo
mount = Database(Path({str(path)!r}), 1000)
mount.open({ACCOUNT!r})
mount.note(Row("bucket", ObjectInfo("key-7", 1, "e", 7), {{}}, True))
while mount._pending or mount._writing:
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert done.returncode == -9
    assert opened().find("bucket", "key-7") == numbered(7)


# -- what may be wrong with it --------------------------------------------------------------------


def use(mount: Database) -> None:
    """Use it as a mount does; nothing may be raised."""
    mount.note(ROW)
    assert mount.find("bucket", "dir/ä") in (ROW, None)
    mount.close()
    assert mount.find("bucket", "dir/ä") is None
    mount.note(ROW)


def test_a_file_that_is_no_database_is_named_once(
    opened: Open, path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs(r"attributes.sqlite: file is not a database: .* remove this file")
    path.parent.mkdir()
    path.write_bytes(b"something else, and long enough to be looked at" * 100)
    use(opened())
    assert path.read_bytes().startswith(b"something else")


def test_a_file_that_is_damaged_while_it_is_used_is_named_once(
    opened: Open, path: Path, expected_logs: ExpectedLogs
) -> None:
    first = opened()
    for number in range(1000):
        first.note(numbered(number))
    first.close()
    expected_logs("remove this file")
    mount = opened()
    damaged = bytearray(path.read_bytes())
    damaged[4096:] = b"\xff" * (len(damaged) - 4096)
    path.write_bytes(damaged)
    for number in range(0, 1000, 100):
        mount.find("bucket", f"key-{number}")
    use(mount)


def test_a_folder_that_cannot_be_made_is_named_once(
    opened: Open, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("File exists: .* remove this file")
    (tmp_path / "file").touch()
    use(opened(at=tmp_path / "file" / "attributes.sqlite"))


def test_a_link_to_somewhere_else_is_not_followed(
    opened: Open, path: Path, tmp_path: Path, expected_logs: ExpectedLogs
) -> None:
    expected_logs("attributes.sqlite")
    path.parent.mkdir()
    path.symlink_to(tmp_path / "elsewhere")
    use(opened())
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_named_once_and_ends_by_itself(
    opened: Open, path: Path, expected_logs: ExpectedLogs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.0)
    expected_logs("database or disk is full: .* make room")
    mount = opened()
    assert mount._writer is not None
    mount._writer.execute("PRAGMA max_page_count = 1")
    large = Row("bucket", ObjectInfo("large", 1, "e", 1), {"x": "y" * 100_000}, True)
    for _ in range(2):
        mount.note(large)
        wait_until_written(mount)
    assert mount.find("bucket", "large") is None
    assert len(expected_logs.lines) == 1
    mount._writer.execute("PRAGMA max_page_count = 100000")
    mount.note(large)
    wait_until_written(mount)
    assert mount.find("bucket", "large") == large


def wait_until_written(mount: Database) -> None:
    while mount._pending or mount._writing:
        threading.Event().wait(0.01)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE version SET kind = 'odd'",
        "UPDATE version SET metadata = 'no json'",
        "UPDATE version SET metadata = '[1]'",
        "UPDATE version SET size = 'big'",
    ],
)
def test_a_row_that_cannot_be_understood_is_not_there(
    opened: Open, path: Path, expected_logs: ExpectedLogs, change: str
) -> None:
    first = opened()
    first.note(ROW)
    first.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    expected_logs("remove this file")
    assert opened().find("bucket", "dir/ä") is None


def test_a_file_of_another_layout_is_made_anew(opened: Open, path: Path) -> None:
    first = opened()
    first.note(ROW)
    first.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("ALTER TABLE version RENAME COLUMN etag TO hash")
        connection.execute("PRAGMA user_version = 99")
    second = opened()
    assert second.find("bucket", "dir/ä") is None
    second.note(ROW)
    second.close()
    assert opened().find("bucket", "dir/ä") == ROW


def test_what_waits_for_the_disk_is_bounded(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_PENDING", 10)
    monkeypatch.setattr(database, "WAIT_S", 60.0)
    mount = opened()
    for number in (*range(25), 15, *range(25, 30)):
        mount.note(numbered(number))
    assert len(mount._pending) <= 10
    # Those that were noted last are kept.
    for number in (29, 15):
        assert mount.find("bucket", f"key-{number}") == numbered(number)
