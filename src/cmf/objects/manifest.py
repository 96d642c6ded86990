"""A folder as bytes: its manifest, itself an object. The normative text is `docs/reference/format.md`.

The first line is ``{"cmf":"manifest","v":1}``; then, for each file, a compact JSON array of its path, digest, size and
executable bit (1 or 0); each line ends with a line feed. Files are sorted by the bytes of their paths. A path is
relative, ``/``-separated, UTF-8 in Unicode's normal form NFC; one that is not UTF-8 is ``{"$b":"<base64>"}``. Only
files are in it: a folder without files has a manifest without entries, and an empty sub-folder leaves no trace.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec

from cmf.errors import CorruptError, UnsupportedError, UsageError
from cmf.model import digest as digests

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
_Line = tuple[str | dict[str, str], str, int, int]
_decoder = msgspec.json.Decoder(_Line)
_encoder = msgspec.json.Encoder()
_SEPARATORS = re.compile(r"[/\\]")
_PLAIN = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.-]*/)*[A-Za-z0-9_][A-Za-z0-9_.-]*", re.ASCII)
"""Paths about which there is no question; most are."""

_SLASH = ord("/")
_DRIVE = re.compile(r"[A-Za-z]:")


class Entry(NamedTuple):
    """One file of a folder. ``path`` is text, or the raw bytes of a name that is not UTF-8; ``size`` in bytes."""

    path: str | bytes
    digest: str
    size: int
    executable: bool = False


def encode(entries: Iterable[Entry]) -> bytes:
    """Return the manifest of these files, in any order; `UsageError` for what a manifest cannot hold."""
    try:
        ordered = sorted(((raw_path(entry.path), entry) for entry in entries), key=lambda item: item[0])
        fault = _fault(ordered)
    except UnicodeEncodeError:
        ordered, fault = [], "a path is neither text nor bytes"
    if fault:
        raise UsageError(f"A folder cannot be recorded: {fault}.", hint="Rename it, or record its files one by one.")
    data = _spell(entry for _, entry in ordered)
    if len(data) > MANIFEST_BYTES_MAX:
        raise UsageError(
            f"A folder's manifest of {len(data)} bytes is over the limit of {MANIFEST_BYTES_MAX}.",
            hint="Record its sub-folders.",
            kind="limit",
        )
    return data


def decode(data: bytes) -> list[Entry]:
    """Return the files that a manifest names, in its order.

    Anything outside the format is a `CorruptError`, a newer version an `UnsupportedError`: so whoever writes below a
    folder what `decode` returned, writes nothing elsewhere, as long as no link is followed.
    """
    if len(data) > MANIFEST_BYTES_MAX:
        raise CorruptError(f"A manifest of {len(data)} bytes is over the limit.", kind="limit")
    _check_header(data)
    if data.count(b"\n") > FILES_MAX + 1:
        raise CorruptError(f"A manifest names more than {FILES_MAX} files.", kind="limit")
    try:
        lines = _decoder.decode_lines(memoryview(data)[len(HEADER) :])
        entries = [_entry(line) for line in lines]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise CorruptError(f"A manifest holds a line of a wrong form: {error}.", kind="manifest") from error
    try:
        fault = _fault([(raw_path(entry.path), entry) for entry in entries])
    except UnicodeError:
        fault = "a path is not text"
    if not fault and _spell(entries) != data:
        fault = "it is spelled in another way than the format's"
    if fault:
        raise CorruptError(f"A manifest is outside the format: {fault}.", kind="manifest")
    return entries


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


def _spell(entries: Iterable[Entry]) -> bytes:
    lines = [
        (
            path if isinstance(path, str) else {"$b": base64.b64encode(path).decode()},
            digest,
            size,
            1 if executable else 0,
        )
        for path, digest, size, executable in entries
    ]
    return HEADER + _encoder.encode_lines(lines)


def _fault(ordered: list[tuple[bytes, Entry]]) -> str:
    """Return what is wrong with these entries, or an empty text."""
    paths = {raw for raw, _ in ordered}
    last = folder = b""
    for raw, (path, digest, size, _) in ordered:
        fault = _path_fault(raw, path)
        if not fault and raw <= last:
            fault = "is named twice" if raw == last else "is not in its order"
        if not fault and not digests.is_file_digest(digest):
            fault = "has no file's digest"
        if not fault and not 0 <= size <= SIZE_BYTES_MAX:
            fault = "has an impossible size"
        above = raw[: raw.rfind(b"/") + 1]
        if not fault and above != folder:  # else the file before lies there too
            folder = above
            if any(above[:at] in paths for at, byte in enumerate(above) if byte == _SLASH):
                fault = "lies below a file"
        if fault:
            return f"{_shown(raw)} {fault}"
        last = raw
    return ""


def _path_fault(raw: bytes, path: str | bytes) -> str:
    if isinstance(path, str) and len(raw) <= PATH_BYTES_MAX and _PLAIN.fullmatch(path):
        return ""
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


def _shown(raw: bytes) -> str:
    return ascii(raw.decode("utf-8", "replace")[:200])
