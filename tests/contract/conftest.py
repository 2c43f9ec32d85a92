"""The stores that the contract holds for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from allasfs.demo import Cloud
from allasfs.store.api import Store
from tests.fakes.memstore import RGW, MemStore
from tests.fakes.swift import swift_store

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def real_swift(cloud: Cloud) -> Iterator[Store]:
    """A store on a real OpenStack Swift."""
    with swift_store(cloud) as store:
        yield store


@pytest.fixture(params=["memory", "memory-rgw", pytest.param("swift", marks=pytest.mark.swift)])
def store(request: pytest.FixtureRequest) -> Store:
    """Every store in turn."""
    if request.param == "memory":
        return MemStore()
    if request.param == "memory-rgw":
        return MemStore(capabilities=RGW)
    found: Store = request.getfixturevalue("real_swift")
    return found


@pytest.fixture
def bucket(store: Store) -> str:
    """A new, empty bucket."""
    name = f"contract-{next(_numbers)}"
    store.create_container(name)
    return name
