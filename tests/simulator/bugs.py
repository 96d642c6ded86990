"""Bugs of the kind that such systems have had, each planted in the product from outside while a seed runs.

A simulator that does not find them would not find their like either.
"""

import contextlib
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec

from cmf import collect, following, journal, resealing, signing, sync
from cmf.errors import DeniedError
from cmf.graph import registers
from cmf.hub import auth, cursors, succession
from cmf.hub.auth import Auth, Caller
from cmf.hub.grants import Grants
from cmf.hub.log import Log
from cmf.hub.service import Hub
from cmf.model import log, prefixes, rotation
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.store import arriving, chain, current, fold, redacting, sql, standing
from cmf.store.sql import SqlStore
from tests.simulator.disk import Database

Bug = Callable[[], contextlib.AbstractContextManager[Any]]


def _patched(owner: Any, name: str, made: Callable[[Any], Any]) -> Bug:
    """Return a bug that puts something made from it in the place of an attribute."""
    return lambda: mock.patch.object(owner, name, made(getattr(owner, name)))


def _lazy(*owners: type) -> Callable[[Any], Any]:
    """Make a method of a store, or of what holds one, commit without waiting for the disk."""

    def wrap(method: Any) -> Any:
        def lazily(self: Any, *args: Any, **options: Any) -> Any:
            write = Database.write
            with mock.patch.object(Database, "write", lambda disk, *, durable=False: write(disk, durable=False)):
                return method(self, *args, **options)

        return lazily

    return wrap


def _states_before_records(take: Any) -> Any:
    def takes(self: SqlStore, name: str, before: str, after: str, records: Any, waiting: Any = ()) -> bool:
        if not take(self, name, before, after, (), ()):
            return False
        self.add(records, waiting)
        return True

    return takes


def _page_that_forgets(page: Any) -> Any:
    """Have the cursor of a page that was cut stand behind everything that was looked at."""

    def behind(self: Hub, text: str, view: Any, held: Any) -> Any:
        root, size = self.log.root, cursors.from_text(text).size
        looked_at = len(self.log.entries(size, 7))
        with mock.patch.object(
            cursors, "to_text", lambda c: f"{size + looked_at}.{root(size + looked_at).hex()}.{c.view}"
        ):
            return page(self, text, view, held)

    return behind


def _cursor_first(pull: Any) -> Any:
    def pulls(store: SqlStore, local: Any, hub: Any, view: Any, moved: Any, progress: Any) -> None:
        store.set_meta(f"cursor {hub.url} {' '.join(view.scopes)}", hub.standing(view, 0).cursor)
        pull(store, local, hub, view, moved, progress)

    return pulls


def _log_with_gaps(append: Any) -> Any:
    def appends(self: Log, connection: Any, hashes: Sequence[bytes]) -> None:
        append(self, connection, [hash_ for hash_ in hashes if hash_[0] >= 32])

    return appends


def _random_salts(salted: Any) -> Any:
    def adds(record: Any, secret: bytes) -> Any:
        return salted(record, random._urandom(16))  # type: ignore[attr-defined]

    return adds


def _copies_stay_who_they_are(site: Any) -> Any:
    def finds(folder: Path) -> Any:
        path = folder / "site"
        if path.exists():
            held = msgspec.json.decode(path.read_bytes())
            held["inode"] = path.stat().st_ino
            path.write_bytes(msgspec.json.encode(held))
        return site(folder)

    return finds


def _new_streams_only(differing: Any) -> Any:
    def finds(held: Any, ask: Any) -> Any:
        found = differing(held, ask)
        return {stream: heads for stream, heads in found.items() if not (heads and held.heads(stream.hex()))}

    return finds


def _frames_unchecked() -> Any:
    """Whatever is asked about a frame's checksum, it is right."""

    class Always(int):
        __eq__ = lambda self, other: True  # noqa: E731
        __ne__ = lambda self, other: False  # noqa: E731
        __hash__ = int.__hash__

    return lambda data: Always(zlib.crc32(data))


def _only_sealed(items: Any) -> Any:
    def found(connection: Any) -> Iterator[Any]:
        waiting = set(connection.execute("SELECT scope, id FROM pending").fetchall())
        return (item for item in items(connection) if (item.scope, item.id) not in waiting)

    return found


def _lost_stays(key: str, writes: Any) -> Any:
    return max(writes, key=lambda write: (write.t, write.record), default=None)


def _objects_of_others(grant: Any) -> Any:
    def grants(self: Grants, caller: Any, scope: str, taken: Any, ticket: str = "") -> None:
        grant(self, caller, scope, taken, ticket)
        with self._dialect.read() as connection:
            promised = connection.execute("SELECT digest FROM promised WHERE scope = ?", (scope,)).fetchall()
        self._auth.grant(scope, [digest for (digest,) in promised if digest.startswith("sha256:")])

    return grants


def _nobody_is_refused(authorize: Any) -> Any:
    def allows(self: Auth, caller: Any, scope: str, key: bytes, **asked: Any) -> None:
        with contextlib.suppress(DeniedError):
            authorize(self, caller, scope, key, **asked)

    return allows


def _heads_stay(advance: Any) -> Any:
    def advances(connection: Any, moved: Any) -> None:
        before = connection.execute("SELECT s, n, hash FROM head").fetchall()
        advance(connection, moved)
        connection.executemany("INSERT INTO head (s, n, hash) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", before)

    return advances


def _remembered(caller: Any) -> Any:
    known: dict[str, Any] = {}

    def finds(self: Auth, token: str, *, now: int) -> Any:
        with contextlib.suppress(DeniedError):
            known[token] = caller(self, token, now=now)
        if token not in known:
            return caller(self, token, now=now)
        return known[token]

    return finds


def _behind_by_number(behind: Any) -> Any:
    """Believe of a stream that whoever holds a segment of it holds all up to that number."""

    def counts(connection: Any, s: int, held: Any) -> Any:
        n = max((head.n for head in held), default=-1)
        return [
            g
            for (g,) in connection.execute(
                "SELECT g FROM segment WHERE s = ? AND n > ? AND sparse = 0 ORDER BY n, hash", (s, n)
            )
        ]

    return counts


def _one_branch(insert: Any) -> Any:
    def inserts(self: Any, one: Any) -> Any:
        fields = one.segment.fields
        if hasattr(fields, "prev"):
            first = self._connection.execute(
                "SELECT hash FROM segment WHERE prev = ? ORDER BY g LIMIT 1", (bytes.fromhex(fields.prev),)
            ).fetchone()
            if first is not None and bytes(first[0]) != one.segment.hash:
                return None, ()
        return insert(self, one)

    return inserts


def _never_sparse(insert: Any) -> Any:
    """Take a segment for complete although the one before it is not there."""

    def inserts(connection: Any, segment: Any, s: int, *, sparse: bool) -> Any:
        return insert(connection, segment, s, sparse=False)

    return inserts


@contextlib.contextmanager
def _redactions_count_once() -> Iterator[None]:
    """Have a redaction drop what is there, and look at nothing that comes later."""
    redact = redacting.redact

    def only_new(batch: Any, items: Any) -> Any:
        return redact(batch, [item for item in items if model.redacts(item.record)])

    with (
        mock.patch.object(arriving, "_without_redacted", lambda one, said: one),
        mock.patch.object(fold, "redact", only_new),
    ):
        yield


def _writing_is_enough(authorize: Any) -> Any:
    def allows(self: Auth, caller: Any, scope: str, key: bytes, **asked: Any) -> None:
        authorize(self, caller, scope, key)

    return allows


def _asked_once(pull: Any) -> Any:
    """Look for what a filter finds once, and never again when the hub has more."""

    def pulls(store: SqlStore, local: Any, hub: Any, view: Any, moved: Any, progress: Any) -> Any:
        if view.where and store.meta(sync._cursor(hub, view)):
            return []
        return pull(store, local, hub, view, moved, progress)

    return pulls


def _narrowing_drops(follow: Any) -> Any:
    """Remove what a store follows no longer, though it may be what another view needs."""

    def follows(store: SqlStore, url: str, views: Any) -> None:
        follow(store, url, views)
        with store._sql.write(durable=True) as connection:
            for s, scope, own in connection.execute("SELECT s, scope, own FROM stream").fetchall():
                if views and not own and not any(view.covers(scope) for view in views):
                    for table in ("segment", "head", "stream"):
                        connection.execute(f"DELETE FROM {table} WHERE s = ?", (s,))

    return follows


@contextlib.contextmanager
def _cursor_of_any_view() -> Iterator[None]:
    """Keep a cursor by the hub alone, good for whatever is pulled next."""
    with (
        mock.patch.object(sync, "_cursor", lambda hub, view: f"cursor {hub.url}{' where' * bool(view.where)}"),
        mock.patch.object(cursors, "of", return_value="0" * 32),
    ):
        yield


BUGS: dict[str, Bug] = {
    "a cursor is believed by its number alone": _patched(
        Log, "holds", lambda _: lambda self, size, root: size <= self.size()
    ),
    "heads are compared by their numbers": _patched(standing, "behind", _behind_by_number),
    "a segment is taken in without the one before it": _patched(arriving, "insert_segment", _never_sparse),
    "a redaction counts only for what was there": _redactions_count_once,
    "a redaction leaves the rows": _patched(redacting, "_forget_all", lambda _: lambda batch, gone: []),
    "a redaction leaves the bytes": _patched(segments, "with_body", lambda _: lambda segment, frames: segment),
    "whoever writes may redact": _patched(Auth, "authorize", _writing_is_enough),
    "a cursor is good for any view": _cursor_of_any_view,
    "what a filter finds is asked for once": _patched(sync, "_pull", _asked_once),
    "what is followed no longer goes": _patched(following, "follow", _narrowing_drops),
    "of two branches the first to come is kept": _patched(arriving._Held, "insert", _one_branch),
    "a cursor is kept before what it passes": _patched(sync, "_pull", _cursor_first),
    "the cursor of a cut page passes all that was looked at": _patched(Hub, "_behind", _page_that_forgets),
    "the log skips some segments": _patched(Log, "append", _log_with_gaps),
    "a hub acknowledges before it is durable": _patched(SqlStore, "insert", _lazy()),
    "a segment is sent before it is durable": _patched(SqlStore, "seal", _lazy()),
    "a journal goes before its records are durable": _patched(SqlStore, "checkpoint", lambda _: lambda self: None),
    "a journal's offset is committed before its records": _patched(SqlStore, "take", _states_before_records),
    "the checksums of a journal are not looked at": _patched(
        journal, "zlib", lambda _: SimpleNamespace(crc32=_frames_unchecked())
    ),
    "a draft gets another salt each time": _patched(model, "salted", _random_salts),
    "a copied store goes on as the one it was": _patched(collect, "site", _copies_stay_who_they_are),
    "the last write to come wins": _patched(current, "_UPSERT_NEWER", lambda _: current._UPSERT),
    "equal times are not told apart": _patched(
        current, "_UPSERT_NEWER", lambda _: current._UPSERT + " WHERE excluded.t > register.t"
    ),
    "a retraction hides nothing that came before it": _patched(fold, "_retract", lambda _: lambda *_: None),
    "a head stays when the next segment comes": _patched(chain, "advance", _heads_stay),
    "nobody compares a hub's log with what it was": _patched(log, "is_consistent", lambda _: lambda *_: True),
    "a token is good for ever": _patched(Auth, "caller", _remembered),
    "lost stays lost": _patched(registers, "current", lambda _: _lost_stays),
    "signatures are not checked": _patched(signing, "verify", lambda _: lambda public, message, signature: True),
    "anybody may bring anything": _patched(Auth, "authorize", _nobody_is_refused),
    "everybody reads everything": _patched(Caller, "readable", lambda _: lambda self: None),
    "hubs that sync bring each other only streams that are new": _patched(prefixes, "differing", _new_streams_only),
    "a hub asks for no objects": _patched(Hub, "wanted", lambda _: lambda self, scopes, after=None: []),
    "an object is granted that never came": _patched(Grants, "_grant", _objects_of_others),
    "a key follows whichever it says": _patched(rotation, "check", lambda _: lambda *_: None),
    "a key vouches for as many as come": _patched(succession, "_refuse_second", lambda _: lambda *_: None),
    "a key that was revoked signs on": _patched(auth, "_HOLDERS", lambda sql: sql.replace("v.at", "NULL")),
    "what an earlier key signed is not sealed again": _patched(resealing, "left", lambda _: lambda *_: {}),
    "a rebuilt store forgets what is not sealed": _patched(sql, "all_items", _only_sealed),
}

RARE = {
    "a cursor is believed by its number alone": 199,
    "heads are compared by their numbers": 233,
    "a redaction counts only for what was there": 42,
    "of two branches the first to come is kept": 233,
    "a journal goes before its records are durable": 94,
    "equal times are not told apart": 70,
    "nobody compares a hub's log with what it was": 244,
    "a token is good for ever": 61,
    "a key that was revoked signs on": 20,
    "what an earlier key signed is not sealed again": 138,
    "hubs that sync bring each other only streams that are new": 14,
}
"""From which seed on to look for those that few stories show."""
