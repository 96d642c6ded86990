"""What is carried in other scopes changes nothing of an execution: whoever may not write in its scope cannot alter it.

A hub admits a segment only from who may write in its scope; so all that others can do is say things in their own.
"""

from hypothesis import given, settings

from cmf.model import records as model
from cmf.store.sql import SqlStore
from tests.property.store_histories import EXECUTIONS, Fact, Site, histories

THEIRS = "q/a"
OURS = [node for node in EXECUTIONS if not node.startswith(f"execution:{THEIRS}:")]


def told(facts: list[Fact]) -> SqlStore:
    site = Site("one")
    site.record(*facts)
    return site.store


def seen(store: SqlStore) -> dict[str, object]:
    """Return what anybody sees of our executions: their views, series, and the writes of our scopes to them."""
    index = store.index
    views = {view.node: view for view in index.executions(list(index.nodes(OURS).values())).values()}
    return {
        node: (
            views[node],
            [index.series(node, name) for name in ("loss", "f1")],
            [write for write in index.history(node) if write.scope != THEIRS],
        )
        for node in OURS
        if node in views and views[node].known
    }


@settings(max_examples=30)
@given(histories(), histories())
def test_nothing_said_in_another_scope_changes_what_is_seen_of_an_execution(
    ours: list[Fact], others: list[Fact]
) -> None:
    ours = [fact for fact in ours if fact.scope != THEIRS]
    # They copy our records, retract and redact them, and say what they like of our executions, all in their own scope.
    about = [f"record:{fact.id.hex()}" for fact in ours] + OURS
    marks = [
        model.salted(model.Property(subject=subject, key=key, value=True, t=2**53), b"theirs")
        for subject in about
        for key in ("retracted", *(("redacted",) if subject.startswith("record:") else ()))
    ]
    theirs = [fact._replace(scope=THEIRS) for fact in [*others, *ours]] + [Fact(THEIRS, *mark) for mark in marks]
    before = seen(told(ours))
    assert seen(told([*theirs, *ours])) == before
    assert seen(told([*ours, *theirs])) == before
