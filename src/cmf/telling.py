"""What a process that is not the run's own has to say of it: a shell step, a C program, any child of a run.

It finds the run by `CMF_RUN`, which `cmf run` and `cmf.run` set: ``SCOPE:ID:ATTEMPT:FOLDER``. It writes into a journal
of its own, as every process does, and says nothing of the run's birth, process or status.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cmf import config
from cmf import recorder as recorders
from cmf.errors import NotFoundError, UnreachableError, UsageError
from cmf.model import records as model
from cmf.recording import Run

RANK = config.RANK_MAX
"""The rank of rows that separate processes tell one by one: a line of its own, whatever the run itself logs."""


class Told(NamedTuple):
    """Which run a process was started in, and where its store is."""

    scope: str
    id: str
    attempt: str
    folder: Path


def told(text: str) -> Told:
    """Read `CMF_RUN`; `NotFoundError` if there is none, `UsageError` if it isn't one."""
    if not text:
        raise NotFoundError(
            "There is no run here to record this of.",
            hint="Use it in a command that 'cmf run' started, or in a process that a cmf.run in Python started.",
            kind="no-run",
        )
    parts = text.split(":", 3)
    if (
        len(parts) < 4
        or not (model.is_scope(parts[0]) and model.is_execution_id(parts[1]))
        or not config.ATTEMPT.fullmatch(parts[2])
        or not os.path.isabs(parts[3])
    ):
        raise UsageError(f"CMF_RUN is '{text[:200]}'.", hint="It is SCOPE:ID:ATTEMPT:FOLDER, as 'cmf run' sets it.")
    return Told(parts[0], parts[1], parts[2], Path(parts[3]))


@contextmanager
def joined() -> Iterator[Run]:
    """Lend the handle of the run that this process was started in; what it recorded is durable at the end.

    Raises `UnreachableError` if anything could not be recorded: who tells one thing wants to know.
    """
    environment = config.environment()
    place = told(environment.run)
    if not place.folder.is_dir():
        raise NotFoundError(f"The store of this run, {place.folder}, is not there.", kind="no-run")
    recorder = recorders.of(place.folder, environment)
    run = Run(recorder, place.scope, place.id, name="", attempt=place.attempt, rank=RANK, first=False, system=False)
    dropped = recorder.dropped
    yield run
    run.flush()
    recorder.ended(run)
    if recorder.dropped > dropped:
        raise UnreachableError(
            f"This could not be recorded: {recorder.last_dropped}", hint="'cmf status' counts it.", kind="recording"
        )


def row(run: Run, values: Mapping[str, Any], step: int) -> None:
    """Record one row of step metrics that is told by a process of its own.

    Rows of one set of names are numbered across all processes, without a lock: each appends a byte to one file, and
    where that byte lies is the row's number.
    """
    names = "\n".join(sorted(values))
    place = told(config.environment().run)
    key = hashlib.sha256(f"{run.told}\n{names}".encode()).hexdigest()[:32]
    path = place.folder / "launch" / f"rows-{key}"
    try:
        path.parent.mkdir(exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        try:
            os.write(handle, b".")
            place_of_row = os.lseek(handle, 0, os.SEEK_CUR) - 1
        finally:
            os.close(handle)
    except OSError as error:
        raise UnreachableError(f"{path} cannot be written: {error.strerror}.", kind="disk") from error
    run.number_rows(values, place_of_row)
    run.log(values, step=step)


def number(text: str) -> float | int:
    """Read a number as a person writes it: ``nan``, ``inf`` and ``1e-3`` too; `UsageError` for anything else."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise UsageError(f"'{text}' is not a number.", hint="Such as loss=0.25 or accuracy=9.1e-1.")
