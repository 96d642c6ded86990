"""W5 and W6: push to a real hub and pull from it, on the loopback interface.

Times are taken straight from hub to site. Bytes are counted in moves of their own, through a relay.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from benchmarks import network, processes, work
from tests import databases

MODULE = "benchmarks.workloads.sync"


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the figures of W5 and W6, with a hub on its own file and with one on PostgreSQL."""
    found = _measured("", tiny=tiny)
    with databases.running() as server:
        return found | {f"{key}_postgres": values for key, values in _measured(server, tiny=tiny).items()}


class _Hub(NamedTuple):
    """A hub that runs: its URL, its folder, and its database if that is elsewhere."""

    url: str
    folder: Path
    database: str


@contextlib.contextmanager
def _hub(folder: Path, name: str, server: str) -> Iterator[_Hub]:
    database = databases.another(server) if server else ""
    with network.hub(folder, name, database) as url:
        yield _Hub(url, folder / name, database)


def _measured(server: str, *, tiny: bool) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    with processes.empty_folder() as folder:
        processes.repository(folder)
        processes.part(MODULE, "fill", folder, tiny=tiny)
        for repeat in range(work.sizes(tiny=tiny).repeats):
            # Each repetition is the first push of an untouched copy, to a hub that holds nothing.
            site = folder / f"site{repeat}"
            shutil.copytree(folder / "work", site, symlinks=True)
            with _hub(folder, f"hub{repeat}", server) as hub:
                told = {"url": hub.url}
                _add(found, processes.part(MODULE, "first", folder, tiny=tiny, work=site, told=told))
                if repeat == 0:
                    _add(found, _more(folder, site, hub, tiny=tiny))
        with _hub(folder, "counted", server) as hub, network.Relay(_port(hub.url)) as relay:
            _add(found, _first_counted(folder, relay, hub, tiny=tiny))
    return found


def _more(folder: Path, site: Path, hub: _Hub, *, tiny: bool) -> dict[str, list[float]]:
    """Push one more and nothing new, some times over, then pull it all and one of it into empty stores."""
    with network.Relay(_port(hub.url)) as relay:
        _join(folder, site, relay, hub)
        told = {"url": hub.url, "counted": "counted", "counter": str(relay.counter)}
        found = processes.part(MODULE, "again", folder, tiny=tiny, work=site, told=told)
    wanted = {"url": hub.url, "one": found.pop("one"), "count": str(found.pop("count"))}
    return found | processes.part(MODULE, "pulls", folder, tiny=tiny, told=wanted)


def _first_counted(folder: Path, relay: network.Relay, hub: _Hub, *, tiny: bool) -> dict[str, list[float]]:
    """Count the bytes of a first push, and of a pull of all of it."""
    _join(folder, folder / "work", relay, hub)
    told = {"url": "counted", "counter": str(relay.counter)}
    pushed = processes.part(MODULE, "first", folder, tiny=tiny, told=told)
    empty = folder / "empty"
    empty.mkdir()
    processes.run((sys.executable, "-m", "cmf", "init"), folder, work=empty)
    _join(folder, empty, relay, hub)
    before = sum(relay.counts.values())
    processes.run((sys.executable, "-m", "cmf", "pull", "counted"), folder, work=empty)
    return {"push_first_bytes": pushed["bytes"], "pull_all_bytes": [(sum(relay.counts.values()) - before) / 1000]}


def _join(folder: Path, site: Path, relay: network.Relay, hub: _Hub) -> None:
    """Let a site join a hub through the relay: a hub's own user is only known at its own port."""
    cmf = (sys.executable, "-m", "cmf")
    where = ("--folder", hub.folder, *(("--database", hub.database) if hub.database else ()))
    code = processes.run((*cmf, "hub", "invite", *where, "bench"), folder).split()[0]
    url = f"http://{network.LOOPBACK}:{relay.port}"
    processes.run((*cmf, "remote", "add", "counted", url, "--invite", code), folder, work=site)


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


def _add(found: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    for key, values in more.items():
        found.setdefault(key, []).extend(values)


# ---- the processes that are measured -------------------------------------------------------------------------------


def fill(*, tiny: bool) -> dict[str, int]:
    """Record the executions that are pushed; nothing collects them yet."""
    from benchmarks.workloads import record

    return {"recorded": len(record.record(range(work.sizes(tiny=tiny).pushed)))}


def first(*, tiny: bool, url: str, counter: str = "") -> dict[str, list[float]]:
    """Push everything for the first time: taking in what was recorded, sealing and sending it.

    It is done when another push finds nothing to send; that last look is not counted.
    """
    import cmf

    total, sent, segments = 0.0, 0, 0
    with cmf.open() as repo:
        while True:
            before = network.passed(int(counter)) if counter else 0
            started = time.perf_counter()
            moved = repo.push(url)
            taken = time.perf_counter() - started
            if not (moved.segments or moved.objects):
                break
            total += taken
            segments += moved.segments
            sent += network.passed(int(counter)) - before if counter else 0
        if moved.refused or not segments or repo.status().counts["execution"] != work.sizes(tiny=tiny).pushed:
            raise RuntimeError(f"Not everything was sent: {moved}")
    return {"bytes": [sent / 1000]} if counter else {"push_first": [total]}


def again(*, tiny: bool, url: str, counted: str, counter: str) -> dict[str, object]:
    """Push one more execution, or nothing new, from a process that is running already."""
    import cmf
    from benchmarks.workloads import record

    size = work.sizes(tiny=tiny)
    number = size.pushed
    found: dict[str, list[float]] = {}
    with cmf.open() as repo:
        one = repo.executions()[0].id
        for key, new in (("push_one", 1), ("push_nothing", 0)):
            for _ in range(size.small_moves):
                for remote in (url, counted):
                    record.record(range(number, number + new))
                    number += new
                    before = network.passed(int(counter))
                    started = time.perf_counter()
                    moved = repo.push(remote)
                    taken = time.perf_counter() - started
                    if bool(moved.segments) != bool(new) or bool(moved.objects) != bool(new) or moved.refused:
                        raise RuntimeError(f"A push of {new} executions did this: {moved}")
                    if remote == url:
                        found.setdefault(key, []).append(1000 * taken)
                    else:
                        found.setdefault(f"{key}_bytes", []).append((network.passed(int(counter)) - before) / 1000)
    return {**found, "one": one, "count": number}


def pulls(*, tiny: bool, url: str, one: str, count: str) -> dict[str, list[float]]:
    """Pull everything, and one execution with what it came from, into stores that are empty."""
    repeats = work.sizes(tiny=tiny).repeats
    everything = [_pull(Path(f"all{n}"), url, "", one, int(count)) for n in range(repeats)]
    # It comes in the segments that hold it, whole: what else is in them comes too.
    single = [1000 * _pull(Path(f"one{n}"), url, one, one, 1) for n in range(5 * repeats)]
    return {"pull_all": everything, "pull_one": single}


def _pull(folder: Path, url: str, ancestors: str, one: str, least: int) -> float:
    import cmf

    folder.mkdir()
    with cmf.init(folder) as repo:
        started = time.perf_counter()
        repo.pull_lineage(ancestors, remote=url) if ancestors else repo.pull(url)
        taken = time.perf_counter() - started
        found = repo.executions()
        if len(found) < least or not repo.execution(one).outputs:
            raise RuntimeError(f"{len(found)} executions were pulled, of {least} asked for.")
    return taken


PARTS: dict[str, Callable[..., object]] = {"fill": fill, "first": first, "again": again, "pulls": pulls}

if __name__ == "__main__":
    processes.serve_parts(sys.argv, PARTS)
