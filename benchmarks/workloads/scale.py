"""W8 and W10: a hub that holds much: pages of lists, its start and memory; 10^6 records pushed, and folded anew."""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import network, processes, work
from tests import databases

MODULE = "benchmarks.workloads.scale"
AT_ONCE = 10_000
FILTERS = {
    "page": "",
    "page_selective": "metrics.f1 > 0.9999",
    "page_broad": "params.lr = 0.001 and status = finished",
    "page_none": 'params.optimizer = "sgd" and metrics.f1 > 2',
}


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W8 and W10, with a hub on its own file and with one on PostgreSQL."""
    found = _measured("", tiny=tiny)
    with databases.running() as server:
        return found | {f"{key}_postgres": values for key, values in _measured(server, tiny=tiny).items()}


def _measured(server: str, *, tiny: bool) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    size = work.sizes(tiny=tiny)
    for label, count in zip(("small", "middle", "large"), size.listed, strict=True):
        with processes.empty_folder() as folder:
            database = databases.another(server) if server else ""
            told = {"folder": str(folder / "hub"), "database": database, "count": str(count)}
            if label == "small":
                found |= _started(folder, database, "empty", size.repeats)
            processes.part(MODULE, "fill", folder, tiny=tiny, told=told)
            if label == "large":
                found |= _started(folder, database, "full", size.repeats)
            with network.hub(folder, "hub", database) as url:
                asked = processes.part(MODULE, "pages", folder, tiny=tiny, told={"url": url, "count": str(count)})
                shown = asked if label == "large" else {"page": asked["page"]}
                found |= {f"{key}_{label}": values for key, values in shown.items()}
                if label == "large":
                    found["memory_full"] = [_resident(folder, url)]
    with processes.empty_folder() as folder:
        processes.repository(folder)
        database = databases.another(server) if server else ""
        processes.part(MODULE, "write", folder, tiny=tiny)
        with network.hub(folder, "hub", database) as url:
            found |= processes.part(MODULE, "push", folder, tiny=tiny, told={"url": url})
        told = {"folder": str(folder / "hub"), "database": database}
        found |= processes.part(MODULE, "rebuild", folder, tiny=tiny, told=told)
    return found


def _started(folder: Path, database: str, label: str, repeats: int) -> dict[str, list[float]]:
    """Start a hub some times; return the seconds until it is ready, and of an empty one the memory too."""
    taken, resident = [], []
    for _ in range(repeats):
        started = time.perf_counter()
        with network.hub(folder, "hub", database) as url:
            taken.append(time.perf_counter() - started)
            resident.append(_resident(folder, url))
    return {f"start_{label}": taken} | ({"memory_empty": resident} if label == "empty" else {})


def _resident(folder: Path, url: str) -> float:
    """Return the MiB that a hub's process holds, which is named where a hub's own user finds it."""
    port = url.rpartition(":")[2]
    (known,) = folder.rglob(f"hubs/{port}.json")
    status = Path("/proc", str(json.loads(known.read_text(encoding="utf-8"))["pid"]), "status")
    return next(int(line.split()[1]) for line in status.read_text("utf-8").splitlines() if "VmRSS" in line) / 1024


# ---- the processes that are measured -------------------------------------------------------------------------------


def _executions(count: int, secret: bytes, scope: str, *, whole: bool) -> Iterator[tuple[bytes, bytes, int | None]]:
    """Yield the records of some executions, salted: of each a birth with ten params, a metric and a status.

    ``whole``: with two files and three metrics more, ten records in all.
    """
    from cmf.model import digest as digests
    from cmf.model import records as model

    for n in range(count):
        id_ = f"0193{n >> 32:04x}-{n >> 16 & 0xFFFF:04x}-7000-8000-{n:012x}"
        node = model.execution_node(scope, id_)
        t = 1_000_000 + n
        made: list[model.Record] = [
            model.Execution(id=id_, name=f"run-{n}", started=t, params=work.params(n)),
            model.Property(subject=node, key="metric/f1", value=n % 100_003 / 100_003, t=t),
            model.Property(subject=node, key="status/1-aaaaaaaa/0", value={"status": "finished", "exit": 0}, t=t + 1),
        ]
        if whole:
            for direction in ("input", "output"):
                digest = digests.file_digest(f"{direction}-{n}".encode())
                made.append(model.Artifact(digest=digest))
                made.append(
                    model.Event(
                        execution=id_,
                        direction="input" if direction == "input" else "output",
                        artifact=digest,
                        path=f"{direction}-{n}",
                        size=1000,
                        t=t,
                    )
                )
            metrics = ("metric/loss", "metric/recall", "metric/precision")
            made += [model.Property(subject=node, key=key, value=0.5, t=t) for key in metrics]
        for record in made:
            yield *model.salted(record, secret), model.time_of(record)


def fill(*, folder: str, database: str, count: str, **_: object) -> dict[str, int]:
    """Let a hub that does not run take in sealed segments of one site."""
    from cmf import signing
    from cmf.hub.service import Hub
    from cmf.model import segment as segments
    from cmf.transfer import LocalPeer

    key, scope = signing.Key(b"k" * 32), "bench/train"
    start = segments.start(scope, "bench", key, created=1, nonce=b"n" * 16)

    def sealed() -> Iterator[bytes]:
        yield segments.to_wire(start)
        last = start
        rows = _executions(int(count), b"s" * 32, scope, whole=False)
        for n in itertools.count(1):
            batch = list(itertools.islice(rows, 900))
            if not batch:
                return
            last = segments.seal(start.hash, last.hash, n, batch, key, now=n)
            yield segments.to_wire(last)

    with contextlib.closing(Hub(Path(folder), database)) as hub:
        refused = [found for found in LocalPeer(hub.store).admit(sealed()) if found.outcome == "refused"]
        if refused:
            raise RuntimeError(f"A segment was refused: {refused[0]}")
        return {"held": hub.store.counts()["execution"]}


def pages(*, tiny: bool, url: str, count: str) -> dict[str, list[float]]:
    """Ask for a page of 100 executions, some times each: of all, and of those that filters of several kinds let by."""
    import cmf

    found: dict[str, list[float]] = {}
    with cmf.init() as repo:
        for key, text in FILTERS.items():
            first = len(repo.page(text, remote=url).executions)
            if not text and first != min(100, int(count)):
                raise RuntimeError(f"A page of {first} executions came.")
            for _ in range(work.sizes(tiny=tiny).reads):
                started = time.perf_counter()
                repo.page(text, remote=url)
                found.setdefault(key, []).append(1000 * (time.perf_counter() - started))
    return found


def write(*, tiny: bool) -> dict[str, int]:
    """Commit a million records at a site, as the collector does; nothing is sealed yet."""
    import cmf
    from cmf import collect

    scope, size = "bench/train", work.sizes(tiny=tiny)
    with cmf.init() as repo:
        rows = _executions(size.mass_executions, collect.site(repo.folder).secret, scope, whole=True)
        while batch := [(scope, id_, data) for id_, data, _ in itertools.islice(rows, AT_ONCE)]:
            repo.store.add(batch)
            repo.store.fold_pending()
        return {"held": repo.store.counts()["execution"]}


def push(*, tiny: bool, url: str) -> dict[str, list[float]]:
    """Seal and push everything until all is acknowledged."""
    import resource

    import cmf

    with cmf.open() as repo:
        repo.collect()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        started = time.perf_counter()
        moved = repo.push(url)
        taken = time.perf_counter() - started
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if moved.refused or moved.records < 10 * work.sizes(tiny=tiny).mass_executions:
            raise RuntimeError(f"Not everything was sent: {moved}")
    return {"million_pushed": [taken], "million_memory": [(after - before) / 1024]}


def rebuild(*, tiny: bool, folder: str, database: str) -> dict[str, list[float]]:
    """Fold all that the hub holds from nothing."""
    from cmf.hub.service import Hub

    with contextlib.closing(Hub(Path(folder), database)) as hub:
        started = time.perf_counter()
        count = hub.store.rebuild()
        taken = time.perf_counter() - started
    if count < 10 * work.sizes(tiny=tiny).mass_executions:
        raise RuntimeError(f"Only {count} records were folded.")
    return {"million_folded": [taken]}


PARTS: dict[str, Callable[..., object]] = {
    "fill": fill, "pages": pages, "write": write, "push": push, "rebuild": rebuild
}  # fmt: skip

if __name__ == "__main__":
    processes.serve_parts(sys.argv, PARTS)
