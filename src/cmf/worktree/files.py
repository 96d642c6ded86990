"""The files and folders of a work tree: kept as objects, named in records, and placed again."""

from __future__ import annotations

import base64
import itertools
import os
import pwd
import stat
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from cmf import config
from cmf.config import Policy, Rule
from cmf.errors import CmfError, DeniedError, NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.objects import ObjectStore, manifest
from cmf.objects.local import LocalObjects
from cmf.objects.source import measure, read_error
from cmf.worktree import memory, placing, uri
from cmf.worktree.memory import Memory
from cmf.worktree.policy import Policies

MEMORY = "stat.db"
WORTH_FILES = 32
WORTH_BYTES = 1 << 20
"""A folder with so many files, or a file or folder of so many bytes, is worth remembering: less is read as fast."""


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a file or folder is: its digest, its size in bytes (a folder's: of its files) and its path for records.

    ``files`` counts the files, ``objects`` the different objects they are, a folder's manifest included. ``policy`` is
    that of the file, or of the least safely kept one in a folder.
    """

    digest: str
    size: int
    path: str | dict[str, str]
    files: int
    objects: int
    policy: Policy = config.COPY


class _File(NamedTuple):
    """A file that was met: its folder, its name there, its path, and what `stat` says of it."""

    folder: str
    name: str
    path: str
    stat: os.stat_result


class _Read(NamedTuple):
    """A file that was read; or ``recalled``, and to be read if the objects do not hold it."""

    entry: manifest.Entry
    policy: Policy
    recalled: _File | None = None


_UNKNOWN = (b"", b"")


class Files:
    """The files below a root, the folder that holds `.cmf`, and where their bytes are kept."""

    def __init__(
        self, objects: LocalObjects, root: Path, *, home: Path | None = None, rules: Sequence[Rule] = ()
    ) -> None:
        self.objects = objects
        self._policies = Policies(rules) if rules else None
        self._memory = Memory(objects.folder.with_name(MEMORY))
        self._lock = threading.RLock()
        self._seen: list[memory.Seen] = []
        self._gone: list[tuple[str, str]] = []
        self.root = root
        self._root = os.path.abspath(root)
        self._real_root = os.path.realpath(root)
        self._home = os.fspath(home) if home is not None else _home()

    def keep(self, path: str | os.PathLike[str], *, policy: Policy | None = None) -> Kept:
        """Hash a file or a folder, and keep its bytes as the ``policy`` says: by the store's rules, if none is given.

        ``copy`` copies them into the objects; ``link`` gives large files a second name there and makes them read-only;
        ``reference`` leaves them where they are. What is kept is there at once, and durable after `flush`. A folder's
        manifest is always kept. A file that the stat memory knows, and that has not changed, is not read.

        In a folder, `.git` and `.cmf` are left out; a link counts as what it leads to, if that is inside the folder or
        the root; any other link, and a file that is no regular file, is a `UsageError`. Missing: `NotFoundError`;
        unreadable: `DeniedError`; changing under the reader: `CorruptError` of kind ``changing``.
        """
        absolute = os.path.abspath(os.fspath(path))
        self._check_own(absolute)
        try:
            found = os.stat(absolute)
        except ValueError as error:
            raise UsageError(f"{absolute!r} is no path: {error}.") from error
        except OSError as error:
            raise read_error(error, os.fspath(path)) from error
        recorded = self.record_path(absolute)
        if not stat.S_ISDIR(found.st_mode):
            each = _File(*os.path.split(absolute), absolute, found)
            (kept,) = self._confirm(self._keep([each], policy, is_worth=found.st_size >= WORTH_BYTES))
            return Kept(
                digest=kept.entry.digest, size=kept.entry.size, path=recorded, files=1, objects=1, policy=kept.policy
            )
        every = self._keep_folder(absolute, policy)
        entries = [each.entry for each in every]
        data = manifest.encode(entries)
        self.objects.put(digests.file_digest(data), data, durable=False)
        return Kept(
            digest=manifest.tree_digest(data),
            size=sum(entry.size for entry in entries),
            path=recorded,
            files=len(entries),
            objects=len({entry.digest for entry in entries}) + 1,
            policy=max({each.policy for each in every} or {config.COPY}, key=config.POLICIES.index),
        )

    def flush(self) -> None:
        """Make durable what was kept, then remember which files it came from; any thread may call it.

        In this order: else a power cut could leave a memory of bytes that are not there.
        """
        with self._lock:
            seen, self._seen = self._seen, []
            gone, self._gone = self._gone, []
        self.objects.flush()
        self._memory.remember(seen, gone)

    def close(self) -> None:
        """Flush, and close the objects and the stat memory."""
        try:
            self.flush()
            self.objects.close()
        finally:
            self._memory.close()

    def forked(self) -> None:
        """Leave what the parent has not finished to the parent: called in a forked child."""
        self._lock = threading.RLock()
        self._seen, self._gone = [], []
        self.objects.forked()
        self._memory.forked()

    def drift(self, path: str, digest: str) -> str:
        """Say what became of bytes that were left where they are: ``same``, ``changed`` or ``gone``.

        ``path`` as records hold it. A file that the stat memory knows, and that has not changed, is not read.
        """
        place = os.path.join(self._home, path[2:]) if path.startswith("~/") else os.path.join(self._root, path)
        try:
            if digest.startswith(digests.TREE):
                entries = [each.entry for each in self._keep_folder(place, "reference")]
                found = manifest.tree_digest(manifest.encode(entries))
            else:
                found = self.keep(place, policy="reference").digest
            return "same" if found == digest else "changed"
        except NotFoundError:
            return "gone"
        except CmfError:
            return "changed"

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

    def place(
        self, digest: str, target: str | os.PathLike[str], objects: ObjectStore, *, executable: bool = False
    ) -> int:
        """Write a file or a folder at a path, verified and atomically; return its size in bytes.

        If the same bytes are there already, nothing is done; if anything else is, it is a `ConflictError`. An object
        that is missing is a `NotFoundError`, a damaged one a `CorruptError`; then nothing was written. A folder's
        paths come from its manifest, which lets none lead out of it; no link is made and none followed.
        """
        digests.check_digest(digest)
        path = os.path.abspath(os.fspath(target))
        if os.path.lexists(path) and not placing.is_empty_folder(path):
            return self._compare(digest, path)
        return placing.write(objects, digest, path, executable=executable)

    def _check_own(self, absolute: str) -> None:
        relative = _below(absolute, self._root)
        if relative is not None and any(part.casefold() in manifest.FORBIDDEN for part in relative.split("/")):
            raise UsageError(f"{absolute} belongs to git or to cmf itself.", hint="Record your own files.")

    def _keep_folder(self, top: str, policy: Policy | None) -> list[_Read]:
        every: list[_Read] = []
        start = len(os.fsencode(top)) + (not top.endswith("/"))
        for _, files in itertools.groupby(self._walk(top), key=lambda each: each.folder):
            found = list(itertools.islice(files, manifest.FILES_MAX + 1 - len(every)))
            if len(every) + len(found) > manifest.FILES_MAX:
                raise UsageError(
                    f"{top} holds more than {manifest.FILES_MAX} files.", hint="Record its sub-folders.", kind="limit"
                )
            is_worth = len(found) >= WORTH_FILES or sum(each.stat.st_size for each in found) >= WORTH_BYTES
            every += self._keep(found, policy, is_worth=is_worth, start=start)
        return self._confirm(every, start)

    def _keep(self, files: Sequence[_File], policy: Policy | None, *, is_worth: bool, start: int = 0) -> list[_Read]:
        """Keep files of one folder. ``is_worth``: they are many or large enough for the stat memory to help."""
        every: list[_Read] = []
        known: dict[str, tuple[bytes, bytes]] = {}
        if is_worth:
            folder = files[0].folder
            known = self._memory.recall(folder, files[0].name if len(files) == 1 else "")
            gone = known.keys() - {each.name for each in files}
            with self._lock:
                self._gone += [(folder, name) for name in gone]
        for each in files:
            chosen = policy or (self._policy(each) if self._policies else config.COPY)
            version, digest = known.get(each.name, _UNKNOWN)
            if version != memory.version(each.stat):
                every.append(self._read(each, chosen, start, is_worth=is_worth))
                continue
            recalled = None if chosen == "reference" else each
            every.append(_read(each, start, digests.FILE + digest.hex(), each.stat, chosen, recalled))
        return every

    def _confirm(self, every: list[_Read], start: int = 0) -> list[_Read]:
        """Read after all what the stat memory knows but the objects do not hold."""
        wanted = [each.entry.digest for each in every if each.recalled is not None]
        lacking = set(self.objects.note(wanted)) if wanted else ()
        if not lacking:
            return every
        return [
            each
            if each.recalled is None or each.entry.digest not in lacking
            else self._read(each.recalled, each.policy, start, is_worth=True)
            for each in every
        ]

    def _policy(self, each: _File) -> Policy:
        recorded = self.record_path(each.path)
        assert self._policies is not None
        return self._policies.of(recorded if isinstance(recorded, str) else "", each.stat.st_size)

    def _read(self, each: _File, policy: Policy, start: int = 0, *, is_worth: bool = False) -> _Read:
        """Read one file, and keep it as its policy says."""
        began = memory.now()
        if policy == "reference":
            taken = measure(each.path)
        else:
            taken = self.objects.adopt(each.path, durable=False, link=policy == "link")
        version = memory.version(taken.stat)
        if is_worth and memory.is_settled(taken.stat, began):
            seen = memory.Seen(each.folder, each.name, version, bytes.fromhex(taken.digest[len(digests.FILE) :]))
            with self._lock:
                self._seen.append(seen)
        return _read(each, start, taken.digest, taken.stat, policy)

    def _walk(self, top: str) -> Iterator[_File]:
        """Yield each file below a folder, those of one folder behind each other."""
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
                    link = self._resolve(item.path, real_top, above) if item.is_symlink() else ""
                    known = item.stat()
                except OSError as error:
                    raise read_error(error, item.path) from error
                if stat.S_ISDIR(known.st_mode):
                    waiting.append((item.path, (*above, link or os.path.join(above[-1], item.name))))
                else:
                    yield _File(folder, item.name, item.path, known)

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
                found, size, _ = measure(path)
            elif os.path.isdir(path):
                start = len(os.fsencode(path)) + (not path.endswith("/"))
                entries = [self._read(each, "reference", start).entry for each in self._walk(path)]
                found, size = manifest.tree_digest(manifest.encode(entries)), sum(entry.size for entry in entries)
            else:
                raise placing.in_the_way(path)
        except (UsageError, NotFoundError, DeniedError) as error:
            raise placing.in_the_way(path) from error
        if found != digest:
            raise placing.in_the_way(path)
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


def _read(
    each: _File, start: int, digest: str, found: os.stat_result, policy: Policy, recalled: _File | None = None
) -> _Read:
    name = each.path[start:] if each.path.isascii() else manifest.path_of(os.fsencode(each.path)[start:])
    executable = bool(found.st_mode & stat.S_IXUSR)
    return _Read(manifest.Entry(name, digest, found.st_size, executable=executable), policy, recalled)
