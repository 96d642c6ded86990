"""Merge is set union: whatever way segments take, stores that hold the same segments are the same, byte for byte."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cmf.errors import NotFoundError
from cmf.model import records as model
from cmf.model import segment as segments
from tests.property.store_histories import (
    EXECUTIONS,
    SCOPES,
    Fact,
    Site,
    accepted,
    histories,
    kept,
    reference,
    says_the_same,
    steps,
)

SITES = 3
views = st.sampled_from(((), ("p/a",), ("p/*",), ("q/a", "p/b"), ("nothing/here",)))
moves = st.lists(
    st.tuples(st.sampled_from(("seal", "push", "pull", "mesh")), st.integers(0, SITES - 1), st.integers(0, 2), views),
    max_size=8,
)


def live(facts: list[Fact], told_by: list[int], journey: list[tuple[str, int, int, Any]]) -> tuple[list[Site], Site]:
    """Let sites record, seal and exchange in some order; the history is told in pieces between the moves."""
    sites, hub = [Site(f"site{n}") for n in range(SITES)], Site("hub")
    piece = -(-len(facts) // (len(journey) + 1))
    for n, (move, at, to, view) in enumerate([*journey, ("seal", 0, 0, ())]):
        for fact, by in list(zip(facts, told_by, strict=False))[n * piece : (n + 1) * piece]:
            sites[by].record(fact)
        if move == "seal":
            sites[at].seal()
        elif move == "push":
            sites[at].push(hub)
        elif move == "pull":
            sites[at].pull(hub, *view)
        elif at != to:
            sites[at].pull(sites[to], *view)
    return sites, hub


def meet(sites: list[Site], hub: Site) -> None:
    """Bring everybody up to date."""
    for site in sites:
        site.push(hub)
    for site in sites:
        site.pull(hub)


tellers = st.lists(st.integers(0, SITES - 1), min_size=60, max_size=60)


@given(histories(), tellers, moves)
def test_sites_that_have_met_are_equal_byte_for_byte(
    facts: list[Fact], told_by: list[int], journey: list[tuple[str, int, int, Any]]
) -> None:
    # Some facts are told by two sites: the second one tells the history backwards.
    facts = facts + facts[::-1][:5]
    sites, hub = live(facts, told_by, journey)
    meet(sites, hub)
    dump = hub.store.dump()
    assert all(site.store.dump() == dump for site in sites)
    says_the_same(hub.store, reference(facts))
    for site in (sites[0], hub):
        site.store.rebuild()
        assert site.store.dump() == dump
    assert all(site.push(hub) == [] and site.pull(hub) == [] for site in sites)
    left = {fact.id for fact in kept(facts)}
    for fact in facts:
        assert {found(site, fact) for site in [*sites, hub]} == {fact.data if fact.id in left else b""}
        assert fact.id in left or all(fact.data not in whole(site) for site in [*sites, hub])


@given(histories(), tellers, moves, st.data())
def test_segments_in_any_order_that_chains_allow_give_the_same(
    facts: list[Fact], told_by: list[int], journey: list[tuple[str, int, int, Any]], data: st.DataObject
) -> None:
    sites, hub = live(facts, told_by, journey)
    meet(sites, hub)
    chains: dict[bytes, list[bytes]] = {}
    for _, _, wire in hub.store.stored():
        chains.setdefault(segments.from_wire(wire).stream, []).append(wire)
    picks = data.draw(st.permutations([stream for stream, wires in chains.items() for _ in wires]))
    at = dict.fromkeys(chains, 0)
    other = Site("other")
    for stream in picks:
        wires = chains[stream]
        back = data.draw(st.integers(0, at[stream]))  # some come again, with those after them
        accepted(other.peer.admit(wires[back : at[stream] + 1]))
        at[stream] += 1
    assert other.store.dump() == hub.store.dump()


@given(histories(), tellers, moves, views, st.sampled_from(EXECUTIONS))
def test_a_partial_pull_leaves_nothing_dangling_and_a_full_one_fills_the_gaps(
    facts: list[Fact], told_by: list[int], journey: list[tuple[str, int, int, Any]], view: Any, execution: str
) -> None:
    sites, hub = live(facts, told_by, journey)
    meet(sites, hub)
    part = Site("part")
    part.pull(hub, *view)
    part.sparsely(hub, execution)
    index = part.store.index
    known = index.nodes(EXECUTIONS)
    born = {x.node for x in index.executions(list(known.values())).values() if x.known}
    assert set(index.executions(list(known.values()))) == set(known.values())
    assert born <= {model.execution_node(f.scope, str(r.id)) for f in facts if (r := birth(f))}
    assert {step[0] for step in steps(part.store, "up")} <= set(EXECUTIONS)
    assert steps(part.store, "down") == {step for step in steps(part.store, "up") if step[2]}
    whole, here = (store.index.nodes([execution]) for store in (hub.store, part.store))
    if whole:
        [expected] = hub.store.index.executions(list(whole.values())).values()
        assert list(index.executions(list(here.values())).values()) in ([expected], [] if not expected.known else None)
    before = part.store.dump()
    part.store.rebuild()
    assert part.store.dump() == before
    part.pull(hub)
    assert part.store.dump() == hub.store.dump()
    assert part.pull(hub) == []


def found(site: Site, fact: Fact) -> bytes:
    """Return a record's bytes, or none if they are not in any scope."""
    try:
        return site.store.find(fact.id)
    except NotFoundError:
        return b""


def whole(site: Site) -> bytes:
    """Return the bytes of all records in a site's segments."""
    parts = [segments.from_wire(wire) for _, _, wire in site.store.stored()]
    return b"\n".join(data for part in parts for _, data in segments.records_of(part))


def birth(fact: Fact) -> model.Execution | None:
    record = model.read(fact.data)
    return record if isinstance(record, model.Execution) else None


@given(histories(), histories(), st.sampled_from(SCOPES), st.permutations(range(4)))
def test_a_fork_keeps_both_branches_and_converges(
    left: list[Fact], right: list[Fact], scope: str, order: list[int]
) -> None:
    """A store was copied and both copies went on writing with one key in one stream."""
    left, right = ([fact._replace(scope=scope) for fact in facts] for facts in (left, right))
    origin = Site("copied")
    genesis = segments.start(scope, "copied", origin.key, created=1, nonce=b"n" * 16)
    tips = [genesis, genesis]
    wires: list[list[bytes]] = [[segments.to_wire(genesis)], [segments.to_wire(genesis)]]
    for branch, facts in enumerate((left, right)):
        for half in (facts[: len(facts) // 2], facts[len(facts) // 2 :]):
            body = [(f.id, f.data, model.time_of(model.read(f.data))) for f in dict.fromkeys(half)]
            if body:
                tip = tips[branch]
                tips[branch] = segments.seal(genesis.hash, tip.hash, tip.n + 1, body, origin.key, now=branch)
                wires[branch].append(segments.to_wire(tips[branch]))
    stores = [Site(name) for name in ("a", "b", "c", "d")]
    accepted(stores[0].peer.admit(wires[0]))
    accepted(stores[1].peer.admit(wires[1]))
    accepted(stores[2].peer.admit(wires[0] + wires[1]))
    for at in [*order, *order, *order]:
        stores[at].pull(stores[(at + 1) % 4])
        stores[(at + 2) % 4].pull(stores[at])
    dumps = [store.store.dump() for store in stores]
    assert all(dump == dumps[2] for dump in dumps)
    says_the_same(stores[3].store, reference(left + right))
    assert stores[0].pull(stores[1]) == []
