"""Content digests: how bytes are named.

A file is named ``sha256:<64 hex>``, a folder ``tree:sha256:<64 hex>`` (the digest of its manifest, which is itself an
object named ``sha256:<64 hex>``). Inside a store a digest is packed into 33 bytes: a kind byte and the raw hash.
"""

from __future__ import annotations

import hashlib
import re

from cmf.errors import CorruptError, UsageError

FILE = "sha256:"
TREE = "tree:sha256:"
EMPTY = FILE + hashlib.sha256(b"").hexdigest()
SMALL_BYTES = 64
"""Artifacts under this size are too likely to be equal by chance: content alone joins no lineage through them."""

_TEXT = re.compile(r"(?:tree:)?sha256:[0-9a-f]{64}")
_FILE_TEXT = re.compile(r"sha256:[0-9a-f]{64}")


def sha256(data: bytes) -> bytes:
    """Return the raw 32-byte SHA-256 of some bytes."""
    return hashlib.sha256(data).digest()


def file_digest(data: bytes) -> str:
    """Return the digest text of some bytes taken as a file."""
    return FILE + hashlib.sha256(data).hexdigest()


def is_digest(text: object) -> bool:
    """Tell whether this is a well-formed digest text of a file or of a folder."""
    return isinstance(text, str) and _TEXT.fullmatch(text) is not None


def is_file_digest(text: object) -> bool:
    """Tell whether this is a well-formed digest text of a file."""
    return isinstance(text, str) and _FILE_TEXT.fullmatch(text) is not None


def check_digest(text: str) -> str:
    """Return the digest as it is, or raise `CorruptError` if it isn't one."""
    if not is_digest(text):
        raise CorruptError(f"'{str(text)[:80]}' is not a digest.", kind="digest")
    return text


def object_of(digest: str) -> str:
    """Return the object that holds an artifact: the file's own bytes, or a folder's manifest."""
    return digest.removeprefix("tree:")


def pack(digest: str) -> bytes:
    """Return the 33-byte form of a digest: ``f`` or ``t`` and the raw hash."""
    check_digest(digest)
    return (b"t" if digest.startswith("tree:") else b"f") + bytes.fromhex(digest[-64:])


def unpack(packed: bytes) -> str:
    """Return the digest text of its 33-byte form."""
    if len(packed) != 33 or packed[:1] not in (b"f", b"t"):
        raise CorruptError("A packed digest has the wrong form.", kind="digest")
    return (TREE if packed[:1] == b"t" else FILE) + packed[1:].hex()


def record_id(text: str) -> bytes:
    """Return the raw id of a record from its 64 hex digits."""
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise UsageError(f"'{text[:80]}' is not a record id (64 hex digits).")
    return raw
