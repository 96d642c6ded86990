"""An object on its way to or from elsewhere: what came before it was cut stays, and the next time goes on behind it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from types import TracebackType
from typing import TYPE_CHECKING

from cmf.errors import CorruptError
from cmf.objects import CHUNK_BYTES, Resumed, unnoticed
from cmf.objects.draft import Draft
from cmf.objects.source import Source

if TYPE_CHECKING:
    from hashlib import _Hash

_WRITE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class Part(Draft):
    """A draft under a name that its object decides, which outlives a source that fails. One process at a time has it.

    What is in it is not believed: it counts only as a part of bytes that have the object's hash as a whole.
    """

    def __init__(self, path: str) -> None:
        """Take it, or make it; `BlockingIOError` if another has it, `OSError` too where there are no locks."""
        self._file = os.open(path, _WRITE, 0o600)
        self._path = path
        self._open = self._exists = True
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not os.path.samestat(os.fstat(self._file), os.stat(path)):
                raise BlockingIOError  # who had it has just made it the object
            self._was = os.fstat(self._file)
            os.utime(self._file)  # whoever deletes what nobody goes on with leaves it
        except BaseException:  # ctrl-C too: nobody else would close it
            os.close(self._file)
            raise

    def take_as(self, digest: str, source: Source, resumed: Resumed = unnoticed) -> int:
        """Copy the rest of a source and return the size of the whole, as a draft does."""
        if os.fstat(self._file).st_size > source.size:
            self.clear()  # it is of no such file
        try:
            return super().take_as(digest, source, resumed)
        except CorruptError:
            self.clear()
            raise

    def publish(self, target: str) -> None:
        """Give it its name, as a draft does; this one is gone then."""
        super().publish(target)
        if self._exists:
            os.unlink(self._path)
            self._exists = False

    def hashed(self) -> tuple[_Hash, int]:
        """Return the hash of what is there, and its size; what is written comes behind it."""
        found, size = hashlib.sha256(), 0
        os.lseek(self._file, 0, os.SEEK_SET)
        while chunk := os.read(self._file, CHUNK_BYTES):
            found.update(chunk)
            size += len(chunk)
        return found, size

    def end(self) -> int:
        """Return the size of what is there; what is written comes behind it."""
        return os.lseek(self._file, 0, os.SEEK_END)

    def stat(self) -> os.stat_result:
        """Return what it is like now, to be compared with how somebody finds it."""
        return os.fstat(self._file)

    def is_as(self, left: os.stat_result) -> bool:
        """Tell whether it was, when it was taken, as somebody left it."""
        was = self._was
        return (was.st_ino, was.st_size, was.st_mtime_ns) == (left.st_ino, left.st_size, left.st_mtime_ns)

    def clear(self) -> None:
        """Throw away what is there."""
        os.ftruncate(self._file, 0)

    def close(self, *, sync: bool) -> None:
        """Make it durable, if asked, and read-only. The lock stays until it has its name: nobody may write to it."""
        if sync:
            os.fsync(self._file)
        os.fchmod(self._file, 0o444)  # last: who is killed while the disk works can go on with it

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        try:
            if self._exists and not os.fstat(self._file).st_size:
                os.unlink(self._path)
        finally:
            os.close(self._file)
