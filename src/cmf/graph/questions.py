"""The questions of an `Index` as one message and its answer, so that any of them can travel. Nodes are node texts."""

from __future__ import annotations

import msgspec

from cmf.graph import views
from cmf.graph.filter import Query
from cmf.graph.index import Direction, Edge, Index, Target
from cmf.graph.lineage import Lineage


class Ask(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One question or several; what is not asked is left out."""

    resolve: str = ""
    nodes: list[str] = []
    executions: list[str] = []
    artifacts: list[str] = []
    select: Query | None = None
    edges: list[str] = []
    direction: Direction = "up"
    series: tuple[str, str] | None = None
    history: str = ""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What was asked for, in the same fields; an edge is (consumer, artifact, producer or null, how)."""

    resolve: Target | None = None
    nodes: list[str] = []
    executions: list[views.Execution] = []
    artifacts: list[views.Artifact] = []
    select: views.Page | None = None
    edges: list[tuple[str, str, str | None, str]] = []
    series: list[views.ChunkRef] = []
    history: list[views.Write] = []


class AskLineage(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A walk asked for: what it starts from, which way, and how far."""

    root: str
    direction: Direction = "up"
    all_producers: bool = False
    depth_max: int | None = None


class LineageAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """A walk; ``hidden`` steps lead to what the asker may not read; ``segments`` hold every record about its nodes."""

    lineage: Lineage
    hidden: int
    segments: list[str]


def answer(index: Index, ask: Ask) -> Answer:
    """Answer questions from an index. Unknown nodes are left out."""
    edges: list[tuple[str, str, str | None, str]] = []
    if ask.edges:
        edges = _edges(index, ask)
    executions = index.executions(list(index.nodes(ask.executions).values())) if ask.executions else {}
    artifacts = index.artifacts(list(index.nodes(ask.artifacts).values())) if ask.artifacts else {}
    return Answer(
        resolve=index.resolve(ask.resolve) if ask.resolve else None,
        nodes=list(index.nodes(ask.nodes)) if ask.nodes else [],
        executions=list(executions.values()),
        artifacts=list(artifacts.values()),
        select=index.select(ask.select) if ask.select is not None else None,
        edges=edges,
        series=list(index.series(*ask.series)) if ask.series is not None else [],
        history=list(index.history(ask.history)) if ask.history else [],
    )


def _edges(index: Index, ask: Ask) -> list[tuple[str, str, str | None, str]]:
    found: list[Edge] = list(index.edges(list(index.nodes(ask.edges).values()), ask.direction))
    ends = dict.fromkeys([edge.consumer for edge in found] + [e.producer for e in found if e.producer is not None])
    executions = {node: view.node for node, view in index.executions(list(ends)).items()}
    artifacts = index.artifacts(list(dict.fromkeys(edge.artifact for edge in found)))
    return [
        (
            executions[edge.consumer],
            f"artifact:{artifacts[edge.artifact].digest}",
            executions[edge.producer] if edge.producer is not None else None,
            edge.how,
        )
        for edge in found
    ]
