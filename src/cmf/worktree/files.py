"""The files and folders of a work tree: kept as objects, named in records, and placed again."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from cmf.errors import ConflictError, CorruptError, DeniedError, NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.objects import CHUNK_BYTES, ObjectStore, manifest, mismatched, read
from cmf.objects.local import LocalObjects
from cmf.objects.source import disk_error, measure, read_error
from cmf.worktree import uri

FILES_MAX = 1_000_000
"""More files than this in one folder are refused: a manifest of them would be over its limit soon."""

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a file or folder is: its digest, its size in bytes (a folder's: of its files) and its path for records.

    ``files`` counts the files, ``objects`` the different objects they are, a folder's manifest included.
    """

    digest: str
    size: int
    path: str | dict[str, str]
    files: int
    objects: int


class Files:
    """The files below a root, the folder that holds `.cmf`, and where their bytes are kept."""

    def __init__(self, objects: LocalObjects, root: Path, *, home: Path | None = None) -> None:
        self.objects = objects
        self.root = root
        self._root = os.path.abspath(root)
        self._real_root = os.path.realpath(root)
        self._home = os.fspath(home) if home is not None else _home()

    def keep(self, path: str | os.PathLike[str], *, copy: bool = True) -> Kept:
        """Hash a file or a folder while copying it into the objects; with ``copy=False`` only hash it.

        The bytes are there at once and durable after `LocalObjects.flush`. A folder's manifest is kept in both cases.
        In a folder, `.git` and `.cmf` are left out; a link counts as what it leads to, if that is inside the folder or
        the root; any other link, and a file that is no regular file, is a `UsageError`. Missing: `NotFoundError`;
        unreadable: `DeniedError`; changing under the reader: `CorruptError` of kind ``changing``.
        """
        absolute = os.path.abspath(os.fspath(path))
        self._check_own(absolute)
        try:
            is_folder = stat.S_ISDIR(os.stat(absolute).st_mode)
        except ValueError as error:
            raise UsageError(f"{absolute!r} is no path: {error}.") from error
        except OSError as error:
            raise read_error(error, os.fspath(path)) from error
        recorded = self.record_path(absolute)
        if not is_folder:
            digest, size = self.objects.adopt(absolute, durable=False) if copy else measure(absolute)
            return Kept(digest=digest, size=size, path=recorded, files=1, objects=1)
        entries = self._entries(absolute, copy=copy)
        data = manifest.encode(entries)
        self.objects.put(digests.file_digest(data), data, durable=False)
        return Kept(
            digest=manifest.tree_digest(data),
            size=sum(entry.size for entry in entries),
            path=recorded,
            files=len(entries),
            objects=len({entry.digest for entry in entries}) + 1,
        )

    def record_path(self, path: str | os.PathLike[str]) -> str | dict[str, str]:
        """Return a path as records hold it.

        ``/``-separated, in NFC, relative to the root; outside it ``~``-relative or absolute; a URI without user,
        password and signed query; ``{"$b": …}`` if it is not UTF-8. A link is not followed.
        """
        text = os.fspath(path)
        if uri.is_uri(text):
            return uri.bare(text)
        absolute = os.path.abspath(text)
        found = _below(absolute, self._root)
        if found is None:
            # The root, or the way to the path, may lead through a link: compare what both really are.
            folder, name = os.path.split(absolute)
            found = _below(os.path.join(os.path.realpath(folder), name), self._real_root)
        if found is not None and (found == "~" or found.startswith("~/")):
            found = "./" + found
        if found is None:
            home = _below(absolute, self._home) if self._home else None
            found = absolute if home is None else "~" if home == "." else f"~/{home}"
        spelled = manifest.path_of(os.fsencode(found))
        return spelled if isinstance(spelled, str) else {"$b": base64.b64encode(spelled).decode()}

    def place(self, digest: str, target: str | os.PathLike[str], objects: ObjectStore) -> int:
        """Write a file or a folder at a path, verified and atomically; return its size in bytes.

        If the same bytes are there already, nothing is done; if anything else is, it is a `ConflictError`. An object
        that is missing is a `NotFoundError`, a damaged one a `CorruptError`; then nothing was written. A folder's
        paths come from its manifest, which lets none lead out of it; no link is made and none followed.
        """
        digests.check_digest(digest)
        path = os.path.abspath(os.fspath(target))
        if os.path.lexists(path) and not _is_empty_folder(path):
            return self._compare(digest, path)
        folder, name = os.path.split(path)
        temporary = os.path.join(folder, f".{name[:200]}.{os.urandom(8).hex()}")
        try:
            os.makedirs(folder, exist_ok=True)
            if not digest.startswith(digests.TREE):
                size = _write(objects, digest, temporary, executable=False)
                _move_file(temporary, path)
                return size
            size = _write_folder(objects, digest, temporary)
            os.rename(temporary, path)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise _in_the_way(path) from error
        except OSError as error:
            if error.errno == errno.ENOTEMPTY:
                raise _in_the_way(path) from error
            raise disk_error(error, f"{path} cannot be written") from error
        finally:
            _discard(temporary)
        return size

    def _check_own(self, absolute: str) -> None:
        relative = _below(absolute, self._root)
        if relative is not None and any(part.casefold() in manifest.FORBIDDEN for part in relative.split("/")):
            raise UsageError(f"{absolute} belongs to git or to cmf itself.", hint="Record your own files.")

    def _entries(self, top: str, *, copy: bool) -> list[manifest.Entry]:
        entries: list[manifest.Entry] = []
        start = len(os.fsencode(top)) + (not top.endswith("/"))
        for path, mode in self._walk(top):
            if len(entries) == FILES_MAX:
                raise UsageError(
                    f"{top} holds more than {FILES_MAX} files.", hint="Record its sub-folders.", kind="limit"
                )
            digest, size = self.objects.adopt(path, durable=False) if copy else measure(path)
            name = manifest.path_of(os.fsencode(path)[start:])
            entries.append(manifest.Entry(name, digest, size, executable=bool(mode & stat.S_IXUSR)))
        return entries

    def _walk(self, top: str) -> Iterator[tuple[str, int]]:
        """Yield the path and mode of each file below a folder."""
        real_top = os.path.realpath(top)
        waiting: list[tuple[str, tuple[str, ...]]] = [(top, (real_top,))]
        while waiting:
            folder, above = waiting.pop()
            try:
                with os.scandir(folder) as found:
                    items = list(found)
            except OSError as error:
                raise read_error(error, folder) from error
            for item in items:
                if item.name.casefold() in manifest.FORBIDDEN:
                    continue
                try:
                    real = os.path.join(above[-1], item.name)
                    if item.is_symlink():
                        real = self._resolve(item.path, real_top, above)
                    mode = item.stat().st_mode
                except OSError as error:
                    raise read_error(error, item.path) from error
                if stat.S_ISDIR(mode):
                    waiting.append((item.path, (*above, real)))
                else:
                    yield item.path, mode

    def _resolve(self, link: str, real_top: str, above: tuple[str, ...]) -> str:
        """Return what a link in a folder leads to; refuse one that leads out, in a circle, or to git's or our files."""
        real = os.path.realpath(link)
        if real in above:
            raise UsageError(f"{link} leads to a folder that it is in.", hint="Remove the link.")
        for root in (real_top, self._real_root):
            relative = _below(real, root)
            if relative is not None:
                if any(part.casefold() in manifest.FORBIDDEN for part in relative.split("/")):
                    break
                return real
        raise UsageError(
            f"{link} leads out of its folder, to {real}.",
            hint="Put a copy there instead of the link, or record what it leads to by itself.",
        )

    def _compare(self, digest: str, path: str) -> int:
        try:
            if not digest.startswith(digests.TREE):
                found, size = measure(path)
            elif os.path.isdir(path):
                entries = self._entries(path, copy=False)
                found, size = manifest.tree_digest(manifest.encode(entries)), sum(entry.size for entry in entries)
            else:
                raise _in_the_way(path)
        except (UsageError, NotFoundError, DeniedError) as error:
            raise _in_the_way(path) from error
        if found != digest:
            raise _in_the_way(path)
        return size


def _home() -> str:
    """Return the user's home folder from the user database, which unlike `HOME` no caller sets; or an empty text."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _below(path: str, folder: str) -> str | None:
    """Return a path relative to a folder that holds it, ``.`` for the folder itself; or None if it doesn't."""
    if path == folder:
        return "."
    start = folder if folder.endswith("/") else folder + "/"
    return path[len(start) :] if path.startswith(start) else None


def _is_empty_folder(path: str) -> bool:
    try:
        return not os.path.islink(path) and not os.listdir(path)
    except OSError:
        return False


def _write(objects: ObjectStore, digest: str, path: str, *, executable: bool, size: int | None = None) -> int:
    """Write an object into a new file, verified, and return its size."""
    hashed = hashlib.sha256()
    count = 0
    with objects.open(digest) as source:
        handle = os.open(path, _WRITE, 0o777 if executable else 0o666)
        with os.fdopen(handle, "wb") as file:
            while chunk := source.read(CHUNK_BYTES):
                hashed.update(chunk)
                file.write(chunk)
                count += len(chunk)
    actual = digests.FILE + hashed.hexdigest()
    if actual != digest:
        raise mismatched(digest, actual)
    if size is not None and size != count:
        raise CorruptError(f"A manifest gives object {digest} another size than its {count} bytes.", kind="manifest")
    return count


def _write_folder(objects: ObjectStore, digest: str, folder: str) -> int:
    """Write the files of a manifest into a new folder and return their size."""
    entries = manifest.decode(read(objects, digests.object_of(digest), manifest.MANIFEST_BYTES_MAX))
    lacking = objects.absent(dict.fromkeys(entry.digest for entry in entries))
    if lacking:
        raise NotFoundError(
            f"{len(lacking)} of the objects of folder {digest} are not here, {lacking[0]} for one.",
            hint="`cmf pull --data` fetches what a hub holds.",
        )
    os.mkdir(folder)
    made = {folder}
    size = 0
    for entry in entries:
        # The folder is new and ours, and no link is ever made in it: a path that `decode` let pass stays below it.
        path = os.path.join(folder, os.fsdecode(manifest.raw_path(entry.path)))
        parent = os.path.dirname(path)
        if parent not in made:
            os.makedirs(parent, exist_ok=True)
            made.add(parent)
        size += _write(objects, entry.digest, path, executable=entry.executable, size=entry.size)
    return size


def _move_file(temporary: str, path: str) -> None:
    """Give a file its name, never in place of another file."""
    if _is_empty_folder(path):
        raise _in_the_way(path)
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if os.path.lexists(path):
            raise _in_the_way(path) from error
        os.rename(temporary, path)


def _discard(temporary: str) -> None:
    try:
        os.unlink(temporary)
    except FileNotFoundError:
        pass
    except OSError:
        import shutil

        shutil.rmtree(temporary, ignore_errors=True)


def _in_the_way(path: str) -> ConflictError:
    return ConflictError(
        f"{path} is there already, with other content.", hint="Move it away, or choose another place.", kind="exists"
    )
