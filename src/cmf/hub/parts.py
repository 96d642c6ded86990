"""Uploads on their way into a hub. What came of a large one that was cut stays for a while: its sender goes on there.

A part belongs to one sender, scope and object, and is found by no other: who is granted an object has sent all of it.
It is not believed. Only the whole is, by its hash, and the sender compares a part with its own bytes before it goes on.

Workers share the folder. One request at a time writes to a part, and holds its lock; another that brings the same
object meanwhile has a file of its own, so that two senders never disturb each other.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from cmf.errors import CmfError, ConflictError, UsageError
from cmf.hub.accounts import Flight
from cmf.hub.objects import HubObjects
from cmf.model import digest as digests
from cmf.model import wire
from cmf.objects import check_name, mismatched
from cmf.objects.bucket import KEPT_SECONDS, RESUMED_BYTES_MIN
from cmf.objects.draft import Draft
from cmf.objects.part import Part
from cmf.objects.source import disk_error

if TYPE_CHECKING:
    from hashlib import _Hash

INCOMING = "incoming"
"""Where parts are in a hub's folder if its objects are elsewhere; else with them, so that a part is renamed."""

PARTS_MAX = 32
"""So many parts of one sender stay; the oldest go first."""

SUFFIX = ".part"
SWEPT_SECONDS = 3600
HASHES_MAX = 256

_NAME = re.compile(r"([0-9]{1,19})-(?:[0-9a-f]{64}\.part|[0-9a-f]{32})")


class _Left(NamedTuple):
    """A file that lies there: when it was last written, where, whose it is, and its size."""

    since: float
    path: str
    sender: str
    size: int


class Parts:
    """The parts in a folder, which the first of them makes. Safe to call from several threads and processes."""

    def __init__(self, folder: Path) -> None:
        self._folder = os.fspath(folder)
        self._lock = threading.Lock()
        self._hashes: OrderedDict[str, tuple[os.stat_result, _Hash]] = OrderedDict()
        self._live: Counter[str] = Counter()
        self._swept = 0.0

    def held(self, sender: int, scope: str, digest: str) -> wire.Part | int:
        """Return how much of an object is there, and its hash; the size alone while another request writes to it."""
        path = self._path(sender, scope, digest)
        try:
            seen = os.stat(path).st_size
        except FileNotFoundError:
            return 0 if self._live[path] else wire.Part()
        try:
            with Part(path) as part:
                found, size = self._hashed(path, part)
                answer = wire.Part(size=size, sha256=found.hexdigest())
                self._note(path, part, found)
                return answer
        except BlockingIOError:
            return seen
        except OSError:  # there are no locks
            return wire.Part()

    def begin(self, sender: int, scope: str, digest: str, start: int = 0) -> Incoming:
        """Take in an object from its beginning on, or from where its part ends.

        `ConflictError` of kind ``part`` if the part does not end there, or another request writes to it.
        """
        path = self._path(sender, scope, digest)
        self._sweep()
        if not start:
            return Incoming(self, path, digest)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if os.path.exists(path):
                part = stack.enter_context(Part(path))
                found, size = self._hashed(path, part)
                if size == start:
                    stack.pop_all()
                    return Incoming(self, path, digest, part, found, size)
        raise ConflictError(
            f"Of object {digest} there are no {start} bytes to go on behind.", hint="Send all of it.", kind="part"
        )

    def make(self, path: str) -> Draft:
        """Make an empty part; a file that nobody can go on with if another request has it, or there are no locks."""
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            try:
                part = Part(path)
            except OSError:
                return Draft(f"{path.rpartition('-')[0]}-{os.urandom(16).hex()}")
            part.clear()
        except OSError as error:
            raise disk_error(error, f"{path} cannot be written") from error
        return part

    def leave(self, path: str, part: Part, found: _Hash) -> None:
        """End the writing to a part: it stays, if there is room for it."""
        if part.stat().st_size:
            self._note(path, part, found)
        part.__exit__(None, None, None)
        self._bound()

    @contextlib.contextmanager
    def writing(self, path: str) -> Iterator[None]:
        """Know, for as long as a block takes, that something is on its way that may not be in a file yet."""
        with self._lock:
            self._live[path] += 1
        try:
            yield
        finally:
            with self._lock:
                self._live[path] -= 1
                if not self._live[path]:
                    del self._live[path]

    def _hashed(self, path: str, part: Part) -> tuple[_Hash, int]:
        """Return the hash of a part's bytes and their size; they are read unless this process has written them."""
        with self._lock:
            known, found = self._hashes.pop(path, (None, hashlib.sha256()))
        if known is not None and part.is_as(known):
            return found, part.end()
        return part.hashed()

    def _note(self, path: str, part: Part, found: _Hash) -> None:
        """Keep the hash of what is in a part; whoever writes to it takes it back."""
        with self._lock:
            self._hashes[path] = part.stat(), found
            while len(self._hashes) > HASHES_MAX:
                self._hashes.popitem(last=False)

    def _path(self, sender: int, scope: str, digest: str) -> str:
        name = hashlib.sha256(f"{sender}\n{scope}\n{check_name(digest)}".encode()).hexdigest()
        return f"{self._folder}/{sender}-{name}{SUFFIX}"

    # ---- what stays, and for how long ----------------------------------------------------------------------------

    def bound(self, sender: int, bytes_max: int, *, but: Incoming) -> None:
        """Delete the oldest parts of a sender, but the one that is on its way, until they take no more than that."""
        found = [each for each in self._left() if each.sender == str(sender) and each.path != but.path]
        size = sum(each.size for each in found)
        for each in found:
            if size > bytes_max and each.path.endswith(SUFFIX) and _drop(each.path):
                size -= each.size

    def _left(self) -> list[_Left]:
        """Return what lies there, the oldest first."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self._folder) as entries:
            for entry in entries:
                if match := _NAME.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):
                        at = entry.stat(follow_symlinks=False)
                        found.append(_Left(at.st_mtime, entry.path, match[1], at.st_size))
        return sorted(found)

    def _sweep(self) -> None:
        """Delete, once in an hour, what nobody went on with for long."""
        with self._lock:
            now = time.time()
            if abs(now - self._swept) < SWEPT_SECONDS:
                return
            self._swept = now
        for each in self._left():
            if each.since < now - KEPT_SECONDS:
                _drop(each.path)

    def _bound(self) -> None:
        """Delete the oldest parts of who has too many; and of who has most, until all take less than what is free."""
        found = [each for each in self._left() if each.path.endswith(SUFFIX)]
        counts = Counter(each.sender for each in found)
        sizes: Counter[str] = Counter()
        for each in found:
            sizes[each.sender] += each.size
        by_most = [each for sender, _ in sizes.most_common() for each in found if each.sender == sender]
        for each in by_most:
            if (counts[each.sender] > PARTS_MAX or sizes.total() > self._free()) and _drop(each.path):
                counts[each.sender] -= 1
                sizes[each.sender] -= each.size

    def _free(self) -> int:
        """Return how many bytes can still be written."""
        at = os.statvfs(self._folder)
        return at.f_bavail * at.f_frsize


class Incoming:
    """An object's bytes as they come. In memory while they are few, then in a part; to be ended by `close`.

    Its calls wait for each other: a request may be given up while a thread still writes what came last.
    """

    def __init__(
        self,
        parts: Parts,
        path: str,
        digest: str,
        file: Draft | None = None,
        found: _Hash | None = None,
        size: int = 0,
    ) -> None:
        self._parts = parts
        self._path = path
        self._digest = digest
        self._file = file
        self._hash = found or hashlib.sha256()
        self._size = size
        self._first = bytearray()
        self._is_settled = self._is_closed = False
        self._lock = threading.Lock()
        self._flight: Flight | None = None
        self._writing = contextlib.ExitStack()
        self._writing.enter_context(parts.writing(path))

    @property
    def path(self) -> str:
        """Return where its part is, or would be."""
        return self._path

    def count(self, flight: Flight, expected: int | None = None) -> None:
        """Have all bytes counted, those of the part too; `ConflictError` of kind ``quota`` if they are too many.

        ``expected``: how many more come, if that is known: then they are counted now, before any has come.
        """
        self._writing.enter_context(flight)
        flight.take(self._size + (expected or 0))
        self._flight = flight if expected is None else None

    def write(self, data: bytes) -> None:
        """Append some bytes; `UnreachableError` if the disk takes no more, and then nothing stays.

        `ConflictError` of kind ``quota`` if they are too many.
        """
        with self._lock:
            if self._is_closed:
                return
            if self._flight is not None:
                self._flight.take(len(data))
            self._hash.update(data)
            self._size += len(data)
            try:
                self._append(data)
            except CmfError:
                self.discard()
                raise

    def _append(self, data: bytes) -> None:
        if self._file is not None:
            self._file.write(data)
            return
        self._first += data
        if len(self._first) >= RESUMED_BYTES_MIN:
            self._file = self._parts.make(self._path)
            self._file.write(bytes(self._first))
            self._first.clear()

    def whole(self, bytes_max: int) -> bytes:
        """Return all that came, verified; `UsageError` of kind ``limit`` if that is more."""
        self._check()
        if self._size > bytes_max:
            raise UsageError(f"Object {self._digest} is over the limit of {bytes_max} bytes.", kind="limit")
        return bytes(self._first) if self._file is None else self._file.read(self._size)

    def settle(self, objects: HubObjects) -> int:
        """Make what came an object and return its size; `CorruptError`, and nothing stays, if it has another hash."""
        with self._lock:
            self._check()
            if self._file is None:
                return objects.put(self._digest, bytes(self._first))
            objects.settle(self._digest, self._file)
            self._is_settled = True
            return self._size

    def close(self) -> None:
        """End it: what came of a large object stays, unless it has become one."""
        with self._lock, self._writing:
            file, self._file, self._is_closed = self._file, None, True
            if isinstance(file, Part) and not self._is_settled:
                self._parts.leave(self._path, file, self._hash)
            elif file is not None:
                file.__exit__(None, None, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self) -> None:
        actual = digests.FILE + self._hash.hexdigest()
        if actual != self._digest:
            self.discard()
            raise mismatched(self._digest, actual)

    def discard(self) -> None:
        """Throw away what came."""
        if isinstance(self._file, Part):
            self._file.clear()


def _drop(path: str) -> bool:
    """Delete what lies there; False if a request writes to it."""
    try:
        if path.endswith(SUFFIX):
            with Part(path) as part:
                part.clear()
        else:
            os.unlink(path)
    except OSError:
        return False
    return True
