"""Rows of step metrics on their way to the journal: what a set of names may be, and what becomes of each row."""

import math
from array import array
from typing import Any

import pytest

from cmf.model.records import TEXT_CHARS_MAX
from cmf.points import NAMES_CHARS_MAX, NAMES_MAX, Points, sets

NS = 1000


class Scalar:
    """A number of some array library: all that is known of it is that it turns into a float."""

    def __init__(self, value: float) -> None:
        self.value = value

    def __float__(self) -> float:
        return self.value


class Broken:
    """A number whose library refuses to hand it over, as a lazy or a distributed array may."""

    def __float__(self) -> float:
        raise RuntimeError("the device is gone")


def filled(rows: list[tuple[Any, Any, dict[str, Any]]]) -> Points:
    """Return points that took these rows of (step, time, values by name)."""
    points = Points(tuple(rows[0][2]))
    for step, time, values in rows:
        points.add((step, time, *values.values()))
    return points


def test_a_row_within_the_limits_stays_one_set_in_its_order() -> None:
    assert sets(("loss", "accuracy")) == [("loss", "accuracy")]
    most = tuple(f"m{number}" for number in range(NAMES_MAX))
    assert sets(most) == [most]


def test_a_row_of_many_names_is_parted_into_sets_that_hold_each_name_once() -> None:
    names = tuple(f"m{number}" for number in range(3 * NAMES_MAX + 1))
    found = sets(names)
    assert [len(part) for part in found] == [NAMES_MAX, NAMES_MAX, NAMES_MAX, 1]
    assert tuple(name for part in found for name in part) == names


@pytest.mark.parametrize("chars", [NAMES_CHARS_MAX // 20 - 2, NAMES_CHARS_MAX // 20 - 1, TEXT_CHARS_MAX - 2])
def test_long_names_are_parted_so_that_each_set_can_be_held(chars: int) -> None:
    names = tuple(f"{number:02}" + "x" * chars for number in range(61))
    found = sets(names)
    assert tuple(name for part in found for name in part) == names
    assert all(part for part in found)
    for part in found:
        assert sum(map(len, part)) <= NAMES_CHARS_MAX
        assert Points(part).names == tuple(sorted(part))


def test_parting_a_part_again_gives_the_same_part() -> None:
    names = ("x" * (NAMES_CHARS_MAX + 1), "a", "y" * NAMES_CHARS_MAX, *(f"m{number}" for number in range(500)))
    for part in sets(names):
        assert sets(part) == [part]


@pytest.mark.parametrize("key", [(), ("a", "a"), (1, "1"), ("x" * (TEXT_CHARS_MAX + 1),)])
def test_names_that_are_none_are_double_or_too_long_are_refused(key: tuple[Any, ...]) -> None:
    with pytest.raises(ValueError, match="names"):
        Points(key)


def test_columns_come_sorted_by_name_whatever_the_order_of_the_row() -> None:
    points = filled([(0, 5 * NS, {"b": 2, "a": 1, "c": 3}), (1, 6 * NS, {"b": 20, "a": 10, "c": 30})])
    assert points.names == ("a", "b", "c")
    steps, times, columns, bad = points.take()
    assert (steps, times, bad) == (array("q", [0, 1]), array("q", [5, 6]), 0)
    assert columns == [array("d", [1, 10]), array("d", [2, 20]), array("d", [3, 30])]


def test_what_was_taken_is_gone_and_what_comes_later_is_taken_later() -> None:
    points = filled([(0, NS, {"a": 1.0})])
    assert list(points.take()[0]) == [0]
    assert points.take() == (array("q"), array("q"), [array("d")], 0)
    points.add((1, 2 * NS, 2.0))
    assert points.take() == (array("q", [1]), array("q", [2]), [array("d", [2.0])], 0)


def test_rows_beyond_those_to_keep_are_left_out_whole() -> None:
    points = filled([(step, NS, {"a": step, "b": -step}) for step in range(4)])
    points.keep(3)
    assert len(points) == 3
    steps, _, columns, _ = points.take()
    assert (list(steps), columns) == ([0, 1, 2], [array("d", [0, 1, 2]), array("d", [0, -1, -2])])


def test_seconds_and_nanoseconds_both_become_microseconds() -> None:
    points = filled([(0, 1_700_000_000_123_456_789, {"a": 1}), (1, 1_700_000_000.25, {"a": 2})])
    assert list(points.take()[1]) == [1_700_000_000_123_456, 1_700_000_000_250_000]


def test_every_kind_of_number_is_taken_as_it_is() -> None:
    values = [1, 2**60, -0.0, True, math.inf, -math.inf, 5e-324, Scalar(0.25)]
    points = filled([(step, NS, {"a": value}) for step, value in enumerate(values)])
    _, _, (column,), bad = points.take()
    assert list(column) == [1.0, 2.0**60, 0.0, 1.0, math.inf, -math.inf, 5e-324, 0.25]
    assert math.copysign(1, column[2]) == -1
    assert bad == 0


def test_not_a_number_is_a_value_like_any_other() -> None:
    _, _, (column,), bad = filled([(0, NS, {"a": math.nan}), (1, NS, {"a": 1.0})]).take()
    assert math.isnan(column[0])
    assert column[1] == 1.0
    assert bad == 0


@pytest.mark.parametrize("value", ["high", "0.5", None, [1.0], 10**400, 1j, Broken()])
def test_a_row_that_is_no_number_is_counted_and_its_neighbours_stay_whole(value: object) -> None:
    rows: list[tuple[Any, Any, dict[str, Any]]] = [
        (0, 1 * NS, {"b": 1, "a": 10}),
        (1, 2 * NS, {"b": 2, "a": value}),
        (2, 3 * NS, {"b": 3, "a": 30}),
    ]
    steps, times, columns, bad = filled(rows).take()
    assert (list(steps), list(times), bad) == ([0, 2], [1, 3], 1)
    assert columns == [array("d", [10, 30]), array("d", [1, 3])]


@pytest.mark.parametrize("step", [2**53 + 1, 2**63, -(2**63) - 1, "one", "1", 0.5, None, math.nan, math.inf])
def test_a_row_with_a_step_that_is_none_is_counted_and_its_neighbours_stay_whole(step: object) -> None:
    steps, times, columns, bad = filled([(0, NS, {"a": 1}), (step, NS, {"a": 2}), (2, NS, {"a": 3})]).take()
    assert (list(steps), list(times), bad) == ([0, 2], [1, 1], 1)
    assert columns == [array("d", [1, 3])]


@pytest.mark.parametrize("time", ["noon", math.nan, math.inf, 1e300, -1.0, 1.7e12])
def test_a_row_with_a_time_that_is_none_is_counted_and_its_neighbours_stay_whole(time: object) -> None:
    steps, times, columns, bad = filled([(0, NS, {"a": 1}), (1, time, {"a": 2}), (2, NS, {"a": 3})]).take()
    assert (list(steps), list(times), bad) == ([0, 2], [1, 1], 1)
    assert columns == [array("d", [1, 3])]
