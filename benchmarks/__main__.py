"""`python -m benchmarks`: measure CMF against its goals. `python -m benchmarks peers`: others side by side with it."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import functools
import json
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from benchmarks import machine, processes, table, work
from benchmarks.capture import page
from benchmarks.workloads import (
    data,
    difference,
    lineage,
    native,
    record,
    remotes,
    scale,
    series,
    start,
    sync,
    training,
    writers,
)

HERE = Path(__file__).parent
ENVIRONMENTS = processes.ROOT / "build" / "bench"
PEERS = {
    "mlmd": ("ml-metadata", "1.17.1", ("start", "executions", "ancestors", "writers")),
    "mlflow": ("mlflow", "3.17.2", ("start", "executions", "series", "writers", "mass", "files")),
    "dvc": ("dvc[s3]", "3.67.1", ("files",)),
    "trackio": ("trackio", "0.43.0", ("start", "executions", "series", "writers", "mass")),
}


_MODULES = (start, record, training, native, data, sync, difference, scale, remotes, lineage, writers, series)
WORKLOADS = {module.__name__.rpartition(".")[2]: module for module in _MODULES}


class Measure(Protocol):
    """Something that is measured: figures by their keys."""

    def __call__(self, *, tiny: bool) -> dict[str, list[float]]:
        """Measure, with small sizes or with those of results."""


def main(words: list[str]) -> int:
    """Measure, and rewrite one's own part of the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure what CMF costs.")
    parser.add_argument("part", nargs="?", choices=("bench", "peers", "capture"), default="bench")
    parser.add_argument("--tiny", action="store_true", help="small sizes: a trial of the harness, into another folder")
    parser.add_argument("--only", choices=WORKLOADS, help="print the figures of this workload alone, and keep none")
    parser.add_argument("--out", type=Path, help="the folder for RESULTS.md and results.json")
    asked = parser.parse_args(words)
    if asked.part == "capture":
        print(f"Wrote {page.write()}")
        return 0
    if asked.only:
        for key, values in _timed(asked.only, WORKLOADS[asked.only].measure, tiny=asked.tiny).items():
            print(f"{key:<40} {table.measured(values)}")
        return 0
    out = asked.out or (Path(tempfile.mkdtemp(prefix="cmf-bench-")) if asked.tiny else HERE)
    measured = {
        "date": dt.datetime.now(tz=dt.UTC).date().isoformat(),
        "machine": machine.describe(),
        "floor": _timed("floor", machine.floor, tiny=asked.tiny),
        **(peers if asked.part == "peers" else bench)(tiny=asked.tiny),
    }
    print(f"Wrote {keep(out, asked.part, measured, tiny=asked.tiny)}")
    return 0


def bench(*, tiny: bool) -> dict[str, Any]:
    """Measure every workload of our own."""
    figures: dict[str, list[float]] = {}
    for name, module in WORKLOADS.items():
        figures |= _timed(name, module.measure, tiny=tiny)
    return {"figures": figures}


def peers(*, tiny: bool) -> dict[str, Any]:
    """Measure ourselves and each peer one after the other, each in its own environment."""
    found: dict[str, dict[str, list[float]]] = {"cmf": {}}
    versions = {"cmf": metadata.version("common-metadata-framework")}
    for name, (distribution, version, parts) in PEERS.items():
        python = _environment(name, f"{distribution}=={version}")
        versions[name] = version
        found[name] = {}
        for part in parts:
            measure = functools.partial(_peer, name, part, python)
            found[name] |= _timed(f"{name} {part}", measure, tiny=tiny)
    ours: tuple[tuple[str, Measure], ...] = (
        ("start", start.start),
        ("executions", record.executions_only),
        ("series", record.steps_only),
        ("writers, mass", record.writers_and_mass),
        ("ancestors", lineage.measure),
        ("files", data.beside),
        ("remotes", remotes.beside),
    )
    for label, work_of_ours in ours:
        found["cmf"] |= _timed(f"cmf {label}", work_of_ours, tiny=tiny)
    return {"figures": found, "versions": versions}


def _peer(name: str, part: str, python: Path, *, tiny: bool) -> dict[str, list[float]]:
    """Do one part with a peer, as often as we do it ourselves."""
    figures: dict[str, list[float]] = {}
    for _ in range(work.sizes(tiny=tiny).repeats if part == "executions" else 1):
        with contextlib.ExitStack() as lent:
            folder = lent.enter_context(processes.empty_folder())
            told = lent.enter_context(remotes.bucket()) if part == "files" else {}
            found = processes.part(f"benchmarks.peers.{name}", part, folder, tiny=tiny, python=python, told=told)
        for key, values in found.items():
            figures.setdefault(key, []).extend(values)
    return figures


def _environment(name: str, requirement: str) -> Path:
    """Make a peer's environment, unless it is there; return its Python."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    mark = folder / requirement
    if not mark.exists():
        print(f"Installing {requirement}", flush=True)
        subprocess.run((sys.executable, "-m", "venv", "--clear", folder), check=True)
        pip = (python, "-m", "pip", "--quiet", "--quiet", "--disable-pip-version-check")
        subprocess.run((*pip, "install", requirement), check=True)
        mark.touch()
    return python


def _timed(label: str, measure: Measure, *, tiny: bool) -> dict[str, list[float]]:
    started = time.monotonic()
    found = measure(tiny=tiny)
    print(f"{label:<18} {time.monotonic() - started:6.1f} s", flush=True)
    return found


def keep(out: Path, part: str, measured: dict[str, Any], *, tiny: bool) -> Path:
    """Put one part among the results that are kept, and write the page anew; return where it is."""
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    if bool(results.get("tiny")) != tiny:
        results = {"tiny": True} if tiny else {}
    results[part] = _rounded(measured)
    text = json.dumps(results, indent=1, ensure_ascii=False)
    kept.write_text(re.sub(r"\[[^][{}]*\]", _on_one_line, text) + "\n", encoding="utf-8")
    path = out / "RESULTS.md"
    path.write_text(table.page(results), encoding="utf-8")
    return path


def _on_one_line(values: re.Match[str]) -> str:
    return " ".join(values[0].split())


def _rounded(value: Any) -> Any:
    """Return numbers with five digits, so that a rerun's difference can be read."""
    if isinstance(value, dict):
        return {key: _rounded(found) for key, found in value.items()}
    if isinstance(value, list):
        return [_rounded(found) for found in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
