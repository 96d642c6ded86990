"""A bucket of a cloud as a place for objects: S3 and what speaks like it, Google's and Azure's.

Signing, retries and multipart uploads are obstore's. A request to S3 carries the hash of its bytes in its signature, so
that the server refuses what was changed on the way. Files are made with `If-None-Match: *`, so none is ever replaced,
but for large ones: those come in parts, and may be replaced by the same bytes.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, BinaryIO, Literal

from cmf.errors import CmfError, DeniedError, NotFoundError, UnreachableError, UnsupportedError
from cmf.model import digest as digests
from cmf.objects import Resumed, mismatched, unnoticed
from cmf.objects.bucket import IN_FLIGHT, RETRY_SECONDS, checked, in_flight, length, reader

if TYPE_CHECKING:
    from obstore import GetResult, ObjectMeta
    from obstore.store import ObjectStore

PART_BYTES = 16 << 20
"""What is larger is sent in parts of this size, a few at once. S3 takes 10,000 of them."""

PARTS_MAX = 9_000
HEADS_MAX = 256
"""About more files than this one doesn't ask one by one, but has them listed."""

RETRIES = 5
REQUEST_SECONDS = 120.0
"""How long one request may take with its body: at most 16 MiB, and a few are on their way over one line."""

COPY_SECONDS = 600.0
SENT_MAX = 3
"""A file that was cut on its way is sent this often, if its source can be read again."""

SCHEMES = ("s3", "gs", "az")


class CloudBucket:
    """A `Bucket` in a bucket, or below a prefix of one. ``options``: settings of obstore over those it finds itself.

    What fails is tried again for ``seconds``.
    """

    def __init__(self, url: str, options: Mapping[str, str], *, seconds: float = RETRY_SECONDS) -> None:
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise UnsupportedError(
                f"{url} needs the package obstore.",
                hint="pip install 'common-metadata-framework[cloud]'",
                kind="missing-extra",
            ) from error
        self.url = url
        self._seconds = seconds
        self._from_url = from_url
        # An endpoint that is not the cloud's own is one of S3, as AWS_ENDPOINT_URL is.
        self._options = {name: value for name, value in options.items() if name != "endpoint" or url.startswith("s3:")}
        self._store = self._opened(REQUEST_SECONDS)

    def _opened(self, request_s: float) -> ObjectStore:
        with self._guard():
            return self._from_url(  # type: ignore[call-overload, no-any-return]  # one overload a cloud
                self.url,
                config=self._options,
                client_options={
                    "allow_http": any(value.startswith("http://") for value in self._options.values()),
                    "connect_timeout": f"{min(self._seconds, 10):g}s",
                    "timeout": f"{request_s:g}s",
                },
                retry_config={
                    "max_retries": RETRIES,
                    "retry_timeout": timedelta(seconds=self._seconds),
                    "backoff": {"init_backoff": timedelta(milliseconds=200), "max_backoff": timedelta(seconds=5)},
                },
            )

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each file below a prefix."""
        import obstore

        with self._guard():
            for page in obstore.list(self._store, prefix):
                for found in page:
                    yield found["path"], found["size"]

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of these files that are there."""
        asked = list(dict.fromkeys(names))
        if len(asked) > HEADS_MAX:
            wanted = set(asked)
            prefixes = {name.partition("/")[0] + "/" for name in asked}
            return {name: size for each in prefixes for name, size in self.names(each) if name in wanted}
        sizes = in_flight(self._size, asked, 4 * IN_FLIGHT)
        return {name: size for name, size in sizes if size is not None}

    def _size(self, name: str) -> int | None:
        import obstore

        try:
            with self._guard():
                return obstore.head(self._store, name)["size"]
        except NotFoundError:
            return None

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on."""
        import obstore

        if size <= 0:
            return b""
        with self._guard():
            return obstore.get_range(self._store, name, start=offset, length=size).to_bytes()

    def open(self, name: str, size: int, offset: int) -> BinaryIO:
        """Return a reader of the first ``size`` bytes of a file from an offset on."""
        return reader(self, name, size, offset)

    def write(self, name: str, digest: str, source: BinaryIO | bytes, *, resumed: Resumed = unnoticed) -> int:
        """Make a file, unless it is there already, and return its size."""
        size = length(source)
        start = source.tell() if size >= 0 and not isinstance(source, bytes) else 0
        until = time.monotonic() + self._seconds
        for left in reversed(range(SENT_MAX)):
            try:
                return self._write(name, digest, source, size)
            except UnreachableError:
                # obstore sends nothing again that makes a file, since it can't know that this doesn't matter here.
                if not left or size < 0 or time.monotonic() > until:
                    raise
                if not isinstance(source, bytes):
                    source.seek(start)
        raise AssertionError

    def _write(self, name: str, digest: str, source: BinaryIO | bytes, whole: int) -> int:
        import obstore
        from obstore.exceptions import AlreadyExistsError

        part_bytes = max(PART_BYTES, whole // PARTS_MAX + 1)
        if isinstance(source, bytes) and len(source) <= part_bytes:
            # Bytes that are in memory are hashed where they are; joined from chunks they would be copied twice.
            if (actual := digests.file_digest(source)) != digest:
                raise mismatched(digest, actual)
            data = source
        else:
            chunks, first, size = checked(digest, source), [], 0
            while size <= part_bytes and (chunk := next(chunks, b"")):
                first.append(chunk)
                size += len(chunk)
            if size > part_bytes:
                return self._write_parts(name, itertools.chain(first, chunks), part_bytes)
            data = b"".join(first)
        with self._guard(), contextlib.suppress(AlreadyExistsError):
            obstore.put(self._store, name, data, mode="create", use_multipart=False)
        return len(data)

    def _write_parts(self, name: str, chunks: Iterator[bytes], part_bytes: int) -> int:
        """Make a large file of parts, each of which is sent again by itself, if it must be.

        What comes in parts cannot be made on the condition that there is no such file. So we look before; and two who
        make it at once put the same bytes there, one in the other's place, since they are verified and it is named by
        them.
        """
        import obstore

        size = 0

        def counted() -> Iterator[bytes]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk)
                yield chunk

        if self._size(name) is None:
            try:
                with self._guard():
                    obstore.put(
                        self._store,
                        name,
                        counted(),
                        use_multipart=True,
                        chunk_size=part_bytes,
                        max_concurrency=IN_FLIGHT,
                    )
            except NotFoundError as error:  # it was ended, and the answer was lost; or somebody else ended it
                raise self._unreachable(error) from error
        for _ in counted():
            pass  # who puts an object has its bytes, even if it is there
        return size

    def address(self, name: str, seconds: int, *, method: Literal["GET", "PUT"] = "GET") -> str:
        """Return an address of a file that whoever has it may get, or make, for so long: it is signed."""
        import obstore

        with self._guard():
            return obstore.sign(self._store, method, name, timedelta(seconds=seconds))  # type: ignore[arg-type]  # not every store signs

    def copy(self, name: str, to: str) -> None:
        """Copy a file to another name; the bytes don't leave the cloud. What was there is replaced."""
        import obstore

        with self._guard():
            obstore.copy(self._patient(), name, to)

    def _patient(self) -> ObjectStore:
        """Return the same place, asked by one who waits: gigabytes are not copied in the time of a usual answer."""
        return self._opened(COPY_SECONDS)

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files."""
        import obstore

        asked = list(names)
        if asked:
            with self._guard():
                obstore.delete(self._store, asked)

    def look(self, name: str) -> tuple[str, str, str, int]:
        """Return what is said of a file: ETag without its quotation marks, version id, time of change, size."""
        import obstore

        with self._guard():
            return _said(obstore.head(self._store, name))

    def stream(self, name: str) -> tuple[tuple[str, str, str, int], Iterator[bytes]]:
        """Return what is said of a file, as `look`, and its bytes in chunks: of the same version of it."""
        import obstore

        with self._guard():
            found = obstore.get(self._store, name)
        return _said(found.meta), self._chunks(found)

    def _chunks(self, found: GetResult) -> Iterator[bytes]:
        with self._guard():
            for chunk in found:
                yield bytes(chunk)

    def close(self) -> None:
        """Do nothing: obstore ends its connections itself."""

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        """Raise what obstore raises as the error that it is."""
        from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

        try:
            yield
        except CmfError:
            raise
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            raise NotFoundError(f"{self.url} does not hold what was asked for.", kind="remote") from error
        except (PermissionDeniedError, UnauthenticatedError) as error:
            raise DeniedError(
                f"{self.url} refuses us: {_first_line(error)}",
                hint="Credentials come from the environment (AWS_ACCESS_KEY_ID, …), never from the URL.",
                kind="remote",
            ) from error
        except (BaseError, ValueError) as error:
            if "NoSuchBucket" in str(error):
                raise self._no_bucket() from error
            if "169.254.169.254" in str(error):
                raise DeniedError(
                    f"There are no credentials for {self.url}.",
                    hint="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.",
                    kind="remote",
                ) from error
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> UnreachableError:
        return UnreachableError(
            f"{self.url} cannot be reached: {_first_line(error)}",
            hint="Nothing is lost: run the command again when it can be.",
            kind="remote",
        )

    def _no_bucket(self) -> NotFoundError:
        return NotFoundError(f"There is no bucket at {self.url}.", hint="Make it first.", kind="remote")


def _said(meta: ObjectMeta) -> tuple[str, str, str, int]:
    etag = (meta["e_tag"] or "").strip('"')
    return etag, meta["version"] or "", meta["last_modified"].isoformat(), meta["size"]


def _first_line(error: Exception) -> str:
    """Return the sentence of an error that is for people; what follows is obstore's own structure."""
    return str(error).partition("\n")[0][:300].rstrip(" .:") + "."
