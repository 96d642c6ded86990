"""Bytes between a site and the hub's bucket that don't pass through the hub: what it signs, and what it believes.

The bucket has to keep what the hub otherwise checks. An upload's address is bound to the object's hash and size, and
makes a file of a name of its own: so a file of that name *is* those bytes, sent by who had the address. Only then it is
copied to the object's name, and granted. A bucket is believed only after it has refused other bytes once; until then,
and where the hub cannot sign, all passes through the hub.

Knows no role: who asks here has been let in.
"""

from __future__ import annotations

import hmac
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from cmf import signing
from cmf.errors import CmfError, DeniedError, NotFoundError, UsageError
from cmf.hub.objects import BucketObjects, HubObjects
from cmf.model import digest as digests
from cmf.model import wire
from cmf.objects import check_name
from cmf.objects.cloud import CloudBucket
from cmf.objects.presigned import bound, put_headers
from cmf.remote.direct import tried

URL_SECONDS = 300
"""How long an address is good for what begins: a transfer that began goes on to its end."""

TICKET_HOURS = 24
INCOMING = "incoming/"

_TICKET = re.compile(r"([0-9a-f]{8})-[0-9a-f]{32}-[0-9a-f]{64}")


class Direct:
    """What a hub lets go between sites and its bucket. ``secret``: of the key that signs, "" if that isn't known."""

    def __init__(self, folder: Path, objects: HubObjects, secret: str) -> None:
        self._objects = objects if isinstance(objects, BucketObjects) else None
        self._secret = secret
        self._key_file = folder / "keys" / "uploads"
        self._lock = threading.Lock()
        self._believed: bool | None = None
        self._swept = 0

    def address(self, digest: str, size: int) -> str:
        """Return where an object can be got for a while; "" if it should pass through the hub."""
        bucket = self._bucket
        if bucket is None or size < wire.DIRECT_BYTES_MIN or self._objects is None:
            return ""
        name = self._objects.file(digest)
        try:
            return bucket.address(name, URL_SECONDS) if name else ""
        except CmfError:
            return ""  # credentials that cannot sign

    def lend(
        self, caller: str, digest: str, asked: wire.AskUpload, *, lent: Callable[[str], None] = lambda _: None
    ) -> wire.Upload:
        """Return where to put an object, and the ticket to come back with; none if it must pass through the hub.

        ``lent`` is called with the ticket before anybody knows it, and may refuse.
        """
        check_name(digest)
        bucket = self._bucket
        if (
            bucket is None
            or not wire.DIRECT_BYTES_MIN <= asked.size <= wire.DIRECT_BYTES_MAX
            or not self._is_believed()
        ):
            return wire.Upload()
        self._sweep(bucket)
        ticket = self._ticket(f"{_hour():08x}-{os.urandom(16).hex()}", caller, asked.scope, digest, asked.size)
        lent(ticket)
        return wire.Upload(url=self._upload(bucket, INCOMING + ticket, digest, asked.size), ticket=ticket)

    def settle(
        self, caller: str, digest: str, told: wire.Uploaded, *, granted: Callable[[], bool], grant: Callable[[], None]
    ) -> int:
        """Make what was put where a ticket said the object, and return its size; may be repeated.

        ``grant`` is called once the object is there, ``granted`` tells whether that has happened before.
        """
        check_name(digest)
        match = _TICKET.fullmatch(told.ticket)
        wrong = DeniedError("This ticket is not for that.", hint="Ask for a new one.", kind="ticket")
        if match is None or self._bucket is None or self._objects is None:
            raise wrong
        given = told.ticket.rpartition("-")[0]
        if not hmac.compare_digest(told.ticket, self._ticket(given, caller, told.scope, digest, told.size)):
            raise wrong
        name = INCOMING + told.ticket
        size = self._bucket.sizes([name]).get(name)
        if size is None:
            if granted():
                return told.size  # settled before, and the answer was lost
            raise NotFoundError("Nothing was put there.", hint="Run the command again.", kind="ticket")
        if size != told.size:
            raise UsageError(f"What was put there has {size} bytes, not {told.size}.", kind="ticket")
        self._objects.adopt(name, digest, size)
        grant()
        self._bucket.delete([name])
        return size

    @property
    def _bucket(self) -> CloudBucket | None:
        return self._objects.cloud if self._objects is not None else None

    def _ticket(self, given: str, caller: str, scope: str, digest: str, size: int) -> str:
        key = signing.kept_secret(self._key_file)
        return f"{given}-{hmac.digest(key, msgspec.json.encode([given, caller, scope, digest, size]), 'sha256').hex()}"

    def _upload(self, bucket: CloudBucket, name: str, digest: str, size: int) -> str:
        return bound(bucket.address(name, URL_SECONDS, method="PUT"), self._secret, put_headers(digest, size))

    def _is_believed(self) -> bool:
        """Tell whether the bucket refuses other bytes, and a second file of one name; tried once in a process."""
        with self._lock:
            if self._believed is None:
                self._believed = self._try()
            return self._believed

    def _try(self) -> bool:
        bucket = self._bucket
        if bucket is None or not self._secret or not bucket.url.startswith("s3://"):
            return False
        right, wrong = b"right", b"wrong"
        name = f"{INCOMING}{_hour():08x}-{os.urandom(16).hex()}"
        digest = digests.file_digest(right)
        try:
            url = self._upload(bucket, name, digest, len(right))
            statuses = tried(url, digest, [wrong, right, right])
            bucket.delete([name])
        except CmfError:
            return False
        return statuses == [400, 200, 412]

    def _sweep(self, bucket: CloudBucket) -> None:
        """Delete, once an hour, what was put for a ticket that nobody came back with."""
        now = _hour()
        with self._lock:
            if self._swept == now:
                return
            self._swept = now
        old = f"{INCOMING}{now - TICKET_HOURS:08x}"
        bucket.delete(name for name, _ in [*bucket.names(INCOMING)] if name < old)


def _hour() -> int:
    return time.time_ns() // 3_600_000_000_000
