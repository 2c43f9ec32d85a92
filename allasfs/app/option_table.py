"""The table of a mount's options: names, checks of their values, and their defaults."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

from allasfs.app import logs
from allasfs.config import GIB, KIB, MIB, TIB, Config, parse_size

ENV_PREFIX = "ALLASFS_"

# The store takes one PUT of up to 5 GiB, and segments of SLOs from 1 byte; below 1 MiB a file of
# some GiB would have more segments than Swift lists in one page.
MAX_PUT_BYTES = 5 * GIB
MIN_SEGMENT_BYTES = MIB

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

Parse = Callable[[str], object]


# -- values ---------------------------------------------------------------------------------------


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"{text!r} is not a number of seconds")
    return value


def _positive_seconds(text: str) -> float:
    value = _seconds(text)
    if value == 0:
        raise ValueError("0 is too short a time")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is not at least 1")
    return value


def _count_from(least: int) -> Parse:
    def parse(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError(f"{text} is not at least {least}")
        return value

    return parse


def _number(text: str) -> int:
    value = int(text)
    if value < 0:
        raise ValueError(f"{text} is negative")
    return value


def octal_mask(text: str) -> int:
    """Return permission bits; raise ValueError."""
    if not re.fullmatch(r"[0-7]{1,4}", text) or int(text, 8) > 0o777:
        raise ValueError(f"{text!r} is not an octal mask such as 022")
    return int(text, 8)


def yes_or_no(text: str) -> bool:
    """Return the meaning of yes, no, true, false, on, off, 1, 0; raise ValueError."""
    word = text.lower()
    if word not in _TRUE | _FALSE:
        raise ValueError(f"{text!r} is neither yes nor no")
    return word in _TRUE


def _one_of(*words: str) -> Parse:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _size_between(low: int, high: int) -> Parse:
    def parse(text: str) -> int:
        value = parse_size(text)
        if not low <= value <= high:
            raise ValueError(f"{text} is not between {show_size(low)} and {show_size(high)}")
        return value

    return parse


def _path(text: str) -> Path:
    # Absolute, because a mount in the background leaves the folder it was started in.
    return Path(text).expanduser().absolute()


def _exact_or_listed(text: str) -> bool:
    return _one_of("listed", "exact")(text) == "exact"


def show_size(count: int) -> str:
    """Return bytes as an option takes them: ``16G``."""
    for unit, name in ((TIB, "T"), (GIB, "G"), (MIB, "M"), (KIB, "K")):
        if count and count % unit == 0:
            return f"{count // unit}{name}"
    return str(count)


# -- the table ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Option:
    """One option; ``dest`` is the field of Config or of Settings that it fills."""

    name: str
    dest: str
    parse: Parse
    help: str
    metavar: str = ""
    default: str = ""  # shown; empty: the value that Config has
    repeated: bool = False

    @property
    def is_flag(self) -> bool:
        """Whether it is yes or no, so that its name alone says yes."""
        return self.parse is yes_or_no

    @property
    def env_var(self) -> str:
        """The environment variable that sets it."""
        return ENV_PREFIX + self.name.replace("-", "_").upper()


_SPOOL_SIZE = _size_between(MIB, 1024 * TIB)
_MEMORY = _size_between(16 * MIB, TIB)
# Less is not enough for a start.
_OPEN_FILES = _count_from(64)
_SEGMENT = _size_between(MIN_SEGMENT_BYTES, MAX_PUT_BYTES)

MOUNT_OPTIONS = (
    Option("ro", "read_only", yes_or_no, "Refuse every change. -o rw is the opposite."),
    Option(
        "allow-other",
        "allow_other",
        yes_or_no,
        "Let other users use the mount, with your rights in the store, as modes and owners of files"
        " allow. Ordinary users need user_allow_other in /etc/fuse.conf.",
    ),
    Option(
        "default-permissions",
        "default_permissions",
        yes_or_no,
        "Let the kernel check mode and owner of files.",
        default="with allow-other yes, else no",
    ),
    Option("uid", "uid", _number, "Owner of files to which none was given.", "UID", "your own"),
    Option("gid", "gid", _number, "Group of files to which none was given.", "GID", "your own"),
    Option(
        "umask",
        "umask",
        octal_mask,
        "Permission bits that files lack to which no mode was given, octal.",
        "MASK",
    ),
    Option(
        "attrs",
        "exact_attributes",
        _exact_or_listed,
        "Times, modes and owners of objects that this computer never saw: 'listed' shows when they"
        " were stored and the mount's mode and owner; 'exact' asks for each, once.",
        "listed|exact",
        "listed",
    ),
    Option(
        "attr-db",
        "attr_db",
        _path,
        "File that remembers times, modes and owners, also for other mounts of yours.",
        "FILE",
        "a file of this computer in your cache folder (~/.cache/allasfs)",
    ),
    Option(
        "attr-db-rows",
        "attr_db_rows",
        _number,
        "How many objects attr-db remembers at most; 0 remembers none.",
        "N",
    ),
    Option("xattrs", "xattrs", yes_or_no, "Offer extended attributes (user.*)."),
)
STORE_OPTIONS = (
    Option(
        "bucket",
        "bucket",
        str,
        "The bucket to mount, or a folder in it; a BUCKET before DIR counts more.",
        "BUCKET[/PREFIX]",
        "the whole project",
    ),
    Option(
        "ttl",
        "ttl_s",
        _seconds,
        "How old an answer about names, sizes and times may be. Changes by others show after at"
        " most this long, in directories of 10,000 names somewhat later.",
        "SECONDS",
    ),
    Option(
        "timeout",
        "timeout_s",
        _positive_seconds,
        "An operation that makes no progress for this long ends with an error.",
        "SECONDS",
    ),
    Option("connections", "connections", _count, "Connections to the store at once.", "N"),
    Option(
        "threads",
        "threads",
        _count,
        "What the kernel may ask ahead of programs at once; each is a thread. The calls of programs"
        " have one each besides.",
        "N",
    ),
    Option(
        "open-files",
        "open_files",
        _OPEN_FILES,
        "Descriptors that the process may have open, up to its hard limit.",
        "N",
    ),
    Option("memory", "memory", _MEMORY, "Memory for what is read ahead and kept.", "SIZE"),
    Option(
        "names",
        "names",
        _count,
        "Names of objects that are remembered, up to 500 bytes each; a bucket or folder of more is"
        " not listed.",
        "N",
    ),
    Option(
        "spool-dir",
        "spool_dir",
        _path,
        "Private folder in which written files wait for their upload. No two mounts share one.",
        "FOLDER",
        "a folder of this mount in your state folder (~/.local/state/allasfs)",
    ),
    Option(
        "write-back",
        "write_back",
        yes_or_no,
        "close() and fsync() return when the local disk has the file; it is stored soon after."
        " 'allasfs sync' waits for that.",
    ),
    Option(
        "write-back-delay",
        "write_back_delay_s",
        _seconds,
        "How long a closed file waits with write-back, so that what is renamed or removed at once"
        " is not uploaded before.",
        "SECONDS",
    ),
    Option("spool-size", "spool_size", _SPOOL_SIZE, "Limit of the spool folder's content.", "SIZE"),
    Option(
        "segment-threshold",
        "segment_threshold",
        _size_between(1, MAX_PUT_BYTES),
        "Files above this size, or half of the spool, are stored in segments.",
        "SIZE",
    ),
    Option(
        "segment-size",
        "segment_size",
        _SEGMENT,
        "Size of the first 24 segments of a file; later ones are larger.",
        "SIZE",
    ),
    Option(
        "large-objects",
        "large_objects",
        _one_of("auto", "slo", "dlo"),
        "How files in segments are published: by a static (slo) or a dynamic (dlo) manifest; auto"
        " takes static ones where listings tell their size (OpenStack Swift), else dynamic ones"
        " (Ceph RGW, Allas).",
        "auto|slo|dlo",
    ),
    Option("show-segments", "show_segments", yes_or_no, "Show the buckets that hold segments."),
    Option(
        "show-ameta",
        "show_ameta",
        yes_or_no,
        "List the objects of CSC's a-commands that describe others (*_ameta).",
    ),
    Option(
        "extra-bucket",
        "extra_buckets",
        str,
        "Show this bucket of another project beside your own. May be given more than once.",
        "BUCKET",
        "none",
        repeated=True,
    ),
)
CREDENTIAL_OPTIONS = (
    Option(
        "rc-file",
        "rc_file",
        _path,
        "OpenStack RC file (openrc.sh) with the credentials. It is read, not run.",
        "FILE",
        "the OS_* variables, then ~/.allas_connection",
    ),
    Option("cloud", "cloud", str, "Name of a cloud in clouds.yaml.", "NAME", "OS_CLOUD"),
    Option(
        "token-file",
        "token_file",
        _path,
        "File with a token and nothing else; read again when the store refuses the token. Needs"
        " --storage-url.",
        "FILE",
        "none",
    ),
    Option(
        "token-command",
        "token_command",
        str,
        "Command for /bin/sh that prints a token; run again when the store refuses the token. Needs"
        " --storage-url.",
        "COMMAND",
        "none",
    ),
    Option(
        "ca-file",
        "ca_file",
        _path,
        "Certificates of the authorities to trust.",
        "FILE",
        "OS_CACERT, else REQUESTS_CA_BUNDLE, else those of the Python package certifi",
    ),
    Option(
        "storage-url",
        "storage_url",
        str,
        "Address of the account in the store.",
        "URL",
        "what the identity service says",
    ),
    Option("region", "region", str, "Region of the store.", "NAME", "OS_REGION_NAME"),
    Option(
        "interface",
        "interface",
        str,
        "Which of the store's addresses to use: public, internal or admin.",
        "NAME",
        "OS_INTERFACE, else public",
    ),
)
LOG_OPTIONS = (
    Option(
        "log-file",
        "log_file",
        _path,
        "Append the log to this file. It may be rotated by others.",
        "FILE",
        "standard error in the foreground; in the background a file in your log folder"
        " (~/.local/state/allasfs/log)",
    ),
    Option(
        "log-journal",
        "log_journal",
        yes_or_no,
        "Log to standard error as the systemd journal takes it. The rule when standard error is"
        " the journal.",
        default="no",
    ),
    Option(
        "log-level",
        "log_level",
        _one_of(*logs.LEVELS),
        f"The least weight of what is logged: {', '.join(logs.LEVELS)}.",
        "LEVEL",
        "info",
    ),
)
RUN_OPTIONS = (
    Option(
        "foreground",
        "foreground",
        yes_or_no,
        "Stay in the foreground until unmounted.",
        default="no",
    ),
)
GROUPS = {
    "mount": MOUNT_OPTIONS,
    "store": STORE_OPTIONS,
    "credentials": CREDENTIAL_OPTIONS,
    "log": LOG_OPTIONS,
    "process": RUN_OPTIONS,
}
OPTIONS = {option.name: option for group in GROUPS.values() for option in group}


def default_text(option: Option) -> str:
    """Return the default of an option, as the user would write it."""
    if option.default:
        return option.default
    value: object = next(entry.default for entry in fields(Config) if entry.name == option.dest)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, int) and option.parse is octal_mask:
        return f"{value:03o}"
    if isinstance(value, int) and option.metavar == "SIZE":
        return show_size(value)
    return str(value)
