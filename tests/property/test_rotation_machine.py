"""Sites whose keys are followed by others at any time, while hubs, a relay and peers carry what all of them signed."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cmf import signing
from cmf.hub.access import console
from cmf.model import rotation, wire
from cmf.model.exchange import Admission, View
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer
from tests.property.inner import InnerHub

ROTATIONS_MAX = rotation.VOUCHES_MAX
NEAR, FAR = 0, 1
hubs = st.sampled_from((NEAR, FAR))
sites = st.sampled_from((0, 1))


class Rotating(RuleBasedStateMachine):
    """Two sites: the first is let in at both hubs, the second at the near one, and at the other known by a peer."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.hubs = [InnerHub(Path(self.folder.name) / str(n)) for n in (NEAR, FAR)]
        self.sites = [Writer(f"site{n}", seed=n + 1) for n in (0, 1)]
        self.keys = [[site.key.public] for site in self.sites]
        self.carrier = Writer("carrier", seed=9)
        self.ends: dict[tuple[int, int], LocalPeer] = {}
        for n, hub in ((0, NEAR), (0, FAR), (1, NEAR)):
            self.ends[n, hub] = self._let_in(hub, f"site{n}", self.keys[n][0], ("write", self._scope(n)))
        self.relays = [self._let_in(hub, "carrier", self.carrier.key.public, ("relay", "")) for hub in (NEAR, FAR)]
        key = signing.Key(b"p" * 32).public
        self.peers = [self._let_in(hub, "the other hub", key, ("peer", "")) for hub in (NEAR, FAR)]
        self.recorded = 0

    def _let_in(self, hub: int, name: str, key: bytes, *roles: tuple[str, str]) -> LocalPeer:
        return self.hubs[hub].lets(name, key, *roles)

    def _scope(self, site: int) -> str:
        return f"team{site}/train"

    # ---- what happens ------------------------------------------------------------------------------------------------

    @rule(site=sites)
    def record(self, site: int) -> None:
        self.recorded += 1
        self.sites[site].execution(self._scope(site), self.recorded)

    @rule(site=sites)
    def seal(self, site: int) -> None:
        self.sites[site].seal()

    @precondition(lambda self: max(map(len, self.keys)) <= ROTATIONS_MAX)
    @rule(site=sites)
    def rotate(self, site: int) -> None:
        held = self.sites[site]
        seed = bytes([10 * (site + 1) + len(self.keys[site])]) * 32
        said = rotation.vouch(held.key, signing.Key(seed).public, at=self.recorded)
        held.key = signing.Key(seed, (*held.key.vouched, said)[-ROTATIONS_MAX:])
        self.keys[site].append(held.key.public)

    @rule(hub=hubs)
    def first_site_pushes(self, hub: int) -> None:
        self._push(0, hub)

    @rule()
    def second_site_pushes(self) -> None:
        self._push(1, NEAR)

    def _push(self, site: int, hub: int) -> None:
        taken(transfer(LocalPeer(self.sites[site].store), self.ends[site, hub], View(own=True)))

    @rule(site=sites)
    def the_carrier_gets_what_a_site_sealed(self, site: int) -> None:
        taken(transfer(LocalPeer(self.sites[site].store), LocalPeer(self.carrier.store), View()))

    @rule(hub=hubs)
    def the_carrier_relays_the_first_sites(self, hub: int) -> None:
        """Whose old keys a hub was told of, by an invite or by a chain; of the second site's the far hub never was."""
        taken(transfer(LocalPeer(self.carrier.store), self.relays[hub], View(scopes=(self._scope(0),))))

    @rule(hub=hubs)
    def a_hub_gets_what_the_other_holds(self, hub: int) -> None:
        taken(transfer(LocalPeer(self.hubs[1 - hub].store), self.peers[hub], View()))

    # ---- what holds --------------------------------------------------------------------------------------------------

    @invariant()
    def whoever_a_hub_let_in_is_one_principal_with_keys_of_its_own_alone(self) -> None:
        for n, hub in self.ends:
            keys = {bytes.fromhex(key.key) for key in self._principal(hub, f"site{n}").keys}
            assert self.keys[n][0] in keys
            assert keys <= set(self.keys[n])

    def _principal(self, hub: int, name: str) -> wire.Principal:
        (found,) = [one for one in self.hubs[hub].hub.access.principals(console()) if one.name == name]
        return found

    def teardown(self) -> None:
        try:
            self._comes_together()
        finally:
            for hub in self.hubs:
                hub.hub.close()
            self.folder.cleanup()

    def _comes_together(self) -> None:
        """In the end everything that was recorded is at both hubs, whatever key signed it, and by whom it came."""
        everything = Writer("everything").store
        for site in self.sites:
            site.seal()
            taken(transfer(LocalPeer(site.store), LocalPeer(everything), View()))
        for number, hub in self.ends:
            self._push(number, hub)
        for hub in (NEAR, FAR):
            self.a_hub_gets_what_the_other_holds(hub)
        told = everything.dump()
        assert [hub.store.dump() for hub in self.hubs] == [told, told]
        assert everything.counts()["execution"] == self.recorded


def taken(admissions: Iterator[Admission]) -> None:
    """Have all of them admitted: what an owner's key signed is never refused for a rotation."""
    assert [(one.scope, one.kind, one.detail) for one in admissions if one.outcome == "refused"] == []


TestRotating = Rotating.TestCase
TestRotating.settings = settings(max_examples=12, stateful_step_count=25)
