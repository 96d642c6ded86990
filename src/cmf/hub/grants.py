"""Objects at a hub, as they are sent under scopes and read from there: for a caller whose token was checked.

Bytes are granted under the scope that they were sent under, and to no other: whoever knows a digest has nothing by it.
Safe to call from several threads.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from typing import NamedTuple

from cmf import errors
from cmf.errors import CmfError, ConflictError, CorruptError, DeniedError, NotFoundError, UnsupportedError, UsageError
from cmf.hub.auth import Auth, Caller
from cmf.hub.bodies import framed, page
from cmf.hub.direct import Direct
from cmf.hub.objects import HubObjects, Put
from cmf.hub.parts import Incoming, Parts
from cmf.hub.quotas import Quotas
from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.records import is_scope
from cmf.objects import check_name, manifest, mismatched
from cmf.store.dialect import Dialect
from cmf.store.sql import SqlStore


class Grants:
    """What is granted at one hub, and the way in and out for bytes."""

    def __init__(
        self,
        dialect: Dialect,
        store: SqlStore,
        auth: Auth,
        quotas: Quotas,
        objects: HubObjects,
        parts: Parts,
        direct: Direct,
    ) -> None:
        self._dialect = dialect
        self._store = store
        self._auth = auth
        self._quotas = quotas
        self._objects = objects
        self._parts = parts
        self._direct = direct

    def check(self, caller: Caller, scope: str, digest: str = "") -> None:
        """Check that a caller may send an object, or any, under a scope: before a byte of it is read."""
        if not is_scope(scope):
            raise UsageError(f"'{scope[:200]}' is not a scope.", hint="Such as 'detector/train'.")
        if not caller.may_send(scope):
            raise DeniedError(f"{caller.name} may not write in {scope[:200]}.", kind="scope")
        if digest:
            check_name(digest)

    def missing(self, caller: Caller, asked: wire.Missing) -> list[str]:
        """Return which objects were not yet sent under a scope; of a manifest that was, its members that were not."""
        if len(asked.digests) > wire.MISSING_MAX:
            raise UsageError(f"{len(asked.digests)} objects at once are over the limit.", kind="limit")
        self.check(caller, asked.scope)
        for digest in asked.digests:
            digests.check_digest(digest)
        granted = self._auth.granted(asked.scope, asked.digests)
        return [digest for digest in asked.digests if digest not in granted]

    def part(self, caller: Caller, scope: str, digest: str) -> wire.Part | int:
        """Return what is here of an object that the caller sends under a scope: see `Parts.held`."""
        self.check(caller, scope, digest)
        return self._parts.held(caller.principal, scope, digest)

    def begin(
        self, caller: Caller, scope: str, digest: str, start: int = 0, *, expected: int | None = None
    ) -> Incoming:
        """Begin to take in an object under a scope, or go on behind what is here of it: see `Parts.begin`.

        What comes is counted, unless it was sent there before; and what other parts of the caller's take up, must go
        if no quota leaves room for it. ``expected``: how many bytes come, if that is known. `ConflictError` of kind
        ``quota``.
        """
        self.check(caller, scope, digest)
        is_granted = bool(self._auth.granted(scope, [digest]))
        flight = self._quotas.flight(None if is_granted else caller.principal, scope)
        incoming = self._parts.begin(caller.principal, scope, digest, start)
        try:
            incoming.count(flight, expected)
        except CmfError:
            incoming.close()
            raise
        if (left := flight.left()) is not None:
            self._parts.bound(caller.principal, left, but=incoming)
        return incoming

    def put(self, caller: Caller, scope: str, digest: str, incoming: Incoming, *, folder: bool) -> int:
        """Make what came the object, verified; grant it under a scope.

        ``folder``: these bytes are a folder's manifest, which is granted only once every member was sent there.
        """
        if folder:  # checked before it is kept: what is refused would stay, and nobody would own it
            try:
                self._check_members(scope, digest, incoming.whole(manifest.MANIFEST_BYTES_MAX))
            except CmfError:
                incoming.discard()
                raise
        size = incoming.settle(self._objects)
        self._grant(caller, scope, {digest: _Taken(size, folder)})
        return size

    def lend(self, caller: Caller, digest: str, asked: wire.AskUpload) -> wire.Upload:
        """Return where a caller can put an object's bytes past this hub; no address if they must pass through it."""
        self.check(caller, asked.scope)

        def lent(ticket: str) -> None:
            if not self._auth.granted(asked.scope, [digest]):  # what was sent there may come again
                self._quotas.lend(ticket, caller.principal, asked.scope, asked.size)

        return self._direct.lend(caller.name, digest, asked, lent=lent)

    def settle(self, caller: Caller, digest: str, told: wire.Uploaded) -> int:
        """Grant an object that was put past this hub under a scope, once it is certain that it was; return its size."""
        self.check(caller, told.scope)
        return self._direct.settle(
            caller.name,
            digest,
            told,
            granted=lambda: digest in self._auth.granted(told.scope, [digest]),
            grant=lambda: self._grant(caller, told.scope, {digest: _Taken(told.size)}, told.ticket),
        )

    def address(self, digest: str, size: int) -> str:
        """Return where an object that the caller may read can be got past this hub; "" if it must pass through it."""
        return self._direct.address(digest, size)

    def put_all(self, caller: Caller, scope: str, body: bytes) -> wire.Taken:
        """Take in the small objects of a body under a scope, in order; grant those that verify, all at once.

        They are durable before any is granted. A body that is not objects' frames is refused before anything is kept.
        """
        self.check(caller, scope)
        return self.take(caller, scope, [wire.to_small(data) for data in framed(body, wire.OBJECT, "set of objects")])

    def take(self, caller: Caller, scope: str, found: Sequence[wire.Small]) -> wire.Taken:
        """Take in small objects under a scope, as `put_all` does."""
        self.check(caller, scope)
        if len(found) > wire.BULK_MAX:
            raise UsageError(f"{len(found)} objects at once are over the limit of {wire.BULK_MAX}.", kind="limit")
        taken: dict[str, _Taken] = {}
        refused: list[wire.NotTaken] = []
        granted = self._auth.granted(scope, [small.digest for small in found])
        with self._quotas.flight(caller.principal, scope) as flight, self._objects.together() as put:
            for small in found:
                try:
                    if small.digest not in granted and small.digest not in taken:
                        flight.take(len(small.data))
                    self._put_small(scope, small, taken, put)
                except (ConflictError, CorruptError, UsageError, UnsupportedError) as error:
                    refused.append(_not_taken(small.digest, error))
            self._grant(caller, scope, taken)
        return wire.Taken(count=len(found) - len(refused), refused=refused)

    def _put_small(self, scope: str, small: wire.Small, taken: dict[str, _Taken], put: Put) -> None:
        """Take in one of some objects; it is durable and granted only with all of them."""
        if small.large or len(small.data) > wire.SMALL_BYTES:
            raise UsageError(
                f"Object {small.digest} is over the limit of {wire.SMALL_BYTES} bytes for one sent with others.",
                hint="Send it by itself.",
                kind="limit",
            )
        if small.folder:
            actual = digests.file_digest(small.data)
            if actual != small.digest:
                raise mismatched(small.digest, actual)
            self._check_members(scope, small.digest, small.data, taken)
        put(small.digest, small.data)
        before = taken.get(small.digest)
        taken[small.digest] = _Taken(len(small.data), small.folder or (before is not None and before.is_folder))

    def _check_members(self, scope: str, digest: str, data: bytes, taken: Container[str] = ()) -> None:
        """Check that every file of a folder was sent under a scope, or is among those being taken in."""
        members = [entry.digest for entry in manifest.decode(data) if entry.digest not in taken]
        lacking = set(members) - self._auth.granted(scope, members)
        if lacking:
            raise UsageError(
                f"The folder {digest} has {len(lacking)} files that were not sent under {scope} yet.",
                hint="Send them first.",
                kind="members",
            )

    def _grant(self, caller: Caller, scope: str, taken: Mapping[str, _Taken], ticket: str = "") -> None:
        """Count and grant objects under a scope in one transaction, and note that they came.

        ``ticket``: of the upload past this hub that this settles. `ConflictError` of kind ``quota``.
        """
        folders = [digests.TREE + digest.removeprefix(digests.FILE) for digest, one in taken.items() if one.is_folder]
        with self._dialect.write(durable=True) as connection:
            sizes = {digest: one.size for digest, one in taken.items()}
            self._quotas.grant(connection, caller.principal, scope, sizes, ticket)
            self._auth.grant(scope, taken)
            self._store.kept((digest, scope) for digest in (*taken, *folders))

    def get_all(self, caller: Caller, asked: wire.Digests) -> bytes:
        """Return a page of objects in the order asked for: those that the caller may read, large ones without bytes."""
        if len(asked.digests) > wire.MISSING_MAX:
            raise UsageError(f"{len(asked.digests)} objects at once are over the limit.", kind="limit")
        for digest in asked.digests:
            check_name(digest)
        return page(self._readable(caller, asked), wire.OBJECT)

    def _readable(self, caller: Caller, asked: wire.Digests) -> Iterator[bytes]:
        readable = (digest for digest in asked.digests if self._auth.may_read(caller, digest, asked.scope))
        return map(wire.from_small, self._objects.smalls(readable, wire.SMALL_BYTES))

    def sent(self, caller: Caller, scope: str, after: str) -> list[tuple[str, int]]:
        """Return (digest, size) of the next objects sent under a readable scope."""
        if not caller.may("read", scope):
            raise DeniedError(f"{caller.name} may not read {scope[:200]}.", kind="scope")
        return [(digest, self._objects.size(digest)) for digest in self._auth.grants(scope, after, wire.MISSING_MAX)]

    def revoke(self, caller: Caller, scope: str, digest: str) -> int:
        """Take a grant back; return whether there was one (0 or 1)."""
        if not caller.may("admin", scope):
            raise DeniedError(f"{caller.name} is not admin of {scope[:200]}.", kind="scope")
        with self._dialect.write(durable=True) as connection:
            self._quotas.take_back(connection, scope, digests.check_digest(digest))
            return self._auth.revoke(scope, digest)

    def size(self, caller: Caller, digest: str, scope: str = "") -> int:
        """Return the size of an object that the caller may read; anything else is not there.

        ``scope``: only if it was sent under that.
        """
        digests.check_digest(digest)
        if not self._auth.may_read(caller, digest, scope):
            raise NotFoundError(f"Object {digest} is not here.", kind="object")
        return self._objects.size(digest)


class _Taken(NamedTuple):
    """An object whose bytes are kept, and that is to be granted."""

    size: int
    is_folder: bool = False


def _not_taken(digest: str, error: CmfError) -> wire.NotTaken:
    status = errors.http_status(error)
    return wire.NotTaken(digest=digest, kind=error.kind, message=error.message, hint=error.hint, status=status)
