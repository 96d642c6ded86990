"""Segments that come in from elsewhere: into the truth tables, many in one transaction.

Each has been checked. What is done once for all of them (objects promised, records found by their prefix) costs as much
as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from cmf.errors import CmfError, ConflictError
from cmf.model import records as model
from cmf.model.segment import Genesis, Segment
from cmf.store.batch import Item
from cmf.store.chain import advance, insert_called, insert_carried, insert_genesis, insert_segment
from cmf.store.dialect import Connection


class Arriving(NamedTuple):
    """One checked segment and its records. ``sparse``: the one before it need not be held."""

    segment: Segment
    items: Sequence[Item]
    sparse: bool = False


Outcome = Literal["new", "known"] | CmfError
"""What became of a segment: it was committed, or held already, or an error kept it out."""


def take_in(connection: Connection, arriving: Sequence[Arriving]) -> tuple[list[Outcome], list[Arriving]]:
    """Insert segments in their order; return what became of each, and those that were new.

    One that came without the segment before it, and is not ``sparse``, is a `ConflictError`.
    """
    outcomes: list[Outcome] = []
    new: list[Arriving] = []
    carried: list[tuple[int, Sequence[bytes]]] = []
    for one in arriving:
        try:
            g = _insert(connection, one)
        except ConflictError as error:
            outcomes.append(error)
            continue
        outcomes.append("known" if g is None else "new")
        if g is not None:
            new.append(one)
            carried.append((g, [item.id for item in one.items]))
    insert_carried(connection, carried)
    _note_names(connection, new)
    connection.executemany(
        "INSERT INTO promised (digest, scope) VALUES (?, ?) ON CONFLICT DO NOTHING",
        sorted({(digest, item.scope) for one in new for item in one.items for digest in model.sent_with(item.record)}),
    )
    return outcomes, new


def _note_names(connection: Connection, new: Sequence[Arriving]) -> None:
    streams = {one.segment.stream for one in new if one.items}
    sites = {
        stream: connection.execute("SELECT site FROM stream WHERE stream = ?", (stream,)).fetchone()[0]
        for stream in streams
    }
    insert_called(connection, ((sites[one.segment.stream], item.record) for one in new for item in one.items))


def _insert(connection: Connection, one: Arriving) -> int | None:
    """Insert a segment; return its number, or None if it was held already."""
    segment = one.segment
    if isinstance(segment.fields, Genesis):
        if connection.execute("SELECT 1 FROM stream WHERE stream = ?", (segment.hash,)).fetchone():
            return None
        return insert_genesis(connection, segment, own=False)
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
        return None
    return insert_segment(connection, segment, stream[0], sparse=not complete)
