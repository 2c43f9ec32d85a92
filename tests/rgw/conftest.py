"""The fixtures of mounts, with a Ceph RADOS Gateway in the place of OpenStack Swift."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from allasfs.config import Config
from allasfs.demo import Credentials
from allasfs.store.swift import SwiftStore
from tests.ceph.gateway import Gateway

# Again, and not inherited: one that lasts would be shared with the tests on OpenStack Swift.
from tests.conftest import bucket, lasting, mount, project, served, swift  # noqa: F401
from tests.fakes.swift import swift_store
from tests.mount.conftest import *  # noqa: F403  fixtures
from tests.rgw.support import Raw


@pytest.fixture(scope="session")
def cloud(gateway: Gateway) -> Gateway:
    """The server that all fixtures of a mount work with."""
    return gateway


@pytest.fixture(scope="session")
def lasting_store(gateway: Gateway) -> Iterator[SwiftStore]:
    """A store that learnt already what the server can do."""
    with swift_store(gateway, Config(timeout_s=30.0, connections=4)) as store:
        store.capabilities()
        yield store


@pytest.fixture
def store(lasting_store: SwiftStore, gateway: Gateway) -> SwiftStore:
    """The project's account; what was asked before is forgotten."""
    gateway.forget_requests()
    return lasting_store


@pytest.fixture
def raw(gateway: Gateway) -> Iterator[Raw]:
    """Another client of the project."""
    client = Raw(gateway)
    yield client
    client.close()


@pytest.fixture(scope="session")
def other_user(gateway: Gateway) -> Credentials:
    """A user of another project."""
    return gateway.add_user("colleague", "project_2005678")


@pytest.fixture
def other(gateway: Gateway, other_user: Credentials) -> Iterator[Raw]:
    """A client of the other project."""
    client = Raw(gateway, other_user)
    yield client
    client.close()
