import math
import struct
import tracemalloc
from array import array
from collections.abc import Callable

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st

from cmf.errors import CorruptError, UnsupportedError
from cmf.model import encoding, series
from cmf.model.records import Stats
from cmf.model.series import Chunk
from cmf.model.zstd import compress

NAN, INF = math.nan, math.inf


def chunk(steps: list[int], times: list[int], **columns: list[float]) -> Chunk:
    values = tuple(array("d", column) for column in columns.values())
    return Chunk(tuple(columns), array("q", steps), array("q", times), values)


SMALL = chunk([3, 4, 9], [100, 200, 250], acc=[0.5, NAN, -0.0], loss=[1.5, 1.25, INF])
LARGEST = 2**63 - 1
SMALLEST = -(2**63)


def bits(made: Chunk) -> tuple[tuple[str, ...], list[int], list[int], list[bytes]]:
    """Return a chunk so that it can be compared to the bit: NaN equals itself, and 0.0 is not -0.0."""
    return made.names, list(made.steps), list(made.times), [column.tobytes() for column in made.columns]


def spelled(columns: list[tuple[int, bytes]], *, names: list[str], rows: int, said: object = None) -> bytes:
    """Return a chunk's bytes, put together by hand."""
    header = {"columns": [[codec, len(data)] for codec, data in columns], "names": names, "rows": rows}
    text = encoding.encode(header if said is None else said)
    return b"cmf-srs\x01" + struct.pack("<I", len(text)) + text + b"".join(data for _, data in columns)


def with_header(**fields: object) -> bytes:
    """Return the small chunk with some fields of its header changed."""
    data = series.encode(SMALL)
    (length,) = struct.unpack_from("<I", data, 8)
    text = encoding.encode({**msgspec.json.decode(data[12 : 12 + length]), **fields})
    return data[:8] + struct.pack("<I", len(text)) + text + data[12 + length :]


CHUNKS = {
    "small": SMALL,
    "one row": chunk([5], [7], a=[1.0]),
    "no names": chunk([1, 2], [3, 4]),
    "the ends of 64 bits": chunk([SMALLEST, LARGEST, 0, SMALLEST], [LARGEST, LARGEST - 1, 0, -1], a=[1, 2, 3, 4]),
    "one step at the end": chunk([LARGEST], [SMALLEST], a=[0.0]),
    "equal steps at the end": chunk([SMALLEST] * 3, [LARGEST] * 3, a=[0.0] * 3),
    "equal steps": chunk([7, 7, 7], [1, 1, 1], a=[NAN, NAN, NAN], b=[-0.0, -0.0, -0.0]),
    "steps backwards": chunk([9, 6, 3, 0], [5, 3, 8, 1], a=[0.0, -0.0, 0.0, 5e-324]),
    "a stride": chunk(list(range(0, 1000, 10)), list(range(5, 105)), a=[k / 7 for k in range(100)]),
    "many names": chunk([1], [1], **{f"name-{k:04}": [float(k)] for k in range(series.NAMES_MAX)}),
}


@pytest.mark.parametrize("made", CHUNKS.values(), ids=CHUNKS)
def test_a_chunk_comes_back_to_the_bit(made: Chunk) -> None:
    assert bits(series.decode(series.encode(made))) == bits(made)


def test_the_largest_chunk_comes_back_and_a_row_more_cannot_be_written() -> None:
    rows = series.CHUNK_ROWS + 1
    walk = [(k * 2654435761) % 1_000_003 for k in range(rows)]
    whole = chunk(
        walk, [1_750_000_000_000_000 + 1000 * k + w % 50 for k, w in enumerate(walk)], a=[w / 3 for w in walk]
    )
    full = Chunk(whole.names, whole.steps[:-1], whole.times[:-1], tuple(c[:-1] for c in whole.columns))
    assert bits(series.decode(series.encode(full))) == bits(full)
    with pytest.raises(CorruptError):
        series.encode(whole)


def test_regular_steps_and_constant_columns_take_a_few_bytes() -> None:
    rows = series.CHUNK_ROWS
    made = Chunk(("a",), array("q", range(rows)), array("q", range(0, rows * 10, 10)), (array("d", [NAN]) * rows,))
    data = series.encode(made)
    assert len(data) < 150
    assert bits(series.decode(data)) == bits(made)


def test_only_the_columns_asked_for_are_read() -> None:
    data = series.encode(SMALL)
    found = series.decode(data, names=["loss", "no such name"], times=False)
    assert (found.names, list(found.steps), list(found.times)) == (("loss",), [3, 4, 9], [])
    assert list(found.columns[0]) == [1.5, 1.25, INF]
    assert series.decode(data, names=[]).columns == ()


@pytest.mark.parametrize(
    "made",
    [
        chunk([], [], a=[]),
        chunk([1, 2], [1], a=[1.0, 2.0]),
        chunk([1, 2], [1, 2], a=[1.0]),
        chunk([1], [1], a=[1.0], b=[]),
    ],
    ids=["no rows", "few times", "few values", "an empty column"],
)
def test_columns_of_unequal_length_are_no_chunk(made: Chunk) -> None:
    with pytest.raises(CorruptError):
        series.encode(made)


def test_a_chunk_cut_or_lengthened_at_any_byte_is_refused() -> None:
    data = series.encode(SMALL)
    for end in range(len(data)):
        with pytest.raises(CorruptError):
            series.decode(data[:end])
    with pytest.raises(CorruptError):
        series.decode(data + b"\0")


@pytest.mark.parametrize("magic", [b"", b"cmf-jrn\x01", b"CMF-SRS\x01", b"{}"])
def test_other_bytes_are_no_chunk(magic: bytes) -> None:
    with pytest.raises(CorruptError):
        series.decode(magic + series.encode(SMALL)[8:])


@pytest.mark.parametrize("version", [2, 255])
def test_a_newer_version_is_unsupported(version: int) -> None:
    data = series.encode(SMALL)
    with pytest.raises(UnsupportedError) as caught:
        series.decode(data[:7] + bytes([version]) + data[8:])
    assert caught.value.kind == "newer-format"


@pytest.mark.parametrize(
    "fields",
    [
        {"rows": 0},
        {"rows": -3},
        {"rows": series.CHUNK_ROWS + 1},
        {"rows": 2**53},
        {"rows": "3"},
        {"rows": 4},
        {"names": ["acc"]},
        {"names": ["acc", "loss", "more"]},
        {"names": None},
        {"columns": []},
        {"columns": [[4, 16]]},
        {"columns": [[4, -16]] * 4},
        {"columns": [[4, 2**53]] * 4},
        {"columns": [["4", 16]] * 4},
    ],
    ids=str,
)
def test_a_header_with_a_wrong_field_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(CorruptError):
        series.decode(with_header(**fields))


def test_a_header_of_too_many_names_is_refused() -> None:
    names = [f"name-{k}" for k in range(series.NAMES_MAX + 1)]
    column = (series.CONSTANT, bytes(8))
    stride = (series.STRIDE, bytes(16))
    most = spelled([stride, stride, *[column] * (len(names) - 1)], names=names[:-1], rows=1)
    assert len(series.decode(most).columns) == series.NAMES_MAX
    with pytest.raises(CorruptError):
        series.decode(spelled([stride, stride, *[column] * len(names)], names=names, rows=1))


def test_a_header_longer_than_the_chunk_takes_no_memory() -> None:
    for length in (2**32 - 1, 1 << 20, series.HEADER_BYTES_MAX + 1):
        with pytest.raises(CorruptError):
            series.decode(b"cmf-srs\x01" + struct.pack("<I", length) + b"{}")


STEPS = (series.STRIDE, struct.pack("<qq", 0, 1))


@pytest.mark.parametrize(
    "steps",
    [
        (series.STRIDE, b""),
        (series.STRIDE, bytes(15)),
        (series.STRIDE, struct.pack("<qq", LARGEST, 1)),
        (series.STRIDE, struct.pack("<qq", SMALLEST, -1)),
        (series.STRIDE, struct.pack("<qq", 0, LARGEST)),
        (series.PLAIN, compress(bytes(8 * 2))),
        (series.PLAIN, compress(bytes(8 * 4))),
        (series.PLAIN, b"no zstd"),
        (series.PLAIN, compress(bytes(8 * 3)) + b"\0"),
        (series.DELTA, compress(struct.pack("<qqq", LARGEST, 1, 0))),
        (series.DELTA_SHUFFLE, compress(b"\x7f" * 24)),
        (series.DELTA, compress(bytes(8 * 2))),
    ],
    ids=str,
)
def test_a_column_of_integers_that_does_not_fit_is_refused(steps: tuple[int, bytes]) -> None:
    good = (series.CONSTANT, bytes(8))
    assert list(series.decode(spelled([STEPS, STEPS, good], names=["a"], rows=3)).steps) == [0, 1, 2]
    with pytest.raises(CorruptError):
        series.decode(spelled([steps, STEPS, good], names=["a"], rows=3))
    with pytest.raises(CorruptError):
        series.decode(spelled([STEPS, steps, good], names=["a"], rows=3))


@pytest.mark.parametrize(
    "column",
    [
        (series.CONSTANT, b""),
        (series.CONSTANT, bytes(16)),
        (series.PLAIN, compress(bytes(8 * 2))),
        (series.SHUFFLE, compress(bytes(8 * 4))),
        (series.SHUFFLE, b""),
    ],
    ids=str,
)
def test_a_column_of_numbers_that_does_not_fit_is_refused(column: tuple[int, bytes]) -> None:
    with pytest.raises(CorruptError):
        series.decode(spelled([STEPS, STEPS, column], names=["a"], rows=3))


@pytest.mark.parametrize("codec", [6, 99, -1, series.CONSTANT, series.SHUFFLE])
def test_a_codec_that_integers_do_not_have_is_unsupported(codec: int) -> None:
    with pytest.raises(UnsupportedError):
        series.decode(spelled([(codec, compress(bytes(24))), STEPS], names=[], rows=3))


@pytest.mark.parametrize("codec", [6, 99, -1, series.STRIDE, series.DELTA, series.DELTA_SHUFFLE])
def test_a_codec_that_numbers_do_not_have_is_unsupported(codec: int) -> None:
    data = spelled([STEPS, STEPS, (codec, compress(bytes(24)))], names=["a"], rows=3)
    with pytest.raises(UnsupportedError):
        series.decode(data)
    assert series.decode(data, names=[]).names == (), "a column that nobody asks for harms nobody"


def test_a_column_that_inflates_without_end_is_refused_before_it_takes_memory() -> None:
    data = spelled([STEPS, STEPS, (series.PLAIN, compress(bytes(256 << 20), level=1))], names=["a"], rows=3)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptError):
            series.decode(data)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


@pytest.mark.parametrize(
    ("column", "wanted"),
    [
        ([1.0, 3.0, 2.0], Stats(2.0, 1.0, 3.0, 6.0, 3)),
        ([-0.5], Stats(-0.5, -0.5, -0.5, -0.5, 1)),
        ([], Stats(None, None, None, None, 0)),
        ([NAN], Stats({"$f": "nan"}, None, None, None, 0)),
        ([1.0, NAN, 2.0, -INF], Stats({"$f": "-inf"}, 1.0, 2.0, 3.0, 2)),
        ([INF, 4.0], Stats(4.0, 4.0, 4.0, 4.0, 1)),
        ([0.1] * 10, Stats(0.1, 0.1, 0.1, 1.0, 10)),
        ([1e100, 1.0, -1e100], Stats(-1e100, -1e100, 1e100, 1.0, 3)),
    ],
    ids=str,
)
@pytest.mark.parametrize("make", [list[float], lambda column: array("d", column)], ids=["list", "array"])
def test_statistics_are_of_the_finite_points(
    column: list[float], wanted: Stats, make: Callable[[list[float]], list[float]]
) -> None:
    assert series.stats(make(column)) == wanted


@pytest.mark.parametrize("column", [[1e308, 1e308], [1e308, 1e308, NAN], [-1.7e308] * 5 + [INF]], ids=str)
def test_a_sum_that_no_double_can_hold_is_left_out(column: list[float]) -> None:
    found = series.stats(array("d", column))
    finite = [value for value in column if math.isfinite(value)]
    assert (found.least, found.greatest, found.total, found.count) == (min(finite), max(finite), None, len(finite))
    assert encoding.decode(encoding.encode({"stats": found}))


@hypothesis.given(
    rows=st.lists(st.tuples(st.integers(-(2**62), 2**62), st.integers(0, 2**53), st.floats()), min_size=1, max_size=60),
    width=st.integers(2, 20),
)
@hypothesis.example(rows=[(k, 10**15 + k * k, float(k * 7 % 10)) for k in range(60)], width=8)
@hypothesis.example(rows=[(0, 2**52 * (k % 2), NAN) for k in range(60)], width=7)
def test_a_chunk_is_read_thinned_as_it_is_thinned_when_read_whole(
    rows: list[tuple[int, int, float]], width: int
) -> None:
    steps, times, values = (list(column) for column in zip(*rows, strict=True))
    data = series.encode(chunk(steps, times, other=[0.0] * len(rows), loss=values))
    whole = series.decode(data, names=["loss"])
    assert bits(series.decode_thin(data, "loss", width)) == bits(series.thin(whole, width))


def test_thinning_a_name_that_a_chunk_lacks_is_an_error_of_that_chunk() -> None:
    with pytest.raises(CorruptError, match="lacks 'f1'"):
        series.decode_thin(series.encode(SMALL), "f1", 2)


def test_sums_of_differences_that_leave_64_bits_are_an_error_when_thinned_too() -> None:
    grown = compress(struct.pack("<qqq", LARGEST, 1, 1))
    steps = (series.STRIDE, struct.pack("<qq", 0, 1))
    values = (series.CONSTANT, struct.pack("<d", 1.0))
    data = spelled([steps, (series.DELTA, grown), values], names=["loss"], rows=3)
    with pytest.raises(CorruptError, match="out of range"):
        series.decode_thin(data, "loss", 3)
