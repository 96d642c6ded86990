"""The seam below a remote that holds only bytes: a flat set of named files, each written whole and never changed.

A folder, a bucket of S3 and a folder at the other end of ssh are no more than this. What the files are named and
what is in them, `cmf.objects.remote` knows.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, BinaryIO, Protocol, TypeVar, cast

from cmf.errors import UnreachableError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, Resumed, mismatched, unnoticed

if TYPE_CHECKING:
    from hashlib import _Hash

IN_FLIGHT = 4
"""How many requests of a transfer are on their way at once. More gain nothing on a fast line and crowd a slow one."""

RETRY_SECONDS = 60.0
"""How long a request to a cloud that fails is tried again."""

WINDOW_BYTES = 8 << 20

RESUMED_BYTES_MIN = 4 << 20
"""What is smaller is sent anew: to ask how much of it is there takes as long."""

KEPT_SECONDS = 7 * 86_400
"""What is left of a file whose sending was cut is deleted if nobody went on with it for so long."""

_Given = TypeVar("_Given")
_Made = TypeVar("_Made")


class Bucket(Protocol):
    """A flat set of named files. All methods may be called by several threads at once.

    Where the line fails, it is tried again with longer and longer pauses before that is an error.
    Names are made of lower-case letters, digits, ``/``, ``.`` and ``-``, and never from outside. What cannot be reached
    is an `UnreachableError`, what is not allowed a `DeniedError`; a file that isn't there a `NotFoundError`.
    """

    url: str
    """What it is called when it fails; holds no secret."""

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each file whose name starts with a prefix that ends in ``/``, in any order."""
        ...

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of these files that are there."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on, fewer only at the file's end."""
        ...

    def open(self, name: str, size: int, offset: int) -> BinaryIO:
        """Return a reader of the first ``size`` bytes of a file from an offset on."""
        ...

    def write(self, name: str, digest: str, source: BinaryIO | bytes, *, resumed: Resumed = unnoticed) -> int:
        """Make a file and return its size; `CorruptError`, and no file, if the bytes have another hash.

        If a file of this name is there already it stays as it is: two writers never clobber each other. The source is
        read to its end in any case. When it returns, the file is durable.
        A large local file whose writing was cut goes on where it was, where the place can: ``resumed`` is told.
        """
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files; those that are not there are passed over."""
        ...

    def close(self) -> None:
        """End its connections."""
        ...


def checked(
    digest: str, source: BinaryIO | bytes, chunk_bytes: int = CHUNK_BYTES, *, behind: _Hash | None = None
) -> Iterator[bytes]:
    """Yield a source's bytes in chunks; `CorruptError` in place of the last chunk if they have another hash.

    So whoever sends what this yields, and gives up when it raises, never sends a whole file of other bytes.
    ``behind``: the hash of what was read of the source before.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    hashed = behind or hashlib.sha256()
    last = b""
    while chunk := _full(stream, chunk_bytes):
        if last:
            yield last
        hashed.update(chunk)
        last = chunk
    actual = digests.FILE + hashed.hexdigest()
    if actual != digest:
        raise mismatched(digest, actual)
    if last:
        yield last


def length(source: BinaryIO | bytes) -> int:
    """Return how many bytes a source still has; -1 if it cannot say, and cannot be read again either."""
    if isinstance(source, bytes):
        return len(source)
    try:
        at = source.tell()
        end = source.seek(0, 2)
        source.seek(at)
    except (OSError, AttributeError):
        return -1
    return end - at


def _full(stream: BinaryIO, size: int) -> bytes:
    """Read so many bytes, however few a read returns; fewer only at the end."""
    found = stream.read(size)
    if not found or len(found) == size:
        return found
    parts, left = [found], size - len(found)
    while left and (more := stream.read(left)):
        parts.append(more)
        left -= len(more)
    return b"".join(parts)


def in_flight(
    work: Callable[[_Given], _Made], given: Iterable[_Given], count: int = IN_FLIGHT
) -> Iterator[tuple[_Given, _Made]]:
    """Yield each item with what the work made of it, in order, a few at once; no more than these are in memory."""
    waiting: list[tuple[_Given, Future[_Made]]] = []
    with ThreadPoolExecutor(count, thread_name_prefix="cmf-transfer") as pool:
        try:
            for item in given:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > count:
                    first, future = waiting.pop(0)
                    yield first, future.result()
            while waiting:
                first, future = waiting.pop(0)
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def reader(bucket: Bucket, name: str, size: int, offset: int = 0) -> BinaryIO:
    """Return a reader of a file's bytes from an offset on, which reads ahead."""
    return cast("BinaryIO", io.BufferedReader(_Reader(bucket, name, size, offset), CHUNK_BYTES))


class _Reader(io.RawIOBase):
    """A file of a bucket, in windows, a few of them on their way at once."""

    def __init__(self, bucket: Bucket, name: str, size: int, offset: int) -> None:
        def window(at: int) -> bytes:
            wanted = min(WINDOW_BYTES, size - at)
            found = bucket.read(name, at, wanted)
            if len(found) != wanted:
                raise UnreachableError(
                    f"{bucket.url}: {name} was cut short while it was read.", hint="Run the command again."
                )
            return found

        self._windows = in_flight(window, range(offset, size, WINDOW_BYTES))
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]  # of writable buffers
        if not self._left:
            self._left = memoryview(next(self._windows, (0, b""))[1])
        count = min(len(buffer), len(self._left))
        buffer[:count] = self._left[:count]
        self._left = self._left[count:]
        return count

    def close(self) -> None:
        if not self.closed:
            self._windows.close()  # type: ignore[attr-defined]  # a generator
        super().close()
