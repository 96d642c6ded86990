"""Where something came from, and what came of it: a bounded breadth-first walk, level by level.

An index answers one level at a time (`Index.edges`); this module decides what is followed. Recorded steps (``via``)
and sole producers are followed. Merely possible producers are reported among the steps, and those that strangers claim
to be apart from them: both are followed only if asked. Every node is visited once, so cycles and wide joins cost what
they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec

from cmf.graph import views
from cmf.graph.index import Direction, Edge, Index, Node, Target

NODES_MAX = 100_000


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk met, in the index's own node names. ``depth`` of each execution, roots at 0, in order of visit.

    ``claims`` are the edges that strangers say lead on, which were not followed.
    ``truncated`` says which limit cut the walk: "", "depth", "nodes" or "time".
    """

    depth: dict[Node, int]
    edges: tuple[Edge, ...]
    claims: tuple[Edge, ...] = ()
    truncated: Literal["", "depth", "nodes", "time"] = ""


def walk(
    index: Index,
    roots: Sequence[Node],
    direction: Direction = "up",
    *,
    all_producers: bool = False,
    depth_max: int | None = None,
    nodes_max: int = NODES_MAX,
    expired: Callable[[], bool] | None = None,
) -> Walk:
    """Walk up or down from some executions.

    ``expired`` tells whether the time allowed is over: it is asked once a level, so that this module needs no clock.
    Unless the limit of nodes cuts the walk, the answer is the same whatever order the index gives its edges in.
    """
    depth: dict[Node, int] = dict.fromkeys(roots, 0)
    met: list[Edge] = []
    claims: list[Edge] = []

    def ended(truncated: Literal["", "depth", "nodes", "time"] = "") -> Walk:
        return Walk(depth=depth, edges=tuple(met), claims=tuple(claims), truncated=truncated)

    level = list(depth)
    reached = 0
    while level:
        if depth_max is not None and reached >= depth_max:
            return ended("depth")
        if expired is not None and expired():
            return ended("time")
        reached += 1
        following: list[Node] = []
        for edge in index.edges(level, direction):
            consumer, _, producer, how = edge
            if how == "claimed" and not all_producers:
                claims.append(edge)
                continue
            met.append(edge)
            found = producer if direction == "up" else consumer
            if found is not None and found not in depth and (how != "possible" or all_producers):
                if len(depth) >= nodes_max:
                    return ended("nodes")
                depth[found] = reached
                following.append(found)
        level = following
    return ended()


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of ancestry between views; ``producer`` is "" for bytes that nobody here made. See `Edge.how`."""

    consumer: str
    artifact: str
    producer: str
    how: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A walk with everything it met as views, by node text. ``roots`` are executions; ``depth`` counts from them.

    An artifact is shown as the executions met tell of it. ``claims`` are steps that other pipelines say lead on, which
    were not followed: nobody of what was met says so, and nothing else of the answer depends on them.
    """

    target: Target
    direction: Direction
    roots: tuple[str, ...]
    executions: dict[str, views.Execution]
    artifacts: dict[str, views.Artifact]
    steps: tuple[Step, ...]
    depth: dict[str, int]
    claims: tuple[Step, ...] = ()
    truncated: str = ""

    def ancestors(self) -> list[views.Execution]:
        """Return the executions met, the roots left out, nearest first."""
        return [self.executions[node] for node in self.depth if node not in self.roots and node in self.executions]


def trace(
    index: Index,
    text: str,
    direction: Direction = "up",
    *,
    all_producers: bool = False,
    depth_max: int | None = None,
    expired: Callable[[], bool] | None = None,
) -> Lineage:
    """Walk from what a text names, and return all that was met as views.

    From an artifact that no name ties to one execution, the walk starts at every execution that made it (or, downwards,
    used it).
    """
    target = index.resolve(text)
    start = target.execution or target.node
    roots = [start] if start.startswith("execution:") else _users(index, start, direction)
    nodes = index.nodes(roots)
    walked = walk(
        index, list(nodes.values()), direction, all_producers=all_producers, depth_max=depth_max, expired=expired
    )
    ends = [end for edge in walked.edges for end in (edge.consumer, edge.producer) if end is not None]
    executions = index.executions(list(dict.fromkeys([*walked.depth, *ends])))
    strangers = {end for edge in walked.claims for end in (edge.consumer, edge.producer)}.difference(executions)
    artifacts = index.artifacts(list(dict.fromkeys(edge.artifact for edge in (*walked.edges, *walked.claims))))
    met = {view.node for view in executions.values()}
    texts = {node: view.node for node, view in {**index.executions(list(strangers)), **executions}.items()}
    told = [
        views.artifact(view.digest, [use for use in view.uses if use.execution in met])
        for node in dict.fromkeys(edge.artifact for edge in walked.edges)
        if (view := artifacts.get(node)) is not None
    ]
    return Lineage(
        target=target,
        direction=direction,
        roots=tuple(roots),
        executions={view.node: view for view in executions.values()},
        artifacts={view.digest: view for view in told},
        steps=_steps(walked.edges, texts, artifacts),
        depth={texts[node]: depth for node, depth in walked.depth.items() if node in texts},
        claims=_steps(walked.claims, texts, artifacts),
        truncated=walked.truncated,
    )


def _steps(
    edges: Sequence[Edge], texts: Mapping[Node, str], artifacts: Mapping[Node, views.Artifact]
) -> tuple[Step, ...]:
    """Return edges between views; those that lead to what the index gives no view of are left out."""
    return tuple(
        Step(
            consumer=texts[edge.consumer],
            artifact=artifacts[edge.artifact].digest,
            producer=texts[edge.producer] if edge.producer is not None else "",
            how=edge.how,
        )
        for edge in edges
        if edge.consumer in texts and edge.artifact in artifacts and (edge.producer is None or edge.producer in texts)
    )


def _users(index: Index, artifact: str, direction: Direction) -> list[str]:
    found = index.artifacts(list(index.nodes([artifact]).values()))
    wanted = "output" if direction == "up" else "input"
    return sorted({use.execution for view in found.values() for use in view.uses if use.direction == wanted})
