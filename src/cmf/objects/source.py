"""A local file as a source of bytes: read once, hashed, noticed if it changes; and what a failing disk is called."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

from cmf.errors import CmfError, ConflictError, CorruptError, DeniedError, NotFoundError, UnreachableError, UsageError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES

# Not to stop at a pipe; and both together tell whoever watches the program that it is the recorder that reads.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Source:
    """A local file that is read once, from its beginning to its end, and tells whether it changed meanwhile."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        try:
            # Without O_NONBLOCK, opening a named pipe would wait for a writer for ever.
            self.file = os.open(self.path, _READ)
        except ValueError as error:
            raise UsageError(f"{self.path!r} is no path: {error}.") from error
        except OSError as error:
            raise read_error(error, self.path) from error
        self.stat = os.fstat(self.file)
        self._read = 0
        if not stat.S_ISREG(self.stat.st_mode):
            os.close(self.file)
            raise UsageError(f"{self.path} is neither a file nor a folder.", hint="Only files have bytes to keep.")

    @classmethod
    def of(cls, opened: BinaryIO) -> Self | None:
        """Return an open file as a source; None if it isn't a regular file, read from its beginning."""
        try:
            fd = opened.fileno()
            if opened.tell() or not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
        except (OSError, AttributeError):
            return None  # bytes in memory, or a wire
        found = cls.__new__(cls)
        found.path, found.file, found._read = str(opened.name), os.dup(fd), 0  # noqa: SLF001  # its own class
        found.stat = os.fstat(found.file)
        return found

    @property
    def size(self) -> int:
        """The file's size when it was opened."""
        return self.stat.st_size

    def chunks(self) -> Iterator[bytes]:
        """Yield the file's bytes; stop when there are more than there were, since a file may grow for ever."""
        try:
            while self._read <= self.stat.st_size and (chunk := os.read(self.file, CHUNK_BYTES)):
                self._read += len(chunk)
                yield chunk
        except OSError as error:
            raise read_error(error, self.path) from error

    def is_steady(self) -> bool:
        """Tell whether what was read is the file as it was before and still is."""
        return self._read == self.stat.st_size and self.is_unchanged()

    def is_same(self, found: os.stat_result) -> bool:
        """Tell whether this is the same file with the same bytes, its names and mode aside."""
        same = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        return same == (self.stat.st_dev, self.stat.st_ino, self.stat.st_size, self.stat.st_mtime_ns)

    def is_unchanged(self) -> bool:
        """Tell whether the file still is as it was when it was opened."""
        return _version(os.fstat(self.file)) == _version(self.stat)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.file)


class Taken(NamedTuple):
    """A local file that was read: its digest, its size in bytes, and what `stat` said of it while it was read."""

    digest: str
    size: int
    stat: os.stat_result


def measure(path: str | os.PathLike[str]) -> Taken:
    """Return the digest and size of a local file without keeping it; errors as of `LocalObjects.adopt`."""
    for _ in range(2):
        with Source(path) as source:
            hashed = hashlib.sha256()
            for chunk in source.chunks():
                hashed.update(chunk)
            if source.is_steady():
                return Taken(digests.FILE + hashed.hexdigest(), source.size, source.stat)
    raise changing(path)


def changing(path: str | os.PathLike[str]) -> CorruptError:
    """Return the error that says that a file did not hold still while it was read."""
    return CorruptError(
        f"{os.fspath(path)} keeps changing while it is read.", hint="Close it before it is recorded.", kind="changing"
    )


def disk_error(error: OSError, what: str) -> CmfError:
    """Return the error that a failed write is, with a sentence that starts with what failed."""
    if isinstance(error, CmfError):
        return error  # three of ours are OSErrors too, and say more already
    message = f"{what}: {error.strerror or error}."
    if error.errno in _REFUSED:
        return ConflictError(message, hint="Make it writable, or choose another folder.", kind="disk")
    hint = "Free some space, then run it again." if error.errno in _FULL else "Look after the disk, then run it again."
    return UnreachableError(message, hint=hint, kind="disk")


def read_error(error: OSError, path: str) -> CmfError:
    """Return the error that a file that cannot be read is."""
    if isinstance(error, CmfError):
        return error
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFoundError(f"There is no file or folder {path}.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DeniedError(f"{path} cannot be read: {error.strerror}.")
    if error.errno in (errno.ENXIO, errno.ELOOP, errno.ENAMETOOLONG):
        return UsageError(f"{path} cannot be read: {error.strerror}.")
    return UnreachableError(f"{path} cannot be read: {error.strerror}.", kind="disk")


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns
