"""Mounts for the tests: each in a process of its own, never in the one that looks at it."""

from __future__ import annotations

import ctypes.util
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.conftest import missing

from .support import Served, Watchdog, clean_environ, connect, mount_command

MakeMount = Callable[..., Served]


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


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Let no test hang."""
    with Watchdog() as dog:
        yield
    assert not dog.has_bitten, "the test hung, and its mounts were killed"


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory, prerequisites: None) -> Iterator[MakeMount]:
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
    folder = tmp_path_factory.mktemp("m")
    one = Served(folder, mount_command("", {"ttl": 60}), clean_environ(folder, cloud.environ))
    one.start()
    yield one
    one.stop()


@pytest.fixture
def project(lasting: Served) -> Iterator[Path]:
    """The directory of the shared mount; what it logs meanwhile must be no warning."""
    before = len(lasting.loud_lines())
    yield lasting.path
    loud = lasting.loud_lines()[before:]
    assert not loud, "\n".join(["unexpected in the log:", *loud])


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
