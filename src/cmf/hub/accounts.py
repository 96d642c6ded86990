"""What is used at a hub, and by whom, held against what may be: the arithmetic of quotas, in one transaction.

Knows rows, not who may change them: that is in `quotas`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Literal, NamedTuple, Self

from cmf.errors import ConflictError
from cmf.model.segment import Genesis
from cmf.store.arriving import Arriving
from cmf.store.dialect import Connection, chunks

STREAMS_OF_EACH = 10_000
"""How many streams a principal may bring, unless an admin says otherwise: a site makes one in each scope."""

Kind = Literal["scope", "principal", "each"]
SCOPE: Kind = "scope"
PRINCIPAL: Kind = "principal"
EACH: Kind = "each"

TABLES = (
    """CREATE TABLE IF NOT EXISTS hub_quota (
        kind TEXT NOT NULL, whom TEXT NOT NULL, bytes INTEGER, streams INTEGER, PRIMARY KEY (kind, whom)){compact}""",
    """CREATE TABLE IF NOT EXISTS hub_usage (
        kind TEXT NOT NULL, whom TEXT NOT NULL, bytes INTEGER NOT NULL, streams INTEGER NOT NULL,
        PRIMARY KEY (kind, whom)){compact}""",
    # Of each grant, who sent it first and how large it is: what taking it back gives back.
    """CREATE TABLE IF NOT EXISTS hub_sent (
        scope TEXT NOT NULL, digest TEXT NOT NULL, p INTEGER NOT NULL, size INTEGER NOT NULL,
        PRIMARY KEY (scope, digest)){compact}""",
    # Uploads past the hub that are not settled yet.
    """CREATE TABLE IF NOT EXISTS hub_lent (
        ticket TEXT PRIMARY KEY, scope TEXT NOT NULL, p INTEGER NOT NULL, size INTEGER NOT NULL,
        at INTEGER NOT NULL){compact}""",
)

Whose = tuple[Kind, str]
"""(kind, whom): `SCOPE` and a prefix, `PRINCIPAL` and its number, or `EACH` and nothing."""


class Limit(NamedTuple):
    """The most that may be there; None is any number."""

    bytes: int | None = None
    streams: int | None = None


class Used(NamedTuple):
    """How much is there."""

    bytes: int = 0
    streams: int = 0

    def and_also(self, more: Used) -> Used:
        """Return the sum."""
        return Used(self.bytes + more.bytes, self.streams + more.streams)


DEFAULT = Limit(None, STREAMS_OF_EACH)
"""What holds for each principal until an admin sets that."""


class Bound(NamedTuple):
    """A quota of bytes that binds somebody: whose, how much, what is used of it, and what it is called."""

    whose: Whose
    limit: Limit
    had: Used
    named: tuple[str, str]


class Account:
    """What some may still bring, in one transaction, and what they bring in it: `close` writes that.

    ``principals``, ``scopes``: those that will be asked about; others may be.
    """

    def __init__(self, connection: Connection, principals: Iterable[int], scopes: Iterable[str]) -> None:
        self._connection = connection
        self._limits = limits(connection)
        whose = {place for scope in scopes for place in places(scope) if place in self._limits}
        for principal in map(str, principals):
            if (PRINCIPAL, principal) in self._limits or (EACH, "") in self._limits:
                whose.add((PRINCIPAL, principal))
        self._used = used(connection, whose) if whose else {}
        self._charged: dict[Whose, Used] = {}
        self._lent: list[tuple[str, int, int]] | None = None

    def charge(self, principal: int, scope: str, more: Used, *, always: bool = False) -> None:
        """Count what a principal brings in a scope; ``always``: even if it is too much.

        `ConflictError` of kind ``quota``, and nothing is counted, if a quota does not let it.
        """
        whose = (*places(scope), (PRINCIPAL, str(principal)))
        for one in whose if not always else ():
            limit, had = self.limit(one), Used()
            if (limit.bytes is not None and more.bytes > 0) or (limit.streams is not None and more.streams > 0):
                had = self.held(one)
            if (unit := exceeded(limit, had, more)) and self.is_bound(one):
                raise full(self.named(one), limit, had, more, unit)
        for one in whose:
            self._charged[one] = self._charged.get(one, Used()).and_also(more)

    def bounds(self, principal: int, scope: str) -> list[Bound]:
        """Return the quotas that bind a principal who sends bytes under a scope."""
        return [
            Bound(whose, self.limit(whose), self.held(whose), self.named(whose))
            for whose in (*places(scope), (PRINCIPAL, str(principal)))
            if self.limit(whose).bytes is not None and self.is_bound(whose)
        ]

    def limit(self, whose: Whose) -> Limit:
        """Return the limit of a scope prefix, or of a principal: its own or that of each."""
        found = self._limits.get(whose)
        if found is None and whose[0] == PRINCIPAL:
            return self._limits.get((EACH, ""), DEFAULT)
        return found or Limit()

    def held(self, whose: Whose) -> Used:
        """Return what is used, what was charged here and what is on its way past the hub included."""
        if whose not in self._used:
            self._used |= used(self._connection, [whose])
        if self._lent is None:
            self._lent = self._connection.execute("SELECT scope, p, size FROM hub_lent").fetchall()
        lent = sum(size for scope, p, size in self._lent if whose in (*places(scope), (PRINCIPAL, str(p))))
        return self._used[whose].and_also(self._charged.get(whose, Used())).and_also(Used(lent))

    def is_bound(self, whose: Whose) -> bool:
        """Tell whether a limit holds: that of each does not for a principal who brings what others made."""
        if whose[0] != PRINCIPAL or whose in self._limits:
            return True
        brings = "SELECT 1 FROM hub_role WHERE p = ? AND role IN ('relay', 'peer', 'admin')"
        return not self._connection.execute(brings, (int(whose[1]),)).fetchone()

    def named(self, whose: Whose) -> tuple[str, str]:
        """Return what a quota's owner is called, and how 'cmf hub quota set' names it."""
        kind, whom = whose
        if kind == SCOPE:
            return (f"The scope {whom}", f"--scope {whom}") if whom else ("This hub", "--everything")
        row = self._connection.execute("SELECT name FROM hub_principal WHERE p = ?", (int(whom),)).fetchone()
        return (row[0] if row else f"Principal {whom}", whom)

    def close(self) -> None:
        """Write what was charged."""
        self._connection.executemany(
            "INSERT INTO hub_usage (kind, whom, bytes, streams) VALUES (?, ?, ?, ?) ON CONFLICT (kind, whom) "
            "DO UPDATE SET bytes = hub_usage.bytes + excluded.bytes, streams = hub_usage.streams + excluded.streams",
            [(*whose, *more) for whose, more in sorted(self._charged.items()) if more != Used()],
        )


class Tally:
    """Counts the segments of one transaction for who brings them: see `cmf.store.arriving.Tally`."""

    def __init__(self, connection: Connection, arriving: Sequence[Arriving]) -> None:
        scopes = {scope for one in arriving for scope in _scopes(one)}
        self._account = Account(connection, {one.by for one in arriving}, scopes)

    def charge(self, one: Arriving, scope: str, size: int, streams: int) -> None:
        """Count a segment; `ConflictError` of kind ``quota``."""
        self._account.charge(one.by, scope, Used(size, streams))

    def close(self) -> None:
        """Write what was counted."""
        self._account.close()


class Flight:
    """Bytes of one request on their way into a hub, counted before they are kept with those of all others here.

    What is kept and then refused would stay, and nobody would own it. Each process of a hub counts its own: together
    they may keep as many times more before they refuse it, and grant none of that.
    """

    def __init__(self, bounds: Sequence[Bound], flying: dict[Whose, int], lock: threading.Lock) -> None:
        self._bounds = bounds
        self._flying, self._lock = flying, lock
        self._taken = 0

    def take(self, size: int) -> None:
        """Count so many more bytes; `ConflictError` of kind ``quota`` if they are too many."""
        more = Used(size)
        with self._lock:
            for bound in self._bounds:
                held = bound.had.and_also(Used(self._flying.get(bound.whose, 0)))
                if unit := exceeded(bound.limit, held, more):
                    raise full(bound.named, bound.limit, held, more, unit)
            for bound in self._bounds:
                self._flying[bound.whose] = self._flying.get(bound.whose, 0) + size
            self._taken += size

    def left(self) -> int | None:
        """Return how many more bytes may come; None is any number."""
        with self._lock:
            return min(
                (
                    (bound.limit.bytes or 0) - bound.had.bytes - self._flying.get(bound.whose, 0)
                    for bound in self._bounds
                ),
                default=None,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for bound in self._bounds:
                left = self._flying.pop(bound.whose, 0) - self._taken
                if left:
                    self._flying[bound.whose] = left


def exceeded(limit: Limit, had: Used, more: Used) -> str:
    """Return which of its two limits does not let more come: "bytes" or "streams", or ""."""
    for unit, most, held, added in zip(Used._fields, limit, had, more, strict=True):
        if most is not None and added > 0 and held + added > most:
            return unit
    return ""


def full(named: tuple[str, str], limit: Limit, had: Used, more: Used, unit: str) -> ConflictError:
    """Return the error that says whose quota it is, how much of it is used, and what to do."""
    name, option = named
    most, held, added = (getattr(one, unit) for one in (limit, had, more))
    return ConflictError(
        f"{name} has {held:,} of at most {most:,} {unit} at this hub; {added:,} more would be too many.",
        hint=f"Ask its admin for more (cmf hub quota set {option} --{unit} N), then run the command again.",
        kind="quota",
    )


def forget(connection: Connection, principal: int) -> None:
    """Let nobody be charged with what a principal brought who is removed, and whose number the next one may get.

    For its scopes it stays counted.
    """
    for table in ("hub_sent", "hub_lent"):
        connection.execute(f"UPDATE {table} SET p = 0 WHERE p = ?", (principal,))
    for table in ("hub_usage", "hub_quota"):
        connection.execute(f"DELETE FROM {table} WHERE kind = ? AND whom = ?", (PRINCIPAL, str(principal)))


def limits(connection: Connection) -> dict[Whose, Limit]:
    """Return every quota that was set."""
    rows = connection.execute("SELECT kind, whom, bytes, streams FROM hub_quota").fetchall()
    return {(kind, whom): Limit(bytes_, streams) for kind, whom, bytes_, streams in rows}


def used(connection: Connection, whose: Iterable[Whose]) -> dict[Whose, Used]:
    """Return what each of these uses."""
    found = dict.fromkeys(whose, Used())
    for kind in sorted({kind for kind, _ in found}):
        for part, marks in chunks([whom for of, whom in found if of == kind]):
            for whom, bytes_, streams in connection.execute(
                f"SELECT whom, bytes, streams FROM hub_usage WHERE kind = ? AND whom IN ({marks})", (kind, *part)
            ).fetchall():
                found[kind, whom] = Used(bytes_, streams)
    return found


def places(scope: str) -> tuple[Whose, ...]:
    """Return the prefixes of a scope that may have a quota, everything first."""
    parts = scope.split("/")
    return ((SCOPE, ""), *((SCOPE, "/".join(parts[:end])) for end in range(1, len(parts) + 1)))


def _scopes(one: Arriving) -> tuple[str, ...]:
    if isinstance(one.segment.fields, Genesis):
        return (one.segment.fields.scope,)
    return (one.items[0].scope,) if one.items else ()
