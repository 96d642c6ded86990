"""What changes who may do what at a hub: invites, tokens, roles, keys. Each change and its audit line are one commit.

An admin of a scope prefix invites others there and gives and takes roles there. What concerns a principal as a whole
(its keys, its tokens, the audit log) takes an admin of everything; one's own tokens one may narrow and revoke oneself.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Any

from cmf.errors import DeniedError, NotFoundError, UsageError
from cmf.hub import audit
from cmf.hub.auth import ROLES, Caller, new_token, secret_hash
from cmf.model import wire
from cmf.model.records import is_scope
from cmf.model.wire import Act, Role
from cmf.store.dialect import Connection, Dialect

EXPIRES_S_MAX = 10 * 365 * 86_400
NAME_LENGTH_MAX = 100
ACTS_MAX = 1_000
OF_PRINCIPAL = "SELECT prefix, role FROM hub_role WHERE p = ? ORDER BY prefix, role"
NARROWED_TO = "SELECT prefix, role FROM hub_token_role WHERE hash = ? ORDER BY prefix, role"
LOCAL = "local"
"""The hub's own user, whom no invite may name."""


class Access:
    """The administration of one hub. ``now`` returns the time in µs."""

    def __init__(self, dialect: Dialect, now: Callable[[], int]) -> None:
        self._sql = dialect
        self._now = now

    # ---- who there is --------------------------------------------------------------------------------------------

    def principals(self, caller: Caller) -> list[wire.Principal]:
        """Return every principal with its roles, tokens that still hold, and keys; who is not admin, only itself."""
        now, everybody = self._now(), caller.may("admin", "")
        with self._sql.read() as connection:
            people = connection.execute("SELECT p, name FROM hub_principal ORDER BY p").fetchall()
            return [
                wire.Principal(
                    id=p,
                    name=name,
                    roles=_roles(connection, OF_PRINCIPAL, p),
                    tokens=[
                        wire.Token(
                            id=_id(hash_),
                            expires_us=expires,
                            roles=_roles(connection, NARROWED_TO, hash_),
                        )
                        for hash_, expires in connection.execute(
                            "SELECT hash, expires FROM hub_token WHERE p = ? AND expires > ? ORDER BY expires, hash",
                            (p, now),
                        ).fetchall()
                    ],
                    keys=[
                        wire.Key(key=bytes(key).hex(), revoked_us=at or 0, follows=bytes(old or b"").hex())
                        for key, at, old in connection.execute(
                            "SELECT k.key, r.at, o.old FROM hub_key k LEFT JOIN hub_revoked r ON r.key = k.key "
                            "LEFT JOIN hub_rotation o ON o.new = k.key WHERE k.p = ? ORDER BY k.key",
                            (p,),
                        ).fetchall()
                    ],
                )
                for p, name in people
                if everybody or p == caller.principal
            ]

    def acts(self, caller: Caller, before: int) -> list[Act]:
        """Return the newest lines of the audit log, newest first; ``before``: only those with a smaller number."""
        _needs_admin(caller, "")
        return audit.newest(self._sql, before, ACTS_MAX)

    # ---- invites -------------------------------------------------------------------------------------------------

    def invites(self, caller: Caller) -> list[wire.Invite]:
        """Return the invites that wait, as far as the caller is admin of what they give."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT hash, name, prefix, role, expires FROM hub_invite WHERE expires > ? ORDER BY expires, hash",
                (self._now(),),
            ).fetchall()
        return [
            wire.Invite(id=_id(hash_), name=name, role=Role(prefix, role), expires_us=expires)
            for hash_, name, prefix, role, expires in rows
            if caller.may("admin", prefix)
        ]

    def invite(self, caller: Caller, asked: wire.AskInvite) -> wire.Issued:
        """Make a one-time code that gives whoever presents it first a role on a scope prefix."""
        _check_role(asked.role)
        _needs_admin(caller, asked.role.prefix)
        name = asked.name.strip()
        if not 0 < len(name) <= NAME_LENGTH_MAX or name == LOCAL or not name.isprintable():
            raise UsageError(f"'{name[:NAME_LENGTH_MAX]}' is no name for who is invited.", hint="Such as 'ada'.")
        code = secrets.token_urlsafe(32)
        expires = self._expires(asked.expires_s)
        with self._sql.write(durable=True) as connection:
            connection.execute("DELETE FROM hub_invite WHERE expires < ?", (self._now(),))
            connection.execute(
                "INSERT INTO hub_invite (hash, name, prefix, role, expires) VALUES (?, ?, ?, ?, ?)",
                (secret_hash(code), name, asked.role.prefix, asked.role.role, expires),
            )
            self._note(connection, caller, f"invited as {asked.role.role}", name, asked.role.prefix)
        return wire.Issued(id=_id(secret_hash(code)), secret=code, expires_us=expires)

    def cancel(self, caller: Caller, invite: str) -> None:
        """Take an invite back, by its id."""
        with self._sql.write(durable=True) as connection:
            rows = connection.execute("SELECT hash, name, prefix FROM hub_invite").fetchall()
            hash_, name, prefix = _one(rows, invite, "invite")
            _needs_admin(caller, prefix)
            connection.execute("DELETE FROM hub_invite WHERE hash = ?", (hash_,))
            self._note(connection, caller, "took the invite back", name, prefix)

    # ---- tokens --------------------------------------------------------------------------------------------------

    def token(self, caller: Caller, asked: wire.AskToken) -> wire.Issued:
        """Make another token of a principal, narrowed to some of its roles if any are named.

        A token makes none that may more than itself or that outlives it; only the hub's admin does.
        """
        principal = asked.principal or caller.principal
        if principal != caller.principal:
            _needs_admin(caller, "")
        roles = asked.roles or (list(caller.roles) if caller.is_narrowed and principal == caller.principal else [])
        expires = self._expires(asked.expires_s)
        if not caller.may("admin", ""):
            expires = min(expires, caller.expires_us)
        with self._sql.write(durable=True) as connection:
            holder = caller if principal == caller.principal else self._holder(connection, principal)
            for role in roles:
                _check_role(role)
                if not holder.may(role.role, role.prefix):
                    raise DeniedError(f"{holder.name} has no role {role.role} on '{role.prefix}'.", kind="scope")
            secret = new_token(connection, principal, expires)
            hash_ = secret_hash(secret)
            for role in roles:
                connection.execute(
                    "INSERT INTO hub_token_role (hash, prefix, role) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (hash_, role.prefix, role.role),
                )
            self._note(connection, caller, "made a token", f"{holder.name} {_id(hash_)}")
        return wire.Issued(id=_id(hash_), secret=secret, expires_us=expires)

    def revoke_token(self, caller: Caller, token: str) -> None:
        """End a token, by its id: the next request that carries it is refused."""
        with self._sql.write(durable=True) as connection:
            rows = connection.execute("SELECT hash, p FROM hub_token").fetchall()
            if not caller.may("admin", ""):
                own = caller.principal if not caller.is_narrowed else None
                rows = [row for row in rows if row[1] == own]
            hash_, principal = _one(rows, token, "token")
            connection.execute("DELETE FROM hub_token_role WHERE hash = ?", (hash_,))
            connection.execute("DELETE FROM hub_token WHERE hash = ?", (hash_,))
            self._note(connection, caller, "revoked a token", f"{self._name(connection, principal)} {_id(hash_)}")

    # ---- roles ---------------------------------------------------------------------------------------------------

    def give(self, caller: Caller, asked: wire.AskRole) -> None:
        """Give a principal a role on a scope prefix."""
        _check_role(asked.role)
        _needs_admin(caller, asked.role.prefix)
        with self._sql.write(durable=True) as connection:
            name = self._name(connection, asked.principal)
            connection.execute(
                "INSERT INTO hub_role (p, prefix, role) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (asked.principal, asked.role.prefix, asked.role.role),
            )
            self._note(connection, caller, f"gave {asked.role.role}", name, asked.role.prefix)

    def take(self, caller: Caller, asked: wire.AskRole) -> None:
        """Take a role from a principal; what it wrote stays."""
        _needs_admin(caller, asked.role.prefix)
        with self._sql.write(durable=True) as connection:
            name = self._name(connection, asked.principal)
            if name == LOCAL:
                raise DeniedError("The hub's own user stays admin.", kind="scope")
            gone = connection.execute(
                "DELETE FROM hub_role WHERE p = ? AND prefix = ? AND role = ?",
                (asked.principal, asked.role.prefix, asked.role.role),
            )
            if not gone.rowcount:
                raise NotFoundError(f"{name} has no role {asked.role.role} on '{asked.role.prefix}'.")
            self._note(connection, caller, f"took {asked.role.role}", name, asked.role.prefix)

    # ---- keys ----------------------------------------------------------------------------------------------------

    def revoke_key(self, caller: Caller, key: bytes) -> None:
        """Refuse all that a key signs from now on; what this hub holds of it stays. Nobody enrols it again.

        Nor brings it: it need not be enrolled here, since a peer vouches for keys that are not. It takes the hub's
        admin, or the key's owner with a token that is not narrowed: whose key was stolen need not wait for anybody.
        """
        with self._sql.write(durable=True) as connection:
            row = connection.execute("SELECT p FROM hub_key WHERE key = ?", (key,)).fetchone()
            if row is None or row[0] != caller.principal or caller.is_narrowed:
                _needs_admin(caller, "")
            whose = self._name(connection, row[0]) if row else "of nobody here"
            connection.execute(
                "INSERT INTO hub_revoked (key, at) VALUES (?, ?) ON CONFLICT DO NOTHING", (key, self._now())
            )
            self._note(connection, caller, "revoked a key", f"{whose} {key.hex()}")

    # ---- rows ----------------------------------------------------------------------------------------------------

    def _expires(self, seconds: int) -> int:
        if not 0 < seconds <= EXPIRES_S_MAX:
            raise UsageError(f"{seconds} seconds is no time to expire after.", hint="Ten years at most.")
        return self._now() + seconds * 10**6

    def _name(self, connection: Connection, principal: int) -> str:
        row = connection.execute("SELECT name FROM hub_principal WHERE p = ?", (principal,)).fetchone()
        if row is None:
            raise NotFoundError(f"There is no principal {principal} at this hub.", kind="principal")
        return str(row[0])

    def _holder(self, connection: Connection, principal: int) -> Caller:
        roles = tuple(_roles(connection, OF_PRINCIPAL, principal))
        return Caller(principal=principal, name=self._name(connection, principal), roles=roles)

    def _note(self, connection: Connection, caller: Caller, action: str, subject: str, scope: str = "") -> None:
        act = Act(at_us=self._now(), actor=caller.name, action=action, subject=subject, scope=scope)
        audit.note(connection, act)


def console() -> Caller:
    """Return who acts on the hub's machine, beside the hub: whoever can write its database is admin."""
    return Caller(principal=0, name=audit.CONSOLE, roles=(Role("", "admin"),))


def _needs_admin(caller: Caller, prefix: str) -> None:
    if not caller.may("admin", prefix):
        where = f"of {prefix[:200]}" if prefix else "of this hub"
        raise DeniedError(f"{caller.name} is not admin {where}.", kind="scope")


def _check_role(role: Role) -> None:
    if role.role not in ROLES:
        raise UsageError(f"'{role.role[:50]}' is not a role.", hint=f"It is one of {', '.join(ROLES)}.")
    if role.prefix and not (is_scope(role.prefix) or is_scope(role.prefix + "/x")):
        raise UsageError(f"'{role.prefix[:200]}' is not a scope or the start of one.", hint="Such as 'detector'.")


def _roles(connection: Connection, query: str, value: Any) -> list[Role]:
    return [Role(prefix, role) for prefix, role in connection.execute(query, (value,)).fetchall()]


def _id(hash_: bytes) -> str:
    """Return the id of a secret: the start of its hash, which tells nothing of it."""
    return bytes(hash_)[:8].hex()


def _one(rows: Sequence[Sequence[Any]], id_: str, what: str) -> Sequence[Any]:
    """Return the row whose hash an id names."""
    for row in rows:
        if _id(row[0]) == id_:
            return row
    raise NotFoundError(f"There is no {what} {id_[:32]} at this hub.")
