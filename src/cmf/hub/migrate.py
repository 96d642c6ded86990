"""Move a hub: every row of its truth, its log and its access, then the fold anew; and the bytes of its objects.

Positions in the log, tokens and grants stay what they are, so that clients notice nothing: their cursors and the last
checkpoint they keep hold at the new database.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec

from cmf.errors import ConflictError, CorruptError
from cmf.hub import accounts, auth, log, peers
from cmf.hub.objects import IN_FLIGHT, HubObjects
from cmf.objects.bucket import in_flight
from cmf.store import schema
from cmf.store.dialect import Connection, Dialect
from cmf.store.sql import SqlStore

ROWS = 500

TABLES = (*schema.TRUTH, *log.TABLES, *auth.TABLES, *peers.TABLES, *accounts.TABLES)
"""The statements that make all that is not derived."""

Progress = Callable[[str, int], None]
"""Called with a table and how many more of its rows were copied."""

_MADE = re.compile(r"CREATE TABLE (?:IF NOT EXISTS )?(\w+) \(")
_COUNTED = re.compile(r"(\w+) \{serial\}")


def migrate(source: Dialect, target: Dialect, *, progress: Progress) -> dict[str, int]:
    """Copy a hub's database into an empty one; return how many rows of each table were copied.

    All rows or none: it is one transaction there, and the source is read as it was at one moment. Then the derived
    tables are folded. `ConflictError` if the target holds a hub already.
    """
    counts = {}
    makes_what_lacks = [statement for statement in TABLES if "IF NOT EXISTS" in statement]
    with source.write(durable=True) as there:
        source.create(there, makes_what_lacks)  # of a hub that ran before these tables were
    with source.read() as there, target.write(durable=True) as here:
        target.create(here, makes_what_lacks)
        if (
            here.execute("SELECT 1 FROM stream LIMIT 1").fetchone()
            or here.execute("SELECT 1 FROM hub_principal LIMIT 1").fetchone()
        ):
            raise ConflictError(
                "The new database holds a hub already.", hint="Give an empty one, or none with this name.", kind="taken"
            )
        for statement in TABLES:
            made = _MADE.search(statement)
            if made is None:
                continue
            table = made[1]
            here.execute(f"DELETE FROM {table}")  # what a new one starts with
            counts[table] = 0
            for rows, insert in _copied(there, table):
                here.executemany(insert, rows)
                counts[table] += len(rows)
                progress(table, len(rows))
            counted = _COUNTED.search(statement)
            if counted is not None:
                target.count_on(here, table, counted[1])
        here.execute("UPDATE meta SET value = '' WHERE key = 'derived'")
    SqlStore(target)  # folds what is derived
    return counts


class Carried(msgspec.Struct):
    """What became of a hub's objects: carried, or there before; ``damaged``: whose bytes have another hash."""

    objects: int = 0
    object_bytes: int = 0
    held: int = 0
    damaged: list[str] = []


def carry(source: HubObjects, target: HubObjects, *, dry: bool, progress: Progress) -> Carried:
    """Copy a hub's objects to another place of theirs, each verified; the source stays as it is.

    What the target holds is passed over, so that a run that was cut goes on with the next. ``dry``: only count.
    A damaged object stays behind, and the rest goes on.
    """
    done = Carried(damaged=[])
    there = dict(target.list())
    lacking = []
    for digest, size in source.list():
        if there.get(digest) == size:
            done.held += 1
        else:
            lacking.append((digest, size))
    if dry:
        done.objects, done.object_bytes = len(lacking), sum(size for _, size in lacking)
        return done

    def one(item: tuple[str, int]) -> bool:
        try:
            with source.open(item[0]) as stream:
                target.put(item[0], stream)
        except CorruptError:
            return False
        return True

    for (digest, size), is_whole in in_flight(one, lacking, IN_FLIGHT):
        if not is_whole:
            done.damaged.append(digest)
            continue
        done.objects += 1
        done.object_bytes += size
        progress("objects", 1)
    return done


def _copied(connection: Connection, table: str) -> Iterator[tuple[Sequence[Sequence[Any]], str]]:
    """Yield the rows of a table, some at a time, and the statement that inserts them."""
    cursor = connection.execute(f"SELECT * FROM {table}")
    columns = [column[0] for column in cursor.description]
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    rows: list[Sequence[Any]] = []
    for row in cursor:
        rows.append(row)
        if len(rows) == ROWS:
            yield rows, insert
            rows = []
    if rows:
        yield rows, insert
