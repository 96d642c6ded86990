import hmac
import math
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from cmf import journal, signing
from cmf.errors import CmfError, CorruptError
from cmf.hub import cursors
from cmf.model import digest as digests
from cmf.model import encoding, log, records, segment, series, wire
from cmf.model.series import Chunk
from cmf.objects import manifest
from cmf.objects.local import LocalObjects

# Text with the letters where orders differ: the end of the first plane against pairs of surrogates.
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.text(st.sampled_from("$a\0\x7f\xff\ud7ff\ue000\uffff\U00010000\U0010ffff"), max_size=4),
)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([2**53, 2**53 + 1, -(2**53), -(2**53) - 1, 2**64]))
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXT, st.binary(max_size=8))
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4))
SHALLOW = VALUES.filter(lambda value: depth_of(value) <= encoding.DEPTH_MAX - 5)
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**53), 2**53),
        st.floats(allow_nan=False, allow_infinity=False),
        TEXT,
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
).filter(lambda value: depth_of(value) < encoding.DEPTH_MAX)
INT64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-5, 5), st.sampled_from([2**63 - 1, -(2**63)]))

KEY = signing.Key(b"k" * 32)
ID = "01970000-0000-7000-8000-00000000abcd"


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


def same(left: Any, right: Any) -> bool:
    """Tell whether two values are one to the bit: NaN is itself, 1 is not 1.0 and not True, 0.0 is not -0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    return bool(left == right)


# ---- the encoding profile ----------------------------------------------------------------------------------------


@given(SHALLOW)
def test_any_value_comes_back_from_a_record_as_it_was(value: Any) -> None:
    data = encoding.encode({"value": encoding.to_value(value)})
    assert same(encoding.from_value(encoding.decode(data)["value"]), value)


@given(VALUES)
def test_whatever_is_recorded_lies_inside_the_profile(value: Any) -> None:
    data = encoding.encode({"params": {"name": encoding.to_value(value)}})
    assert encoding.encode(encoding.decode(data)) == data


@given(st.dictionaries(TEXT, PLAIN, max_size=6))
def test_what_is_decoded_is_what_was_encoded(value: dict[str, Any]) -> None:
    data = encoding.encode(value)
    assert same(encoding.decode(data), value)


@given(st.dictionaries(TEXT, PLAIN, min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_there_is_one_spelling_whatever_the_order_of_the_keys(value: dict[str, Any], random: Any) -> None:
    keys = list(value)
    random.shuffle(keys)
    data = encoding.encode(value)
    assert encoding.encode({key: value[key] for key in keys}) == data
    spelled = [key.encode() for key in encoding.decode(data)]
    assert spelled == sorted(spelled)


@given(st.lists(TEXT, min_size=2, max_size=6, unique=True))
def test_only_the_order_of_the_utf8_bytes_is_read(keys: list[str]) -> None:
    def spell(chosen: list[str]) -> bytes:
        return b"{" + b",".join(encoding.encode(key) + b":1E5" for key in chosen) + b"}"

    ordered = sorted(keys, key=str.encode)
    assert list(encoding.decode(spell(ordered))) == ordered
    if keys != ordered:
        with pytest.raises(CorruptError):
            encoding.decode(spell(keys))


@given(st.dictionaries(TEXT, PLAIN, min_size=1, max_size=4), st.data())
def test_changed_bytes_are_refused_or_spell_another_value(value: dict[str, Any], data: st.DataObject) -> None:
    good = encoding.encode(value)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + data.draw(st.binary(max_size=2)) + good[at + data.draw(st.integers(0, 1)) :]
    assume(bad != good)
    try:
        found = encoding.decode(bad)
    except CorruptError:
        return
    if same(found, value):
        digits = b"0123456789eE+-."
        assert bad.translate(None, digits) == good.translate(None, digits), "only a number may be spelled otherwise"


@given(st.text(max_size=40))
def test_a_suggested_scope_is_a_scope(text: str) -> None:
    if records.is_scope(text):
        assert records.check_scope(text) == text
        return
    with pytest.raises(CmfError) as caught:
        records.check_scope(text)
    assert records.is_scope(caught.value.hint.removeprefix("Try '").removesuffix("'."))


@given(st.binary(min_size=32, max_size=32), st.booleans())
def test_a_packed_digest_is_the_same_digest(raw: bytes, tree: bool) -> None:
    text = (digests.TREE if tree else digests.FILE) + raw.hex()
    assert digests.unpack(digests.pack(text)) == text
    assert len(digests.pack(text)) == 33


# ---- segments ----------------------------------------------------------------------------------------------------

ITEMS = st.builds(
    records.Property,
    subject=st.just("scope"),
    key=TEXT.filter(bool),
    value=SHALLOW.map(encoding.to_value),
    t=st.integers(0, 2**53),
)


@given(st.lists(ITEMS, min_size=1, max_size=6))
def test_sealed_records_arrive_over_the_wire_byte_for_byte(found: list[records.Property]) -> None:
    genesis = segment.start("a/b", "site", KEY, created=1, nonce=bytes(16))
    salted = [(*records.salted(record, b"secret"), record.t) for record in found]
    made = segment.from_wire(segment.to_wire(segment.seal(genesis.hash, genesis.hash, 1, salted, KEY, now=2)))
    assert [(id_, data) for id_, data, _ in segment.check_body(made)] == [(id_, data) for id_, data, _ in salted]
    assert signing.verify(KEY.public, segment.signing_payload(made.header), made.signature)


# ---- the salt ----------------------------------------------------------------------------------------------------

NAMES = TEXT | st.sampled_from([',"size":', ',"subject":', ',"t":1', ',"to":"', ',"started":', "\\", '"', ',"salt":""'])
FREE = st.dictionaries(NAMES, SHALLOW.map(encoding.to_value) | NAMES | st.dictionaries(NAMES, NAMES), max_size=3)
NATURAL = st.integers(0, 2**53)
DRAFTS = st.one_of(
    ITEMS,
    st.builds(records.Property, subject=NAMES, key=NAMES, value=FREE, t=NATURAL),
    st.builds(records.Link, source=NAMES, rel=NAMES, to=NAMES),
    st.builds(
        records.Event,
        execution=NAMES,
        direction=st.sampled_from(["input", "output"]),
        artifact=NAMES,
        path=NAMES | st.dictionaries(st.just("$b"), NAMES, min_size=1),
        type=NAMES,
        role=NAMES,
        name=NAMES,
        size=st.none() | NATURAL,
        attributes=FREE,
        t=NATURAL,
    ),
    st.builds(
        records.Execution,
        id=NAMES,
        name=NAMES,
        command=st.lists(NAMES, max_size=3),
        started=NATURAL,
        params=FREE,
        parent=NAMES,
        author=NAMES,
    ),
    st.builds(
        records.Series,
        execution=NAMES,
        names=st.lists(NAMES, max_size=3),
        attempt=NAMES,
        rank=NATURAL,
        first=NATURAL,
        rows=NATURAL,
        steps=st.tuples(NATURAL, NATURAL),
        times=st.tuples(NATURAL, NATURAL),
        object=NAMES,
        size=NATURAL,
        stats=st.lists(st.builds(records.Stats, SHALLOW.map(encoding.to_value), *[st.none()] * 3, NATURAL), max_size=2),
    ),
)


@given(DRAFTS, st.binary(max_size=80))
def test_a_salted_record_is_spelled_as_one_that_is_encoded_with_its_salt(draft: records.Record, secret: bytes) -> None:
    salt = hmac.digest(secret, encoding.encode(draft), "sha256")[: records.SALT_BYTES].hex()
    id_, data = records.salted(draft, secret)
    assert data == encoding.encode(draft) == encoding.encode({**msgspec.json.decode(data), "salt": salt})
    assert id_ == digests.sha256(data)


# ---- series ------------------------------------------------------------------------------------------------------


@st.composite
def chunks(draw: st.DrawFn) -> Chunk:
    rows = draw(st.integers(1, 30))
    names = draw(st.lists(TEXT, max_size=3, unique=True))

    def column(items: st.SearchStrategy[Any]) -> list[Any]:
        return draw(st.lists(items, min_size=rows, max_size=rows) | items.map(lambda item: [item] * rows))

    first, stride = draw(st.integers(-(2**62), 2**62)), draw(st.integers(-(2**56), 2**56))
    steps = draw(st.sampled_from([column(INT64), [first + k * stride for k in range(rows)]]))
    columns = tuple(array("d", column(st.floats())) for _ in names)
    return Chunk(tuple(names), array("q", steps), array("q", column(INT64)), columns)


@given(chunks())
def test_any_chunk_comes_back_to_the_bit(made: Chunk) -> None:
    found = series.decode(series.encode(made))
    assert (found.names, found.steps, found.times) == (made.names, made.steps, made.times)
    assert [column.tobytes() for column in found.columns] == [column.tobytes() for column in made.columns]


@given(chunks(), st.data())
def test_a_changed_chunk_is_refused_or_read_in_its_own_shape(made: Chunk, data: st.DataObject) -> None:
    good = series.encode(made)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]
    try:
        found = series.decode(bad)
    except CmfError:
        return
    assert len(found.names) == len(made.names)
    assert {len(found.steps), len(found.times), *map(len, found.columns)} == {len(found.steps)}


@given(st.lists(st.floats() | st.sampled_from([1.7e308, -1.7e308]), max_size=20))
def test_the_statistics_of_any_points_can_be_recorded(column: list[float]) -> None:
    found = series.stats(column)
    finite = [value for value in column if math.isfinite(value)]
    assert found.count == len(finite)
    assert (found.least, found.greatest) == ((min(finite), max(finite)) if finite else (None, None))
    assert found.total is None or math.isfinite(found.total)
    assert (found.last is None) == (not column)
    encoding.decode(encoding.encode({"stats": found}))


# ---- what strangers send -----------------------------------------------------------------------------------------

GENESIS = segment.start("a/b", "site", KEY, created=1, nonce=bytes(16))
ARTIFACT = records.salted(records.Artifact(digest=digests.EMPTY), b"")
SEALED = segment.seal(GENESIS.hash, GENESIS.hash, 1, [(*ARTIFACT, None)], KEY, now=2)
POINTS = journal.PointsHeader("a/b", ID, "1-0badcafe", 0, ("a",), 0, 1)

SEEDS: dict[str, bytes] = {
    "nothing": b"",
    "record": ARTIFACT[1],
    "header": SEALED.header,
    "genesis": GENESIS.header,
    "wire": segment.to_wire(SEALED),
    "chunk": series.encode(Chunk(("a",), array("q", [1]), array("q", [2]), (array("d", [3.0]),))),
    "points": len(encoding.encode(POINTS)).to_bytes(2, "little") + encoding.encode(POINTS) + bytes(24),
    "record frame": b"\x03\x00a/b" + ARTIFACT[1],
    "process": b'{"boot":"b","host":"h","pid":1,"start":2,"uid":3,"v":1}',
    "text": b'{"a":"\\ud800","b":"\xff"}',
    "small object": wire.from_small(wire.Small(digests.EMPTY, b"bytes")),
    "frames": wire.frame(wire.SEGMENT, b"x") + wire.frame(wire.END, b'{"count":1}'),
    "checkpoint": log.sign(log.Checkpoint(KEY.public.hex(), 0, log.EMPTY_ROOT), KEY).encode(),
    "cursor": cursors.to_text(cursors.Cursor(3, bytes(32), "0" * 32)).encode(),
    "manifest": manifest.encode([manifest.Entry("a/b", digests.EMPTY, 0)]),
}

DECODERS: dict[str, Callable[[bytes], object]] = {
    "encoding.decode": encoding.decode,
    "records.read": records.read,
    "records.draft": records.draft,
    "segment.from_wire": segment.from_wire,
    "segment.parse": lambda data: segment.parse(data, bytes(64), b""),
    "segment.check_body": lambda data: segment.check_body(
        segment.Segment(hash=bytes(32), header=b"", signature=b"", body=data, fields=SEALED.fields)
    ),
    "series.decode": series.decode,
    "wire.frames": lambda data: list(wire.frames(data)),
    "wire.decode": lambda data: wire.decode(data, wire.Asked),
    "journal.parse_open": journal.parse_open,
    "journal.parse_record": journal.parse_record,
    "journal.parse_points_header": journal.parse_points_header,
    "journal.parse_points": journal.parse_points,
    "digest.unpack": digests.unpack,
    "wire.to_small": wire.to_small,
    "wire.to_heads": lambda data: wire.to_heads([(1, data.decode("latin-1"))]),
    "log.read": lambda data: log.read(data.decode("latin-1"), KEY.public.hex(), signing.verify),
    "cursors.from_text": lambda data: cursors.from_text(data.decode("latin-1")),
    "manifest.decode": manifest.decode,
}


@st.composite
def strange_bytes(draw: st.DrawFn) -> bytes:
    """Return any bytes, or good ones of some format that were cut, changed or added to."""
    data = draw(st.sampled_from(list(SEEDS.values())))
    for _ in range(draw(st.integers(0, 3))):
        at, end = sorted(draw(st.tuples(*[st.integers(0, len(data))] * 2)))
        data = (
            data[:at] + draw(st.binary(max_size=8)) + data[draw(st.sampled_from([at, min(at + 1, len(data)), end])) :]
        )
    return data


@pytest.mark.parametrize("name", DECODERS)
@given(data=strange_bytes())
@example(data=b'{"host":"\xff"}')
@example(data=b"\x01\x00\xff")
@example(data=b'\x0e\x00{"scope":"\xff"}')
@example(data=b'{"a":' + b"[" * 60_000)
@example(data=b'\xff\xff{"a":' + b"[" * 65_530)
def test_strange_bytes_are_read_or_refused_with_an_error_of_ours(name: str, data: bytes) -> None:
    with suppress(CmfError):
        DECODERS[name](data)


@given(data=strange_bytes(), magic=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_file_of_strange_bytes_is_read_as_a_journal_or_refused(tmp_path: Path, data: bytes, magic: bool) -> None:
    path = tmp_path / "strange.j"
    path.write_bytes(journal.MAGIC * magic + data)
    with suppress(CmfError):
        for frame in journal.frames(path):
            assert frame.end <= path.stat().st_size


@given(
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 255)), min_size=1, max_size=3), cut=st.booleans()
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=30)
def test_an_object_in_a_changed_pack_is_what_it_was_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: bool
) -> None:
    folder = tmp_path_factory.mktemp("objects")
    held = {digests.file_digest(data): data for data in (b"%d" % n * 50 for n in range(5))}
    made = LocalObjects(folder)
    for digest, data in held.items():
        made.put(digest, data)
    made.close()
    for path in folder.glob("packs/**/*"):
        if path.is_file():
            bytes_ = bytearray(path.read_bytes())
            for at, change in changes:
                bytes_[at % len(bytes_)] ^= change
            path.chmod(0o644)
            path.write_bytes(bytes_[: changes[0][0] % len(bytes_)] if cut else bytes_)
    for digest, expected in held.items():
        with suppress(CmfError):
            changed = LocalObjects(folder)
            changed.check(digest)
            with changed.open(digest) as file:
                assert file.read() == expected
