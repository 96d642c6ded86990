"""The one mapping from a record to index rows. Order never matters: every row is grow-only.

Rows name nodes by the keys of `cmf.graph.nodes`; a store interns them as it likes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from cmf.graph import nodes
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model

_json = msgspec.json.Encoder(order="sorted")


class BirthRow(NamedTuple):
    """One birth of an execution; ``content`` is the hash without salt, ``body`` the record's bytes."""

    execution: bytes
    record: bytes
    content: bytes
    body: bytes


class ArtifactRow(NamedTuple):
    """An artifact record carried in some scope."""

    artifact: bytes


class EventRow(NamedTuple):
    """An execution used (direction 0) or made (1) an artifact; ``more`` is JSON of attributes and pointer."""

    event: bytes
    execution: bytes
    direction: int
    artifact: bytes
    path: str
    name: str
    type: str
    role: str
    size: int | None
    t: int
    more: str


class LinkRow(NamedTuple):
    """An edge between two nodes."""

    source: bytes
    rel: str
    target: bytes
    record: bytes


class PropertyRow(NamedTuple):
    """One write to a register; ``value`` is JSON, ``number`` and ``text`` its forms for comparing."""

    subject: bytes
    key: str
    t: int
    record: bytes
    value: str
    number: float | None
    text: str | None


class SeriesRow(NamedTuple):
    """One chunk of step metrics; ``names`` and ``stats`` are JSON lists."""

    execution: bytes
    names: str
    attempt: str
    rank: int
    first: int
    rows: int
    record: bytes
    step_first: int
    step_last: int
    time_first: int
    time_last: int
    object: str
    size: int
    stats: str


def plain(text: str) -> str:
    """Return a text as every database can hold it in a column: PostgreSQL's hold no NUL. The record keeps its bytes."""
    return text.replace("\0", "\ufffd") if "\0" in text else text


Row = BirthRow | ArtifactRow | EventRow | LinkRow | PropertyRow | SeriesRow


def row(scope: str, record_id: bytes, record: model.Record, body: bytes) -> Row:
    """Return the index row of one record that a segment of this scope carries."""
    if isinstance(record, model.Property):
        return property_row(nodes.node_key(record.subject, scope), plain(record.key), record.t, record_id, record.value)
    if isinstance(record, model.Event):
        more: dict[str, Any] = {}
        if record.attributes:
            more["attributes"] = record.attributes
        if record.pointer is not None:
            more["pointer"] = record.pointer
        return EventRow(
            nodes.record_key(record_id),
            nodes.execution_key(scope, record.execution),
            1 if record.direction == "output" else 0,
            digests.pack(record.artifact),
            plain(record.path) if isinstance(record.path, str) else _json.encode(record.path).decode(),
            plain(record.name),
            plain(record.type),
            plain(record.role),
            record.size,
            record.t,
            _json.encode(more).decode() if more else "",
        )
    if isinstance(record, model.Artifact):
        return ArtifactRow(digests.pack(record.digest))
    if isinstance(record, model.Execution):
        return BirthRow(nodes.execution_key(scope, record.id), record_id, model.content(record), body)
    if isinstance(record, model.Link):
        return LinkRow(
            nodes.node_key(record.source, scope), plain(record.rel), nodes.node_key(record.to, scope), record_id
        )
    return SeriesRow(
        nodes.execution_key(scope, record.execution),
        _json.encode(record.names).decode(),
        plain(record.attempt),
        record.rank,
        record.first,
        record.rows,
        record_id,
        *record.steps,
        *record.times,
        record.object,
        record.size,
        _json.encode(record.stats).decode(),
    )


def property_row(subject: bytes, key: str, t: int, record_id: bytes, value: Any) -> PropertyRow:
    """Return the row of one write to a register."""
    kind = type(value)  # the three kinds that most values are, without asking what else they might be
    if kind is float:
        return PropertyRow(subject, key, t, record_id, repr(value), value, None)
    if kind is int:
        return PropertyRow(subject, key, t, record_id, str(value), float(value), None)
    if kind is str:
        return PropertyRow(subject, key, t, record_id, _json.encode(value).decode(), None, plain(value))
    return PropertyRow(
        subject,
        key,
        t,
        record_id,
        _json.encode(value).decode(),
        encoding.number_of(value),
        None,
    )
