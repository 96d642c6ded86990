import contextlib
import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.errors import CmfError, ConflictError, CorruptError, UnreachableError, UnsupportedError
from cmf.model import records as model
from cmf.store import dialect as dialects
from cmf.store import schema, sqlite
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.unit.store.book import Book, execution_id

WRITER = """
import sys
from pathlib import Path
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.unit.store.book import Book
book = Book(sys.argv[2], store=SqlStore(Sqlite(Path(sys.argv[1]))))
print("ready", flush=True)
sys.stdin.readline()
for n in range(15):
    run = book.run("p/a", int(sys.argv[3]) + n)
    book.made(run, f"data{n}")
    book.say(run, "metric/f1", n)
    if n % 5 == 0:
        book.seal()
book.seal()
book.store.close()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cmf.db"


def test_two_processes_that_record_and_seal_at_once_lose_nothing(path: Path) -> None:
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(path), name, first],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for name, first in (("one", "0"), ("two", "100"))
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == "ready\n"
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        assert [writer.wait(60) for writer in writers] == [0, 0]
    store = SqlStore(Sqlite(path))
    counts = store.counts()
    assert (counts["execution"], counts["event"], counts["pending"]) == (30, 30, 0)
    before = store.dump()
    store.rebuild()
    assert store.dump() == before
    store.close()


def test_readers_see_one_state_while_a_writer_writes(path: Path) -> None:
    book = Book(store=SqlStore(Sqlite(path)))
    book.run("p/a", 1)
    dialect = book.store._sql
    seen: list[int] = []

    def count() -> None:
        seen.append(book.store.counts()["execution"])

    with dialect.read() as reading:
        assert reading.execute("SELECT count(*) FROM execution").fetchone() == (1,)
        with dialect.write() as writing:
            writing.execute("DELETE FROM execution")
            other = threading.Thread(target=count)
            other.start()
            other.join()
        assert reading.execute("SELECT count(*) FROM execution").fetchone() == (1,)
    count()
    assert seen == [1, 0]
    book.store.close()


def test_a_transaction_that_raises_leaves_no_trace_and_one_inside_another_ends_with_it(path: Path) -> None:
    dialect = Sqlite(path)

    def half() -> None:
        with dialect.write() as outer:
            outer.execute("INSERT INTO meta VALUES ('a', 'b')")
            with dialect.write() as inner:
                inner.execute("INSERT INTO meta VALUES ('c', 'd')")
            raise KeyError

    with pytest.raises(KeyError):
        half()
    with dialect.write() as connection:
        assert connection.execute("SELECT key FROM meta").fetchall() == [("derived",)]
    dialect.close()


@pytest.mark.parametrize(
    "content", [b"this is not a database, whatever its name says" * 100, b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_database_is_corrupt_and_stays_as_it_is(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(CorruptError) as caught:
        Sqlite(path)
    assert str(path) in caught.value.message
    assert "cmf pull" in caught.value.hint
    assert path.read_bytes() == content


def test_a_damaged_page_is_corrupt_when_it_is_met(path: Path) -> None:
    book = Book(store=SqlStore(Sqlite(path)))
    for n in range(200):
        book.run("p/a", n)
    book.store.close()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * (size // 2))
    store = SqlStore(Sqlite(path))
    with pytest.raises(CorruptError):
        store.dump()
    store.close()


def test_a_newer_format_is_refused_and_nothing_is_written(path: Path) -> None:
    Sqlite(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(UnsupportedError) as caught:
        Sqlite(path)
    assert caught.value.kind == "newer-format"
    assert path.read_bytes() == before


def test_a_store_of_an_older_format_is_folded_again_from_its_truth(path: Path) -> None:
    store = SqlStore(Sqlite(path))
    id_, data = model.salted(model.Execution(id=execution_id(1), name="old", started=1), b"s" * 32)
    store.add([("p/a", id_, data)])
    store.fold_pending()
    before = store.dump()
    store.close()
    connection = sqlite3.connect(path)
    connection.execute("DROP INDEX execution_parent")
    connection.execute("ALTER TABLE execution DROP COLUMN parent")
    for table in ("whereabouts", "proof", "proof_node"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("DELETE FROM meta WHERE key = 'derived'")
    connection.execute("PRAGMA user_version = 1")
    connection.commit()
    connection.close()
    store = SqlStore(Sqlite(path))
    assert store.dump() == before
    assert len(before["execution"]) == 1
    store.close()


def test_a_store_of_the_version_before_keeps_its_truth_and_gets_what_is_new(path: Path) -> None:
    store = SqlStore(Sqlite(path))
    store.set_meta("a", "b")
    store.close()
    connection = sqlite3.connect(path)
    for table in ("whereabouts", "proof", "proof_node"):
        connection.execute(f"DROP TABLE {table}")
    connection.execute("PRAGMA user_version = 2")
    connection.commit()
    connection.close()
    for _ in range(2):
        store = SqlStore(Sqlite(path))
        digest = "sha256:" + "0" * 64
        store.whereabouts.saw("disk", [digest], now=1)
        assert store.whereabouts.of([digest])
        assert store.meta("a") == "b"
        store.close()


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Drop root's rights, before which no permission counts, for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_cannot_be_written_is_said_to_be_so(exists: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cmf.db"
        if exists:
            Sqlite(path).close()
            path.chmod(0o444)
        Path(folder).chmod(0o555)
        with unprivileged(), pytest.raises(ConflictError) as caught:
            Sqlite(path)
        assert caught.value.kind == "read-only"
        assert "permissions" in caught.value.hint
        Path(folder).chmod(0o700)


def test_a_database_that_stays_busy_is_unreachable_and_may_be_tried_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "BUSY_SECONDS", 0)
    one, two = Sqlite(path), Sqlite(path)
    with one.write(), pytest.raises(UnreachableError) as caught, two.write():
        pass
    assert caught.value.kind == "busy"
    with two.write() as connection:
        connection.execute("INSERT INTO meta VALUES ('a', 'b')")
    one.close()
    two.close()


def test_a_full_disk_is_unreachable_and_loses_nothing(path: Path) -> None:
    book = Book(store=SqlStore(Sqlite(path)))
    book.run("p/a", 1)
    database = book.store._sql
    assert isinstance(database, Sqlite)
    with database.write() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    database._writer.execute(f"PRAGMA max_page_count = {pages}")

    def fill() -> None:
        for n in range(2, 500):
            book.run("p/a", n)

    with pytest.raises(UnreachableError) as caught:
        fill()
    assert caught.value.kind == "disk"
    database._writer.execute("PRAGMA max_page_count = 1000000")
    book.store.fold_pending()
    assert book.store.counts()["execution"] >= 1
    assert book.index.resolve(execution_id(1)).node
    book.run("p/a", 999)
    book.store.close()


def test_a_statement_that_is_wrong_is_our_own_fault_and_not_disguised(path: Path) -> None:
    dialect = Sqlite(path)
    with pytest.raises(sqlite3.OperationalError) as caught, dialect.read() as connection:
        connection.execute("SELECT nothing FROM nowhere")
    assert not isinstance(caught.value, CmfError)
    dialect.close()


@pytest.mark.parametrize("count", [0, 1, 7, 8, 500, 501, 1700])
def test_keys_are_interned_once_and_found_again(count: int) -> None:
    dialect = Sqlite(None)
    keys = [b"k%d" % n for n in range(count)]
    with dialect.write() as connection:
        found = dialects.intern(connection, keys)
        assert dialects.intern(connection, keys[::-1]) == found
        assert dialects.known(connection, [*keys, b"other"]) == found
    assert len(set(found.values())) == count
    dialect.close()
