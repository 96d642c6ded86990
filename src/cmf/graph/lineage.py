"""Where something came from, and what came of it: a bounded breadth-first walk, level by level.

An index answers one level at a time (`Index.edges`); this module decides what is followed. Recorded steps (``via``)
and sole producers in the same pipeline are followed; merely possible producers are reported, and followed only if
asked. Every node is visited once, so cycles and wide joins cost what they hold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from cmf.graph.index import Direction, Edge, Index, Node

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
            if edge.how == "possible" and not all_producers:
                continue
            found = edge.producer if direction == "up" else edge.consumer
            if found is not None and found not in depth:
                if len(depth) >= nodes_max:
                    return Walk(depth=depth, edges=tuple(met), truncated="nodes")
                depth[found] = reached
                following.append(found)
        level = following
    return Walk(depth=depth, edges=tuple(met))
