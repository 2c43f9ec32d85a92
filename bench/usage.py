"""What a process has used, and the page cache of the machine. Linux, /proc."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
KIB = 1024


def tree(pid: int) -> list[int]:
    """Return a process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and (fields := _stat(int(folder.name))):
            parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [pid]
    for each in found:
        found += parents.get(each, [])
    return found


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process, its descendants, and those that it has waited for."""
    ticks = 0
    for each in tree(pid):
        if fields := _stat(each):
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def memory_bytes(pid: int, field: str) -> int:
    """Return VmHWM (the peak) or VmRSS of a process and its descendants, added up."""
    total = 0
    for each in tree(pid):
        try:
            lines = Path(f"/proc/{each}/status").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * KIB for line in lines if line.startswith(f"{field}:"))
    return total


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat after the name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def wait_alone(pid: int) -> None:
    """Return when a process has no children any more, as those that mount for it; after 1 s."""
    for _ in range(50):
        if tree(pid) == [pid]:
            return
        time.sleep(0.02)


def drop_page_cache() -> bool:
    """Empty the page cache; return whether we may."""
    subprocess.run(["sync"], check=True)
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1\n")
    except OSError:
        return False
    return True


def bytes_read(command: list[str]) -> int:
    """Run a program and return how many bytes it has read from files."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    fields = dict(
        line.split(": ") for line in Path(f"/proc/{process.pid}/io").read_text().splitlines()
    )
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, command)
    return int(fields["rchar"])
