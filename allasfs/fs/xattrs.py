"""Extended attributes <-> metadata: ``user.NAME`` is ``X-Object-Meta-NAME``. Pure.

Headers have names without case and without ``_`` (Swift loses such a header), and values that are
one line of text. What fits stays as it is, so that other clients read and write it. Else a byte of
a name becomes ``%`` and two hexadecimal digits, and a value becomes a data URL (RFC 2397),
``data:;base64,...``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from allasfs.errors import AttributeNameTooLong, AttributesFull, AttributeTooLarge
from allasfs.fs.attrs import GID, MODE, MTIME, UID
from allasfs.fs.moves import RENAMED_FROM
from allasfs.store import marks
from allasfs.store.api import Capabilities

USER = "user."
# What allasfs tells by itself: read by name, never listed, so that no program copies it.
OWN = "user.allasfs."
BASE64 = "data:;base64,"

# What stat shows, marks of allasfs, and the remark of RGW on large objects.
_HIDDEN = frozenset({MTIME, MODE, UID, GID, RENAMED_FROM, "static-large-object"})
# What steers the server, and secrets of temporary addresses: of buckets.
_STEERING = ("temp-url-key", "quota-", "web-", "access-control-")
_PLAIN_NAME = re.compile(rb"[a-z0-9!#$&'*+.^`|~-]")
_ESCAPE = re.compile(rb"%([0-9a-f]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_reserved(name: str, *, of_bucket: bool = False) -> bool:
    """Whether an attribute ``user.NAME`` has another meaning: not to be listed, not to be set."""
    header = header_of(name)
    if header in _HIDDEN or marks.is_mark(header) or name.startswith(OWN):
        return True
    return of_bucket and header.startswith(_STEERING)


def header_of(name: str) -> str:
    """Return the metadata's name for an attribute ``user.NAME``."""
    raw = name.removeprefix(USER).encode(errors="surrogateescape")
    letters = (raw[i : i + 1] for i in range(len(raw)))
    return "".join(
        letter.decode() if _PLAIN_NAME.match(letter) else f"%{letter.hex()}" for letter in letters
    )


def name_of(header: str) -> str:
    """Return the attribute of a metadata's name, whoever chose that; ``user.`` included."""
    raw = header.lower().encode(errors="surrogateescape")
    name = _ESCAPE.sub(lambda match: bytes.fromhex(match[1].decode()), raw)
    if not name or b"\0" in name:
        name = raw
    return USER + name.decode(errors="surrogateescape")


def text_of(value: bytes) -> str:
    """Return the metadata's text for an attribute's value."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    is_plain = text and text == text.strip() and not _CONTROL.search(text)
    if is_plain and not text.startswith(BASE64):
        return text
    return BASE64 + base64.b64encode(value).decode()


def value_of(text: str) -> bytes:
    """Return the attribute's value for a metadata's text, whoever wrote that."""
    if text.startswith(BASE64):
        try:
            return base64.b64decode(text.removeprefix(BASE64), validate=True)
        except binascii.Error:
            pass
    return text.encode(errors="surrogateescape")


def shown(metadata: Mapping[str, str], *, of_bucket: bool = False) -> dict[str, str]:
    """Return the attributes that metadata is shown as, each with its metadata's name."""
    found: dict[str, str] = {}
    for header in metadata:
        name = name_of(header)
        # Other clients may spell one name in several ways; ours counts.
        is_first = name not in found or header == header_of(name)
        if is_first and not is_reserved(name, of_bucket=of_bucket):
            found[name] = header
    return found


def check(name: str, metadata: Mapping[str, str], header: str, limits: Capabilities) -> None:
    """Raise if the store would refuse metadata because of its item ``header``."""
    if len(header.encode(errors="surrogateescape")) > limits.max_meta_name_bytes:
        raise AttributeNameTooLong(name, f"the store takes {limits.max_meta_name_bytes} bytes")
    sizes = [
        (len(item.encode(errors="surrogateescape")), len(text.encode(errors="surrogateescape")))
        for item, text in metadata.items()
    ]
    if len(metadata[header].encode(errors="surrogateescape")) > limits.max_meta_value_bytes:
        raise AttributeTooLarge(name, f"the store takes {limits.max_meta_value_bytes} bytes")
    if len(sizes) > limits.max_meta_items or sum(map(sum, sizes)) > limits.max_meta_bytes:
        raise AttributesFull(
            name,
            f"the store takes {limits.max_meta_items} items of metadata for each object,"
            f" {limits.max_meta_bytes} bytes in all",
        )
