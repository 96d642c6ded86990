"""What every index must answer. A test gives the class fixtures `index`, filled with two chains, and `pipeline`."""

import pytest

from cmf.errors import NotFoundError, UsageError
from cmf.graph import filter as filters
from cmf.graph import lineage
from cmf.graph.index import Index
from cmf.model import digest as digests
from cmf.model import records as model
from tests.histories import execution_id

LENGTH = 7


def node(pipeline: str, number: int) -> str:
    return model.execution_node(f"{pipeline}/stage{number % 3}", execution_id(number))


class IndexSuite:
    def test_names_paths_digests_and_ids_are_resolved(self, index: Index, pipeline: str) -> None:
        last = f"{pipeline}-{LENGTH}"
        digest = digests.file_digest(last.encode())
        for text in (last, f"{pipeline}:{last}"):
            target = index.resolve(text)
            assert (target.node, target.execution) == (f"artifact:{digest}", node(pipeline, LENGTH - 1))
        assert index.resolve(digest).node == f"artifact:{digest}"
        assert index.resolve(node(pipeline, 3)).node == node(pipeline, 3)

    def test_what_is_not_there_is_not_found(self, index: Index, pipeline: str) -> None:
        for text in ("no such thing", "sha256:abcdef123", f"{pipeline}:nothing", f"{pipeline}-1@nowhere", "ffffffff"):
            with pytest.raises(NotFoundError):
                index.resolve(text)
        assert index.nodes([node(pipeline, 99)]) == {}

    def test_executions_are_shown_whole(self, index: Index, pipeline: str) -> None:
        nodes = index.nodes([node(pipeline, 3)])
        (view,) = index.executions(list(nodes.values())).values()
        assert (view.node, view.name, view.status, view.exit) == (node(pipeline, 3), "run-3", "finished", 0)
        assert view.params == {"number": 3, "lr": pytest.approx(0.3)}
        assert view.metrics == {"f1": 0.3}
        assert [use.path for use in view.inputs] == [f"{pipeline}-3"]
        assert [use.path for use in view.outputs] == [f"{pipeline}-4"]
        assert view.duration == pytest.approx((5_003 - 1_003) / 1e6)

    def test_artifacts_are_shown_with_every_event(self, index: Index, pipeline: str) -> None:
        text = f"artifact:{digests.file_digest(f'{pipeline}-3'.encode())}"
        (view,) = index.artifacts(list(index.nodes([text]).values())).values()
        assert sorted(use.direction for use in view.uses) == ["input", "output"]
        assert view.name == f"{pipeline}-3"

    def test_lists_are_newest_first_filtered_and_paged(self, index: Index, pipeline: str) -> None:
        scopes = (f"{pipeline}/*",)
        everything = index.select(filters.parse("", scopes=scopes)).executions
        assert [view.name for view in everything] == [f"run-{n}" for n in reversed(range(LENGTH))]
        good = index.select(filters.parse("metrics.f1 >= 0.5 and params.number < 6", scopes=scopes))
        assert [view.name for view in good.executions] == ["run-5"]
        paged = []
        cursor = ""
        while True:
            page = index.select(filters.parse("", scopes=scopes, limit=2, cursor=cursor))
            paged += [view.name for view in page.executions]
            cursor = page.cursor
            if not cursor:
                break
        assert paged == [view.name for view in everything]

    def test_children_are_found_by_what_names_their_parent(self, index: Index) -> None:
        scopes = ("sweeps/*",)

        def names(text: str) -> list[str]:
            return [view.name for view in index.select(filters.parse(text, scopes=scopes)).executions]

        parent = model.execution_node("sweeps/all", execution_id(500))
        for text in (parent, execution_id(500), execution_id(500)[24:], "run-500"):
            assert names(f'parent = "{text}"') == ["run-502", "run-501"]
            assert names(f'parent != "{text}"') == ["run-500"]
        assert names("parent = run-500 and params.number < 502") == ["run-501"]
        assert names("parent = run-501") == []
        assert names('parent = ""') == ["run-500"]
        assert names('parent != ""') == ["run-502", "run-501"]
        (child,) = index.select(filters.parse("name = run-501", scopes=scopes)).executions
        assert child.parent == parent
        assert index.select(filters.parse("parent = run-500", scopes=("first/*",))).executions == ()
        with pytest.raises(UsageError, match="takes = or !="):
            filters.parse("parent > run-500")

    def test_a_wrong_cursor_is_a_usage_error(self, index: Index) -> None:
        with pytest.raises(UsageError, match="cursor"):
            index.select(filters.parse("", cursor="elsewhere"))

    def test_lineage_is_walked_up_and_down(self, index: Index, pipeline: str) -> None:
        up = lineage.trace(index, f"{pipeline}-{LENGTH}")
        assert set(up.executions) == {node(pipeline, n) for n in range(LENGTH)}
        assert {step.how for step in up.steps} == {"content", "source"}
        down = lineage.trace(index, node(pipeline, 2), "down")
        assert set(down.executions) == {node(pipeline, n) for n in range(2, LENGTH)}
        near = lineage.trace(index, f"{pipeline}-{LENGTH}", depth_max=2)
        assert (len(near.depth), near.truncated) == (3, "depth")

    def test_histories_are_newest_first(self, index: Index, pipeline: str) -> None:
        found = index.history(node(pipeline, 1))
        assert [write.key for write in found] == ["metric/f1", "status/1-aaaaaaaa/0"]
        assert list(index.series(node(pipeline, 1), "loss")) == []
