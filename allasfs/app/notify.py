"""Tell systemd how the mount fares: the datagrams of sd_notify(3).

The protocol is a few words on a socket, stable by systemd's promise, and its manual page advises
programs to speak it themselves rather than to depend on a library.
"""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to the service manager; does nothing when there is none."""

    def __init__(self, address: str = "") -> None:
        """Remember the content of ``NOTIFY_SOCKET``."""
        self._address = "\0" + address[1:] if address.startswith("@") else address

    def send(self, *states: str) -> None:
        """Send assignments such as ``READY=1``; a manager that does not listen is only logged."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                sock.connect(self._address)
                sock.sendall("\n".join(states).encode())
        except OSError as exc:
            log.warning("the service manager cannot be notified at %r: %s", self._address, exc)
