"""That a hub logged what it sent or took in is shown, kept, and checked again without the hub."""

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from cmf import sync, witness
from cmf.model import wire
from cmf.model.exchange import EVERYTHING, View
from cmf.model.wire import Role
from cmf.objects.local import LocalObjects
from cmf.remote import HubClient
from cmf.signing import Key
from cmf.store.dialect import Connection
from cmf.transfer import LocalPeer, transfer, verify
from tests.histories import Writer
from tests.hubs import HubProcess, running


@pytest.fixture
def process(tmp_path: Path) -> Iterator[HubProcess]:
    with running(tmp_path / "hub", tmp_path / "state") as found:
        yield found


class Site:
    """A store that pushes and pulls, and has the hub show what it logged."""

    def __init__(self, folder: Path, client: HubClient, name: str) -> None:
        self.writer = Writer(name, seed=len(name))
        self.store = self.writer.store
        self.objects = LocalObjects(folder / name)
        self.client = client
        self.count = 0

    def push(self) -> list[str]:
        """Record something, and send it."""
        self.count += 1
        self.writer.execution(f"p/{self.writer.name}", self.count)
        self.writer.seal()
        warnings: list[str] = []
        done = list(transfer(LocalPeer(self.store), self.client.peer, View(own=True)))
        witness.prove(self.store, self.client, [bytes.fromhex(one.hash) for one in done], warnings)
        return warnings

    def pull(self, view: View = EVERYTHING) -> list[str]:
        return sync.pull(self.store, self.objects, self.client, views=(view,)).warnings

    def shown(self) -> tuple[int, int, list[tuple[str, str]]]:
        found = witness.check(self.store)
        return found.shown, found.open, [(problem.where, problem.what) for problem in found.problems]

    def all_shown(self) -> bool:
        return self.shown() == (self.store.counts()["segment"], 0, [])


def test_what_was_sent_and_taken_in_is_shown_however_the_log_grows(process: HubProcess, tmp_path: Path) -> None:
    client = process.client(tmp_path / "keys")
    one, other, whole, part = (Site(tmp_path, client, name) for name in ("one", "other", "whole", "partly"))
    for number in range(12):
        assert (other if number % 3 else one).push() == []
        if number % 4 == 1:
            assert whole.pull() == []
            assert part.pull(View(where="params.number = 3")) == []
    assert whole.pull() == part.pull(View(where="params.number > 2")) == []
    assert all(site.all_shown() for site in (one, other, whole, part))
    assert part.store.counts()["segment"] < whole.store.counts()["segment"] == 14
    assert [witness.ask(site.store, client).problems for site in (one, whole, part)] == [[], [], []]


def test_what_shows_a_segment_is_kept_whole_or_not_at_all_wherever_it_is_cut(
    process: HubProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cut(BaseException):
        pass

    one = Site(tmp_path, process.client(tmp_path / "keys"), "one")
    write, left = one.store._sql.write, [0]

    def cut(*, durable: bool = False) -> AbstractContextManager[Connection]:
        left[0] -= 1
        if left[0] < 0:
            raise Cut
        return write(durable=durable)

    for writes in range(6):
        monkeypatch.setattr(one.store._sql, "write", write)
        one.writer.execution("p/one", writes)
        one.writer.seal()
        list(transfer(LocalPeer(one.store), one.client.peer, View(own=True)))
        left[0] = writes
        monkeypatch.setattr(one.store._sql, "write", cut)
        with contextlib.suppress(Cut):
            witness.prove(one.store, one.client, _hashes(one), [])
        shown, _, problems = one.shown()
        assert problems == []
        assert bool(one.store.meta(f"hub {process.url} tree")) == bool(shown)
    assert left[0] > 0
    assert one.all_shown()


def _hashes(site: Site) -> list[bytes]:
    return [hash_ for _, _, hash_, _ in site.store.chained()]


def test_a_segment_that_was_shown_and_is_not_here_any_more_is_named(process: HubProcess, tmp_path: Path) -> None:
    one = Site(tmp_path, process.client(tmp_path / "keys"), "one")
    for _ in range(3):
        one.push()
    hash_ = one.store.chained()[-1][2]
    with one.store._sql.write() as connection:
        connection.execute("DELETE FROM segment WHERE hash = ?", (hash_,))
    _, _, problems = one.shown()
    assert problems == [
        (f"segment {hash_.hex()[:12]}", f"it is entry 3 of the log of {process.url}, and is not here any more")
    ]


def test_a_segment_before_another_that_is_gone_or_stands_elsewhere_is_named(
    process: HubProcess, tmp_path: Path
) -> None:
    one = Site(tmp_path, process.client(tmp_path / "keys"), "one")
    for _ in range(3):
        one.push()
    (_, _, first, _), (_, _, second, _) = one.store.chained()[1:3]
    with one.store._sql.write() as connection:
        connection.execute(
            "UPDATE segment SET header = (SELECT header FROM segment WHERE hash = ?), "
            "signature = (SELECT signature FROM segment WHERE hash = ?), "
            "body = (SELECT body FROM segment WHERE hash = ?) WHERE hash = ?",
            (first, first, first, second),
        )
    found = [problem for problem in verify(one.store) if problem is not None]
    assert [(each.where, each.what) for each in found] == [
        (f"segment 2 of p/one ({second.hex()[:12]})", "other bytes stand in its place.")
    ]
    with one.store._sql.write() as connection:
        connection.execute("DELETE FROM segment WHERE hash = ?", (second,))
    assert "before it" in next(problem.what for problem in verify(one.store) if problem is not None)


def test_a_damaged_part_of_a_log_is_named_where_the_segment_itself_is_that_part(
    process: HubProcess, tmp_path: Path
) -> None:
    one = Site(tmp_path, process.client(tmp_path / "keys"), "one")
    for _ in range(2):
        one.push()
    assert one.all_shown()
    with one.store._sql.write() as connection:
        done = connection.execute("UPDATE proof_node SET hash = ? WHERE level = 0 AND place = 2", (b"\1" * 32,))
        assert done.rowcount == 1
    ((where, what),) = one.shown()[2]
    assert where == f"log of {process.url}"
    assert what.startswith("its entry 2 is not what was seen there")


class Liar(HubClient):
    """A hub that answers with something else."""

    lie: str = ""

    def proofs(self, hashes: Sequence[bytes], size: int, since: int) -> wire.Proofs:
        answer = super().proofs(hashes, size, since)
        entries, nodes = dict(answer.entries), list(answer.nodes)
        match self.lie:
            case "another place":
                entries = {text: position ^ 1 for text, position in entries.items()}
            case "one twice":
                entries = dict.fromkeys(entries, 0)
            case "a part left out":
                nodes = nodes[1:]
            case "another tree":
                nodes = [(level, place, "00" * 32) for level, place, _ in nodes]
            case "nothing of it":
                return super().proofs([], size, since)
            case "no such place":
                entries = {text: position + 1000 for text, position in entries.items()}
            case "what nobody asked for":
                entries["11" * 32] = 2
        return wire.Proofs(checkpoint=answer.checkpoint, proof=answer.proof, entries=entries, nodes=nodes)


@pytest.mark.parametrize(
    "lie", ["another place", "one twice", "a part left out", "another tree", "no such place", "what nobody asked for"]
)
def test_what_does_not_show_it_is_not_kept_and_is_told(process: HubProcess, tmp_path: Path, lie: str) -> None:
    other = Site(tmp_path, process.client(tmp_path / "keys"), "other")
    other.push()
    liar = Liar(process.url, state_home=process.state_home, keys=tmp_path / "keys")
    one = Site(tmp_path, liar, "one")
    liar.lie = lie
    (warning,) = one.push()
    assert "does not show" in warning
    assert one.shown() == (0, 2, [])
    liar.lie = ""
    assert one.push() == []
    assert one.all_shown()


def test_what_was_acknowledged_and_is_not_in_the_log_is_found_when_asked(process: HubProcess, tmp_path: Path) -> None:
    liar = Liar(process.url, state_home=process.state_home, keys=tmp_path / "keys")
    one = Site(tmp_path, liar, "one")
    liar.lie = "nothing of it"
    assert one.push() == []
    problems = witness.ask(one.store, liar).problems
    assert [problem.what.split(",")[0] for problem in problems] == [f"the hub at {process.url} acknowledged it"] * 2
    liar.lie = ""
    assert witness.ask(one.store, liar) == witness.Shown(shown=2)
    assert one.all_shown()


def test_kept_parts_that_were_changed_are_found(process: HubProcess, tmp_path: Path) -> None:
    client = process.client(tmp_path / "keys")
    one, other = Site(tmp_path, client, "one"), Site(tmp_path, client, "other")
    other.push()
    one.push()
    with one.store._sql.write() as connection:
        connection.execute("UPDATE proof SET position = position + 1 WHERE hash = ?", (one.store.chained()[-1][2],))
    ((where, _),) = one.shown()[2]
    assert where == f"log of {process.url}"
    witness.trust(one.store, client)
    assert witness.ask(one.store, client).problems == []
    assert one.all_shown()


def test_a_segment_that_is_noted_at_the_entry_of_another_is_found(process: HubProcess, tmp_path: Path) -> None:
    one = Site(tmp_path, process.client(tmp_path / "keys"), "one")
    for _ in range(4):
        one.push()
    assert one.all_shown()
    with one.store._sql.write() as connection:  # entries 0 to 3 are also kept as one subtree, so the root stays
        connection.execute("UPDATE proof SET position = 4 WHERE position = 3")
    ((where, what),) = one.shown()[2]
    assert (where, what) == (f"log of {process.url}", "two segments are noted as one entry of it")


def test_who_may_neither_read_nor_write_a_scope_is_shown_nothing_of_it(process: HubProcess, tmp_path: Path) -> None:
    client = process.client(tmp_path / "keys")
    one = Site(tmp_path, client, "one")
    one.push()
    invite = client.access.invite("guest", Role("q", "read"), expires_s=3600)
    guest = HubClient(process.url, state_home=tmp_path / "nobody", keys=tmp_path / "guest")
    guest.enrol(invite.secret, Key(b"g" * 32), "guest")
    assert guest.proofs([hash_ for _, _, hash_, _ in one.store.chained()], 0, 0).entries == {}
