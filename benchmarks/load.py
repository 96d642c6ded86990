"""Many sites that push to one hub for a minute: segments a second, time to the acknowledgement, lag, memory.

The sites are simulated: their keys are enrolled and their segments sealed before the clock starts, and one process
sends for all of them over connections that stay open, each request a push as `cmf push` makes it. They keep to a rate
whether the hub keeps up or not, so that a hub which stalls is seen to stall.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks import processes
from cmf import signing
from cmf.hub.access import Access, console
from cmf.hub.auth import Auth
from cmf.hub.service import open_database
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model import segment as segments
from cmf.model import wire

SECRET = b"load" * 8
SAMPLE_SECONDS = 0.5
HOUR_US = 3_600 * 10**6


class Site(msgspec.Struct):
    """One simulated site: its token, and the bodies that it will push, in order."""

    token: str
    bodies: list[bytes]


class Seen(msgspec.Struct):
    """What was seen of the hub: seconds until each acknowledgement, refusals, MiB and lag as they were sampled."""

    acknowledged: list[float] = []
    refused: list[str] = []
    mebibytes: list[float] = []
    lag: list[float] = []
    late: float = 0.0


def make_site(number: int, count: int) -> tuple[bytes, list[bytes]]:
    """Seal ``count`` segments of one execution each; return the site's public key and the bodies that push them."""
    key = signing.Key(number.to_bytes(32, "big"))
    scope = f"site{number}/train"
    start = segments.start(scope, f"site-{number}", key, created=1, nonce=number.to_bytes(16, "big"))
    last, bodies = start, []
    for n in range(count):
        body = []
        for record in _execution(scope, number, n):
            id_, data = model.salted(record, SECRET)
            body.append((id_, data, model.time_of(record)))
        sealed = segments.seal(start.hash, last.hash, n + 1, body, key, now=n + 2)
        sent = [segments.to_wire(start), segments.to_wire(sealed)] if n == 0 else [segments.to_wire(sealed)]
        bodies.append(b"".join(wire.frame(wire.SEGMENT, data) for data in sent))
        last = sealed
    return key.public, bodies


def _execution(scope: str, site: int, n: int) -> Iterator[model.Record]:
    """Yield the records of one small execution: two files, three metrics, its status."""
    id_ = f"0193{site:04x}-{n:04x}-7000-8000-{(site * 65_536 + n):012x}"
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


def prepare(folder: Path, database: str, sites: int, count: int) -> list[Site]:
    """Enrol every site at a hub that does not run yet."""
    folder.mkdir(parents=True, exist_ok=True)
    dialect = open_database(folder, database)
    auth = Auth(dialect)
    now = time.time_ns() // 1000
    access = Access(dialect, lambda: now)
    made = []
    with dialect.write():
        for number in range(1, sites + 1):
            key, bodies = make_site(number, count)
            asked = wire.AskInvite(name=f"site{number}", role=wire.Role(f"site{number}", "write"), expires_s=3600)
            token, _ = auth.enrol(access.invite(console(), asked).secret, key, "", now=now)
            made.append(Site(token=token, bodies=bodies))
    dialect.close()
    return made


async def push(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, site: Site, body: bytes) -> list[bytes]:
    """Push a body over an open connection; return the frames of the answer, whole."""
    writer.write(
        f"POST /v1/push HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {site.token}\r\n"
        f"Content-Type: application/octet-stream\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    head = await reader.readuntil(b"\r\n\r\n")
    found = b""
    if b"chunked" in head.lower():
        while size := int(await reader.readline(), 16):
            found += await reader.readexactly(size)
            await reader.readline()
        await reader.readline()
    else:
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        found = await reader.readexactly(int(length.split(b":")[1]))
    if b" 200 " not in head.split(b"\r\n")[0]:
        raise RuntimeError((head + found).decode("utf-8", "replace"))
    return [data for _, data in wire.frames(found)]


async def drive(port: int, sites: list[Site], rate: float, seconds: float, seen: Seen) -> None:
    """Let every site push at its own times, ``rate`` segments a second in all."""
    started = time.monotonic() + 1.0
    choose = random.Random(1)  # a rhythm, no secret

    async def one(site: Site) -> None:
        every = len(sites) / rate
        due = started + choose.random() * every
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for body in site.bodies:
            if due > started + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            sent = time.monotonic()
            seen.late = max(seen.late, sent - due)
            frames = await push(reader, writer, site, body)
            seen.acknowledged.append(time.monotonic() - sent)
            for frame in frames[:-1]:
                if b'"refused"' in frame:
                    seen.refused.append(frame.decode())
            due += every
        writer.close()

    await asyncio.gather(*(one(site) for site in sites))


def _resident(pids: list[int]) -> float:
    """Return the MiB that some processes and their children hold."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                total += int(_resident([int(child)]) * 1024)
    return total / 1024


def measure(database: str, *, sites: int, rate: float, seconds: float, workers: int) -> Seen:
    """Run a hub over a database and drive it."""
    seen = Seen(acknowledged=[], refused=[], mebibytes=[], lag=[])
    with tempfile.TemporaryDirectory(prefix="cmf-load-") as name:
        folder = Path(name)
        made = prepare(folder / "hub", database, sites, int(rate / sites * seconds) + 2)
        options = ["--database", database] if database else []
        options += ["--workers", str(workers)] if workers > 1 else []
        hub = subprocess.Popen(
            [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(folder / "hub"), "--port", "0", *options],
            stdout=subprocess.PIPE,
            text=True,
            env=processes.environment(folder),
        )
        try:
            assert hub.stdout is not None
            port = int(hub.stdout.readline().split()[3].rpartition(":")[2])
            asyncio.run(_watched(port, hub.pid, made, rate, seconds, seen))
        finally:
            hub.terminate()
            hub.wait(30)
    return seen


async def _watched(port: int, pid: int, sites: list[Site], rate: float, seconds: float, seen: Seen) -> None:
    async def watch() -> None:
        while True:
            seen.mebibytes.append(_resident([pid]))
            await asyncio.sleep(SAMPLE_SECONDS)

    watching = asyncio.create_task(watch())
    await drive(port, sites, rate, seconds, seen)
    watching.cancel()


def main(words: list[str]) -> int:
    """Drive a hub over SQLite, or over a PostgreSQL started for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=330.0, help="segments a second that all sites send together")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    asked = parser.parse_args(words)
    with contextlib.ExitStack() as stack:
        url = ""
        if asked.database == "postgres":
            from tests import databases

            url = stack.enter_context(databases.running())
        seen = measure(url, sites=asked.sites, rate=asked.rate, seconds=asked.seconds, workers=asked.workers)
    took = sorted(seen.acknowledged)
    print(f"{len(took)} pushes, {len(took) / asked.seconds:.0f} a second, {len(seen.refused)} refused")
    print(
        f"until acknowledged: median {statistics.median(took) * 1000:.1f} ms, "
        f"99 % {took[int(len(took) * 0.99)] * 1000:.1f} ms, most {took[-1] * 1000:.1f} ms; "
        f"sent late by at most {seen.late * 1000:.0f} ms"
    )
    print(
        f"memory of the hub: {seen.mebibytes[0]:.0f} MiB at first, {seen.mebibytes[-1]:.0f} at the end; "
        f"{os.getloadavg()[0]:.1f} load"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
