"""Where something came from, and what came of it: a bounded breadth-first walk, level by level.

An index answers one level at a time (`Index.edges`); this module decides what is followed. Recorded steps (``via``)
and sole producers in the same pipeline are followed; merely possible producers are reported, and followed only if
asked. Every node is visited once, so cycles and wide joins cost what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from cmf.graph import views
from cmf.graph.index import Direction, Edge, Index, Node, Target

NODES_MAX = 100_000


class Walk(msgspec.Struct, frozen=True, kw_only=True):
    """What a walk met, in the index's own node names. ``depth`` of each execution, roots at 0, in order of visit.

    ``truncated`` says which limit cut the walk: "", "depth", "nodes" or "time".
    """

    depth: dict[Node, int]
    edges: tuple[Edge, ...]
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
    level = list(depth)
    reached = 0
    while level:
        if depth_max is not None and reached >= depth_max:
            return Walk(depth=depth, edges=tuple(met), truncated="depth")
        if expired is not None and expired():
            return Walk(depth=depth, edges=tuple(met), truncated="time")
        reached += 1
        following: list[Node] = []
        for edge in index.edges(level, direction):
            met.append(edge)
            consumer, _, producer, how = edge
            found = producer if direction == "up" else consumer
            if found is not None and found not in depth and (how != "possible" or all_producers):
                if len(depth) >= nodes_max:
                    return Walk(depth=depth, edges=tuple(met), truncated="nodes")
                depth[found] = reached
                following.append(found)
        level = following
    return Walk(depth=depth, edges=tuple(met))


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One step of ancestry between views; ``producer`` is "" for bytes that nobody here made. See `Edge.how`."""

    consumer: str
    artifact: str
    producer: str
    how: str


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """A walk with everything it met as views, by node text. ``roots`` are executions; ``depth`` counts from them."""

    target: Target
    direction: Direction
    roots: tuple[str, ...]
    executions: dict[str, views.Execution]
    artifacts: dict[str, views.Artifact]
    steps: tuple[Step, ...]
    depth: dict[str, int]
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
    producers = [edge.producer for edge in walked.edges if edge.producer is not None]
    executions = index.executions(list(dict.fromkeys([*walked.depth, *producers])))
    artifacts = index.artifacts(list(dict.fromkeys(edge.artifact for edge in walked.edges)))
    texts = {node: view.node for node, view in executions.items()}
    return Lineage(
        target=target,
        direction=direction,
        roots=tuple(roots),
        executions={view.node: view for view in executions.values()},
        artifacts={view.digest: view for view in artifacts.values()},
        steps=tuple(
            Step(
                consumer=texts[edge.consumer],
                artifact=artifacts[edge.artifact].digest,
                producer=texts[edge.producer] if edge.producer is not None else "",
                how=edge.how,
            )
            for edge in walked.edges
            if edge.consumer in texts
            and edge.artifact in artifacts
            and (edge.producer is None or edge.producer in texts)
        ),
        depth={texts[node]: depth for node, depth in walked.depth.items() if node in texts},
        truncated=walked.truncated,
    )


def _users(index: Index, artifact: str, direction: Direction) -> list[str]:
    found = index.artifacts(list(index.nodes([artifact]).values()))
    wanted = "output" if direction == "up" else "input"
    return sorted({use.execution for view in found.values() for use in view.uses if use.direction == wanted})
