"""Step metrics read back in part: by step, and as few points as draw the same chart."""

import math
import shutil
from array import array
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cmf
from cmf.model import series as chunks
from cmf.objects.local import LocalObjects

ROWS = 150_000


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recorded(values: list[float], steps: list[int] | None = None) -> cmf.Run:
    with cmf.run("p/train") as run:
        for i, value in enumerate(values):
            run.log({"loss": value}, step=i if steps is None else steps[i], time=1e9 + i)
    return run


def noisy(rows: int) -> list[float]:
    return [math.sin(i * 0.37) * (i % 97) for i in range(rows)]


def forms(folder: Path) -> list[Path]:
    return [path for path in (folder / ".cmf" / "thinned").rglob("*") if path.is_file()]


def test_a_range_of_steps_holds_the_first_and_not_the_last() -> None:
    run = recorded(noisy(1000))
    with cmf.open() as repo:
        assert list(repo.series(run.id, "loss", steps=(10, 13)).steps) == [10, 11, 12]
        assert list(repo.series(run.id, "loss", steps=(None, 2)).steps) == [0, 1]
        assert list(repo.series(run.id, "loss", steps=(998, None)).values) == noisy(1000)[998:]
        assert list(repo.series(run.id, "loss", steps=(5000, 6000)).times) == []


def test_a_range_of_steps_that_repeat_and_go_back_keeps_each_row_that_is_in_it() -> None:
    run = recorded([0.5, 0.3, 0.31, 0.9, 0.2], [5, 3, 3, 9, -2])
    with cmf.open() as repo:
        points = repo.series(run.id, "loss", steps=(3, 6))
    assert [(point.step, point.value) for point in points] == [(5, 0.5), (3, 0.3), (3, 0.31)]
    assert [point.time for point in points] == [1_000_000_000_000_000 + i * 1_000_000 for i in range(3)]


def test_a_range_reads_no_chunk_that_lies_outside_of_it(folder: Path) -> None:
    run = recorded(noisy(ROWS))
    with cmf.open() as repo:
        repo.collect()
        refs = repo.store.index.series(run.node, "loss")
        assert len(refs) == 3
        LocalObjects(folder / ".cmf" / "objects").remove([refs[0].object, refs[2].object])
        assert list(repo.series(run.id, "loss", steps=(70_000, 70_003)).steps) == [70_000, 70_001, 70_002]


def test_few_points_are_points_of_the_series_with_its_ends_and_its_extremes() -> None:
    values = noisy(ROWS)
    values[77_777], values[123_456] = 1e6, -1e6
    run = recorded(values)
    with cmf.open() as repo:
        points = repo.series(run.id, "loss", points=400)
    assert 200 < len(points) <= 400
    assert all(values[point.step] == point.value for point in points)
    assert all(point.time == 1_000_000_000_000_000 + point.step * 1_000_000 for point in points)
    assert list(points.steps) == sorted(points.steps)
    assert {0, 77_777, 123_456, ROWS - 1} <= set(points.steps)


def test_few_points_come_from_a_thinned_form_which_may_be_lost_or_damaged(folder: Path) -> None:
    run = recorded(noisy(ROWS))
    with cmf.open() as repo:
        first = list(repo.series(run.id, "loss", points=400))
        made = forms(folder)
        assert len(made) == 3, "one a chunk"
        chunk_bytes = sum(ref.size for ref in repo.store.index.series(run.node, "loss"))
        assert sum(path.stat().st_size for path in made) < chunk_bytes / 50
        objects = folder / ".cmf" / "objects"
        objects.rename(folder / "elsewhere")
        assert list(repo.series(run.id, "loss", points=400)) == first, "no chunk is read again"
        (folder / "elsewhere").rename(objects)
        made[0].write_bytes(made[0].read_bytes()[:50])
        made[1].write_bytes(b"")
        assert list(repo.series(run.id, "loss", points=400)) == first
        shutil.rmtree(folder / ".cmf" / "thinned")
        (folder / ".cmf" / "thinned").write_text("a file where the folder should be")
        assert list(repo.series(run.id, "loss", points=400)) == first


def test_a_series_that_is_short_enough_comes_whole() -> None:
    run = recorded(noisy(400))
    with cmf.open() as repo:
        assert list(repo.series(run.id, "loss", points=400).values) == noisy(400)
        with pytest.raises(cmf.UsageError, match="3 points"):
            repo.series(run.id, "loss", points=3)


def test_few_points_of_a_live_run_end_with_what_was_logged_last() -> None:
    run = cmf.run("p/train")
    for i in range(ROWS):
        run.log({"loss": i * 0.5}, step=i)
    run.flush()
    run.log({"lr": 0.1})
    run.flush()
    with cmf.open() as repo:
        assert repo.series_names(repo.execution(run.id)) == ["loss", "lr"], "though nothing holds lr but the journal"
        points = repo.series(run.id, "loss", points=400)
    assert len(points) <= 400
    assert points[-1].step == ROWS - 1
    run.finish()


def test_few_points_of_several_sets_of_names_are_in_order_of_time() -> None:
    with cmf.run("p/train") as run:
        for i in range(3000):
            run.log({"loss": float(i), "lr": 0.1} if i % 3 else {"loss": float(i)}, step=i, time=1e9 + i)
    with cmf.open() as repo:
        points = repo.series(run.id, "loss", points=100)
    assert len(points) <= 100
    assert list(points.steps) == sorted(points.steps)
    assert (points.steps[0], points.steps[-1]) == (0, 2999)


def test_points_become_the_frames_that_people_use() -> None:
    run = recorded([0.5, math.nan, math.inf])
    with cmf.open() as repo:
        points = repo.series(run.id, "loss")
    for columns in (
        points.to_pandas().to_dict("list"),
        points.to_polars().to_dict(as_series=False),
        points.to_arrow().to_pydict(),
    ):
        assert columns["step"] == [0, 1, 2]
        assert [moment.timestamp() for moment in columns["time"]] == [1e9, 1e9 + 1, 1e9 + 2]
        assert np.array_equal(columns["value"], [0.5, math.nan, math.inf], equal_nan=True)
    assert points.to_numpy()["time"].tolist() == list(points.times)
    assert points.to_polars().schema["time"] == pl.Datetime("us", "UTC")


def test_a_library_that_is_not_there_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    run = recorded([0.5])
    monkeypatch.setitem(__import__("sys").modules, "polars", None)
    with cmf.open() as repo, pytest.raises(cmf.UnsupportedError) as found:
        repo.series(run.id, "loss").to_polars()
    assert found.value.hint == "pip install polars"


def one(values: list[float]) -> chunks.Chunk:
    steps = array("q", range(len(values)))
    return chunks.Chunk(("loss",), steps, array("q", steps), (array("d", values),))


@given(st.lists(st.floats(), min_size=1, max_size=60), st.integers(1, 9))
def test_thinned_rows_hold_the_ends_and_the_extremes_of_each_stretch(values: list[float], rows: int) -> None:
    thin = chunks.thin(one(values), rows)
    assert len(thin.steps) == 4 * -(-len(values) // rows)
    assert list(thin.steps) == sorted(thin.steps)
    for at in range(0, len(values), rows):
        stretch = values[at : at + rows]
        found = thin.columns[0][4 * (at // rows) :][:4]
        assert np.array_equal([found[0], found[3]], [stretch[0], stretch[-1]], equal_nan=True)
        numbers = [value for value in stretch if not math.isnan(value)]
        if numbers:
            assert min(value for value in found if not math.isnan(value)) == min(numbers)
            assert max(value for value in found if not math.isnan(value)) == max(numbers)


@given(st.lists(st.floats(allow_nan=False), min_size=1, max_size=80), st.integers(1, 6), st.integers(1, 4))
def test_thinning_twice_is_thinning_once(values: list[float], rows: int, more: int) -> None:
    twice = chunks.thin(chunks.thin(one(values), rows), 4 * more)
    assert twice.columns == chunks.thin(one(values), rows * more).columns


def test_lines_of_ranks_are_apart_unless_they_are_merged_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with cmf.run("lab/train", rank=0) as first:
        for step in range(50):
            first.log({"loss": step}, step=step, time=1000 + 2 * step)
        monkeypatch.setenv("CMF_EXECUTION", first.id)
        monkeypatch.setenv("CMF_ATTEMPT", first.attempt)
        with cmf.run("lab/train", rank=1) as second:
            for step in range(50):
                second.log({"loss": 100 + step}, step=step, time=1001 + 2 * step)
    with cmf.open() as repo:
        assert list(repo.series(first.id, "loss").values) == list(range(50))
        assert list(repo.series(first.id, "loss", rank=1).values) == list(range(100, 150))
        merged = repo.series(first.id, "loss", merge=True)
        assert list(merged.values) == [value for step in range(50) for value in (step, 100 + step)]
        assert list(merged.times) == sorted(merged.times)
        some = repo.series(first.id, "loss", merge=True, points=20)
        assert len(some) <= 20
        assert (min(some.values), max(some.values)) == (0, 149)
        assert [(one.rank, one.status) for one in repo.ranks(first.id)] == [(0, "finished"), (1, "finished")]
        assert list(repo.ranks(first.id).to_pandas()["rank"]) == [0, 1]
