import io
import itertools
import os

import pytest

from cmf.errors import CorruptError
from cmf.model.digest import file_digest
from cmf.objects import ObjectStore, cloud, read
from cmf.objects.cloud import CloudBucket
from cmf.objects.remote import RemoteObjects
from tests import azurite
from tests.contract.objects_suite import ObjectStoreSuite

_numbers = itertools.count()

pytestmark = pytest.mark.xdist_group("azure")


class TestAzureObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, azure: str) -> ObjectStore:
        return RemoteObjects(CloudBucket(f"az://{azurite.NAME}/case{next(_numbers)}", azurite.options(azure)))

    def test_a_large_object_goes_in_parts(self, store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cloud, "PART_BYTES", 1 << 20)
        data = os.urandom(5 << 20)
        digest = file_digest(data)
        with pytest.raises(CorruptError):
            store.put(digest, io.BytesIO(data[:-1]))
        assert store.absent([digest]) == [digest]
        for _ in range(2):
            assert store.put(digest, io.BytesIO(data)) == len(data)
        assert read(store, digest) == data
