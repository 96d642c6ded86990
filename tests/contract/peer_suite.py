"""What every end of a transfer must do. A peer's test gives the class a fixture `peer`, empty in the test's scopes."""

import itertools

import pytest

from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.digest import sha256
from cmf.model.exchange import Admission, View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, Peer, lacking, transfer
from tests.histories import Writer, chain

_numbers = itertools.count(1)


def outcomes(admissions: list[Admission]) -> list[str]:
    return [admission.outcome for admission in admissions]


class PeerSuite:
    @pytest.fixture
    def pipeline(self) -> str:
        return f"case{next(_numbers)}"

    @pytest.fixture
    def writer(self, pipeline: str) -> Writer:
        return Writer(pipeline, seed=next(_numbers) % 250 + 1)

    def view(self, pipeline: str) -> View:
        return View(scopes=(f"{pipeline}/*",))

    def test_what_is_pushed_is_pulled_again_whole(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 6)
        pushed = list(transfer(LocalPeer(writer.store), peer, View(own=True)))
        assert set(outcomes(pushed)) == {"new"}
        other = SqlStore(Sqlite(None))
        pulled = list(transfer(peer, LocalPeer(other), self.view(pipeline)))
        assert len(pulled) == len(pushed)
        assert other.dump() == writer.store.dump()

    def test_a_second_transfer_moves_nothing(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 6)
        local = LocalPeer(writer.store)
        list(transfer(local, peer, View(own=True)))
        assert list(transfer(local, peer, View(own=True))) == []
        assert list(transfer(peer, local, self.view(pipeline))) == []

    def test_only_the_difference_moves(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 6)
        local = LocalPeer(writer.store)
        list(transfer(local, peer, View(own=True)))
        writer.execution(f"{pipeline}/stage0", 99)
        writer.seal()
        moved = list(transfer(local, peer, View(own=True)))
        assert [(a.outcome, a.n, a.scope) for a in moved] == [("new", 2, f"{pipeline}/stage0")]

    def test_duplicates_are_known_and_change_nothing(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 3)
        wires = list(writer.store.segments(View(own=True), {}))
        assert set(outcomes(list(peer.admit(wires)))) == {"new"}
        assert set(outcomes(list(peer.admit(wires + wires)))) == {"known"}

    def test_a_view_limits_what_moves(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 6)
        list(transfer(LocalPeer(writer.store), peer, View(own=True)))
        other = SqlStore(Sqlite(None))
        list(transfer(peer, LocalPeer(other), View(scopes=(f"{pipeline}/stage1",))))
        assert {stream["scope"] for stream in other.streams()} == {f"{pipeline}/stage1"}

    def test_a_view_of_a_site_by_its_name_moves_its_whole_streams_and_no_others(
        self, peer: Peer, writer: Writer, pipeline: str
    ) -> None:
        scope = f"{pipeline}/stage0"
        writer.called(writer.execution(scope, 1), f"lab-{pipeline}")
        writer.seal()
        writer.execution(f"{pipeline}/stage1", 2)  # of the same site, though it doesn't say its name there
        writer.seal()
        guest = Writer(f"{pipeline}-guest", seed=252)
        guest.called(guest.execution(scope, 3), "guest")
        guest.seal()
        for one in (writer, guest):
            list(transfer(LocalPeer(one.store), peer, View(own=True)))
        for site in (f"lab-{pipeline}", f"site-{pipeline}"):
            other = SqlStore(Sqlite(None))
            view = View(scopes=(f"{pipeline}/*",), sites=(site,))
            list(transfer(peer, LocalPeer(other), view))
            assert other.dump() == writer.store.dump()
            assert list(transfer(peer, LocalPeer(other), view)) == []
        other = SqlStore(Sqlite(None))
        assert list(transfer(peer, LocalPeer(other), View(sites=("nobody",)))) == []

    def test_a_filter_finds_all_about_an_execution_and_what_is_whole_comes_behind_it(
        self, peer: Peer, writer: Writer, pipeline: str
    ) -> None:
        made = []
        for number in range(1, 6):
            made.append(writer.execution(f"{pipeline}/stage0", number, writes=(f"{pipeline}-{number}",)))
            writer.seal()
        writer.add(f"{pipeline}/stage0", model.Property(subject=made[2], key="label/good", value=True, t=9_000))
        writer.seal()
        list(transfer(LocalPeer(writer.store), peer, View(own=True)))
        other = SqlStore(Sqlite(None))
        local = LocalPeer(other)
        view = View(scopes=(f"{pipeline}/*",), where="params.number = 3")
        assert set(outcomes(list(local.take(lacking(peer, other, view))))) == {"new"}
        assert list(lacking(peer, other, view)) == []
        (wanted,) = writer.store.index.nodes([made[2]]).values()
        (found,) = other.index.nodes([made[2]]).values()
        assert other.index.executions([found])[found] == writer.store.index.executions([wanted])[wanted]
        list(transfer(peer, local, self.view(pipeline)))
        assert other.dump() == writer.store.dump()
        assert list(transfer(peer, local, self.view(pipeline))) == []

    def test_a_gap_is_refused_as_a_conflict_and_nothing_behind_it_shows(
        self, peer: Peer, writer: Writer, pipeline: str
    ) -> None:
        for number in range(3):
            writer.execution(f"{pipeline}/stage0", number)
            writer.seal()
        genesis, first, second, third = writer.store.segments(View(own=True), {})
        found = list(peer.admit([genesis, second, third]))
        assert outcomes(found) == ["new", "refused", "refused"]
        assert found[1].kind == "gap"
        assert outcomes(list(peer.admit([first, second, third]))) == ["new", "new", "new"]

    def test_a_segment_without_its_streams_start_is_refused(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        writer.execution(f"{pipeline}/stage0", 1)
        writer.seal()
        _, first = writer.store.segments(View(own=True), {})
        (found,) = peer.admit([first])
        assert (found.outcome, found.kind) == ("refused", "gap")

    def test_a_flipped_byte_anywhere_is_refused_and_nothing_shows(
        self, peer: Peer, writer: Writer, pipeline: str
    ) -> None:
        writer.execution(f"{pipeline}/stage0", 1)
        writer.seal()
        genesis, first = writer.store.segments(View(own=True), {})
        list(peer.admit([genesis]))
        damaged = []
        for at in range(0, len(first), 7):
            flipped = bytearray(first)
            flipped[at] ^= 0x10
            damaged.append(bytes(flipped))
        assert set(outcomes(list(peer.admit(damaged)))) == {"refused"}
        other = SqlStore(Sqlite(None))
        list(transfer(peer, LocalPeer(other), self.view(pipeline)))
        assert other.counts()["execution"] == 0
        assert outcomes(list(peer.admit([first]))) == ["new"]

    def test_a_segment_of_another_writers_stream_is_refused(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        writer.execution(f"{pipeline}/stage0", 1)
        writer.seal()
        genesis, _ = writer.store.segments(View(own=True), {})
        list(peer.admit([genesis]))
        thief = Writer(f"{pipeline}-thief", seed=251)
        id_, data = model.salted(model.Property(subject="scope", key="k", value=1, t=1), thief.secret)
        stream = segments.from_wire(genesis).hash
        forged = segments.seal(stream, stream, 1, [(id_, data, 1)], thief.key, now=1)
        (found,) = peer.admit([segments.to_wire(forged)])
        assert (found.outcome, found.kind) == ("refused", "signature")

    def test_a_refusal_in_one_stream_does_not_hold_up_another(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        chain(writer, pipeline, 3)
        wires = list(writer.store.segments(View(own=True), {}))
        wires[1] = wires[1][:-4] + b"\0\0\0\0"
        assert outcomes(list(peer.admit(wires))) == ["new", "refused", "new", "new", "new", "new"]

    def test_both_branches_of_a_fork_are_kept(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        scope = f"{pipeline}/stage0"
        writer.execution(scope, 1)
        writer.seal()
        wires = list(writer.store.segments(View(own=True), {}))
        parent = segments.from_wire(wires[-1])
        branches = []
        for value in (1, 2):
            id_, data = model.salted(model.Property(subject="scope", key="k", value=value, t=value), writer.secret)
            sealed = segments.seal(parent.stream, parent.hash, 2, [(id_, data, value)], writer.key, now=1)
            branches.append(segments.to_wire(sealed))
        assert set(outcomes(list(peer.admit(wires + branches)))) == {"new"}
        other = SqlStore(Sqlite(None))
        list(transfer(peer, LocalPeer(other), self.view(pipeline)))
        assert len(list(other.segments(View(), {}))) == 4
        assert list(transfer(peer, LocalPeer(other), self.view(pipeline))) == []
        assert list(transfer(LocalPeer(other), peer, self.view(pipeline))) == []

    def test_unknown_kinds_pass_through_byte_for_byte(self, peer: Peer, writer: Writer, pipeline: str) -> None:
        data = b'{"kind":"verse","salt":"00","text":"roses"}'
        writer.store.add([(f"{pipeline}/stage0", sha256(data), data)])
        writer.seal()
        list(transfer(LocalPeer(writer.store), peer, View(own=True)))
        other = SqlStore(Sqlite(None))
        list(transfer(peer, LocalPeer(other), self.view(pipeline)))
        assert other.find(sha256(data)) == data

    def test_bytes_that_are_no_segment_are_refused_each_on_its_own(self, peer: Peer, writer: Writer) -> None:
        writer.execution("junk/stage0", 1)
        for junk in (b"", b"\0", b"\xff" * 100, b"\x10\0" + b"{}" * 50):
            assert outcomes(list(peer.admit([junk]))) == ["refused"]
