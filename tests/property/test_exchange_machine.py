"""Hypothesis decides what befalls sites and hubs, step by step, and shrinks what it finds to the shortest story."""

import contextlib
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cmf.model.exchange import View
from tests.simulator import commands
from tests.simulator.commands import VIEWS
from tests.simulator.run import heal, judge
from tests.simulator.world import Blow, World, world

some = st.integers(0, 7)
blows = st.just(Blow()) | st.builds(Blow, st.integers(1, 25), st.booleans())


class Exchange(RuleBasedStateMachine):
    """Real stores, journals, clients and hubs, on the simulator's disks and network."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = contextlib.ExitStack()
        self.world: World

    @initialize(seed=st.integers(0, 2**32), fault=st.sampled_from((0.0, 0.1, 0.4)), hubs=st.integers(1, 2))
    def begin(self, seed: int, fault: float, hubs: int) -> None:
        self.world = self.stack.enter_context(world(seed, fault=fault))
        self.world.build(sites=2, hubs=hubs)

    def site(self, number: int) -> Any:
        return self.world.sites[number % len(self.world.sites)]

    def hub(self, number: int) -> Any:
        return self.world.hubs[number % len(self.world.hubs)]

    @rule(site=some, count=st.integers(1, 4), later=st.integers(0, 1000))
    def record(self, site: int, count: int, later: int) -> None:
        self.world.pass_time(later)
        self.world.record(self.site(site), count)

    @rule(site=some, blow=blows)
    def collect(self, site: int, blow: Blow) -> None:
        commands.collect(self.world, self.site(site), blow=blow)

    @rule(site=some, hub=some, relay=st.booleans(), blow=blows)
    def push(self, site: int, hub: int, relay: bool, blow: Blow) -> None:
        commands.push(self.world, self.site(0 if relay else site), self.hub(hub), relay=relay, blow=blow)

    @rule(site=some, hub=some, view=st.sampled_from(VIEWS), blow=blows)
    def pull(self, site: int, hub: int, view: View, blow: Blow) -> None:
        commands.pull(self.world, self.site(site), self.hub(hub), view, blow=blow)

    @rule(site=some, hub=some, direction=st.sampled_from(("up", "down")))
    def pull_lineage(self, site: int, hub: int, direction: Any) -> None:
        commands.pull_lineage(self.world, self.site(site), self.hub(hub), direction)

    @rule(site=some, hub=some, views=st.lists(st.sampled_from(VIEWS), max_size=2))
    def follow(self, site: int, hub: int, views: list[View]) -> None:
        commands.follow(self.world, self.site(site), self.hub(hub), views)

    @rule(site=some, blow=blows)
    def redact(self, site: int, blow: Blow) -> None:
        commands.redact(self.world, self.site(site), blow=blow)

    @rule(site=some, undo=st.booleans())
    def retract(self, site: int, undo: bool) -> None:
        commands.retract(self.world, self.site(site), undo=undo)

    @rule(site=some, alone=st.booleans())
    def make_another_key(self, site: int, alone: bool) -> None:
        commands.rotate(self.world, self.site(site), alone=alone)

    @rule(site=some, hub=some)
    def revoke_a_key(self, site: int, hub: int) -> None:
        self.world.revoke_key(self.site(site), self.hub(hub))

    @rule(site=some)
    def pack(self, site: int) -> None:
        commands.pack(self.world, self.site(site))

    @precondition(lambda self: self.world.bundles)
    @rule(site=some, blow=blows)
    def unpack(self, site: int, blow: Blow) -> None:
        commands.unpack(self.world, self.site(site), blow=blow)

    @rule(site=some, power=st.booleans())
    def crash_a_site(self, site: int, power: bool) -> None:
        self.world.restart(self.site(site), power=power)
        self.world.look()

    @rule(hub=some, power=st.booleans())
    def crash_a_hub(self, hub: int, power: bool) -> None:
        self.world.crash_hub(self.hub(hub), power=power)

    @rule()
    def back_up(self) -> None:
        self.world.backup()

    @precondition(lambda self: self.world.hubs[0].backups)
    @rule(of_a_site=st.booleans())
    def put_a_backup_back(self, of_a_site: bool) -> None:
        self.world.restore(self.world.sites if of_a_site else self.world.hubs)

    @rule(site=some)
    def copy_a_store(self, site: int) -> None:
        self.world.clone(self.site(site))

    @rule(site=some, skew=st.sampled_from((0, 10**12, -(10**12))))
    def set_a_clock(self, site: int, skew: int) -> None:
        self.site(site).skew = skew

    @rule(site=some, full=st.booleans())
    def fill_or_empty_a_disk(self, site: int, full: bool) -> None:
        self.site(site).disk.is_full = full

    def teardown(self) -> None:
        with self.stack:
            if hasattr(self, "world"):
                heal(self.world)
                judge(self.world)


TestExchange = Exchange.TestCase
TestExchange.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
