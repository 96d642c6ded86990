"""Where the bytes are: what a remote shows that it holds is noted, and nothing else is."""

import io
from pathlib import Path

import pytest

from cmf import whereabouts
from cmf.errors import NotFoundError
from cmf.model.digest import file_digest
from cmf.model.wire import Small
from cmf.objects import manifest
from cmf.objects.folder import FolderBucket
from cmf.objects.local import LocalObjects
from cmf.objects.remote import RemoteObjects
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.store.whereabouts import Sighting, SqlWhereabouts

ONE, TWO, THREE = (file_digest(data) for data in (b"one", b"two", b"three"))


@pytest.fixture
def notes() -> SqlWhereabouts:
    return SqlStore(Sqlite(None)).whereabouts


@pytest.fixture
def disk(tmp_path: Path) -> RemoteObjects:
    return RemoteObjects(FolderBucket(str(tmp_path / "disk")))


def watched(disk: RemoteObjects, notes: SqlWhereabouts, *, part: bool = False) -> whereabouts.Watched:
    return whereabouts.Watched(disk, notes, "disk", part=part)


def test_the_newest_sighting_of_each_place_counts(notes: SqlWhereabouts) -> None:
    notes.saw("disk", [ONE, TWO], now=5)
    notes.saw("disk", [ONE], now=9)
    notes.saw("disk", [TWO], now=3)
    notes.saw("hub", [ONE], now=1)
    assert notes.of([ONE, TWO, THREE]) == {ONE: [Sighting("disk", 9), Sighting("hub", 1)], TWO: [Sighting("disk", 5)]}
    notes.missed("disk", [ONE, THREE])
    assert notes.of([ONE]) == {ONE: [Sighting("hub", 1)]}


def test_what_is_sent_one_by_one_or_together_is_noted(disk: RemoteObjects, notes: SqlWhereabouts) -> None:
    there = watched(disk, notes)
    there.put(ONE, io.BytesIO(b"one"))
    assert [refused for _, refused in there.put_all([Small(TWO, b"two")])] == [None]
    assert sorted(notes.of([ONE, TWO, THREE])) == sorted([ONE, TWO])


def test_what_is_asked_for_is_noted_as_there_or_not(disk: RemoteObjects, notes: SqlWhereabouts) -> None:
    disk.put(ONE, b"one")
    notes.saw("disk", [TWO], now=1)
    assert watched(disk, notes).absent([ONE, TWO]) == [TWO]
    assert [*notes.of([ONE, TWO])] == [ONE]


def test_what_is_fetched_is_noted_as_there_and_what_does_not_come_as_not(
    disk: RemoteObjects, notes: SqlWhereabouts
) -> None:
    disk.put(ONE, b"one")
    notes.saw("disk", [TWO, THREE], now=1)
    there = watched(disk, notes)
    assert [small.digest for page in there.get_all([ONE, TWO]) for small in page] == [ONE]
    with pytest.raises(NotFoundError):
        there.open(THREE)
    assert [*notes.of([ONE, TWO, THREE])] == [ONE]


def test_a_part_of_a_remote_says_nothing_of_what_other_parts_hold(disk: RemoteObjects, notes: SqlWhereabouts) -> None:
    notes.saw("disk", [ONE], now=1)
    assert watched(disk, notes, part=True).absent([ONE]) == [ONE]
    assert [*notes.of([ONE])] == [ONE]


def test_what_is_removed_is_noted_as_gone(disk: RemoteObjects, notes: SqlWhereabouts) -> None:
    there = watched(disk, notes)
    there.put(ONE, b"one")
    assert there.remove([ONE]) == 1
    assert notes.of([ONE]) == {}


def test_a_folder_is_told_of_file_by_file(tmp_path: Path, notes: SqlWhereabouts) -> None:
    objects = LocalObjects(tmp_path / "objects")
    data = manifest.encode([manifest.Entry("a", ONE, 3), manifest.Entry("b", TWO, 3)])
    objects.put(file_digest(data), data)
    objects.put(ONE, b"one")
    notes.saw("/disk", [ONE, TWO], now=7)
    found = whereabouts.of(notes, objects, manifest.tree_digest(data), remotes={"disk": "/disk"}, sites={"edge": 3})
    assert found == whereabouts.Whereabouts(
        objects=3,
        complete=True,
        places=[
            whereabouts.Place(name="here", objects=2),
            whereabouts.Place(name="disk", url="/disk", objects=2, checked=7),
        ],
        sites={"edge": 3},
    )


def test_of_a_folder_whose_manifest_is_not_here_only_that_is_known(tmp_path: Path, notes: SqlWhereabouts) -> None:
    found = whereabouts.of(notes, LocalObjects(tmp_path), f"tree:{ONE}", remotes={}, sites={})
    assert (found.objects, found.complete, found.places) == (1, False, [])


def test_objects_with_too_few_copies_are_counted_by_places_that_are_known(notes: SqlWhereabouts) -> None:
    notes.saw("/disk/", [ONE, TWO], now=1)
    notes.saw("/forgotten", [TWO, THREE], now=1)
    wanted = {ONE, TWO, THREE}
    places = {"/disk"}
    assert whereabouts.scarce(notes, [ONE], wanted, places, 1) == 0
    assert whereabouts.scarce(notes, [ONE], wanted, places, 2) == 1  # the second; the third is known nowhere
    assert whereabouts.scarce(notes, [ONE, THREE], {ONE, THREE}, places, 2) == 1
    assert whereabouts.scarce(notes, [ONE, TWO, THREE], wanted, places, 3) == 3
