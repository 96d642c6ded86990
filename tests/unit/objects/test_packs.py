"""Packs shared by several processes: seen at once, merged and removed from while others read and write."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmf.errors import UnreachableError, UnsupportedError
from cmf.model.digest import EMPTY, file_digest
from cmf.objects import packs as packing
from cmf.objects import read
from cmf.objects.local import LocalObjects

PARTS = [bytes([n]) * (n * 17 + 1) for n in range(60)]
NAMES = [file_digest(part) for part in PARTS]


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


def packs(objects: LocalObjects) -> list[Path]:
    return sorted((objects.folder / "packs").glob("*.pack"))


def filled(objects: LocalObjects, *numbers: int) -> None:
    for n in numbers:
        objects.put(NAMES[n], PARTS[n], durable=False)
    objects.flush()


def test_what_one_writes_another_sees_at_once_sealed_or_not(objects: LocalObjects) -> None:
    other = LocalObjects(objects.folder)
    for n in range(5):
        objects.put(NAMES[n], PARTS[n], durable=False)
        assert other.absent([NAMES[n]]) == []
        assert read(other, NAMES[n]) == PARTS[n]
        assert other.size(NAMES[n]) == len(PARTS[n])
    objects.close()
    objects.put(NAMES[5], PARTS[5])
    assert list(other.list()) == sorted((NAMES[n], len(PARTS[n])) for n in range(6))
    assert len(packs(objects)) == 2


def test_a_full_pack_gets_its_index_and_the_next_begins(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_OBJECTS_MAX", 7)
    filled(objects, *range(30))
    assert len(packs(objects)) == 5
    for again in (objects, LocalObjects(objects.folder)):
        assert again.absent([*NAMES[:31], EMPTY]) == [NAMES[30], EMPTY]
        assert [read(again, name) for name in NAMES[:30]] == PARTS[:30]
        assert dict(again.list()) == {NAMES[n]: len(PARTS[n]) for n in range(30)}


def test_many_small_packs_are_merged_while_others_read_and_write(objects: LocalObjects) -> None:
    for n in range(packing.SMALL_PACKS_MAX):
        one = LocalObjects(objects.folder)
        filled(one, n)
        one.close()
    reader, stale, writer = (LocalObjects(objects.folder) for _ in range(3))
    assert reader.absent(NAMES[:10]) == stale.absent(NAMES[:10]) == []
    filled(writer, 40)
    with reader.open(NAMES[3]) as source:
        assert objects.tidy() == packing.SMALL_PACKS_MAX
        assert source.read() == PARTS[3]
    assert len(packs(objects)) == 2, "the merged one, and that of the living writer"
    filled(writer, 41)
    for again in (reader, objects, LocalObjects(objects.folder)):
        assert again.absent(NAMES[:32] + NAMES[40:42]) == []
    assert [read(stale, name) for name in NAMES[:32]] == PARTS[:32], "it knew only packs that are gone"
    assert objects.tidy() == 0


def test_packs_of_as_many_objects_as_one_takes_are_not_merged_however_small_they_are(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_OBJECTS_MAX", 2)
    monkeypatch.setattr(packing, "SMALL_PACKS_MAX", 8)
    filled(objects, *range(40))
    objects.close()
    before = packs(objects)
    assert len(before) == 20
    assert LocalObjects(objects.folder).tidy() == 0
    assert packs(objects) == before


def test_removing_most_of_a_pack_gives_its_bytes_back(objects: LocalObjects) -> None:
    filled(objects, *range(40))
    objects.close()
    other = LocalObjects(objects.folder)
    assert other.absent(NAMES[:40]) == []
    (before,) = packs(objects)
    size = before.stat().st_size
    assert objects.remove(NAMES[:2]) == 2
    assert packs(objects) == [before], "two small ones are not worth writing it anew"
    assert other.absent(NAMES[:40]) == NAMES[:2]
    assert objects.remove(NAMES[:35]) == 33
    (after,) = packs(objects)
    assert after.stat().st_size < size / 2
    assert other.absent(NAMES[:40]) == NAMES[:35]
    assert [read(other, name) for name in NAMES[35:40]] == PARTS[35:40]
    assert not list((objects.folder / "packs").glob("*.gone"))


def test_what_was_removed_can_be_put_again(objects: LocalObjects) -> None:
    filled(objects, 1, 2)
    other = LocalObjects(objects.folder)
    assert other.remove([NAMES[1]]) == 1
    assert objects.absent([NAMES[1]]) == [NAMES[1]]
    for again in (objects, other):
        again.put(NAMES[1], PARTS[1])
        assert again.absent([NAMES[1]]) == []
    assert read(LocalObjects(objects.folder), NAMES[1]) == PARTS[1]
    assert objects.remove([NAMES[1]]) == 1
    assert LocalObjects(objects.folder).absent([NAMES[1]]) == [NAMES[1]], "no copy of it is left"


@pytest.mark.parametrize("torn", [b"", b"\1", b"\1\0\1\0\0", bytes(300)])
def test_the_pack_of_a_killed_process_is_read_and_merged(objects: LocalObjects, torn: bytes) -> None:
    script = (
        "import os, sys\nfrom pathlib import Path\nfrom cmf.model.digest import file_digest\n"
        "from cmf.objects.local import LocalObjects\nobjects = LocalObjects(Path(sys.argv[1]))\n"
        "for n in range(8):\n    data = bytes([n]) * (n * 17 + 1)\n"
        "    objects.put(file_digest(data), data, durable=False)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(objects.folder)], check=False, timeout=60)
    assert done.returncode == -9
    (pack,) = packs(objects)
    pack.chmod(0o644)
    with pack.open("ab") as file:
        file.write(torn)
    assert objects.absent(NAMES[:8]) == []
    merged = objects.tidy()
    assert merged == (len(torn) < 300), "what is no torn frame is not thrown away"
    for again in (objects, LocalObjects(objects.folder)):
        assert [read(again, name) for name in NAMES[:8]] == PARTS[:8]


def test_the_pack_of_a_living_process_is_left_alone(objects: LocalObjects) -> None:
    filled(objects, 1)
    before = packs(objects)
    assert LocalObjects(objects.folder).tidy() == 0
    assert packs(objects) == before


def test_a_forked_child_writes_a_pack_of_its_own(objects: LocalObjects) -> None:
    objects.put(NAMES[1], PARTS[1], durable=False)
    child = os.fork()
    if not child:
        try:
            objects.forked()
            filled(objects, 1, 2)
            objects.close()
            os._exit(0)
        finally:
            os._exit(1)
    filled(objects, 3)
    assert os.waitpid(child, 0)[1] == 0
    assert len(packs(objects)) == 2
    for again in (objects, LocalObjects(objects.folder)):
        assert [read(again, NAMES[n]) for n in (1, 2, 3)] == [PARTS[n] for n in (1, 2, 3)]


@pytest.mark.parametrize("forgets", [False, True])
def test_after_a_failed_sync_the_bytes_are_written_once_more(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch, forgets: bool
) -> None:
    filled(objects, 1)
    (first,) = packs(objects)
    kept = first.stat().st_size
    for n in (2, 3):
        objects.put(NAMES[n], PARTS[n], durable=False)
    really = os.fdatasync

    def fail_once(handle: int) -> None:
        monkeypatch.setattr(os, "fdatasync", really)
        if forgets:  # the kernel dropped the page that it could not write
            os.pwrite(handle, bytes(len(PARTS[3])), first.stat().st_size - len(PARTS[3]))
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fail_once)
    if forgets:
        with pytest.raises(UnreachableError, match="lost by the disk: 1"):
            objects.flush()
    else:
        objects.flush()
    assert first.stat().st_size == kept, "what is not sure to be on the disk is nowhere else"
    for again in (objects, LocalObjects(objects.folder)):
        assert again.absent(NAMES[1:4]) == ([NAMES[3]] if forgets else [])
    objects.put(NAMES[3], PARTS[3])
    objects.close()
    assert [read(LocalObjects(objects.folder), NAMES[n]) for n in (1, 2, 3)] == PARTS[1:4]


@pytest.mark.parametrize("at", range(0, 420, 7))
def test_a_damaged_index_is_not_believed(objects: LocalObjects, at: int) -> None:
    filled(objects, *range(10))
    objects.close()
    (pack,) = packs(objects)
    whole = bytearray(pack.read_bytes())
    whole[-1 - at] ^= 0x10
    pack.chmod(0o644)
    pack.write_bytes(whole)
    assert [read(LocalObjects(objects.folder), name) for name in NAMES[:10]] == PARTS[:10]


def test_a_foreign_file_holds_nothing_and_stays(objects: LocalObjects) -> None:
    filled(objects, 1)
    foreign = objects.folder / "packs" / f"1-{'0' * 16}.pack"
    foreign.write_bytes(b"something else entirely" * 100)
    other = LocalObjects(objects.folder)
    assert list(other.list()) == [(NAMES[1], len(PARTS[1]))]
    other.tidy()
    assert foreign.exists()


def test_a_newer_pack_is_refused_and_not_touched(objects: LocalObjects) -> None:
    filled(objects, 1)
    newer = objects.folder / "packs" / f"1-{'0' * 16}.pack"
    newer.write_bytes(b"cmf-pak\x02 of a later version")
    for attempt in (lambda o: o.absent(NAMES), lambda o: o.tidy(), lambda o: list(o.list())):
        with pytest.raises(UnsupportedError, match="format version 2"):
            attempt(LocalObjects(objects.folder))
    assert newer.read_bytes() == b"cmf-pak\x02 of a later version"


def test_many_packs_need_few_open_files(objects: LocalObjects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "HANDLES_MAX", 5)
    monkeypatch.setattr(packing, "PACK_OBJECTS_MAX", 1)
    filled(objects, *range(40))
    other = LocalObjects(objects.folder)
    before = len(os.listdir("/proc/self/fd"))
    assert [read(other, name) for name in NAMES[:40]] == PARTS[:40]
    assert len(os.listdir("/proc/self/fd")) <= before + 7


def test_many_objects_are_read_in_the_order_asked_for_wherever_they_lie(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_OBJECTS_MAX", 7)
    monkeypatch.setattr(packing, "GAP_BYTES", 300)
    monkeypatch.setattr(packing, "READ_BYTES", 2_000)
    filled(objects, *range(0, 60, 2))
    large = bytes(300_000)
    objects.put(file_digest(large), large)
    objects.put(EMPTY, b"")
    objects.remove([NAMES[10], NAMES[4]])
    asked = [*NAMES[::-1], *NAMES, NAMES[20], NAMES[20], file_digest(large), EMPTY, *NAMES[:9]]
    here = {NAMES[n]: PARTS[n] for n in range(0, 60, 2) if n not in (4, 10)} | {EMPTY: b""}
    for again in (objects, LocalObjects(objects.folder)):
        assert list(again.read_all(asked)) == [here.get(name) for name in asked]


def test_what_is_merged_while_many_objects_are_read_is_found_where_it_is_then(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "READ_BYTES", 100)
    monkeypatch.setattr(packing, "HANDLES_MAX", 1)
    for n in range(packing.SMALL_PACKS_MAX):
        filled(objects, n)
        objects.close()
    reading = objects.read_all(NAMES[: packing.SMALL_PACKS_MAX])
    found = [next(reading) for _ in range(3)]
    assert LocalObjects(objects.folder).tidy() == packing.SMALL_PACKS_MAX
    assert [*found, *reading] == PARTS[: packing.SMALL_PACKS_MAX]
