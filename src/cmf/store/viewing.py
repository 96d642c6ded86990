"""From rows of the derived tables to the views that people see."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from cmf.graph import nodes, registers, views
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model

_json = msgspec.json.Decoder()

KEYS_KEPT = 16_384


def speaks_for(scope: str, execution_scope: str, key: str) -> bool:
    """Tell whether what a scope says of an execution counts: its own always, one above it mostly."""
    return scope == execution_scope or (model.covers(scope, execution_scope) and not _own_only(key))


_OWN_ONLY = (registers.STATUS, registers.PROCESS, registers.TERMINAL, registers.PARAM, registers.METRIC)


def _own_only(key: str) -> bool:
    return key.startswith(_OWN_ONLY)


def use_view(row: Sequence[Any]) -> views.Use:
    """Return an event as people see it; its columns are those of the index's question."""
    digest, direction, execution, path, name, type_, role, size, t, more, event = row
    node, scope = _execution(execution)
    extra = _json.decode(more) if more else {}
    return views.Use(
        artifact=_digest(digest),
        direction="output" if direction else "input",
        execution=node,
        scope=scope,
        path=path,
        name=name,
        type=type_,
        role=role,
        size=size,
        t=t,
        attributes=encoding.from_value(extra["attributes"]) if "attributes" in extra else {},
        pointer=extra.get("pointer", {}),
        event=event[1:].hex(),
    )


@functools.lru_cache(KEYS_KEPT)
def _execution(key: bytes) -> tuple[str, str]:
    """Return the node and the scope of an execution: each is met once for every event of its own."""
    node = nodes.node_text(key)
    split = model.split_execution(node)
    return node, split[0] if split else ""


_digest = functools.lru_cache(KEYS_KEPT)(digests.unpack)


def execution_view(
    key: bytes, birth: Sequence[Any] | None, properties: Mapping[str, str], uses: Sequence[views.Use]
) -> views.Execution:
    """Return an execution as people see it, of its row with the birth's bytes (None: promised) and its registers."""
    node = nodes.node_text(key)
    split = model.split_execution(node)
    assert split is not None
    # By family, each once: what is asked of one family goes over that one alone.
    families: dict[str, dict[str, Any]] = {family: {} for family in (*_OWN_ONLY, "")}
    for key_, value in sorted(properties.items()):
        family = key_[: key_.find("/") + 1]
        families[family if family in families else ""][key_] = _json.decode(value)
    status = registers.status(families[registers.STATUS])
    process = registers.process(families[registers.PROCESS], status.attempt)
    record = model.trusted(birth[-1]) if birth else None
    assert record is None or isinstance(record, model.Execution)
    environment, code, error = process.get("environment"), process.get("code"), status.value.get("error")
    return views.Execution(
        node=node,
        id=split[1],
        scope=split[0],
        name=record.name if record else "",
        status=status.state,
        exit=status.exit,
        started=record.started if record else None,
        ended=status.ended,
        heard=heard if isinstance(heard := status.value.get("heard"), int) else None,
        site=registers.site(process),
        host=str(process.get("host", "")),
        author=(record.author if record else "") or registers.user(process),
        command=tuple(record.command) if record else (),
        parent=record.parent if record else "",
        params=_named(families, registers.PARAM),
        metrics={
            name: value
            for name, value in _named(families, registers.METRIC).items()
            if not name.startswith(registers.SYSTEM)
        },
        inputs=tuple(use for use in uses if use.direction == "input"),
        outputs=tuple(use for use in uses if use.direction == "output"),
        code=code if isinstance(code, dict) else {},
        environment=str(environment.get("$object", "")) if isinstance(environment, dict) else "",
        process={key: value for key, value in process.items() if key not in ("code", "environment")},
        terminal=dict(registers.terminal(families[registers.TERMINAL], status.attempt)),
        error=error if isinstance(error, dict) else {},
        properties={k: encoding.from_value(v) for k, v in families[""].items() if k != registers.RETRACTED},
        attempts=tuple(
            sorted(
                {place[0] for k in families[registers.STATUS] if (place := registers.split(k))},
                key=registers.attempt_order,
            )
        ),
        conflict=bool(birth[0]) if birth else False,
        retracted=bool(birth[1]) if birth else False,
        known=birth is not None,
    )


def _named(families: Mapping[str, Mapping[str, Any]], family: str) -> dict[str, Any]:
    return {key[len(family) :]: encoding.from_value(value) for key, value in families[family].items()}
