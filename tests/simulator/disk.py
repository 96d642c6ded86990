"""A simulated disk with one SQLite database: what a crash, a power cut, a full disk and an old backup leave of it.

The database is a real one, in memory. After each commit its image is kept; what a power cut leaves is the image of the
last synced commit or of any later one, which is what SQLite's write-ahead log promises. A crash can be armed: it comes
at one of the next points before or after a commit.
"""

import contextlib
import random
import sqlite3
from collections.abc import Iterator

from cmf.store.dialect import Connection
from cmf.store.sqlite import Sqlite

PAGES_MAX = 1 << 30


class Crash(BaseException):
    """The node that owns this disk stopped here. No code of the product may catch it."""

    def __init__(self, disk: "Disk") -> None:
        super().__init__(disk.owner)
        self.disk = disk


class Disk:
    """What a node's database is kept on. ``commits`` counts, so that whoever looks sees whether anything changed."""

    def __init__(self, owner: str, image: bytes = b"") -> None:
        self.owner = owner
        self.durable = image
        self.later: list[bytes] = []
        self.is_full = False
        self.commits = 0
        self._points_left = 0

    @property
    def image(self) -> bytes:
        """Return the database as it is now."""
        return self.later[-1] if self.later else self.durable

    def arm(self, points: int) -> None:
        """Crash at the so-manyth point from now on (0: never)."""
        self._points_left = points

    def point(self) -> None:
        """Crash here if this is the point."""
        if self._points_left:
            self._points_left -= 1
            if not self._points_left:
                raise Crash(self)

    def committed(self, image: bytes, *, durable: bool) -> None:
        """Note a commit."""
        self.commits += 1
        if durable:
            self.durable, self.later = image, []
        else:
            self.later.append(image)

    def sync(self) -> None:
        """Make all that was committed survive a power cut."""
        self.durable, self.later = self.image, []

    def cut_power(self, chance: random.Random) -> None:
        """Leave what a power cut leaves."""
        self.durable = chance.choice([self.durable, *self.later])
        self.later = []
        self.commits += 1

    def restore(self, image: bytes) -> None:
        """Put an old backup in the place of the database."""
        self.durable, self.later = image, []
        self.commits += 1


class Database(Sqlite):
    """The SQLite dialect on a simulated disk."""

    def __init__(self, disk: Disk) -> None:
        self.disk = disk
        super().__init__(None)

    @contextlib.contextmanager
    def write(self, *, durable: bool = False) -> Iterator[Connection]:
        if self._writer.in_transaction:
            with super().write(durable=durable) as connection:
                yield connection
            return
        self.disk.point()
        (pages,) = self._writer.execute("PRAGMA page_count").fetchone()
        self._writer.execute(f"PRAGMA max_page_count = {pages if self.disk.is_full else PAGES_MAX}")
        before = self._writer.total_changes
        with super().write(durable=durable) as connection:
            yield connection
            self.disk.point()
        if self._writer.total_changes != before or not self.disk.image:
            self.disk.committed(self._writer.serialize(), durable=durable)
        elif durable:
            self.disk.sync()
        self.disk.point()

    def checkpoint(self) -> None:
        self.disk.sync()

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        if self.disk.image:
            connection.deserialize(self.disk.image)
        return connection
