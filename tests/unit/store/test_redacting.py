"""Redaction: the bytes of a record leave a store wherever they are carried, and don't come back."""

import pytest

from cmf.errors import CorruptError, NotFoundError
from cmf.graph.filter import Query
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer, execution_id

SECRET = "hunter2hunter2"
SCOPE = "team/train"
NODE = model.execution_node(SCOPE, execution_id(1))


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


def test_redacted_bytes_leave_what_is_sealed_and_what_is_not() -> None:
    for early in (True, False):
        writer = Writer("w")
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


def test_a_fuller_body_fills_a_gap_but_not_what_is_redacted() -> None:
    writer = Writer("w")
    record = leaked(writer)
    genesis, full = sealed(writer)
    frames = segments.body_of(segments.from_wire(full)).frames
    gaps = segments.to_wire(segments.with_body(segments.from_wire(full), [(id_, None) for id_, _ in frames]))
    store = SqlStore(Sqlite(None))
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


def test_a_redaction_that_was_here_first_keeps_the_bytes_out() -> None:
    writer, officer = Writer("w"), Writer("officer", seed=2)
    record = leaked(writer)
    officer.add(SCOPE, redaction(record))
    store = SqlStore(Sqlite(None))
    list(LocalPeer(store).admit([*sealed(officer), *sealed(writer)]))
    assert SECRET.encode() not in bytes_of(store)
    later = SqlStore(Sqlite(None))
    list(transfer(LocalPeer(store), LocalPeer(later), View()))
    assert later.dump() == store.dump()


def test_a_redaction_reaches_its_scope_and_below_and_no_other() -> None:
    for by, reaches in ((SCOPE, True), ("team/train/deep", False), ("other/train", False)):
        writer = Writer("w")
        record = leaked(writer)
        writer.add(by, redaction(record))
        writer.store.fold_pending()
        assert (SECRET.encode() not in bytes_of(writer.store)) is reaches, by


@pytest.mark.parametrize("is_sealed", [True, False])
def test_a_retracted_execution_stays_hidden_when_something_about_it_is_redacted(is_sealed: bool) -> None:
    writer = Writer("w")
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


def test_nothing_takes_a_redaction_back() -> None:
    writer = Writer("w")
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


def test_what_is_recorded_next_is_folded_though_its_place_was_that_of_a_redacted_record() -> None:
    writer = Writer("w")
    record = leaked(writer)
    writer.store.fold_pending()
    officer = Writer("officer", seed=2)
    officer.add(SCOPE, redaction(record))
    list(LocalPeer(writer.store).admit(sealed(officer)))
    writer.add(SCOPE, model.Property(subject=NODE, key="title", value="next", t=3))
    writer.store.fold_pending()
    (view,) = writer.store.index.executions(list(writer.store.index.nodes([NODE]).values())).values()
    assert view.properties["title"] == "next"


def test_a_body_with_redacted_records_must_still_be_what_its_header_names() -> None:
    writer = Writer("w")
    leaked(writer)
    full = segments.from_wire(sealed(writer)[1])
    frames = segments.body_of(full).frames
    first, second = frames[0], frames[1]
    assert segments.check_body(segments.with_body(full, [first, (second[0], None)]))
    for forged in ([first, (first[0], None)], [(second[0], None), first], [first], [first, (second[0], b"{}")]):
        with pytest.raises(CorruptError):
            segments.check_body(segments.with_body(full, forged))


def test_what_a_site_called_itself_goes_with_the_last_record_that_says_it() -> None:
    writer = Writer("w")
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
