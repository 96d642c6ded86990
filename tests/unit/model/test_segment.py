import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from cmf import signing
from cmf.errors import CmfError, CorruptError, UnsupportedError
from cmf.model import digest as digests
from cmf.model import encoding, records, segment
from cmf.model.segment import Genesis, Header, Segment
from cmf.model.zstd import compress, decompress

KEY = signing.Key(b"k" * 32)
SECRET = b"s" * 32
GENESIS = segment.start("penguins/train", "lab-1", KEY, created=5, nonce=b"n" * 16)
UNKNOWN = b'{"kind":"greeting","t":1,"words":[1E5,"hello"]}'


def sealed_record(record: records.Record) -> tuple[bytes, bytes, int | None]:
    id_, data = records.salted(record, SECRET)
    return id_, data, records.time_of(record)


def of_bytes(data: bytes) -> tuple[bytes, bytes, int | None]:
    return digests.sha256(data), data, None


RECORDS = [
    sealed_record(records.Property(subject="scope", key="title", value="penguins", t=40)),
    sealed_record(records.Artifact(digest=digests.EMPTY)),
    sealed_record(records.Property(subject="scope", key="description", value=[1.5, None], t=30)),
]


def seal(
    found: list[tuple[bytes, bytes, int | None]], *, prev: Segment = GENESIS, n: int = 1, signer: signing.Key = KEY
) -> Segment:
    return segment.seal(GENESIS.hash, prev.hash, n, found, signer, now=50)


SEALED = seal(RECORDS)


def header_with(made: Segment, **fields: Any) -> bytes:
    """Return a segment's header with some fields changed, or left out where they are ``...``."""
    value = {**encoding.decode(made.header), **fields}
    return encoding.encode({name: item for name, item in value.items() if item is not ...})


def with_header(made: Segment, **fields: Any) -> Segment:
    """Return a segment whose header was changed and signed again."""
    header = header_with(made, **fields)
    return segment.parse(header, KEY.sign(segment.signing_payload(header)), made.body)


def with_checksum(data: bytes) -> bytes:
    return data + struct.pack("<I", zlib.crc32(data))


def read_in_full(data: bytes) -> list[tuple[bytes, bytes, records.Record | None]]:
    """Read a segment's wire bytes as a store does before it takes them in."""
    found = segment.from_wire(data)
    if not signing.verify(KEY.public, segment.signing_payload(found.header), found.signature):
        raise CorruptError("The signature does not hold.")
    return segment.check_body(found)


@pytest.mark.parametrize("made", [GENESIS, SEALED], ids=["genesis", "sealed"])
def test_what_goes_over_the_wire_arrives(made: Segment) -> None:
    assert segment.from_wire(segment.to_wire(made)) == made


def test_the_header_commits_to_the_records_the_stream_and_the_one_before() -> None:
    fields = SEALED.fields
    assert isinstance(fields, Header)
    assert (SEALED.n, SEALED.stream, fields.prev) == (1, GENESIS.hash, GENESIS.hash.hex())
    assert fields.ids == digests.sha256(b"".join(id_ for id_, _, _ in RECORDS)).hex()
    assert (fields.count, fields.t0, fields.t1, fields.sealed) == (3, 30, 40, 50)
    assert fields.size == sum(5 + len(data) for _, data, _ in RECORDS) == len(decompress(SEALED.body, 1 << 20))
    assert SEALED.hash == digests.sha256(SEALED.header)
    assert isinstance(GENESIS.fields, Genesis)
    assert (GENESIS.n, GENESIS.stream) == (0, GENESIS.hash)


def test_records_come_back_in_their_order_byte_for_byte() -> None:
    found = segment.check_body(SEALED)
    assert [(id_, data) for id_, data, _ in found] == [(id_, data) for id_, data, _ in RECORDS]
    assert [record for _, _, record in found] == [records.read(data) for _, data, _ in RECORDS]
    assert segment.check_body(GENESIS) == []


def test_unknown_kinds_and_fields_survive_byte_for_byte() -> None:
    later = b'{"AAA":[1],"digest":"%b","kind":"artifact","zzz":{"$new":1E5}}' % digests.EMPTY.encode()
    made = segment.from_wire(segment.to_wire(seal([of_bytes(UNKNOWN), of_bytes(later)])))
    unknown, known = segment.check_body(made)
    assert unknown == (digests.sha256(UNKNOWN), UNKNOWN, None)
    assert known == (digests.sha256(later), later, records.Artifact(digest=digests.EMPTY))


def test_an_unknown_field_of_a_header_is_kept() -> None:
    for made in (GENESIS, SEALED):
        found = with_header(made, zz_later={"a": [1]})
        assert b'"zz_later":{"a":[1]}' in found.header
        assert segment.from_wire(segment.to_wire(found)) == found
        assert found.hash != made.hash
        assert segment.records_of(found) == segment.records_of(made)


@pytest.mark.parametrize("made", [GENESIS, SEALED], ids=["genesis", "sealed"])
def test_a_flipped_bit_anywhere_on_the_wire_is_refused(made: Segment) -> None:
    wire = segment.to_wire(made)
    for at in range(len(wire)):
        for bits in (1, 2, 16, 128, 255):
            bad = wire[:at] + bytes([wire[at] ^ bits]) + wire[at + 1 :]
            with pytest.raises((CorruptError, UnsupportedError)):
                read_in_full(bad)


def test_whoever_mends_the_checksum_too_changes_no_record() -> None:
    wire = segment.to_wire(SEALED)[:-4]
    body_at = len(wire) - len(SEALED.body)
    for at in range(len(wire)):
        for bits in (1, 8, 128):
            bad = with_checksum(wire[:at] + bytes([wire[at] ^ bits]) + wire[at + 1 :])
            try:
                found = read_in_full(bad)
            except (CorruptError, UnsupportedError):
                continue
            # Some bits of zstd's own mean nothing; what they hold is the same.
            assert at >= body_at
            assert found == segment.check_body(SEALED)


@pytest.mark.parametrize("made", [GENESIS, SEALED], ids=["genesis", "sealed"])
def test_a_segment_cut_at_any_byte_is_refused_with_any_checksum(made: Segment) -> None:
    wire = segment.to_wire(made)
    for end in range(len(wire)):
        with pytest.raises(CorruptError):
            segment.from_wire(wire[:end])
        if end < len(wire) - 4:
            with pytest.raises(CorruptError):
                read_in_full(with_checksum(wire[:end]))


def test_bytes_after_a_segment_are_refused() -> None:
    for made in (GENESIS, SEALED):
        with pytest.raises(CorruptError):
            segment.from_wire(segment.to_wire(made) + b"\0")
        with pytest.raises(CorruptError):
            read_in_full(with_checksum(segment.to_wire(made)[:-4] + b"\0"))


def test_a_segment_signed_by_another_key_or_for_another_header_does_not_hold() -> None:
    foreign = seal(RECORDS, signer=signing.Key(b"x" * 32))
    assert foreign.hash == SEALED.hash, "what is signed is the same"
    payload = segment.signing_payload(SEALED.header)
    assert signing.verify(KEY.public, payload, SEALED.signature)
    assert not signing.verify(KEY.public, payload, foreign.signature)
    assert not signing.verify(KEY.public, payload, GENESIS.signature)
    assert not signing.verify(KEY.public, SEALED.header, SEALED.signature), "the payload's type is signed with it"


@pytest.mark.parametrize("made", [GENESIS, SEALED], ids=["genesis", "sealed"])
@pytest.mark.parametrize("version", [2, 3, 2**53])
def test_a_newer_version_is_unsupported_whatever_else_it_says(made: Segment, version: int) -> None:
    for fields in ({}, {"count": ..., "scope": 5, "stream": "otherwise"}):
        with pytest.raises(UnsupportedError) as caught:
            segment.parse(header_with(made, v=version, **fields), made.signature, made.body)
        assert caught.value.kind == "newer-format"


WRONG_GENESIS: list[dict[str, Any]] = [
    {"alg": "rsa"},
    {"alg": ...},
    {"created": ...},
    {"created": "now"},
    {"nonce": "n" * 32},
    {"nonce": "00" * 15},
    {"nonce": "00" * 17},
    {"scope": "train"},
    {"scope": "a/../b"},
    {"scope": "a/b\n"},
    {"site": ""},
    {"site": "Lab 1"},
    {"site": "a" * 65},
    {"v": ...},
    {"v": "1"},
    {"v": True},
    {"writer": KEY.public.hex().upper()},
    {"writer": KEY.public.hex()[:-2]},
    {"n": 1},
    {"n": ...},
    {"n": False},
]


@pytest.mark.parametrize("fields", WRONG_GENESIS, ids=str)
def test_a_first_header_with_a_wrong_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        segment.parse(header_with(GENESIS, **fields), GENESIS.signature, b"")


WRONG_HEADER: list[dict[str, Any]] = [
    {"count": 0},
    {"count": -1},
    {"count": segment.RECORDS_MAX + 1},
    {"count": ...},
    {"count": 1.5},
    {"ids": "00" * 31},
    {"ids": "G0" * 32},
    {"n": -1},
    {"n": 0},
    {"n": ...},
    {"n": None},
    {"prev": GENESIS.hash.hex() + "\n"},
    {"prev": ...},
    {"sealed": ...},
    {"size": 0},
    {"size": segment.SIZE_BYTES_MAX + 1},
    {"stream": GENESIS.hash.hex().upper()},
    {"stream": ...},
    {"t0": "30"},
    {"v": ...},
    {"v": None},
]


@pytest.mark.parametrize("fields", WRONG_HEADER, ids=str)
def test_a_later_header_with_a_wrong_field_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CorruptError):
        segment.parse(header_with(SEALED, **fields), SEALED.signature, SEALED.body)


@pytest.mark.parametrize(
    "spell",
    [
        lambda header: header.replace(b":", b": ", 1),
        lambda header: header[:-1] + b',"v":1}',
        lambda header: header.replace(b"train", b"tr\\u0061in").replace(b'"prev"', b'"pr\\u0065v"'),
        lambda header: header + b"\n",
        lambda header: b"[" + header + b"]",
        lambda header: header[:-1] + b',"zz":"' + b"x" * segment.HEADER_BYTES_MAX + b'"}',
    ],
    ids=["white space", "a key twice", "escaped", "a line feed", "in a list", "over the limit"],
)
def test_a_header_outside_the_profile_is_refused(spell: Callable[[bytes], bytes]) -> None:
    for made in (GENESIS, SEALED):
        header = spell(made.header)
        assert header != made.header
        with pytest.raises(CorruptError):
            segment.parse(header, made.signature, made.body)


def test_a_thousand_records_are_a_segment_and_one_more_is_refused() -> None:
    found = [
        sealed_record(records.Property(subject="scope", key=f"note-{k}", value="x" * (k % 7), t=k))
        for k in range(segment.RECORDS_MAX + 1)
    ]
    made = segment.from_wire(segment.to_wire(seal(found[:-1])))
    assert [id_ for id_, _, _ in segment.check_body(made)] == [id_ for id_, _, _ in found[:-1]]
    with pytest.raises(CorruptError) as caught:
        segment.from_wire(segment.to_wire(seal(found)))
    assert caught.value.kind == "limit"


def test_a_mebibyte_of_records_is_a_segment_and_more_is_refused() -> None:
    value = "x" * (encoding.RECORD_BYTES_MAX - 200)
    found = [sealed_record(records.Property(subject="scope", key="k", value=value, t=k)) for k in range(17)]
    assert len(segment.check_body(segment.from_wire(segment.to_wire(seal(found[:16]))))) == 16
    with pytest.raises(CorruptError) as caught:
        segment.from_wire(segment.to_wire(seal(found)))
    assert caught.value.kind == "limit"


def test_wire_bytes_over_the_limit_are_refused_unread() -> None:
    for data in (bytes(segment.WIRE_BYTES_MAX + 1), with_checksum(b"\xff\xff" + bytes(100))):
        with pytest.raises(CorruptError) as caught:
            segment.from_wire(data)
        assert caught.value.kind == "limit"


def test_a_body_that_inflates_to_more_than_the_header_says_is_refused() -> None:
    bomb = segment.parse(SEALED.header, SEALED.signature, compress(bytes(64 << 20)))
    with pytest.raises(CorruptError) as caught:
        segment.records_of(bomb)
    assert caught.value.kind == "limit"


def body_of(*frames: tuple[int, bytes]) -> bytes:
    return b"".join(struct.pack("<BI", tag, len(data)) + data for tag, data in frames)


FIRST, SECOND, THIRD = (data for _, data, _ in RECORDS)


@pytest.mark.parametrize(
    "inner",
    [
        b"",
        body_of((0, FIRST), (0, SECOND)),
        body_of((0, FIRST), (0, SECOND), (0, THIRD), (0, SECOND)),
        body_of((0, FIRST), (0, THIRD), (0, SECOND)),
        body_of((0, FIRST), (0, SECOND), (0, SECOND)),
        body_of((0, FIRST), (0, SECOND), (0, THIRD))[:-1],
        body_of((0, FIRST), (0, SECOND), (0, THIRD)) + b"\0",
        body_of((0, FIRST), (0, SECOND), (0, THIRD)) + body_of((0, b"")),
        body_of((0, FIRST), (0, SECOND + b" "), (0, THIRD)),
        body_of((0, FIRST), (0, SECOND)) + struct.pack("<BI", 0, 2**32 - 1) + THIRD,
        body_of((0, FIRST + SECOND), (0, THIRD)),
    ],
    ids=[
        "no records",
        "one lacks",
        "one too many",
        "another order",
        "another record",
        "cut short",
        "followed by a byte",
        "followed by an empty record",
        "white space",
        "a huge length",
        "two in one frame",
    ],
)
def test_a_body_that_is_not_what_the_header_names_is_refused_though_its_size_fits(inner: bytes) -> None:
    for made in (SEALED, with_header(SEALED, size=max(1, len(inner)))):
        with pytest.raises(CorruptError):
            segment.check_body(segment.parse(made.header, made.signature, compress(inner)))


def test_a_frame_of_a_kind_to_come_is_unsupported() -> None:
    inner = body_of((0, FIRST), (9, SECOND), (0, THIRD))
    with pytest.raises(UnsupportedError):
        segment.records_of(segment.parse(SEALED.header, SEALED.signature, compress(inner)))


def test_a_first_segment_has_no_body() -> None:
    for body in (b"x", compress(b""), SEALED.body):
        with pytest.raises(CorruptError):
            segment.records_of(segment.parse(GENESIS.header, GENESIS.signature, body))


@pytest.mark.parametrize(
    "data",
    [
        b'{"digest":"sha256:x","kind":"artifact"}',
        b'{"kind":"artifact"}',
        b"{}",
        b"not JSON",
        b'{"kind": "greeting"}',
        b'{"kind":"greeting","x":NaN}',
        b'{"kind":"greeting","x":"' + b"x" * encoding.RECORD_BYTES_MAX + b'"}',
    ],
    ids=["no digest", "no field", "no kind", "no JSON", "white space", "NaN", "over the limit"],
)
def test_a_well_signed_segment_with_a_record_outside_the_format_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        segment.check_body(seal([*RECORDS, of_bytes(data)]))


@pytest.mark.parametrize(
    "times", [{"t0": 29}, {"t0": 31}, {"t1": 39}, {"t1": 41}, {"t0": ...}, {"t1": None}, {"t0": 40, "t1": 30}], ids=str
)
def test_times_that_are_not_those_of_the_records_are_refused(times: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match="times"):
        segment.check_body(with_header(SEALED, **times))


def test_records_without_times_have_none_in_the_header() -> None:
    timeless = seal([RECORDS[1]])
    assert b'"t0"' not in timeless.header
    assert b'"t1"' not in timeless.header
    assert len(segment.check_body(timeless)) == 1
    for times in ({"t0": 1, "t1": 1}, {"t0": 0}, {"t1": 0}):
        with pytest.raises(CorruptError, match="times"):
            segment.check_body(with_header(timeless, **times))


def test_the_time_of_an_unknown_kind_may_widen_the_times() -> None:
    id_, data, _ = of_bytes(UNKNOWN)
    made = seal([*RECORDS, (id_, data, 99)])
    assert isinstance(made.fields, Header)
    assert (made.fields.t0, made.fields.t1) == (30, 99)
    assert len(segment.check_body(made)) == 4


def test_resealed_records_keep_their_ids() -> None:
    stream = segment.start("penguins/train", "lab-2", KEY, created=6, nonce=b"m" * 16)
    again = segment.seal(stream.hash, stream.hash, 1, RECORDS, KEY, now=60)
    assert again.stream != SEALED.stream
    assert segment.check_body(again) == segment.check_body(SEALED)


def test_the_nonce_alone_tells_two_streams_apart() -> None:
    made = [segment.start("a/b", "lab-1", KEY, created=5, nonce=bytes([k]) * 16) for k in range(2)]
    assert made[0].stream != made[1].stream


def test_every_refusal_is_an_error_of_ours() -> None:
    for data in (b"", b"\0", bytes(70), with_checksum(bytes(66)), with_checksum(b"\2\0{}" + bytes(64))):
        with pytest.raises(CmfError):
            segment.from_wire(data)
