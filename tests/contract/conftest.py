"""One hub process for the contract suites of a module: each test has a scope of its own in it."""

from collections.abc import Iterator

import pytest

from tests.hubs import HubProcess, running


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    folder = tmp_path_factory.mktemp("hub")
    with running(folder / "hub", folder / "state") as process:
        yield process
