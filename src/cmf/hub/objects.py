"""Where a hub's objects live: in its folder, or in a bucket of S3 or another cloud.

In a bucket each object is a file of its own, small ones too: so its workers share nothing but the bucket, and none
needs to know what another has sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from cmf.errors import NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.model.wire import Small
from cmf.objects import SizedStore, check_name, mismatched, read
from cmf.objects.bucket import in_flight
from cmf.objects.draft import Draft
from cmf.objects.local import LocalObjects
from cmf.objects.remote import RemoteObjects
from cmf.worktree.uri import bare

if TYPE_CHECKING:
    from cmf.objects.cloud import CloudBucket

FOLDER = "objects"
SCHEMES = ("s3://", "gs://", "az://")
IN_FLIGHT = 16
"""How many small objects are on their way to or from a bucket at once: each is a request."""

Put = Callable[[str, bytes], object]


class HubObjects(SizedStore, Protocol):
    """An `ObjectStore` as a hub needs it."""

    def together(self) -> contextlib.AbstractContextManager[Put]:
        """Lend what puts small objects, each verified at once as by `put`; all are durable when the block ends."""
        ...

    def settle(self, digest: str, draft: Draft) -> None:
        """Make a draft that is known to have an object's bytes that object; it is durable, and the draft gone, then."""
        ...

    def close(self) -> None:
        """End what it holds open."""
        ...


class FolderObjects(LocalObjects):
    """A hub's objects in its folder."""

    @contextlib.contextmanager
    def together(self) -> Iterator[Put]:
        """Lend what puts objects: see `HubObjects.together`."""
        yield lambda digest, data: self.put(digest, data, durable=False)
        self.flush()


class BucketObjects(RemoteObjects):
    """A hub's objects in a bucket that is its own."""

    def __init__(self, place: CloudBucket) -> None:
        super().__init__(place)
        self.cloud = place
        next(place.names("packs/"), None)  # a bucket that isn't there, or is not ours to read, is told of at the start

    @contextlib.contextmanager
    def together(self) -> Iterator[Put]:
        """Lend what puts objects: see `HubObjects.together`."""
        found: dict[str, bytes] = {}

        def put(digest: str, data: bytes) -> None:
            actual = digests.file_digest(data)
            if actual != check_name(digest):
                raise mismatched(digest, actual)
            found[digest] = data

        yield put
        for _ in in_flight(lambda item: self.put(*item), found.items(), IN_FLIGHT):
            pass

    def smalls(self, digests: Iterable[str], bytes_max: int) -> Iterator[Small]:
        """Yield objects: see `SizedStore.smalls`."""
        for _, found in in_flight(lambda digest: _small(self, digest, bytes_max), digests, IN_FLIGHT):
            if found is not None:
                yield found

    def settle(self, digest: str, draft: Draft) -> None:
        """Send a draft's bytes to the bucket: see `HubObjects.settle`."""
        with draft.reader() as source:
            self.put(digest, source)
        draft.discard()

    def adopt(self, name: str, digest: str, size: int) -> None:
        """Make a file of the bucket, which is known to have an object's bytes, that object; the file stays."""
        self.admit(digest, size, lambda to: self.cloud.copy(name, to))


def _small(objects: BucketObjects, digest: str, bytes_max: int) -> Small | None:
    try:
        large = objects.size(digest) > bytes_max
        return Small(digest, b"" if large else read(objects, digest, bytes_max), large=large)
    except NotFoundError:
        return None


def open_objects(folder: Path, url: str, options: Mapping[str, str]) -> HubObjects:
    """Open a hub's objects: those in the bucket of a URL, else those in its folder.

    ``options``: settings of the cloud's client that are not its own to find.
    """
    if not url:
        return FolderObjects(folder / FOLDER)
    if not url.startswith(SCHEMES) or url != bare(url):
        raise UsageError(
            f"'{bare(url)}' is no place for a hub's objects.",
            hint="Give s3://BUCKET/PREFIX (or gs://, az://) without a password: that comes from the environment.",
        )
    from cmf.objects.cloud import CloudBucket

    return BucketObjects(CloudBucket(url, options))
