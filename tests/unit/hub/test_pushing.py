"""Pushes of several callers at once: each is told of its own, and may do no more than alone."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from cmf.errors import CmfError, CorruptError, UsageError
from cmf.hub.access import console
from cmf.hub.auth import Caller
from cmf.hub.pushing import Push
from cmf.hub.service import Hub
from cmf.model import segment as segments
from cmf.model import wire
from cmf.model.exchange import Admission, View
from cmf.store.arriving import Arriving
from cmf.store.batch import Item
from cmf.store.dialect import Connection
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.histories import Writer, chain


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def joined(hub: Hub, writer: Writer) -> Caller:
    """Enrol a writer's key, to write in the scopes below its name."""
    asked = wire.AskInvite(name=writer.name, role=wire.Role(writer.name, "write"), expires_s=3600)
    _, caller = hub.auth.enrol(hub.access.invite(console(), asked).secret, writer.key.public, "", now=hub.now())
    return caller


def body(writer: Writer) -> bytes:
    """Return the body that pushes all that a writer holds."""
    return b"".join(wire.frame(wire.SEGMENT, data) for data in writer.store.segments(View(), {}))


def arriving(writer: Writer) -> list[Arriving]:
    """Return what a writer's store holds, as it comes in elsewhere."""
    found = []
    for data in writer.store.segments(View(), {}):
        segment = segments.from_wire(data)
        scope, _, _ = writer.store.scope_of(segment.stream) or ("", b"", "")
        found.append(Arriving(segment, [Item(scope, *checked) for checked in segments.check_body(segment)]))
    return found


def told(answer: bytes | CmfError) -> list[str]:
    """Return what became of each segment of a push: its outcome, or why it was refused."""
    assert isinstance(answer, bytes)
    frames = list(wire.frames(answer))
    assert wire.decode(frames[-1][1], wire.End).count == len(frames) - 1
    return [found.kind or found.outcome for _, data in frames[:-1] for found in (wire.decode(data, Admission),)]


def test_each_of_several_pushes_is_judged_by_who_brings_it(hub: Hub) -> None:
    ada, bob, eve = (Writer(name, seed=n + 1) for n, name in enumerate(("ada", "bob", "eve")))
    callers = {writer.name: joined(hub, writer) for writer in (ada, bob, eve)}
    for writer in (ada, bob, eve):
        chain(writer, writer.name, 1)
    chain(eve, "ada", 1)  # where she may not write
    pushes = [
        Push(callers["bob"], body(ada)),  # which ada signed
        Push(callers["ada"], body(ada)),
        Push(callers["eve"], body(eve)),
        Push(callers["bob"], body(bob)),
    ]
    brought, own, mixed, other = map(told, hub.pushing.push_all(pushes))
    assert set(brought) == {"relay", "gap"}
    assert set(own) == {"new"}
    assert set(other) == {"new"}
    assert sorted(mixed) == ["gap", "new", "new", "scope"]


def test_a_body_that_is_no_push_is_refused_alone(hub: Hub) -> None:
    ada = Writer("ada")
    caller = joined(hub, ada)
    chain(ada, "ada", 1)
    cut, other, good = hub.pushing.push_all(
        [
            Push(caller, body(ada)[:-1]),
            Push(caller, wire.frame(wire.OBJECT, b"")),
            Push(caller, body(ada)),
        ]
    )
    assert isinstance(cut, CorruptError)
    assert isinstance(other, UsageError)
    assert set(told(good)) == {"new"}


def test_a_segment_whose_start_comes_with_another_push_is_admitted_if_it_comes_later(hub: Hub) -> None:
    ada = Writer("ada")
    caller = joined(hub, ada)
    chain(ada, "ada", 1)
    start, *rest = (wire.frame(wire.SEGMENT, data) for data in ada.store.segments(View(), {}))
    early, first, late = hub.pushing.push_all(
        [Push(caller, rest[0]), Push(caller, start), Push(caller, b"".join(rest))]
    )
    assert [told(early), told(first)] == [["gap"], ["new"]]
    assert set(told(late)) == {"new"}


def test_what_a_revoked_key_signed_is_refused_at_once(hub: Hub) -> None:
    ada, bob = Writer("ada", seed=1), Writer("bob", seed=2)
    callers = [joined(hub, writer) for writer in (ada, bob)]
    for writer in (ada, bob):
        chain(writer, writer.name, 1)
    hub.access.revoke_key(console(), ada.key.public)
    first, second = hub.pushing.push_all(
        [Push(caller, body(writer)) for caller, writer in zip(callers, (ada, bob), strict=True)]
    )
    assert told(first) == ["revoked", "gap"]
    assert set(told(second)) == {"new"}


def test_a_large_push_is_committed_in_parts_and_told_of_each(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmf.hub.pushing.SEGMENTS_AT_ONCE", 3)
    ada = Writer("ada")
    caller = joined(hub, ada)
    for n in range(4):
        ada.execution("ada/train", n)
        ada.seal()
    sizes = []
    frames = []
    for part in hub.pushing.push(Push(caller, body(ada))):
        sizes.append(hub.log.size())
        frames.append(part)
    assert sizes == [3, 5, 5]
    assert told(b"".join(frames)) == ["new"] * 5


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
