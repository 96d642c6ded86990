"""What the segments of a node carry, read by code of the simulator's own: nothing that was redacted may be among it."""

import hashlib
import json
import struct
from typing import Any, NamedTuple

from cmf.model import segment as segments
from cmf.model.zstd import decompress
from tests.reference_fold import covers, redacts

FRAME = struct.Struct("<BI")
INFLATED_MAX = 1 << 20


class Body(NamedTuple):
    """A segment's body: the records that are there, by id; the ids of those that are not; whom it redacts."""

    present: dict[bytes, bytes]
    gaps: frozenset[bytes]
    redacted: frozenset[bytes]
    names: frozenset[str]


EMPTY = Body({}, frozenset(), frozenset(), frozenset())


def parse(body: bytes) -> Body:
    """Read a body; what it does not spell out as the format says is an error of the simulation."""
    inner = decompress(body, INFLATED_MAX) if body else b""
    present, gaps, at = {}, set(), 0
    while at < len(inner):
        tag, length = FRAME.unpack_from(inner, at)
        data = inner[at + FRAME.size : at + FRAME.size + length]
        at += FRAME.size + length
        if tag == 0:
            present[hashlib.sha256(data).digest()] = data
        else:
            gaps.add(data)
    read = [json.loads(data) for data in present.values()]
    redacted = {bytes.fromhex(record["subject"][7:]) for record in read if redacts(record)}
    return Body(present, frozenset(gaps), frozenset(redacted), frozenset(map(_site, read)) - {""})


def _site(record: Any) -> str:
    """Return what a site calls itself in a record, or ""."""
    if record["kind"] != "property" or not record["key"].startswith("process/"):
        return ""
    return str(record["value"].get("site", {}).get("name", ""))


class Bodies:
    """Bodies, each read once."""

    def __init__(self) -> None:
        self._read: dict[bytes, Body] = {b"": EMPTY}

    def of(self, body: bytes) -> Body:
        found = self._read.get(body)
        if found is None:
            found = self._read[body] = parse(body)
        return found

    def of_wire(self, wire: bytes) -> Body:
        """Return the body of a segment as it travels."""
        return self.of(segments.from_wire(wire).body)


class Copy(NamedTuple):
    """A record as one scope carries it."""

    scope: str
    id: bytes
    data: bytes


def is_hidden(redactions: set[tuple[str, bytes]], copy: Copy) -> bool:
    """Tell whether a copy must have gone, since a scope at or above it redacts its record, which is no mere hash."""
    record = json.loads(copy.data)
    if record["kind"] == "artifact" or redacts(record):
        return False
    return any(about == copy.id and covers(by, copy.scope) for by, about in redactions)
