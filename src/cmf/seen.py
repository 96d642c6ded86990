"""Parameters that a program's own framework holds: argparse, click, omegaconf and hydra.

Nothing is patched and nothing is imported: when a run starts, what is there is looked at. That is the local and global
variables of the functions that called for the run, the contexts that click has open, and hydra's overrides.
"""

from __future__ import annotations

import enum
import functools
import os
import sys
import sysconfig
import types
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any

from cmf.redaction import MASK
from cmf.worktree import loaded

FRAMES_MAX = 64
NAMES_MAX = 1000
ITEMS_MAX = 1000
_MISSING = "???"
_NO = object()


def parameters() -> dict[str, Any]:
    """Return the parameters that are seen from where a run is started, plain values by name; an inner one wins.

    Nested ones are named with dots. What is no plain value (number, text, path, list, dict) is left out, and so are
    interpolations that nobody resolved, since to resolve one may run a program's own code.
    """
    found = _of_click()
    for value in _held():
        found |= value
    found |= _of_hydra()
    return dict(list(found.items())[:NAMES_MAX])


def _held() -> list[dict[str, Any]]:
    """Return what each namespace or config holds that a calling function, or its module, has in a variable."""
    parsed = _class("argparse", "Namespace")
    config = _class("omegaconf", "DictConfig")
    if parsed is None and config is None:
        return []
    found: list[dict[str, Any]] = []
    seen: set[int] = set()
    for values in _variables():
        for value in values:
            kind = type(value)
            if id(value) in seen:
                continue
            if parsed is not None and issubclass(kind, parsed):
                seen.add(id(value))
                found.append(_flat(object.__getattribute__(value, "__dict__")))
            elif config is not None and issubclass(kind, config) and _is_root(value):
                seen.add(id(value))
                plain = sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=False)
                found.append(_interpolated(_flat(plain)))
    return found


def _is_root(config: Any) -> bool:
    """Tell whether a config is a whole one: what is a part of another is seen with it."""
    return config._get_parent() is None  # noqa: SLF001  # omegaconf has no public way to ask


@functools.cache
def _library() -> tuple[str, ...]:
    return tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})


def _class(module: str, name: str) -> type | None:
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def _variables() -> list[list[object]]:
    """Return the variables of the main module and of the calling functions, the innermost last."""
    frames: list[types.FrameType] = []
    frame: types.FrameType | None = sys._getframe()  # noqa: SLF001  # inspect asks the same, and takes long to load
    while frame is not None and len(frames) < FRAMES_MAX:
        file = frame.f_code.co_filename
        if not loaded.is_own(file) and not file.startswith((*_library(), "<frozen")):
            frames.append(frame)
        frame = frame.f_back
    main = sys.modules.get("__main__")
    # A program that a library starts, such as a test runner's, has the library's own variables in its main module.
    is_ours = main is not None and not str(getattr(main, "__file__", "")).startswith(_library())
    scopes: list[Mapping[str, object]] = [vars(main)] if main is not None and is_ours else []
    for one in reversed(frames):
        scopes += [one.f_globals, one.f_locals]
    return [list(scope.values()) for scope in {id(scope): scope for scope in scopes}.values()]


def _of_click() -> dict[str, Any]:
    current = getattr(sys.modules.get("click"), "get_current_context", None)
    context = current(silent=True) if current is not None else None
    contexts = []
    while context is not None:
        contexts.append(context)
        context = context.parent
    found: dict[str, Any] = {}
    for one in reversed(contexts):
        hidden = {option.name for option in one.command.params if getattr(option, "hide_input", False)}
        found |= _flat({name: MASK if name in hidden and value else value for name, value in one.params.items()})
    return found


def _of_hydra() -> dict[str, Any]:
    config: Any = _class("hydra.core.hydra_config", "HydraConfig")
    if config is None or not config.initialized():
        return {}
    overrides = list(config.get().overrides.task)
    return {"hydra.overrides": [str(one) for one in overrides]} if overrides else {}


def _interpolated(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config's values, those that only name another one replaced by it, as `${optim.lr}`."""
    found = {}
    for name, value in values.items():
        at = value
        for _ in range(8):
            if not (isinstance(at, str) and at.startswith("${") and at.endswith("}")):
                break
            at = values.get(at[2:-1], _NO)
        found[name] = value if at is _NO else at
    return {name: value for name, value in found.items() if value != _MISSING}


def _flat(values: Mapping[Any, Any], prefix: str = "", depth: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in _items(values):
        if type(value) is dict and value and depth < 8:
            found |= _flat(value, f"{prefix}{name}.", depth + 1)
        elif (plain := _plain(value)) is not _NO:
            found[f"{prefix}{name}"] = plain
    return found


def _items(values: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in list(values.items())[:ITEMS_MAX]:
        if isinstance(name, str | int) and not str(name).startswith("__"):
            yield str(name), value


def _plain(value: Any) -> Any:
    """Return a value if it is plain, without running code of its own; else `_NO`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if issubclass(type(value), enum.Enum):
        return str(value.name)
    if issubclass(type(value), PurePath):
        return str(value)
    if type(value) is dict and not value:
        return {}
    if type(value) in (list, tuple) and len(value) <= ITEMS_MAX:
        plain = [_plain(item) for item in value]
        return _NO if any(item is _NO for item in plain) else plain
    return _NO
