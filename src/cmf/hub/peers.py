"""Which other hubs this one syncs with, when, and how that went: rows of its database.

A peer is a principal here: what it is sent is what it may read, and what is taken from it is where it has the role
peer. So roles say what is trusted, `cmf hub role` changes it, and whatever a peer brings is admitted as from anybody.
Its token for us is no row: it lies in a file that only the hub's user reads.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from cmf.errors import ConflictError, DeniedError, NotFoundError, UsageError
from cmf.hub import accounts, audit
from cmf.hub.auth import Caller
from cmf.model import wire
from cmf.model.records import is_scope
from cmf.store.dialect import Connection, Dialect

TABLES = (
    """CREATE TABLE IF NOT EXISTS hub_peer (
        name TEXT PRIMARY KEY, url TEXT NOT NULL UNIQUE, p INTEGER NOT NULL, direction TEXT NOT NULL,
        every INTEGER NOT NULL, data INTEGER NOT NULL, due INTEGER NOT NULL, leased INTEGER NOT NULL,
        state TEXT NOT NULL){compact}""",
)

EVERY_S_MIN, EVERY_S_MAX = 1, 30 * 86_400
LEASE_US = 120 * 10**6
"""How long a worker that says nothing keeps a peer from the others. They may overlap: a union loses nothing by it."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ALL = "SELECT name, url, p, direction, every, data, due, leased, state FROM hub_peer"


_FORGET = (
    "DELETE FROM hub_token_role WHERE hash IN (SELECT hash FROM hub_token WHERE p = ?)",
    "DELETE FROM hub_token WHERE p = ?",
    "DELETE FROM hub_role WHERE p = ?",
    "DELETE FROM hub_principal WHERE p = ?",
)


class Peer(NamedTuple):
    """A row: another hub, the principal that it is here, and until when (µs) a worker has leased it (0: none)."""

    name: str
    url: str
    principal: int
    direction: wire.Direction
    every_s: int
    data: bool
    due_us: int
    leased_us: int
    state: wire.PeerState


class Peers:
    """The peers of one hub. ``now`` returns the time in µs."""

    def __init__(self, dialect: Dialect, now: Callable[[], int]) -> None:
        self._sql = dialect
        self._now = now
        with dialect.write(durable=True) as connection:
            dialect.create(connection, TABLES)

    def all(self) -> list[Peer]:
        """Return every peer, by name."""
        with self._sql.read() as connection:
            return [_peer(row) for row in connection.execute(_ALL + " ORDER BY name")]

    def one(self, name: str) -> Peer:
        """Return a peer by its name; `NotFoundError` if there is none."""
        with self._sql.read() as connection:
            row = connection.execute(_ALL + " WHERE name = ?", (name,)).fetchone()
        if row is None:
            raise NotFoundError(f"This hub has no peer '{name[:64]}'.", hint="'cmf hub peer status' shows them.")
        return _peer(row)

    def shown(self, caller: Caller) -> list[wire.PeerInfo]:
        """Return every peer as people see it."""
        needs_admin(caller)
        now = self._now()
        with self._sql.read() as connection:
            return [
                wire.PeerInfo(
                    name=peer.name,
                    url=peer.url,
                    scopes=_prefixes(connection, peer.principal),
                    direction=peer.direction,
                    every_s=peer.every_s,
                    data=peer.data,
                    due_us=peer.due_us,
                    is_syncing=now < peer.leased_us <= now + LEASE_US,
                    state=peer.state,
                )
                for peer in self.all()
            ]

    def measures(self) -> dict[str, tuple[str, dict[str, float]]]:
        """Return what is measured of every peer: name -> (what it is, peer -> value)."""
        now, states = self._now(), {peer.name: peer.state for peer in self.all()}
        in_step = {name: state for name, state in states.items() if state.succeeded_us}
        return {
            "lag_seconds": (
                "How long ago the hub was last in step with this peer; nothing if it never was.",
                {name: max(0.0, (now - state.succeeded_us) / 1e6) for name, state in in_step.items()},
            ),
            "failures": ("Turns that failed, in a row.", {name: state.failures for name, state in states.items()}),
            "refused": ("Segments refused, the last time.", {name: state.refused for name, state in states.items()}),
            "differed": (
                "Streams that differed when the last turn began.",
                {name: state.differed for name, state in states.items()},
            ),
            "pulled": ("Segments pulled, in all.", {name: state.pulled for name, state in states.items()}),
            "pushed": ("Segments pushed, in all.", {name: state.pushed for name, state in states.items()}),
        }

    def check(self, caller: Caller, asked: wire.AskPeer) -> None:
        """Check, before the other hub is asked, that this peer may be added, and by this caller."""
        needs_admin(caller)
        if not _NAME.fullmatch(asked.name):
            raise UsageError(f"'{asked.name[:64]}' is no name for a peer.", hint="Such as 'paris'.")
        if not EVERY_S_MIN <= asked.every_s <= EVERY_S_MAX:
            raise UsageError(f"Every {asked.every_s} seconds is no schedule.", hint="From 1 second to 30 days.")
        for prefix in asked.scopes:
            if not (is_scope(prefix) or is_scope(prefix + "/x")):
                raise UsageError(f"'{prefix[:200]}' is not a scope or the start of one.", hint="Such as 'detector'.")
        taken = [peer.name for peer in self.all() if peer.name == asked.name or peer.url == asked.url]
        if taken:
            raise ConflictError(
                f"This hub has a peer '{taken[0]}' already.",
                hint="'cmf hub peer remove' takes it away; what it brought stays.",
                kind="taken",
            )

    def add(self, caller: Caller, asked: wire.AskPeer) -> None:
        """Add a peer, due at once, and the principal that it is here: of role peer, or read if only pushed to."""
        role = "read" if asked.direction == "push" else "peer"
        with self._sql.write(durable=True) as connection:
            row = connection.execute(
                "INSERT INTO hub_principal (name) VALUES (?) RETURNING p", (f"peer {asked.name}",)
            ).fetchone()
            connection.executemany(
                "INSERT INTO hub_role (p, prefix, role) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                [(row[0], prefix, role) for prefix in asked.scopes or [""]],
            )
            state = msgspec.json.encode(wire.PeerState()).decode()
            connection.execute(
                "INSERT INTO hub_peer (name, url, p, direction, every, data, due, leased, state) "
                "VALUES (?, ?, ?, ?, ?, ?, 0, 0, ?)",
                (asked.name, asked.url, row[0], asked.direction, asked.every_s, int(asked.data), state),
            )
            for prefix in asked.scopes or [""]:
                what = f"added a peer to {asked.direction}"
                self._note(connection, caller, what, f"{asked.name} {asked.url}", prefix)

    def remove(self, caller: Caller, name: str) -> Peer:
        """Remove a peer and the principal that it is here; what it brought stays. Return what it was."""
        needs_admin(caller)
        with self._sql.write(durable=True) as connection:
            peer = self.one(name)
            connection.execute("DELETE FROM hub_peer WHERE name = ?", (name,))
            for statement in _FORGET:
                connection.execute(statement, (peer.principal,))
            accounts.forget(connection, peer.principal)
            self._note(connection, caller, "removed a peer", f"{name} {peer.url}")
        return peer

    # ---- turns ---------------------------------------------------------------------------------------------------

    def hasten(self, caller: Caller, name: str) -> None:
        """Let a peer be due now."""
        needs_admin(caller)
        self.one(name)
        with self._sql.write() as connection:
            connection.execute("UPDATE hub_peer SET due = ? WHERE name = ?", (self._now(), name))

    def lease(self) -> Peer | None:
        """Take a peer that is due and that no worker has, the one that waits longest; None if there is none.

        A time too far ahead for any schedule, or any lease, is that of a clock which was wrong: it holds nothing up.
        """
        now = self._now()
        for peer in sorted(self.all(), key=lambda peer: peer.due_us):
            is_held = now < peer.leased_us <= now + LEASE_US
            if not is_held and not now < peer.due_us <= now + 2 * 10**6 * EVERY_S_MAX:
                leased = peer._replace(leased_us=now + LEASE_US)
                if self._hold(peer, leased.leased_us):
                    return leased
        return None

    def renew(self, peer: Peer) -> Peer:
        """Keep a leased peer for longer; `ConflictError` if it was removed, or another worker has it by now."""
        renewed = peer._replace(leased_us=self._now() + LEASE_US)
        if not self._hold(peer, renewed.leased_us):
            raise ConflictError(f"Peer {peer.name} is no longer this worker's.", kind="lease")
        return renewed

    def done(self, peer: Peer, state: wire.PeerState, *, due_us: int) -> None:
        """Give a leased peer back, with how it went; nothing if another worker has it by now.

        It is due then, or as somebody has asked meanwhile.
        """
        text = msgspec.json.encode(state).decode()
        with self._sql.write() as connection:
            connection.execute(
                "UPDATE hub_peer SET leased = 0, due = CASE WHEN due = ? THEN ? ELSE due END, state = ? "
                "WHERE name = ? AND p = ? AND leased = ?",
                (peer.due_us, due_us, text, peer.name, peer.principal, peer.leased_us),
            )

    def _hold(self, peer: Peer, until_us: int) -> bool:
        """Lease a peer for longer, if nobody did since it was read."""
        with self._sql.write() as connection:
            moved = connection.execute(
                "UPDATE hub_peer SET leased = ? WHERE name = ? AND p = ? AND leased = ?",
                (until_us, peer.name, peer.principal, peer.leased_us),
            )
            return moved.rowcount == 1

    def _note(self, connection: Connection, caller: Caller, action: str, subject: str, scope: str = "") -> None:
        act = wire.Act(at_us=self._now(), actor=caller.name, action=action, subject=subject, scope=scope)
        audit.note(connection, act)


def needs_admin(caller: Caller) -> None:
    """Check that a caller is admin of everything; else `DeniedError`."""
    if not caller.may("admin", ""):
        raise DeniedError(f"{caller.name} is not admin of this hub.", kind="scope")


def _peer(row: Sequence[Any]) -> Peer:
    name, url, principal, direction, every, data, due, leased, state = row
    found = msgspec.json.decode(state, type=wire.PeerState)
    return Peer(name, url, principal, direction, every, bool(data), due, leased, found)


def _prefixes(connection: Connection, principal: int) -> list[str]:
    rows = connection.execute("SELECT DISTINCT prefix FROM hub_role WHERE p = ? ORDER BY 1", (principal,)).fetchall()
    return [prefix for (prefix,) in rows]
