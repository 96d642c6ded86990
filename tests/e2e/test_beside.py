"""`cmf add` and `checkout`: data follows the commit that is checked out, and no change is ever lost."""

import os
import sys
from pathlib import Path

import pytest

import cmf as api
from cmf.model.digest import file_digest
from tests.commands import cmf, git, run, script
from tests.hubs import running
from tests.objects import flip


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    (folder / "images" / "val").mkdir(parents=True)
    (folder / "images/val/a.png").write_bytes(b"first picture" * 20)
    (folder / "labels.csv").write_text("a,1\n" * 50)
    return folder


def commit(folder: Path, message: str) -> str:
    git(folder, "add", ".")
    git(folder, "commit", "-qm", message)
    return git(folder, "rev-parse", "HEAD").strip()


def versions(folder: Path) -> tuple[str, str]:
    """Commit two versions of the data, and return the commits."""
    cmf(folder, "add", "images", "labels.csv", "--ignore")
    first = commit(folder, "first")
    (folder / "images/val/b.png").write_bytes(b"second picture" * 20)
    (folder / "labels.csv").write_text("b,2\n" * 60)
    cmf(folder, "add", "images", "labels.csv")
    return first, commit(folder, "second")


def test_add_writes_a_pointer_and_leaves_gitignore_alone_unless_asked(project: Path) -> None:
    said = cmf(project, "add", "images").out
    assert "Added images" in said
    assert "/images" in said
    assert not (project / ".gitignore").exists()
    assert "/images" not in cmf(project, "add", "images", "--ignore").out
    assert (project / ".gitignore").read_text() == "/images\n"
    assert cmf(project, "add", "images", "--ignore").out.startswith("Unchanged: images")
    assert (project / ".gitignore").read_text() == "/images\n"
    assert "images.cmf" in git(project, "status", "--porcelain")
    found = cmf(project, "log", "--json").json["executions"]
    assert [(each["scope"], each["command"]) for each in found] == [("project/add", ["cmf", "add", "images"])]
    assert (
        "git keeps labels.csv itself" in (git(project, "add", "labels.csv"), cmf(project, "add", "labels.csv"))[1].out
    )


def test_the_data_follows_the_commit_that_is_checked_out(project: Path) -> None:
    first, second = versions(project)
    git(project, "checkout", "-q", first)
    assert "images is modified" in cmf(project, "status").out
    assert cmf(project, "checkout").out.splitlines() == ["Restored images", "Restored labels.csv"]
    assert sorted(path.name for path in (project / "images/val").iterdir()) == ["a.png"]
    assert (project / "labels.csv").read_text() == "a,1\n" * 50
    git(project, "checkout", "-q", second)
    cmf(project, "checkout", "images")
    assert sorted(path.name for path in (project / "images/val").iterdir()) == ["a.png", "b.png"]
    assert (project / "labels.csv").read_text() == "a,1\n" * 50
    assert cmf(project / "images", "checkout").out == "Restored labels.csv\n"
    assert cmf(project, "checkout").out == "All is as 2 pointer files say.\n"
    assert git(project, "status", "--porcelain") == ""


def test_a_change_that_is_kept_nowhere_is_named_and_stays_until_it_is_given_up(project: Path) -> None:
    first, _ = versions(project)
    git(project, "checkout", "-q", first)
    (project / "labels.csv").write_text("mine\n")
    (project / "images/val/mine.png").write_bytes(b"mine")
    done = cmf(project, "checkout", code=4)
    assert "labels.csv: changed, and kept nowhere" in done.err
    assert "images/val/mine.png: changed" in done.err
    assert (project / "labels.csv").read_text() == "mine\n"
    assert (project / "images/val/mine.png").exists()
    assert cmf(project, "checkout", "--force", "labels.csv").out == "Restored labels.csv\n"
    (project / "images/val/mine.png").unlink()
    (project / "images/val/link").symlink_to("a.png")
    assert "images: changed" in cmf(project, "checkout", code=4).err, "a link would be lost"
    git(project / "images", "init", "-q")
    assert "holds a repository" in cmf(project, "checkout", "--force", code=4).err
    assert (project / "images/.git").exists()


def test_a_folder_keeps_the_files_that_are_right_already(project: Path) -> None:
    first, second = versions(project)
    before = (project / "images/val/a.png").stat()
    for commit_, names in ((first, ["a.png"]), (second, ["a.png", "b.png"])):
        git(project, "checkout", "-q", commit_)
        assert cmf(project, "checkout", "images").out == "Restored images\n"
        assert sorted(path.name for path in (project / "images/val").iterdir()) == names
        assert (project / "images/val/a.png").stat() == before
    git(project, "checkout", "-q", first)
    (project / "images/val/b.png").write_bytes(b"mine")
    assert "images/val/b.png: changed, and kept nowhere" in cmf(project, "checkout", "images", code=4).err
    assert (project / "images/val/b.png").read_bytes() == b"mine"


def test_what_is_missing_or_damaged_here_is_fetched_again_for_a_checkout_and_for_cat(
    project: Path, tmp_path: Path
) -> None:
    first, _ = versions(project)
    cmf(project, "remote", "add", "disk", str(tmp_path / "disk"))
    cmf(project, "push", "disk")
    git(project, "checkout", "-q", first)
    cmf(project, "checkout")
    objects = project / ".cmf/objects"
    for data in (b"second picture" * 20, b"b,2\n" * 60):
        flip(objects, file_digest(data), 3)
    git(project, "checkout", "-q", "main")
    assert cmf(project, "checkout").out.splitlines() == ["Restored images", "Restored labels.csv"]
    assert (project / "images/val/b.png").read_bytes() == b"second picture" * 20
    flip(objects, file_digest(b"b,2\n" * 60), 3)
    assert cmf(project, "cat", file_digest(b"b,2\n" * 60)).out == "b,2\n" * 60
    with api.open(project) as repo:
        repo.objects.remove([file_digest(b"b,2\n" * 60)])
    assert cmf(project, "cat", file_digest(b"b,2\n" * 60)).out == "b,2\n" * 60


def test_a_link_to_the_right_bytes_stays_and_one_to_others_is_never_followed_or_replaced(project: Path) -> None:
    first, _ = versions(project)
    elsewhere = project.parent / "elsewhere.csv"
    (project / "labels.csv").rename(elsewhere)
    (project / "labels.csv").symlink_to(elsewhere)
    assert cmf(project, "checkout").out == "All is as 2 pointer files say.\n"
    git(project, "checkout", "-q", first)
    assert "labels.csv: changed" in cmf(project, "checkout", code=4).err
    assert elsewhere.read_text() == "b,2\n" * 60
    assert (project / "labels.csv").is_symlink()


def test_status_tells_what_is_missing_modified_invalid_and_not_in_git(project: Path) -> None:
    cmf(project, "add", "images", "labels.csv", "--ignore")
    assert "labels.csv.cmf is not in git yet" in cmf(project, "status").out
    commit(project, "first")
    states = {each["path"]: each["state"] for each in cmf(project, "status", "--json").json["pointers"]}
    assert states == {"images": "same", "labels.csv": "same"}
    (project / "labels.csv").unlink()
    (project / "images/val/a.png").write_bytes(b"x" * 260)
    (project / "bad.cmf").write_text("<<<<<<< HEAD\n")
    said = cmf(project, "status").out
    for part in ("labels.csv is missing", "images is modified", "bad.cmf is no pointer file of the known form"):
        assert part in said
    assert "bad: " in cmf(project, "checkout", "bad.cmf", code=5).err


def test_a_colleague_gets_the_data_of_a_clone_from_the_hub(project: Path, tmp_path: Path) -> None:
    first, _ = versions(project)
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        cmf(project, "remote", "add", "origin", hub.url)
        cmf(project, "push", "--data")
        git(tmp_path, "clone", "-q", str(project), "theirs")
        theirs = tmp_path / "theirs"
        cmf(theirs, "init", "--site", "theirs")
        assert "labels.csv" in cmf(theirs, "checkout", code=3).err, "nobody to ask"
        cmf(theirs, "remote", "add", "origin", hub.url)
        cmf(theirs, "checkout")
        assert (theirs / "labels.csv").read_text() == "b,2\n" * 60
        git(theirs, "checkout", "-q", first)
        cmf(theirs, "checkout")
    assert (theirs / "labels.csv").read_text() == "a,1\n" * 50
    assert not (theirs / "images/val/b.png").exists()


def test_with_the_hook_git_itself_restores_the_data(project: Path) -> None:
    first, second = versions(project)
    assert "post-checkout" in cmf(project, "checkout", "--install-hook").out
    assert cmf(project, "checkout", "--install-hook").out == "", "they are there"
    git(project, "checkout", "-q", first)
    assert (project / "labels.csv").read_text() == "a,1\n" * 50
    git(project, "checkout", "-q", "-b", "more")
    git(project, "merge", "-q", second)
    assert (project / "labels.csv").read_text() == "b,2\n" * 60


def test_a_hook_that_is_there_is_never_replaced(project: Path) -> None:
    hook = project / ".git/hooks/post-merge"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\n# mine\n")
    cmf(project, "init")
    assert "There is a hook" in cmf(project, "checkout", "--install-hook", code=4).err
    assert hook.read_text() == "#!/bin/sh\n# mine\n"
    assert not (project / ".git/hooks/post-checkout").exists()
    (project / "own").mkdir()
    git(project, "config", "core.hooksPath", "own")
    cmf(project, "checkout", "--install-hook")
    assert sorted(path.name for path in (project / "own").iterdir()) == ["post-checkout", "post-merge"]


def test_a_run_says_which_pointer_and_commit_its_data_had(project: Path) -> None:
    _, second = versions(project)
    script(project, "import cmf\nwith cmf.run('p/train', name='user') as run: run.input('labels.csv')")
    (used,) = cmf(project, "show", "user", "--json").json["inputs"]
    assert used["pointer"] == {"path": "labels.csv.cmf", "commit": second}
    assert "add" in cmf(project, "lineage", "user").out
    (project / "labels.csv").write_text("changed since\n" * 9)
    script(project, "import cmf\nwith cmf.run('p/train', name='later') as run: run.input('labels.csv')")
    (later,) = cmf(project, "show", "later", "--json").json["inputs"]
    assert not later.get("pointer"), "no commit has that version"


def test_without_git_a_checkout_finds_the_pointers_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "odd \n*name").write_text("odd")
    assert "gitignore" not in cmf(tmp_path, "add", "data").out
    (tmp_path / "data" / "odd \n*name").unlink()
    (tmp_path / "data").rmdir()
    assert cmf(tmp_path, "checkout").out == "Restored data\n"
    assert (tmp_path / "data" / "odd \n*name").read_text() == "odd"


def test_what_cannot_be_added_is_refused_before_anything_is_written(project: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text("x")
    (project / "link").symlink_to("labels.csv")
    for path, code in (("nothing", 3), ("link", 2), ("../outside", 2), (".git", 2), (".cmf", 2)):
        assert cmf(project, "add", path, code=code).err.startswith("cmf: "), path
    assert not list(project.glob("?*.cmf"))
    with api.init(project) as repo:
        assert repo.executions() == []
    run(["git", "status"], project)
