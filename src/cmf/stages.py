"""`stage`: a function whose every call is an execution.

Knows how a call, a coroutine and a generator begin and end, and which of their arguments a record can hold. Refuses to
know what a run records.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast, overload

from cmf import starting
from cmf.errors import CmfError
from cmf.model import records as model
from cmf.recording import Run, entered, open_run

P = ParamSpec("P")
R = TypeVar("R")

ITEMS_MAX = 1000
"""An argument that holds more than this is data, not a parameter."""


@overload
def stage(function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def stage(
    scope: str = "", /, *, inputs: Sequence[str] = (), outputs: Sequence[str] = (), author: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]: ...


def stage(
    scope: str | Callable[P, R] = "",
    /,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    author: str | None = None,
) -> Callable[P, R] | Callable[[Callable[P, R]], Callable[P, R]]:
    """Make every call of a function an execution: ``@cmf.stage("detector/train")``.

    Without a scope it is the folder's name and the function's. Arguments that are plain values or paths become
    parameters, defaults included. ``inputs`` and ``outputs`` name arguments that hold paths, or paths: what is there is
    recorded before the call, and after it. Inside, `cmf.current` is the run; a stage called in another one, or while a
    run is open, is its child. What the function returns, yields and raises is untouched; what it raises ends the
    execution as ``failed``. Coroutines and generators last until they end. Raises `UsageError` for a bad scope.
    """
    if callable(scope):
        return _decorated(scope, _Stage(scope, "", (), (), None))

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        return _decorated(function, _Stage(function, scope, inputs, outputs, author))

    return decorate


class _Stage:
    """What a decorated function's executions have in common."""

    def __init__(
        self,
        function: Callable[..., Any],
        scope: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        author: str | None,
    ) -> None:
        self.scope = scope or model.slug(getattr(function, "__name__", "")) or "main"
        if "/" in self.scope:
            model.check_scope(self.scope)
        self.inputs = (inputs,) if isinstance(inputs, str) else tuple(inputs)
        self.outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        self.author = author
        self.signature = inspect.signature(function)

    @contextlib.contextmanager
    def call(self, given: Sequence[Any], named: Mapping[str, Any]) -> Iterator[Run]:
        """Record one call, as far as its beginning and its end: what is inside is not the current run yet."""
        arguments = self._arguments(given, named)
        params = {name: plain for name, value in arguments.items() if (plain := _plain(value)) is not _NO_PARAM}
        made = starting.run(self.scope, params=params, parent=open_run(), author=self.author)
        _files(made, made.input, self.inputs, arguments)
        try:
            yield made
        except GeneratorExit:
            made.finish()  # whoever asked had enough, which is no failure
            raise
        except BaseException as error:  # recorded whatever it is, and raised on
            made.fail(error)
            raise
        _files(made, made.output, self.outputs, arguments)
        made.finish()

    def _arguments(self, given: Sequence[Any], named: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a call hands over, by the function's own names."""
        try:
            bound = self.signature.bind(*given, **named)
        except TypeError:
            return {}  # the call itself is about to say so
        bound.apply_defaults()
        arguments: dict[str, Any] = {}
        for name, value in bound.arguments.items():
            if self.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                arguments |= value
            else:
                arguments[name] = value
        return arguments


def _decorated(function: Callable[P, R], its: _Stage) -> Callable[P, R]:
    """Return the function's stand-in, of the same kind: what inspects or pickles it sees the function."""
    made: Callable[..., Any]
    if inspect.iscoroutinefunction(function):

        async def made(*args: Any, **kwargs: Any) -> Any:
            with its.call(args, kwargs) as run, _inside(run):
                return await function(*args, **kwargs)

    elif inspect.isasyncgenfunction(function):

        async def made(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
            with its.call(args, kwargs) as run:
                inner: AsyncGenerator[Any, Any] = function(*args, **kwargs)
                step, value = inner.asend, cast("Any", None)
                while True:
                    try:
                        with _inside(run):
                            item = await step(value)
                    except StopAsyncIteration:
                        return
                    try:
                        step, value = inner.asend, (yield item)
                    except GeneratorExit:
                        await inner.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001  # thrown in from outside: it is the function's
                        step, value = inner.athrow, error

    elif inspect.isgeneratorfunction(function):

        def made(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            with its.call(args, kwargs) as run:
                inner: Generator[Any, Any, Any] = function(*args, **kwargs)
                step, value = inner.send, cast("Any", None)
                while True:
                    try:
                        with _inside(run):
                            item = step(value)
                    except StopIteration as stop:
                        return stop.value
                    try:
                        step, value = inner.send, (yield item)
                    except GeneratorExit:
                        inner.close()
                        raise
                    except BaseException as error:  # noqa: BLE001  # thrown in from outside: it is the function's
                        step, value = inner.throw, error

    else:

        def made(*args: Any, **kwargs: Any) -> Any:
            with its.call(args, kwargs) as run, _inside(run):
                return function(*args, **kwargs)

    return cast("Callable[P, R]", functools.wraps(function)(made))


@contextlib.contextmanager
def _inside(run: Run) -> Iterator[None]:
    """Make a run the current one; between two items of a generator its consumer's is current again."""
    entered.set((*entered.get(), run))
    try:
        yield
    finally:
        entered.set(tuple(other for other in entered.get() if other is not run))


def _files(run: Run, record: Callable[..., Any], wanted: Sequence[str], arguments: Mapping[str, Any]) -> None:
    """Record the files that arguments name, or the paths themselves; what isn't there is counted, never raised."""
    for name in wanted:
        found = arguments.get(name, name)
        role = name if name in arguments and len(name) <= model.TEXT_CHARS_MAX else ""
        for path in found if isinstance(found, list | tuple) else [found]:
            if path is None:
                continue
            try:
                record(os.fspath(path), role=role)
            except (CmfError, TypeError, ValueError) as error:
                run.dropped(f"{record.__name__} {name}: {error}")


_NO_PARAM = object()


def _plain(value: Any, depth: int = 0) -> Any:
    """Return a value as a parameter, or `_NO_PARAM` for what is none: data, objects, functions."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return path if isinstance(path, str) else _NO_PARAM
    if isinstance(value, list | tuple | Mapping):
        if depth > 4 or len(value) > ITEMS_MAX:
            return _NO_PARAM
        if isinstance(value, Mapping):
            kept: Any = {key: _plain(item, depth + 1) for key, item in value.items() if isinstance(key, str)}
            return (
                kept if len(kept) == len(value) and all(item is not _NO_PARAM for item in kept.values()) else _NO_PARAM
            )
        items = [_plain(item, depth + 1) for item in value]
        return _NO_PARAM if any(item is _NO_PARAM for item in items) else items
    numpy = sys.modules.get("numpy")  # a scalar of its can only be here if it was imported
    return value if numpy is not None and isinstance(value, numpy.generic) else _NO_PARAM
