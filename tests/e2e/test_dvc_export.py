"""What is exported for DVC, real DVC has byte for byte; and what real DVC pushed, is here byte for byte."""

import os
import shutil
from pathlib import Path

import pytest

from cmf.repo import init
from tests import dvc
from tests.commands import cmf, git

# The first of them makes the environment that real DVC is in, and that takes pip minutes on a busy machine.
pytestmark = [pytest.mark.timeout(600), pytest.mark.xdist_group("dvc")]

ODD = ["plain", "with space", "quote'\"", "new\nline", "ünïcödé", "-dash", "#hash: x", "sub/deep/file", "e" * 200]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a project with a store, some odd data, and a DVC repository in it."""
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    dvc.dvc(folder, "init", "-q")
    with init(folder):
        pass
    fill(folder / "odd data", ODD)
    (folder / "empty").mkdir()
    (folder / "model.bin").write_bytes(bytes(range(256)) * 8192 + b"\r\n")
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    return folder


DATA = ("odd data", "empty", "model.bin", "run.sh")


def fill(folder: Path, names: list[str]) -> None:
    """Make files of a few bytes, some of them alike, and one that is empty."""
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"data\r\n" * (number // 2))


def content(folder: Path) -> dict[bytes, bytes]:
    """Return the bytes of each file below a folder, by its raw path; or of a file."""
    if folder.is_file():
        return {b"": folder.read_bytes()}
    found = {}
    for above, _, names in os.walk(os.fsencode(folder)):
        for name in names:
            path = os.path.join(above, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, os.fsencode(folder))] = file.read()
    return found


def away(project: Path) -> dict[str, dict[bytes, bytes]]:
    """Remove the data from the project, and return what it was."""
    before = {name: content(project / name) for name in DATA}
    for name in DATA:
        path = project / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return before


def test_real_dvc_checks_out_what_was_exported_and_would_have_written_the_same(project: Path, tmp_path: Path) -> None:
    done = cmf(project, "export", "dvc", *DATA)
    assert done.out.count("Wrote") == len(DATA)
    cache = project / ".dvc/cache"
    pointers = {name: (project / f"{name}.dvc").read_bytes() for name in DATA}
    before = away(project)
    dvc.dvc(project, "checkout")
    assert {name: content(project / name) for name in DATA} == before
    assert os.access(project / "run.sh", os.X_OK)
    ours = content(cache / "files/md5")
    shutil.move(cache, tmp_path)
    for name in DATA:
        (project / f"{name}.dvc").unlink()
    dvc.dvc(project, "add", "-q", *DATA)
    assert {name: (project / f"{name}.dvc").read_bytes() for name in DATA} == pointers
    assert content(cache / "files/md5") == ours


def test_real_dvc_pulls_what_was_exported_to_a_remote(project: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    cmf(project, "export", "dvc", *DATA, "--remote", str(remote))
    assert not (project / ".dvc/cache").exists()
    dvc.dvc(project, "remote", "add", "-d", "shared", str(remote))
    before = away(project)
    dvc.dvc(project, "pull", "-q")
    assert {name: content(project / name) for name in DATA} == before


def test_exporting_again_changes_nothing_and_sends_nothing(project: Path) -> None:
    first = cmf(project, "export", "dvc", *DATA, "--json").json
    again = cmf(project, "export", "dvc", *DATA, "--json").json
    assert [each["changed"] for each in first] == [True] * len(DATA)
    assert [(each["changed"], each["sent"]) for each in again] == [(False, 0)] * len(DATA)
    assert [each["md5"] for each in first] == [each["md5"] for each in again]


def test_a_pointer_of_other_data_and_a_damaged_file_are_never_overwritten(project: Path) -> None:
    (project / "model.bin.dvc").write_text("outs:\n- md5: " + "0" * 32 + "\n  path: model.bin\n")
    before = (project / "model.bin.dvc").read_bytes()
    assert "names other data" in cmf(project, "export", "dvc", "model.bin", code=4).err
    assert (project / "model.bin.dvc").read_bytes() == before
    md5 = cmf(project, "export", "dvc", "run.sh", "--json").json[0]["md5"]
    place = project / ".dvc/cache/files/md5" / md5[:2] / md5[2:]
    place.chmod(0o644)
    place.write_bytes(b"short")
    (project / "run.sh.dvc").unlink()
    assert "damaged" in cmf(project, "export", "dvc", "run.sh", code=4).err
    assert place.read_bytes() == b"short"
    assert not (project / "run.sh.dvc").exists()


def test_an_artifact_that_is_only_recorded_is_exported_by_its_name(project: Path) -> None:
    cmf(project, "run", "--", "sh", "-c", "echo weights > weights.bin")
    (project / "weights.bin").unlink()
    cmf(project, "export", "dvc", "weights.bin")
    dvc.dvc(project, "checkout", "-q")
    assert (project / "weights.bin").read_text() == "weights\n"


def test_what_dvc_cannot_hold_is_refused_before_anything_is_written(project: Path, tmp_path: Path) -> None:
    folder = project / "raw"
    folder.mkdir()
    with open(os.path.join(os.fsencode(folder), b"not-\xff-utf8"), "wb") as file:
        file.write(b"raw")
    assert "not UTF-8" in cmf(project, "export", "dvc", "raw", "--cache", str(tmp_path / "cache"), code=2).err
    assert not (tmp_path / "cache").exists()
    (tmp_path / "data").write_text("here")
    with init(tmp_path):
        assert "no DVC repository" in cmf(tmp_path, "export", "dvc", "data", code=2).err
    assert not (tmp_path / "data.dvc").exists()
