"""Which source files this process has loaded, and which git work trees and editable installs they belong to.

Imports nothing, starts no process, and touches no module but for its name and file.
"""

from __future__ import annotations

import os
import sys
import sysconfig
import types
from urllib.parse import unquote, urlsplit

import msgspec

from cmf.worktree import git

_INSTALLED = ("site-packages", "dist-packages")
_OWN = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The package that records is not what ran."""


class Loaded:
    """The source files loaded so far; each module is looked at once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._trees: dict[str, str] = {}
        self._library = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib")})
        self.files: set[str] = set()

    def look(self) -> set[str]:
        """Return the source files that were loaded since the last look, but for the library's and installed ones."""
        found: set[str] = set()
        for name, module in list(sys.modules.items()):
            if name in self._seen:
                continue
            self._seen.add(name)
            file = _file(module)
            if file.endswith(".py") and not self._is_library(file):
                found.add(file)
        found -= self.files
        self.files |= found
        return found

    def _is_library(self, file: str) -> bool:
        if is_own(file) or file.startswith(self._library):
            return True
        return any(f"{os.sep}{part}{os.sep}" in file for part in _INSTALLED)

    def trees(self) -> set[str]:
        """Return the tops of the git work trees that the loaded files are in."""
        found = set()
        for file in self.files:
            folder = os.path.dirname(file)
            if folder not in self._trees:
                self._trees[folder] = git.work_tree(folder)
            found.add(self._trees[folder])
        return found - {""}


def is_own(file: str) -> bool:
    """Tell whether a file is one of cmf's own."""
    return file.startswith(_OWN + os.sep)


def _file(module: object) -> str:
    """Return a module's file without waking one that loads itself when an attribute is asked for."""
    if not isinstance(module, types.ModuleType):
        return ""
    try:
        file = types.ModuleType.__getattribute__(module, "__dict__").get("__file__")
    except Exception:  # noqa: BLE001  # a module may be anything
        return ""
    return os.path.abspath(file) if isinstance(file, str) and not file.startswith("<") else ""


def editable() -> dict[str, str]:
    """Return the distributions that are installed in place: normalised name to source folder. But for cmf itself."""
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = [name for name in os.listdir(folder or ".") if name.endswith(".dist-info")]
        except OSError:
            continue
        for name in names:
            try:
                with open(os.path.join(folder, name, "direct_url.json"), "rb") as file:
                    value = msgspec.json.decode(file.read())
                if value["dir_info"]["editable"] is True:
                    path = unquote(urlsplit(value["url"]).path)
                    found.setdefault(name.partition("-")[0].replace("_", "-").lower(), path)
            except (OSError, msgspec.MsgspecError, ValueError, KeyError, TypeError):
                continue
    return {name: path for name, path in sorted(found.items()) if not _OWN.startswith(os.path.join(path, ""))}
