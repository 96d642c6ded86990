"""Which files a command wrote: the work tree before and after, compared by what the file system says of each file.

Reads nothing but folders and ``stat``. Skips version control, our own folder, caches and environments, and whatever
`.cmfignore` names (in git's syntax).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cmf.worktree.trace.ignoring import SKIPPED, named

FILES_MAX = 200_000


class Stat(NamedTuple):
    """What changes when a file is written: size in bytes, times in ns, inode."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


class Tree(NamedTuple):
    """The regular files of a work tree by their path; ``complete`` is False if there were more than `FILES_MAX`."""

    files: dict[str, Stat]
    complete: bool


def scan(root: Path) -> Tree:
    """Return the regular files below a folder. Folders that cannot be read are passed over."""
    ignored = named(root)
    files: dict[str, Stat] = {}
    base = os.fspath(root)
    folders = [base]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.name in SKIPPED:
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    if not ignored(os.path.relpath(entry.path, base) + "/"):
                        folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False) and not ignored(os.path.relpath(entry.path, base)):
                    if len(files) >= FILES_MAX:
                        return Tree(files, complete=False)
                    found = entry.stat(follow_symlinks=False)
                    files[entry.path] = Stat(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
            except OSError:
                continue
    return Tree(files, complete=True)


def written(before: Tree, after: Tree) -> list[str]:
    """Return the paths of files that are new or were written between two scans, in order."""
    return sorted(path for path, stat in after.files.items() if before.files.get(path) != stat)
