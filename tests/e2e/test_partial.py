"""A store that follows a part of a hub, as a person types it."""

import sqlite3
from pathlib import Path

import pytest

from tests.commands import cmf, script
from tests.hubs import running

RECORD = """
import sys, cmf
for scope in sys.argv[1:]:
    with cmf.run(scope, name=scope.replace('/', '-')) as run:
        run.metrics({'f1': 0.5})
"""


def record(folder: Path, *scopes: str) -> None:
    folder.mkdir(exist_ok=True)
    script(folder, f"import sys; sys.argv[1:] = {list(scopes)!r}\n{RECORD}")


def names(folder: Path) -> list[str]:
    return sorted(view["name"] for view in cmf(folder, "log", "--json").json["executions"])


def test_a_store_follows_a_part_which_widens_and_narrows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab, edge = tmp_path / "lab", tmp_path / "edge"
    record(lab, "det/train", "seg/train", "ocr/train")
    edge.mkdir()
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "init", "--site", "lab")
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(edge, "init", "--site", "edge")
        cmf(edge, "remote", "add", "origin", hub.url)
        assert "brings --scope det/*;" in cmf(edge, "pull", "--scope", "det/*").out
        record(lab, "det/more", "seg/more")
        cmf(lab, "push")
        cmf(edge, "pull")
        assert names(edge) == ["det-more", "det-train"]

        cmf(edge, "pull", "--scope", "seg/*")  # wider: what lacked comes, too
        assert names(edge) == ["det-more", "det-train", "seg-more", "seg-train"]
        assert cmf(edge, "remote", "list").out == f"origin\t{hub.url}\t--scope det/* --scope seg/*\n"

        assert cmf(edge, "remote", "follow", "origin", "--scope", "seg/*").out == "--scope seg/*\n"
        record(lab, "det/late", "seg/late")
        cmf(lab, "push")
        cmf(edge, "pull")  # narrower: nothing new of the rest, and what was here stays
        assert names(edge) == ["det-more", "det-train", "seg-late", "seg-more", "seg-train"]

        cmf(edge, "pull", "--all")
        everything = ["det-late", "det-more", "det-train", "ocr-train", "seg-late", "seg-more", "seg-train"]
        assert names(edge) == everything
        assert cmf(edge, "remote", "follow", "origin").out == "everything\n"
        assert cmf(edge, "pull", "--scope", "det/*").out.startswith("Nothing new.\n")
        assert cmf(edge, "remote", "list").out == f"origin\t{hub.url}\n"
        assert names(edge) == everything


def test_a_pull_chooses_by_time_by_site_and_by_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab, edge, reader = tmp_path / "lab", tmp_path / "edge", tmp_path / "reader"
    reader.mkdir()
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        for site, scope in ((lab, "det/train"), (edge, "det/edge")):
            site.mkdir()
            cmf(site, "init", "--site", site.name)
            record(site, scope)
            cmf(site, "remote", "add", "origin", hub.url)
            cmf(site, "push")
        cmf(reader, "init")
        cmf(reader, "remote", "add", "origin", hub.url)
        assert cmf(reader, "pull", "--until", "2020-01-01").out.endswith("Nothing new.\n")
        assert "is no time" in cmf(reader, "pull", "--since", "soon", code=2).err
        cmf(reader, "remote", "follow", "origin", "--site", "edge", "--since", "2020-01-01")
        cmf(reader, "pull")
        assert names(reader) == ["det-edge"]
        cmf(reader, "pull", "--where", "metrics.f1 = 0.5 and stage = train")
        assert names(reader) == ["det-edge", "det-train"]


def test_verify_names_what_a_hub_logged_and_is_not_here_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab, edge = tmp_path / "lab", tmp_path / "edge"
    record(lab, "det/train", "seg/train")
    edge.mkdir()
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(edge, "init", "--site", "edge")
        cmf(edge, "remote", "add", "origin", hub.url)
        cmf(edge, "pull")
        assert "all good" in cmf(edge, "verify", "--remote", "origin").out
    for site in (lab, edge):  # the hub is away
        said = cmf(site, "verify").out
        assert "all good" in said
        assert "in the signed log of a hub: 4 segments" in said
    with sqlite3.connect(edge / ".cmf" / "store.db") as database:
        ((hash_,),) = database.execute("SELECT hash FROM segment WHERE n = 1 ORDER BY g LIMIT 1").fetchall()
        database.execute("DELETE FROM segment WHERE hash = ?", (hash_,))
    done = cmf(edge, "verify", code=5)
    assert f"segment {hash_.hex()[:12]}: it is entry " in done.out
    assert f"of the log of {hub.url}, and is not here any more" in done.out


def test_status_counts_executions_that_are_named_and_not_here_and_pull_brings_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab, edge = tmp_path / "lab", tmp_path / "edge"
    lab.mkdir()
    edge.mkdir()
    (lab / "data.csv").write_text("a,b\n" * 1000)
    script(
        lab,
        "import cmf\nwith cmf.run('det/sweep', name='sweep') as run:\n    run.output('data.csv')\n"
        "    with cmf.run('seg/train', name='child', parent=run) as child:\n        child.input('data.csv')",
    )
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(edge, "init", "--site", "edge")
        cmf(edge, "remote", "add", "origin", hub.url)
        cmf(edge, "pull", "--scope", "seg/*")
        assert names(edge) == ["child"]
        assert "1 execution named here but not here" in cmf(edge, "status").out
        assert "(not here; 'cmf pull --promised' brings it)" in cmf(edge, "lineage", "child").out
        cmf(edge, "pull", "--promised")
        assert names(edge) == ["child", "sweep"]
        assert "named here" not in cmf(edge, "status").out
