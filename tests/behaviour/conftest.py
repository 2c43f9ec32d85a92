"""The file systems that the behaviour suite runs on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


@contextmanager
def running(store: Store, folder: Path) -> Iterator[VfsFs]:
    """Yield a file system on a new bucket of a store, with a low threshold for large objects."""
    bucket = f"behaviour-{next(_numbers)}"
    store.create_container(bucket)
    config = Config(
        spool_dir=folder / "spool",
        segment_threshold=2 * MIB,
        segment_size=MIB,
        memory=16 * MIB,
        connections=4,
    )
    vfs = Vfs(store, config)
    vfs.start()
    yield VfsFs(vfs, f"/{bucket}")
    assert vfs.status()["open_files"] == 0, "the test left a file open"
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
        pytest.param("swift", marks=pytest.mark.swift),
        pytest.param("rgw", marks=pytest.mark.rgw),
        pytest.param("mount", marks=[pytest.mark.swift, pytest.mark.mount]),
    ]
)
def fs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FileSystem]:
    """A plain directory, which is always right, and file systems that must be like it."""
    if request.param == "directory":
        folder = tmp_path / "plain"
        folder.mkdir()
        yield OsFs(folder)
        return
    if request.param == "mount":
        yield OsFs(request.getfixturevalue("mounted"))
        return
    if request.param.startswith("memory"):
        store: Store = MemStore(capabilities=OPENSTACK if request.param == "memory" else RGW)
    else:
        store = request.getfixturevalue(f"behaviour_{request.param}")
    with running(store, tmp_path) as found:
        yield found
