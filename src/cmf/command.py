"""Run a command and record it: no code change, any language.

The command keeps its terminal, its signals and its exit code. What could not be recorded never changes any of them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from cmf import capturing, config, launch, recording, starting, terminal
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
        self.declared = 0


def run(
    command: Sequence[str],
    *,
    program: str,
    scope: str = "",
    name: str = "",
    params: Mapping[str, Any] | None = None,
    way: str = "auto",
    output: bool = True,
) -> Finished:
    """Run a command to its end and record it. ``program`` is the file that ``command[0]`` names, "" if there is none.

    ``way`` says how the files that it reads and writes are found: one of `trace.WAYS`. ``output``: keep what it writes
    to its standard output and error as an object, while that passes through.
    """
    environment = config.environment()
    root = config.place(Path.cwd(), override=environment.dir).parent.absolute()
    watching = trace.witness(way if program else "off", root)
    run = starting.run(
        scope or f"{_pipeline(root)}/{_stage(command)}",
        name=name or None,
        params=dict(params or {}),
        command=list(command),
    )
    place = config.place(Path.cwd(), override=environment.dir).absolute()
    if run.rank == 0:  # another rank must not take the birth from it
        launch.announce(place, run.id)
    if not program:
        return _not_started(Finished(run, watching), command[0])
    handle, told = tempfile.mkstemp(prefix="cmf-")
    os.close(handle)
    ours = {
        "CMF_EXECUTION": run.id,
        "CMF_ATTEMPT": run.attempt,
        "CMF_SCOPE": run.scope,
        "CMF_DIR": str(place),
        "CMF_TOLD": told,
    }
    streams = terminal.Streams() if output else None
    out, err = streams.outputs if streams else (None, None)
    with _signals() as pass_to:
        try:
            child = subprocess.Popen(watching.command(command), env=watching.environment(ours), stdout=out, stderr=err)
        except OSError as error:
            if streams:
                streams.abandon()
            watching.ended(0)
            os.unlink(told)
            return _not_started(Finished(run, watching), command[0], error)
        pass_to(child)
        returned = streams.copy(child) if streams else child.wait()
    if streams and streams.kept.size:
        run.keep_output(streams.kept.take(), streams.kept.size)
    accesses = watching.ended(child.pid)
    if watching.refused:
        os.unlink(told)
        return _not_started(Finished(run, watching), command[0], watching.refused)
    ignoring = trace.Ignoring(root, program)
    done = Finished(run, watching)
    declared = _told(told)
    captured = capturing.record(run, accesses, ignoring, declared, sees_all=watching.way == "strace")
    done.inputs, done.outputs, done.declared = captured.inputs, captured.outputs, captured.declared
    done.problems += captured.problems
    if returned < 0:
        done.code = 128 - returned
        run.finish("killed", exit=done.code, signal=-returned)
    else:
        done.code = returned
        # What ended the command's own run is what ended it: its exception says more than an exit code.
        said = sorted(declared[f"error {run.node}"]) if returned else []
        ended_by = msgspec.json.decode(said[0]) if said else None
        run.finish("finished" if returned == 0 else "failed", exit=returned, error=ended_by)
    return done


def _not_started(done: Finished, word: str, error: OSError | None = None) -> Finished:
    """End the run of a command that could not be started, with the exit code that a shell gives then."""
    if error is None:
        if os.path.lexists(word) and os.sep in word:
            error = PermissionError(0, "it is a folder" if os.path.isdir(word) else "it is not executable")
        else:
            error = FileNotFoundError(0, "there is no such command")
    done.way = "off"
    done.code = 127 if isinstance(error, FileNotFoundError) and not error.errno else 126
    said = f"'{word}' cannot be run: {(error.strerror or '').lower()}."
    done.problems.append(said)
    done.run.finish("failed", exit=done.code, error={"type": type(error).__name__, "message": said})
    return done


def _told(path: str) -> dict[str, set[str]]:
    """Return what the command's own runs told: files by direction, and errors; the file that tells goes."""
    with open(path, "rb") as file:
        fields = [os.fsdecode(field) for field in file.read().split(b"\0")]
    os.unlink(path)
    found: dict[str, set[str]] = defaultdict(set)
    for what, said in zip(fields[0::2], fields[1::2], strict=False):
        found[what].add(said)
    return found


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[subprocess.Popen[bytes]], None]]:
    """While a command runs: ctrl-C reaches it from the terminal itself, other signals are passed on.

    The function is told the command when it was started. What comes before that is passed on then, ctrl-C too: between
    fork and exec it reaches Python's handler, which is gone with the exec.
    """
    before: dict[int, Any] = {}
    early: list[int] = []
    child: subprocess.Popen[bytes] | None = None

    def forward(number: int, _: object) -> None:
        if child is None:
            early.append(number)
        elif number != signal.SIGINT:
            send(child, number)

    def send(to: subprocess.Popen[bytes], number: int) -> None:
        # `Popen.send_signal` would reap one that has ended, which `Streams.copy` is yet to wait for.
        if to.returncode is None:
            with contextlib.suppress(OSError):  # it is another user's, such as sudo's
                os.kill(to.pid, number)

    def take(*numbers: int) -> None:
        before.update({number: signal.signal(number, forward) for number in numbers if number not in before})

    def pass_to(started: subprocess.Popen[bytes]) -> None:
        nonlocal child
        child = started
        take(*FORWARDED)
        for number in early:
            send(started, number)

    # What is ignored (by `nohup`, say) must still be when the command is started, which inherits that.
    take(*(number for number in (signal.SIGINT, *FORWARDED) if signal.getsignal(number) is not signal.SIG_IGN))
    try:
        yield pass_to
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
