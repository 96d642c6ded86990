"""`Run`: the handle that a script holds while it is being recorded. `starting` makes one.

Recording takes no lock, opens no database and reads no network. Once a run has started, nothing here raises into the
program, waits for anything or changes its result, but for misuse of `input` and `output`; what could not be
recorded is counted, and `cmf status` tells.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from pathlib import Path
from time import time_ns
from typing import Any, Self

from cmf import describing, media, notebook, slicing
from cmf import recorder as recorders
from cmf.errors import CmfError, NotFoundError
from cmf.graph import registers
from cmf.journal import PointsHeader
from cmf.model import encoding
from cmf.model import records as model
from cmf.model.encoding import INTEGER_MAX
from cmf.points import Points, sets, whole
from cmf.recorder import Recorder
from cmf.using import NAME_CHARS_MAX, Direction, Uses
from cmf.worktree import uri
from cmf.worktree.files import Kept

PARAMS_BYTES_MAX = 32 * 1024
ROWS_BUFFERED_MAX = 50_000
ROWS_HELD_MAX = 2_000_000
RESERVED = ("status/", "process/", "terminal/", "metric/", "label/", "retracted", "redacted")


class Run:
    """One live run. Use it as a context manager, or call `finish`.

    ``id`` names the execution for ever, ``name`` is two words for people, ``node`` names it in links. Methods may be
    called from several threads.
    """

    def __init__(
        self,
        recorder: Recorder,
        scope: str,
        id: str,
        *,
        name: str,
        attempt: str,
        rank: int,
        first: bool,
        system: bool,
        inherits: Callable[[], bool] | None = None,
    ) -> None:
        self._recorder = recorder
        self.scope = scope
        self.id = id
        self.name = name
        self.attempt = attempt
        self.rank = rank
        self.node = model.execution_node(scope, id)
        self._first = first
        self._inherits = inherits
        self._birth: model.Execution | None = None
        self._tells_system = system
        self._points: dict[tuple[Any, ...], Points] = {}
        self._written: dict[tuple[str, ...], int] = {}
        self._uses = Uses(recorder, scope, id)
        self._description = describing.Description(recorder, scope, self.node, f"process/{attempt}/{rank}")
        self._pid = os.getpid()
        self._writes_through = False
        self.finished = False
        self.before_end: list[Callable[[], object]] = []
        self._cells = 0

    @property
    def declared(self) -> Mapping[str, AbstractSet[str]]:
        """The real paths of what was recorded so far as ``input`` and as ``output``."""
        return self._uses.declared

    @property
    def told(self) -> str:
        """How a child process is told of this run: ``SCOPE:ID:ATTEMPT``."""
        return f"{self.scope}:{self.id}:{self.attempt}"

    def __enter__(self) -> Self:
        entered.set((*entered.get(), self))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        # Not a token's reset: blocks of generators and threads need not end in the order in which they began.
        entered.set(tuple(run for run in entered.get() if run is not self))
        if error is None:
            self.finish()
        else:
            self.fail(error)

    def __repr__(self) -> str:
        return f"<Run {self.scope} {self.name} {self.id[24:31]}>"

    # ---- data ----------------------------------------------------------------------------------------------------

    def input(
        self,
        path: str | os.PathLike[str],
        *,
        type: str = "",
        role: str = "",
        name: str = "",
        policy: str = "",
        labels: str | os.PathLike[str] | None = None,
        hash: bool = False,
        **attributes: Any,
    ) -> Path | Any:
        """Record that this run uses a file or folder, or what lies at a URL; return its path, or the URL as it is.

        Hashed and kept while it is read once. ``policy`` says what becomes of its bytes: ``copy``, ``link`` or
        ``reference``; left out, the store's rules decide. ``labels`` is the file that holds the data's labels: an
        artifact of its own, of type ``labels``. Raises `NotFoundError` if it isn't there, `UsageError` if it can't be
        recorded; everything else ends as a counted warning.

        Bytes at a URL (``https://``, ``s3://``, ``gs://``, ``az://``) stay where they are, and its server says which
        version they are; ``hash`` reads them once for their SHA-256. A look-up takes at most some seconds.
        """
        given: dict[str, Any] = {"type": type, "role": role, "name": name, "policy": policy, "labels": labels}
        return self._event("input", path, attributes, hash=hash, **given)

    def output(
        self,
        path: str | os.PathLike[str],
        *,
        type: str = "",
        role: str = "",
        name: str = "",
        policy: str = "",
        labels: str | os.PathLike[str] | None = None,
        hash: bool = False,
        **attributes: Any,
    ) -> Path | Any:
        """Record that this run made a file or folder, as `input`; a ``name`` lets people ask for it."""
        given: dict[str, Any] = {"type": type, "role": role, "name": name, "policy": policy, "labels": labels}
        return self._event("output", path, attributes, hash=hash, **given)

    def output_kept(self, path: str | os.PathLike[str], kept: Kept, *, began_ns: int, type: str = "") -> None:
        """Record as an output what `Files.keep` has kept just now: nothing is read again. Never raises.

        ``began_ns`` is the wall time before it was read.
        """
        self._uses.kept("output", Path(path), kept, type=type, began_ns=began_ns)

    def _event(
        self,
        direction: Direction,
        path: str | os.PathLike[str],
        attributes: Mapping[str, Any],
        *,
        hash: bool = False,
        **given: Any,
    ) -> Path | Any:  # a path for a path; else a type checker would ask for a test after every call
        if isinstance(path, str) and uri.is_uri(path):
            return self._uses.address(direction, path, attributes=attributes, hash=hash, **given)
        return self._uses.path(direction, path, attributes=attributes, **given)

    def environment(self, path: str | os.PathLike[str], *, name: str = "", **attributes: Any) -> Path:
        """Record the file that says what this run's environment was made from, as `input` does; return its path.

        Such as a conda environment, a ``requirements.txt``, a lock file, or a text that names a container image. What
        the environment really held is recorded without it.
        """
        return self._event("input", path, attributes, type="environment", role="environment", name=name)

    def slice(
        self,
        folder: str | os.PathLike[str],
        paths: Iterable[str | os.PathLike[str]],
        *,
        name: str = "",
        type: str = slicing.TYPE,
        role: str = slicing.ROLE,
        **attributes: Any,
    ) -> list[Path]:
        """Record that this run uses some files of a folder; return their paths, sorted.

        ``paths`` start at the folder: files, folders, or patterns in which ``*`` also matches ``/``. The folder is
        recorded as an input, and the slice as an artifact of its own that is part of it: its lineage is the folder's.
        Raises `NotFoundError` for a path that names nothing, `UsageError` for one that leaves the folder.
        """
        return self._uses.slice(folder, paths, type=type, role=role, name=name, attributes=attributes)

    def output_bytes(self, data: bytes, *, type: str, role: str = "", name: str = "", **attributes: Any) -> None:
        """Record bytes that are in no file as an output of this run. Never raises."""
        self._uses.data(data, type=type, role=role, name=name, attributes=attributes)

    # ---- values --------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, Any], *, step: int | None = None, time: float | None = None) -> None:
        """Record one row of step metrics: numbers by name. Never raises and never waits.

        ``step`` counts up by itself if left out; ``time`` is in seconds since 1970, now if left out. Rows that are
        logged with the same names together are stored together.

        A value may also be a text, an image (of PIL, or an array of rows × columns × 1, 3 or 4 channels: bytes, or
        floats from 0 to 1), a table (a list of dicts, or a frame of pandas, polars or pyarrow), a figure of matplotlib
        or plotly, bytes, or the path of a file. It becomes an output of the run (`Repo.logged`), before this returns.
        None is left out.
        """
        try:
            key = tuple(values)
            points = self._points.get(key)
            if points is None:
                if any(len(str(name)) > model.TEXT_CHARS_MAX for name in key):
                    self._log_without_long(values, step, time)
                    return
                if len(parts := sets(key)) > 1:
                    for part in parts:
                        self.log({name: values[name] for name in part}, step=step, time=time)
                    return
                if any(map(media.is_media, values.values())):
                    self._log_media(values, step, time)
                    return
                points = self._points.setdefault(key, Points(key))
                self._recorder.keep_flushing()
            if step is None:
                step = points.next
            elif step.__class__ is not int:
                step = whole(step)
            if not -INTEGER_MAX <= step <= INTEGER_MAX:
                raise ValueError(f"step {step} is beyond 2**53.")
            row = (step, time_ns() if time is None else float(time), *values.values())
            if len(row) != points.width:  # a mapping of the program's own, or one that another thread changes
                raise ValueError("it has other values than names.")
            points.next = step + 1
            points.add(row)
        except Exception as error:  # noqa: BLE001  # a mapping or number of the program's may raise anything
            self._recorder.drop(f"a row of step metrics: {encoding.said(error)}")
            return
        if len(points.cells) >= ROWS_BUFFERED_MAX * points.width:
            self._crowded(points)
        elif self._writes_through:
            self.flush()

    def _log_without_long(self, values: Mapping[str, Any], step: int | None, time: float | None) -> None:
        """Count the names that no record holds, and record the rest of a row."""
        kept = {name: value for name, value in values.items() if len(str(name)) <= model.TEXT_CHARS_MAX}
        long = next(str(name) for name in values if name not in kept)
        why = f"a row of step metrics: a name of {len(long)} characters is too long: {long[:NAME_CHARS_MAX]}…"
        self._recorder.drop(why, len(values) - len(kept))
        if kept:
            self.log(kept, step=step, time=time)

    def _log_media(self, values: Mapping[str, Any], step: int | None, time: float | None) -> None:
        """Record the values of a row that are no numbers as outputs, and the rest as a row of their own."""
        step = self._uses.media(values, step=step, time=time, rank=self.rank)
        if numbers := {name: value for name, value in values.items() if not media.is_media(value)}:
            self.log(numbers, step=step, time=time)

    def tell(self, used: Mapping[str, float]) -> None:
        """Record what program and machine use, if this run tells it."""
        if self._tells_system:
            self.log(used)

    def _crowded(self, points: Points) -> None:
        """Have the rows written soon; if the disk has not taken any for so long, leave the newest out."""
        if len(points) > ROWS_HELD_MAX:
            points.keep(ROWS_HELD_MAX)
            self._recorder.drop("a row of step metrics: the disk does not answer.")
        self._recorder.flush_soon()

    def number_rows(self, names: Iterable[str], first: int) -> None:
        """Let the next row of one set of names be the row ``first``: other processes count the same rows."""
        self._written[tuple(sorted(names))] = first

    def flush(self) -> None:
        """Hand the rows logged so far to the journal; from then on they survive the process being killed."""
        for points in list(self._points.values()):
            with self._recorder.lock:
                self._write_points(points)

    def _write_points(self, points: Points) -> None:
        steps, times, columns, bad = points.take()
        names = points.names
        if bad:
            self._recorder.drop(f"{bad} rows of {', '.join(names)[:NAME_CHARS_MAX]} were not numbers.", bad)
        if not len(steps):
            return
        left = len(steps)
        header = PointsHeader(
            scope=self.scope,
            execution=self.id,
            attempt=self.attempt,
            rank=self.rank,
            names=names,
            first=self._written.get(names, 0),
            rows=left,
        )
        try:
            for rows in self._recorder.journal().points(header, steps, times, columns):
                self._written[names] = self._written.get(names, 0) + rows
                left -= rows
        except Exception as error:  # noqa: BLE001  # the disk, or names that no journal can hold
            self._recorder.drop(f"{left} rows of {', '.join(names)[:NAME_CHARS_MAX]}: {encoding.said(error)}", left)

    def metrics(self, values: Mapping[str, Any] | None = None, **more: Any) -> None:
        """Record final metrics: one number a name. Set again, the later value counts and the earlier stays readable."""
        given: object = values
        if given is not None and not isinstance(given, Mapping):
            self._recorder.drop(f"metrics takes numbers by name, not {encoding.said(given)}.")
            return
        for name, value in {**(values or {}), **more}.items():
            self._property(f"metric/{name}", value)

    def set(self, key: str, value: Any) -> None:
        """Set a property of this run, such as ``description``, ``tag/NAME`` or ``param/NAME``; None unsets it."""
        given: object = key
        if not isinstance(given, str) or not given or given.startswith(RESERVED):
            self._recorder.drop(f"'{str(given)[:NAME_CHARS_MAX]}' cannot be set: that name is cmf's own.")
            return
        self._property(key, value)

    def label(self, label: str, name: str = "") -> None:
        """Let ``NAME@LABEL`` mean what this run used or made last under that name (under any name, if left out).

        A label moves: the run that sets it last holds it.
        """
        found = self._uses.newest(name)
        if found is None:
            self._recorder.drop(
                f"label '{label}': this run has no input or output {f'named {name}' if name else 'with a name'}."
            )
            return
        digest, known = found
        self._property(f"label/{known}@{label}", {"artifact": digest, "name": known}, subject="scope")

    def keep_output(self, data: bytes, size: int) -> None:
        """Keep what the run's command wrote, without the secrets in it; ``size``: of the whole, if ``data`` is less."""
        try:
            text = self._recorder.redactor.text(data.decode("utf-8", "surrogateescape"))
            value = {"object": {"$object": self._recorder.keep(text.encode("utf-8", "surrogateescape"))}, "bytes": size}
        except (OSError, CmfError) as error:
            self._recorder.drop(f"the output of the command: {error}")
            return
        self._write_terminal(value)

    def _write_terminal(self, value: dict[str, Any]) -> None:
        key = f"{registers.TERMINAL}{self.attempt}/{self.rank}"
        self._write(model.Property(subject=self.node, key=key, value=value, t=self._recorder.now()))

    def _keep_cells(self, shell: notebook.Notebook) -> bool:
        """Keep the cells that were executed so far, without the secrets in them; return whether the run is open."""
        try:
            cells = shell.cells()
            if len(cells) != self._cells and self._pid == os.getpid():
                self._cells = len(cells)
                data = self._recorder.redactor.text(shell.text()).encode("utf-8", "surrogatepass")
                self._write_terminal({"cells": {"$object": self._recorder.keep(data)}, "count": len(cells)})
        except Exception as error:  # noqa: BLE001  # recording must not break the program: the disk, odd text
            self._recorder.drop(f"the cells of the notebook: {encoding.said(error)}")
        return not self.finished

    def link(self, source: str, rel: str, to: str) -> None:
        """Record an edge between two nodes, such as ``run.link(run.node, "derived_from", other.node)``."""
        given: tuple[object, ...] = (source, to)
        if not all(isinstance(node, str) and model.is_node(node) for node in given) or rel not in model.RELATIONS:
            self._recorder.drop(f"'{source} {rel} {to}' is not a link.")
            return
        self._write(model.Link(source=source, rel=rel, to=to))

    def _property(self, key: str, value: Any, subject: str = "") -> None:
        if len(key) > model.TEXT_CHARS_MAX:
            self._recorder.drop(f"{key[:NAME_CHARS_MAX]}…: a name of {len(key)} characters is too long.")
            return
        try:
            plain = encoding.to_value(value)
        except Exception as error:  # noqa: BLE001  # a value of the program's may raise anything
            self._recorder.drop(f"{key}: {encoding.said(error)}")
            return
        self._write(model.Property(subject=subject or self.node, key=key, value=plain, t=self._recorder.now()))

    def _write(self, *records: model.Record) -> None:
        try:
            self._recorder.write(self.scope, *records)
        except Exception as error:  # noqa: BLE001  # recording must not break the program: the disk, odd text
            self._recorder.drop(encoding.said(error))

    def dropped(self, why: str) -> None:
        """Count something that could not be recorded, and warn once."""
        self._recorder.drop(why)

    # ---- start and end -------------------------------------------------------------------------------------------

    def start(self, *, command: Sequence[str], params: Mapping[str, Any], parent: str, author: str) -> None:
        """Record the birth and that it is running: `run` has done so for every run it returns."""
        recorder = self._recorder
        if self._first or self._inherits is not None:
            self._birth = model.Execution(
                id=self.id,
                name=self.name,
                command=describing.words(command),
                started=recorder.now(),
                params=self._kept_params(params),
                parent=parent,
                author=author,
            )
        if self._first and self._birth is not None:
            self._write(self._birth)
        self._property(f"status/{self.attempt}/{self.rank}", {"status": "running"})
        recorder.started(self)
        self._description.start(command)
        if (shell := notebook.here()) is not None:
            shell.after_each(lambda: self._keep_cells(shell))
            self.before_end.append(lambda: self._keep_cells(shell))

    def _kept_params(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters as values, or the object that holds them if they are large."""
        values: dict[str, Any] = self._recorder.redactor.value(encoding.to_value(dict(params)))
        data = encoding.encode(values)
        if len(data) <= PARAMS_BYTES_MAX and all(len(name) <= model.TEXT_CHARS_MAX for name in values):
            return values
        try:
            return {"$object": self._recorder.keep(data)}
        except (OSError, CmfError) as error:
            self._recorder.drop(f"parameters of {len(data)} bytes: {error}")
            return {}

    def finish(
        self,
        status: str = "finished",
        *,
        exit: int | None = 0,
        signal: int | None = None,
        error: Mapping[str, Any] | None = None,
    ) -> None:
        """End the run; when this returns, all of it survives power loss. Ending it again changes nothing."""
        if self.settle():
            self._end(status, exit, signal, error)
            self._recorder.ended(self)

    def settle(self) -> bool:
        """Hand over everything but how the run ended; return whether that is for this process to say, and open."""
        is_own = self._pid == os.getpid()
        if is_own and not self.finished:
            while self.before_end:
                self.before_end.pop()()
            self._description.record()
        self.flush()
        return is_own and not self.finished

    def _end(self, status: str, exit: int | None, signal: int | None, error: Mapping[str, Any] | None) -> None:
        self.finished = True
        if error:
            self._recorder.tell(f"error {self.node}", encoding.encode(error).decode())
        # Rank 0 may never have come: an execution without a birth would not be listed.
        if self._birth is not None and self._inherits is not None and self._inherits():
            self._write(self._birth)
        t = self._recorder.now()
        value = {"status": status, "ended": t, "exit": exit, "signal": signal, "error": error}
        value = {key: found for key, found in value.items() if found is not None}
        # Written as it is, not as a value of the program's: its traceback names an object.
        ended = model.Property(subject=self.node, key=f"status/{self.attempt}/{self.rank}", value=value, t=t)
        try:
            self._recorder.write(self.scope, ended)
        except Exception:  # noqa: BLE001  # the disk: tried again, since a run that has no end reads as lost
            self._recorder.write_late(self.scope, ended)

    def killed(self, number: int) -> None:
        """Record that a signal ends the process, without waiting for the disk: what a recorder does."""
        self.flush()
        if self._pid == os.getpid() and not self.finished:
            self._end("killed", 128 + number, number, None)
            self._description.record()

    def fail(self, error: BaseException) -> None:
        """End the run as what an exception says: failed, killed by ctrl-C, or what `sys.exit` was given."""
        if isinstance(error, SystemExit):
            # A parent sees the code modulo 256.
            code = error.code & 0xFF if isinstance(error.code, int) else 0 if error.code is None else 1
            self.finish("failed" if code else "finished", exit=code)
            return
        said: dict[str, Any] = {"type": type(error).__name__, "message": encoding.said(error)}
        try:
            text = self._recorder.redactor.text("".join(traceback.format_exception(error)))
            said["traceback"] = {"$object": self._recorder.keep(text.encode("utf-8", "backslashreplace"))}
        except Exception as problem:  # noqa: BLE001  # the disk, or an exception that cannot be shown
            self._recorder.drop(f"traceback: {encoding.said(problem)}")
        if isinstance(error, KeyboardInterrupt):
            self.finish("killed", exit=130, signal=2, error=said)
        else:
            self.finish("failed", exit=1, error=said)

    def forked(self) -> None:
        """Drop the rows that the parent will write: called in a forked child, where the run stays the parent's."""
        self._points, self._written = {}, {}
        # Its rows are a line of their own beside the parent's, which goes on counting its own.
        self.rank = os.getpid()
        self.buffers(is_sure=False)

    def buffers(self, *, is_sure: bool) -> None:
        """Say whether rows are sure to be flushed before this process ends; if not, each is written when it is logged.

        A forked child mostly ends by `os._exit`, of which nothing here hears.
        """
        self._writes_through = not is_sure


entered: ContextVar[tuple[Run, ...]] = ContextVar("entered", default=())
"""The runs whose ``with`` block, or stage, the code is in: the innermost last."""


def current() -> Run:
    """Return the run that the calling code is in: of the innermost ``with`` block or `cmf.stage`.

    Outside of them, and in a thread that was started inside, it is the one open run of this process. Raises
    `NotFoundError` if there is none, or more than one to choose from.
    """
    found = open_run()
    if found is None:
        raise NotFoundError(
            "No run is open here, or several are and none is this code's own.",
            hint="Call it inside 'with cmf.run(...):' or a function with '@cmf.stage'.",
        )
    return found


def open_run() -> Run | None:
    """Return what `current` returns, or None where it raises."""
    for run in reversed(entered.get()):
        if not run.finished:
            return run
    runs = [run for run in recorders.live() if isinstance(run, Run)]
    return runs[0] if len(runs) == 1 else None
