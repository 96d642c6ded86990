"""`cmf event`, `metric` and `param`: what shell steps and child processes say of the run that they belong to."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import cmf
from tests.commands import cmf as command
from tests.commands import script

CMF = f"{sys.executable} -m cmf"


def shell(text: str) -> str:
    """Return a script in which `cmf` is the one under test."""
    return f'cmf() {{ {CMF} "$@"; }}\n{text}'


def test_a_shell_step_says_what_it_used_and_made(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n" * 50)
    text = """
    cmf event input data.csv --type dataset --role train
    cmf param lr=0.1 'layers=[64, 64]' optimizer=adam
    echo weights > model.bin
    cmf event output model.bin --type model --name detector
    cmf metric f1=0.5 auc=nan
    for step in 1 2 3; do cmf metric loss=0.$step --step $step; done
    """
    command(tmp_path, "run", "--scope", "shell/train", "--", "sh", "-ec", shell(text))
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        assert view.params == {"lr": 0.1, "layers": [64, 64], "optimizer": "adam"}
        assert view.metrics["f1"] == 0.5
        assert [(use.path, use.type, use.role) for use in view.inputs if use.type] == [("data.csv", "dataset", "train")]
        assert here.execution("detector").id == view.id
        points = here.series(view, "loss")
        assert list(zip(points.steps, points.values, strict=True)) == [(1, 0.1), (2, 0.2), (3, 0.3)]


def test_many_processes_at_once_lose_no_row(tmp_path: Path) -> None:
    count = 24
    text = f"for i in $(seq {count}); do cmf metric loss=$i --step $i & done; wait"
    command(tmp_path, "run", "--scope", "shell/train", "--", "sh", "-ec", shell(text))
    with cmf.open(tmp_path) as here:
        (view,) = here.executions()
        points = here.series(view, "loss")
        assert sorted(zip(points.steps, points.values, strict=True)) == [(n, float(n)) for n in range(1, count + 1)]


def test_a_child_of_a_python_run_finds_it_from_any_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    text = f"""
import cmf, subprocess
with cmf.run("a/outer") as outer:
    with cmf.run("a/inner") as inner:
        subprocess.run({CMF.split()!r} + ["metric", "of=1"], check=True, cwd="elsewhere")
    subprocess.run({CMF.split()!r} + ["metric", "of=2"], check=True, cwd="elsewhere")
assert subprocess.run({CMF.split()!r} + ["metric", "of=3"]).returncode == 3
"""
    script(tmp_path, text)
    with cmf.open(tmp_path) as here:
        found = {view.scope: view.metrics for view in here.executions()}
    assert found == {"a/inner": {"of": 1}, "a/outer": {"of": 2}}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("metric", "a=1"), 3, "There is no run here"),
        (("event", "input", "x"), 3, "There is no run here"),
        (("param", "a=1"), 3, "There is no run here"),
    ],
)
def test_outside_a_run_they_say_so(tmp_path: Path, arguments: tuple[str, ...], code: int, said: str) -> None:
    done = command(tmp_path, *arguments, code=code)
    assert said in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / ".cmf").exists()


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("metric loss=abc", 2),
        ("metric loss", 2),
        ("metric =1", 2),
        ("event input missing.csv", 3),
        ("event sideways x", 2),
        ("param a", 2),
        ("metric a=1 --step x", 2),
    ],
)
def test_what_is_wrong_is_said_and_the_run_goes_on(tmp_path: Path, line: str, code: int) -> None:
    text = f'cmf {line} || echo "code $?"'
    done = command(tmp_path, "run", "--scope", "a/b", "--", "sh", "-c", shell(text))
    assert f"code {code}" in done.out
    assert "Traceback" not in done.err + done.out
    assert json.loads(command(tmp_path, "log", "--json").out)["executions"][0]["status"] == "finished"


@pytest.mark.parametrize("told", ["x", "a/b:c:d:e", "a/b:01a21014-c82c-7c3d-98c7-c663be9a4b5f:1-00000000:relative"])
def test_a_wrong_variable_is_refused(tmp_path: Path, told: str) -> None:
    done = subprocess.run(
        [*CMF.split(), "metric", "a=1"],
        cwd=tmp_path,
        env={**os.environ, "CMF_RUN": told},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "CMF_RUN is" in done.stderr


def test_a_disk_that_refuses_is_said_by_an_exit_code(tmp_path: Path) -> None:
    text = "rm -rf .cmf/journal; echo file > .cmf/journal; cmf metric a=1 || echo code $?"
    done = command(tmp_path, "run", "--scope", "a/b", "--", "sh", "-c", shell(text), code=None)
    assert "code 7" in done.out
    assert "Traceback" not in done.err
