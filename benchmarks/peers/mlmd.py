"""W1, W2, W7 and W11 with ML Metadata on its SQLite store. It keeps metadata only: the files are hashed here, by us."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import processes, work


class Store:
    """A store with one type of artifact, of execution and of context; the one that is there unless ``fresh``."""

    def __init__(self, path: Path, *, fresh: bool = True) -> None:
        from ml_metadata.metadata_store import metadata_store  # type: ignore[import-not-found]  # only in its own venv
        from ml_metadata.proto import metadata_store_pb2  # type: ignore[import-not-found]  # as above

        self.pb: Any = metadata_store_pb2
        settings = self.pb.ConnectionConfig()
        settings.sqlite.filename_uri = str(path)
        self.db: Any = metadata_store.MetadataStore(settings)
        self.artifact_type = self.db.put_artifact_type(self.pb.ArtifactType(name="File"))
        self.execution_type = self.db.put_execution_type(self.pb.ExecutionType(name="Run"))
        context_type = self.db.put_context_type(self.pb.ContextType(name="Stage"))
        self.context = self.pb.Context(type_id=context_type, name="bench/train")
        if fresh:
            (self.context.id,) = self.db.put_contexts([self.context])
        else:
            self.context = self.db.get_context_by_type_and_name("Stage", "bench/train")

    def artifact(self, name: str, uri: str, id_: int | None = None) -> Any:
        """Return an artifact, new unless it has an id."""
        return self.pb.Artifact(id=id_, type_id=self.artifact_type, name=name, uri=uri)

    def put(self, reads: list[Any], writes: list[Any], values: dict[str, Any]) -> list[int]:
        """Record one execution with all that belongs to it in one transaction; return the ids of its artifacts."""
        execution = self.pb.Execution(type_id=self.execution_type)
        for key, value in values.items():
            kind = {int: "int_value", float: "double_value"}.get(type(value), "string_value")
            setattr(execution.custom_properties[key], kind, value)
        used = [(artifact, self.pb.Event(type=self.pb.Event.INPUT)) for artifact in reads]
        made = [(artifact, self.pb.Event(type=self.pb.Event.OUTPUT)) for artifact in writes]
        _, artifacts, _ = self.db.put_execution(execution, used + made, [self.context])
        return list(artifacts)


def start(*, tiny: bool) -> dict[str, list[float]]:
    """Time the import above the bare interpreter."""
    with processes.empty_folder() as folder:
        repeats = work.sizes(tiny=tiny).starts
        times, memory = processes.starts(Path(sys.executable), "import ml_metadata", folder, repeats)
    return {"recorder_time": times, "recorder_memory": memory}


def executions(*, tiny: bool) -> dict[str, list[float]]:
    """Record executions; return the milliseconds of each."""
    count = work.sizes(tiny=tiny).executions
    store = Store(Path("store.db"))
    made = [work.files(Path(), number) for number in range(count)]
    taken = []
    for number, paths in enumerate(made):
        started = time.perf_counter()
        uris = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
        source, target = (store.artifact(path.name, uri) for path, uri in zip(paths, uris, strict=True))
        store.put([source], [target], work.params(number) | work.scores(number))
        taken.append(1000 * (time.perf_counter() - started))
    if len(store.db.get_executions()) != count:
        raise RuntimeError("Not every execution was recorded.")
    return {"execution": taken, "execution_mean": [sum(taken) / count]}


def ancestors(*, tiny: bool) -> dict[str, list[float]]:
    """Ask for all ancestors, by its own call where that reaches them, and layer by layer with its getters."""
    size = work.sizes(tiny=tiny)
    found: dict[str, list[float]] = {}
    for shape, history in (
        ("chain", list(work.chain(size.chain))),
        ("layered", list(work.layered(size.layers, size.width))),
    ):
        store = Store(Path(f"{shape}.db"))
        known: dict[str, int] = {}
        for made in history:
            names = [*made.reads, made.writes]
            artifacts = [store.artifact(name, name, known.get(name)) for name in names]
            known.update(zip(names, store.put(artifacts[:-1], artifacts[-1:], {}), strict=True))
        wanted = work.ancestors(history)
        for key, walk in ((f"{shape}_walk", _ids), (f"{shape}_views", _whole)):
            for _ in range(size.walks):
                started = time.perf_counter()
                met = walk(store, known[history[-1].writes])
                found.setdefault(key, []).append(1000 * (time.perf_counter() - started))
                if met != wanted:
                    raise RuntimeError(f"{met} ancestors were met, not {wanted}.")
    return found


def _ids(store: Store, last: int) -> tuple[int, int]:
    executions, artifacts = _climb(store, last)
    return len(executions), len(artifacts)


def _whole(store: Store, last: int) -> tuple[int, int]:
    executions, artifacts = _climb(store, last)
    return len(store.db.get_executions_by_id(list(executions))), len(store.db.get_artifacts_by_id(list(artifacts)))


def _climb(store: Store, last: int) -> tuple[set[int], set[int]]:
    """Climb a layer at a time, each asked for at once: its own call for lineage stops after a hundred hops."""
    executions: set[int] = set()
    artifacts: set[int] = set()
    level = [last]
    while level:
        events = store.db.get_events_by_artifact_ids(level)
        makers = {event.execution_id for event in events if event.type == store.pb.Event.OUTPUT} - executions
        if not makers:
            break
        executions |= makers
        events = store.db.get_events_by_execution_ids(list(makers))
        reads = {event.artifact_id for event in events if event.type == store.pb.Event.INPUT}
        level = list(reads - artifacts)
        artifacts |= reads
    return executions, artifacts


def _write(rank: int, count: int, go: Callable[[], None]) -> None:
    store = Store(Path("store.db"), fresh=False)
    go()
    for number in range(count):
        store.put([], [], {f"metric{rank}-{number}": number})


def writers(*, tiny: bool) -> dict[str, list[float]]:
    """Let several processes record at once, each metric in an execution, until all is kept."""
    size = work.sizes(tiny=tiny)
    store = Store(Path("store.db"))
    taken = processes.at_once(_write, size.peer_writers, size.peer_records)
    kept = len(store.db.get_executions())
    if kept != size.peer_writers * size.peer_records:
        raise RuntimeError(f"Only {kept} executions were recorded.")
    return {"peer_writers": [taken]}


if __name__ == "__main__":
    parts = {"start": start, "executions": executions, "ancestors": ancestors, "writers": writers}
    processes.serve_parts(sys.argv, parts)
