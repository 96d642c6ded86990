"""How a node is named inside an index: short byte keys that sort by kind, and back to text.

A store may intern these keys to integers; the keys, not the integers, are what two stores agree on.
"""

from __future__ import annotations

import functools

from cmf.errors import UsageError
from cmf.model import digest as digests
from cmf.model import records

CACHED_MAX = 4096
"""How many keys are kept: the records of one execution come together, and all of them name it."""


@functools.lru_cache(maxsize=CACHED_MAX)
def execution_key(scope: str, execution_id: str) -> bytes:
    """Return the key of an execution: ``e``, its scope, NUL, its 16 raw id bytes."""
    return b"e" + scope.encode() + b"\0" + bytes.fromhex(execution_id.replace("-", ""))


def scope_of(key: bytes) -> str:
    """Return the scope of an execution's key."""
    return key[1:-17].decode()


def record_key(record_id: bytes) -> bytes:
    """Return the key of a record: ``r`` and its raw id."""
    return b"r" + record_id


@functools.lru_cache(maxsize=CACHED_MAX)
def node_key(text: str, scope: str) -> bytes:
    """Return the key of a node's text; the node ``scope`` is the scope of the record that names it.

    A question may also name a scope, as ``scope:SCOPE``; a record never does, so that it speaks for its own alone.
    """
    kind, _, rest = text.partition(":")
    if kind == "execution":
        found = records.split_execution(text)
        if found is not None and records.is_execution_id(found[1]):
            return execution_key(*found)
    elif kind == "artifact":
        return digests.pack(rest)
    elif kind == "record":
        return record_key(digests.record_id(rest))
    elif kind == "site":
        return b"i" + rest.encode()
    elif kind == "scope" and records.is_scope(rest):
        return b"s" + rest.encode()
    elif text == "scope":
        return b"s" + scope.encode()
    raise UsageError(f"'{text[:120]}' names no node.")


def node_text(key: bytes) -> str:
    """Return the text of a node's key."""
    kind, rest = key[:1], key[1:]
    if kind == b"e":
        scope, raw = rest[:-17].decode(), rest[-16:].hex()
        return records.execution_node(scope, f"{raw[:8]}-{raw[8:12]}-{raw[12:16]}-{raw[16:20]}-{raw[20:]}")
    if kind in (b"f", b"t"):
        return "artifact:" + digests.unpack(key)
    if kind == b"r":
        return "record:" + rest.hex()
    return "site:" + rest.decode() if kind == b"i" else "scope:" + rest.decode()
