"""The worked example of the format's page: a whole journal in hex is what the writer writes and the reader reads."""

import re
import zlib
from array import array
from pathlib import Path

from cmf import journal
from cmf.journal import JournalWriter, PointsHeader
from cmf.model import records
from cmf.model.process import Process

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "format.md"
SCOPE = "penguins/train"
ID = "01970000-0000-7000-8000-00000000abcd"
BOOT = "5c1d1b52-6a54-4a45-9d5a-1c7f1f1f2b3c"
PROCESS = Process(host="node-7", boot=BOOT, pid=4711, start=99, uid=1000, space="pid:[4026531836]")
TAGS = {1: "open", 2: "record", 3: "points", 4: "heartbeat", 5: "dropped", 6: "close"}
DRAFT = records.Property(subject=records.execution_node(SCOPE, ID), key="param/lr", value=0.1, t=1_750_000_000_000_000)
HEADER = PointsHeader(SCOPE, ID, "1-0badcafe", 4711, ("accuracy", "loss"), 0, 2)
STEPS, TIMES = array("q", [1, 2]), array("q", [1_750_000_000_250_000, 1_750_000_000_500_000])
COLUMNS = [array("d", [0.5, float("inf")]), array("d", [0.25, -1.0])]


def written(folder: Path) -> Path:
    """Write the journal that the page shows."""
    writer = JournalWriter(folder / "store" / "journal", PROCESS)
    writer.record(SCOPE, DRAFT)
    assert list(writer.points(HEADER, STEPS, TIMES, COLUMNS)) == [2]
    writer.heartbeat(1_750_000_001_000_000)
    writer.dropped(3, "a value")
    writer.close()
    return writer.path


def shown() -> str:
    """Return the block of the page."""
    found = re.search(r"^```hex\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


def dump(data: bytes) -> str:
    """Return a journal as the page shows one: above each frame its offset, tag and payload's size."""
    lines = ["# 0: magic and version", data[:8].hex(" ")]
    at = 8
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "little")
        lines += [
            f"# {at}: {TAGS[data[at + 8]]}, a payload of {size} byte{'s' if size > 1 else ''}",
            data[at : at + 8].hex(" "),
        ]
        payload = data[at + 8 : at + 8 + size]
        lines += [payload[i : i + 24].hex(" ") for i in range(0, size, 24)]
        at += 8 + size
    return "\n".join(lines) + "\n"


def test_the_journal_on_the_page_is_what_is_written(tmp_path: Path) -> None:
    assert shown() == dump(written(tmp_path).read_bytes())


def test_the_journal_on_the_page_reads_as_the_page_says(tmp_path: Path) -> None:
    lines = [line for line in shown().splitlines() if not line.startswith("#")]
    path = tmp_path / "example.j"
    path.write_bytes(bytes.fromhex("".join(lines)))
    found = list(journal.frames(path))
    assert [frame.tag for frame in found] == [1, 2, 3, 4, 5, 6]
    assert found[-1].end == path.stat().st_size
    assert journal.parse_open(found[0].payload) == PROCESS
    scope, draft = journal.parse_record(found[1].payload)
    assert (scope, records.draft(draft)) == (SCOPE, DRAFT)
    header, _ = journal.parse_points_header(found[2].payload)
    assert header == HEADER
    points = journal.parse_points(found[2].payload)
    assert (points.steps, points.times, list(points.columns)) == (STEPS, TIMES, COLUMNS)
    assert int.from_bytes(found[3].payload, "little") == 1_750_000_001_000_000
    assert found[4].payload == b'{"count":3,"first":"a value"}'
    assert found[5].payload == b""


def test_the_page_quotes_each_json_text_of_its_journal(tmp_path: Path) -> None:
    page = PAGE.read_text(encoding="utf-8")
    for frame in journal.frames(written(tmp_path)):
        for text in re.findall(rb"\{.*\}", frame.payload, re.DOTALL):
            assert text.decode() in page


def test_the_checksum_is_the_one_that_the_page_names() -> None:
    assert zlib.crc32(b"123456789") == 0xCBF43926
    assert "CBF43926" in PAGE.read_text(encoding="utf-8")
