"""What is kept here, as others read it: artifacts as the pointer files and the cache, or remote, of DVC.

Every object is read once for its MD5, and again if the place lacks it, verified both times. Files are made, never
replaced; the pointer file comes last, so that it never promises what is not there.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from cmf.bridges.dvc import files
from cmf.errors import ConflictError, CorruptError, NotFoundError, UsageError
from cmf.fetching import Brought, own_name
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, damaged, manifest, read
from cmf.objects.bucket import Bucket, in_flight
from cmf.objects.local import LocalObjects
from cmf.objects.source import disk_error
from cmf.remote import data
from cmf.worktree import dvc
from cmf.worktree.files import Files

FILES = "files/md5"
"""Where DVC 3 keeps its files, in a cache as in a remote."""

Progress = Callable[[str, int], None]
Bring = Callable[[str], Brought]
"""Makes sure that the bytes of what a name stands for are in the objects."""

_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)


class Exported(msgspec.Struct, kw_only=True):
    """One artifact as DVC has it now.

    ``path`` is the data's, ``pointer`` the pointer file's, ``md5`` DVC's hash of it, ``size`` in bytes. ``changed``:
    the pointer file is new. ``sent`` counts the files that the cache or remote lacked. ``executables`` are files of a
    folder whose executable bit DVC does not keep.
    """

    path: str
    pointer: str
    digest: str
    md5: str
    size: int
    changed: bool
    sent: int = 0
    executables: int = 0


def to_dvc(
    kept: Files,
    bring: Bring,
    names: Sequence[str],
    *,
    to: str | os.PathLike[str] | None = None,
    cache: str | os.PathLike[str] | None = None,
    remote: str = "",
    options: Mapping[str, str],
    progress: Progress,
) -> list[Exported]:
    """Put artifacts into a cache or remote of DVC 3, and write their pointer files.

    A name is a path, of what lies there now, or an artifact's as `fetching.find` has it. The pointer file of a path
    lies beside it, that of another artifact here; both in the folder ``to``, if one is given. The place is the folder
    ``cache``, the ``remote`` (a folder, or the URL of a bucket), or the cache of the DVC repository around the pointer.

    What is there already stays. A pointer file that says something else, or a file of the same name and another size,
    is a `ConflictError`; then what comes before it in the list is done.
    """
    if cache is not None and remote:
        raise UsageError("Bytes go into a cache or to a remote.", hint="Name one of the two.")
    done = []
    for name in names:
        if os.path.lexists(name):
            digest, folder = kept.keep(name).digest, os.path.dirname(os.path.abspath(name))
            last, executable = os.path.basename(os.path.abspath(name)), bool(os.stat(name).st_mode & stat.S_IXUSR)
        else:
            brought = bring(name)
            digest, folder, last, executable = brought.digest, os.getcwd(), own_name(brought), brought.executable
        folder = os.path.abspath(os.fspath(to)) if to is not None else folder
        if not os.path.isdir(folder):
            raise NotFoundError(f"There is no folder {folder}.", hint="Make it first.")
        place = _place(folder, cache, remote, options)
        path = os.path.join(folder, last)
        is_folder = digest.startswith(digests.TREE)
        done.append(
            _export(kept.objects, place, digest, path, executable=executable and not is_folder, progress=progress)
        )
    kept.flush()
    return done


def _place(folder: str, cache: str | os.PathLike[str] | None, remote: str, options: Mapping[str, str]) -> Bucket:
    """Return where the bytes of data in a folder go."""
    if remote:
        is_local = "://" not in remote
        if not is_local and not data.is_data(remote):
            raise UsageError(f"'{remote}' is no remote that is written here.", hint="A folder, s3://, gs:// or az://.")
        return data.bucket(os.path.abspath(remote) if is_local else remote, options)
    if cache is not None:
        return data.bucket(os.path.abspath(os.fspath(cache)), options)
    top = dvc.root(Path(folder))
    if top is None:
        raise UsageError(
            f"There is no DVC repository around {folder}.",
            hint="Say where the bytes go: --cache FOLDER or --remote URL; or make a repository: dvc init.",
        )
    return data.bucket(os.path.normpath(dvc.places(top).cache), options)


def _export(
    objects: LocalObjects, place: Bucket, digest: str, path: str, *, executable: bool, progress: Progress
) -> Exported:
    name = _text(os.fsencode(os.path.basename(path)))
    sender = _Sender(objects, place, progress)
    count, executables = None, 0
    if digest.startswith(digests.TREE):
        entries = manifest.decode(read(objects, digests.object_of(digest), manifest.MANIFEST_BYTES_MAX))
        inside = [_text(entry.path) for entry in entries]
        named = sender.send(dict.fromkeys(entry.digest for entry in entries))
        listed = files.write_folder((path, named[entry.digest]) for path, entry in zip(inside, entries, strict=True))
        md5 = _md5(listed) + files.DIR
        sender.write({md5: (len(listed), listed)})
        size, count = sum(entry.size for entry in entries), len(entries)
        executables = sum(entry.executable for entry in entries)
    else:
        md5 = sender.send([digest])[digest]
        size = objects.size(digest)
    pointer = path + files.SUFFIX
    spelled = files.write_pointer(name, md5, size=size, files=count, executable=executable)
    return Exported(
        path=path,
        pointer=pointer,
        digest=digest,
        md5=md5,
        size=size,
        changed=_write_pointer(pointer, spelled),
        sent=sender.sent,
        executables=executables,
    )


class _Sender:
    """Objects on their way into a place of DVC's, each under its MD5."""

    def __init__(self, objects: LocalObjects, place: Bucket, progress: Progress) -> None:
        self._objects = objects
        self._place = place
        self._progress = progress
        self.sent = 0

    def send(self, wanted: Iterable[str]) -> dict[str, str]:
        """Put these objects into the place, and return the MD5 of each."""
        measured = dict(in_flight(self._measure, wanted))
        self.write({md5: (size, digest) for digest, (md5, size) in measured.items()})
        return {digest: md5 for digest, (md5, _) in measured.items()}

    def write(self, found: dict[str, tuple[int, str | bytes]]) -> None:
        """Put what the place lacks there. By MD5: the size, and the object's digest or the bytes themselves."""
        names = {f"{FILES}/{md5[:2]}/{md5[2:]}": each for md5, each in found.items()}
        there = self._place.sizes(names)
        for name, (size, _) in names.items():
            if there.get(name, size) != size:
                raise ConflictError(
                    f"{self._place.url}/{name} has {there[name]} bytes, and not the {size} of what DVC calls so.",
                    hint="It is damaged: remove it, then run this again.",
                    kind="exists",
                )
        for _, size in in_flight(self._write, [(name, each[1]) for name, each in names.items() if name not in there]):
            self.sent += 1
            self._progress("files", 1)
            self._progress("bytes", size)

    def _write(self, given: tuple[str, str | bytes]) -> int:
        name, what = given
        if isinstance(what, bytes):
            return self._place.write(name, digests.file_digest(what), what)
        with self._objects.open(what) as source:
            return self._place.write(name, what, source)

    def _measure(self, digest: str) -> tuple[str, int]:
        """Return an object's MD5 and its size in bytes; `CorruptError` if it is damaged."""
        ours, theirs, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
        with self._objects.open(digest) as source:
            while chunk := source.read(CHUNK_BYTES):
                ours.update(chunk)
                theirs.update(chunk)
                size += len(chunk)
        if digests.FILE + ours.hexdigest() != digest:
            raise damaged(digest)
        return theirs.hexdigest(), size


def _text(name: str | bytes) -> str:
    """Return a name as DVC can hold it; `UsageError` for one that is not UTF-8, at which DVC itself fails."""
    try:
        return name if isinstance(name, str) else name.decode()
    except UnicodeDecodeError as error:
        raise UsageError(f"{name!r} is not UTF-8: DVC holds no such name.", hint="Rename it.") from error


def _write_pointer(path: str, data: bytes) -> bool:
    """Make a pointer file, whole or not at all, and tell whether it is new; `ConflictError` if another is there."""
    temporary = os.path.join(os.path.dirname(path), f".pointer~{os.urandom(8).hex()}")
    try:
        if os.path.lexists(path):
            _check_same(path, data)
            return False
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            os.replace(temporary, path)  # no hard links here
    except OSError as error:
        raise disk_error(error, f"{path} cannot be written") from error
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)
    return True


def _check_same(path: str, data: bytes) -> None:
    """Refuse a pointer file that names other data than ours does, however it is spelled."""
    try:
        if not stat.S_ISREG(os.lstat(path).st_mode):
            raise CorruptError(f"{path} is no file.")
        with open(path, "rb") as file:
            there = files.read_pointer(file.read(files.FILE_BYTES_MAX + 1), os.path.basename(path)).outs
    except CorruptError:
        there = ()
    ours = files.read_pointer(data, os.path.basename(path)).outs
    if [(out.path, out.hash) for out in there] != [(out.path, out.hash) for out in ours]:
        raise ConflictError(
            f"{path} is there already, and names other data.",
            hint="Move it away, or choose another folder with --to.",
            kind="exists",
        )


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
