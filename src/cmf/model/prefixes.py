"""Finding where two ends differ: digests over the streams whose ids begin alike, compared from the whole down.

A prefix is hex digits of a stream's id. Its digest is over the streams below it and their heads, so two ends that agree
on one hold the same there. Where they don't, its sixteen children are compared, or, of a few streams, the heads: d
differences among S streams take O(d · log S) digests, in O(log S) rounds. Knows hashing only: `ask` is the caller's.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from cmf.errors import CorruptError, UsageError
from cmf.model.exchange import Head

DIGITS = "0123456789abcdef"
PREFIX_LENGTH_MAX = 64
FEW = 16
"""Of so many streams, their heads are told and not their digests."""

PREFIXES_MAX = 1_000
"""How many prefixes are compared in one round at most."""

ROUNDS_MAX = 1_000
"""A million streams that all differ take some 150."""

DIGEST_BYTES = 16

Heads: TypeAlias = tuple[Head, ...]


class Below(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one end holds below a prefix: (count, digest) of each child; or, of a few, each stream's (n, hash)."""

    children: list[tuple[int, str]] = []
    streams: dict[str, list[tuple[int, str]]] = {}


Ask = Callable[[Mapping[str, str]], Mapping[str, Below]]
"""Asked with the digests of some prefixes here, returns what the other end holds below those where its own differ."""


class Digests:
    """What one end holds: the heads of each stream."""

    def __init__(self, heads: Mapping[bytes, Sequence[Head]]) -> None:
        self._heads = {stream.hex(): tuple(sorted(heads[stream])) for stream in sorted(heads)}
        self._ids = list(self._heads)
        self._leaves = [_leaf(stream, found) for stream, found in self._heads.items()]

    def digest(self, prefix: str) -> tuple[int, str]:
        """Return how many streams there are below a prefix, and the digest over them."""
        start, end = self._range(prefix)
        hashed = hashlib.sha256(b"".join(self._leaves[start:end])).digest()
        return end - start, hashed[:DIGEST_BYTES].hex()

    def below(self, prefix: str) -> Below:
        """Return what lies below a prefix; `UsageError` for what is none."""
        if len(prefix) > PREFIX_LENGTH_MAX or prefix.strip(DIGITS):
            raise UsageError(f"'{prefix[:80]}' is no prefix of a stream's id.", kind="prefix")
        start, end = self._range(prefix)
        if end - start > FEW and len(prefix) < PREFIX_LENGTH_MAX:
            return Below(children=[self.digest(prefix + digit) for digit in DIGITS])
        return Below(streams={id_: [(n, h.hex()) for n, h in self._heads[id_]] for id_ in self._ids[start:end]})

    def streams(self, prefix: str) -> Iterator[str]:
        """Yield the ids (hex) of the streams below a prefix."""
        start, end = self._range(prefix)
        yield from self._ids[start:end]

    def heads(self, stream: str) -> Heads:
        """Return the heads of a stream (hex), least first; none if it is not held."""
        return self._heads.get(stream, ())

    def _range(self, prefix: str) -> tuple[int, int]:
        return bisect.bisect_left(self._ids, prefix), bisect.bisect_left(self._ids, prefix + "g")


def answer(held: Digests, asked: Mapping[str, str]) -> dict[str, Below]:
    """Return what lies below those of the prefixes whose digests differ from what is held."""
    if len(asked) > PREFIXES_MAX:
        raise UsageError(f"{len(asked)} prefixes at once are over the limit of {PREFIXES_MAX}.", kind="limit")
    return {prefix: held.below(prefix) for prefix, digest in asked.items() if held.digest(prefix)[1] != digest}


def differing(held: Digests, ask: Ask) -> dict[bytes, Heads]:
    """Return each stream of which the other end holds other heads than we do, with those: none, if it holds none.

    `CorruptError` for an answer to something else than was asked, or one that never ends.
    """
    found: dict[bytes, Heads] = {}
    waiting = [""]
    rounds = 0
    while waiting:
        rounds += 1
        if rounds > ROUNDS_MAX:
            raise CorruptError("The comparison with the other hub does not end.", kind="wire")
        asked, waiting = waiting[-PREFIXES_MAX:], waiting[:-PREFIXES_MAX]  # the newest first: few wait at once
        for prefix, below in ask({prefix: held.digest(prefix)[1] for prefix in asked}).items():
            if prefix not in asked or (below.children and len(below.children) != len(DIGITS)):
                raise CorruptError("The other hub compares something else than was asked.", kind="wire")
            if not below.children:
                _compare_streams(held, prefix, below, found)
            elif len(prefix) < PREFIX_LENGTH_MAX:
                waiting += _compare_children(held, prefix, below, found)
    return found


def _compare_children(held: Digests, prefix: str, below: Below, found: dict[bytes, Heads]) -> list[str]:
    """Return the children that differ; of those that the other end has nothing below, note all that is here."""
    differ = []
    for digit, (count, digest) in zip(DIGITS, below.children, strict=True):
        child = prefix + digit
        if held.digest(child) == (count, digest):
            continue
        if count:
            differ.append(child)
        else:
            found.update((bytes.fromhex(stream), ()) for stream in held.streams(child))
    return differ


def _compare_streams(held: Digests, prefix: str, below: Below, found: dict[bytes, Heads]) -> None:
    for stream in {*below.streams, *held.streams(prefix)}:
        if len(stream) != PREFIX_LENGTH_MAX or stream.strip(DIGITS) or not stream.startswith(prefix):
            raise CorruptError("The other hub names a stream that is none.", kind="wire")
        theirs = tuple(sorted(Head(n, _raw(hash_)) for n, hash_ in below.streams.get(stream, ())))
        if theirs != held.heads(stream):
            found[bytes.fromhex(stream)] = theirs


def _leaf(stream: str, heads: Heads) -> bytes:
    told = b"".join(head.n.to_bytes(8, "big") + head.hash for head in heads)
    return hashlib.sha256(bytes.fromhex(stream) + told).digest()


def _raw(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise CorruptError(f"'{text[:80]}' is not a hash.", kind="wire") from None
