"""The main job on a Ceph RADOS Gateway: the same tests that a mount passes on OpenStack Swift."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.ceph.gateway import Gateway
from tests.mount.support import MIB, listed, pattern, succeed
from tests.mount.test_main_job import *  # noqa: F403

pytestmark = pytest.mark.rgw


def test_the_mount_is_on_the_gateway(project: Path, bucket: str, gateway: Gateway) -> None:
    gateway.forget_requests()
    (project / bucket / "file").write_text("content")
    account = f"/v1/AUTH_{gateway.credentials.project_id}"
    assert ("PUT", f"{account}/{bucket}/file") in {
        (each.method, each.path) for each in gateway.requests()
    }


@pytest.mark.semantics("C26")
def test_a_directory_of_large_files_is_moved_packed_and_removed(
    large: Path, bucket: str, swift: Connection, tmp_path: Path
) -> None:
    top = large / bucket
    (top / "d" / "e").mkdir(parents=True)
    for number in range(3):
        (top / "d" / "e" / f"large {number}").write_bytes(pattern(5 * MIB, seed=number))
        (top / "d" / f"small {number}").write_bytes(pattern(10, seed=number))
    segments = listed(swift, f"{bucket}_segments")
    assert len(segments) == 15
    os.rename(top / "d", top / "moved")
    assert listed(swift, f"{bucket}_segments") == segments
    succeed("tar", "-C", top, "-cf", tmp_path / "moved.tar", "moved")
    succeed("tar", "-C", tmp_path, "-xf", tmp_path / "moved.tar")
    succeed("diff", "-r", top / "moved", tmp_path / "moved")
    for number in range(3):
        unpacked = (tmp_path / "moved" / "e" / f"large {number}").read_bytes()
        assert unpacked == pattern(5 * MIB, seed=number)
    succeed("rm", "-r", top / "moved")
    assert listed(swift, bucket) == {}
    assert listed(swift, f"{bucket}_segments") == {}


def test_rsync_finds_nothing_to_do_the_second_time(
    project: Path, bucket: str, tmp_path: Path
) -> None:
    for number in range(20):
        path = tmp_path / "tree" / f"d {number % 3}" / f"ä {number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pattern(1000 * number, seed=number))
    command = ("rsync", "-a", "--inplace", "--itemize-changes", f"{tmp_path}/tree/")
    assert succeed(*command, project / bucket / "tree").count(">f") == 20
    assert succeed(*command, project / bucket / "tree") == ""
    succeed("diff", "-r", tmp_path / "tree", project / bucket / "tree")
