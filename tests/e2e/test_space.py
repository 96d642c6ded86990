"""Where the bytes are and what they cost, as a person asks and frees: with a folder and a real hub as remotes."""

from pathlib import Path

import pytest

from cmf.model.digest import file_digest
from tests.commands import cmf, script
from tests.hubs import running
from tests.objects import flip

RECORD = """
from pathlib import Path
import cmf
Path("images").mkdir(exist_ok=True)
for n in range(5):
    Path("images", f"{n}.txt").write_text(f"image {n} " * 50)
Path("model.bin").write_bytes(bytes(range(256)) * 20_000)
with cmf.run("lab/train", name="first") as run:
    run.input("images", name="images")
    run.output("model.bin", name="model", type="model")
"""


def test_show_tells_where_the_bytes_are_and_which_site_had_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab, edge = tmp_path / "lab", tmp_path / "edge"
        for place in (lab, edge):
            place.mkdir()
            cmf(place, "init", "--site", place.name)
            cmf(place, "remote", "add", "origin", hub.url)
            cmf(place, "remote", "add", "disk", str(tmp_path / "disk"))
        script(lab, RECORD)
        assert "bytes       here\n" in cmf(lab, "show", "model").out
        cmf(lab, "push", "disk")
        assert "here · disk (checked just now)" in cmf(lab, "show", "model").out
        assert "here · disk (checked just now)" in cmf(lab, "show", "images").out
        cmf(lab, "push", "--data")
        assert {place["name"] for place in cmf(lab, "show", "model", "--json").json["whereabouts"]["places"]} == {
            *("here", "disk", "origin")
        }
        cmf(edge, "pull")
        said = cmf(edge, "show", "model").out
        assert "bytes       not here, and at no remote that was asked · recorded at lab (" in said, said
        cmf(edge, "pull", "disk")
        assert "bytes       here · disk (checked just now) · recorded at lab (" in cmf(edge, "show", "model").out


def test_what_a_hub_and_a_disk_hold_is_freed_here_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab = tmp_path / "lab"
        lab.mkdir()
        cmf(lab, "init")
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "remote", "add", "disk", str(tmp_path / "disk"))
        script(lab, RECORD)
        free = ("gc", "--elsewhere", "--older-than", "0", "--copies", "2")
        cmf(lab, "push", "--data")
        said = cmf(lab, *free, "--force").out
        assert "Freed 0 B" in said, said
        assert "6 objects that too few remotes hold" in said, said
        cmf(lab, "push", "disk")
        assert "Would free 4.9 MiB" in cmf(lab, *free).out
        assert "6 objects held elsewhere" in cmf(lab, *free, "--force").out
        assert "bytes       disk (checked just now) · origin (checked just now)\n" in cmf(lab, "show", "model").out
        assert "bytes       here 1 of 6 objects · " in (said := cmf(lab, "show", "images").out), said
    (lab / "model.bin").unlink()
    cmf(lab, "get", "model", "again.bin", "--remote", "disk")
    assert (lab / "again.bin").read_bytes() == bytes(range(256)) * 20_000
    cmf(lab, "get", "images", "pictures", "--remote", "disk")
    assert (lab / "pictures" / "3.txt").read_text() == "image 3 " * 50
    said = cmf(lab, *free).out
    assert "too few remotes" in said, said


def test_an_object_that_is_linked_to_a_file_stays_and_says_so(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    (lab / "model.bin").write_bytes(bytes(range(256)) * 20_000)
    script(lab, "import cmf; cmf.run('a/b').output('model.bin', policy='link')")
    cmf(lab, "remote", "add", "disk", str(tmp_path / "disk"))
    cmf(lab, "push", "disk")
    free = ("gc", "--elsewhere", "--older-than", "0", "--force")
    said = cmf(lab, *free).out
    assert "1 object linked to a file of yours" in said
    assert "too young" not in said
    (lab / "model.bin").unlink()
    assert cmf(lab, *free, "--json").json["elsewhere"]["count"] == 1


def test_what_was_added_without_records_and_is_not_in_git_stays(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("kept by its pointer alone")
    cmf(tmp_path, "init")
    cmf(tmp_path, "add", "data", env={"CMF_MODE": "off"})
    assert cmf(tmp_path, "log", "--json").json["executions"] == []
    said = cmf(tmp_path, "gc", "--older-than", "0", "--force").out
    assert said == "Freed 0 B.\n"
    (tmp_path / "data" / "a.txt").unlink()
    (tmp_path / "data").rmdir()
    cmf(tmp_path, "checkout")
    assert (tmp_path / "data" / "a.txt").read_text() == "kept by its pointer alone"
    (tmp_path / "data.cmf").unlink()
    said = cmf(tmp_path, "gc", "--older-than", "0", "--force", "--json").json
    assert said["unreferenced"]["count"] == 2
    assert "is no length of time" in cmf(tmp_path, "gc", "--older-than", "soon", code=2).err
    assert "give --elsewhere" in cmf(tmp_path, "gc", "--copies", "2", code=2).err


def test_du_tells_what_the_objects_cost(tmp_path: Path) -> None:
    script(tmp_path, RECORD)
    said = cmf(tmp_path, "du").out
    assert said.startswith("4.9 MiB in "), said
    assert "  model  (1 object)" in said, said
    assert "  lab/train  (" in said, said
    assert "  images  (6 objects)" in said, said
    found = cmf(tmp_path, "du", "--json").json
    assert found["bytes"] == sum(kind["bytes"] for kind in found["kinds"])


def test_what_is_damaged_here_or_there_is_named_and_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    data = bytes(range(256)) * 20_000
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab = tmp_path / "lab"
        lab.mkdir()
        script(lab, RECORD)
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "remote", "add", "disk", str(tmp_path / "disk"))
        cmf(lab, "push", "--data")
        cmf(lab, "push", "disk")
        digest = file_digest(data)
        flip(lab / ".cmf" / "objects", digest)
        assert digest in cmf(lab, "verify", code=5).out
        cmf(lab, "get", "model", "one.bin", "--remote", "disk")
        assert (lab / "one.bin").read_bytes() == data
        flip(lab / ".cmf" / "objects", digest)
        said = cmf(lab, "verify", "--repair").out
        assert f"mended  object {digest}" in said, said
        assert "all good" in cmf(lab, "verify").out
        said = cmf(lab, "verify", "--remote", "origin").out
        assert "all good" in said
        assert "  its log only grew, and holds 2 segments of those here" in said
        assert "log" not in cmf(lab, "verify", "--remote", "disk").out
        flip(tmp_path / "hub" / "objects", digest)
        (there,) = (path for path in (tmp_path / "disk" / "files").rglob("*") if path.is_file())
        there.chmod(0o644)
        there.write_bytes(there.read_bytes()[:-1])
        for remote in ("origin", "disk"):
            assert digest in cmf(lab, "verify", "--remote", remote, code=5).out
            assert f"mended  object {digest}" in cmf(lab, "verify", "--remote", remote, "--repair").out
            assert "all good" in cmf(lab, "verify", "--remote", remote).out


def test_status_and_du_tell_what_has_fewer_copies_than_wanted(tmp_path: Path) -> None:
    lab = tmp_path / "lab"
    lab.mkdir()
    script(lab, RECORD)
    assert "copies" not in cmf(lab, "status").out
    (lab / ".cmf" / "config.yaml").write_text("v: 1\ncopies: 2\n")
    cmf(lab, "remote", "add", "disk", str(tmp_path / "disk"))
    assert "6 objects of data with fewer than 2 copies" in cmf(lab, "status").out
    assert cmf(lab, "du", "--json").json["scarce"] == 6
    cmf(lab, "push", "disk")
    assert "copies" not in cmf(lab, "status").out
    assert "copies" not in cmf(lab, "du").out
    assert "6 objects that too few remotes hold" in cmf(lab, "gc", "--elsewhere", "--older-than", "0").out
    (lab / ".cmf" / "config.yaml").write_text("v: 1\ncopies: 0\n")
    assert "at least 1" in cmf(lab, "status", code=None).err
