"""One fit of any framework, as what is recorded of it. Knows runs; refuses to know a framework."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from cmf import starting
from cmf.recorder import CmfWarning
from cmf.recording import Run, open_run

TEXT_CHARS_MAX = 500
COLUMNS_MAX = 200


class Patches:
    """What was replaced, so that it can be put back."""

    def __init__(self) -> None:
        self._undo: list[tuple[Any, str, Any, Any]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Replace an attribute of a module, class or object; `undo` restores it, or removes it if it was new."""
        self._undo.append((owner, name, vars(owner).get(name, _ABSENT), value))
        setattr(owner, name, value)

    def undo(self) -> None:
        """Put back everything, newest first, but for what someone else has replaced since."""
        while self._undo:
            owner, name, before, ours = self._undo.pop()
            if vars(owner).get(name) is not ours:
                continue
            if before is _ABSENT:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


_ABSENT = object()
patches = Patches()
_state: dict[str, Any] = {"pid": 0, "models": True}
_training = threading.Lock()


def start(*, models: bool) -> None:
    """Record fits of this process from here on."""
    _state.update(pid=os.getpid(), models=models)


def stop() -> None:
    """Record no fit any more, and restore the frameworks."""
    _state["pid"] = 0
    patches.undo()


def is_active() -> bool:
    """Tell whether this process records; a forked worker's fits are a part of its parent's."""
    return bool(_state["pid"] == os.getpid())


class Fit:
    """The fit that is being recorded. No method raises for what cannot be recorded."""

    def __init__(self, run: Run, *, owns: bool) -> None:
        self.run = run
        self.owns = owns

    def params(self, values: Mapping[str, Any]) -> None:
        """Record parameters as plain values: long ones cut, objects as the text that they show."""
        for name, value in values.items():
            self.run.set(f"param/{name}", _plain(value))

    def data(self, name: str, value: Any) -> None:
        """Record the shape, type and columns of some data as ``data/NAME``; never reads it."""
        columns = getattr(value, "columns", None)
        dtypes = getattr(value, "dtypes", None)
        found = {
            "type": type(value).__name__,
            "shape": [int(size) for size in value.shape] if hasattr(value, "shape") else [len(value)],
            "dtype": str(value.dtype) if hasattr(value, "dtype") else None,
            "columns": [str(column) for column in columns][:COLUMNS_MAX] if columns is not None else None,
            "dtypes": [str(dtype) for dtype in dtypes][:COLUMNS_MAX]
            if dtypes is not None and columns is not None
            else None,
        }
        self.run.set(f"data/{name}", {key: one for key, one in found.items() if one is not None})

    def model(self, name: str, dump: Callable[[], bytes], **attributes: Any) -> None:
        """Record a trained model's bytes as an output of type ``model``, unless `autolog` was told not to."""
        if _state["models"]:
            self.run.output_bytes(dump(), type="model", role=name, name=name, **attributes)

    def safely(self, act: Callable[..., Any], *args: Any) -> Any:
        """Do something for the record; what goes wrong is counted."""
        try:
            return act(self, *args)
        except Exception as error:  # noqa: BLE001  # a framework's objects may raise anything
            self.run.dropped(f"autolog: {type(error).__name__}: {str(error)[:TEXT_CHARS_MAX]}")
            return None


def record(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    begin: Callable[..., dict[str, Any] | None],
    end: Callable[..., None],
) -> Any:
    """Call a framework's function and record it, if no other fit is being recorded.

    ``begin(fit, args, kwargs)`` may return arguments to call it with instead; ``end(fit, args, result)`` follows a call
    that did not raise. A fit in another thread meanwhile is taken for a part of the one that is recorded.
    """
    if not is_active() or not _training.acquire(blocking=False):
        return function(*args, **kwargs)
    try:
        fit = _begun()
        if fit is None:
            return function(*args, **kwargs)
        kwargs = fit.safely(begin, args, kwargs) or kwargs
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # recorded whatever it is, and raised on
            if fit.owns:
                fit.run.fail(error)
            raise
        fit.safely(end, args, result)
        if fit.owns:
            fit.run.finish()
        return result
    finally:
        _training.release()


def recorded(
    function: Callable[..., Any],
    begin: Callable[..., dict[str, Any] | None],
    end: Callable[..., None],
    *,
    not_from: tuple[str, ...] = (),
    by_name: bool = False,
) -> Callable[..., Any]:
    """Return a function's stand-in, whose calls are recorded but for those that the packages ``not_from`` make.

    ``by_name``: what a call gives by position is handed on by name, so that ``begin`` finds and changes it there.
    """
    names = list(inspect.signature(function).parameters) if by_name else []

    @functools.wraps(function)
    def stand_in(*args: Any, **kwargs: Any) -> Any:
        # Imported here, so that a worker that gets this by value has its own state.
        from cmf.integrations.fitting import record as act

        # Who calls, from the frame itself: `inspect` reads files for it.
        if not_from and sys._getframe(1).f_globals.get("__name__", "").partition(".")[0] in not_from:  # noqa: SLF001
            return function(*args, **kwargs)
        if args and len(args) <= len(names) and kwargs.keys().isdisjoint(given := names[: len(args)]):
            args, kwargs = (), {**dict(zip(given, args, strict=True)), **kwargs}
        return act(function, args, kwargs, begin=begin, end=end)

    return stand_in


def _begun() -> Fit | None:
    try:
        run = open_run()
        return Fit(run, owns=False) if run is not None else Fit(starting.run(), owns=True)
    except Exception as error:  # noqa: BLE001  # no run can be made here: the program trains on
        warnings.warn(f"cmf: a fit is not recorded: {error}", CmfWarning, stacklevel=5)
        return None


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, list | tuple) and len(value) <= COLUMNS_MAX:
        return [_plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return value.item()
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= TEXT_CHARS_MAX else text[: TEXT_CHARS_MAX - 1] + "…"
