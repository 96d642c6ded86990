import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from cmf.errors import UnreachableError
from cmf.store import schema
from cmf.store.dialect import Dialect, array
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests import databases
from tests.contract.dialect_suite import DialectSuite, Make
from tests.hubs import until
from tests.unit.store.book import Book

pytestmark = pytest.mark.xdist_group("postgres")


class TestSqlite(DialectSuite):
    @pytest.fixture
    def make(self) -> Make:
        return lambda: Sqlite(None)

    @pytest.fixture
    def dialect(self, tmp_path: Path) -> Iterator[Dialect]:
        made = Sqlite(tmp_path / "store.db")
        yield made
        made.close()


class TestPostgres(DialectSuite):
    @pytest.fixture
    def make(self, database: str) -> Make:
        return lambda: Postgres(database, within=databases.fresh())

    @pytest.fixture
    def dialect(self, postgres: Postgres) -> Dialect:
        return postgres

    def test_two_processes_may_make_one_schema_at_once(self, database: str) -> None:
        name = databases.fresh()
        first, second = Postgres(database, within=name), Postgres(database, within=name)
        with first.write() as connection:
            connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", ("a", "b"))
        with second.read() as connection:
            assert connection.execute("SELECT value FROM meta WHERE key = ?", ("a",)).fetchall() == [("b",)]
        first.close()
        second.close()

    @pytest.mark.parametrize("version", sorted(schema.STEPS))
    def test_a_database_of_an_older_version_gets_what_is_new_and_keeps_what_it_holds(
        self, database: str, version: int
    ) -> None:
        name = databases.fresh()
        book = Book(store=SqlStore(Postgres(database, within=name)))
        book.made(book.run("p/a", 1), "data")
        book.seal()
        book.made(book.run("p/a", 2), "more")  # which is pending
        before = book.store.dump()
        added = [re.search("CREATE TABLE (\\w+)", step) for step in schema.steps_from(version - 1)]
        with book.store._sql.write() as connection:  # as the version before had made it
            for table in added:
                if table is not None:
                    connection.execute(f"DROP TABLE {table[1]}")
            connection.execute("DROP TABLE series")
            connection.execute("UPDATE meta SET value = '1' WHERE key = 'derived'")
            connection.execute("UPDATE turn SET version = ?", (version - 1,))
        book.store.close()
        for _ in range(2):
            newer = SqlStore(Postgres(database, within=name))
            assert newer.dump() == before
            assert newer._sql.fetch("SELECT version FROM turn") == [(schema.VERSION,)]
            for table in added:
                if table is not None:
                    assert newer._sql.fetch(f"SELECT count(*) FROM {table[1]}") == [(0,)]
            newer.close()

    def test_connections_that_the_database_has_ended_are_replaced_and_nobody_notices(self, database: str) -> None:
        store = SqlStore(Postgres(database, within=databases.fresh()))
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(store._sql.read()) for _ in range(4)]  # so many, idle afterwards
            (pids, *_) = zip(*[c.execute("SELECT pg_backend_pid()").fetchone() for c in connections], strict=True)
        with psycopg.connect(database, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(unnest(%s::int[]))", (list(pids),))
        store.set_meta("a", "b")
        assert store.meta("a") == "b"
        assert store.journals() == {}
        store.close()

    def test_tables_are_counted_when_they_have_grown_and_when_they_are_made_anew(
        self, database: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cmf.store.postgres.ANALYZED_ROWS", 100)
        name = databases.fresh()
        dialect = Postgres(database, within=name)
        counted = f"SELECT reltuples FROM pg_class WHERE oid = '{name}.node'::regclass"
        never = dialect.fetch(counted)

        def insert(rows: range) -> None:
            with dialect.write() as connection:
                connection.executemany("INSERT INTO node (i, key) VALUES (?, ?)", [(n, b"k%d" % n) for n in rows])

        insert(range(99))
        assert dialect.fetch(counted) == never
        with psycopg.connect(database) as other:  # whoever inserts does not wait for the counting, which waits for this
            other.execute(f"LOCK TABLE {name}.node IN SHARE UPDATE EXCLUSIVE MODE")
            insert(range(99, 150))
            assert dialect.fetch(counted) == never
        until(lambda: dialect.fetch(counted) == [(150.0,)])
        insert(range(150, 299))
        assert dialect.fetch(counted) == [(150.0,)]  # not before there are twice as many
        insert(range(299, 300))
        until(lambda: dialect.fetch(counted) == [(300.0,)])
        SqlStore(dialect).rebuild()
        assert dialect.fetch(counted) == [(0.0,)]
        dialect.close()

    def test_what_was_just_made_is_found_without_walking_what_was_counted_before(self, database: str) -> None:
        dialect = Postgres(database, within=databases.fresh())

        def insert(nodes: range, writer: int) -> None:
            with dialect.write() as connection:
                connection.executemany("INSERT INTO node (i, key) VALUES (?, ?)", [(n, b"k%d" % n) for n in nodes])
                connection.executemany(
                    "INSERT INTO property (subject, key, t, s, record, value, hidden) VALUES (?, ?, ?, ?, ?, ?, ?)",
                    [(n, key, 1, writer, b"r", "1", 0) for n in nodes for key in "abcdef"],
                )

        insert(range(1, 20_001), 1)
        with dialect.write() as connection:
            connection.execute("ANALYZE node, property")
        insert(range(20_001, 20_002), 20_001)
        asked = "SELECT w.key FROM json_each(?) j CROSS JOIN property p ON p.subject = j.value JOIN node w ON w.i = p.s"
        with dialect.read() as connection:
            lines = connection.execute(f"EXPLAIN ANALYZE {asked}", (array([20_001]),)).fetchall()
        met = [int(float(found[1])) for (line,) in lines if (found := re.search(r"actual .* rows=([0-9.]+)", line))]
        assert met
        assert max(met) < 100, lines
        dialect.close()

    def test_tables_that_were_never_counted_are_when_they_are_opened(self, database: str) -> None:
        name = databases.fresh()
        first = Postgres(database, within=name)
        with first.write() as connection:
            connection.execute(
                "INSERT INTO execution (e, s, id, short, started, name, author, status, site, record, conflict, "
                "parent, hidden) VALUES (1, 2, 'i', 's', 3, '', '', '', '', ?, 0, '', 0)",
                (b"r",),
            )
        first.close()
        second = Postgres(database, within=name)
        assert second.fetch(f"SELECT reltuples FROM pg_class WHERE oid = '{name}.execution'::regclass") == [(1.0,)]
        second.close()

    def test_a_database_that_is_not_there_is_unreachable_and_its_password_is_not_shown(self) -> None:
        with pytest.raises(UnreachableError) as caught:
            Postgres("postgresql://someone:secret-word@127.0.0.1:1/none")
        assert "secret-word" not in f"{caught.value} {caught.value.hint}"
