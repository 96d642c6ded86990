"""A pointer file: ``data.cmf`` beside ``data`` says which version lies there, small enough for git to keep.

The normative text is `docs/reference/format.md`. It comes with a clone, so from anybody: it holds no path and no
address, what it stands for is found by its own name, and whatever is outside the format is refused.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

import msgspec

from cmf.errors import CmfError, CorruptError, UnsupportedError, UsageError
from cmf.model import digest as digests
from cmf.objects import manifest
from cmf.objects.source import disk_error, read_error

SUFFIX = ".cmf"
VERSION = 1
POINTER_BYTES_MAX = 4096
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """What a pointer file says: a file's or a folder's digest, its size in bytes, and whether a file is executable."""

    digest: str
    size: int
    executable: bool = False


class _Spelled(msgspec.Struct, kw_only=True, omit_defaults=True):
    cmf: str
    v: int
    digest: str = ""
    size: int = -1
    executable: bool = False


def target(path: str) -> str:
    """Return the path that a pointer file stands for; `UsageError` for the path of something else."""
    folder, name = os.path.split(path)
    stem = name.removesuffix(SUFFIX)
    if stem == name or stem in ("", ".", "..") or stem.casefold() in manifest.FORBIDDEN:
        raise UsageError(f"{path} is no pointer file.", hint=f"One is called as the data is, with {SUFFIX} behind it.")
    return os.path.join(folder, stem)


def read(path: str) -> Pointer:
    """Return what a pointer file says.

    `CorruptError` for what is outside the format, `UnsupportedError` for a newer one. No link is followed.
    """
    target(path)
    try:
        handle = os.open(path, _READ)
        with os.fdopen(handle, "rb") as file:
            is_file = stat.S_ISREG(os.fstat(handle).st_mode)
            data = file.read(POINTER_BYTES_MAX + 1) if is_file else b""
    except OSError as error:
        raise read_error(error, path) from error
    try:
        found = msgspec.json.decode(data, type=_Spelled) if len(data) <= POINTER_BYTES_MAX else None
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        found = None
    if found is not None and found.cmf == "pointer" and found.v > VERSION:
        raise UnsupportedError(
            f"{path} has format version {found.v}; this version reads {VERSION}.",
            hint="Upgrade cmf.",
            kind="newer-format",
        )
    if (
        found is None
        or (found.cmf, found.v) != ("pointer", VERSION)
        or not digests.is_digest(found.digest)
        or not 0 <= found.size <= manifest.SIZE_BYTES_MAX
    ):
        raise CorruptError(
            f"{path} is no pointer file of the known form.",
            hint="If git left a conflict in it, take one of the two sides: git checkout --ours or --theirs.",
            kind="pointer",
        )
    return Pointer(digest=found.digest, size=found.size, executable=found.executable)


def names(path: str, digest: str) -> bool:
    """Tell whether a pointer file can be read and names this artifact."""
    try:
        return read(path).digest == digest
    except CmfError:
        return False


def write(path: str, pointer: Pointer) -> bool:
    """Write a pointer file, whole or not at all, and tell whether it differs from what was there."""
    target(path)
    spelled = _Spelled(cmf="pointer", v=VERSION, digest=pointer.digest, size=pointer.size)
    spelled.executable = pointer.executable
    data = msgspec.json.format(msgspec.json.encode(spelled), indent=2) + b"\n"
    temporary = os.path.join(os.path.dirname(path), f".pointer~{os.urandom(8).hex()}")
    try:
        if os.path.islink(path) or os.path.isdir(path):
            raise UsageError(f"{path} is a link or a folder, and no pointer file.", hint="Move it away.")
        if os.path.exists(path):
            with open(path, "rb") as file:
                if file.read(POINTER_BYTES_MAX + 1) == data:
                    return False
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if os.path.lexists(temporary):
            os.unlink(temporary)
        raise disk_error(error, f"{path} cannot be written") from error
    return True


def walk(root: str) -> Iterator[str]:
    """Yield the pointer files below a folder, by walking it: not into git's or our own, a link, or data.

    What a pointer beside it stands for is data.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as found:
                items = list(found)
        except OSError:
            continue
        names = {item.name for item in items}
        for item in sorted(items, key=lambda item: item.name):
            if item.name.casefold() in manifest.FORBIDDEN:
                continue
            if item.is_dir(follow_symlinks=False):
                if item.name + SUFFIX not in names:
                    waiting.append(item.path)
            elif item.name.endswith(SUFFIX) and item.is_file(follow_symlinks=False):
                yield item.path
