"""The hub's log: positions without holes, tiles that agree with the leaves, cursors that are never ahead."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import moving, signing, sync, witness
from cmf.errors import ConflictError, UsageError
from cmf.hub.log import TILE_LEVELS, Log
from cmf.model import log
from cmf.model.exchange import View
from cmf.objects.local import LocalObjects
from cmf.store.dialect import Dialect
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests import databases
from tests.histories import Writer, chain
from tests.hubs import HubProcess, running

pytestmark = pytest.mark.xdist_group("postgres")
KEY = signing.Key(b"k" * 32)


@pytest.fixture(params=["sqlite", "postgres"])
def dialect(request: pytest.FixtureRequest) -> Iterator[Dialect]:
    if request.param == "sqlite":
        made: Dialect = Sqlite(None)
    else:
        made = Postgres(request.getfixturevalue("database"), within=databases.fresh())
    yield made
    made.close()


def hashes(count: int) -> list[bytes]:
    return [b"%032d" % n for n in range(count)]


def test_tiles_agree_with_the_leaves_and_every_size_has_a_proof(dialect: Dialect) -> None:
    kept = Log(dialect, KEY)
    count = (1 << TILE_LEVELS) * 2 + 37
    notes = []
    for entry in hashes(count):
        with dialect.write() as connection:
            kept.append(connection, [entry])
    plain = [log.leaf(entry) for entry in hashes(count)]

    def node(level: int, place: int) -> bytes:
        if level == 0:
            return plain[place]
        return log.join(node(level - 1, 2 * place), node(level - 1, 2 * place + 1))

    for size in (0, 1, 255, 256, 257, 511, 512, 513, count):
        assert kept.root(size) == log.root(size, node)
        note, now, _, proof = kept.standing(size)
        old = log.Checkpoint(KEY.public.hex(), size, log.root(size, node))
        assert now == count
        assert log.is_consistent(old, log.read(note, KEY.public.hex(), signing.verify), proof)
        notes.append(note)
    assert kept.entries(500, 40) == hashes(count)[500:540]
    assert kept.holds(300, log.root(300, node))
    assert not kept.holds(300, b"x" * 32)
    assert not kept.holds(count + 1, log.root(count, node))


def test_what_shows_that_entries_are_in_the_log_makes_its_root(dialect: Dialect) -> None:
    kept = Log(dialect, KEY)
    count = (1 << TILE_LEVELS) * 2 + 37
    with dialect.write() as connection:
        kept.append(connection, hashes(count))
    for chosen, since in (([0], 0), ([0, 255, 256, 300, 512, count - 1], 257), ([], 511), ([7, 8], count)):
        asked = [hashes(count)[place] for place in chosen]
        answer = kept.proofs([*asked, b"?" * 32], since, since)
        now = log.read(answer.checkpoint, KEY.public.hex(), signing.verify)
        assert answer.entries == {hash_.hex(): place for hash_, place in zip(asked, chosen, strict=True)}
        first = kept.proofs(hashes(since)[-1:], 0, 0)
        assert log.is_consistent(
            log.Checkpoint(now.hub, since, kept.root(since)), now, [bytes.fromhex(text) for text in answer.proof]
        )
        assert len(first.nodes) <= 2 * count.bit_length()
        leaves = {log.Subtree(0, place): log.leaf(hash_) for place, hash_ in zip(chosen, asked, strict=True)}
        every = log.rooted({log.Subtree(0, n): log.leaf(entry) for n, entry in enumerate(hashes(count))}, {}, count)
        peaks = {top: every[top] for top in log.peaks(0, since)}
        given = {log.Subtree(level, place): bytes.fromhex(text) for level, place, text in answer.nodes}
        assert sorted(given) == sorted(log.beside({**leaves, **peaks}, count))
        assert log.root_of(log.rooted({**leaves, **peaks}, given, count), count) == now.root


def test_an_entry_that_is_not_committed_leaves_no_hole(dialect: Dialect) -> None:
    kept = Log(dialect, KEY)

    def fail() -> None:
        with dialect.write() as connection:
            kept.append(connection, [b"a" * 32])
            raise KeyError("stop")

    with pytest.raises(KeyError):
        fail()
    with dialect.write() as connection:
        kept.append(connection, [b"b" * 32])
    assert kept.entries(0, 10) == [b"b" * 32]


def test_a_hub_from_before_the_log_logs_what_it_holds(dialect: Dialect) -> None:
    writer = Writer("before")
    chain(writer, "old", 3)
    store = SqlStore(dialect)
    list(transfer(LocalPeer(writer.store), LocalPeer(store), View(own=True)))
    kept = Log(dialect, KEY)
    assert len(kept.entries(0, 1000)) == store.counts()["segment"]
    assert Log(dialect, KEY).entries(0, 1000) == kept.entries(0, 1000)


class Site:
    """One client of a hub, with a store and objects of its own."""

    def __init__(self, folder: Path, hub: HubProcess, name: str) -> None:
        self.folder = folder / name
        self.writer = Writer(name, seed=len(name))
        self.store = self.writer.store
        self.objects = LocalObjects(self.folder / "objects")
        self.client = hub.client(self.folder / "keys")

    def push(self) -> None:
        outcomes = list(transfer(LocalPeer(self.store), self.client.peer, View(own=True)))
        assert [a.detail for a in outcomes if a.outcome == "refused"] == []

    def pull(self, *scopes: str) -> moving.Moved:
        return sync.pull(self.store, self.objects, self.client, views=(View(scopes=scopes),))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    with running(tmp_path / "hub", tmp_path / "state") as process:
        yield process


def test_a_second_pull_brings_only_what_came_since(hub: HubProcess, tmp_path: Path) -> None:
    one, three = Site(tmp_path, hub, "one"), Site(tmp_path, hub, "three")
    chain(one.writer, "first", 3)
    one.push()
    assert three.pull().segments > 0
    again = three.pull()
    assert (again.segments, again.known, again.warnings) == (0, 0, [])
    one.writer.execution("first/more", 77, writes=("x",))
    one.writer.seal()
    one.push()
    third = three.pull()
    assert (third.segments, third.known) == (2, 0)
    assert three.store.dump() == one.store.dump()


def test_a_site_does_not_get_its_own_segments_back(hub: HubProcess, tmp_path: Path) -> None:
    one, three = Site(tmp_path, hub, "one"), Site(tmp_path, hub, "three")
    one.pull()
    chain(one.writer, "mine", 3)
    one.push()
    chain(three.writer, "theirs", 2)
    three.push()
    moved = one.pull()
    assert moved.known == 0
    assert moved.scopes == ["theirs/stage0", "theirs/stage1"]


def test_another_view_has_another_cursor(hub: HubProcess, tmp_path: Path) -> None:
    one, three = Site(tmp_path, hub, "one"), Site(tmp_path, hub, "three")
    chain(one.writer, "first", 3)
    chain(one.writer, "second", 3)
    one.push()
    assert three.pull("first").scopes == [f"first/stage{n}" for n in range(3)]
    assert three.pull("first").segments == 0
    assert three.pull().scopes == [f"second/stage{n}" for n in range(3)]


def test_a_cursor_of_a_hub_that_lost_data_is_not_believed(tmp_path: Path) -> None:
    """A hub restored from an old backup gives the same positions to other segments; a number alone would lose them."""
    folder, backup, state = tmp_path / "hub", tmp_path / "backup", tmp_path / "state"
    with running(folder, state) as hub:
        port = hub.port
        one, three = Site(tmp_path, hub, "one"), Site(tmp_path, hub, "three")
        chain(one.writer, "first", 2)
        one.push()
    shutil.copytree(folder, backup)
    with running(folder, state, port=port) as hub:
        chain(one.writer, "lost", 2)
        one.client = hub.client(one.folder / "keys")
        one.push()
        three.client = hub.client(three.folder / "keys")
        assert three.pull().segments > 0
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    with running(folder, state, port=port) as hub:
        other = Site(tmp_path, hub, "seventh")
        chain(other.writer, "other", 4)
        other.push()
        three.client = hub.client(three.folder / "keys")
        moved = three.pull()
        assert {"other/stage0", "other/stage1", "other/stage2"} == set(moved.scopes)
        assert len(moved.warnings) == 1
        assert "cmf remote trust" in moved.warnings[0]
        one.client = hub.client(one.folder / "keys")
        one.push()
        assert three.pull().warnings
        witness.trust(three.store, three.client)
        assert three.pull().warnings == []
        fourth = Site(tmp_path, hub, "fourth")
        fourth.pull()
        three.pull()
        assert fourth.store.dump() == three.store.dump()


def test_a_hub_with_another_key_is_not_spoken_to(tmp_path: Path) -> None:
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        port = hub.port
        site = Site(tmp_path, hub, "one")
        site.pull()
    with running(tmp_path / "other", tmp_path / "state", port=port) as hub:
        site.client = hub.client(site.folder / "keys")
        with pytest.raises(ConflictError) as caught:
            site.pull()
        assert caught.value.kind == "hub-key"
        assert "cmf remote trust" in caught.value.hint


def test_a_cursor_that_nobody_gave_is_refused_and_costs_nothing(hub: HubProcess, tmp_path: Path) -> None:
    one = Site(tmp_path, hub, "one")
    chain(one.writer, "first", 2)
    one.push()
    for cursor in ("0", "5", "99.zz.0", f"3.{'0' * 64}.{'0' * 32}", f"{10**15}.{'0' * 64}.{'0' * 32}"):
        with pytest.raises((ConflictError, UsageError)) as caught:
            list(one.client.following(View(), cursor, {}))
        assert caught.value.kind == "cursor"


def test_the_first_pull_is_by_what_is_held(hub: HubProcess, tmp_path: Path) -> None:
    one, three = Site(tmp_path, hub, "one"), Site(tmp_path, hub, "three")
    chain(one.writer, "first", 2)
    one.push()
    list(transfer(LocalPeer(one.store), LocalPeer(three.store), View()))  # by a way that left no cursor
    moved = three.pull()
    assert (moved.segments, moved.known) == (0, 0)
