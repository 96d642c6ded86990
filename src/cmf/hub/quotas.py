"""How much may be kept at a hub: bytes and streams, below a scope prefix, of one principal, or of each principal.

What comes counts for who brings it, whoever signed it, and for its scope and all prefixes of that. It is counted in
the transaction that commits it, so that no count is ever off and no quota is passed, by however many at once. A segment
counts as it came: what is redacted later gives nothing back. An object counts once in each scope that it was sent
under, until that grant is taken back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from cmf.errors import DeniedError, NotFoundError, UsageError
from cmf.hub import accounts, audit
from cmf.hub.accounts import EACH, PRINCIPAL, SCOPE, Account, Flight, Kind, Limit, Tally, Used, Whose
from cmf.hub.auth import Caller
from cmf.hub.objects import HubObjects
from cmf.model import wire
from cmf.model.records import covers, is_scope
from cmf.store.arriving import Arriving
from cmf.store.dialect import Connection, Dialect, chunks

LENT_HOURS = 25
"""So long an upload past the hub counts that nobody comes back for; its bytes are swept away before that."""

_COUNTED = "SELECT 1 FROM hub_usage WHERE kind = 'scope' AND whom = ''"


class Quotas:
    """The quotas of one hub, and what is used of them. ``now`` returns the time in µs."""

    def __init__(self, dialect: Dialect, now: Callable[[], int]) -> None:
        self._sql = dialect
        self._now = now
        self._lock = threading.Lock()
        self._flying: dict[Whose, int] = {}
        with dialect.write(durable=True) as connection:
            dialect.create(connection, accounts.TABLES)

    def begin(self, objects: HubObjects) -> None:
        """Count what a hub holds that ran before it counted."""
        if self._sql.fetch(_COUNTED):
            return
        with self._sql.write(durable=True) as connection:
            if not connection.execute(_COUNTED).fetchone():
                _count(connection, objects)

    # ---- counting ------------------------------------------------------------------------------------------------

    def tally(self, connection: Connection, arriving: Sequence[Arriving]) -> Tally:
        """Open the accounts of who brings some segments, in the transaction that commits them."""
        return Tally(connection, arriving)

    def grant(
        self, connection: Connection, principal: int, scope: str, sizes: Mapping[str, int], ticket: str = ""
    ) -> None:
        """Count objects that are granted under a scope, as far as they were not before: digest -> size.

        ``ticket``: of the upload past the hub that this settles. `ConflictError` of kind ``quota``.
        """
        fresh = dict(sizes)
        for part, marks in chunks(list(sizes)):
            sent = f"SELECT digest FROM hub_sent WHERE scope = ? AND digest IN ({marks})"
            for (digest,) in connection.execute(sent, (scope, *part)).fetchall():
                fresh.pop(digest, None)
        if ticket:
            connection.execute("DELETE FROM hub_lent WHERE ticket = ?", (ticket,))
        if fresh:
            account = Account(connection, {principal}, {scope})
            account.charge(principal, scope, Used(sum(fresh.values())))
            account.close()
        connection.executemany(
            "INSERT INTO hub_sent (scope, digest, p, size) VALUES (?, ?, ?, ?)",
            [(scope, digest, principal, size) for digest, size in fresh.items()],
        )

    def take_back(self, connection: Connection, scope: str, digest: str) -> None:
        """Give back what an object took whose grant is taken back."""
        this = (scope, digest)
        row = connection.execute("SELECT p, size FROM hub_sent WHERE scope = ? AND digest = ?", this).fetchone()
        if row is not None:
            connection.execute("DELETE FROM hub_sent WHERE scope = ? AND digest = ?", this)
            account = Account(connection, (), ())
            account.charge(row[0], scope, Used(-row[1]))
            account.close()

    def lend(self, ticket: str, principal: int, scope: str, size: int) -> None:
        """Count an upload past the hub until it is settled, or its ticket is too old.

        `ConflictError` of kind ``quota``.
        """
        now = self._now()
        with self._sql.write(durable=True) as connection:
            connection.execute("DELETE FROM hub_lent WHERE at < ?", (now - LENT_HOURS * 3_600 * 10**6,))
            Account(connection, {principal}, {scope}).charge(principal, scope, Used(size))
            connection.execute(
                "INSERT INTO hub_lent (ticket, scope, p, size, at) VALUES (?, ?, ?, ?, ?)",
                (ticket, scope, principal, size, now),
            )

    def flight(self, principal: int | None, scope: str) -> Flight:
        """Return what counts bytes that a principal sends under a scope through this process; None: what is no more."""
        if principal is None:
            return Flight((), self._flying, self._lock)
        with self._sql.read() as connection:
            bounds = Account(connection, {principal}, {scope}).bounds(principal, scope)
        return Flight(bounds, self._flying, self._lock)

    # ---- administration ------------------------------------------------------------------------------------------

    def shown(self, caller: Caller) -> list[wire.Quota]:
        """Return every quota, and what each principal and all of them use; to who is no admin, only what binds them."""
        everybody = caller.may("admin", "")
        with self._sql.read() as connection:
            limits = accounts.limits(connection)
            people = connection.execute("SELECT p, name FROM hub_principal ORDER BY p").fetchall()
            whose = [(SCOPE, ""), *sorted(one for one in limits if one[0] == SCOPE and one[1])]
            if not everybody:
                whose = [(kind, at) for kind, at in whose if (kind, at) in limits and _binds(caller, at)]
                people = [one for one in people if one[0] == caller.principal]
            named = {(PRINCIPAL, str(p)): name for p, name in people}
            used = accounts.used(connection, (*whose, *named))
        limits.setdefault((EACH, ""), accounts.DEFAULT)
        return [
            wire.Quota(
                kind=kind,
                whom=whom,
                name=named.get((kind, whom), ""),
                bytes_max=limits.get((kind, whom), Limit()).bytes,
                streams_max=limits.get((kind, whom), Limit()).streams,
                bytes=used.get((kind, whom), Used()).bytes,
                streams=used.get((kind, whom), Used()).streams,
                is_set=(kind, whom) in limits,
            )
            for kind, whom in (*whose, (EACH, ""), *named)
        ]

    def set(self, caller: Caller, asked: wire.AskQuota) -> None:
        """Set a quota in the place of the one that was; it takes the hub's admin."""
        self._replace(caller, asked.kind, asked.whom, Limit(asked.bytes_max, asked.streams_max))

    def clear(self, caller: Caller, asked: wire.QuotaOf) -> None:
        """Take a quota away; it takes the hub's admin."""
        self._replace(caller, asked.kind, asked.whom, None)

    def _replace(self, caller: Caller, kind: Kind, whom: str, limit: Limit | None) -> None:
        if not caller.may("admin", ""):
            raise DeniedError(f"{caller.name} is not admin of this hub.", kind="scope")
        whom = "" if kind == EACH else whom
        subject = "each principal" if kind == EACH else whom or "everything"
        if kind == SCOPE and whom and not (is_scope(whom) or is_scope(whom + "/x")):
            raise UsageError(f"'{whom[:200]}' is not a scope or the start of one.", hint="Such as 'detector'.")
        with self._sql.write(durable=True) as connection:
            if kind == PRINCIPAL:
                whom, subject = _principal(connection, whom)
            gone = connection.execute("DELETE FROM hub_quota WHERE kind = ? AND whom = ?", (kind, whom)).rowcount
            if limit is None and not gone:
                raise NotFoundError(f"There is no quota of {subject}.")
            if limit is not None:
                connection.execute(
                    "INSERT INTO hub_quota (kind, whom, bytes, streams) VALUES (?, ?, ?, ?)", (kind, whom, *limit)
                )
            action = "cleared the quota" if limit is None else f"set the quota to {_spelled(limit)}"
            audit.note(connection, wire.Act(at_us=self._now(), actor=caller.name, action=action, subject=subject))


def _principal(connection: Connection, number: str) -> tuple[str, str]:
    """Return a principal's number, as it is kept, and name."""
    if number.isascii() and number.isdecimal() and len(number) < 16:
        row = connection.execute("SELECT p, name FROM hub_principal WHERE p = ?", (int(number),)).fetchone()
        if row is not None:
            return str(row[0]), row[1]
    raise NotFoundError(f"There is no principal {number[:20]} at this hub.", kind="principal")


def _binds(caller: Caller, prefix: str) -> bool:
    """Tell whether a quota below a prefix has to do with what a caller may see."""
    return caller.may("read", prefix) or any(covers(prefix, held.prefix) for held in caller.roles)


def _spelled(limit: Limit) -> str:
    return ", ".join(
        f"any number of {unit}" if most is None else f"{most:,} {unit}"
        for unit, most in zip(limit._fields, limit, strict=True)
    )


def _count(connection: Connection, objects: HubObjects) -> None:
    """Count all that is there: segments for whose key signed them, objects for nobody, as nobody noted who sent it."""
    account = Account(connection, (), ())
    for scope, principal, streams, size in connection.execute(
        "SELECT s.scope, coalesce(k.p, 0), sum(CASE WHEN g.n = 0 THEN 1 ELSE 0 END), "
        "sum(length(g.header) + length(g.signature) + length(g.body)) "
        "FROM stream s JOIN segment g ON g.s = s.s LEFT JOIN hub_key k ON k.key = s.writer GROUP BY s.scope, k.p"
    ).fetchall():
        account.charge(int(principal), scope, Used(int(size), int(streams)), always=True)
    grants = connection.execute("SELECT scope, digest FROM hub_grant").fetchall()
    sizes = dict(objects.list()) if grants else {}
    for scope, digest in grants:
        account.charge(0, scope, Used(sizes.get(digest, 0)), always=True)
    connection.executemany(
        "INSERT INTO hub_sent (scope, digest, p, size) VALUES (?, ?, 0, ?)",
        [(scope, digest, sizes.get(digest, 0)) for scope, digest in grants],
    )
    connection.execute("INSERT INTO hub_usage (kind, whom, bytes, streams) VALUES ('scope', '', 0, 0)")
    account.close()
