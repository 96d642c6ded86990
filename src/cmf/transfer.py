"""Moving segments between two ends. Push, pull and hub-to-hub are one function with its ends swapped.

Owns the `Peer` seam, the local peer, and sealing. A rerun is the resume: `have` is the truth, and nothing is
remembered between transfers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from cmf import errors, signing
from cmf.errors import CmfError, CorruptError
from cmf.model import rotation
from cmf.model import segment as segments
from cmf.model.exchange import Admission, Head, Sample, View
from cmf.model.segment import Genesis, Segment
from cmf.store.arriving import Arriving, Outcome
from cmf.store.fold import Item
from cmf.store.sql import SqlStore

SEGMENTS_AT_ONCE = 256
RECORDS_AT_ONCE = 10_000
"""How much is committed together: what a crash may have sent once more."""


class Peer(Protocol):
    """One end of a transfer: a local store, or a hub over HTTP.

    All four methods may be called any number of times; none remembers anything of another. Segments travel as their
    wire bytes, each stream's in order of position, genesis first.
    """

    def streams(self, view: View) -> Iterator[Sample]:
        """Return sampled (n, hash) of each stream in the view that this end holds."""
        ...

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return, for each of these streams that this end holds, its heads and the greatest sample it holds."""
        ...

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what this end holds in the view's streams beyond these heads."""
        ...

    def matching(self, view: View) -> Iterator[bytes]:
        """Return the hashes of the segments about executions that the view's filter finds; others may be among them."""
        ...

    def get(self, hashes: Iterable[bytes]) -> Iterator[bytes]:
        """Return those of these segments that this end holds, each stream's genesis before them."""
        ...

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Verify each segment, then commit it, whole; say what became of each, in order. Nothing raises halfway."""
        ...


def transfer(source: Peer, target: Peer, view: View) -> Iterator[Admission]:
    """Bring to the target what the source holds in the view's streams and the target lacks."""
    return target.admit(source.segments(view, after=target.have(source.streams(view))))


def lacking(source: Peer, store: SqlStore, view: View) -> Iterator[bytes]:
    """Return what the source holds about executions that the view's filter finds, and this store lacks.

    These are no whole streams: see `LocalPeer.take`.
    """
    return source.get(store.lacking(dict.fromkeys(source.matching(view))))


Authorize = Callable[[str, bytes, Segment, Sequence[Item]], None]
"""Called with (scope, writer's key, segment, records) of each before it is committed; raises `DeniedError`."""


class LocalPeer:
    """A store as one end of a transfer. ``by``: who brings what is admitted here, as in `Arriving`."""

    def __init__(self, store: SqlStore, *, authorize: Authorize | None = None, by: int = 0) -> None:
        self._store = store
        self._authorize = authorize
        self._by = by

    def streams(self, view: View) -> Iterator[Sample]:
        """Return sampled (n, hash) of each stream in the view."""
        return self._store.samples(view)

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return what this store holds of these streams."""
        return self._store.have(samples)

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what this store holds in the view beyond these heads."""
        return self._store.segments(view, after)

    def matching(self, view: View) -> Iterator[bytes]:
        """Return the hashes of the segments about executions that the view's filter finds."""
        cursor, more = "", True
        while more:
            found, cursor = self._store.matching(view, cursor)
            yield from found
            more = bool(cursor)

    def get(self, hashes: Iterable[bytes]) -> Iterator[bytes]:
        """Return those of these segments that are held."""
        return self._store.get(hashes)

    def take(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Admit segments of which the one before need not be held: kept as sparse, and never offered as held."""
        return self._admit(segments, sparse=True)

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Verify each segment, and commit some at a time; if the source fails, what came before that is kept."""
        return self._admit(segments, sparse=False)

    def _admit(self, segments: Iterable[bytes], *, sparse: bool) -> Iterator[Admission]:
        waiting: list[Verified] = []
        started: dict[bytes, Stream] = {}
        failure: Exception | None = None
        arriving = iter(segments)
        while failure is None:
            try:
                wire = next(arriving, None)
            except Exception as error:  # noqa: BLE001  # whatever a source raises is raised again, once what it gave is kept
                failure, wire = error, None
            if wire is None:
                break
            found = verified(wire, lambda stream: started.get(stream) or self._store.scope_of(stream), self._authorize)
            if isinstance(found, Admission):
                yield from self._commit(waiting, sparse=sparse)
                yield found
                continue
            started[found.segment.stream] = found.stream
            waiting.append(found)
            if len(waiting) == SEGMENTS_AT_ONCE or sum(len(held.items) for held in waiting) >= RECORDS_AT_ONCE:
                yield from self._commit(waiting, sparse=sparse)
        yield from self._commit(waiting, sparse=sparse)
        if failure is not None:
            raise failure

    def _commit(self, waiting: list[Verified], *, sparse: bool) -> Iterator[Admission]:
        """Commit what waits, and say what became of each; then nothing waits."""
        if waiting:
            outcomes = self._store.insert([Arriving(found.segment, found.items, sparse, self._by) for found in waiting])
            admissions = [admission(found, outcome) for found, outcome in zip(waiting, outcomes, strict=True)]
            waiting.clear()
            yield from admissions


class Rehearsal:
    """A peer that says what it would take in, and takes in nothing."""

    def __init__(self, peer: Peer, known: Known) -> None:
        self._peer = peer
        self._known = known

    def matching(self, view: View) -> Iterator[bytes]:
        """Return what the peer holds of what the view's filter finds."""
        return self._peer.matching(view)

    def get(self, hashes: Iterable[bytes]) -> Iterator[bytes]:
        """Return what the peer holds."""
        return self._peer.get(hashes)

    def streams(self, view: View) -> Iterator[Sample]:
        """Return what the peer holds."""
        return self._peer.streams(view)

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return what the peer holds of these streams."""
        return self._peer.have(samples)

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what the peer holds in the view beyond these heads."""
        return self._peer.segments(view, after)

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Verify each segment as the peer would, but for who may write what; keep none."""
        started: dict[bytes, Stream] = {}
        for wire in segments:
            found = verified(wire, lambda stream: started.get(stream) or self._known(stream))
            if isinstance(found, Verified):
                started[found.segment.stream] = found.stream
                yield admission(found, "new")
            else:
                yield found


Stream = tuple[str, bytes, str]
"""(scope, writer's key, site) of a stream."""

Known = Callable[[bytes], Stream | None]
"""Returns what is known of a stream that is held."""


class Verified(NamedTuple):
    """A segment whose form, signature and body are right, and who may write it was asked."""

    segment: Segment
    stream: Stream
    items: list[Item]


def verified(wire: bytes, known: Known, authorize: Authorize | None = None) -> Verified | Admission:
    """Verify one segment's wire bytes; return it with its records, or the admission that refuses it."""
    found = _parsed(wire)
    return found if isinstance(found, Admission) else _checked(found, known, authorize)


def _parsed(wire: bytes) -> Segment | Admission:
    try:
        return segments.from_wire(wire)
    except CmfError as error:
        return _refused(None, "", error)


def _checked(segment: Segment, known: Known, authorize: Authorize | None) -> Verified | Admission:
    stream: Stream = ("", b"", "")
    try:
        stream = stream_of(segment, known)
        scope, writer, _ = stream
        if not signing.verify(writer, segments.signing_payload(segment.header), segment.signature):
            raise CorruptError("A segment's signature is not its writer's.", kind="signature")
        if isinstance(segment.fields, Genesis):
            rotation.check(segment.fields.vouched, writer, signing.verify)
        items = [Item(scope, id_, data, record) for id_, data, record in segments.check_body(segment)]
        if authorize is not None:
            authorize(scope, writer, segment, items)
    except CmfError as error:
        return _refused(segment, stream[0], error)
    return Verified(segment, stream, items)


class Brought(NamedTuple):
    """Segments that one caller brings, by their wire bytes, and what tells whether they may be admitted from there.

    ``by``: who brings them, as in `Arriving`.
    """

    segments: Sequence[bytes]
    authorize: Authorize | None = None
    by: int = 0


def admit_all(
    store: SqlStore, brought: Sequence[Brought], *, meet: Callable[[set[bytes]], None]
) -> list[list[Admission]]:
    """Verify what several callers bring, and commit it together; say what became of each one's segments, in order.

    ``meet`` is called with the keys of all their writers before any is authorized.
    """
    parsed = [[_parsed(wire) for wire in one.segments] for one in brought]
    arrived = [one for found in parsed for one in found if isinstance(one, Segment)]
    streams = store.streams_of({one.stream for one in arrived if not isinstance(one.fields, Genesis)})
    started = {bytes.fromhex(one.fields.writer) for one in arrived if isinstance(one.fields, Genesis)}
    meet(started.union(writer for _, writer, _ in streams.values()))
    checked: list[list[Verified | Admission]] = []
    for one, found in zip(brought, parsed, strict=True):
        checked.append([])
        for segment in found:
            made = segment if isinstance(segment, Admission) else _checked(segment, streams.get, one.authorize)
            if isinstance(made, Verified):
                streams[made.segment.stream] = made.stream
            checked[-1].append(made)
    arriving = [
        Arriving(one.segment, one.items, by=who.by)
        for who, found in zip(brought, checked, strict=True)
        for one in found
        if isinstance(one, Verified)
    ]
    outcomes = iter(store.insert(arriving) if arriving else ())
    return [
        [admission(one, next(outcomes)) if isinstance(one, Verified) else one for one in found] for found in checked
    ]


def stream_of(segment: Segment, known: Known) -> Stream:
    """Return what is known of a segment's stream; `ConflictError` if its start isn't held."""
    if isinstance(segment.fields, Genesis):
        return segment.fields.scope, bytes.fromhex(segment.fields.writer), segment.fields.site
    found = known(segment.stream)
    if found is None:
        raise errors.ConflictError("A segment came without the start of its stream.", kind="gap")
    return found


def admission(found: Verified, outcome: Outcome) -> Admission:
    """Say what became of a verified segment: see `Outcome`."""
    segment, scope = found.segment, found.stream[0]
    if isinstance(outcome, CmfError):
        return _refused(segment, scope, outcome)
    return Admission(
        stream=segment.stream.hex(),
        n=segment.n,
        hash=segment.hash.hex(),
        outcome=outcome,
        records=len(found.items),
        scope=scope,
    )


def _refused(segment: Segment | None, scope: str, error: CmfError) -> Admission:
    return Admission(
        stream=segment.stream.hex() if segment else "",
        n=segment.n if segment else -1,
        hash=segment.hash.hex() if segment else "",
        outcome="refused",
        scope=scope,
        kind=error.kind,
        detail=str(error),
        status=errors.http_status(error),
    )


class Problem(msgspec.Struct, frozen=True):
    """One thing that `verify` found wrong: where, and what."""

    where: str
    what: str


def verify(store: SqlStore) -> Iterator[Problem | None]:
    """Check every segment held: form, chain, signature, records. Yields None for a good one, else what is wrong."""
    seen = set()
    for scope, writer, wire in store.stored():
        where = f"a segment of {scope}"
        try:
            segment = segments.from_wire(wire)
            seen.add(segment.hash)
            where = f"segment {segment.n} of {scope} ({segment.hash.hex()[:12]})"
            if not signing.verify(writer, segments.signing_payload(segment.header), segment.signature):
                raise CorruptError("its signature is not its writer's.", kind="signature")
            if isinstance(segment.fields, Genesis):
                rotation.check(segment.fields.vouched, writer, signing.verify)
            segments.check_body(segment)
        except CmfError as error:
            yield Problem(where, error.message)
            continue
        yield None
    for scope, n, hash_, follows in store.chained():
        where = f"segment {n} of {scope} ({hash_.hex()[:12]})"
        if hash_ not in seen:
            yield Problem(where, "other bytes stand in its place.")
        if not follows:
            yield Problem(where, "the segment before it in its stream is not here any more.")


def refusals(admissions: Sequence[Admission]) -> list[Admission]:
    """Return those that were refused."""
    return [admission for admission in admissions if admission.outcome == "refused"]
