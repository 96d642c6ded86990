"""Several processes that serve one hub over PostgreSQL: as one to those who ask, and none of them can lose a thing.

The kills are of real processes in the middle of a load: a worker, the database, and the hub itself.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import urllib3

from cmf.errors import UnreachableError
from cmf.model.digest import sha256
from cmf.model.exchange import View
from cmf.remote import HubClient
from cmf.transfer import LocalPeer, transfer
from tests import databases
from tests.histories import Writer
from tests.hubs import HubProcess, joined, running, until

pytestmark = pytest.mark.xdist_group("postgres")
WAIT_SECONDS = 60.0
WORKERS = ("--workers", "2")


@pytest.fixture(scope="module")
def server() -> Iterator[databases.Server]:
    """Run a database that may be killed."""
    with databases.server() as made:
        yield made


@pytest.fixture
def hub(tmp_path: Path, server: databases.Server) -> Iterator[HubProcess]:
    """Run a hub of two workers over a database of its own."""
    database = databases.another(server.url)
    with running(tmp_path / "hub", tmp_path / "state", options=WORKERS, database=database) as process:
        yield process


class Load:
    """Sites that push one segment after the other, and one that follows the log, through whatever happens."""

    def __init__(self, hub: HubProcess, folder: Path, sites: int) -> None:
        self.acknowledged: set[bytes] = set()
        self.followed: list[bytes] = []
        self._over, self._pushed_all = threading.Event(), threading.Event()
        self._failures: list[BaseException] = []
        reader = joined(hub, folder, Writer("reader", seed=99), scope="", role="read")
        start = reader.standing(View(), 0).cursor  # of the log while it is empty
        self._threads = [threading.Thread(target=self._guarded, args=(self._follow, reader, start))]
        for n in range(sites):
            writer = Writer(f"site{n}", seed=n + 1)
            client = joined(hub, folder, writer, scope=writer.name, role="write")
            self._threads.append(threading.Thread(target=self._guarded, args=(self._push, client, writer)))
        for thread in self._threads:
            thread.start()

    def _guarded(self, work: Callable[..., None], *arguments: object) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            self._failures.append(error)
            raise

    def _push(self, client: HubClient, writer: Writer) -> None:
        number = 0
        while not self._over.is_set():
            writer.execution(f"{writer.name}/train", number, writes=(f"{writer.name}-{number}",))
            writer.seal()
            number += 1
            self._tried(lambda: self._pushed(client, writer))

    def _pushed(self, client: HubClient, writer: Writer) -> None:
        for done in transfer(LocalPeer(writer.store), client.peer, View(own=True)):
            if done.outcome == "refused":
                assert done.kind in ("database", "gap"), done  # the database was away, or was when the one before came
                raise UnreachableError(done.detail)
            self.acknowledged.add(bytes.fromhex(done.hash))

    def _follow(self, client: HubClient, cursor: str) -> None:
        at = [cursor]

        def read() -> None:
            for page, behind in client.following(View(), at[0], {}):
                self.followed += [sha256(wire[2 : 2 + int.from_bytes(wire[:2], "little")]) for wire in page]
                at[0] = behind

        while not self._pushed_all.is_set():
            self._tried(read)
        self._tried(read)  # what came after the last one began

    def _tried(self, work: Callable[[], None]) -> None:
        ends = time.monotonic() + WAIT_SECONDS
        while True:
            try:
                work()
                return
            except UnreachableError:
                if time.monotonic() > ends:
                    raise
                threading.Event().wait(0.05)

    def goes_on(self) -> None:
        """Wait until more is acknowledged."""
        enough = len(self.acknowledged) + 12
        until(lambda: bool(self._failures) or len(self.acknowledged) >= enough)
        assert not self._failures

    def end(self) -> None:
        """Let every site finish what it pushes, and the follower read to the end."""
        self._over.set()
        for thread in self._threads[1:]:
            thread.join(WAIT_SECONDS)
        self._pushed_all.set()
        self._threads[0].join(WAIT_SECONDS)
        assert not self._failures
        assert not any(thread.is_alive() for thread in self._threads)


def test_nothing_acknowledged_is_lost_and_no_cursor_skips_it_whatever_is_killed(
    hub: HubProcess, tmp_path: Path, server: databases.Server
) -> None:
    load = Load(hub, tmp_path, 4)
    load.goes_on()
    workers = databases.children(hub.process.pid)
    os.kill(workers[0], signal.SIGKILL)
    load.goes_on()
    until(lambda: len(set(databases.children(hub.process.pid)) - {workers[0]}) == 2)
    server.kill()
    server.start()
    load.goes_on()
    workers = databases.children(hub.process.pid)
    hub.kill()
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    with running(tmp_path / "hub", tmp_path / "state", port=hub.port, options=WORKERS, database=hub.database) as again:
        load.goes_on()
        load.end()
        check_nothing_is_missing(again, load, tmp_path)


def test_who_is_killed_while_it_gives_positions_in_the_log_leaves_no_hole_and_loses_nothing(
    hub: HubProcess, tmp_path: Path, server: databases.Server
) -> None:
    load = Load(hub, tmp_path, 3)
    load.goes_on()
    with psycopg.connect(hub.database) as held:
        held.execute("SELECT size FROM cmf.hub_log FOR UPDATE")  # whoever gives positions next waits for this
        until(lambda: bool(ports_that_wait(server.url)))
        (port,) = ports_that_wait(server.url)
        (sequencer,) = [pid for pid in databases.children(hub.process.pid) if port in ports_of(pid)]
        os.kill(sequencer, signal.SIGKILL)
    load.goes_on()
    load.end()
    check_nothing_is_missing(hub, load, tmp_path)


def check_nothing_is_missing(hub: HubProcess, load: Load, folder: Path) -> None:
    """Check that the log gave each acknowledged segment to who follows it, once, and that all are held."""
    assert len(load.followed) == len(set(load.followed)), "a cursor gives each segment once"
    assert load.acknowledged <= set(load.followed)
    held = joined(hub, folder, Writer("other", seed=98), scope="", role="read").peer.segments(View(), {})
    assert len(list(held)) == len(load.followed)


def ports_that_wait(url: str) -> list[int]:
    """Return the clients' ports of connections that wait to give positions in a hub's log."""
    waits = "SELECT client_port FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'UPDATE hub_log%'"
    with psycopg.connect(url) as connection:
        return [port for (port,) in connection.execute(waits)]


def ports_of(pid: int) -> set[int]:
    """Return the local ports of a process's connections."""
    mine = {os.readlink(link) for link in Path(f"/proc/{pid}/fd").iterdir()}
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return {int(line[1].partition(":")[2], 16) for line in lines if f"socket:[{line[9]}]" in mine}


def test_workers_are_one_hub_to_who_asks_and_end_together(hub: HubProcess) -> None:
    workers = databases.children(hub.process.pid)
    assert len(workers) == 2
    seen: set[str] = set()
    with urllib3.PoolManager(retries=False) as pool:
        for _ in range(20):  # each over a connection of its own: whichever worker takes it
            answer = pool.request("GET", f"{hub.url}/v1/ready", headers={"connection": "close"})
            assert answer.status == 200
        page = pool.request("GET", f"{hub.url}/metrics", headers={"authorization": f"Bearer {hub.token}"}).data
    for line in page.decode().splitlines():
        assert line not in seen or line.startswith("#")
        seen.add(line)
    assert 'cmf_hub_requests_total{method="GET",route="/v1/ready",status="200"} 20.0' in seen
    assert "cmf_hub_requests_running 1.0" in seen
    assert "cmf_hub_log_size 0.0" in seen
    assert hub.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_a_hub_over_sqlite_is_served_by_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cmf", "hub", "serve", "--folder", str(tmp_path / "hub"), "--workers", "2"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "one writer" in ended.stderr
    assert "cmf hub migrate" in ended.stderr
