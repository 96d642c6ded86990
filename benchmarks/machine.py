"""What the machine is, and the floor: what it can do at best, measured in the same run."""

from __future__ import annotations

import hashlib
import os
import platform
import statistics
import sys
import time
from pathlib import Path

from benchmarks import processes

HASHED_BYTES = 64 << 20
SYNCED_BYTES = 4096

FLOOR = {
    "sha256": "sha256 of 64 MiB in memory, MB/s",
    "fsync": "4 KiB appended to a file and synced, times a second",
    "python": "start and end of a bare Python, ms",
}


def describe() -> dict[str, str]:
    """Return what the machine is, without a name or place of it."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": f"{memory:.0f} GiB",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def floor(*, tiny: bool) -> dict[str, list[float]]:
    """Measure the floor."""
    repeats = 2 if tiny else 7
    data = bytes(HASHED_BYTES >> (6 if tiny else 0))
    hashed = []
    for _ in range(repeats):
        started = time.perf_counter()
        hashlib.sha256(data).digest()
        hashed.append(len(data) / 1e6 / (time.perf_counter() - started))
    with processes.empty_folder() as folder:
        synced = [_synced(folder / "appended", 10 if tiny else 500) for _ in range(repeats)]
        bare = (sys.executable, "-c", "pass")
        started_in = [1000 * processes.seconds(bare, folder) for _ in range(3 * repeats)]
    return {"sha256": hashed, "fsync": synced, "python": started_in}


def _synced(path: Path, count: int) -> float:
    block = os.urandom(SYNCED_BYTES)
    taken = []
    with open(path, "ab", buffering=0) as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(block)
            os.fsync(file.fileno())
            taken.append(time.perf_counter() - started)
    return 1 / statistics.median(taken)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
