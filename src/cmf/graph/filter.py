"""The filter language: text -> `Query`.

A filter is comparisons joined by ``and``: a field, ``params.NAME`` or ``metrics.NAME``; one of ``= != < <= > >=``; a
number, a quoted or bare word, true or false. ``started`` compares with a date (``2026-11-23`` or
``2026-11-23T10:00``, UTC); ``duration`` is in seconds. ``parent`` is an execution's id, its first digits, or its name.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from cmf.errors import UsageError

Operator = Literal["=", "!=", "<", "<=", ">", ">="]
FIELDS = ("id", "name", "scope", "pipeline", "stage", "status", "site", "author", "parent", "started", "duration")
NUMBERS = ("started", "duration")
PAGE_MAX = 10_000
CONDITIONS_MAX = 32

_TOKEN = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|==|=|<|>)|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[^\s<>=!"']+))"""
)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?inf")
_DATE = re.compile(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d))?Z?)?")


class Condition(msgspec.Struct, frozen=True):
    """One comparison. ``field`` is one of `FIELDS`, ``params.NAME`` or ``metrics.NAME``."""

    field: str
    operator: Operator
    value: float | str | bool


class Query(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which executions, how many, and from where on: ``cursor`` is what the last page gave.

    ``scopes`` are globs; ``below`` are the prefixes that the asker may read (None: everything).
    """

    conditions: tuple[Condition, ...] = ()
    scopes: tuple[str, ...] = ()
    below: tuple[str, ...] | None = None
    limit: int = 100
    cursor: str = ""


def parse(text: str, *, scopes: tuple[str, ...] = (), limit: int = 100, cursor: str = "") -> Query:
    """Return the query that a filter spells; raise `UsageError` that points at what is wrong."""
    if not 1 <= limit <= PAGE_MAX:
        raise UsageError(f"A page of {limit} executions is not possible.", hint=f"Ask for 1 to {PAGE_MAX}.")
    conditions: list[Condition] = []
    tokens = _tokens(text)
    at = 0
    while at < len(tokens):
        if conditions:
            if tokens[at] != ("word", "and"):
                raise _wrong(text, f"expected 'and' before '{tokens[at][1]}'")
            at += 1
        if len(tokens) - at < 3 or tokens[at][0] != "word" or tokens[at + 1][0] != "op" or tokens[at + 2][0] == "op":
            rest = " ".join(token for _, token in tokens[at : at + 3])
            raise _wrong(text, f"'{rest}' is not a comparison" if rest else "a comparison is missing at the end")
        conditions.append(_condition(text, tokens[at][1], tokens[at + 1][1], tokens[at + 2]))
        at += 3
    if len(conditions) > CONDITIONS_MAX:
        raise _wrong(text[:80], f"it has more than {CONDITIONS_MAX} comparisons")
    return Query(conditions=tuple(conditions), scopes=scopes, limit=limit, cursor=cursor)


def _tokens(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    at = 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise _wrong(text, f"'{text[at : at + 20].strip()}' cannot be read")
        kind = str(match.lastgroup)
        token = match[kind]
        if kind == "text":
            token = re.sub(r"\\(.)", r"\1", token[1:-1])
        found.append((kind, token))
        at = match.end()
    return found


def _condition(text: str, field: str, operator: str, value: tuple[str, str]) -> Condition:
    operator = "=" if operator == "==" else operator
    family, _, name = field.partition(".")
    if not (field in FIELDS or (family in ("params", "metrics") and name)):
        raise _wrong(text, f"'{field}' is not a field")
    if field == "parent" and operator not in ("=", "!="):
        raise _wrong(text, "'parent' takes = or !=")
    assert operator in ("=", "!=", "<", "<=", ">", ">=")
    return Condition(field, operator, _value(text, field, value))  # type: ignore[arg-type]  # checked just above


def _value(text: str, field: str, token: tuple[str, str]) -> float | str | bool:
    kind, word = token
    if field == "started" and (match := _DATE.fullmatch(word)):
        moment = _microseconds(*(int(part or 0) for part in match.groups()))
        if moment is None:
            raise _wrong(text, f"'{word}' is not a date")
        return moment
    if kind == "text":
        if field in NUMBERS:
            raise _wrong(text, f"'{field}' compares with a number{' or a date' if field == 'started' else ''}")
        return word
    if _NUMBER.fullmatch(word):
        return float(word) if field in NUMBERS or "." in field else word
    if word in ("true", "false") and "." in field:
        return word == "true"
    if field in NUMBERS:
        raise _wrong(text, f"'{field}' compares with a number{' or a date' if field == 'started' else ''}")
    return word


def _microseconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float | None:
    """Return µs since 1970 of a UTC date, or None if the calendar has no such date."""
    if not (1 <= month <= 12 and hour < 24 and minute < 60 and second < 60):
        return None
    length = _days_before(year + month // 12, month % 12 + 1) - _days_before(year, month)
    if not 1 <= day <= length:
        return None
    days = _days_before(year, month) + day - 1
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1e6


def _days_before(year: int, month: int) -> int:
    """Return the days from 1970 to the first of a month, by the usual count from a year that starts in March."""
    shifted = year - (month <= 2)
    days = 365 * shifted + shifted // 4 - shifted // 100 + shifted // 400
    return days + (153 * ((month + 9) % 12) + 2) // 5 - 719468


def _wrong(text: str, why: str) -> UsageError:
    return UsageError(
        f"The filter '{text[:200]}' cannot be used: {why}.",
        hint=f"Write comparisons joined by 'and', such as: metrics.f1 > 0.9 and params.lr < 1e-3 and stage = "
        f'"train". Fields: {", ".join(FIELDS)}, params.NAME, metrics.NAME.',
        kind="filter",
    )
