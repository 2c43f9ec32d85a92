"""Write-back on a Ceph RADOS Gateway, which knows no conditional PUT."""

from __future__ import annotations

import pytest

from tests.mount.test_write_back import (  # noqa: F401  the same tests on another server
    test_a_file_that_another_client_changed_is_kept_beside_it,
    test_rsync_writes_each_file_by_one_put_and_nothing_the_second_time,
    test_sync_stores_what_was_closed_each_file_by_one_put,
    test_unmounting_waits_for_the_uploads,
    test_what_was_closed_before_a_kill_is_there_and_stored_after_it,
)

pytestmark = pytest.mark.rgw
