"""Remotes that hold only data, as a person uses them: a folder, here or over ssh, and a bucket of a real S3 server."""

import shutil
from pathlib import Path

import pytest

from cmf.model.digest import file_digest
from cmf.objects.local import LocalObjects
from cmf.objects.ssh import _own_name
from tests import azurite, buckets
from tests.commands import cmf, script
from tests.hubs import running
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("s3")
RECORD = """
from pathlib import Path
import cmf
Path("images").mkdir(exist_ok=True)
for n in range(30):
    Path("images", f"{n}.txt").write_text(f"image {n} " * 50)
Path("model.bin").write_bytes(bytes(range(256)) * 20_000)
with cmf.run("lab/train", name="first") as run:
    run.input("images", name="images")
    run.output("model.bin", name="model", type="model")
"""


@pytest.fixture(params=["folder", "ssh", "s3", "az"])
def place(request: pytest.FixtureRequest, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a remote's address that every site reaches."""
    if request.param == "folder":
        return str(tmp_path / "disk")
    if request.param == "ssh":
        server: Sshd = request.getfixturevalue("sshd")
        server.introduce(home)
        return server.url(tmp_path / "disk")
    if request.param == "az":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")  # that of another cloud
        for name, value in azurite.environment(request.getfixturevalue("azure")).items():
            monkeypatch.setenv(name, value)
        return f"az://{azurite.NAME}/{tmp_path.name}"
    for name, value in buckets.environment(request.getfixturevalue("s3")).items():
        monkeypatch.setenv(name, value)
    return f"s3://{buckets.NAME}/{tmp_path.name}"


def site(folder: Path, place: str, hub: str) -> Path:
    folder.mkdir()
    cmf(folder, "init", "--site", folder.name)
    cmf(folder, "remote", "add", "origin", hub)
    cmf(folder, "remote", "add", "disk", place)
    return folder


def test_data_goes_to_a_place_and_comes_back_at_another_site(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab, edge = site(tmp_path / "lab", place, hub.url), site(tmp_path / "edge", place, hub.url)
        script(lab, RECORD)
        cmf(lab, "push", "origin")
        assert "Would push 32 objects" in (said := cmf(lab, "push", "disk", "--dry-run").out), said
        assert "32 objects" in cmf(lab, "push", "disk").out
        assert cmf(lab, "push", "disk").out == "Nothing new.\n"
        cmf(edge, "pull", "origin")
    # The hub is gone: what it did not hold, the place does.
    assert "objects" in cmf(edge, "pull", "disk").out
    cmf(edge, "get", "model", "copy.bin", "--remote", "disk")
    assert (edge / "copy.bin").read_bytes() == (lab / "model.bin").read_bytes()
    cmf(edge, "get", "images", "pictures", "--remote", "disk")
    assert (edge / "pictures" / "7.txt").read_text() == "image 7 " * 50
    assert place in cmf(edge, "doctor", code=None).out


def test_what_only_a_place_holds_is_fetched_by_name(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab, edge = site(tmp_path / "lab", place, hub.url), site(tmp_path / "edge", place, hub.url)
        script(lab, RECORD)
        cmf(lab, "push", "disk")
        cmf(lab, "push", "origin")
        cmf(edge, "pull", "origin")
        cmf(edge, "get", "model", "copy.bin")  # over 1 MiB: the hub was not sent it
    assert (edge / "copy.bin").stat().st_size == 256 * 20_000


def test_a_damaged_object_of_a_place_is_refused_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        lab, edge = (site(tmp_path / name, str(tmp_path / "disk"), hub.url) for name in ("lab", "edge"))
        script(lab, RECORD)
        cmf(lab, "push", "disk")
        cmf(lab, "push", "origin")
        cmf(edge, "pull", "origin")
    (large,) = (path for path in (tmp_path / "disk" / "files").rglob("*") if path.is_file())
    large.chmod(0o644)
    with open(large, "r+b") as file:
        file.seek(1000)
        file.write(b"XXX")
    refused = cmf(edge, "get", "model", "copy.bin", "--remote", "disk", code=None)
    assert refused.code != 0
    assert f"sha256:{large.parent.name}{large.name}" in refused.err
    assert not (edge / "copy.bin").exists()


def test_a_place_holds_no_records_and_no_credentials(tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    said = cmf(tmp_path, "remote", "add", "bad", "s3://user:secret@bucket/x", code=2).err
    assert "secret" not in said
    assert "environment" in said
    for secret in ("ssh://user:secret@host/x", "ssh://user:secret/@host/x", "ssh://user:@secret@host:22/x"):
        said = cmf(tmp_path, "remote", "add", "bad", secret, code=2).err
        assert "password is refused" in said
        assert "secret" not in said
        said = cmf(tmp_path, "push", secret, code=2).err
        assert "secret" not in said
    assert "names no folder" in cmf(tmp_path, "remote", "add", "bad", "ssh://host", code=2).err
    assert "no address for ssh" in cmf(tmp_path, "remote", "add", "bad", "ssh://-oProxyCommand=x/y", code=2).err
    assert "no remote that cmf can use" in cmf(tmp_path, "remote", "add", "bad", "ftp://x/y", code=2).err
    assert "There is no folder" in cmf(tmp_path, "remote", "add", "bad", "/no/such/parent", code=2).err
    assert "takes no invite" in cmf(tmp_path, "remote", "add", "bad", str(tmp_path / "d"), "--invite", "x", code=2).err
    cmf(tmp_path, "remote", "add", "disk", str(tmp_path / "d"))
    assert "holds data" in cmf(tmp_path, "log", "--remote", "disk", code=2).err
    assert "holds data, and no records" in cmf(tmp_path, "pull", "disk", "--ancestors", "x", code=2).err
    shutil.rmtree(tmp_path / "d", ignore_errors=True)


def test_a_command_says_where_it_went_on_with_a_large_object(sshd: Sshd, home: Path, tmp_path: Path) -> None:
    sshd.introduce(home)
    lab, disk = tmp_path / "lab", tmp_path / "disk"
    lab.mkdir()
    (disk / "tmp").mkdir(parents=True)
    cmf(lab, "init")
    cmf(lab, "remote", "add", "disk", sshd.url(disk))
    script(lab, RECORD)
    data = (lab / "model.bin").read_bytes()
    digest = file_digest(data)
    with LocalObjects(lab / ".cmf/objects").open(digest) as kept:
        name = _own_name(digest, kept)
    assert name
    (disk / "tmp" / name).write_bytes(data[: 3 << 20])
    assert "\n  resumed at 3.0 MiB of 4.9 MiB\n" in (said := cmf(lab, "push", "disk").out), said
    assert LocalObjects(lab / ".cmf/objects").remove([digest]) == 1
    (lab / ".cmf/objects/tmp" / f"{digest.removeprefix('sha256:')}.part").write_bytes(data[: 2 << 20])
    assert "\n  resumed at 2.0 MiB of 4.9 MiB\n" in (said := cmf(lab, "pull", "disk").out), said
    cmf(lab, "verify")


@pytest.mark.parametrize(
    ("url", "tested"),
    [("gs://team/cmf", "untested with cmf"), ("az://team/cmf", "tested with an emulator alone"), ("s3://team/cmf", "")],
)
def test_a_kind_of_remote_that_is_untested_says_so_when_it_is_added(url: str, tested: str, tmp_path: Path) -> None:
    cmf(tmp_path, "init")
    said = cmf(tmp_path, "remote", "add", "cloud", url)
    assert said.out == f"Remote cloud is {url}. Next: cmf push cloud\n"
    assert said.err == (f"{url[:5]} is offered, but {tested}: keep another copy.\n" if tested else "")
