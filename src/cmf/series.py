"""Step metrics read back: the points of one name, joined from chunks and from what journals still hold.

A chart asks for a few thousand points of a million. Of a chunk it takes the thinned form: of each so many rows the
first, the least, the greatest and the last. That is made when it is first asked for and kept in a folder beside the
objects, which may be removed at any time.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import heapq
import itertools
import operator
import os
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, overload

from cmf.errors import CmfError, CorruptError
from cmf.graph import views
from cmf.model import series as chunks
from cmf.objects import ObjectStore, read
from cmf.tables import library

THINNED = "thinned"
"""The folder beside the objects for thinned chunks."""

THINNED_ROWS = (8192, 1024, 128)
"""How many rows four points stand for, in each of the forms that are kept of a chunk."""


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

    def to_numpy(self) -> Any:
        """Return a numpy array of records ``step`` (i8), ``time`` (i8, µs since 1970) and ``value`` (f8)."""
        numpy = library("numpy")
        found = numpy.empty(len(self), dtype=[("step", "i8"), ("time", "i8"), ("value", "f8")])
        found["step"], found["time"], found["value"] = self.steps, self.times, self.values
        return found

    def to_pandas(self) -> Any:
        """Return a pandas data frame of ``step``, ``time`` (a moment in UTC) and ``value``."""
        pandas = library("pandas")
        times = pandas.to_datetime(library("numpy").array(self.times, dtype="i8"), unit="us", utc=True)
        columns = self.to_numpy()
        return pandas.DataFrame({"step": columns["step"], "time": times, "value": columns["value"]})

    def to_polars(self) -> Any:
        """Return a polars data frame of ``step``, ``time`` (a moment in UTC) and ``value``."""
        polars = library("polars")
        return polars.DataFrame(
            {
                "step": polars.Series(self.steps, dtype=polars.Int64),
                "time": polars.Series(self.times, dtype=polars.Int64).cast(polars.Datetime("us", "UTC")),
                "value": polars.Series(self.values, dtype=polars.Float64),
            }
        )

    def to_arrow(self) -> Any:
        """Return a pyarrow table of ``step``, ``time`` (a moment in UTC) and ``value``."""
        arrow = library("pyarrow")
        return arrow.table(
            {
                "step": arrow.array(self.steps, arrow.int64()),
                "time": arrow.array(self.times, arrow.int64()).cast(arrow.timestamp("us", "UTC")),
                "value": arrow.array(self.values, arrow.float64()),
            }
        )


def points(
    name: str,
    *,
    held: Sequence[views.ChunkRef],
    waiting: Sequence[tuple[int, chunks.Chunk]],
    store: Store,
    between: tuple[int | None, int | None] = (None, None),
    most: int | None = None,
) -> Points | None:
    """Return the points that chunks hold and those that still wait to be cut, by their first row; None if none do.

    ``between`` are the first step and the one after the last. Over ``most`` points they are thinned.
    """
    uncut = sorted((_waiting(name, *each) for each in waiting), key=lambda piece: piece.rows)
    pieces = {(piece.names, piece.first): piece for piece in uncut}
    for ref in held:
        known = pieces.get((ref.names, ref.first))
        if known is None or known.rows < ref.rows:
            pieces[ref.names, ref.first] = _held(name, ref, store)
    if not pieces:
        return None
    low, high = between
    inside = [found for piece in pieces.values() if (found := piece.within(low, high)) is not None]
    rows = sum(piece.rows for piece in inside)
    if most is None or rows <= most:
        return _merged(inside)
    if _in_order(inside):
        return _thinned([piece.thinned for piece in inside], rows, most)
    whole = _merged(inside)
    chunk = chunks.Chunk((name,), whole.steps, whole.times, (whole.values,))
    return _thinned([functools.partial(_thin, chunk)], rows, most)


Tail = tuple[str, int, int, chunks.Chunk]
"""(attempt, rank, first row, rows) that still wait in a journal to be cut."""


def of_attempt(
    name: str,
    attempt: str,
    *,
    refs: Sequence[views.ChunkRef],
    tails: Sequence[Tail],
    store: Store,
    rank: int | None = None,
    merged: bool = False,
    between: tuple[int | None, int | None] = (None, None),
    most: int | None = None,
) -> Points | None:
    """Return the points of one rank of an attempt (None: the lowest that has the name), or of all ranks by time.

    None if there are none. See `points`.
    """
    held: dict[int, list[views.ChunkRef]] = {}
    waiting: dict[int, list[tuple[int, chunks.Chunk]]] = {}
    for ref in refs:
        if ref.attempt == attempt:
            held.setdefault(ref.rank, []).append(ref)
    for its_attempt, its_rank, first, chunk in tails:
        if its_attempt == attempt:
            waiting.setdefault(its_rank, []).append((first, chunk))
    ranks = sorted({*held, *waiting})
    wanted = ranks if merged else ranks[:1] if rank is None else [rank]
    lines = [
        points(name, held=held.get(each, ()), waiting=waiting.get(each, ()), store=store, between=between, most=most)
        for each in wanted
    ]
    found = [line for line in lines if line is not None]
    return _by_time(found, most) if len(found) > 1 else next(iter(found), None)


def _by_time(lines: Sequence[Points], most: int | None) -> Points:
    """Join the lines of several ranks in the order of their times, and thin them if that is asked for."""
    rows = heapq.merge(*(_timed(line) for line in lines), key=operator.itemgetter(0))
    times, steps, values = array("q"), array("q"), array("d")
    for time, step, value in rows:
        times.append(time)
        steps.append(step)
        values.append(value)
    if most is None or len(times) <= most:
        return Points(steps, times, values)
    chunk = chunks.Chunk(("",), steps, times, (values,))
    return _thinned([functools.partial(_thin, chunk)], len(times), most)


def _timed(line: Points) -> list[tuple[int, int, float]]:
    """Return (time, step, value) of each point by time; points of one time stay in their order."""
    return sorted(zip(line.times, line.steps, line.values, strict=True), key=operator.itemgetter(0))


class Store:
    """Where the chunks of series are, whole and thinned."""

    def __init__(self, objects: ObjectStore, thinned: Path) -> None:
        self._objects = objects
        self._folder = thinned

    def chunk(self, digest: str, name: str) -> tuple[chunks.Chunk, Callable[[], array[int]]]:
        """Return one name of a chunk without its times, and what decodes them."""
        data = read(self._objects, digest)
        return chunks.decode(data, names=[name], times=False), lambda: chunks.decode(data, names=[]).times

    def thinned(self, digest: str, name: str, rows: int) -> chunks.Chunk:
        """Return one name of a chunk with four points for each ``rows`` rows; all its rows if that is 1."""
        if rows == 1:
            return chunks.decode(read(self._objects, digest), names=[name])
        hashed = hashlib.sha256(f"{digest} {rows} {name}".encode(errors="surrogatepass")).hexdigest()
        path = self._folder / hashed[:2] / hashed[2:]
        with contextlib.suppress(OSError, CmfError):  # not there, or cut short by a crash: made anew
            found = chunks.decode(path.read_bytes())
            if found.names == (name,):
                return found
        found = chunks.decode_thin(read(self._objects, digest), name, rows)
        with contextlib.suppress(OSError):  # a disk that is full or may not be written: the answer is the same
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f"{path.name}.{os.getpid()}")
            beside.write_bytes(chunks.encode(found))
            beside.replace(path)
        return found


class _Piece(NamedTuple):
    """A run of rows of one set of names, decoded when and as far as somebody asks: ``whole`` without its times."""

    names: tuple[str, ...]
    first: int
    rows: int
    steps: tuple[int, int]
    times: tuple[int, int]
    whole: Callable[[], tuple[chunks.Chunk, Callable[[], array[int]]]]
    thinned: Callable[[int], chunks.Chunk]

    def within(self, low: int | None, high: int | None) -> _Piece | None:
        """Return the rows whose step is ``low`` or more and less than ``high``; None if there are none."""
        least, greatest = self.steps
        if (low is not None and greatest < low) or (high is not None and least >= high):
            return None
        if (low is None or least >= low) and (high is None or greatest < high):
            return self
        chunk, times = self.whole()
        keep = [(low is None or step >= low) and (high is None or step < high) for step in chunk.steps]
        steps = array("q", itertools.compress(chunk.steps, keep))
        between = array("q", itertools.compress(times(), keep))
        values = array("d", itertools.compress(chunk.columns[0], keep))
        if not steps:
            return None
        return _in_memory(self.names, self.first, chunks.Chunk(chunk.names, steps, between, (values,)))


def _held(name: str, ref: views.ChunkRef, store: Store) -> _Piece:
    return _Piece(
        names=ref.names,
        first=ref.first,
        rows=ref.rows,
        steps=ref.steps,
        times=ref.times,
        whole=functools.partial(store.chunk, ref.object, name),
        thinned=functools.partial(store.thinned, ref.object, name),
    )


def _waiting(name: str, first: int, chunk: chunks.Chunk) -> _Piece:
    column = chunk.columns[chunk.names.index(name)]
    return _in_memory(chunk.names, first, chunks.Chunk((name,), chunk.steps, chunk.times, (column,)))


def _in_memory(names: tuple[str, ...], first: int, chunk: chunks.Chunk) -> _Piece:
    return _Piece(
        names=names,
        first=first,
        rows=len(chunk.steps),
        steps=(min(chunk.steps), max(chunk.steps)),
        times=(min(chunk.times), max(chunk.times)),
        whole=lambda: (chunk, lambda: chunk.times),
        thinned=functools.partial(_thin, chunk),
    )


def _thin(chunk: chunks.Chunk, rows: int) -> chunks.Chunk:
    return chunk if rows == 1 else chunks.thin(chunk, rows)


def _in_order(pieces: list[_Piece]) -> bool:
    """Sort pieces, of one set of names by their rows, of several by time; False if their rows must be mixed."""
    if len({piece.names for piece in pieces}) <= 1:
        pieces.sort(key=lambda piece: piece.first)
        return True
    pieces.sort(key=lambda piece: piece.times)
    return all(a.times[1] <= b.times[0] for a, b in itertools.pairwise(pieces))


def _merged(pieces: list[_Piece]) -> Points:
    """Join pieces: of one set of names in the order of their rows, of several by time, as logged where times agree."""
    in_order = _in_order(pieces)
    steps, values = array("q"), array("d")
    later = []
    for piece in pieces:
        chunk, times_of = piece.whole()
        steps.extend(chunk.steps)
        values.extend(chunk.columns[0])
        later.append(times_of)
    if len(steps) != len(values):
        raise CorruptError("A series' chunks have columns of different lengths.", kind="series")

    def times() -> array[int]:
        found = array("q")
        for times_of in later:
            found.extend(times_of())
        return found

    if in_order:
        return Points(steps, times, values)
    unsorted = times()
    order = sorted(range(len(unsorted)), key=unsorted.__getitem__)
    return Points(
        array("q", [steps[i] for i in order]),
        array("q", [unsorted[i] for i in order]),
        array("d", [values[i] for i in order]),
    )


def _thinned(pieces: Sequence[Callable[[int], chunks.Chunk]], rows: int, most: int) -> Points:
    """Read each piece in the coarsest form that is fine enough, join them, and thin what that gives to the end."""
    wanted = max(1, 4 * rows // most)
    form = next((kept for kept in THINNED_ROWS if kept <= wanted), 1)
    steps, times, values = array("q"), array("q"), array("d")
    for piece in pieces:
        chunk = piece(form)
        steps.extend(chunk.steps)
        times.extend(chunk.times)
        values.extend(chunk.columns[0])
    buckets = max(1, most // 4)
    group = -(-len(steps) // buckets)
    if form > 1:
        group = -(-group // 4) * 4
    found = chunks.thin(chunks.Chunk(("",), steps, times, (values,)), group)
    different = [point for point, _ in itertools.groupby(zip(found.steps, found.times, found.columns[0], strict=True))]
    chosen = zip(*different, strict=True)
    return Points(array("q", next(chosen)), array("q", next(chosen)), array("d", next(chosen)))
