import itertools
from pathlib import Path

import pytest

from cmf.objects import ObjectStore
from tests.contract.objects_suite import ObjectStoreSuite
from tests.hubs import HubProcess

_numbers = itertools.count()

pytestmark = pytest.mark.xdist_group("hub-objects")


class TestHubObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, hub: HubProcess, tmp_path: Path) -> ObjectStore:
        return hub.client(tmp_path).objects(f"objects/case{next(_numbers)}")
