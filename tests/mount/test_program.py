"""The program on real mounts: start, exit codes, every way to end, and what status tells."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import missing

from .support import (
    PATIENCE_S,
    Served,
    clean_environ,
    is_mounted,
    mount_command,
    refused,
    run,
    unmount_lazily,
    wait_until,
)

MakeMount = Callable[..., Served]
PROGRAM = (sys.executable, "-m", "allasfs")


class Program:
    """Runs the program in the background, as users do; knows what it has mounted."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.path = folder / "mnt"
        self.path.mkdir()
        self.environ = environ
        self.pids: set[int] = set()

    def __call__(self, *args: str | Path, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return run(*PROGRAM, *args, env={**self.environ, **environ})

    def mount(self, *args: str | Path) -> None:
        """Mount, which must succeed without a word."""
        done = self("mount", *args, self.path)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        self.pid()

    def status(self) -> dict[str, object]:
        """Return what ``status --json`` prints."""
        done = self("status", "--json", self.path)
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def pid(self) -> int:
        """Return the process that serves the mount."""
        pid = self.status()["pid"]
        assert isinstance(pid, int)
        self.pids.add(pid)
        return pid

    def refusal(self, code: int, *args: str | Path, **environ: str) -> str:
        """Run a command, which must end with the code and one line; return the line."""
        done = self(*args, **environ)
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        assert re.fullmatch(r"allasfs: [^\n]+\n", done.stderr), done.stderr
        return done.stderr

    def log(self) -> str:
        """Return the log of the mount in the background."""
        logs = list((self.folder / ".local/state/allasfs/log").glob("*.log"))
        return "".join(log.read_text() for log in logs)

    def clean_up(self) -> None:
        """Leave no mount and no process."""
        if is_mounted(self.path):
            unmount_lazily(self.path)
        for pid in self.pids:
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    """Whether a process lives; one that is dead and not yet waited for does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture
def program(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None, cloud: Cloud
) -> Iterator[Program]:
    folder = tmp_path_factory.mktemp("p")
    one = Program(folder, clean_environ(folder, cloud.environ))
    yield one
    one.clean_up()


@pytest.fixture
def stopped_swift(cloud: Cloud) -> Iterator[Cloud]:
    """Give the cloud, whose proxy a test may kill."""
    yield cloud
    cloud.start_swift()


# -- start ----------------------------------------------------------------------------------------


def test_mount_returns_when_the_mount_answers(program: Program, bucket: str) -> None:
    program.mount()
    assert bucket in os.listdir(program.path)


def test_a_bucket_is_mounted_alone(program: Program, swift: Connection, bucket: str) -> None:
    swift.put_object(bucket, "dir/file", b"x")
    program.mount(bucket)
    assert os.listdir(program.path) == ["dir"]
    assert (program.path / "dir" / "file").read_bytes() == b"x"


def test_a_folder_of_a_bucket_is_mounted_alone(
    program: Program, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "dir/sub/file", b"x")
    swift.put_object(bucket, "other", b"y")
    program.mount(f"{bucket}/dir/sub")
    assert os.listdir(program.path) == ["file"]
    (program.path / "new").write_bytes(b"z")
    assert swift.get_object(bucket, "dir/sub/new")[1] == b"z"


def test_a_read_only_mount_refuses_changes(
    program: Program, swift: Connection, bucket: str
) -> None:
    swift.put_object(bucket, "file", b"x")
    program.mount("-o", "ro", bucket)
    with refused(errno.EROFS):
        (program.path / "file").write_bytes(b"y")
    assert (program.path / "file").read_bytes() == b"x"


def test_restrictions_of_fstab_are_the_kernels(program: Program) -> None:
    program.mount("-o", "noexec,_netdev,nofail,x-systemd.automount")
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    (line,) = [line for line in lines if f" {program.path} " in line]
    assert "noexec" in line.split()[5].split(",")


def test_mount_calls_the_helper_with_source_and_directory(
    program: Program, bucket: str, swift: Connection
) -> None:
    swift.put_object(bucket, "file", b"x")
    script = "import sys; from allasfs.app.cli import mount_helper; sys.exit(mount_helper())"
    words = (bucket, program.path, "-n", "-o", "rw,_netdev,ttl=5")
    done = run(sys.executable, "-c", script, *words, env=program.environ)
    assert (done.returncode, done.stderr) == (0, "")
    program.pid()
    assert os.listdir(program.path) == ["file"]


def test_the_daemon_logs_into_the_users_state_folder_and_no_secrets(
    program: Program, cloud: Cloud, bucket: str
) -> None:
    program.mount("--log-level", "debug")
    (program.path / bucket / "file").write_bytes(b"x")
    assert f"mounted the whole project at {program.path}" in program.log()
    assert cloud.credentials.password not in program.log()
    token = re.search(r"gAAAAA[\w-]{20,}", program.log())
    assert token is None


# -- exit codes -----------------------------------------------------------------------------------


def test_a_second_mount_at_the_same_place_ends_with_5(program: Program) -> None:
    program.mount()
    assert f"allasfs umount {program.path}" in program.refusal(5, "mount", program.path)


def test_mount_point_checks_pass_by_a_mount_that_hangs(program: Program) -> None:
    program.mount()
    pid = program.pid()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert "is mounted here" in program.refusal(5, "mount", program.path)
        assert "no answer" in program.refusal(19, "status", program.path)
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.semantics("H2")
def test_umount_and_status_of_a_stuck_process_say_what_to_do(program: Program) -> None:
    program.mount()
    pid, log_file = program.pid(), program.status()["log"]
    os.kill(pid, signal.SIGSTOP)
    try:
        for command in ("status", "umount"):
            line = program.refusal(19, command, program.path)
            assert f"{program.path}: no answer" in line
            assert f"its log is {log_file};" in line
            assert f"'kill -KILL {pid}'" in line
        assert is_mounted(program.path)
    finally:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the process has ended")
    assert program("umount", program.path).returncode == 0
    assert not is_mounted(program.path)


def namespaced(program: Program, cover: str) -> str:
    """Mount where something covers /dev/fuse; return the exit code and the line."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        missing("needs root and unshare, to cover /dev/fuse in a namespace of its own")
    words = [*PROGRAM, "mount", str(program.path)]
    script = f'{cover} && exec "$@"'
    done = run(
        "unshare",
        "--mount",
        "--propagation",
        "unchanged",
        "sh",
        "-ec",
        script,
        "sh",
        *words,
        env=program.environ,
    )
    assert done.stderr.count("\n") == 1, done.stderr
    return f"{done.returncode} {done.stderr}"


def test_a_missing_fuse_device_ends_with_6(program: Program) -> None:
    line = namespaced(program, "mount -t tmpfs none /dev")
    assert line.startswith("6 ")
    assert "/dev/fuse" in line


def test_a_fuse_device_that_is_none_ends_with_14_and_libfuses_own_words(program: Program) -> None:
    line = namespaced(program, "mount --bind /dev/null /dev/fuse")
    assert line.startswith("14 ")
    assert "fuse" in line.lower()


def test_a_libfuse_that_cannot_be_loaded_ends_with_7_and_how_to_install_it(
    program: Program,
) -> None:
    line = program.refusal(7, "mount", program.path, FUSE_LIBRARY_PATH="/does/not/exist.so")
    assert "apt install libfuse2" in line


def test_a_wrong_password_ends_with_9(program: Program) -> None:
    program.refusal(9, "mount", program.path, OS_PASSWORD="wrong")
    assert not is_mounted(program.path)


def test_missing_credentials_end_with_9(program: Program) -> None:
    names = [name for name in program.environ if name.startswith("OS_")]
    for name in names:
        del program.environ[name]
    program.refusal(9, "mount", program.path)


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Give a port of this computer on which nobody listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_an_identity_service_that_is_down_ends_with_10(program: Program, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/v3"
    assert str(closed_port) in program.refusal(
        10, "mount", "--timeout=2", program.path, OS_AUTH_URL=url
    )


def test_a_store_that_is_down_ends_with_10(program: Program, closed_port: int) -> None:
    url = f"http://127.0.0.1:{closed_port}/v1/AUTH_x"
    program.refusal(10, "mount", "--timeout=2", f"--storage-url={url}", program.path)


def test_a_missing_bucket_ends_with_11(program: Program) -> None:
    assert "'no-such-bucket'" in program.refusal(11, "mount", "no-such-bucket", program.path)


def test_a_spool_of_another_mount_ends_with_13(program: Program, mount: MakeMount) -> None:
    other = mount(spool_dir=program.folder / "spool")
    other.allow("spool")
    spool = f"--spool-dir={program.folder / 'spool'}"
    assert "in use" in program.refusal(13, "mount", spool, program.path)
    assert not is_mounted(program.path)


def test_a_spool_that_cannot_be_a_folder_ends_with_13(program: Program) -> None:
    (program.folder / "file").touch()
    spool = f"--spool-dir={program.folder / 'file'}"
    program.refusal(13, "mount", spool, program.path)
    assert not is_mounted(program.path)


def test_a_failure_in_the_foreground_has_the_same_code_and_line(program: Program) -> None:
    done = program("mount", "--foreground", "no-such-bucket", program.path)
    assert done.returncode == 11
    last = done.stderr.splitlines()[-1]
    assert last.startswith("allasfs: bucket 'no-such-bucket'")
    assert "Traceback" not in done.stderr


# -- the end --------------------------------------------------------------------------------------


def end_by_signal(number: signal.Signals) -> Callable[[Program, int], None]:
    return lambda program, pid: os.kill(pid, number)


def end_by_fusermount(program: Program, pid: int) -> None:
    assert run("fusermount", "-u", program.path).returncode == 0


def end_by_umount(program: Program, pid: int) -> None:
    done = program("umount", program.path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not is_running(pid)


@pytest.mark.parametrize(
    "end",
    [
        end_by_signal(signal.SIGTERM),
        end_by_signal(signal.SIGINT),
        end_by_fusermount,
        end_by_umount,
    ],
    ids=["SIGTERM", "SIGINT", "fusermount", "umount"],
)
def test_every_way_to_end_stores_what_was_written_and_leaves_nothing(
    program: Program,
    swift: Connection,
    bucket: str,
    end: Callable[[Program, int], None],
) -> None:
    program.mount()
    pid = program.pid()
    (program.path / bucket / "file").write_bytes(b"written")
    end(program, pid)
    wait_until(lambda: not is_running(pid), "the process has ended")
    assert not is_mounted(program.path)
    assert swift.get_object(bucket, "file")[1] == b"written"
    assert "0 files not uploaded" in program.log()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stores_even_what_is_still_open(
    mount: MakeMount, swift: Connection, bucket: str, number: signal.Signals
) -> None:
    served = mount()
    fd = os.open(served.path / bucket / "file", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"not closed yet")
    served.process.send_signal(number)
    assert served.process.wait(PATIENCE_S) == 0
    # The program that had it open learns that its file system is gone.
    with refused(errno.ENOTCONN):
        os.close(fd)
    assert swift.get_object(bucket, "file")[1] == b"not closed yet"


def test_a_busy_mount_is_not_unmounted_and_goes_on(program: Program, bucket: str) -> None:
    program.mount()
    with (program.path / bucket / "file").open("wb") as file:
        assert "busy" in program.refusal(15, "umount", program.path)
        file.write(b"x")
    assert (program.path / bucket / "file").read_bytes() == b"x"
    assert program("umount", program.path).returncode == 0


def test_what_could_not_be_stored_is_named_at_the_end_and_kept(
    program: Program, bucket: str, stopped_swift: Cloud
) -> None:
    program.mount("--timeout=2", f"--spool-dir={program.folder / 'spool'}")
    file = (program.path / bucket / "file").open("wb", buffering=0)
    file.write(b"precious")
    stopped_swift.kill_swift()
    with refused(errno.EIO, errno.ETIMEDOUT):
        file.close()
    done = program("umount", program.path)
    assert done.returncode == 15
    assert f"{bucket}/file" in done.stderr
    assert "Traceback" not in done.stderr
    kept = [path.read_bytes() for path in (program.folder / "spool").glob("*.data")]
    assert kept == [b"precious"]


@pytest.mark.semantics("H2")
def test_uploads_that_take_longer_than_the_wait_go_on(
    program: Program, swift: Connection, bucket: str, cloud: Cloud
) -> None:
    program.mount()
    pid = program.pid()
    fd = os.open(program.path / bucket / "file", os.O_WRONLY | os.O_CREAT)
    os.write(fd, b"late")
    cloud.pause_swift()
    try:
        os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not is_mounted(program.path), "unmounted")
        line = program.refusal(15, "umount", "--wait=0.2", program.path)
        assert f"process {pid} still uploads after 0.2 s ({bucket}/file)" in line
        assert "has not finished" in program.refusal(5, "mount", program.path)
    finally:
        cloud.resume_swift()
    # It waits for the upload, or (12) finds that everything is over already.
    assert program("umount", program.path).returncode in (0, 12)
    wait_until(lambda: not is_running(pid), "the process has ended")
    with refused(errno.ENOTCONN):
        os.close(fd)
    assert swift.get_object(bucket, "file")[1] == b"late"


@pytest.mark.semantics("H3")
def test_the_mount_of_a_killed_process_is_told_and_removed(program: Program) -> None:
    program.mount()
    pid = program.pid()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the process has ended")
    with refused(errno.ENOTCONN, errno.ECONNABORTED):
        os.listdir(program.path)
    assert f"allasfs umount {program.path}" in program.refusal(18, "status", program.path)
    done = program("umount", program.path)
    assert done.returncode == 0
    assert "removed the mount of a process that had ended" in done.stderr
    assert not is_mounted(program.path)
    program.mount()


# -- while it runs --------------------------------------------------------------------------------


def test_status_tells_what_is_mounted_and_no_secret(
    program: Program, cloud: Cloud, bucket: str
) -> None:
    program.mount("-o", "ro", bucket)
    done = program("status", program.path)
    assert done.returncode == 0
    assert f"mounted: {bucket}\n" in done.stdout
    assert "read only: True" in done.stdout
    assert cloud.credentials.project_name in done.stdout
    assert cloud.credentials.password not in done.stdout
    assert "gAAAAA" not in done.stdout
    answer = program.status()
    assert answer["mount_point"] == str(program.path)
    assert is_running(int(str(answer["pid"])))


def test_the_control_socket_is_for_its_user_alone(program: Program) -> None:
    program.mount()
    (sock,) = (program.folder / "allasfs").glob("*.sock")
    assert stat.S_IMODE(sock.parent.stat().st_mode) == 0o700
    assert program("umount", program.path).returncode == 0
    assert not sock.exists()


def test_sigusr1_writes_the_stacks_of_all_threads_into_the_log(program: Program) -> None:
    program.mount()
    os.kill(program.pid(), signal.SIGUSR1)
    wait_until(lambda: "Current thread" in program.log(), "the stacks are in the log")
    assert os.listdir(program.path) is not None


def test_readiness_is_notified_when_the_mount_answers(
    program: Program, served: MakeMount, cloud: Cloud, bucket: str
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(PATIENCE_S)
        manager.bind(str(program.folder / "notify"))
        one = Served(
            program.folder,
            mount_command("", {}),
            {**program.environ, "NOTIFY_SOCKET": str(program.folder / "notify")},
        )
        one.launch()
        try:
            assert manager.recv(1000).decode().splitlines()[0] == "READY=1"
            assert bucket in os.listdir(one.path)
        finally:
            assert one.stop() == 0
        assert manager.recv(1000).decode().splitlines()[0] == "STOPPING=1"


# -- demo -----------------------------------------------------------------------------------------


def test_the_demo_mounts_a_cloud_of_its_own_until_ctrl_c(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None
) -> None:
    folder = tmp_path_factory.mktemp("d")
    (folder / "mnt").mkdir()
    (folder / "tmp").mkdir()
    # What leads to a real project must not count.
    environ = clean_environ(folder, {"OS_AUTH_URL": "http://x", "TMPDIR": str(folder / "tmp")})
    with subprocess.Popen(
        [*PROGRAM, "demo", str(folder / "mnt"), "-o", "ttl=1"],
        env=environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stdout is not None
        text = ""
        while "Ctrl-C" not in text:
            line = demo.stdout.readline()
            assert line, text
            text += line
        (folder / "mnt" / "bucket").mkdir()
        (folder / "mnt" / "bucket" / "file").write_bytes(b"x")
        rc_file = re.search(r"^ *\. (\S+)$", text, re.MULTILINE)
        assert rc_file is not None
        swift_list = f". {rc_file[1]} && python -m swiftclient.shell list"
        path = f"{Path(sys.executable).parent}:{environ['PATH']}"
        listed = run("bash", "-c", swift_list, env={"PATH": path})
        assert listed.stdout == "bucket\n", listed.stderr
        began = time.monotonic()
        demo.send_signal(signal.SIGINT)
        assert demo.wait(PATIENCE_S) == 0, time.monotonic() - began
    assert not is_mounted(folder / "mnt")
    assert list((folder / "tmp").glob("allasfs-demo-*")) == []


# ``allasfs mount``, whose process dies when the kernel has the mount already.
DIES = """
import os, signal, sys
from allasfs.app import cli
from allasfs.fs.vfs import Vfs
Vfs.start = lambda self: os.kill(os.getpid(), signal.SIGKILL)
sys.exit(cli.main(["mount", sys.argv[1]]))
"""


def test_a_process_that_dies_while_it_starts_leaves_no_dead_mount(program: Program) -> None:
    done = run(sys.executable, "-c", DIES, program.path, env=program.environ)
    assert (done.returncode, done.stdout) == (14, "")
    assert "the process ended with status -9" in done.stderr
    assert not is_mounted(program.path)
    # As a service that is started again wants it.
    program.mount()
    assert program("umount", program.path).returncode == 0


# ``allasfs umount``; somebody else is faster, between its look and its deed.
OVERTAKEN = """
import subprocess, sys
from allasfs.app import cli, unmounting
unmount = unmounting.unmount
def late(path, **how):
    subprocess.run(["fusermount", "-u", path], check=True)
    unmount(path, **how)
unmounting.unmount = late
sys.exit(cli.main(["umount", sys.argv[1]]))
"""


@pytest.mark.semantics("H2")
def test_a_mount_that_somebody_else_unmounts_at_the_same_moment_is_waited_for(
    program: Program, swift: Connection, bucket: str
) -> None:
    program.mount()
    pid = program.pid()
    (program.path / bucket / "file").write_bytes(b"written")
    done = run(sys.executable, "-c", OVERTAKEN, program.path, env=program.environ)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_running(pid)
    assert swift.get_object(bucket, "file")[1] == b"written"
