"""The processes that wrote one execution, from the histories of its registers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cmf.graph import registers, views


def ranks(scope: str, history: Iterable[views.Write]) -> list[views.Rank]:
    """Return each process of each attempt, in their order. Only what the execution's own scope says counts."""
    writes: dict[str, list[registers.Write]] = {}
    for write in history:
        if write.scope == scope and not write.retracted and write.key.startswith((registers.STATUS, registers.PROCESS)):
            writes.setdefault(write.key, []).append(registers.Write(write.t, write.record.encode(), write.value))
    said: dict[tuple[str, int], dict[str, Any]] = {}
    for key, found in writes.items():
        place, counting = registers.split(key), registers.current(key, found)
        if place is None or counting is None or not isinstance(counting.value, dict):
            continue
        family = key.partition("/")[0]
        said.setdefault(place, {})[family] = counting.value
    order = sorted(said, key=lambda place: (registers.attempt_order(place[0]), place[1]))
    return [_rank(*place, said[place].get("status", {}), said[place].get("process", {})) for place in order]


def _rank(attempt: str, rank: int, status: dict[str, Any], process: dict[str, Any]) -> views.Rank:
    host = process.get("host")
    return views.Rank(
        attempt=attempt,
        rank=rank,
        status=registers.state(status),
        exit=_whole(status.get("exit")),
        signal=_whole(status.get("signal")),
        ended=_whole(status.get("ended")),
        host=host if isinstance(host, str) else "",
        site=registers.site(process),
    )


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
