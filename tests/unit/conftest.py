"""A store in memory and mounts of it, for the tests of what is above the Store protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.config import MIB, Config
from allasfs.fs.vfs import Vfs
from tests.behaviour.filesystem import VfsFs
from tests.fakes.clock import FakeClock
from tests.fakes.memstore import MemStore


@pytest.fixture
def store(clock: FakeClock) -> MemStore:
    """An OpenStack Swift with an empty bucket."""
    store = MemStore(clock_ns=clock.ns)
    store.create_container("bucket")
    return store


@pytest.fixture
def mount(store: MemStore, clock: FakeClock, tmp_path: Path) -> Iterator[Callable[..., VfsFs]]:
    """Start a Vfs: ``mount(bucket="bucket")``, ``mount(on=another_store)``; closed at the end."""
    started: list[Vfs] = []

    def start(*, on: MemStore | None = None, **settings: object) -> VfsFs:
        config = Config(
            spool_dir=tmp_path / f"spool-{len(started)}",
            segment_threshold=2 * MIB,
            segment_size=MIB,
            connections=4,
        )
        config = replace(config, **settings)  # type: ignore[arg-type]
        vfs = Vfs(on or store, config, clock=clock, clock_ns=clock.ns)
        vfs.start()
        started.append(vfs)
        return VfsFs(vfs)

    yield start
    for vfs in started:
        vfs.close()
