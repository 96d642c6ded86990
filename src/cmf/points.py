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

    A time is whole nanoseconds, or seconds as a float.
    """

    __slots__ = ("add", "key", "names", "next", "order", "rows")

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.key = key
        self.names = tuple(sorted(str(name) for name in key))
        if not self.names or len(set(self.names)) < len(key) or max(map(len, self.names)) > TEXT_CHARS_MAX:
            raise ValueError(f"it takes different names, each of at most {TEXT_CHARS_MAX} characters.")
        self.order = sorted(range(len(key)), key=lambda i: str(key[i]))
        self.rows: list[tuple[Any, ...]] = []
        self.add = self.rows.append  # looked up once, not at every row: a row is a microsecond
        self.next = 0

    def take(self) -> tuple[array[int], array[int], list[array[float]], int]:
        """Return the rows so far as sorted columns, and how many rows were not numbers and are left out."""
        rows = self.rows[:]
        del self.rows[: len(rows)]
        try:
            columns = list(zip(*rows, strict=True))
            if len(columns) == 2 + len(self.key):
                steps = array("q", columns[0])
                times = array("q", [_microseconds(t) for t in columns[1]])
                if (
                    min(steps) >= -INTEGER_MAX
                    and max(steps) <= INTEGER_MAX
                    and min(times) >= 0
                    and max(times) <= INTEGER_MAX
                ):
                    return steps, times, [array("d", columns[2 + i]) for i in self.order], 0
        except Exception:  # noqa: BLE001, S110  # a value's own conversion failed: below, row by row
            pass
        return self._take_slowly(rows)

    def _take_slowly(self, rows: list[tuple[Any, ...]]) -> tuple[array[int], array[int], list[array[float]], int]:
        steps, times = array("q"), array("q")
        columns = [array("d") for _ in self.order]
        bad = 0
        for row in rows:
            try:
                step, time = int(row[0]), _microseconds(row[1])
                if not (step == row[0] and abs(step) <= INTEGER_MAX and 0 <= time <= INTEGER_MAX):
                    raise ValueError("no step or time")
                if len(row) != 2 + len(columns) or any(isinstance(value, str | bytes) for value in row):
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


def _microseconds(time: Any) -> int:
    return time // 1000 if time.__class__ is int else int(time * 1e6)
