"""Objects in a folder: one read-only file each, ``ab/cdef…`` by the hex digits of its hash.

A file is written under a temporary name in ``tmp/`` on the same file system, and renamed when it is whole: so a
leftover never counts as an object, and processes that put the same object at once both succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from cmf.errors import NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, Digests, check_name, damaged, mismatched
from cmf.objects.source import Source, changing, disk_error, read_error

SMALL_BYTES = CHUNK_BYTES
"""A file up to this size is read whole, so that one held already is never written again."""

SYNC_BATCH = 32
SYNC_THREADS = 8
"""How many syncs of a large set wait for the disk at once: a file system answers those that wait together."""

TEMPORARY = "tmp"
_DRAFT = re.compile(r"[0-9]+-[0-9a-f]{16}")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class LocalObjects:
    """An `ObjectStore` in a local folder, which the first `put` makes.

    With ``durable=False`` an object is there at once, for every process, but survives a power cut only after `flush`.
    Until then a power cut can leave a file that is empty: such a one doesn't count as an object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.fspath(folder)
        self._lock = threading.Lock()
        self._flushing = threading.Lock()
        self._unsynced: dict[str, None] = {}
        self._unsynced_folders: dict[str, None] = {}

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return which of these it does not hold, in the order given, repeats included."""
        return [digest for digest in digests if self._held(digest, self._path(digest)) is None]

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on; `NotFoundError` if it isn't held."""
        if offset < 0:
            raise UsageError(f"An object has no byte at {offset}.")
        path = self._path(digest)
        if self._held(digest, path) is None:
            raise _missing(digest)
        try:
            file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError as error:
            raise _missing(digest) from error
        except OSError as error:
            raise read_error(error, path) from error
        file.seek(offset)
        return file

    def size(self, digest: str) -> int:
        """Return an object's size in bytes; `NotFoundError` if it isn't held."""
        size = self._held(digest, self._path(digest))
        if size is None:
            raise _missing(digest)
        return size

    def put(self, digest: str, source: BinaryIO | bytes, *, durable: bool = True) -> int:
        """Take in an object and return its size; `CorruptError`, and nothing kept, if the bytes have another hash.

        A stream replaces what is held, so that putting a damaged object again mends it.
        """
        path = self._path(digest)
        if isinstance(source, bytes):
            actual = digests.file_digest(source)
            if actual != digest:
                raise mismatched(digest, actual)
            self._put_small(digest, source, durable=durable)
            return len(source)
        hashed = hashlib.sha256()
        size = 0
        with self._draft() as draft:
            while chunk := source.read(CHUNK_BYTES):
                hashed.update(chunk)
                draft.write(chunk)
                size += len(chunk)
            actual = digests.FILE + hashed.hexdigest()
            if actual != digest:
                raise mismatched(digest, actual)
            self._settle(draft, path, durable=durable)
        return size

    def adopt(self, path: str | os.PathLike[str], *, durable: bool = True) -> tuple[str, int]:
        """Take in a local file, hashed while it is copied; return its digest and size.

        A file that changes while it is read is read once more, and then a `CorruptError` of kind ``changing``. What is
        no regular file is a `UsageError`, what isn't there a `NotFoundError`.
        """
        for _ in range(2):
            with Source(path) as source:
                if source.size <= SMALL_BYTES:
                    data = b"".join(source.chunks())
                    if source.is_steady():
                        digest = digests.file_digest(data)
                        self._put_small(digest, data, durable=durable)
                        return digest, len(data)
                    continue
                hashed = hashlib.sha256()
                with self._draft() as draft:
                    for chunk in source.chunks():
                        hashed.update(chunk)
                        draft.write(chunk)
                    if source.is_steady():
                        digest = digests.FILE + hashed.hexdigest()
                        self._settle(draft, self._path(digest), durable=durable)
                        return digest, source.size
        raise changing(path)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the size of each object, sorted by digest."""
        for first in _names(self._root, _FOLDER):
            for rest in _names(os.path.join(self._root, first), _REST):
                digest = digests.FILE + first + rest
                size = self._held(digest, self._path(digest))
                if size is not None:
                    yield digest, size

    def remove(self, digests: Iterable[str]) -> int:
        """Remove these objects and return how many of them were there."""
        count = 0
        for digest in digests:
            path = self._path(digest)
            was = self._held(digest, path)
            try:
                os.unlink(path)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise disk_error(error, f"Object {digest} cannot be removed") from error
            count += was is not None
        return count

    def check(self, digest: str) -> None:
        """Read an object through: `CorruptError` that names it if its bytes have another hash."""
        hashed = hashlib.sha256()
        try:
            with self.open(digest) as source:
                while chunk := source.read(CHUNK_BYTES):
                    hashed.update(chunk)
        except OSError as error:
            raise read_error(error, self._path(digest)) from error
        if digests.FILE + hashed.hexdigest() != digest:
            raise damaged(digest)

    def flush(self) -> None:
        """Make durable every object that was put with ``durable=False`` since the last flush; any thread may call it.

        After an `UnreachableError` they stay to be synced; what a disk has failed to write may be lost all the same.
        """
        with self._flushing:  # another thread's flush may have taken ours: it is to be waited for
            with self._lock:
                files, folders = self._unsynced, self._unsynced_folders
                self._unsynced, self._unsynced_folders = {}, {}
            try:
                _sync_all([*files, *folders])
            except OSError as error:
                with self._lock:
                    self._unsynced = files | self._unsynced
                    self._unsynced_folders = folders | self._unsynced_folders
                raise disk_error(error, "Objects cannot be made durable") from error

    def sweep(self, *, before: float) -> int:
        """Remove temporary files last written before a wall time (in seconds); return how many.

        A living writer touches its file all the time: a day ago is a safe choice.
        """
        count = 0
        folder = os.path.join(self._root, TEMPORARY)
        for name in _names(folder, _DRAFT):
            path = os.path.join(folder, name)
            try:
                if os.lstat(path).st_mtime < before:
                    os.unlink(path)
                    count += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error(error, f"{path} cannot be removed") from error
        return count

    def _path(self, digest: str) -> str:
        name = check_name(digest)[len(digests.FILE) :]
        return f"{self._root}/{name[:2]}/{name[2:]}"

    def _held(self, digest: str, path: str) -> int | None:
        """Return the size of the object at a path, or None. An empty file of another name is what a power cut left."""
        try:
            found = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise read_error(error, path) from error
        if not stat.S_ISREG(found.st_mode) or (found.st_size == 0 and digest != digests.EMPTY):
            return None
        return found.st_size

    def _put_small(self, digest: str, data: bytes, *, durable: bool) -> None:
        path = self._path(digest)
        if self._held(digest, path) == len(data):
            # Another process may have put it without syncing it yet, and this caller is promised that it is durable.
            self._note([path], [os.path.dirname(path)], durable=durable)
            return
        with self._draft() as draft:
            draft.write(data)
            self._settle(draft, path, durable=durable)

    def _draft(self) -> _Draft:
        folder = f"{self._root}/{TEMPORARY}"
        path = f"{folder}/{os.getpid()}-{os.urandom(8).hex()}"
        try:
            try:
                return _Draft(path)
            except FileNotFoundError:
                self._note([], self._make(folder), durable=True)
                return _Draft(path)
        except OSError as error:
            raise disk_error(error, f"{self._root} cannot be written") from error

    def _settle(self, draft: _Draft, path: str, *, durable: bool) -> None:
        """Give a whole draft its name. A durable one is synced before: nothing torn is ever seen under the name."""
        folder = os.path.dirname(path)
        try:
            draft.close(sync=durable)
            made: list[str] = []
            try:
                draft.rename(path)
            except FileNotFoundError:
                made = self._make(folder)
                draft.rename(path)
        except OSError as error:
            raise disk_error(error, f"{path} cannot be written") from error
        self._note([] if durable else [path], [folder, *made], durable=durable)

    def _note(self, files: Digests, folders: Digests, *, durable: bool) -> None:
        """Sync these now, or remember them for `flush`."""
        if not durable:
            with self._lock:
                self._unsynced.update(dict.fromkeys(files))
                self._unsynced_folders.update(dict.fromkeys(folders))
            return
        try:
            _sync_all([*files, *folders])
        except OSError as error:
            raise disk_error(error, "An object cannot be made durable") from error

    def _make(self, folder: str) -> Digests:
        """Make a folder and those above it; return the folders whose entries that changed."""
        missing: Digests = []
        while not os.path.isdir(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        for path in reversed(missing):
            try:
                os.mkdir(path)
            except FileExistsError:
                continue
        return [os.path.dirname(path) for path in missing]


class _Draft:
    """A temporary file that becomes an object, or vanishes."""

    def __init__(self, path: str) -> None:
        # Readable only, from the start: the mode counts for those who open it later.
        self._file = os.open(path, _WRITE, 0o444)
        self._path = path
        self._open = self._exists = True

    def write(self, data: bytes) -> None:
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise disk_error(error, f"{self._path} cannot be written") from error

    def close(self, *, sync: bool) -> None:
        if self._open:
            try:
                if sync:
                    os.fsync(self._file)
            finally:
                self._open = False
                os.close(self._file)

    def rename(self, target: str) -> None:
        os.rename(self._path, target)
        self._exists = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close(sync=False)
        finally:
            if self._exists:
                os.unlink(self._path)


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(f"Object {digest} is not here.", hint="`cmf pull --data` fetches what a hub holds.")


def _names(folder: str, pattern: re.Pattern[str]) -> Digests:
    try:
        return sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_error(error, folder) from error


def _sync_all(paths: Digests) -> None:
    batches = [paths[at : at + SYNC_BATCH] for at in range(0, len(paths), SYNC_BATCH)]
    if len(batches) < 2:
        for batch in batches:
            _sync_batch(batch)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(SYNC_THREADS, len(batches))) as pool:
        for _ in pool.map(_sync_batch, batches):
            pass  # raises what the syncing raised


def _sync_batch(paths: Digests) -> None:
    with contextlib.ExitStack() as opened:
        handles = []
        for path in paths:
            try:
                handles.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
            except FileNotFoundError:
                continue  # removed since
            opened.callback(os.close, handles[-1])
        if hasattr(os, "posix_fadvise") and len(handles) > 1:
            # Starts the writing of all of them, so that the first sync commits their metadata in one go.
            for handle in handles:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        for handle in handles:
            os.fsync(handle)
