"""The simulator finds nothing in the product, and finds every bug that is planted in it."""

import pytest

from tests.simulator import commands
from tests.simulator.bugs import BUGS, RARE
from tests.simulator.run import simulate
from tests.simulator.world import FULL_READ, world

SEEDS = 300
PART = 25
PATIENCE = 150


@pytest.mark.parametrize("start", range(0, SEEDS, PART))
def test_whatever_goes_wrong_nothing_is_lost_and_everybody_becomes_equal(start: int) -> None:
    for seed in range(start, start + PART):
        try:
            simulate(seed)
        except Exception as error:
            error.add_note(f"To see it again: python -m tests.simulator --seed {seed}")
            raise


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_found(bug: str) -> None:
    first = RARE.get(bug, 0)
    for seed in range(first, first + PATIENCE):
        with BUGS[bug]():
            try:
                simulate(seed)
            except Exception:  # noqa: BLE001  # however it shows
                return
    pytest.fail(f"{PATIENCE} seeds did not find that {bug}")


def test_there_are_twenty_bugs_at_least() -> None:
    assert len(BUGS) >= 20


def test_a_seed_is_the_same_story_each_time() -> None:
    assert simulate(7) == simulate(7)


def test_a_key_that_is_back_from_a_backup_signs_nothing_that_a_hub_never_gets() -> None:
    with world(3, fault=0.0) as made:
        made.build(sites=2, hubs=2)
        site, (hub, other) = made.sites[1], made.hubs
        made.record(site, 5)
        commands.push(made, site, other)
        commands.rotate(made, site, alone=True)
        hub.enrol(site, *FULL_READ)
        commands.push(made, site, hub)  # what the first key signed is not taken, and sealed again
        site.restore_key()
        hub.enrol(site, *FULL_READ)
        made.record(site, 5)
        site.end(site.running[-1])
        commands.push(made, site, hub)
        own = [made.oracle.sealed[hash_] for hash_ in made.oracle.held[site.name]]
        signed = {(sealed.scope, id_) for sealed in own for id_ in sealed.ids}
        assert len(signed) > 5
        assert signed <= made.oracle.facts(hub)
