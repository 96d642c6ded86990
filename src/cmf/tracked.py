"""What DVC says of a path, and whether that is true of the bytes that were kept of it.

A pointer file, or an entry of dvc.lock, says what the bytes were when DVC looked; they may have been changed since, and
git may have brought the pointer of another version. So no time or size is taken for a proof. Believed is what costs
next to nothing to prove: the MD5 of a MiB at most, computed anew of what was kept; or that the file is the very file in
DVC's cache that bears the hash as its name, and that nobody can write to. Of everything else nothing is said: `cmf
import dvc` reads it once, and links it.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from pathlib import Path

from cmf.bridges.dvc import files
from cmf.bridges.dvc.files import Hash, Item
from cmf.errors import CmfError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, manifest, read
from cmf.objects.local import LocalObjects
from cmf.worktree import dvc
from cmf.worktree.files import Kept

MD5_BYTES_MAX = 1 << 20
"""So much of one use is hashed anew: a millisecond or two."""

FILES_MAX = 500
STATEMENTS_BYTES_MAX = 1 << 20
TICK_NS = 50_000_000


class _Repository:
    """A DVC repository: its top folder, its caches, and the folder of which the list of files was read last."""

    def __init__(self, top: Path) -> None:
        self.top = os.fspath(top)
        self.caches = dvc.places(top).folders()
        self._read: tuple[Hash, dict[str, Hash]] | None = None

    def listed(self, hash_: Hash) -> dict[str, Hash]:
        """Return the files of a folder by their paths in it, as a cache has them; none if it hasn't."""
        if self._read is None or self._read[0] != hash_:
            place = self.caches.find(hash_.value, hash_.algorithm)
            data = dvc.read(place, STATEMENTS_BYTES_MAX) if place is not None else None
            is_whole = data is not None and dvc.md5(data, files.MD5) + files.DIR == hash_.value
            self._read = hash_, dict(files.read_folder(data, hash_)) if data is not None and is_whole else {}
        return self._read[1]


class Tracked:
    """What DVC says of the files of a work tree. What its small files say is read again only when they change."""

    def __init__(self, objects: LocalObjects) -> None:
        self._objects = objects
        self._repositories: dict[Path, _Repository] = {}
        self._said: dict[str, tuple[object, list[Item]]] = {}

    def hash_of(self, path: str, kept: Kept, top: Path, since_ns: int) -> Hash | None:
        """Return DVC's hash of what was kept of an absolute path; None if it has none, or none that is proven.

        ``top`` is the DVC repository that it lies in. ``since_ns`` is a time before it was read, by the wall clock.
        """
        try:
            repository = self._repositories.get(top)
            if repository is None:
                repository = self._repositories[top] = _Repository(top)
            proof = _Proof(self._objects, repository, since_ns)
            for hash_, size in self._statements(path, repository):
                if size in (None, kept.size) and proof.holds(path, kept, hash_):
                    return hash_
        except (OSError, ValueError, CmfError):
            pass  # what cannot be read says nothing
        return None

    def _statements(self, path: str, repository: _Repository) -> Iterator[tuple[Hash, int | None]]:
        """Yield what is said of a path, or of a folder that it lies in: a hash, and a size in bytes where one is told.

        The nearest comes first.
        """
        above = path
        while above not in (repository.top, os.path.dirname(above)):
            folder, name = os.path.split(above)
            for item in self._read(above + files.SUFFIX):
                if item.path == name:
                    yield from _of(item, above, path, repository)
            above = folder
        folder = os.path.dirname(path)
        while True:
            for item in self._read(os.path.join(folder, files.LOCK)):
                whole = os.path.normpath(os.path.join(folder, item.path))
                if path == whole or path.startswith(whole + os.sep):
                    yield from _of(item, whole, path, repository)
            if folder in (repository.top, os.path.dirname(folder)):
                return
            folder = os.path.dirname(folder)

    def _read(self, place: str) -> list[Item]:
        try:
            found = os.stat(place)
        except OSError:
            return []
        version = found.st_ino, found.st_size, found.st_mtime_ns
        known = self._said.get(place)
        if known is None or known[0] != version:
            data = dvc.read(place, STATEMENTS_BYTES_MAX) if stat.S_ISREG(found.st_mode) else None
            self._said[place] = known = version, files.read_statements(data or b"")
        return known[1]


def _of(item: Item, whole: str, path: str, repository: _Repository) -> Iterator[tuple[Hash, int | None]]:
    """Yield what an item that is `whole` says of a path that it is, or that lies in it."""
    if item.hash is None:
        return
    if path == whole:
        yield item.hash, item.size
    elif item.hash.is_folder:
        wanted = os.path.relpath(path, whole).replace(os.sep, posixpath.sep)
        if (hash_ := repository.listed(item.hash).get(wanted)) is not None:
            yield hash_, None


class _Proof:
    """What is proven about the hash of one use: within a budget of bytes that are hashed anew."""

    def __init__(self, objects: LocalObjects, repository: _Repository, since_ns: int) -> None:
        self._objects = objects
        self._repository = repository
        self._since_ns = since_ns
        self._left = MD5_BYTES_MAX

    def holds(self, path: str, kept: Kept, hash_: Hash) -> bool:
        """Tell whether what was kept of a path is proven to have a hash."""
        is_folder = kept.digest.startswith(digests.TREE)
        if is_folder != hash_.is_folder:
            return False
        if not is_folder:
            return self._md5(path, kept.digest, kept.size, hash_) == hash_.value
        if kept.files > FILES_MAX:
            return False
        entries = manifest.decode(read(self._objects, digests.object_of(kept.digest), manifest.MANIFEST_BYTES_MAX))
        listed = self._repository.listed(hash_)
        found: list[tuple[str, str]] = []
        for entry in entries:
            if not isinstance(entry.path, str):
                return False
            said = listed.get(entry.path, Hash(hash_.algorithm, ""))
            md5 = self._md5(os.path.join(path, entry.path), entry.digest, entry.size, said)
            if md5 is None:
                return False
            found.append((entry.path, md5))
        return dvc.md5(files.write_folder(found), files.MD5) + files.DIR == hash_.value

    def _md5(self, path: str, digest: str, size: int, said: Hash) -> str | None:
        """Return the hash of a file's kept bytes, of the algorithm of the one that is said of it; None if unproven."""
        if said.value and self._is_cached(path, said):
            return said.value
        if size > self._left:
            return None
        self._left -= size
        hashed = dvc.Hasher(said.algorithm)
        with self._objects.open(digest) as source:
            while chunk := source.read(CHUNK_BYTES):
                hashed.update(chunk)
        return hashed.hex()

    def _is_cached(self, path: str, said: Hash) -> bool:
        """Tell whether a path leads to the file in DVC's cache itself, has since before it was read, and can't change.

        Making a link sets its time of change, so one made while the file was read doesn't count.
        """
        cached = self._repository.caches.find(said.value, said.algorithm)
        if cached is None:
            return False
        ours, theirs = os.stat(path), os.stat(cached)
        return (
            (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
            and not ours.st_mode & 0o222
            and ours.st_ctime_ns < self._since_ns - TICK_NS
        )
