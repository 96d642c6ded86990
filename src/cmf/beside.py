"""Data beside the code: pointer files that git keeps, what lies at their paths, and what should.

`cmf add` makes a pointer, `cmf checkout` makes the data be what it says. Git is only read. Refuses to overwrite what is
not kept in the objects: whoever changed it would lose it.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from cmf import starting
from cmf.errors import CmfError, ConflictError, NotFoundError, UsageError
from cmf.fetching import Named
from cmf.model import digest as digests
from cmf.objects import manifest, read
from cmf.objects.source import disk_error
from cmf.worktree import amending, git, memory, placing, pointer
from cmf.worktree.files import Files, Kept
from cmf.worktree.pointer import Pointer

STAGE = "add"
HOOKS = ("post-checkout", "post-merge")
_HOOK = b"""#!/bin/sh
# Made by 'cmf checkout --install-hook': the data follows the commit. Remove this file to end that.
unset $(git rev-parse --local-env-vars)
command -v cmf >/dev/null 2>&1 && cmf checkout --quiet
exit 0
"""

_T = TypeVar("_T")


class Source(Protocol):
    """Where the bytes of artifacts come from that lack in the objects here, or are damaged."""

    def bring(self, named: Named, only: Sequence[str] | None = None) -> None:
        """Make sure that an artifact's bytes are here, or ``only`` these objects of it; errors as `fetching.bring`."""
        ...

    def whole(self, digest: str, act: Callable[[], _T]) -> _T:
        """Do something with an artifact's bytes; once more, if all that was damaged of them here came again."""
        ...


class Pointed(msgspec.Struct, frozen=True, kw_only=True):
    """The data that a pointer file stands for. Paths as records hold them; ``pointer`` is the pointer file's.

    ``state`` is ``same``, ``modified``, ``missing`` or, with the ``problem``, ``invalid``. ``tracked``: git tracks the
    pointer.
    """

    path: str
    pointer: str
    state: str
    tracked: bool = False
    problem: str = ""


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """Data that was added. ``size`` in bytes; ``changed``: the pointer file is new or says something new.

    ``to_ignore`` is the line that a `.gitignore` beside it needs, "" if git ignores the data already; ``tracked``: git
    keeps the data itself, too.
    """

    path: str
    pointer: str
    digest: str
    size: int
    changed: bool
    to_ignore: str = ""
    tracked: bool = False


class CheckedOut(msgspec.Struct, kw_only=True):
    """What a checkout did, by path: what was written, what was as it should be, and what could not be, with why."""

    written: list[str] = []
    same: list[str] = []
    failed: dict[str, CmfError] = {}
    unsaved: list[str] = []


class _Spot(NamedTuple):
    """A pointer file's path, and its data's; whether git tracks the pointer."""

    pointer: str
    data: str
    tracked: bool


def add(files: Files, paths: Sequence[str | os.PathLike[str]], known: Callable[[str], bool]) -> list[Added]:
    """Keep files and folders, write their pointer files, and record who added them, as one execution.

    ``known`` tells whether an artifact is recorded here already. Errors as of `Files.keep`; then what comes before it
    in the list is added. A link, and what lies outside the project, is a `UsageError`.
    """
    added: list[Added] = []
    fresh: dict[str, Kept] = {}
    began = memory.now()
    try:
        for path in paths:
            absolute = os.path.abspath(os.fspath(path))
            found, kept = _add(files, absolute)
            added.append(found)
            if found.changed or not known(found.digest):
                fresh[os.path.relpath(absolute)] = kept
    finally:
        files.flush()
        if fresh:
            with starting.run(STAGE, command=["cmf", "add", *fresh], system=False, see_params=False) as run:
                for place, kept in fresh.items():
                    run.output_kept(place, kept, type="dataset", began_ns=began)
    return added


def _add(files: Files, absolute: str) -> tuple[Added, Kept]:
    if os.path.islink(absolute):
        raise UsageError(f"{absolute} is a link.", hint="Add what it leads to.")
    place = absolute + pointer.SUFFIX
    if pointer.target(place) != absolute or absolute.endswith(pointer.SUFFIX):
        raise UsageError(f"{absolute} is a pointer file itself.", hint="Add the data that it stands for.")
    if not os.path.realpath(absolute).startswith(os.path.realpath(files.root) + os.sep):
        raise UsageError(f"{absolute} is not in the project {files.root}.", hint="Add data that lies beside the code.")
    kept = files.keep(absolute, policy="copy")
    files.flush()  # before a pointer promises it
    is_folder = kept.digest.startswith(digests.TREE)
    executable = not is_folder and bool(os.stat(absolute).st_mode & stat.S_IXUSR)
    changed = pointer.write(place, Pointer(digest=kept.digest, size=kept.size, executable=executable))
    ignored = git.is_ignored(absolute) or not git.work_tree(os.path.dirname(absolute))
    added = Added(
        path=_shown(files, absolute),
        pointer=_shown(files, place),
        digest=kept.digest,
        size=kept.size,
        changed=changed,
        to_ignore="" if ignored else _pattern(os.path.basename(absolute)),
        tracked=git.is_tracked(absolute),
    )
    return added, kept


def ignore(path: str | os.PathLike[str]) -> None:
    """Add a path to the `.gitignore` beside it: only ever because somebody asked for it."""
    folder, name = os.path.split(os.path.abspath(os.fspath(path)))
    place = os.path.join(folder, ".gitignore")
    line = os.fsencode(_pattern(name)) + b"\n"
    try:
        with open(place, "a+b") as file:
            file.seek(0)
            before = file.read()
            if line in before.splitlines(keepends=True):
                return
            file.write((b"\n" if before and not before.endswith(b"\n") else b"") + line)
    except OSError as error:
        raise disk_error(error, f"{place} cannot be written") from error


def _pattern(name: str) -> str:
    """Return the line of a `.gitignore` that means just this name beside it."""
    if "\n" in name:
        return ""
    escaped = "".join(f"\\{letter}" if letter in "\\*?[" else letter for letter in name)
    return "/" + (escaped[:-1] + "\\ " if escaped.endswith(" ") else escaped)


def states(files: Files) -> list[Pointed]:
    """Return the state of the data of every pointer file in the git work tree that the project is in, by path.

    What the stat memory knows and has not changed is not read. Without git there is nothing: see `checkout`.
    """
    found = git.pointers(files.root, pointer.SUFFIX) or {}
    return [_state(files, spot) for spot in _spots(files.root, found)]


def _spots(root: str | os.PathLike[str], found: dict[bytes, bool]) -> list[_Spot]:
    spots = []
    for raw, tracked in sorted(found.items()):
        path = os.path.join(root, os.fsdecode(raw))
        if os.path.basename(path) != pointer.SUFFIX and os.path.lexists(path):
            spots.append(_Spot(path, path.removesuffix(pointer.SUFFIX), tracked))
    return spots


def _state(files: Files, spot: _Spot) -> Pointed:
    problem = ""
    try:
        found = pointer.read(spot.pointer)
        drift = files.drift(spot.data, found.digest) if os.path.lexists(spot.data) else "gone"
        state = "same" if drift == "same" else "modified" if os.path.lexists(spot.data) else "missing"
    except CmfError as error:
        state, problem = "invalid", error.message
    return Pointed(
        path=_shown(files, spot.data),
        pointer=_shown(files, spot.pointer),
        state=state,
        tracked=spot.tracked,
        problem=problem,
    )


def checkout(
    files: Files, source: Source, paths: Iterable[str | os.PathLike[str]] = (), *, force: bool = False
) -> CheckedOut:
    """Make data be what its pointer files say: of all pointers in the project, or of those that paths name.

    A path is the data's, its pointer's, or a folder's with pointers below it; one that has none is a `NotFoundError`.
    Of a folder, what differs is written and removed, and nothing else. If data was changed and is not kept in the
    objects, all that its pointer stands for is left as it is, and those files are named, unless ``force`` is set; a
    folder that holds a repository is never replaced. Every other pointer is done all the same.
    """
    done = CheckedOut(written=[], same=[], failed={}, unsaved=[])
    for spot in _asked(files, paths):
        shown = _shown(files, spot.data)
        try:
            found = pointer.read(spot.pointer)
            restore = functools.partial(_restore, files, source, found, spot.data, shown, force=force)
            unsaved = source.whole(found.digest, restore)
        except CmfError as error:
            done.failed[shown] = error
        else:
            done.unsaved += unsaved or []
            if not unsaved:
                (done.same if unsaved is None else done.written).append(shown)
    return done


def _restore(files: Files, source: Source, found: Pointer, data: str, shown: str, *, force: bool) -> list[str] | None:
    """Make data be what its pointer says, and return an empty list; None if it is so already.

    If changes would be lost, nothing is done, and what holds them is returned.
    """
    is_there = os.path.lexists(data)
    if is_there and found.digest.startswith(digests.TREE) and _is_amendable(data):
        return _amend(files, source, found, data, shown, force=force)
    if is_there and files.drift(data, found.digest) == "same":
        return None
    if is_there and not placing.is_empty_folder(data) and not (force or _is_saved(files, data)):
        return [shown]
    if is_there and _holds_repository(data):
        raise ConflictError(f"{data} holds a repository, which is never replaced.", kind="exists")
    source.bring(Named(found.digest, shown))
    write = placing.replace if is_there else placing.write
    write(files.objects, found.digest, data, executable=found.executable)
    return []


def _is_amendable(data: str) -> bool:
    """Tell whether the files of a folder can be changed one by one: no link is in it that would be followed or lost."""
    if os.path.islink(data) or not os.path.isdir(data) or placing.is_empty_folder(data):
        return False
    return not any(item.is_symlink() or item.name.casefold() in manifest.FORBIDDEN for item in _items(data))


def _amend(files: Files, source: Source, found: Pointer, data: str, shown: str, *, force: bool) -> list[str] | None:
    """Write what differs in a folder in which no link is; returns as `_restore`."""
    seen_ns = memory.now()
    now = files.listing(data)
    if manifest.tree_digest(now) == found.digest:
        return None
    wanted = Named(found.digest, shown)
    source.bring(wanted, [digests.object_of(found.digest)])
    changes = list(manifest.Differences(files.objects, now, digests.object_of(found.digest)))
    if not force:
        own = [was for was, _ in changes if was is not None]
        lost = set(files.objects.absent(dict.fromkeys(each.digest for each in own)))
        unsaved = [_shown(files, amending.place_of(data, each)) for each in own if each.digest in lost]
        if unsaved:
            return unsaved
    source.bring(wanted, list(dict.fromkeys(fresh.digest for _, fresh in changes if fresh is not None)))
    amending.amend(files.objects, data, changes, seen_ns=seen_ns)
    return []


def _asked(files: Files, paths: Iterable[str | os.PathLike[str]]) -> list[_Spot]:
    spots: dict[str, _Spot] = {}
    places = [os.path.abspath(os.fspath(path)) for path in paths]
    for place in places or [os.fspath(files.root)]:
        own = place if place.endswith(pointer.SUFFIX) and os.path.isfile(place) else place + pointer.SUFFIX
        if os.path.isfile(own):
            found = [_Spot(own, pointer.target(own), tracked=False)]
        else:
            listed = git.pointers(place, pointer.SUFFIX) if os.path.isdir(place) else None
            if listed is None:
                listed = {os.fsencode(os.path.relpath(path, place)): False for path in pointer.walk(place)}
            found = _spots(place, listed)
        if not found and places:
            raise NotFoundError(
                f"{place} has no pointer file.", hint=f"'cmf add {os.path.basename(place)}' writes one.", kind="pointer"
            )
        spots.update((spot.pointer, spot) for spot in found)
    return list(spots.values())


def _is_saved(files: Files, path: str) -> bool:
    """Tell whether the objects hold all that would be lost with what is at a path."""
    try:
        if os.path.islink(path) or _holds_link(path):
            return False
        kept = files.keep(path, policy="reference")
        wanted = [digests.object_of(kept.digest)]
        if kept.digest.startswith(digests.TREE):
            data = read(files.objects, wanted[0], manifest.MANIFEST_BYTES_MAX)
            wanted = [entry.digest for entry in manifest.decode(data)]
        return not files.objects.absent(dict.fromkeys(wanted))
    except CmfError:
        return False


def _holds_link(path: str) -> bool:
    return any(item.is_symlink() for item in _items(path))


def _holds_repository(path: str) -> bool:
    return any(item.name.casefold() in manifest.FORBIDDEN for item in _items(path))


def _items(path: str) -> Iterator[os.DirEntry[str]]:
    """Yield all that is below a folder; nothing, of what is none or cannot be read."""
    folders = [path]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as found:
            for item in found:
                if item.is_dir(follow_symlinks=False):
                    folders.append(item.path)
                yield item


def install_hooks(root: Path) -> list[str]:
    """Let git restore the data whenever it checks out or merges; return the hooks that were written.

    A hook that is there already, and is not ours, is a `ConflictError`, and nothing is written.
    """
    folder = git.hooks(root)
    if not folder:
        raise NotFoundError(f"There is no git repository in {root}.", hint="Make one with 'git init'.")
    missing = []
    for name in HOOKS:
        place = os.path.join(folder, name)
        try:
            with open(place, "rb") as file:
                if file.read(len(_HOOK) + 1) == _HOOK:
                    continue
        except FileNotFoundError:
            missing.append(place)
            continue
        except OSError as error:
            raise disk_error(error, f"{place} cannot be read") from error
        raise ConflictError(
            f"There is a hook {place} already.", hint="Add the line 'cmf checkout --quiet' to it.", kind="exists"
        )
    for place in missing:
        try:
            os.makedirs(folder, exist_ok=True)
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o777)
            with os.fdopen(handle, "wb") as file:
                file.write(_HOOK)
        except OSError as error:
            raise disk_error(error, f"{place} cannot be written") from error
    return missing


def _shown(files: Files, path: str) -> str:
    recorded = files.record_path(path)
    return recorded if isinstance(recorded, str) else os.fsencode(path).decode("utf-8", "backslashreplace")
