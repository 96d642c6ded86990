"""What some processes and all their children spend: processor time and memory, as the system counts it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and all that descend from it."""
    found, left = [], [pid]
    while left:
        found.append(left.pop())
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{found[-1]}/task").iterdir():
                left += map(int, (task / "children").read_text().split())
    return found


def processor_seconds(pids: Iterable[int]) -> float:
    """Return the processor time of processes and of their children that have ended, in s."""
    ticks = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # user, system, and both of children that were waited for
    return ticks / _TICKS


def machine_seconds() -> float:
    """Return the processor time that the whole machine has spent, in s."""
    fields = list(map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / _TICKS  # less what it was idle, or waited for a disk


def mebibytes(pids: Iterable[int]) -> float:
    """Return the memory of processes in MiB; what several share is counted once, where the system tells."""
    kib = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            try:
                lines, wanted = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines(), "Pss:"
            except PermissionError:
                lines, wanted = Path(f"/proc/{pid}/status").read_text().splitlines(), "VmRSS:"
            kib += sum(int(line.split()[1]) for line in lines if line.startswith(wanted))
    return kib / 1024
