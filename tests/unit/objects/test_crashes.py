"""A power cut at every write: what was not synced is lost, torn or kept, in any mixture. Then the store is opened.

`Disk` notes what the code asks of the file system; `image` builds what a crash may leave of it. Names follow a journal,
as on ext4, XFS and btrfs: a crash keeps the first so many changes of names, and at least those before the last sync of
a folder. Bytes that were not synced may each be there, be missing, or end in the middle.
"""

import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cmf.errors import CorruptError
from cmf.model.digest import file_digest
from cmf.objects import packs as packing
from cmf.objects import read
from cmf.objects.local import LocalObjects
from cmf.objects.pack import OBJECT_BYTES_MAX

SEEDS = 5
LARGE = bytes(range(256)) * 1200


class Disk:
    """Notes the writes, names and syncs below a folder, in their order."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root = str(root)
        self.operations: list[tuple[Any, ...]] = []
        self.inodes: dict[int, int] = {}
        for name in (
            "open",
            "write",
            "pwrite",
            "pwritev",
            "ftruncate",
            "fsync",
            "fdatasync",
            "rename",
            "unlink",
            "mkdir",
        ):
            patch.setattr(os, name, getattr(self, name)(getattr(os, name)))

    def mark(self, acknowledged: dict[str, bytes]) -> None:
        self.operations.append(("acknowledged", dict(acknowledged)))

    def _inode(self, handle: int) -> int | None:
        path = os.readlink(f"/proc/self/fd/{handle}")
        return os.fstat(handle).st_ino if path.startswith(self.root) else None

    def open(self, really: Callable[..., int]) -> Callable[..., int]:
        def opened(path: Any, flags: int, *rest: Any, **more: Any) -> int:
            new = flags & os.O_CREAT and str(path).startswith(self.root) and not os.path.exists(path)
            handle = really(path, flags, *rest, **more)
            if new:
                self.operations.append(("create", str(path), os.fstat(handle).st_ino))
            return handle

        return opened

    def write(self, really: Callable[..., int]) -> Callable[..., int]:
        def written(handle: int, data: Any) -> int:
            inode = self._inode(handle)
            at = os.lseek(handle, 0, os.SEEK_CUR) if inode else 0
            if inode:
                self.operations.append(("write", inode, at, bytes(data)))
            return really(handle, data)

        return written

    def pwrite(self, really: Callable[..., int]) -> Callable[..., int]:
        def written(handle: int, data: Any, at: int) -> int:
            inode = self._inode(handle)
            if inode:
                self.operations.append(("write", inode, at, bytes(data)))
            return really(handle, data, at)

        return written

    def pwritev(self, really: Callable[..., int]) -> Callable[..., int]:
        def written(handle: int, buffers: Any, at: int) -> int:
            inode = self._inode(handle)
            if inode:
                self.operations.append(("write", inode, at, b"".join(buffers)))
            return really(handle, buffers, at)

        return written

    def ftruncate(self, really: Callable[..., None]) -> Callable[..., None]:
        def truncated(handle: int, size: int) -> None:
            really(handle, size)
            assert os.fstat(handle).st_size == size

        return truncated

    def fsync(self, really: Callable[..., None]) -> Callable[..., None]:
        def synced(handle: int) -> None:
            really(handle)
            inode = self._inode(handle)
            if inode:
                self.operations.append(("sync", inode))

        return synced

    fdatasync = fsync

    def rename(self, really: Callable[..., None]) -> Callable[..., None]:
        def renamed(one: Any, other: Any, **more: Any) -> None:
            really(one, other, **more)
            if str(other).startswith(self.root):
                self.operations.append(("rename", str(one), str(other)))

        return renamed

    def unlink(self, really: Callable[..., None]) -> Callable[..., None]:
        def unlinked(path: Any, **more: Any) -> None:
            really(path, **more)
            if str(path).startswith(self.root):
                self.operations.append(("unlink", str(path)))

        return unlinked

    def mkdir(self, really: Callable[..., None]) -> Callable[..., None]:
        def made(path: Any, *rest: Any, **more: Any) -> None:
            really(path, *rest, **more)
            if str(path).startswith(self.root):
                self.operations.append(("mkdir", str(path), os.stat(path).st_ino))

        return made


NAMES = ("create", "rename", "unlink", "mkdir")


def image(operations: list[tuple[Any, ...]], root: str, target: Path, chance: random.Random | None) -> None:
    """Build below a folder what a crash after these operations leaves; without a chance, nothing is lost (a kill)."""
    folders = {operation[2] for operation in operations if operation[0] == "mkdir"}
    last_folder_sync = max((n for n, op in enumerate(operations) if op[0] == "sync" and op[1] in folders), default=-1)
    names = [n for n, operation in enumerate(operations) if operation[0] in NAMES]
    sure = sum(n < last_folder_sync for n in names)
    kept = len(names) if chance is None else chance.randint(sure, len(names))
    entries: dict[str, int | None] = {}
    for n in names[:kept]:
        kind, path, *rest = operations[n]
        if kind == "create":
            entries[path] = rest[0]
        elif kind == "mkdir":
            entries[path] = None
        elif kind == "rename":
            entries[rest[0]] = entries.pop(path)
        else:
            entries.pop(path, None)
    synced = {operation[1]: n for n, operation in enumerate(operations) if operation[0] == "sync"}
    contents: dict[int, bytearray] = {}
    for n, operation in enumerate(operations):
        if operation[0] == "write":
            _, inode, at, data = operation
            if chance is not None and n > synced.get(inode, -1):
                fate = chance.choice(("there", "missing", "torn", "zeros"))
                data = {
                    "there": data,
                    "missing": b"",
                    "torn": data[: chance.randint(0, len(data))],
                    "zeros": bytes(len(data)),
                }[fate]
            elif chance is None and n == len(operations) - 1:
                data = data[: len(data) // 2]  # a kill in the middle of the last write
            if data:
                content = contents.setdefault(inode, bytearray())
                content.extend(bytes(max(0, at + len(data) - len(content))))
                content[at : at + len(data)] = data
    for path, inode in sorted(entries.items()):
        place = target / os.path.relpath(path, root)
        if inode is None:
            place.mkdir(parents=True, exist_ok=True)
        elif place.parent.exists():
            place.write_bytes(bytes(contents.get(inode, b"")))


def check(folder: Path, acknowledged: dict[str, bytes], every: dict[str, bytes]) -> None:
    objects = LocalObjects(folder)
    assert objects.absent(acknowledged) == []
    for digest, data in acknowledged.items():
        assert read(objects, digest) == data
    for digest, _ in objects.list():
        if digest not in acknowledged:
            try:
                assert read(objects, digest) == every[digest]
            except CorruptError:
                assert len(every[digest]) > OBJECT_BYTES_MAX, "a pack serves no torn object"
    # Whoever puts them now is told the truth, whatever lies there.
    for digest, data in every.items():
        objects.put(digest, data, durable=False)
    objects.flush()
    objects.tidy()
    objects.close()
    for again in (objects, LocalObjects(folder)):
        for digest, data in every.items():
            assert read(again, digest) == data


def history(folder: Path, disk: Disk) -> dict[str, bytes]:
    """Put, flush, seal, merge and remove as several processes do; say what was acknowledged."""
    every: dict[str, bytes] = {}
    acknowledged: dict[str, bytes] = {}

    def put(objects: LocalObjects, data: bytes) -> None:
        digest = file_digest(data)
        every[digest] = data
        objects.put(digest, data, durable=False)

    def flush(objects: LocalObjects, *parts: bytes) -> None:
        objects.flush()
        acknowledged.update((file_digest(data), data) for data in parts)
        disk.mark(acknowledged)

    one, two = LocalObjects(folder), LocalObjects(folder)
    small = [bytes([n]) * (n * 31 + 1) for n in range(12)]
    put(one, small[0])
    put(one, LARGE)
    flush(one, small[0], LARGE)
    put(one, small[1])
    put(two, small[1])  # not synced by the other yet
    flush(two, small[1])
    put(one, small[2])
    put(one, small[3])
    one.close()
    acknowledged.update((file_digest(data), data) for data in small[2:4])
    disk.mark(acknowledged)
    put(two, small[2])
    put(two, LARGE[1:])
    flush(two, LARGE[1:])
    for data in small[4:9]:
        three = LocalObjects(folder)
        put(three, data)
        flush(three, data)
        three.close()
    for data in (small[5], small[0], LARGE):
        acknowledged.pop(file_digest(data))
    disk.mark(acknowledged)
    two.remove([file_digest(small[5]), file_digest(small[0]), file_digest(LARGE)])
    for data in (small[6], LARGE[1:]):
        acknowledged.pop(file_digest(data))
    disk.mark(acknowledged)
    assert len(two.free([file_digest(small[6]), file_digest(LARGE[1:])], before=time.time() + 60)) == 2
    put(two, small[5])
    flush(two, small[5])
    two.close()
    four = LocalObjects(folder)
    put(four, small[9])
    put(four, small[10])
    flush(four, small[9], small[10])
    put(four, small[11])
    return every


def test_a_crash_at_any_write_loses_nothing_acknowledged_and_serves_nothing_torn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "disk" / "objects"
    folder.parent.mkdir()
    monkeypatch.setattr(packing, "SMALL_PACKS_MAX", 4)
    with monkeypatch.context() as patch:
        disk = Disk(folder.parent, patch)
        every = history(folder, disk)
    assert len(disk.operations) > 100
    assert sum(op[0] == "unlink" and op[1].endswith(".pack") for op in disk.operations) >= 4, "packs were merged"
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)  # there is no second crash: only time is saved
    number = 0
    for end in range(1, len(disk.operations) + 1):
        done = disk.operations[:end]
        acknowledged: dict[str, bytes] = next((op[1] for op in reversed(done) if op[0] == "acknowledged"), {})
        for seed in range(SEEDS):
            number += 1
            target = tmp_path / "crashed" / str(number)
            (target / "objects").mkdir(parents=True)
            image(done, str(folder.parent), target, random.Random(f"{end} {seed}") if seed else None)
            check(target / "objects", acknowledged, every)


def test_a_model_of_the_crash_that_syncs_nothing_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are harsh enough: a store that skips its syncs loses what it acknowledged."""
    folder = tmp_path / "disk" / "objects"
    folder.parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda _: None)
        patch.setattr(os, "fsync", lambda _: None)
        disk = Disk(folder.parent, patch)
        patch.setattr(os, "fdatasync", lambda _: None)
        patch.setattr(os, "fsync", lambda _: None)
        objects = LocalObjects(folder)
        objects.put(file_digest(LARGE[:1000]), LARGE[:1000])
    lost = 0
    for seed in range(20):
        target = tmp_path / str(seed)
        (target / "objects").mkdir(parents=True)
        image(disk.operations, str(folder.parent), target, random.Random(seed))
        lost += bool(LocalObjects(target / "objects").absent([file_digest(LARGE[:1000])]))
    assert lost > 10
