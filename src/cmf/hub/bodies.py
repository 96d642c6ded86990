"""Bodies of requests and answers that are frames, as `model.wire` has them: read, and written a page at a time."""

from __future__ import annotations

from collections.abc import Iterator

from cmf.errors import UsageError
from cmf.model import wire


def framed(body: bytes, wanted: int, what: str) -> Iterator[bytes]:
    """Yield what the frames of a body hold; `UsageError` if one is of another kind than wanted."""
    for tag, data in wire.frames(body):
        if tag != wanted:
            raise UsageError(f"A {what} holds a frame of kind {tag}.", kind="wire")
        yield data


def page(found: Iterator[bytes], tag: int = wire.SEGMENT) -> bytes:
    """Return frames of up to `wire.PULL_BYTES`, and an end that says whether more follow.

    Two at least: a stream's start alone would be nothing that was asked for, and its asker would give up.
    """
    parts: list[bytes] = []
    size = 0
    for data in found:
        if len(parts) > 1 and size + len(data) > wire.PULL_BYTES:
            parts.append(wire.frame(wire.END, wire.encode(wire.End(count=len(parts), more=True))))
            return b"".join(parts)
        parts.append(wire.frame(tag, data))
        size += len(data)
    parts.append(wire.frame(wire.END, wire.encode(wire.End(count=len(parts)))))
    return b"".join(parts)
