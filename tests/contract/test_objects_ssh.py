from collections.abc import Iterator
from pathlib import Path

import pytest

from cmf.objects import ObjectStore
from cmf.objects.remote import RemoteObjects
from cmf.objects.ssh import SshBucket
from tests.contract.objects_suite import ObjectStoreSuite
from tests.sshd import Sshd

pytestmark = pytest.mark.xdist_group("sshd")


class TestSshObjects(ObjectStoreSuite):
    @pytest.fixture
    def store(self, sshd: Sshd, home: Path, tmp_path: Path) -> Iterator[ObjectStore]:
        sshd.introduce(home)
        store = RemoteObjects(SshBucket(sshd.url(tmp_path / "remote")))
        yield store
        store.close()
