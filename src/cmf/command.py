"""Run a command and record it: no code change, any language.

The command keeps its terminal, its signals and its exit code. What could not be recorded never changes any of them.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmf import config, recording, starting
from cmf.errors import CmfError, UnreachableError
from cmf.model.records import slug
from cmf.worktree import trace

FORWARDED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Finished:
    """What became of a command: its exit code as a shell gives it, and the run, with what was found written."""

    def __init__(self, code: int, run: recording.Run, outputs: Sequence[str], problems: Sequence[str]) -> None:
        self.code = code
        self.run = run
        self.outputs = outputs
        self.problems = problems


def run(
    command: Sequence[str],
    *,
    program: str,
    scope: str = "",
    name: str = "",
    params: Mapping[str, Any] | None = None,
) -> Finished:
    """Run a command to its end and record it. ``program`` is the file that ``command[0]`` names."""
    environment = config.environment()
    root = config.place(Path.cwd(), override=environment.dir).parent
    run = starting.run(
        scope or f"{_pipeline(root)}/{_stage(command)}",
        name=name or None,
        params=dict(params or {}),
        command=list(command),
    )
    before = trace.scan(root)
    try:
        child = subprocess.Popen(list(command), executable=program)
    except OSError as error:
        run.finish("failed", exit=126)
        raise UnreachableError(f"'{command[0]}' cannot be started: {error.strerror}.", kind="command") from error
    with _signals_to(child):
        returned = child.wait()
    problems = []
    outputs = []
    after = trace.scan(root)
    for path in trace.written(before, after):
        try:
            run.output(path)
            outputs.append(path)
        except CmfError as error:
            problems.append(error.message)
    if not (before.complete and after.complete):
        problems.append(f"{root} has more than {trace.FILES_MAX} files: some that were written may be missing.")
    if returned < 0:
        run.finish("killed", exit=128 - returned, signal=-returned)
    else:
        run.finish("finished" if returned == 0 else "failed", exit=returned)
    return Finished(returned if returned >= 0 else 128 - returned, run, outputs, problems)


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
