"""Where bytes live: immutable byte strings, each named ``sha256:<64 hex>`` by its own hash.

Knows nothing of records. A folder's name, ``tree:sha256:…``, is not an object's: `cmf.model.digest.object_of` gives
the object that holds its manifest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Protocol, TypeAlias

from cmf.errors import CmfError, CorruptError, UsageError
from cmf.model import digest as digests
from cmf.model.wire import Small

READ_BYTES_MAX = 256 << 20
CHUNK_BYTES = 1 << 20

Digests: TypeAlias = list[str]
"""Names of objects. (Inside a store, `list` is a method.)"""

Resumed: TypeAlias = Callable[[int], None]
"""Told how many bytes of an object are at the other end already, when its sending goes on behind them."""


def unnoticed(_: int) -> None:
    """Take no notice."""


class ObjectStore(Protocol):
    """A set of objects.

    A caller may assume, of every store:

    - A name is checked before anything is done with it: `CorruptError` for what is no digest, `UsageError` for a
      folder's.
    - An object appears whole and verified, or not at all; a call that fails leaves nothing behind.
    - `put` and `remove` may be repeated, and done by several processes at once.
    - A disk or a network that fails is an `UnreachableError` (a full one too); a place that may not be written, a
      `ConflictError` or `DeniedError`.
    """

    def absent(self, digests: Iterable[str]) -> Digests:
        """Return which of these it does not hold, in the order given, repeats included."""
        ...

    def open(self, digest: str, offset: int = 0) -> BinaryIO:
        """Return a reader of an object's bytes from an offset on; `NotFoundError` if it isn't held.

        What it reads is not verified as a whole: `read` is, and `put` into another store.
        """
        ...

    def put(self, digest: str, source: BinaryIO | bytes) -> int:
        """Take in an object and return its size; `CorruptError`, and nothing kept, if the bytes have another hash.

        The source is read to its end and hashed even if the object is held already: who has put an object has shown
        that they have its bytes. When it returns, the object is durable.
        """
        ...

    def list(self) -> Iterator[tuple[str, int]]:
        """Yield the digest and the size of each object, sorted by digest.

        What comes or goes meanwhile may be in it or not.
        """
        ...

    def remove(self, digests: Iterable[str]) -> int:
        """Remove these objects and return how many of them were there."""
        ...


def check_name(digest: str) -> str:
    """Return the name of an object as it is; refuse anything else before a path or an address is made of it."""
    if digests.is_file_digest(digest):
        return digest
    digests.check_digest(digest)
    raise UsageError(f"{digest} names a folder, not an object.", hint="Its manifest is the object.")


class SizedStore(ObjectStore, Protocol):
    """An `ObjectStore` that tells sizes, and reads many small objects at once."""

    def size(self, digest: str) -> int:
        """Return an object's size in bytes; `NotFoundError` if it isn't held."""
        ...

    def smalls(self, digests: Iterable[str], bytes_max: int) -> Iterator[Small]:
        """Yield objects in the order asked for, verified; those over a size without bytes; what isn't held, not."""
        ...


class RemoteStore(ObjectStore, Protocol):
    """An `ObjectStore` elsewhere, to which many small objects travel together."""

    def put(self, digest: str, source: BinaryIO | bytes, *, folder: bool = False, resumed: Resumed = unnoticed) -> int:
        """Send an object; ``folder``: it is a manifest, whose files were sent before.

        A large one from a file, whose sending was cut, goes on where it was, if the place can: ``resumed`` is told.
        What is there already is not believed, and sent again if it turns out to be something else.
        """
        ...

    def put_all(self, found: Iterable[Small]) -> Iterator[tuple[Small, CmfError | None]]:
        """Send small objects, a folder's files before its manifest; say of each why it was not taken, if so."""
        ...

    def get_all(self, asked: Iterable[str]) -> Iterator[Sequence[Small]]:
        """Yield objects, some at a time, unverified; large ones without their bytes; what isn't held is left out."""
        ...


Watch: TypeAlias = Callable[[RemoteStore, str, str], RemoteStore]
"""Puts something between a remote's objects and who uses them: takes them, the remote's address, and a scope or ""."""


def read(store: ObjectStore, digest: str, bytes_max: int = READ_BYTES_MAX) -> bytes:
    """Return the bytes of an object, verified as a whole; `CorruptError` that names it if a bit has flipped.

    An object over ``bytes_max`` is a `UsageError` of kind ``limit``, raised before more than that is in memory.
    """
    found: list[bytes] = []
    size = 0
    hashed = hashlib.sha256()
    with store.open(digest) as source:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > bytes_max:
                raise UsageError(
                    f"Object {digest} is over the limit of {bytes_max} bytes.",
                    hint="Read it in parts, from its file.",
                    kind="limit",
                )
            hashed.update(chunk)
            found.append(chunk)
    if digests.FILE + hashed.hexdigest() != digest:
        raise damaged(digest)
    return b"".join(found)


def damaged(digest: str) -> CorruptError:
    """Return the error that says that a held object's bytes are not those of its name."""
    return CorruptError(
        f"Object {digest} is damaged: its bytes have another hash.",
        hint="'cmf verify --repair' fetches it again.",
        kind="object",
    )


def mismatched(digest: str, actual: str) -> CorruptError:
    """Return the error that says that bytes handed over as an object are other bytes."""
    return CorruptError(
        f"The bytes handed over as object {digest} are those of {actual}.",
        hint="They were changed or cut short on their way.",
        kind="object",
    )
