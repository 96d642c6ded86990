"""Random but valid histories: a few scopes, executions and artifacts, so that everything meets everything.

A history is a list of `Fact`. Sites are stores in memory with a key of their own; the fourth stands for a hub.
"""

import hashlib
import itertools
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from cmf.graph import nodes
from cmf.graph.index import Edge
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model
from cmf.model.exchange import Admission, View
from cmf.signing import Key
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, transfer
from tests.reference_fold import Reference

SCOPES = ("p/a", "p/b", "p/a/deep", "q/a")
IDS = tuple(f"0000000{n}-0000-7000-8000-00000000000{n}" for n in (1, 2))
LARGE = (digests.file_digest(b"x" * 64), digests.file_digest(b"x" * 65), "tree:" + digests.file_digest(b"tree"))
SIZES = {LARGE[0]: (64, None), LARGE[1]: (65,), LARGE[2]: (None, 70), digests.EMPTY: (0, None)}
CROWDED = model.execution_node("p/a", IDS[0])
EXECUTIONS = tuple(model.execution_node(scope, id_) for scope in SCOPES for id_ in IDS)
ATTEMPTS = (*["2-00000000"] * 4, "1-aaaaaaaa", "10-bbbbbbbb", "2-ffffffff")
NAMES = ("loss", "f1")


class Fact(NamedTuple):
    """One record as a segment of its scope carries it."""

    scope: str
    id: bytes
    data: bytes


# Facts are crowded on few places, so that they disagree often.
scopes = st.sampled_from(("p/a", "p/a", "p/a", *SCOPES))
ids = st.sampled_from((IDS[0], IDS[0], *IDS))
salts = st.sampled_from(("0" * 32, "1" * 32))
clocks = st.integers(0, 6) | st.just(2**53)
values = (
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-2, 2).map(lambda x: round(x, 1)) | st.text(max_size=2)
)
states = st.sampled_from(("running", "finished", "failed", "killed", "lost"))
artifacts = st.sampled_from(tuple(SIZES))


@st.composite
def births(draw: st.DrawFn) -> dict[str, Any]:
    birth = {"kind": "execution", "id": draw(ids), "started": draw(st.integers(0, 2)), "salt": draw(salts)}
    if params := draw(st.dictionaries(st.sampled_from(NAMES), values, max_size=2)):
        birth["params"] = params
    return birth


@st.composite
def events(draw: st.DrawFn) -> dict[str, Any]:
    artifact = draw(artifacts)
    event = {
        "kind": "event",
        "execution": draw(ids),
        "direction": draw(st.sampled_from(("input", "output"))),
        "artifact": artifact,
        "t": draw(clocks),
        "salt": draw(salts),
    }
    for field, choices in (("path", ("a", "b")), ("name", ("m",)), ("type", ("model", "dataset"))):
        if draw(st.booleans()):
            event[field] = draw(st.sampled_from(choices))
    if (size := draw(st.sampled_from(SIZES[artifact]))) is not None:
        event["size"] = size
    return event


@st.composite
def series(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.sampled_from((["loss"], ["loss"], ["f1", "loss"])))
    last = draw(st.integers(0, 9))
    return {
        "kind": "series",
        "execution": draw(ids),
        "names": names,
        "attempt": draw(st.sampled_from(ATTEMPTS)),
        "rank": draw(st.sampled_from((0, 0, 1))),
        "first": draw(st.sampled_from((0, 0, 10))),
        "rows": draw(st.integers(1, 3)),
        "steps": [0, last],
        "times": [0, draw(st.integers(0, 3))],
        "object": digests.file_digest(bytes([last])),
        "size": 10,
        "stats": [[last / 2 + n, 0.0, 1.0, 2.0, 3] for n in range(len(names))],
        "salt": draw(salts),
    }


def properties(subjects: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    keys = st.sampled_from(("param/loss", "param/loss", "metric/loss", "metric/f1", "tag/x", "title", "new/kind"))
    return writes(subjects, st.tuples(keys, values))


def labels() -> st.SearchStrategy[dict[str, Any]]:
    value = artifacts.map(lambda digest: {"artifact": digest, "name": "m"}) | st.none()
    return writes(st.just("scope"), st.tuples(st.just("label/m@best"), value))


def statuses() -> st.SearchStrategy[dict[str, Any]]:
    key = st.builds("status/{}/{}".format, st.sampled_from(ATTEMPTS), st.sampled_from((0, 0, 1)))
    value = st.builds(lambda state, t: {"status": state, "ended": t}, states, clocks)
    return writes(st.just(CROWDED), st.tuples(key, value))


def writes(
    subjects: st.SearchStrategy[str], said: st.SearchStrategy[tuple[str, Any]]
) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda subject, said, t, salt: {
            "kind": "property",
            "subject": subject,
            "key": said[0],
            "t": t,
            "salt": salt,
            **({} if said[1] is None else {"value": said[1]}),
        },
        subjects,
        said,
        clocks,
        salts,
    )


def retractions(subjects: st.SearchStrategy[str], key: str = "retracted") -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda subject, t, salt, value: {
            "kind": "property",
            "subject": subject,
            "key": key,
            "t": t,
            "salt": salt,
            **value,
        },
        subjects,
        clocks,
        salts,
        st.sampled_from(({"value": True}, {"value": True}, {})),
    )


def links(sources: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda source, rel, to, salt: {"kind": "link", "from": source, "rel": rel, "to": to, "salt": salt},
        sources,
        st.sampled_from(("via", "via", "reproduces", "part_of")),
        st.sampled_from(EXECUTIONS),
        salts,
    )


subjects = st.sampled_from((*EXECUTIONS, "scope", "artifact:" + LARGE[0], "site:lab"))
unknown = st.builds(
    lambda kind, x: {"kind": kind, "x": x, "zz": {"y": [1]}}, st.sampled_from(("future", "verdict")), clocks
)
artifact_records = artifacts.map(lambda digest: {"kind": "artifact", "digest": digest})
THEMES = (
    st.one_of(statuses()),
    st.one_of(statuses(), births(), properties(subjects)),
    st.one_of(births(), properties(st.just(CROWDED)), series()),
    st.one_of(series()),
    st.one_of(events(), events(), artifact_records, links(st.sampled_from(EXECUTIONS))),
    st.one_of(events(), births(), events(), labels()),
    st.one_of(
        *(births(), events(), properties(st.just(CROWDED)), properties(subjects), statuses(), labels(), series()),
        *(unknown, artifact_records, links(st.sampled_from(EXECUTIONS))),
    ),
)
unknown_fields = st.sampled_from(({}, {}, {}, {"zzz_new_field": 1}))


@st.composite
def histories(draw: st.DrawFn) -> list[Fact]:
    """Facts in the order in which they were said; retractions and links may come before what they are about.

    Most histories are about a few kinds only, so that there is enough of each for it to matter.
    """
    said = st.tuples(scopes, draw(st.sampled_from(THEMES)), unknown_fields)
    told = [_fact(scope, record | more) for scope, record, more in draw(st.lists(said, min_size=8, max_size=30))]
    records = st.sampled_from([f"record:{fact.id.hex()}" for fact in told])
    inputs = [f"record:{fact.id.hex()}" for fact in told if b'"direction":"input"' in fact.data]
    about = retractions(records) | retractions(st.sampled_from((CROWDED, *EXECUTIONS)))
    about |= links(st.sampled_from(inputs)) if inputs else properties(records)
    told += [_fact(*pair) for pair in draw(st.lists(st.tuples(scopes, about), max_size=8))]
    if draw(st.booleans()):
        # What is redacted may be a retraction or a redaction too.
        records = st.sampled_from([f"record:{fact.id.hex()}" for fact in told])
        told += [_fact(*p) for p in draw(st.lists(st.tuples(scopes, retractions(records, "redacted")), max_size=4))]
        records = st.sampled_from([f"record:{fact.id.hex()}" for fact in told])
        told += [_fact(*p) for p in draw(st.lists(st.tuples(scopes, retractions(records, "redacted")), max_size=1))]
    return draw(st.permutations(told))


def _fact(scope: str, record: dict[str, Any]) -> Fact:
    data = encoding.encode(record)
    model.read(data)  # raises if it isn't valid
    return Fact(scope, hashlib.sha256(data).digest(), data)


# ---- sites -----------------------------------------------------------------------------------------------------


class Site:
    """A store with a key, in memory unless one is given.

    Its clock counts, its nonces are its name and a number: all is repeatable.
    """

    def __init__(self, name: str, store: SqlStore | None = None) -> None:
        self.name = name
        self.key = Key(hashlib.sha256(name.encode()).digest())
        self.store = store or SqlStore(Sqlite(None))
        self.peer = LocalPeer(self.store)
        self._count = itertools.count(1)

    def record(self, *facts: Fact) -> None:
        self.store.add(facts)
        self.store.fold_pending()

    def seal(self) -> int:
        def nonce() -> bytes:
            return hashlib.sha256(f"{self.name}{next(self._count)}".encode()).digest()[:16]

        return self.store.seal(self.key, self.name, now=next(self._count), nonce=nonce)

    def push(self, hub: "Site", view: View | None = None) -> list[Admission]:
        self.seal()
        return accepted(transfer(self.peer, hub.peer, view or View()))

    def pull(self, hub: "Site", *scopes: str) -> list[Admission]:
        return accepted(transfer(hub.peer, self.peer, View(scopes=scopes)))

    def sparsely(self, hub: "Site", *executions: str) -> None:
        """Get the segments that hold everything about some executions, and no others."""
        asked = list(hub.store.index.nodes(executions).values())
        accepted(self.peer.take(hub.store.get(hub.store.about(asked))))


def accepted(admissions: Any) -> list[Admission]:
    """Return what became of each segment, none of which may have been refused."""
    found = list(admissions)
    assert [a.detail for a in found if a.outcome == "refused"] == []
    return found


# ---- what a store says, in the reference's words -----------------------------------------------------------------


def reference(facts: list[Fact]) -> Reference:
    known = [fact for fact in facts if model.read(fact.data) is not None]
    return Reference([(fact.scope, fact.id.hex(), msgspec.json.decode(fact.data)) for fact in known])


def kept(facts: list[Fact]) -> list[Fact]:
    """Return the facts that are not redacted, as the reference sees it."""
    told = Reference([(f.scope, f.id.hex(), msgspec.json.decode(f.data)) for f in facts]).facts
    return [fact for fact in facts if (fact.scope, fact.id.hex()) in told]


def says_the_same(store: SqlStore, expected: Reference) -> None:
    """Compare everything that a store tells with the reference."""
    dump = store.dump()
    registers = {(nodes.node_text(r[0]), r[1], r[2][1:].decode()): msgspec.json.decode(r[5]) for r in dump["register"]}
    assert as_json(registers) == as_json(expected.registers)
    visible = {(e[1][1:].decode(), e[0][1:].hex()) for e in dump["event"] if e[12] == 0}
    assert visible == set(expected.events)
    assert {(ln[3][1:].decode(), ln[4].hex()) for ln in dump["link"] if ln[5] == 0} == set(expected.links)
    assert {nodes.node_text(x[0]) for x in dump["execution"]} == set(expected.executions)
    told = store.index.executions(list(store.index.nodes(list(expected.executions)).values()))
    shown = {
        view.node: {field: getattr(view, field) for field in expected.executions[view.node]} for view in told.values()
    }
    assert as_json(shown) == as_json(expected.executions)
    for direction, edges in (("up", expected.edges), ("down", {edge for edge in expected.edges if edge[2]})):
        assert steps(store, direction) == edges


def as_json(value: dict[Any, Any]) -> dict[Any, str]:
    """Return values as text, in which 1, 1.0 and true are three things."""
    return {key: msgspec.json.encode(item, order="sorted").decode() for key, item in value.items()}


def steps(store: SqlStore, direction: Any, executions: tuple[str, ...] = EXECUTIONS) -> set[tuple[Any, ...]]:
    """Return every step of ancestry from some executions, in words."""
    known = store.index.nodes([*EXECUTIONS, *executions, *("artifact:" + digest for digest in SIZES)])
    names = {node: text.removeprefix("artifact:") for text, node in known.items()} | {None: None}
    asked = [known[node] for node in executions if node in known]
    found: list[Edge] = store.index.edges(asked, direction)
    assert len(found) == len(set(found))
    return {(names[edge.consumer], names[edge.artifact], names[edge.producer], edge.how) for edge in found}
