"""Which places are known to hold which objects, and since when: what remotes said, as it was said.

A hint for people and for where to look first. Whoever removes an object asks the other places anew.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cmf.model import digest as digests
from cmf.store.dialect import IN_MAX, Dialect


class Sighting(NamedTuple):
    """An object was at a place, a remote's address, when it was last looked for there: wall time in µs."""

    place: str
    checked: int


class SqlWhereabouts:
    """The sightings that one database holds."""

    def __init__(self, dialect: Dialect) -> None:
        self._sql = dialect

    def saw(self, place: str, objects: Iterable[str], *, now: int) -> None:
        """Note that a place holds these objects, by their digests; ``now`` in µs."""
        rows = [(_raw(digest), place, now) for digest in objects]
        if rows:
            with self._sql.write() as connection:
                connection.executemany(
                    "INSERT INTO whereabouts (digest, place, checked) VALUES (?, ?, ?) "
                    "ON CONFLICT (digest, place) DO UPDATE SET checked = excluded.checked "
                    "WHERE excluded.checked > whereabouts.checked",
                    sorted(rows),
                )

    def missed(self, place: str, objects: Iterable[str]) -> None:
        """Note that a place does not hold these objects."""
        rows = [(_raw(digest), place) for digest in objects]
        if rows:
            with self._sql.write() as connection:
                connection.executemany("DELETE FROM whereabouts WHERE digest = ? AND place = ?", sorted(rows))

    def of(self, objects: Sequence[str]) -> dict[str, list[Sighting]]:
        """Return where each of these objects was seen, by place; those that nobody saw are left out."""
        found: dict[str, list[Sighting]] = defaultdict(list)
        marks = ",".join("?" * IN_MAX)
        asked = sorted({_raw(digest) for digest in objects})
        with self._sql.read() as connection:
            for at in range(0, len(asked), IN_MAX):
                part = asked[at : at + IN_MAX]
                part += [part[-1]] * (IN_MAX - len(part))
                for raw, place, checked in connection.execute(
                    f"SELECT digest, place, checked FROM whereabouts WHERE digest IN ({marks}) ORDER BY digest, place",
                    part,
                ):
                    found[digests.FILE + bytes(raw).hex()].append(Sighting(place, checked))
        return dict(found)


def _raw(digest: str) -> bytes:
    return bytes.fromhex(digest[len(digests.FILE) :])
