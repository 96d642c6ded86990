"""W4: a large file and folders of small ones, kept for the first time and again, beside what `cp` needs for them."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import processes, work

MODULE = "benchmarks.workloads.data"
FOLDERS = 100
SETTLED_SECONDS = 3
"""What was written less than a moment before it is read is read again the next time: it may still change."""


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W4: each repeat is a process and a store of its own, over the same files."""
    found: dict[str, list[float]] = {}
    sizes = work.sizes(tiny=tiny)
    for name, repeats in (("large", sizes.pairs), ("many", sizes.repeats), ("small", 1)):
        with processes.empty_folder() as folder:
            processes.repository(folder)
            for _ in range(repeats):
                for key, values in processes.part(MODULE, name, folder, tiny=tiny).items():
                    found.setdefault(key, []).extend(values)
    return found


def beside(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W4 as they are compared with those of others, in seconds, once."""
    found: dict[str, list[float]] = {}
    for name in ("many", "large"):
        with processes.empty_folder() as folder:
            processes.repository(folder)
            found |= processes.part(MODULE, "whole", folder, tiny=tiny, told={"name": name})
    return found


def whole(*, tiny: bool, name: str) -> dict[str, list[float]]:
    """Version a folder of small files, or a large one."""
    path = made(name, tiny=tiny)
    time.sleep(SETTLED_SECONDS)
    cold, again, _ = _versioned(path)
    return {f"files_{name}": [cold], f"files_{name}_again": [again]}


def large(*, tiny: bool) -> dict[str, list[float]]:
    """Copy and sync a large file with `cp`, then version it; the two take turns, since disks have moods."""
    path = made("large", tiny=tiny)
    copied, hashed = _copied(path)
    cold, again, _ = _versioned(path)
    return {
        "data_large": [cold / copied],
        "data_large_again": [1000 * again],
        "data_large_copy": [copied],
        "data_large_hash": [hashed],
    }


def many(*, tiny: bool) -> dict[str, list[float]]:
    """Version a folder of files of 10 KiB."""
    folder = made("many", tiny=tiny)
    cold, again, _ = _versioned(folder)
    copied, hashed = _copied(folder)
    return {
        "data_many": [cold],
        "data_many_again": [again],
        "data_many_copy": [copied],
        "data_many_hash": [hashed],
    }


def small(*, tiny: bool) -> dict[str, list[float]]:
    """Version a folder of very many files of 1 KiB."""
    folder = _files(work.sizes(tiny=tiny).small, 1 << 10)
    cold, again, memory = _versioned(folder)
    copied, hashed = _copied(folder)
    return {
        "data_small": [cold],
        "data_small_again": [again],
        "data_small_copy": [copied],
        "data_small_hash": [hashed],
        "data_small_memory": [memory],
    }


def made(name: str, *, tiny: bool) -> Path:
    """Make the ``large`` file or the folder of ``many`` small ones, unless it is there; return its path."""
    size = work.sizes(tiny=tiny)
    if name == "many":
        return _files(size.many, 10 << 10)
    path = Path("large.bin")
    if not path.exists():
        chance = random.Random(4)
        with path.open("wb") as file:
            for _ in range(size.large_mib):
                file.write(chance.randbytes(1 << 20))
            os.fsync(file.fileno())
    return path


def _files(count: int, size: int) -> Path:
    """Make a folder of files that no two of them are alike, unless it is there."""
    top = Path("files")
    if not top.exists():
        chance = random.Random(count)
        for place in range(FOLDERS):
            (top / f"{place:02}").mkdir(parents=True)
        for number in range(count):
            (top / f"{number % FOLDERS:02}" / f"{number:06}.bin").write_bytes(chance.randbytes(size))
        os.sync()
    return top


def _versioned(path: Path) -> tuple[float, float, float]:
    """Return the seconds until a path is durable in a new store, the seconds again, and the memory taken in MiB."""
    import cmf

    shutil.rmtree(".cmf", ignore_errors=True)
    with cmf.run("bench/first") as run:
        run.output("train.py")  # code and environment are captured once a process, beside the work
    before = _resident()
    taken = []
    for _ in range(2):
        run = cmf.run("bench/data")
        started = time.perf_counter()
        run.output(path)
        run.finish()
        taken.append(time.perf_counter() - started)
    return taken[0], taken[1], _resident() - before


def _copied(path: Path) -> tuple[float, float]:
    """Return the seconds of `cp` with a sync of what it wrote, and those of `sha256sum` over the copy after it."""
    target = Path("copy")
    started = time.perf_counter()
    subprocess.run(("cp", "-r", path, target), check=True)
    if path.is_file():
        with target.open("rb") as file:
            os.fsync(file.fileno())
    else:
        os.sync()  # what anybody would do who copies ten thousand files
    copied = time.perf_counter() - started
    started = time.perf_counter()
    hashing = ("find", target, "-type", "f", "-exec", "sha256sum", "{}", "+")
    subprocess.run(hashing, check=True, stdout=subprocess.DEVNULL)
    hashed = time.perf_counter() - started
    subprocess.run(("rm", "-r", target), check=True)
    return copied, hashed


def _resident() -> float:
    """Return the greatest resident size so far in MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"large": large, "many": many, "small": small, "whole": whole})
