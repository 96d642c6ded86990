"""File systems that share blocks between files, mounted for real: a version costs no space until a file changes.

It needs root, a loop device, and the programs that make such file systems. Where one is missing, each test says which.
"""

import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import cmf

SIZE = 48 << 20
IMAGE_BYTES = 512 << 20
LITTLE = 4 << 20
"""What metadata may take."""

PACKAGES = {"btrfs": "btrfs-progs", "xfs": "xfsprogs"}
FIEMAP = 0xC020660B
EXTENTS_MAX = 1024


@pytest.fixture(params=sorted(PACKAGES))
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Lend a mounted file system that can share blocks."""
    kind: str = request.param
    make = shutil.which(f"mkfs.{kind}", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if make is None:
        pytest.skip(f"needs mkfs.{kind} (apt install {PACKAGES[kind]})")
    if os.getuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("needs root and /dev/loop-control, to mount a file as a disk")
    image, point = tmp_path / "image", tmp_path / "disk"
    with open(image, "wb") as file:
        file.truncate(IMAGE_BYTES)
    point.mkdir()
    subprocess.run([make, "-q", str(image)], check=True, capture_output=True)
    mount = subprocess.run(["mount", "-o", "loop", str(image), str(point)], check=False, capture_output=True, text=True)
    if mount.returncode:
        pytest.skip(f"this kernel cannot mount {kind} here: {mount.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", "-l", str(point)], check=True)


def free(disk: Path) -> int:
    """Return how many bytes a disk has left once all that was written or removed is on it."""
    subprocess.run(["sync", "-f", str(disk)], check=True)
    found = os.statvfs(disk)
    return found.f_bfree * found.f_frsize


def extents(path: Path) -> list[tuple[int, int, int]]:
    """Return where the disk has a file's bytes: (offset in the file, offset on the disk, bytes)."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        asked = bytearray(struct.pack("=QQLLLL", 0, 1 << 62, 0, 0, EXTENTS_MAX, 0) + bytes(56 * EXTENTS_MAX))
        fcntl.ioctl(file, FIEMAP, asked)
    count = struct.unpack_from("=L", asked, 20)[0]
    assert 0 < count < EXTENTS_MAX
    return [struct.unpack_from("=QQQ", asked, 32 + 56 * number) for number in range(count)]


def objects(folder: Path) -> list[Path]:
    """Return the files that hold one large object each."""
    return [path for path in folder.rglob("*") if len(path.name) == 62 and len(path.parent.name) == 2]


def test_a_version_of_a_large_file_costs_no_space_until_the_file_changes(disk: Path) -> None:
    lab = disk / "lab"
    lab.mkdir()
    cmf(lab, "init")
    first, second = os.urandom(SIZE), os.urandom(SIZE)
    (lab / "scan.bin").write_bytes(first)
    before = free(disk)
    cmf(lab, "add", "scan.bin")
    assert before - free(disk) < LITTLE
    (kept,) = objects(lab / ".cmf/objects")
    assert extents(kept) == extents(lab / "scan.bin")

    with open(lab / "scan.bin", "r+b") as file:  # in place: no new file takes the old one's name
        file.write(second)
    assert before - free(disk) > SIZE - LITTLE
    cmf(lab, "verify")
    assert kept.read_bytes() == first

    cmf(lab, "checkout", "--force", "scan.bin")
    assert before - free(disk) < LITTLE
    assert extents(lab / "scan.bin") == extents(kept)
    assert (lab / "scan.bin").read_bytes() == first


def test_what_is_freed_gives_its_space_back_and_a_remote_of_the_same_disk_shares_it(disk: Path) -> None:
    lab = disk / "lab"
    lab.mkdir()
    cmf(lab, "init")
    (lab / "scan.bin").write_bytes(os.urandom(SIZE))
    cmf(lab, "add", "scan.bin")
    cmf(lab, "remote", "add", "beside", str(disk / "beside"))
    before = free(disk)
    cmf(lab, "push", "beside")
    assert before - free(disk) < LITTLE
    (sent,), (kept,) = objects(disk / "beside"), objects(lab / ".cmf/objects")
    assert extents(sent) == extents(kept)

    (lab / "scan.bin").write_bytes(b"small now")
    shutil.rmtree(disk / "beside")
    cmf(lab, "remote", "remove", "beside")
    before = free(disk)
    cmf(lab, "remote", "add", "away", str(disk.parent / "away"))
    cmf(lab, "push", "away")
    cmf(lab, "gc", "--elsewhere", "--older-than", "0", "--force")
    assert free(disk) - before > SIZE - LITTLE
    cmf(lab, "checkout", "--force", "scan.bin")
    assert (lab / "scan.bin").stat().st_size == SIZE
