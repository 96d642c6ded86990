"""What this store remembers of a hub, so that it finds out if the hub's log is ever rewritten.

The hub's key is believed at first sight, and must stay. Of the log the newest signed checkpoint is kept; each later one
comes with a proof that it begins with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmf import signing
from cmf.errors import ConflictError, CorruptError
from cmf.model import log, wire
from cmf.model.exchange import View
from cmf.store.sql import SqlStore

if TYPE_CHECKING:
    from cmf.remote import HubClient


def look(store: SqlStore, hub: HubClient, view: View, warnings: list[str]) -> wire.Standing:
    """Ask where the hub's log stands, and hold it against what is remembered; what is wrong is added to ``warnings``.

    Raises `ConflictError` of kind ``hub-key`` if the address answers with another key than it had before. A log that
    lost entries or was rewritten is only a warning: every segment is checked by itself, and a union loses nothing.
    """
    known = store.meta(_place(hub, "key")) or _first_sight(store, hub)
    note = store.meta(_place(hub, "checkpoint"))
    before = log.read(note, known, signing.verify) if note else None
    standing = hub.standing(view, before.size if before else 0)
    try:
        now = log.read(standing.checkpoint, known, signing.verify)
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
    elif before is not None and not log.is_consistent(before, now, [wire.raw(text) for text in standing.proof]):
        warnings.append(
            f"The log of the hub at {hub.url} was rewritten: it does not begin as it did. If it was restored from a "
            "backup, 'cmf remote trust NAME' accepts it as it is; if not, ask who runs it."
        )
    elif standing.checkpoint != note:
        store.set_meta(_place(hub, "checkpoint"), standing.checkpoint)
    return standing


def trust(store: SqlStore, hub: HubClient) -> None:
    """Forget what was known of a hub: its key and log are believed as they are when they are seen next."""
    for what in ("key", "checkpoint"):
        store.set_meta(_place(hub, what), "")


def _first_sight(store: SqlStore, hub: HubClient) -> str:
    key = hub.hub().hub
    wire.raw(key)
    store.set_meta(_place(hub, "key"), key)
    return key


def _place(hub: HubClient, what: str) -> str:
    return f"hub {hub.url} {what}"
