"""Push and pull between a local store and a hub: records first, then the bytes they name.

Composes `transfer`, `collect` and a hub's client. Remembers nothing: a rerun is the resume.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from cmf import collect, moving, resealing, transfer, witness
from cmf.bundle import Bundle, Stream
from cmf.errors import CmfError, ConflictError, DeniedError, NotFoundError, UnreachableError
from cmf.graph.index import Direction
from cmf.model import digest as digests
from cmf.model import wire
from cmf.model.exchange import EVERYTHING, Admission, Sample, View
from cmf.moving import Moved, Progress, nothing
from cmf.objects.local import LocalObjects
from cmf.signing import Key
from cmf.store.sql import SqlStore

if TYPE_CHECKING:
    from cmf.remote import HubClient

NAMED_MAX = 5
"""How many executions that nobody gave are named."""


def push(
    folder: Path,
    store: SqlStore,
    objects: LocalObjects,
    hub: HubClient,
    clock: collect.Clock,
    *,
    data: bool = False,
    relay: bool = False,
    dry: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Send this site's own streams, then the objects that the hub lacks: evidence, artifacts up to 1 MiB, all if asked.

    ``relay``: what other sites signed and this store holds goes too, which takes that role at the hub. Everything is
    sealed and synced before a byte leaves. Refused segments are in the answer, not raised; other scopes
    go on. ``dry``: say which segments would be sent, and send nothing. What a key signed that this user had before, and
    the hub does not take of it, is sealed again with the present key, and sent so.
    """
    collect.collect(folder, store, objects, clock, cut=True)
    seal(folder, store, clock)
    moved = Moved(refused=[], scopes=[], warnings=[])
    peer, view = hub.peer, View(own=not relay)
    if dry:
        rehearsal = transfer.Rehearsal(peer, store.scope_of)
        _admit(moved, transfer.transfer(transfer.LocalPeer(store), rehearsal, view), progress)
        return moved
    view = resealing.without(store, hub.url, view)
    acknowledged = _admit(moved, transfer.transfer(transfer.LocalPeer(store), peer, view), progress)
    key = writer_key(folder)
    if again := resealing.left(store, key.public, moved.refused):
        moved.resealed = store.unseal(again, key.public, collect.site(folder).id)
        seal(folder, store, clock)
        resealing.note(store, hub.url, again)
        moved.refused = [one for one in moved.refused if bytes.fromhex(one.stream) not in again]
        view = resealing.without(store, hub.url, view)
        acknowledged += _admit(moved, transfer.transfer(transfer.LocalPeer(store), peer, view), progress)
    streams = [sample.stream for sample in store.samples(view)]
    held = peer.wanted or hub.wanted(streams)
    while True:
        wanted: dict[str, list[str]] = defaultdict(list)
        for digest, scope in held.wanted:
            wanted[scope].append(digest)
        for scope, lacking in sorted(wanted.items()):
            moving.send(hub.objects(scope), objects, lacking, moved, progress, lacking=True)
        if not held.more:
            break
        held = hub.wanted(streams, held.wanted[-1])
    if data:
        for scope, asked in sorted(store.index.artifacts_by_scope(moving.scopes_of(store, view)).items()):
            moving.send(hub.objects(scope), objects, asked, moved, progress)
    else:
        _count_stayed(store, view, moved)
    if acknowledged:
        witness.prove(store, hub, acknowledged, moved.warnings)
    moved.warnings += hub.warnings
    return moved


def seal(folder: Path, store: SqlStore, clock: collect.Clock) -> int:
    """Seal what is pending with this user's key; return how many segments that made."""
    identity, key = collect.site(folder), writer_key(folder)
    had = collect.had_keys(folder, os.getuid())
    return store.seal(key, identity.id, now=clock.wall_us, nonce=lambda: os.urandom(16), had=had)


def writer_key(folder: Path) -> Key:
    """Return this user's key."""
    return collect.writer_key(folder, os.getuid())


def pull(
    store: SqlStore,
    objects: LocalObjects,
    hub: HubClient,
    *,
    views: Sequence[View] = (EVERYTHING,),
    data: bool = False,
    dry: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Bring what the hub holds in some views, with ``data`` its bytes too.

    ``dry``: fetch and check the segments that lack here, say what they are, and keep nothing.
    """
    moved = Moved(refused=[], scopes=[], warnings=[])
    local = transfer.LocalPeer(store)
    for view in views:
        if dry:
            _rehearse(store, local, hub, view, moved, progress)
            continue
        came = _pull(store, local, hub, view, moved, progress)
        if came and not moved.warnings:
            witness.prove(store, hub, came, moved.warnings)
        if data:
            wanted = moving.bytes_of(store, moving.executions(store, view))
            if view == EVERYTHING:  # also what no view of an execution shows, such as an earlier attempt's surroundings
                wanted += moving.lacking(store, objects)
            _fetch(store, objects, hub, wanted, moved, progress)
    moved.warnings += hub.warnings
    return moved


def _rehearse(
    store: SqlStore, local: transfer.LocalPeer, hub: HubClient, view: View, moved: Moved, progress: Progress
) -> None:
    rehearsal = transfer.Rehearsal(local, store.scope_of)
    if view.where:
        _admit(moved, rehearsal.admit(transfer.lacking(hub.peer, store, view)), progress)
    else:
        _admit(moved, transfer.transfer(hub.peer, rehearsal, view), progress)


def pull_lineage(
    store: SqlStore,
    objects: LocalObjects,
    hub: HubClient,
    root: str,
    direction: Direction,
    *,
    depth_max: int | None = None,
    data: bool = False,
    dry: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Bring one thing and all it came from (``up``), or all that came from it (``down``); else as `pull`.

    ``depth_max``: so many executions away at most; 0 is the thing alone.
    """
    moved = Moved(refused=[], scopes=[], warnings=[])
    answer = hub.lineage(root, direction=direction, depth_max=depth_max)
    lacking = store.lacking([wire.raw(text) for text in answer.segments])
    found = hub.peer.get(lacking)
    local = transfer.LocalPeer(store)
    if dry:
        _admit(moved, transfer.Rehearsal(local, store.scope_of).admit(found), progress)
        return moved
    if came := _admit(moved, local.take(found), progress):
        witness.prove(store, hub, came, moved.warnings)
    if data:
        _fetch(store, objects, hub, moving.bytes_of(store, list(answer.lineage.depth)), moved, progress)
    moved.warnings += hub.warnings
    return moved


def pull_promised(store: SqlStore, hubs: Iterable[HubClient], *, progress: Progress = nothing) -> Moved:
    """Bring the executions that are named here and are not here, and none of what those came from in turn.

    The hubs are asked one after the other for what still lacks; one that cannot be asked is a warning. What nobody
    holds, or lets us read, stays promised, and is a warning too.
    """
    moved = Moved(refused=[], scopes=[], warnings=[])
    wanted = left = store.index.referred()
    for hub in hubs:
        if not left:
            break
        try:
            found = hub.peer.get(store.lacking(dict.fromkeys(hub.about(left))))
            if came := _admit(moved, transfer.LocalPeer(store).take(found), progress):
                witness.prove(store, hub, came, moved.warnings)
        except (DeniedError, UnreachableError) as error:
            moved.warnings.append(f"{hub.url} was not asked: {error.message}")
        left = sorted({*wanted}.intersection(store.index.referred()))
    if left:
        few = ", ".join(node.removeprefix("execution:").replace(":", " ") for node in left[:NAMED_MAX])
        more = f" and {len(left) - NAMED_MAX} more" if len(left) > NAMED_MAX else ""
        them = "1 execution that is" if len(left) == 1 else f"{len(left)} executions that are"
        moved.warnings.append(f"Nobody who was asked gave {them} named here: {few}{more}.")
    return moved


def _fetch(
    store: SqlStore, objects: LocalObjects, hub: HubClient, wanted: list[str], moved: Moved, progress: Progress
) -> None:
    """Fetch the bytes of some digests, and note what came."""
    everywhere = hub.objects("")  # what may be read is by no scope
    moving.fetch(everywhere, objects, wanted, moved, progress)
    moving.note_kept(store, objects)


def _pull(
    store: SqlStore,
    local: transfer.LocalPeer,
    hub: HubClient,
    view: View,
    moved: Moved,
    progress: Progress,
) -> list[bytes]:
    """Bring what the hub took in since the last pull of this view, or compare what both hold.

    A cursor is kept only once all before it is committed here, and only if the hub refused to prove nothing: so it may
    be behind, which costs a little, and is never ahead, which would lose data. What a filter of executions finds can
    be old (a metric was added, so now it matches): then a cursor only tells that nothing at all has changed.

    Returns the hashes of what came.
    """
    standing = witness.look(store, hub, view, moved.warnings)
    place = _cursor(hub, view)
    if view.where:
        if standing.cursor == store.meta(place):
            return []
        came = _admit(moved, local.take(transfer.lacking(hub.peer, store, view)), progress)
        if not moved.refused:
            store.set_meta(place, standing.cursor)
        return came
    came = []
    if cursor := store.meta(place):
        try:
            own = {sample.stream: sample.points[:1] for sample in store.samples(View(own=True))}
            for page, behind in hub.following(view, cursor, own):
                came += _admit(moved, local.admit(page), progress)
                if moved.refused:
                    return came
                cursor = behind
        except ConflictError as error:
            if error.kind != "cursor":
                raise
        else:
            if cursor != store.meta(place):
                store.set_meta(place, cursor)
            return came
    came += _admit(moved, transfer.transfer(hub.peer, local, view), progress)
    if not moved.refused:
        store.set_meta(place, standing.cursor)
    return came


def _cursor(hub: HubClient, view: View) -> str:
    """Return under what the cursor of a view of a hub is kept."""
    chosen = f" {msgspec.json.encode([view.sites, view.where]).decode()}" if view.sites or view.where else ""
    return f"cursor {hub.url} {' '.join(view.scopes)}{chosen}"


def pack(
    store: SqlStore,
    objects: LocalObjects,
    path: Path,
    *,
    view: View = EVERYTHING,
    since: Sequence[Sample] = (),
    data: bool = False,
    progress: Progress = nothing,
) -> Moved:
    """Write a bundle of what this store holds in a view beyond ``since``: what its receiver said that it holds.

    With it go the objects that a push would send, with ``data`` every artifact. Everything is sealed before.
    """
    moved = Moved(refused=[], scopes=[], warnings=[])
    local = transfer.LocalPeer(store)
    with Bundle.create(path, holds=local.streams(View()), base=_base(store, since)) as made:
        _admit(moved, transfer.transfer(local, made, view), progress)
        for digest in {**made.evidence, **(made.artifacts if data else {})}:
            _pack_object(objects, made, digest, moved, progress)
        made.seal()
    return moved


def _base(store: SqlStore, since: Sequence[Sample]) -> dict[bytes, Stream]:
    found = {}
    for stream, heads in store.have(since).items():
        scope = store.scope_of(stream)
        said = {point.hash for sample in since if sample.stream == stream for point in sample.points}
        base = {head.hash: head.n for head in heads if head.hash in said}
        if scope is not None and base:
            found[stream] = Stream(*scope, base, {})
    return found


def _pack_object(objects: LocalObjects, made: Bundle, digest: str, moved: Moved, progress: Progress) -> None:
    for name in (digests.object_of(digest), *moving.members(objects, digest)):
        if name in made.objects:
            continue
        try:
            with objects.open(name) as source:
                moved.object_bytes += made.put(name, source)
        except NotFoundError:
            moved.stayed += 1
            continue
        moved.objects += 1
        progress("objects", 1)


def unpack(store: SqlStore, objects: LocalObjects, path: Path, *, progress: Progress = nothing) -> Moved:
    """Take in a bundle: its segments, each verified as from a hub, then its objects. Twice changes nothing."""
    moved = Moved(refused=[], scopes=[], warnings=[])
    with Bundle.open(path) as found:
        _admit(moved, transfer.transfer(found, transfer.LocalPeer(store), View()), progress)
        for digest in objects.absent(found.objects):
            with found.read(digest) as source:
                moved.object_bytes += objects.put(digest, source)
            moved.objects += 1
            progress("objects", 1)
    moving.note_kept(store, objects)
    return moved


def _admit(moved: Moved, admissions: Iterable[Admission], progress: Progress) -> list[bytes]:
    """Count admissions; return the hashes of the segments that both ends hold now."""
    held = []
    scopes = set(moved.scopes)
    for admission in admissions:
        if admission.outcome == "refused":
            moved.refused.append(admission)
        elif admission.outcome == "known":
            moved.known += 1
        else:
            moved.segments += 1
            moved.records += admission.records
            scopes.add(admission.scope)
        if admission.outcome != "refused":
            held.append(bytes.fromhex(admission.hash))
        progress("records", admission.records)
    moved.scopes = sorted(scopes)
    return held


def _count_stayed(store: SqlStore, view: View, moved: Moved) -> None:
    count, size = store.index.large_artifacts(moving.scopes_of(store, view))
    moved.stayed += count
    moved.stayed_bytes += size


def check(moved: Moved, what: str) -> None:
    """Raise `ConflictError` if anything was refused, saying what and why."""
    if not moved.refused:
        return
    first = moved.refused[0]
    reasons: type[CmfError] = ConflictError
    raise reasons(
        f"{len(moved.refused)} of the segments were refused by the {what}: {first.detail}",
        hint=f"They are of {', '.join(sorted({r.scope or 'an unknown stream' for r in moved.refused}))}; "
        "nothing is lost: they stay here until they are accepted.",
        kind=first.kind,
    )
