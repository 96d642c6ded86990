"""A connection that is cut at any byte: the command says so, and run again it is as if it ran once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf import collect, moving, sync
from cmf.errors import UnreachableError
from cmf.model import digest as digests
from cmf.model import records as model
from cmf.model.exchange import View
from cmf.objects.local import LocalObjects
from cmf.remote import HubClient
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from tests.hubs import HubProcess
from tests.proxy import Proxy

CUTS = 30
CLOCK = collect.Clock(wall_us=1_000_000, monotonic_s=1.0)
SIZES = (10, 3_000)


@pytest.fixture
def proxy(hub: HubProcess) -> Iterator[Proxy]:
    with Proxy(target=hub.port) as found:
        yield found


class Lab:
    """A store that pushes and pulls by way of a proxy."""

    def __init__(self, folder: Path, hub: HubProcess, proxy: Proxy) -> None:
        folder.mkdir()
        self.folder = folder
        self.store = SqlStore(Sqlite(folder / "store.db"))
        self.objects = LocalObjects(folder / "objects")
        self.hub = hub
        self.url = proxy.url

    def client(self) -> HubClient:
        found = HubClient(self.url, state_home=self.hub.state_home, keys=self.folder / "keys")
        found._token = self.hub.token  # it is our own hub, seen by way of a proxy
        return found

    def record(self, pipeline: str) -> None:
        secret = collect.site(self.folder).secret
        for number in range(6):
            data = f"{pipeline} {number}".encode() * SIZES[number % 2]
            digest = digests.file_digest(data)
            self.objects.put(digest, data)
            value = {"environment": {"$object": digest}}
            said = model.Property(subject="scope", key=f"tag/{number}", value=value, t=number)
            self.store.add([(f"{pipeline}/stage{number % 2}", *model.salted(said, secret))])

    def push(self) -> moving.Moved:
        return sync.push(self.folder, self.store, self.objects, self.client(), CLOCK)

    def pull(self, pipeline: str) -> moving.Moved:
        return sync.pull(self.store, self.objects, self.client(), views=(View(scopes=(f"{pipeline}/*",)),))


def test_a_push_that_is_cut_at_any_byte_and_run_again_is_as_if_it_ran_once(
    hub: HubProcess, proxy: Proxy, tmp_path: Path
) -> None:
    whole = Lab(tmp_path / "whole", hub, proxy)
    whole.record("whole")
    proxy.arm(0, None)
    moved = whole.push()
    size, cuts = proxy.bytes, 0
    for number in range(CUTS):
        name = f"push{number}"
        lab = Lab(tmp_path / name, hub, proxy)
        lab.record(name)
        proxy.cut(1 + number * size // CUTS)
        try:
            lab.push()
        except UnreachableError:
            cuts += 1
        proxy.arm(0, None)
        lab.push()
        again = lab.push()
        assert (again.segments, again.objects) == (0, 0)
        other = Lab(tmp_path / f"{name}-other", hub, proxy)
        pulled = other.pull(name)
        assert (pulled.segments, pulled.records) == (moved.segments, moved.records)
        assert other.store.dump() == lab.store.dump()
        for scope in (f"{name}/stage0", f"{name}/stage1"):
            assert len(list(lab.client().objects(scope).list())) == 3
    assert cuts > CUTS // 2


def test_a_pull_that_is_cut_at_any_byte_and_run_again_is_as_if_it_ran_once(
    hub: HubProcess, proxy: Proxy, tmp_path: Path
) -> None:
    source = Lab(tmp_path / "source", hub, proxy)
    source.record("source")
    source.push()
    whole = Lab(tmp_path / "whole", hub, proxy)
    proxy.arm(0, None)
    whole.pull("source")
    size, cuts = proxy.bytes, 0
    for number in range(CUTS):
        lab = Lab(tmp_path / f"pull{number}", hub, proxy)
        proxy.cut(1 + number * size // CUTS)
        try:
            lab.pull("source")
        except UnreachableError:
            cuts += 1
        proxy.arm(0, None)
        lab.pull("source")
        assert lab.pull("source").segments == 0
        assert lab.store.dump() == whole.store.dump() == source.store.dump()
    assert cuts > CUTS // 2


def test_a_large_object_whose_pull_was_cut_goes_on_where_it_was(hub: HubProcess, proxy: Proxy, tmp_path: Path) -> None:
    source = Lab(tmp_path / "source", hub, proxy)
    data = bytes(range(256)) * 32_768
    digest = digests.file_digest(data)
    source.client().objects("large/one").put(digest, data)
    other = Lab(tmp_path / "other", hub, proxy)
    moved = moving.Moved(refused=[], scopes=[], warnings=[])
    proxy.cut(6 << 20)
    with pytest.raises(UnreachableError):
        moving.fetch(other.client().objects(""), other.objects, [digest], moved, moving.nothing)
    proxy.arm(0, None)
    moving.fetch(other.client().objects(""), other.objects, [digest], moved, moving.nothing)
    assert moved.objects == 1
    assert proxy.bytes < 4 << 20
    other.objects.check(digest)
