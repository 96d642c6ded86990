"""The code, environment and machine that a run has: what is captured of them, when, and how often it is stored."""

import json
from pathlib import Path

import pytest

import cmf
from cmf.graph.views import Execution
from tests.commands import git, script


def repository(folder: Path, name: str, text: str) -> Path:
    """Make a git repository with one committed file."""
    folder.mkdir(parents=True)
    git(folder, "init")
    git(folder, "remote", "add", "origin", f"https://ada:s3cret@example.org/{folder.name}.git")
    (folder / name).write_text(text)
    git(folder, "add", ".")
    git(folder, "commit", "-m", "first")
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return repository(tmp_path / "project", "train.py", "rate = 1\n")


@pytest.fixture
def library(tmp_path: Path) -> Path:
    found = repository(tmp_path / "library", "sheep.py", "COUNT = 1\n")
    (found / "sheep.py").write_text("COUNT = 2\n")
    return found


def only(project: Path) -> Execution:
    with cmf.open(project) as repo:
        (found,) = repo.executions()
    return found


@pytest.mark.parametrize("when", ["before", "inside"])
def test_a_module_of_another_repository_is_recorded_with_its_commit_and_diff(
    project: Path, library: Path, when: str
) -> None:
    lines = [
        f"import sys, cmf\nsys.path.insert(0, {str(library)!r})",
        "import sheep",
        "run = cmf.run('p/a')",
        "run.finish()",
    ]
    if when == "inside":
        lines[1:3] = ["run = cmf.run('p/a')", "run._description.record()\nimport sheep"]
    script(project, "\n".join(lines))
    found = only(project)
    (other,) = found.code["repositories"]
    assert other["commit"] == git(library, "rev-parse", "HEAD").strip()
    assert other["repository"] == "https://example.org/library.git"
    assert Path(other["path"]).name == "library"
    with cmf.open(project) as repo:
        assert b"+COUNT = 2\n" in repo.read(other["diff"]["$object"])
    assert found.code["commit"] == git(project, "rev-parse", "HEAD").strip(), "the project's own stays what it was"


def test_an_editable_install_is_recorded_with_its_repository(project: Path, library: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed" / "sheep_farm-1.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "direct_url.json").write_text(json.dumps({"url": library.as_uri(), "dir_info": {"editable": True}}))
    script(project, "import cmf\ncmf.run('p/a').finish()", env={"PYTHONPATH": str(installed.parent)})
    (other,) = only(project).code["repositories"]
    assert other["packages"] == ["sheep-farm"]
    assert other["dirty"] is True


def test_a_submodule_with_changes_of_its_own_is_recorded(project: Path, library: Path) -> None:
    git(project, "-c", "protocol.file.allow=always", "submodule", "add", str(library), "lib")
    git(project, "commit", "-m", "submodule")
    (project / "lib" / "sheep.py").write_text("COUNT = 3\n")
    script(project, "import cmf\ncmf.run('p/a').finish()")
    (other,) = only(project).code["repositories"]
    assert other["path"] == "lib"
    with cmf.open(project) as repo:
        assert b"+COUNT = 3\n" in repo.read(other["diff"]["$object"])


def test_a_loaded_file_that_changes_is_captured_for_the_next_run_and_not_for_the_one_that_loaded_it(
    project: Path,
) -> None:
    text = """
import cmf, pathlib, train
first = cmf.run('p/first')
first._description.record()
pathlib.Path('train.py').write_text('rate = 22\\n')
first.finish()
cmf.run('p/second').finish()
"""
    script(project, text, env={"PYTHONPATH": "."})
    with cmf.open(project) as repo:
        (first,) = repo.executions("scope = p/first")
        (second,) = repo.executions("scope = p/second")
        assert "diff" not in first.code
        assert b"+rate = 22\n" in repo.read(second.code["diff"]["$object"])


def test_further_runs_in_one_environment_cost_no_further_object_and_few_bytes(project: Path) -> None:
    script(project, "import cmf\ncmf.run('p/a').finish()")
    with cmf.open(project) as repo:
        before = list(repo.objects.list())
    script(project, "import cmf\nfor _ in range(100): cmf.run('p/a').finish()")
    journals = sum(path.stat().st_size for path in (project / ".cmf" / "journal").iterdir())
    assert journals < 100 * 2048, "a birth, two states and a description are all that a run adds"
    with cmf.open(project) as repo:
        assert len(repo.executions()) == 101
        assert list(repo.objects.list()) == before
        assert len({view.environment for view in repo.executions()}) == 1


def test_a_run_says_what_it_was_started_as_and_where(project: Path) -> None:
    (project / "train.py").write_text("import cmf\ncmf.run('p/a').finish()\n")
    script(project, "import runpy; runpy.run_path('train.py', run_name='__main__')", env={"CUDA_VISIBLE_DEVICES": "1"})
    found = only(project)
    assert found.process["variables"]["CUDA_VISIBLE_DEVICES"] == "1"
    with cmf.open(project) as repo:
        machine = json.loads(repo.read(found.process["machine"]["$object"]))
    assert (machine["cmf"], machine["v"]) == ("machine", 1)
    assert machine["cores"] >= 1
