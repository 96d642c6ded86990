"""Where two ends differ is found, whatever they hold, and at a cost that follows the difference."""

import random
from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmf.errors import CorruptError, UsageError
from cmf.model import prefixes
from cmf.model.digest import sha256
from cmf.model.exchange import Head
from cmf.model.prefixes import Below, Digests

Holding = dict[bytes, tuple[Head, ...]]

ids = st.binary(min_size=32, max_size=32) | st.integers(0, 40).map(lambda n: n.to_bytes(32, "big"))
one = st.builds(Head, st.integers(0, 9), st.sampled_from([sha256(b"a"), sha256(b"b")]))
holdings = st.dictionaries(ids, st.lists(one, min_size=1, max_size=2, unique=True).map(tuple), max_size=60)


@given(mine=holdings, theirs=holdings, both=holdings)
def test_exactly_the_streams_that_differ_are_found(mine: Holding, theirs: Holding, both: Holding) -> None:
    here, there = Digests({**mine, **both}), Digests({**theirs, **both})
    found = prefixes.differing(here, lambda asked: prefixes.answer(there, asked))
    streams = {stream.hex(): stream for stream in {*mine, *theirs, *both}}
    assert found == {
        stream: there.heads(text) for text, stream in streams.items() if here.heads(text) != there.heads(text)
    }


def _some(count: int) -> Holding:
    return {sha256(b"%d" % number): (Head(3, sha256(b"head %d" % number)),) for number in range(count)}


@pytest.mark.parametrize("count", [100, 10_000])
@pytest.mark.parametrize("changed", [0, 1, 20])
def test_the_cost_follows_the_difference_and_not_what_is_held(count: int, changed: int) -> None:
    mine, theirs = _some(count), _some(count)
    for stream in random.Random(changed).sample(sorted(theirs), changed):
        theirs[stream] = (Head(4, sha256(stream)),)
    here, there = Digests(mine), Digests(theirs)
    rounds = moved = 0

    def ask(asked: Mapping[str, str]) -> Mapping[str, Below]:
        nonlocal rounds, moved
        rounds += 1
        answer = prefixes.answer(there, asked)
        moved += len(msgspec.json.encode(asked)) + len(msgspec.json.encode(answer))
        return answer

    found = prefixes.differing(here, ask)
    assert len(found) == changed
    levels = 1 + (count > 16) + (count > 256) + (count > 4096)
    assert rounds <= levels + 1
    assert moved <= 100 + changed * levels * 2_500


@pytest.mark.parametrize(
    "answer",
    [
        {"f": Below()},
        {"": Below(children=[(1, "00")])},
        {"": Below(streams={"zz": []})},
        {"": Below(streams={"00" * 31: []})},
        {"": Below(streams={"00" * 32: [(1, "nothing")]})},
    ],
)
def test_an_answer_to_something_else_is_refused(answer: dict[str, Below]) -> None:
    with pytest.raises(CorruptError):
        prefixes.differing(Digests(_some(3)), lambda asked: answer)


def test_an_end_that_always_differs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "ROUNDS_MAX", 50)
    endless = Below(children=[(9, "00")] * 16)
    with pytest.raises(CorruptError, match="does not end"):
        prefixes.differing(Digests({}), lambda asked: dict.fromkeys(asked, endless))


@pytest.mark.parametrize("prefix", ["g", "A", "0" * 65, "../"])
def test_what_is_no_prefix_is_refused(prefix: str) -> None:
    with pytest.raises(UsageError):
        prefixes.answer(Digests(_some(3)), {prefix: ""})


def test_too_many_prefixes_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="over the limit"):
        prefixes.answer(Digests({}), {f"{number:x}": "" for number in range(prefixes.PREFIXES_MAX + 1)})
