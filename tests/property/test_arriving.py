"""However a branching stream arrives, in whatever order and however cut into transactions, its heads are its ends."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf import signing
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import EVERYTHING
from cmf.model.segment import Segment
from cmf.store.arriving import Arriving
from cmf.store.batch import Item
from cmf.store.dialect import Dialect
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests import databases

KEY = signing.Key(b"k" * 32)
SCOPE = "p/a"


def branching(parents: list[int]) -> list[Arriving]:
    """Seal a stream in which segment ``n + 1`` follows segment ``parents[n] % (n + 1)``; the first starts it."""
    start = segments.start(SCOPE, "site", KEY, created=1, nonce=bytes(16))
    made: list[Segment] = [start]
    arriving = [Arriving(start, ())]
    for n, parent in enumerate(parents):
        before = made[parent % len(made)]
        record = model.Artifact(digest=f"sha256:{n:064x}")
        id_, data = model.salted(record, b"secret")
        sealed = segments.seal(start.hash, before.hash, before.n + 1, [(id_, data, None)], KEY, now=n + 2)
        made.append(sealed)
        arriving.append(Arriving(sealed, [Item(SCOPE, id_, data, record)], sparse=True))
    return arriving


def ends(arriving: list[Arriving]) -> set[bytes]:
    """Return the segments that none follows."""
    followed = {getattr(one.segment.fields, "prev", "") for one in arriving}
    return {one.segment.hash for one in arriving if one.segment.hash.hex() not in followed}


def arrive(store: SqlStore, transactions: list[list[Arriving]]) -> None:
    for part in transactions:
        if part:
            assert set(store.insert(part)) <= {"new", "known"}


def heads(store: SqlStore) -> set[bytes]:
    return {head.hash for found in store.heads(EVERYTHING).values() for head in found}


parents = st.lists(st.integers(0, 20), min_size=1, max_size=12)


@given(parents, st.randoms(use_true_random=False), st.lists(st.integers(0, 16), max_size=5))
def test_the_heads_of_what_arrived_are_its_ends_in_any_order(parents: list[int], order: Any, cuts: list[int]) -> None:
    arriving = branching(parents)
    start, rest = arriving[0], arriving[1:]
    order.shuffle(rest)
    rest += rest[:2]  # some come twice
    places = sorted({0, *(cut for cut in cuts if cut < len(rest)), len(rest)})
    store = SqlStore(Sqlite(None))
    arrive(store, [[start], *(rest[one:other] for one, other in pairwise(places))])
    assert heads(store) == ends(arriving)
    one_by_one = SqlStore(Sqlite(None))
    arrive(one_by_one, [[one] for one in arriving])
    assert store.dump() == one_by_one.dump()


@pytest.mark.xdist_group("postgres")
def test_the_heads_are_the_same_on_postgresql(database: str) -> None:
    from cmf.store.postgres import Postgres

    arriving = branching([0, 1, 1, 2, 3, 0, 6, 7, 7])
    dialect: Dialect = Postgres(database, within=databases.fresh())
    store = SqlStore(dialect)
    try:
        arrive(store, [arriving[:1], arriving[3:6], arriving[8:], arriving[2:4] + arriving[1:2], arriving])
        assert heads(store) == ends(arriving)
    finally:
        store.close()
