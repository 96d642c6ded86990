import io
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest

from cmf.errors import CmfError, CorruptError, NotFoundError, UnreachableError, UsageError
from cmf.model.digest import EMPTY, file_digest
from cmf.objects import read
from cmf.objects.local import LocalObjects
from cmf.objects.source import Taken, measure
from tests.objects import flip, place_of

T = TypeVar("T")

DATA = b"some bytes\n"
DIGEST = file_digest(DATA)
LARGE = bytes(range(256)) * 8192
LARGE_DIGEST = file_digest(LARGE)


@pytest.fixture
def objects(tmp_path: Path) -> LocalObjects:
    return LocalObjects(tmp_path / "objects")


def path_of(objects: LocalObjects, digest: str) -> Path:
    return objects.folder / digest[7:9] / digest[9:]


def loose(objects: LocalObjects, data: bytes) -> Path:
    path = path_of(objects, file_digest(data))
    path.parent.mkdir(parents=True)
    path.write_bytes(data)
    path.chmod(0o444)
    return path


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def run_child(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.run(command, check=False, text=True, capture_output=True, timeout=60)


@pytest.mark.parametrize("durable", [True, False])
def test_a_large_object_is_a_read_only_file_named_by_its_hash(objects: LocalObjects, *, durable: bool) -> None:
    objects.put(LARGE_DIGEST, LARGE, durable=durable)
    assert files_below(objects.folder) == [path_of(objects, LARGE_DIGEST)]
    assert path_of(objects, LARGE_DIGEST).stat().st_mode & 0o777 == 0o444
    assert objects.size(LARGE_DIGEST) == len(LARGE)


@pytest.mark.parametrize("durable", [True, False])
def test_small_objects_share_one_read_only_file(objects: LocalObjects, *, durable: bool) -> None:
    made = [bytes([n]) * n for n in range(100)]
    for data in made:
        objects.put(file_digest(data), data, durable=durable)
    (pack,) = files_below(objects.folder)
    assert pack.parent == objects.folder / "packs"
    assert pack.stat().st_mode & 0o777 == 0o444
    assert [objects.size(file_digest(data)) for data in made] == list(range(100))


def test_a_small_object_in_a_file_of_its_own_as_older_stores_have_it_counts(objects: LocalObjects) -> None:
    loose(objects, DATA)
    assert objects.absent([DIGEST]) == []
    assert read(objects, DIGEST) == DATA
    assert objects.put(DIGEST, DATA) == len(DATA)
    assert files_below(objects.folder) == [path_of(objects, DIGEST)]
    assert objects.remove([DIGEST]) == 1
    assert objects.absent([DIGEST]) == [DIGEST]


def test_looking_makes_no_folder(objects: LocalObjects) -> None:
    assert objects.absent([DIGEST]) == [DIGEST]
    assert list(objects.list()) == []
    assert objects.remove([DIGEST]) == 0
    assert objects.sweep(before=1e12) == 0
    objects.flush()
    assert not objects.folder.exists()


def test_foreign_files_are_no_objects(objects: LocalObjects) -> None:
    objects.put(DIGEST, DATA)
    (objects.folder / "README").write_text("not ours")
    (objects.folder / "ab").mkdir(exist_ok=True)
    (objects.folder / "ab" / "short").write_text("not ours")
    (objects.folder / "zz").mkdir()
    (objects.folder / "zz" / ("0" * 62)).write_text("not ours")
    assert list(objects.list()) == [(DIGEST, len(DATA))]


def test_what_a_power_cut_emptied_is_absent_and_mended_by_the_next_put(objects: LocalObjects) -> None:
    for durable in (True, False):
        objects.put(LARGE_DIGEST, LARGE)
        path = path_of(objects, LARGE_DIGEST)
        path.chmod(0o644)
        path.write_bytes(b"")
        assert objects.absent([LARGE_DIGEST]) == [LARGE_DIGEST]
        assert list(objects.list()) == []
        with pytest.raises(NotFoundError):
            objects.open(LARGE_DIGEST)
        objects.put(LARGE_DIGEST, LARGE, durable=durable)
        assert read(objects, LARGE_DIGEST) == LARGE


def test_the_empty_object_is_an_object(objects: LocalObjects, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    assert objects.adopt(tmp_path / "empty")[:2] == (EMPTY, 0)
    assert list(objects.list()) == [(EMPTY, 0)]


@pytest.mark.parametrize("at", [0, 5, len(DATA) - 1])
@pytest.mark.parametrize("kept", ["packed", "sealed", "loose", "large"])
def test_a_flipped_bit_is_found_by_name_and_mended_by_putting_it_again(
    objects: LocalObjects, at: int, kept: str
) -> None:
    data = LARGE if kept == "large" else DATA
    digest = file_digest(data)
    if kept == "loose":
        loose(objects, data)
    else:
        objects.put(digest, data)
    if kept == "sealed":
        objects.close()
    flip(objects.folder, digest, at)
    with pytest.raises(CorruptError, match=digest):
        read(objects, digest)
    with pytest.raises(CorruptError, match=digest):
        objects.check(digest)
    objects.put(digest, io.BytesIO(data))
    objects.check(digest)
    objects.close()
    for again in (objects, LocalObjects(objects.folder)):
        again.check(digest)
        assert list(again.list()) == [(digest, len(data))]
        assert again.damaged() == []


def test_what_was_damaged_in_a_pack_without_an_index_counts_as_absent_and_is_named(objects: LocalObjects) -> None:
    objects.put(DIGEST, DATA)
    objects.put(EMPTY, b"")
    flip(objects.folder, DIGEST)
    other = LocalObjects(objects.folder)
    assert other.absent([DIGEST, EMPTY]) == [DIGEST]
    assert other.damaged() == [DIGEST]
    assert other.remove([DIGEST]) == 1
    assert other.damaged() == []
    assert other.absent([EMPTY]) == []


@pytest.mark.parametrize("data", [b"x" * 1000, LARGE], ids=["small", "large"])
def test_a_file_is_adopted_in_one_pass(objects: LocalObjects, tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    for durable in (False, True):
        assert objects.adopt(tmp_path / "file", durable=durable)[:2] == (file_digest(data), len(data))
    assert measure(tmp_path / "file")[:2] == (file_digest(data), len(data))
    assert read(objects, file_digest(data)) == data
    assert len(files_below(objects.folder)) == 1


@pytest.mark.parametrize("size", [1000, len(LARGE)])
@pytest.mark.parametrize("call", ["adopt", "measure"])
def test_a_file_that_changes_once_is_read_again_and_one_that_goes_on_is_refused(
    objects: LocalObjects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, call: str
) -> None:
    path = tmp_path / "growing"
    changes = 0

    def and_grow(read: Callable[..., T]) -> Callable[..., T]:
        def read_and_grow(*arguments: object) -> T:
            data = read(*arguments)
            grow()
            return data

        return read_and_grow

    def grow() -> None:
        nonlocal changes
        if changes:
            changes -= 1
            with path.open("ab") as file:
                file.write(b"more")

    attempt: Callable[[Path], Taken] = objects.adopt if call == "adopt" else measure
    for name in ("read", "preadv"):
        monkeypatch.setattr(os, name, and_grow(getattr(os, name)))
    path.write_bytes(LARGE[:size])
    changes = 1
    digest, found, _ = attempt(path)
    assert (digest, found) == (file_digest(path.read_bytes()), path.stat().st_size)
    before = files_below(objects.folder)
    changes = 1_000_000
    with pytest.raises(CorruptError, match="keeps changing") as caught:
        attempt(path)
    assert caught.value.kind == "changing"
    assert files_below(objects.folder) == before


def test_what_is_no_file_is_not_adopted(objects: LocalObjects, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "a\0b"):
        with pytest.raises(UsageError):
            objects.adopt(path)
    for path in (tmp_path / "missing", tmp_path / "pipe" / "below"):
        with pytest.raises(NotFoundError):
            objects.adopt(path)
    assert not objects.folder.exists()


def test_deferred_objects_are_synced_by_flush_and_only_then(
    objects: LocalObjects, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects.put(EMPTY, b"")
    synced: list[str] = []
    really_sync = os.fsync

    def sync(handle: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{handle}"))
        really_sync(handle)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "fdatasync", sync)
    objects.put(LARGE_DIGEST, LARGE, durable=False)
    objects.put(DIGEST, DATA, durable=False)
    assert synced == []
    objects.flush()
    path, pack = path_of(objects, LARGE_DIGEST), place_of(objects.folder, DIGEST)[0]
    assert sorted(synced) == sorted(map(str, (path, path.parent, objects.folder, pack)))
    synced.clear()
    objects.flush()
    assert synced == []
    for held in (LARGE, DATA):
        LocalObjects(objects.folder).put(file_digest(held), held)
    assert {str(path), str(pack)} < set(synced), "another process may have left them unsynced"


def test_flush_passes_over_what_was_removed(objects: LocalObjects) -> None:
    objects.put(DIGEST, DATA, durable=False)
    objects.remove([DIGEST])
    objects.flush()
    assert list(objects.list()) == []


FULL = """
import resource, sys
from pathlib import Path
from cmf.errors import UnreachableError
from cmf.model.digest import file_digest
from cmf.objects.local import LocalObjects

objects = LocalObjects(Path(sys.argv[1]))
data = bytes(300_000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
for attempt in (lambda: objects.put(file_digest(data), data), lambda: objects.adopt(sys.argv[2], durable=False)):
    try:
        attempt()
    except UnreachableError as error:
        print(error.kind, error.message, error.hint)
print(objects.put(file_digest(b"small"), b"small"))
try:
    for n in range(100):
        objects.put(file_digest(bytes([n]) * 3000), bytes([n]) * 3000)
except UnreachableError as error:
    print(error.kind, error.message, error.hint)
print(objects.absent([file_digest(b"small"), file_digest(bytes(3000)), file_digest(bytes([99]) * 3000)]))
"""


def test_a_full_disk_is_one_clear_error_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(bytes(3_000_000))
    done = run_child(FULL, tmp_path / "objects", tmp_path / "large")
    assert done.stderr == ""
    first, second, small, third, absent = done.stdout.splitlines()
    assert first.startswith("disk ")
    assert "File too large" in first
    assert "Free some space" in second
    assert small == "5"
    assert third.startswith("disk ")
    assert absent == str([file_digest(bytes([99]) * 3000)])
    (pack,) = files_below(tmp_path / "objects")
    kept = [file_digest(b"small"), *(file_digest(bytes([n]) * 3000) for n in range(100))]
    objects = LocalObjects(tmp_path / "objects")
    held = [digest for digest, _ in objects.list()]
    assert held == sorted(kept[: len(held)]), "each that was taken is there, and no other"
    assert pack.stat().st_size <= 100_000


REFUSED = """
import os, sys
from pathlib import Path
from cmf.errors import CmfError
from cmf.model.digest import file_digest
from cmf.objects.local import LocalObjects

objects = LocalObjects(Path(sys.argv[1]))
if os.getuid() == 0:
    os.setuid(65534)
for attempt in (lambda: objects.put(file_digest(b"x"), b"x"), lambda: objects.adopt(sys.argv[2])):
    try:
        attempt()
    except CmfError as error:
        print(type(error).__name__, error.kind, error.message)
"""


def test_a_folder_that_may_not_be_written_and_a_file_that_may_not_be_read_are_said() -> None:
    # Not in `tmp_path`: a user without rights, whom root becomes for this, would not get there.
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder, secret = Path(name, "objects"), Path(name, "secret")
        folder.mkdir(mode=0o555)
        secret.write_text("mine")
        secret.chmod(0)
        done = run_child(REFUSED, folder, secret)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"ConflictError disk {folder} cannot be written: Permission denied.",
        f"DeniedError denied {secret} cannot be read: Permission denied.",
    ]


KILLED = """
import io, sys
from pathlib import Path
from cmf.model.digest import file_digest
from cmf.objects.local import LocalObjects

class Waiting(io.RawIOBase):
    asked = False
    def read(self, size=-1):
        if self.asked:
            print("half-way", flush=True)
            sys.stdin.read()
        self.asked = True
        return bytes(500_000)

LocalObjects(Path(sys.argv[1])).put(file_digest(bytes(1_000_000)), Waiting())
"""


def test_a_writer_that_is_killed_leaves_no_object_and_its_draft_can_be_swept(objects: LocalObjects) -> None:
    digest = file_digest(bytes(1_000_000))
    command = [sys.executable, "-c", KILLED, str(objects.folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "half-way\n"
        child.send_signal(signal.SIGKILL)
    (draft,) = files_below(objects.folder)
    assert list(objects.list()) == []
    assert objects.absent([digest]) == [digest]
    written = draft.stat().st_mtime
    assert objects.sweep(before=written) == 0
    assert objects.sweep(before=written + 1) == 1
    assert files_below(objects.folder) == []
    assert objects.put(digest, bytes(1_000_000)) == 1_000_000


TOGETHER = """
import io, sys
from pathlib import Path
from cmf.model.digest import file_digest
from cmf.objects.local import LocalObjects

objects = LocalObjects(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for n in range(200):
    data = bytes([n]) * (n * 97)
    objects.put(file_digest(data), io.BytesIO(data) if n % 2 else data, durable=False)
objects.flush()
"""


def test_processes_that_put_the_same_objects_at_once_all_succeed(objects: LocalObjects) -> None:
    command = [sys.executable, "-c", TOGETHER, str(objects.folder)]
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for child in children:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        _, said = child.communicate(timeout=60)
        assert (child.returncode, said) == (0, "")
    listed = dict(objects.list())
    assert listed == {file_digest(bytes([n]) * (n * 97)): n * 97 for n in range(200)}
    for digest in listed:
        objects.check(digest)
    assert 1 <= len(files_below(objects.folder)) <= 3  # who comes last may find that all is there


def test_running_out_of_descriptors_leaves_the_store_as_it_was(objects: LocalObjects) -> None:
    objects.put(DIGEST, DATA)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = os.open(os.devnull, os.O_RDONLY)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken + 1, hard))
        with pytest.raises(UnreachableError, match="Too many open files"):
            objects.put(LARGE_DIGEST, LARGE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(taken)
    assert list(objects.list()) == [(DIGEST, len(DATA))]


def test_an_error_of_ours_is_an_error_of_ours_though_it_is_an_os_error_too(objects: LocalObjects) -> None:
    with pytest.raises(CmfError) as caught:
        objects.check(DIGEST)
    assert isinstance(caught.value, NotFoundError)
