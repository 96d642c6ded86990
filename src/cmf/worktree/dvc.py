"""Where DVC keeps bytes on this machine: its caches and its remotes that are folders, in the layouts of 2.x and 3.x.

Reads only. A file is what its name says only if its own hash agrees.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from cmf.errors import CmfError, NotFoundError
from cmf.model import digest as digests
from cmf.objects.source import Source, changing

FOLDER = ".dvc"
CONFIG_BYTES_MAX = 1 << 20
DOS2UNIX = "md5-dos2unix"

_TEXT_BYTES = 512
_TEXT = bytes(range(32, 127)) + b"\n\r\t\f\b"
_TEXT_LEAST = 0.30


class Measured(NamedTuple):
    """A file that was read once: its digest, its size, and its hash in DVC's sense."""

    digest: str
    size: int
    md5: str


class Hasher:
    """DVC's hash of bytes that come in chunks of 1 MiB.

    It is ``md5``, or ``md5-dos2unix``: for that, text has unix line ends. Each chunk is text or not by itself, as in
    DVC before 3.0.
    """

    def __init__(self, algorithm: str) -> None:
        self._is_old = algorithm == DOS2UNIX
        self._hashed = hashlib.md5(usedforsecurity=False)

    def update(self, chunk: bytes) -> None:
        """Take in the next chunk."""
        if self._is_old and b"\r\n" in chunk and _is_text(chunk[:_TEXT_BYTES]):
            chunk = chunk.replace(b"\r\n", b"\n")
        self._hashed.update(chunk)

    def hex(self) -> str:
        """Return the hash as 32 hex digits."""
        return self._hashed.hexdigest()


def md5(data: bytes, algorithm: str) -> str:
    """Return DVC's hash of some bytes, as 32 hex digits."""
    hashed = Hasher(algorithm)
    for at in range(0, len(data), 1 << 20):
        hashed.update(data[at : at + (1 << 20)])
    return hashed.hex()


def measure(path: str, algorithm: str) -> Measured:
    """Read a file once for both its names; errors as of `cmf.objects.source.measure`."""
    for _ in range(2):
        with Source(path) as source:
            ours, theirs = hashlib.sha256(), Hasher(algorithm)
            for chunk in source.chunks():
                ours.update(chunk)
                theirs.update(chunk)
            if source.is_steady():
                return Measured(digests.FILE + ours.hexdigest(), source.size, theirs.hex())
    raise changing(path)


def names(value: str, algorithm: str) -> tuple[str, str]:
    """Return the paths in a cache or remote that the file with a hash may have, the likelier first."""
    new, old = f"files/md5/{value[:2]}/{value[2:]}", f"{value[:2]}/{value[2:]}"
    return (old, new) if algorithm == DOS2UNIX else (new, old)


class Caches:
    """Folders in which files are named by DVC's hashes."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self.folders = tuple(dict.fromkeys(folders))

    def find(self, value: str, algorithm: str) -> str | None:
        """Return the path of the file with a hash (32 hex digits, perhaps with ``.dir``), if there is one.

        What is no regular file counts as not there: a link could lead anywhere.
        """
        for folder in self.folders:
            for name in names(value, algorithm):
                path = os.path.join(folder, name)
                try:
                    if stat.S_ISREG(os.lstat(path).st_mode):
                        return path
                except OSError:
                    continue
        return None


def root(start: Path) -> Path | None:
    """Return the folder at or above a path that DVC was initialised in, or None."""
    for folder in (start, *start.parents):
        if (folder / FOLDER).is_dir():
            return folder
    return None


class Remote(NamedTuple):
    """A remote: its URL, or the absolute path of a folder; and, of one of S3, its own ``endpoint`` and ``region``."""

    url: str
    options: dict[str, str]


class Places(NamedTuple):
    """Where a repository keeps bytes: its cache, and its remotes, the default first."""

    cache: Path
    remotes: tuple[Remote, ...]

    def folders(self) -> Caches:
        """Return the cache, and then those remotes that are folders."""
        return Caches([self.cache, *(Path(each.url) for each in self.remotes if "://" not in each.url)])


def places(top: Path) -> Places:
    """Return where the DVC repository in a folder keeps bytes.

    As `.dvc/config` and `.dvc/config.local` say; the user's and the system's settings are not looked at.
    """
    cache = top / FOLDER / "cache"
    remotes: dict[str, Remote] = {}
    default = ""
    for name in ("config", "config.local"):
        found = _config(top / FOLDER / name)
        default = found.get("core", {}).get("remote", default)
        if text := found.get("cache", {}).get("dir"):
            cache = top / FOLDER / os.path.expanduser(text)
        for section, values in found.items():
            kind, _, remote = section.strip("'").partition(" ")
            if kind == "remote":
                key = remote.strip().strip('"')
                remotes[key] = _remote(top, values, remotes.get(key, Remote("", {})))
    ranked = sorted(remotes, key=lambda remote: (remote != default, remote))
    return Places(cache, tuple(remotes[remote] for remote in ranked if remotes[remote].url))


def _remote(top: Path, values: Mapping[str, str], before: Remote) -> Remote:
    """Return what a section says of a remote, over what an earlier file said of it."""
    url = values.get("url", "").removeprefix("file://")
    if url and "://" not in url:
        url = os.path.normpath(top / FOLDER / os.path.expanduser(url))
    named = {"endpoint": values.get("endpointurl", ""), "region": values.get("region", "")}
    return Remote(url or before.url, before.options | {name: value for name, value in named.items() if value})


def _config(path: Path) -> dict[str, dict[str, str]]:
    """Return the sections of a settings file; none of what cannot be read."""
    import configparser  # not a thing to load with every run

    parser = configparser.RawConfigParser(strict=False, allow_no_value=True, delimiters=("=",))
    try:
        with open(path, "rb") as file:
            parser.read_string(file.read(CONFIG_BYTES_MAX).decode())
    except (OSError, UnicodeDecodeError, configparser.Error):
        return {}
    return {
        section: {key: (value or "").strip("\"'") for key, value in parser.items(section)}
        for section in parser.sections()
    }


def read(path: str, bytes_max: int) -> bytes | None:
    """Return a small file's bytes; None if it cannot be read or is larger."""
    try:
        with Source(path) as source:
            return b"".join(source.chunks()) if source.size <= bytes_max else None
    except CmfError:
        return None


def require(start: Path) -> Path:
    """Return what `root` does; `NotFoundError` if there is no DVC repository."""
    found = root(start)
    if found is None:
        raise NotFoundError(f"There is no DVC repository in {start} or above it.", hint="It holds a folder '.dvc'.")
    return found


def _is_text(block: bytes) -> bool:
    """Tell whether a block is text as DVC tells it."""
    return b"\0" not in block and len(block.translate(None, _TEXT)) <= _TEXT_LEAST * len(block)
