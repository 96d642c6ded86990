"""The user's git repository is theirs: identical before and after recording, wherever and however one records."""

from pathlib import Path

import pytest

from tests.commands import cmf, git, script

RECORD = """
import cmf
with cmf.run("p/train", params={"lr": 0.1}) as run:
    run.input("data.csv")
    run.log({"loss": 0.5})
    open("model.bin", "w").write("weights" * 20)
    run.output("model.bin", name="model")
"""


def state(repository: Path) -> dict[str, object]:
    """Return all of a repository that recording might touch."""
    folder = Path(git(repository, "rev-parse", "--absolute-git-dir").strip())
    return {
        "status": git(repository, "status", "--porcelain=v2", "--branch", "--ignored"),
        "index": (folder / "index").read_bytes() if (folder / "index").exists() else b"",
        "refs": git(repository, "for-each-ref"),
        "stash": git(repository, "stash", "list"),
        "config": (folder / "config").read_bytes() if (folder / "config").exists() else b"",
        "head": (folder / "HEAD").read_bytes(),
        "objects": sorted(str(path) for path in folder.rglob("*") if "objects" in path.parts),
    }


def repository(folder: Path) -> Path:
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "data.csv").write_text("1,2\n" * 50)
    (folder / "kept.txt").write_text("kept\n")
    (folder / "model.bin").write_text("old" * 40)
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "first")
    (folder / "kept.txt").write_text("stashed\n")
    git(folder, "stash", "-q")
    (folder / "kept.txt").write_text("staged\n")
    git(folder, "add", "kept.txt")
    (folder / "kept.txt").write_text("changed again\n")
    (folder / "new.txt").write_text("untracked\n")
    (folder / "model.bin").write_text("weights" * 20)
    return folder


@pytest.mark.parametrize("way", ["api", "command"])
def test_status_branches_index_stash_and_config_are_identical_before_and_after(tmp_path: Path, way: str) -> None:
    folder = repository(tmp_path / "repo")
    git(folder, "status")  # git itself refreshes its index once
    before = state(folder)
    if way == "api":
        script(folder, RECORD)
    else:
        cmf(folder, "run", "--", "python", "-c", "open('model.bin','w').write('weights'*20)")
    cmf(folder, "log")
    assert {**state(folder), "status": before["status"]} == before
    said = git(folder, "status", "--porcelain=v2", "--branch", "--ignored")
    assert said.replace("! .cmf/\n", "") == before["status"], ".cmf ignores itself"
    (found,) = cmf(folder, "log", "--json").json["executions"]
    assert found["code"]["dirty"] is True
    assert "changed again" in cmf(folder, "show", found["id"], "--diff").out


def test_recording_works_in_a_sub_folder_and_finds_the_repositorys_store(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repo")
    deep = folder / "a" / "b"
    deep.mkdir(parents=True)
    (deep / "data.csv").write_text("3,4\n" * 30)
    script(deep, RECORD)
    assert (folder / ".cmf").is_dir()
    assert not (deep / ".cmf").exists()
    (found,) = cmf(deep, "log", "--json").json["executions"]
    assert [use["path"] for use in found["inputs"]] == ["a/b/data.csv"]


def test_recording_works_in_a_work_tree_on_a_detached_head(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repo")
    git(folder, "worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    before = state(folder)
    script(tmp_path / "tree", RECORD)
    (found,) = cmf(tmp_path / "tree", "log", "--json").json["executions"]
    assert found["code"]["commit"] == git(folder, "rev-parse", "HEAD").strip()
    assert not found["code"].get("branch")
    assert state(folder) == before


def test_recording_works_in_an_empty_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "data.csv").write_text("1,2\n" * 30)
    script(tmp_path, RECORD)
    (found,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert found["status"] == "finished"
    assert not found["code"].get("commit")


def test_recording_works_without_a_repository(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2\n" * 30)
    script(tmp_path, RECORD)
    (found,) = cmf(tmp_path, "log", "--json").json["executions"]
    assert (found["status"], found["code"]) == ("finished", {})


def test_recording_works_without_git_installed(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repo")
    nothing = tmp_path / "bin"
    nothing.mkdir()
    script(folder, RECORD, env={"PATH": str(nothing)})
    (found,) = cmf(folder, "log", "--json", env={"PATH": str(nothing)}).json["executions"]
    assert (found["status"], found["code"]) == ("finished", {})


def test_code_that_differs_by_one_line_that_is_not_committed_shows_that_line(tmp_path: Path) -> None:
    folder = repository(tmp_path / "repo")
    for line in ("rate = 1", "rate = 2"):
        (folder / "kept.txt").write_text(f"{line}\n")
        script(folder, RECORD)
    second, first = cmf(folder, "log", "--json").json["executions"]
    assert "+rate = 2" in cmf(folder, "show", second["id"], "--diff").out
    assert "+rate = 1" in cmf(folder, "show", first["id"], "--diff").out
