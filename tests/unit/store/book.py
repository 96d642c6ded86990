"""A store in memory and short words to tell it facts: what the tests of the store write their histories with."""

from typing import Any

from cmf.graph.index import Edge
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.store.sql import SqlStore
from tests.property.store_histories import Fact, Site

SECRET = b"s" * 32


def execution_id(n: int) -> str:
    return f"{n:08x}-0000-7000-8000-{n:012x}"


class Book(Site):
    """A site whose facts are told one by one; everything told is folded at once."""

    def __init__(self, name: str = "book", store: SqlStore | None = None) -> None:
        super().__init__(name, store)
        self.index = self.store.index
        self.clock = 1000

    def tell(self, scope: str, record: model.Record) -> bytes:
        """Record a fact; return its id."""
        id_, data = model.salted(record, SECRET)
        assert model.read(data) is not None
        self.record(Fact(scope, id_, data))
        return id_

    def now(self, t: int | None) -> int:
        self.clock += 1
        return self.clock if t is None else t

    def run(self, scope: str, n: int, **fields: Any) -> str:
        """Record a birth; return its node. Started at ``n`` unless said otherwise."""
        self.tell(scope, model.Execution(**{"id": execution_id(n), "started": n, **fields}))
        return model.execution_node(scope, execution_id(n))

    def _event(self, node: str, direction: Any, content: str, t: int | None, fields: dict[str, Any]) -> bytes:
        split = model.split_execution(node)
        assert split is not None
        artifact = content if digests.is_digest(content) else digests.file_digest(content.encode())
        self.tell(split[0], model.Artifact(digest=artifact))
        whole = {"size": 100, "path": content[:9], **fields}
        event = model.Event(execution=split[1], direction=direction, artifact=artifact, t=self.now(t), **whole)
        return self.tell(split[0], event)

    def used(self, node: str, content: str, *, t: int | None = None, **fields: Any) -> bytes:
        """Record an input: a digest, or text that stands for other bytes."""
        return self._event(node, "input", content, t, fields)

    def made(self, node: str, content: str, *, t: int | None = None, **fields: Any) -> bytes:
        """Record an output."""
        return self._event(node, "output", content, t, fields)

    def say(self, subject: str, key: str, value: Any, *, t: int | None = None, scope: str = "") -> bytes:
        """Set a register, in the subject's own scope unless another one is given."""
        split = model.split_execution(subject)
        place = scope or (split[0] if split else "p/a")
        return self.tell(place, model.Property(subject=subject, key=key, value=value, t=self.now(t)))

    def link(self, source: str, rel: str, to: str, *, scope: str) -> bytes:
        return self.tell(scope, model.Link(source=source, rel=rel, to=to))

    def view(self, node: str) -> Any:
        """Return the view of an execution or of an artifact."""
        found = self.index.nodes([node])
        views = self.index.executions if node.startswith("execution:") else self.index.artifacts
        return views([found[node]])[found[node]]

    def steps(self, node: str, direction: Any = "up") -> set[tuple[str | None, str]]:
        """Return (execution that the step leads to, how)."""
        found: list[Edge] = self.index.edges([self.index.nodes([node])[node]], direction)
        views = self.index.executions([n for e in found for n in (e.producer, e.consumer) if n is not None])
        names = {n: view.node for n, view in views.items()}
        return {
            (names.get(edge.producer if direction == "up" else edge.consumer), edge.how)  # None: nobody made it
            for edge in found
        }


def artifact(content: str) -> str:
    """Return the node of the artifact that a text stands for."""
    return "artifact:" + (content if digests.is_digest(content) else digests.file_digest(content.encode()))
