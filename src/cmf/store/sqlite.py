"""The SQLite dialect: connections, transactions and what differs from other databases.

On a disk: one writer at a time (``BEGIN IMMEDIATE`` always), readers beside it by write-ahead log. On a file system
that hosts share: one reader or writer at a time, under a lock that is handed in. The same connection is never used by
two threads at once.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import re
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from cmf.errors import ConflictError, CorruptError, UnreachableError, UnsupportedError
from cmf.store import schema
from cmf.store.dialect import Connection

READERS_MAX = 4
CHECKED_MAX = 100_000
BUSY_SECONDS = 60
RETRY_SECONDS = 0.01
ROWS_AT_ONCE = 20
"""How many rows one statement inserts: that takes two thirds of the time of one statement a row; more gain no more."""

_INSERT = re.compile(r"(INSERT INTO .* VALUES )(\([?, ]+\))( ON CONFLICT .*)?", re.DOTALL)


class Sqlite:
    """One database file, or a private one in memory (``path=None``)."""

    types: ClassVar = {"blob": "BLOB", "real": "REAL", "serial": "INTEGER PRIMARY KEY", "compact": " WITHOUT ROWID"}

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._idle: list[sqlite3.Connection] = []
        self._readers = threading.Semaphore(READERS_MAX)
        with _faults(path):
            self._writer = self._connect()
            try:
                if path is not None:
                    self._use_log()
                self._create()
            except BaseException:  # ctrl-C too: nobody else would close it
                self._writer.close()
                raise

    def _use_log(self) -> None:
        """Switch to the write-ahead log; SQLite waits for no other process here, which may be making the same file."""
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                self._writer.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(RETRY_SECONDS)
            else:
                return

    def close(self) -> None:
        """Close every connection."""
        with self._lock:
            self._writer.close()
        while self._idle:
            self._idle.pop().close()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection for one consistent read."""
        if self._path is None:
            with self._lock, _faults(self._path):
                yield self._writer
            return
        with self._readers, _faults(self._path):
            try:
                connection = self._idle.pop()  # the one used last: what it read is in its memory
            except IndexError:
                connection = self._connect()
            try:
                connection.execute("BEGIN")
                yield connection
            finally:
                if connection.in_transaction:
                    connection.rollback()
                self._idle.append(connection)

    def fetch(self, sql: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """Return the rows of one question: see `Dialect.fetch`."""
        with self.read() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """Lend the writing connection for one transaction: committed at the end, rolled back if anything is raised.

        ``durable``: synced to disk before this returns; otherwise it survives the process, not the power.
        """
        with self._lock, _faults(self._path):
            connection = self._writer
            if connection.in_transaction:  # an inner step of a larger transaction
                yield connection
                return
            connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            with _transaction(connection):
                yield connection

    def checkpoint(self) -> None:
        """Make everything committed so far survive the power: the log is synced into the database."""
        with self._lock, _faults(self._path):
            self._writer.execute("PRAGMA wal_checkpoint(FULL)")

    def damage(self) -> str:
        """Return what SQLite's own check finds wrong, or "".

        Some versions take a column for NULL where a table without row ids has it outside its key: looked up, it is not.
        """
        with self.read() as connection:
            said = {str(row[0]) for row in connection.execute(f"PRAGMA quick_check({CHECKED_MAX})").fetchall()}
            wrong = []
            for line in sorted(said - {"ok"}):
                match = re.fullmatch(r"NULL value in (\w+)\.(\w+)", line)
                if match and not connection.execute(f"SELECT 1 FROM {match[1]} WHERE {match[2]} IS NULL").fetchone():
                    continue
                wrong.append(line)
        return "; ".join(wrong[:5])

    def create(self, connection: Connection, statements: Sequence[str]) -> None:
        """Run statements of the schema in this dialect's words."""
        for statement in statements:
            connection.execute(statement.format(**self.types))

    @contextlib.contextmanager
    def replacing(self, connection: Connection) -> Iterator[None]:
        """Drop the derived tables and make them empty: readers see a snapshot from before, of tables and rows."""
        for table in schema.DERIVED_TABLES:
            connection.execute(f"DROP TABLE IF EXISTS {table}")
        self.create(connection, schema.DERIVED)
        yield

    def count_on(self, connection: Connection, table: str, key: str) -> None:
        """Do nothing: SQLite goes on behind the greatest by itself."""

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path or ":memory:",
            timeout=BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
            factory=_Connection,
        )
        try:
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA cache_size = -16384")
            connection.execute("PRAGMA temp_store = MEMORY")
        except BaseException:  # ctrl-C too: nobody else would close it
            connection.close()
            raise
        return connection

    def _create(self) -> None:
        with self.write(durable=True) as connection:
            self._create_in(connection)

    def _create_in(self, connection: Connection) -> None:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > schema.VERSION:
            raise UnsupportedError(
                f"The store {self._path} has format version {version}; this version reads {schema.VERSION}.",
                hint="Upgrade cmf; nothing was changed.",
                kind="newer-format",
            )
        if version == 0:
            self.create(connection, schema.TRUTH + schema.DERIVED)
        elif version < schema.VERSION:  # the derived tables are folded again by `SqlStore`
            self.create(connection, schema.steps_from(version))
        if version < schema.VERSION:
            connection.execute(f"PRAGMA user_version = {schema.VERSION}")


class _Connection(sqlite3.Connection):
    """A connection that inserts many rows with each statement."""

    def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        """Run one statement for each row of values, or one for several rows where it inserts them."""
        several = _inserting(sql)
        made = list(rows)
        whole = len(made) - len(made) % ROWS_AT_ONCE if several else 0
        if whole:
            flat = itertools.chain.from_iterable(made[:whole] if whole < len(made) else made)
            super().executemany(several, zip(*[flat] * (ROWS_AT_ONCE * len(made[0])), strict=True))
        return super().executemany(sql, made[whole:])


@functools.lru_cache(256)
def _inserting(sql: str) -> str:
    """Return a statement that inserts `ROWS_AT_ONCE` rows where this one inserts one, or "" if it is no such."""
    match = _INSERT.fullmatch(sql)
    return f"{match[1]}{', '.join([match[2]] * ROWS_AT_ONCE)}{match[3] or ''}" if match else ""


class Lock(Protocol):
    """Keeps every other process, on whatever host, from the database. Raises what `Dialect` may raise."""

    def acquire(self) -> None:
        """Wait for the lock, and take it."""
        ...

    def release(self) -> None:
        """Give it back."""
        ...


class SharedSqlite(Sqlite):
    """One database file on a file system that hosts share: no locks, log or memory of SQLite's own are relied on.

    The file is opened under the lock and closed before the lock is given back: only then does a network file system
    promise that the next host reads what this one wrote.
    """

    def __init__(self, path: Path, lock: Lock) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._between = lock
        self._open: sqlite3.Connection | None = None
        with self.write() as connection:
            self._create_in(connection)

    def close(self) -> None:
        """Do nothing: the file is open only inside a transaction."""

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """Lend a connection for one consistent read; inside a `write` of the same thread, that of the write."""
        with self._opened() as connection:
            if connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.rollback()

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        """Lend a connection for one transaction, as `Sqlite.write`; it is always durable."""
        with self._opened() as connection:
            if connection.in_transaction:
                yield connection
                return
            with _transaction(connection):
                yield connection

    def checkpoint(self) -> None:
        """Do nothing: every transaction is synced."""

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _faults(self._path):
            if self._open is not None:
                yield self._open
                return
            self._between.acquire()
            try:
                self._open = self._connect()
                yield self._open
            finally:
                if self._open is not None:
                    self._open.close()
                    self._open = None
                self._between.release()

    def _connect(self) -> sqlite3.Connection:
        assert self._path is not None
        connection = sqlite3.connect(
            f"{self._path.absolute().as_uri()}?vfs=unix-none",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            factory=_Connection,
        )
        try:
            # Exclusive first: a database that was on a disk before has a log, which is read without shared memory then.
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = DELETE", "synchronous = FULL", "mmap_size = 0"):
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("PRAGMA temp_store = MEMORY")
        except BaseException:  # ctrl-C too: nobody else would close it
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Commit what is done within, or undo it whatever is raised."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.commit()
    except BaseException:  # ctrl-C too: nothing is written by half
        connection.rollback()
        raise


@contextlib.contextmanager
def _faults(path: Path | None) -> Iterator[None]:
    """Turn the driver's errors into ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        where = path or "the store in memory"
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            raise UnreachableError(
                f"The disk that holds {where} is full or failing: {error}.",
                hint="Free some space and run the command again; nothing recorded is lost.",
                kind="disk",
            ) from error
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise UnreachableError(
                f"{where} is in use by another process.", hint="Try again in a moment.", kind="busy"
            ) from error
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            raise ConflictError(
                f"{where} cannot be written: {error}.", hint="Check the folder's permissions.", kind="read-only"
            ) from error
        if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
            raise CorruptError(
                f"{where} is damaged: {error}.",
                hint="Keep a copy, move it away and run 'cmf pull': journals and the hub still hold the rest.",
                kind="database",
            ) from error
        raise
