"""W2 and W3: recording executions and step metrics, and reading a series back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sized
from pathlib import Path

from benchmarks import processes, work

MODULE = "benchmarks.workloads.record"


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W2 and W3."""
    return executions_only(tiny=tiny) | _repeated("series", tiny=tiny)


def executions_only(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W2."""
    return _repeated("executions", tiny=tiny)


def steps_only(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W3 at the size that peers do: one run, one name read back."""
    return _repeated("steps", tiny=tiny)


def writers_and_mass(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W11 and W12 at the sizes that peers do."""
    return _repeated("writers", tiny=tiny) | _repeated("mass", tiny=tiny)


def _repeated(name: str, *, tiny: bool) -> dict[str, list[float]]:
    """Do one part some times over, each in a process and a repository of its own."""
    found: dict[str, list[float]] = {}
    for _ in range(work.sizes(tiny=tiny).repeats):
        with processes.empty_folder() as folder:
            processes.repository(folder)
            for key, values in processes.part(MODULE, name, folder, tiny=tiny).items():
                found.setdefault(key, []).extend(values)
    return found


def record(numbers: range, scope: str = "bench/train") -> list[float]:
    """Record executions in the folder that we are in; return the seconds that each took, durable at its end."""
    import cmf

    made = [work.files(Path(), number) for number in numbers]
    taken = []
    for number, (source, target) in zip(numbers, made, strict=True):
        started = time.perf_counter()
        with cmf.run(scope, params=work.params(number)) as run:
            run.input(source)
            run.output(target, name="model")
            run.metrics(work.scores(number))
        taken.append(time.perf_counter() - started)
    return taken


def executions(*, tiny: bool) -> dict[str, list[float]]:
    """Record executions, see that all is there, and return the milliseconds."""
    import cmf

    count = work.sizes(tiny=tiny).executions
    taken = [1000 * seconds for seconds in record(range(count))]
    with cmf.open() as repo:
        views = repo.executions()
    whole = [view for view in views if view.inputs and view.outputs and len(view.params) == 10 and view.code]
    if len(whole) != count or any(len(view.metrics) != 3 for view in whole):
        raise RuntimeError(f"Only {len(whole)} of {count} executions were recorded in full.")
    return {"execution": taken, "execution_mean": [sum(taken) / count]}


def steps(*, tiny: bool) -> dict[str, list[float]]:
    """Log as many steps as the peers do until they are durable, then read one name back with its times."""
    import cmf

    size = work.sizes(tiny=tiny)
    rows = work.rows(size.peer_steps)
    with cmf.run("bench/warm") as run:
        run.log(rows[0])  # what is loaded once is loaded, and code and environment are captured
    with cmf.run("bench/train") as run:
        started = time.perf_counter()
        for step, row in enumerate(rows):
            run.log(row, step=step)
        run.finish()
        taken = time.perf_counter() - started
    found: dict[str, list[float]] = {"peer_steps": [1000 * taken], "peer_read": []}
    with cmf.open() as repo:
        (view,) = (view for view in repo.executions() if view.scope == "bench/train")
        for _ in range(size.repeats):
            started = time.perf_counter()
            points = repo.series(view, "loss")
            held = len(points.times)  # decoded when they are asked for
            found["peer_read"].append(1000 * (time.perf_counter() - started))
            if held != len(rows) or list(points.values) != [row["loss"] for row in rows]:
                raise RuntimeError("The series came back other than it was logged.")
    return found


def series(*, tiny: bool) -> dict[str, list[float]]:
    """Log the steps of one run until they are durable, then read one name back."""
    import cmf

    size = work.sizes(tiny=tiny)
    rows = work.rows(size.steps)
    started = time.perf_counter()
    with cmf.run("bench/train") as run:
        for step, row in enumerate(rows):
            run.log(row, step=step)
    taken = time.perf_counter() - started
    found: dict[str, list[float]] = {"points": [3 * size.steps / taken], "read_values": [], "read_times": []}
    with cmf.open() as repo:
        (view,) = repo.executions()
        for key in ("read_values", "read_times") * size.reads:
            started = time.perf_counter()
            points = repo.series(view, "loss")
            read: list[Sized] = [points.steps, points.values]
            if key == "read_times":
                read.append(points.times)
            found[key].append(1000 * (time.perf_counter() - started))
            if {len(column) for column in read} != {size.steps} or points.values[-1] != rows[-1]["loss"]:
                raise RuntimeError("The series came back other than it was logged.")
    return found


def _write(rank: int, count: int, go: Callable[[], None]) -> None:
    import cmf

    with cmf.run(f"bench/writer{rank}") as run:
        go()
        for number in range(count):
            run.metrics({f"metric{number}": number})


def writers(*, tiny: bool) -> dict[str, list[float]]:
    """Let several processes log at once, each a run of its own, until all is durable."""
    import cmf

    size = work.sizes(tiny=tiny)
    taken = processes.at_once(_write, size.peer_writers, size.peer_records)
    with cmf.open() as repo:
        kept = sum(len(view.metrics) for view in repo.executions())
    if kept != size.peer_writers * size.peer_records:
        raise RuntimeError(f"Only {kept} metrics were recorded.")
    return {"peer_writers": [taken]}


def mass(*, tiny: bool) -> dict[str, list[float]]:
    """Log many points of one name; return how long, how large, and how long a chart takes to read."""
    import cmf

    values = [row["loss"] for row in work.rows(work.sizes(tiny=tiny).peer_points)]
    with cmf.run("bench/warm") as run:
        run.log({"loss": 1.0})
    with cmf.open() as repo:
        repo.collect(cut=True)
    before = processes.held(Path(".cmf"))
    with cmf.run("bench/mass") as run:
        started = time.perf_counter()
        for step, value in enumerate(values):
            run.log({"loss": value}, step=step)
        run.finish()
        taken = time.perf_counter() - started
    with cmf.open() as repo:
        repo.collect(cut=True)
        size = (processes.held(Path(".cmf")) - before) / len(values)
        (view,) = (view for view in repo.executions() if view.scope == "bench/mass")
        started = time.perf_counter()
        chart = repo.series(view, "loss", points=1000)
        read = time.perf_counter() - started
    if len(chart) > 1000 or max(chart.values) != max(values) or min(chart.values) != min(values):
        raise RuntimeError("The chart is not that of what was logged.")
    return {"peer_mass": [1000 * taken], "peer_mass_bytes": [size], "peer_chart": [1000 * read]}


if __name__ == "__main__":
    parts = {"executions": executions, "series": series, "steps": steps, "writers": writers, "mass": mass}
    processes.serve_parts(sys.argv, parts)
