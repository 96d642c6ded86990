import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks import load
from benchmarks.goals import GOALS, UNGOALED
from benchmarks.machine import FLOOR

ROOT = Path(__file__).parents[2]
# Above the bare interpreter there may be nothing to measure on a busy machine, and little work takes no more memory.
DIFFERENCES = {
    "import_time",
    "import_memory",
    "recorder_time",
    "recorder_memory",
    "data_small_memory",
    "mass_memory",
    "million_memory",
    "million_memory_postgres",
}

PEERS = {
    "date": "2026-01-02",
    "machine": {"processor": "P", "cores": "1", "memory": "1 GiB", "system": "S", "python": "3"},
    "floor": {key: [1.0] for key in FLOOR},
    "versions": {"cmf": "0", "mlmd": "1.2.3"},
    "figures": {"cmf": {goal.key: [2.0] for goal in GOALS}, "mlmd": {"execution": [14.0, 15.0, 16.0]}},
}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, isolated_session: Path) -> Path:
    """Run the whole harness with small sizes; return the folder with what it wrote."""
    out = tmp_path_factory.mktemp("bench")
    # Another command kept its own part before: it must stay.
    (out / "results.json").write_text(json.dumps({"tiny": True, "peers": PEERS}), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--tiny", "--out", out],
        cwd=ROOT,
        check=False,
        text=True,
        capture_output=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_every_workload_has_a_figure(trial: Path) -> None:
    part = json.loads((trial / "results.json").read_text(encoding="utf-8"))["bench"]
    figures = part["figures"]
    assert set(figures) == {goal.key for goal in GOALS} | set(UNGOALED)
    for key, values in figures.items():
        assert values, key
        assert key in DIFFERENCES or min(values) > 0, (key, values)
    assert all(part["floor"][key] for key in FLOOR)


def test_the_page_has_a_line_for_every_goal_and_says_that_a_trial_is_no_result(trial: Path) -> None:
    page = (trial / "RESULTS.md").read_text(encoding="utf-8")
    lines = [
        re.split(r" \| ", line.strip("| ")) for line in page.splitlines() if re.match(r"\| W\d+ \| .* \| [≤≥] ", line)
    ]
    assert [(line[0], line[1]) for line in lines] == [(goal.id, goal.workload) for goal in GOALS]
    assert all(line[5] in ("yes", "**no**") for line in lines)
    assert "no results" in page


def test_the_page_names_no_place_of_the_machine(trial: Path) -> None:
    written = (trial / "RESULTS.md").read_text(encoding="utf-8") + (trial / "results.json").read_text(encoding="utf-8")
    assert str(ROOT) not in written
    assert str(trial) not in written


def test_one_command_leaves_the_part_of_the_other_as_it_is(trial: Path) -> None:
    assert json.loads((trial / "results.json").read_text(encoding="utf-8"))["peers"] == PEERS
    page = (trial / "RESULTS.md").read_text(encoding="utf-8")
    (line,) = [line for line in page.splitlines() if line.startswith("| W2 |") and "7.5 ×" in line]
    assert line.endswith("| ms | 2 | 15 (14–16) | 7.5 × |")


def test_a_load_of_many_sites_is_acknowledged_whole_and_a_missed_goal_is_an_exit_status() -> None:
    words = ("--sites", "20", "--rate", "40", "--seconds", "2", "--database", "sqlite")
    command = [sys.executable, "-m", "benchmarks.load", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    assert ", 0 refused, 0 lost" in done.stdout
    (pushes,) = [line for line in done.stdout.splitlines() if " pushes, " in line]
    assert int(pushes.split()[0]) >= 60
    assert done.stdout.splitlines()[-1].startswith("missed: 300 segments/s")


def test_each_goal_of_the_load_can_be_missed() -> None:
    good = [(n / 400, 0.05) for n in range(4000)]
    met = load.Seen(seconds=10, acknowledged=good, lag=[(1.0, 0.1)], samples=[_sample(at, 60.0) for at in range(11)])
    assert met.missed() == []
    grown = [_sample(at, 60.0 + at) for at in range(11)]
    changes: dict[str, object] = {
        "300 segments/s": {"acknowledged": good[:2900]},
        "99 % acknowledged": {"acknowledged": [*good, *((5.0, 0.3) for _ in range(50))]},
        "lag": {"lag": [(1.0, 0.1), (2.0, 1.1)]},
        "memory": {"samples": grown},
        "nothing refused": {"refused": ["no"]},
        "all that was acknowledged": {"lost": 1},
    }
    for said, change in changes.items():
        (missed,) = msgspec.structs.replace(met, **change).missed()  # type: ignore[arg-type]
        assert missed.startswith(said)


def _sample(at: float, mebibytes: float) -> load.Sample:
    return load.Sample(at=at, hub_s=0, database_s=0, own_s=0, machine_s=0, hub_mib=mebibytes, database_mib=mebibytes)
