import struct

import pytest

from cmf.errors import CorruptError
from cmf.model import exchange, wire
from cmf.model.exchange import Head, Sample, View

ONE, TWO = b"\x01" * 32, b"\xab" * 32
FRAMES = [(wire.SEGMENT, b"first"), (wire.ADMISSION, b""), (wire.SEGMENT, b"\0" * 300), (wire.END, b"{}")]
BODY = b"".join(wire.frame(tag, data) for tag, data in FRAMES)


def test_frames_come_back_in_their_order() -> None:
    assert list(wire.frames(BODY)) == FRAMES
    assert list(wire.frames(b"")) == []


def test_a_body_cut_at_any_byte_gives_the_whole_frames_before_and_then_says_so() -> None:
    ends = {sum(5 + len(data) for _, data in FRAMES[:k]) for k in range(len(FRAMES) + 1)}
    for end in range(len(BODY)):
        found = []
        if end in ends:
            found = list(wire.frames(BODY[:end]))
        else:
            with pytest.raises(CorruptError):
                found.extend(wire.frames(BODY[:end]))
        assert found == FRAMES[: len(found)]


def test_a_frame_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(CorruptError) as caught:
        list(wire.frames(struct.pack("<BI", wire.SEGMENT, wire.FRAME_BYTES_MAX + 1)))
    assert caught.value.kind == "limit"


def test_a_tag_to_come_is_handed_over_for_the_reader_to_decide() -> None:
    assert list(wire.frames(wire.frame(200, b"x"))) == [(200, b"x")]


def test_messages_come_back_and_their_unknown_fields_are_passed_over() -> None:
    asked = wire.Asked(scopes=["penguins/*"], have={ONE.hex(): [(2, TWO.hex())]})
    assert wire.decode(wire.encode(asked), wire.Asked) == asked
    assert wire.decode(b'{"count":3,"later":[1]}', wire.End) == wire.End(count=3)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"{}", b'{"hashes":"x"}', b'{"hashes":[1]}', b'{"hashes":["\xff"]}', b"[" * 100_000],
    ids=["empty", "cut", "a list", "no field", "text", "numbers", "not UTF-8", "deep"],
)
def test_a_message_of_a_wrong_form_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptError):
        wire.decode(data, wire.Hashes)


def test_samples_and_heads_come_back() -> None:
    samples = [Sample(ONE, (Head(3, TWO), Head(0, ONE))), Sample(TWO, ())]
    assert wire.to_samples(wire.from_samples(samples)) == samples
    heads = {ONE: (Head(3, TWO),)}
    written = wire.from_heads(heads)
    assert written == {ONE.hex(): [(3, TWO.hex())]}
    assert wire.to_heads(written[ONE.hex()]) == list(heads[ONE])


@pytest.mark.parametrize("text", ["", "00", "00" * 31, "00" * 33, "zz" * 32, "0x" + "00" * 31, "é" * 64])
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(CorruptError):
        wire.raw(text)
    with pytest.raises(CorruptError):
        wire.to_samples({text: []})
    with pytest.raises(CorruptError):
        wire.to_heads([(0, text)])


def test_too_many_streams_at_once_are_refused() -> None:
    streams: dict[str, list[tuple[int, str]]] = {f"{k:064x}": [] for k in range(wire.STREAMS_MAX + 1)}
    with pytest.raises(CorruptError) as caught:
        wire.to_samples(streams)
    assert caught.value.kind == "limit"


@pytest.mark.parametrize(
    ("n", "numbers"),
    [(0, [0]), (1, [1, 0]), (2, [2, 1, 0]), (3, [3, 2, 0]), (10, [10, 9, 7, 3, 0]), (16, [16, 15, 13, 9, 1, 0])],
)
def test_positions_are_sampled_ever_further_back_to_the_first(n: int, numbers: list[int]) -> None:
    assert exchange.sample_numbers(n) == numbers


def test_a_long_stream_is_sampled_in_a_few_positions() -> None:
    assert len(exchange.sample_numbers(1_000_000)) < 25


@pytest.mark.parametrize(
    ("view", "inside", "outside"),
    [
        (View(), ["a/b", "x/y/z"], []),
        (View(scopes=("a",)), ["a/b", "a/b/c"], ["ab/c", "b/a"]),
        (View(scopes=("a/*",)), ["a/b", "a/b/c"], ["a", "ab/c"]),
        (View(scopes=("*/train",)), ["a/train", "a/b/train"], ["a/test", "a/train2"]),
        (View(scopes=("a/b", "c/?")), ["a/b", "c/d", "a/b/c"], ["a/c", "c/dd"]),
        (View(below=("a",)), ["a/b"], ["ab/c", "b/c"]),
        (View(scopes=("*/b",), below=("a", "c")), ["a/b", "c/b"], ["b/b", "a/c"]),
        (View(below=()), [], ["a/b"]),
        (View(below=("",)), ["a/b"], []),
    ],
    ids=str,
)
def test_a_view_covers_what_its_globs_match_below_what_may_be_read(
    view: View, inside: list[str], outside: list[str]
) -> None:
    assert [scope for scope in inside + outside if view.covers(scope)] == inside
