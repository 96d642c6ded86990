"""Small objects in a folder of packs: this process appends to one of its own and reads all of them.

A writer holds a lock on its pack (`flock`) for as long as it lives, so that nobody merges it away meanwhile. Merging
and removing take turns by a lock file. Reading takes no lock: a pack that vanishes was merged, and is looked for anew.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import threading
from collections.abc import Iterable, Iterator
from hashlib import sha256
from heapq import merge
from typing import NamedTuple

from cmf.objects import pack as packs
from cmf.objects.pack import Handle, Pack, PackWriter, Place, sync_path

PACK_BYTES_MAX = 128 << 20
PACK_OBJECTS_MAX = 32_768
"""A pack that has grown to this gets its index; what the index holds need not be in memory."""

SMALL_PACKS_MAX = 32
SMALL_PACK_BYTES = 16 << 20
"""So many packs below this size are merged, since each costs a reader a look."""

GONE_SHARE = 0.3
"""A pack of which more than this share was removed is written anew."""

HANDLES_MAX = 64

_PACK = re.compile(r"[0-9]+-[0-9a-f]{16}\.pack")
_LOCK = "lock"


class Found(NamedTuple):
    """An object in a pack."""

    pack: Pack
    place: Place


class Packs:
    """The packs of a folder. Safe to be used by several threads; a forked child writes a pack of its own."""

    def __init__(self, folder: str, drafts: str) -> None:
        self.folder = folder
        self._drafts = drafts
        self._lock = threading.RLock()
        self._syncing = threading.RLock()
        self._packs: dict[str, Pack] = {}
        self._writer: PackWriter | None = None
        self._others: set[str] = set()
        """Packs of other processes that hold, perhaps not yet durable, what this one was asked to put."""
        self._is_listed = False
        self._is_new = False

    # ---- reading -------------------------------------------------------------------------------------------------

    def find(self, digest: bytes, *, fresh: bool) -> Found | None:
        """Return where an object is; ``fresh``: look for what other processes did since."""
        with self._lock:
            if fresh:
                self.refresh()
            elif not self._is_listed:
                self._list()
            for found in reversed(self._packs.values()):
                place = self._try_find(found, digest)
                if place is not None:
                    return Found(found, place)
        return None

    def read(self, digest: bytes) -> bytes | None:
        """Return an object's bytes, unchecked, or None if no pack holds it."""
        with self._lock:
            for fresh in (False, True):
                found = self.find(digest, fresh=fresh)
                if found is not None:
                    with contextlib.suppress(FileNotFoundError):
                        self._make_room()
                        return found.pack.read(found.place)
        return None

    def held(self, wanted: set[bytes], *, note: bool = False) -> set[bytes]:
        """Return which of many objects are here, as all processes left it.

        With ``note`` the next `sync` makes them durable, whoever put them.
        """
        with self._lock:
            self.refresh()
            held: set[bytes] = set()
            for found in list(self._packs.values()):
                self._make_room()
                try:
                    here = found.held(wanted)
                except FileNotFoundError:  # merged since
                    return self.held(wanted, note=note)
                if here and note:
                    self._note(found)
                held |= here
            return held

    def entries(self) -> Iterator[tuple[bytes, int]]:
        """Yield the digest and size of each object, sorted, repeats included."""
        with self._lock:
            self.refresh()
            every = [found.entries() for found in self._packs.values()]
        for digest, place in merge(*every):
            yield digest, place.size

    def damaged(self) -> list[bytes]:
        """Return the objects of which only damaged bytes were found when their pack was read through."""
        with self._lock:
            self.refresh()
            found = {digest for each in self._packs.values() for digest in each.damaged()}
            return sorted(found - self.held(found))

    def refresh(self) -> None:
        """See what other processes wrote, merged and removed."""
        with self._lock:
            while True:
                removals = self._list()
                try:
                    for path, found in self._packs.items():
                        self._make_room()
                        if not self._is_own(found):
                            found.refresh(removals=path in removals)
                        elif path in removals:
                            found.refresh_removals()
                    return
                except FileNotFoundError:
                    continue  # merged since it was listed

    def _list(self) -> set[str]:
        """See which packs there are; return those of which something was removed."""
        self._is_listed = True
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            names = []
        there = {f"{self.folder}/{name}" for name in names if _PACK.fullmatch(name)}
        for path in self._packs.keys() - there:
            del self._packs[path]
        for path in sorted(there - self._packs.keys()):
            found = self._packs[path] = Pack(path)
            try:
                self._make_room()
                found.refresh(removals=packs.removals_path(path).rpartition("/")[2] in names)
            except FileNotFoundError:
                del self._packs[path]
            except BaseException:  # ctrl-C too: half refreshed, it would answer wrongly
                del self._packs[path]
                raise
        return {f"{self.folder}/{name[:-5]}.pack" for name in names if name.endswith(".gone")} & self._packs.keys()

    def _try_find(self, found: Pack, digest: bytes) -> Place | None:
        try:
            self._make_room()
            return found.find(digest)
        except FileNotFoundError:
            return None  # merged since: a fresh look finds it

    def _is_own(self, found: Pack) -> bool:
        return self._writer is not None and self._writer.pack is found and self._writer.pid == os.getpid()

    def _make_room(self) -> None:
        """Keep the number of open files small, however many packs there are."""
        opened = [found for found in self._packs.values() if found.handle is not None]
        if len(opened) > HANDLES_MAX:
            for found in opened:
                if not self._is_own(found):
                    found.handle = None

    # ---- writing -------------------------------------------------------------------------------------------------

    def put(self, digest: bytes, data: bytes) -> None:
        """Append an object, unless it is here with the right bytes; durable after `sync`."""
        with self._lock:
            found = self.find(digest, fresh=False)
            if found is not None:
                with contextlib.suppress(FileNotFoundError):
                    if sha256(found.pack.read(found.place)).digest() == digest:
                        self._note(found.pack)
                        return
                # Damaged. The new copy counts, since it is looked for first; this only tidies up.
                with contextlib.suppress(OSError), self._turn():
                    self._remove(found)
            writer = self._own()
            writer.append(digest, data)
            if len(writer.pack.places) >= PACK_OBJECTS_MAX or writer.pack.end >= PACK_BYTES_MAX:
                self._roll()

    def _note(self, found: Pack) -> None:
        if not found.is_sealed and not self._is_own(found):
            self._others.add(found.path)

    def sync(self) -> None:
        """Make everything put so far survive power loss; `OSError` if the disk refuses.

        After a failed sync the kernel may have dropped what it had not written, so that file is never synced again:
        what reads back right is written once more, into a new pack.
        """
        with self._syncing:  # another thread's sync may be at work on ours: it is to be waited for
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            writer, others, self._others = self._writer, self._others, set()
            if writer is not None and writer.pid != os.getpid():
                writer = None
            end = writer.pack.end if writer is not None else 0
        try:
            for path in others:
                with contextlib.suppress(FileNotFoundError):  # merged, and so synced
                    sync_path(path)
            if others:
                sync_path(self.folder)
        except OSError:
            with self._lock:
                self._others |= others
            raise
        lost = 0
        if writer is not None and writer.synced < end:
            try:
                os.fdatasync(writer.fd)
                writer.synced = max(writer.synced, end)
            except OSError:
                with self._lock:
                    lost = self._rescue(writer)
        if self._is_new:
            sync_path(self.folder)
            self._is_new = False
        if lost:
            raise OSError(errno.EIO, f"objects were lost by the disk: {lost}")

    def close(self) -> None:
        """Sync, and give this process's pack its index: nothing is appended to it any more."""
        with self._lock:
            if self._writer is not None and self._writer.pid == os.getpid():
                self._roll()

    def forked(self) -> None:
        """Leave the parent's pack to the parent: called in a forked child."""
        self._lock, self._syncing = threading.RLock(), threading.RLock()

    def _own(self) -> PackWriter:
        writer = self._writer
        if writer is not None and (writer.pid != os.getpid() or (writer.is_clean and writer.is_gone())):
            writer = None
        if writer is None:
            try:
                writer = PackWriter(self.folder, self._drafts)
            except FileNotFoundError:
                os.makedirs(self._drafts, exist_ok=True)
                os.makedirs(self.folder, exist_ok=True)
                sync_path(os.path.dirname(self.folder))
                writer = PackWriter(self.folder, self._drafts)
            self._writer = writer
            self._packs[writer.pack.path] = writer.pack
            self._is_new = True
        return writer

    def _roll(self) -> None:
        """Sync and seal the own pack; the next object opens another one."""
        self.sync()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.seal()
            # Read anew, by its index: what is in it need not be in memory any more.
            self._packs[writer.pack.path] = sealed = Pack(writer.pack.path)
            sealed.refresh(removals=True)

    def _rescue(self, broken: PackWriter) -> int:
        """Write what a failed sync may have lost into a new pack, and sync that; return how much was lost."""
        self._writer = None
        again = [(digest, place) for digest, place in broken.pack.places.items() if place.offset >= broken.synced]
        lost = 0
        writer = self._own()
        for digest, place in again:
            del broken.pack.places[digest]
            data = broken.pack.read(place)
            if sha256(data).digest() == digest:
                writer.append(digest, data)
            else:
                lost += 1
        os.ftruncate(broken.fd, broken.synced)
        broken.pack.end = broken.synced
        os.fdatasync(writer.fd)
        writer.synced = writer.pack.end
        return lost

    # ---- removing and merging ------------------------------------------------------------------------------------

    def remove(self, digests: Iterable[bytes]) -> set[bytes]:
        """Remove objects, and write packs anew that are mostly removed; return which were there."""
        removed: set[bytes] = set()
        with self._lock:
            self.refresh()
            if not self._packs:
                return removed
            with self._turn():
                for digest in digests:
                    for found in self._copies(digest):
                        self._remove(found)
                        removed.add(digest)
        if removed:
            self.tidy()
        return removed

    def _copies(self, digest: bytes) -> Iterator[Found]:
        for found in list(self._packs.values()):
            for place in (found.find(digest), found.damaged().get(digest)):
                if place is not None:
                    yield Found(found, place)

    def _remove(self, found: Found) -> None:
        """Say in the list beside its pack that an object is gone."""
        path = packs.removals_path(found.pack.path)
        handle = Handle(path, os.O_RDWR | os.O_CREAT, 0o644)
        size = os.fstat(handle.fd).st_size
        data = packs.removal(found.place.offset)
        whole = max(0, size - len(packs.GONE_MAGIC)) // len(data) * len(data)
        if size < len(packs.GONE_MAGIC):
            data, whole = packs.GONE_MAGIC + data, -len(packs.GONE_MAGIC)
        os.pwrite(handle.fd, data, len(packs.GONE_MAGIC) + whole)
        os.fsync(handle.fd)
        if size < len(packs.GONE_MAGIC):
            sync_path(self.folder)
        found.pack.gone |= {found.place.offset}

    def tidy(self) -> int:
        """Merge many small packs into few, and write those anew that are mostly removed; return how many went.

        Only packs that nobody appends to: sealed ones, and those whose writer has ended. The merged pack is durable
        before the others go.
        """
        with self._lock, self._turn(wait=False) as is_ours:
            if not is_ours:
                return 0
            self.refresh()
            idle = [found for found in self._packs.values() if self._is_idle(found)]
            chosen = [found for found in idle if not found.is_sealed or _is_worn(found)]
            small = [found for found in idle if found not in chosen and found.end < SMALL_PACK_BYTES]
            if len(small) >= SMALL_PACKS_MAX:
                chosen += small
            merged = self._merge(chosen) if chosen else []
            for path in merged:
                os.unlink(path)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(packs.removals_path(path))
            if merged:
                self.refresh()
            return len(merged)

    def _is_idle(self, found: Pack) -> bool:
        if self._is_own(found) or not found.is_whole:
            return False
        if found.is_sealed:
            return True
        try:
            handle = Handle(found.path, os.O_RDONLY)
            fcntl.flock(handle.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False  # its writer lives, or this file system cannot tell
        return True

    def _merge(self, chosen: list[Pack]) -> list[str]:
        """Write what is in some packs into new ones; return the paths of those that are not needed any more."""
        merged: list[str] = []
        seen: set[bytes] = set()
        writer: PackWriter | None = None
        for found in chosen:
            self._make_room()
            waiting = []
            for digest, place in found.entries():
                data = found.read(place)
                if sha256(data).digest() != digest:
                    break  # damaged: kept as it is, for `verify` to find
                if digest not in seen:
                    waiting.append((digest, data))
            else:
                for digest, data in waiting:
                    seen.add(digest)
                    writer = writer or PackWriter(self.folder, self._drafts, is_hidden=True)
                    writer.append(digest, data)
                    if writer.pack.end >= PACK_BYTES_MAX or len(writer.pack.places) >= PACK_OBJECTS_MAX:
                        writer.publish()
                        writer = None
                merged.append(found.path)
        if writer is not None:
            writer.publish()
        sync_path(self.folder)
        return merged

    @contextlib.contextmanager
    def _turn(self, *, wait: bool = True) -> Iterator[bool]:
        """Take turns with other processes in removing and merging, where the file system has locks."""
        try:
            handle = Handle(f"{self.folder}/{_LOCK}", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:
            yield False
            return
        try:
            fcntl.flock(handle.fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _is_worn(found: Pack) -> bool:
    if not found.gone:
        return False
    kept = sum(place.size for _, place in found.entries())
    return found.end - kept > GONE_SHARE * found.end
