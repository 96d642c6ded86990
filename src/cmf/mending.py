"""Damaged objects made whole: those here fetched again from whoever holds them, those at a remote sent again."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from cmf.errors import CmfError, CorruptError, NotFoundError
from cmf.fetching import Holder
from cmf.model import digest as digests
from cmf.model.wire import Small
from cmf.moving import Progress, nothing
from cmf.objects import CHUNK_BYTES, RemoteStore, manifest, read
from cmf.objects.local import LocalObjects
from cmf.remote.data import DataRemote


class Mended(msgspec.Struct, kw_only=True):
    """Which damaged objects are whole again; which are not, with why."""

    mended: list[str]
    left: dict[str, str]


class Checked(msgspec.Struct, kw_only=True):
    """What was read at a remote, which objects are damaged there, with what was wrong, and which were ``mended``."""

    objects: int = 0
    object_bytes: int = 0
    damaged: dict[str, str]
    mended: list[str]


def again(objects: LocalObjects, holders: Iterable[Holder], damaged: Sequence[str]) -> Mended:
    """Fetch objects again that are damaged here, each from the first remote that has it whole."""
    done = Mended(mended=[], left=dict.fromkeys(damaged, "no remote has it for you to read"))
    for holder in holders:
        for digest in [*done.left]:
            try:
                with holder.objects("").open(digest) as source:
                    objects.put(digest, source)
                objects.check(digest)
            except NotFoundError:
                continue
            except CmfError as error:
                done.left[digest] = f"{holder.url}: {error.message}"
            else:
                del done.left[digest]
                done.mended.append(digest)
    return done


def damaged_parts(objects: LocalObjects, digest: str) -> list[str]:
    """Return which of the objects of an artifact are here and damaged: its file, or its manifest, or else its files."""
    first = digests.object_of(digest)
    if _is_damaged(objects, first):
        return [first]
    if not digest.startswith(digests.TREE):
        return []
    with contextlib.suppress(CmfError):
        entries = manifest.decode(read(objects, first, manifest.MANIFEST_BYTES_MAX))
        return [each for each in dict.fromkeys(entry.digest for entry in entries) if _is_damaged(objects, each)]
    return []


def _is_damaged(objects: LocalObjects, digest: str) -> bool:
    try:
        objects.check(digest)
    except NotFoundError:
        return False
    except CorruptError:
        return True
    return False


def check(holder: Holder, scopes: Sequence[str], progress: Progress = nothing) -> Checked:
    """Read all that a remote holds (of a hub: under these scopes), and say which objects have another hash."""
    done = Checked(damaged={}, mended=[])
    sizes: dict[str, int] = {}
    for scope in [""] if isinstance(holder, DataRemote) else scopes:
        there = holder.objects(scope)
        fresh = {digest: size for digest, size in there.list() if digest not in sizes}
        sizes |= fresh
        for page in there.get_all(fresh):
            for small in page:
                wrong = _wrong(there, small)
                if wrong:
                    done.damaged[small.digest] = wrong
                done.objects += 1
                done.object_bytes += sizes[small.digest]
                progress("objects", 1)
    return done


def _wrong(there: RemoteStore, small: Small) -> str:
    """Return what is wrong with an object that a remote sends, or ""; a large one is read for it."""
    hashed = hashlib.sha256(small.data)
    if small.large:
        try:
            with there.open(small.digest) as source:
                while chunk := source.read(CHUNK_BYTES):
                    hashed.update(chunk)
        except CorruptError as error:
            return error.message
        except NotFoundError:
            return ""  # removed meanwhile
    return "" if digests.FILE + hashed.hexdigest() == small.digest else "its bytes have another hash"


def send_again(objects: LocalObjects, holder: Holder, scopes: Sequence[str], damaged: Sequence[str]) -> Mended:
    """Replace objects that are damaged at a remote by those here; what is not whole here is left as it is."""
    done = Mended(mended=[], left={})
    for digest in damaged:
        try:
            objects.check(digest)
        except CmfError as error:
            done.left[digest] = error.message
        else:
            done.mended.append(digest)
    if isinstance(holder, DataRemote) and done.mended:
        # All at once: what shares a pack with them is sent anew, and must not be damaged itself.
        holder.objects("").remove(done.mended)
    for digest in [*done.mended]:
        try:
            _put(objects, holder, scopes, digest)
        except CmfError as error:
            done.mended.remove(digest)
            done.left[digest] = error.message
    return done


def _put(objects: LocalObjects, holder: Holder, scopes: Sequence[str], digest: str) -> None:
    for scope in [""] if isinstance(holder, DataRemote) else scopes:
        there = holder.objects(scope)
        if isinstance(holder, DataRemote) or not there.absent([digest]):
            with objects.open(digest) as source:
                there.put(digest, source)
            return
