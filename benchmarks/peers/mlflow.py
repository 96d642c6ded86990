"""W1, W2, W3, W11 and W12 with MLflow on its SQLite store. It copies files and hashes none; it has no lineage (W7)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes, work
from benchmarks.workloads import data

os.environ |= {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"}


def start(*, tiny: bool) -> dict[str, list[float]]:
    """Time the import above the bare interpreter, and the command."""
    repeats = max(1, work.sizes(tiny=tiny).starts // 4)
    python = Path(sys.executable)
    with processes.empty_folder() as folder:
        times, memory = processes.starts(python, "import mlflow", folder, repeats)
        version = (python.parent / "mlflow", "--version")
        processes.seconds(version, folder)
        versions = [processes.seconds(version, folder) for _ in range(repeats)]
    return {"recorder_time": times, "recorder_memory": memory, "version": versions}


def executions(*, tiny: bool) -> dict[str, list[float]]:
    """Record executions; return the milliseconds of each."""
    import mlflow  # type: ignore[import-not-found]  # only in its own venv

    count = work.sizes(tiny=tiny).executions
    here = Path.cwd()
    mlflow.set_tracking_uri(f"sqlite:///{here / 'store.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=(here / "kept").as_uri()))
    made = [work.files(here, number) for number in range(count)]
    taken = []
    for number, (source, target) in enumerate(made):
        started = time.perf_counter()
        with mlflow.start_run(run_name=f"run-{number}"):
            mlflow.log_params(work.params(number))
            mlflow.log_artifact(str(source), "input")
            mlflow.log_artifact(str(target), "output")
            mlflow.log_metrics(work.scores(number))
        taken.append(1000 * (time.perf_counter() - started))
    if len(mlflow.search_runs(output_format="list")) != count:
        raise RuntimeError("Not every execution was recorded.")
    return {"execution": taken, "execution_mean": [sum(taken) / count]}


def series(*, tiny: bool) -> dict[str, list[float]]:
    """Log the steps of one run, one call a step, which returns when they are kept; then read one name back."""
    import mlflow

    size = work.sizes(tiny=tiny)
    rows = work.rows(size.peer_steps)
    here = Path.cwd()
    mlflow.set_tracking_uri(f"sqlite:///{here / 'store.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=(here / "kept").as_uri()))
    with mlflow.start_run():
        mlflow.log_metrics(rows[0], step=0)  # what is loaded once is loaded
    with mlflow.start_run() as run:
        started = time.perf_counter()
        for step, row in enumerate(rows):
            mlflow.log_metrics(row, step=step)
        taken = time.perf_counter() - started
    found: dict[str, list[float]] = {"peer_steps": [1000 * taken], "peer_read": []}
    client = mlflow.MlflowClient()
    for _ in range(size.repeats):
        started = time.perf_counter()
        values = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
        found["peer_read"].append(1000 * (time.perf_counter() - started))
        if sorted(values) != sorted(row["loss"] for row in rows):
            raise RuntimeError("The series came back other than it was logged.")
    return found


def files(*, tiny: bool, **_: str) -> dict[str, list[float]]:
    """Log a folder of small files and a large one, twice: they are copied each time, and never hashed."""
    import mlflow

    here = Path.cwd()
    mlflow.set_tracking_uri(f"sqlite:///{here / 'store.db'}")
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("bench", artifact_location=(here / "kept").as_uri()))
    found = {}
    for name in ("many", "large"):
        path = data.made(name, tiny=tiny)
        for key in (f"files_{name}", f"files_{name}_again"):
            with mlflow.start_run():
                os.sync()
                started = time.perf_counter()
                mlflow.log_artifacts(str(path), "files") if path.is_dir() else mlflow.log_artifact(str(path))
                found[key] = [time.perf_counter() - started]
    return found


def _write(rank: int, count: int, store: str, experiment: str, go: Callable[[], None]) -> None:
    import mlflow

    mlflow.set_tracking_uri(store)
    mlflow.set_experiment(experiment_id=experiment)
    with mlflow.start_run(run_name=f"writer-{rank}"):
        go()
        for number in range(count):
            mlflow.log_metric(f"metric{number}", number)


def writers(*, tiny: bool) -> dict[str, list[float]]:
    """Let several processes log at once, each a run of its own, until all is kept."""
    import mlflow

    size = work.sizes(tiny=tiny)
    store, experiment = _fresh(mlflow)
    taken = processes.at_once(_write, size.peer_writers, size.peer_records, store, experiment)
    kept = sum(len(run.data.metrics) for run in mlflow.search_runs([experiment], output_format="list"))
    if kept != size.peer_writers * size.peer_records:
        raise RuntimeError(f"Only {kept} metrics were recorded.")
    return {"peer_writers": [taken]}


def mass(*, tiny: bool) -> dict[str, list[float]]:
    """Log many points of one name in batches; return how long, how large, and how long a chart takes to read."""
    import mlflow

    values = [row["loss"] for row in work.rows(work.sizes(tiny=tiny).peer_points)]
    _fresh(mlflow)
    client = mlflow.MlflowClient()
    with mlflow.start_run():
        mlflow.log_metric("loss", 1.0)
    before = Path("store.db").stat().st_size
    with mlflow.start_run() as run:
        points = [mlflow.entities.Metric("loss", value, step, step) for step, value in enumerate(values)]
        started = time.perf_counter()
        for at in range(0, len(points), 1000):
            client.log_batch(run.info.run_id, metrics=points[at : at + 1000])
        taken = time.perf_counter() - started
    size = (Path("store.db").stat().st_size - before) / len(values)
    started = time.perf_counter()
    found = [point.value for point in client.get_metric_history(run.info.run_id, "loss")]
    read = time.perf_counter() - started
    if sorted(found) != sorted(values):
        raise RuntimeError("The series came back other than it was logged.")
    return {"peer_mass": [1000 * taken], "peer_mass_bytes": [size], "peer_chart": [1000 * read]}


def _fresh(mlflow: Any) -> tuple[str, str]:
    """Make a store here; return its address, and the experiment that runs go to."""
    here = Path.cwd()
    store = f"sqlite:///{here / 'store.db'}"
    mlflow.set_tracking_uri(store)
    experiment = mlflow.create_experiment("bench", artifact_location=(here / "kept").as_uri())
    mlflow.set_experiment(experiment_id=experiment)
    return store, experiment


if __name__ == "__main__":
    parts = {"start": start, "executions": executions, "series": series, "writers": writers, "mass": mass}
    processes.serve_parts(sys.argv, {**parts, "files": files})
