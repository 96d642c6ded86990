"""One set of facts has one meaning: incremental, rebuilt and by the reference; in any order, however often."""

from hypothesis import given
from hypothesis import strategies as st

from cmf.graph.filter import parse
from tests.property.store_histories import EXECUTIONS, SIZES, Fact, Site, histories, kept, reference, says_the_same


def folded(batches: list[list[Fact]]) -> Site:
    site = Site("one")
    for batch in batches:
        site.record(*batch)
    return site


@given(histories())
def test_what_a_store_says_is_what_the_reference_says(facts: list[Fact]) -> None:
    says_the_same(folded([facts]).store, reference(facts))


@given(histories(), st.data())
def test_neither_order_nor_batches_nor_repeats_change_what_a_store_says(facts: list[Fact], data: st.DataObject) -> None:
    again = data.draw(st.permutations(facts + data.draw(st.lists(st.sampled_from(facts), max_size=5))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(again)), max_size=6)))
    batches = [again[a:b] for a, b in zip([0, *cuts], [*cuts, len(again)], strict=True)]
    site = folded(batches)
    assert site.store.dump() == folded([facts]).store.dump()
    says_the_same(site.store, reference(facts))


@given(histories(), st.integers(0, 30))
def test_a_rebuilt_store_is_the_same_sealed_or_not(facts: list[Fact], at: int) -> None:
    site = folded([[fact] for fact in facts[:at]])
    site.seal()
    site.record(*facts[at:])
    before = site.store.dump()
    assert site.store.rebuild() >= len({(fact.scope, fact.id) for fact in kept(facts)})
    assert site.store.dump() == before
    says_the_same(site.store, reference(facts))


@given(histories())
def test_every_question_has_an_answer_whatever_was_recorded(facts: list[Fact]) -> None:
    index = folded([facts]).store.index
    known = index.nodes([*EXECUTIONS, *("artifact:" + digest for digest in SIZES), "scope:p/a"])
    for view in index.artifacts(list(known.values())).values():
        assert {use.artifact for use in view.uses} <= {view.digest}
    page = index.select(parse("status != lost and started >= 0"))
    assert all(not view.retracted and view.status != "lost" for view in page.executions)
    for node in EXECUTIONS:
        writes = index.history(node)
        assert [(w.t, w.record) for w in writes] == sorted(((w.t, w.record) for w in writes), reverse=True)
        assert {name for name in ("loss", "f1") if index.series(node, name)} == set(index.series_names(node))
