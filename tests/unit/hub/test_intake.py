"""Many requests at once: their segments are committed together, and each learns what became of its own."""

import threading
from collections.abc import Sequence

import pytest

from cmf.errors import ConflictError, UsageError
from cmf.hub.intake import Intake
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store.arriving import Arriving, Outcome
from cmf.store.batch import Item
from cmf.store.dialect import Connection
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.histories import Writer, chain


def arriving(writer: Writer) -> list[Arriving]:
    """Return what a writer's store holds, as it comes in elsewhere."""
    found = []
    for wire in writer.store.segments(View(), {}):
        segment = segments.from_wire(wire)
        scope, _, _ = writer.store.scope_of(segment.stream) or ("", b"", "")
        found.append(Arriving(segment, [Item(scope, *checked) for checked in segments.check_body(segment)]))
    return found


class Counting(SqlStore):
    """A store that counts its transactions, holds the first until it is told, and can fail."""

    def __init__(self) -> None:
        super().__init__(Sqlite(None))
        self.calls: list[int] = []
        self.entered, self.go = threading.Event(), threading.Event()
        self.failure: Exception | None = None

    def insert(self, arriving: Sequence[Arriving]) -> list[Outcome]:
        self.calls.append(len(arriving))
        if len(self.calls) == 1:
            self.entered.set()
            self.go.wait(30)
        if self.failure is not None:
            raise self.failure
        return super().insert(arriving)


def test_what_comes_while_one_commits_is_committed_together_and_each_learns_its_own() -> None:
    store = Counting()
    intake = Intake(store)
    writers = [Writer(f"site{n}", seed=n + 1) for n in range(8)]
    for writer in writers:
        chain(writer, writer.name, 2)
    brought = [arriving(writer) for writer in writers]
    brought[3] = brought[3][1:]  # without the start of its first stream
    found: dict[int, list[Outcome]] = {}
    threads = [
        threading.Thread(target=lambda n=n: found.update({n: intake.insert(brought[n])})) for n in range(len(writers))
    ]
    threads[0].start()
    store.entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    while len(intake._waiting) < len(writers) - 1:  # until all the others wait
        pass
    store.go.set()
    for thread in threads:
        thread.join(30)
    assert store.calls == [len(brought[0]), sum(map(len, brought[1:]))]
    for n, outcomes in found.items():
        assert len(outcomes) == len(brought[n])
        if n == 3:
            assert isinstance(outcomes[0], ConflictError)
        else:
            assert set(outcomes) == {"new"}
    assert intake.insert(brought[1]) == ["known"] * len(brought[1])


def test_a_failure_reaches_every_request_that_shared_it_and_the_next_goes_on() -> None:
    store = Counting()
    store.go.set()
    intake = Intake(store)
    writer = Writer("one")
    chain(writer, "one", 1)
    store.failure = KeyError("disk")
    with pytest.raises(KeyError):
        intake.insert(arriving(writer))
    store.failure = None
    assert set(intake.insert(arriving(writer))) == {"new"}


def test_what_is_refused_of_one_does_not_keep_the_others_out() -> None:
    one, two = Writer("one", seed=1), Writer("two", seed=2)
    for writer in (one, two):
        chain(writer, writer.name, 1)
    both = [*arriving(one), *arriving(two)]
    unwanted = {arrived.segment.hash for arrived in arriving(two) if arrived.items}

    def logged(_: Connection, hashes: Sequence[bytes]) -> None:
        if unwanted & set(hashes):
            raise UsageError("The database cannot hold a row.", kind="limit")

    store = SqlStore(Sqlite(None), logged=logged)
    outcomes = store.insert(both)
    assert [isinstance(outcome, UsageError) for outcome in outcomes] == [it.segment.hash in unwanted for it in both]
    assert store.counts()["execution"] == 1
