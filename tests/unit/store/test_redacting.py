"""Redaction: the bytes of a record leave a store wherever they are carried, and don't come back; on both databases."""

from collections.abc import Callable, Iterator

import pytest

from cmf.errors import CorruptError, NotFoundError
from cmf.graph.filter import Query
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, lacking, transfer
from tests import databases
from tests.histories import Writer, execution_id

pytestmark = pytest.mark.xdist_group("postgres")
Make = Callable[[], SqlStore]
SECRET = "hunter2hunter2"
SCOPE = "team/train"
NODE = model.execution_node(SCOPE, execution_id(1))


@pytest.fixture(params=["sqlite", "postgres"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return what makes an empty store in this kind of database."""
    made: list[SqlStore] = []
    server = request.getfixturevalue("database") if request.param == "postgres" else ""

    def empty() -> SqlStore:
        made.append(SqlStore(Postgres(server, within=databases.fresh()) if server else Sqlite(None)))
        return made[-1]

    yield empty
    for store in made:
        store.close()


def leaked(writer: Writer, scope: str = SCOPE) -> bytes:
    """Record an execution, and a parameter of it that nobody should have recorded; return its record's id."""
    writer.add(scope, model.Execution(id=execution_id(1), started=1))
    return writer.add(scope, model.Property(subject=NODE, key="param/password", value=SECRET, t=2))


def redaction(record: bytes, t: int = 9) -> model.Property:
    return model.Property(subject=f"record:{record.hex()}", key="redacted", value=True, t=t)


def sealed(writer: Writer) -> list[bytes]:
    """Return what a writer would send."""
    writer.seal()
    return list(writer.store.segments(View(), {}))


def bytes_of(store: SqlStore) -> bytes:
    return (
        b"".join(data for _, _, wire in store.stored() for _, data in segments.records_of(segments.from_wire(wire)))
        + repr(store.dump()).encode()
    )


def test_redacted_bytes_leave_what_is_sealed_and_what_is_not(make: Make) -> None:
    for early in (True, False):
        writer = Writer("w", store=make())
        record = leaked(writer)
        if early:
            writer.seal()
        writer.store.fold_pending()
        assert SECRET.encode() in bytes_of(writer.store)
        writer.add(SCOPE, redaction(record))
        writer.store.fold_pending()
        writer.seal()
        assert SECRET.encode() not in bytes_of(writer.store)
        with pytest.raises(NotFoundError):
            writer.store.find(record)
        before = writer.store.dump()
        writer.store.rebuild()
        assert writer.store.dump() == before


def test_a_fuller_body_fills_a_gap_but_not_what_is_redacted(make: Make) -> None:
    writer = Writer("w", store=make())
    record = leaked(writer)
    genesis, full = sealed(writer)
    frames = segments.body_of(segments.from_wire(full)).frames
    gaps = segments.to_wire(segments.with_body(segments.from_wire(full), [(id_, None) for id_, _ in frames]))
    store = make()
    peer = LocalPeer(store)
    assert [a.outcome for a in peer.admit([genesis, gaps])] == ["new", "new"]
    assert store.counts()["execution"] == 0
    assert [a.outcome for a in peer.admit([genesis, full])] == ["known", "known"]
    assert store.dump() == writer.store.dump()
    writer.add(SCOPE, redaction(record))
    writer.store.fold_pending()
    list(peer.admit(sealed(writer)))
    assert [a.outcome for a in peer.admit([genesis, full])] == ["known", "known"]
    assert SECRET.encode() not in bytes_of(store)
    assert store.dump() == writer.store.dump()


def test_a_redaction_that_was_here_first_keeps_the_bytes_out(make: Make) -> None:
    writer, officer = Writer("w", store=make()), Writer("officer", seed=2, store=make())
    record = leaked(writer)
    officer.add(SCOPE, redaction(record))
    store = make()
    list(LocalPeer(store).admit([*sealed(officer), *sealed(writer)]))
    assert SECRET.encode() not in bytes_of(store)
    later = make()
    list(transfer(LocalPeer(store), LocalPeer(later), View()))
    assert later.dump() == store.dump()


def test_a_redaction_reaches_its_scope_and_below_and_no_other(make: Make) -> None:
    for by, reaches in ((SCOPE, True), ("team/train/deep", False), ("other/train", False)):
        writer = Writer("w", store=make())
        record = leaked(writer)
        writer.add(by, redaction(record))
        writer.store.fold_pending()
        assert (SECRET.encode() not in bytes_of(writer.store)) is reaches, by


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_retracted_execution_stays_hidden_when_something_about_it_is_redacted(make: Make, is_sealed: bool) -> None:
    writer = Writer("w", store=make())
    record = leaked(writer)
    writer.add(SCOPE, model.Property(subject=NODE, key="retracted", value=True, t=3))
    if is_sealed:
        writer.seal()
    writer.store.fold_pending()
    assert not writer.store.index.select(Query()).executions
    writer.add(SCOPE, redaction(record))
    writer.store.fold_pending()
    assert SECRET.encode() not in bytes_of(writer.store)
    assert not writer.store.index.select(Query()).executions
    before = writer.store.dump()
    writer.store.rebuild()
    assert writer.store.dump() == before


def test_nothing_takes_a_redaction_back(make: Make) -> None:
    writer = Writer("w", store=make())
    record = leaked(writer)
    genesis, full = sealed(writer)
    said = writer.add(SCOPE, redaction(record))
    about = f"record:{record.hex()}"
    writer.add(SCOPE, model.Property(subject=about, key="redacted", value=None, t=99))
    writer.add(SCOPE, model.Property(subject=f"record:{said.hex()}", key="retracted", value=True, t=99))
    writer.add(SCOPE, redaction(said))
    writer.store.fold_pending()
    writer.seal()
    list(LocalPeer(writer.store).admit([genesis, full]))
    assert SECRET.encode() not in bytes_of(writer.store)
    assert writer.store.find(said)


def test_what_is_recorded_next_is_folded_though_its_place_was_that_of_a_redacted_record(make: Make) -> None:
    writer = Writer("w", store=make())
    record = leaked(writer)
    writer.store.fold_pending()
    officer = Writer("officer", seed=2, store=make())
    officer.add(SCOPE, redaction(record))
    list(LocalPeer(writer.store).admit(sealed(officer)))
    writer.add(SCOPE, model.Property(subject=NODE, key="title", value="next", t=3))
    writer.store.fold_pending()
    (view,) = writer.store.index.executions(list(writer.store.index.nodes([NODE]).values())).values()
    assert view.properties["title"] == "next"


def test_a_body_with_redacted_records_must_still_be_what_its_header_names(make: Make) -> None:
    writer = Writer("w", store=make())
    leaked(writer)
    full = segments.from_wire(sealed(writer)[1])
    frames = segments.body_of(full).frames
    first, second = frames[0], frames[1]
    assert segments.check_body(segments.with_body(full, [first, (second[0], None)]))
    for forged in ([first, (first[0], None)], [(second[0], None), first], [first], [first, (second[0], b"{}")]):
        with pytest.raises(CorruptError):
            segments.check_body(segments.with_body(full, forged))


def test_what_a_site_called_itself_goes_with_the_last_record_that_says_it(make: Make) -> None:
    writer = Writer("w", store=make())
    leaked(writer)
    said = [
        writer.add(SCOPE, model.Property(subject=NODE, key=f"process/1-aaaaaaaa/{rank}", value=value, t=rank + 1))
        for rank, value in enumerate(({"site": {"name": "lab"}}, {"site": {"name": "lab"}}, "lab"))
    ]
    writer.seal()
    for record, left in zip(said, (1, 0, 0), strict=True):
        writer.add(SCOPE, redaction(record))
        writer.store.fold_pending()
        assert len(list(writer.store.samples(View(sites=("lab",))))) == left


def test_who_pulled_a_part_before_hears_of_a_redaction_when_they_pull_it_again(make: Make) -> None:
    writer, officer = Writer("w"), Writer("officer", seed=2)
    record = leaked(writer)
    writer.add(SCOPE, model.Property(subject=NODE, key="metric/f1", value=1, t=2))
    other = writer.execution("team/other", 2)
    writer.seal()
    hub, part, whole = make(), make(), make()
    local, view = LocalPeer(part), View(where="metrics.f1 = 1")
    list(transfer(LocalPeer(writer.store), LocalPeer(hub), View()))
    list(transfer(LocalPeer(hub), LocalPeer(whole), View()))
    assert {a.outcome for a in local.take(lacking(LocalPeer(hub), part, view))} == {"new"}
    assert SECRET.encode() in bytes_of(part)
    assert part.index.nodes([other]) == {}
    officer.add(SCOPE, redaction(record))
    officer.execution("team/other", 3)
    officer.seal()
    list(transfer(LocalPeer(officer.store), LocalPeer(hub), View()))
    [admission] = [a for a in local.take(lacking(LocalPeer(hub), part, view)) if a.records]
    assert admission.scope == SCOPE
    assert list(lacking(LocalPeer(hub), part, view)) == []
    list(transfer(LocalPeer(hub), LocalPeer(whole), View()))
    for store in (hub, part, whole):
        assert SECRET.encode() not in bytes_of(store)
        with pytest.raises(NotFoundError):
            store.find(record)
        before = store.dump()
        store.rebuild()
        assert store.dump() == before
    assert whole.dump() == hub.dump()


def test_a_part_that_is_pulled_after_a_redaction_is_without_the_bytes_and_keeps_them_out(make: Make) -> None:
    writer, officer = Writer("w"), Writer("officer", seed=2)
    record = leaked(writer)
    full = sealed(writer)
    officer.add(SCOPE, redaction(record))
    hub, part = make(), make()
    list(LocalPeer(hub).admit([*full, *sealed(officer)]))
    list(LocalPeer(part).take(LocalPeer(hub).get(hub.about(list(hub.index.nodes([NODE]).values())))))
    assert part.counts()["execution"] == 1
    assert {a.outcome for a in LocalPeer(part).admit(full)} == {"known"}
    assert SECRET.encode() not in bytes_of(part)
    later = make()
    list(transfer(LocalPeer(part), LocalPeer(later), View()))
    assert SECRET.encode() not in bytes_of(later)


@pytest.mark.parametrize("first", ["record", "redaction"])
def test_hubs_that_hear_of_a_record_and_its_redaction_by_different_ways_come_to_hold_the_same(
    make: Make, first: str
) -> None:
    writer, officer = Writer("w"), Writer("officer", seed=2)
    record = leaked(writer)
    officer.add(SCOPE, redaction(record))
    told = {"record": sealed(writer), "redaction": sealed(officer)}
    one, other = LocalPeer(near := make()), LocalPeer(far := make())
    list(one.admit(told.pop(first)))
    list(other.admit(next(iter(told.values()))))
    for _ in range(2):  # the second turn moves nothing
        list(transfer(one, other, View()))
        list(transfer(other, one, View()))
    assert near.dump() == far.dump()
    assert SECRET.encode() not in bytes_of(near) + bytes_of(far)
    assert sorted(near.segments(View(), {})) == sorted(far.segments(View(), {}))
