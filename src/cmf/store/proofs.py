"""What a store keeps to show that hubs logged its segments: their entries, and parts of each hub's tree beside them.

Of a hub's log a pruned tree is kept: the leaves of this store's segments are the segments, and subtrees stand for the
rest. See `cmf.witness`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from cmf.model.log import Subtree
from cmf.store.dialect import Dialect


class SqlProofs:
    """The pruned trees of one database, by hub."""

    def __init__(self, dialect: Dialect) -> None:
        self._sql = dialect

    def note(self, hub: str, hashes: Iterable[bytes]) -> None:
        """Note segments that a hub sent or acknowledged, and that are still to be proven."""
        rows = [(hub, hash_) for hash_ in sorted(set(hashes))]
        if rows:
            with self._sql.write() as connection:
                connection.executemany(
                    "INSERT INTO proof (hub, hash, position) VALUES (?, ?, -1) ON CONFLICT DO NOTHING", rows
                )

    def open(self, hub: str, after: bytes = b"", limit: int = 1 << 30) -> list[bytes]:
        """Return noted segments that are still to be proven, by hash, behind one."""
        rows = self._sql.fetch(
            "SELECT hash FROM proof WHERE hub = ? AND position < 0 AND hash > ? ORDER BY hash LIMIT ?",
            (hub, after, limit),
        )
        return [bytes(hash_) for (hash_,) in rows]

    def unknown(self, hub: str) -> list[bytes]:
        """Return the segments held of which it isn't noted that a hub has them."""
        rows = self._sql.fetch(
            "SELECT g.hash FROM segment g LEFT JOIN proof p ON p.hub = ? AND p.hash = g.hash "
            "WHERE p.hash IS NULL ORDER BY g.hash",
            (hub,),
        )
        return [bytes(hash_) for (hash_,) in rows]

    def keep(self, hub: str, tree: str, entries: Mapping[bytes, int], nodes: Mapping[Subtree, bytes]) -> None:
        """Keep where segments are in a hub's log, subtrees of it, and the signed checkpoint ``tree`` that they make up.

        In one transaction: any of them without the others would be believed unchecked, or would read as damage.
        """
        with self._sql.write(durable=True) as connection:
            connection.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_tree(hub), tree),
            )
            connection.executemany(
                "INSERT INTO proof (hub, hash, position) VALUES (?, ?, ?) "
                "ON CONFLICT (hub, hash) DO UPDATE SET position = excluded.position",
                sorted((hub, hash_, position) for hash_, position in entries.items()),
            )
            connection.executemany(
                "INSERT INTO proof_node (hub, level, place, hash) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                sorted((hub, *node, hash_) for node, hash_ in nodes.items()),
            )

    def tree(self, hub: str) -> str:
        """Return the checkpoint that what is kept of a hub's log makes up, or ""."""
        rows = self._sql.fetch("SELECT value FROM meta WHERE key = ?", (_tree(hub),))
        return str(rows[0][0]) if rows else ""

    def hubs(self) -> list[str]:
        """Return the addresses of the hubs of which something is kept."""
        return [hub for (hub,) in self._sql.fetch("SELECT DISTINCT hub FROM proof ORDER BY hub")]

    def entries(self, hub: str) -> dict[bytes, int]:
        """Return the positions in a hub's log of the segments that were proven to be there."""
        rows = self._sql.fetch("SELECT hash, position FROM proof WHERE hub = ? AND position >= 0", (hub,))
        return {bytes(hash_): position for hash_, position in rows}

    def nodes(self, hub: str) -> dict[Subtree, bytes]:
        """Return the subtrees that are kept of a hub's log."""
        rows = self._sql.fetch("SELECT level, place, hash FROM proof_node WHERE hub = ?", (hub,))
        return {Subtree(level, place): bytes(hash_) for level, place, hash_ in rows}

    def some(self, hub: str, wanted: Sequence[Subtree]) -> dict[Subtree, bytes]:
        """Return those of some subtrees that are kept."""
        found = {}
        with self._sql.read() as connection:
            for node in wanted:
                row = connection.execute(
                    "SELECT hash FROM proof_node WHERE hub = ? AND level = ? AND place = ?", (hub, *node)
                ).fetchone()
                if row is not None:
                    found[node] = bytes(row[0])
        return found

    def forget(self, hub: str) -> None:
        """Forget what was proven by a hub's log: its segments are to be proven anew."""
        with self._sql.write(durable=True) as connection:
            connection.execute("DELETE FROM proof_node WHERE hub = ?", (hub,))
            connection.execute("UPDATE proof SET position = -1 WHERE hub = ?", (hub,))
            connection.execute("DELETE FROM meta WHERE key = ?", (_tree(hub),))


def _tree(hub: str) -> str:
    return f"hub {hub} tree"
