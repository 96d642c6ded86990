"""Which files count as inputs and outputs: not the system's, not an environment's, not caches, not code."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

IGNORE_FILE = ".cmfignore"
SKIPPED = frozenset(
    {
        *(".cmf", ".git", ".hg", ".svn", ".dvc", ".venv", "venv", "node_modules", "site-packages", "dist-packages"),
        *("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache", ".ipynb_checkpoints"),
    }
)
SYSTEM = (
    *("/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/proc", "/dev", "/sys", "/run", "/boot", "/snap"),
    *("/nix", "/gnu", "/var/lib", "/var/cache", "/var/run", "/var/tmp", "/var/log", "/tmp"),  # noqa: S108  # no file is made there
)
_ENDINGS = (
    "py pyc pyi pyx pxd ipynb so dylib sh bash zsh fish pl pm rb lua r jl js mjs cjs ts tsx c h cc cpp cxx hpp cu cuh "
    "f f90 rs go java scala kt swift cs sql mk cmake awk sed"
)
CODE = frozenset(f".{ending}" for ending in _ENDINGS.split())
_PYTHON = re.compile(r"/lib(64)?/python[0-9.]+(/|$)")


class Ignoring:
    """The rules for one project. ``root`` is the folder that holds `.cmf`."""

    def __init__(self, root: Path, program: str = "") -> None:
        self._root = os.path.abspath(root)
        self._real_root = os.path.realpath(root)
        self._home = os.path.expanduser("~")
        self._named = named(root)
        self._outside = tuple(
            os.path.abspath(folder) + "/"
            for folder in (*SYSTEM, tempfile.gettempdir(), *_environments(program))
            if folder and folder != "/"
        )

    def is_output(self, path: str) -> bool:
        """Tell whether a file that was written counts."""
        return self._counts(path) and (path == (real := os.path.realpath(path)) or self._counts(real))

    def is_input(self, path: str) -> bool:
        """Tell whether a file that was read counts: code has its own place in a record."""
        return not _is_code(path) and self.is_output(path)

    def shown(self, path: str) -> str:
        """Return a path as people name it: from the root, if it lies below."""
        for root in (self._root, self._real_root):
            if path.startswith(root + "/"):
                return path[len(root) + 1 :]
        return path

    def _counts(self, path: str) -> bool:
        for root in (self._root, self._real_root):
            if path.startswith(root + "/"):
                relative = path[len(root) + 1 :]
                return SKIPPED.isdisjoint(relative.split("/")) and not self._named(relative)
        if path.startswith(self._outside) or _PYTHON.search(path) or not SKIPPED.isdisjoint(path.split("/")):
            return False
        # What programs keep in a home for themselves: caches, settings, histories.
        return not path.startswith(self._home + "/.")


def named(root: Path) -> Callable[[str], bool]:
    """Return what tells whether `.cmfignore` names a path below the root."""
    try:
        lines = (root / IGNORE_FILE).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return lambda _: False
    from pathspec import GitIgnoreSpec

    return GitIgnoreSpec.from_lines(lines).match_file


def _is_code(path: str) -> bool:
    name = os.path.basename(path)
    ending = os.path.splitext(name)[1].lower()
    return ending in CODE or name == "Makefile" or bool(re.search(r"\.so(\.[0-9]+)+$", name))


def _environments(program: str) -> list[str]:
    """Return the folders of the interpreters: ours and the program's."""
    found = [sys.prefix, sys.base_prefix]
    for path in (program, os.path.realpath(program) if program else ""):
        above = os.path.dirname(os.path.dirname(path))
        if above and (os.path.exists(f"{above}/pyvenv.cfg") or os.path.isdir(f"{above}/conda-meta")):
            found.append(above)
    return found
