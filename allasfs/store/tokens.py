"""Tokens that somebody else gets: read from a file, or from what a command prints.

Each ``ask()`` reads it anew; renewal.py asks at the start and when the store refused a token. What
the file holds and the command prints is in no message and no log record.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from allasfs.errors import BadCredentials, HostUnreachable
from allasfs.store.forms import TokenFrom, header_safe
from allasfs.store.renewal import Endpoint, Grant

log = logging.getLogger(__name__)

SHELL = "/bin/sh"
# A command that takes longer is ended, with all that it started.
COMMAND_S = 20.0
# More is no token.
MOST_BYTES = 64 * 1024


class AskForToken:
    """Reads a token where its owner puts it (a ``renewal.Asker``)."""

    advice = ""
    # Two runs of a command at a time would surprise its owner; it has a limit of its own.
    is_impatient = False

    def __init__(self, chosen: TokenFrom) -> None:
        self._chosen = chosen
        self._url = chosen.place.storage_url or ""
        self._last = ""
        self._complained_of = ""
        self.address = chosen.place.source
        self.ca_file = chosen.place.ca_file
        self.facts: Mapping[str, str] = {
            "kind": "token",
            "source": chosen.place.source,
            "storage url": self._url,
        }

    def ask(self) -> Grant:
        """Return the token that is there now; raise HostUnreachable when there is none."""
        chosen = self._chosen
        if chosen.file is not None:
            found = _read(chosen.file)
        else:
            found = _run(chosen.command, chosen.environ)
        try:
            token = header_safe("the token", found.decode("ascii").strip())
        except (UnicodeDecodeError, BadCredentials):
            token = ""
        if not token or " " in token:
            raise HostUnreachable(f"{self.address}: this is no token")
        if token == self._last and token != self._complained_of:
            self._complained_of = token
            log.warning("the object store refuses the token of %s, and there is no other", self)
        elif self._last and token != self._last:
            log.info("a new token from %s", self)
        self._last = token
        return Grant(Endpoint(self._url, token))

    def __str__(self) -> str:
        """Return where the token is from."""
        return self.address


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_BYTES)
    except OSError as exc:
        raise HostUnreachable(f"{path} cannot be read: {exc.strerror}") from None


def _run(command: str, environ: Mapping[str, str]) -> bytes:
    """Return what a command prints; raise HostUnreachable when it fails."""
    try:
        process = subprocess.Popen(
            [SHELL, "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            # It may quote what it was given.
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        )
    except OSError as exc:
        raise HostUnreachable(f"the token command cannot be run: {exc.strerror}") from None
    with process:
        try:
            found, _ = process.communicate(timeout=COMMAND_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            why = f"the token command did not end within {COMMAND_S:g} s"
            raise HostUnreachable(why) from None
    if process.returncode:
        raise HostUnreachable(f"the token command failed: exit code {process.returncode}")
    return found
