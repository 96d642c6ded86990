"""A folder of another machine as a place for objects, by SFTP over ssh.

Who we are and whom we trust is what ``~/.ssh/config``, ``known_hosts``, the keys and the agent say, as for ``ssh``
itself; nothing is asked, and a host whose key isn't known is refused. Files are written as in a folder here: under a
temporary name, synced, and named by a hard link, which no two writers can both make.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import shlex
import socket
import stat
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from cmf.errors import CmfError, CorruptError, NotFoundError, UnreachableError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, Resumed, unnoticed
from cmf.objects.bucket import RESUMED_BYTES_MIN, checked, length, reader
from cmf.objects.folder import TEMPORARY
from cmf.objects.ssh.line import ASKED, Address, Line

if TYPE_CHECKING:
    from hashlib import _Hash

    from asyncssh import SFTPAttrs, SFTPClient, SFTPClientFile

AHEAD = 8
"""How many chunks of a file are on their way at once."""

CHECKED_BYTES = 8 << 20
HASH_DIGITS = 64


class SshBucket:
    """A `Bucket` in a folder of another machine, which the first `write` makes, in a folder that exists."""

    def __init__(self, url: str) -> None:
        self.url = url
        address = Address.of(url)
        self._root = address.path
        self._line = Line(url, address)
        weakref.finalize(self, self._line.leave).atexit = False  # a process that ends hangs up by that
        self._made: set[str] = set()

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each file below a prefix."""
        waiting = [prefix.rstrip("/")]
        while waiting:
            folders, waiting = waiting[:ASKED], waiting[ASKED:]
            for folder, found in zip(folders, self._line.all(self._entries, folders), strict=True):
                for name, attributes in found:
                    if stat.S_ISDIR(attributes.permissions or 0):
                        waiting.append(f"{folder}/{name}")
                    elif stat.S_ISREG(attributes.permissions or 0):
                        yield f"{folder}/{name}", attributes.size or 0

    async def _entries(self, client: SFTPClient, folder: str) -> list[tuple[str, SFTPAttrs]]:
        from asyncssh import SFTPNoSuchFile

        try:
            found = await client.readdir(f"{self._root}/{folder}")
        except SFTPNoSuchFile:
            await self._check_there(client)
            return []
        return [(str(each.filename), each.attrs) for each in found if each.filename not in (".", "..")]

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of these files that are there."""
        asked = list(dict.fromkeys(names))
        sizes = zip(asked, self._line.all(self._size, asked), strict=True)
        found = {name: size for name, size in sizes if size is not None}
        if not found:
            self._line.run(self._check_there)
        return found

    async def _size(self, client: SFTPClient, name: str) -> int | None:
        from asyncssh import SFTPNoSuchFile

        try:
            return (await client.stat(f"{self._root}/{name}")).size or 0
        except SFTPNoSuchFile:
            return None

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on."""

        async def work(client: SFTPClient) -> bytes:
            async with client.open(f"{self._root}/{name}", "rb") as file:
                return await file.read(size, offset)

        return self._line.run(work) if size > 0 else b""

    def open(self, name: str, size: int, offset: int) -> BinaryIO:
        """Return a reader of the first ``size`` bytes of a file from an offset on."""
        return reader(self, name, size, offset)

    def write(self, name: str, digest: str, source: BinaryIO | bytes, *, resumed: Resumed = unnoticed) -> int:
        """Make a file, unless it is there already, and return its size."""
        if self._line.run(lambda client: self._size(client, name)) is not None:
            size = sum(map(len, checked(digest, source)))
            self._line.run(partial(_sync, folder=os.path.dirname(f"{self._root}/{name}")))
            return size
        made = self._line.run(lambda client: self._make_room(client, os.path.dirname(name)))
        grown = dict.fromkeys(map(os.path.dirname, made))
        synced = [self._line.start(partial(_sync, folder=folder)) for folder in grown]
        own = None if isinstance(source, bytes) else _own_name(digest, source)
        draft = _Draft(self._line, f"{self._root}/{TEMPORARY}/{own or _new_name()}")
        try:
            behind = None if own is None or isinstance(source, bytes) else draft.resume(source, resumed)
            for chunk in checked(digest, source, behind=behind):
                draft.write(chunk)
            draft.publish(digest, f"{self._root}/{name}")
            for each in synced:
                each.result()
            self._made.update(made)
        except NotFoundError:
            self._made.clear()  # somebody removed the folder
            raise
        except CorruptError:
            own = None  # nobody will go on with it
            raise
        finally:
            draft.end(kept=own is not None)
        return draft.size

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files."""

        async def work(client: SFTPClient, name: str) -> None:
            await _remove(client, f"{self._root}/{name}")

        self._line.all(work, list(names))

    def close(self) -> None:
        """End its connection."""
        self._line.close()

    async def _make_room(self, client: SFTPClient, folder: str) -> list[str]:
        """Make the folders that a file needs; return those whose names may not be durable, whoever made them."""
        from asyncssh import SFTPFailure, SFTPFileAlreadyExists

        steps = folder.split("/") if folder else []
        below = [TEMPORARY, *("/".join(steps[: count + 1]) for count in range(len(steps)))]
        paths = [self._root, *(f"{self._root}/{step}" for step in below)]
        fresh = [path for path in paths if path not in self._made]
        for path in fresh:
            if path == self._root:
                await self._check_there(client)
            if not await client.isdir(path):
                try:
                    await client.mkdir(path)
                except (SFTPFailure, SFTPFileAlreadyExists):  # another made it at this moment
                    if not await client.isdir(path):
                        raise
        return fresh

    async def _check_there(self, client: SFTPClient) -> None:
        """Refuse a folder whose parent is gone: a disk that isn't mounted must not look like an empty place."""
        if not await client.isdir(self._root) and not await client.isdir(os.path.dirname(self._root) or "/"):
            raise UnreachableError(
                f"There is no folder {os.path.dirname(self._root)} at {self.url}.",
                hint="Make it there, or mount its disk.",
                kind="remote",
            )


class _Draft:
    """A temporary file at the other end, written in chunks of which a few are on their way at once."""

    def __init__(self, line: Line, path: str) -> None:
        self.size = 0
        self._line = line
        self._path = path
        self._waiting: deque[Future[None]] = deque()
        self._lock = asyncio.Lock()
        self._open: tuple[SFTPClient, SFTPClientFile] | None = None
        self._is_doubtful = False

    def resume(self, source: BinaryIO, resumed: Resumed) -> _Hash | None:
        """Go on behind what is there, if the source begins so: return the hash of that, which was read of the source.

        None if it begins otherwise: all is to be written.
        """
        there = self._line.run(self._there)
        if not there:
            return None
        start, behind = source.tell(), hashlib.sha256()
        if there <= length(source):
            left = there
            while left and (chunk := source.read(min(left, CHUNK_BYTES))):
                behind.update(chunk)
                left -= len(chunk)
            if not left and self._hash(there) == behind.hexdigest():
                self.size = there
                resumed(there)
                return behind
            source.seek(start)

        async def clear(client: SFTPClient) -> None:
            await (await self._file(client)).truncate(0)

        self._line.run(clear)
        return None

    async def _there(self, client: SFTPClient) -> int:
        from asyncssh import SFTPNoSuchFile

        try:
            return (await client.stat(self._path)).size or 0
        except SFTPNoSuchFile:
            return 0

    def write(self, chunk: bytes) -> None:
        """Append some bytes."""
        offset = self.size
        self.size += len(chunk)

        async def work(client: SFTPClient) -> None:
            file = await self._file(client)
            await file.write(chunk, offset)

        if len(self._waiting) == AHEAD:
            self._waiting.popleft().result()
        self._waiting.append(self._line.start(work))

    def publish(self, digest: str, target: str) -> None:
        """Make the file durable and give it its name, unless something has that already, which stays as it is."""
        for sent in self._waiting:
            sent.result()

        async def seal(client: SFTPClient) -> None:
            await _fsync(await self._file(client))

        self._line.run(seal)
        if self._is_doubtful:
            self._check(digest)
        self._line.run(lambda client: self._link(client, target))

    def end(self, *, kept: bool) -> None:
        """Close the file, and remove its temporary name unless it is kept; nothing if the line is dead."""
        for sent in self._waiting:
            sent.cancel()
        if self._open is not None and self._line.is_up:
            with contextlib.suppress(CmfError):
                self._line.run(partial(self._end, kept=kept))

    async def _end(self, client: SFTPClient, *, kept: bool = False) -> None:
        if self._open is not None and self._open[0] is client:
            await self._open[1].close()
        if not kept:
            await _remove(client, self._path)
        self._open = None

    async def _file(self, client: SFTPClient) -> SFTPClientFile:
        """Return the file, opened anew if the line is a new one."""
        from asyncssh import FXF_CREAT, FXF_READ, FXF_WRITE

        async with self._lock:
            if self._open is None or self._open[0] is not client:
                # A machine that went down between two lines may have lost what it had said it wrote.
                self._is_doubtful = self._open is not None
                file = await client.open(self._path, FXF_READ | FXF_WRITE | FXF_CREAT, encoding=None)
                self._open = client, file
            return self._open[1]

    def _check(self, digest: str) -> None:
        """Check what was written by way of more than one line."""
        if digests.FILE + self._hash(self.size) != digest:
            self._line.run(self._end)
            raise UnreachableError(
                "The other machine lost a part of what was sent.", hint="Run the command again.", kind="remote"
            )

    def _hash(self, size: int) -> str:
        """Return the SHA-256 of the first bytes at the other end: told by it if it can, else they are read back."""
        head = f"head -c {size} {shlex.quote(self._path)}"
        told = self._line.output(f"{head} | {{ sha256sum 2>/dev/null || shasum -a 256; }}", HASH_DIGITS)
        if re.fullmatch(rb"[0-9a-f]{64}", told):
            return told.decode()
        hashed = hashlib.sha256()
        for offset in range(0, size, CHECKED_BYTES):

            async def work(client: SFTPClient, offset: int = offset) -> bytes:
                file = await self._file(client)
                return await file.read(min(CHECKED_BYTES, size - offset), offset)

            hashed.update(self._line.run(work))
        return hashed.hexdigest()

    async def _link(self, client: SFTPClient, target: str) -> None:
        from asyncssh import SFTPFailure, SFTPFileAlreadyExists, SFTPNoSuchFile, SFTPOpUnsupported

        try:
            await client.link(self._path, target)
        except (SFTPFailure, SFTPFileAlreadyExists, SFTPNoSuchFile, SFTPOpUnsupported):
            # Another's, or ours, made before a line was cut. Else it is a file system without hard links: this rename
            # doesn't replace what another has made meanwhile.
            if not await client.exists(target):
                await client.rename(self._path, target)
        # Even if it is another's: they may not have made its name durable yet, and this caller is promised that it is.
        await asyncio.gather(_sync(client, os.path.dirname(target)), self._end(client))


def _own_name(digest: str, source: BinaryIO) -> str | None:
    """Return what a large local file is called while it is sent, the same each time; None for anything else.

    No two processes write to one: who sends a file holds a lock on it, here.
    """
    if length(source) < RESUMED_BYTES_MIN:
        return None
    try:
        fcntl.flock(source.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        who = f"{socket.gethostname()}\0{os.path.abspath(source.name)}\0{os.fstat(source.fileno()).st_ino}"
    except (OSError, AttributeError, TypeError):
        return None  # another process sends it, or there are no locks, or it is no file
    return f"{hashlib.sha256(os.fsencode(who)).hexdigest()[:16]}-{digest.removeprefix(digests.FILE)}.part"


def _new_name() -> str:
    return f"{socket.gethostname()}-{os.urandom(12).hex()}"


async def _remove(client: SFTPClient, path: str) -> None:
    from asyncssh import SFTPNoSuchFile

    with contextlib.suppress(SFTPNoSuchFile):
        await client.remove(path)


async def _sync(client: SFTPClient, folder: str) -> None:
    """Make a folder's names durable, where the server can: OpenSSH on Linux opens a folder as it does a file."""
    from asyncssh import FXF_READ, SFTPFailure, SFTPPermissionDenied

    with contextlib.suppress(SFTPFailure, SFTPPermissionDenied):
        async with client.open(folder, FXF_READ, encoding=None) as file:
            await _fsync(file)


async def _fsync(file: SFTPClientFile) -> None:
    """Make a file durable. A server that doesn't know the request is taken at its word."""
    from asyncssh import SFTPOpUnsupported

    with contextlib.suppress(SFTPOpUnsupported):
        await file.fsync()
