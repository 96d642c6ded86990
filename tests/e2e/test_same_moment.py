"""Sites that send the same data at the same moment: nobody clobbers, all succeed, and each can fetch it all."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import buckets
from tests.commands import cmf, script
from tests.hubs import running
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("s3")
SITES = ("lab", "edge")
RECORD = """
from pathlib import Path
import cmf
Path("images").mkdir(exist_ok=True)
for n in range(60):
    Path("images", f"{n}.txt").write_text(f"image {n} " * 50)
Path("model.bin").write_bytes(bytes(range(256)) * 20_000)
with cmf.run("lab/train") as run:
    run.input("images", name="images")
    run.output("model.bin", name="model", type="model")
"""
PUSH = """
import sys
from cmf.cli import main
print("ready", flush=True)
sys.stdin.readline()
sys.argv = ["cmf", "push", *sys.argv[1:]]
main()
"""


@pytest.fixture(params=["folder", "ssh", "s3", "hub"])
def place(request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a remote's address that every site reaches."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "folder":
        yield str(tmp_path / "disk")
    elif request.param == "ssh":
        sshd: Sshd = request.getfixturevalue("sshd")
        sshd.introduce(home)
        yield sshd.url(tmp_path / "disk")
    elif request.param == "s3":
        for name, value in buckets.environment(request.getfixturevalue("s3")).items():
            monkeypatch.setenv(name, value)
        yield f"s3://{buckets.NAME}/{tmp_path.name}"
    else:
        with running(tmp_path / "hub", tmp_path / "state") as hub:
            yield hub.url


def test_sites_that_push_the_same_data_at_the_same_moment_all_succeed(place: str, tmp_path: Path) -> None:
    sites = [tmp_path / name for name in SITES]
    for site in sites:
        site.mkdir()
        cmf(site, "init", "--site", site.name)
        cmf(site, "remote", "add", "there", place)
        script(site, RECORD)
        cmf(site, "status")  # collected, so that the pushes have nothing else to do
    command = [sys.executable, "-c", PUSH, "there", "--data", "--json"]
    pushes = [
        subprocess.Popen(command, cwd=site, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for site in sites
    ]
    for push in pushes:
        assert push.stdout is not None
        assert push.stdout.readline() == b"ready\n"
    for push in pushes:
        assert push.stdin is not None
        push.stdin.write(b"now\n")
        push.stdin.flush()
    for push in pushes:
        out, err = push.communicate()
        assert push.returncode == 0, err.decode()
        assert not json.loads(out).get("refused"), out
    for site in sites:
        shutil.rmtree(site / ".cmf" / "objects")
        cmf(site, "get", "model", "copy.bin")
        cmf(site, "get", "images", "pictures")
        assert (site / "copy.bin").read_bytes() == (site / "model.bin").read_bytes()
        for number in range(60):
            assert (site / "pictures" / f"{number}.txt").read_text() == f"image {number} " * 50
