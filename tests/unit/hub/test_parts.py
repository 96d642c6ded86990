"""What stays at a hub of uploads that were cut: whose it is, how much of it, and for how long."""

import errno
import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmf.errors import ConflictError, CorruptError, UnreachableError
from cmf.hub import parts as module
from cmf.hub.objects import FolderObjects
from cmf.hub.parts import Parts
from cmf.model import wire
from cmf.model.digest import file_digest
from cmf.objects import read
from cmf.objects.bucket import KEPT_SECONDS

SCOPE = "lab/a"
SIZE = 1_000
DATA = bytes(range(250)) * 8
DIGEST = file_digest(DATA)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESUMED_BYTES_MIN", 100)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


@pytest.fixture
def parts(folder: Path) -> Parts:
    return Parts(folder)


def cut(parts: Parts, sender: int, name: str, size: int = SIZE, scope: str = SCOPE) -> str:
    """Send the beginning of an object, and be cut; return its digest."""
    digest = file_digest(name.encode())
    with parts.begin(sender, scope, digest) as incoming:
        incoming.write(DATA[:size])
    return digest


def age(folder: Path, seconds: float) -> None:
    """Let all that lies there be older."""
    for path in folder.iterdir():
        at = path.stat().st_mtime - seconds
        os.utime(path, (at, at))


def test_what_came_is_told_and_gone_on_with(parts: Parts, tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "objects")
    with parts.begin(1, SCOPE, DIGEST) as incoming:
        incoming.write(DATA[:500])
        assert parts.held(1, SCOPE, DIGEST) == 500, "one request at a time"
    told = wire.Part(size=500, sha256=hashlib.sha256(DATA[:500]).hexdigest())
    for each in (parts, Parts(tmp_path / "tmp")):  # by who wrote it, and by another worker, who reads it
        assert each.held(1, SCOPE, DIGEST) == told
        assert each.held(1, SCOPE, DIGEST) == told, "asked twice"
    with parts.begin(1, SCOPE, DIGEST, 500) as incoming:
        incoming.write(DATA[500:])
        assert incoming.settle(objects) == len(DATA)
    assert read(objects, DIGEST) == DATA
    assert parts.held(1, SCOPE, DIGEST) == wire.Part()


@pytest.mark.parametrize("start", [499, 501, len(DATA), 1 << 62])
def test_only_where_it_ends_it_is_gone_on_with(parts: Parts, start: int) -> None:
    with parts.begin(1, SCOPE, DIGEST) as incoming:
        incoming.write(DATA[:500])
    with pytest.raises(ConflictError):
        parts.begin(1, SCOPE, DIGEST, start)
    with parts.begin(1, SCOPE, DIGEST, 500), pytest.raises(ConflictError):
        parts.begin(1, SCOPE, DIGEST, 500)


def test_a_part_is_of_one_sender_scope_and_object(parts: Parts) -> None:
    digest = cut(parts, 1, "a")
    assert isinstance(held := parts.held(1, SCOPE, digest), wire.Part)
    assert held.size == SIZE
    for sender, scope, other in ((2, SCOPE, digest), (1, "lab/b", digest), (1, SCOPE, DIGEST), (11, SCOPE, digest)):
        assert parts.held(sender, scope, other) == wire.Part()
        with pytest.raises(ConflictError):
            parts.begin(sender, scope, other, SIZE)


def test_a_part_that_was_changed_is_read_anew(parts: Parts, folder: Path) -> None:
    digest = cut(parts, 1, "a")
    (path,) = folder.iterdir()
    path.write_bytes(b"!" * SIZE)
    assert parts.held(1, SCOPE, digest) == wire.Part(size=SIZE, sha256=hashlib.sha256(b"!" * SIZE).hexdigest())


def test_what_was_written_by_one_worker_is_known_to_another_as_it_is_then(parts: Parts, folder: Path) -> None:
    digest = cut(parts, 1, "a", 300)
    with Parts(folder).begin(1, SCOPE, digest, 300) as incoming:
        incoming.write(DATA[300:700])
    assert parts.held(1, SCOPE, digest) == wire.Part(size=700, sha256=hashlib.sha256(DATA[:700]).hexdigest())


def test_little_leaves_no_part_and_is_known_to_be_on_its_way(parts: Parts, folder: Path) -> None:
    with parts.begin(1, SCOPE, DIGEST) as incoming:
        incoming.write(DATA[:99])
        assert parts.held(1, SCOPE, DIGEST) == 0
    assert parts.held(1, SCOPE, DIGEST) == wire.Part()
    assert not folder.exists()


def test_who_sends_what_another_sends_at_that_moment_has_a_file_of_its_own(
    parts: Parts, folder: Path, tmp_path: Path
) -> None:
    objects = FolderObjects(tmp_path / "objects")
    with parts.begin(1, SCOPE, DIGEST) as first, parts.begin(1, SCOPE, DIGEST) as second:
        for start in range(0, len(DATA), 500):
            first.write(DATA[start : start + 500])
            second.write(DATA[start : start + 500])
        assert first.settle(objects) == second.settle(objects) == len(DATA)
    assert read(objects, DIGEST) == DATA
    assert [*folder.iterdir()] == []


def test_other_bytes_leave_nothing(parts: Parts, folder: Path, tmp_path: Path) -> None:
    objects = FolderObjects(tmp_path / "objects")
    for start in (0, 500):
        with parts.begin(1, SCOPE, DIGEST) as incoming:
            incoming.write(DATA[:500])
        with parts.begin(1, SCOPE, DIGEST, start) as incoming:
            incoming.write(b"other" * 100)
            with pytest.raises(CorruptError):
                incoming.settle(objects)
        assert [*folder.iterdir()] == []
    assert objects.absent([DIGEST]) == [DIGEST]


def test_a_disk_that_is_full_keeps_nothing(parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with parts.begin(1, SCOPE, DIGEST) as incoming:
        incoming.write(DATA[:500])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(UnreachableError, match="No space"):
                incoming.write(DATA[500:])
    assert [*folder.iterdir()] == []


def test_the_oldest_of_too_many_go_and_those_of_others_stay(
    parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PARTS_MAX", 3)
    found = [cut(parts, 2, "of another")]
    for number in range(5):
        age(folder, 10)
        found.append(cut(parts, 1, f"{number}"))
    sizes = [parts.held(1 + (digest is found[0]), SCOPE, digest) for digest in found]
    assert [isinstance(each, wire.Part) and each.size for each in sizes] == [SIZE, 0, 0, SIZE, SIZE, SIZE]


def test_parts_take_no_more_than_what_is_free_and_who_has_most_loses_them_first(
    parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    little = cut(parts, 2, "of another")
    found = []
    for number in range(4):
        age(folder, 10)
        found.append(cut(parts, 1, f"{number}"))
    monkeypatch.setattr(Parts, "_free", lambda _: 3 * SIZE)
    found.append(cut(parts, 1, "last"))
    sizes = [parts.held(1, SCOPE, digest) for digest in found]
    assert [isinstance(each, wire.Part) and each.size for each in sizes] == [0, 0, 0, SIZE, SIZE]
    assert isinstance(held := parts.held(2, SCOPE, little), wire.Part)
    assert held.size == SIZE
    monkeypatch.setattr(Parts, "_free", lambda _: 0)
    cut(parts, 1, "one more")
    assert [*folder.iterdir()] == []


def test_what_is_being_written_is_not_deleted(parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Parts, "_free", lambda _: 0)
    with parts.begin(1, SCOPE, DIGEST) as incoming:
        incoming.write(DATA[:500])
        cut(parts, 1, "another")
        assert len([*folder.iterdir()]) == 1


@pytest.mark.parametrize("name", [f"7-{'a' * 64}.part", f"7-{'a' * 32}"])
def test_what_nobody_goes_on_with_is_deleted_after_a_while(parts: Parts, folder: Path, name: str) -> None:
    folder.mkdir()
    others = "123-0123456789abcdef"  # the object store's own
    for each in (name, others):
        (folder / each).write_bytes(b"as a hub that was killed leaves it")
    age(folder, KEPT_SECONDS - 60)
    Parts(folder).begin(1, SCOPE, DIGEST).close()
    assert {path.name for path in folder.iterdir()} == {name, others}
    age(folder, 120)
    Parts(folder).begin(1, SCOPE, DIGEST).close()
    assert {path.name for path in folder.iterdir()} == {others}


def test_a_look_for_old_ones_is_made_once_in_an_hour(
    parts: Parts, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = cut(parts, 1, "a")
    age(folder, KEPT_SECONDS + 60)
    parts.begin(2, SCOPE, DIGEST).close()
    assert len([*folder.iterdir()]) == 1
    later = time.time() + module.SWEPT_SECONDS + 1
    monkeypatch.setattr(time, "time", lambda: later)
    parts.begin(2, SCOPE, DIGEST).close()
    assert [*folder.iterdir()] == []
    assert parts.held(1, SCOPE, digest) == wire.Part()


def test_a_request_that_is_given_up_while_it_still_writes_is_waited_for(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, begun, goes_on = os.write, threading.Event(), threading.Event()

    def slow(file: int, data: bytes) -> int:
        begun.set()
        goes_on.wait(60)
        return write(file, data)

    incoming = parts.begin(1, SCOPE, DIGEST)
    incoming.write(DATA[:500])
    with monkeypatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(os, "write", slow)
        writing = pool.submit(incoming.write, DATA[500:900])
        assert begun.wait(60)
        closing = pool.submit(incoming.close)
        assert not closing.done()
        goes_on.set()
        writing.result()
        closing.result()
    incoming.write(DATA[900:])  # too late
    assert parts.held(1, SCOPE, DIGEST) == wire.Part(size=900, sha256=hashlib.sha256(DATA[:900]).hexdigest())
