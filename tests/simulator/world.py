"""A world of sites and hubs in which everything goes wrong, and the steps that can be taken in it.

All of it is the product's own code, given a clock, random bytes, disks and a network that a seed decides. Each step may
be taken by a seed's dice (`tests.simulator.run`) or by Hypothesis (`tests/property/test_exchange_machine.py`).
"""

import contextlib
import itertools
import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from cmf import collect, signing, sync, witness
from cmf.errors import CmfError, DeniedError, NotFoundError, UnreachableError
from cmf.hub import service
from cmf.hub.access import console
from cmf.hub.federation import Federation
from cmf.hub.service import Hub
from cmf.model import log, wire
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.digest import sha256
from cmf.model.exchange import View
from cmf.worktree import machine
from tests.property.store_histories import EXECUTIONS
from tests.simulator.disk import Crash, Database, Disk
from tests.simulator.network import Client, Request, Weather
from tests.simulator.nodes import HubNode, SiteNode
from tests.simulator.oracle import Node, Oracle, Sealed, must, root_of, store_of

SITES_MAX = 5
VIEWS = ((), (), ("p/a",), ("p/*",), ("q/a", "p/b"))
FULL_READ = ("", "write")
PART_READ = ("p", "write")
PAGE_BYTES = 1500
ROOT = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None


class Blow(NamedTuple):
    """A command is killed at the so-manyth point before or after a commit (0: never), or the power is cut there."""

    points: int = 0
    power: bool = False


NO_BLOW = Blow()


class World:
    """The nodes, the weather between them, and the oracle that watches. ``now`` is µs."""

    def __init__(self, chance: random.Random, folder: Path, *, fault: float = 0.1) -> None:
        self.chance = chance
        self.folder = folder
        self.now = 1_000_000
        self.oracle = Oracle()
        self.weather = Weather(chance, fault)
        self.bundles: list[Path] = []
        self._numbers = itertools.count(1)
        self.sites: list[SiteNode] = []
        self.hubs: list[HubNode] = []
        self.disks: dict[Path, Disk] = {}
        self.clones = 0

    @property
    def befriended(self) -> list[tuple[HubNode, HubNode]]:
        """Return (hub, other) of each hub that syncs with another one."""
        return [(hub, other) for hub in self.hubs for other in self.hubs if other.name in hub.tokens]

    def build(self, sites: int = 3, hubs: int = 2, *, federate: bool = False) -> None:
        """Make the sites and hubs; everybody joins everywhere, some for a part of the scopes, one as a relay.

        ``federate``: the first hub syncs with each of the others.
        """
        for number in range(hubs):
            folder = self.folder / f"hub{number}"
            self.disks[folder] = Disk(folder.name)
            hub = HubNode(f"hub{number}", folder, self.chance, self.disks[folder])
            hub.watch = self.oracle.watch
            self.hubs.append(hub)
        for number in range(sites):
            name = f"site{number}"
            site = SiteNode(name, self.folder / name, self.chance, Disk(name))
            self.sites.append(site)
            for hub in self.hubs:
                hub.enrol(site, *(PART_READ if number and self.chance.random() < 0.6 else FULL_READ))
                if number == 0:
                    hub.enrol(site, "", "relay")
        if federate:
            for other in self.hubs[1:]:
                self.hubs[0].befriend(other)
        for node in self.nodes:
            self.oracle.forgive(node)
        self.oracle.branching.clear()

    @property
    def nodes(self) -> list[Node]:
        return [*self.sites, *self.hubs]

    def pass_time(self, us: int) -> None:
        """Let some time pass, for everybody."""
        self.now += us
        for hub in self.hubs:
            hub.now = self.now

    def is_alive(self, process: object) -> bool:
        """Tell whether a simulated process lives."""
        return any(running.process == process for site in self.sites for running in site.running)

    def client(self, site: SiteNode, hub: HubNode) -> Client:
        return Client(self.weather, site.name, hub, site.tokens.get(hub.name, ""))

    # ---- recording -------------------------------------------------------------------------------------------------

    def record(self, site: SiteNode, count: int) -> None:
        """Have a process of a site record some things, and perhaps sync or end."""
        if not site.running or self.chance.random() < 0.2:
            site.start(next(self._numbers))
        process = self.chance.choice(site.running)
        before = len(process.drafts)
        for _ in range(count):
            site.record(process, self.now)
        self.oracle.records(site, process, before)
        fate = self.chance.random()
        if fate < 0.3:
            process.sync()
        elif fate < 0.5:
            site.end(process)
        elif fate < 0.6:
            site.kill(process)

    # ---- commands --------------------------------------------------------------------------------------------------

    def command(self, site: SiteNode, act: Callable[[], None], *, seals: bool = False, blow: Blow = NO_BLOW) -> None:
        """Run a command at a site; it may be killed, or the power cut, at the so-manyth point."""
        before = site.remember_journals()
        self.oracle.sealing = site if seals else None
        site.disk.arm(blow.points)
        try:
            act()
        except Crash:
            site.disk.arm(0)
            site.forget(before)
            self.restart(site, power=blow.power)
        except (UnreachableError, DeniedError):
            pass
        finally:
            site.disk.arm(0)
        site.forget(before)
        self.look()
        self.oracle.sealing = None

    def look(self) -> None:
        """Check what must hold everywhere."""
        for node in self.nodes:
            self.oracle.look(node)

    def restart(self, site: SiteNode, *, power: bool) -> None:
        """Kill every command of a site; or cut its power, which ends its processes too."""
        for process in site.restart(power=power):
            self.oracle.torn(site, process)

    def collect(self, site: SiteNode, *, blow: Blow = NO_BLOW) -> None:
        """Do what `cmf status` does first."""

        def act() -> None:
            done = collect.collect(site.folder, site.store, site.objects, site.clock(self.now), cut=True)
            must(site.disk.is_full or not done.problems, f"{site.name} cannot read a journal: {done.problems}")

        self.command(site, act, blow=blow)

    def push(self, site: SiteNode, hub: HubNode, *, relay: bool = False, blow: Blow = NO_BLOW) -> None:
        """Push what is its own, or as a relay does."""

        def act() -> None:
            clock = site.clock(self.now)
            sync.push(site.folder, site.store, site.objects, self.client(site, hub), clock, relay=relay)

        self.command(site, act, seals=True, blow=blow)

    def pull(self, site: SiteNode, hub: HubNode, scopes: tuple[str, ...] = (), *, blow: Blow = NO_BLOW) -> None:
        """Pull everything, or some scopes."""

        def act() -> None:
            rewritten = self._is_rewritten(site, hub)
            moved = sync.pull(site.store, site.objects, self.client(site, hub), views=(View(scopes=tuple(scopes)),))
            must(rewritten == bool(moved.warnings), f"{site.name}: {rewritten=}, but {moved.warnings=}")
            refused = [one.detail for one in moved.refused]
            must(site.disk.is_full or not refused, f"{site.name} refused what {hub.name} holds: {refused}")

        self.command(site, act, blow=blow)
        self.oracle.look_at_cursors(site, hub, scopes)

    def _is_rewritten(self, site: SiteNode, hub: HubNode) -> bool:
        """Tell whether a hub's log no longer begins as a site remembers it."""
        note = site.store.meta(f"hub {hub.url} checkpoint")
        if not note:
            return False
        seen = log.read(note, hub.hub.key.public.hex(), signing.verify)
        entries = self.oracle.logs[hub.name]
        return seen.size > len(entries) or root_of(entries[: seen.size]) != seen.root

    def pull_ancestors(self, site: SiteNode, hub: HubNode) -> None:
        """Pull ancestors: only the segments that the story of one execution needs."""
        execution = self.chance.choice([*hub.hub.store.index.execution_nodes(View()), *EXECUTIONS[:1]])

        def act() -> None:
            with contextlib.suppress(NotFoundError):
                sync.pull_lineage(site.store, site.objects, self.client(site, hub), execution, "up")

        self.command(site, act)

    def pack(self, site: SiteNode) -> None:
        """Make a bundle of everything."""
        path = self.folder / f"bundle{next(self._numbers)}"

        def act() -> None:
            collect.collect(site.folder, site.store, site.objects, site.clock(self.now), cut=True)
            sync.seal(site.folder, site.store, site.clock(self.now))
            sync.pack(site.store, site.objects, path)
            self.bundles.append(path)

        self.command(site, act, seals=True)

    def unpack(self, site: SiteNode, *, blow: Blow = NO_BLOW) -> None:
        """Take in some bundle that was made."""
        if self.bundles:
            path = self.chance.choice(self.bundles)

            def act() -> None:
                sync.unpack(site.store, site.objects, path)

            self.command(site, act, blow=blow)

    # ---- what befalls nodes ----------------------------------------------------------------------------------------

    def backup(self) -> None:
        """Keep the database of every node as it is."""
        for node in self.nodes:
            node.backups = [*node.backups[-3:], node.disk.image]

    def restore(self, nodes: Sequence[Node]) -> None:
        """Put an old backup in the place of the database of one of some nodes."""
        if kept := [node for node in nodes if node.backups]:
            node = self.chance.choice(kept)
            node.restore(self.chance.choice(node.backups))
            self.oracle.forgive(node)

    def clone(self, site: SiteNode) -> None:
        """Copy a store to another place, where people go on with it; the copy joins the hubs as itself."""
        if self.clones >= 2:
            return
        self.clones += 1
        name = f"clone{self.clones}"
        copy = site.clone(name, self.folder / name)
        self.sites.append(copy)
        for hub in self.hubs:
            with contextlib.suppress(CmfError):
                hub.enrol(copy, *FULL_READ)
        self.oracle.forgive(copy)
        self.oracle.branching.discard(copy.key)
        must(copy.key != site.key, f"{name} writes under the key of {site.name}")

    def crash_hub(self, hub: HubNode, *, power: bool) -> None:
        """Kill a hub, or cut its power."""
        hub.restart(power=power)
        self.look()

    def federate(self, hub: HubNode, other: HubNode, *, blow: Blow = NO_BLOW) -> None:
        """Have a hub sync with another one; it may be killed, or its power cut, at the so-manyth point."""

        def client(*_: object) -> Client:
            return Client(self.weather, hub.name, other, hub.tokens[other.name])

        hub.disk.arm(blow.points)
        try:
            with mock.patch.object(Federation, "_client", client):
                hub.hub.peers.hasten(console(), other.name)
                Federation(hub.hub).turn()
        except Crash:
            hub.restart(power=blow.power)
        except UnreachableError:
            pass
        finally:
            hub.disk.arm(0)
        self.look()

    def rebuild(self, node: Node) -> None:
        """Drop what is derived and fold it again, which changes nothing that anybody sees."""
        if isinstance(node, SiteNode):
            self.collect(node)
        store = store_of(node)
        before = store.dump()
        with contextlib.suppress(UnreachableError):
            store.rebuild()
        must(store.dump() == before, f"{node.name} says something else when it is rebuilt")

    def late(self) -> None:
        """Let a request of long ago arrive, once more or at last; nobody waits for the answer."""
        if self.weather.past:
            name, request = self.chance.choice(self.weather.past)
            self._deliver(next(hub for hub in self.hubs if hub.name == name), request)

    def _deliver(self, hub: HubNode, request: Request) -> None:
        with contextlib.suppress(CmfError, ConnectionResetError):
            hub.receive(request)
        self.look()

    def attack(self, site: SiteNode, hub: HubNode) -> None:
        """Somebody with a token sends segments that are damaged, forged, out of order, or not theirs to send."""
        held = [sealed for sealed in self.oracle.sealed.values() if sealed.prev]
        if not held:
            return
        lacking = [self.oracle.sealed[hash_] for hash_ in self.oracle.sealed.keys() - self.oracle.held[hub.name]]
        lacking = sorted((sealed for sealed in lacking if sealed.prev), key=lambda sealed: sealed.wire)
        victim = self.chance.choice(lacking or held)
        thief = next((one for one in self.sites if one.key == victim.writer), site)
        site = self.chance.choice((site, thief))
        sent = [*forgeries(self.chance, victim, self.chance.choice(held)), victim.wire]
        frames = b"".join(wire.frame(wire.SEGMENT, data) for data in self.chance.sample(sent, 3))
        self._deliver(hub, Request("POST", "/v1/push", frames, site.tokens.get(hub.name, "")))

    def revoke(self, site: SiteNode, hub: HubNode) -> None:
        """Take a site's access away."""
        hub.revoke(site)
        self.look()

    def admit(self, site: SiteNode, hub: HubNode, *, whole: bool) -> None:
        """Give a site access (again), to everything or to a part."""
        if not hub.disk.is_full:
            hub.enrol(site, *(FULL_READ if whole else PART_READ))
        self.look()

    # ---- the end ---------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Mend everything: every process has ended, every disk has room, every way is open, and everybody exchanges."""
        self.weather.calm()
        self.pass_time(3_600_000_000)
        for node in self.nodes:
            node.disk.is_full = False
        for site in self.sites:
            site.skew = 0
            for process in [*site.running]:
                site.end(process)
            for hub in self.hubs:
                if not self.oracle.roles(hub, site.tokens.get(hub.name, ""))[1]:
                    hub.enrol(site, *PART_READ)
                with contextlib.suppress(CmfError):
                    witness.trust(site.store, self.client(site, hub))
        for _ in range(3):
            for site in self.sites:
                for hub in self.hubs:
                    self.push(site, hub)
            for hub, other in self.befriended:
                self.federate(hub, other)
                self.oracle.agree(hub, other)
            for site in self.sites:
                for hub in self.hubs:
                    self.pull(site, hub)
            for hub in self.hubs:
                self.push(self.sites[0], hub, relay=True)


def forgeries(chance: random.Random, victim: Sealed, other: Sealed) -> list[bytes]:
    """Return segments that no hub may take: damaged, signed by another, or with the body of another."""
    segment = segments.from_wire(victim.wire)
    forger = signing.Key(chance.randbytes(32))
    body = bytearray(segment.body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    data = model.encode(model.Property(subject="scope", key="title", value="forged", t=9, salt="0" * 32))
    forged = segments.seal(victim.stream, segment.hash, segment.n + 1, [(sha256(data), data, 9)], forger, now=9)
    start = segments.start(victim.scope, "evil", forger, created=1, nonce=b"n" * 16)
    swapped = segments.from_wire(other.wire).body if other.ids != victim.ids else b""
    return [
        segments.wire_bytes(segment.header, segment.signature, bytes(body)),
        segments.to_wire(forged),
        segments.to_wire(start),
        segments.wire_bytes(segment.header, segment.signature, swapped),
    ]


@contextlib.contextmanager
def world(seed: int, *, fault: float = 0.1) -> Iterator[World]:
    """Make an empty world in which a seed decides all chance, and the world all time."""
    chance = random.Random(seed)
    folder = Path(tempfile.mkdtemp(prefix=f"cmf-sim-{os.getpid()}-", dir=ROOT))
    made = World(chance, folder, fault=fault)
    bytes_of = random.Random(f"bytes {seed}")
    patches = (
        mock.patch.object(os, "urandom", bytes_of.randbytes),
        mock.patch.object(random, "_urandom", bytes_of.randbytes),
        mock.patch.object(machine, "alive", made.is_alive),
        mock.patch.object(Hub, "now", staticmethod(lambda: made.now)),
        mock.patch.object(wire, "PULL_BYTES", PAGE_BYTES),
        mock.patch.object(wire, "PUSH_BYTES", 2 * PAGE_BYTES),
        mock.patch.object(wire, "ENTRIES_MAX", 7),
        mock.patch.object(service, "open_database", lambda folder, url="": Database(made.disks[folder])),
    )
    try:
        with contextlib.ExitStack() as stack:
            for patch in patches:
                stack.enter_context(patch)
            yield made
            for site in made.sites:
                site.close()
            for hub in made.hubs:
                hub.hub.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
