import os
import struct
import subprocess
import sys
import zlib
from array import array
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from cmf import journal
from cmf.errors import CorruptError, UnsupportedError
from cmf.journal import Frame, JournalWriter, PointsHeader
from cmf.model import encoding, records
from cmf.model.process import Process

SCOPE = "penguins/train"
ID = "01970000-0000-7000-8000-00000000abcd"
PROCESS = Process(host="node-7", boot="b007", pid=4711, start=99, uid=1000)
DRAFT = records.Property(subject="scope", key="title", value="ä penguin", t=5)
WHOLE = [
    journal.OPEN,
    journal.RECORD,
    journal.POINTS,
    journal.HEARTBEAT,
    journal.DROPPED,
    journal.RECORD,
    journal.CLOSE,
]


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[JournalWriter]:
    made = JournalWriter(tmp_path / "store" / "journals", PROCESS)
    yield made
    made.abandon()


def header(names: int, rows: int, *, first: int = 0) -> PointsHeader:
    return PointsHeader(SCOPE, ID, "1-0badcafe", 0, tuple(f"name-{k:04}" for k in range(names)), first, rows)


def write_points(writer: JournalWriter, names: int, rows: int, *, first: int = 0) -> None:
    """Write rows whose every cell tells where it belongs."""
    steps = array("q", range(first, first + rows))
    times = array("q", (10 * step for step in steps))
    columns = [array("d", (step + name / 2048 for step in steps)) for name in range(names)]
    assert sum(writer.points(header(names, rows, first=first), steps, times, columns)) == rows


@pytest.fixture
def whole(writer: JournalWriter) -> Path:
    """Return a journal with frames of every kind."""
    writer.record(SCOPE, DRAFT)
    write_points(writer, 2, 3)
    writer.heartbeat(1_750_000_000_000_000)
    writer.dropped(3, "a value")
    writer.record("a/b", records.Artifact(digest="sha256:" + "0" * 64))
    writer.close()
    return writer.path


def tags(path: Path, offset: int = 0) -> list[int]:
    return [frame.tag for frame in journal.frames(path, offset)]


def framed(payload: bytes) -> bytes:
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def test_every_frame_comes_back(whole: Path) -> None:
    assert tags(whole) == WHOLE
    opened, record, points, heartbeat, dropped, other, closed = journal.frames(whole)
    assert journal.parse_open(opened.payload) == PROCESS
    assert journal.parse_record(record.payload) == (SCOPE, records.encode(DRAFT))
    assert journal.parse_points_header(points.payload)[0] == header(2, 3)
    found = journal.parse_points(points.payload)
    assert (list(found.steps), list(found.times)) == ([0, 1, 2], [0, 10, 20])
    assert [list(column) for column in found.columns] == [[0.0, 1.0, 2.0], [1 / 2048, 1 + 1 / 2048, 2 + 1 / 2048]]
    assert int.from_bytes(heartbeat.payload, "little") == 1_750_000_000_000_000
    assert encoding.decode(dropped.payload) == {"count": 3, "first": "a value"}
    assert journal.parse_record(other.payload)[0] == "a/b"
    assert closed == Frame(whole.stat().st_size, journal.CLOSE, b"")


def test_a_journal_lies_in_a_folder_that_git_ignores_under_a_name_that_no_other_has(tmp_path: Path) -> None:
    folder = tmp_path / "store" / "journals"
    made = [JournalWriter(folder, PROCESS) for _ in range(3)]
    strange = JournalWriter(folder, Process(host="../../höst name", boot="b", pid=1, start=2, uid=3))
    assert len({writer.path for writer in made}) == 3
    assert {writer.path.parent for writer in [*made, strange]} == {folder}
    assert sorted(folder.iterdir()) == sorted(writer.path for writer in [*made, strange])
    assert all(writer.path.name.startswith("node-7-4711-99-") and writer.path.suffix == ".j" for writer in made)
    assert (tmp_path / "store" / ".gitignore").read_text() == "*\n"
    for writer in [*made, strange]:
        writer.close()


def test_a_rule_of_the_user_for_git_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("mine")
    JournalWriter(tmp_path / "journals", PROCESS).close()
    assert (tmp_path / ".gitignore").read_text() == "mine"


def test_a_journal_torn_at_any_byte_gives_the_whole_frames_before(whole: Path, tmp_path: Path) -> None:
    data, every = whole.read_bytes(), list(journal.frames(whole))
    torn = tmp_path / "torn.j"
    for end in range(len(data) + 1):
        torn.write_bytes(data[:end])
        assert list(journal.frames(torn)) == [frame for frame in every if frame.end <= end]


def test_a_flipped_bit_ends_the_journal_before_its_frame(whole: Path, tmp_path: Path) -> None:
    data, every = whole.read_bytes(), list(journal.frames(whole))
    flipped = tmp_path / "flipped.j"
    for at in range(len(journal.MAGIC), len(data)):
        for bits in (1, 128):
            flipped.write_bytes(data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :])
            assert list(journal.frames(flipped)) == [frame for frame in every if frame.end <= at]


def test_reading_goes_on_after_any_frame(whole: Path) -> None:
    every = list(journal.frames(whole))
    for k, frame in enumerate(every):
        assert list(journal.frames(whole, frame.end)) == every[k + 1 :]
    assert list(journal.frames(whole, len(journal.MAGIC))) == every


def test_what_is_written_while_it_is_read_is_read_next_time(writer: JournalWriter) -> None:
    (opened,) = journal.frames(writer.path)
    writer.heartbeat(1)
    (beat,) = journal.frames(writer.path, opened.end)
    assert list(journal.frames(writer.path, beat.end)) == []
    writer.heartbeat(2)
    (again,) = journal.frames(writer.path, beat.end)
    assert [int.from_bytes(frame.payload, "little") for frame in (beat, again)] == [1, 2]


def test_many_frames_are_read_across_the_reader_s_blocks(writer: JournalWriter) -> None:
    value = "x" * 60_000
    for k in range(60):
        writer.record(SCOPE, records.Property(subject="scope", key=f"note-{k}", value=value, t=k))
    found = [records.draft(journal.parse_record(frame.payload)[1]) for frame in list(journal.frames(writer.path))[1:]]
    assert [records.time_of(record) for record in found] == list(range(60))


@pytest.mark.parametrize(
    ("names", "rows"),
    [(1, 1), (1, 8192), (1, 8193), (3, 20_000), (0, 5), (13, 8192), (14, 8192), (400, 1000), (1000, 200)],
)
def test_points_of_any_shape_come_back_and_so_does_what_follows(writer: JournalWriter, names: int, rows: int) -> None:
    write_points(writer, names, rows, first=7)
    writer.heartbeat(1)
    found = list(journal.frames(writer.path))
    assert found[-1].tag == journal.HEARTBEAT, "everything after a frame that cannot be read would be lost"
    at, steps = 7, array("q")
    for frame in found[1:-1]:
        head, _ = journal.parse_points_header(frame.payload)
        points = journal.parse_points(frame.payload)
        assert (head.first, head.rows) == (at, len(points.steps))
        assert head.names == header(names, rows).names
        assert list(points.times) == [10 * step for step in points.steps]
        assert len(points.columns) == names
        for name, column in enumerate(points.columns):
            assert list(column) == [step + name / 2048 for step in points.steps]
        steps += points.steps
        at += head.rows
    assert list(steps) == list(range(7, 7 + rows))


def payload_of(text: bytes, columns: bytes) -> bytes:
    return struct.pack("<H", len(text)) + text + columns


POINTS = encoding.encode(header(1, 2))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\x05",
        b"\xff\xff{}",
        payload_of(b"", bytes(48)),
        payload_of(b"{}", bytes(48)),
        payload_of(POINTS, bytes(47)),
        payload_of(POINTS, bytes(49)),
        payload_of(POINTS.replace(b'"rows":2', b'"rows":-2'), bytes(48)),
        payload_of(POINTS.replace(b'"rows":2', b'"rows":9007199254740992'), bytes(48)),
        payload_of(POINTS.replace(b"name", b"n\xffme"), bytes(48)),
    ],
    ids=[
        "nothing",
        "a byte",
        "too short",
        "no header",
        "an empty header",
        "few bytes",
        "many bytes",
        "rows below zero",
        "rows without end",
        "not UTF-8",
    ],
)
def test_points_that_are_not_what_they_say_are_refused(payload: bytes) -> None:
    assert len(journal.parse_points(payload_of(POINTS, bytes(48))).steps) == 2
    with pytest.raises(CorruptError):
        journal.parse_points(payload)


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"{}", b"[]", b'{"host":1}', b'{"host":"\xff"}', b'{"a":' + b"[" * 100_000],
    ids=["nothing", "cut", "no field", "a list", "a number", "not UTF-8", "deep"],
)
def test_a_first_frame_that_names_no_process_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptError):
        journal.parse_open(payload)


def test_a_first_frame_with_more_to_say_is_read() -> None:
    payload = encoding.encode({**msgspec.to_builtins(PROCESS), "v": 1, "later": [1]})
    assert journal.parse_open(payload) == PROCESS


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x05\x00a/b", b"\x03\x00\xff/b{}"])
def test_a_record_frame_without_a_whole_scope_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptError):
        journal.parse_record(payload)


@pytest.mark.parametrize("length", [0, journal.FRAME_BYTES_MAX + 1, 2**32 - 1])
def test_a_frame_of_an_impossible_length_ends_the_journal(writer: JournalWriter, length: int) -> None:
    with writer.path.open("ab") as file:
        file.write(struct.pack("<II", length, zlib.crc32(b"")) + framed(b"\x04" + bytes(8)))
    assert tags(writer.path) == [journal.OPEN]


def test_a_frame_of_a_kind_to_come_is_handed_over(writer: JournalWriter) -> None:
    with writer.path.open("ab") as file:
        file.write(framed(b"\xc8later"))
    writer.heartbeat(1)
    found = list(journal.frames(writer.path))
    assert [frame.tag for frame in found] == [journal.OPEN, 0xC8, journal.HEARTBEAT]
    assert found[1].payload == b"later"


@pytest.mark.parametrize("version", [2, 255])
def test_a_newer_version_is_unsupported_and_left_as_it_is(whole: Path, version: int) -> None:
    data = whole.read_bytes()[:7] + bytes([version]) + whole.read_bytes()[8:]
    whole.write_bytes(data)
    with pytest.raises(UnsupportedError) as caught:
        list(journal.frames(whole))
    assert caught.value.kind == "newer-format"
    assert whole.read_bytes() == data


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "notes.j"
    for data in (b"something else", b"cmf-srs\x01" + bytes(100), b"\0\0\0\0\0\0\0\x01"):
        path.write_bytes(data)
        with pytest.raises(CorruptError):
            list(journal.frames(path))


@pytest.mark.parametrize("data", [bytes(578), b"cmf-j" + bytes(100), b"cmf-jrn" + bytes(3)])
def test_a_journal_of_whose_first_bytes_a_power_cut_left_zeros_holds_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "cut.j"
    path.write_bytes(data)
    assert list(journal.frames(path)) == []


def test_a_journal_is_closed_once(writer: JournalWriter) -> None:
    for _ in range(3):
        writer.close()
    assert tags(writer.path) == [journal.OPEN, journal.CLOSE]
    with pytest.raises(OSError, match="Bad file descriptor"):
        writer.heartbeat(1)
    assert tags(writer.path) == [journal.OPEN, journal.CLOSE]


def test_a_journal_that_was_abandoned_has_no_close_frame(writer: JournalWriter) -> None:
    writer.heartbeat(1)
    writer.abandon()
    writer.close()
    assert tags(writer.path) == [journal.OPEN, journal.HEARTBEAT]


FORKED = """
import os, sys
from pathlib import Path
from cmf.journal import JournalWriter
from cmf.model.process import Process

writer = JournalWriter(Path(sys.argv[1]), Process(host="h", boot="b", pid=os.getpid(), start=1, uid=2))
writer.heartbeat(1)
child = os.fork()
if child == 0:
    writer.abandon()
    writer.close()
    try:
        writer.heartbeat(666)
    except OSError:
        os._exit(7)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
writer.heartbeat(2)
writer.close()
"""


def test_a_forked_child_that_abandons_a_journal_leaves_it_to_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FORKED, str(tmp_path / "journals")]
    done = subprocess.run(command, check=False, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == ("7\n", "")
    (path,) = (tmp_path / "journals").iterdir()
    assert tags(path) == [journal.OPEN, journal.HEARTBEAT, journal.HEARTBEAT, journal.CLOSE]
    beats = [frame.payload for frame in journal.frames(path) if frame.tag == journal.HEARTBEAT]
    assert [int.from_bytes(beat, "little") for beat in beats] == [1, 2]


FULL = """
import os, resource, sys
from pathlib import Path
from cmf.journal import JournalWriter
from cmf.model import records
from cmf.model.process import Process

writer = JournalWriter(Path(sys.argv[1]), Process(host="h", boot="b", pid=os.getpid(), start=1, uid=2))
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
for size in (4_000, 9_000, 4_000):
    try:
        writer.record("a/b", records.Property(subject="scope", key="k", value="x" * size, t=size))
        print("kept")
    except OSError as error:
        print(error.strerror)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.close()
"""


def test_a_full_disk_drops_one_frame_and_what_follows_is_readable(tmp_path: Path) -> None:
    command = [sys.executable, "-c", FULL, str(tmp_path / "journals")]
    done = subprocess.run(command, check=False, text=True, capture_output=True, timeout=60)
    assert (done.stdout, done.stderr) == ("kept\nFile too large\nkept\n", "")
    (path,) = (tmp_path / "journals").iterdir()
    assert tags(path) == [journal.OPEN, journal.RECORD, journal.RECORD, journal.CLOSE]


def test_after_a_failed_sync_all_since_the_last_good_one_is_written_under_a_new_name(
    writer: JournalWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer.heartbeat(1)
    writer.sync()
    writer.heartbeat(2)
    writer.heartbeat(3)
    really_sync, first = os.fdatasync, writer.path
    failures = ["Input/output error"]

    def sync(handle: int) -> None:
        if failures:
            raise OSError(5, failures.pop())
        really_sync(handle)

    monkeypatch.setattr(os, "fdatasync", sync)
    writer.sync()
    writer.close()
    assert writer.path != first
    assert tags(first) == [journal.OPEN, *[journal.HEARTBEAT] * 3]
    opened, *beats, closed = journal.frames(writer.path)
    assert journal.parse_open(opened.payload) == PROCESS
    assert [int.from_bytes(frame.payload, "little") for frame in beats] == [2, 3]
    assert closed.tag == journal.CLOSE


def test_a_long_message_about_what_was_dropped_is_cut(writer: JournalWriter) -> None:
    writer.dropped(1, "x" * 100_000)
    frame = list(journal.frames(writer.path))[1]
    assert encoding.decode(frame.payload) == {"count": 1, "first": "x" * 500}
