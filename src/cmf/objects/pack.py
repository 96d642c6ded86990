"""One pack: many small objects in one append-only file. The normative text is `docs/reference/format.md`.

A pack is a magic and frames of ``u8 kind, u32 size, 32-byte digest, u32 crc32 of those``, little-endian, then ``size``
bytes. Its last frame may be an index; then nothing is appended any more. The digest of a frame vouches for its bytes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from hashlib import sha256
from typing import NamedTuple

from cmf.errors import UnsupportedError

MAGIC = b"cmf-pak\x01"
VERSION = 1
OBJECT, INDEX = 1, 2
OBJECT_BYTES_MAX = 256 << 10
"""What is larger has a file of its own."""

_HEAD = struct.Struct("<BI32sI")
_CHECKED = _HEAD.size - 4
_TAIL = struct.Struct("<QI8s")
_END = b"cmf-end\x01"
_FANOUT = struct.Struct("<256I")
_PLACE = struct.Struct("<QI")
_DIGEST = 32
_INDEX_BYTES_MAX = 64 << 20
MANY = 128
"""If one in so many of a pack's objects is looked for, its index is read from one end to the other."""

_SCAN_BYTES = 4 << 20


class Place(NamedTuple):
    """Where an object's bytes are in a pack."""

    offset: int
    size: int


class Handle:
    """A file descriptor that is closed when nobody uses it any more."""

    def __init__(self, path: str, flags: int, mode: int = 0o444) -> None:
        self.fd = -1
        self.fd = os.open(path, flags | os.O_CLOEXEC, mode)

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


def sync_path(path: str) -> None:
    """Make a file's bytes, or the names in a folder, survive power loss."""
    handle = Handle(path, os.O_RDONLY)
    os.fsync(handle.fd)


def head(kind: int, digest: bytes, size: int) -> bytes:
    """Return what goes before the bytes of a frame."""
    start = struct.pack("<BI32s", kind, size, digest)
    return start + zlib.crc32(start).to_bytes(4, "little")


def index(places: dict[bytes, Place], at: int) -> bytes:
    """Return the index frame of some objects and the tail behind it, for a pack that ends at an offset."""
    ordered = sorted(places)
    counts = [0] * 256
    for digest in ordered:
        counts[digest[0]] += 1
    total = 0
    for first in range(256):
        total += counts[first]
        counts[first] = total
    data = b"".join(
        (_FANOUT.pack(*counts), b"".join(ordered), b"".join(_PLACE.pack(*places[digest]) for digest in ordered))
    )
    return head(INDEX, sha256(data).digest(), len(data)) + data + _TAIL.pack(at, len(data), _END)


def indexed(tail: bytes, size: int) -> dict[bytes, Place] | int | None:
    """Return what a pack of some size holds, by its last bytes; how many of these it takes, if more; None if no index.

    Nothing in it is believed: what would lie outside the pack, or be larger than a pack's object, is no index.
    """
    if len(tail) < _TAIL.size:
        return None
    at, length, end = _TAIL.unpack(tail[-_TAIL.size :])
    count, odd = divmod(length - _FANOUT.size, _DIGEST + _PLACE.size)
    wrong = end != _END or odd or length > _INDEX_BYTES_MAX or at + _HEAD.size + length + _TAIL.size != size
    if wrong or count < 0:
        return None
    if size - at > len(tail):
        return size - int(at)
    frame = tail[at - size :]
    data = frame[_HEAD.size : -_TAIL.size]
    if frame[: _HEAD.size] != head(INDEX, sha256(data).digest(), length):
        return None
    names = data[_FANOUT.size : _FANOUT.size + count * _DIGEST]
    places = map(Place._make, _PLACE.iter_unpack(data[_FANOUT.size + count * _DIGEST :]))
    found = dict(zip((names[n : n + _DIGEST] for n in range(0, len(names), _DIGEST)), places, strict=True))
    if any(place.size > OBJECT_BYTES_MAX or place.offset + place.size > at for place in found.values()):
        return None
    return found


class Pack:
    """A pack as a reader sees it. Not safe to be used by several threads at once.

    One without an index is read through, each object verified; what a living process appends is seen at the next
    `refresh`. Of one with an index only the index is read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.is_pack = True
        """Whether it starts as a pack does; one that doesn't holds nothing."""
        self.is_sealed = False
        self.is_whole = True
        """Whether all of it could be read, but for a last frame that was cut short."""
        self.places: dict[bytes, Place] = {}
        """Of a pack without an index."""
        self.gone: frozenset[int] = frozenset()
        """The offsets of objects that were removed."""
        self.end = len(MAGIC)
        """Up to where frames are known; the index of a sealed one starts there."""
        self.handle: Handle | None = None
        self._is_known = False
        self._damaged: dict[bytes, Place] = {}
        self._gone_size = 0
        self._fanout: tuple[int, ...] = ()

    def refresh(self, *, removals: bool) -> None:
        """Look for what was appended, and for what was removed since; `FileNotFoundError` if the pack is gone."""
        if not self.is_sealed:
            handle = self._opened()
            size = os.fstat(handle.fd).st_size
            if not self._is_known:
                self._check_magic(handle.fd, size)
                self._is_known = size >= len(MAGIC)
            if self.is_pack and size > self.end and not self._load_index(handle.fd, size):
                self._scan(handle.fd, size)
        if removals:
            self.refresh_removals()

    def find(self, digest: bytes) -> Place | None:
        """Return where an object is, or None."""
        place = self._indexed(digest) if self.is_sealed else self.places.get(digest)
        return None if place is None or place.offset in self.gone else place

    def held(self, wanted: set[bytes]) -> set[bytes]:
        """Return which of many objects are here."""
        if not self.is_sealed and not self.gone:
            return self.places.keys() & wanted
        if not self._is_read_through(wanted) or self.gone:
            return set(self.find_all(wanted))
        data = self._read(self.end + _HEAD.size + _FANOUT.size, self._fanout[255] * _DIGEST)
        return wanted.intersection(data[at : at + _DIGEST] for at in range(0, len(data), _DIGEST))

    def find_all(self, wanted: set[bytes]) -> dict[bytes, Place]:
        """Return where those of many objects are that are here."""
        if not self._is_read_through(wanted):
            one_by_one = ((digest, self.find(digest)) for digest in wanted)
            return {digest: place for digest, place in one_by_one if place is not None}
        count = self._fanout[255]
        data = self._read(self.end + _HEAD.size + _FANOUT.size, count * (_DIGEST + _PLACE.size))
        names = enumerate(data[at : at + _DIGEST] for at in range(0, count * _DIGEST, _DIGEST))
        at = count * _DIGEST
        found = {
            name: Place._make(_PLACE.unpack_from(data, at + number * _PLACE.size))
            for number, name in names
            if name in wanted
        }
        return {digest: place for digest, place in found.items() if place.offset not in self.gone}

    def is_full(self, objects_max: int) -> bool:
        """Tell whether it holds, or held, at least half of so many objects: merging it with others gains little."""
        count = self._fanout[255] if self.is_sealed else len(self.places)
        return 2 * count >= objects_max

    def _is_read_through(self, wanted: set[bytes]) -> bool:
        return self.is_sealed and len(wanted) * MANY >= self._fanout[255]

    def entries(self) -> Iterator[tuple[bytes, Place]]:
        """Return the objects that are here, sorted by digest."""
        found: Iterable[tuple[bytes, Place]] = sorted(self.places.items())
        if self.is_sealed:
            count = self._fanout[255]
            data = self._read(self.end + _HEAD.size + _FANOUT.size, count * (_DIGEST + _PLACE.size))
            names = (data[at : at + _DIGEST] for at in range(0, count * _DIGEST, _DIGEST))
            found = zip(names, map(Place._make, _PLACE.iter_unpack(data[count * _DIGEST :])), strict=True)
        return (entry for entry in found if entry[1].offset not in self.gone)

    def damaged(self) -> dict[bytes, Place]:
        """Return the objects whose bytes were found to be others; of a pack without an index."""
        return {digest: place for digest, place in self._damaged.items() if place.offset not in self.gone}

    def read(self, place: Place) -> bytes:
        """Return an object's bytes as they are; the caller checks their digest."""
        return self._read(place.offset, place.size)

    def _opened(self) -> Handle:
        if self.handle is None:
            self.handle = Handle(self.path, os.O_RDONLY)
        return self.handle

    def _read(self, offset: int, size: int) -> bytes:
        handle = self._opened()
        data = os.pread(handle.fd, size, offset)
        while len(data) < size and (more := os.pread(handle.fd, size - len(data), offset + len(data))):
            data += more
        return data

    def _check_magic(self, fd: int, size: int) -> None:
        magic = os.pread(fd, len(MAGIC), 0)
        if magic[:7] == MAGIC[:7] and magic[7:] > MAGIC[7:]:
            raise UnsupportedError(
                f"{self.path} has format version {magic[7]}; this version reads {VERSION}.",
                hint="Upgrade cmf; nothing was changed.",
                kind="newer-format",
            )
        self.is_pack = magic == MAGIC
        self.is_whole = self.is_pack or size < len(MAGIC)

    def _load_index(self, fd: int, size: int) -> bool:
        if size < len(MAGIC) + _HEAD.size + _FANOUT.size + _TAIL.size:
            return False
        at, length, end = _TAIL.unpack(os.pread(fd, _TAIL.size, size - _TAIL.size))
        if end != _END or length > _INDEX_BYTES_MAX or at + _HEAD.size + length + _TAIL.size != size:
            return False
        frame = self._read(at, _HEAD.size + length)
        data = memoryview(frame)[_HEAD.size :]
        if frame[: _HEAD.size] != head(INDEX, sha256(data).digest(), length):
            return False
        self._fanout = _FANOUT.unpack_from(data)
        if length != _FANOUT.size + self._fanout[255] * (_DIGEST + _PLACE.size):
            return False
        self.end = at
        self.is_sealed = self.is_whole = True
        self.places = {}
        return True

    def _indexed(self, digest: bytes) -> Place | None:
        first = digest[0]
        low = self._fanout[first - 1] if first else 0
        count = self._fanout[first] - low
        if not count:
            return None
        base = self.end + _HEAD.size + _FANOUT.size
        names = self._read(base + low * _DIGEST, count * _DIGEST)
        at = names.find(digest)
        while at % _DIGEST and at >= 0:
            at = names.find(digest, at + 1)
        if at < 0:
            return None
        number = low + at // _DIGEST
        data = self._read(base + self._fanout[255] * _DIGEST + number * _PLACE.size, _PLACE.size)
        return Place._make(_PLACE.unpack(data)) if len(data) == _PLACE.size else None

    def _scan(self, fd: int, size: int) -> None:
        """Take in the frames behind those that are known; stop before one that is cut short or not one."""
        buffer, start = b"", self.end
        while self.end < size:
            at = self.end - start
            if len(buffer) - at < _HEAD.size + OBJECT_BYTES_MAX and start + len(buffer) < size:
                start = self.end
                buffer, at = os.pread(fd, _SCAN_BYTES, start), 0
            if len(buffer) - at < _HEAD.size:
                return
            kind, length, digest, crc = _HEAD.unpack_from(buffer, at)
            if zlib.crc32(buffer[at : at + _CHECKED]) != crc:
                self.is_whole = False
                return
            if self.end + _HEAD.size + length > size:
                return
            if kind == OBJECT:
                data = memoryview(buffer)[at + _HEAD.size : at + _HEAD.size + length]
                if length <= OBJECT_BYTES_MAX and sha256(data).digest() == digest:
                    self.places[digest] = Place(self.end + _HEAD.size, length)
                else:
                    self.is_whole = False
                    self._damaged[digest] = Place(self.end + _HEAD.size, length)
            self.end += _HEAD.size + length

    def refresh_removals(self) -> None:
        """See what was removed since."""
        try:
            handle = Handle(removals_path(self.path), os.O_RDONLY)
        except FileNotFoundError:
            return
        size = os.fstat(handle.fd).st_size
        if size == self._gone_size:
            return
        data = os.pread(handle.fd, size, 0)
        found = set()
        for at in range(len(GONE_MAGIC), len(data) - _GONE.size + 1, _GONE.size):
            offset, crc = _GONE.unpack_from(data, at)
            if crc == zlib.crc32(data[at : at + 8]):
                found.add(offset)
        self.gone = frozenset(found)
        self._gone_size = size


class PackWriter:
    """A pack that is being appended to. A hidden one is seen by nobody before it is published."""

    def __init__(self, folder: str, drafts: str, *, is_hidden: bool = False) -> None:
        self.pid = os.getpid()
        self.synced = 0
        name = f"{self.pid}-{os.urandom(8).hex()}"
        self._draft = f"{drafts}/{name}"
        self.pack = Pack(f"{folder}/{name}.pack")
        handle = Handle(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o444)
        self.fd = handle.fd
        self.pack.handle = self._handle = handle
        try:
            with contextlib.suppress(OSError):  # without locks nobody takes it for idle, but when it is sealed
                fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(self.fd, MAGIC, 0)
            if not is_hidden:
                os.rename(self._draft, self.pack.path)
        except OSError:
            os.unlink(self._draft)
            raise

    @property
    def is_clean(self) -> bool:
        """Tell whether all of it is synced."""
        return self.synced >= self.pack.end

    def is_gone(self) -> bool:
        """Tell whether somebody took the pack away, which no lock kept from it."""
        return os.fstat(self.fd).st_nlink == 0

    def append(self, digest: bytes, data: bytes) -> None:
        """Append a frame whole, or leave the pack as it was."""
        at = self.pack.end
        frame = head(OBJECT, digest, len(data))
        size = len(frame) + len(data)
        written = os.pwritev(self.fd, (frame, data), at)
        if written != size:
            os.ftruncate(self.fd, at)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self.pack.path)
        self.pack.places[digest] = Place(at + _HEAD.size, len(data))
        self.pack.end = at + size

    def seal(self) -> None:
        """Append the index. It needs no sync: while it isn't whole, the pack is read without it."""
        data = index(self.pack.places, self.pack.end)
        if os.pwrite(self.fd, data, self.pack.end) != len(data):
            os.ftruncate(self.fd, self.pack.end)

    def publish(self, used: int) -> str:
        """Seal and sync a hidden pack, date it (in ns), give it its name, and return its path."""
        self.seal()
        os.utime(self.fd, ns=(used, used))
        os.fsync(self.fd)
        os.rename(self._draft, self.pack.path)
        return self.pack.path


# ---- what was removed from a pack ------------------------------------------------------------------------------------

GONE_MAGIC = b"cmf-pgo\x01"
_GONE = struct.Struct("<QI")


def removals_path(path: str) -> str:
    """Return the path of the list of what was removed from a pack."""
    return path.removesuffix(".pack") + ".gone"


def removal(offset: int) -> bytes:
    """Return the entry that says that the object at an offset was removed."""
    return _GONE.pack(offset, zlib.crc32(offset.to_bytes(8, "little")))
