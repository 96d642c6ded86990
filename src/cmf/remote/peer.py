"""A hub as one end of a transfer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from cmf.errors import UnreachableError
from cmf.model import wire
from cmf.model.exchange import Admission, Head, Sample, View
from cmf.remote.client import ANSWER_BYTES_MAX, HubClient, bounded


class HubPeer:
    """A hub as one end of a transfer.

    ``wanted``: what it lacks, as `HubClient.wanted` has it, if its answers have told all of that already.
    """

    def __init__(self, client: HubClient) -> None:
        self._client = client
        self.wanted: wire.Held | None = None

    def streams(self, view: View) -> Iterator[Sample]:
        """Yield sampled positions of the hub's streams in a view, a page at a time."""
        wanted = None if view.streams is None else sorted(stream.hex() for stream in view.streams)
        asked = wire.AskStreams(scopes=list(view.scopes), sites=list(view.sites), streams=wanted)
        more = True
        while more:
            found = self._client.ask("POST", "/v1/streams", asked, wire.Streams)
            yield from wire.to_samples(found.streams)
            last = max(found.streams, default="")
            more = found.more and last > asked.after
            asked = msgspec.structs.replace(asked, after=last)

    def have(self, samples: Iterable[Sample]) -> Mapping[bytes, tuple[Head, ...]]:
        """Return what the hub holds of these streams."""
        message = wire.Having(streams=wire.from_samples(samples))
        held = self._client.ask("POST", "/v1/have", message, wire.Held)
        self.wanted = held
        return {wire.raw(stream): tuple(wire.to_heads(points)) for stream, points in held.streams.items()}

    def segments(self, view: View, after: Mapping[bytes, tuple[Head, ...]]) -> Iterator[bytes]:
        """Return what the hub holds beyond these heads, page by page."""
        from cmf.model import segment as segments

        have = {stream: {head.hash: head.n for head in heads} for stream, heads in after.items()}
        while True:
            held = {stream.hex(): [(n, h.hex()) for h, n in heads.items()] for stream, heads in have.items()}
            page, more = self._client.frames("/v1/pull", _asked(view, held))
            for wire_bytes in page:
                segment = segments.from_wire(wire_bytes)
                heads = have.setdefault(segment.stream, {})
                if segment.n and hasattr(segment.fields, "prev"):
                    heads.pop(wire.raw(segment.fields.prev), None)
                heads[segment.hash] = segment.n
                yield wire_bytes
            if not more or not page:
                return

    def matching(self, view: View) -> Iterator[bytes]:
        """Return the hashes of the segments about executions that the view's filter finds."""
        return self._client.matching(view)

    def get(self, hashes: Iterable[bytes]) -> Iterator[bytes]:
        """Return those of these segments that the hub holds and lets us read."""
        return self._client.get([hash_.hex() for hash_ in hashes])

    def admit(self, segments: Iterable[bytes]) -> Iterator[Admission]:
        """Send segments in batches; return what the hub says of each as its batch is answered."""
        batch: list[bytes] = []
        size = 0
        before, self.wanted = self.wanted, None
        alone = before is not None and not before.more
        for segment in segments:
            if batch and size + len(segment) > wire.PUSH_BYTES:
                yield from self._send(batch)[0]
                batch, size, alone = [], 0, False
            batch.append(segment)
            size += len(segment)
        if not batch:
            self.wanted = before
            return
        found, end = self._send(batch, wanted=alone)
        if alone and before is not None and not end.more:
            self.wanted = wire.Held(wanted=list(dict.fromkeys([*before.wanted, *end.wanted])))
        yield from found

    def _send(self, batch: Sequence[bytes], *, wanted: bool = False) -> tuple[list[Admission], wire.End]:
        body = b"".join(wire.frame(wire.SEGMENT, segment) for segment in batch)
        octets = {"content-type": "application/octet-stream"}
        with self._client.request("POST", f"/v1/push{'?wanted=true' * wanted}", body, headers=octets) as response:
            answer = bounded(response, ANSWER_BYTES_MAX)
        frames = list(wire.frames(answer))
        found = [wire.decode(data, Admission) for tag, data in frames if tag == wire.ADMISSION]
        if len(found) != len(batch):
            raise UnreachableError(
                f"The hub {self._client.url} answered for {len(found)} of {len(batch)} segments.",
                hint="Run the command again: what it took in stays.",
                kind="hub",
            )
        ends = [wire.decode(data, wire.End) for tag, data in frames if tag == wire.END]
        return found, ends[-1] if ends else wire.End(count=len(found), more=True)


def _asked(view: View, have: dict[str, list[tuple[int, str]]]) -> wire.Asked:
    streams = None if view.streams is None else sorted(stream.hex() for stream in view.streams)
    return wire.Asked(scopes=list(view.scopes), sites=list(view.sites), streams=streams, have=have)
