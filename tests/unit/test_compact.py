"""The short form of versions: nothing is lost by it, and a large listing takes little memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from allasfs.store import compact
from allasfs.store.api import MD5_OF_NOTHING, Kind, ObjectInfo
from allasfs.store.compact import Versions, pack, unpack

INFO = ObjectInfo("d/name", 5, "0123456789abcdef" * 2, 1_700_000_000_123_456_000, "text/csv")

# What a bucket of Allas holds at most, and what a name of it may cost at most.
NAMES = 500_000
BYTES_PER_NAME = 500


@pytest.mark.parametrize(
    "info",
    [
        INFO,
        replace(INFO, kind=Kind.SLO),
        replace(INFO, kind=Kind.DLO, size=2**62),
        replace(INFO, kind=Kind.UNKNOWN, size=0, etag=MD5_OF_NOTHING),
        replace(INFO, content_type=""),
        replace(INFO, mtime_ns=-1),
        replace(INFO, key="ä/\udcff"),
    ],
)
def test_a_version_comes_back_as_it_was_from_80_bytes(info: ObjectInfo) -> None:
    packed = pack(info)
    assert isinstance(packed, bytes)
    assert sys.getsizeof(packed) <= 80
    assert unpack(packed, info.key) == info


@pytest.mark.parametrize(
    "info",
    [
        replace(INFO, etag="0123-5"),
        replace(INFO, etag=INFO.etag.upper()),
        replace(INFO, etag=""),
        replace(INFO, size=2**63),
        replace(INFO, mtime_ns=2**63),
        replace(INFO, content_type="x" * 201),
    ],
)
def test_what_has_no_short_form_is_kept_as_it_is(info: ObjectInfo) -> None:
    assert unpack(pack(info), info.key) == info


def test_content_types_that_a_server_invents_fill_no_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    types = compact._Types()
    monkeypatch.setattr(compact, "_types", types)
    for number in range(compact.MOST_TYPES + 10):
        info = replace(INFO, content_type=f"x/{number}")
        assert unpack(pack(info), info.key) == info
    assert len(types.names) == compact.MOST_TYPES


def test_an_object_under_another_name_than_its_own_keeps_its_key() -> None:
    versions = Versions("d/")
    versions["name"] = INFO
    versions["name~object"] = INFO
    assert versions["name"] == versions["name~object"] == INFO
    snapshot = versions.snapshot()
    del versions["name"]
    assert list(versions) == ["name~object"]
    assert set(snapshot) == {"name", "name~object"}


@pytest.mark.semantics("M4")
def test_a_listing_of_500000_names_takes_at_most_500_bytes_a_name() -> None:
    """The resident memory of a process that lists a directory as the store's pages tell it, and
    looks at each name.
    """
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(NAMES)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["names"] == NAMES
    assert told["bytes"] / NAMES <= BYTES_PER_NAME, told


_MEASURE = """
import hashlib, json, sys
from allasfs.config import Config
from allasfs.fs.attrs import Attributes
from allasfs.store import wire
from allasfs.store.api import ContainerInfo
from allasfs.transfer.listings import Listings

NAMES, PAGE = int(sys.argv[1]), 10_000

def entry(number):
    return {
        "name": f"d/measurement-2024-{number:06d}-run.csv",
        "hash": hashlib.md5(b"%d" % number).hexdigest(),
        "bytes": 1_000_000 + number,
        "content_type": "text/csv",
        "last_modified": f"2024-01-01T12:{number // 60 % 60:02d}:{number % 60:02d}.{number:06d}",
    }

class Store:
    def containers(self):
        return [ContainerInfo("bucket", NAMES, 1)]

    def listing(self, container, *, prefix="", delimiter="", marker=""):
        for start in range(0, NAMES, PAGE):
            page = [entry(number) for number in range(start, start + PAGE)]
            yield wire.object_page(json.dumps(page).encode(), delimiter)

def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

listings = Listings(Store(), ttl_s=3600)
attributes = Attributes(Config(), now_ns=0)
before = resident()
listings.buckets()
files, _ = listings.entries("bucket", "d/")
looked_at = sum(1 for info in files.values() if attributes.file("bucket", info).size)
del files
print(json.dumps({"names": looked_at, "bytes": resident() - before}))
"""
