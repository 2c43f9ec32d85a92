"""The main job on a Ceph RADOS Gateway: the same tests that a mount passes on OpenStack Swift."""

import pytest

from tests.mount.test_main_job import *  # noqa: F403

pytestmark = pytest.mark.rgw
