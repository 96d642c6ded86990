"""The part of a folder that a run used: what is recorded, what is returned, and what is refused."""

from pathlib import Path

import pytest

import cmf
from cmf.errors import NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from tests.commands import cmf as command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png", "c.txt", "more/d.png"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"the bytes of {name}, more than sixty-four of them so that they join: {name * 9}")
    return tmp_path


def test_a_slice_is_an_artifact_that_holds_the_folders_own_entries_for_its_paths() -> None:
    with cmf.run("p/train") as run:
        assert run.slice("images", ["a.png", "more"], name="some") == [Path("images/a.png"), Path("images/more/d.png")]
    with cmf.open() as repo:
        whole, part = repo.execution(run.id).inputs
        files = {use.artifact: manifest.decode(_bytes(use.artifact)) for use in (whole, part)}
    assert [entry.path for entry in files[part.artifact]] == ["a.png", "more/d.png"]
    assert set(files[part.artifact]) < set(files[whole.artifact])
    assert (part.role, part.type, part.name) == ("slice", "dataslice", "some")
    assert part.size == sum(entry.size for entry in files[part.artifact])
    assert part.attributes == {"part_of": whole.artifact, "folder": "images"}
    assert (whole.path, part.path) == ("images", "")


def _bytes(digest: str) -> bytes:
    with LocalObjects(Path(".cmf/objects")).open(digests.object_of(digest)) as file:
        return file.read()


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["*.png"], ["a.png", "b.png", "more/d.png"]),
        (["[ab].png", "a.png"], ["a.png", "b.png"]),
        (["."], ["a.png", "b.png", "c.txt", "more/d.png"]),
        ([Path("more/d.png")], ["more/d.png"]),
    ],
)
def test_paths_are_files_folders_or_patterns(paths: list[str | Path], expected: list[str]) -> None:
    with cmf.run("p/train") as run:
        assert run.slice("images", paths) == [Path("images") / name for name in expected]


@pytest.mark.parametrize("mode", ["on", "off"])
@pytest.mark.parametrize(
    ("paths", "error"),
    [
        (["../secret"], UsageError),
        (["/etc/passwd"], UsageError),
        ([], UsageError),
        ("a.png", UsageError),
        (["no.png"], NotFoundError),
        (["*.jpg"], NotFoundError),
    ],
)
def test_paths_that_leave_the_folder_or_name_nothing_are_refused(
    mode: str, paths: list[str], error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    if mode == "off":
        monkeypatch.setenv("CMF_MODE", "off")
    run = cmf.run("p/train")
    with pytest.raises(error):
        run.slice("images", paths)
    run.finish()
    if mode == "on":
        with cmf.open() as repo:
            assert repo.execution(run.id).inputs == ()


def test_a_file_has_no_slices() -> None:
    with cmf.run("p/train") as run, pytest.raises(UsageError, match="no folder"):
        run.slice("images/a.png", ["a.png"])


def test_with_recording_off_a_slice_returns_the_same_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMF_MODE", "off")
    with cmf.run("p/train") as run:
        assert run.slice("images", ["*.txt", "more"]) == [Path("images/c.txt"), Path("images/more/d.png")]
        assert run.environment("images/c.txt") == Path("images/c.txt")


def test_lineage_of_what_a_slice_made_leads_to_the_maker_of_its_folder_and_show_names_the_folder() -> None:
    with cmf.run("p/prepare") as made:
        made.output("images")
    with cmf.run("p/train") as used:
        used.slice("images", ["*.png"], name="pictures")
    with cmf.open() as repo:
        assert [each.id for each in repo.lineage(used.id).ancestors()] == [made.id]
        whole, part = repo.execution(used.id).inputs
    assert "part of images" in command(Path(), "show", used.id).out
    assert f"{whole.artifact}\n" in command(Path(), "show", "images").out, "a path names the folder, not its slice"
    assert "part of     images · " in command(Path(), "show", part.artifact).out


def test_the_file_that_an_environment_was_made_from_is_an_input_of_that_type(folder: Path) -> None:
    (folder / "environment.yaml").write_text("dependencies: [python=3.12]\n")
    with cmf.run("p/train") as run:
        assert run.environment("environment.yaml", manager="conda") == Path("environment.yaml")
    with cmf.open() as repo:
        (use,) = repo.execution(run.id).inputs
    assert (use.type, use.role, use.path) == ("environment", "environment", "environment.yaml")
    assert use.attributes == {"manager": "conda"}
