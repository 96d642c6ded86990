"""Journals into the store: drafts completed with their salt, points cut into chunks, origins found.

Any command collects before it reads, so that everybody reads their own writes. Taking a journal in is one transaction
with the offset where reading goes on; doing it twice, or in two processes at once, changes nothing. Time comes from
the caller.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from cmf.collect import chunks
from cmf.collect.identity import Site, site
from cmf.collect.keys import HeldKey, had_keys, held_key, rotate_key, writer_key
from cmf.collect.lock import LinkLock, holder, unlock
from cmf.collect.taking import Clock, Collected, Journal, State, take
from cmf.errors import NotFoundError, UsageError
from cmf.model import records as model
from cmf.model import series
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.store.sqlite import SharedSqlite, Sqlite
from cmf.worktree import filesystem

__all__ = [
    "DATABASE",
    "Clock",
    "Collected",
    "HeldKey",
    "Known",
    "Site",
    "collect",
    "dropped",
    "had_keys",
    "held_key",
    "holder",
    "known_execution",
    "open_store",
    "rotate_key",
    "site",
    "tails",
    "unlock",
    "writer_key",
]

DATABASE = "store.db"
LAUNCH_SECONDS = 30 * 86_400


def open_store(folder: Path) -> SqlStore:
    """Open the database of a `.cmf` folder; make it if there is none.

    Where hosts share the file system, one process uses it at a time, under a lock that names it (`lock`).
    """
    if filesystem.is_shared(folder):
        return SqlStore(SharedSqlite(folder / DATABASE, LinkLock(folder)))
    return SqlStore(Sqlite(folder / DATABASE))


def collect(folder: Path, store: SqlStore, objects: LocalObjects, clock: Clock, *, cut: bool = False) -> Collected:
    """Take in every journal of a store, fold what is new, and find the origin of each new input.

    ``cut``: points that wait for a full chunk are cut as they are (push asks for this). A journal that cannot be read
    is reported in ``problems``, kept as it is, and holds nobody else up.
    """
    done = Collected(problems=[])
    identity = site(folder)
    paths = sorted((folder / "journal").glob("*.j"))
    journals = (Journal(path, store, objects, identity, clock, done) for path in paths)
    finished = take(journals, store, done, cut=cut)
    if done.dropped:
        _note_dropped(store, done)
    store.fold_pending()
    _find_origins(store, identity)
    if finished:
        store.checkpoint()
        for path in finished:
            path.unlink(missing_ok=True)
            store.forget_journal(path.name)
        _forget_launches(folder / "launch", clock)
    return done


def _forget_launches(folder: Path, clock: Clock) -> None:
    """Remove what processes agreed on so long ago that none of them starts again."""
    for path in folder.glob("*"):
        try:
            if path.stat().st_mtime_ns // 1000 < clock.wall_us - LAUNCH_SECONDS * 1_000_000:
                path.unlink()
        except OSError:
            continue  # another collector removed it, or it belongs to another user


def dropped(store: SqlStore) -> tuple[int, str]:
    """Return how many things could not be recorded since this store was made, and what the first was."""
    text = store.meta("dropped")
    count, first = msgspec.json.decode(text, type=tuple[int, str]) if text else (0, "")
    return count, first


def _note_dropped(store: SqlStore, done: Collected) -> None:
    count, first = dropped(store)
    store.set_meta("dropped", msgspec.json.encode((count + done.dropped, first or done.dropped_first)).decode())


def _find_origins(store: SqlStore, identity: Site) -> None:
    """Add to each new input event a link to the execution that made those bytes, where this store knows one."""
    while waiting := store.origins():
        links = []
        for scope, event, producer in waiting:
            if producer:
                link = model.Link(source=f"record:{event.hex()}", rel="via", to=producer)
                links.append((scope, *model.salted(link, identity.secret)))
        store.settle([(scope, event) for scope, event, _ in waiting], links)
        store.fold_pending()


def tails(folder: Path, store: SqlStore, execution: str, name: str) -> list[tuple[str, int, int, series.Chunk]]:
    """Return (attempt, rank, first row, chunk) of an execution's points that no full chunk holds yet."""
    split = model.split_execution(execution)
    found = []
    for journal_name, text in store.journals().items():
        state = msgspec.json.decode(text, type=State)
        for place, held in state.sets.items():
            scope, id_, attempt, rank, names = json.loads(place)
            if (scope, id_) != split or name not in names or held.rows == held.first:
                continue
            found.append((attempt, rank, held.first, chunks.rest(folder / "journal" / journal_name, place, held)))
    return found


def waiting_names(store: SqlStore, execution: str) -> set[str]:
    """Return the names of an execution's points that no full chunk holds yet."""
    split = model.split_execution(execution)
    found: set[str] = set()
    for text in store.journals().values():
        for place in msgspec.json.decode(text, type=State).sets:
            scope, id_, _, _, names = json.loads(place)
            if (scope, id_) == split:
                found.update(names)
    return found


class Known(msgspec.Struct, frozen=True):
    """What a resumed run must know of the execution it goes on with."""

    scope: str
    id: str
    attempts: tuple[str, ...]
    last_t: int


def known_execution(folder: Path, prefix: str, clock: Clock) -> Known | None:
    """Collect, then look an execution up by its id or the start of it; None if this store has no such birth."""
    if not folder.is_dir():
        return None
    store = open_store(folder)
    try:
        collect(folder, store, LocalObjects(folder / "objects"), clock)
        try:
            target = store.index.resolve(prefix)
        except NotFoundError:
            return None
        node = target.execution or target.node
        split = model.split_execution(node)
        if split is None:
            raise UsageError(f"'{prefix}' is not an execution.", hint="Resume an execution by its id.")
        found: Any = store.index.executions(list(store.index.nodes([node]).values()))
        view = next(iter(found.values()), None)
        if view is None or not view.known:
            return None
        last = max((write.t for write in store.index.history(node)), default=0)
        return Known(scope=view.scope, id=view.id, attempts=view.attempts, last_t=max(last, view.started or 0))
    finally:
        store.close()
