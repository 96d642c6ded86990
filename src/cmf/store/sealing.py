"""Sealing: pending records become segments of a writer's own streams.

Reads no clock and makes no random bytes: both are handed in. Who calls it commits with full durability.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from cmf.model import encoding
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.digest import sha256
from cmf.store.chain import insert_called, insert_carried, insert_genesis, insert_segment, prefix
from cmf.store.dialect import Connection

READ_ROWS = 20_000
"""How many pending records are read at once."""


def seal_scope(
    connection: Connection,
    scope: str,
    signer: segments.Signer,
    site: str,
    now: int,
    nonce: Callable[[], bytes],
) -> int:
    """Seal what is pending in a scope into this writer's own stream there; return how many segments that made."""
    stream = connection.execute(
        "SELECT s, stream FROM stream WHERE scope = ? AND writer = ? AND site = ? AND own = 1",
        (scope, signer.public, site),
    ).fetchone()
    fresh = _fresh(connection, scope, stream[0] if stream else None)
    if stream is None and (first := next(fresh, None)) is not None:
        genesis = segments.start(scope, site, signer, created=now, nonce=nonce())
        insert_genesis(connection, genesis, own=True)
        stream = connection.execute("SELECT s, stream FROM stream WHERE stream = ?", (genesis.hash,)).fetchone()
        fresh = itertools.chain((first,), fresh)
    made = 0
    for part in _cut(fresh):
        n, prev = connection.execute(
            "SELECT n, hash FROM head WHERE s = ? ORDER BY n DESC, hash LIMIT 1", (stream[0],)
        ).fetchone()
        body = [(id_, data, model.time_of(record)) for _, id_, data, record in part]
        sealed = segments.seal(stream[1], prev, n + 1, body, signer, now=now)
        g = insert_segment(connection, sealed, stream[0], sparse=False)
        insert_carried(connection, [(g, [id_ for id_, _, _ in body])])
        insert_called(connection, [(site, record) for _, _, _, record in part])
        made += 1
    connection.execute("DELETE FROM pending WHERE scope = ?", (scope,))
    return made


def unseal(connection: Connection, stream: bytes, n: int, writer: bytes, site: str) -> int:
    """Let a stream's records from a position on wait to be sealed again, by another key; return how many do.

    Their segments stay. What the writer's own stream in the scope carries already does not wait, so that a second call
    changes nothing once the first was sealed; each event brings the record of its artifact.
    """
    s, scope = connection.execute("SELECT s, scope FROM stream WHERE stream = ?", (stream,)).fetchone()
    carried = {
        id_
        for parts in connection.execute(
            "SELECT g.header, g.signature, g.body FROM segment g JOIN stream o ON o.s = g.s "
            "WHERE o.scope = ? AND o.writer = ? AND o.site = ? AND o.own = 1 AND g.n > 0",
            (scope, writer, site),
        ).fetchall()
        for id_, _ in segments.body_of(segments.parse(*parts)).frames
    }
    wanted: dict[bytes, bytes] = {}
    for parts in connection.execute(
        "SELECT header, signature, body FROM segment WHERE s = ? AND n >= ? AND n > 0 ORDER BY n, hash", (s, n)
    ).fetchall():
        for id_, data in segments.records_of(segments.parse(*parts)):
            record = model.trusted(data)
            if isinstance(record, model.Event):
                artifact = encoding.encode(model.Artifact(digest=record.artifact))
                wanted.setdefault(sha256(artifact), artifact)
            wanted.setdefault(id_, data)
    fresh = [(scope, id_, data) for id_, data in wanted.items() if id_ not in carried]
    connection.executemany("INSERT INTO pending (scope, id, data) VALUES (?, ?, ?)", fresh)
    return len(fresh)


def _fresh(connection: Connection, scope: str, s: int | None) -> Iterator[tuple[int, bytes, bytes, Any]]:
    """Yield (number, id, bytes, record) of what is pending in a scope, each once, without artifacts carried already.

    Many are read at a time, so that of a million only the ids are in memory.
    """
    seen: set[bytes] = set()
    after = 0
    while True:
        rows = connection.execute(
            f"SELECT p, id, data FROM pending WHERE scope = ? AND p > ? ORDER BY p LIMIT {READ_ROWS}", (scope, after)
        ).fetchall()
        carried = _carried_artifacts(connection, s, rows) if s is not None else set()
        for p, id_, data in rows:
            if id_ not in carried and id_ not in seen:
                seen.add(id_)
                yield p, id_, data, model.trusted(data)
        if len(rows) < READ_ROWS:
            return
        after = rows[-1][0]


def _cut(rows: Iterable[tuple[int, bytes, bytes, Any]]) -> Iterator[list[tuple[int, bytes, bytes, Any]]]:
    """Cut pending records into segments of at most 1,000 records and about 256 KiB."""
    part: list[tuple[int, bytes, bytes, Any]] = []
    size = 0
    for row in rows:
        length = len(row[2]) + 5
        if part and (len(part) >= segments.RECORDS_MAX or size + length > segments.SIZE_BYTES_CUT):
            yield part
            part, size = [], 0
        part.append(row)
        size += length
    if part:
        yield part


def _carried_artifacts(connection: Connection, s: int, rows: Iterable[tuple[int, bytes, bytes]]) -> set[bytes]:
    """Return which pending artifact records a stream carries already. The prefix is a hint: the body decides."""
    found = set()
    for _, id_, data in rows:
        if not data.startswith(b'{"digest":'):
            continue
        hits = connection.execute(
            "SELECT g.header, g.signature, g.body FROM carried c JOIN segment g ON g.g = c.g AND g.s = ? "
            "WHERE c.prefix = ?",
            (s, prefix(id_)),
        ).fetchall()
        if any(id_ == held for hit in hits for held, _ in segments.records_of(segments.parse(*hit))):
            found.add(id_)
    return found
