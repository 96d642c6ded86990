"""A hub as an index."""

from __future__ import annotations

from collections.abc import Sequence

from cmf.errors import CorruptError
from cmf.graph import views
from cmf.graph.filter import Query
from cmf.graph.index import Direction, Edge, Node, Target
from cmf.graph.questions import Answer, Ask
from cmf.remote.client import HubClient


class HubIndex:
    """A hub as an index; its nodes are node texts."""

    def __init__(self, client: HubClient) -> None:
        self._client = client

    def _ask(self, ask: Ask) -> Answer:
        return self._client.ask("POST", "/v1/query", ask, Answer)

    def resolve(self, text: str) -> Target:
        """Return what a text names at the hub."""
        found = self._ask(Ask(resolve=text)).resolve
        if found is None:
            raise CorruptError("The hub gave no answer to a question.", kind="wire")
        return found

    def nodes(self, texts: Sequence[str]) -> dict[str, Node]:
        """Return those node texts that the hub knows."""
        return {text: text for text in self._ask(Ask(nodes=list(texts))).nodes}

    def executions(self, nodes: Sequence[Node]) -> dict[Node, views.Execution]:
        """Return a view of each execution."""
        return {view.node: view for view in self._ask(Ask(executions=_texts(nodes))).executions}

    def artifacts(self, nodes: Sequence[Node]) -> dict[Node, views.Artifact]:
        """Return a view of each artifact."""
        return {f"artifact:{view.digest}": view for view in self._ask(Ask(artifacts=_texts(nodes))).artifacts}

    def select(self, query: Query) -> views.Page:
        """Return a page of executions, newest first."""
        return self._ask(Ask(select=query)).select or views.Page()

    def edges(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        """Return the steps that lead up or down from some executions."""
        return [Edge(*edge) for edge in self._ask(Ask(edges=_texts(nodes), direction=direction)).edges]

    def series(self, execution: str, name: str) -> list[views.ChunkRef]:
        """Return the chunks of one name of an execution's step metrics."""
        return self._ask(Ask(series=(execution, name))).series

    def history(self, subject: str) -> list[views.Write]:
        """Return every write to every register of a node, newest first."""
        return self._ask(Ask(history=subject)).history


def _texts(nodes: Sequence[Node]) -> list[str]:
    return [str(node) for node in nodes]
