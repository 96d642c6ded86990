"""The fold: records into derived tables. Every write is idempotent, and no order of records matters.

Grow-only rows are inserted; what counts now (`current`) is computed anew for what they touch.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from cmf.graph import nodes, registers
from cmf.graph.projection import ArtifactRow, BirthRow, EventRow, LinkRow, PropertyRow, SeriesRow, row
from cmf.store import current
from cmf.store.batch import RECORD_HIDDEN, Batch, Item, keys_of
from cmf.store.dialect import Connection, known
from cmf.store.redacting import drop_pending, redact

__all__ = ["Find", "Item", "fold", "forget"]

Find = Callable[[bytes], list[Item]]
"""Returns every held copy of a record, those of the batch included: a retraction may come after what it is about."""

_json = msgspec.json.Decoder()


def fold(connection: Connection, items: Iterable[Item], find: Find) -> None:
    """Fold records, which are committed or are being committed, into the derived tables."""
    items = list(items)
    batch = Batch(connection, items)
    _properties(batch)
    _births(batch)
    _artifacts(batch)
    _events(batch)
    _links(batch)
    _series(batch)
    undone = redact(batch, items)
    retractions = [made for _, made in batch.of(PropertyRow) if made.key == registers.RETRACTED] + undone
    if retractions:
        _retract(batch, retractions, find)
    if batch.executions:
        current.executions(batch)


def forget(connection: Connection, record_ids: AbstractSet[bytes], find: Find) -> None:
    """Take records that are not sealed yet out of the store, as if they had never been committed."""
    batch = Batch(connection, ())
    undone = drop_pending(batch, record_ids)
    if undone:
        _retract(batch, undone, find)
    if batch.executions:
        current.executions(batch)


# ---- grow-only rows ----------------------------------------------------------------------------------------------


def _properties(batch: Batch) -> None:
    stored: list[current.Values] = []
    counting: list[current.Values] = []
    for scope, made in batch.of(PropertyRow):
        # A retraction is not itself retracted: setting it to null is how it is taken back.
        hidden = 0 if made.key == registers.RETRACTED else batch.hidden(scope, made.record)
        values = (batch.i[made.subject], made.key, batch.s[scope], *made[2:])
        stored.append((*values, hidden))
        if not hidden:
            counting.append(values)
        if made.subject[:1] == b"e" and made.key.startswith(_SHAPES_EXECUTION):
            batch.executions.add(made.subject)
    stored.sort(key=lambda values: values[:5])
    batch.connection.executemany(
        "INSERT INTO property (subject, key, s, t, record, value, number, text, hidden) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        stored,
    )
    current.write(batch.connection, counting)


_SHAPES_EXECUTION = (registers.RETRACTED, registers.STATUS, registers.PROCESS)


def _births(batch: Batch) -> None:
    rows = []
    for scope, made in batch.of(BirthRow):
        rows.append((batch.i[made.execution], *made[1:], batch.hidden(scope, made.record)))
        batch.executions.add(made.execution)
    batch.connection.executemany(
        "INSERT INTO birth (e, record, content, body, hidden) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", rows
    )


def _artifacts(batch: Batch) -> None:
    batch.connection.executemany(
        "INSERT INTO artifact (a, s) VALUES (?, ?) ON CONFLICT DO NOTHING",
        sorted((batch.i[made.artifact], batch.s[scope]) for scope, made in batch.of(ArtifactRow)),
    )


def _events(batch: Batch) -> None:
    i = batch.i
    batch.connection.executemany(
        "INSERT INTO event (v, s, e, direction, a, path, name, type, role, size, t, more, hidden) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (
                *(i[made.event], batch.s[scope], i[made.execution], made.direction, i[made.artifact], *made[4:]),
                batch.hidden(scope, made.event[1:]) | batch.hidden_execution(scope, made.execution),
            )
            for scope, made in batch.of(EventRow)
        ],
    )


def _links(batch: Batch) -> None:
    batch.connection.executemany(
        "INSERT INTO link (source, rel, target, s, record, hidden) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        [
            (
                *(batch.i[made.source], made.rel, batch.i[made.target], batch.s[scope], made.record),
                batch.hidden(scope, made.record),
            )
            for scope, made in batch.of(LinkRow)
        ],
    )


def _series(batch: Batch) -> None:
    touched: dict[tuple[int, int], set[str]] = defaultdict(set)
    rows = []
    for scope, made in batch.of(SeriesRow):
        e = batch.i[made.execution]
        rows.append((e, *made[1:], batch.hidden(scope, made.record)))
        touched[e, batch.s[scope]].update(_json.decode(made.names))
    batch.connection.executemany(
        "INSERT INTO series (e, names, attempt, rank, first, rows, record, step_first, step_last, time_first, "
        "time_last, object, size, stats, hidden) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT DO NOTHING",
        rows,
    )
    for (e, s), names in touched.items():
        current.last_points(batch.connection, e, s, names)


# ---- retraction --------------------------------------------------------------------------------------------------


def _retract(batch: Batch, retractions: Sequence[PropertyRow], find: Find) -> None:
    """Show or hide what the retractions of this batch are about, where it is already held."""
    subjects = dict.fromkeys(made.subject for made in retractions)
    batch.retractions.load(subjects)
    for subject in subjects:
        if subject[:1] == b"e":
            batch.connection.execute(
                f"UPDATE event SET hidden = (hidden & {RECORD_HIDDEN}) | ? WHERE e = ?",
                (batch.hidden_execution(nodes.scope_of(subject), subject), batch.i[subject]),
            )
            batch.executions.add(subject)
        elif subject[:1] == b"r":
            for item in find(subject[1:]):
                if item.record is not None:
                    _set_hidden(batch, item)


def _set_hidden(batch: Batch, item: Item) -> None:
    """Show or hide one copy of a record, as the retractions now say."""
    assert item.record is not None
    connection = batch.connection
    made = row(item.scope, item.id, item.record, item.data)
    scope_key = b"s" + item.scope.encode()
    i = known(connection, keys := [*keys_of(made), scope_key])
    if len(i) < len(set(keys)):
        return  # not folded yet: the fold that brings it asks the retractions itself
    s = i[scope_key]
    hidden = batch.hidden(item.scope, item.id)
    batch.i.update(i)
    if isinstance(made, EventRow):
        connection.execute(
            "UPDATE event SET hidden = (hidden & ~1) | ? WHERE v = ? AND s = ?", (hidden, i[made.event], s)
        )
    elif isinstance(made, BirthRow):
        e = i[made.execution]
        connection.execute("UPDATE birth SET hidden = ? WHERE e = ? AND record = ?", (hidden, e, made.record))
        batch.executions.add(made.execution)
    elif isinstance(made, LinkRow):
        connection.execute(
            "UPDATE link SET hidden = ? WHERE source = ? AND rel = ? AND target = ? AND s = ? AND record = ?",
            (hidden, i[made.source], made.rel, i[made.target], s, made.record),
        )
    elif isinstance(made, SeriesRow):
        e = i[made.execution]
        connection.execute("UPDATE series SET hidden = ? WHERE e = ? AND record = ?", (hidden, e, made.record))
        current.last_points(connection, e, s, _json.decode(made.names))
    elif isinstance(made, PropertyRow) and made.key != registers.RETRACTED:
        subject = i[made.subject]
        connection.execute(
            "UPDATE property SET hidden = ? WHERE subject = ? AND key = ? AND s = ? AND t = ? AND record = ?",
            (hidden, subject, made.key, s, made.t, made.record),
        )
        current.shown(batch, made, item.scope, s)
