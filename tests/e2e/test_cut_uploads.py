"""A large object on its way to a hub is cut or killed at any byte: it goes on where it was, and nobody else can."""

import contextlib
import fcntl
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmf.errors import ConflictError, CorruptError, UnreachableError
from cmf.hub import serve as serving
from cmf.model import wire
from cmf.model.digest import file_digest
from cmf.objects import read
from cmf.remote import HubClient, objects
from tests import buckets, databases
from tests.histories import Writer
from tests.hubs import HubProcess, running, until
from tests.proxy import Proxy

SCOPE = "lab/large"
SLACK = 1 << 20
SEND = """
import sys
from pathlib import Path
from cmf.remote import HubClient
client = HubClient(sys.argv[1], state_home=Path("/nowhere"), keys=Path(sys.argv[2]))
with open(sys.argv[3], "rb") as source:
    client.objects(sys.argv[5]).put(sys.argv[4], source)
"""


@pytest.fixture
def proxy(hub: HubProcess) -> Iterator[Proxy]:
    with Proxy(16 << 10, target=hub.port) as found:
        yield found


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects, "PAUSES_SECONDS", (0.01, 0.02))


class Large:
    """A large file of one test, and a client that sends it by way of a proxy."""

    def __init__(self, folder: Path, hub: HubProcess, proxy: Proxy, size: int = 10 << 20) -> None:
        self.data = os.urandom(size)
        self.digest = file_digest(self.data)
        self.path = folder / "large"
        self.path.write_bytes(self.data)
        self.hub = hub
        self.keys = folder / "keys"
        self.client = HubClient(proxy.url, state_home=folder / "none", keys=self.keys)
        self.client.keep(hub.token)
        self.before = set(parts_of(hub))

    def send(self, scope: str = SCOPE) -> list[int]:
        """Send it; return where the sending went on."""
        told: list[int] = []
        with self.path.open("rb") as source:
            assert self.client.objects(scope).put(self.digest, source, resumed=told.append) == len(self.data)
        return told

    def process(self, url: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SEND, url, str(self.keys), str(self.path), self.digest, SCOPE]
        return subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def parts(self) -> list[Path]:
        return [path for path in parts_of(self.hub) if path not in self.before]

    def is_left(self) -> bool:
        """Tell whether no request writes to the part any more."""
        for path in self.parts():
            with path.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    return False
        return bool(self.parts())

    def assert_there(self, scope: str = SCOPE) -> None:
        assert read(self.hub.client(self.keys.parent / "other").objects(scope), self.digest) == self.data
        assert self.parts() == []


def parts_of(hub: HubProcess) -> list[Path]:
    return [*(hub.folder / "objects").glob("tmp/*"), *hub.folder.glob("incoming/*")]


@pytest.fixture
def large(tmp_path: Path, hub: HubProcess, proxy: Proxy) -> Large:
    return Large(tmp_path, hub, proxy)


@pytest.mark.parametrize("after", [1, 3 << 20, 4_300_000, 7 << 20, (10 << 20) - 5000])
def test_a_line_that_is_cut_for_a_moment_heals_by_itself(large: Large, proxy: Proxy, after: int) -> None:
    proxy.cut(after)
    told = large.send()
    assert bool(told) == (after > 4 << 20)
    assert proxy.bytes < len(large.data) + (SLACK if told else 4 << 20)
    large.assert_there()


@pytest.mark.parametrize("after", [4_300_000, 5 << 20, 6_543_210, 8 << 20, (10 << 20) + 700])
def test_a_sending_that_was_cut_for_good_goes_on_where_it_was(large: Large, proxy: Proxy, after: int) -> None:
    cut_off(large, proxy, after)
    (there,) = large.send()
    assert there > after - SLACK
    assert proxy.bytes < len(large.data) - there + SLACK
    large.assert_there()


def test_who_comes_back_at_once_finds_what_is_still_on_its_way(large: Large, proxy: Proxy) -> None:
    with large.process(proxy.url) as process:
        proxy.arm(5 << 20, process.kill)
        assert process.wait() < 0
    (there,) = large.send()
    assert there > 4 << 20
    large.assert_there()


@pytest.mark.parametrize("after", [5, 6])
def test_a_sender_that_was_killed_goes_on_where_it_was(large: Large, proxy: Proxy, after: int) -> None:
    with large.process(proxy.url) as process:
        proxy.arm(after << 20, process.kill)
        assert process.wait() < 0
    until(large.is_left)
    proxy.arm(0, None)
    (there,) = large.send()
    assert there > after - 1 << 20
    assert proxy.bytes < len(large.data) - there + SLACK
    large.assert_there()


def test_a_hub_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    hub = HubProcess(tmp_path / "hub", tmp_path / "state")
    proxy = Proxy(16 << 10, target=hub.port)
    large = Large(tmp_path, hub, proxy, 24 << 20)
    come = 0

    def kill() -> None:
        until(lambda: sum(part.stat().st_size for part in large.parts()) > come - SLACK)
        large.hub.kill()

    for after in (12 << 20, 6 << 20):  # the second time while it goes on
        come += after
        proxy.arm(after, kill)
        with pytest.raises(UnreachableError):
            large.send()
        hub = large.hub = HubProcess(tmp_path / "hub", tmp_path / "state", port=hub.port)
        large.client.keep(hub.token)
    proxy.arm(0, None)
    try:
        (there,) = large.send()
        assert there > come - 2 * SLACK
        assert proxy.bytes < len(large.data) - there + SLACK
        large.assert_there()
    finally:
        hub.stop()
        proxy.close()


def cut_off(large: Large, proxy: Proxy, after: int = 6 << 20) -> Path:
    """Have the sending cut for good; return what is at the hub."""
    proxy.die(after)
    with pytest.raises(UnreachableError):
        large.send()
    until(large.is_left)
    proxy.arm(0, None)
    proxy.mend()
    (part,) = large.parts()
    return part


def test_a_part_with_other_bytes_is_not_gone_on_with(large: Large, proxy: Proxy) -> None:
    part = cut_off(large, proxy)
    data = bytearray(part.read_bytes())
    data[1_000_000] ^= 1
    part.write_bytes(data)
    assert large.send() == []
    large.assert_there()


@pytest.mark.parametrize("wrong", [b"", b"of another", bytes(12 << 20)], ids=["empty", "short", "longer"])
def test_a_part_of_another_length_is_not_gone_on_with(large: Large, proxy: Proxy, wrong: bytes) -> None:
    cut_off(large, proxy).write_bytes(wrong)
    assert large.send() == []
    large.assert_there()


def test_what_ends_with_other_bytes_than_it_began_is_refused_and_nothing_stays(large: Large, proxy: Proxy) -> None:
    there = cut_off(large, proxy).stat().st_size
    store = large.hub.client(large.keys).objects(SCOPE)
    with pytest.raises(CorruptError):
        store._put_from(large.digest, io.BytesIO(bytes(len(large.data))), there, len(large.data), folder=False)  # type: ignore[attr-defined]
    assert large.parts() == []
    assert store.absent([large.digest]) == [large.digest]


def joined(hub: HubProcess, folder: Path, name: str, scope: str, seed: int) -> HubClient:
    code = serving.invite(hub.folder, scope=scope, role="write", expires_s=600, name=name)
    client = HubClient(hub.url, state_home=folder / "none", keys=folder / name)
    client.enrol(code, Writer(name, seed=seed).key, name)
    return client


def part_of(client: HubClient, scope: str, digest: str) -> wire.Part:
    return client.ask("GET", f"/v1/objects/{digest}/part?scope={scope}", None, wire.Part)


def test_nobody_goes_on_with_what_another_began_or_under_another_scope(
    large: Large, proxy: Proxy, hub: HubProcess, tmp_path: Path
) -> None:
    there = cut_off(large, proxy).stat().st_size
    assert part_of(large.client, SCOPE, large.digest).size == there
    eve = joined(hub, tmp_path, "eve", "lab", 81)
    for client, scope in ((eve, SCOPE), (eve, "lab/eve"), (large.client, "lab/other")):
        assert part_of(client, scope, large.digest) == wire.Part()
        store = client.objects(scope)
        with pytest.raises(ConflictError):
            store._put_from(large.digest, io.BytesIO(large.data), there, len(large.data), folder=False)  # type: ignore[attr-defined]
        assert store.absent([large.digest]) == [large.digest]
    assert large.send() == [there]


def test_two_that_send_the_same_object_at_once_both_succeed(large: Large) -> None:
    with ThreadPoolExecutor(4) as pool:
        for found in [pool.submit(large.send) for _ in range(4)]:
            found.result()
    large.assert_there()


def test_an_older_hub_is_sent_all(large: Large, proxy: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    cut_off(large, proxy)
    ask = HubClient.ask

    def asked(self: HubClient, method: str, path: str, *rest: object, **named: object) -> object:
        return ask(self, method, path.replace("/part?", "/parts-of-old?"), *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(HubClient, "ask", asked)
    assert large.send() == []
    large.assert_there()


# ---- hubs of other kinds ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def proxied(hub: HubProcess, folder: Path, size: int = 10 << 20) -> Iterator[tuple[Large, Proxy]]:
    with Proxy(16 << 10, target=hub.port) as proxy:
        yield Large(folder, hub, proxy, size), proxy


@pytest.mark.xdist_group("postgres")
def test_all_workers_of_a_hub_go_on_with_what_one_of_them_was_sent(database: str, tmp_path: Path) -> None:
    options = ("--workers", "2")
    with (
        running(tmp_path / "hub", tmp_path / "state", database=databases.another(database), options=options) as hub,
        proxied(hub, tmp_path, 30 << 20) as (large, proxy),
    ):
        whole = 0
        for _ in range(5):
            proxy.die(5_500_000)
            with pytest.raises(UnreachableError):
                large.send()
            whole += proxy.bytes
            until(large.is_left)
            proxy.mend()
        proxy.arm(0, None)
        (there,) = large.send()
        assert there > 24 << 20
        assert whole + proxy.bytes < len(large.data) + 5 * SLACK
        with ThreadPoolExecutor(4) as pool:
            for found in [pool.submit(large.send, "lab/again") for _ in range(4)]:
                found.result()
        large.assert_there("lab/again")


@pytest.mark.xdist_group("s3")
def test_what_passes_through_a_hub_to_its_bucket_goes_on_where_it_was(
    s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in buckets.environment(s3).items():
        monkeypatch.setenv(name, value)
    place = ("--objects", f"s3://{buckets.NAME}/{tmp_path.name}")
    with (
        running(tmp_path / "hub", tmp_path / "state", options=place) as hub,
        proxied(hub, tmp_path) as (large, proxy),
    ):
        large.client.give_up_direct("as one says that cannot reach the bucket")
        part = cut_off(large, proxy)
        assert part.parent == hub.folder / "incoming"
        assert not (hub.folder / "objects").exists()
        (there,) = large.send()
        assert proxy.bytes < len(large.data) - there + SLACK
        large.assert_there()
