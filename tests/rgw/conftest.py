"""The fixtures of tests/mount, with a Ceph RADOS Gateway in the place of OpenStack Swift."""

from __future__ import annotations

import pytest

from tests.ceph.gateway import Gateway
from tests.mount.conftest import (  # noqa: F401  fixtures
    bucket,
    lasting,
    mount,
    prerequisites,
    project,
    served,
    swift,
    watchdog,
)


@pytest.fixture(scope="session")
def cloud(gateway: Gateway) -> Gateway:
    """The server that all fixtures of a mount work with."""
    return gateway
