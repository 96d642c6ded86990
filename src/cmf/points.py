"""Rows of step metrics that were logged and are not yet in the journal.

Knows how to take a row in about a microsecond and to hand rows over as sorted columns. Refuses to know of runs.
"""

from __future__ import annotations

from array import array
from typing import Any

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
    """Rows of one set of names: appended through the three ``add`` methods without a lock, and taken in bulk."""

    __slots__ = (
        "add_step",
        "add_time",
        "add_values",
        "first",
        "key",
        "names",
        "next",
        "order",
        "steps",
        "times",
        "values",
    )

    def __init__(self, key: tuple[str, ...]) -> None:
        self.key = key
        self.names = sorted(str(name) for name in key)
        if not self.names or len(set(self.names)) < len(key) or sum(map(len, self.names)) > NAMES_CHARS_MAX:
            raise ValueError(f"it takes different names, each of at most {NAMES_CHARS_MAX} characters.")
        self.order = sorted(range(len(key)), key=lambda i: str(key[i]))
        self.steps: list[Any] = []
        self.times: list[Any] = []
        self.values: list[Any] = []
        # Looked up once, not at every row: a row is a microsecond.
        self.add_step, self.add_time, self.add_values = self.steps.append, self.times.append, self.values.extend
        self.next = 0
        self.first = 0

    def take(self) -> tuple[array[int], array[int], list[array[float]], int]:
        """Return the rows so far as sorted columns, and how many rows were not numbers and are left out."""
        rows = len(self.steps)
        width = len(self.key)
        rows = min(rows, len(self.times), len(self.values) // width if width else rows)
        steps, times, values = self.steps[:rows], self.times[:rows], self.values[: rows * width]
        del self.steps[:rows], self.times[:rows], self.values[: rows * width]
        try:
            stamps = array("q", [t // 1000 if t.__class__ is int else int(t * 1e6) for t in times])
            return array("q", steps), stamps, [array("d", values[i::width]) for i in self.order], 0
        except (TypeError, ValueError, OverflowError):
            return self._take_slowly(steps, times, values, width)

    def _take_slowly(
        self, steps: list[Any], times: list[Any], values: list[Any], width: int
    ) -> tuple[array[int], array[int], list[array[float]], int]:
        good_steps, good_times = array("q"), array("q")
        columns = [array("d") for _ in self.order]
        bad = 0
        for row, (step, t) in enumerate(zip(steps, times, strict=True)):
            try:
                found = [float(values[row * width + i]) for i in self.order]
                good_steps.append(int(step))
                good_times.append(t // 1000 if t.__class__ is int else int(t * 1e6))
            except (TypeError, ValueError, OverflowError):
                bad += 1
                del good_steps[len(good_times) :]
                continue
            for column, value in zip(columns, found, strict=True):
                column.append(value)
        return good_steps, good_times, columns, bad
