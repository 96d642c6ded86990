"""W11: 64 processes write one execution at once; how fast it is recorded, committed as truth, and folded."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks import processes, work

MODULE = "benchmarks.workloads.writers"


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W11, in records a second."""
    with processes.empty_folder() as folder:
        return processes.part(MODULE, "writers", folder, tiny=tiny)


def writers(*, tiny: bool) -> dict[str, list[float]]:
    """Record from all processes at once, collect, and see that nothing is missing."""
    import cmf

    size = work.sizes(tiny=tiny)
    os.environ["CMF_EXECUTION"] = "0192f0c1-2d3e-8f4a-8b5c-6d7e8f901234"
    with cmf.run("bench/warm", rank=0):
        pass  # what every process imports is imported once, before they are forked
    records = size.writers * size.records
    recorded = _recorded(size.writers, size.records)
    committed, folded, held = _collected(Path(".cmf"))
    if held != records:
        raise RuntimeError(f"Only {held} of {records} records were folded.")
    return {"recorded": [records / recorded], "committed": [records / committed], "folded": [records / folded]}


def _recorded(count: int, records: int) -> float:
    """Fork the writers, let all go at once, and return the seconds until the last one has closed its journal."""
    import cmf

    gate, opener = os.pipe()
    children = []
    for rank in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(opener)
            run = cmf.run("bench/train", rank=rank)
            os.read(gate, 1)
            for number in range(records):
                run.set(f"tag/{rank}-{number}", number)
            run.finish()
            os._exit(0)
        children.append(pid)
    started = time.perf_counter()
    os.close(opener)
    if any(os.waitpid(pid, 0)[1] for pid in children):
        raise RuntimeError("A writer failed.")
    return time.perf_counter() - started


def _collected(folder: Path) -> tuple[float, float, int]:
    """Collect; return the seconds until all was committed, the seconds until it was folded, and what is held."""
    from cmf import collect
    from cmf.collect.taking import Journal, take
    from cmf.objects.local import LocalObjects

    store = collect.open_store(folder)
    clock = collect.Clock.now()
    objects, identity, done = LocalObjects(folder / "objects"), collect.site(folder), collect.Collected(problems=[])
    started = time.perf_counter()
    paths = sorted((folder / "journal").glob("*.j"))
    take((Journal(path, store, objects, identity, clock, done) for path in paths), store, done, cut=False)
    committed = time.perf_counter() - started
    started = time.perf_counter()
    store.fold_pending()
    folded = time.perf_counter() - started
    held = sum(str(row[1]).startswith("tag/") for row in store.dump()["property"])
    store.close()
    return committed, folded, held


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"writers": writers})
