"""The stat memory: which files were read already, so that a file that has not changed is not read again.

A cache in one SQLite file beside the store. It may be deleted at any time; it is skipped where it is busy, damaged or
cannot be written. It vouches for nothing: whoever asks it still asks the objects whether they hold what it names.

A power cut can take bytes of a file that were read and had not reached the disk, and leave its inode as it was. So what
was changed shortly before the memory was last written is forgotten once the machine has been started anew.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterable
from hashlib import blake2b, sha256
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cmf.worktree import machine

if TYPE_CHECKING:
    import sqlite3

VERSION = 1
BYTES_MAX = 1 << 30
"""A memory that has grown beyond this is begun anew."""

TICK_NS = 50_000_000
"""A file that was written this shortly before it was read may have been written again within one tick of its clock."""

COARSE_NS = 2_000_000_000
"""The same, where the file system keeps whole seconds."""

WRITTEN_NS = 30 * 60 * 1_000_000_000
"""After so long a system that was running all the while has written a file's bytes to the disk, synced or not."""

_DIGEST = 32
_VERSION = struct.Struct("<QQqq")
_TABLE = (
    "CREATE TABLE IF NOT EXISTS file (folder BLOB NOT NULL, name BLOB NOT NULL, version BLOB NOT NULL, "
    "digest BLOB NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (folder, name)) WITHOUT ROWID"
)
_LATEST_NS = 2**63 - 1
_NAMES = sys.getfilesystemencoding()
_ALL = "SELECT name, version, digest, crc FROM file WHERE folder = ?"
_ONE = _ALL + " AND name = ?"
_PUT = "INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)"
_DELETE = "DELETE FROM file WHERE folder = ? AND name = ?"
_BOOT = "", "boot"
"""In place of a file: when something was last remembered, as a version's times, and the hash of that boot's name."""


class Seen(NamedTuple):
    """A file that was read: where, as which version, and what it held."""

    folder: str
    name: str
    version: bytes
    digest: bytes


def version(found: os.stat_result) -> bytes:
    """Return what `stat` says of a file's content, as bytes: inode, size, mtime, ctime."""
    return _VERSION.pack(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_settled(found: os.stat_result, read_ns: int) -> bool:
    """Tell whether a change after a file was read, begun at that wall time, would show in its version.

    Git calls a file that fails this *racily clean*. A file from the future never is settled.
    """
    last = max(found.st_mtime_ns, found.st_ctime_ns)
    return last < read_ns - (COARSE_NS if last % 1_000_000_000 == 0 else TICK_NS)


class Memory:
    """The stat memory of a store. Safe to be used by several threads and processes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0
        self._is_off = False

    def recall(self, folder: str, name: str = "") -> dict[str, tuple[bytes, bytes]]:
        """Return what is known of the files in a folder, or of one of them: version and digest by their name."""
        path, one = os.fsencode(folder), os.fsencode(name)
        return _known(path, self._ask(_ONE, _key(path), one) if name else self._ask(_ALL, _key(path)))

    def remember(self, seen: list[Seen], gone: list[tuple[str, str]]) -> None:
        """Note what files held, and forget those that are gone (folder, name)."""
        if not seen and not gone:
            return
        rows = [_row(each) for each in (*seen, _boot(now()))]
        lost = [(_key(os.fsencode(folder)), os.fsencode(name)) for folder, name in gone]
        import sqlite3

        with self._lock:
            connection = self._opened()
            if connection is None:
                return
            try:
                with contextlib.closing(connection.cursor()) as cursor:
                    cursor.execute("BEGIN IMMEDIATE")
                    cursor.executemany(_DELETE, lost)
                    cursor.executemany(_PUT, rows)
                    cursor.execute("COMMIT")
            except sqlite3.Error as error:
                self._failed(error)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def forked(self) -> None:
        """Leave the parent's connection to the parent: called in a forked child."""
        self._lock = threading.RLock()

    def _ask(self, question: str, *values: bytes) -> list[tuple[bytes, bytes, bytes, int]]:
        import sqlite3

        with self._lock:
            connection = self._opened()
            if connection is None:
                return []
            try:
                return connection.execute(question, values).fetchall()
            except sqlite3.Error as error:
                self._failed(error)
                return []

    def _opened(self) -> sqlite3.Connection | None:
        if self._is_off:
            return None
        if self._connection is None or self._pid != os.getpid():
            self._connection = self._try_open() or self._try_open()  # a damaged one is dropped by the first attempt
        return self._connection

    def _try_open(self) -> sqlite3.Connection | None:
        import sqlite3

        try:
            if self._is_off or not self._path.parent.is_dir():
                return None
            if self._path.exists() and self._path.stat().st_size > BYTES_MAX:
                self._drop()
            return self._open()
        except sqlite3.Error as error:
            self._failed(error)
        except OSError:
            self._is_off = True
        return None

    def _open(self) -> sqlite3.Connection:
        import sqlite3

        # No waiting: whoever is busy with it remembers for all. No syncs: what a power cut takes is read again.
        connection = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA synchronous = OFF")
            (known,) = connection.execute("PRAGMA user_version").fetchone()
            if known != VERSION:
                if known:
                    raise sqlite3.DatabaseError(f"version {known}")
                connection.execute("BEGIN IMMEDIATE")
                connection.execute(_TABLE)
                connection.execute(f"PRAGMA user_version = {VERSION}")
                connection.execute("COMMIT")
            _forget_unwritten(connection)
        except BaseException:  # ctrl-C too: nobody else would close it
            connection.close()
            raise
        self._pid = os.getpid()
        return connection

    def _failed(self, error: Exception) -> None:
        """Do without: for now if it is only busy, and anew if it is damaged."""
        import sqlite3

        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
        if isinstance(error, sqlite3.OperationalError):
            self._is_off = "locked" not in str(error) and "busy" not in str(error)
            return
        self._drop()

    def _drop(self) -> None:
        for path in (self._path, self._path.with_name(self._path.name + "-journal")):
            with contextlib.suppress(OSError):
                path.unlink()


def _row(seen: Seen) -> tuple[bytes, bytes, bytes, bytes, int]:
    folder, name, packed, digest = seen
    path, key = os.fsencode(folder), os.fsencode(name)
    return _key(path), key, packed, digest, zlib.crc32(b"\0".join((path, key, packed, digest)))


def _known(path: bytes, rows: Iterable[tuple[bytes, bytes, bytes, int]]) -> dict[str, tuple[bytes, bytes]]:
    """Return version and digest by name, of those rows of a folder that are whole."""
    found = {}
    for each, packed, digest, crc in rows:
        try:
            if crc == zlib.crc32(b"\0".join((path, each, packed, digest))) and len(digest) == _DIGEST:
                found[each.decode(_NAMES, "surrogateescape")] = packed, digest
        except TypeError:  # a flipped byte can make a column of any type
            continue
    return found


def _boot(remembered_ns: int) -> Seen:
    return Seen(*_BOOT, _VERSION.pack(0, 0, remembered_ns, remembered_ns), sha256(machine.boot().encode()).digest())


def _forget_unwritten(connection: sqlite3.Connection) -> None:
    """Forget which files may have lost bytes if this is another boot than the one in which they were remembered."""
    fresh = _boot(now())
    folder, name = _BOOT
    key = _key(os.fsencode(folder))
    packed, digest = _known(b"", connection.execute(_ONE, (key, os.fsencode(name)))).get(name, (b"", b""))
    if digest == fresh.digest:
        return
    until = _changed(packed) - WRITTEN_NS if packed else 0
    connection.create_function("changed", 1, _changed, deterministic=True)
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("DELETE FROM file WHERE changed(version) > ?", (until,))
    connection.execute(_PUT, _row(fresh))
    connection.execute("COMMIT")


def _changed(packed: object) -> int:
    """Return when a file was last changed, by its version: wall time in ns; the last there is if that is damaged."""
    if not isinstance(packed, bytes) or len(packed) != _VERSION.size:
        return _LATEST_NS
    _, _, mtime, ctime = _VERSION.unpack(packed)
    return int(max(mtime, ctime))


def now() -> int:
    """Return the wall time in ns, as `is_settled` wants it: taken before a file is opened."""
    return time.time_ns()


def _key(path: bytes) -> bytes:
    return blake2b(path, digest_size=16).digest()
