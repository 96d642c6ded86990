"""Many sites that push to one hub for a minute: segments a second, time to the acknowledgement, lag, memory, processor.

The sites are simulated: enrolled and sealed before the clock starts (`benchmarks.sites`), and one loop sends for all of
them, each over a connection of its own that stays open. A push is due at its time whether the hub keeps up or not, and
its time to the acknowledgement counts from then, however late it could be sent: a hub which stalls is seen to stall.

Twice a second the execution that was acknowledged last is asked for until it is shown: that is the lag of what is
folded behind what is acknowledged, the question's own way included. At the end all that was acknowledged must be in the
log. The exit status is 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import heapq
import random
import resource
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from benchmarks import processes, spent
from benchmarks.sites import Push, Site, enrol, logged, request
from cmf.model import wire
from cmf.model.exchange import Admission

SEGMENTS_A_SECOND_MIN = 300.0
ACKNOWLEDGED_MS_MAX = 250.0
LAG_MS_MAX = 1000.0
GROWTH_MAX = 0.10
"""Of the hub's memory, between the second sixth of the time and the last."""

PROBE_SECONDS = 0.5
SAMPLE_SECONDS = 2.0
SAMPLES_A_LINE = 5
PATIENCE_SECONDS = 60.0


class Sample(msgspec.Struct, frozen=True):
    """What was spent so far, at a time since the start: processor seconds, MiB."""

    at: float
    hub_s: float
    database_s: float
    own_s: float
    machine_s: float
    hub_mib: float
    database_mib: float


class Seen(msgspec.Struct):
    """What was seen of the hub. ``acknowledged``: (s since the start, s from due to answered); ``lag``: the same."""

    seconds: float
    acknowledged: list[tuple[float, float]] = []
    hashes: list[str] = []
    refused: list[str] = []
    lag: list[tuple[float, float]] = []
    samples: list[Sample] = []
    late: float = 0.0
    lost: int = 0

    def sustained(self) -> float:
        """Return the pushes acknowledged a second while they were sent."""
        return sum(at <= self.seconds for at, _ in self.acknowledged) / self.seconds

    def growth(self) -> float:
        """Return by how much of itself the hub's memory grew after it had warmed up."""
        sixth = self.seconds / 6
        warm = [sample.hub_mib for sample in self.samples if sixth <= sample.at <= 2 * sixth]
        end = [sample.hub_mib for sample in self.samples if sample.at >= 5 * sixth]
        return statistics.mean(end) / statistics.mean(warm) - 1 if warm and end else 0.0

    def missed(self) -> list[str]:
        """Return the goals that were missed, in words."""
        took = percentile([took for _, took in self.acknowledged], 0.99) * 1000
        lag = max((lag for _, lag in self.lag), default=0.0) * 1000
        checked = (
            (self.sustained() >= SEGMENTS_A_SECOND_MIN, f"{SEGMENTS_A_SECOND_MIN:.0f} segments/s"),
            (took < ACKNOWLEDGED_MS_MAX, f"99 % acknowledged within {ACKNOWLEDGED_MS_MAX:.0f} ms"),
            (lag < LAG_MS_MAX, f"lag below {LAG_MS_MAX:.0f} ms"),
            (self.growth() <= GROWTH_MAX, f"memory grows by at most {GROWTH_MAX:.0%}"),
            (not self.refused, "nothing refused"),
            (not self.lost, "all that was acknowledged is in the log"),
        )
        return [words for is_met, words in checked if not is_met]


def percentile(values: list[float], share: float) -> float:
    """Return the value that this share of the values does not exceed; 0 of none."""
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] if values else 0.0


class _Line:
    """One connection that stays open: what waits to be sent over it, the answer to what was sent."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setblocking(False)
        self.waiting: deque[tuple[float, Push]] = deque()
        self.asked: tuple[float, Push] | None = None
        self._read = b""
        selector.register(self.socket, selectors.EVENT_READ, self)

    def send(self, data: bytes) -> None:
        """Send a request; it is smaller than the system's buffer."""
        if self.socket.send(data) != len(data):
            raise RuntimeError("A request did not fit into the buffer of its socket.")

    def answer(self) -> bytes | None:
        """Return the body of the answer once all of it has come; an answer that is not 200 is an error."""
        received = self.socket.recv(1 << 18)
        if not received:
            raise RuntimeError("The hub closed a connection.")
        self._read += received
        body = _body(self._read)
        if body is not None:
            self._read = b""
        return body


def _body(read: bytes) -> bytes | None:
    end = read.find(b"\r\n\r\n")
    if end < 0:
        return None
    head, at = read[:end].lower(), end + 4
    if b"transfer-encoding: chunked" not in head:
        length = int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        found = read[at:] if len(read) - at >= length else None
    else:
        found = b""
        while True:
            line = read.find(b"\r\n", at)
            if line < 0 or len(read) < line + 2 + (size := int(read[at:line], 16)) + 2:
                return None
            found += read[line + 2 : line + 2 + size]
            at = line + 2 + size + 2
            if not size:
                break
    if found is not None and b" 200 " not in read[:16]:
        raise RuntimeError((head + found).decode("utf-8", "replace"))
    return found


class Drive:
    """Lets every site push at its own times, and looks at the hub meanwhile."""

    def __init__(self, port: int, sites: list[Site], rate: float, seen: Seen, *, hub: int, database: int) -> None:
        self._seen = seen
        self._pids = (hub, database)
        self._selector = selectors.DefaultSelector()
        self._prober = _Line(port, self._selector)
        self._probed: tuple[float, Push] | None = None
        self._probe_next = 0.0
        self._tokens: dict[_Line, str] = {}
        self._due: list[tuple[float, int, _Line, Iterator[Push]]] = []
        self._every = len(sites) / rate
        choose = random.Random(1)  # a rhythm, no secret
        for number, site in enumerate(sites):
            line = _Line(port, self._selector)
            self._tokens[line] = site.token
            self._due.append((choose.random() * self._every, number, line, iter(site.pushes)))
        heapq.heapify(self._due)
        self._running = 0
        self._started = time.monotonic()

    def _now(self) -> float:
        return time.monotonic() - self._started

    def run(self) -> None:
        """Drive for as long as was asked, then wait for what is not answered yet."""
        self._started = time.monotonic()
        self._sample(0.0)
        sample_next = SAMPLE_SECONDS
        while self._due or self._running or self._probed:
            now = self._now()
            if now > self._seen.seconds + PATIENCE_SECONDS:
                raise RuntimeError(f"The hub left {self._running} pushes without an answer.")
            while self._due and self._due[0][0] <= now:
                self._begin(now)
            if sample_next <= now <= self._seen.seconds:
                self._sample(now)
                sample_next += SAMPLE_SECONDS
            until = min(self._due[0][0] if self._due else now + 1, sample_next if now < self._seen.seconds else now + 1)
            for key, _ in self._selector.select(max(0.0, until - self._now())):
                self._heard(key.data)
        self._sample(self._now())
        for line in (self._prober, *self._tokens):
            line.socket.close()

    def _begin(self, now: float) -> None:
        due, number, line, pushes = heapq.heappop(self._due)
        push = next(pushes, None)
        if push is None or due > self._seen.seconds:
            return
        self._running += 1
        line.waiting.append((due, push))
        self._next(line, now)
        heapq.heappush(self._due, (due + self._every, number, line, pushes))

    def _next(self, line: _Line, now: float) -> None:
        if line.asked is None and line.waiting:
            line.asked = line.waiting.popleft()
            line.send(line.asked[1].request)
            self._seen.late = max(self._seen.late, now - line.asked[0])

    def _heard(self, line: _Line) -> None:
        body = line.answer()
        if body is None:
            return
        now = self._now()
        if line is self._prober:
            self._shown(now, body)
            return
        assert line.asked is not None
        (due, push), line.asked = line.asked, None
        self._running -= 1
        self._seen.acknowledged.append((now, now - due))
        for tag, data in wire.frames(body):
            if tag == wire.ADMISSION:
                said = wire.decode(data, Admission)
                if said.outcome == "refused":
                    self._seen.refused.append(said.detail)
                else:
                    self._seen.hashes.append(said.hash)
        self._next(line, now)
        if self._probed is None and now >= self._probe_next:
            self._probed = (now, push)
            self._probe_next = now + PROBE_SECONDS
            body = msgspec.json.encode({"executions": [push.node]})
            self._question = request("POST", "/v1/query", self._tokens[line], body, "application/json")
            self._prober.send(self._question)

    def _shown(self, now: float, body: bytes) -> None:
        assert self._probed is not None
        since, push = self._probed
        found = msgspec.json.decode(body).get("executions", [])
        if any(one["node"] == push.node and one["status"] == "finished" for one in found):
            self._seen.lag.append((now, now - since))
            self._probed = None
        elif now - since > PATIENCE_SECONDS:
            raise RuntimeError("The hub does not show what it acknowledged.")
        else:
            self._prober.send(self._question)

    def _sample(self, now: float) -> None:
        hub, database = (spent.family(pid) if pid else [] for pid in self._pids)
        own = resource.getrusage(resource.RUSAGE_SELF)
        self._seen.samples.append(
            Sample(
                at=now,
                hub_s=spent.processor_seconds(hub),
                database_s=spent.processor_seconds(database),
                own_s=own.ru_utime + own.ru_stime,
                machine_s=spent.machine_seconds(),
                hub_mib=spent.mebibytes(hub),
                database_mib=spent.mebibytes(database),
            )
        )


def measure(folder: Path, database: str, server: int, asked: argparse.Namespace) -> Seen:
    """Run a hub in a folder, over a database whose server's process is given, and drive it."""
    seen = Seen(seconds=asked.seconds)
    made = enrol(folder / "hub", database, asked.sites, int(asked.rate / asked.sites * asked.seconds) + 2)
    options = ["--database", database] if database else []
    options += ["--workers", str(asked.workers)] if asked.workers > 1 else []
    hub = subprocess.Popen(
        [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(folder / "hub"), "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
        env=processes.environment(folder),
    )
    try:
        assert hub.stdout is not None
        port = int(hub.stdout.readline().split()[3].rpartition(":")[2])
        Drive(port, made, asked.rate, seen, hub=hub.pid, database=server).run()
    finally:
        hub.terminate()
        hub.wait(30)
    seen.lost = len(set(seen.hashes) - logged(folder / "hub", database))
    return seen


def report(seen: Seen) -> Iterator[str]:
    """Say what was seen, a line for each ten seconds first."""
    yield "     s  pushes/s  median ms   99 % ms  lag ms  hub MiB  database MiB  hub cores  database cores  own cores"
    for first, last in pairwise([*seen.samples[:-1:SAMPLES_A_LINE], seen.samples[-1]]):
        span = last.at - first.at
        took = [took * 1000 for at, took in seen.acknowledged if first.at < at <= last.at]
        lag = max((lag * 1000 for at, lag in seen.lag if first.at < at <= last.at), default=0.0)
        yield (
            f"{last.at:6.0f}  {len(took) / span:8.0f}  {percentile(took, 0.5):9.1f}  {percentile(took, 0.99):8.1f}  "
            f"{lag:6.0f}  {last.hub_mib:7.1f}  {last.database_mib:12.1f}  {(last.hub_s - first.hub_s) / span:9.2f}  "
            f"{(last.database_s - first.database_s) / span:14.2f}  {(last.own_s - first.own_s) / span:9.2f}"
        )
    took = [took * 1000 for _, took in seen.acknowledged]
    yield (
        f"{len(took)} pushes, {seen.sustained():.0f} a second, {len(seen.refused)} refused, {seen.lost} lost; sent "
        f"late by at most {seen.late * 1000:.0f} ms"
    )
    yield (
        f"acknowledged after: median {percentile(took, 0.5):.1f} ms, 99 % {percentile(took, 0.99):.1f} ms, "
        f"most {max(took, default=0):.1f} ms; lag at most {max((lag for _, lag in seen.lag), default=0) * 1000:.0f} ms"
    )
    first, last = seen.samples[0], seen.samples[-1]
    each = 1000 / max(1, len(took))
    hub, database, own = last.hub_s - first.hub_s, last.database_s - first.database_s, last.own_s - first.own_s
    others = (last.machine_s - first.machine_s - hub - database - own) / (last.at - first.at)
    yield (
        f"processor ms a push: hub {each * hub:.2f}, database {each * database:.2f}, own {each * own:.2f}, "
        f"together {each * (hub + database + own):.2f}; others used {others:.2f} cores"
    )
    yield f"memory of the hub grew by {seen.growth():.1%} after it had warmed up"
    yield from (f"refused: {said}" for said in sorted(set(seen.refused))[:5])


def main(words: list[str]) -> int:
    """Drive a hub over SQLite, or over a PostgreSQL started for it; return 1 if it misses a goal."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--sites", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=330.0, help="segments a second that all sites send together")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="postgres")
    asked = parser.parse_args(words)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cmf-load-")))
        url, server = "", 0
        if asked.database == "postgres":
            from tests import databases

            running = stack.enter_context(databases.server())
            url, server = running.url, running.pid
        seen = measure(folder, url, server, asked)
    for line in report(seen):
        print(line)
    missed = seen.missed()
    print(f"missed: {'; '.join(missed)}" if missed else "all goals met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
