"""Objects in a folder: small ones in packs, large ones in a read-only file each, ``ab/cdef…`` by its hash's hex digits.

A file is written under a temporary name in ``tmp/`` on the same file system, and renamed when it is whole: so a
leftover never counts as an object, and processes that put the same object at once both succeed.
"""

from __future__ import annotations

import contextlib
import hashlib
import heapq
import io
import itertools
import math
import operator
import os
import re
import stat
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

from cmf.errors import CorruptError, NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.model.wire import Small
from cmf.objects import CHUNK_BYTES, Digests, check_name, damaged, mismatched, read
from cmf.objects.draft import Draft, sync_all
from cmf.objects.pack import OBJECT_BYTES_MAX
from cmf.objects.packs import Packs
from cmf.objects.part import Part
from cmf.objects.source import Source, Taken, changing, disk_error, read_error

SMALL_BYTES = OBJECT_BYTES_MAX
"""An object up to this size goes into a pack."""

SMALLS_AT_ONCE = 8192
"""So many objects are looked for at once: a pack's index is read once for them."""

TEMPORARY, PACKS = "tmp", "packs"
_DRAFT = re.compile(r"[0-9]+-[0-9a-f]{16}|[0-9a-f]{64}\.part")
_FOLDER = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")


class Held(NamedTuple):
    """An object that is held: its size in bytes, and when it was last put or counted on, as a wall time in s."""

    digest: str
    size: int
    used: float


class LocalObjects:
    """An `ObjectStore` in a local folder, which the first `put` makes.

    With ``durable=False`` an object is there at once, for every process, but survives a power cut only after `flush`.
    Until then a power cut can leave a file that is empty: such a one doesn't count as an object.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._root = os.fspath(folder)
        self._packs = Packs(f"{self._root}/{PACKS}", f"{self._root}/{TEMPORARY}")
        self._lock = threading.RLock()
        self._flushing = threading.RLock()
        self._unsynced: dict[str, None] = {}
        self._unsynced_folders: dict[str, None] = {}

    def absent(self, asked: Iterable[str]) -> Digests:
        """Return which of these it does not hold, in the order given, repeats included."""
        every = [(digest, _raw(digest)) for digest in asked]
        lacking = self._lacking({raw for _, raw in every}, note=False)
        return [digest for digest, raw in every if raw in lacking] if lacking else []

    def note(self, hashes: Collection[bytes]) -> set[bytes]:
        """Return which raw hashes it holds nothing of; the others are durable after `flush`, whoever put them."""
        return self._lacking(hashes, note=True)

    def _lacking(self, hashes: Collection[bytes], *, note: bool) -> set[bytes]:
        with self._guard("Packs cannot be read"):
            lacking = set(hashes)
            lacking -= self._packs.held(lacking, note=note)
        for raw in [*lacking]:
            digest = digests.FILE + raw.hex()
            path = self._path(digest)
            if self._held(digest, path) is None or (note and not _count_on(path)):
                continue
            lacking.discard(raw)
            if note:
                self._note([path], [os.path.dirname(path)], durable=False)
        return lacking

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on; `NotFoundError` if it isn't held."""
        if offset < 0:
            raise UsageError(f"An object has no byte at {offset}.")
        raw, path = _raw(digest), self._path(digest)
        if self._held(digest, path) is None:
            with self._guard(f"Object {digest} cannot be read"):
                data = self._packs.read(raw)
            if data is None:
                raise _missing(digest)
            return io.BytesIO(data[offset:])
        try:
            file = open(path, "rb")  # noqa: SIM115 - the caller closes it
        except FileNotFoundError as error:
            raise _missing(digest) from error
        except OSError as error:
            raise read_error(error, path) from error
        file.seek(offset)
        return file

    def read_all(self, asked: Sequence[str]) -> Iterator[bytes | None]:
        """Yield the bytes of small objects, unverified, in the order asked for.

        None for each that is not held, or is not in a pack: `open` tells, and has it.
        """
        with self._guard("Packs cannot be read"):
            yield from self._packs.read_all([_raw(digest) for digest in asked])

    def smalls(self, asked: Iterable[str], bytes_max: int) -> Iterator[Small]:
        """Yield objects in the order asked for, verified; those over a size without bytes; what isn't held, not."""
        left = iter(asked)
        while some := list(itertools.islice(left, SMALLS_AT_ONCE)):
            for digest, data in zip(some, self.read_all(some), strict=True):
                if data is not None and len(data) <= bytes_max and digests.file_digest(data) == digest:
                    yield Small(digest, data)
                    continue
                with contextlib.suppress(NotFoundError):
                    large = self.size(digest) > bytes_max
                    yield Small(digest, b"" if large else read(self, digest, bytes_max), large=large)

    def size(self, digest: str) -> int:
        """Return an object's size in bytes; `NotFoundError` if it isn't held."""
        raw = _raw(digest)
        size = self._held(digest, self._path(digest))
        if size is not None:
            return size
        with self._guard("Packs cannot be read"):
            found = self._packs.find(raw, fresh=False) or self._packs.find(raw, fresh=True)
        if found is None:
            raise _missing(digest)
        return found.place.size

    def put(self, digest: str, source: BinaryIO | bytes, *, durable: bool = True) -> int:
        """Take in an object and return its size; `CorruptError`, and nothing kept, if the bytes have another hash.

        A stream replaces what is held, so that putting a damaged object again mends it.
        """
        path = self._path(digest)
        if not isinstance(source, bytes) and (size := self._copy(digest, source, durable=durable)) is not None:
            return size
        start = source if isinstance(source, bytes) else source.read(SMALL_BYTES + 1)
        if isinstance(source, bytes) or len(start) <= SMALL_BYTES:
            while not isinstance(source, bytes) and len(start) <= SMALL_BYTES and (chunk := source.read(SMALL_BYTES)):
                start += chunk
        if isinstance(source, bytes) or len(start) <= SMALL_BYTES:
            actual = digests.file_digest(start)
            if actual != digest:
                raise mismatched(digest, actual)
            self._put_bytes(digest, start, durable=durable)
            return len(start)
        hashed = hashlib.sha256()
        size = 0
        with self._draft() as draft:
            chunk = start
            while chunk:
                hashed.update(chunk)
                draft.write(chunk)
                size += len(chunk)
                chunk = source.read(CHUNK_BYTES)
            actual = digests.FILE + hashed.hexdigest()
            if actual != digest:
                raise mismatched(digest, actual)
            self._settle(draft, path, durable=durable)
        return size

    def _copy(self, digest: str, opened: BinaryIO, *, durable: bool, beside: bool = False) -> int | None:
        """Copy a large file, as fast as one goes; None if that is not what was opened.

        ``beside``: only one of the same file system, where that takes so little that it need not be gone on with.
        """
        source = Source.of(opened)
        if source is None:
            return None
        with source:
            if source.size <= SMALL_BYTES or (beside and source.stat.st_dev != os.stat(self._root).st_dev):
                return None
            with self._draft() as draft:
                size = draft.take_as(digest, source)
                self._settle(draft, self._path(digest), durable=durable)
        return size

    def bring(self, digest: str, opened: Callable[[int], BinaryIO]) -> int:
        """Take in an object of which ``opened`` reads from an offset on, and go on from what came the last time.

        If the reader fails, what came stays. Only the whole is believed: where it has another hash, what came the last
        time is thrown away and all is read anew; then it is a `CorruptError`, and nothing is kept.
        """
        path = self._path(digest)
        part = self._part(digest)
        if part is None:
            with opened(0) as source:
                return self.put(digest, source)
        with part:
            while True:
                hashed, start = part.hashed()
                size = start
                with opened(start) as source:
                    if not start and (copied := self._copy(digest, source, durable=True, beside=True)) is not None:
                        return copied
                    while chunk := source.read(CHUNK_BYTES):
                        hashed.update(chunk)
                        part.write(chunk)
                        size += len(chunk)
                actual = digests.FILE + hashed.hexdigest()
                if actual == digest:
                    break
                part.clear()
                if not start:
                    raise mismatched(digest, actual)
            if size <= SMALL_BYTES:
                self._put_bytes(digest, part.read(size), durable=True)
                part.clear()
            else:
                self._settle(part, path, durable=True)
        return size

    def settle(self, digest: str, draft: Draft) -> None:
        """Make a draft that has an object's bytes that object, in place of what is held; it is durable then."""
        self._settle(draft, self._path(digest), durable=True)

    def adopt(self, path: str | os.PathLike[str], *, durable: bool = True, link: bool = False) -> Taken:
        """Take in a local file, hashed while it is copied.

        With ``link`` a large file isn't copied, but made read-only and given a second name here, where the file system
        lets it; whoever had it open for writing before can still change both.
        A file that changes while it is read is read once more, and then a `CorruptError` of kind ``changing``. What is
        no regular file is a `UsageError`, what isn't there a `NotFoundError`.
        """
        for _ in range(2):
            with Source(path) as source:
                if source.size <= SMALL_BYTES:
                    data = b"".join(source.chunks())
                    if source.is_steady():
                        digest = digests.file_digest(data)
                        self._put_bytes(digest, data, durable=durable)
                        return Taken(digest, len(data), source.stat)
                    continue
                if link and (taken := self._link(source, durable=durable)) is not None:
                    return taken
                with self._draft() as draft:
                    raw = draft.take(source)
                    if raw is not None and source.is_unchanged():
                        digest = digests.FILE + raw.hex()
                        self._settle(draft, self._path(digest), durable=durable)
                        return Taken(digest, source.size, source.stat)
        raise changing(path)

    def _link(self, source: Source, *, durable: bool) -> Taken | None:
        """Give a file a second name as an object; None if that can't be done, or the file changes."""
        hashed = hashlib.sha256()
        for chunk in source.chunks():
            hashed.update(chunk)
        if not source.is_steady():
            return None
        digest = digests.FILE + hashed.hexdigest()
        path = self._path(digest)
        if self._held(digest, path) == source.size and self._is_whole(digest) and _count_on(path):
            self._note([path], [os.path.dirname(path)], durable=durable)
            return Taken(digest, source.size, source.stat)
        with self._draft() as draft:
            stat = draft.link(source)
            if stat is None:
                return None
            self._settle(draft, path, durable=durable)
        return Taken(digest, source.size, stat)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the size of each object, sorted by digest."""
        return ((found.digest, found.size) for found in self.held())

    def held(self) -> Iterator[Held]:
        """Yield each object, sorted by digest, as `list` does, with when it was last put or counted on."""
        with self._guard("Packs cannot be read"):
            packed = (Held(digests.FILE + raw.hex(), size, last / 1e9) for raw, size, last in self._packs.entries())
        for _, copies in itertools.groupby(heapq.merge(self._loose(), packed), key=operator.itemgetter(0)):
            yield max(copies, key=operator.itemgetter(2))

    def _loose(self) -> Iterator[Held]:
        for first in _names(self._root, _FOLDER):
            for rest in _names(os.path.join(self._root, first), _REST):
                digest = digests.FILE + first + rest
                path = self._path(digest)
                if self._held(digest, path) is not None:
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        found = os.stat(path)
                        yield Held(digest, found.st_size, _used(found))

    def remove(self, digests: Iterable[str]) -> int:
        """Remove these objects and return how many of them were there."""
        return len(self._remove(digests, None))

    def free(self, digests: Iterable[str], *, before: float) -> dict[str, int]:
        """Remove those of these objects that were last put or counted on before a wall time in s; return their sizes.

        An object that another process puts or counts on meanwhile stays. One that shares its bytes with a file stays,
        since nothing would be freed. What packs held is given back by `tidy`.
        """
        return self._remove(digests, before)

    def _remove(self, digests: Iterable[str], before: float | None) -> dict[str, int]:
        asked = {digest: _raw(digest) for digest in digests}
        with self._guard("Objects cannot be removed"):
            packed = self._packs.remove(asked.values(), before=None if before is None else int(before * 1e9))
        removed: dict[str, int] = {}
        for digest, raw in asked.items():
            path = self._path(digest)
            size = self._held(digest, path)
            try:
                if before is None:
                    os.unlink(path)
                elif size is not None and not self._free_loose(path, before):
                    continue
            except (FileNotFoundError, NotADirectoryError):
                size = None
            except OSError as error:
                raise disk_error(error, f"Object {digest} cannot be removed") from error
            if size is not None or raw in packed:
                removed[digest] = (size or 0) + packed.get(raw, 0)
        return removed

    def _free_loose(self, path: str, before: float) -> bool:
        """Remove a file that nobody has counted on since a time; put it back if somebody begins to meanwhile."""
        found = os.stat(path)
        if _used(found) >= before:
            return False
        aside = f"{self._root}/{TEMPORARY}/{os.getpid()}-{os.urandom(8).hex()}"
        self._make(os.path.dirname(aside))
        os.rename(path, aside)
        if os.stat(aside).st_mtime_ns != found.st_mtime_ns:
            os.rename(aside, path)
            return False
        os.unlink(aside)
        return True

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

    def damaged(self) -> Digests:
        """Return objects that count as absent since only damaged bytes of theirs are left; `check` finds the others."""
        with self._guard("Packs cannot be read"):
            return [digests.FILE + raw.hex() for raw in self._packs.damaged()]

    def flush(self) -> None:
        """Make durable every object that was put with ``durable=False`` since the last flush; any thread may call it.

        After an `UnreachableError` they stay to be synced; what a disk has failed to write may be lost all the same.
        """
        with self._flushing:  # another thread's flush may have taken ours: it is to be waited for
            with self._lock:
                files, folders = self._unsynced, self._unsynced_folders
                self._unsynced, self._unsynced_folders = {}, {}
            try:
                sync_all([*files, *folders])
                self._packs.sync()
            except OSError as error:
                with self._lock:
                    self._unsynced = files | self._unsynced
                    self._unsynced_folders = folders | self._unsynced_folders
                raise disk_error(error, "Objects cannot be made durable") from error

    def close(self) -> None:
        """Flush, and end the pack that this process appends to. What is put afterwards goes into a new one."""
        self.flush()
        with self._guard("A pack cannot be closed"):
            self._packs.close()

    def forked(self) -> None:
        """Leave what the parent has not finished to the parent: called in a forked child."""
        self._lock, self._flushing = threading.RLock(), threading.RLock()
        self._packs.forked()

    def tidy(self) -> int:
        """Merge packs where many are small or mostly removed; return how many went. Other processes may go on."""
        with self._guard("Packs cannot be merged"):
            return self._packs.tidy()

    def removed_bytes(self) -> int:
        """Return how many bytes of packs are of objects that were removed: merging gives them back."""
        with self._guard("Packs cannot be read"):
            return self._packs.removed_bytes()

    def leftovers(self, *, before: float) -> Digests:
        """Return the paths of temporary files last written before a wall time in s."""
        found = []
        folder = os.path.join(self._root, TEMPORARY)
        for name in _names(folder, _DRAFT):
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(path := os.path.join(folder, name)).st_mtime < before:
                    found.append(path)
        return found

    def sweep(self, *, before: float) -> int:
        """Remove temporary files last written before a wall time (in seconds); return how many.

        A living writer touches its file all the time: a day ago is a safe choice.
        """
        count = 0
        for path in self.leftovers(before=before):
            try:
                os.unlink(path)
                count += 1
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error(error, f"{path} cannot be removed") from error
        return count

    @contextlib.contextmanager
    def _guard(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, what) from error

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

    def _put_bytes(self, digest: str, data: bytes, *, durable: bool) -> None:
        """Keep some bytes of that hash: in a pack if they are few, else in a file."""
        path = self._path(digest)
        if self._held(digest, path) == len(data) and self._is_whole(digest) and _count_on(path):
            # Another process may have put it without syncing it yet, and this caller is promised that it is durable.
            self._note([path], [os.path.dirname(path)], durable=durable)
            return
        if len(data) <= SMALL_BYTES:
            try:
                self._packs.put(_raw(digest), data)
                if durable:
                    self._packs.sync()
            except OSError as error:
                raise disk_error(error, f"{self._root} cannot be written") from error
            return
        with self._draft() as draft:
            draft.write(data)
            self._settle(draft, path, durable=durable)

    def _is_whole(self, digest: str) -> bool:
        try:
            self.check(digest)
        except CorruptError:
            with contextlib.suppress(OSError):
                os.unlink(self._path(digest))  # so that the copy that is put in its place is the one that is read
            return False
        return True

    def _draft(self) -> Draft:
        folder = f"{self._root}/{TEMPORARY}"
        path = f"{folder}/{os.getpid()}-{os.urandom(8).hex()}"
        try:
            try:
                return Draft(path)
            except FileNotFoundError:
                self._note([], self._make(folder), durable=True)
                return Draft(path)
        except OSError as error:
            raise disk_error(error, f"{self._root} cannot be written") from error

    def _part(self, digest: str) -> Part | None:
        """Return what came of an object; None if another process brings it at this moment, or none may."""
        folder = f"{self._root}/{TEMPORARY}"
        path = f"{folder}/{digest.removeprefix(digests.FILE)}.part"
        try:
            with contextlib.suppress(FileNotFoundError):
                return Part(path)
            self._note([], self._make(folder), durable=True)
            return Part(path)
        except OSError:
            return None

    def _settle(self, draft: Draft, path: str, *, durable: bool) -> None:
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
            sync_all([*files, *folders])
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


def _count_on(path: str) -> bool:
    """Say that somebody counts on an object, so that nobody who frees old ones takes it; False if it is gone."""
    try:
        if os.stat(path).st_nlink == 1:  # else it is a file of the user's as well, whose times are not ours
            os.utime(path)
    except FileNotFoundError:
        return False
    except OSError:  # of another user, who alone may remove it; or nobody can write here
        pass
    return True


def _used(found: os.stat_result) -> float:
    """Return when a file was last put or counted on; for ever, if it has another name."""
    return max(found.st_mtime, found.st_ctime) if found.st_nlink == 1 else math.inf


def _raw(digest: str) -> bytes:
    return bytes.fromhex(check_name(digest)[len(digests.FILE) :])


def _missing(digest: str) -> NotFoundError:
    return NotFoundError(f"Object {digest} is not here.", hint="`cmf pull --data` fetches what a hub holds.")


def _names(folder: str, pattern: re.Pattern[str]) -> Digests:
    try:
        return sorted(name for name in os.listdir(folder) if pattern.fullmatch(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise read_error(error, folder) from error
