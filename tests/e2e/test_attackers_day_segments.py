"""An attacker's day at a real hub, first part: what claims to be a segment and is none, or not who brings it's.

Each is refused with the right code, and the hub holds, tells and uses what it did before.
"""

import dataclasses
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cmf import signing
from cmf.model import encoding, wire
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.digest import sha256
from cmf.model.exchange import Admission, View
from cmf.model.segment import Segment
from cmf.model.zstd import compress
from cmf.transfer import LocalPeer, transfer
from tests.attacks import MEMORY_MAX, disk, memory, unharmed
from tests.histories import Writer, execution_id
from tests.hubs import HubProcess, Raw, joined, running

BOMB_BYTES = 512 << 20
MANY_STREAMS = wire.STREAMS_PAGE + 200


@dataclasses.dataclass
class Day:
    """A hub with a victim's records, and an attacker who may write in a scope of their own."""

    hub: HubProcess
    victim: Writer
    attacker: Writer
    token: str
    victims_token: str
    wires: list[bytes]
    """The victim's segments, as whoever overheard a push has them: the start of a stream, and three that follow."""
    own: Segment
    """The start of a stream of the attacker's, which the hub holds."""

    def push(self, *found: bytes, token: str = "") -> tuple[int, list[Admission]]:
        """Send segments in one body; return the status and what the hub says of each."""
        status, answer = self.send(b"".join(wire.frame(wire.SEGMENT, data) for data in found), token=token)
        if status != 200:
            return status, []
        frames = wire.frames(answer)
        return status, [wire.decode(data, Admission) for tag, data in frames if tag == wire.ADMISSION]

    def send(self, body: bytes, *, token: str = "", headers: dict[str, str] | None = None) -> tuple[int, Any]:
        return Raw(self.hub, token or self.token)("POST", "/v1/push", body, headers)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    folder = tmp_path_factory.mktemp("day")
    with running(folder / "hub", folder / "state", options=("--rate", "0")) as hub:
        victim, attacker = Writer("victim", seed=61), Writer("attacker", seed=62)
        client = joined(hub, folder, victim, scope="team")
        for number in range(1, 4):
            victim.execution("team/train", number, writes=(f"model-{number}",))
            victim.seal()
        thief = joined(hub, folder, attacker, scope="attic")
        attacker.execution("attic/own", 9)
        attacker.seal()
        for writer, there in ((victim, client), (attacker, thief)):
            assert {a.outcome for a in transfer(LocalPeer(writer.store), there.peer, View(own=True))} == {"new"}
        mine = segments.from_wire(next(iter(attacker.store.segments(View(own=True), {}))))
        wires = list(victim.store.segments(View(own=True), {}))
        yield Day(hub, victim, attacker, thief.token(), client.token(), wires, mine)


def record(number: int, text: str = "") -> tuple[bytes, bytes, int | None]:
    """Return a record as `segments.seal` takes it."""
    node = model.execution_node("attic/own", execution_id(9))
    value = model.Property(subject=node, key=f"k{number}", value=text, t=number)
    return (*model.salted(value, b"s" * 32), number)


def made(day: Day, header: bytes, body: bytes = b"") -> bytes:
    """Return wire bytes of a header of any form, which the attacker signed."""
    return segments.wire_bytes(header, day.attacker.key.sign(segments.signing_payload(header)), body)


def following(day: Day, **changed: Any) -> bytes:
    """Return a segment that would be right behind the attacker's own stream, but for some fields of its header."""
    tip = list(day.attacker.store.segments(View(own=True), {}))[-1]
    last = segments.from_wire(tip)
    right = segments.seal(last.stream, last.hash, last.n + 1, [record(1)], day.attacker.key, now=1)
    fields = {**msgspec.json.decode(right.header), **changed}
    return made(day, encoding.encode({key: value for key, value in fields.items() if value is not None}), right.body)


def starting(day: Day, **changed: Any) -> bytes:
    """Return the start of another stream of the attacker's, but for some fields of its header."""
    start = segments.start("attic/own", "site-attacker", day.attacker.key, created=1, nonce=b"n" * 16)
    return made(day, encoding.encode({**msgspec.json.decode(start.header), **changed}))


def forgeries(day: Day) -> dict[str, bytes]:
    """Return segments that claim to be the victim's, and are not."""
    genesis, first, *_, tip = (segments.from_wire(data) for data in day.wires)
    behind = segments.seal(tip.stream, tip.hash, tip.n + 1, [record(1)], day.attacker.key, now=1)
    name = segments.start("team/train", "site-victim", day.attacker.key, created=1, nonce=b"n" * 16)
    as_victim = encoding.encode({**msgspec.json.decode(name.header), "writer": day.victim.key.public.hex()})
    other = segments.seal(first.stream, genesis.hash, 1, [record(2)], day.victim.key, now=1)
    return {
        "signed by another key": segments.to_wire(behind),
        "a stream of the victim's key": made(day, as_victim),
        "another body under a signed header": segments.wire_bytes(first.header, first.signature, other.body),
        "another header under a signature": segments.wire_bytes(
            first.header.replace(b'"sealed":9000', b'"sealed":9001'), first.signature, first.body
        ),
        "no signature": segments.wire_bytes(first.header, bytes(64), first.body),
        "another writer's signature of the same": segments.wire_bytes(
            tip.header, day.attacker.key.sign(segments.signing_payload(tip.header)), tip.body
        ),
        "a start with a body": segments.wire_bytes(genesis.header, genesis.signature, first.body),
    }


def test_forged_segments_are_refused_whoever_brings_them(day: Day) -> None:
    found = forgeries(day)
    assert len(found) == 7
    with unharmed(day.hub):
        for token in (day.token, day.victims_token, day.hub.token):
            for what, data in found.items():
                status, (said,) = day.push(data, token=token)
                assert (status, said.outcome, said.status) == (200, "refused", 422), what


def test_a_stolen_token_alone_brings_nothing_and_neither_does_a_stolen_segment(day: Day) -> None:
    start = segments.start("team/train", "site-attacker", day.attacker.key, created=1, nonce=b"o" * 16)
    with unharmed(day.hub):
        _, (said,) = day.push(segments.to_wire(start), token=day.victims_token)
        assert (said.outcome, said.status, said.kind) == ("refused", 403, "scope")
        _, (said,) = day.push(segments.to_wire(start))
        assert (said.outcome, said.status, said.kind) == ("refused", 403, "scope")
        _, (said,) = day.push(starting(day), token=day.victims_token)
        assert (said.outcome, said.status, said.kind) == ("refused", 403, "relay")
        stranger = signing.Key(b"z" * 32)
        unknown = segments.start("team/train", "site-z", stranger, created=1, nonce=b"o" * 16)
        for token in (day.token, day.victims_token):
            _, (said,) = day.push(segments.to_wire(unknown), token=token)
            assert (said.outcome, said.status, said.kind) == ("refused", 403, "key")


def test_what_was_overheard_and_is_played_again_changes_nothing(day: Day) -> None:
    with unharmed(day.hub):
        _, found = day.push(*day.wires, *day.wires)
        assert {(said.outcome, said.status, said.kind) for said in found} == {("refused", 403, "relay")}
        _, found = day.push(*reversed(day.wires * 5), token=day.victims_token)
        assert {said.outcome for said in found} == {"known"}


def test_a_segment_that_is_cut_anywhere_is_refused_even_if_its_checksum_is_right(day: Day) -> None:
    own = following(day)
    chosen = random.Random(5)
    cuts = sorted({0, 1, 2, 3, 65, len(own) - 1, *(chosen.randrange(len(own)) for _ in range(40))})
    with unharmed(day.hub):
        for cut in cuts:
            part = own[:cut]
            status, (said,) = day.push(part + struct.pack("<I", zlib.crc32(part)))
            assert (status, said.outcome, said.status) == (200, "refused", 422), cut
        body = wire.frame(wire.SEGMENT, own)
        for cut in range(1, len(body), 29):
            status, problem = day.send(body + body[:cut])
            assert (status, problem["kind"]) == (422, "wire"), cut


def test_segments_and_records_in_another_order_are_refused(day: Day) -> None:
    tip = segments.from_wire(list(day.attacker.store.segments(View(own=True), {}))[-1])
    two = [record(1), record(2)]
    first = segments.seal(tip.stream, tip.hash, tip.n + 1, two, day.attacker.key, now=1)
    second = segments.seal(tip.stream, first.hash, tip.n + 2, [record(3)], day.attacker.key, now=1)
    twisted = segments.with_body(first, [(id_, data) for id_, data, _ in reversed(two)])
    fork = segments.seal(tip.stream, sha256(b"nothing"), tip.n + 1, two, day.attacker.key, now=1)
    with unharmed(day.hub):
        for found, expected in (
            ((second,), [("gap", 409)]),
            ((second, twisted), [("gap", 409), ("corrupt", 422)]),
            ((fork,), [("gap", 409)]),
        ):
            _, said = day.push(*map(segments.to_wire, found))
            assert [a.outcome for a in said] == ["refused"] * len(found)
            assert [a.status for a in said] == [status for _, status in expected], said
            assert [a.kind for a in said if a.status == 409] == [kind for kind, status in expected if status == 409]


LARGE = 10**30
OVERSIZED: dict[str, Callable[[Day], bytes]] = {
    "header": lambda day: starting(day, more="x" * 5000),
    "records": lambda day: following(day, count=1001),
    "size": lambda day: following(day, size=segments.SIZE_BYTES_MAX + 1),
    "position": lambda day: following(day, n=LARGE),
    "position beyond a database": lambda day: following(day, n=1 << 63),
    "no position": lambda day: following(day, n=-1),
    "time of sealing": lambda day: following(day, sealed=LARGE),
    "times": lambda day: following(day, t0=LARGE, t1=LARGE),
    "start's time": lambda day: starting(day, created=LARGE),
    "version": lambda day: following(day, v=LARGE),
    "scope": lambda day: starting(day, scope="attic/" + "/".join("x" * 64 for _ in range(9))),
    "scope that leads out": lambda day: starting(day, scope="attic/../team/train"),
    "scope with a nul": lambda day: starting(day, scope="attic/own\0"),
    "site": lambda day: starting(day, site="../" * 20),
    "nested": lambda day: made(day, b'{"v":1,"n":' + b"[" * 2000),
}


@pytest.mark.parametrize("what", OVERSIZED)
def test_a_header_over_any_limit_is_refused_though_it_is_signed(day: Day, what: str) -> None:
    with unharmed(day.hub):
        status, (said,) = day.push(OVERSIZED[what](day))
        assert (status, said.outcome) == (200, "refused"), said
        assert said.status in (409, 413, 422, 501), said


def test_segments_and_records_over_their_size_are_refused(day: Day) -> None:
    tip = segments.from_wire(list(day.attacker.store.segments(View(own=True), {}))[-1])
    _, data, _ = record(1)
    long = data.replace(b'"value":""', b'"value":"%b"' % random.Random(6).randbytes(48 << 10).hex().encode())
    too_large = segments.seal(tip.stream, tip.hash, tip.n + 1, [(sha256(long), long, 1)], day.attacker.key, now=1)
    with unharmed(day.hub):
        _, (said,) = day.push(segments.to_wire(too_large))
        assert (said.outcome, said.status) == ("refused", 422)
        frame = struct.pack("<BI", wire.SEGMENT, wire.FRAME_BYTES_MAX + 1)
        status, problem = day.send(frame + bytes(wire.FRAME_BYTES_MAX + 1))
        assert (status, problem["kind"]) == (413, "limit")


def test_bombs_are_refused_before_they_take_memory(day: Day) -> None:
    bomb = compress(bytes(BOMB_BYTES), level=1)
    assert len(bomb) < 1 << 20
    fields = msgspec.json.decode(segments.from_wire(following(day)).header)
    with unharmed(day.hub, memory_max=64 << 20):
        for size in (1, segments.SIZE_BYTES_MAX):
            header = encoding.encode({**fields, "size": size})
            _, found = day.push(*[made(day, header, bomb)] * 8)
            assert {(said.outcome, said.status) for said in found} == {("refused", 422)}
        status, _ = day.send(bomb, headers={"content-encoding": "zstd"})
        assert status in (400, 413, 422)
        gzipped = zlib.compress(b"[" * (64 << 20), wbits=31)
        for path in ("/v1/have", "/v1/query", "/v1/pull"):
            status, _ = Raw(day.hub, day.token)("POST", path, gzipped, {"content-encoding": "gzip"})
            assert status in (400, 415, 422), path


def test_what_is_none_of_this_is_taken(day: Day) -> None:
    _, found = day.push(starting(day), following(day))
    assert {said.outcome for said in found} == {"new"}, "so that the others were refused for what was wrong with them"


def test_tiny_streams_without_end_are_refused_beyond_a_number_and_cost_others_nothing(
    tmp_path: Path,
) -> None:
    with running(tmp_path / "hub", tmp_path / "state", options=("--rate", "0")) as hub:
        victim, attacker = Writer("victim", seed=63), Writer("attacker", seed=64)
        client = joined(hub, tmp_path, victim, scope="team")
        token = joined(hub, tmp_path, attacker, scope="attic").token()
        admin, thief = Raw(hub, hub.token), Raw(hub, token)
        (each,) = (one for one in admin("GET", "/v1/quotas")[1] if one["kind"] == "each")
        assert each["streams_max"] == 10_000, "so many unless an admin says otherwise"
        quota = {"kind": "each", "streams_max": MANY_STREAMS}
        assert admin("POST", "/v1/quotas", encoding.encode(quota))[0] == 204
        frames = [
            wire.frame(
                wire.SEGMENT,
                segments.to_wire(
                    segments.start(f"attic/s{n % 50}", "site-x", attacker.key, created=1, nonce=n.to_bytes(16, "big"))
                ),
            )
            for n in range(MANY_STREAMS + 300)
        ]

        def pushed(found: list[bytes]) -> list[Admission]:
            status, answer = thief("POST", "/v1/push", b"".join(found))
            assert status == 200
            return [wire.decode(data, Admission) for tag, data in wire.frames(answer) if tag == wire.ADMISSION]

        before, size = memory(hub), disk(hub)
        assert {said.outcome for said in pushed(frames[:MANY_STREAMS])} == {"new"}
        with unharmed(hub):
            for _ in range(3):
                refused = pushed(frames[MANY_STREAMS:])
                assert {(said.outcome, said.status, said.kind) for said in refused} == {("refused", 507, "quota")}
                assert "cmf hub quota set" in refused[0].detail
        assert memory(hub) - before < MEMORY_MAX
        assert disk(hub) - size < MANY_STREAMS * 2_048

        status, page = thief("POST", "/v1/streams", b"{}")
        assert (status, len(page["streams"]), page["more"]) == (200, wire.STREAMS_PAGE, True)
        samples = list(hub.client(tmp_path).peer.streams(View()))
        assert len({sample.stream for sample in samples}) == len(samples) == MANY_STREAMS
        victim.execution("team/train", 1)
        victim.seal()
        assert {a.outcome for a in transfer(LocalPeer(victim.store), client.peer, View(own=True))} == {"new"}
        assert {sample.stream for sample in client.peer.streams(View())} == set(victim.store.heads(View()))
        assert memory(hub) - before < MEMORY_MAX
