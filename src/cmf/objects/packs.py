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
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from heapq import merge
from typing import NamedTuple, TypeVar

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
_Here = TypeVar("_Here", bound=Collection[bytes])

READ_BYTES = 4 << 20
GAP_BYTES = 16 << 10
"""Objects that lie no further apart are read together, up to this many bytes."""

_PACK = re.compile(r"[0-9]+-[0-9a-f]{16}\.pack")
_LOCK = "lock"


class Found(NamedTuple):
    """An object in a pack."""

    pack: Pack
    place: Place


def used(path: str) -> int:
    """Return when something in a pack was last put or counted on: wall time in ns."""
    handle = Handle(path, os.O_RDONLY)  # on a network file system opening asks the server, looking alone may not
    return os.fstat(handle.fd).st_mtime_ns


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
        self._last = ""
        """The pack in which many objects were looked for and found last."""
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
            return set().union(*(here for _, here in self._ask(wanted, Pack.held, note=note)))

    def read_all(self, wanted: Sequence[bytes]) -> Iterator[bytes | None]:
        """Yield the bytes of objects, unchecked, in the order asked for; None for one that no pack holds.

        Those that lie side by side in a pack, as they do if they were put one after the other, are read together.
        """
        with self._lock:
            self.refresh()
            asked = self._ask(set(wanted), Pack.find_all)
            found = {digest: Found(pack, place) for pack, here in asked for digest, place in here.items()}
        for near in _side_by_side(wanted, found):
            if near[0] not in found:
                yield from (None for _ in near)
                continue
            pack, start = found[near[0]].pack, found[near[0]].place.offset
            last = found[near[-1]].place
            with self._lock:
                self._make_room()
                data = self._try_read(Found(pack, Place(start, last.offset + last.size - start)))
            for digest in near:
                offset, size = found[digest].place
                # Else it was merged since, or removed: a fresh look tells.
                yield data[offset - start : offset - start + size] if data or not size else self.read(digest)

    def _ask(
        self, wanted: set[bytes], ask: Callable[[Pack, set[bytes]], _Here], *, note: bool = False
    ) -> list[tuple[Pack, _Here]]:
        """Return packs with what they answered of many objects, each of which one answers; ``note`` as of `held`."""
        answers: list[tuple[Pack, _Here]] = []
        lacking = set(wanted)
        # What was put together is asked for together: the pack that held something last is looked into first.
        for found in sorted(self._packs.values(), key=lambda each: each.path != self._last):
            if not lacking:
                break
            self._make_room()
            try:
                here = ask(found, lacking)
                if here and note:
                    if not _count_on(found):
                        raise FileNotFoundError(found.path)
                    here = ask(found, lacking) if found.gone else here
                    self._note(found)
            except FileNotFoundError:  # merged since
                self.refresh()
                return self._ask(wanted, ask, note=note)
            if here:
                self._last = found.path
                answers.append((found, here))
                lacking.difference_update(here)
        return answers

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the digest and size of each object, and when its pack was last `used`; sorted, repeats included."""
        with self._lock:
            self.refresh()
            every = [_dated(found) for found in self._packs.values()]
        yield from merge(*every)

    def damaged(self) -> list[bytes]:
        """Return the objects of which only damaged bytes were found when their pack was read through."""
        with self._lock:
            self.refresh()
            found = {digest for each in self._packs.values() for digest in each.damaged()}
            return sorted(found - self.held(found))

    def removed_bytes(self) -> int:
        """Return how many bytes of packs hold what was removed."""
        with self._lock:
            self.refresh()
            return sum(found.end - _kept(found) for found in self._packs.values() if found.gone)

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
                is_right = sha256(self._try_read(found)).digest() == digest
                if is_right and _count_on(found.pack) and found.place.offset not in found.pack.gone:
                    self._note(found.pack)
                    return
                if not is_right:
                    # Damaged. The new copy counts, since it is looked for first; this only tidies up.
                    with contextlib.suppress(OSError), self._turn():
                        self._remove(found.pack, [found.place])
            writer = self._own()
            writer.append(digest, data)
            if len(writer.pack.places) >= PACK_OBJECTS_MAX or writer.pack.end >= PACK_BYTES_MAX:
                self._roll()

    def _try_read(self, found: Found) -> bytes:
        try:
            return found.pack.read(found.place)
        except FileNotFoundError:  # merged since
            return b""

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

    def remove(self, digests: Iterable[bytes], *, before: int | None = None) -> dict[bytes, int]:
        """Remove objects, and write packs anew that are mostly removed; return the sizes of those that were there.

        With ``before``, a wall time in ns, only of packs that nobody `used` since; who begins to count on one
        meanwhile finds it again. Then packs are left as they are, for `tidy`.
        """
        removed: dict[bytes, int] = {}
        with self._lock:
            self.refresh()
            if not self._packs:
                return removed
            wanted = set(digests)
            with self._turn():
                for found in list(self._packs.values()):
                    removed.update(self._remove_from(found, wanted, before))
            if before is not None and removed:
                for digest in self.held(set(removed)):
                    del removed[digest]
        if removed and before is None:
            self.tidy()
        return removed

    def _remove_from(self, found: Pack, wanted: set[bytes], before: int | None) -> dict[bytes, int]:
        self._make_room()
        try:
            then = used(found.path)
            if before is not None and then >= before:
                return {}
            places = found.find_all(wanted)
        except FileNotFoundError:  # merged by a process that took no turns
            return {}
        damaged = {digest: place for digest, place in found.damaged().items() if digest in wanted}
        if not places and not damaged:
            return {}
        self._remove(found, [*places.values(), *damaged.values()])
        if before is not None and used(found.path) != then:
            for digest, place in places.items():
                self._own().append(digest, found.read(place))
            self.sync()
            return {}
        return {digest: place.size for digest, place in (damaged | places).items()}

    def _remove(self, found: Pack, places: Sequence[Place]) -> None:
        """Say in the list beside a pack that some of its objects are gone."""
        path = packs.removals_path(found.path)
        handle = Handle(path, os.O_RDWR | os.O_CREAT, 0o644)
        size = os.fstat(handle.fd).st_size
        data = b"".join(packs.removal(place.offset) for place in places)
        start = len(packs.GONE_MAGIC)
        entry = len(data) // len(places)
        whole = start + max(0, size - start) // entry * entry
        if size < start:
            data, whole = packs.GONE_MAGIC + data, 0
        written = os.pwrite(handle.fd, data, whole)
        if written != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
        os.fsync(handle.fd)
        if size < start:
            sync_path(self.folder)
        found.gone |= {place.offset for place in places}

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
            small = [
                found
                for found in idle
                if found not in chosen and found.end < SMALL_PACK_BYTES and not found.is_full(PACK_OBJECTS_MAX)
            ]
            if len(small) >= SMALL_PACKS_MAX:
                chosen += small
            if not chosen:
                return 0
            last = max(used(found.path) for found in chosen)
            merged, made = self._merge(chosen, last)
            for path in merged:
                handle = Handle(path, os.O_RDONLY)
                os.unlink(path)
                if os.fstat(handle.fd).st_mtime_ns > last:  # somebody counted on it at the last moment
                    for new in made:
                        os.utime(new)
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

    def _merge(self, chosen: list[Pack], last: int) -> tuple[list[str], list[str]]:
        """Write what is in some packs, `used` last at a time, into new ones.

        Returns the paths of those that are not needed any more, and of the new ones.
        """
        merged: list[str] = []
        made: list[str] = []
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
                        made.append(writer.publish(last))
                        writer = None
                merged.append(found.path)
        if writer is not None:
            made.append(writer.publish(last))
        sync_path(self.folder)
        return merged, made

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


def _count_on(found: Pack) -> bool:
    """Say that somebody counts on what is in a pack, so that nobody who frees old objects takes it; False if gone.

    What was removed before is seen after this.
    """
    try:
        os.utime(found.path)
    except FileNotFoundError:
        return False
    except OSError:  # of another user, who alone may remove it; or nobody can write here
        pass
    found.refresh_removals()
    return True


def _side_by_side(wanted: Sequence[bytes], found: Mapping[bytes, Found]) -> Iterator[Sequence[bytes]]:
    """Yield objects, in the order asked for, as runs of those that one read of a pack brings; or that no pack holds."""
    start = 0
    for at in range(1, len(wanted) + 1):
        first, before = found.get(wanted[start]), found.get(wanted[at - 1])
        following = found.get(wanted[at]) if at < len(wanted) else None
        if at < len(wanted) and first is before is following is None:
            continue
        if first is not None and before is not None and following is not None and first.pack is following.pack:
            gap = following.place.offset - before.place.offset - before.place.size
            length = following.place.offset + following.place.size - first.place.offset
            if 0 <= gap <= GAP_BYTES and length <= READ_BYTES:
                continue
        yield wanted[start:at]
        start = at


def _dated(found: Pack) -> Iterator[tuple[bytes, int, int]]:
    """Return the digest and size of each object of a pack, and when the pack was last `used`."""
    try:
        last = used(found.path)
    except FileNotFoundError:  # merged since: what it held is found elsewhere at the next look
        last = time.time_ns()
    return ((digest, place.size, last) for digest, place in found.entries())


def _is_worn(found: Pack) -> bool:
    if not found.gone:
        return False
    return found.end - _kept(found) > GONE_SHARE * found.end


def _kept(found: Pack) -> int:
    return sum(place.size for _, place in found.entries())
