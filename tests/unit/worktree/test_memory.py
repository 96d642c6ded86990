"""The stat memory: what has not changed is not read again, what has changed always is. It may vanish or be damaged."""

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmf.model.digest import file_digest
from cmf.objects import read
from cmf.objects.local import LocalObjects
from cmf.worktree import machine, memory
from cmf.worktree.files import WORTH_FILES, Files

LONG_AGO = 1_600_000_000_000_000_123


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "work"
    (root / ".cmf").mkdir(parents=True)
    return root


@pytest.fixture
def data(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder that is worth remembering, of files that have settled."""
    monkeypatch.setattr(memory, "TICK_NS", -(10**18))  # as if they had been written long before they are read
    (root / "data").mkdir()
    for n in range(WORTH_FILES):
        (root / "data" / f"{n}").write_bytes(bytes([n]) * 10)
    return root / "data"


def opened(root: Path) -> Files:
    return Files(LocalObjects(root / ".cmf" / "objects"), root)


def keep(root: Path, path: Path) -> str:
    files = opened(root)
    try:
        return files.keep(path).digest
    finally:
        files.close()


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Note which of the user's files are opened."""
    found: list[str] = []
    really = os.open

    def noting(path: str, *rest: int, **more: int) -> int:
        if "/data/" in str(path) and "/.cmf/" not in str(path):
            found.append(Path(path).name)
        return really(path, *rest, **more)

    monkeypatch.setattr(os, "open", noting)
    return found


def test_what_has_not_changed_is_not_opened_again(root: Path, data: Path, opens: list[str]) -> None:
    digest = keep(root, data)
    assert len(opens) == WORTH_FILES
    opens.clear()
    assert keep(root, data) == digest
    assert opens == []


def test_a_large_file_is_remembered_by_itself(root: Path, data: Path, opens: list[str]) -> None:
    (data / "large").write_bytes(bytes(3 << 20))
    assert keep(root, data / "large") == keep(root, data / "large") == file_digest(bytes(3 << 20))
    assert opens == ["large"]


@pytest.mark.parametrize("change", ["same size", "longer", "replaced", "old time", "touched"])
def test_what_may_have_changed_is_read_again(root: Path, data: Path, opens: list[str], change: str) -> None:
    keep(root, data)
    opens.clear()
    path = data / "7"
    if change == "replaced":
        (root / "other").write_bytes(b"new bytes!")
        shutil.copystat(path, root / "other")
        (root / "other").rename(path)
    elif change == "touched":
        os.utime(path, ns=(LONG_AGO, LONG_AGO))
    else:
        before = path.stat()
        path.write_bytes(b"new bytes!" + b"more" * (change == "longer"))
        if change == "old time":  # as tools do that hide a change: only ctime tells
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    opens.clear()
    files = opened(root)
    kept = files.keep(data)
    assert opens == ["7"]
    assert read(files.objects, file_digest(path.read_bytes())) == path.read_bytes()
    assert kept.digest == Files(LocalObjects(root / "fresh" / "objects"), root).keep(data).digest
    files.close()


def test_a_file_that_was_written_just_before_it_was_read_is_not_trusted(
    root: Path, data: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "TICK_NS", 10**18)
    keep(root, data)
    opens.clear()
    keep(root, data)
    assert len(opens) == WORTH_FILES


@pytest.mark.parametrize(
    ("ago_ns", "settled"),
    [(-1, False), (0, False), (memory.TICK_NS, False), (memory.TICK_NS + 1, True), (memory.COARSE_NS + 1, True)],
)
@pytest.mark.parametrize("newer", ["mtime", "ctime"])
def test_a_file_is_settled_when_its_clock_has_ticked_since(ago_ns: int, settled: bool, newer: str) -> None:
    now = 1_700_000_000_500_000_001
    times = {"st_mtime_ns": LONG_AGO, "st_ctime_ns": LONG_AGO, f"st_{newer}_ns": now - ago_ns}

    class Found:
        st_mtime_ns = times["st_mtime_ns"]
        st_ctime_ns = times["st_ctime_ns"]

    assert memory.is_settled(Found, now) is settled  # type: ignore[arg-type]


def test_a_clock_of_whole_seconds_takes_two_of_them() -> None:
    class Found:
        st_mtime_ns = st_ctime_ns = 1_700_000_000_000_000_000

    for later, settled in ((1_999_999_999, False), (2_000_000_001, True)):
        assert memory.is_settled(Found, Found.st_mtime_ns + later) is settled  # type: ignore[arg-type]


def test_what_the_objects_lost_is_read_again(root: Path, data: Path) -> None:
    keep(root, data)
    shutil.rmtree(root / ".cmf" / "objects")
    keep(root, data)
    objects = LocalObjects(root / ".cmf" / "objects")
    assert objects.absent([file_digest(path.read_bytes()) for path in data.iterdir()]) == []


def test_nothing_is_remembered_before_the_bytes_are_durable(root: Path, data: Path) -> None:
    files = opened(root)
    files.keep(data)
    assert files._memory.recall(str(data)) == {}
    files.flush()
    assert len(files._memory.recall(str(data))) == WORTH_FILES
    files.close()


def test_files_that_are_gone_are_forgotten(root: Path, data: Path) -> None:
    (data / "more").touch()
    keep(root, data)
    (data / "7").unlink()
    keep(root, data)
    files = opened(root)
    assert files._memory.recall(str(data)).keys() == {path.name for path in data.iterdir()}
    files.close()


@pytest.mark.parametrize("damage", ["removed", "text", "cut", "newer"])
def test_it_may_be_removed_or_damaged_at_any_time(root: Path, data: Path, opens: list[str], damage: str) -> None:
    digest = keep(root, data)
    path = root / ".cmf" / "stat.db"
    if damage == "removed":
        path.unlink()
    elif damage == "text":
        path.write_text("not a database, but long enough to be looked at " * 100)
    elif damage == "cut":
        os.truncate(path, path.stat().st_size // 2)
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA user_version = 99")
        connection.close()
    for _ in range(3):
        assert keep(root, data) == digest
    opens.clear()
    assert keep(root, data) == digest
    assert opens == [], "it was begun anew"


def test_no_flipped_byte_makes_it_lie(root: Path, data: Path) -> None:
    digest = keep(root, data)
    path = root / ".cmf" / "stat.db"
    whole = path.read_bytes()
    objects = LocalObjects(root / ".cmf" / "objects")
    for at in range(0, len(whole), 61):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        files = Files(objects, root)
        assert files.keep(data).digest == digest, at
        files._memory.close()


def test_no_cut_of_its_writes_makes_it_lie(root: Path, data: Path) -> None:
    """A power cut may keep any of its pages and not others, since nothing of it is synced."""
    keep(root, data)
    path = root / ".cmf" / "stat.db"
    before = path.read_bytes()
    for n in range(0, WORTH_FILES, 2):
        (data / f"{n}").write_bytes(b"other bytes")
    digest = keep(root, data)
    after = path.read_bytes()
    pages = range(0, max(len(before), len(after)), 4096)
    objects = LocalObjects(root / ".cmf" / "objects")
    for chosen in range(1 << min(len(pages), 6)):
        mixed = b"".join(
            (after if chosen >> number % 6 & 1 else before)[at : at + 4096] for number, at in enumerate(pages)
        )
        path.write_bytes(mixed)
        files = Files(objects, root)
        assert files.keep(data).digest == digest, chosen
        files._memory.close()


@pytest.mark.parametrize("boot", ["another", "unknown before"])
def test_after_another_start_of_the_machine_what_may_not_have_reached_the_disk_is_read_again(
    root: Path, data: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch, boot: str
) -> None:
    digest = keep(root, data)
    if boot == "another":
        monkeypatch.setattr(machine, "boot", lambda: "another")
    else:
        with contextlib.closing(sqlite3.connect(root / ".cmf" / "stat.db", isolation_level=None)) as known:
            known.execute("DELETE FROM file WHERE name = CAST('boot' AS BLOB)")
    opens.clear()
    assert keep(root, data) == digest
    assert len(opens) == WORTH_FILES
    opens.clear()
    assert keep(root, data) == digest
    assert opens == [], "it is remembered for this boot"


def test_after_another_start_of_the_machine_what_was_written_long_before_is_believed(
    root: Path, data: Path, opens: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = keep(root, data)
    later = memory.now() + memory.WRITTEN_NS
    monkeypatch.setattr(memory, "now", lambda: later)
    (data / "3").write_bytes(b"ten others")
    os.utime(data / "3", ns=(later, later))
    changed = keep(root, data)
    assert changed != digest
    monkeypatch.setattr(machine, "boot", lambda: "another")
    opens.clear()
    assert keep(root, data) == changed
    assert opens == ["3"]


TORN = """
import mmap, os, sys
from pathlib import Path
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
    mapped[0] = ord("x")
    print("written", flush=True)
    sys.stdin.readline()
    mapped[0] = ord("y")  # the page is dirty already: no time of the file tells of this
    print("torn", flush=True)
    sys.stdin.readline()
"""


def test_a_file_that_a_power_cut_tore_without_a_trace_is_not_taken_for_what_it_was(
    root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", TORN, str(data / "3")], **told) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        writer.stdout.readline()
        whole = keep(root, data)
        writer.stdin.write("\n")
        writer.stdin.flush()
        writer.stdout.readline()
        monkeypatch.setattr(machine, "boot", lambda: "another")
        files = opened(root)
        assert files.drift("data", whole) == "changed"
        files.close()
        writer.stdin.close()


def test_whoever_finds_it_busy_does_without(root: Path, data: Path, opens: list[str]) -> None:
    digest = keep(root, data)
    other = sqlite3.connect(root / ".cmf" / "stat.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    opens.clear()
    assert keep(root, data) == digest
    assert len(opens) == WORTH_FILES
    other.execute("ROLLBACK")
    other.close()
    opens.clear()
    assert keep(root, data) == digest
    assert opens == []


KILLED = """
import os, sys
from pathlib import Path
from cmf.objects.local import LocalObjects
from cmf.worktree import memory
from cmf.worktree.files import Files

memory.TICK_NS = -(10**18)
root, left = Path(sys.argv[1]), int(sys.argv[2])
files = Files(LocalObjects(root / ".cmf" / "objects"), root)
files.keep(root / "data")
files.objects.flush()
seen = files._seen
connection = files._memory._opened()
def count(*_):
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
connection.set_trace_callback(count)
files._memory.remember(seen, [])
"""


def test_a_process_that_is_killed_while_it_remembers_does_no_harm(root: Path, data: Path) -> None:
    keep(root, data)
    for size, left in enumerate((0, 1, 5, 20, WORTH_FILES + 1), start=11):
        for n in range(WORTH_FILES):
            (data / f"{n}").write_bytes(bytes([n]) * size)
        done = subprocess.run([sys.executable, "-c", KILLED, str(root), str(left)], check=False, timeout=60)
        assert done.returncode == -9
        assert keep(root, data) == Files(LocalObjects(root / "fresh" / "objects"), root).keep(data).digest


def test_two_files_are_not_worth_a_database(root: Path, opens: list[str]) -> None:
    (root / "data").mkdir()
    for name in ("a", "b"):
        (root / "data" / name).write_text(name)
    keep(root, root / "data")
    assert not (root / ".cmf" / "stat.db").exists()


def test_many_files_are_remembered_on_the_way_so_that_memory_does_not_grow(
    root: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmf.worktree.files.AT_ONCE", WORTH_FILES)
    files = opened(root)
    files.keep(data)  # no flush
    with contextlib.closing(sqlite3.connect(root / ".cmf" / "stat.db")) as known:
        assert known.execute("SELECT count(*) FROM file").fetchone() == (WORTH_FILES + 1,)  # and the boot
    files.close()


@pytest.mark.parametrize("place", ["data", "data/3"])
def test_what_the_memory_has_wrong_is_read_when_its_object_is_gone(
    root: Path, data: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "version", lambda found: b"%d" % found.st_ino)  # a change does not show
    monkeypatch.setattr("cmf.worktree.files.WORTH_BYTES", 1)
    first = keep(root, root / place)
    (data / "3").write_bytes(b"ten others")
    assert keep(root, root / place) == first
    shutil.rmtree(root / ".cmf" / "objects")
    again = keep(root, root / place)
    assert again != first
    shutil.rmtree(root / ".cmf")
    (root / ".cmf").mkdir()
    assert keep(root, root / place) == again  # what a store finds that remembers nothing
