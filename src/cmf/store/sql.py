"""`SqlStore`: the truth of one store, and the fold behind it. Every method is written once, over a small dialect.

Knows segments, pending records, journals' offsets and promised objects. Does not sign, verify or read a clock: what it
is handed has been checked, and times and random bytes come as arguments. Questions are answered by `index`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from cmf.errors import CmfError, ConflictError, NotFoundError, UnreachableError
from cmf.graph.filter import parse
from cmf.graph.index import Node
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import EVERYTHING, Head, Sample, View
from cmf.store import ancestry, schema, standing
from cmf.store.arriving import Arriving, Outcome, Tally, take_in
from cmf.store.batch import Item
from cmf.store.chain import all_items, beginning, behind, carried, carriers, find, held
from cmf.store.dialect import EACH, Connection, Dialect, array, chunks
from cmf.store.fold import fold, forget
from cmf.store.index import SqlIndex
from cmf.store.proofs import SqlProofs
from cmf.store.redacting import FOLDED_UP_TO, redactions_of
from cmf.store.sealing import seal_scope, unseal
from cmf.store.whereabouts import SqlWhereabouts

FOLD_RECORDS = 50_000
MATCHING_EXECUTIONS = 1_000

Logged = Callable[[Connection, Sequence[bytes]], None]
"""Called with the hashes of segments that came in, in order, in the transaction that commits them: a hub's log."""

_ALL_FOLDED = "UPDATE folded SET p = (SELECT coalesce(max(p), 0) FROM pending)"


Tallied = Callable[[Connection, Sequence[Arriving]], Tally]
"""Called with segments that come in, in the transaction that is to commit them: a hub's quotas."""


class Read(NamedTuple):
    """What was read from a journal: its state before and after, and (scope, id, bytes) of each record.

    ``waiting`` are (scope, id) of input events whose origin is still to be found.
    """

    journal: str
    before: str
    after: str
    records: Sequence[tuple[str, bytes, bytes]]
    waiting: Sequence[tuple[str, bytes]] = ()


class Reach(NamedTuple):
    """How much of a store was read: its greatest segment, and its greatest pending record with its id."""

    segment: int = 0
    pending: int = 0
    id: bytes = b""


NOTHING_READ = Reach()


class SqlStore:
    """A set of segments with what is folded from it. Safe to use from several threads and processes."""

    def __init__(self, dialect: Dialect, *, logged: Logged | None = None, tallied: Tallied | None = None) -> None:
        self._sql = dialect
        self._logged = logged
        self._tallied = tallied
        self.index = SqlIndex(dialect)
        self.whereabouts = SqlWhereabouts(dialect)
        self.proofs = SqlProofs(dialect)
        if self.meta("derived") != schema.DERIVED_VERSION:
            self.rebuild()

    def close(self) -> None:
        """Close the database."""
        self._sql.close()

    def checkpoint(self) -> None:
        """Make everything committed survive power loss."""
        self._sql.checkpoint()

    # ---- meta ----------------------------------------------------------------------------------------------------

    def meta(self, key: str) -> str:
        """Return what is kept under a key, or ""."""
        rows = self._sql.fetch("SELECT value FROM meta WHERE key = ?", (key,))
        return rows[0][0] if rows else ""

    def set_meta(self, key: str, value: str) -> None:
        """Keep a small text under a key."""
        with self._sql.write(durable=True) as connection:
            connection.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (key, value),
            )

    # ---- journals and pending records ----------------------------------------------------------------------------

    def journals(self) -> dict[str, str]:
        """Return the state kept for each journal that is being read."""
        with self._sql.read() as connection:
            return dict(connection.execute("SELECT name, state FROM journal").fetchall())

    def journal(self, name: str) -> str:
        """Return the state kept for one journal, or ""."""
        with self._sql.read() as connection:
            row = connection.execute("SELECT state FROM journal WHERE name = ?", (name,)).fetchone()
        return row[0] if row else ""

    def take(self, read: Sequence[Read]) -> list[bool]:
        """Commit what was read from some journals, with where reading goes on in each, in one transaction.

        Returns for each whether it was committed: False, and nothing of it, if another process read on meanwhile (the
        state is no longer ``before``).
        """
        with self._sql.write() as connection:
            return [self._take(connection, one) for one in read]

    def _take(self, connection: Connection, read: Read) -> bool:
        row = connection.execute("SELECT state FROM journal WHERE name = ?", (read.journal,)).fetchone()
        if (row[0] if row else "") != read.before:
            return False
        connection.execute("DELETE FROM journal WHERE name = ?", (read.journal,))
        connection.execute("INSERT INTO journal (name, state) VALUES (?, ?)", (read.journal, read.after))
        self._put_pending(connection, read.records, read.waiting)
        return True

    def add(self, records: Sequence[tuple[str, bytes, bytes]], waiting: Sequence[tuple[str, bytes]] = ()) -> None:
        """Commit records that come from no journal, such as those the collector itself makes."""
        with self._sql.write() as connection:
            self._put_pending(connection, records, waiting)

    def _put_pending(
        self,
        connection: Connection,
        records: Sequence[tuple[str, bytes, bytes]],
        waiting: Sequence[tuple[str, bytes]],
    ) -> None:
        connection.executemany("INSERT INTO pending (scope, id, data) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", records)
        connection.executemany("INSERT INTO waiting (scope, id) VALUES (?, ?) ON CONFLICT DO NOTHING", waiting)

    def forget_journal(self, name: str) -> None:
        """Drop the state of a journal whose file is gone."""
        with self._sql.write() as connection:
            connection.execute("DELETE FROM journal WHERE name = ?", (name,))

    def fold_pending(self) -> int:
        """Fold every committed record that is not folded yet; return how many there were."""
        total = 0
        while True:
            with self._sql.write() as connection:
                folded = _fold_some(connection)
            if not folded:
                return total
            total += folded

    def origins(self, limit: int = 10_000) -> list[tuple[str, bytes, str]]:
        """Return (scope, event id, node of the execution that made those bytes, or "") of events that wait for it."""
        with self._sql.read() as connection:
            rows = connection.execute("SELECT scope, id FROM waiting ORDER BY scope, id LIMIT ?", (limit,)).fetchall()
            return [(scope, id_, ancestry.origin(connection, scope, id_)) for scope, id_ in rows]

    def settle(self, done: Sequence[tuple[str, bytes]], links: Sequence[tuple[str, bytes, bytes]]) -> None:
        """Commit the ``via`` links of events and let the events wait no longer, in one transaction."""
        with self._sql.write() as connection:
            connection.executemany("DELETE FROM waiting WHERE scope = ? AND id = ?", done)
            self._put_pending(connection, links, ())

    # ---- sealing -------------------------------------------------------------------------------------------------

    def seal(
        self,
        signer: segments.Signer,
        site: str,
        *,
        now: int,
        nonce: Callable[[], bytes],
        had: Collection[bytes] = (),
    ) -> int:
        """Seal what is pending, per scope, into this writer's own streams; return how many segments that made.

        ``had``: the keys that the writer had before. Committed with full durability before it returns. Artifact
        records that the stream carries already are dropped. Nothing is sealed while events wait for their origin.
        """
        made = 0
        with self._sql.write(durable=True) as connection:
            if connection.execute("SELECT 1 FROM waiting LIMIT 1").fetchone():
                raise ConflictError("Some records wait for their origin to be found.", hint="Run 'cmf status'.")
            while _fold_some(connection):  # what another process committed since this one folded
                pass
            # A store that came back from a backup gets streams of its own from others: it goes on with them, and sends
            # them to whoever lacks them.
            for part, marks in chunks(sorted({signer.public, *had})):
                connection.execute(
                    f"UPDATE stream SET own = 1 WHERE writer IN ({marks}) AND site = ? AND own = 0", (*part, site)
                )
            for (scope,) in connection.execute("SELECT DISTINCT scope FROM pending ORDER BY scope").fetchall():
                made += seal_scope(connection, scope, signer, site, now, nonce)
            connection.execute(_ALL_FOLDED)
        return made

    def unseal(self, streams: Mapping[bytes, int], writer: bytes, site: str) -> int:
        """Let the records of some streams, from a position on, wait to be sealed by this writer; return how many."""
        with self._sql.write(durable=True) as connection:
            return sum(unseal(connection, stream, n, writer, site) for stream, n in sorted(streams.items()))

    # ---- segments ------------------------------------------------------------------------------------------------

    def insert(self, arriving: Sequence[Arriving]) -> list[Outcome]:
        """Commit checked segments in their order and fold them, in one durable transaction.

        Returns what became of each: a `ConflictError` if the segment before it isn't held (unless it may come
        ``sparse``) or its stream isn't known. If the database refuses one, each is tried alone.
        """
        try:
            with self._sql.write(durable=True) as connection:
                tally = self._tallied(connection, arriving) if self._tallied is not None else None
                outcomes, new, items = take_in(connection, arriving, tally)
                if new and self._logged is not None:
                    self._logged(connection, [one.segment.hash for one in new])
                if items:
                    fold(connection, items, lambda id_: find(connection, id_))
        except CmfError as error:
            if len(arriving) == 1 or isinstance(error, UnreachableError):
                return [error] * len(arriving)
            return [self.insert([one])[0] for one in arriving]
        return outcomes

    def scope_of(self, stream: bytes) -> tuple[str, bytes, str] | None:
        """Return (scope, writer's key, site) of a stream, or None if it isn't known."""
        return self.streams_of([stream]).get(stream)

    def streams_of(self, streams: Collection[bytes]) -> dict[bytes, tuple[str, bytes, str]]:
        """Return (scope, writer's key, site) of those of these streams that are known."""
        found = {}
        for part, marks in chunks(list(streams)):
            question = f"SELECT stream, scope, writer, site FROM stream WHERE stream IN ({marks})"
            for stream, scope, writer, site in self._sql.fetch(question, part):
                found[bytes(stream)] = (scope, bytes(writer), site)
        return found

    def scopes_of_streams(self, streams: Iterable[bytes]) -> dict[bytes, str]:
        """Return the scope of each of these streams that is known."""
        found: dict[bytes, str] = {}
        with self._sql.read() as connection:
            for part, marks in chunks(list(streams)):
                rows = connection.execute(f"SELECT stream, scope FROM stream WHERE stream IN ({marks})", part)
                found.update((bytes(stream), scope) for stream, scope in rows.fetchall())
        return found

    # ---- one end of a transfer -------------------------------------------------------------------------------------

    def samples(self, view: View, after: bytes = b"") -> Iterator[Sample]:
        """Yield sampled (n, hash) of each stream in the view, complete segments only, in order of id behind ``after``.

        Streams are read some at a time, each as it is then: whoever needs only a few costs only a few.
        """
        with self._sql.read() as connection:
            found = [one for one in standing.streams(connection, view) if one[1] > after]
        for part in standing.parts(found):
            with self._sql.read() as connection:
                sampled = standing.samples(connection, part)
            yield from sampled

    def heads(self, view: View) -> dict[bytes, list[Head]]:
        """Return the heads of each stream in the view."""
        with self._sql.read() as connection:
            streams = dict(standing.streams(connection, view))
            return {bytes(streams[s]): heads for s, heads in standing.heads(connection).items() if s in streams}

    def have(self, samples: Iterable[Sample]) -> dict[bytes, tuple[Head, ...]]:
        """Return, for each sampled stream that is held, the greatest sample held here and this store's heads."""
        found: dict[bytes, tuple[Head, ...]] = {}
        with self._sql.read() as connection:
            for part in standing.parts(list(samples)):
                found.update(standing.have(connection, part))
        return found

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Yield the segments in the view that lie behind none of the given heads, each stream from its start on.

        Streams are read some at a time, as in `samples`.
        """
        with self._sql.read() as connection:
            found = standing.streams(connection, view)
        for part in standing.parts(found):
            with self._sql.read() as connection:
                wanted = standing.beyond(connection, part, after)
            for g in wanted:
                yield self._wire(g)

    def get(self, hashes: Iterable[bytes], view: View = EVERYTHING) -> Iterator[bytes]:
        """Return these segments, each stream's genesis first; those not held, or not in the view, are left out."""
        with self._sql.read() as connection:
            wanted: dict[int, None] = {}
            for hash_ in hashes:
                row = connection.execute(
                    "SELECT g.g, s.s, s.scope FROM segment g JOIN stream s ON s.s = g.s WHERE g.hash = ?", (hash_,)
                ).fetchone()
                if row is not None and view.covers(row[2]):
                    (start,) = connection.execute("SELECT g FROM segment WHERE s = ? AND n = 0", row[1:2]).fetchone()
                    wanted.update({start: None, row[0]: None})
        for g in wanted:
            yield self._wire(g)

    def following(
        self, hashes: Sequence[bytes], view: View, held: Mapping[bytes, tuple[Head, ...]]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (its number among these hashes, wire bytes) of those segments that are in the view, in their order.

        Left out are those behind heads that the asker holds, of the streams that it names.
        """
        with self._sql.read() as connection:
            known: dict[int, set[int]] = {}
            for stream, heads in held.items():
                row = connection.execute("SELECT s FROM stream WHERE stream = ?", (stream,)).fetchone()
                if row is not None:
                    known[row[0]] = set(behind(connection, row[0], heads))
            view = standing.resolved(connection, view)
            wanted = []
            for number, hash_ in enumerate(hashes):
                g, s, scope, site = connection.execute(
                    "SELECT g.g, s.s, s.scope, s.site FROM segment g JOIN stream s ON s.s = g.s WHERE g.hash = ?",
                    (hash_,),
                ).fetchone()
                if view.covers(scope, site) and (s not in known or g in known[s]):
                    wanted.append((number, g))
        for number, g in wanted:
            yield number, self._wire(g)

    def resolved(self, view: View) -> View:
        """Return a view whose sites are named by their ids, too."""
        with self._sql.read() as connection:
            return standing.resolved(connection, view)

    def scopes_of(self, hashes: Iterable[bytes]) -> dict[bytes, str]:
        """Return the scope of each of these segments that is held."""
        found = {}
        with self._sql.read() as connection:
            for hash_ in hashes:
                row = connection.execute(
                    "SELECT s.scope FROM segment g JOIN stream s ON s.s = g.s WHERE g.hash = ?", (hash_,)
                ).fetchone()
                if row is not None:
                    found[hash_] = row[0]
        return found

    def matching(self, view: View, cursor: str = "") -> tuple[list[bytes], str]:
        """Return a page of hashes: of the segments about executions in a view that its filter finds.

        They hold every record about those executions, and are of any scope or site that may be read. With them comes
        where the next page begins; "" after the last.
        """
        chosen, following = self.chosen(view, cursor)
        return self.about(chosen), following

    def chosen(self, view: View, cursor: str = "") -> tuple[list[Node], str]:
        """Return a page of the executions in a view that its filter finds, and where the next page begins."""
        query = parse(view.where, scopes=view.scopes, limit=MATCHING_EXECUTIONS, cursor=cursor)
        found, following = self.index.chosen(msgspec.structs.replace(query, below=view.below))
        if view.sites:
            with self._sql.read() as connection:
                names = _names(connection, view.sites)
                rows = connection.execute(
                    f"SELECT x.e, x.site FROM {EACH} j CROSS JOIN execution x ON x.e = j.value", (array(found),)
                ).fetchall()
            found = [e for e, site in rows if site in names]
        return found, following

    def lacking(self, hashes: Iterable[bytes]) -> list[bytes]:
        """Return which of these segments are not held."""
        with self._sql.read() as connection:
            return [
                hash_
                for hash_ in hashes
                if not connection.execute("SELECT 1 FROM segment WHERE hash = ?", (hash_,)).fetchone()
            ]

    def _wire(self, g: int) -> bytes:
        (parts,) = self._sql.fetch("SELECT header, signature, body FROM segment WHERE g = ?", (g,))
        return segments.wire_bytes(*parts)

    def stored(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Return (scope, writer, wire bytes) of every segment held, for checking them."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT g.g, s.scope, s.writer FROM segment g JOIN stream s ON s.s = g.s ORDER BY s.stream, g.n, g.hash"
            ).fetchall()
        for g, scope, writer in rows:
            yield scope, writer, self._wire(g)

    def chained(self) -> list[tuple[str, int, bytes, bool]]:
        """Return (scope, n, hash as taken in, whether the one before it is here if it must be) of every segment."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT s.scope, g.n, g.hash, g.sparse, p.g FROM segment g JOIN stream s ON s.s = g.s "
                "LEFT JOIN segment p ON p.hash = g.prev AND p.s = g.s ORDER BY s.stream, g.n, g.hash"
            ).fetchall()
        return [
            (scope, n, bytes(hash_), n == 0 or bool(sparse) or before is not None)
            for scope, n, hash_, sparse, before in rows
        ]

    # ---- promised objects ------------------------------------------------------------------------------------------

    def promised(self, scopes: Sequence[str] = ()) -> list[tuple[str, str]]:
        """Return (digest, scope) of objects that pulled or pushed records name and that may not be held yet."""
        rows = self._sql.fetch("SELECT digest, scope FROM promised ORDER BY scope, digest")
        return [(digest, scope) for digest, scope in rows if not scopes or scope in scopes]

    def kept(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Note that promised objects have come."""
        with self._sql.write() as connection:
            connection.executemany("DELETE FROM promised WHERE digest = ? AND scope = ?", list(pairs))

    # ---- the whole -------------------------------------------------------------------------------------------------

    def find(self, record_id: bytes) -> bytes:
        """Return the bytes of a record, wherever it is held."""
        with self._sql.read() as connection:
            for item in find(connection, record_id):
                return item.data
        raise NotFoundError(f"There is no record {record_id.hex()} in this store.")

    @contextlib.contextmanager
    def still(self) -> Iterator[None]:
        """Let nobody commit anything within."""
        with self._sql.write():
            yield

    def reach(self) -> Reach:
        """Return how much there is to read."""
        with self._sql.read() as connection:
            segment = connection.execute("SELECT coalesce(max(g), 0) FROM segment").fetchone()[0]
            last = connection.execute("SELECT p, id FROM pending ORDER BY p DESC LIMIT 1").fetchone()
            return Reach(segment, *(last or ()))

    def records(self, beyond: Reach = NOTHING_READ) -> Iterator[tuple[str, bytes]]:
        """Yield (scope, bytes) of every record held that lies beyond what was read, and of some more.

        What is committed meanwhile may be left out.
        """
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT g.g, s.scope FROM segment g JOIN stream s ON s.s = g.s WHERE g.g > ? AND g.n > 0 ORDER BY g.g",
                (beyond.segment,),
            ).fetchall()
            # Sealing empties the table, and its numbers begin again.
            row = connection.execute("SELECT id FROM pending WHERE p = ?", (beyond.pending,)).fetchone()
            after = beyond.pending if row and row[0] == beyond.id else 0
            waiting = connection.execute("SELECT scope, data FROM pending WHERE p > ? ORDER BY p", (after,)).fetchall()
        for g, scope in rows:
            with self._sql.read() as connection:
                parts = connection.execute("SELECT header, signature, body FROM segment WHERE g = ?", (g,)).fetchone()
            for _, data in segments.records_of(segments.parse(*parts)):
                yield scope, data
        yield from waiting

    def beginning(self, start: str) -> list[Item]:
        """Return every held copy of the records whose ids begin with some hex digits, eight at least."""
        with self._sql.read() as connection:
            return beginning(connection, start)

    def containing(self, text: bytes) -> Iterator[Item]:
        """Yield every held copy of the records whose bytes contain a text. All that is held is read for it."""
        for scope, _, wire in self.stored():
            for id_, data in segments.records_of(segments.from_wire(wire)):
                if text in data:
                    yield Item(scope, id_, data, model.trusted(data))
        with self._sql.read() as connection:
            rows = connection.execute("SELECT DISTINCT scope, id, data FROM pending ORDER BY scope, id").fetchall()
        for scope, id_, data in rows:
            if text in data:
                yield Item(scope, id_, data, model.trusted(data))

    def is_sealed(self, record_id: bytes) -> bool:
        """Tell whether a segment carries a record: only then can anybody else know it."""
        with self._sql.read() as connection:
            return carried(connection, record_id)

    def forget(self, record_ids: Iterable[bytes]) -> set[bytes]:
        """Drop those of some records that no segment carries yet, as if they had never been; return which."""
        with self._sql.write(durable=True) as connection:
            alone = {id_ for id_ in record_ids if not carried(connection, id_)}
            forget(connection, alone, lambda id_: find(connection, id_))
        return alone

    def held(self, record_ids: Iterable[bytes]) -> set[bytes]:
        """Return which of these records are held, wherever. Ask for many at once: each segment is read once a call."""
        with self._sql.read() as connection:
            return held(connection, set(record_ids))

    def about(self, executions: Sequence[Node]) -> list[bytes]:
        """Return the hashes of segments that together hold every record about some executions (index's nodes).

        And those that redact what the first carry: who holds that from before must hear of it.
        """
        with self._sql.read() as connection:
            found = carriers(connection, self.index.records_about(connection, executions))
            found |= carriers(connection, redactions_of(connection, found))
            return [
                hash_
                for g in sorted(found)
                for (hash_,) in connection.execute("SELECT hash FROM segment WHERE g = ?", (g,))
            ]

    def damage(self) -> str:
        """Return what the database finds wrong with itself, or ""."""
        return self._sql.damage()

    def counts(self) -> dict[str, int]:
        """Return how many of each thing there are, for people: streams, segments, executions, events and so on."""
        with self._sql.read() as connection:
            found = {
                table: int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
                for table in ("stream", "segment", "execution", "event", "waiting", "journal")
            }
            once = "SELECT count(*) FROM (SELECT DISTINCT scope, id FROM pending) AS once"
            found["pending"] = int(connection.execute(once).fetchone()[0])
            found["artifact"] = int(connection.execute("SELECT count(DISTINCT a) FROM artifact").fetchone()[0])
        return found

    def scopes(self) -> list[str]:
        """Return the scopes that there are streams of."""
        with self._sql.read() as connection:
            rows = connection.execute("SELECT DISTINCT scope FROM stream ORDER BY scope").fetchall()
        return [scope for (scope,) in rows]

    def pending_scopes(self) -> list[str]:
        """Return the scopes that have records which are not sealed yet."""
        with self._sql.read() as connection:
            rows = connection.execute("SELECT DISTINCT scope FROM pending ORDER BY scope").fetchall()
        return [scope for (scope,) in rows]

    def streams(self) -> list[dict[str, Any]]:
        """Return every stream held: id, scope, site, writer, whether it is our own, and its number of segments."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT s.stream, s.scope, s.site, s.writer, s.own, (SELECT max(n) FROM head h WHERE h.s = s.s) "
                "FROM stream s ORDER BY s.scope, s.site, s.stream"
            ).fetchall()
        names = ("stream", "scope", "site", "writer", "own", "n")
        return [dict(zip(names, row, strict=True)) for row in rows]

    def rebuild(self) -> int:
        """Fold all that is derived anew from the truth, in one transaction; return the record count.

        Whoever reads meanwhile sees what was, and then all of the new; whoever writes waits.
        """
        total = 0
        with self._sql.write(durable=True) as connection:
            batch: list[Item] = []
            with self._sql.replacing(connection):
                for item in all_items(connection):
                    batch.append(item)
                    if len(batch) >= FOLD_RECORDS:
                        fold(connection, batch, lambda id_: find(connection, id_))
                        total += len(batch)
                        batch = []
                fold(connection, batch, lambda id_: find(connection, id_))
            connection.execute(_ALL_FOLDED)
            self.set_meta("derived", schema.DERIVED_VERSION)
        return total + len(batch)

    def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return every derived table, sorted and with nodes written out as keys: equal for stores of equal facts."""
        with self._sql.read() as connection:
            keys = dict(connection.execute("SELECT i, key FROM node").fetchall())
            found: dict[str, list[tuple[Any, ...]]] = {}
            for table, columns in schema.NODES.items():
                cursor = connection.execute(f"SELECT * FROM {table}")
                names = [column[0] for column in cursor.description]
                rows = [
                    tuple(keys[value] if name in columns else value for name, value in zip(names, row, strict=True))
                    for row in cursor
                ]
                found[table] = sorted(rows, key=repr)
            found["carried"] = connection.execute(
                "SELECT c.prefix, g.hash FROM carried c JOIN segment g ON g.g = c.g ORDER BY 1, 2"
            ).fetchall()
        return found


def _names(connection: Connection, sites: Sequence[str]) -> set[str]:
    """Return what these sites, by name or id, are called."""
    rows = connection.execute("SELECT name, site FROM called").fetchall()
    return {name for name, site in rows if name in sites or site in sites}


def _fold_some(connection: Connection) -> int:
    """Fold the oldest committed records that are not folded yet; return how many: 0 if there are none."""
    rows = connection.execute(
        "SELECT p, scope, id, data FROM pending WHERE p > (SELECT p FROM folded) ORDER BY p LIMIT ?", (FOLD_RECORDS,)
    ).fetchall()
    if rows:
        items = (Item(scope, id_, data, model.trusted(data)) for _, scope, id_, data in rows)
        fold(connection, items, lambda id_: find(connection, id_))
        connection.execute(FOLDED_UP_TO, (rows[-1][0],))
    return len(rows)
