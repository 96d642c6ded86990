"""Step metrics as a script logs them and as anyone reads them back: every row once, exactly, under its name."""

import math
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import cmf


class Scalar:
    """A number of some array library: all that is known of it is that it turns into a float."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


class Broken:
    """A number whose library refuses to hand it over."""

    def __float__(self) -> float:
        raise RuntimeError("the device is gone")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Iterator[cmf.Run]:
    """Give a run that ends with the test, however the test ends."""
    run = cmf.run("p/train")
    yield run
    run.finish()


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """Make threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def read(run: cmf.Run, name: str) -> list[tuple[int, float]]:
    """Return the (step, value) of every point of a name."""
    with cmf.open() as repo:
        return [(point.step, point.value) for point in repo.series(run.id, name)]


def dropped() -> int:
    with cmf.open() as repo:
        return repo.status().dropped


def test_values_come_back_bit_for_bit_under_their_steps(run: cmf.Run) -> None:
    values = [0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3]
    for step, value in enumerate(values):
        run.log({"loss": value}, step=step * 10)
    run.finish()
    found = read(run, "loss")
    assert [(step, value.hex()) for step, value in found] == [(n * 10, v.hex()) for n, v in enumerate(values)]


def test_infinities_and_not_a_number_are_values_like_any_other(run: cmf.Run) -> None:
    for value in (math.inf, math.nan, -math.inf, 1.0):
        run.log({"loss": value})
    run.finish()
    found = [value for _, value in read(run, "loss")]
    assert found[0] == math.inf
    assert math.isnan(found[1])
    assert found[2:] == [-math.inf, 1.0]
    with cmf.open() as repo:
        assert repo.execution(run.id).metrics == {"loss": 1.0}


def test_integers_booleans_and_scalars_of_other_libraries_become_floats(run: cmf.Run) -> None:
    for value in (3, 2**53, True, False, Scalar(0.25)):
        run.log({"v": value})  # what array libraries hand out is a number to their users
    run.finish()
    assert [value for _, value in read(run, "v")] == [3.0, 2.0**53, 1.0, 0.0, 0.25]
    assert dropped() == 0


@pytest.mark.parametrize("value", ["high", None, [1.0], 10**400, Broken()])
def test_a_row_that_is_no_number_is_counted_and_its_neighbours_are_kept(run: cmf.Run, value: Any) -> None:
    run.log({"a": 1.0, "b": 10.0})
    run.log({"a": 2.0, "b": value})
    run.log({"a": 3.0, "b": 30.0})
    with pytest.warns(cmf.CmfWarning, match="not numbers"):
        run.finish()
    assert read(run, "a") == [(0, 1.0), (2, 3.0)]
    assert read(run, "b") == [(0, 10.0), (2, 30.0)]
    assert dropped() == 1


@pytest.mark.parametrize("row", [{}, {1: 1.0, "1": 2.0}, 5, None, "text", ["a"], {"x" * 10_000: 1.0}])
def test_what_is_no_row_is_counted_and_never_raises(run: cmf.Run, row: Any) -> None:
    with pytest.warns(cmf.CmfWarning, match="a row of step metrics"):
        run.log(row)
    run.log({"loss": 1.0})
    run.finish()
    assert read(run, "loss") == [(0, 1.0)]
    assert dropped() == 1


def test_a_mapping_with_other_values_than_names_is_counted_and_its_neighbours_stay_whole(run: cmf.Run) -> None:
    class Odd(dict[str, float]):
        def values(self) -> Any:
            return [1.0]

    run.log({"a": 1.0, "b": 2.0}, step=0)
    with pytest.warns(cmf.CmfWarning):
        run.log(Odd(a=3.0, b=4.0), step=1)
    run.log({"a": 5.0, "b": 6.0}, step=2)
    run.finish()
    assert (read(run, "a"), read(run, "b")) == ([(0, 1.0), (2, 5.0)], [(0, 2.0), (2, 6.0)])


def test_a_name_that_is_no_text_is_read_by_its_text(run: cmf.Run) -> None:
    run.log({1: 0.5})  # type: ignore[dict-item]
    run.finish()
    assert read(run, "1") == [(0, 0.5)]


@pytest.mark.filterwarnings("ignore::cmf.CmfWarning")
def test_a_name_that_is_no_unicode_never_breaks_the_program_nor_another_series(run: cmf.Run) -> None:
    run.log({"loss": 1.0})
    run.log({"lo\udcffss": 2.0})
    run.finish()
    assert read(run, "loss") == [(0, 1.0)]
    with cmf.open() as repo:
        kept = len(repo.series_names(repo.execution(run.id))) - 1
    assert kept + dropped() == 1, "it is kept in some spelling, or counted"


def test_seven_hundred_names_at_once_are_all_kept_under_one_step(run: cmf.Run) -> None:
    names = [f"layer{number}/weight/norm" for number in range(700)]
    for row in range(3):
        run.log({name: number + row / 4 for number, name in enumerate(names)})
    run.finish()
    with cmf.open() as repo:
        view = repo.execution(run.id)
        assert sorted(repo.series_names(view)) == sorted(names)
        for number, name in enumerate(names):
            points = repo.series(view, name)
            assert list(points.steps) == [0, 1, 2]
            assert list(points.values) == [number, number + 0.25, number + 0.5]
        assert view.metrics[names[-1]] == 699.5
    assert dropped() == 0


def test_steps_out_of_order_and_steps_twice_are_kept_as_they_were_logged(run: cmf.Run) -> None:
    logged = [(5, 0.5), (3, 0.3), (3, 0.31), (9, 0.9), (-2, 0.2), (2**53, 0.53), (-(2**53), 0.54)]
    for step, value in logged:
        run.log({"loss": value}, step=step)
    run.finish()
    assert read(run, "loss") == logged


def test_a_step_left_out_is_the_one_after_the_last(run: cmf.Run) -> None:
    run.log({"loss": 1.0})
    run.log({"loss": 2.0}, step=10)
    run.log({"loss": 3.0})
    run.finish()
    assert [step for step, _ in read(run, "loss")] == [0, 10, 11]


@pytest.mark.filterwarnings("ignore::cmf.CmfWarning")
@pytest.mark.parametrize("step", ["one", 2**53 + 1, 2**62, 2**63, math.nan, math.inf])
def test_a_step_that_no_record_can_hold_is_counted_and_takes_no_other_row_with_it(run: cmf.Run, step: Any) -> None:
    run.log({"loss": 1.0})
    run.log({"loss": 2.0}, step=step)
    run.log({"loss": 3.0})
    run.finish()
    assert [value for _, value in read(run, "loss")] == [1.0, 3.0]
    assert dropped() == 1


@pytest.mark.filterwarnings("ignore::cmf.CmfWarning")
@pytest.mark.parametrize("time", ["noon", 1.7e12, 1e300, math.nan])
def test_a_time_that_no_record_can_hold_is_counted_and_takes_no_other_row_with_it(run: cmf.Run, time: Any) -> None:
    run.log({"loss": 1.0})
    run.log({"loss": 2.0}, time=time)
    run.log({"loss": 3.0})
    run.finish()
    assert [value for _, value in read(run, "loss")] == [1.0, 3.0]
    assert dropped() == 1


def test_several_sets_of_names_are_one_series_a_name_in_order_of_time(run: cmf.Run) -> None:
    run.log({"loss": 1.0, "lr": 0.1}, step=0, time=10.0)
    run.log({"loss": 2.0}, step=1, time=11.0)
    run.log({"loss": 3.0, "lr": 0.3}, step=2, time=12.0)
    run.log({"val": 4.0}, step=2, time=13.0)
    run.finish()
    assert read(run, "loss") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert read(run, "lr") == [(0, 0.1), (2, 0.3)]
    assert read(run, "val") == [(2, 4.0)]
    with cmf.open() as repo:
        assert list(repo.series(run.id, "loss").times) == [10_000_000, 11_000_000, 12_000_000]
        assert repo.execution(run.id).metrics == {"loss": 3.0, "lr": 0.3, "val": 4.0}


def test_the_same_names_in_another_order_are_the_same_series(run: cmf.Run) -> None:
    run.log({"a": 1.0, "b": 10.0}, step=0)
    run.log({"b": 20.0, "a": 2.0}, step=1)
    run.log({"a": 3.0, "b": 30.0}, step=2)
    run.finish()
    assert sorted(read(run, "a")) == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert sorted(read(run, "b")) == [(0, 10.0), (1, 20.0), (2, 30.0)]


def test_a_name_that_is_no_text_is_the_same_series_as_its_text(run: cmf.Run) -> None:
    run.log({"1": 0.5}, step=0)
    run.log({1: 0.6}, step=1)  # type: ignore[dict-item]
    run.finish()
    assert sorted(read(run, "1")) == [(0, 0.5), (1, 0.6)]


@pytest.mark.parametrize("time", [1_700_000_000, 1_700_000_000.0])
def test_a_time_is_in_seconds_whether_it_is_whole_or_not(run: cmf.Run, time: float) -> None:
    run.log({"loss": 1.0}, time=time)
    run.finish()
    with cmf.open() as repo:
        assert list(repo.series(run.id, "loss").times) == [1_700_000_000_000_000]


def test_points_of_one_set_of_names_stay_in_the_order_they_were_logged_in(run: cmf.Run) -> None:
    for step, time in enumerate((30.0, 10.0, 20.0)):
        run.log({"loss": time}, step=step, time=time)
    run.finish()
    assert [value for _, value in read(run, "loss")] == [30.0, 10.0, 20.0]


def test_times_left_out_never_go_back(run: cmf.Run) -> None:
    for _ in range(1000):
        run.log({"loss": 1.0})
    run.finish()
    with cmf.open() as repo:
        times = repo.series(run.id, "loss").times
    assert len(times) == 1000
    assert all(before <= after for before, after in pairwise(times))


def test_more_rows_than_are_held_in_memory_are_flushed_on_the_way(run: cmf.Run) -> None:
    for step in range(120_000):
        run.log({"loss": step * 0.5}, step=step)
    run.finish()
    with cmf.open() as repo:
        points = repo.series(run.id, "loss")
        assert list(points.steps) == list(range(120_000))
        assert list(points.values) == [step * 0.5 for step in range(120_000)]


def test_threads_that_log_at_once_lose_nothing_and_mix_nothing(run: cmf.Run, quick_switches: None) -> None:
    rows, threads = 4000, 6
    start = threading.Barrier(threads)

    def work(number: int) -> None:
        start.wait()
        for row in range(rows):
            value = number * rows + row
            run.log({"v": value, "twice": 2 * value}, step=value)
            if row % 500 == 0:
                run.flush()

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    run.finish()
    found = read(run, "v")
    assert sorted(value for _, value in found) == list(range(rows * threads)), "every row is there once"
    assert all(step == value for step, value in found), "every value is under its own step"
    assert all(2 * step == value for step, value in read(run, "twice"))


def test_threads_that_log_names_of_their_own_lose_nothing(run: cmf.Run, quick_switches: None) -> None:
    def work(number: int) -> None:
        for row in range(1000):
            run.log({f"loss{number}": row * 1.0})
        run.metrics({f"final{number}": number})

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    run.finish()
    for number in range(8):
        assert read(run, f"loss{number}") == [(row, float(row)) for row in range(1000)]
    with cmf.open() as repo:
        metrics = repo.execution(run.id).metrics
    assert {name: value for name, value in metrics.items() if name.startswith("final")} == {
        f"final{number}": number for number in range(8)
    }


def test_what_is_logged_after_the_end_never_breaks_the_program(run: cmf.Run) -> None:
    run.log({"loss": 1.0})
    run.finish()
    run.log({"loss": 2.0})
    run.flush()
    run.finish("failed", exit=1)
    assert read(run, "loss")[0] == (0, 1.0)
    with cmf.open() as repo:
        assert repo.execution(run.id).status == "finished", "an end stays as it was"
