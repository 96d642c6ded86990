"""Keys that follow enrolled ones: whose they are, which key vouched for which, and that each does so once.

A chain has been checked before it comes here (`cmf.model.rotation`): each key in it did vouch for the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from cmf.errors import DeniedError
from cmf.hub import audit
from cmf.model.rotation import Vouch
from cmf.model.wire import Act
from cmf.store.dialect import Connection

TABLES = (
    """CREATE TABLE IF NOT EXISTS hub_rotation (
        old {blob} PRIMARY KEY, new {blob} NOT NULL, at INTEGER NOT NULL){compact}""",
)


class Heir(NamedTuple):
    """Whose a key is that follows an enrolled one, and the (old, new) keys on the way, the oldest first."""

    principal: int
    steps: list[tuple[bytes, bytes]]


def heir(connection: Connection, chain: Sequence[Vouch], key: bytes) -> Heir | None:
    """Return whose a key is by the nearest enrolled key before it; None if no key of its chain is enrolled here.

    `DeniedError` if a key on the way was revoked, or has vouched for another already: of two that claim to follow it,
    one is a thief's, and this hub can't tell which.
    """
    keys = [*(bytes.fromhex(said.key) for said in chain), key]
    for place in reversed(range(len(chain))):
        if is_revoked(connection, keys[place]):
            raise DeniedError(
                "This key follows one that was revoked, which vouches for nobody any more.",
                hint="Join with an invite: cmf remote add NAME URL --invite CODE.",
                kind="revoked",
            )
        row = connection.execute("SELECT p FROM hub_key WHERE key = ?", (keys[place],)).fetchone()
        if row is not None:
            _refuse_second(connection, keys[place], keys[place + 1])
            return Heir(int(row[0]), list(pairwise(keys[place:])))
    return None


def enrol(connection: Connection, chain: Sequence[Vouch], key: bytes, *, now: int) -> None:
    """Enrol a key, and those on the way to it, as of the principal whose key it follows; once more changes nothing."""
    found = heir(connection, chain, key)
    if found is None:
        return  # enrolled and taken away since it was asked
    (name,) = connection.execute("SELECT name FROM hub_principal WHERE p = ?", (found.principal,)).fetchone()
    for old, new in found.steps:
        made = connection.execute(
            "INSERT INTO hub_rotation (old, new, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", (old, new, now)
        )
        if not made.rowcount:
            _refuse_second(connection, old, new)
            continue
        connection.execute("INSERT INTO hub_key (key, p) VALUES (?, ?) ON CONFLICT DO NOTHING", (new, found.principal))
        act = Act(at_us=now, actor=str(name), action="rotated a key", subject=f"{old.hex()} {new.hex()}", scope="")
        audit.note(connection, act)


def is_revoked(connection: Connection, key: bytes) -> bool:
    """Tell whether a key was revoked."""
    return connection.execute("SELECT 1 FROM hub_revoked WHERE key = ?", (key,)).fetchone() is not None


def _refuse_second(connection: Connection, old: bytes, new: bytes) -> None:
    row = connection.execute("SELECT new FROM hub_rotation WHERE old = ?", (old,)).fetchone()
    if row is not None and bytes(row[0]) != new:
        raise DeniedError(
            f"The key before this one has vouched for another already: {bytes(row[0]).hex()[:16]}.",
            hint="If that one is not yours, the old key was stolen: have both revoked, and join with an invite.",
            kind="rotated",
        )
