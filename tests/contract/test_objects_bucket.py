import itertools

import pytest

from cmf.errors import CorruptError
from cmf.hub.objects import BucketObjects, FolderObjects, HubObjects
from cmf.model.digest import file_digest
from cmf.model.wire import Small
from cmf.objects.cloud import CloudBucket
from tests import buckets
from tests.contract.objects_suite import HELLO, HELLO_DIGEST, LARGE, ObjectStoreSuite

_numbers = itertools.count()

pytestmark = pytest.mark.xdist_group("s3")


def bucket(s3: str) -> BucketObjects:
    return BucketObjects(CloudBucket(f"s3://{buckets.NAME}/hub{next(_numbers)}", buckets.options(s3)))


class TestBucketObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, s3: str) -> HubObjects:
        return bucket(s3)


@pytest.fixture(params=["folder", "bucket"])
def objects(request: pytest.FixtureRequest) -> HubObjects:
    if request.param == "folder":
        return FolderObjects(request.getfixturevalue("tmp_path") / "objects")
    return bucket(request.getfixturevalue("s3"))


def test_objects_that_come_together_are_verified_one_by_one(objects: HubObjects) -> None:
    with objects.together() as put:
        put(HELLO_DIGEST, HELLO)
        with pytest.raises(CorruptError, match=HELLO_DIGEST):
            put(HELLO_DIGEST, HELLO + b"!")
        put(file_digest(b""), b"")
    assert sorted(objects.list()) == sorted([(HELLO_DIGEST, len(HELLO)), (file_digest(b""), 0)])
    assert (objects.size(HELLO_DIGEST), objects.size(file_digest(b""))) == (len(HELLO), 0)


def test_objects_are_read_in_the_order_asked_for_and_large_ones_without_bytes(objects: HubObjects) -> None:
    small = {file_digest(data): data for data in (b"%d" % n for n in range(40))}
    with objects.together() as put:
        for digest, data in small.items():
            put(digest, data)
    large = file_digest(LARGE)
    objects.put(large, LARGE)
    asked = [*list(small)[::-1], large, file_digest(b"not there"), HELLO_DIGEST]
    found = list(objects.smalls(asked, 1000))
    assert found == [*(Small(d, small[d]) for d in list(small)[::-1]), Small(large, b"", large=True)]


def test_what_another_worker_sends_is_seen_at_once(s3: str) -> None:
    url = f"s3://{buckets.NAME}/hub{next(_numbers)}"
    one, other = (BucketObjects(CloudBucket(url, buckets.options(s3))) for _ in range(2))
    assert one.absent([HELLO_DIGEST]) == [HELLO_DIGEST]
    with other.together() as put:
        put(HELLO_DIGEST, HELLO)
    assert one.size(HELLO_DIGEST) == len(HELLO)
    assert [small.data for small in one.smalls([HELLO_DIGEST], 1000)] == [HELLO]
