"""Hub to hub: this hub as a client of its peers. The same `transfer` as anybody's, with this hub as the other end.

What a peer brings is verified under its writers' keys and admitted by the roles that it has; objects follow their
records, each under the scope that names it. Nothing is remembered of a peer but its key, its log and how it went:
what both hold is compared, so a turn that was cut, or done twice, or by two workers at once, costs time alone.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from cmf import moving, transfer, witness
from cmf.errors import CmfError, ConflictError, DeniedError, NotFoundError, UsageError
from cmf.hub.auth import Caller
from cmf.hub.peers import Peer
from cmf.hub.service import Hub
from cmf.model import digest as digests
from cmf.model import prefixes, wire
from cmf.model.exchange import Admission, Head, View
from cmf.model.records import covers
from cmf.objects import CHUNK_BYTES, RemoteStore, manifest, read
from cmf.remote import HubClient

LOOK_SECONDS = 1.0
RENEW_SECONDS = 10.0
STOP_SECONDS = 5.0
BACKOFF_S_MAX = 900
WHY_LENGTH_MAX = 500
SHOWN_MAX = 20
"""How many of the streams that differed are named."""

_Differing = tuple[bytes, frozenset[Head], frozenset[Head]]

_log = logging.getLogger("cmf.hub")


class Stopping(Exception):  # noqa: N818  # no error: the worker was told to end
    """Ends a turn between two commits."""


class Federation:
    """The peers of one hub, and the worker that syncs them when they are due."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._worker: threading.Thread | None = None

    # ---- what is asked of it -------------------------------------------------------------------------------------

    def add(self, caller: Caller, asked: wire.AskPeer) -> None:
        """Join another hub, with an invite or a token of it, and sync with it from now on.

        `DeniedError` if it does not let us do what is asked. A token that it knows is kept nonetheless, so that the
        invite need not be made anew.
        """
        client = self._client(asked.url)
        asked = msgspec.structs.replace(asked, url=client.url)
        self._hub.peers.check(caller, asked)
        if client.ask("GET", "/v1/hub", None, wire.HubInfo, with_token=False).hub == self._hub.key.public.hex():
            raise UsageError(f"{client.url} is this hub itself.", hint="A peer is another hub.")
        if asked.invite:
            client.enrol(asked.invite, self._hub.key, "hub")
        elif asked.token:
            client.keep(asked.token)
        try:
            there = client.hub()
        except DeniedError:
            client.forget()  # a token that it does not know would stand in the way of the next
            raise
        may = Caller(principal=0, name=there.principal, roles=tuple(there.roles))
        needed = "read" if asked.direction == "pull" else "peer"
        for prefix in asked.scopes or [""]:
            of = f" --scope {prefix}" if prefix else ""
            for role in {"pull": ("read",), "push": ("relay",), "both": ("read", "relay")}[asked.direction]:
                if not may.may(role, prefix):
                    raise DeniedError(
                        f"The hub {client.url} does not let us {role} {prefix or 'everything'}.",
                        hint=f"Ask its admin for an invite: cmf hub invite NAME --role {needed}{of}.",
                        kind="scope",
                    )
        self._hub.peers.add(caller, asked)
        self._wake.set()

    def remove(self, caller: Caller, name: str) -> None:
        """Forget a peer, its token and its key. What it brought stays."""
        peer = self._hub.peers.remove(caller, name)
        client = self._client(peer.url)
        client.forget()
        witness.trust(self._hub.store, client)

    def hasten(self, caller: Caller, name: str) -> None:
        """Let the worker sync with a peer next, whatever its schedule."""
        self._hub.peers.hasten(caller, name)
        self._wake.set()

    # ---- the worker ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread that syncs whoever is due."""
        self._worker = threading.Thread(target=self._work, name="cmf-federation", daemon=True)
        self._worker.start()

    def stop(self) -> None:
        """End the worker between two commits; one that waits for a peer's answer is not waited for long."""
        self._stop.set()
        self._wake.set()
        if self._worker is not None:
            self._worker.join(STOP_SECONDS)

    def _work(self) -> None:
        while not self._stop.is_set():
            try:
                if self.turn():
                    continue
            except Stopping:
                return
            except Exception:  # noqa: BLE001  # whatever happened, the other peers and the next turns go on
                if not self._stop.is_set():
                    _log.exception("The worker that syncs with other hubs met something unexpected.")
            self._wake.wait(LOOK_SECONDS)
            self._wake.clear()

    def turn(self) -> bool:
        """Sync with the peer that has been due for longest; return whether there was one."""
        peer = self._hub.peers.lease()
        if peer is None:
            return False
        turn = _Turn(self._hub, peer, self._client(peer.url), self._stop)
        why = ""
        try:
            turn.run()
        except CmfError as error:
            if error.kind == "lease":
                return True
            why = str(error)
        state = turn.state(why)
        delay_s = delay(peer.every_s, state.failures) * random.uniform(0.8, 1.2)  # noqa: S311  # spreads the load only
        self._hub.peers.done(turn.peer, state, due_us=self._hub.now() + int(delay_s * 1e6))
        return True

    def _client(self, url: str) -> HubClient:
        """Return a client that speaks with the token kept for this hub, and with no other.

        Not that of our own user's hubs on this machine: an admin of this hub need be none of theirs. Nor does a hub go
        where another one sends it: bytes pass through the other.
        """
        keys: Path = self._hub.folder / "keys"
        client = HubClient(url, state_home=keys, keys=keys)
        client.passes_through = True
        return client


def delay(every_s: int, failures: int) -> int:
    """Return after how many seconds a peer is due again: its schedule, twice as long after each failure in a row."""
    return min(every_s << min(failures, 20), max(every_s, BACKOFF_S_MAX))


class _Turn:
    """One sync with one peer."""

    def __init__(self, hub: Hub, peer: Peer, client: HubClient, stop: threading.Event) -> None:
        self.peer = peer
        self._hub = hub
        self._client = client
        self._stop = stop
        self._caller = hub.auth.principal(peer.principal)
        self._renewed = time.monotonic()
        self._moved = moving.Moved(refused=[], scopes=[], warnings=[])
        self._pulled = self._pushed = 0
        self._differed: dict[bytes, tuple[int, int]] = {}

    def run(self) -> None:
        """Find the streams in which the two hubs differ; bring here what the peer has of them, and there what we have.

        Both as far as our principal for it goes, and the one that it has for us.
        """
        there = self._client.hub()
        witness.look(self._hub.store, self._client, View(), self._moved.warnings)
        roles = self._caller.roles
        shown = [held.prefix for held in there.roles]
        brings = _shared([held.prefix for held in roles if held.role == "peer"], shown)
        gets = _shared([held.prefix for held in roles], shown)
        for held in roles:
            if self.peer.direction != "push" and not any(covers(prefix, held.prefix) for prefix in shown):
                self._moved.warnings.append(
                    f"The hub lets us read {held.prefix or 'everything'} in part, or not at all."
                )
        compared = {prefixes_: self._compare(prefixes_) for prefixes_ in (brings, gets) if prefixes_}
        if self.peer.direction != "push" and brings:
            self._pull(_below(brings, {stream for stream, ours, theirs in compared[brings] if theirs - ours}))
        if self.peer.direction != "pull" and gets:
            self._push(_below(gets, {stream for stream, ours, theirs in compared[gets] if ours - theirs}))

    def _compare(self, scopes: Sequence[str]) -> list[_Differing]:
        """Return (stream, our heads, their heads) of each stream in which we differ below some scope prefixes."""
        held = self._hub.held(_below(scopes))

        def ask(asked: Mapping[str, str]) -> Mapping[str, prefixes.Below]:
            self._beat()
            return self._client.digests([scope for scope in scopes if scope], asked)

        found = [
            (stream, frozenset(held.heads(stream.hex())), frozenset(theirs))
            for stream, theirs in prefixes.differing(held, ask).items()
        ]
        for stream, ours, theirs in found:
            self._differed[stream] = (_furthest(ours), _furthest(theirs))
        return found

    def state(self, why: str) -> wire.PeerState:
        """Return how it went, added to how it went before; ``why``: what ended it early."""
        old, moved, now = self.peer.state, self._moved, self._hub.now()
        refusals = moved.refused
        return wire.PeerState(
            turns=old.turns + 1,
            tried_us=now,
            succeeded_us=old.succeeded_us if why else now,
            failures=old.failures + 1 if why else 0,
            refused=len(refusals),
            why=_printable(why or (f"{refusals[0].scope}: {refusals[0].detail}" if refusals else "")),
            differed=len(self._differed),
            differences=[
                self._difference(stream, *heads) for stream, heads in list(self._differed.items())[:SHOWN_MAX]
            ],
            warnings=[_printable(warning) for warning in moved.warnings],
            pulled=old.pulled + self._pulled,
            pushed=old.pushed + self._pushed,
            records=old.records + moved.records,
            objects=old.objects + moved.objects,
            object_bytes=old.object_bytes + moved.object_bytes,
        )

    def _difference(self, stream: bytes, here: int, there: int) -> wire.Difference:
        known = self._hub.store.scope_of(stream)
        return wire.Difference(stream=stream.hex(), scope=known[0] if known else "", here=here, there=there)

    # ---- segments ------------------------------------------------------------------------------------------------

    def _pull(self, view: View) -> None:
        if view.streams:
            self._pulled += self._count(transfer.transfer(self._client.peer, self._hub.pushing.end(self._caller), view))
        self._take_objects(msgspec.structs.replace(view, streams=None))

    def _push(self, view: View) -> None:
        if view.streams:
            self._pushed += self._count(transfer.transfer(self._hub.pushing.end(self._caller), self._client.peer, view))
        self._send_objects(view.scopes or ("",))

    def _count(self, admissions: Iterable[Admission]) -> int:
        """Count what moved; return how many segments were new to who took them."""
        new = 0
        for admission in admissions:
            self._beat()
            if admission.outcome == "refused":
                self._moved.refused.append(admission)
            elif admission.outcome == "new":
                new += 1
                self._moved.records += admission.records
        return new

    def _beat(self, _: str = "", __: int = 0) -> None:
        """Keep the lease while there is progress; end the turn if the hub ends."""
        if self._stop.is_set():
            raise Stopping
        if time.monotonic() - self._renewed > RENEW_SECONDS:
            self.peer = self._hub.peers.renew(self.peer)
            self._renewed = time.monotonic()

    # ---- objects -------------------------------------------------------------------------------------------------

    def _take_objects(self, view: View) -> None:
        """Fetch what records here name and what the peer holds under the same scope: never by digest alone.

        For somebody who writes in one scope there could else have bytes of another brought into theirs here.
        """
        scopes = [scope for scope in self._hub.store.scopes() if view.covers(scope)]
        after: tuple[str, str] | None = None
        while page := self._hub.wanted(scopes, after):
            for scope, named in _by_scope(page).items():
                self._take_scope(scope, named)
            after = page[-1]
        if self.peer.data:
            for scope, named in self._hub.store.index.artifacts_by_scope(scopes).items():
                granted = self._hub.auth.granted(scope, [digests.object_of(digest) for digest in named])
                self._take_scope(scope, [digest for digest in named if digests.object_of(digest) not in granted])

    def _take_scope(self, scope: str, lacking: Sequence[str]) -> None:
        """Fetch objects under a scope: files, then for each folder its files and its manifest."""
        folders = [digests.object_of(digest) for digest in lacking if digest.startswith(digests.TREE)]
        self._take_files(scope, [digest for digest in lacking if not digest.startswith(digests.TREE)])
        self._take_files(scope, folders)
        for digest in folders:
            if not self._hub.auth.granted(scope, [digest]):
                continue
            data = read(self._hub.objects, digest)
            members = [entry.digest for entry in manifest.decode(data)]
            granted = self._hub.auth.granted(scope, members)
            self._take_files(scope, [member for member in members if member not in granted])
            if self._hub.auth.granted(scope, members) >= set(members):
                self._hub.grants.take(self._caller, scope, [wire.Small(digest, data, folder=True)])

    def _take_files(self, scope: str, asked: Sequence[str]) -> None:
        remote = self._client.objects(scope)
        for page in remote.get_all(dict.fromkeys(asked)) if asked else ():
            self._beat()
            small = [found for found in page if not found.large]
            taken = self._hub.grants.take(self._caller, scope, small)
            for why in taken.refused:
                if why.kind == "quota":
                    self._warn(f"{why.message} {why.hint}")
            refused = {why.digest for why in taken.refused}
            kept = [found for found in small if found.digest not in refused]
            self._moved.objects += len(kept)
            self._moved.object_bytes += sum(len(found.data) for found in kept)
            for digest in (found.digest for found in page if found.large):
                try:
                    size = self._take_large(remote, scope, digest)
                except NotFoundError:
                    continue
                except ConflictError as error:
                    if error.kind != "quota":
                        raise
                    self._warn(str(error))
                    continue
                self._moved.objects += 1
                self._moved.object_bytes += size
                self._beat()

    def _take_large(self, remote: RemoteStore, scope: str, digest: str) -> int:
        """Fetch an object behind what came of it the last time; return its size. Only the whole is believed."""
        held = self._hub.grants.part(self._caller, scope, digest)
        start = held.size if isinstance(held, wire.Part) else 0
        with (
            remote.open(digest, start) as source,
            self._hub.grants.begin(self._caller, scope, digest, start) as incoming,
        ):
            while data := source.read(CHUNK_BYTES):
                incoming.write(data)
                self._beat()
            return self._hub.grants.put(self._caller, scope, digest, incoming, folder=False)

    def _warn(self, text: str) -> None:
        if text not in self._moved.warnings and len(self._moved.warnings) < SHOWN_MAX:
            self._moved.warnings.append(text)

    def _send_objects(self, scopes: Sequence[str]) -> None:
        """Send what the peer says that it lacks below some prefixes, as far as it was sent here under that scope."""
        after: tuple[str, str] | None = None
        while True:
            held = self._client.wanted((), after, below=scopes)
            for scope, lacking in _by_scope(held.wanted).items():
                if not self._caller.may("read", scope):
                    continue
                granted = self._hub.auth.granted(scope, [digests.object_of(digest) for digest in lacking])
                found = [digest for digest in lacking if digests.object_of(digest) in granted]
                if found:
                    remote = self._client.objects(scope)
                    moving.send(remote, self._hub.objects, found, self._moved, self._beat, lacking=True)
            if not held.more:
                return
            after = held.wanted[-1]


def _by_scope(wanted: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for digest, scope in wanted:
        found.setdefault(scope, []).append(digest)
    return found


def _below(scopes: Sequence[str], streams: Iterable[bytes] | None = None) -> View:
    """Return the view of some scope prefixes, and of no other than some streams in them."""
    chosen = None if streams is None else frozenset(streams)
    return View(scopes=() if "" in scopes else tuple(scopes), streams=chosen)


def _shared(ours: Iterable[str], theirs: Sequence[str]) -> tuple[str, ...]:
    """Return the scope prefixes that are covered on both sides."""
    found = {longer for one in ours for other in theirs if (longer := _longer(one, other)) is not None}
    return tuple(sorted(found))


def _longer(one: str, other: str) -> str | None:
    if covers(one, other):
        return other
    return one if covers(other, one) else None


def _furthest(heads: Iterable[Head]) -> int:
    return max((head.n for head in heads), default=-1)


def _printable(text: str) -> str:
    """Return what another hub has said as a line that does nothing to a terminal."""
    return "".join(char if char.isprintable() else " " for char in text[:WHY_LENGTH_MAX])
