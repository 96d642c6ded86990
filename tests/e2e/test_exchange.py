"""`cmf clone`, `sync` and ``--dry-run`` as a person types them, with a real hub that comes and goes."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.commands import cmf, script
from tests.hubs import running

RECORD = "import cmf, sys; cmf.run('lab/train', name=sys.argv[1] if len(sys.argv) > 1 else 'first')"


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "lab"
    folder.mkdir()
    script(folder, RECORD)
    return folder


def test_clone_and_sync_bring_two_sites_to_one_story(lab: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        assert "Pushed" in cmf(lab, "sync").out
        said = cmf(tmp_path, "clone", hub.url, "edge", "--site", "edge").out
        assert "Pulled" in said
        edge = tmp_path / "edge"
        assert "first" in cmf(edge, "log").out
        script(edge, RECORD.replace("'first'", "'second'"))
        assert "Pushed" in cmf(edge, "sync").out
        assert "Pulled" in cmf(lab, "sync").out
        assert "second" in cmf(lab, "log").out
        assert cmf(lab, "sync").out == "Nothing new.\n"
        refused = cmf(tmp_path, "clone", hub.url, "edge", code=4)
        assert "There is a store" in refused.err
        assert "Traceback" not in refused.err


def test_a_clone_that_the_hub_does_not_let_in_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        for folder in ("fresh", "used"):
            refused = cmf(tmp_path, "clone", hub.url, folder, "--invite", "cmf_inv_wrong", code=6)
            assert "invite" in refused.err
        assert not (tmp_path / "fresh").exists()
        assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]
        cmf(tmp_path, "clone", hub.url, "fresh")


def test_another_site_sees_what_folder_a_slice_is_part_of_and_who_made_that(lab: Path, tmp_path: Path) -> None:
    text = """
from pathlib import Path
import cmf
Path("images").mkdir()
for name in ("a.png", "b.txt"):
    Path("images", name).write_text(name * 50)
with cmf.run("p/prepare", name="maker") as run:
    run.output("images")
with cmf.run("p/train", name="user") as run:
    run.slice("images", ["*.png"], name="pictures")
"""
    script(lab, text)
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(tmp_path, "clone", hub.url, "edge", "--site", "edge")
    edge = tmp_path / "edge"
    assert "part of images" in cmf(edge, "show", "user").out
    part = next(use for use in json.loads(cmf(edge, "show", "user", "--json").out)["inputs"] if use.get("role"))
    assert "part of     images · folder" in cmf(edge, "show", part["artifact"]).out
    assert "maker" in cmf(edge, "lineage", "user").out


def test_a_dry_run_says_what_would_move_and_moves_nothing(lab: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        would = cmf(lab, "push", "--dry-run").out
        assert would.startswith("Would push")
        assert cmf(lab, "push", "--dry-run").out == would
        pushed = cmf(lab, "push").out
        records = would.split()[2]
        assert pushed.split()[1] == records
        (tmp_path / "edge").mkdir()
        edge = tmp_path / "edge"
        cmf(edge, "init", "--site", "edge")
        cmf(edge, "remote", "add", "origin", hub.url)
        assert cmf(edge, "pull", "--dry-run").out.split()[:3] == ["Would", "pull", records]
        assert "first" not in cmf(edge, "log").out
        assert cmf(edge, "pull", "--dry-run", "--ancestors", "first").out.startswith("Would pull")
        assert cmf(edge, "pull").out.split()[1] == records


def test_watching_goes_on_while_the_hub_is_away(lab: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        port = hub.port
        cmf(lab, "remote", "add", "origin", hub.url)
    watcher = subprocess.Popen(
        [sys.executable, "-m", "cmf", "sync", "--watch", "1"],
        cwd=lab,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    guard = threading.Timer(60, watcher.kill)
    guard.start()
    try:
        assert watcher.stdout is not None
        assert "cannot be reached" in watcher.stdout.readline()
        with running(tmp_path / "hub", tmp_path / "state", port=port):
            while "Pushed" not in (line := watcher.stdout.readline()):
                assert line, "the watcher ended"
    finally:
        guard.cancel()
        watcher.kill()
        watcher.communicate()


def test_step_metrics_are_read_from_a_hub_without_pulling(lab: Path, tmp_path: Path) -> None:
    script(
        lab, "import cmf\nwith cmf.run('lab/long', name='long') as run:\n    [run.log({'loss': n}) for n in range(9)]"
    )
    (tmp_path / "edge").mkdir()
    edge = tmp_path / "edge"
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(edge, "init", "--site", "edge")
        cmf(edge, "remote", "add", "origin", hub.url)
        found = cmf(edge, "show", "long", "--series", "loss", "--remote", "origin", "--json").json
        assert found["values"] == [float(n) for n in range(9)]
        assert (
            "no step metric 'none' there"
            in cmf(edge, "show", "long", "--series", "none", "--remote", "origin", code=3).err
        )
    assert "give --series" in cmf(lab, "show", "long", "--rank", "1", code=2).err
