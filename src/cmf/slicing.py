"""The part of a folder that a run used: which of its files some paths and patterns name."""

from __future__ import annotations

import fnmatch
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
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
        path = inside(folder, each)
        if path in known:
            chosen.add(path)
            continue
        found = set(filter(named_by(path), known))
        if not found:
            raise NotFoundError(
                f"There is no {os.fspath(each)} in {folder}.", hint="It is a file, a folder or a pattern in it."
            )
        chosen |= found
    if not chosen:
        raise UsageError(f"A slice of {folder} needs at least one path.")
    return sorted(chosen)


def inside(folder: Path, given: str | os.PathLike[str]) -> str:
    """Return a path or pattern inside a folder in the one form that `named_by` takes; errors as `choose`."""
    pure = PurePosixPath(given)
    if pure.is_absolute() or ".." in pure.parts:
        raise UsageError(f"{os.fspath(given)} leads out of {folder}.", hint=f"Paths of a slice start at {folder}.")
    return unicodedata.normalize("NFC", str(pure))


def named_by(path: str) -> Callable[[str], bool]:
    """Return what tells of a file's path in a folder whether it is a path, lies below it, or matches it as a pattern.

    A file that is called as the pattern is spelled goes before what else matches: that is for the caller to see.
    """
    below = "" if path == "." else f"{path}/"
    matches = re.compile(fnmatch.translate(path)).match
    return lambda name: name == path or name.startswith(below) or matches(name) is not None


def on_disk(folder: Path) -> Iterator[str]:
    """Yield the files below a folder as `choose` takes them: for a program that goes on when nothing can be kept."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path.relative_to(folder).as_posix()
