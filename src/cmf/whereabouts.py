"""Where the bytes are: what remotes show of what they hold, noted on the way, and told of one artifact.

A remote that holds an object is noted when it says so: when it takes the object, sends it, or is asked. An object that
records only name is at no place. A note is what was so at its time: whoever needs a copy to be there asks again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import BinaryIO

import msgspec

from cmf.errors import CmfError, CorruptError, NotFoundError
from cmf.graph.views import Use
from cmf.model import digest as digests
from cmf.model.wire import Small
from cmf.objects import Digests, RemoteStore, Resumed, manifest, read, unnoticed
from cmf.objects.local import LocalObjects
from cmf.store.index import SqlIndex
from cmf.store.whereabouts import SqlWhereabouts

HERE = "here"
NOTED_AT_ONCE = 10_000


class Watched:
    """A `RemoteStore` that notes which objects the remote turns out to hold, under its address.

    ``part``: it answers for one scope of several, so that what is not in it may still be at the remote.
    """

    def __init__(self, remote: RemoteStore, notes: SqlWhereabouts, place: str, *, part: bool) -> None:
        self._remote = remote
        self._notes = notes
        self._place = place
        self._part = part

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return which of these it does not hold, in the order given, repeats included."""
        asked = list(digests)
        found = self._remote.absent(asked)
        lacking = set(found)
        self._note([digest for digest in asked if digest not in lacking], lacking)
        return found

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on; `NotFoundError` if it isn't held."""
        try:
            source = self._remote.open(digest, offset)
        except NotFoundError:
            self._note((), (digest,))
            raise
        self._note((digest,))
        return source

    def put(self, digest: str, source: BinaryIO | bytes, *, folder: bool = False, resumed: Resumed = unnoticed) -> int:
        """Send an object; ``folder``: it is a manifest, whose files were sent before."""
        size = self._remote.put(digest, source, folder=folder, resumed=resumed)
        self._note((digest,))
        return size

    def put_all(self, found: Iterable[Small]) -> Iterator[tuple[Small, CmfError | None]]:
        """Send small objects, a folder's files before its manifest; say of each why it was not taken, if so."""
        taken: Digests = []
        try:
            for small, refused in self._remote.put_all(found):
                if refused is None:
                    taken.append(small.digest)
                if len(taken) == NOTED_AT_ONCE:
                    self._note(taken)
                    taken = []
                yield small, refused
        finally:
            self._note(taken)

    def get_all(self, asked: Iterable[str]) -> Iterator[Sequence[Small]]:
        """Yield objects, some at a time, unverified; large ones without their bytes; what isn't held is left out."""
        lacking = dict.fromkeys(asked)
        for page in self._remote.get_all([*lacking]):
            self._note([small.digest for small in page])
            for small in page:
                lacking.pop(small.digest, None)
            yield page
        self._note((), lacking)

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the size of each object, sorted by digest."""
        return self._remote.list()

    def remove(self, digests: Iterable[str]) -> int:
        """Remove these objects and return how many of them were there."""
        asked = [*digests]
        self._notes.missed(self._place, asked)
        return self._remote.remove(asked)

    def _note(self, held: Iterable[str], lacking: Iterable[str] = ()) -> None:
        self._notes.saw(self._place, held, now=time.time_ns() // 1000)
        if not self._part:
            self._notes.missed(self._place, lacking)


class Place(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How many of an artifact's objects a place holds: `HERE`, or a remote, by its name and its address.

    ``checked``: when it was last looked for there, of the object that was longest ago; wall time in µs.
    """

    name: str
    url: str = ""
    objects: int
    checked: int | None = None


class Whereabouts(msgspec.Struct, frozen=True, kw_only=True):
    """Where an artifact's bytes are. ``objects``: of how many it consists, a folder's files and its manifest.

    ``complete`` is False if it is a folder whose manifest is not here, so that only the manifest is spoken of.
    ``sites``: other sites that had the bytes when they recorded them, and when that was, in µs; no copy is promised.
    """

    objects: int
    complete: bool
    places: list[Place]
    sites: dict[str, int]


def of(
    notes: SqlWhereabouts,
    objects: LocalObjects,
    digest: str,
    *,
    remotes: Mapping[str, str],
    sites: Mapping[str, int],
) -> Whereabouts:
    """Return which places hold an artifact, the one here first. ``remotes``: addresses by name; ``sites`` as told."""
    wanted = [digests.object_of(digest)]
    complete = True
    if digest.startswith(digests.TREE):
        try:
            found = manifest.decode(read(objects, wanted[0], manifest.MANIFEST_BYTES_MAX))
            wanted = [*dict.fromkeys([*wanted, *(entry.digest for entry in found)])]
        except (NotFoundError, CorruptError):
            complete = False
    places = []
    here = len(wanted) - len(objects.absent(wanted))
    if here:
        places.append(Place(name=HERE, objects=here))
    counts: dict[str, list[int]] = {}
    for sightings in notes.of(wanted).values():
        for sighting in sightings:
            counts.setdefault(sighting.place, []).append(sighting.checked)
    names = {url.rstrip("/"): name for name, url in remotes.items()}
    for url, checked in sorted(counts.items(), key=lambda item: (-len(item[1]), item[0])):
        places.append(Place(name=names.get(url.rstrip("/"), url), url=url, objects=len(checked), checked=min(checked)))
    return Whereabouts(objects=len(wanted), complete=complete, places=places, sites=dict(sites))


def scarce(notes: SqlWhereabouts, held: Iterable[str], wanted: set[str], places: set[str], copies: int) -> int:
    """Return how many of the ``wanted`` objects are known at fewer than so many places, here and some remotes.

    ``held`` are those that are here, ``places`` the remotes' addresses without a slash at their end. What is known
    nowhere is not counted: this site cannot copy it.
    """
    counts = Counter(digest for digest in held if digest in wanted)
    for digest, sightings in notes.of([*wanted]).items():
        counts[digest] += len(places.intersection(sighting.place.rstrip("/") for sighting in sightings))
    return sum(0 < count < copies for count in counts.values())


def sites(index: SqlIndex, uses: Sequence[Use], *, but: str) -> dict[str, int]:
    """Return which other sites recorded an artifact's bytes and did not leave them elsewhere, and when last, in µs."""
    held = [use for use in uses if use.attributes.get("policy") != "reference"]
    nodes = index.nodes(sorted({use.execution for use in held}))
    known = index.executions([*nodes.values()])
    found: dict[str, int] = {}
    for use in held:
        site = known[nodes[use.execution]].site if nodes.get(use.execution) in known else ""
        if site not in ("", but):
            found[site] = max(use.t, found.get(site, 0))
    return found
