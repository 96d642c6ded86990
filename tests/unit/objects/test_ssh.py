"""What a machine at the other end of ssh may be, and how it is told when it is not."""

import gc
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.errors import CorruptError, DeniedError, NotFoundError, UnreachableError, UnsupportedError, UsageError
from cmf.model.digest import file_digest
from cmf.objects.ssh import SshBucket
from cmf.objects.ssh.line import Address
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("sshd")
DATA = os.urandom(100_000)
DIGEST = file_digest(DATA)
NAME = "files/ab/cd"


@pytest.fixture
def private(sshd: Sshd, home: Path) -> Path:
    return sshd.introduce(home)


@pytest.fixture
def bucket(sshd: Sshd, private: Path, tmp_path: Path) -> Iterator[SshBucket]:
    found = SshBucket(sshd.url(tmp_path / "remote"))
    yield found
    found.close()


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("ssh://host/data", Address("host", "/data")),
        ("ssh://ada@host.example.org:2222/data/cmf/", Address("host.example.org", "/data/cmf", "ada", 2222)),
        ("ssh://ada@[::1]:22/d", Address("::1", "/d", "ada", 22)),
        ("ssh://host/with%20space", Address("host", "/with space")),
        ("ssh://host/a@b:c", Address("host", "/a@b:c")),
    ],
)
def test_an_address_says_host_folder_user_and_port(url: str, address: Address) -> None:
    assert Address.of(url) == address


@pytest.mark.parametrize(
    "url",
    [
        *("ssh://", "ssh:///data", "ssh://host", "ssh://host/", "ssh://host:x/d", "ssh://-oProxyCommand=x/d"),
        *("ssh://-l@host/d", "ssh://a b@host/d", "ssh://host;id/d", "ssh://$(id)@host/d", "ssh://host/a%0ab"),
        "ssh://host:65536/d",
        *("ssh://u:secret@host/d", "ssh://u:secret/@host/d", "ssh://:secret@host/d", "ssh://u:secret@"),
    ],
)
def test_what_is_no_address_or_has_a_password_is_refused_and_no_password_repeated(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        Address.of(url)
    assert "secret" not in str(caught.value)


def test_a_host_whose_key_is_not_known_is_refused_with_what_to_do(bucket: SshBucket, private: Path) -> None:
    (private / "known_hosts").unlink()
    for config in ("", "UserKnownHostsFile none\n", "UserKnownHostsFile /dev/null\nStrictHostKeyChecking no\n"):
        (private / "config").write_text(config)
        with pytest.raises(DeniedError, match="SHA256:") as caught:
            bucket.sizes([NAME])
        assert caught.value.kind == "host-key"
        assert "127.0.0.1" in caught.value.hint


def test_a_host_whose_key_has_changed_is_refused(bucket: SshBucket, private: Path, sshd: Sshd) -> None:
    (private / "known_hosts").write_text(f"127.0.0.1 {(sshd.folder / 'user.pub').read_text()}")
    with pytest.raises(DeniedError, match="host key"):
        bucket.sizes([NAME])


def test_who_has_no_key_is_refused_with_what_to_do(bucket: SshBucket, private: Path) -> None:
    (private / "id_ed25519").unlink()
    with pytest.raises(DeniedError, match="refuses us") as caught:
        bucket.sizes([NAME])
    assert "ssh-add" in caught.value.hint


def test_the_users_configuration_applies(sshd: Sshd, private: Path, tmp_path: Path) -> None:
    (private / "id_ed25519").rename(private / "other")
    (private / "known_hosts").rename(private / "elsewhere")
    (private / "config").write_text(
        f"Host archive\n  HostName 127.0.0.1\n  Port {sshd.port}\n  IdentityFile ~/.ssh/other\n"
        "  HostKeyAlias 127.0.0.1\n  UserKnownHostsFile ~/.ssh/elsewhere ~/.ssh/not-there\n"
    )
    bucket = SshBucket(f"ssh://archive{tmp_path}/remote")
    bucket.write(NAME, DIGEST, DATA)
    assert bucket.read(NAME, 10, 20) == DATA[10:30]
    bucket.close()


def test_a_host_that_is_not_there_is_told(tmp_path: Path, private: Path) -> None:
    bucket = SshBucket(f"ssh://127.0.0.1:1{tmp_path}")
    with pytest.raises(UnreachableError, match=r"127\.0\.0\.1:1"):
        bucket.sizes([NAME])
    bucket.close()


def test_a_folder_whose_parent_is_gone_is_no_empty_place(sshd: Sshd, private: Path, tmp_path: Path) -> None:
    bucket = SshBucket(sshd.url(tmp_path / "gone" / "remote"))
    for attempt in (
        lambda: bucket.sizes([NAME]),
        lambda: list(bucket.names("files/")),
        lambda: bucket.write(NAME, DIGEST, DATA),
    ):
        with pytest.raises(UnreachableError, match="gone"):
            attempt()
    bucket.close()


def test_a_file_that_is_there_is_never_replaced(bucket: SshBucket, tmp_path: Path) -> None:
    bucket.write(NAME, DIGEST, io.BytesIO(DATA))
    before = (tmp_path / "remote" / NAME).stat()
    assert bucket.write(NAME, DIGEST, io.BytesIO(DATA)) == len(DATA)
    with pytest.raises(CorruptError):
        bucket.write(NAME, DIGEST, b"other")
    assert (tmp_path / "remote" / NAME).stat() == before
    assert not list((tmp_path / "remote" / "tmp").iterdir())


def test_a_file_that_another_makes_meanwhile_stays(bucket: SshBucket, tmp_path: Path) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            (tmp_path / "remote" / NAME).write_bytes(b"theirs")
            return super().read(size)

    bucket.write("files/ab/first", DIGEST, DATA)
    bucket.write(NAME, DIGEST, Slow(DATA))
    assert (tmp_path / "remote" / NAME).read_bytes() == b"theirs"
    assert not list((tmp_path / "remote" / "tmp").iterdir())


def test_what_is_not_there_is_told(bucket: SshBucket) -> None:
    bucket.write(NAME, DIGEST, DATA)
    with pytest.raises(NotFoundError):
        bucket.read("files/ab/ef", 0, 10)
    bucket.delete(["files/ab/ef"])


def test_a_folder_that_was_removed_meanwhile_is_made_again(bucket: SshBucket, tmp_path: Path) -> None:
    bucket.write(NAME, DIGEST, DATA)
    shutil.rmtree(tmp_path / "remote")
    with pytest.raises(NotFoundError):
        bucket.write(NAME, DIGEST, DATA)
    assert bucket.write(NAME, DIGEST, DATA) == len(DATA)


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asyncssh", None)
    with pytest.raises(UnsupportedError, match=r"\[ssh\]"):
        SshBucket("ssh://host/data")


def test_a_remote_that_is_no_longer_used_hangs_up(sshd: Sshd, private: Path, tmp_path: Path) -> None:
    bucket = SshBucket(sshd.url(tmp_path / "remote"))
    bucket.write(NAME, DIGEST, DATA)
    thread = bucket._line._thread
    assert thread is not None
    del bucket
    gc.collect()
    thread.join(60)
    assert not thread.is_alive()
