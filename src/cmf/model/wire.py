"""What travels between a hub and its clients: bulk frames, and the plain questions and answers in JSON.

A bulk body is frames of ``u8 tag · u32 length · bytes``, little-endian: 1 a segment's wire bytes, 2 an `Admission`,
3 the `End`, 4 a small object: ``u8 flags · 32-byte hash · its bytes``. Stream ids and hashes are hex.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, TypeVar

import msgspec

from cmf.errors import CorruptError
from cmf.model import digest as digests
from cmf.model.exchange import Head, Sample
from cmf.model.segment import WIRE_BYTES_MAX

SEGMENT, ADMISSION, END, OBJECT = 1, 2, 3, 4
FOLDER, LARGE = 1, 2
"""Flags of an object: it is a folder's manifest; it is too large for a frame, whose bytes are left out."""

API_VERSION = 1
FRAME_BYTES_MAX = WIRE_BYTES_MAX + 64
JSON_BYTES_MAX = 32 << 20
STREAMS_MAX = 50_000
STREAMS_PAGE = 5_000
PUSH_BYTES_MAX = 16 << 20
PUSH_BYTES = 4 << 20
PULL_BYTES = 8 << 20
MISSING_MAX = 10_000
WANTED_MAX = 10_000
HASHES_MAX = 100_000
EXECUTIONS_MAX = 1_000
ENTRIES_MAX = 10_000
PROOFS_MAX = 1_000
SMALL_BYTES = 256 << 10
"""An object up to this size travels with others in one body; a larger one has a request of its own."""

DIRECT_BYTES_MIN = 8 << 20
"""A smaller object always passes through the hub: it is there before the bucket's address would be."""

DIRECT_BYTES_MAX = 5 << 30
"""S3 takes no more in one request, and knows the hash of what came in one request alone."""

BULK_BYTES_MAX = 4 << 20
BULK_MAX = 2_500

_FRAME = struct.Struct("<BI")
_OBJECT = struct.Struct("<B32s")
_Message = TypeVar("_Message")


class Role(msgspec.Struct, frozen=True):
    """What a principal may do at or below a scope prefix ("" is all): read, write, relay, peer, redact or admin."""

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


class AskStreams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A look at streams: scope globs and sites, or only some, by id (hex); ``after``: the last of the page before."""

    scopes: list[str] = []
    sites: list[str] = []
    streams: list[str] | None = None
    after: str = ""


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Sampled positions of streams, in order of id: id -> [(n, hash)], greatest n first. ``more``: others follow."""

    streams: dict[str, list[tuple[int, str]]] = {}
    more: bool = False


class Having(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Streams asked about by their sampled positions (or none); ``after``: where the last ``wanted`` list ended.

    ``below``: what is wanted in all scopes below these prefixes is asked for, too.
    """

    streams: dict[str, list[tuple[int, str]]] = {}
    after: tuple[str, str] | None = None
    below: list[str] = []


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What a hub holds of the streams asked about.

    ``wanted`` are (digest, scope) of objects that it still lacks, by scope and digest; ``more``: others follow.
    """

    streams: dict[str, list[tuple[int, str]]] = {}
    wanted: list[tuple[str, str]] = []
    more: bool = False


class Asked(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A pull: scope globs and sites, and the heads that the caller holds.

    ``streams``: only these, by id (hex).

    ``cursor``: where an earlier pull of the same view ended; then ``have`` only says what of some streams to leave out.
    """

    scopes: list[str] = []
    sites: list[str] = []
    streams: list[str] | None = None
    have: dict[str, list[tuple[int, str]]] = {}
    cursor: str = ""


class Since(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where the log stands, for a view, to somebody who knows it as it was at a size."""

    scopes: list[str] = []
    sites: list[str] = []
    where: str = ""
    size: int = 0


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The log now: the cursor of a view, the signed checkpoint, and the proof from the size that was named (hex)."""

    cursor: str
    checkpoint: str
    proof: list[str] = []


class AskProofs(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Segments by hash, to somebody who knows the log at ``size``, and keeps the peaks of its tree at ``since``."""

    hashes: list[str]
    size: int = 0
    since: int = 0


class Proofs(msgspec.Struct, frozen=True, kw_only=True):
    """Where segments are in the log: segment's hash -> entry, those that aren't there or may not be seen left out.

    ``checkpoint`` and ``proof`` as in `Standing`. ``nodes``: (level, place, hash) of the complete subtrees that make up
    the checkpoint's root, together with those entries and the peaks at ``since``.
    """

    checkpoint: str
    proof: list[str] = []
    entries: dict[str, int] = {}
    nodes: list[tuple[int, int, str]] = []


class AskMatching(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Executions by filter, in some scopes and of some sites; ``cursor``: where the page before ended.

    Or, if there are any, the ``executions`` of these nodes, `EXECUTIONS_MAX` at most.
    """

    where: str = ""
    scopes: list[str] = []
    sites: list[str] = []
    cursor: str = ""
    executions: list[str] = []


class Matching(msgspec.Struct, frozen=True, kw_only=True):
    """A page of hashes of the segments that hold every record about those executions; ``cursor``: "" after the last."""

    segments: list[str]
    cursor: str = ""


class AskDigests(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the caller holds in some scopes, to be compared: its digest below each prefix of the streams' ids (hex)."""

    scopes: list[str] = []
    prefixes: dict[str, str]


class Hashes(msgspec.Struct, frozen=True, kw_only=True):
    """Segments asked for by hash."""

    hashes: list[str]


class Missing(msgspec.Struct, frozen=True, kw_only=True):
    """Objects asked about under a scope; the answer has those that were not yet sent there."""

    scope: str
    digests: list[str]


class Digests(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Small objects asked for by digest; with a ``scope``, only those that were sent under it."""

    digests: list[str]
    scope: str = ""


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """What is at a hub of an object whose sending was cut: so many bytes, with that hash (hex)."""

    size: int = 0
    sha256: str = ""


class AskUpload(msgspec.Struct, frozen=True, kw_only=True):
    """A site wants to put an object of so many bytes, to be sent under a scope, into the hub's bucket itself."""

    scope: str
    size: int


class Upload(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to put it: an address, good for a while, and a ticket that names it; "" if it must pass through the hub."""

    url: str = ""
    ticket: str = ""


class Uploaded(msgspec.Struct, frozen=True, kw_only=True):
    """An object has been put where a ticket said."""

    scope: str
    size: int
    ticket: str


class Enrol(msgspec.Struct, frozen=True, kw_only=True):
    """An invited site presents its code, its public key (hex) and its name.

    ``signature`` (hex): what that key signed of `cmf.model.enrolment.payload`.
    """

    invite: str
    key: str
    name: str
    signature: str


class Enrolled(msgspec.Struct, frozen=True, kw_only=True):
    """The token that an invited site speaks with from now on."""

    token: str
    principal: str
    roles: list[Role]


class Token(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A token as a hub lists it: never its secret. ``roles``: what it is narrowed to, if to any."""

    id: str
    expires_us: int
    roles: list[Role] = []


class Key(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An enrolled public key and the one it follows (hex). A revoked one writes nothing new; what it wrote stays."""

    key: str
    follows: str = ""
    revoked_us: int = 0


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who may speak to a hub: what they may do, and the tokens and keys that they hold."""

    id: int
    name: str
    roles: list[Role]
    tokens: list[Token]
    keys: list[Key]


Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)]
"""A number that every database and every reader of JSON can hold."""


class AskInvite(msgspec.Struct, frozen=True, kw_only=True):
    """An invite to be made: for whom, what role on which scope prefix, for how many seconds."""

    name: str
    role: Role
    expires_s: Number = 72 * 3600


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """An invite that waits to be used, as a hub lists it: never its code."""

    id: str
    name: str
    role: Role
    expires_us: int


class AskToken(msgspec.Struct, frozen=True, kw_only=True):
    """A token to be made: for a principal (0: the caller), narrowed to some roles or not, for how many seconds."""

    principal: Number = 0
    roles: list[Role] = []
    expires_s: Number = 90 * 86_400


class Issued(msgspec.Struct, frozen=True, kw_only=True):
    """A secret that a hub made, said this once: an invite's code or a token. ``id`` names it from then on."""

    id: str
    secret: str
    expires_us: int


class AskRole(msgspec.Struct, frozen=True, kw_only=True):
    """A principal's role, to be given or taken."""

    principal: Number
    role: Role


class QuotaOf(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a quota is: of a scope prefix ("" is everything), a principal (by number), or each that has none itself."""

    kind: Literal["scope", "principal", "each"]
    whom: str = ""


class AskQuota(QuotaOf, frozen=True, kw_only=True):
    """The most bytes and streams that may be kept; null is any number."""

    bytes_max: Number | None = None
    streams_max: Number | None = None


class Quota(AskQuota, frozen=True, kw_only=True):
    """A quota and what is used of it; ``name``: the principal's. ``is_set``: an admin has set it."""

    name: str
    bytes: int
    streams: int
    is_set: bool


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """A line of a hub's audit log: when (µs), who did what to whom or what, and in which scope prefix."""

    at_us: int
    actor: str
    action: str
    subject: str
    scope: str = ""
    n: int = 0


Direction = Literal["pull", "push", "both"]
"""What a hub does with a peer: takes from it, brings to it, or both."""


class AskPeer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another hub to sync with: its address, scope prefixes (none: everything), and every how many seconds.

    ``data``: bytes of any size follow, not only what a push sends. An ``invite`` or a ``token`` of that hub lets us in.
    """

    name: str
    url: str
    scopes: list[str] = []
    direction: Direction = "pull"
    every_s: Number = 300
    data: bool = False
    invite: str = ""
    token: str = ""


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of which two hubs held other segments: the position (n) that each was at, -1 for none."""

    stream: str
    scope: str
    here: int
    there: int


class PeerState(msgspec.Struct, frozen=True, kw_only=True):
    """How syncing with a peer went: the last time, and (``pulled`` to ``object_bytes``) in all.

    ``failures``: in a row. ``refused``: segments that one of the two hubs would not take, the last time; ``why``, the
    first of them or what else went wrong. ``differed``: in how many streams the two hubs differed when the last turn
    began, of which ``differences`` names the first. Times are the hub's, in µs; 0 is never.
    """

    turns: int = 0
    tried_us: int = 0
    succeeded_us: int = 0
    failures: int = 0
    refused: int = 0
    why: str = ""
    differed: int = 0
    differences: list[Difference] = []
    warnings: list[str] = []
    pulled: int = 0
    pushed: int = 0
    records: int = 0
    objects: int = 0
    object_bytes: int = 0


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Another hub that this one syncs with, and how that went. ``due_us``: when it is next.

    ``scopes``: the prefixes that its principal here has a role on; "" is everything.
    """

    name: str
    url: str
    scopes: list[str]
    direction: Direction
    every_s: int
    data: bool
    due_us: int
    is_syncing: bool
    state: PeerState


class End(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last frame: how many went before, and whether there is more to ask for.

    ``wanted``: after a push that asks for it, as `Held` has them, of the scopes of its segments. ``cursor``: after a
    page that was asked for by cursor, where the next one begins.
    """

    count: int
    more: bool = False
    wanted: list[tuple[str, str]] = []
    cursor: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error as a hub says it."""

    kind: str = ""
    message: str = ""
    hint: str = ""


class NotTaken(Problem, frozen=True, kw_only=True):
    """Why one object of many was not taken in; ``status`` as if it had come alone."""

    digest: str
    status: int


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of objects sent together: how many are durable and granted, and each of the others."""

    count: int
    refused: list[NotTaken] = []


class Small(NamedTuple):
    """An object that travels with others. ``folder``: a manifest. ``large``: its bytes are not here."""

    digest: str
    data: bytes
    folder: bool = False
    large: bool = False


def from_small(small: Small) -> bytes:
    """Return what an object's frame holds."""
    flags = FOLDER * small.folder | LARGE * small.large
    return _OBJECT.pack(flags, bytes.fromhex(small.digest.removeprefix(digests.FILE))) + small.data


def to_small(data: bytes) -> Small:
    """Read what an object's frame holds; `CorruptError` for what it is not. The hash is not checked."""
    if len(data) < _OBJECT.size or data[0] & ~(FOLDER | LARGE):
        raise CorruptError("An object's frame cannot be read.", kind="wire")
    flags, hash_ = _OBJECT.unpack_from(data)
    return Small(digests.FILE + hash_.hex(), data[_OBJECT.size :], bool(flags & FOLDER), bool(flags & LARGE))


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


def raw(text: str, size: int = 32) -> bytes:
    """Return the bytes of a hash, or of a key or signature, written in hex."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        data = b""
    if len(data) != size:
        raise CorruptError(f"'{text[:80]}' is not {size} bytes in hex.", kind="wire")
    return data
