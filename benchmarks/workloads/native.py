"""What `cmf.h` costs a C program that a run started: a row of step metrics, a final metric."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks import processes, work

MODULE = "benchmarks.workloads.native"
SOURCE = Path(__file__).with_suffix(".c")


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of the C writer, in µs a call."""
    with processes.empty_folder() as folder:
        processes.repository(folder)
        return processes.part(MODULE, "native", folder, tiny=tiny)


def native(*, tiny: bool) -> dict[str, list[float]]:
    """Compile the program, run it as a child of a run some times over, and see that all of its rows came back."""
    import cmf

    size = work.sizes(tiny=tiny)
    include = Path(cmf.__file__).parent / "include"
    subprocess.run(["cc", "-std=c99", "-O2", f"-I{include}", SOURCE, "-o", "native"], check=True)
    found: dict[str, list[float]] = {"native_row": [], "native_metric": []}
    with cmf.run("bench/native") as run:
        for _ in range(size.repeats):
            done = subprocess.run(["./native", str(size.steps)], check=True, capture_output=True, text=True)
            for key, value in zip(found, done.stdout.split(), strict=True):
                found[key].append(float(value))
    with cmf.open() as repo:
        points = repo.series(run.id, "loss")
    if list(points.steps) != list(range(size.steps)):
        raise RuntimeError("The rows of a C program came back other than they were logged.")
    return found


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"native": native})
