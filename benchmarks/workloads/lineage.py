"""W7: everything that the last artifact of a history came from, in a chain and in a wide layered one.

The histories are written through the store, as a collection would leave them: recorded, folded, origins found.
"""

from __future__ import annotations

import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmarks import processes, work

if TYPE_CHECKING:
    from cmf.model import records as model
    from cmf.repo import Repo

MODULE = "benchmarks.workloads.lineage"
STARTED_US = 1_700_000_000_000_000
SECRET = b"the salt of a history that is no secret"


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W7, each history in a process and a store of its own."""
    found: dict[str, list[float]] = {}
    for shape in ("chain", "layered"):
        with processes.empty_folder() as folder:
            found |= processes.part(MODULE, shape, folder, tiny=tiny)
    return found


def chain(*, tiny: bool) -> dict[str, list[float]]:
    """Walk up a chain."""
    size = work.sizes(tiny=tiny)
    return _measured("chain", list(work.chain(size.chain)), size.walks)


def layered(*, tiny: bool) -> dict[str, list[float]]:
    """Walk up through layers, where the ways to one ancestor are many."""
    size = work.sizes(tiny=tiny)
    return _measured("layered", list(work.layered(size.layers, size.width)), size.walks)


def _measured(shape: str, history: list[work.Made], walks: int) -> dict[str, list[float]]:
    import cmf
    from cmf.graph import lineage

    wanted_executions, wanted_artifacts = work.ancestors(history)
    found: dict[str, list[float]] = {f"{shape}_walk": [], f"{shape}_views": []}
    last = history[-1].writes
    with cmf.init(Path()) as repo:
        _write(repo, history)
        for _ in range(walks):
            started = time.perf_counter()
            root = repo.store.index.resolve(last).execution
            walked = lineage.walk(repo.store.index, list(repo.store.index.nodes([root]).values()))
            found[f"{shape}_walk"].append(1000 * (time.perf_counter() - started))
            started = time.perf_counter()
            whole = repo.lineage(last)
            found[f"{shape}_views"].append(1000 * (time.perf_counter() - started))
            if (
                len(walked.depth) != wanted_executions
                or len({edge.artifact for edge in walked.edges}) != wanted_artifacts
            ):
                raise RuntimeError(f"{len(walked.depth)} executions were met, not {wanted_executions}.")
            if len(whole.executions) != wanted_executions or len(whole.artifacts) != wanted_artifacts:
                raise RuntimeError(f"{len(whole.executions)} executions were shown, not {wanted_executions}.")
    return found


def _write(repo: Repo, history: list[work.Made]) -> None:
    """Record a history in order, find the origin of each input, and make it durable."""
    from cmf.model import records as model

    rows: list[tuple[str, bytes, bytes]] = []
    waiting: list[tuple[str, bytes]] = []
    for number, made in enumerate(history):
        scope = f"bench/{made.stage}"
        for record in _records(number, made):
            id_, data = model.salted(record, SECRET)
            rows.append((scope, id_, data))
            if isinstance(record, model.Event) and record.direction == "input":
                waiting.append((scope, id_))
    repo.store.add(rows, waiting)
    repo.store.fold_pending()
    while origins := repo.store.origins():
        links = [
            (scope, *model.salted(model.Link(source=f"record:{event.hex()}", rel="via", to=maker), SECRET))
            for scope, event, maker in origins
            if maker
        ]
        repo.store.settle([(scope, event) for scope, event, _ in origins], links)
        repo.store.fold_pending()
    repo.store.checkpoint()


def _records(number: int, made: work.Made) -> list[model.Record]:
    """Return the records of one finished execution."""
    from cmf.model import digest as digests
    from cmf.model import records as model

    id_ = str(uuid.UUID(int=0x7 << 76 | 0x2 << 62 | number))
    t = STARTED_US + 1000 * number
    found: list[model.Record] = [
        model.Execution(id=id_, name=f"run-{number}", started=t, params=work.params(number)),
    ]
    uses: list[tuple[Literal["input", "output"], str]] = [("input", name) for name in made.reads]
    for direction, name in [*uses, ("output", made.writes)]:
        artifact = digests.file_digest(name.encode())
        event = model.Event(
            execution=id_, direction=direction, artifact=artifact, path=name, name=name, size=1024, t=t + 1
        )
        found += [model.Artifact(digest=artifact), event]
    node = model.execution_node(f"bench/{made.stage}", id_)
    ended = {"status": "finished", "exit": 0, "ended": t + 2}
    return [*found, model.Property(subject=node, key="status/1-00000000/0", value=ended, t=t + 2)]


if __name__ == "__main__":
    processes.serve_parts(sys.argv, {"chain": chain, "layered": layered})
