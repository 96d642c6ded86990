import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cmf.model.digest import file_digest
from cmf.objects import manifest, read
from cmf.objects.local import LocalObjects
from cmf.worktree import git
from cmf.worktree.git import Code

LIMIT = 1000
SILENT = Code(omitted=(git.Omitted("", 0, "git did not answer"),), omitted_count=1)


def run(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, text=True, capture_output=True).stdout.strip()


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


@pytest.fixture
def capture(objects: LocalObjects) -> Callable[[Path], Code]:
    """Capture a repository that must be there, its objects into `objects`."""

    def keep(data: bytes) -> str:
        objects.put(file_digest(data), data)
        return file_digest(data)

    def capture(folder: Path) -> Code:
        code = git.capture(folder, keep, untracked_bytes_max=LIMIT)
        assert code is not None
        return code

    return capture


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    run(folder, "init")
    return folder


@pytest.fixture
def repository(empty: Path) -> Path:
    """Make a repository with two commits, a clean tree and a store that ignores itself."""
    (empty / "sub").mkdir()
    (empty / "train.py").write_text("print(1)\n")
    (empty / "sub" / "lib.py").write_text("x = 1\n")
    (empty / ".gitignore").write_text("*.log\n")
    run(empty, "add", ".")
    run(empty, "commit", "-m", "first")
    (empty / "train.py").write_text("print(2)\n")
    run(empty, "commit", "-am", "second")
    (empty / ".cmf").mkdir()
    (empty / ".cmf" / ".gitignore").write_text("*\n")
    (empty / ".cmf" / "journal").write_text("j")
    return empty


def state(folder: Path) -> dict[str, object]:
    """Return everything of a repository that looking must not change, the index's own bytes and time included."""
    own = Path(run(folder, "rev-parse", "--absolute-git-dir"))
    files = {
        str(path.relative_to(own)): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in own.rglob("*")
        if path.is_file()
    }
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if ".git" not in path.parts)
    return {
        "files": files,
        "names": names,
        "status": run(folder, "--no-optional-locks", "status", "--porcelain=v2", "--branch", "--ignored"),
        "stash": run(folder, "stash", "list"),
        "branches": run(folder, "branch", "--all", "-vv"),
        "config": run(folder, "config", "--list", "--local"),
    }


def untracked(objects: LocalObjects, code: Code) -> dict[str | bytes, bytes]:
    return {entry.path: read(objects, entry.digest) for entry in manifest.decode(read(objects, code.untracked))}


def test_a_clean_tree_is_its_commit_and_branch(capture: Callable[[Path], Code], repository: Path) -> None:
    run(repository, "remote", "add", "upstream", "https://example.org/up.git")
    run(repository, "remote", "add", "origin", "https://ada:s3cret@example.org/a.git?token=s3cret")
    assert capture(repository) == Code(
        repository="https://example.org/a.git", commit=run(repository, "rev-parse", "HEAD"), branch="main"
    )


def test_a_dirty_tree_can_be_rebuilt_from_what_is_kept(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects, tmp_path: Path
) -> None:
    (repository / "train.py").write_text("print('changed')\n")
    (repository / "sub" / "lib.py").unlink()
    (repository / "staged.bin").write_bytes(bytes(range(256)))
    run(repository, "add", "staged.bin")
    (repository / "new.py").write_text("import train\n")
    (repository / "new.py").chmod(0o755)
    (repository / "ignored.log").write_text("noise")
    code = capture(repository)
    assert code.dirty
    assert untracked(objects, code) == {"new.py": b"import train\n"}
    assert [entry.executable for entry in manifest.decode(read(objects, code.untracked))] == [True]
    again = tmp_path / "again"
    run(tmp_path, "clone", str(repository), "again")
    run(again, "checkout", code.commit)
    (tmp_path / "diff").write_bytes(read(objects, code.diff))
    run(again, "apply", "--binary", str(tmp_path / "diff"))
    assert (again / "train.py").read_text() == "print('changed')\n"
    assert (again / "staged.bin").read_bytes() == bytes(range(256))
    assert not (again / "sub" / "lib.py").exists()


def test_looking_changes_nothing(capture: Callable[[Path], Code], repository: Path) -> None:
    (repository / "train.py").write_text("print(3)\n")
    run(repository, "stash")
    (repository / "train.py").write_text("print(4)\n")
    os.utime(repository / "sub" / "lib.py", ns=(1, 1))  # touched, not changed: git would renew its index
    (repository / "train.py.dvc").write_text("outs: []\n")
    run(repository, "add", "train.py.dvc")
    (repository / "new.py").write_text("new")
    before = state(repository)
    assert capture(repository).dirty
    assert git.pointer(repository / "train.py") is not None
    git.signature(repository)
    assert state(repository) == before


def test_a_file_that_was_only_touched_is_no_change(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    for name in ("train.py", ".gitignore"):
        os.utime(repository / name, ns=(1, 1))
    assert not capture(repository).dirty
    (repository / "sub" / "lib.py").write_text("diff --git a/x b/x\ndiff --git a/x b/x\n")
    diff = read(objects, capture(repository).diff)
    assert [line for line in diff.splitlines() if line.startswith(b"diff --git")] == [
        b"diff --git a/sub/lib.py b/sub/lib.py"
    ]
    assert diff.count(b"+diff --git a/x b/x\n") == 2
    (repository / "sub" / "lib.py").write_text("x = 1\n")
    assert not capture(repository).dirty


def test_a_repository_without_commits_is_compared_with_nothing(
    capture: Callable[[Path], Code], empty: Path, objects: LocalObjects
) -> None:
    assert capture(empty) == Code(branch="main")
    (empty / "staged.py").write_text("staged\n")
    run(empty, "add", "staged.py")
    (empty / "loose.py").write_text("loose\n")
    code = capture(empty)
    assert (code.commit, code.branch, code.dirty) == ("", "main", True)
    assert b"+staged\n" in read(objects, code.diff)
    assert untracked(objects, code) == {"loose.py": b"loose\n"}


def test_a_detached_head_has_a_commit_and_no_branch(capture: Callable[[Path], Code], repository: Path) -> None:
    first = run(repository, "rev-parse", "HEAD~1")
    run(repository, "checkout", "--detach", first)
    assert capture(repository) == Code(commit=first)


def test_a_sub_folder_stands_for_its_whole_repository(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    (repository / "train.py").write_text("print('changed')\n")
    (repository / "top.py").write_text("top")
    (repository / "sub" / "below.py").write_text("below")
    code = capture(repository / "sub")
    assert code == capture(repository)
    assert b"a/train.py b/train.py" in read(objects, code.diff)
    assert untracked(objects, code) == {"sub/below.py": b"below", "top.py": b"top"}


def test_a_linked_work_tree_has_a_state_of_its_own(
    capture: Callable[[Path], Code], repository: Path, tmp_path: Path
) -> None:
    run(repository, "worktree", "add", "-b", "side", str(tmp_path / "side"))
    (repository / "train.py").write_text("dirty only there")
    assert capture(tmp_path / "side") == Code(commit=run(repository, "rev-parse", "HEAD"), branch="side")


def test_a_submodule_is_a_repository_and_its_own_changes_are_named(
    capture: Callable[[Path], Code], repository: Path, tmp_path: Path, objects: LocalObjects
) -> None:
    run(tmp_path, "clone", str(repository), "library")
    run(repository, "-c", "protocol.file.allow=always", "submodule", "add", str(tmp_path / "library"), "lib")
    run(repository, "commit", "-m", "with a submodule")
    inside = capture(repository / "lib")
    assert (inside.commit, inside.dirty) == (run(repository / "lib", "rev-parse", "HEAD"), False)
    assert not capture(repository).dirty
    (repository / "lib" / "train.py").write_text("changed inside")
    outside = capture(repository)
    assert (outside.dirty, outside.diff) == (True, "")
    assert [(item.path, item.reason) for item in outside.omitted] == [("lib", "a submodule's own changes")]
    run(repository / "lib", "commit", "-am", "moved on")
    moved = capture(repository)
    assert b"+Subproject commit " + run(repository / "lib", "rev-parse", "HEAD").encode() in read(objects, moved.diff)


def test_a_merge_conflict_is_a_dirty_tree(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    run(repository, "checkout", "-b", "other", "HEAD~1")
    (repository / "train.py").write_text("print('other')\n")
    run(repository, "commit", "-am", "other")
    merge = subprocess.run(["git", "-C", repository, "merge", "main"], check=False, capture_output=True)
    assert merge.returncode == 1
    assert b"<<<<<<<" in read(objects, capture(repository).diff)


def test_without_a_repository_or_without_git_there_is_no_code(
    tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").mkdir()
    assert git.capture(tmp_path / "plain", file_digest, untracked_bytes_max=LIMIT) is None
    assert git.signature(tmp_path / "plain") == ()
    (repository / "data.cmf").write_text("{}")
    run(repository, "add", "data.cmf")
    assert git.pointer(repository / "data") is not None
    monkeypatch.setenv("PATH", str(tmp_path / "plain"))
    assert git.capture(repository, file_digest, untracked_bytes_max=LIMIT) is None
    assert git.pointer(repository / "data") is None
    assert git.signature(repository) != ()


def test_each_omission_is_recorded_with_its_reason(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    (repository / "big").write_bytes(bytes(LIMIT + 1))
    (repository / "fits").write_bytes(bytes(LIMIT))
    (repository / "link").symlink_to("/etc/passwd")
    (repository / "C:").write_text("drive")
    os.mkfifo(repository / "pipe")
    (repository / "nested").mkdir()
    run(repository / "nested", "init")
    (repository / "nested" / "x").write_text("x")
    code = capture(repository)
    assert untracked(objects, code) == {"fits": bytes(LIMIT)}
    assert {(item.path, item.size, item.reason) for item in code.omitted} == {
        ("big", LIMIT + 1, "over the size limit"),
        ("link", 0, "a link"),
        ("C:", 5, "a path that no folder may hold"),
        ("nested/", 0, "a repository of its own"),
    }, "git doesn't list a pipe"
    assert code.omitted_count == 4


def test_many_untracked_files_are_bounded_and_counted(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    for n in range(150):
        (repository / f"{n:03}").write_bytes(bytes([n]) * LIMIT)
    code = capture(repository)
    assert list(untracked(objects, code)) == [f"{n:03}" for n in range(16)]
    assert (len(code.omitted), code.omitted_count) == (100, 134)
    assert code.omitted[0].reason == "too many untracked files"


def test_a_diff_over_the_limit_is_omitted_and_said(
    capture: Callable[[Path], Code], repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git, "DIFF_BYTES_MAX", 10)
    (repository / "train.py").write_text("print('changed')\n")
    code = capture(repository)
    assert (code.dirty, code.diff) == (True, "")
    assert [item.reason for item in code.omitted] == ["the diff is too large, or git did not make it"]


def test_a_git_that_hangs_is_not_waited_for(
    capture: Callable[[Path], Code], tmp_path: Path, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "bin" / "git"
    slow.parent.mkdir()
    slow.write_text("#!/bin/sh\nexec sleep 60\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(git, "SECONDS_MAX", 0.05)
    assert capture(repository) == SILENT


def test_what_is_in_the_store_is_never_taken_for_code(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    (repository / ".cmf" / ".gitignore").unlink()
    (repository / "sub" / ".cmf").mkdir()
    (repository / "sub" / ".cmf" / "secret").write_text("secret")
    assert capture(repository) == Code(commit=run(repository, "rev-parse", "HEAD"), branch="main")
    run(repository, "add", ".cmf")
    run(repository, "commit", "-m", "a mistake")
    (repository / ".cmf" / "journal").write_text("grown")
    assert not capture(repository).dirty
    (repository / "train.py").write_text("changed")
    assert b".cmf" not in read(objects, capture(repository).diff)


def test_odd_names_are_kept_as_they_are(
    capture: Callable[[Path], Code], repository: Path, objects: LocalObjects
) -> None:
    names = ['q"uo\\te', "line\nfeed", "prüfung", " blank "]
    for name in names:
        (repository / name).write_text(name)
    (repository / os.fsdecode(b"odd\xff")).write_text("raw")
    assert untracked(objects, capture(repository)) == {name: name.encode() for name in names} | {b"odd\xff": b"raw"}


def test_the_users_settings_shape_no_diff_and_a_repositorys_start_no_program(
    capture: Callable[[Path], Code], repository: Path, tmp_path: Path
) -> None:
    (repository / "train.py").write_text("print('changed')\n")
    plain = capture(repository)
    trap = tmp_path / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {tmp_path}/sprung\nexec cat\n")
    trap.chmod(0o755)
    for key, value in {
        "color.ui": "always",
        "core.fsmonitor": str(trap),
        "core.hooksPath": str(tmp_path),
        "core.pager": str(trap),
        "core.quotePath": "false",
        "diff.algorithm": "patience",
        "diff.context": "0",
        "diff.external": str(trap),
        "diff.mnemonicPrefix": "true",
        "diff.noprefix": "true",
        "diff.orderFile": str(tmp_path / "none"),
        "diff.relative": "true",
        "diff.trap.textconv": str(trap),
        "diff.trap.command": str(trap),
        "status.relativePaths": "true",
        "status.showUntrackedFiles": "no",
        "status.short": "true",
    }.items():
        run(repository, "config", key, value)
    (repository / ".git" / "info").mkdir(exist_ok=True)
    (repository / ".git" / "info" / "attributes").write_text("*.py diff=trap\n")
    assert capture(repository) == plain
    assert capture(repository / "sub") == plain
    (repository / "new").write_text("still found")
    assert capture(repository).untracked
    assert not (tmp_path / "sprung").exists()


def test_a_pointer_file_names_the_last_commit_that_changed_it(repository: Path) -> None:
    data = repository / "sub" / "data [1]"
    assert git.pointer(data) is None
    beside = repository / "sub" / "data [1].dvc"
    beside.write_text("outs: []\n")
    assert git.pointer(data) is None, "git does not track it yet"
    run(repository, "add", ".")
    assert git.pointer(data) == (beside, "")
    run(repository, "commit", "-m", "data")
    commit = run(repository, "rev-parse", "HEAD")
    (repository / "train.py").write_text("later\n")
    run(repository, "commit", "-am", "later")
    assert git.pointer(data) == (beside, commit)


def test_the_signature_changes_with_head_branch_index_and_sources(repository: Path, tmp_path: Path) -> None:
    source = repository / "sub" / "lib.py"
    seen = [git.signature(repository, [str(source)])]
    assert git.signature(repository / "sub", [str(source)]) == seen[0]

    def look() -> None:
        found = git.signature(repository, [str(source)])
        assert found not in seen
        seen.append(found)

    (repository / "train.py").write_text("print('staged')\n")
    run(repository, "add", "train.py")
    look()
    run(repository, "commit", "-m", "third")
    look()
    run(repository, "checkout", "-b", "other")
    look()
    run(repository, "pack-refs", "--all")
    look()
    source.write_text("x = 12345\n")
    look()
    run(repository, "worktree", "add", "-b", "side", str(tmp_path / "side"))
    beside = git.signature(tmp_path / "side")
    assert beside == git.signature(tmp_path / "side")
    run(tmp_path / "side", "commit", "--allow-empty", "-m", "aside")
    assert git.signature(tmp_path / "side") != beside
