"""W1, W2 and W3 with MLflow on its SQLite store. It copies files and hashes none; it has no lineage to ask for (W7)."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from benchmarks import processes, work

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


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"start": start, "executions": executions, "series": series})
