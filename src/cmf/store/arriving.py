"""Segments that come in from elsewhere: into the truth tables, many in one transaction.

Each has been checked. What is done once for all of them (objects promised, records found by their prefix) costs as much
as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from cmf.errors import CmfError, ConflictError
from cmf.graph import nodes
from cmf.model import records as model
from cmf.model.segment import Genesis, Segment, body_of, can_redact, with_body
from cmf.store.batch import Covered, Item
from cmf.store.chain import advance, insert_called, insert_carried, insert_genesis, insert_segment
from cmf.store.dialect import Connection
from cmf.store.redacting import redactions


class Arriving(NamedTuple):
    """One checked segment and its records. ``sparse``: the one before it need not be held."""

    segment: Segment
    items: Sequence[Item]
    sparse: bool = False


Outcome = Literal["new", "known"] | CmfError
"""What became of a segment: it was committed, or held already, or an error kept it out."""


def take_in(connection: Connection, arriving: Sequence[Arriving]) -> tuple[list[Outcome], list[Arriving], list[Item]]:
    """Insert segments in their order; return what became of each, those that were new, and the records to fold.

    One that came without the segment before it, and is not ``sparse``, is a `ConflictError`. Bytes that are redacted
    here are never written; bytes that a held segment lacks are filled in.
    """
    outcomes: list[Outcome] = []
    new: list[Arriving] = []
    brought: list[Arriving] = []
    carried: list[tuple[int, Sequence[bytes]]] = []
    said = redactions(connection)
    if said.exist():
        said.load(nodes.record_key(item.id) for one in arriving for item in one.items)
    for one in (_without_redacted(brought, said) for brought in arriving):
        try:
            g, lacked = _insert(connection, one)
        except ConflictError as error:
            outcomes.append(error)
            continue
        outcomes.append("known" if g is None else "new")
        brought.append(one._replace(items=lacked))
        if g is not None:
            new.append(one)
            carried.append((g, _ids(one)))
    insert_carried(connection, carried)
    items = [item for one in brought for item in one.items]
    _note_names(connection, brought)
    connection.executemany(
        "INSERT INTO promised (digest, scope) VALUES (?, ?) ON CONFLICT DO NOTHING",
        sorted({(digest, item.scope) for item in items for digest in model.sent_with(item.record)}),
    )
    return outcomes, new, items


def _note_names(connection: Connection, brought: Sequence[Arriving]) -> None:
    streams = {one.segment.stream for one in brought if one.items}
    sites = {
        stream: connection.execute("SELECT site FROM stream WHERE stream = ?", (stream,)).fetchone()[0]
        for stream in streams
    }
    insert_called(connection, ((sites[one.segment.stream], item.record) for one in brought for item in one.items))


def _without_redacted(one: Arriving, said: Covered) -> Arriving:
    gone = {
        item.id
        for item in one.items
        if said.covers(item.scope, nodes.record_key(item.id)) and can_redact(item.data, item.record)
    }
    if not gone:
        return one
    frames = [(id_, None if id_ in gone else data) for id_, data in body_of(one.segment).frames]
    return one._replace(
        segment=with_body(one.segment, frames), items=[item for item in one.items if item.id not in gone]
    )


def _ids(one: Arriving) -> list[bytes]:
    """Return the ids of all records that a segment carries, those whose bytes are not there included."""
    if isinstance(one.segment.fields, Genesis) or len(one.items) == one.segment.fields.count:
        return [item.id for item in one.items]
    return [id_ for id_, _ in body_of(one.segment).frames]


def _insert(connection: Connection, one: Arriving) -> tuple[int | None, Sequence[Item]]:
    """Insert a segment; return its number, or None if it was held already, and those of its records that are new."""
    segment = one.segment
    if isinstance(segment.fields, Genesis):
        if connection.execute("SELECT 1 FROM stream WHERE stream = ?", (segment.hash,)).fetchone():
            return None, ()
        return insert_genesis(connection, segment, own=False), ()
    prev = bytes.fromhex(segment.fields.prev)
    stream = connection.execute("SELECT s FROM stream WHERE stream = ?", (segment.stream,)).fetchone()
    if stream is None:
        raise ConflictError("A segment came without the start of its stream.", kind="gap")
    known = {
        bytes(hash_): (g, s, n, sparse)
        for hash_, g, s, n, sparse in connection.execute(
            "SELECT hash, g, s, n, sparse FROM segment WHERE hash = ? OR hash = ?", (segment.hash, prev)
        ).fetchall()
    }
    complete = known.get(prev, (0, 0, 0, 1))[1:] == (stream[0], segment.n - 1, 0)
    if not complete and not one.sparse:
        raise ConflictError(f"Segment {segment.n} came without the one before it.", kind="gap")
    held = known.get(segment.hash)
    if held is not None:
        if held[3] and complete:
            connection.execute("UPDATE segment SET sparse = 0 WHERE g = ?", (held[0],))
            advance(connection, stream[0], segment)
        return None, _fill(connection, held[0], one)
    return insert_segment(connection, segment, stream[0], sparse=not complete), one.items


def _fill(connection: Connection, g: int, one: Arriving) -> list[Item]:
    """Put bytes that a held segment lacks in their place; return these records."""
    (body,) = connection.execute("SELECT body FROM segment WHERE g = ?", (g,)).fetchone()
    if body == one.segment.body:
        return []
    held = body_of(msgspec.structs.replace(one.segment, body=bytes(body)))
    brought = {item.id: item for item in one.items if item.id in held.gaps}
    if brought:
        frames = [(id_, brought[id_].data if id_ in brought else data) for id_, data in held.frames]
        filled = with_body(one.segment, frames).body
        connection.execute("UPDATE segment SET body = ? WHERE g = ?", (filled, g))
    return list(brought.values())
