"""The hub's log of segments: a Merkle tree as RFC 6962 has it, its proofs, and checkpoints as signed notes.

A leaf is a segment's hash. Two sizes of one log are joined by a consistency proof: who keeps the last checkpoint finds
out whether the log was ever rewritten. Knows hashing only; where nodes are kept is the caller's.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from cmf.errors import CorruptError
from cmf.model.digest import sha256
from cmf.model.segment import Signer

EMPTY_ROOT = sha256(b"")
NOTE_BYTES_MAX = 4096
SIZE_MAX = 2**53

Nodes = Callable[[int, int], bytes]
"""Returns the hash of the complete subtree of ``2**level`` leaves at ``index``: ``nodes(level, index)``."""

Verify = Callable[[bytes, bytes, bytes], bool]
"""Tells whether a signature is a key's: ``verify(public, message, signature)``."""


class Checkpoint(msgspec.Struct, frozen=True):
    """A log at one moment: who keeps it (the hub's public key, hex), how many leaves it has, and its root."""

    hub: str
    size: int
    root: bytes


class Subtree(NamedTuple):
    """A complete subtree's place in the tree."""

    level: int
    place: int


def leaf(data: bytes) -> bytes:
    """Return the hash of a leaf."""
    return sha256(b"\0" + data)


def join(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node."""
    return sha256(b"\1" + left + right)


def peaks(start: int, end: int) -> list[Subtree]:
    """Return the fewest complete subtrees that make up the leaves from ``start`` (before) ``end``, left to right."""
    found: list[Subtree] = []
    while start < end:
        level = (end - start).bit_length() - 1
        if start:
            level = min(level, (start & -start).bit_length() - 1)
        found.append(Subtree(level, start >> level))
        start += 1 << level
    return found


def root(size: int, nodes: Nodes) -> bytes:
    """Return the root of the first ``size`` leaves."""
    return _joined([nodes(*node) for node in peaks(0, size)]) if size else EMPTY_ROOT


def consistency(old: int, new: int, nodes: Nodes) -> list[bytes]:
    """Return the proof that the first ``old`` leaves are the start of the first ``new`` (RFC 6962, 2.1.2)."""
    if not 0 <= old <= new:
        raise CorruptError(f"A log of {new} has no start of {old}.", kind="log")
    return _subproof(old, 0, new, nodes, whole=True) if 0 < old < new else []


def _subproof(old: int, start: int, end: int, nodes: Nodes, *, whole: bool) -> list[bytes]:
    if old == end - start:
        return [] if whole else [_range(start, end, nodes)]
    split = 1 << (end - start - 1).bit_length() - 1
    if old <= split:
        proof = _subproof(old, start, start + split, nodes, whole=whole)
        return [*proof, _range(start + split, end, nodes)]
    proof = _subproof(old - split, start + split, end, nodes, whole=False)
    return [*proof, _range(start, start + split, nodes)]


def _range(start: int, end: int, nodes: Nodes) -> bytes:
    return _joined([nodes(*node) for node in peaks(start, end)])


def _joined(hashes: list[bytes]) -> bytes:
    """Return the hash over subtrees that shrink from left to right."""
    found = hashes[-1]
    for hash_ in reversed(hashes[:-1]):
        found = join(hash_, found)
    return found


# ---- proofs that entries are in a log -----------------------------------------------------------------------------


def beside(kept: Iterable[Subtree], size: int) -> list[Subtree]:
    """Return the complete subtrees that, with those kept, make up a log of ``size`` leaves: no more than needed.

    For one leaf that is its audit path (RFC 6962, 2.1.1), with the subtrees right of it as they are, not joined.
    """
    tops = peaks(0, size)
    reached: dict[int, set[int]] = defaultdict(set)
    for node in kept:
        if node.level < 0 or node.place < 0 or (node.place + 1) << node.level > size:
            raise CorruptError(f"A log of {size} entries has no subtree {tuple(node)}.", kind="log")
        reached[node.level].add(node.place)
    wanted: list[Subtree] = []
    for level in range(tops[0].level + 1 if tops else 0):
        for place in sorted(reached[level]):
            if Subtree(level, place) in tops:
                continue
            if place ^ 1 not in reached[level]:
                wanted.append(Subtree(level, place ^ 1))
            reached[level + 1].add(place >> 1)
    return wanted + [top for top in tops if top.place not in reached[top.level]]


def rooted(kept: Mapping[Subtree, bytes], given: Mapping[Subtree, bytes], size: int) -> dict[Subtree, bytes]:
    """Return all subtrees of a log of ``size`` leaves that those kept and given make up: the peaks are among them.

    `CorruptError` of kind ``log`` if two disagree, or if one of those kept is not joined to the root by the others.
    """
    for node, hash_ in kept.items():
        if given.get(node, hash_) != hash_:
            raise _disagree(node, hash_, given[node])
    made = _grown({**given, **kept})
    if missing := [node for node in (*beside(kept, size), *peaks(0, size)) if node not in made]:
        first = missing[0].place << missing[0].level
        raise CorruptError(f"nothing is known of its entries from {first} on", kind="log")
    return made


def _grown(known: Mapping[Subtree, bytes]) -> dict[Subtree, bytes]:
    levels: dict[int, dict[int, bytes]] = defaultdict(dict)
    for node, hash_ in known.items():
        levels[node.level][node.place] = hash_
    for level in range(SIZE_MAX.bit_length()):
        here, above = levels[level], levels[level + 1]
        for place, hash_ in here.items():
            if place & 1 or place + 1 not in here:
                continue
            made = join(hash_, here[place + 1])
            if above.setdefault(place >> 1, made) != made:
                raise _disagree(Subtree(level + 1, place >> 1), made, above[place >> 1])
    return {Subtree(level, place): hash_ for level, held in levels.items() for place, hash_ in held.items()}


def _disagree(node: Subtree, made: bytes, seen: bytes) -> CorruptError:
    first, last = node.place << node.level, ((node.place + 1) << node.level) - 1
    entries = f"entries {first} to {last} are" if last > first else f"entry {first} is"
    return CorruptError(f"its {entries} not what was seen there: {made.hex()[:16]}, not {seen.hex()[:16]}", kind="log")


def root_of(made: Mapping[Subtree, bytes], size: int) -> bytes:
    """Return the root of the first ``size`` leaves from what `rooted` returned."""
    return root(size, lambda level, place: made[Subtree(level, place)])


def is_consistent(old: Checkpoint, new: Checkpoint, proof: Sequence[bytes]) -> bool:
    """Tell whether a proof shows that the newer log begins with the older (RFC 9162, 2.1.4.2)."""
    if old.size > new.size:
        return False
    if old.size == new.size:
        return old.root == new.root and not proof
    if old.size == 0:
        return old.root == EMPTY_ROOT and not proof
    path = list(proof)
    if old.size & (old.size - 1) == 0:
        path.insert(0, old.root)
    if not path:
        return False
    first, second = old.size - 1, new.size - 1
    while first & 1:
        first, second = first >> 1, second >> 1
    ours = theirs = path[0]
    for hash_ in path[1:]:
        if second == 0:
            return False
        if first & 1 or first == second:
            ours, theirs = join(hash_, ours), join(hash_, theirs)
            while first & 1 == 0 and first != 0:
                first, second = first >> 1, second >> 1
        else:
            theirs = join(theirs, hash_)
        first, second = first >> 1, second >> 1
    return second == 0 and ours == old.root and theirs == new.root


# ---- checkpoints -------------------------------------------------------------------------------------------------


def origin(hub: str) -> str:
    """Return the name under which a hub signs, made of its public key (hex)."""
    return f"cmf-hub-{hub[:16]}"


def sign(checkpoint: Checkpoint, signer: Signer) -> str:
    """Return a checkpoint as a signed note: origin, size, root, an empty line, and the signature."""
    name = origin(checkpoint.hub)
    text = f"{name}\n{checkpoint.size}\n{base64.b64encode(checkpoint.root).decode()}\n"
    signature = _key_hash(name, signer.public) + signer.sign(text.encode())
    return f"{text}\n— {name} {base64.b64encode(signature).decode()}\n"


_NOTE = re.compile(r"([^\n +]+)\n(0|[1-9][0-9]{0,15})\n([A-Za-z0-9+/=]{44})\n\n— ([^\n +]+) ([A-Za-z0-9+/=]+)\n")


def read(note: str, hub: str, verify: Verify) -> Checkpoint:
    """Read a signed note of a hub by its public key (hex); `CorruptError` if it is another's, or was changed."""
    match = _NOTE.fullmatch(note) if len(note) <= NOTE_BYTES_MAX else None
    if match is None:
        raise CorruptError("A hub's checkpoint cannot be read.", kind="checkpoint")
    try:
        public = bytes.fromhex(hub)
        signature = base64.b64decode(match[5], validate=True)
        root_hash = base64.b64decode(match[3], validate=True)
    except (ValueError, binascii.Error) as error:
        raise CorruptError("A hub's checkpoint cannot be read.", kind="checkpoint") from error
    name = origin(hub)
    text = note[: note.index("\n\n") + 1].encode()
    if (
        match[1] != name
        or match[4] != name
        or signature[:4] != _key_hash(name, public)
        or not verify(public, text, signature[4:])
    ):
        raise CorruptError("A checkpoint was not signed by this hub.", kind="checkpoint")
    return Checkpoint(hub, int(match[2]), root_hash)


def _key_hash(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n\x01" + public)[:4]
