# ruff: noqa: INP001  # its folder is put on the path of other programs, and must hold no package
"""Notes which files a Python program opens: found through `PYTHONPATH`, it runs before the program does.

Stands alone, on nothing but what every interpreter loads; whatever goes wrong in it, the program goes on.
"""

import os
import sys

_VARIABLE = "CMF_TRACE"
_WRITES = os.O_WRONLY | os.O_RDWR
_LOOKS = os.O_NOFOLLOW | os.O_NONBLOCK
"""How the recorder opens files of the work tree that it only looks at."""


def install(log: str) -> None:
    """Append what this process opens, moves and deletes to a file: three fields ended by NUL for each access."""
    seen = set()
    busy: list[str] = []

    def text(path: object) -> bytes:
        return os.fsencode(os.path.abspath(os.fspath(path)))  # type: ignore[call-overload]

    def note(kind: bytes, path: object, other: object = None) -> None:
        entry = b"\0".join((kind, text(path), b"" if other is None else text(other))) + b"\0"
        if kind == b"r":
            if entry in seen:
                return
            seen.add(entry)
        handle = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(handle, entry)
        finally:
            os.close(handle)

    def heard(event: str, values: tuple) -> None:  # type: ignore[type-arg]
        if event == "open":
            path, _, flags = values
            if not isinstance(path, (str, bytes)) or path == log or flags & _LOOKS == _LOOKS:
                return
            if flags & os.O_TRUNC or flags & os.O_EXCL:
                note(b"w", path)
            elif flags & _WRITES:
                note(b"u", path)
            elif os.path.isfile(path):
                note(b"r", path)
        elif event in ("sqlite3.connect", "os.truncate"):
            if isinstance(values[0], (str, bytes, os.PathLike)) and values[0] != ":memory:":
                note(b"u", values[0])
        elif event == "os.rename":
            note(b"m", values[0], values[1])
        elif event == "os.link":
            note(b"w", values[1])
        elif event == "os.remove":
            note(b"d", values[0])

    def hook(event: str, values: tuple) -> None:  # type: ignore[type-arg]
        if event not in _EVENTS or busy:
            return
        busy.append(event)
        try:
            heard(event, values)
        except Exception:  # noqa: BLE001, S110  # the program's own call goes on
            pass
        finally:
            busy.pop()

    sys.addaudithook(hook)


_EVENTS = frozenset(("open", "sqlite3.connect", "os.truncate", "os.rename", "os.link", "os.remove"))


def _start() -> None:
    log = os.environ.get(_VARIABLE)  # noqa: TID251  # in the program, without the package
    if log:
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
