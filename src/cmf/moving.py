"""Bytes between the objects here and a remote: what is named, what lacks, what was moved.

Knows no segment. Remembers nothing: a rerun is the resume.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import BinaryIO

import msgspec

from cmf import collect
from cmf.errors import CmfError, NotFoundError, UsageError
from cmf.graph import views
from cmf.model import digest as digests
from cmf.model import encoding, wire
from cmf.model.exchange import EVERYTHING, Admission, View
from cmf.objects import ObjectStore, RemoteStore, SizedStore, manifest
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore


class Moved(msgspec.Struct):
    """What a push or a pull did. Sizes in bytes.

    ``resealed``: records sealed again under another key. ``resumed``: (object, where it went on, its size).
    """

    segments: int = 0
    records: int = 0
    known: int = 0
    refused: list[Admission] = []
    objects: int = 0
    object_bytes: int = 0
    stayed: int = 0
    stayed_bytes: int = 0
    resumed: list[tuple[str, int, int]] = []
    resealed: int = 0
    scopes: list[str] = []
    warnings: list[str] = []


AT_ONCE = 50_000
"""So many files of a folder are asked about and fetched at once."""

Progress = Callable[[str, int], None]
"""Called with what is being moved and how many more of it were."""


def nothing(what: str, count: int) -> None:
    """Show no progress."""


def push_data(
    folder: Path,
    store: SqlStore,
    objects: LocalObjects,
    remote: RemoteStore,
    clock: collect.Clock,
    *,
    dry: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Send the bytes of every artifact of this site's scopes to a remote that holds only bytes.

    What is there already is not sent. ``dry``: say how many objects would go, and send nothing.
    """
    collect.collect(folder, store, objects, clock)
    moved = Moved(refused=[], scopes=[], warnings=[])
    own = sorted({*scopes_of(store, View(own=True)), *store.pending_scopes()})
    asked = list(dict.fromkeys(d for found in store.index.artifacts_by_scope(own).values() for d in found))
    if dry:
        files = [name for digest in asked for name in (digests.object_of(digest), *members(objects, digest))]
        lacking = remote.absent(dict.fromkeys(files))
        there = [digest for digest in lacking if not objects.absent([digest])]
        moved.objects, moved.object_bytes = len(there), sum(objects.size(digest) for digest in there)
        return moved
    send(remote, objects, asked, moved, progress)
    return moved


def pull_data(
    store: SqlStore,
    objects: LocalObjects,
    remote: RemoteStore,
    *,
    view: View = EVERYTHING,
    dry: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Bring the bytes that the executions of a view, as known here, name, from a remote that holds only bytes."""
    moved = Moved(refused=[], scopes=[], warnings=[])
    wanted = bytes_of(store, executions(store, view))
    if dry:
        moved.objects = len(objects.absent(dict.fromkeys(digests.object_of(digest) for digest in wanted)))
        return moved
    fetch(remote, objects, wanted, moved, progress)
    note_kept(store, objects)
    return moved


def needed(view: views.Execution) -> list[str]:
    """Return the digests of what an execution names: inputs, outputs, and all that tells how it ran."""
    found = [use.artifact for use in (*view.inputs, *view.outputs)]
    found += [view.environment] if view.environment else []
    said = [view.code, view.error, view.params, view.process, view.properties, view.terminal]
    found += encoding.objects_in(said)
    return list(dict.fromkeys(found))


def send(
    remote: RemoteStore,
    objects: SizedStore,
    asked: Sequence[str],
    moved: Moved,
    progress: Progress,
    *,
    lacking: bool = False,
) -> None:
    """Send objects that the hub lacks under a scope; a folder's files before its manifest.

    ``lacking``: the hub has said that it lacks these, so only a folder's files are asked about.
    """
    files: dict[str, None] = {}
    folders: dict[str, None] = {}
    for digest in asked:
        (folders if digest.startswith(digests.TREE) else files)[digests.object_of(digest)] = None
    sure = {*files, *folders} if lacking else set()

    def absent(names: Iterable[str]) -> set[str]:
        return sure.union(remote.absent([digest for digest in dict.fromkeys(names) if digest not in sure]))

    inside = (
        name
        for folder in folders
        for name in members(objects, digests.TREE + folder.removeprefix(digests.FILE))
        if name not in files
    )
    waiting = batches(itertools.chain(files, inside))
    batch = next(waiting, [])
    missing = absent([*batch, *folders])
    last = [digest for digest in folders if digest in missing]
    while batch:
        _send_all(remote, objects, [name for name in dict.fromkeys(batch) if name in missing], moved, progress)
        if batch := next(waiting, []):
            missing = absent(batch)
    _send_all(remote, objects, last, moved, progress, folder=True)


def _send_all(
    remote: RemoteStore,
    objects: SizedStore,
    wanted: Sequence[str],
    moved: Moved,
    progress: Progress,
    *,
    folder: bool = False,
) -> None:
    """Send those of some objects that are here; the small ones together, the large ones on the way."""
    for sent, refused in remote.put_all(_small(remote, objects, wanted, moved, progress, folder=folder)):
        _note_sent(moved, len(sent.data), refused, progress)


def _small(
    remote: RemoteStore,
    objects: SizedStore,
    wanted: Sequence[str],
    moved: Moved,
    progress: Progress,
    *,
    folder: bool,
) -> Iterator[wire.Small]:
    """Yield the small ones of some objects that are here; send the large ones on the way."""
    moved.stayed += len(wanted)
    for small in objects.smalls(wanted, wire.SMALL_BYTES):
        moved.stayed -= 1
        if not small.large:
            yield wire.Small(small.digest, small.data, folder) if folder else small
            continue
        try:
            source = objects.open(small.digest)
        except NotFoundError:  # freed meanwhile
            moved.stayed += 1
            continue
        with source:
            resumed = partial(_note_resumed, moved, progress, small.digest, objects.size(small.digest))
            try:
                size = remote.put(small.digest, source, folder=folder, resumed=resumed)
            except UsageError as error:
                _note_sent(moved, 0, error, progress)
            else:
                _note_sent(moved, size, None, progress)


def _note_resumed(moved: Moved, progress: Progress, digest: str, size: int, start: int) -> None:
    moved.resumed.append((digest, start, size))
    progress(f"resumed at {start:,} of {size:,} bytes", 1)


def _note_sent(moved: Moved, size: int, refused: CmfError | None, progress: Progress) -> None:
    if refused is None:
        moved.objects += 1
        moved.object_bytes += size
        progress("objects", 1)
    elif refused.kind == "members":
        moved.stayed += 1  # a file of the folder stayed, so the folder does too
    else:
        raise refused


def fetch(remote: RemoteStore, objects: LocalObjects, asked: Sequence[str], moved: Moved, progress: Progress) -> None:
    """Fetch the objects that are not here yet: files and manifests, then the files of every folder's manifest.

    What the remote does not hold, or lets nobody read, is counted as ``stayed``.
    """
    _fetch_files(remote, objects, [digests.object_of(digest) for digest in asked], moved, progress)
    files = (name for digest in dict.fromkeys(asked) for name in members(objects, digest))
    for batch in batches(files):
        _fetch_files(remote, objects, batch, moved, progress)


def members(objects: ObjectStore, digest: str) -> Iterator[str]:
    """Yield the files of a folder whose manifest is here, repeats included; of all else none."""
    if digest.startswith(digests.TREE):
        with contextlib.suppress(NotFoundError):
            for page in manifest.pages(objects, digests.object_of(digest)):
                yield from [entry.digest for entry in page]


def batches(names: Iterable[str]) -> Iterator[list[str]]:
    """Yield some names, `AT_ONCE` at a time, so that a folder of any size takes no more memory than that."""
    waiting = iter(names)
    while batch := list(itertools.islice(waiting, AT_ONCE)):
        yield batch


def _fetch_files(
    remote: RemoteStore, objects: LocalObjects, asked: Sequence[str], moved: Moved, progress: Progress
) -> None:
    """Fetch the small ones a page at a time, each page durable before the next; then the large ones."""
    lacking = dict.fromkeys(objects.absent(dict.fromkeys(asked)))
    if not lacking:
        return
    large = []
    for page in remote.get_all(lacking):
        for small in page:
            if small.large:
                large.append(small.digest)
                continue
            size = objects.put(small.digest, small.data, durable=False)
            lacking.pop(small.digest, None)
            moved.objects += 1
            moved.object_bytes += size
            progress("objects", 1)
        objects.flush()
    for digest in large:
        with contextlib.suppress(NotFoundError):
            began: list[int] = []
            size = objects.bring(digest, partial(_opened, remote, digest, began, progress))
            if began[-1]:
                moved.resumed.append((digest, began[-1], size))
            lacking.pop(digest, None)
            moved.objects += 1
            moved.object_bytes += size
            progress("objects", 1)
    moved.stayed += len(lacking)


def _opened(remote: RemoteStore, digest: str, began: list[int], progress: Progress, start: int) -> BinaryIO:
    """Open an object where its fetching goes on, and note where that was."""
    source = remote.open(digest, start)
    began.append(start)
    if start:
        progress(f"resumed at {start:,} bytes", 1)
    return source


def executions(store: SqlStore, view: View) -> list[str]:
    """Return the nodes of the executions in a view that its filter finds."""
    found: list[str] = []
    cursor, more = "", True
    while more:
        nodes, cursor = store.chosen(view, cursor)
        found += store.index.texts(nodes).values()
        more = bool(cursor)
    return found


def bytes_of(store: SqlStore, executions: Sequence[str]) -> list[str]:
    """Return every artifact and object that some executions, named by their nodes, need."""
    wanted: dict[str, None] = {}
    for view in store.index.executions(list(store.index.nodes(executions).values())).values():
        wanted.update(dict.fromkeys([*needed(view), *store.index.series_objects(view.node)]))
    return list(wanted)


def scopes_of(store: SqlStore, view: View) -> list[str]:
    """Return the scopes of the streams of a view."""
    return sorted({stream["scope"] for stream in store.streams() if stream["own"] >= view.own})


def lacking(store: SqlStore, objects: LocalObjects) -> list[str]:
    """Return the digests that pulled records promise and whose bytes are not here, each once."""
    promised = dict.fromkeys(digest for digest, _ in store.promised())
    absent = set(objects.absent(dict.fromkeys(digests.object_of(digest) for digest in promised)))
    return [digest for digest in promised if digests.object_of(digest) in absent]


def note_kept(store: SqlStore, objects: LocalObjects) -> None:
    """Note in the store which of the objects that it waits for have come."""
    absent = set(lacking(store, objects))
    store.kept([(digest, scope) for digest, scope in store.promised() if digest not in absent])
