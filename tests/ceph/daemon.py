"""One process of Ceph: it dies with the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from allasfs.demo.errors import DemoError, ServiceDied

STOP_TIMEOUT_S = 10.0


def environment() -> Mapping[str, str]:
    """Return ours without what would lead Ceph to another cluster, or its requests elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CEPH_") and not name.lower().endswith("_proxy")
    }


def run(folder: Path, command: Sequence[str]) -> None:
    """Run one of Ceph's programs to its end; raise ServiceDied when it fails."""
    log = folder / "log" / f"{command[0]}.out"
    with log.open("ab") as output:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=60,
            check=False,
        )
    if done.returncode != 0:
        raise ServiceDied(command[0], log)


class Daemon:
    """A running daemon."""

    def __init__(self, folder: Path, name: str, command: Sequence[str]) -> None:
        """Start it; the command must stay in the foreground."""
        self.name = name
        self._out = folder / "log" / f"{name}.out"
        with self._out.open("ab") as output:
            self._process = subprocess.Popen(
                # The kernel kills it when the thread that started it ends.
                ["setpriv", "--pdeathsig", "KILL", *command],
                cwd=folder,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                # Ctrl-C in the terminal is for us alone: we stop it in good order.
                start_new_session=True,
                umask=0o077,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ServiceDied when it has ended."""
        if self._process.poll() is not None:
            raise ServiceDied(self.name, self._out)

    def stop(self) -> None:
        """End it in good order, at once if it does not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it at once; also when it is stopped."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it, and return when all of it stands."""
        self._process.send_signal(signal.SIGSTOP)
        deadline_s = time.monotonic() + STOP_TIMEOUT_S
        while not all(state == "T" for state in self._states()):
            if time.monotonic() > deadline_s:
                raise DemoError(f"{self.name} does not stop")
            time.sleep(0.001)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def _states(self) -> list[str]:
        """Return the state letters of its threads."""
        states = []
        for thread in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                stat = (thread / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:  # that thread has ended
                continue
            states.append(stat.rpartition(")")[2].split()[0])
        return states
