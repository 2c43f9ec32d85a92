"""Mounts for the tests: each in a process of its own, never in the one that looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud

from .support import (
    Served,
    clean_environ,
    connect,
    mount_command,
    quiet,
    served_all_along,
    watched,
)

MakeMount = Callable[..., Served]


@pytest.fixture(autouse=True)
def watchdog() -> Iterator[None]:
    """Let no test hang."""
    with watched():
        yield


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
    with served_all_along(tmp_path_factory.mktemp("m"), cloud, ttl=60) as one:
        yield one


@pytest.fixture
def project(lasting: Served) -> Iterator[Path]:
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
