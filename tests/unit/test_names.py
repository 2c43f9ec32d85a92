"""Paths of the mount <-> buckets and object names."""

from __future__ import annotations

import pytest

from allasfs.errors import BadName, NameTooLong, NotUtf8
from allasfs.fs.names import Layout, Place, check_bucket, check_key
from allasfs.store.api import Capabilities

ACCOUNT = Layout()
BUCKET = Layout("bucket")
PREFIX = Layout("bucket", "pre/fix/")
ALLAS = Capabilities(min_container_bytes=3, max_container_bytes=255)


@pytest.mark.parametrize(
    ("layout", "path", "expected"),
    [
        (ACCOUNT, "/", Place("", "")),
        (ACCOUNT, "/bucket", Place("bucket", "")),
        (ACCOUNT, "/bucket/a", Place("bucket", "a")),
        (ACCOUNT, "/bucket/a/b c/ä", Place("bucket", "a/b c/ä")),
        (BUCKET, "/", Place("bucket", "")),
        (BUCKET, "/a/b", Place("bucket", "a/b")),
        (PREFIX, "/", Place("bucket", "pre/fix")),
        (PREFIX, "/a/b", Place("bucket", "pre/fix/a/b")),
    ],
)
def test_a_path_lies_in_one_place(layout: Layout, path: str, expected: Place) -> None:
    assert layout.place(path) == expected


@pytest.mark.parametrize(
    ("layout", "root"),
    [(ACCOUNT, Place("", "")), (BUCKET, Place("bucket", "")), (PREFIX, Place("bucket", "pre/fix"))],
)
def test_the_root_is_where_the_mount_begins(layout: Layout, root: Place) -> None:
    assert layout.is_root(root)
    assert layout.is_root(layout.place("/"))
    assert not layout.is_root(layout.place("/x"))


def test_a_place_knows_its_prefix_name_parent_and_children() -> None:
    place = Place("bucket", "a/b")
    assert (place.prefix, place.name, place.parent) == ("a/b/", "b", Place("bucket", "a"))
    assert place.parent.parent == Place("bucket", "")
    assert Place("bucket", "").prefix == ""
    assert Place("bucket", "").child("x") == Place("bucket", "x")
    assert place.child("x") == Place("bucket", "a/b/x")


@pytest.mark.parametrize("component", ["x" * 255, "ä" * 127 + "x", "😀" * 63])
def test_a_component_of_255_bytes_is_allowed(component: str) -> None:
    assert ACCOUNT.place(f"/b/{component}/y").key == f"{component}/y"


@pytest.mark.parametrize("component", ["x" * 256, "ä" * 128, "😀" * 64])
def test_a_longer_component_is_refused(component: str) -> None:
    with pytest.raises(NameTooLong):
        ACCOUNT.place(f"/b/{component}/y")


def test_a_long_path_of_short_components_is_allowed() -> None:
    assert ACCOUNT.place("/b" + "/abc" * 200).key == "/".join(["abc"] * 200)


@pytest.mark.parametrize("path", ["/b/caf\udce9", "/\udcff", "/b/\udc80/x"])
def test_a_name_that_is_not_utf8_is_refused_with_a_printable_message(path: str) -> None:
    with pytest.raises(NotUtf8) as caught:
        ACCOUNT.place(path)
    assert str(caught.value).encode()


def test_a_key_may_have_as_many_bytes_as_the_store_takes() -> None:
    check_key("ä" * 512, ALLAS)
    with pytest.raises(NameTooLong):
        check_key("ä" * 512 + "x", ALLAS)


@pytest.mark.parametrize("name", ["abc", "a.b", "ä" * 127, "UPPER", "x" * 255])
def test_a_bucket_name_within_the_rules_passes(name: str) -> None:
    check_bucket(name, ALLAS)


@pytest.mark.parametrize(
    ("name", "error"),
    [("ab", BadName), (".abc", BadName), ("x" * 256, NameTooLong), ("ä" * 128, NameTooLong)],
)
def test_a_bucket_name_beyond_the_rules_is_refused(name: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        check_bucket(name, ALLAS)


def test_the_reference_server_takes_short_names_and_dots() -> None:
    check_bucket("a", Capabilities())
    check_bucket(".a", Capabilities())
