from pathlib import Path

import pytest

from cmf import signing
from cmf.errors import ConflictError, NotFoundError
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store import sealing, sql
from cmf.store.schema import DERIVED, DERIVED_TABLES
from cmf.store.sql import Read, SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer, verify
from tests.histories import Writer
from tests.property.store_histories import Fact, Site, accepted
from tests.unit.store.book import Book, artifact


@pytest.fixture
def book() -> Book:
    return Book()


def bodies(site: Site) -> list[list[tuple[bytes, bytes]]]:
    """Return the records of each segment, in order of scope and position."""
    found = [segments.records_of(segments.from_wire(wire)) for _, _, wire in site.store.stored()]
    return [records for records in found if records]


def test_a_seal_cuts_at_a_thousand_records(book: Book) -> None:
    run = book.run("p/a", 1)
    book.store.add(
        [("p/a", *model.salted(model.Property(subject=run, key=f"tag/{n}", t=n), b"s")) for n in range(2500)]
    )
    assert book.seal() == 3
    assert [len(records) for records in bodies(book)] == [1000, 1000, 501]
    assert list(verify(book.store)) == [None] * 4


@pytest.mark.parametrize("rows", [1, 7, 1001])
def test_a_seal_that_reads_by_parts_makes_the_same_segments(
    book: Book, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    run = book.run("p/a", 1)
    drafts = [("p/a", *model.salted(model.Property(subject=run, key=f"tag/{n}", t=n), b"s")) for n in range(1500)]
    monkeypatch.setattr(sealing, "READ_ROWS", rows)
    book.store.add([*drafts, *drafts[:40]])
    assert book.seal() == 2
    ids = [id_ for records in bodies(book) for id_, _ in records]
    assert [len(records) for records in bodies(book)] == [1000, 501]
    assert ids[1:] == [id_ for _, id_, _ in drafts]
    assert list(verify(book.store)) == [None] * 3


def test_a_seal_cuts_at_256_kib_and_keeps_a_record_that_is_large_alone(book: Book) -> None:
    run = book.run("p/a", 1)
    for n in range(20):
        book.say(run, f"tag/{n}", "x" * 60_000)
    book.seal()
    sizes = [sum(len(data) + 5 for _, data in records) for records in bodies(book)]
    assert max(sizes) <= segments.SIZE_BYTES_CUT
    assert sum(len(records) for records in bodies(book)) == 21
    assert all(size > segments.SIZE_BYTES_CUT - 70_000 for size in sizes[:-1])


def test_a_stream_carries_each_artifact_once_and_every_stream_its_own(book: Book) -> None:
    digest = artifact("data").removeprefix("artifact:")
    first, other = book.run("p/a", 1), book.run("p/b", 2)
    for n in range(3):
        book.made(first, "data", name=f"n{n}")
        book.used(other, "data", name=f"n{n}")
        book.seal()
    carried = [
        segments.from_wire(wire).stream
        for _, _, wire in book.store.stored()
        for _, data in segments.records_of(segments.from_wire(wire))
        if model.trusted(data) == model.Artifact(digest=digest)
    ]
    assert len(carried) == len(set(carried)) == 2
    before = book.store.dump()
    book.tell("p/a", model.Artifact(digest=digest))
    assert book.seal() == 0
    assert (book.store.counts()["pending"], book.store.dump()) == (0, before)


def test_a_store_from_before_a_stream_of_its_own_gets_it_back_and_sends_it_on() -> None:
    facts = [Fact("p/a", *_property(n)) for n in range(3)]
    lost, hub, other, back = Site("site"), Site("hub"), Site("other hub"), Site("site")
    lost.record(facts[0])
    lost.push(hub)
    back.pull(hub)
    back.push(other, View(own=True))
    assert other.store.dump() == hub.store.dump()
    back.record(facts[1])
    back.push(other, View(own=True))
    assert [stream["n"] for stream in other.store.streams()] == [2]


def test_a_stream_that_comes_back_is_the_writers_own_whichever_of_their_keys_sealed_it() -> None:
    before, hub, back = Writer("site", seed=1), SqlStore(Sqlite(None)), SqlStore(Sqlite(None))
    before.execution("p/a", 1)
    before.seal()
    list(transfer(LocalPeer(before.store), LocalPeer(hub), View(own=True)))
    list(transfer(LocalPeer(hub), LocalPeer(back), View()))
    (site,) = {stream["site"] for stream in hub.streams()}

    def own(site: str, *had: bytes) -> list[int]:
        back.seal(signing.Key(b"n" * 32), site, now=1, nonce=lambda: b"n" * 16, had=had)
        return [stream["own"] for stream in back.streams()]

    assert own(site, b"o" * 32) == [0]
    assert own("another site", before.key.public) == [0]
    assert own(site, before.key.public) == [1]


def _property(n: int) -> tuple[bytes, bytes]:
    return model.salted(model.Property(subject="scope", key="title", value=n, t=n), b"secret")


def test_nothing_is_sealed_while_an_event_waits_for_its_origin(book: Book) -> None:
    maker, user = book.run("p/a", 1), book.run("p/b", 2)
    book.made(maker, "data")
    event = book.used(user, "data")
    book.store.add([], [("p/b", event)])
    with pytest.raises(ConflictError):
        book.seal()
    assert book.store.counts()["segment"] == 0
    link = model.salted(model.Link(source=f"record:{event.hex()}", rel="via", to=maker), b"s")
    book.store.settle([("p/b", event)], [("p/b", *link)])
    assert book.store.origins() == []
    assert book.seal() == 2
    assert book.steps(user) == {(maker, "via")}


def test_a_seal_folds_what_another_process_committed_meanwhile(book: Book) -> None:
    id_, data = model.salted(model.Execution(id="00000001-0000-7000-8000-000000000001", started=1), b"s")
    book.store.add([("p/a", id_, data)])
    assert book.store.counts()["execution"] == 0
    book.seal()
    assert book.store.counts()["execution"] == 1


def test_a_journal_read_by_two_collectors_is_taken_once(book: Book) -> None:
    id_, data = model.salted(model.Property(subject="scope", key="title", value="x", t=1), b"s")
    assert book.store.take([Read("host-1.j", "", "10", [("p/a", id_, data)], [("p/a", id_)])]) == [True]
    assert book.store.take([Read("host-1.j", "", "10", [("p/a", id_, data)])]) == [False]
    other = Read("host-2.j", "", "7", [])
    assert book.store.take([Read("host-1.j", "5", "20", []), other]) == [False, True]
    assert book.store.take([Read("host-1.j", "10", "20", [("p/a", id_, data)])]) == [True]
    assert book.store.journals() == {"host-1.j": "20", "host-2.j": "7"}
    assert (book.store.counts()["pending"], book.store.counts()["waiting"]) == (1, 1)
    book.store.forget_journal("host-1.j")
    assert book.store.journals() == {"host-2.j": "7"}


def test_rebuilding_in_small_batches_hides_what_was_retracted(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    run = book.run("p/a", 1, params={"lr": 1})
    for n in range(6):
        event = book.made(run, f"data{n}")
        said = book.say(run, "param/lr", n)
        for record in (event, said) if n % 2 else ():
            book.say(f"record:{record.hex()}", "retracted", True)
    book.seal()
    book.say(run, "title", "not sealed")
    before = book.store.dump()
    for size in range(1, 9):
        monkeypatch.setattr(sql, "FOLD_RECORDS", size)
        assert book.store.rebuild() == 26
        assert book.store.dump() == before, size


def test_a_push_of_known_executions_brings_what_was_said_of_them_since(book: Book) -> None:
    hub, reader = Site("hub"), Site("reader")
    run = book.run("p/a", 1, params={"lr": 1})
    book.say(run, "metric/f1", 0.5)
    book.made(run, "model")
    book.push(hub)
    reader.pull(hub)
    book.say(run, "metric/f1", 0.9)
    book.say(run, "metric/late", 1)
    book.say(run, "title", "best so far")
    book.made(run, "report")
    sent = book.push(hub)
    assert [(admission.outcome, admission.records) for admission in sent] == [("new", 5)]
    assert [admission.records for admission in reader.pull(hub)] == [5]
    for store in (hub.store, reader.store):
        [view] = store.index.executions(list(store.index.nodes([run]).values())).values()
        assert (view.metrics, view.properties) == ({"f1": 0.9, "late": 1}, {"title": "best so far"})
        assert [use.path for use in view.outputs] == ["model", "report"]
    assert book.push(hub) == reader.pull(hub) == []


def test_a_segment_without_the_one_before_it_is_a_conflict_unless_it_is_sparse(book: Book) -> None:
    hub, reader = Site("hub"), Site("reader")
    for n in range(4):
        book.run("p/a", n)
        book.seal()
    wires = [wire for _, _, wire in book.store.stored()]
    assert [a.kind for a in reader.peer.admit(wires[1:2])] == ["gap"]
    accepted(reader.peer.admit(wires[:1]))
    assert [a.kind for a in reader.peer.admit(wires[3:4])] == ["gap"]
    accepted(reader.peer.take([wires[3], wires[4], wires[2]]))
    assert reader.store.counts()["execution"] == 3
    assert [sample.points[0].n for sample in reader.store.samples(View())] == [0]
    hub.pull(reader)  # what is sparse is not offered
    assert hub.store.counts()["execution"] == 0
    assert [a.outcome for a in reader.pull(book)] == ["new", "known", "known", "known"]
    assert [sample.points[0].n for sample in reader.store.samples(View())] == [4]
    assert reader.store.dump() == book.store.dump()


def test_a_sparse_segment_whose_predecessors_come_is_complete_by_itself(book: Book) -> None:
    reader = Site("reader")
    for n in range(3):
        book.run("p/a", n)
        book.seal()
    wires = [wire for _, _, wire in book.store.stored()]
    accepted(reader.peer.take([wires[0], wires[2], wires[3]]))
    assert reader.store.streams()[0]["n"] == 0
    accepted(reader.peer.admit([wires[1]]))
    assert reader.store.streams()[0]["n"] == 3
    assert reader.pull(book) == []
    assert len(Site("third").pull(reader)) == 4


def test_about_brings_a_retraction_that_was_said_above_and_not_one_said_beside(book: Book) -> None:
    hub, reader = Site("hub"), Site("reader")
    run = book.run("p/a/deep", 1)
    made = book.made(run, "data", name="model")
    other = book.made(run, "more", name="other")
    book.seal()
    book.say(f"record:{made.hex()}", "retracted", True, scope="p/a")
    book.say(f"record:{other.hex()}", "retracted", True, scope="p/b")
    book.push(hub)
    reader.sparsely(hub, run)
    [view] = reader.store.index.executions(list(reader.store.index.nodes([run]).values())).values()
    assert [use.name for use in view.outputs] == ["other"]
    assert {scope for scope, _, _ in reader.store.stored()} == {"p/a", "p/a/deep"}


def test_about_names_the_segments_that_hold_an_execution_and_no_others(book: Book) -> None:
    hub, reader = Site("hub"), Site("reader")
    runs = [book.run(scope, n) for n, scope in enumerate(("p/a", "p/a", "p/a", "q/b"))]
    book.seal()
    made = []
    for n, run in enumerate(runs):
        made.append(book.made(run, f"data{n}", name=f"model{n}"))
        book.seal()
    book.say(f"record:{made[3].hex()}", "retracted", True, scope="q/b")
    book.seal()
    for n in (1, 2):
        book.say(artifact(f"data{n}"), "title", "good", scope="p/a")
        book.seal()
    book.say("scope", "label/model1@best", {"artifact": artifact("data1")[9:], "name": "model1"}, scope="p/a")
    book.push(hub)
    reader.sparsely(hub, runs[1])
    assert reader.store.index.resolve("model1@best").execution == runs[1]
    assert [write.value for write in reader.store.index.history(artifact("data1"))] == ["good"]
    assert reader.store.index.history(artifact("data2")) == []
    assert set(reader.store.index.nodes(runs)) == {*runs[:3]}
    assert reader.store.counts()["event"] == 1
    reader.sparsely(hub, runs[3])
    [view] = reader.store.index.executions(list(reader.store.index.nodes(runs[3:]).values())).values()
    assert view.known
    assert view.outputs == ()  # its retraction came along


def test_records_are_found_by_id_and_what_is_missing_is_not(book: Book) -> None:
    id_ = book.tell("p/a", model.Artifact(digest=digests.EMPTY))
    pending = book.store.find(id_)
    book.seal()
    assert book.store.find(id_) == pending
    with pytest.raises(NotFoundError):
        book.store.find(b"\0" * 32)
    assert list(book.store.get([b"\0" * 32])) == []


def test_objects_that_records_name_are_promised_until_they_come(book: Book) -> None:
    hub = Site("hub")
    run = book.run("p/a", 1)
    book.made(run, "small")
    book.made(run, "large", size=model.SENT_BYTES_MAX + 1)
    environment = digests.file_digest(b"environment")
    book.say(run, "process/1-a/0", {"environment": {"$object": environment}})
    book.push(hub)
    promised = hub.store.promised()
    assert promised == sorted([(environment, "p/a"), (artifact("small")[9:], "p/a")])
    assert hub.store.promised(["q/b"]) == []
    hub.store.kept(promised[:1])
    assert hub.store.promised(["p/a"]) == promised[1:]


def test_meta_is_kept_and_replaced(book: Book) -> None:
    assert book.store.meta("x") == ""
    book.store.set_meta("x", "1")
    book.store.set_meta("x", "2")
    assert book.store.meta("x") == "2"


def test_a_store_on_disk_says_the_same_after_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "cmf.db"
    book = Book(store=SqlStore(Sqlite(path)))
    book.made(book.run("p/a", 1), "data")
    book.seal()
    book.run("p/a", 2)
    dump = book.store.dump()
    book.store.checkpoint()
    book.store.close()
    again = SqlStore(Sqlite(path))
    assert again.dump() == dump
    again.rebuild()
    assert again.dump() == dump
    assert [problem for problem in verify(again) if problem] == []
    again.close()


def test_every_derived_table_can_be_dropped() -> None:
    made = {statement.split()[2] for statement in DERIVED if statement.startswith("CREATE TABLE")}
    assert made == set(DERIVED_TABLES)


def test_a_record_that_is_committed_twice_is_sealed_once(book: Book) -> None:
    record = model.salted(model.Property(subject="scope", key="title", value="x", t=1), b"s")
    later = model.salted(model.Property(subject="scope", key="title", value="y", t=2), b"s")
    for found in (record, later, record):
        book.store.add([("p/a", *found)])
    book.seal()
    assert book.store.counts()["pending"] == 0
    parts = [segments.from_wire(wire) for wire in book.store.segments(View(), {})]
    sealed = [id_ for part in parts if part.n for id_, _ in segments.records_of(part)]
    assert sealed == [record[0], later[0]]


def test_what_is_new_since_a_reading_is_read_whatever_was_sealed_meanwhile() -> None:
    book = Book()
    nodes = [book.run("p/a", n) for n in range(3)]
    reach = book.store.reach()
    assert len(list(book.store.records())) == 3
    assert list(book.store.records(reach)) == []
    book.seal()
    assert len(list(book.store.records(reach))) == 3, "they are in a segment that is new"
    reach = book.store.reach()
    # An artifact that the stream carries already is dropped, so that sealing it makes no segment.
    book.used(nodes[0], "data")
    book.seal()
    (artifact,) = [data for _, data in book.store.records() if b'"kind":"artifact"' in data]
    reach = book.store.reach()
    book.store.add([("p/a", digests.sha256(artifact), artifact)])
    book.store.fold_pending()
    before = book.store.reach()
    book.seal()
    assert book.store.reach() == reach
    book.run("p/a", 9)
    assert book.store.reach().pending == before.pending, "the numbers have begun again"
    assert len(list(book.store.records(before))) == 1
