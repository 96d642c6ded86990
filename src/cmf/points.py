"""Rows of step metrics that were logged and are not yet in the journal.

Knows how to take a row in about a microsecond and to hand rows over as sorted columns. Refuses to know of runs.
"""

from __future__ import annotations

from array import array
from typing import Any

from cmf.model.encoding import INTEGER_MAX
from cmf.model.records import TEXT_CHARS_MAX

NAMES_MAX = 200
NAMES_CHARS_MAX = 6_000
"""Of one set of names, so that the record of its chunk, with the statistics of each, stays within 64 KiB."""


def sets(key: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Part the names of one row into sets that are within the limits."""
    found: list[list[Any]] = [[]]
    chars = 0
    for name in key:
        chars += len(str(name))
        if found[-1] and (len(found[-1]) == NAMES_MAX or chars > NAMES_CHARS_MAX):
            found.append([])
            chars = len(str(name))
        found[-1].append(name)
    return [tuple(names) for names in found]


class Points:
    """Rows of one set of names: ``add`` takes (step, time, value, …), without a lock, and `take` takes all in bulk.

    A time is whole nanoseconds, or seconds as a float. A row has ``width`` cells: that is for the caller to see to.
    """

    __slots__ = ("add", "cells", "key", "names", "next", "order", "width")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.names = tuple(sorted(str(name) for name in key))
        if not self.names or len(set(self.names)) < len(key) or max(map(len, self.names)) > TEXT_CHARS_MAX:
            raise ValueError(f"it takes different names, each of at most {TEXT_CHARS_MAX} characters.")
        self.order = sorted(range(len(key)), key=lambda i: str(key[i]))
        self.width = 2 + len(key)
        # One row after the other, in one list: a column is a slice of it, and no row is an object that stays.
        self.cells: list[Any] = []
        self.add = self.cells.extend  # looked up once, not at every row: a row is a microsecond
        self.next = 0

    def __len__(self) -> int:
        """Return how many rows wait."""
        return len(self.cells) // self.width

    def keep(self, rows: int) -> None:
        """Leave out all rows but the first ones."""
        del self.cells[rows * self.width :]

    def take(self) -> tuple[array[int], array[int], list[array[float]], int]:
        """Return the rows so far as sorted columns, and how many rows were not numbers and are left out."""
        cells = self.cells[:]
        del self.cells[: len(cells)]
        try:
            steps, times = cells[:: self.width], _all_microseconds(cells[1 :: self.width])
            if not cells or (
                min(steps) >= -INTEGER_MAX
                and max(steps) <= INTEGER_MAX
                and min(times) >= 0
                and max(times) <= INTEGER_MAX
            ):
                columns = [array("d", cells[2 + i :: self.width]) for i in self.order]
                return array("q", steps), array("q", times), columns, 0
        except Exception:  # noqa: BLE001, S110  # a value's own conversion failed: below, row by row
            pass
        return self._take_slowly(cells)

    def _take_slowly(self, cells: list[Any]) -> tuple[array[int], array[int], list[array[float]], int]:
        steps, times = array("q"), array("q")
        columns = [array("d") for _ in self.order]
        bad = 0
        for at in range(0, len(cells), self.width):
            row = cells[at : at + self.width]
            try:
                step, time = int(row[0]), _microseconds(row[1])
                if not (step == row[0] and abs(step) <= INTEGER_MAX and 0 <= time <= INTEGER_MAX):
                    raise ValueError("no step or time")
                if any(isinstance(value, str | bytes) for value in row):
                    raise ValueError("no numbers")
                found = [float(row[2 + i]) for i in self.order]
            except Exception:  # noqa: BLE001  # a value's own conversion may raise anything
                bad += 1
                continue
            steps.append(step)
            times.append(time)
            for column, value in zip(columns, found, strict=True):
                column.append(value)
        return steps, times, columns, bad


def whole(step: Any) -> int:
    """Return a step of any number type as the whole number it is; raise `ValueError` for 0.5, NaN and infinity."""
    try:
        found = int(step)
    except OverflowError as error:
        raise ValueError(f"step {step} is not a whole number") from error
    if found != step:
        raise ValueError(f"step {step} is not a whole number.")
    return found


def _all_microseconds(times: list[Any]) -> list[int]:
    if set(map(type, times)) == {int}:  # as they are when nobody gives a time of their own
        return [time // 1000 for time in times]
    return [_microseconds(time) for time in times]


def _microseconds(time: Any) -> int:
    return time // 1000 if time.__class__ is int else int(time * 1e6)
