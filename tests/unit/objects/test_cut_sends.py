"""A large object on its way into a folder, whose sender is killed: the rest is written, and nothing wrong is kept."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmf.errors import CorruptError
from cmf.model.digest import file_digest
from cmf.objects import duplicate, read
from cmf.objects.bucket import KEPT_SECONDS
from cmf.objects.duplicate import BUFFER_BYTES, DIRECT_BYTES_MIN
from cmf.objects.folder import FolderBucket
from cmf.objects.part import Part
from cmf.objects.remote import RemoteObjects

LARGE = os.urandom(DIRECT_BYTES_MIN + 8 * BUFFER_BYTES + 17)
DIGEST = file_digest(LARGE)
SEND = """
import os, signal, sys
import cmf.objects.duplicate as copying
from cmf.objects.folder import FolderBucket
from cmf.objects.remote import RemoteObjects
left, write = int(sys.argv[4]), os.pwrite
def counted(*given):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(*given)
os.pwrite, copying.WRITERS = counted, 1
copying.cloned = copying._copied = lambda *_: False
with open(sys.argv[2], "rb") as source:
    RemoteObjects(FolderBucket(sys.argv[1])).put(sys.argv[3], source)
"""


@pytest.fixture(autouse=True)
def unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be on a file system that shares no blocks: where it does, all is there at once."""
    monkeypatch.setattr(duplicate, "cloned", lambda *_: False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "large").write_bytes(LARGE)
    return tmp_path / "large"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "place" / "tmp").mkdir(parents=True)
    return tmp_path / "place"


def part_of(place: Path) -> Path:
    return place / "tmp" / f"{DIGEST.removeprefix('sha256:')}.part"


def sent(place: Path, file: Path) -> int:
    """Send a file and return how much of it was there."""
    told: list[int] = []
    remote = RemoteObjects(FolderBucket(str(place)))
    with file.open("rb") as source:
        assert remote.put(DIGEST, source, resumed=told.append) == len(LARGE)
    assert read(remote, DIGEST) == LARGE
    assert not [*(place / "tmp").iterdir()]
    (kept,) = (place / "files").glob("??/*")
    assert not kept.stat().st_mode & 0o222
    return sum(told)


@pytest.mark.parametrize("writes", [0, 1, 5, 13, 24])
def test_a_sender_that_was_killed_goes_on_where_it_was(place: Path, file: Path, writes: int) -> None:
    command = [sys.executable, "-c", SEND, str(place), str(file), DIGEST, str(writes)]
    assert subprocess.run(command, check=False).returncode < 0
    assert not [*place.glob("files/??/*")]
    assert sent(place, file) == writes * BUFFER_BYTES


@pytest.mark.parametrize("size", [1, BUFFER_BYTES - 1, BUFFER_BYTES, 3 * BUFFER_BYTES + 5, len(LARGE) - 1, len(LARGE)])
def test_what_is_there_is_not_written_again(place: Path, file: Path, size: int) -> None:
    part_of(place).write_bytes(LARGE[:size])
    assert sent(place, file) == size // BUFFER_BYTES * BUFFER_BYTES


def test_what_is_damaged_is_written_again_from_there_on(place: Path, file: Path) -> None:
    damaged = bytearray(LARGE)
    damaged[5 * BUFFER_BYTES + 100] ^= 1
    part_of(place).write_bytes(damaged)
    assert sent(place, file) == 5 * BUFFER_BYTES


@pytest.mark.parametrize("other", [b"", b"x" * BUFFER_BYTES, bytes(len(LARGE)), LARGE + b"more"])
def test_what_is_of_another_file_is_not_gone_on_with(place: Path, file: Path, other: bytes) -> None:
    part_of(place).write_bytes(other)
    assert sent(place, file) == 0


def test_a_file_that_turns_out_to_be_another_leaves_nothing(place: Path, file: Path) -> None:
    part_of(place).write_bytes(LARGE[: 3 * BUFFER_BYTES])
    file.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(CorruptError, match=DIGEST), file.open("rb") as source:
        RemoteObjects(FolderBucket(str(place))).put(DIGEST, source)
    assert not [*place.glob("files/??/*")]
    assert not [*(place / "tmp").iterdir()]


def test_two_that_send_the_same_at_once_do_not_write_to_one_file(place: Path, file: Path) -> None:
    part_of(place).write_bytes(LARGE[: 3 * BUFFER_BYTES])
    with Part(str(part_of(place))), file.open("rb") as source:
        told: list[int] = []
        remote = RemoteObjects(FolderBucket(str(place)))
        remote.put(DIGEST, source, resumed=told.append)
        assert not told
        assert part_of(place).read_bytes() == LARGE[: 3 * BUFFER_BYTES]
        assert read(remote, DIGEST) == LARGE


def test_what_nobody_goes_on_with_is_deleted_after_a_week(place: Path, file: Path) -> None:
    left = {"old.part": KEPT_SECONDS + 60, "young.part": KEPT_SECONDS - 60}
    for name, age in left.items():
        (place / "tmp" / name).write_bytes(b"begun")
        os.utime(place / "tmp" / name, (time.time() - age,) * 2)
    with file.open("rb") as source:
        RemoteObjects(FolderBucket(str(place))).put(DIGEST, source)
    assert [path.name for path in (place / "tmp").iterdir()] == ["young.part"]
