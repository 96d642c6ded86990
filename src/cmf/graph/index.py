"""What can be asked of a set of records: the seam between questions and whoever holds the answers."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec

from cmf.graph import views
from cmf.graph.filter import Query

Direction = Literal["up", "down"]
Node = Hashable
"""A node as one index names it: opaque to the asker, valid for that index only."""


class Target(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a person's words name: an execution or an artifact, as node texts.

    For an artifact found by name or path, ``execution`` is the execution whose event gave it that name.
    """

    node: str
    execution: str = ""
    name: str = ""


class Edge(NamedTuple):
    """One step of ancestry: ``consumer`` used ``artifact``, which ``producer`` made.

    ``how`` is ``via`` (recorded), ``content`` (the sole producer in the consumer's own scope and above it, else in its
    pipeline), ``possible`` (one of several there), or ``source`` (nobody there made it; ``producer`` is then None).
    ``claimed``: others say that they made it, which changes no step. It and ``possible`` are walked only if asked.
    """

    consumer: Node
    artifact: Node
    producer: Node | None
    how: str


class Index(Protocol):
    """What a store, or a hub over HTTP, answers. All questions are read-only and see one consistent state each.

    Unknown ids and nodes are left out of answers; only `resolve` raises `NotFoundError` or, for words that name
    several things, `UsageError`. Answers do not depend on the order in which records came in.
    """

    def resolve(self, text: str) -> Target:
        """Return what this text names: id or short id, digest, ``NAME``, ``NAME@LABEL``, ``PIPELINE:NAME``, path."""
        ...

    def nodes(self, texts: Sequence[str]) -> Mapping[str, Node]:
        """Return this index's own name of each node text that it knows."""
        ...

    def executions(self, nodes: Sequence[Node]) -> Mapping[Node, views.Execution]:
        """Return a view of each execution; one without a birth here is a view with ``known=False``."""
        ...

    def artifacts(self, nodes: Sequence[Node]) -> Mapping[Node, views.Artifact]:
        """Return a view of each artifact with all events about it."""
        ...

    def select(self, query: Query) -> views.Page:
        """Return executions, newest first, that satisfy a query."""
        ...

    def edges(self, nodes: Sequence[Node], direction: Direction) -> Iterable[Edge]:
        """Return the steps that lead up (or down) from these executions, possible and claimed ones included."""
        ...

    def series(self, execution: str, name: str) -> Sequence[views.ChunkRef]:
        """Return the chunks of one name of an execution's step metrics, in order of attempt, rank and row."""
        ...

    def history(self, subject: str) -> Sequence[views.Write]:
        """Return every write to every register of a node, newest first."""
        ...
