"""Large files on a Ceph RADOS Gateway: the same tests that a mount passes on OpenStack Swift."""

from __future__ import annotations

import pytest

from tests.mount.test_large import *  # noqa: F403

pytestmark = [pytest.mark.rgw]
