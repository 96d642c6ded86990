"""Who may do what at a hub: whose a token is, what a key may write, what was granted. `access` changes all that.

Tokens and invites are 256 random bits, kept as hashes only.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from cmf.errors import DeniedError, UsageError
from cmf.hub import audit, succession
from cmf.model.records import covers
from cmf.model.rotation import Vouch
from cmf.model.wire import Act, Role
from cmf.store.dialect import Connection, Dialect, chunks

ROLES = ("read", "write", "relay", "peer", "redact", "admin")
TOKEN_DAYS = 365
_DAY_US = 86_400 * 10**6

TABLES = (
    "CREATE TABLE IF NOT EXISTS hub_principal (p {serial}, name TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS hub_role (
        p INTEGER NOT NULL, prefix TEXT NOT NULL, role TEXT NOT NULL, PRIMARY KEY (p, prefix, role)){compact}""",
    """CREATE TABLE IF NOT EXISTS hub_token (
        hash {blob} PRIMARY KEY, p INTEGER NOT NULL, expires INTEGER NOT NULL){compact}""",
    """CREATE TABLE IF NOT EXISTS hub_invite (
        hash {blob} PRIMARY KEY, name TEXT NOT NULL, prefix TEXT NOT NULL, role TEXT NOT NULL,
        expires INTEGER NOT NULL){compact}""",
    """CREATE TABLE IF NOT EXISTS hub_token_role (
        hash {blob} NOT NULL, prefix TEXT NOT NULL, role TEXT NOT NULL, PRIMARY KEY (hash, prefix, role)){compact}""",
    "CREATE TABLE IF NOT EXISTS hub_key (key {blob} PRIMARY KEY, p INTEGER NOT NULL){compact}",
    "CREATE TABLE IF NOT EXISTS hub_revoked (key {blob} PRIMARY KEY, at INTEGER NOT NULL){compact}",
    """CREATE TABLE IF NOT EXISTS hub_grant (
        scope TEXT NOT NULL, digest TEXT NOT NULL, PRIMARY KEY (scope, digest)){compact}""",
    "CREATE INDEX IF NOT EXISTS hub_grant_digest ON hub_grant (digest)",
    "CREATE INDEX IF NOT EXISTS promised_scope ON promised (scope, digest)",
    *succession.TABLES,
    *audit.TABLES,
)


# What every request asks, and every push of each key: one statement for all that ask at once, so that it is one round
# trip to the database.
_CALLERS = (
    "SELECT t.hash, t.p, t.expires, n.name, 0, r.prefix, r.role FROM hub_token t JOIN hub_principal n ON n.p = t.p "
    "LEFT JOIN hub_role r ON r.p = t.p WHERE t.hash IN ({marks}) "
    "UNION ALL SELECT t.hash, t.p, t.expires, n.name, 1, w.prefix, w.role FROM hub_token t "
    "JOIN hub_principal n ON n.p = t.p JOIN hub_token_role w ON w.hash = t.hash WHERE t.hash IN ({marks}) "
    "ORDER BY 5, 6, 7"
)
_HOLDERS = (
    "SELECT k.key, k.p, n.name, v.at, r.prefix, r.role FROM hub_key k JOIN hub_principal n ON n.p = k.p "
    "LEFT JOIN hub_revoked v ON v.key = k.key LEFT JOIN hub_role r ON r.p = k.p WHERE k.key IN ({marks})"
)
_LACKING = (
    "SELECT o.digest, g.digest FROM promised o LEFT JOIN hub_grant g ON g.scope = o.scope "
    "AND g.digest = CASE WHEN substr(o.digest, 1, 5) = 'tree:' THEN substr(o.digest, 6) ELSE o.digest END "
    "WHERE o.scope = ? AND o.digest > ? ORDER BY o.digest LIMIT ?"
)


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Who makes a request, what they may do, and until when (µs). A narrowed token may less than who holds it."""

    principal: int
    name: str
    roles: tuple[Role, ...]
    expires_us: int = 0
    is_narrowed: bool = False

    def may(self, role: str, scope: str) -> bool:
        """Tell whether this caller holds a role on a scope, or a prefix: admin includes all, peer relay, each read."""
        implied = {"read": ROLES, "relay": ("relay", "peer", "admin")}.get(role, (role, "admin"))
        return any(held.role in implied and covers(held.prefix, scope) for held in self.roles)

    def may_send(self, scope: str) -> bool:
        """Tell whether this caller may bring objects under a scope: its own, or with what others signed."""
        return self.may("write", scope) or self.may("relay", scope)

    def readable(self) -> tuple[str, ...] | None:
        """Return the scope prefixes this caller may read; None for everything."""
        prefixes = tuple(sorted({held.prefix for held in self.roles}))
        return None if "" in prefixes else prefixes


class Holder(NamedTuple):
    """Whose an enrolled key is, and whether it was revoked."""

    who: Caller
    is_revoked: bool


class Auth:
    """The tables of one hub. Times are µs, handed in."""

    def __init__(self, dialect: Dialect) -> None:
        self._sql = dialect
        with dialect.write(durable=True) as connection:
            dialect.create(connection, TABLES)

    def enrol(self, code: str, key: bytes, name: str, *, now: int) -> tuple[str, Caller]:
        """Take an invite: a principal with this key and a token. The code is used up in the same transaction."""
        if len(key) != 32:
            raise UsageError("A public key has 32 bytes.")
        with self._sql.write(durable=True) as connection:
            _refuse_revoked(connection, key)
            row = connection.execute(
                "SELECT name, prefix, role, expires FROM hub_invite WHERE hash = ?", (secret_hash(code),)
            ).fetchone()
            if row is None or row[3] < now:
                raise DeniedError(
                    "This invite is not known, was used already, or has expired.",
                    hint="Ask for a new one: cmf hub invite.",
                    kind="invite",
                )
            connection.execute("DELETE FROM hub_invite WHERE hash = ?", (secret_hash(code),))
            principal = self._principal_of(connection, key)
            if principal is None:
                principal = self._make(connection, f"{row[0]} ({name})" if name and name != row[0] else row[0])
                self._enrol_key(connection, key, principal)
            connection.execute(
                "INSERT INTO hub_role (p, prefix, role) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (principal, row[1], row[2]),
            )
            token = new_token(connection, principal, now + TOKEN_DAYS * _DAY_US)
            caller = self._caller(connection, principal)
            act = Act(at_us=now, actor=caller.name, action=f"joined as {row[2]}", subject=key.hex(), scope=row[1])
            audit.note(connection, act)
            return token, caller

    def local_token(self, *, now: int) -> str:
        """Make a token of the hub's own user, who is admin; tokens of earlier starts end."""
        with self._sql.write(durable=True) as connection:
            row = connection.execute("SELECT p FROM hub_principal WHERE name = 'local'").fetchone()
            principal = row[0] if row else self._make(connection, "local")
            connection.execute(
                "INSERT INTO hub_role (p, prefix, role) VALUES (?, '', 'admin') ON CONFLICT DO NOTHING", (principal,)
            )
            connection.execute(
                "DELETE FROM hub_token_role WHERE hash IN (SELECT hash FROM hub_token WHERE p = ?)", (principal,)
            )
            connection.execute("DELETE FROM hub_token WHERE p = ?", (principal,))
            return new_token(connection, principal, now + TOKEN_DAYS * _DAY_US)

    def caller(self, token: str, *, now: int) -> Caller:
        """Return whose token this is; `DeniedError` if it is nobody's, or has expired."""
        (found,) = self.callers([token], now=now)
        if isinstance(found, DeniedError):
            raise found
        return found

    def callers(self, tokens: Sequence[str], *, now: int) -> list[Caller | DeniedError]:
        """Return whose each of these tokens is, or what `caller` raises of it."""
        hashes = [secret_hash(token) for token in tokens]
        found: dict[bytes, list[tuple[Any, ...]]] = defaultdict(list)
        for part, marks in chunks(list(dict.fromkeys(hashes))):
            for hash_, *row in self._sql.fetch(_CALLERS.format(marks=marks), (*part, *part)):
                found[bytes(hash_)].append(tuple(row))
        return [_caller(found.get(hash_, ()), now) for hash_ in hashes]

    def holders(self, keys: Collection[bytes]) -> dict[bytes, Holder]:
        """Return whose those of these keys are that are enrolled."""
        found: dict[bytes, list[tuple[Any, ...]]] = defaultdict(list)
        for part, marks in chunks(list(keys)):
            for key, *row in self._sql.fetch(_HOLDERS.format(marks=marks), part):
                found[bytes(key)].append(tuple(row))
        return {key: _holder(rows) for key, rows in found.items()}

    def authorize(
        self,
        caller: Caller,
        scope: str,
        key: bytes,
        *,
        roles: Sequence[str] = ("write",),
        vouched: Callable[[], Sequence[Vouch]],
        now: int,
        holders: Mapping[bytes, Holder] | None = None,
    ) -> None:
        """Check that a segment of this scope and key may be admitted from this caller; else `DeniedError`.

        The key must be enrolled with these roles on the scope, and the token be the same principal's, or hold relay.
        For a key that nobody here enrolled, who is a peer on the scope vouches, but for what takes more than writing:
        so hubs bring what their own sites wrote. An admin's push enrols such keys: so the hub's own user needs no
        ceremony. A key that follows an enrolled one (``vouched``, checked) is enrolled as the same principal's.

        ``holders``: of some enrolled keys, what `holders` returned just now.
        """
        found = (holders or {}).get(key) or self.holders([key]).get(key)
        if found is not None and found.is_revoked:
            raise _revoked()
        holder = None if found is None else found.who
        chain = () if holder else vouched()
        if chain and (heir := self._heir(chain, key)):
            _must_be_brought(caller, heir, roles, scope)
            with self._sql.write(durable=True) as connection:
                succession.enrol(connection, chain, key, now=now)
            return
        if holder is None:
            if not caller.may("admin", scope):
                if caller.may("peer", scope):
                    if self._sql.fetch("SELECT 1 FROM hub_revoked WHERE key = ?", (key,)):
                        raise _revoked()
                    _must_hold(caller, [role for role in roles if role != "write"], scope)
                    return
                raise DeniedError(
                    f"The key that signed records of {scope} is not enrolled at this hub.",
                    hint="Join with an invite: cmf remote add NAME URL --invite CODE.",
                    kind="key",
                )
            with self._sql.write(durable=True) as connection:
                _refuse_revoked(connection, key)
                if self._principal_of(connection, key) is None:
                    self._enrol_key(connection, key, caller.principal)
            holder = caller
        _must_be_brought(caller, holder, roles, scope)

    def _heir(self, chain: Sequence[Vouch], key: bytes) -> Caller | None:
        with self._sql.read() as connection:
            _refuse_revoked(connection, key)  # a key may be revoked before it is enrolled
            found = succession.heir(connection, chain, key)
            return None if found is None else self._caller(connection, found.principal)

    def principal(self, principal: int) -> Caller:
        """Return what a principal may do, by its number; one that is not there may nothing."""
        with self._sql.read() as connection:
            row = connection.execute("SELECT 1 FROM hub_principal WHERE p = ?", (principal,)).fetchone()
            return self._caller(connection, principal) if row else Caller(principal=principal, name="", roles=())

    # ---- objects -------------------------------------------------------------------------------------------------

    def granted(self, scope: str, digests: Sequence[str]) -> set[str]:
        """Return which of these objects were sent under a scope."""
        found: set[str] = set()
        for part, marks in chunks(digests):
            found.update(
                digest
                for (digest,) in self._sql.fetch(
                    f"SELECT digest FROM hub_grant WHERE scope = ? AND digest IN ({marks})", (scope, *part)
                )
            )
        return found

    def lacking(self, scope: str, after: str, limit: int) -> list[tuple[str, bool]]:
        """Return the next digests that records of a scope promise, in order, and whether their object was sent there.

        Which was sent before the record came, so that nobody has noted it; whoever asks does.
        """
        return [(digest, sent is not None) for digest, sent in self._sql.fetch(_LACKING, (scope, after, limit))]

    def grant(self, scope: str, digests: Iterable[str]) -> None:
        """Note that the bytes of some objects were sent under a scope."""
        with self._sql.write(durable=True) as connection:
            connection.executemany(
                "INSERT INTO hub_grant (scope, digest) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [(scope, digest) for digest in digests],
            )

    def grants(self, scope: str, after: str, limit: int) -> list[str]:
        """Return the next objects sent under a scope, in order of digest."""
        rows = self._sql.fetch(
            "SELECT digest FROM hub_grant WHERE scope = ? AND digest > ? ORDER BY digest LIMIT ?", (scope, after, limit)
        )
        return [digest for (digest,) in rows]

    def revoke(self, scope: str, digest: str) -> int:
        """Take a grant back; return how many there were."""
        with self._sql.write(durable=True) as connection:
            done = connection.execute("DELETE FROM hub_grant WHERE scope = ? AND digest = ?", (scope, digest))
            return int(done.rowcount)

    def may_read(self, caller: Caller, digest: str, scope: str = "") -> bool:
        """Tell whether an object was sent under a scope (that one, if given) that a caller may read."""
        scopes = self._sql.fetch("SELECT scope FROM hub_grant WHERE digest = ?", (digest,))
        return any(caller.may("read", granted) for (granted,) in scopes if scope in ("", granted))

    # ---- rows ----------------------------------------------------------------------------------------------------

    def _make(self, connection: Connection, name: str) -> int:
        row = connection.execute("INSERT INTO hub_principal (name) VALUES (?) RETURNING p", (name,)).fetchone()
        return int(row[0])

    def _enrol_key(self, connection: Connection, key: bytes, principal: int) -> None:
        connection.execute("INSERT INTO hub_key (key, p) VALUES (?, ?)", (key, principal))

    def _principal_of(self, connection: Connection, key: bytes) -> int | None:
        row = connection.execute("SELECT p FROM hub_key WHERE key = ?", (key,)).fetchone()
        return int(row[0]) if row else None

    def _caller(self, connection: Connection, principal: int) -> Caller:
        (name,) = connection.execute("SELECT name FROM hub_principal WHERE p = ?", (principal,)).fetchone()
        roles = _roles(connection.execute("SELECT prefix, role FROM hub_role WHERE p = ? ORDER BY 1, 2", (principal,)))
        return Caller(principal=principal, name=name, roles=roles)


def _caller(rows: Sequence[tuple[Any, ...]], now: int) -> Caller | DeniedError:
    """Return whose a token is, by its rows of `_CALLERS`; an error if it has none, or has expired."""
    if not rows or rows[0][1] < now:
        return DeniedError(
            "This hub does not know the token, or it has expired.",
            hint="Join again with an invite: cmf remote add NAME URL --invite CODE.",
            kind="token",
        )
    principal, expires, name = rows[0][:3]
    held = _roles(row[4:] for row in rows if not row[3] and row[4] is not None)
    caller = Caller(principal=principal, name=name, roles=held, expires_us=expires)
    narrowed = _roles(row[4:] for row in rows if row[3])
    if not narrowed:
        return caller
    held = tuple(role for role in narrowed if caller.may(role.role, role.prefix))  # what was taken since is lost
    return msgspec.structs.replace(caller, roles=held, is_narrowed=True)


def _holder(rows: Sequence[tuple[Any, ...]]) -> Holder:
    """Return whose a key is, by its rows of `_HOLDERS`."""
    principal, name, revoked = rows[0][:3]
    held = _roles(row[3:] for row in rows if row[3] is not None)
    return Holder(Caller(principal=principal, name=name, roles=held), is_revoked=revoked is not None)


def _must_be_brought(caller: Caller, holder: Caller, roles: Sequence[str], scope: str) -> None:
    """Check that a key's holder may write, and that the caller is the same principal or may bring what others sign."""
    _must_hold(holder, roles, scope)
    if holder.principal == caller.principal:
        _must_hold(caller, roles, scope, name="This token")
    elif not caller.may("relay", scope):
        raise DeniedError(f"{caller.name} may not bring records that {holder.name} signed.", kind="relay")


def _must_hold(who: Caller, roles: Sequence[str], scope: str, *, name: str = "") -> None:
    for role in roles:
        if not who.may(role, scope):
            raise DeniedError(
                f"{name or who.name} may not {role} in {scope}.",
                hint=f"Ask the hub's admin for the role {role} there, and push again.",
                kind="scope",
            )


def _roles(rows: Iterable[tuple[str, str]]) -> tuple[Role, ...]:
    return tuple(Role(prefix, role) for prefix, role in rows)


def _refuse_revoked(connection: Connection, key: bytes) -> None:
    if succession.is_revoked(connection, key):
        raise _revoked()


def _revoked() -> DeniedError:
    return DeniedError(
        "This key was revoked: what it signed before stays, and nothing new is taken.",
        hint="Make another with 'cmf key rotate', and join with an invite: cmf remote add NAME URL --invite CODE.",
        kind="revoked",
    )


def new_token(connection: Connection, principal: int, expires: int) -> str:
    """Make a token of a principal; return its secret, of which only the hash is kept."""
    token = secrets.token_urlsafe(32)
    connection.execute(
        "INSERT INTO hub_token (hash, p, expires) VALUES (?, ?, ?)", (secret_hash(token), principal, expires)
    )
    return token


def secret_hash(secret: str) -> bytes:
    """Return what is kept of a token or a code."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
