"""How often a hub asks its database, where each question is a round trip: what a push costs, counted at the driver."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

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
        writer.execution("one/train", n, reads=(f"in-{n}",), writes=(f"out-{n}",))
        writer.seal()
    held = hub.store.have(writer.store.samples(View()))
    return b"".join(wire.frame(wire.SEGMENT, data) for data in writer.store.segments(View(), held))


def push(hub: Hub, token: str, body: bytes) -> None:
    """Push a body as a request does."""
    caller = hub.auth.caller(token, now=hub.now())
    *frames, end = hub.push(caller, body, wanted=True)
    assert frames
    assert not any(b'"refused"' in frame for frame in frames)
    assert b'"wanted"' in end


def test_a_push_asks_four_things_beside_its_transaction(tmp_path: Path, database: str, sent: list[str]) -> None:
    hub = Hub(tmp_path, databases.another(database))
    token = hub.auth.local_token(now=hub.now())
    writer = Writer("one")
    push(hub, token, recorded(hub, writer, range(2)))  # which enrols the key
    body = recorded(hub, writer, range(2, 5))
    sent.clear()
    push(hub, token, body)
    hub.close()
    (begun,) = [n for n, statement in enumerate(sent) if statement.startswith("BEGIN")]
    assert [statement.split(" FROM ")[1].split()[0] for statement in sent[:begun]] == ["hub_token", "stream", "hub_key"]
    assert "hub_grant" in sent[-1]
    assert not [word for word in ("hub_token", "hub_key", "hub_grant") if any(word in one for one in sent[begun:-1])]
