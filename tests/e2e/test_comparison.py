"""What two executions differ in, as `cmf diff` and `cmf show --diff` tell it."""

import json
import sys
from pathlib import Path

import pytest

from cmf.comparison import between
from tests.commands import cmf, git, run

TRAIN = "import cmf\n" + "".join(f"x{n} = {n}\n" for n in range(40))
END = """
with cmf.run("p/train", params={"lr": rate, "seed": 1}) as r:
    r.metrics(f1=rate * 2)
    open("model.txt", "w").write(str(rate))
    r.output("model.txt")
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init")
    (folder / "train.py").write_text(TRAIN + "rate = 1\n" + END)
    (folder / ".gitignore").write_text("model.txt\n")
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


def record(folder: Path, text: str) -> str:
    """Run the script as it then is; return its short id."""
    (folder / "train.py").write_text(text)
    run([sys.executable, "train.py"], folder)
    return str(cmf(folder, "log", "--json").json["executions"][0]["short"])


def test_two_runs_whose_code_differs_by_one_uncommitted_line_show_that_line(project: Path) -> None:
    one = record(project, TRAIN + "rate = 1\n" + END)
    two = record(project, TRAIN + "rate = 2\n" + END)
    three = record(project, TRAIN.replace("x3 = 3", "x3 = 33") + "rate = 3\n" + END)
    assert "+rate = 2\n" in cmf(project, "show", two, "--diff").out
    for first, second, lines in ((one, two, {"-rate = 1", "+rate = 2"}), (two, one, {"+rate = 1", "-rate = 2"})):
        said = cmf(project, "diff", first, second).out.splitlines()
        assert {line.strip() for line in said if line.strip()[:1] in ("+", "-") and "rate" in line} == lines
    found = cmf(project, "diff", two, three, "--json").json
    changed = {line for line in found["code"].splitlines() if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")}
    assert changed == {"-x3 = 3", "+x3 = 33", "-rate = 2", "+rate = 3"}
    assert found["params"] == {"lr": [2, 3]}
    assert found["metrics"] == {"f1": [4, 6]}
    assert list(found["outputs"]) == ["model.txt"]
    assert found["packages"] == found["machine"] == found["inputs"] == {}
    assert found["commit"] is None


def test_runs_of_two_commits_and_of_none_differ_in_the_commit_alone(project: Path) -> None:
    one = record(project, TRAIN + "rate = 1\n" + END)
    (project / "notes.md").write_text("a note\n")
    git(project, "add", ".")
    git(project, "commit", "-m", "second")
    two = record(project, TRAIN + "rate = 1\n" + END)
    found = cmf(project, "diff", one, two, "--json").json
    assert found["commit"][1] == git(project, "rev-parse", "HEAD").strip()
    assert [name for name, value in found.items() if value] == ["commit"]
    assert "commit" in cmf(project, "diff", one, two).out
    assert "no difference" in cmf(project, "diff", one, one).out


def test_changes_to_one_commit_differ_where_the_files_that_they_make_differ() -> None:
    head = "diff --git a/a.py b/a.py\n--- a/a.py\n+++ b/a.py\n"
    first = head + "@@ -1,2 +1,2 @@\n x\n-y\n+z\n"
    second = head + "@@ -1,2 +1,2 @@\n x\n-y\n+w\n"
    assert between(first, first) == ""
    assert between(first, second).splitlines()[-2:] == ["-z", "+w"]
    assert between("", first).splitlines()[-2:] == ["-y", "+z"]
    assert between(first, "").splitlines()[-2:] == ["-z", "+y"]


def test_changes_of_binary_files_are_named() -> None:
    patch = "diff --git a/a.bin b/a.bin\nindex 1..2 100644\nGIT binary patch\nliteral 1\nIcmZ\n"
    assert between("", patch) == "Binary file or mode of a.bin differs\n"


def test_a_difference_is_json_that_others_read(project: Path) -> None:
    one = record(project, TRAIN + "rate = 1\n" + END)
    said = cmf(project, "diff", one, one, "--json").out
    assert set(json.loads(said)) >= {"params", "metrics", "code", "packages", "inputs", "outputs"}
