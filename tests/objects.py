"""Looking into a store's objects, wherever it keeps their bytes."""

import os
from pathlib import Path

from cmf.objects.local import LocalObjects
from cmf.objects.packs import Packs


def place_of(folder: Path, digest: str) -> tuple[Path, int, int]:
    """Return the file that holds an object, and where its bytes start and how many they are."""
    path = folder / digest[7:9] / digest[9:]
    if path.exists():
        return path, 0, path.stat().st_size
    found = Packs(str(folder / "packs"), str(folder / "tmp")).find(bytes.fromhex(digest[7:]), fresh=True)
    assert found is not None, f"{digest} is not held"
    return Path(found.pack.path), found.place.offset, found.place.size


def flip(folder: Path, digest: str, at: int = 0, bit: int = 4) -> None:
    """Flip one bit of an object, as a disk may."""
    path, start, size = place_of(folder, digest)
    assert at < size
    path.chmod(0o644)
    handle = os.open(path, os.O_RDWR)
    try:
        (old,) = os.pread(handle, 1, start + at)
        os.pwrite(handle, bytes([old ^ bit]), start + at)
    finally:
        os.close(handle)
    path.chmod(0o444)


def held(folder: Path) -> list[str]:
    """Return what a store holds."""
    return [digest for digest, _ in LocalObjects(folder).list()]
