"""How words find what they name: ids and short ids, digests, names, labels and paths, in the derived tables.

Each finder returns what it knows by that text: nothing, one thing, or several if the text is ambiguous. A name is known
once for each pipeline, as its newest event by (t, record id).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from cmf.errors import NotFoundError, UsageError
from cmf.graph import nodes
from cmf.graph.index import Target
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model.exchange import EVERYTHING, View
from cmf.store.dialect import Connection, known

PREFIX_CHARS_MIN = 4
CANDIDATES_MAX = 20
UNREADABLE_MAX = 100_000
"""How many executions of one name, or that begin with the same digits, are looked through for readable ones."""

_json = msgspec.json.Decoder()


def resolve(connection: Connection, text: str, readable: View = EVERYTHING) -> Target:
    """Return the one thing that a text names. See `cmf.graph.index.Index.resolve`.

    What lies in other scopes than the ``readable`` ones names nothing, and makes nothing ambiguous.
    """
    for finder in _FINDERS:
        found = finder(connection, text, readable)
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(text, found)
    raise NotFoundError(
        f"Nothing here is called '{text[:120]}'.",
        hint="It can be an id or its first digits, a name, NAME@LABEL, PIPELINE:NAME, a path, PIPELINE:PATH or a "
        "digest: 'cmf log' lists what is here, 'cmf pull' brings what others have.",
    )


def pipeline_of(scope_key: bytes) -> str:
    """Return the pipeline of a scope's key."""
    return scope_key[1:].decode().rpartition("/")[0]


def _by_node(connection: Connection, text: str, readable: View) -> list[Target]:
    if not text.startswith(("execution:", "artifact:")) or not model.is_node(text):
        return []
    return _readable(connection, list(known(connection, [nodes.node_key(text, "")])), readable)


def _readable(connection: Connection, keys: Sequence[bytes], readable: View) -> list[Target]:
    """Return those of some nodes that are readable: an artifact is where some event about it is."""
    found = []
    for key in keys:
        if readable.below is not None and key[:1] != b"e":
            scopes = connection.execute(
                "SELECT DISTINCT w.key FROM node n JOIN event v ON v.a = n.i AND v.hidden = 0 JOIN node w ON w.i = v.s "
                "WHERE n.key = ?",
                (key,),
            ).fetchall()
        else:
            scopes = [(b"s" + nodes.scope_of(key).encode(),)] if key[:1] == b"e" else [(b"s",)]
        if any(readable.covers(scope[1:].decode()) for (scope,) in scopes):
            found.append(Target(node=nodes.node_text(key)))
    return found


def _by_digest(connection: Connection, text: str, readable: View) -> list[Target]:
    match = re.fullmatch(r"(tree:)?sha256:([0-9a-f]{4,64})", text)
    if match is None:
        return []
    kind, odd = b"t" if match[1] else b"f", len(match[2]) % 2
    low, high = bytes.fromhex(match[2] + "0" * odd), bytes.fromhex(match[2] + "f" * odd)
    rows = connection.execute(
        "SELECT key FROM node WHERE key >= ? AND key <= ? ORDER BY key LIMIT ?",
        (kind + low, kind + high + b"\xff" * (32 - len(high)), CANDIDATES_MAX),
    ).fetchall()
    return _readable(connection, [key for (key,) in rows], readable)


def _by_label(connection: Connection, text: str, readable: View) -> list[Target]:
    pipeline, _, label = text.rpartition(":")
    if "@" not in label:
        return []
    found: dict[str, Target] = {}
    for value, scope in connection.execute(
        "SELECT r.value, w.key FROM register r JOIN node w ON w.i = r.s WHERE r.key = ? AND r.key >= 'label/' "
        "AND r.key < 'label0' AND r.subject = r.s ORDER BY r.t DESC, r.record DESC",
        (f"label/{label}",),
    ).fetchall():
        labelled, where = _json.decode(value), pipeline_of(scope)
        if where in found or (pipeline and where != pipeline) or not isinstance(labelled, dict):
            continue
        if not readable.covers(scope[1:].decode()):
            continue
        digest, name = labelled.get("artifact"), labelled.get("name", "")
        if isinstance(digest, str) and digests.is_digest(digest) and isinstance(name, str):
            found[where] = _made(connection, digest, name, scope, readable)
    return list(found.values()) if len({target.node for target in found.values()}) > 1 else list(found.values())[:1]


def _made(connection: Connection, digest: str, name: str, scope: bytes, readable: View) -> Target:
    """Return an artifact with the newest execution of the scope's pipeline that made it, under that name preferred."""
    for made_by, by in connection.execute(
        "SELECT x.key, w.key FROM node n JOIN event v ON v.a = n.i AND v.direction = 1 AND v.hidden = 0 "
        "JOIN node x ON x.i = v.e JOIN node w ON w.i = v.s JOIN node r ON r.i = v.v WHERE n.key = ? "
        "ORDER BY v.name = ? DESC, w.key = ? DESC, v.t DESC, r.key DESC",
        (digests.pack(digest), name, scope),
    ).fetchall():
        if pipeline_of(by) == pipeline_of(scope) and readable.covers(by[1:].decode()):
            return Target(node=f"artifact:{digest}", execution=nodes.node_text(made_by), name=name)
    return Target(node=f"artifact:{digest}", name=name)


def _by_name(connection: Connection, text: str, readable: View) -> list[Target]:
    return _named(connection, text, readable, direction=1)


def _by_used_name(connection: Connection, text: str, readable: View) -> list[Target]:
    """Find what only inputs give that name: a slice, or data that nobody here made."""
    return [Target(node=found.node, name=found.name) for found in _named(connection, text, readable, direction=0)]


def _named(connection: Connection, text: str, readable: View, *, direction: int) -> list[Target]:
    pipeline, _, name = text.rpartition(":")
    found = _newest(connection, "name", name, direction, readable) if name else {}
    return [target for where, target in found.items() if not pipeline or where == pipeline]


def _newest(connection: Connection, column: str, value: str, direction: int, readable: View) -> dict[str, Target]:
    """Return of each pipeline what the newest event with this ``name`` or ``path`` is about, and who said it."""
    known_as = f"v.{column} = ? AND v.{column} <> ''"  # as the index spells it
    newest: dict[str, tuple[int, list[int]]] = {}  # of each pipeline: its newest time, and the scopes that have it
    for s, scope, t in connection.execute(
        f"SELECT v.s, w.key, v.t FROM (SELECT v.s, max(v.t) AS t FROM event v WHERE {known_as} AND v.direction = ? "
        "AND v.hidden = 0 GROUP BY v.s) v JOIN node w ON w.i = v.s",
        (value, direction),
    ).fetchall():
        where = pipeline_of(scope)
        if not readable.covers(scope[1:].decode()):
            continue
        if where not in newest or t > newest[where][0]:
            newest[where] = (t, [s])
        elif t == newest[where][0]:
            newest[where][1].append(s)
    found = {}
    for where, (t, scopes) in sorted(newest.items()):
        digest, execution, name = connection.execute(
            "SELECT n.key, x.key, v.name FROM event v JOIN node n ON n.i = v.a JOIN node x ON x.i = v.e "
            f"JOIN node r ON r.i = v.v WHERE {known_as} AND v.s IN ({','.join('?' * len(scopes))}) "
            "AND v.t = ? AND v.direction = ? AND v.hidden = 0 ORDER BY r.key DESC LIMIT 1",
            (value, *scopes, t, direction),
        ).fetchone()
        found[where] = Target(node=nodes.node_text(digest), execution=nodes.node_text(execution), name=name)
    return found


def _by_execution(connection: Connection, text: str, readable: View) -> list[Target]:
    most = CANDIDATES_MAX if readable.below is None else UNREADABLE_MAX
    rows = connection.execute(
        "SELECT n.key FROM execution x JOIN node n ON n.i = x.e WHERE x.name = ? AND x.name <> '' AND x.hidden = 0 "
        "ORDER BY x.started DESC, n.key LIMIT ?",
        (text, most),
    ).fetchall()
    if not rows and len(text) >= PREFIX_CHARS_MIN and re.fullmatch(r"[0-9a-f-]+", text):
        for column in ("short", "id"):  # a retracted execution is found by its id alone, to be taken back
            rows += connection.execute(
                f"SELECT n.key FROM execution x JOIN node n ON n.i = x.e WHERE x.{column} >= ? AND x.{column} < ? "
                "ORDER BY x.started DESC, n.key LIMIT ?",
                (text, text + "g", most),
            ).fetchall()
    return _readable(connection, [key for (key,) in dict.fromkeys(rows)], readable)


def _by_path(connection: Connection, text: str, readable: View) -> list[Target]:
    """Find the newest output with that path in each pipeline, else its newest input."""
    pipeline, _, rest = text.partition(":")
    for path, wanted in ((text, ""), (rest, pipeline)):  # a path may hold a colon, too
        made = _newest(connection, "path", path, 1, readable) if path else {}
        read = _newest(connection, "path", path, 0, readable) if path else {}
        uses = {where: Target(node=target.node, name=target.name) for where, target in read.items()}
        found = [target for where, target in {**uses, **made}.items() if not wanted or where == wanted]
        makers = [target for target in found if target.execution]
        if len({target.node for target in found}) == 1 and len(makers) < 2:
            return makers or found[:1]
        if found:
            return found
    return []


_FINDERS: tuple[Callable[[Connection, str, View], list[Target]], ...] = (
    _by_node,
    _by_digest,
    _by_label,
    _by_name,
    _by_execution,
    _by_path,
    _by_used_name,
)


def _ambiguous(text: str, found: Sequence[Target]) -> UsageError:
    choices = []
    ids = Counter(target.node.rpartition(":")[2] for target in found)
    for target in found[:8]:
        if split := model.split_execution(target.execution):
            pipeline = split[0].rpartition("/")[0] + ":"
            choices.append(pipeline + text.removeprefix(pipeline))
        else:
            id_ = target.node.rpartition(":")[2]
            choices.append(target.node if ids[id_] > 1 else id_)  # two scopes may birth one id
    return UsageError(
        f"'{text[:120]}' can be any of {len(found)} things.", hint=f"Say which: {', '.join(choices)}.", kind="ambiguous"
    )
