"""What was done about access at a hub, by whom and when. Lines are added with the act itself, and never changed."""

from __future__ import annotations

from cmf.model.wire import Act
from cmf.store.dialect import Connection, Dialect

TABLES = (
    """CREATE TABLE IF NOT EXISTS hub_audit (
        n {serial}, at INTEGER NOT NULL, actor TEXT NOT NULL, action TEXT NOT NULL, subject TEXT NOT NULL,
        scope TEXT NOT NULL)""",
)

CONSOLE = "console"
"""The actor of what is done on the hub's machine, beside the hub."""


def note(connection: Connection, act: Act) -> None:
    """Add a line, in the transaction of the act."""
    connection.execute(
        "INSERT INTO hub_audit (at, actor, action, subject, scope) VALUES (?, ?, ?, ?, ?)",
        (act.at_us, act.actor, act.action, act.subject, act.scope),
    )


def newest(dialect: Dialect, before: int, limit: int) -> list[Act]:
    """Return the newest acts, newest first; ``before``: only those with a smaller number (0: all)."""
    with dialect.read() as connection:
        rows = connection.execute(
            "SELECT at, actor, action, subject, scope, n FROM hub_audit WHERE n < ? OR ? = 0 ORDER BY n DESC LIMIT ?",
            (before, before, limit),
        ).fetchall()
    return [Act(at_us=at, actor=actor, action=action, subject=subject, scope=scope, n=n)
            for at, actor, action, subject, scope, n in rows]  # fmt: skip
