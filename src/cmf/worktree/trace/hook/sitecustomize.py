# ruff: noqa: INP001  # its folder is put on the path of other programs, and must hold no package
"""Notes which files a Python program opens: found through `PYTHONPATH`, it runs before the program does.

Stands alone, on nothing but what every interpreter loads; whatever goes wrong in it, the program goes on.
"""

import os
import sys
from _thread import get_ident

_VARIABLE = "CMF_TRACE"
_WRITES = os.O_WRONLY | os.O_RDWR
_RECORDS = os.O_NOCTTY | os.O_NONBLOCK
"""How the recorder itself opens files that are not its own."""


_logs: list[str] = []
_seen: set[tuple[str, bytes]] = set()
_busy: set[int] = set()
"""The threads that are noting something: what they open meanwhile is the note."""


def install(log: str) -> None:
    """Append what this process opens, moves and deletes to a file: three fields ended by NUL for each access."""
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(_hook)
    _logs.append(log)


def remove(log: str) -> None:
    """Append nothing to that file any more: the hook itself stays, as Python has it."""
    _logs.remove(log)
    _seen.difference_update([known for known in _seen if known[0] == log])


_hooked: list[bool] = []


def _text(path: object) -> bytes:
    return os.fsencode(os.path.abspath(os.fspath(path)))  # type: ignore[call-overload]  # a path, as it was opened


def _note(kind: bytes, path: object, other: object = None) -> None:
    entry = b"\0".join((kind, _text(path), b"" if other is None else _text(other))) + b"\0"
    for log in _logs:
        if kind == b"r":
            if (log, entry) in _seen:
                continue
            _seen.add((log, entry))
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, entry)
        finally:
            os.close(handle)


def _heard(event: str, values: tuple) -> None:  # type: ignore[type-arg]  # older Pythons run this
    if event == "open":
        path, _, flags = values
        if not isinstance(path, (str, bytes)) or path in _logs or flags & _RECORDS == _RECORDS:
            return
        if flags & os.O_TRUNC or flags & os.O_EXCL:
            _note(b"w", path)
        elif flags & _WRITES:
            _note(b"u", path)
        elif os.path.isfile(path):
            _note(b"r", path)
    elif event in ("sqlite3.connect", "os.truncate"):
        if isinstance(values[0], (str, bytes, os.PathLike)) and values[0] != ":memory:":
            _note(b"u", values[0])
    elif event == "os.rename":
        _note(b"m", values[0], values[1])
    elif event == "os.link":
        _note(b"w", values[1])
    elif event == "os.remove":
        _note(b"d", values[0])


def _hook(event: str, values: tuple) -> None:  # type: ignore[type-arg]  # older Pythons run this
    if event not in _EVENTS or not _logs or (thread := get_ident()) in _busy:
        return
    _busy.add(thread)
    try:
        _heard(event, values)
    except Exception:  # noqa: BLE001, S110  # the program's own call goes on
        pass
    finally:
        _busy.discard(thread)


_EVENTS = frozenset(("open", "sqlite3.connect", "os.truncate", "os.rename", "os.link", "os.remove"))


def _start() -> None:
    logs = os.environ.get(_VARIABLE, "")  # noqa: TID251  # in the program, without the package
    for log in filter(None, logs.split(os.pathsep)):
        install(log)
    # The site's own `sitecustomize`, which this one stands before.
    here = os.path.dirname(os.path.abspath(__file__))
    rest = [path for path in sys.path if os.path.abspath(path) != here]
    sys.path[:] = rest
    from importlib.machinery import PathFinder

    spec = PathFinder.find_spec("sitecustomize", rest)
    if spec is not None and spec.loader is not None:
        from importlib.util import module_from_spec

        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


if __name__ == "sitecustomize":
    _start()
