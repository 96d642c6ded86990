"""How often a hub asks its database, where each question is a round trip: what a push costs, counted at the driver."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from cmf.hub.auth import Caller
from cmf.hub.pushing import Push
from cmf.hub.service import Hub
from cmf.model import wire
from cmf.model.exchange import View
from tests import databases
from tests.histories import Writer

pytestmark = pytest.mark.xdist_group("postgres")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """List what the driver sends to the database from now on."""
    found: list[str] = []
    for name in ("execute", "executemany"):
        done = getattr(psycopg.Cursor, name)

        def noted(self: Any, query: Any, *rest: Any, done: Any = done, **options: Any) -> Any:
            found.append(query.decode() if isinstance(query, bytes) else str(query))
            return done(self, query, *rest, **options)

        monkeypatch.setattr(psycopg.Cursor, name, noted)
    return found


def recorded(hub: Hub, writer: Writer, executions: range) -> bytes:
    """Record executions, a segment for each; return the body that pushes what the hub does not hold."""
    for n in executions:
        writer.execution(f"{writer.name}/train", n, reads=(f"in-{n}",), writes=(f"out-{n}",))
        writer.seal()
    held = hub.store.have(writer.store.samples(View()))
    return b"".join(wire.frame(wire.SEGMENT, data) for data in writer.store.segments(View(), held))


def push(hub: Hub, brought: Sequence[tuple[str, bytes]]) -> None:
    """Push (token, body) of each as the requests do that come at once."""
    callers = hub.auth.callers([token for token, _ in brought], now=hub.now())
    pushes = [
        Push(caller, body, wanted=True)
        for caller, (_, body) in zip(callers, brought, strict=True)
        if isinstance(caller, Caller)
    ]
    for answer in hub.pushing.push_all(pushes):
        assert isinstance(answer, bytes)
        *frames, end = (data for _, data in wire.frames(answer))
        assert frames
        assert not any(b'"refused"' in frame for frame in frames)
        assert b'"wanted"' in end


def test_a_push_asks_four_things_beside_its_transaction(tmp_path: Path, database: str, sent: list[str]) -> None:
    hub = Hub(tmp_path, databases.another(database))
    token = hub.auth.local_token(now=hub.now())
    writer = Writer("one")
    push(hub, [(token, recorded(hub, writer, range(2)))])  # which enrols the key
    body = recorded(hub, writer, range(2, 5))
    sent.clear()
    push(hub, [(token, body)])
    hub.close()
    (begun,) = [n for n, statement in enumerate(sent) if statement.startswith("BEGIN")]
    assert [statement.split(" FROM ")[1].split()[0] for statement in sent[:begun]] == ["hub_token", "stream", "hub_key"]
    assert "hub_grant" in sent[-1]
    assert not [word for word in ("hub_token", "hub_key", "hub_grant") if any(word in one for one in sent[begun:-1])]


def test_pushes_that_come_at_once_ask_three_things_and_commit_once(
    tmp_path: Path, database: str, sent: list[str]
) -> None:
    hub = Hub(tmp_path, databases.another(database))
    token = hub.auth.local_token(now=hub.now())
    writers = [Writer(f"site{n}", seed=n + 1) for n in range(5)]
    push(hub, [(token, recorded(hub, writer, range(1))) for writer in writers])
    bodies = [recorded(hub, writer, range(1, 2)) for writer in writers]
    sent.clear()
    push(hub, [(token, body) for body in bodies])
    hub.close()
    (begun,) = [n for n, statement in enumerate(sent) if statement.startswith("BEGIN")]
    assert [statement.split(" FROM ")[1].split()[0] for statement in sent[:begun]] == ["hub_token", "stream", "hub_key"]
    assert [statement for statement in sent[begun:] if "hub_token" in statement or "hub_key" in statement] == []


def test_more_pushes_that_come_at_once_make_no_more_statements(tmp_path: Path, database: str, sent: list[str]) -> None:
    hub = Hub(tmp_path, databases.another(database))
    token = hub.auth.local_token(now=hub.now())
    writers = [Writer(f"site{n}", seed=n + 1) for n in range(6)]
    push(hub, [(token, recorded(hub, writer, range(1))) for writer in writers])
    counts = []
    for at, count in ((1, 2), (2, 6)):
        brought = [(token, recorded(hub, writer, range(at, at + 1))) for writer in writers[:count]]
        sent.clear()
        push(hub, brought)
        counts.append(len([statement for statement in sent if "hub_grant" not in statement]))
    hub.close()
    assert counts[0] == counts[1]
