"""Zstandard, from the standard library where it has it (Python 3.14), else from its backport.

Compression level and library version may differ between writers: hashes are always taken of what is inside.
"""

from __future__ import annotations

import sys

from cmf.errors import CorruptError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def compress(data: bytes, *, level: int = 3) -> bytes:
    """Return one zstd frame that holds these bytes."""
    return zstd.compress(data, level=level)


def decompress(data: bytes, size_max: int) -> bytes:
    """Return what one zstd frame holds; refuse, before allocating it, more than ``size_max`` bytes."""
    try:
        unpacker = zstd.ZstdDecompressor()
        inner = unpacker.decompress(data, max_length=size_max + 1)
        finished = unpacker.eof
        if len(inner) <= size_max and not finished:
            inner += unpacker.decompress(b"", max_length=1) if not unpacker.needs_input else b""
            finished = unpacker.eof
        trailing = unpacker.unused_data if finished else b""
    except (zstd.ZstdError, EOFError) as error:
        raise CorruptError(f"Compressed bytes cannot be read: {error}.", kind="zstd") from error
    if len(inner) > size_max:
        raise CorruptError(f"Compressed bytes hold more than the {size_max} announced.", kind="limit")
    if not finished or trailing:
        raise CorruptError("Compressed bytes are cut short or followed by others.", kind="zstd")
    return inner
