"""What must hold after every step of a simulation, judged by code that shares as little as it can with the product."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from cmf.graph.nodes import node_text
from cmf.hub import cursors
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, View
from cmf.model.log import EMPTY_ROOT
from cmf.store.sql import SqlStore
from tests.property.store_histories import Fact, reference, says_the_same
from tests.reference_fold import Reference, redacts
from tests.simulator import seen
from tests.simulator.bodies import Bodies, Copy, is_hidden
from tests.simulator.network import Request
from tests.simulator.nodes import HubNode, Node, Running, SiteNode, rows
from tests.simulator.rights import Sealed, covers, may_bring, may_write, readable

CHAINS = """
    SELECT count(*) FROM segment g LEFT JOIN segment b ON b.hash = g.prev AND b.s = g.s AND b.n = g.n - 1
    AND b.sparse = 0 WHERE g.n > 0 AND g.sparse = 0 AND b.g IS NULL"""
HEADS = """
    SELECT s, n, hash FROM segment g WHERE sparse = 0 AND NOT EXISTS
    (SELECT 1 FROM segment b WHERE b.prev = g.hash AND b.s = g.s AND b.sparse = 0) ORDER BY 1, 2, 3"""


BODIES = "SELECT s.scope, g.body FROM segment g JOIN stream s ON s.s = g.s"
DERIVED = {
    "birth": "SELECT n.key, b.record FROM birth b JOIN node n ON n.i = b.e",
    "series": "SELECT n.key, x.record FROM series x JOIN node n ON n.i = x.e",
    "event": "SELECT n.key, substr(v.key, 2) FROM event e JOIN node n ON n.i = e.s JOIN node v ON v.i = e.v",
    "link": "SELECT n.key, l.record FROM link l JOIN node n ON n.i = l.s",
    "property": "SELECT n.key, p.record FROM property p JOIN node n ON n.i = p.s WHERE p.key <> 'redacted'",
    "value": "SELECT n.key, r.record FROM register r JOIN node n ON n.i = r.s WHERE r.key <> 'redacted'",
}
"""(a node in the scope that says it, record) of each row that was derived from a record which can be redacted."""


class ViolationError(Exception):
    """Something that must hold does not."""


def must(holds: object, what: str) -> None:
    """Raise `ViolationError` unless something holds."""
    if not holds:
        raise ViolationError(what)


def root_of(leaves: list[bytes]) -> bytes:
    """Return the Merkle root of some leaves as RFC 6962 defines it, recursively."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def agrees(store: SqlStore, copies: Iterable[Copy]) -> None:
    """Check that a store says of what it holds what the reference fold says, which shares no code with it."""
    try:
        says_the_same(store, reference([Fact(*copy) for copy in copies]))
    except AssertionError as error:
        raise ViolationError(f"a store says something else than the reference: {error}") from error


class Oracle:
    """Knows every segment that was sealed, what each node held, what was acknowledged, and what was recorded."""

    def __init__(self) -> None:
        self.sealed: dict[bytes, Sealed] = {}
        self.held: dict[str, set[bytes]] = defaultdict(set)
        self.known: dict[str, set[tuple[str, bytes]]] = defaultdict(set)
        self.acknowledged: dict[str, set[bytes]] = defaultdict(set)
        self.logs: dict[str, list[bytes]] = defaultdict(list)
        self.recorded: dict[str, dict[Path, set[tuple[str, bytes]]]] = defaultdict(lambda: defaultdict(set))
        self.branching: set[bytes] = set()
        self.redacted: set[bytes] = set()
        self.bodies = Bodies()
        self.sealing: SiteNode | None = None
        self._seen: dict[str, int] = {}

    # ---- what is told to it ------------------------------------------------------------------------------------------

    def records(self, site: SiteNode, process: Running, at: int) -> None:
        """Note what a process has recorded from a draft on."""
        for scope, draft in process.drafts[at:]:
            id_, _ = model.completed(draft, site.secret)
            self.recorded[site.name][process.path].add((scope, id_))

    def torn(self, site: SiteNode, process: Running) -> None:
        """Expect of a process that a power cut ended only what it had synced."""
        kept = {(scope, model.completed(draft, site.secret)[0]) for scope, draft in process.drafts[: process.synced]}
        self.recorded[site.name][process.path] = kept

    def forgive(self, node: Node) -> None:
        """Expect of a node that was restored from a backup only what it holds now."""
        self._seen.pop(node.name, None)
        self.held[node.name] = {hash_ for (hash_,) in rows(node, "SELECT hash FROM segment")}
        self.acknowledged[node.name] &= self.held[node.name]
        self.logs[node.name] = []
        self.known[node.name] = set()
        if isinstance(node, SiteNode):
            self.branching.add(node.key)
            have = self.facts(node)
            for path, facts in self.recorded[node.name].items():
                if not path.exists():
                    facts.intersection_update(have)
        self.look(node)

    # ---- what it looks at --------------------------------------------------------------------------------------------

    def look(self, node: Node) -> None:
        """Check a node after a step."""
        if self._seen.get(node.name) == node.disk.commits:
            return
        self._seen[node.name] = node.disk.commits
        if node is self.sealing:
            self._register(self.sealing)
        held = {hash_ for (hash_,) in rows(node, "SELECT hash FROM segment")}
        must(held <= self.sealed.keys(), f"{node.name} holds a segment that nobody sealed")
        must(held >= self.held[node.name], f"{node.name} lost a segment")
        must(held >= self.acknowledged[node.name], f"{node.name} lost a segment that it had acknowledged")
        self.held[node.name] = held
        must(rows(node, CHAINS) == [(0,)], f"{node.name} has a hole in a chain")
        heads = rows(node, "SELECT s, n, hash FROM head ORDER BY 1, 2, 3")
        must(rows(node, HEADS) == heads, f"{node.name} has wrong heads")
        self._look_for_redacted(node)
        if isinstance(node, HubNode):
            self._look_at_log(node, held)
        else:
            self._look_for_facts(node)

    def _register(self, site: SiteNode) -> None:
        """Learn the segments that a site has just sealed."""
        for scope, writer, data in site.store.stored():
            segment = segments.from_wire(data)
            if segment.hash not in self.sealed:
                must(writer == site.key, f"{site.name} sealed under another's key")
                body = self.bodies.of(segment.body)
                must(not body.gaps, f"{site.name} sealed less than it has")
                start = self.sealed[segment.stream].site if segment.n else segment.fields.site  # type: ignore[union-attr]
                keys = self.sealed[segment.stream].keys if segment.n else site.keys
                prev = bytes.fromhex(getattr(segment.fields, "prev", ""))
                ids, redacts = frozenset(body.present), bool(body.redacted)
                self.sealed[segment.hash] = Sealed(segment.stream, scope, start, keys, prev, ids, redacts, data)

    def _look_at_log(self, hub: HubNode, held: set[bytes]) -> None:
        entries = rows(hub, "SELECT position, hash FROM hub_entry ORDER BY position")
        must([at for at, _ in entries] == list(range(len(entries))), f"the log of {hub.name} has a hole")
        log = [hash_ for _, hash_ in entries]
        must(rows(hub, "SELECT size FROM hub_log") == [(len(log),)], f"the log of {hub.name} has another size")
        must(set(log) == held, f"the log of {hub.name} is not what it holds")
        before = self.logs[hub.name]
        must(log[: len(before)] == before, f"the log of {hub.name} was rewritten")
        for level, at, hash_ in rows(hub, "SELECT level, place, hash FROM hub_tile"):
            leaves = log[at << level : (at + 1) << level]
            known = len(before) >= (at + 1) << level
            must(known or root_of(leaves) == hash_, f"a tile of the log of {hub.name} is not that of its entries")
        place = {hash_: at for at, hash_ in enumerate(log)}
        for hash_ in log[len(before) :]:
            prev = self.sealed[hash_].prev
            must(not prev or place.get(prev, len(log)) < place[hash_], f"the log of {hub.name} has a child first")
        self.logs[hub.name] = log

    # ---- what was redacted -------------------------------------------------------------------------------------------

    def copies(self, node: Node) -> list[Copy]:
        """Return every copy of a record whose bytes a node holds."""
        found = [Copy(*row) for row in rows(node, "SELECT scope, id, data FROM pending")]
        for scope, body in rows(node, BODIES):
            found += [Copy(scope, id_, data) for id_, data in self.bodies.of(body).present.items()]
        return found

    def gaps(self, node: Node) -> set[bytes]:
        """Return the records whose bytes lack in some segment of a node."""
        return {id_ for _, body in rows(node, BODIES) for id_ in self.bodies.of(body).gaps}

    def redactions(self, node: Node) -> set[tuple[str, bytes]]:
        """Return (scope, record) of the redactions that a node has learnt of: not those that it is yet to fold."""
        found = {(scope, id_) for scope, body in rows(node, BODIES) for id_ in self.bodies.of(body).redacted}
        for scope, data in rows(node, "SELECT scope, data FROM pending WHERE p <= (SELECT p FROM folded)"):
            if b'"redacted"' in data and redacts(record := json.loads(data)):
                found.add((scope, bytes.fromhex(record["subject"][7:])))
        return found

    def _look_for_redacted(self, node: Node) -> None:
        """Look for what a node may hold and show no more: its bytes, and the rows that were derived from it."""
        must(self.gaps(node) <= self.redacted, f"{node.name} lacks the bytes of a record that nobody redacted")
        redactions = self.redactions(node)
        if not redactions:
            return
        about = {id_ for _, id_ in redactions}
        for copy in self.copies(node):
            gone = copy.id in about and is_hidden(redactions, copy)
            must(not gone, f"{node.name} has the bytes of a record that it knows to be redacted")
        names = {name for _, body in rows(node, BODIES) for name in self.bodies.of(body).names}
        if isinstance(node, HubNode):
            called = {name for (name,) in rows(node, "SELECT name FROM called")}
            must(called <= names, f"{node.name} remembers a name that only a redacted record said")
        for kind, sql in DERIVED.items():
            for key, id_ in rows(node, sql):
                scope = node_text(key).split(":")[1]
                gone = any(about == id_ and covers(by, scope) for by, about in redactions)
                must(not gone, f"{node.name} shows the {kind} of a record that it knows to be redacted")

    def facts(self, node: Node) -> set[tuple[str, bytes]]:
        """Return (scope, record) of all that a node carries, redacted or not."""
        found = {(scope, id_) for scope, id_ in rows(node, "SELECT scope, id FROM pending")}
        for hash_ in self.held[node.name]:
            sealed = self.sealed[hash_]
            found.update((sealed.scope, id_) for id_ in sealed.ids)
        return found

    def _look_for_facts(self, site: SiteNode) -> None:
        have = self.facts(site)
        # a power cut may take back what is still in a journal
        lost = {fact for fact in self.known[site.name] - have if fact[1] not in self.redacted}
        must(not lost or site.was_cut, f"{site.name} lost a record that it had committed")
        self.known[site.name] = have
        site.was_cut = False
        for path, facts in self.recorded[site.name].items():
            lost = {fact for fact in facts - have if fact[1] not in self.redacted}
            must(not lost or path.exists(), f"{site.name} lost what was recorded in {path.name}")

    # ---- cursors -----------------------------------------------------------------------------------------------------

    def look_at_cursors(self, site: SiteNode, hub: HubNode, view: View, text: str) -> None:
        """Check that what a site remembers of a pull of whole streams is not ahead of what it holds."""
        if not text or view.where:
            return
        cursor = cursors.from_text(text)
        log = self.logs[hub.name]
        if cursor.size > len(log) or root_of(log[: cursor.size]) != cursor.root:
            return  # the hub was restored: it will not believe this cursor
        below = readable(hub, site.tokens.get(hub.name, ""))
        view = View(scopes=view.scopes, sites=self.sites_called(hub, view.sites), below=below)
        if cursor.view != cursors.of(view):
            return
        for hash_ in log[: cursor.size]:
            sealed = self.sealed[hash_]
            must(
                hash_ in self.held[site.name] or not view.covers(sealed.scope, sealed.site),
                f"a cursor of {site.name} at {hub.name} passes a segment that it lacks",
            )

    def look_at_pulled(self, site: SiteNode, hub: HubNode, view: View) -> None:
        """Check that a pull of a view, which went well, brought all of it that may be read."""
        below = readable(hub, site.tokens.get(hub.name, ""))
        if view.where:
            return self._look_at_found(site, hub, view, below)
        named = View(scopes=view.scopes, sites=self.sites_called(hub, view.sites), below=below)
        for hash_ in self.held[hub.name] - self.held[site.name]:
            sealed = self.sealed[hash_]
            covered = named.covers(sealed.scope, sealed.site)
            must(not covered, f"{site.name} lacks something of the view that it pulled from {hub.name}: {view}")
        return None

    def _look_at_found(self, site: SiteNode, hub: HubNode, view: View, below: tuple[str, ...] | None) -> None:
        """Check that all that may be read about the executions which a filter finds has come."""
        named = View(scopes=view.scopes, below=below)
        said = seen.told(self.copies(hub))
        self._look_about(site, hub, said, seen.found(said, view.where, named.covers), below)

    def look_at_lineage(self, site: SiteNode, hub: HubNode, root: str, direction: str) -> None:
        """Check that all about what something came from, or what came of it, has come to who may read everything."""
        if readable(hub, site.tokens.get(hub.name, "")) is None:
            said = seen.told(self.copies(hub))
            self._look_about(site, hub, said, seen.met(said, root, direction) & said.executions.keys(), None)

    def _look_about(
        self, site: SiteNode, hub: HubNode, said: Reference, executions: set[str], below: tuple[str, ...] | None
    ) -> None:
        readable = View(below=below)
        have = self.facts(site)
        for scope, _ in seen.about(said, executions) - have:
            must(not readable.covers(scope), f"{site.name} lacks what {hub.name} holds about what it asked for")

    def sites_called(self, hub: HubNode, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return some names and ids of sites, and the ids of those that a hub holds records of under these names."""
        said = rows(hub, "SELECT s.site, g.body FROM segment g JOIN stream s ON s.s = g.s")
        return tuple(sorted({*names, *(site for site, body in said if self.bodies.of(body).names & {*names})}))

    # ---- who lacks what ----------------------------------------------------------------------------------------------

    def all_of(self, hub: HubNode, hash_: bytes, allowed: Callable[[Sealed], bool]) -> bool:
        """Tell whether a hub may take a segment and all those before it that it lacks."""
        while hash_ and hash_ not in self.held[hub.name]:
            if not allowed(self.sealed[hash_]):
                return False
            hash_ = self.sealed[hash_].prev
        return True

    def first_lacking(self, hub: HubNode, hash_: bytes) -> Sealed:
        """Return the first segment that a hub lacks of those up to one that it lacks."""
        sealed = self.sealed[hash_]
        while sealed.prev and sealed.prev not in self.held[hub.name]:
            sealed = self.sealed[sealed.prev]
        return sealed

    def agree(self, one: HubNode, other: HubNode) -> None:
        """Check that two hubs, which have just synced without a fault, hold the same, but for what one may not take."""
        for holder, lacking in ((one, other), (other, one)):
            for hash_ in self.held[holder.name] - self.held[lacking.name]:
                allowed = self.all_of(lacking, hash_, lambda sealed, to=lacking: may_write(to, sealed))  # type: ignore[misc]
                must(not allowed, f"{lacking.name} lacks what {holder.name} holds, which syncs with it")

    def watch(self, hub: HubNode, request: Request, data: bytes) -> None:
        """Check an answer before it leaves the hub."""
        path = request.path.partition("?")[0]
        if path == "/v1/push":
            for tag, frame in wire.frames(data):
                if tag != wire.ADMISSION:
                    continue
                admission = msgspec.json.decode(frame, type=Admission)
                if admission.outcome == "refused":
                    continue
                hash_ = bytes.fromhex(admission.hash)
                if self.sealing is not None and hash_ not in self.sealed:
                    self._register(self.sealing)
                must(hash_ in self.sealed, f"{hub.name} took in a segment that nobody sealed")
                if admission.outcome == "new":
                    allowed = may_bring(hub, request.token, self.sealed[hash_])
                    must(allowed, f"{hub.name} took in what its sender may not bring")
                self.acknowledged[hub.name].add(hash_)
        elif path in ("/v1/pull", "/v1/get"):
            below = readable(hub, request.token)
            view = View(below=below)
            for tag, frame in wire.frames(data):
                if tag == wire.SEGMENT:
                    handed = segments.from_wire(frame)
                    sealed = self.sealed[handed.hash]
                    body = self.bodies.of(handed.body)
                    whole = segments.from_wire(sealed.wire)
                    same = (handed.header, handed.signature) == (whole.header, whole.signature)
                    must(
                        frame == sealed.wire or (same and body.gaps and {*body.present} | body.gaps == sealed.ids),
                        f"{hub.name} hands out other bytes than were sealed",
                    )
                    must(view.covers(sealed.scope), f"{hub.name} hands out what its reader may not see")
