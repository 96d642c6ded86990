from pathlib import Path

import pytest

from cmf.objects import ObjectStore
from cmf.objects.folder import FolderBucket
from cmf.objects.remote import RemoteObjects
from tests.contract.objects_suite import ObjectStoreSuite


class TestFolderObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> ObjectStore:
        return RemoteObjects(FolderBucket(str(tmp_path / "remote")))
