"""What must hold after every step of a simulation, judged by code that shares as little as it can with the product."""

import hashlib
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cmf.hub import cursors
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, View
from cmf.model.log import EMPTY_ROOT
from tests.simulator.network import Request
from tests.simulator.nodes import HubNode, Running, SiteNode

Node = SiteNode | HubNode
CHAINS = """
    SELECT count(*) FROM segment g LEFT JOIN segment b ON b.hash = g.prev AND b.s = g.s AND b.n = g.n - 1
    AND b.sparse = 0 WHERE g.n > 0 AND g.sparse = 0 AND b.g IS NULL"""
HEADS = """
    SELECT s, n, hash FROM segment g WHERE sparse = 0 AND NOT EXISTS
    (SELECT 1 FROM segment b WHERE b.prev = g.hash AND b.s = g.s AND b.sparse = 0) ORDER BY 1, 2, 3"""


class ViolationError(Exception):
    """Something that must hold does not."""


class Sealed(NamedTuple):
    """A segment as its writer sealed it."""

    stream: bytes
    scope: str
    writer: bytes
    prev: bytes
    ids: frozenset[bytes]
    wire: bytes


def must(holds: object, what: str) -> None:
    """Raise `ViolationError` unless something holds."""
    if not holds:
        raise ViolationError(what)


def covers(prefix: str, scope: str) -> bool:
    return not prefix or f"{scope}/".startswith(f"{prefix}/")


def root_of(leaves: list[bytes]) -> bytes:
    """Return the Merkle root of some leaves as RFC 6962 defines it, recursively."""
    if not leaves:
        return EMPTY_ROOT
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return hashlib.sha256(b"\1" + root_of(leaves[:split]) + root_of(leaves[split:])).digest()


def store_of(node: Node) -> Any:
    return node.store if isinstance(node, SiteNode) else node.hub.store


def rows(node: Node, sql: str, *values: Any) -> list[Any]:
    """Read a node's tables."""
    with store_of(node)._sql.read() as connection:
        return list(connection.execute(sql, values).fetchall())


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
            have = self._facts(node)
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
                ids = frozenset(id_ for id_, _ in segments.records_of(segment))
                prev = bytes.fromhex(getattr(segment.fields, "prev", ""))
                self.sealed[segment.hash] = Sealed(segment.stream, scope, writer, prev, ids, data)

    def _look_at_log(self, hub: HubNode, held: set[bytes]) -> None:
        entries = rows(hub, "SELECT position, hash FROM hub_entry ORDER BY position")
        must([at for at, _ in entries] == list(range(len(entries))), f"the log of {hub.name} has a hole")
        log = [hash_ for _, hash_ in entries]
        must(rows(hub, "SELECT size FROM hub_log") == [(len(log),)], f"the log of {hub.name} has another size")
        must(set(log) == held, f"the log of {hub.name} is not what it holds")
        before = self.logs[hub.name]
        must(log[: len(before)] == before, f"the log of {hub.name} was rewritten")
        place = {hash_: at for at, hash_ in enumerate(log)}
        for hash_ in log[len(before) :]:
            prev = self.sealed[hash_].prev
            must(not prev or place.get(prev, len(log)) < place[hash_], f"the log of {hub.name} has a child first")
        self.logs[hub.name] = log

    def _facts(self, node: Node) -> set[tuple[str, bytes]]:
        found = {(scope, id_) for scope, id_ in rows(node, "SELECT scope, id FROM pending")}
        for hash_ in self.held[node.name]:
            sealed = self.sealed[hash_]
            found.update((sealed.scope, id_) for id_ in sealed.ids)
        return found

    def _look_for_facts(self, site: SiteNode) -> None:
        have = self._facts(site)
        lost = self.known[site.name] - have  # a power cut may take back what is still in a journal
        must(not lost or site.was_cut, f"{site.name} lost a record that it had committed")
        self.known[site.name] = have
        site.was_cut = False
        for path, facts in self.recorded[site.name].items():
            must(facts <= have or path.exists(), f"{site.name} lost what was recorded in {path.name}")

    # ---- cursors -----------------------------------------------------------------------------------------------------

    def look_at_cursors(self, site: SiteNode, hub: HubNode, scopes: tuple[str, ...]) -> None:
        """Check that what a site remembers of a pull is not ahead of what it holds."""
        text = site.store.meta(f"cursor {hub.url} {' '.join(scopes)}")
        if not text:
            return
        cursor = cursors.from_text(text)
        log = self.logs[hub.name]
        if cursor.size > len(log) or root_of(log[: cursor.size]) != cursor.root:
            return  # the hub was restored: it will not believe this cursor
        below = self.readable(hub, site.tokens.get(hub.name, ""))
        view = View(scopes=scopes, below=below)
        if cursor.view != cursors.of(view):
            return
        for hash_ in log[: cursor.size]:
            scope = self.sealed[hash_].scope
            must(
                hash_ in self.held[site.name] or not view.covers(scope),
                f"a cursor of {site.name} at {hub.name} passes a segment that it lacks",
            )

    # ---- who may what ------------------------------------------------------------------------------------------------

    def roles(self, hub: HubNode, token: str) -> tuple[int, list[tuple[str, str]]]:
        """Return whose token this is, and their (prefix, role), from the tables as they are."""
        found = rows(hub, "SELECT p FROM hub_token WHERE hash = ?", hashlib.sha256(token.encode()).digest())
        principal = found[0][0] if found else 0
        return principal, rows(hub, "SELECT prefix, role FROM hub_role WHERE p = ?", principal)

    def readable(self, hub: HubNode, token: str) -> tuple[str, ...] | None:
        prefixes = tuple(sorted({prefix for prefix, _ in self.roles(hub, token)[1]}))
        return None if "" in prefixes else prefixes

    def may_bring(self, hub: HubNode, token: str, sealed: Sealed) -> bool:
        """Tell whether a hub may take a segment from whoever holds this token."""
        principal, held = self.roles(hub, token)
        roles = {role for prefix, role in held if covers(prefix, sealed.scope)}
        owner = rows(hub, "SELECT p FROM hub_key WHERE key = ?", sealed.writer)
        if not owner:
            return "peer" in roles
        return self.may_write(hub, sealed) and (owner[0][0] == principal or bool(roles & {"relay", "peer", "admin"}))

    def may_write(self, hub: HubNode, sealed: Sealed) -> bool:
        """Tell whether a hub may take a segment for its writer's sake: one that it knows may write there."""
        owner = rows(hub, "SELECT p FROM hub_key WHERE key = ?", sealed.writer)
        if not owner:
            return True
        owned = rows(hub, "SELECT prefix, role FROM hub_role WHERE p = ?", owner[0][0])
        return any(role in ("write", "admin") and covers(prefix, sealed.scope) for prefix, role in owned)

    def agree(self, one: HubNode, other: HubNode) -> None:
        """Check that two hubs, which have just synced without a fault, hold the same, but for what one may not take."""
        for holder, lacking in ((one, other), (other, one)):
            for hash_ in self.held[holder.name] - self.held[lacking.name]:
                allowed = self.may_write(lacking, self.sealed[hash_])
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
                    allowed = self.may_bring(hub, request.token, self.sealed[hash_])
                    must(allowed, f"{hub.name} took in what its sender may not bring")
                self.acknowledged[hub.name].add(hash_)
        elif path in ("/v1/pull", "/v1/get"):
            below = self.readable(hub, request.token)
            view = View(below=below)
            for tag, frame in wire.frames(data):
                if tag == wire.SEGMENT:
                    sealed = self.sealed[segments.from_wire(frame).hash]
                    must(frame == sealed.wire, f"{hub.name} hands out other bytes than were sealed")
                    must(view.covers(sealed.scope), f"{hub.name} hands out what its reader may not see")
