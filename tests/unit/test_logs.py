"""The log: a file that others rotate, the journal's form, stacks on SIGUSR1, no library chatter."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from allasfs.app import logs, recover
from allasfs.app.logs import LogSettings, is_journal
from allasfs.transfer.journal import Entry
from allasfs.transfer.notes import KEPT, Note

ROOT = Path(__file__).parents[2]

WRITER = """
import logging, os, signal, sys, threading
from pathlib import Path
from allasfs.app.logs import LogSettings, start_logging
folder = Path(sys.argv[1])
start_logging(LogSettings({settings}))
log = logging.getLogger("allasfs.test")
{body}
"""


def write(folder: Path, settings: str, body: str) -> str:
    """Run a process that logs; return what it wrote to standard error."""
    script = WRITER.replace("{settings}", settings).replace("{body}", body)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_the_level_is_that_of_allasfs_and_libraries_stay_quiet(tmp_path: Path) -> None:
    body = """
log.debug("ours")
logging.getLogger("urllib3.connectionpool").debug("theirs")
logging.getLogger("urllib3.connectionpool").info("theirs")
"""
    text = write(tmp_path, 'level="debug"', body)
    assert "ours" in text
    assert "theirs" not in text


def test_a_file_that_was_rotated_is_opened_again(tmp_path: Path) -> None:
    body = """
log.info("one")
(folder / "log").rename(folder / "log.1")
log.info("two")
"""
    write(tmp_path, 'file=folder / "log"', body)
    assert "one" in (tmp_path / "log.1").read_text()
    assert "two" in (tmp_path / "log").read_text()
    assert "two" not in (tmp_path / "log.1").read_text()


def test_a_rotated_file_that_cannot_be_opened_again_fails_nobody_who_logs(tmp_path: Path) -> None:
    # What follows a line of the log is the work of a file system.
    body = """
(folder / "logs").rename(folder / "old")
log.info("lost")
log.info("lost, too")
(folder / "logs").mkdir()
log.info("found")
"""
    (tmp_path / "logs").mkdir()
    write(tmp_path, 'file=folder / "logs" / "log"', body)
    assert "found" in (tmp_path / "logs" / "log").read_text()


def test_a_log_in_the_background_is_private_and_never_grows_without_end(tmp_path: Path) -> None:
    body = """
import allasfs.app.logs as logs
handler = logging.getLogger().handlers[0]
handler.maxBytes = 2000
for number in range(200):
    log.info("line %d", number)
"""
    write(tmp_path, 'background=True, default_file=folder / "deep" / "log"', body)
    names = sorted(path.name for path in (tmp_path / "deep").iterdir())
    assert names == ["log", "log.1"]
    assert "line 199" in (tmp_path / "deep" / "log").read_text()
    assert sum(path.stat().st_size for path in (tmp_path / "deep").iterdir()) < 4200
    assert (tmp_path / "deep").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("level", "priority"),
    [("critical", 2), ("error", 3), ("warning", 4), ("info", 6), ("debug", 7)],
)
def test_the_journal_gets_the_priority_before_each_line(
    tmp_path: Path, level: str, priority: int
) -> None:
    line = f'log.{level}("one", exc_info=ValueError("two"))'
    text = write(tmp_path, 'journal=True, level="debug"', line)
    assert text == f"<{priority}>allasfs.test: one\n<{priority}>  ValueError: two\n"


@pytest.mark.semantics("S3")
def test_a_name_forges_no_line_and_moves_no_cursor(tmp_path: Path) -> None:
    body = """
name = "a\\x1b[2J\\r\\n2026-01-01 00:00:00,000 ERROR allasfs: forged\\u202e\\u2028\\udcff"
log.warning("%s", name)
try:
    raise ValueError(name)
except ValueError:
    log.exception("in the traceback")
"""
    write(tmp_path, 'file=folder / "log"', body)
    text = (tmp_path / "log").read_text(encoding="utf-8")
    assert all(c.isprintable() for c in text.replace("\n", ""))
    assert text.count("forged") == 2
    assert not any(line.startswith("2026-01-01 00:00:00") for line in text.split("\n"))
    assert r"a\x1b[2J\r\n2026" in text
    # Each record has one line that is not indented.
    assert sum(line.startswith("20") for line in text.split("\n")) == 2


@pytest.mark.semantics("S3", "R13")
def test_a_line_of_recover_escapes_a_name_as_the_log_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "a\x1b[2J\t\n\u202e\udcff"
    found = recover.Found(Entry(tmp_path, "1", Note(KEPT, "bucket", name, when=1.0)), None)
    assert f"bucket/{logs.plain(name)}" in found.line().split("\t")
    # By one and the same function.
    monkeypatch.setattr(logs, "plain", lambda text: "escaped")
    assert set(found.line().split("\t")) == {"escaped"}


def test_a_daemon_keeps_its_way_to_the_journal(tmp_path: Path) -> None:
    body = "os.dup2(os.open(os.devnull, os.O_WRONLY), 2); log.info('still here')"
    assert "still here" in write(tmp_path, "journal=True, background=True", body)


def test_a_log_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from allasfs.app.logs import LogSettings, start_logging
from allasfs.errors import UsageError
try:
    start_logging(LogSettings(file=Path(sys.argv[1]) / "missing" / "log"))
except UsageError as exc:
    print(exc)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert str(tmp_path / "missing" / "log") in done.stdout
    assert "--log-file" in done.stdout


def test_sigusr1_writes_the_stacks_of_all_threads(tmp_path: Path) -> None:
    body = """
def sleeper():
    stop.wait()
stop = threading.Event()
thread = threading.Thread(target=sleeper)
thread.start()
os.kill(os.getpid(), signal.SIGUSR1)
stop.set()
thread.join()
log.info("alive")
"""
    write(tmp_path, 'file=folder / "log"', body)
    text = (tmp_path / "log").read_text()
    assert "in sleeper" in text
    assert "Current thread" in text
    assert "alive" in text


def test_stacks_go_to_the_new_file_after_a_rotation(tmp_path: Path) -> None:
    body = """
(folder / "log").rename(folder / "log.1")
log.info("two")
os.kill(os.getpid(), signal.SIGUSR1)
"""
    write(tmp_path, 'file=folder / "log"', body)
    assert "Current thread" in (tmp_path / "log").read_text()


def test_an_error_that_ends_a_thread_is_logged(tmp_path: Path) -> None:
    body = """
thread = threading.Thread(target=lambda: 1 / 0, name="worker")
thread.start()
thread.join()
"""
    text = write(tmp_path, "", body)
    assert re.search(r"ERROR .*thread worker ended with an error", text)
    assert "ZeroDivisionError" in text


def test_the_journal_is_recognised_by_device_and_inode() -> None:
    reader, writer = os.pipe()
    status = os.fstat(writer)
    assert is_journal(f"{status.st_dev}:{status.st_ino}", writer)
    assert not is_journal(f"{status.st_dev}:{status.st_ino + 1}", writer)
    assert not is_journal("", writer)
    os.close(reader)
    os.close(writer)
    assert not is_journal("1:2", writer)


def test_the_place_of_the_log_is_named_for_people(tmp_path: Path) -> None:
    default = tmp_path / "default"
    assert [
        LogSettings(default_file=default).target,
        LogSettings(default_file=default, background=True).target,
        LogSettings(default_file=default, journal=True, background=True).target,
        LogSettings(default_file=default, file=tmp_path / "a", background=True).target,
    ] == ["standard error", str(default), "the journal", str(tmp_path / "a")]
