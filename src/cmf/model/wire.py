"""What travels between a hub and its clients: bulk frames, and the plain questions and answers in JSON.

A bulk body is frames of ``u8 tag · u32 length · bytes``, little-endian: 1 a segment's wire bytes, 2 an `Admission`,
3 the `End`. Stream ids and hashes are hex.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec

from cmf.errors import CorruptError
from cmf.model.exchange import Head, Sample
from cmf.model.segment import WIRE_BYTES_MAX

SEGMENT, ADMISSION, END = 1, 2, 3
API_VERSION = 1
FRAME_BYTES_MAX = WIRE_BYTES_MAX + 64
JSON_BYTES_MAX = 32 << 20
STREAMS_MAX = 50_000
PUSH_BYTES_MAX = 16 << 20
PUSH_BYTES = 4 << 20
PULL_BYTES = 8 << 20
MISSING_MAX = 10_000
WANTED_MAX = 1_000
HASHES_MAX = 100_000

_FRAME = struct.Struct("<BI")
_Message = TypeVar("_Message")


class Role(msgspec.Struct, frozen=True):
    """What a principal may do at or below a scope prefix ("" is everywhere): read, write, relay or admin."""

    prefix: str
    role: str


class HubInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who a hub is, what it speaks, and, for a caller with a token, who the caller is."""

    hub: str
    versions: list[int]
    time_us: int
    limits: dict[str, int]
    principal: str = ""
    roles: list[Role] = []


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Sampled positions of streams: stream id -> [(n, hash)], greatest n first."""

    streams: dict[str, list[tuple[int, str]]] = {}


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub holds of the streams asked about; ``wanted`` are (digest, scope) of objects that it still lacks."""

    streams: dict[str, list[tuple[int, str]]] = {}
    wanted: list[tuple[str, str]] = []


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """A pull or a look at streams: scope globs, and for a pull the heads that the caller holds."""

    scopes: list[str] = []
    have: dict[str, list[tuple[int, str]]] = {}


class Hashes(msgspec.Struct, frozen=True, kw_only=True):
    """Segments asked for by hash."""

    hashes: list[str]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Objects asked about under a scope; the answer has those that were not yet sent there."""

    scope: str
    digests: list[str]


class Enrol(msgspec.Struct, frozen=True, kw_only=True):
    """An invited site presents its code, its public key (hex) and its name."""

    invite: str
    key: str
    name: str


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """The token that an invited site speaks with from now on."""

    token: str
    principal: str
    roles: list[Role]


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The last frame: how many went before, and whether there is more to ask for."""

    count: int
    more: bool = False


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as a hub says it."""

    kind: str = ""
    message: str = ""
    hint: str = ""


def frame(tag: int, data: bytes) -> bytes:
    """Return one frame."""
    return _FRAME.pack(tag, len(data)) + data


def frames(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Return the (tag, bytes) of each frame in a body; `CorruptError` if it is cut short or over the limit."""
    at = 0
    while at < len(data):
        if at + _FRAME.size > len(data):
            raise CorruptError("A transfer is cut short.", kind="wire")
        tag, length = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        if length > FRAME_BYTES_MAX:
            raise CorruptError(f"A frame of {length} bytes is over the limit.", kind="limit")
        if at + length > len(data):
            raise CorruptError("A transfer is cut short.", kind="wire")
        yield tag, data[at : at + length]
        at += length


def encode(message: Any) -> bytes:
    """Return a message as JSON."""
    return msgspec.json.encode(message)


def decode(data: bytes, kind: type[_Message]) -> _Message:
    """Read a message; `CorruptError` for what it is not."""
    if len(data) > JSON_BYTES_MAX:
        raise CorruptError(f"A message of {len(data)} bytes is over the limit.", kind="limit")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A message cannot be read: {error}.", kind="wire") from error


def from_samples(samples: Iterable[Sample]) -> dict[str, list[tuple[int, str]]]:
    """Write samples with hex ids."""
    return {sample.stream.hex(): [(n, hash_.hex()) for n, hash_ in sample.points] for sample in samples}


def to_samples(streams: Mapping[str, list[tuple[int, str]]]) -> list[Sample]:
    """Read samples; `CorruptError` for what is no hash, and for too many streams."""
    if len(streams) > STREAMS_MAX:
        raise CorruptError(f"{len(streams)} streams at once are over the limit of {STREAMS_MAX}.", kind="limit")
    return [Sample(raw(stream), tuple(to_heads(points))) for stream, points in streams.items()]


def from_heads(heads: Mapping[bytes, tuple[Head, ...]]) -> dict[str, list[tuple[int, str]]]:
    """Write heads with hex ids."""
    return {stream.hex(): [(n, hash_.hex()) for n, hash_ in found] for stream, found in heads.items()}


def to_heads(points: Iterable[tuple[int, str]]) -> list[Head]:
    """Read (n, hash) pairs."""
    return [Head(n, raw(hash_)) for n, hash_ in points]


def raw(text: str) -> bytes:
    """Return the 32 bytes of a hash written in hex."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != 32:
        raise CorruptError(f"'{text[:80]}' is not a hash.", kind="wire")
    return data
