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

from cmf.errors import CmfError, DeniedError, UnreachableError
from cmf.hub import log as hub_log
from cmf.hub import service
from cmf.hub.access import console
from cmf.hub.federation import Federation
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.worktree import machine
from tests.simulator.disk import Crash, Database, Disk
from tests.simulator.network import Client, Request, Weather
from tests.simulator.nodes import HubNode, Node, SiteNode
from tests.simulator.oracle import Oracle, must

FULL_READ = ("", "write")
PART_READ = ("p", "write")
PAGE_BYTES = 1500
TILE_LEVELS = 2
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
        self.numbers = itertools.count(1)
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
                elif number == sites - 1:
                    hub.enrol(site, PART_READ[0], "redact")
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

    def calm_client(self, site: SiteNode, hub: HubNode) -> Client:
        """Return a client whose requests all come through, and are not seen by others."""
        return Client(Weather(self.chance, 0.0), site.name, hub, site.tokens.get(hub.name, ""))

    # ---- recording -------------------------------------------------------------------------------------------------

    def record(self, site: SiteNode, count: int) -> None:
        """Have a process of a site record some things, and perhaps sync or end."""
        if not site.running or self.chance.random() < 0.2:
            site.start(next(self.numbers))
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
            if isinstance(node, SiteNode) and node.had and self.chance.random() < 0.5:
                node.restore_key()
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

    def late(self) -> None:
        """Let a request of long ago arrive, once more or at last; nobody waits for the answer."""
        if self.weather.past:
            name, request = self.chance.choice(self.weather.past)
            self.deliver(next(hub for hub in self.hubs if hub.name == name), request)

    def deliver(self, hub: HubNode, request: Request) -> None:
        """Hand a request to a hub, whoever sends it."""
        with contextlib.suppress(CmfError, ConnectionResetError):
            hub.receive(request)
        self.look()

    def revoke(self, site: SiteNode, hub: HubNode) -> None:
        """Take a site's access away."""
        hub.revoke(site)
        self.look()

    def revoke_key(self, site: SiteNode, hub: HubNode) -> None:
        """Have a hub take nothing more that a key of a site signs: most often one that it had before."""
        key = self.chance.choice([*sorted(site.had)] * 3 + [site.key])
        if not hub.disk.is_full:
            hub.revoke_key(key)
        self.look()

    def admit(self, site: SiteNode, hub: HubNode, *, whole: bool, redacts: bool = False) -> None:
        """Give a site access (again), to everything or to a part; perhaps to redact there, too."""
        if not hub.disk.is_full:
            prefix, role = FULL_READ if whole else PART_READ
            with contextlib.suppress(DeniedError):  # its key was revoked
                hub.enrol(site, prefix, role)
                if redacts:
                    hub.enrol(site, prefix, "redact")
        self.look()

    def change_peers(self, hub: HubNode, other: HubNode, prefix: str) -> None:
        """Let two hubs that sync be each other's peer for a part of the scopes only, or for all again."""
        if not other.disk.is_full and not hub.disk.is_full:
            other.set_peer(hub.hub.key.public, prefix)
            hub.set_peer(other.name, prefix)
        self.look()


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
        mock.patch.object(hub_log, "TILE_LEVELS", TILE_LEVELS),
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
