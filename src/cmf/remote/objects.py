"""A hub's objects, under one scope."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, cast

import urllib3

from cmf import errors
from cmf.errors import ConflictError, CorruptError, DeniedError, NotFoundError, UnreachableError
from cmf.model import wire
from cmf.objects import CHUNK_BYTES, Digests, Resumed, check_name, unnoticed
from cmf.objects.bucket import RESUMED_BYTES_MIN, length
from cmf.remote.body import Body
from cmf.remote.client import ANSWER_BYTES_MAX, PROBLEM_BYTES_MAX, HubClient, bounded, framed
from cmf.remote.direct import Direct, nearness

PAUSES_SECONDS = (0.5, 1.0, 2.0)
"""After a line to the hub was cut, a large object goes on after so long, if something answers then."""

PART_SECONDS = 120.0
"""So long a hub may wait for a line that was cut without its knowledge, before it says what came over it."""

SLOW_BYTES_PER_SECOND = 16 << 20
SETTLE_SECONDS = 600.0
"""A bucket may take long to copy gigabytes, which is when the hub answers."""

Listing = list[tuple[str, int]]
"""(digest, size) of objects. (Inside an object store, `list` is a method.)"""


class HubObjects:
    """A hub's objects under one scope, or ("") all that may be read: then nothing is written."""

    def __init__(self, client: HubClient, scope: str) -> None:
        self._client = client
        self._scope = scope

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return those that were not yet sent under the scope."""
        asked = [check_name(digest) for digest in digests]
        found: Digests = []
        for at in range(0, len(asked), wire.MISSING_MAX):
            message = wire.Missing(scope=self._scope, digests=asked[at : at + wire.MISSING_MAX])
            found += self._client.ask("POST", "/v1/objects/missing", message, Digests)
        return found

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on."""
        headers = {"range": f"bytes={offset}-"} if offset else {}
        is_direct = not self._client.passes_through
        query = {"scope": self._scope} if self._scope else {}
        query |= {"direct": "true"} if is_direct else {}
        path = f"/v1/objects/{check_name(digest)}" + (f"?{urllib.parse.urlencode(query)}" if query else "")
        stack = contextlib.ExitStack()
        response = stack.enter_context(self._client.request("GET", path, None, headers=headers, goes_on=is_direct))
        if is_direct and response.status == 307:
            with stack:
                url, near = response.headers.get("location", ""), _nearness(response)
            try:
                response = Direct(self._client.url, near).get(url, offset)
            except (UnreachableError, DeniedError) as error:
                self._client.give_up_direct(error.message)
                return self.open(digest, offset)
            stack = contextlib.ExitStack()
        return cast("BinaryIO", io.BufferedReader(_Body(response, stack), CHUNK_BYTES))

    def put(self, digest: str, source: BinaryIO | bytes, *, folder: bool = False, resumed: Resumed = unnoticed) -> int:
        """Send an object under the scope; ``folder``: it is a manifest whose members were sent before."""
        check_name(digest)
        size = length(source)
        if isinstance(source, bytes) or size < RESUMED_BYTES_MIN:
            return self._put_from(digest, source, 0, size, folder=folder)
        start, most = source.tell(), 0
        pauses, is_cut = iter(PAUSES_SECONDS), False
        while True:
            try:
                if is_cut and not self.absent([digest]):
                    return size  # it was taken, and the answer was lost
                if not folder and (sent := self._put_direct(digest, source, size)) is not None:
                    return sent
                there = self._there(digest, source, size)
                source.seek(start)
                if there > most:
                    most, pauses = there, iter(PAUSES_SECONDS)
                    resumed(there)
                return self._put_from(digest, source, there, size, folder=folder)
            except (ConflictError, UnreachableError) as error:
                pause = next(pauses, None)
                if error.kind not in ("hub", "part") or pause is None:
                    raise
            time.sleep(pause)
            source.seek(start)
            is_cut = True

    def _put_from(self, digest: str, source: BinaryIO | bytes, there: int, size: int, *, folder: bool) -> int:
        """Send an object from a byte on."""
        query = {"scope": self._scope, "folder": str(folder).lower()} | ({"from": str(there)} if there else {})
        path = f"/v1/objects/{digest}?{urllib.parse.urlencode(query)}"
        body = Body(source, there)
        octets = {"content-type": "application/octet-stream"}
        if body.is_repeatable:  # so that a hub that has no room for it says so before it comes
            octets["content-length"] = str(size - there)
        try:
            with self._client.request("PUT", path, body, headers=octets, read_s=_patience(size)) as response:
                return wire.decode(bounded(response, PROBLEM_BYTES_MAX), dict[str, int])["size"]
        except UnreachableError as error:
            raise (body.broken or error) from None

    def _there(self, digest: str, source: BinaryIO, size: int) -> int:
        """Return how many of a source's bytes are at the hub, since a sending was cut; 0 if all have to be sent."""
        path = f"/v1/objects/{digest}/part?{urllib.parse.urlencode({'scope': self._scope})}"
        try:
            found = self._client.ask("GET", path, None, wire.Part, read_s=_patience(size))
        except NotFoundError:  # an older hub
            return 0
        if not 0 < found.size <= size:
            return 0
        hashed, left = hashlib.sha256(), found.size
        while left and (data := source.read(min(left, CHUNK_BYTES))):
            hashed.update(data)
            left -= len(data)
        return found.size if hashed.hexdigest() == found.sha256 else 0

    def _put_direct(self, digest: str, source: BinaryIO, size: int) -> int | None:
        """Send an object to the hub's bucket, and tell the hub; None, and the source as it was, if that can't be."""
        if self._client.passes_through or not wire.DIRECT_BYTES_MIN <= size <= wire.DIRECT_BYTES_MAX:
            return None
        start = source.tell()
        path = f"/v1/objects/{digest}"
        upload, near = self._lent(f"{path}/upload", wire.AskUpload(scope=self._scope, size=size))
        if not upload.url:
            return None
        try:
            Direct(self._client.url, near).put(upload.url, digest, source, size)
        except (UnreachableError, DeniedError) as error:
            self._client.give_up_direct(error.message)
            source.seek(start)
            return None
        told = wire.Uploaded(scope=self._scope, size=size, ticket=upload.ticket)
        try:
            return self._client.ask("POST", f"{path}/uploaded", told, dict[str, int], read_s=SETTLE_SECONDS)["size"]
        except NotFoundError:  # it took so long that nobody was thought to come back for it
            source.seek(start)
            return None

    def _lent(self, path: str, asked: wire.AskUpload) -> tuple[wire.Upload, int]:
        """Return where the hub would have an object put, and how near the hub is."""
        try:
            with self._client.request("POST", path, wire.encode(asked)) as response:
                near = _nearness(response)
                return wire.decode(bounded(response, PROBLEM_BYTES_MAX), wire.Upload), near
        except NotFoundError:  # an older hub
            return wire.Upload(), 0

    def put_all(self, found: Iterable[wire.Small]) -> Iterator[tuple[wire.Small, errors.CmfError | None]]:
        """Send small objects under the scope, many in a request; say of each, as it is answered, why it was not taken.

        A manifest comes behind the last of its files.
        """
        batch: list[wire.Small] = []
        frames: list[bytes] = []
        size = 0
        for small in found:
            data = wire.frame(wire.OBJECT, wire.from_small(small))
            if batch and (size + len(data) > wire.BULK_BYTES_MAX or len(batch) == wire.BULK_MAX):
                yield from self._put_batch(batch, b"".join(frames))
                batch, frames, size = [], [], 0
            batch.append(small)
            frames.append(data)
            size += len(data)
        if batch:
            yield from self._put_batch(batch, b"".join(frames))

    def _put_batch(
        self, batch: Sequence[wire.Small], body: bytes
    ) -> Iterator[tuple[wire.Small, errors.CmfError | None]]:
        path = "/v1/objects?" + urllib.parse.urlencode({"scope": self._scope})
        octets = {"content-type": "application/octet-stream"}
        with self._client.request("POST", path, body, headers=octets) as response:
            answer = wire.decode(bounded(response, ANSWER_BYTES_MAX), wire.Taken)
        count = answer.count + len(answer.refused)
        if count != len(batch):
            raise UnreachableError(
                f"The hub {self._client.url} answered for {count} of {len(batch)} objects.",
                hint="Run the command again: what it took in stays.",
                kind="hub",
            )
        refused = {
            why.digest: errors.from_http(why.status, why.message, hint=why.hint, kind=why.kind)
            for why in answer.refused
        }
        for small in batch:
            yield small, refused.get(small.digest)

    def get_all(self, asked: Iterable[str]) -> Iterator[Sequence[wire.Small]]:
        """Yield objects, a page at a time, in the order asked for; what may not be read is left out.

        Of a large one there are no bytes: `open` has them. They are not verified yet: `put` into a store does it.
        """
        left = [check_name(digest) for digest in asked]
        while left:
            part = left[: wire.MISSING_MAX]
            message = wire.encode(wire.Digests(digests=part, scope=self._scope))
            with self._client.request("POST", "/v1/objects/get", message) as response:
                frames, end = framed(bounded(response, ANSWER_BYTES_MAX), wire.OBJECT)
            found = [wire.to_small(data) for data in frames]
            names = {digest: at for at, digest in enumerate(part)}
            if any(small.digest not in names for small in found) or (end.more and not found):
                raise CorruptError("The hub answered with objects that were not asked for.", kind="wire")
            yield found
            left = left[names[found[-1].digest] + 1 if end.more else len(part) :]

    def list(self) -> Iterator[tuple[str, int]]:
        """Return (digest, size) of every object sent under the scope, sorted by digest."""
        last = ""
        while True:
            query = urllib.parse.urlencode({"scope": self._scope, "after": last})
            page = self._client.ask("GET", f"/v1/objects?{query}", None, Listing)
            yield from page
            if not page:
                return
            last = page[-1][0]

    def remove(self, digests: Iterable[str]) -> int:
        """Take the objects' grants under the scope back; return how many there were."""
        query = urllib.parse.urlencode({"scope": self._scope})
        paths = [f"/v1/objects/{check_name(digest)}?{query}" for digest in digests]
        return sum(self._client.ask("DELETE", path, None, dict[str, int])["removed"] for path in paths)


def _nearness(response: urllib3.BaseHTTPResponse) -> int:
    """Return how near the machine is that answers: as on the internet if its connection is gone."""
    with contextlib.suppress(OSError, AttributeError):
        return nearness(response.connection.sock.getpeername()[0])  # type: ignore[union-attr]  # suppressed, if it has none
    return 0


class _Body(io.RawIOBase):
    """An answer's body as a file, which gives its connection back when it is closed."""

    def __init__(self, response: urllib3.BaseHTTPResponse, stack: contextlib.ExitStack) -> None:
        self._response = response
        self._stack = stack

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._response.read(len(buffer))
        except urllib3.exceptions.HTTPError as error:
            raise UnreachableError(
                "The connection to the hub was cut.", hint="Run the command again.", kind="hub"
            ) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._response.close()
            self._stack.close()
        super().close()


def _patience(size: int) -> float:
    """Return for how long a hub may hash or copy so many bytes before it answers."""
    return PART_SECONDS + size / SLOW_BYTES_PER_SECOND
