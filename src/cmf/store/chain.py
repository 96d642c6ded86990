"""The chains of segments in the truth tables: inserted, advanced, walked, and the records found inside them.

A head is a segment held complete back to its stream's start; a stream has several when it was written on in two places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from cmf.graph import registers
from cmf.graph.projection import plain
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import Head
from cmf.model.segment import Genesis, Segment
from cmf.store.batch import Item
from cmf.store.dialect import EACH, Connection, array, chunks

NAME_CHARS_MAX = 200
"""Of what a site calls itself: a longer name is nobody's, and the table's key is an index."""


def insert_genesis(connection: Connection, segment: Segment, *, own: bool) -> int:
    """Insert the segment that starts a stream; return its number. ``own``: this store seals into it."""
    return insert_segment(connection, segment, insert_stream(connection, segment, own=own), sparse=False)


def insert_stream(connection: Connection, segment: Segment, *, own: bool) -> int:
    """Insert the stream that a segment starts, without that; return the stream's number."""
    fields = segment.fields
    assert isinstance(fields, Genesis)
    s: int = connection.execute(
        "INSERT INTO stream (stream, scope, site, writer, own) VALUES (?, ?, ?, ?, ?) RETURNING s",
        (segment.hash, fields.scope, fields.site, bytes.fromhex(fields.writer), int(own)),
    ).fetchone()[0]
    return s


def insert_segment(connection: Connection, segment: Segment, s: int, *, sparse: bool) -> int:
    """Insert a segment that isn't held, and move its stream's head on to it unless ``sparse``; return its number."""
    g: int = connection.execute(
        "INSERT INTO segment (hash, s, n, prev, sparse, header, signature, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "
        "RETURNING g",
        (segment.hash, s, segment.n, prev_of(segment), int(sparse), segment.header, segment.signature, segment.body),
    ).fetchone()[0]
    if not sparse:
        advance(connection, [(s, segment)])
    return g


def insert_complete(connection: Connection, made: Sequence[tuple[int, Segment]]) -> dict[bytes, int]:
    """Insert segments, each with its stream's number, that aren't held, while any before them are.

    As `insert_segment`, in as many statements as for one; returns their numbers by hash.
    """
    connection.executemany(
        "INSERT INTO segment (hash, s, n, prev, sparse, header, signature, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        [
            (segment.hash, s, segment.n, prev_of(segment), 0, segment.header, segment.signature, segment.body)
            for s, segment in made
        ],
    )
    numbers: dict[bytes, int] = {}
    for part, marks in chunks([segment.hash for _, segment in made]):
        rows = connection.execute(f"SELECT hash, g FROM segment WHERE hash IN ({marks})", part).fetchall()
        numbers.update((bytes(hash_), g) for hash_, g in rows)
    advance(connection, made)
    return numbers


def prev_of(segment: Segment) -> bytes:
    """Return the hash of the segment before one in its stream; b"" of the one that starts it."""
    return b"" if isinstance(segment.fields, Genesis) else bytes.fromhex(segment.fields.prev)


def insert_carried(connection: Connection, segments: Iterable[tuple[int, Sequence[bytes]]]) -> None:
    """Note of some segments, by number, which records they carry."""
    connection.executemany(
        "INSERT INTO carried (prefix, g) VALUES (?, ?) ON CONFLICT DO NOTHING",
        sorted((prefix(id_), g) for g, ids in segments for id_ in ids),
    )


def insert_called(connection: Connection, said: Iterable[tuple[str, model.Record | None]]) -> None:
    """Note how sites call themselves, from (site's id, a record of a stream of its)."""
    found = {
        (name, site)
        for site, record in said
        if isinstance(record, model.Property) and record.key.startswith(registers.PROCESS)
        if isinstance(record.value, dict) and 0 < len(name := plain(registers.site(record.value))) <= NAME_CHARS_MAX
    }
    connection.executemany("INSERT INTO called (name, site) VALUES (?, ?) ON CONFLICT DO NOTHING", sorted(found))


def advance(connection: Connection, moved: Sequence[tuple[int, Segment]]) -> None:
    """Move the heads of streams, by number, on to these segments in turn, and over those that waited sparse behind."""
    heads: dict[tuple[int, bytes], int] = {}
    for s, segment in moved:
        heads.pop((s, prev_of(segment)), None)
        heads[s, segment.hash] = segment.n
    for part, marks in chunks([(s, prev_of(segment)) for s, segment in moved]):
        connection.execute(
            f"DELETE FROM head WHERE s IN ({marks}) AND hash IN ({marks})",
            [*(s for s, _ in part), *(h for _, h in part)],
        )
    tips = {(s, segment.hash): segment.n for s, segment in moved}  # what is followed in here may have more behind it
    while waited := [found for found in _sparse_behind(connection, tips) if (found[0], found[3]) in tips]:
        connection.executemany("UPDATE segment SET sparse = 0 WHERE g = ?", [(g,) for _, g, _, _, _ in waited])
        for s, _, _, prev, _ in waited:
            heads.pop((s, prev), None)
        tips = {(s, hash_): n for s, _, n, _, hash_ in waited}
        heads |= tips
    connection.executemany(
        "INSERT INTO head (s, n, hash) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        [(s, n, hash_) for (s, hash_), n in heads.items()],
    )


def _sparse_behind(
    connection: Connection, tips: Mapping[tuple[int, bytes], int]
) -> Iterator[tuple[int, int, int, bytes, bytes]]:
    """Yield (stream's number, number, n, hash of the one before, hash) of sparse segments one behind some places."""
    for part, _ in chunks([(s, n + 1) for (s, _), n in tips.items()]):
        # A list of pairs after IN would have SQLite read the whole table.
        places = ", ".join("(?, ?)" for _ in part)
        for s, g, n, prev, hash_ in connection.execute(
            f"SELECT g.s, g.g, g.n, g.prev, g.hash FROM (VALUES {places}) v CROSS JOIN segment g "
            "ON g.s = v.column1 AND g.n = v.column2 AND g.sparse = 1",
            [value for place in part for value in place],
        ).fetchall():
            yield s, g, n, bytes(prev), bytes(hash_)


def behind(connection: Connection, s: int, held: Sequence[Head]) -> list[int]:
    """Return a stream's complete segments that are not behind any of the heads held, in order of position."""
    mine = [
        head
        for head in held
        if connection.execute(
            "SELECT 1 FROM segment WHERE hash = ? AND s = ? AND sparse = 0", (head.hash, s)
        ).fetchone()
    ]
    heads = {hash_ for (hash_,) in connection.execute("SELECT hash FROM head WHERE s = ?", (s,))}
    if heads <= {head.hash for head in mine}:
        return []
    lowest = min((head.n for head in mine), default=0) if len(heads) == 1 else 0
    rows = connection.execute(
        "SELECT g, n, hash, prev FROM segment WHERE s = ? AND n >= ? AND sparse = 0 ORDER BY n, hash",
        (s, lowest),
    ).fetchall()
    previous = {hash_: prev for _, _, hash_, prev in rows}
    covered: set[bytes] = set()
    for head in mine:
        at = head.hash
        while at in previous and at not in covered:
            covered.add(at)
            at = previous[at]
    return [g for g, _, hash_, _ in rows if hash_ not in covered]


def prefix(record_id: bytes) -> int:
    """Return the hint by which the table ``carried`` names a record."""
    return int.from_bytes(record_id[:8], "big", signed=True)


def find(connection: Connection, record_id: bytes) -> list[Item]:
    """Return every held copy of a record, in each scope that carries it."""
    found = [
        Item(scope, record_id, data, model.trusted(data))
        for scope, data in connection.execute("SELECT scope, data FROM pending WHERE id = ?", (record_id,))
    ]
    for scope, *hit in connection.execute(
        "SELECT s.scope, g.header, g.signature, g.body FROM carried c JOIN segment g ON g.g = c.g "
        "JOIN stream s ON s.s = g.s WHERE c.prefix = ?",
        (prefix(record_id),),
    ).fetchall():
        for id_, data in segments.records_of(segments.parse(*hit)):
            if id_ == record_id:
                found.append(Item(scope, id_, data, model.trusted(data)))
    return found


def carriers(connection: Connection, records: Iterable[tuple[bytes, str]]) -> set[int]:
    """Return segments, by number, that together carry some records, each in the scope given with it."""
    wanted = {(prefix(id_), scope) for id_, scope in records}
    chosen: dict[tuple[int, str], int] = {}
    for hint, scope, g in connection.execute(
        f"SELECT c.prefix, s.scope, c.g FROM {EACH} j CROSS JOIN carried c ON c.prefix = j.value "
        "JOIN segment g ON g.g = c.g JOIN stream s ON s.s = g.s ORDER BY c.g",
        (array(sorted({hint for hint, _ in wanted})),),
    ):
        if (hint, scope) in wanted:
            chosen.setdefault((hint, scope), g)
    return set(chosen.values())


def carried(connection: Connection, record_id: bytes) -> bool:
    """Tell whether any segment carries a record, with its bytes or without."""
    rows = connection.execute(
        "SELECT g.header, g.signature, g.body FROM carried c JOIN segment g ON g.g = c.g WHERE c.prefix = ?",
        (prefix(record_id),),
    ).fetchall()
    return any(record_id == id_ for parts in rows for id_, _ in segments.body_of(segments.parse(*parts)).frames)


def beginning(connection: Connection, start: str) -> list[Item]:
    """Return every held copy of the records whose ids begin with some hex digits, eight at least."""
    low, high = (bytes.fromhex(start.ljust(64, digit)) for digit in "0f")
    ids = {
        id_ for (id_,) in connection.execute("SELECT id FROM pending WHERE id >= ? AND id <= ?", (low, high)).fetchall()
    }
    for parts in connection.execute(
        "SELECT header, signature, body FROM segment WHERE g IN "
        "(SELECT g FROM carried WHERE prefix >= ? AND prefix <= ?)",
        (prefix(low), prefix(high)),
    ).fetchall():
        ids.update(id_ for id_, _ in segments.records_of(segments.parse(*parts)) if low <= id_ <= high)
    return [item for id_ in sorted(ids) for item in find(connection, id_)]


def held(connection: Connection, record_ids: AbstractSet[bytes]) -> set[bytes]:
    """Return which of these records are held; the segments that may hold some are each read once."""
    found: set[bytes] = set()
    maybe: set[int] = set()
    for record_id in record_ids:
        if connection.execute("SELECT 1 FROM pending WHERE id = ? LIMIT 1", (record_id,)).fetchone():
            found.add(record_id)
            continue
        maybe.update(g for (g,) in connection.execute("SELECT g FROM carried WHERE prefix = ?", (prefix(record_id),)))
    for g in sorted(maybe):
        parts = connection.execute("SELECT header, signature, body FROM segment WHERE g = ?", (g,)).fetchone()
        found.update(id_ for id_, _ in segments.records_of(segments.parse(*parts)) if id_ in record_ids)
    return found


def all_items(connection: Connection) -> Iterator[Item]:
    """Yield every record held, and fill ``carried`` and ``called`` on the way, always ahead of what was yielded."""
    rows = connection.execute(
        "SELECT g.g, s.scope, s.site FROM segment g JOIN stream s ON s.s = g.s WHERE g.n > 0 ORDER BY g.g"
    ).fetchall()
    for g, scope, site in rows:
        hit = connection.execute("SELECT header, signature, body FROM segment WHERE g = ?", (g,)).fetchone()
        body = segments.body_of(segments.parse(*hit))
        insert_carried(connection, [(g, [id_ for id_, _ in body.frames])])
        items = [Item(scope, id_, data, model.trusted(data)) for id_, data in body.records]
        insert_called(connection, [(site, item.record) for item in items])
        yield from items
    for scope, id_, data in connection.execute("SELECT scope, id, data FROM pending ORDER BY p").fetchall():
        yield Item(scope, id_, data, model.trusted(data))
