"""Every combination of open's flags on everything that a name can be, as on a plain directory.

What is right is found out while the test runs, by the same calls in a plain directory.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from allasfs.demo import Cloud
from tests.mount.support import Served, served_all_along
from tests.oracle.differences import compared as what_counts
from tests.oracle.player import Call, Outcome, Player

ACCESS = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
SWITCHES = (os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND)
EXTRAS = (0, os.O_SYNC, os.O_DSYNC, os.O_DIRECT, os.O_NOFOLLOW, os.O_DIRECTORY)
COMBINATIONS = [
    access | sum(chosen) | extra
    for extra in EXTRAS
    for access in ACCESS
    for count in range(len(SWITCHES) + 1)
    for chosen in itertools.combinations(SWITCHES, count)
]
PAGE = 4096
ANYBODY = 1000

# What makes the name "it" be something, in place of what it was.
TARGETS: dict[str, tuple[Call, ...]] = {
    "missing": (),
    "empty": (Call("mknod", ("it", stat.S_IFREG | 0o644)),),
    "content": (Call("put", ("it", 2 * PAGE, 0o644)),),
    "directory": (Call("mkdir", ("it", 0o755)),),
    "link": (Call("put", ("other", 2 * PAGE, 0o644)), Call("symlink", ("other", "it"))),
    "dangling": (Call("symlink", ("other", "it")),),
}


class Both:
    """A plain directory and a bucket of a mount, which must be alike after each call."""

    def __init__(self, plain: Player, mounted: Player, counts: Counter[str]) -> None:
        self._plain = plain
        self._mounted = mounted
        self._counts = counts

    def do(self, call: Call, what: str) -> Outcome:
        wanted, got = (what_counts(each.do(call)) for each in (self._plain, self._mounted))
        self._counts[call.name] += 1
        assert got == wanted, f"{what}: {call}"
        return wanted


MakeBoth = Callable[..., Both]


@pytest.fixture
def both(
    tmp_path: Path, compared: Counter[str], request: pytest.FixtureRequest
) -> Iterator[MakeBoth]:
    """Both sides: ``both(bucket)``, or with another user."""
    players: list[Player] = []

    def make(bucket: Path, uid: int = 0) -> Both:
        plain = tmp_path / "plain"
        plain.mkdir()
        players[:] = Player(plain, uid), Player(bucket, uid)
        made = Both(players[0], players[1], compared)
        made.do(Call("listdir", (".",)), "the new directory")
        return made

    yield make
    for player in players:
        player.end()


def shown(flags: int) -> str:
    """Return flags as a program spells them."""
    names = [f"O_{name}" for name in ("CREAT", "EXCL", "TRUNC", "APPEND") if flag(name) & flags]
    extras = ("SYNC", "DSYNC", "DIRECT", "NOFOLLOW", "DIRECTORY")
    names += [f"O_{name}" for name in extras if flags & flag(name) == flag(name)]
    return "|".join([("O_RDONLY", "O_WRONLY", "O_RDWR")[flags & os.O_ACCMODE], *names])


def flag(name: str) -> int:
    number: int = getattr(os, f"O_{name}")
    return number


@pytest.mark.semantics("C6")
@pytest.mark.parametrize("target", TARGETS)
def test_open_with_any_flags_is_as_in_a_plain_directory(
    mounted: Path, both: MakeBoth, target: str
) -> None:
    sides = both(mounted)
    fresh: Kinds | None = None
    for flags in COMBINATIONS:
        what = f"{shown(flags)} on {target}"
        if fresh is None:
            for name in ("it", "other"):
                sides.do(Call("clear", (name,)), what)
            for call in TARGETS[target]:
                sides.do(call, what)
            fresh = kinds(sides.do(Call("tree"), what))
        sides.do(Call("use", ("it", flags)), what)
        if kinds(sides.do(Call("tree"), what)) != fresh:
            fresh = None


Kinds = dict[str, tuple[str, bool]]


def kinds(tree: Outcome) -> Kinds:
    """Return what there is: of which kind, and whether it is empty."""
    return {name: (shown["mode"], not content) for name, (shown, content) in tree[1].items()}


@pytest.fixture(scope="module")
def guarded(
    tmp_path_factory: pytest.TempPathFactory, prerequisites: None, cloud: Cloud
) -> Iterator[Served]:
    """A mount that other users may use, and in which the kernel looks at modes and owners."""
    folder = tmp_path_factory.mktemp("m")
    options = {"allow_other": "yes", "default_permissions": "yes"}
    with served_all_along(folder, cloud, **options) as one:
        yield one


@pytest.mark.semantics("C3", "C6")
@pytest.mark.parametrize("mode", [0o444, 0o644, 0o200, 0o000], ids=oct)
@pytest.mark.parametrize("owner", [ANYBODY, 0], ids=["own", "root"])
def test_open_by_another_user_is_as_in_a_plain_directory(
    guarded: Served, both: MakeBoth, mode: int, owner: int, tmp_path: Path
) -> None:
    bucket = guarded.path / f"by-{mode:o}-{owner}"
    bucket.mkdir()
    sides = both(bucket, ANYBODY)
    for top in (bucket, tmp_path / "plain"):
        path = top / "w" / "it"
        path.write_bytes(b"content")
        os.chown(path, owner, owner)
        os.chmod(path, mode)
    for flags in COMBINATIONS[: len(COMBINATIONS) // len(EXTRAS)]:
        sides.do(Call("use", ("it", flags)), shown(flags))
        sides.do(Call("tree"), shown(flags))
