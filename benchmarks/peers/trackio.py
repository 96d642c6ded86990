"""W1, W2, W3, W11 and W12 with Trackio on its SQLite store. It keeps no files here: metrics and parameters alone."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes, work

os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_ANALYTICS_ENABLED": "False"}


def _loaded() -> Any:
    """Import it, its folder being here: it looks for that only once."""
    os.environ["TRACKIO_DIR"] = str(Path.cwd() / "store")
    import trackio  # type: ignore[import-not-found]  # only in its own venv

    return trackio


def _kept(run: str) -> list[dict[str, Any]]:
    """Read back all rows of a run: the only form in which it gives a series."""
    from trackio.sqlite_storage import SQLiteStorage  # type: ignore[import-not-found]  # only in its own venv

    return list(SQLiteStorage.get_logs("bench", run))


def start(*, tiny: bool) -> dict[str, list[float]]:
    """Time the import above the bare interpreter."""
    repeats = max(1, work.sizes(tiny=tiny).starts // 4)
    with processes.empty_folder() as folder:
        times, memory = processes.starts(Path(sys.executable), "import trackio", folder, repeats)
    return {"recorder_time": times, "recorder_memory": memory}


def executions(*, tiny: bool) -> dict[str, list[float]]:
    """Record executions without files; return the milliseconds of each."""
    trackio = _loaded()
    count = work.sizes(tiny=tiny).executions
    taken = []
    for number in range(count):
        started = time.perf_counter()
        trackio.init(project="bench", name=f"run-{number}", config=work.params(number), embed=False)
        trackio.log(work.scores(number))
        trackio.finish()
        taken.append(1000 * (time.perf_counter() - started))
    if not all(len(_kept(f"run-{number}")) == 1 for number in range(count)):
        raise RuntimeError("Not every execution was recorded.")
    return {"execution": taken, "execution_mean": [sum(taken) / count]}


def series(*, tiny: bool) -> dict[str, list[float]]:
    """Log the steps of one run, one call a step, until all are kept; then read one name back."""
    trackio = _loaded()
    size = work.sizes(tiny=tiny)
    rows = work.rows(size.peer_steps)
    trackio.init(project="bench", name="warm", embed=False)
    trackio.log(rows[0])  # what is loaded once is loaded
    trackio.finish()
    trackio.init(project="bench", name="steps", embed=False)
    started = time.perf_counter()
    for step, row in enumerate(rows):
        trackio.log(row, step=step)
    trackio.finish()
    taken = time.perf_counter() - started
    found: dict[str, list[float]] = {"peer_steps": [1000 * taken], "peer_read": []}
    os.environ["TRACKIO_DISABLE_LOGS_CACHE"] = "1"  # each reading is a first one
    for _ in range(size.repeats):
        started = time.perf_counter()
        values = [row["loss"] for row in _kept("steps")]
        found["peer_read"].append(1000 * (time.perf_counter() - started))
        if values != [row["loss"] for row in rows]:
            raise RuntimeError("The series came back other than it was logged.")
    return found


def _write(rank: int, count: int, go: Callable[[], None]) -> None:
    trackio = _loaded()
    trackio.init(project="bench", name=f"writer-{rank}", embed=False)
    go()
    for number in range(count):
        trackio.log({f"metric{number}": number})
    trackio.finish()


def writers(*, tiny: bool) -> dict[str, list[float]]:
    """Let several processes log at once, each a run of its own, until all is kept."""
    size = work.sizes(tiny=tiny)
    trackio = _loaded()
    trackio.init(project="bench", name="warm", embed=False)
    trackio.finish()
    taken = processes.at_once(_write, size.peer_writers, size.peer_records)
    kept = sum(len(_kept(f"writer-{rank}")) for rank in range(size.peer_writers))
    if kept != size.peer_writers * size.peer_records:
        raise RuntimeError(f"Only {kept} metrics were recorded.")
    return {"peer_writers": [taken]}


def mass(*, tiny: bool) -> dict[str, list[float]]:
    """Log many points of one name; return how long, how large, and how long a chart takes to read."""
    trackio = _loaded()
    values = [row["loss"] for row in work.rows(work.sizes(tiny=tiny).peer_points)]
    trackio.init(project="bench", name="warm", embed=False)
    trackio.log({"loss": 1.0})
    trackio.finish()
    before = processes.held(Path("store"))
    trackio.init(project="bench", name="mass", embed=False)
    started = time.perf_counter()
    for step, value in enumerate(values):
        trackio.log({"loss": value}, step=step)
    trackio.finish()
    taken = time.perf_counter() - started
    size = (processes.held(Path("store")) - before) / len(values)
    started = time.perf_counter()
    found = [row["loss"] for row in _kept("mass")]
    read = time.perf_counter() - started
    if found != values:
        raise RuntimeError("The series came back other than it was logged.")
    return {"peer_mass": [1000 * taken], "peer_mass_bytes": [size], "peer_chart": [1000 * read]}


if __name__ == "__main__":
    parts = {"start": start, "executions": executions, "series": series, "writers": writers, "mass": mass}
    processes.serve_parts(sys.argv, parts)
