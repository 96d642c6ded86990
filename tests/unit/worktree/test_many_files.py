"""Folders of very many files: what is done with them takes memory for a part of them only."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

import cmf
from cmf import fetching, moving
from cmf.errors import CorruptError, NotFoundError, UnreachableError
from cmf.fetching import Named
from cmf.model.digest import file_digest, object_of
from cmf.objects import RemoteStore, manifest, read
from cmf.objects.folder import FolderBucket
from cmf.objects.local import LocalObjects
from cmf.objects.manifest import Entry
from cmf.objects.remote import RemoteObjects
from cmf.worktree import placing, walking
from tests.objects import flip

BYTES_A_FILE = 40
"""A file of a folder that is read from its manifest takes ten times this."""


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalObjects:
    """Return objects of which a part is a few hundred files, so that a few thousand are many."""
    monkeypatch.setattr(manifest, "CHUNK_BYTES", 32 << 10)
    monkeypatch.setattr(moving, "AT_ONCE", 500)
    return LocalObjects(tmp_path / "objects")


def folder_of(objects: LocalObjects, count: int) -> str:
    """Keep a folder of so many files, no two of them alike, and return its digest."""
    entries = []
    for number in range(count):
        data = b"%d of %d" % (number, count)
        entries.append(Entry(f"{number // 100:03}/{number:06}", file_digest(data), len(data)))
        objects.put(entries[-1].digest, data, durable=False)
    data = manifest.encode(entries)
    objects.put(file_digest(data), data)
    return manifest.tree_digest(data)


def peak(act: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_writing_a_folder_takes_memory_for_a_part_of_it_only(objects: LocalObjects, tmp_path: Path) -> None:
    few, many = folder_of(objects, 1_000), folder_of(objects, 6_000)
    objects.close()
    first = peak(lambda: placing.write(objects, few, str(tmp_path / "few")))
    second = peak(lambda: placing.write(objects, many, str(tmp_path / "many")))
    assert second - first < BYTES_A_FILE * 5_000
    written = sorted(path for path in (tmp_path / "many").rglob("*") if path.is_file())
    assert [path.read_bytes() for path in written] == [b"%d of 6000" % number for number in range(6_000)]


def test_making_sure_of_a_folder_takes_memory_for_a_part_of_it_only(objects: LocalObjects) -> None:
    few, many = folder_of(objects, 1_000), folder_of(objects, 6_000)
    objects.close()

    def brought(digest: str) -> int:
        return peak(lambda: fetching.bring(objects, lambda: (), Named(digest, "data"), moving.Moved()))

    assert brought(many) - brought(few) < BYTES_A_FILE * 5_000


def test_one_file_of_a_folder_is_found_without_the_others_in_memory(objects: LocalObjects) -> None:
    few, many = folder_of(objects, 1_000), folder_of(objects, 6_000)

    def brought(digest: str) -> int:
        named = Named(digest, "data", "005/000505")
        return peak(lambda: fetching.bring(objects, lambda: (), named, moving.Moved()))

    assert brought(many) - brought(few) < BYTES_A_FILE * 5_000


def test_a_manifest_is_made_in_hardly_more_memory_than_its_text() -> None:
    entries = [Entry(f"{number // 100:03}/{number:06}", file_digest(b""), 1) for number in range(20_000)]
    made: list[bytes] = []

    def make() -> None:
        written = manifest.Writer()
        for start in range(0, len(entries), 100):
            written.add(entries[start : start + 100])
        made.append(written.data())

    assert peak(make) < 1.5 * len(made[0])
    assert made[0] == manifest.encode(entries)


def test_adding_a_folder_looks_into_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b/c"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "file").write_text(name)
    looked = []

    def scandir(path: str) -> object:
        looked.append(os.path.relpath(path, tmp_path))
        return os.scandir(path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(walking, "os", SimpleNamespace(**vars(os) | {"scandir": scandir}))
    with cmf.init() as repo:
        (added,) = repo.add("data")
        assert sorted(looked) == ["data", "data/a", "data/b", "data/b/c"]
        repo.collect()
        (use,) = repo.artifact(added.digest).uses
        assert (use.direction, use.path, use.type) == ("output", "data", "dataset")
        assert use.size == added.size == 4


def test_folders_are_sent_a_part_at_a_time_and_each_object_once(objects: LocalObjects, tmp_path: Path) -> None:
    first, second = folder_of(objects, 1_200), folder_of(objects, 1_300)
    shared = manifest.encode(
        [*manifest.decode(read(objects, object_of(first))), Entry("z", file_digest(b"7 of 1300"), 9)]
    )
    objects.put(file_digest(shared), shared)
    large = bytes(300_000)
    objects.put(file_digest(large), large)
    asked = [first, file_digest(large), second, manifest.tree_digest(shared), file_digest(b"nowhere")]
    there = RemoteObjects(FolderBucket(str(tmp_path / "there")))
    moved = moving.Moved()
    moving.send(there, objects, asked, moved, moving.nothing)
    assert (moved.objects, moved.stayed) == (1_200 + 1_300 + 3 + 1, 1)
    assert sorted(RemoteObjects(FolderBucket(str(tmp_path / "there"))).list()) == sorted(objects.list())
    again = moving.Moved()
    moving.send(there, objects, asked, again, moving.nothing)
    assert (again.objects, again.stayed) == (0, 1)


def test_a_damaged_object_is_not_sent(objects: LocalObjects, tmp_path: Path) -> None:
    digest = folder_of(objects, 100)
    objects.close()
    wrong = file_digest(b"50 of 100")
    flip(objects.folder, wrong)
    there = RemoteObjects(FolderBucket(str(tmp_path / "there")))
    with pytest.raises(CorruptError, match=wrong):
        moving.send(there, objects, [digest], moving.Moved(), moving.nothing)
    assert there.absent([wrong, object_of(digest)]) == [wrong, object_of(digest)]


def test_a_remote_that_is_away_is_asked_once_however_many_files_lack(objects: LocalObjects) -> None:
    asked = []

    class Away:
        url = "https://away.example"

        def objects(self, scope: str) -> RemoteStore:
            asked.append(scope)
            raise UnreachableError("It is away.")

    digest = folder_of(objects, 3_000)
    objects.remove([file_digest(b"%d of 3000" % number) for number in range(3_000)])
    with pytest.raises(UnreachableError):
        fetching.bring(objects, lambda: [Away()], Named(digest, "data"), moving.Moved())
    assert len(asked) == 1
    with pytest.raises(NotFoundError, match="3000 of the objects of data are not here"):
        fetching.bring(objects, lambda: (), Named(digest, "data"), moving.Moved())


def test_the_pages_of_a_manifest_hold_its_files(objects: LocalObjects) -> None:
    digest = object_of(folder_of(objects, 3_000))
    whole = [entry for page in manifest.pages(objects, digest) for entry in page]
    with objects.open(digest) as source:
        assert whole == manifest.decode(source.read())
