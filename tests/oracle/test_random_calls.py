"""The same random system calls on a mount and on a plain directory, all results compared.

With FUZZ=SECONDS in the environment other seeds follow for so long.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from swiftclient.client import Connection

from allasfs.demo import Cloud
from tests.mount.support import Served, connect, quiet, watched
from tests.oracle.differences import compared, expected, lost_by
from tests.oracle.generator import SLOTS, Generator
from tests.oracle.player import Call, Outcome, Player

SEEDS = range(12)
CALLS = 350
FUZZ_S = float(os.environ.get("FUZZ", "0"))
# How long a failure is made shorter.
SHORTENING_S = float(os.environ.get("SHORTEN", "40"))

Tree = dict[str, tuple[object, bytes | str | None]]

_numbers = itertools.count(1)


class Difference(Exception):
    """A call that gave on the mount what it must not give."""

    def __init__(self, calls: Sequence[Call], wanted: Outcome, got: Outcome) -> None:
        super().__init__()
        self.calls = list(calls)
        self.what = "\n".join(_differing(wanted, got))


def _differing(wanted: object, got: object, where: str = "") -> Iterator[str]:
    """Yield a line for each part that differs."""
    if wanted == got:
        return
    if isinstance(wanted, dict) and isinstance(got, dict):
        for name in sorted({*wanted, *got}):
            yield from _differing(wanted.get(name), got.get(name), f"{where} {name}")
    elif isinstance(wanted, tuple) and isinstance(got, tuple) and len(wanted) == len(got):
        for one, other in zip(wanted, got, strict=True):
            yield from _differing(one, other, where)
    elif isinstance(wanted, bytes) and isinstance(got, bytes):
        pairs = zip(wanted, got, strict=False)
        same = next((at for at, (one, other) in enumerate(pairs) if one != other), len(got))
        yield f"{where}: {len(wanted)} bytes wanted, {len(got)} got, different from {same} on:"
        yield f"    {wanted[same : same + 20].hex()} wanted"
        yield f"    {got[same : same + 20].hex()} got"
    else:
        yield f"{where}: wanted {wanted!r}, got {got!r}"


class Oracle:
    """Runs calls on both sides."""

    def __init__(self, top: Path, plain: Path, swift: Connection, counts: Counter[str]) -> None:
        self._top = top
        self._plain = plain
        self._swift = swift
        self._counts = counts

    def run(self, calls: Iterator[Call] | Sequence[Call]) -> None:
        """Do the calls in new directories; raise Difference at the first that differs."""
        number = next(_numbers)
        bucket = self._top / f"oracle-{number}"
        bucket.mkdir()
        directory = self._plain / str(number)
        directory.mkdir(mode=0o755)
        plain, mounted = Player(directory), Player(bucket)
        try:
            done: list[Call] = []
            for call in calls:
                for slot in lost_by(call, plain.do):
                    done.append(Call("close", (slot,)))
                    self._do(done, plain, mounted)
                done.append(call)
                self._do(done, plain, mounted)
            for slot in SLOTS:
                done.append(Call("close", (slot,)))
                self._do(done, plain, mounted)
            done.append(Call("tree"))
            tree = self._do(done, plain, mounted)
            stored = self._stored(bucket.name)
            wanted = {path: content for path, (_, content) in tree.items() if content is not None}
            if stored != wanted:
                done.append(Call("what another client of the store sees"))
                raise Difference(done, ("ok", wanted), ("ok", stored))
        finally:
            plain.end()
            mounted.end()

    def _do(self, done: list[Call], plain: Player, mounted: Player) -> Tree:
        call = done[-1]
        wanted = compared(expected(call, plain.do))
        got = compared(mounted.do(call))
        self._counts[call.name] += 1
        if wanted != got:
            raise Difference(done, wanted, got)
        value: Tree = got[1]
        return value

    def _stored(self, bucket: str) -> dict[str, bytes | str]:
        """Return files and targets of links, as they are in the store."""
        found: dict[str, bytes | str] = {}
        for entry in self._swift.get_container(bucket, full_listing=True)[1]:
            if entry["name"].endswith("/"):
                continue
            data = self._swift.get_object(bucket, entry["name"])[1]
            is_link = entry["content_type"] == "inode/symlink"
            found[entry["name"]] = data.decode() if is_link else data
        return found

    def shorten(self, calls: list[Call]) -> Difference | None:
        """Return the difference of fewer calls which still show one."""
        shortest: Difference | None = None
        end_s = time.monotonic() + SHORTENING_S
        size = len(calls) // 2
        while size:
            start = 0
            while start < len(calls):
                if time.monotonic() > end_s:
                    return shortest
                fewer = calls[:start] + calls[start + size :]
                try:
                    self.run(fewer)
                except Difference as found:
                    shortest = found
                    calls = found.calls
                else:
                    start += size
            size = min(size, len(calls)) // 2
        return shortest


@pytest.fixture(scope="module")
def swift(cloud: Cloud) -> Iterator[Connection]:
    connection = connect(cloud)
    yield connection
    connection.close()


@pytest.fixture
def oracle(
    fine_grained: Served, tmp_path: Path, swift: Connection, compared: Counter[str]
) -> Oracle:
    return Oracle(fine_grained.path, tmp_path, swift, compared)


def check(oracle: Oracle, fine_grained: Served, seed: int) -> None:
    """Compare the calls of a seed; fail with few calls that show the first difference."""
    generator = Generator(seed)
    with watched(), quiet(fine_grained):
        try:
            oracle.run(generator.next() for _ in range(CALLS))
            return
        except Difference as found:
            first = found
    with watched():
        short = oracle.shorten(first.calls) or first
    lines = "\n".join(map(str, short.calls))
    pytest.fail(f"seed {seed}:\n{lines}\n{short.what}", pytrace=False)


@pytest.mark.parametrize("seed", SEEDS)
def test_random_calls_give_on_a_mount_what_they_give_on_a_directory(
    oracle: Oracle, fine_grained: Served, seed: int
) -> None:
    check(oracle, fine_grained, seed)


if FUZZ_S:

    @pytest.mark.timeout(0)
    def test_other_random_calls_for_as_long_as_wanted(oracle: Oracle, fine_grained: Served) -> None:
        end_s = time.monotonic() + FUZZ_S
        for seed in itertools.count(time.time_ns()):
            if time.monotonic() > end_s:
                return
            check(oracle, fine_grained, seed)
