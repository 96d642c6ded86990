"""Segments: signed, hash-chained batches of records of one writer in one scope.

Knows the headers, the signature's payload, the frames of a body and of the wire, and checks all of them. Refuses to
know where segments are kept and who may write what.

On the wire and in a bundle a segment is ``u16 header length · header · 64-byte signature · body · u32 CRC-32 of all
before it``; the body is zstd over ``u8 tag · u32 length · bytes`` frames. All integers are little-endian. The hashes
cover what the body holds, the checksum how it is spelled: zstd has bits that change nothing inside.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec

from cmf.errors import CorruptError, UnsupportedError
from cmf.model import dsse, encoding
from cmf.model.digest import sha256
from cmf.model.records import Artifact, Record, is_scope, read, redacts, time_of
from cmf.model.rotation import VOUCHES_MAX, Vouch
from cmf.model.zstd import compress, decompress

VERSION = 1
HEADER_BYTES_MAX = 4096
RECORDS_MAX = 1000
SIZE_BYTES_MAX = 1 << 20
SIZE_BYTES_CUT = 256 * 1024
WIRE_BYTES_MAX = 2 << 20
ID_BYTES = 32
PAYLOAD_TYPE = b"application/vnd.cmf.segment.v1"

_FRAME = struct.Struct("<BI")
_RECORD, _REDACTED = 0, 1
"""The tags of a body's frames: a record's bytes, or the id of one whose bytes were dropped."""

_LENGTH = struct.Struct("<H")
_CHECKSUM = struct.Struct("<I")
_HEX64 = re.compile(r"[0-9a-f]{64}")
_HEX128 = re.compile(r"[0-9a-f]{128}")


class Genesis(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """The header that starts a stream; the stream's id is the SHA-256 of its bytes. ``created`` is wall time in µs.

    ``vouched``: the keys that the writer's one followed, the oldest first.
    """

    alg: str
    created: int
    n: int
    nonce: str
    scope: str
    site: str
    v: int
    vouched: tuple[Vouch, ...] = ()
    writer: str


class Header(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """Any later header: it commits to the records' ids, their order, and the header before it."""

    count: int
    ids: str
    n: int
    prev: str
    sealed: int
    size: int
    stream: str
    t0: int | None = None
    t1: int | None = None
    v: int


class Segment(msgspec.Struct, frozen=True, kw_only=True):
    """One segment as bytes, with its header decoded. ``hash`` is the SHA-256 of the header bytes."""

    hash: bytes
    header: bytes
    signature: bytes
    body: bytes
    fields: Genesis | Header

    @property
    def stream(self) -> bytes:
        """Return the raw id of the stream that this segment belongs to."""
        return self.hash if isinstance(self.fields, Genesis) else bytes.fromhex(self.fields.stream)

    @property
    def n(self) -> int:
        """Return the position in the stream; 0 is the genesis."""
        return self.fields.n


class Signer(Protocol):
    """Who signs: ``public`` is the raw 32-byte Ed25519 key, ``vouched`` tells which keys it followed."""

    @property
    def public(self) -> bytes:
        """Return the raw 32-byte public key."""
        ...

    @property
    def vouched(self) -> tuple[Vouch, ...]:
        """Return what the keys before it said, the oldest first."""
        ...

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a message."""
        ...


_genesis_decoder = msgspec.json.Decoder(Genesis)
_header_decoder = msgspec.json.Decoder(Header)


def signing_payload(header: bytes) -> bytes:
    """Return what is signed: the DSSE pre-authentication encoding of the payload type and the header bytes."""
    return dsse.encoded(PAYLOAD_TYPE, header)


def start(scope: str, site: str, signer: Signer, *, created: int, nonce: bytes) -> Segment:
    """Make the genesis of a new stream. ``nonce`` is 16 random bytes, ``created`` wall time in µs."""
    fields = Genesis(
        alg="ed25519",
        created=created,
        n=0,
        nonce=nonce.hex(),
        scope=scope,
        site=site,
        v=VERSION,
        vouched=signer.vouched[-VOUCHES_MAX:],
        writer=signer.public.hex(),
    )
    header = encoding.encode(fields)
    return Segment(
        hash=sha256(header), header=header, signature=signer.sign(signing_payload(header)), body=b"", fields=fields
    )


def seal(
    stream: bytes, prev: bytes, n: int, records: Sequence[tuple[bytes, bytes, int | None]], signer: Signer, *, now: int
) -> Segment:
    """Make the next segment of a stream out of (record id, bytes, time or None). ``now`` is wall time in µs."""
    inner = b"".join(_FRAME.pack(_RECORD, len(data)) + data for _, data, _ in records)
    times = [t for _, _, t in records if t is not None]
    fields = Header(
        count=len(records),
        ids=sha256(b"".join(id_ for id_, _, _ in records)).hex(),
        n=n,
        prev=prev.hex(),
        sealed=now,
        size=len(inner),
        stream=stream.hex(),
        t0=min(times) if times else None,
        t1=max(times) if times else None,
        v=VERSION,
    )
    header = encoding.encode(fields)
    return Segment(
        hash=sha256(header),
        header=header,
        signature=signer.sign(signing_payload(header)),
        body=compress(inner),
        fields=fields,
    )


def to_wire(segment: Segment) -> bytes:
    """Return the segment's bytes on the wire."""
    return wire_bytes(segment.header, segment.signature, segment.body)


def wire_bytes(header: bytes, signature: bytes, body: bytes) -> bytes:
    """Return the bytes on the wire of a segment that is held in its three parts."""
    data = _LENGTH.pack(len(header)) + header + signature + body
    return data + _CHECKSUM.pack(zlib.crc32(data))


def from_wire(data: bytes) -> Segment:
    """Read a segment's bytes; the header is checked, the body and the signature are not yet (`check_body`)."""
    if len(data) > WIRE_BYTES_MAX:
        raise CorruptError(f"A segment of {len(data)} bytes is over the limit of {WIRE_BYTES_MAX}.", kind="limit")
    if len(data) < _LENGTH.size + _CHECKSUM.size:
        raise CorruptError("A segment is cut short.", kind="segment")
    end_of_body = len(data) - _CHECKSUM.size
    if _CHECKSUM.unpack_from(data, end_of_body)[0] != zlib.crc32(data[:end_of_body]):
        raise CorruptError("A segment's bytes do not match their checksum.", kind="segment")
    (length,) = _LENGTH.unpack_from(data)
    if length > HEADER_BYTES_MAX:
        raise CorruptError(f"A segment's header of {length} bytes is over the limit.", kind="limit")
    end = _LENGTH.size + length
    if end_of_body < end + 64:
        raise CorruptError("A segment is cut short.", kind="segment")
    return parse(data[_LENGTH.size : end], data[end : end + 64], data[end + 64 : end_of_body])


def parse(header: bytes, signature: bytes, body: bytes) -> Segment:
    """Decode and check a header; raise `CorruptError`, or `UnsupportedError` for a newer version."""
    value = encoding.decode(header, bytes_max=HEADER_BYTES_MAX)
    if isinstance(value.get("v"), int) and value["v"] > VERSION:
        raise UnsupportedError(
            f"A segment has format version {value['v']}; this version reads up to {VERSION}.",
            hint="Upgrade cmf.",
            kind="newer-format",
        )
    if value.get("v") != VERSION:
        raise CorruptError("A segment's header has a wrong version.", kind="segment")
    try:
        fields: Genesis | Header
        if value.get("n") == 0:
            fields = _genesis_decoder.decode(header)
            _check_genesis(fields)
        else:
            fields = _header_decoder.decode(header)
            _check_header(fields)
    except msgspec.MsgspecError as error:
        raise CorruptError(f"A segment's header has a wrong form: {error}.", kind="segment") from error
    return Segment(hash=sha256(header), header=header, signature=signature, body=body, fields=fields)


def _check_genesis(fields: Genesis) -> None:
    good = (
        fields.alg == "ed25519"
        and is_scope(fields.scope)
        and re.fullmatch(r"[0-9a-f]{32}", fields.nonce)
        and _HEX64.fullmatch(fields.writer)
        and re.fullmatch(r"[0-9a-z-]{1,64}", fields.site)
        and len(fields.vouched) <= VOUCHES_MAX
        and all(_HEX64.fullmatch(said.key) and _HEX128.fullmatch(said.signature) for said in fields.vouched)
    )
    if not good:
        raise CorruptError("A stream's first header has a wrong field.", kind="segment")


def _check_header(fields: Header) -> None:
    hashes = all(_HEX64.fullmatch(text) for text in (fields.ids, fields.prev, fields.stream))
    if not hashes or fields.n < 1:
        raise CorruptError("A segment's header has a wrong field.", kind="segment")
    if not 1 <= fields.count <= RECORDS_MAX or not 1 <= fields.size <= SIZE_BYTES_MAX:
        raise CorruptError("A segment is over the limits of 1,000 records and 1 MiB.", kind="limit")


class Body(NamedTuple):
    """What a segment's body holds: (id, bytes) of each record in order, ``None`` for one that was redacted."""

    frames: list[tuple[bytes, bytes | None]]

    @property
    def records(self) -> list[tuple[bytes, bytes]]:
        """Return (id, bytes) of the records whose bytes are there."""
        return [(id_, data) for id_, data in self.frames if data is not None]

    @property
    def gaps(self) -> set[bytes]:
        """Return the ids of the records whose bytes are not there."""
        return {id_ for id_, data in self.frames if data is None}


def body_of(segment: Segment) -> Body:
    """Return what a segment's body holds, checked against the header's count, size and ids."""
    if isinstance(segment.fields, Genesis):
        if segment.body:
            raise CorruptError("A stream's first segment has a body.", kind="segment")
        return Body([])
    fields = segment.fields
    inner = decompress(segment.body, fields.size)
    frames: list[tuple[bytes, bytes | None]] = []
    at = 0
    while at < len(inner):
        if at + _FRAME.size > len(inner):
            raise CorruptError("A segment's body is cut short.", kind="segment")
        tag, length = _FRAME.unpack_from(inner, at)
        at += _FRAME.size
        if length > encoding.RECORD_BYTES_MAX or at + length > len(inner):
            raise CorruptError("A segment's frame is over its limit or cut short.", kind="segment")
        data = inner[at : at + length]
        if tag == _RECORD:
            frames.append((sha256(data), data))
        elif tag == _REDACTED and length == ID_BYTES:
            frames.append((data, None))
        else:
            raise UnsupportedError(f"A segment holds a frame of unknown kind {tag}.", kind="newer-format")
        at += length
    if len(frames) != fields.count or sha256(b"".join(id_ for id_, _ in frames)).hex() != fields.ids:
        raise CorruptError("A segment's records are not those that its header names.", kind="segment")
    body = Body(frames)
    if len(inner) != fields.size and not body.gaps:
        raise CorruptError("A segment's body has another size than its header says.", kind="segment")
    return body


def records_of(segment: Segment) -> list[tuple[bytes, bytes]]:
    """Return (id, bytes) of each record that is in a segment's body, checked as `body_of` does."""
    return body_of(segment).records


def with_body(segment: Segment, frames: Sequence[tuple[bytes, bytes | None]]) -> Segment:
    """Return a segment with another body under the same header: redacted records are None among the frames."""
    inner = b"".join(
        _FRAME.pack(_REDACTED, ID_BYTES) + id_ if data is None else _FRAME.pack(_RECORD, len(data)) + data
        for id_, data in frames
    )
    return msgspec.structs.replace(segment, body=compress(inner))


def can_redact(data: bytes, record: Record | None) -> bool:
    """Tell whether a record's bytes can be dropped.

    Not those of a redaction; of an artifact, which is but a hash; or any shorter than the id that is left behind.
    """
    return len(data) >= ID_BYTES and not isinstance(record, Artifact) and redacts(record) is None


def check_body(segment: Segment) -> list[tuple[bytes, bytes, Record | None]]:
    """Return (id, bytes, record or None if of an unknown kind), each record read strictly and the times checked.

    Redacted records are left out.
    """
    body = body_of(segment)
    found = [(id_, data, read(data)) for id_, data in body.records]
    if isinstance(segment.fields, Header):
        times = [t for _, _, record in found if (t := time_of(record)) is not None]
        t0, t1 = segment.fields.t0, segment.fields.t1
        # A kind of a newer version may carry a time too, and so did what was redacted.
        if len(found) < segment.fields.count or any(record is None for _, _, record in found):
            if times and (t0 is None or t1 is None or t0 > min(times) or t1 < max(times)):
                raise CorruptError("A segment's times do not cover those of its records.", kind="segment")
        elif (t0, t1) != ((min(times), max(times)) if times else (None, None)):
            raise CorruptError("A segment's times are not those of its records.", kind="segment")
    return found
