"""What the contract suites run against: one PostgreSQL for all, with a schema a test."""

from collections.abc import Iterator

import pytest

from cmf.store.postgres import Postgres
from tests import databases


@pytest.fixture
def postgres(database: str) -> Iterator[Postgres]:
    dialect = Postgres(database, within=databases.fresh())
    yield dialect
    dialect.close()
