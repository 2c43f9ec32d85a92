"""A slow line to a port of this computer: python -m bench.slow_line PORT DELAY_S BYTES_PER_S.

Prints the port that it listens on, and serves until killed. Each request of a connection waits for
DELAY_S before it goes on; each direction of a connection carries BYTES_PER_S at most (0: any).
The bytes never reach Python (splice), and the kernel does the pacing (SO_MAX_PACING_RATE), so that
the line itself costs little of the computer that is measured.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import sys
import threading
import time
from collections.abc import Callable

HOST = "127.0.0.1"
PIPE_BYTES = 1024 * 1024
# <asm-generic/socket.h>
SO_MAX_PACING_RATE = 47
# An answer that is none yet: the client waits for it before it sends a body.
INTERIM = b"HTTP/1.1 100"


class Stream:
    """One connection of a client, and ours to the server for it."""

    def __init__(self, client: socket.socket, port: int, delay_s: float, rate: int) -> None:
        self._client = client
        self._server = socket.create_connection((HOST, port))
        self._delay_s = delay_s
        # Whether the client has an answer to all that it asked: what comes next is a new request.
        self._is_answered = True
        for each in (self._client, self._server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if rate:
                each.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate)

    def start(self) -> None:
        """Carry both directions, each in a thread, until the connection ends."""
        for work in (self._ask, self._answer):
            threading.Thread(target=self._until_end, args=(work,), daemon=True).start()

    def _until_end(self, work: Callable[[], None]) -> None:
        with contextlib.suppress(OSError):
            work()
        for each in (self._client, self._server):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _ask(self) -> None:
        with Pipe(self._client, self._server) as pipe:
            while pipe.take():
                if self._is_answered:
                    self._is_answered = False
                    time.sleep(self._delay_s)
                pipe.give()

    def _answer(self) -> None:
        with Pipe(self._server, self._client) as pipe:
            while head := self._server.recv(len(INTERIM), socket.MSG_PEEK):
                if not head.startswith(INTERIM):
                    self._is_answered = True
                pipe.take()
                pipe.give()


class Pipe:
    """Moves bytes from a socket to another inside the kernel."""

    def __init__(self, source: socket.socket, target: socket.socket) -> None:
        self._source, self._target = source, target
        self._reader, self._writer = os.pipe()
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._held = 0

    def __enter__(self) -> Pipe:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._reader)
        os.close(self._writer)

    def take(self) -> int:
        """Wait for bytes and take them; return how many, 0 at the end."""
        self._held = os.splice(self._source.fileno(), self._writer, PIPE_BYTES)
        return self._held

    def give(self) -> None:
        """Pass on what was taken."""
        while self._held:
            self._held -= os.splice(self._reader, self._target.fileno(), self._held)


def main() -> None:
    """Serve until killed."""
    port, delay_s, rate = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    with socket.create_server((HOST, 0), backlog=256) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            client, _ = listener.accept()
            Stream(client, port, delay_s, rate).start()


if __name__ == "__main__":
    main()
