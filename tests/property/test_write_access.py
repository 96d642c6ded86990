"""What a team records that may not write in a scope changes nothing of what anybody sees of that scope.

A hub admits a segment only from who may write in its scope; so all that others can do is to say things in their own:
that they made the same bytes, used them, were started by the same execution, that it is retracted, and so on. What they
forge in the others' scopes is refused, whatever way it comes.
"""

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cmf import comparison
from cmf.bundle import Bundle
from cmf.errors import CmfError, NotFoundError
from cmf.graph import filter as filters
from cmf.graph import lineage, views
from cmf.graph.index import Index
from cmf.hub.readable import ReadableIndex
from cmf.keeping import Named
from cmf.model import records as model
from cmf.model.exchange import Admission, View
from cmf.objects.local import LocalObjects
from cmf.store.sql import SqlStore
from cmf.transfer import LocalPeer, transfer
from tests.property.inner import InnerHub
from tests.property.store_histories import EXECUTIONS, IDS, LARGE, NAMES, Fact, Site, accepted, histories

OURS = ("p/a", "p/b", "p/a/deep")
PREFIXES = ("p/a", "p/b")
NODES = [node for node in EXECUTIONS if node.split(":")[1] in OURS]
BARE = ("m", "m@best", "a", "b", *IDS, *(f"0000000{n}" for n in (1, 2)), "claimed")
QUALIFIED = tuple(f"{pipeline}:{name}" for pipeline in ("p", "p/a") for name in ("m", "m@best", "a", "b"))
FILTERS = ("", "metrics.f1 > 0", "params.loss != 9", "status = finished", f"parent = {IDS[0]} and pipeline = p")


# ---- what they say -----------------------------------------------------------------------------------------------


class Claims(NamedTuple):
    """What the others do: where, when they say it was, whether they come first, and what else they record."""

    scope: str
    t: int
    come_first: bool
    others: list[Fact]


def claims(*scopes: str) -> st.SearchStrategy[Claims]:
    return st.builds(Claims, st.sampled_from(scopes), st.sampled_from((0, 3, 2**53)), st.booleans(), histories())


def said(ours: Sequence[Fact], theirs: Claims) -> list[Fact]:
    """Return what they record: they copy all of ours, claim it in every way there is, and forge it in our scopes."""
    records: list[model.Record] = [
        model.Execution(id=id_, name="claimed", started=9, params={"loss": 7}, parent=NODES[0]) for id_ in IDS
    ]
    own = model.execution_node(theirs.scope, IDS[0])
    for node in (*NODES, own):
        for key, value in (("param/loss", 9), ("metric/f1", 9), ("status/9-ffffffff/0", {"status": "failed"})):
            records.append(model.Property(subject=node, key=key, value=value, t=theirs.t))
        records += [model.Link(source=node, rel="reproduces", to=own), model.Link(source=own, rel="child_of", to=node)]
        records.append(model.Property(subject=node, key="retracted", value=True, t=theirs.t))
    for digest in LARGE:
        for direction in ("output", "input"):
            for path in ("a", "b"):
                event = model.Event(
                    execution=IDS[1], direction=direction, artifact=digest, path=path, name="m", type="x", size=99,
                    t=theirs.t,
                )  # fmt: skip
                id_, _ = model.salted(event, b"theirs")
                records.append(event)
                records += [model.Link(source=f"record:{id_.hex()}", rel="via", to=node) for node in NODES]
        label = {"artifact": digest, "name": "m"}
        records.append(model.Property(subject="scope", key="label/m@best", value=label, t=theirs.t))
    for fact in ours:
        subject = f"record:{fact.id.hex()}"
        records += [model.Property(subject=subject, key=key, value=True, t=2**53) for key in ("retracted", "redacted")]
        records.append(model.Link(source=subject, rel="via", to=own))
    made = [Fact(theirs.scope, *model.salted(record, b"theirs")) for record in records]
    forged = [fact._replace(scope=scope) for fact in made[:40] for scope in OURS]
    return [fact._replace(scope=theirs.scope) for fact in (*theirs.others, *ours)] + made + forged


# ---- what anybody sees -------------------------------------------------------------------------------------------


def is_ours(node: str) -> bool:
    return node.split(":")[1] in OURS


def seen(index: Index, names: Sequence[str]) -> bytes:
    """Return what an index shows of our scopes; of what others say only that it is theirs, which is left out."""
    found = index.executions(list(index.nodes(NODES).values())).values()
    known = {view.node: view for view in found if view.known}
    said: dict[str, Any] = {"views": known}
    said["series"] = {node: [index.series(node, name) for name in NAMES] for node in known}
    said["history"] = {node: [w for w in index.history(node) if w.scope in OURS] for node in known}
    said["lists"] = [list(listed(index, text)) for text in FILTERS]
    said["lineage"] = {node: [walked(index, node, way) for way in ("up", "down")] for node in known}
    said["artifacts"] = {
        view.digest: views.artifact(view.digest, [use for use in view.uses if use.scope in OURS])
        for view in index.artifacts(list(index.nodes([f"artifact:{digest}" for digest in LARGE]).values())).values()
        if any(use.scope in OURS for use in view.uses)
    }
    said["named"] = {text: named(index, text) for text in (*names, *known, *said["artifacts"])}
    said["compared"] = [comparison.compare(first, known[NODES[0]], nothing) for first in known.values()
                        if NODES[0] in known]  # fmt: skip
    return msgspec.json.encode(said, order="sorted")


def nothing(digest: str) -> bytes:
    raise NotFoundError(f"{digest} is not here.")


def listed(index: Index, text: str) -> Iterator[views.Execution]:
    """Yield what is listed of our scopes, a page after the other."""
    query = filters.parse(text, scopes=OURS, limit=2)
    while True:
        page = index.select(query)
        assert page.complete
        yield from page.executions
        if not page.cursor:
            return
        query = msgspec.structs.replace(query, cursor=page.cursor)


def named(index: Index, text: str) -> Any:
    try:
        return index.resolve(text)
    except CmfError as error:
        return str(error)


def walked(index: Index, node: str, direction: Any) -> lineage.Lineage:
    """Return a walk without what others claim: upwards nothing of theirs is in it; downwards they used what we made."""
    found = lineage.trace(index, node, direction)
    steps = sorted(found.steps, key=msgspec.structs.astuple)
    if direction == "up":
        return msgspec.structs.replace(found, claims=(), steps=tuple(steps))
    ours = [step for step in steps if is_ours(step.consumer)]
    return msgspec.structs.replace(
        found,
        claims=(),
        steps=tuple(ours),
        depth={node: depth for node, depth in found.depth.items() if is_ours(node)},
        executions={node: view for node, view in found.executions.items() if is_ours(node)},
        artifacts={
            digest: views.artifact(digest, [use for use in found.artifacts[digest].uses if is_ours(use.execution)])
            for digest in {step.artifact for step in ours}
        },
    )


def shown(store: SqlStore) -> tuple[bytes, bytes, Any]:
    """Return what is seen by who may read everything, by who may read our scopes alone, and what must be kept."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Named(LocalObjects(Path(folder)))
        kept.refresh(store)
    holders = {digest: by for digest, scopes in kept.scopes.items() if (by := sorted(scopes.intersection(OURS)))}
    everything, reader = seen(store.index, QUALIFIED), seen(ReadableIndex(store.index, PREFIXES), BARE + QUALIFIED)
    return everything, reader, holders


# ---- the ways it comes -------------------------------------------------------------------------------------------


def lets(hub: InnerHub, who: Site, *roles: tuple[str, str]) -> LocalPeer:
    return hub.lets(who.name, who.key.public, *roles)


def carried(source: LocalPeer, target: LocalPeer, path: Path) -> list[Admission]:
    """Bring all that one end holds to another in a bundle."""
    with Bundle.create(path) as made:
        accepted(transfer(source, made, View()))
        made.seal()
    with Bundle.open(path) as found:
        return list(transfer(found, target, View()))


def refused(admissions: Iterator[Admission] | list[Admission]) -> set[str]:
    """Return the scopes of what was refused, which is not known for what lacks its start."""
    return {admission.scope for admission in admissions if admission.outcome == "refused"} - {""}


def spread(ours: list[Fact], theirs: Claims, folder: Path) -> dict[str, SqlStore]:
    """Have both record and send by every way there is; return the stores of everybody who then looks.

    They go to a first hub directly, and through a site that relays what it got in a bundle; to a second hub, where a
    peer brings what the first holds, and another peer, theirs, what they like; and to a third, in a bundle.
    """
    first, second, third = [InnerHub(folder / str(n)) for n in range(3)]
    we, they, carrier, peer, friend = (Site(name) for name in ("ours", "theirs", "carrier", "first hub", "their hub"))
    own = [(role, prefix) for prefix in PREFIXES for role in ("write", "redact")]
    foreign = [("write", theirs.scope), ("redact", theirs.scope)]

    def send_ours() -> None:
        we.record(*ours)
        we.seal()
        accepted(transfer(we.peer, lets(first, we, *own), View(own=True)))

    def send_theirs() -> None:
        they.record(*said(ours, theirs))
        they.seal()
        forged = {stream["scope"] for stream in they.store.streams()} - {theirs.scope}
        assert refused(transfer(they.peer, lets(first, they, *foreign), View(own=True))) == forged
        carried(they.peer, carrier.peer, folder / "theirs")
        assert refused(transfer(carrier.peer, lets(first, carrier, ("relay", "")), View())) == forged
        assert refused(transfer(they.peer, lets(second, friend, ("peer", theirs.scope), foreign[1]), View())) == forged
        lets(third, they, *foreign)
        assert refused(carried(they.peer, lets(third, carrier, ("relay", "")), folder / "again")) == forged

    for send in (send_theirs, send_ours) if theirs.come_first else (send_ours, send_theirs):
        send()
    accepted(transfer(LocalPeer(first.store), lets(second, peer, ("peer", ""), ("redact", "")), View()))
    lets(third, we, *own)
    accepted(carried(LocalPeer(second.store), lets(third, carrier, ("relay", "")), folder / "all"))
    puller = Site("puller")
    accepted(transfer(lets(third, puller, ("read", "")), puller.peer, View()))
    return {"first": first.store, "second": second.store, "third": third.store, "puller": puller.store}


def alone(ours: list[Fact]) -> SqlStore:
    site = Site("ours")
    site.record(*ours)
    return site.store


def of_ours(facts: list[Fact]) -> list[Fact]:
    """Return facts of our scopes that name nothing of anybody else's."""
    return [fact for fact in facts if fact.scope in OURS and b"execution:q/" not in fact.data]


@settings(max_examples=20)
@given(histories().map(of_ours), claims("q/a", "p2/a", "p/x/evil"))
def test_nothing_that_others_send_by_any_way_changes_what_anybody_sees_of_our_scopes(
    ours: list[Fact], theirs: Claims
) -> None:
    before = shown(alone(ours))
    with tempfile.TemporaryDirectory() as folder:
        for way, store in spread(ours, theirs, Path(folder)).items():
            after = shown(store)
            for what, old, new in zip(("everything", "readable", "holders"), before, after, strict=True):
                assert (way, what, new) == (way, what, old)


@settings(max_examples=20)
@given(histories().map(of_ours), claims("p/c"))
def test_another_stage_of_our_pipeline_changes_nothing_of_our_executions_and_of_what_our_scopes_say_they_made(
    ours: list[Fact], theirs: Claims
) -> None:
    def seen_in(store: SqlStore) -> dict[str, Any]:
        index = store.index
        found = index.executions(list(index.nodes(NODES).values()))
        known = {node: view.node for node, view in found.items() if view.known}
        steps = {
            (known[edge.consumer], edge.artifact, known.get(edge.producer), edge.how)
            for edge in index.edges(list(known), "up")
            if edge.how == "via" or (edge.how == "content" and edge.producer in known)
        }
        texts = index.texts([artifact for _, artifact, _, _ in steps])
        return {
            "views": [view for view in found.values() if view.known],
            "series": [index.series(node, name) for node in known.values() for name in NAMES],
            "history": [write for node in known.values() for write in index.history(node) if write.scope in OURS],
            "steps": {
                (consumer, texts[artifact], producer, how)
                for consumer, artifact, producer, how in steps
                if how == "via" or (producer and producer.split(":")[1] == consumer.split(":")[1])
            },
        }

    site = Site("all")
    facts = [fact for fact in said(ours, theirs) if fact.scope == theirs.scope]
    for told in (facts, ours) if theirs.come_first else (ours, facts):
        site.record(*told)
    assert seen_in(site.store) == seen_in(alone(ours))
