"""A fault proxy in front of the cloud, and mounts behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from allasfs.demo import Cloud
from tests.conftest import MakeMount
from tests.faults.proxy import FaultProxy
from tests.mount.support import Served


@pytest.fixture
def proxy(cloud: Cloud) -> Iterator[FaultProxy]:
    with FaultProxy(cloud.swift_url) as proxy:
        yield proxy


@pytest.fixture
def behind(mount: MakeMount, cloud: Cloud, proxy: FaultProxy) -> Callable[..., Served]:
    """Mount the cloud's project behind the proxy: ``behind(ttl=1)``."""

    def start(**options: object) -> Served:
        served = mount(storage_url=proxy.through(cloud.storage_url), **options)
        served.allow("")  # faults are worth a warning
        return served

    return start
