"""What the contract suites run against: one hub process a module, one PostgreSQL for all, with a schema a test."""

from collections.abc import Iterator

import pytest

from cmf.store.postgres import Postgres
from tests import databases
from tests.hubs import HubProcess, running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state") as process:
        yield process


@pytest.fixture
def postgres(database: str) -> Iterator[Postgres]:
    dialect = Postgres(database, within=databases.fresh())
    yield dialect
    dialect.close()
