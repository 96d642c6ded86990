"""The six kinds of record, their fields, and how one is named, salted and read.

A record's id is the SHA-256 of its exact bytes. The scope is not inside it: it comes from the segment that carries
the record. Every record but an artifact carries a salt, added when a journal's draft is taken into a store.
"""

from __future__ import annotations

import functools
import hashlib
import re
from typing import Any, ClassVar, Literal

import msgspec

from cmf.errors import CorruptError, UsageError
from cmf.model import digest as digests
from cmf.model import encoding

SCOPE_PARTS = (2, 6)
SALT_BYTES = 16
TEXT_CHARS_MAX = 512
"""Of a key, a name, a type or a role: databases index them, and their indexes take no long entries."""

PATH_CHARS_MAX = 4096
DRAFT_BYTES_MAX = encoding.RECORD_BYTES_MAX - len('"salt":"",') - 32
SENT_BYTES_MAX = 1 << 20

_BLOCK = 64
"""Bytes in a block of SHA-256."""

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAMES_KEPT = 256
"""How many scopes and nodes are remembered as valid or not: the records of one run name the same few."""

_SALT = re.compile(r"[0-9a-f]{32}")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_EXECUTION_NODE = re.compile(r"execution:([^:]+):([0-9a-f-]{36})")

REDACTED = "redacted"
RELATIONS = ("part_of", "same_as", "derived_from", "version_of", "child_of", "reproduces", "via")


class _Record(msgspec.Struct, tag_field="kind", omit_defaults=True, gc=False):
    kind: ClassVar[str] = ""


class Execution(_Record, tag="execution", kw_only=True):
    """The birth of an execution: what is known when it starts. ``started`` is wall time in µs."""

    kind: ClassVar[str] = "execution"
    id: str
    name: str = ""
    command: list[str] = []
    started: int
    params: dict[str, Any] = {}
    parent: str = ""
    author: str = ""
    salt: str = ""


class Artifact(_Record, tag="artifact", kw_only=True):
    """Bytes with an identity. No name, type, size, time or site: the same bytes at two sites are the same record."""

    kind: ClassVar[str] = "artifact"
    digest: str


class Pointer(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The pointer file beside the code that names an artifact, and the last git commit of that file."""

    path: str
    commit: str = ""


class Event(_Record, tag="event", kw_only=True):
    """An execution used (``input``) or made (``output``) an artifact. ``t`` in µs, ``size`` in bytes."""

    kind: ClassVar[str] = "event"
    execution: str
    direction: Literal["input", "output"]
    artifact: str
    path: str | dict[str, str] = ""
    type: str = ""
    role: str = ""
    name: str = ""
    size: int | None = None
    attributes: dict[str, Any] = {}
    t: int
    pointer: Pointer | None = None
    salt: str = ""


class Link(_Record, tag="link", kw_only=True):
    """An edge between two nodes; never a merge of rows."""

    kind: ClassVar[str] = "link"
    source: str = msgspec.field(name="from")
    rel: str
    to: str
    salt: str = ""


class Property(_Record, tag="property", kw_only=True):
    """One write to the register ``(scope, subject, key)``; ``t`` in µs, more than that of any value it has seen."""

    kind: ClassVar[str] = "property"
    subject: str
    key: str
    value: Any = None
    t: int
    salt: str = ""


class Stats(msgspec.Struct, array_like=True):
    """Last, least, greatest, sum and count of one name's finite points in a chunk (null where there is none)."""

    last: Any
    least: float | None
    greatest: float | None
    total: float | None
    count: int


class Series(_Record, tag="series", kw_only=True):
    """One chunk of step metrics: ``rows`` rows from row ``first`` of one set of names of one process of an attempt.

    ``steps`` holds the least and the greatest step, ``times`` the least and greatest time in µs.
    """

    kind: ClassVar[str] = "series"
    execution: str
    names: list[str]
    attempt: str
    rank: int
    first: int
    rows: int
    steps: tuple[int, int]
    times: tuple[int, int]
    object: str
    size: int
    stats: list[Stats]
    salt: str = ""


Record = Execution | Artifact | Event | Link | Property | Series
KINDS = frozenset(kind.kind for kind in (Execution, Artifact, Event, Link, Property, Series))

_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """Return a draft's bytes; refuse with `UsageError` one that would be over 64 KiB with its salt."""
    data = encoding.encode(record)
    if len(data) > DRAFT_BYTES_MAX:
        bytes_max = encoding.RECORD_BYTES_MAX if isinstance(record, Artifact) or record.salt else DRAFT_BYTES_MAX
        if len(data) > bytes_max:
            raise _too_long(record, len(data), bytes_max)
    return data


def _too_long(record: Record, size: int, bytes_max: int) -> UsageError:
    return UsageError(
        f"A {record.kind} record would take {size} bytes; the limit is {bytes_max}.",
        hint="Record large values as an output file.",
        kind="limit",
    )


def salted(record: Record, secret: bytes) -> tuple[bytes, bytes]:
    """Complete a draft with its salt; return its id and its bytes. The same draft always gives the same id.

    Refuses one over 64 KiB with `UsageError`.
    """
    if isinstance(record, Artifact):
        data = encoding.encode(record)
    else:
        record.salt = ""
        plain = encoding.encode(record)
        record.salt = salt = _keyed(secret, plain)[:SALT_BYTES].hex()
        at = _place_of_salt(record, plain)
        data = b'%b,"salt":"%b"%b' % (plain[:at], salt.encode(), plain[at:])
    if len(data) > encoding.RECORD_BYTES_MAX:
        raise _too_long(record, len(data), encoding.RECORD_BYTES_MAX)
    return hashlib.sha256(data).digest(), data


def _place_of_salt(record: Record, plain: bytes) -> int:
    """Return where the salt stands among the sorted keys of a draft: before the next key that is always there.

    It is looked for from the end where only texts and numbers stand, none of which can hold a bare ``"``.
    """
    if isinstance(record, Property):
        return plain.index(b',"subject":')
    if isinstance(record, Event):
        return plain.rindex(b',"t":' if record.size is None else b',"size":')
    if isinstance(record, Series):
        return plain.index(b',"size":')
    return plain.rindex(b',"to":' if isinstance(record, Link) else b',"started":')


def _keyed(secret: bytes, data: bytes) -> bytes:
    """Return the HMAC-SHA-256 of some bytes, several times faster than with the secret mixed in anew."""
    first, second = _mixed(secret)
    inner, outer = first.copy(), second.copy()
    inner.update(data)
    outer.update(inner.digest())
    return outer.digest()


@functools.lru_cache(4)
def _mixed(secret: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Return the two hashes of HMAC (RFC 2104) that have read the secret."""
    block = (hashlib.sha256(secret).digest() if len(secret) > _BLOCK else secret).ljust(_BLOCK, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in block)) for pad in (0x36, 0x5C))
    return inner, outer


def draft(data: bytes) -> Record:
    """Read a draft from a journal: a record that may still lack its salt."""
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A journal holds a frame that is not a record: {error}.", kind="record") from error


def read(data: bytes) -> Record | None:
    """Read a record's bytes strictly; None for a kind that this version does not know (kept and forwarded as it is).

    Raises `CorruptError` for bytes outside the profile and for a known kind whose fields have wrong forms.
    """
    value = encoding.decode(data)
    kind = value.get("kind")
    if not isinstance(kind, str) or not kind:
        raise CorruptError("A record has no kind.", kind="record")
    if kind not in KINDS:
        return None
    try:
        record = _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A record of kind '{kind}' has a wrong form: {error}.", kind="record") from error
    if not isinstance(record, Artifact) and not _SALT.fullmatch(record.salt):
        raise CorruptError(f"A record of kind '{kind}' has no valid salt.", kind="record")
    _check(record)
    return record


def completed(record: Record, secret: bytes) -> tuple[bytes, bytes]:
    """Complete a draft as `salted`, and refuse with `CorruptError` or `UsageError` what `read` would refuse.

    Its bytes need not be read for that: what we encode ourselves is spelled as the profile wants.
    """
    encoding.check_limits(_free(record))
    id_, data = salted(record, secret)
    _check(record)
    return id_, data


def _free(record: Record) -> Any:
    """Return what of a record may be any number, or nested in any depth: as deep in a list as it is in the record."""
    if isinstance(record, Property):
        return [record.value, record.t]
    if isinstance(record, Event):
        return [record.attributes, record.size, record.t]
    if isinstance(record, Artifact | Link):
        return []
    return msgspec.to_builtins(record)


def trusted(data: bytes) -> Record | None:
    """Read bytes that were checked by `read` when they came in; None for an unknown kind. Nothing is checked again."""
    try:
        return _decoder.decode(data)
    except msgspec.ValidationError:
        return None


def content(record: Execution) -> bytes:
    """Return the hash of a birth without its salt: births that differ only in salt are equal."""
    salt, record.salt = record.salt, ""
    try:
        return digests.sha256(encoding.encode(record))
    finally:
        record.salt = salt


def time_of(record: Record | None) -> int | None:
    """Return the time in µs that a record carries, or None."""
    if isinstance(record, Property):
        return record.t
    if isinstance(record, Event):
        return record.t
    if isinstance(record, Execution):
        return record.started
    if isinstance(record, Series):
        return record.times[1]
    return None


def redacts(record: Record | None) -> bytes | None:
    """Return the id of the record that this one redacts, or None: a property ``redacted`` of a record, if true."""
    if isinstance(record, Property) and record.key == REDACTED and record.value is True:
        kind, _, rest = record.subject.partition(":")
        return digests.record_id(rest) if kind == "record" else None
    return None


def objects_of(record: Record | None) -> list[str]:
    """Return what a record names as its own evidence: series chunks and ``$object`` values, files or folders.

    The bytes of an event's artifact are not among them: data moves by policy, evidence with the record.
    """
    if isinstance(record, Property):
        return encoding.objects_in(record.value)
    if isinstance(record, Series):
        return [record.object]
    if isinstance(record, Event):
        return encoding.objects_in(record.attributes)
    if isinstance(record, Execution):
        return encoding.objects_in(record.params)
    return []


def sent_with(record: Record | None) -> list[str]:
    """Return the digests that a push sends along with a record: its evidence, and artifacts of up to 1 MiB."""
    if isinstance(record, Event) and record.size is not None and record.size <= SENT_BYTES_MAX:
        return [record.artifact, *objects_of(record)]
    return objects_of(record)


def _check(record: Record) -> None:
    """Check what the types cannot say. Wrong forms are refused, so that no fold ever meets them."""
    if isinstance(record, Property):
        if not is_node(record.subject):
            raise _wrong("subject", record.subject)
        if not 0 < len(record.key) <= TEXT_CHARS_MAX:
            raise _wrong("key", record.key)
    elif isinstance(record, Artifact):
        digests.check_digest(record.digest)
        return
    elif isinstance(record, Execution):
        _check_id(record.id)
        _check_texts("name", record.name, *record.params)
        if record.parent and _EXECUTION_NODE.fullmatch(record.parent) is None:
            raise _wrong("parent", record.parent)
    elif isinstance(record, Event):
        _check_event(record)
    elif isinstance(record, Link):
        for node in (record.source, record.to):
            if not is_node(node):
                raise _wrong("node", node)
        if not 0 < len(record.rel) <= TEXT_CHARS_MAX:
            raise _wrong("relation", record.rel)
    else:
        _check_series(record)
    if (t := time_of(record)) is not None and t < 0:
        raise _wrong("time", t)
    for digest in objects_of(record):
        digests.check_digest(digest)


def _check_event(record: Event) -> None:
    _check_id(record.execution)
    digests.check_digest(record.artifact)
    if record.size is not None and record.size < 0:
        raise _wrong("size", record.size)
    _check_texts("name, type or role", record.name, record.type, record.role)
    path = record.path
    if len(path) > PATH_CHARS_MAX if isinstance(path, str) else list(path) != ["$b"]:
        raise _wrong("path", path)


def _check_series(record: Series) -> None:
    _check_id(record.execution)
    if record.rows <= 0 or record.first < 0 or record.rank < 0:
        raise _wrong("row count", record.rows)
    if not record.names or record.names != sorted(set(record.names)):
        raise _wrong("set of names", record.names)
    _check_texts("name", record.attempt, *record.names)
    if len(record.stats) != len(record.names):
        raise _wrong("statistics", len(record.stats))


def _check_id(text: str) -> None:
    if not is_execution_id(text):
        raise _wrong("execution id", text)


def _check_texts(what: str, *texts: str) -> None:
    for text in texts:
        if len(text) > TEXT_CHARS_MAX:
            raise _wrong(what, text)


def _wrong(what: str, found: object) -> CorruptError:
    return CorruptError(f"A record has a wrong {what}: '{str(found)[:80]}'.", kind="record")


# ---- scopes and nodes ------------------------------------------------------------------------------------------


def is_execution_id(text: str) -> bool:
    """Tell whether this is an execution's id: a lower-case UUID."""
    return _UUID.fullmatch(text) is not None


@functools.lru_cache(NAMES_KEPT)
def is_scope(text: str) -> bool:
    """Tell whether this is a scope: 2 to 6 parts of ``[A-Za-z0-9][A-Za-z0-9._-]{0,63}``, the last one the stage."""
    parts = text.split("/")
    return SCOPE_PARTS[0] <= len(parts) <= SCOPE_PARTS[1] and all(_PART.fullmatch(part) for part in parts)


def check_scope(text: str) -> str:
    """Return the scope as it is, or raise `UsageError` with a suggestion."""
    if is_scope(text):
        return text
    parts = [slug(part) for part in text.split("/") if slug(part)][: SCOPE_PARTS[1]]
    if len(parts) == 1:
        parts.append("main")
    suggestion = "/".join(parts) or "pipeline/stage"
    raise UsageError(
        f"'{text[:200]}' is not a scope: it takes 2 to 6 parts of letters, digits, '.', '_' and '-', joined by '/'.",
        hint=f"Try '{suggestion}'.",
        kind="scope",
    )


def slug(text: str) -> str:
    """Make one part of a scope out of any text; empty if nothing usable is left."""
    kept = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")
    return kept[:64].rstrip("-._")


def covers(prefix: str, scope: str) -> bool:
    """Tell whether a scope is this prefix or lies below it. The empty prefix covers all."""
    return not prefix or scope == prefix or scope.startswith(prefix + "/")


def execution_node(scope: str, execution_id: str) -> str:
    """Return the node of an execution: ``execution:SCOPE:ID``."""
    return f"execution:{scope}:{execution_id}"


def split_execution(node: str) -> tuple[str, str] | None:
    """Return (scope, id) of an execution's node, or None if it is another node."""
    match = _EXECUTION_NODE.fullmatch(node)
    return (match[1], match[2]) if match else None


@functools.lru_cache(NAMES_KEPT)
def is_node(text: str) -> bool:
    """Tell whether this names a node: an execution, an artifact, a record, a site, or the scope itself."""
    kind, _, rest = text.partition(":")
    if kind == "execution":
        found = split_execution(text)
        return found is not None and is_scope(found[0]) and is_execution_id(found[1])
    if kind == "artifact":
        return digests.is_digest(rest)
    if kind in ("record", "site"):
        return re.fullmatch(r"[0-9a-f]{64}" if kind == "record" else r"[0-9a-z-]{1,64}", rest) is not None
    return text == "scope"
