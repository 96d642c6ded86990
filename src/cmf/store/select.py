"""A `Query` as SQL: which rows of the execution table, newest first, from a cursor on.

The walk starts at the most selective condition with a small posting list, else at the newest execution, and stops
after a budget of rows, so that no filter can hold a hub: the page then says that it is not complete.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from cmf.errors import UsageError
from cmf.graph.filter import Condition, Query
from cmf.model import records as model
from cmf.model.exchange import View
from cmf.store.dialect import EACH, array

POSTINGS_MAX = 3_000
SCAN_ROWS = 200_000
PART_ROWS = 10_000
"""How many executions are asked for at once, at most, while few of them are of the wanted scopes."""

_SHORT_DIGITS = 12
_SHORT = re.compile(r"[0-9a-f]{4,12}")

_COLUMNS = {"id": "x.id", "name": "x.name", "status": "x.status", "site": "x.site", "author": "x.author"}
_SQL_OPERATORS = {"=": "=", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


class Selection:
    """One query taken apart: SQL for a page of (e, started, id), and its arguments."""

    def __init__(self, query: Query) -> None:
        self.query = query
        self.where: list[str] = ["x.hidden = 0"]
        self.arguments: list[Any] = []
        for condition in query.conditions:
            self._add(condition)
        self.posting = [c for c in query.conditions if "." in c.field or _is_of_one_parent(c)]

    @property
    def can_refuse(self) -> bool:
        """Tell whether this can pass over more than a few executions: only then does a scan need a budget."""
        return bool(self.query.conditions or self.query.scopes or self.query.below is not None)

    def sql(
        self, *, among: Sequence[int] | None, after: Place | None, until: tuple[int, str] | None, limit: int
    ) -> tuple[str, list[Any]]:
        """Return the statement for the first executions behind a place, not behind ``until``; ``among``: only these."""
        where, arguments = list(self.where), list(self.arguments)
        if among is not None:
            where.insert(0, f"x.e IN (SELECT value FROM {EACH})")
            arguments.insert(0, array(among))
        if after is not None:
            # Two scopes may birth one id at one time: then the scope decides, and a page may end between the two.
            where.append("(x.started, x.id) <= (?, ?) AND NOT (x.started = ? AND x.id = ? AND w.key >= ?)")
            arguments += (after.started, after.id, after.started, after.id, b"s" + after.scope.encode())
        if until is not None:
            where.append("(x.started, x.id) >= (?, ?)")
            arguments += until
        return (
            "SELECT x.e, x.started, x.id, w.key FROM execution x JOIN node w ON w.i = x.s WHERE "
            + " AND ".join(where)
            + " ORDER BY x.started DESC, x.id DESC, w.key DESC LIMIT ?",
            [*arguments, limit],
        )

    def posted(self, condition: Condition) -> tuple[str, list[Any]]:
        """Return the statement for the executions that satisfy one of ``posting``, `POSTINGS_MAX` + 1 at most."""
        if condition.field == "parent":
            test, arguments = _parent_test(condition, self.query.below)
            return f"SELECT x.e FROM execution x WHERE {test} LIMIT {POSTINGS_MAX + 1}", arguments
        test, arguments = _register_test(condition)
        # In the order of an index: a database that expects many rows would read the whole table, and find few.
        order = "" if isinstance(condition.value, str) else " ORDER BY r.number"
        return f"SELECT r.subject FROM register r WHERE {test}{order} LIMIT {POSTINGS_MAX + 1}", arguments

    def _add(self, condition: Condition) -> None:
        operator = _SQL_OPERATORS[condition.operator]
        if "." in condition.field:
            test, arguments = _register_test(condition)
            self.where.append(f"EXISTS (SELECT 1 FROM register r WHERE r.subject = x.e AND r.s = x.s AND {test})")
            self.arguments += arguments
        elif condition.field == "parent":
            test, arguments = _parent_test(condition, self.query.below)
            self.where.append(test)
            self.arguments += arguments
        elif condition.field in _COLUMNS:
            self.where.append(f"{_COLUMNS[condition.field]} {operator} ?")
            self.arguments.append(str(condition.value))
        elif condition.field == "started":
            self.where.append(f"x.started {operator} ?")
            self.arguments.append(condition.value)
        elif condition.field == "duration":
            self.where.append(f"(x.ended - x.started) {operator} ?")
            self.arguments.append(float(condition.value) * 1e6)

    def accepts(self, scope: str) -> bool:
        """Tell whether an execution's scope satisfies the query: what the SQL leaves to this side."""
        values = {"scope": scope, "pipeline": scope.rpartition("/")[0], "stage": scope.rpartition("/")[2]}
        return View(scopes=self.query.scopes, below=self.query.below).covers(scope) and all(
            _compare(values[condition.field], condition.operator, str(condition.value))
            for condition in self.query.conditions
            if condition.field in values
        )

    @property
    def needs_scopes(self) -> bool:
        """Tell whether `accepts` can refuse anything."""
        return bool(self.query.scopes or self.query.below is not None) or any(
            c.field in ("scope", "pipeline", "stage") for c in self.query.conditions
        )


def _register_test(condition: Condition) -> tuple[str, list[Any]]:
    family, _, name = condition.field.partition(".")
    key = ("param/" if family == "params" else "metric/") + name
    operator = _SQL_OPERATORS[condition.operator]
    if isinstance(condition.value, str):
        return f"r.key = ? AND r.text {operator} ?", [key, condition.value]
    return f"r.key = ? AND r.number {operator} ?", [key, float(condition.value)]


def _is_of_one_parent(condition: Condition) -> bool:
    return condition.field == "parent" and condition.operator == "=" and condition.value != ""


def _parent_test(condition: Condition, below: tuple[str, ...] | None) -> tuple[str, list[Any]]:
    """Return the test for children of what a text names: a node, an id or its first digits, a name; "" for none.

    Only what lies ``below`` has a name: who may read a child alone must not find out how its parent is called.
    """
    text = str(condition.value)
    operator = "=" if condition.operator == "=" else "<>"
    if not text:
        return f"x.parent {operator} ''", []
    split = model.split_execution(text)
    id_ = split[1] if split else text
    known, keys = "SELECT p.id FROM execution p", []
    if below is not None and "" not in below:
        one = "w.key = ? OR (w.key >= ? AND w.key < ?)"
        known += f" JOIN node w ON w.i = p.s AND ({' OR '.join([one] * len(below)) or '1 = 0'})"
        # '0' comes next after '/': this is all that begins with the prefix and a '/'.
        keys = [b"s" + prefix.encode() + end for prefix in below for end in (b"", b"/", b"0")]
    named = f"x.parent <> '' AND x.parent IN (SELECT ? UNION {known} WHERE p.name = ?"
    arguments: list[Any] = [id_, *keys, text]
    if _SHORT.fullmatch(text):
        named += f" UNION {known} WHERE p.short >= ? AND p.short <= ?"
        arguments += [*keys, text, text + "f" * (_SHORT_DIGITS - len(text))]
    return (f"({named}))" if operator == "=" else f"NOT ({named}))"), arguments


def _compare(left: str, operator: str, right: str) -> bool:
    if operator in ("=", "!="):
        return (left == right) == (operator == "=")
    if operator in ("<", "<="):
        return left < right or (operator == "<=" and left == right)
    return left > right or (operator == ">=" and left == right)


class Place(NamedTuple):
    """Where an execution stands in the order of lists: newest first, then greatest id, then greatest scope."""

    started: int
    id: str
    scope: str


def to_cursor(place: Place) -> str:
    """Return where a page ended, as text."""
    return f"{place.started}.{place.id}.{place.scope}"


def from_cursor(text: str) -> Place | None:
    """Read a page's cursor; None for the start."""
    if not text:
        return None
    started, _, rest = text.partition(".")
    execution_id, dot, scope = rest.partition(".")
    if not (started.isascii() and started.isdigit() and len(started) < 18 and execution_id and dot):
        raise UsageError(f"'{text[:80]}' is not a page's cursor.", hint="Pass on the cursor of the page before.")
    return Place(int(started), execution_id, scope)
