"""The words of ``allasfs recover``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allasfs.app.options import Words, split_words
from allasfs.errors import UsageError

PROG = "allasfs recover"
DESCRIPTION = """\
List, upload, save or discard files whose upload failed, and files of mounts that are not there any
more. They lie in the spool folders of all your mounts, on this computer and on those that share
your home folder. The beginning of an ID is enough.
"""
EPILOG = """\
'allasfs recover COMMAND --help' explains each. Credentials are given as for 'allasfs mount'
(--rc-file, --cloud, OS_* ...); where a mount serves the spool folder, it uploads with its own.
"""
USAGE = {
    "list": f"{PROG} [list] [--json]",
    "retry": f"{PROG} retry ID...|--all [--over] [--as BUCKET/NAME] [mount options]",
    "save": f"{PROG} save ID FILE [mount options]",
    "discard": f"{PROG} discard ID...|--all [--yes] [mount options]",
}
ABOUT = {
    "list": "List what is kept: ID, object, bytes, time, why, where.",
    "retry": "Upload kept files now, and remove them from the spool. What another client changed"
    " meanwhile is not replaced (exit code 20).",
    "save": "Write a kept file to the new local file FILE; it stays in the spool. What is nowhere"
    " any more becomes zeros, and the command fails and names the bytes (exit code 21).",
    "discard": "Remove kept files for ever, with those of their segments that nothing uses.",
}


@dataclass(frozen=True)
class Asked:
    """What a user wants."""

    command: str
    ids: tuple[str, ...]
    spools: tuple[Path, ...]
    mount_options: Words
    json: bool = False
    every: bool = False
    over: bool = False
    place: tuple[str, str] | None = None
    yes: bool = False
    file: Path | None = None


def read(args: list[str], make: Callable[..., argparse.ArgumentParser]) -> Asked:
    """Return what the words ask for; raise UsageError."""
    command = "list"
    if args and args[0] in ABOUT:
        command, *args = args
        parser = make(
            prog=f"{PROG} {command}",
            usage=USAGE[command],
            description=ABOUT[command],
            allow_abbrev=False,
        )
    else:
        parser = make(
            prog=PROG,
            usage="\n       ".join(USAGE.values()),
            description=DESCRIPTION,
            epilog=EPILOG,
            allow_abbrev=False,
        )
    _add_options(parser, command)
    found, rest = parser.parse_known_args(args)
    words = split_words(rest)
    ids, file = list(words.positionals), None
    if command == "list" and ids:
        raise UsageError(f"{ids[0]!r} is no command of {PROG}: {', '.join(ABOUT)}")
    if command == "save":
        if len(ids) != 2:
            raise UsageError(f"name one ID and one FILE: {PROG} save ID FILE")
        file = Path(ids.pop()).absolute()
    every = bool(getattr(found, "all", False))
    if command != "list" and bool(ids) == every:
        raise UsageError(f"name IDs or --all; '{PROG}' lists them")
    place = getattr(found, "as", None)
    if place is not None and (every or len(ids) > 1):
        raise UsageError("--as is for one file")
    return Asked(
        command,
        tuple(ids),
        tuple(path.absolute() for path in found.spool),
        words,
        json=bool(getattr(found, "json", False)),
        every=every,
        over=bool(getattr(found, "over", False)),
        place=place,
        yes=bool(getattr(found, "yes", False)),
        file=file,
    )


def _add_options(parser: argparse.ArgumentParser, command: str) -> None:
    parser.add_argument(
        "--spool",
        metavar="DIR",
        type=Path,
        action="append",
        default=[],
        help="Look into this spool folder, too. [default: those in your state folder]",
    )
    if command == "list":
        parser.add_argument("--json", action="store_true", help="Print JSON. [default: text]")
    if command in ("retry", "discard"):
        parser.add_argument("--all", action="store_true", help="All that is kept. [default: no]")
    if command == "retry":
        parser.add_argument(
            "--over", action="store_true", help="Replace what is there now. [default: no]"
        )
        parser.add_argument(
            "--as",
            metavar="BUCKET/NAME",
            type=_place,
            help="Store it under this name. [default: its own]",
        )
    if command == "discard":
        parser.add_argument("--yes", action="store_true", help="Ask nothing. [default: ask]")


def _place(text: str) -> tuple[str, str]:
    bucket, _, key = text.partition("/")
    if not bucket or not key:
        raise argparse.ArgumentTypeError(f"{text} is not BUCKET/NAME")
    return bucket, key
