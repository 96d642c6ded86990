"""What counts now: registers, last points, and the row of each execution, computed from the grow-only rows.

Everything here may be computed again at any time and gives the same result: it depends on what the grow-only tables
hold, never on what was computed before or in which order records came.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import msgspec

from cmf.graph import nodes, registers
from cmf.graph.projection import PropertyRow, plain, property_row
from cmf.model import records as model
from cmf.store.batch import Batch
from cmf.store.dialect import EACH, Connection, array, intern

BENEATH = -1
"""The time of a value that lies beneath every write to a register: a birth's parameter, a series' last point."""

_json = msgspec.json.Decoder()

_UPSERT = (
    "INSERT INTO register (subject, key, s, t, record, value, number, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
    "ON CONFLICT (subject, key, s) DO UPDATE SET t = excluded.t, record = excluded.record, value = excluded.value, "
    "number = excluded.number, text = excluded.text"
)
_UPSERT_NEWER = _UPSERT + " WHERE (excluded.t, excluded.record) > (register.t, register.record)"

Values = tuple[Any, ...]
"""One row of the table ``register``."""


# ---- registers -------------------------------------------------------------------------------------------------


def write(connection: Connection, rows: list[Values]) -> None:
    """Write to registers: the greatest (t, record id) stays, and ``lost`` gives way to what a run said of itself."""
    _raise(connection, rows)
    touched = {values[:3] for values in rows if values[1].startswith(registers.STATUS)}
    # Only where somebody wrote `lost` can another write than the newest count, so only these are looked at again.
    for place in connection.execute(
        f"SELECT DISTINCT p.subject, p.key, p.s FROM {EACH} j CROSS JOIN property p ON p.subject = j.value "
        "AND p.key >= 'status/' AND p.key < 'status0' WHERE p.hidden = 0 AND instr(p.value, '\"lost\"') > 0",
        (array(sorted({subject for subject, _, _ in touched})),),
    ).fetchall():
        if place in touched:
            recompute(connection, *place)


def _raise(connection: Connection, rows: Iterable[Values]) -> None:
    """Set registers to these values where they are newer: greater by (t, record id)."""
    newest: dict[Values, Values] = {}
    for values in rows:
        held = newest.setdefault(values[:3], values)
        if values[3:5] > held[3:5]:
            newest[values[:3]] = values
    connection.executemany(_UPSERT_NEWER, [newest[place] for place in sorted(newest)])


def recompute(connection: Connection, subject: int, key: str, s: int) -> None:
    """Find a register's value again among all its writes that are not retracted."""
    rows = connection.execute(
        "SELECT t, record, value, number, text FROM property WHERE subject = ? AND key = ? AND s = ? AND hidden = 0",
        (subject, key, s),
    ).fetchall()
    writes = {row[1]: row for row in rows}
    winner = registers.current(key, [registers.Write(t, record, _json.decode(v)) for t, record, v, _, _ in rows])
    connection.execute("DELETE FROM register WHERE subject = ? AND key = ? AND s = ?", (subject, key, s))
    if winner is not None:
        connection.execute(_UPSERT, (subject, key, s, *writes[winner.record]))


def _value(value: Any) -> tuple[str, float | None, str | None]:
    made = property_row(b"", "", 0, b"", value)
    return made.value, made.number, made.text


# ---- series ----------------------------------------------------------------------------------------------------


def last_points(connection: Connection, e: int, s: int, names: Iterable[str]) -> None:
    """Set ``metric/NAME`` of an execution to its last point, where nobody set a final metric. ``s``: its own scope.

    Of chunks with the same first row only the longest counts, of equally long ones that with the lowest record id.
    """
    wanted = set(names)
    newest: dict[str, tuple[Values, bytes, Any]] = {}
    rows = connection.execute(
        "SELECT names, attempt, rank, first, time_last, step_last, record, stats FROM series "
        "WHERE e = ? AND hidden = 0 ORDER BY names, attempt, rank, first, rows DESC, record",
        (e,),
    ).fetchall()
    for _, same in itertools.groupby(rows, key=lambda row: row[:4]):
        listed, attempt, rank, _, time, step, record, stats = next(same)
        for name, stat in zip(_json.decode(listed), _json.decode(stats), strict=True):
            order = (registers.attempt_order(attempt), time, step, -rank, record)
            if name in wanted and (name not in newest or order > newest[name][0]):
                newest[name] = (order, record, stat[0])
    connection.executemany(
        "DELETE FROM register WHERE subject = ? AND key = ? AND s = ? AND t = ?",
        [(e, registers.METRIC + name, s, BENEATH) for name in sorted(wanted)],
    )
    _raise(
        connection,
        (
            (e, registers.METRIC + plain(name), s, BENEATH, record, *_value(last))
            for name, (_, record, last) in newest.items()
        ),
    )


# ---- executions ------------------------------------------------------------------------------------------------


def executions(batch: Batch) -> None:
    """Compute the row of every touched execution anew, from its births and registers."""
    connection = batch.connection
    keys = {batch.i[key]: key for key in batch.executions}
    if batch.retractions.exist():  # a redaction touches executions that the batch does not name
        batch.retractions.load(batch.executions)
    wanted = array(sorted(keys))
    births: dict[int, list[Values]] = defaultdict(list)
    for e, *birth in connection.execute(
        f"SELECT b.e, b.record, b.content, b.body FROM {EACH} j CROSS JOIN birth b ON b.e = j.value "
        "WHERE b.hidden = 0 ORDER BY b.e, b.record",
        (wanted,),
    ):
        births[e].append(tuple(birth))
    before = dict(
        connection.execute(f"SELECT x.e, x.record FROM {EACH} j CROSS JOIN execution x ON x.e = j.value", (wanted,))
    )
    said: dict[tuple[int, int], dict[str, Any]] = defaultdict(dict)
    for e, s, key, value in connection.execute(
        f"SELECT r.subject, r.s, r.key, r.value FROM {EACH} j CROSS JOIN register r ON r.subject = j.value "
        "AND r.key >= 'process/' AND r.key < 'status0' WHERE r.key < 'process0' OR r.key >= 'status/'",
        (wanted,),
    ):
        said[e, s][key] = _json.decode(value)
    rows: list[Values] = []
    parameters: list[Values] = []
    replaced: list[tuple[int]] = [(e,) for e in keys if e in before and (not births[e] or births[e][0][0] != before[e])]
    for e in sorted(births):
        if not births[e]:
            continue
        record = model.trusted(births[e][0][2])
        assert isinstance(record, model.Execution)
        scope, s = _own_scope(batch, keys[e])
        status = registers.status(said[e, s])
        process = registers.process(said[e, s], status.attempt)
        rows.append(
            (
                *(e, s, record.id, record.id[24:], record.started, plain(record.name)),
                *(plain(record.author or registers.user(process)), status.state, status.ended),
                plain(registers.site(process)),
                *(births[e][0][0], int(len({content for _, content, _ in births[e]}) > 1)),
                parent[1] if (parent := model.split_execution(record.parent)) else "",
                batch.hidden_execution(scope, keys[e]),
            )
        )
        if before.get(e) != births[e][0][0]:
            parameters += (
                (e, registers.PARAM + plain(name), s, BENEATH, births[e][0][0], *_value(value))
                for name, value in record.params.items()
            )
    connection.executemany("DELETE FROM execution WHERE e = ?", [(e,) for e in sorted(before)])
    connection.executemany(
        "INSERT INTO execution (e, s, id, short, started, name, author, status, ended, site, record, conflict, parent, "
        "hidden) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        rows,
    )
    connection.executemany(
        f"DELETE FROM register WHERE subject = ? AND t = {BENEATH} AND key >= 'param/' AND key < 'param0'", replaced
    )
    _raise(connection, parameters)


def put_back_parameters(connection: Connection, e: int) -> None:
    """Have `executions` put the birth's parameters back under registers whose writes were retracted."""
    connection.execute("UPDATE execution SET record = ? WHERE e = ?", (b"", e))


def _own_scope(batch: Batch, execution: bytes) -> tuple[str, int]:
    scope = nodes.scope_of(execution)
    if scope not in batch.s:
        key = b"s" + scope.encode()
        batch.s[scope] = intern(batch.connection, [key])[key]
    return scope, batch.s[scope]


def shown(batch: Batch, made: PropertyRow, scope: str, s: int) -> None:
    """Compute anew the register of a write that was hidden, shown again or taken away."""
    connection, subject = batch.connection, batch.i[made.subject]
    recompute(connection, subject, made.key, s)
    if made.subject[:1] != b"e":
        return
    if nodes.scope_of(made.subject) == scope and made.key.startswith(registers.METRIC):
        last_points(connection, subject, s, [made.key[len(registers.METRIC) :]])
    batch.executions.add(made.subject)
    put_back_parameters(connection, subject)
