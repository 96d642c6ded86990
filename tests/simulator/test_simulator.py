"""The simulator finds nothing in the product, and finds every bug that is planted in it."""

import pytest

from tests.simulator.bugs import BUGS, RARE
from tests.simulator.run import simulate

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
