from pathlib import Path

import pytest

from cmf.objects import ObjectStore
from cmf.objects.local import LocalObjects
from tests.contract.objects_suite import ObjectStoreSuite


class TestLocalObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return LocalObjects(tmp_path / "store" / "objects")
