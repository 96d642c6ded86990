"""Runs that are parts of a run, such as those of a sweep."""

from pathlib import Path

import cmf
from tests import commands
from tests.commands import script

SWEEP = """
import cmf
with cmf.run("p/sweep", name="the-sweep") as sweep:
    for lr in (0.1, 0.01):
        with cmf.run("p/train", name=f"lr-{lr}", params={"lr": lr, "epochs": 3}, parent=sweep) as run:
            run.metrics(f1=1 - lr)
"""


def test_children_are_listed_newest_first(tmp_path: Path) -> None:
    script(tmp_path, SWEEP)
    with cmf.open(tmp_path) as repo:
        sweep = repo.execution("the-sweep")
        assert [child.name for child in repo.children(sweep)] == ["lr-0.01", "lr-0.1"]
        assert [child.parent for child in repo.children("the-sweep")] == [sweep.node] * 2
        assert repo.children("lr-0.1") == []


def test_show_tells_what_differs_among_the_children_and_whose_child_one_is(tmp_path: Path) -> None:
    script(tmp_path, SWEEP)
    with cmf.open(tmp_path) as repo:
        short = repo.execution("the-sweep").id[24:31]
    parent = commands.cmf(tmp_path, "show", "the-sweep").out
    assert "lr=0.01" in parent
    assert "f1 0.99" in parent
    assert "epochs" not in parent, "it is the same in both"
    assert f"the-sweep · {short}" in commands.cmf(tmp_path, "show", "lr-0.1").out
    assert "lr-0.1" in commands.cmf(tmp_path, "log", "parent = the-sweep and metrics.f1 < 0.95").out
