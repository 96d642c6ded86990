"""Damaged objects made whole: fetched again from whoever has them, or sent again to where they are damaged."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import mending
from cmf.errors import CorruptError
from cmf.model.digest import file_digest, object_of
from cmf.objects import manifest, read
from cmf.remote.data import DataRemote
from tests.objects import flip
from tests.sites import Site

LARGE = bytes(range(256)) * 2000
SMALL = [b"<%d> is a small one" % n for n in range(40)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path / "lab")
    yield made
    made.close()


@pytest.fixture
def disks(tmp_path: Path) -> list[DataRemote]:
    return [DataRemote(str(tmp_path / name), {}) for name in ("disk", "other")]


def damage(site: Site, *digests: str) -> None:
    site.objects.close()
    for digest in digests:
        flip(site.folder / "objects", digest, 5)
    site.reopen()


def damage_there(disk: DataRemote, data: bytes) -> None:
    """Flip a byte of an object in the file that holds it at a remote."""
    (path,) = (path for path in Path(disk.url).rglob("*") if path.is_file() and data in path.read_bytes())
    path.chmod(0o644)
    path.write_bytes(path.read_bytes().replace(data, data[:5] + bytes([data[5] ^ 1]) + data[6:]))


def test_what_is_damaged_here_comes_from_the_first_that_has_it_whole(site: Site, disks: list[DataRemote]) -> None:
    names = [site.put(LARGE), *(site.put(data) for data in SMALL)]
    only_here = site.put(LARGE + b"only here")
    for disk in disks:
        site.send(disk.objects(), *names)
    damage_there(disks[0], LARGE)
    damage(site, names[0], names[7], only_here)
    done = mending.again(site.objects, disks, [names[0], names[7], only_here])
    assert sorted(done.mended) == sorted([names[0], names[7]])
    assert list(done.left) == [only_here]
    assert read(site.objects, names[0], len(LARGE)) == LARGE
    assert read(site.objects, names[7]) == SMALL[6]
    with pytest.raises(CorruptError):
        site.objects.check(only_here)


def test_of_a_folder_first_the_manifest_is_told_and_then_its_files(site: Site) -> None:
    tree = site.put_folder({f"{n}": data for n, data in enumerate(SMALL)} | {"large": LARGE})
    assert mending.damaged_parts(site.objects, tree) == []
    data = read(site.objects, object_of(tree), manifest.MANIFEST_BYTES_MAX)
    damage(site, object_of(tree), file_digest(LARGE), file_digest(SMALL[3]))
    assert mending.damaged_parts(site.objects, tree) == [object_of(tree)]
    site.put(data)
    assert sorted(mending.damaged_parts(site.objects, tree)) == sorted([file_digest(LARGE), file_digest(SMALL[3])])
    assert mending.damaged_parts(site.objects, file_digest(LARGE)) == [file_digest(LARGE)]
    assert mending.damaged_parts(site.objects, file_digest(SMALL[4])) == []


def test_what_is_damaged_at_a_remote_is_named_and_sent_again(site: Site, disks: list[DataRemote]) -> None:
    names = [site.put(LARGE), *(site.put(data) for data in SMALL)]
    site.send(disks[0].objects(), *names)
    damage_there(disks[0], LARGE)
    damage_there(disks[0], SMALL[3])
    damage_there(disks[0], SMALL[9])
    found = mending.check(disks[0], [])
    assert (found.objects, found.mended) == (41, [])
    assert sorted(found.damaged) == sorted([names[0], names[4], names[10]])
    damage(site, names[10])
    done = mending.send_again(site.objects, disks[0], [], [*found.damaged])
    assert sorted(done.mended) == sorted([names[0], names[4]])
    assert list(done.left) == [names[10]]
    # What is whole nowhere is not there any more, so that who has it sends it again.
    assert disks[0].objects().absent(names) == [names[10]]
    assert mending.check(disks[0], []).damaged == {}
    site.put(SMALL[9])
    site.send(disks[0].objects(), *names)
    assert mending.check(DataRemote(disks[0].url, {}), []).objects == 41
