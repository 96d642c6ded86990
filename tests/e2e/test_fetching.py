"""`cmf get`, `cat` and `pull --data --artifact`: bytes by what they are called, from here or from a real hub."""

import io
import os
from pathlib import Path

import pytest

import cmf as api
from cmf.errors import ConflictError, CorruptError, NotFoundError, UsageError
from cmf.fetching import Brought, own_name
from tests.commands import cmf, script
from tests.hubs import running

MAKE = """
import os
from pathlib import Path
import cmf
os.makedirs("images/val")
for name in ("train.csv", "val/a.png", "val/b.png", "val/notes.txt"):
    Path("images", name).write_text(f"the bytes of {name}: {name * 20}")
os.chmod("images/train.csv", 0o755)
Path("model.bin").write_bytes(bytes(range(256)) * 8)
with cmf.run("p/prepare") as run:
    run.output("images", name="images")
    run.output("model.bin", name="model")
    run.label("best", "model")
with cmf.run("p/train", name="user") as run:
    run.slice("images", ["val/*.png"], name="pictures")
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "lab"
    folder.mkdir()
    script(folder, MAKE)
    return folder


def objects(folder: Path) -> int:
    with api.open(folder) as repo:
        return sum(1 for _ in repo.objects.list())


def test_a_version_is_had_again_by_name_label_digest_and_path_inside_a_folder(lab: Path) -> None:
    for path in (lab / "images").rglob("*"):
        path.chmod(0o755)
    model = (lab / "model.bin").read_bytes()
    with api.open(lab) as repo:
        digest = repo.resolve("model").node.removeprefix("artifact:")
    (lab / "again").mkdir()
    assert "model is in model" in cmf(lab / "again", "get", "model@best").out.replace("model@best", "model")
    assert (lab / "again" / "model").read_bytes() == model
    for name in ("model", digest[:20], "p:model", "model.bin"):
        cmf(lab, "get", name, "out.bin")
        assert (lab / "out.bin").read_bytes() == model
        (lab / "out.bin").unlink()
    cmf(lab, "get", "images/train.csv", "one.csv")
    assert (lab / "one.csv").read_text() == (lab / "images/train.csv").read_text()
    assert os.access(lab / "one.csv", os.X_OK)
    cmf(lab, "get", "images/val/*.png", "some")
    assert sorted(str(path.relative_to(lab / "some")) for path in (lab / "some").rglob("*.*")) == [
        "val/a.png",
        "val/b.png",
    ]
    assert cmf(lab, "cat", "images/val/notes.txt").out == (lab / "images/val/notes.txt").read_text()


def test_what_is_there_already_is_never_overwritten(lab: Path) -> None:
    (lab / "model").write_text("mine")
    said = cmf(lab, "get", "model", code=4).err
    assert "is there already" in said
    assert (lab / "model").read_text() == "mine"
    cmf(lab, "get", "model", "model.bin")  # the same bytes: nothing to do


def test_another_site_fetches_only_the_bytes_that_it_asked_for(lab: Path, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push", "--data")
        edge = tmp_path / "edge"
        cmf(tmp_path, "clone", hub.url, "edge", "--site", "edge")
        before = objects(edge)
        cmf(edge, "pull", "--data", "--artifact", "images/val/*.png")
        assert objects(edge) == before + 4, "the folder's manifest, two files, and the manifest of the part"
        assert cmf(edge, "pull", "--data", "--artifact", "pictures").out == "Nothing new.\n", "the slice of these files"
        assert cmf(edge, "cat", "images/train.csv").out == (lab / "images/train.csv").read_text()
        fresh = tmp_path / "fresh"
        fresh.mkdir()
        cmf(fresh, "init")
        cmf(fresh, "remote", "add", "origin", hub.url)
        cmf(fresh, "get", "model@best")  # whose records were never pulled: the hub knows the name
        assert (fresh / "model").read_bytes() == (lab / "model.bin").read_bytes()
        assert "images" in cmf(fresh, "get", "images").out
        assert (fresh / "images/val/a.png").read_bytes() == (lab / "images/val/a.png").read_bytes()
    gone = cmf(fresh, "get", "pictures", code=3).err
    assert "Nothing here is called 'pictures'" in gone


def test_a_pull_with_data_brings_all_that_status_says_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    lab = tmp_path / "lab"
    lab.mkdir()
    again = 'import cmf, os\nwith cmf.run(resume=os.environ["RUN"]) as run: run.metrics({"f1": 0.9})'
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        made = [  # objects that both need are one each
            script(lab, f'import cmf\nwith cmf.run("{scope}") as run: print(run.id)').out.strip()
            for scope in ("p/one", "p/two")
        ][-1]
        script(lab, again, env={"RUN": made, "OMP_NUM_THREADS": "3"})  # the surroundings of two attempts differ
        cmf(lab, "remote", "add", "origin", hub.url)
        cmf(lab, "push")
        cmf(tmp_path, "clone", hub.url, "edge", "--site", "edge")
        edge = tmp_path / "edge"
        lacking = objects(lab)
        assert f"{lacking} objects known but not here" in cmf(edge, "status").out
        assert "machine" not in cmf(edge, "show", made).out
        cmf(edge, "pull", "--data", "--ancestors", made)
        assert "machine" in cmf(edge, "show", made).out
        assert "1 object known but not here" in cmf(edge, "status").out, "the first attempt's environment"
        cmf(edge, "pull", "--data")
        assert "not here" not in cmf(edge, "status").out
        assert objects(edge) == lacking
        cmf(tmp_path, "clone", hub.url, "same", "--site", "same")
        same = tmp_path / "same"
        with api.open(lab) as repo, api.open(same) as other:
            for digest, _ in repo.objects.list():
                other.objects.put(digest, repo.read(digest))
        assert "not here" not in cmf(same, "status").out, "what came by another way is here"


def test_bytes_that_nobody_holds_are_named_and_nothing_is_written(lab: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "records.bundle"
    with api.open(lab) as repo:
        repo.pack(bundle)
    edge = tmp_path / "edge"
    edge.mkdir()
    with cmf_at(edge) as repo:
        repo.unpack(bundle)
        repo.objects.remove([digest for digest, _ in repo.objects.list()])
        with pytest.raises(NotFoundError, match="there is no remote to ask") as caught:
            repo.get("model", edge / "model")
        assert caught.value.kind == "bytes"
    assert not (edge / "model").exists()
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(edge, "remote", "add", "origin", hub.url)
        assert "nor held by" in cmf(edge, "get", "model", code=3).err
    assert "cmf:" in cmf(edge, "get", "model", code=7).err


def cmf_at(folder: Path) -> "api.Repo":
    return api.init(folder)


def test_words_that_name_no_bytes_are_refused(lab: Path) -> None:
    with api.open(lab) as repo:
        with pytest.raises(UsageError, match="is an execution"):
            repo.get("user", lab / "x")
        with pytest.raises(UsageError, match="is a folder"):
            repo.cat("images", io.BytesIO())
        for missing in ("images/nothing", "model/inside", "nothing/at/all", "sha256:" + "0" * 64):
            with pytest.raises(NotFoundError):
                repo.get(missing, lab / "x")
        with pytest.raises(UsageError, match="leads out"):
            repo.get("images/../model", lab / "x")
        with pytest.raises(ConflictError):
            repo.get("model", lab / "images")
    assert not (lab / "x").exists()


@pytest.mark.parametrize("name", ["..", ".git", "a/.bashrc", "a/", "a\0b", ""])
def test_no_name_from_a_record_chooses_a_hidden_or_odd_place(name: str) -> None:
    with pytest.raises(UsageError, match="unasked"):
        own_name(Brought("sha256:" + "0" * 64, name))


def test_damaged_bytes_end_in_an_error_that_names_the_object(lab: Path) -> None:
    with api.open(lab) as repo:
        digest = repo.resolve("model").node.removeprefix("artifact:")
    packs = [path for path in (lab / ".cmf/objects").rglob("*") if path.is_file()]
    part = bytes(range(64, 128))
    for path in packs:
        data = path.read_bytes()
        if part in data:
            path.chmod(0o644)
            path.write_bytes(data.replace(part, b"x" * len(part), 1))
    with api.open(lab) as repo, pytest.raises(CorruptError, match=digest):
        repo.cat("model", io.BytesIO())
