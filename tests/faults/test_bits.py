"""A bit that flips on the way never ends in success, when a file is read as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from swiftclient.client import Connection

from tests.faults.actions import flipped
from tests.faults.proxy import Exchange, FaultProxy
from tests.mount.support import KIB, MIB, Served, pattern, run, stored, succeed

pytestmark = [pytest.mark.swift, pytest.mark.mount]

SMALL, MEDIUM = 5 * KIB + 3, 5 * MIB + 11


@pytest.mark.semantics("R7")
def test_a_copy_or_checksum_of_a_file_with_a_flipped_bit_fails_and_later_succeeds(
    behind: Callable[..., Served],
    proxy: FaultProxy,
    swift: Connection,
    bucket: str,
    tmp_path: Path,
) -> None:
    offsets = {
        SMALL: (0, SMALL // 2, SMALL - 1),
        MEDIUM: (0, 128 * KIB - 1, MIB, 3 * MIB + 77, MEDIUM - 1),
    }
    for size, places in offsets.items():
        for offset in places:
            swift.put_object(bucket, f"{size}-{offset}/file", pattern(size, offset))
    served = behind(ttl=3600)
    for size, places in offsets.items():
        for number, offset in enumerate(places):
            # In directories of their own: none is fetched before the bit flips.
            key = f"{size}-{offset}/file"
            path = served.path / bucket / key
            proxy.fail(flipped(offset, number % 8), "GET", f"/{key}$", times=None)
            for command in (("cp", path, tmp_path / "copy"), ("md5sum", path)):
                assert run(*command).returncode != 0, (command, offset)
            assert proxy.struck
            proxy.heal()
            wanted = hashlib.md5(pattern(size, offset), usedforsecurity=False).hexdigest()
            assert succeed("md5sum", path).split()[0] == wanted


@pytest.mark.semantics("R1")
def test_a_bit_that_flips_in_an_upload_fails_the_close_and_stores_nothing(
    behind: Callable[..., Served],
    proxy: FaultProxy,
    swift: Connection,
    bucket: str,
    tmp_path: Path,
) -> None:
    (tmp_path / "new").write_bytes(pattern(MIB, 1))
    swift.put_object(bucket, "file", pattern(MIB, 2))
    path = behind().path / bucket / "file"

    def flip(exchange: Exchange) -> None:
        exchange.change_body(lambda body: bytes([body[0] ^ 1]) + body[1:])
        exchange.answer(exchange.forward())

    proxy.fail(flip, "PUT", "/file$")
    assert run("cp", tmp_path / "new", path).returncode != 0
    assert proxy.struck == 1
    assert stored(swift, bucket, "file") == pattern(MIB, 2)
    succeed("cp", tmp_path / "new", path)
    assert stored(swift, bucket, "file") == pattern(MIB, 1)
