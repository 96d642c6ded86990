"""A hub's database moved into another: clients notice nothing, and nothing of it is left behind."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cmf import signing
from cmf.errors import ConflictError
from cmf.hub.access import Access, console
from cmf.hub.auth import Auth
from cmf.hub.log import Log
from cmf.hub.migrate import TABLES, migrate
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.model.exchange import View
from cmf.store import schema
from cmf.store.dialect import Dialect
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests import databases
from tests.histories import Writer, chain

pytestmark = pytest.mark.xdist_group("postgres")
KEY = signing.Key(b"k" * 32)
NOW = 1_000_000


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest) -> Iterator[Dialect]:
    if request.param == "sqlite":
        made: Dialect = Sqlite(None)
    else:
        made = Postgres(request.getfixturevalue("database"), within=databases.fresh())
    yield made
    made.close()


def invited(dialect: Dialect, name: str, prefix: str, role: str) -> str:
    """Return a code that gives somebody a role."""
    asked = wire.AskInvite(name=name, role=wire.Role(prefix, role), expires_s=60)
    return Access(dialect, lambda: NOW).invite(console(), asked).secret


def a_hub() -> tuple[Dialect, str]:
    """Return the database of a hub with records, a log and a principal, and that principal's token."""
    dialect = Sqlite(None)
    kept = Log(dialect, KEY)
    store = SqlStore(dialect, logged=kept.append)
    auth = Auth(dialect)
    token, _ = auth.enrol(invited(dialect, "ada", "first", "write"), b"a" * 32, "edge", now=NOW)
    auth.grant("first/train", ["sha256:" + "0" * 64])
    writer = Writer("edge")
    chain(writer, "first", 5)
    writer.seal()
    list(transfer(LocalPeer(writer.store), LocalPeer(store), View(own=True)))
    return dialect, token


def test_a_moved_hub_says_the_same_and_goes_on(target: Dialect) -> None:
    source, token = a_hub()
    before, log = SqlStore(source), Log(source, KEY)
    copied: dict[str, int] = {}
    counts = migrate(source, target, progress=lambda table, count: copied.update({table: count}))
    assert counts["segment"] == before.counts()["segment"] == copied["segment"] > 0
    moved, again = Log(target, KEY), Auth(target)
    store = SqlStore(target, logged=moved.append)
    assert store.dump() == before.dump()
    assert moved.standing(0)[:3] == log.standing(0)[:3]
    assert again.caller(token, now=NOW).name == "ada (edge)"
    assert again.granted("first/train", ["sha256:" + "0" * 64])
    writer = Writer("lab", seed=2)
    chain(writer, "second", 3)
    writer.seal()
    outcomes = {a.outcome for a in transfer(LocalPeer(writer.store), LocalPeer(store), View(own=True))}
    assert outcomes == {"new"}
    other, _ = again.enrol(invited(target, "bob", "", "read"), b"b" * 32, "lab", now=NOW)
    assert (again.caller(other, now=NOW).name, again.caller(token, now=NOW).name) == ("bob (lab)", "ada (edge)")


def test_a_database_that_holds_a_hub_is_left_as_it_is(target: Dialect) -> None:
    migrate(a_hub()[0], target, progress=lambda *_: None)
    before = SqlStore(target).dump()
    with pytest.raises(ConflictError, match="holds a hub already"):
        migrate(a_hub()[0], target, progress=lambda *_: None)
    assert SqlStore(target).dump() == before


def test_a_move_that_is_cut_leaves_nothing(target: Dialect) -> None:
    def cut(table: str, _: int) -> None:
        if table == "hub_entry":
            raise KeyError("cut")

    source, _ = a_hub()
    with pytest.raises(KeyError):
        migrate(source, target, progress=cut)
    assert SqlStore(target).counts()["segment"] == 0
    assert migrate(source, target, progress=lambda *_: None)["segment"] > 0


def test_every_table_of_a_hub_that_is_not_derived_is_moved(tmp_path: Path) -> None:
    Hub(tmp_path).close()
    dialect = Sqlite(tmp_path / "hub.db")
    with dialect.read() as connection:
        there = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    dialect.close()
    made = {match[1] for text in TABLES if (match := re.search(r"TABLE (?:IF NOT EXISTS )?(\w+)", text))}
    assert there - set(schema.DERIVED_TABLES) == made


def test_questions_are_answered_from_what_was_until_a_rebuilt_view_is_whole(database: str) -> None:
    name = databases.fresh()
    dialect = Postgres(database, within=name)
    store = SqlStore(dialect)
    writer = Writer("edge")
    chain(writer, "first", 5)
    writer.seal()
    list(transfer(LocalPeer(writer.store), LocalPeer(store), View(own=True)))
    whole = store.counts()
    other = SqlStore(Postgres(database, within=name))
    with dialect.write() as connection, dialect.replacing(connection):
        assert connection.execute("SELECT count(*) FROM execution").fetchone() == (0,)
        assert other.counts() == whole  # beside it
    assert other.counts()["execution"] == 0
    assert store.rebuild() > 0
    assert other.counts() == whole
    with psycopg.connect(database) as plain:
        left = plain.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (f"{name}_next",)).fetchall()
    assert left == []
    for made in (store, other):
        made.close()


def test_a_reader_from_before_a_rebuild_sees_all_that_was(database: str) -> None:
    name = databases.fresh()
    dialect = Postgres(database, within=name)
    store = SqlStore(dialect)
    writer = Writer("edge")
    chain(writer, "first", 5)
    writer.seal()
    list(transfer(LocalPeer(writer.store), LocalPeer(store), View(own=True)))
    executions = store.counts()["execution"]
    other = Postgres(database, within=name)
    rebuilding = threading.Thread(target=store.rebuild)
    with other.read() as connection, psycopg.connect(database, autocommit=True) as plain:
        assert connection.execute("SELECT count(*) FROM segment").fetchone() == (store.counts()["segment"],)
        rebuilding.start()
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = %s::regclass"
        while rebuilding.is_alive() and plain.execute(waiting, (f"{name}.reading",)).fetchone() is None:
            pass
        assert connection.execute("SELECT count(*) FROM execution").fetchone() == (executions,)
    rebuilding.join()
    assert store.counts()["execution"] == executions
    for made in (store, other):
        made.close()
