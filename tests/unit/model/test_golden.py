"""The formats against vectors that never change: another spelling of one byte would be another fact."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmf import journal, signing
from cmf.model import digest as digests
from cmf.model import encoding, records, segment, series
from cmf.objects import manifest
from tests.golden import make

GOLDEN: dict[str, Any] = msgspec.json.decode(make.PATH.read_bytes())
TODAY = make.vectors()


def stored(name: str) -> segment.Segment:
    return segment.from_wire(bytes.fromhex(GOLDEN["segments"][name]["wire"]))


@pytest.mark.parametrize("what", ["seed", "public", "secret", "values", "manifest", "journal"])
def test_what_is_written_today_is_what_was_always_written(what: str) -> None:
    assert TODAY[what] == GOLDEN[what]


@pytest.mark.parametrize("name", TODAY["records"])
def test_a_record_has_the_bytes_salt_and_id_that_it_always_had(name: str) -> None:
    assert TODAY["records"][name] == GOLDEN["records"][name]


def test_there_is_a_vector_of_every_kind_and_of_one_to_come() -> None:
    read = [records.read(vector["bytes"].encode()) for vector in GOLDEN["records"].values()]
    assert {record.kind for record in read if record is not None} == records.KINDS
    assert None in read
    assert TODAY["records"].keys() == GOLDEN["records"].keys()


@pytest.mark.parametrize("name", GOLDEN["records"])
def test_a_stored_record_is_read_and_spelled_in_the_same_way_again(name: str) -> None:
    vector = GOLDEN["records"][name]
    data = vector["bytes"].encode()
    assert digests.sha256(data).hex() == vector["id"]
    assert encoding.encode(encoding.decode(data)) == data
    record = records.read(data)
    if record is not None:
        assert records.encode(record) == data
        assert records.salted(record, bytes.fromhex(GOLDEN["secret"])) == (bytes.fromhex(vector["id"]), data)


def test_tagged_values_are_read_as_what_they_were() -> None:
    found = encoding.from_value(encoding.decode(GOLDEN["values"].encode()))
    assert repr(found["not finite"]) == "[nan, inf, -inf]"
    assert found["large integers"] == [2**53 + 1, -(2**53) - 1, 10**40]
    assert found["bytes"] == b"\x00\xff\xfe"
    assert found["$keys"] == {"$f": "nan", "$$": 1, "$object": "not one"}
    assert found["nested"] == [[], {}, [[{"deep": [1, 2]}]]]
    assert found["text"] == make.VALUES["text"]


@pytest.mark.parametrize("name", ["genesis", "following"])
@pytest.mark.parametrize("part", ["header", "hash", "stream", "payload", "signature"])
def test_a_segment_is_sealed_and_signed_as_it_always_was(name: str, part: str) -> None:
    assert TODAY["segments"][name][part] == GOLDEN["segments"][name][part]


@pytest.mark.parametrize("name", ["genesis", "following"])
def test_a_stored_segment_is_read_and_its_signature_holds(name: str) -> None:
    vector, found = GOLDEN["segments"][name], stored(name)
    assert found.header == vector["header"].encode()
    assert found.hash.hex() == vector["hash"] == digests.sha256(found.header).hex()
    assert found.stream.hex() == vector["stream"]
    assert found.signature.hex() == vector["signature"]
    payload = segment.signing_payload(found.header)
    assert payload.hex() == vector["payload"]
    assert signing.verify(bytes.fromhex(GOLDEN["public"]), payload, found.signature)
    assert segment.to_wire(found).hex() == vector["wire"]


def test_a_stored_segment_holds_the_stored_records_in_their_order() -> None:
    found = [(id_.hex(), data.decode()) for id_, data, _ in segment.check_body(stored("following"))]
    assert found == [(vector["id"], vector["bytes"]) for vector in GOLDEN["records"].values()]
    assert segment.check_body(stored("genesis")) == []


def test_the_signed_payload_is_the_dsse_encoding_spelled_out() -> None:
    header = GOLDEN["segments"]["genesis"]["header"]
    spelled = f"DSSEv1 30 application/vnd.cmf.segment.v1 {len(header)} {header}"
    assert bytes.fromhex(GOLDEN["segments"]["genesis"]["payload"]) == spelled.encode()


def test_a_stored_chunk_gives_the_same_columns_to_the_bit() -> None:
    found, wanted = series.decode(bytes.fromhex(GOLDEN["chunk"])), make.chunk()
    assert (found.names, found.steps, found.times) == (wanted.names, wanted.steps, wanted.times)
    assert [column.tobytes() for column in found.columns] == [column.tobytes() for column in wanted.columns]


def test_a_stored_manifest_gives_the_same_files() -> None:
    data = GOLDEN["manifest"]["bytes"].encode()
    assert manifest.decode(data) == sorted(make.entries(), key=lambda entry: manifest.raw_path(entry.path))
    assert manifest.tree_digest(data) == GOLDEN["manifest"]["digest"]


def test_a_stored_journal_gives_the_same_frames(tmp_path: Path) -> None:
    path = tmp_path / "journal.j"
    path.write_bytes(bytes.fromhex(GOLDEN["journal"]))
    opened, record, points, heartbeat, dropped, closed = journal.frames(path)
    assert (opened.tag, journal.parse_open(opened.payload)) == (journal.OPEN, make.PROCESS)
    assert record.tag == journal.RECORD
    scope, draft = journal.parse_record(record.payload)
    assert (scope, records.draft(draft)) == (make.SCOPE, make.drafts()["property"])
    assert (points.tag, journal.parse_points_header(points.payload)[0]) == (journal.POINTS, make.POINTS)
    columns = journal.parse_points(points.payload)
    assert (columns.steps, columns.times) == (make.chunk().steps, make.chunk().times)
    assert [column.tobytes() for column in columns.columns] == [column.tobytes() for column in make.chunk().columns]
    assert (heartbeat.tag, int.from_bytes(heartbeat.payload, "little")) == (journal.HEARTBEAT, make.NOW + 1_000_000)
    assert dropped.tag == journal.DROPPED
    assert encoding.decode(dropped.payload) == {"count": 2, "first": "a value that could not be kept"}
    assert (closed.tag, closed.payload, closed.end) == (journal.CLOSE, b"", path.stat().st_size)
