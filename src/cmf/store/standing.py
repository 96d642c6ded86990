"""Where a store stands in its streams, and what lies beyond where another stands: many streams in few statements."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec

from cmf.model.exchange import Head, Sample, View, sample_numbers
from cmf.store.chain import behind
from cmf.store.dialect import EACH, IN_MAX, Connection, array, chunks

_One = TypeVar("_One")

Streams = Sequence[tuple[int, bytes]]
"""(number, id) of streams."""


def streams(connection: Connection, view: View) -> list[tuple[int, bytes]]:
    """Return (number, id) of the streams in a view, in order of id."""
    view = resolved(connection, view)
    rows = connection.execute(
        "SELECT s, stream, scope, site FROM stream WHERE own >= ? ORDER BY stream", (int(view.own),)
    ).fetchall()
    return [
        (s, bytes(stream))
        for s, stream, scope, site in rows
        if (view.streams is None or stream in view.streams) and view.covers(scope, site)
    ]


def resolved(connection: Connection, view: View) -> View:
    """Return a view whose sites are named by their ids, too."""
    found = set(view.sites)
    for name in view.sites:
        found.update(site for (site,) in connection.execute("SELECT site FROM called WHERE name = ?", (name,)))
    return msgspec.structs.replace(view, sites=tuple(sorted(found)))


def parts(found: Sequence[_One]) -> Iterator[Sequence[_One]]:
    """Yield so many at a time as a statement names."""
    for at in range(0, len(found), IN_MAX):
        yield found[at : at + IN_MAX]


def heads(connection: Connection, numbers: Iterable[int] | None = None) -> dict[int, list[Head]]:
    """Return the heads of streams, by number; of all, if none are named."""
    found: dict[int, list[Head]] = {}
    if numbers is None:
        rows = [connection.execute("SELECT s, n, hash FROM head").fetchall()]
    else:
        rows = [
            connection.execute(f"SELECT s, n, hash FROM head WHERE s IN ({marks})", part).fetchall()
            for part, marks in chunks(list(numbers))
        ]
    for s, n, hash_ in (row for some in rows for row in some):
        found.setdefault(s, []).append(Head(n, bytes(hash_)))
    return found


def samples(connection: Connection, some: Streams) -> list[Sample]:
    """Return sampled (n, hash) of streams: complete segments only, and every head."""
    found = {s: set(held) for s, held in heads(connection, (s for s, _ in some)).items()}
    alike: dict[int, list[int]] = defaultdict(list)
    for s, points in found.items():
        alike[max(point.n for point in points)].append(s)
    for n, numbers in alike.items():
        for part, marks in chunks(numbers):
            for s, at, hash_ in connection.execute(
                f"SELECT g.s, g.n, g.hash FROM {EACH} j JOIN segment g ON g.n = j.value "
                f"WHERE g.s IN ({marks}) AND g.sparse = 0",
                (array(sample_numbers(n)), *part),
            ).fetchall():
                found[s].add(Head(at, bytes(hash_)))
    return [Sample(stream, tuple(sorted(found[s], key=lambda point: (-point.n, point.hash)))) for s, stream in some]


def have(connection: Connection, asked: Sequence[Sample]) -> Iterator[tuple[bytes, tuple[Head, ...]]]:
    """Yield, for each sampled stream that is held, its heads and the greatest sample that is held."""
    numbers: dict[bytes, int] = {}
    for part, marks in chunks([sample.stream for sample in asked]):
        rows = connection.execute(f"SELECT stream, s FROM stream WHERE stream IN ({marks})", part).fetchall()
        numbers.update((bytes(stream), s) for stream, s in rows)
    tips = heads(connection, numbers.values())
    held = {(s, tip.hash) for s, found in tips.items() for tip in found}
    open_ = [
        point.hash
        for sample in asked
        if (s := numbers.get(sample.stream)) is not None
        and not any((s, point.hash) in held for point in sample.points[:1])
        for point in sample.points
    ]
    for part, marks in chunks(open_):
        rows = connection.execute(
            f"SELECT s, hash FROM segment WHERE hash IN ({marks}) AND sparse = 0", part
        ).fetchall()
        held.update((s, bytes(hash_)) for s, hash_ in rows)
    for sample in asked:
        s = numbers.get(sample.stream)
        if s is not None:
            greatest = [point for point in sample.points if (s, point.hash) in held][:1]
            yield sample.stream, tuple(sorted({*tips.get(s, ()), *greatest}, reverse=True))


def beyond(connection: Connection, some: Streams, after: Mapping[bytes, tuple[Head, ...]]) -> list[int]:
    """Return the segments, by number, of streams that lie behind none of the given heads, each from its start on."""
    tips = heads(connection, (s for s, _ in some))
    found: list[int] = []
    for s, stream in some:
        held = after.get(stream, ())
        if not {tip.hash for tip in tips.get(s, ())} <= {head.hash for head in held}:
            found += behind(connection, s, held)
    return found
