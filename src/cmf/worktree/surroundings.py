"""`Surroundings`: what a process runs with: code, environment, machine, container, scheduler.

What many runs share is an object, stored once for each content; only its digest is in each run's record.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from cmf.redaction import Redactor
from cmf.worktree import git, machine, places
from cmf.worktree.loaded import Loaded, editable, is_own

REPOSITORIES_MAX = 16
RecordPath = Callable[[str], str | dict[str, str]]


class Surroundings:
    """What the runs of one process share. ``keep`` takes in an object and returns its digest."""

    def __init__(
        self,
        root: Path,
        keep: Callable[[bytes], str],
        *,
        variables: Mapping[str, str],
        redactor: Redactor,
        record_path: RecordPath,
        untracked_bytes_max: int,
    ) -> None:
        self._root = root
        self._keep = keep
        self._variables = variables
        self._redactor = redactor
        self._record_path = record_path
        self._untracked_bytes_max = untracked_bytes_max
        self._shared: dict[str, Any] = {}
        self._code: dict[str, Any] = {}
        self._loaded = Loaded()
        self._editable: dict[str, str] | None = None
        self._stamps: tuple[object, ...] | None = None
        self._taken_ns = 0

    @property
    def known(self) -> bool:
        """Tell whether all was captured already, so that asking again costs little."""
        return bool(self._shared) and self._stamps is not None

    def look(self) -> dict[str, Any]:
        """Return the members of a process's description; code is captured again if it changed since the last look."""
        if not self._shared:
            environment = machine.environment_object(self._variables)
            self._shared = {
                "machine": {"$object": self._keep(machine.machine_object())},
                "environment": {"$object": self._keep(environment)},
                "container": places.container(self._variables),
                "entry_point": self._entry_point(),
            }
        code = self._look_at_code()
        found = {**self._shared, "scheduler": places.scheduler(self._variables), "code": code}
        found["variables"] = {name: self._variables[name] for name in machine.OF_A_PROCESS if name in self._variables}
        return {name: value for name, value in found.items() if value}

    def _entry_point(self) -> dict[str, Any]:
        """Return what Python was told to run: a module (`-m`), a script, or neither. `cmf` itself is not what ran."""
        main = sys.modules.get("__main__")
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        found: dict[str, Any] = {}
        if isinstance(file, str) and (is_own(file) or os.path.basename(file) == "cmf"):
            return found
        if spec is not None and isinstance(getattr(spec, "name", None), str):
            found["module"] = spec.name
        if isinstance(file, str):
            found["path"] = self._record_path(file)
        return found

    def _look_at_code(self) -> dict[str, Any]:
        fresh = self._loaded.look()
        trees = self._trees()
        of_trees = [stamp for tree in trees for stamp in git.signature(Path(tree))]
        stamps = (*git.signature(self._root, sorted(self._loaded.files - fresh)), *of_trees)
        every = (*git.signature(self._root, sorted(self._loaded.files)), *of_trees) if fresh else stamps
        if self._stamps is None or stamps != self._stamps or self._is_newer(fresh):
            self._taken_ns = time.time_ns()
            self._code = self._capture(trees)
        self._stamps = every
        return self._code

    def with_later(self, code: Mapping[str, Any]) -> dict[str, Any]:
        """Return the code of a run with the repositories whose modules it loaded since.

        What was captured before stays: files that were edited while it ran are not what ran.
        """
        if not self._loaded.look():
            return dict(code)
        known = [repository["path"] for repository in code.get("repositories", [])]
        added = [tree for tree in self._trees() if self._record_path(tree) not in known]
        others = self._states(added[: max(0, REPOSITORIES_MAX - len(known))])
        return {**code, "repositories": [*code.get("repositories", []), *others]} if others else dict(code)

    def _trees(self) -> list[str]:
        """Return the other work trees that loaded files and editable installs are in."""
        return sorted((self._loaded.trees() | self._of_editables()) - {git.work_tree(self._root)})

    def _of_editables(self) -> set[str]:
        if self._editable is None:
            self._editable = {name: git.work_tree(path) for name, path in editable().items()}
        return set(self._editable.values()) - {""}

    def _is_newer(self, files: Iterable[str]) -> bool:
        """Tell whether a file that was loaded only now changed after the code was captured."""
        for file in files:
            try:
                if os.stat(file).st_mtime_ns > self._taken_ns:
                    return True
            except OSError:
                return True
        return False

    def _capture(self, trees: list[str]) -> dict[str, Any]:
        found = self._state(self._root)
        top = git.work_tree(self._root)
        inside = [os.path.join(top, path) for path, _, why in found.get("omitted", []) if why == git.SUBMODULE]
        trees = list(dict.fromkeys([*trees, *inside]))
        if others := self._states(trees[:REPOSITORIES_MAX]):
            found["repositories"] = others
        if len(trees) > REPOSITORIES_MAX:
            found["repositories_omitted"] = len(trees) - REPOSITORIES_MAX
        return found

    def _states(self, trees: list[str]) -> list[dict[str, Any]]:
        found = []
        for tree in trees:
            if state := self._state(Path(tree)):
                packages = [name for name, of in (self._editable or {}).items() if of == tree]
                named = {"packages": packages} if packages else {}
                found.append({"path": self._record_path(tree), **named, **state})
        return found

    def _state(self, folder: Path) -> dict[str, Any]:
        state = git.capture(folder, self._keep, untracked_bytes_max=self._untracked_bytes_max, redactor=self._redactor)
        value: dict[str, Any] = msgspec.to_builtins(state) if state is not None else {}
        if value.get("diff"):
            value["diff"] = {"$object": value["diff"]}
        if value.get("untracked"):  # the manifest of a folder
            value["untracked"] = {"$object": f"tree:{value['untracked']}"}
        return value
