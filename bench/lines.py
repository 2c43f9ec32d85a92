"""The store that is measured, and the line to it."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from swiftclient.client import ClientException, Connection

from allasfs.demo import Cloud, identity
from allasfs.demo.access import Request
from allasfs.demo.credentials import KeyPair

# One for what belongs together, as people have them: a mount shows one of them.
FILES, NAMES, SMALL, CHANGED, *GROWN = BUCKETS = (
    "bench-files",
    "bench-names",
    "bench-small",
    "bench-changed",
    "bench-grown-1",
    "bench-grown-10",
    "bench-grown-50",
)
# Our own questions carry this, so that they are not counted as the client's.
OURS = "bench=ours"
PATIENCE_S = 300.0
# A program ends also when the benchmark is killed.
ENDED_WITH_US = ("setpriv", "--pdeathsig", "TERM")
# As many as two proxies on two cores take at once.
ARCHIVES = 4


@dataclass(frozen=True)
class Line:
    """What lies between the clients and the store."""

    name: str
    title: str
    delay_s: float = 0.0
    bytes_per_s: int = 0


LINES = {
    line.name: line
    for line in (
        Line("loopback", "loopback"),
        Line("slow", "20 ms a request, 80 MB/s a stream", 0.020, 80_000_000),
    )
}


class Site:
    """A store at the end of a line; the benchmark itself reaches it without the line."""

    def __init__(self, cloud: Cloud, line: Line, port: int) -> None:
        """``port`` is where clients reach the store."""
        self.cloud = cloud
        self.line = line
        # Where everything below is done.
        self.bucket = FILES
        self.swift_url = f"http://127.0.0.1:{port}"
        account = urlsplit(cloud.storage_url).path
        self.storage_url = self.swift_url + account
        self.key_pair: KeyPair = cloud.key_pair()
        self.environ = dict(cloud.environ)
        if self.swift_url != cloud.swift_url:
            self.environ["OS_REGION_NAME"] = line.name
            self._publish(line.name)
        self._token = cloud.token()
        self.token = self._token.id
        self._swift = self._connect()

    def _connect(self) -> Connection:
        url, token = self._token.storage_url, self._token.id
        return Connection(preauthurl=url, preauthtoken=token, retries=2, timeout=PATIENCE_S)

    def _publish(self, region: str) -> None:
        """Let the catalogue show the address at the near end of the line, as a region."""
        admin = self.cloud.add_user("bench-admin", "service", role="admin")
        with identity.session(
            admin.auth_url, admin.username, admin.password, admin.project_name
        ) as session:
            identity.publish_store(session, f"{self.swift_url}/v1/AUTH_%(project_id)s", region)

    # -- what is in the store ---------------------------------------------------------------------

    def make(self) -> None:
        """Make the buckets."""
        for bucket in BUCKETS:
            self._swift.put_container(bucket)

    def put_file(self, key: str, path: Path) -> None:
        """Store a file."""
        with path.open("rb") as file:
            self._swift.put_object(
                self.bucket, key, file, content_length=path.stat().st_size, query_string=OURS
            )

    def put_many(self, files: Iterable[tuple[str, bytes]]) -> None:
        """Store small objects, by a few requests at once of an archive each."""
        ordered = list(files)
        with ThreadPoolExecutor(ARCHIVES) as pool:
            list(pool.map(self._put_archive, (ordered[at::ARCHIVES] for at in range(ARCHIVES))))

    def _put_archive(self, files: Sequence[tuple[str, bytes]]) -> None:
        if not files:
            return
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            for key, content in files:
                member = tarfile.TarInfo(key)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        query = f"extract-archive=tar&{OURS}"
        self._connect().put_object(self.bucket, "", packed.getvalue(), query_string=query)

    def names(self, prefix: str) -> list[str]:
        """Return the names of the objects below a prefix."""
        entries = self._swift.get_container(self.bucket, prefix=prefix, query_string=OURS)[1]
        return [entry["name"] for entry in entries]

    def size(self, key: str) -> int:
        """Return the size of an object, also of a large one; -1 while there is none."""
        try:
            headers = self._swift.head_object(self.bucket, key, query_string=OURS)
        except ClientException as exc:
            if exc.http_status != 404:
                raise
            return -1
        return int(headers["content-length"])

    def get(self, key: str) -> bytes:
        """Return an object."""
        content: bytes = self._swift.get_object(self.bucket, key, query_string=OURS)[1]
        return content

    def warm(self, keys: Iterable[str]) -> None:
        """Let the store read these objects once, so that its disk is not what is measured."""
        for key in keys:
            body = self._swift.get_object(
                self.bucket, key, resp_chunk_size=1 << 20, query_string=OURS
            )[1]
            for _ in body:
                pass

    def remove(self, prefix: str) -> None:
        """Remove all objects below a prefix, and their segments if there are any."""
        for bucket in (self.bucket, f"{self.bucket}_segments"):
            try:
                entries = self._swift.get_container(bucket, prefix=prefix, query_string=OURS)[1]
            except ClientException as exc:
                if exc.http_status != 404:
                    raise
                continue
            names = "\n".join(f"{bucket}/{entry['name']}" for entry in entries)
            if names:
                self._swift.post_account(
                    {"content-type": "text/plain", "accept": "application/json"},
                    query_string=f"bulk-delete&{OURS}",
                    data=names.encode(),
                )

    # -- what the clients asked -------------------------------------------------------------------

    def forget_requests(self) -> None:
        """Count from now on."""
        self.cloud.forget_requests()

    def requests(self) -> list[Request]:
        """Return what clients have asked since; what they ask of Keystone is not seen."""
        return [each for each in self.cloud.requests() if OURS not in each.query]


@contextmanager
def site(folder: Path, line: Line) -> Iterator[Site]:
    """Start a store and the line to it."""
    with Cloud(folder) as cloud:
        port = urlsplit(cloud.swift_url).port or 0
        if not line.bytes_per_s:
            yield Site(cloud, line, port)
            return
        with slow_line(port, line) as (near, _):
            yield Site(cloud, line, near)


@contextmanager
def slow_line(port: int, line: Line) -> Iterator[tuple[int, int]]:
    """Run a slow line to a port; yield the port of its near end and its process id."""
    words = ["bench.slow_line", str(port), str(line.delay_s), str(line.bytes_per_s)]
    process = subprocess.Popen(
        [*ENDED_WITH_US, sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield int((process.stdout or sys.stdin).readline()), process.pid
    finally:
        process.kill()
        process.wait()


def without_limits(line: Line) -> Line:
    """Return a line through the same process that slows nothing down."""
    return replace(line, delay_s=0.0, bytes_per_s=0)
