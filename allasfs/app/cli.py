"""The command line: words and environment in, exit code out; everything is wired together here.

The only reader of the environment. Errors that a user can cause are one line on standard error
and an exit code of their own (errors.py: SetupError).
"""

from __future__ import annotations

import argparse
import difflib
import getpass
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from allasfs import __version__
from allasfs.app import checks, folders, logs, unmounting
from allasfs.app.daemon import EXIT_INTERRUPTED, Announce, Background, in_background
from allasfs.app.notify import Notifier
from allasfs.app.options import (
    Settings,
    Words,
    help_text,
    read_settings,
    split_words,
    unknown_variables,
)
from allasfs.errors import SetupError, UsageError

if TYPE_CHECKING:
    from allasfs.store.auth import Auth

# The child's own waits are bounded (credentials, store, first answer); this is for one that hangs.
START_PATIENCE_S = 60.0

TOP_USAGE = """\
usage: allasfs COMMAND ...

  allasfs mount [BUCKET[/PREFIX]] DIR   mount a project, a bucket or a folder of it at DIR
  allasfs umount DIR                    unmount, and wait until everything is uploaded
  allasfs sync DIR                      wait until the store has every file that was closed
  allasfs status DIR [--json]           show what a mount does
  allasfs recover                       list, upload, save or discard what could not be uploaded
  allasfs demo DIR                      try it with an object store on this computer
  allasfs --version

'allasfs help COMMAND' explains each.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    return _guarded(lambda: _dispatch(list(sys.argv[1:] if argv is None else argv)))


def mount_helper(argv: Sequence[str] | None = None) -> int:
    """Run as ``mount.allasfs``, which mount(8) calls: SOURCE DIR [-sfnv] [-o OPTIONS]."""
    return _guarded(lambda: _mount_helper(list(sys.argv[1:] if argv is None else argv)))


def _guarded(work: Callable[[], int]) -> int:
    try:
        return work()
    except SetupError as exc:
        logs.report(str(exc))
        return exc.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    command, *args = argv or [""]
    if command == "help" and args:
        command, *args = [*args, "--help"]
    if command in ("-h", "--help", "help"):
        sys.stdout.write(TOP_USAGE)
        return 0
    if command == "--version" or (command in COMMANDS and args == ["--version"]):
        sys.stdout.write(f"allasfs {__version__}\n")
        return 0
    if command in COMMANDS:
        return COMMANDS[command](args)
    near = difflib.get_close_matches(command, COMMANDS, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the commands are {', '.join(COMMANDS)}"
    raise UsageError(f"unknown command {command!r}: {hint}" if command else f"no command: {hint}")


class _Parser(argparse.ArgumentParser):
    """A parser that raises UsageError instead of ending the process."""

    def error(self, message: str) -> NoReturn:
        """Raise the message as UsageError."""
        raise UsageError(f"{message}; see {self.prog} --help")


# -- mount ----------------------------------------------------------------------------------------


def _mount(args: list[str]) -> int:
    words = split_words(args)
    if words.asks_help:
        sys.stdout.write(help_text("allasfs mount"))
        return 0
    settings = _settings(words)
    mount_point = _checked_mount_point(settings.directory)
    config = settings.config
    label = f"{config.bucket}/{config.prefix}".strip("/") or "the whole project"
    if config.spool_dir is None:
        config = replace(config, spool_dir=folders.default_spool(mount_point, label))
    if config.attr_db is None:
        config = replace(config, attr_db=folders.default_attr_db())
    log_settings = logs.LogSettings(
        level=settings.log_level,
        file=settings.log_file,
        journal=settings.log_journal or logs.is_journal(os.environ.get("JOURNAL_STREAM", "")),
        background=not settings.foreground,
        default_file=folders.default_log_file(mount_point),
    )
    work = _work(replace(settings, config=config), mount_point, label, log_settings.target)
    if settings.foreground:
        logs.start_logging(log_settings)
        return work(lambda: None)
    outcome = in_background(
        Background(
            start_logging=lambda: logs.start_logging(log_settings),
            work=work,
            timeout_s=START_PATIENCE_S + config.timeout_s,
            log_target=log_settings.target,
        )
    )
    if outcome.exit_code:
        _take_away_dead(mount_point)
    if outcome.line:
        logs.report(outcome.line)
    return outcome.exit_code


def _take_away_dead(mount_point: str) -> None:
    """Take away what a process that died while it started has left: nothing was mounted before."""
    entry = checks.mounts().get(mount_point)
    if entry is None or not entry.is_ours:
        return
    if checks.probe(mount_point, START_PATIENCE_S) in checks.DEAD:
        with suppress(SetupError):
            unmounting.unmount(mount_point, lazy=True)


def _settings(words: Words) -> Settings:
    for line in unknown_variables(os.environ):
        logs.report(line)
    return read_settings(
        words, os.environ, folders.config_files(), uid=os.getuid(), gid=os.getgid()
    )


def _checked_mount_point(directory: str) -> str:
    """Return the absolute mount point; raise what keeps this computer from mounting there."""
    entries = checks.mounts()
    mount_point = checks.resolve(directory, entries)
    checks.check_mount_point(mount_point, entries)
    checks.check_fuse_device()
    unmounting.check_fusermount()
    return mount_point


def _work(
    settings: Settings, mount_point: str, label: str, log_target: str
) -> Callable[[Announce], int]:
    """Return the work of the serving process; raise SetupError for what can be known before."""
    # These need a quarter of a second, which the other commands need not wait for, and fusepy
    # loads libfuse when it is imported.
    try:
        from allasfs.app.content import open_content
    except OSError as exc:
        raise checks.no_libfuse(exc) from exc
    from allasfs.app import mount

    config = settings.config
    account = _account(settings)

    def work(announce: Announce) -> int:
        job = mount.Job(
            mount_point=mount_point,
            label=label,
            open=lambda: open_content(account, config, mount_point),
            control_path=folders.runtime_folder() / folders.control_name(mount_point),
            timeout_s=config.timeout_s,
            open_files=config.open_files,
            notifier=Notifier(os.environ.get("NOTIFY_SOCKET", "")),
            facts={"read_only": config.read_only, "log": log_target, "spool": config.spool_dir},
        )
        return mount.run(job, announce)

    return work


def _account(settings: Settings) -> Auth:
    """Return the authentication that was asked for; raise BadCredentials."""
    from allasfs.store import auth

    return auth.load(
        auth.Sources(
            environ=os.environ,
            home=Path.home(),
            rc_file=settings.rc_file,
            cloud=settings.cloud,
            token_file=settings.token_file,
            token_command=settings.token_command,
            ca_file=settings.ca_file,
            storage_url=settings.storage_url,
            region=settings.region,
            interface=settings.interface,
            timeout_s=settings.config.timeout_s,
            # Asked for now, while there is a terminal.
            ask_password=getpass.getpass if sys.stdin and sys.stdin.isatty() else None,
        )
    )


def _mount_helper(argv: list[str]) -> int:
    parser = _Parser(
        prog="mount.allasfs",
        description="Mount as mount(8) asks for it. SOURCE is BUCKET[/PREFIX], or none for the"
        " whole project; 'allasfs mount --help' lists the options.",
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument(
        "-o",
        metavar="OPTIONS",
        action="append",
        default=[],
        help="Mount options, parted by commas. [default: none]",
    )
    parser.add_argument("-f", action="store_true", help="Do all but the mount. [default: no]")
    parser.add_argument("-s", "-n", "-v", action="store_true", help="Accepted. [default: no]")
    parser.add_argument("-t", "-N", metavar="WORD", help="Accepted. [default: none]")
    found = parser.parse_args(argv)
    if found.f:
        return 0
    options = [word for items in found.o for word in ("-o", items)]
    what = [] if found.source in ("none", "/") else [found.source]
    return _mount([*options, "--", *what, found.directory])


# -- the other commands ---------------------------------------------------------------------------


def _wait(text: str) -> float | None:
    """Return seconds, None for ``forever``."""
    if text == "forever":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(
            f"{text} is neither a number of seconds above 0 nor 'forever'"
        )
    return value


def _parsed_wait(
    name: str, args: list[str], description: str, wait_s: float | None
) -> argparse.Namespace:
    """Return the words of a command that waits for the uploads of the mount at ``directory``."""
    parser = _Parser(prog=f"allasfs {name}", description=description, allow_abbrev=False)
    parser.add_argument("directory", metavar="DIR")
    default = "forever" if wait_s is None else f"{wait_s:g}"
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_wait,
        default=wait_s,
        help="Wait no longer than this (or 'forever') for the uploads, which go on, and say what is"
        f" left. [default: {default}]",
    )
    return parser.parse_args(args)


def _umount(args: list[str]) -> int:
    from allasfs.app import commands

    description = (
        "Unmount DIR and wait until everything is uploaded and its process has ended."
        " Also removes the mount of a process that has died."
    )
    found = _parsed_wait("umount", args, description, commands.UMOUNT_WAIT_S)
    commands.umount(found.directory, wait_s=found.wait)
    return 0


def _sync(args: list[str]) -> int:
    from allasfs.app import commands

    description = "Wait until the store has every file that was closed (--write-back)."
    found = _parsed_wait("sync", args, description, None)
    commands.sync(found.directory, wait_s=found.wait)
    return 0


def _status(args: list[str]) -> int:
    parser = _Parser(
        prog="allasfs status",
        description="Show what the mount at DIR does: process, account, files, uploads, caches.",
        allow_abbrev=False,
    )
    parser.add_argument("directory", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="Print JSON. [default: text]")
    found = parser.parse_args(args)
    from allasfs.app import commands

    commands.status(found.directory, as_json=found.json)
    return 0


def _recover(args: list[str]) -> int:
    from allasfs.app import recover, recover_words

    asked = recover_words.read(args, _Parser)
    settings = _settings(Words(asked.mount_options.options, ["."]))
    folder = settings.config.spool_dir
    named = map(recover.checked, asked.spools)
    folders_ = [*folders.spools(), *named, *([folder] if folder else [])]
    return recover.Recover(folders_, settings.config, lambda: _account(settings)).run(asked)


def _demo(args: list[str]) -> int:
    parser = _Parser(
        prog="allasfs demo",
        usage="%(prog)s DIR [--folder FOLDER] [mount options]",
        description="Start an OpenStack Swift and Keystone on this computer, mount the project of"
        " their only user at DIR, and stay until Ctrl-C. The options of 'allasfs mount' are"
        " passed on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--folder",
        metavar="FOLDER",
        type=Path,
        help="Keep the object store here. [default: a temporary folder, removed at the end]",
    )
    found, mount_args = parser.parse_known_args(args)
    # Read now, so that a wrong option does not wait for the start of a cloud.
    words = split_words(mount_args)
    if not words.positionals:
        raise UsageError("name the directory to mount at: allasfs demo DIR")
    mount_point = _checked_mount_point(_settings(words).directory)
    options = [*words.without_positionals, "--", *words.positionals[:-1]]
    from allasfs.app import demo

    return demo.run(mount_point, found.folder, options, os.environ)


COMMANDS: Mapping[str, Callable[[list[str]], int]] = {
    "mount": _mount,
    "umount": _umount,
    "sync": _sync,
    "status": _status,
    "recover": _recover,
    "demo": _demo,
}
