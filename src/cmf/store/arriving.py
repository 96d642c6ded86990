"""Segments that come in from elsewhere: into the truth tables, many in one transaction.

Each has been checked. What is done once for all of them (objects promised, records found by their prefix) costs as much
as for one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from cmf.errors import CmfError, ConflictError
from cmf.graph import nodes
from cmf.model import records as model
from cmf.model.segment import Genesis, Segment, body_of, can_redact, with_body
from cmf.store.batch import Covered, Item
from cmf.store.chain import (
    advance,
    insert_called,
    insert_carried,
    insert_complete,
    insert_segment,
    insert_stream,
    prev_of,
)
from cmf.store.dialect import Connection, chunks
from cmf.store.redacting import redactions


class Arriving(NamedTuple):
    """One checked segment and its records. ``sparse``: the one before it need not be held. ``by``: who brings it."""

    segment: Segment
    items: Sequence[Item]
    sparse: bool = False
    by: int = 0


class Tally(Protocol):
    """What counts segments in the transaction that commits them, for a store that does not take any number."""

    def charge(self, one: Arriving, scope: str, size: int, streams: int) -> None:
        """Count the bytes and streams that a segment adds; `ConflictError` if they are too many: it is not taken."""
        ...

    def close(self) -> None:
        """Write what was counted."""
        ...


Outcome = Literal["new", "known"] | CmfError
"""What became of a segment: it was committed, or held already, or an error kept it out."""


def take_in(
    connection: Connection, arriving: Sequence[Arriving], tally: Tally | None = None
) -> tuple[list[Outcome], list[Arriving], list[Item]]:
    """Insert segments in their order; return what became of each, those that were new, and the records to fold.

    One that came without the segment before it, and is not ``sparse``, is a `ConflictError`. Bytes that are redacted
    here are never written; bytes that a held segment lacks are filled in.
    """
    outcomes: list[Outcome] = []
    new: list[Arriving] = []
    brought: list[Arriving] = []
    said = redactions(connection)
    if said.exist():
        said.load(nodes.record_key(item.id) for one in arriving for item in one.items)
    held = _Held(connection, arriving, tally)
    for one in (_without_redacted(brought, said) for brought in arriving):
        try:
            is_new, lacked = held.insert(one)
        except ConflictError as error:
            outcomes.append(error)
            continue
        outcomes.append("new" if is_new else "known")
        brought.append(one._replace(items=lacked))
        if is_new:
            new.append(one)
    held.write()
    if tally is not None:
        tally.close()
    insert_carried(connection, ((held.number(one.segment.hash), _ids(one)) for one in new))
    items = [item for one in brought for item in one.items]
    insert_called(
        connection, ((held.streams[one.segment.stream][1], item.record) for one in brought for item in one.items)
    )
    connection.executemany(
        "INSERT INTO promised (digest, scope) VALUES (?, ?) ON CONFLICT DO NOTHING",
        sorted({(digest, item.scope) for item in items for digest in model.sent_with(item.record)}),
    )
    return outcomes, new, items


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


class _Held:
    """What is held of the chains that some segments belong to: read at once, and kept true as they are inserted.

    Those that simply follow what is held are written together, by `write`, or before another looks at the tables.
    """

    def __init__(self, connection: Connection, arriving: Sequence[Arriving], tally: Tally | None) -> None:
        self._connection = connection
        self._tally = tally
        self.streams: dict[bytes, tuple[int, str, str]] = {}
        """(number, site, scope) by stream."""
        self._segments: dict[bytes, _Place] = {}
        self._unwritten: list[tuple[int, Segment]] = []
        self._read_streams(list({one.segment.stream for one in arriving}))
        hashes = {one.segment.hash for one in arriving}
        self._read_segments(list(hashes.union(prev_of(one.segment) for one in arriving)))

    def _read_streams(self, streams: Sequence[bytes]) -> None:
        for part, marks in chunks(streams):
            for stream, *known in self._connection.execute(
                f"SELECT stream, s, site, scope FROM stream WHERE stream IN ({marks})", part
            ).fetchall():
                self.streams[bytes(stream)] = (known[0], known[1], known[2])

    def _read_segments(self, hashes: Sequence[bytes]) -> None:
        for part, marks in chunks(hashes):
            for hash_, *place in self._connection.execute(
                f"SELECT hash, g, s, n, sparse FROM segment WHERE hash IN ({marks})", part
            ).fetchall():
                self._segments[bytes(hash_)] = _Place(*place)

    def place(self, hash_: bytes) -> _Place | None:
        """Return where a segment is held, or None."""
        found = self._segments.get(hash_)
        if found is not None and found.sparse:  # one that was inserted since may have completed it
            self.write()
            self._read_segments([hash_])
        return self._segments.get(hash_)

    def number(self, hash_: bytes) -> int:
        """Return the number of a segment that is held and written."""
        return self._segments[hash_].g

    def write(self) -> None:
        """Write the segments that were inserted and are not written yet."""
        if self._unwritten:
            for hash_, g in insert_complete(self._connection, self._unwritten).items():
                self._segments[hash_] = self._segments[hash_]._replace(g=g)
            self._unwritten.clear()

    def insert(self, one: Arriving) -> tuple[bool, Sequence[Item]]:
        """Insert a segment; tell whether it is new, and return its records that are."""
        segment = one.segment
        if isinstance(segment.fields, Genesis):
            if segment.hash in self.streams:
                return False, ()
            self._charge(one, segment.fields.scope, _size(segment), streams=1)
            s = insert_stream(self._connection, segment, own=False)
            self.streams[segment.hash] = (s, segment.fields.site, segment.fields.scope)
            self._put_off(segment, s)
            return True, ()
        if segment.stream not in self.streams:
            raise ConflictError("A segment came without the start of its stream.", kind="gap")
        s, _, scope = self.streams[segment.stream]
        before = self.place(prev_of(segment))
        complete = before is not None and before[1:] == (s, segment.n - 1, 0)
        if not complete and not one.sparse:
            raise ConflictError(f"Segment {segment.n} came without the one before it.", kind="gap")
        held = self.place(segment.hash)
        if held is not None:
            self.write()
            g = self.number(segment.hash)
            lacked = self._fill(g, one, scope)
            if held.sparse and complete:
                self._connection.execute("UPDATE segment SET sparse = 0 WHERE g = ?", (g,))
                advance(self._connection, [(s, segment)])
            return False, lacked
        self._charge(one, scope, _size(segment))
        if complete:
            self._put_off(segment, s)
        else:
            self.write()
            g = insert_segment(self._connection, segment, s, sparse=True)
            self._segments[segment.hash] = _Place(g, s, segment.n, 1)
        return True, one.items

    def _put_off(self, segment: Segment, s: int) -> None:
        """Take a segment for held, complete, and leave it to be written with others."""
        self._unwritten.append((s, segment))
        self._segments[segment.hash] = _Place(0, s, segment.n, 0)  # it has a number once it is written

    def _fill(self, g: int, one: Arriving, scope: str) -> list[Item]:
        """Put bytes that a held segment lacks in their place; return these records."""
        (body,) = self._connection.execute("SELECT body FROM segment WHERE g = ?", (g,)).fetchone()
        if body == one.segment.body:
            return []
        held = body_of(msgspec.structs.replace(one.segment, body=bytes(body)))
        brought = {item.id: item for item in one.items if item.id in held.gaps}
        if brought:
            frames = [(id_, brought[id_].data if id_ in brought else data) for id_, data in held.frames]
            filled = with_body(one.segment, frames).body
            self._charge(one, scope, len(filled) - len(body))
            self._connection.execute("UPDATE segment SET body = ? WHERE g = ?", (filled, g))
        return list(brought.values())

    def _charge(self, one: Arriving, scope: str, size: int, streams: int = 0) -> None:
        if self._tally is not None:
            self._tally.charge(one, scope, size, streams)


class _Place(NamedTuple):
    """Where a segment is held: its number, its stream's, its position there, and whether the one before may lack."""

    g: int
    s: int
    n: int
    sparse: int


def _size(segment: Segment) -> int:
    return len(segment.header) + len(segment.signature) + len(segment.body)
