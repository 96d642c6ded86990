"""W12: 10^8 points of step metrics in one store, and charts out of it.

The values are a falling loss with Gaussian noise: float64, not rounded and different in every run, so nothing
repeats that a codec could fold. Each run is a process of its own, as a training is, and logs row by row. Making the
values takes time too, which isn't counted.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks import processes, work

MODULE = "benchmarks.workloads.series"
NAMES = ("loss", "accuracy", "gradient")
BLOCK = 100_000
CHART_POINTS = 2000
CHARTS = 5


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W12."""
    size = work.sizes(tiny=tiny)
    with processes.empty_folder() as folder:
        processes.repository(folder)
        alone = processes.part(MODULE, "alone", folder, tiny=tiny)
        processes.part(MODULE, "collect", folder, tiny=tiny)
        bytes_alone = _stored(folder) / size.run_steps
    with processes.empty_folder() as folder:
        processes.repository(folder)
        runs = [processes.part(MODULE, "three", folder, tiny=tiny) for _ in range(size.runs)]
        points = len(NAMES) * size.run_steps * size.runs
        seconds = sum(run["seconds"] for run in runs)
        found = processes.part(MODULE, "settle", folder, tiny=tiny)
        bytes_three = _stored(folder) / points
        charts = processes.part(MODULE, "charts", folder, tiny=tiny)
    return {
        "mass_points": [points / seconds],
        "mass_packed": [points / (seconds + found["seconds"])],
        "mass_alone": [size.run_steps / alone["seconds"]],
        "mass_bytes_alone": [bytes_alone],
        "mass_bytes": [bytes_three],
        "mass_memory": [run["memory"] for run in runs],
        **charts,
    }


def alone(*, tiny: bool) -> dict[str, float]:
    """Log one run of one name."""
    return _logged(NAMES[:1], tiny=tiny)


def three(*, tiny: bool) -> dict[str, float]:
    """Log one run of three names."""
    return _logged(NAMES, tiny=tiny)


def _logged(names: tuple[str, ...], *, tiny: bool) -> dict[str, float]:
    """Log one run until it is durable; return the seconds, and the memory that it took in MiB."""
    import cmf

    steps = work.sizes(tiny=tiny).run_steps
    chance = np.random.default_rng()
    falling = np.exp(-3 * np.arange(steps) / steps)
    taken = 0.0
    run = cmf.run("bench/train")
    before = 0.0
    for first in range(0, steps, BLOCK):
        part = falling[first : first + BLOCK]
        columns = [(part + 0.05 * chance.standard_normal(len(part))).tolist() for _ in names]
        rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
        before = before or _resident()  # the made rows are this workload's own
        started = time.perf_counter()
        for step, row in enumerate(rows, first):
            run.log(row, step=step)
        taken += time.perf_counter() - started
    started = time.perf_counter()
    run.finish()
    return {"seconds": taken + time.perf_counter() - started, "memory": _resident() - before}


def collect(*, tiny: bool) -> dict[str, float]:
    """Take in what the journals still hold; return the seconds."""
    del tiny
    import cmf

    started = time.perf_counter()
    with cmf.open() as repo:
        repo.collect()
    return {"seconds": time.perf_counter() - started}


def settle(*, tiny: bool) -> dict[str, float]:
    """Take in what the journals still hold; return the seconds. See that every point is there."""
    import cmf

    size = work.sizes(tiny=tiny)
    taken = collect(tiny=tiny)
    with cmf.open() as repo:
        views = repo.executions()
        if len(views) != size.runs or any(view.status != "finished" for view in views):
            raise RuntimeError(f"Only {len(views)} of {size.runs} runs were recorded.")
        for view in views[:: max(1, size.runs // 3)]:
            lengths = {len(repo.series(view, name)) for name in NAMES}
            if lengths != {size.run_steps}:
                raise RuntimeError(f"A run holds {lengths} points a name instead of {size.run_steps}.")
    return taken


def charts(*, tiny: bool) -> dict[str, list[float]]:
    """Ask for charts of whole runs: each for the first time, then again; return the milliseconds."""
    import cmf

    found: dict[str, list[float]] = {"chart_first": [], "chart_again": []}
    steps = work.sizes(tiny=tiny).run_steps
    with cmf.open() as repo:
        for view in repo.executions()[:CHARTS]:
            for taken in found.values():
                started = time.perf_counter()
                points = repo.series(view.id, NAMES[0], points=CHART_POINTS)
                taken.append(1000 * (time.perf_counter() - started))
                if points.steps[0] != 0 or points.steps[-1] != steps - 1 or len(points) > CHART_POINTS:
                    raise RuntimeError("The chart doesn't span what was logged.")
    return found


def _stored(folder: Path) -> int:
    """Return the bytes of a whole store, its journals included, without what charts keep to be quick."""
    top = folder / "work" / ".cmf"
    return sum(path.stat().st_size for path in top.rglob("*") if path.is_file() and "thinned" not in path.parts)


def _resident() -> float:
    """Return the greatest resident size so far in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    processes.serve_parts(
        sys.argv, {"alone": alone, "collect": collect, "three": three, "settle": settle, "charts": charts}
    )
