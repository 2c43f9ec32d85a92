"""Start, stop, pause and kill the service processes, and own the ports that they listen on."""

import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from allasfs.demo.errors import DemoError, ServiceDied

HOST = "127.0.0.1"

# Two busy cores need up to ten times the usual three seconds before a service is ready.
START_TIMEOUT_S = 120.0

# The kernel takes client ports from its ephemeral range. A server port inside it can be
# taken while the server is down, and a client that tries again and again to reach it can
# even connect to itself. So ports come from below that range.
PORT_SPAN = 12_000
EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")

# As many as a busy test may open at once; Swift's own default.
BACKLOG = 4096


def listen(port: int) -> socket.socket | None:
    """Return a socket that listens on this port of the loopback interface, None if taken."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit these, as Swift would set them.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    try:
        sock.bind((HOST, port))
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        return None
    return sock


def listen_anywhere() -> socket.socket:
    """Return a socket that listens on a free port below the range of client ports."""
    first = int(EPHEMERAL_RANGE.read_text(encoding="ascii").split()[0])
    top = first if first > 1024 + PORT_SPAN else 32_768
    for port in random.sample(range(top - PORT_SPAN, top), 100):
        sock = listen(port)
        if sock is not None:
            return sock
    raise DemoError(f"found no free port of {HOST} below {top}")


def port_of(sock: socket.socket) -> int:
    """Return the local port of a bound socket."""
    return int(sock.getsockname()[1])


class Spawner:
    """One thread that starts all services and lives as long as they may.

    The services ask the kernel to be killed when the thread that started them ends. A
    thread of our own makes that moment close(), or the end of this process, however it
    ends; a caller's thread may end earlier.
    """

    def __init__(self, folder: Path, log_folder: Path, lock_fd: int) -> None:
        """Services run in folder, log to log_folder, and share the lock with this descriptor."""
        self._folder = folder
        self._log_folder = log_folder
        self._lock_fd = lock_fd
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="demo-spawner")

    def spawn(self, name: str, module: str, sock: socket.socket, *settings: str) -> "Service":
        """Start a module of this package as a process; wait_ready() says when it is ready."""
        log = self._log_folder / f"{name}.log"
        ready, ready_fd = os.pipe()
        inherited = [str(sock.fileno()), str(ready_fd), str(os.getpid())]
        try:
            with log.open("ab") as output:
                process = self._thread.submit(
                    subprocess.Popen[bytes],
                    [*_python(module), *inherited, *settings],
                    cwd=self._folder,
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    # The lock on the folder is free again when the last of them is gone.
                    pass_fds=[sock.fileno(), ready_fd, self._lock_fd],
                    # Ctrl-C in the terminal is for us alone: we stop them in good order.
                    start_new_session=True,
                    umask=0o077,  # whatever a service writes is the user's own
                ).result()
        except BaseException:
            os.close(ready)
            raise
        finally:
            os.close(ready_fd)
        return Service(name, process, log, ready)

    def run(self, name: str, module: str, *settings: str) -> None:
        """Run a module of this package as a process to its end; raise ServiceDied if it fails."""
        log = self._log_folder / f"{name}.log"
        with log.open("ab") as output:
            done = subprocess.run(
                [*_python(module), *settings],
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        if done.returncode != 0:
            raise ServiceDied(name, log)

    def close(self) -> None:
        """End the thread, and with it whatever it started and is still running."""
        self._thread.shutdown()


class Service:
    """One running service process."""

    def __init__(
        self, name: str, process: "subprocess.Popen[bytes]", log: Path, ready_fd: int
    ) -> None:
        """The process writes "ready" to the other end of ready_fd's pipe."""
        self.name = name
        self._process = process
        self._log = log
        self._ready_fd = ready_fd

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_ready(self) -> None:
        """Return when the service answers requests; raise ServiceDied if it ended instead."""
        try:
            poll = select.poll()
            poll.register(self._ready_fd, select.POLLIN)
            if not poll.poll(START_TIMEOUT_S * 1000):
                raise DemoError(
                    f"{self.name} is not ready after {START_TIMEOUT_S:.0f} s, see {self._log}"
                )
            if os.read(self._ready_fd, 16) != b"ready":
                self._process.wait()
                raise ServiceDied(self.name, self._log)
        finally:
            self._close_ready_fd()

    def is_alive(self) -> bool:
        """Tell whether the process is still there."""
        return self._process.poll() is None

    def send_kill(self) -> None:
        """Send SIGKILL.

        There is nothing to save first: what a service acknowledged is on disk already, and
        SIGKILL ends a paused process, too.
        """
        self._process.kill()

    def wait(self) -> None:
        """Return when the process has ended."""
        self._process.wait()
        self._close_ready_fd()

    def pause(self) -> None:
        """Send SIGSTOP and return when the process is stopped."""
        self._process.send_signal(signal.SIGSTOP)
        while self.is_alive() and _state(self.pid) != "T":
            time.sleep(0.001)

    def resume(self) -> None:
        """Send SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    def _close_ready_fd(self) -> None:
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
            self._ready_fd = -1


def kill_all(services: Sequence[Service]) -> None:
    """Kill all services at once, then wait for each."""
    for service in services:
        service.send_kill()
    for service in services:
        service.wait()


def _state(pid: int) -> str:
    """Return the state letter of a process, of its main thread."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    return stat.rpartition(")")[2].split()[0]


def _python(module: str) -> list[str]:
    return [sys.executable, "-m", f"allasfs.demo.{module}"]


def _environment() -> Mapping[str, str]:
    """Return the environment for the services: ours without what could mislead them."""
    kept = {
        name: value
        for name, value in os.environ.items()
        # OS_... would configure Keystone, a proxy would get the requests to 127.0.0.1.
        if not name.startswith("OS_") and not name.lower().endswith("_proxy")
    }
    package_parent = str(Path(__file__).resolve().parents[2])
    path = [package_parent, *filter(None, [kept.get("PYTHONPATH")])]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONSAFEPATH": "1",  # nothing in the cloud's folder may be imported
        "PYTHONWARNINGS": "ignore",
        "EVENTLET_NO_GREENDNS": "yes",  # all addresses are numeric
        "TZ": "UTC",
    }
