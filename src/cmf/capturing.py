"""The files that a program was seen to use, as what is recorded of its run.

What the program declared itself is not recorded twice. Where the two differ, that is told: a file that it used and did
not declare, though it declared others; a file that it declared and never opened.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Protocol

import msgspec

from cmf.errors import CmfError
from cmf.worktree.trace import Accesses, Ignoring, Inside

UNDECLARED = "files/undeclared"
UNOPENED = "files/unopened"
"""The properties that name files by which the declared and the seen differ."""

NAMED_MAX = 12


class Records(Protocol):
    """A run, as far as files are recorded with it."""

    def input(self, path: str, /) -> object:
        """Record a file that was used."""
        ...

    def output(self, path: str, /) -> object:
        """Record a file that was made."""
        ...

    def set(self, key: str, value: Any) -> None:
        """Set a property."""
        ...


class Captured(msgspec.Struct):
    """What was recorded: paths of inputs and outputs; how many files were declared; what went wrong."""

    inputs: list[str] = []
    outputs: list[str] = []
    declared: int = 0
    problems: list[str] = []


def record(
    run: Records,
    seen: Accesses,
    ignoring: Ignoring,
    declared: Mapping[str, AbstractSet[str]],
    *,
    sees_all: bool,
) -> Captured:
    """Record the files that were seen and not declared with a run, and tell how the two differ.

    ``declared`` has real paths under ``input`` and ``output``. ``sees_all``: a file that was not seen was not opened.
    """
    done = Captured([], [], 0, [])
    found = seen.found(ignoring.is_input, ignoring.is_output)
    undeclared = []
    for direction, act, paths, into in (
        ("input", run.input, found.inputs, done.inputs),
        ("output", run.output, found.outputs, done.outputs),
    ):
        known = declared.get(direction, frozenset[str]())
        done.declared += len(known)
        into.extend(_recorded(act, _undeclared(paths, known), done.problems))
        if known:
            undeclared += into
    for path in found.replaced:
        done.problems.append(f"{path} was read and then written over: what it was before is not recorded.")
    unopened = sorted({*declared.get("input", ()), *declared.get("output", ())} - seen.touched()) if sees_all else []
    for key, differing in ((UNDECLARED, undeclared), (UNOPENED, unopened)):
        if differing:
            more = [f"… {len(differing) - NAMED_MAX} more"] if len(differing) > NAMED_MAX else []
            run.set(key, [ignoring.shown(path) for path in differing[:NAMED_MAX]] + more)
    return done


def _undeclared(paths: Sequence[str], declared: AbstractSet[str]) -> list[str]:
    """Return those that neither are among the declared nor lie in a declared folder."""
    return [
        path for path in paths if declared.isdisjoint((real := os.path.realpath(path), *map(str, Path(real).parents)))
    ]


def _recorded(act: Callable[[str], object], paths: Sequence[str], problems: list[str]) -> list[str]:
    recorded = []
    for path in paths:
        try:
            act(path)
            recorded.append(path)
        except CmfError as error:
            problems.append(error.message)
    return recorded


class LiveRun(Records, Protocol):
    """A run of this process."""

    before_end: list[Callable[[], object]]

    @property
    def declared(self) -> Mapping[str, AbstractSet[str]]:
        """The real paths of what was recorded so far, by direction."""
        ...

    def dropped(self, why: str) -> None:
        """Count something that could not be recorded."""
        ...


def inside(run: LiveRun, root: Path) -> None:
    """Watch this process until its run ends, and then record what was seen. Never raises.

    It sees what Python opens here and in Python programs that are started, and what anything writes below the root.
    """
    try:
        watching = Inside(root)
    except OSError as error:
        run.dropped(f"files that are used: {error}")
        return

    def end() -> None:
        try:
            seen = watching.ended()
            done = record(run, seen, Ignoring(root, sys.executable), run.declared, sees_all=False)
            for problem in (*watching.problems, *done.problems):
                run.dropped(problem)
        except Exception as error:  # noqa: BLE001  # recording must not break the program: the disk, odd paths
            run.dropped(f"files that were used: {error}")

    run.before_end.append(end)
