"""Results as a page: each figure beside its goal, the floor, and the peers."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.anchors import ANCHORS, DATE
from benchmarks.goals import GOALS, PEER_GOALS, UNGOALED, WHY, Goal
from benchmarks.machine import FLOOR

Figures = Mapping[str, Sequence[float]]

NAMES = {"mlmd": "ML Metadata", "mlflow": "MLflow", "trackio": "Trackio", "dvc": "DVC"}
PEER_WORK = {
    "recorder_time": "import, ready to record, above the bare interpreter",
    "recorder_memory": "the same, memory",
    "version": "the command tells its version",
    "execution": "one execution: 10 params, two files of 1 KiB, 3 metrics; the median",
    "execution_mean": "the mean, with all that the first one loads",
}
PEER_IDS = ("W1", "W2", "W7")
PEER_NOTES = """\
W2 is not the same amount of work everywhere. CMF hashes both files, keeps their bytes, and records code and
environment. ML Metadata keeps no files: they are hashed for it, and nothing else. MLflow copies the files without
hashing them. W7 is asked of ML Metadata layer by layer through its getters; its own
call for lineage ends after a hundred hops. MLflow and Trackio have no lineage to ask for. Trackio's
executions are params and metrics alone, without files. In W3 all log one row a call. CMF and Trackio are timed until
the run is finished, MLflow until the last call has returned, since each commits. Read back is one name: MLflow gives
an object a point, Trackio all three metrics of every row, for it has no other way. ML Metadata has no step metrics.
W11 and W12 are small here: at the sizes above, the others would take hours. In W11 each process of CMF, MLflow and
Trackio writes a run of its own; with ML Metadata each metric is an execution's. In W12 MLflow takes points in batches
of 1,000, its fastest way. A chart takes all points from MLflow and Trackio, and at most 1,000 that draw it from CMF.
What is stored counts every file, the logs of databases too, which weigh on so few points.
In W4 CMF hashes each file while it copies it, until it is durable; DVC is the command `dvc add`, its start included,
which hashes with MD5; MLflow copies and hashes nothing. In W9 DVC is `dvc push` and `dvc pull`. The bucket is of the
same S3 server on the loopback for all."""


def number(value: float) -> str:
    """Return a number with three digits that count."""
    if value and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}"


def measured(values: Sequence[float]) -> str:
    """Return the median, and from where to where the values went."""
    if len(values) == 1:
        return number(values[0])
    return f"{number(statistics.median(values))} ({number(min(values))}–{number(max(values))})"


def ratio(goal: Goal, values: Sequence[float]) -> float:
    """Return the median against the goal: at most 1 if it is met."""
    found = statistics.median(values)
    return goal.goal / found if goal.rate else found / goal.goal


def page(results: Mapping[str, Any]) -> str:
    """Return the whole page of what was measured so far."""
    lines = ["# Benchmarks", ""]
    if results.get("tiny"):
        lines += ["**A trial of the harness with small sizes. These are no results.**", ""]
    lines += [
        "`make bench` writes the first part of this page, `make bench-peers` the second. A figure is the median, with",
        "the least and the greatest in parentheses. A ratio of at most 1 meets the goal.",
    ]
    if "bench" in results:
        lines += _bench(results["bench"])
    if "peers" in results:
        lines += _peers(results["peers"])
    return "\n".join([*lines, *_anchors(), ""])


def _bench(part: Mapping[str, Any]) -> list[str]:
    figures: Figures = part["figures"]
    rows = []
    for goal in GOALS:
        wanted = f"{'≥' if goal.rate else '≤'} {number(goal.goal)} {goal.unit}".strip()
        values = figures.get(goal.key)
        if not values:  # a workload that is newer than the results
            rows.append((goal.id, goal.workload, wanted, "not measured yet", "–", "–"))
            continue
        found = ratio(goal, values)
        met = "yes" if found <= 1 else "**no**"
        rows.append((goal.id, goal.workload, wanted, f"{measured(values)} {goal.unit}".strip(), f"{found:.2f}", met))
    return [
        *_heading("Against the goals", part),
        *_table(("id", "workload", "goal", "measured", "ratio", "met?"), rows),
        "",
        *_missed(figures),
        "Without a goal: "
        + "; ".join(f"{number(statistics.median(figures[k]))} {v}" for k, v in UNGOALED.items() if k in figures)
        + ".",
        *_floor(part),
    ]


def _peers(part: Mapping[str, Any]) -> list[str]:
    figures: Mapping[str, Figures] = part["figures"]
    peers = [name for name in figures if name != "cmf"]
    rows = []
    shown = [goal for goal in GOALS if goal.id in PEER_IDS and goal.key not in ("import_time", "import_memory")]
    for goal in sorted((*shown, *PEER_GOALS), key=lambda goal: int(goal.id[1:])):
        ours = figures["cmf"].get(goal.key)
        if not ours:
            continue
        row = [goal.id, PEER_WORK.get(goal.key, goal.workload), goal.unit, measured(ours)]
        for name in peers:
            theirs = figures[name].get(goal.key)
            row += [measured(theirs), _times(theirs, ours)] if theirs else ["–", "–"]
        rows.append(row)
    heads = ["id", "workload", "unit", "CMF"]
    for name in peers:
        heads += [f"{NAMES[name]} {part['versions'][name]}", "theirs / ours"]
    return [*_heading("Beside other frameworks", part), *_table(heads, rows), "", PEER_NOTES, *_floor(part)]


def _times(theirs: Sequence[float], ours: Sequence[float]) -> str:
    return f"{number(statistics.median(theirs) / statistics.median(ours))} ×"


def _missed(figures: Figures) -> list[str]:
    """Return a line for each goal that is missed: by how much, and why."""
    lines = []
    for goal in GOALS:
        found = ratio(goal, figures[goal.key]) if goal.key in figures else 0
        if found > 1:
            said = f"- {goal.id}, {goal.workload}: {found:.1f} times the goal. {WHY.get(goal.key, '')}".strip()
            lines += textwrap.wrap(said, 110, subsequent_indent="  ")
    return ["Missed, and why:", "", *lines, ""] if lines else []


def _heading(title: str, part: Mapping[str, Any]) -> list[str]:
    machine = part["machine"]
    about = f"{machine['processor']}, {machine['cores']} cores, {machine['memory']}, {machine['system']}"
    return ["", f"## {title}", "", f"{part['date']}. {about}, Python {machine['python']}.", ""]


def _floor(part: Mapping[str, Any]) -> list[str]:
    rows = [(text, measured(part["floor"][key])) for key, text in FLOOR.items()]
    return ["", "The floor of this machine, measured in the same run:", "", *_table(("floor", "measured"), rows)]


def _anchors() -> list[str]:
    return [
        "",
        f"## Other peers, dated {DATE}",
        "",
        "Not measured here: quoted from an earlier comparison on another machine with 2 cores, one pass, ±30 %.",
        "They show the order of magnitude, no more.",
        "",
        *_table(("id", "workload", "quoted"), ANCHORS),
    ]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_row(heads), _row(["---"] * len(heads)), *map(_row, rows)]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
