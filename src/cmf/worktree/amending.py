"""A folder that becomes another version: what differs is written and removed, and the rest is left as it is.

The new files are written beside the folder first, verified; only then is anything moved or removed in it. So whenever a
process dies, each file in the folder is whole, of the one version or of the other, and the same can be done again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence

from cmf.errors import ConflictError
from cmf.objects import manifest
from cmf.objects.local import LocalObjects
from cmf.objects.source import changing, disk_error, measure
from cmf.worktree import placing
from cmf.worktree.memory import is_settled

AT_ONCE = 10_000
"""So many new files are looked for at once."""

Change = tuple[manifest.Entry | None, manifest.Entry | None]
"""A file as it was and as it should be; None where it is not."""


def place_of(top: str, entry: manifest.Entry) -> str:
    """Return the path of a folder's file on the disk."""
    return os.path.join(top, os.fsdecode(manifest.raw_path(entry.path)))


def amend(objects: LocalObjects, top: str, changes: Sequence[Change], *, seen_ns: int) -> int:
    """Change the files of a folder in which no link is; return the size in bytes of what was written.

    ``seen_ns`` is the wall time before the folder was looked at: a file that was changed since, or that came since, is
    left as it is, and ends in a `CorruptError` of kind ``changing`` or a `ConflictError`. An object that is missing is
    a `NotFoundError`, a damaged one a `CorruptError`; then nothing was changed.
    """
    try:
        with _stage(top) as stage:
            fresh = [
                (now, os.path.join(stage, str(number))) for number, (_, now) in enumerate(changes) if now is not None
            ]
            size = sum(now.size for now, _ in fresh)
            placing.check_room(stage, size)
            for start in range(0, len(fresh), AT_ONCE):
                entries, paths = zip(*fresh[start : start + AT_ONCE], strict=True)
                placing.write_files(objects, entries, paths)
            _remove(top, [was for was, now in changes if was is not None and now is None], seen_ns)
            for number, (was, now) in enumerate(changes):
                if now is not None:
                    _move(os.path.join(stage, str(number)), place_of(top, now), was, seen_ns)
    except OSError as error:
        raise disk_error(error, f"{top} cannot be written") from error
    return size


def _remove(top: str, gone: Sequence[manifest.Entry], seen_ns: int) -> None:
    """Remove files, and the folders below the top that are empty then."""
    folders = set()
    for entry in gone:
        path = place_of(top, entry)
        _check_unchanged(path, entry, seen_ns)
        os.unlink(path)
        folders.add(os.path.dirname(path))
    while folders:
        folder = max(folders, key=len)  # none is deeper
        folders.remove(folder)
        if folder == top:
            continue
        with contextlib.suppress(OSError):  # it holds something else
            os.rmdir(folder)
            folders.add(os.path.dirname(folder))


def _move(fresh: str, path: str, was: manifest.Entry | None, seen_ns: int) -> None:
    """Give a new file its place: that of the file that was there, or one where nothing is but perhaps empty folders."""
    if was is not None:
        _check_unchanged(path, was, seen_ns)
        os.rename(fresh, path)
        return
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if os.path.isdir(path):  # a process died before it removed what it had emptied
        for folder, _, _ in os.walk(path, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
    try:
        placing.move_file(fresh, path)
    except FileExistsError as error:
        raise placing.in_the_way(path) from error


def _check_unchanged(path: str, entry: manifest.Entry, seen_ns: int) -> None:
    """Refuse to drop a file that is not the one that was looked at: it is read again if it may have been written."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise placing.in_the_way(path)
    if not is_settled(found, seen_ns) and measure(path).digest != entry.digest:
        raise changing(path)


@contextlib.contextmanager
def _stage(top: str) -> Iterator[str]:
    """Make a folder for new files beside the top, empty, and remove it in the end.

    What a process that died left in it goes first; as long as another one lives that works there: `ConflictError`.
    """
    above, name = os.path.split(top)
    stage = os.path.join(above, f".{name[:200]}.checkout")
    with contextlib.suppress(FileExistsError):
        os.mkdir(stage, 0o700)
    handle = os.open(stage, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(f"Another checkout writes {top}.", hint="Wait for it to end.", kind="busy") from error
        try:
            for name in os.listdir(stage):
                placing.discard(os.path.join(stage, name))
            yield stage
        finally:
            placing.discard(stage)
    finally:
        os.close(handle)
