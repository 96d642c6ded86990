"""One batch of records on its way into the derived tables: its rows by kind, and the integers of the nodes they name.

Also what is retracted among them. Knows no rule of merging: that is `fold`'s and `current`'s.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from cmf.graph import nodes, registers
from cmf.graph.projection import ArtifactRow, BirthRow, EventRow, LinkRow, PropertyRow, Row, SeriesRow, row
from cmf.model import records as model
from cmf.store.dialect import IN_MAX, Connection, intern

RECORD_HIDDEN = 1
EXECUTION_HIDDEN = 2


class Item(NamedTuple):
    """One record to fold: the scope that carries it, its raw id, its bytes, and it decoded (None: unknown kind)."""

    scope: str
    id: bytes
    data: bytes
    record: model.Record | None


class Batch:
    """Rows of one batch by kind, each with its scope. ``i`` and ``s`` are the integers of nodes and of scopes."""

    def __init__(self, connection: Connection, items: Iterable[Item]) -> None:
        self.connection = connection
        self.executions: set[bytes] = set()
        self._rows: dict[type, list[tuple[str, Any]]] = defaultdict(list)
        keys: dict[bytes, None] = {}
        scopes: dict[str, bytes] = {}
        hideable: list[bytes] = []
        for scope, id_, data, record in items:
            if record is None:
                continue
            made = row(scope, id_, record, data)
            self._rows[type(made)].append((scope, made))
            if scope not in scopes:
                scopes[scope] = keys_of_scope = b"s" + scope.encode()
                keys[keys_of_scope] = None
            for key in keys_of(made):
                keys[key] = None
            hideable.append(id_)
        self.i = intern(connection, list(keys))
        self.s = {scope: self.i[key] for scope, key in scopes.items()}
        self.retractions = Covered(connection, "register", registers.RETRACTED)
        if self.retractions.exist():
            self.retractions.load([*map(nodes.record_key, hideable), *(key for key in keys if key[:1] == b"e")])

    def of(self, kind: type) -> list[tuple[str, Any]]:
        """Return (scope, row) of every record of one kind."""
        return self._rows.get(kind, [])

    def hidden(self, scope: str, record: bytes) -> int:
        """Return the bit that hides a record's row, or 0."""
        return RECORD_HIDDEN if self.retractions.covers(scope, nodes.record_key(record)) else 0

    def hidden_execution(self, scope: str, execution: bytes) -> int:
        """Return the bit that hides an execution and its events, or 0."""
        return EXECUTION_HIDDEN if self.retractions.covers(scope, execution) else 0


def keys_of(made: Row) -> tuple[bytes, ...]:
    """Return the keys of the nodes that a row names."""
    if isinstance(made, PropertyRow):
        return (made.subject,)
    if isinstance(made, EventRow):
        return (made.event, made.execution, made.artifact)
    if isinstance(made, ArtifactRow):
        return (made.artifact,)
    if isinstance(made, LinkRow):
        return (made.source, made.target)
    assert isinstance(made, BirthRow | SeriesRow)
    return (made.execution,)


class Covered:
    """Which of some nodes are marked by a property that is true, and by which scopes: it covers what lies below them.

    ``table``: ``register`` (what counts now) or ``property`` (whatever was ever said).
    """

    def __init__(self, connection: Connection, table: str, key: str) -> None:
        self._connection = connection
        self._table = table
        self._key = key
        self._scopes: dict[bytes, list[str]] = {}

    def exist(self) -> bool:
        """Tell whether anything at all is marked: mostly nothing is, and nothing needs to be looked up."""
        # The key is spelled out, so that the database sees that its partial index will do.
        found = self._connection.execute(f"SELECT 1 FROM {self._table} WHERE key = '{self._key}' LIMIT 1").fetchone()
        return found is not None

    def load(self, keys: Iterable[bytes]) -> None:
        """Look up anew which of these nodes are marked."""
        wanted = list(keys)
        for key in wanted:
            self._scopes.pop(key, None)
        for at in range(0, len(wanted), IN_MAX):
            part = wanted[at : at + IN_MAX]
            for key, scope in self._connection.execute(
                f"SELECT n.key, w.key FROM node n CROSS JOIN {self._table} r ON r.subject = n.i AND r.key = ? "
                "AND r.value = 'true' JOIN node w ON w.i = r.s "
                f"WHERE n.key IN ({','.join('?' * len(part))})",
                (self._key, *part),
            ):
                self._scopes.setdefault(key, []).append(scope[1:].decode())

    def known(self, key: bytes) -> bool:
        """Tell whether any scope marks this node."""
        return key in self._scopes

    def covers(self, scope: str, key: bytes) -> bool:
        """Tell whether what a scope carries of this node is marked."""
        return any(model.covers(by, scope) for by in self._scopes.get(key, ())) if self._scopes else False
