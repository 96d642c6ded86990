"""What became of each file that a program touched: read, written, moved or deleted, told one access at a time.

Knows no system call and no way to watch one. Paths are absolute.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

_COARSE = 5
"""`CLOCK_REALTIME_COARSE`: the clock by which Linux stamps files."""


class Found(NamedTuple):
    """The files a program read and those it wrote, in order; and those it read and then wrote over."""

    inputs: list[str]
    outputs: list[str]
    replaced: list[str]


class Accesses:
    """The accesses of one program and its children, in the order in which they happened."""

    def __init__(self) -> None:
        self.started_ns = time.clock_gettime_ns(_COARSE) if hasattr(time, "CLOCK_BOOTTIME") else time.time_ns()
        self._read: dict[str, None] = {}
        self._written: dict[str, None] = {}
        self._updated: dict[str, None] = {}

    def read(self, path: str) -> None:
        """Take in that a file was opened to be read."""
        if path not in self._written and path not in self._updated:
            self._read[path] = None

    def made(self, path: str) -> None:
        """Take in that a file was not there before the program: whatever reads it reads the program's own."""
        self._read.pop(path, None)
        self._written[path] = None

    def wrote(self, path: str) -> None:
        """Take in that a file was made, or emptied to be written anew."""
        self._written[path] = None

    def opened(self, path: str) -> None:
        """Take in that a file that was there was opened to be read and written: whether it was, its times will tell."""
        if path not in self._written:
            self._updated[path] = None

    def moved(self, old: str, new: str) -> None:
        """Take in that a file or folder got another name: what it holds was written under the new one."""
        below = old + "/"
        for known in (self._written, self._updated):
            for path in [path for path in known if path.startswith(below)]:
                del known[path]
                known[new + path[len(old) :]] = None
        self._updated.pop(old, None)
        self._written.pop(old, None)
        self._written[new] = None

    def deleted(self, path: str) -> None:
        """Take in that a name is gone."""
        self._written.pop(path, None)
        self._updated.pop(path, None)

    def touched(self) -> set[str]:
        """Return the files that were read or written, and the folders above them, with no link in any path."""
        found: set[str] = set()
        for path in {*self._read, *self._updated, *self._written}:
            real = os.path.realpath(path)
            while real not in found:
                found.add(real)
                real = os.path.dirname(real)
        return found

    def found(self, is_input: Callable[[str], bool], is_output: Callable[[str], bool]) -> Found:
        """Return what counts and is still there. A file that was opened for both is an output if it changed."""
        written = dict(self._written)
        read = dict(self._read)
        for path in self._updated:
            status = _status(path)
            if status is not None:
                (written if status.st_ctime_ns >= self.started_ns else read)[path] = None
        outputs = _files(written, is_output)
        real = {os.path.realpath(path) for path in outputs}
        inputs: list[str] = []
        replaced: list[str] = []
        for path in _files(read, is_input):
            (replaced if os.path.realpath(path) in real else inputs).append(path)
        return Found(inputs, outputs, replaced)


def _files(paths: dict[str, None], counts: Callable[[str], bool]) -> list[str]:
    """Return the regular files that count, each once, whatever links lead to it."""
    seen: dict[str, str] = {}
    for path in paths:
        if counts(path) and _status(path) is not None:
            seen.setdefault(os.path.realpath(path), path)
    return sorted(seen.values())


def _status(path: str) -> os.stat_result | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None
