"""Where a store stands: many streams in few statements, and no more of them read than are asked for."""

from collections.abc import Iterator
from typing import Any

import pytest

from cmf.model import segment as segments
from cmf.model.exchange import Head, Sample, View, sample_numbers
from cmf.store import standing
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer
from tests.histories import Writer

STREAMS = 1_200


@pytest.fixture(scope="module")
def store() -> Iterator[SqlStore]:
    """Return a store of many streams of one segment, a few of several, and one that was written on in two places."""
    made = SqlStore(Sqlite(None))
    writer = Writer("many")
    wires = [
        segments.to_wire(segments.start("lab/tiny", "site", writer.key, created=n, nonce=bytes(16)))
        for n in range(STREAMS)
    ]
    for stage in range(5):
        for n in range(stage * 3):
            writer.execution(f"lab/s{stage}", n)
            writer.seal()
    wires += writer.store.segments(View(), {})
    twin = Writer("many")
    for n in range(2):
        twin.execution("lab/s1", n + 50)
        twin.seal()
    admitted = LocalPeer(made).admit([*wires, *twin.store.segments(View(), {})])
    assert {a.outcome for a in admitted} == {"new", "known"}
    yield made
    made.close()


def test_samples_are_what_each_stream_alone_would_say(store: SqlStore) -> None:
    found = {sample.stream: sample.points for sample in store.samples(View())}
    heads = store.heads(View())
    assert len(found) == len(heads) > STREAMS
    chains: dict[bytes, list[Head]] = {}
    for data in store.segments(View(), {}):
        segment = segments.from_wire(data)
        chains.setdefault(segment.stream, []).append(Head(segment.n, segment.hash))
    for stream, points in found.items():
        numbers = sample_numbers(max(head.n for head in heads[stream]))
        wanted = {head for head in chains[stream] if head.n in numbers}.union(heads[stream])
        assert set(points) == wanted
        assert [point.n for point in points] == sorted((point.n for point in points), reverse=True)


def test_only_as_many_streams_are_read_as_are_asked_for(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    sampled = standing.samples

    def counting(connection: Any, some: Any) -> list[Sample]:
        read.append(len(some))
        return sampled(connection, some)

    monkeypatch.setattr(standing, "samples", counting)
    everything = list(store.samples(View()))
    read.clear()
    later = store.samples(View(), after=everything[9].stream)
    assert [next(later) for _ in range(3)] == everything[10:13]
    assert sum(read) <= 500


def test_a_stream_that_both_hold_costs_no_question(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = list(store.samples(View()))
    after = store.have([*samples, Sample(b"\0" * 32, ())])
    assert set(after) == {sample.stream for sample in samples}

    def asked(*_: Any) -> list[int]:
        raise AssertionError("it is held whole")

    monkeypatch.setattr(standing, "behind", asked)
    assert list(store.segments(View(), after)) == []
