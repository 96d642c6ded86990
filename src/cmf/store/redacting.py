"""Redaction in the store: the bytes of a record leave the truth tables, and its rows the derived ones.

A redaction counts for the copies of a record that are carried in its scope or below, and for ever: no later write takes
it back. So the order in which a record and its redaction come makes no difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import NamedTuple

import msgspec

from cmf.graph import nodes, registers
from cmf.graph.projection import BirthRow, EventRow, LinkRow, PropertyRow, SeriesRow, plain, row
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.store import current
from cmf.store.batch import Batch, Covered, Item, keys_of
from cmf.store.chain import prefix
from cmf.store.dialect import EACH, Connection, array, known

FOLDED_UP_TO = "UPDATE folded SET p = (SELECT coalesce(max(p), 0) FROM pending WHERE p <= ?)"
"""Notes that pending records up to a number are folded. A number that is free again may be given again."""

_json = msgspec.json.Decoder()
_name = msgspec.json.Encoder()


Copy = tuple[str, bytes]
"""A record as one scope carries it: the scope and the record's id."""

Goes = Callable[[str, bytes, bytes], bool]
"""Tells of (scope, id, bytes) of a copy whether it is dropped."""


class Carrier(NamedTuple):
    """A segment that may carry some records: its number, its scope, and itself."""

    g: int
    scope: str
    segment: segments.Segment


def redactions(connection: Connection) -> Covered:
    """Return what says which records are redacted, and for which scopes. Hidden or not, a redaction counts."""
    return Covered(connection, "property", model.REDACTED)


def redactions_of(connection: Connection, segments: AbstractSet[int]) -> set[tuple[bytes, str]]:
    """Return (record id, scope) of the redactions of what some segments, by number, carry or carried."""
    said: dict[int, set[tuple[bytes, str]]] = defaultdict(set)
    for key, record, scope in connection.execute(
        "SELECT n.key, p.record, w.key FROM property p JOIN node n ON n.i = p.subject JOIN node w ON w.i = p.s "
        f"WHERE p.key = '{model.REDACTED}' AND p.value = 'true'"
    ).fetchall():
        said[prefix(key[1:])].add((bytes(record), scope[1:].decode()))
    rows = connection.execute(
        f"SELECT c.prefix, c.g FROM {EACH} j CROSS JOIN carried c ON c.prefix = j.value", (array(sorted(said)),)
    )
    return {redaction for hint, g in rows.fetchall() if g in segments for redaction in said[hint]}


def redact(batch: Batch, items: Iterable[Item]) -> list[PropertyRow]:
    """Drop what the redactions of a batch are about, and what of the batch was redacted before.

    Returns the rows of retractions that went: what they hid is to be shown again.
    """
    said = redactions(batch.connection)
    if not said.exist():
        return []
    asked = {id_ for item in items for id_ in (item.id, model.redacts(item.record)) if id_ is not None}
    said.load(nodes.record_key(id_) for id_ in asked)
    covered = {id_ for id_ in asked if said.known(nodes.record_key(id_))}

    def goes(scope: str, id_: bytes, data: bytes) -> bool:
        return said.covers(scope, nodes.record_key(id_)) and segments.can_redact(data, model.trusted(data))

    sealed = _drop_sealed(batch.connection, covered, goes)
    return _forget_all(batch, {**sealed, **_drop_pending(batch.connection, covered, goes)})


def drop_pending(batch: Batch, ids: AbstractSet[bytes]) -> list[PropertyRow]:
    """Drop records that wait to be sealed, as if they had never been; return the rows of retractions among them."""
    return _forget_all(batch, _drop_pending(batch.connection, ids))


def _forget_all(batch: Batch, gone: Mapping[Copy, bytes]) -> list[PropertyRow]:
    """Forget the rows of records that went; return those of retractions."""
    undone = []
    for (scope, id_), data in gone.items():
        record = model.trusted(data)
        if record is None:
            continue
        made = row(scope, id_, record, data)
        _forget(batch, Item(scope, id_, data, record), made)
        if isinstance(made, PropertyRow) and made.key == registers.RETRACTED:
            undone.append(made)
    return undone


# ---- truth -------------------------------------------------------------------------------------------------------


def _drop_sealed(connection: Connection, ids: AbstractSet[bytes], goes: Goes) -> dict[Copy, bytes]:
    """Drop the bytes of these records from the segments that carry them; return what went."""
    gone: dict[Copy, bytes] = {}
    for held in _carriers(connection, ids):
        frames = segments.body_of(held.segment).frames
        mine = {
            (held.scope, id_): data
            for id_, data in frames
            if data is not None and id_ in ids and goes(held.scope, id_, data)
        }
        if mine:
            left = [(id_, None if (held.scope, id_) in mine else data) for id_, data in frames]
            body = segments.with_body(held.segment, left).body
            connection.execute("UPDATE segment SET body = ? WHERE g = ?", (body, held.g))
            gone |= mine
    return gone


def _drop_pending(connection: Connection, ids: AbstractSet[bytes], goes: Goes | None = None) -> dict[Copy, bytes]:
    """Drop these records from what waits to be sealed; return what went."""
    gone: dict[Copy, bytes] = {}
    for id_ in sorted(ids):
        for scope, data in connection.execute("SELECT scope, data FROM pending WHERE id = ?", (id_,)).fetchall():
            if goes is None or goes(scope, id_, data):
                gone[scope, id_] = data
                connection.execute("DELETE FROM pending WHERE id = ? AND scope = ?", (id_, scope))
                connection.execute("DELETE FROM waiting WHERE id = ? AND scope = ?", (id_, scope))
    if gone:
        connection.execute(FOLDED_UP_TO, connection.execute("SELECT p FROM folded").fetchone())
    return gone


def _carriers(connection: Connection, ids: AbstractSet[bytes]) -> Iterable[Carrier]:
    """Yield the segments that may carry some records, each once."""
    numbers = {
        g
        for id_ in ids
        for (g,) in connection.execute("SELECT g FROM carried WHERE prefix = ?", (prefix(id_),)).fetchall()
    }
    for g in sorted(numbers):
        scope, *parts = connection.execute(
            "SELECT s.scope, g.header, g.signature, g.body FROM segment g JOIN stream s ON s.s = g.s WHERE g.g = ?",
            (g,),
        ).fetchone()
        yield Carrier(g, scope, segments.parse(*parts))


# ---- what was derived ----------------------------------------------------------------------------------------------


def _forget(batch: Batch, item: Item, made: object) -> None:
    """Take a record's row out of the derived tables, and compute anew what it counted in."""
    connection = batch.connection
    assert isinstance(made, BirthRow | EventRow | LinkRow | PropertyRow | SeriesRow)
    scope_key = b"s" + item.scope.encode()
    i = known(connection, keys := [*keys_of(made), scope_key])
    if len(i) < len(set(keys)):
        return  # it was never folded
    s = i[scope_key]
    batch.i.update(i)
    if isinstance(made, EventRow):
        connection.execute("DELETE FROM event WHERE v = ? AND s = ?", (i[made.event], s))
    elif isinstance(made, LinkRow):
        connection.execute(
            "DELETE FROM link WHERE source = ? AND rel = ? AND target = ? AND s = ? AND record = ?",
            (i[made.source], made.rel, i[made.target], s, made.record),
        )
    elif isinstance(made, BirthRow):
        connection.execute("DELETE FROM birth WHERE e = ? AND record = ?", (i[made.execution], made.record))
        batch.executions.add(made.execution)
    elif isinstance(made, SeriesRow):
        e = i[made.execution]
        connection.execute("DELETE FROM series WHERE e = ? AND record = ?", (e, made.record))
        current.last_points(connection, e, s, _json.decode(made.names))
    else:
        subject = i[made.subject]
        connection.execute(
            "DELETE FROM property WHERE subject = ? AND key = ? AND s = ? AND t = ? AND record = ?",
            (subject, made.key, s, made.t, made.record),
        )
        current.shown(batch, made, item.scope, s)
        _forget_name(connection, item.record)


def _forget_name(connection: Connection, record: model.Record | None) -> None:
    """Forget what a site called itself in a record that went, unless another record says that name too."""
    if not isinstance(record, model.Property) or not record.key.startswith(registers.PROCESS):
        return
    name = _site(record.value)
    others = connection.execute(
        "SELECT value FROM property WHERE key >= 'process/' AND key < 'process0' AND instr(value, ?) > 0",
        (_name.encode(name).decode(),),
    )
    if name and not any(_site(_json.decode(value)) == name for (value,) in others):
        connection.execute("DELETE FROM called WHERE name = ?", (name,))


def _site(process: object) -> str:
    return plain(registers.site(process)) if isinstance(process, dict) else ""
