"""Who may bring and read what at a hub, from its tables as they are: judged by code of the simulator's own."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from tests.reference_fold import covers as lies_below
from tests.simulator.nodes import HubNode, SiteNode, rows


class Sealed(NamedTuple):
    """A segment as its writer sealed it."""

    stream: bytes
    scope: str
    site: str
    keys: tuple[bytes, ...]
    """The key that signed it, and before it those that it follows, the oldest first."""
    prev: bytes
    ids: frozenset[bytes]
    redacts: bool
    wire: bytes

    @property
    def writer(self) -> bytes:
        """Return the key that signed it."""
        return self.keys[-1]


def covers(prefix: str, scope: str) -> bool:
    return not prefix or lies_below(prefix, scope)


def roles(hub: HubNode, token: str) -> tuple[int, list[tuple[str, str]]]:
    """Return whose token this is (0: nobody's), and their (prefix, role)."""
    found = rows(hub, "SELECT p FROM hub_token WHERE hash = ?", hashlib.sha256(token.encode()).digest())
    principal = found[0][0] if found else 0
    return principal, rows(hub, "SELECT prefix, role FROM hub_role WHERE p = ?", principal)


def readable(hub: HubNode, token: str) -> tuple[str, ...] | None:
    """Return below which prefixes whoever holds a token may read; None: everywhere."""
    prefixes = tuple(sorted({prefix for prefix, _ in roles(hub, token)[1]}))
    return None if "" in prefixes else prefixes


def owner(hub: HubNode, keys: Sequence[bytes]) -> int | None:
    """Return whose the last of some keys is, each of which vouched for the next: 0 if this hub knows none of them.

    None if it is refused: it follows one that was revoked, or one that vouched for another.
    """
    revoked = {key for (key,) in rows(hub, "SELECT key FROM hub_revoked")}
    owners = dict(rows(hub, "SELECT key, p FROM hub_key"))
    followed = dict(rows(hub, "SELECT old, new FROM hub_rotation"))
    for at in reversed(range(len(keys))):
        if keys[at] in revoked:
            return None
        if keys[at] in owners:
            vouched_twice = at + 1 < len(keys) and followed.get(keys[at], keys[at + 1]) != keys[at + 1]
            return None if vouched_twice else int(owners[keys[at]])
    return 0


def is_strange(hub: HubNode, site: SiteNode) -> bool:
    """Tell whether a hub takes nothing of a site until it joins with an invite."""
    principal, held = roles(hub, site.tokens.get(hub.name, ""))
    return not held or owner(hub, site.keys) != principal


def may_bring(hub: HubNode, token: str, sealed: Sealed) -> bool:
    """Tell whether a hub may take a segment from whoever holds this token."""
    principal, held = roles(hub, token)
    mine = {role for prefix, role in held if covers(prefix, sealed.scope)}
    by = owner(hub, sealed.keys)
    if by == 0:
        return "peer" in mine and (not sealed.redacts or "redact" in mine)
    return may_write(hub, sealed) and (by == principal or bool(mine & {"relay", "peer", "admin"}))


def may_write(hub: HubNode, sealed: Sealed) -> bool:
    """Tell whether a hub may take a segment for its writer's sake: one that it knows may write there."""
    by = owner(hub, sealed.keys)
    if not by:
        return by == 0 and not sealed.redacts
    return holds(hub, by, sealed)


def holds(hub: HubNode, principal: int, sealed: Sealed) -> bool:
    """Tell whether a principal has the roles that a segment takes."""
    owned = rows(hub, "SELECT prefix, role FROM hub_role WHERE p = ?", principal)
    held = {role for prefix, role in owned if covers(prefix, sealed.scope)}
    return "admin" in held or held >= {"write", *(("redact",) if sealed.redacts else ())}
