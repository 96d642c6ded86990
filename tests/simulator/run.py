"""One seed: some sites and hubs live through bad times step by step, then all is mended and everybody must be equal."""

import contextlib
import random
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from cmf import witness
from cmf.errors import CmfError
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model.exchange import View
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer
from tests.simulator import commands, mischief, rights
from tests.simulator.bodies import Copy, is_hidden
from tests.simulator.nodes import HubNode, Node, SiteNode, rows, store_of
from tests.simulator.oracle import agrees, must
from tests.simulator.rights import covers
from tests.simulator.world import NO_BLOW, PART_READ, Blow, World, world

STEPS = 45
ALWAYS = {"record": 12.0, "collect": 3.0, "push": 8.0, "pull": 8.0}
SOMETIMES = {
    "relay": 2.0,
    "lineage": 1.5,
    "follow": 1.0,
    "redact": 2.0,
    "retract": 1.0,
    "pack": 1.0,
    "unpack": 2.0,
    "rebuild": 0.5,
    "kill": 2.5,
    "hub crash": 2.0,
    "restore hub": 2.0,
    "restore site": 1.0,
    "clone": 0.3,
    "clock": 1.0,
    "part": 1.0,
    "join": 1.0,
    "full": 0.7,
    "room": 1.5,
    "late": 3.0,
    "attack": 1.5,
    "damage": 0.5,
    "spoil": 0.7,
    "revoke": 0.3,
    "admit": 1.0,
}


def simulate(seed: int) -> Counter[str]:
    """Live through one seed; raise what was violated. Returns how often each step was taken.

    Each seed prefers some misfortunes and spares others: a few of them often meet where all of them seldom do.
    """
    taken: Counter[str] = Counter()
    dice = random.Random(f"weather {seed}")
    weights = ALWAYS | {move: weight * dice.choice((0, 0, 1, 1, 4)) for move, weight in SOMETIMES.items()}
    federates = random.Random(f"hubs {seed}").random() < 0.5
    rotates = random.Random(f"keys {seed}").random() < 0.3
    with world(seed, fault=dice.choice((0.0, 0.05, 0.3))) as made:
        made.build(sites=dice.choice((2, 3, 3)), hubs=dice.choice((1, 2)), federate=federates)
        if made.befriended:
            weights |= {"federate": 8.0, "peers": dice.choice((0.0, 2.0))}
        if rotates:
            weights |= {"rotate": 6.0, "revoke key": dice.choice((0.0, 2.0)), "claim": 4.0}
        for _ in range(STEPS):
            move = made.chance.choices(list(weights), list(weights.values()))[0]
            taken[move] += 1
            step(made, move)
        heal(made)
        judge(made)
    return taken


def step(made: World, move: str) -> None:
    """Take one step."""
    chance = made.chance
    made.pass_time(chance.choice((0, 1, 1, 1000)))
    if chance.random() < 0.1:
        made.backup()
    site, hub = chance.choice(made.sites), chance.choice(made.hubs)
    blow = Blow(chance.randint(1, 25), chance.random() < 0.7) if chance.random() < 0.3 else NO_BLOW
    match move:
        case "record":
            made.record(site, chance.randint(1, 5))
        case "collect":
            commands.collect(made, site, blow=blow)
        case "push":
            commands.push(made, site, hub, blow=blow)
        case "relay":
            commands.push(made, made.sites[0], hub, relay=True, blow=blow)
        case "pull":
            commands.pull(made, site, hub, chance.choice(commands.VIEWS), blow=blow)
        case "follow":
            commands.follow(made, site, hub, chance.sample(commands.VIEWS, chance.randint(0, 2)))
        case "lineage":
            commands.pull_lineage(made, site, hub, chance.choice(("up", "down")))
        case "redact":
            commands.redact(made, site, blow=blow)
        case "retract":
            commands.retract(made, site, undo=chance.random() < 0.3, blow=blow)
        case "pack":
            commands.pack(made, site)
        case "unpack":
            commands.unpack(made, site, blow=blow)
        case "rebuild":
            commands.rebuild(made, chance.choice((site, hub)))
        case "rotate":
            commands.rotate(made, site, alone=chance.random() < 0.2)
        case "federate":
            made.federate(*chance.choice(made.befriended), blow=blow)
        case _:
            befall(made, move, site, hub)


def befall(made: World, move: str, site: SiteNode, hub: HubNode) -> None:
    """Let something befall a site or a hub."""
    chance = made.chance
    match move:
        case "kill":
            made.restart(site, power=chance.random() < 0.7)
            made.look()
        case "hub crash":
            made.crash_hub(hub, power=chance.random() < 0.7)
        case "restore hub":
            made.restore(made.hubs)
        case "restore site":
            made.restore(made.sites)
        case "clone":
            made.clone(site)
        case "clock":
            site.skew = chance.choice((0, 0, 10**12, -(10**12), 5))
        case "part":
            made.weather.parted.add((site.name, hub.name))
        case "join":
            made.weather.parted.clear()
        case "full":
            chance.choice((site, hub)).disk.is_full = True
        case "room":
            for node in made.nodes:
                node.disk.is_full = False
        case "late":
            made.late()
        case "attack":
            mischief.attack(made, site, hub)
        case "damage":
            mischief.damage(made, site)
        case "spoil":
            chance.choice((mischief.spoil, mischief.spoil_tile))(made, site, hub)
        case "revoke key":
            made.revoke_key(site, hub)
        case "claim":
            mischief.claim(made, site, hub)
        case "revoke":
            made.revoke(site, hub)
        case "admit":
            made.admit(site, hub, whole=chance.random() < 0.7, redacts=chance.random() < 0.3)
        case "peers":
            made.change_peers(*chance.choice(made.befriended), chance.choice(("", "p", "q")))
        case _:
            raise AssertionError(move)


def heal(made: World) -> None:
    """Mend everything: every process has ended, every disk has room, every way is open, and everybody exchanges."""
    made.weather.calm()
    made.pass_time(3_600_000_000)
    for node in made.nodes:
        node.disk.is_full = False
    for hub, other in made.befriended:
        made.change_peers(hub, other, "")
    for site in made.sites:
        site.skew = 0
        site.spoiled.clear()
        for process in [*site.running]:
            site.end(process)
        if any(rights.owner(hub, site.keys) is None for hub in made.hubs):
            commands.rotate(made, site, alone=True)
        for hub in made.hubs:
            if rights.is_strange(hub, site):
                hub.enrol(site, *PART_READ)
            with contextlib.suppress(CmfError):
                witness.trust(site.store, made.client(site, hub))
    for everything in (False, True, True):
        for site in made.sites:
            for hub in made.hubs:
                commands.push(made, site, hub)
        for hub, other in made.befriended:
            made.federate(hub, other)
            made.oracle.agree(hub, other)
        for site in made.sites:
            for hub in made.hubs:
                commands.pull(made, site, hub, everything=everything)
        for hub in made.hubs:
            commands.push(made, made.sites[0], hub, relay=True)


def judge(made: World) -> None:
    """Check, after all was mended, that everybody who may have a thing has it, and that all who have the same agree."""
    oracle = made.oracle
    for hub in made.hubs:
        for site in made.sites:
            for hash_ in oracle.held[site.name] - oracle.held[hub.name]:
                writer = oracle.sealed[hash_].writer
                is_his = writer == site.key or (site is made.sites[0] and writer not in site.had)
                token = site.tokens[hub.name]
                allowed = oracle.all_of(hub, hash_, lambda one, at=hub, by=token: rights.may_bring(at, by, one))  # type: ignore[misc]
                must(not (is_his and allowed), f"{hub.name} lacks what {site.name} may send")
            below = rights.readable(hub, site.tokens[hub.name])
            for hash_ in oracle.held[hub.name] - oracle.held[site.name]:
                scope = oracle.sealed[hash_].scope
                must(not View(below=below).covers(scope), f"{site.name} lacks what it may read at {hub.name}")
        _judge_keys(made, site)
    _judge_sync(made)
    _judge_forks(made)
    _judge_facts(made)
    _judge_objects(made)
    _judge_folds(made)
    for site in made.sites:
        found = mischief.wrong(site.store)
        must(not found, f"{site.name} finds something wrong with what it holds: {found}")


def _judge_keys(made: World, site: SiteNode) -> None:
    """Look for what a site signed with earlier keys: what a hub does not take of it, it has from the present one."""
    oracle = made.oracle
    for hub in made.hubs:
        principal, _ = rights.roles(hub, site.tokens[hub.name])
        lacking = oracle.held[site.name] - oracle.held[hub.name]
        stopped = {oracle.sealed[hash_].scope for hash_ in lacking if oracle.sealed[hash_].writer == site.key}
        have = oracle.facts(hub)
        for hash_ in lacking:
            sealed, first = oracle.sealed[hash_], oracle.first_lacking(hub, hash_)
            if sealed.writer not in site.had or sealed.scope in stopped or not rights.holds(hub, principal, sealed):
                continue
            by = rights.owner(hub, first.keys)
            if by and not rights.holds(hub, by, first):
                continue  # it is refused for what its owner may not, which is said at each push
            lost = {(sealed.scope, id_) for id_ in sealed.ids - oracle.redacted} - have
            must(not lost, f"{hub.name} has nothing of what {site.name} signed with a key that it had before")


def _judge_sync(made: World) -> None:
    """Once more moves nothing, and costs a few small requests."""
    for site in made.sites:
        for hub in made.hubs:
            before = {node.name: set(made.oracle.held[node.name]) for node in made.nodes}
            requests, size = made.weather.requests, made.weather.bytes
            commands.push(made, site, hub)
            commands.pull(made, site, hub)
            own = (made.oracle.sealed[hash_] for hash_ in before[site.name] - before[hub.name])
            refused = sum(sealed.writer == site.key for sealed in own)  # which is tried again, and said again
            asked = made.weather.requests - requests
            must(asked <= 6 + refused, f"{site.name} asked {asked} times")
            must(made.weather.bytes - size < 60_000, f"{made.weather.bytes - size} bytes moved for nothing")
            after = {node.name: made.oracle.held[node.name] for node in made.nodes}
            must(after == before, f"{site.name} and {hub.name} go on and on")


def _judge_forks(made: World) -> None:
    """Only a store that came back from a backup writes two segments behind one."""
    seen: dict[tuple[bytes, bytes], bytes] = {}
    for hash_, sealed in made.oracle.sealed.items():
        first = seen.setdefault((sealed.stream, sealed.prev), hash_)
        forks = first != hash_ and sealed.prev
        must(not forks or sealed.writer in made.oracle.branching, "a stream has two branches, and nobody was restored")


def _judge_facts(made: World) -> None:
    """Look for what was recorded: it is there, once, under the id that its store's secret gives it."""
    secrets = {site.secret for site in made.sites}
    for site in made.sites:
        must(rows(site, "SELECT count(*) FROM pending") == [(0,)], f"{site.name} did not seal everything")
        left = [
            (path.name, path.stat().st_size, site.store.journal(path.name))
            for path in (site.folder / "journal").glob("*.j")
        ]
        must(not left, f"{site.name} left journals: {left}")
        have = made.oracle.known[site.name]
        for path, facts in made.oracle.recorded[site.name].items():
            lost = {fact for fact in facts - have if fact[1] not in made.oracle.redacted}
            must(not lost, f"{site.name} lost what was recorded in {path.name}")
    for sealed in made.oracle.sealed.values():
        for id_, data in segments.records_of(segments.from_wire(sealed.wire)):
            record = model.trusted(data)
            if record is not None and hasattr(record, "salt"):
                draft = msgspec.structs.replace(record, salt="")
                must(any(model.salted(draft, secret)[0] == id_ for secret in secrets), "one draft became two records")


def _judge_objects(made: World) -> None:
    """Whatever a hub has granted it holds; it wants only what none of those who may send it has."""
    for hub in made.hubs:
        granted = set(rows(hub, "SELECT scope, digest FROM hub_grant"))
        must(hub.hub.objects.absent([digest for _, digest in granted]) == [], f"{hub.name} granted what it lacks")
        for digest, scope in store_of(hub).promised():
            if (scope, digests.object_of(digest)) in granted:
                continue
            for site in made.sites:
                writes = any(
                    role == "write" and covers(prefix, scope)
                    for prefix, role in rights.roles(hub, site.tokens[hub.name])[1]
                )
                names = rows(site, "SELECT count(*) FROM stream WHERE own = 1 AND scope = ?", scope) != [(0,)]
                has = not site.objects.absent([digests.object_of(digest)])
                must(not (writes and names and has), f"{hub.name} never got an object that {site.name} has")


def _judge_folds(made: World) -> None:
    """Equal sets say the same, whatever happened; as a fresh store does, a rebuilt one, and the reference.

    Segments are equal if the same of their records were redacted.
    """
    oracle = made.oracle
    dumps: dict[tuple[frozenset[bytes], frozenset[bytes]], tuple[Node, Any]] = {}
    for node in made.nodes:
        if rows(node, "SELECT count(*) FROM segment WHERE sparse = 1") != [(0,)]:
            continue
        same = frozenset(oracle.held[node.name]), frozenset(oracle.gaps(node))
        dump = store_of(node).dump()
        must(dumps.setdefault(same, (node, dump))[1] == dump, f"{node.name} says something else than its equals")
    for (held, _), (node, dump) in dumps.items():
        own = {segments.from_wire(data).hash: data for _, _, data in store_of(node).stored()}
        whole = {hash_: oracle.sealed[hash_].wire for hash_ in held}
        learnt = {copy.id for copy in _whole(made, held) if is_hidden(oracle.redactions(node), copy)}
        fresh = SqlStore(Sqlite(None))
        order = sorted(held)
        made.chance.shuffle(order)
        done: set[bytes] = set()
        for hash_ in order:
            _admit(fresh, made, whole if learnt >= oracle.gaps(node) else own, hash_, done)
        must(fresh.dump() == dump, f"{node.name} says something else than a store that got it in another order")
        fresh.rebuild()
        must(fresh.dump() == dump, f"{node.name} says something else when it is rebuilt")
        agrees(fresh, oracle.copies(node))
        fresh.close()


def _whole(made: World, held: Iterable[bytes]) -> list[Copy]:
    """Return every record of some segments as they were sealed."""
    sealed = [made.oracle.sealed[hash_] for hash_ in held]
    return [
        Copy(one.scope, *record) for one in sealed for record in made.oracle.bodies.of_wire(one.wire).present.items()
    ]


def _admit(fresh: SqlStore, made: World, wires: Mapping[bytes, bytes], hash_: bytes, done: set[bytes]) -> None:
    """Take in a segment behind those that it follows."""
    behind = []
    while hash_ and hash_ not in done:
        behind.append(hash_)
        done.add(hash_)
        hash_ = made.oracle.sealed[hash_].prev
    found = list(LocalPeer(fresh).admit(wires[one] for one in reversed(behind)))
    must(all(one.outcome == "new" for one in found), "a fresh store refused a segment")
