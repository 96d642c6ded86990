import random
from typing import Any

import networkx as nx
import pytest

from cmf.graph.lineage import walk
from cmf.model import digest as digests
from tests.unit.store.book import Book, artifact

MB = 1 << 20


@pytest.fixture
def book() -> Book:
    return Book()


def test_a_sole_producer_in_the_same_pipeline_is_exact_and_both_directions_agree(book: Book) -> None:
    prepare, train = book.run("p/prepare", 1), book.run("p/train", 2)
    book.made(prepare, "data")
    book.used(train, "data")
    assert book.steps(train) == {(prepare, "content")}
    assert book.steps(prepare, "down") == {(train, "content")}
    assert book.steps(prepare) == set()


def test_one_of_several_producers_in_the_pipeline_is_only_possible(book: Book) -> None:
    one, other, train = book.run("p/prepare", 1), book.run("p/fetch", 2), book.run("p/train", 3)
    for maker in (one, other):
        book.made(maker, "data")
    book.used(train, "data")
    assert book.steps(train) == {(one, "possible"), (other, "possible")}
    assert book.steps(one, "down") == {(train, "possible")}


def test_what_another_pipeline_says_it_made_is_a_claim_beside_the_step(book: Book) -> None:
    stranger, train = book.run("q/prepare", 1), book.run("p/train", 2)
    book.made(stranger, "data")
    book.used(train, "data")
    assert book.steps(train) == {(None, "source"), (stranger, "claimed")}
    assert book.steps(stranger, "down") == {(train, "claimed")}
    mine = book.run("p/prepare", 3)
    book.made(mine, "data")
    assert book.steps(train) == {(stranger, "claimed"), (mine, "content")}
    assert book.steps(mine, "down") == {(train, "content")}


def test_the_scope_itself_and_those_above_are_heard_before_the_pipeline(book: Book) -> None:
    above, own, mate, user = (book.run(scope, n) for n, scope in enumerate(("p/a", "p/a/x", "p/a/y", "p/a/x")))
    book.used(user, "data")
    book.made(mate, "data")
    assert book.steps(user) == {(mate, "content")}
    book.made(own, "data")
    assert book.steps(user) == {(own, "content"), (mate, "claimed")}
    book.made(above, "data")
    assert book.steps(user) == {(own, "possible"), (above, "possible"), (mate, "claimed")}


def test_what_was_recorded_beats_what_content_tells(book: Book) -> None:
    first, second, train = book.run("p/prepare", 1), book.run("p/prepare", 2), book.run("p/train", 3)
    book.made(first, "data")
    event = book.used(train, "data")
    assert book.steps(train) == {(first, "content")}
    book.link(f"record:{event.hex()}", "via", second, scope="p/train")
    assert book.steps(train) == {(second, "via")}
    assert book.steps(first, "down") == set()
    assert book.steps(second, "down") == {(train, "via")}


@pytest.mark.parametrize(("scope", "counts"), [("p/train", True), ("p/train/deep", False), ("q/train", False)])
def test_a_step_is_believed_only_from_the_scope_itself_or_above(book: Book, scope: str, counts: bool) -> None:
    true, false, train = book.run("p/prepare", 1), book.run("q/prepare", 2), book.run("p/train", 3)
    book.made(true, "data")
    event = book.used(train, "data")
    book.link(f"record:{event.hex()}", "via", false, scope=scope)
    book.link(true, "reproduces", false, scope="q/train")
    assert book.steps(train) == ({(false, "via")} if counts else {(true, "content")})
    assert book.steps(false, "down") == ({(train, "via")} if counts else set())


def test_a_step_recorded_for_a_folder_of_stages_holds_below_it(book: Book) -> None:
    maker, user = book.run("p/a", 1), book.run("p/a/deep", 2)
    event = book.used(user, "data")
    book.link(f"record:{event.hex()}", "via", maker, scope="p/a")
    assert book.steps(user) == {(maker, "via")}


@pytest.mark.parametrize(("used", "made"), [(63, 63), (63, None), (None, 63), (0, 0)])
def test_artifacts_under_64_bytes_join_nothing_by_content(book: Book, used: int | None, made: int | None) -> None:
    maker, user = book.run("p/a", 1), book.run("p/b", 2)
    book.made(maker, "tiny", size=made)
    book.used(user, "tiny", size=used)
    assert book.steps(user) == {(None, "source")}
    assert book.steps(maker, "down") == set()


def test_a_reproduction_joins_no_strangers(book: Book) -> None:
    maker, again, user = book.run("p/a", 1), book.run("p/a", 2), book.run("p/b", 3)
    for execution in (maker, again):
        book.made(execution, "data", t=5)
    event = book.used(user, "data")
    book.link(again, "reproduces", maker, scope="p/a")
    assert book.steps(user) == {(maker, "content")}
    book.store.add([], [("p/b", event)])
    assert book.store.origins() == [("p/b", event, maker)]


def test_the_same_bytes_under_many_names_are_one_artifact_and_every_event_is_kept(book: Book) -> None:
    other = Book("other")
    for site, path in ((book, "a.csv"), (other, "b.csv")):
        run = site.run("p/a", 1 if site is book else 2)
        site.used(run, "data", path=path, name=f"in-{path}", type="dataset", t=3)
        site.made(run, "data", path="out/" + path, name=f"out-{path}", type="model", t=4)
        site.push(book) if site is other else None
    view = book.view(artifact("data"))
    assert sorted((use.direction, use.path, use.name, use.type) for use in view.uses) == [
        ("input", "a.csv", "in-a.csv", "dataset"),
        ("input", "b.csv", "in-b.csv", "dataset"),
        ("output", "out/a.csv", "out-a.csv", "model"),
        ("output", "out/b.csv", "out-b.csv", "model"),
    ]
    assert set(view.names) == {"in-a.csv", "in-b.csv", "out-a.csv", "out-b.csv"}
    assert book.store.counts()["artifact"] == 1


def test_an_empty_file_in_ten_unrelated_pipelines_joins_none_of_them(book: Book) -> None:
    runs = []
    for n in range(10):
        maker, user = book.run(f"p{n}/make", 2 * n), book.run(f"p{n}/use", 2 * n + 1)
        book.made(maker, digests.EMPTY, path="__init__.py", size=0)
        event = book.used(user, digests.EMPTY, path="__init__.py", size=0)
        book.store.add([], [(f"p{n}/use", event)])
        runs.append((maker, user, event))
    assert {(event, node) for _, event, node in book.store.origins()} == {(event, maker) for maker, _, event in runs}
    known = book.index.nodes([user for _, user, _ in runs])
    for node in known.values():
        assert len(walk(book.index, [node], all_producers=True).depth) == 1
        assert len(walk(book.index, [node], "down", all_producers=True).depth) == 1


def test_the_origin_is_the_newest_other_execution_not_later_than_the_use(book: Book) -> None:
    early, newer, late, user = (book.run(f"q{n}/a", n) for n in range(4))
    book.made(early, "data", t=10, path="same")
    book.made(newer, "data", t=20, path="else")
    book.made(late, "data", t=31, path="same")
    elsewhere, same = (book.used(user, "data", t=30, path=path) for path in ("x", "same"))
    book.made(user, "data", t=29, path="x")
    book.store.add([], [("q3/a", elsewhere), ("q3/a", same)])
    assert {event: node for _, event, node in book.store.origins()} == {elsewhere: newer, same: early}


def test_of_origins_at_one_time_the_greatest_record_id_decides(book: Book) -> None:
    made = {book.made(book.run(f"p/a{n}", n), "data", t=5): f"p/a{n}" for n in range(8)}
    event = book.used(book.run("p/b", 99), "data", t=5)
    book.store.add([], [("p/b", event)])
    [(_, _, node)] = book.store.origins()
    assert node.split(":")[1] == made[max(made)]


def test_the_origin_is_of_the_pipeline_itself_before_another_that_this_store_records_in(book: Book) -> None:
    mine, newer = book.run("p/prepare", 1), book.run("q/prepare", 2)
    book.made(mine, "data", t=5, path="x")
    book.made(newer, "data", t=9, path="same")
    train = book.run("p/train", 3)
    event = book.used(train, "data", t=10, path="same")
    book.store.add([], [("p/train", event)])
    assert book.store.origins() == [("p/train", event, mine)]
    book.say(mine, "retracted", True)
    assert book.store.origins() == [("p/train", event, newer)]


@pytest.mark.parametrize("sealed", [False, True])
def test_an_origin_in_another_pipeline_is_believed_only_where_this_store_records_itself(
    book: Book, sealed: bool
) -> None:
    stranger = Book("stranger")
    stranger.made(maker := stranger.run("q/deep/prepare", 1), "data", t=5)
    stranger.push(book)
    event = book.used(book.run("p/train", 2), "data", t=10)
    book.store.add([], [("p/train", event)])
    book.run("q/prepare", 3)  # of another pipeline, though its name begins so
    assert book.store.origins() == [("p/train", event, "")]
    book.run("q/deep/other", 4)
    if sealed:
        book.store.settle([("p/train", event)], [])
        book.seal()
        book.store.add([], [("p/train", event)])
    assert book.store.origins() == [("p/train", event, maker)]


@pytest.mark.parametrize(("scope", "path", "found"), [("p/a", "x", True), ("p/a", "y", False), ("q/a", "x", False)])
def test_the_origin_of_a_tiny_artifact_needs_path_and_pipeline(book: Book, scope: str, path: str, found: bool) -> None:
    for n in range(120):  # many others have the same empty file at the same path, later
        book.made(book.run(f"other{n}/a", 1000 + n), "tiny", size=2, path="x", t=90)
    maker = book.run(scope, 1)
    book.made(maker, "tiny", size=2, path=path, t=5)
    event = book.used(book.run("p/b", 2), "tiny", size=2, path="x", t=99)
    book.store.add([], [("p/b", event)])
    assert book.store.origins() == [("p/b", event, maker if found else "")]


def test_a_retracted_output_or_execution_explains_nothing(book: Book) -> None:
    maker, user = book.run("p/a", 1), book.run("p/b", 2)
    output = book.made(maker, "data")
    book.used(user, "data")
    book.say(f"record:{output.hex()}", "retracted", True)
    assert book.steps(user) == {(None, "source")}
    book.say(f"record:{output.hex()}", "retracted", None)
    assert book.steps(user) == {(maker, "content")}
    book.say(maker, "retracted", True)
    assert book.steps(user) == {(None, "source")}
    assert book.steps(maker, "down") == set()


def test_random_lineages_agree_with_networkx_in_both_directions(book: Book) -> None:
    dice = random.Random(7)
    graph: nx.DiGraph[str] = nx.DiGraph()
    runs = [book.run(f"p/s{n % 5}", n) for n in range(60)]
    graph.add_nodes_from(runs)
    for n, run in enumerate(runs):
        book.made(run, f"data{n}")
    for n, run in enumerate(runs):
        for source in dice.sample(range(60), 2):  # backwards and forwards: cycles too, as active learning has them
            if source != n:
                book.used(run, f"data{source}")
                graph.add_edge(runs[source], run)
    known = book.index.nodes(runs)
    names: dict[Any, str] = {node: text for text, node in known.items()}
    assert not nx.is_directed_acyclic_graph(graph)
    for root in runs[::7]:
        lengths = nx.single_source_shortest_path_length
        up, down = walk(book.index, [known[root]]), walk(book.index, [known[root]], "down")
        assert {names[node]: depth for node, depth in up.depth.items()} == dict(lengths(graph.reverse(), root))
        assert {names[node]: depth for node, depth in down.depth.items()} == dict(lengths(graph, root))
