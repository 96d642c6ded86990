"""Small true histories to fill stores with: chains of executions that hand files on."""

import uuid
from typing import Literal

from cmf import signing
from cmf.graph.nodes import node_text
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite

SECRET = b"a secret of thirty-two bytes, yes"


def execution_id(number: int) -> str:
    """Return an execution's id that a number makes."""
    return str(uuid.UUID(int=0x7 << 76 | 0x2 << 62 | number))


class Writer:
    """One writer at one site, who records and seals: with a store in memory unless one is given."""

    def __init__(self, name: str, *, seed: int = 1, store: SqlStore | None = None) -> None:
        self.name = name
        self.key = signing.Key(bytes([seed]) * 32)
        self.store = store or SqlStore(Sqlite(None))
        self.secret = SECRET + name.encode()
        self._nonce = 0

    def add(self, scope: str, record: model.Record) -> bytes:
        """Record one thing; return the record's id."""
        id_, data = model.salted(record, self.secret)
        self.store.add([(scope, id_, data)])
        return id_

    def execution(
        self,
        scope: str,
        number: int,
        *,
        reads: tuple[str, ...] = (),
        writes: tuple[str, ...] = (),
        parent: str = "",
    ) -> str:
        """Record a finished execution that reads and writes some files; return its node."""
        id_ = execution_id(number)
        node = model.execution_node(scope, id_)
        params = {"number": number, "lr": 0.1 * number}
        birth = model.Execution(id=id_, name=f"run-{number}", started=1_000 + number, params=params, parent=parent)
        self.add(scope, birth)
        sides: tuple[tuple[Literal["input", "output"], tuple[str, ...]], ...] = (("input", reads), ("output", writes))
        for direction, files in sides:
            for file in files:
                artifact = digests.file_digest(file.encode())
                self.add(scope, model.Artifact(digest=artifact))
                event = model.Event(
                    execution=id_,
                    direction=direction,
                    artifact=artifact,
                    path=file,
                    name=file,
                    size=1000,
                    t=2_000 + number,
                )
                self.add(scope, event)
        status = {"status": "finished", "exit": 0, "ended": 5_000 + number}
        self.add(scope, model.Property(subject=node, key="status/1-aaaaaaaa/0", value=status, t=3_000 + number))
        self.add(scope, model.Property(subject=node, key="metric/f1", value=number / 10, t=3_001 + number))
        return node

    def called(self, node: str, name: str) -> None:
        """Record what the site of an execution's process calls itself."""
        scope = node.split(":")[1]
        process = {"site": {"name": name}}
        self.add(scope, model.Property(subject=node, key="process/1-aaaaaaaa/0", value=process, t=3_000))

    def seal(self) -> int:
        """Fold and seal what is pending; return how many segments that made."""
        self.store.fold_pending()
        return self.store.seal(self.key, f"site-{self.name}", now=9_000, nonce=self.nonce)

    def nonce(self) -> bytes:
        """Return sixteen bytes that no other stream of this writer has."""
        self._nonce += 1
        return self._nonce.to_bytes(16, "big")


def chain(writer: Writer, pipeline: str, length: int) -> list[str]:
    """Record a chain of executions, each reading what the one before wrote; return their nodes."""
    made = [
        writer.execution(f"{pipeline}/stage{n % 3}", n, reads=(f"{pipeline}-{n}",), writes=(f"{pipeline}-{n + 1}",))
        for n in range(length)
    ]
    writer.seal()
    return made


def execution_nodes(store: SqlStore) -> list[str]:
    """Return the nodes of every execution that a store holds, retracted ones too, in order."""
    with store._sql.read() as connection:
        rows = connection.execute("SELECT n.key FROM execution x JOIN node n ON n.i = x.e ORDER BY n.key").fetchall()
    return [node_text(key) for (key,) in rows]
