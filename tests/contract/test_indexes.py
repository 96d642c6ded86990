from pathlib import Path

import pytest

from cmf.graph.index import Index
from cmf.model.exchange import View
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.transfer import LocalPeer, transfer
from tests.contract.index_suite import LENGTH, IndexSuite
from tests.histories import Writer, chain
from tests.hubs import HubProcess

pytestmark = pytest.mark.xdist_group("postgres")


def filled() -> Writer:
    writer = Writer("indexes", seed=7)
    chain(writer, "first", LENGTH)
    chain(writer, "second", 2)
    sweep = writer.execution("sweeps/all", 500)
    for number in (501, 502):
        writer.execution("sweeps/one", number, parent=sweep)
    writer.seal()
    return writer


class TestSqlIndex(IndexSuite):
    @pytest.fixture
    def pipeline(self) -> str:
        return "first"

    @pytest.fixture
    def index(self) -> Index:
        return filled().store.index


class TestPostgresIndex(IndexSuite):
    @pytest.fixture
    def pipeline(self) -> str:
        return "first"

    @pytest.fixture
    def index(self, postgres: Postgres) -> Index:
        store = SqlStore(postgres)
        list(transfer(LocalPeer(filled().store), LocalPeer(store), View(own=True)))
        return store.index


class TestHubIndex(IndexSuite):
    @pytest.fixture
    def pipeline(self) -> str:
        return "first"

    @pytest.fixture
    def index(self, hub: HubProcess, tmp_path: Path) -> Index:
        client = hub.client(tmp_path)
        list(transfer(LocalPeer(filled().store), client.peer, View(own=True)))
        return client.index
