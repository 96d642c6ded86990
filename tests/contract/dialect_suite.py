"""What every database must do for the store: see `cmf.store.dialect.Dialect`."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings

from cmf.store.dialect import EACH, Dialect, array, intern, known
from cmf.store.sql import SqlStore
from tests.property.store_histories import Fact, Site, histories, reference, says_the_same
from tests.unit.store.book import Book

Make = Callable[[], Dialect]
QUICK = settings(max_examples=15, deadline=None)


class DialectSuite:
    """``make`` gives a new and empty database, ``dialect`` one that is closed after the test."""

    def test_what_a_store_says_is_what_the_reference_says(self, make: Make) -> None:
        @QUICK
        @given(histories())
        def check(facts: list[Fact]) -> None:
            site = Site("one", SqlStore(make()))
            site.record(*facts)
            says_the_same(site.store, reference(facts))
            site.store.close()

        check()

    def test_a_rebuilt_store_is_the_same_and_equals_one_in_memory(self, make: Make) -> None:
        @QUICK
        @given(histories())
        def check(facts: list[Fact]) -> None:
            site, other = Site("one", SqlStore(make())), Site("one")
            for place in (site, other):
                place.record(*facts[::2])
                place.seal()
                place.record(*facts[1::2])
            before = site.store.dump()
            assert before == other.store.dump()
            site.store.rebuild()
            assert site.store.dump() == before
            site.store.close()

        check()

    def test_what_was_raised_in_a_transaction_leaves_nothing(self, dialect: Dialect) -> None:
        def write() -> None:
            with dialect.write() as connection:
                connection.execute("INSERT INTO meta (key, value) VALUES (?, ?)", ("a", "b"))
                raise KeyError("stop")

        with pytest.raises(KeyError):
            write()
        assert SqlStore(dialect).meta("a") == ""

    def test_an_inner_write_is_a_step_of_the_outer_one(self, dialect: Dialect) -> None:
        store = SqlStore(dialect)

        def write() -> None:
            with dialect.write():
                store.set_meta("a", "b")
                raise KeyError("stop")

        with pytest.raises(KeyError):
            write()
        assert store.meta("a") == ""
        with dialect.write():
            store.set_meta("a", "b")
        assert store.meta("a") == "b"

    def test_writers_take_turns(self, dialect: Dialect) -> None:
        store = SqlStore(dialect)
        store.set_meta("count", "0")

        def count() -> None:
            for _ in range(25):
                with dialect.write() as connection:
                    (value,) = connection.execute("SELECT value FROM meta WHERE key = ?", ("count",)).fetchone()
                    connection.execute("UPDATE meta SET value = ? WHERE key = ?", (str(int(value) + 1), "count"))

        threads = [threading.Thread(target=count) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert store.meta("count") == "100"

    def test_a_reader_sees_one_state_while_others_write(self, dialect: Dialect) -> None:
        store = SqlStore(dialect)
        store.set_meta("a", "1")
        with dialect.read() as connection:
            seen = connection.execute("SELECT value FROM meta WHERE key = ?", ("a",)).fetchone()
            writer = threading.Thread(target=store.set_meta, args=("a", "2"))
            writer.start()
            writer.join()
            assert connection.execute("SELECT value FROM meta WHERE key = ?", ("a",)).fetchone() == seen
        assert store.meta("a") == "2"

    @pytest.mark.parametrize("count", [0, 1, 7, 8, 500, 501])
    def test_keys_are_interned_once_and_found_again(self, dialect: Dialect, count: int) -> None:
        keys = [b"k%d" % n for n in range(count)]
        with dialect.write() as connection:
            found = intern(connection, keys)
            assert intern(connection, keys[::-1]) == found
            assert known(connection, [*keys, b"other"]) == found
        assert len(set(found.values())) == count

    def test_each_gives_a_row_for_every_integer(self, dialect: Dialect) -> None:
        wanted = [3, -(2**62), 2**62, 3]
        with dialect.read() as connection:
            rows = connection.execute(f"SELECT j.value FROM {EACH} j", (array(wanted),)).fetchall()
        assert sorted(rows) == sorted((value,) for value in wanted)

    def test_many_rows_are_inserted_as_they_are(self, dialect: Dialect) -> None:
        rows: list[tuple[Any, ...]] = [
            (n, f"k'\"{n},{{}}\\ü\n", -(2**62) + n, n * 2**40, b"\0\xff" * n, "NULL", number, text)
            for n, (number, text) in enumerate([(None, None), (0.1, ""), (-1e300, "NULL"), (2.0, None), (None, "t")])
        ]
        insert = (
            "INSERT INTO register (subject, key, s, t, record, value, number, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        )
        with dialect.write() as connection:
            connection.executemany(insert, rows[:1])
            connection.executemany(f"{insert} ON CONFLICT DO NOTHING", [*rows, *rows])
            connection.executemany(insert, [])
        assert dialect.fetch("SELECT * FROM register ORDER BY subject") == rows

    @pytest.mark.parametrize("count", [1, 19, 20, 21, 40, 47])
    def test_rows_of_any_number_are_inserted_once_each_in_their_order(self, dialect: Dialect, count: int) -> None:
        rows = [("scope/a", bytes((n,)), b"data%d" % n) for n in range(count)]
        keys = [(b"k%d" % n, n) for n in range(count)]
        with dialect.write() as connection:
            connection.executemany("INSERT INTO pending (scope, id, data) VALUES (?, ?, ?)", iter(rows))
            connection.executemany("INSERT INTO node (key, i) VALUES (?, ?)", keys)
            update = "INSERT INTO node (key, i) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET i = excluded.i"
            connection.executemany(update, [(key, n + 1000) for key, n in keys])
        assert dialect.fetch("SELECT scope, id, data FROM pending ORDER BY p") == rows
        with dialect.read() as connection:
            assert connection.execute("SELECT i FROM node ORDER BY i").fetchall() == [(n + 1000,) for _, n in keys]

    def test_one_question_sees_what_is_committed_and_not_what_is_not_yet(self, dialect: Dialect) -> None:
        store = SqlStore(dialect)
        store.set_meta("a", "1")
        seen: list[Any] = []
        with dialect.read():
            store.set_meta("a", "2")
            assert dialect.fetch("SELECT value FROM meta WHERE key = ?", ("a",)) == [("2",)]
        with dialect.write() as connection:
            connection.execute("UPDATE meta SET value = '3' WHERE key = 'a'")
            other = threading.Thread(
                target=lambda: seen.extend(dialect.fetch("SELECT value FROM meta WHERE key = 'a'"))
            )
            other.start()
            other.join()
        assert seen == [("2",)]

    def test_odd_texts_are_kept_and_found(self, dialect: Dialect) -> None:
        book = Book(store=SqlStore(dialect))
        odd = "a'b\"c\\d%e?f\n\U0001f600"
        run = book.run("p/a", 1, name=odd, params={odd: odd})
        book.made(run, "content", name=odd, path="x" * 4000)
        assert book.index.resolve("x" * 4000).execution == run
        (view,) = book.index.executions(list(book.index.nodes([run]).values())).values()
        assert (view.name, view.params[odd], view.outputs[0].name) == (odd, odd, odd)

    def test_texts_are_ordered_by_their_bytes(self, dialect: Dialect) -> None:
        store = SqlStore(dialect)
        words = ["b", "B", "a", "ä", "Z", "_", "0", "aa"]
        for word in words:
            store.set_meta(word, word)
        with dialect.read() as connection:
            rows = connection.execute("SELECT key FROM meta ORDER BY key").fetchall()
        assert [key for (key,) in rows if key in words] == sorted(words)
