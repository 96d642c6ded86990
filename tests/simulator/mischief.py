"""What those do who mean ill, and what a bad disk does to what a store keeps: all of it is refused, or noticed."""

import random
from collections.abc import Callable

import msgspec

from cmf import signing, transfer, witness
from cmf.errors import DeniedError
from cmf.model import records as model
from cmf.model import rotation, wire
from cmf.model import segment as segments
from cmf.model.digest import sha256
from cmf.model.exchange import EVERYTHING
from cmf.store.dialect import Connection
from cmf.store.sql import SqlStore
from tests.simulator import rights
from tests.simulator.disk import Database, Disk
from tests.simulator.network import Request
from tests.simulator.nodes import HubNode, SiteNode, rows
from tests.simulator.oracle import must
from tests.simulator.rights import Sealed
from tests.simulator.world import TILE_LEVELS, World


def attack(world: World, site: SiteNode, hub: HubNode) -> None:
    """Somebody with a token sends segments that are damaged, forged, out of order, or not theirs to send."""
    oracle, chance = world.oracle, world.chance
    held = [sealed for sealed in oracle.sealed.values() if sealed.prev]
    if not held:
        return
    there = oracle.held[hub.name]
    lacking = [oracle.sealed[hash_] for hash_ in oracle.sealed.keys() - there]
    lacking = sorted((sealed for sealed in lacking if sealed.prev), key=lambda sealed: sealed.wire)
    # Best is one whose stream is there, but not the segment before it.
    torn = [sealed for sealed in lacking if sealed.stream in there and sealed.prev not in there]
    victim = chance.choice(torn or lacking or held)
    thief = next((one for one in world.sites if one.key == victim.writer), site)
    site = chance.choice((site, thief))
    sent = [*forgeries(chance, victim, chance.choice(held)), victim.wire]
    frames = b"".join(wire.frame(wire.SEGMENT, data) for data in chance.sample(sent, 3))
    world.deliver(hub, Request("POST", "/v1/push", frames, site.tokens.get(hub.name, "")))


def claim(world: World, site: SiteNode, hub: HubNode) -> None:
    """Somebody claims that a site's key vouched for theirs; or who stole it has it vouch, after it was replaced."""
    seed = world.chance.randbytes(32)
    thief = signing.Key(seed).public
    stolen = world.chance.choice([site.kept_key(), *site.had.values()]).key
    vouch = rotation.vouch(stolen, thief, at=world.now)
    keys = (*(bytes.fromhex(said.key) for said in stolen.vouched), stolen.public, thief)
    if rights.owner(hub, keys) is not None:
        vouch = msgspec.structs.replace(vouch, signature=signing.Key(seed).sign(b"trust me").hex())
    start = segments.start("p/a", "evil", signing.Key(seed, (*stolen.vouched, vouch)), created=1, nonce=b"n" * 16)
    frame = wire.frame(wire.SEGMENT, segments.to_wire(start))
    world.deliver(hub, Request("POST", "/v1/push", frame, site.tokens.get(hub.name, "")))


def forgeries(chance: random.Random, victim: Sealed, other: Sealed) -> list[bytes]:
    """Return segments that no hub may take: damaged, signed by another, or with the body of another."""
    segment = segments.from_wire(victim.wire)
    forger = signing.Key(chance.randbytes(32))
    body = bytearray(segment.body)
    body[chance.randrange(len(body))] ^= 1 << chance.randrange(8)
    data = model.encode(model.Property(subject="scope", key="title", value="forged", t=9, salt="0" * 32))
    forged = segments.seal(victim.stream, segment.hash, segment.n + 1, [(sha256(data), data, 9)], forger, now=9)
    start = segments.start(victim.scope, "evil", forger, created=1, nonce=b"n" * 16)
    swapped = segments.from_wire(other.wire).body if other.ids != victim.ids else b""
    return [
        segments.wire_bytes(segment.header, segment.signature, bytes(body)),
        segments.to_wire(forged),
        segments.to_wire(start),
        segments.wire_bytes(segment.header, segment.signature, swapped),
    ]


# ---- bad disks -----------------------------------------------------------------------------------------------------


def damage(world: World, site: SiteNode) -> None:
    """Damage what a site keeps, in a copy of its database: `cmf verify` names it, and finds nothing else wrong."""
    before = wrong(SqlStore(Database(Disk("whole", site.disk.image))))
    must(not before or site.spoiled, f"{site.name} finds fault with what is whole: {before}")
    for what, spoil in DAMAGES.items():
        copy = SqlStore(Database(Disk("damaged", site.disk.image)))
        with copy._sql.write() as connection:
            done = spoil(connection, world.chance)
        must(not done or wrong(copy), f"{site.name} does not notice that {what}")
        copy.close()


def wrong(store: SqlStore) -> list[str]:
    """Return what is wrong with the segments of a store, and with what it keeps of hubs' logs."""
    found = [problem for problem in transfer.verify(store) if problem is not None]
    return [f"{problem.where}: {problem.what}" for problem in [*found, *witness.check(store).problems]]


def _some(connection: Connection, chance: random.Random, sql: str) -> tuple[object, ...] | None:
    found = sorted(connection.execute(sql).fetchall())
    return chance.choice(found) if found else None


def _flipped(data: bytes, chance: random.Random) -> bytes:
    spoiled = bytearray(data)
    spoiled[chance.randrange(len(spoiled))] ^= 1 << chance.randrange(8)
    return bytes(spoiled)


def _header(connection: Connection, chance: random.Random) -> bool:
    found = _some(connection, chance, "SELECT g, header FROM segment")
    if found is not None:
        assert isinstance(found[1], bytes)
        connection.execute("UPDATE segment SET header = ? WHERE g = ?", (_flipped(found[1], chance), found[0]))
    return found is not None


def _gone(connection: Connection, chance: random.Random) -> bool:
    """Lose a segment that another one follows, or that a hub was seen to log."""
    found = _some(
        connection,
        chance,
        "SELECT g FROM segment g WHERE EXISTS (SELECT 1 FROM segment b WHERE b.prev = g.hash AND b.sparse = 0) "
        "OR EXISTS (SELECT 1 FROM proof p WHERE p.hash = g.hash AND p.position >= 0)",
    )
    if found is not None:
        connection.execute("DELETE FROM segment WHERE g = ?", found)
    return found is not None


def _moved(connection: Connection, chance: random.Random) -> bool:
    found = _some(connection, chance, "SELECT hub, hash FROM proof WHERE position >= 0")
    if found is not None:
        connection.execute("UPDATE proof SET position = position + 1 WHERE hub = ? AND hash = ?", found)
    return found is not None


def _note(connection: Connection, chance: random.Random) -> bool:
    """Change the size that a hub signed."""
    found = _some(connection, chance, "SELECT key, value FROM meta WHERE key LIKE 'hub % tree' AND value <> ''")
    if found is not None:
        key, value = map(str, found)
        lines = value.split("\n")
        lines[1] = str(int(lines[1]) + 1)
        connection.execute("UPDATE meta SET value = ? WHERE key = ?", ("\n".join(lines), key))
    return found is not None


DAMAGES: dict[str, Callable[[Connection, random.Random], bool]] = {
    "a bit of a segment's header was flipped": _header,
    "a segment is gone": _gone,
    "a segment stands elsewhere in a hub's log": _moved,
    "a hub's checkpoint was changed": _note,
}


def spoil(world: World, site: SiteNode, hub: HubNode) -> None:
    """Flip a bit in a part of a hub's tree that a site keeps, and leave it so: verify names it, or it does no harm."""
    found = rows(site, "SELECT level, place, hash FROM proof_node WHERE hub = ? ORDER BY 1, 2", hub.url)
    if not found or site.disk.is_full:
        return
    level, place, hash_ = world.chance.choice(found)
    with site.store._sql.write(durable=True) as connection:
        connection.execute(
            "UPDATE proof_node SET hash = ? WHERE hub = ? AND level = ? AND place = ?",
            (_flipped(hash_, world.chance), hub.url, level, place),
        )
    if witness.check(site.store).problems:
        site.spoiled.add(hub.url)
    world.look()


def spoil_tile(world: World, site: SiteNode, hub: HubNode) -> None:
    """Flip a bit in a tile of a hub's log: who knows the log finds that it is another one. Then it is mended."""
    note = site.store.meta(f"hub {hub.url} checkpoint")
    tiles = rows(hub, "SELECT level, place, hash FROM hub_tile ORDER BY 1, 2")
    size = int(note.split("\n")[1]) if note else 0
    there = {(level, place) for level, place, _ in tiles}
    tiles = [
        (level, place, hash_)
        for level, place, hash_ in tiles
        if (place + 1) << level <= size and (level + TILE_LEVELS, place >> TILE_LEVELS) not in there
    ]
    if not tiles or hub.url in site.spoiled or hub.disk.is_full:
        return
    level, place, hash_ = world.chance.choice(tiles)
    copy = SqlStore(Database(Disk("copy", site.disk.image)))
    warnings: list[str] = []
    before = witness.check(copy).problems
    set_tile(hub, level, place, _flipped(hash_, world.chance))
    try:
        witness.look(copy, world.calm_client(site, hub), EVERYTHING, warnings)
        must(warnings or before, f"{site.name} takes a damaged log of {hub.name} for the one it knows")
    except DeniedError:
        pass  # its token was taken away, or came after the backup that the hub is back from
    finally:
        set_tile(hub, level, place, hash_)
        copy.close()
    world.look()


def set_tile(hub: HubNode, level: int, place: int, hash_: bytes) -> None:
    """Write a tile of a hub's log."""
    with hub.hub._dialect.write(durable=True) as connection:
        connection.execute("UPDATE hub_tile SET hash = ? WHERE level = ? AND place = ?", (hash_, level, place))
