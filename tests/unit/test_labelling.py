"""Labels of data sets: the label file is an artifact, and each says which the other is."""

import sys
from pathlib import Path

import pytest

import cmf
from cmf.errors import NotFoundError, UsageError
from tests.commands import cmf as command


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name in ("one", "two"):
        (tmp_path / "images" / f"{name}.png").write_bytes(name.encode())
    (tmp_path / "labels.csv").write_text("one,cat\ntwo,dog\n")
    return tmp_path


def test_a_label_file_is_an_artifact_of_its_own_and_both_say_which_the_other_is(folder: Path) -> None:
    with cmf.run("p/train") as run:
        assert run.input("images", name="pets", labels=Path("labels.csv")) == Path("images")
    with cmf.open() as repo:
        inputs = {use.path: use for use in repo.execution(run.id).inputs}
        data, labels = inputs["images"], inputs["labels.csv"]
        assert (labels.type, labels.role, labels.attributes["labels_of"]) == ("labels", "labels", data.artifact)
        assert (data.attributes["labelled_by"], data.attributes["labels"]) == (labels.artifact, "labels.csv")
        assert [each.digest for each in repo.label_files(data.artifact)] == [labels.artifact]
        assert repo.label_files(labels.artifact) == []
        (known,) = repo.artifacts(type="labels")
    assert "labelled by labels.csv" in " ".join(command(folder, "show", run.id).out.split())
    assert "labelled by labels.csv · " in command(folder, "show", "pets").out
    assert "labels of" in command(folder, "show", known.digest).out


def test_new_labels_of_the_same_data_are_one_more_label_file(folder: Path) -> None:
    with cmf.run("p/label") as run:
        run.output("images", labels="labels.csv")
        Path("labels.csv").write_text("one,dog")
        run.output("images", labels="labels.csv")
    with cmf.open() as repo:
        (digest,) = {use.artifact for use in repo.execution(run.id).outputs if use.path == "images"}
        assert len(repo.label_files(digest)) == 2


def test_labels_that_are_no_file_are_refused_and_nothing_is_recorded(folder: Path) -> None:
    with cmf.run("p/train") as run:
        with pytest.raises(NotFoundError):
            run.input("images", labels="nowhere.csv")
        with pytest.raises(UsageError):
            run.input("images", labels=["labels.csv"])  # type: ignore[arg-type]
    with cmf.open() as repo:
        assert repo.execution(run.id).inputs == ()


def test_a_shell_step_says_its_labels(folder: Path) -> None:
    told = [sys.executable, "-m", "cmf", "event", "input", "images", "--labels", "labels.csv"]
    command(folder, "run", "--trace", "off", "--", *told)
    with cmf.open() as repo:
        (found,) = repo.executions()
        assert {use.path: use.type for use in found.inputs} == {"images": "", "labels.csv": "labels"}
