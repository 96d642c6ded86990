"""Moving segments between two ends. Push, pull and hub-to-hub are one function with its ends swapped.

Owns the `Peer` seam, the local peer, and sealing. A rerun is the resume: `have` is the truth, and nothing is
remembered between transfers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from cmf import errors, signing
from cmf.errors import CmfError, CorruptError
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import Admission, Head, Sample, View
from cmf.model.segment import Genesis, Segment
from cmf.store.fold import Item
from cmf.store.sql import SqlStore


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
        """Return what this end holds in the view beyond these heads."""
        ...

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Verify each segment, then commit it atomically; say of each what became of it. Nothing raises halfway."""
        ...


def transfer(source: Peer, target: Peer, view: View) -> Iterator[Admission]:
    """Bring to the target what the source holds in the view and the target lacks."""
    return target.admit(source.segments(view, after=target.have(source.streams(view))))


Authorize = Callable[[str, bytes, str], None]
"""Called with (scope, writer's key, site) of each segment before it is committed; raises `DeniedError`."""


class LocalPeer:
    """A store as one end of a transfer."""

    def __init__(self, store: SqlStore, *, authorize: Authorize | None = None) -> None:
        self._store = store
        self._authorize = authorize

    def streams(self, view: View) -> Iterator[Sample]:
        """Return sampled (n, hash) of each stream in the view."""
        return self._store.samples(view)

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return what this store holds of these streams."""
        return self._store.have(samples)

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what this store holds in the view beyond these heads."""
        return self._store.segments(view, after)

    def admit(self, segments: Iterable[bytes], *, sparse: bool = False) -> Iterator[Admission]:
        """Verify and commit each segment. ``sparse``: the one before it need not be held (it came by `get`)."""

        def insert(segment: Segment, _: bytes, checked: Checked) -> bool:
            scope, writer, site = self._scope_of(segment)
            if self._authorize is not None:
                self._authorize(scope, writer, site)
            items = [Item(scope, id_, data, record) for id_, data, record in checked]
            return self._store.insert(segment, items, sparse=sparse)

        for wire in segments:
            yield admitted(wire, self._store.scope_of, insert)

    def _scope_of(self, segment: Segment) -> tuple[str, bytes, str]:
        return stream_of(segment, self._store.scope_of)


class Rehearsal:
    """A peer that says what it would take in, and takes in nothing."""

    def __init__(self, peer: Peer, known: Known) -> None:
        self._peer = peer
        self._known = known

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
        started: dict[bytes, tuple[str, bytes, str]] = {}

        def known(stream: bytes) -> tuple[str, bytes, str] | None:
            return started.get(stream) or self._known(stream)

        def look(segment: Segment, _: bytes, __: Checked) -> bool:
            started[segment.stream] = stream_of(segment, known)
            return True

        for wire in segments:
            yield admitted(wire, known, look)


Checked = list[tuple[bytes, bytes, model.Record | None]]
"""The (id, bytes, record) of a segment's body, each checked."""

Known = Callable[[bytes], tuple[str, bytes, str] | None]
"""Returns (scope, writer's key, site) of a stream that is held."""


def stream_of(segment: Segment, known: Known) -> tuple[str, bytes, str]:
    """Return (scope, writer's key, site) of a segment's stream; `ConflictError` if its start isn't held."""
    if isinstance(segment.fields, Genesis):
        return segment.fields.scope, bytes.fromhex(segment.fields.writer), segment.fields.site
    found = known(segment.stream)
    if found is None:
        raise errors.ConflictError("A segment came without the start of its stream.", kind="gap")
    return found


def admitted(wire: bytes, known: Known, insert: Callable[[Segment, bytes, Checked], bool]) -> Admission:
    """Verify one segment's wire bytes, then insert it; say what became of it. ``insert`` tells whether it was new."""
    segment: Segment | None = None
    scope = ""
    try:
        segment = segments.from_wire(wire)
        scope, writer, _ = stream_of(segment, known)
        if not signing.verify(writer, segments.signing_payload(segment.header), segment.signature):
            raise CorruptError("A segment's signature is not its writer's.", kind="signature")
        checked = segments.check_body(segment)
        new = insert(segment, wire, checked)
    except CmfError as error:
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
    return Admission(
        stream=segment.stream.hex(),
        n=segment.n,
        hash=segment.hash.hex(),
        outcome="new" if new else "known",
        records=len(checked),
        scope=scope,
    )


class Problem(msgspec.Struct, frozen=True):
    """One thing that `verify` found wrong: where, and what."""

    where: str
    what: str


def verify(store: SqlStore) -> Iterator[Problem | None]:
    """Check every segment held: form, chain, signature, records. Yields None for a good one, else what is wrong."""
    for scope, writer, wire in store.stored():
        where = f"a segment of {scope}"
        try:
            segment = segments.from_wire(wire)
            where = f"segment {segment.n} of {scope} ({segment.hash.hex()[:12]})"
            if not signing.verify(writer, segments.signing_payload(segment.header), segment.signature):
                raise CorruptError("its signature is not its writer's.", kind="signature")
            segments.check_body(segment)
        except CmfError as error:
            yield Problem(where, error.message)
            continue
        yield None


def refusals(admissions: Sequence[Admission]) -> list[Admission]:
    """Return those that were refused."""
    return [admission for admission in admissions if admission.outcome == "refused"]
