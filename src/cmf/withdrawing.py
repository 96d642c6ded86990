"""What was recorded is hidden again (`retract`), or its bytes are dropped for ever (`redact`).

Both are properties in the scopes that carry what they are about, and travel like any other record. What no segment
carries yet was sent nowhere: redacting it just drops it.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cmf.errors import DeniedError, NotFoundError, UnreachableError, UsageError
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire
from cmf.objects.local import LocalObjects
from cmf.store.batch import Item
from cmf.store.sql import SqlStore

if TYPE_CHECKING:
    from cmf.remote import HubClient

RETRACTED = "retracted"
REASON = "/reason"
ID_START = re.compile(r"(?:record:)?([0-9a-f]{8,64})")


class Place(NamedTuple):
    """Where records are redacted: a store with its objects and its secret, and the hubs that it pushes to."""

    store: SqlStore
    objects: LocalObjects
    secret: bytes
    hubs: Iterable[HubClient]


class Retracted(msgspec.Struct, frozen=True, kw_only=True):
    """What was hidden or shown: its node, and the scopes in which that was said; none if it was so already."""

    node: str
    scopes: tuple[str, ...] = ()


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """One copy of a record that holds some text: where, its id, its kind, and what it is about, in a word."""

    scope: str
    record: str
    kind: str
    about: str = ""


class Redacted(msgspec.Struct, kw_only=True):
    """What a redaction did: the records it is about, the scopes that carry them, those dropped without a trace.

    ``objects`` are those removed here because only these records named them.
    """

    records: list[str] = []
    scopes: list[str] = []
    unsent: list[str] = []
    objects: list[str] = []


def retract(place: Place, text: str, *, undo: bool = False, reason: str = "", now_us: int) -> Retracted:
    """Hide an execution with its events, or a record; ``undo`` shows it again. It must be in the store and folded.

    ``text`` names an execution as anywhere, or a record by the first digits of its id.
    """
    store = place.store
    node, scopes = _subject(store, text)
    said = [write for write in store.index.history(node) if write.key == RETRACTED]
    done = []
    for scope in scopes:
        held = next((write for write in said if write.scope == scope), None)
        if (held is not None and held.value is True) is not undo:
            continue
        t = max(now_us, held.t + 1 if held else 0)
        _say(store, place.secret, scope, node, RETRACTED, None if undo else True, t)
        if reason:
            _say(store, place.secret, scope, node, RETRACTED + REASON, reason, t)
        done.append(scope)
    store.fold_pending()
    return Retracted(node=node, scopes=tuple(done))


def _subject(store: SqlStore, text: str) -> tuple[str, list[str]]:
    """Return the node of what is to be hidden, and the scopes that say it."""
    try:
        node = store.index.resolve(text).node
    except NotFoundError:
        if ID_START.fullmatch(text) is None:
            raise
        copies = copies_of(store, text)
        return f"record:{copies[0].id.hex()}", sorted({item.scope for item in copies})
    split = model.split_execution(node)
    if split is None:
        raise UsageError(
            f"'{text[:120]}' is an artifact, and bytes are not retracted.",
            hint="Retract the execution that made or used it, or the one record that says so.",
        )
    return node, [split[0]]


def copies_of(store: SqlStore, text: str) -> list[Item]:
    """Return every copy of the one record whose id begins so; `NotFoundError`, or `UsageError` if it is not one."""
    match = ID_START.fullmatch(text)
    if match is None:
        raise UsageError(
            f"'{text[:120]}' is not a record's id or its first eight digits.",
            hint="'cmf redact --find TEXT' lists the records that contain a text.",
        )
    found = store.beginning(match[1])
    if not found:
        raise NotFoundError(f"There is no record {match[1]} here.", hint="Pull it first, if another site has it.")
    if len({item.id for item in found}) > 1:
        raise UsageError(f"Several records begin with {match[1]}.", hint="Give more of its digits.")
    return found


def find(store: SqlStore, text: str) -> list[Found]:
    """Return the records whose bytes contain a text, as it stands or as JSON spells it."""
    if not text:
        raise UsageError("An empty text is in every record.")
    spelled = msgspec.json.encode(text)[1:-1]
    return [
        Found(
            scope=item.scope,
            record=item.id.hex(),
            kind=item.record.kind if item.record is not None else "unknown",
            about=_about(item.record),
        )
        for item in store.containing(spelled)
    ]


def _about(record: model.Record | None) -> str:
    if isinstance(record, model.Property):
        return f"{record.key} of {record.subject}"
    if isinstance(record, model.Event):
        return f"{record.direction} of {record.execution}"
    if isinstance(record, model.Execution):
        return record.id
    return ""


def redact(
    place: Place, texts: Sequence[str], *, reason: str = "", drop_objects: bool = False, now_us: int
) -> Redacted:
    """Drop the bytes of records here, and say so in every scope that carries them, so that all others drop them too.

    `DeniedError`, and nothing is done, if a hub that can be reached would refuse it. ``drop_objects``: objects that
    only these records named are removed here.
    """
    store = place.store
    found = [item for text in texts for item in copies_of(store, text)]
    for item in found:
        if not segments.can_redact(item.data, item.record):
            raise UsageError(
                f"Record {item.id.hex()[:12]} cannot be redacted: it is a redaction, or only a hash.",
                hint="The bytes of an artifact are objects, not records: remove those.",
            )
    unsent = {id_ for id_ in {item.id for item in found} if not store.is_sealed(id_)}
    said = sorted({(item.scope, item.id) for item in found if item.id not in unsent})
    scopes = sorted({scope for scope, _ in said})
    for hub in place.hubs if scopes else ():
        with contextlib.suppress(UnreachableError):
            _check_roles(hub.hub(), scopes)
    done = Redacted(records=sorted({item.id.hex() for item in found}), scopes=scopes)
    done.unsent = sorted(id_.hex() for id_ in store.forget(unsent))
    for scope, id_ in said:
        node = f"record:{id_.hex()}"
        _say(store, place.secret, scope, node, model.REDACTED, True, now_us)
        if reason:
            _say(store, place.secret, scope, node, model.REDACTED + REASON, reason, now_us)
    store.fold_pending()
    if drop_objects:
        done.objects = _drop_objects(store, place.objects, found)
    return done


def _check_roles(hub: wire.HubInfo, scopes: Sequence[str]) -> None:
    """Raise `DeniedError` if a hub would refuse this caller's redactions: the stream would stop there."""
    for scope in scopes:
        held = {role.role for role in hub.roles if model.covers(role.prefix, scope)}
        if not held >= {"write", "redact"} and "admin" not in held:
            raise DeniedError(
                f"The hub would refuse it: {hub.principal} may not redact in {scope}.",
                hint="Ask its admin for the roles write and redact there (cmf hub role give), or have them redact it.",
                kind="scope",
            )


def _drop_objects(store: SqlStore, objects: LocalObjects, gone: Sequence[Item]) -> list[str]:
    """Remove the objects that records which went named, and that no record names any more."""
    named: dict[str, None] = {}
    for item in gone:
        named.update(dict.fromkeys(model.objects_of(item.record)))
        if isinstance(item.record, model.Event):
            named[item.record.artifact] = None
    # An artifact's own record names its digest and stays, since it is but a hash.
    alone = [
        digest
        for digest in named
        if all(isinstance(item.record, model.Artifact) for item in store.containing(digest.encode()))
    ]
    removed = [digest for digest in alone if objects.remove([digests.object_of(digest)])]
    return sorted(removed)


def _say(store: SqlStore, secret: bytes, scope: str, node: str, key: str, value: object, t: int) -> None:
    draft = model.Property(subject=node, key=key, value=value, t=t)
    store.add([(scope, *model.completed(draft, secret))])
