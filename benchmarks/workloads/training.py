"""W3: what `run.log` adds to a training loop. The same loop with and without it takes turns, in one process."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from benchmarks import processes, work

MODULE = "benchmarks.workloads.training"
TURNS = 1_000_000


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the ratios of a loop with `run.log` to one without, of wall and of processor time."""
    with processes.empty_folder() as folder:
        processes.repository(folder)
        return processes.part(MODULE, "training", folder, tiny=tiny)


def training(*, tiny: bool) -> dict[str, list[float]]:
    """Time pairs of loops at 1 ms a step and at 10 µs a step, each until all that was logged is durable."""
    import cmf

    size = work.sizes(tiny=tiny)
    with cmf.run("bench/warm") as run:
        run.log({"loss": 1.0})  # code and environment are captured once a process
    turn = min(_turn() for _ in range(5))
    found: dict[str, list[float]] = {}
    for label, seconds, steps in (("slow", 1e-3, size.loop_slow), ("fast", 1e-5, size.loop_fast)):
        turns = max(1, round(seconds / turn))
        for _ in range(size.loop_pairs):
            bare = _timed(lambda: _loop(steps, turns))  # noqa: B023  # called at once
            logged = _timed(lambda: _logged(steps, turns))  # noqa: B023  # called at once
            found.setdefault(f"loop_{label}", []).append(logged[0] / bare[0])
            found.setdefault(f"loop_{label}_processor", []).append(logged[1] / bare[1])
    return found


def _turn() -> float:
    """Return the seconds that one turn of the work takes."""
    started = time.perf_counter()
    _work(TURNS)
    return (time.perf_counter() - started) / TURNS


def _work(turns: int) -> float:
    """Keep the processor busy with a fixed amount of work: a wait until some time would hide what others take."""
    value = 1.0
    for _ in range(turns):
        value = value * 0.999999 + 1e-7
    return value


def _loop(steps: int, turns: int) -> None:
    for step in range(steps):
        value = _work(turns)
        _row(value, step)


def _logged(steps: int, turns: int) -> None:
    import cmf

    with cmf.run("bench/train") as run:
        for step in range(steps):
            value = _work(turns)
            run.log(_row(value, step), step=step)


def _row(value: float, step: int) -> dict[str, float]:
    """Return the row that both loops make, and one of them logs."""
    return {"loss": value + step * 1e-7, "accuracy": step * 0.3e-5, "lr": 1e-3 / (step + 1)}


def _timed(loop: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds of wall and of processor time, of all threads, that a loop takes."""
    started, processor = time.perf_counter(), time.process_time()
    loop()
    return time.perf_counter() - started, time.process_time() - processor


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"training": training})
