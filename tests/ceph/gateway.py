"""A real Ceph RADOS Gateway in one folder: what Allas is, as far as a client can tell.

One monitor, one object store daemon that keeps everything in memory, and radosgw, all from the
distribution's packages, on free ports of the loopback interface. The demo cloud's Keystone knows
the users; the gateway is the object store of a region of its own there. A Ceph that the machine
runs has other ports, another configuration and another identity, and is never spoken to.
"""

from __future__ import annotations

import http.client
import itertools
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType

from allasfs.demo import Cloud, Credentials, DemoError, KeyPair, Request, Token, identity
from allasfs.demo.process import HOST, listen_anywhere, port_of
from tests.ceph import access, conf
from tests.ceph.daemon import Daemon, run

PROGRAMS = (
    "ceph-mon",
    "monmaptool",
    "ceph-osd",
    "radosgw",
    "radosgw-admin",
    "ceph",
    "setpriv",
)
PACKAGES = "ceph-mon, ceph-osd, radosgw, ceph-common"
REGION = "regionCeph"
START_TIMEOUT_S = 120.0
LOG_TIMEOUT_S = 10.0


def missing_programs() -> list[str]:
    """Return which programs of PACKAGES are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Gateway:
    """A running gateway; a context manager that starts and stops it.

    It has the same methods as Cloud where both can do the same.
    """

    def __init__(self, folder: Path, cloud: Cloud, region: str = REGION) -> None:
        """Make no change yet; ``cloud`` runs longer than this, and has one store in a region."""
        self._region = region
        self.folder = folder.resolve()
        self._cloud = cloud
        self._daemons: dict[str, Daemon] = {}
        self._port = 0
        self._log = self.folder / "log" / "radosgw.log"
        self._log_offset = 0
        self._marks = itertools.count(1)

    # --- Life -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start everything and return when the gateway answers; raise DemoError."""
        for name in ("log", "mon", "osd", "run", "crash"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "keyring").touch()
        try:
            self._start_cluster()
            self.start_swift()
        except BaseException:
            self.stop()
            raise
        self._publish()

    def _start_cluster(self) -> None:
        # The gateway asks Keystone about tokens as this user.
        service = self._cloud.add_user("radosgw", "service", role="admin")
        settings = conf.Settings(self.folder, str(uuid.uuid4()), _free_port(), service)
        path = self.folder / "ceph.conf"
        path.touch(mode=0o600)
        path.write_text(conf.text(settings), encoding="ascii")
        monitor = f"[v2:{HOST}:{settings.mon_port}/0]"
        run(
            self.folder,
            ["monmaptool", "--create", "--fsid", settings.fsid, "--addv", "a", monitor, "monmap"],
        )
        run(self.folder, self._program("ceph-mon", "-i", "a", "--mkfs", "--monmap", "monmap"))
        self._spawn("mon", "ceph-mon", "-i", "a", "-f")
        osd_uuid = str(uuid.uuid4())
        run(self.folder, self._program("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd_uuid))
        run(self.folder, self._program("ceph", "--connect-timeout", "60", "osd", "new", osd_uuid))
        self._spawn("osd", "ceph-osd", "-i", "0", "-f")
        self._port = _free_port()

    def _publish(self) -> None:
        """Enter the gateway in Keystone's catalogue."""
        service = self._cloud.add_user("radosgw", "service", role="admin")
        url = f"{self.swift_url}/v1/AUTH_%(project_id)s"
        with identity.session(
            service.auth_url, service.username, service.password, service.project_name
        ) as session:
            identity.publish_store(session, url, self._region)

    def stop(self) -> None:
        """End all daemons. What they stored was in memory; the logs stay."""
        for daemon in reversed(self._daemons.values()):
            daemon.kill()
        self._daemons.clear()
        for name in ("mon", "osd", "run", "crash"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def __enter__(self) -> Gateway:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    # --- Where it is, and how to get in -----------------------------------------------------

    @property
    def swift_url(self) -> str:
        """The address of the Swift interface."""
        return f"http://{HOST}:{self._port}/swift"

    @property
    def s3_url(self) -> str:
        """The address of the S3 interface."""
        return f"http://{HOST}:{self._port}"

    @property
    def storage_url(self) -> str:
        """The address of the project's account."""
        return f"{self.swift_url}/v1/AUTH_{self.credentials.project_id}"

    @property
    def credentials(self) -> Credentials:
        """The user's credentials, with the gateway's region."""
        return replace(self._cloud.credentials, region=self._region)

    @property
    def environ(self) -> dict[str, str]:
        """The variables that OpenStack's programs read."""
        return self.credentials.environ()

    def add_user(self, username: str, project: str, *, role: str = "member") -> Credentials:
        """Give a user a role in a project; create what is missing."""
        return replace(self._cloud.add_user(username, project, role=role), region=self._region)

    def token(self, credentials: Credentials | None = None) -> Token:
        """Return a new token, with the address of the account that it opens."""
        return self._cloud.token(credentials or self.credentials)

    def set_quota(self, project_id: str, *, size: int = -1, objects: int = -1) -> None:
        """Limit what the account of a project may hold, which has been used once; -1: nothing."""
        scope = ("--quota-scope=user", f"--uid={project_id}")
        limits = (f"--max-size={size}", f"--max-objects={objects}")
        for words in (("quota", "set", *scope, *limits), ("quota", "enable", *scope)):
            run(self.folder, self._program("radosgw-admin", *words))

    def key_pair(self, credentials: Credentials | None = None) -> KeyPair:
        """Return a new key for the S3 interface."""
        return self._cloud.key_pair(credentials)

    # --- What its clients asked -------------------------------------------------------------

    def requests(self) -> tuple[Request, ...]:
        """Return the requests that the gateway has answered since forget_requests().

        It writes a request's line after the answer, so that a client may be quicker. Two requests
        of our own, one after the other, come behind every line that is on its way.
        """
        for _ in range(2):
            self._mark()
        found = access.read(self._log, self._log_offset)
        return tuple(request for request in found if not request.query.startswith("mark="))

    def forget_requests(self) -> None:
        """Let requests() begin anew."""
        self.requests()
        self._log_offset = self._log.stat().st_size

    def _mark(self) -> None:
        mark = f"mark={next(self._marks)}"
        self._ask(f"/swift/info?{mark}", self._port)
        _wait(
            lambda: any(each.query == mark for each in access.read(self._log, self._log_offset)),
            f"{mark} in {self._log}",
            LOG_TIMEOUT_S,
        )

    def _ask(self, path: str, port: int) -> int:
        connection = http.client.HTTPConnection(HOST, port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()

    # --- Faults -----------------------------------------------------------------------------

    def stop_swift(self) -> None:
        """Stop the gateway: connections break, new ones are refused until start_swift().

        In good order, because the others would wait for a dead one's part in changes of buckets.
        """
        self._daemons.pop("radosgw").stop()

    def start_swift(self) -> None:
        """Start the gateway, again on the same port."""
        self._start_gateway("radosgw", self._port)

    @contextmanager
    def another(self, *, request_timeout_ms: int) -> Iterator[str]:
        """Run another gateway to the same data; yield its Swift address.

        It closes a connection on which nothing moves for request_timeout_ms (Ceph: 65 s).
        """
        port = _free_port()
        self._start_gateway("another", port, f"request_timeout_ms={request_timeout_ms}")
        yield f"http://{HOST}:{port}/swift"
        self._daemons.pop("another").stop()

    def _start_gateway(self, name: str, port: int, *settings: str) -> None:
        frontend = " ".join(["beast", f"endpoint={HOST}:{port}", "tcp_nodelay=1", *settings])
        log = self.folder / "log" / f"{name}.log"
        words = ["-f", "-n", conf.GATEWAY, f"--log-file={log}", f"--rgw-frontends={frontend}"]
        self._spawn(name, "radosgw", *words)

        def is_up() -> bool:
            for each in self._daemons.values():
                each.check()
            try:
                return self._ask("/swift/info", port) == 200
            except OSError:
                return False

        _wait(is_up, f"{name} answers", START_TIMEOUT_S)

    def pause_swift(self) -> None:
        """Stop the gateway: connections are taken, and nothing answers until resume_swift()."""
        self._daemons["radosgw"].pause()

    def resume_swift(self) -> None:
        """Let the gateway go on."""
        self._daemons["radosgw"].resume()

    # --- Inside -----------------------------------------------------------------------------

    def _program(self, name: str, *words: str) -> Sequence[str]:
        return [name, "-c", str(self.folder / "ceph.conf"), *words]

    def _spawn(self, name: str, program: str, *words: str) -> Daemon:
        daemon = Daemon(self.folder, name, self._program(program, *words))
        self._daemons[name] = daemon
        return daemon


def _free_port() -> int:
    """Return a port that was free a moment ago; Ceph's programs take over no sockets."""
    with listen_anywhere() as sock:
        return port_of(sock)


def _wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
    deadline_s = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline_s:
            raise DemoError(f"still not after {seconds:g} s: {what}")
        time.sleep(0.02)
