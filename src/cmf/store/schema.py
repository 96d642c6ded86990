"""The tables, as text. Truth is never dropped; what is derived can be, and is folded again from the truth.

``{blob}`` and ``{real}`` are the dialect's type names; ``{serial}`` is a key that the store itself counts up. Derived
tables name nodes by integers (table ``node``), which never leave the database. ``event``, ``property`` and
``execution`` carry ``hidden``: bit 1, its record is retracted; bit 2, its execution is.
"""

from __future__ import annotations

VERSION = 4
"""The database's format. 2: an execution's parent is a column. 3: the table `whereabouts`. 4: `proof`, `proof_node`."""

DERIVED_VERSION = "5"
"""What `meta` says of the derived tables; those of another version are folded again from the truth."""

_WHEREABOUTS = """CREATE TABLE whereabouts (
        digest {blob} NOT NULL, place TEXT NOT NULL, checked INTEGER NOT NULL, PRIMARY KEY (digest, place)){compact}"""

_PROOFS = (
    # A hub's segment whose place in its log is not proven yet has the position -1.
    """CREATE TABLE proof (
        hub TEXT NOT NULL, hash {blob} NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (hub, hash)){compact}""",
    "CREATE INDEX proof_open ON proof (hub, hash) WHERE position < 0",
    """CREATE TABLE proof_node (
        hub TEXT NOT NULL, level INTEGER NOT NULL, place INTEGER NOT NULL, hash {blob} NOT NULL,
        PRIMARY KEY (hub, level, place)){compact}""",
)

STEPS: dict[int, tuple[str, ...]] = {3: (_WHEREABOUTS,), 4: _PROOFS}
"""What brings the truth of a store of the version before to each version; what is derived is folded anew."""

TRUTH = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL){compact}",
    f"INSERT INTO meta (key, value) VALUES ('derived', '{DERIVED_VERSION}')",
    """CREATE TABLE stream (
        s {serial}, stream {blob} NOT NULL UNIQUE, scope TEXT NOT NULL, site TEXT NOT NULL, writer {blob} NOT NULL,
        own INTEGER NOT NULL)""",
    "CREATE INDEX stream_scope ON stream (scope)",
    """CREATE TABLE segment (
        g {serial}, hash {blob} NOT NULL UNIQUE, s INTEGER NOT NULL, n INTEGER NOT NULL, prev {blob} NOT NULL,
        sparse INTEGER NOT NULL, header {blob} NOT NULL, signature {blob} NOT NULL, body {blob} NOT NULL)""",
    "CREATE INDEX segment_chain ON segment (s, n)",
    "CREATE TABLE head (s INTEGER NOT NULL, n INTEGER NOT NULL, hash {blob} NOT NULL, PRIMARY KEY (s, hash)){compact}",
    """CREATE TABLE pending (
        p {serial}, scope TEXT NOT NULL, id {blob} NOT NULL, data {blob} NOT NULL)""",
    # A record that is committed twice is folded once and sealed once. An index over ids would cost more than the rest
    # of committing; stores from before have one.
    "CREATE INDEX pending_scope ON pending (scope)",
    # The last pending record that is folded. Writers take turns, so that all before it are; a flag in each row would
    # have every row written twice.
    "CREATE TABLE folded (p INTEGER NOT NULL)",
    "INSERT INTO folded (p) VALUES (0)",
    "CREATE TABLE waiting (scope TEXT NOT NULL, id {blob} NOT NULL, PRIMARY KEY (scope, id)){compact}",
    "CREATE TABLE journal (name TEXT PRIMARY KEY, state TEXT NOT NULL){compact}",
    "CREATE TABLE promised (digest TEXT NOT NULL, scope TEXT NOT NULL, PRIMARY KEY (digest, scope)){compact}",
    _WHEREABOUTS,
    *_PROOFS,
)

DERIVED = (
    "CREATE TABLE node (i {serial}, key {blob} NOT NULL UNIQUE)",
    """CREATE TABLE birth (
        e INTEGER NOT NULL, record {blob} NOT NULL, content {blob} NOT NULL, body {blob} NOT NULL,
        hidden INTEGER NOT NULL, PRIMARY KEY (e, record)){compact}""",
    """CREATE TABLE execution (
        e INTEGER PRIMARY KEY, s INTEGER NOT NULL, id TEXT NOT NULL, short TEXT NOT NULL, started INTEGER NOT NULL,
        name TEXT NOT NULL, author TEXT NOT NULL, status TEXT NOT NULL, ended INTEGER, site TEXT NOT NULL,
        record {blob} NOT NULL, conflict INTEGER NOT NULL, parent TEXT NOT NULL, hidden INTEGER NOT NULL)""",
    "CREATE INDEX execution_parent ON execution (parent, started) WHERE parent <> ''",
    "CREATE INDEX execution_time ON execution (started, id)",
    "CREATE INDEX execution_scope ON execution (s, started, id)",
    "CREATE INDEX execution_short ON execution (short)",
    "CREATE INDEX execution_id ON execution (id)",
    "CREATE INDEX execution_name ON execution (name)",
    "CREATE TABLE artifact (a INTEGER NOT NULL, s INTEGER NOT NULL, PRIMARY KEY (a, s)){compact}",
    """CREATE TABLE event (
        v INTEGER NOT NULL, s INTEGER NOT NULL, e INTEGER NOT NULL, direction INTEGER NOT NULL, a INTEGER NOT NULL,
        path TEXT NOT NULL, name TEXT NOT NULL, type TEXT NOT NULL, role TEXT NOT NULL, size INTEGER,
        t INTEGER NOT NULL, more TEXT NOT NULL, hidden INTEGER NOT NULL, PRIMARY KEY (v, s)){compact}""",
    # With what a walk asks of an event, so that it reads the index alone.
    "CREATE INDEX event_execution ON event (e, direction, hidden, a, size)",
    "CREATE INDEX event_artifact ON event (a, direction, hidden, e, size)",
    "CREATE INDEX event_name ON event (name, s, t, direction, hidden) WHERE name <> ''",
    "CREATE INDEX event_path ON event (path, t)",
    """CREATE TABLE link (
        source INTEGER NOT NULL, rel TEXT NOT NULL, target INTEGER NOT NULL, s INTEGER NOT NULL, record {blob} NOT NULL,
        hidden INTEGER NOT NULL, PRIMARY KEY (source, rel, target, s, record)){compact}""",
    "CREATE INDEX link_target ON link (target, rel)",
    """CREATE TABLE property (
        subject INTEGER NOT NULL, key TEXT NOT NULL, s INTEGER NOT NULL, t INTEGER NOT NULL, record {blob} NOT NULL,
        value TEXT NOT NULL, number {real}, text TEXT, hidden INTEGER NOT NULL,
        PRIMARY KEY (subject, key, s, t, record)){compact}""",
    "CREATE INDEX property_redacted ON property (subject) WHERE key = 'redacted'",
    """CREATE TABLE register (
        subject INTEGER NOT NULL, key TEXT NOT NULL, s INTEGER NOT NULL, t INTEGER NOT NULL, record {blob} NOT NULL,
        value TEXT NOT NULL, number {real}, text TEXT, PRIMARY KEY (subject, key, s)){compact}""",
    "CREATE INDEX register_number ON register (key, number, subject) WHERE number IS NOT NULL",
    "CREATE INDEX register_text ON register (key, text, subject) WHERE text IS NOT NULL",
    "CREATE INDEX register_retracted ON register (subject) WHERE key = 'retracted'",
    "CREATE INDEX register_label ON register (key) WHERE key >= 'label/' AND key < 'label0'",
    """CREATE TABLE series (
        e INTEGER NOT NULL, names TEXT NOT NULL, attempt TEXT NOT NULL, rank INTEGER NOT NULL, first INTEGER NOT NULL,
        rows INTEGER NOT NULL, record {blob} NOT NULL, step_first INTEGER NOT NULL, step_last INTEGER NOT NULL,
        time_first INTEGER NOT NULL, time_last INTEGER NOT NULL, object TEXT NOT NULL, size INTEGER NOT NULL,
        stats TEXT NOT NULL, hidden INTEGER NOT NULL,
        PRIMARY KEY (e, record)){compact}""",
    "CREATE TABLE carried (prefix INTEGER NOT NULL, g INTEGER NOT NULL, PRIMARY KEY (prefix, g)){compact}",
    # What sites call themselves, which no stream's header says: several may have one name, and one several.
    "CREATE TABLE called (name TEXT NOT NULL, site TEXT NOT NULL, PRIMARY KEY (name, site)){compact}",
)

DERIVED_TABLES = (
    "node", "birth", "execution", "artifact", "event", "link", "property", "register", "series", "carried",
    "called",
)  # fmt: skip


def steps_from(version: int) -> list[str]:
    """Return the statements that bring the truth of an older store to this version."""
    return [statement for step in range(version + 1, VERSION + 1) for statement in STEPS.get(step, ())]


NODES = {
    "birth": ("e",),
    "execution": ("e", "s"),
    "artifact": ("a", "s"),
    "event": ("v", "s", "e", "a"),
    "link": ("source", "target", "s"),
    "property": ("subject", "s"),
    "register": ("subject", "s"),
    "series": ("e",),
}
"""Which columns of each derived table are nodes: two stores are compared with these written out as keys."""
