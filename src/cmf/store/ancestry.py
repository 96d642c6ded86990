"""Steps of ancestry in the derived tables: what an execution's inputs came from, and what used its outputs.

Recorded steps (``via``) come first; where an input has none, its producers are found by content: first in the scope
itself and above it, then in the other stages of its pipeline. What is said elsewhere is a claim beside the step, and
never changes it. A link counts only for events of its scope and below it. So nobody draws a line through a scope that
they cannot write, and nobody blurs one.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeAlias

from cmf.graph import nodes
from cmf.graph.index import Edge, Node
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.store.dialect import EACH, Connection, array, known
from cmf.store.names import pipeline_of

# Plain tuples: a walk meets tens of thousands of them.
Input: TypeAlias = tuple[int, int, int, int | None]
"""An input event that no ``via`` explains: consumer, artifact, scope, and how large it says that is."""

_edge: Callable[[Iterable[object]], Edge] = functools.partial(tuple.__new__, Edge)
"""An edge of what is already a tuple, several times faster than to call the class."""

Producer: TypeAlias = tuple[int, int, int | None]
"""An output event about an artifact: execution, scope, and how large it says that is."""


def up(connection: Connection, executions: Sequence[Node]) -> list[Edge]:
    """Return the steps from some executions to those that made what they used."""
    rows = connection.execute(
        "SELECT i.e, i.a, i.s, i.size, l.target, l.s "
        f"FROM {EACH} j CROSS JOIN event i ON i.e = j.value AND i.direction = 0 AND i.hidden = 0 "
        "LEFT JOIN link l ON l.source = i.v AND l.rel = 'via' AND l.hidden = 0",
        (array(executions),),
    ).fetchall()
    speaks = _Scopes(connection).speaks
    recorded: dict[tuple[int, int, int, str], None] = {}
    unexplained: list[Input] = []
    for e, a, s, size, made_by, by in rows:
        if made_by is not None and (by == s or speaks(by, s)):
            recorded[e, a, made_by, "via"] = None
        else:
            unexplained.append((e, a, s, size))
    edges = list(map(_edge, recorded))
    if unexplained:
        explained = {edge[:2] for edge in recorded}
        found = dict.fromkeys(row for row in unexplained if row[:2] not in explained)
        edges += dict.fromkeys(_by_content(connection, list(found)))
    return edges


def down(connection: Connection, executions: Sequence[Node]) -> list[Edge]:
    """Return the steps from some executions to those that used what they made: exactly the steps up, turned round."""
    wanted = array(executions)
    speaks = _Scopes(connection).speaks
    edges = [
        Edge(e, a, made_by, "via")
        for e, a, s, made_by, by in connection.execute(
            "SELECT i.e, i.a, i.s, l.target, l.s "
            f"FROM {EACH} j CROSS JOIN link l ON l.target = j.value AND l.rel = 'via' AND l.hidden = 0 "
            "JOIN event i ON i.v = l.source AND i.direction = 0 AND i.hidden = 0",
            (wanted,),
        ).fetchall()
        if speaks(by, s)
    ]
    rows = connection.execute(
        "SELECT DISTINCT i.e, i.a, i.s, i.size "
        f"FROM {EACH} j CROSS JOIN event o ON o.e = j.value AND o.direction = 1 AND o.hidden = 0 "
        "JOIN event i ON i.a = o.a AND i.direction = 0 AND i.hidden = 0 AND i.e <> o.e "
        f"AND (i.size IS NULL OR i.size >= {digests.SMALL_BYTES})",
        (wanted,),
    ).fetchall()
    recorded = _recorded(connection, {row[0] for row in rows}, speaks)
    inputs = [row for row in rows if row[:2] not in recorded]
    asked = set(executions)
    edges += (edge for edge in _by_content(connection, inputs) if edge.producer in asked)
    return list(dict.fromkeys(edges))


def origin(connection: Connection, scope: str, event_id: bytes) -> str:
    """Return the node of the execution that made an input event's bytes, as far as this store knows, or "".

    The newest other execution whose output event is not later than the input, the same path preferred; for artifacts
    under 64 bytes only with the same path in the same pipeline; never a reproduction. The pipeline's own are preferred
    to others, and of those only pipelines in which this store records itself are believed: what is found is recorded
    for good, in the name of who asks.
    """
    keys = known(connection, [names := nodes.record_key(event_id), place := b"s" + scope.encode()])
    if len(keys) < 2:
        return ""
    row = connection.execute(
        "SELECT e, a, path, t, size FROM event WHERE v = ? AND s = ?", (keys[names], keys[place])
    ).fetchone()
    if row is None:
        return ""
    e, a, path, t, size = row
    speaks = _Scopes(connection).speaks
    pipeline = scope.rpartition("/")[0]
    elsewhere = ""
    for producer, made_by, made_path, made_s, made_scope, made_size in connection.execute(
        "SELECT o.e, x.key, o.path, o.s, w.key, o.size FROM event o JOIN node x ON x.i = o.e JOIN node w ON w.i = o.s "
        "JOIN node r ON r.i = o.v WHERE o.a = ? AND o.direction = 1 AND o.hidden = 0 AND o.e <> ? AND o.t <= ? "
        "ORDER BY o.path = ? DESC, o.t DESC, r.key DESC",
        (a, e, t, path),
    ):
        ours = pipeline_of(made_scope) == pipeline or model.covers(made_scope[1:].decode(), scope)
        tiny = _small(size, made_size) and not (made_path == path and ours)
        if tiny or (elsewhere and not ours) or _reproductions(connection, [(producer, made_s)], speaks):
            continue
        if ours:
            return nodes.node_text(made_by)
        if _records_in(connection, pipeline_of(made_scope)):
            elsewhere = nodes.node_text(made_by)
    return elsewhere


def _records_in(connection: Connection, pipeline: str) -> bool:
    """Tell whether this store has recorded something itself in a pipeline."""
    stages = connection.execute(
        "SELECT scope FROM stream WHERE own = 1 AND scope > ? AND scope < ? UNION "
        "SELECT scope FROM pending WHERE scope > ? AND scope < ?",
        (pipeline + "/", pipeline + "0") * 2,  # '0' comes next after '/'
    )
    return any(scope.rpartition("/")[0] == pipeline for (scope,) in stages.fetchall())


def _small(used: int | None, made: int | None) -> bool:
    """Tell whether an artifact is too small to join anything, as its user says, or else its maker."""
    size = made if used is None else used
    return size is not None and size < digests.SMALL_BYTES


def _by_content(connection: Connection, inputs: Sequence[Input]) -> Iterator[Edge]:
    """Yield the steps that content alone tells, and beside each what other pipelines claim to have made."""
    producers = _producers(connection, {artifact for _, artifact, _, _ in inputs}) if inputs else {}
    scopes = _Scopes(connection)
    for consumer, artifact, scope, used_size in inputs:
        others = {
            execution: made_scope
            for execution, made_scope, made_size in producers.get(artifact, ())
            if execution != consumer and not _small(used_size, made_size)
        }
        heard = [execution for execution, by in others.items() if scopes.speaks(by, scope)] or [
            execution for execution, by in others.items() if scopes.same_pipeline(by, scope)
        ]
        if not heard:
            yield Edge(consumer, artifact, None, "source")
        how = "content" if len(heard) == 1 else "possible"
        yield from (Edge(consumer, artifact, producer, how) for producer in heard)
        yield from (Edge(consumer, artifact, producer, "claimed") for producer in others if producer not in heard)


def _producers(connection: Connection, artifacts: set[int]) -> dict[int, list[Producer]]:
    """Return every output event about each artifact, those of reproductions left out."""
    rows = connection.execute(
        "SELECT DISTINCT o.a, o.e, o.s, o.size "
        f"FROM {EACH} j CROSS JOIN event o ON o.a = j.value AND o.direction = 1 AND o.hidden = 0 ORDER BY 1, 2",
        (array(sorted(artifacts)),),
    ).fetchall()
    speaks = _Scopes(connection).speaks
    left_out = _reproductions(connection, {(e, s) for _, e, s, _ in rows}, speaks)
    found: dict[int, list[Producer]] = defaultdict(list)
    for a, e, s, size in rows:
        if e not in left_out:
            found[a].append((e, s, size))
    return found


def _reproductions(
    connection: Connection, executions: Iterable[tuple[int, int]], speaks: Callable[[int, int], bool]
) -> set[int]:
    """Return which of some executions, each with its scope, are said to reproduce another one."""
    scopes = dict(executions)
    rows = connection.execute(
        f"SELECT l.source, l.s FROM {EACH} j CROSS JOIN link l ON l.source = j.value AND l.rel = 'reproduces' "
        "AND l.hidden = 0",
        (array(sorted(scopes)),),
    ).fetchall()
    return {e for e, by in rows if speaks(by, scopes[e])}


def _recorded(connection: Connection, consumers: set[int], speaks: Callable[[int, int], bool]) -> set[tuple[int, int]]:
    """Return (consumer, artifact) of every input of some executions that a ``via`` explains."""
    rows = connection.execute(
        "SELECT i.e, i.a, i.s, l.s "
        f"FROM {EACH} j CROSS JOIN event i ON i.e = j.value AND i.direction = 0 AND i.hidden = 0 "
        "JOIN link l ON l.source = i.v AND l.rel = 'via' AND l.hidden = 0",
        (array(sorted(consumers)),),
    ).fetchall()
    return {(e, a) for e, a, s, by in rows if speaks(by, s)}


class _Scopes:
    """The scopes behind integers, looked up when they are first compared."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._found: dict[int, str] = {}

    def speaks(self, by: int, scope: int) -> bool:
        """Tell whether what one scope says counts in another: in itself and below."""
        return by == scope or model.covers(self._text(by), self._text(scope))

    def same_pipeline(self, left: int, right: int) -> bool:
        """Tell whether two scopes are stages of one pipeline."""
        return left == right or self._text(left).rpartition("/")[0] == self._text(right).rpartition("/")[0]

    def _text(self, scope: int) -> str:
        if scope not in self._found:
            (key,) = self._connection.execute("SELECT key FROM node WHERE i = ?", (scope,)).fetchone()
            self._found[scope] = key[1:].decode()
        return self._found[scope]
