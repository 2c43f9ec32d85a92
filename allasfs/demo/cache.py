"""A cache server for Swift that speaks the part of memcached's text protocol that Swift uses.

Swift keeps validated tokens and what it knows of accounts and containers in memcached, shared
by all proxy processes. Without one each request asks Keystone and the container server again,
and a cache inside each proxy would show one process's past to another.
"""

import asyncio
import time
from dataclasses import dataclass

from allasfs.demo.child import inherit

# memcached's rule: an expiry time up to 30 days counts from now, a larger one is a date.
LONGEST_DELTA_S = 30 * 24 * 3600

# Entries expire on their own, but a long benchmark over many names need not keep them all.
MOST_ENTRIES = 100_000


@dataclass(frozen=True)
class Entry:
    """One cached value, as the client sent it."""

    flags: bytes
    value: bytes
    expires_s: float


class Cache:
    """The entries, and the commands on them."""

    def __init__(self) -> None:
        """Begin empty."""
        self._entries: dict[bytes, Entry] = {}

    def get(self, keys: list[bytes]) -> bytes:
        """Return the values of those keys that are there."""
        found = []
        for key in keys:
            entry = self._live(key)
            if entry is not None:
                head = b"VALUE %s %s %d\r\n" % (key, entry.flags, len(entry.value))
                found.append(head + entry.value + b"\r\n")
        return b"".join(found) + b"END\r\n"

    def store(self, key: bytes, flags: bytes, expiry: int, value: bytes) -> bytes:
        """Keep a value under a key."""
        if len(self._entries) >= MOST_ENTRIES:
            self._entries.clear()
        if expiry == 0:
            expires_s = float("inf")
        elif expiry > LONGEST_DELTA_S:
            expires_s = float(expiry)
        else:
            expires_s = time.time() + expiry
        self._entries[key] = Entry(flags, value, expires_s)
        return b"STORED\r\n"

    def add(self, key: bytes, flags: bytes, expiry: int, value: bytes) -> bytes:
        """Keep a value unless the key has one."""
        if self._live(key) is not None:
            return b"NOT_STORED\r\n"
        return self.store(key, flags, expiry, value)

    def change(self, key: bytes, delta: int) -> bytes:
        """Add to a number, which does not fall below 0."""
        entry = self._live(key)
        if entry is None:
            return b"NOT_FOUND\r\n"
        value = b"%d" % max(0, int(entry.value) + delta)
        self._entries[key] = Entry(entry.flags, value, entry.expires_s)
        return value + b"\r\n"

    def delete(self, key: bytes) -> bytes:
        """Forget a key."""
        known = self._entries.pop(key, None) is not None
        return b"DELETED\r\n" if known else b"NOT_FOUND\r\n"

    def _live(self, key: bytes) -> Entry | None:
        entry = self._entries.get(key)
        if entry is not None and entry.expires_s <= time.time():
            del self._entries[key]
            return None
        return entry


async def serve(cache: Cache, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer the commands of one connection until it ends."""
    try:
        while line := await reader.readline():
            writer.write(await _answer(cache, line.split(), reader))
            await writer.drain()
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def _answer(cache: Cache, words: list[bytes], reader: asyncio.StreamReader) -> bytes:
    match words:
        case [b"get", *keys]:
            return cache.get(keys)
        case [(b"set" | b"add") as verb, key, flags, expiry, size, *_]:
            value = (await reader.readexactly(int(size) + 2))[:-2]
            keep = cache.store if verb == b"set" else cache.add
            return keep(key, flags, int(expiry), value)
        case [b"incr", key, delta, *_]:
            return cache.change(key, int(delta))
        case [b"decr", key, delta, *_]:
            return cache.change(key, -int(delta))
        case [b"delete", key, *_]:
            return cache.delete(key)
    return b"ERROR\r\n"


async def main() -> None:
    """Serve on the inherited socket until killed."""
    inherited = inherit()
    cache = Cache()
    server = await asyncio.start_server(
        lambda reader, writer: serve(cache, reader, writer), sock=inherited.socket
    )
    inherited.ready()
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
