"""`SqlIndex`: what a store answers. It implements `cmf.graph.index.Index` over the derived tables.

Its nodes are the database's integers: valid for this database only, and never shown to anybody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import msgspec

from cmf.graph import registers, views
from cmf.graph.filter import Query
from cmf.graph.index import Direction, Edge, Node, Target
from cmf.graph.nodes import node_key, node_text, record_key, scope_of
from cmf.model import digest as digests
from cmf.model import encoding
from cmf.model import records as model
from cmf.model.exchange import EVERYTHING, View
from cmf.store import ancestry, names
from cmf.store.dialect import EACH, Connection, Dialect, array, known
from cmf.store.select import PART_ROWS, POSTINGS_MAX, SCAN_ROWS, Place, Selection, from_cursor, to_cursor
from cmf.store.viewing import execution_view, speaks_for, use_view

_json = msgspec.json.Decoder()
_USE = "n.key, v.direction, x.key, v.path, v.name, v.type, v.role, v.size, v.t, v.more, r.key"
_USE_JOINS = "JOIN node n ON n.i = v.a JOIN node x ON x.i = v.e JOIN node r ON r.i = v.v"


class SqlIndex:
    """Questions over the derived tables of one database."""

    def __init__(self, dialect: Dialect) -> None:
        self._sql = dialect

    # ---- names ---------------------------------------------------------------------------------------------------

    def resolve(self, text: str, readable: View = EVERYTHING) -> Target:
        """Return what this text names among what ``readable`` scopes say. See `Index.resolve`."""
        with self._sql.read() as connection:
            return names.resolve(connection, text, readable)

    def nodes(self, texts: Sequence[str]) -> dict[str, Node]:
        """Return this database's integer of each node text that it knows."""
        keys = {text: node_key(text, "") for text in texts}
        with self._sql.read() as connection:
            found = known(connection, list(keys.values()))
        return {text: found[key] for text, key in keys.items() if key in found}

    def texts(self, nodes: Sequence[Node]) -> dict[Node, str]:
        """Return the node text of each of this database's integers."""
        with self._sql.read() as connection:
            return {node: node_text(key) for node, key in _keys(connection, nodes).items()}

    # ---- views ---------------------------------------------------------------------------------------------------

    def executions(self, nodes: Sequence[Node], readable: View = EVERYTHING) -> dict[Node, views.Execution]:
        """Return a view of each execution, made of what ``readable`` scopes say."""
        with self._sql.read() as connection:
            return self._executions(connection, nodes, readable)

    def _executions(self, connection: Connection, nodes: Sequence[Node], readable: View) -> dict[Node, views.Execution]:
        wanted = array(nodes)
        births = {
            e: birth
            for e, *birth in connection.execute(
                f"SELECT x.e, x.conflict, x.hidden, b.body FROM {EACH} j CROSS JOIN execution x ON x.e = j.value "
                "JOIN birth b ON b.e = x.e AND b.record = x.record",
                (wanted,),
            )
        }
        properties: dict[Node, dict[str, tuple[int, str]]] = defaultdict(dict)
        keys = _keys(connection, nodes)
        own = {e: scope_of(key) for e, key in keys.items() if key[:1] == b"e"}
        heard: dict[bytes, str] = {}
        for e, key, scope, value in connection.execute(
            "SELECT r.subject, r.key, w.key, r.value "
            f"FROM {EACH} j CROSS JOIN register r ON r.subject = j.value JOIN node w ON w.i = r.s",
            (wanted,),
        ):
            if (said_by := heard.get(scope)) is None:
                text = scope[1:].decode()
                said_by = heard[scope] = text if readable.covers(text) else ""
            if said_by and e in own and speaks_for(said_by, own[e], key):
                held = properties[e].get(key)
                if held is None or len(said_by) > held[0]:
                    properties[e][key] = (len(said_by), value)
        uses = self._uses(connection, "v.e", wanted)
        return {
            e: execution_view(keys[e], births.get(e), {k: v for k, (_, v) in properties[e].items()}, uses.get(e, []))
            for e in nodes
            if e in own
        }

    def artifacts(self, nodes: Sequence[Node]) -> dict[Node, views.Artifact]:
        """Return a view of each artifact, with all events about it."""
        with self._sql.read() as connection:
            keys = _keys(connection, nodes)
            uses = self._uses(connection, "v.a", array(nodes))
        found: dict[Node, views.Artifact] = {}
        for a in nodes:
            if a in keys and keys[a][:1] in (b"f", b"t"):
                found[a] = views.artifact(digests.unpack(keys[a]), uses.get(a, [])[::-1])
        return found

    def artifact_nodes(self, *, type: str = "", name: str = "", limit: int = 1000) -> list[Node]:
        """Return artifacts by the type and name that events give them, newest first."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT v.a, max(v.t) FROM event v JOIN node n ON n.i = v.a "
                "WHERE v.hidden = 0 AND (? = '' OR v.type = ?) AND (? = '' OR v.name = ?) "
                "GROUP BY v.a, n.key ORDER BY 2 DESC, n.key LIMIT ?",
                (type, type, name, name, limit),
            ).fetchall()
        return [a for a, _ in rows]

    def named(self, start: str, limit: int) -> list[tuple[str, str]]:
        """Return (what a person may type, what it is) of things whose name or short id begins so, newest first."""
        end = start + "\U0010ffff"
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT name, max(t), 'artifact' FROM event WHERE name <> '' AND name >= ? AND name < ? AND hidden = 0 "
                "GROUP BY name UNION ALL "
                "SELECT name, max(started), 'execution' FROM execution WHERE name <> '' AND name >= ? AND name < ? "
                "AND hidden = 0 GROUP BY name UNION ALL "
                "SELECT substr(short, 1, 7), max(started), 'execution' FROM execution WHERE short >= ? AND short < ? "
                "AND hidden = 0 GROUP BY 1 ORDER BY 2 DESC LIMIT ?",
                (start, end, start, end, start, end, limit),
            ).fetchall()
        return [(text, what) for text, _, what in rows]

    def artifacts_by_scope(self, scopes: Sequence[str]) -> dict[str, list[str]]:
        """Return the digests of the artifacts that events of each scope name."""
        with self._sql.read() as connection:
            rows = connection.execute(
                f"SELECT DISTINCT w.key, n.key FROM {EACH} j CROSS JOIN event v ON v.s = j.value "
                "JOIN node w ON w.i = v.s JOIN node n ON n.i = v.a ORDER BY 1, 2",
                (_scopes(connection, scopes),),
            ).fetchall()
        found: dict[str, list[str]] = defaultdict(list)
        for scope, artifact in rows:
            found[scope[1:].decode()].append(digests.unpack(artifact))
        return found

    def artifact_digests(self) -> list[str]:
        """Return the digests of every artifact that an event names, a retracted one included."""
        with self._sql.read() as connection:
            rows = connection.execute("SELECT DISTINCT n.key FROM event v JOIN node n ON n.i = v.a ORDER BY 1")
            return [digests.unpack(key) for (key,) in rows]

    def artifact_names(self) -> list[tuple[str, str, str]]:
        """Return (digest, name, type) of every artifact that an event names, for each of its names; its newest type."""
        with self._sql.read() as connection:
            rows = connection.execute(
                "SELECT n.key, v.name, v.type FROM event v JOIN node n ON n.i = v.a ORDER BY v.t DESC, n.key"
            ).fetchall()
        types: dict[bytes, str] = {}
        for key, _, type_ in rows:
            types[key] = types.get(key) or type_
        found = dict.fromkeys((key, name) for key, name, _ in rows)
        return [(digests.unpack(key), name, types[key]) for key, name in found]

    def every_series_object(self) -> list[str]:
        """Return every object that holds step metrics, superseded and retracted ones included."""
        with self._sql.read() as connection:
            return [digest for (digest,) in connection.execute("SELECT DISTINCT object FROM series ORDER BY 1")]

    def large_artifacts(self, scopes: Sequence[str]) -> tuple[int, int]:
        """Return how many artifacts of these scopes are too large to be sent along with records, and their bytes."""
        with self._sql.read() as connection:
            count, size = connection.execute(
                "SELECT count(*), coalesce(sum(size), 0) FROM (SELECT v.a, max(v.size) AS size "
                f"FROM {EACH} j CROSS JOIN event v ON v.s = j.value WHERE v.size > ? GROUP BY v.a) AS large",
                (_scopes(connection, scopes), model.SENT_BYTES_MAX),
            ).fetchone()
        return int(count), int(size)

    def references(self) -> list[views.Use]:
        """Return the events about bytes that were left where they are (`policy` is `reference`), in order of time."""
        with self._sql.read() as connection:
            rows = connection.execute(
                f"SELECT {_USE} FROM event v {_USE_JOINS} WHERE v.hidden = 0 AND v.more <> '' ORDER BY v.t, r.key"
            ).fetchall()
        found = [use_view(row) for row in rows if '"policy":"reference"' in row[9]]
        return [use for use in found if use.attributes.get("policy") == "reference"]

    def referred(self) -> list[str]:
        """Return the nodes of executions that are named here and are not here: parents, and where a ``via`` leads."""
        with self._sql.read() as connection:
            made = connection.execute(
                "SELECT DISTINCT n.key FROM link l JOIN node n ON n.i = l.target "
                "LEFT JOIN execution x ON x.e = l.target "
                "WHERE l.rel = 'via' AND l.hidden = 0 AND x.e IS NULL"
            ).fetchall()
            born = connection.execute(
                "SELECT b.body FROM execution x JOIN birth b ON b.e = x.e AND b.record = x.record "
                "LEFT JOIN execution p ON p.id = x.parent WHERE x.parent <> '' AND x.hidden = 0 AND p.e IS NULL"
            ).fetchall()
        found = {node_text(key) for (key,) in made if key[:1] == b"e"}
        records = (model.trusted(body) for (body,) in born)
        return sorted(found | {record.parent for record in records if isinstance(record, model.Execution)})

    def _uses(self, connection: Connection, column: str, wanted: array) -> dict[Node, list[views.Use]]:
        """Return the events of executions (``v.e``) or about artifacts (``v.a``), equal ones once, in order of time."""
        found: dict[Node, list[views.Use]] = defaultdict(list)
        seen = set()
        for row in connection.execute(
            f"SELECT {_USE}, {column} FROM {EACH} j CROSS JOIN event v ON {column} = j.value {_USE_JOINS} "
            "WHERE v.hidden = 0 ORDER BY v.t, r.key",
            (wanted,),
        ):
            same = row[:8] + row[9::2]  # all but the time and the event's own id
            if same not in seen:
                seen.add(same)
                found[row[-1]].append(use_view(row[:-1]))
        return found

    # ---- lists ---------------------------------------------------------------------------------------------------

    def select(self, query: Query) -> views.Page:
        """Return a page of executions, newest first."""
        with self._sql.read() as connection:
            chosen, following, complete = self._chosen(connection, query)
            found = self._executions(connection, chosen, View(below=query.below))
        return views.Page(executions=tuple(found[e] for e in chosen), cursor=following, complete=complete)

    def chosen(self, query: Query) -> tuple[list[Node], str]:
        """Return what `select` would make views of, and its cursor."""
        with self._sql.read() as connection:
            return self._chosen(connection, query)[:2]

    def _chosen(self, connection: Connection, query: Query) -> tuple[list[Node], str, bool]:
        """Return a page's executions, where the next begins, and whether this one is complete."""
        selection = Selection(query)
        chosen: list[Node] = []
        last: Place | None = None
        for e, place in self._candidates(connection, selection, from_cursor(query.cursor)):
            if e is None:  # the scan's budget is spent
                return chosen, to_cursor(place), False
            if selection.needs_scopes and not selection.accepts(place.scope):
                continue
            if len(chosen) == query.limit:
                assert last is not None
                return chosen, to_cursor(last), True
            chosen.append(e)
            last = place
        return chosen, "", True

    def _candidates(
        self, connection: Connection, selection: Selection, after: Place | None
    ) -> Iterator[tuple[Node | None, Place]]:
        """Yield executions, newest first, each with its place in that order; None where the budget ended."""
        postings = self._postings(connection, selection)
        fence = None
        if postings is None and selection.can_refuse:
            at = after or Place(2**62, "", "")
            fence = connection.execute(
                "SELECT started, id FROM execution WHERE (started, id) < (?, ?) "
                "ORDER BY started DESC, id DESC LIMIT 1 OFFSET ?",
                (at.started, at.id, SCAN_ROWS),
            ).fetchone()
        rows = selection.query.limit + 1
        while True:
            # By parts: some drivers read all that is asked for before they give the first row.
            sql, arguments = selection.sql(among=postings, after=after, until=fence, limit=rows)
            found = connection.execute(sql, arguments).fetchall()
            for e, started, id_, scope in found:
                after = Place(started, id_, scope[1:].decode())
                yield e, after
            if len(found) < rows:
                break
            rows = min(4 * rows, PART_ROWS)
        if fence is not None:
            yield None, Place(fence[0], fence[1], "")

    def _postings(self, connection: Connection, selection: Selection) -> list[int] | None:
        """Return the executions of the most selective condition with postings, or None if each has too many."""
        best: list[int] | None = None
        for condition in selection.posting:
            sql, arguments = selection.posted(condition)
            found = [e for (e,) in connection.execute(sql, arguments)]
            if len(found) <= POSTINGS_MAX and (best is None or len(found) < len(best)):
                best = found
        return best

    # ---- lineage -------------------------------------------------------------------------------------------------

    def edges(self, nodes: Sequence[Node], direction: Direction) -> list[Edge]:
        """Return the steps of ancestry that lead up or down from some executions."""
        with self._sql.read() as connection:
            return (ancestry.up if direction == "up" else ancestry.down)(connection, nodes)

    # ---- series and registers ---------------------------------------------------------------------------------------

    def series(self, execution: str, name: str) -> list[views.ChunkRef]:
        """Return the chunks that count, of every set of names that holds this name."""
        with self._sql.read() as connection:
            e = _node(connection, execution)
            rows = connection.execute(
                "SELECT names, attempt, rank, first, rows, step_first, step_last, time_first, time_last, object, size "
                "FROM series WHERE e = ? AND hidden = 0 ORDER BY attempt, rank, names, first, rows DESC, record",
                (e,),
            ).fetchall()
        found: list[views.ChunkRef] = []
        for listed, attempt, rank, first, count, *rest in rows:
            chunk = views.ChunkRef(
                names=tuple(_json.decode(listed)),
                attempt=attempt,
                rank=rank,
                first=first,
                rows=count,
                steps=(rest[0], rest[1]),
                times=(rest[2], rest[3]),
                object=rest[4],
                size=rest[5],
            )
            last = found[-1] if found else None
            superseded = last is not None and (last.names, last.attempt, last.rank, last.first) == (
                chunk.names,
                attempt,
                rank,
                first,
            )
            if name in chunk.names and not superseded:
                found.append(chunk)
        return sorted(found, key=lambda c: (registers.attempt_order(c.attempt), c.rank, c.names, c.first))

    def series_names(self, execution: str) -> list[str]:
        """Return every name that an execution has step metrics of."""
        with self._sql.read() as connection:
            e = _node(connection, execution)
            rows = connection.execute("SELECT DISTINCT names FROM series WHERE e = ? AND hidden = 0", (e,)).fetchall()
        return sorted({name for (listed,) in rows for name in _json.decode(listed)})

    def series_objects(self, execution: str) -> list[str]:
        """Return the objects that hold an execution's step metrics, superseded chunks included."""
        with self._sql.read() as connection:
            e = _node(connection, execution)
            rows = connection.execute("SELECT DISTINCT object FROM series WHERE e = ? AND hidden = 0 ORDER BY 1", (e,))
            return [object_ for (object_,) in rows]

    def history(self, subject: str) -> list[views.Write]:
        """Return every write to every register of a node, newest first."""
        with self._sql.read() as connection:
            i = _node(connection, subject)
            rows = connection.execute(
                "SELECT w.key, p.key, p.value, p.t, p.record, p.hidden FROM property p JOIN node w ON w.i = p.s "
                "WHERE p.subject = ? ORDER BY p.t DESC, p.record DESC, w.key",
                (i,),
            ).fetchall()
        return [
            views.Write(
                scope=scope[1:].decode(),
                key=key,
                value=_json.decode(value),
                t=t,
                record=record.hex(),
                retracted=bool(hidden),
            )
            for scope, key, value, t, record, hidden in rows
        ]

    def records_about(self, connection: Connection, executions: Sequence[Node]) -> set[tuple[bytes, str]]:
        """Return (id, scope that carries it) of every record about some executions.

        These are their births, properties, series, links and events, the artifacts of these events, what is said of
        all these records and artifacts in the same scopes or above them, and the labels of those scopes.
        """
        own = {e: scope_of(key) for e, key in _keys(connection, executions).items() if key[:1] == b"e"}
        wanted = (array(list(own)),)
        found: set[tuple[bytes, str]] = set()
        for sql in _ABOUT_OWN:
            found.update((record, own[e]) for e, record in connection.execute(sql, wanted))
        found.update(_said(connection, _ABOUT_SAID, wanted))
        subjects = known(connection, [record_key(record) for record, _ in found])
        for key, e in connection.execute(
            f"SELECT DISTINCT n.key, v.e FROM {EACH} j CROSS JOIN event v ON v.e = j.value JOIN node n ON n.i = v.a",
            wanted,
        ).fetchall():
            found.add((digests.sha256(encoding.encode(model.Artifact(digest=digests.unpack(key)))), own[e]))
            subjects |= known(connection, [key])
        subjects |= known(connection, [b"s" + scope.encode() for scope in set(own.values())])
        # What counts is said in the same scope or above it: a retraction there hides the copies below.
        heard = {above for scope in {scope for _, scope in found} for above in _and_above(scope)}
        said = _said(connection, _ABOUT_SUBJECTS, (array(list(subjects.values())),))
        return found | {(record, scope) for record, scope in said if scope in heard}


_ABOUT_OWN = (
    f"SELECT b.e, b.record FROM {EACH} j CROSS JOIN birth b ON b.e = j.value",
    f"SELECT c.e, c.record FROM {EACH} j CROSS JOIN series c ON c.e = j.value",
    f"SELECT v.e, substr(n.key, 2) FROM {EACH} j CROSS JOIN event v ON v.e = j.value JOIN node n ON n.i = v.v",
)
_ABOUT_SAID = (
    f"SELECT p.record, w.key FROM {EACH} j CROSS JOIN property p ON p.subject = j.value JOIN node w ON w.i = p.s",
    f"SELECT l.record, w.key FROM {EACH} j CROSS JOIN link l ON l.source = j.value JOIN node w ON w.i = l.s",
    (
        f"SELECT l.record, w.key FROM {EACH} j CROSS JOIN event v ON v.e = j.value JOIN link l ON l.source = v.v "
        "JOIN node w ON w.i = l.s"
    ),
)
_ABOUT_SUBJECTS = _ABOUT_SAID[:2]


def _and_above(scope: str) -> list[str]:
    parts = scope.split("/")
    return ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _said(connection: Connection, questions: Sequence[str], arguments: tuple[array]) -> set[tuple[bytes, str]]:
    """Return (record id, scope) of what these questions find."""
    return {
        (record, scope[1:].decode())
        for question in questions
        for record, scope in connection.execute(question, arguments)
    }


def _node(connection: Connection, text: str) -> int:
    """Return the integer of a node, or one that nothing has."""
    return next(iter(known(connection, [node_key(text, "")]).values()), -1)


def _scopes(connection: Connection, scopes: Sequence[str]) -> array:
    return array(list(known(connection, [b"s" + scope.encode() for scope in scopes]).values()))


def _keys(connection: Connection, nodes: Sequence[Node]) -> dict[Node, bytes]:
    return dict(
        connection.execute(f"SELECT n.i, n.key FROM {EACH} j CROSS JOIN node n ON n.i = j.value", (array(nodes),))
    )
