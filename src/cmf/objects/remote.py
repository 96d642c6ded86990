"""Objects in a place that holds only bytes: large ones in a file each, small ones together in packs.

A pack is the one of `cmf.objects.pack`, complete with its index, and named by the SHA-256 of all its bytes. Nothing is
ever changed in place: so a place needs no locks, and two sites that send the same objects at once disturb nobody.
"""

from __future__ import annotations

import heapq
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import BinaryIO, NamedTuple

from cmf.errors import CmfError, CorruptError, NotFoundError, UnsupportedError, UsageError
from cmf.model import digest as digests
from cmf.model.wire import Small
from cmf.objects import Digests, Resumed, bucket, check_name, mismatched, unnoticed
from cmf.objects import pack as packs
from cmf.objects.bucket import Bucket, in_flight
from cmf.objects.pack import Place

PACK_BYTES = 12 << 20
"""A pack is sent when it has grown to this."""

PACK_OBJECTS_MAX = 32_768

TAIL_BYTES = 64 << 10
"""What is read of a pack's end at first: the index of 1,400 objects."""

GAP_BYTES = 256 << 10
"""Objects of a pack that lie closer than this are read together."""

FORMAT, VERSION = "format", 1
FORMAT_BYTES = b'{"cmf":"objects","v":1}\n'

_FILE = re.compile(r"files/([0-9a-f]{2})/([0-9a-f]{62})")
_PACK = re.compile(r"packs/([0-9a-f]{64})\.pack")
_VERSIONED = re.compile(rb'\{"cmf":"objects","v":([0-9]{1,9})\}\n')


class _Packed(NamedTuple):
    """Where an object is: in which pack, and where in it."""

    pack: str
    place: Place


class RemoteObjects:
    """An `ObjectStore` in a `Bucket`. Safe to be used by several threads.

    What others send meanwhile is seen by `absent` and `list`, which look anew.
    """

    def __init__(self, place: Bucket) -> None:
        self._bucket = place
        self._lock = threading.RLock()
        self._packs: dict[str, dict[bytes, Place]] = {}
        self._where: dict[bytes, _Packed] = {}
        self._is_listed = self._is_known = False

    @property
    def url(self) -> str:
        """Return what the place is called."""
        return self._bucket.url

    def close(self) -> None:
        """End its connections."""
        self._bucket.close()

    # ---- one at a time -------------------------------------------------------------------------------------------

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return which of these it does not hold, in the order given, repeats included."""
        asked = [check_name(digest) for digest in digests]
        self._refresh()
        loose = {_path(digest): digest for digest in asked if _raw(digest) not in self._where}
        found = {loose[name] for name in self._bucket.sizes(loose)}
        return [digest for digest in asked if digest not in found and _raw(digest) not in self._where]

    def size(self, digest: str) -> int:
        """Return an object's size in bytes; `NotFoundError` if it isn't held."""
        name = _path(check_name(digest))
        if not self._is_listed:
            self._refresh()
        packed = self._where.get(_raw(digest))
        size = packed.place.size if packed is not None else self._bucket.sizes([name]).get(name)
        if size is None:
            raise NotFoundError(f"{self.url} does not hold object {digest}.", kind="object")
        return size

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on; `NotFoundError` if it isn't held."""
        name = _path(check_name(digest))
        if offset < 0:
            raise UsageError(f"An object has no byte at {offset}.")
        if not self._is_listed:
            self._refresh()
        for is_fresh in (False, True):
            if is_fresh:
                self._refresh()
            packed = self._where.get(_raw(digest))
            if packed is not None:
                start = min(offset, packed.place.size)
                end = packed.place.offset + packed.place.size
                return self._bucket.open(packed.pack, end, packed.place.offset + start)
            sizes = self._bucket.sizes([name])
            if name in sizes:
                return self._bucket.open(name, sizes[name], offset)
        raise NotFoundError(f"{self.url} does not hold object {digest}.", kind="object")

    def put(self, digest: str, source: BinaryIO | bytes, *, folder: bool = False, resumed: Resumed = unnoticed) -> int:
        """Send an object in a file of its own and return its size; a folder's manifest is as any other."""
        name = _path(check_name(digest))
        self._greet()
        return self._bucket.write(name, digest, source, resumed=resumed)

    def file(self, digest: str) -> str:
        """Return the name of the file that is an object; "" if it shares one with others, or isn't held."""
        name = _path(check_name(digest))
        return name if name in self._bucket.sizes([name]) else ""

    def admit(self, digest: str, size: int, make: Callable[[str], None]) -> None:
        """Have an object's file made under the name that ``make`` is called with, unless one of its size is there."""
        name = _path(check_name(digest))
        self._greet()
        if self._bucket.sizes([name]).get(name) != size:
            make(name)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the size of each object, sorted by digest."""
        self._refresh()
        packed = sorted((digests.FILE + raw.hex(), found.place.size) for raw, found in self._where.items())
        loose = []
        for name, size in self._bucket.names("files/"):
            if match := _FILE.fullmatch(name):
                loose.append((digests.FILE + match[1] + match[2], size))
        last = ""
        for digest, size in heapq.merge(sorted(loose), packed):
            if digest != last:
                yield digest, size
            last = digest

    def remove(self, digests: Iterable[str]) -> int:
        """Remove these objects and return how many of them were there.

        What shares a pack with them is sent anew, but for what is damaged there: that is no object any more.
        """
        asked = {_raw(check_name(digest)): _path(digest) for digest in digests}
        self._refresh()
        loose = self._bucket.sizes(asked.values())
        there = {raw for raw, name in asked.items() if name in loose or raw in self._where}
        self._bucket.delete(loose)
        for name, places in [*self._packs.items()]:
            if not asked.keys() & places.keys():
                continue
            rest = (raw for raw in places if raw not in asked)
            # The rest is safe in its new pack before the old one goes.
            kept = [
                small for small in self._read_pack(name, [*rest]) if sha256(small.data).digest() == _raw(small.digest)
            ]
            if kept:
                self._send(kept)
            self._bucket.delete([name])
            self._forget(name)
        return len(there)

    # ---- many at once --------------------------------------------------------------------------------------------

    def put_all(self, found: Iterable[Small]) -> Iterator[tuple[Small, CmfError | None]]:
        """Send small objects in packs, a few packs at once; yield each when it is durable. None is ever refused."""
        for sent, _ in in_flight(self._send, _batches(found)):
            for small in sent:
                yield small, None

    def get_all(self, asked: Iterable[str]) -> Iterator[Sequence[Small]]:
        """Yield objects, some at a time, in any order; what isn't held is left out.

        Of those with a file of their own there are no bytes: `open` has them. They are not verified yet: `put` into a
        store does it.
        """
        self._refresh()
        wanted: dict[str, list[bytes]] = {}
        loose = []
        for digest in dict.fromkeys(check_name(digest) for digest in asked):
            packed = self._where.get(_raw(digest))
            if packed is None:
                loose.append(digest)
            else:
                wanted.setdefault(packed.pack, []).append(_raw(digest))
        for _, page in in_flight(lambda item: self._read_pack(*item), wanted.items()):
            yield page
        sizes = self._bucket.sizes([_path(digest) for digest in loose])
        there = [digest for digest in loose if _path(digest) in sizes]
        if there:
            yield [Small(digest, b"", large=True) for digest in there]

    def _send(self, batch: Sequence[Small]) -> None:
        """Make a pack of some objects and send it."""
        frames, places, at = [packs.MAGIC], {}, len(packs.MAGIC)
        for small in batch:
            raw = _raw(check_name(small.digest))
            if sha256(small.data).digest() != raw:
                raise mismatched(small.digest, digests.file_digest(small.data))
            frame = packs.head(packs.OBJECT, raw, len(small.data))
            frames += [frame, small.data]
            places[raw] = Place(at + len(frame), len(small.data))
            at += len(frame) + len(small.data)
        data = b"".join([*frames, packs.index(places, at)])
        self._greet()
        name = sha256(data).hexdigest()
        path = f"packs/{name}.pack"
        self._bucket.write(path, digests.FILE + name, data)
        self._learn(path, places)

    def _read_pack(self, name: str, wanted: Sequence[bytes]) -> Sequence[Small]:
        """Return some objects of a pack, in as few reads as is sensible."""
        places = sorted((self._packs[name][raw], raw) for raw in wanted)
        found: list[Small] = []
        first = 0
        for number, (place, _) in enumerate(places):
            is_last = number + 1 == len(places)
            end = place.offset + place.size
            if not is_last and places[number + 1][0].offset - end <= GAP_BYTES:
                continue
            start = places[first][0].offset
            data = self._bucket.read(name, start, end - start)
            for at, raw in places[first : number + 1]:
                part = data[at.offset - start : at.offset - start + at.size]
                found.append(Small(digests.FILE + raw.hex(), part))
            first = number + 1
        return found

    # ---- what is there -------------------------------------------------------------------------------------------

    def _greet(self) -> None:
        """Say, in a place that is new, of what form it is; refuse one of a newer form."""
        with self._lock:
            if self._is_known or self._is_of_form():
                return
            self._bucket.write(FORMAT, digests.file_digest(FORMAT_BYTES), FORMAT_BYTES)
            self._is_known = True

    def _is_of_form(self) -> bool:
        try:
            said = self._bucket.read(FORMAT, 0, 64)
        except NotFoundError:
            return False
        match = _VERSIONED.fullmatch(said)
        if match is None:
            raise CorruptError(f"{self.url} holds a file '{FORMAT}' that cmf did not write.", kind="remote")
        if int(match[1]) > VERSION:
            raise UnsupportedError(
                f"{self.url} has format version {int(match[1])}; this version reads {VERSION}.",
                hint="Upgrade cmf; nothing was changed.",
                kind="newer-format",
            )
        self._is_known = True
        return True

    def _refresh(self) -> None:
        """See which packs there are, and read the indexes of those that are new."""
        with self._lock:
            if not self._is_known:
                self._is_of_form()
            there = {name: size for name, size in self._bucket.names("packs/") if _PACK.fullmatch(name)}
            for name in self._packs.keys() - there.keys():
                self._forget(name)
            new = [(name, size) for name, size in there.items() if name not in self._packs]
            for (name, _), places in in_flight(lambda item: self._index(*item), new, 2 * bucket.IN_FLIGHT):
                if places is not None:
                    self._learn(name, places)
            self._is_listed = True

    def _index(self, name: str, size: int) -> dict[bytes, Place] | None:
        """Return what a pack holds; None if it was deleted meanwhile."""
        try:
            found = packs.indexed(self._bucket.read(name, max(0, size - TAIL_BYTES), min(size, TAIL_BYTES)), size)
            if isinstance(found, int):
                found = packs.indexed(self._bucket.read(name, size - found, found), size)
        except NotFoundError:
            return None
        if not isinstance(found, dict):
            raise CorruptError(
                f"{name} at {self.url} is damaged: it has no index.",
                hint="Delete it there, and push again from the sites that have its objects.",
                kind="remote",
            )
        return found

    def _learn(self, name: str, places: dict[bytes, Place]) -> None:
        with self._lock:
            self._packs[name] = places
            for raw, place in places.items():
                self._where[raw] = _Packed(name, place)

    def _forget(self, name: str) -> None:
        with self._lock:
            for raw in self._packs.pop(name, {}):
                if raw in self._where and self._where[raw].pack == name:
                    del self._where[raw]
            for other, places in self._packs.items():
                for raw in places.keys() - self._where.keys():
                    self._where[raw] = _Packed(other, places[raw])


def _batches(found: Iterable[Small]) -> Iterator[Sequence[Small]]:
    batch: list[Small] = []
    size = 0
    for small in found:
        batch.append(small)
        size += len(small.data)
        if size >= PACK_BYTES or len(batch) == PACK_OBJECTS_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _path(digest: str) -> str:
    name = digest[len(digests.FILE) :]
    return f"files/{name[:2]}/{name[2:]}"


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest[len(digests.FILE) :])
