"""A folder as a place for objects: on another disk, or on a file system that several machines share.

Every file is written under a temporary name in ``tmp/``, synced, and gets its name by a hard link, which no two writers
can both make. Nothing is locked: so it works on NFS as well.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from cmf.errors import UnreachableError
from cmf.model import digest as digests
from cmf.objects import Resumed, unnoticed
from cmf.objects.bucket import KEPT_SECONDS, RESUMED_BYTES_MIN, checked, reader
from cmf.objects.draft import Draft
from cmf.objects.pack import sync_path
from cmf.objects.part import Part
from cmf.objects.source import Source, disk_error, read_error

TEMPORARY = "tmp"


class FolderBucket:
    """A `Bucket` in a folder, which the first `write` makes, in a folder that exists."""

    def __init__(self, folder: str) -> None:
        self.url = folder
        self._root = folder
        self._is_swept = False

    def names(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield the name and size of each file below a prefix."""
        waiting = [prefix.rstrip("/")]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(f"{self._root}/{folder}") as found:
                    for entry in found:
                        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                            if entry.is_dir(follow_symlinks=False):
                                waiting.append(f"{folder}/{entry.name}")
                            elif entry.is_file(follow_symlinks=False):
                                yield f"{folder}/{entry.name}", entry.stat().st_size
            except FileNotFoundError:
                self._check_there()
            except OSError as error:
                raise read_error(error, f"{self._root}/{folder}") from error

    def sizes(self, names: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those of these files that are there."""
        found = {}
        for name in names:
            try:
                found[name] = os.stat(f"{self._root}/{name}").st_size
            except FileNotFoundError:
                continue
            except OSError as error:
                raise read_error(error, f"{self._root}/{name}") from error
        if not found:
            self._check_there()
        return found

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Return so many bytes from an offset on."""
        path = f"{self._root}/{name}"
        try:
            with open(path, "rb", buffering=0) as file:
                return os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise read_error(error, path) from error

    def open(self, name: str, size: int, offset: int) -> BinaryIO:
        """Open a file where it lies, so that who copies it can do that as files are copied."""
        path = f"{self._root}/{name}"
        try:
            file = open(path, "rb")  # noqa: SIM115  # the caller closes it
            if size < os.fstat(file.fileno()).st_size:
                file.close()
                return reader(self, name, size, offset)
        except OSError as error:
            raise read_error(error, path) from error
        file.seek(offset)
        return file

    def write(self, name: str, digest: str, source: BinaryIO | bytes, *, resumed: Resumed = unnoticed) -> int:
        """Make a file, unless it is there already, and return its size."""
        path = f"{self._root}/{name}"
        whole = None if isinstance(source, bytes) else Source.of(source)
        self._make_room(name)
        with self._part(digest, whole) or self._draft() as draft:
            if whole is not None:
                with whole:
                    size = draft.take_as(digest, whole, resumed)
            else:
                size = 0
                for chunk in checked(digest, source):
                    draft.write(chunk)
                    size += len(chunk)
            try:
                draft.close(sync=True)
                draft.publish(path)
                sync_path(os.path.dirname(path))
                self._sweep(path)
            except OSError as error:
                raise disk_error(error, f"{path} cannot be written") from error
        return size

    def delete(self, names: Iterable[str]) -> None:
        """Delete these files."""
        for name in names:
            try:
                os.unlink(f"{self._root}/{name}")
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error(error, f"{self._root}/{name} cannot be deleted") from error

    def close(self) -> None:
        """Do nothing: a folder has no connection."""

    def _part(self, digest: str, source: Source | None) -> Part | None:
        """Return what is there of a large file whose writing was cut; None if another goes on with it, or none may."""
        if source is None or source.size < RESUMED_BYTES_MIN:
            return None
        try:
            return Part(f"{self._root}/{TEMPORARY}/{digest.removeprefix(digests.FILE)}.part")
        except OSError:
            return None  # another user's, or there are no locks

    def _sweep(self, fresh: str) -> None:
        """Delete, once, what nobody went on with for long, by the clock of who keeps the folder: a fresh file's."""
        if self._is_swept:
            return
        self._is_swept = True
        before = os.stat(fresh).st_mtime - KEPT_SECONDS
        with os.scandir(f"{self._root}/{TEMPORARY}") as found:
            for entry in found:
                with contextlib.suppress(OSError):  # gone meanwhile, or another user's
                    if entry.is_file(follow_symlinks=False) and entry.stat().st_mtime < before:
                        os.unlink(entry.path)

    def _draft(self) -> Draft:
        # The host's name too: machines that share a folder have the same process ids.
        path = f"{self._root}/{TEMPORARY}/{socket.gethostname()}-{os.getpid()}-{os.urandom(8).hex()}"
        try:
            return Draft(path)
        except OSError as error:
            raise disk_error(error, f"{self._root} cannot be written") from error

    def _make_room(self, name: str) -> None:
        self._check_there()
        folder = os.path.dirname(f"{self._root}/{name}")
        try:
            for path in (f"{self._root}/{TEMPORARY}", folder):
                if not os.path.isdir(path):
                    os.makedirs(path, exist_ok=True)
                    sync_path(os.path.dirname(path))
        except OSError as error:
            raise disk_error(error, f"{self._root} cannot be written") from error

    def _check_there(self) -> None:
        """Refuse a folder whose parent is gone: a disk that isn't mounted must not look like an empty place."""
        if not os.path.isdir(self._root) and not os.path.isdir(os.path.dirname(self._root)):
            raise UnreachableError(
                f"There is no folder {self._root}.", hint="Mount its disk, then run it again.", kind="remote"
            )
