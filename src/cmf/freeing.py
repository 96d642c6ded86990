"""Freeing space: what nothing refers to any more, and what other places hold as well.

An object goes only if it is older than a time, and than every process that still records here. Of what is referred to
only the bytes of artifacts go, and only while enough remotes, asked at that moment, say that they hold them: evidence
and manifests stay. A kill at any moment leaves some of it freed, and the rest as it was.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from cmf import collect, keeping, series
from cmf.errors import CmfError, ConflictError, DeniedError
from cmf.fetching import Holder
from cmf.moving import Progress, nothing
from cmf.objects.local import Held, LocalObjects
from cmf.remote.data import DataRemote
from cmf.store.sql import SqlStore
from cmf.worktree import filesystem

OLDER_THAN_SECONDS = 14 * 86_400.0
LEFTOVER_SECONDS = 86_400.0
AT_ONCE = 10_000


class Count(msgspec.Struct):
    """How many objects or files, and their bytes."""

    count: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        """Count one more."""
        self.count += 1
        self.bytes += size


class Freed(msgspec.Struct, kw_only=True):
    """What was freed, or would be (``done`` is False), by why it may go; and what was kept for now, by why.

    ``unreferenced``: no record and no pointer file names it. ``elsewhere``: enough remotes hold it. ``thinned`` are
    cached forms of step metrics, ``leftovers`` files of processes that died. ``young``: too young to be looked at;
    ``shared``: it has another name in the file system, so nothing would be freed; ``alone``: too few remotes hold it.
    ``silent`` are remotes that could not be asked, with why.
    """

    done: bool
    unreferenced: Count
    elsewhere: Count
    thinned: Count
    leftovers: Count
    young: Count
    shared: Count
    alone: Count
    silent: dict[str, str]

    @property
    def bytes(self) -> int:
        """Return all that was freed."""
        return sum(each.bytes for each in (self.unreferenced, self.elsewhere, self.thinned, self.leftovers))


def free(
    folder: Path,
    store: SqlStore,
    objects: LocalObjects,
    clock: collect.Clock,
    *,
    older_than: float = OLDER_THAN_SECONDS,
    holders: Sequence[Holder] = (),
    copies: int = 0,
    force: bool = False,
    progress: Progress = nothing,
) -> Freed:
    """Free what need not be kept here; without ``force`` only tell what that would be.

    ``older_than`` is in seconds. With ``copies`` the bytes of artifacts go as well of which at least so many of the
    ``holders`` have a copy. `ConflictError` if a journal, a folder or git's history cannot be read: it may name what
    would go; and while processes record on a file system that hosts share.
    """
    return _Freeing(folder, store, objects, clock, older_than, force=force, progress=progress).run(holders, copies)


class _Freeing:
    """One clean-up, from what is named to what is gone."""

    def __init__(
        self,
        folder: Path,
        store: SqlStore,
        objects: LocalObjects,
        clock: collect.Clock,
        older_than: float,
        *,
        force: bool,
        progress: Progress,
    ) -> None:
        done = collect.collect(folder, store, objects, clock)
        if done.problems:
            raise ConflictError(
                f"A journal cannot be read, and may name what would be freed: {done.problems[0]}",
                hint="'cmf doctor' says what to do about it.",
                kind="journals",
            )
        now = clock.wall_us / 1e6
        self._folder = folder
        self._store = store
        self._objects = objects
        self._force = force
        self._progress = progress
        recording = keeping.open_since(folder)
        if force and recording and filesystem.is_shared(folder):
            raise ConflictError(
                f"Processes still record in {folder}, which hosts share: {len(recording)}.",
                hint="What another host counts on may not be seen here at once: free when none of them runs.",
                kind="busy",
            )
        self._before = min([now - older_than, *recording])
        self._leftovers_before = now - LEFTOVER_SECONDS
        self._named = keeping.Named(objects)
        self._freed = Freed(done=force, silent={}, **{name: Count() for name in _COUNTS})

    def run(self, holders: Sequence[Holder], copies: int) -> Freed:
        self._named.refresh(self._store)
        self._named.add(keeping.pointed(self._folder.parent))
        artifacts = keeping.artifact_objects(self._store, self._objects) if copies else set()
        nameless: list[Held] = []
        copied: list[Held] = []
        for found in self._objects.held():
            is_named = found.digest in self._named.scopes
            if is_named and found.digest not in artifacts:
                continue
            if found.used < self._before:
                (copied if is_named else nameless).append(found)
            else:
                (self._freed.shared if math.isinf(found.used) else self._freed.young).add(found.size)
        for batch in _batches(nameless):
            self._free_nameless(batch)
        for batch in _batches(copied):
            self._free_copied(batch, holders, copies)
        self._free_thinned()
        self._free_leftovers()
        if self._force:
            self._objects.tidy()
        return self._freed

    def _free_nameless(self, batch: Sequence[Held]) -> None:
        """Free what nothing refers to. Nobody can commit a record meanwhile that names it; a run would put it first."""
        if not self._force:
            for found in batch:
                self._freed.unreferenced.add(found.size)
            return
        with self._store.still():
            self._named.refresh(self._store)
            wanted = [found.digest for found in batch if found.digest not in self._named.scopes]
            self._count(self._freed.unreferenced, self._objects.free(wanted, before=self._before))

    def _free_copied(self, batch: Sequence[Held], holders: Sequence[Holder], copies: int) -> None:
        counts = self._copies([found.digest for found in batch], holders)
        wanted = []
        for found in batch:
            if counts[found.digest] < copies:
                self._freed.alone.add(found.size)
            elif self._force:
                wanted.append(found.digest)
            else:
                self._freed.elsewhere.add(found.size)
        self._count(self._freed.elsewhere, self._objects.free(wanted, before=self._before))

    def _copies(self, asked: Sequence[str], holders: Sequence[Holder]) -> Counter[str]:
        """Ask every remote, now, which of these it holds; two names of one place count once."""
        found: Counter[str] = Counter()
        places: set[str] = set()
        for holder in holders:
            place = _place(holder)
            if place in places or holder.url in self._freed.silent:
                continue
            try:
                found.update(self._held_at(holder, asked))
            except CmfError as error:
                self._freed.silent[holder.url] = error.message
                continue
            places.add(place)
        return found

    def _held_at(self, holder: Holder, asked: Sequence[str]) -> set[str]:
        if isinstance(holder, DataRemote):
            return {*asked}.difference(holder.objects("").absent(asked))
        by_scope: dict[str, list[str]] = defaultdict(list)
        for digest in asked:
            for scope in self._named.scopes[digest]:
                by_scope[scope].append(digest)
        found: set[str] = set()
        for scope, part in sorted(by_scope.items()):
            with contextlib.suppress(DeniedError):  # a hub tells only those who may write there
                found.update({*part}.difference(holder.objects(scope).absent(part)))
        return found

    def _count(self, count: Count, sizes: dict[str, int]) -> None:
        for size in sizes.values():
            count.add(size)
        self._progress("objects", len(sizes))

    def _free_thinned(self) -> None:
        for path in (self._folder / series.THINNED).rglob("*"):
            with contextlib.suppress(OSError):
                if path.is_file():
                    self._freed.thinned.add(path.stat().st_size)
        if self._force:
            shutil.rmtree(self._folder / series.THINNED, ignore_errors=True)

    def _free_leftovers(self) -> None:
        for path in self._objects.leftovers(before=self._leftovers_before):
            with contextlib.suppress(OSError):
                self._freed.leftovers.add(os.lstat(path).st_size)
        if self._force:
            self._objects.sweep(before=self._leftovers_before)


_COUNTS = ("unreferenced", "elsewhere", "thinned", "leftovers", "young", "shared", "alone")


def _batches(found: Sequence[Held]) -> Iterator[Sequence[Held]]:
    for at in range(0, len(found), AT_ONCE):
        yield found[at : at + AT_ONCE]


def _place(holder: Holder) -> str:
    """Return what two names of one place have in common."""
    if holder.url.startswith("/"):
        with contextlib.suppress(OSError):
            there = os.stat(holder.url)
            return f"{there.st_dev}:{there.st_ino}"
    return holder.url.rstrip("/")
