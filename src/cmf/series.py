"""Step metrics read back: the points of one name, joined from chunks and from what journals still hold."""

from __future__ import annotations

import functools
import itertools
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, overload

from cmf.errors import CorruptError
from cmf.graph import views
from cmf.model import series as chunks
from cmf.objects import ObjectStore, read


class Point(NamedTuple):
    """One point of step metrics; ``time`` in µs since 1970."""

    step: int
    time: int
    value: float


class Points(Sequence[Point]):
    """The points of one name: three arrays of equal length, ``steps``, ``times`` (µs since 1970) and ``values``."""

    def __init__(self, steps: array[int], times: array[int] | Callable[[], array[int]], values: array[float]) -> None:
        self.steps = steps
        self.values = values
        self._times = times

    @functools.cached_property
    def times(self) -> array[int]:
        """Return the times in µs since 1970: decoded when they are first asked for."""
        return self._times() if callable(self._times) else self._times

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, at: int) -> Point: ...

    @overload
    def __getitem__(self, at: slice) -> Points: ...

    def __getitem__(self, at: int | slice) -> Point | Points:
        if isinstance(at, slice):
            return Points(self.steps[at], self.times[at], self.values[at])
        return Point(self.steps[at], self.times[at], self.values[at])

    def __iter__(self) -> Iterator[Point]:
        return map(Point, self.steps, self.times, self.values)

    def __repr__(self) -> str:
        return f"<{len(self)} points>"


def points(
    name: str, *, held: Sequence[views.ChunkRef], waiting: Sequence[tuple[int, chunks.Chunk]], objects: ObjectStore
) -> Points | None:
    """Return the points that chunks hold and those that still wait to be cut, by their first row; None if none do."""
    pieces = [_piece(first, chunk, name) for first, chunk in waiting]
    uncut = {(piece.names, piece.first): len(piece.steps) for piece in pieces}
    for ref in held:
        if (known := uncut.pop((ref.names, ref.first), 0)) >= ref.rows:
            continue
        if known:
            pieces = [piece for piece in pieces if (piece.names, piece.first) != (ref.names, ref.first)]
        data = read(objects, ref.object)
        chunk = chunks.decode(data, names=[name], times=False)
        times = functools.partial(_times, data)
        pieces.append(_Piece(ref.names, ref.first, ref.times, chunk.steps, chunk.columns[0], times))
    return _merged(pieces) if pieces else None


class _Piece(NamedTuple):
    """A run of rows of one set of names; ``times`` are decoded when somebody asks for them."""

    names: tuple[str, ...]
    first: int
    between: tuple[int, int]
    steps: array[int]
    values: array[float]
    times: array[int] | Callable[[], array[int]]


def _piece(first: int, chunk: chunks.Chunk, name: str) -> _Piece:
    column = chunk.columns[chunk.names.index(name)]
    return _Piece(chunk.names, first, (min(chunk.times), max(chunk.times)), chunk.steps, column, chunk.times)


def _times(data: bytes) -> array[int]:
    return chunks.decode(data, names=[]).times


def _merged(pieces: list[_Piece]) -> Points:
    """Join pieces: of one set of names in the order of their rows, of several by time, as logged where times agree."""
    if len({piece.names for piece in pieces}) == 1:
        pieces.sort(key=lambda piece: piece.first)
        by_time = False
    else:
        pieces.sort(key=lambda piece: piece.between)
        by_time = any(a.between[1] > b.between[0] for a, b in itertools.pairwise(pieces))
    steps, values = array("q"), array("d")
    for piece in pieces:
        steps.extend(piece.steps)
        values.extend(piece.values)
    if len(steps) != len(values):
        raise CorruptError("A series' chunks have columns of different lengths.", kind="series")

    def times() -> array[int]:
        found = array("q")
        for piece in pieces:
            found.extend(piece.times() if callable(piece.times) else piece.times)
        return found

    if not by_time:
        return Points(steps, times, values)
    unsorted = times()
    order = sorted(range(len(unsorted)), key=unsorted.__getitem__)
    return Points(
        array("q", [steps[i] for i in order]),
        array("q", [unsorted[i] for i in order]),
        array("d", [values[i] for i in order]),
    )
