"""Bytes by meaning: which artifact, or which files of a folder, some words name, and who brings what is not here.

What was brought is kept in the objects here, verified, before anything is written elsewhere. Refuses to know where
remotes come from: `hubs` gives them, nearest first, and is asked only if the store here lacks something.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol

from cmf import moving, slicing
from cmf.errors import CmfError, CorruptError, NotFoundError, UnreachableError, UsageError
from cmf.graph.index import Index, Target
from cmf.model import alias
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, RemoteStore, damaged, manifest, read
from cmf.objects.local import LocalObjects

if TYPE_CHECKING:
    from cmf.remote import HubClient

Hubs = Callable[[], Iterable["HubClient"]]


class Holder(Protocol):
    """A remote that may hold bytes: a hub, or a folder."""

    url: str

    def objects(self, scope: str, /) -> RemoteStore:
        """Return its objects."""
        ...


Holders = Callable[[], Iterable[Holder]]
ARTIFACT = "artifact:"


class Named(NamedTuple):
    """What words name: an artifact; with ``inside``, the files of a folder that this path or pattern in it names."""

    digest: str
    name: str
    inside: str = ""


class Brought(NamedTuple):
    """Bytes that are here now: a file, or a folder of those files that were asked for."""

    digest: str
    name: str
    executable: bool = False


def find(index: Index, hubs: Hubs, text: str) -> Named:
    """Return what ``ARTIFACT`` or ``ARTIFACT/PATH`` names here, else at the first hub that knows it.

    An artifact is named as for `Index.resolve`; the longest name that is one counts. A whole digest needs no record.
    An execution, or a path inside what is no folder, is a `UsageError`; what nobody knows is a `NotFoundError`.
    """
    try:
        return _find(index, text)
    except NotFoundError as error:
        unknown = error
    for hub in hubs():
        with contextlib.suppress(NotFoundError, UnreachableError):
            return _find(hub.index, text)
    raise unknown


def _find(index: Index, text: str) -> Named:
    name, inside = text, ""
    unknown: NotFoundError | None = None
    while name:
        try:
            target = Target(node=ARTIFACT + name) if digests.is_digest(name) else index.resolve(name)
        except NotFoundError as error:
            unknown = unknown or error
        else:
            digest = target.node.removeprefix(ARTIFACT)
            if not inside or digest.startswith(digests.TREE):
                return Named(_artifact(target, text), target.name or name, inside)
        name, _, last = name.rpartition("/")
        inside = f"{last}/{inside}" if inside else last
    raise unknown or NotFoundError(f"Nothing here is called '{text[:120]}'.", hint="'cmf log' lists what is here.")


def _artifact(target: Target, text: str) -> str:
    if not target.node.startswith(ARTIFACT):
        raise UsageError(
            f"'{text[:120]}' is an execution, and has no bytes.", hint=f"'cmf show {text}' lists what it used and made."
        )
    return target.node.removeprefix(ARTIFACT)


def bring(
    objects: LocalObjects,
    holders: Holders,
    named: Named,
    moved: moving.Moved,
    progress: moving.Progress = moving.nothing,
) -> Brought:
    """Make sure that the bytes of what was named are here, and return them; of a folder, only what was asked for.

    What is neither here nor at a remote that answers is a `NotFoundError`, or the error of one that did not answer or
    has it damaged; a path that the folder does not hold is a `NotFoundError`. What was brought until then stays.
    """
    if not named.digest.startswith(digests.TREE):
        fetch(objects, holders, [named.digest], named, moved, progress)
        if of := _stands_for(objects, named.digest):
            raise NotFoundError(
                f"The bytes of {named.name} are not known here: only that they are {of[:200]}.",
                hint="Fetch them from there; 'cmf import dvc --data' brings what DVC holds.",
                kind="bytes",
            )
        return Brought(named.digest, named.name)
    held = manifest_of(objects, holders, named, moved, progress)
    if not named.inside:
        fetch(objects, holders, moving.members(objects, named.digest), named, moved, progress)
        return Brought(named.digest, named.name)
    is_inside = slicing.named_by(slicing.inside(Path(named.name), named.inside))
    entries = (entry for page in manifest.pages(objects, held) for entry in page)
    known = {name: entry for entry in entries if is_inside(name := entry_name(entry))}
    chosen = slicing.choose(Path(named.name), known, [named.inside])
    fetch(objects, holders, [known[name].digest for name in chosen], named, moved, progress)
    if chosen == [named.inside]:
        only = known[named.inside]
        return Brought(only.digest, named.inside, only.executable)
    part = manifest.encode(known[name] for name in chosen)
    objects.put(digests.file_digest(part), part)
    return Brought(manifest.tree_digest(part), named.name)


def _stands_for(objects: LocalObjects, digest: str) -> str:
    """Return what an alias stands for; "" for every other object."""
    if objects.size(digest) > alias.BYTES_MAX:
        return ""
    return alias.decode(read(objects, digest, alias.BYTES_MAX))


def manifest_of(
    objects: LocalObjects,
    holders: Holders,
    named: Named,
    moved: moving.Moved,
    progress: moving.Progress = moving.nothing,
) -> str:
    """Make sure that a folder's manifest is here, and return the object that it is; errors as `bring`."""
    if not named.digest.startswith(digests.TREE):
        raise UsageError(f"{named.name} is a file.", hint="Name a folder.")
    held = digests.object_of(named.digest)
    fetch(objects, holders, [held], named, moved, progress)
    return held


def entry_name(entry: manifest.Entry) -> str:
    """Return a file's path in its folder as Python spells paths."""
    raw = manifest.raw_path(entry.path)
    return raw.decode("utf-8", "surrogateescape")


def own_name(brought: Brought) -> str:
    """Return the name of the file or folder that something is written to if nobody says where.

    Names come from records, so from anybody: a hidden one, or one that is no plain name, is a `UsageError`.
    """
    if digests.is_digest(brought.name):
        return brought.digest.rpartition(":")[2][:12]
    name = brought.name.rpartition("/")[2]
    if name.startswith(".") or not manifest.is_path(name):
        raise UsageError(f"Nothing is written to {name!r} unasked.", hint="Say where: 'cmf get ARTIFACT TARGET'.")
    return name


def write(objects: LocalObjects, digest: str, out: BinaryIO) -> int:
    """Write an object's bytes to a stream, and return how many; `CorruptError`, at its end, if they are not its own."""
    hashed = hashlib.sha256()
    size = 0
    with objects.open(digest) as source:
        while chunk := source.read(CHUNK_BYTES):
            hashed.update(chunk)
            out.write(chunk)
            size += len(chunk)
    if digests.FILE + hashed.hexdigest() != digest:
        raise damaged(digest)
    return size


def fetch(
    objects: LocalObjects,
    holders: Holders,
    wanted: Iterable[str],
    named: Named,
    moved: moving.Moved,
    progress: moving.Progress,
) -> None:
    """Bring those of some objects that lack here, from one remote after the other; errors as `bring`."""
    remotes = _Remotes(holders)
    silent: CmfError | None = None
    count, one = 0, ""
    for batch in moving.batches(wanted):
        lacking = objects.absent(dict.fromkeys(batch))
        for holder in remotes if lacking else ():
            try:
                moving.fetch(holder.objects(""), objects, lacking, moved, progress)
            except (UnreachableError, CorruptError) as error:  # away, or damaged there: the next may have it
                silent = silent or error
                if isinstance(error, UnreachableError):
                    remotes.silent.add(holder.url)
            lacking = objects.absent(lacking)
            if not lacking:
                break
        count += len(lacking)
        one = one or "".join(lacking[:1])
    if not count:
        return
    if silent is not None:
        raise silent
    asked = ", ".join(holder.url for holder in remotes.known)
    where = f"nor held by {asked} for you to read" if asked else "and there is no remote to ask"
    raise NotFoundError(
        f"{count} of the objects of {named.name} are not here, {where}: {one} for one.",
        hint="The site that recorded them sends them with 'cmf push --data'.",
        kind="bytes",
    )


class _Remotes:
    """Remotes, each made when it is first asked, and then kept; those that turn out ``silent`` are asked no more."""

    def __init__(self, holders: Holders) -> None:
        self.known: list[Holder] = []
        self.silent: set[str] = set()
        self._holders = holders
        self._coming: Iterator[Holder] | None = None

    def __iter__(self) -> Iterator[Holder]:
        yield from [holder for holder in self.known if holder.url not in self.silent]
        self._coming = self._coming or iter(self._holders())
        for holder in self._coming:
            self.known.append(holder)
            yield holder
