"""What all tests share: a demo cloud, mounts, and the rules that no test may break unnoticed."""

from __future__ import annotations

import ctypes.util
import importlib.util
import itertools
import logging
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from allasfs.demo.cloud import NEEDED_PACKAGES
from tests.ceph.gateway import PACKAGES, Gateway, missing_programs
from tests.fakes.clock import FakeClock
from tests.mount.support import (
    Served,
    clean_environ,
    connect,
    mount_command,
    quiet,
    served_all_along,
    watched,
)

MakeMount = Callable[..., Served]

# Threads that a test has ended may need a moment to be gone.
THREAD_PATIENCE_S = 5.0
# They belong to a fixture of the whole session or module, which ends them.
LASTING_THREADS = ("demo-spawner", "fault-proxy")

hypothesis.settings.register_profile(
    "quick", deadline=None, derandomize=True, max_examples=60, print_blob=True
)
hypothesis.settings.register_profile("long", deadline=None, max_examples=5000, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))


def missing(what: str) -> None:
    """Skip a test that cannot run here; where everything must be tested, fail instead."""
    if os.environ.get("CI"):
        pytest.fail(f"{what}: nothing may be skipped here")
    pytest.skip(what)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let no run succeed that has skipped something where everything must be tested."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


class ExpectedLogs(logging.Handler):
    """Records of WARNING and above; call it with a regular expression to expect one."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._patterns: list[str] = []
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record as a line."""
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")

    def __call__(self, pattern: str) -> None:
        """Expect one or more records that the pattern is found in."""
        self._patterns.append(pattern)

    def verdict(self) -> str:
        """Return what is wrong, or nothing."""
        faults = [
            f"logged: {line}"
            for line in self.lines
            if not any(re.search(pattern, line) for pattern in self._patterns)
        ]
        faults += [
            f"not logged: {pattern}"
            for pattern in self._patterns
            if not any(re.search(pattern, line) for line in self.lines)
        ]
        return "\n".join(faults)


@pytest.fixture(autouse=True)
def expected_logs() -> Iterator[ExpectedLogs]:
    """Fail a test that logs a WARNING, or anything above, which it did not announce."""
    logs = ExpectedLogs()
    root = logging.getLogger()
    root.addHandler(logs)
    yield logs
    root.removeHandler(logs)
    if verdict := logs.verdict():
        pytest.fail(verdict, pytrace=False)


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """Fail a test that leaves a thread behind."""
    before = set(threading.enumerate())
    yield
    left = [
        thread
        for thread in set(threading.enumerate()) - before
        if not thread.name.startswith(LASTING_THREADS)
    ]
    for thread in left:
        thread.join(THREAD_PATIENCE_S)
    alive = [thread.name for thread in left if thread.is_alive()]
    if alive:
        pytest.fail(f"threads left behind: {', '.join(alive)}", pytrace=False)


@pytest.fixture
def clock() -> FakeClock:
    """A clock that stands still."""
    return FakeClock()


@pytest.fixture(scope="session")
def demo_cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A real OpenStack Swift and Keystone on loopback, for the whole session."""
    absent = [name for name in NEEDED_PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        missing(f"needs {', '.join(absent)}: install allasfs[demo]")
    with Cloud(Path(tmp_path_factory.mktemp("cloud")) / "folder") as cloud:
        yield cloud


@pytest.fixture(scope="session")
def cloud(demo_cloud: Cloud) -> Cloud:
    """The server of most tests; tests/rgw has another one under this name."""
    return demo_cloud


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory, demo_cloud: Cloud) -> Iterator[Gateway]:
    """A real Ceph RADOS Gateway on loopback, with the cloud's Keystone, for the whole session."""
    absent = missing_programs()
    if absent:
        missing(f"needs {', '.join(absent)}, of the packages {PACKAGES}")
    with Gateway(Path(tmp_path_factory.mktemp("ceph")) / "folder", demo_cloud) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def prerequisites() -> None:
    """Skip where nothing can be mounted; fail where everything must be tested."""
    absent = [
        name
        for name, is_there in (
            ("/dev/fuse", os.access("/dev/fuse", os.R_OK | os.W_OK)),
            ("libfuse 2", ctypes.util.find_library("fuse") is not None),
            ("fusermount", shutil.which("fusermount") is not None),
        )
        if not is_there
    ]
    if absent:
        missing(f"a mount needs {', '.join(absent)}")


@pytest.fixture(scope="session")
def fine_grained(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None, cloud: Cloud
) -> Iterator[Served]:
    """One mount for the session, in which files of a few MiB are large objects."""
    options = {"segment_threshold": "2M", "segment_size": "1M", "memory": "16M"}
    with served_all_along(tmp_path_factory.mktemp("m"), cloud, connections=4, **options) as one:
        yield one


_numbers = itertools.count(1)


@pytest.fixture
def mounted(fine_grained: Served) -> Iterator[Path]:
    """A new bucket in that mount, as a directory."""
    with watched(), quiet(fine_grained) as top:
        bucket = top / f"mounted-{next(_numbers)}"
        bucket.mkdir()
        yield bucket


# -- real mounts, each in a process of its own, never in the one that looks at it -----------------


@pytest.fixture
def watchdog() -> Iterator[None]:
    """Let no test hang."""
    with watched():
        yield


@pytest.fixture
def served(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None, watchdog: None
) -> Iterator[MakeMount]:
    """Start processes that serve a mount: ``served(command, environ)``; quiet ones, to the end."""
    started: list[Served] = []

    def start(command: list[str], *environ: dict[str, str]) -> Served:
        # Short, because the path of a socket in it has a limit of 108 bytes.
        folder = tmp_path_factory.mktemp("m")
        one = Served(folder, command, clean_environ(folder, *environ))
        started.append(one)
        one.start()
        return one

    yield start
    for one in started:
        if one in Served.running:
            one.stop()
    loud = [line for one in started for line in one.loud_lines()]
    assert not loud, "\n".join(["unexpected in the log:", *loud])


@pytest.fixture
def mount(served: MakeMount, cloud: Cloud) -> MakeMount:
    """Mount the cloud's project: ``mount(ttl=1)``, or a part of it: ``mount("bucket/dir")``."""

    def start(what: str = "", **options: object) -> Served:
        return served(mount_command(what, options), cloud.environ)

    return start


@pytest.fixture(scope="session")
def lasting(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None, cloud: Cloud
) -> Iterator[Served]:
    """One mount of the project for all tests that need nothing special."""
    with served_all_along(tmp_path_factory.mktemp("m"), cloud, ttl=60) as one:
        yield one


@pytest.fixture
def project(lasting: Served, watchdog: None) -> Iterator[Path]:
    """The directory of the shared mount; what it logs meanwhile must be no warning."""
    with quiet(lasting) as path:
        yield path


@pytest.fixture
def swift(cloud: Cloud) -> Iterator[Connection]:
    """Another client of the same project."""
    connection = connect(cloud)
    yield connection
    connection.close()


@pytest.fixture
def bucket(swift: Connection, tmp_path: Path) -> str:
    """A new bucket, made by another client and named after the test."""
    name = f"b-{tmp_path.name}".replace("_", "-").lower()
    swift.put_container(name)
    return name
