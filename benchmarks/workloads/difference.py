"""W5: what the next move costs with much in the hub, to what it costs with little: it should follow the difference.

Three hubs that hold more and more run side by side, each with a site of its own. The moves take turns, so that whatever
else the machine does befalls them alike, and each is compared with the move to the smallest hub just before it.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from benchmarks import network, processes, work
from benchmarks.workloads import scale
from tests import databases

if TYPE_CHECKING:
    from cmf.moving import Moved
    from cmf.repo import Repo

MODULE = "benchmarks.workloads.difference"
SCOPE = "mine/train"
HUBS = ("small", "middle", "large")
MOVES = ("push", "nothing", "pull")
_T = TypeVar("_T")
RECORDS_EACH = 3
"""How many records the executions have with which a hub is filled."""


def measure(*, tiny: bool) -> dict[str, list[float]]:
    """Return the ratios of all moves, with hubs on their own files and with hubs on PostgreSQL."""
    found = _measured("", tiny=tiny)
    with databases.running() as server:
        return found | {f"{key}_postgres": values for key, values in _measured(server, tiny=tiny).items()}


def _measured(server: str, *, tiny: bool) -> dict[str, list[float]]:
    with processes.empty_folder() as folder, contextlib.ExitStack() as running:
        stores = {name: databases.another(server) if server else "" for name in HUBS}
        processes.part(MODULE, "fill", folder, tiny=tiny, told={"folder": str(folder), **stores})
        urls = {name: running.enter_context(network.hub(folder, name, at)) for name, at in stores.items()}
        return processes.part(MODULE, "moves", folder, tiny=tiny, told=urls)


# ---- the processes that are measured -------------------------------------------------------------------------------


def fill(*, tiny: bool, folder: str, **where: str) -> dict[str, int]:
    """Let three hubs that do not run take in more and more; ``where``: the database of each."""
    for name, records in zip(HUBS, work.sizes(tiny=tiny).held, strict=True):
        scale.fill(folder=str(Path(folder) / name), database=where[name], count=str(records // RECORDS_EACH))
    return {"hubs": len(HUBS)}


def moves(*, tiny: bool, small: str, middle: str, large: str) -> dict[str, list[float]]:
    """Push one execution, push and pull nothing new, and pull one into an empty store, at each hub in turn."""
    import cmf
    from benchmarks.workloads import record

    start, urls = Path.cwd(), dict(zip(HUBS, (small, middle, large), strict=True))
    for name in HUBS:
        site = start / name
        site.mkdir()
        cmf.init(site).close()
        (site / "train.py").write_text("print('training')\n", encoding="utf-8")
    taken: dict[str, dict[str, list[float]]] = {move: {name: [] for name in HUBS} for move in MOVES}
    for turn in range(work.sizes(tiny=tiny).small_moves + 1):  # the first meets hubs that it does not know yet
        for name, url in urls.items():
            os.chdir(start / name)
            record.record(range(turn, turn + 1), SCOPE)
            with cmf.open() as repo:
                pushed = _timed(taken["push"][name], repo.push, url)
                nothing = _timed(taken["nothing"][name], _nothing, repo, url)
                one = repo.executions()[0].id
            if not pushed.segments or pushed.refused or any(moved.segments or moved.objects for moved in nothing):
                raise RuntimeError(f"The pushes did this: {pushed}, {nothing}")
            (start / name / f"empty{turn}").mkdir()
            with cmf.init(start / name / f"empty{turn}") as repo:
                _timed(taken["pull"][name], repo.pull_lineage, one, remote=url)
                if len(repo.executions()) != 1:
                    raise RuntimeError(f"{len(repo.executions())} executions were pulled.")
    os.chdir(start)
    found = {}
    for move, at in taken.items():
        least = at["small"][1:]
        found[f"difference_{move}_least"] = [1000 * seconds for seconds in least]
        for name in HUBS[1:]:
            found[f"difference_{move}_{name}"] = [more / less for more, less in zip(at[name][1:], least, strict=True)]
    return found


def _nothing(repo: Repo, url: str) -> tuple[Moved, Moved]:
    return repo.pull(url, scopes=(SCOPE,)), repo.push(url)


def _timed(taken: list[float], move: Callable[..., _T], *arguments: Any, **options: Any) -> _T:
    started = time.perf_counter()
    done = move(*arguments, **options)
    taken.append(time.perf_counter() - started)
    return done


PARTS: dict[str, Callable[..., object]] = {"fill": fill, "moves": moves}

if __name__ == "__main__":
    processes.serve_parts(sys.argv, PARTS)
