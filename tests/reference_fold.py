"""What facts mean, said as plainly as possible: over dicts, from the whole set at once, with no index and no SQL.

`Reference` takes (scope, record id in hex, record as the JSON object that it is) in any order, any number of times.
Nothing of the code that it judges is used here, so that a mistake would have to be made twice, in two ways.
"""

import json
from collections import defaultdict
from typing import Any

Json = dict[str, Any]
Place = tuple[str, str, str]  # of a register: the node it is about, its key, and the scope that says it
BIRTH = ("id", "name", "command", "started", "params", "parent", "author")
OWN = ("status/", "process/", "param/", "metric/")
ENDED = ("finished", "failed", "killed")


def covers(prefix: str, scope: str) -> bool:
    return f"{scope}/".startswith(f"{prefix}/")


def node(scope: str, execution: str) -> str:
    return f"execution:{scope}:{execution}"


def pipeline(scope: str) -> str:
    return scope.rpartition("/")[0]


def scope_of(execution: str) -> str:
    return execution.split(":")[1]


def state(value: Any) -> Any:
    return value.get("status", "running") if isinstance(value, dict) else "running"


def redacts(record: Json) -> bool:
    """Tell whether a record is a redaction; what it is about is gone for ever, but a redaction itself stays."""
    about_record = record["kind"] == "property" and record["subject"].startswith("record:")
    return about_record and record["key"] == "redacted" and record.get("value") is True


def order(attempt: str) -> tuple[int, str]:
    return int(attempt.partition("-")[0]), attempt


def current(key: str, writes: list[tuple[int, str, Any]]) -> Any:
    """Last writer wins; `lost` gives way to the last state in which the run itself ended."""
    ranked = sorted(writes, key=lambda write: write[:2])
    ended = [write for write in ranked if key.startswith("status/") and state(write[2]) in ENDED]
    return ended[-1][2] if ended and state(ranked[-1][2]) == "lost" else ranked[-1][2]


def status(registers: Json) -> str:
    by_attempt = defaultdict(set)
    for key, value in registers.items():
        by_attempt[key.split("/")[1]].add(state(value))
    states = by_attempt[max(by_attempt, key=order)] if by_attempt else {"unknown"}
    return next((s for s in ("unknown", "failed", "killed", "lost", "running") if s in states), "finished")


class Reference:
    """The fold of some facts: ``registers``, ``executions``, ``events`` and ``links`` that are visible, ``edges``."""

    def __init__(self, facts: list[tuple[str, str, Json]]) -> None:
        told = {(scope, id_): record for scope, id_, record in facts}
        redacted = [(by, r["subject"]) for (by, _), r in told.items() if redacts(r)]
        self.facts = {
            (scope, id_): record
            for (scope, id_), record in told.items()
            if record["kind"] == "artifact"  # but a hash
            or redacts(record)
            or not any(about == f"record:{id_}" and covers(by, scope) for by, about in redacted)
        }
        self.retracted: set[tuple[str, str]] = set()
        said = self._writes(lambda key: key == "retracted")
        self.retracted = {(by, about) for (about, key, by), writes in said.items() if current(key, writes) is True}
        self.births: dict[str, list[Json]] = defaultdict(list)
        for (scope, _), birth in sorted(self._kept("execution").items(), key=lambda fact: fact[0][1]):
            self.births[node(scope, birth["id"])].append(birth)
        self.registers = self._last_points() | {
            (execution, f"param/{name}", scope_of(execution)): value
            for execution, births in self.births.items()
            for name, value in births[0].get("params", {}).items()
        }
        self.registers |= {at: current(at[1], writes) for at, writes in self._writes(lambda key: True).items()}
        self.executions = {execution: self._execution(execution) for execution in self.births}
        events = self._kept("event").items()
        self.events = {at: e for at, e in events if not self._hidden(node(at[0], e["execution"]), at[0])}
        self.links = self._kept("link")
        again = [(by, k["from"]) for (by, _), k in self.links.items() if k["rel"] == "reproduces"]
        self.reproductions = {e for by, e in again if e.startswith("execution:") and covers(by, scope_of(e))}
        self.edges = {step for at, event in self.events.items() for step in self._steps(*at, event)}

    def _hidden(self, subject: str, scope: str) -> bool:
        return any(about == subject and covers(by, scope) for by, about in self.retracted)

    def _kept(self, kind: str) -> dict[tuple[str, str], Json]:
        """Return the records of a kind that are not retracted; retractions themselves never are."""
        return {
            (scope, id_): fact
            for (scope, id_), fact in self.facts.items()
            if fact["kind"] == kind and (fact.get("key") == "retracted" or not self._hidden(f"record:{id_}", scope))
        }

    def _writes(self, wanted: Any) -> dict[Place, list[tuple[int, str, Any]]]:
        found = defaultdict(list)
        for (scope, id_), said in self._kept("property").items():
            about = f"scope:{scope}" if said["subject"] == "scope" else said["subject"]
            if wanted(said["key"]):
                found[about, said["key"], scope].append((said["t"], id_, said.get("value")))
        return found

    def _last_points(self) -> dict[Place, Any]:
        longest: dict[Any, tuple[str, str, Json]] = {}
        for (scope, id_), c in sorted(self._kept("series").items(), key=lambda at: (-at[1]["rows"], at[0][1])):
            longest.setdefault(
                (scope, *(str(c[k]) for k in ("execution", "names", "attempt", "rank", "first"))), (scope, id_, c)
            )
        found: dict[Place, Any] = {}
        by_time = [
            (order(c["attempt"]), c["times"][1], c["steps"][1], -c["rank"], id_, s) for s, id_, c in longest.values()
        ]
        for *_, id_, scope in sorted(by_time):
            chunk = self.facts[scope, id_]
            for name, stats in zip(chunk["names"], chunk["stats"], strict=True):
                found[node(scope, chunk["execution"]), f"metric/{name}", scope] = stats[0]
        return found

    def _execution(self, execution: str) -> Json:
        scope, births = scope_of(execution), self.births[execution]
        counting: Json = {}
        for (about, key, by), value in sorted(self.registers.items(), key=lambda register: len(register[0][2])):
            if about == execution and covers(by, scope) and (by == scope or not key.startswith(OWN)):
                counting[key] = value
        return {
            "name": births[0].get("name", ""),
            "started": births[0]["started"],
            "status": status({key: value for key, value in counting.items() if key.startswith("status/")}),
            "params": {key[6:]: value for key, value in counting.items() if key.startswith("param/")},
            "metrics": {key[7:]: value for key, value in counting.items() if key.startswith("metric/")},
            "properties": {k: v for k, v in counting.items() if not k.startswith(OWN) and k != "retracted"},
            "conflict": len({json.dumps([b.get(f) for f in BIRTH], sort_keys=True) for b in births}) > 1,
            "retracted": self._hidden(execution, scope),
        }

    def _steps(self, scope: str, id_: str, used: Json) -> list[tuple[str, str, str | None, str]]:
        """Return the steps up from one visible event, if it is an input: recorded ones, else by content."""
        if used["direction"] != "input":
            return []
        consumer, artifact = node(scope, used["execution"]), used["artifact"]
        same = [
            f"record:{i}"
            for (s, i), e in self.events.items()
            if s == scope and all(e[k] == used[k] for k in ("execution", "direction", "artifact"))
        ]
        via = [k for (by, _), k in self.links.items() if k["rel"] == "via" and k["from"] in same and covers(by, scope)]
        if via:
            return [(consumer, artifact, k["to"], "via") for k in via if k["from"] == f"record:{id_}"]
        large = [e for e in self.events.items() if {**e[1], **used}.get("size", 64) >= 64]
        made = [(s, e) for (s, _), e in large if (e["direction"], e["artifact"]) == ("output", artifact)]
        makers = {node(s, e["execution"]) for s, e in made} - {consumer, *self.reproductions}
        heard = {maker for maker in makers if covers(scope_of(maker), scope)}
        heard = heard or {maker for maker in makers if pipeline(scope_of(maker)) == pipeline(scope)}
        how = "content" if len(heard) == 1 else "possible"
        found: list[tuple[str, str, str | None, str]] = [(consumer, artifact, maker, how) for maker in heard]
        found += [(consumer, artifact, maker, "claimed") for maker in makers - heard]
        return found if heard else [*found, (consumer, artifact, None, "source")]
