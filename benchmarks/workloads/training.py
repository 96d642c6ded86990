"""W3: what `run.log` adds to a training loop. The same loop with and without it takes turns, in one process."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks import processes, work

if TYPE_CHECKING:
    import cmf

MODULE = "benchmarks.workloads.training"
TURNS = 1_000_000
BLOCK = 2_000


@dataclasses.dataclass
class Watch:
    """Seconds of wall time, and of processor time of all threads, that some work took."""

    wall: float = 0.0
    processor: float = 0.0

    def time(self, do: Callable[[], object]) -> None:
        """Do some more of the work, and add what it takes."""
        started, processor = time.perf_counter(), time.process_time()
        do()
        self.wall += time.perf_counter() - started
        self.processor += time.process_time() - processor


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the ratios of a loop with `run.log` to one without, of wall and of processor time."""
    with processes.empty_folder() as folder:
        processes.repository(folder)
        return processes.part(MODULE, "training", folder, tiny=tiny)


def training(*, tiny: bool) -> dict[str, list[float]]:
    """Time a long loop at 1 ms a step and pairs of shorter ones at 10 µs, each until all that was logged is durable."""
    import cmf

    size = work.sizes(tiny=tiny)
    with cmf.run("bench/warm") as run:
        run.log({"loss": 1.0})  # code and environment are captured once a process
    turn = min(_turn() for _ in range(5))
    found: dict[str, list[float]] = {}
    pairs = [_pair(1e-3 / turn, size.loop_slow)]
    pairs += [_pair(1e-5 / turn, size.loop_fast) for _ in range(size.loop_pairs)]
    for label, (bare, logged) in zip(("slow", *["fast"] * size.loop_pairs), pairs, strict=True):
        found.setdefault(f"loop_{label}", []).append(logged.wall / bare.wall)
        found.setdefault(f"loop_{label}_processor", []).append(logged.processor / bare.processor)
    return found


def _pair(turns: float, steps: int) -> tuple[Watch, Watch]:
    """Time the same steps without a run and in one run, a block of each in turns, for machines have moods."""
    import cmf

    each, bare, logged = max(1, round(turns)), Watch(), Watch()
    run = cmf.run("bench/train")
    for first in range(0, steps, BLOCK):
        block = range(first, min(first + BLOCK, steps))
        bare.time(lambda: _loop(block, each))  # noqa: B023  # called at once
        logged.time(lambda: _logged(run, block, each))  # noqa: B023  # called at once
    logged.time(run.finish)
    return bare, logged


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


def _loop(steps: range, turns: int) -> None:
    for step in steps:
        value = _work(turns)
        _row(value, step)


def _logged(run: cmf.Run, steps: range, turns: int) -> None:
    for step in steps:
        value = _work(turns)
        run.log(_row(value, step), step=step)


def _row(value: float, step: int) -> dict[str, float]:
    """Return the row that both loops make, and one of them logs."""
    return {"loss": value + step * 1e-7, "accuracy": step * 0.3e-5, "lr": 1e-3 / (step + 1)}


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"training": training})
