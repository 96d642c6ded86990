"""A remote that holds only bytes: a folder, on another disk or shared by machines, or a bucket of a cloud."""

from __future__ import annotations

from collections.abc import Mapping

from cmf.objects import RemoteStore, Watch
from cmf.objects.bucket import Bucket
from cmf.objects.folder import FolderBucket
from cmf.objects.remote import RemoteObjects

SCHEMES = ("s3://", "gs://", "az://")


def is_data(url: str) -> bool:
    """Tell whether a remote's URL, or the absolute path of a folder, is of one that holds only bytes."""
    return url.startswith(("/", *SCHEMES))


class DataRemote:
    """A folder by its path, or a bucket by its URL. ``options``: settings of the cloud's client."""

    def __init__(self, url: str, options: Mapping[str, str], *, watch: Watch | None = None) -> None:
        self.url = url
        found = RemoteObjects(_bucket(url, options))
        self._objects: RemoteStore = found if watch is None else watch(found, url, "")

    def objects(self, _: str = "") -> RemoteStore:
        """Return its objects: of all scopes, since whoever may read the place may read them."""
        return self._objects


def _bucket(url: str, options: Mapping[str, str]) -> Bucket:
    if url.startswith("/"):
        return FolderBucket(url)
    from cmf.objects.cloud import CloudBucket

    return CloudBucket(url, options)
