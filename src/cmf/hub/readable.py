"""An index as one caller may see it: what lies in other scopes is not there, and steps that lead there are counted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cmf.errors import NotFoundError
from cmf.graph import views
from cmf.graph.filter import Query
from cmf.graph.index import Direction, Edge, Node, Target
from cmf.model.exchange import View
from cmf.model.records import split_execution
from cmf.store.index import SqlIndex


class ReadableIndex:
    """The part of a store's index below some scope prefixes. ``hidden`` counts the steps that were left out."""

    def __init__(self, index: SqlIndex, below: tuple[str, ...] | None) -> None:
        self._index = index
        self._below = below
        self._view = View(below=below)
        self.hidden = 0

    def resolve(self, text: str) -> Target:
        """Return what a text names among what the caller may see."""
        try:
            return self._index.resolve(text, self._view)
        except NotFoundError as error:
            if self._below is None:
                raise
            raise NotFoundError(error.message, hint="Or you may not read it.") from None

    def _may_see(self, node: str) -> bool:
        if self._below is None:
            return True
        split = split_execution(node)
        if split is not None:
            return self._view.covers(split[0])
        return any(view.uses for view in self.artifacts(list(self._index.nodes([node]).values())).values())

    def nodes(self, texts: Sequence[str]) -> dict[str, Node]:
        """Return the store's name of each node that the caller may see."""
        return {text: node for text, node in self._index.nodes(texts).items() if self._may_see(text)}

    def executions(self, nodes: Sequence[Node]) -> dict[Node, views.Execution]:
        """Return the executions in readable scopes."""
        found = self._index.executions(nodes, self._view)
        return {node: view for node, view in found.items() if self._view.covers(view.scope)}

    def artifacts(self, nodes: Sequence[Node]) -> dict[Node, views.Artifact]:
        """Return the artifacts with their events in readable scopes; one without any is not there."""
        found = self._index.artifacts(nodes)
        if self._below is None:
            return found
        seen = {
            node: views.artifact(artifact.digest, [use for use in artifact.uses if self._view.covers(use.scope)])
            for node, artifact in found.items()
        }
        return {node: artifact for node, artifact in seen.items() if artifact.uses}

    def select(self, query: Query) -> views.Page:
        """Return executions in readable scopes."""
        return self._index.select(msgspec.structs.replace(query, below=self._below))

    def edges(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        """Return the steps between readable executions; what unreadable ones claim is not even counted."""
        found = self._index.edges(nodes, direction)
        if self._below is None:
            return found
        ends = {edge.consumer for edge in found} | {edge.producer for edge in found if edge.producer is not None}
        seen = {node for node, text in self._index.texts(list(ends)).items() if self._may_see(text)}
        kept = [e for e in found if e.consumer in seen and (e.producer is None or e.producer in seen)]
        self.hidden += sum(edge.how != "claimed" for edge in found) - sum(edge.how != "claimed" for edge in kept)
        return kept

    def series(self, execution: str, name: str) -> Sequence[views.ChunkRef]:
        """Return the chunks of a readable execution's series."""
        return self._index.series(execution, name) if self._may_see(execution) else []

    def history(self, subject: str) -> Sequence[views.Write]:
        """Return the writes to a readable node's registers that were made in readable scopes."""
        if not self._may_see(subject):
            return []
        return [write for write in self._index.history(subject) if self._view.covers(write.scope)]
