"""Journals: one append-only file per process, in which recording happens.

A journal is a magic and frames of ``u32 length, u32 crc32, payload``, little-endian; a payload is a tag byte and its
content (`docs/reference/format.md`). Writing takes no lock and opens no database. Reading stops before a torn tail.
"""

from __future__ import annotations

import functools
import os
import struct
import sys
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cmf.errors import CorruptError, UnsupportedError
from cmf.model import encoding, records
from cmf.model.process import Process

MAGIC = b"cmf-jrn\x01"
VERSION = 1
OPEN, RECORD, POINTS, HEARTBEAT, DROPPED, CLOSE, LEAVE = 1, 2, 3, 4, 5, 6, 7
FRAME_BYTES_MAX = 1 << 20
READ_BYTES = 1 << 20
POINTS_BYTES_MAX = 512 * 1024

_FRAME = struct.Struct("<II")
_TIME = struct.Struct("<BQ")
_HEADER = struct.Struct("<H")


class PointsHeader(msgspec.Struct, frozen=True):
    """What a points frame is about: ``rows`` rows from ``first`` on, of one set of names of one process."""

    scope: str
    execution: str
    attempt: str
    rank: int
    names: tuple[str, ...]
    first: int
    rows: int


class Points(NamedTuple):
    """The columns of a points frame."""

    steps: array[int]
    times: array[int]
    columns: tuple[array[float], ...]


class Frame(NamedTuple):
    """One frame: the offset after it, its tag, and its content without the tag."""

    end: int
    tag: int
    payload: bytes


class JournalWriter:
    """The journal of this process. Every method may raise `OSError`; what was written before stays readable."""

    def __init__(self, folder: Path, process: Process) -> None:
        self._folder = folder
        self._process = process
        self._handle = -1
        self._end = 0
        self._is_broken = False
        self._unsynced: list[bytes] = []
        self.path = folder
        _make_folders(folder)
        self._open()

    def _open(self) -> None:
        process = self._process
        host = host_in_name(process.host)
        self.path = self._folder / f"{host}-{process.pid}-{process.start}-{os.urandom(4).hex()}.j"
        self._handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
        opened = encoding.encode({**msgspec.to_builtins(process), "v": VERSION})
        self._end, self._is_broken = 0, False
        try:
            self._write(MAGIC + _framed(bytes((OPEN,)) + opened))
        except OSError:
            self.abandon()
            os.unlink(self.path)  # or each try on a full disk would leave one more file
            self._is_broken = True
            raise

    def _write(self, data: bytes) -> None:
        """Append some bytes whole: what a full disk took of them is taken back, so that later frames stay readable."""
        if self._is_broken:
            self._open()
        whole = len(data)
        try:
            done = os.write(self._handle, data)
            while done < whole:  # a network file system may take less than all
                done += os.write(self._handle, data[done:])
        except OSError:
            self._take_back()
            raise
        self._end += whole
        self._unsynced.append(data)

    def _take_back(self) -> None:
        """Cut what a failed write has left behind; if that fails too, go on in a journal under a new name."""
        try:
            if os.fstat(self._handle).st_size != self._end:
                os.ftruncate(self._handle, self._end)
        except OSError:
            self.abandon()
            self._is_broken = True

    def record(self, scope: str, record: records.Record) -> None:
        """Append the draft of one record."""
        self._write(_framed(_record_start(scope) + records.encode(record)))

    def points(
        self, header: PointsHeader, steps: array[int], times: array[int], columns: Sequence[array[float]]
    ) -> Iterator[int]:
        """Append rows of step metrics, in as many frames as their size needs; yield the rows of each once written."""
        rows_max = max(1, POINTS_BYTES_MAX // (8 * (2 + len(columns))))
        for at in range(0, header.rows, rows_max):
            rows = min(rows_max, header.rows - at)
            part = msgspec.structs.replace(header, first=header.first + at, rows=rows)
            text = encoding.encode(part)
            integers = [_little(column[at : at + rows]) for column in (steps, times)]
            floats = [_little(column[at : at + rows]) for column in columns]
            self._write(_framed(b"".join((bytes((POINTS,)), _HEADER.pack(len(text)), text, *integers, *floats))))
            yield rows

    def heartbeat(self, t_us: int) -> None:
        """Say that the process is alive."""
        self._write(_framed(_TIME.pack(HEARTBEAT, t_us)))

    def dropped(self, count: int, first: str) -> None:
        """Say how many things could not be recorded, and what the first was."""
        self._write(_framed(bytes((DROPPED,)) + encoding.encode({"count": count, "first": first[:500]})))

    def sync(self) -> None:
        """Make everything written survive power loss.

        After a failed sync the kernel may have dropped the pages, so the same file is never synced again: all since
        the last good sync is written once more, to a journal under a new name. Taking it in twice changes nothing.
        """
        again, self._unsynced = self._unsynced, []
        try:
            os.fdatasync(self._handle)
        except OSError:
            os.close(self._handle)
            self._open()
            for data in again:
                if not data.startswith(MAGIC):
                    self._write(data)
            os.fdatasync(self._handle)

    def leave(self, t_us: int) -> int:
        """Append the frame after which one byte more, the exit code, ends the file; return the handle to write it to.

        The handle is the caller's. Nothing more can be recorded here.
        """
        self._write(_framed(_TIME.pack(LEAVE, t_us)))
        os.fdatasync(self._handle)
        handle, self._handle = self._handle, -1
        return handle

    def close(self) -> None:
        """Append the close frame, sync, and close the file."""
        if self._handle < 0:
            return
        try:
            self._write(_framed(bytes((CLOSE,))))
            os.fdatasync(self._handle)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the file as it is: what a forked child does with its parent's journal."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def host_in_name(host: str) -> str:
    """Return how the name of a journal says its host."""
    return records.slug(host)[:40]


def frames(path: Path, offset: int = 0) -> Iterator[Frame]:
    """Return the whole frames of a journal from an offset on; stop before a torn or damaged tail."""
    with open(path, "rb") as file:
        if offset == 0:
            magic = file.read(len(MAGIC))
            written = magic.rstrip(b"\0")  # after a power cut a file may be longer than what was written of it
            if len(written) < len(MAGIC) and MAGIC.startswith(written):
                return  # the process that made it died before its first frame
            if magic[:7] != MAGIC[:7]:
                raise CorruptError(f"{path} is not a journal.", hint="Move it away.", kind="journal")
            if magic[7] > VERSION:
                raise UnsupportedError(
                    f"{path} has format version {magic[7]}; this version reads {VERSION}.",
                    hint="Upgrade cmf; nothing was changed.",
                    kind="newer-format",
                )
            offset = len(MAGIC)
        file.seek(offset)
        buffer = b""
        at = 0
        while True:
            start = at + _FRAME.size
            length, crc = _FRAME.unpack_from(buffer, at) if start <= len(buffer) else (0, 0)
            if start + length > len(buffer):
                more = file.read(READ_BYTES)
                if not more:
                    return
                buffer, at = buffer[at:] + more, 0
                continue
            if not 1 <= length <= FRAME_BYTES_MAX:
                return
            payload = buffer[start : start + length]
            if zlib.crc32(payload) != crc:
                return
            at = start + length
            offset += _FRAME.size + length
            yield Frame(offset, payload[0], payload[1:])


def began(path: Path) -> int | None:
    """Return the first time in µs that a journal tells, when its process began to record; None if it tells none."""
    for frame in frames(path):
        if frame.tag == HEARTBEAT:
            return int.from_bytes(frame.payload[:8], "little")
        if frame.tag == POINTS:
            return parse_points(frame.payload).times[0]
        if frame.tag == RECORD:
            t = records.time_of(records.draft(parse_record(frame.payload)[1]))
            if t is not None:
                return t
    return None


def exit_code(path: Path, offset: int) -> int | None:
    """Return the exit code that ends a journal, behind its leave frame; None if it isn't there."""
    with open(path, "rb") as file:
        file.seek(offset)
        found = file.read(1)
    return found[0] if found else None


def parse_open(payload: bytes) -> Process:
    """Read the first frame's content: who writes this journal."""
    try:
        return msgspec.json.decode(payload, type=Process)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A journal's first frame cannot be read: {error}.", kind="journal") from error


def parse_record(payload: bytes) -> tuple[str, bytes]:
    """Read a record frame's content: (scope, draft)."""
    try:
        (length,) = _HEADER.unpack_from(payload)
        end = _HEADER.size + length
        if len(payload) < end:
            raise CorruptError("A journal's record is cut short.", kind="journal")
        return _text(payload[_HEADER.size : end]), payload[end:]
    except (struct.error, UnicodeDecodeError) as error:
        raise CorruptError(f"A journal's record cannot be read: {error}.", kind="journal") from error


@functools.lru_cache(records.NAMES_KEPT)
def _text(name: bytes) -> str:
    return name.decode()


def parse_points_header(payload: bytes) -> tuple[PointsHeader, int]:
    """Read what a points frame is about, and where its columns start."""
    try:
        (length,) = _HEADER.unpack_from(payload)
        end = _HEADER.size + length
        return msgspec.json.decode(payload[_HEADER.size : end], type=PointsHeader), end
    except (struct.error, msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise CorruptError(f"A journal's points cannot be read: {error}.", kind="journal") from error


def parse_points(payload: bytes) -> Points:
    """Read a points frame's columns."""
    header, at = parse_points_header(payload)
    if len(payload) - at != 8 * header.rows * (2 + len(header.names)):
        raise CorruptError("A journal's points have another size than they say.", kind="journal")
    columns: list[array[float]] = []
    for code in ("q", "q", *("d" for _ in header.names)):
        column: array[float] = array(code)
        column.frombytes(payload[at : at + 8 * header.rows])
        if sys.byteorder == "big":
            column.byteswap()
        columns.append(column)
        at += 8 * header.rows
    return Points(columns[0], columns[1], tuple(columns[2:]))  # type: ignore[arg-type]  # the first two are integers


@functools.lru_cache(records.NAMES_KEPT)
def _record_start(scope: str) -> bytes:
    name = scope.encode()
    return bytes((RECORD,)) + _HEADER.pack(len(name)) + name


def _framed(payload: bytes) -> bytes:
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def _little(column: array[int] | array[float]) -> bytes:
    if sys.byteorder == "big":
        column = column[:]
        column.byteswap()
    return column.tobytes()


def _make_folders(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with open(folder.parent / ".gitignore", "x", encoding="utf-8") as file:
            file.write("*\n")
    except FileExistsError:
        pass
