"""Run a command and record it: no code change, any language.

The command keeps its terminal, its signals and its exit code. What could not be recorded never changes any of them.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmf import config, recording, starting
from cmf.errors import CmfError, UnreachableError
from cmf.model.records import slug
from cmf.worktree import trace

FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Finished:
    """What became of a command: its exit code as a shell gives it, the run, and the files that were found.

    ``way`` is how they were found: ``strace``, ``python`` or ``off``.
    """

    def __init__(self, run: recording.Run, watching: trace.Witness) -> None:
        self.code = 0
        self.run = run
        self.way = watching.way
        self.problems = watching.problems
        self.inputs: list[str] = []
        self.outputs: list[str] = []


def run(
    command: Sequence[str],
    *,
    program: str,
    scope: str = "",
    name: str = "",
    params: Mapping[str, Any] | None = None,
    way: str = "auto",
) -> Finished:
    """Run a command to its end and record it. ``program`` is the file that ``command[0]`` names.

    ``way`` says how the files that it reads and writes are found: one of `trace.WAYS`.
    """
    environment = config.environment()
    root = config.place(Path.cwd(), override=environment.dir).parent.absolute()
    watching = trace.witness(way, root)
    run = starting.run(
        scope or f"{_pipeline(root)}/{_stage(command)}",
        name=name or None,
        params=dict(params or {}),
        command=list(command),
    )
    try:
        child = subprocess.Popen(watching.command(command), env=watching.environment())
    except OSError as error:
        watching.ended(0)
        run.finish("failed", exit=126)
        raise UnreachableError(f"'{command[0]}' cannot be started: {error.strerror}.", kind="command") from error
    with _signals_to(child):
        returned = child.wait()
    accesses = watching.ended(child.pid)
    ignoring = trace.Ignoring(root, program)
    found = accesses.found(ignoring.is_input, ignoring.is_output)
    done = Finished(run, watching)
    done.inputs = _record(run.input, found.inputs, done.problems)
    done.outputs = _record(run.output, found.outputs, done.problems)
    for path in found.replaced:
        done.problems.append(f"{path} was read and then written over: what it was before is not recorded.")
    if returned < 0:
        done.code = 128 - returned
        run.finish("killed", exit=done.code, signal=-returned)
    else:
        done.code = returned
        run.finish("finished" if returned == 0 else "failed", exit=returned)
    return done


def _record(record: Callable[[str], object], paths: Sequence[str], problems: list[str]) -> list[str]:
    recorded = []
    for path in paths:
        try:
            record(path)
            recorded.append(path)
        except CmfError as error:
            problems.append(error.message)
    return recorded


@contextlib.contextmanager
def _signals_to(child: subprocess.Popen[bytes]) -> Iterator[None]:
    """While a command runs: ctrl-C reaches it from the terminal itself, other signals are passed on."""

    def forward(number: int, _: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(number)

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _pipeline(root: Path) -> str:
    return slug(root.name) or "main"


def _stage(command: Sequence[str]) -> str:
    """Name the stage after the script that runs, or else the program."""
    interpreter = Path(command[0]).name.startswith(("python", "bash", "sh", "node", "Rscript", "julia", "perl"))
    script = ""
    if interpreter and "-c" not in command and "-e" not in command:
        script = next((word for word in command[1:] if not word.startswith("-")), "")
    return slug(Path(script or command[0]).stem) or "command"
