"""The files and folders of a work tree: kept as objects, named in records, and placed again."""

from __future__ import annotations

import base64
import os
import pwd
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cmf import config
from cmf.config import Policy, Rule
from cmf.errors import CmfError, DeniedError, NotFoundError, UsageError
from cmf.model import digest as digests
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from cmf.objects.source import changing, measure, read_error
from cmf.worktree import memory, placing, uri
from cmf.worktree.memory import Memory
from cmf.worktree.policy import Policies
from cmf.worktree.walking import Found, below, walk

MEMORY = "stat.db"
WORTH_FILES = 32
WORTH_BYTES = 1 << 20
"""A folder with so many files, or a file or folder of so many bytes, is worth remembering: less is read as fast."""


AT_ONCE = 20_000
"""So many files are made durable, remembered or asked about at once, so that memory does not grow with their number."""

ATTEMPTS = 3


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What a file or folder is: its digest, its size in bytes (a folder's: of its files) and its path for records.

    ``files`` counts the files. ``policy`` is that of the file, or of the least safely kept one in a folder.
    """

    digest: str
    size: int
    path: str | dict[str, str]
    files: int
    policy: Policy = config.COPY


_Recalled = dict[bytes, tuple[Found, Policy]]
"""Files that were not read, since the stat memory knows their hashes: by these, with how they are kept."""

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
            return self._keep_file(Found(*os.path.split(absolute), absolute, found), recorded, policy)
        kept_folder, data = self._keep_folder(absolute, recorded, policy)
        self.objects.put(digests.object_of(kept_folder.digest), data, durable=False)
        return kept_folder

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
                found = manifest.tree_digest(self.listing(place))
            else:
                found = self.keep(place, policy="reference").digest
            return "same" if found == digest else "changed"
        except NotFoundError:
            return "gone"
        except CmfError:
            return "changed"

    def listing(self, folder: str) -> bytes:
        """Return the manifest of a folder as it is now; nothing is kept. Errors as of `keep`."""
        return self._keep_folder(folder, folder, "reference")[1]

    def record_path(self, path: str | os.PathLike[str]) -> str | dict[str, str]:
        """Return a path as records hold it.

        ``/``-separated, in NFC, relative to the root; outside it ``~``-relative or absolute; a URI without user,
        password and signed query; ``{"$b": …}`` if it is not UTF-8. A link is not followed.
        """
        text = os.fspath(path)
        if uri.is_uri(text):
            return uri.bare(text)
        absolute = os.path.abspath(text)
        found = below(absolute, self._root)
        if found is None:
            # The root, or the way to the path, may lead through a link: compare what both really are.
            folder, name = os.path.split(absolute)
            found = below(os.path.join(os.path.realpath(folder), name), self._real_root)
        if found is not None and (found == "~" or found.startswith("~/")):
            found = "./" + found
        if found is None:
            home = below(absolute, self._home) if self._home else None
            found = absolute if home is None else "~" if home == "." else f"~/{home}"
        spelled = manifest.path_of(os.fsencode(found))
        return spelled if isinstance(spelled, str) else {"$b": base64.b64encode(spelled).decode()}

    def place(
        self, digest: str, target: str | os.PathLike[str], objects: LocalObjects, *, executable: bool = False
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
        relative = below(absolute, self._root)
        if relative is not None and any(part.casefold() in manifest.FORBIDDEN for part in relative.split("/")):
            raise UsageError(f"{absolute} belongs to git or to cmf itself.", hint="Record your own files.")

    def _keep_file(self, each: Found, recorded: str | dict[str, str], policy: Policy | None) -> Kept:
        is_worth = each.stat.st_size >= WORTH_BYTES
        for _ in range(ATTEMPTS):
            recalled: _Recalled = {}
            policies: set[Policy] = set()
            (kept,) = self._keep([each], policy, recalled, policies, is_worth=is_worth)
            if self._confirm(recalled):
                return Kept(digest=kept.digest, size=kept.size, path=recorded, files=1, policy=policies.pop())
            self.flush()
        raise changing(each.path)

    def _keep_folder(self, top: str, recorded: str | dict[str, str], policy: Policy | None) -> tuple[Kept, bytes]:
        """Keep the files of a folder, one of its folders after the other; return what it is, and its manifest."""
        for _ in range(ATTEMPTS):
            found = self._try_folder(top, recorded, policy)
            if found is not None:
                return found
            self.flush()  # what was remembered was wrong; now it is known better
        raise changing(top)

    def _try_folder(self, top: str, recorded: str | dict[str, str], policy: Policy | None) -> tuple[Kept, bytes] | None:
        """Keep a folder; None if a file turns out to be another than was remembered."""
        start = len(os.fsencode(top)) + (not top.endswith("/"))
        written = manifest.Writer()
        recalled: _Recalled = {}
        policies: set[Policy] = {config.COPY}
        size = count = 0

        def taken(files: list[Found]) -> list[manifest.Entry]:
            nonlocal count
            count += len(files)
            if count > manifest.FILES_MAX:
                raise UsageError(
                    f"{top} holds more than {manifest.FILES_MAX} files.", hint="Record its sub-folders.", kind="limit"
                )
            is_worth = len(files) >= WORTH_FILES or sum(each.stat.st_size for each in files) >= WORTH_BYTES
            return self._keep(files, policy, recalled, policies, is_worth=is_worth, start=start)

        for every in walk(top, self._real_root, taken):
            written.add(every)
            size += sum([entry.size for entry in every])
            if len(recalled) >= AT_ONCE and not self._confirm(recalled):
                return None
            if len(self._seen) >= AT_ONCE:
                self.flush()
        if not self._confirm(recalled):
            return None
        data = written.data()
        least = max(policies, key=config.POLICIES.index)
        return Kept(digest=manifest.tree_digest(data), size=size, path=recorded, files=count, policy=least), data

    def _keep(
        self,
        files: Sequence[Found],
        policy: Policy | None,
        recalled: _Recalled,
        policies: set[Policy],
        *,
        is_worth: bool,
        start: int = 0,
    ) -> list[manifest.Entry]:
        """Keep files of one folder; what the stat memory knows is believed, and noted to be confirmed.

        ``is_worth``: they are many or large enough for the stat memory to help. ``policies``: how they are kept.
        """
        known: dict[str, tuple[bytes, bytes]] = {}
        if is_worth:
            folder = files[0].folder
            known = self._memory.recall(folder, files[0].name if len(files) == 1 else "")
            gone = known.keys() - {each.name for each in files}
            with self._lock:
                self._gone += [(folder, name) for name in gone]
        every = []
        for each in files:
            chosen = policy or (self._policy(each) if self._policies else config.COPY)
            policies.add(chosen)
            version, hash_ = known.get(each.name, _UNKNOWN)
            if not hash_ or version != memory.version(each.stat):
                every.append(self._read(each, chosen, start, is_worth=is_worth))
                continue
            if chosen != "reference":
                recalled[hash_] = (each, chosen)
            every.append(_entry(each, start, digests.FILE + hash_.hex(), each.stat))
        return every

    def _confirm(self, recalled: _Recalled) -> bool:
        """Read after all what the stat memory knows but the objects do not hold; False if one is not what it knew."""
        is_true = True
        for hash_ in self.objects.note(recalled) if recalled else ():
            each, policy = recalled[hash_]
            is_true &= self._read(each, policy, is_worth=True).digest == digests.FILE + hash_.hex()
        recalled.clear()
        return is_true

    def _policy(self, each: Found) -> Policy:
        recorded = self.record_path(each.path)
        assert self._policies is not None
        return self._policies.of(recorded if isinstance(recorded, str) else "", each.stat.st_size)

    def _read(self, each: Found, policy: Policy, start: int = 0, *, is_worth: bool = False) -> manifest.Entry:
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
        return _entry(each, start, taken.digest, taken.stat)

    def _compare(self, digest: str, path: str) -> int:
        try:
            if not digest.startswith(digests.TREE):
                found, size, _ = measure(path)
            elif os.path.isdir(path):
                start = len(os.fsencode(path)) + (not path.endswith("/"))
                written, size = manifest.Writer(), 0
                for entries in walk(path, self._real_root, lambda files: self._entries(files, start)):
                    written.add(entries)
                    size += sum(entry.size for entry in entries)
                found = manifest.tree_digest(written.data())
            else:
                raise placing.in_the_way(path)
        except (UsageError, NotFoundError, DeniedError) as error:
            raise placing.in_the_way(path) from error
        if found != digest:
            raise placing.in_the_way(path)
        return size

    def _entries(self, files: Sequence[Found], start: int) -> list[manifest.Entry]:
        return [self._read(each, "reference", start) for each in files]


def _home() -> str:
    """Return the user's home folder from the user database, which unlike `HOME` no caller sets; or an empty text."""
    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return ""


def _entry(each: Found, start: int, digest: str, found: os.stat_result) -> manifest.Entry:
    name = each.path[start:] if each.path.isascii() else manifest.path_of(os.fsencode(each.path)[start:])
    return manifest.Entry(name, digest, found.st_size, found.st_mode & stat.S_IXUSR != 0)
