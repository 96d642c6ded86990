"""Points of a journal as chunks of step metrics: which rows wait, where they lie, and how they are gathered."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cmf import journal
from cmf.model import series


class Waiting(msgspec.Struct):
    """Points of one set of names that a journal holds.

    Rows before ``first`` are cut for good, ``cut`` of the rest were cut early, ``rows`` were seen; ``at`` is the offset
    of the frame that holds row ``first``.
    """

    first: int
    rows: int
    at: int
    cut: int = 0


def _empty(names: tuple[str, ...]) -> series.Chunk:
    return series.Chunk(names=names, steps=array("q"), times=array("q"), columns=tuple(array("d") for _ in names))


def place_of(header: journal.PointsHeader) -> str:
    """Return the text that names one set of names of one process, as a journal's state keys it."""
    return json.dumps([header.scope, header.execution, header.attempt, header.rank, list(header.names)])


def seen(sets: dict[str, Waiting], header: journal.PointsHeader, start: int) -> None:
    """Note the rows of a points frame that starts at an offset."""
    place = place_of(header)
    held = sets.get(place)
    if held is None:
        sets[place] = Waiting(first=header.first, rows=header.first + header.rows, at=start)
    else:
        held.rows = max(held.rows, header.first + header.rows)


def gathered(path: Path, place: str, held: Waiting) -> Iterator[tuple[series.Chunk, int, int]]:
    """Yield (chunk, its first row, offset of the frame where the row after it lies) from the first row not cut."""
    names = tuple(json.loads(place)[4])
    rows = _empty(names)
    first, row = held.first, held.first
    for start, header, points in _points(path, held.at):
        if place_of(header) != place or header.first + header.rows <= row:
            continue
        at = row - header.first
        while at < header.rows:
            room = series.CHUNK_ROWS - len(rows.steps)
            end = min(header.rows, at + room)
            rows.steps.extend(points.steps[at:end])
            rows.times.extend(points.times[at:end])
            for column, more in zip(rows.columns, points.columns, strict=True):
                column.extend(more[at:end])
            row, at = row + end - at, end
            if len(rows.steps) == series.CHUNK_ROWS:
                yield rows, first, start
                rows, first = _empty(names), row
    if rows.steps:
        yield rows, first, held.at


def _points(path: Path, offset: int) -> Iterator[tuple[int, journal.PointsHeader, journal.Points]]:
    start = offset
    for frame in journal.frames(path, offset):
        if frame.tag == journal.POINTS:
            header, _ = journal.parse_points_header(frame.payload)
            yield start, header, journal.parse_points(frame.payload)
        start = frame.end


def rest(path: Path, place: str, held: Waiting) -> series.Chunk:
    """Return the rows of one set of names that no full chunk holds yet."""
    rows = _empty(tuple(json.loads(place)[4]))
    for _, header, points in _points(path, held.at):
        if place_of(header) != place:
            continue
        skip = max(0, held.first + len(rows.steps) - header.first)
        rows.steps.extend(points.steps[skip:])
        rows.times.extend(points.times[skip:])
        for column, more in zip(rows.columns, points.columns, strict=True):
            column.extend(more[skip:])
    return rows
