"""What a pull of a part must have brought: judged by the reference fold over what the hub holds."""

import json
from collections.abc import Callable, Iterable
from typing import Any

from tests.reference_fold import Json, Reference, covers, node, scope_of

FILTERS: dict[str, Callable[[Json], bool]] = {
    "": lambda execution: True,
    "status = failed": lambda execution: execution["status"] == "failed",
    "params.loss >= 1": lambda execution: execution["params"].get("loss", -1) >= 1,
    "metrics.loss = 2": lambda execution: execution["metrics"].get("loss") == 2,
    "started >= 1000000": lambda execution: execution["started"] >= 1_000_000,
    "started < 1000000 and name = a": lambda e: e["started"] < 1_000_000 and e["name"] == "a",
}
"""Filters of executions as people write them, and what each means."""

Fact = tuple[str, bytes, bytes]


def told(facts: Iterable[Fact]) -> Reference:
    """Fold facts by the reference."""
    return Reference([(scope, id_.hex(), json.loads(data)) for scope, id_, data in facts])


def found(said: Reference, where: str, readable: Callable[[str], bool]) -> set[str]:
    """Return the executions that a filter finds where somebody may read."""
    return {
        name
        for name, execution in said.executions.items()
        if readable(scope_of(name)) and not execution["retracted"] and FILTERS[where](execution)
    }


def met(said: Reference, root: str, direction: str) -> set[str]:
    """Return the executions that a walk up or down from one meets, by steps that are sure."""
    reached, new = {root}, [root]
    while new:
        at = new.pop()
        for consumer, _, producer, how in said.edges:
            one, other = (consumer, producer) if direction == "up" else (producer, consumer)
            if one == at and other is not None and how != "possible" and other not in reached:
                reached.add(other)
                new.append(other)
    return reached


def about(said: Reference, executions: set[str]) -> set[tuple[str, bytes]]:
    """Return (scope, id) of what is visibly said about some executions: births, events, series and properties."""

    def is_about(scope: str, record: Any) -> bool:
        if record["kind"] == "property":
            subject = record["subject"]
            return subject in executions and covers(scope, scope_of(subject))
        return record["kind"] in ("execution", "event", "series") and node(scope, _of(record)) in executions

    return {(scope, bytes.fromhex(id_)) for (scope, id_), record in said.facts.items() if is_about(scope, record)}


def _of(record: Any) -> str:
    return str(record["id"] if record["kind"] == "execution" else record["execution"])
