"""What a program and its machine use: processor, memory, disk, network, accelerators. Starts no process.

Where a system has no /proc, or hides a part of it, that part is left out.
"""

from __future__ import annotations

import os
from pathlib import Path

from cmf.worktree.gpus import Gpus

PREFIX = "system/"
SECONDS = 10.0
SHARE_MAX = 0.001
"""Of one processor's time: on a machine where a look costs more, looks are rarer."""

_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_SECTOR = 512


class Usage:
    """Looks at what is used, as often as that costs next to nothing. Times are monotonic seconds."""

    def __init__(self, folder: Path, started: float) -> None:
        self._folder = folder
        self._due = started + 1.0  # most faults of a run show in its first minute
        self._before = started
        self._counted = self._counts()
        self._gpus = Gpus()

    def due(self, now: float) -> bool:
        """Tell whether it is time to look again."""
        return now >= self._due

    def rest(self, spent: float) -> None:
        """Look again later, if the last look took so many seconds of a processor that ten seconds are too soon."""
        self._due = self._before + max(SECONDS, spent / SHARE_MAX)

    def look(self, now: float) -> dict[str, float]:
        """Return what is used now, or was on average since the look before."""
        self._due = now + SECONDS
        counted, before = self._counts(), self._counted
        seconds, self._before, self._counted = now - self._before, now, counted
        found = {
            name: max(0.0, (count - before[name]) / seconds)
            for name, count in counted.items()
            if name in before and seconds > 0
        }
        return {**found, **self._levels(), **{PREFIX + name: value for name, value in self._gpus.look().items()}}

    def _counts(self) -> dict[str, float]:
        """Return what only grows: a look's answer is how fast it did."""
        found: dict[str, float] = {}
        machine = _text("/proc/stat").partition("\n")[0].split()[1:9]
        if len(machine) == 8:
            ticks = [int(field) for field in machine]
            found["system/machine/cores"] = (sum(ticks) - ticks[3] - ticks[4]) / _TICKS  # neither idle nor waiting
        network = [line.partition(":") for line in _text("/proc/net/dev").splitlines()[2:]]
        outside = [rest.split() for name, _, rest in network if name.strip() != "lo"]
        if outside:
            found["system/machine/received"] = sum(int(fields[0]) for fields in outside)
            found["system/machine/sent"] = sum(int(fields[8]) for fields in outside)
        disks = [line.split() for line in _text("/proc/diskstats").splitlines()]
        # A disk counts once: its partitions and what is stacked on it say the same again.
        whole = [fields for fields in disks if len(fields) > 9 and Path("/sys/block", fields[2], "device").exists()]
        if whole:
            found["system/machine/read"] = _SECTOR * sum(int(fields[5]) for fields in whole)
            found["system/machine/written"] = _SECTOR * sum(int(fields[9]) for fields in whole)
        tree = _tree()
        if tree:
            found["system/process/cores"] = sum(_ticks(fields) for fields in tree.values()) / _TICKS
            moved = [_moved(pid) for pid in tree]
            found["system/process/read"] = sum(read for read, _ in moved)
            found["system/process/written"] = sum(written for _, written in moved)
        return found

    def _levels(self) -> dict[str, float]:
        found: dict[str, float] = {}
        tree = _tree()
        if tree:
            found["system/process/memory"] = _PAGE * sum(int(fields[21]) for fields in tree.values())
        memory = dict(line.split()[:2] for line in _text("/proc/meminfo").splitlines() if len(line.split()) > 1)
        if "MemTotal:" in memory and "MemAvailable:" in memory:
            found["system/machine/memory"] = 1024.0 * (int(memory["MemTotal:"]) - int(memory["MemAvailable:"]))
        try:
            disk = os.statvfs(self._folder)
            found["system/machine/disk"] = float(disk.f_frsize * (disk.f_blocks - disk.f_bfree))
        except OSError:
            pass
        return found


def _tree() -> dict[str, list[str]]:
    """Return this process and all below it: what /proc says of each, from its state on."""
    known: dict[str, list[str]] = {}
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return {}
    for pid in pids:
        fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if len(fields) > 21:
            known[pid] = fields
    below: dict[str, list[str]] = {}
    for pid, fields in known.items():
        below.setdefault(fields[1], []).append(pid)
    found: dict[str, list[str]] = {}
    waiting = [str(os.getpid())]
    while waiting:
        pid = waiting.pop()
        if pid in known and pid not in found:
            found[pid] = known[pid]
            waiting += below.get(pid, [])
    return found


def _ticks(fields: list[str]) -> int:
    return sum(int(field) for field in fields[11:15])  # of itself, and of its children that ended


def _moved(pid: str) -> tuple[int, int]:
    said = dict(line.split(": ") for line in _text(f"/proc/{pid}/io").splitlines() if ": " in line)
    return int(said.get("read_bytes", 0)), int(said.get("write_bytes", 0))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
