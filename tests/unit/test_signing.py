import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from cmf import signing
from cmf.errors import CorruptError, DeniedError

KEY = signing.Key(b"k" * 32)
MESSAGE = b"what was said"
SIGNATURE = KEY.sign(MESSAGE)
# The order of the group: a signature's second half is only valid below it.
ORDER = 2**252 + 27742317777372353535851937790883648493


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_signatures_are_those_of_the_standard() -> None:
    # RFC 8032, 7.1, test 1.
    key = signing.Key(bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"))
    assert key.public.hex() == "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
    assert key.sign(b"").hex() == (
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"
    )


def test_a_signature_holds_for_its_key_and_message_alone() -> None:
    assert signing.verify(KEY.public, MESSAGE, SIGNATURE)
    assert KEY.sign(MESSAGE) == SIGNATURE
    assert not signing.verify(signing.Key(b"x" * 32).public, MESSAGE, SIGNATURE)
    for message in (b"", MESSAGE + b"\0", MESSAGE[:-1], MESSAGE.upper()):
        assert not signing.verify(KEY.public, message, SIGNATURE)


def test_a_flipped_bit_of_a_signature_or_a_key_is_refused() -> None:
    for at in range(64):
        for bits in (1, 16, 128):
            bad = SIGNATURE[:at] + bytes([SIGNATURE[at] ^ bits]) + SIGNATURE[at + 1 :]
            assert not signing.verify(KEY.public, MESSAGE, bad)
    for at in range(32):
        bad = KEY.public[:at] + bytes([KEY.public[at] ^ 4]) + KEY.public[at + 1 :]
        assert not signing.verify(bad, MESSAGE, SIGNATURE)


def test_the_same_signature_in_another_spelling_is_refused() -> None:
    larger = int.from_bytes(SIGNATURE[32:], "little") + ORDER
    assert not signing.verify(KEY.public, MESSAGE, SIGNATURE[:32] + larger.to_bytes(32, "little"))


@pytest.mark.parametrize("size", [0, 31, 33, 64])
def test_a_key_of_another_size_verifies_nothing(size: int) -> None:
    assert not signing.verify(bytes(size), MESSAGE, SIGNATURE)


@pytest.mark.parametrize("signature", [b"", SIGNATURE[:63], SIGNATURE + b"\0", bytes(64), b"\xff" * 64])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    assert not signing.verify(KEY.public, MESSAGE, signature)


def test_a_key_without_order_verifies_nothing() -> None:
    for public in (bytes(32), b"\x01" + bytes(31), b"\xff" * 32):
        assert not signing.verify(public, MESSAGE, bytes(64))
        assert not signing.verify(public, MESSAGE, b"\x01" + bytes(63))


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site"
    before = os.umask(0)
    try:
        made = signing.kept_secret(path)
    finally:
        os.umask(before)
    assert len(made) == 32
    assert path.read_bytes() == made
    assert mode_of(path) == 0o600
    assert mode_of(path.parent) == 0o700
    assert signing.kept_secret(path) == made
    assert list(path.parent.iterdir()) == [path]
    assert signing.kept_secret(tmp_path / "other") != made


def test_a_secret_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    assert len(signing.kept_secret(tmp_path / "salt", 48)) == 48


@pytest.mark.parametrize("data", [b"", b"x" * 31, b"x" * 33])
def test_a_damaged_secret_is_said_and_never_replaced(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "site"
    path.write_bytes(data)
    with pytest.raises(CorruptError, match="damaged") as caught:
        signing.kept_secret(path)
    assert caught.value.kind == "key"
    assert path.read_bytes() == data


REFUSED = """
import os, sys
from pathlib import Path
from cmf import signing
from cmf.errors import CmfError

if os.getuid() == 0:
    os.setuid(65534)
try:
    signing.kept_secret(Path(sys.argv[1]))
except CmfError as error:
    print(type(error).__name__, error.message)
"""


def test_a_secret_of_someone_else_is_not_replaced() -> None:
    # Not in `tmp_path`: a user without rights, whom root becomes for this, would not get there.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        secret = Path(name, "site")
        secret.write_bytes(b"x" * 32)
        secret.chmod(0)
        done = subprocess.run(
            [sys.executable, "-c", REFUSED, str(secret)], check=False, text=True, capture_output=True, timeout=60
        )
    assert done.stderr == ""
    assert done.stdout == f"{DeniedError.__name__} {secret} cannot be read: Permission denied.\n"


TOGETHER = """
import sys
from pathlib import Path
from cmf import signing

print("ready", flush=True)
for line in sys.stdin:
    print(signing.kept_secret(Path(line.strip())).hex(), flush=True)
"""


def test_processes_that_make_a_secret_at_once_agree_on_one(tmp_path: Path) -> None:
    paths = [tmp_path / f"store-{n}" / "keys" / "site" for n in range(40)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for path in paths:
        for child in children:
            assert child.stdin is not None
            child.stdin.write(f"{path}\n")
            child.stdin.flush()
    said = [child.communicate(timeout=60) for child in children]
    assert [(child.returncode, errors) for child, (_, errors) in zip(children, said, strict=True)] == [(0, "")] * 3
    kept = [path.read_bytes().hex() for path in paths]
    assert [out.split() for out, _ in said] == [kept] * 3
    assert len(set(kept)) == len(paths)
    for path in paths:
        assert mode_of(path) == 0o600
        assert list(path.parent.iterdir()) == [path]
