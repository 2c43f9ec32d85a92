"""A cloud in a folder: a real OpenStack Swift and Keystone on the loopback interface.

All processes, ports and files belong to one Cloud. It ends with stop(), or with the process
that started it, however that ends.
"""

import errno
import fcntl
import importlib.util
import os
import socket
import time
from pathlib import Path
from types import TracebackType

from allasfs.demo import identity, keystone, swift
from allasfs.demo.access import Request, read_requests
from allasfs.demo.build_rings import DEVICE
from allasfs.demo.credentials import (
    ApplicationCredential,
    Credentials,
    KeyPair,
    Token,
    write_rc_file,
)
from allasfs.demo.errors import DemoError, PackagesMissing
from allasfs.demo.process import (
    HOST,
    Service,
    Spawner,
    kill_all,
    listen,
    listen_anywhere,
    port_of,
)
from allasfs.demo.state import State, load_state

PROJECT = "project_2001234"
USER = "tester"
ROLE = "member"

TOKEN_LIFETIME_S = 8 * 3600  # as on Allas

# Proxies, and as many object servers. On two cores a second one brings 15 % with four streams
# (565 to 495 MB/s written, 1200 to 1000 MB/s read) and costs half a second at start.
WORKERS = 2

NEEDED_PACKAGES = ("swift", "keystone", "keystonemiddleware", "waitress")

SERVERS = ("keystone", "cache", "account", "container", "object", "proxy")

STATE_FILE = "state.json"
LOCK_FILE = "lock"

# The services of a cloud whose owner was killed are gone within milliseconds.
LOCK_TIMEOUT_S = 5.0


class Cloud:
    """A cloud in a folder; a context manager that starts and stops it."""

    def __init__(
        self, folder: Path, *, token_lifetime_s: int = TOKEN_LIFETIME_S, workers: int = WORKERS
    ) -> None:
        """Make no change yet; tokens expire token_lifetime_s seconds after they were issued."""
        self.folder = folder.resolve()
        self.rc_file = self.folder / f"{PROJECT}-openrc.sh"
        self.access_log = self.folder / "log" / "access.log"
        self._token_lifetime_s = token_lifetime_s
        self._workers = workers
        self._log_offset = 0
        self._state = State()
        self._lock_fd = -1
        self._spawner: Spawner | None = None
        self._services: dict[str, list[Service]] = {}
        self._credentials: Credentials | None = None

    # --- Life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all services and return when they are ready; raise DemoError if they cannot."""
        if self._spawner is not None:
            raise DemoError(f"the demo cloud in {self.folder} runs already")
        _check_packages()
        _check_folder(self.folder)
        self._lock_fd = _lock(self.folder)
        try:
            self._state = load_state(self.folder / STATE_FILE)
            self._spawner = Spawner(self.folder, self.folder / "log", self._lock_fd)
            self._log_offset = _size(self.access_log)
            self._start_services(self._spawner)
            self._open_for_business()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all services; what they stored stays in the folder."""
        kill_all([service for group in self._services.values() for service in group])
        self._services.clear()
        if self._spawner is not None:
            self._spawner.close()
            self._spawner = None
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def __enter__(self) -> "Cloud":
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def dead_services(self) -> list[str]:
        """Return the names of services that have ended by themselves."""
        services = [service for group in self._services.values() for service in group]
        return [service.name for service in services if not service.is_alive()]

    # --- Where it is, and how to get in -----------------------------------------------------

    @property
    def auth_url(self) -> str:
        """Keystone's address."""
        return keystone.auth_url(self._state.ports["keystone"])

    @property
    def storage_url(self) -> str:
        """The address of the project's account."""
        return f"{self.swift_url}/v1/AUTH_{self.credentials.project_id}"

    @property
    def swift_url(self) -> str:
        """The address of Swift, which is also that of its S3 interface."""
        return f"http://{HOST}:{self._state.ports['proxy']}"

    @property
    def credentials(self) -> Credentials:
        """The user's credentials."""
        if self._credentials is None:
            raise DemoError("the demo cloud has not been started")
        return self._credentials

    @property
    def environ(self) -> dict[str, str]:
        """The variables that the RC file sets."""
        return self.credentials.environ()

    def add_user(self, username: str, project: str, *, role: str = ROLE) -> Credentials:
        """Give a user a role in a project; create what is missing. "member" may do everything."""
        password = self._state.password(username)
        self._state.save(self.folder / STATE_FILE)
        admin = self._state.password("admin")
        with identity.session(self.auth_url, "admin", admin, "admin") as session:
            identity.ensure_user(session, username, password, project, role)
        return identity.look_up(self.auth_url, username, password, project)

    def token(self, credentials: Credentials | None = None) -> Token:
        """Return a new token, with the address of the account that it opens."""
        return identity.new_token(credentials or self.credentials)

    def application_credential(
        self, name: str, credentials: Credentials | None = None
    ) -> ApplicationCredential:
        """Return a new application credential; no two of a user may have the same name."""
        return identity.new_application_credential(credentials or self.credentials, name)

    def key_pair(self, credentials: Credentials | None = None) -> KeyPair:
        """Return a new EC2 key, for the S3 interface at swift_url."""
        return identity.new_key_pair(credentials or self.credentials)

    # --- What its clients asked -------------------------------------------------------------

    def requests(self) -> tuple[Request, ...]:
        """Return the requests that Swift has answered since forget_requests(), or the start.

        A client that has read the status line of an answer finds its request here.
        """
        return read_requests(self.access_log, self._log_offset)

    def forget_requests(self) -> None:
        """Let requests() begin anew."""
        self._log_offset = _size(self.access_log)

    # --- Faults -----------------------------------------------------------------------------

    def kill_swift(self) -> None:
        """Kill the proxy: connections break, new ones are refused until start_swift()."""
        self._kill("proxy")

    def start_swift(self) -> None:
        """Start the proxy again, on the same port."""
        self._start_again("proxy")

    def pause_swift(self) -> None:
        """Stop the proxy: connections are taken, and nothing answers until resume_swift()."""
        self._pause("proxy")

    def resume_swift(self) -> None:
        """Let the proxy go on."""
        self._resume("proxy")

    def kill_keystone(self) -> None:
        """Kill Keystone: connections break, new ones are refused until start_keystone()."""
        self._kill("keystone")

    def start_keystone(self) -> None:
        """Start Keystone again, on the same port."""
        self._start_again("keystone")

    def pause_keystone(self) -> None:
        """Stop Keystone: connections are taken, nothing answers until resume_keystone()."""
        self._pause("keystone")

    def resume_keystone(self) -> None:
        """Let Keystone go on."""
        self._resume("keystone")

    # --- Inside -----------------------------------------------------------------------------

    def _start_services(self, spawner: Spawner) -> None:
        for name in ("etc", "log", "run", f"data/{DEVICE}"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        sockets = {name: self._listen(name) for name in SERVERS}
        try:
            self._state.ports = {name: port_of(sock) for name, sock in sockets.items()}
            settings = self._write_configuration()
            self._state.save(self.folder / STATE_FILE)
            # Keystone needs longest and waits for nobody: everything else starts meanwhile.
            self._spawn(spawner, "keystone", sockets["keystone"])
            if self._state.ring_ports != settings.ring_ports():
                spawner.run("rings", "build_rings", "etc", *settings.ring_ports())
                self._state.ring_ports = settings.ring_ports()
                self._state.save(self.folder / STATE_FILE)
            for name in SERVERS[1:]:
                self._spawn(spawner, name, sockets[name])
        finally:
            for sock in sockets.values():
                sock.close()
        for group in self._services.values():
            for service in group:
                service.wait_ready()

    def _write_configuration(self) -> swift.Settings:
        state = self._state
        settings = swift.Settings(
            hash_suffix=state.hash_suffix,
            account_port=state.ports["account"],
            container_port=state.ports["container"],
            object_port=state.ports["object"],
            cache_port=state.ports["cache"],
            auth_url=self.auth_url,
            admin_password=state.password("admin"),
        )
        etc = self.folder / "etc"
        swift.write_configuration(etc, settings)
        keystone.write_configuration(etc, token_lifetime_s=self._token_lifetime_s)
        return settings

    def _open_for_business(self) -> None:
        """Bring the catalogue up to date, create the user, write the RC file."""
        admin = self._state.password("admin")
        with identity.session(self.auth_url, "admin", admin, "admin") as session:
            account_url = f"{self.swift_url}/v1/AUTH_%(project_id)s"
            identity.publish(session, self.auth_url, account_url)
        self._credentials = self.add_user(USER, PROJECT)
        write_rc_file(self.rc_file, self._credentials)

    def _spawn(self, spawner: Spawner, name: str, sock: socket.socket) -> None:
        spawn = spawner.spawn
        if name == "keystone":
            started = [spawn(name, "serve_keystone", sock, self.auth_url, STATE_FILE)]
        elif name == "cache":
            started = [spawn(name, "cache", sock)]
        else:
            count = self._workers if name in ("proxy", "object") else 1
            started = [spawn(name, "serve_swift", sock, name) for _ in range(count)]
        self._services[name] = started

    def _listen(self, name: str) -> socket.socket:
        port = self._state.ports.get(name)
        return (listen(port) if port else None) or listen_anywhere()

    def _kill(self, name: str) -> None:
        kill_all(self._services.pop(name, []))

    def _start_again(self, name: str) -> None:
        if self._spawner is None or name in self._services:
            raise DemoError(f"{name} of the demo cloud is not down")
        port = self._state.ports[name]
        sock = listen(port)
        if sock is None:
            raise DemoError(f"another program has taken {name}'s port {port} meanwhile")
        with sock:
            self._spawn(self._spawner, name, sock)
        for service in self._services[name]:
            service.wait_ready()

    def _pause(self, name: str) -> None:
        for service in self._services.get(name, []):
            service.pause()

    def _resume(self, name: str) -> None:
        for service in self._services.get(name, []):
            service.resume()


def _check_packages() -> None:
    missing = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(missing)
        raise PackagesMissing(f"the demo cloud needs {names}: pip install '.[demo]' in a checkout")


def _check_folder(folder: Path) -> None:
    """Make the folder if it is missing; refuse one that holds other things or cannot serve."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    names = {path.name for path in folder.iterdir()} - {LOCK_FILE}
    if names and STATE_FILE not in names:
        raise DemoError(f"{folder} is not empty and holds no demo cloud: choose a new folder")
    try:
        os.setxattr(folder, "user.allasfs.demo", b"1")
    except OSError as exc:
        if exc.errno != errno.ENOTSUP:
            raise
        raise DemoError(
            f"{folder} is on a file system without user extended attributes, which Swift"
            " needs: choose a folder on ext4, xfs or btrfs"
        ) from exc


def _lock(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock; raise DemoError if someone else does."""
    fd = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + LOCK_TIMEOUT_S
    while not _try_lock(fd):
        if time.monotonic() > deadline_s:
            os.close(fd)
            raise DemoError(f"another demo cloud runs in {folder}")
        time.sleep(0.02)
    return fd


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
