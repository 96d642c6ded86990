"""One large file, hashed while it is copied, at the speed of the disk.

Where the file system can share blocks, nothing is copied. Else the bytes pass once through a few aligned buffers: read
and hashed here, written around the page cache by two threads, since filling the cache with bytes that nobody reads
costs more than the disk does. Where that isn't possible, the kernel copies and the copy is read back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import queue
import sys
import threading
from hashlib import sha256
from typing import TYPE_CHECKING, NamedTuple

from cmf.objects import Resumed, unnoticed

if TYPE_CHECKING:
    from hashlib import _Hash

BUFFER_BYTES = 1 << 20
BUFFERS = 8
WRITERS = 2
DIRECT_BYTES_MIN = 16 << 20
"""Below this the page cache wins: the disk works while the next file is read."""

_BLOCK = 4096
_FICLONE = 0x40049409
_ZEROS = bytes(BUFFER_BYTES)
_CANNOT = (
    errno.EINVAL,
    errno.ENOTSUP,
    errno.ENOSYS,
    errno.EXDEV,
    errno.ENOTTY,
    errno.EPERM,
    errno.EBADF,
    errno.ETXTBSY,
)


def duplicate(source: int, target: int, size: int, resumed: Resumed = unnoticed) -> bytes | None:
    """Copy up to ``size`` bytes from a file into another, and return the SHA-256 of the copy.

    What the other holds already stays as far as it is the same, and ``resumed`` is told how far. None if the source
    turned out to have another size than that. Holes of the source stay holes where that is cheap.
    """
    if cloned(source, target):
        return _hashed(target, size)
    start, behind = _agreed(source, target, size)
    if start:
        resumed(start)
    if size - start >= DIRECT_BYTES_MIN and _set_direct(target, on=True):
        try:
            return _Direct(source, target, size, start, behind.copy()).run()
        except OSError as error:
            if error.errno not in _CANNOT:
                raise
            os.ftruncate(target, start)  # said so only when it came to writing
        finally:
            _set_direct(target, on=False)
    if size - start >= DIRECT_BYTES_MIN and _copied(source, target, size, start):
        return _hashed(target, size)
    return _plain(source, target, size, start, behind)


def _agreed(source: int, target: int, size: int) -> tuple[int, _Hash]:
    """Return how far two files are the same, in whole buffers, and the hash of that; cut the second one there."""
    at, behind = 0, sha256()
    one, other = (memoryview(bytearray(BUFFER_BYTES)) for _ in range(2))
    # What a file system set aside for a copy that was cut reads as zeros: so the second one may be of full length.
    while at + BUFFER_BYTES <= min(size, os.fstat(target).st_size):
        if {os.preadv(source, [one], at), os.preadv(target, [other], at)} != {BUFFER_BYTES} or one != other:
            break
        behind.update(one)
        at += BUFFER_BYTES
    os.ftruncate(target, at)
    return at, behind


def cloned(source: int, target: int) -> bool:
    """Let an empty file share the blocks of another, where the file system can; tell whether it does."""
    if sys.platform != "linux":
        return False
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def _set_direct(target: int, *, on: bool) -> bool:
    flag: int = getattr(os, "O_DIRECT", 0)
    if not flag:
        return False
    flags = fcntl.fcntl(target, fcntl.F_GETFL)
    try:
        fcntl.fcntl(target, fcntl.F_SETFL, flags | flag if on else flags & ~flag)
    except OSError:
        return False
    return True


def _copied(source: int, target: int, size: int, start: int) -> bool:
    """Let the kernel copy; tell whether it could."""
    if not hasattr(os, "copy_file_range"):
        return False
    at = start
    try:
        while at < size:
            done = os.copy_file_range(source, target, min(size - at, 1 << 30), at, at)
            if not done:
                break
            at += done
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        os.ftruncate(target, start)
        return False
    return True


def _hashed(file: int, size: int) -> bytes | None:
    hashed = sha256()
    at = 0
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while count := os.preadv(file, [buffer], at):
        hashed.update(buffer[:count])
        at += count
    return hashed.digest() if at == size else None


def _plain(source: int, target: int, size: int, at: int, hashed: _Hash) -> bytes | None:
    buffer = memoryview(bytearray(BUFFER_BYTES))
    while at <= size and (count := os.preadv(source, [buffer], at)):
        hashed.update(buffer[:count])
        left = buffer[:count]
        while left:
            done = os.pwrite(target, left, at)
            at += done
            left = left[done:]
    return hashed.digest() if at == size else None


class _Direct:
    """A copy around the page cache: one thread reads ahead, this one hashes, others write."""

    def __init__(self, source: int, target: int, size: int, start: int, behind: _Hash) -> None:
        self._source = source
        self._target = target
        self._size = size
        self._start = start
        self._behind = behind
        self._sparse = os.fstat(source).st_blocks * 512 < size
        self._free: queue.SimpleQueue[mmap.mmap | None] = queue.SimpleQueue()
        self._read: queue.SimpleQueue[_Piece] = queue.SimpleQueue()
        self._hashed: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._failed: OSError | None = None

    def run(self) -> bytes | None:
        if not self._sparse and hasattr(os, "posix_fallocate"):
            with contextlib.suppress(OSError):  # only saves work: a full disk is told by writing
                os.posix_fallocate(self._target, self._start, self._size - self._start)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._source, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        buffers = [mmap.mmap(-1, BUFFER_BYTES) for _ in range(BUFFERS)]
        for buffer in buffers:
            self._free.put(buffer)
        work = [self._read_ahead, *[self._write] * WRITERS]
        threads = [threading.Thread(target=each, name="cmf-copy", daemon=True) for each in work]
        for thread in threads:
            thread.start()
        try:
            digest = self._hash()
        finally:
            # Also if the user interrupts: no thread may write when the file's number is another's already.
            self._free.put(None)
            for _ in range(WRITERS):
                self._hashed.put(None)
            for thread in threads:
                thread.join()
        if self._failed is not None:
            raise self._failed
        os.ftruncate(self._target, self._size)  # cuts the last block's padding, and makes a hole at the end
        return digest

    def _hash(self) -> bytes | None:
        at, hashed = self._start, self._behind
        while True:
            piece = self._read.get()
            with memoryview(piece.buffer) as view:
                hashed.update(view[: piece.size])
                is_hole = self._sparse and view[: piece.size] == _ZEROS[: piece.size]
            at += piece.size
            if is_hole:
                self._free.put(piece.buffer)
            else:
                self._hashed.put(piece)
            if piece.size < BUFFER_BYTES:
                return hashed.digest() if at == self._size else None

    def _read_ahead(self) -> None:
        """Read pieces in order; the first that isn't full is the last."""
        at = self._start
        while (buffer := self._free.get()) is not None:
            count = 0
            try:
                with memoryview(buffer) as view:
                    while (
                        self._failed is None
                        and count < BUFFER_BYTES
                        and at <= self._size
                        and (more := os.preadv(self._source, [view[count:]], at + count))
                    ):
                        count += more
            except OSError as error:
                self._failed = error
                count = 0
            self._read.put(_Piece(buffer, at, count))
            at += count
            if count < BUFFER_BYTES:
                return

    def _write(self) -> None:
        while (piece := self._hashed.get()) is not None:
            if self._failed is None:
                padded = -(-piece.size // _BLOCK) * _BLOCK
                try:
                    with memoryview(piece.buffer) as view:
                        done = 0
                        while done < padded:
                            done += os.pwrite(self._target, view[done:padded], piece.at + done)
                except OSError as error:
                    self._failed = error
            self._free.put(piece.buffer)


class _Piece(NamedTuple):
    """A part of the file: so many bytes in a buffer, from an offset on."""

    buffer: mmap.mmap
    at: int
    size: int
