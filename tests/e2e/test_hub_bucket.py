"""A hub whose objects live in a bucket: sites notice nothing of it, and its folder stays small."""

import subprocess
import sys
from pathlib import Path

import pytest

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
