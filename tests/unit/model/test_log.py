"""The Merkle log against a plain recursive reading of RFC 6962, and its checkpoints."""

import contextlib
import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf.errors import CorruptError
from cmf.model import log
from cmf.model.log import Checkpoint, Subtree
from cmf.signing import Key, verify

KEY = Key(b"k" * 32)
HUB = KEY.public.hex()


def leaves(size: int) -> list[bytes]:
    return [hashlib.sha256(b"%d" % n).digest() for n in range(size)]


def tree(data: list[bytes]) -> bytes:
    """RFC 6962, 2.1, word for word."""
    if not data:
        return hashlib.sha256(b"").digest()
    if len(data) == 1:
        return hashlib.sha256(b"\0" + data[0]).digest()
    k = 1
    while k * 2 < len(data):
        k *= 2
    return hashlib.sha256(b"\1" + tree(data[:k]) + tree(data[k:])).digest()


def nodes(data: list[bytes]) -> log.Nodes:
    def node(level: int, index: int) -> bytes:
        start, end = index << level, (index + 1) << level
        assert end <= len(data), "only complete subtrees may be asked for"
        return tree(data[start:end])

    return node


def at(size: int, data: list[bytes]) -> Checkpoint:
    return Checkpoint(HUB, size, log.root(size, nodes(data)))


def test_the_root_is_that_of_the_standard() -> None:
    data = leaves(40)
    for size in range(41):
        assert log.root(size, nodes(data)) == tree(data[:size])


def test_every_size_is_proven_to_be_the_start_of_every_later_one() -> None:
    data = leaves(33)
    for old, new in itertools.combinations_with_replacement(range(34), 2):
        proof = log.consistency(old, new, nodes(data))
        assert log.is_consistent(at(old, data), at(new, data), proof), (old, new)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_log_that_was_rewritten_has_no_proof(a: int, b: int, draws: st.DataObject) -> None:
    old, new = sorted((a, b))
    data = leaves(60)
    other = list(data)
    other[draws.draw(st.integers(0, old - 1))] = b"x" * 32
    proof = log.consistency(old, new, nodes(other))
    assert not log.is_consistent(at(old, data), at(new, other), proof)


@given(st.integers(1, 60), st.integers(1, 60), st.data())
def test_a_proof_with_one_hash_changed_cut_or_added_is_refused(a: int, b: int, draws: st.DataObject) -> None:
    old, new = sorted((a, b))
    data = leaves(60)
    proof = log.consistency(old, new, nodes(data))
    kinds = ["add", *(("change", "cut") if proof else ())]
    match draws.draw(st.sampled_from(kinds)):
        case "add":
            proof.insert(draws.draw(st.integers(0, len(proof))), b"y" * 32)
        case "cut":
            del proof[draws.draw(st.integers(0, len(proof) - 1))]
        case _:
            proof[draws.draw(st.integers(0, len(proof) - 1))] = b"y" * 32
    assert not log.is_consistent(at(old, data), at(new, data), proof)


def test_a_smaller_log_is_never_consistent_with_a_larger() -> None:
    data = leaves(9)
    assert not log.is_consistent(at(9, data), at(8, data), [])


def test_a_checkpoint_is_read_as_it_was_signed() -> None:
    checkpoint = at(7, leaves(7))
    note = log.sign(checkpoint, KEY)
    assert log.read(note, HUB, verify) == checkpoint
    assert note.splitlines()[:2] == [log.origin(HUB), "7"]


@given(st.data())
def test_a_checkpoint_with_any_character_changed_is_refused(draws: st.DataObject) -> None:
    note = log.sign(at(7, leaves(7)), KEY)
    place = draws.draw(st.integers(0, len(note) - 1))
    character = draws.draw(st.characters().filter(lambda c: c != note[place]))
    changed = note[:place] + character + note[place + 1 :]
    try:
        found = log.read(changed, HUB, verify)
    except CorruptError:
        return
    assert found == log.read(note, HUB, verify), "only a second spelling of the same signature may pass"


def test_another_hubs_checkpoint_is_refused() -> None:
    note = log.sign(at(3, leaves(3)), KEY)
    with pytest.raises(CorruptError):
        log.read(note, Key(b"o" * 32).public.hex(), verify)
    with pytest.raises(CorruptError):
        log.read("x" * 5000, HUB, verify)


def test_a_proof_of_what_is_not_there_is_refused() -> None:
    with pytest.raises(CorruptError):
        log.consistency(3, 2, nodes(leaves(3)))


@given(st.integers(1, 300), st.data())
def test_some_leaves_and_what_is_beside_them_make_the_root_and_nothing_else_does(
    size: int, drawn: st.DataObject
) -> None:
    data = leaves(size)
    node = nodes(data)
    chosen = drawn.draw(st.sets(st.integers(0, size - 1), max_size=6))
    since = drawn.draw(st.integers(0, size))
    kept = {Subtree(0, place): log.leaf(data[place]) for place in chosen}
    kept |= {top: node(*top) for top in log.peaks(0, since)}
    wanted = log.beside(kept, size)
    assert len(wanted) <= (len(chosen) + len(log.peaks(0, since)) + 1) * size.bit_length()
    given = {each: node(*each) for each in wanted}
    made = log.rooted(kept, given, size)
    assert all(node(*each) == hash_ for each, hash_ in made.items())
    assert log.root_of(made, size) == tree(data)
    for each in {**given, **kept}:
        flipped = bytes([node(*each)[0] ^ 1]) + node(*each)[1:]
        changed, others = ({**part, each: flipped} if each in part else part for part in (kept, given))
        with contextlib.suppress(CorruptError):
            assert log.root_of(log.rooted(changed, others, size), size) != tree(data)
    for each in wanted:
        with pytest.raises(CorruptError):
            log.rooted(kept, {place: hash_ for place, hash_ in given.items() if place != each}, size)


def test_what_no_log_of_a_size_has_is_refused() -> None:
    for node in (Subtree(0, 5), Subtree(2, 1), Subtree(-1, 0), Subtree(0, -1)):
        with pytest.raises(CorruptError):
            log.beside([node], 5)
