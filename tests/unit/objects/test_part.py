"""An object that was cut on its way goes on where it was, and only the whole is believed."""

import fcntl
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from cmf.errors import CorruptError, NotFoundError, UnreachableError
from cmf.model.digest import file_digest
from cmf.objects import read
from cmf.objects.folder import FolderBucket
from cmf.objects.local import SMALL_BYTES, LocalObjects
from cmf.objects.remote import RemoteObjects

LARGE = os.urandom((3 << 20) + 17)
DIGEST = file_digest(LARGE)


class Cut(io.RawIOBase):
    """A reader that fails behind some bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        found = self._data.read(size)
        if not found:
            raise UnreachableError("The line was cut.")
        return found


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


def part_of(objects: LocalObjects, digest: str = DIGEST) -> Path:
    return objects.folder / "tmp" / f"{digest.removeprefix('sha256:')}.part"


def cut(data: bytes) -> Callable[[int], BinaryIO]:
    return lambda offset: Cut(data[offset:])  # type: ignore[return-value]


@pytest.mark.parametrize("size", [1, SMALL_BYTES, 1 << 20, len(LARGE)])
def test_what_came_before_the_cut_is_not_read_again(objects: LocalObjects, size: int) -> None:
    with pytest.raises(UnreachableError):
        objects.bring(DIGEST, cut(LARGE[:size]))
    assert objects.absent([DIGEST]) == [DIGEST]
    asked = []

    def rest(offset: int) -> BinaryIO:
        asked.append(offset)
        return io.BytesIO(LARGE[offset:])

    assert objects.bring(DIGEST, rest) == len(LARGE)
    assert asked == [size]
    assert read(objects, DIGEST) == LARGE
    assert not list((objects.folder / "tmp").iterdir())
    (held,) = (path for path in objects.folder.glob("??/*") if path.is_file())
    assert not held.stat().st_mode & 0o222


def test_a_part_that_is_wrong_is_thrown_away(objects: LocalObjects) -> None:
    for wrong in (b"x" * 100_000, LARGE + b"more", bytes(len(LARGE))):
        with pytest.raises(UnreachableError):
            objects.bring(DIGEST, cut(wrong))
        assert objects.bring(DIGEST, lambda offset: io.BytesIO(LARGE[offset:])) == len(LARGE)
        assert read(objects, DIGEST) == LARGE
        assert objects.remove([DIGEST]) == 1


def test_other_bytes_are_refused_and_nothing_of_them_stays(objects: LocalObjects) -> None:
    with pytest.raises(UnreachableError):
        objects.bring(DIGEST, cut(LARGE[:1000]))
    other = LARGE[:-1] + bytes([LARGE[-1] ^ 1])
    with pytest.raises(CorruptError, match=DIGEST):
        objects.bring(DIGEST, lambda offset: io.BytesIO(other[offset:]))
    assert list(objects.list()) == []
    assert not list((objects.folder / "tmp").iterdir())


def test_what_is_not_there_leaves_nothing(objects: LocalObjects) -> None:
    def missing(_: int) -> BinaryIO:
        raise NotFoundError("It is not there.")

    with pytest.raises(NotFoundError):
        objects.bring(DIGEST, missing)
    assert not list((objects.folder / "tmp").iterdir())


def test_a_small_object_goes_into_a_pack(objects: LocalObjects) -> None:
    data = LARGE[:1000]
    digest = file_digest(data)
    with pytest.raises(UnreachableError):
        objects.bring(digest, cut(data[:10]))
    assert objects.bring(digest, lambda offset: io.BytesIO(data[offset:])) == len(data)
    assert read(objects, digest) == data
    assert not part_of(objects, digest).exists()
    assert not [path for path in objects.folder.glob("??/*") if path.is_file()]


def test_two_that_bring_the_same_object_at_once_both_succeed(objects: LocalObjects) -> None:
    def second_meanwhile(offset: int) -> BinaryIO:
        other = LocalObjects(objects.folder)
        assert other.bring(DIGEST, lambda offset: io.BytesIO(LARGE[offset:])) == len(LARGE)
        return io.BytesIO(LARGE[offset:])

    assert objects.bring(DIGEST, second_meanwhile) == len(LARGE)
    assert read(objects, DIGEST) == LARGE


def test_where_there_are_no_locks_it_comes_from_its_start(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnreachableError):
        objects.bring(DIGEST, cut(LARGE[:1000]))

    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    asked = []

    def whole(offset: int) -> BinaryIO:
        asked.append(offset)
        return io.BytesIO(LARGE[offset:])

    assert objects.bring(DIGEST, whole) == len(LARGE)
    assert asked == [0]


def test_an_old_part_is_swept(objects: LocalObjects) -> None:
    with pytest.raises(UnreachableError):
        objects.bring(DIGEST, cut(LARGE[:1000]))
    part = part_of(objects)
    assert objects.sweep(before=part.stat().st_mtime - 10) == 0
    assert objects.sweep(before=part.stat().st_mtime + 10) == 1
    assert not part.exists()


def test_a_large_object_of_a_folder_beside_is_copied_as_a_file_is(objects: LocalObjects, tmp_path: Path) -> None:
    there = RemoteObjects(FolderBucket(str(tmp_path / "there")))
    there.put(DIGEST, LARGE)
    passed: list[int] = []

    class Counted(io.FileIO):
        def read(self, size: int | None = -1) -> bytes:  # nobody takes the bytes through Python
            found = super().read(size)
            passed.append(len(found))
            return found

    def opened(offset: int) -> BinaryIO:
        with there.open(DIGEST, offset) as file:
            return Counted(file.name)

    assert objects.bring(DIGEST, opened) == len(LARGE)
    assert read(objects, DIGEST) == LARGE
    assert not passed
    assert not part_of(objects).exists()


def test_a_file_beside_with_other_bytes_is_refused(objects: LocalObjects, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(LARGE[:-1] + b"!")
    with pytest.raises(CorruptError):
        objects.bring(DIGEST, lambda _: other.open("rb"))
    with pytest.raises(CorruptError), other.open("rb") as file:
        objects.put(DIGEST, file)
    assert [*objects.list()] == []
    assert not [*(objects.folder / "tmp").iterdir()]


def test_a_part_is_gone_on_with_though_its_rest_lies_beside(objects: LocalObjects, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        objects.bring(DIGEST, cut(LARGE[: 1 << 20]))
    (tmp_path / "file").write_bytes(LARGE)

    def opened(offset: int) -> BinaryIO:
        file = (tmp_path / "file").open("rb")
        file.seek(offset)
        return file

    assert objects.bring(DIGEST, opened) == len(LARGE)
    assert read(objects, DIGEST) == LARGE
