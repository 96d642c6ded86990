"""A hub whose objects live in a bucket: sites notice nothing of it, and its folder stays small."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cmf.model.digest import file_digest
from tests import buckets
from tests.commands import cmf, script
from tests.hubs import running

pytestmark = pytest.mark.xdist_group("s3")

RECORD = """
import os
from pathlib import Path
import cmf
os.makedirs("images")
for n in range(30):
    Path("images", f"{n}.txt").write_text(f"image {n} " * 50)
Path("model.bin").write_bytes(bytes(range(256)) * 20_000)
with cmf.run("lab/train", name="first") as run:
    run.input("images", name="images")
    run.output("model.bin", name="model", type="model")
"""


@pytest.fixture
def place(s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a bucket's address, of which the processes that are started have the credentials."""
    for name, value in buckets.environment(s3).items():
        monkeypatch.setenv(name, value)
    return f"s3://{buckets.NAME}/{tmp_path.name}"


def site(folder: Path, hub: str) -> Path:
    folder.mkdir()
    cmf(folder, "init", "--site", folder.name)
    cmf(folder, "remote", "add", "origin", hub)
    return folder


def test_data_goes_through_a_hub_into_its_bucket_and_comes_back_at_another_site(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state", options=("--objects", place)) as hub:
        lab, edge = site(tmp_path / "lab", hub.url), site(tmp_path / "edge", hub.url)
        script(lab, RECORD)
        assert "objects" in cmf(lab, "push", "--data").out
        assert cmf(lab, "push", "--data").out == "Nothing new.\n"
        cmf(edge, "pull")
        cmf(edge, "get", "model", "copy.bin")
        cmf(edge, "get", "images", "pictures")
    assert (edge / "copy.bin").read_bytes() == (lab / "model.bin").read_bytes()
    for n in range(30):
        assert (edge / "pictures" / f"{n}.txt").read_bytes() == (lab / "images" / f"{n}.txt").read_bytes()
    assert not (tmp_path / "hub" / "objects").exists()


@pytest.mark.parametrize(
    ("url", "status", "said"),
    [
        ("/tmp/folder", 2, "no place for a hub's objects"),
        ("s3://key:secret@data/hub", 2, "no place for a hub's objects"),
        ("s3://nobody-made-this/hub", 3, "no bucket"),
    ],
)
def test_a_place_that_cannot_hold_objects_is_refused_at_the_start(
    place: str, tmp_path: Path, url: str, status: int, said: str
) -> None:
    command = [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(tmp_path / "hub"), "--port", "0"]
    ended = subprocess.run([*command, "--objects", url], capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (status, "")
    assert said in ended.stderr
    assert "secret" not in ended.stderr


def test_a_hubs_objects_move_into_a_bucket_and_back(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    hub, objects = tmp_path / "hub", tmp_path / "hub" / "objects"
    move = ("hub", "migrate", "--folder", str(hub), "--objects", place)

    def served(name: str, *options: str) -> bytes:
        with running(hub, tmp_path / "state", options=options) as process:
            edge = site(tmp_path / name, process.url)
            cmf(edge, "pull", "--data")
            cmf(edge, "get", "model", "copy.bin")
            cmf(edge, "get", "images", "pictures")
        assert len([*(edge / "pictures").iterdir()]) == 30
        return (edge / "copy.bin").read_bytes()

    with running(hub, tmp_path / "state") as process:
        lab = site(tmp_path / "lab", process.url)
        script(lab, RECORD)
        cmf(lab, "push", "--data")
    model = (lab / "model.bin").read_bytes()
    would = cmf(tmp_path, *move, "--dry-run").out
    assert would.startswith("Would copy")
    did = cmf(tmp_path, *move).out
    assert did.splitlines()[0] == would.splitlines()[0].replace("Would copy", "Copied")
    assert cmf(tmp_path, *move).out.startswith("Copied 0 objects")
    objects.rename(tmp_path / "aside")
    assert served("from-bucket", "--objects", place) == model
    shutil.rmtree(objects, ignore_errors=True)
    assert cmf(tmp_path, *move, "--back").out.splitlines()[0] == did.splitlines()[0]
    assert served("from-folder") == model


def test_a_damaged_object_stays_behind_and_is_named(place: str, tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as process:
        store = process.client(tmp_path / "keys").objects("lab/a")
        whole, broken = os.urandom(1 << 20), os.urandom(1 << 20)
        for data in (whole, broken):
            store.put(file_digest(data), data)
    digest = file_digest(broken)
    (file,) = (path for path in (tmp_path / "hub" / "objects").rglob("*") if path.name == digest[9:])
    file.chmod(0o600)
    file.write_bytes(bytes(1 << 20))
    ended = cmf(tmp_path, "hub", "migrate", "--folder", "hub", "--objects", place, code=5)
    assert "Copied 1 object " in ended.out
    assert digest in ended.err


@pytest.mark.parametrize("options", [(), ("--dry-run",), ("--back", "--to", "postgresql://nowhere/x")])
def test_a_move_of_nothing_is_refused(tmp_path: Path, options: tuple[str, ...]) -> None:
    assert "--objects" in cmf(tmp_path, "hub", "migrate", *options, code=2).err
