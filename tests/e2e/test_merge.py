"""Three sites and a real hub: whatever is told, by whom and in whatever order, all four end with the same tables."""

import random
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmf.model.exchange import View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import transfer
from tests.hubs import running
from tests.property.store_histories import Fact, Site, accepted, histories, reference, says_the_same

pytestmark = pytest.mark.xdist_group("merge")


@settings(max_examples=6)
@given(histories(), st.randoms(use_true_random=False))
def test_three_sites_and_a_hub_over_http_end_byte_for_byte_the_same(facts: list[Fact], chance: random.Random) -> None:
    sites = [Site(f"site{n}") for n in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        with running(place / "hub", place / "state") as hub:
            peer = hub.client(place).peer
            for fact in [*facts, *facts[:5]]:  # some facts are told at two sites
                site = chance.choice(sites)
                site.record(fact)
                if chance.random() < 0.1:
                    site.seal()
                    accepted(transfer(site.peer, peer, View(own=True)))
                if chance.random() < 0.1:
                    accepted(transfer(peer, site.peer, View()))
            for site in chance.sample(sites, 3):
                site.seal()
                accepted(transfer(site.peer, peer, View(own=True)))
            for site in chance.sample(sites, 3):
                accepted(transfer(peer, site.peer, View()))
                assert list(transfer(site.peer, peer, View(own=True))) == []
        (database,) = (place / "hub").glob("*.db")
        merged = SqlStore(Sqlite(database))
        dump = merged.dump()
        says_the_same(merged, reference(facts))
        assert all(site.store.dump() == dump for site in sites)
        merged.rebuild()
        assert merged.dump() == dump
        merged.close()
