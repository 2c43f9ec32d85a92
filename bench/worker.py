"""What programs do on a mount, or with the raw client: python -m bench.worker NAME ARGUMENT...

Each task that no ordinary program does runs here, in a process of its own, and prints as JSON what
it measured: the start of Python is not a part of it. The raw ones get the address and the token of
the store by the environment (BENCH_URL, BENCH_TOKEN), and tell their CPU seconds, too.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from swiftclient.client import Connection

BLOCK = 4096
# What Swift lists at once.
PAGE = 10_000

Figures = dict[str, float | str]


def offsets(count: int, size: int, pattern: str) -> list[int]:
    """Return where blocks are read: in any order, or forward with gaps."""
    if pattern == "strided":
        step = max(size // count, BLOCK)
        return [number * step for number in range(count)]
    draw = random.Random(count)  # noqa: S311 - not a secret
    return [draw.randrange(size // BLOCK) * BLOCK for _ in range(count)]


def latencies(seconds: Sequence[float]) -> Figures:
    """Return median and 95th percentile."""
    ordered = sorted(seconds)
    return {
        "seconds": sum(ordered),
        "median_ms": statistics.median(ordered) * 1000,
        "p95_ms": ordered[int(len(ordered) * 0.95)] * 1000,
    }


def timed_each(work: Callable[[int], bytes], places: Sequence[int]) -> Figures:
    """Do the work at each place; return how long each took, and a checksum of all bytes."""
    taken, checksum = [], hashlib.md5(usedforsecurity=False)
    for place in places:
        began = time.perf_counter()
        data = work(place)
        taken.append(time.perf_counter() - began)
        checksum.update(data)
    return {**latencies(taken), "md5": checksum.hexdigest()}


# -- on a mount -----------------------------------------------------------------------------------


def stat_all(*folders: str) -> Figures:
    """Stat every name in these trees, as a program does that has a list of them."""
    names = json.loads(sys.stdin.read())
    began = time.perf_counter()
    for name in names:
        os.stat(f"{folders[0]}/{name}")
    return {"seconds": time.perf_counter() - began}


def read_all(folder: str, at_once: str) -> Figures:
    """Read every file of a directory in the order of their names, so many at once."""
    began = time.perf_counter()
    paths = [Path(folder, name) for name in sorted(os.listdir(folder))]
    with ThreadPoolExecutor(int(at_once)) as pool:
        contents = list(pool.map(Path.read_bytes, paths))
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "md5": _md5(contents)}


def read_blocks(path: str, count: str, pattern: str) -> Figures:
    """Read blocks of a file with pread(2)."""
    fd = os.open(path, os.O_RDONLY)
    places = offsets(int(count), os.fstat(fd).st_size, pattern)
    return timed_each(lambda offset: os.pread(fd, BLOCK, offset), places)


def first_byte(path: str) -> Figures:
    """Open a file and read its first byte."""
    began = time.perf_counter()
    with open(path, "rb", buffering=0) as file:
        file.read(1)
    return {"seconds": time.perf_counter() - began}


# -- the raw client -------------------------------------------------------------------------------


def _http() -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    url = urlsplit(os.environ["BENCH_URL"])
    headers = {"X-Auth-Token": os.environ["BENCH_TOKEN"]}
    return http.client.HTTPConnection(url.netloc, timeout=600), url.path, headers


def _swift() -> Connection:
    account, _, _ = os.environ["BENCH_URL"].rpartition("/")
    return Connection(preauthurl=account, preauthtoken=os.environ["BENCH_TOKEN"], retries=0)


def _bucket() -> str:
    return os.environ["BENCH_URL"].rpartition("/")[2]


def raw_read_all(prefix: str, at_once: str) -> Figures:
    """Read all objects below a prefix with swiftclient."""
    width = int(at_once)
    connections = [_swift() for _ in range(width)]
    began = time.perf_counter()
    entries = connections[0].get_container(_bucket(), prefix=prefix)[1]
    names = [entry["name"] for entry in entries]

    def read_some(number: int) -> list[bytes]:
        mine = names[number::width]
        return [connections[number].get_object(_bucket(), name)[1] for name in mine]

    with ThreadPoolExecutor(width) as pool:
        read = list(pool.map(read_some, range(width)))
    seconds = time.perf_counter() - began
    contents = [read[index % width][index // width] for index in range(len(names))]
    return {"seconds": seconds, "md5": _md5(contents)}


def raw_write_all(prefix: str, folder: str, at_once: str) -> Figures:
    """Store all files of a directory below a prefix with swiftclient, so many at once."""
    width = int(at_once)
    connections = [_swift() for _ in range(width)]
    names = sorted(os.listdir(folder))

    def write_some(number: int) -> None:
        for name in names[number::width]:
            content = Path(folder, name).read_bytes()
            connections[number].put_object(_bucket(), prefix + name, content)

    return _in_threads(write_some, width)


def raw_move_all(prefix: str, target: str, at_once: str) -> Figures:
    """Copy all objects below a prefix to another and delete them, so many at once."""
    width = int(at_once)
    names = [entry["name"] for entry in _swift().get_container(_bucket(), prefix=prefix)[1]]

    def move_some(number: int) -> None:
        connection, path, headers = _http()
        for name in names[number::width]:
            goal = f"/{_bucket()}/{target}{name.removeprefix(prefix)}"
            _ask(connection, "COPY", f"{path}/{name}", {**headers, "Destination": goal})
            _ask(connection, "DELETE", f"{path}/{name}", headers)

    return _in_threads(move_some, width)


def raw_remove_some(prefix: str, count: str) -> Figures:
    """Delete so many objects below a prefix one after the other, on one connection."""
    entries = _swift().get_container(_bucket(), prefix=prefix, limit=int(count))[1]
    connection, path, headers = _http()
    began = time.perf_counter()
    for entry in entries:
        _ask(connection, "DELETE", f"{path}/{entry['name']}", headers)
    return {"ms_per_name": (time.perf_counter() - began) * 1000 / len(entries)}


def _ask(
    connection: http.client.HTTPConnection, method: str, path: str, headers: dict[str, str]
) -> None:
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    response.read()
    if response.status // 100 != 2:
        raise OSError(f"{method} {path}: {response.status} {response.reason}")


def _in_threads(work: Callable[[int], None], width: int) -> Figures:
    began = time.perf_counter()
    with ThreadPoolExecutor(width) as pool:
        list(pool.map(work, range(width)))
    return {"seconds": time.perf_counter() - began}


def raw_list(prefix: str) -> Figures:
    """List all objects below a prefix with swiftclient."""
    connection = _swift()
    began = time.perf_counter()
    marker = ""
    while True:
        page = connection.get_container(_bucket(), prefix=prefix, marker=marker)[1]
        if len(page) < PAGE:
            return {"seconds": time.perf_counter() - began}
        marker = page[-1]["name"]


def raw_blocks(key: str, count: str, pattern: str, size: str) -> Figures:
    """Read blocks of an object by range requests on one connection."""
    connection, path, headers = _http()

    def read(offset: int) -> bytes:
        span = f"bytes={offset}-{offset + BLOCK - 1}"
        connection.request("GET", f"{path}/{key}", headers={**headers, "Range": span})
        return connection.getresponse().read()

    return timed_each(read, offsets(int(count), int(size), pattern))


def raw_first_byte(key: str) -> Figures:
    """Open an object and read its first byte."""
    connection, path, headers = _http()
    began = time.perf_counter()
    connection.request("GET", f"{path}/{key}", headers=headers)
    connection.getresponse().read(1)
    return {"seconds": time.perf_counter() - began}


def _md5(contents: Sequence[bytes]) -> str:
    return hashlib.md5(b"".join(contents), usedforsecurity=False).hexdigest()


WORKS: dict[str, Callable[..., Figures]] = {
    work.__name__: work
    for work in (
        stat_all,
        read_all,
        read_blocks,
        first_byte,
        raw_read_all,
        raw_write_all,
        raw_move_all,
        raw_remove_some,
        raw_list,
        raw_blocks,
        raw_first_byte,
    )
}


def main() -> None:
    """Do one of them and print its figures."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    figures = WORKS[sys.argv[1]](*sys.argv[2:])
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    print(json.dumps({**figures, "cpu_s": cpu_s}))


if __name__ == "__main__":
    main()
