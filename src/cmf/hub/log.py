"""The hub's log in its database: every segment it took in, at a position of its own, under one Merkle root.

A position is given in the transaction that commits the segment, and writers take turns: so positions have no holes,
and whoever has read up to one has missed nothing before it. Hashes are kept for every 256th subtree (a tile); the
levels between are computed from the leaves or subtrees below.
"""

from __future__ import annotations

from collections.abc import Sequence

from cmf.errors import ConflictError
from cmf.model import log
from cmf.model.log import Checkpoint, Subtree
from cmf.model.wire import Proofs
from cmf.signing import Key
from cmf.store.dialect import Connection, Dialect

TILE_LEVELS = 8

TABLES = (
    "CREATE TABLE IF NOT EXISTS hub_entry (position INTEGER PRIMARY KEY, hash {blob} NOT NULL UNIQUE)",
    """CREATE TABLE IF NOT EXISTS hub_tile (
        level INTEGER NOT NULL, place INTEGER NOT NULL, hash {blob} NOT NULL, PRIMARY KEY (level, place)){compact}""",
    "CREATE TABLE IF NOT EXISTS hub_log (shard INTEGER PRIMARY KEY, size INTEGER NOT NULL)",
    "INSERT INTO hub_log (shard, size) VALUES (0, 0) ON CONFLICT DO NOTHING",
)


class Log:
    """The log of one hub. ``key`` signs its checkpoints."""

    def __init__(self, dialect: Dialect, key: Key) -> None:
        self._sql = dialect
        self._key = key
        with dialect.write(durable=True) as connection:
            dialect.create(connection, TABLES)
            self._catch_up(connection)

    def _catch_up(self, connection: Connection) -> None:
        """Log the segments of a hub that kept none yet, in the order in which they came.

        A segment and its entry are one transaction: if the newest one is in the log, all are.
        """
        if connection.execute(
            "SELECT 1 FROM hub_entry WHERE hash = (SELECT hash FROM segment ORDER BY g DESC LIMIT 1)"
        ).fetchone():
            return
        rows = connection.execute(
            "SELECT g.hash FROM segment g LEFT JOIN hub_entry e ON e.hash = g.hash WHERE e.hash IS NULL ORDER BY g.g"
        ).fetchall()
        self.append(connection, [hash_ for (hash_,) in rows])

    def append(self, connection: Connection, hashes: Sequence[bytes]) -> None:
        """Give segments, which this transaction commits, the next positions."""
        old = _size(connection)
        size = old + len(hashes)
        moved = connection.execute("UPDATE hub_log SET size = ? WHERE shard = 0 AND size = ?", (size, old))
        if moved.rowcount != 1:
            raise ConflictError("Another process extended the log.", hint="Send the segments again.", kind="busy")
        entries = list(zip(range(old, size), hashes, strict=True))
        connection.executemany("INSERT INTO hub_entry (position, hash) VALUES (?, ?)", entries)
        level, before, after = TILE_LEVELS, old >> TILE_LEVELS, size >> TILE_LEVELS
        while after > before:
            tiles = [(level, place, self._below(connection, level, place)) for place in range(before, after)]
            connection.executemany("INSERT INTO hub_tile (level, place, hash) VALUES (?, ?, ?)", tiles)
            level, before, after = level + TILE_LEVELS, before >> TILE_LEVELS, after >> TILE_LEVELS

    def size(self) -> int:
        """Return how many entries there are."""
        with self._sql.read() as connection:
            return _size(connection)

    def standing(self, old: int) -> tuple[str, int, bytes, list[bytes]]:
        """Return the signed checkpoint of now, its size and root, and the proof that the first ``old`` are its start.

        There is no proof if this log has fewer: its checkpoint says so.
        """
        with self._sql.read() as connection:
            now = self._checkpoint(connection)
            proof = log.consistency(old, now.size, self._nodes(connection)) if 0 <= old <= now.size else []
        return log.sign(now, self._key), now.size, now.root, proof

    def proofs(self, hashes: Sequence[bytes], size: int, since: int) -> Proofs:
        """Return where these segments are, and what shows it: see `wire.Proofs`."""
        with self._sql.read() as connection:
            now = self._checkpoint(connection)
            nodes = _Tiles(connection).node
            entries = {}
            for hash_ in hashes:
                row = connection.execute("SELECT position FROM hub_entry WHERE hash = ?", (hash_,)).fetchone()
                if row is not None:
                    entries[hash_.hex()] = row[0]
            kept = [Subtree(0, position) for position in entries.values()]
            kept += log.peaks(0, since) if 0 < since <= now.size else []
            return Proofs(
                checkpoint=log.sign(now, self._key),
                proof=[hash_.hex() for hash_ in log.consistency(size, now.size, nodes)]
                if 0 <= size <= now.size
                else [],
                entries=entries,
                nodes=[(*node, nodes(*node).hex()) for node in log.beside(kept, now.size)],
            )

    def holds(self, size: int, root: bytes) -> bool:
        """Tell whether a log of this size and root is the start of this one: a cursor is believed only then."""
        with self._sql.read() as connection:
            return size <= _size(connection) and self._checkpoint(connection, size).root == root

    def entries(self, start: int, limit: int) -> list[bytes]:
        """Return the hashes of the next segments from a position on."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT hash FROM hub_entry WHERE position >= ? ORDER BY position LIMIT ?", (start, limit)
            ).fetchall()
        return [hash_ for (hash_,) in rows]

    def root(self, size: int) -> bytes:
        """Return the root of the first ``size`` entries."""
        with self._sql.read() as connection:
            return self._checkpoint(connection, size).root

    def _checkpoint(self, connection: Connection, size: int | None = None) -> Checkpoint:
        size = _size(connection) if size is None else size
        return Checkpoint(self._key.public.hex(), size, log.root(size, self._nodes(connection)))

    def _nodes(self, connection: Connection) -> log.Nodes:
        return lambda level, place: self._node(connection, level, place)

    def _node(self, connection: Connection, level: int, place: int) -> bytes:
        if level and level % TILE_LEVELS == 0:
            row = connection.execute(
                "SELECT hash FROM hub_tile WHERE level = ? AND place = ?", (level, place)
            ).fetchone()
            assert row is not None
            return bytes(row[0])
        return self._below(connection, level, place)

    def _below(self, connection: Connection, level: int, place: int) -> bytes:
        """Compute a complete subtree from the tiles, or the leaves, of the level below."""
        base = max(0, (level - 1) // TILE_LEVELS * TILE_LEVELS)
        start, end = place << (level - base), (place + 1) << (level - base)
        if base:
            rows = connection.execute(
                "SELECT hash FROM hub_tile WHERE level = ? AND place >= ? AND place < ? ORDER BY place",
                (base, start, end),
            ).fetchall()
            hashes = [bytes(hash_) for (hash_,) in rows]
        else:
            rows = connection.execute(
                "SELECT hash FROM hub_entry WHERE position >= ? AND position < ? ORDER BY position", (start, end)
            ).fetchall()
            hashes = [log.leaf(hash_) for (hash_,) in rows]
        assert len(hashes) == end - start
        while len(hashes) > 1:
            hashes = [log.join(*hashes[at : at + 2]) for at in range(0, len(hashes), 2)]
        return hashes[0]


class _Tiles:
    """The nodes of the log in one transaction; each tile is read once, and all in it computed from that."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._levels: dict[tuple[int, int], list[list[bytes]]] = {}

    def node(self, level: int, place: int) -> bytes:
        """Return the hash of a complete subtree."""
        base = level // TILE_LEVELS * TILE_LEVELS
        tile = place >> (TILE_LEVELS - (level - base))
        if (base, tile) not in self._levels:
            self._levels[base, tile] = self._read(base, tile)
        return self._levels[base, tile][level - base][place - (tile << (TILE_LEVELS - (level - base)))]

    def _read(self, base: int, tile: int) -> list[list[bytes]]:
        span = (tile << TILE_LEVELS, (tile + 1) << TILE_LEVELS)
        if base:
            rows = self._connection.execute(
                "SELECT hash FROM hub_tile WHERE level = ? AND place >= ? AND place < ? ORDER BY place", (base, *span)
            ).fetchall()
            levels = [[bytes(hash_) for (hash_,) in rows]]
        else:
            rows = self._connection.execute(
                "SELECT hash FROM hub_entry WHERE position >= ? AND position < ? ORDER BY position", span
            ).fetchall()
            levels = [[log.leaf(hash_) for (hash_,) in rows]]
        for _ in range(TILE_LEVELS - 1):
            last = levels[-1]
            levels.append([log.join(last[at], last[at + 1]) for at in range(0, len(last) - 1, 2)])
        return levels


def _size(connection: Connection) -> int:
    return int(connection.execute("SELECT size FROM hub_log WHERE shard = 0").fetchone()[0])
