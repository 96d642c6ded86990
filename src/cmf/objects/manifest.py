"""A folder as bytes: its manifest, itself an object. The normative text is `docs/reference/format.md`.

The first line is ``{"cmf":"manifest","v":1}``; then, for each file, a compact JSON array of its path, digest, size and
executable bit (1 or 0); each line ends with a line feed. Files are sorted by the bytes of their paths. A path is
relative, ``/``-separated, UTF-8 in Unicode's normal form NFC; one that is not UTF-8 is ``{"$b":"<base64>"}``. Only
files are in it: a folder without files has a manifest without entries, and an empty sub-folder leaves no trace.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, NamedTuple

import msgspec

from cmf.errors import CorruptError, UnsupportedError, UsageError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, ObjectStore, damaged

VERSION = 1
MANIFEST_BYTES_MAX = 256 << 20
FILES_MAX = 1_000_000
"""More files than this in one folder are refused: a manifest of them would be over its limit soon."""

PATH_BYTES_MAX = 4096
SIZE_BYTES_MAX = 2**53

HEADER = b'{"cmf":"manifest","v":1}\n'
FORBIDDEN = (".git", ".cmf")
"""Folders that no manifest may bring along, in any case: a repository inside data would be run by the next git."""

_HEADER_BYTES_MAX = 4096
_LINE_BYTES_MAX = 8 * PATH_BYTES_MAX
"""No file's line is longer: not one whose path is all escapes."""

_Line = tuple[str | dict[str, str], str, int, int]
_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()
_SEPARATORS = re.compile(r"[/\\]")
_PLAIN = re.compile(
    rb'\["(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*","sha256:[0-9a-f]{64}",[0-9]{1,15},[01]\]\n'
)
"""Lines about which there is no question; most are."""

_SLASH = ord("/")
_UNSORTED = "is not in its order"
_DRIVE = re.compile(r"[A-Za-z]:")


class Entry(NamedTuple):
    """One file of a folder. ``path`` is text, or the raw bytes of a name that is not UTF-8; ``size`` in bytes."""

    path: str | bytes
    digest: str
    size: int
    executable: bool = False


class Writer:
    """A manifest in the making: hardly more than its text, if its files come in the order of their paths."""

    def __init__(self) -> None:
        self._text = io.BytesIO()  # which gives its bytes away without a copy
        self._text.write(HEADER)
        self._order = _Order()
        self._is_sorted = True

    def add(self, entries: Iterable[Entry]) -> None:
        """Take some files; `UsageError` for what a manifest cannot hold."""
        lines: list[bytes] = []
        try:
            for entry in entries:
                raw = raw_path(entry.path)
                lines.append(_line(raw, entry))
                fault = self._order.fault(raw) if self._is_sorted else ""
                if fault == _UNSORTED:
                    self._is_sorted = False
                elif fault:
                    raise _Fault(raw, fault)
        except UnicodeEncodeError:
            raise _unrecordable("a path is neither text nor bytes") from None
        except _Fault as fault:
            raise _unrecordable(str(fault)) from None
        self._text.write(b"".join(lines))
        if self._text.tell() > MANIFEST_BYTES_MAX:
            raise UsageError(
                f"A folder's manifest of {self._text.tell()} bytes is over the limit of {MANIFEST_BYTES_MAX}.",
                hint="Record its sub-folders.",
                kind="limit",
            )

    def data(self) -> bytes:
        """Return the manifest of all these files; `UsageError` if they cannot be in one folder."""
        if self._is_sorted:
            return self._text.getvalue()
        entries = [_entry(line) for line in _decoder.decode_lines(self._text.getbuffer()[len(HEADER) :])]
        return encode(entries)


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the manifest of these files, in any order; `UsageError` for what a manifest cannot hold."""
    written = Writer()
    try:
        written.add(sorted(entries, key=lambda entry: raw_path(entry.path)))
    except UnicodeEncodeError:
        raise _unrecordable("a path is neither text nor bytes") from None
    return written.data()


def decode(data: bytes) -> list[Entry]:
    """Return the files that a manifest names, in its order.

    Anything outside the format is a `CorruptError`, a newer version an `UnsupportedError`: so whoever writes below a
    folder what `decode` returned, writes nothing elsewhere, as long as no link is followed.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise CorruptError(f"A manifest of {len(data)} bytes is over the limit.", kind="limit")
    if data.count(b"\n") > FILES_MAX + 1:
        raise CorruptError(f"A manifest names more than {FILES_MAX} files.", kind="limit")
    order = _Order()
    return [entry for block in _blocks(io.BytesIO(data)) for entry in _page(block, order)]


def pages(objects: ObjectStore, digest: str) -> Iterator[list[Entry]]:
    """Yield the files of a manifest, an object, in its order, some thousands at a time: no more are in memory.

    Errors as of `decode`, raised before what is wrong is yielded, and of `ObjectStore.open`; that an object's bytes are
    not its own shows at the end: a `CorruptError` that names it.
    """
    order = _Order()
    count = size = 0
    try:
        with objects.open(digest) as source:
            for block in _blocks(source, digest):
                page = _page(block, order)
                size += len(block)
                count += len(page)
                if count > FILES_MAX or size > MANIFEST_BYTES_MAX:
                    raise CorruptError(f"Manifest {digest} is over the limit of {FILES_MAX} files.", kind="limit")
                yield page
    except CorruptError as error:
        hashed = hashlib.sha256()
        with objects.open(digest) as source:
            while chunk := source.read(CHUNK_BYTES):
                hashed.update(chunk)
        if digests.FILE + hashed.hexdigest() != digest:
            raise damaged(digest) from error
        raise


class Differences:
    """Which files differ between two manifests, sorted by path: pairs (in the first, in the second).

    Each is named by its object, or given as bytes. None stands for a file that one of them has not. ``same`` counts the
    lines that were equal until now; those are not looked into. In memory is never more than a part of either. Errors as
    of `decode` and `ObjectStore.open`; that an object's bytes are not its own shows at the end: a `CorruptError`.
    """

    def __init__(self, objects: ObjectStore, first: str | bytes, second: str | bytes) -> None:
        self.same = 0
        self._first = _Place(_lines(objects, first))
        self._second = _Place(_lines(objects, second))

    def __iter__(self) -> Iterator[tuple[Entry | None, Entry | None]]:
        first, second = self._first, self._second
        while first.line or second.line:
            if first.line == second.line:
                self.same += 1
                first.go_on()
                second.go_on()
                continue
            before, after = first.key(), second.key()
            yield first.entry if before <= after else None, second.entry if after <= before else None
            if before <= after:
                first.go_on()
            if after <= before:
                second.go_on()


class _Place:
    """How far the lines of a manifest were read: the line that comes next, b"" at the end, and its file."""

    def __init__(self, lines: Iterator[bytes]) -> None:
        self._lines = lines
        self._order = _Order()
        self.go_on()

    def go_on(self) -> None:
        self.line = next(self._lines, b"")
        self._raw: bytes | None = None
        self.entry: Entry | None = None

    def key(self) -> tuple[bool, bytes]:
        """Return what the files of two manifests are put in order by: the end comes last."""
        if self.line and self._raw is None:
            self._raw, self.entry = _parsed(self.line, self._order)
        return not self.line, self._raw or b""


def _lines(objects: ObjectStore, named: str | bytes) -> Iterator[bytes]:
    """Yield the lines after the first of a manifest; errors as of `_blocks`."""
    with objects.open(named) if isinstance(named, str) else io.BytesIO(named) as source:
        for block in _blocks(source, named if isinstance(named, str) else ""):
            for line in block.split(b"\n")[:-1]:
                yield line + b"\n"


def _blocks(source: BinaryIO, digest: str = "") -> Iterator[bytes]:
    """Yield the lines after the first of a manifest, many at once.

    `CorruptError` at the end if it has other bytes than those of an object, if one is named.
    """
    hashed = hashlib.sha256()
    rest = b""
    is_first = True
    while chunk := source.read(CHUNK_BYTES):
        hashed.update(chunk)
        block, line_feed, end = chunk.rpartition(b"\n")
        block, rest = (rest + block + line_feed, end) if line_feed else (b"", rest + end)
        if is_first and (block or len(rest) > _HEADER_BYTES_MAX):
            _check_header(block or rest)
            block = block[len(HEADER) :]
            is_first = False
        if len(rest) > _LINE_BYTES_MAX:
            raise CorruptError("A manifest holds a line over the limit.", kind="manifest")
        if block:
            yield block
    if digest and digests.FILE + hashed.hexdigest() != digest:
        raise damaged(digest)
    if is_first or rest:
        raise CorruptError("These bytes are not a folder's manifest.", kind="manifest")


def _parsed(line: bytes, order: _Order) -> tuple[bytes, Entry]:
    """Return the path's bytes and the file that a line of a manifest says; `CorruptError` for a wrong one."""
    (entry,) = _page(line, order)
    return raw_path(entry.path), entry


def tree_digest(data: bytes) -> str:
    """Return the digest of the folder that a manifest's bytes describe: ``tree:sha256:…``."""
    return digests.TREE + digests.sha256(data).hex()


def raw_path(path: str | bytes) -> bytes:
    """Return the bytes of a path, by which entries are sorted."""
    return path.encode() if isinstance(path, str) else path


def path_of(raw: bytes) -> str | bytes:
    """Return the path of a file system's raw bytes as an entry holds it: text in NFC if it is UTF-8, else as it is."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return raw
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def is_path(path: str | bytes) -> bool:
    """Tell whether a manifest may hold this path."""
    try:
        return not _path_fault(raw_path(path), path)
    except UnicodeEncodeError:
        return False


def _check_header(data: bytes) -> None:
    if data.startswith(HEADER):
        return
    line = data[:_HEADER_BYTES_MAX].partition(b"\n")[0]
    try:
        value: Any = msgspec.json.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        value = None
    if isinstance(value, dict) and value.get("cmf") == "manifest":
        version = value.get("v")
        if isinstance(version, int) and version > VERSION:
            raise UnsupportedError(
                f"A manifest has format version {version}; this version reads {VERSION}.",
                hint="Upgrade cmf.",
                kind="newer-format",
            )
    raise CorruptError("These bytes are not a folder's manifest.", kind="manifest")


def _entry(line: _Line) -> Entry:
    path, digest, size, executable = line
    if isinstance(path, dict):
        return Entry(base64.b64decode(path.get("$b", ""), validate=True), digest, size, executable == 1)
    return Entry(path, digest, size, executable == 1)


class _Fault(Exception):  # noqa: N818  # never seen outside
    """What is wrong with one file of a manifest."""

    def __init__(self, raw: bytes, fault: str) -> None:
        super().__init__(f"{raw.decode('utf-8', 'replace')[:200]!a} {fault}")


def _line(raw: bytes, entry: Entry) -> bytes:
    """Return the line of one file, or raise what is wrong with it by itself."""
    path, digest, size, executable = entry
    if isinstance(path, str) and len(raw) <= PATH_BYTES_MAX:
        line = f'["{path}","{digest}",{size},{1 if executable else 0}]\n'.encode()
        if _PLAIN.fullmatch(line):
            return line
    if fault := _path_fault(raw, path):
        raise _Fault(raw, fault)
    if not digests.is_file_digest(digest):
        raise _Fault(raw, "has no file's digest")
    if not 0 <= size <= SIZE_BYTES_MAX:
        raise _Fault(raw, "has an impossible size")
    spelled = path if isinstance(path, str) else {"$b": base64.b64encode(path).decode()}
    return _encoder.encode((spelled, digest, size, 1 if executable else 0)) + b"\n"


class _Order:
    """The paths of files, one behind the other: whether they are sorted, and none lies below another."""

    def __init__(self) -> None:
        self._last = b""
        self._above: list[bytes] = []  # files that the last path begins with: what it may lie below is among them

    def fault(self, raw: bytes) -> str:
        """Say what is wrong with the next path, or return an empty text."""
        if raw <= self._last:
            return "is named twice" if raw == self._last else _UNSORTED
        self._last = raw
        above = self._above
        while above and not raw.startswith(above[-1]):
            above.pop()
        if above and any(raw[len(file)] == _SLASH for file in above):
            return "lies below a file"
        above.append(raw)
        return ""


def _page(block: bytes, order: _Order) -> list[Entry]:
    """Return the files that some whole lines of a manifest say; `CorruptError` for what is wrong with one of them."""
    try:
        entries = [_entry(line) for line in _decoder.decode_lines(block)]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptError(f"A manifest holds a line of a wrong form: {error}.", kind="manifest") from error
    spelled = []
    try:
        for entry in entries:
            raw = raw_path(entry.path)
            spelled.append(_line(raw, entry))
            if fault := order.fault(raw):
                raise _Fault(raw, fault)
    except UnicodeError:
        raise _outside("a path is not text") from None
    except _Fault as fault:
        raise _outside(str(fault)) from None
    if b"".join(spelled) != block:
        raise _outside("it is spelled in another way than the format's")
    return entries


def _path_fault(raw: bytes, path: str | bytes) -> str:
    if not raw or len(raw) > PATH_BYTES_MAX:
        return f"is not a path of 1 to {PATH_BYTES_MAX} bytes"
    if isinstance(path, bytes):
        if isinstance(path_of(path), str):
            return "is UTF-8 but not written as text"
        text = raw.decode("utf-8", "surrogateescape")
    else:
        text = path
        if not text.isascii() and not unicodedata.is_normalized("NFC", text):
            return "is not in Unicode's normal form NFC"
    if "\0" in text:
        return "holds a NUL"
    if "" in text.split("/") or text.startswith("\\") or _DRIVE.match(text):
        return "is not a relative path"
    for part in _SEPARATORS.split(text):
        if part in (".", ".."):
            return "leads out of its folder"
        if part.casefold() in FORBIDDEN:
            return "would make a repository"
    return ""


def _unrecordable(fault: str) -> UsageError:
    return UsageError(f"A folder cannot be recorded: {fault}.", hint="Rename it, or record its files one by one.")


def _outside(fault: str) -> CorruptError:
    return CorruptError(f"A manifest is outside the format: {fault}.", kind="manifest")
