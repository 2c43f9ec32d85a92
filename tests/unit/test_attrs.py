"""File attributes <-> object metadata, in the formats of rclone and the swift client."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs.config import Config
from allasfs.fs.attrs import SYMLINK_TYPE, Attributes, Given, given_by, is_symlink
from allasfs.fs.database import Database, Row
from allasfs.store.api import Kind, ObjectInfo

INFO = ObjectInfo("key", 3, "e", 5_000_000_000, "text/plain")
# Eleven digits of seconds: the year 5138.
times = st.integers(-99_999_999_999 * 10**9, 10**20 - 1)
ids = st.integers(0, 2**32 - 1)


@given(
    st.builds(
        Given,
        mtime_ns=st.none() | times,
        mode=st.none() | st.integers(0, 0o7777),
        uid=st.none() | ids,
        gid=st.none() | ids,
    )
)
def test_what_is_given_comes_back_from_metadata_exactly(attributes: Given) -> None:
    assert given_by(attributes.metadata()) == attributes


@pytest.mark.parametrize(
    ("text", "expected_ns"),
    [
        ("1234567890.123456789", 1_234_567_890_123_456_789),
        ("1234567890.5", 1_234_567_890_500_000_000),
        ("1234567890", 1_234_567_890_000_000_000),
        ("1234567890.1234567891", 1_234_567_890_123_456_789),
        ("0", 0),
        ("-1.5", -1_500_000_000),
        ("-0.25", -250_000_000),
        ("-3.000000", -3_000_000_000),
        ("", None),
        ("yesterday", None),
        ("1e9", None),
        ("१", None),
        ("1.x", None),
        ("--1", None),
        ("9" * 40, None),
    ],
)
def test_a_time_is_seconds_with_a_fraction_or_nothing(text: str, expected_ns: int | None) -> None:
    assert given_by({"mtime": text}).mtime_ns == expected_ns


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"mode": "100644", "uid": "1000", "gid": "0"}, Given(mode=0o644, uid=1000, gid=0)),
        ({"mode": "755"}, Given(mode=0o755)),
        ({"mode": "4755"}, Given(mode=0o4755)),
        ({"mode": "rwx", "uid": "root", "gid": "-1"}, Given()),
        ({"mode": "999", "uid": "4294967296", "gid": "1.5"}, Given()),
        ({"mode": "", "uid": "", "gid": "", "mtime": ""}, Given()),
    ],
)
def test_modes_are_octal_and_ids_decimal_or_nothing(
    metadata: dict[str, str], expected: Given
) -> None:
    assert given_by(metadata) == expected


def test_a_change_keeps_what_it_does_not_give() -> None:
    before = Given(mtime_ns=1, mode=0o600)
    assert before.changed(Given(mode=0o644, uid=5)) == Given(mtime_ns=1, mode=0o644, uid=5)
    assert before.changed(Given()) == before


@pytest.mark.parametrize(
    ("content_type", "size", "expected"),
    [
        (SYMLINK_TYPE, 1, True),
        (SYMLINK_TYPE + "; charset=utf-8", 4095, True),
        (SYMLINK_TYPE, 0, False),
        (SYMLINK_TYPE, 4096, False),
        ("text/plain", 10, False),
    ],
)
def test_a_link_is_an_object_of_its_type_and_of_a_target_s_size(
    content_type: str, size: int, expected: bool
) -> None:
    assert is_symlink(ObjectInfo("key", size, "e", 0, content_type)) is expected


@pytest.fixture
def attributes() -> Attributes:
    return Attributes(Config(uid=7, gid=8, umask=0o077), now_ns=9)


@pytest.mark.semantics("A2")
def test_what_is_not_given_is_the_mount_s(attributes: Attributes) -> None:
    file, directory = attributes.file("b", INFO), attributes.directory()
    assert (file.mode, file.size, file.mtime_ns) == (stat.S_IFREG | 0o600, 3, 5_000_000_000)
    assert (file.uid, file.gid, file.nlink, file.is_dir) == (7, 8, 1, False)
    assert (directory.mode, directory.mtime_ns) == (stat.S_IFDIR | 0o700, 9)
    assert (directory.nlink, directory.is_dir) == (2, True)


def test_what_was_given_to_a_version_is_remembered_for_that_version_only(
    attributes: Attributes,
) -> None:
    attributes.remember("b", INFO, Given(mtime_ns=1, mode=0o640, uid=2, gid=3), None)
    found = attributes.file("b", INFO)
    assert (found.mode, found.mtime_ns) == (stat.S_IFREG | 0o640, 1)
    assert (found.uid, found.gid) == (2, 3)
    newer = ObjectInfo("key", 3, "f", 5_000_000_000, "text/plain")
    for bucket, info in (("b", newer), ("other", INFO)):
        assert attributes.given(bucket, info) == Given()


def test_a_version_is_the_same_within_the_second_that_servers_round_by() -> None:
    later = ObjectInfo("key", 3, "e", 6_000_000_000)
    assert INFO.same_version(later)
    assert not INFO.same_version(ObjectInfo("key", 3, "e", 6_000_000_001))
    assert not INFO.same_version(ObjectInfo("key", 3, "f", 5_000_000_000))
    assert not INFO.same_version(ObjectInfo("key", 4, "e", 5_000_000_000))
    # The hash that a listing gives of a large object is another than its ETag.
    listed = ObjectInfo("key", 3, "e", 5_000_000_000, kind=Kind.UNKNOWN)
    assert listed.same_version(ObjectInfo("key", 3, "f", 5_000_000_000, kind=Kind.SLO))
    assert not INFO.same_version(ObjectInfo("key", 3, "f", 5_000_000_000, kind=Kind.SLO))


class Interrupted(Database):
    """A database whose next question is the moment at which another thread does something."""

    def __init__(self, path: Path, meanwhile: Callable[[], object]) -> None:
        super().__init__(path, 100)
        self.open("account")
        self._meanwhile: Callable[[], object] | None = meanwhile

    def find(self, bucket: str, key: str) -> Row | None:
        found = super().find(bucket, key)
        meanwhile, self._meanwhile = self._meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return found


def test_what_is_learnt_while_another_thread_looks_is_not_forgotten(tmp_path: Path) -> None:
    metadata = {"number": "1", "mode": "640"}
    database = Interrupted(tmp_path / "db", lambda: found.learn("b", INFO, metadata))
    found = Attributes(Config(), database, now_ns=9)
    assert found.given("b", INFO) == Given(mode=0o640)
    assert found.metadata("b", INFO) == metadata
    database.close()


def test_what_was_told_while_another_thread_learnt_stays_told(tmp_path: Path) -> None:
    metadata = {"number": "1", "mode": "640"}
    database = Interrupted(tmp_path / "db", lambda: found.given("b", INFO))
    found = Attributes(Config(), database, now_ns=9)
    found.learn("b", INFO, metadata)
    assert found.given("b", INFO) == Given()
    assert found.metadata("b", INFO) == metadata
    database.close()
