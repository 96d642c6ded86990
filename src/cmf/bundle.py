"""A bundle: segments and objects in one file, for sites that no network joins. A bundle is one end of a transfer.

It is ``cmf-bdl`` and a version byte, then frames as hubs and clients send them (``u8 tag · u32 length · bytes``): what
its maker holds, segments each stream in order, objects, and an end with the SHA-256 of all before it. It is written
under another name and takes its own when it is whole; a reader checks the whole before it takes anything.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

import msgspec

from cmf import transfer
from cmf.errors import CmfError, ConflictError, CorruptError, NotFoundError, UnreachableError, UnsupportedError
from cmf.graph import registers
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, Head, Sample, View, sample_numbers
from cmf.model.segment import Genesis
from cmf.objects import CHUNK_BYTES
from cmf.store.arriving import Outcome

MAGIC = b"cmf-bdl\x01"
HOLDS, PART, SEAL = 16, 17, 18
"""Tags beside those of `wire`: what the maker holds; a piece of an object; the end."""

_FRAME = struct.Struct("<BI")
_PART = struct.Struct("<32sQ")


class _Place(NamedTuple):
    """A segment in a bundle: its position in its stream, the one before it, and where its bytes lie."""

    n: int
    prev: bytes
    offset: int
    length: int


class Stream(msgspec.Struct):
    """One stream of a bundle. ``base``: heads that the receiver holds already, behind which the bundle begins."""

    scope: str
    writer: bytes
    site: str
    base: dict[bytes, int] = {}
    chain: dict[bytes, _Place] = {}

    def heads(self) -> list[Head]:
        """Return the segments that no other follows, those of the base included."""
        followed = {place.prev for place in self.chain.values()}
        held = {**self.base, **{hash_: place.n for hash_, place in self.chain.items()}}
        return sorted((Head(n, hash_) for hash_, n in held.items() if hash_ not in followed), reverse=True)


class Object(NamedTuple):
    """An object in a bundle: its digest, its size in bytes, and where its pieces lie."""

    digest: str
    size: int
    pieces: list[tuple[int, int]]


class Bundle:
    """A bundle file. `create` makes one to be filled, `open` reads one that is whole.

    ``holds``: what its maker held. Of what was admitted, ``evidence`` are the objects that a push would send along,
    ``artifacts`` all that events name.
    """

    def __init__(self, path: Path, file: BinaryIO, *, temporary: Path | None) -> None:
        self.path = path
        self._file = file
        self._temporary = temporary
        self._streams: dict[bytes, Stream] = {}
        self.objects: dict[str, Object] = {}
        self.holds: list[Sample] = []
        self.evidence: dict[str, None] = {}
        self.artifacts: dict[str, None] = {}

    @classmethod
    def create(cls, path: Path, *, holds: Iterable[Sample] = (), base: Mapping[bytes, Stream] | None = None) -> Bundle:
        """Begin a bundle: `seal` gives it its name. ``holds``: all that its maker has; ``base``: what is left out."""
        if path.exists():
            raise ConflictError(f"{path} is there already.", hint="Name another file.", kind="exists")
        temporary = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
        try:
            file = open(temporary, "x+b")  # noqa: SIM115  # closed with the bundle
            made = cls(path, file, temporary=temporary)
            made._file.write(MAGIC)
        except OSError as error:
            raise UnreachableError(f"{path} cannot be written: {error.strerror}.", kind="disk") from error
        made._streams = dict(base or {})
        held = wire.Streams(streams=wire.from_samples(holds))
        made._frame(HOLDS, msgspec.json.encode([held, _to_base(made._streams)]))
        return made

    @classmethod
    def open(cls, path: Path) -> Bundle:
        """Open a bundle and check it whole: `CorruptError` if a byte is missing or another than was written."""
        try:
            file = open(path, "rb")  # noqa: SIM115  # closed with the bundle
        except FileNotFoundError as error:
            raise NotFoundError(f"There is no file {path}.") from error
        except OSError as error:
            raise UnreachableError(f"{path} cannot be read: {error.strerror}.", kind="disk") from error
        found = cls(path, file, temporary=None)
        try:
            found._read()
        except BaseException:  # ctrl-C too: nobody else would close it
            file.close()
            raise
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; one that was not sealed is removed."""
        self._file.close()
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)

    def seal(self) -> int:
        """End the bundle, make it durable, and give it its name; return its size in bytes."""
        assert self._temporary is not None
        try:
            self._file.flush()
            self._frame(SEAL, _hash_of(self._file, self._file.seek(0, os.SEEK_END)))
            size = self._file.tell()
            self._file.flush()
            os.fsync(self._file.fileno())
            os.link(self._temporary, self.path)
        except FileExistsError as error:
            raise ConflictError(f"{self.path} is there already.", hint="Name another file.", kind="exists") from error
        except OSError as error:
            raise UnreachableError(f"{self.path} cannot be written: {error.strerror}.", kind="disk") from error
        return size

    # ---- one end of a transfer -------------------------------------------------------------------------------------

    def streams(self, view: View) -> Iterator[Sample]:
        """Return sampled positions of each stream in the view."""
        for stream, held in self._in(view):
            heads = held.heads()
            wanted = set(sample_numbers(heads[0].n)) if heads else set()
            points = {Head(place.n, hash_) for hash_, place in held.chain.items() if place.n in wanted}
            yield Sample(stream, tuple(sorted(points.union(heads), reverse=True)))

    def have(self, samples: Iterable[Sample]) -> dict[bytes, tuple[Head, ...]]:
        """Return what this bundle holds of these streams, and what it need not hold."""
        found: dict[bytes, tuple[Head, ...]] = {}
        for sample in samples:
            held = self._streams.get(sample.stream)
            if held is None:
                continue
            known = next(
                (point for point in sample.points if point.hash in held.chain or point.hash in held.base), None
            )
            found[sample.stream] = tuple(
                sorted(
                    {*held.heads(), *([known] if known else []), *(Head(n, h) for h, n in held.base.items())},
                    reverse=True,
                )
            )
        return found

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return the segments in the view that lie behind none of these heads, each stream in order."""
        for stream, held in self._in(view):
            covered: set[bytes] = set()
            for head in after.get(stream, ()):
                at = head.hash
                while at in held.chain and at not in covered:
                    covered.add(at)
                    at = held.chain[at].prev
            left = [(place.n, hash_, place) for hash_, place in held.chain.items() if hash_ not in covered]
            for _, _, place in sorted(left):
                yield self._bytes(place.offset, place.length)

    def matching(self, view: View) -> Iterator[bytes]:
        """Return the hash of every segment of the view's streams: a bundle has no index to run a filter on."""
        for _, held in self._in(view):
            yield from held.chain

    def get(self, hashes: Iterable[bytes]) -> Iterator[bytes]:
        """Return those of these segments that are here, each stream's genesis before them if it is."""
        wanted = set(hashes)
        for stream, held in sorted(self._streams.items()):
            found = sorted((held.chain[hash_].n, hash_) for hash_ in wanted & held.chain.keys())
            if found and found[0][1] != stream and stream in held.chain:
                found.insert(0, (0, stream))
            for _, hash_ in found:
                yield self._bytes(held.chain[hash_].offset, held.chain[hash_].length)

    def _in(self, view: View) -> list[tuple[bytes, Stream]]:
        """Return the streams in a view, by id."""
        sites = set(view.sites)
        if sites:
            for held in self._streams.values():
                if held.site not in sites and not sites.isdisjoint(self._names(held)):
                    sites.add(held.site)
        view = msgspec.structs.replace(view, sites=tuple(sites))
        return [(id_, held) for id_, held in sorted(self._streams.items()) if view.covers(held.scope, held.site)]

    def _names(self, held: Stream) -> set[str]:
        """Return what the site of a stream calls itself in it."""
        return {
            registers.site(record.value)
            for place in held.chain.values()
            for _, data in segments.records_of(segments.from_wire(self._bytes(place.offset, place.length)))
            if isinstance(record := model.trusted(data), model.Property) and record.key.startswith(registers.PROCESS)
            if isinstance(record.value, dict)
        }

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Verify each segment and append it; say of each what became of it."""
        for data in segments:
            found = transfer.verified(data, self._stream_of)
            if isinstance(found, Admission):
                yield found
                continue
            outcome: Outcome
            try:
                outcome = "new" if self._insert(found, data) else "known"
            except ConflictError as error:
                outcome = error
            yield transfer.admission(found, outcome)

    def _stream_of(self, stream: bytes) -> tuple[str, bytes, str] | None:
        held = self._streams.get(stream)
        return (held.scope, held.writer, held.site) if held else None

    def _insert(self, found: transfer.Verified, data: bytes) -> bool:
        segment, fields = found.segment, found.segment.fields
        if isinstance(fields, Genesis):
            if segment.hash in self._streams:
                return False
            self._streams[segment.hash] = Stream(fields.scope, bytes.fromhex(fields.writer), fields.site, {}, {})
            prev = b""
        else:
            held = self._streams[segment.stream]
            prev = bytes.fromhex(fields.prev)
            before = held.chain[prev].n if prev in held.chain else held.base.get(prev)
            if segment.hash in held.chain or segment.hash in held.base:
                return False
            if before != segment.n - 1:
                raise ConflictError(f"Segment {segment.n} came without the one before it.", kind="gap")
        offset = self._frame(wire.SEGMENT, data)
        self._streams[segment.stream].chain[segment.hash] = _Place(segment.n, prev, offset, len(data))
        for item in found.items:
            self.evidence.update(dict.fromkeys(model.sent_with(item.record)))
            if isinstance(item.record, model.Event):
                self.artifacts[item.record.artifact] = None
        return True

    # ---- objects ---------------------------------------------------------------------------------------------------

    def put(self, digest: str, source: BinaryIO) -> int:
        """Append an object, hashed while it is read; return its size. `CorruptError` if the bytes are others."""
        if digest in self.objects:
            return self.objects[digest].size
        raw = bytes.fromhex(digest.removeprefix(digests.FILE))
        hashed, size = hashlib.sha256(), 0
        pieces: list[tuple[int, int]] = []
        start = self._file.seek(0, os.SEEK_END)
        while (data := source.read(CHUNK_BYTES)) or not pieces:
            hashed.update(data)
            offset = self._frame(PART, _PART.pack(raw, size) + data)
            pieces.append((offset + _PART.size, len(data)))
            size += len(data)
            if not data:
                break
        if hashed.digest() != raw:
            self._file.seek(start)
            self._file.truncate()
            raise CorruptError(f"The bytes handed over as object {digest} are others.", kind="object")
        self.objects[digest] = Object(digest, size, pieces)
        return size

    def read(self, digest: str) -> BinaryIO:
        """Return a reader of an object's bytes."""
        import io

        found = self.objects[digest]
        bundle = self

        class Reader(io.RawIOBase):
            pieces = iter(found.pieces)
            rest = b""

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any buffer that io hands over
                while not self.rest:
                    piece = next(self.pieces, None)
                    if piece is None:
                        return 0
                    self.rest = bundle._bytes(*piece)
                count = min(len(buffer), len(self.rest))
                buffer[:count] = self.rest[:count]
                self.rest = self.rest[count:]
                return count

        return io.BufferedReader(Reader(), CHUNK_BYTES)

    # ---- bytes -----------------------------------------------------------------------------------------------------

    def _frame(self, tag: int, data: bytes) -> int:
        """Append a frame; return where its content begins."""
        try:
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(_FRAME.pack(tag, len(data)) + data)
        except OSError as error:
            raise UnreachableError(f"{self.path} cannot be written: {error.strerror}.", kind="disk") from error
        return start + _FRAME.size

    def _bytes(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        data = self._file.read(length)
        if len(data) != length:
            raise CorruptError(f"{self.path} is cut short.", kind="bundle")
        return data

    def _read(self) -> None:
        magic = self._file.read(len(MAGIC))
        if magic[:7] != MAGIC[:7] or len(magic) < len(MAGIC):
            raise CorruptError(f"{self.path} is not a bundle.", kind="bundle")
        if magic[7] > MAGIC[7]:
            raise UnsupportedError(
                f"{self.path} has format version {magic[7]}.", hint="Upgrade cmf.", kind="newer-format"
            )
        at = len(MAGIC)
        while True:
            self._file.seek(at)
            head = self._file.read(_FRAME.size)
            tag, length = _FRAME.unpack(head) if len(head) == _FRAME.size else (0, 0)
            if tag == SEAL:
                if length != 32 or _hash_of(self._file, at) != self._bytes(at + _FRAME.size, 32):
                    raise CorruptError(f"{self.path} was damaged on its way.", hint="Fetch it again.", kind="bundle")
                return
            if tag not in (HOLDS, PART, wire.SEGMENT) or length > wire.JSON_BYTES_MAX:
                raise CorruptError(f"{self.path} is cut short or damaged.", hint="Fetch it again.", kind="bundle")
            self._note(tag, at + _FRAME.size, length)
            at += _FRAME.size + length

    def _note(self, tag: int, offset: int, length: int) -> None:
        """Take a frame into the index. What it holds is checked when it is taken in elsewhere."""
        if tag == PART:
            raw, start = _PART.unpack(self._bytes(offset, _PART.size))
            digest = digests.FILE + raw.hex()
            held = self.objects.setdefault(digest, Object(digest, 0, []))
            if start != held.size:
                raise CorruptError(f"{self.path} holds object {digest} in disorder.", kind="bundle")
            piece = (offset + _PART.size, length - _PART.size)
            self.objects[digest] = Object(digest, held.size + piece[1], [*held.pieces, piece])
        elif tag == HOLDS:
            try:
                holds, base = msgspec.json.decode(self._bytes(offset, length), type=tuple[wire.Streams, _Bases])
            except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
                raise CorruptError(f"{self.path} cannot be read: {error}.", kind="bundle") from error
            self.holds = wire.to_samples(holds.streams)
            self._streams = _from_base(base)
        else:
            data = self._bytes(offset, length)
            try:
                segment = segments.from_wire(data)
            except CmfError as error:
                raise CorruptError(f"{self.path} holds a damaged segment: {error.message}", kind="bundle") from error
            fields = segment.fields
            if isinstance(fields, Genesis):
                self._streams[segment.hash] = Stream(fields.scope, bytes.fromhex(fields.writer), fields.site, {}, {})
            held_stream = self._streams.get(segment.stream)
            if held_stream is None:
                raise CorruptError(f"{self.path} holds a segment without its stream.", kind="bundle")
            prev = b"" if isinstance(fields, Genesis) else bytes.fromhex(fields.prev)
            held_stream.chain[segment.hash] = _Place(segment.n, prev, offset, length)


_Bases = dict[str, tuple[str, str, str, list[tuple[int, str]]]]
"""Stream id -> scope, writer, site, and the heads behind which the bundle begins; ids and hashes in hex."""


def _to_base(streams: Mapping[bytes, Stream]) -> _Bases:
    return {
        id_.hex(): (held.scope, held.writer.hex(), held.site, [(n, hash_.hex()) for hash_, n in held.base.items()])
        for id_, held in streams.items()
    }


def _from_base(bases: _Bases) -> dict[bytes, Stream]:
    return {
        wire.raw(id_): Stream(scope, wire.raw(writer), site, {wire.raw(hash_): n for n, hash_ in heads}, {})
        for id_, (scope, writer, site, heads) in bases.items()
    }


def _hash_of(file: BinaryIO, end: int) -> bytes:
    """Return the SHA-256 of a file's first bytes."""
    file.seek(0)
    hashed = hashlib.sha256()
    while end > 0 and (data := file.read(min(CHUNK_BYTES, end))):
        hashed.update(data)
        end -= len(data)
    return hashed.digest()
