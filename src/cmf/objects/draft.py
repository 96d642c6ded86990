"""Files on their way into a folder of objects: written under a temporary name, synced, renamed when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from types import TracebackType
from typing import BinaryIO, Self

from cmf.model import digest as digests
from cmf.objects import Resumed, mismatched, unnoticed
from cmf.objects.duplicate import duplicate
from cmf.objects.source import Source, changing, disk_error

SYNC_BATCH = 32
SYNC_THREADS = 8
"""How many syncs of a large set wait for the disk at once: a file system answers those that wait together."""

_NO_LINKS = (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EACCES)
_WRITE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Draft:
    """A temporary file that becomes an object, or vanishes."""

    def __init__(self, path: str) -> None:
        # Readable only, from the start: the mode counts for those who open it later.
        self._file = os.open(path, _WRITE, 0o444)
        self._path = path
        self._open = self._exists = True

    def write(self, data: bytes) -> None:
        """Append some bytes."""
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise disk_error(error, f"{self._path} cannot be written") from error

    def take(self, source: Source, resumed: Resumed = unnoticed) -> bytes | None:
        """Copy a source; return the copy's SHA-256, or None if the source changed its size meanwhile."""
        try:
            return duplicate(source.file, self._file, source.size, resumed)
        except OSError as error:
            raise disk_error(error, f"{source.path} cannot be copied to {self._path}") from error

    def take_as(self, digest: str, source: Source, resumed: Resumed = unnoticed) -> int:
        """Copy a source and return its size; `CorruptError` if it has another hash, or changed meanwhile."""
        raw = self.take(source, resumed)
        if raw is None:
            raise changing(source.path)
        if (actual := digests.FILE + raw.hex()) != digest:
            raise mismatched(digest, actual)
        return source.size

    def read(self, size: int) -> bytes:
        """Return the first bytes."""
        return os.pread(self._file, size, 0)

    def reader(self) -> BinaryIO:
        """Open what is there for reading."""
        return open(self._path, "rb")

    def link(self, source: Source) -> os.stat_result | None:
        """Become another name of a file, which is read-only from now on; None if that can't be.

        Its own bytes are not written; a file that was written or replaced meanwhile is left as it is.
        """
        os.unlink(self._path)
        self._exists = False
        try:
            os.link(source.path, self._path)
        except OSError as error:
            if error.errno in (*_NO_LINKS, errno.ENOENT):
                return None
            raise disk_error(error, f"{source.path} cannot be linked") from error
        self._exists = True
        linked = os.stat(self._path, follow_symlinks=False)
        if not source.is_same(linked):
            return None
        try:
            os.chmod(self._path, stat.S_IMODE(linked.st_mode) & ~0o222)
        except PermissionError:
            return None  # another's file, which only its owner can make safe
        found = os.stat(self._path, follow_symlinks=False)
        os.close(self._file)
        self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        return found if source.is_same(found) else None

    def close(self, *, sync: bool) -> None:
        """Close the file, synced if asked."""
        if self._open:
            try:
                if sync:
                    os.fsync(self._file)
            finally:
                self._open = False
                os.close(self._file)

    def rename(self, target: str) -> None:
        """Give the file its name, in place of what has it."""
        os.rename(self._path, target)
        self._exists = False

    def publish(self, target: str) -> None:
        """Give the file its name, unless something has it already, which then stays as it is."""
        try:
            os.link(self._path, target)
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_LINKS or os.path.exists(target):
                raise
            self.rename(target)

    def discard(self) -> None:
        """Throw it away."""
        os.unlink(self._path)
        self._exists = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.close(sync=False)
        finally:
            if self._exists:
                os.unlink(self._path)


def sync_all(paths: list[str]) -> None:
    """Make files and folders survive power loss; those that are gone are passed over."""
    batches = [paths[at : at + SYNC_BATCH] for at in range(0, len(paths), SYNC_BATCH)]
    if len(batches) < 2:
        for batch in batches:
            _sync_batch(batch)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(min(SYNC_THREADS, len(batches))) as pool:
        for _ in pool.map(_sync_batch, batches):
            pass  # raises what the syncing raised


def _sync_batch(paths: list[str]) -> None:
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
