"""`python -m benchmarks capture`: measure what `cmf run` finds and costs, and write it into the page of the docs."""

from __future__ import annotations

import datetime as dt
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import capture, machine, processes

PAGE = processes.ROOT / "docs" / "explanation" / "capture.md"
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
REPEATS = 3
_CMF = (sys.executable, "-m", "cmf", "run", "--trace")


def write() -> Path:
    """Measure, and put the table between the marks of the page."""
    with tempfile.TemporaryDirectory(prefix="cmf-capture-") as scratch:
        table = _measure(Path(scratch))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    return PAGE


def claimed() -> dict[tuple[str, str], capture.Score]:
    """Return what the page says was found of each program, by its name and the way it was watched."""
    claims = {}
    for line in PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0].splitlines():
        cells = [cell.strip(" `") for cell in line.split("|")]
        if len(cells) > 6 and cells[1].endswith((".py", ".c")):
            claims[cells[1], "strace"] = capture.Score(float(cells[3]), float(cells[4]))
            claims[cells[1], "python"] = capture.Score(float(cells[5]), float(cells[6]))
    return claims


def _measure(scratch: Path) -> str:
    about = machine.describe()
    lines = [
        (
            f"{dt.datetime.now(tz=dt.UTC).date().isoformat()}. {about['processor']}, {about['cores']} cores, "
            f"{about['memory']}, {about['system']}, Python {about['python']}. Median of {REPEATS} runs each, in turn."
        ),
        "",
        (
            "| program | in / out | recall, strace | precision, strace | recall, Python | precision, Python "
            "| bare, s | strace, times | Python, times |"
        ),
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for program in capture.PROGRAMS:
        cells = [f"`{program.name}`", f"{len(program.inputs)} / {len(program.outputs)}"]
        for way in capture.WAYS:
            folder = scratch / program.name / way
            capture.prepare(program, folder)
            cells += [f"{value:.2f}" for value in capture.score(program, way, folder)]
        cells += _slowed(program, scratch / program.name)
        lines.append(f"| {' | '.join(cells)} |")
    start = [
        statistics.median(_seconds((*_CMF, way, "--", "true"), scratch) for _ in range(REPEATS)) for way in capture.WAYS
    ]
    return "\n".join(
        [*lines, "", f"`cmf run -- true` takes {start[0]:.2f} s with strace and {start[1]:.2f} s without."]
    )


def _slowed(program: capture.Program, scratch: Path) -> list[str]:
    """Return how long the bare program takes, and how many times that it takes in each way: each run in new folders."""
    commands = {"bare": program.command()} | {way: [*_CMF, way, "--", *program.command()] for way in capture.WAYS}
    taken: dict[str, list[float]] = {label: [] for label in commands}
    for turn in range(REPEATS):
        for label, command in commands.items():
            folder = scratch / f"{label}-{turn}"
            capture.prepare(program, folder)
            taken[label].append(_seconds(command, folder))
    bare = taken.pop("bare")
    times = [statistics.median(a / b for a, b in zip(ours, bare, strict=True)) for ours in taken.values()]
    return [f"{statistics.median(bare):.3f}", *(f"{value:.1f}" for value in times)]


def _seconds(command: Sequence[str], folder: Path) -> float:
    from time import perf_counter

    started = perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return perf_counter() - started
