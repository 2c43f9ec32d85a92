"""The options of a mount, from wherever they are given, to one checked record.

Each option has one name. It is a flag (``--spool-size 5G``), an item of ``-o`` (``-o
spool-size=5G``), an environment variable (``ALLASFS_SPOOL_SIZE=5G``) and a line of a configuration
file (``spool-size = 5G``). The command line counts most, later words over earlier ones; then the
environment; then the file named by ``--config``; then the user's file; then the system's; then the
defaults, which ``Config`` holds.
"""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import configargparse

from allasfs.app.option_table import ENV_PREFIX, GROUPS, OPTIONS, Option, default_text
from allasfs.config import Config
from allasfs.errors import UsageError

CONFIG_OPTION = "config"
CONFIG_VARIABLE = ENV_PREFIX + "CONFIG"
YES_OR_NO = "yes|no"
# Of these the stronger source counts, and both in one source are an error.
ALTERNATIVES = ("rc-file", "cloud", "token-file", "token-command")

# What fstab and mount(8) pass for their own purposes, or what says no more than is true anyway
# (a file here never has a set-user-id bit, is never a device, and has no time of access).
IGNORED = frozenset(
    {
        *("_netdev", "auto", "noauto", "comment", "defaults", "nofail", "loud", "async"),
        *("user", "nouser", "users", "owner", "group", "suid", "dev", "exec", "iversion"),
        *("atime", "diratime", "relatime", "norelatime", "strictatime", "nostrictatime"),
        *("lazytime", "nolazytime", "mand", "nomand"),
    }
)
# What the kernel must do; passed on to it as it is.
KERNEL = frozenset({"noatime", "nodev", "nodiratime", "noexec", "nosuid", "sync", "dirsync"})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """All that a mount was asked for, checked as far as words can be."""

    config: Config
    directory: str
    foreground: bool = False
    log_level: str = "info"
    log_file: Path | None = None
    log_journal: bool = False
    rc_file: Path | None = None
    cloud: str | None = None
    token_file: Path | None = None
    token_command: str | None = None
    ca_file: Path | None = None
    storage_url: str | None = None
    region: str | None = None
    interface: str | None = None


# -- reading --------------------------------------------------------------------------------------

USAGE = "%(prog)s [BUCKET[/PREFIX]] DIR [-o NAME[=VALUE],...] [--NAME VALUE ...]"
DESCRIPTION = """\
Mount an object store at the directory DIR: the whole project, one bucket, or one folder of a
bucket. Returns when the mount answers; 'allasfs umount DIR' or 'fusermount -u DIR' ends it.
"""
EPILOG = f"""\
Each option is also an item of -o (-o ttl=10,ro), an environment variable ({ENV_PREFIX}TTL=10) and a
line of a configuration file (ttl = 10). The command line counts most, and on it the later word;
then the environment; then the file named by --config; then ~/.config/allasfs/allasfs.conf; then
/etc/allasfs/allasfs.conf. Sizes are whole numbers with K, M, G or T (powers of 1024). The name of a
yes-or-no option alone says yes; --no-NAME and --NAME=no say no. What fstab writes in -o for
mount(8) (_netdev, nofail, x-..., and the like) is accepted; noexec, nosuid, nodev, noatime and sync
reach the kernel.
"""


@dataclass
class Words:
    """A command line in one form: options as ``--name=value``, the rest, the kernel's options."""

    options: list[str] = field(default_factory=list)
    positionals: list[str] = field(default_factory=list)
    kernel: list[str] = field(default_factory=list)
    asks_help: bool = False

    @property
    def without_positionals(self) -> list[str]:
        """The options, as words of a command line."""
        return [*self.options, *(f"-o{name}" for name in self.kernel)]


def make_parser(prog: str, files: Iterable[Path] = ()) -> configargparse.ArgumentParser:
    """Return the parser of a mount's options."""
    parser = configargparse.ArgumentParser(
        prog=prog,
        usage=USAGE,
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
        # The library takes patterns; these are names.
        default_config_files=[glob.escape(str(path)) for path in files],
        add_config_file_help=False,
        add_env_var_help=False,
    )
    parser.error = _fail
    parser.add_argument(
        f"--{CONFIG_OPTION}",
        metavar="FILE",
        help=f"Configuration file; counts more than the user's and the system's. [default: none]"
        f" [{CONFIG_VARIABLE}]",
    )
    parser.add_argument(
        "-o",
        metavar="NAME[=VALUE],...",
        help="Mount options, as mount(8) passes them. [default: none]",
    )
    for title, options in GROUPS.items():
        group = parser.add_argument_group(f"{title} options")
        alternatives = group.add_mutually_exclusive_group()
        for option in options:
            place = alternatives if option.name in ALTERNATIVES else group
            text = f"{option.help} [default: {default_text(option)}] [{option.env_var}]"
            place.add_argument(
                f"--{option.name}",
                dest=option.dest,
                env_var=option.env_var,
                metavar=YES_OR_NO if option.is_flag else option.metavar,
                nargs="?" if option.is_flag else None,
                action="append" if option.repeated else "store",
                help=text.replace("%", "%%"),
            )
    return parser


def help_text(prog: str) -> str:
    """Return what ``--help`` prints."""
    # A flag's value is for files and variables; on the command line its name is enough.
    word = f" [{YES_OR_NO}]"
    text = str(make_parser(prog).format_help())
    return text.replace(f"{word}  ", " " * (len(word) + 2)).replace(word, "")


def read_settings(
    words: Words, environ: Mapping[str, str], files: list[Path], *, uid: int, gid: int
) -> Settings:
    """Return what was asked for; raise UsageError with the word that is wrong.

    ``uid`` and ``gid`` own the files unless options say otherwise.
    """
    named = _named_file(words, environ)
    parser = make_parser("allasfs mount", [*files, *named])
    try:
        found, unknown = parser.parse_known_args(args=words.options, env_vars=dict(environ))
    except configargparse.ConfigFileParserException as exc:
        raise UsageError(str(exc)) from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"a configuration file is not UTF-8: {exc}") from exc
    except OSError as exc:
        raise UsageError(f"configuration file {exc.filename}: {exc.strerror}") from exc
    sources = _Sources(parser)
    if unknown:
        raise unknown_option(sources.name_unknown(unknown[0]), where=sources.unknown_in())
    values: dict[str, object] = {"uid": uid, "gid": gid}
    for option in OPTIONS.values():
        given = getattr(found, option.dest)
        if given is not None:
            values[option.dest] = _parsed(option, given, sources)
    return _settings(words, values)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a line for each variable that looks like an option and is none."""
    known = {CONFIG_VARIABLE, *(option.env_var for option in OPTIONS.values())}
    lines = []
    for name in sorted(environ):
        if name.startswith(ENV_PREFIX) and name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            lines.append(f"{name} is no option" + (f": did you mean {near[0]}?" if near else ""))
    return lines


def _named_file(words: Words, environ: Mapping[str, str]) -> list[Path]:
    """Return the configuration file that was asked for by name, if any."""
    start = f"--{CONFIG_OPTION}="
    given = [word.removeprefix(start) for word in words.options if word.startswith(start)]
    names = given[-1:] or [environ[name] for name in (CONFIG_VARIABLE,) if environ.get(name)]
    for path in map(Path, names):
        if not path.exists():
            raise UsageError(f"configuration file {path}: no such file")
    return [Path(name) for name in names]


def split_words(args: list[str]) -> Words:
    """Take ``-o`` apart, write flags with their value, and set the other words aside."""
    words = Words()
    rest = iter(args)
    for word in rest:
        if word == "--":
            words.positionals.extend(rest)
        elif word.startswith("-o"):
            items = word[2:] or next(rest, "")
            for item in re.split(r"(?<!\\),", items):
                _add_item(item.replace("\\,", ","), words)
        elif word in ("-h", "--help"):
            words.asks_help = True
        elif word.startswith("--"):
            _add_flag(word, rest, words)
        elif word.startswith("-") and word != "-":
            raise unknown_option(word)
        else:
            words.positionals.append(word)
    return words


def unknown_option(name: str, *, where: str = "") -> UsageError:
    """Return the error that names an unknown option and the nearest known one."""
    bare = name.lstrip("-").replace("_", "-")
    # What is only ignored is nothing that anybody wants.
    known = [*OPTIONS, CONFIG_OPTION, *_OPPOSITES, *KERNEL]
    near = [
        f"-o {each}" if each in KERNEL else each
        for each in difflib.get_close_matches(bare, known, n=1)
    ]
    hint = f": did you mean {near[0]!r}?" if near else "; --help lists all"
    return UsageError(f"{where}unknown option {name!r}{hint}")


_OPPOSITES = {f"no-{option.name}": option.name for option in OPTIONS.values() if option.is_flag}
_OPPOSITES["rw"] = "ro"


def _is_known(name: str) -> bool:
    return name in OPTIONS or name in _OPPOSITES or name == CONFIG_OPTION


def _add_item(item: str, words: Words) -> None:
    """Add one item of ``-o``."""
    name, equals, _ = item.partition("=")
    if not item or name in IGNORED or name.startswith("x-"):
        return
    if item in KERNEL:
        words.kernel.append(item)
        return
    known = name.replace("_", "-")
    if not _is_known(known):
        raise unknown_option(name)
    value = item[len(name) :]
    if not equals and known in OPTIONS and not OPTIONS[known].is_flag:
        raise UsageError(f"option {name!r} needs a value: {name}=...")
    _add_flag(f"--{known}{value}", iter(()), words)


def _add_flag(word: str, rest: Iterable[str], words: Words) -> None:
    """Add one ``--name``, ``--no-name`` or ``--name=value``, taking its value from ``rest``."""
    name, equals, value = word[2:].partition("=")
    if not _is_known(name):
        raise unknown_option(f"--{name}")
    if name in _OPPOSITES:
        if equals:
            raise UsageError(f"option {name!r} takes no value")
        name, equals, value = _OPPOSITES[name], "=", "no"
    if not equals:
        is_flag = name in OPTIONS and OPTIONS[name].is_flag
        value = "yes" if is_flag else _next_value(name, rest)
    words.options.append(f"--{name}={value}")


def _next_value(name: str, rest: Iterable[str]) -> str:
    for value in rest:
        return value
    raise UsageError(f"option '--{name}' needs a value")


def _fail(message: str) -> None:
    raise UsageError(message)


class _Sources:
    """Where the parser found what, for messages."""

    def __init__(self, parser: configargparse.ArgumentParser) -> None:
        found: Mapping[str, Mapping[str, tuple[object, object]]]
        found = parser.get_source_to_settings_dict()
        self._by_dest: dict[str, str] = {}
        self._unknown: dict[str, str] = {}
        for source, settings in found.items():
            kind, _, file = source.partition("|")
            for key, (action, _value) in settings.items():
                if kind == "config_file" and action is None:
                    self._unknown[key] = f"{file}: "
                elif action is not None and kind in ("config_file", "environment_variables"):
                    self._by_dest[getattr(action, "dest", "")] = file or key

    def of(self, option: Option) -> str:
        """Return ``FILE: `` or ``VARIABLE: `` or nothing, to be put before a message."""
        return f"{self._by_dest[option.dest]}: " if option.dest in self._by_dest else ""

    def unknown_in(self) -> str:
        """Return the file with the first unknown option, to be put before a message."""
        return next(iter(self._unknown.values()), "")

    def name_unknown(self, word: str) -> str:
        """Return the unknown option as the user wrote it."""
        return next(iter(self._unknown), word.partition("=")[0])


def _parsed(option: Option, given: object, sources: _Sources) -> object:
    texts = given if isinstance(given, list) else [given]
    try:
        values = [option.parse(str(text)) for text in texts]
    except ValueError as exc:
        # What int() and float() say is for programmers.
        why = (
            f"{texts[-1]!r} is not a number"
            if "literal" in str(exc) or "convert" in str(exc)
            else str(exc)
        )
        raise UsageError(f"{sources.of(option)}option {option.name!r}: {why}") from exc
    return tuple(values) if option.repeated else values[0]


def _settings(words: Words, values: dict[str, object]) -> Settings:
    *what, directory = words.positionals or [""]
    if not directory:
        raise UsageError("name the directory to mount at: allasfs mount [BUCKET[/PREFIX]] DIR")
    if len(what) > 1:
        raise UsageError(f"unexpected word {directory!r}: allasfs mount [BUCKET[/PREFIX]] DIR")
    bucket, prefix = parse_bucket(what[0] if what else str(values.pop("bucket", "")))
    values |= {"bucket": bucket, "prefix": prefix, "kernel_options": tuple(words.kernel)}
    names = {entry.name for entry in fields(Config)}
    config = {name: value for name, value in values.items() if name in names}
    other = {name: value for name, value in values.items() if name not in names}
    return Settings(
        directory=directory,
        config=Config(**config),  # type: ignore[arg-type]  # the table's parsers give these types
        **other,  # type: ignore[arg-type]
    )


def parse_bucket(text: str) -> tuple[str, str]:
    """Return bucket and prefix (empty, or ending in ``/``) of ``BUCKET[/PREFIX]``."""
    if text in ("", "/"):
        return "", ""
    bucket, *parts = text.removesuffix("/").split("/")
    if not bucket or any(part in ("", ".", "..") for part in [bucket, *parts]):
        raise UsageError(f"{text!r} is no bucket or folder: write BUCKET or BUCKET/FOLDER")
    return bucket, "".join(f"{part}/" for part in parts)
