"""Files and folders written from objects: verified, whole or not at all, and never in place of anything else."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
from collections.abc import Sequence
from typing import BinaryIO

from cmf.errors import ConflictError, CorruptError, NotFoundError, UnreachableError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, ObjectStore, manifest, mismatched
from cmf.objects.duplicate import cloned
from cmf.objects.local import LocalObjects
from cmf.objects.source import disk_error

_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def write(objects: LocalObjects, digest: str, path: str, *, executable: bool = False) -> int:
    """Write a file or a folder at a path where nothing is but perhaps an empty folder; return its size in bytes.

    ``executable`` is of a file; those of a folder are as its manifest says.
    """
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name[:200]}.{os.urandom(8).hex()}")
    try:
        os.makedirs(folder, exist_ok=True)
        if not digest.startswith(digests.TREE):
            size = write_file(objects, digest, temporary, executable=executable)
            move_file(temporary, path)
            return size
        size = _write_folder(objects, digest, temporary)
        os.rename(temporary, path)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise in_the_way(path) from error
    except OSError as error:
        if error.errno == errno.ENOTEMPTY:
            raise in_the_way(path) from error
        raise disk_error(error, f"{path} cannot be written") from error
    finally:
        discard(temporary)
    return size


def replace(objects: LocalObjects, digest: str, path: str, *, executable: bool = False) -> int:
    """Write a file or a folder in place of what is at a path; return its size in bytes.

    What was there is removed only once the new bytes are whole at its place: a failure leaves or brings back the old.
    """
    folder, name = os.path.split(path)
    fresh, old = (os.path.join(folder, f".{name[:200]}.{os.urandom(8).hex()}") for _ in range(2))
    try:
        size = write(objects, digest, fresh, executable=executable)
        os.rename(path, old)
        try:
            os.rename(fresh, path)
        except OSError:
            os.rename(old, path)
            raise
    except OSError as error:
        raise disk_error(error, f"{path} cannot be written") from error
    finally:
        discard(fresh)
    discard(old)
    return size


def is_empty_folder(path: str) -> bool:
    """Tell whether a path is a folder with nothing in it, and no link to one."""
    try:
        return not os.path.islink(path) and not os.listdir(path)
    except OSError:
        return False


def write_file(objects: ObjectStore, digest: str, path: str, *, executable: bool, size: int | None = None) -> int:
    """Write an object into a new file, verified, and return its size."""
    hashed = hashlib.sha256()
    count = 0
    with objects.open(digest) as source:
        handle = os.open(path, _WRITE, 0o777 if executable else 0o666)
        with os.fdopen(handle, "w+b") as file:
            is_cloned = _is_cloned(source, file)
            while chunk := (file if is_cloned else source).read(CHUNK_BYTES):
                hashed.update(chunk)
                count += len(chunk)
                if not is_cloned:
                    file.write(chunk)
    actual = digests.FILE + hashed.hexdigest()
    if actual != digest:
        raise mismatched(digest, actual)
    if size is not None and size != count:
        raise CorruptError(f"A manifest gives object {digest} another size than its {count} bytes.", kind="manifest")
    return count


def _is_cloned(source: BinaryIO, file: BinaryIO) -> bool:
    """Tell whether a new file shares the blocks of a source now; then its own bytes are what is to be verified."""
    try:
        return cloned(source.fileno(), file.fileno())
    except io.UnsupportedOperation:
        return False  # bytes in memory: it came out of a pack


def _write_folder(objects: LocalObjects, digest: str, folder: str) -> int:
    """Write the files of a manifest into a new folder and return their size; in memory are never more than a part."""
    held = digests.object_of(digest)
    size, lacking, one = 0, 0, ""
    for page in manifest.pages(objects, held):
        size += sum(entry.size for entry in page)
        absent = objects.absent(dict.fromkeys(entry.digest for entry in page))
        lacking += len(absent)
        one = one or "".join(absent[:1])
    if lacking:
        raise NotFoundError(
            f"{lacking} of the objects of folder {digest} are not here, {one} for one.",
            hint="`cmf pull --data` fetches what a hub holds.",
        )
    check_room(os.path.dirname(folder), size)
    os.mkdir(folder)
    made = {folder}
    for page in manifest.pages(objects, held):
        # The folder is new and ours, and no link is ever made in it: a path that a page holds stays below it.
        paths = [f"{folder}/{os.fsdecode(manifest.raw_path(entry.path))}" for entry in page]
        for parent in dict.fromkeys(path.rpartition("/")[0] for path in paths):
            _make_folders(parent, made)
        write_files(objects, page, paths)
    return size


def write_files(objects: LocalObjects, entries: Sequence[manifest.Entry], paths: Sequence[str]) -> None:
    """Write some files of a folder into new files, verified; the small ones are read together."""
    every = objects.read_all([entry.digest for entry in entries])
    for entry, path, data in zip(entries, paths, every, strict=True):
        if data is None or len(data) != entry.size or digests.file_digest(data) != entry.digest:
            write_file(objects, entry.digest, path, executable=entry.executable, size=entry.size)
        else:
            _write_bytes(data, path, executable=entry.executable)


def _write_bytes(data: bytes, path: str, *, executable: bool) -> None:
    """Write a few bytes, verified already, into a new file."""
    handle = os.open(path, _WRITE, 0o777 if executable else 0o666)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)


def _make_folders(folder: str, made: set[str]) -> None:
    """Make a folder and those above it up to one that was made: step by step, since a path may be very deep."""
    missing = []
    while folder not in made:
        missing.append(folder)
        folder = os.path.dirname(folder)
    for path in reversed(missing):
        os.mkdir(path)
        made.add(path)


def check_room(folder: str, size: int) -> None:
    """Refuse what the disk of a folder cannot hold before the first byte: a manifest may name a large object often."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if size > free:
        raise UnreachableError(
            f"{size} bytes do not fit on the disk, which has {free} free.",
            hint="Free some space, or choose another place.",
            kind="disk",
        )


def move_file(temporary: str, path: str) -> None:
    """Give a file its name, never in place of another file."""
    if is_empty_folder(path):
        raise in_the_way(path)
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise in_the_way(path) from error
        os.rename(temporary, path)


def discard(temporary: str) -> None:
    """Remove a file, or a folder and all that is in it, as far as that is possible."""
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    except OSError:
        # Not by `shutil`, which gives up on a folder that is deeper than its recursion goes.
        folders = [temporary]
        with contextlib.suppress(OSError):
            for folder in folders:
                with os.scandir(folder) as found:
                    for item in found:
                        if item.is_dir(follow_symlinks=False):
                            folders.append(item.path)  # walked as it grows
                        else:
                            os.unlink(item.path)
            for folder in reversed(folders):
                os.rmdir(folder)


def in_the_way(path: str) -> ConflictError:
    """Return the error that says that something else is where a file should go."""
    return ConflictError(
        f"{path} is there already, with other content.", hint="Move it away, or choose another place.", kind="exists"
    )
