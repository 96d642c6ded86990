"""A hub that is told to stop while somebody waits for an answer that does not come."""

import sqlite3
import threading
from contextlib import closing
from pathlib import Path

from cmf.errors import UnreachableError
from cmf.model.exchange import View
from cmf.transfer import LocalPeer, transfer
from tests.histories import Writer
from tests.hubs import Raw, joined, running, until


def test_who_waits_in_vain_while_the_hub_ends_is_told_to_come_again(tmp_path: Path) -> None:
    writer = Writer("site", seed=1)
    writer.execution("site/train", 0, writes=("model",))
    writer.seal()
    answers: list[object] = []
    with running(tmp_path / "hub", tmp_path / "state") as hub:
        client = joined(hub, tmp_path, writer, scope="site", role="write")

        def push() -> None:
            try:
                answers.extend(transfer(LocalPeer(writer.store), client.peer, View(own=True)))
            except UnreachableError as error:
                answers.append(error)

        with closing(sqlite3.connect(hub.folder / "hub.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            pushing = threading.Thread(target=push)
            pushing.start()
            until(lambda: b"cmf_hub_requests_running 2.0" in Raw(hub)("GET", "/metrics")[1])  # it, and this one
            hub.process.terminate()
            pushing.join(60)  # before the hub can end: what it does for them holds it up
    assert [(type(answer), getattr(answer, "kind", "")) for answer in answers] == [(UnreachableError, "ending")]
