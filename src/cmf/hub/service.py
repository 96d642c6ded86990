"""A hub without its HTTP: what each request does, for a caller whose token was checked.

Safe to call from several threads. Times come from the caller's clock in `Hub.now`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cmf import signing
from cmf.errors import CmfError, ConflictError, DeniedError, UnsupportedError, UsageError
from cmf.graph import lineage
from cmf.graph.questions import Answer, Ask, AskLineage, LineageAnswer, answer
from cmf.hub import cursors
from cmf.hub.access import Access
from cmf.hub.auth import Auth, Caller
from cmf.hub.bodies import page
from cmf.hub.direct import Direct
from cmf.hub.grants import Grants
from cmf.hub.log import Log
from cmf.hub.objects import FOLDER, open_objects
from cmf.hub.parts import INCOMING, Parts
from cmf.hub.peers import Peers
from cmf.hub.pushing import Pushing
from cmf.hub.quotas import Quotas
from cmf.hub.readable import ReadableIndex
from cmf.model import enrolment, prefixes, wire
from cmf.model import segment as segments
from cmf.model.exchange import Head, View
from cmf.model.records import covers, is_scope, split_execution
from cmf.objects.local import TEMPORARY
from cmf.store.dialect import Dialect
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.worktree.uri import bare

DATABASE = "hub.db"
LINEAGE_SECONDS = 10.0
HELD_MAX = 4
"""How many views' heads are kept in memory, as they were at a size of the log."""


def open_database(folder: Path, url: str = "") -> Dialect:
    """Open a hub's database: that of a ``postgresql://`` URL, else the file in its folder."""
    if not url:
        return Sqlite(folder / DATABASE)
    if not url.startswith(("postgresql://", "postgres://")):
        raise UsageError(
            f"'{bare(url)}' is no database that a hub can use.",
            hint="Give postgresql://USER@HOST/DATABASE, or nothing for a file in the hub's folder.",
        )
    try:
        from cmf.store.postgres import Postgres
    except ImportError as error:
        raise UnsupportedError(
            "PostgreSQL needs a part that is not installed.",
            hint="pip install 'common-metadata-framework[hub,postgres]'",
            kind="extra",
        ) from error
    return Postgres(url)


class Hub:
    """A store, its objects, and who may use them: all in one folder, or the store in a database, objects in a bucket.

    ``database``, ``objects``: their URLs. ``options``: settings of the cloud's client that are not its own to find.
    ``secret``: of the key to the bucket, with which uploads past the hub are signed; without it there are none.
    """

    def __init__(
        self,
        folder: Path,
        database: str = "",
        objects: str = "",
        options: Mapping[str, str] | None = None,
        secret: str = "",
    ) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self.key = signing.Key(signing.kept_secret(folder / "keys" / "hub"))
        self._dialect = open_database(folder, database)
        self.log = Log(self._dialect, self.key)
        self.quotas = Quotas(self._dialect, self.now)
        self.store = SqlStore(self._dialect, logged=self.log.append, tallied=self.quotas.tally)
        self.auth = Auth(self._dialect)
        self.pushing = Pushing(self.store, self.auth, now=self.now, wanted=self.wanted)
        self.access = Access(self._dialect, self.now)
        self.peers = Peers(self._dialect, self.now)
        self._held: dict[View, tuple[int, prefixes.Digests]] = {}
        try:
            self.objects = open_objects(folder, objects, options or {})
        except CmfError:
            self.store.close()
            raise
        self.quotas.begin(self.objects)
        self.grants = Grants(
            self._dialect,
            self.store,
            self.auth,
            self.quotas,
            self.objects,
            Parts(folder / INCOMING if objects else folder / FOLDER / TEMPORARY),
            Direct(folder, self.objects, secret),
        )

    def close(self) -> None:
        """Close the database and the objects."""
        self.store.close()
        self.objects.close()

    def check(self) -> None:
        """Ask the database something; `UnreachableError` if it does not answer."""
        self.store.meta("ready")

    def counts(self) -> dict[str, float]:
        """Return how many of each thing there are, for those who run the hub."""
        return {"log_size": self.log.size(), **{f"{name}s": count for name, count in self.store.counts().items()}}

    @staticmethod
    def now() -> int:
        """Return the wall time in µs."""
        return time.time_ns() // 1000

    def info(self, caller: Caller | None) -> wire.HubInfo:
        """Say who this hub is; to a caller with a token, who the caller is."""
        return wire.HubInfo(
            hub=self.key.public.hex(),
            versions=[wire.API_VERSION],
            time_us=self.now(),
            limits={
                "push_bytes": wire.PUSH_BYTES_MAX,
                "segment_bytes": segments.WIRE_BYTES_MAX,
                "streams": wire.STREAMS_MAX,
                "missing": wire.MISSING_MAX,
                "objects_bytes": wire.BULK_BYTES_MAX,
                "objects": wire.BULK_MAX,
                "object_bytes": wire.SMALL_BYTES,
            },
            principal=caller.name if caller else "",
            roles=list(caller.roles) if caller else [],
        )

    def enrol(self, asked: wire.Enrol) -> wire.Enrolled:
        """Take an invite from who shows that they hold the key which they present; `DeniedError` from anybody else."""
        key, signature = wire.raw(asked.key), wire.raw(asked.signature, 64)
        if not signing.verify(key, enrolment.payload(asked.invite, asked.key, self.key.public.hex()), signature):
            raise DeniedError("The key that was presented did not sign this invite for this hub.", kind="key")
        token, caller = self.auth.enrol(asked.invite, key, asked.name[:100], now=self.now())
        return wire.Enrolled(token=token, principal=caller.name, roles=list(caller.roles))

    # ---- segments ------------------------------------------------------------------------------------------------

    def streams(self, caller: Caller, asked: wire.AskStreams) -> wire.Streams:
        """Return a page of sampled positions of the readable streams in a view."""
        found = self.store.samples(self._view(caller, asked), wire.raw(asked.after) if asked.after else b"")
        page_ = list(itertools.islice(found, wire.STREAMS_PAGE + 1))
        return wire.Streams(streams=wire.from_samples(page_[: wire.STREAMS_PAGE]), more=len(page_) > wire.STREAMS_PAGE)

    def digests(self, caller: Caller, asked: wire.AskDigests) -> dict[str, prefixes.Below]:
        """Return what this hub holds, as far as the caller may read, below the prefixes that the caller's differ in."""
        for scope in asked.scopes:
            if not (is_scope(scope) or is_scope(scope + "/x")):
                raise UsageError(f"'{scope[:200]}' is not a scope or the start of one.", hint="Such as 'detector'.")
        return prefixes.answer(self.held(View(scopes=tuple(asked.scopes), below=caller.readable())), asked.prefixes)

    def held(self, view: View) -> prefixes.Digests:
        """Return the heads of the streams in a view, to be compared by their digests."""
        size = self.log.size()
        at, found = self._held.get(view, (-1, prefixes.Digests({})))
        if at != size:
            found = prefixes.Digests(self.store.heads(view))
            kept = [(key, value) for key, value in self._held.items() if key != view][1 - HELD_MAX :]
            self._held = {**dict(kept), view: (size, found)}
        return found

    def have(self, caller: Caller, asked: wire.Having) -> wire.Held:
        """Return what this hub holds of some streams, and which objects of theirs it still lacks.

        A stream in a scope that the caller may neither read nor write is as one that isn't held.
        """
        samples = wire.to_samples(asked.streams)
        seen = []
        known = self.store.scopes_of_streams(sample.stream for sample in samples)
        scopes = {
            scope
            for scope in (self.store.scopes() if asked.below else ())
            if any(covers(prefix, scope) for prefix in asked.below) and caller.may_send(scope)
        }
        for sample in samples:
            scope = known.get(sample.stream)
            if scope is None:
                continue
            if caller.may("read", scope):
                seen.append(sample)
            if caller.may_send(scope):
                scopes.add(scope)
        wanted = self.wanted(sorted(scopes), asked.after)
        return wire.Held(
            streams=wire.from_heads(self.store.have(seen)),
            wanted=wanted[: wire.WANTED_MAX],
            more=len(wanted) > wire.WANTED_MAX,
        )

    def wanted(self, scopes: Sequence[str], after: tuple[str, str] | None = None) -> list[tuple[str, str]]:
        """Return the objects that records of some scopes name and that were not sent there, behind one of them.

        One more than `wire.WANTED_MAX` at most.
        """
        limit = wire.WANTED_MAX + 1
        came: list[tuple[str, str]] = []
        wanted: list[tuple[str, str]] = []
        for scope in scopes:
            if after is not None and scope < after[1]:
                continue
            at = after[0] if after is not None and scope == after[1] else ""
            more = True
            while more and len(wanted) < limit:
                found = self.auth.lacking(scope, at, limit)
                for digest, sent in found:
                    (came if sent else wanted).append((digest, scope))
                more = len(found) == limit
                at = found[-1][0] if found else at
        if came:
            self.store.kept(came)
        return wanted[:limit]

    def pull(self, caller: Caller, asked: wire.Asked) -> bytes:
        """Return the next page of readable segments in a view beyond what the caller holds, or behind a cursor.

        A cursor is believed only if this log begins with what it says, and its view is the same: else `ConflictError`
        of kind ``cursor``, and the caller says what it holds.
        """
        view = self._view(caller, asked)
        after = {wire.raw(stream): tuple(wire.to_heads(points)) for stream, points in asked.have.items()}
        if asked.cursor:
            return self._behind(asked.cursor, view, after)
        return page(self.store.segments(view, after))

    def standing(self, caller: Caller, asked: wire.Since) -> wire.Standing:
        """Return where the log stands for a view, signed, with the proof that it begins as it was at a size."""
        checkpoint, size, root, proof = self.log.standing(asked.size)
        cursor = cursors.Cursor(size, root, cursors.of(self._view(caller, asked)))
        return wire.Standing(
            cursor=cursors.to_text(cursor), checkpoint=checkpoint, proof=[hash_.hex() for hash_ in proof]
        )

    def proofs(self, caller: Caller, asked: wire.AskProofs) -> wire.Proofs:
        """Return where segments of scopes that the caller may read or write are in the log, and what shows it."""
        if len(asked.hashes) > wire.PROOFS_MAX:
            raise UsageError(f"{len(asked.hashes)} proofs at once are over the limit.", kind="limit")
        scopes = self.store.scopes_of(wire.raw(text) for text in asked.hashes)
        seen = [hash_ for hash_, scope in scopes.items() if caller.may("read", scope) or caller.may_send(scope)]
        return self.log.proofs(seen, asked.size, asked.since)

    def _behind(self, text: str, view: View, held: Mapping[bytes, tuple[Head, ...]]) -> bytes:
        cursor = cursors.from_text(text)
        if cursor.view != cursors.of(view) or not self.log.holds(cursor.size, cursor.root):
            raise ConflictError(
                "This hub cannot go on from there: its log or your access has changed.",
                hint="Pull again; what is held is compared instead.",
                kind="cursor",
            )
        hashes = self.log.entries(cursor.size, wire.ENTRIES_MAX)
        parts: list[bytes] = []
        size, end = 0, len(hashes)
        for number, data in self.store.following(hashes, view, held):
            if size and size + len(data) > wire.PULL_BYTES:
                end = number
                break
            parts.append(wire.frame(wire.SEGMENT, data))
            size += len(data)
        reached = cursor.size + end
        more = end < len(hashes) or len(hashes) == wire.ENTRIES_MAX
        following = cursors.to_text(cursors.Cursor(reached, self.log.root(reached), cursor.view))
        parts.append(wire.frame(wire.END, wire.encode(wire.End(count=len(parts), more=more, cursor=following))))
        return b"".join(parts)

    def get(self, caller: Caller, asked: wire.Hashes) -> bytes:
        """Return a page of readable segments by hash, each after its stream's genesis; the caller asks on for more."""
        if len(asked.hashes) > wire.HASHES_MAX:
            raise UsageError(f"{len(asked.hashes)} segments at once are over the limit.", kind="limit")
        return page(self.store.get([wire.raw(text) for text in asked.hashes], View(below=caller.readable())))

    def matching(self, caller: Caller, asked: wire.AskMatching) -> wire.Matching:
        """Return a page of the hashes of the segments about readable executions: those asked for, or by a filter."""
        if asked.executions:
            if len(asked.executions) > wire.EXECUTIONS_MAX:
                raise UsageError(f"{len(asked.executions)} executions at once are over the limit.", kind="limit")
            named = [node for node in asked.executions if split_execution(node)]
            known = ReadableIndex(self.store.index, caller.readable()).nodes(named)
            return wire.Matching(segments=[hash_.hex() for hash_ in self.store.about(list(known.values()))])
        found, cursor = self.store.matching(self._view(caller, asked), asked.cursor)
        return wire.Matching(segments=[hash_.hex() for hash_ in found], cursor=cursor)

    def _view(self, caller: Caller, asked: wire.Asked | wire.AskStreams | wire.Since | wire.AskMatching) -> View:
        where = "" if isinstance(asked, wire.Asked | wire.AskStreams) else asked.where
        view = View(scopes=tuple(asked.scopes), sites=tuple(asked.sites), where=where, below=caller.readable())
        if isinstance(asked, wire.Asked | wire.AskStreams) and asked.streams is not None:
            if len(asked.streams) > wire.STREAMS_MAX:
                raise UsageError(f"{len(asked.streams)} streams at once are over the limit.", kind="limit")
            view = msgspec.structs.replace(view, streams=frozenset(wire.raw(stream) for stream in asked.streams))
        return self.store.resolved(view)

    # ---- questions -----------------------------------------------------------------------------------------------

    def ask(self, caller: Caller, asked: Ask) -> Answer:
        """Answer any question of an index, as far as the caller may read."""
        return answer(ReadableIndex(self.store.index, caller.readable()), asked)

    def lineage(self, caller: Caller, asked: AskLineage) -> LineageAnswer:
        """Walk from a name, and name the segments that hold every record about what was met."""
        index = ReadableIndex(self.store.index, caller.readable())
        ends = time.monotonic() + LINEAGE_SECONDS
        found = lineage.trace(
            index,
            asked.root,
            asked.direction,
            all_producers=asked.all_producers,
            depth_max=asked.depth_max,
            expired=lambda: time.monotonic() > ends,
        )
        nodes = self.store.index.nodes(list(found.depth))
        return LineageAnswer(
            lineage=found,
            hidden=index.hidden,
            segments=[hash_.hex() for hash_ in self.store.about(list(nodes.values()))],
        )
