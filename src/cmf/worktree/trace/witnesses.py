"""How a program is watched: the words before its command, its environment, and what was seen when it ended."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

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
