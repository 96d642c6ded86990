"""Simulated sites: keys that a hub has enrolled, and pushes that are sealed before a clock starts.

Each push is the whole request as bytes, so that sending it costs whoever measures next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cmf import signing
from cmf.hub.access import Access, console
from cmf.hub.auth import Auth
from cmf.hub.service import open_database
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire

SECRET = b"load" * 8


class Push(msgspec.Struct, frozen=True):
    """One request that pushes one execution, and the node of that execution."""

    request: bytes
    node: str


class Site(msgspec.Struct, frozen=True):
    """One simulated site: its token, and what it will push, in order."""

    token: str
    pushes: list[Push]


def enrol(folder: Path, database: str, sites: int, count: int) -> list[Site]:
    """Make sites with ``count`` pushes each, and enrol them at a hub that does not run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    dialect = open_database(folder, database)
    auth = Auth(dialect)
    now = time.time_ns() // 1000
    access = Access(dialect, lambda: now)
    made = []
    with dialect.write():
        for number in range(1, sites + 1):
            key = signing.Key(number.to_bytes(32, "big"))
            asked = wire.AskInvite(name=f"site{number}", role=wire.Role(f"site{number}", "write"), expires_s=3600)
            token, _ = auth.enrol(access.invite(console(), asked).secret, key.public, "", now=now)
            made.append(Site(token, list(_pushes(number, key, token, count))))
    dialect.close()
    return made


def logged(folder: Path, database: str) -> set[str]:
    """Return the hashes (hex) of all segments in the log of a hub that does not run any more."""
    dialect = open_database(folder, database)
    try:
        return {hash_.hex() for (hash_,) in dialect.fetch("SELECT hash FROM hub_entry")}
    finally:
        dialect.close()


def request(method: str, path: str, token: str, body: bytes, kind: str) -> bytes:
    """Return an HTTP request as bytes."""
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _pushes(number: int, key: signing.Key, token: str, count: int) -> Iterator[Push]:
    """Seal ``count`` segments of one execution each; the first push brings the start of the stream, too."""
    scope = f"site{number}/train"
    start = segments.start(scope, f"site-{number}", key, created=1, nonce=number.to_bytes(16, "big"))
    last = start
    for n in range(count):
        body = []
        for record in _execution(scope, number, n):
            id_, data = model.salted(record, SECRET)
            body.append((id_, data, model.time_of(record)))
        sealed = segments.seal(start.hash, last.hash, n + 1, body, key, now=n + 2)
        sent = [segments.to_wire(start), segments.to_wire(sealed)] if n == 0 else [segments.to_wire(sealed)]
        frames = b"".join(wire.frame(wire.SEGMENT, data) for data in sent)
        node = model.execution_node(scope, _id(number, n))
        yield Push(request("POST", "/v1/push", token, frames, "application/octet-stream"), node)
        last = sealed


def _id(site: int, n: int) -> str:
    return f"0193{site:04x}-{n:04x}-7000-8000-{(site * 65_536 + n):012x}"


def _execution(scope: str, site: int, n: int) -> Iterator[model.Record]:
    """Yield the records of one small execution: two files, three metrics, its status."""
    id_ = _id(site, n)
    node = model.execution_node(scope, id_)
    yield model.Execution(id=id_, name=f"run-{n}", started=1_000_000 + n, params={"lr": 0.1, "site": site})
    for direction, file in (("input", f"in-{site}-{n}"), ("output", f"out-{site}-{n}")):
        digest = digests.file_digest(file.encode())
        yield model.Artifact(digest=digest)
        yield model.Event(
            execution=id_, direction="input" if direction == "input" else "output", artifact=digest, path=file,
            name=file, size=1000, t=2_000_000 + n,
        )  # fmt: skip
    for key, value in (("metric/f1", 0.9), ("metric/loss", 0.1), ("metric/n", n)):
        yield model.Property(subject=node, key=key, value=value, t=3_000_000 + n)
    status = {"status": "finished", "exit": 0, "ended": 4_000_000 + n}
    yield model.Property(subject=node, key="status/1-aaaaaaaa/0", value=status, t=4_000_000 + n)
