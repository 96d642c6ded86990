"""The part of a folder that a run used: which of its files some paths and patterns name."""

from __future__ import annotations

import fnmatch
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from cmf.errors import NotFoundError, UsageError
from cmf.objects import manifest

ROLE = "slice"
TYPE = "dataslice"
PART_OF = "part_of"
"""The attribute of a slice's event that holds the digest of its folder, and the relation between the two."""

FOLDER = "folder"
"""The attribute that holds the folder's path."""


def subset(folder: Path, entries: Sequence[manifest.Entry], paths: Iterable[str | os.PathLike[str]]) -> bytes:
    """Return the manifest of those files of a folder that the paths name; errors as `choose`."""
    named = {os.fsdecode(manifest.raw_path(entry.path)): entry for entry in entries}
    return manifest.encode(named[name] for name in choose(folder, named, paths))


def choose(folder: Path, names: Iterable[str], paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return, sorted, which of a folder's files some paths name; each is relative to the folder.

    A path is a file, a folder (all that is below it) or a pattern, in which ``*`` also matches ``/``. One that leaves
    the folder is a `UsageError`, as is none at all; one that names nothing is a `NotFoundError`.
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise UsageError("A slice takes a list of paths, not one.", hint=f"Write [{paths!r}].")
    known = set(names)
    chosen: set[str] = set()
    for each in paths:
        given = os.fspath(each)
        pure = PurePosixPath(given)
        if pure.is_absolute() or ".." in pure.parts:
            raise UsageError(f"{given} leads out of {folder}.", hint=f"Paths of a slice start at {folder}.")
        path = unicodedata.normalize("NFC", str(pure))
        if path in known:
            chosen.add(path)
            continue
        below = "" if path == "." else f"{path}/"
        found = {name for name in known if name.startswith(below) or fnmatch.fnmatchcase(name, path)}
        if not found:
            raise NotFoundError(f"There is no {given} in {folder}.", hint="It is a file, a folder or a pattern in it.")
        chosen |= found
    if not chosen:
        raise UsageError(f"A slice of {folder} needs at least one path.")
    return sorted(chosen)


def on_disk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder as `choose` takes them: for a program that goes on when nothing can be kept."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
