from collections.abc import Sequence

import pytest

from cmf.graph.index import Direction, Edge, Index, Node
from cmf.graph.lineage import walk


class Drawn:
    """An index that knows only edges, as text: ``consumer<producer`` a step, ``~`` a possible one, ``?`` a claim."""

    def __init__(self, drawing: str) -> None:
        self.drawn = [
            Edge(e[0], e, None if e[2] == "." else e[2], {"~": "possible", "?": "claimed"}.get(e[1], "via"))
            for e in drawing.split()
        ]
        self.asked: list[Sequence[Node]] = []

    def edges(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        self.asked.append(list(nodes))
        return [e for e in self.drawn if (e.consumer if direction == "up" else e.producer) in nodes]


def drawn(drawing: str) -> Index:
    return Drawn(drawing)  # type: ignore[return-value]  # a walk asks for edges and nothing else


@pytest.mark.parametrize(
    ("drawing", "depth"),
    [
        ("a<b b<c c<.", {"a": 0, "b": 1, "c": 2}),
        ("a<b a<c b<d c<d", {"a": 0, "b": 1, "c": 1, "d": 2}),
        ("a<b b<c c<a", {"a": 0, "b": 1, "c": 2}),
        ("a<a", {"a": 0}),
        ("a<b b~c c<d", {"a": 0, "b": 1}),
        ("x<y", {"a": 0}),
    ],
)
def test_a_walk_visits_each_ancestor_once_at_its_least_depth(drawing: str, depth: dict[Node, int]) -> None:
    index = Drawn(drawing)
    found = walk(index, ["a"])  # type: ignore[arg-type]  # as in `drawn`
    assert (found.depth, found.truncated) == (depth, "")
    assert len([node for level in index.asked for node in level]) == len(depth)
    mirrored = " ".join(e if e[2] == "." else e[2] + e[1] + e[0] for e in drawing.split())
    assert walk(drawn(mirrored), ["a"], "down").depth == depth


def test_a_possible_step_is_reported_and_followed_only_if_asked() -> None:
    found = walk(drawn("a~b b<c"), ["a"])
    assert [edge.how for edge in found.edges] == ["possible"]
    assert walk(drawn("a~b b<c"), ["a"], all_producers=True).depth == {"a": 0, "b": 1, "c": 2}


def test_what_strangers_claim_is_kept_apart_and_followed_only_if_asked() -> None:
    found = walk(drawn("a<b a?c c<d"), ["a"])
    assert ([edge.producer for edge in found.edges], [edge.producer for edge in found.claims]) == (["b"], ["c"])
    assert found.depth == walk(drawn("a<b"), ["a"]).depth
    asked = walk(drawn("a<b a?c c<d"), ["a"], all_producers=True)
    assert (asked.depth, asked.claims) == ({"a": 0, "b": 1, "c": 1, "d": 2}, ())


def test_limits_cut_a_walk_and_say_so() -> None:
    chain = "a<b b<c c<d"
    assert walk(drawn(chain), ["a"], depth_max=2).depth == {"a": 0, "b": 1, "c": 2}
    assert walk(drawn(chain), ["a"], depth_max=2).truncated == "depth"
    assert walk(drawn(chain), ["a"], depth_max=9).truncated == ""
    assert walk(drawn(chain), ["a"], nodes_max=3).truncated == "nodes"
    assert len(walk(drawn(chain), ["a"], nodes_max=3).depth) == 3
    spent = iter((False, True))
    found = walk(drawn(chain), ["a"], expired=lambda: next(spent))
    assert (found.truncated, found.depth) == ("time", {"a": 0, "b": 1})


def test_several_roots_are_walked_together() -> None:
    assert walk(drawn("a<b c<b b<d"), ["a", "c"]).depth == {"a": 0, "c": 0, "b": 1, "d": 2}
