"""Where the log goes: a stream, the journal or a file. SIGUSR1 adds the stacks of all threads."""

from __future__ import annotations

import faulthandler
import logging
import logging.handlers
import os
import signal
import sys
import threading
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from allasfs.errors import UsageError

LEVELS = ("debug", "info", "warning", "error")

# The default log of a mount in the background never grows beyond two files of this size.
MAX_BYTES = 10 * 1024 * 1024

_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
# The journal adds time and process itself, and takes the level from the prefix (sd-daemon(3)).
_JOURNAL_LINE = "%(name)s: %(message)s"
_PRIORITIES = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_DEBUG_PRIORITY = 7


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What the user asked for; ``default_file`` is for a background mount that says nothing."""

    level: str = "info"
    file: Path | None = None
    journal: bool = False
    background: bool = False
    default_file: Path = Path(os.devnull)

    @property
    def target(self) -> str:
        """Where the log goes, for people to read."""
        if self.file:
            return str(self.file)
        if self.journal:
            return "the journal"
        return str(self.default_file) if self.background else "standard error"


def plain(text: str) -> str:
    """Return a text on one line that does nothing to a terminal.

    Names of objects are anybody's: a line break would forge a line, an escape sequence move the
    cursor, an override of the direction of writing turn a name around.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class PlainFormatter(logging.Formatter):
    """One line for each record; those of a traceback are indented, so that none looks like one."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Return the record's own line."""
        record.message = plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        """Return a traceback."""
        return "\n".join(f"  {plain(line)}" for line in super().formatException(ei).split("\n"))


class JournalFormatter(PlainFormatter):
    """Lines that journald understands: a priority before each line, of a traceback, too."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record with a ``<N>`` at the start of each of its lines."""
        priority = next((n for level, n in _PRIORITIES if record.levelno >= level), _DEBUG_PRIORITY)
        return "\n".join(f"<{priority}>{line}" for line in super().format(record).splitlines())


class WatchedLog(logging.handlers.WatchedFileHandler):
    """A file that others may rotate: it is opened again when its name leads elsewhere."""

    def _open(self) -> TextIOWrapper:
        stream = _open_private(self.baseFilename, os.O_APPEND)
        _dump_stacks_into(stream)
        return stream

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record; where the file cannot be opened again, no one who logs fails of it."""
        try:
            super().emit(record)
        except OSError:
            self.handleError(record)


class BoundedLog(logging.handlers.RotatingFileHandler):
    """A file that nobody rotates for us, and whose name nobody chose."""

    def _open(self) -> TextIOWrapper:
        stream = _open_private(self.baseFilename, os.O_APPEND | os.O_NOFOLLOW)
        _dump_stacks_into(stream)
        return stream


def _open_private(path: str, flags: int) -> TextIOWrapper:
    """Open a log; a new one is for its owner alone, whatever the umask: names tell much."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flags, 0o600)
    return os.fdopen(fd, "a", encoding="utf-8", errors="backslashreplace")


def start_logging(settings: LogSettings) -> None:
    """Send the log where the settings say; raise UsageError when the file cannot be written.

    Only allasfs' own messages follow the level: libraries at DEBUG would log requests with all
    that is in them.
    """
    handler = _handler(settings)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("allasfs").setLevel(settings.level.upper())
    threading.excepthook = _log_thread_death


def is_journal(journal_stream: str, fd: int = 2) -> bool:
    """Whether ``fd`` is the stream to the journal that ``JOURNAL_STREAM`` (device:inode) names."""
    try:
        status = os.fstat(fd)
    except OSError:  # the descriptor is closed, so it is no stream to anywhere
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def _handler(settings: LogSettings) -> logging.Handler:
    handler: logging.Handler
    file = settings.file
    if file is None and settings.background and not settings.journal:
        file = settings.default_file
    if file is None:
        handler = _stream_handler()
    else:
        handler = _file_handler(file, bounded=file != settings.file)
    journal = file is None and settings.journal
    handler.setFormatter(JournalFormatter(_JOURNAL_LINE) if journal else PlainFormatter(_LINE))
    return handler


def _file_handler(file: Path, *, bounded: bool) -> logging.Handler:
    try:
        if bounded:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return BoundedLog(file, maxBytes=MAX_BYTES, backupCount=1, encoding="utf-8")
        return WatchedLog(file, encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"log file {file}: {exc.strerror}: name another with --log-file") from exc


def _stream_handler() -> logging.Handler:
    # A copy, because descriptor 2 itself is taken away from time to time (mount.py).
    stream = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    _dump_stacks_into(stream)
    return logging.StreamHandler(stream)


def _dump_stacks_into(stream: TextIOWrapper) -> None:
    faulthandler.register(signal.SIGUSR1, file=stream, all_threads=True)


def _log_thread_death(args: threading.ExceptHookArgs) -> None:
    """Log an exception that ended a thread; standard error leads nowhere in the background."""
    name = args.thread.name if args.thread else "?"
    value = args.exc_value or args.exc_type()
    info = (args.exc_type, value, args.exc_traceback)
    logging.getLogger(__name__).error("thread %s ended with an error", name, exc_info=info)


def report(line: str) -> None:
    """Write the one line that a user sees when a command fails."""
    sys.stderr.write(f"allasfs: {plain(line)}\n")
