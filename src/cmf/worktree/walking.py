"""The files below a folder, in the order that manifests have: links resolved or refused, repositories left out."""

from __future__ import annotations

import bisect
import operator
import os
import stat
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

from cmf.errors import UsageError
from cmf.objects import manifest
from cmf.objects.source import read_error


class Found(NamedTuple):
    """A file that was met: its folder, its name there, its path, and what `stat` says of it."""

    folder: str
    name: str
    path: str
    stat: os.stat_result


class _Folder(NamedTuple):
    """A folder that is to be looked into, and what it and the folders above it really are."""

    path: str
    above: tuple[str, ...]


_Taken = TypeVar("_Taken")
_first: Callable[[tuple[bytes, object]], bytes] = operator.itemgetter(0)


def walk(top: str, root: str, taken: Callable[[list[Found]], Sequence[_Taken]]) -> Iterator[Sequence[_Taken]]:
    """Yield what is made of the files below a folder, some at a time, in the order that manifests have.

    ``taken`` is given all files that lie directly in one folder, by name, and makes one thing of each. `.git` and
    `.cmf` are left out. A link counts as what it leads to, if that is inside the folder or the ``root``, a real path;
    another one, and one that leads in a circle, is a `UsageError`. Unreadable: `DeniedError`.
    """
    roots = os.path.realpath(top), root
    # What is still to come of each folder on the way down: things made of its files, and the folders between them.
    waiting = [_listed(top, roots[:1], roots, taken)]
    while waiting:
        if not waiting[-1]:
            waiting.pop()
            continue
        found = waiting[-1].popleft()
        if isinstance(found, _Folder):
            waiting.append(_listed(found.path, found.above, roots, taken))
        else:
            yield found


def _listed(
    folder: str, above: tuple[str, ...], roots: Sequence[str], taken: Callable[[list[Found]], Sequence[_Taken]]
) -> deque[Sequence[_Taken] | _Folder]:
    """Return what is in a folder: its sub-folders and, between them, what is made of its files."""
    files: list[tuple[bytes, Found]] = []
    folders: list[tuple[bytes, _Folder]] = []
    try:
        with os.scandir(folder) as found:
            items = list(found)
    except OSError as error:
        raise read_error(error, folder) from error
    for item in items:
        if item.name.casefold() in manifest.FORBIDDEN:
            continue
        try:
            link = _resolve(item.path, roots, above) if item.is_symlink() else ""
            known = item.stat()
        except OSError as error:
            raise read_error(error, item.path) from error
        name = item.name
        key = name.encode() if name.isascii() else manifest.raw_path(manifest.path_of(os.fsencode(name)))
        if stat.S_ISDIR(known.st_mode):
            lower = (*above, link or os.path.join(above[-1], item.name))
            folders.append((key + b"/", _Folder(item.path, lower)))
        else:
            files.append((key, Found(folder, name, item.path, known)))
    files.sort(key=_first)
    folders.sort(key=_first)
    made = taken([each for _, each in files]) if files else []
    ordered: deque[Sequence[_Taken] | _Folder] = deque()
    at = 0
    for key, sub_folder in folders:
        end = bisect.bisect_left(files, key, lo=at, key=_first)
        if end > at:
            ordered.append(made[at:end])
        ordered.append(sub_folder)
        at = end
    if at < len(made):
        ordered.append(made[at:])
    return ordered


def _resolve(link: str, roots: Sequence[str], above: tuple[str, ...]) -> str:
    """Return what a link in a folder leads to; refuse one that leads out, in a circle, or to git's or our files."""
    real = os.path.realpath(link)
    if real in above:
        raise UsageError(f"{link} leads to a folder that it is in.", hint="Remove the link.")
    for root in roots:
        relative = below(real, root)
        if relative is not None:
            if any(part.casefold() in manifest.FORBIDDEN for part in relative.split("/")):
                break
            return real
    raise UsageError(
        f"{link} leads out of its folder, to {real}.",
        hint="Put a copy there instead of the link, or record what it leads to by itself.",
    )


def below(path: str, folder: str) -> str | None:
    """Return a path relative to a folder that holds it, ``.`` for the folder itself; or None if it doesn't."""
    if path == folder:
        return "."
    start = folder if folder.endswith("/") else folder + "/"
    return path[len(start) :] if path.startswith(start) else None
