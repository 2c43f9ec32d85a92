"""The first steps of every service process: tie its life to its parent's, take over its socket.

A service is started with these arguments: its listening socket's descriptor, the descriptor of
a pipe on which it says that it is ready, its parent's process id, then its own settings.
"""

import ctypes
import os
import signal
import socket
import sys
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


@dataclass(frozen=True)
class Inherited:
    """What a service gets from the process that started it."""

    socket: socket.socket
    settings: tuple[str, ...]
    _ready_fd: int

    def ready(self) -> None:
        """Tell the parent that requests are answered from now on."""
        os.write(self._ready_fd, b"ready")
        os.close(self._ready_fd)


def inherit() -> Inherited:
    """Take over what the parent passed on the command line; from now on die when it dies."""
    fd, ready_fd, parent, *settings = sys.argv[1:]
    die_with(int(parent))
    return Inherited(socket.socket(fileno=int(fd)), tuple(settings), int(ready_fd))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends, however it ends.

    SIGKILL reaches even a process that is stopped.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:  # it died before the kernel knew our wish
        os._exit(1)
