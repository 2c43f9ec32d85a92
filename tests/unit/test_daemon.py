"""Going to the background: what the caller learns, and what the daemon leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from allasfs.app.daemon import EXIT_INTERNAL, EXIT_INTERRUPTED
from allasfs.errors import MountFailed, SpoolUnusable

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60.0

CALLER = """
import ctypes, json, os, resource, signal, sys, time
from pathlib import Path
from allasfs.app.daemon import Background, harden, in_background
from allasfs.errors import SpoolUnusable

folder = Path(sys.argv[1])
# A test runner in the background of a shell has SIGINT ignored, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

def write(name, content):
    (folder / (name + ".new")).write_text(content)
    (folder / (name + ".new")).rename(folder / name)

def start_logging():
    sys.stderr.write("starting\\n")

def work(ready):
{work}

outcome = in_background(Background(
    start_logging=start_logging, work=work, timeout_s={timeout_s}, log_target="LOG"))
print(json.dumps(outcome), flush=True)
"""


def call(folder: Path, work: str, *, timeout_s: float = PATIENCE_S) -> tuple[int, str]:
    """Run ``work`` in the background; return the outcome that its caller got."""
    body = "\n".join(f"    {line}" for line in work.strip().splitlines())
    script = CALLER.replace("{work}", body).replace("{timeout_s}", str(timeout_s))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=True,
        cwd=ROOT,
    )
    code, line = json.loads(done.stdout)
    return code, line


def wait_for(path: Path) -> str:
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        if path.exists():
            return path.read_text()
        tick.wait(0.01)
    pytest.fail(f"{path} does not appear")


def test_the_caller_returns_when_the_work_is_ready_and_the_work_goes_on(tmp_path: Path) -> None:
    work = """
ready()
while not (folder / "go").exists():
    time.sleep(0.01)
write("done", "yes")
return 0
"""
    assert call(tmp_path, work) == (0, "")
    assert not (tmp_path / "done").exists()
    (tmp_path / "go").touch()
    assert wait_for(tmp_path / "done") == "yes"


def test_an_error_before_readiness_reaches_the_caller_with_its_code(tmp_path: Path) -> None:
    outcome = call(tmp_path, 'raise SpoolUnusable("/x: no room")')
    assert outcome == (SpoolUnusable.exit_code, "/x: no room")


def test_a_fault_of_the_program_reaches_the_caller_with_the_name_of_the_log(
    tmp_path: Path,
) -> None:
    code, line = call(tmp_path, 'raise KeyError("a")')
    assert code == EXIT_INTERNAL
    assert "KeyError" in line
    assert "LOG" in line


def test_a_very_long_line_arrives_in_part(tmp_path: Path) -> None:
    code, line = call(tmp_path, 'raise SpoolUnusable("\\u20ac" * 100_000)')
    assert code == SpoolUnusable.exit_code
    assert line.startswith("\u20ac" * 100)


def test_work_that_ends_before_it_is_ready_is_no_success(tmp_path: Path) -> None:
    code, line = call(tmp_path, "return 0")
    assert code == MountFailed.exit_code
    assert "before it was ready" in line


def test_a_death_without_a_word_is_told(tmp_path: Path) -> None:
    code, line = call(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert code == MountFailed.exit_code
    assert "-9" in line


def test_work_that_is_never_ready_is_killed(tmp_path: Path) -> None:
    work = 'write("pid", str(os.getpid())); time.sleep(1000)'
    code, line = call(tmp_path, work, timeout_s=1)
    assert code == MountFailed.exit_code
    assert "not ready" in line
    pid = int((tmp_path / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_the_daemon_leaves_session_folder_streams_and_descriptors_of_its_caller(
    tmp_path: Path,
) -> None:
    held = os.open(tmp_path / "held", os.O_RDWR | os.O_CREAT)
    os.set_inheritable(held, True)
    work = """
links = [os.readlink(f"/proc/self/fd/{fd}") for fd in (0, 1, 2)]
fds = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{fd}")]
write("facts", json.dumps([os.getsid(0) == os.getpid(), os.getcwd(), links, fds]))
ready()
return 0
"""
    try:
        script_folder = tmp_path
        assert call(script_folder, work) == (0, "")
    finally:
        os.close(held)
    leads, cwd, links, fds = json.loads(wait_for(tmp_path / "facts"))
    assert (leads, cwd, links) == (True, "/", ["/dev/null"] * 3)
    assert str(tmp_path / "held") not in fds


def test_a_hangup_does_not_end_the_daemon(tmp_path: Path) -> None:
    work = """
os.kill(os.getpid(), signal.SIGHUP)
ready()
return 0
"""
    assert call(tmp_path, work) == (0, "")


def test_a_hardened_process_dumps_no_core_and_makes_private_files(tmp_path: Path) -> None:
    work = """
harden()
(folder / "private").touch()
PR_GET_DUMPABLE = 3
dumpable = ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0)
write("facts", json.dumps([resource.getrlimit(resource.RLIMIT_CORE), dumpable]))
ready()
return 0
"""
    assert call(tmp_path, work) == (0, "")
    assert json.loads(wait_for(tmp_path / "facts")) == [[0, 0], 0]
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o600


def test_the_soft_limit_of_descriptors_is_raised_to_the_option_or_the_hard_limit(
    tmp_path: Path,
) -> None:
    work = """
from allasfs.app.daemon import allow_open_files
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1000))
found = []
for count in (500, 65536):
    found += [allow_open_files(count), resource.getrlimit(resource.RLIMIT_NOFILE)]
write("facts", json.dumps(found))
ready()
return 0
"""
    assert call(tmp_path, work) == (0, "")
    assert json.loads(wait_for(tmp_path / "facts")) == [500, [500, 1000], 1000, [1000, 1000]]


def test_ctrl_c_while_waiting_ends_the_daemon_too(tmp_path: Path) -> None:
    work = 'write("pid", str(os.getpid())); time.sleep(1000)'
    script = CALLER.replace("{work}", f"    {work}").replace("{timeout_s}", str(PATIENCE_S))
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as caller:
        pid = int(wait_for(tmp_path / "pid"))
        caller.send_signal(signal.SIGINT)
        output, _ = caller.communicate(timeout=PATIENCE_S)
    assert json.loads(output)[0] == EXIT_INTERRUPTED
    tick = threading.Event()
    for _ in range(int(PATIENCE_S * 100)):
        if not Path(f"/proc/{pid}").exists():
            return
        tick.wait(0.01)
    pytest.fail("the daemon still runs")
