"""What this store remembers of a hub, so that it finds out if the hub's log is ever rewritten.

The hub's key is believed at first sight, and must stay. Of the log the newest signed checkpoint is kept; each later one
comes with a proof that it begins with it. Of the segments that the hub sent or acknowledged it is kept where they are
in the log, and a pruned tree that joins them to a signed root: so it shows without the hub that all are still here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from cmf import signing
from cmf.errors import ConflictError, CorruptError, NotFoundError, UnreachableError
from cmf.model import log, wire
from cmf.model.exchange import View
from cmf.model.log import Checkpoint, Subtree
from cmf.store.sql import SqlStore
from cmf.transfer import Problem

if TYPE_CHECKING:
    from cmf.remote import HubClient


def look(store: SqlStore, hub: HubClient, view: View, warnings: list[str]) -> wire.Standing:
    """Ask where the hub's log stands, and hold it against what is remembered; what is wrong is added to ``warnings``.

    Raises `ConflictError` of kind ``hub-key`` if the address answers with another key than it had before. A log that
    lost entries or was rewritten is only a warning: every segment is checked by itself, and a union loses nothing.
    """
    known = _key(store, hub)
    before = _last(store, hub.url)
    standing = hub.standing(view, before.size if before else 0)
    _accepted(store, hub, known, before, standing, warnings)
    return standing


def _accepted(
    store: SqlStore,
    hub: HubClient,
    known: str,
    before: Checkpoint | None,
    said: wire.Standing | wire.Proofs,
    warnings: list[str],
) -> Checkpoint | None:
    """Hold a hub's checkpoint against the last, and keep it; None, and a warning, if its log does not begin so."""
    try:
        now = log.read(said.checkpoint, known, signing.verify)
    except CorruptError as error:
        raise ConflictError(
            f"The hub at {hub.url} has another key than before.",
            hint="If it was set up anew, say so: cmf remote trust NAME. If not, somebody else answers there.",
            kind="hub-key",
        ) from error
    if before is not None and now.size < before.size:
        warnings.append(
            f"The hub at {hub.url} lost {before.size - now.size} entries of its log, as one restored from a backup "
            "does. 'cmf push' sends again what is yours; 'cmf remote trust NAME' accepts the log as it is."
        )
        return None
    if before is not None and not log.is_consistent(before, now, [wire.raw(text) for text in said.proof]):
        warnings.append(
            f"The log of the hub at {hub.url} was rewritten: it does not begin as it did. If it was restored from a "
            "backup, 'cmf remote trust NAME' accepts it as it is; if not, ask who runs it."
        )
        return None
    if before != now:
        store.set_meta(_place(hub.url, "checkpoint"), said.checkpoint)
    return now


def prove(store: SqlStore, hub: HubClient, hashes: Sequence[bytes], warnings: list[str]) -> None:
    """Have the hub show that its log holds segments that it sent or acknowledged, and keep what shows it.

    What it cannot show now, since it is away or older than this, is asked for the next time. A log that is not as it
    was is added to ``warnings``.
    """
    store.proofs.note(hub.url, hashes)
    after = b""
    with contextlib.suppress(UnreachableError, NotFoundError):
        while asked := store.proofs.open(hub.url, after, wire.PROOFS_MAX):
            if _prove(store, hub, asked, warnings) is None:
                return
            after = asked[-1]


def _prove(store: SqlStore, hub: HubClient, asked: Sequence[bytes], warnings: list[str]) -> set[bytes] | None:
    """Ask where some segments are in the hub's log, and keep that if it is shown; return which; None if it is not."""
    known = _key(store, hub)
    before, tree = _last(store, hub.url), _tree(store, hub.url)
    since = tree.size if tree else 0
    answer = hub.proofs(asked, before.size if before else 0, since)
    now = _accepted(store, hub, known, before, answer, warnings)
    if now is None:
        return None
    entries = {wire.raw(text): position for text, position in answer.entries.items()}
    kept = {Subtree(0, position): log.leaf(hash_) for hash_, position in entries.items()}
    try:
        if not entries.keys() <= set(asked) or len(kept) < len(entries):
            raise CorruptError("it names entries that nobody asked for, or one of them twice", kind="log")
        if now.size < since:
            raise CorruptError(f"it has fewer than the {since} entries that it had", kind="log")
        kept |= store.proofs.some(hub.url, log.peaks(0, since))
        given = {Subtree(level, place): wire.raw(hash_) for level, place, hash_ in answer.nodes}
        wanted = log.beside(kept, now.size)
        made = log.rooted(kept, {node: given[node] for node in wanted if node in given}, now.size)
        if log.root_of(made, now.size) != now.root:
            raise CorruptError("its entries do not make the root that it signed", kind="log")
    except CorruptError as error:
        warnings.append(
            f"The hub at {hub.url} does not show that its log holds what it sent or took in: {error.message}"
        )
        return None
    tops = log.peaks(0, now.size)
    if entries or now != tree:
        nodes = {node: made[node] for node in (*wanted, *tops)}
        store.proofs.keep(hub.url, answer.checkpoint, entries, nodes)
    return set(entries)


class Shown(msgspec.Struct, kw_only=True):
    """What shows that hubs logged the segments held: how many are ``shown``, how many still ``open``, what is wrong."""

    shown: int = 0
    open: int = 0
    problems: list[Problem] = []


def ask(store: SqlStore, hub: HubClient) -> Shown:
    """Have the hub show that its log is as it was, and holds all segments that it has of those here.

    What it shows is kept. `UnreachableError` if it does not answer.
    """
    warnings: list[str] = []
    problems: list[Problem] = []
    noted = set(store.proofs.open(hub.url))
    left = sorted({*noted, *store.proofs.unknown(hub.url)})
    for at in range(0, max(1, len(left)), wire.PROOFS_MAX):
        asked = left[at : at + wire.PROOFS_MAX]
        found = _prove(store, hub, asked, warnings)
        if found is None:
            break
        problems += [
            Problem(
                f"segment {hash_.hex()[:12]}",
                f"the hub at {hub.url} acknowledged it, and does not show it in its log now, nor can you read it there",
            )
            for hash_ in asked
            if hash_ in noted and hash_ not in found
        ]
    problems += [Problem(f"log of {hub.url}", warning) for warning in warnings]
    return Shown(shown=len(store.proofs.entries(hub.url)), open=len(store.proofs.open(hub.url)), problems=problems)


def check(store: SqlStore) -> Shown:
    """Hold the segments here against what is kept of hubs' logs, without any hub.

    Every segment that a hub was seen to log must be here, and together with the kept parts of the hub's tree they must
    make the root of the checkpoint that the hub signed.
    """
    found = Shown(problems=[])
    for hub in store.proofs.hubs():
        entries = store.proofs.entries(hub)
        found.shown += len(entries)
        found.open += len(store.proofs.open(hub))
        gone = set(store.lacking(entries))
        found.problems += [
            Problem(
                f"segment {hash_.hex()[:12]}",
                f"it is entry {entries[hash_]} of the log of {hub}, and is not here any more",
            )
            for hash_ in sorted(gone, key=lambda hash_: entries[hash_])
        ]
        try:
            tree = _tree(store, hub)
            if tree is None:
                if entries:
                    raise CorruptError("the checkpoint that the hub signed is not here any more", kind="log")
                continue
            leaves = {Subtree(0, position): log.leaf(hash_) for hash_, position in entries.items()}
            if len(leaves) < len(entries):
                raise CorruptError("two segments are noted as one entry of it", kind="log")
            made = log.root_of(log.rooted(leaves, store.proofs.nodes(hub), tree.size), tree.size)
            if made != tree.root:
                raise CorruptError(
                    f"its root is {made.hex()[:16]}; of {tree.size} entries the hub signed {tree.root.hex()[:16]}",
                    kind="log",
                )
        except CorruptError as error:
            found.problems.append(Problem(f"log of {hub}", error.message))
    return found


def trust(store: SqlStore, hub: HubClient) -> None:
    """Forget what was known of a hub: its key and log are believed as they are when they are seen next."""
    store.proofs.forget(hub.url)
    for what in ("checkpoint", "key"):
        store.set_meta(_place(hub.url, what), "")


def _key(store: SqlStore, hub: HubClient) -> str:
    """Return the hub's key (hex): the one that it had when it was first seen."""
    if known := store.meta(_place(hub.url, "key")):
        return known
    key = hub.hub().hub
    wire.raw(key)
    store.set_meta(_place(hub.url, "key"), key)
    return key


def _last(store: SqlStore, hub: str) -> Checkpoint | None:
    """Return the newest checkpoint that was kept, if there is one; `CorruptError` if the hub's key did not sign it."""
    return _read(store, hub, store.meta(_place(hub, "checkpoint")))


def _tree(store: SqlStore, hub: str) -> Checkpoint | None:
    """Return the checkpoint that the kept parts of a hub's log make up, as `_last` does."""
    return _read(store, hub, store.proofs.tree(hub))


def _read(store: SqlStore, hub: str, note: str) -> Checkpoint | None:
    return log.read(note, store.meta(_place(hub, "key")), signing.verify) if note else None


def _place(hub: str, what: str) -> str:
    return f"hub {hub} {what}"
