"""Extended attributes <-> metadata: what fits stays as it is, and all comes back."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allasfs.errors import AttributeNameTooLong, AttributesFull, AttributeTooLarge, FsError
from allasfs.fs import xattrs
from allasfs.store.api import Capabilities

LIMITS = Capabilities(
    max_meta_name_bytes=10, max_meta_value_bytes=20, max_meta_items=3, max_meta_bytes=50
)


@given(st.binary(max_size=300))
def test_every_value_comes_back_and_is_text_for_a_header(value: bytes) -> None:
    text = xattrs.text_of(value)
    assert xattrs.value_of(text) == value
    assert text
    assert text == text.strip()
    assert not re.search(r"[\x00-\x1f\x7f]", text)
    text.encode()


@given(st.text(st.characters(exclude_characters="\0"), min_size=1, max_size=60))
def test_every_name_comes_back_and_is_a_name_for_a_header(name: str) -> None:
    header = xattrs.header_of("user." + name)
    assert xattrs.name_of(header) == "user." + name
    assert xattrs.name_of(header.title()) == "user." + name
    assert re.fullmatch(r"[!#$%&'*+.^`|~0-9a-z-]+", header)


def test_no_two_names_have_one_header() -> None:
    names = ["a_b", "a-b", "A_b", "a b", "a%5fb", "a%5Fb", "ä", "%", "%25"]
    assert len({xattrs.header_of(f"user.{name}") for name in names}) == len(names)


@pytest.mark.semantics("X2")
@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("user.colour", "colour"),
        ("user.xdg.origin.url", "xdg.origin.url"),
        ("user.run-7", "run-7"),
        ("user.mime_type", "mime%5ftype"),
        ("user.Colour", "%43olour"),
        ("user.a b", "a%20b"),
        ("user.100%", "100%25"),
        ("user.ä", "%c3%a4"),
        ("user.user.x", "user.x"),
    ],
)
def test_ordinary_names_are_headers_as_they_are(name: str, header: str) -> None:
    assert xattrs.header_of(name) == header


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b"blue", "blue"),
        ("grün €".encode(), "grün €"),
        (b'{"a": 1}', '{"a": 1}'),
        (b"", "data:;base64,"),
        (b" x", "data:;base64,IHg="),
        (b"x\n", "data:;base64,eAo="),
        (b"\0\xff", "data:;base64,AP8="),
        (b"data:;base64,eA==", "data:;base64,ZGF0YTo7YmFzZTY0LGVBPT0="),
        (b"data:text/plain,x", "data:text/plain,x"),
    ],
)
def test_ordinary_values_are_text_as_they_are(value: bytes, text: str) -> None:
    assert xattrs.text_of(value) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("data:;base64,!", b"data:;base64,!"),
        ("data:;base64,eA", b"data:;base64,eA"),
        ("caf\udce9", b"caf\xe9"),
        ("", b""),
    ],
)
def test_what_others_wrote_is_shown_as_it_is(text: str, value: bytes) -> None:
    assert xattrs.value_of(text) == value


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("100%", "user.100%"),
        ("%zz", "user.%zz"),
        ("%00", "user.%00"),
        ("ünï", "user.ünï"),
        ("", "user."),
    ],
)
def test_names_of_others_are_shown_as_they_are(header: str, name: str) -> None:
    assert xattrs.name_of(header) == name


def test_what_stat_shows_and_marks_of_the_store_are_not_shown() -> None:
    hidden = ("mtime", "mode", "uid", "gid", "segments-shared", "renamed-from")
    metadata = dict.fromkeys([*hidden, "static-large-object", "%6dtime", "allasfs.etag"], "1")
    assert xattrs.shown({**metadata, "colour": "blue"}) == {"user.colour": "colour"}
    for header in metadata:
        assert xattrs.is_reserved(xattrs.name_of(header))


def test_what_steers_the_server_is_not_shown_of_a_bucket() -> None:
    headers = ("temp-url-key", "temp-url-key-2", "quota-bytes", "web-index")
    metadata = dict.fromkeys((*headers, "access-control-allow-origin", "colour"), "1")
    assert list(xattrs.shown(metadata, of_bucket=True)) == ["user.colour"]
    assert len(xattrs.shown(metadata)) == 6


def test_our_own_spelling_of_a_name_counts() -> None:
    metadata = {"%61": "theirs", "a": "ours"}
    assert xattrs.shown(metadata) == {"user.a": "a"}
    assert xattrs.shown(dict(reversed(metadata.items()))) == {"user.a": "a"}
    assert xattrs.shown({"%61": "theirs"}) == {"user.a": "%61"}


@pytest.mark.parametrize(
    ("metadata", "error"),
    [
        ({"n" * 10: "v" * 20}, None),
        ({"n" * 11: "v"}, AttributeNameTooLong),
        ({"n": "v" * 21}, AttributeTooLarge),
        ({"n": "ä" * 11}, AttributeTooLarge),
        ({"n": "1", "a": "1", "b": "1"}, None),
        ({"n": "1", "a": "1", "b": "1", "c": "1"}, AttributesFull),
        ({"n": "v" * 20, "a": "v" * 20, "b": "v" * 7}, None),
        ({"n": "v" * 20, "a": "v" * 20, "b": "v" * 8}, AttributesFull),
    ],
)
def test_more_than_the_store_takes_is_refused(
    metadata: dict[str, str], error: type[FsError] | None
) -> None:
    first = next(iter(metadata))
    if error is None:
        xattrs.check("user.x", metadata, first, LIMITS)
        return
    with pytest.raises(error):
        xattrs.check("user.x", metadata, first, LIMITS)
