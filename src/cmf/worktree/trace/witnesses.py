"""How a program is watched: the words before its command, its environment, and what was seen when it ended."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cmf.errors import UnsupportedError
from cmf.worktree.trace import strace, tree
from cmf.worktree.trace.accesses import Accesses

WAYS = ("auto", "strace", "python", "off")
VARIABLE = "CMF_TRACE"
_HOOK = Path(__file__).parent / "hook"


class Witness:
    """Watches one program. ``way`` is how: ``strace``, ``python`` or ``off``.

    ``refused`` is why it could not be executed, if that is only known when it has ended.
    """

    def __init__(self, way: str, root: Path) -> None:
        self.refused: OSError | None = None
        self.way = way
        self.problems: list[str] = []
        self._root = root
        self._accesses = Accesses()
        self._folder = tempfile.mkdtemp(prefix="cmf-") if way != "off" else ""
        self._log = os.path.join(self._folder, "log")
        self._before = tree.scan(root) if way == "python" else None

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the words that start the program."""
        return [*strace.prefix(self._log), *words] if self.way == "strace" else list(words)

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Return the program's environment: ours and more. Python children find the audit hook through it."""
        values = {**os.environ, **more}  # noqa: TID251  # handed on as it is
        if self.way == "python":
            path = os.pathsep.join(filter(None, (os.fspath(_HOOK), values.get("PYTHONPATH", ""))))
            values |= {"PYTHONPATH": path, VARIABLE: self._log}
        return values

    def ended(self, pid: int) -> Accesses:
        """Return what the program did, once it has ended."""
        if self.way == "strace":
            if not strace.take(self._log, pid, self._accesses):
                self.problems.append("strace did not tell everything: files may be missing.")
            self.refused = strace.refused(self._log, pid)
        if self.way == "python":
            self._compare()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
        return self._accesses

    def _compare(self) -> None:
        take(self._log, self._accesses)
        assert self._before is not None
        after = tree.scan(self._root)
        for path in tree.written(self._before, after):
            if path in self._before.files:
                self._accesses.wrote(path)
            else:
                self._accesses.made(path)
        if not (self._before.complete and after.complete):
            self.problems.append(f"{self._root} has more than {tree.FILES_MAX} files: some may be missing.")


def witness(way: str, root: Path) -> Witness:
    """Return who watches a program: ``auto`` takes `strace` if it can be used here, else ``python``.

    Raises `UnsupportedError` if `strace` is asked for by name and cannot be used.
    """
    if way in ("auto", "strace"):
        if strace.usable():
            return Witness("strace", root)
        if way == "strace":
            raise UnsupportedError(
                "strace is not installed, or may not trace here.",
                hint="Install it (apt-get install strace), or leave --trace out.",
            )
        way = "python"
    return Witness(way, root)


class Inside(Witness):
    """Watches this very process, and the Python programs that it starts, from now until it `ended`."""

    def __init__(self, root: Path) -> None:
        super().__init__("python", root)
        _hook().install(self._log)
        self._tell(add=True)

    def ended(self, pid: int = 0) -> Accesses:
        """Return what was done since, and watch no more."""
        self._tell(add=False)
        _hook().remove(self._log)
        return super().ended(pid)

    def _tell(self, *, add: bool) -> None:
        """Let programs that this process starts find the hook and the log, or no more."""
        variables = os.environ  # noqa: TID251  # it is this process's own that its children get
        for name, value, is_first in ((VARIABLE, self._log, False), ("PYTHONPATH", os.fspath(_HOOK), True)):
            parts = [part for part in variables.get(name, "").split(os.pathsep) if part and part != value]
            if add or (is_first and variables.get(VARIABLE)):
                parts.insert(0, value)
            if parts:
                variables[name] = os.pathsep.join(parts)
            else:
                variables.pop(name, None)


def _hook() -> Any:
    """Return the hook as a module of this process: it is a file that is found by its folder elsewhere."""
    name = "cmf_trace_hook"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, _HOOK / "sitecustomize.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def take(log: str, into: Accesses) -> None:
    """Read what the audit hooks of a program's processes wrote."""
    try:
        with open(log, "rb") as file:
            fields = file.read().split(b"\0")
    except FileNotFoundError:
        return
    for kind, path, other in zip(fields[0::3], fields[1::3], fields[2::3], strict=False):
        name = os.fsdecode(path)
        if kind == b"m":
            into.moved(name, os.fsdecode(other))
        elif act := {b"r": into.read, b"w": into.wrote, b"u": into.opened, b"d": into.deleted}.get(kind):
            act(name)
