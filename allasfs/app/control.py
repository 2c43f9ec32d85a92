"""The control socket of a running mount: status now, and word of its end for ``umount``.

One JSON object per line in each direction, over a Unix socket in the user's private runtime
folder. ``{"command": "status"}`` and ``sync`` are answered at once, ``recover`` when it is done.
``{"command": "wait"}`` is answered twice: at once with the process id, and with the outcome when
everything is uploaded; then the connection stays open until the process has ended, so its end tells
the end of the process.

A lock file beside the socket belongs to the living process: a socket without that lock is stale.
Only the same user and root are answered, whatever the permissions of the folder have become.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType

from allasfs.errors import AlreadyMounted, MountFailed, NotAnswering

log = logging.getLogger(__name__)

Answer = Mapping[str, object]
# Takes the request, returns the answer.
Command = Callable[[Mapping[str, object]], Answer]

# Requests are a word and a path.
MAX_REQUEST_BYTES = 64 * 1024
# The status of a mount with many pending files is some hundred kilobytes.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
# A process id and the name of a file.
MAX_LOCK_BYTES = 8192
# A client that has connected sends its line at once.
REQUEST_TIMEOUT_S = 5.0
# A person, a script and a monitor at the same time, and some that were forgotten.
MAX_CLIENTS = 16
# How often the server looks whether its socket still has its name: a logout removes the folder.
RENAME_CHECK_S = 10.0
# The pause after a client could not be served, for want of descriptors or threads.
SCARCE_S = 1.0
# How often a waiting connection looks whether its client is still there.
CLIENT_CHECK_S = 1.0
# How often a client that waits for an answer looks whether the process answers others.
LOOK_S = 5.0

# What json makes of bytes that are not a JSON object; the last one of a million brackets.
GARBAGE = (ValueError, TypeError, RecursionError)

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid: unix(7)


class ControlServer:
    """Answers on the socket from ``start()`` to ``close()``, in threads of its own."""

    def __init__(self, path: Path, commands: Mapping[str, Command], log_target: str = "") -> None:
        """``log_target`` is for those whom this process does not answer."""
        self._path = path
        self._commands = commands
        self._log_target = log_target
        self._lock_fd = -1
        self._listener: socket.socket | None = None
        self._stopping = threading.Event()
        self._places = threading.Semaphore(MAX_CLIENTS)
        self._acceptor: threading.Thread | None = None
        self._finished = threading.Event()
        self._outcome: Answer = {}  # set before _finished
        # Leaf lock.
        self._lock = threading.Lock()
        self._waiting: list[threading.Thread] = []  # guarded by _lock

    def start(self) -> None:
        """Own the socket and answer; raise AlreadyMounted while another process answers there."""
        self._lock_fd = _own(_lock_of(self._path), self._log_target)
        listener = self._listener = self._listen()
        self._acceptor = threading.Thread(
            target=self._accept, args=(listener,), name="control", daemon=True
        )
        self._acceptor.start()

    def finish(self, outcome: Answer) -> None:
        """Tell those who wait how the mount ended."""
        self._outcome = outcome
        self._finished.set()
        with self._lock:
            waiting = list(self._waiting)
        for thread in waiting:
            thread.join(REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Answer no more and remove the socket."""
        self._stopping.set()
        if self._acceptor is not None:
            self._wake()
            self._acceptor.join(REQUEST_TIMEOUT_S)
        if self._listener is not None:
            self._listener.close()
            self._path.unlink(missing_ok=True)
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> ControlServer:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- inside -----------------------------------------------------------------------------------

    def _listen(self) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.unlink(missing_ok=True)
            with _short(self._path) as address:
                listener.bind(address)
            self._path.chmod(0o600)
            listener.listen()
        except OSError as exc:
            listener.close()
            raise MountFailed(f"{self._path}: no control socket: {exc.strerror}") from exc
        return listener

    def _wake(self) -> None:
        """Let the thread that waits for connections see that it shall stop."""
        try:
            with _connected(self._path, REQUEST_TIMEOUT_S):
                pass
        except OSError as exc:  # the name is gone: the thread finds out at its next check
            log.debug("control socket: %s", exc)

    def _accept(self, listener: socket.socket) -> None:
        while not self._stopping.is_set():
            if not _is_ready(listener, RENAME_CHECK_S):
                listener = self._renamed(listener)
                continue
            try:
                self._begin(listener)
            except (OSError, RuntimeError) as exc:
                # No descriptor or no thread is left: this thread outlives that, or nobody could
                # ask for the end of the mount any more.
                log.warning("control socket: %s", exc)
                self._stopping.wait(SCARCE_S)

    def _begin(self, listener: socket.socket) -> None:
        """Let a thread serve the next client; raise OSError, RuntimeError."""
        connection, _ = listener.accept()
        if not self._places.acquire(blocking=False):
            connection.close()
            return
        try:
            threading.Thread(
                target=self._serve, args=(connection,), name="control-client", daemon=True
            ).start()
        except RuntimeError:
            self._places.release()
            connection.close()
            raise

    def _renamed(self, listener: socket.socket) -> socket.socket:
        """Return the listener, a new one when its folder was cleared."""
        if self._path.exists():
            return listener
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = self._listen()
        except (OSError, MountFailed) as exc:
            log.debug("control socket: %s", exc)
            return listener
        listener.close()
        self._listener = new
        return new

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(REQUEST_TIMEOUT_S)
            uid = _peer_uid(connection)
            if uid not in (os.geteuid(), 0):
                log.warning("control request of user %d refused", uid)
                return
            request = _read_object(connection, MAX_REQUEST_BYTES)
            if request.get("command") == "wait":
                self._wait(connection)
            else:
                _send(connection, self._answer(request))
        except (OSError, *GARBAGE) as exc:  # a client that went away or talks nonsense
            log.debug("control request: %s", exc)
        finally:
            connection.close()
            self._places.release()

    def _answer(self, request: Mapping[str, object]) -> Answer:
        name = request.get("command")
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None:
            return {"error": f"unknown command {name!r}"}
        try:
            return command(request)
        except Exception as exc:
            log.exception("control command %s failed", name)
            return {"error": f"{name} failed: {exc}"}

    def _wait(self, connection: socket.socket) -> None:
        """Send the outcome when there is one, unless the client leaves before."""
        with self._lock:
            self._waiting.append(threading.current_thread())
        try:
            _send(connection, {"pid": os.getpid()})
            while not self._finished.wait(CLIENT_CHECK_S):
                if _is_gone(connection):
                    return
            _send(connection, self._outcome)
            # The descriptor stays open, without an owner, until the process ends.
            connection.detach()
        finally:
            with self._lock:
                self._waiting.remove(threading.current_thread())


# -- the client -----------------------------------------------------------------------------------


class Connection:
    """A client's side: sends one request, reads answers; trusts only ``owner`` and root."""

    def __init__(self, sock: socket.socket, path: Path, owner: int) -> None:
        self._sock = sock
        self._path = path
        self._owner = owner

    def ask(self, request: Answer, timeout_s: float) -> dict[str, object]:
        """Send a request and return the first answer; raise NotAnswering."""
        with self._in_time(timeout_s):
            self._request(request, timeout_s)
            return self.next(timeout_s)

    def ask_patiently(self, request: Answer, timeout_s: float) -> dict[str, object]:
        """Return an answer that may take any time, while the process answers others.

        Raises NotAnswering.
        """
        with self._in_time(timeout_s):
            self._request(request, timeout_s)
            while not self.has_more(LOOK_S):
                with connect([self._path], self._owner, timeout_s) as other:
                    if other is not None:
                        other.ask({"command": "status"}, timeout_s)
                    elif not self.has_more(timeout_s):
                        raise NotAnswering("the mount's process does not listen any more")
            return self.next(timeout_s)

    @contextlib.contextmanager
    def _in_time(self, timeout_s: float) -> Iterator[None]:
        """Say what can be done when something inside takes too long."""
        try:
            yield
        except TimeoutError as exc:
            line = f"no answer from the mount's process within {timeout_s:g} s"
            to_do = advice(_peer(self._sock)[0], _log_target(self._path, self._owner))
            raise NotAnswering(f"{line}; {to_do}") from exc

    def _request(self, request: Answer, timeout_s: float) -> None:
        if _peer_uid(self._sock) not in (self._owner, 0):
            raise NotAnswering("another user's process has taken the control socket")
        try:
            self._sock.settimeout(timeout_s)
            _send(self._sock, request)
        except TimeoutError:
            raise
        except OSError as exc:
            raise NotAnswering(f"the mount's process does not listen: {exc}") from exc

    def next(self, timeout_s: float | None) -> dict[str, object]:
        """Return the next answer; raise TimeoutError, and NotAnswering when none can come."""
        try:
            self._sock.settimeout(timeout_s)
            return _read_object(self._sock, MAX_ANSWER_BYTES)
        except TimeoutError:
            raise
        except (OSError, *GARBAGE) as exc:
            raise NotAnswering(f"no usable answer from the mount's process: {exc}") from exc

    def has_more(self, timeout_s: float) -> bool:
        """Wait for another answer, or the end; return whether there is one."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        return bool(poll.poll(timeout_s * 1000))

    def announce_end(self, timeout_s: float) -> socket.socket:
        """Return a socket that becomes readable when the mount has ended; raise NotAnswering."""
        self.ask({"command": "wait"}, timeout_s)
        return self._sock

    def wait_for_end(self, timeout_s: float | None) -> None:
        """Return when the process has ended, and its sockets with it; raise TimeoutError."""
        self._sock.settimeout(timeout_s)
        # Nothing but the end is expected; an end without a goodbye is one, too.
        with contextlib.suppress(ConnectionError):
            self._sock.recv(1)

    def close(self) -> None:
        """Hang up."""
        self._sock.close()


@contextlib.contextmanager
def connect(paths: list[Path], owner: int, timeout_s: float) -> Iterator[Connection | None]:
    """Give a connection to the first socket that listens, None when none does."""
    for path in paths:
        try:
            sock = _connected(path, timeout_s)
        except OSError:  # missing, stale or not ours to open: the next one may be it
            continue
        with sock:
            yield Connection(sock, path, owner)
        return
    yield None


def advice(pid: int, log_target: str = "") -> str:
    """Return what a person can do about a process that is stuck."""
    log_is = f"its log is {log_target}; " if log_target else ""
    end = f"'kill -KILL {pid}'" if pid else "SIGKILL"
    return (
        f"{log_is}if it stays so, end it by {end} (what programs have not closed is lost, the next"
        " mount uploads the rest), and then 'allasfs umount' or 'fusermount -uz' takes the mount"
        " away"
    )


def _log_target(path: Path, owner: int) -> str:
    """Return where the process behind a socket logs to, nothing when that is not known."""
    try:
        fd = os.open(_lock_of(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return ""
    try:
        if os.fstat(fd).st_uid not in (owner, 0):
            return ""
        return _read_lock(fd)[1]
    finally:
        os.close(fd)


# -- both sides -----------------------------------------------------------------------------------


def _lock_of(path: Path) -> Path:
    return path.with_suffix(".lock")


def _read_lock(fd: int) -> tuple[str, str]:
    """Return the process id and the target of the log."""
    text = os.pread(fd, MAX_LOCK_BYTES, 0).decode(errors="replace")
    pid, _, log_target = text.partition("\n")
    return pid, log_target.strip()


def _own(path: Path, log_target: str) -> int:
    """Return a descriptor that holds the lock; raise AlreadyMounted, naming who has it."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as exc:
        raise MountFailed(f"{path}: no control socket: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.write(fd, f"{os.getpid()}\n{log_target}\n".encode(errors="surrogateescape"))
    except BlockingIOError as exc:
        pid, _ = _read_lock(fd)
        os.close(fd)
        raise AlreadyMounted(
            f"process {pid} has not finished with this mount point: it is starting, or uploading"
            " what was written; 'allasfs umount' waits for its end"
        ) from exc
    except OSError as exc:
        os.close(fd)
        raise MountFailed(f"{path}: no control socket: {exc.strerror}") from exc
    return fd


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """Give a name of the socket that fits into an address (107 bytes), however long its path."""
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)


def _connected(path: Path, timeout_s: float) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout_s)
        with _short(path) as address:
            sock.connect(address)
    except OSError:
        sock.close()
        raise
    return sock


def _peer(sock: socket.socket) -> tuple[int, int]:
    """Return process id (0: not to be seen from here) and user id of the other side."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


def _peer_uid(sock: socket.socket) -> int:
    return _peer(sock)[1]


def _is_gone(connection: socket.socket) -> bool:
    """Whether the other side has hung up (it has nothing more to say, so any event is that)."""
    return _is_ready(connection, 0)


def _is_ready(sock: socket.socket, timeout_s: float) -> bool:
    """Whether something comes in time; select(2) knows the first 1024 descriptors only."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _send(sock: socket.socket, message: Answer) -> None:
    sock.sendall(json.dumps(message, default=str).encode() + b"\n")


def _read_object(sock: socket.socket, limit: int) -> dict[str, object]:
    """Read one line and return its JSON object; raise OSError or one of GARBAGE."""
    line = bytearray()
    while not line.endswith(b"\n"):
        # One byte more than a line may have would belong to the next message.
        chunk = sock.recv(1 << 16, socket.MSG_PEEK)
        if not chunk:
            raise ConnectionError("the connection ended")
        end = chunk.find(b"\n") + 1 or len(chunk)
        line += sock.recv(end)
        if len(line) > limit:
            raise ValueError(f"more than {limit} bytes in a line")
    message = json.loads(line)
    if not isinstance(message, dict):
        raise TypeError("not a JSON object")
    return message
