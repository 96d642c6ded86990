"""What people do at sites: commands of the product, each of which may be killed, or lose its power, at any commit."""

import contextlib
from collections.abc import Sequence

from cmf import collect as collecting
from cmf import following, signing, sync, withdrawing
from cmf.errors import NotFoundError, UnreachableError
from cmf.graph.index import Direction
from cmf.model import log
from cmf.model.exchange import EVERYTHING, View
from tests.histories import execution_nodes
from tests.property.store_histories import EXECUTIONS
from tests.simulator.bodies import is_hidden
from tests.simulator.nodes import HubNode, Node, SiteNode, store_of
from tests.simulator.oracle import agrees, must, root_of
from tests.simulator.seen import FILTERS
from tests.simulator.world import NO_BLOW, Blow, World

STREAMS = (
    *(EVERYTHING, EVERYTHING, View(scopes=("p/a",)), View(scopes=("p/*",)), View(scopes=("q/a", "p/b"))),
    *(View(sites=("lab",)), View(sites=("edge",)), View(scopes=("p/*",), sites=("lab",))),
)
VIEWS = (*STREAMS, *(View(where=where) for where in FILTERS if where), View(scopes=("p/a",), where="params.loss >= 1"))
"""What people pull: whole streams, or what a filter finds."""


def collect(world: World, site: SiteNode, *, blow: Blow = NO_BLOW) -> None:
    """Do what `cmf status` does first."""

    def act() -> None:
        done = collecting.collect(site.folder, site.store, site.objects, site.clock(world.now), cut=True)
        must(site.disk.is_full or not done.problems, f"{site.name} cannot read a journal: {done.problems}")

    world.command(site, act, blow=blow)


def push(world: World, site: SiteNode, hub: HubNode, *, relay: bool = False, blow: Blow = NO_BLOW) -> None:
    """Push what is its own, or as a relay does."""

    def act() -> None:
        clock = site.clock(world.now)
        sync.push(site.folder, site.store, site.objects, world.client(site, hub), clock, relay=relay)

    world.command(site, act, seals=True, blow=blow)


def pull(
    world: World,
    site: SiteNode,
    hub: HubNode,
    view: View = EVERYTHING,
    *,
    everything: bool = False,
    blow: Blow = NO_BLOW,
) -> None:
    """Pull a view and follow it from now on; told nothing, pull all that is followed."""
    followed = following.followed(site.store, hub.url)
    asked = (view,) if everything or view != EVERYTHING else followed or (view,)
    came = []

    def act() -> None:
        rewritten = _is_rewritten(world, site, hub)
        moved = sync.pull(site.store, site.objects, world.client(site, hub), views=asked)
        must(
            rewritten == bool(moved.warnings) or hub.url in site.spoiled,
            f"{site.name}: {rewritten=}, but {moved.warnings=}",
        )
        refused = [one.detail for one in moved.refused]
        must(site.disk.is_full or not refused, f"{site.name} refused what {hub.name} holds: {refused}")
        if not refused:
            came.append(asked)
            following.add(site.store, hub.url, asked)

    world.command(site, act, blow=blow)
    for one in asked:
        if came:
            world.oracle.look_at_pulled(site, hub, one)
        world.oracle.look_at_cursors(site, hub, one, site.store.meta(sync._cursor(world.client(site, hub), one)))


def follow(world: World, site: SiteNode, hub: HubNode, views: Sequence[View]) -> None:
    """Have a site follow these views of a hub, and no others."""
    world.command(site, lambda: following.follow(site.store, hub.url, views))


def _is_rewritten(world: World, site: SiteNode, hub: HubNode) -> bool:
    """Tell whether a hub's log no longer begins as a site remembers it."""
    note = site.store.meta(f"hub {hub.url} checkpoint")
    if not note:
        return False
    seen = log.read(note, hub.hub.key.public.hex(), signing.verify)
    entries = world.oracle.logs[hub.name]
    return seen.size > len(entries) or root_of(entries[: seen.size]) != seen.root


def pull_lineage(world: World, site: SiteNode, hub: HubNode, direction: Direction) -> None:
    """Pull what one execution came from, or what came of it: only the segments that this story needs."""
    execution = world.chance.choice([*execution_nodes(hub.hub.store), *EXECUTIONS[:1]])
    came = []

    def act() -> None:
        with contextlib.suppress(NotFoundError):
            moved = sync.pull_lineage(site.store, site.objects, world.client(site, hub), execution, direction)
            came.extend([execution] if not moved.refused else [])

    world.command(site, act)
    for root in came:
        world.oracle.look_at_lineage(site, hub, root, direction)


def pack(world: World, site: SiteNode) -> None:
    """Make a bundle of everything, or of some streams."""
    view = world.chance.choice(STREAMS)
    path = world.folder / f"bundle{next(world.numbers)}"

    def act() -> None:
        collecting.collect(site.folder, site.store, site.objects, site.clock(world.now), cut=True)
        sync.seal(site.folder, site.store, site.clock(world.now))
        sync.pack(site.store, site.objects, path, view=view)
        world.bundles.append(path)

    world.command(site, act, seals=True)


def unpack(world: World, site: SiteNode, *, blow: Blow = NO_BLOW) -> None:
    """Take in some bundle that was made."""
    if world.bundles:
        path = world.chance.choice(world.bundles)

        def act() -> None:
            sync.unpack(site.store, site.objects, path)

        world.command(site, act, blow=blow)


def _place(world: World, site: SiteNode) -> withdrawing.Place:
    collecting.collect(site.folder, site.store, site.objects, site.clock(world.now), cut=True)
    return withdrawing.Place(
        site.store, site.objects, site.secret, [world.client(site, hub) for hub in world.hubs if site.tokens]
    )


def redact(world: World, site: SiteNode, *, blow: Blow = NO_BLOW) -> None:
    """Redact one record that a site holds: a hub that can be asked may say that this is not its to do."""
    held = [copy for copy in world.oracle.copies(site) if is_hidden({(copy.scope, copy.id)}, copy)]
    if not held:
        return
    record = world.chance.choice(sorted({copy.id for copy in held}))
    world.oracle.redacted.add(record)

    def act() -> None:
        with contextlib.suppress(NotFoundError):
            withdrawing.redact(_place(world, site), [record.hex()], now_us=site.clock(world.now).wall_us)

    world.command(site, act, blow=blow)


def retract(world: World, site: SiteNode, *, undo: bool, blow: Blow = NO_BLOW) -> None:
    """Hide an execution or a record, or show it again."""
    records = sorted({copy.id.hex() for copy in world.oracle.copies(site)})
    about = world.chance.choice([*EXECUTIONS, *records])

    def act() -> None:
        with contextlib.suppress(NotFoundError):
            withdrawing.retract(_place(world, site), about, undo=undo, now_us=site.clock(world.now).wall_us)

    world.command(site, act, blow=blow)


def rotate(world: World, site: SiteNode, *, alone: bool) -> None:
    """Make another key, for which the old one vouches; or ``alone``: one that hubs take by an invite only."""
    world.command(site, lambda: site.rotate(world.now, alone=alone))


def rebuild(world: World, node: Node) -> None:
    """Drop what is derived and fold it again, which changes nothing that anybody sees."""
    if isinstance(node, SiteNode):
        collect(world, node)
    store = store_of(node)
    before = store.dump()
    with contextlib.suppress(UnreachableError):
        store.rebuild()
        must(store.dump() == before, f"{node.name} says something else when it is rebuilt")
        agrees(store, world.oracle.copies(node))
