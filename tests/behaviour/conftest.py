"""The file systems that the behaviour suite runs on."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from allasfs.config import MIB, Config
from allasfs.demo import Cloud
from allasfs.fs.vfs import Vfs
from allasfs.store.api import Store
from tests.behaviour.filesystem import FileSystem, OsFs, VfsFs
from tests.ceph.gateway import Gateway
from tests.fakes.memstore import OPENSTACK, RGW, MemStore
from tests.fakes.swift import swift_store

_numbers = itertools.count(1)
# Tests by the file system that they ran on.
TESTS: Counter[str] = Counter()


@contextmanager
def running(store: Store, folder: Path, **settings: Any) -> Iterator[VfsFs]:
    """Yield a file system on a new bucket of a store, with a low threshold for large objects."""
    bucket = f"behaviour-{next(_numbers)}"
    store.create_container(bucket)
    config = Config(
        spool_dir=folder / "spool",
        segment_threshold=2 * MIB,
        segment_size=MIB,
        memory=16 * MIB,
        connections=4,
        **settings,
    )
    vfs = Vfs(store, config)
    vfs.start()
    yield VfsFs(vfs, f"/{bucket}")
    assert vfs.status()["open_files"] == 0, "the test left a file open"
    assert vfs.sync()
    assert vfs.status()["spool_used"] == 0
    assert vfs.close() == []


@pytest.fixture(scope="session")
def behaviour_swift(cloud: Cloud) -> Iterator[Store]:
    """A store on a real OpenStack Swift."""
    with swift_store(cloud) as store:
        yield store


@pytest.fixture(scope="session")
def behaviour_rgw(gateway: Gateway) -> Iterator[Store]:
    """A store on a real Ceph RADOS Gateway."""
    with swift_store(gateway) as store:
        yield store


@pytest.fixture(
    params=[
        "directory",
        "memory",
        "memory-rgw",
        "memory-write-back",
        "memory-write-back-at-once",
        pytest.param("swift", marks=pytest.mark.swift),
        pytest.param("rgw", marks=pytest.mark.rgw),
        pytest.param("mount", marks=[pytest.mark.swift, pytest.mark.mount]),
    ]
)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSystem]:
    """A plain directory, which is always right, and file systems that must be like it."""
    TESTS[request.param] += 1
    if request.param == "directory":
        folder = tmp_path / "plain"
        folder.mkdir()
        yield OsFs(folder)
        return
    if request.param == "mount":
        yield OsFs(request.getfixturevalue("mounted"))
        return
    if request.param.startswith("memory"):
        store: Store = MemStore(capabilities=RGW if "rgw" in request.param else OPENSTACK)
    else:
        store = request.getfixturevalue(f"behaviour_{request.param}")
    settings: dict[str, Any] = {}
    if "write-back" in request.param:
        delay_s = 0.0 if "at-once" in request.param else 3600.0
        settings = {"write_back": True, "write_back_delay_s": delay_s}
    with running(store, tmp_path, **settings) as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say on what the suite ran, and how many tests of it."""
    if TESTS:
        told = ", ".join(f"{name} {count}" for name, count in TESTS.items())
        terminalreporter.write_line(f"behaviour: tests on {told}")
