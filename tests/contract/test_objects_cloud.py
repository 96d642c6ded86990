import itertools

import pytest

from cmf.objects import ObjectStore
from cmf.objects.cloud import CloudBucket
from cmf.objects.remote import RemoteObjects
from tests import buckets
from tests.contract.objects_suite import ObjectStoreSuite

_numbers = itertools.count()

pytestmark = pytest.mark.xdist_group("s3")


class TestCloudObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, s3: str) -> ObjectStore:
        return RemoteObjects(CloudBucket(f"s3://{buckets.NAME}/case{next(_numbers)}", buckets.options(s3)))
