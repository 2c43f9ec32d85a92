"""The stores that the contract holds for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from allasfs.demo import Cloud
from allasfs.store.api import Store
from tests.ceph.gateway import Gateway
from tests.fakes.memstore import RGW, MemStore
from tests.fakes.swift import swift_store

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def real_swift(cloud: Cloud) -> Iterator[Store]:
    """A store on a real OpenStack Swift."""
    with swift_store(cloud) as store:
        yield store


@pytest.fixture(scope="session")
def real_rgw(gateway: Gateway) -> Iterator[Store]:
    """A store on a real Ceph RADOS Gateway."""
    with swift_store(gateway) as store:
        yield store


@pytest.fixture(
    params=[
        "memory",
        "memory-rgw",
        pytest.param("swift", marks=pytest.mark.swift),
        pytest.param("rgw", marks=pytest.mark.rgw),
    ]
)
def store(request: pytest.FixtureRequest) -> Store:
    """Every store in turn."""
    if request.param == "memory":
        return MemStore()
    if request.param == "memory-rgw":
        return MemStore(capabilities=RGW)
    found: Store = request.getfixturevalue(f"real_{request.param}")
    return found


@pytest.fixture
def bucket(store: Store) -> str:
    """A new, empty bucket."""
    name = f"contract-{next(_numbers)}"
    store.create_container(name)
    return name
