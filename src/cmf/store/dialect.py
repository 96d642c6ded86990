"""The seam `Dialect`: what the store asks of a database, and the few words in which databases differ.

Statements are written once, in the common subset of SQLite and PostgreSQL, with ``?`` for values; a dialect's
connection spells them as its database does. What every statement may use: ``ON CONFLICT``, ``RETURNING``, row values,
``coalesce``, ``substr`` of bytes (from 1), `EACH`. What none may: a sequence with a meaning, triggers, stored
procedures, advisory locks, foreign keys between tables, temporary tables, ``LIKE`` and ``%``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import msgspec

IN_MAX = 500
"""How many values one ``IN (…)`` holds at most."""

_IN_SIZES = (1, 8, 64, IN_MAX)
"""How many it holds in fact, the last one repeated as needed: few numbers, so that few statements are prepared."""

EACH = "json_each(?)"
"""A table with a column ``value`` of the integers in the `array` that is bound to it."""


class Cursor(Protocol):
    """The rows of one statement."""

    @property
    def rowcount(self) -> int:
        """How many rows the statement changed."""
        ...

    @property
    def description(self) -> Any:
        """The columns of the rows: a sequence whose items begin with a column's name."""
        ...

    def fetchone(self) -> Any:
        """Return the next row, or None."""
        ...

    def fetchall(self) -> list[Any]:
        """Return the rows that are left."""
        ...

    def __iter__(self) -> Iterator[Any]: ...


class Connection(Protocol):
    """A connection inside a transaction, as `Dialect.read` or `Dialect.write` lends it."""

    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Cursor:
        """Run one statement."""
        ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Run one statement for each row of values; no two rows of an ``ON CONFLICT … DO UPDATE`` have one key."""
        ...


class Dialect(Protocol):
    """One database with the tables of the schema.

    A caller may assume: transactions that write take turns; one that reads sees a single consistent state; what a
    transaction that raises has written is not there. A database that does not answer is an `UnreachableError`.
    """

    def read(self) -> AbstractContextManager[Connection]:
        """Lend a connection for one consistent read."""
        ...

    def fetch(self, sql: str, parameters: Sequence[Any] = ...) -> list[Any]:
        """Return the rows of one question, which is consistent by itself: all that it asks is of one moment.

        For what is asked at every request: it costs one round trip, where a `read` costs two more. It may name truth
        tables, not derived ones, which can be replaced while it runs.
        """
        ...

    def write(self, *, durable: bool = False) -> AbstractContextManager[Connection]:
        """Lend a connection for one transaction: committed at the end, rolled back if anything is raised.

        ``durable``: it survives power loss once this returns. Inside another `write` of the same thread it is a step
        of that one.
        """
        ...

    def create(self, connection: Connection, statements: Sequence[str]) -> None:
        """Run statements of a schema, with ``{blob}``, ``{real}``, ``{serial}`` and ``{compact}`` spelled out."""
        ...

    def replacing(self, connection: Connection) -> AbstractContextManager[None]:
        """Make the derived tables anew within, empty at first: what is named there is the new ones.

        Until the transaction commits, whoever reads sees those that were, whole; from then on, the new ones.
        """
        ...

    def count_on(self, connection: Connection, table: str, key: str) -> None:
        """Let a key that the store counts up (``{serial}``) go on behind the greatest that was written into it."""
        ...

    def checkpoint(self) -> None:
        """Make everything committed so far survive power loss."""
        ...

    def damage(self) -> str:
        """Return what the database finds wrong with itself, or ""."""
        ...

    def close(self) -> None:
        """Close every connection."""
        ...


class array:  # noqa: N801  # it stands in a statement's arguments as `list` would
    """Integers to be bound to `EACH`."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[Any]) -> None:
        self.values = values

    def __conform__(self, _: object) -> str:
        """Return what SQLite's ``json_each`` reads: its driver calls this."""
        return msgspec.json.encode(self.values).decode()


def intern(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return the integer of each node key, new ones included. Only inside a write transaction."""
    found = known(connection, keys)
    missing = [key for key in keys if key not in found]
    if missing:
        (last,) = connection.execute("SELECT coalesce(max(i), 0) FROM node").fetchone()
        fresh = list(zip(range(last + 1, last + 1 + len(missing)), missing, strict=True))
        connection.executemany("INSERT INTO node (i, key) VALUES (?, ?)", fresh)
        found.update((key, i) for i, key in fresh)
    return found


def known(connection: Connection, keys: Sequence[bytes]) -> dict[bytes, int]:
    """Return the integer of each node key that has one."""
    found: dict[bytes, int] = {}
    for part, marks in chunks(keys):
        found.update(connection.execute(f"SELECT key, i FROM node WHERE key IN ({marks})", part).fetchall())
    return found


def chunks(values: Sequence[Any]) -> Iterator[tuple[list[Any], str]]:
    """Yield values for an ``IN (…)`` and its marks: `IN_MAX` at most, the last repeated up to one of a few lengths."""
    for at in range(0, len(values), IN_MAX):
        part = list(values[at : at + IN_MAX])
        size = next(size for size in _IN_SIZES if size >= len(part))
        yield part + [part[-1]] * (size - len(part)), ",".join("?" * size)
