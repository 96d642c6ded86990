"""What is exported for DVC, real DVC has byte for byte; and what real DVC pushed, is here byte for byte."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from cmf.graph.nodes import node_text
from cmf.repo import Repo, init, open_repo
from tests import buckets, dvc
from tests.commands import cmf, git, script

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
    (folder / "model.bin").write_bytes(bytes(range(256)) * 8000 + b"\r\n")
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


USE = """
import cmf, sys
with cmf.run("p/train") as run:
    for path in {paths}:
        run.input(path)
"""


def links(repo: Repo) -> set[tuple[str, str]]:
    """Return the `same_as` links of a store: an artifact, and the alias that it is the same as."""
    repo.collect()
    rows = repo.store.dump()["link"]
    return {(node_text(source), node_text(target)) for source, rel, target, *_ in rows if rel == "same_as"}


def test_what_a_run_uses_and_real_dvc_tracks_is_linked_as_long_as_it_is_true(project: Path) -> None:
    dvc.dvc(project, "config", "cache.type", "hardlink")
    (project / "large.bin").write_bytes(bytes(range(256)) * 5 * 4096)
    dvc.dvc(project, "add", "-q", *DATA, "large.bin")
    used = [*DATA, "large.bin", "odd data/sub/deep/file"]
    script(project, USE.format(paths=used))
    with open_repo(project) as repo:
        found = {use.path: use for use in repo.executions()[0].inputs}
        expected = set()
        for name in used:
            said = found[name].attributes["dvc"]
            if name in (*DATA, "large.bin"):
                assert f"- md5: {said.removeprefix('md5:')}\n" in (project / f"{name}.dvc").read_text()
            alias = b'{"cmf":"alias","of":"%s","v":1}' % said.encode()
            digest = "sha256:" + hashlib.sha256(alias).hexdigest()
            assert repo.read(digest) == alias
            expected.add((f"artifact:{found[name].artifact}", f"artifact:{digest}"))
        assert links(repo) == expected
        assert (
            found["odd data/sub/deep/file"].attributes["dvc"]
            == "md5:"
            + hashlib.md5((project / "odd data/sub/deep/file").read_bytes(), usedforsecurity=False).hexdigest()
        )
        (project / "run.sh").unlink()  # a hard link: to write into it would change the cache
        (project / "run.sh").write_text("#!/bin/Sh\n")
        script(project, USE.format(paths=["run.sh"]))
        assert "dvc" not in repo.executions()[0].inputs[0].attributes
        assert links(repo) == expected


@pytest.fixture
def pushed(project: Path, tmp_path: Path) -> Path:
    """Give a remote that real DVC pushed the project's data to; the cache is gone, and so is the data."""
    remote = tmp_path / "pushed"
    dvc.dvc(project, "add", "-q", *DATA)
    dvc.dvc(project, "remote", "add", "--local", "-d", "shared", str(remote))
    dvc.dvc(project, "push", "-q")
    git(project, "add", "--all")
    git(project, "commit", "-q", "-m", "data")
    shutil.rmtree(project / ".dvc/cache")
    return remote


def got(project: Path, tmp_path: Path) -> dict[str, dict[bytes, bytes]]:
    """Return what `cmf get` writes of each piece of data, after an import of its bytes."""
    assert "0 known by DVC's hash alone" in cmf(project, "import", "dvc", "--data").out
    (tmp_path / "got").mkdir()
    found = {}
    for name in DATA:
        cmf(project, "get", name, str(tmp_path / "got" / name))
        found[name] = content(tmp_path / "got" / name)
    return found


def test_what_real_dvc_pushed_is_here_byte_for_byte(project: Path, pushed: Path, tmp_path: Path) -> None:
    before = away(project)
    assert got(project, tmp_path) == before


def test_a_remote_in_the_layout_of_dvc_2_is_read_as_real_dvc_reads_it(
    project: Path, pushed: Path, tmp_path: Path
) -> None:
    before = away(project)
    to_layout_2(project, pushed, before)
    assert got(project, tmp_path) == before
    dvc.dvc(project, "pull", "-q")
    assert {name: content(project / name) for name in DATA} == before


def to_layout_2(project: Path, remote: Path, before: dict[str, dict[bytes, bytes]]) -> None:
    """Make a remote and the pointer files what DVC 2 would have written: text is hashed with unix line ends."""
    shutil.rmtree(remote)
    for name, found in before.items():
        listed, md5 = [], ""
        for path, data in sorted(found.items()):
            is_text = b"\0" not in data
            md5 = hashlib.md5(data.replace(b"\r\n", b"\n") if is_text else data, usedforsecurity=False).hexdigest()
            listed.append({"md5": md5, "relpath": os.fsdecode(path)})
            put(remote, md5, data)
        if b"" not in found:
            spelled = json.dumps(listed, sort_keys=True).encode()
            md5 = hashlib.md5(spelled, usedforsecurity=False).hexdigest() + ".dir"
            put(remote, md5, spelled)
        (project / f"{name}.dvc").write_text(f"outs:\n- md5: {md5}\n  path: {name}\n")
    git(project, "commit", "-q", "-a", "--amend", "-m", "as of DVC 2")


def put(remote: Path, name: str, data: bytes) -> None:
    """Write a file where DVC 2 had it in a remote."""
    place = remote / name[:2] / name[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(data)


@pytest.fixture
def bucket(project: Path, tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the URL of a place in a bucket that is the repository's default remote; empty."""
    for name, value in {**buckets.environment(s3), "AWS_DEFAULT_REGION": "us-east-1"}.items():
        if name != "AWS_ENDPOINT_URL":  # DVC's own settings say where its remote is
            monkeypatch.setenv(name, value)
    url = f"s3://{buckets.NAME}/{tmp_path.name}"
    dvc.dvc(project, "remote", "add", "--local", "-d", "shared", url)
    dvc.dvc(project, "remote", "modify", "--local", "shared", "endpointurl", s3)
    return url


def test_real_dvc_pulls_what_was_exported_to_a_bucket(project: Path, bucket: str, s3: str) -> None:
    cmf(project, "export", "dvc", *DATA, "--remote", bucket, env={"AWS_ENDPOINT_URL": s3})
    before = away(project)
    dvc.dvc(project, "pull", "-q")
    assert {name: content(project / name) for name in DATA} == before
    assert "up to date" in dvc.dvc(project, "push")


def test_what_real_dvc_pushed_to_a_bucket_is_read_only_for_bytes_and_here_byte_for_byte(
    project: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bucket
    dvc.dvc(project, "add", "-q", *DATA)
    dvc.dvc(project, "push", "-q")
    git(project, "add", "--all")
    git(project, "commit", "-q", "-m", "data")
    shutil.rmtree(project / ".dvc/cache")
    before = away(project)
    assert "4 known by DVC's hash alone" in cmf(project, "import", "dvc").out
    with monkeypatch.context() as wrong:
        wrong.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        refused = cmf(project, "import", "dvc", "--data")
    assert "4 known by DVC's hash alone" in refused.out
    assert refused.out.count("refuses us") == 1
    assert got(project, tmp_path) == before


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
