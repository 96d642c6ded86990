"""Data on another machine is an input of a run by its `ssh://` address, versioned where it lies: on a real sshd."""

import getpass
import hashlib
import os
from pathlib import Path

import pytest

from cmf.elsewhere import Elsewhere
from cmf.errors import CorruptError, DeniedError, NotFoundError, UsageError
from cmf.model import alias
from cmf.objects.ssh.file import SshFile
from cmf.repo import open_repo
from tests.commands import script
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("sshd")

BODY = b"id,label\n" * 200_000
SHA = "sha256:" + hashlib.sha256(BODY).hexdigest()
MODIFIED = "2025-01-01T00:00:00+00:00"
MODIFIED_S = 1_735_689_600


@pytest.fixture
def file(tmp_path: Path, sshd: Sshd, home: Path) -> Path:
    sshd.introduce(home)
    (tmp_path / "there").mkdir()
    found = tmp_path / "there/a b.csv"
    found.write_bytes(BODY)
    os.utime(found, (MODIFIED_S, MODIFIED_S))
    return found


@pytest.fixture
def url(sshd: Sshd, file: Path) -> str:
    return sshd.url(str(file).replace(" ", "%20"))


def test_time_and_size_name_a_version_and_the_user_is_no_part_of_it(url: str, file: Path) -> None:
    found = Elsewhere({}).version(url, read=False)
    assert alias.decode(found.alias) == f"modified:{MODIFIED} {len(BODY)} {url}"
    assert (found.size, found.attributes) == (len(BODY), {"modified": MODIFIED, "alias": True})
    user = getpass.getuser()
    assert Elsewhere({}).version(url.replace("//", f"//{user}@"), read=False).digest == found.digest
    os.utime(file, (MODIFIED_S + 1, MODIFIED_S + 1))
    assert Elsewhere({}).version(url, read=False).digest != found.digest


def test_read_once_it_is_the_hash_of_its_bytes(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmf.objects.ssh.file.WINDOW_BYTES", 100_000)
    found = Elsewhere({}).version(url, read=True)
    assert (found.digest, found.size) == (SHA, len(BODY))
    assert found.attributes == {"modified": MODIFIED, "policy": "reference"}


def test_a_file_that_changes_while_it_is_read_has_no_hash(
    url: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chunks = SshFile.chunks

    def changing(self: SshFile, size: int) -> object:
        yield from chunks(self, size)
        os.utime(file, (MODIFIED_S + 5, MODIFIED_S + 5))

    monkeypatch.setattr(SshFile, "chunks", changing)
    with pytest.raises(CorruptError, match="changing"):
        Elsewhere({}).version(url, read=True)


def test_what_is_not_there_a_folder_and_an_unknown_host_are_told_apart(url: str, file: Path, home: Path) -> None:
    with pytest.raises(NotFoundError):
        Elsewhere({}).version(url + ".not", read=False)
    with pytest.raises(UsageError, match="no file"):
        Elsewhere({}).version(url.rpartition("/")[0], read=True)
    (home / ".ssh/known_hosts").write_text("")
    for read in (False, True):
        with pytest.raises(DeniedError, match="host key") as refused:
            Elsewhere({}).version(url, read=read)
        assert refused.value.kind == "host-key"


def test_a_run_uses_it_and_goes_on_where_it_cannot(url: str, tmp_path: Path) -> None:
    text = f"""
import cmf
with cmf.run("p/prepare") as run:
    print(run.input({url!r}, type="dataset"))
    run.input({url!r}, name="hashed", hash=True)
    run.input({url + "x"!r})
"""
    done = script(tmp_path, text)
    assert done.out.strip() == url
    assert "could not record something: input" in done.err
    with open_repo(tmp_path) as repo:
        (run,) = repo.executions()
        named, hashed = run.inputs
        assert (named.path, named.size, named.attributes) == (url, len(BODY), {"modified": MODIFIED, "alias": True})
        assert (hashed.artifact, hashed.path) == (SHA, url)
        assert repo.status().dropped == 1
    assert run.status == "finished"
