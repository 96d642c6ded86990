from typing import Any

import pytest

from cmf.graph.filter import parse
from cmf.model import digest as digests
from cmf.model import records as model
from tests.property.store_histories import Site
from tests.unit.store.book import Book, artifact, execution_id


@pytest.fixture
def book() -> Book:
    return Book()


def test_the_own_scope_wins_then_the_nearest_above_and_strangers_only_claim(book: Book) -> None:
    node = book.run("p/a/deep/er", 1)
    for t, scope in enumerate(("p/a", "p/a/deep", "q/a")):
        book.say(node, "title", scope, t=50 - t, scope=scope)
        book.say(node, "metric/f1", t, scope=scope)
        book.say(node, "param/x", t, scope=scope)
        book.say(node, "status/1-a/0", {"status": "failed"}, scope=scope)
    view = book.view(node)
    assert view.properties == {"title": "p/a/deep"}
    assert (view.metrics, view.params, view.status) == ({}, {}, "unknown")
    book.say(node, "title", "own", t=1)
    assert book.view(node).properties == {"title": "own"}
    assert [(w.scope, w.value) for w in book.index.history(node) if w.key == "title"] == [
        ("p/a", "p/a"),
        ("p/a/deep", "p/a/deep"),
        ("q/a", "q/a"),
        ("p/a/deep/er", "own"),
    ]


def test_a_parameter_set_later_beats_the_births_and_losing_values_stay_readable(book: Book) -> None:
    node = book.run("p/a", 1, params={"lr": 0.1, "depth": 3})
    book.say(node, "param/lr", 0.2, t=5)
    late = book.say(node, "param/lr", 0.3, t=9)
    assert book.view(node).params == {"depth": 3, "lr": 0.3}
    assert [(w.value, w.retracted) for w in book.index.history(node)] == [(0.3, False), (0.2, False)]
    book.say(f"record:{late.hex()}", "retracted", True)
    assert book.view(node).params == {"depth": 3, "lr": 0.2}
    assert [(w.value, w.retracted) for w in book.index.history(node)] == [(0.3, True), (0.2, False)]


def test_a_retracted_parameter_gives_way_to_the_births(book: Book) -> None:
    node = book.run("p/a", 1, params={"lr": 0.1})
    said = book.say(node, "param/lr", 0.2)
    book.say(f"record:{said.hex()}", "retracted", True)
    assert book.view(node).params == {"lr": 0.1}
    assert book.index.select(parse("params.lr = 0.1")).executions


def test_births_that_differ_only_in_salt_are_one_and_others_conflict(book: Book) -> None:
    node = book.run("p/a", 1, name="x")
    id_, data = model.salted(model.Execution(id=execution_id(1), started=1, name="x"), b"another store" * 3)
    book.store.add([("p/a", id_, data)])
    book.store.fold_pending()
    assert not book.view(node).conflict
    other = book.tell("p/a", model.Execution(id=execution_id(1), started=1, name="y"))
    assert book.view(node).conflict
    book.say(f"record:{other.hex()}", "retracted", True)
    assert (book.view(node).conflict, book.view(node).name) == (False, "x")


def test_two_scopes_may_birth_one_id_and_they_stay_two(book: Book) -> None:
    nodes = [book.run(scope, 1, name=scope) for scope in ("p/a", "q/a")]
    assert [book.view(node).name for node in nodes] == ["p/a", "q/a"]


def test_what_the_process_of_the_first_rank_says_is_shown(book: Book) -> None:
    node = book.run("p/a", 1, started=1_000_000)
    environment = digests.file_digest(b"environment")
    for rank in (10, 2):
        process = {
            "site": {"id": "x", "name": f"lab{rank}"},
            "host": f"h{rank}",
            "user": "ada",
            "code": {"commit": "abc"},
            "environment": {"$object": environment},
        }
        book.say(node, f"process/1-a/{rank}", process)
        book.say(node, f"status/1-a/{rank}", {"status": "finished", "exit": 0, "ended": 3_500_000 + rank})
    view = book.view(node)
    assert (view.site, view.host, view.author, view.code) == ("lab2", "h2", "ada", {"commit": "abc"})
    assert (view.environment, view.status, view.exit) == (environment, "finished", 0)
    assert (view.duration, view.attempts, view.ended) == (2.50001, ("1-a",), 3_500_010)
    assert [e.node for e in book.index.select(parse("author = ada and site = lab2")).executions] == [node]


@pytest.mark.parametrize(
    "value", [None, 3, "x", [], {"status": 3}, {"site": 3, "code": 3, "environment": 3, "user": 3}]
)
def test_values_of_odd_forms_are_kept_and_shown_without_failing(book: Book, value: Any) -> None:
    node = book.run("p/a", 1)
    for key in ("status/1-a/0", "process/1-a/0", "status/1-a", "process/²/²", "status/1-a/²", "retracted"):
        book.say(node, key, value)
    view = book.view(node)
    assert (view.status, view.site, view.code, view.environment, view.retracted) == ("running", "", {}, "", False)


@pytest.mark.parametrize("value", [{"$f": "x"}, {"$b": "?"}, {"$b": "A"}, {"$i": "x"}, {"$i": "9" * 5000}, {"$f": 3}])
def test_a_tag_with_a_wrong_content_breaks_neither_fold_nor_view(book: Book, value: Any) -> None:
    node = book.run("p/a", 1, params={"x": value})
    book.say(node, "title", value)
    view = book.view(node)
    assert (view.params["x"], view.properties["title"]) == (value, value)


def test_something_is_retracted_by_true_alone(book: Book) -> None:
    node = book.run("p/a", 1)
    for value, hidden in ((1, False), (1.0, False), ("true", False), (True, True), (None, False)):
        book.say(node, "retracted", value)
        assert book.view(node).retracted == hidden, value


@pytest.mark.parametrize(("by", "hides"), [("p/a", True), ("p/a/deep", True), ("p/a/deep/er", False), ("p/ab", False)])
def test_a_retraction_hides_the_copies_carried_in_its_scope_or_below(book: Book, by: str, hides: bool) -> None:
    node = book.run("p/a/deep", 1)
    event = book.made(node, "data")
    book.say(f"record:{event.hex()}", "retracted", True, scope=by)
    assert (book.view(node).outputs == ()) == hides
    assert (book.view(artifact("data")).uses == ()) == hides


def test_retracting_an_execution_hides_its_events_and_null_brings_them_back(book: Book) -> None:
    node = book.run("p/a", 1)
    book.made(node, "before")
    alone = book.made(node, "retracted itself")
    book.say(f"record:{alone.hex()}", "retracted", True)
    book.say(node, "retracted", True)
    book.made(node, "after")
    assert (book.view(node).retracted, book.view(node).outputs) == (True, ())
    book.say(node, "retracted", None)
    assert {use.path for use in book.view(node).outputs} == {"before", "after"}
    assert not book.view(node).retracted


def test_an_old_retraction_that_comes_late_changes_nothing(book: Book) -> None:
    node = book.run("p/a", 1)
    book.say(node, "retracted", None, t=9)
    book.say(node, "retracted", True, t=5)
    assert not book.view(node).retracted


def test_an_execution_stays_retracted_when_one_of_its_births_is(book: Book) -> None:
    node = book.run("p/a", 1, name="x")
    other = book.tell("p/a", model.Execution(id=execution_id(1), started=1, name="y"))
    book.say(node, "retracted", True)
    book.say(f"record:{other.hex()}", "retracted", True, scope="p/a")
    assert book.view(node).retracted


def test_a_strangers_metric_that_is_retracted_leaves_nothing_behind(book: Book) -> None:
    node = book.run("p/a", 1)
    book.tell("p/a", chunk(10, 0.5))
    said = book.say(node, "metric/loss", 9, scope="q/a")
    book.say(f"record:{said.hex()}", "retracted", True, scope="q/a")
    assert book.view(node).metrics == {"loss": 0.5}
    assert {(key, scope) for _, key, scope, *_ in book.store.dump()["register"]} == {
        ("metric/loss", b"sp/a"),
        ("retracted", b"sq/a"),
    }


def test_lost_gives_way_to_an_end_whatever_comes_first(book: Book) -> None:
    node = book.run("p/a", 1)
    for t, state, shown in ((9, "lost", "lost"), (3, "finished", "finished"), (4, "running", "finished")):
        book.say(node, "status/1-a/0", {"status": state}, t=t)
        assert book.view(node).status == shown
    book.say(node, "status/1-a/0", {"status": "running"}, t=10)
    assert book.view(node).status == "running"


def chunk(rows: int, last: float, *, first: int = 0, attempt: str = "1-a", time: int = 0) -> model.Series:
    return model.Series(
        execution=execution_id(1),
        names=["loss"],
        attempt=attempt,
        rank=0,
        first=first,
        rows=rows,
        steps=(first, first + rows),
        times=(0, time),
        object=digests.file_digest(str(rows).encode()),
        size=9,
        stats=[model.Stats(last, 0.0, 1.0, 1.0, rows)],
    )


def test_a_longer_chunk_supersedes_and_the_last_point_is_a_metric_until_one_is_set(book: Book) -> None:
    node = book.run("p/a", 1)

    book.tell("p/a", chunk(10, 0.5, time=50))
    longer = book.tell("p/a", chunk(20, 0.4, time=40))  # a wrong clock does not bring the shorter one back
    assert [c.rows for c in book.index.series(node, "loss")] == [20]
    assert book.view(node).metrics == {"loss": 0.4}
    book.tell("p/a", chunk(5, 0.3, first=20, time=60))
    book.tell("p/a", chunk(5, 0.2, attempt="2-a", time=1))
    chunks = book.index.series(node, "loss")
    assert [(c.attempt, c.first) for c in chunks] == [("1-a", 0), ("1-a", 20), ("2-a", 0)]
    assert (book.view(node).metrics, book.index.series_names(node)) == ({"loss": 0.2}, ["loss"])
    assert book.index.series(node, "f1") == []
    final = book.say(node, "metric/loss", 0.1)
    assert book.view(node).metrics == {"loss": 0.1}
    book.say(f"record:{final.hex()}", "retracted", True)
    assert book.view(node).metrics == {"loss": 0.2}
    book.say(f"record:{longer.hex()}", "retracted", True)
    assert [c.rows for c in book.index.series(node, "loss")] == [10, 5, 5]


def test_a_promised_execution_is_a_view_that_is_not_known(book: Book) -> None:
    hub, reader = Site("hub"), Site("reader")
    maker, user = book.run("p/a", 1), book.run("q/b", 2)
    event = book.used(user, "data")
    book.link(f"record:{event.hex()}", "via", maker, scope="q/b")
    book.push(hub)
    reader.pull(hub, "q/*")
    [node] = reader.store.index.nodes([maker]).values()
    view = reader.store.index.executions([node])[node]
    assert (view.known, view.node, view.status, view.started) == (False, maker, "unknown", None)
    reader.pull(hub)
    assert reader.store.index.executions([node])[node].known


def test_lists_of_artifacts_name_the_newest_first(book: Book) -> None:
    run = book.run("p/a", 1)
    for t, content in enumerate(("one", "two", "three")):
        book.made(run, content, t=t, type="model", name="m")
    book.made(run, "other", t=9, type="dataset")
    book.made(run, "large", t=10, size=1 << 21)
    book.made(run, "one", t=11, type="model")
    listed = [view.digest for view in book.index.artifacts(book.index.artifact_nodes(type="model")).values()]
    assert listed == [artifact(c).removeprefix("artifact:") for c in ("one", "three", "two")]
    assert len(book.index.artifact_nodes(name="m", limit=2)) == 2
    assert book.index.large_artifacts(["p/a", "q/a"]) == (1, 1 << 21)
    assert [len(found) for found in book.index.artifacts_by_scope(["p/a"]).values()] == [5]
