from pathlib import Path

import msgspec
import pytest

from cmf.graph import filter as filters
from cmf.graph.index import Index
from cmf.model.exchange import View
from cmf.store.postgres import Postgres
from cmf.store.sql import SqlStore
from cmf.transfer import LocalPeer, transfer
from tests.contract.index_suite import LENGTH, IndexSuite
from tests.histories import Writer, chain, execution_id
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

    def test_a_parent_that_may_not_be_read_has_no_name(self, index: Index) -> None:
        only_below(index)


def only_below(index: Index) -> None:
    """Check that who may read children alone doesn't find out how their parent is called."""
    sweep = execution_id(500)
    for below, text, found in (
        (("sweeps/one",), "parent = run-500", 0),
        (("sweeps/one",), f"parent = {sweep[24:]}", 0),
        (("sweeps/one",), f"parent = {sweep}", 2),
        (("elsewhere", "sweeps"), "parent = run-500", 2),
        (("",), "parent = run-500", 2),
        ((), "parent = run-500", 0),
    ):
        query = msgspec.structs.replace(filters.parse(text), below=below)
        assert len(index.select(query).executions) == found, (below, text)


class TestPostgresIndex(IndexSuite):
    @pytest.fixture
    def pipeline(self) -> str:
        return "first"

    @pytest.fixture
    def index(self, postgres: Postgres) -> Index:
        store = SqlStore(postgres)
        list(transfer(LocalPeer(filled().store), LocalPeer(store), View(own=True)))
        return store.index

    def test_a_parent_that_may_not_be_read_has_no_name(self, index: Index) -> None:
        only_below(index)


class TestHubIndex(IndexSuite):
    @pytest.fixture
    def pipeline(self) -> str:
        return "first"

    @pytest.fixture
    def index(self, hub: HubProcess, tmp_path: Path) -> Index:
        client = hub.client(tmp_path)
        list(transfer(LocalPeer(filled().store), client.peer, View(own=True)))
        return client.index
