from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.bundle import Bundle
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.store.sqlite import Sqlite
from cmf.transfer import LocalPeer, Peer
from tests.contract.peer_suite import PeerSuite
from tests.hubs import HubProcess

pytestmark = pytest.mark.xdist_group("postgres")


class TestStoreInMemory(PeerSuite):
    @pytest.fixture
    def peer(self) -> Peer:
        return LocalPeer(SqlStore(Sqlite(None)))


class TestStoreOnDisk(PeerSuite):
    @pytest.fixture
    def peer(self, tmp_path: Path) -> Iterator[Peer]:
        store = SqlStore(Sqlite(tmp_path / "store.db"))
        yield LocalPeer(store)
        store.close()


class TestStoreInPostgres(PeerSuite):
    @pytest.fixture
    def peer(self, postgres: Postgres) -> Peer:
        return LocalPeer(SqlStore(postgres))


class TestBundle(PeerSuite):
    @pytest.fixture
    def peer(self, tmp_path: Path) -> Iterator[Peer]:
        with Bundle.create(tmp_path / "some.bundle") as bundle:
            yield bundle


class TestHub(PeerSuite):
    @pytest.fixture
    def peer(self, hub: HubProcess, tmp_path: Path) -> Peer:
        return hub.client(tmp_path).peer
