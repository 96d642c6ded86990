"""`run`: starts a run, or goes on with one, and returns its handle.

Knows what a caller and the environment may say of a run before it is one. Refuses to know what a run records.
"""

from __future__ import annotations

import os
import sys
import time as clocks
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from cmf import config, launch, slicing
from cmf import recorder as recorders
from cmf import seen as frameworks
from cmf.errors import UsageError
from cmf.model import records as model
from cmf.recorder import Recorder
from cmf.recording import Run
from cmf.using import NAME_CHARS_MAX, Direction, is_short_text
from cmf.worktree.files import Kept


def run(
    scope: str = "",
    *,
    params: Mapping[str, Any] | None = None,
    name: str | None = None,
    resume: str | None = None,
    parent: Run | str | None = None,
    rank: int | None = None,
    author: str | None = None,
    command: Sequence[str] | None = None,
    system: bool = True,
    see_params: bool | None = None,
    capture: bool = False,
) -> Run:
    """Start a run and return its handle.

    ``scope`` is ``pipeline/stage``; what is left out comes from the folder and the script. ``name`` is what people call
    it, two words if left out; of an execution that has a name already, since `cmf run` began it, it is the title.
    ``resume`` goes on with an execution by its id (or the start of it) in a new attempt. ``parent`` is the run that
    this one is a part of, or its ``node`` (`CMF_PARENT`). ``rank`` is this process's number among those that write one
    execution together; torchrun, MPI and Slurm say it themselves. With ``system``, what program and machine use
    (processor, memory, disk, network) is told every ten seconds as step metrics under ``system/``, unless `CMF_SYSTEM`
    or the store's settings say not to. Parameters that argparse, click, hydra or omegaconf hold are recorded beside
    ``params``, unless ``see_params`` is False (None: as the store's settings say). With ``capture``, files that Python
    opens until the run ends, here and in Python programs that are started, become its inputs and outputs without being
    declared, and whatever is written below the folder that holds the store; `cmf run` sees more. Raises `UsageError`
    for a bad scope, `NotFoundError` for a resumed execution that isn't here; otherwise recording never fails your
    program.
    """
    environment = config.environment()
    above = parent.node if isinstance(parent, Run) else parent or environment.parent
    _check_start(scope, params, name, author, above, rank)
    where = config.place(Path.cwd(), override=environment.dir).absolute()
    full = launch.scope(scope, where.parent)
    if environment.off:
        fresh = launch.uuid7(clocks.time_ns())
        return _Off(full, fresh, name or launch.two_words(fresh))
    recorder = recorders.of(where, environment)
    environment = launch.within(where, environment, full, rank, named=bool(scope) or resume is not None)
    above = above or environment.parent
    joins = bool(environment.scope and environment.execution)
    full = environment.scope if joins else full
    if resume is not None:
        known = launch.known(where, resume)
        full = known.scope
        recorder.seen(known.last_t)
        place = launch.resumed(known, launch.place(where, environment, full, rank))
    else:
        place = launch.place(where, environment, full, rank)
    if place.problem:
        recorder.drop(place.problem)
    heir = place.heir and not joins  # `cmf run` itself is the heir of what it started
    made = Run(
        *(recorder, full, place.id),
        name=name or launch.two_words(place.id),
        attempt=place.attempt,
        rank=place.rank,
        first=place.first,
        inherits=(lambda: launch.inherits(where, place.id, place.attempt)) if heir else None,
        system=system and environment.system and recorder.config.system,
    )
    sees = recorder.config.see_params if see_params is None else see_params
    seen = _seen(recorder) if sees and (place.first or heir or place.late) and command is None else {}
    made.start(
        command=list(command if command is not None else sys.argv),
        params={**seen, **(params or {})},
        parent=above,
        author=author or "",
    )
    if capture and not joins:  # `cmf run` sees it all already
        from cmf import capturing

        capturing.inside(made, where.parent)
    if joins or place.late:  # the birth is recorded already: by `cmf run`, or by a rank that has ended
        for key, value in {**seen, **(params or {})}.items():
            made.set(f"param/{key}", value)
        if name:
            made.set("title", name)
    return made


def _seen(recorder: Recorder) -> dict[str, Any]:
    try:
        return frameworks.parameters()
    except Exception as error:  # noqa: BLE001  # a framework of the program's may raise anything
        recorder.drop(f"parameters that a framework holds: {type(error).__name__}")
        return {}


def _check_start(scope: object, params: object, name: object, author: object, parent: str, rank: int | None) -> None:
    """Refuse what cannot be recorded, before the program's own work begins."""
    if not isinstance(scope, str):
        raise UsageError(f"'{scope}' is not a scope.", hint="Name it as 'pipeline/stage'.", kind="scope")
    if params is not None and not isinstance(params, Mapping):
        raise UsageError("params takes a dict of names and values.")
    for what, text in (("name", name), ("author", author)):
        if text is not None and not is_short_text(text):
            raise UsageError(f"A run's {what} is not a text of up to {NAME_CHARS_MAX} characters.")
    if parent and model.split_execution(parent) is None:
        raise UsageError(
            f"'{parent[:NAME_CHARS_MAX]}' is no execution to be the parent.", hint="Hand over the Run itself."
        )
    if rank is not None and not 0 <= rank <= config.RANK_MAX:
        raise UsageError(f"A rank is a whole number from 0, not {rank}.")


class _Off(Run):
    """A run that records nothing: `CMF_MODE=off`."""

    def __init__(self, scope: str, id: str, name: str) -> None:
        self.scope, self.id, self.name, self.node = scope, id, name, model.execution_node(scope, id)
        self.attempt, self.rank, self.finished = "", 0, False

    def _event(
        self, direction: Direction, path: str | os.PathLike[str], attributes: Mapping[str, Any], **_: Any
    ) -> Path:
        return Path(path)

    def output_kept(self, path: str | os.PathLike[str], kept: Kept, *, began_ns: int, type: str = "") -> None:
        """Record nothing."""

    def slice(self, folder: str | os.PathLike[str], paths: Iterable[str | os.PathLike[str]], **_: Any) -> list[Path]:
        """Return the paths, and record nothing."""
        place = Path(folder)
        return [place / each for each in slicing.choose(place, slicing.on_disk(place), paths)]

    def output_bytes(self, data: bytes, *, type: str, role: str = "", name: str = "", **attributes: Any) -> None:
        """Record nothing."""

    def log(self, values: Mapping[str, float], *, step: int | None = None, time: float | None = None) -> None:
        """Record nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def set(self, key: str, value: Any) -> None:
        """Record nothing."""

    def label(self, label: str, name: str = "") -> None:
        """Record nothing."""

    def link(self, source: str, rel: str, to: str) -> None:
        """Record nothing."""

    def dropped(self, why: str) -> None:
        """Count nothing."""

    def _property(self, key: str, value: Any, subject: str = "") -> None:
        return None

    def finish(self, status: str = "finished", **_: Any) -> None:
        """Do nothing."""
        self.finished = True

    def fail(self, error: BaseException) -> None:
        """Do nothing."""
        self.finished = True
