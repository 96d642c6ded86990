"""What must be kept: the objects that anything here refers to.

That is what any record names by its digest, whatever its kind, retracted ones and unknown kinds included; the files of
every folder so named whose manifest is here; and what pointer files beside the code name, in the work tree and in
every commit that git has.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cmf import journal
from cmf.errors import CmfError, ConflictError, CorruptError, NotFoundError
from cmf.model import digest as digests
from cmf.objects import manifest, read
from cmf.objects.local import LocalObjects
from cmf.store.sql import NOTHING_READ, SqlStore
from cmf.worktree import git, pointer

CLOCK_SECONDS = 3600
"""How far the clock of a file system and that of a recording host may be apart."""

_DIGEST = re.compile(rb"(tree:)?sha256:([0-9a-f]{64})")
_NOWHERE: frozenset[str] = frozenset()


class Named:
    """The objects that are referred to: ``scopes`` are those whose records name each, folders' files included."""

    def __init__(self, objects: LocalObjects) -> None:
        self.scopes: dict[str, frozenset[str]] = {}
        self._objects = objects
        self._folders: set[tuple[str, frozenset[str]]] = set()
        self._joined: dict[tuple[frozenset[str], frozenset[str]], frozenset[str]] = {}
        self._read = NOTHING_READ

    def refresh(self, store: SqlStore) -> None:
        """Take in what the records of a store name: all at first, then what is new."""
        reach = store.reach()
        scopes: dict[str, frozenset[str]] = {}
        for scope, data in store.records(self._read):
            # The profile lets a text be spelled in one way only, so that a digest stands there as it is.
            self.add(data, scopes.setdefault(scope, frozenset((scope,))))
        self._read = reach

    def add(self, data: bytes, scopes: frozenset[str] = _NOWHERE) -> None:
        """Take in every digest that some bytes hold."""
        for tree, raw in _DIGEST.findall(data):
            digest = digests.FILE + raw.decode()
            self._note(digest, scopes)
            if tree and (digest, scopes) not in self._folders:
                self._folders.add((digest, scopes))
                for entry in self._members(digest):
                    self._note(entry.digest, scopes)

    def _members(self, digest: str) -> Iterable[manifest.Entry]:
        """Return the files of a folder whose manifest is here; a damaged one names files that nobody knows."""
        try:
            data = read(self._objects, digest, manifest.MANIFEST_BYTES_MAX)
        except NotFoundError:
            return ()
        except CorruptError as error:
            raise CorruptError(
                f"The manifest {digest} is damaged, so that nobody knows which files it names.",
                hint="'cmf verify --repair' fetches it again.",
                kind="object",
            ) from error
        try:
            return manifest.decode(data)
        except CorruptError:  # anybody may call any bytes a folder; these are none
            return ()

    def _note(self, digest: str, scopes: frozenset[str]) -> None:
        before = self.scopes.get(digest)
        if before is None:
            self.scopes[digest] = scopes
        elif not scopes <= before:
            both = self._joined.get((before, scopes))
            if both is None:
                both = self._joined[before, scopes] = before | scopes
            self.scopes[digest] = both


def artifact_objects(store: SqlStore, objects: LocalObjects) -> set[str]:
    """Return the objects that are bytes of artifacts: files, and the files of folders whose manifest is here."""
    found: set[str] = set()
    for digest in store.index.artifact_digests():
        if not digest.startswith(digests.TREE):
            found.add(digest)
            continue
        with contextlib.suppress(CmfError):
            data = read(objects, digests.object_of(digest), manifest.MANIFEST_BYTES_MAX)
            found.update(entry.digest for entry in manifest.decode(data))
    return found


def pointed(root: Path) -> bytes:
    """Return what the pointer files of a project say, joined: those below its folder, and those of git's history.

    What cannot be read, so that it might name something, is a `ConflictError`.
    """
    found = git.every_version(root, pointer.SUFFIX, pointer.POINTER_BYTES_MAX)
    if found is None:
        raise ConflictError(
            f"Git does not tell which pointer files the commits of {root} hold.",
            hint="Try 'git log' there: it may be of another owner, or git may be missing.",
            kind="git",
        )
    said = [found]
    waiting = [os.fspath(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as items:
                for item in items:
                    if item.is_dir(follow_symlinks=False):
                        if item.name.casefold() not in manifest.FORBIDDEN:
                            waiting.append(item.path)
                    elif item.name.endswith(pointer.SUFFIX) and item.is_file(follow_symlinks=False):
                        with open(item.path, "rb") as file:
                            said.append(file.read(pointer.POINTER_BYTES_MAX))
        except FileNotFoundError:
            continue
        except OSError as error:
            raise ConflictError(
                f"{error.filename or folder} cannot be read, and may hold pointer files: {error.strerror}.",
                hint="Let this user read it, or run this as one who may.",
                kind="read",
            ) from error
    return b"\n".join(said)


def open_since(folder: Path) -> list[float]:
    """Return when each process that still records here began to, or a time that is earlier; wall times in s."""
    found = []
    for path in (folder / "journal").glob("*.j"):
        with contextlib.suppress(FileNotFoundError):  # it has ended, and was taken in by another process
            first = journal.began(path)
            found.append((path.stat().st_mtime if first is None else first / 1e6) - CLOCK_SECONDS)
    return found
