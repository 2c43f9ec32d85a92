"""Marks: metadata of a large object that say which other names may be over its segments.

A rename copies the manifest before it deletes the old name. For that time, and for as long as a
crash or an unclear answer leaves it so, both objects carry the names of both: who removes one of
them looks whether another one still has the segments. A name that is not there needs none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from urllib.parse import quote, unquote

from allasfs.store.api import Capabilities

# A bucket and a key.
Name = tuple[str, str]

# The text of a mark goes on in this name with "-2", "-3"... where one value may not be so long.
SHARED = "segments-shared"
# A mark without names, where the metadata has no room for them.
NAMELESS = "yes"
# So ends a text that is whole.
END = ";"


def is_mark(name: str) -> bool:
    """Whether the metadata of this name is a part of a mark."""
    return name == SHARED or name.startswith(f"{SHARED}-")


def without(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata without a mark: the next version's segments are its own."""
    return {name: value for name, value in metadata.items() if not is_mark(name)}


def of(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the mark alone."""
    return {name: value for name, value in metadata.items() if is_mark(name)}


def names(metadata: Mapping[str, str]) -> frozenset[Name]:
    """Return the names of a mark; none when there is no mark, or one that does not tell them."""
    text = metadata.get(SHARED, "")
    number = 2
    while part := metadata.get(f"{SHARED}-{number}"):
        text += part
        number += 1
    if not text.endswith(END):
        return frozenset()
    found = (each.partition("/") for each in text.removesuffix(END).split(","))
    return frozenset((unquote(bucket), unquote(key)) for bucket, _, key in found)


def put(metadata: Mapping[str, str], among: Iterable[Name], limits: Capabilities) -> dict[str, str]:
    """Return metadata with a mark of these names, in place of another mark."""
    bare = without(metadata)
    quoted = (f"{quote(bucket, safe='')}/{quote(key)}" for bucket, key in sorted(among))
    text, step = ",".join(quoted) + END, limits.max_meta_value_bytes
    parts = [text[start : start + step] for start in range(0, len(text), step)]
    marked = bare | {f"{SHARED}-{number}": part for number, part in enumerate(parts, 1)}
    marked[SHARED] = marked.pop(f"{SHARED}-1")
    size = sum(len(name.encode()) + len(value.encode()) for name, value in marked.items())
    if size > limits.max_meta_bytes or len(marked) > limits.max_meta_items:
        return {**bare, SHARED: NAMELESS}
    return marked
