"""Objects that are freed by their age: whatever somebody counts on stays, also if they begin to at the last moment."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cmf.model.digest import file_digest, pack
from cmf.objects import read
from cmf.objects.local import LocalObjects
from cmf.objects.pack import OBJECT_BYTES_MAX

SMALL, OTHER = b"a small one", b"another small one"
LARGE = bytes(range(256)) * 1200
AGE = 100 * 86_400
assert len(LARGE) > OBJECT_BYTES_MAX


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "objects"


def kept(folder: Path, *data: bytes, old: bool = True) -> list[str]:
    """Put some objects as a process would that has ended since; as if that was long ago, if they are old."""
    objects = LocalObjects(folder)
    for each in data:
        objects.put(file_digest(each), each)
    objects.close()
    if old:
        age(folder)
    return [file_digest(each) for each in data]


def age(folder: Path) -> None:
    # The time of a change of an inode cannot be set, so that only what was renamed or linked since is new by it.
    then = time.time() - AGE
    for path in folder.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))


@pytest.fixture(autouse=True)
def changes_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmf.objects import local

    monkeypatch.setattr(local, "_used", lambda found: found.st_mtime if found.st_nlink == 1 else float("inf"))


def test_what_is_old_is_freed_and_what_is_young_stays(folder: Path) -> None:
    old = kept(folder, SMALL, LARGE)
    young = kept(folder, OTHER, LARGE + b"!", old=False)
    objects = LocalObjects(folder)
    before = time.time() - AGE / 2
    assert objects.free([*old, *young], before=before) == {old[0]: len(SMALL), old[1]: len(LARGE)}
    assert objects.absent([*old, *young]) == old
    assert objects.free([*old, *young], before=before) == {}


def test_each_object_is_told_with_when_it_was_last_counted_on(folder: Path) -> None:
    old = kept(folder, SMALL, LARGE)
    (young,) = kept(folder, OTHER, old=False)
    recent = {found.digest for found in LocalObjects(folder).held() if found.used > time.time() - 86_400}
    assert recent == {young}
    assert sorted(found.digest for found in LocalObjects(folder).held()) == sorted([*old, young])


@pytest.mark.parametrize("again", ["put", "put a stream", "note"])
@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_what_is_put_or_noted_again_is_young_again(folder: Path, again: str, data: bytes, tmp_path: Path) -> None:
    (digest,) = kept(folder, data)
    objects = LocalObjects(folder)
    if again == "put":
        objects.put(digest, data)
    elif again == "put a stream":
        (tmp_path / "source").write_bytes(data)
        objects.adopt(tmp_path / "source")
    else:
        assert objects.note([pack(digest)[1:]]) == set()
    assert LocalObjects(folder).free([digest], before=time.time() - AGE / 2) == {}
    assert read(LocalObjects(folder), digest) == data


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_who_counts_on_an_object_while_it_is_being_freed_finds_it(
    folder: Path, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    (digest,) = kept(folder, data)
    freeing, other = LocalObjects(folder), LocalObjects(folder)
    at_last: list[Callable[[], object]] = [lambda: other.note([pack(digest)[1:]])]
    really, write = os.rename, os.pwrite

    def renamed(source: str, target: str) -> None:
        if at_last and digest[9:] in source:
            assert not at_last.pop()()
        really(source, target)

    def written(handle: int, bytes_: bytes, at: int) -> int:
        if at_last and os.readlink(f"/proc/self/fd/{handle}").endswith(".gone"):
            assert not at_last.pop()()
        return write(handle, bytes_, at)

    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "pwrite", written)
    assert freeing.free([digest], before=time.time() - AGE / 2) == {}
    assert not at_last
    assert read(LocalObjects(folder), digest) == data


@pytest.mark.parametrize("data", [SMALL, LARGE])
def test_who_puts_an_object_that_was_just_freed_writes_it_anew(folder: Path, data: bytes) -> None:
    (digest,) = kept(folder, data, *([bytes([n]) * 100 for n in range(20)] if data is SMALL else []))[:1]
    other = LocalObjects(folder)
    assert read(other, digest) == data  # it has the pack open, and knows of no removal
    assert LocalObjects(folder).free([digest], before=time.time() - AGE / 2) == {digest: len(data)}
    other.put(digest, data)
    assert read(LocalObjects(folder), digest) == data


def test_a_merged_pack_is_as_old_as_the_youngest_that_went_into_it(folder: Path) -> None:
    names = []
    for n in range(40):
        names += kept(folder, b"%d" % n, old=False)
    age(folder)
    LocalObjects(folder).tidy()
    assert len(list((folder / "packs").glob("*.pack"))) < 40
    assert len(LocalObjects(folder).free(names[:3], before=time.time() - AGE / 2)) == 3
    assert len(LocalObjects(folder).absent(names)) == 3


def test_an_object_that_shares_its_bytes_with_a_file_stays(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(LARGE)
    objects = LocalObjects(folder)
    digest = objects.adopt(tmp_path / "model", link=True).digest
    age(folder)
    before = (tmp_path / "model").stat().st_mtime_ns
    assert objects.free([digest], before=time.time() - AGE / 2) == {}
    assert objects.note([pack(digest)[1:]]) == set()
    assert (tmp_path / "model").stat().st_mtime_ns == before
    (tmp_path / "model").unlink()
    assert objects.free([digest], before=time.time() - AGE / 2) == {digest: len(LARGE)}
