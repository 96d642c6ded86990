"""A remote that holds only bytes: a folder, here or on another machine, or a bucket of a cloud."""

from __future__ import annotations

from collections.abc import Mapping

from cmf.errors import UsageError
from cmf.objects import RemoteStore, Watch
from cmf.objects.bucket import RETRY_SECONDS, Bucket
from cmf.objects.folder import FolderBucket
from cmf.objects.remote import RemoteObjects
from cmf.worktree.uri import bare

SSH = "ssh://"
TESTED = {"gs://": "untested with cmf", "az://": "tested with an emulator alone"}
"""Offered since the clouds' client speaks them: how far what is said of them was tried."""

SCHEMES = ("s3://", *TESTED, SSH)


def is_data(url: str) -> bool:
    """Tell whether a remote's URL, or the absolute path of a folder, is of one that holds only bytes."""
    return url.startswith(("/", *SCHEMES))


def check(url: str) -> None:
    """Refuse an address that holds a password, or a user where none belongs; the message repeats neither."""
    if url.startswith(SSH):
        from cmf.objects.ssh.line import Address

        Address.of(url)
    elif url != bare(url):
        raise UsageError(
            f"{bare(url)} was given with a user or a password.", hint="Credentials come from the environment."
        )


class DataRemote:
    """A folder, by its path or by its address for ssh, or a bucket. ``options``: settings of the cloud's client."""

    def __init__(self, url: str, options: Mapping[str, str], *, watch: Watch | None = None) -> None:
        self.url = url
        found = RemoteObjects(bucket(url, options))
        self._objects: RemoteStore = found if watch is None else watch(found, url, "")

    def objects(self, _: str = "") -> RemoteStore:
        """Return its objects: of all scopes, since whoever may read the place may read them."""
        return self._objects


def bucket(url: str, options: Mapping[str, str], *, seconds: float = RETRY_SECONDS) -> Bucket:
    """Return the folder at a path, or the bucket at a URL, as a flat set of files.

    What a cloud fails at is tried again for ``seconds``.
    """
    if url.startswith("/"):
        return FolderBucket(url)
    if url.startswith(SSH):
        from cmf.objects.ssh import SshBucket

        return SshBucket(url)
    from cmf.objects.cloud import CloudBucket

    return CloudBucket(url, options, seconds=seconds)
