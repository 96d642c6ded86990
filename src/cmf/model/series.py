"""Chunks of step metrics: columns, each with a codec of its own.

A chunk is ``cmf-srs`` and a version byte, ``u32 header length``, a JSON header, then the columns' bytes: steps (i64),
times (i64, µs), and one f64 column a name, each compressed on its own, so that a reader decodes only what it asks for.
"""

from __future__ import annotations

import math
import operator
import struct
import sys
from array import array
from collections.abc import Collection, Sequence
from typing import Any

import msgspec

from cmf.errors import CorruptError, UnsupportedError
from cmf.model import encoding
from cmf.model.records import Stats
from cmf.model.zstd import compress, decompress

MAGIC = b"cmf-srs"
VERSION = 1
CHUNK_ROWS = 65_536
NAMES_MAX = 1_000
HEADER_BYTES_MAX = 1 << 20

PLAIN, SHUFFLE, DELTA, DELTA_SHUFFLE, STRIDE, CONSTANT = range(6)
SAMPLE_ROWS = 4_096
_LENGTH = struct.Struct("<I")


class Chunk(msgspec.Struct, frozen=True):
    """Rows of one set of names: ``steps``, ``times`` (µs) and one column a name, all of equal length."""

    names: tuple[str, ...]
    steps: array[int]
    times: array[int]
    columns: tuple[array[float], ...]


class _Column(msgspec.Struct, array_like=True):
    codec: int
    size: int


class _Header(msgspec.Struct):
    columns: list[_Column]
    names: list[str]
    rows: int


_decoder = msgspec.json.Decoder(_Header)


def encode(chunk: Chunk) -> bytes:
    """Return a chunk's bytes: for each column the smallest of the codecs that a sample favours."""
    rows = len(chunk.steps)
    lengths = {len(chunk.times), *(len(column) for column in chunk.columns)}
    if not 1 <= rows <= CHUNK_ROWS or lengths != {rows} or len(chunk.names) > NAMES_MAX:
        raise CorruptError(f"A chunk of {rows} rows cannot be written.", kind="series")
    packed = [_pack_integers(chunk.steps), _pack_integers(chunk.times), *(_pack_floats(c) for c in chunk.columns)]
    header = encoding.encode(_Header([_Column(codec, len(data)) for codec, data in packed], list(chunk.names), rows))
    return b"".join((MAGIC, bytes((VERSION,)), _LENGTH.pack(len(header)), header, *(data for _, data in packed)))


def decode(data: bytes, *, names: Collection[str] | None = None, times: bool = True) -> Chunk:
    """Read a chunk, or only some of its columns; times are empty if they are not asked for."""
    header, places = _places(data)
    chosen = [i for i, name in enumerate(header.names) if names is None or name in names]
    return Chunk(
        names=tuple(header.names[i] for i in chosen),
        steps=_unpack("q", *places[0], header.rows),
        times=_unpack("q", *places[1], header.rows) if times else array("q"),
        columns=tuple(_unpack("d", *places[2 + i], header.rows) for i in chosen),
    )


def decode_thin(data: bytes, name: str, rows: int) -> Chunk:
    """Read one name of a chunk as `thin` gives it; the times and steps of the points left out are never made."""
    header, places = _places(data)
    if name not in header.names:
        raise CorruptError(f"A chunk of step metrics lacks '{name}'.", kind="series")
    column = _unpack("d", *places[2 + header.names.index(name)], header.rows).tolist()
    chosen = _chosen(column, rows)
    steps, times = (_unpack_some(*places[k], header.rows, chosen) for k in (0, 1))
    return Chunk((name,), steps, times, (array("d", map(column.__getitem__, chosen)),))


def stats(column: Sequence[float]) -> Stats:
    """Return last (tagged if it is not finite), least, greatest, sum and count of a column's finite points."""
    last = encoding.to_value(column[-1]) if len(column) else None
    finite = column if _all_finite(column) else [value for value in column if math.isfinite(value)]
    if not len(finite):
        return Stats(last, None, None, None, 0)
    try:
        total: float | None = math.fsum(finite)
    except OverflowError:
        total = None  # no double can hold it
    return Stats(last, min(finite), max(finite), total, len(finite))


def thin(chunk: Chunk, rows: int) -> Chunk:
    """Return four points of each ``rows`` rows of a chunk of one name: the first, the least, the greatest, the last.

    They are in the order they were logged in, and one point may be several of the four: of n rows it is always
    4 × ceil(n / rows), so that what is thinned can be thinned again, and comes out as if it had been so at once.
    NaN is neither least nor greatest, unless there is nothing else.
    """
    column = chunk.columns[0].tolist()
    chosen = _chosen(column, rows)
    pick = operator.itemgetter(*chosen) if len(chosen) else lambda _: ()
    return Chunk(
        names=chunk.names,
        steps=array("q", pick(chunk.steps)),
        times=array("q", pick(chunk.times)),
        columns=(array("d", pick(column)),),
    )


def _chosen(column: list[float], rows: int) -> array[int]:
    """Return the places of four points of each ``rows`` rows, upwards. A list is gone through faster than an array."""
    ordered = not math.isnan(sum(column))
    chosen = array("q")
    for at in range(0, len(column), rows):
        values = column[at : at + rows]
        count = len(values)
        if not ordered:  # a sum of infinities is NaN too; then this only takes longer
            values = [value for value in values if value == value]  # noqa: PLR0124  # not NaN
        if len(values) == count:
            low, high = values.index(min(values)), values.index(max(values))
        elif values:
            low, high = (column.index(found, at) - at for found in (min(values), max(values)))
        else:
            low = high = 0
        chosen.extend((at, at + min(low, high), at + max(low, high), at + count - 1))
    return chosen


def _places(data: bytes) -> tuple[_Header, list[tuple[int, bytes]]]:
    """Return a chunk's header, and the codec and the bytes of each of its columns."""
    header, at = _header(data)
    places = []
    for column in header.columns:
        places.append((column.codec, data[at : at + column.size]))
        at += column.size
    if at != len(data):
        raise CorruptError("A chunk has another size than its header says.", kind="series")
    return header, places


def _all_finite(column: Sequence[float]) -> bool:
    return all(map(math.isfinite, column))


def _header(data: bytes) -> tuple[_Header, int]:
    if data[: len(MAGIC)] != MAGIC or len(data) < len(MAGIC) + 1 + _LENGTH.size:
        raise CorruptError("These bytes are not a chunk of step metrics.", kind="series")
    if data[len(MAGIC)] > VERSION:
        raise UnsupportedError(
            f"A chunk of step metrics has format version {data[len(MAGIC)]}.", hint="Upgrade cmf.", kind="newer-format"
        )
    start = len(MAGIC) + 1 + _LENGTH.size
    (length,) = _LENGTH.unpack_from(data, len(MAGIC) + 1)
    if length > HEADER_BYTES_MAX or start + length > len(data):
        raise CorruptError("A chunk's header is cut short.", kind="series")
    try:
        header = _decoder.decode(data[start : start + length])
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A chunk's header cannot be read: {error}.", kind="series") from error
    sizes = [column.size for column in header.columns]
    if (
        not 1 <= header.rows <= CHUNK_ROWS
        or len(header.names) > NAMES_MAX
        or len(sizes) != 2 + len(header.names)
        or min(sizes, default=-1) < 0
    ):
        raise CorruptError("A chunk's header has a wrong field.", kind="series")
    return header, start + length


# ---- columns -----------------------------------------------------------------------------------------------------


def _pack_integers(column: array[int]) -> tuple[int, bytes]:
    first, rows = column[0], len(column)
    stride = column[1] - first if rows > 1 else 0
    last = first + stride * (rows - 1)
    if -(2**62) < first < 2**62 and -(2**62) < last < 2**62 and column == array("q", _strided(first, stride, rows)):
        return STRIDE, struct.pack("<qq", first, stride)
    delta = _delta(column)
    forms = {PLAIN: _bytes(column)}
    if delta is not None:
        forms[DELTA] = _bytes(delta)
        forms[DELTA_SHUFFLE] = _shuffle(_bytes(delta))
    return _smallest(forms)


def _pack_floats(column: array[float]) -> tuple[int, bytes]:
    plain = _bytes(column)
    if plain == plain[:8] * len(column):
        return CONSTANT, plain[:8]
    return _smallest({PLAIN: plain, SHUFFLE: _shuffle(plain)})


def _smallest(forms: dict[int, bytes]) -> tuple[int, bytes]:
    """Compress a sample in each form, then the whole in the form whose sample came out smallest."""
    rows = len(next(iter(forms.values()))) // 8
    if rows <= SAMPLE_ROWS:
        packed = {codec: compress(form, level=1) for codec, form in forms.items()}
        best = min(packed, key=lambda codec: (len(packed[codec]), codec))
        return best, packed[best]

    def sample(codec: int) -> int:
        form = forms[codec]
        if codec in (SHUFFLE, DELTA_SHUFFLE):
            form = b"".join(form[k * rows : k * rows + SAMPLE_ROWS] for k in range(8))
        else:
            form = form[: 8 * SAMPLE_ROWS]
        return len(compress(form, level=1))

    best = min(forms, key=lambda codec: (sample(codec), codec))
    return best, compress(forms[best], level=1)


def _unpack(code: str, codec: int, packed: bytes, rows: int) -> array[Any]:
    column = _stored(code, codec, packed, rows)
    return _undelta(column) if codec in (DELTA, DELTA_SHUFFLE) else column


def _unpack_some(codec: int, packed: bytes, rows: int, chosen: Sequence[int]) -> array[int]:
    """Return the integers at some places, which only go upwards: differences between are summed, never kept."""
    column = _stored("q", codec, packed, rows)
    if codec not in (DELTA, DELTA_SHUFFLE):
        return array("q", map(column.__getitem__, chosen))
    found, total, at = array("q"), 0, 0
    try:
        for place in chosen:
            total += sum(column[at : place + 1])
            at = place + 1
            found.append(total)
    except OverflowError as error:
        raise CorruptError("A chunk's column is out of range.", kind="series") from error
    return found


def _stored(code: str, codec: int, packed: bytes, rows: int) -> array[Any]:
    """Return a column as it is kept: of one that holds differences, these."""
    column: array[Any] = array(code)
    if codec == STRIDE and code == "q":
        if len(packed) != 16:
            raise CorruptError("A chunk's column has a wrong size.", kind="series")
        first, stride = struct.unpack("<qq", packed)
        try:
            return array("q", _strided(first, stride, rows))
        except OverflowError as error:
            raise CorruptError("A chunk's column is out of range.", kind="series") from error
    if codec == CONSTANT and code == "d":
        if len(packed) != 8:
            raise CorruptError("A chunk's column has a wrong size.", kind="series")
        column.frombytes(packed * rows)
        return _native(column)
    if codec not in ((PLAIN, SHUFFLE) if code == "d" else (PLAIN, DELTA, DELTA_SHUFFLE)):
        raise UnsupportedError(f"A chunk's column has an unknown codec {codec}.", kind="newer-format")
    data = decompress(packed, 8 * rows)
    if len(data) != 8 * rows:
        raise CorruptError("A chunk's column has a wrong size.", kind="series")
    column.frombytes(_unshuffle(data) if codec in (SHUFFLE, DELTA_SHUFFLE) else data)
    return _native(column)


def _strided(first: int, stride: int, rows: int) -> Sequence[int]:
    return range(first, first + stride * rows, stride) if stride else [first] * rows


def _shuffle(data: bytes) -> bytes:
    return b"".join(data[k::8] for k in range(8))


def _unshuffle(data: bytes) -> bytes:
    rows = len(data) // 8
    out = bytearray(len(data))
    for k in range(8):
        out[k::8] = data[k * rows : (k + 1) * rows]
    return bytes(out)


def _delta(column: array[int]) -> array[int] | None:
    """Return the differences to the value before, or None if one doesn't fit 64 bits."""
    try:
        return array("q", [column[0], *map(int.__sub__, column[1:], column[:-1])])
    except OverflowError:
        return None


def _undelta(column: array[int]) -> array[int]:
    from itertools import accumulate

    try:
        return array("q", list(accumulate(column)))  # a list of known length is taken faster
    except OverflowError as error:
        raise CorruptError("A chunk's column is out of range.", kind="series") from error


def _bytes(column: array[int] | array[float]) -> bytes:
    return _native(column[:]).tobytes() if sys.byteorder == "big" else column.tobytes()


def _native(column: array[Any]) -> array[Any]:
    if sys.byteorder == "big":
        column.byteswap()
    return column
